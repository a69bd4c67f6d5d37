/** Decisions: answered when enforced and durable, taken back when not, cheap in numbers. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows, type FlowsOptions, flowsFormat, type Outcome } from "../../src/flows/flows.ts";
import type { Plan } from "../../src/kernel/plan.ts";
import { parseAddress } from "../../src/lib/address.ts";
import { Fault, type FaultCode } from "../../src/lib/fault.ts";

/** A kernel and a disk that remember what they were told last, and fail when they are told to. */
class Bench {
  readonly nodes = new Set([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  readonly aliases = new Map<number, number>();
  readonly told: string[] = [];
  enforced: Plan["pairs"] = [];
  durable = "";
  commits = 0;
  /** The faults of the next commits, in order. */
  readonly faults: (FaultCode | "bug" | undefined)[] = [];
  /** Runs in the middle of a commit. */
  during: () => void = () => {};
  readonly flows: Flows;

  constructor(options: Partial<FlowsOptions> = {}, state?: unknown) {
    this.flows = new Flows(
      {
        resolve: (id) => (this.nodes.has(id) ? id : this.aliases.get(id)),
        commit: () => this.#commit(),
        changed: (nodes, lists) => this.told.push([...nodes, ...lists].join(" ")),
        ...options,
      },
      state === undefined ? undefined : flowsFormat.parse(state),
    );
  }

  plan(): Plan {
    return this.flows.plan((id) => ({ id, addresses: [parseAddress(`10.0.0.${id}`)!], macs: [] }));
  }

  async #commit(): Promise<void> {
    this.commits++;
    const fault = this.faults.shift();
    const plan = this.plan();
    await new Promise((resolve) => setImmediate(resolve));
    this.during();
    if (fault === "bug") throw new TypeError("Cannot commit");
    if (fault !== undefined && fault !== "storage") throw new Fault(fault, "Cannot commit");
    this.enforced = plan.pairs;
    if (fault === "storage") throw new Fault(fault, "Cannot save");
    this.durable = JSON.stringify(this.flows.save());
  }
}

const done = (changed: boolean): Outcome => ({ kind: "done", changed });
const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "none",
    (thrown) => (thrown instanceof Fault ? thrown.code : thrown.name),
  );

test("block answers when the pair is enforced and durable", async () => {
  const bench = new Bench();
  const outcome = bench.flows.block(9, 2).then((each) => {
    assert.equal(bench.enforced, [[2, 9]]);
    assert.match(bench.durable, '"pairs":[[2,9]]');
    return each;
  });
  assert.equal(await outcome, done(true));
  assert.equal(bench.flows.pairs(), [[2, 9]]);
  assert.ok(bench.flows.isBlocked(9, 2));
  assert.equal(bench.told, ["2 9"]);
});

test("unblock answers when the pair may speak and the disk knows", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  assert.equal(await bench.flows.unblock(2, 1), done(true));
  assert.equal(bench.enforced, []);
  assert.match(bench.durable, '"pairs":[]');
});

test("what is so already is done without change, and committed all the same", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  assert.equal(await bench.flows.block(2, 1), done(false));
  assert.equal(await bench.flows.unblock(3, 4), done(false));
  assert.is(bench.commits, 3);
  assert.equal(bench.told, ["1 2"]);
});

test("an unknown node, one node twice, and one block too many are answers, without a commit", async () => {
  const bench = new Bench({ maxBlocks: 1 });
  assert.equal(await bench.flows.block(1, 77), { kind: "unknown", id: 77 });
  assert.equal(await bench.flows.unblock(0, 1), { kind: "unknown", id: 0 });
  assert.equal(await bench.flows.list("block", 77, true), { kind: "unknown", id: 77 });
  assert.equal(await bench.flows.block(1, 1), { kind: "same", id: 1 });
  assert.is(bench.commits, 0);
  await bench.flows.block(1, 2);
  assert.equal(await bench.flows.block(1, 3), { kind: "full", limit: 1 });
  assert.equal(await bench.flows.block(1, 2), done(false));
});

test("a merged id stands for the node that it was merged into", async () => {
  const bench = new Bench();
  bench.aliases.set(42, 2);
  await bench.flows.block(42, 1);
  assert.equal(bench.flows.pairs(), [[1, 2]]);
  assert.equal(await bench.flows.block(42, 2), { kind: "same", id: 2 });
});

for (const fault of ["kernel", "timeout", "closed", "bug"] as const) {
  test(`if the kernel fails by ${fault}, the block is taken back, everywhere`, async () => {
    const bench = new Bench();
    await bench.flows.block(1, 2);
    bench.faults.push(fault);
    assert.is(await codeOf(bench.flows.block(3, 4)), fault === "bug" ? "TypeError" : fault);
    assert.equal(bench.flows.pairs(), [[1, 2]]);
    assert.equal(bench.enforced, [[1, 2]]);
    assert.match(bench.durable, '"pairs":[[1,2]]');
    // One for the first block, one that failed, one that told the kernel to stay as it was.
    assert.is(bench.commits, 3);
  });
}

test("a turn that fails is taken back last change first", async () => {
  const bench = new Bench();
  bench.faults.push("kernel");
  await Promise.all([codeOf(bench.flows.block(1, 2)), codeOf(bench.flows.unblock(1, 2))]);
  assert.equal(bench.flows.pairs(), []);
  assert.equal(bench.enforced, []);
});

test("if the kernel refuses to unblock, the pair stays blocked", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  bench.faults.push("kernel", "kernel");
  assert.is(await codeOf(bench.flows.unblock(1, 2)), "kernel");
  assert.equal(bench.flows.pairs(), [[1, 2]]);
});

test("if only the disk refuses, the block stays in force and the caller gets the fault", async () => {
  const bench = new Bench();
  bench.faults.push("storage");
  assert.is(await codeOf(bench.flows.block(1, 2)), "storage");
  assert.equal(bench.enforced, [[1, 2]]);
  assert.equal(bench.flows.pairs(), [[1, 2]]);
  assert.equal(bench.told, ["1 2"]);
  // Asked again, it becomes durable.
  assert.equal(await bench.flows.block(1, 2), done(false));
  assert.match(bench.durable, '"pairs":[[1,2]]');
});

test("a hundred calls at once cost one commit, and as many again during it one more", async () => {
  const bench = new Bench({ resolve: (id) => id });
  const calls = Array.from({ length: 100 }, (_, index) => bench.flows.block(1, index + 2));
  let more: Promise<Outcome>[] = [];
  bench.during = () => {
    bench.during = () => {};
    assert.is(bench.commits, 1);
    more = Array.from({ length: 100 }, (_, index) => bench.flows.block(2, index + 3));
  };
  assert.ok((await Promise.all(calls)).every((each) => each.kind === "done" && each.changed));
  assert.is((await Promise.all(more)).length, 100);
  assert.is(bench.commits, 2);
  assert.is(bench.enforced.length, 200);
});

test("a commit under way holds only the changes of its turn", async () => {
  const bench = new Bench();
  let second: Promise<Outcome> | undefined;
  bench.during = () => {
    bench.during = () => {};
    second = bench.flows.block(3, 4);
    assert.equal(bench.flows.pairs(), [[1, 2]]);
  };
  bench.faults.push("kernel", undefined);
  assert.is(await codeOf(bench.flows.block(1, 2)), "kernel");
  assert.equal(await second, done(true));
  assert.equal(bench.enforced, [[3, 4]]);
});

test("in a turn that fails, a call that asked for nothing possible still gets its own answer", async () => {
  const bench = new Bench();
  bench.faults.push("kernel");
  const [good, unknown] = [codeOf(bench.flows.block(1, 2)), bench.flows.block(1, 77)];
  assert.is(await good, "kernel");
  assert.equal(await unknown, { kind: "unknown", id: 77 });
});

test("block and unblock of a pair at once end as the last one says", async () => {
  const bench = new Bench();
  const outcomes = await Promise.all([
    bench.flows.block(1, 2),
    bench.flows.unblock(1, 2),
    bench.flows.block(2, 1),
  ]);
  assert.equal(outcomes, [done(true), done(true), done(true)]);
  assert.equal(bench.enforced, [[1, 2]]);
});

test("a merge during a commit that fails leaves no decision on the merged id", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  bench.faults.push("kernel");
  bench.during = () => {
    bench.during = () => {};
    bench.nodes.delete(2);
    bench.aliases.set(2, 3);
    bench.flows.merge(2, 3);
  };
  assert.is(await codeOf(bench.flows.unblock(1, 2)), "kernel");
  assert.equal(bench.flows.pairs(), [[1, 3]]);
  assert.equal(bench.enforced, [[1, 3]]);
});

test("merge tells whose blocks look different now", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  assert.equal(bench.flows.merge(5, 6), { changed: false, dropped: [] });
  assert.equal(bench.flows.merge(2, 1), { changed: true, dropped: [[1, 2]] });
  assert.equal(bench.told, ["1 2", "1"]);
});

test("list puts on and takes off, and tells which list", async () => {
  const bench = new Bench();
  assert.equal(await bench.flows.list("block", 1, true), done(true));
  assert.equal(await bench.flows.list("allow", 1, true), done(true));
  assert.equal(await bench.flows.list("allow", 1, true), done(false));
  assert.equal(bench.plan().barred, [1]);
  assert.equal(bench.plan().exempt, [1]);
  assert.ok(bench.flows.isListed("block", 1));
  assert.equal(await bench.flows.list("block", 1, false), done(true));
  assert.equal(bench.flows.listed("block"), []);
  assert.equal(bench.told, ["1 block", "1 allow", "1 block"]);
});

test("traffic of an ignored node is booked but not shown", async () => {
  const bench = new Bench();
  await bench.flows.list("ignore", 1, true);
  const activity = { protocol: 6, fromPort: 1, toPort: 2, bytes: 3, packets: 1, at: 0 };
  bench.flows.account({ ...activity, from: 1, to: 2 });
  bench.flows.account({ ...activity, from: 3, to: 1 });
  bench.flows.account({ ...activity, from: 3, to: 2 });
  assert.is(bench.flows.records().length, 3);
  assert.equal(
    bench.flows.takeTraffic().map((each) => [each.from, each.to]),
    [[3, 2]],
  );
});

test("records without activity for half an hour are dropped", () => {
  const bench = new Bench();
  bench.flows.account({ from: 1, to: 2, protocol: 6, fromPort: 1, toPort: 2, bytes: 3, packets: 1, at: 0 });
  bench.flows.tick(1_800_000);
  assert.is(bench.flows.counters.records, 1);
  bench.flows.tick(1_800_001);
  assert.is(bench.flows.counters.records, 0);
});

test("a new life has the old one's decisions, and pins their nodes", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  await bench.flows.list("ignore", 3, true);
  const again = new Bench({}, JSON.parse(bench.durable));
  assert.equal(again.flows.pairs(), [[1, 2]]);
  assert.equal(again.flows.listed("ignore"), [3]);
  assert.equal([...again.flows.pinned()], [1, 2, 3]);
});

test("what names a node that is gone can be taken off, and not put on again", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  await bench.flows.list("block", 2, true);
  bench.nodes.delete(2);
  assert.equal(await bench.flows.list("allow", 2, false), { kind: "unknown", id: 2 });
  assert.equal(await bench.flows.list("block", 2, false), done(true));
  assert.equal(await bench.flows.unblock(2, 1), done(true));
  assert.equal(await bench.flows.unblock(2, 1), { kind: "unknown", id: 2 });
  assert.equal(await bench.flows.block(2, 1), { kind: "unknown", id: 2 });
  assert.equal([...bench.flows.pinned()], []);
});

test("split gives decisions back, tells both nodes, and the next commit enforces it", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  await bench.flows.list("block", 2, true);
  bench.flows.merge(1, 3);
  assert.equal(bench.plan().pairs, [[2, 3]]);
  await bench.flows.block(3, 4);
  bench.told.length = 0;
  assert.ok(bench.flows.split(1, 3));
  assert.equal(bench.plan().pairs, [
    [1, 2],
    [1, 4],
    [3, 4],
  ]);
  assert.equal(bench.told, ["1 3"]);
  assert.not.ok(bench.flows.split(7, 8));
});

test("merge and split tell of the lists that look different", async () => {
  const bench = new Bench();
  await bench.flows.list("block", 1, true);
  await bench.flows.list("ignore", 3, true);
  bench.told.length = 0;
  bench.flows.merge(1, 3);
  bench.flows.split(1, 3);
  assert.equal(bench.told, ["3 block ignore", "1 3 block ignore"]);
});

test("a merge that was undone during a commit that fails stays undone", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  bench.faults.push("kernel");
  bench.during = () => {
    bench.during = () => {};
    bench.flows.merge(2, 3);
    bench.flows.split(2, 3);
  };
  assert.is(await codeOf(bench.flows.unblock(1, 2)), "kernel");
  assert.equal(bench.flows.pairs(), [[1, 2]]);
  assert.equal(bench.enforced, [[1, 2]]);
});

test("after a crash between two saves, reconcile brings decisions to the nodes that live", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  bench.flows.merge(2, 3);
  const state = JSON.parse(JSON.stringify(bench.flows.save()));
  // The nodes' file is from before the merge.
  const again = new Bench({}, state);
  assert.equal(again.flows.pairs(), [[1, 3]]);
  assert.ok(again.flows.reconcile());
  assert.equal(again.flows.pairs(), [[1, 2]]);
  assert.not.ok(again.flows.reconcile());
});

test("forget makes a merge final", async () => {
  const bench = new Bench();
  await bench.flows.block(1, 2);
  bench.flows.merge(2, 3);
  assert.ok(bench.flows.forget(2));
  assert.not.ok(bench.flows.forget(2));
  assert.not.match(JSON.stringify(bench.flows.save()), "merged");
  assert.equal(bench.flows.pairs(), [[1, 3]]);
});

test("whatever is called at once and whatever fails, kernel, disk and memory agree in the end", async () => {
  const call = fc.record({
    one: fc.integer({ min: 1, max: 4 }),
    other: fc.integer({ min: 1, max: 4 }),
    kind: fc.constantFrom("block", "unblock", "list", "merge", "split"),
    on: fc.boolean(),
    pause: fc.boolean(),
  });
  const faults = fc.array(fc.constantFrom("kernel" as const, "storage" as const, undefined), {
    maxLength: 6,
  });
  await fc.assert(
    fc.asyncProperty(fc.array(call, { maxLength: 20 }), faults, async (calls, failing) => {
      const bench = new Bench();
      bench.faults.push(...failing);
      const answers: Promise<unknown>[] = [];
      for (const { one, other, kind, on, pause } of calls) {
        const lives = (id: number) => bench.nodes.has(id);
        if (kind === "merge" && one !== other && lives(one) && lives(other)) {
          bench.nodes.delete(one);
          for (const [id, into] of bench.aliases) if (into === one) bench.aliases.set(id, other);
          bench.aliases.set(one, other);
          bench.flows.merge(one, other);
        } else if (kind === "split" && bench.aliases.has(one)) {
          const from = bench.aliases.get(one)!;
          bench.aliases.delete(one);
          bench.nodes.add(one);
          bench.flows.split(one, from);
        } else if (kind === "list") answers.push(codeOf(bench.flows.list("block", one, on)));
        else if (kind === "block") answers.push(codeOf(bench.flows.block(one, other)));
        else if (kind === "unblock") answers.push(codeOf(bench.flows.unblock(one, other)));
        if (pause) await new Promise((resolve) => setImmediate(resolve));
      }
      await Promise.all(answers);
      bench.faults.length = 0;
      await bench.flows.block(8, 9);
      assert.equal(bench.enforced, bench.flows.pairs());
      assert.is(bench.durable, JSON.stringify(bench.flows.save()));
      for (const id of bench.flows.pinned()) assert.ok(bench.nodes.has(id), `${id} was merged away`);
    }),
    { numRuns: 200 },
  );
});

test.run();
