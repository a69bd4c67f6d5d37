/** Names outside: who reaches them, for how long, and what is never believed of them. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Lookup } from "../../src/isolation/isolation.ts";
import { address, faultOf, flows, type House, openHouse, resolve, types } from "./house.ts";

const web = { name: "web", segment: "apps", addresses: [address("10.1.0.2"), address("fd01::2")] };
const old = { name: "old", segment: "data", addresses: [address("10.2.0.2")] };

function found(ttlSeconds: number, ...addresses: string[]): Lookup {
  return { kind: "found", answers: addresses.map((each) => ({ address: address(each), ttlSeconds })) };
}

/** Asks until the answer is there. */
async function ask(
  house: House,
  from: string,
  name: string,
  type: keyof typeof types = "A",
): Promise<string> {
  const device = house.isolation.parts.segments.deviceOf(address(from))!;
  const outcome = await house.isolation.ask(device, address(from), { name, type: types[type] });
  return outcome.kind === "addresses" ? outcome.addresses.join(" ") : outcome.kind;
}

async function later(house: House, ms: number): Promise<void> {
  house.clock.nowMs += ms;
  house.isolation.tick();
  await house.isolation.settled();
  await house.isolation.settled();
}

test("an exact name outside is looked up at once, reached under stand-ins, and begins nothing", async () => {
  const house = openHouse({ services: [web, old] });
  house.world.set("api.example.com", found(60, "93.184.216.34", "2606:2800::1"));
  const connected = await house.isolation.connect({ name: "web", peers: ["API.example.com."] });
  assert.equal(connected, [{ peer: "api.example.com", state: "pending" }]);
  await later(house, 0);
  assert.is(house.isolation.parts.commands.stateOf("web", "api.example.com"), "active");
  assert.equal(flows(house.committed.plan!), ["10.1.0.2 >> 93.184.216.34", "fd01::2 >> 2606:2800::1"]);
  const [v4, v6] = [
    await ask(house, "10.1.0.2", "api.example.com"),
    await ask(house, "10.1.0.2", "api.example.com", "AAAA"),
  ];
  assert.equal(
    house.committed.plan!.outside.map(({ standin }) => standin),
    [v4, v6],
  );
  assert.is(
    resolve(house, "10.1.0.2", `${v4.split(".").reverse().join(".")}.in-addr.arpa`, "PTR"),
    "pointer api.example.com.",
  );
  assert.is(await ask(house, "10.2.0.2", "api.example.com"), "missing", "for web only");
  assert.equal(house.lookups, ["api.example.com"]);
});

test("patterns stand for every name below them, at any depth, and for nothing else", async () => {
  const house = openHouse({ services: [web] });
  for (const name of [
    "example.com",
    "a.example.com",
    "a.b.example.com",
    "aexample.com",
    "example.com.evil.org",
  ]) {
    house.world.set(name, found(60, "93.184.216.34"));
  }
  await house.isolation.connect({ name: "web", peers: ["*.example.com"] });
  assert.match(await ask(house, "10.1.0.2", "A.example.com."), /^198\.1/);
  assert.match(await ask(house, "10.1.0.2", "a.b.example.com"), /^198\.1/);
  for (const name of ["example.com", "aexample.com", "example.com.evil.org"]) {
    assert.is(await ask(house, "10.1.0.2", name), "missing", name);
  }
  assert.equal(
    [...house.lookups].sort(),
    ["a.b.example.com", "a.example.com"],
    "nothing else leaks to the world",
  );
});

test("answers are enforced before they are given", async () => {
  const house = openHouse({ services: [web] });
  house.world.set("a.example.com", found(60, "93.184.216.34"));
  await house.isolation.connect({ name: "web", peers: ["*.example.com"] });
  const { count } = house.committed;
  await ask(house, "10.1.0.2", "a.example.com");
  assert.ok(house.committed.count > count);
  assert.equal(flows(house.committed.plan!), ["10.1.0.2 >> 93.184.216.34"]);
  house.world.set("b.example.com", found(60, "93.184.216.35"));
  house.refusals.push(new Error("no"), undefined);
  assert.is(
    await ask(house, "10.1.0.2", "b.example.com"),
    "silent",
    "what the kernel refuses is not answered",
  );
});

test("defect: an external name follows its time to live; its targets are updated, and are more than one", async () => {
  const house = openHouse({ services: [web] });
  const name = "cdn.example.com";
  house.world.set(name, found(30, "93.184.216.34", "93.184.216.35"));
  await house.isolation.connect({ name: "web", peers: [name] });
  await later(house, 0);
  const first = await ask(house, "10.1.0.2", name);
  assert.is(first.split(" ").length, 2);
  house.world.set(name, found(30, "93.184.216.35", "93.184.216.36"));
  await later(house, 29_000);
  assert.is(house.lookups.length, 1);
  await later(house, 1_000);
  assert.is(house.lookups.length, 2);
  const second = await ask(house, "10.1.0.2", name);
  assert.is(second.split(" ")[0], first.split(" ")[1], "an address keeps its stand-in");
  assert.is(flows(house.committed.plan!).length, 3);
  house.world.set(name, { kind: "silent" });
  for (let second = 0; second < 60; second += 5) await later(house, 5_000);
  assert.is(await ask(house, "10.1.0.2", name), second, "silence brings no old address back");
});

test("a live connection survives the name's expiry: its target stays while it is in use, and goes after", async () => {
  const house = openHouse({ services: [web], keepMs: 60_000 });
  const name = "cdn.example.com";
  house.world.set(name, found(30, "93.184.216.34"));
  await house.isolation.connect({ name: "web", peers: [name] });
  await later(house, 0);
  house.inUse.add(address("93.184.216.34"));
  house.world.set(name, found(30, "93.184.216.40"));
  await later(house, 30_000);
  assert.is(
    (await ask(house, "10.1.0.2", name)).split(" ").length,
    1,
    "nobody new is sent to the old address",
  );
  for (let minute = 0; minute < 10; minute++) await later(house, 60_000);
  assert.ok(flows(house.committed.plan!).includes("10.1.0.2 >> 93.184.216.34"));
  house.inUse.clear();
  await later(house, 10_000);
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 >> 93.184.216.40"]);
});

test("a resolver that is silent takes nothing away; one that says no does", async () => {
  const house = openHouse({ services: [web], keepMs: 600_000 });
  const name = "api.example.com";
  house.world.set(name, found(30, "93.184.216.34"));
  await house.isolation.connect({ name: "web", peers: [name] });
  await later(house, 0);
  house.world.set(name, { kind: "silent" });
  for (let second = 0; second < 120; second += 5) await later(house, 5_000);
  assert.match(await ask(house, "10.1.0.2", name), /^198\.1/);
  assert.ok(house.lookups.length < 12, "and is not pestered");
  house.world.set(name, { kind: "missing", ttlSeconds: 60 });
  for (let second = 0; second < 120; second += 5) await later(house, 5_000);
  assert.is(await ask(house, "10.1.0.2", name), "missing");
  assert.equal(
    flows(house.isolation.plan()),
    ["10.1.0.2 >> 93.184.216.34"],
    "kept for whoever speaks with it",
  );
});

test("DNS rebinding: what the world says is near, ours, private or no host is no target", async () => {
  const house = openHouse({ services: [web] });
  house.isolation.linkUp({
    device: "wan",
    addresses: [{ address: address("93.184.217.1"), prefixLength: 24 }],
  });
  const near = [
    "10.2.0.2",
    "192.168.1.1",
    "127.0.0.1",
    "0.0.0.0",
    "169.254.1.1",
    "224.0.0.251",
    "255.255.255.255",
  ];
  const more = [
    "198.18.0.7",
    "93.184.217.9",
    "fd01::2",
    "fe80::1",
    "::1",
    "::",
    "ff02::fb",
    "::ffff:10.1.0.2",
    "fd00:6a7e::9",
  ];
  house.world.set("evil.example.com", found(60, ...near, ...more));
  await house.isolation.connect({ name: "web", peers: ["evil.example.com"] });
  await later(house, 0);
  assert.is(await ask(house, "10.1.0.2", "evil.example.com"), "missing");
  assert.equal(house.committed.plan!.outside, []);
  house.world.set("half.example.com", found(60, "10.2.0.2", "93.184.216.34"));
  await house.isolation.connect({ name: "web", peers: ["half.example.com"] });
  await later(house, 0);
  assert.equal(flows(house.committed.plan!), ["10.1.0.2 >> 93.184.216.34"]);
  house.isolation.linkUp({
    device: "wan2",
    addresses: [{ address: address("93.184.216.1"), prefixLength: 24 }],
  });
  assert.equal(flows(house.isolation.plan()), [], "a network that appears makes its addresses near");
});

test("names of ours are never outside, however they look", async () => {
  const dotted = { name: "api.example.com", segment: "data", addresses: [address("10.2.0.3")] };
  const house = openHouse({ services: [web, dotted] });
  await house.isolation.connect({
    name: "web",
    peers: ["api.example.com", "*.example.com", "printer.lan", "nas.local"],
  });
  await later(house, 0);
  assert.match(await ask(house, "10.1.0.2", "api.example.com"), /^198\.1/);
  for (const name of [
    "printer.lan",
    "nas.local",
    "printer",
    "a.b.lan",
    "x.internal",
    "x.onion",
    "2.0.2.10.in-addr.arpa",
  ]) {
    assert.is(await ask(house, "10.1.0.2", name), "missing", name);
  }
  assert.equal(house.lookups, []);
  assert.ok(flows(house.isolation.plan()).includes("10.1.0.2 > 10.2.0.3"));
});

test("no flood of names below a pattern takes more than its room", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["*.example.com"] });
  for (let at = 0; at < 3_000; at++) resolve(house, "10.1.0.2", `n${at}.example.com`);
  assert.ok(house.isolation.parts.outside.size <= 1_024);
  assert.is(resolve(house, "10.1.0.2", "more.example.com"), "missing");
  await later(house, 700_000);
  assert.is(house.isolation.parts.outside.size, 0, "what nobody asks for is forgotten");
  assert.is(resolve(house, "10.1.0.2", "more.example.com"), "later more.example.com");
});

test("after a restart stand-ins and targets outside are the same, and told while nobody answers yet", async () => {
  const house = openHouse({ services: [web] });
  house.world.set("api.example.com", found(60, "93.184.216.34"));
  await house.isolation.connect({ name: "web", peers: ["api.example.com"] });
  await later(house, 0);
  await house.isolation.settled();
  const standIn = await ask(house, "10.1.0.2", "api.example.com");
  const after = openHouse({ services: [web], saved: house.committed.state, seed: 7 });
  after.world.set("api.example.com", { kind: "silent" });
  assert.equal(after.isolation.plan().outside, house.committed.plan!.outside);
  for (let second = 0; second < 60; second += 5) await later(after, 5_000);
  assert.is(await ask(after, "10.1.0.2", "api.example.com"), standIn);
});

test("whoever is outside begins nothing: such connects are refused", async () => {
  const house = openHouse({ services: [web] });
  for (const wish of [
    { name: "a.example.com", peers: ["b.example.com"] },
    { name: "web", peers: ["a.example.com"], direction: "in" as const },
    { name: "*.example.com", peers: ["web"], direction: "out" as const },
  ]) {
    assert.is((await faultOf(house.isolation.connect(wish))).code, "invalid", wish.name);
  }
  await house.isolation.connect({ name: "a.example.com", peers: ["web"] });
  assert.is(
    house.isolation.parts.connects.permission("web", "a.example.com"),
    "all",
    "either way it is said",
  );
  assert.is(house.isolation.parts.connects.permission("a.example.com", "web"), undefined);
});

test("concurrent queries for one name share one look-up", async () => {
  const house = openHouse({ services: [web] });
  house.world.set("a.example.com", found(60, "93.184.216.34"));
  await house.isolation.connect({ name: "web", peers: ["*.example.com"] });
  const answers = await Promise.all(
    Array.from({ length: 40 }, () => ask(house, "10.1.0.2", "a.example.com")),
  );
  assert.is(new Set(answers).size, 1);
  assert.is(house.lookups.length, 1);
  assert.is(house.committed.plan!.outside.length, 1, "and leak no stand-ins");
});

test("whoever makes up names below a pattern is in nobody's way", async () => {
  const evil = { name: "evil", segment: "apps", addresses: [address("10.1.0.66")] };
  const house = openHouse({ services: [web, evil, old] });
  for (const name of ["evil", "web"]) await house.isolation.connect({ name, peers: ["*.example.com"] });
  for (let number = 0; number < 2_000; number++) {
    const outcome = resolve(house, "10.1.0.66", `n${number}.example.com`);
    assert.is(outcome, number < 128 ? `later n${number}.example.com` : "missing");
  }
  house.world.set("news.example.com", found(60, "93.184.216.34"));
  assert.match(await ask(house, "10.1.0.2", "news.example.com"), /^198\.1/, "others' new names");
  // Many who do so together leave room for names that somebody is connected to.
  const { outside } = house.isolation.parts;
  for (let number = 0; number < 2_000; number++)
    outside.want(`m${number}.example.org`, house.clock.nowMs, `${number}`);
  assert.is(outside.size, 512);
  const peers = Array.from({ length: 512 }, (_, number) => `exact${number}.example.net`);
  await house.isolation.connect({ name: "old", peers });
  assert.is(outside.size, 1_024);
  const fault = await faultOf(house.isolation.connect({ name: "old", peers: ["more.example.net"] }));
  assert.is(fault.code, "limit");
});

test("whose names are slow holds a share of the look-ups, and what is due keeps nobody waiting", async () => {
  const evil = { name: "evil", segment: "apps", addresses: [address("10.1.0.66")] };
  const waiting = new Map<string, () => void>();
  const house = openHouse({
    services: [web, evil, old],
    lookup: (name) =>
      name.startsWith("slow")
        ? new Promise((resolve) => waiting.set(name, () => resolve({ kind: "silent" })))
        : Promise.resolve(found(60, "93.184.216.34")),
  });
  for (const name of ["evil", "web", "old"])
    await house.isolation.connect({ name, peers: ["*.example.com"] });
  const slow = Array.from({ length: 40 }, (_, number) =>
    ask(house, "10.1.0.66", `slow${number}.example.com`),
  );
  assert.match(await ask(house, "10.1.0.2", "a.example.com"), /^198\.1/);
  assert.is(waiting.size, 8);
  house.isolation.tick();
  await Promise.resolve();
  assert.is(waiting.size, 8, "nor by asking again");
  const peers = Array.from({ length: 40 }, (_, number) => `slow${number}.example.net`);
  await house.isolation.connect({ name: "web", peers });
  house.isolation.tick();
  await new Promise((done) => setImmediate(done));
  assert.is(waiting.size, 24);
  const exact = peers.map((name) => ask(house, "10.1.0.2", name));
  await new Promise((done) => setImmediate(done));
  assert.is(waiting.size, 32, "whoever waits for names that it is connected to holds no more");
  assert.match(await ask(house, "10.2.0.2", "b.example.com"), /^198\.1/, "who waits for an answer gets it");
  for (const end of waiting.values()) end();
  assert.equal(new Set(await Promise.all([...slow, ...exact])), new Set(["silent"]));
});

test.run();
