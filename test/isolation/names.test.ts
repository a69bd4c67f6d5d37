/** What names, stand-ins and privileged parties promise, defect by defect of what isolation replaces. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { address, faultOf, flows, host, macOf, openHouse, prefix, resolve, upLink } from "./house.ts";

const web = { name: "web", segment: "apps", addresses: [address("10.1.0.2"), address("fd01::2")] };
const db = { name: "db", segment: "data", addresses: [address("10.2.0.2"), address("fd02::2")] };

// ── Names ────────────────────────────────────────────────────────────────────────────────────────────────────────

test("defect: query types and classes count; names fold case and may end in a dot", async () => {
  const v4 = { name: "old", segment: "data", addresses: [address("10.2.0.9")], aliases: ["ancient"] };
  const house = openHouse({ services: [web, v4] });
  await house.isolation.connect({ name: "web", peers: ["old"] });
  const standIn = resolve(house, "10.1.0.2", "OLD.");
  assert.match(standIn, /^198\.1[89]\./);
  assert.is(resolve(house, "10.1.0.2", "old.lan"), standIn, "search domains of ours are left away");
  assert.is(resolve(house, "10.1.0.2", "ancient.lan."), standIn, "and aliases are followed");
  assert.is(resolve(house, "10.1.0.2", "old", "ANY"), standIn);
  assert.is(
    resolve(house, "10.2.0.9", "web", "AAAA"),
    "nodata",
    "who has no address of a family cannot use it",
  );
  for (const type of ["AAAA", "MX", "HTTPS", "PTR", "NS"] as const) {
    assert.is(resolve(house, "10.1.0.2", "old", type), "nodata", type);
    assert.is(resolve(house, "10.1.0.2", "nobody", type), "missing", type);
  }
  const chaos = house.isolation.answer("br-apps", address("10.1.0.2"), { name: "old", type: 1, class: 3 });
  assert.is(chaos.kind, "missing");
});

test("who was not given a name learns nothing of it, not even that it exists; nor does a spoofed source", async () => {
  const house = openHouse({
    services: [web, db, { name: "spy", segment: "system", addresses: [address("10.9.0.2")] }],
  });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  assert.is(resolve(house, "10.9.0.2", "db"), "missing");
  assert.is(resolve(house, "10.9.0.2", "never-heard-of"), "missing");
  const spoofed = house.isolation.answer("br-system", address("10.1.0.2"), { name: "db", type: 1 });
  assert.is(spoofed.kind, "missing", "an asker is an address on a device");
});

test("reverse lookups: a stand-in has the name of whom one may reach or is reached by, and of nobody else", async () => {
  const house = openHouse({
    services: [web, db, { name: "spy", segment: "system", addresses: [address("10.9.0.2")] }],
  });
  await house.isolation.connect({ name: "web", peers: ["db"], direction: "out" });
  const [of4, of6] = [resolve(house, "10.1.0.2", "db"), house.isolation.parts.standIns.get("db")![6]];
  const reverse4 = `${of4.split(".").reverse().join(".")}.in-addr.arpa.`;
  assert.is(resolve(house, "10.1.0.2", reverse4, "PTR"), "pointer db.");
  assert.is(resolve(house, "10.1.0.2", reverse4.toUpperCase(), "PTR"), "pointer db.");
  assert.is(resolve(house, "10.1.0.2", reverse4, "A"), "nodata");
  assert.is(resolve(house, "10.9.0.2", reverse4, "PTR"), "missing");
  const back = house.isolation.parts.standIns.get("web")![4].split(".").reverse().join(".");
  assert.is(resolve(house, "10.2.0.2", `${back}.in-addr.arpa`, "PTR"), "pointer web.");
  assert.is(
    resolve(house, "10.1.0.2", "2.0.2.10.in-addr.arpa", "PTR"),
    "missing",
    "real addresses have no name",
  );
  const full = of6.replace("::", `:${"0:".repeat(8 - of6.split(":").filter(Boolean).length)}`);
  const digits = full
    .split(":")
    .map((group) => group.padStart(4, "0"))
    .join("")
    .split("")
    .reverse()
    .join(".");
  assert.is(resolve(house, "10.1.0.2", `${digits}.ip6.arpa`, "PTR"), "pointer db.");
});

test("defect #270: a local name is never what the world, or a resolver, says of it", async () => {
  const house = openHouse({ services: [web] });
  house.world.set("arbiter", {
    kind: "found",
    answers: [{ address: address("92.242.132.24"), ttlSeconds: 60 }],
  });
  await house.isolation.connect({ name: "web", peers: ["arbiter"] });
  house.isolation.tick();
  await house.isolation.settled();
  assert.equal(house.lookups, [], "the world is not asked");
  house.isolation.found("arbiter", [address("92.242.132.24")]);
  assert.is(resolve(house, "10.1.0.2", "arbiter"), "missing");
  assert.equal([house.isolation.plan().routes, house.isolation.plan().outside], [[], []]);
  house.isolation.found("arbiter", [address("92.242.132.24"), address("10.2.0.4")]);
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.4", "10.2.0.4 > 10.1.0.2"]);
  house.isolation.found("arbiter", undefined);
  assert.is(house.isolation.plan().routes.length, 2, "silence changes nothing");
  house.isolation.found("arbiter", [address("10.2.0.8")]);
  assert.equal(
    flows(house.isolation.plan()),
    ["10.1.0.2 > 10.2.0.8", "10.2.0.8 > 10.1.0.2"],
    "a restart is followed",
  );
  house.isolation.found("arbiter", []);
  assert.equal(house.isolation.plan().routes, [], "what is not named any more is gone");
});

test("wanted: a name that is not found is asked for again, slower and slower, and at once after a restart", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["late"] });
  const asked: number[] = [];
  for (let second = 0; second < 120; second++) {
    if (house.isolation.wanted().length > 0) {
      asked.push(second);
      house.isolation.found("late", []);
    }
    house.clock.nowMs += 1_000;
  }
  assert.equal(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
  await house.isolation.restart({ name: "late", old: undefined, new: address("10.2.0.9") });
  assert.equal(house.isolation.wanted(), ["late"]);
});

// ── Stand-ins ────────────────────────────────────────────────────────────────────────────────────────────────────

test("stand-ins are the same after a restart, and rest before another service gets them", async () => {
  const small = { pool4: prefix("198.18.0.0/29"), restMs: 60_000 };
  const house = openHouse({ services: [web, db], ...small });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  const before = house.committed.plan!.routes;
  const after = openHouse({
    services: [web, db],
    ...small,
    saved: house.committed.state,
    seed: 99,
    nowMs: 5,
  });
  assert.equal(after.isolation.plan().routes, before);
  const had = new Set(["web", "db"].map((name) => after.isolation.parts.standIns.get(name)![4]));
  await after.isolation.disconnect({ name: "db" });
  await after.isolation.connect({ name: "e", peers: ["f", "g", "h"] });
  const news = ["e", "f", "g", "h"].map((name) => after.isolation.parts.standIns.get(name)![4]);
  assert.not(news.some((each) => had.has(each)));
  const fault = await faultOf(after.isolation.connect({ name: "i", peers: ["e"] }));
  assert.equal(fault.code, "limit", "the two that rest are nobody's");
  const third = openHouse({ services: [web, db], ...small, saved: after.committed.state, nowMs: 7 });
  assert.is(
    (await faultOf(third.isolation.connect({ name: "i", peers: ["e"] }))).code,
    "limit",
    "in the next life too",
  );
  third.clock.nowMs += 60_001;
  await third.isolation.connect({ name: "i", peers: ["e"] });
  assert.ok(had.has(third.isolation.parts.standIns.get("i")![4]));
});

test("who disconnects and connects again is seen under the same stand-in", async () => {
  const house = openHouse({ services: [web, db] });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  const before = resolve(house, "10.1.0.2", "db");
  await house.isolation.disconnect({ name: "web" });
  await house.isolation.connect({ name: "db", peers: ["web"] });
  assert.is(resolve(house, "10.1.0.2", "db"), before);
});

test("defect: a stand-in is never an address of a network here; one that gets onto such a network is given up", async () => {
  const house = openHouse({ services: [web, db], pool4: prefix("198.18.0.0/28") });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  house.isolation.linkUp({
    device: "wan",
    addresses: [{ address: address("198.18.0.1"), prefixLength: 29 }],
  });
  const { routes } = house.isolation.plan();
  assert.is(routes.length, 4);
  for (const { standin } of routes) assert.not.match(standin, /^198\.18\.0\.[0-7]$/);
  house.isolation.linkUp({
    device: "br-apps",
    addresses: [{ address: address("198.18.0.1"), prefixLength: 24 }],
  });
  assert.equal(
    house.isolation.plan().segments[0]!.prefixes,
    [],
    "a segment on the pool has no sources of its own",
  );
  assert.is(house.isolation.plan().routes.length, 0);
  assert.ok(house.reports.length > 0);
});

// ── Privileged ───────────────────────────────────────────────────────────────────────────────────────────────────

const bootstrap = { bootstrap: { segment: "system", forMs: 60_000 }, hosts: ["arbiter"] };

test("bootstrap: everybody on its segment is privileged until the manager has said who it is", async () => {
  const house = openHouse({ services: [web, db], privileged: bootstrap });
  const cm = "10.9.0.5";
  house.isolation.seen({ device: "br-system", address: address(cm), source: "query" });
  assert.match(resolve(house, cm, "web"), /^198\.1/);
  assert.is(resolve(house, cm, "databox-network"), "10.9.0.1", "it finds us");
  assert.is(resolve(house, "10.1.0.2", "databox-network"), "missing");
  assert.ok(flows(house.isolation.plan()).includes(`${cm} > 10.1.0.2`));
  house.isolation.seen({ device: "br-system", address: address("10.9.0.6"), source: "neighbour" });
  assert.is(await house.isolation.privilege(cm), cm);
  assert.match(resolve(house, cm, "web"), /^198\.1/);
  assert.is(resolve(house, "10.9.0.6", "web"), "missing");
  assert.not(flows(house.committed.plan!).some((each) => each.startsWith("10.9.0.6")));
  house.isolation.linkDown("br-system");
  upLink(house.isolation, "br-system");
  assert.is(
    resolve(house, "10.9.0.6", "web"),
    "missing",
    "that its device comes again does not begin it again",
  );
  const after = openHouse({ services: [web, db], privileged: bootstrap, saved: house.committed.state });
  after.isolation.seen({ device: "br-system", address: address("10.9.0.6"), source: "neighbour" });
  assert.is(resolve(after, "10.9.0.6", "web"), "missing");
  assert.match(resolve(after, cm, "web"), /^198\.1/);
});

test("bootstrap ends by itself after its time, and says so", () => {
  const house = openHouse({ services: [web], privileged: bootstrap });
  house.isolation.seen({ device: "br-system", address: address("10.9.0.5"), source: "neighbour" });
  assert.is(house.isolation.plan().routes.length, 1);
  house.clock.nowMs += 60_000;
  const { changes } = house;
  house.isolation.tick();
  assert.is(house.changes, changes + 1);
  assert.is(house.isolation.plan().routes.length, 0);
  assert.is(resolve(house, "10.9.0.5", "web"), "missing");
});

test("a privileged host is reached and resolved by everybody, and reaches nobody by that", async () => {
  const house = openHouse({ services: [web, db], privileged: { hosts: ["arbiter"] } });
  host(house.isolation, "br-system", "arbiter", "10.9.0.3");
  assert.match(resolve(house, "10.1.0.2", "arbiter"), /^198\.1/);
  assert.is(resolve(house, "10.9.0.3", "web"), "missing");
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.9.0.3", "10.2.0.2 > 10.9.0.3"]);
});

test("defect: a privileged source that restarts with another address keeps its privilege", async () => {
  const house = openHouse({ services: [web], privileged: {} });
  await house.isolation.privilege("10.9.0.5");
  house.isolation.seen({ device: "br-system", address: address("10.9.0.5"), source: "neighbour" });
  assert.match(resolve(house, "10.9.0.5", "web"), /^198\.1/);
  await house.isolation.restart({ name: "cm", old: address("10.9.0.5"), new: address("10.9.0.8") });
  assert.match(resolve(house, "10.9.0.8", "web"), /^198\.1/);
  assert.is(resolve(house, "10.9.0.5", "web"), "missing");
  const after = openHouse({ services: [web], saved: house.committed.state });
  assert.match(resolve(after, "10.9.0.8", "web"), /^198\.1/);

  const named = openHouse({ services: [web] });
  host(named.isolation, "br-system", "cm", "10.9.0.5");
  assert.is(await named.isolation.privilege("10.9.0.5"), "cm");
  host(named.isolation, "br-system", "cm", "10.9.0.9");
  assert.match(resolve(named, "10.9.0.9", "web"), /^198\.1/);
});

test("defect: privileged parties of every kind are found, however many there are and in whatever order they came", async () => {
  const hosts = Array.from({ length: 40 }, (_, at) => `h${at}`);
  const house = openHouse({ services: [web], privileged: { ...bootstrap, hosts } });
  const addresses = Array.from({ length: 40 }, (_, at) => `10.9.0.${at + 100}`);
  for (const each of addresses) await house.isolation.privilege(each);
  for (const [at, name] of hosts.entries()) host(house.isolation, "br-data", name, `10.2.0.${at + 100}`);
  for (const each of addresses) assert.match(resolve(house, each, "web"), /^198\.1/, each);
  for (const name of hosts) assert.match(resolve(house, "10.1.0.2", name), /^198\.1/, name);
});

test("a guest is seen under a stand-in that has no name; nobody is its own peer", async () => {
  const house = openHouse({ services: [web], privileged: { hosts: ["web"] } });
  await house.isolation.privilege("10.9.0.5");
  const [route] = house.committed.plan!.routes;
  assert.equal([route!.source, route!.target], ["10.9.0.5", "10.1.0.2"]);
  const reverse = `${route!.sourceStandin.split(".").reverse().join(".")}.in-addr.arpa`;
  assert.is(
    resolve(house, "10.1.0.2", reverse, "PTR"),
    "missing",
    "its name is its address, which nobody learns",
  );
  await house.isolation.privilege("web");
  assert.is(resolve(house, "10.1.0.2", "web"), "missing");
});

test("privileged by name or address can be taken back; the configuration's cannot", async () => {
  const house = openHouse({ services: [web, db], privileged: { clients: ["db"] } });
  assert.match(resolve(house, "10.2.0.2", "web"), /^198\.1/);
  assert.is(await house.isolation.unprivilege("db"), false);
  await house.isolation.privilege("web");
  assert.is(await house.isolation.unprivilege("10.1.0.2"), true);
  assert.is(resolve(house, "10.1.0.2", "db"), "missing");
  for (const bad of ["*.example.com", "api.example.com", "127.0.0.1", "198.18.0.1", "ü"]) {
    assert.is((await faultOf(house.isolation.privilege(bad))).code, "invalid", bad);
  }
});

test("bootstrap: whoever asks first has its routes before its answer", async () => {
  const house = openHouse({ services: [web], privileged: bootstrap });
  const outcome = await house.isolation.ask("br-system", address("10.9.0.5"), { name: "web", type: 1 });
  assert.is(outcome.kind, "addresses");
  assert.equal(flows(house.committed.plan!), ["10.9.0.5 > 10.1.0.2"]);
  const { count } = house.committed;
  for (const source of ["10.9.0.1", "10.1.0.66", "127.0.0.1", "198.18.0.1"]) {
    const stranger = await house.isolation.ask("br-system", address(source), { name: "web", type: 1 });
    assert.is(stranger.kind, "missing", source);
  }
  assert.is(house.committed.count, count);
});

// ── Guards ───────────────────────────────────────────────────────────────────────────────────────────────────────

test("plan: segments that isolate list their bridge's ports, as they come and go", () => {
  const segments = [{ name: "apps", devices: ["br-apps"], isolate: true, mdns: true }] as const;
  const house = openHouse({ segments, isDown: true });
  assert.equal(house.isolation.plan().guards, { isolatedPorts: [], proxyArp: [] });
  const link = { device: "br-apps", addresses: [{ address: address("10.1.0.1"), prefixLength: 24 }] };
  house.isolation.linkUp({ ...link, ports: ["lan2", "lan1"] });
  assert.equal(house.isolation.plan().guards, { isolatedPorts: ["lan1", "lan2"], proxyArp: ["br-apps"] });
  assert.equal(house.isolation.plan().segments, [
    {
      name: "apps",
      devices: ["br-apps"],
      prefixes: ["10.1.0.0/24"],
      dns: { port4: 5353, port6: 5353 },
      dropEncryptedDns: true,
      mdns: true,
    },
  ]);
});

test("a flood of addresses is bounded, and costs no service its place", async () => {
  const house = openHouse({ services: [web, { name: "cam", segment: "data", mac: macOf("cam") }] });
  await house.isolation.connect({ name: "web", peers: ["cam"] });
  house.isolation.seen({
    device: "br-data",
    address: address("10.2.0.7"),
    source: "neighbour",
    mac: macOf("cam"),
  });
  for (let at = 0; at < 10_000; at++) {
    const text = `fd02::${(at >> 8).toString(16)}:${(at & 255).toString(16)}`;
    house.isolation.seen({
      device: "br-data",
      address: address(text),
      source: "neighbour",
      mac: macOf(text),
    });
  }
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.7", "10.2.0.7 > 10.1.0.2"]);
  house.isolation.linkDown("br-data");
  upLink(house.isolation, "br-data");
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.7", "10.2.0.7 > 10.1.0.2"]);
  assert.is(
    [...house.isolation.parts.services.strangers({ name: "data", devices: ["br-data"] })].length <= 4_096,
    true,
  );
});

test.run();
