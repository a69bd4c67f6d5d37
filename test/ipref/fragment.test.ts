/** Cutting packets, the memory for totals of fragmented echoes, and the memory of narrow paths. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Paths, Pieces } from "../../src/ipref/forward.ts";
import { Totals } from "../../src/ipref/fragment.ts";
import { address, filler, get16, join } from "./crossing.ts";

interface Piece {
  readonly offset: number;
  readonly more: boolean;
  readonly bytes: Uint8Array;
}

function piecesOf(pieces: Pieces): Piece[] {
  return Array.from({ length: pieces.count }, (_, index) => {
    const at = pieces.offsets[index]!;
    const bytes = pieces.bytes.slice(at, at + pieces.lengths[index]!);
    const bits = get16(bytes, 6);
    return { offset: bits & 0xfff8, more: (bits & 1) === 1, bytes };
  });
}

const head = (offset: number, more: boolean) => {
  const bytes = filler(20);
  bytes[6] = offset >> 8;
  bytes[7] = (offset & 0xf8) | Number(more);
  return bytes;
};

test("pieces: a packet is cut into equal parts that fit, and they make it again", () => {
  const anyCut = fc.record({
    length: fc.integer({ min: 1, max: 20_000 }),
    roomBytes: fc.integer({ min: 524, max: 9000 }),
    base: fc.nat(400).map((each) => each * 8),
    more: fc.boolean(),
  });
  fc.assert(
    fc.property(anyCut, ({ length, roomBytes, base, more }) => {
      const data = filler(more ? (length + 7) & ~7 : length);
      const pieces = new Pieces();
      const given = { bytes: head(base, more), length: 20, fragmentAt: 4, lengthAt: -1, roomBytes };
      assert.ok(pieces.cut(data, given));
      const parts = piecesOf(pieces);
      assert.is(parts.length, Math.ceil(data.length / ((roomBytes - 20) & ~7)));
      let end = base;
      for (const [index, part] of parts.entries()) {
        const last = index === parts.length - 1;
        assert.ok(part.bytes.length <= roomBytes);
        assert.is(part.offset, end);
        assert.is(part.more, last ? more : true);
        if (!last) assert.is((part.bytes.length - 20) % 8, 0);
        end += part.bytes.length - 20;
      }
      assert.equal(join(...parts.map((part) => part.bytes.subarray(20))), data);
    }),
    { numRuns: 60 },
  );
});

test("pieces: two parts are as upstream's: half, rounded up to eight", () => {
  const pieces = new Pieces();
  const given = { bytes: head(0, false), length: 20, fragmentAt: 4, lengthAt: -1, roomBytes: 1472 };
  assert.ok(pieces.cut(filler(1500), given));
  assert.equal(
    piecesOf(pieces).map((part) => part.bytes.length - 20),
    [752, 748],
  );
});

test("pieces: what cannot be cut is refused whole", () => {
  const given = { bytes: head(0, false), length: 20, fragmentAt: 4, lengthAt: -1, roomBytes: 27 };
  assert.not(new Pieces().cut(filler(100), given), "no room for eight bytes");
  assert.not(new Pieces().cut(filler(65_000), { ...given, roomBytes: 28 }), "too many");
  const beyond = { ...given, bytes: head(65_000, false), roomBytes: 1000 };
  assert.not(new Pieces().cut(filler(1000), beyond), "past 64 kB");
});

const key = (id: number) => ({ source: 48, destination: 96, id });

test("totals: the first fragment waits for the last, or the last one's number for the first", () => {
  const totals = new Totals();
  const packet = filler(40);
  assert.is(totals.first(key(1), packet), -1);
  packet[0] = 99;
  const kept = totals.last(key(1), 3000)!;
  assert.equal(kept, filler(40), "a copy");
  assert.is(totals.last(key(1), 3000), undefined, "given once");
  assert.is(totals.first(key(1), packet), 3000);
  assert.is(totals.first(key(1), packet), -1, "told once");
});

test("totals: hosts and ids are told apart", () => {
  const totals = new Totals();
  totals.first(key(1), filler(8));
  assert.is(totals.last({ ...key(1), source: 0 }, 9), undefined);
  assert.is(totals.last({ ...key(1), destination: 0 }, 9), undefined);
  assert.is(totals.last(key(2), 9), undefined);
  assert.ok(totals.last(key(1), 9));
});

test("totals: sixteen are kept, the oldest gives way", () => {
  const totals = new Totals();
  for (let id = 0; id < 17; id++) totals.first(key(id), filler(8));
  assert.is(totals.last(key(0), 9), undefined);
  // That one's number took the place of the next.
  assert.is(totals.last(key(1), 9), undefined);
  assert.ok(totals.last(key(16), 9));
  for (let id = 1000; id < 3000; id++) totals.first(key(id), filler(8));
  assert.ok(totals.last(key(2999), 9));
});

test("totals: what was there twice when told to age is gone", () => {
  const totals = new Totals();
  totals.first(key(1), filler(8));
  totals.age();
  totals.first(key(2), filler(8));
  totals.age();
  assert.is(totals.last(key(1), 9), undefined);
  assert.ok(totals.last(key(2), 9));
});

const peer = (last: number) => address(`203.0.113.${last}`);

test("paths: what is learned is bent to what makes sense", () => {
  const paths = new Paths(4, 1500);
  paths.learn(peer(1), 0, 40);
  assert.is(paths.mtuOf(peer(1), 0), 552);
  paths.learn(peer(2), 0, 9000);
  assert.is(paths.mtuOf(peer(2), 0), 1500);
  paths.learn(peer(1), 0, 1400);
  assert.is(paths.mtuOf(peer(1), 0), 1400);
  assert.is(paths.mtuOf(peer(3), 0), 1500);
  const six = new Paths(6, 1500);
  six.learn(address("2001:db8::1"), 0, 68);
  assert.is(six.mtuOf(address("2001:db8::1"), 0), 1280);
  assert.is(six.mtuOf(address("2001:db8::2"), 0), 1500);
});

test("paths: 64 addresses are kept, the oldest gives way, and none stays when all are forgotten", () => {
  const paths = new Paths(4, 1500);
  assert.is(paths.smallestBytes, 1500);
  for (let last = 0; last < 65; last++) paths.learn(peer(last), 0, 1300 + last);
  assert.is(paths.smallestBytes, 1300);
  assert.is(paths.mtuOf(peer(0), 0), 1500);
  assert.is(paths.mtuOf(peer(1), 0), 1301);
  assert.is(paths.mtuOf(peer(64), 0), 1364);
  paths.clear();
  assert.is(paths.mtuOf(peer(64), 0), 1500);
  assert.is(paths.smallestBytes, 1500);
});

test.run();
