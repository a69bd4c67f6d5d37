/** Names of other networks: by dig through our server with dnsmasq as upstream, and decisions with a played upstream. */

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { encodeOutcome, type Outcome } from "../../src/dns/answer.ts";
import { type Answered, type Asking, DnsClient } from "../../src/dns/client.ts";
import type { DnsQuery } from "../../src/dns/query.ts";
import { openDnsServer } from "../../src/dns/server.ts";
import { type EncodingDoor, Resolver, type ResolverOptions } from "../../src/ipref/resolver.ts";
import type { Address } from "../../src/lib/address.ts";
import {
  CLASS_IN,
  type DnsMessage,
  type DnsRecord,
  decodeMessage,
  encodeMessage,
  foldName,
  TYPE_A,
  TYPE_AAAA,
  TYPE_CNAME,
  TYPE_SOA,
  TYPE_TXT,
} from "../../src/lib/dns.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { Machine } from "../fake/machine.ts";
import { nativePath, until } from "../system/until.ts";

const system = openLinux({ nativePath });
const address = (text: string) => text as Address;
const encoder = new TextEncoder();
const upstreamPort = 5600;
const ownPort = 5601;

/** Encoded addresses by reference, each with an hour left unless said otherwise. */
class Door implements EncodingDoor {
  readonly asked: string[] = [];
  leftMs = 3_600_000;
  six = false;

  async encodedFor(context: Address, reference: bigint): Promise<Address> {
    this.asked.push(`${context} + ${reference}`);
    if (reference === 0n) throw new Fault("invalid", "Cannot make mapping: it is no reference");
    return address(this.six ? `fd40::10:${reference.toString(16)}` : `10.250.16.${reference & 255n}`);
  }

  remainingMs(): number {
    return this.leftMs;
  }
}

let dnsmasq: ChildProcess;
let stop: () => Promise<void>;
const door = new Door();

test.before(async () => {
  const texts: readonly (readonly string[])[] = [
    ["hostb", "AA gwb.remote.net + 2823"],
    ["hostq", "AA gwb.remote.net + 0-b-b-17"],
    ["multi", "AA 203.0.113.98 + 61"],
    ["multi", "AA 203.0.113.98 + 62"],
    ["v6gw", "AA 2001:db8::98 + 5"],
    ["dotted", "AA 203.0.113.98 + 0.85"],
    ["nogw", "AA nosuch.remote.net + 5"],
    ["space", "AA 203.0.113.98+64"],
    ["both", "AA 203.0.113.98 + 65"],
    ["some", "v=spf1 -all", "AA 203.0.113.98 + 66"],
  ];
  // On the command line a comma cannot be quoted.
  const settings = join(mkdtempSync(join(tmpdir(), "resolver-")), "dnsmasq.conf");
  writeFileSync(settings, 'txt-record=comma.remote.net,"AA 203.0.113.98 + 1,234"\n');
  dnsmasq = spawn("dnsmasq", [
    ...["-k", "-C", settings, "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"],
    ...[`--port=${upstreamPort}`, "--listen-address=127.0.0.1", "--pid-file=", "--local=/remote.net/"],
    ...["--local-ttl=300", "--auth-ttl=300"],
    ...texts.map(([name, ...all]) => `--txt-record=${name}.remote.net,${all.join(",")}`),
    "--host-record=gwb.remote.net,203.0.113.98",
    "--host-record=plain.remote.net,192.0.2.80,2001:db8::80",
    "--host-record=both.remote.net,192.0.2.81",
    ...Array.from({ length: 40 }, (_, index) => `--txt-record=long.remote.net,${"x".repeat(100)}${index}`),
    "--mx-host=plain.remote.net,mail.remote.net,10",
  ]);
  const client = new DnsClient(system, {
    upstreams: [{ address: address("127.0.0.1"), port: upstreamPort }],
  });
  await until(
    () =>
      client.ask({ name: "plain.remote.net.", type: TYPE_A }).then(
        () => true,
        () => false,
      ),
    "dnsmasq",
  );
  const resolver = new Resolver(
    system,
    { client, door },
    { zones: ["remote.net"], families: { lan: 4, tunnel: 4 } },
  );
  const server = await openDnsServer(system, {
    places: [{ address: address("127.0.0.1"), port: ownPort }],
    answer: (query) => resolver.answer(query),
  });
  stop = () => server.close();
});

test.after(async () => {
  dnsmasq.kill();
  await stop();
});

const run = promisify(execFile);
async function dig(...args: string[]): Promise<string> {
  const all = ["@127.0.0.1", "-p", String(ownPort), "+tries=1", "+timeout=20", "+nocookie", ...args];
  return run("dig", all).then(
    ({ stdout }) => stdout,
    (failed) => failed.stdout,
  );
}

/** As the plugin of CoreDNS answered the same zone, but for what it did wrong. */
const rows: readonly (readonly [string, string, readonly string[]])[] = [
  ["hostb", "A", ["10.250.16.7"]],
  ["hostq", "A", ["10.250.16.23"]],
  ["multi", "A", ["10.250.16.61", "10.250.16.62"]],
  ["space", "A", ["10.250.16.64"]],
  ["some", "A", ["10.250.16.66"]],
  ["both", "A", ["10.250.16.65"]],
  ["plain", "A", ["192.0.2.80"]],
  ["plain", "AAAA", ["2001:db8::80"]],
  // What is no IPREF address of this tunnel is none.
  ["v6gw", "A", []],
  ["comma", "A", []],
  ["dotted", "A", []],
  ["nogw", "A", []],
  // Not the A record.
  ["hostb", "AAAA", []],
  ["both", "AAAA", []],
];
for (const [name, type, answers] of rows) {
  test(`${name} ${type}: ${answers.join(" ") || "nothing"}`, async () => {
    const text = await dig(`${name}.remote.net`, type);
    assert.match(text, /status: NOERROR/);
    const found = [...text.matchAll(/^\S+\.remote\.net\.\s+(\d+)\s+IN\s+(\S+)\s+(\S+)$/gm)];
    assert.equal(found.map(([, , , data]) => data).sort(), answers);
    for (const [, ttl, shown] of found) assert.equal([ttl, shown], ["300", type]);
  });
}

test("other types, other classes and names that are not there are as the upstream says, and other zones refused", async () => {
  assert.match(await dig("hostb.remote.net", "TXT"), /IN\s+TXT\s+"AA gwb\.remote\.net \+ 2823"/);
  assert.match(await dig("plain.remote.net", "MX"), /IN\s+MX\s+10 mail\.remote\.net\./);
  assert.match(await dig("nosuch.remote.net", "A"), /status: NXDOMAIN/);
  for (const name of ["example.net", "xremote.net", "a\\.remote.net", "net"]) {
    assert.match(await dig(name, "A"), /status: REFUSED/, name);
  }
  assert.match(await dig("hostB.Remote.net", "A"), /^hostB\.Remote\.net\.\s+\d+\s+IN\s+A\s+10\.250\.16\.7$/m);
  const negative = await dig("hostb.remote.net", "AAAA");
  assert.match(negative, /AUTHORITY: 1/);
  assert.match(negative, /flags: qr rd ra;/);
  const cut = await dig("long.remote.net", "TXT", "+ignore");
  assert.match(cut, /flags: qr[a-z ]* tc/);
  assert.match(await dig("long.remote.net", "TXT"), /ANSWER: 40/);
  assert.match(
    await dig("multi.remote.net", "A", "+tcp", "+noedns"),
    /ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 0/,
  );
});

/** An upstream of records, without a socket. */
class Upstream {
  readonly asked: Asking[] = [];
  readonly records: DnsRecord[];
  fault: Fault | undefined;
  rcode = 0;
  authorities: readonly DnsRecord[] = [];

  constructor(records: readonly DnsRecord[]) {
    this.records = [...records];
  }

  async ask(asking: Asking): Promise<Answered> {
    this.asked.push(asking);
    if (this.fault) throw this.fault;
    const answers: DnsRecord[] = [];
    for (let name = foldName(asking.name); ; ) {
      const own = this.records.filter((each) => foldName(each.name) === name);
      answers.push(...own.filter(({ type }) => type === asking.type));
      const alias = own.find(({ type }) => type === TYPE_CNAME);
      if (alias === undefined) break;
      answers.push(alias);
      name = foldName(alias.target!);
    }
    const message: DnsMessage = {
      id: 1,
      flags: {
        response: true,
        opcode: 0,
        authoritative: false,
        truncated: false,
        recursionDesired: true,
        recursionAvailable: true,
        authenticData: true,
        checkingDisabled: false,
        rcode: this.rcode,
      },
      questions: [{ name: asking.name, type: asking.type, class: CLASS_IN }],
      answers,
      ...(this.authorities.length > 0 && { authorities: this.authorities }),
    };
    return { message, bytes: encodeMessage(message) };
  }
}

const record = { class: CLASS_IN, ttlSeconds: 300 };
const aa = (name: string, text: string, ttlSeconds = 300): DnsRecord => ({
  ...{ ...record, name, type: TYPE_TXT, ttlSeconds },
  texts: [encoder.encode(`AA ${text}`)],
});
const host = (name: string, text: string, ttlSeconds = 300): DnsRecord => ({
  ...{ ...record, name, ttlSeconds, type: text.includes(":") ? TYPE_AAAA : TYPE_A },
  address: address(text),
});
const alias = (name: string, target: string, ttlSeconds = 300): DnsRecord => ({
  ...{ ...record, name, type: TYPE_CNAME, ttlSeconds },
  target,
});

function play(records: readonly DnsRecord[], more: Partial<ResolverOptions> = {}) {
  const machine = new Machine();
  const upstream = new Upstream(records);
  const own = new Door();
  const options = { zones: ["."], families: { lan: 4, tunnel: 4 }, ...more } as const;
  const resolver = new Resolver(machine, { client: upstream, door: own }, options);
  return { machine, upstream, door: own, resolver };
}

function query(name: string, type: number, more: Partial<DnsQuery> = {}): DnsQuery {
  const flags = { recursionDesired: true, checkingDisabled: false, authenticData: false };
  return { id: 1, question: { name, type, class: CLASS_IN }, ...flags, ...more };
}

async function ask(resolver: Resolver, name: string, type: number): Promise<DnsMessage> {
  const asked = query(name, type);
  const outcome: Outcome = await resolver.answer(asked);
  return decodeMessage(encodeOutcome(asked, outcome, 65_535));
}

const shown = (message: DnsMessage) =>
  message.answers.map((each) => `${each.name} ${each.ttlSeconds} ${each.target ?? each.address}`);

test("an answer lives no longer than its records, its gateway's name, its aliases and its mapping", async () => {
  const gateway = host("gw.z.", "203.0.113.98", 200);
  for (const [records, leftMs, ttl] of [
    [[aa("h.z.", "203.0.113.98 + 5", 300)], Number.POSITIVE_INFINITY, 300],
    [[aa("h.z.", "203.0.113.98 + 5", 86_400)], 14_400_000, 3600],
    [[aa("h.z.", "203.0.113.98 + 5", 300)], 12_999, 12],
    [[aa("h.z.", "gw.z + 5", 300), gateway], 14_400_000, 200],
    [[alias("h.z.", "x.z.", 100), aa("x.z.", "gw.z + 5", 300), gateway], 14_400_000, 100],
    [[aa("h.z.", "203.0.113.98 + 5", 0)], 14_400_000, 0],
  ] as const) {
    const { door: own, resolver } = play(records);
    own.leftMs = leftMs;
    const { answers } = await ask(resolver, "h.z.", TYPE_A);
    assert.is(answers.at(-1)!.ttlSeconds, ttl);
    assert.is(answers.at(-1)!.address, "10.250.16.5");
  }
});

test("aliases stay in the answer, in the client's spelling, also where there is nothing else", async () => {
  const { resolver } = play([alias("www.z.", "h.z."), aa("h.z.", "203.0.113.98 + 5")]);
  assert.equal(shown(await ask(resolver, "WWW.z.", TYPE_A)), ["WWW.z. 300 h.z.", "h.z. 300 10.250.16.5"]);
  const none = await ask(resolver, "www.z.", TYPE_AAAA);
  assert.equal(shown(none), ["www.z. 300 h.z."]);
  assert.is(none.authorities?.[0]?.type, TYPE_SOA);
});

test("with an IPv6 LAN or tunnel the other types and context addresses count", async () => {
  const records = [
    aa("h.z.", "gw.z + 5"),
    host("gw.z.", "203.0.113.98"),
    host("gw.z.", "2001:db8::98"),
    aa("four.z.", "203.0.113.98 + 6"),
  ];
  const { door: own, resolver } = play(records, { families: { lan: 6, tunnel: 6 } });
  own.six = true;
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_AAAA)), ["h.z. 300 fd40::10:5"]);
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_A)), []);
  assert.equal(own.asked, ["2001:db8::98 + 5"]);
  assert.equal(shown(await ask(resolver, "four.z.", TYPE_AAAA)), []);
});

test("a failing upstream is a failure, never a plain address", async () => {
  const { machine, resolver, upstream } = play([aa("h.z.", "203.0.113.98 + 5"), host("h.z.", "192.168.1.5")]);
  upstream.fault = new Fault("timeout", "Cannot ask: no answer");
  for (const type of [TYPE_A, TYPE_TXT]) assert.is((await ask(resolver, "h.z.", type)).flags.rcode, 2);
  upstream.fault = undefined;
  upstream.rcode = 2;
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_A)), []);
  assert.is((await ask(resolver, "h.z.", TYPE_A)).flags.rcode, 2);
  upstream.rcode = 0;
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_A)), ["h.z. 300 10.250.16.5"]);
  await machine.settle();
});

test("hosts without a place are left out; if none has one it is a failure", async () => {
  const { resolver } = play([
    aa("h.z.", "203.0.113.98 + 0"),
    aa("h.z.", "203.0.113.98 + 5"),
    aa("none.z.", "203.0.113.98 + 0"),
  ]);
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_A)), ["h.z. 300 10.250.16.5"]);
  const none = await ask(resolver, "none.z.", TYPE_A);
  assert.equal([none.flags.rcode, shown(none)], [2, []]);
});

test("A and AAAA cost one question, what is known ends with its time, and little is known at a time", async () => {
  const { machine, resolver, upstream } = play([aa("h.z.", "203.0.113.98 + 5", 10)], { maxKnown: 3 });
  await Promise.all([ask(resolver, "h.z.", TYPE_A), ask(resolver, "H.z.", TYPE_AAAA)]);
  assert.is(upstream.asked.length, 1);
  await machine.advance(4_000);
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_A)), ["h.z. 6 10.250.16.5"]);
  assert.is(upstream.asked.length, 1);
  await machine.advance(6_000);
  assert.equal(shown(await ask(resolver, "h.z.", TYPE_A)), ["h.z. 10 10.250.16.5"]);
  assert.is(upstream.asked.length, 2);
  upstream.records.push(...Array.from({ length: 10 }, (_, index) => aa(`h${index}.z.`, "203.0.113.98 + 5")));
  for (let index = 0; index < 10; index++) await ask(resolver, `h${index}.z.`, TYPE_A);
  assert.is(resolver.known, 3);
});

test("that a name has no IPREF address is known as long as its zone says, a minute at most", async () => {
  const { machine, resolver, upstream } = play([host("h.z.", "192.0.2.5")]);
  const soa = {
    server: "z.",
    contact: "z.",
    serial: 1,
    refreshSeconds: 1,
    retrySeconds: 1,
    expireSeconds: 1,
  };
  await ask(resolver, "h.z.", TYPE_A);
  await ask(resolver, "h.z.", TYPE_A);
  // Without the zone's word it is asked each time: text, then address.
  assert.is(upstream.asked.length, 4);
  const authority = { ...soa, negativeTtlSeconds: 3600 };
  upstream.authorities = [{ ...record, name: "z.", type: TYPE_SOA, authority }];
  await ask(resolver, "h.z.", TYPE_A);
  await ask(resolver, "h.z.", TYPE_A);
  assert.is(upstream.asked.length, 7);
  await machine.advance(60_000);
  await ask(resolver, "h.z.", TYPE_A);
  assert.is(upstream.asked.length, 9);
});

test("what is passed on is asked as the client asked, DNSSEC included", async () => {
  const { resolver, upstream } = play([]);
  const edns = { udpBytes: 4096, dnssecOk: true };
  const flags = { recursionDesired: false, checkingDisabled: true, authenticData: true };
  await resolver.answer(query("h.z.", TYPE_TXT, { ...flags, edns }));
  await resolver.answer(query("h.z.", TYPE_TXT));
  assert.equal(upstream.asked[0], { name: "h.z.", type: TYPE_TXT, ...flags, edns: { dnssecOk: true } });
  assert.is(upstream.asked[1]!.edns, false);
});

test("a name with a hundred AA records gets an answer of sixteen", async () => {
  const many = Array.from({ length: 100 }, (_, index) => aa("h.z.", `203.0.113.98 + ${index + 1}`));
  const { resolver } = play(many);
  assert.is((await ask(resolver, "h.z.", TYPE_A)).answers.length, 16);
});

test.run();
