/** What passed today and in the last 24 hours, whatever the clocks do. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { BUCKET_MS, BUCKETS, Calendar, packed, Usage, unpacked } from "../../src/nodes/usage.ts";
import { camera, phone, Stage, start } from "./stage.ts";

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

/** A device with its counters, under two clocks that are moved by hand. */
class Meter {
  stage: Stage;
  readonly id: number;
  offsetMs = 0;

  constructor(date = start + 12 * hour) {
    this.stage = new Stage({ date, now: 500_000 }).router();
    this.id = this.stage.neighbour("10.77.0.12", camera)!;
  }

  get at() {
    return { now: this.stage.now, date: this.stage.date, offsetMs: this.offsetMs };
  }

  /** Time passes on both clocks; the agent looks at them four times a second, here every ten minutes. */
  pass(ms: number): this {
    for (let left = ms; left > 0; left -= 10 * minute) {
      const step = Math.min(left, 10 * minute);
      this.stage.now += step;
      this.stage.date += step;
      this.stage.nodes.tick(this.at);
    }
    return this;
  }

  /** Somebody sets the wall clock. */
  jump(ms: number): this {
    this.stage.date += ms;
    this.stage.nodes.tick(this.at);
    return this;
  }

  count(bytes: number): this {
    this.stage.nodes.tick(this.at);
    const size = BigInt(bytes);
    this.stage.nodes.count(this.id, { bytesIn: size, packetsIn: 1n, bytesOut: 2n * size, packetsOut: 1n });
    return this;
  }

  get today(): unknown {
    return this.stage.detail(this.id).today_in;
  }
}

test("today is what passed since local midnight", () => {
  const meter = new Meter();
  assert.is(meter.today, 0);
  meter
    .count(100)
    .pass(11 * hour + 59 * minute)
    .count(10);
  assert.is(meter.today, 110);
  assert.is(meter.stage.detail(meter.id).today_out, 220);
  meter.pass(2 * minute);
  assert.is(meter.today, 0, "midnight, and nothing since");
  meter.count(1);
  assert.is(meter.today, 1);
  assert.is(meter.stage.detail(meter.id).bytes_in, 111n, "the counters go on");
});

test("midnight is the local one: offsetMs", () => {
  const meter = new Meter(start + 21 * hour);
  meter.offsetMs = 2 * hour;
  meter.count(100).pass(59 * minute);
  assert.is(meter.today, 100);
  meter.pass(2 * minute);
  assert.is(meter.today, 0);
  meter.count(5).pass(2 * hour);
  assert.is(meter.today, 5, "midnight in Greenwich is nothing here");
});

for (const [title, jump] of [
  ["56 years forward (the first time it is set)", 56 * 365 * day],
  ["a day back", -day],
  ["two hours forward, over midnight", 2 * hour],
  ["two hours back", -2 * hour],
] as const) {
  test(`a clock that jumps ${title} loses nothing and doubles nothing; the next midnight ends the day`, () => {
    const meter = new Meter(start + 23 * hour);
    meter.count(100).jump(jump).count(10);
    assert.is(meter.today, 110);
    // To just before the next midnight by the new clock, and over it.
    meter.pass(day - (meter.stage.date % day) - minute);
    assert.is(meter.today, 110);
    meter.pass(2 * minute).count(3);
    assert.is(meter.today, 3);
    meter.pass(23 * hour);
    assert.is(meter.today, 3);
  });
}

test("a small step back over midnight is no new day, neither then nor when it passes again", () => {
  const meter = new Meter(start + 24 * hour - minute);
  meter
    .count(100)
    .pass(2 * minute)
    .count(10);
  assert.is(meter.today, 10);
  meter.jump(-5 * minute).count(20);
  assert.is(meter.today, 30);
  meter.pass(10 * minute).count(1);
  assert.is(meter.today, 31);
  meter.pass(day).count(2);
  assert.is(meter.today, 2);
});

test("daylight saving: an hour more or less neither loses nor doubles", () => {
  for (const change of [hour, -hour]) {
    const meter = new Meter(start + 2 * hour);
    meter.offsetMs = hour;
    meter.count(100);
    meter.offsetMs += change;
    meter.count(10);
    assert.is(meter.today, 110);
    meter.pass(day).count(1);
    assert.is(meter.today, 1);
  }
});

test("whatever the clocks do, each byte is of exactly one day", () => {
  const step = fc.record({
    pass: fc.integer({ min: 0, max: 30 * hour }),
    jump: fc.constantFrom(0, 0, 0, minute, -minute, hour, -hour, 3 * hour, -3 * hour, 40 * day, -40 * day),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const [calendar, usage] = [new Calendar(), new Usage()];
      let [now, date, ended, before, turn] = [0, start, 0, 0, 0];
      const one = { bytesIn: 1n, packetsIn: 1n, bytesOut: 1n, packetsOut: 1n };
      for (const [index, { pass, jump }] of steps.entries()) {
        now += pass;
        date += pass + jump;
        calendar.note({ now, date });
        if (calendar.turn !== turn) [turn, ended] = [calendar.turn, ended + before];
        usage.add(one, calendar, { now, isDevice: false });
        before = usage.today(calendar).bytesIn;
        assert.is(ended + before, index + 1);
      }
    }),
    { numRuns: 300 },
  );
});

test("what was counted today survives a restart on that day, and is gone on the next", () => {
  const meter = new Meter();
  meter.count(100);
  const later = (ms: number) => {
    const next = meter.stage.restart({ date: meter.stage.date + ms });
    next.nodes.tick(next.at);
    return next;
  };
  const same = later(hour);
  assert.is(same.detail(meter.id).today_in, 100);
  same.nodes.count(meter.id, { bytesIn: 5n, packetsIn: 1n, bytesOut: 0n, packetsOut: 1n });
  assert.is(same.detail(meter.id).today_in, 105);
  const third = same.restart({ date: same.date + hour });
  third.nodes.tick(third.at);
  assert.is(third.detail(meter.id).today_in, 105, "and the restart after it");
  third.pass(day);
  assert.is(third.detail(meter.id).today_in, 0);
  assert.is(later(13 * hour).detail(meter.id).today_in, 0);
});

test("after a start with an unset clock today goes on, until the clock says that it was another day", () => {
  const meter = new Meter();
  meter.count(100);
  for (const [set, expected] of [
    [hour, 107],
    [2 * day, 7],
  ] as const) {
    const next = meter.stage.restart({ date: 60_000 });
    next.nodes.tick(next.at);
    next.nodes.count(meter.id, { bytesIn: 7n, packetsIn: 1n, bytesOut: 0n, packetsOut: 1n });
    assert.is(next.detail(meter.id).today_in, 107);
    next.date = meter.stage.date + set;
    next.nodes.tick(next.at);
    assert.is(next.detail(meter.id).today_in, expected);
  }
});

test("today follows a merge, and a bare address that becomes a device", () => {
  const stage = new Stage().router();
  const traffic = { bytesIn: 4n, packetsIn: 1n, bytesOut: 6n, packetsOut: 1n };
  const device = stage.neighbour("10.77.0.12", camera)!;
  const bare = stage.traffic("fd77::12")!;
  for (const id of [device, bare]) stage.nodes.count(id, traffic);
  stage.neighbour("fd77::12", camera);
  assert.is(stage.detail(device).today_in, 8);
  const other = stage.traffic("10.77.0.13")!;
  stage.nodes.count(other, traffic);
  stage.neighbour("10.77.0.13", phone);
  stage.nodes.count(other, traffic);
  assert.is(stage.detail(other).today_out, 12);
  stage.nodes.merge(other, device, stage.at);
  assert.is(stage.detail(device).today_in, 16);
});

test("counters of today stay at 2^53-1, and one past it survives the disk", () => {
  const stage = new Stage().router();
  const id = stage.neighbour("10.77.0.12", camera)!;
  for (let round = 0; round < 3; round++) {
    stage.nodes.count(id, { bytesIn: 2n ** 62n, packetsIn: 1n, bytesOut: -5n, packetsOut: 0n });
  }
  assert.is(stage.detail(id).today_in, Number.MAX_SAFE_INTEGER);
  assert.is(stage.detail(id).today_out, 0);
  const next = stage.restart();
  next.nodes.tick(next.at);
  assert.is(next.detail(id).today_in, Number.MAX_SAFE_INTEGER);
});

test("series(): 96 quarter hours by the monotonic clock, whatever the date does", () => {
  const meter = new Meter();
  const series = () =>
    meter.stage.nodes.series(meter.id) as Record<"in" | "out" | "start" | "seconds", never>;
  const bytes = () => series().in as number[];
  meter.stage.now = 1000 * BUCKET_MS;
  meter.count(100);
  assert.equal(bytes(), [...new Array<number>(95).fill(0), 100]);
  meter.jump(-3 * day);
  meter
    .pass(BUCKET_MS)
    .count(7)
    .pass(2 * BUCKET_MS)
    .count(1);
  assert.equal(bytes().slice(-5), [0, 100, 7, 0, 1]);
  assert.equal((series().out as number[]).slice(-5), [0, 200, 14, 0, 2]);
  assert.is(series().seconds, 900);
  assert.is(series().start, (meter.stage.date - 95 * BUCKET_MS) / 1000);
  meter.pass(92 * BUCKET_MS);
  assert.equal(bytes().slice(0, 4), [100, 7, 0, 1], "a day ago is still there");
  meter.pass(BUCKET_MS);
  assert.equal(bytes().slice(0, 4), [7, 0, 1, 0], "and a quarter hour later no more");
  meter.pass(3 * day);
  assert.equal(bytes(), new Array<number>(96).fill(0));
  meter.count(9);
  assert.equal(bytes(), [...new Array<number>(95).fill(0), 9]);
});

test("Usage: the sum of the series is what was counted in its time, also after merges", () => {
  const step = fc.record({
    pass: fc.integer({ min: 0, max: 30 * hour }),
    bytes: fc.nat(1_000_000),
    who: fc.nat(1),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const calendar = new Calendar();
      const both = [new Usage(), new Usage()] as const;
      const counted: { bucket: number; bytes: number }[] = [];
      let now = 0;
      for (const { pass, bytes, who } of steps) {
        now += pass;
        calendar.note({ now, date: start + now });
        counted.push({ bucket: Math.floor(now / BUCKET_MS), bytes });
        const traffic = { bytesIn: BigInt(bytes), packetsIn: 1n, bytesOut: 0n, packetsOut: 0n };
        both[who]!.add(traffic, calendar, { now, isDevice: true });
      }
      const last = Math.floor(now / BUCKET_MS);
      const expected = new Array<number>(BUCKETS).fill(0);
      for (const { bucket, bytes } of counted) {
        const at = bucket - last + BUCKETS - 1;
        if (at >= 0) expected[at] = expected[at]! + bytes;
      }
      both[0].absorb(both[1], calendar, now);
      const { in: shown } = both[0].series(now);
      // Past quarter hours are rounded when they close, and once more by a merge.
      for (const [at, bytes] of expected.entries()) {
        assert.ok(Math.abs(shown[at]! - bytes) <= bytes * 0.001, `${at}: ${shown[at]} of ${bytes}`);
      }
    }),
    { numRuns: 200 },
  );
});

test("packed(): what fits into twelve binary digits comes back exactly, the rest to a part in 4096, too much as the most", () => {
  for (let count = 0; count <= 4096; count++) assert.is(unpacked(packed(count)), count);
  const most = 4095 * 2 ** 30;
  fc.assert(
    fc.property(fc.double({ min: 0, max: most, noNaN: true }), (raw) => {
      const count = Math.round(raw);
      const back = unpacked(packed(count));
      assert.ok(packed(count) <= 0xffff && Math.abs(back - count) <= count / 4096);
    }),
  );
  for (let bits = 0; bits <= 0xffff; bits++) assert.is(packed(unpacked(bits)), bits);
  for (const count of [most * 2, Number.MAX_SAFE_INTEGER]) assert.is(unpacked(packed(count)), most);
});

test("series() of what had no traffic, of far nodes and of nobody", () => {
  const stage = new Stage().router();
  const [device, far] = [stage.neighbour("10.77.0.12", camera)!, stage.traffic("198.51.100.1")!];
  stage.nodes.count(far, { bytesIn: 5n, packetsIn: 1n, bytesOut: 5n, packetsOut: 1n });
  for (const id of [device, far]) {
    assert.equal((stage.nodes.series(id) as { in: number[] }).in, new Array<number>(96).fill(0));
  }
  assert.is(stage.detail(far).today_in, undefined, "only of our own network");
  assert.is(stage.nodes.series(999), undefined);
});

test.run();
