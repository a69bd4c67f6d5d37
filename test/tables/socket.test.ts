/** Table Allocator's protocol: its messages as recorded, its clients as they are, and whoever else writes there. */

import { spawn } from "node:child_process";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { UnixSocket } from "../../src/system/system.ts";
import { decodeOldRequest, encodeOldReply } from "../../src/tables/datagram.ts";
import { paddedName } from "../../src/tables/socket.ts";
import { keyOf, openTableSocket, type TableSocket } from "../../src/tables/tables.ts";
import { nativePath, until } from "../system/until.ts";
import { type Stage, stage, wish } from "./stage.ts";

const system = openLinux({ nativePath, log: () => {} });
const text = (message: string) => new TextEncoder().encode(message);
const open: { close(): void }[] = [];
const server = "tas_socket";

test.after.each(() => {
  for (const each of open.splice(0)) each.close();
});

function serve(s: Stage, rawNow = () => 1_000_000): TableSocket {
  const socket = openTableSocket({ unix: system.unix.bind(system), now: () => s.clock.now() }, s.tables, {
    name: server,
    rawNow,
  });
  open.push(socket);
  return socket;
}

class Client {
  readonly received: string[] = [];
  readonly #socket: UnixSocket;

  /** @param name as the original has it: interface, address, family. */
  constructor(name: string) {
    this.#socket = system.unix(
      { type: "datagram", bind: paddedName(name) },
      {
        onMessage: (bytes) => void this.received.push(new TextDecoder().decode(bytes)),
        onOverrun() {},
        onClose() {},
      },
    );
    open.push(this.#socket);
  }

  /** Once there is room in the server's queue. */
  async send(message: string | Uint8Array): Promise<void> {
    const bytes = typeof message === "string" ? text(message) : message;
    const isSent = () => {
      try {
        this.#socket.send(bytes, paddedName(server));
        return true;
      } catch {
        return false;
      }
    };
    while (!isSent()) await new Promise((resolve) => setImmediate(resolve));
  }

  async ask(message: string): Promise<string> {
    const before = this.received.length;
    await this.send(message);
    await until(() => this.received.length > before, `an answer to ${message}`);
    return this.received.at(-1)!;
  }
}

/** A message that is surely answered, so that what was sent before it has been looked at. */
const settle = (client: Client) =>
  client.ask('{"address":"192.0.2.250","ifname":"eth9","addr_family":2,"cmd":1,"version":1}');

const recorded = '{"address":"192.168.5.113","ifname":"eth1","addr_family":2,"cmd":0,"version":1}';

test("a recorded request is answered byte for byte, again when it is refreshed, and released", async () => {
  const s = stage();
  // 100 s of lease, as its clock counts.
  const socket = serve(s, () => 1_733_400);
  const client = new Client("eth1-192.168.5.113-2");
  const reply = '{"version":1,"cmd":2,"table":10000,"lease_expires":1833}';
  assert.is(await client.ask(recorded), reply);
  assert.is(await client.ask(recorded), reply);
  const released = '{"version":1,"cmd":2,"table":0,"lease_expires":0}';
  assert.is(await client.ask(recorded.replace('"cmd":0', '"cmd":1')), released);
  assert.is(await client.ask(recorded.replace('"cmd":0', '"cmd":1')), released);
  assert.is(s.tables.counters.leases, 0);
  assert.equal([socket.counters.granted, socket.counters.released], [2, 2]);
});

test("a lease over the socket has no rules of ours, and is emptied when it ends", async () => {
  const s = stage();
  serve(s);
  const client = new Client("eth1-192.168.5.113-2");
  await client.ask(recorded);
  assert.equal(s.kernel.lines, []);
  assert.is([...s.tables.all()][0]!.note.owner, "root");
  await client.ask(recorded.replace('"cmd":0', '"cmd":1'));
  assert.equal(s.kernel.flushed, [{ family: 4, table: 10_000 }]);
});

test("the tag is what the lease is called, no part of its key; version and unknown members do not count", async () => {
  const s = stage();
  serve(s);
  const client = new Client("x");
  const ask = (more: object) =>
    client.ask(JSON.stringify({ address: "10.0.0.1", ifname: "eth1", addr_family: 2, cmd: 0, ...more }));
  const first = await ask({ tag: "one", version: 99 });
  assert.is(await ask({ tag: "two", extra: [1, 2, 3] }), first);
  assert.is([...s.tables.all()][0]!.note.label, "one");
  assert.is(await ask({ tag: 7, version: "x" }), first);
});

test("missing members are nothing: {} is a request for unspec, as with the original", async () => {
  const s = stage();
  serve(s);
  const client = new Client("x");
  assert.match(await client.ask("{}"), /"table":10000/);
  assert.equal(s.tables.holder("unspec", 10_000)!.note.key, {
    ...{ family: "unspec", interface: "", address: "", tag: "" },
  });
});

test("what cannot be granted is met with silence, and counted", async () => {
  const s = stage({ families: ["inet"], count: 1 });
  const socket = serve(s);
  const client = new Client("x");
  await client.ask(recorded);
  for (const message of [
    ...["", "[]", "nonsense", "{", '"a"', "null", "17", recorded.slice(0, 40), "[".repeat(500)],
    ...['{"addr_family":2,"cmd":7}', '{"addr_family":3,"cmd":0}', `${recorded}${" ".repeat(600)}`],
    ...[new Uint8Array(65_536).fill(123), new Uint8Array([0xff, 0xfe]), "\0"],
  ]) {
    await client.send(message);
  }
  await client.send("{}");
  await client.send(recorded.replace("113", "114"));
  await settle(client);
  assert.is(client.received.length, 2);
  assert.is(socket.counters.malformed, 15);
  assert.is(socket.counters.refused, 2);
  assert.is(s.tables.counters.leases, 1);
});

test("another user's lease is neither shown nor ended", async () => {
  const s = stage();
  const socket = serve(s);
  await s.tables.request(
    keyOf({ family: "inet", interface: "eth1", address: "192.168.5.113" }),
    wish({ owner: "ann" }),
  );
  const hex = Buffer.from(paddedName(server).slice(1)).toString("hex");
  const script = `
import socket,sys,binascii
s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)
s.bind(b"\\0"+b"stranger".ljust(107,b"\\0"))
for cmd in (0,1):
  s.sendto(b'{"address":"192.168.5.113","ifname":"eth1","addr_family":2,"cmd":%d}'%cmd, b"\\0"+binascii.unhexlify("${hex}"))
s.sendto(b'{"address":"192.168.5.114","ifname":"eth1","addr_family":2,"cmd":0}', b"\\0"+binascii.unhexlify("${hex}"))
print(s.recv(300).decode())`;
  const child = spawn("python3", ["-c", script], { uid: 65_534, gid: 65_534 });
  let printed = "";
  child.stdout.on("data", (chunk) => {
    printed += chunk;
  });
  await until(() => printed.includes("\n"), "the stranger is answered");
  assert.match(printed, /"table":10001/);
  assert.is(socket.counters.refused, 2);
  assert.is(s.tables.holder("inet", 10_000)!.note.owner, "ann");
  assert.is(s.tables.holder("inet", 10_001)!.note.owner, "uid:65534");
});

test("a name that somebody else has is a conflict", () => {
  const s = stage();
  serve(s);
  try {
    openTableSocket(system, s.tables, { name: server });
    assert.unreachable();
  } catch (thrown) {
    assert.instance(thrown, Fault);
    assert.is((thrown as Fault).code, "conflict");
  }
});

test("a hundred thousand messages without sense leave it answering, and no larger", async () => {
  const s = stage();
  const socket = serve(s);
  const client = new Client("flood");
  await settle(client);
  globalThis.gc?.();
  const before = process.memoryUsage().heapUsed;
  const junk = [text("[]"), text("{"), text('{"cmd":9}'), new Uint8Array(600)];
  for (let sent = 0; sent < 100_000; sent++) await client.send(junk[sent % junk.length]!);
  await settle(client);
  assert.is(socket.counters.malformed, 100_000);
  assert.is(s.tables.counters.leases, 0);
  assert.ok(process.memoryUsage().heapUsed - before < 32 * 1024 * 1024);
});

test("requests of one user that wait are bounded", async () => {
  const s = stage({ count: 2_000 });
  let go = () => {};
  const gate = new Promise<void>((resolve) => {
    go = resolve;
  });
  const apply = s.kernel.apply.bind(s.kernel);
  s.kernel.apply = async (plan) => {
    await gate;
    return apply(plan);
  };
  const socket = serve(s);
  const client = new Client("x");
  for (let last = 0; last < 400; last++) {
    const message = JSON.stringify({
      address: `10.0.${last >> 8}.${last & 255}`,
      ifname: "e",
      addr_family: 2,
    });
    await client.send(message);
  }
  await until(() => socket.counters.overrun >= 400 - (256 + 8), "all others are refused");
  go();
  await until(() => client.received.length > 0, "others are answered");
  assert.ok(s.tables.counters.leases <= 256 + 8);
});

test("decodeOldRequest reads members of the right type, and texts that are too long as none", () => {
  assert.equal(decodeOldRequest(text(recorded)), {
    ...{ verb: "request", family: "inet", address: "192.168.5.113", interface: "eth1", tag: "" },
  });
  const odd = {
    address: "a".repeat(46),
    ifname: "i".repeat(16),
    tag: "t".repeat(128),
    addr_family: 10,
    cmd: 1,
  };
  assert.equal(decodeOldRequest(text(JSON.stringify(odd))), {
    ...{ verb: "release", family: "inet6", address: "", interface: "", tag: "" },
  });
  assert.is(decodeOldRequest(text(`${recorded}\0rest`)).interface, "eth1");
  assert.is(
    new TextDecoder().decode(encodeOldReply({ table: 10_000, leaseExpires: 1_833 })),
    '{"version":1,"cmd":2,"table":10000,"lease_expires":1833}',
  );
});

test("decodeOldRequest takes any bytes, and throws nothing but SyntaxError", () => {
  const harmless = (bytes: Uint8Array) => {
    try {
      decodeOldRequest(bytes);
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
    }
  };
  const whole = text(recorded);
  for (let end = 0; end < whole.length; end++) {
    assert.throws(
      () => decodeOldRequest(whole.subarray(0, end)),
      (thrown: unknown) => thrown instanceof SyntaxError,
    );
  }
  for (let bit = 0; bit < whole.length * 8; bit++) {
    const flipped = Uint8Array.from(whole);
    flipped[bit >> 3]! ^= 1 << (bit & 7);
    harmless(flipped);
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), harmless));
  fc.assert(fc.property(fc.json(), (json) => harmless(text(json))));
});

test.run();
