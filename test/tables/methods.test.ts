/** The object `gatehouse.tables`: arguments, answers, and who may what. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import { Fault, type FaultCode } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { tableMethods } from "../../src/tables/tables.ts";
import { stage } from "./stage.ts";

const one = { family: "inet", interface: "eth1", address: "192.0.2.5", netmask: "255.255.255.0" };

function methods(options: Parameters<typeof stage>[0] = {}) {
  const s = stage(options);
  const table = tableMethods(s.tables, s.clock);
  const call = async (method: string, args: JsonObject, user: string | undefined = "root") =>
    (await table[method]!.call(args as Record<string, Json>, { user, group: user })) as JsonObject;
  const code = (method: string, args: JsonObject, user?: string): Promise<FaultCode | "none"> =>
    call(method, args, user).then(
      () => "none" as const,
      (thrown: Fault) => thrown.code,
    );
  return { ...s, call, code };
}

test("request answers table and time, makes rules unless told not to, and says so", async () => {
  const { call, kernel } = methods();
  assert.equal(await call("request", { ...one, tag: "t", lifetime: 50, follow: true }), {
    ...{ table: 10_000, expires_in: 50, family: "inet", interface: "eth1", address: "192.0.2.5", tag: "t" },
    ...{ owner: "root", lifetime: 50, rules: true, follow: true },
  });
  assert.equal(kernel.lines, [
    ...["10000 from 192.0.2.5/32 lookup 10000", "20000 to 192.0.2.0/24 lookup 10000"],
    "91000 iif lo lookup 10000",
  ]);
  const silent = await call("request", { ...one, address: "192.0.2.6", rules: false });
  assert.is(silent.rules, false);
  assert.is(silent.expires_in, 100);
  assert.is(kernel.lines.length, 3);
});

test("renew, release and get find a lease by key, or by family and table", async () => {
  const { call, code, clock } = methods();
  await call("request", one);
  clock.nowMs += 40_000;
  assert.is((await call("get", { family: "inet", table: 10_000 })).expires_in, 60);
  assert.is((await call("renew", { family: "inet", table: 10_000, lifetime: 500 })).expires_in, 500);
  assert.is((await call("renew", one)).expires_in, 500);
  assert.equal(await call("release", one), { table: 10_000 });
  for (const method of ["renew", "release", "get"]) assert.is(await code(method, one), "not-found");
});

test("a lease is its user's; others are denied, root is not, and who is unknown is nobody in particular", async () => {
  const { call, code } = methods();
  await call("request", one, "ann");
  for (const method of ["request", "renew", "release"]) assert.is(await code(method, one, "bob"), "denied");
  assert.is(await code("release", one, ""), "denied");
  assert.is((await call("renew", one)).owner, "ann");
  assert.is(await code("import", { leases: [] }, "ann"), "denied");
});

test("arguments that make no sense are invalid, each for its reason", async () => {
  const { code } = methods();
  const wrong: readonly JsonObject[] = [
    ...[
      {},
      { family: "inet" },
      { ...one, family: "ipx" },
      { ...one, address: "x" },
      { ...one, interface: "" },
    ],
    ...[
      { ...one, address: "2001:db8::1" },
      { ...one, lifetime: 0 },
      { ...one, lifetime: 2 ** 30 },
    ],
    ...["255.0.255.0", "33", "x", "::1", ""].map((netmask) => ({ ...one, netmask })),
    ...[
      { ...one, routes: true, rules: false },
      { ...one, netifd: true },
      { family: "inet", table: -1 },
    ],
  ];
  for (const args of wrong) {
    const expected = "table" in args ? "not-found" : "invalid";
    assert.is(await code("table" in args ? "get" : "request", args), expected, JSON.stringify(args));
  }
});

test("a netmask may be dotted or a length, in both families", async () => {
  const { call, kernel } = methods();
  await call("request", { ...one, netmask: "255.255.255.128" });
  await call("request", { family: "inet6", interface: "e", address: "2001:db8::5", netmask: "48" });
  assert.ok(kernel.lines.includes("20000 to 192.0.2.0/25 lookup 10000"));
  assert.ok(kernel.lines.includes("20000 to 2001:db8::/48 lookup 10000"));
});

test("list shows leases by table and family, part by part where there are many", async () => {
  const { call, tables } = methods({ count: 3_000 });
  await Promise.all(
    Array.from({ length: 2_500 }, (_, index) =>
      call("request", { ...one, address: `10.0.${index >> 8}.${index & 255}`, rules: false }),
    ),
  );
  await call("request", { family: "inet6", interface: "e", rules: false });
  assert.is(tables.counters.leases, 2_501);
  const seen: Json[] = [];
  for (let after = -1, more: Json | undefined = true; more; ) {
    const answer = await call("list", { after });
    const leases = answer.leases as readonly JsonObject[];
    seen.push(...leases.map((each) => `${each.family} ${each.table}`));
    after = Number(leases.at(-1)!.table);
    more = answer.more;
  }
  assert.is(new Set(seen).size, 2_501);
  assert.is(seen.length, 2_501);
  assert.equal((await call("list", { family: "inet6" })).leases, [
    {
      ...{ table: 10_000, expires_in: 100, family: "inet6", interface: "e", address: "" },
      ...{ owner: "root", lifetime: 100, rules: false },
    },
  ]);
  assert.equal((await call("list", { after: 20_000 })).leases, []);
});

test("list says which rules or routes the kernel does not have now", async () => {
  const { call, tables, kernel } = methods({ gatewayOf: () => "192.0.2.1" as Address });
  await call("request", { ...one, routes: true });
  const apply = kernel.apply.bind(kernel);
  kernel.apply = async (plan) => {
    await apply(plan);
    return plan.routes.map((what) => ({ what, fault: new Fault("kernel", "Cannot steer: network is down") }));
  };
  tables.addresses([{ interface: "eth1", ifindex: 3, address: "192.0.2.5" as Address, prefixLength: 24 }]);
  await tables.settled();
  assert.is((await call("get", one)).missing, "Cannot steer: network is down");
});

test("import takes leases with their numbers, and names those that it does not", async () => {
  const { call, code, tables } = methods();
  const lease = (table: number, address: string) => ({
    table,
    family: "inet",
    interface: "e",
    address,
    label: "x",
  });
  assert.equal(await call("import", { leases: [lease(10_003, "10.0.0.1"), lease(9_000, "10.0.0.2")] }), {
    ...{ adopted: 1, left: [9_000] },
  });
  assert.is(tables.holder("inet", 10_003)!.note.label, "x");
  assert.is(await code("import", { leases: [7] }), "invalid");
});

test.run();
