/** The web server of `make run`: who may ask it, by which name, and for what. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { type IncomingHttpHeaders, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { uciCalls } from "./calls.ts";
import { Host, type HostOptions, sessions } from "./host.ts";
import { menu } from "./page.ts";

const configuration = join(mkdtempSync(join(tmpdir(), "uci-")), "gatehouse");
const text =
  "config gatehouse 'main'\n\toption backend 'nft'\n\tlist lan_device 'br-lan'\n\nconfig service\n\toption mac '02:00:00:00:00:01'\n";
let applied = 0;
const asked: string[] = [];

/** Says what it was asked for. */
const ubus = {
  async call(object: string, method: string) {
    asked.push(`${object} ${method}`);
    return { object, method };
  },
} as unknown as Ubus;

const started: Host[] = [];
async function start(options: Partial<HostOptions> = {}): Promise<Host> {
  writeFileSync(configuration, text);
  const host = await Host.start({
    ubus,
    configuration: { path: configuration, applied: async () => void applied++ },
    ...options,
  });
  started.push(host);
  return host;
}

test.after(() => {
  for (const host of started) host.close();
});

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

function ask(url: string, headers: Record<string, string> = {}, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { method: body === undefined ? "GET" : "POST", headers }, (response) => {
      let taken = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (taken += chunk));
      response.on("end", () =>
        resolve({ status: response.statusCode!, headers: response.headers, body: taken }),
      );
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

const originOf = (host: Host) => new URL(host.urlOf("devices")).origin;

async function call(host: Host, session: string, params: readonly Json[]): Promise<JsonObject> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "call", params: [session, ...params] });
  return JSON.parse((await ask(`${originOf(host)}/ubus/`, {}, body)).body) as JsonObject;
}

const denied = { code: -32002, message: "Access denied" };

test("Host: who comes by another name or from another site gets nothing", async () => {
  const host = await start();
  const url = host.urlOf("devices");
  const { port } = new URL(url);
  assert.is((await ask(url)).status, 200);
  assert.is((await ask(url, { host: `localhost:${port}` })).status, 200);
  for (const name of ["router.example", `router.example:${port}`, "127.0.0.1", "127.0.0.1:1"])
    assert.is((await ask(url, { host: name })).status, 403, name);
  const body = JSON.stringify({
    jsonrpc: "2.0",
    id: 1,
    method: "call",
    params: [sessions.full, "gatehouse", "status", {}],
  });
  for (const origin of ["http://router.example", "null", `https://127.0.0.1:${port}`, "http://127.0.0.1"])
    assert.is((await ask(`${originOf(host)}/ubus/`, { origin }, body)).status, 403, origin);
  assert.is((await ask(`${originOf(host)}/ubus/`, { origin: originOf(host) }, body)).status, 200);
});

test("Host: with a token, pages, files and calls are for who brought it", async () => {
  const host = await start({ token: "secret" });
  const url = host.urlOf("devices");
  const { origin } = new URL(url);
  for (const path of [
    "/",
    "/standin.js",
    "/luci-static/resources/gatehouse/bus.js",
    "/?token=guess",
    "/?token=",
  ])
    assert.is((await ask(origin + path)).status, 403, path);
  assert.is((await ask(url)).status, 403);
  assert.is((await ask(`${origin}/ubus/`, {}, "{}")).status, 403);
  const entered = await ask(`${origin}/?token=secret`);
  assert.is(entered.status, 303);
  assert.is(origin + entered.headers.location!, url);
  const [cookie] = entered.headers["set-cookie"]!;
  assert.match(cookie!, /HttpOnly; SameSite=Strict/);
  assert.is((await ask(url, { cookie: cookie!.split(";")[0]! })).status, 200);
});

test("Host: a file of another folder is not to be had", async () => {
  const host = await start();
  for (const path of [
    "/luci-static/../../package.json",
    "/luci-static/%2e%2e/%2e%2e/package.json",
    "/luci-static/..%2f..%2fpackage.json",
  ])
    assert.is((await ask(originOf(host) + path)).status, 404, path);
});

test("Host: a folder is no file, nor is what has no name; and it goes on serving", async () => {
  const host = await start();
  const resources = "/luci-static/resources";
  for (const path of [
    `${resources}/`,
    resources,
    "/luci-static/",
    `${resources}/gatehouse`,
    `${resources}/nothing.js`,
  ])
    assert.is((await ask(originOf(host) + path)).status, 404, path);
  const file = await ask(`${originOf(host)}${resources}/gatehouse/bus.js`);
  assert.equal(
    [file.status, file.body],
    [200, readFileSync(`files/www${resources}/gatehouse/bus.js`, "utf8")],
  );
});

test("Host: a session calls what the access rules grant it, and nothing else", async () => {
  const host = await start();
  const block = ["gatehouse.flows", "list_add", {}];
  assert.equal((await call(host, sessions.full, block)).result, [
    0,
    { object: "gatehouse.flows", method: "list_add" },
  ]);
  assert.equal((await call(host, sessions.reader, block)).error, denied);
  assert.equal(
    (await call(host, "00000000000000000000000000000000", ["gatehouse", "status", {}])).error,
    denied,
  );
  for (const [object, method] of [
    ["spin", "rpc"],
    ["file", "read"],
    ["gatehouse", "constructor"],
    ["__proto__", "get"],
    ["uci", "rename"],
  ])
    assert.equal(
      (await call(host, sessions.full, [object!, method!, {}])).error,
      denied,
      `${object} ${method}`,
    );
  assert.not.ok(asked.some((each) => !each.startsWith("gatehouse")));
});

test("Host: uci is staged until it is applied, and only for who may write", async () => {
  const host = await start();
  const uci = (method: string, args: JsonObject, session = sessions.full) =>
    call(host, session, ["uci", method, args]);
  const config = "gatehouse";
  const read = ((await uci("get", { config })).result as [number, { values: Record<string, JsonObject> }])[1]
    .values;
  assert.equal(read.main, {
    backend: "nft",
    lan_device: ["br-lan"],
    ".type": "gatehouse",
    ".name": "main",
    ".anonymous": false,
    ".index": 0,
  });
  const [id] = Object.keys(read).filter((each) => each !== "main");
  assert.is(read[id!]![".anonymous"], true);
  for (const [method, right] of Object.entries(uciCalls)) {
    if (right === "write")
      assert.equal((await uci(method, { config }, sessions.reader)).error, denied, method);
  }
  await uci("set", {
    config,
    section: "main",
    values: { backend: "ipset", lan_device: ["br-lan", "br-iot"], rpc_socket: "" },
  });
  await uci("set", { config, section: id!, values: { hostname: "it's" } });
  assert.is(readFileSync(configuration, "utf8"), text);
  const before = applied;
  await uci("apply", { rollback: true, timeout: 30 });
  await uci("confirm", {});
  assert.is(applied, before + 1);
  assert.is(
    readFileSync(configuration, "utf8"),
    "config gatehouse 'main'\n\toption backend 'ipset'\n\tlist lan_device 'br-lan'\n\tlist lan_device 'br-iot'\n\nconfig service\n\toption mac '02:00:00:00:00:01'\n\toption hostname 'it'\\''s'\n",
  );
  assert.equal((await uci("set", { config: "firewall", section: "x", values: {} })).result, [6]);
});

test("Host: a change that nobody confirms is taken back", async () => {
  const host = await start();
  await call(host, sessions.full, [
    "uci",
    "set",
    { config: "gatehouse", section: "main", values: { backend: "ipset" } },
  ]);
  await call(host, sessions.full, ["uci", "apply", { rollback: true, timeout: 0 }]);
  for (const endAt = Date.now() + 60_000; readFileSync(configuration, "utf8") !== text; )
    if (Date.now() > endAt) throw new Error("it stays");
    else await new Promise((resolve) => setTimeout(resolve, 10));
});

test("menu: every page of it has a view", () => {
  assert.ok(menu().length >= 7);
  for (const { view } of menu())
    assert.ok(readFileSync(`files/www/luci-static/resources/view/gatehouse/${view}.js`, "utf8"));
});

test.run();
