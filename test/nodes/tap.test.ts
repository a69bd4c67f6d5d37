/** DNS in captured packets. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import { encodeAddress } from "../../src/lib/address.ts";
import { CLASS_IN, type DnsMessage, encodeMessage, TYPE_A, TYPE_CNAME } from "../../src/lib/dns.ts";
import { readTap, type TapReason } from "../../src/nodes/nodes.ts";

const client = "10.77.0.11" as Address;
const server = "10.77.0.1" as Address;
const flags = {
  response: false,
  opcode: 0,
  authoritative: false,
  truncated: false,
  recursionDesired: true,
  recursionAvailable: false,
  authenticData: false,
  checkingDisabled: false,
  rcode: 0,
};
const question = { name: "Web.example.", type: TYPE_A, class: CLASS_IN };
const asked: DnsMessage = { id: 7, flags, questions: [question], answers: [] };
const answered: DnsMessage = { ...asked, flags: { ...flags, response: true } };
const record = (name: string, address: string, ttlSeconds = 60) => ({
  ...{ name, type: TYPE_A, class: CLASS_IN, ttlSeconds },
  address: address as Address,
});
const alias = (name: string, target: string, ttlSeconds = 60) => ({
  ...{ name, type: TYPE_CNAME, class: CLASS_IN, ttlSeconds },
  target,
});

function packet(message: DnsMessage | Uint8Array, { from = client, to = server, ports = [40_000, 53] } = {}) {
  const data = message instanceof Uint8Array ? message : encodeMessage(message);
  const bytes = new Uint8Array(28 + data.length);
  bytes.set([0x45, 0, (28 + data.length) >> 8, (28 + data.length) & 255, 0, 0, 0x40, 0, 64, 17]);
  bytes.set(encodeAddress(from), 12);
  bytes.set(encodeAddress(to), 16);
  bytes.set([ports[0]! >> 8, ports[0]! & 255, ports[1]! >> 8, ports[1]! & 255], 20);
  bytes.set([(8 + data.length) >> 8, (8 + data.length) & 255], 24);
  bytes.set(data, 28);
  return bytes;
}
const back = { from: server, to: client, ports: [53, 40_000] };

test("readTap() reads a question", () => {
  assert.equal(readTap(packet(asked)), {
    kind: "query",
    query: { client, clientPort: 40_000, server, id: 7, name: "Web.example.", type: TYPE_A },
  });
});

const answers: readonly (readonly [string, DnsMessage["answers"], object[]])[] = [
  ["nothing", [], []],
  ["an address", [record("wEB.example.", "1.2.3.4", 5)], [{ address: "1.2.3.4", ttlSeconds: 5 }]],
  [
    "addresses behind aliases, in any order, living as long as the shortest",
    [
      record("c.", "1.2.3.4", 50),
      alias("b.", "c.", 9),
      record("C.", "1.2.3.5", 5),
      alias("web.EXAMPLE.", "b.", 100),
    ],
    [
      { address: "1.2.3.4", ttlSeconds: 9 },
      { address: "1.2.3.5", ttlSeconds: 5 },
    ],
  ],
  ["only what belongs to the name", [record("bank.example.", "6.6.6.6"), alias("x.", "web.example.")], []],
  [
    "aliases in a circle",
    [alias("web.example.", "b."), alias("b.", "web.example."), record("b.", "1.2.3.4")],
    [{ address: "1.2.3.4", ttlSeconds: 60 }],
  ],
];

for (const [title, records, expected] of answers) {
  test(`readTap() reads of an answer: ${title}`, () => {
    const outcome = readTap(packet({ ...answered, answers: records }, back));
    assert.equal(outcome, {
      kind: "answer",
      answer: {
        client,
        clientPort: 40_000,
        server,
        id: 7,
        name: "Web.example.",
        type: TYPE_A,
        answers: expected,
      },
    });
  });
}

test("readTap() believes no addresses of an answer that is an error", () => {
  const refused = {
    ...answered,
    flags: { ...answered.flags, rcode: 3 },
    answers: [record("web.example.", "1.2.3.4")],
  };
  const outcome = readTap(packet(refused, back));
  assert.equal(outcome.kind === "answer" && outcome.answer.answers, []);
});

const drops: readonly (readonly [string, Uint8Array, TapReason])[] = [
  ["no packet", Uint8Array.of(1, 2, 3), "packet"],
  ["half a header", packet(asked).subarray(0, 24), "transport"],
  ["bytes that are no message", packet(Uint8Array.of(1, 2, 3)), "message"],
  ["an answer to port 53", packet(answered), "question"],
  ["a question from port 53", packet(asked, back), "question"],
  ["another port", packet(asked, { ports: [40_000, 5353] }), "question"],
  ["an update", packet({ ...asked, flags: { ...flags, opcode: 5 } }), "question"],
  ["two questions", packet({ ...asked, questions: [question, question] }), "question"],
  ["no question", packet({ ...asked, questions: [] }), "question"],
  ["a question of another class", packet({ ...asked, questions: [{ ...question, class: 3 }] }), "question"],
];
for (const [title, bytes, reason] of drops) {
  test(`readTap() drops ${title}`, () => {
    assert.equal(readTap(bytes), { kind: "dropped", reason });
  });
}

test("readTap() never throws on recorded packets with bytes changed or cut off", () => {
  const recorded = readFileSync(join(process.cwd(), "test/nodes/fixtures/dns-packets.txt"), "utf8")
    .split("\n")
    .filter((line) => /^[0-9a-f]+$/.test(line))
    .map((line) => Uint8Array.from(Buffer.from(line, "hex")));
  assert.is(recorded.length, 30);
  for (const bytes of recorded) {
    for (let at = 0; at < bytes.length; at++) {
      readTap(bytes.subarray(0, at));
      for (const value of [0, 0x3f, 0xc0, 0xff]) {
        const changed = bytes.slice();
        changed[at] = value;
        readTap(changed);
      }
    }
  }
});

test.run();
