/** What the bus may ask: arguments, typed errors, and answers that fit. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { isolationMethods } from "../../src/isolation/isolation.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { answerBytes, maxAnswerBytes } from "../../src/ubus/methods.ts";
import { address, faultOf, type House, host, openHouse } from "./house.ts";

const web = {
  name: "web",
  segment: "apps",
  addresses: [address("10.1.0.2"), address("fd01::2")],
  peers: ["db"],
};
const db = { name: "db", segment: "data", addresses: [address("10.2.0.2")], aliases: ["database"] };
const nobody = { user: undefined, group: undefined };

function open(options: Parameters<typeof openHouse>[0] = { services: [web, db] }) {
  const house = openHouse(options);
  const methods = isolationMethods(house.isolation, house.clock);
  const call = async (name: string, args: Record<string, Json> = {}) =>
    (await methods[name]!.call(args, nobody)) as Record<string, Json>;
  return { house, methods, call };
}

test("methods: what changes is write, what asks is read, and each says what it does", () => {
  const { methods } = open();
  const access = Object.entries(methods).map(([name, method]) => `${name} ${method.access}`);
  assert.equal(access, [
    "connect write",
    "disconnect write",
    "restart write",
    "privileged write",
    "status read",
    "list read",
    "explain read",
  ]);
  for (const { doc } of Object.values(methods)) assert.match(doc, /^[A-Z].*\.$/);
});

test("connect, disconnect and restart answer what came of it", async () => {
  const { call } = open();
  const wish = { name: "WEB", peers: ["database", "new"], ports: ["tcp/80", 53], direction: "out" };
  assert.equal(await call("connect", wish), {
    connected: [
      { peer: "db", state: "active" },
      { peer: "new", state: "pending" },
    ],
  });
  assert.equal(await call("disconnect", { name: "web", peer: "new" }), { disconnected: ["new"] });
  assert.equal(await call("disconnect", { name: "nobody" }), { disconnected: [] });
  assert.equal(await call("restart", { name: "db", new_ip: "10.2.0.9" }), { name: "db" });
  assert.is(
    (await faultOf(call("restart", { name: "who", old_ip: "10.2.0.77", new_ip: "10.2.0.9" }))).code,
    "not-found",
  );
});

test("arguments that make no sense are typed errors, and change nothing", async () => {
  const { call, house } = open();
  const before = house.isolation.parts.connects.size;
  const bad: [string, Record<string, Json>][] = [
    ["connect", {}],
    ["connect", { name: "web" }],
    ["connect", { name: "web", peers: [] }],
    ["connect", { name: "web", peers: "db" }],
    ["connect", { name: "web", peers: [7] }],
    ["connect", { name: "web", peers: ["db"], ports: "80" }],
    ["connect", { name: "web", peers: ["db"], ports: ["sctp/80"] }],
    ["connect", { name: "web", peers: ["db"], ports: ["tcp/0"] }],
    ["connect", { name: "web", peers: ["db"], ports: ["tcp/9-1"] }],
    ["connect", { name: "web", peers: ["db"], ports: ["65536"] }],
    ["connect", { name: "web", peers: ["db"], direction: "up" }],
    ["disconnect", {}],
    ["disconnect", { name: "web", peer: "*" }],
    ["restart", { name: "web" }],
    ["restart", { name: "web", new_ip: "10.1.0.2/24" }],
    ["privileged", {}],
    ["privileged", { name: "web", address: "10.1.0.2" }],
    ["privileged", { address: "web" }],
    ["explain", { from: "web" }],
    ["explain", { from: "web", to: "ü" }],
    ["list", { name: "no name" }],
  ];
  for (const [name, args] of bad)
    assert.is((await faultOf(call(name, args))).code, "invalid", `${name} ${JSON.stringify(args)}`);
  const many = {
    name: "web",
    peers: ["db"],
    ports: Array.from({ length: 65 }, (_, at) => `tcp/${at * 2 + 1}`),
  };
  assert.is((await faultOf(call("connect", many))).code, "limit");
  assert.is(house.isolation.parts.connects.size, before);
});

test("list shows services and pairs with what they wait for", async () => {
  const { call } = open();
  await call("connect", { name: "web", peers: ["late"], direction: "in", ports: ["tcp/443"] });
  const { services, pairs } = (await call("list")) as { services: JsonObject[]; pairs: JsonObject[] };
  const standins = services.map((each) => each.standins as string[]);
  assert.equal(services, [
    {
      name: "db",
      state: "active",
      segment: "data",
      device: "br-data",
      addresses: ["10.2.0.2"],
      standins: standins[0]!,
      declared: true,
    },
    { name: "late", state: "pending", addresses: [], standins: standins[1]! },
    {
      ...{
        name: "web",
        state: "active",
        segment: "apps",
        device: "br-apps",
        addresses: ["10.1.0.2", "fd01::2"],
      },
      ...{ standins: standins[2]!, declared: true },
    },
  ]);
  assert.equal(pairs, [
    { name: "db", peer: "web", state: "active", direction: "both", configured: true },
    {
      ...{ name: "late", peer: "web", state: "pending", waits_for: ["late"], direction: "out" },
      ...{ ports: ["tcp/443"], asked: true },
    },
  ]);
  const one = (await call("list", { name: "web" })) as { services: JsonObject[]; pairs: JsonObject[] };
  assert.equal([one.services.length, one.pairs.length], [1, 2]);
});

test("list comes in pages that fit into a message, and misses none", async () => {
  const { call, house } = open({ services: [] });
  const peers = Array.from(
    { length: 6_000 },
    (_, at) => `peer-with-a-rather-long-name-${String(at).padStart(5, "0")}`,
  );
  await call("connect", { name: "hub", peers });
  const seen = new Set<string>();
  let [after, pages]: [string | undefined, number] = [undefined, 0];
  do {
    const page = await call("list", after === undefined ? {} : { after });
    assert.ok(answerBytes(page) <= maxAnswerBytes + 1_000);
    for (const { name } of page.services as { name: string }[]) seen.add(name);
    after = page.more ? (page.next as string) : undefined;
  } while (after !== undefined && ++pages < 20);
  assert.is(seen.size, 6_001);
  assert.ok(pages >= 1);
  assert.is(house.isolation.parts.connects.size, 6_000);
});

const explain = async (house: House, from: string, to: string) => {
  const methods = isolationMethods(house.isolation, house.clock);
  const { verdict, reasons } = (await methods.explain!.call({ from, to }, nobody)) as {
    verdict: string;
    reasons: string[];
  };
  return [verdict, ...reasons].join(", ");
};

test("explain says whether and why, by names, addresses and stand-ins", async () => {
  const services = [web, db, { name: "six", segment: "apps", addresses: [address("fd01::6")] }];
  const { house, call } = open({ services, privileged: { clients: ["boss"], hosts: ["arbiter"] } });
  host(house.isolation, "br-system", "boss", "10.9.0.2");
  host(house.isolation, "br-system", "arbiter", "10.9.0.3");
  house.world.set("a.example.com", {
    kind: "found",
    answers: [{ address: address("93.184.216.34"), ttlSeconds: 60 }],
  });
  await call("connect", { name: "web", peers: ["six"], direction: "out" });
  await call("connect", { name: "db", peers: ["six", "*.example.com"] });
  await house.isolation.ask("br-data", address("10.2.0.2"), { name: "a.example.com", type: 1 });
  const standIn = house.isolation.parts.standIns.get("db")![4];
  const rows: [string, string, string][] = [
    ["web", "db", "pass, they are connected"],
    ["10.1.0.2", "database", "pass, they are connected"],
    ["fd01::2", standIn, "pass, they are connected"],
    ["six", "web", "drop, they are connected the other way round only"],
    ["db", "six", "drop, they are connected, they have no family of addresses in common"],
    ["web", "web", "drop, both are the same, they are not connected"],
    ["web", "nobody", "drop, nobody is at no address now, they are not connected"],
    ["10.7.7.7", "web", "drop, 10.7.7.7 is at no address of a segment, they are not connected"],
    ["boss", "db", "pass, boss is privileged"],
    ["web", "arbiter", "pass, everybody may reach arbiter"],
    ["db", "a.example.com", "pass"],
    ["web", "a.example.com", "drop, they are not connected"],
    ["db", "b.example.com", "drop, b.example.com is at no address now"],
  ];
  for (const [from, to, wanted] of rows) assert.is(await explain(house, from, to), wanted, `${from} ${to}`);
});

test("status counts, and shows bootstrap and segments", async () => {
  const { call, house } = open({
    services: [web, db],
    privileged: { bootstrap: { segment: "system", forMs: 30_000 } },
  });
  await call("connect", { name: "web", peers: ["late"] });
  house.isolation.linkDown("br-system");
  const status = await call("status");
  assert.equal([status.pairs, status.pending, status.services], [2, 1, 2]);
  assert.equal(status.bootstrap, { segment: "system", ends_in: 30 });
  assert.equal((status.segments as Json[])[2], {
    name: "system",
    devices: [{ device: "br-system", state: "missing", prefixes: [] }],
  });
  assert.equal(await call("privileged", { name: "web" }), { name: "web" });
  assert.equal((await call("status")).privileged, ["web"]);
  assert.is("bootstrap" in (await call("status")), false);
  assert.equal(await call("privileged", { name: "web", remove: true }), { changed: true });
});

test.run();
