/** The neighbour table steered on the real kernel, against what `ip neigh` shows. */

import { execFileSync } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { concat, encodeAttributes, host } from "../../src/kernel/attribute.ts";
import { decodeReading, type NeighbourSteering, openNeighbourSteering } from "../../src/kernel/neighbour.ts";
import type { Address, Mac } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { Machine } from "../fake/machine.ts";
import { eventually } from "../lab/children.ts";
import { messageOf, openSystem } from "./yard.ts";

const system = openSystem();
const protocol = 71;
const ip = (words: string) => execFileSync("ip", words.split(" "), { encoding: "utf8" });
const [far4, far6] = ["192.0.2.2" as Address, "2001:db8::2" as Address];
const farMac = "02:00:00:00:00:02" as Mac;
const otherMac = "02:00:00:00:00:99" as Mac;
let ifindex = 0;
const opened: NeighbourSteering[] = [];

function open(): NeighbourSteering {
  const steering = openNeighbourSteering(system, { protocol });
  opened.push(steering);
  return steering;
}

interface Shown {
  readonly dst: string;
  readonly lladdr?: string;
  readonly state: readonly string[];
  readonly managed?: null;
  readonly protocol?: string;
}

const shown = (address: Address) =>
  (JSON.parse(ip(`-j -N neigh show ${address} dev left nud all`)) as Shown[])[0];
const stateOf = (address: Address) => shown(address)?.state.join() ?? "absent";
const rejected = async (promise: Promise<unknown>) => {
  const thrown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.instance(thrown, Fault);
  return thrown as Fault;
};

test.before(() => {
  ip("netns add far");
  ip(`link add left type veth peer name right address ${farMac} netns far`);
  ip("addr add 192.0.2.1/24 dev left");
  ip("-6 addr add 2001:db8::1/64 dev left nodad");
  ip("link set left up");
  ip("-n far addr add 192.0.2.2/24 dev right");
  ip("-n far -6 addr add 2001:db8::2/64 dev right nodad");
  ip("-n far link set right up");
  ifindex = (JSON.parse(ip("-j link show left")) as { ifindex: number }[])[0]!.ifindex;
});

test.after.each(() => {
  for (const steering of opened.splice(0)) steering.close();
  ip("neigh flush dev left nud all");
});

test("use resolves an address of either family without a packet to it", async () => {
  const steering = open();
  for (const address of [far4, far6]) {
    assert.is(stateOf(address), "absent");
    await steering.use(ifindex, address);
    await eventually(`${address} reachable`, () => stateOf(address) === "REACHABLE");
    assert.is(shown(address)!.lladdr, farMac);
  }
});

test("probe has the known owner asked at once: a right entry becomes reachable, a wrong one fails", async () => {
  const steering = open();
  for (const address of [far4, far6]) {
    ip(`neigh replace ${address} lladdr ${farMac} dev left nud stale`);
    await steering.probe(ifindex, address);
    await eventually(`${address} confirmed`, () => stateOf(address) === "REACHABLE");
  }
  ip(`neigh replace ${far4} lladdr ${otherMac} dev left nud stale`);
  await steering.probe(ifindex, far4);
  await eventually("nobody there", () => stateOf(far4) === "FAILED");
  assert.is((await rejected(steering.probe(ifindex, far4))).code, "kernel");
  ip("neigh flush dev left nud all");
  assert.is((await rejected(steering.probe(ifindex, far4))).code, "not-found");
});

test("manage hands the keeping to the kernel", async () => {
  const steering = open();
  await steering.manage(ifindex, far4);
  await eventually("kept and resolved", () => stateOf(far4) === "REACHABLE");
  assert.ok((await steering.read(ifindex, far4))!.managed);
  await steering.use(ifindex, far6);
  assert.not.ok((await steering.read(ifindex, far6))!.managed);
});

test("pin writes what nothing on the link changes; pinned finds ours again, not others'", async () => {
  const steering = open();
  await steering.pin(ifindex, far4, otherMac);
  await steering.pin(ifindex, far6, otherMac);
  ip(`neigh replace 192.0.2.77 lladdr ${farMac} dev left nud permanent`);
  // It announces itself with each new MAC.
  execFileSync("ip", ["netns", "exec", "far", "sysctl", "-qw", "net.ipv4.conf.right.arp_notify=1"]);
  ip("-n far link set right address 02:00:00:00:00:33");
  ip(`-n far link set right address ${farMac}`);
  for (const address of [far4, far6]) {
    assert.is(stateOf(address), "PERMANENT");
    assert.is(shown(address)!.lladdr, otherMac);
  }
  const later = open();
  const found = (await later.pinned()).map(({ address, mac, state }) => [address, mac, state]);
  assert.equal(found.sort(), [
    [far4, otherMac, "permanent"],
    [far6, otherMac, "permanent"],
  ]);
});

test("pin replaces an entry of any state, and another pin", async () => {
  const steering = open();
  for (const before of ["stale", "reachable", "permanent", "failed"]) {
    const owner = before === "failed" ? "" : ` lladdr ${farMac}`;
    ip(`neigh replace ${far4}${owner} dev left nud ${before === "failed" ? "none" : before}`);
    await steering.pin(ifindex, far4, otherMac);
    assert.is(`${stateOf(far4)} ${shown(far4)!.lladdr}`, `PERMANENT ${otherMac}`, before);
  }
});

test("remove ends an entry of any kind, and does not mind that there is none", async () => {
  const steering = open();
  await steering.pin(ifindex, far4, otherMac);
  await steering.remove(ifindex, far4);
  await eventually("gone", () => ["absent", "FAILED"].includes(stateOf(far4)));
  await steering.remove(ifindex, "192.0.2.250" as Address);
  await steering.remove(ifindex, "2001:db8::250" as Address);
});

test("read tells the age of a confirmation that was never notified, and nothing of whom the kernel does not know", async () => {
  const steering = open();
  assert.is(await steering.read(ifindex, far4), undefined);
  await steering.use(ifindex, far4);
  await eventually("reachable", () => stateOf(far4) === "REACHABLE");
  const reading = (await steering.read(ifindex, far4))!;
  assert.is(reading.mac, farMac);
  assert.is(reading.state, "reachable");
  assert.ok(reading.confirmedAgoMs >= 0 && reading.confirmedAgoMs < 10_000, String(reading.confirmedAgoMs));
  ip(`neigh replace ${far6} lladdr ${farMac} dev left nud stale`);
  assert.is((await steering.read(ifindex, far6))!.state, "stale");
});

test("an interface that is not there is said to be so", async () => {
  const steering = open();
  assert.is((await rejected(steering.use(9_999, far4))).code, "not-found");
  assert.is((await rejected(steering.pin(9_999, far4, farMac))).code, "not-found");
  await steering.use(ifindex, far4);
});

test("close ends what is under way, and every later order", async () => {
  const steering = open();
  const under = rejected(steering.use(ifindex, far4));
  steering.close();
  assert.is((await under).code, "closed");
  assert.is((await rejected(steering.use(ifindex, far4))).code, "closed");
  assert.is((await rejected(steering.pinned())).code, "closed");
});

test("a socket that dies is opened again with the next order", async () => {
  const machine = new Machine();
  const steering = openNeighbourSteering(machine, { protocol });
  const under = rejected(steering.use(3, far4));
  machine.sockets[0]!.close(new Fault("kernel", "Cannot receive: it broke"));
  await under;
  const next = steering.use(3, far4);
  assert.is(machine.sockets.length, 2);
  machine.sockets[1]!.close(new Fault("kernel", "Cannot receive: it broke"));
  await rejected(next);
  steering.close();
});

test("decodeReading takes no bytes for an entry that are none, however they are cut or changed", () => {
  const payload = concat([
    Uint8Array.of(2, 0, 0, 0),
    host.bytes32(3),
    host.bytes16(2),
    Uint8Array.of(0, 1),
    encodeAttributes([
      [1, Uint8Array.of(192, 0, 2, 2)],
      [2, Uint8Array.of(2, 0, 0, 0, 0, 2)],
      [3, concat([host.bytes32(250), host.bytes32(1), host.bytes32(2), host.bytes32(3)])],
      [12, Uint8Array.of(71)],
      [15, host.bytes32(1)],
    ]),
  ]);
  const read = (bytes: Uint8Array) => decodeReading(messageOf(28, bytes));
  assert.equal(read(payload), {
    ...{ ifindex: 3, address: far4, mac: farMac, state: "reachable" },
    ...{ confirmedAgoMs: 2_500, managed: true, protocol: 71 },
  });
  for (let end = 0; end < payload.length; end++) {
    const reading = read(payload.slice(0, end));
    if (reading) assert.is(reading.address, far4);
  }
  for (let at = 0; at < payload.length; at++) {
    for (const bit of [1, 16, 128]) {
      const changed = payload.slice();
      changed[at] = changed[at]! ^ bit;
      const reading = read(changed);
      assert.ok(reading === undefined || reading.ifindex > 0);
    }
  }
});

test.run();
