/**
 * A hundred thousand IPREF mappings: how fast they are made durable, what they weigh, how long a restart takes that
 * reads them, and what a forwarder's lookup costs among few and among many of them, beside a Map with texts as keys.
 *
 * Each life is a process of its own, as the agent is. Times are of the processor, all threads of a life together, so
 * that a busy machine changes them little; those by the clock stand beside. Lookups go through keys in a random
 * order, which lie in one flat buffer: once those of the same few hosts, where what differs is what else the table has,
 * and once those of all, where what no cache of the processor holds any more counts, too.
 */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { type Mappings, openMappings } from "../../src/ipref/mappings.ts";
import type { Address, Prefix } from "../../src/lib/address.ts";
import { openLinux } from "../../src/system/linux.ts";
import { heading, median, table } from "./figure.ts";

const total = 100_000;
const sizes = [100, 10_000, total];
const contexts = 100;
/** Asked for at a time. */
const inFlight = 1_000;
const restarts = 3;
const keysTried = 1 << 16;
const rounds = 9;

type Figures = Record<string, number>;

const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });

async function open(directory: string): Promise<Mappings> {
  const { mappings, damages } = await openMappings(system, {
    ...{ directory, boot: "bench", tunnel: 4, gatewayReference: 1n, maxPerPeer: total, maxLocals: total },
    encodeNet: "10.240.0.0/12" as Prefix,
    context: "198.51.100.97" as Address,
  });
  for (const damage of damages) throw new Error(damage);
  return mappings;
}

const contextOf = (index: number) => `203.0.113.${(index % contexts) + 1}` as Address;
const hostOf = (index: number) => `172.${16 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}` as Address;
const megabytes = () => process.memoryUsage().rss / 1e6;

/** Makes mappings with the numbers from one on, half of them of remote hosts. */
async function make(mappings: Mappings, from: number, to: number): Promise<void> {
  for (let begin = from; begin < to; begin += inFlight) {
    const asked: Promise<unknown>[] = [];
    for (let index = begin; index < Math.min(to, begin + inFlight); index++) {
      if (index % 2 === 0)
        asked.push(mappings.encodedFor(contextOf(index >> 1), (BigInt(index) << 20n) + 7n));
      else asked.push(mappings.referenceFor(hostOf(index)));
    }
    await Promise.all(asked);
  }
}

/** Encoded addresses of so many remote hosts, in a random order, over and over. */
function keysOf(mappings: Mappings, most: number): Uint8Array {
  const all: string[] = [];
  for (const { address } of mappings.entries(0, { kind: "theirs" })) if (all.push(address) === most) break;
  const bytes = new Uint8Array(keysTried * 4);
  let random = 12_345;
  for (let at = 0; at < keysTried; at++) {
    random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
    const text = all[Math.floor((random / 2 ** 32) * all.length)]!;
    bytes.set(text.split(".").map(Number), at * 4);
  }
  return bytes;
}

/** Nanoseconds of the processor that one call takes. */
function cost(round: () => number): number {
  const each: number[] = [];
  for (let turn = 0; turn < rounds; turn++) {
    const before = process.cpuUsage().user;
    if (round() !== keysTried) throw new Error("a key was not found");
    each.push(((process.cpuUsage().user - before) * 1_000) / keysTried);
  }
  return median(each.slice(2));
}

function lookups(mappings: Mappings, figures: Figures, size: number): void {
  const { lookup } = mappings;
  const find = (keys: Uint8Array) => () => {
    let found = 0;
    for (let at = 0; at < keys.length; at += 4) if (lookup.theirByAddress(keys, at) >= 0) found++;
    return found;
  };
  const bytes = keysOf(mappings, size);
  figures[`few ${size}`] = cost(find(keysOf(mappings, sizes[0]! / 2)));
  figures[`table ${size}`] = cost(find(bytes));
  const map = new Map<string, { readonly reference: bigint }>();
  for (const { address, reference } of mappings.entries(0)) map.set(address, { reference });
  figures[`map ${size}`] = cost(() => {
    let found = 0;
    // Who has a packet has bytes, and has to make the text.
    for (let at = 0; at < bytes.length; at += 4) {
      if (map.has(`${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}.${bytes[at + 3]}`)) found++;
    }
    return found;
  });
}

async function fill(directory: string, figures: Figures): Promise<void> {
  const mappings = await open(directory);
  let [made, seconds] = [0, 0];
  for (const size of sizes) {
    const beganAt = performance.now();
    await make(mappings, made, size);
    seconds += (performance.now() - beganAt) / 1_000;
    made = size;
    lookups(mappings, figures, size);
  }
  figures.perSecond = total / seconds;
  await mappings.close();
}

/** What an agent does at its start, and then nothing more. */
async function restart(directory: string, figures: Figures): Promise<void> {
  const before = process.cpuUsage();
  const beganAt = performance.now();
  const mappings = await open(directory);
  figures.wallMs = performance.now() - beganAt;
  const { user, system: kernel } = process.cpuUsage(before);
  figures.cpuMs = (user + kernel) / 1_000;
  figures.count = mappings.counters.mappings;
  figures.megabytes = megabytes();
  figures.peakMegabytes = process.resourceUsage().maxRSS / 1e3;
}

/** One life of the measurement, in a process of its own. Its figures go to standard output. */
export async function mappingsLife(kind: string, directory: string): Promise<void> {
  const figures: Figures = { emptyMegabytes: megabytes() };
  await (kind === "fill" ? fill : restart)(directory, figures);
  console.log(JSON.stringify(figures));
  process.exit(0);
}

function life(kind: "fill" | "restart", directory: string): Figures {
  const args = [process.argv[1]!, "--mappings", kind, directory];
  const { stdout, status } = spawnSync(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  if (status !== 0) throw new Error(`a life ended with ${status}`);
  return JSON.parse(stdout.toString()) as Figures;
}

export async function measureMappings(): Promise<void> {
  heading(`IPREF mappings: ${total} of them, half remote hosts and half local ones`);
  mkdirSync(join(process.cwd(), "build"), { recursive: true });
  // Where files are durable: not on a memory disk, if that can be helped.
  const parent = mkdtempSync(join(process.cwd(), "build/bench-mappings-"));
  const [empty, directory] = [join(parent, "empty"), join(parent, "full")];
  try {
    const filled = life("fill", directory);
    console.log(
      `New mappings, durable when answered, ${inFlight} in flight: ${filled.perSecond!.toFixed(0)}/s.`,
    );
    table([
      ["lookup among", ...sizes.map(String)],
      ["table, the same 50 hosts, ns", ...sizes.map((size) => filled[`few ${size}`]!.toFixed(0))],
      ["table, all hosts, ns", ...sizes.map((size) => filled[`table ${size}`]!.toFixed(0))],
      ["Map with texts, all hosts, ns", ...sizes.map((size) => filled[`map ${size}`]!.toFixed(0))],
      ["ratio", ...sizes.map((size) => (filled[`table ${size}`]! / filled[`map ${size}`]!).toFixed(2))],
    ]);
    const rows = [["restart with", "CPU ms", "wall ms", "memory MB", "at most MB"]];
    const grown: number[] = [];
    for (const [name, from] of [
      ["nothing stored", empty],
      [`${total} stored`, directory],
    ] as const) {
      const lives = Array.from({ length: restarts }, () => life("restart", from));
      const of = (figure: string) => median(lives.map((each) => each[figure]!));
      rows.push([
        name,
        ...["cpuMs", "wallMs", "megabytes", "peakMegabytes"].map((each) => of(each).toFixed(0)),
      ]);
      if (from === directory && of("count") < total) throw new Error(`${of("count")} mappings came back`);
      grown.push(of("megabytes"));
    }
    table(rows);
    const pieces = readdirSync(join(directory, "mappings.d")).length;
    const size = (statSync(join(directory, "mappings.json")).size / 1e6).toFixed(1);
    console.log(
      `${total} mappings take ${(grown[1]! - grown[0]!).toFixed(0)} MB; on disk ${size} MB and ${pieces} small files.`,
    );
  } finally {
    rmSync(parent, { recursive: true, force: true });
  }
}
