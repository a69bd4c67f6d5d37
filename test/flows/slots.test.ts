/** The index of flat columns, and the counters beside it. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Slots } from "../../src/flows/slots.ts";
import { maxCount, numberOf, Tally } from "../../src/flows/tally.ts";

test("Slots gives numbers in order, finds by all three parts, and none for what is not there", () => {
  const slots = new Slots(4, 7);
  assert.equal([slots.take(1, 2, 3), slots.take(2, 1, 3), slots.take(1, 2, 2 ** 40)], [1, 2, 3]);
  assert.equal([slots.find(1, 2, 3), slots.find(2, 1, 3), slots.find(1, 2, 2 ** 40)], [1, 2, 3]);
  assert.equal([slots.find(1, 2, 4), slots.find(0, 0, 0)], [0, 0]);
  assert.equal([slots.from(2), slots.to(2), slots.service(3)], [2, 1, 2 ** 40]);
});

test("Slots refuses one too many, and no room at all", () => {
  const slots = new Slots(1, 0);
  slots.take(1, 2, 3);
  assert.ok(slots.isFull);
  assert.throws(
    () => slots.take(1, 2, 4),
    (thrown: unknown) => thrown instanceof RangeError,
  );
  assert.throws(
    () => new Slots(0, 0),
    (thrown: unknown) => thrown instanceof RangeError,
  );
});

test("Slots behaves as a map does, whatever is taken, freed and cleared", () => {
  const step = fc.record({
    kind: fc.constantFrom("take", "take", "take", "free", "clear"),
    from: fc.integer({ min: 1, max: 3 }),
    to: fc.integer({ min: 1, max: 0x7fff_ffff }),
    service: fc.constantFrom(0, 1, 2 ** 24, 2 ** 32 + 1, 255 * 2 ** 32 + 2 ** 32 - 1),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), fc.integer(), (steps, seed) => {
      const slots = new Slots(16, seed);
      const map = new Map<string, number>();
      for (const { kind, from, to, service } of steps) {
        const key = `${from} ${to} ${service}`;
        const known = map.get(key);
        assert.is(slots.find(from, to, service), known ?? 0);
        if (kind === "clear") {
          slots.clear();
          map.clear();
        } else if (kind === "free" && map.size > 0) {
          const [[oldest, slot]] = [...map] as [[string, number]];
          slots.free(slot);
          map.delete(oldest);
        } else if (kind === "take" && known === undefined && !slots.isFull) {
          const slot = slots.take(from, to, service);
          assert.not.ok([...map.values()].includes(slot), "a slot was given twice");
          map.set(key, slot);
        }
        assert.is(slots.size, map.size);
        for (const [each, slot] of map) {
          const parts = each.split(" ").map(Number) as [number, number, number];
          assert.is(slots.find(...parts), slot);
        }
      }
    }),
  );
});

const amounts: readonly [amount: number | bigint, counted: bigint, number: number][] = [
  [0, 0n, 0],
  [1, 1n, 1],
  [2 ** 52 - 1, 2n ** 52n - 1n, 2 ** 52 - 1],
  [2 ** 52, 2n ** 52n, 2 ** 52],
  [2 ** 53 - 1, 2n ** 53n - 1n, 2 ** 53 - 1],
  [2 ** 53, 0n, 0],
  [-1, 0n, 0],
  [0.5, 0n, 0],
  [Number.NaN, 0n, 0],
  [Number.POSITIVE_INFINITY, 0n, 0],
  [-1n, 0n, 0],
  [2n ** 53n, 2n ** 53n, 2 ** 53 - 1],
  [maxCount, maxCount, 2 ** 53 - 1],
  [maxCount + 1n, maxCount, 2 ** 53 - 1],
];

for (const [amount, counted, number] of amounts) {
  test(`Tally adds ${amount} as ${counted}, numberOf says ${number}`, () => {
    const tally = new Tally(2);
    tally.add(2, amount);
    assert.is(tally.get(2), counted);
    assert.is(tally.get(1), 0n);
    assert.is(numberOf(amount), number);
  });
}

test("Tally adds exactly what bigints would, and stays at its end", () => {
  const amount = fc.oneof(
    fc.maxSafeNat(),
    fc.bigInt({ min: 0n, max: 2n ** 64n }),
    fc.constant(2 ** 53 - 1),
    fc.constant(2n ** 63n),
  );
  fc.assert(
    fc.property(fc.array(amount, { maxLength: 20 }), (amounts) => {
      const tally = new Tally(1);
      let sum = 0n;
      for (const each of amounts) {
        tally.add(1, each);
        sum += BigInt(each);
        if (sum > maxCount) sum = maxCount;
        assert.is(tally.get(1), sum);
      }
      tally.clear(1);
      assert.is(tally.get(1), 0n);
    }),
  );
});

test.run();
