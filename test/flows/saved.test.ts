/** Decisions on disk: what earlier versions wrote and read, and what is refused. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { authorOf } from "../../src/flows/decision.ts";
import { flowsFormat } from "../../src/flows/flows.ts";
import { Policy } from "../../src/flows/policy.ts";
import { parsePolicy, policyVersion } from "../../src/flows/saved.ts";
import { parsePrefix } from "../../src/lib/address.ts";

const net = (text: string) => parsePrefix(text)!;
const plain = { pairs: [[1, 2]], block: [3], ignore: [], allow: [4] };

test("a file without prefixes, as the first version wrote it, loads and is written the same", () => {
  assert.is(policyVersion, 1);
  assert.is(flowsFormat.version, 1);
  const policy = new Policy(parsePolicy(JSON.parse(JSON.stringify(plain))));
  assert.equal(policy.pairs(), [[1, 2]]);
  assert.equal(policy.listed("block"), [3]);
  assert.is(JSON.stringify(policy.save()), JSON.stringify(plain));
});

test("what was decided is written in the present form, and read back the same", () => {
  const policy = new Policy();
  policy.set([1, 2], true);
  policy.set([3, 9], true, "root");
  policy.list({ list: "block", member: 3 }, true, "root");
  policy.list({ list: "block", member: net("10.0.0.0/24") }, true, "root");
  policy.list({ list: "ignore", member: net("fd00::1") }, true);
  policy.merge(3, 4);
  policy.set([4, 8], true, "anna");
  const state = {
    pairs: [
      [1, 2],
      [4, 8],
      [4, 9],
    ],
    block: [4],
    ignore: [],
    allow: [],
    nets: { block: ["10.0.0.0/24"], ignore: ["fd00::1/128"], allow: [] },
    merged: [[3, 4, 1]],
    made: [
      { by: "anna", epoch: 1, pairs: [[4, 8]] },
      { by: "root", pairs: [[3, 9]], block: [3, "10.0.0.0/24"] },
    ],
  };
  assert.equal(JSON.parse(JSON.stringify(policy.save())), state);
  const back = new Policy(parsePolicy(state));
  assert.is(JSON.stringify(back.save()), JSON.stringify(policy.save()));
  assert.is(back.pairEntry([4, 8])?.by, "anna");
  assert.is(back.netEntries("block")[0]?.by, "root");
  back.split(3, 4);
  assert.equal(back.pairs(), [
    [1, 2],
    [3, 8],
    [3, 9],
    [4, 8],
  ]);
});

const wrong: readonly [why: string, more: Record<string, unknown>][] = [
  ["nets are a list", { nets: [] }],
  ["nets are nothing", { nets: null }],
  ["nets lack a list", { nets: { block: [], ignore: [] } }],
  ["a net with host bits", { nets: { block: ["10.0.0.1/24"], ignore: [], allow: [] } }],
  ["a net without length", { nets: { block: ["10.0.0.1"], ignore: [], allow: [] } }],
  ["a net that is a number", { nets: { block: [7], ignore: [], allow: [] } }],
  ["merges are no list", { merged: {} }],
  ["a merge of two numbers", { merged: [[1, 2]] }],
  ["a merge without epoch", { merged: [[1, 2, 0]] }],
  ["a merge with itself", { merged: [[1, 1, 1]] }],
  [
    "an id that went twice",
    {
      merged: [
        [1, 2, 1],
        [1, 3, 2],
      ],
    },
  ],
  [
    "merges in a circle",
    {
      merged: [
        [1, 2, 1],
        [2, 3, 2],
        [3, 1, 3],
      ],
    },
  ],
  ["a group that is a list", { made: [[]] }],
  ["a group of nobody", { made: [{ by: 7 }] }],
  ["a group of somebody with a very long name", { made: [{ by: "x".repeat(65) }] }],
  ["a group of half an epoch", { made: [{ epoch: 0.5 }] }],
  ["a group of no pairs", { made: [{ pairs: "12" }] }],
  ["a pair in the wrong order in a group", { made: [{ pairs: [[2, 1]] }] }],
  ["a prefix that is none in a group", { made: [{ block: ["__proto__"] }] }],
];

for (const [why, more] of wrong) {
  test(`parsePolicy refuses: ${why}`, () => {
    assert.throws(
      () => parsePolicy({ ...plain, ...more }),
      (thrown: unknown) => thrown instanceof SyntaxError,
    );
  });
}

/** A state with one thing in it replaced by another. */
const mutated = (state: unknown, path: readonly number[], value: unknown): unknown => {
  if (typeof state !== "object" || state === null || path.length === 0) return value;
  const keys = Object.keys(state);
  if (keys.length === 0) return value;
  const key = keys[path[0]! % keys.length]!;
  const copy = (Array.isArray(state) ? [...state] : { ...state }) as Record<string, unknown>;
  copy[key] = mutated(copy[key], path.slice(1), value);
  return copy;
};

test("parsePolicy throws nothing but SyntaxError, and what it takes can be used and saved", () => {
  const whole = {
    ...plain,
    nets: { block: ["10.0.0.0/24"], ignore: [], allow: ["fd00::/8"] },
    merged: [
      [3, 4, 1],
      [4, 7, 2],
    ],
    made: [{ by: "root", epoch: 1, pairs: [[3, 9]], block: [3, "10.0.0.0/24"] }, {}],
  };
  const value = fc.oneof(
    fc.jsonValue(),
    fc.nat(9),
    fc.constantFrom([1, 2], [4, 3, 9], "10.0.0.0/8", "::/0", "__proto__", 2 ** 53, [], {}),
  );
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.array(fc.nat(9), { maxLength: 5 }), value), { maxLength: 3 }),
      (changes) => {
        const state = changes.reduce<unknown>((all, [path, to]) => mutated(all, path, to), whole);
        let policy: Policy;
        try {
          policy = new Policy(parsePolicy(state));
        } catch (thrown) {
          assert.ok(thrown instanceof SyntaxError, String(thrown));
          return;
        }
        const text = JSON.stringify(policy.save());
        const again = new Policy(parsePolicy(JSON.parse(text)));
        assert.equal(again.pairs(), policy.pairs());
        assert.equal(again.pinned(), policy.pinned());
        policy.split(3, 4);
        policy.merge(1, 9);
      },
    ),
    { numRuns: 1_000 },
  );
});

test("a state of great depth or length is refused as text, and not by the stack", () => {
  let deep: unknown = 1;
  for (let depth = 0; depth < 100_000; depth++) deep = [deep];
  for (const state of [
    deep,
    { ...plain, block: [deep] },
    { ...plain, pairs: [deep] },
    { ...plain, merged: [[deep, deep, deep]] },
    { ...plain, made: [deep] },
    { ...plain, ignore: ["x".repeat(1_000_000)] },
  ]) {
    let thrown: unknown;
    try {
      parsePolicy(state);
    } catch (each) {
      thrown = each;
    }
    assert.ok(thrown instanceof SyntaxError, String(thrown));
    assert.ok(thrown.message.length < 300);
  }
});

const names: readonly [given: string, kept: string][] = [
  ["root", "root"],
  ["", ""],
  ["a\nb\u0000c\u2028d", "abcd"],
  ["x".repeat(100), "x".repeat(64)],
  ["__proto__", "__proto__"],
];

for (const [given, kept] of names) {
  test(`authorOf keeps ${JSON.stringify(given).slice(0, 20)} as ${kept.length} characters`, () => {
    assert.is(authorOf(given), kept);
    const policy = new Policy();
    policy.set([1, 2], true, kept);
    assert.is(new Policy(parsePolicy(JSON.parse(JSON.stringify(policy.save())))).pairEntry([1, 2])?.by, kept);
  });
}

test.run();
