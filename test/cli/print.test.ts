/** Fields as text and text as fields, against what the real programs made of the same. */

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseFields } from "../../src/cli/json.ts";
import { formatDouble, formatFields, formatMethod, readFields } from "../../src/cli/print.ts";
import { BlobType, encodeFields, type Field, fieldsOf } from "../../src/ubus/ubus.ts";

interface Vectors {
  readonly parse: readonly {
    readonly json: string;
    readonly hex: string | null;
    readonly formatted?: string;
  }[];
  readonly print: readonly {
    readonly hex: string;
    readonly formatted: string;
    readonly description: string;
  }[];
}

const vectors: Vectors = JSON.parse(readFileSync("test/cli/fixtures/vectors.json", "utf8"));
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const bytesOf = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));

for (const { json, hex, formatted } of vectors.parse) {
  const shown = json.length > 60 ? `${json.slice(0, 60)}…` : json;
  test(`parseFields types ${shown} as the real one`, () => {
    if (hex === null) {
      assert.throws(
        () => parseFields(json),
        (thrown: unknown) => thrown instanceof SyntaxError,
      );
      return;
    }
    assert.is(hexOf(encodeFields(parseFields(json))), hex);
    assert.is(formatFields(readFields(bytesOf(hex))), formatted);
  });
}

for (const { hex, formatted, description } of vectors.print) {
  test(`formatFields prints as the real one: ${description}`, () => {
    assert.is(formatFields(readFields(bytesOf(hex))), formatted);
  });
}

test("parseFields refuses what is cut short", () => {
  const text = '{"a":[1,-2.5e3,"x\\u00e9",true,null,{"b":{}}],"c":"d"}';
  assert.is(hexOf(encodeFields(parseFields(text))).length > 0, true);
  for (let length = 0; length < text.length; length++) {
    assert.throws(
      () => parseFields(text.slice(0, length)),
      (thrown: unknown) => thrown instanceof SyntaxError,
      `cut at ${length}`,
    );
  }
});

test("parseFields refuses nesting past 31 levels and numbers that only begin well", () => {
  const nested = (levels: number) => `${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`;
  assert.is(parseFields(nested(31)).length, 1);
  for (const text of [
    nested(32),
    '{"a":0x10}',
    '{"a":1x}',
    '{"a":1.2.3}',
    '{"a":-}',
    '{"a":.5}',
    "[{}]",
    "1",
  ]) {
    assert.throws(
      () => parseFields(text),
      (thrown: unknown) => thrown instanceof SyntaxError,
      text,
    );
  }
});

test("parseFields keeps names such as __proto__ as names", () => {
  const [field] = parseFields('{"__proto__":{"constructor":1}}');
  assert.is(field!.name, "__proto__");
  assert.equal(
    formatFields(parseFields('{"__proto__":{"constructor":1}}')),
    '{"__proto__":{"constructor":1}}',
  );
});

test("parseFields reads back every JSON object", () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), (object) => {
      // An integer is written without a point, so both ways of reading agree unless the number is -0 or large.
      const text = JSON.stringify(object);
      const fromText = hexOf(encodeFields(parseFields(text)));
      const plain = !/\de|-0(?![.\d])|\d{16}/.test(text) && !text.includes("\\u0000");
      if (plain) assert.is(fromText, hexOf(encodeFields(fieldsOf(JSON.parse(text)))));
    }),
  );
});

test("parseFields ends in fields or a SyntaxError, whatever the text", () => {
  const pieces = fc.constantFrom(
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ":",
    ",",
    "\\",
    "\\u12",
    "1",
    "-",
    ".5",
    "e9",
    "true",
    "nul",
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(pieces, fc.string())), (parts) => {
      try {
        encodeFields(parseFields(parts.join("")));
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }),
  );
});

test("formatDouble prints exact decimals, halves to the even digit", () => {
  const rows: [number, string][] = [
    [0, "0.000000"],
    [-0, "-0.000000"],
    [2, "2.000000"],
    [Math.PI, "3.141593"],
    [2 ** -7, "0.007812"],
    [3 * 2 ** -7, "0.023438"],
    [-(2 ** -7), "-0.007812"],
    [1e-9, "0.000000"],
    [-1e-9, "-0.000000"],
    [0.9999999, "1.000000"],
    [1e21, "1000000000000000000000.000000"],
    [2 ** 70, "1180591620717411303424.000000"],
    [-1e22, "-10000000000000000000000.000000"],
    [Number.NaN, "nan"],
    [Number.POSITIVE_INFINITY, "inf"],
    [Number.NEGATIVE_INFINITY, "-inf"],
  ];
  for (const [value, text] of rows) assert.is(formatDouble(value), text);
});

test("formatDouble reads back to within half of the last digit", () => {
  fc.assert(
    fc.property(fc.double({ min: -1e9, max: 1e9, noNaN: true }), (value) => {
      const text = formatDouble(value);
      assert.match(text, /^-?\d+\.\d{6}$/);
      assert.ok(Math.abs(Number(text) - value) <= 0.5000001e-6);
    }),
  );
});

test("formatFields stops indenting after sixteen tabs", () => {
  let field: Field = { name: "x", type: BlobType.Int32, value: 1 };
  for (let level = 0; level < 20; level++) field = { name: "t", type: BlobType.Table, value: [field] };
  const longest = formatFields([field], { indent: true })
    .match(/\t+/g)!
    .map((tabs) => tabs.length);
  assert.is(Math.max(...longest), 16);
});

test("readFields and formatFields end for nesting of any depth", () => {
  let bytes: Uint8Array = new Uint8Array(0);
  for (let level = 0; level < 1000; level++) {
    const attribute = new Uint8Array(8 + bytes.length);
    attribute.set([0x82, 0, (8 + bytes.length) >> 8, 8 + bytes.length, 0, 0, 0, 0]);
    attribute.set(bytes, 8);
    bytes = attribute;
  }
  assert.match(formatFields(readFields(bytes)), /^\{{33,1000}\}{33,1000}$/);
});

test("formatMethod names the types of arguments", () => {
  const arg = (name: string, value: number): Field => ({ name, type: BlobType.Int32, value });
  const value = [arg("a", 7), arg("b", 5), arg("c", 3), arg("d", 1), arg("e", 2), arg("f", 4), arg("g", 99)];
  assert.is(
    formatMethod({ name: "m", type: BlobType.Table, value }),
    '"m":{"a":"Boolean","b":"Integer","c":"String","d":"Array","e":"Table","f":"(unknown)","g":"(unknown)"}',
  );
});

test.run();
