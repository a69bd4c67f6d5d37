/** DNS messages: rows both ways, cuts, flips, compression bombs, properties. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import {
  CLASS_IN,
  type DnsFlags,
  type DnsMessage,
  decodeMessage,
  encodeMessage,
  foldName,
  formatName,
  parseName,
  TYPE_A,
  TYPE_AAAA,
  TYPE_CNAME,
} from "../../src/lib/dns.ts";

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const ascii = (text: string) => Buffer.from(text, "latin1").toString("hex");

const syntaxError = (thrown: unknown) => thrown instanceof SyntaxError;
const rangeError = (thrown: unknown) => thrown instanceof RangeError;

const query: DnsFlags = {
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
const answer: DnsFlags = { ...query, response: true, recursionAvailable: true };
const address = (text: string) => text as Address;

interface Row {
  readonly title: string;
  readonly hex: string;
  readonly message: DnsMessage;
}

const web = `03${ascii("web")}07${ascii("example")}03${ascii("net")}00`;

/** Bytes written out by hand from RFC 1035, 3596 and 6891. */
const rows: readonly Row[] = [
  {
    title: "a question",
    hex: `e998 0100 0001 0000 0000 0000 ${web} 0001 0001`,
    message: {
      id: 0xe998,
      flags: query,
      questions: [{ name: "web.example.net.", type: TYPE_A, class: CLASS_IN }],
      answers: [],
    },
  },
  {
    title: "a question with EDNS",
    hex: `0001 0120 0001 0000 0000 0001 ${web} 001c 0001 00 0029 04d0 00008000 0000`,
    message: {
      id: 1,
      flags: { ...query, authenticData: true },
      questions: [{ name: "web.example.net.", type: TYPE_AAAA, class: CLASS_IN }],
      answers: [],
      edns: { udpBytes: 1232, dnssecOk: true },
    },
  },
  {
    title: "an answer by an alias, names shared",
    hex: `0002 8180 0001 0003 0000 0000 ${web} 0001 0001
      c00c 0005 0001 00000e10 0006 03${ascii("cdn")}c010
      c02d 0001 0001 0000003c 0004 c6336414
      c02d 001c 0001 7fffffff 0010 20010db8010000000000000000000014`,
    message: {
      id: 2,
      flags: answer,
      questions: [{ name: "web.example.net.", type: TYPE_A, class: CLASS_IN }],
      answers: [
        {
          name: "web.example.net.",
          type: TYPE_CNAME,
          class: CLASS_IN,
          ttlSeconds: 3600,
          target: "cdn.example.net.",
        },
        {
          name: "cdn.example.net.",
          type: TYPE_A,
          class: CLASS_IN,
          ttlSeconds: 60,
          address: address("198.51.100.20"),
        },
        {
          name: "cdn.example.net.",
          type: TYPE_AAAA,
          class: CLASS_IN,
          ttlSeconds: 0x7fffffff,
          address: address("2001:db8:100::14"),
        },
      ],
    },
  },
  {
    title: "no such name, truncated, of the root",
    hex: "ffff ae13 0001 0000 0000 0000 00 0002 0001",
    message: {
      id: 0xffff,
      flags: {
        response: true,
        opcode: 5,
        authoritative: true,
        truncated: true,
        recursionDesired: false,
        recursionAvailable: false,
        authenticData: false,
        checkingDisabled: true,
        rcode: 3,
      },
      questions: [{ name: ".", type: 2, class: 1 }],
      answers: [],
    },
  },
];

for (const { title, hex, message } of rows) {
  test(`decodeMessage() and encodeMessage(): ${title}`, () => {
    assert.equal(decodeMessage(bytesOf(hex)), message);
    assert.is(hexOf(encodeMessage(message)), hex.replace(/\s/g, ""));
  });

  test(`decodeMessage() cut at every length: ${title}`, () => {
    const bytes = bytesOf(hex);
    // The tail after the answers may be damaged: then only its EDNS record is lost.
    const needed = message.edns ? bytes.length - 11 : bytes.length;
    for (let length = 0; length < bytes.length; length++) {
      if (length < needed) assert.throws(() => decodeMessage(bytes.subarray(0, length)), syntaxError);
      else assert.is(decodeMessage(bytes.subarray(0, length)).edns, undefined);
    }
  });

  test(`decodeMessage() with each byte changed throws nothing but SyntaxError: ${title}`, () => {
    const bytes = bytesOf(hex);
    for (let at = 0; at < bytes.length; at++) {
      for (const value of [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff, bytes[at]! ^ 1]) {
        const changed = bytes.slice();
        changed[at] = value;
        decodeOrSyntaxError(changed);
      }
    }
  });
}

test("decodeMessage() skips records it does not know, by their length", () => {
  const hex = `0002 8180 0000 0003 0000 0000
    00 0010 0001 00000001 0003 02${ascii("hi")}
    00 0001 0003 00000001 0003 aabbcc
    00 0001 0001 80000000 0004 01020304`;
  const { answers } = decodeMessage(bytesOf(hex));
  assert.is(answers.length, 3);
  assert.is(answers[0]!.address, undefined);
  assert.is(answers[1]!.address, undefined, "an A record of another class is no address");
  assert.is(answers[2]!.address, "1.2.3.4");
  assert.is(answers[2]!.ttlSeconds, 0, "a time to live with the top bit is none (RFC 2181)");
});

test("decodeMessage() sees answers whose tail is damaged, as resolvers of clients do", () => {
  const hex = `0002 8180 0000 0001 0001 0001 00 0001 0001 00000005 0004 01020304 c0`;
  assert.is(decodeMessage(bytesOf(hex)).answers[0]!.address, "1.2.3.4");
});

const refused: readonly (readonly [string, string])[] = [
  ["a pointer to itself", "0000 0000 0001 0000 0000 0000 c00c 0001 0001"],
  ["a pointer forward", "0000 0000 0001 0000 0000 0000 c010 0001 0001 00"],
  ["a pointer into its own name", "0000 0000 0001 0000 0000 0000 0161 c00c 0001 0001"],
  ["a label type of old", "0000 0000 0001 0000 0000 0000 4161 00 0001 0001"],
  ["a label type that nobody has", "0000 0000 0001 0000 0000 0000 8161 00 0001 0001"],
  ["an A record of 5 bytes", "0000 8000 0000 0001 0000 0000 00 0001 0001 00000000 0005 0102030405"],
  ["an AAAA record of 4 bytes", "0000 8000 0000 0001 0000 0000 00 001c 0001 00000000 0004 01020304"],
  ["an alias shorter than its length", "0000 8000 0000 0001 0000 0000 00 0005 0001 00000000 0002 0000"],
  ["an alias past its length", "0000 8000 0000 0001 0000 0000 00 0005 0001 00000000 0001 0161 00"],
  ["more questions than bytes", "0000 0000 ffff 0000 0000 0000 00 0001 0001"],
];

for (const [title, hex] of refused) {
  test(`decodeMessage() refuses ${title}`, () => {
    assert.throws(() => decodeMessage(bytesOf(hex)), syntaxError);
  });
}

test("decodeMessage() takes names of 255 bytes and refuses 256, also through pointers", () => {
  const label = (length: number) => [length, ...new Array<number>(length).fill(97)];
  const longest = [...label(63), ...label(63), ...label(63), ...label(61), 0];
  assert.is(longest.length, 255);
  const head = [0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
  const message = (second: number[]) =>
    Uint8Array.from([...head, ...longest, 0, 1, 0, 1, ...second, 0, 1, 0, 1]);
  assert.is(decodeMessage(message([0xc0, 12])).questions[1]!.name.length, 254);
  assert.throws(() => decodeMessage(message([1, 97, 0xc0, 12])), /too long/);
  assert.throws(
    () => decodeMessage(Uint8Array.from([...head, ...label(63), ...longest, 0, 1, 0, 1])),
    /too long/,
  );
});

test("decodeMessage() bounds chains of pointers", () => {
  const chain = (length: number) => {
    const bytes = [0, 0, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0, 1, 0, 0, 0, 0];
    const data = [0];
    const dataAt = bytes.length + 2;
    for (let index = 0; index < length; index++) {
      const target = dataAt + (index === 0 ? 0 : 1 + (index - 1) * 2);
      data.push(0xc0 | (target >> 8), target & 255);
    }
    bytes.push(data.length >> 8, data.length & 255, ...data);
    const last = dataAt + 1 + (length - 1) * 2;
    bytes[5] = 0;
    // One record of text, then one whose name is the end of the chain.
    bytes[7] = 2;
    return Uint8Array.from([...bytes, 0xc0 | (last >> 8), last & 255, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0]);
  };
  assert.is(decodeMessage(chain(100)).answers[1]!.name, ".");
  assert.throws(() => decodeMessage(chain(200)), /pointer/);
});

test("decodeMessage() does linear work on a message made of pointers", () => {
  // One name of 127 labels, then as many records as fit, each a label longer than it.
  const labels = new Array<number[]>(125).fill([1, 97]).flat();
  const bytes = [0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1];
  let count = 0;
  while (bytes.length < 65_000) {
    bytes.push(1, 98, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4);
    count++;
  }
  bytes[6] = count >> 8;
  bytes[7] = count & 255;
  const { answers } = decodeMessage(Uint8Array.from(bytes));
  assert.is(answers.length, count);
  assert.is(answers.at(-1)!.name.length, 252);
});

const names: readonly (readonly [string, readonly string[]])[] = [
  [".", []],
  ["web.example.net.", ["web", "example", "net"]],
  ["a\\.b.c.", ["a.b", "c"]],
  ["\\;\\(\\)\\\\.", [";()\\"]],
  ["\\032\\000\\127\\255.", [" \0\u007f\u00ff"]],
  ['<b>"$(x)`|@.', ['<b>"$(x)`|@']],
  ["__proto__.constructor.", ["__proto__", "constructor"]],
  ["\\010\\013.", ["\n\r"]],
];

for (const [text, labels] of names) {
  const bytes = labels.map((label) => Uint8Array.from(Buffer.from(label, "latin1")));
  // Parentheses appear escaped in what is written.
  const written = text.replace(/(?<!\\)\(/g, "\\(").replace(/(?<!\\)\)/g, "\\)");
  test(`parseName() and formatName(): ${text}`, () => {
    assert.is(formatName(bytes), written);
    assert.equal(parseName(written), bytes);
    assert.equal(parseName(text), bytes);
    if (text !== ".") assert.equal(parseName(written.slice(0, -1)), bytes);
  });
}

for (const text of [
  "",
  "..",
  "a..b",
  ".a",
  "é.",
  "\\",
  "a\\",
  "\\25",
  "\\256.",
  "\\9x",
  "a".repeat(64),
  "a.".repeat(128),
]) {
  test(`parseName() refuses ${JSON.stringify(text.slice(0, 20))}`, () => {
    assert.throws(() => parseName(text), syntaxError);
  });
}

test("foldName() makes the case that resolvers mix for safety disappear", () => {
  assert.is(foldName("wEb.ExAmPle.NET."), "web.example.net.");
});

const label = fc.uint8Array({ minLength: 1, maxLength: 63 });
const plain = { noNullPrototype: true };
const name = fc
  .array(label, { maxLength: 6 })
  .filter((labels) => labels.reduce((sum, each) => sum + each.length + 1, 1) <= 255)
  .map(formatName);
const record = fc.oneof(
  fc.record(
    {
      name,
      type: fc.constant(TYPE_A),
      class: fc.constant(CLASS_IN),
      ttlSeconds: fc.integer({ min: 0, max: 0x7fffffff }),
      address: fc.ipV4().map(address),
    },
    plain,
  ),
  fc.record(
    {
      name,
      type: fc.constant(TYPE_CNAME),
      class: fc.constant(CLASS_IN),
      ttlSeconds: fc.integer({ min: 0, max: 0x7fffffff }),
      target: name,
    },
    plain,
  ),
);

test("decodeMessage(encodeMessage(m)) is m for all messages", () => {
  const messages = fc.record(
    {
      id: fc.integer({ min: 0, max: 0xffff }),
      flags: fc.record(
        {
          response: fc.boolean(),
          opcode: fc.integer({ min: 0, max: 15 }),
          authoritative: fc.boolean(),
          truncated: fc.boolean(),
          recursionDesired: fc.boolean(),
          recursionAvailable: fc.boolean(),
          authenticData: fc.boolean(),
          checkingDisabled: fc.boolean(),
          rcode: fc.integer({ min: 0, max: 15 }),
        },
        plain,
      ),
      questions: fc.array(fc.record({ name, type: fc.nat(0xffff), class: fc.nat(0xffff) }, plain), {
        maxLength: 3,
      }),
      answers: fc.array(record, { maxLength: 8 }),
    },
    plain,
  );
  fc.assert(
    fc.property(messages, (message) => {
      assert.equal(decodeMessage(encodeMessage(message)), message);
    }),
    { numRuns: 300 },
  );
});

test("parseName(formatName(labels)) is labels, and text of names is printable ASCII", () => {
  fc.assert(
    fc.property(fc.array(label, { maxLength: 3 }), (labels) => {
      const text = formatName(labels);
      assert.match(text, /^[!-~]+$/);
      assert.equal(parseName(text), labels);
    }),
    { numRuns: 500 },
  );
});

test("decodeMessage() of random bytes throws nothing but SyntaxError", () => {
  const header = fc.uint8Array({ minLength: 12, maxLength: 12 }).map((bytes) => {
    // Few records, so that random bytes get past the counts.
    for (const at of [4, 6, 8, 10]) bytes[at] = 0;
    for (const at of [5, 7, 9, 11]) bytes[at]! &= 3;
    return bytes;
  });
  const shape = fc.array(fc.constantFrom(0, 1, 2, 3, 5, 12, 16, 28, 41, 63, 64, 0xc0, 0xff), {
    maxLength: 120,
  });
  fc.assert(
    fc.property(header, fc.oneof(shape, fc.array(fc.nat(255), { maxLength: 120 })), (head, body) => {
      decodeOrSyntaxError(Uint8Array.from([...head, ...body]));
    }),
    { numRuns: 5000 },
  );
});

test("encodeMessage() refuses what has no place in a message", () => {
  const base = { id: 1, flags: query, questions: [], answers: [] };
  const bad = (over: Partial<DnsMessage>) => () => encodeMessage({ ...base, ...over });
  const one = { name: "a.", type: TYPE_A, class: CLASS_IN, ttlSeconds: 0 };
  assert.throws(bad({ id: 65_536 }), rangeError);
  assert.throws(bad({ answers: [{ ...one, ttlSeconds: -1, address: address("1.2.3.4") }] }), rangeError);
  assert.throws(bad({ answers: [one] }), /without data/);
  assert.throws(bad({ answers: [{ ...one, address: address("::1") }] }), /type 1/);
  assert.throws(bad({ questions: [{ name: "a..b", type: 1, class: 1 }] }), /empty label/);
  const many = new Array<DnsMessage["answers"][number]>(5000).fill({ ...one, address: address("1.2.3.4") });
  assert.throws(bad({ answers: many }), /bytes/);
});

function decodeOrSyntaxError(bytes: Uint8Array): void {
  try {
    const message = decodeMessage(bytes);
    assert.ok(message.questions.length <= bytes.length);
  } catch (thrown) {
    assert.instance(thrown, SyntaxError);
  }
}

test.run();
