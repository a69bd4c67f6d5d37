/** The external sources' socket on the real kernel: what programs tell, and what they cannot break. */

import { spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, type Mac, parseAddress } from "../../src/lib/address.ts";
import { type ExternalMessage, encodeExternal } from "../../src/lib/extsrc.ts";
import type { Fault } from "../../src/lib/fault.ts";
import { ExternalSource } from "../../src/spin/extsrc.ts";
import { openLinux } from "../../src/system/linux.ts";
import { nativePath, until } from "../system/until.ts";

const system = openLinux({ nativePath, log: () => {} });
const path = join(process.env.TMPDIR!, "extsrc.sock");

const messages: readonly ExternalMessage[] = [
  {
    kind: "packet",
    packet: {
      ...{ source: address("10.77.0.11"), destination: address("198.51.100.10"), protocol: 6 },
      ...{ sourcePort: 41148, destinationPort: 80, icmpType: 0, bytes: 5_000_000_000n, packets: 6n },
    },
  },
  { kind: "query", query: { client: address("fd77::11"), name: "web.example.net." } },
  { kind: "answer", answer: { name: "web.example.net.", address: address("198.51.100.10"), ttlSeconds: 60 } },
  { kind: "neighbour", neighbour: { address: address("10.77.0.11"), mac: "02:77:00:00:00:11" as Mac } },
];

function address(text: string): Address {
  return parseAddress(text)!;
}

function open(options: { readonly isLittle?: boolean } = {}) {
  const told: unknown[] = [];
  const source = new ExternalSource(system, {
    ...{ path, ...options },
    sink: {
      packet: (packet) => told.push(packet),
      query: (query) => told.push(query),
      answer: (answer) => told.push(answer),
      neighbour: (neighbour) => told.push(neighbour),
    },
  });
  return { source, told };
}

function client() {
  return system.unix({ type: "datagram", connect: path }, { onMessage() {}, onOverrun() {}, onClose() {} });
}

const contentOf = (message: ExternalMessage) => Object.values(message)[1];

test("messages of all kinds reach the sink in order; the socket is for its owner, and goes with us", async () => {
  const { source, told } = open();
  assert.is(statSync(path).mode & 0o777, 0o600);
  const sender = client();
  for (const message of messages) sender.send(encodeExternal(message));
  await until(() => told.length === messages.length, "all messages");
  assert.equal(told, messages.map(contentOf));
  assert.equal(source.counters.taken, { packet: 1, query: 1, answer: 1, neighbour: 1 });
  sender.close();
  source.close();
  assert.not.ok(existsSync(path));
});

test("whatever is sent, the socket stays open and each loss has its reason", async () => {
  const { source, told } = open();
  const sender = client();
  const [flow] = messages.map((message) => encodeExternal(message));
  const type = flow!.slice();
  type.fill(9, 0, 4);
  const family = flow!.slice();
  family[8] = 7;
  for (const bytes of [
    new Uint8Array(0),
    flow!.slice(0, 20),
    type,
    family,
    new Uint8Array(200_000),
    Uint8Array.from({ length: 1032 }, (_, at) => at & 255),
  ]) {
    sender.send(bytes);
    // The next one shows that the one before did no harm.
    const before = told.length;
    sender.send(flow!);
    await until(() => told.length > before, "a message after a bad one");
  }
  assert.equal(source.counters.dropped, {
    ...{ length: 4, type: 1, family: 1, count: 0, name: 0, mac: 0, long: 0 },
  });
  assert.is(source.counters.taken.packet, 6);
  sender.close();
  source.close();
});

test("a message that is longer than any buffer of ours is counted, too", async () => {
  const { source, told } = open();
  const sender = client();
  // More than the default of a socket's buffer goes only where the administrator allows it.
  let isSent = true;
  try {
    sender.send(new Uint8Array(300_000));
  } catch {
    isSent = false;
  }
  sender.send(encodeExternal(messages[0]!));
  await until(() => told.length === 1, "the message after it");
  const { length, long } = source.counters.dropped;
  assert.is(length + long, isSent ? 1 : 0);
  sender.close();
  source.close();
});

test("messages of the other byte order are read when told so, else dropped", async () => {
  for (const isLittle of [true, false]) {
    const { source, told } = open({ isLittle });
    const sender = client();
    sender.send(encodeExternal(messages[0]!, !isLittle));
    sender.send(encodeExternal(messages[0]!, isLittle));
    await until(() => told.length === 1, "the message in our order");
    assert.equal(told, [contentOf(messages[0]!)]);
    assert.is(source.counters.dropped.length, 1);
    sender.close();
    source.close();
  }
});

test("a socket that is served is left alone, one that is left over is replaced", async () => {
  const codeOf = (call: () => unknown) => {
    try {
      call();
    } catch (thrown) {
      return (thrown as Fault).code;
    }
    return "no fault";
  };
  const first = open();
  assert.is(codeOf(open), "conflict");
  const sender = client();
  sender.send(encodeExternal(messages[0]!));
  await until(() => first.told.length === 1, "a message to the first");
  first.source.close();
  sender.close();
  const killed = spawn("socat", [`UNIX-RECV:${path}`, "-"], { stdio: "ignore" });
  await until(() => existsSync(path), "another program's socket");
  const ended = new Promise((resolve) => killed.on("exit", resolve));
  killed.kill("SIGKILL");
  await ended;
  const second = open();
  const again = client();
  again.send(encodeExternal(messages[0]!));
  await until(() => second.told.length === 1, "a message to the one that replaced it");
  again.close();
  second.source.close();
  assert.is(
    codeOf(() => new ExternalSource(system, { path: "@everybody", sink: first.source as never })),
    "invalid",
  );
});

test.run();
