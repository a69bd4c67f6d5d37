/** Where one request ends and the next begins, in whatever pieces the bytes come. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Frame, Framer, nestingOf } from "../../src/spin/frame.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);

/** Frames of a text fed in pieces of a size, as short text. */
function framesOf(
  text: string | Uint8Array,
  pieceBytes = Number.POSITIVE_INFINITY,
  maxBytes = 1_000,
): string[] {
  const bytes = typeof text === "string" ? bytesOf(text) : text;
  const framer = new Framer(maxBytes);
  const frames: string[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    framer.feed(bytes.slice(at, at + pieceBytes));
    for (let frame = framer.next(); frame; frame = framer.next()) frames.push(shortOf(frame));
    assert.is(framer.hasUnread, false);
  }
  return framer.isPartial ? [...frames, "partial"] : frames;
}

const shortOf = (frame: Frame) => (frame.kind === "text" ? frame.text : frame.kind);

const rows: readonly (readonly [text: string, frames: readonly string[]])[] = [
  ["", []],
  [" \r\n\t\0\n", []],
  ["{}", ["{}"]],
  ["{}\n", ["{}"]],
  ["{}{}[]", ["{}", "{}", "[]"]],
  ["{}\n\n {} \n[[],{}]\n", ["{}", "{}", "[[],{}]"]],
  ['{"a":"}"}{', ['{"a":"}"}', "partial"]],
  ['{"a":"\\"}"}{}', ['{"a":"\\"}"}', "{}"]],
  ['{"a":"\\\\"}{}', ['{"a":"\\\\"}', "{}"]],
  ['{"a":"\n"}', ['{"a":"\n"}']],
  ['{"a":"é€😀"}\n[]', ['{"a":"é€😀"}', "[]"]],
  ["{]", ["{]"]],
  ["this is not json\n{}", ["garbage", "{}"]],
  ["42\n42 {}\n{}", ["garbage", "garbage", "{}"]],
  ["}{}\n{}", ["garbage", "{}"]],
  ['"{}"', ["garbage"]],
  ["{}x{}\n{}", ["{}", "garbage", "{}"]],
  ['{"a', ["partial"]],
];

for (const [text, frames] of rows) {
  test(`Framer: ${JSON.stringify(text)}, in pieces of every size`, () => {
    for (let size = 1; size <= Math.max(1, bytesOf(text).length); size++) {
      assert.equal(framesOf(text, size), frames, `${size}`);
    }
  });
}

test("Framer: a value is as long as allowed, and not a byte longer", () => {
  const text = `{"a":"${"x".repeat(92)}"}`;
  assert.is(text.length, 100);
  for (const size of [1, 7, 99, 100, 500]) {
    assert.equal(framesOf(`${text}{}`, size, 100), [text, "{}"]);
    assert.equal(framesOf(`{}${text}{}`, size, 99), ["{}", "oversize"]);
    assert.equal(framesOf("{".repeat(10_000), size, 99), ["oversize"]);
  }
});

test("Framer: bytes that are no UTF-8 are garbage, and what follows is read", () => {
  const bytes = bytesOf('{"a":"??"}{}');
  bytes[6] = 0xff;
  for (const size of [1, 3, 100]) assert.equal(framesOf(bytes, size), ["garbage", "{}"]);
});

test("Framer: knows of blanks and of what is unread", () => {
  const framer = new Framer(100);
  framer.feed(bytesOf("{}"));
  assert.is(framer.hasUnread, true);
  assert.equal(framer.next(), { kind: "text", text: "{}" });
  assert.equal([framer.hasBlanks, framer.hasUnread], [false, false]);
  framer.feed(bytesOf("\n"));
  assert.is(framer.next(), undefined);
  assert.is(framer.hasBlanks, true);
});

test("Framer: any values come out as they went in, in any pieces", () => {
  const value = fc.oneof(
    fc.dictionary(fc.string({ unit: "binary" }), fc.jsonValue()),
    fc.array(fc.jsonValue()),
  );
  fc.assert(
    fc.property(
      fc.array(value),
      fc.constantFrom("", "\n", " ", "\r\n\0"),
      fc.integer({ min: 1, max: 40 }),
      (values, gap, size) => {
        const texts = values.map((each) => JSON.stringify(each));
        assert.equal(framesOf(texts.join(gap), size, 100_000), texts);
      },
    ),
    { numRuns: 300 },
  );
});

test("Framer: any bytes give the same frames in any pieces, and never throw", () => {
  const byte = fc.oneof(fc.nat(255), fc.constantFrom(...bytesOf('{}[]"\\\n x')));
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.array(byte),
      fc.integer({ min: 1, max: 9 }),
      (head, tail, size) => {
        const bytes = Uint8Array.from([...head, ...tail]);
        assert.equal(framesOf(bytes, size, 50), framesOf(bytes, Number.POSITIVE_INFINITY, 50));
      },
    ),
    { numRuns: 1_000 },
  );
});

test("nestingOf counts objects and arrays, not what strings hold", () => {
  const rows: readonly (readonly [string, number])[] = [
    ["", 0],
    ["{}", 1],
    ['{"[[[[":[[]]}', 3],
    ['["\\"[[["]', 1],
    ["[".repeat(500), 500],
    ["[]][[", 1],
  ];
  for (const [text, depth] of rows) assert.is(nestingOf(text), depth, text);
});

test.run();
