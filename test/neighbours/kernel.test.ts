/** Neighbours on the real kernel: found, aged, lost and found again. */

import { execFileSync } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { watchRoute } from "../../src/kernel/kernel.ts";
import type { Address } from "../../src/lib/address.ts";
import type { Fault } from "../../src/lib/fault.ts";
import type { Entry, Outcome } from "../../src/neighbours/neighbours.ts";
import { eventually } from "../lab/children.ts";
import {
  build,
  clean,
  host4,
  host6,
  hostMac,
  ip,
  kernelMac,
  macOf,
  newMac,
  open,
  resolve,
  system,
} from "./switch.ts";

test.before(build);
test.after.each(clean);

test("resolve finds a host by ARP and by NDP through the kernel, which then has it too", async () => {
  const on = await open();
  for (const address of [host4, host6]) {
    const outcome = await resolve(on, address);
    assert.is(macOf(outcome), hostMac);
    assert.is(kernelMac(address), hostMac);
    const { found } = outcome as { found: Entry };
    assert.equal([found.state, found.source, found.verified], ["reachable", "solicited", true]);
    assert.ok(found.confirmedAt !== undefined && found.confirmedAt <= system.now());
  }
});

test("resolve finds a host by packets past the kernel, in prefixes of ours and in others, in both families", async () => {
  const on = await open();
  const other = "198.51.100.2" as Address;
  for (const [address, byPacket] of [
    [host4, true],
    [host6, true],
    [other, false],
  ] as const) {
    const outcome = await resolve(on, address, { byPacket });
    assert.is(macOf(outcome), hostMac, address);
    assert.is((outcome as { found: Entry }).found.source, "probed");
  }
  assert.is(kernelMac(other), undefined);
  await eventually("nothing is listened to any more", () => on.neighbours.status.inquiries === 0);
});

test("an entry that the kernel met is given its age by the kernel", async () => {
  ip("neigh flush dev lan nud all");
  execFileSync("ping", ["-n", "-q", "-c", "1", "-W", "20", host4]);
  const on = await open();
  const before = on.neighbours.get("lan", host4)!;
  assert.is(before.confirmedAt, undefined);
  const { found } = (await resolve(on, host4)) as { found: Entry };
  assert.is(found.mac, hostMac);
  assert.ok(found.confirmedAt !== undefined && system.now() - found.confirmedAt < 30_000);
});

test("a host that comes up under constant polling is resolved soon after it answers", async () => {
  const on = await open();
  ip(`-n far addr del ${host4}/24 dev eth0`);
  try {
    assert.is(macOf(await resolve(on, host4, { timeoutMs: 5_000 })), "failed: timeout");
    let outcome: Outcome<Entry> | undefined;
    let isUp = false;
    for (let polls = 0; outcome?.kind !== "found"; polls++) {
      assert.ok(polls < 100, "never found");
      outcome = await resolve(on, host4, { timeoutMs: 100 });
      if (outcome.kind === "failed") await new Promise((done) => setTimeout(done, 50));
      if (polls === 8 && !isUp) {
        isUp = true;
        ip(`-n far addr add ${host4}/24 dev eth0`);
      }
    }
    assert.is(macOf(outcome), hostMac);
  } finally {
    ip(`-n far addr replace ${host4}/24 dev eth0`);
  }
});

test("a thousand dead addresses are asked for, and hits come before all of them", async () => {
  const on = await open();
  await resolve(on, host4);
  ip("addr add 10.66.0.1/16 dev lan");
  await eventually("the prefix is known", () => on.route.linkByName("lan") !== undefined);
  let ended = 0;
  const misses = Array.from({ length: 1_000 }, (_, index) =>
    resolve(on, `10.66.${1 + (index >> 8)}.${index & 255}` as Address).then((outcome) => {
      ended++;
      return macOf(outcome);
    }),
  );
  for (let hits = 0; hits < 1_000; hits++) {
    assert.is(macOf(await resolve(on, host4)), hostMac);
    assert.is(ended, 0);
  }
  const outcomes = new Set(await Promise.all(misses));
  assert.equal([...outcomes], ["failed: timeout"]);
  assert.is(macOf(await resolve(on, host4)), hostMac);
  ip("addr del 10.66.0.1/16 dev lan");
});

test("what the kernel could not tell because we read too slowly is made up for (ENOBUFS)", async () => {
  const on = await open();
  // A watch of its own with the smallest buffer: the others read too fast to lose anything.
  on.route.close();
  const told = { whole: 0 };
  on.route = await watchRoute(
    system,
    {
      onLink: (change, link) =>
        change === "remove" ? on.neighbours.linkGone(link.ifindex) : on.neighbours.link(link),
      onAddress: (change, address) => on.neighbours.ownAddress(address, change !== "remove"),
      onNeighbour: (change, neighbour) => {
        told.whole++;
        on.neighbours.entry(neighbour, change === "remove");
      },
    },
    { receiveBytes: 2_048 },
  );
  const lines = Array.from(
    { length: 200 },
    (_, index) => `neigh replace 192.0.2.${50 + (index % 150)} lladdr ${newMac} dev lan nud stale`,
  );
  // Nothing is read while the tool runs: this thread waits for it.
  execFileSync("ip", ["-batch", "-"], { input: `${lines.join("\n")}\n` });
  await eventually("the loss is noticed", () => on.route.counters.overruns > 0);
  // The host beyond asks after us now and then, which makes an entry of its own.
  const left = () => [...on.neighbours.entries("lan")].filter(({ entry }) => entry.mac === newMac).length;
  await eventually("all of them are known", () => left() === 150);
  execFileSync("ip", ["neigh", "flush", "dev", "lan", "nud", "all"]);
  await eventually("none is left", () => left() === 0);
  assert.ok(told.whole > 0);
});

test("a device that is deleted takes its neighbours along", async () => {
  ip("link add gone type veth peer name gone2");
  ip("link set gone up");
  ip("link set gone2 up");
  ip("addr add 10.9.0.1/24 dev gone");
  const on = await open();
  ip(`neigh replace 10.9.0.2 lladdr ${newMac} dev gone nud reachable`);
  await eventually("known", () => [...on.neighbours.entries("gone")].length === 1);
  const waiting = on.neighbours
    .resolve({ device: "gone", address: "10.9.0.3" as Address, timeoutMs: 20_000 })
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  ip("link del gone");
  assert.is(((await waiting) as Fault).code, "closed");
  await eventually("no such device", () =>
    on.neighbours.resolve({ device: "gone", address: host4, timeoutMs: 1 }).then(
      () => false,
      (thrown: Fault) => thrown.code === "not-found",
    ),
  );
});

test.run();
