/** Numbers of nodes: never one twice, over all lives. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { ID_MAX, Numbers } from "../../src/nodes/numbers.ts";

test("Numbers: whatever crashes when, no number is given twice", () => {
  const step = fc.oneof(
    fc.record({ verb: fc.constant("give" as const), count: fc.integer({ min: 1, max: 20_000 }) }),
    fc.record({ verb: fc.constantFrom("save", "durable", "crash", "damage", "stop") }),
  );
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 40, size: "max" }), (steps) => {
      let numbers = new Numbers();
      let highest = 0;
      // Files: what is on disk, and the generation before.
      let [disk, before, rendered] = [1, 1, 0];
      const restart = (next: number, older: boolean) => {
        numbers = new Numbers();
        numbers.startAt(next, { older });
        // The agent saves as it starts, twice after damage; before that nothing is promised.
        for (let saves = older ? 2 : 1; saves > 0; saves--) {
          [disk, before, rendered] = [numbers.reserve(), disk, 0];
          numbers.reserved();
        }
      };
      for (const each of steps) {
        if (each.verb === "give") {
          // Before the first save of a first life nothing is promised.
          const count = "count" in each && disk > 1 ? each.count : 0;
          for (let left = count; left > 0; left--) {
            const id = numbers.give(0);
            if (id === undefined) break;
            assert.ok(id > highest, `${id} after ${highest}`);
            highest = id;
          }
        } else if (each.verb === "save") {
          rendered = numbers.reserve();
        } else if (each.verb === "durable" && rendered > 0) {
          [disk, before, rendered] = [rendered, disk, 0];
          numbers.reserved();
        } else if (each.verb === "stop" && disk > 1) {
          [disk, before, rendered] = [numbers.reserve({ last: true }), disk, 0];
          numbers.reserved();
          assert.is(numbers.give(0), undefined);
          restart(disk, false);
        } else if ((each.verb === "crash" || each.verb === "damage") && disk > 1) {
          // A damaged file is set aside: what is read then has nothing before it.
          const older = each.verb === "damage" && before > 1;
          if (older) disk = before;
          restart(disk, older);
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("Numbers: past the reserve nothing is given until it is saved, or the disk is broken for a minute", () => {
  const numbers = new Numbers();
  numbers.reserve();
  numbers.reserved();
  assert.not.ok(numbers.short);
  let given = 0;
  while (numbers.give(1000) !== undefined) given++;
  assert.is(given, 16_384);
  assert.ok(numbers.short);
  numbers.tick(60_000);
  assert.is(numbers.give(60_000), undefined);
  numbers.tick(61_001);
  assert.is(numbers.give(61_001), given + 1);
});

test("Numbers: saving again and again makes room again", () => {
  const numbers = new Numbers();
  for (let round = 0; round < 10; round++) {
    numbers.reserve();
    numbers.reserved();
    for (let count = 0; count < 8000; count++) assert.ok(numbers.give(0) !== undefined);
  }
});

test("Numbers end at 2^31-1", () => {
  const numbers = new Numbers();
  numbers.startAt(ID_MAX - 1);
  assert.is(numbers.give(0), ID_MAX - 1);
  assert.is(numbers.give(0), undefined);
  assert.is(numbers.reserve(), ID_MAX);
});

test.run();
