/** Why two ends may or may not speak, and a device's flows as SPIN lists them. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows, type Party } from "../../src/flows/flows.ts";
import { parseAddress, parsePrefix } from "../../src/lib/address.ts";

const net = (text: string) => parsePrefix(text)!;
const address = (text: string) => parseAddress(text)!;
const make = () => new Flows({ resolve: (id) => id, commit: async () => {} });
const dateOf = (at: number) => 1_795_228_693_000 + at;

const camera: Party = { nodes: [4], addresses: [address("10.77.0.12")] };
const web: Party = { nodes: [8, 9], addresses: [address("198.51.100.10")] };
const nothing = { allowed_by: [], blocked_by: [], hidden_by: [] };

const rows: readonly [why: string, decide: (flows: Flows) => Promise<unknown>[], expected: object][] = [
  ["nothing was decided", () => [], { verdict: "pass", ...nothing }],
  [
    "a pair, of any node that shares the address",
    (flows) => [flows.as("anna").block(9, 4)],
    { verdict: "drop", ...nothing, blocked_by: [{ node1: 4, node2: 9, by: "anna", hits: 0 }] },
  ],
  ["a pair of others", (flows) => [flows.block(4, 7)], { verdict: "pass", ...nothing }],
  [
    "the block list, by node",
    (flows) => [flows.list("block", 8, true)],
    { verdict: "drop", ...nothing, blocked_by: [{ list: "block", node: 8, hits: 0 }] },
  ],
  [
    "the block list, by all prefixes around the address, each once",
    (flows) => [
      flows.listNet("block", net("198.51.100.10"), true),
      flows.as("root").listNet("block", net("0.0.0.0/0"), true),
    ],
    {
      verdict: "drop",
      ...nothing,
      blocked_by: [
        { list: "block", address: "0.0.0.0/0", by: "root", hits: 0 },
        { list: "block", address: "198.51.100.10", hits: 0 },
      ],
    },
  ],
  [
    "the allow list beats pairs and the block list",
    (flows) => [
      flows.block(4, 8),
      flows.list("block", 4, true),
      flows.listNet("allow", net("10.77.0.0/24"), true),
    ],
    {
      verdict: "pass",
      allowed_by: [{ list: "allow", address: "10.77.0.0/24", hits: 0 }],
      blocked_by: [
        { node1: 4, node2: 8, hits: 0 },
        { list: "block", node: 4, hits: 0 },
      ],
      hidden_by: [],
    },
  ],
  [
    "the ignore list hides and stops nothing",
    (flows) => [flows.list("ignore", 4, true)],
    { verdict: "pass", ...nothing, hidden_by: [{ list: "ignore", node: 4, hits: 0 }] },
  ],
];

for (const [why, decide, expected] of rows) {
  test(`explain: ${why}`, async () => {
    const flows = make();
    await Promise.all(decide(flows));
    const explained = flows.explain([camera, web], dateOf);
    assert.equal(explained, expected);
    assert.is(flows.explain([web, camera], dateOf).verdict, explained.verdict);
    assert.equal(JSON.parse(JSON.stringify(explained)), explained, "it is plain data");
  });
}

test("explain asks for as little as is known: a node, or an address", async () => {
  const flows = make();
  await flows.list("block", 4, true);
  await flows.listNet("block", net("198.51.100.0/24"), true);
  const verdict = (one: Party, other: Party) => flows.explain([one, other], dateOf).verdict;
  assert.is(verdict({ nodes: [4] }, {}), "drop");
  assert.is(verdict({}, { addresses: [address("198.51.100.99")] }), "drop");
  assert.is(verdict({ nodes: [5] }, { addresses: [address("198.51.101.1")] }), "pass");
  assert.is(verdict({ nodes: [5] }, { nodes: [5] }), "pass");
});

test("explain shows hits of exactly what a dropped packet ran into, with the date of the last", async () => {
  const flows = make();
  await flows.block(4, 8);
  await flows.list("block", 4, true);
  await flows.list("block", 8, true);
  await flows.listNet("block", net("198.51.100.0/24"), true);
  await flows.listNet("block", net("203.0.113.0/24"), true);
  const packet = { protocol: 6, fromPort: 1, toPort: 2, bytes: 3, source: address("10.77.0.12") };
  flows.report({ ...packet, from: 4, to: 8, destination: address("198.51.100.10"), at: 1_000 });
  flows.report({ ...packet, from: 4, to: undefined, destination: address("224.0.0.1"), at: 4_000 });
  assert.equal(flows.explain([camera, web], dateOf).blocked_by, [
    { node1: 4, node2: 8, hits: 1, last_hit: 1_795_228_694 },
    { list: "block", node: 4, hits: 2, last_hit: 1_795_228_697 },
    { list: "block", node: 8, hits: 1, last_hit: 1_795_228_694 },
    { list: "block", address: "198.51.100.0/24", hits: 1, last_hit: 1_795_228_694 },
  ]);
  assert.is(flows.listEntries("block").find((each) => each.hits === 0)?.kind, "net");
  flows.report({ ...packet, from: 8, to: 8, at: 5_000 });
  assert.is(flows.listEntries("block").find((each) => each.kind === "node" && each.node === 8)?.hits, 2);
});

test("hits follow merges, and go back with their decision", async () => {
  const flows = make();
  await flows.block(1, 9);
  await flows.block(2, 9);
  const packet = { protocol: 6, fromPort: 1, toPort: 2, bytes: 3, at: 0 };
  for (const from of [1, 1, 2]) flows.report({ ...packet, from, to: 9 });
  const hits = () => flows.pairEntries().map((each) => each.hits);
  flows.merge(1, 2);
  assert.equal(hits(), [3]);
  flows.split(1, 2);
  assert.equal(hits(), [2, 1]);
});

test.run();
