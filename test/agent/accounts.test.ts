/** Booking what passed: nothing is lost on the way from numbers to counters. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Accounts } from "../../src/agent/accounts.ts";
import type { Activity, Flows } from "../../src/flows/flows.ts";
import type { Delta } from "../../src/kernel/kernel.ts";
import type { Address } from "../../src/lib/address.ts";
import type { Nodes, Traffic } from "../../src/nodes/nodes.ts";

const at = { now: 5_000, date: 9_000 };

/** Rooms where 10.0.0.N is device N and 192.0.2.N is node 100 + N; `none` is nobody's address. */
function rooms() {
  const counted = new Map<number, bigint[]>();
  const flows: Activity[] = [];
  let counts = 0;
  const last = (address: string) => Number(address.split(".")[3]);
  const nodes = {
    isLocal: (address: Address) => address.startsWith("10."),
    nodeFor: (address: Address) =>
      address === "none" ? undefined : last(address) + (address.startsWith("10.") ? 0 : 100),
    count(id: number, { bytesIn, packetsIn, bytesOut, packetsOut }: Traffic) {
      counts++;
      const sums = counted.get(id) ?? [0n, 0n, 0n, 0n];
      counted.set(
        id,
        [bytesIn, packetsIn, bytesOut, packetsOut].map((value, index) => sums[index]! + value),
      );
    },
  };
  const accounts = new Accounts({
    nodes: nodes as unknown as Nodes,
    flows: { account: (activity: Activity) => void flows.push(activity) } as unknown as Flows,
  });
  return { accounts, counted, flows, counts: () => counts };
}

function delta(source: string, answers: string, counters: readonly [number, number, number, number]): Delta {
  const [bytesOut, packetsOut, bytesIn, packetsIn] = counters;
  const ports = { sourcePort: 1_000, destinationPort: 8_080 };
  return {
    ...{ id: 1, zone: 0, family: 4, protocol: 6, ...ports, status: 0, new: false, ended: false },
    source: source as Address,
    destination: "192.0.2.200" as Address,
    reply: {
      source: answers as Address,
      destination: source as Address,
      sourcePort: 80,
      destinationPort: 1_000,
    },
    ...{ bytesOut, packetsOut, bytesIn, packetsIn },
  };
}

test("Accounts.book: each end's counters, and the flow by who opened it and who answers", () => {
  const { accounts, counted, flows } = rooms();
  accounts.book([delta("10.0.0.1", "192.0.2.9", [100, 2, 300, 4])], at);
  assert.equal(
    [...counted],
    [
      [1, [300n, 4n, 100n, 2n]],
      [109, [100n, 2n, 300n, 4n]],
    ],
  );
  assert.equal(flows, [
    {
      ...{ from: 1, to: 109, protocol: 6, fromPort: 1_000, toPort: 80, icmpType: 0 },
      ...{ bytes: 400, packets: 6, at: 5_000, source: "10.0.0.1", destination: "192.0.2.9" },
    },
  ]);
});

test("Accounts.book leaves out what moved nothing, is not of the LAN, has one end, or an end that is nobody's", () => {
  const { accounts, counted, flows } = rooms();
  accounts.book(
    [
      delta("10.0.0.1", "192.0.2.9", [0, 0, 0, 0]),
      delta("192.0.2.1", "192.0.2.9", [1, 1, 1, 1]),
      delta("10.0.0.1", "10.0.0.1", [1, 1, 1, 1]),
      delta("10.0.0.1", "none", [1, 1, 1, 1]),
    ],
    at,
  );
  assert.equal([counted.size, flows.length], [0, 0]);
});

test("Accounts.book tells a node once for a batch", () => {
  const { accounts, counted, counts } = rooms();
  accounts.book(
    Array.from({ length: 200 }, () => delta("10.0.0.1", "192.0.2.9", [10, 1, 0, 0])),
    at,
  );
  assert.is(counts(), 2);
  assert.equal(counted.get(1), [0n, 0n, 2_000n, 200n]);
  accounts.book([delta("10.0.0.1", "192.0.2.9", [10, 1, 0, 0])], at);
  assert.equal(counted.get(1), [0n, 0n, 2_010n, 201n], "a batch begins with nothing");
});

test("Accounts.book adds up exactly, however large the numbers are", () => {
  const number = fc.oneof(fc.nat(), fc.maxSafeNat());
  const counters = fc.tuple(number, fc.constant(1), number, fc.constant(1));
  const end = fc.constantFrom("10.0.0.1", "10.0.0.2", "192.0.2.1", "192.0.2.2");
  fc.assert(
    fc.property(fc.array(fc.tuple(end, end, counters), { maxLength: 30 }), (rows) => {
      const { accounts, counted } = rooms();
      accounts.book(
        rows.map(([from, to, numbers]) => delta(from, to, numbers)),
        at,
      );
      const expected = new Map<number, bigint>();
      const idOf = (address: string) => Number(address.split(".")[3]) + (address.startsWith("10.") ? 0 : 100);
      for (const [from, to, [out, , back]] of rows) {
        if (from === to || (!from.startsWith("10.") && !to.startsWith("10."))) continue;
        expected.set(idOf(from), (expected.get(idOf(from)) ?? 0n) + BigInt(out));
        expected.set(idOf(to), (expected.get(idOf(to)) ?? 0n) + BigInt(back));
      }
      for (const [id, bytesOut] of expected) assert.is(counted.get(id)![2], bytesOut);
    }),
  );
});

test.run();
