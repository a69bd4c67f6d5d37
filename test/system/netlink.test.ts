/** Netlink on the real kernel: answers, refusals, events, logged packets, and losses. */

import { spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { readdirSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { AF, netlinkAddress, SOCK } from "../../src/system/native.ts";
import type { DatagramSocket, NetlinkOptions } from "../../src/system/system.ts";
import { native, nativePath, until } from "./until.ts";

const system = openLinux({ nativePath });
const ROUTE = 0;
const NETFILTER = 12;
const [ERROR, DONE] = [2, 3];
const [REQUEST, ACK, DUMP] = [1, 4, 0x300];

/** Runs a program before going on, so that nothing is read meanwhile. */
function must(argv: readonly string[], input?: string): void {
  const [program, ...args] = argv;
  const { status, stderr } = spawnSync(program!, args, { input, encoding: "utf8" });
  if (status !== 0) throw new Error(`${argv.join(" ")}: ${stderr}`);
}

/** One netlink message: length, type, flags, sequence, port, in host order, and its body. */
function message(type: number, flags: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  view.setUint32(8, 77, true);
  bytes.set(body, 16);
  return bytes;
}

interface Received {
  readonly type: number;
  readonly body: Uint8Array;
}

/** The messages of one datagram, as copies. */
function messages(datagram: Uint8Array): Received[] {
  const all: Received[] = [];
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.length);
  for (let at = 0; at + 16 <= datagram.length; ) {
    const length = view.getUint32(at, true);
    all.push({ type: view.getUint16(at + 4, true), body: datagram.slice(at + 16, at + length) });
    at += (length + 3) & ~3;
  }
  return all;
}

interface Listening {
  readonly socket: DatagramSocket;
  readonly received: Received[];
  overruns: number;
  readonly ends: (Fault | undefined)[];
}

function listen(options: NetlinkOptions): Listening {
  const received: Received[] = [];
  const ends: (Fault | undefined)[] = [];
  const socket = system.netlink(options, {
    onMessage: (bytes) => received.push(...messages(bytes)),
    onOverrun: () => listening.overruns++,
    onClose: (fault) => ends.push(fault),
  });
  const listening: Listening = { socket, received, overruns: 0, ends };
  return listening;
}

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");

test("a dump of the interfaces names them all and ends", async () => {
  must(["ip", "link", "add", "gh-left", "type", "veth", "peer", "name", "gh-right"]);
  const route = listen({ protocol: ROUTE });
  assert.ok(route.socket.port > 0);
  route.socket.send(message(18, REQUEST | DUMP, new Uint8Array(16)));
  await until(() => route.received.some(({ type }) => type === DONE), "the end of the dump");
  const all = route.received.map(({ body }) => text(body)).join("");
  for (const name of ["lo", "gh-left", "gh-right"]) assert.ok(all.includes(`${name}\0`), name);
  route.socket.close();
  await until(() => route.ends.length > 0, "the close");
  assert.equal(route.ends, [undefined]);
});

test("what the kernel refuses comes back as an error message with its errno", async () => {
  const route = listen({ protocol: ROUTE });
  const body = new Uint8Array(16);
  new DataView(body.buffer).setInt32(4, 999_999, true);
  route.socket.send(message(17, REQUEST | ACK, body));
  await until(() => route.received.length > 0, "the refusal");
  const { type, body: answer } = route.received[0]!;
  assert.is(type, ERROR);
  assert.is(new DataView(answer.buffer, answer.byteOffset).getInt32(0, true), -19);
  route.socket.close();
});

test("events of a joined group arrive, those of others do not", async () => {
  const links = listen({ protocol: ROUTE, groups: [1] });
  const addresses = listen({ protocol: ROUTE, groups: [5] });
  must(["ip", "link", "set", "gh-left", "mtu", "1400"]);
  must(["ip", "addr", "add", "192.0.2.1/24", "dev", "gh-left"]);
  await until(() => links.received.length > 0 && addresses.received.length > 0, "both events");
  assert.ok(links.received.every(({ type }) => type === 16));
  assert.ok(addresses.received.every(({ type }) => type === 20));
  links.socket.close();
  addresses.socket.close();
});

test("a conntrack event tells of a connection on its way", async () => {
  must(
    ["nft", "-f", "-"],
    "table inet watch { chain c { type filter hook output priority 0; ct state new accept; }; }",
  );
  const events = listen({ protocol: NETFILTER, groups: [1] });
  const socket = createSocket("udp4");
  socket.send("hello", 4321, "127.0.0.1");
  const port = Buffer.from([4321 >> 8, 4321 & 255]).toString("latin1");
  await until(() => events.received.some(({ body }) => text(body).includes(port)), "the new connection");
  // NFNL_SUBSYS_CTNETLINK 1, IPCTNL_MSG_CT_NEW 0
  assert.is(events.received[0]!.type, 0x100);
  socket.close();
  events.socket.close();
});

test("a logged packet arrives whole", async () => {
  must(
    ["nft", "-f", "-"],
    "table inet tap { chain c { type filter hook output priority 0; udp dport 5353 log group 9; }; }",
  );
  const log = listen({ protocol: NETFILTER });
  const header = [0, 0, 0, 9];
  const config = (...attribute: number[]) =>
    message(0x401, REQUEST | ACK, Uint8Array.from([...header, ...attribute]));
  // NFULA_CFG_CMD: bind; NFULA_CFG_MODE: 65535 bytes of the packet.
  log.socket.send(config(5, 0, 1, 0, 1, 0, 0, 0));
  log.socket.send(config(10, 0, 2, 0, 0, 0, 0xff, 0xff, 2, 0, 0, 0));
  await until(() => log.received.length === 2, "both acknowledgements");
  for (const { type, body } of log.received) assert.equal([type, body[0]], [ERROR, 0]);
  const socket = createSocket("udp4");
  const payload = `a question of ${"x".repeat(3000)}`;
  socket.send(payload, 5353, "127.0.0.1");
  await until(() => log.received.some(({ type }) => type === 0x400), "the packet");
  assert.ok(text(log.received.find(({ type }) => type === 0x400)!.body).includes(payload));
  socket.close();
  log.socket.close();
});

test("more events than the buffer holds are told as an overrun, and later ones arrive again", async () => {
  const links = listen({ protocol: ROUTE, groups: [1], receiveBytes: 4096 });
  const changes = Array.from({ length: 200 }, (_, index) => `link set gh-left mtu ${1300 + index}`).join(
    "\n",
  );
  must(["ip", "-batch", "-"], changes);
  await until(() => links.overruns > 0, "the overrun");
  await until(() => links.received.length > 0, "what was kept");
  assert.ok(links.received.length < 200, `${links.received.length} kept`);
  const before = links.received.length;
  must(["ip", "link", "set", "gh-left", "mtu", "1280"]);
  await until(() => links.received.length > before, "the next event");
  assert.equal(links.ends, []);
  links.socket.close();
});

test("a large receive buffer keeps what a small one loses", async () => {
  const links = listen({ protocol: ROUTE, groups: [1] });
  const changes = Array.from({ length: 200 }, (_, index) => `link set gh-left mtu ${1300 + index}`).join(
    "\n",
  );
  must(["ip", "-batch", "-"], changes);
  await until(() => links.received.length >= 200, "every event");
  assert.is(links.overruns, 0);
  links.socket.close();
});

test("messages of other processes than the kernel are not heard", async () => {
  const route = listen({ protocol: ROUTE });
  const netio = native();
  const forger = netio.open(AF.netlink, SOCK.raw, ROUTE);
  netio.bind(forger, netlinkAddress(0));
  const forged = message(16, 0, new Uint8Array(16));
  const names = new Uint8Array(128);
  names.set(netlinkAddress(route.socket.port));
  assert.is(netio.send(forger, forged, names, Int32Array.from([0, forged.length, 0, 0, 12, 0, 0, 0]), 1), 1);
  // An answer of the kernel that was asked for later shows that the forgery was passed by.
  route.socket.send(message(18, REQUEST | DUMP, new Uint8Array(16)));
  await until(() => route.received.some(({ type }) => type === DONE), "the dump");
  assert.ok(route.received.every(({ body }) => body.length !== 16));
  netio.close(forger);
  route.socket.close();
});

test("what cannot be opened is a fault, and leaves no descriptor", async () => {
  const handlers = { onMessage() {}, onOverrun() {}, onClose() {} };
  // Read in here: a child that looks at us may come before spawn has closed its ends of the pipes.
  const count = () => readdirSync("/proc/self/fd").length;
  const before = count();
  for (let times = 0; times < 50; times++) {
    for (const options of [{ protocol: 31 }, { protocol: ROUTE, groups: [4000] }]) {
      assert.throws(
        () => system.netlink(options, handlers),
        (error: unknown) => error instanceof Fault && /^Cannot (open|join) netlink/.test(error.message),
      );
    }
  }
  // Others of this process come and go meanwhile: a few, and not for good.
  await until(() => count() <= before, "as many descriptors as before");
});

test("a closed socket refuses to send, and closing again does nothing", async () => {
  const route = listen({ protocol: ROUTE });
  route.socket.close();
  route.socket.close();
  assert.throws(() => route.socket.send(new Uint8Array(16)), /Cannot send to netlink: the socket is closed/);
  await until(() => route.ends.length > 0, "the close");
  assert.is(route.ends.length, 1);
});

test.run();
