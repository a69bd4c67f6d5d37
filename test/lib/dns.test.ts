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
  HEADER_BYTES,
  isResponse,
  parseName,
  TYPE_A,
  TYPE_AAAA,
  TYPE_CNAME,
  TYPE_HTTPS,
  TYPE_SVCB,
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

test("isResponse() is what the header says", () => {
  for (const { hex, message } of rows) assert.is(isResponse(bytesOf(hex)), message.flags.response);
});

/** Records of service bindings written out by hand from RFC 9460, each followed by an A record. */
const serviceRows: readonly (readonly [string, string, readonly string[] | undefined])[] = [
  ["IPv4 hints", "0001 00 0004 0008 c0000201 c0000202", ["192.0.2.1", "192.0.2.2"]],
  ["IPv6 hints", "0001 00 0006 0010 20010db8000000000000000000000001", ["2001:db8::1"]],
  [
    "a target name and other keys",
    `0010 03${ascii("svc")}00 0001 0003 026832 0003 0002 01bb 0004 0004 c0000201`,
    ["192.0.2.1"],
  ],
  ["no hint", "0001 00 0001 0003 026832", undefined],
  ["no key", "0001 00", undefined],
  ["an alias, whose keys don't count", "0000 00 0004 0004 c0000201", undefined],
  ["a key twice", "0001 00 0004 0004 c0000201 0004 0004 c0000202", undefined],
  [
    "keys in the wrong order",
    "0001 00 0006 0010 20010db8000000000000000000000001 0004 0004 c0000201",
    undefined,
  ],
  ["half an address", "0001 00 0004 0006 c0000201 c000", undefined],
  ["an empty hint", "0001 00 0004 0000", undefined],
  ["a value past its record", "0001 00 0004 0008 c0000201", undefined],
  ["a byte too many", "0001 00 0004 0004 c0000201 00", undefined],
  ["half a key", "0001 00 0004 00", undefined],
  ["half a priority", "00", undefined],
  ["nothing", "", undefined],
  ["a target name past its record", "0001 3f", undefined],
];
for (const [title, data, hints] of serviceRows) {
  for (const type of [TYPE_SVCB, TYPE_HTTPS]) {
    test(`decodeMessage() reads the hints of type ${type}: ${title}`, () => {
      const rdata = data.replace(/\s/g, "");
      const length = (rdata.length / 2).toString(16).padStart(4, "0");
      const { answers } = decodeMessage(
        bytesOf(`0002 8180 0000 0002 0000 0000
          0161 00 00${type.toString(16)} 0001 0000003c ${length} ${rdata}
          00 0001 0001 0000003c 0004 01020304`),
      );
      const service = { name: "a.", type, class: CLASS_IN, ttlSeconds: 60, ...(hints && { hints }) };
      assert.equal(answers[0], service);
      assert.is(answers[1]!.address, "1.2.3.4", "whatever is in it, the next record counts");
    });
  }
}

test("decodeMessage() reads no hints of another class or type", () => {
  for (const head of ["0041 0003", "0040 00ff", "0042 0001", "0010 0001"]) {
    const hex = `0002 8180 0000 0001 0000 0000 00 ${head} 0000003c 000b 0001 00 0004 0004 c0000201`;
    assert.is(decodeMessage(bytesOf(hex)).answers[0]!.hints, undefined);
  }
});

/** A generator whose numbers are the same each time (mulberry32). */
function dice(seed: number): (sides: number) => number {
  let state = seed;
  return (sides) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % sides;
  };
}

/** A message in which everything that can be wrong is wrong now and then. */
function hostile(roll: (sides: number) => number): Uint8Array {
  const bytes: number[] = [roll(256), roll(256), roll(2) * 0x80 + roll(2) * roll(128), roll(256)];
  const counts = [roll(3), roll(4), roll(2), roll(2)];
  for (const count of counts) bytes.push(roll(40) === 0 ? 255 : 0, count);
  const label = (size: number) => {
    bytes.push(size);
    for (let left = size; left > 0; left--) {
      // NUL, a dot, a backslash, letters of both cases, anything.
      bytes.push([0, 46, 92, 65, 97, roll(256)][roll(6)]!);
    }
  };
  const pointer = (target: number) => bytes.push(0xc0 | ((target >> 8) & 0x3f), target & 255);
  const name = () => {
    const start = bytes.length;
    const kind = roll(12);
    // Names of 255 and 256 bytes.
    if (kind === 0) for (const size of [63, 63, 63, 61]) label(size);
    else if (kind === 1) for (const size of [63, 63, 63, 62]) label(size);
    else if (kind === 2) for (let left = roll(130); left > 0; left--) label(1);
    else if (kind === 3) bytes.push(64 + roll(128));
    else for (let left = roll(3); left > 0; left--) label([1, 2, 5, 62, 63, 63][roll(6)]!);
    const end = roll(8);
    if (end === 0) pointer(start);
    else if (end === 1) pointer(bytes.length + roll(20));
    else if (end === 2) pointer(Math.max(0, start - 1 - roll(40)));
    else if (end === 3) pointer(HEADER_BYTES);
    else bytes.push(0);
  };
  for (let left = counts[0]!; left > 0; left--) {
    name();
    bytes.push(0, [1, 5, 28, 65][roll(4)]!, 0, roll(12) === 0 ? 3 : 1);
  }
  for (let left = counts[1]! + counts[2]! + counts[3]!; left > 0; left--) {
    name();
    const type = [1, 1, 5, 5, 28, 41, 64, 65, 16][roll(9)]!;
    bytes.push(0, type, 0, roll(12) === 0 ? 3 : 1, roll(256), 0, 0, roll(256), 0, 0);
    const at = bytes.length;
    if (type === 5) name();
    else if (type === 64 || type === 65) {
      bytes.push(0, roll(2), 0, 0, 4, 0, 4 + roll(2), 192, 0, 2, 1);
    } else
      for (let size = type === 1 ? 4 : type === 28 ? 16 : roll(30); size > 0; size--) bytes.push(roll(256));
    const length = bytes.length - at + (roll(25) === 0 ? roll(5) - 2 : 0);
    bytes[at - 2] = (length >> 8) & 255;
    bytes[at - 1] = length & 255;
  }
  if (roll(20) === 0) bytes.length = roll(bytes.length + 1);
  if (roll(10) === 0) bytes[roll(bytes.length)] = roll(256);
  return Uint8Array.from(bytes);
}

test("decodeMessage() of hostile messages ends, refuses with SyntaxError only, and shows names as they are", () => {
  const roll = dice(11);
  let taken = 0;
  let kept = 0;
  // Enough that each kind of trouble has come.
  const count = 20_000;
  for (let round = 0; round < count; round++) {
    const message = decodeOrSyntaxError(hostile(roll));
    if (!message) continue;
    taken++;
    const known = message.answers.filter((each) => each.address !== undefined || each.target !== undefined);
    const again = { ...message, answers: known };
    const bytes = encodeMessage(again);
    assert.equal(decodeMessage(bytes), again, "what was written is read again");
    assert.equal(encodeMessage(decodeMessage(bytes)), bytes, "and written the same");
    for (const { name } of [...message.questions, ...message.answers]) {
      const labels = parseName(name);
      assert.match(name, /^[!-~]+$/);
      assert.is(formatName(labels), name);
      assert.ok(labels.every((each) => each.length >= 1 && each.length <= 63));
      const wireBytes = labels.reduce((sum, each) => sum + each.length + 1, 1);
      assert.ok(wireBytes <= 255);
      // A dot or a NUL within a label is never taken for one between labels.
      const plain = name.replace(/\\(?:[0-9]{3}|.)/g, "x");
      assert.is(plain === "." ? 0 : plain.split(".").length - 1, labels.length);
      if (labels.some((each) => each.includes(46))) kept++;
    }
  }
  assert.ok(taken > count / 20, `${taken} of ${count} messages could be read`);
  assert.ok(taken < count * 0.9);
  assert.ok(kept > 100, `${kept} labels had dots`);
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

function decodeOrSyntaxError(bytes: Uint8Array): DnsMessage | undefined {
  try {
    const message = decodeMessage(bytes);
    assert.ok(message.questions.length <= bytes.length);
    return message;
  } catch (thrown) {
    assert.instance(thrown, SyntaxError);
    return undefined;
  }
}

test.run();
