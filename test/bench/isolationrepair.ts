/**
 * How long isolation lets through what it should not, and keeps waiting what it should let through: from somebody
 * else's flush of all rules to the last packet that passes, and from the call that adds a route to the first packet
 * on it. Seen by a host that pings all the time. For nft, and for ipset with either kind of iptables.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import {
  type Backend,
  deleteConnections,
  emptyIsolation,
  type IsolationPlan,
  type Kernel,
  openKernel,
  type Route,
} from "../../src/kernel/kernel.ts";
import type { Owner, Plan } from "../../src/kernel/plan.ts";
import { type Address, decodeAddress, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { must } from "../lab/children.ts";
import { spread, table } from "./figure.ts";
import { sleep, system } from "./router.ts";

const rounds = 3;
const near = parseAddress("10.70.0.2")!;
const far = parseAddress("10.80.0.2")!;
/** So long nothing has passed: repaired. */
const quietMs = 2_500;
const limitMs = 60_000;
const legacyProgram = "/usr/sbin/xtables-legacy-multi";
const legacyFolder = "/run/bench/legacy";

const numbered = (first: number, second: number, number: number): Address =>
  decodeAddress(Uint8Array.of(first, second + (number >>> 16), (number >>> 8) & 255, number & 255), 0, 4);

const standinOf = (number: number) => numbered(198, 18, 2 * number + 2);

/** Both directions of a pair; pair 0 is that of the two hosts. */
function routesOf(number: number): Route[] {
  const [source, target] = number === 0 ? [near, far] : [numbered(10, 71, number), numbered(10, 72, number)];
  const [standin, sourceStandin] = [standinOf(number), numbered(198, 18, 2 * number + 3)];
  const [here, there] = ["br-lan", "wan"] as const;
  return [
    { device: here, source, standin, target, targetDevice: there, sourceStandin },
    {
      device: there,
      source: target,
      standin: sourceStandin,
      target: source,
      targetDevice: here,
      sourceStandin: standin,
    },
  ];
}

/** Pairs of hosts that are not there, and after them the two hosts' own or not. */
function planOf(others: number, own: boolean): IsolationPlan {
  const segment = { dns: { port4: 5335, port6: 5335 }, dropEncryptedDns: true, mdns: false };
  const prefixes = (...texts: string[]) => texts.map((text) => parsePrefix(text)!);
  const numbers = Array.from({ length: others }, (_, at) => at + 1);
  return {
    ...emptyIsolation,
    segments: [
      { ...segment, name: "near", devices: ["br-lan"], prefixes: prefixes("10.70.0.0/16", "10.71.0.0/16") },
      { ...segment, name: "far", devices: ["wan"], prefixes: prefixes("10.80.0.0/24", "10.72.0.0/16") },
    ],
    pools: prefixes("198.18.0.0/15"),
    routes: [...numbers, ...(own ? [0] : [])].flatMap(routesOf),
  };
}

/** What other owners have in force meanwhile. */
const blocks: Plan = {
  ends: [
    { id: 1, addresses: [near], macs: [] },
    { id: 2, addresses: [parseAddress("10.90.0.9")!], macs: [] },
  ],
  pairs: [[1, 2]],
  barred: [],
  exempt: [],
};

/** A host that pings without end: when answers came, by the clock of the world, however busy we are. */
class Witness {
  readonly #child: ChildProcess;
  firstAt: number | undefined;
  lastAt: number | undefined;

  constructor(to: Address) {
    const argv = ["netns", "exec", "client", "ping", "-n", "-D", "-i", "0.005", to];
    this.#child = spawn("ip", argv, { stdio: ["ignore", "pipe", "ignore"] });
    this.#child.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
      for (const [, seconds] of chunk.matchAll(/^\[([0-9.]+)\] \d+ bytes from/gm)) {
        this.lastAt = Number(seconds) * 1_000;
        this.firstAt ??= this.lastAt;
      }
    });
  }

  end(): void {
    this.#child.kill("SIGKILL");
  }
}

interface Variant {
  readonly name: string;
  readonly backend: Backend;
  readonly path?: string;
  readonly flush: () => Promise<unknown>;
}

const tools = ["iptables", "ip6tables"];
/** What a firewall does that is loaded anew, in a process of its own. */
async function flushTables(tool: string): Promise<void> {
  for (const each of ["filter", "nat", "mangle"]) await must([tool, "-w", "10", "-t", each, "-F"]);
}

function variants(): Variant[] {
  const ipset = {
    backend: "ipset",
    flush: async () => {
      for (const tool of tools) await flushTables(tool);
    },
  } as const;
  const found: Variant[] = [
    { name: "nft", backend: "nft", flush: () => must(["nft", "flush", "ruleset"]) },
    { ...ipset, name: "ipset, iptables of nf_tables" },
  ];
  if (!existsSync(legacyProgram)) return found;
  rmSync(legacyFolder, { recursive: true, force: true });
  mkdirSync(legacyFolder, { recursive: true });
  for (const tool of tools)
    for (const ending of ["", "-save", "-restore"])
      symlinkSync(legacyProgram, `${legacyFolder}/${tool}${ending}`);
  return [...found, { ...ipset, name: "ipset, iptables legacy", path: legacyFolder }];
}

async function withKernel(variant: Variant, measure: (kernel: Kernel) => Promise<void>): Promise<void> {
  const path = process.env.PATH;
  if (variant.path !== undefined) process.env.PATH = `${variant.path}:${path}`;
  const stateDirectory = "/run/bench/isolation-repair";
  rmSync(stateDirectory, { recursive: true, force: true });
  const kernel = await openKernel(system, { backend: variant.backend, stateDirectory, lanDevices: [] });
  try {
    await measure(kernel);
    for (const owner of ["isolation", "flows", "nodes"] satisfies Owner[]) await kernel.clear(owner);
  } finally {
    kernel.close();
    process.env.PATH = path;
  }
}

async function repairOf(kernel: Kernel, flush: () => Promise<unknown>): Promise<string> {
  const before = kernel.counters.repaired;
  const witness = new Witness(far);
  await sleep(200);
  const beganAt = Date.now();
  await flush();
  const endsAt = Date.now() + limitMs;
  while (Date.now() < endsAt) {
    await sleep(50);
    const lastAt = witness.lastAt ?? beganAt;
    if (kernel.counters.repaired > before && Date.now() - Math.max(lastAt, beganAt) > quietMs) break;
  }
  witness.end();
  return String(Math.round((witness.lastAt ?? beganAt) - beganAt));
}

/** Needs the network of `buildNetwork`, without rules. Prints a table. */
export async function measureRepairs(): Promise<void> {
  const rows: string[][] = [["flushed, until the last packet passes (ms)", "100 pairs", "10,000 pairs"]];
  for (const variant of variants()) {
    const all: string[] = [];
    const spreadOut: string[] = [];
    for (const pairs of [100, 10_000]) {
      await withKernel(variant, async (kernel) => {
        await kernel.apply("flows", blocks, { durable: false });
        await kernel.apply("nodes", blocks, { durable: false });
        await kernel.apply("isolation", planOf(pairs, false), { durable: false });
        await deleteConnections(system, () => true);
        await sleep(quietMs);
        const times: string[] = [];
        for (let round = 0; round < rounds; round++) times.push(await repairOf(kernel, variant.flush));
        all.push(times.join(", "));
        // As a firewall does that takes its time.
        if (variant.backend === "ipset") {
          const slowly = async () => {
            for (const tool of tools) {
              await flushTables(tool);
              await sleep(500);
            }
            await flushTables(tools[0]!);
          };
          spreadOut.push(await repairOf(kernel, slowly));
        }
      });
    }
    rows.push([variant.name, ...all]);
    if (spreadOut.length > 0) rows.push([`${variant.name}, flushed thrice in 1 s`, ...spreadOut]);
  }
  console.log();
  table(rows);
}

/** Needs the network of `buildNetwork`, without rules. Prints a table. */
export async function measureRoutes(): Promise<void> {
  const rows: string[][] = [
    ["one route more (ms): call", "answer", "first packet", "durable: answer", "first packet"],
  ];
  for (const variant of variants()) {
    for (const pairs of [1, 100, 10_000]) {
      await withKernel(variant, async (kernel) => {
        const base = planOf(pairs, false);
        await kernel.apply("isolation", base);
        const cells: string[] = [];
        for (const durable of [false, true]) {
          const [answers, packets]: [number[], number[]] = [[], []];
          for (let round = 0; round < rounds; round++) {
            await deleteConnections(system, () => true);
            const witness = new Witness(standinOf(0));
            await sleep(1_500);
            const beganAt = Date.now();
            await kernel.apply("isolation", planOf(pairs, true), { durable });
            answers.push(Date.now() - beganAt);
            while (witness.firstAt === undefined) await sleep(5);
            packets.push(witness.firstAt - beganAt);
            witness.end();
            await kernel.apply("isolation", base, { durable });
          }
          cells.push(spread(answers), spread(packets));
        }
        rows.push([`${variant.name}, ${pairs} pairs`, ...cells]);
      });
    }
  }
  console.log();
  table(rows);
}
