/** Neighbours on the real kernel: who has an address when it moves, when two want it, and when it is pinned. */

import { execFileSync } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address, Mac } from "../../src/lib/address.ts";
import { encodeArpReply } from "../../src/lib/arp.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Event, Neighbours } from "../../src/neighbours/neighbours.ts";
import { eventually } from "../lab/children.ts";
import {
  announce,
  build,
  clean,
  dead,
  forge,
  host4,
  host6,
  hostMac,
  ip,
  macOf,
  newMac,
  open,
  resolve,
  rogueMac,
} from "./switch.ts";

test.before(build);
test.after.each(clean);

test("fresh has the kernel ask anew, whatever it believes", async () => {
  const on = await open();
  ip(`neigh replace ${host4} lladdr ${newMac} dev lan nud reachable`);
  ip(`neigh replace ${host6} lladdr ${hostMac} dev lan nud reachable`);
  await eventually("told", () => on.neighbours.get("lan", host6) !== undefined);
  assert.is(macOf(await resolve(on, host6, { fresh: true })), hostMac);
  assert.is(macOf(await resolve(on, host4, { fresh: true })), hostMac);
});

test("a MAC that changes is followed, and told as a move once the old one is silent", async () => {
  const on = await open();
  await resolve(on, host4);
  execFileSync("ip", ["netns", "exec", "far", "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1"]);
  ip(`-n far link set eth0 address ${newMac}`);
  try {
    await eventually("the move is told", () => on.events.some(({ kind }) => kind === "moved"));
    const moved = on.events.find(({ kind }) => kind === "moved") as Extract<Event, { kind: "moved" }>;
    assert.equal(moved.move, { address: host4, from: hostMac, to: newMac, verified: true });
    assert.is(macOf(await resolve(on, host4)), newMac);
    assert.equal(on.neighbours.conflicts(), []);
  } finally {
    ip(`-n far link set eth0 address ${hostMac}`);
  }
});

test("an address that another host claims too is a conflict: the old owner still answers", async () => {
  const on = await open();
  await resolve(on, host4);
  announce(rogueMac, host4);
  await eventually("the conflict is told", () => on.events.some(({ kind }) => kind === "conflict"));
  const [{ device, conflict }] = on.neighbours.conflicts() as [ReturnType<Neighbours["conflicts"]>[0]];
  assert.is(device, "lan");
  assert.equal([conflict.address, [...conflict.macs].sort()], [host4, [hostMac, rogueMac]]);
  assert.ok(conflict.answering.includes(hostMac));
  assert.not.ok(on.events.some(({ kind }) => kind === "moved"));
  assert.not.ok(on.neighbours.get("lan", host4)!.verified);
});

test("a pinned address is nobody else's: claims change nothing, and a flush brings it back", async () => {
  const on = await open();
  await on.neighbours.setPins([{ device: "lan", address: host4, mac: hostMac }]);
  await eventually("pinned", () => on.neighbours.get("lan", host4)?.state === "permanent");
  announce(rogueMac, host4);
  forge(
    encodeArpReply({ senderMac: rogueMac, sender: host4, target: "192.0.2.1" as Address }),
    rogueMac,
    "02:00:00:00:00:01" as Mac,
  );
  assert.is(macOf(await resolve(on, host4)), hostMac);
  ip("neigh flush dev lan nud all");
  await eventually("pinned again", () => / PERMANENT/.test(ip(`neigh show ${host4} dev lan nud all`)));
  await on.neighbours.setPins([]);
  await eventually("let go", () => !/ PERMANENT/.test(ip(`neigh show ${host4} dev lan nud all`)));
});

test("a kept address is resolved by the kernel itself, and stays so", async () => {
  const on = await open();
  await on.neighbours.setPins([], [{ device: "lan", address: host4 }]);
  await eventually("kept", () => on.neighbours.get("lan", host4)?.state === "reachable");
  assert.match(ip(`neigh show ${host4} dev lan`), /managed/);
});

test("a link that flaps ends what waits, and is resolved on again when it is back", async () => {
  const on = await open();
  assert.is(macOf(await resolve(on, host4)), hostMac);
  const waiting = resolve(on, dead).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  ip("link set lan down");
  const fault = await waiting;
  assert.instance(fault, Fault);
  assert.is((fault as Fault).code, "closed");
  await eventually("forgotten", () => on.neighbours.get("lan", host4) === undefined);
  ip("link set lan up");
  ip("-6 addr replace 2001:db8::1/64 dev lan nodad");
  await eventually("resolved again", () =>
    resolve(on, host4).then(
      (outcome) => macOf(outcome) === hostMac,
      () => false,
    ),
  );
});

test.run();
