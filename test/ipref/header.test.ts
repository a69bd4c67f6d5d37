/** The tunnel's header: recorded forms of references, every field, every damage. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Drop, longestHeaderBytes } from "../../src/ipref/forward.ts";
import { decodeHeader, encodeHeader, Header } from "../../src/ipref/header.ts";
import { address, filler, get32, join, reference } from "./crossing.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const unhex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));

interface Fields {
  readonly family: 4 | 6;
  readonly ttl: number;
  readonly protocol: number;
  readonly dontFragment: boolean;
  readonly fragment: { readonly offset: number; readonly more: boolean; readonly id: number } | undefined;
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly sourceReference: bigint;
  readonly destinationReference: bigint;
}

function headerOf(fields: Fields): Header {
  return Object.assign(new Header(), {
    family: fields.family,
    ttl: fields.ttl,
    protocol: fields.protocol,
    dontFragment: fields.dontFragment,
    fragmented: fields.fragment !== undefined,
    fragmentOffset: fields.fragment?.offset ?? 0,
    more: fields.fragment?.more ?? false,
    id: fields.fragment?.id ?? 0,
    source: fields.source,
    destination: fields.destination,
    sourceReference: reference(fields.sourceReference),
    destinationReference: reference(fields.destinationReference),
  });
}

function encode(fields: Fields): Uint8Array {
  const into = new Uint8Array(longestHeaderBytes);
  return into.slice(0, encodeHeader(headerOf(fields), into));
}

/** A decoded header, or the number of the reason against it. */
function decode(bytes: Uint8Array, at = 0, length = bytes.length - at): Fields | number {
  const header = new Header();
  const wrong = decodeHeader(header, bytes, { at, length, cut: false });
  if (wrong >= 0) return wrong;
  const size = header.family === 4 ? 4 : 16;
  const value = (reference: Uint8Array) => BigInt(`0x${hex(reference)}`);
  return {
    family: header.family as 4 | 6,
    ttl: header.ttl,
    protocol: header.protocol,
    dontFragment: header.dontFragment,
    fragment: header.fragmented
      ? { offset: header.fragmentOffset, more: header.more, id: header.id }
      : undefined,
    source: header.source.slice(header.sourceAt, header.sourceAt + size),
    destination: header.destination.slice(header.destinationAt, header.destinationAt + size),
    sourceReference: value(header.sourceReference),
    destinationReference: value(header.destinationReference),
  };
}

/** What a fragment needs. */
const data = filler(8);

const plain: Fields = {
  family: 4,
  ttl: 63,
  protocol: 1,
  dontFragment: true,
  fragment: undefined,
  source: address("198.51.100.97"),
  destination: address("203.0.113.98"),
  sourceReference: 2711n,
  destinationReference: 2823n,
};
const six: Fields = {
  ...plain,
  family: 6,
  source: address("2001:db8:a::97"),
  destination: address("2001:db8:b::98"),
};
const first = { offset: 0, more: true, id: 0xdd27 };

const rows: readonly [string, Fields, string][] = [
  ["IPv4", plain, "11403f01 c6336461 cb007162 00000a97 00000b07"],
  ["no DF", { ...plain, ttl: 64, dontFragment: false }, "10404001 c6336461 cb007162 00000a97 00000b07"],
  [
    "IPv6",
    six,
    "11603f01 20010db8000a0000 0000000000000097 20010db8000b0000 0000000000000098 00000a97 00000b07",
  ],
  [
    "a first fragment",
    { ...plain, dontFragment: false, fragment: first },
    "12403f01 00000001 0000dd27 c6336461 cb007162 00000a97 00000b07",
  ],
  [
    "a middle fragment",
    { ...plain, dontFragment: false, fragment: { ...first, offset: 1440 } },
    "12403f01 000005a1 0000dd27 c6336461 cb007162 00000a97 00000b07",
  ],
  [
    "a last fragment",
    { ...plain, dontFragment: false, fragment: { ...first, offset: 2880, more: false } },
    "12403f01 00000b40 0000dd27 c6336461 cb007162 00000a97 00000b07",
  ],
  [
    "a dynamic reference",
    { ...plain, sourceReference: 0xd0223f68ee5a3ea19n },
    "19403f01 c6336461 cb007162 000000000000000d0223f68ee5a3ea19 00000000000000000000000000000b07",
  ],
];

/** Destination reference → its bytes, as upstream was seen to write them beside source reference 2711. */
const references: readonly [bigint, string][] = [
  [0x1n, "00000001"],
  [0xffffffn, "00ffffff"],
  [0x1000000n, "0000000001000000"],
  [0xffffffffffffffn, "00ffffffffffffff"],
  [0x100000000000000n, "00000000000000000100000000000000"],
  [0xa0000000000000000000000000000012n, "a0000012"],
  [0xa0000000000000000000000001000012n, "a000000001000012"],
  [0x00a00000000000000000000000000012n, "00a00000000000000000000000000012"],
  [0x123e4567e89b12d3a456426655440000n, "123e4567e89b12d3a456426655440000"],
  [0xffffffffffffffffffffffffffffffffn, "ffffffffffffffffffffffffffffffff"],
];

test("header: every row encodes to its bytes and decodes from them", () => {
  for (const [name, fields, text] of rows) {
    const bytes = unhex(text);
    assert.is(hex(encode(fields)), hex(bytes), name);
    assert.equal(decode(join([9, 9, 9], bytes, data), 3), fields, name);
  }
});

test("header: a reference takes the shortest form that has room for both, with its first byte first", () => {
  for (const [destinationReference, text] of references) {
    const bytes = encode({ ...plain, destinationReference });
    assert.is(bytes.length, 12 + text.length);
    assert.is(hex(bytes.subarray(12 + text.length / 2)), text);
    assert.equal(decode(bytes), { ...plain, destinationReference });
    const swapped = { ...plain, sourceReference: destinationReference, destinationReference: 2711n };
    assert.is(hex(encode(swapped).subarray(12, 12 + text.length / 2)), text);
    assert.equal(decode(encode(swapped)), swapped);
  }
});

test("header: longer forms than needed are understood", () => {
  const long = unhex(`19403f01 c6336461 cb007162 ${"00".repeat(14)}0a97 ${"00".repeat(14)}0b07`);
  assert.equal(decode(long), plain);
  const middle = unhex(`15403f01 c6336461 cb007162 ${"00".repeat(6)}0a97 ${"00".repeat(6)}0b07`);
  assert.equal(decode(middle), plain);
});

test("header: cut at every length it is short", () => {
  for (const [name, fields] of rows) {
    const bytes = encode(fields);
    for (let length = 0; length < bytes.length; length++) {
      assert.is(decode(bytes, 0, length), Drop.short, `${name} cut to ${length}`);
    }
  }
});

const damages: readonly [string, string, number][] = [
  ["version 0", "01403f01", Drop.malformed],
  ["version 2", "21403f01", Drop.malformed],
  ["reference form 3", "1d403f01", Drop.malformed],
  ["reserved bits beside the address version", "11413f01", Drop.malformed],
  ["no address version (a draft's)", "11003f01", Drop.malformed],
  ["address version 5", "11503f01", Drop.malformed],
  ["reserved bits beside the offset", "12403f01 00010001 0000dd27", Drop.malformed],
  ["an offset that is no multiple of 8", "12403f01 00000003 0000dd27", Drop.malformed],
  ["the other such bit", "12403f01 00000005 0000dd27", Drop.malformed],
];

test("header: reserved bits and unknown values are malformed", () => {
  for (const [name, text, reason] of damages) {
    const bytes = join(unhex(text), filler(96));
    assert.is(decode(bytes), reason, name);
  }
});

test("header: a fragment with more to come has some multiple of 8 bytes, and none goes beyond 64 kB", () => {
  const header = encode({ ...plain, fragment: first });
  assert.is(decode(header), Drop.fragment);
  assert.is(decode(join(header, filler(15))), Drop.fragment);
  assert.type(decode(join(header, filler(16))), "object");
  const last = encode({ ...plain, fragment: { offset: 0xfff8, more: false, id: 1 } });
  assert.type(decode(join(last, filler(7))), "object");
  assert.is(decode(join(last, filler(8))), Drop.fragment);
});

const referenceForm = (bytes: Uint8Array) => (bytes[0]! >> 2) & 3;

const values = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }),
  fc.bigInt({ min: 0n, max: 0xffffffn }),
  fc.bigInt({ min: 0n, max: (1n << 68n) - 1n }),
  fc
    .tuple(fc.nat(255), fc.bigInt({ min: 0n, max: (1n << 57n) - 1n }))
    .map(([top, low]) => (BigInt(top) << 120n) | low),
);
const anyFields: fc.Arbitrary<Fields> = fc.constantFrom<4 | 6>(4, 6).chain((family) => {
  const size = family === 4 ? 4 : 16;
  return fc.record({
    family: fc.constant(family),
    ttl: fc.nat(255),
    protocol: fc.nat(255),
    dontFragment: fc.boolean(),
    fragment: fc.option(
      fc.record(
        { offset: fc.nat(8000).map((each) => each * 8), more: fc.boolean(), id: fc.nat(0xffffffff) },
        { noNullPrototype: true },
      ),
      { nil: undefined },
    ),
    source: fc.uint8Array({ minLength: size, maxLength: size }),
    destination: fc.uint8Array({ minLength: size, maxLength: size }),
    sourceReference: values,
    destinationReference: values,
  });
});

test("header: decoding undoes encoding, and the length is the form's", () => {
  fc.assert(
    fc.property(anyFields, (fields) => {
      const bytes = encode(fields);
      assert.equal(decode(join(bytes, data)), { ...fields });
      const both = fields.sourceReference | fields.destinationReference;
      const low = both & ((1n << 120n) - 1n);
      const referenceBytes = low < 1n << 24n ? 4 : low < 1n << 56n ? 8 : 16;
      const expected =
        4 + (fields.fragment ? 8 : 0) + 2 * (fields.family === 4 ? 4 : 16) + 2 * referenceBytes;
      assert.is(bytes.length, expected);
      if (fields.fragment) assert.is(get32(bytes, 8), fields.fragment.id);
    }),
  );
});

test("header: what decodes encodes to itself, unless a longer form was used than needed", () => {
  fc.assert(
    fc.property(anyFields, fc.nat(longestHeaderBytes - 1), fc.nat(255), (fields, place, value) => {
      const bytes = join(encode(fields), filler(64));
      bytes[place] = value;
      const read = decode(bytes);
      if (typeof read === "number") return;
      const again = encode(read);
      const shorter = referenceForm(again) < referenceForm(bytes);
      if (!shorter) assert.is(hex(again), hex(bytes.subarray(0, again.length)));
      assert.equal(decode(join(again, data)), read);
    }),
    { numRuns: 2000 },
  );
});

test.run();
