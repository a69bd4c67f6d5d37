/** Resolution by a kernel that is played: what it is told, what its table means, and what it does not take. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address, Mac } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Entry, Outcome, Resolve } from "../../src/neighbours/neighbours.ts";
import { hostA, hostB, hostC, lan, macA, macB, type Stage, stage } from "./wire.ts";

function ask(on: Stage, address: Address, wish: Partial<Resolve> = {}) {
  const state: { outcome?: Outcome<Entry>; fault?: Fault } = {};
  on.neighbours.resolve({ device: "lan", address, timeoutMs: 10_000, ...wish }).then(
    (outcome) => {
      state.outcome = outcome;
    },
    (thrown: Fault) => {
      state.fault = thrown;
    },
  );
  return state;
}

const found = ({ outcome }: { outcome?: Outcome<Entry> }) =>
  outcome?.kind === "found" ? outcome.found : undefined;
const orders = ({ kernel }: Stage, verb: string) =>
  kernel.orders.filter((each) => each.startsWith(`${verb} `));

test("an address of ours to ask for is the kernel's: it is told, and its table answers all who wait", async () => {
  const on = stage({ steered: true });
  const waiting = [ask(on, hostA), ask(on, hostA), ask(on, hostA, { fresh: true })];
  await on.machine.settle();
  assert.equal(on.kernel.orders, [`use 3 ${hostA}`]);
  on.tell(hostA, "reachable", macA);
  await on.machine.settle();
  for (const each of waiting) {
    assert.equal([found(each)?.mac, found(each)?.source, found(each)?.verified], [macA, "solicited", true]);
  }
  assert.equal(on.wire.sent, []);
});

test("the kernel is kept asking, a little more than a second apart, and no more when it says that nobody is there", async () => {
  const on = stage({ steered: true });
  const state = ask(on, hostA);
  await on.machine.advance(2_900);
  assert.is(orders(on, "use").length, 3);
  on.tell(hostA, "failed");
  await on.machine.settle();
  assert.is(state.outcome?.kind, "failed");
  await on.machine.advance(20_000);
  assert.is(orders(on, "use").length, 3);
});

test("the kernel says nothing when it fails a second time: our own clock ends the wait", async () => {
  const on = stage({ steered: true });
  const state = ask(on, hostA);
  await on.machine.advance(3_299);
  assert.is(state.outcome, undefined);
  await on.machine.advance(1);
  assert.is(state.outcome?.kind, "failed");
});

test("what somebody says unasked is given out, unverified, to those who do not insist", async () => {
  const on = stage({ steered: true });
  const [easy, strict] = [ask(on, hostA), ask(on, hostA, { fresh: true })];
  on.tell(hostA, "stale", macA);
  await on.machine.settle();
  assert.equal([found(easy)?.mac, found(easy)?.source, found(easy)?.verified], [macA, "learned", false]);
  assert.is(strict.outcome, undefined);
  on.tell(hostA, "probe", macA);
  await on.machine.settle();
  assert.is(strict.outcome, undefined);
  on.tell(hostA, "reachable", macA);
  await on.machine.settle();
  assert.is(found(strict)?.mac, macA);
});

test("an entry past its best is looked at in the kernel first, which may know better", async () => {
  const on = stage({ steered: true });
  void ask(on, hostA);
  on.tell(hostA, "reachable", macA);
  await on.machine.advance(50_000);
  on.kernel.readings.set(hostA, {
    ifindex: 3,
    address: hostA,
    mac: macA,
    state: "reachable",
    confirmedAgoMs: 500,
  });
  const state = ask(on, hostA);
  await on.machine.settle();
  assert.is(on.machine.now() - found(state)!.confirmedAt!, 500);
  assert.is(found(state)!.verified, true);
  assert.is(orders(on, "probe").length, 0);
});

test("one past its best for the kernel too is given out while it is asked, at most once a second", async () => {
  const on = stage({ steered: true });
  void ask(on, hostA);
  on.tell(hostA, "reachable", macA);
  await on.machine.advance(40_000);
  on.kernel.readings.set(hostA, {
    ifindex: 3,
    address: hostA,
    mac: macA,
    state: "stale",
    confirmedAgoMs: 40_000,
  });
  on.kernel.orders.length = 0;
  for (let index = 0; index < 10; index++) {
    const state = ask(on, hostA);
    await on.machine.advance(50);
    assert.equal([found(state)?.mac, found(state)?.verified], [macA, false]);
  }
  assert.is(orders(on, "use").length, 1);
});

test("one that was not confirmed for a minute is asked itself first, then everybody, before anybody has an answer", async () => {
  const on = stage({ steered: true });
  on.tell(hostA, "stale", macA);
  on.kernel.readings.set(hostA, {
    ifindex: 3,
    address: hostA,
    mac: macA,
    state: "stale",
    confirmedAgoMs: 90_000,
  });
  const state = ask(on, hostA);
  await on.machine.settle();
  assert.equal(on.kernel.orders, [`read 3 ${hostA}`, `probe 3 ${hostA}`]);
  on.tell(hostA, "probe", macA);
  await on.machine.advance(3_000);
  assert.is(state.outcome, undefined);
  on.tell(hostA, "failed");
  await on.machine.settle();
  assert.is(state.outcome, undefined);
  assert.is(on.kernel.orders.at(-1), `use 3 ${hostA}`);
  on.tell(hostA, "reachable", macB);
  await on.machine.settle();
  assert.is(found(state)?.mac, macB);
});

test("what the kernel does not take is asked by packets, and its answer serves the same waiters", async () => {
  const on = stage({ steered: true });
  on.kernel.refuse = new Fault("kernel", "Cannot resolve neighbour: the table is full (ENOBUFS, 105)");
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const state = ask(on, hostA);
  await on.machine.settle();
  assert.equal([found(state)?.mac, found(state)?.source], [macA, "probed"]);
  assert.equal(on.evidence, [{ ifindex: 3, address: hostA, mac: macA, router: false }]);
  const dead = ask(on, hostC);
  await on.machine.advance(3_400);
  assert.is(dead.outcome?.kind, "failed");
  assert.is(on.wire.asked(hostC).length, 3);
  await on.machine.advance(1_000);
  assert.is(on.wire.listeners, 0);
});

test("a packet's answer does not replace what the kernel has; another owner is looked into", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macB, addresses: [hostA] });
  on.tell(hostA, "reachable", macA);
  const state = ask(on, hostA, { byPacket: true });
  await on.machine.settle();
  assert.equal([found(state)?.mac, found(state)?.verified], [macB, false]);
  assert.is(on.neighbours.get("lan", hostA)?.mac, macA);
  await on.machine.advance(3_000);
  assert.ok(on.events.some((event) => event.kind === "moved" && event.move.to === macB));
});

test("the kernel's table read anew after a loss: what it has not is gone, what is new is told, what is the same is not", async () => {
  const on = stage({ steered: true });
  on.tell(hostA, "reachable", macA);
  on.tell(hostB, "reachable", macB);
  const waiting = ask(on, hostC);
  on.events.length = 0;
  on.neighbours.wholeTable([
    { ifindex: 3, address: hostB, mac: macB, state: "reachable", router: false },
    { ifindex: 3, address: hostC, mac: macA, state: "reachable", router: false },
    { ifindex: 9, address: hostA, mac: macA, state: "reachable", router: false },
  ]);
  await on.machine.settle();
  assert.equal(
    on.events.map((event) => [event.kind, "entry" in event && event.entry.address]),
    [
      ["removed", hostA],
      ["changed", hostC],
    ],
  );
  assert.is(found(waiting)?.mac, macA);
});

test("permanent entries are hits of any age; multicast and loopback ones are no neighbours", async () => {
  const on = stage({ steered: true });
  on.tell(hostA, "permanent", macA);
  on.tell("224.0.0.251" as Address, "noarp", "01:00:5e:00:00:fb" as Mac);
  await on.machine.advance(1_000_000);
  const state = ask(on, hostA);
  await on.machine.settle();
  assert.equal([found(state)?.source, found(state)?.verified], ["permanent", false]);
  assert.is([...on.neighbours.entries()].length, 1);
});

test("a pin is written when its device is there, again when it is lost, and old ones of ours are removed", async () => {
  const on = stage({ steered: true });
  on.kernel.readings.set(hostC, {
    ifindex: 3,
    address: hostC,
    mac: macA,
    state: "permanent",
    confirmedAgoMs: 0,
  });
  await on.neighbours.setPins([
    { device: "lan", address: hostA, mac: macA },
    { device: "later", address: hostB, mac: macB },
  ]);
  assert.equal(on.kernel.orders, [`remove 3 ${hostC}`, `pin 3 ${hostA} ${macA}`]);
  on.neighbours.link({ ...lan, ifindex: 7, name: "later" });
  assert.is(on.kernel.orders.at(-1), `pin 7 ${hostB} ${macB}`);
  on.tell(hostA, "permanent", macA);
  on.kernel.orders.length = 0;
  on.neighbours.entry({ ifindex: 3, address: hostA, mac: macA, state: "permanent", router: false }, true);
  assert.equal(on.kernel.orders, [`pin 3 ${hostA} ${macA}`]);
  let denied: unknown;
  await on.neighbours.forget("lan", hostA).catch((thrown: unknown) => {
    denied = thrown;
  });
  assert.is((denied as Fault).code, "denied");
});

test("a pin without MAC takes the first that is verified, and no other after that", async () => {
  const on = stage({ steered: true });
  await on.neighbours.setPins([{ device: "lan", address: hostA }]);
  on.tell(hostA, "stale", macB);
  assert.equal(orders(on, "pin"), []);
  on.tell(hostA, "reachable", macB);
  assert.equal(orders(on, "pin"), [`pin 3 ${hostA} ${macB}`]);
  on.tell(hostA, "stale", macA);
  await on.machine.settle();
  assert.ok(orders(on, "pin").every((order) => order.endsWith(macB)));
});

test("a pin that the kernel refuses is said once, and tried again", async () => {
  const lines: string[] = [];
  const on = stage({ steered: true, onTrouble: (line) => lines.push(line) });
  on.kernel.refuse = new Fault("kernel", "Cannot pin neighbour: no");
  await on.neighbours.setPins([{ device: "lan", address: hostA, mac: macA }]);
  await on.machine.settle();
  for (let index = 0; index < 3; index++) on.tell(hostA, "stale", index % 2 ? macA : macB);
  await on.machine.settle();
  assert.equal(lines, [`Cannot pin ${hostA} on lan: Cannot pin neighbour: no`]);
  assert.ok(orders(on, "pin").length > 1);
});

test("a kept address is handed to the kernel, and called for where the kernel does not keep it by itself", async () => {
  const on = stage({ steered: true });
  await on.neighbours.setPins([], [{ device: "lan", address: hostA }]);
  assert.equal(on.kernel.orders, [`manage 3 ${hostA}`]);
  await on.machine.advance(10_000);
  assert.is(orders(on, "use").length, 2);
  await on.neighbours.setPins([]);
  await on.machine.advance(20_000);
  assert.is(orders(on, "use").length, 2);
});

test("orders that the kernel refuses after the end disturb nobody", async () => {
  const on = stage({ steered: true });
  on.kernel.refuse = new Fault("closed", "Cannot resolve neighbour: netlink socket closed");
  const state = ask(on, hostA);
  on.neighbours.close();
  await on.machine.advance(5_000);
  assert.is(state.fault?.code, "closed");
  assert.equal(on.wire.sent, []);
});

test.run();
