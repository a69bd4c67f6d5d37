/** Fields: libubox's vectors both ways, damage, properties. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { BlobType, decodeFields, encodeFields, type Field, fieldsOf, jsonOf } from "../../src/ubus/blob.ts";
import { bytesOf, fieldOfTyped, hexOf, readTranscript, readVectors, transcriptNames } from "./transcript.ts";

const vectors = readVectors();

/** Every Json value as text, bigints told apart. */
const show = (value: unknown): string =>
  JSON.stringify(value, (_name, each) => (typeof each === "bigint" ? `${each}n` : each));

const good = vectors.encode.filter(({ hex }) => hex !== null);

test("encodeFields writes what libubox writes, decodeFields reads it back", () => {
  assert.is(good.length, 67);
  for (const { json, hex, typed } of good) {
    const fields = typed!.map(fieldOfTyped);
    assert.is(hexOf(encodeFields(fields)), hex, json);
    assert.equal(decodeFields(bytesOf(hex!)), fields, json);
  }
});

test("fieldsOf types values as the real command line does", () => {
  // A JavaScript number cannot show that it was written with a point, or out of range; the rest is not JSON.
  const beyond = /\b[0-9]+\.0|1e3|e308|\b92233720368547758|\} trailing|NaN|Infinity|'|,\}/;
  const kept = good.filter(({ json }) => !beyond.test(json));
  assert.is(kept.length, 55);
  for (const { json, hex } of kept) assert.is(hexOf(encodeFields(fieldsOf(JSON.parse(json)))), hex, json);
  const wide = [9223372036854775807n, -9223372036854775808n, 9223372036854775808n, -(2n ** 70n)];
  const hex = (value: bigint) => hexOf(encodeFields(fieldsOf({ x: value }))).slice(-16);
  assert.equal(wide.map(hex), [
    "7fffffffffffffff",
    "8000000000000000",
    "7fffffffffffffff",
    "8000000000000000",
  ]);
});

test("decodeFields takes and refuses what libubox takes and refuses", () => {
  assert.is(vectors.decode.length, 20);
  for (const { description, hex, blobmsg_check_attr_len: verdict, formatted } of vectors.decode) {
    const bytes = bytesOf(hex);
    if (verdict === "bad") assert.throws(() => decodeFields(bytes), SyntaxError, description);
    else assert.is(decodeFields(bytes).length, Number(/^ok (\d+)/.exec(verdict)![1]), description);
    // A member without a name is printed as something that is not JSON.
    const printed = formatted === '{"a":{1}}' ? '{"a":{"":1}}' : formatted;
    assert.equal(
      show(jsonOf(decodeFields(bytes, { skipBad: true }))),
      show(JSON.parse(printed)),
      description,
    );
  }
});

test("decodeFields keeps the whole range of a byte, jsonOf makes a boolean of it", () => {
  const fields = decodeFields(bytesOf("8700000900016100c8000000"));
  assert.equal(fields, [{ name: "a", type: BlobType.Int8, value: 200 }]);
  assert.is(show(jsonOf(fields)), '{"a":true}');
});

test("numbers keep their sign and every bit", () => {
  const rows: Field[] = [
    { name: "a", type: BlobType.Int16, value: -1 },
    { name: "b", type: BlobType.Int16, value: -32768 },
    { name: "c", type: BlobType.Int16, value: 32767 },
    { name: "d", type: BlobType.Int32, value: -2147483648 },
    { name: "e", type: BlobType.Int64, value: Number.MAX_SAFE_INTEGER },
    { name: "f", type: BlobType.Int64, value: -Number.MAX_SAFE_INTEGER },
    { name: "g", type: BlobType.Int64, value: 9007199254740993n },
    { name: "h", type: BlobType.Int64, value: -9007199254740993n },
    { name: "i", type: BlobType.Int64, value: -1 },
    { name: "j", type: BlobType.Double, value: -0 },
    { name: "k", type: BlobType.Double, value: Number.NEGATIVE_INFINITY },
  ];
  const read = decodeFields(encodeFields(rows));
  for (const [index, row] of rows.entries()) assert.ok(Object.is(read[index]!.value, row.value), row.name);
});

test("a string ends at its first NUL, and bytes that are no text are replaced", () => {
  const value = (hex: string) => decodeFields(bytesOf(hex))[0]!.value;
  assert.is(value("8300000c00016100ff41c300"), "\ufffdA\ufffd");
  assert.is(value("8300000c00016100efbbbf00"), "\ufeff", "a byte order mark is text");
  assert.is(value("8300000d000161006100626300000000"), "a");
  const long = "ä".repeat(300);
  assert.is(decodeFields(encodeFields(fieldsOf({ long })))[0]!.value, long);
  const cut = encodeFields(fieldsOf({ a: `${"x".repeat(100)}\0y`, b: "\ud800" }));
  assert.equal({ ...jsonOf(decodeFields(cut)) }, { a: "x".repeat(100), b: "\ufffd" });
});

test("names of any kind stay names", () => {
  const names = ["__proto__", "constructor", "toString", "$(x)", "a\nb", "'", ""];
  const object = Object.create(null);
  for (const [index, name] of names.entries()) object[name] = index;
  const read = jsonOf(decodeFields(encodeFields(fieldsOf(object))));
  assert.is(Object.getPrototypeOf(read), null);
  assert.equal(Object.entries(read), Object.entries(object));
});

test("what is undefined is left out of an object and null in an array", () => {
  const json = { a: undefined, b: [undefined, 1] } as unknown as JsonObject;
  assert.is(show(jsonOf(fieldsOf(json))), '{"b":[null,1]}');
});

test("an attribute without the extended bit is a field without a name", () => {
  assert.equal(decodeFields(bytesOf("0500000800000007")), [{ name: "", type: BlobType.Int32, value: 7 }]);
});

test("nesting is bounded both ways", () => {
  let fields: Field[] = [];
  const wrap = () => [{ name: "", type: BlobType.Array, value: fields }];
  for (let depth = 0; depth < 64; depth++) fields = wrap();
  const deepest = encodeFields(fields);
  assert.equal(decodeFields(deepest), fields);
  fields = wrap();
  assert.throws(
    () => encodeFields(fields),
    (thrown: unknown) => thrown instanceof Fault && thrown.code === "limit",
  );
  const header = bytesOf("8100000000000000");
  const deeper = new Uint8Array(header.length + deepest.length);
  deeper.set(header);
  deeper.set(deepest, header.length);
  deeper[3] = deeper.length & 255;
  deeper[2] = deeper.length >> 8;
  assert.throws(() => decodeFields(deeper), SyntaxError);
  let json: Json = {};
  for (let depth = 0; depth < 70; depth++) json = { a: json };
  assert.throws(
    () => fieldsOf({ json }),
    (thrown: unknown) => thrown instanceof Fault,
  );
});

test("names and wholes that do not fit are a Fault, and the next encoding is not hurt", () => {
  const isLimit = (thrown: unknown) => thrown instanceof Fault && thrown.code === "limit";
  assert.throws(() => encodeFields(fieldsOf({ ["n".repeat(65536)]: 1 })), isLimit);
  assert.throws(() => encodeFields(fieldsOf({ a: "x".repeat(17 * 1048576) })), isLimit);
  assert.is(hexOf(encodeFields(fieldsOf({ x: 1 }))), "8500000c0001780000000001");
});

test("a list cut short at any byte gives its whole fields or a SyntaxError", () => {
  for (const { hex } of good) {
    const bytes = bytesOf(hex!);
    const whole = decodeFields(bytes);
    for (let length = 0; length < bytes.length; length++) {
      const part = decodeFields(bytes.subarray(0, length));
      assert.equal(part, whole.slice(0, part.length));
      assert.ok(part.length < Math.max(1, whole.length));
    }
  }
});

test("flipped bits never give anything but fields or a SyntaxError", () => {
  const recorded = readTranscript("07-call-all-blobmsg-types").lines.map(({ bytes }) => bytes.subarray(12));
  const seeds = [...recorded, ...good.map(({ hex }) => bytesOf(hex!))].filter(({ length }) => length > 0);
  let refused = 0;
  for (const seed of seeds) {
    for (let bit = 0; bit < Math.min(seed.length, 256) * 8; bit++) {
      const bytes = seed.slice();
      bytes[bit >> 3]! ^= 1 << (bit & 7);
      try {
        encodeFields(decodeFields(bytes));
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
        refused++;
      }
      encodeFields(fieldsOf(jsonOf(decodeFields(bytes, { skipBad: true }))));
    }
  }
  assert.ok(refused > 1000);
  assert.ok(transcriptNames.length > 25);
});

const anyText = fc.string({ unit: "binary", maxLength: 90 }).map((text) => text.replaceAll("\0", ""));
const anyField: fc.Memo<Field> = fc.memo((depth) => {
  const leaf = fc.oneof(
    fc.record({ type: fc.constant(BlobType.Unspec), value: fc.constant(undefined) }),
    fc.record({ type: fc.constant(BlobType.String), value: anyText }),
    fc.record({ type: fc.constant(BlobType.Int64), value: fc.maxSafeInteger() }),
    fc.record({ type: fc.constant(BlobType.Int64), value: fc.bigInt(2n ** 53n, 2n ** 63n - 1n) }),
    fc.record({ type: fc.constant(BlobType.Int32), value: fc.integer() }),
    fc.record({ type: fc.constant(BlobType.Int16), value: fc.integer({ min: -32768, max: 32767 }) }),
    fc.record({ type: fc.constant(BlobType.Int8), value: fc.nat(255) }),
    fc.record({ type: fc.constant(BlobType.Double), value: fc.double() }),
  );
  if (depth <= 1) return fc.tuple(anyText, leaf).map(([name, rest]) => ({ name, ...rest }));
  const list = (type: number) =>
    fc.array(anyField(depth - 1), { maxLength: 4 }).map((value) => ({ type, value }));
  const table = list(BlobType.Table);
  // Names in an array are not kept.
  const array = list(BlobType.Array).map(({ type, value }) => ({
    type,
    value: value.map((field) => ({ ...field, name: "" })),
  }));
  return fc.tuple(anyText, fc.oneof(leaf, table, array)).map(([name, rest]) => ({ name, ...rest }));
});

test("property: fields come back as they were", () => {
  fc.assert(
    fc.property(fc.array(anyField(4), { maxLength: 6 }), (fields) => {
      const bytes = encodeFields(fields);
      assert.is(bytes.length % 4, 0);
      const read = decodeFields(bytes);
      assert.equal(read, fields);
      assert.equal(encodeFields(read), bytes);
    }),
    { numRuns: 300 },
  );
});

test("property: JSON comes back as it was, integers past 2^53 as bigint", () => {
  const wide = (_name: string, value: unknown) =>
    typeof value === "number" &&
    Number.isInteger(value) &&
    !Number.isSafeInteger(value) &&
    Math.abs(value) < 2 ** 63
      ? BigInt(value)
      : value;
  fc.assert(
    fc.property(fc.dictionary(anyText, fc.jsonValue({ noUnicodeString: false })), (json) => {
      const clean = JSON.parse(JSON.stringify(json).replaceAll("\\u0000", ""));
      const read = jsonOf(decodeFields(encodeFields(fieldsOf(clean))));
      assert.is(show(read), show(JSON.parse(JSON.stringify(clean), wide)));
    }),
    { numRuns: 300 },
  );
});

test("property: arbitrary bytes are fields or a SyntaxError", () => {
  const header = fc
    .tuple(fc.nat(255), fc.constant(0), fc.nat(1), fc.nat(255))
    .map((bytes) => Uint8Array.from(bytes));
  const piece = fc.oneof(header, fc.uint8Array({ maxLength: 16 }));
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
      const bytes = new Uint8Array(Buffer.concat(pieces));
      try {
        decodeFields(bytes);
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
      decodeFields(bytes, { skipBad: true });
    }),
    { numRuns: 1000 },
  );
});

test.run();
