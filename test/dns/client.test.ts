/** The client against dnsmasq, and against upstreams that forge, cut, refuse and vanish. */

import { type ChildProcess, spawn } from "node:child_process";
import { createServer, type Server } from "node:net";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type ClientSystem, DnsClient, followAliases } from "../../src/dns/client.ts";
import { frame } from "../../src/dns/framing.ts";
import type { Address } from "../../src/lib/address.ts";
import {
  CLASS_IN,
  type DnsMessage,
  type DnsRecord,
  decodeMessage,
  encodeMessage,
  TYPE_A,
  TYPE_AAAA,
  TYPE_SOA,
  TYPE_TXT,
} from "../../src/lib/dns.ts";
import type { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Endpoint, UdpSocket } from "../../src/system/system.ts";
import { nativePath, until } from "../system/until.ts";

const system: ClientSystem = openLinux({ nativePath });
const at = (port: number): Endpoint => ({ address: "127.0.0.1" as Address, port });
const dnsmasqPort = 5500;
let nextPort = 5501;
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no fault",
    (fault: Fault) => fault.code,
  );
}

let dnsmasq: ChildProcess;

test.before(async () => {
  const long = Array.from({ length: 30 }, (_, index) => `long.example.net,${"x".repeat(180)}${index}`);
  dnsmasq = spawn("dnsmasq", [
    ...["-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"],
    ...[`--port=${dnsmasqPort}`, "--listen-address=127.0.0.1", "--pid-file="],
    ...["--auth-server=ns.example.net,127.0.0.1", "--auth-zone=example.net", "--auth-soa=7"],
    ...["--auth-peer=127.0.0.1", "--auth-sec-servers=ns2.example.org", "--auth-ttl=300"],
    "--host-record=web.example.net,192.0.2.80,2001:db8::80,60",
    "--cname=www.example.net,web.example.net",
    "--txt-record=nas.example.net,AA 203.0.113.98 + 2823",
    ...long.map((each) => `--txt-record=${each}`),
  ]);
  const probe = new DnsClient(system, { upstreams: [at(dnsmasqPort)], tryMs: 200, tries: 40 });
  await until(
    () =>
      probe.ask({ name: "web.example.net.", type: TYPE_A }).then(
        () => true,
        () => false,
      ),
    "dnsmasq",
  );
});

test.after(() => {
  dnsmasq.kill();
});

test("ask(): dnsmasq answers addresses, aliases, texts, nothing and no such name", async () => {
  const client = new DnsClient(system, { upstreams: [at(dnsmasqPort)] });
  const ask = (name: string, type: number) => client.ask({ name, type });
  const web = await ask("wEB.example.net.", TYPE_A);
  assert.equal(
    web.message.answers.map(({ address }) => address),
    ["192.0.2.80"],
  );
  assert.equal(decodeMessage(web.bytes), web.message);
  const alias = followAliases(
    (await ask("www.example.net.", TYPE_AAAA)).message.answers,
    "www.example.net.",
    TYPE_AAAA,
  );
  assert.equal(
    [alias.aliases.map(({ target }) => target), alias.records.map(({ address }) => address)],
    [["web.example.net."], ["2001:db8::80"]],
  );
  const nas = await ask("nas.example.net.", TYPE_TXT);
  assert.equal(nas.message.answers[0]!.texts!.map(text), ["AA 203.0.113.98 + 2823"]);
  const none = await ask("nas.example.net.", TYPE_A);
  assert.equal([none.message.flags.rcode, none.message.answers], [0, []]);
  assert.is((await ask("nosuch.example.net.", TYPE_A)).message.flags.rcode, 3);
  assert.is(client.out, 0);
});

test("ask(): what is cut over UDP comes whole over TCP", async () => {
  const client = new DnsClient(system, { upstreams: [at(dnsmasqPort)] });
  const { message } = await client.ask({ name: "long.example.net.", type: TYPE_TXT });
  assert.not.ok(message.flags.truncated);
  assert.is(message.answers.length, 30);
});

test("transfer(): dnsmasq gives a zone whole, and refuses one that it doesn't have", async () => {
  const client = new DnsClient(system, { upstreams: [] });
  const records = await client.transfer("example.net.", at(dnsmasqPort));
  assert.is(records[0]!.type, TYPE_SOA);
  assert.is(records.filter(({ type }) => type === TYPE_SOA).length, 1);
  const texts = records.filter(({ type }) => type === TYPE_TXT);
  assert.is(texts.length, 31);
  assert.ok(texts.some(({ texts: [each] = [] }) => each && text(each) === "AA 203.0.113.98 + 2823"));
  assert.is(await codeOf(client.transfer("example.org.", at(dnsmasqPort))), "denied");
  assert.is(await codeOf(client.transfer("example.net.", at(dnsmasqPort), { maxRecords: 5 })), "limit");
  assert.is(client.out, 0);
});

/** An upstream over UDP that the test plays. */
function upstream(hear: (question: DnsMessage, answer: (message: DnsMessage | Uint8Array) => void) => void) {
  const port = nextPort++;
  let asked = 0;
  const socket: UdpSocket = system.udp(at(port), {
    onMessage(bytes, from) {
      asked++;
      hear(decodeMessage(bytes), (message) =>
        socket.send(message instanceof Uint8Array ? message : encodeMessage(message), from),
      );
    },
    onOverrun() {},
    onClose() {},
  });
  return { port, asked: () => asked, close: () => socket.close() };
}

const yes = (question: DnsMessage, address = "192.0.2.1"): DnsMessage => ({
  ...question,
  flags: { ...question.flags, response: true },
  answers: [{ ...question.questions[0]!, ttlSeconds: 60, address: address as Address } as DnsRecord],
});

test("ask(): forged answers are ignored and counted, the true one is taken", async () => {
  const server = upstream((question, answer) => {
    const forged = yes(question, "198.51.100.66");
    answer({ ...forged, id: question.id ^ 1 });
    answer({ ...forged, questions: [{ ...question.questions[0]!, name: "other.example." }] });
    answer({ ...forged, questions: [{ ...question.questions[0]!, type: TYPE_AAAA }], answers: [] });
    answer({ ...forged, questions: [] });
    answer({ ...forged, flags: question.flags });
    answer(encodeMessage(forged).subarray(0, 20));
    answer(Uint8Array.of(1, 2, 3));
    answer(yes({ ...question, questions: [{ ...question.questions[0]!, name: "WEB.example." }] }));
  });
  const client = new DnsClient(system, { upstreams: [at(server.port)] });
  const { message } = await client.ask({ name: "web.example.", type: TYPE_A });
  assert.is(message.answers[0]!.address, "192.0.2.1");
  assert.equal(Object.fromEntries(client.ignored), {
    id: 1,
    question: 3,
    "not-an-answer": 1,
    malformed: 2,
  });
  server.close();
});

test("ask(): ids and ports are not those of the last question", async () => {
  const seen = new Set<string>();
  const ports = new Set<number>();
  const port = nextPort++;
  const socket: UdpSocket = system.udp(at(port), {
    onMessage(bytes, from) {
      const question = decodeMessage(bytes);
      seen.add(`${question.id}`);
      ports.add(from.port);
      socket.send(encodeMessage(yes(question)), from);
    },
    onOverrun() {},
    onClose() {},
  });
  const client = new DnsClient(system, { upstreams: [at(port)] });
  for (let count = 0; count < 20; count++) await client.ask({ name: "web.example.", type: TYPE_A });
  assert.ok(seen.size > 15 && ports.size > 15, `${seen.size} ids, ${ports.size} ports`);
  socket.close();
});

async function tcpServer(
  port: number,
  hear: (question: DnsMessage) => readonly Uint8Array[],
): Promise<Server> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      for (const each of hear(decodeMessage(chunk.subarray(2)))) socket.write(frame(each));
      socket.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return server;
}

test("ask(): somebody who guesses drives the question to TCP, where he cannot answer", async () => {
  const server = upstream((question, answer) => {
    for (let guess = 1; guess <= 40; guess++)
      answer({ ...yes(question, "198.51.100.66"), id: question.id ^ guess });
    answer(yes(question, "198.51.100.66"));
  });
  const tcp = await tcpServer(server.port, (question) => [encodeMessage(yes(question))]);
  const client = new DnsClient(system, { upstreams: [at(server.port)] });
  const { message } = await client.ask({ name: "web.example.", type: TYPE_A });
  assert.is(message.answers[0]!.address, "192.0.2.1");
  server.close();
  tcp.close();
});

test("ask(): silence, refusal and failure lead to the next upstream; a server from before EDNS is understood", async () => {
  const silent = upstream(() => {});
  const broken = upstream((question, answer) =>
    answer({ ...question, flags: { ...question.flags, response: true, rcode: 2 } }),
  );
  const old = upstream((question, answer) => {
    if (question.edns === undefined) answer(yes(question));
    else answer({ ...question, questions: [], flags: { ...question.flags, response: true, rcode: 1 } });
  });
  const askWithin = (tryMs: number, ...ports: number[]) =>
    new DnsClient(system, { upstreams: ports.map(at), tryMs }).ask({ name: "web.example.", type: TYPE_A });
  const ask = (...ports: number[]) => askWithin(3_000, ...ports);
  const nobody = nextPort++;
  const good = await ask(silent.port, nobody, broken.port, old.port);
  assert.is(good.message.answers[0]!.address, "192.0.2.1");
  assert.is((await ask(broken.port)).message.flags.rcode, 2);
  assert.is(broken.asked(), 2);
  assert.is(await codeOf(askWithin(300, silent.port)), "timeout");
  assert.is(silent.asked(), 4);
  assert.is(await codeOf(ask(nobody)), "closed");
  assert.is(await codeOf(ask()), "not-found");
  for (const each of [silent, broken, old]) each.close();
});

test("ask(): questions at a time are bounded, and close() ends those that wait", async () => {
  const silent = upstream(() => {});
  const client = new DnsClient(system, { upstreams: [at(silent.port)], maxOut: 2 });
  const ask = () => codeOf(client.ask({ name: "web.example.", type: TYPE_A }));
  const [first, second] = [ask(), ask()];
  assert.is(await ask(), "limit");
  client.close();
  assert.equal([await first, await second, await ask()], ["closed", "closed", "closed"]);
  assert.is(client.out, 0);
  silent.close();
});

const soa = (serial: number): DnsRecord => ({
  name: "z.",
  type: TYPE_SOA,
  class: CLASS_IN,
  ttlSeconds: 1,
  authority: {
    server: "z.",
    contact: "z.",
    serial,
    refreshSeconds: 1,
    retrySeconds: 1,
    expireSeconds: 1,
    negativeTtlSeconds: 1,
  },
});
const txt = (name: string): DnsRecord => ({
  name,
  type: TYPE_TXT,
  class: CLASS_IN,
  ttlSeconds: 1,
  texts: [new Uint8Array(3)],
});

/** The answers of each message, and what comes of the transfer. */
const transfers: readonly (readonly [string, readonly (readonly DnsRecord[])[], number | string])[] = [
  ["one message", [[soa(1), txt("a.z."), soa(1)]], 2],
  ["several messages", [[soa(1)], [txt("a.z.")], [], [txt("b.z."), soa(1)]], 3],
  ["no end", [[soa(1), txt("a.z.")]], "closed"],
  ["no beginning", [[txt("a.z."), soa(1)]], "closed"],
  ["another serial at its end", [[soa(1), txt("a.z."), soa(2)]], "closed"],
  ["something behind its end", [[soa(1), soa(1), txt("a.z.")]], "closed"],
];
for (const [title, messages, outcome] of transfers) {
  test(`transfer() of ${title}: ${outcome}`, async () => {
    const port = nextPort++;
    const tcp = await tcpServer(port, (question) =>
      messages.map((answers, index) =>
        encodeMessage({
          ...question,
          questions: index === 0 ? question.questions : [],
          flags: { ...question.flags, response: true },
          answers,
        }),
      ),
    );
    const client = new DnsClient(system, { upstreams: [] });
    const transfer = client.transfer("z.", at(port));
    if (typeof outcome === "number") assert.is((await transfer).length, outcome);
    else assert.is(await codeOf(transfer), outcome);
    tcp.close();
  });
}

test("transfer() of more records or bytes than allowed ends with a limit", async () => {
  const port = nextPort++;
  const big = (count: number) =>
    Array.from({ length: count }, (_, index) => txt(`${"x".repeat(60)}${index}.z.`));
  const tcp = await tcpServer(port, (question) =>
    [[soa(1)], big(400), big(400), [soa(1)]].map((answers) =>
      encodeMessage({ ...question, flags: { ...question.flags, response: true }, answers }),
    ),
  );
  const client = new DnsClient(system, { upstreams: [] });
  assert.is((await client.transfer("z.", at(port))).length, 801);
  assert.is(await codeOf(client.transfer("z.", at(port), { maxRecords: 800 })), "limit");
  assert.is(await codeOf(client.transfer("z.", at(port), { maxBytes: 32 * 1024 })), "limit");
  tcp.close();
  // Empty messages have no records.
  const lavish = await tcpServer(++nextPort, (question) =>
    Array.from({ length: 1_500 }, () =>
      encodeMessage({ ...question, flags: { ...question.flags, response: true }, answers: [] }),
    ),
  );
  assert.is(await codeOf(client.transfer("z.", at(nextPort), { maxBytes: 16 * 1024 })), "limit");
  lavish.close();
  nextPort++;
});

test("transfer() of damaged bytes, of another id, of a refusal and of silence is a fault", async () => {
  const answer = (question: DnsMessage): DnsMessage => ({
    ...question,
    flags: { ...question.flags, response: true },
    answers: [soa(1), soa(1)],
  });
  const rows: readonly (readonly [(question: DnsMessage) => readonly Uint8Array[], string])[] = [
    [(question) => [encodeMessage(answer(question)).subarray(0, 40)], "closed"],
    [(question) => [encodeMessage({ ...answer(question), id: question.id ^ 1 })], "closed"],
    [
      (question) => [encodeMessage({ ...answer(question), flags: { ...answer(question).flags, rcode: 5 } })],
      "denied",
    ],
    [() => [], "closed"],
  ];
  const client = new DnsClient(system, { upstreams: [] });
  for (const [hear, code] of rows) {
    const port = nextPort++;
    const tcp = await tcpServer(port, hear);
    assert.is(await codeOf(client.transfer("z.", at(port))), code);
    tcp.close();
  }
  const port = nextPort++;
  const mute = createServer((socket) => socket.resume());
  await new Promise<void>((resolve) => mute.listen(port, "127.0.0.1", resolve));
  assert.is(await codeOf(client.transfer("z.", at(port), { limitMs: 50 })), "timeout");
  mute.close();
});

test("followAliases() ends in a loop, and takes records of the last name only", () => {
  const cname = (name: string, target: string): DnsRecord => ({
    name,
    type: 5,
    class: CLASS_IN,
    ttlSeconds: 1,
    target,
  });
  const loop = [cname("a.", "b."), cname("b.", "A.")];
  assert.equal(followAliases(loop, "a.", TYPE_A), { aliases: loop, records: [] });
  const chain = [txt("C."), cname("B.", "c."), txt("other."), cname("a.", "b.")];
  assert.equal(followAliases(chain, "A.", TYPE_TXT), { aliases: [chain[3], chain[1]], records: [chain[0]] });
});

test.run();
