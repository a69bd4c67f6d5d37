/** The server on real sockets, asked by dig: both transports, sizes, and clients that misbehave. */

import { execFile } from "node:child_process";
import { connect, type Socket } from "node:net";
import { promisify } from "node:util";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { addressRecord, noData, noSuchName, type Outcome, yes } from "../../src/dns/answer.ts";
import { frame } from "../../src/dns/framing.ts";
import type { DnsQuery } from "../../src/dns/query.ts";
import { type Asker, type DnsServerOptions, openDnsServer } from "../../src/dns/server.ts";
import type { Address } from "../../src/lib/address.ts";
import { CLASS_IN, decodeMessage, encodeMessage, foldName, TYPE_A } from "../../src/lib/dns.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Endpoint } from "../../src/system/system.ts";
import { nativePath, until } from "../system/until.ts";

const system = openLinux({ nativePath });
const address = (text: string) => text as Address;
const run = promisify(execFile);
let nextPort = 5400;

async function dig(port: number, ...args: string[]): Promise<string> {
  const at = args.some((each) => each.startsWith("@")) ? [] : ["@127.0.0.1"];
  const all = ["-p", String(port), "+tries=1", "+timeout=20", "+nocookie", ...at, ...args];
  return run("dig", all).then(
    ({ stdout }) => stdout,
    (failed) => failed.stdout,
  );
}

const denial = { zone: ".", ttlSeconds: 5 };

function names({ question }: DnsQuery): Outcome {
  const name = foldName(question.name);
  if (name === "db.") {
    return question.type === TYPE_A
      ? yes([addressRecord(question.name, address("198.18.0.5"), 30)])
      : noData(denial);
  }
  if (name === "many.") {
    return yes(
      Array.from({ length: 100 }, (_, at) => addressRecord(question.name, address(`198.18.1.${at}`), 30)),
    );
  }
  return noSuchName(denial);
}

async function serve(more: Partial<DnsServerOptions> = {}) {
  const port = nextPort++;
  const server = await openDnsServer(system, {
    places: ["127.0.0.1", "127.0.0.2", "::1"].map((each) => ({ address: address(each), port })),
    answer: names,
    ...more,
  });
  return { server, port };
}

test("dig gets answers, denials with SOA and no data, in the spelling of the question", async () => {
  const { server, port } = await serve();
  const yesText = await dig(port, "dB", "A");
  assert.match(yesText, /status: NOERROR/);
  assert.match(yesText, /flags: qr aa rd;/);
  assert.match(yesText, /^dB\.\s+30\s+IN\s+A\s+198\.18\.0\.5$/m);
  assert.match(yesText, /EDNS: version: 0, flags:; udp: 1232/);
  const noneText = await dig(port, "db", "AAAA", "+noedns");
  assert.match(noneText, /status: NOERROR/);
  assert.match(noneText, /ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 0/);
  assert.match(noneText, /^\.\s+5\s+IN\s+SOA\s+\. nobody\.invalid\. 1 3600 600 86400 5$/m);
  assert.match(await dig(port, "other.example", "A", "+norecurse"), /status: NXDOMAIN.*\n;; flags: qr aa; /);
  assert.match(await dig(port, "-t", "AXFR", "db"), /Transfer failed/);
  assert.match(await dig(port, "version.bind", "CH", "TXT"), /status: REFUSED/);
  assert.match(await dig(port, "db", "+edns=1", "+noednsneg"), /status: BADVERS/);
  assert.match(await dig(port, "db", "+opcode=2"), /opcode: STATUS, status: NOTIMP/);
  await server.close();
});

test("an answer comes from the address that was asked, over both families and transports", async () => {
  const seen: Asker[] = [];
  const { server, port } = await serve({
    answer(query, asker) {
      seen.push(asker);
      return names(query);
    },
  });
  for (const at of ["127.0.0.1", "127.0.0.2", "::1"]) {
    for (const how of ["+notcp", "+tcp"]) {
      assert.match(await dig(port, `@${at}`, how, "db", "+short"), /^198\.18\.0\.5$/m);
      const { endpoint, place, transport } = seen.at(-1)!;
      assert.is(endpoint.address, at === "::1" ? at : endpoint.address);
      assert.equal([place.address, transport], [at, how === "+tcp" ? "tcp" : "udp"]);
    }
  }
  await server.close();
});

test("an answer that is too long is cut for its client, who gets all of it over TCP", async () => {
  const { server, port } = await serve();
  for (const [how, count] of [
    ["+bufsize=512", 29],
    ["+bufsize=4096", 74],
  ] as const) {
    const cut = await dig(port, "many", "+ignore", how);
    assert.match(cut, /flags: qr aa tc rd;/);
    assert.match(cut, new RegExp(`ANSWER: ${count}, AUTHORITY: 0`));
  }
  assert.match(await dig(port, "many"), /retrying in TCP mode[\s\S]*ANSWER: 100/);
  await server.close();
});

test("an answer that fails is a failure, and one that isn't given is silence", async () => {
  const told: string[] = [];
  const { server, port } = await serve({
    answer({ question }) {
      if (question.name === "silence.") return undefined;
      throw new Error("the names are gone");
    },
    onTrouble: (line) => told.push(line),
  });
  assert.match(await dig(port, "db"), /status: SERVFAIL/);
  assert.equal(told, ["Cannot answer db.: the names are gone"]);
  assert.match(await dig(port, "silence", "+timeout=1"), /no servers could be reached/);
  assert.is(server.waiting, 0);
  await server.close();
});

function question(name: string, id = 1): Uint8Array {
  return encodeMessage({
    id,
    flags: {
      response: false,
      opcode: 0,
      authoritative: false,
      truncated: false,
      recursionDesired: true,
      recursionAvailable: false,
      authenticData: false,
      checkingDisabled: false,
      rcode: 0,
    },
    questions: [{ name, type: TYPE_A, class: CLASS_IN }],
    answers: [],
  });
}

async function tcp(port: number) {
  const socket: Socket = connect(port, "127.0.0.1");
  const chunks: Buffer[] = [];
  let closed = false;
  socket.on("data", (chunk) => chunks.push(chunk));
  socket.on("error", () => {});
  socket.on("close", () => {
    closed = true;
  });
  await until(() => !socket.connecting, "the connection");
  const messages = () => {
    const all = Buffer.concat(chunks);
    const found = [];
    for (let at = 0; at + 2 <= all.length; at += 2 + all.readUInt16BE(at)) {
      found.push(decodeMessage(all.subarray(at + 2, at + 2 + all.readUInt16BE(at))));
    }
    return found;
  };
  return { socket, messages, isClosed: () => closed };
}

test("tcp: many questions at once are all answered, byte by byte too, and after the client's end", async () => {
  const { server, port } = await serve({
    // The later the question, the sooner its answer.
    answer: async (query) => {
      await new Promise((resolve) => setTimeout(resolve, 20 - (query.id % 20)));
      return names(query);
    },
  });
  const client = await tcp(port);
  const stream = Buffer.concat(Array.from({ length: 100 }, (_, id) => frame(question("db.", id))));
  for (const byte of stream.subarray(0, 50)) client.socket.write(Uint8Array.of(byte));
  client.socket.end(stream.subarray(50));
  await until(() => client.isClosed(), "the end");
  assert.equal(
    client
      .messages()
      .map(({ id }) => id)
      .sort((left, right) => left - right),
    Array.from({ length: 100 }, (_, id) => id),
  );
  assert.is(server.connections, 0);
  await server.close();
});

test("tcp: thousands of refusals in one piece neither nest nor stop", async () => {
  const { server, port } = await serve({ perSecond: 100_000 });
  const client = await tcp(port);
  const bad = Buffer.from("0001010000000000000000000000".slice(0, 24), "hex");
  client.socket.write(Buffer.concat(Array.from({ length: 4_000 }, () => frame(bad))));
  await until(() => client.messages().length === 4_000, "all refusals");
  client.socket.destroy();
  await until(() => server.connections === 0, "the end");
  await server.close();
});

test("tcp: the silent, the talkative and the deaf are closed, and connections are bounded", async () => {
  const patient = await serve({ idleMs: 600_000, maxConnectionsOfClient: 3 });
  const [first, second, third] = [await tcp(patient.port), await tcp(patient.port), await tcp(patient.port)];
  const fourth = await tcp(patient.port);
  await until(() => fourth.isClosed(), "the refusal");
  assert.is(patient.server.drops.get("connections"), 1);
  third.socket.write(Buffer.from("ffff00", "hex"));
  await until(() => third.isClosed(), "the end of who says too much");
  assert.is(patient.server.drops.get("stream"), 1);
  assert.equal([first.isClosed(), second.isClosed(), patient.server.connections], [false, false, 2]);
  await patient.server.close();

  const { server, port } = await serve({ idleMs: 300, perSecond: 100_000 });
  const [silent, slow] = [await tcp(port), await tcp(port)];
  slow.socket.write(Uint8Array.of(0));
  await until(() => silent.isClosed() && slow.isClosed(), "both ends");
  assert.is(server.drops.get("idle"), 2);
  const deaf = await tcp(port);
  deaf.socket.pause();
  const flood = Buffer.concat(Array.from({ length: 2_000 }, (_, id) => frame(question("many.", id))));
  deaf.socket.write(flood);
  await until(() => server.connections === 0, "the end of who doesn't read");
  await server.close();
});

test("tcp: an idle connection makes room for a new one", async () => {
  const { server, port } = await serve({ maxConnections: 1 });
  const first = await tcp(port);
  first.socket.write(frame(question("db.")));
  await until(() => first.messages().length === 1, "its answer");
  const second = await tcp(port);
  second.socket.write(frame(question("db.")));
  await until(() => second.messages().length === 1 && first.isClosed(), "the change");
  second.socket.destroy();
  await server.close();
});

test("udp: who asks too often is not answered, others are; waiting questions are bounded", async () => {
  const { server, port } = await serve({ perSecond: 1 });
  let answers = 0;
  const told: Endpoint[] = [];
  const open = (own: string) =>
    system.udp(
      { address: address(own), port: 0, peer: { address: address("127.0.0.1"), port } },
      {
        onMessage: (_, from) => {
          answers++;
          told.push(from);
        },
        onOverrun() {},
        onClose() {},
      },
    );
  const loud = open("127.0.0.1");
  for (let id = 0; id < 50; id++) loud.send(question("db.", id));
  await until(() => (server.drops.get("rate") ?? 0) >= 40, "the bound");
  const before = answers;
  assert.ok(before <= 10, `${before} answers`);
  const other = open("127.0.0.2");
  other.send(question("db."));
  await until(() => answers > before, "the other's answer");
  loud.close();
  other.close();
  await server.close();

  const release: (() => void)[] = [];
  const stuck = await serve({
    maxWaiting: 3,
    answer: (query) => new Promise((resolve) => release.push(() => resolve(names(query)))),
  });
  const asker = system.udp(
    { address: address("127.0.0.1"), port: 0, peer: { address: address("127.0.0.1"), port: stuck.port } },
    { onMessage: () => answers++, onOverrun() {}, onClose() {} },
  );
  answers = 0;
  for (let id = 0; id < 10; id++) asker.send(question("db.", id));
  await until(() => stuck.server.drops.get("busy") === 7, "the bound");
  assert.is(stuck.server.waiting, 3);
  for (const each of release) each();
  await until(() => answers === 3, "what waited");
  assert.is(stuck.server.waiting, 0);
  asker.close();
  await stuck.server.close();
});

test("openDnsServer() opens all places or none", async () => {
  const { server, port } = await serve();
  const places = [
    { address: address("127.0.0.3"), port },
    { address: address("127.0.0.1"), port },
  ];
  let code = "";
  await openDnsServer(system, { places, answer: names }).catch((fault) => {
    code = fault.code;
  });
  assert.is(code, "conflict");
  const free = await system.tcpListen({ ...places[0]!, accept: () => undefined });
  await free.close();
  await server.close();
});

test.run();
