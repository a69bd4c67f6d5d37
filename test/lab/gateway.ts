/**
 * A gateway without its control plane, for tests and measurements: the data plane on the real machine, in a process of
 * its own, with mappings that are given or drawn without asking anybody.
 *
 * Whoever uses it is a bundle that calls `runGateway` first of all: in the thread it runs the forwarder, with
 * `--gateway JSON` it is the gateway itself, which prints a line of JSON when it works and answers commands, a line
 * each, on standard input: "counts", "die" (the thread), "list A,B" (peers), "memory", "close".
 */

import type { ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { isMainThread } from "node:worker_threads";
import {
  deviceMtuBytes,
  type ForwardingOptions,
  forwardingProgram,
  openForwarding,
} from "../../src/ipref/forwarding.ts";
import type { ForwardSettings } from "../../src/ipref/settings.ts";
import { State, TableWriter } from "../../src/ipref/table.ts";
import { forwardPackets } from "../../src/ipref/thread.ts";
import { raiseTunnel } from "../../src/kernel/tunnel.ts";
import { type Address, encodeAddress, familyOf, type Prefix, parseAddress } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { WorkerMachine } from "../../src/system/packets.ts";
import type { System, WorkerThread } from "../../src/system/system.ts";
import { runWorker, type WorkerProgram } from "../../src/system/workers.ts";

/** References are hexadecimal. */
export interface GatewayPlan {
  readonly nativePath: string;
  readonly encodeNet: string;
  readonly ownEncoded: string;
  readonly public: string;
  readonly ours: readonly { readonly address: string; readonly reference: string }[];
  readonly theirs: readonly {
    readonly address: string;
    readonly context: string;
    readonly reference: string;
  }[];
  /** Context addresses that may make mappings; "all". */
  readonly peers: readonly string[] | "all";
  /** How many mappings may be drawn; after that they are refused. */
  readonly drawn?: number;
  readonly tunnelMtuBytes?: number;
  /** Of the interface. Default "ipref0". */
  readonly device?: string;
}

/** @returns true if this process, or thread, was a gateway's: then the caller has nothing to do. */
export function runGateway(): boolean {
  if (!isMainThread) {
    runWorker({ [forwardingProgram]: mortal });
    return true;
  }
  const at = process.argv.indexOf("--gateway");
  if (at < 0) return false;
  void serve(JSON.parse(process.argv[at + 1]!) as GatewayPlan);
  return true;
}

/** A forwarder that dies when it is told to. */
const mortal: WorkerProgram = (machine) =>
  forwardPackets(
    Object.create(machine, {
      take: {
        value() {
          const message = machine.take();
          if (message === "die") throw new Error("Cannot go on: told to die");
          return message;
        },
      },
    }) as WorkerMachine,
  );

const left = (bytes: Uint8Array): Uint8Array => {
  const padded = new Uint8Array(16);
  padded.set(bytes);
  return padded;
};
const bytesOf = (address: string) => encodeAddress(parseAddress(address)!);

function referenceBytes(text: string): Uint8Array {
  const hex = text.padStart(32, "0");
  return Uint8Array.from({ length: 16 }, (_, index) =>
    Number.parseInt(hex.slice(index * 2, index * 2 + 2), 16),
  );
}

/** Mappings in the table that the thread reads, drawn as asked. */
class Fixed implements Pick<ForwardingOptions, "mappings"> {
  readonly mappings: ForwardingOptions["mappings"];
  readonly table: TableWriter;
  #left: number;

  constructor(plan: GatewayPlan, families: { lan: 4 | 6; tunnel: 4 | 6 }) {
    const { lan, tunnel } = families;
    const random = (length: number) => crypto.getRandomValues(new Uint8Array(length));
    this.table = new TableWriter({ capacity: 4096, lan, tunnel, random });
    const context = left(bytesOf(plan.public));
    const add = (
      keys: { address: Uint8Array; context: Uint8Array; reference: Uint8Array },
      state: number,
    ) => {
      const record = this.table.add(keys, state);
      this.table.show(record, State.byAddress | State.byReference);
    };
    for (const each of plan.ours) {
      add(
        { address: left(bytesOf(each.address)), context, reference: referenceBytes(each.reference) },
        State.ours,
      );
    }
    for (const each of plan.theirs) {
      const keys = {
        address: left(bytesOf(each.address)),
        context: left(bytesOf(each.context)),
        reference: referenceBytes(each.reference),
      };
      add(keys, 0);
    }
    this.#left = plan.drawn ?? 1024;
    const base = bytesOf(plan.ownEncoded);
    let next = 0;
    this.mappings = {
      openReader: () => this.table.open(),
      closeReader: (reader) => this.table.close(reader),
      referenceFor: async (address: Address) => {
        if (this.#left-- <= 0) throw new Fault("limit", "Cannot draw a reference: too many");
        const reference = referenceBytes(`d0223f68ee5a3${(0x1000 + next++).toString(16)}`);
        add({ address: left(encodeAddress(address)), context, reference }, State.ours);
        return 0n;
      },
      encodedFor: async (remote: Address, reference: bigint) => {
        if (this.#left-- <= 0) throw new Fault("limit", "Cannot draw an address: too many");
        const address = left(base);
        address[base.length - 2] = 0x80 | ((next >> 8) & 0x7f);
        address[base.length - 1] = next++ & 255;
        const keys = {
          address,
          context: left(encodeAddress(remote)),
          reference: referenceBytes(reference.toString(16)),
        };
        add(keys, 0);
        return plan.ownEncoded as Address;
      },
    };
  }
}

async function serve(plan: GatewayPlan): Promise<void> {
  const system = openLinux({
    nativePath: plan.nativePath,
    program: process.argv[1]!,
    log: (level, line) => process.stderr.write(`${level}: ${line}\n`),
  });
  const own = parseAddress(plan.ownEncoded)!;
  const context = parseAddress(plan.public)!;
  const families = { lan: familyOf(own), tunnel: familyOf(context) };
  const [base, length] = plan.encodeNet.split("/") as [string, string];
  const settings: ForwardSettings = {
    lanFamily: families.lan,
    tunnelFamily: families.tunnel,
    encodeNet: { bytes: bytesOf(base), length: Number(length) },
    ownEncoded: encodeAddress(own),
    ownContext: encodeAddress(context),
    ownReference: referenceBytes("1"),
    decrementTtl: false,
    tunnelMtuBytes: plan.tunnelMtuBytes ?? 1500,
    lanMtuBytes: 1500,
    clampMss: true,
    admitRouter: false,
    forbidden: [],
    firstId: 1,
  };
  const { mappings } = new Fixed(plan, families);
  let thread: WorkerThread | undefined;
  const watched: System = {
    ...system,
    worker: (how, handlers) => {
      thread = system.worker(how, handlers);
      return thread;
    },
  };
  const forwarding = await openForwarding(watched, {
    settings,
    mappings,
    device: plan.device ?? "ipref0",
    bind: context,
    port: 1045,
    peerPort: 1045,
    peers: plan.peers as readonly Address[] | "all",
    onDevice: async (device) => {
      await raiseTunnel(system, {
        ...{ device, address: own, net: plan.encodeNet as Prefix, protocol: 97 },
        mtuBytes: deviceMtuBytes(settings),
      });
    },
    onFault: (fault) => say({ fault: fault.message }),
  });
  const say = (what: unknown) => process.stdout.write(`${JSON.stringify(what)}\n`);
  createInterface({ input: process.stdin }).on("line", (line) => {
    const [word, rest] = line.split(" ");
    if (word === "counts") say({ ...forwarding.counts.all(), restarts: forwarding.restarts });
    else if (word === "memory") say({ residentBytes: process.memoryUsage.rss() });
    else if (word === "list") {
      forwarding.list(rest === "all" ? "all" : (rest!.split(",") as Address[]));
      say({});
    } else if (word === "die") {
      thread?.post("die");
      say({});
    } else if (word === "close") void forwarding.close().then(() => process.exit(0));
  });
  say({ ready: true, pid: process.pid });
}

export interface GatewayCounts {
  readonly counts: Readonly<Record<string, number>>;
  readonly dropsOut: Readonly<Record<string, number>>;
  readonly dropsIn: Readonly<Record<string, number>>;
  readonly restarts: number;
}

/** The handle of a gateway that another process started with `--gateway`, its standard streams piped. */
export class GatewayProcess {
  readonly child: ChildProcess;
  readonly faults: string[] = [];
  readonly #lines: ((value: Record<string, unknown>) => void)[] = [];
  readonly #ready: Promise<unknown>;

  constructor(child: ChildProcess) {
    this.child = child;
    createInterface({ input: child.stdout! }).on("line", (line) => {
      const said = JSON.parse(line) as Record<string, unknown>;
      if (typeof said.fault === "string") this.faults.push(said.fault);
      else this.#lines.shift()?.(said);
    });
    this.#ready = this.#next();
  }

  async ready(): Promise<void> {
    await Promise.race([
      this.#ready,
      new Promise((_, reject) =>
        this.child.once("exit", () => reject(new Error("Cannot start the gateway: it ended"))),
      ),
    ]);
  }

  async counts(): Promise<GatewayCounts> {
    return (await this.#ask("counts")) as unknown as GatewayCounts;
  }

  async list(peers: readonly string[] | "all"): Promise<void> {
    await this.#ask(`list ${peers === "all" ? "all" : peers.join(",")}`);
  }

  /** The thread dies. */
  async die(): Promise<void> {
    await this.#ask("die");
  }

  async residentBytes(): Promise<number> {
    return (await this.#ask("memory")).residentBytes as number;
  }

  #ask(line: string): Promise<Record<string, unknown>> {
    const answer = this.#next();
    this.child.stdin!.write(`${line}\n`);
    return answer;
  }

  #next(): Promise<Record<string, unknown>> {
    return new Promise((resolve) => this.#lines.push(resolve));
  }
}
