/** Messages: every recorded one both ways, streams in any pieces, damage. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { BlobType, decodeFields, type Field } from "../../src/ubus/blob.ts";
import {
  type Attributes,
  decodeAttributes,
  decodeMessage,
  encodeMessage,
  encodeMonitor,
  type Message,
  MessageReader,
  MessageType,
  type Received,
  sightingOf,
} from "../../src/ubus/message.ts";
import {
  bytesOf,
  type Decoded,
  fieldOfTyped,
  hexOf,
  type Line,
  readTranscript,
  type TypedField,
  transcriptNames,
} from "./transcript.ts";

const transcripts = transcriptNames.map(readTranscript);
/** Recorded whole; one has a length that no message can have. */
const whole = ({ dir, bytes }: Line) => (dir === "C2S" || dir === "S2C") && hexOf(bytes) !== impossible;
const impossible = "000300010000000000000003";
const lines = transcripts.flatMap(({ name, lines }) => lines.filter(whole).map((line) => ({ name, line })));
const messages = lines.map(({ line }) => line.bytes);
const limit = 1048576 + 65536;

/** Messages that no program writes on purpose: they don't come back byte for byte. */
const odd: Readonly<Record<string, string>> = {
  "31-raw-invalid 24": "a METHOD without its NUL counts as absent",
  "31-raw-invalid 26": "an OBJID of 8 bytes counts as absent",
  "31-raw-invalid 35": "a STATUS behind its OBJID",
};

const names: Readonly<Record<string, keyof Attributes>> = {
  STATUS: "status",
  OBJPATH: "path",
  OBJID: "objectId",
  METHOD: "method",
  OBJTYPE: "objectType",
  TARGET: "target",
  ACTIVE: "active",
  NO_REPLY: "noReply",
  SUBSCRIBERS: "subscribers",
  USER: "user",
  GROUP: "group",
};

/** A signature as the independent decoder shows it. */
function methodsOf(signature: readonly Field[]): object {
  const policy = ({ name, value }: Field) => [
    name,
    { policy: value, policy_name: Object.keys(policies)[value as number] },
  ];
  return Object.fromEntries(
    signature.map(({ name, value }) => [name, Object.fromEntries((value as readonly Field[]).map(policy))]),
  );
}
const policies = {
  unspec: 0,
  array: 1,
  table: 2,
  string: 3,
  int64: 4,
  int32: 5,
  int16: 6,
  int8: 7,
  double: 8,
};

function checkAttributes(attributes: Attributes, decoded: Decoded, where: string): void {
  const expected: Record<string, unknown> = {};
  for (const attr of decoded.attrs as readonly (Decoded["attrs"][number] & {
    methods?: object;
    hex?: string;
  })[]) {
    if (attr.name === "SIGNATURE") {
      assert.equal(methodsOf(decodeFields(attributes.signature!)), attr.methods, where);
    } else if (attr.name === "DATA" && Array.isArray(attr.value)) {
      const typed = (attr.value as readonly TypedField[]).map(fieldOfTyped);
      assert.equal(decodeFields(attributes.data!), typed, where);
    } else if (attr.name === "DATA") {
      assert.is(hexOf(attributes.data!), attr.hex, where);
    } else if (attr.value !== undefined) {
      const { value } = attr;
      const number = (each: unknown) => (typeof each === "string" && /^0x/.test(each) ? Number(each) : each);
      const flag = attr.name === "ACTIVE" || attr.name === "NO_REPLY";
      expected[names[attr.name]!] = flag
        ? value === 1
        : Array.isArray(value)
          ? value.map(number)
          : number(value);
    }
  }
  const { signature: _signature, data: _data, ...rest } = attributes;
  assert.equal(rest, expected, where);
}

test("decodeMessage reads every recorded message as an independent decoder does", () => {
  assert.ok(lines.length > 550);
  let skipped = 0;
  for (const { name, line } of lines) {
    const where = `${name} ${line.n}`;
    const message = decodeMessage(line.bytes);
    const { version, type, seq, peer } = line.decoded!;
    assert.equal(
      [message.version, message.type, message.seq, message.peer],
      [version, type, seq, Number(peer)],
      where,
    );
    if (where === "31-raw-invalid 24") skipped++;
    else if (type !== MessageType.Monitor) checkAttributes(message.attributes, line.decoded!, where);
  }
  assert.is(skipped, 1, "the independent decoder shows a METHOD without NUL");
});

test("encodeMessage writes every recorded message byte for byte", () => {
  const different: string[] = [];
  for (const { name, line } of lines) {
    const message = decodeMessage(line.bytes);
    if (message.type === MessageType.Monitor) continue;
    if (hexOf(encodeMessage(message)) !== hexOf(line.bytes)) different.push(`${name} ${line.n}`);
  }
  assert.equal(different, Object.keys(odd));
});

test("Monitor messages have attributes of their own", () => {
  const seen = lines.filter(({ line }) => line.decoded!.type === MessageType.Monitor && line.dir === "S2C");
  assert.is(seen.length, 11);
  for (const { line } of seen) {
    const message = decodeMessage(line.bytes);
    assert.equal(message.attributes, {});
    const sighting = sightingOf(message)!;
    const shown = Object.fromEntries(line.decoded!.attrs.map(({ name, value }) => [name, Number(value)]));
    const { client, peer, seq, type, send } = sighting;
    assert.equal(
      [client, peer, seq, type, send ? 1 : 0],
      [shown.CLIENT, shown.PEER, shown.SEQ, shown.TYPE, shown.SEND],
    );
    assert.is(hexOf(encodeMonitor(message.seq, sighting)), hexOf(line.bytes));
  }
  const call = seen.map(({ line }) => sightingOf(decodeMessage(line.bytes))!).find(({ type }) => type === 5)!;
  assert.is(decodeAttributes(call.data, 0).method, "echo");
  const first = seen[0]!.line.bytes;
  const missing = decodeMessage(first.subarray(0, 12 + 8 * 4));
  assert.is(sightingOf(missing), undefined);
});

test("attributes that do not fit their type count as absent, of repeated ones the last counts", () => {
  const attributes = (hex: string) => decodeAttributes(bytesOf(hex), 0);
  assert.equal(attributes("03000008000000010300000800000002"), { objectId: 2 });
  assert.equal(attributes("03000008000000010300000c0000000500000002"), { objectId: 1 });
  assert.equal(attributes("02000004"), {}, "a string has at least its NUL");
  assert.equal(attributes("0200000541000000"), {}, "a string ends in NUL");
  assert.equal(attributes("0200000741004200"), {}, "the byte behind the length does not count");
  assert.equal(attributes("020000084100420002000008410042ff"), { path: "A" }, "text ends at its first NUL");
  assert.equal(attributes("0a00000600010000"), {}, "a flag is one byte");
  assert.equal(attributes("0e000008000000017f00000800000001"), {}, "unknown ids mean nothing");
  assert.equal(
    attributes("0300000800000001ffffffff0100000800000000"),
    { objectId: 1 },
    "what does not fit ends it",
  );
  assert.equal(attributes("01000008ffffffff"), { status: -1 });
  assert.equal(attributes("0b00001000000008800000010000000600000000"), { subscribers: [0x80000001] });
});

/** Everything that a reader makes of chunks, and whether it gave up. */
function readAll(chunks: readonly Uint8Array[], maxBlobBytes = limit): { read: string[]; failed: boolean } {
  const reader = new MessageReader(maxBlobBytes);
  const read: string[] = [];
  for (const chunk of chunks) {
    try {
      for (const message of reader.push(chunk)) read.push(hexOf(encodeFrame(message)));
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
      assert.is(thrown, reader.failure);
    }
  }
  return { read, failed: reader.failure !== undefined };
}

function encodeFrame({ version, type, seq, peer, blob }: Received): Uint8Array {
  const header = Buffer.alloc(8);
  header.writeUInt8(version, 0);
  header.writeUInt8(type, 1);
  header.writeUInt16BE(seq, 2);
  header.writeUInt32BE(peer, 4);
  return new Uint8Array(Buffer.concat([header, blob]));
}

const join = (parts: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(parts));

/** That a reader makes exactly these messages of the chunks; says which one is wrong. */
function readsAs(chunks: readonly Uint8Array[], expected: readonly Uint8Array[]): void {
  const { read, failed } = readAll(chunks);
  assert.is(read.length, expected.length);
  const wrong = read.findIndex((hex, index) => hex !== hexOf(expected[index]!));
  assert.is(wrong, -1, "which message is wrong");
  assert.not(failed);
}

test("MessageReader cuts a stream of all recorded messages, whole, byte by byte and in any pieces", () => {
  const stream = join(messages);
  readsAs([stream], messages);
  const small = messages.filter(({ length }) => length < 3000);
  const bytes = [...join(small)].map((byte) => Uint8Array.of(byte));
  readsAs(bytes, small);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 30000 }), { minLength: 1, maxLength: 40 }), (sizes) => {
      const chunks: Uint8Array[] = [];
      for (let at = 0, turn = 0; at < stream.length; turn++) {
        const end = at + sizes[turn % sizes.length]!;
        chunks.push(stream.slice(at, end));
        at = end;
      }
      readsAs(chunks, messages);
    }),
    { numRuns: 30 },
  );
});

test("MessageReader keeps what a message was made of when its chunks are used again", () => {
  const reader = new MessageReader(limit);
  const chunk = new Uint8Array(16);
  const call = messages.find(({ length }) => length > 48)!;
  const read: Received[] = [];
  for (let at = 0; at < call.length; at += 16) {
    const part = call.subarray(at, at + 16);
    chunk.set(part);
    read.push(...reader.push(chunk.subarray(0, part.length)));
    chunk.fill(0xee);
  }
  assert.equal(
    read.map((message) => hexOf(encodeFrame(message))),
    [hexOf(call)],
  );
});

test("MessageReader takes the greatest message in many chunks without copying it each time", () => {
  const data = new Uint8Array(limit - 8).fill(7);
  const bytes = encodeMessage({ type: MessageType.Data, seq: 1, peer: 2, attributes: { data } });
  const reader = new MessageReader(limit);
  let copied = 0;
  const original = Uint8Array.prototype.set;
  Uint8Array.prototype.set = function (from: ArrayLike<number>, at?: number) {
    copied += from.length;
    original.call(this, from, at);
  };
  const read: Received[] = [];
  try {
    for (let at = 0; at < bytes.length; at += 100) read.push(...reader.push(bytes.subarray(at, at + 100)));
  } finally {
    Uint8Array.prototype.set = original;
  }
  assert.is(read.length, 1);
  assert.is(read[0]!.attributes.data!.length, data.length);
  assert.ok(copied < 4 * bytes.length, `${copied} bytes copied`);
});

test("MessageReader gives up at a length that cannot be, wherever chunks end", () => {
  const hello = bytesOf("000000005a00000100000004");
  for (const length of ["00000003", "00000000", "00110001", "00ffffff"]) {
    const stream = join([hello, bytesOf(`0003000100000000${length}`), hello]);
    for (let cut = 0; cut <= stream.length; cut++) {
      const { read, failed } = readAll([stream.subarray(0, cut), stream.subarray(cut)]);
      assert.equal(read, [hexOf(hello)], length);
      assert.ok(failed, length);
    }
    const reader = new MessageReader(limit);
    assert.is(reader.push(stream).length, 1, "what came before is not lost");
    assert.throws(() => reader.push(hello), SyntaxError);
  }
  const greatest = bytesOf("000300010000000000110000");
  assert.equal(readAll([greatest]), { read: [], failed: false }, "the limit itself is believed");
});

test("MessageReader holds no more than twice what has come", () => {
  const reader = new MessageReader(limit);
  const before = process.memoryUsage().arrayBuffers;
  const readers = Array.from({ length: 200 }, () => new MessageReader(limit));
  for (const each of [reader, ...readers]) each.push(bytesOf("00030001000000000011000000"));
  assert.ok(process.memoryUsage().arrayBuffers - before < 1048576);
});

test("flipped bits in a stream give messages or a SyntaxError", () => {
  const stream = join(messages.filter(({ length }) => length < 200).slice(0, 25));
  let failures = 0;
  for (let bit = 0; bit < stream.length * 8; bit++) {
    const bytes = stream.slice();
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    const reader = new MessageReader(4096);
    try {
      for (const message of reader.push(bytes)) {
        encodeMessage(message);
        sightingOf(message);
      }
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
    }
    if (reader.failure) failures++;
  }
  assert.ok(failures > 100);
});

const id = fc.nat(0xffffffff);
const text = fc.string({ unit: "binary", maxLength: 100 }).map((each) => each.replaceAll("\0", ""));
const anyAttributes: fc.Arbitrary<Attributes> = fc.record(
  {
    status: fc.integer(),
    path: text,
    objectId: id,
    method: text,
    objectType: id,
    signature: fc.uint8Array({ maxLength: 30 }),
    data: fc.uint8Array({ maxLength: 30 }),
    target: id,
    active: fc.boolean(),
    noReply: fc.boolean(),
    subscribers: fc.array(id, { maxLength: 5 }),
    user: text,
    group: text,
  },
  { requiredKeys: [] },
);
const anyMessage: fc.Arbitrary<Message> = fc.record({
  version: fc.nat(255),
  type: fc.nat(10),
  seq: fc.nat(65535),
  peer: id,
  attributes: anyAttributes,
});

test("property: a message comes back as it was, alone and in a stream", () => {
  fc.assert(
    fc.property(fc.array(anyMessage, { maxLength: 5 }), (sent) => {
      const reader = new MessageReader(limit);
      const read = reader.push(join(sent.map(encodeMessage)));
      assert.is(read.length, sent.length);
      for (const [index, { blob, ...message }] of read.entries()) {
        assert.is(blob.length % 4, 0);
        const { attributes, ...header } = sent[index]!;
        assert.equal(message, { ...header, attributes: { ...attributes } });
      }
    }),
    { numRuns: 300 },
  );
});

test("the ids of types are those of the wire", () => {
  assert.equal(Object.values(MessageType), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  assert.equal(Object.values(BlobType), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
});

test.run();
