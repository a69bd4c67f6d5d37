/** Merges of nodes that carry decisions, and what becomes of these when a merge is undone. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { pairOf } from "../../src/flows/decision.ts";
import { Merges } from "../../src/flows/merges.ts";
import { Policy } from "../../src/flows/policy.ts";
import { parsePolicy } from "../../src/flows/saved.ts";
import { Standings } from "../../src/flows/standings.ts";
import { type ListName, listNames } from "../../src/lib/spin.ts";

const reload = (policy: Policy) => new Policy(parsePolicy(JSON.parse(JSON.stringify(policy.save()))));
const on = (policy: Policy, list: ListName, node: number) => policy.list({ list, member: node }, true);

test("split gives each node back exactly what was decided about it before the merge", () => {
  const policy = new Policy();
  for (const pair of [pairOf(1, 8), pairOf(2, 8), pairOf(2, 9)]) policy.set(pair, true);
  on(policy, "block", 1);
  on(policy, "allow", 2);
  policy.merge(1, 2);
  assert.equal(policy.pairs(), [
    [2, 8],
    [2, 9],
  ]);
  assert.equal([policy.listed("block"), policy.listed("allow")], [[2], [2]]);
  assert.ok(policy.split(1, 2));
  assert.equal(policy.pairs(), [
    [1, 8],
    [2, 8],
    [2, 9],
  ]);
  assert.equal([policy.listed("block"), policy.listed("allow")], [[1], [2]]);
});

test("what was decided about the merged node holds for both after the split", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.merge(1, 2);
  policy.set([2, 9], true);
  on(policy, "block", 2);
  policy.split(1, 2);
  assert.equal(policy.pairs(), [
    [1, 8],
    [1, 9],
    [2, 9],
  ]);
  assert.equal(policy.listed("block"), [1, 2]);
});

test("what was taken back of the merged node is back for neither", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.set([2, 8], true);
  on(policy, "ignore", 1);
  policy.merge(1, 2);
  policy.set([2, 8], false);
  policy.list({ list: "ignore", member: 2 }, false);
  policy.split(1, 2);
  assert.equal(policy.pairs(), []);
  assert.equal(policy.listed("ignore"), []);
});

test("the block of two nodes that become one sleeps, and is back when they part", () => {
  const policy = new Policy();
  policy.set([1, 2], true);
  assert.equal(policy.merge(1, 2), { changed: true, dropped: [[1, 2]] });
  assert.equal(policy.pairs(), []);
  assert.equal(policy.counters, { pairs: 0, pairDecisions: 1 });
  const later = reload(policy);
  later.split(1, 2);
  assert.equal(later.pairs(), [[1, 2]]);
});

test("both nodes keep all decisions when the merge is not known", () => {
  const policy = new Policy();
  policy.merge(1, 2);
  policy.set([2, 8], true);
  on(policy, "block", 2);
  assert.ok(policy.split(1, 2));
  assert.equal(policy.pairs(), [
    [1, 8],
    [2, 8],
  ]);
  assert.equal(policy.listed("block"), [1, 2]);
  assert.not.ok(policy.split(4, 5), "there was nothing to keep");
});

test("a node that went into one that went itself still gets its own back", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.set([2, 9], true);
  policy.merge(1, 2);
  policy.merge(2, 3);
  policy.set([3, 7], true);
  assert.equal(policy.pairs(), [
    [3, 7],
    [3, 8],
    [3, 9],
  ]);
  const first = reload(policy);
  first.split(1, 3);
  assert.equal(first.pairs(), [
    [1, 7],
    [1, 8],
    [3, 7],
    [3, 9],
  ]);
  // The one in the middle takes the first along.
  const middle = reload(policy);
  middle.split(2, 3);
  assert.equal(middle.pairs(), [
    [2, 7],
    [2, 8],
    [2, 9],
    [3, 7],
  ]);
});

test("an id without decisions that others went into is remembered all the same", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.merge(1, 2);
  policy.set([2, 8], false);
  policy.merge(2, 3);
  policy.set([3, 9], true);
  const living: Record<number, number> = { 1: 3, 2: 3 };
  assert.not.ok(
    reload(policy).reconcile((id) => living[id] ?? id),
    "all is as the nodes have it",
  );
  policy.split(1, 3);
  assert.equal(policy.pairs(), [
    [1, 9],
    [3, 9],
  ]);
});

test("what sleeps in a node is not copied to a part that is not known", () => {
  const policy = new Policy();
  policy.set([1, 2], true);
  policy.merge(1, 2);
  assert.not.ok(policy.split(7, 2));
  assert.equal(policy.pairs(), []);
});

test("a part of another node than we knew keeps what both had", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.merge(1, 2);
  policy.set([3, 9], true);
  policy.split(1, 3);
  assert.equal(policy.pairs(), [
    [1, 8],
    [1, 9],
    [3, 9],
  ]);
});

test("decisions that say the same are one, with the hits of both and as late as the later", () => {
  const standings = new Standings((id) => id);
  const common = { one: 1, other: 2, by: "" };
  standings.filePair({ ...common, epoch: 1, hits: 2, lastHitAt: 5 });
  standings.filePair({ ...common, epoch: 4, by: "anna", hits: 3, lastHitAt: undefined });
  standings.filePair({ ...common, epoch: 2, hits: 0, lastHitAt: 7 });
  assert.equal(standings.pair(2, 1), [{ ...common, epoch: 4, by: "anna", hits: 5, lastHitAt: 7 }]);
  assert.equal(standings.counters, { pairs: 1, pairDecisions: 1 });
});

test("forget leaves decisions where they stand, for good", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.set([1, 2], true);
  on(policy, "block", 1);
  policy.merge(1, 2);
  assert.ok(policy.forget(1));
  assert.not.ok(policy.forget(1));
  assert.equal(policy.pairs(), [[2, 8]]);
  assert.equal(policy.counters, { pairs: 1, pairDecisions: 1 });
  policy.split(1, 2);
  assert.equal(policy.pairs(), [
    [1, 8],
    [2, 8],
  ]);
  assert.equal(policy.listed("block"), [1, 2]);
});

test("the oldest merge is forgotten when there are too many, and no decision with it", () => {
  const policy = new Policy();
  const count = 4_100;
  for (let id = 1; id <= count; id++) policy.set([id, 10_000], true);
  for (let id = 1; id <= count; id++) policy.merge(id, 9_999);
  assert.equal(policy.pairs(), [[9_999, 10_000]]);
  const { merged } = policy.save() as unknown as { merged: unknown[] };
  assert.is(merged.length, 4_096);
  policy.split(count, 9_999);
  policy.split(1, 9_999);
  assert.ok(policy.has([1, 10_000]) && policy.has([count, 10_000]) && policy.has([9_999, 10_000]));
});

test("a merge of an id that we took for a part of another undoes that first", () => {
  const policy = new Policy();
  policy.set([1, 8], true);
  policy.merge(1, 2);
  policy.merge(1, 3);
  assert.equal(policy.pairs(), [[3, 8]]);
  policy.merge(3, 1);
  assert.equal(policy.pairs(), [[1, 8]]);
});

const states: readonly [why: string, living: Record<number, number | undefined>, pairs: number[][]][] = [
  ["as we left it", { 1: 2, 2: 2, 8: 8 }, [[2, 8]]],
  ["the merge was lost", { 1: 1, 2: 2, 8: 8 }, [[1, 8]]],
  ["the merge was another one", { 1: 3, 2: 2, 8: 8 }, [[3, 8]]],
  ["one merge more", { 1: 4, 2: 4, 8: 8 }, [[4, 8]]],
  ["nobody is known", {}, [[2, 8]]],
  ["the other end went too", { 1: 2, 2: 2, 8: 9 }, [[2, 9]]],
];

for (const [why, living, pairs] of states) {
  test(`reconcile after a crash: ${why}`, () => {
    const policy = new Policy();
    policy.set([1, 8], true);
    policy.merge(1, 2);
    const later = reload(policy);
    const changed = later.reconcile((id) => living[id]);
    assert.is(changed, JSON.stringify(pairs) !== "[[2,8]]");
    assert.equal(later.pairs(), pairs);
    assert.not.ok(later.reconcile((id) => living[id]));
  });
}

test("Merges finds the root and the way there, also past what was forgotten", () => {
  const merges = new Merges();
  merges.add(1, 2);
  merges.add(2, 3);
  merges.add(3, 4);
  assert.is(merges.root(1), 4);
  assert.equal(
    merges.path(1).map((each) => each.into),
    [2, 3, 4],
  );
  assert.is(merges.forget(2), 3);
  assert.equal(
    merges.path(1).map(({ into, epoch }) => [into, epoch]),
    [
      [3, 2],
      [4, 3],
    ],
  );
  merges.cut(3);
  assert.is(merges.root(1), 3);
  assert.is(merges.epoch, 3);
});

/**
 * What the user sees, in the plainest way: every part of a node has decisions of its own. A decision on a node is
 * one on each of its parts, a merge unites parts, a split takes one with what went into it away again.
 */
class Parts {
  readonly into = new Map<number, number>();
  readonly cut = new Set<string>();
  readonly lists = new Set<string>();

  root(id: number): number {
    return this.into.has(id) ? this.root(this.into.get(id)!) : id;
  }

  of(root: number, ids: readonly number[]): number[] {
    return ids.filter((id) => this.root(id) === root);
  }
}

const ids = [1, 2, 3, 4, 5, 6, 7];
const name = (one: number, other: number) => pairOf(one, other).join(" ");

class Model {
  readonly parts = new Parts();

  roots(): number[] {
    return ids.filter((id) => !this.parts.into.has(id));
  }

  isCut(one: number, other: number): boolean {
    const others = this.parts.of(other, ids);
    return this.parts
      .of(one, ids)
      .some((left) => others.some((right) => this.parts.cut.has(name(left, right))));
  }

  isListed(list: ListName, id: number): boolean {
    return this.parts.of(id, ids).some((part) => this.parts.lists.has(`${list} ${part}`));
  }

  set(one: number, other: number, blocked: boolean): void {
    if (blocked === this.isCut(one, other)) return;
    for (const left of this.parts.of(one, ids)) {
      for (const right of this.parts.of(other, ids)) {
        if (blocked) this.parts.cut.add(name(left, right));
        else this.parts.cut.delete(name(left, right));
      }
    }
  }

  list(list: ListName, id: number, listed: boolean): void {
    if (listed === this.isListed(list, id)) return;
    for (const part of this.parts.of(id, ids)) {
      if (listed) this.parts.lists.add(`${list} ${part}`);
      else this.parts.lists.delete(`${list} ${part}`);
    }
  }
}

const step = fc.record({
  kind: fc.constantFrom("set", "set", "list", "merge", "split", "undo", "reload", "hit"),
  one: fc.nat(6),
  other: fc.nat(6),
  on: fc.boolean(),
  list: fc.constantFrom(...listNames),
});

test("any blocks, lists, merges, splits, undos and restarts end as in the plainest model", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const model = new Model();
      // A node that is named is a merge that is known: each starts with a decision of its own.
      let policy = new Policy();
      for (const id of ids) {
        model.list("ignore", id, true);
        on(policy, "ignore", id);
      }
      for (const { kind, one: first, other: second, on: listed, list } of steps) {
        const roots = model.roots();
        const one = roots[first % roots.length]!;
        const other = roots[second % roots.length]!;
        if (kind === "set" && one !== other) {
          model.set(one, other, listed);
          policy.set(pairOf(one, other), listed, listed ? "somebody" : "");
        } else if (kind === "list" && list !== "ignore") {
          model.list(list, one, listed);
          policy.list({ list, member: one }, listed);
        } else if (kind === "merge" && one !== other) {
          model.parts.into.set(one, other);
          policy.merge(one, other);
        } else if (kind === "split") {
          const gone = ids.filter((id) => model.parts.into.has(id));
          const old = gone[first % (gone.length || 1)];
          if (old === undefined) continue;
          policy.split(old, model.parts.root(old));
          model.parts.into.delete(old);
        } else if (kind === "undo" && one !== other) {
          const before = JSON.stringify(policy.save());
          const undos = [
            policy.set(pairOf(one, other), listed),
            policy.list({ list, member: one }, !listed),
            policy.list({ list, member: other }, listed),
          ];
          for (const undo of undos.reverse()) undo?.();
          assert.is(JSON.stringify(policy.save()), before);
        } else if (kind === "reload") {
          const text = JSON.stringify(policy.save());
          policy = reload(policy);
          assert.is(JSON.stringify(policy.save()), text);
        } else if (kind === "hit") {
          policy.stopped({ from: one, to: other, at: first });
        }
        const expected = model.roots();
        assert.equal(
          policy.pairs(),
          expected.flatMap((left) =>
            expected
              .filter((right) => right > left && model.isCut(left, right))
              .map((right) => [left, right]),
          ),
        );
        for (const each of listNames) {
          assert.equal(
            policy.listed(each),
            expected.filter((id) => model.isListed(each, id)),
          );
        }
        assert.is(policy.counters.pairs, policy.pairs().length);
      }
    }),
    { numRuns: 400 },
  );
});

test("no split leaves a node without a block that it had before the merge or got since", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const model = new Model();
      const policy = new Policy();
      for (const { kind, one: first, other: second, on: blocked } of steps) {
        const roots = model.roots();
        const one = roots[first % roots.length]!;
        const other = roots[second % roots.length]!;
        if (kind === "set" && one !== other) {
          if (blocked || model.isCut(one, other)) {
            model.set(one, other, blocked);
            policy.set(pairOf(one, other), blocked);
          }
        } else if (kind === "merge" && one !== other) {
          model.parts.into.set(one, other);
          policy.merge(one, other);
        } else if (kind === "split") {
          const gone = ids.filter((id) => model.parts.into.has(id));
          const old = gone[first % (gone.length || 1)];
          if (old === undefined) continue;
          policy.split(old, model.parts.root(old));
          model.parts.into.delete(old);
        }
        const expected = model.roots();
        for (const left of expected) {
          for (const right of expected) {
            if (left < right && model.isCut(left, right))
              assert.ok(policy.has([left, right]), `${left} ${right}`);
          }
        }
      }
    }),
    { numRuns: 400 },
  );
});

test.run();
