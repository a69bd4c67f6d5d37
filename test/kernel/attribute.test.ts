/** Netlink attributes: lists written and read, whole, cut, and of whatever bytes. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type AttributeList,
  Attributes,
  ByteOrder,
  encodeAttributes,
  host,
  network,
} from "../../src/kernel/attribute.ts";

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const empty = new Uint8Array(0);

test("ByteOrder reads and writes numbers of either order, whatever the machine's", () => {
  const rows = [
    [true, 0x1234, "3412", 0xfedcba98, "98badcfe"],
    [false, 0x1234, "1234", 0xfedcba98, "fedcba98"],
  ] as const;
  for (const [little, short, shortHex, long, longHex] of rows) {
    const order = new ByteOrder(little);
    assert.is(text(order.bytes16(short)), shortHex);
    assert.is(text(order.bytes32(long)), longHex);
    assert.is(order.read16(hex(`ff${shortHex}`), 1), short);
    assert.is(order.read32(hex(`ff${longHex}`), 1), long);
  }
  const native = new Uint8Array(Uint32Array.of(0x01020304).buffer);
  assert.is(host.read32(native, 0), 0x01020304);
});

/** A list, and its bytes on a little-endian machine. */
const attributeRows: readonly (readonly [AttributeList, string])[] = [
  [[], ""],
  [[[1, empty]], "0400 0100"],
  [[[3, hex("6c6f00")]], "0700 0300 6c6f00 00"],
  [
    [
      [2, hex("0a000001")],
      [1, hex("ff")],
    ],
    "0800 0200 0a000001 0500 0100 ff000000",
  ],
  [
    [
      [
        18,
        [
          [1, hex("76657468")],
          [2, []],
        ],
      ],
    ],
    "1000 1280 0800 0100 76657468 0400 0280",
  ],
];

test("encodeAttributes gives the bytes, and Attributes finds each value in them", () => {
  if (host.read16(Uint8Array.of(1, 0), 0) !== 1) return;
  for (const [list, bytes] of attributeRows) {
    const encoded = encodeAttributes(list);
    assert.is(text(encoded), bytes.replaceAll(" ", ""));
    const attributes = new Attributes(20);
    assert.ok(attributes.read(encoded, 0, encoded.length));
    for (const [type, value] of list) {
      assert.ok(attributes.has(type));
      const expected = value instanceof Uint8Array ? value : encodeAttributes(value);
      assert.is(text(attributes.bytes(type)!), text(expected));
    }
    assert.not.ok(attributes.has(9));
  }
});

test("Attributes refuses every cut that is not between two attributes", () => {
  for (const [list, bytes] of attributeRows) {
    const whole = hex(bytes);
    const borders = new Set([0]);
    let at = 0;
    for (const [type, value] of list) {
      // Padding after the last value may be missing.
      const size = encodeAttributes([[type, value]]).length;
      const bare = 4 + (value instanceof Uint8Array ? value : encodeAttributes(value)).length;
      for (let end = at + bare; end <= at + size; end++) borders.add(end);
      at += size;
    }
    for (let end = 0; end <= whole.length; end++) {
      const attributes = new Attributes(20);
      assert.is(attributes.read(whole, 0, end), borders.has(end), `${bytes} cut at ${end}`);
      if (!borders.has(end)) for (let type = 0; type <= 20; type++) assert.not.ok(attributes.has(type));
    }
  }
});

test("Attributes: what is written is read, nested too, and the last of equal types counts", () => {
  const value = fc.uint8Array({ maxLength: 40 });
  const list = fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), value), { maxLength: 12 });
  fc.assert(
    fc.property(list, fc.integer({ min: 0, max: 30 }), (inner, outerType) => {
      const bytes = encodeAttributes([[outerType, inner]]);
      const outer = new Attributes(30);
      assert.ok(outer.read(bytes, 0, bytes.length));
      const attributes = new Attributes(30);
      assert.ok(attributes.readNested(outer, outerType));
      const last = new Map(inner);
      for (let type = 0; type <= 30; type++) {
        const expected = last.get(type);
        assert.is(attributes.has(type), expected !== undefined);
        if (expected) assert.equal(text(attributes.bytes(type)!), text(expected));
        assert.is(attributes.size(type), expected?.length ?? 0);
      }
    }),
  );
});

test("Attributes: getters answer undefined where a value is absent or too short", () => {
  const bytes = encodeAttributes([
    [1, empty],
    [2, hex("01")],
    [3, hex("0102")],
    [4, hex("0a000001")],
    [5, hex("fd000000000000000000000000000001")],
    [6, hex("6c6f00ff")],
  ]);
  const attributes = new Attributes(7);
  assert.ok(attributes.read(bytes, 0, bytes.length));
  assert.equal(
    [1, 2, 3, 4, 7, 99].map((type) => attributes.byte(type)),
    [undefined, 1, 1, 10, undefined, undefined],
  );
  assert.equal(
    [1, 2, 3, 4, 7].map((type) => attributes.number16(type, network)),
    [undefined, undefined, 0x0102, 0x0a00, undefined],
  );
  assert.equal(
    [3, 4, 7].map((type) => attributes.number32(type, network)),
    [undefined, 0x0a000001, undefined],
  );
  assert.equal(
    [3, 4, 5, 7].map((type) => attributes.address(type)),
    [undefined, "10.0.0.1", "fd00::1", undefined],
  );
  assert.equal(
    [6, 7].map((type) => attributes.text(type)),
    ["lo", undefined],
  );
  assert.is(text(attributes.copy(3)!), text(encodeAttributes([[3, hex("0102")]])));
});

test("encodeAttributes refuses what its fields cannot hold", () => {
  assert.throws(
    () => encodeAttributes([[1, new Uint8Array(0xfffc)]]),
    (error: unknown) => error instanceof RangeError,
  );
  assert.throws(
    () => encodeAttributes([[0x4000, empty]]),
    (error: unknown) => error instanceof RangeError,
  );
  assert.is(encodeAttributes([[1, new Uint8Array(0xfffb)]]).length, 0x10000);
});

test("Attributes never throws and never reads outside, whatever the bytes", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(80), fc.nat(80), (bytes, start, end) => {
      const attributes = new Attributes(8);
      const nested = new Attributes(8);
      const ok = attributes.read(bytes, start, end);
      for (let type = 0; type <= 8; type++) {
        if (attributes.has(type)) {
          assert.ok(ok && attributes.start(type) >= start);
          assert.ok(attributes.start(type) + attributes.size(type) <= Math.min(end, bytes.length));
        }
        nested.readNested(attributes, type);
        attributes.text(type);
        attributes.address(type);
      }
    }),
  );
});

test.run();
