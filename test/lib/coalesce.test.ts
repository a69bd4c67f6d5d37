/** Work that is asked for in bursts. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { coalesced } from "../../src/lib/coalesce.ts";

test("coalesced: what is asked for while it runs is done once more, and never beside itself", async () => {
  const gates: (() => void)[] = [];
  let running = 0;
  const ask = coalesced(async () => {
    assert.is(++running, 1);
    await new Promise<void>((resolve) => gates.push(resolve));
    running--;
  });
  const first = ask();
  for (let more = 0; more < 5; more++) await ask();
  assert.is(gates.length, 1);
  gates[0]!();
  await new Promise((resolve) => setImmediate(resolve));
  assert.is(gates.length, 2);
  gates[1]!();
  await first;
  assert.is(gates.length, 2);
  void ask();
  assert.is(gates.length, 3);
});

test.run();
