/** Leases of tables: who gets which number, for how long, and what of it survives. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import { Fault, type FaultCode } from "../../src/lib/fault.ts";
import { keyOf, type TableFamily, type TableKey } from "../../src/tables/tables.ts";
import { type Stage, stage, wish } from "./stage.ts";

const key = (address: string, more: Partial<TableKey> = {}) =>
  keyOf({ family: "inet", interface: "eth1", address, ...more });
const at = (last: number) => key(`192.0.2.${last}`);
const table = async ({ tables }: Stage, of: TableKey, more = {}) =>
  (await tables.request(of, wish(more))).value;

async function refused(code: FaultCode, call: Promise<unknown>): Promise<Fault> {
  const thrown = await call.then(
    () => undefined,
    (fault: unknown) => fault,
  );
  assert.instance(thrown, Fault);
  assert.is((thrown as Fault).code, code);
  return thrown as Fault;
}

const placed = (name: string, address: string, prefixLength = 24) => ({
  ...{ interface: name, ifindex: 7, address: address as Address, prefixLength },
});

test("request gives the lowest free number of the family, and the same one to the same key", async () => {
  const s = stage();
  assert.is(await table(s, at(1)), 10_000);
  assert.is(await table(s, at(2)), 10_001);
  assert.is(await table(s, at(1)), 10_000);
  assert.is(await table(s, key("2001:db8::1", { family: "inet6" })), 10_000);
  assert.is(await table(s, key("192.0.2.1", { family: "unspec" })), 10_000);
  assert.is(await table(s, key("192.0.2.1", { tag: "vpn" })), 10_002);
  assert.equal(s.heard, [
    ...["granted inet 10000", "granted inet 10001", "granted inet6 10000"],
    ...["granted unspec 10000", "granted inet 10002"],
  ]);
});

test("spellings of an address are one key", async () => {
  const s = stage();
  const one = await table(s, key("2001:DB8:0::1", { family: "inet6" }));
  assert.is(await table(s, key("2001:db8::1", { family: "inet6" })), one);
});

test("keyOf refuses what is no key", () => {
  for (const parts of [
    { family: "ipx", interface: "eth0" },
    ...["", "a b", "eth0/1", "x".repeat(16), "a\u0000"].map((name) => ({ family: "inet", interface: name })),
    ...["2001:db8::1", "1.2.3", "1.2.3.4/24", "x"].map((address) => ({
      ...{ family: "inet", interface: "eth0", address },
    })),
    { family: "inet", interface: "eth0", tag: "t".repeat(128) },
    { family: "inet", interface: "eth0", tag: "a\nb" },
  ]) {
    assert.throws(
      () => keyOf(parts),
      (thrown: unknown) => thrown instanceof Fault && thrown.code === "invalid",
    );
  }
});

test("an answer comes after kernel and disk, and many callers share one commit", async () => {
  const s = stage({ count: 300 });
  await s.tables.settled();
  const [applied, writes] = [s.kernel.applied, s.disk.writes];
  await Promise.all(
    Array.from({ length: 200 }, (_, index) =>
      s.tables.request(at(index + 1), wish({ steer: "rules", prefixLength: 24 })),
    ),
  );
  assert.is(s.kernel.applied - applied, 1);
  assert.is(s.disk.writes - writes, 1);
  assert.is(s.kernel.plan.rules.length, 600);
  assert.is(s.disk.saved.flatMap(({ records }) => records).length, 200);
});

test("a lease with rules has three of them in its family, one without none", async () => {
  const s = stage();
  await table(s, key("192.0.2.5"), { steer: "rules", prefixLength: 24 });
  await table(s, key("2001:db8:1::5", { family: "inet6" }), { steer: "rules", prefixLength: 64 });
  await table(s, at(9));
  assert.equal(s.kernel.lines, [
    "10000 from 192.0.2.5/32 lookup 10000",
    "20000 to 192.0.2.0/24 lookup 10000",
    "91000 iif lo lookup 10000",
    "10000 from 2001:db8:1::5/128 lookup 10000",
    "20000 to 2001:db8:1::/64 lookup 10000",
    "91000 iif lo lookup 10000",
  ]);
});

test("without a netmask the kernel's prefix counts, from when it is known, and as it changes", async () => {
  const s = stage();
  await table(s, key("192.0.2.5"), { steer: "rules" });
  assert.is(s.kernel.lines.length, 2);
  s.tables.addresses([placed("eth1", "192.0.2.5", 25)]);
  await s.tables.settled();
  assert.ok(s.kernel.lines.includes("20000 to 192.0.2.0/25 lookup 10000"));
  s.tables.addresses([placed("eth1", "192.0.2.5", 20)]);
  await s.tables.settled();
  assert.ok(s.kernel.lines.includes("20000 to 192.0.0.0/20 lookup 10000"));
});

test("a lease of a whole interface has rules for every address it has now, and none for link-local ones", async () => {
  const s = stage();
  s.tables.addresses([
    placed("eth1", "192.0.2.5"),
    placed("eth1", "fe80::1", 64),
    placed("eth2", "198.51.100.1"),
  ]);
  await table(s, keyOf({ family: "unspec", interface: "eth1" }), { steer: "rules" });
  assert.equal(s.kernel.lines, [
    "10000 from 192.0.2.5/32 lookup 10000",
    "20000 to 192.0.2.0/24 lookup 10000",
    "91000 iif lo lookup 10000",
  ]);
  s.tables.addresses([placed("eth1", "192.0.2.6"), placed("eth1", "2001:db8::6", 64)]);
  await s.tables.settled();
  assert.ok(s.kernel.lines.includes("10000 from 192.0.2.6/32 lookup 10000"));
  assert.ok(s.kernel.lines.includes("10000 from 2001:db8::6/128 lookup 10000"));
  assert.not.ok(s.kernel.lines.some((line) => line.includes("192.0.2.5")));
});

test("routes are the connected one and a default by the gateway, while there are such", async () => {
  let gateway: string | undefined;
  const s = stage({ gatewayOf: () => gateway as Address | undefined });
  await table(s, key("192.0.2.5"), { steer: "rules", routes: true });
  assert.equal(s.kernel.plan.routes, []);
  gateway = "192.0.2.1";
  s.tables.addresses([placed("eth1", "192.0.2.5")]);
  await s.tables.settled();
  const common = { family: 4, table: 10_000, ifindex: 7, source: "192.0.2.5" };
  assert.equal(s.kernel.plan.routes, [
    { ...common, to: "192.0.2.0/24" },
    { ...common, to: "0.0.0.0/0", via: "192.0.2.1" },
  ] as unknown as typeof s.kernel.plan.routes);
});

test("nobody takes, renews or ends another's lease; root may", async () => {
  const s = stage();
  await table(s, at(1), { owner: "ann" });
  const find = () => s.tables.get(at(1));
  await refused("denied", table(s, at(1), { owner: "bob" }));
  await refused("denied", s.tables.renew(find, { owner: "bob" }));
  await refused("denied", s.tables.release(find, "bob"));
  assert.is(find()!.note.owner, "ann");
  assert.is(await table(s, at(1)), 10_000);
  assert.is(find()!.note.owner, "ann");
  await s.tables.release(find, "root");
  assert.is(find(), undefined);
  assert.is(s.heard.filter((each) => each === "conflict inet 10000 bob").length, 3);
});

test("an owner has as many leases as allowed, root as many as there are; full is a fault of its own", async () => {
  const s = stage({ maxPerOwner: 2 });
  for (const last of [1, 2]) await table(s, at(last), { owner: "ann" });
  await refused("limit", table(s, at(3), { owner: "ann" }));
  await s.tables.release(() => s.tables.get(at(1)), "ann");
  assert.is(await table(s, at(3), { owner: "ann" }), 10_002);
  for (const last of [4, 5, 6, 7, 8]) await table(s, at(last));
  await refused("limit", table(s, at(9)));
  await refused("unsupported", table(stage({ families: ["inet6"] }), at(1)));
});

test("who takes and gives back again and again is slowed down before the flash is worn; root is not", async () => {
  const s = stage();
  const churn = async (owner: string, rounds: number) => {
    for (let round = 0; round < rounds; round++) {
      await table(s, at(1), { owner });
      await s.tables.release(() => s.tables.get(at(1)), owner);
    }
  };
  await churn("ann", 128);
  await refused("limit", churn("ann", 1));
  await churn("bob", 3);
  await churn("root", 200);
  await s.wait(2);
  await churn("ann", 2);
  await refused("limit", churn("ann", 1));
});

test("a released table is emptied before it is answered, and another key gets it only after it has rested", async () => {
  const s = stage({ count: 2 });
  await table(s, at(1), { steer: "rules", prefixLength: 24 });
  s.kernel.foreign[4].add(10_000);
  await s.tables.release(() => s.tables.get(at(1)), "root");
  assert.equal(s.kernel.flushed, [{ family: 4, table: 10_000 }]);
  assert.equal(s.kernel.lines, []);
  assert.is(await table(s, at(2)), 10_001);
  await refused("limit", table(s, at(3)));
  await s.wait(61);
  assert.is(s.kernel.flushed.length, 2);
  assert.is(await table(s, at(3)), 10_000);
});

test("the key that had a table gets it back while it rests, and it is not emptied again", async () => {
  const s = stage();
  await table(s, at(1));
  await s.tables.release(() => s.tables.get(at(1)), "root");
  await table(s, at(2));
  assert.is(await table(s, at(1)), 10_000);
  await s.wait(70);
  assert.is(s.kernel.flushed.length, 1);
});

test("only the family of a lease is emptied, and not what is out in another number space", async () => {
  const s = stage();
  await table(s, key("2001:db8::1", { family: "inet6" }));
  await table(s, key("192.0.2.1", { family: "unspec" }));
  await s.tables.release(() => s.tables.holder("unspec", 10_000), "root");
  assert.equal(s.kernel.flushed, [{ family: 4, table: 10_000 }]);
});

test("two holders of one kernel table are one too many once either has rules", async () => {
  const s = stage();
  await table(s, at(1));
  const whole = keyOf({ family: "unspec", interface: "eth2" });
  assert.is(await table(s, whole, { steer: "rules" }), 10_001);
  assert.is(await table(s, at(2)), 10_002);
});

test("an address leads to one table: rules for another are a conflict", async () => {
  const s = stage();
  await table(s, at(1), { steer: "rules", prefixLength: 24 });
  await refused("conflict", table(s, key("192.0.2.1", { tag: "b" }), { steer: "rules", prefixLength: 24 }));
  assert.is(await table(s, key("192.0.2.1", { tag: "b" })), 10_001);
});

test("numbers that others use or that are reserved are passed over, in their family only", async () => {
  const s = stage({ isReserved: (number) => number === 10_001 });
  s.kernel.foreign[4].add(10_000);
  assert.is(await table(s, at(1)), 10_002);
  assert.is(await table(s, key("2001:db8::1", { family: "inet6" })), 10_000);
});

test("a lease runs out when nobody renews it, is told, and a renewed one does not", async () => {
  const s = stage();
  await table(s, at(1), { owner: "ann", steer: "rules", prefixLength: 24 });
  await table(s, at(2), { owner: "ann" });
  await s.wait(60);
  await s.tables.renew(() => s.tables.get(at(2)), { owner: "ann" });
  await s.wait(41);
  assert.is(s.tables.get(at(1)), undefined);
  assert.ok(s.tables.get(at(2)));
  assert.equal(s.kernel.lines, []);
  assert.is(s.heard.at(-1), "expired inet 10000");
  assert.is(await table(s, at(3), { owner: "ann" }), 10_002);
});

test("renewing costs no disk until what is written no longer covers it", async () => {
  const s = stage();
  await table(s, at(1));
  const writes = s.disk.writes;
  for (let round = 0; round < 200; round++) await table(s, at(1));
  assert.is(s.disk.writes, writes);
  for (let round = 0; round < 8; round++) {
    await s.wait(50);
    await table(s, at(1));
  }
  assert.ok(s.disk.writes > writes && s.disk.writes <= writes + 4, `${s.disk.writes - writes} writes`);
  // Whenever the agent dies, what was promised holds.
  const after = s.restart();
  assert.ok(after.tables.get(at(1))!.endsAt >= s.tables.get(at(1))!.endsAt);
});

test("a lease that follows its address is kept while it is there, and ends with it", async () => {
  const s = stage();
  s.tables.addresses([placed("eth1", "192.0.2.1"), placed("eth1", "192.0.2.2")]);
  for (const last of [1, 2]) await table(s, at(last), { follow: true, steer: "rules" });
  for (let round = 0; round < 10; round++) await s.wait(60);
  assert.is(s.tables.counters.leases, 2);
  s.tables.addressGone("eth1", "192.0.2.1" as Address);
  await s.tables.settled();
  assert.is(s.tables.get(at(1)), undefined);
  assert.is(s.heard.at(-1), "released inet 10000");
  assert.equal(s.kernel.flushed, [{ family: 4, table: 10_000 }]);
  s.tables.linkGone("eth1");
  await s.tables.settled();
  assert.is(s.tables.counters.leases, 0);
  assert.equal(s.kernel.lines, []);
});

test("a lease of an interface outlives its addresses, and ends with the device", async () => {
  const s = stage();
  const eth1 = keyOf({ family: "inet", interface: "eth1" });
  const links = [{ interface: "eth1", ifindex: 7 }];
  s.tables.addresses([placed("eth1", "192.0.2.1")], links);
  await table(s, eth1, { follow: true, steer: "rules" });
  s.tables.addresses([], links);
  await s.tables.settled();
  assert.ok(s.tables.get(eth1));
  assert.equal(s.kernel.lines, []);
  s.tables.addresses([placed("eth2", "192.0.2.1")], [{ interface: "eth2", ifindex: 8 }]);
  await s.tables.settled();
  assert.is(s.tables.get(eth1), undefined);
});

test("a lease that follows an address that was never there waits for it, and runs out", async () => {
  const s = stage();
  s.tables.addresses([]);
  await table(s, at(1), { follow: true });
  await s.wait(50);
  assert.ok(s.tables.get(at(1)));
  await s.wait(51);
  assert.is(s.tables.get(at(1)), undefined);
});

test("after a restart an address that went meanwhile ends its lease; after a reboot it is waited for", async () => {
  const s = stage();
  s.tables.addresses([placed("eth1", "192.0.2.1")]);
  await table(s, at(1), { follow: true });
  const restarted = s.restart();
  restarted.tables.addresses([]);
  await restarted.tables.settled();
  assert.is(restarted.tables.get(at(1)), undefined);
  const t = stage();
  t.tables.addresses([placed("eth1", "192.0.2.1")]);
  await table(t, at(1), { follow: true });
  const rebooted = t.restart({ reboot: true });
  rebooted.tables.addresses([]);
  await rebooted.tables.settled();
  assert.is(rebooted.tables.get(at(1))?.value, 10_000);
});

test("leases, rests, owners and rules survive a restart and a reboot", async () => {
  const s = stage();
  await table(s, at(1), { owner: "ann", label: "x" });
  await table(s, key("192.0.2.2", { tag: "b" }), { steer: "rules", prefixLength: 24 });
  await table(s, at(3));
  await s.tables.release(() => s.tables.get(at(1)), "ann");
  for (const reboot of [false, true]) {
    const after = s.restart({ reboot });
    await after.wait(0);
    assert.is(after.tables.holder("inet", 10_001)?.note.key.tag, "b");
    assert.equal(after.kernel.lines[0], "10000 from 192.0.2.2/32 lookup 10001");
    assert.is(await table(after, at(4)), 10_003);
    await after.tables.release(() => after.tables.get(at(4)), "root");
    assert.is(await table(after, at(1), { owner: "ann" }), 10_000);
    await after.tables.release(() => after.tables.get(at(1)), "ann");
  }
});

test("a reboot with a wrong clock ends nothing early: every lease has its whole time again", async () => {
  const s = stage();
  await table(s, at(1));
  await s.wait(90);
  const after = s.restart({ reboot: true });
  assert.is(after.tables.get(at(1))!.endsAt, after.clock.nowMs + 100_000);
  await after.wait(99);
  assert.ok(after.tables.get(at(1)));
  await after.wait(2);
  assert.is(after.tables.get(at(1)), undefined);
});

test("leases whose numbers are not ours any more end, are told and emptied", async () => {
  const s = stage();
  await table(s, at(1));
  const after = s.restart({ options: { first: 20_000 } });
  await after.wait(0);
  assert.match(after.faults[0]!, /its number is not ours now/);
  assert.equal(after.kernel.flushed, [{ family: 4, table: 10_000 }]);
  assert.is(await table(after, at(1)), 20_000);
});

test("a rule that the kernel refuses refuses its own lease alone", async () => {
  const s = stage();
  s.kernel.refuses.add(10_001);
  const asked = [1, 2, 3].map((last) => table(s, at(last), { steer: "rules", prefixLength: 24 }));
  const results = await Promise.allSettled(asked);
  assert.equal(
    results.map((each) => each.status),
    ["fulfilled", "rejected", "fulfilled"],
  );
  assert.equal(s.heard, ["granted inet 10000", "granted inet 10002"]);
  assert.is(s.tables.get(at(2)), undefined);
  assert.is(s.kernel.lines.length, 6);
  // Who asked for the same lease in the same breath does not get it either.
  const twice = [1, 2].map(() => table(s, at(4), { steer: "rules", prefixLength: 24 }));
  s.kernel.refuses.add(10_003);
  for (const each of twice) await refused("kernel", each);
  // A lease that is there stays, without what was refused.
  assert.is(await table(s, at(5)), 10_004);
  s.kernel.refuses.add(10_004);
  await refused("kernel", table(s, at(5), { steer: "rules", prefixLength: 24 }));
  assert.match(s.tables.missing(s.tables.get(at(5))!)!, /refused/);
});

test("a lease whose rules were refused is not answered as if it had them, until the kernel takes them", async () => {
  const s = stage();
  const wished = { steer: "rules", prefixLength: 24 } as const;
  assert.is(await table(s, at(1)), 10_000);
  s.kernel.refuses.add(10_000);
  for (let time = 0; time < 2; time++) await refused("kernel", table(s, at(1), wished));
  s.kernel.refuses.clear();
  assert.is(await table(s, at(1), wished), 10_000);
  assert.is(s.tables.missing(s.tables.get(at(1))!), undefined);
  assert.is(s.kernel.lines.length, 3);
});

test("what the kernel is told of a request does not grow with what is held, nor when nothing of it changed", async () => {
  const s = stage({ count: 1_000, maxPerOwner: 1_000 });
  const told: number[] = [];
  for (let index = 0; index < 600; index++) {
    const before = s.kernel.amended;
    await table(s, key(`198.51.${index >> 8}.${index & 255}`), {
      steer: "rules",
      prefixLength: 24,
      owner: "root",
    });
    told.push(s.kernel.amended - before);
  }
  // The first is told whole.
  assert.equal(new Set(told.slice(1)), new Set([3]));
  const [applied, amended] = [s.kernel.applied, s.kernel.amended];
  await table(s, key("198.51.0.7"), { steer: "rules", prefixLength: 24, owner: "root" });
  s.tables.replan();
  await s.tables.settled();
  assert.equal([s.kernel.applied, s.kernel.amended], [applied, amended]);
  await s.tables.release(() => s.tables.get(key("198.51.0.7")), "root");
  assert.is(s.kernel.amended, amended + 3);
});

test("a kernel that cannot be told grants nothing, and what failed is tried again", async () => {
  const s = stage();
  await table(s, at(1), { steer: "rules", prefixLength: 24 });
  s.kernel.broken = new Fault("kernel", "Cannot read rules: no");
  await refused("kernel", table(s, at(2), { steer: "rules", prefixLength: 24 }));
  await refused(
    "kernel",
    s.tables.release(() => s.tables.get(at(1)), "root"),
  );
  assert.is(s.tables.counters.leases, 0);
  assert.ok(s.faults.length > 0);
  // Time goes on meanwhile, and what nobody waits for fails without harm.
  s.tables.addresses([]);
  await s.wait(5);
  s.kernel.broken = undefined;
  await s.wait(2);
  assert.equal(s.kernel.lines, []);
  assert.ok(s.kernel.flushed.some((each) => each.table === 10_000));
});

test("a disk that refuses is a fault for who changed something, and for nobody else", async () => {
  const s = stage();
  await table(s, at(1));
  s.disk.broken = true;
  const [granted, renewed] = await Promise.allSettled([table(s, at(2)), table(s, at(1))]);
  assert.is(granted.status, "rejected");
  assert.is(((granted as PromiseRejectedResult).reason as Fault).code, "storage");
  assert.is(renewed.status, "fulfilled");
  s.disk.broken = false;
  assert.is(await table(s, at(2)), 10_001);
  assert.is(s.restart().tables.get(at(2))?.value, 10_001);
});

test("adopt takes leases in with their numbers, whatever the kernel has, and leaves what cannot be", async () => {
  const s = stage();
  s.kernel.foreign[4].add(10_003);
  const lease = (number: number, last: number) => ({
    table: number,
    note: { key: at(last), ...wish({ label: "old" }) },
  });
  assert.equal(await s.tables.adopt([lease(10_003, 3), lease(10_003, 4), lease(9_000, 5)]), [1, 2]);
  assert.is(await table(s, at(3)), 10_003);
  assert.equal(await s.tables.adopt([lease(10_003, 3)]), []);
  assert.is(s.restart().tables.get(at(3))?.value, 10_003);
});

/** Looks at everything each time. */
class Naive {
  readonly out = new Map<string, { table: number; endsAt: number; owner: string }>();
  rests: { space: string; key: string; table: number; untilAt: number }[] = [];

  take(space: string, name: string, owner: string, now: number): number | FaultCode {
    const key = `${space} ${name}`;
    const present = this.out.get(key);
    if (present) {
      if (present.owner !== owner && owner !== "root") return "denied";
      present.endsAt = now + 100_000;
      return present.table;
    }
    const count = [...this.out.values()].filter((each) => each.owner === owner).length;
    if (owner !== "root" && count >= 3) return "limit";
    const own = this.rests.find((each) => each.space === space && each.key === key);
    let table = own?.table;
    for (let number = 10_000; table === undefined && number < 10_008; number++) {
      const isOut = [...this.out].some(
        ([each, { table: of }]) => each.startsWith(`${space} `) && of === number,
      );
      if (!isOut && !this.rests.some((each) => each.space === space && each.table === number)) table = number;
    }
    if (table === undefined) return "limit";
    this.rests = this.rests.filter((each) => each !== own);
    this.out.set(key, { table, endsAt: now + 100_000, owner });
    return table;
  }

  release(space: string, name: string, owner: string, now: number): "done" | FaultCode {
    const key = `${space} ${name}`;
    const present = this.out.get(key);
    if (!present) return "not-found";
    if (present.owner !== owner && owner !== "root") return "denied";
    this.end(key, now);
    return "done";
  }

  end(key: string, now: number): void {
    const [space] = key.split(" ") as [string];
    const { table } = this.out.get(key)!;
    this.out.delete(key);
    this.rests.push({ space, key, table, untilAt: now + 60_000 });
  }

  pass(now: number): void {
    for (const [key, { endsAt }] of [...this.out]) if (endsAt <= now) this.end(key, now);
    this.rests = this.rests.filter((each) => each.untilAt > now);
  }
}

test("1,500 random steps with restarts agree with a naive book", async () => {
  const names = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
  const step = fc.record({
    verb: fc.constantFrom("request", "request", "request", "release", "wait", "restart"),
    space: fc.constantFrom("inet", "unspec"),
    name: fc.constantFrom(...names),
    owner: fc.constantFrom("ann", "bob", "root"),
    seconds: fc.constantFrom(1, 10, 40, 70, 130),
  });
  let s = stage({ maxPerOwner: 3 });
  const naive = new Naive();
  const codeOf = (thrown: unknown) => (thrown as Fault).code;
  for (const [index, { verb, space, name, owner, seconds }] of fc
    .sample(step, { numRuns: 1_500, seed: 77 })
    .entries()) {
    const of = key(name, { family: space as TableFamily });
    const now = s.clock.nowMs;
    if (verb === "request") {
      const got = await table(s, of, { owner }).catch(codeOf);
      assert.is(got, naive.take(space, name, owner, now), `step ${index}`);
    } else if (verb === "release") {
      const got = await s.tables.release(() => s.tables.get(of), owner).then(() => "done" as const, codeOf);
      assert.is(got, naive.release(space, name, owner, now), `step ${index}`);
    } else if (verb === "wait") {
      await s.wait(seconds);
      naive.pass(s.clock.nowMs);
    } else {
      s = s.restart();
      // What is on disk is later by a lifetime at most: nothing ends early.
      for (const lease of s.tables.all()) {
        const { family, address } = lease.note.key;
        const known = naive.out.get(`${family} ${address}`)!;
        assert.ok(lease.endsAt >= known.endsAt && lease.endsAt <= known.endsAt + 100_000);
        known.endsAt = lease.endsAt;
      }
      await s.wait(0);
      naive.pass(s.clock.nowMs);
    }
    const held = [...s.tables.all()].map(
      ({ value, note }) => `${note.key.family} ${note.key.address} ${value}`,
    );
    assert.equal(held.sort(), [...naive.out].map(([each, { table: of_ }]) => `${each} ${of_}`).sort());
  }
});

test.run();
