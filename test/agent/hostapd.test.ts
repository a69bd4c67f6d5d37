/** Access points on the bus: which stations are told to be there, on which device, and to have left it. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Stations } from "../../src/agent/hostapd.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { Machine } from "../fake/machine.ts";
import { FakeBus, settle } from "./bus.ts";

const phone = "02:00:00:00:00:07";
const tv = "02:00:00:00:00:08";

/** As hostapd answers, shortened. */
function clients(...macs: string[]): JsonObject {
  const one = {
    auth: true,
    assoc: true,
    authorized: true,
    wmm: true,
    rrm: [0, 0, 0, 0, 0],
    aid: 1,
    signal: -54,
  };
  return { freq: 5_180, clients: Object.fromEntries(macs.map((mac) => [mac, one])) };
}

function open(answers: Readonly<Record<string, JsonObject>> = {}) {
  const [bus, machine] = [new FakeBus(), new Machine()];
  const bridges = new Map([
    ["wlan0", "br-lan"],
    ["wlan1", "br-lan"],
  ]);
  for (const [name, answer] of Object.entries(answers))
    bus.answers.set(`hostapd.${name} get_clients`, answer);
  const told: string[] = [];
  const stations = new Stations(machine, bus.ubus, {
    deviceOf: (name) => bridges.get(name) ?? name,
    tell: ({ device, mac, isThere }) => told.push(`${isThere ? "+" : "-"} ${device} ${mac.slice(-2)}`),
  });
  const take = () => told.splice(0).sort();
  return { bus, machine, bridges, stations, take };
}

test("stations that are there at first are told, on the bridge of their access point or on itself", async () => {
  const { take, stations, bus } = open({ wlan0: clients(phone.toUpperCase()), "wlan2-1": clients(tv) });
  await settle();
  assert.equal(take(), ["+ br-lan 07", "+ wlan2-1 08"]);
  assert.is(stations.size, 2);
  stations.close();
  assert.equal(bus.followed, []);
});

test("an access point that comes is asked and followed; when it goes, its stations go", async () => {
  const { bus, take } = open();
  await settle();
  bus.answers.set("hostapd.wlan0 get_clients", clients(phone));
  await bus.event("ubus.object.add", { id: 7, path: "hostapd.wlan0" });
  await bus.event("ubus.object.add", { id: 8, path: "hostapd" });
  await bus.event("ubus.object.add", { id: 9, path: "network.wireless" });
  assert.equal(take(), ["+ br-lan 07"]);
  await bus.say("hostapd.wlan0", "sta-authorized", { address: tv, ifname: "wlan0", "auth-alg": "sae" });
  assert.equal(take(), ["+ br-lan 08"]);
  await bus.say("hostapd.wlan0", "deauth", { address: tv });
  assert.equal(take(), ["- br-lan 08"]);
  await bus.event("ubus.object.remove", { id: 7, path: "hostapd.wlan0" });
  assert.equal(take(), ["- br-lan 07"]);
  await bus.say("hostapd.wlan0", "assoc", { address: tv });
  assert.equal(take(), []);
});

test("whoever roams between two access points of one bridge is there all the time, and is told again", async () => {
  const { bus, take } = open({ wlan0: clients(phone), wlan1: clients() });
  await settle();
  take();
  await bus.say("hostapd.wlan1", "assoc", {
    address: phone,
    target: "02:aa:00:00:00:01",
    signal: -50,
    freq: 2_412,
  });
  await bus.say("hostapd.wlan0", "disassoc", { address: phone });
  assert.equal(take(), ["+ br-lan 07"]);
  await bus.say("hostapd.wlan1", "disassoc", { address: phone });
  assert.equal(take(), ["- br-lan 07"]);
});

test("who is not let through, has a VLAN of its own or no MAC is not told; nor what hostapd says besides", async () => {
  const some = {
    [phone]: { auth: true, assoc: true, authorized: false },
    [tv]: null,
    nobody: { authorized: true },
  };
  const { bus, take } = open({ wlan0: { freq: 5_180, clients: some }, wlan1: { clients: [] } });
  await settle();
  await bus.say("hostapd.wlan0", "sta-authorized", { address: phone, vlan: 7, ifname: "wlan0" });
  await bus.say("hostapd.wlan0", "probe", { address: phone, signal: -80 });
  await bus.say("hostapd.wlan0", "auth", { address: phone });
  await bus.say("hostapd.wlan0", "assoc", { address: 7 });
  await bus.say("hostapd.wlan0", "assoc", {});
  await bus.say("hostapd.wlan0", "deauth", { address: tv });
  assert.equal(take(), []);
});

test("what was told meanwhile is newer than the answer that was asked for before", async () => {
  const { bus, take } = open();
  await settle();
  let answer = (_: JsonObject) => {};
  const asked = () => new Promise<JsonObject>((resolve) => (answer = resolve));
  bus.answers.set("hostapd.wlan0 get_clients", asked);
  await bus.event("ubus.object.add", { path: "hostapd.wlan0" });
  await bus.say("hostapd.wlan0", "assoc", { address: phone });
  await bus.say("hostapd.wlan0", "assoc", { address: tv });
  await bus.say("hostapd.wlan0", "disassoc", { address: tv });
  take();
  answer(clients(tv));
  await settle();
  assert.equal(take(), []);
});

test("what was missed is found by asking again, and who is gone is told", async () => {
  const { bus, machine, take } = open({ wlan0: clients(phone), wlan1: clients() });
  await settle();
  assert.equal(take(), ["+ br-lan 07"]);
  bus.answers.set("hostapd.wlan0 get_clients", clients(tv));
  await machine.advance(60_000);
  await settle();
  assert.equal(take(), ["+ br-lan 08", "- br-lan 07"]);
  bus.answers.delete("hostapd.wlan0 get_clients");
  await machine.advance(60_000);
  await settle();
  assert.equal(take(), ["- br-lan 08"]);
});

test("an access point that is put into another bridge takes its stations along", async () => {
  const { bridges, stations, take } = open({ wlan0: clients(phone, tv) });
  await settle();
  take();
  stations.relink("wlan0");
  assert.equal(take(), []);
  bridges.set("wlan0", "br-guest");
  stations.relink("wlan0");
  assert.equal(take(), ["+ br-guest 07", "+ br-guest 08", "- br-lan 07", "- br-lan 08"]);
  stations.repeat("br-guest");
  stations.repeat("br-lan");
  assert.equal(take(), ["+ br-guest 07", "+ br-guest 08"]);
});

test("what a bus says without end is bounded", async () => {
  const { bus, stations } = open();
  await settle();
  for (let at = 0; at < 200; at++) {
    bus.answers.set(`hostapd.wlan${at} get_clients`, clients());
    void bus.event("ubus.object.add", { path: `hostapd.wlan${at}` });
  }
  await settle();
  assert.is(bus.followed.filter((each) => each.startsWith("hostapd.")).length, 64);
  for (let at = 0; at < 5_000; at++) {
    const address = `02:00:00:00:${(at >> 8).toString(16).padStart(2, "0")}:${(at & 255).toString(16).padStart(2, "0")}`;
    void bus.say("hostapd.wlan0", "assoc", { address });
  }
  await settle();
  assert.is(stations.size, 2_048);
});

test.run();
