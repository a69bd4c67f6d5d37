/** netifd's interfaces: what a recorded dump says, and when it is asked for. */

import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { followNetifd, parseInterfaces } from "../../src/agent/netifd.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { FakeBus, settle } from "./bus.ts";

const dump = JSON.parse(
  readFileSync("test/tables/fixtures/network.interface.dump.json", "utf8"),
) as JsonObject;

test("parseInterfaces reads a recorded dump, and nothing from what is none", () => {
  const all = parseInterfaces(dump);
  assert.equal(all[2], { name: "wan", up: true, device: "eth1", tables: {} });
  assert.equal(
    all.map((each) => each.name),
    ["lan", "loopback", "wan", "wan6"],
  );
  const up = { interface: "x", up: true, device: "d", ip4table: 7, ip6table: "main" };
  assert.equal(parseInterfaces({ interface: [up, null, {}, { interface: 7 }] }), [
    { name: "x", up: true, device: "d", tables: { 4: 7, 6: "main" } },
  ]);
  for (const none of [undefined, null, [], {}, { interface: {} }]) assert.equal(parseInterfaces(none), []);
  const many = Array.from({ length: 5_000 }, (_, at) => ({ interface: `i${at}` }));
  assert.is(parseInterfaces({ interface: many }).length, 1_024);
});

test("followNetifd asks at once, and for all after each event and notification; one call at a time", async () => {
  const bus = new FakeBus();
  const told: number[] = [];
  let running = 0;
  let answer = () => {};
  bus.answers.set("network.interface dump", async () => {
    assert.is(++running, 1);
    await new Promise<void>((resolve) => (answer = resolve));
    running--;
    return dump;
  });
  const netifd = followNetifd(bus.ubus, (all) => told.push(all.length));
  await settle();
  // Whatever comes while it asks makes it ask once more.
  await bus.event("network.interface", { action: "ifup", interface: "lan" });
  await bus.say("network.interface", "interface.update", { interface: "lan" });
  netifd.ask();
  assert.equal([bus.calls.length, told.length], [1, 0]);
  answer();
  await settle();
  assert.equal([bus.calls.length, told], [2, [4]]);
  answer();
  await settle();
  assert.equal([bus.calls.length, told], [2, [4, 4]]);
  await bus.say("network.interface", "interface.update");
  netifd.close();
  answer();
  await settle();
  assert.equal([bus.calls.length, told, bus.followed], [3, [4, 4], []], "nothing is told after its end");
});

test("followNetifd: where there is no netifd nothing is told, and one that comes is asked", async () => {
  const bus = new FakeBus();
  const told: number[] = [];
  const netifd = followNetifd(bus.ubus, (all) => told.push(all.length));
  await settle();
  assert.equal(told, []);
  bus.answers.set("network.interface dump", dump);
  await bus.event("network.interface");
  assert.equal(told, [4]);
  netifd.close();
});

test.run();
