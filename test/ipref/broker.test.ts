/** The broker on a real socket: recorded exchanges, and clients of every bad kind. */

import { mkdtempSync, readdirSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  agentOwner,
  Broker,
  type BrokerOptions,
  type MappingDoor,
  openBroker,
  sourceLifeMs,
} from "../../src/ipref/broker.ts";
import { openMappings } from "../../src/ipref/mappings.ts";
import { decodeBody, decodeHead, encodeV1 } from "../../src/ipref/protocol.ts";
import type { StaticRecord } from "../../src/ipref/sources.ts";
import type { Address, Prefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { AF, nameLength, Row, rowLength, SOCK, unixAddress } from "../../src/system/native.ts";
import type { UnixSocket } from "../../src/system/system.ts";
import { Machine } from "../fake/machine.ts";
import { native, nativePath, until } from "../system/until.ts";
import { type Exchange, handMade, recorded } from "./exchanges.ts";

const system = openLinux({ nativePath });
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));
const address = (text: string) => text as Address;
const path = "/run/broker/mapper.sock";
const families = { lan: 4, tunnel: 4 } as const;
const made = handMade();
const owner = `${agentOwner}internal:example.com`;

/** Mappings that are lists: `fixed` ones by name, the others numbered in the order in which they are asked for. */
class Lists implements MappingDoor {
  readonly encoded = new Map<string, Address>([["203.0.113.98 2823", address("10.248.2.222")]]);
  readonly bySource = new Map<string, { hash: bigint; records: readonly StaticRecord[] }>();
  hold: Promise<void> | undefined;
  fault: Fault | undefined;

  async encodedFor(context: Address, reference: bigint): Promise<Address> {
    await this.hold;
    if (this.fault) throw this.fault;
    if (reference === 0n || /^(?:198\.51\.100\.97|0\.|224\.|10\.240\.)/.test(context)) {
      throw new Fault("invalid", "Cannot make mapping: it is no remote host");
    }
    const key = `${context} ${reference}`;
    const known = this.encoded.get(key) ?? address(`10.250.16.${this.encoded.size}`);
    this.encoded.set(key, known);
    return known;
  }

  async extendSource(name: string, records: readonly StaticRecord[], hash: bigint): Promise<void> {
    const before = this.bySource.get(name);
    this.bySource.set(name, {
      hash,
      records: [...(before?.hash === hash ? before.records : []), ...records],
    });
    if (this.fault) throw this.fault;
  }

  async setSource(name: string, records: readonly StaticRecord[]): Promise<void> {
    assert.equal(records, []);
    this.bySource.delete(name);
  }

  source(name: string) {
    const { hash, records } = this.bySource.get(name) ?? {};
    return records && { hash, count: new Set(records.map(({ reference }) => reference)).size };
  }

  sources() {
    return [...this.bySource.keys()].map((each) => ({ owner: each }));
  }
}

interface Caller {
  readonly socket: UnixSocket;
  readonly answers: Uint8Array[];
  isClosed(): boolean;
  ask(bytes: Uint8Array): Promise<Uint8Array>;
}

function call(): Caller {
  const answers: Uint8Array[] = [];
  let closed = false;
  const socket = system.unix(
    { type: "seqpacket", connect: path },
    {
      onMessage: (bytes) => answers.push(bytes.slice()),
      onOverrun() {},
      onClose: () => {
        closed = true;
      },
    },
  );
  return {
    socket,
    answers,
    isClosed: () => closed,
    async ask(bytes) {
      const before = answers.length;
      socket.send(bytes);
      await until(() => answers.length > before || closed, `an answer to ${hexOf(bytes)}`);
      assert.not.ok(closed, "closed in place of an answer");
      return answers[before]!;
    },
  };
}

async function serve(more: Partial<BrokerOptions> = {}) {
  const door = new Lists();
  const broker = await openBroker(system, door, { path, families, ...more });
  return { door, broker };
}

/** Allocated addresses differ: those of ours are not compared. */
function blurred(bytes: Uint8Array): string {
  const head = decodeHead(bytes);
  const body = decodeBody(head, bytes);
  if (body?.kind === "encode" && body.record?.encoded) bytes.fill(0, 8, 12);
  return hexOf(bytes);
}

test("the socket is for its group only, and goes with the broker", async () => {
  const { broker } = await serve();
  const { mode } = statSync(path);
  assert.is(mode & 0o777, 0o660);
  let code = "";
  await serve().catch((fault: Fault) => {
    code = fault.code;
  });
  assert.is(code, "conflict");
  broker.close();
  assert.equal(readdirSync("/run/broker"), []);
});

test("what CoreDNS' plugin and dns-agent asked the Go gateway gets the same answers", async () => {
  const { broker, door } = await serve();
  for (const name of ["plugin.proxy.log", "dns-agent.proxy.log"]) {
    const caller = call();
    for (const { answer, request, title } of recorded(name)) {
      assert.is(blurred(await caller.ask(request)), blurred(answer!), title);
    }
    caller.socket.close();
  }
  assert.is(door.source(owner)?.count, 4);
  assert.equal(door.bySource.get(owner)!.records[0], {
    kind: "ours",
    address: "192.168.97.22",
    context: "198.51.100.97",
    reference: 22n,
  });
  broker.close();
});

test("requests written by hand get the same answers as from the Go gateway, the same twice", async () => {
  const { broker } = await serve();
  const caller = call();
  const same = [1, 2, 3, 4, 5, 28, 30, 31, 32, 33, 34, 35, 36, 37, 38];
  for (const number of same) {
    const { answer, request, title } = made.get(number) as Exchange;
    assert.is(blurred(await caller.ask(request)), blurred(answer!), title);
  }
  const [first, again] = [caller.answers[0]!, caller.answers[1]!];
  assert.equal(first.subarray(8), again.subarray(8));
  broker.close();
});

test("nonsense gets a refusal in place of an encoded address", async () => {
  const { broker, door } = await serve();
  const caller = call();
  // Our own address, 0.0.0.0, multicast, reference 0, the encode net.
  for (const number of [6, 7, 8, 9, 10, 11]) {
    const { request, title } = made.get(number) as Exchange;
    assert.is(hexOf(await caller.ask(request)), `11c7${hexOf(request.subarray(2, 4))}44000002`, title);
  }
  assert.is(door.encoded.size, 1);
  assert.is(broker.drops.get("unmapped"), 6);
  broker.close();
});

test("a request whose header can be read is refused, whatever is wrong with the rest, and the client may go on", async () => {
  const { broker } = await serve();
  const caller = call();
  const rows: readonly (readonly [Uint8Array, string])[] = [
    // Another IP version, an unknown command, half a record.
    [made.get(21)!.request, "11c7012164000002"],
    [made.get(24)!.request, "11df012444000002"],
    [made.get(26)!.request, "11c7012644000002"],
    // An empty local domain, which ended the Go gateway.
    [made.get(40)!.request, "11ce014044000002"],
    // Names that would be those of another source; a record that is none of ours.
    [
      bytesOf(
        "114f0001 44000007 00000001 1122334455667788 0403613a62000000 04016300".replace(
          "44000007",
          "44000008",
        ),
      ),
      "11cf000144000002",
    ],
    [hosts({ records: [{ encoded: address("10.240.0.9"), reference: 1n }] }), "11ce000944000002"],
    [hosts({ records: [{ reference: 1n }] }), "11ce000944000002"],
  ];
  for (const [request, refusal] of rows) assert.is(hexOf(await caller.ask(request)), refusal, hexOf(request));
  assert.ok(hexOf(await caller.ask(made.get(1)!.request)).startsWith("11870101"));
  broker.close();
});

function hosts(more: object): Uint8Array {
  const body = {
    kind: "hosts",
    batch: 1,
    hash: 5n,
    local: "internal",
    public: "example.com",
    records: [],
  } as const;
  return encodeV1({ mode: "request", id: 9, families }, { ...body, ...more });
}

test("names that are long together are names", async () => {
  const { broker, door } = await serve();
  const caller = call();
  const [local, zone] = ["l".repeat(200), "p".repeat(255)];
  const records = [{ host: address("192.168.97.1"), context: address("198.51.100.97"), reference: 1n }];
  const answer = await caller.ask(hosts({ local, public: zone, records }));
  assert.is(answer[1], 0x8e);
  assert.is(door.source(`${agentOwner}${local}:${zone}`)?.count, 1);
  broker.close();
});

test("marks, records and answers that nobody asked for end their client, and nobody else", async () => {
  const { broker } = await serve();
  const good = call();
  await good.ask(made.get(1)!.request);
  const rows: readonly (readonly [string, string])[] = [
    [hexOf(made.get(27)!.request), "uninvited"],
    // Marks of owner 0 and of a huge one, which ended the Go gateway.
    ["11020001 44000004 00000000 00000001", "uninvited"],
    ["11020001 44000004 7fffffff 00000001", "uninvited"],
    [
      "11010000 4400000b 00000001 00003841 00000000 08080404 c6336461 0000000000000009 3ba0fae96b435bfb",
      "uninvited",
    ],
    ["11870001 44000002", "uninvited"],
    // Another version, a reserved byte, a length that is wrong, less than a header.
    [hexOf(made.get(20)!.request), "malformed"],
    [hexOf(made.get(22)!.request), "malformed"],
    [hexOf(made.get(23)!.request), "malformed"],
    ["1147", "malformed"],
  ];
  const counts = new Map<string, number>();
  for (const [hex, reason] of rows) {
    const bad = call();
    bad.socket.send(bytesOf(hex));
    await until(() => bad.isClosed(), `the end after ${hex}`);
    assert.equal(bad.answers, []);
    counts.set(reason, (counts.get(reason) ?? 0) + 1);
    assert.is(broker.drops.get(reason as "malformed"), counts.get(reason));
  }
  good.socket.send(made.get(25)!.request);
  await good.ask(made.get(2)!.request);
  assert.is(broker.clients, 1);
  broker.close();
});

test("equal ids of two clients are two requests", async () => {
  const { broker, door } = await serve();
  let release = () => {};
  door.hold = new Promise((resolve) => {
    release = resolve;
  });
  const callers = [call(), call()];
  const asked = callers.map((caller) => caller.ask(made.get(1)!.request));
  // The same id twice by one client, too.
  callers[0]!.socket.send(made.get(1)!.request);
  await until(() => broker.clients === 2, "both clients");
  release();
  const [one, two] = await Promise.all(asked);
  assert.equal(one, two);
  await until(() => callers[0]!.answers.length === 2, "the third answer");
  broker.close();
});

test("an answer that is late, a fault and too many requests at a time are refusals", async () => {
  const { broker, door } = await serve();
  const caller = call();
  door.hold = new Promise(() => {});
  for (let count = 0; count < 70; count++) caller.socket.send(made.get(1)!.request);
  await until(() => caller.answers.length === 70, "all refusals");
  assert.ok(caller.answers.every((each) => hexOf(each) === "11c7010144000002"));
  assert.equal([broker.drops.get("busy"), broker.drops.get("late")], [6, 64]);
  door.hold = undefined;
  door.fault = new Fault("limit", "Cannot make mapping: there is no place");
  assert.is(hexOf(await caller.ask(made.get(1)!.request)), "11c7010144000002");
  assert.is(hexOf(await caller.ask(made.get(31)!.request)), "11ce013144000002");
  // What the disk refuses holds all the same.
  door.fault = new Fault("storage", "Cannot keep mappings: no space left on device");
  assert.is(hexOf(await caller.ask(made.get(31)!.request)), hexOf(made.get(31)!.answer!));
  broker.close();
});

test("a hundred idle clients end nobody, and whoever asks is served", async () => {
  const { broker } = await serve({ maxClients: 10 });
  const idle: Caller[] = [];
  for (let count = 1; count <= 100; count++) {
    idle.push(call());
    if (count % 20 === 0) await until(() => (broker.drops.get("clients") ?? 0) === count - 10, "the bound");
  }
  const caller = call();
  await caller.ask(made.get(1)!.request);
  await until(() => idle.filter((each) => each.isClosed()).length === 91, "room for who asks");
  for (const each of idle) each.socket.close();
  caller.socket.close();
  await until(() => broker.clients === 0, "all ends");
  // Who asks is not ended for those who come.
  const asking = Array.from({ length: 10 }, () => call());
  for (const each of asking) await each.ask(made.get(1)!.request);
  const late = call();
  await until(() => late.isClosed(), "the refusal");
  assert.not.ok(asking.some((each) => each.isClosed()));
  broker.close();
});

test("a client that does not read is ended", async () => {
  const { broker } = await serve();
  const netio = native();
  const deaf = netio.open(AF.unix, SOCK.seqpacket, 0);
  assert.is(netio.connect(deaf, unixAddress(path)), 0);
  await until(() => broker.clients === 1, "the client");
  const request = hosts({ local: "l".repeat(255), public: "p".repeat(255) });
  const row = new Int32Array(rowLength);
  row[Row.length] = request.length;
  await until(() => {
    for (let count = 0; count < 32; count++) netio.send(deaf, request, new Uint8Array(nameLength), row, 1);
    return broker.clients === 0;
  }, "its end");
  assert.is(broker.drops.get("deaf"), 1);
  netio.close(deaf);
  broker.close();
});

test("a source ends some time after its agent: not while the agent is there, not while it is confirmed", async () => {
  const machine = new Machine();
  const door = new Lists();
  door.bySource.set("hosts:/etc/hosts", { hash: 0n, records: [] });
  door.bySource.set(`${agentOwner}old:zone`, { hash: 0n, records: [] });
  const broker = new Broker(machine, door, { path: "@mapper", families });
  const agent = machine.unix(
    { type: "seqpacket", connect: "@mapper" },
    { onMessage() {}, onOverrun() {}, onClose() {} },
  );
  agent.send(made.get(31)!.request);
  await machine.settle();
  assert.ok(door.bySource.has(owner));
  await machine.advance(sourceLifeMs + 120_000);
  assert.equal([...door.bySource.keys()], ["hosts:/etc/hosts", owner]);
  agent.close();
  await machine.advance(sourceLifeMs / 2);
  const again = machine.unix(
    { type: "seqpacket", connect: "@mapper" },
    { onMessage() {}, onOverrun() {}, onClose() {} },
  );
  again.send(made.get(32)!.request);
  await machine.settle();
  again.close();
  await machine.advance(sourceLifeMs / 2 + 120_000);
  assert.ok(door.bySource.has(owner));
  await machine.advance(sourceLifeMs / 2);
  assert.equal([...door.bySource.keys()], ["hosts:/etc/hosts"]);
  broker.close();
  assert.is(machine.timers, 0);
});

test("with the gateway's own mappings the recorded exchanges come out the same, and last over a restart", async () => {
  const directory = mkdtempSync(join(tmpdir(), "broker-"));
  const open = async () => {
    const { mappings } = await openMappings(system, {
      ...{ directory, boot: "", encodeNet: "10.240.0.0/12" as Prefix, tunnel: 4 },
      ...{ context: address("198.51.100.97"), gatewayReference: 1n },
    });
    return { mappings, broker: await openBroker(system, mappings, { path, families }) };
  };
  const first = await open();
  const [encoded] = [address("10.248.2.222")];
  await first.mappings.setSource("hosts:/etc/hosts", [
    { kind: "theirs", address: encoded, context: address("203.0.113.98"), reference: 2823n },
  ]);
  const caller = call();
  const all = [...recorded("plugin.proxy.log"), ...recorded("dns-agent.proxy.log")];
  for (const { answer, request, title } of all) {
    assert.is(blurred(await caller.ask(request)), blurred(answer!), title);
  }
  for (const number of [6, 7, 8, 9, 10, 11])
    assert.is((await caller.ask(made.get(number)!.request))[1], 0xc7);
  const before = await caller.ask(made.get(1)!.request);
  assert.is(first.mappings.localOf(22n), "192.168.97.22");
  first.broker.close();
  await first.mappings.close();
  const second = await open();
  const again = call();
  assert.equal(await again.ask(made.get(1)!.request), before);
  const { answer, request } = recorded("dns-agent.proxy.log")[1]!;
  assert.is(hexOf(await again.ask(request)), hexOf(answer!));
  second.broker.close();
  await second.mappings.close();
});

test.run();
