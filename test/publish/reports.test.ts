/** Dropped packets in few lines: nothing is lost, nothing is told twice, nobody hides another. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TrafficFlow } from "../../src/lib/spin.ts";
import { Reports } from "../../src/publish/reports.ts";

const line = (rest: Partial<TrafficFlow> = {}): TrafficFlow => ({
  ...{ from: 4, to: 5, protocol: 6, from_port: 35_700, to_port: 8_883, size: 10, count: 1 },
  ...rest,
});

test("few lines go as they came, equal ones added up", () => {
  const reports = new Reports();
  assert.equal(reports.take([line(), line({ to: 6 }), line()], 20), [
    line({ size: 20, count: 2 }),
    line({ to: 6 }),
  ]);
  assert.equal(reports.take([], 20), []);
  assert.is(reports.size, 0);
});

test("too many lines lose the source port first, then ports and protocol", () => {
  const ports = Array.from({ length: 100 }, (_, index) => index);
  const bySource = new Reports().take(
    ports.map((from_port) => line({ from_port })),
    20,
  );
  assert.equal(bySource, [line({ from_port: 0, size: 1_000, count: 100 })]);
  const byTarget = new Reports().take(
    ports.map((to_port) => line({ to_port, protocol: 17 })),
    20,
  );
  assert.equal(byTarget, [line({ from_port: 0, to_port: 0, protocol: 0, size: 1_000, count: 100 })]);
});

test("a flood of one sender does not hide another's line", () => {
  const reports = new Reports();
  const flood = Array.from({ length: 5_000 }, (_, to) => line({ from: 1, to }));
  assert.ok(reports.take([...flood, line({ from: 2 })], 20).some((each) => each.from === 2));
  assert.ok(reports.size <= 256);
  assert.ok(reports.take([line({ from: 3 })], 20).some((each) => each.from === 3));
});

test("what can be told of no more is counted, and memory is bounded", () => {
  const reports = new Reports();
  let told = 0;
  let given = 0;
  for (let second = 0; second < 30; second++) {
    const news: TrafficFlow[] = [];
    for (let from = 0; from < 40; from++) {
      for (let to = 0; to < 300; to++) news.push(line({ from, to: second * 300 + to }));
    }
    given += news.length;
    for (const each of reports.take(news, 20)) told += each.count;
    assert.ok(reports.size <= 4_096, `${reports.size} lines wait`);
  }
  let waiting = 0;
  for (let rest = reports.take([], 20); rest.length > 0; rest = reports.take([], 20)) {
    for (const each of rest) waiting += each.count;
  }
  assert.is(told + waiting + reports.unreported, given);
});

test("told, waiting and unreported add up to what was dropped, whatever it was", () => {
  const flows = fc.array(
    fc.record({
      ...{ from: fc.nat(5), to: fc.nat(400), protocol: fc.nat(3), from_port: fc.nat(9), to_port: fc.nat(9) },
      ...{ size: fc.nat(1_500), count: fc.nat(1_000) },
    }),
    { maxLength: 600 },
  );
  fc.assert(
    fc.property(fc.array(flows, { maxLength: 4 }), fc.integer({ min: 1, max: 30 }), (seconds, most) => {
      const reports = new Reports();
      let given = 0;
      let told = 0;
      for (const news of seconds) {
        for (const each of news) given += each.count;
        const taken = reports.take(news, most);
        assert.ok(taken.length <= most);
        for (const each of taken) told += each.count;
      }
      for (let rest = reports.take([], 20); rest.length > 0; rest = reports.take([], 20)) {
        for (const each of rest) told += each.count;
      }
      assert.is(told + reports.unreported, given);
    }),
    { numRuns: 60 },
  );
});

test.run();
