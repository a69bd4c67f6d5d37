/** Who has an address, since when, and what claims and floods by others change about it. */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Conflicts } from "../../src/nodes/conflicts.ts";
import { address, camera, laptop, mac, phone, Stage } from "./stage.ts";

const minute = 60_000;
const c1 = "10.77.0.11";
const c2 = "10.77.0.12";

type Row = Record<string, unknown>;
const rows = (stage: Stage, id: number, field: string) => (stage.detail(id)[field] ?? []) as Row[];

test("a thousand claims a second to another's address: its id, name, pins and counters stay, the conflict is told", () => {
  const stage = new Stage().router();
  const holder = stage.lease(c1, laptop, { name: "laptop" })!;
  stage.neighbour(c1, laptop);
  const rival = stage.neighbour(c2, camera)!;
  stage.nodes.pin(holder, "allow");
  stage.nodes.count(holder, { bytesIn: 5n, packetsIn: 1n, bytesOut: 0n, packetsOut: 0n });
  const before = stage.detail(holder);
  let told = 0;
  const first = stage.now;
  for (let round = 0; round < 10_000; round++) {
    stage.now += 1;
    stage.neighbour(c1, round % 2 ? laptop : camera, round % 3 ? "stale" : "reachable");
    const conflicts = stage.nodes.takeConflicts();
    told += conflicts.length;
    for (const { at, ...conflict } of conflicts) {
      assert.equal(conflict, { address: c1, holder, claimant: camera });
      assert.ok(at - first < 5000);
    }
  }
  assert.is(told, 1, "once a minute");
  const now = stage.detail(holder);
  for (const field of ["id", "name", "mac", "macs", "pinned_by", "bytes_in", "dhcp_identities", "today_in"]) {
    assert.equal(now[field], before[field], field);
  }
  assert.is(stage.id(c1), holder);
  assert.equal(stage.ips(rival), [c2], "and inherits nothing");
  assert.equal(stage.detail(rival).pinned_by, []);
  const [shown] = rows(stage, holder, "conflicts");
  assert.equal([shown!.address, shown!.mac], [c1, camera]);
  assert.ok((shown!.count as number) > 4900);
  stage.now += minute;
  stage.neighbour(c1, camera, "stale");
  assert.is(stage.nodes.takeConflicts().length, 1, "it goes on");
});

test("no conflict: a repeater in front, an address that was free, a device's own new MAC", () => {
  const stage = new Stage().router();
  const repeater = mac("02:77:00:00:00:aa");
  stage.lease(c1, laptop, { clientId: `01:${laptop}` });
  stage.neighbour(c1, repeater);
  stage.neighbour(c2, camera);
  stage.neighbour(c2, undefined, "failed");
  stage.pass(minute);
  stage.neighbour(c2, phone);
  stage.lease("10.77.0.15", phone, { clientId: "ff:07" });
  stage.neighbour("10.77.0.15", phone);
  const fresh = mac("06:77:00:00:00:99");
  stage.lease("10.77.0.15", fresh, { clientId: "ff:07", expiresAt: 1 });
  stage.neighbour("10.77.0.15", fresh);
  assert.equal(stage.nodes.takeConflicts(), []);
  assert.is(stage.nodes.status.conflicts, 0);
});

test("Conflicts: however many addresses are claimed, what is kept and told is bounded", () => {
  const conflicts = new Conflicts();
  let told = 0;
  for (let count = 0; count < 50_000; count++) {
    const claimed = address(`10.${count >> 16}.${(count >> 8) & 255}.${count & 255}`);
    conflicts.note({ address: claimed, holder: 1, claimant: camera, at: count });
    if (count % 250 === 0) told += conflicts.take().length;
  }
  told += conflicts.take().length;
  assert.is(conflicts.count, 50_000);
  assert.is([...conflicts.all()].length, 128);
  assert.ok(told > 0 && told <= 128, `${told} in 50 seconds`);
  conflicts.tick(49_990);
  assert.is([...conflicts.all()].length, 10);
  conflicts.tick(50_000);
  assert.is([...conflicts.all()].length, 0);
});

test("defect 14: bindings have times, and an address that moved is the new holder's since then", () => {
  const stage = new Stage().router();
  const at = () => Math.floor(stage.date / 1000);
  const first = stage.lease(c1, laptop, { name: "laptop" })!;
  stage.neighbour(c1, laptop);
  const began = at();
  stage.pass(10 * minute);
  stage.traffic(c1);
  const held = rows(stage, first, "addresses")[0]!;
  assert.equal([held.since, held.lastseen], [began, began + 600]);
  assert.equal(rows(stage, first, "names"), [{ name: "laptop", source: "dhcp", since: began }]);
  stage.pass(10 * minute);
  stage.nodes.leases([], stage.at);
  const second = stage.neighbour(c1, phone)!;
  stage.nodes.count(stage.traffic(c1)!, { bytesIn: 9n, packetsIn: 1n, bytesOut: 0n, packetsOut: 0n });
  assert.equal(rows(stage, first, "addresses"), [], "it left the first");
  assert.is(rows(stage, second, "addresses")[0]!.since, at());
  assert.is(stage.detail(first).bytes_in, 0n);
  assert.is(stage.detail(second).bytes_in, 9n, "traffic is booked on who has it");
  // In the next life the dates are the same.
  const next = stage.restart();
  next.pass(minute);
  assert.is(rows(next, second, "addresses")[0]!.since, at());
});

test("defect 14: names of an address are observations with a time, per client", () => {
  const stage = new Stage().router();
  const [one, two] = [stage.neighbour(c1, laptop)!, stage.neighbour(c2, camera)!];
  const bare = stage.traffic("198.51.100.20")!;
  stage.nodes.pin(bare, "block");
  const began = Math.floor(stage.date / 1000);
  const name = stage.resolve(c1, "a.example.", ["198.51.100.20"], 300)!;
  stage.pass(minute);
  stage.resolve(c2, "a.example.", ["198.51.100.20"], 300);
  const dns = { name: "a.example.", source: "dns", since: began, lastseen: began + 60, until: began + 360 };
  assert.equal(rows(stage, bare, "names"), [dns]);
  assert.equal(rows(stage, name, "names"), [dns]);
  const asked = [
    { node: two, lastseen: began + 60, until: began + 360 },
    { node: one, lastseen: began, until: began + 300 },
  ];
  assert.equal(rows(stage, name, "asked_by"), asked);
  assert.equal(rows(stage, bare, "asked_by"), asked);
  stage.pass(10 * minute);
  assert.equal(stage.nodes.info(bare)!.domains, [], "outlived");
});

test("asked_by shows the latest 32 clients", () => {
  const stage = new Stage().router();
  for (let last = 20; last < 80; last++) stage.neighbour(`10.77.0.${last}`, `02:77:00:00:02:${last}`);
  let name = 0;
  for (let last = 20; last < 80; last++) {
    stage.now += 1000;
    name = stage.resolve(`10.77.0.${last}`, "a.example.", ["198.51.100.20"])!;
  }
  const asked = rows(stage, name, "asked_by");
  assert.is(asked.length, 32);
  assert.is(asked[0]!.node, stage.id("10.77.0.79"));
});

test("defect 6: each end has its reason", () => {
  const stage = new Stage({ limits: { nodes: 16, aliases: 2 } }).router();
  const device = stage.neighbour(c2, camera)!;
  const forgotten = stage.traffic("198.51.100.1")!;
  const expired = stage.traffic("198.51.100.2")!;
  stage.nodes.takeChanged();
  stage.nodes.forget(forgotten, stage.at);
  stage.pass(31 * minute);
  const bare = stage.traffic("fd77::12")!;
  stage.neighbour("fd77::12", camera);
  stage.pass(8 * 86_400_000);
  stage.neighbour(c2, camera);
  for (let last = 0; last < 40; last++) stage.traffic(`203.0.113.${last}`);
  stage.nodes.takeChanged();
  for (let last = 40; last < 80; last++) stage.traffic(`203.0.113.${last}`);
  const removed = stage.nodes.takeRemoved();
  const reason = (id: number) => removed.find((each) => each.id === id)?.reason;
  assert.equal([reason(forgotten), reason(expired), reason(bare)], ["user", "expired", "alias"]);
  assert.ok(removed.some((each) => each.reason === "evicted"));
  assert.is(reason(device), undefined);
});

test("defect 17: neither router nor gateway becomes a device, is merged, or forgotten by what is claimed about it", () => {
  const stage = new Stage().router();
  const [router, gateway] = [stage.id("10.77.0.1")!, stage.id("192.0.2.254")!];
  const device = stage.neighbour(c2, camera)!;
  stage.neighbour("10.77.0.1", camera);
  stage.neighbour("192.0.2.254", camera, "reachable", { side: "wan" });
  stage.lease("10.77.0.1", camera);
  const code = (call: () => unknown) => stage.code(call);
  assert.is(
    code(() => stage.nodes.merge(device, router, stage.at)),
    "invalid",
  );
  assert.is(
    code(() => stage.nodes.merge(gateway, device, stage.at)),
    "invalid",
  );
  assert.is(
    stage.nodes.adopt({ mac: camera, addresses: [address("10.77.0.1")], names: [] }, stage.at),
    router,
  );
  stage.pass(100 * 86_400_000);
  assert.equal([stage.kind(router), stage.kind(gateway)], ["router", "gateway"]);
  assert.is(stage.nodes.info(router)!.mac, undefined);
});

// Floods.

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
const heap = () => {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
};

test("20,000 random MACs at 200 a second: memory is bounded, known devices are untouched", () => {
  const stage = new Stage().router();
  const pinned = stage.neighbour(c2, camera)!;
  const leased = stage.lease(c1, laptop, { name: "laptop" })!;
  const named = stage.neighbour("10.77.0.13", phone)!;
  stage.nodes.pin(pinned, "block");
  stage.nodes.rename(named, "phone");
  const known = [pinned, leased, named].map((id) => stage.detail(id).ips);
  const before = heap();
  let told = 0;
  for (let count = 0; count < 20_000; count++) {
    stage.now += 5;
    stage.date += 5;
    const tail = count
      .toString(16)
      .padStart(6, "0")
      .replace(/(..)(?=.)/g, "$1:");
    const id = stage.neighbour(`fd77::${(count + 100).toString(16)}`, `06:00:00:${tail}`);
    // Each sends something, too, and now and then claims what is another's.
    if (id !== undefined) stage.nodes.count(id, { bytesIn: 1n, packetsIn: 1n, bytesOut: 1n, packetsOut: 1n });
    if (count % 10 === 0) stage.neighbour(c2, `06:00:00:${tail}`, "stale");
    if (count % 50 === 0) {
      stage.nodes.tick(stage.at);
      stage.nodes.takeChanged();
      stage.nodes.takeRemoved();
      told += stage.nodes.takeConflicts().length;
    }
  }
  stage.nodes.takeChanged();
  stage.nodes.takeRemoved();
  const grown = heap() - before;
  assert.ok(stage.nodes.size <= 4096);
  assert.ok(grown < 4096 * 3000, `${grown} bytes for ${stage.nodes.size} nodes`);
  assert.equal(
    [pinned, leased, named].map((id) => stage.detail(id).ips),
    known,
  );
  assert.is(stage.detail(pinned).pinned_by?.toString(), "block");
  assert.ok(told <= 4, `${told} conflicts told in 100 seconds`);
});

test("temporary addresses every 5 s for three days: the dead ones go, those in use stay, the kernel's list is bounded", () => {
  const stage = new Stage().router();
  const id = stage.lease(c2, camera)!;
  stage.nodes.pin(id, "block");
  const stable = ["fd77::12", "fe80::77:ff:fe00:12"];
  for (const each of stable) stage.neighbour(each, camera);
  stage.pass(30 * minute);
  for (const each of stable) stage.traffic(each);
  const rotations = (3 * 86_400) / 5;
  let current = "";
  for (let count = 1; count <= rotations; count++) {
    stage.now += 5000;
    stage.date += 5000;
    current = `fd77::1:${(count >> 16).toString(16)}:${(count & 0xffff).toString(16)}`;
    // The kernel keeps old entries as stale: nothing says that an address is dead.
    stage.neighbour(current, camera, count % 2 ? "stale" : "reachable");
    stage.traffic(current);
    // The addresses that it always had are used a few times a day.
    if (count % 3600 === 0) for (const each of stable) stage.traffic(each);
    if (count % 100 === 0) {
      stage.nodes.tick(stage.at);
      const { addresses } = stage.nodes.end(id)!;
      assert.ok(addresses.length <= 64);
      for (const each of [c2, ...stable, current])
        assert.ok(addresses.includes(address(each)), `${each} at ${count}`);
    }
  }
  // After lost messages the whole table comes, with all that is dead in it: what answers stays.
  const dead = Array.from({ length: 1000 }, (_, index) => `fd77::1:0:${(0x1000 + index).toString(16)}`);
  stage.nodes.neighbours(
    [
      { address: address(current), mac: camera, side: "lan", state: "reachable" },
      ...dead.map((each) => ({ address: address(each), mac: camera, side: "lan", state: "stale" }) as const),
    ],
    stage.at,
  );
  const { addresses } = stage.nodes.end(id)!;
  assert.is(addresses.length, 64);
  for (const each of [c2, ...stable, current]) assert.ok(addresses.includes(address(each)), each);
  assert.is(stage.nodes.devices, 1);
});

test.run();
