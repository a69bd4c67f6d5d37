/** Rounds: when the next one begins, by a clock that the test moves. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Rounds } from "../../src/kernel/rounds.ts";
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

test.run();
