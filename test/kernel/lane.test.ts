/** Lanes: order, and plans that are overtaken while they wait. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Lane } from "../../src/kernel/lane.ts";

/** A lane whose jobs end when the test says so. */
function laneOfGates() {
  const begun: string[] = [];
  const gates: { open(): void; fail(error: Error): void }[] = [];
  const lane = new Lane<string>((job) => {
    begun.push(job);
    return new Promise((resolve, reject) => gates.push({ open: resolve, fail: reject }));
  });
  return { lane, begun, gates };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("Lane: of the jobs that wait only the newest is done, and answers all of them", async () => {
  const { lane, begun, gates } = laneOfGates();
  const answers: string[] = [];
  const push = (job: string) => void lane.push(job).then(() => answers.push(job));
  push("a");
  await turn();
  for (const job of ["b", "c", "d"]) push(job);
  await turn();
  assert.equal(begun, ["a"]);
  gates[0]!.open();
  await turn();
  assert.equal(answers, ["a"]);
  assert.equal(begun, ["a", "d"]);
  gates[1]!.open();
  await turn();
  assert.equal(answers, ["a", "b", "c", "d"]);
});

test("Lane: a failure is told to those who asked for it, and the next job is done all the same", async () => {
  const { lane, begun, gates } = laneOfGates();
  const failed: string[] = [];
  const first = lane.push("a").catch((error: Error) => failed.push(`a ${error.message}`));
  await turn();
  const second = lane.push("b");
  gates[0]!.fail(new Error("refused"));
  await first;
  await turn();
  gates[1]!.open();
  await second;
  assert.equal(failed, ["a refused"]);
  assert.equal(begun, ["a", "b"]);
});

test("Lane: something in between keeps its turn; a later job does not slip in before it", async () => {
  const { lane, begun, gates } = laneOfGates();
  const a = lane.push("a");
  await turn();
  const b = lane.push("b");
  const between = lane.between(async () => void begun.push("between"));
  const c = lane.push("c");
  const d = lane.push("d");
  for (const [at, job] of [a, b].entries()) {
    gates[at]!.open();
    await job;
    await turn();
  }
  await between;
  await turn();
  gates[2]!.open();
  await Promise.all([c, d]);
  assert.equal(begun, ["a", "b", "between", "d"]);
});

test.run();
