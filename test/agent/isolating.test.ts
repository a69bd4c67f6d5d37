/** Isolation joined to a machine in memory: what netifd, access points, rtnetlink and connections tell, and commits. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Isolating } from "../../src/agent/isolating.ts";
import { loadConfig } from "../../src/config/config.ts";
import { addressRecord, openDnsServer, yes } from "../../src/dns/dns.ts";
import {
  type Delta,
  type IsolationPlan,
  isolatedOf,
  type Kernel,
  type Link,
} from "../../src/kernel/kernel.ts";
import { type Address, type Mac, parseAddress, parseMac } from "../../src/lib/address.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { Machine } from "../fake/machine.ts";
import { FakeBus, settle } from "./bus.ts";

const address = (text: string): Address => parseAddress(text)!;
const phone = parseMac("02:00:00:00:00:07") as Mac;

const configuration = `
config isolation 'isolation'
	option enabled '1'

config segment 'apps'
	list device 'br-apps'

config segment 'guests'
	list network 'guest'
	list network 'guest6'

config service 'web'
	option segment 'apps'
	list address '10.1.0.2'

config service 'cam'
	option segment 'guests'
	list address '10.7.0.2'

config service 'phone'
	option segment 'guests'
	option mac '${phone}'
`;

/** A kernel that takes every plan that makes sense. */
class FakeKernel {
  plan: IsolationPlan | undefined;
  readonly commits: { readonly durable: boolean | undefined }[] = [];
  /** Taken only when this ends. */
  gate: Promise<void> = Promise.resolve();

  async apply(_: string, plan: IsolationPlan, { durable }: { durable?: boolean } = {}): Promise<void> {
    isolatedOf(plan);
    await this.gate;
    this.plan = plan;
    this.commits.push({ durable });
  }
}

const links: readonly Link[] = [
  { ifindex: 1, name: "br-apps", up: true, running: true, kind: "bridge" },
  { ifindex: 2, name: "br-guest", up: true, running: true, kind: "bridge" },
  { ifindex: 3, name: "wlan0", up: true, running: true, master: 2 },
];

async function open({ machine = new Machine(), text = configuration, dump }: Opened = {}) {
  const [bus, kernel] = [new FakeBus(), new FakeKernel()];
  if (dump) bus.answers.set("network.interface dump", { interface: dump });
  const isolating = await Isolating.open(machine, loadConfig(text).config, {
    kernel: kernel as unknown as Kernel,
    ubus: bus.ubus,
  });
  for (const link of links) isolating.link(link, true);
  for (const [ifindex, own] of [
    [1, "10.1.0.1"],
    [2, "10.7.0.1"],
  ] as const)
    isolating.address({ ifindex, address: address(own), prefixLength: 24, flags: 0 }, true);
  await isolating.begin();
  const call = async (method: string, args: JsonObject) =>
    isolating.methods[method]!.call(args, { user: "root", group: "root" } as never);
  const devices = () => kernel.plan!.segments.map((each) => `${each.name}: ${each.devices}`);
  const routes = () => kernel.plan!.routes.map(({ source, target }) => `${source} > ${target}`).sort();
  const neighbour = (last: number, mac: Mac, isThere = true) =>
    isolating.neighbour(
      { ifindex: 2, address: address(`10.7.0.${last}`), mac, state: "reachable", router: false },
      isThere,
    );
  /** Netifd has something else now. */
  const netifd = async (...all: JsonObject[]) => {
    bus.answers.set("network.interface dump", { interface: all });
    await bus.event("network.interface");
    await settle();
  };
  return { machine, bus, kernel, isolating, call, devices, routes, neighbour, netifd };
}

interface Opened {
  readonly machine?: Machine;
  readonly text?: string;
  readonly dump?: JsonObject[];
}

const guest = { interface: "guest", up: true, l3_device: "br-guest", device: "br-guest" };
const guest6 = { interface: "guest6", up: true, l3_device: "br-guest", device: "@guest" };

// ── Networks ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("a segment has the devices of its networks, and what was known of them before", async () => {
  const { devices, call, routes, neighbour, netifd, isolating } = await open();
  neighbour(9, phone);
  isolating.leases([{ address: address("10.7.0.8"), mac: parseMac("02:00:00:00:00:08")!, name: "tv" }]);
  await call("connect", { name: "web", peers: ["cam", "phone", "tv"] });
  assert.equal([devices(), routes()], [["apps: br-apps"], []]);
  await netifd({ interface: "lan", up: true, l3_device: "br-lan" }, guest, guest6);
  assert.equal(devices(), ["apps: br-apps", "guests: br-guest"]);
  assert.equal(
    routes().filter((each) => each.startsWith("10.1.0.2")),
    ["10.1.0.2 > 10.7.0.2", "10.1.0.2 > 10.7.0.8", "10.1.0.2 > 10.7.0.9"],
  );
  await isolating.close();
});

test("a network that is down keeps its device guarded; one that is on another, or is gone, lets it go", async () => {
  const { devices, netifd, isolating } = await open({ dump: [guest] });
  await settle();
  assert.equal(devices(), ["apps: br-apps", "guests: br-guest"]);
  await netifd({ interface: "guest", up: false, device: "eth1" });
  assert.equal(devices(), ["apps: br-apps", "guests: br-guest"]);
  await netifd({ ...guest, l3_device: "eth0.7" });
  assert.equal(devices(), ["apps: br-apps", "guests: eth0.7"]);
  await netifd({ ...guest, l3_device: "eth0.7" }, { ...guest6, l3_device: "eth0.8" });
  assert.equal(devices(), ["apps: br-apps", "guests: eth0.7,eth0.8"]);
  await netifd({ ...guest, l3_device: 'x"; drop' }, { ...guest6, l3_device: "br-apps" });
  assert.equal(
    devices(),
    ["apps: br-apps", "guests: eth0.7,eth0.8"],
    "what is no name, and what another has",
  );
  await netifd({ interface: "lan", up: true, l3_device: "eth0.7" });
  assert.equal(devices(), ["apps: br-apps"]);
  await isolating.close();
});

test("after a restart a network's device is guarded before netifd answers; unless it is configured no more", async () => {
  const machine = new Machine();
  const first = await open({ machine, dump: [guest] });
  await settle();
  await first.call("connect", { name: "web", peers: ["cam"] });
  await first.isolating.close();
  const second = await open({ machine });
  assert.equal(second.devices(), ["apps: br-apps", "guests: br-guest"]);
  assert.equal(second.routes(), ["10.1.0.2 > 10.7.0.2", "10.7.0.2 > 10.1.0.2"]);
  await second.isolating.close();
  const text = configuration
    .replace(/\tlist network 'guest6?'\n/g, "")
    .replace("'guests'\n", "'guests'\n\tlist device 'eth9'\n");
  const third = await open({ machine, text });
  assert.equal(third.devices(), ["apps: br-apps", "guests: eth9"]);
  assert.not(third.bus.calls.includes("network.interface dump"));
  await third.isolating.close();
});

// ── Stations ─────────────────────────────────────────────────────────────────────────────────────────────────────

test("a station keeps its address while it is there, and is looked for when it comes", async () => {
  const { bus, machine, isolating, call, neighbour } = await open({ dump: [guest] });
  const one = { auth: true, assoc: true, authorized: true };
  bus.answers.set("hostapd.wlan0 get_clients", { clients: { [phone]: one } });
  await bus.event("ubus.object.add", { path: "hostapd.wlan0" });
  const state = async () => {
    const { services } = (await call("list", { name: "phone" })) as { services: { state: string }[] };
    return services[0]!.state;
  };
  neighbour(9, phone);
  assert.is(await state(), "active");
  const asked = () => machine.sockets.reduce((sum, { sent }) => sum + sent.length, 0);
  let before = asked();
  neighbour(9, phone, false);
  assert.ok(asked() > before, "whoever the kernel has dropped is asked for");
  assert.is(await state(), "active");
  assert.is(isolating.status.stations, 1);
  // Nobody answered.
  await machine.advance(10_000);
  before = asked();
  await bus.say("hostapd.wlan0", "sta-authorized", { address: phone });
  assert.ok(asked() > before, "the kernel is asked for its address");
  await bus.say("hostapd.wlan0", "disassoc", { address: phone });
  assert.is(await state(), "pending");
  await isolating.close();
  assert.equal(bus.followed, []);
});

// ── Commits ──────────────────────────────────────────────────────────────────────────────────────────────────────

test("what is only given may lag in the boot text; what is taken may not", async () => {
  const { call, kernel, isolating } = await open();
  assert.equal(kernel.commits.splice(0), [{ durable: true }]);
  await call("connect", { name: "web", peers: ["cam"] });
  assert.equal(kernel.commits.splice(0), [{ durable: false }]);
  await call("disconnect", { name: "web", peer: "cam" });
  assert.equal(kernel.commits.splice(0), [{ durable: true }]);
  await isolating.close();
});

test("close waits for a commit that has begun", async () => {
  const { kernel, isolating, neighbour } = await open({ dump: [guest] });
  await settle();
  let release = () => {};
  kernel.gate = new Promise((resolve) => (release = resolve));
  const { commits } = kernel;
  const before = commits.length;
  isolating.leases([{ address: address("10.7.0.9"), mac: phone, name: "phone" }]);
  neighbour(9, phone);
  isolating.link({ ...links[1]!, up: false }, true);
  await settle();
  let isClosed = false;
  const closing = isolating.close().then(() => (isClosed = true));
  await settle();
  assert.not(isClosed);
  release();
  await closing;
  assert.is(commits.length, before + 1);
});

test("subscribers hear of pairs whose sides come and go, each once", async () => {
  const { bus, call, isolating, neighbour } = await open({ dump: [guest] });
  await settle();
  await call("connect", { name: "web", peers: ["phone", "cam", "api.example.com"] });
  assert.equal(bus.told.splice(0), [], "who asked is answered");
  neighbour(9, phone);
  await settle();
  assert.equal(bus.told.splice(0), ["active phone web"]);
  isolating.link({ ...links[1]!, up: false }, true);
  await settle();
  assert.equal(bus.told.splice(0).sort(), ["pending cam web", "pending phone web"]);
  isolating.link(links[1]!, true);
  await settle();
  assert.equal(bus.told.splice(0).sort(), ["active cam web", "active phone web"]);
  await isolating.close();
});

// ── Names outside ────────────────────────────────────────────────────────────────────────────────────────────────

test("an idle connection to an address outside survives that its name has another, as long as TCP keeps it", async () => {
  const machine = new Machine();
  let target = address("93.184.216.34");
  const server = await openDnsServer(machine, {
    places: [{ address: address("127.0.0.1"), port: 53 }],
    answer: ({ question: { name, type } }) => yes(type === 1 ? [addressRecord(name, target, 60)] : []),
  });
  const { call, kernel, isolating } = await open({ machine });
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 60_000) {
      await machine.advance(Math.min(left, 60_000));
      isolating.tick();
      await settle();
    }
  };
  await call("connect", { name: "web", peers: ["api.example.com"] });
  await pass(1_000);
  const targets = () => kernel.plan!.outside.map((each) => each.target);
  assert.equal(targets(), ["93.184.216.34"]);
  const old = target;
  const { standin } = kernel.plan!.outside[0]!;
  const delta = (destination: Address, source: Address) =>
    ({ status: 1 << 5, destination, reply: { source } }) as unknown as Delta;
  isolating.traffic([delta(standin, old)]);
  // What services say to each other is no reason to forget whom they speak with outside.
  const local = Array.from({ length: 40_000 }, (_, at) =>
    delta(standin, address(`10.1.0.${2 + (at % 250)}`)),
  );
  isolating.traffic(local);
  const wide = Array.from({ length: 20_000 }, (_, at) =>
    delta(standin, address(`10.64.${at >> 8}.${at & 255}`)),
  );
  isolating.address({ ifindex: 1, address: address("10.127.0.1"), prefixLength: 9, flags: 0 }, true);
  isolating.traffic(wide);
  target = address("93.184.216.35");
  await pass(7_260_000);
  assert.equal(targets().sort(), ["93.184.216.34", "93.184.216.35"]);
  await pass(600_000);
  assert.equal(targets(), ["93.184.216.35"]);
  await isolating.close();
  await server.close();
});

test.run();
