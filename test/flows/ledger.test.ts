/** What passed: sums, limits, ageing, merges. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Activity, type FlowRecord, Ledger, type LedgerLimits } from "../../src/flows/ledger.ts";

const limits: LedgerLimits = { maxRecords: 100, maxTraffic: 100, idleMs: 1_800_000 };
const activity = (given: Partial<Activity> = {}): Activity => ({
  from: 9,
  to: 10,
  protocol: 6,
  fromPort: 55_516,
  toPort: 80,
  bytes: 100,
  packets: 2,
  at: 0,
  ...given,
});

test("account adds up by initiator, other node, protocol, service port and ICMP type", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity(), true);
  ledger.account(activity({ fromPort: 1, at: 5 }), true);
  ledger.account(activity({ toPort: 443 }), true);
  ledger.account(activity({ protocol: 17 }), true);
  ledger.account(activity({ from: 10, to: 9 }), true);
  ledger.account(activity({ protocol: 1, fromPort: 0, toPort: 0, icmpType: 8 }), true);
  ledger.account(activity({ protocol: 1, fromPort: 0, toPort: 0, icmpType: 13 }), true);
  assert.is(ledger.counters.records, 6);
  assert.equal(
    ledger.list().find((each) => each.toPort === 80 && each.from === 9 && each.protocol === 6),
    {
      from: 9,
      to: 10,
      protocol: 6,
      toPort: 80,
      icmpType: 0,
      bytes: 200n,
      packets: 4n,
      firstAt: 0,
      lastAt: 5,
    },
  );
});

test("list gives a node's records, whichever end it is, the latest active first", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity({ from: 1, to: 2, at: 1 }), true);
  ledger.account(activity({ from: 3, to: 4, at: 2 }), true);
  ledger.account(activity({ from: 2, to: 5, at: 3 }), true);
  ledger.account(activity({ from: 1, to: 2, at: 4 }), true);
  const pairs = (node?: number) => ledger.list(node).map((each) => `${each.from}-${each.to}`);
  assert.equal(pairs(), ["1-2", "2-5", "3-4"]);
  assert.equal(pairs(2), ["1-2", "2-5"]);
  assert.equal(pairs(9), []);
});

test("counters hold 64 bits and stay at their end", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity({ bytes: 2n ** 53n, packets: 2n ** 53n }), true);
  ledger.account(activity({ bytes: 1, packets: 1 }), true);
  assert.is(ledger.list()[0]!.bytes, 2n ** 53n + 1n);
  ledger.account(activity({ bytes: 2n ** 64n - 1n, packets: 2n ** 70n }), true);
  assert.is(ledger.list()[0]!.bytes, 2n ** 64n - 1n);
  assert.is(ledger.list()[0]!.packets, 2n ** 64n - 1n);
  assert.is(ledger.takeTraffic()[0]!.size, Number.MAX_SAFE_INTEGER);
});

for (const bytes of [-1, -1n, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60]) {
  test(`account counts ${bytes} bytes as none`, () => {
    const ledger = new Ledger(limits);
    ledger.account(activity({ bytes }), true);
    assert.is(ledger.list()[0]!.bytes, 0n);
    assert.is(ledger.takeTraffic()[0]!.size, 0);
  });
}

test("the longest idle record makes room, and is counted", () => {
  const ledger = new Ledger({ ...limits, maxRecords: 3 });
  for (const toPort of [1, 2, 3]) ledger.account(activity({ toPort, at: toPort }), true);
  ledger.account(activity({ toPort: 1, at: 4 }), true);
  ledger.account(activity({ toPort: 4, at: 5 }), true);
  assert.equal(
    ledger.list().map((each) => each.toPort),
    [4, 1, 3],
  );
  assert.is(ledger.counters.evicted, 1);
});

test("expire drops what was idle for longer than allowed, and nothing else", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity({ toPort: 1, at: 0 }), true);
  ledger.account(activity({ toPort: 2, at: 1 }), true);
  ledger.expire(1_800_000);
  assert.is(ledger.counters.records, 2);
  ledger.expire(1_800_001);
  assert.equal(
    ledger.list().map((each) => each.toPort),
    [2],
  );
});

test("takeTraffic gives the sums by all ports, once", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity(), true);
  ledger.account(activity(), true);
  ledger.account(activity({ fromPort: 1 }), true);
  const common = { from: 9, to: 10, protocol: 6, to_port: 80 };
  assert.equal(ledger.takeTraffic(), [
    { ...common, from_port: 55_516, size: 200, count: 4 },
    { ...common, from_port: 1, size: 100, count: 2 },
  ]);
  assert.equal(ledger.takeTraffic(), []);
});

test("what is not shown is booked and in no traffic message", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity(), false);
  assert.is(ledger.list()[0]!.bytes, 100n);
  assert.equal(ledger.takeTraffic(), []);
});

test("a port scan fills a traffic message and no more; the rest is counted", () => {
  const ledger = new Ledger(limits);
  for (let toPort = 1; toPort <= 1_000; toPort++) ledger.account(activity({ toPort }), true);
  assert.is(ledger.takeTraffic().length, 100);
  assert.is(ledger.counters.missed, 900);
  assert.is(ledger.counters.records, 100);
});

test("merge books the old node's records and traffic on the new one", () => {
  const ledger = new Ledger(limits);
  ledger.account(activity({ from: 1, to: 2, at: 1 }), true);
  ledger.account(activity({ from: 1, to: 3, at: 2 }), true);
  ledger.account(activity({ from: 4, to: 2, at: 3 }), true);
  ledger.merge(2, 3);
  assert.equal(
    ledger.list().map((each) => [each.from, each.to, Number(each.bytes), each.firstAt, each.lastAt]),
    [
      [4, 3, 100, 3, 3],
      [1, 3, 200, 1, 2],
    ],
  );
  assert.equal(
    ledger.takeTraffic().map((each) => [each.from, each.to, each.size]),
    [
      [1, 3, 200],
      [4, 3, 100],
    ],
  );
});

test("list gives no more than asked for, count counts all", () => {
  const ledger = new Ledger(limits);
  for (let toPort = 1; toPort <= 9; toPort++) ledger.account(activity({ from: toPort % 2, toPort }), true);
  assert.equal(
    ledger.list(1, 2).map((each) => each.toPort),
    [9, 7],
  );
  assert.equal(ledger.list(undefined, 0), []);
  assert.equal([ledger.count(), ledger.count(1), ledger.count(10), ledger.count(77)], [9, 5, 9, 0]);
});

/** Records as a list of objects, the longest idle first. */
class PlainLedger {
  records: FlowRecord[] = [];
  evicted = 0;

  book(entry: FlowRecord): void {
    const isSame = (each: FlowRecord) =>
      (["from", "to", "protocol", "toPort", "icmpType"] as const).every((name) => each[name] === entry[name]);
    const known = this.records.find(isSame);
    this.records = this.records.filter((each) => each !== known);
    if (!known && this.records.length === limits.maxRecords) {
      this.records.shift();
      this.evicted++;
    }
    this.records.push({
      ...entry,
      bytes: entry.bytes + (known?.bytes ?? 0n),
      packets: entry.packets + (known?.packets ?? 0n),
      firstAt: Math.min(entry.firstAt, known?.firstAt ?? entry.firstAt),
      lastAt: Math.max(entry.lastAt, known?.lastAt ?? entry.lastAt),
    });
  }

  merge(old: number, id: number): void {
    const touched = this.records.filter((each) => each.from === old || each.to === old);
    this.records = this.records.filter((each) => !touched.includes(each));
    const rename = (node: number) => (node === old ? id : node);
    for (const each of touched) this.book({ ...each, from: rename(each.from), to: rename(each.to) });
  }

  expire(now: number): void {
    while (this.records.length > 0 && now - this.records[0]!.lastAt > limits.idleMs) this.records.shift();
  }
}

test("records are those of the plainest ledger, whatever is booked, merged, aged and evicted", () => {
  const node = fc.integer({ min: 1, max: 6 });
  const booking = fc.record({
    from: node,
    to: node,
    protocol: fc.constantFrom(1, 6, 255),
    fromPort: fc.nat(65_535),
    toPort: fc.constantFrom(0, 1, 65_535),
    icmpType: fc.constantFrom(0, 255),
    bytes: fc.maxSafeNat(),
    packets: fc.nat(),
  });
  const step = fc.tuple(
    fc.constantFrom("book", "book", "book", "merge", "expire"),
    booking,
    fc.nat(limits.idleMs / 20),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), fc.integer(), (steps, seed) => {
      const ledger = new Ledger({ ...limits, seed });
      const plain = new PlainLedger();
      let at = 0;
      for (const [kind, { fromPort, ...entry }, pause] of steps) {
        at += pause;
        if (kind === "merge") {
          ledger.merge(entry.from, entry.to);
          plain.merge(entry.from, entry.to);
        } else if (kind === "expire") {
          ledger.expire(at);
          plain.expire(at);
        } else {
          ledger.account({ ...entry, fromPort, at }, false);
          const [bytes, packets] = [BigInt(entry.bytes), BigInt(entry.packets)];
          plain.book({ ...entry, bytes, packets, firstAt: at, lastAt: at });
        }
      }
      assert.equal(ledger.list(), plain.records.reverse());
      assert.is(ledger.counters.evicted, plain.evicted);
    }),
    { numRuns: 60 },
  );
});

test("what was accounted is what the records and the traffic say, while there is room", () => {
  const entry = fc.record({
    from: fc.integer({ min: 1, max: 3 }),
    to: fc.integer({ min: 1, max: 3 }),
    protocol: fc.constantFrom(1, 6, 17),
    fromPort: fc.integer({ min: 0, max: 2 }),
    toPort: fc.integer({ min: 0, max: 2 }),
    bytes: fc.integer({ min: 0, max: 1_000_000 }),
    packets: fc.integer({ min: 0, max: 1_000 }),
  });
  fc.assert(
    fc.property(fc.array(entry), fc.boolean(), (entries, merges) => {
      const ledger = new Ledger({ ...limits, maxTraffic: 1_000 });
      for (const [at, each] of entries.entries()) ledger.account({ ...each, at }, true);
      if (merges) ledger.merge(3, 1);
      const bytes = entries.reduce((sum, each) => sum + each.bytes, 0);
      assert.is(
        ledger.list().reduce((sum, each) => sum + Number(each.bytes), 0),
        bytes,
      );
      assert.is(
        ledger.takeTraffic().reduce((sum, each) => sum + each.size, 0),
        bytes,
      );
    }),
  );
});

test.run();
