/** DNS in captured packets: UDP, TCP in every disorder, what counts of an answer. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  CLASS_IN,
  type DnsMessage,
  encodeMessage,
  TYPE_A,
  TYPE_CNAME,
  TYPE_HTTPS,
} from "../../src/lib/dns.ts";
import { Tap, type TapReason } from "../../src/nodes/tap.ts";
import { address } from "./stage.ts";
import { answer, backwards, framed, question, record, Speaker, tcp, udp, type Way } from "./wire.ts";

const client = address("10.77.0.11");
const server = address("10.77.0.1");
const way: Way = { from: client, to: server, ports: [40_000, 53] };
const back = backwards(way);
const asked = question("Web.example.");
const alias = (name: string, target: string, ttlSeconds = 60) => ({
  ...{ name, type: TYPE_CNAME, class: CLASS_IN, ttlSeconds },
  target,
});
const read = (bytes: Uint8Array) => new Tap().read(bytes, 0);
const queried = { client, clientPort: 40_000, server, id: 7, name: "Web.example.", type: TYPE_A };

/** What a message says, in short. */
function said(outcomes: ReturnType<typeof read>): string[] {
  return outcomes.map((outcome) => {
    if (outcome.kind === "dropped") return outcome.reason;
    if (outcome.kind === "query") return `${outcome.query.id} ${outcome.query.name}?`;
    const { id, name, answers } = outcome.answer;
    return `${id} ${name} ${answers.map((each) => each.address)}`;
  });
}

test("Tap.read: a question over UDP", () => {
  assert.equal(read(udp(asked, way)), [{ kind: "query", query: queried }]);
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
  [
    "only what belongs to the name: other owners, and aliases that lead to it, don't",
    [
      record("bank.example.", "6.6.6.6"),
      alias("x.", "web.example."),
      record("x.", "6.6.6.7"),
      alias("bank.example.", "y."),
      record("y.", "6.6.6.8"),
      record("example.", "6.6.6.9"),
      record("a.web.example.", "6.6.6.10"),
      record("web.example.", "1.2.3.4"),
    ],
    [{ address: "1.2.3.4", ttlSeconds: 60 }],
  ],
  [
    "aliases in a circle",
    [alias("web.example.", "b."), alias("b.", "web.example."), record("b.", "1.2.3.4")],
    [{ address: "1.2.3.4", ttlSeconds: 60 }],
  ],
  [
    "two aliases of one name: a client may follow either",
    [
      alias("web.example.", "b."),
      alias("web.example.", "c.", 7),
      record("b.", "1.2.3.4"),
      record("c.", "1.2.3.5"),
    ],
    [
      { address: "1.2.3.4", ttlSeconds: 60 },
      { address: "1.2.3.5", ttlSeconds: 7 },
    ],
  ],
  [
    "no more aliases than a resolver follows",
    [
      alias("web.example.", "0."),
      ...Array.from({ length: 30 }, (_, at) => alias(`${at}.`, `${at + 1}.`)),
      record("15.", "1.2.3.4"),
      record("16.", "6.6.6.6"),
    ],
    [{ address: "1.2.3.4", ttlSeconds: 60 }],
  ],
  ["not the name server itself", [record("web.example.", server)], []],
  [
    "the IPv4 address in a mapped one: there its packets go",
    [record("web.example.", "::ffff:203.0.113.5"), record("web.example.", "::ffff:0:0:5")],
    [
      { address: "203.0.113.5", ttlSeconds: 60 },
      { address: "::ffff:0:0:5", ttlSeconds: 60 },
    ],
  ],
];

for (const [title, records, expected] of answers) {
  test(`Tap.read: of an answer counts ${title}`, () => {
    assert.equal(read(udp(answer(asked, records), back)), [
      { kind: "answer", answer: { ...queried, answers: expected } },
    ]);
  });
}

/** The data of an HTTPS record: priority 1, no other target, hints of both families between other keys. */
const binding =
  "0001 00 0001 0003 026832 0004 0008 c0000201 c0000202 0005 0001 ff 0006 0010 20010db8000000000000000000000009";
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));

/** A question for HTTPS of "a.", and its answer with one such record. */
function serviceAnswer(data: string, owner = "c00c"): Uint8Array {
  const rdata = data.replace(/\s/g, "");
  const length = (rdata.length / 2).toString(16).padStart(4, "0");
  return bytesOf(
    `0007 8180 0001 0001 0000 0000 0161 00 0041 0001 ${owner} 0041 0001 0000003c ${length} ${rdata}`,
  );
}

const hints = "192.0.2.1,192.0.2.2,2001:db8::9";
const bindings: readonly (readonly [string, string, string])[] = [
  ["both families", binding, hints],
  ["none", "0001 00 0001 0003 026832", ""],
  ["those of another target name", binding.replace("0001 00", "0001 0162 00"), hints],
  ["none in an alias", binding.replace("0001 00", "0000 00"), ""],
  [
    "none behind a key that is out of order",
    "0001 00 0006 0010 20010db8000000000000000000000009 0004 0004 c0000201",
    "",
  ],
  ["none if one is not whole", "0001 00 0004 0005 c0000201 00", ""],
  ["none if there is an empty one", "0001 00 0004 0000", ""],
  ["none past the record", "0001 00 0004 0008 c0000201", ""],
  ["none if a byte is left", "0001 00 0004 0004 c0000201 00", ""],
  ["none without a target name", "0001", ""],
  ["none with a target name past the record", "0001 05 0004", ""],
];
for (const [title, data, expected] of bindings) {
  test(`Tap.read: addresses that an HTTPS record hints at: ${title}`, () => {
    assert.equal(said(read(udp(serviceAnswer(data), back))), [`7 a. ${expected}`]);
  });
}

test("Tap.read: hints of another owner don't count, hints at the name server neither", () => {
  assert.equal(said(read(udp(serviceAnswer(binding, "0162 00"), back))), ["7 a. "]);
  assert.equal(said(read(udp(serviceAnswer("0001 00 0004 0004 0a4d0001"), back))), ["7 a. "]);
});

test("Tap.read: a service binding with bytes changed or cut off breaks no answer around it", () => {
  const whole = bytesOf(binding);
  for (let at = 0; at < whole.length; at++) {
    const cut = Buffer.from(whole.subarray(0, at)).toString("hex");
    assert.match(said(read(udp(serviceAnswer(cut), back)))[0]!, /^7 a\. /);
    for (const value of [0, 1, 0x3f, 0xc0, 0xff]) {
      const changed = Buffer.from(whole);
      changed[at] = value;
      assert.match(said(read(udp(serviceAnswer(changed.toString("hex")), back)))[0]!, /^7 a\. /);
    }
  }
});

test("Tap.read: EDNS and other records behind the answers are passed over", () => {
  const edns = { udpBytes: 1232, dnssecOk: true };
  assert.equal(said(read(udp({ ...asked, edns }, way))), ["7 Web.example.?"]);
  const full = { ...answer(asked, [record("web.example.", "1.2.3.4")]), edns };
  assert.equal(said(read(udp(full, back))), ["7 Web.example. 1.2.3.4"]);
});

test("Tap.read believes no addresses of an answer that is an error, or that is cut and came over UDP", () => {
  const records = [record("web.example.", "1.2.3.4")];
  for (const rcode of [1, 2, 3, 5, 15]) {
    assert.equal(said(read(udp(answer(asked, records, { rcode }), back))), ["7 Web.example. "]);
  }
  const cut = answer(asked, records, { truncated: true });
  assert.equal(said(read(udp(cut, back))), ["7 Web.example. "]);
  const speaker = new Speaker(back, 5);
  assert.equal(said(read(speaker.say(framed(cut)))), ["7 Web.example. 1.2.3.4"]);
});

const other = { ...asked.questions[0]!, name: "b." };
const drops: readonly (readonly [string, Uint8Array, TapReason])[] = [
  ["no packet", Uint8Array.of(1, 2, 3), "packet"],
  ["half a header", udp(asked, way).subarray(0, 24), "transport"],
  ["half a datagram", udp(asked, way).subarray(0, 40), "transport"],
  ["bytes that are no message", udp(Uint8Array.of(1, 2, 3), way), "message"],
  ["an answer to port 53", udp(answer(asked, []), way), "question"],
  ["a question from port 53", udp(asked, back), "question"],
  ["another port", udp(asked, { ...way, ports: [40_000, 5353] }), "transport"],
  ["an update", udp({ ...asked, flags: { ...asked.flags, opcode: 5 } }, way), "question"],
  ["two questions", udp({ ...asked, questions: [other, other] }, way), "question"],
  ["no question", udp({ ...asked, questions: [] }, way), "question"],
  ["a question of another class", udp({ ...asked, questions: [{ ...other, class: 3 }] }, way), "question"],
  ["TCP of another port", tcp({ sequence: 1, flags: "S" }, { ...way, ports: [40_000, 80] }), "transport"],
  ["TCP from port 53 to port 53", tcp({ sequence: 1, flags: "S" }, { ...way, ports: [53, 53] }), "transport"],
  ["half a TCP segment", tcp({ sequence: 1, data: framed(asked) }, way).subarray(0, 60), "transport"],
  [
    "TCP whose message is none",
    tcp({ sequence: 1, data: framed(new Uint8Array(12).fill(1)) }, way),
    "message",
  ],
  ["TCP that says answers to port 53", tcp({ sequence: 1, data: framed(answer(asked, [])) }, way), "gap"],
];
for (const [title, bytes, reason] of drops) {
  test(`Tap.read drops ${title}`, () => {
    assert.equal(read(bytes), [{ kind: "dropped", reason }]);
  });
}

for (const [from, to] of [
  ["10.77.0.11", "10.77.0.1"],
  ["fd77::11", "fd77::1"],
] as const) {
  test(`Tap.read: a connection over TCP of ${from}, several messages in a packet and a message in several`, () => {
    const tap = new Tap();
    const there: Way = { from: address(from), to: address(to), ports: [40_000, 53] };
    const [here, far] = [new Speaker(there, 0xffff_fff0), new Speaker(backwards(there), 77)];
    const feed = (bytes: Uint8Array) => said(tap.read(bytes, 0));
    const questions = ["a.", "b.", "c."].map((name, index) => question(name, index));
    const told = questions.map((each, index) =>
      answer(each, [record(each.questions[0]!.name, `192.0.2.${index}`)]),
    );
    assert.equal(feed(here.say(undefined, { flags: "S" })), []);
    assert.equal(feed(far.say(undefined, { flags: "S", acknowledged: here.sequence })), []);
    const data = framed(...questions);
    assert.equal(feed(here.say(data.subarray(0, 1))), []);
    assert.equal(feed(here.say(data.subarray(1, 45))), ["0 a.?", "1 b.?"]);
    assert.equal(feed(here.say(data.subarray(45))), ["2 c.?"]);
    const [second, first] = [framed(told[1]!, told[2]!), framed(told[0]!)];
    const early = tcp({ sequence: far.sequence + first.length, data: second }, backwards(there));
    assert.equal(feed(early), []);
    assert.equal(feed(far.say(first, { acknowledged: here.sequence })), [
      "0 a. 192.0.2.0",
      "1 b. 192.0.2.1",
      "2 c. 192.0.2.2",
    ]);
    assert.equal(feed(early), [], "again");
  });
}

test("Tap.read: a lost packet of a connection is told once, and later connections count", () => {
  const tap = new Tap();
  const speaker = new Speaker(way, 1);
  tap.read(speaker.say(undefined, { flags: "S" }), 0);
  speaker.say(framed(question("lost.")));
  assert.equal(said(tap.read(speaker.say(framed(asked)), 0)), []);
  const acknowledged = speaker.sequence;
  assert.equal(said(tap.read(tcp({ sequence: 9, acknowledged, flags: "S" }, back), 0)), ["gap"]);
  assert.equal(said(tap.read(speaker.say(framed(asked)), 0)), []);
  const next = new Speaker({ ...way, ports: [40_001, 53] }, 1);
  tap.read(next.say(undefined, { flags: "S" }), 0);
  assert.equal(said(tap.read(next.say(framed(asked)), 0)), ["7 Web.example.?"]);
});

test("Tap.read: any split of any messages over TCP says the same as each of them over UDP, but for the transport", () => {
  const names = fc.constantFrom("a.", "web.example.", `${"x".repeat(63)}.`, `${"\\255".repeat(40)}.`);
  fc.assert(
    fc.property(
      fc.array(names, { minLength: 1, maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 9 }),
      fc.nat(0xffff_ffff),
      (asks, sizes, start) => {
        const messages = asks.map((name, id) => question(name, id));
        const data = framed(...messages);
        const tap = new Tap();
        const speaker = new Speaker(way, start);
        const outcomes = [...tap.read(speaker.say(undefined, { flags: "S" }), 0)];
        for (let at = 0, part = 0; at < data.length; part++) {
          const size = sizes[part % sizes.length]!;
          outcomes.push(...tap.read(speaker.say(data.subarray(at, at + size)), 0));
          at += size;
        }
        const overUdp = messages.flatMap((each) => [...read(udp(each, way))]);
        const expected = overUdp.map((each) =>
          each.kind === "query" ? { ...each, query: { ...each.query, transport: "tcp" } } : each,
        );
        assert.equal(outcomes, expected);
      },
    ),
    { numRuns: 200, seed: 5 },
  );
});

test("Tap.read never throws on recorded packets, nor on the same over TCP, with bytes changed or cut off", () => {
  const recorded = readFileSync(join(process.cwd(), "test/nodes/fixtures/dns-packets.txt"), "utf8")
    .split("\n")
    .filter((line) => /^[0-9a-f]+$/.test(line))
    .map((line) => Uint8Array.from(Buffer.from(line, "hex")));
  assert.is(recorded.length, 30);
  const overTcp = [
    tcp({ sequence: 9, data: framed(asked) }, way),
    tcp({ sequence: 9, data: framed(encodeMessage(asked)) }, back),
  ];
  for (const bytes of [...recorded, ...overTcp, udp(serviceAnswer(binding), back)]) {
    const tap = new Tap();
    for (let at = 0; at < bytes.length; at++) {
      tap.read(bytes.subarray(0, at), at);
      for (const value of [0, 0x3f, 0xc0, 0xff]) {
        const changed = bytes.slice();
        changed[at] = value;
        tap.read(changed, at);
      }
    }
  }
});

test("Tap.read: a record type that hints are read of is asked for like any other", () => {
  const outcomes = read(udp(question("a.", 1, TYPE_HTTPS), way));
  assert.is(outcomes[0]!.kind === "query" && outcomes[0]!.query.type, TYPE_HTTPS);
});

test.run();
