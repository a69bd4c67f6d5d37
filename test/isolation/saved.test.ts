/** What isolation keeps on disk: both ways, and nothing else is taken for it. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { isolationFormat } from "../../src/isolation/isolation.ts";
import { parseIsolation, renderIsolation } from "../../src/isolation/saved.ts";
import type { Json } from "../../src/lib/json.ts";
import { openStore } from "../../src/system/store.ts";
import { Machine } from "../fake/machine.ts";
import { address, openHouse } from "./house.ts";

const web = { name: "web", segment: "apps", addresses: [address("10.1.0.2")], peers: ["cfg"] };

async function full() {
  const house = openHouse({ services: [web] });
  house.world.set("a.example.com", {
    kind: "found",
    answers: [{ address: address("93.184.216.34"), ttlSeconds: 60 }],
  });
  const { isolation } = house;
  await isolation.connect({
    name: "web",
    peers: ["app", "a.example.com", "*.example.org"],
    ports: ["tcp/1-9", "icmp"],
  });
  await isolation.connect({ name: "x", peers: ["y"], direction: "in" });
  await isolation.connect({ name: "p", peers: ["q"] });
  await isolation.disconnect({ name: "p" });
  await isolation.disconnect({ name: "cfg" });
  isolation.seen({ device: "br-data", address: address("10.2.0.5"), source: "dhcp", hostname: "app" });
  await isolation.privilege("app");
  await isolation.privilege("10.9.0.7");
  isolation.tick();
  await isolation.settled();
  await isolation.settled();
  return house;
}

test("parseIsolation reads what renderIsolation wrote", async () => {
  const state = (await full()).committed.state;
  const text = JSON.stringify(state);
  const read = isolationFormat.parse(JSON.parse(text));
  assert.is(JSON.stringify(renderIsolation(read)), text);
  assert.is(read.pairs.length, 4);
  assert.equal(read.cut, [["cfg", "web"]]);
  assert.equal(read.privileged, { names: ["app"], addresses: ["10.9.0.7"], identified: true });
  assert.equal(read.homes, [["app", "data"]]);
  assert.ok(read.resting.length >= 4);
});

test("parseIsolation refuses everything else with SyntaxError", async () => {
  const good = JSON.parse(JSON.stringify((await full()).committed.state)) as Record<string, unknown>;
  const change = (name: string, value: unknown) => ({ ...good, [name]: value });
  const bad: unknown[] = [
    ...[null, 7, "text", [], {}],
    ...["pairs", "standins", "resting", "privileged"].flatMap((name) => [
      change(name, undefined),
      change(name, 7),
    ]),
    change("pairs", [["b", "a", true, true]]),
    change("pairs", [["a", "a", true, true]]),
    change("pairs", [["a", "b", null, null]]),
    change("pairs", [["a", "b", false, true]]),
    change("pairs", [["a", "b", [], true]]),
    change("pairs", [["a", "b", ["tcp/0"], true]]),
    change("pairs", [["a", "b", true]]),
    change("pairs", [["A", "b", true, true]]),
    change("pairs", [["a b", "c", true, true]]),
    change("cut", [["a"]]),
    change("standins", [["a", "198.18.0.1", "198.18.0.2"]]),
    change("standins", [["a", "fd00::1", "fd00::2"]]),
    change("standins", [["a b c", "198.18.0.1", "fd00::2"]]),
    change("standins", [["a 1.2.3", "198.18.0.1", "fd00::2"]]),
    change("standins", [["../x", "198.18.0.1", "fd00::2"]]),
    change("resting", [["a", "198.18.0.1", -1]]),
    change("resting", [["a", "198.18.0.1", 1e300]]),
    change("resting", [["a", "198.18.0.01", 1]]),
    change("homes", [["a", 7]]),
    change("privileged", { names: [], addresses: [], identified: 1 }),
    change("privileged", { names: ["*.a.b"], addresses: [], identified: true }),
    change("privileged", { names: [], addresses: ["a"], identified: true }),
  ];
  for (const each of bad)
    assert.throws(
      () => parseIsolation(each),
      (thrown: unknown) => thrown instanceof SyntaxError,
      JSON.stringify(each),
    );
});

test("parseIsolation never throws anything but SyntaxError, and what it takes makes a room", async () => {
  const text = JSON.stringify((await full()).committed.state);
  let taken = 0;
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(text.length - 1), fc.constantFrom(...'0123456789abc"[]{},.:*- ')), {
        maxLength: 3,
      }),
      (edits) => {
        const letters = [...text];
        for (const [at, letter] of edits) letters[at] = letter;
        let value: unknown;
        try {
          value = JSON.parse(letters.join(""));
        } catch {
          return;
        }
        try {
          parseIsolation(value);
        } catch (thrown) {
          assert.instance(thrown, SyntaxError);
          return;
        }
        taken++;
        openHouse({ services: [web], saved: value as Json }).isolation.plan();
      },
    ),
    { numRuns: 600 },
  );
  assert.ok(taken > 20);
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      try {
        parseIsolation(value);
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }),
  );
});

test("the store tells damage and goes on with the generation before", async () => {
  const house = await full();
  const machine = new Machine();
  const path = "/etc/gatehouse/isolation.json";
  const { store } = await openStore(machine, path, isolationFormat);
  await store.save(() => house.isolation.save());
  await house.isolation.connect({ name: "late", peers: ["later"] });
  await store.save(() => house.isolation.save());
  const bytes = (await machine.read(path))!;
  await machine.replace(path, bytes.slice(0, bytes.length - 40));
  const { state, damage } = await openStore(machine, path, isolationFormat);
  assert.is(damage?.code, "storage");
  assert.is(state!.pairs.length, 4);
});

test("a state whose stand-ins are none of the pools any more gives new ones", async () => {
  const house = await full();
  const before = house.committed.plan!;
  const after = openHouse({
    services: [web],
    saved: house.committed.state,
    pool4: "198.51.100.0/24" as never,
  });
  for (const { standin } of after.isolation.plan().outside) assert.match(standin, /^198\.51\.100\./);
  assert.ok(before.outside.length > 0);
});

test("parseIsolation reads files without placed devices, and takes names of devices only", async () => {
  const good = JSON.parse(JSON.stringify((await full()).committed.state)) as Record<string, unknown>;
  assert.equal(isolationFormat.parse(good).placed, []);
  const placed = [["apps", ["br-guest", "eth0.7"]]];
  assert.equal(isolationFormat.parse({ ...good, placed }).placed, placed);
  for (const bad of [7, ["apps"], [["apps", 7]], [["apps", ["a b"]]], [["apps", [""]]], [[7, ["eth0"]]]])
    assert.throws(
      () => isolationFormat.parse({ ...good, placed: bad }),
      (thrown: unknown) => thrown instanceof SyntaxError,
    );
});

test.run();
