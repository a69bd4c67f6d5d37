/** Messages found in a stream, looked into in place, and passed on. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { encodeFields, fieldsOf } from "../../src/ubus/blob.ts";
import { encodeName, forwardAnswer, forwardInvoke, joined } from "../../src/ubus/compose.ts";
import { Frame, FrameReader, namedSpan, nameOf, readName } from "../../src/ubus/frame.ts";
import { Attribute, decodeMessage, encodeMessage, MessageType } from "../../src/ubus/message.ts";

const data = encodeFields(fieldsOf({ a: 1, b: "text", c: [true, null, { d: 2.5 }] }));
const messages = [
  encodeMessage({ type: MessageType.Lookup, seq: 1, peer: 0, attributes: {} }),
  encodeMessage({
    type: MessageType.Invoke,
    seq: 65535,
    peer: 0xfffffff0,
    attributes: { objectId: 0xdeadbeef, method: "m", data },
  }),
  encodeMessage({
    type: MessageType.Notify,
    seq: 3,
    peer: 4,
    attributes: { objectId: 5, method: "note", data, noReply: true },
  }),
  encodeMessage({ type: MessageType.Status, seq: 4, peer: 9, attributes: { status: -1, objectId: 5 } }),
];
const stream = joined(messages);
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const whole = (frame: Frame) => hexOf(frame.bytes.subarray(frame.start, frame.end));

test("Frame finds what decodeMessage decodes", () => {
  for (const bytes of messages) {
    const frame = new Frame(bytes, 0, bytes.length);
    const message = decodeMessage(bytes);
    const { attributes } = message;
    assert.equal(
      [frame.version, frame.type, frame.seq, frame.peer],
      [0, message.type, message.seq, message.peer],
    );
    assert.is(frame.u32(Attribute.ObjectId), attributes.objectId);
    assert.is(frame.name(Attribute.Method), attributes.method);
    assert.is(frame.hasName(Attribute.Method), attributes.method !== undefined);
    assert.is(frame.has(Attribute.Data), attributes.data !== undefined);
    assert.is(frame.flag(Attribute.NoReply), attributes.noReply === true);
    const status = frame.u32(Attribute.Status);
    assert.is(status === undefined ? undefined : status | 0, attributes.status);
  }
});

test("FrameReader finds every message, however the stream is cut and whenever the taker takes", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(stream.length)), fc.array(fc.boolean()), (cuts, whims) => {
      const reader = new FrameReader(1 << 20);
      const seen: string[] = [];
      let count = 0;
      const take = (frame: Frame) => {
        if (whims[count++ % (whims.length + 1)] === false) return false;
        seen.push(whole(frame));
        return true;
      };
      const places = [0, ...[...cuts].sort((one, other) => one - other), stream.length];
      for (let index = 1; index < places.length; index++) {
        // The chunk is the reader's only until push returns.
        const chunk = stream.slice(places[index - 1]!, places[index]!);
        reader.push(chunk, take);
        chunk.fill(0xee);
      }
      for (let round = 0; seen.length < messages.length && round < 1000; round++) reader.resume(take);
      assert.equal(seen, messages.map(hexOf));
      assert.is(reader.heldBytes, 0);
    }),
  );
});

test("FrameReader takes one byte at a time", () => {
  const reader = new FrameReader(1 << 20);
  const seen: string[] = [];
  for (const byte of stream) reader.push(Uint8Array.of(byte), (frame) => seen.push(whole(frame)) > 0);
  assert.equal(seen, messages.map(hexOf));
});

test("FrameReader holds no more than twice what came, whatever is announced", () => {
  const reader = new FrameReader(1 << 20);
  const head = Uint8Array.of(0, 3, 0, 1, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xfc);
  reader.push(head, () => true);
  assert.ok(reader.heldBytes <= 24);
  for (let sent = 12; sent < 100_000; sent += 1000) {
    reader.push(new Uint8Array(1000), () => true);
    assert.ok(reader.heldBytes <= 2 * (sent + 1000));
  }
});

test("FrameReader refuses impossible lengths, behind messages that it still offers", () => {
  for (const length of [0, 3, (1 << 20) + 1, 0xffffff]) {
    const bad = Uint8Array.of(0, 3, 0, 1, 0, 0, 0, 0, 0, length >> 16, length >> 8, length);
    const reader = new FrameReader(1 << 20);
    let taken = 0;
    assert.throws(
      () => reader.push(joined([messages[0]!, bad]), () => ++taken > 0),
      (thrown: unknown) => thrown instanceof SyntaxError,
    );
    assert.is(taken, 1);
  }
});

test("Frame ends at what does not fit, takes the last of repeated attributes, ignores unknown ones", () => {
  const frameOf = (...attributes: Uint8Array[]) => {
    const body = joined(attributes);
    const bytes = joined([new Uint8Array(12), body]);
    return new Frame(bytes, 0, bytes.length);
  };
  const id = (value: number) => Uint8Array.of(3, 0, 0, 8, 0, 0, 0, value);
  assert.is(frameOf(id(1), id(2)).u32(Attribute.ObjectId), 2);
  assert.is(frameOf(Uint8Array.of(0x7f, 0, 0, 8, 9, 9, 9, 9), id(2)).u32(Attribute.ObjectId), 2);
  assert.is(frameOf(id(1), Uint8Array.of(3, 0, 0, 9, 0, 0, 0, 2)).u32(Attribute.ObjectId), 1);
  assert.is(frameOf(Uint8Array.of(3, 0, 0, 0), id(2)).u32(Attribute.ObjectId), undefined);
  assert.is(frameOf(Uint8Array.of(3, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 2)).u32(Attribute.ObjectId), undefined);
  assert.is(frameOf(Uint8Array.of(4, 0, 0, 7, 0x61, 0x62, 0x63, 0)).name(Attribute.Method), undefined);
  assert.is(frameOf(Uint8Array.of(4, 0, 0, 8, 0x61, 0, 0x63, 0)).name(Attribute.Method), "a");
});

test("forwardInvoke and forwardAnswer change nothing but what they are told to", () => {
  const caller = joined([encodeName(Attribute.User, "root"), encodeName(Attribute.Group, "wheel")]);
  const frame = new Frame(messages[2]!, 0, messages[2]!.length);
  for (const noReply of [true, false]) {
    const { attributes, ...head } = decodeMessage(
      forwardInvoke(frame, { seq: 7, peer: 8, objectId: 9, noReply, caller }),
    );
    assert.equal([head.type, head.seq, head.peer], [MessageType.Invoke, 7, 8]);
    assert.is(hexOf(attributes.data!), hexOf(data));
    assert.equal(
      [attributes.objectId, attributes.method, attributes.user, attributes.group, attributes.noReply],
      [9, "note", "root", "wheel", noReply ? true : undefined],
    );
  }
  const answer = new Frame(messages[3]!, 0, messages[3]!.length);
  const passed = forwardAnswer(answer, MessageType.Status, 5);
  const expected = messages[3]!.slice();
  expected.set([0, 0, 0, 5], 4);
  assert.is(hexOf(passed), hexOf(expected));
});

test("Frame and namedSpan never throw and never look outside, whatever the bytes", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 12, maxLength: 80 }), (bytes) => {
      const frame = new Frame(bytes, 0, bytes.length);
      for (let id = 0; id < 14; id++) {
        frame.name(id);
        frame.u32(id);
        frame.flag(id);
        assert.ok(frame.endOf(id) <= bytes.length);
      }
      const span = namedSpan(bytes, {
        id: bytes[0]! & 0x7f,
        extended: bytes[0]! > 0x7f,
        start: 4,
        end: bytes.length,
      });
      if (span) assert.ok(span.start >= 4 && span.start <= span.end && span.end <= bytes.length);
    }),
  );
});

test("nameOf and readName keep every byte", () => {
  assert.is(nameOf("é€"), "\xc3\xa9\xe2\x82\xac");
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => 255 - index);
  assert.is(readName(bytes, 0, 256)!.length, 255);
  assert.is(readName(bytes, 0, 255), undefined);
  assert.is(readName(bytes, 256, 256), undefined);
});

test.run();
