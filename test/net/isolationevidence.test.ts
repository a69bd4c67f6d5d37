/** Isolation by what netifd and access points say, over a real bus, with the agent in a router. */

import { rmSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import type { Methods } from "../../src/ubus/methods.ts";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { eventually } from "../lab/children.ts";
import { joinBus } from "../lab/network.ts";
import { cam, renderIsolation, Town } from "../lab/services.ts";
import { paths } from "../lab/topology.ts";

let town: Town;
let ubus: Ubus;
/** What netifd has, and who is at the access point that cam's cable is taken for. */
let interfaces: JsonObject[] = [];
let clients: JsonObject = {};

/** An object with one method. */
const answering = (method: string, answer: () => Json): Methods => ({
  [method]: { args: {}, access: "read", doc: "", call: answer },
});
const iot = { interface: "iot", up: true, l3_device: "br-iot", device: "br-iot", proto: "static" };
const devices = async () => {
  const { segments } = (await town.call("status")) as {
    segments: { name: string; devices: { device: string }[] }[];
  };
  return segments
    .find(({ name }) => name === "iot")!
    .devices.map(({ device }) => device)
    .join();
};

test.before(async () => {
  town = await Town.up();
  await town.lab.agent.stop();
  for (const suffix of ["", ".old", ".copy"])
    rmSync(`${paths.state}/isolation.json${suffix}`, { force: true });
  town.lab.configure(renderIsolation({}).replace("list device 'br-iot'", "list network 'iot'"));
  ubus = joinBus(paths.bus);
});

test.after(async () => {
  ubus?.close();
  await town?.close();
});

test("a segment of a network has its device as soon as netifd says so, and keeps it over a restart", async () => {
  await town.lab.agent.start();
  assert.is(await devices(), "");
  await town.connect("web", ["lamp"]);
  assert.is((await town.known("lamp")).state, "pending");
  // netifd starts after the agent here, and says nothing of interfaces at first.
  await ubus.publish(
    "network.interface",
    answering("dump", () => ({ interface: interfaces })),
  ).done;
  interfaces = [{ interface: "loopback", up: true, l3_device: "lo" }, iot];
  await ubus.send("network.interface", { action: "ifup", interface: "iot" });
  await eventually("its device", async () => (await devices()) === "br-iot");
  const standIns = await Promise.all(([4, 6] as const).map((family) => town.standIn("lamp", family)));
  for (const to of standIns) await eventually(`web at ${to}`, () => town.passes("web", { kind: "tcp", to }));
  assert.not(await town.passes("boss", { kind: "tcp", to: standIns[0]! }));
  assert.equal(
    await town.resolve("lamp", "web."),
    [await town.standIn("web", 4)],
    "its names are answered there",
  );
  // Before netifd is asked again, and while it says that the network is down.
  interfaces = [{ interface: "iot", up: false }];
  await town.lab.agent.restart();
  assert.is(await devices(), "br-iot");
  for (const to of standIns) await eventually(`web at ${to}`, () => town.passes("web", { kind: "tcp", to }));
  interfaces = [];
  await ubus.send("network.interface", { action: "ifdown", interface: "iot" });
  await eventually("no device", async () => (await devices()) === "");
  assert.is((await town.known("lamp")).state, "pending");
  interfaces = [iot];
  await ubus.notify("network.interface", "interface.update", { interface: "iot" });
  await eventually("its device", async () => (await devices()) === "br-iot");
});

test("a station is there until its access point says that it has left, whatever the neighbours say", async () => {
  const addresses = async () => (await town.known("cam")).addresses;
  const isKnown = async () => (await addresses()).includes(cam.address6);
  const forget = () => town.lab.must("router", ["ip", "-6", "neigh", "flush", "dev", "br-iot"]);
  const cable = (state: string) => town.lab.must("cam", ["ip", "link", "set", "eth0", state]);
  /** From the address in question: without that the router asks after the link-local one only. */
  const greet = () =>
    town.lab.exec("cam", [
      "sh",
      "-c",
      `ip -6 neigh flush dev eth0; ping -c 1 -W 0.3 -I ${cam.address6} fd32::1`,
    ]);
  const comes = () =>
    eventually("cam", async () => {
      await greet();
      return isKnown();
    });
  const goes = () =>
    eventually("its absence", async () => {
      await forget();
      return !(await isKnown());
    });
  await comes();
  // Whose entry is thrown away is asked for: it is there, and says so.
  await town.lab.must("router", ["ip", "-6", "neigh", "del", cam.address6, "dev", "br-iot"]);
  await eventually("its entry", async () => {
    const entries = await town.lab.must("router", [
      "ip",
      "-6",
      "neigh",
      "show",
      cam.address6,
      "dev",
      "br-iot",
    ]);
    return entries.includes(cam.mac);
  });
  await eventually("cam", isKnown);
  // Without an access point it goes with its neighbour; what it has by DHCP it keeps.
  await cable("down");
  await goes();
  assert.is((await addresses()).length, 1);
  await cable("up");
  await town.lab.must("cam", ["ip", "address", "replace", `${cam.address6}/64`, "dev", "eth0", "nodad"]);
  clients = { [cam.mac]: { auth: true, assoc: true, authorized: true } };
  await ubus.publish(
    "hostapd.cam",
    answering("get_clients", () => ({ freq: 5180, clients })),
  ).done;
  await comes();
  await eventually("the station", async () => {
    const said = (await town.lab.call("gatehouse", "status")) as { isolation: { stations: number } };
    return said.isolation.stations === 1;
  });
  await comes();
  // Asleep it answers nobody.
  await cable("down");
  await forget();
  // A commit that comes after: the neighbour's end has been heard by then.
  await town.connect("cam", ["web"]);
  assert.ok(await isKnown());
  clients = {};
  await ubus.notify("hostapd.cam", "disassoc", { address: cam.mac });
  await goes();
});

test.run();
