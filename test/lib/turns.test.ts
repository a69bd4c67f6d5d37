/** Work in turns: who shares one, who waits for the next, and who is refused alone. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Turns } from "../../src/lib/turns.ts";

/** Turns that end when they are told to. */
function held(most?: number) {
  const begun: { jobs: readonly string[]; end: (faults?: readonly unknown[]) => void }[] = [];
  const turns = new Turns<string>(
    (jobs) => new Promise((resolve) => begun.push({ jobs, end: (faults = []) => resolve(faults) })),
    most,
  );
  return { turns, begun };
}

/** Long enough for everything that waits for nothing else. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

test("Turns: calls made in one breath share the first turn; what comes meanwhile shares the next", async () => {
  const { turns, begun } = held();
  const done: string[] = [];
  const ask = (job: string) => void turns.do(job).then(() => done.push(job));
  for (const job of ["a", "b"]) ask(job);
  assert.ok(turns.busy);
  await settle();
  for (const job of ["c", "d"]) ask(job);
  await settle();
  assert.equal(
    begun.map(({ jobs }) => jobs),
    [["a", "b"]],
  );
  assert.is(turns.length, 2);
  begun[0]!.end();
  await settle();
  assert.equal(done, ["a", "b"]);
  assert.equal(begun[1]!.jobs, ["c", "d"]);
  begun[1]!.end();
  await settle();
  assert.equal(done, ["a", "b", "c", "d"]);
  assert.not.ok(turns.busy);
  ask("e");
  await settle();
  assert.equal(begun[2]!.jobs, ["e"]);
});

test("Turns: one that is refused is refused alone, with what its turn said", async () => {
  const { turns, begun } = held();
  const calls = ["a", "b", "c"].map((job) =>
    turns.do(job).then(
      () => "done",
      (thrown) => thrown,
    ),
  );
  await settle();
  begun[0]!.end([undefined, "no"]);
  assert.equal(await Promise.all(calls), ["done", "no", "done"]);
});

test("Turns: a turn takes as many as are allowed, in order", async () => {
  const { turns, begun } = held(2);
  const calls = ["a", "b", "c", "d", "e"].map((job) => turns.do(job));
  for (let turn = 0; turn < 3; turn++) {
    await settle();
    begun[turn]!.end();
  }
  await Promise.all(calls);
  assert.equal(
    begun.map(({ jobs }) => jobs),
    [["a", "b"], ["c", "d"], ["e"]],
  );
});

test.run();
