/** Splitting and joining super-packets, checked by a second implementation of checksums and headers. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { decodeVnet, Segment, segmentLength } from "../../src/system/native.ts";
import { native } from "./until.ts";

const netio = native();
const TCP = 6;
const UDP = 17;
const [FIN, SYN, PSH, ACK, CWR] = [0x01, 0x02, 0x08, 0x10, 0x80];

/** The internet checksum, word by word. */
function checksum(bytes: Uint8Array, seed = 0): number {
  let sum = seed;
  for (let at = 0; at < bytes.length; at += 2) {
    sum += (bytes[at]! << 8) | (bytes[at + 1] ?? 0);
    sum = (sum & 0xffff) + Math.floor(sum / 65536);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 65536);
  return ~sum & 0xffff;
}

const get16 = (bytes: Uint8Array, at: number) => (bytes[at]! << 8) | bytes[at + 1]!;
const get32 = (bytes: Uint8Array, at: number) => get16(bytes, at) * 65536 + get16(bytes, at + 2);

function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

interface Packet {
  readonly protocol: number;
  readonly payload: Uint8Array;
  readonly sequence?: number;
  readonly flags?: number;
  /** TCP options, a multiple of four bytes. */
  readonly options?: Uint8Array;
  readonly seed?: number;
}

/** A transport packet with a right checksum. */
function transport(packet: Packet): Uint8Array {
  const { protocol, payload, sequence = 1000, flags = ACK, options = new Uint8Array(0), seed = 0 } = packet;
  const header = protocol === TCP ? 20 + options.length : 8;
  const bytes = new Uint8Array(header + payload.length);
  put16(bytes, 0, 40_000);
  put16(bytes, 2, 443);
  if (protocol === TCP) {
    put16(bytes, 4, Math.floor(sequence / 65536));
    put16(bytes, 6, sequence & 0xffff);
    put16(bytes, 8, 0x1234);
    bytes[12] = (header / 4) << 4;
    bytes[13] = flags;
    put16(bytes, 14, 501);
    bytes.set(options, 20);
  } else {
    put16(bytes, 4, bytes.length);
  }
  bytes.set(payload, header);
  const sum = checksum(bytes, seed + bytes.length);
  put16(bytes, protocol === TCP ? 16 : 6, protocol === UDP && sum === 0 ? 0xffff : sum);
  return bytes;
}

const none = new Uint8Array(0);

interface Outcome {
  readonly bytes: Uint8Array;
  readonly count: number;
}

function call(
  verb: "split" | "join",
  source: Uint8Array,
  about: { frame?: Uint8Array; room?: number } & Partial<Record<keyof typeof Segment, number>>,
): Outcome {
  const numbers = new Int32Array(segmentLength);
  const { frame = none, room = 200_000, ...fields } = about;
  const given = { length: source.length, ip: -1, most: 1000, ...fields };
  for (const [name, value] of Object.entries(given)) numbers[Segment[name as keyof typeof Segment]] = value;
  const target = new Uint8Array(room);
  const length = netio[verb](source, target, frame, numbers);
  return { bytes: target.subarray(0, length), count: numbers[Segment.count]! };
}

const ipv4 = (protocol: number) =>
  Uint8Array.from([0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, protocol, 9, 9, 10, 0, 0, 1, 10, 0, 0, 2]);
const ipv6 = (protocol: number) =>
  Uint8Array.from([0x60, 0, 0, 0, 0, 0, protocol, 64, ...new Array(31).fill(0), 1]);

const payloads = fc
  .tuple(fc.integer({ min: 1, max: 20_000 }), fc.integer({ min: 1, max: 255 }))
  .map(([length, step]) => Uint8Array.from({ length }, (_, index) => (index * step + (index >> 8)) & 255));
const anyPacket = fc.record({
  protocol: fc.constantFrom(TCP, UDP),
  payload: payloads,
  sequence: fc.integer({ min: 0, max: 0xffffffff }),
  flags: fc.constantFrom(ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN, ACK | CWR),
  options: fc.integer({ min: 0, max: 10 }).map((words) => new Uint8Array(words * 4).fill(1)),
  seed: fc.integer({ min: 0, max: 0xffff }),
});
const anyFrame = fc.uint8Array({ maxLength: 80 });

test("checksum is RFC 1071's for every length, offset and seed", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(20),
      fc.integer({ min: 0, max: 0xffffffff }),
      (bytes, cut, seed) => {
        const offset = Math.min(cut, bytes.length);
        const length = bytes.length - offset;
        assert.is(netio.checksum(bytes, offset, length, seed), checksum(bytes.subarray(offset), seed));
      },
    ),
  );
});

test("split: every segment has its frame, its share, its sequence number and a right checksum", () => {
  fc.assert(
    fc.property(anyPacket, fc.integer({ min: 400, max: 3000 }), anyFrame, (packet, size, frame) => {
      const { protocol, payload, seed } = packet;
      const source = transport(packet);
      const header = source.length - payload.length;
      const { bytes, count } = call("split", source, { protocol, size, frame, seedOut: seed });
      assert.is(count, Math.ceil(payload.length / size));
      assert.is(bytes.length, count * (frame.length + header) + payload.length);
      const full = frame.length + header + size;
      for (let index = 0; index < count; index++) {
        const whole = bytes.subarray(index * full, (index + 1) * full);
        assert.equal(whole.subarray(0, frame.length), frame);
        const segment = whole.subarray(frame.length);
        assert.equal(segment.subarray(header), payload.subarray(index * size, (index + 1) * size));
        assert.is(checksum(segment, seed + segment.length), 0);
        if (protocol === UDP) {
          assert.is(get16(segment, 4), segment.length);
          continue;
        }
        const last = index === count - 1;
        assert.is(get32(segment, 4), (packet.sequence + index * size) % 2 ** 32);
        assert.is(segment[13]! & (FIN | PSH), last ? packet.flags & (FIN | PSH) : 0);
        assert.is(segment[13]! & CWR, index === 0 ? packet.flags & CWR : 0);
        assert.equal(segment.subarray(20, header), packet.options);
      }
    }),
    { numRuns: 150 },
  );
});

test("split: IP headers in the frame get length, id and checksum", () => {
  const payload = new Uint8Array(2500).fill(7);
  for (const [family, ip] of [
    [4, ipv4],
    [6, ipv6],
  ] as const) {
    for (const protocol of [TCP, UDP]) {
      const frame = Uint8Array.from([0xee, 0xff, ...ip(protocol)]);
      const source = transport({ protocol, payload });
      const header = source.length - payload.length;
      const { bytes, count } = call("split", source, { protocol, size: 1000, frame, ip: 2 });
      assert.is(count, 3);
      let at = 0;
      for (const [index, share] of [1000, 1000, 500].entries()) {
        const size = frame.length + header + share;
        const packet = bytes.subarray(at + 2, at + size);
        if (family === 4) {
          assert.is(get16(packet, 2), packet.length);
          assert.is(get16(packet, 4), (0xfffe + index) & 0xffff);
          assert.is(checksum(packet.subarray(0, 20)), 0);
        } else {
          assert.is(get16(packet, 4), packet.length - 40);
        }
        at += size;
      }
      assert.is(at, bytes.length);
    }
  }
});

test("split: one packet whose checksum was left to the card gets it", () => {
  const source = transport({ protocol: UDP, payload: Uint8Array.from([1, 2, 3]) });
  const right = source.slice();
  put16(source, 6, 0x1234);
  const { bytes, count } = call("split", source, { protocol: UDP, size: 1400 });
  assert.is(count, 1);
  assert.equal(bytes, right);
});

test("join undoes split", () => {
  fc.assert(
    fc.property(anyPacket, fc.integer({ min: 100, max: 3000 }), anyFrame, (packet, size, frame) => {
      const { protocol, seed } = packet;
      const source = transport(packet);
      const header = source.length - packet.payload.length;
      const split = call("split", source, { protocol, size, frame, seedOut: seed });
      const joined = call("join", split.bytes, {
        protocol,
        size: frame.length + header + size,
        strip: frame.length,
        seedIn: seed,
        seedOut: seed,
      });
      assert.is(joined.count, split.count);
      assert.equal(joined.bytes, source);
    }),
    { numRuns: 150 },
  );
});

/** Segments of one stream, all with the same payload length, behind a frame of two bytes. */
function stream(count: number, change: (index: number) => Partial<Packet> = () => ({})): Uint8Array {
  const all: number[] = [];
  for (let index = 0; index < count; index++) {
    const payload = new Uint8Array(100).fill(index);
    all.push(
      0xaa,
      0xbb,
      ...transport({ protocol: TCP, payload, sequence: 1000 + index * 100, ...change(index) }),
    );
  }
  return Uint8Array.from(all);
}

const step = 2 + 20 + 100;
const join = (source: Uint8Array, more: Partial<Record<keyof typeof Segment, number>> = {}) =>
  call("join", source, { protocol: TCP, size: step, strip: 2, ...more }).count;

test("join ends before a segment that does not continue", () => {
  assert.is(join(stream(5)), 5);
  assert.is(join(stream(5), { most: 3 }), 3);
  const rows: readonly (readonly [string, (index: number) => Partial<Packet>])[] = [
    ["a gap", (index) => (index === 2 ? { sequence: 5000 } : {})],
    ["other flags", (index) => (index === 2 ? { flags: ACK | SYN } : {})],
    ["congestion window reduced in between", (index) => (index === 2 ? { flags: ACK | CWR } : {})],
  ];
  for (const [name, change] of rows) assert.is(join(stream(5, change)), 2, name);
});

test("join ends after a segment that ends something", () => {
  for (const flag of [PSH, FIN])
    assert.is(join(stream(5, (index) => (index === 2 ? { flags: ACK | flag } : {}))), 3);
  assert.is(join(stream(5, () => ({ flags: ACK | SYN }))), 1);
});

test("join takes no segment with a change in frame, header or data that is not accounted for", () => {
  const whole = stream(4);
  const second = step * 2;
  for (let at = 0; at < step; at++) {
    const damaged = whole.slice();
    damaged[second + at]! ^= 0x40;
    assert.is(join(damaged), 2, `byte ${at} of the third`);
    const first = whole.slice();
    first[at]! ^= 0x40;
    // The first one's frame is whatever it is; the second's differs then.
    assert.is(join(first), at < 2 ? 1 : 0, `byte ${at} of the first`);
  }
});

test("join: a UDP packet without checksum, or of another length than it says, is left alone", () => {
  const payload = new Uint8Array(50).fill(3);
  const good = transport({ protocol: UDP, payload });
  const two = Uint8Array.from([...good, ...good]);
  const size = good.length;
  assert.is(call("join", two, { protocol: UDP, size }).count, 2);
  const bare = two.slice();
  put16(bare, 6, 0);
  assert.is(call("join", bare, { protocol: UDP, size }).count, 0);
  const bareSecond = two.slice();
  put16(bareSecond, size + 6, 0);
  assert.is(call("join", bareSecond, { protocol: UDP, size }).count, 1);
  const long = two.slice();
  put16(long, 4, size + 1);
  assert.is(call("join", long, { protocol: UDP, size }).count, 0);
});

test("join: the virtio_net_hdr says what the packet is, and the checksum field holds the pseudo header's sum", () => {
  for (const [ip, kind, size] of [
    [ipv4(TCP), 1, 20],
    [ipv6(TCP), 4, 40],
  ] as const) {
    const frame = Uint8Array.from([...new Array(10).fill(0xee), ...ip]);
    const seedOut = 0x5678;
    const joined = call("join", stream(5), {
      protocol: TCP,
      size: step,
      strip: 2,
      frame,
      ip: 10,
      vnet: 1,
      seedOut,
    });
    assert.equal(decodeVnet(joined.bytes, 0), {
      flags: 1,
      kind,
      headerBytes: size + 20,
      segmentBytes: 100,
      checksumStart: size,
      checksumOffset: 16,
    });
    const transported = joined.bytes.subarray(10 + size);
    assert.is(transported.length, 20 + 500);
    assert.is(get16(transported, 16), ~checksum(none, seedOut + transported.length) & 0xffff);
    if (size === 20) {
      assert.is(get16(joined.bytes, 12), joined.bytes.length - 10);
      assert.is(checksum(joined.bytes.subarray(10, 30)), 0);
    } else {
      assert.is(get16(joined.bytes, 14), joined.bytes.length - 50);
    }
    const alone = call("join", stream(1), { protocol: TCP, size: step, strip: 2, frame, ip: 10, vnet: 1 });
    assert.is(decodeVnet(alone.bytes, 0).kind, 0);
    assert.is(decodeVnet(alone.bytes, 0).segmentBytes, 0);
  }
});

test("join stops at what an IP packet can hold, and at the target's end", () => {
  const many = (count: number) => {
    const payload = new Uint8Array(1400).fill(1);
    const all = new Uint8Array(count * 1420);
    for (let index = 0; index < count; index++) {
      all.set(transport({ protocol: TCP, payload, sequence: index * 1400 }), index * 1420);
    }
    return all;
  };
  const frame = ipv4(TCP);
  const joined = call("join", many(60), { protocol: TCP, size: 1420, frame, ip: 0 });
  assert.is(joined.count, 46);
  assert.ok(joined.bytes.length <= 65535);
  assert.is(
    call("join", many(10), { protocol: TCP, size: 1420, frame, ip: 0, room: 20 + 20 + 1400 * 3 + 5 }).count,
    3,
  );
});

test("join of any bytes neither fails nor claims more than there is", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 600 }),
      fc.constantFrom(TCP, UDP),
      fc.integer({ min: 1, max: 200 }),
      fc.nat(60),
      (bytes, protocol, size, strip) => {
        const { count, bytes: written } = call("join", bytes, { protocol, size, strip });
        assert.ok(count <= Math.ceil(bytes.length / size));
        assert.ok(written.length <= bytes.length);
      },
    ),
    { numRuns: 500 },
  );
});

test("packets cut at every length are refused or split, and nothing past the target's room is written", () => {
  for (const protocol of [TCP, UDP]) {
    const source = transport({
      protocol,
      payload: new Uint8Array(30).fill(9),
      options: new Uint8Array(8).fill(1),
    });
    const header = source.length - 30;
    for (let length = 0; length <= source.length; length++) {
      const run = () => call("split", source.subarray(0, length), { protocol, size: 7 });
      if (length < header) assert.throws(run, /not whole/);
      else assert.ok(run().bytes.length >= length);
    }
    const need = call("split", source, { protocol, size: 7 }).bytes.length;
    for (let room = 0; room < need; room++) {
      assert.throws(() => call("split", source, { protocol, size: 7, room }), RangeError);
    }
  }
});

test("split and join refuse arguments that make no sense", () => {
  const source = transport({ protocol: TCP, payload: new Uint8Array(300) });
  const good = { protocol: TCP, size: 100 } as const;
  const rows: readonly (readonly [string, Partial<Parameters<typeof call>[2]>])[] = [
    ["offset below", { offset: -1 }],
    ["offset past", { offset: source.length + 1, length: 0 }],
    ["length past", { length: source.length + 1 }],
    ["length below", { length: -1 }],
    ["protocol", { protocol: 1 }],
    ["size 0", { size: 0 }],
    ["size huge", { size: 65536 }],
    ["target below", { target: -1 }],
    ["target past", { target: 200_001 }],
    ["no IP header", { frame: new Uint8Array(20), ip: 0 }],
    ["IP header past the frame", { frame: ipv4(TCP), ip: 1 }],
    ["IP options past the frame", { frame: Uint8Array.from([0x4f, ...ipv4(TCP).subarray(1)]), ip: 0 }],
    ["IP before the frame", { frame: ipv4(TCP), ip: -2 }],
    ["frame too long", { frame: new Uint8Array(257) }],
  ];
  for (const [name, change] of rows) {
    for (const verb of ["split", "join"] as const) {
      assert.throws(() => call(verb, source, { ...good, ...change }), RangeError, `${verb}: ${name}`);
    }
  }
  assert.throws(() => call("join", source, { ...good, strip: -1 }), RangeError);
  assert.throws(() => call("join", source, { ...good, most: 0 }), RangeError);
  assert.throws(() => call("join", source, { ...good, frame: ipv4(TCP), ip: 0, vnet: 1 }), RangeError);
  const numbers = new Int32Array(segmentLength);
  numbers.set([0, 120, TCP, 50, 0, -1]);
  assert.throws(() => netio.split(source, source, none, numbers), /overlaps/);
  assert.throws(() => netio.split(source, new Uint8Array(9), none, new Int32Array(3)), RangeError);
});

test.run();
