/** Unix stream sockets: connection, ends told once, back-pressure, socket files, and who the peer is. */

import { spawn } from "node:child_process";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Listener, Stream, StreamHandlers } from "../../src/system/system.ts";
import { nativePath, until } from "./until.ts";

const system = openLinux({ nativePath });
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (content: Uint8Array) => new TextDecoder().decode(content);
const descriptors = () => readdirSync("/proc/self/fd").length;

function recorder(more: Partial<StreamHandlers> = {}) {
  const told: string[] = [];
  let received = 0;
  const handlers: StreamHandlers = {
    onConnect: () => told.push("connect"),
    onBytes(content) {
      received += content.length;
      assert.is(content.constructor, Uint8Array);
      if (content.length < 100) told.push(text(content));
    },
    onDrain: () => told.push("drain"),
    onClose: (fault) => told.push(fault === undefined ? "close" : `close ${fault.code}`),
    ...more,
  };
  return { told, handlers, received: () => received };
}

type Recorder = ReturnType<typeof recorder>;

async function serve(path: string, mode = 0o600, more: Partial<StreamHandlers> = {}) {
  const accepted: { readonly stream: Stream; readonly record: Recorder }[] = [];
  const listener: Listener = await system.listen(path, {
    mode,
    accept(stream) {
      const record = recorder(more);
      accepted.push({ stream, record });
      return record.handlers;
    },
  });
  return { listener, accepted };
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as Fault).code;
  }
  return "no fault";
}

for (const path of ["/run/stream.sock", "@stream"]) {
  test(`${path}: both sides talk, know each other, and hear of the end once`, async () => {
    const { listener, accepted } = await serve(path);
    const client = recorder();
    const stream = system.connect(path, client.handlers);
    stream.write(bytes("before it stands"));
    await until(() => accepted[0]?.record.told.length === 1, "the first bytes");
    const { stream: far, record } = accepted[0]!;
    assert.equal(record.told, ["before it stands"]);
    const us = { pid: process.pid, uid: 0, gid: 0 };
    assert.equal([far.peer, stream.peer], [us, us]);
    far.write(bytes("answer"));
    await until(() => client.told.includes("answer"), "the answer");
    far.write(bytes("last words"));
    far.end();
    await until(() => client.told.at(-1) === "close" && record.told.at(-1) === "close", "both ends");
    stream.close();
    far.close();
    far.end();
    assert.not.ok(stream.write(bytes("late")));
    await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(client.told, ["connect", "answer", "last words", "close"]);
    assert.equal(record.told, ["before it stands", "close"]);
    await listener.close();
  });
}

test("a connection that cannot be made ends with a fault", async () => {
  for (const [path, code] of [
    ["/run/nowhere", "not-found"],
    ["@nowhere", "closed"],
    [`/run/${"x".repeat(200)}`, "invalid"],
  ] as const) {
    const client = recorder();
    system.connect(path, client.handlers);
    await until(() => client.told.length > 0, "the end");
    assert.is(client.told.length, 1);
    if (code !== "invalid") assert.equal(client.told, [`close ${code}`]);
  }
});

test("a reader that pauses makes write answer false; the rest goes out when it resumes", async () => {
  const { listener, accepted } = await serve("@slow");
  const client = recorder();
  const stream = system.connect("@slow", client.handlers);
  await until(() => accepted.length === 1 && client.told.length === 1, "the connection");
  accepted[0]!.stream.pause();
  const chunk = new Uint8Array(64 * 1024);
  let sent = 0;
  while (stream.queuedBytes < 4_000_000) {
    stream.write(chunk);
    sent += chunk.length;
  }
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.ok(stream.queuedBytes > 1_000_000);
  assert.not.ok(stream.write(chunk));
  sent += chunk.length;
  assert.not.ok(client.told.includes("drain"));
  accepted[0]!.stream.resume();
  await until(() => accepted[0]!.record.received() === sent, "all bytes");
  await until(() => client.told.includes("drain"), "the drain");
  assert.is(stream.queuedBytes, 0);
  stream.close();
  await until(() => client.told.includes("close"), "the end");
  await listener.close();
});

test("close drops what is queued and is silent until the end is told", async () => {
  const { listener, accepted } = await serve("@drop");
  const client = recorder();
  const stream = system.connect("@drop", client.handlers);
  await until(() => accepted.length === 1 && client.told.length === 1, "the connection");
  accepted[0]!.stream.write(bytes("not heard"));
  await new Promise((resolve) => setImmediate(resolve));
  const before = client.told.length;
  stream.close();
  await until(() => client.told.length > before, "the end");
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.equal(client.told.slice(before), ["close"]);
  await listener.close();
});

test("a peer that is killed ends the stream, whatever is queued", async () => {
  const { listener, accepted } = await serve("/run/kill.sock");
  const child = spawn(process.execPath, [
    "-e",
    `
    require("node:net").connect("/run/kill.sock").pause();
    setInterval(() => {}, 1000);
  `,
  ]);
  await until(() => accepted.length === 1, "the child");
  const { stream, record } = accepted[0]!;
  assert.is(stream.peer?.pid, child.pid);
  stream.write(new Uint8Array(10_000_000));
  child.kill("SIGKILL");
  await until(() => record.told.length > 0, "the end");
  assert.is(record.told.at(-1), "close closed");
  await listener.close();
});

test("the socket file has its mode, goes with its listener, and accepted streams stay", async () => {
  const { listener, accepted } = await serve("/run/mode.sock", 0o666);
  assert.is(statSync("/run/mode.sock").mode & 0o777, 0o666);
  const client = recorder();
  const stream = system.connect("/run/mode.sock", client.handlers);
  await until(() => accepted.length === 1, "the connection");
  await listener.close();
  await listener.close();
  assert.not.ok(existsSync("/run/mode.sock"));
  stream.write(bytes("still"));
  await until(() => accepted[0]!.record.told.length === 1, "the bytes");
  stream.close();
  await until(() => client.told.includes("close"), "the end");
});

test("a live socket is a conflict, a stale one is replaced, another file is not touched", async () => {
  const path = "/run/state.sock";
  const { listener } = await serve(path);
  assert.is(await codeOf(serve(path)), "conflict");
  const taken = await serve("@taken");
  assert.is(await codeOf(serve("@taken")), "conflict");
  await taken.listener.close();
  await listener.close();
  const child = spawn(process.execPath, [
    "-e",
    `require("node:net").createServer().listen("${path}", () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  await new Promise((resolve) => child.on("close", resolve));
  assert.ok(existsSync(path));
  const second = await serve(path);
  const client = recorder();
  const stream = system.connect(path, client.handlers);
  await until(() => client.told.length === 1, "the connection");
  stream.close();
  await second.listener.close();
  writeFileSync("/run/plain", "mine");
  assert.is(await codeOf(serve("/run/plain")), "conflict");
  assert.ok(existsSync("/run/plain"));
  assert.is(await codeOf(serve("/run/no/such/folder")), "denied");
});

test("a refused client ends, and connections leave no descriptor", async () => {
  const listener = await system.listen("@refuse", { mode: 0o600, accept: () => undefined });
  const before = descriptors();
  const clients = Array.from({ length: 50 }, () => recorder());
  for (const { handlers } of clients) system.connect("@refuse", handlers).write(bytes("x"));
  await until(() => clients.every(({ told }) => told.at(-1)?.startsWith("close")), "all ended");
  await until(() => descriptors() <= before, "descriptors as before");
  await listener.close();
});

test("nothing that is over keeps a process alive", async () => {
  // The test's own end would hang otherwise; a child shows it for the addon too.
  const code = `
    const m = { exports: {} }; process.dlopen(m, ${JSON.stringify(nativePath)});
    m.exports.onReady(() => {});
    const handle = m.exports.open(16, 3, 0);
    m.exports.watch(handle, 1);
    setTimeout(() => { m.exports.close(handle); console.log("closed"); }, 50);
    m.exports.open(16, 3, 0);`;
  const child = spawn(process.execPath, ["-e", code]);
  let told = "";
  child.stdout.on("data", (chunk) => (told += chunk));
  child.stderr.on("data", (chunk) => (told += chunk));
  const status = await new Promise((resolve) => child.on("close", resolve));
  assert.equal([status, told], [0, "closed\n"]);
});

test.run();
