/** Unix datagram and seqpacket sockets: names of every length, credentials, ends, and peers that misbehave. */

import { execFileSync, spawn } from "node:child_process";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Credentials, UnixHandlers, UnixOptions, UnixSocket } from "../../src/system/system.ts";
import { nativePath, until } from "./until.ts";

const system = openLinux({ nativePath });
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (content: Uint8Array) => new TextDecoder().decode(content);
const descriptors = () => readdirSync("/proc/self/fd").length;
const fullName = (text_: string) => `@${text_.padEnd(107, "\0")}`;

interface Recorder extends UnixHandlers {
  readonly told: string[];
  readonly names: (string | undefined)[];
  readonly peers: (Credentials | undefined)[];
}

function recorder(more: Partial<UnixHandlers> = {}): Recorder {
  const recording: Recorder = {
    told: [],
    names: [],
    peers: [],
    onMessage(content, from) {
      recording.told.push(text(content));
      recording.names.push(from.name);
      recording.peers.push(from.peer);
    },
    onOverrun: () => recording.told.push("overrun"),
    onClose: (fault) => recording.told.push(fault === undefined ? "close" : `close ${fault.code}`),
    ...more,
  };
  return recording;
}

const codeOf = (call: () => unknown): string => {
  try {
    call();
  } catch (error) {
    return (error as Fault).code;
  }
  return "no fault";
};

test("datagram: the name is as long as given, and the answer finds its way back", async () => {
  const server = recorder();
  const served = system.unix({ type: "datagram", bind: fullName("tas_socket") }, server);
  assert.is(
    codeOf(() => system.unix({ type: "datagram", connect: "@tas_socket" }, recorder())),
    "closed",
  );
  const client = recorder();
  const name = fullName("eth1-192.168.5.113-2");
  const called = system.unix({ type: "datagram", bind: name, connect: fullName("tas_socket") }, client);
  called.send(bytes("request"));
  await until(() => server.told.length === 1, "the request");
  assert.equal(server.names, [name]);
  assert.equal(server.peers, [{ pid: process.pid, uid: 0, gid: 0 }]);
  served.send(bytes("reply"), server.names[0]);
  await until(() => client.told.length === 1, "the reply");
  assert.equal(client.told, ["reply"]);
  const listed = execFileSync("cat", ["/proc/net/unix"], { encoding: "utf8" });
  assert.ok(listed.includes(`@tas_socket${"@".repeat(97)}`));
  served.close();
  called.close();
  await until(() => client.told.includes("close") && server.told.includes("close"), "both ends");
});

test("datagram: a client without a name gets one, and two cannot have the same", async () => {
  const server = recorder();
  const served = system.unix({ type: "datagram", bind: "/run/dgram", mode: 0o660 }, server);
  assert.is(statSync("/run/dgram").mode & 0o777, 0o660);
  const called = system.unix({ type: "datagram", connect: "/run/dgram" }, recorder());
  called.send(bytes(""));
  called.send(bytes("second"));
  await until(() => server.told.length === 2, "both");
  assert.equal(server.told, ["", "second"]);
  assert.match(server.names[0]!, /^@[0-9a-f]{5}$/);
  assert.is(
    codeOf(() => system.unix({ type: "datagram", bind: "/run/dgram" }, recorder())),
    "conflict",
  );
  served.send(bytes("who"), server.names[0]);
  assert.is(
    codeOf(() => served.send(bytes("x"), "@nobody")),
    "closed",
  );
  assert.is(
    codeOf(() => served.send(bytes("x"))),
    "closed",
  );
  served.close();
  assert.not.ok(existsSync("/run/dgram"));
  called.close();
});

test("datagram: a file that a dead process left is replaced", async () => {
  const path = "/run/left.sock";
  // A bound socket whose process is killed leaves its file.
  const child = spawn(process.execPath, [
    "-e",
    `const m = { exports: {} }; process.dlopen(m, ${JSON.stringify(nativePath)});
     const handle = m.exports.open(1, 2, 0);
     m.exports.bind(handle, Uint8Array.from([1, 0, ...Buffer.from("${path}\\0")]));
     process.kill(process.pid, "SIGKILL");`,
  ]);
  await new Promise((resolve) => child.on("close", resolve));
  assert.ok(existsSync(path));
  const server = recorder();
  const served = system.unix({ type: "datagram", bind: path }, server);
  const called = system.unix({ type: "datagram", connect: path }, recorder());
  called.send(bytes("hello"));
  await until(() => server.told.length === 1, "the message");
  served.close();
  called.close();
});

test("datagram: a client that goes away does no harm to the server", async () => {
  const server = recorder();
  const served = system.unix({ type: "datagram", bind: "@busy" }, server);
  for (let round = 0; round < 20; round++) {
    const called = system.unix({ type: "datagram", connect: "@busy" }, recorder());
    called.send(bytes(String(round)));
    called.close();
    await until(() => server.told.length === round + 1, "the message");
  }
  for (const name of server.names)
    assert.is(
      codeOf(() => served.send(bytes("late"), name)),
      "closed",
    );
  const called = system.unix({ type: "datagram", connect: "@busy" }, recorder());
  called.send(bytes("still there"));
  await until(() => server.told.length === 21, "one more");
  served.close();
  called.close();
});

test("datagram: one who does not read makes the sender a limit, not a wait", async () => {
  const server = recorder();
  const served = system.unix({ type: "datagram", bind: "@slow" }, server);
  const called = system.unix({ type: "datagram", connect: "@slow" }, recorder());
  let sent = 0;
  assert.is(
    codeOf(() => {
      for (; sent < 100_000; sent++) called.send(bytes("x"));
    }),
    "limit",
  );
  await until(() => server.told.length === sent, "all that was taken");
  served.close();
  called.close();
});

/** A seqpacket server that keeps its connections. */
function serve(options: Omit<UnixOptions, "type">) {
  const accepted: { readonly socket: UnixSocket; readonly record: Recorder }[] = [];
  const socket = system.unix(
    { type: "seqpacket", ...options },
    recorder({
      onAccept(connection) {
        const record = recorder();
        accepted.push({ socket: connection, record });
        return record;
      },
    }),
  );
  return { socket, accepted };
}

test("seqpacket: messages keep their borders both ways, and each side knows the other", async () => {
  const { socket, accepted } = serve({ bind: "/run/mapper.sock", mode: 0o600 });
  const client = recorder();
  const called = system.unix({ type: "seqpacket", connect: "/run/mapper.sock" }, client);
  for (const each of ["one", "", "three"]) called.send(bytes(each));
  await until(() => accepted[0]?.record.told.length === 3, "three messages");
  assert.equal(accepted[0]!.record.told, ["one", "", "three"]);
  assert.equal(accepted[0]!.socket.peer, { pid: process.pid, uid: 0, gid: 0 });
  assert.equal(called.peer, { pid: process.pid, uid: 0, gid: 0 });
  accepted[0]!.socket.send(bytes("answer"));
  await until(() => client.told.length === 1, "the answer");
  called.close();
  await until(() => accepted[0]!.record.told.length === 4, "the end");
  assert.is(accepted[0]!.record.told[3], "close");
  assert.is(
    codeOf(() => accepted[0]!.socket.send(bytes("late"))),
    "closed",
  );
  socket.close();
  assert.not.ok(existsSync("/run/mapper.sock"));
  assert.is(
    codeOf(() => system.unix({ type: "seqpacket", connect: "/run/mapper.sock" }, recorder())),
    "not-found",
  );
});

test("seqpacket: a server that closes ends its client; one that refuses too", async () => {
  const { socket, accepted } = serve({ bind: "@refuse" });
  const client = recorder();
  system.unix({ type: "seqpacket", connect: "@refuse" }, client);
  await until(() => accepted.length === 1, "the connection");
  accepted[0]!.socket.close();
  await until(() => client.told.length === 1, "the end");
  assert.match(client.told[0]!, /^close/);
  socket.close();
  const deaf = system.unix({ type: "seqpacket", bind: "@deaf" }, recorder());
  const refused = recorder();
  system.unix({ type: "seqpacket", connect: "@deaf" }, refused);
  await until(() => refused.told.length === 1, "the refusal");
  assert.throws(() => deaf.send(bytes("x")), TypeError);
  deaf.close();
});

test("seqpacket: a live server is a conflict, a dead one's file is replaced, any other file stays", async () => {
  const { socket } = serve({ bind: "/run/live.sock" });
  assert.is(
    codeOf(() => serve({ bind: "/run/live.sock" })),
    "conflict",
  );
  socket.close();
  const path = "/run/dead.sock";
  const child = spawn(process.execPath, [
    "-e",
    `require("node:net").createServer().listen("${path}", () => process.kill(process.pid, "SIGKILL"))`,
  ]);
  await new Promise((resolve) => child.on("close", resolve));
  assert.ok(existsSync(path));
  // Seqpacket cannot connect to what is left of a stream socket either: nobody listens.
  const { socket: second } = serve({ bind: path });
  second.close();
  writeFileSync("/run/file", "mine");
  assert.is(
    codeOf(() => serve({ bind: "/run/file" })),
    "conflict",
  );
  assert.ok(existsSync("/run/file"));
  const stream = createServer().listen("/run/stream.sock");
  await new Promise((resolve) => stream.on("listening", resolve));
  assert.is(
    codeOf(() => serve({ bind: "/run/stream.sock" })),
    "conflict",
  );
  stream.close();
});

test("seqpacket: a message that fills the kernel's buffer arrives whole, a longer one is the sender's fault", async () => {
  const { socket, accepted } = serve({ bind: "@large" });
  const called = system.unix({ type: "seqpacket", connect: "@large" }, recorder());
  called.send(bytes("x".repeat(150_000)));
  await until(() => accepted[0]?.record.told.length === 1, "the message");
  assert.is(accepted[0]!.record.told[0]!.length, 150_000);
  assert.is(
    codeOf(() => called.send(new Uint8Array(10_000_000))),
    "limit",
  );
  called.close();
  socket.close();
});

test("a hundred connections that end at any moment leave no descriptor", async () => {
  const before = descriptors();
  const { socket, accepted } = serve({ bind: "@many" });
  const all: UnixSocket[] = [];
  for (let round = 0; round < 50; round++) {
    const called = system.unix({ type: "seqpacket", connect: "@many" }, recorder());
    called.send(bytes("x"));
    if (round % 2) called.close();
    else all.push(called);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => accepted.length === 50, "all accepted");
  for (const [index, called] of all.entries()) (index % 2 ? called : accepted[index * 2]!.socket).close();
  await until(() => accepted.every(({ record }) => record.told.at(-1)?.startsWith("close")), "all ended");
  socket.close();
  for (const called of all) called.close();
  await until(() => descriptors() <= before, "descriptors as before");
  assert.ok(
    accepted.every(({ record }) => record.told.filter((each) => each.startsWith("close")).length === 1),
  );
});

test("a handler that closes its own socket hears nothing more", async () => {
  const told: string[] = [];
  const served = system.unix(
    { type: "datagram", bind: "@once" },
    {
      onMessage(content) {
        told.push(text(content));
        served.close();
      },
      onOverrun() {},
      onClose: () => told.push("close"),
    },
  );
  const called = system.unix({ type: "datagram", connect: "@once" }, recorder());
  for (const each of ["1", "2", "3"]) called.send(bytes(each));
  await until(() => told.length > 1, "the end");
  called.close();
  assert.equal(told, ["1", "close"]);
});

test.run();
