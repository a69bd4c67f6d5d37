/** The object `gatehouse.neighbours`: what callers say, what they get, and what they are refused. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { neighbourMethods, noticeOf } from "../../src/neighbours/neighbours.ts";
import { hostA, hostB, macA, macB, type Stage, stage } from "./wire.ts";

const caller = { user: undefined, group: undefined };

async function call(on: Stage, name: string, args: Record<string, Json> = {}): Promise<JsonObject> {
  const method = neighbourMethods(on.neighbours, { clock: on.machine })[name]!;
  return (await method.call(args, caller)) as JsonObject;
}

async function refused(promise: Promise<unknown>): Promise<Fault> {
  const thrown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.instance(thrown, Fault);
  return thrown as Fault;
}

test("resolve answers link-layer address, state, source, age and whether it is verified", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const target = { address: hostA, device: "lan" };
  const known = { ...target, lladdr: macA, source: "probed" };
  assert.equal(await call(on, "resolve", target), { ...known, state: "reachable", age: 0, verified: true });
  await on.machine.advance(31_000);
  assert.equal(await call(on, "resolve", target), { ...known, state: "stale", age: 31_000, verified: false });
  // It was asked again behind that answer: not twice within a second.
  await on.machine.advance(1_000);
  const fresh = { ...target, fresh: true, timeout: 100, probe: "packet" };
  assert.is((await call(on, "resolve", fresh)).age, 0);
});

test("resolve says no in words: no answer in time, nobody lately and until when, no device, no address", async () => {
  const on = stage();
  const failing = refused(call(on, "resolve", { address: hostA, device: "lan", timeout: 4_000 }));
  await on.machine.advance(3_000);
  const timeout = await failing;
  assert.is(timeout.code, "timeout");
  assert.match(timeout.message, /no answer; ask again in 3000 ms/);
  const negative = await refused(call(on, "resolve", { address: hostA, device: "lan" }));
  assert.is(negative.code, "not-found");
  assert.match(negative.message, /nobody answered lately; ask again in \d+ ms/);
  const cases: [args: Record<string, Json>, code: string][] = [
    [{}, "invalid"],
    [{ address: hostA }, "invalid"],
    [{ address: hostA, device: "" }, "invalid"],
    [{ address: "192.0.2.1/24", device: "lan" }, "invalid"],
    [{ address: "fe80::1%lan", device: "lan" }, "invalid"],
    [{ address: "x".repeat(100_000), device: "lan" }, "invalid"],
    [{ address: "192.0.2.1", device: "lan" }, "invalid"],
    [{ address: "224.0.0.1", device: "lan" }, "invalid"],
    [{ address: hostB, device: "__proto__" }, "not-found"],
    [{ address: hostB, device: "lan", timeout: 0 }, "invalid"],
    [{ address: hostB, device: "lan", timeout: 60_001 }, "invalid"],
    [{ address: hostB, device: "lan", probe: "magic" }, "invalid"],
  ];
  for (const [args, code] of cases) {
    assert.is((await refused(call(on, "resolve", args))).code, code, JSON.stringify(args).slice(0, 80));
  }
});

test("list shows what is known and what nobody answers for, of a device or of all, as much as is asked for", async () => {
  const on = stage({ steered: true });
  on.tell(hostA, "reachable", macA);
  on.tell(hostB, "permanent", macB);
  const dead = refused(call(on, "resolve", { address: "192.0.2.99", device: "lan", timeout: 9_000 }));
  await on.machine.advance(3_300);
  await dead;
  const all = await call(on, "list", { device: "lan" });
  assert.equal(all, {
    neighbours: [
      {
        address: hostA,
        device: "lan",
        lladdr: macA,
        state: "reachable",
        source: "solicited",
        verified: false,
      },
      {
        address: hostB,
        device: "lan",
        lladdr: macB,
        state: "permanent",
        source: "permanent",
        verified: false,
      },
    ],
    total: 2,
    failed: [{ address: "192.0.2.99", device: "lan", retry_after: 3_000 }],
  });
  assert.equal(((await call(on, "list", { limit: 1 })).neighbours as Json[]).length, 1);
  assert.is((await refused(call(on, "list", { device: "nowhere" }))).code, "not-found");
  assert.is((await refused(call(on, "list", { limit: 5_001 }))).code, "invalid");
});

test("forget says whether there was anything, and the next who asks waits", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const target = { address: hostA, device: "lan" };
  assert.equal(await call(on, "forget", target), { forgotten: false });
  await call(on, "resolve", target);
  assert.equal(await call(on, "forget", target), { forgotten: true });
  await on.machine.advance(1_000);
  await call(on, "resolve", target);
  assert.is(on.wire.asked(hostA).length, 2);
});

test("conflicts and events are told in the same words", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  on.tell(hostA, "reachable", macA);
  on.tell(hostA, "stale", macB);
  await on.machine.advance(1_000);
  const shown = {
    ...{ address: hostA, device: "lan", lladdrs: [macA, macB], answering: [macA] },
    ...{ active: true, count: 1, first_age: 0, last_age: 0 },
  };
  assert.equal(await call(on, "conflicts"), { conflicts: [shown] });
  assert.equal(
    on.events.map((event) => noticeOf(event, on.machine.now())),
    [
      {
        kind: "changed",
        payload: {
          ...{ address: hostA, device: "lan", lladdr: macA, state: "reachable" },
          ...{ source: "solicited", verified: false },
        },
      },
      {
        kind: "changed",
        payload: {
          ...{ address: hostA, device: "lan", lladdr: macB, state: "stale" },
          ...{ source: "learned", verified: false },
        },
      },
      { kind: "conflict", payload: shown },
    ],
  );
  const { kinds } = await call(on, "watch");
  for (const { kind } of on.events) assert.ok((kinds as string[]).includes(kind));
});

test("only forget changes anything", () => {
  const on = stage();
  const methods = neighbourMethods(on.neighbours, { clock: on.machine });
  const writing = Object.entries(methods).filter(([, { access }]) => access === "write");
  assert.equal(
    writing.map(([name]) => name),
    ["forget"],
  );
  assert.equal(Object.keys(methods), ["resolve", "list", "forget", "conflicts", "watch"]);
  assert.ok(on.neighbours.get("lan", "192.0.2.77" as Address) === undefined);
});

test.run();
