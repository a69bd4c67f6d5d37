/** Pairs and lists: plans, merges, what is stored. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { pairOf } from "../../src/flows/decision.ts";
import { Policy } from "../../src/flows/policy.ts";
import { parsePolicy } from "../../src/flows/saved.ts";
import type { End } from "../../src/kernel/plan.ts";
import { parseAddress, parseMac } from "../../src/lib/address.ts";
import { listNames } from "../../src/lib/spin.ts";

const end = (id: number): End => ({ id, addresses: [parseAddress(`10.0.0.${id}`)!], macs: [] });

test("set says whether anything changed, and how to take it back", () => {
  const policy = new Policy();
  const undo = policy.set([1, 2], true);
  assert.ok(policy.has([1, 2]));
  assert.is(policy.set([1, 2], true), undefined);
  undo!();
  assert.not.ok(policy.has([1, 2]));
  policy.set([1, 2], true);
  policy.set([1, 2], false)!();
  assert.ok(policy.has([1, 2]));
});

test("list says whether anything changed, and how to take it back", () => {
  const policy = new Policy();
  for (const list of listNames) {
    const undo = policy.list({ list, member: 1 }, true);
    assert.ok(policy.isListed(list, 1));
    assert.is(policy.list({ list, member: 1 }, true), undefined);
    undo!();
    assert.equal(policy.listed(list), []);
  }
});

test("plan names each node once, pairs in order, and only nodes that take part", () => {
  const policy = new Policy();
  for (const pair of [pairOf(10, 9), pairOf(3, 9), pairOf(9, 3)]) policy.set(pair, true);
  policy.list({ list: "block", member: 4 }, true);
  policy.list({ list: "allow", member: 9 }, true);
  policy.list({ list: "ignore", member: 7 }, true);
  assert.equal(policy.plan(end), {
    ends: [3, 4, 9, 10].map(end),
    pairs: [
      [3, 9],
      [9, 10],
    ],
    barred: [4],
    exempt: [9],
  });
});

test("plan leaves out nodes that nothing can match, and their pairs, and the decisions stay", () => {
  const policy = new Policy();
  policy.set([1, 2], true);
  policy.set([2, 3], true);
  policy.list({ list: "block", member: 1 }, true);
  const bare = (id: number) => (id === 1 ? { id, addresses: [], macs: [] } : end(id));
  assert.equal(policy.plan(bare), { ends: [end(2), end(3)], pairs: [[2, 3]], barred: [], exempt: [] });
  const gone = (id: number) => (id === 1 ? undefined : end(id));
  assert.equal(policy.plan(gone).pairs, [[2, 3]]);
  assert.equal(policy.pairs().length, 2);
  const mac = parseMac("02:00:00:00:00:01")!;
  const named = (id: number) => (id === 1 ? { id, addresses: [], macs: [mac] } : end(id));
  assert.is(policy.plan(named).pairs.length, 2);
});

test("merge carries pairs and lists over, and reports a pair that became one node", () => {
  const policy = new Policy();
  for (const pair of [pairOf(1, 2), pairOf(2, 3), pairOf(2, 9), pairOf(3, 9)]) policy.set(pair, true);
  policy.list({ list: "block", member: 2 }, true);
  policy.list({ list: "allow", member: 3 }, true);
  assert.equal(policy.merge(2, 3), { changed: true, dropped: [[2, 3]] });
  assert.equal(policy.pairs(), [
    [1, 3],
    [3, 9],
  ]);
  assert.equal(policy.listed("block"), [3]);
  assert.equal(policy.listed("allow"), [3]);
  assert.equal(policy.merge(2, 3), { changed: false, dropped: [] });
  assert.equal(policy.merge(3, 3), { changed: false, dropped: [] });
});

test("pinned is every node that a decision names", () => {
  const policy = new Policy();
  policy.set([1, 2], true);
  policy.set([2, 3], true);
  for (const [index, list] of listNames.entries()) policy.list({ list, member: 10 + index }, true);
  assert.equal(
    [...policy.pinned()].sort((a, b) => a - b),
    [1, 2, 3, 10, 11, 12],
  );
});

const decisions = fc.array(
  fc.tuple(
    fc.integer({ min: 1, max: 8 }),
    fc.integer({ min: 1, max: 8 }),
    fc.constantFrom("pair", ...listNames),
    fc.boolean(),
  ),
);

test("what is saved is read back the same", () => {
  fc.assert(
    fc.property(decisions, (rows) => {
      const policy = new Policy();
      for (const [one, other, kind, on] of rows) {
        if (kind !== "pair") policy.list({ list: kind, member: one }, on);
        else if (one !== other) policy.set(pairOf(one, other), on);
      }
      const text = JSON.stringify(policy.save());
      const back = new Policy(parsePolicy(JSON.parse(text)));
      assert.is(JSON.stringify(back.save()), text);
      assert.equal(back.plan(end), policy.plan(end));
    }),
  );
});

test("after any merges no pair is of one node or in the wrong order, and no merged id is left", () => {
  fc.assert(
    fc.property(decisions, fc.array(fc.tuple(fc.nat(7), fc.nat(7))), (rows, merges) => {
      const policy = new Policy();
      for (const [one, other, kind, on] of rows) {
        if (kind !== "pair") policy.list({ list: kind, member: one }, on);
        else if (one !== other) policy.set(pairOf(one, other), on);
      }
      const gone = new Set<number>();
      for (const [old, id] of merges) {
        if (old === id || gone.has(id + 1)) continue;
        gone.add(old + 1);
        policy.merge(old + 1, id + 1);
      }
      for (const [one, other] of policy.pairs()) assert.ok(one < other);
      for (const id of policy.pinned()) assert.not.ok(gone.has(id), `${id} was merged away`);
      parsePolicy(JSON.parse(JSON.stringify(policy.save())));
    }),
  );
});

const good = { pairs: [[1, 2]], block: [1], ignore: [], allow: [] };
const wrong: readonly unknown[] = [
  undefined,
  null,
  [],
  "x",
  {},
  { ...good, pairs: undefined },
  { ...good, pairs: {} },
  { ...good, pairs: [[2, 1]] },
  { ...good, pairs: [[1, 1]] },
  { ...good, pairs: [[0, 1]] },
  { ...good, pairs: [[1, 2, 3]] },
  { ...good, pairs: [["1", "2"]] },
  { ...good, pairs: [[1.5, 2]] },
  { ...good, pairs: [[1, 2 ** 53]] },
  { ...good, pairs: ["12"] },
  { ...good, block: undefined },
  { ...good, ignore: [-1] },
  { ...good, allow: ["__proto__"] },
];

for (const state of wrong) {
  test(`parsePolicy refuses ${JSON.stringify(state)}`, () => {
    assert.throws(
      () => parsePolicy(state),
      (thrown: unknown) => thrown instanceof SyntaxError,
    );
  });
}

test("parsePolicy throws nothing but SyntaxError", () => {
  const json = fc.oneof(
    fc.jsonValue(),
    fc.record({
      pairs: fc.jsonValue(),
      block: fc.jsonValue(),
      ignore: fc.jsonValue(),
      allow: fc.jsonValue(),
    }),
  );
  fc.assert(
    fc.property(json, (state) => {
      try {
        parsePolicy(state);
      } catch (thrown) {
        assert.ok(thrown instanceof SyntaxError);
      }
    }),
  );
});

test.run();
