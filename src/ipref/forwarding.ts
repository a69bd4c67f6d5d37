/**
 * The owner's side of the data plane: opens the queues, keeps a thread at work on them, and answers what it asks.
 *
 * Keeps the TUN and the socket over deaths of the thread, what it counted and what it knew of gateways. A thread that dies is told as a fault
 * and followed by another, at once the first time, then after pauses that double up to ten seconds. A TUN that
 * somebody removed is opened anew. Questions go to the mappings, which judge; each is answered once, whatever comes of
 * it, since the thread asks no more than a number of them at a time.
 */

import { type Address, decodeAddress, encodeAddress, type Family } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { decodeReference } from "../lib/reference.ts";
import type { Cancel, Clock, PacketQueue, Threads, WorkerThread } from "../system/system.ts";
import type { ThreadData, ToOwner, ToThread, Wanted } from "./asking.ts";
import { Counts } from "./counts.ts";
import { type GatewayCounts, type GatewaysMemory, gatewaysMemory } from "./gateways.ts";
import { outerBytes } from "./header.ts";
import type { Mappings } from "./mappings.ts";
import type { ForwardSettings } from "./settings.ts";

export interface ForwardingOptions {
  readonly settings: ForwardSettings;
  /** Of the interface; "%d" becomes a free number. */
  readonly device: string;
  /** Where the socket is bound: our own address, or "0.0.0.0" or "::". */
  readonly bind: Address;
  readonly port: number;
  /** Of peers that were not heard yet. */
  readonly peerPort: number;
  /** Context addresses of gateways that may make mappings by sending to us; "all": any. */
  readonly peers: readonly Address[] | "all";
  /** What is known of gateways already. Default: nothing. */
  readonly gateways?: GatewaysMemory;
  readonly mappings: Pick<Mappings, "openReader" | "closeReader" | "encodedFor" | "referenceFor">;
  /** The interface is there (again): it needs its addresses and routes. Packets move when it resolves. */
  onDevice?(name: string): Promise<void>;
  onFault?(fault: Fault): void;
}

const firstPauseMs = 100;
const longestPauseMs = 10_000;
/** A thread that has lived so long died of something else. */
const healthyMs = 60_000;

/** The program's name in the list that the door gives to `runWorker`. */
export const forwardingProgram = "ipref";

/** The fixed part of a tunnel header and the shortest references; IP on the LAN. */
const fixedBytes = 4 + 2 * 4;
const contextBytes = { 4: 4, 6: 16 } as const;
const innerBytes = { 4: 20, 6: 40 } as const;

/**
 * MTU of the interface: the longest packet that passes with the shortest references. What a longer pair leaves less
 * room for is told to its hosts one by one, with the exact number.
 */
export function deviceMtuBytes(settings: ForwardSettings): number {
  const { tunnelFamily, lanFamily, tunnelMtuBytes } = settings;
  const head = outerBytes[tunnelFamily] + fixedBytes + 2 * contextBytes[tunnelFamily];
  return tunnelMtuBytes - head + innerBytes[lanFamily];
}

/** Opens the queues and starts. @throws Fault "conflict" if device or port are taken, or as the kernel says. */
export async function openForwarding(
  system: Threads & Clock,
  options: ForwardingOptions,
): Promise<Forwarding> {
  const forwarding = new Forwarding(system, options);
  await forwarding.start();
  return forwarding;
}

export class Forwarding {
  readonly counts: Counts;
  readonly #memory = Counts.memory();
  readonly #gateways: GatewaysMemory;
  readonly #system: Threads & Clock;
  readonly #options: ForwardingOptions;
  #peers: readonly Address[] | "all";
  #tun: PacketQueue | undefined;
  #wire: PacketQueue | undefined;
  #thread: WorkerThread | undefined;
  #pauseMs = 0;
  #startedAt = 0;
  #restarts = 0;
  #cancel: Cancel | undefined;
  /** Who waits for what passed. */
  readonly #curious: ((gateways: readonly GatewayCounts[]) => void)[] = [];
  #closed = false;

  /** Use `openForwarding`. */
  constructor(system: Threads & Clock, options: ForwardingOptions) {
    this.#system = system;
    this.#options = options;
    this.#peers = options.peers;
    const { tunnelFamily, firstId } = options.settings;
    this.#gateways = options.gateways ?? gatewaysMemory(tunnelFamily, firstId);
    this.counts = new Counts(this.#memory);
  }

  /** The interface's name. */
  get device(): string {
    return this.#tun?.name ?? "";
  }

  /** The socket's port. */
  get port(): number {
    return this.#wire?.port ?? 0;
  }

  /** Whether a thread moves packets now. */
  get running(): boolean {
    return this.#thread !== undefined;
  }

  /** How many threads have died. */
  get restarts(): number {
    return this.#restarts;
  }

  /** Only once, by `openForwarding`. */
  async start(): Promise<void> {
    try {
      const { bind: address, port } = this.#options;
      this.#wire = this.#system.queue({ kind: "gateway", address, port });
      await this.#openTun();
      this.#run();
    } catch (thrown) {
      await this.close();
      throw thrown;
    }
  }

  /** Who may make mappings from now on. */
  list(peers: readonly Address[] | "all"): void {
    this.#peers = peers;
    this.#tell({ kind: "list", contexts: contextsOf(peers) });
  }

  /** What passed from and to each gateway since the thread knows it; nothing while there is none. */
  passed(): Promise<readonly GatewayCounts[]> {
    return new Promise((resolve) => {
      if (!this.#thread) return resolve([]);
      this.#curious.push(resolve);
      if (this.#curious.length === 1) this.#tell({ kind: "count" });
    });
  }

  /** Ends the thread, and the interface with it. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#cancel?.();
    await this.#thread?.close();
    this.#tun?.close();
    this.#wire?.close();
  }

  async #openTun(): Promise<void> {
    this.#tun?.close();
    this.#tun = undefined;
    const tun = this.#system.queue({ kind: "tun", name: this.#options.device });
    this.#tun = tun;
    await this.#options.onDevice?.(tun.name);
  }

  #run(): void {
    const { settings, mappings, peerPort } = this.#options;
    const table = mappings.openReader();
    const data: ThreadData = {
      ...{ settings, table, port: peerPort, counts: this.#memory, contexts: contextsOf(this.#peers) },
      gateways: this.#gateways,
      joinsUdp: this.#tun!.joinsUdp,
    };
    let isGone = false;
    try {
      this.#startedAt = this.#system.now();
      const queues = [this.#tun!, this.#wire!];
      this.#thread = this.#system.worker(
        { program: forwardingProgram, data, queues },
        {
          onMessage: (message) => {
            const said = message as ToOwner;
            if (said.kind === "ask") void this.#answer(said.key, said.wanted);
            else if (said.kind === "gone") isGone = true;
            else if (said.kind === "passed") this.#counted(said.gateways);
          },
          onEnd: (fault) => {
            this.#thread = undefined;
            this.#counted([]);
            mappings.closeReader(table.reader);
            if (fault && !this.#closed) this.#died(fault, isGone);
          },
        },
      );
    } catch (thrown) {
      mappings.closeReader(table.reader);
      throw thrown;
    }
  }

  #counted(gateways: readonly GatewayCounts[]): void {
    for (const resolve of this.#curious.splice(0)) resolve(gateways);
  }

  #died(fault: Fault, isGone: boolean): void {
    this.#restarts++;
    this.#options.onFault?.(fault);
    if (this.#system.now() - this.#startedAt > healthyMs) this.#pauseMs = 0;
    const pauseMs = this.#pauseMs;
    this.#pauseMs = Math.min(longestPauseMs, Math.max(firstPauseMs, pauseMs * 2));
    this.#cancel = this.#system.after(pauseMs, () => void this.#again(isGone));
  }

  async #again(isGone: boolean): Promise<void> {
    try {
      if (isGone || this.#tun === undefined) await this.#openTun();
      if (this.#closed) this.#tun?.close();
      else this.#run();
    } catch (thrown) {
      if (this.#closed) return;
      this.#died(
        thrown instanceof Fault ? thrown : new Fault("kernel", "Cannot forward packets", { cause: thrown }),
        isGone,
      );
    }
  }

  async #answer(key: string, wanted: Wanted): Promise<void> {
    const { mappings, settings } = this.#options;
    let found = false;
    try {
      if (wanted.kind === "ours") {
        await mappings.referenceFor(addressIn(wanted.address, settings.lanFamily));
      } else {
        const context = addressIn(wanted.context, settings.tunnelFamily);
        await mappings.encodedFor(context, decodeReference(wanted.reference), "packet");
      }
      found = true;
    } catch (thrown) {
      // A refusal is an outcome; anything else is nobody's but ours to hear.
      if (!(thrown instanceof Fault)) {
        this.#options.onFault?.(new Fault("kernel", "Cannot make a mapping", { cause: thrown }));
      }
    }
    this.#tell({ kind: "answer", key, found });
  }

  #tell(message: ToThread): void {
    this.#thread?.post(message);
  }
}

function addressIn(bytes: Uint8Array, family: Family): Address {
  return decodeAddress(bytes, 0, family);
}

function contextsOf(peers: readonly Address[] | "all"): readonly Uint8Array[] | "all" {
  return peers === "all" ? "all" : peers.map((each) => encodeAddress(each));
}
