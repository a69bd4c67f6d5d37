/** Rounds: when the next one begins, by a clock that the test moves. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Rounds, saidOnce } from "../../src/kernel/rounds.ts";
import { Fault } from "../../src/lib/fault.ts";
import { faultOf, madeUpMachine, pause } from "./yard.ts";

test("Rounds: never two at once, asked in between is once more, and after a costly one there is a rest", async () => {
  const { fake, system } = madeUpMachine();
  const open: (() => void)[] = [];
  const job = () => new Promise<void>((resolve) => void open.push(resolve));
  const rounds = new Rounds(system, job, { periodMs: 1_000 });
  const first = rounds.start();
  rounds.soon();
  rounds.soon();
  assert.is(open.length, 1);
  fake.advance(100);
  open[0]!();
  await first;
  fake.advance(899);
  assert.is(open.length, 1, "rests nine times as long as it took");
  fake.advance(1);
  assert.is(open.length, 2);
  open[1]!();
  await pause(0);
  fake.advance(999);
  assert.is(open.length, 2);
  fake.advance(1);
  assert.is(open.length, 3, "the period");
  rounds.close();
  open[2]!();
  await pause(0);
  fake.advance(100_000);
  assert.is(open.length, 3);
});

test("Rounds: the first failure is the caller's, later ones are tried again later and later", async () => {
  const { fake, system } = madeUpMachine();
  let broken = true;
  const faults: unknown[] = [];
  let runs = 0;
  const job = async () => {
    runs++;
    if (broken) throw new Fault("kernel", "Cannot: broken");
  };
  await faultOf(new Rounds(system, job).start());
  fake.advance(100_000);
  assert.is(runs, 1);

  broken = false;
  const rounds = new Rounds(system, job, { onFault: (thrown) => faults.push(thrown) });
  await rounds.start();
  broken = true;
  rounds.soon();
  fake.advance(0);
  await pause(0);
  assert.equal([runs, faults.length], [3, 1]);
  rounds.soon();
  fake.advance(999);
  assert.is(runs, 3, "being asked does not shorten the wait");
  fake.advance(1);
  await pause(0);
  assert.equal([runs, faults.length], [4, 2]);
  fake.advance(1_999);
  assert.is(runs, 4);
  broken = false;
  fake.advance(1);
  await pause(0);
  assert.equal([runs, faults.length], [5, 2]);
  fake.advance(100_000);
  assert.is(runs, 5);
});

test("Rounds: a flood of asks does not put off the round that the first of them is to have", async () => {
  const { fake, system } = madeUpMachine();
  const begun: number[] = [];
  // As of a clock whose shortest wait is a millisecond.
  const clock = { ...system, after: (ms: number, call: () => void) => system.after(Math.max(1, ms), call) };
  const rounds = new Rounds(clock, async () => void begun.push(system.now()), { periodMs: 10_000 });
  await rounds.start();
  fake.advance(100);
  for (let asks = 0; asks < 50; asks++) {
    rounds.soon();
    if (asks === 0) fake.advance(0.5);
    else if (begun.length === 1) fake.advance(0.5);
  }
  assert.equal(begun, [0, 101]);
  rounds.close();
});

test("Rounds: what a job waits for its turn is no cost, and what was asked meanwhile is done with it", async () => {
  const { fake, system } = madeUpMachine();
  const waiting: { begin: () => void; end: () => void }[] = [];
  const job = (begin: () => void) => new Promise<void>((end) => void waiting.push({ begin, end }));
  const rounds = new Rounds(system, job, { restFactor: 1, periodMs: 100_000 });
  const first = rounds.start();
  waiting[0]!.end();
  await first;
  rounds.soon();
  fake.advance(1);
  assert.is(waiting.length, 2);
  rounds.soon();
  fake.advance(30_000);
  waiting[1]!.begin();
  fake.advance(10);
  waiting[1]!.end();
  await pause(0);
  fake.advance(1_000);
  assert.is(waiting.length, 2, "nobody has asked since it began");
  rounds.soon();
  fake.advance(0);
  assert.is(waiting.length, 3, "the rest was of ten milliseconds");
  rounds.close();
});

test("Rounds: a failure is tried again as soon, and at last as late, as the options say", async () => {
  const { fake, system } = madeUpMachine();
  let broken = false;
  let runs = 0;
  const job = async () => {
    runs++;
    if (broken) throw new Fault("kernel", "Cannot: broken");
  };
  const rounds = new Rounds(system, job, { firstRetryMs: 100, maxRetryMs: 1_000 });
  await rounds.start();
  broken = true;
  rounds.soon();
  fake.advance(0);
  await pause(0);
  assert.is(runs, 2);
  for (const waitMs of [100, 200, 400, 800, 1_000, 1_000, 1_000]) {
    const before = runs;
    fake.advance(waitMs - 1);
    assert.is(runs, before);
    fake.advance(1);
    assert.is(runs, before + 1, `after ${waitMs} ms`);
    await pause(0);
  }
  broken = false;
  fake.advance(1_000);
  await pause(0);
  broken = true;
  rounds.soon();
  fake.advance(0);
  await pause(0);
  const before = runs;
  fake.advance(100);
  assert.is(runs, before + 1, "what succeeded begins anew");
  rounds.close();
});

test("saidOnce: says the same once, until its end", () => {
  const lines: string[] = [];
  const { say, end } = saidOnce((line) => lines.push(line));
  for (const text of ["full", "full", "gone", "full"]) say(new Fault("storage", text));
  end();
  say(new Fault("storage", "full"));
  assert.equal(lines, ["full", "gone", "full", "full"]);
});

test.run();
