/** The internet checksum by another way of counting, and its adjustment against counting again. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { adjusted, fold, get16, get32, put16, put32, sumOf } from "../../src/lib/checksum.ts";

/** Word by word, with numbers that have no end. */
function naive(bytes: Uint8Array): number {
  let sum = 0n;
  for (const [at, byte] of bytes.entries()) sum += BigInt(byte) << (at % 2 === 0 ? 8n : 0n);
  while (sum > 0xffffn) sum = (sum & 0xffffn) + (sum >> 16n);
  return Number(sum);
}

test("sumOf is the sum of all words, from anywhere, of any length", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.nat({ max: 40 }),
      fc.nat({ max: 40 }),
      (bytes, before, after) => {
        const from = Math.min(before, bytes.length);
        const length = Math.max(0, bytes.length - from - after);
        assert.is(fold(sumOf(bytes, from, length)), naive(bytes.subarray(from, from + length)));
      },
    ),
  );
});

test("sumOf and fold hold for the longest packet with its pseudo header, all ones", () => {
  const bytes = new Uint8Array(131_070).fill(0xff);
  for (const length of [65_535, 65_536, 65_575, 131_069, 131_070])
    assert.is(fold(sumOf(bytes, 0, length)), naive(bytes.subarray(0, length)));
});

test("adjusted is what counting again would have made, whatever word changes", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 8, maxLength: 60 }),
      fc.nat({ max: 3 }),
      fc.nat({ max: 0xffff }),
      (random, index, word) => {
        const bytes = Uint8Array.from(random);
        // Some word is not zero, as in every packet.
        put16(bytes, 6, 0x4501);
        const at = (index % 3) * 2;
        const field = ~fold(sumOf(bytes, 0, bytes.length)) & 0xffff;
        const was = get16(bytes, at);
        put16(bytes, at, word);
        assert.is(adjusted(field, was, word), ~fold(sumOf(bytes, 0, bytes.length)) & 0xffff);
      },
    ),
  );
});

test("get and put are each other's way back", () => {
  const bytes = new Uint8Array(8).fill(0xa5);
  put32(bytes, 2, 0xfedc_ba98);
  assert.equal([...bytes], [0xa5, 0xa5, 0xfe, 0xdc, 0xba, 0x98, 0xa5, 0xa5]);
  assert.is(get32(bytes, 2), 0xfedc_ba98);
  put16(bytes, 0, 0x1234);
  assert.equal([get16(bytes, 0), get16(bytes, 2)], [0x1234, 0xfedc]);
});

test.run();
