/** The table that threads share. */

import { Worker } from "node:worker_threads";
import { buildSync } from "esbuild";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Field } from "../../src/ipref/lookup.ts";
import { maxReaders, State, TableReader, TableWriter } from "../../src/ipref/table.ts";
import { keysOfNumber } from "./numbered.ts";

const both = State.byAddress | State.byReference;
let seed = 1;
const random = (length: number) =>
  Uint8Array.from({ length }, () => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >> 16) & 255;
  });
const fresh = (capacity: number) => new TableWriter({ capacity, lan: 4, tunnel: 6, random });
const kindOf = (number: number) => (number % 2 === 1 ? State.ours : 0);

function add(table: TableWriter, number: number, by: number = both): number {
  const record = table.add(keysOfNumber(number), kindOf(number) | State.drawn);
  if (record !== 0) table.show(record, by);
  return record;
}

/** What a reader finds of a number: by address and by reference. */
function found(reader: TableReader, number: number): readonly [number, number] {
  const { address, context, reference } = keysOfNumber(number);
  return number % 2 === 1
    ? [reader.oursByAddress(address, 0), reader.oursByReference(reference)]
    : [reader.theirByAddress(address, 0), reader.theirByReference(context, 0, reference)];
}

test("a record is found by both of its keys, at any offset, and by nothing else", () => {
  const table = fresh(8);
  const reader = new TableReader(table.open());
  for (const number of [2, 3]) add(table, number);
  for (const number of [2, 3]) {
    const [byAddress, byReference] = found(reader, number);
    assert.ok(byAddress > 0);
    assert.is(byAddress, byReference);
    const { address, context, reference } = keysOfNumber(number);
    const field = (at: number) => [...reader.bytes.subarray(byAddress + at, byAddress + at + 16)];
    assert.equal(field(Field.address), [...address]);
    assert.equal(field(Field.context), [...context]);
    assert.equal(field(Field.reference), [...reference]);
  }
  const packet = new Uint8Array(64).fill(9);
  packet.set(keysOfNumber(2).address.subarray(0, 4), 33);
  assert.is(reader.theirByAddress(packet, 33), found(reader, 2)[0]);
  assert.is(reader.oursByAddress(packet, 33), -1);
  assert.is(reader.theirByAddress(packet, 61), -1);
  assert.is(reader.theirByAddress(packet, 1_000), -1);
  assert.is(reader.theirByReference(packet, 60, keysOfNumber(2).reference), -1);
  assert.equal(found(reader, 4), [-1, -1]);
});

test("show: a record is found by what it is shown by, and by nothing before", () => {
  const table = fresh(8);
  const reader = new TableReader(table.open());
  const record = table.add(keysOfNumber(6), State.drawn);
  const at = table.offsetOf(record);
  assert.equal(found(reader, 6), [-1, -1]);
  for (const [by, expected] of [
    [State.byAddress, [at, -1]],
    [State.byReference, [-1, at]],
    [both, [at, at]],
    [0, [-1, -1]],
  ] as const) {
    table.show(record, by);
    assert.equal(found(reader, 6), expected);
  }
  assert.is(table.theirs(keysOfNumber(6).context, keysOfNumber(6).reference, State.drawn), record);
  assert.is(table.theirs(keysOfNumber(6).context, keysOfNumber(6).reference, State.written), 0);
});

test("touch: a use is seen once by the writer", () => {
  const table = fresh(8);
  const reader = new TableReader(table.open());
  const record = add(table, 2);
  assert.not.ok(table.takeUsed(record));
  reader.touch(found(reader, 2)[0]);
  reader.touch(found(reader, 2)[0]);
  assert.ok(table.takeUsed(record));
  assert.not.ok(table.takeUsed(record));
});

test("a place is used again only when every reader has entered anew or left", () => {
  const table = fresh(2);
  const [one, other] = [table.open(), table.open()];
  const [reader, sleeper] = [new TableReader(one), new TableReader(other)];
  sleeper.leave();
  add(table, 2);
  const ended = add(table, 4);
  const at = found(reader, 4)[0];
  table.remove(ended);
  assert.equal(found(reader, 4), [-1, -1]);
  assert.is(add(table, 6), 0, "the reader may stand on it");
  assert.equal([...reader.bytes.subarray(at, at + 4)], [...keysOfNumber(4).address.subarray(0, 4)]);
  reader.enter();
  assert.is(add(table, 6), ended);
  table.remove(ended);
  assert.is(table.room, 0);
  reader.leave();
  assert.is(table.room, 1);
  sleeper.enter();
  assert.is(add(table, 8), ended);
  table.remove(ended);
  assert.is(table.room, 0);
  table.close(other.reader);
  assert.is(table.room, 1);
});

test("open: a table has so many readers, and a place is free when one is closed", () => {
  const table = fresh(2);
  const handles = Array.from({ length: maxReaders }, () => table.open());
  assert.throws(
    () => table.open(),
    (thrown: unknown) => thrown instanceof RangeError,
  );
  table.close(handles[3]!.reader);
  assert.is(table.open().reader, 3);
  assert.throws(
    () => new TableReader({ buffer: new SharedArrayBuffer(4_096), reader: 0 }),
    (thrown: unknown) => thrown instanceof TypeError,
  );
  for (const capacity of [0, 1.5, 1 << 23]) {
    assert.throws(
      () => fresh(capacity),
      (thrown: unknown) => thrown instanceof RangeError,
    );
  }
});

test("adding and removing at random: readers find exactly what a map has", () => {
  const step = fc.tuple(fc.constantFrom("add", "remove", "hide", "show"), fc.nat(40));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const table = fresh(24);
      const reader = new TableReader(table.open());
      const model = new Map<number, { record: number; isShown: boolean }>();
      for (const [verb, number] of steps) {
        const present = model.get(number);
        reader.enter();
        if (verb === "add" && !present) {
          const record = add(table, number);
          assert.is(record === 0, model.size === 24);
          if (record !== 0) model.set(number, { record, isShown: true });
        } else if (verb === "remove" && present) {
          table.remove(present.record);
          model.delete(number);
        } else if (present && (verb === "hide" || verb === "show")) {
          present.isShown = verb === "show";
          table.show(present.record, present.isShown ? both : 0);
        }
        for (let each = 0; each <= 40; each++) {
          const expected = model.get(each);
          const at = expected?.isShown ? table.offsetOf(expected.record) : -1;
          assert.equal(found(reader, each), [at, at]);
        }
      }
    }),
    { numRuns: 60 },
  );
});

test("threads that read while the writer changes never see a torn record", async () => {
  const numbers = 512;
  const table = new TableWriter({ capacity: 320, lan: 4, tunnel: 6, random });
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const program = buildSync({
    entryPoints: ["test/ipref/reader.ts"],
    bundle: true,
    platform: "node",
    format: "cjs",
    write: false,
  }).outputFiles[0]!.text;
  const progress = [0, 1].map(() => new Int32Array(new SharedArrayBuffer(8)));
  const workers = progress.map((each) => {
    const workerData = { handle: table.open(), stop, progress: each, numbers };
    return new Worker(program, { eval: true, workerData });
  });
  const results = workers.map(
    (worker) =>
      new Promise<{ lookups: number; hits: number; torn: number }>((resolve, reject) => {
        worker.once("message", resolve);
        worker.once("error", reject);
      }),
  );
  const present = new Map<number, number>();
  let changes = 0;
  let refused = 0;
  let reused = 0;
  const seen = new Set<number>();
  // Until places have been taken again many times, with the threads at work: on a slow machine fewer times.
  const startedAt = performance.now();
  const isEnough = () => {
    if (changes >= 200_000 && reused >= 20_000 && progress.every((each) => Atomics.load(each, 1) > 1_000))
      return true;
    const elapsedMs = performance.now() - startedAt;
    if (elapsedMs < 8_000) return false;
    if (elapsedMs > 60_000) return true;
    return reused > 1_000 && progress.every(([lookups, hits]) => lookups! > 10_000 && hits! > 1_000);
  };
  while (!isEnough()) {
    for (let each = 0; each < 500; each++) {
      const number = random(2).reduce((sum, byte) => sum * 256 + byte, 0) % numbers;
      const record = present.get(number);
      if (record !== undefined) {
        table.remove(record);
        present.delete(number);
      } else {
        const added = add(table, number);
        if (added === 0) refused++;
        else present.set(number, added);
        if (seen.has(added)) reused++;
        seen.add(added);
      }
      changes++;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  Atomics.store(stop, 0, 1);
  for (const { lookups, hits, torn } of await Promise.all(results)) {
    assert.is(torn, 0);
    assert.ok(lookups > 10_000 && hits > 1_000, `${lookups} lookups, ${hits} hits`);
  }
  assert.ok(reused > 1_000, `${reused} places used again, ${refused} refused`);
  await Promise.all(workers.map((worker) => worker.terminate()));
});

test.run();
