/** What was dropped: few lines, right counts. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Dropped, Reports, type ReportsOptions } from "../../src/flows/reports.ts";
import type { TrafficFlow } from "../../src/lib/spin.ts";

const options: ReportsOptions = { maxDetailed: 8, maxSummed: 32, periodMs: 400, seed: 5 };
const packet = (given: Partial<Dropped> = {}): Dropped => ({
  ...{ from: 4, to: 5, protocol: 6, fromPort: 35_700, toPort: 8_883, bytes: 56, at: 0 },
  ...given,
});
const total = (lines: readonly TrafficFlow[]) => ({
  count: lines.reduce((sum, line) => sum + line.count, 0),
  size: lines.reduce((sum, line) => sum + line.size, 0),
});

const shapes: readonly [why: string, given: Partial<Dropped>, line: string][] = [
  ["TCP", { bytes: 0 }, '{"from":4,"to":5,"protocol":6,"from_port":35700,"to_port":8883,"size":0,"count":1}'],
  [
    "UDP",
    { to: 8, protocol: 17, fromPort: 38_843, toPort: 53 },
    '{"from":4,"to":8,"protocol":17,"from_port":38843,"to_port":53,"size":56,"count":1}',
  ],
  [
    "what has no ports",
    { protocol: 1, fromPort: 8, toPort: 9, bytes: 64 },
    '{"from":4,"to":5,"protocol":0,"from_port":0,"to_port":0,"size":64,"count":1}',
  ],
  [
    "sizes that are none",
    { bytes: -5 },
    '{"from":4,"to":5,"protocol":6,"from_port":35700,"to_port":8883,"size":0,"count":1}',
  ],
];

for (const [why, given, line] of shapes) {
  test(`a line has SPIN's shape: ${why}`, () => {
    const reports = new Reports(options);
    reports.add(packet(given), true);
    assert.is(JSON.stringify(reports.take(0)), `[${line}]`);
  });
}

test("20,000 packets of one connection are one line with their count", () => {
  const reports = new Reports(options);
  for (let index = 0; index < 20_000; index++) reports.add(packet(), true);
  const lines = reports.take(0);
  assert.is(lines.length, 1);
  assert.equal(total(lines), { count: 20_000, size: 20_000 * 56 });
});

test("20,000 packets from as many ports are a few lines, and none is missing", () => {
  const reports = new Reports(options);
  for (let fromPort = 1; fromPort <= 20_000; fromPort++) reports.add(packet({ fromPort }), true);
  const lines = reports.take(0);
  assert.is(lines.length, 9);
  assert.equal(total(lines), { count: 20_000, size: 20_000 * 56 });
  assert.equal(lines[8], {
    ...{ from: 4, to: 5, protocol: 6, from_port: 0, to_port: 0 },
    ...{ size: 19_992 * 56, count: 19_992 },
  });
  assert.is(reports.counters.overflowPackets, 0);
});

test("packets between too many nodes are in no line, but in the totals", () => {
  const reports = new Reports(options);
  for (let to = 1; to <= 1_000; to++) reports.add(packet({ to }), true);
  const lines = reports.take(0);
  assert.is(lines.length, 40);
  assert.equal(reports.counters, {
    ...{ packets: 1_000, bytes: 56_000, hidden: 0, unplaced: 0 },
    ...{ overflowPackets: 960, overflowBytes: 960 * 56 },
  });
});

test("lines are handed out at once after a pause, and then in the rhythm", () => {
  const reports = new Reports(options);
  reports.add(packet(), true);
  assert.is(reports.take(1_000).length, 1);
  reports.add(packet(), true);
  assert.is(reports.take(1_399).length, 0);
  reports.add(packet(), true);
  assert.equal(total(reports.take(1_400)).count, 2);
  assert.is(reports.take(9_000).length, 0);
  reports.add(packet(), true);
  assert.is(reports.take(9_001).length, 1, "nothing was handed out at 9,000");
});

test("what is hidden or has no node at an end is counted and in no line", () => {
  const reports = new Reports(options);
  reports.add(packet(), false);
  reports.add(packet({ to: undefined }), true);
  reports.add(packet({ from: undefined }), true);
  assert.equal(reports.take(0), []);
  const { packets, hidden, unplaced } = reports.counters;
  assert.equal({ packets, hidden, unplaced }, { packets: 3, hidden: 1, unplaced: 2 });
});

test("merge books what waits on the node that stays", () => {
  const reports = new Reports({ ...options, maxDetailed: 2 });
  for (const [from, fromPort] of [
    [4, 1],
    [7, 1],
    [4, 2],
    [7, 3],
  ] as const) {
    reports.add(packet({ from, fromPort }), true);
  }
  reports.merge(4, 7);
  assert.equal(
    reports.take(0).map((line) => [line.from, line.from_port, line.count]),
    [
      [7, 1, 2],
      [7, 0, 2],
    ],
  );
});

test("whatever is dropped, lines, overflow and what is not shown add up to all", () => {
  const any = fc.record({
    from: fc.option(fc.integer({ min: 1, max: 60 }), { nil: undefined }),
    to: fc.integer({ min: 1, max: 3 }),
    protocol: fc.constantFrom(1, 6, 17, 58),
    fromPort: fc.nat(65_535),
    toPort: fc.nat(3),
    bytes: fc.nat(1_500),
    at: fc.nat(),
    shown: fc.boolean(),
    take: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(any, { maxLength: 300 }), (packets) => {
      const reports = new Reports({ ...options, maxSummed: 4 });
      const lines: TrafficFlow[] = [];
      let now = 0;
      for (const { shown, take, ...each } of packets) {
        reports.add(each, shown);
        now += 300;
        const taken = take ? reports.take(now) : [];
        assert.ok(taken.length <= 12);
        lines.push(...taken);
      }
      lines.push(...reports.take(now + 400));
      const { hidden, unplaced, overflowPackets, overflowBytes, ...all } = reports.counters;
      const missing = packets.filter((each) => !each.shown || each.from === undefined);
      assert.is(total(lines).count + hidden + unplaced + overflowPackets, packets.length);
      assert.is(
        total(lines).size + overflowBytes + missing.reduce((sum, each) => sum + each.bytes, 0),
        all.bytes,
      );
    }),
  );
});

test.run();
