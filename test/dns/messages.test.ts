/** Questions heard, answers written: rows, limits, spelling, fuzz; framing byte by byte; rates; names of addresses. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  addressOfReverse,
  addressRecord,
  encodeOutcome,
  failed,
  noData,
  noSuchName,
  pointerRecord,
  reverseName,
  yes,
} from "../../src/dns/answer.ts";
import { Frames, frame } from "../../src/dns/framing.ts";
import { type DnsQuery, hear, Rcode, udpLimitOf } from "../../src/dns/query.ts";
import { Rate } from "../../src/dns/rate.ts";
import type { Address } from "../../src/lib/address.ts";
import {
  CLASS_IN,
  type DnsMessage,
  decodeMessage,
  encodeMessage,
  TYPE_A,
  TYPE_AAAA,
  TYPE_CNAME,
  TYPE_SOA,
  TYPE_TXT,
} from "../../src/lib/dns.ts";

const address = (text: string) => text as Address;
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

const name = "03776562 0765786d706c6572 00";
const question = `${name} 0001 0001`;

function query(more: Partial<DnsQuery> = {}): DnsQuery {
  return {
    id: 0x1234,
    question: { name: "wEb.example.net.", type: TYPE_A, class: CLASS_IN },
    recursionDesired: true,
    checkingDisabled: false,
    authenticData: false,
    ...more,
  };
}

test("hear() takes a question as it is spelled, with what the client takes", () => {
  const heard = hear(
    bytesOf(
      `1234 0130 0001 0000 0000 0001 03774562 0765786d706c6572 00 001c 0001 00 0029 1000 00008000 0000`,
    ),
  );
  assert.equal(heard, {
    kind: "query",
    query: {
      id: 0x1234,
      question: { name: "wEb.exmpler.", type: TYPE_AAAA, class: CLASS_IN },
      recursionDesired: true,
      checkingDisabled: true,
      authenticData: true,
      edns: { udpBytes: 4096, dnssecOk: true },
    },
  });
});

/** What is asked, and the answer to it by RFC 1035, 6891 and 9619: flags, counts, question, EDNS. */
const refusals: readonly (readonly [string, string, string])[] = [
  [
    "an opcode that is none of ours",
    `1234 2900 0001 0000 0000 0000 ${question}`,
    "1234 a904 0000 0000 0000 0000",
  ],
  ["no question", "1234 0100 0000 0000 0000 0000", "1234 8101 0000 0000 0000 0000"],
  ["two questions", `1234 0100 0002 0000 0000 0000 ${question} ${question}`, "1234 8101 0000 0000 0000 0000"],
  ["a question cut short", "1234 0000 0001 0000 0000 0000 0377", "1234 8001 0000 0000 0000 0000"],
  [
    "a question with an answer",
    `1234 0000 0001 0001 0000 0000 ${question} c00c 0001 0001 00000000 0004 01020304`,
    "1234 8001 0000 0000 0000 0000",
  ],
  [
    "another class",
    `1234 0100 0001 0000 0000 0000 ${name} 0010 0003`,
    `1234 8105 0001 0000 0000 0000 ${name} 0010 0003`,
  ],
  [
    "a zone",
    `1234 0000 0001 0000 0000 0000 ${name} 00fc 0001`,
    `1234 8005 0001 0000 0000 0000 ${name} 00fc 0001`,
  ],
  [
    "a version of EDNS that is none",
    `1234 0100 0001 0000 0000 0001 ${question} 00 0029 04d0 00018000 0000`,
    `1234 8100 0001 0000 0000 0001 ${question} 00 0029 04d0 01008000 0000`,
  ],
];
for (const [title, asked, told] of refusals) {
  test(`hear() refuses ${title}, with the code for it`, () => {
    const heard = hear(bytesOf(asked));
    assert.is(heard.kind, "refusal");
    if (heard.kind === "refusal") assert.is(hexOf(heard.bytes), told.replace(/\s/g, ""));
  });
}

test("hear() answers nobody who answers, nor less than a header", () => {
  assert.equal(hear(bytesOf(`1234 8100 0001 0000 0000 0000 ${question}`)), {
    kind: "drop",
    reason: "response",
  });
  assert.equal(hear(bytesOf("1234 0100 0001 0000 0000 00")), { kind: "drop", reason: "short" });
});

test("hear() of anything ends, and answers are never longer than 512 bytes past the question", () => {
  const whole = bytesOf(`1234 0130 0001 0000 0000 0001 ${question} 00 0029 1000 00008000 0000`);
  const look = (bytes: Uint8Array) => {
    const heard = hear(bytes);
    if (heard.kind === "refusal") {
      assert.ok(heard.bytes.length <= 512);
      decodeMessage(heard.bytes);
    }
  };
  for (let length = 0; length < whole.length; length++) look(whole.subarray(0, length));
  for (let at = 0; at < whole.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const bytes = whole.slice();
      bytes[at]! ^= 1 << bit;
      look(bytes);
    }
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      look(bytes);
      // Random headers mostly say "answer".
      look(Uint8Array.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...bytes]));
    }),
    { numRuns: 5000 },
  );
});

test("encodeOutcome(): flags, spelling, EDNS exactly when asked with it", () => {
  const outcome = yes([addressRecord("wEb.example.net.", address("198.18.0.5"), 30)]);
  const plain = decodeMessage(encodeOutcome(query(), outcome, 512));
  assert.equal(plain.flags, {
    response: true,
    opcode: 0,
    authoritative: true,
    truncated: false,
    recursionDesired: true,
    recursionAvailable: false,
    authenticData: false,
    checkingDisabled: false,
    rcode: 0,
  });
  assert.is(plain.id, 0x1234);
  assert.equal(plain.questions, [query().question]);
  assert.equal(plain.answers, outcome.records);
  assert.is(plain.edns, undefined);
  const asked = query({ edns: { udpBytes: 4096, dnssecOk: true }, recursionDesired: false });
  const extended = decodeMessage(encodeOutcome(asked, { ...outcome, recursionAvailable: true }, 1232));
  assert.equal(extended.edns, { udpBytes: 1232, dnssecOk: true });
  assert.not.ok(extended.flags.recursionDesired);
  assert.ok(extended.flags.recursionAvailable);
});

test("encodeOutcome(): a denial says for how long, with the zone's SOA", () => {
  for (const [outcome, rcode] of [
    [noSuchName({ zone: ".", ttlSeconds: 5 }), Rcode.noSuchName],
    [noData({ zone: "example.net.", ttlSeconds: 5 }), Rcode.noError],
  ] as const) {
    const message = decodeMessage(encodeOutcome(query(), outcome, 512));
    assert.is(message.flags.rcode, rcode);
    assert.equal(message.answers, []);
    const [soa] = message.authorities ?? [];
    assert.is(soa?.type, TYPE_SOA);
    assert.is(soa?.ttlSeconds, 5);
    assert.is(soa?.authority?.negativeTtlSeconds, 5);
  }
  const failure = decodeMessage(encodeOutcome(query(), failed(Rcode.failure), 512));
  assert.equal(
    [failure.flags.rcode, failure.flags.authoritative, failure.authorities],
    [2, false, undefined],
  );
});

test("encodeOutcome(): never longer than the limit, whole records only, and the client is told", () => {
  const long = `${`${"a".repeat(63)}.`.repeat(3)}${"b".repeat(61)}.`;
  const many = Array.from({ length: 200 }, (_, index) => addressRecord(long, address(`10.1.0.${index}`), 30));
  const asked = query({ question: { name: long, type: TYPE_A, class: CLASS_IN } });
  for (const limit of [512, 900, 1232, 4096]) {
    const bytes = encodeOutcome(asked, yes(many), limit);
    const message = decodeMessage(bytes);
    assert.ok(bytes.length <= limit);
    assert.is(message.flags.truncated, message.answers.length < many.length);
    // As many as fit: one more (16 bytes) would not have.
    if (message.flags.truncated) assert.ok(bytes.length + 16 > limit, `${bytes.length} of ${limit}`);
    assert.equal(message.answers, many.slice(0, message.answers.length));
  }
  const denial = encodeOutcome(asked, noSuchName({ zone: long, ttlSeconds: 1 }), 512);
  assert.ok(denial.length <= 512);
  assert.not.ok(decodeMessage(denial).flags.truncated);
  const enormous = Array.from({ length: 5000 }, (_, index) =>
    addressRecord(long, address(`10.1.${index >> 8}.${index & 255}`), 30),
  );
  assert.ok(encodeOutcome(asked, yes(enormous), 65_535).length <= 65_535);
});

test("udpLimitOf(): at least 512, at most what fits everywhere", () => {
  const of = (udpBytes: number) => udpLimitOf(query({ edns: { udpBytes, dnssecOk: false } }));
  assert.equal([of(0), of(511), of(700), of(4096), udpLimitOf(query())], [512, 512, 700, 1232, 512]);
});

test("encodeOutcome(): what is relayed gets this client's id and spelling, and is cut to its size", () => {
  const upstream: DnsMessage = {
    id: 0x9999,
    flags: {
      ...decodeMessage(encodeOutcome(query(), yes([]), 512)).flags,
      authoritative: false,
      recursionAvailable: true,
      authenticData: true,
    },
    questions: [{ name: "web.EXAMPLE.net.", type: TYPE_TXT, class: CLASS_IN }],
    answers: Array.from({ length: 4 }, (_, index) => ({
      name: "web.EXAMPLE.net.",
      type: TYPE_TXT,
      class: CLASS_IN,
      ttlSeconds: 60,
      texts: [new Uint8Array(200).fill(48 + index)],
    })),
  };
  const asked = query({ question: { name: "wEb.example.net.", type: TYPE_TXT, class: CLASS_IN } });
  const whole = decodeMessage(encodeOutcome(asked, { relayed: encodeMessage(upstream) }, 65_535));
  assert.equal([whole.id, whole.questions], [0x1234, [asked.question]]);
  assert.equal(
    whole.answers,
    upstream.answers.map((each) => ({ ...each, name: "wEb.example.net." })),
  );
  assert.ok(whole.flags.authenticData);
  const cut = encodeOutcome(asked, { relayed: encodeMessage(upstream) }, 512);
  assert.ok(cut.length <= 512);
  assert.ok(decodeMessage(cut).flags.truncated);
  assert.equal(decodeMessage(cut).answers, []);
  const other = query({ question: { name: "other.", type: TYPE_TXT, class: CLASS_IN } });
  const kept = decodeMessage(encodeOutcome(other, { relayed: encodeMessage(upstream) }, 65_535));
  assert.is(kept.questions[0]!.name, "web.EXAMPLE.net.");
});

test("reverseName() and addressOfReverse() are each other's inverse", () => {
  assert.is(reverseName(address("198.18.0.5")), "5.0.18.198.in-addr.arpa.");
  assert.is(reverseName(address("fd00:6a7e::5")), `5.${"0.".repeat(23)}e.7.a.6.0.0.d.f.ip6.arpa.`);
  for (const text of ["0.0.0.0", "255.1.20.3", "fd00:6a7e::5", "::", "2001:db8:1:2:3:4:5:6"]) {
    assert.is(addressOfReverse(reverseName(address(text)).toUpperCase()), text);
  }
  for (const text of [
    "18.198.in-addr.arpa.",
    "256.0.0.1.in-addr.arpa.",
    "01.0.0.1.in-addr.arpa.",
    "5.ip6.arpa.",
    ".",
  ]) {
    assert.is(addressOfReverse(text), undefined);
  }
  const record = pointerRecord("5.0.18.198.in-addr.arpa.", "web.apps.", 5);
  const asked = query({ question: { name: record.name, type: 12, class: CLASS_IN } });
  assert.match(hexOf(encodeOutcome(asked, yes([record]), 512)), /c00c000c000100000005000a037765620461707073/);
});

test("Frames give the same messages however the stream is cut", () => {
  const messages = [[], [1], [2, 3], Array.from({ length: 300 }, (_, at) => at & 255)].map((each) =>
    Uint8Array.from(each),
  );
  const stream = Uint8Array.from(messages.flatMap((each) => [...frame(each)]));
  for (let piece = 1; piece <= stream.length; piece++) {
    const frames = new Frames(4096);
    const taken: Uint8Array[] = [];
    for (let at = 0; at < stream.length; at += piece) {
      taken.push(...frames.take(stream.subarray(at, at + piece)));
    }
    assert.equal(taken, messages);
    assert.not.ok(frames.isCut);
  }
});

test("Frames know whether a message has begun", () => {
  const frames = new Frames(4096);
  for (const [byte, isCut] of [
    [0, true],
    [2, true],
    [7, true],
    [7, false],
  ] as const) {
    frames.take(Uint8Array.of(byte));
    assert.is(frames.isCut, isCut);
  }
});

test("Frames refuse a message that is longer than is taken before they hold any of it", () => {
  const frames = new Frames(100);
  assert.equal(frames.take(frame(new Uint8Array(100))).length, 1);
  assert.throws(
    () => frames.take(bytesOf("0065 00")),
    (thrown: unknown) => thrown instanceof SyntaxError,
  );
});

test("Rate lets a client ask so often, others are not concerned, and the number of clients is bounded", () => {
  const rate = new Rate({ perSecond: 10, burst: 3, maxClients: 4 });
  const ask = (from: string, now: number) => rate.allow(address(from), now);
  assert.equal(
    [ask("10.0.0.1", 0), ask("10.0.0.1", 0), ask("10.0.0.1", 0), ask("10.0.0.1", 0)],
    [true, true, true, false],
  );
  assert.ok(ask("10.0.0.2", 0));
  assert.not.ok(ask("10.0.0.1", 99));
  assert.ok(ask("10.0.0.1", 200));
  // One IPv6 host has a /64 of addresses.
  for (const from of ["fd00::1", "fd00::2", "fd00::3"]) assert.ok(ask(from, 0));
  assert.not.ok(ask("fd00::4", 0));
  assert.ok(ask("fd00:0:0:1::4", 0));
  for (let index = 0; index < 100; index++) ask(`10.1.0.${index}`, 300);
  assert.is(rate.size, 4);
});

test("decodeMessage() reads texts, authorities and EDNS, and lets damaged ones be nothing", () => {
  const record = { name: "a.", class: CLASS_IN, ttlSeconds: 1 };
  const message: DnsMessage = {
    id: 1,
    flags: decodeMessage(encodeOutcome(query(), yes([]), 512)).flags,
    questions: [],
    answers: [
      {
        ...record,
        type: TYPE_TXT,
        texts: [Uint8Array.from([65, 65]), new Uint8Array(0), new Uint8Array(255)],
      },
      { ...record, type: TYPE_CNAME, target: "b.a." },
      {
        ...record,
        type: TYPE_SOA,
        authority: {
          server: "ns.a.",
          contact: "x.a.",
          serial: 4_000_000_000,
          refreshSeconds: 1,
          retrySeconds: 2,
          expireSeconds: 3,
          negativeTtlSeconds: 4,
        },
      },
    ],
    edns: { udpBytes: 512, dnssecOk: true, version: 2, highRcode: 3 },
  };
  const withAuthority = { ...message, authorities: [message.answers[2]!] };
  for (const each of [message, withAuthority]) assert.equal(decodeMessage(encodeMessage(each)), each);
  const whole = encodeMessage(withAuthority);
  for (let length = 0; length < whole.length; length++) {
    try {
      decodeMessage(whole.subarray(0, length));
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
    }
  }
  for (let at = 0; at < whole.length; at++) {
    for (const flip of [1, 0x80, 0xff]) {
      const bytes = whole.slice();
      bytes[at]! ^= flip;
      try {
        decodeMessage(bytes);
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }
  }
  const damaged = decodeMessage(
    bytesOf(
      "0001 8000 0000 0002 0000 0000 00 0010 0001 00000001 0003 036161 00 0006 0001 00000001 0002 0000",
    ),
  );
  assert.equal(damaged.answers, [
    { name: ".", type: TYPE_TXT, class: 1, ttlSeconds: 1 },
    { name: ".", type: TYPE_SOA, class: 1, ttlSeconds: 1 },
  ]);
  assert.throws(
    () =>
      encodeMessage({ ...message, answers: [{ ...record, type: TYPE_TXT, texts: [new Uint8Array(256)] }] }),
    (thrown: unknown) => thrown instanceof RangeError,
  );
});

test.run();
