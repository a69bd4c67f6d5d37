/** Telling what passes, on a made-up kernel: what is counted, once, in whatever order the news comes. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { concat } from "../../src/kernel/attribute.ts";
import { type ConntrackOptions, type Delta, watchConntrack } from "../../src/kernel/conntrack.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { System } from "../../src/system/system.ts";
import {
  connectionPayload,
  type MadeUpConnection,
  madeUpMachine,
  pause,
  recordedElsewhere,
  toUs,
} from "./yard.ts";

const bytes = (...values: number[]) => Uint8Array.from(values);

/** A watch on a made-up kernel: `reading` lets it read what is given, and answers what it told. */
async function madeUp(first: readonly MadeUpConnection[] = [], options: Partial<ConntrackOptions> = {}) {
  const { fake, system: clock } = madeUpMachine();
  const told: Delta[] = [];
  const settings = new Map([
    ["/proc/sys/net/netfilter/nf_conntrack_acct", "0\n"],
    ["/proc/sys/net/netfilter/nf_conntrack_events", "2\n"],
  ]);
  const machine = {
    ...(clock as unknown as System),
    read: async (path: string) => (settings.has(path) ? Buffer.from(settings.get(path)!) : undefined),
    set: async (path: string, value: string) => void settings.set(path, value),
  };
  const starting = watchConntrack(machine, {
    periodMs: 1_000,
    onFlows: (deltas) => told.push(...deltas),
    ...options,
  });
  const take = () => told.splice(0);
  const answer = (rows: readonly MadeUpConnection[]) => {
    const { sequence } = fake.sent.at(-1)!;
    fake.answer(rows.map((row) => toUs(0x100, sequence, { payload: connectionPayload(row), flags: 2 })));
  };
  const end = async () => {
    fake.answer([toUs(3, fake.sent.at(-1)!.sequence, { payload: bytes(0, 0, 0, 0) })]);
    await pause(0);
  };
  const ask = async () => {
    const before = fake.sent.length;
    fake.advance(1_000);
    await pause(0);
    assert.is(fake.sent.length, before + 1, "it reads again");
  };
  await pause(0);
  answer(first);
  await end();
  const watch = await starting;
  return {
    ...{ watch, fake, settings, take, ask, answer, end },
    reading: async (rows: readonly MadeUpConnection[]) => {
      await ask();
      answer(rows);
      await end();
      return take();
    },
    destroy: (row: MadeUpConnection) => {
      fake.event([toUs(0x102, 0, { payload: connectionPayload(row), to: 0 })]);
      return take();
    },
  };
}

/** The numbers of deltas, "+" for new, "-" for ended. */
const numbers = (deltas: readonly Delta[]) =>
  deltas.map(
    (each) =>
      `${each.new ? "+" : ""}${each.packetsOut}/${each.bytesOut} ${each.packetsIn}/${each.bytesIn}${each.ended ? "-" : ""}`,
  );

test("watchConntrack: what was there before is told with nothing passed, later ones whole, then differences", async () => {
  const { watch, take, reading } = await madeUp([{ counters: [10n, 1000n, 20n, 2000n] }]);
  assert.equal(numbers(take()), ["+0/0 0/0"]);
  const now: MadeUpConnection = { counters: [11n, 1050n, 22n, 2500n] };
  const later: MadeUpConnection = { id: 8, counters: [1n, 60n, 0n, 0n] };
  assert.equal(numbers(await reading([now, later])), ["1/50 2/500", "+1/60 0/0"]);
  assert.equal(await reading([now, later]), [], "nothing moved, nothing is told");
  assert.is(watch.size, 2);
  assert.is(watch.counters.readings, 3);
  watch.close();
});

test("watchConntrack: differences are exact however high the counters stand, and stop at 2^53-1", async () => {
  const { watch, take, reading } = await madeUp([{ counters: [2n ** 53n, 2n ** 63n + 1n, 0n, 0n] }]);
  take();
  assert.equal(numbers(await reading([{ counters: [2n ** 53n + 1n, 2n ** 63n + 4n, 0n, 2n ** 32n] }])), [
    "1/3 0/4294967296",
  ]);
  assert.equal(numbers(await reading([{ counters: [2n ** 53n + 1n, 2n ** 64n - 1n, 0n, 2n ** 32n + 1n] }])), [
    `0/${2 ** 53 - 1} 0/1`,
  ]);
  watch.close();
});

test("watchConntrack: a direction whose counters went backwards was zeroed, and counts from zero", async () => {
  const { watch, take, reading } = await madeUp([{ counters: [10n, 1000n, 20n, 2000n] }]);
  take();
  assert.equal(numbers(await reading([{ counters: [1n, 60n, 21n, 2100n] }])), ["1/60 1/100"]);
  // More bytes than before, but fewer packets: zeroed as well.
  assert.equal(numbers(await reading([{ counters: [1n, 60n, 2n, 3000n] }])), ["0/0 2/3000"]);
  watch.close();
});

test("watchConntrack: differences add up to the kernel's counters, in whatever steps they are read", async () => {
  const step = fc.tuple(
    fc.bigInt(0n, 2n ** 40n),
    fc.bigInt(0n, 2n ** 40n),
    fc.bigInt(0n, 9n),
    fc.bigInt(0n, 9n),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 8 }), async (steps) => {
      const { watch, take, reading } = await madeUp([{ counters: [0n, 0n, 0n, 0n] }]);
      take();
      const sum = [0n, 0n, 0n, 0n] as [bigint, bigint, bigint, bigint];
      const told = [0n, 0n, 0n, 0n];
      for (const each of steps) {
        for (const at of [0, 1, 2, 3] as const) sum[at] += each[at];
        for (const delta of await reading([{ counters: sum }])) {
          told[0]! += BigInt(delta.packetsOut);
          told[1]! += BigInt(delta.bytesOut);
          told[2]! += BigInt(delta.packetsIn);
          told[3]! += BigInt(delta.bytesIn);
        }
      }
      assert.equal(told, sum);
      watch.close();
    }),
    { numRuns: 20 },
  );
});

test("watchConntrack: the end of a connection brings its last counters, also if it was never read", async () => {
  const { watch, destroy, reading } = await madeUp();
  assert.equal(numbers(await reading([{ counters: [1n, 10n, 0n, 0n] }])), ["+1/10 0/0"]);
  assert.equal(numbers(destroy({ counters: [3n, 40n, 1n, 5n] })), ["2/30 1/5-"]);
  assert.is(watch.size, 0);
  assert.equal(numbers(destroy({ id: 9, counters: [3n, 40n, 1n, 5n] })), ["+3/40 1/5-"]);
  assert.is(watch.size, 0);
  watch.close();
});

test("watchConntrack: a reading that is older than the news of the end does not bring it back", async () => {
  const { watch, ask, answer, end, destroy, take, reading } = await madeUp();
  const row: MadeUpConnection = { counters: [3n, 40n, 1n, 5n] };
  await reading([{ counters: [1n, 10n, 0n, 0n] }]);
  await ask();
  assert.equal(numbers(destroy(row)), ["2/30 1/5-"]);
  assert.equal(numbers(destroy({ ...row, id: 9 })), ["+3/40 1/5-"]);
  const older: MadeUpConnection = { counters: [2n, 30n, 1n, 5n] };
  answer([older, { ...older, id: 9 }]);
  await end();
  assert.equal(take(), []);
  assert.is(watch.size, 0);
  // The same number and tuple again is another connection.
  assert.equal(numbers(await reading([{ counters: [1n, 10n, 0n, 0n] }])), ["+1/10 0/0"]);
  watch.close();
});

test("watchConntrack: a successor that comes and goes during the reading in which its predecessor went is counted too", async () => {
  const { watch, ask, answer, end, destroy, take } = await madeUp();
  await ask();
  assert.equal(numbers(destroy({ counters: [9n, 90n, 0n, 0n] })), ["+9/90 0/0-"]);
  answer([{ counters: [1n, 10n, 0n, 0n] }]);
  assert.equal(numbers(destroy({ counters: [2n, 20n, 0n, 0n] })), ["+2/20 0/0-"]);
  await end();
  assert.equal(take(), []);
  watch.close();
});

test("watchConntrack: one that the reading shows as ending is left to the news of its end", async () => {
  const { watch, destroy, reading } = await madeUp();
  const row: MadeUpConnection = { counters: [1n, 10n, 0n, 0n] };
  assert.equal(await reading([{ ...row, status: 0x38a }]), []);
  assert.equal(numbers(destroy(row)), ["+1/10 0/0-"]);
  watch.close();
});

test("watchConntrack counts those that a flowtable forwards, and how many of them in hardware", async () => {
  const { watch, reading } = await madeUp();
  await reading([{}, { id: 8, status: 0x418a }, { id: 9, status: 0xc18a }]);
  assert.equal([watch.counters.offloaded, watch.counters.hardwareOffloaded], [2, 1]);
  await reading([{}]);
  assert.equal([watch.counters.offloaded, watch.counters.hardwareOffloaded], [0, 0]);
  watch.close();
});

test("watchConntrack: missing from two readings in a row it has ended, from one it has not", async () => {
  const { watch, take, reading } = await madeUp([{}]);
  take();
  assert.equal(await reading([]), []);
  assert.equal(await reading([{}]), []);
  assert.equal(await reading([]), []);
  assert.is(watch.size, 1);
  assert.equal(await reading([]), [], "what it moved last is not known");
  assert.equal([watch.size, watch.counters.vanished], [0, 1]);
  watch.close();
});

test("watchConntrack: an overrun asks for a reading at once", async () => {
  const { watch, fake, answer, end, take } = await madeUp();
  const before = fake.sent.length;
  fake.overrun();
  fake.advance(1);
  assert.is(fake.sent.length, before, "the question is asked in its turn");
  await pause(0);
  assert.is(fake.sent.length, before + 1);
  answer([{ counters: [1n, 10n, 0n, 0n] }]);
  await end();
  assert.equal(numbers(take()), ["+1/10 0/0"]);
  assert.equal([watch.counters.overruns, watch.counters.resyncs], [1, 1]);
  watch.close();
});

test("watchConntrack keeps no more than its limit; what it has no room for is counted when it ends", async () => {
  const rows = Array.from({ length: 50 }, (_, id) => ({ id, counters: [1n, 10n, 0n, 0n] as const }));
  const { watch, destroy, reading } = await madeUp([], { maxConnections: 20 });
  assert.is((await reading(rows)).length, 20);
  assert.equal([watch.size, watch.counters.dropped], [20, 30]);
  assert.equal(numbers(destroy({ id: 49, counters: [2n, 20n, 0n, 0n] })), ["+2/20 0/0-"]);
  assert.is(watch.size, 20);
  watch.close();
});

test("watchConntrack: a failed reading is reported and tried again, and a broken socket is opened anew", async () => {
  const faults: string[] = [];
  const { watch, fake, ask, answer, end, take } = await madeUp([{}], {
    onFault: ({ code }) => faults.push(code),
  });
  take();
  await ask();
  fake.answer([
    toUs(2, fake.sent.at(-1)!.sequence, {
      payload: concat([bytes(0xf4, 0xff, 0xff, 0xff), new Uint8Array(16)]),
    }),
  ]);
  await pause(0);
  assert.equal(faults, [recordedElsewhere ? "denied" : "kernel"]);
  await ask();
  answer([{ counters: [1n, 10n, 0n, 0n] }]);
  await end();
  assert.equal(numbers(take()), ["1/10 0/0"]);
  fake.fail(new Fault("closed", "Cannot read: gone"));
  assert.equal(faults.slice(1), ["closed"]);
  const sockets = fake.sockets.length;
  fake.advance(1_000);
  assert.ok(fake.sockets.length > sockets);
  assert.is(watch.counters.resyncs, 1);
  watch.close();
});

test("watchConntrack switches on what is off, and leaves alone what is on", async () => {
  const { watch, settings } = await madeUp();
  assert.equal([...settings.values()], ["1", "2\n"]);
  assert.ok(watch.counting);
  watch.close();
});

test("watchConntrack: without the switches it says so, goes on, and tries again", async () => {
  const faults: string[] = [];
  let there = false;
  const set: string[] = [];
  const { fake, system: clock } = madeUpMachine();
  const machine = {
    ...(clock as unknown as System),
    read: async () => (there ? Buffer.from("0\n") : undefined),
    set: async (path: string) => void set.push(path),
  };
  const starting = watchConntrack(machine, {
    periodMs: 1_000,
    onFlows: () => undefined,
    onFault: ({ code }) => faults.push(code),
  });
  await pause(0);
  assert.equal(faults, ["unsupported"]);
  there = true;
  fake.answer([toUs(3, fake.sent.at(-1)!.sequence, { payload: bytes(0, 0, 0, 0) })]);
  const watch = await starting;
  assert.ok(watch.counting);
  assert.is(set.length, 2);
  watch.close();
});

test.run();
