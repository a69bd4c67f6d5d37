/** Imports from zones: the hash of dns-agent, quorum, names, faults, ends; and a real zone of dnsmasq. */

import { spawn } from "node:child_process";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { DnsClient } from "../../src/dns/client.ts";
import type { StaticRecord } from "../../src/ipref/sources.ts";
import {
  hashOf,
  type ImportOptions,
  Imports,
  importOwner,
  parseSource,
  type TransferParts,
} from "../../src/ipref/transfer.ts";
import type { Address } from "../../src/lib/address.ts";
import { CLASS_IN, type DnsRecord, TYPE_A, TYPE_TXT } from "../../src/lib/dns.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Endpoint } from "../../src/system/system.ts";
import { Machine } from "../fake/machine.ts";
import { nativePath, until } from "../system/until.ts";

const address = (text: string) => text as Address;
const encoder = new TextEncoder();
const owner = `${importOwner}internal.:example.com.`;
const hour = 3_600_000;

const txt = (name: string, ...texts: string[]): DnsRecord => ({
  ...{ name, type: TYPE_TXT, class: CLASS_IN, ttlSeconds: 300 },
  texts: texts.map((each) => encoder.encode(each)),
});

const published = (host: string, reference: bigint, context = "198.51.100.97") => ({
  ...{ kind: "ours" as const, address: address(host) },
  ...{ context: address(context), reference },
});

/** Recorded from dns-agent. */
const agentRecords = [1, 11, 22, 33].map((last) => published(`192.168.97.${last}`, BigInt(last)));
const agentHash = 0x5fce473ef931d7f1n;

test("hashOf() is the hash of dns-agent", () => {
  assert.is(hashOf(agentRecords), agentHash);
  assert.is(hashOf([]), 0xcbf29ce484222325n);
});

test("hashOf() is FNV-1a in numbers as large as they are", () => {
  const long = Array.from({ length: 50 }, (_, index) =>
    published(`10.${index}.255.1`, (BigInt(index) << 120n) + 0xffff_ffff_ffffn),
  );
  let hash = 0xcbf29ce484222325n;
  for (const { address: own, context, reference } of long) {
    const bytes = [...own.split("."), ...context.split(".")].map(Number);
    for (let shift = 120n; shift >= 0n; shift -= 8n) bytes.push(Number((reference >> shift) & 255n));
    for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  assert.is(hashOf(long), hash);
});

class Door {
  readonly held = new Map<string, { records: readonly StaticRecord[]; hash: bigint | undefined }>();
  changes = 0;

  async setSource(name: string, records: readonly StaticRecord[], hash?: bigint): Promise<void> {
    this.changes++;
    if (records.length === 0 && hash === undefined) this.held.delete(name);
    else this.held.set(name, { records, hash });
  }

  source(name: string) {
    return this.held.get(name);
  }

  sources() {
    return [...this.held.keys()].map((each) => ({ owner: each }));
  }
}

const server = (last: number): Endpoint => ({ address: address(`192.0.2.${last}`), port: 53 });
const zone = [11, 22, 33, 1].map((last) => txt(`h${last}.example.com.`, `AA 198.51.100.97 + ${last}`));

/** Servers by the last number of their address: what they say. */
function play(servers: Record<number, readonly DnsRecord[] | Fault>, more: Partial<ImportOptions> = {}) {
  const machine = new Machine();
  const door = new Door();
  const names = new Map<string, Address>([
    ...[1, 11, 22, 33].map((last) => [`4 h${last}.internal.`, address(`192.168.97.${last}`)] as const),
    ["4 h1.lab.internal.", address("192.168.98.1")],
    ["4 gw.example.com.", address("198.51.100.97")],
    ["6 h1.internal.", address("fd97::1")],
  ]);
  const troubles: string[] = [];
  const parts: TransferParts = {
    client: {
      async transfer(_, { address: at }) {
        const says = servers[Number(at.split(".")[3])]!;
        if (says instanceof Fault) throw says;
        return [...says];
      },
    },
    door,
    resolve: async (name, family) => {
      if (name.startsWith("broken")) throw new Fault("timeout", "Cannot ask: no answer");
      return names.get(`${family} ${name}`);
    },
    onTrouble: (line) => troubles.push(line),
  };
  const all = Object.keys(servers).map((last) => server(Number(last)));
  const imports = new Imports(machine, parts, {
    sources: [{ local: "internal", public: "example.com.", servers: all }],
    families: { lan: 4, tunnel: 4 },
    ...more,
  });
  return { machine, door, imports, servers, troubles, parts };
}

const down = new Fault("closed", "Cannot transfer: connection refused");

test("a zone is imported some seconds after the start, as dns-agent takes it in, and again after its time", async () => {
  const { door, imports, machine } = play({ 1: zone });
  await machine.advance(4_999);
  assert.is(door.changes, 0);
  await machine.advance(1);
  assert.equal(door.held.get(owner), { records: agentRecords, hash: agentHash });
  await machine.advance(10 * hour);
  // Nothing new: nothing is written.
  assert.is(door.changes, 1);
  assert.ok(machine.now() - imports.status[0]!.heldAt! < hour);
  imports.close();
  assert.is(machine.timers, 0);
});

test("more than half of the servers have to agree", async () => {
  const other = zone.slice(1);
  for (const [servers, holds] of [
    [{ 1: zone, 2: zone, 3: other }, true],
    [{ 1: zone, 2: other }, false],
    [{ 1: zone, 2: down }, false],
    [{ 1: zone, 2: down, 3: zone }, true],
    [{ 1: zone, 2: down, 3: other }, false],
    [{ 1: zone, 2: [...zone].reverse() }, true],
  ] as const) {
    const { door, imports, troubles } = play(servers);
    await imports.refresh();
    assert.is(door.held.has(owner), holds);
    assert.is(troubles.length, holds ? 0 : 1);
    imports.close();
  }
});

test("names: by address or name, in zones below, what makes no sense left out, of two the first", async () => {
  const { door, imports } = play({
    1: [
      txt(
        "h1.example.com.",
        "AA GW.example.com + 1",
        "v=spf1",
        "AA 198.51.100.97 + x",
        "AA 198.51.100.97 + 101",
      ),
      txt("H1.lab.example.com.", "AA 198.51.100.97 + 2"),
      txt("h11.example.com.", "AA 198.51.100.97 + 1"),
      txt("h22.example.org.", "AA 198.51.100.97 + 22"),
      txt("example.com.", "AA 198.51.100.97 + 23"),
      txt("xexample.com.", "AA 198.51.100.97 + 24"),
      txt("unknown.example.com.", "AA 198.51.100.97 + 25"),
      txt("h33.example.com.", "AA 2001:db8::97 + 27"),
      txt("h33.example.com.", "AA nobody.example.com + 28"),
      { ...txt("h22.example.com."), type: TYPE_A },
      txt(
        `${"l".repeat(63)}.${"l".repeat(63)}.${"l".repeat(63)}.${"l".repeat(49)}.example.com.`,
        "AA 198.51.100.97 + 29",
      ),
    ],
  });
  await imports.refresh();
  assert.equal(door.held.get(owner)!.records, [
    published("192.168.97.1", 1n),
    published("192.168.98.1", 2n),
    published("192.168.97.1", 101n),
  ]);
  imports.close();
});

test("while nobody says which address a name has, a zone stays as it is; what never gets one is left out", async () => {
  const { door, imports, machine, servers, troubles } = play({ 1: zone, 2: zone }, { intervalMs: hour });
  await imports.refresh();
  assert.equal(door.held.get(owner), { records: agentRecords, hash: agentHash });
  servers[1] = [...zone, txt("broken.example.com.", "AA 198.51.100.97 + 26")].slice(1);
  servers[2] = servers[1];
  await machine.advance(hour);
  assert.is(imports.status[0]!.trouble, "Cannot ask: no answer; Cannot ask: no answer");
  await machine.advance(2 * 60_000);
  assert.is(troubles.length, 1);
  assert.equal(door.held.get(owner), { records: agentRecords, hash: agentHash });
  // 1, 2, 4, 8 and 16 minutes later the others are not kept from changing any more.
  await machine.advance(35 * 60_000);
  assert.equal(
    door.held.get(owner)!.records.map(({ reference }) => reference),
    [1n, 22n, 33n],
  );
  assert.is(imports.status[0]!.trouble, undefined);
  imports.close();
});

test("a resolver that is back after some minutes costs a zone nothing", async () => {
  const { door, imports, machine, parts } = play({ 1: zone });
  await imports.refresh();
  const { resolve } = parts;
  parts.resolve = async () => {
    throw new Fault("closed", "Cannot ask 127.0.0.1: closed");
  };
  await machine.advance(hour);
  assert.is(imports.status[0]!.trouble, "Cannot ask 127.0.0.1: closed");
  assert.is(door.changes, 1);
  parts.resolve = resolve;
  await machine.advance(10 * 60_000);
  assert.is(imports.status[0]!.trouble, undefined);
  assert.equal([door.changes, door.held.get(owner)!.records], [1, agentRecords]);
  imports.close();
});

test("in an IPv6 LAN hosts have IPv6 addresses", async () => {
  const { door, imports } = play({ 1: zone }, { families: { lan: 6, tunnel: 4 } });
  await imports.refresh();
  assert.equal(door.held.get(owner)!.records, [published("fd97::1", 1n)]);
  imports.close();
});

test("a zone that can no longer be had stays for a while, then ends, and comes back", async () => {
  const { door, imports, machine, servers, troubles } = play({ 1: zone }, { staleMs: 4 * hour });
  await machine.advance(5_000);
  servers[1] = down;
  await machine.advance(4 * hour - 60_000);
  assert.ok(door.held.has(owner));
  assert.equal(imports.status[0]!.trouble, down.message);
  // One line, however often it is tried.
  assert.equal(troubles, [`Import of example.com.: ${down.message}`]);
  await machine.advance(2 * hour);
  assert.not.ok(door.held.has(owner));
  servers[1] = zone;
  await machine.advance(hour);
  assert.ok(door.held.has(owner));
  assert.is(imports.status[0]!.trouble, undefined);
  imports.close();
});

test("a zone without records is one whose hosts are no longer published", async () => {
  const { door, imports, servers } = play({ 1: zone });
  await imports.refresh();
  servers[1] = [];
  await imports.refresh();
  assert.equal(door.held.get(owner), { records: [], hash: 0xcbf29ce484222325n });
  imports.close();
});

test("what is no longer named ends at once, others' sources stay", async () => {
  const machine = new Machine();
  const { door, parts } = play({ 1: zone });
  for (const each of [`${importOwner}old.:zone.`, owner, "user", "dns:internal:example.com"]) {
    door.held.set(each, { records: agentRecords, hash: 1n });
  }
  const imports = new Imports(machine, parts, {
    // Blanks are the typist's.
    sources: [{ local: " internal.", public: "EXAMPLE.com ", servers: [server(1)] }],
    families: { lan: 4, tunnel: 4 },
  });
  assert.equal([...door.held.keys()], [owner, "user", "dns:internal:example.com"]);
  imports.close();
  assert.throws(
    () =>
      new Imports(machine, parts, {
        sources: [{ local: "a..b", public: "x", servers: [] }],
        families: { lan: 4, tunnel: 4 },
      }),
    (thrown: unknown) => thrown instanceof SyntaxError,
  );
});

test("dnsmasq's zone is imported over TCP", async () => {
  const port = 5700;
  const dnsmasq = spawn("dnsmasq", [
    ...["-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"],
    ...[`--port=${port}`, "--listen-address=127.0.0.1", "--pid-file="],
    ...["--auth-server=ns.example.com,127.0.0.1", "--auth-zone=example.com", "--auth-peer=127.0.0.1"],
    ...["--auth-sec-servers=ns2.example.org", "--auth-soa=7"],
    ...[1, 11, 22, 33].map((last) => `--txt-record=h${last}.example.com,AA 198.51.100.97 + ${last}`),
  ]);
  const system = openLinux({ nativePath });
  const upstream = { address: address("127.0.0.1"), port };
  const { door, parts } = play({ 1: [] });
  const client = new DnsClient(system, { upstreams: [upstream] });
  const imports = new Imports(
    system,
    { ...parts, client },
    {
      sources: [{ local: "internal", public: "example.com", servers: [upstream] }],
      families: { lan: 4, tunnel: 4 },
    },
  );
  await until(async () => {
    await imports.refresh();
    return door.held.has(owner);
  }, "the import");
  assert.equal(door.held.get(owner), { records: agentRecords, hash: agentHash });
  imports.close();
  client.close();
  dnsmasq.kill();
});

test("parseSource: LOCAL:PUBLIC:SERVER as dns-agent takes it, blanks aside, and nothing else", () => {
  assert.equal(parseSource("internal:example.com:192.0.2.1"), {
    local: "internal",
    public: "example.com",
    servers: [{ address: "192.0.2.1", port: 53 }],
  });
  assert.equal(parseSource(" internal:example.com:192.0.2.1:5300, [2001:db8::1],[2001:db8::2]:54 ").servers, [
    { address: "192.0.2.1", port: 5300 },
    { address: "2001:db8::1", port: 53 },
    { address: "2001:db8::2", port: 54 },
  ]);
  for (const wrong of [
    "",
    "a",
    "a:b",
    "a:b:",
    ":b:192.0.2.1",
    "a:b:host",
    "a:b:192.0.2.1:0",
    "a:b:192.0.2.1:99999",
    "a:b:2001:db8::1",
    "a:b:192.0.2.1,",
  ]) {
    assert.throws(
      () => parseSource(wrong),
      (error: unknown) => error instanceof SyntaxError,
      wrong,
    );
  }
});

test.run();
