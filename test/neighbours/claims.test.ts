/** Addresses that move and addresses that two claim, with the kernel's table and the hosts on the link played. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address, Mac } from "../../src/lib/address.ts";
import { encodeAdvertisement, encodeSolicitation, linkLocalOf } from "../../src/lib/arp.ts";
import { Fault } from "../../src/lib/fault.ts";
import { host6, hostA, hostB, macA, macB, macC, ownMac, type Stage, stage } from "./wire.ts";

const kinds = ({ events }: Stage) => events.map(({ kind }) => kind).filter((kind) => kind !== "changed");
const verified = ({ neighbours }: Stage, address: Address) => neighbours.get("lan", address)?.verified;

/** The kernel has had `address` at A, and now says B. */
function moved(on: Stage, address = hostA): void {
  on.tell(address, "reachable", macA);
  on.tell(address, "stale", macB);
}

test("a move: the old owner is asked at its own MAC, is silent, and the new one answers", async () => {
  for (const address of [hostA, host6]) {
    const on = stage({ steered: true });
    on.wire.hosts.push({ mac: macB, addresses: [address] });
    moved(on, address);
    assert.is(verified(on, address), false);
    await on.machine.advance(3_000);
    assert.equal(on.events.at(-1), {
      ...{ kind: "moved", device: "lan" },
      move: { address, from: macA, to: macB, verified: true },
    });
    const toOld = on.wire.asked(address).filter(({ to }) => to === macA);
    assert.is(toOld.length, 3);
    assert.ok(toOld.every(({ receiver }) => receiver === address));
    assert.ok(on.wire.asked(address).every(({ to }) => to !== "all"));
    on.tell(address, "reachable", macB);
    assert.is(verified(on, address), true);
    assert.equal(on.neighbours.conflicts(), []);
  }
});

test("a conflict: the old owner still answers; told once, and listed with who answered", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostA] });
  moved(on);
  await on.machine.advance(3_000);
  assert.equal(kinds(on), ["conflict"]);
  const { conflict } = on.neighbours.conflicts()[0]!;
  assert.equal([...conflict.macs], [macA, macB]);
  assert.equal([...conflict.answering].sort(), [macA, macB]);
  assert.is(verified(on, hostA), false);
});

test("a lie: somebody claims the address for a MAC that does not answer; the owner does, and keeps it", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  moved(on);
  await on.machine.advance(1_000);
  assert.equal(kinds(on), ["conflict"]);
  // The owner's answer has put the kernel right.
  on.tell(hostA, "reachable", macA);
  await on.machine.advance(14_000);
  assert.is(on.neighbours.conflicts()[0]!.conflict.active, false);
  assert.is(verified(on, hostA), true);
  assert.equal(kinds(on), ["conflict"]);
});

test("the owner's answer may reach the kernel before it reaches us: the conflict is seen all the same", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA], delayMs: 20 });
  moved(on);
  await on.machine.advance(10);
  on.tell(hostA, "reachable", macA);
  await on.machine.advance(1_000);
  assert.equal(kinds(on), ["conflict"]);
});

test("two that take the address from each other all the time are told once a minute, and asked every ten seconds", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostA] });
  on.tell(hostA, "reachable", macA);
  for (let tick = 0; tick < 1_200; tick++) {
    on.tell(hostA, "reachable", tick % 2 === 0 ? macB : macA);
    await on.machine.advance(100);
  }
  assert.equal(kinds(on), ["conflict", "conflict"]);
  assert.ok(on.wire.asked(hostA).length <= 2 * 3 * 13, `${on.wire.asked(hostA).length} questions`);
  assert.ok(on.neighbours.conflicts()[0]!.conflict.count >= 10);
});

test("a conflict that is not seen again is over after ten minutes", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostA] });
  moved(on);
  await on.machine.advance(500_000);
  assert.is(on.neighbours.conflicts().length, 1);
  await on.machine.advance(110_000);
  assert.is(on.neighbours.conflicts().length, 0);
});

test("who had an address before it went is asked too, if somebody else has it soon after", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  on.tell(hostA, "reachable", macA);
  on.tell(hostA, "failed");
  on.tell(hostA, "reachable", macB);
  await on.machine.advance(1_000);
  assert.ok(kinds(on).includes("conflict"));
  // After a long time nobody is.
  on.tell(hostB, "reachable", macA);
  on.neighbours.entry({ ifindex: 3, address: hostB, state: "stale", mac: macA, router: false }, true);
  await on.machine.advance(700_000);
  on.tell(hostB, "reachable", macB);
  await on.machine.advance(5_000);
  assert.is(on.wire.asked(hostB).length, 0);
});

test("a thousand moves at once: so many are verified, the others told as they are and counted", async () => {
  const on = stage({ steered: true });
  for (let index = 0; index < 1_000; index++) moved(on, `10.7.${index >> 8}.${index & 255}` as Address);
  assert.ok(on.neighbours.status.inquiries <= 16);
  await on.machine.advance(3_000);
  const moves = on.events.flatMap((event) => (event.kind === "moved" ? [event.move] : []));
  assert.is(moves.length, 1_000);
  assert.ok(moves.every((move) => !move.verified));
  assert.is(on.neighbours.status.unverified, 1_000 - 16);
  assert.is(on.neighbours.status.inquiries, 0);
});

test("a link that takes no questions leaves a move unverified, and nothing open", async () => {
  const on = stage({
    steered: true,
    openLink: () => {
      throw new Fault("denied", "Cannot open packet socket: not permitted");
    },
  });
  moved(on);
  const event = on.events.at(-1)!;
  assert.ok(event.kind === "moved" && !event.move.verified);
  assert.is(on.machine.timers, 0);
});

test("a link that goes down between two questions of a check ends it unverified", async () => {
  const on = stage({ steered: true });
  moved(on);
  on.wire.broken = true;
  await on.machine.advance(1_000);
  const event = on.events.at(-1)!;
  assert.ok(event.kind === "moved" && !event.move.verified);
  assert.is(on.wire.listeners, 0);
  assert.is(on.machine.timers, 0);
});

test("close in the midst of it ends the questions", async () => {
  const on = stage({ steered: true });
  moved(on);
  assert.is(on.wire.listeners, 1);
  on.neighbours.close();
  assert.is(on.wire.listeners, 0);
  assert.is(on.machine.timers, 0);
  await on.machine.advance(10_000);
  assert.equal(kinds(on), []);
});

test("forget ends a dispute, and what was known of former owners", async () => {
  const on = stage({ steered: true });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostA] });
  moved(on);
  await on.machine.advance(3_000);
  assert.is(await on.neighbours.forget("lan", hostA), true);
  assert.ok(on.kernel.orders.includes(`remove 3 ${hostA}`));
  assert.equal(on.neighbours.conflicts(), []);
});

test("two that answer one question of ours are in conflict", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostA], delayMs: 100 });
  const outcome = await on.neighbours.resolve({ device: "lan", address: hostA, timeoutMs: 5_000 });
  assert.is(outcome.kind === "found" && outcome.found.mac, macA);
  await on.machine.advance(100);
  assert.equal(kinds(on), ["conflict"]);
  assert.equal([...on.neighbours.conflicts()[0]!.conflict.macs], [macA, macB]);
});

// IPv6: what an advertisement says of itself.

const asker = "2001:db8::1" as Address;
const told = (
  mac: Mac,
  fields: {
    solicited?: boolean;
    override?: boolean;
    router?: boolean;
    destination?: Address;
    bare?: boolean;
  },
) => {
  const { bare, ...flags } = fields;
  return encodeAdvertisement({
    ...{ source: host6, target: host6, destination: asker, ...flags },
    ...(bare ? {} : { mac }),
  });
};

test("the flags of an advertisement, each way: answers are those that say they are, and the MAC may be the frame's", async () => {
  for (const solicited of [false, true]) {
    for (const override of [false, true]) {
      for (const router of [false, true]) {
        for (const bare of [false, true]) {
          const on = stage();
          const state: { mac?: Mac; router?: boolean } = {};
          void on.neighbours.resolve({ device: "lan", address: host6, timeoutMs: 9_000 }).then((outcome) => {
            if (outcome.kind === "found") Object.assign(state, outcome.found);
          });
          await on.machine.settle();
          on.wire.deliver(told(macA, { solicited, override, router, bare }), macA);
          await on.machine.settle();
          const name = JSON.stringify({ solicited, override, router, bare });
          assert.is(state.mac, solicited ? macA : undefined, name);
          if (solicited) assert.is(state.router, router, name);
          else assert.equal(on.neighbours.status.packets, { unsolicited: 1 }, name);
        }
      }
    }
  }
});

test("an advertisement without override does not replace the owner; with it, it replaces a proxy", async () => {
  const rows: [first: boolean, second: boolean, winner: Mac, conflict: boolean][] = [
    [false, false, macA, false],
    [false, true, macB, false],
    [true, false, macA, false],
    [true, true, macA, true],
  ];
  for (const [first, second, winner, isConflict] of rows) {
    const on = stage();
    void on.neighbours.resolve({ device: "lan", address: host6, timeoutMs: 9_000 });
    await on.machine.settle();
    on.wire.deliver(told(macA, { solicited: true, override: first }), macA);
    on.wire.deliver(told(macB, { solicited: true, override: second }), macB);
    assert.is(on.neighbours.get("lan", host6)?.mac, winner, `${first} ${second}`);
    assert.is(on.neighbours.conflicts().length > 0, isConflict, `${first} ${second}`);
    on.neighbours.close();
  }
});

test("a host that is about to take an address is neither believed nor disturbed", async () => {
  const on = stage();
  const state: { outcome?: unknown } = {};
  void on.neighbours.resolve({ device: "lan", address: host6, timeoutMs: 9_000 }).then((outcome) => {
    state.outcome = outcome;
  });
  await on.machine.settle();
  // No question of ours is one of duplicate address detection.
  assert.ok(on.wire.sent.every(({ sender }) => sender !== "::"));
  on.wire.deliver(encodeSolicitation({ source: "::" as Address, sourceMac: macC, target: host6 }), macC);
  on.wire.deliver(encodeAdvertisement({ source: host6, target: host6, mac: macC, override: true }), macC);
  const elsewhere = "2001:db8::99" as Address;
  on.wire.deliver(told(macC, { solicited: true, override: true, destination: elsewhere }), macC);
  await on.machine.settle();
  assert.is(state.outcome, undefined);
  assert.equal(on.neighbours.status.packets, { question: 1, unsolicited: 2 });
  on.wire.deliver(told(macA, { solicited: true, override: true }), macA);
  await on.machine.settle();
  assert.is(on.neighbours.get("lan", host6)?.mac, macA);
  assert.is(linkLocalOf(ownMac), "fe80::ff:fe00:1");
});

test.run();
