/** References as text and bytes. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { loadConfig } from "../../src/config/config.ts";
import {
  decodeReference,
  drawReference,
  encodeReference,
  formatReference,
  formatReferenceAt,
  isStaticReference,
  maxReference,
  parseReference,
  readReference,
} from "../../src/lib/reference.ts";

const rows: readonly (readonly [text: string, value: bigint, printed: string])[] = [
  ["0", 0n, "0"],
  ["1", 1n, "1"],
  ["2711", 2711n, "2711"],
  ["65535", 65_535n, "65535"],
  ["65536", 65_536n, "1-0"],
  ["0-12", 0x12n, "18"],
  ["12-0", 0x12_0000n, "12-0"],
  ["6-789a", 0x6_789an, "6-789a"],
  ["6-789A", 0x6_789an, "6-789a"],
  ["123456789012345678901234567890123456789", 123456789012345678901234567890123456789n, ""],
  ["a0--12", 0x00a0_0000_0000_0000_0000_0000_0000_0012n, "a0-0-0-0-0-0-0-12"],
  ["22-33--", 0x0022_0033_0000_0000_0000_0000_0000_0000n, "22-33-0-0-0-0-0-0"],
  [
    "123e-4567-e89b-12d3-a456-4266-5544-0",
    0x123e4567e89b12d3a456426655440000n,
    "123e-4567-e89b-12d3-a456-4266-5544-0",
  ],
  ["b-5271-5f7d-117c-e806", 0xb_5271_5f7d_117c_e806n, "b-5271-5f7d-117c-e806"],
  ["340282366920938463463374607431768211455", maxReference, "ffff-ffff-ffff-ffff-ffff-ffff-ffff-ffff"],
];

test("parseReference and formatReference: rows both ways", () => {
  for (const [text, value, printed] of rows) {
    assert.is(parseReference(text), value, text);
    if (printed !== "") assert.is(formatReference(value), printed);
    assert.is(parseReference(formatReference(value)), value);
  }
});

const wrong = [
  "",
  "-",
  "--",
  "-1",
  "--12",
  "1--2--3",
  "12ab",
  "1,234",
  "0.85",
  "0x12",
  " 1",
  "1 ",
  "+1",
  "1e3",
  "12345-1",
  "1-g",
  "123e4567-e89b-12d3-a456-426655440000",
  "1-",
  "1---2",
  "1-2-3-4-5-6-7-8-9",
  "1-2-3-4-5-6-7--8",
  "340282366920938463463374607431768211456",
  "9".repeat(39),
  "0".repeat(40),
  "1".repeat(10_000),
];

test("parseReference: commas, dots, UUIDs and what was documented and never worked are refused with SyntaxError", () => {
  for (const text of wrong)
    assert.throws(
      () => parseReference(text),
      (thrown: unknown) => thrown instanceof SyntaxError,
      text,
    );
});

const reference = fc.bigInt({ min: 0n, max: maxReference });

test("properties: text and bytes give the reference back, at any place", () => {
  fc.assert(fc.property(reference, (value) => parseReference(formatReference(value)) === value));
  fc.assert(
    fc.property(reference, fc.nat(9), (value, offset) => {
      const bytes = encodeReference(value, new Uint8Array(26).fill(7), offset);
      assert.is(decodeReference(bytes, offset), value);
      assert.ok(bytes.every((byte, at) => (at >= offset && at < offset + 16) || byte === 7));
    }),
  );
});

test("decodeReference: cut short it is a RangeError; encodeReference takes no number that is no reference", () => {
  for (let length = 0; length < 16; length++) {
    assert.throws(
      () => decodeReference(new Uint8Array(length)),
      (thrown: unknown) => thrown instanceof RangeError,
    );
  }
  for (const value of [-1n, maxReference + 1n]) {
    assert.throws(
      () => encodeReference(value),
      (thrown: unknown) => thrown instanceof RangeError,
    );
  }
  assert.throws(
    () => encodeReference(1n, new Uint8Array(20), 5),
    (thrown: unknown) => thrown instanceof RangeError,
  );
});

test("drawReference: 68 bits at most, at least 256, never in the static half; all 64 low bits vary", () => {
  let ones = 0n;
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 9, maxLength: 9 }), (bytes) => {
      const value = drawReference(bytes);
      ones |= value;
      assert.ok(value >= 256n && value < 1n << 68n);
      assert.not.ok(isStaticReference(value));
    }),
    { numRuns: 2_000 },
  );
  assert.is(ones, (1n << 68n) - 1n);
  assert.is(drawReference(new Uint8Array(9)), 0x1000n);
  assert.ok(isStaticReference(0xfffn));
  assert.not.ok(isStaticReference(0x1000n));
});

test("parseReference: flipped and cut text is read or refused, nothing else", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...rows.map(([text]) => text)),
      fc.nat(50),
      fc.string({ maxLength: 3 }),
      (text, at, put) => {
        const changed = text.slice(0, at) + put + text.slice(at + 1);
        try {
          const value = parseReference(changed);
          assert.ok(value >= 0n && value <= maxReference);
        } catch (thrown) {
          assert.instance(thrown, SyntaxError);
        }
      },
    ),
    { numRuns: 3_000 },
  );
});

test("readReference: what is written is read out of the midst of bytes, and of other text nothing else is made", () => {
  const read = (text: string) => {
    const into = new Uint8Array(16).fill(9);
    const bytes = new TextEncoder().encode(`7-${text}-7`);
    return readReference(bytes, { from: 2, to: bytes.length - 2 }, into) ? decodeReference(into) : undefined;
  };
  const any = fc.oneof(fc.bigInt({ min: 0n, max: maxReference }), fc.bigInt({ min: 0n, max: 70_000n }));
  fc.assert(
    fc.property(any, fc.nat(16), (value, offset) => {
      assert.is(read(formatReference(value)), value);
      const bytes = encodeReference(value, new Uint8Array(32), offset);
      assert.is(formatReferenceAt(bytes, offset), formatReference(value));
    }),
  );
  const letters = fc.string({ unit: fc.constantFrom(..."019afAF-g "), maxLength: 12 });
  fc.assert(
    fc.property(letters, (text) => {
      const value = read(text);
      if (value !== undefined) assert.is(parseReference(text), value, text);
    }),
    { numRuns: 2_000 },
  );
});

/** Whether the configuration takes a reference, and what the gateway makes of one that it takes. */
function takes(text: string): boolean {
  const { config, warnings } = loadConfig(`config ipref 'ipref'\n\toption gateway_ref '${text}'\n`);
  if (warnings.length === 0) assert.is(config.ipref.gatewayRef, text);
  else assert.is(config.ipref.gatewayRef, "1");
  return warnings.length === 0;
}

function parses(text: string): boolean {
  try {
    return parseReference(text) > 0n;
  } catch (thrown) {
    assert.instance(thrown, SyntaxError);
    return false;
  }
}

test("gateway_ref takes what parseReference does, but for zero, which no peer would take", () => {
  for (const text of ["12ab", "-", "0", "0-0", "1-2-3-4-5-6-7-8-9", "1--2--3", "--1", "1-", "12345-1"])
    assert.not(takes(text), text);
  for (const [text, value] of rows) assert.is(takes(text), value > 0n, text);
  assert.not(takes((maxReference + 1n).toString()));
  const piece = fc.constantFrom(
    "0",
    "1",
    "9",
    "a",
    "F",
    "ffff",
    "12345",
    "-",
    "--",
    "0-0",
    "g",
    " ",
    "340282366",
  );
  const random = fc.array(piece, { minLength: 1, maxLength: 18 }).map((pieces) => pieces.join(""));
  const right = fc.bigInt({ min: 0n, max: maxReference }).map(formatReference);
  const decimal = fc.bigInt({ min: 0n, max: 2n * maxReference }).map(String);
  fc.assert(
    fc.property(fc.oneof(random, right, decimal), (text) => assert.is(takes(text), parses(text), text)),
    { numRuns: 3_000 },
  );
});

test.run();
