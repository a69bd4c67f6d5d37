/**
 * Anybody's bytes: packets of all kinds with some bytes changed, cut or put together wrongly, into every forwarder.
 *
 * Nothing is thrown, what lies around the packet stays, results lie where they may, and what goes to the LAN is a
 * packet. FUZZ_CASES says how many are tried.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { dropNames, headroomBytes, Verdict } from "../../src/ipref/forward.ts";
import { decodeHeader, Header } from "../../src/ipref/header.ts";
import {
  address,
  filler,
  type Gateway,
  gateway,
  get16,
  ICMP,
  ICMPV6,
  ip,
  join,
  pass,
  sides,
  TCP,
  transport,
  UDP,
  withChecksum,
} from "./crossing.ts";

const cases = Number(process.env.FUZZ_CASES ?? 20_000);
const seed = Number(process.env.FUZZ_SEED ?? 1);

/** xorshift32: the same packets each time. */
let state = seed | 1;
function random(below: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % below;
}

interface World {
  readonly a: Gateway;
  readonly b: Gateway;
  /** Packets of hosts that pass, and the tunnel packets they become. */
  readonly plain: readonly Uint8Array[];
  readonly tunnel: readonly Uint8Array[];
}

function world(lanA: 4 | 6, tunnel: 4 | 6, lanB: 4 | 6): World {
  const both = sides(lanA, tunnel, lanB);
  const wish = {
    decrementTtl: true,
    clampMss: true,
    tunnelMtuBytes: 1300,
    lanMtuBytes: 1280,
    admitRouter: true,
  };
  const a = gateway(both.a, both.b, wish);
  const b = gateway(both.b, both.a, wish);
  const icmp = lanA === 4 ? ICMP : ICMPV6;
  const about = { source: both.a.host, destination: both.a.theirHost };
  const packets = [TCP, UDP, icmp, 132].flatMap((protocol) => {
    const data = transport({ ...about, protocol }, filler(64));
    const more = { ...about, protocol, id: 77, dontFragment: false };
    return [
      ip({ ...about, protocol }, data),
      ip({ ...more, offset: 0, more: true }, data.subarray(0, 32)),
      ip({ ...more, offset: 32 }, data.subarray(32)),
    ];
  });
  const syn = transport({ ...about, protocol: TCP }, new Uint8Array(12));
  syn.set([0x80, 2], 12);
  syn.set([1, 2, 4, 0x23, 0x28, 3, 3, 7, 4, 2, 1, 1], 20);
  packets.push(ip({ ...about, protocol: TCP }, syn));
  packets.push(
    ip(
      { ...about, protocol: UDP, dontFragment: false },
      transport({ ...about, protocol: UDP }, filler(1400)),
    ),
  );
  // Host A complains about what host B sent it.
  const back = { source: both.a.theirHost, destination: both.a.host };
  for (const kind of lanA === 4 ? [0x0303, 0x0304, 0x0b00] : [0x0104, 0x0200, 0x0300]) {
    for (const protocol of [TCP, UDP, icmp]) {
      const quoted = ip({ ...back, protocol }, transport({ ...back, protocol }, filler(30)));
      const message = join([kind >> 8, kind & 255, 0, 0, 0, 0, 5, 0], quoted);
      const addresses = [address(about.source), address(about.destination)];
      packets.push(ip({ ...about, protocol: icmp }, withChecksum(message, icmp, addresses)));
    }
  }
  if (lanA === 6) {
    const extensions = join([60, 0, 0, 0, 0, 0, 0, 0], [43, 0, 0, 0, 0, 0, 0, 0], [UDP, 0, 0, 0, 0, 0, 0, 0]);
    packets.push(
      ip({ ...about, protocol: 0 }, join(extensions, transport({ ...about, protocol: UDP }, filler(20)))),
    );
  } else {
    const options = Uint8Array.of(7, 7, 4, 0, 0, 0, 0, 1);
    packets.push(
      ip({ ...about, protocol: UDP, options }, transport({ ...about, protocol: UDP }, filler(20))),
    );
  }
  const made = packets.flatMap((packet) => pass(a.outward, packet).packets);
  // All but the one that an IPv6 host sent too long.
  assert.ok(made.length >= packets.length - 1);
  return { a, b, plain: packets, tunnel: made };
}

const families = [4, 6] as const;
const worlds = families.flatMap((lanA) =>
  families.flatMap((tunnel) => families.map((lanB) => world(lanA, tunnel, lanB))),
);

const longest = 2048;
const arena = new Uint8Array(headroomBytes + longest + 64);
const guard = 0xa5;
const interesting = [0, 1, 4, 6, 8, 16, 44, 58, 60, 127, 128, 255];

/** Writes a spoilt packet into the arena. @returns its length. */
function spoil(source: readonly Uint8Array[], other: readonly Uint8Array[]): number {
  const packet = source[random(source.length)]!;
  arena.fill(guard);
  arena.set(packet, headroomBytes);
  let length = packet.length;
  const kind = random(16);
  if (kind === 0) length = random(packet.length + 1);
  if (kind === 1) {
    // The beginning of one and the end of another.
    const tail = other[random(other.length)]!;
    const at = random(Math.min(packet.length, 100));
    arena.set(tail.subarray(Math.min(at, tail.length)), headroomBytes + at);
    length = Math.max(at, tail.length);
  }
  if (kind === 2) {
    length = random(200);
    for (let index = 0; index < length; index++) arena[headroomBytes + index] = random(256);
    if (random(2) === 0) arena[headroomBytes] = packet[0]!;
  }
  arena.fill(guard, headroomBytes + length);
  for (let left = random(4); left > 0 && length > 0; left--) {
    // Headers more often than what they carry.
    const at = headroomBytes + random(random(2) === 0 ? Math.min(length, 64) : length);
    arena[at] = random(2) === 0 ? interesting[random(interesting.length)]! : random(256);
  }
  return length;
}

/** Sends what is in the arena, and checks what may be said of any result. */
function send(through: Gateway["outward"] | Gateway["inward"], length: number, family: number): Verdict {
  const verdict = through.forward(arena, headroomBytes, length);
  const end = headroomBytes + length;
  for (let at = end; at < end + 64; at++)
    if (arena[at] !== guard) assert.unreachable("written behind the packet");
  if (verdict === Verdict.send) {
    const { resultOffset: at, resultLength } = through;
    if (at < 0 || at + resultLength > end) assert.unreachable("a result outside of its room");
    check(arena, { at, length: resultLength }, family);
  } else if (verdict === Verdict.pieces) {
    const { pieces } = through;
    if (pieces.count < 1) assert.unreachable("no pieces");
    for (let index = 0; index < pieces.count; index++) {
      check(pieces.bytes, { at: pieces.offsets[index]!, length: pieces.lengths[index]! }, family);
    }
  } else if (verdict === Verdict.answer) {
    const size = through.answerLength;
    if (size < 28 || size > through.answer.length) assert.unreachable("an answer of no length");
    if (dropNames[through.reason] === undefined) assert.unreachable("no reason");
  } else if (verdict === Verdict.drop && dropNames[through.reason] === undefined) {
    assert.unreachable("no reason");
  }
  return verdict;
}

const header = new Header();

/** What leaves is a packet of the family; 0 for the tunnel's. */
function check(bytes: Uint8Array, span: { at: number; length: number }, family: number): void {
  const { at, length } = span;
  if (family === 0) {
    const wrong = decodeHeader(header, bytes, { at, length, cut: false });
    if (wrong >= 0) assert.unreachable(`a tunnel packet that is ${dropNames[wrong]}`);
  } else if (family === 4) {
    if (bytes[at] !== 0x45 || get16(bytes, at + 2) !== length) assert.unreachable("no IPv4 packet");
  } else if (bytes[at]! >> 4 !== 6 || get16(bytes, at + 4) !== length - 40)
    assert.unreachable("no IPv6 packet");
}

test(`forwarders: ${cases} spoilt packets are forwarded, answered or dropped, and nothing else happens`, () => {
  const seen = new Map<Verdict, number>();
  for (let count = 0; count < cases; count++) {
    const { a, b, plain, tunnel } = worlds[count & 7]!;
    const out = (count & 8) === 0;
    const through = out ? a.outward : b.inward;
    through.tokens = random(4);
    if (out && random(4) === 0) a.outward.partial = true;
    if (out && random(8) === 0) a.outward.gsoBytes = 1 + random(100);
    if (random(256) === 0) through.age();
    const length = out ? spoil(plain, tunnel) : spoil(tunnel, plain);
    const verdict = send(through, length, out ? 0 : b.settings.lanFamily);
    seen.set(verdict, (seen.get(verdict) ?? 0) + 1);
  }
  for (const [name, verdict] of Object.entries(Verdict)) assert.ok(seen.get(verdict), `${name} never came`);
});

test("forwarders: each byte of each packet changed to each interesting value", () => {
  for (const { a, b, plain, tunnel } of worlds) {
    for (const [packets, through, family] of [
      [plain, a.outward, 0],
      [tunnel, b.inward, b.settings.lanFamily],
    ] as const) {
      for (const packet of packets) {
        for (let at = 0; at < Math.min(packet.length, 120); at++) {
          const value = interesting[(at + packet.length) % interesting.length]!;
          arena.fill(guard);
          arena.set(packet, headroomBytes);
          arena[headroomBytes + at] = value;
          send(through, packet.length, family);
        }
      }
    }
  }
});

test.run();
