/** Killed at any moment, on a real disk: what was answered is there, in every life after. */

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Mappings, openMappings } from "../../src/ipref/mappings.ts";
import { parseEntry } from "../../src/lib/entries.ts";
import { Files } from "../../src/system/disk.ts";
import { type JournalFormat, openJournal } from "../../src/system/journal.ts";
import { address, ownContext, prefix } from "./stage.ts";

/** Directories that are written, and killed, side by side. */
const lanes = 3;
/** Of one life at most: a machine that is slow to kill gets no more. */
const groups = 64;
const groupSize = 32;

/** How many answers a life gives before it is killed, however fast it is: from, to. */
const answers: Readonly<Record<string, readonly [number, number]>> = {
  "--mappings": [1, 10 * groupSize],
  "--numbers": [60, 200],
};

/** Of the machine only what a store needs, so that a life begins fast. */
const system = Object.assign(new Files(), {
  now: () => performance.now(),
  date: () => Date.now(),
  after: () => () => {},
  every: () => () => {},
  random: (length: number) => new Uint8Array(randomBytes(length)),
});

async function open(directory: string): Promise<Mappings> {
  const { mappings, damages } = await openMappings(system, {
    ...{ directory, boot: "b1", encodeNet: prefix("10.240.0.0/12"), tunnel: 4, context: ownContext },
    ...{ gatewayReference: 1n, maxMappings: 60_000, maxPerPeer: 60_000, maxLocals: 60_000 },
  });
  assert.equal(damages, []);
  return mappings;
}

/** Makes mappings, many at a time, and says each that was answered. */
async function makeMappings(directory: string, serial: number): Promise<void> {
  const mappings = await open(directory);
  for (let group = 0; group < groups; group++) {
    const asked = Array.from({ length: groupSize }, async (_, at) => {
      const number = (serial * groups + group) * groupSize + at;
      const context = address(`203.0.113.${1 + (number & 7)}`);
      const reference = BigInt(number + 1) << 20n;
      const host = address(`172.16.${(number >> 8) & 255}.${number & 255}`);
      if (at % 2 === 0) return `T ${context} ${reference} ${await mappings.encodedFor(context, reference)}\n`;
      return `O ${host} ${await mappings.referenceFor(host)}\n`;
    });
    process.stdout.write((await Promise.all(asked)).join(""));
  }
}

function checkMappings(mappings: Mappings, said: readonly string[]): void {
  for (const line of said) {
    const [kind, one, two, three] = line.split(" ") as [string, string, string, string];
    if (kind === "T") {
      const remote = mappings.remoteOf(address(three));
      assert.equal(remote && [remote.context, String(remote.reference)], [one, two], line);
    } else {
      assert.is(mappings.localOf(BigInt(two)), one, line);
    }
  }
}

const numbers: JournalFormat<readonly number[]> = {
  ...{ name: "numbers", version: 1, list: "numbers" },
  open() {
    const read: number[] = [];
    return {
      take: (bytes, from, to) => read.push((parseEntry(bytes, from, to) as [number])[0]),
      close: () => read,
    };
  },
};

/** Keeps numbers in entries so long that the whole is written again and again. */
async function keepNumbers(directory: string, serial: number): Promise<void> {
  const { journal } = await openJournal(system, { directory, boot: "b1" }, numbers);
  const entryOf = (number: number) => [number, "x".repeat(20_000)] as const;
  const first = serial * 4_096;
  let last = first;
  function* whole() {
    // Earlier lives' go: of those only the last whole and what came since is to be there.
    for (let number = first; number <= last; number++) yield entryOf(number);
  }
  for (; last < first + 2_000; last++) {
    await journal.keep([entryOf(last)], whole);
    process.stdout.write(`${last}\n`);
  }
}

/** One life that ends with SIGKILL, soon after its so-manieth answer. @returns the lines that it said */
async function live(kind: string, directory: string, serial: number): Promise<string[]> {
  const child = spawn(process.execPath, [process.argv[1]!, kind, directory, String(serial)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  const [least, most] = answers[kind]!;
  let left = least + Math.random() * (most - least);
  child.stdout.on("data", (bytes: Buffer) => {
    said += bytes.toString();
    const wasLeft = left;
    left -= bytes.filter((each) => each === 0x0a).length;
    if (wasLeft > 0 && left <= 0) setTimeout(() => child.kill("SIGKILL"), Math.random() * 5);
  });
  const end = await new Promise<unknown[]>((resolve) => {
    child.once("close", (...how) => resolve(how));
  });
  assert.equal(end, [null, "SIGKILL"]);
  return said.slice(0, said.lastIndexOf("\n")).split("\n");
}

function fresh(name: string): string {
  const directory = `${process.env.TMPDIR}/kills-${process.pid}-${name}`;
  mkdirSync(directory, { recursive: true });
  return directory;
}

async function main(): Promise<void> {
  const [kind, directory, serial] = process.argv.slice(2);
  if (kind !== "--mappings" && kind !== "--numbers") return test.run();
  await (kind === "--mappings" ? makeMappings : keepNumbers)(directory!, Number(serial));
  // It does not end by itself.
  setInterval(() => {}, 60_000);
}

test("mappings, killed at random moments: every one that was answered is there after each restart", async () => {
  const lives = Number(process.env.LIVES ?? 5);
  const lane = async (_: unknown, at: number) => {
    const directory = fresh(`mappings-${at}`);
    const all: string[] = [];
    for (let life = 0; life < lives; life++) all.push(...(await live("--mappings", directory, life)));
    checkMappings(await open(directory), all);
    assert.ok(all.length >= lives * groupSize, `${all.length} mappings`);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
});

test("wholes, killed while they are written: the last or the one before is there, with what came since", async () => {
  let wholes = 0;
  const lane = async (_: unknown, at: number) => {
    const directory = fresh(`numbers-${at}`);
    for (let life = 1; life <= 4; life++) {
      const said = await live("--numbers", directory, life);
      const { saved, damages } = await openJournal(system, { directory, boot: "b1" }, numbers);
      assert.equal(damages, []);
      const read = new Set(saved.flat());
      for (const number of said) assert.ok(read.has(Number(number)), `${number} of life ${life}`);
      wholes = Math.max(wholes, (await system.list(directory)).length);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  assert.ok(wholes >= 3, "there are two generations of the whole");
});

void main();
