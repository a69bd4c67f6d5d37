/** What isolation promises, defect by defect of what it replaces. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { address, faultOf, flows, host, macOf, openHouse, resolve, upLink } from "./house.ts";

const web = { name: "web", segment: "apps", addresses: [address("10.1.0.2"), address("fd01::2")] };
const db = { name: "db", segment: "data", addresses: [address("10.2.0.2"), address("fd02::2")] };

// ── Connect ──────────────────────────────────────────────────────────────────────────────────────────────────────

test("connect gives each side a stand-in and the names, both ways, in both families", async () => {
  const house = openHouse({ services: [web, db] });
  assert.equal(await house.isolation.connect({ name: "web", peers: ["db"] }), [
    { peer: "db", state: "active" },
  ]);
  const { routes } = house.committed.plan!;
  assert.is(routes.length, 4);
  const [there, back] = ["10.1.0.2", "10.2.0.2"].map((from) => routes.find((each) => each.source === from)!);
  assert.equal([there!.device, there!.target, there!.targetDevice], ["br-apps", "10.2.0.2", "br-data"]);
  assert.equal([there!.standin, there!.sourceStandin], [back!.sourceStandin, back!.standin]);
  assert.is(resolve(house, "10.1.0.2", "db"), there!.standin);
  assert.is(resolve(house, "10.2.0.2", "web"), back!.standin);
  assert.match(resolve(house, "10.1.0.2", "db", "AAAA"), /^fd00:6a7e::/);
  assert.ok(there!.standin.startsWith("198.1"));
});

test("connect: direction and ports hold as they were said, and more of them adds up", async () => {
  const house = openHouse({ services: [web, db] });
  await house.isolation.connect({ name: "web", peers: ["db"], direction: "out", ports: ["tcp/5432"] });
  const only = (family: string) => flows(house.committed.plan!).filter((each) => each.startsWith(family));
  assert.equal(only("10."), ['10.1.0.2 > 10.2.0.2 ["tcp",5432,5432]']);
  assert.is(resolve(house, "10.2.0.2", "web"), "missing");
  await house.isolation.connect({ name: "db", peers: ["web"], direction: "in", ports: ["tcp/5433", "icmp"] });
  assert.equal(only("10."), ['10.1.0.2 > 10.2.0.2 ["icmp"]["tcp",5432,5433]']);
  await house.isolation.connect({ name: "db", peers: ["web"], direction: "in" });
  assert.equal(only("10."), ["10.1.0.2 > 10.2.0.2"]);
});

test("defect: a peer that is not there yet is no lost connect; it is kept, shown, and completes by itself", async () => {
  const house = openHouse({ services: [web] });
  assert.equal(await house.isolation.connect({ name: "web", peers: ["late"] }), [
    { peer: "late", state: "pending" },
  ]);
  assert.is(resolve(house, "10.1.0.2", "late"), "missing");
  assert.is(house.committed.plan!.routes.length, 0);
  assert.equal(house.isolation.wanted(), ["late"]);
  const { changes } = house;
  host(house.isolation, "br-data", "late", "10.2.0.9");
  assert.ok(house.changes > changes, "the change is told");
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.9", "10.2.0.9 > 10.1.0.2"]);
  assert.match(resolve(house, "10.1.0.2", "late"), /^198\.1[89]\./);
});

test("defect: a failed connect can be said again, and is then made", async () => {
  const house = openHouse({ services: [web, db] });
  house.refusals.push(new Fault("kernel", "Cannot enforce: no"));
  const fault = await faultOf(house.isolation.connect({ name: "web", peers: ["db"] }));
  assert.equal(fault, { code: "kernel", message: "Cannot enforce: no" });
  assert.is(resolve(house, "10.1.0.2", "db"), "missing");
  assert.is(house.isolation.plan().routes.length, 0);
  await house.isolation.connect({ name: "web", peers: ["db"] });
  assert.is(house.committed.plan!.routes.length, 4);
});

test("connect: what the disk refuses is in force, and said", async () => {
  const house = openHouse({ services: [web, db] });
  house.refusals.push(new Fault("storage", "Cannot save: full"));
  assert.is((await faultOf(house.isolation.connect({ name: "web", peers: ["db"] }))).code, "storage");
  assert.is(house.isolation.plan().routes.length, 4);
});

test("connect: duplicates from both sides at once share one commit and one pair", async () => {
  const house = openHouse({ services: [web, db] });
  const calls = Array.from({ length: 50 }, (_, at) =>
    house.isolation.connect(at % 2 ? { name: "web", peers: ["db", "db"] } : { name: "db", peers: ["web"] }),
  );
  await Promise.all(calls);
  assert.is(house.committed.count, 1);
  assert.is(house.isolation.parts.connects.size, 1);
  assert.is(house.committed.plan!.routes.length, 4);
  assert.is(house.isolation.parts.standIns.size, 2, "concurrent connects leak no stand-ins");
});

test("connect waits for the kernel: no answer before the commit", async () => {
  let release = () => {};
  const house = openHouse({
    services: [web, db],
    commit: () => new Promise((resolved) => (release = resolved)),
  });
  let isAnswered = false;
  const connecting = house.isolation.connect({ name: "web", peers: ["db"] }).then(() => (isAnswered = true));
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  assert.not(isAnswered);
  release();
  await connecting;
});

test("connect: one call that makes no sense does not fail the others of its turn, and changes nothing", async () => {
  const house = openHouse({ services: [web, db] });
  const wrong = house.isolation.connect({ name: "web", peers: ["db", "bad name"] });
  const right = house.isolation.connect({ name: "web", peers: ["other"] });
  assert.is((await faultOf(wrong)).code, "invalid");
  await right;
  assert.equal(
    [...house.isolation.parts.connects.of("web")].map(({ one, other }) => `${one} ${other}`),
    ["other web"],
  );
});

test("names that are none are refused with a typed error: unicode, 255 bytes, addresses, spaces, itself", async () => {
  const house = openHouse();
  const long = `${"a".repeat(63)}.${"b".repeat(63)}.${"c".repeat(63)}.${"d".repeat(63)}`;
  const bad = [
    "",
    ".",
    "é",
    "ｅ",
    "\u212a",
    "a b",
    "a\nb",
    "a\0",
    "-a",
    "a-",
    "a..b",
    "10.0.0.1",
    "::1",
    long,
    "a".repeat(64),
  ];
  for (const name of [...bad, "*", "*.", "*.lan", "*.local", "a*.example.com", "me", 7, null, {}]) {
    assert.is(
      (await faultOf(house.isolation.connect({ name: "me", peers: [name] }))).code,
      "invalid",
      String(name),
    );
  }
  for (const name of [
    "__proto__",
    "constructor",
    "x_1",
    "a.lan",
    "A.b.Example.COM.",
    `${"a".repeat(63)}.b`,
  ]) {
    await house.isolation.connect({ name: "me", peers: [name] });
  }
  assert.is(house.isolation.parts.connects.size, 6);
});

// ── Disconnect ───────────────────────────────────────────────────────────────────────────────────────────────────

test("disconnect ends everything of a service, or one pair", async () => {
  const house = openHouse({ services: [web, db] });
  await house.isolation.connect({ name: "web", peers: ["db", "third", "*.example.com"] });
  assert.equal(await house.isolation.disconnect({ name: "web", peer: "third" }), ["third"]);
  assert.is(house.isolation.parts.connects.size, 2);
  assert.equal([...(await house.isolation.disconnect({ name: "WEB." }))].sort(), ["*.example.com", "db"]);
  assert.equal(house.committed.plan!.routes, []);
  assert.is(house.isolation.parts.connects.size, 0);
  assert.is(house.isolation.parts.standIns.size, 0);
  assert.equal(house.isolation.wanted(), [], "nobody is looked for any more");
  assert.equal(await house.isolation.disconnect({ name: "web" }), [], "again is no fault");
});

test("disconnect of a service takes the privilege that a call gave it, and where it was told to be", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["app"] });
  await house.isolation.privilege("app");
  await house.isolation.restart({ name: "app", old: undefined, new: address("10.2.0.5") });
  assert.match(resolve(house, "10.2.0.5", "web"), /^198\.1/);
  await house.isolation.disconnect({ name: "app" });
  assert.is(resolve(house, "10.2.0.5", "web"), "missing");
  await house.isolation.connect({ name: "web", peers: ["app"] });
  assert.is(
    resolve(house, "10.2.0.5", "web"),
    "missing",
    "who is installed next with this name is looked for anew",
  );
});

test("disconnect: what the kernel refuses is as it was, with the same stand-ins", async () => {
  const house = openHouse({ services: [web, db] });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  const before = house.committed.plan;
  house.refusals.push(new Fault("kernel", "Cannot enforce: no"));
  await faultOf(house.isolation.disconnect({ name: "web" }));
  assert.equal(house.isolation.plan().routes, before!.routes);
});

test("a pair of the configuration that was disconnected stays so after a restart, until connected again", async () => {
  const services = [{ ...web, peers: ["db"] }, db];
  const house = openHouse({ services });
  assert.is(house.isolation.plan().routes.length, 4);
  await house.isolation.disconnect({ name: "db" });
  const after = openHouse({ services, saved: house.committed.state });
  assert.is(after.isolation.plan().routes.length, 0);
  await after.isolation.connect({ name: "db", peers: ["web"] });
  const last = openHouse({ services, saved: after.committed.state });
  assert.is(last.isolation.plan().routes.length, 4);
  await last.isolation.disconnect({ name: "db" });
  await last.isolation.connect({ name: "db", peers: ["web"], direction: "out" });
  const part = openHouse({ services, saved: last.committed.state });
  assert.equal(flows(part.isolation.plan()).length, 2, "what was connected since, and no more");
});

test("what only the configuration gave is not stored: it goes when the configuration does", async () => {
  const house = openHouse({ services: [{ ...web, peers: ["db"] }, db] });
  await house.isolation.connect({ name: "web", peers: ["third"] });
  const after = openHouse({ services: [web, db], saved: house.committed.state });
  assert.equal(
    [...after.isolation.parts.connects.all()].map(({ one, other }) => [one, other]),
    [["third", "web"]],
  );
});

// ── Restart and evidence ─────────────────────────────────────────────────────────────────────────────────────────

test("defect #230: a service that restarts with another address is followed without being told", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["app"] });
  host(house.isolation, "br-data", "app", "10.2.0.5");
  const before = resolve(house, "10.1.0.2", "app");
  // The old lease is still there, and is told again and again.
  house.isolation.seen({
    device: "br-data",
    address: address("10.2.0.6"),
    source: "dhcp",
    hostname: "app",
    mac: macOf("new"),
  });
  host(house.isolation, "br-data", "app", "10.2.0.5");
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.6", "10.2.0.6 > 10.1.0.2"]);
  assert.is(resolve(house, "10.1.0.2", "app"), before, "under the same stand-in");
  assert.is(resolve(house, "10.2.0.5", "web"), "missing", "the old address is nobody's");
  house.isolation.gone({ device: "br-data", address: address("10.2.0.6") });
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.5", "10.2.0.5 > 10.1.0.2"]);
});

test("restart is followed when told, by name or by the old address, and not to where no service can be", async () => {
  const house = openHouse({ services: [web, db] });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  const move = { name: "db", old: address("10.2.0.2"), new: address("10.2.0.77") };
  assert.is(await house.isolation.restart(move), "db");
  assert.ok(flows(house.committed.plan!).includes("10.1.0.2 > 10.2.0.77"));
  assert.is(resolve(house, "10.2.0.2", "web"), "missing");
  const other = { name: "whoever", old: address("10.2.0.77"), new: address("10.2.0.78") };
  assert.is(await house.isolation.restart(other), "db");
  assert.ok(flows(house.committed.plan!).includes("10.2.0.78 > 10.1.0.2"));
  for (const bad of ["127.0.0.1", "224.0.0.1", "198.18.0.9", "169.254.1.1", "255.255.255.255"]) {
    const fault = await faultOf(house.isolation.restart({ name: "db", old: undefined, new: address(bad) }));
    assert.is(fault.code, "invalid", bad);
  }
});

test("restart holds until the service is seen elsewhere later, by host name or by MAC", async () => {
  const services = [web, { name: "cam", segment: "data", mac: macOf("cam") }];
  const house = openHouse({ services });
  await house.isolation.connect({ name: "web", peers: ["cam", "app"], direction: "out" });
  for (const [name, at] of [
    ["cam", "10.2.0.2"],
    ["app", "10.2.0.3"],
  ] as const) {
    const see = (text: string) =>
      house.isolation.seen({
        device: "br-data",
        address: address(text),
        source: "dhcp",
        hostname: name,
        mac: macOf(name),
      });
    const targets = () =>
      house.isolation.plan().routes.flatMap(({ target }) => (target.startsWith(at) ? [target] : []));
    see(at);
    await house.isolation.restart({ name, old: address(at), new: address(`${at}0`) });
    see(at);
    assert.equal(targets(), [`${at}0`], "the old lease is no news");
    see(`${at}1`);
    assert.equal(targets(), [`${at}1`], name);
  }
});

test("restart into an address of another service takes it: an address is one service's", async () => {
  const house = openHouse({
    services: [web, db, { name: "c", segment: "data", addresses: [address("10.2.0.3")] }],
  });
  await house.isolation.connect({ name: "web", peers: ["db", "c"] });
  await house.isolation.restart({ name: "db", old: undefined, new: address("10.2.0.3") });
  const targets = house.committed.plan!.routes.filter((each) => each.target === "10.2.0.3");
  assert.is(new Set(targets.map(({ standin }) => standin)).size, 1);
  assert.is(house.isolation.parts.services.get("c"), undefined);
});

test("defect #230: an address that another container takes over gives it nothing of the first one's", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["app"] });
  host(house.isolation, "br-data", "app", "10.2.0.5");
  host(house.isolation, "br-data", "evil", "10.2.0.5");
  assert.equal(house.isolation.plan().routes, []);
  assert.is(resolve(house, "10.2.0.5", "web"), "missing");
});

test("defects #187, #204: state of an earlier life is names: nobody is at an old address after a reboot", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["app"] });
  host(house.isolation, "br-data", "app", "10.2.0.5");
  await house.isolation.settled();
  assert.not.match(JSON.stringify(house.committed.state), /10\.[12]\.0\./);
  const after = openHouse({ services: [web], saved: house.committed.state });
  assert.equal(after.isolation.plan().routes, []);
  host(after.isolation, "br-data", "app", "10.2.0.6");
  assert.equal(flows(after.isolation.plan()), ["10.1.0.2 > 10.2.0.6", "10.2.0.6 > 10.1.0.2"]);
});

test("a service is known by MAC wherever it goes on its segment, and nowhere else", async () => {
  const byMac = { name: "cam", segment: "data", mac: macOf("cam") };
  const house = openHouse({ services: [web, byMac] });
  await house.isolation.connect({ name: "web", peers: ["cam"] });
  const see = (device: string, text: string) =>
    house.isolation.seen({ device, address: address(text), source: "neighbour", mac: macOf("cam") });
  see("br-apps", "10.1.0.66");
  assert.equal(house.isolation.plan().routes, []);
  see("br-data", "10.2.0.7");
  see("br-data", "fd02::7");
  see("br-data", "fe80::7");
  assert.equal(flows(house.isolation.plan()).sort(), [
    "10.1.0.2 > 10.2.0.7",
    "10.2.0.7 > 10.1.0.2",
    "fd01::2 > fd02::7",
    "fd02::7 > fd01::2",
  ]);
  assert.match(
    JSON.stringify(house.isolation.answer("br-data", address("fe80::7"), { name: "web", type: 1 })),
    /198\.1/,
    "it may ask by its link-local address",
  );
});

test("who answers for an address that DHCP gave to another gets neither address nor permission", async () => {
  const house = openHouse({ services: [web, { name: "cam", segment: "data", mac: macOf("cam") }] });
  await house.isolation.connect({ name: "web", peers: ["cam"] });
  house.isolation.seen({
    device: "br-data",
    address: address("10.2.0.7"),
    source: "dhcp",
    mac: macOf("cam"),
  });
  const before = flows(house.isolation.plan());
  house.isolation.seen({
    device: "br-data",
    address: address("10.2.0.7"),
    source: "neighbour",
    mac: macOf("evil"),
  });
  assert.equal(flows(house.isolation.plan()), before);
});

test("no host name takes the place of a declared service, the router, or one on another segment", async () => {
  const house = openHouse({ services: [web, { ...db, aliases: ["database"] }] });
  await house.isolation.connect({ name: "web", peers: ["db", "app", "databox-network"] });
  for (const name of ["db", "DB", "database", "databox-network", "localhost", "api.example.com"]) {
    host(house.isolation, "br-data", name, "10.2.0.66");
    assert.is(house.isolation.parts.services.at("br-data", address("10.2.0.66")), undefined, name);
  }
  host(house.isolation, "br-data", "app", "10.2.0.5");
  host(house.isolation, "br-system", "app", "10.9.0.66");
  assert.equal(house.isolation.parts.services.get("app")!.places[4], [
    { device: "br-data", address: "10.2.0.5" },
  ]);
  house.isolation.gone({ device: "br-data", address: address("10.2.0.5") });
  assert.is(
    house.isolation.parts.services.get("app"),
    undefined,
    "its segment is kept while it is connected",
  );
});

test("interfaces come and go: pairs wait and go on, without anybody saying so", async () => {
  const house = openHouse({ services: [web, db], isDown: true });
  await house.isolation.connect({ name: "web", peers: ["db"] });
  assert.is(house.committed.plan!.routes.length, 0);
  upLink(house.isolation, "br-apps");
  upLink(house.isolation, "br-data");
  assert.is(house.isolation.plan().routes.length, 4);
  house.isolation.linkDown("br-data");
  assert.is(house.isolation.plan().routes.length, 0);
  house.isolation.linkDown("br-data");
  upLink(house.isolation, "br-data");
  assert.is(house.isolation.plan().routes.length, 4);
});

test("defect: names of interfaces mean nothing, and an unknown one that goes ends nothing", () => {
  const house = openHouse({ services: [web, db] });
  house.isolation.linkDown("eth7");
  house.isolation.linkUp({
    device: "eth0",
    addresses: [{ address: address("10.44.0.1"), prefixLength: 24 }],
  });
  assert.is(house.isolation.plan().segments.length, 3);
  assert.equal(house.isolation.plan().segments[0]!.prefixes, ["10.1.0.0/24", "fd01::/64"]);
});

test("networks that overlap: an address is one service's, wherever else it is claimed, and the plan stays sound", async () => {
  const twin = { name: "twin", segment: "system", mac: macOf("twin") };
  const house = openHouse({ services: [web, db, twin] });
  await house.isolation.connect({ name: "db", peers: ["web", "twin", "app"] });
  house.isolation.linkUp({
    device: "br-system",
    addresses: [{ address: address("10.1.0.254"), prefixLength: 16 }],
  });
  const see = (text: string) =>
    house.isolation.seen({ device: "br-system", address: address(text), source: "dhcp", mac: macOf("twin") });
  see("10.1.0.2");
  assert.equal(house.isolation.parts.services.get("web")!.places[4], [
    { device: "br-apps", address: "10.1.0.2" },
  ]);
  assert.is(house.isolation.parts.services.get("twin"), undefined);
  host(house.isolation, "br-apps", "app", "10.1.0.7");
  see("10.1.0.7");
  await house.isolation.settled();
  assert.equal(house.isolation.parts.services.get("app")!.places[4], [
    { device: "br-apps", address: "10.1.0.7" },
  ]);
  house.isolation.gone({ device: "br-apps", address: address("10.1.0.7") });
  see("10.1.0.8");
  await house.isolation.settled();
  assert.ok(flows(house.committed.plan!).includes("10.1.0.8 > 10.2.0.2"));
});

test("MACs that are nobody's tie nothing together", async () => {
  const house = openHouse({ services: [web] });
  await house.isolation.connect({ name: "web", peers: ["app"] });
  const none = { device: "br-data", source: "dhcp", mac: "00:00:00:00:00:00" as never } as const;
  house.isolation.seen({ ...none, address: address("10.2.0.5"), hostname: "app" });
  house.isolation.seen({ ...none, address: address("10.2.0.6") });
  assert.equal(flows(house.isolation.plan()), ["10.1.0.2 > 10.2.0.5", "10.2.0.5 > 10.1.0.2"]);
});

// ── What contradicts itself ──────────────────────────────────────────────────────────────────────────────────────

test("privileged: an address that is a service's on one device is nobody's guest on another with the same network", async () => {
  const segments = [
    { name: "one", devices: ["br-one"] },
    { name: "two", devices: ["br-two"] },
  ];
  const x = { name: "x", segment: "one", addresses: [address("10.0.0.5")] };
  const y = { name: "y", segment: "two", addresses: [address("10.0.0.6")] };
  const house = openHouse({ segments, services: [x, y], isDown: true });
  // The net is set to the last device first.
  for (const device of ["br-two", "br-one"])
    house.isolation.linkUp({ device, addresses: [{ address: address("10.0.0.1"), prefixLength: 24 }] });
  assert.is(house.isolation.parts.segments.deviceOf(address("10.0.0.5")), "br-two");
  await house.isolation.connect({ name: "x", peers: ["y"] });
  await house.isolation.privilege("10.0.0.5");
  assert.ok(house.committed.plan!.routes.some(({ source }) => source === "10.0.0.5"));
  assert.equal(
    house.committed.plan!.routes.filter(({ device, source }) => source === "10.0.0.5" && device !== "br-one"),
    [],
  );
});

// ── Commits ──────────────────────────────────────────────────────────────────────────────────────────────────────

test("commit: it is said whether something may be taken away; after a refusal it may", async () => {
  const said: boolean[] = [];
  const refusals: unknown[] = [];
  const house = openHouse({
    services: [web, db],
    commit: async ({ isMore }) => {
      said.push(isMore);
      house.isolation.plan();
      const refusal = refusals.shift();
      if (refusal !== undefined) throw refusal;
    },
  });
  const last = async (work: () => Promise<unknown>) => {
    said.length = 0;
    await work().catch(() => {});
    return [...said];
  };
  const { isolation } = house;
  assert.equal(
    await last(() => isolation.settled()),
    [false],
    "of what is in force nothing is known at first",
  );
  assert.equal(await last(() => isolation.connect({ name: "web", peers: ["db"] })), [true]);
  assert.equal(await last(() => isolation.connect({ name: "web", peers: ["late", "*.example.com"] })), [
    true,
  ]);
  assert.equal(await last(() => isolation.disconnect({ name: "web", peer: "db" })), [false]);
  assert.equal(await last(() => isolation.privilege("web")), [false]);
  assert.equal(await last(() => isolation.unprivilege("web")), [false]);
  host(isolation, "br-data", "late", "10.2.0.9");
  assert.equal(await last(() => isolation.connect({ name: "web", peers: ["x"] })), [false], "somebody moved");
  refusals.push(new Fault("kernel", "Cannot enforce: no"));
  assert.equal(
    await last(() => isolation.connect({ name: "web", peers: ["db"] })),
    [true, false],
    "taken back",
  );
  refusals.push(new Fault("storage", "Cannot save: full"));
  assert.equal(await last(() => isolation.connect({ name: "web", peers: ["db"] })), [true]);
  assert.equal(await last(() => isolation.settled()), [false], "what was not stored is stored now");
});

test("idle: nothing is under way any more, not even what is taken back", async () => {
  let release = () => {};
  const done: string[] = [];
  const house = openHouse({
    services: [web, db],
    commit: async () => {
      done.push("begun");
      await new Promise<void>((resolve) => (release = resolve));
      done.push("ended");
      if (done.length === 2) throw new Fault("kernel", "Cannot enforce: no");
    },
  });
  const connecting = faultOf(house.isolation.connect({ name: "web", peers: ["db"] }));
  await Promise.resolve().then(() => {});
  let isIdle = false;
  const idle = house.isolation.idle().then(() => (isIdle = true));
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  assert.equal([done, isIdle], [["begun"], false]);
  release();
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  assert.equal([done, isIdle], [["begun", "ended", "begun"], false]);
  release();
  await idle;
  assert.equal(done, ["begun", "ended", "begun", "ended"]);
  assert.is((await connecting).code, "kernel");
});

test.run();
