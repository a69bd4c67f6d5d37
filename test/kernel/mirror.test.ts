/** Mirror: a table kept right by notifications and dumps, in whatever order they come. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Mirror } from "../../src/kernel/mirror.ts";

test("Mirror tells each difference once, and a dump does not overrule what a notification said since", () => {
  const told: string[] = [];
  const mirror = new Mirror<{ value: number }>(10, (change, entry) => told.push(`${change} ${entry.value}`));
  const tell = () => told.splice(0).join(", ");
  mirror.hear("a", { value: 1 });
  mirror.hear("a", { value: 1 });
  mirror.hear("a", { value: 2 });
  mirror.hear("b", { value: 3 });
  mirror.hear("c", undefined);
  assert.is(tell(), "add 1, change 2, add 3");
  mirror.beginRead();
  mirror.hear("new", { value: 4 });
  mirror.hear("b", undefined);
  mirror.read("b", { value: 3 });
  mirror.read("a", { value: 2 });
  mirror.read("d", { value: 5 });
  mirror.endRead();
  assert.is(tell(), "add 4, remove 3, add 5");
  assert.equal([...mirror.entries.keys()].sort(), ["a", "d", "new"]);
  mirror.beginRead();
  mirror.read("d", { value: 5 });
  mirror.endRead();
  assert.is(tell(), "remove 2, remove 4");
  mirror.beginRead();
  mirror.abandonRead();
  mirror.endRead();
  assert.is(tell(), "", "a dump that failed removes nothing");
});

test("Mirror holds no more than its limit, and counts what it leaves out", () => {
  const mirror = new Mirror<{ value: number }>(100, () => undefined);
  for (let value = 0; value < 1_000; value++) mirror.hear(`${value}`, { value });
  assert.equal([mirror.entries.size, mirror.dropped], [100, 900]);
  mirror.hear("0", undefined);
  mirror.hear("999", { value: 999 });
  assert.equal([mirror.entries.size, mirror.entries.has("999")], [100, true]);
});

test("Mirror ends with what the kernel has, however notifications and dumps are interleaved", () => {
  // The kernel: a table, a queue of notifications, and dumps that answer with the table of the moment asked.
  const step = fc.oneof(
    fc.record({ kind: fc.constant("set" as const), key: fc.nat(4), value: fc.nat(3) }),
    fc.record({ kind: fc.constant("drop" as const), key: fc.nat(4), value: fc.constant(0) }),
    fc.record({
      kind: fc.constantFrom("hear" as const, "ask" as const, "answer" as const),
      key: fc.nat(4),
      value: fc.constant(0),
    }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const kernel = new Map<string, { value: number }>();
      const queue: [string, { value: number } | undefined][] = [];
      let answers: [string, { value: number }][] | undefined;
      const shown = new Map<{ value: number }, true>();
      const mirror = new Mirror<{ value: number }>(10, (change, entry) => {
        if (change === "remove") assert.ok(shown.delete(entry));
        else shown.set(entry, true);
      });
      const finish = () => {
        for (const [key, entry] of answers ?? []) mirror.read(key, entry);
        if (answers) mirror.endRead();
        answers = undefined;
      };
      for (const { kind, key, value } of steps) {
        const name = `${key}`;
        if (kind === "set") {
          kernel.set(name, { value });
          queue.push([name, { value }]);
        } else if (kind === "drop") {
          if (kernel.delete(name)) queue.push([name, undefined]);
        } else if (kind === "hear") {
          const next = queue.shift();
          if (next) mirror.hear(...next);
        } else if (kind === "ask" && !answers) {
          mirror.beginRead();
          answers = [...kernel].map(([each, entry]) => [each, { ...entry }]);
        } else if (kind === "answer") finish();
      }
      finish();
      for (const next of queue) mirror.hear(...next);
      const sorted = (map: ReadonlyMap<string, { value: number }>) =>
        [...map].map(([key, entry]) => `${key}=${entry.value}`).sort();
      assert.equal(sorted(mirror.entries), sorted(kernel));
    }),
  );
});

test.run();
