/**
 * A thread that reads a table while somebody else changes it: every record that it finds must be whole.
 *
 * The records of the test say the same thing three times: address, context and reference are made of one number, and so
 * is whatever is found under a key. What is found may have ended a moment ago; it is never another's, nor half.
 */

import { parentPort, workerData } from "node:worker_threads";
import { Field } from "../../src/ipref/lookup.ts";
import { TableReader } from "../../src/ipref/table.ts";
import { keysOfNumber } from "./numbered.ts";

const { handle, stop, progress, numbers } = workerData as {
  handle: { buffer: SharedArrayBuffer; reader: number };
  stop: Int32Array;
  /** What was looked up and found so far. */
  progress: Int32Array;
  numbers: number;
};
const reader = new TableReader(handle);
const all = Array.from({ length: numbers }, (_, number) => keysOfNumber(number));
let lookups = 0;
let hits = 0;
let torn = 0;

function isWhole(at: number, number: number): boolean {
  const { address, context, reference } = all[number]!;
  const fields = [
    [Field.address, address],
    [Field.context, context],
    [Field.reference, reference],
  ] as const;
  return fields.every(([field, bytes]) => bytes.every((byte, i) => reader.bytes[at + field + i] === byte));
}

let at = 0;
while (Atomics.load(stop, 0) === 0) {
  reader.enter();
  for (let each = 0; each < 64; each++) {
    at = (Math.imul(at, 1_103_515_245) + 12_345) & 0x7fff_ffff;
    const number = (at >> 8) % numbers;
    const { address, context, reference } = all[number]!;
    const isOurs = number % 2 === 1;
    const record =
      each % 2 === 0
        ? isOurs
          ? reader.oursByAddress(address, 0)
          : reader.theirByAddress(address, 0)
        : isOurs
          ? reader.oursByReference(reference)
          : reader.theirByReference(context, 0, reference);
    lookups++;
    if (record < 0) continue;
    hits++;
    reader.touch(record);
    if (!isWhole(record, number)) torn++;
  }
  reader.leave();
  Atomics.store(progress, 0, lookups);
  Atomics.store(progress, 1, hits);
}
parentPort!.postMessage({ lookups, hits, torn });
