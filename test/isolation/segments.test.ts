/** Devices that segments are told, and stations that access points tell of: who is there, and what holds then. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { renderStatus } from "../../src/isolation/explain.ts";
import { isolatedOf } from "../../src/kernel/isolate.ts";
import { address, flows, host, mac, openHouse, resolve } from "./house.ts";

const web = { name: "web", segment: "apps", addresses: [address("10.1.0.2")] };
const cam = { name: "cam", segment: "guests", addresses: [address("10.7.0.2")] };
const phone = { name: "phone", segment: "guests", mac: mac("02:00:00:00:00:07") };
const segments = [
  { name: "apps", devices: ["br-apps"] },
  { name: "guests", devices: [] },
];
const guest = { device: "br-guest", addresses: [{ address: address("10.7.0.1"), prefixLength: 24 }] };

function openPlaced(more: object = {}) {
  const house = openHouse({ segments, services: [web, cam, phone], isDown: true, ...more });
  const { isolation } = house;
  isolation.linkUp({ device: "br-apps", addresses: [{ address: address("10.1.0.1"), prefixLength: 24 }] });
  isolation.linkUp(guest);
  return house;
}

test("place: a device becomes a segment's, with what is declared there and what is seen from then on", async () => {
  const house = openPlaced();
  const { isolation } = house;
  await isolation.connect({ name: "web", peers: ["cam", "phone"] });
  assert.equal(flows(house.committed.plan!), []);
  assert.equal(
    house.committed.plan!.segments.map(({ name }) => name),
    ["apps"],
    "a segment without a device guards nothing",
  );
  isolation.seen({ device: "br-guest", address: address("10.7.0.9"), mac: phone.mac, source: "neighbour" });
  const { changes } = house;
  assert.equal(isolation.place("guests", ["br-guest"]), ["br-guest"]);
  assert.ok(house.changes > changes);
  assert.equal(isolation.place("guests", ["br-guest"]), []);
  await isolation.settled();
  assert.equal(flows(house.committed.plan!), ["10.1.0.2 > 10.7.0.2", "10.7.0.2 > 10.1.0.2"]);
  assert.equal(house.committed.plan!.segments[1]!.prefixes, ["10.7.0.0/24"]);
  assert.match(resolve(house, "10.7.0.2", "web"), /^198\.1/);
  isolation.seen({ device: "br-guest", address: address("10.7.0.9"), mac: phone.mac, source: "neighbour" });
  await isolation.settled();
  assert.is(flows(house.committed.plan!).length, 4);
});

test("place: a device that is no longer a segment's takes all along that was on it", async () => {
  const house = openPlaced();
  const { isolation } = house;
  isolation.place("guests", ["br-guest"]);
  await isolation.connect({ name: "web", peers: ["cam", "phone", "laptop"] });
  isolation.seen({ device: "br-guest", address: address("10.7.0.9"), mac: phone.mac, source: "neighbour" });
  host(isolation, "br-guest", "laptop", "10.7.0.8");
  await isolation.settled();
  assert.is(flows(house.committed.plan!).length, 6);
  assert.equal(isolation.place("guests", ["eth0.7"]), ["br-guest", "eth0.7"]);
  await isolation.settled();
  assert.equal(flows(house.committed.plan!), []);
  assert.equal(isolation.parts.segments.named("guests")!.devices, ["eth0.7"]);
  isolation.place("guests", ["br-guest"]);
  assert.is(isolation.parts.services.get("phone"), undefined, "what was seen before is old");
  isolation.place("guests", ["eth0.7"]);
  // And on another device with the same network they are found anew.
  isolation.linkDown("br-guest");
  isolation.linkUp({ ...guest, device: "eth0.7" });
  await isolation.settled();
  assert.equal(flows(house.committed.plan!), ["10.1.0.2 > 10.7.0.2", "10.7.0.2 > 10.1.0.2"]);
});

test("place: of two segments that claim a device the first keeps it; that is reported once, and ends with it", async () => {
  const house = openPlaced({ segments: [...segments, { name: "iot", devices: [] }] });
  const { isolation } = house;
  isolation.place("iot", ["br-guest"]);
  assert.equal(isolation.place("guests", ["br-guest", "br-apps"]), []);
  isolation.place("guests", ["br-guest", "br-apps"]);
  assert.equal(house.reports, [
    "Cannot keep br-guest in segment guests: it is in iot",
    "Cannot keep br-apps in segment guests: it is in apps",
  ]);
  assert.equal(renderStatus(isolation, house.clock.now()).contested, [
    { device: "br-guest", segment: "guests", holder: "iot" },
    { device: "br-apps", segment: "guests", holder: "apps" },
  ]);
  await isolation.settled();
  isolatedOf(house.committed.plan!);
  assert.is(isolation.parts.segments.of("br-guest")!.name, "iot");
  assert.equal(isolation.place("iot", []), ["br-guest"]);
  assert.is(isolation.parts.segments.of("br-guest")!.name, "guests");
  assert.equal(isolation.place("nobody", ["br-guest"]), []);
});

test("segments: a device that the configuration has twice is the first one's, and nothing is thrown", async () => {
  const twice = [
    { name: "apps", devices: ["br-apps", "br-apps"] },
    { name: "guests", devices: ["br-apps", "br-guest"] },
  ];
  const house = openPlaced({ segments: twice });
  assert.equal(house.reports, ["Cannot keep br-apps in segment guests: it is in apps"]);
  await house.isolation.settled();
  assert.equal(
    house.committed.plan!.segments.map(({ devices }) => devices),
    [["br-apps"], ["br-guest"]],
  );
});

test("place: after a restart a segment has its devices before anybody tells of them", async () => {
  const house = openPlaced();
  house.isolation.place("guests", ["br-guest"]);
  await house.isolation.connect({ name: "web", peers: ["cam"] });
  const after = openPlaced({ saved: house.committed.state });
  assert.equal(flows(after.isolation.plan()), flows(house.committed.plan!));
});

// ── Stations ─────────────────────────────────────────────────────────────────────────────────────────────────────

const station = { device: "br-guest", mac: phone.mac };
const at = { device: "br-guest", address: address("10.7.0.9") };

function openStations() {
  const house = openPlaced();
  house.isolation.place("guests", ["br-guest"]);
  const where = () =>
    house.isolation.parts.services.get("phone")?.places[4].map((place) => place.address) ?? [];
  return { ...house, where };
}

test("station: whom an access point says to be there stays when its neighbour is forgotten, and goes when it leaves", () => {
  const { isolation, where } = openStations();
  assert.equal(isolation.station({ ...station, isThere: true }), []);
  assert.equal(where(), [], "it knows no address");
  isolation.seen({ ...at, mac: phone.mac, source: "neighbour" });
  assert.equal(where(), ["10.7.0.9"]);
  isolation.gone({ ...at, source: "neighbour" });
  assert.equal(where(), ["10.7.0.9"]);
  assert.equal(isolation.station({ ...station, isThere: true }), ["10.7.0.9"], "to be looked for");
  isolation.station({ ...station, isThere: false });
  assert.equal(where(), []);
});

test("station: who was seen before an access point spoke is confirmed, too; another's leaving ends nothing", () => {
  const { isolation, where } = openStations();
  isolation.seen({ ...at, mac: phone.mac, source: "neighbour" });
  isolation.station({ ...station, isThere: true });
  isolation.station({ device: "br-apps", mac: phone.mac, isThere: true });
  isolation.station({ device: "br-apps", mac: phone.mac, isThere: false });
  isolation.station({ ...station, mac: mac("02:00:00:00:00:08"), isThere: false });
  isolation.gone({ ...at, source: "neighbour" });
  assert.equal(where(), ["10.7.0.9"]);
  isolation.gone(at);
  assert.equal(where(), [], "whoever knows better has the last word");
});

test("station: an address that another has taken is not held for the station", () => {
  const { isolation, where } = openStations();
  isolation.station({ ...station, isThere: true });
  isolation.seen({ ...at, mac: phone.mac, source: "neighbour" });
  isolation.seen({ ...at, mac: mac("02:00:00:00:00:99"), source: "neighbour" });
  assert.equal(where(), []);
  isolation.gone({ ...at, source: "neighbour" });
  assert.equal(where(), []);
  assert.not(isolation.parts.services.isSeen("br-guest", at.address));
});

test("station: whoever takes many addresses leaves room for others", () => {
  const { isolation, where } = openStations();
  const evil = mac("02:00:00:00:00:66");
  isolation.linkUp({ device: "br-guest", addresses: [{ address: address("fd07::1"), prefixLength: 64 }] });
  isolation.station({ ...station, mac: evil, isThere: true });
  for (let number = 2; number < 6_000; number++) {
    const own = address(`fd07::${number.toString(16)}`);
    isolation.seen({ device: "br-guest", address: own, mac: evil, source: "neighbour" });
  }
  isolation.linkUp(guest);
  isolation.seen({ ...at, mac: phone.mac, source: "neighbour" });
  assert.equal(where(), ["10.7.0.9"]);
});

test.run();
