/**
 * Whether the addon that was compiled for another processor works there: calls recorded on this one are played against
 * it, under qemu where the processor is not this machine's.
 *
 *     node build/test/package/cross.cjs CPU…      as `make cross` does; CPU is aarch64, armhf or x86_64
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Segment, segmentLength } from "../../src/system/native.ts";

interface Addon {
  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number;
  split(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number;
  join(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number;
}

export interface Target {
  readonly cpu: string;
  /** Debian's compiler for it. */
  readonly compiler: string;
  /** What runs its programs here. */
  readonly emulator: readonly string[];
  /** e_machine in the ELF header. */
  readonly machine: number;
}

export const targets: readonly Target[] = [
  {
    ...{ cpu: "aarch64", compiler: "aarch64-linux-gnu-gcc", machine: 183 },
    emulator: ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
  },
  {
    ...{ cpu: "armhf", compiler: "arm-linux-gnueabihf-gcc", machine: 40 },
    emulator: ["qemu-arm", "-L", "/usr/arm-linux-gnueabihf"],
  },
  { cpu: "x86_64", compiler: "x86_64-linux-gnu-gcc", machine: 62, emulator: [] },
];

const root = process.cwd();
const none = new Uint8Array(0);
const [tcp, udp] = [6, 17];

function u32(...numbers: readonly number[]): Buffer {
  const bytes = Buffer.alloc(numbers.length * 4);
  for (const [at, each] of numbers.entries()) bytes.writeUInt32LE(each >>> 0, at * 4);
  return bytes;
}

const bytesOf = (length: number, step: number) =>
  Uint8Array.from({ length }, (_, at) => (at * step + (at >> 8)) & 255);

/** Calls as load.c reads them, with what the addon of this machine answers. */
export function record(addon: Addon): { readonly calls: Buffer; readonly count: number } {
  const parts: Buffer[] = [];
  let count = 0;
  const add = (...each: readonly Uint8Array[]) => {
    parts.push(...each.map((bytes) => Buffer.from(bytes)));
    count++;
  };
  for (const length of [0, 1, 2, 3, 4, 7, 8, 15, 31, 63, 64, 65, 511, 1_500, 65_535]) {
    for (const [offset, seed] of [
      [0, 0],
      [1, 0xffff],
      [3, 0xffffffff],
    ] as const) {
      if (offset > length) continue;
      const source = bytesOf(length, 37);
      const sum = addon.checksum(source, offset, length - offset, seed);
      add(u32(0, length), source, u32(0, offset, length - offset, seed, sum));
    }
  }
  const transform = (
    verb: "split" | "join",
    source: Uint8Array,
    fields: Partial<Record<keyof typeof Segment, number>>,
    frame = none,
  ) => {
    const room = 200_000;
    const numbers = new Int32Array(segmentLength);
    for (const [name, value] of Object.entries({ length: source.length, ip: -1, most: 1_000, ...fields }))
      numbers[Segment[name as keyof typeof Segment]] = value;
    const before = u32(...numbers);
    const target = new Uint8Array(room);
    const written = addon[verb](source, target, frame, numbers);
    add(
      ...[u32(verb === "split" ? 1 : 2, source.length), source, u32(frame.length), frame],
      ...[u32(room), before, u32(written, ...numbers), target.subarray(0, written)],
    );
    return target.slice(0, written);
  };
  for (const protocol of [tcp, udp]) {
    for (const length of [1, 99, 1_448, 20_000, 60_000]) {
      for (const [size, frame] of [
        [1_448, none],
        [99, bytesOf(48, 5)],
        [65_000, bytesOf(20, 11)],
      ] as const) {
        const header = protocol === tcp ? 20 : 8;
        const packet = new Uint8Array(header + length);
        packet.set(bytesOf(length, 13), header);
        if (protocol === tcp) packet.set([0x50, 0x18], 12);
        const segments = transform("split", packet, { protocol, size, seedOut: 4_711 }, frame);
        const stride = frame.length + header + Math.min(size, length);
        transform(
          "join",
          segments,
          { protocol, size: stride, strip: frame.length, seedIn: 4_711, seedOut: 815 },
          bytesOf(40, 3),
        );
      }
    }
  }
  return { calls: Buffer.concat(parts), count };
}

/** @throws Error if it is for another processor */
export function inspect(target: Target, addonPath: string): void {
  const machine = readFileSync(addonPath).readUInt16LE(18);
  if (machine !== target.machine)
    throw new Error(`${addonPath} is for machine ${machine}, not ${target.machine}`);
}

/** @throws Error with what the compiler, or the addon under test, says */
export function check(target: Target, addonPath: string): string {
  inspect(target, addonPath);
  const folder = mkdtempSync(join(tmpdir(), "cross-"));
  try {
    const program = join(folder, "load");
    const flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-rdynamic"];
    const headers = join(root, "node_modules/node-api-headers/include");
    execFileSync(target.compiler, [
      ...flags,
      "-I",
      headers,
      "-o",
      program,
      join(root, "test/package/cross/load.c"),
      "-ldl",
    ]);
    const own = { exports: {} as Addon };
    process.dlopen(own, join(root, "dist/netio.node"));
    writeFileSync(join(folder, "calls"), record(own.exports).calls);
    const [name, ...args] = [...target.emulator, program, addonPath, join(folder, "calls")];
    return execFileSync(name!, args, { encoding: "utf8" }).trim();
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (process.argv[1]?.endsWith("cross.cjs")) {
  for (const cpu of process.argv.slice(2)) {
    const target = targets.find((each) => each.cpu === cpu);
    if (!target)
      throw new Error(`Cannot check ${cpu}: it is none of ${targets.map((each) => each.cpu).join(", ")}`);
    console.log(`netio.node for ${cpu}: ${check(target, join(root, `dist/cross/${cpu}/netio.node`))}`);
  }
}
