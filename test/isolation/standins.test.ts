/** Stand-ins as leases: one holder each, off every network here, at rest after use. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { overlap, StandIns } from "../../src/isolation/standins.ts";
import { contains } from "../../src/lib/address.ts";
import { address, prefix, seeded } from "./house.ts";

const open = (pool4 = "198.18.0.0/28", restMs = 100) =>
  new StandIns({ pool4: prefix(pool4), pool6: prefix("fd00:6a7e::/64"), draw: seeded(3), restMs });

test("whatever is taken, released, avoided and settled: no address has two holders, rests and is out, or is near", () => {
  const verb = fc.constantFrom("take", "release", "settle", "avoid", "wait");
  fc.assert(
    fc.property(fc.array(fc.tuple(verb, fc.nat(9)), { maxLength: 60 }), (steps) => {
      const standIns = open();
      let now = 0;
      let taboo = prefix("10.0.0.0/8");
      const endedAt = new Map<string, { key: string; at: number }>();
      const before = new Map<string, string>();
      for (const [what, at] of steps) {
        const key = `k${at}`;
        if (what === "take") {
          try {
            standIns.take(key, now);
          } catch {
            // The pool has none left.
          }
        } else if (what === "release") standIns.release(key, now);
        else if (what === "settle") standIns.settle(new Set([key, "k0"]), now);
        else if (what === "avoid") {
          taboo = prefix(`198.18.0.${at}/30`);
          standIns.avoid([taboo], now);
        } else now += 40;
        const out = new Map([...standIns.keys()].map((each) => [standIns.get(each)![4] as string, each]));
        assert.is(out.size, standIns.size, "each has its own");
        for (const [value, holder] of out) {
          assert.not(contains(taboo, address(value)), `${value} is near`);
          assert.is(standIns.holder(address(value)), holder);
          const ended = endedAt.get(value);
          if (ended && ended.key !== holder) assert.ok(now - ended.at >= 100, `${value} did not rest`);
          endedAt.delete(value);
        }
        for (const [value, holder] of before)
          if (out.get(value) !== holder) endedAt.set(value, { key: holder, at: now });
        before.clear();
        for (const [value, holder] of out) before.set(value, holder);
      }
    }),
    { numRuns: 300 },
  );
});

test("what was saved comes back, once; foreign or doubled addresses don't", () => {
  const standIns = open();
  const one = { 4: address("198.18.0.5"), 6: address("fd00:6a7e::5") };
  assert.ok(standIns.restore("a", one));
  assert.not(standIns.restore("a", { 4: address("198.18.0.6"), 6: address("fd00:6a7e::6") }));
  assert.not(standIns.restore("b", one));
  assert.not(standIns.restore("c", { 4: address("198.18.0.7"), 6: one[6] }));
  assert.not(standIns.restore("d", { 4: address("10.0.0.1"), 6: address("fd00:6a7e::9") }));
  assert.is(standIns.size, 1);
  assert.equal(standIns.take("a", 0), one);
  assert.is(standIns.get("c"), undefined);
  assert.is(standIns.holder(address("198.18.0.7")), undefined, "half a stand-in is none");
});

test("overlap: prefixes with addresses in common, either way round; a default route is no network", () => {
  const rows: [string, string, boolean][] = [
    ["198.18.0.0/15", "198.19.0.0/16", true],
    ["198.18.0.0/15", "198.16.0.0/12", true],
    ["198.18.0.0/15", "198.20.0.0/16", false],
    ["198.18.0.0/15", "0.0.0.0/0", false],
    ["fd00:6a7e::/64", "fd00:6a7e::/48", true],
    ["fd00:6a7e::/64", "198.18.0.0/15", false],
  ];
  for (const [one, other, wanted] of rows)
    assert.is(overlap(prefix(one), prefix(other)), wanted, `${one} ${other}`);
});

test.run();
