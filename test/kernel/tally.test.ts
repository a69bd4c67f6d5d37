/** How far counters had come: kept, compared, brought forward, forgotten. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Tally } from "../../src/kernel/tally.ts";

/** Counters as words: packets out, bytes out, packets in, bytes in. */
function counters(...values: readonly bigint[]): Uint32Array {
  return Uint32Array.from(values.flatMap((value) => [Number(value >> 32n), Number(value & 0xffffffffn)]));
}

test("Tally: many are kept apart, through growth, removal and reuse of places", () => {
  const commands = fc.array(
    fc.record({ key: fc.nat(400), value: fc.bigInt(0n, 2n ** 50n), remove: fc.boolean() }),
    { maxLength: 900, minLength: 300 },
  );
  fc.assert(
    fc.property(commands, (list) => {
      const tally = new Tally(1_000);
      const model = new Map<number, bigint>();
      const passed = [0, 0, 0, 0];
      for (const { key, value, remove } of list) {
        if (remove) {
          tally.remove(key);
          model.delete(key);
        } else {
          const slot = tally.find(key) ?? tally.add(key)!;
          const now = counters(1n, value, 0n, 0n);
          assert.is(tally.differs(slot, now), model.get(key) !== value);
          tally.advance(slot, now, passed);
          const before = model.get(key) ?? 0n;
          assert.is(passed[1], Number(value >= before ? value - before : value));
          model.set(key, value);
        }
        assert.is(tally.size, model.size);
      }
      for (const key of model.keys()) assert.is.not(tally.find(key), undefined);
    }),
    { numRuns: 20 },
  );
});

test("Tally.add: no more than the limit, and room again after a removal", () => {
  const tally = new Tally(2);
  assert.equal([tally.add(1), tally.add(2), tally.add(3)], [0, 1, undefined]);
  tally.remove(1);
  tally.remove(77);
  assert.is(tally.add(3), 0);
  assert.not.ok(tally.differs(0, counters(0n, 0n, 0n, 0n)), "a new one stands at 0");
});

test("Tally.sweep removes what two readings in a row have missed", () => {
  const tally = new Tally(10);
  const slot = tally.add(1)!;
  tally.add(2);
  assert.is(tally.sweep(), 0);
  tally.meet(slot);
  assert.is(tally.sweep(), 0);
  tally.meet(slot);
  assert.is(tally.sweep(), 1);
  assert.equal([tally.find(1), tally.find(2), tally.size], [slot, undefined, 1]);
});

test("Tally.whole: all four, and at most what a number can hold", () => {
  const passed = [0, 0, 0, 0];
  new Tally(1).whole(counters(1n, 2n ** 40n, 2n ** 64n - 1n, 0n), passed);
  assert.equal(passed, [1, 2 ** 40, Number.MAX_SAFE_INTEGER, 0]);
});

test.run();
