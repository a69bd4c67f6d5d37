/** Leases and pools against a naive book that looks at everything each time. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, contains, type Prefix, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { Leases } from "../../src/lib/lease.ts";
import { addressesIn, lowestNumbers, randomNumbers } from "../../src/lib/pool.ts";

const terms = (now: number, lifeMs = 1_000) => ({ now, lifeMs, note: undefined });
const prefix = (text: string) => parsePrefix(text) as Prefix;
const address = (text: string) => parseAddress(text) as Address;

function granted<Value extends string | number>(book: Leases<Value>, key: string, now: number): Value {
  const grant = book.take(key, terms(now));
  assert.is(grant.kind, "granted");
  return (grant as { lease: { value: Value } }).lease.value;
}

test("take gives the lowest free number, and the same one to the same key", () => {
  const book = new Leases({ pool: lowestNumbers(100, 3), restMs: 0 });
  assert.equal([granted(book, "a", 0), granted(book, "b", 0), granted(book, "a", 0)], [100, 101, 100]);
  book.release("a", 1);
  assert.is(granted(book, "c", 2), 100);
  assert.is(granted(book, "d", 2), 102);
  assert.is(book.take("e", terms(2)).kind, "full");
});

test("a value rests before another key gets it, and its last key gets it back meanwhile", () => {
  const book = new Leases({ pool: lowestNumbers(1, 10), restMs: 60 });
  granted(book, "a", 0);
  book.release("a", 0);
  assert.is(granted(book, "b", 10), 2);
  assert.is(granted(book, "a", 20), 1);
  book.release("a", 30);
  assert.is(granted(book, "c", 90), 1);
  assert.is(granted(book, "a", 91), 3);
});

test("what rests can be carried over: restoreRest keeps it from others, and for the key that had it", () => {
  const book = new Leases({ pool: lowestNumbers(1, 10), restMs: 60 });
  granted(book, "a", 0);
  granted(book, "b", 0);
  book.release("a", 0);
  book.release("b", 10);
  const later = new Leases({ pool: lowestNumbers(1, 10), restMs: 60 });
  for (const rest of book.rests()) assert.ok(later.restoreRest(rest));
  assert.not.ok(later.restoreRest({ key: "c", value: 1, untilAt: 99 }));
  assert.not.ok(later.restoreRest({ key: "c", value: 11, untilAt: 99 }));
  assert.is(granted(later, "c", 20), 3);
  assert.is(granted(later, "b", 20), 2);
  assert.not.ok(later.restoreRest({ key: "d", value: 2, untilAt: 99 }));
  assert.is(granted(later, "d", 60), 1);
});

test("a lease ends when it is not renewed, and not before", () => {
  const book = new Leases({ pool: lowestNumbers(1, 10), restMs: 0 });
  granted(book, "a", 0);
  granted(book, "b", 0);
  book.renew("b", 900, 1_000);
  assert.equal(book.expire(999), []);
  assert.equal(
    book.expire(1_000).map((lease) => lease.key),
    ["a"],
  );
  assert.equal(
    book.expire(1_900).map((lease) => lease.key),
    ["b"],
  );
  assert.is(book.size, 0);
});

test("a value that somebody else uses is passed over, and used when that has ended", () => {
  const book = new Leases({ pool: lowestNumbers(1, 3), restMs: 0 });
  const without = (foreign: number) => ({ ...terms(0), isFree: (value: number) => value !== foreign });
  const values = ["a", "b"].map((key) => {
    const grant = book.take(key, without(1));
    return grant.kind === "granted" && grant.lease.value;
  });
  assert.equal(values, [2, 3]);
  assert.is(book.take("c", without(1)).kind, "full");
  assert.is(granted(book, "c", 0), 1);
});

test("restore takes a lease once, and none that the pool has not", () => {
  const book = new Leases({ pool: lowestNumbers(1, 2), restMs: 0 });
  const lease = { key: "a", value: 2, note: undefined, grantedAt: 0, endsAt: 10 };
  assert.is(book.restore(lease), true);
  assert.is(book.restore({ ...lease, key: "b" }), false);
  assert.is(book.restore({ ...lease, value: 1 }), false);
  assert.is(book.restore({ ...lease, key: "b", value: 3 }), false);
  assert.is(granted(book, "b", 0), 1);
});

test("whatever happens, no value is out twice, none rests that is out, and keys keep theirs", () => {
  const command = fc.record({
    verb: fc.constantFrom("take", "take", "renew", "release", "wait" as const),
    key: fc.constantFrom(..."abcdefgh"),
    ms: fc.integer({ min: 0, max: 400 }),
  });
  fc.assert(
    fc.property(
      fc.array(command, { maxLength: 200 }),
      fc.integer({ min: 0, max: 500 }),
      (commands, restMs) => {
        const book = new Leases({ pool: lowestNumbers(10, 5), restMs });
        const model = new Map<string, { value: number; endsAt: number }>();
        const rest = new Map<number, { key: string; untilAt: number }>();
        let now = 0;
        const end = (key: string) => {
          rest.set(model.get(key)!.value, { key, untilAt: now + restMs });
          model.delete(key);
        };
        for (const { verb, key, ms } of commands) {
          if (verb === "wait") now += ms;
          for (const [value, { untilAt }] of rest) if (untilAt <= now) rest.delete(value);
          const over = [...model].filter(([, { endsAt }]) => endsAt <= now).map(([each]) => each);
          assert.equal(
            book
              .expire(now)
              .map((lease) => lease.key)
              .sort(),
            over.sort(),
          );
          over.forEach(end);
          for (const [value, { untilAt }] of rest) if (untilAt <= now) rest.delete(value);
          if (verb === "take") {
            const grant = book.take(key, terms(now, 300));
            const mine = [...rest].filter(([, each]) => each.key === key).pop()?.[0];
            const free = [10, 11, 12, 13, 14].find(
              (value) => !rest.has(value) && ![...model.values()].some((each) => each.value === value),
            );
            const expected = model.get(key)?.value ?? mine ?? free;
            assert.is(grant.kind === "granted" ? grant.lease.value : undefined, expected);
            if (expected !== undefined) {
              rest.delete(expected);
              model.set(key, { value: expected, endsAt: now + 300 });
            }
          } else if (verb === "renew") {
            assert.is(book.renew(key, now, 300) !== undefined, model.has(key));
            if (model.has(key)) model.get(key)!.endsAt = now + 300;
          } else if (verb === "release") {
            assert.is(book.release(key, now)?.value, model.get(key)?.value);
            if (model.has(key)) end(key);
          }
          assert.is(book.size, model.size);
          for (const [each, { value }] of model) assert.is(book.holder(value)?.key, each);
        }
      },
    ),
  );
});

test("randomNumbers finds the last free number of a range", () => {
  let seed = 7;
  const draw = (limit: number) => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % limit;
  };
  const pool = randomNumbers(1_000, 500, draw);
  for (const left of [1_000, 1_250, 1_499])
    assert.is(
      pool.propose((value) => value === left),
      left,
    );
  assert.is(
    pool.propose(() => false),
    undefined,
  );
});

test("addressesIn leaves out addresses that name no host, in both families", () => {
  const pool4 = addressesIn(prefix("192.0.2.0/30"));
  const book = new Leases({ pool: pool4, restMs: 0 });
  assert.equal([granted(book, "a", 0), granted(book, "b", 0)], ["192.0.2.1", "192.0.2.2"]);
  assert.is(book.take("c", terms(0)).kind, "full");
  const pool6 = addressesIn(prefix("2001:db8:0:1::/64"));
  assert.is(
    pool6.propose(() => true),
    "2001:db8:0:1::1",
  );
  assert.is(pool6.has(address("2001:db8:0:1::")), false);
  assert.is(pool6.has(address("2001:db8:0:1::5")), true);
  assert.is(pool6.has(address("2001:db8:0:1:1::5")), false);
  assert.is(pool6.has(address("2001:db8:0:2::5")), false);
  assert.is(pool4.has(address("2001:db8::1")), false);
  assert.is(
    addressesIn(prefix("192.0.2.9/32")).propose(() => true),
    "192.0.2.9",
  );
});

test("addressesIn proposes nothing outside its prefix", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 32 }), fc.nat(2 ** 31 - 1), (length, seed) => {
      const net = prefix(`10.240.0.0/${Math.max(length, 12)}`);
      const pool = addressesIn(net, (limit) => seed % limit);
      const value = pool.propose(() => true)!;
      assert.ok(contains(net, value));
      assert.ok(pool.has(value));
    }),
  );
});

test.run();
