/**
 * Super-packets: headers decided here, split and joined by the add-on. What comes out is what single packets would
 * have been, in both directions.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { headroomBytes, type Inward, type Outward, Verdict } from "../../src/ipref/forward.ts";
import { decodeVnet, Segment, segmentLength } from "../../src/system/native.ts";
import { native } from "../system/until.ts";
import {
  address,
  checksum,
  filler,
  type Gateway,
  gateway,
  get16,
  get32,
  ip,
  isRight,
  join,
  pass,
  passed,
  pseudo,
  put16,
  readIp,
  sides,
  TCP,
  transport,
  UDP,
} from "./crossing.ts";

const netio = native();
const families = [4, 6] as const;
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

interface Pair {
  readonly a: Gateway;
  readonly b: Gateway;
}

function pair(lanA: 4 | 6, tunnel: 4 | 6, lanB: 4 | 6, tunnelMtuBytes = 1500): Pair {
  const both = sides(lanA, tunnel, lanB);
  return {
    a: gateway(both.a, both.b, { tunnelMtuBytes, clampMss: true }),
    b: gateway(both.b, both.a, { tunnelMtuBytes, clampMss: true }),
  };
}

/** A packet of host A whose checksum is only begun: the field has the pseudo header's sum. */
function begun(from: Gateway, protocol: number, length: number, dontFragment = true): Uint8Array {
  const about = { source: from.side.host, destination: from.side.theirHost, protocol, dontFragment };
  const segment = transport(about, filler(length));
  const sum =
    0xffff - checksum(pseudo([address(about.source), address(about.destination)], protocol, segment.length));
  put16(segment, protocol === TCP ? 16 : 6, sum);
  return ip(about, segment);
}

interface Decided {
  readonly verdict: Verdict;
  readonly arena: Uint8Array;
}

function decide(through: Outward | Inward, packet: Uint8Array): Decided {
  const arena = new Uint8Array(headroomBytes + packet.length);
  arena.set(packet, headroomBytes);
  return { arena, verdict: through.decide(arena, headroomBytes, packet.length) };
}

/** What the add-on makes of a super-packet. */
function split(outward: Outward, arena: Uint8Array): Uint8Array[] {
  const numbers = new Int32Array(segmentLength);
  numbers[Segment.offset] = outward.transportOffset;
  numbers[Segment.length] = outward.transportLength;
  numbers[Segment.protocol] = outward.protocol;
  numbers[Segment.size] = outward.segmentBytes;
  numbers[Segment.ip] = -1;
  numbers[Segment.seedOut] = outward.seedOut;
  const target = new Uint8Array(200_000);
  const written = netio.split(arena, target, outward.frame(), numbers);
  const count = numbers[Segment.count]!;
  const head = outward.frame().length + (outward.protocol === TCP ? 20 : 8);
  const step = head + outward.segmentBytes;
  return Array.from({ length: count }, (_, index) =>
    target.slice(index * step, Math.min((index + 1) * step, written)),
  );
}

test("segments: a super-packet's segments are right in the tunnel, and arrive as single packets do", () => {
  for (const lanA of families) {
    for (const tunnel of families) {
      for (const lanB of families) {
        for (const protocol of [TCP, UDP]) {
          const { a, b } = pair(lanA, tunnel, lanB);
          a.outward.gsoBytes = 1000;
          a.outward.partial = true;
          const { verdict, arena } = decide(a.outward, begun(a, protocol, 4321));
          assert.is(verdict, Verdict.send);
          assert.ok(a.outward.templated);
          assert.is(a.outward.segmentBytes, 1000);
          assert.equal([a.outward.gsoBytes, a.outward.partial], [0, false]);
          const segments = split(a.outward, arena);
          assert.is(segments.length, 5);
          const data: Uint8Array[] = [];
          for (const [index, segment] of segments.entries()) {
            const head = a.outward.frame().length;
            assert.ok(isRight(segment.slice(head), protocol, []));
            const read = readIp(passed(b.inward, segment));
            assert.ok(read.right && read.headerRight);
            if (protocol === TCP) assert.is(get32(read.payload, 4), 0x01020304 + index * 1000);
            data.push(read.payload.slice(protocol === TCP ? 20 : 8));
          }
          assert.is(hex(join(...data)), hex(filler(4321)));
        }
      }
    }
  }
});

test("segments: a packet whose checksum is only begun is finished here too, with the same result", () => {
  for (const lanA of families) {
    for (const protocol of [TCP, UDP]) {
      for (const length of [0, 1, 1300]) {
        const { a } = pair(lanA, 4, 4);
        const packet = begun(a, protocol, length);
        a.outward.partial = true;
        const whole = passed(a.outward, packet);
        assert.ok(isRight(whole.slice(20), protocol, []));
        a.outward.partial = true;
        const { arena } = decide(a.outward, packet);
        assert.ok(a.outward.templated);
        assert.equal(split(a.outward, arena), [whole]);
      }
    }
  }
});

test("segments: a packet whose checksum is only begun is finished before it is cut", () => {
  for (const protocol of [TCP, UDP]) {
    const { a, b } = pair(4, 4, 4);
    a.outward.partial = true;
    const outcome = pass(a.outward, begun(a, protocol, 2901, false));
    const reads = outcome.packets.map((piece) => readIp(passed(b.inward, piece)));
    assert.is(reads.length, 3);
    const whole = join(...reads.map((read) => read.payload));
    assert.ok(isRight(whole, protocol, [reads[0]!.source, reads[0]!.destination]));
  }
});

test("segments: a SYN whose checksum is only begun has its MSS lowered", () => {
  const { a } = pair(4, 4, 4);
  const about = { source: a.side.host, destination: a.side.theirHost, protocol: TCP };
  const segment = new Uint8Array(24);
  segment.set(transport(about, new Uint8Array(0)));
  segment.set([0x60, 2], 12);
  segment.set([2, 4, 5, 180], 20);
  put16(segment, 16, 0xffff - checksum(pseudo([address(about.source), address(about.destination)], TCP, 24)));
  a.outward.partial = true;
  const packet = passed(a.outward, ip(about, segment));
  assert.is(get16(packet, 42), 1500 - 28 - 20 - 20);
  assert.ok(isRight(packet.slice(20), TCP, []));
});

test("segments: segments that don't fit the path are refused with the exact MTU", () => {
  for (const protocol of [TCP, UDP]) {
    const { a } = pair(4, 4, 4);
    const head = protocol === TCP ? 20 : 8;
    a.outward.gsoBytes = 1452 - head;
    assert.is(decide(a.outward, begun(a, protocol, 9000)).verdict, Verdict.send);
    a.outward.gsoBytes = 1453 - head;
    assert.is(decide(a.outward, begun(a, protocol, 9000)).verdict, Verdict.answer);
    assert.is(get32(readIp(a.outward.answer.slice(0, a.outward.answerLength)).payload, 4), 1472);
  }
});

test("segments: TCP that a router may cut is split smaller instead", () => {
  const { a, b } = pair(4, 4, 4, 1300);
  a.outward.gsoBytes = 1460;
  a.outward.partial = true;
  const { verdict, arena } = decide(a.outward, begun(a, TCP, 6000, false));
  assert.is(verdict, Verdict.send);
  assert.is(a.outward.segmentBytes, 1300 - 28 - 20 - 20);
  const segments = split(a.outward, arena);
  for (const segment of segments) assert.ok(segment.length <= 1272);
  const data = segments.map((segment) => readIp(passed(b.inward, segment)).payload.slice(20));
  assert.is(hex(join(...data)), hex(filler(6000)));
});

test("segments: a super-packet that is no whole TCP or UDP packet is dropped", () => {
  const { a } = pair(4, 4, 4);
  const about = { source: a.side.host, destination: a.side.theirHost };
  const lying = transport({ ...about, protocol: TCP }, filler(10));
  lying[12] = 0xf0;
  for (const packet of [
    ip({ ...about, protocol: 132 }, filler(3000)),
    ip({ ...about, protocol: TCP }, lying),
    ip({ ...about, protocol: TCP, more: true }, filler(3000)),
  ]) {
    a.outward.gsoBytes = 1000;
    assert.is(decide(a.outward, packet).verdict, Verdict.drop);
  }
});

/** What the add-on makes of a batch of tunnel packets of one length. */
function joined(inward: Inward, batch: Uint8Array, stepBytes: number): { packet: Uint8Array; count: number } {
  const numbers = new Int32Array(segmentLength);
  numbers[Segment.offset] = 0;
  numbers[Segment.length] = batch.length;
  numbers[Segment.protocol] = inward.protocol;
  numbers[Segment.size] = stepBytes;
  numbers[Segment.strip] = inward.stripBytes;
  numbers[Segment.ip] = 10;
  numbers[Segment.vnet] = 1;
  numbers[Segment.seedIn] = inward.seedIn;
  numbers[Segment.seedOut] = inward.seedOut;
  numbers[Segment.most] = 64;
  const target = new Uint8Array(200_000);
  const written = netio.join(batch, target, inward.frameBehindVnet(), numbers);
  return { packet: target.slice(0, written), count: numbers[Segment.count]! };
}

test("segments: a batch from the tunnel becomes one packet with a begun checksum", () => {
  for (const lanA of families) {
    for (const tunnel of families) {
      for (const lanB of families) {
        const { a, b } = pair(lanA, tunnel, lanB);
        a.outward.gsoBytes = 1000;
        a.outward.partial = true;
        const { arena } = decide(a.outward, begun(a, TCP, 4321));
        const segments = split(a.outward, arena);
        const batch = join(...segments);
        assert.is(b.inward.decide(batch, 0, segments[0]!.length), Verdict.send);
        assert.ok(b.inward.templated);
        const { packet, count } = joined(b.inward, batch, segments[0]!.length);
        assert.is(count, 5);
        const vnet = decodeVnet(packet, 0);
        assert.is(vnet.segmentBytes, 1000);
        const read = readIp(packet.slice(10));
        assert.ok(read.headerRight);
        const beside = pseudo([read.source, read.destination], TCP, read.payload.length);
        assert.is(get16(read.payload, 16), 0xffff - checksum(beside));
        assert.is(hex(read.payload.slice(20)), hex(filler(4321)));
        assert.equal(b.inward.frame(), b.inward.frameBehindVnet().slice(10));
      }
    }
  }
});

test("segments: what decide looked at is unchanged, so that place or join may still follow", () => {
  const { a, b } = pair(4, 4, 6);
  const packet = begun(a, TCP, 500);
  a.outward.partial = true;
  const { arena } = decide(a.outward, packet);
  assert.equal(arena.slice(headroomBytes), packet);
  assert.is(a.outward.place(arena), Verdict.send);
  const tunnel = arena.slice(a.outward.resultOffset, a.outward.resultOffset + a.outward.resultLength);
  const there = decide(b.inward, tunnel);
  assert.equal(there.arena.slice(headroomBytes), tunnel);
  assert.is(b.inward.place(there.arena), Verdict.send);
  assert.ok(
    readIp(there.arena.slice(b.inward.resultOffset, b.inward.resultOffset + b.inward.resultLength)).right,
  );
});

test("segments: echoes, errors, SYNs, fragments and UDP without a checksum are not joined", () => {
  const { a, b } = pair(4, 4, 4);
  const about = { source: a.side.host, destination: a.side.theirHost };
  const none = transport({ ...about, protocol: UDP }, filler(20));
  put16(none, 6, 0);
  const syn = transport({ ...about, protocol: TCP }, filler(20));
  syn[13] = 2;
  for (const packet of [
    ip({ ...about, protocol: 1 }, transport({ ...about, protocol: 1 }, filler(20))),
    ip({ ...about, protocol: UDP }, none),
    ip({ ...about, protocol: TCP }, syn),
    ip({ ...about, protocol: UDP, more: true }, filler(64)),
    ip({ ...about, protocol: 132 }, filler(64)),
  ]) {
    assert.is(decide(b.inward, passed(a.outward, packet)).verdict, Verdict.send);
    assert.not(b.inward.templated);
  }
});

test.run();
