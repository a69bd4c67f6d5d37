/** The REST door over real HTTP, spoken to as core-container-manager speaks to core-network. */

import { request as httpRequest } from "node:http";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { isolationDoor } from "../../src/isolation/isolation.ts";
import { type Address, parseAddress } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { WebServer } from "../../src/system/system.ts";
import { nativePath } from "../system/until.ts";
import { address, flows, type House, host, openHouse, resolve } from "./house.ts";

const system = openLinux({ nativePath });
/** As /dev/urandom through base64 makes it, with the newline that tools leave. */
const keyFile = "Zm9yIHRlc3RzIG9ubHk=\n";
const key = Buffer.from(keyFile.trim()).toString("base64");
const servers: WebServer[] = [];
const reports: string[] = [];

interface Door {
  readonly port: number;
  readonly house: House;
}

async function open(house: House, readKey = async () => new Uint8Array(Buffer.from(keyFile))): Promise<Door> {
  const door = isolationDoor({
    isolation: house.isolation,
    readKey,
    hosts: ["databox-network"],
    report: (line) => reports.push(line),
  });
  const server = await system.serve({ address: parseAddress("127.0.0.1") as Address, port: 0 }, door);
  servers.push(server);
  return { port: server.port, house };
}

interface Got {
  readonly status: number;
  readonly type: string | undefined;
  readonly body: string;
}

type Headers = Readonly<Record<string, string>>;

function call(
  door: Door,
  what: string,
  body?: unknown,
  headers: Headers = { "X-API-KEY": key },
): Promise<Got> {
  const [method, path] = what.split(" ") as [string, string];
  const text = typeof body === "string" || body === undefined ? body : JSON.stringify(body);
  return new Promise((resolved, reject) => {
    // Go's client names the host that it was given, and sends no Content-Type.
    const all = { Host: "databox-network:8080", "User-Agent": "Go-http-client/1.1", ...headers };
    const how = { host: "127.0.0.1", port: door.port, method, path, headers: all, agent: false };
    const request = httpRequest(how, (response) => {
      let got = "";
      response.setEncoding("utf8");
      response.on("data", (piece) => {
        got += piece;
      });
      response.on("end", () =>
        resolved({ status: response.statusCode!, type: response.headers["content-type"], body: got }),
      );
    });
    request.on("error", reject);
    request.end(text);
  });
}

const ok: Got = { status: 200, type: "application/json", body: "{}" };
const bootstrap = { bootstrap: { segment: "system", forMs: 60_000 }, hosts: ["arbiter"] };

test.after.each(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
  reports.length = 0;
});

test("container-manager's life: start, install a driver and an app, restart it, uninstall it", async () => {
  const house = openHouse({ privileged: bootstrap });
  const door = await open(house);
  // It comes up on the system network, resolves us, and says who it is.
  house.isolation.seen({ device: "br-system", address: address("10.9.0.5"), source: "query" });
  assert.is(resolve(house, "10.9.0.5", "databox-network"), "10.9.0.1");
  assert.equal(await call(door, "GET /status"), {
    status: 200,
    type: "text/plain; charset=utf-8",
    body: "active",
  });
  assert.equal(await call(door, "POST /privileged", { src_ip: "10.9.0.5" }), ok);
  host(house.isolation, "br-system", "arbiter", "10.9.0.3");
  // A driver: connected before it is there, then its whitelist, entry by entry.
  assert.equal(await call(door, "POST /connect", { name: "driver-sensor", peers: ["arbiter"] }), ok);
  house.world.set("api.twitter.com", {
    kind: "found",
    answers: [{ address: address("104.244.42.2"), ttlSeconds: 60 }],
  });
  assert.equal(await call(door, "POST /connect", { name: "driver-sensor", peers: ["api.twitter.com"] }), ok);
  assert.equal(
    await call(door, "POST /connect", { name: "driver-sensor-core-store", peers: ["arbiter"] }),
    ok,
  );
  host(house.isolation, "br-data", "driver-sensor", "10.2.0.5");
  host(house.isolation, "br-data", "driver-sensor-core-store", "10.2.0.6");
  house.isolation.tick();
  await house.isolation.settled();
  await house.isolation.settled();
  assert.ok(flows(house.isolation.plan()).includes("10.2.0.5 >> 104.244.42.2"));
  // An app, whose peers include one that can never be a name.
  const peers = ["arbiter", "export-service", "driver-sensor-core-store", "", "app-view"];
  assert.equal(await call(door, "POST /connect", { name: "app-view", peers }), ok);
  assert.is(reports.length, 1);
  host(house.isolation, "br-apps", "app-view", "10.1.0.7");
  for (const name of ["arbiter", "driver-sensor-core-store"]) {
    assert.match(resolve(house, "10.1.0.7", name), /^198\.1/, name);
  }
  assert.is(resolve(house, "10.1.0.7", "driver-sensor"), "missing");
  assert.match(resolve(house, "10.9.0.5", "app-view"), /^198\.1/, "the manager reaches all");
  const listed = await call(door, "GET /connections");
  const states = JSON.parse(listed.body).connections.map(
    (each: { name: string; peer: string; state: string }) => `${each.name} ${each.peer} ${each.state}`,
  );
  assert.equal(states.sort(), [
    "api.twitter.com driver-sensor active",
    "app-view arbiter active",
    "app-view driver-sensor-core-store active",
    "app-view export-service pending",
    "arbiter driver-sensor active",
    "arbiter driver-sensor-core-store active",
  ]);
  // The app restarts elsewhere; Docker knows before anybody sees it.
  const restart = { name: "app-view", old_ip: "10.1.0.7", new_ip: "10.1.0.9" };
  assert.equal(await call(door, "POST /restart", restart), ok);
  assert.match(resolve(house, "10.1.0.9", "driver-sensor-core-store"), /^198\.1/);
  assert.is(resolve(house, "10.1.0.7", "arbiter"), "missing");
  // Uninstalled, by the CIDR that Docker reports.
  assert.equal(await call(door, "POST /disconnect", { name: "app-view", ip: "10.1.0.9/24" }), ok);
  assert.equal(await call(door, "POST /disconnect", { name: "app-view", ip: "10.1.0.9/24" }), ok);
  assert.is(resolve(house, "10.1.0.9", "driver-sensor-core-store"), "missing");
  assert.not(flows(house.committed.plan!).some((each) => each.includes("10.1.0.9 > 10.2.0.6")));
});

test("401: texts for a key that is missing, wrong or unreadable, on every route", async () => {
  const door = await open(openHouse());
  for (const what of ["GET /status", "POST /connect", "PUT /connect", "GET /nothing", "GET /connections"]) {
    assert.equal(
      await call(door, what, undefined, {}),
      { status: 401, type: "text/plain; charset=utf-8", body: "Missing API key/token" },
      what,
    );
    const wrong = await call(door, what, undefined, { "X-API-KEY": `${key.slice(0, -2)}A=` });
    assert.equal([wrong.status, wrong.body], [401, "Unauthorized: CM key invalid"], what);
  }
  const broken = await open(openHouse(), async () => {
    throw new Fault("storage", "Cannot read /etc/gatehouse/network.key: no such file");
  });
  const got = await call(broken, "GET /status");
  assert.equal([got.status, got.body], [401, "Cannot read /etc/gatehouse/network.key: no such file"]);
  const empty = await open(openHouse(), async () => new Uint8Array(Buffer.from(" \n")));
  for (const sent of ["", "IAo=", " "])
    assert.is((await call(empty, "GET /status", undefined, { "X-API-KEY": sent })).status, 401);
});

test("defect: the key counts trimmed and untrimmed, by X-API-KEY and as user name, and a new one at once", async () => {
  let file = keyFile;
  const door = await open(openHouse(), async () => new Uint8Array(Buffer.from(file)));
  const untrimmed = Buffer.from(keyFile).toString("base64");
  const basic = (text: string) => ({ Authorization: `Basic ${Buffer.from(text).toString("base64")}` });
  for (const headers of [
    { "X-API-KEY": key },
    { "X-API-KEY": untrimmed },
    basic(`${key}:`),
    basic(`${key}:whatever:it is`),
    basic(untrimmed),
    { Authorization: basic(key).Authorization.replace("Basic", "basic") },
  ]) {
    assert.is((await call(door, "GET /status", undefined, headers)).status, 200, JSON.stringify(headers));
  }
  for (const headers of [
    { "X-API-KEY": keyFile.trim() },
    { "X-API-KEY": `${key}:` },
    { "X-API-KEY": `${key}x` },
    { "X-API-KEY": key.toLowerCase() },
    basic(`:${key}`),
    { Authorization: `Bearer ${key}` },
    { Authorization: "Basic !!" },
    { Authorization: "Basic" },
  ]) {
    assert.is((await call(door, "GET /status", undefined, headers)).status, 401, JSON.stringify(headers));
  }
  file = "another";
  assert.is((await call(door, "GET /status")).status, 401);
});

test("500: the path and what was wrong, and nothing was done", async () => {
  const house = openHouse();
  const door = await open(house);
  const bad: [string, unknown][] = [
    ["POST /connect", "{"],
    ["POST /connect", ""],
    ["POST /connect", undefined],
    ["POST /connect", "[]"],
    ["POST /connect", "null"],
    ["POST /connect", '"text"'],
    ["POST /connect", "\xff\xfe"],
    ["POST /connect", { name: "a" }],
    ["POST /connect", { peers: ["b"] }],
    ["POST /connect", { name: "a", peers: "b" }],
    ["POST /connect", { name: "a", peers: ["b", 7] }],
    ["POST /connect", { name: 7, peers: ["b"] }],
    ["POST /connect", { name: "ü", peers: ["b"] }],
    ["POST /connect", '{"__proto__": {"name": "a", "peers": ["b"]}}'],
    ["POST /disconnect", { name: "a", ip: "10.1.0.2" }],
    ["POST /disconnect", { name: "a", ip: "10.1.0.2/33" }],
    ["POST /disconnect", { name: "a", ip: "10.1.0/24" }],
    ["POST /disconnect", { name: "a" }],
    ["POST /restart", { name: "a", old_ip: "10.1.0.2" }],
    ["POST /restart", { name: "a", old_ip: "10.1.0.2/24", new_ip: "10.1.0.3/24" }],
    ["POST /restart", { old_ip: "10.1.0.2", new_ip: "10.1.0.3" }],
    ["POST /privileged", {}],
    ["POST /privileged", { src_ip: "010.1.0.2" }],
    ["POST /privileged", { src_ip: "127.0.0.1" }],
  ];
  for (const [what, body] of bad) {
    const got = await call(door, what, body);
    assert.is(got.status, 500, `${what} ${JSON.stringify(body)}`);
    assert.ok(got.body.startsWith(`${what.split(" ")[1]} server err: `), got.body);
    assert.ok(got.body.length < 400);
  }
  assert.is(house.committed.plan?.routes.length ?? 0, 0);
  assert.is(house.isolation.parts.connects.size, 0);
});

test("500: what the kernel refuses is not said to be done, and can be said again", async () => {
  const house = openHouse();
  const door = await open(house);
  house.refusals.push(new Fault("kernel", "Cannot enforce: no memory"));
  const got = await call(door, "POST /connect", { name: "a", peers: ["b"] });
  assert.equal([got.status, got.body], [500, "/connect server err: Cannot enforce: no memory"]);
  assert.is(house.isolation.parts.connects.size, 0);
  assert.equal(await call(door, "POST /connect", { name: "a", peers: ["b"] }), ok);
});

test("404 for what there is not; no GET changes anything", async () => {
  const house = openHouse();
  const door = await open(house);
  for (const what of [
    "GET /",
    "GET /connect",
    "PUT /connect",
    "DELETE /connect",
    "POST /status",
    "GET /../etc/passwd",
  ]) {
    const body = /^(GET|DELETE)/.test(what) ? undefined : { name: "a", peers: ["b"] };
    assert.is((await call(door, what, body)).status, 404, what);
  }
  assert.equal((await call(door, "GET /status?x=1")).body, "active");
  assert.is(house.isolation.parts.connects.size, 0);
});

test("DNS rebinding: a foreign Host or Origin is 403, with the right key too, and changes nothing", async () => {
  const house = openHouse();
  const door = await open(house);
  const hosts = [
    "evil.example.com",
    "evil.example.com:8080",
    "databox-network.evil.com",
    "localhost.evil.com",
    "a@databox-network",
    "[::1].evil.com",
    "databox-network:",
    "10.1.0.1.nip.io",
    " ",
  ];
  for (const each of hosts) {
    const got = await call(
      door,
      "POST /connect",
      { name: "a", peers: ["b"] },
      { "X-API-KEY": key, Host: each },
    );
    assert.ok(got.status === 403 || got.status === 400, `${each}: ${got.status}`);
  }
  for (const each of [
    "http://evil.example.com",
    "null",
    "https://10.1.0.1.nip.io",
    "file://",
    "http://databox-network@evil.com",
    "http://databox-network/x",
    "chrome-extension://abc",
  ]) {
    const got = await call(
      door,
      "POST /connect",
      { name: "a", peers: ["b"] },
      { "X-API-KEY": key, Origin: each },
    );
    assert.is(got.status, 403, each);
  }
  assert.is(house.isolation.parts.connects.size, 0);
  for (const each of [
    "databox-network",
    "DATABOX-network:8080",
    "localhost:1",
    "10.1.0.1:8080",
    "[fd01::1]:8080",
    "127.0.0.1",
  ]) {
    assert.is(
      (await call(door, "GET /status", undefined, { "X-API-KEY": key, Host: each })).status,
      200,
      each,
    );
  }
  const own = { "X-API-KEY": key, Origin: "https://databox-network:8080" };
  assert.is((await call(door, "GET /status", undefined, own)).status, 200);
});

test("concurrent calls are each answered when they hold", async () => {
  const house = openHouse();
  const door = await open(house);
  const calls = Array.from({ length: 24 }, (_, at) =>
    call(door, "POST /connect", { name: `s${at % 6}`, peers: ["hub"] }),
  );
  for (const got of await Promise.all(calls)) assert.equal(got, ok);
  assert.is(house.isolation.parts.connects.size, 6);
});

test.run();
