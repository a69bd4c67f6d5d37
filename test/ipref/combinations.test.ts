/**
 * From one LAN through the tunnel to the other, in all eight combinations of IP versions: the same payload arrives,
 * from and to the right addresses, and every checksum on the way is right by a second way of counting.
 */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Verdict } from "../../src/ipref/forward.ts";
import { decodeHeader, Header } from "../../src/ipref/header.ts";
import {
  address,
  filler,
  type Gateway,
  gateway,
  get16,
  ICMP,
  ICMPV6,
  type Ip,
  ip,
  isRight,
  nameOf,
  pass,
  passed,
  put16,
  type Read,
  readIp,
  type Side,
  sides,
  TCP,
  transport,
  UDP,
  type Wish,
  withChecksum,
} from "./crossing.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const families = [4, 6] as const;
const all = families.flatMap((lanA) =>
  families.flatMap((tunnel) => families.map((lanB) => ({ lanA, tunnel, lanB }))),
);
const title = (each: (typeof all)[number]) => `v${each.lanA}-v${each.tunnel}-v${each.lanB}`;

interface Pair {
  readonly a: Gateway;
  readonly b: Gateway;
  readonly sides: { readonly a: Side; readonly b: Side };
}

function pair(combination: (typeof all)[number], wish: Wish = {}, wishB: Wish = {}): Pair {
  const both = sides(combination.lanA, combination.tunnel, combination.lanB);
  return { a: gateway(both.a, both.b, wish), b: gateway(both.b, both.a, wishB), sides: both };
}

/** What a packet's ICMP is called in its LAN. */
const icmpOf = (family: number) => (family === 4 ? ICMP : ICMPV6);

/** The transport part with what changes on the way set to zero. */
function essence(packet: Read): string {
  const copy = packet.payload.slice();
  if (packet.offset > 0) return hex(copy);
  if (packet.protocol === TCP) put16(copy, 16, 0);
  if (packet.protocol === UDP) put16(copy, 6, 0);
  if (packet.protocol === ICMP || packet.protocol === ICMPV6) {
    copy[0] = copy[0] === 8 || copy[0] === 128 ? 8 : 0;
    put16(copy, 2, 0);
  }
  return hex(copy);
}

/** The transport part of a tunnel packet, and whether its checksum is right. */
function readTunnel(packet: Uint8Array): { readonly header: Header; readonly payload: Uint8Array } {
  const header = new Header();
  assert.is(decodeHeader(header, packet, { at: 0, length: packet.length, cut: false }), -1);
  return { header, payload: packet.subarray(header.length) };
}

const protocols = ["tcp", "udp", "echo", "reply", "sctp"] as const;
const numberOf = (name: (typeof protocols)[number], family: number) =>
  ({ tcp: TCP, udp: UDP, echo: icmpOf(family), reply: icmpOf(family), sctp: 132 })[name];

const anyPacket = fc.record({
  name: fc.constantFrom(...protocols),
  payload: fc.uint8Array({ minLength: 12, maxLength: 200 }),
  ttl: fc.integer({ min: 2, max: 255 }),
  id: fc.nat(0xffff),
  dontFragment: fc.boolean(),
  reference: fc.bigInt({ min: 2n, max: (1n << 128n) - 1n }),
  theirReference: fc.bigInt({ min: 2n, max: (1n << 128n) - 1n }),
  decrementTtl: fc.boolean(),
});

for (const combination of all) {
  test(`${title(combination)}: what goes in at one end comes out at the other`, () => {
    fc.assert(
      fc.property(anyPacket, (given) => {
        const { name, payload, ttl, id, dontFragment, reference, theirReference, decrementTtl } = given;
        const {
          a,
          b,
          sides: both,
        } = pair(
          combination,
          { reference, theirReference, decrementTtl },
          { reference: theirReference, theirReference: reference, decrementTtl },
        );
        const there = { source: both.a.host, destination: both.a.theirHost };
        const protocol = numberOf(name, combination.lanA);
        const inner = transport({ ...there, protocol }, payload);
        if (name === "reply") {
          inner[0] = combination.lanA === 4 ? 0 : 129;
          withChecksum(inner, protocol, [address(there.source), address(there.destination)]);
        }
        const sent = ip({ ...there, protocol, ttl, id, dontFragment }, inner);

        const tunnel = passed(a.outward, sent);
        const { header, payload: carried } = readTunnel(tunnel);
        assert.ok(isRight(carried, header.protocol, []), "in the tunnel");
        assert.is(header.ttl, ttl - Number(decrementTtl));
        if (decrementTtl && header.ttl === 1) return;
        const arrived = readIp(passed(b.inward, tunnel));
        assert.ok(arrived.headerRight && arrived.right, "at the other end");
        assert.is(arrived.version, combination.lanB);
        assert.equal(arrived.source, address(both.b.theirHost));
        assert.equal(arrived.destination, address(both.b.host));
        assert.is(arrived.protocol, numberOf(name, combination.lanB));
        assert.is(arrived.ttl, ttl - 2 * Number(decrementTtl));
        assert.is(essence(arrived), essence(readIp(sent)));
        if (combination.lanB === 4) assert.is(arrived.dontFragment, combination.lanA === 6 || dontFragment);
      }),
      { numRuns: 60 },
    );
  });

  test(`${title(combination)}: fragments of a host make the same packet at the other end`, () => {
    for (const name of ["udp", "tcp", "echo"] as const) {
      // The last first, as some senders do, and in their order.
      for (const backwards of [false, true]) {
        const { a, b, sides: both } = pair(combination);
        const there = { source: both.a.host, destination: both.a.theirHost };
        const protocol = numberOf(name, combination.lanA);
        const inner = transport({ ...there, protocol }, filler(3000));
        const cuts = [0, 8, 16, 24, 1400, 2800, inner.length];
        const fragments = cuts.slice(0, -1).map((offset, index) => {
          const more = index < cuts.length - 2;
          const about: Ip = { ...there, protocol, offset, more, id: 4242, dontFragment: false };
          return ip(about, inner.subarray(offset, cuts[index + 1]));
        });
        if (backwards) fragments.reverse();
        const tunnel = fragments.flatMap((each) => pass(a.outward, each).packets);
        const arrived = tunnel.flatMap((each) => pass(b.inward, each).packets).map(readIp);
        assert.is(arrived.length, fragments.length, name);
        const whole = reassemble(arrived);
        assert.ok(isRight(whole, arrived[0]!.protocol, [arrived[0]!.source, arrived[0]!.destination]), name);
        const copy = { ...arrived[0]!, payload: whole, offset: 0 };
        assert.is(essence(copy), essence({ ...copy, protocol, payload: inner }), name);
        assert.ok(arrived.every((each) => each.headerRight && each.id === 4242));
      }
    }
  });

  test(`${title(combination)}: a packet too long for the path goes in fragments if it may, and arrives whole`, () => {
    for (const name of ["udp", "tcp", "echo"] as const) {
      const tunnelMtuBytes = 1280;
      const { a, b, sides: both } = pair(combination, { tunnelMtuBytes }, { tunnelMtuBytes });
      const there = { source: both.a.host, destination: both.a.theirHost };
      const protocol = numberOf(name, combination.lanA);
      // An IPv6 host relies on 1280 bytes to pass.
      const length = combination.lanA === 4 ? 6001 : 1240 - (name === "tcp" ? 20 : 8);
      const inner = transport({ ...there, protocol }, filler(length));
      const outcome = pass(a.outward, ip({ ...there, protocol, dontFragment: false }, inner));
      assert.is(outcome.verdict, Verdict.pieces, name);
      const room = tunnelMtuBytes - (combination.tunnel === 4 ? 28 : 48);
      assert.is(
        outcome.packets.length,
        Math.ceil(inner.length / ((room - (combination.tunnel === 4 ? 28 : 52)) & ~7)),
      );
      for (const piece of outcome.packets) assert.ok(piece.length <= room);
      const arrived = outcome.packets.flatMap((each) => pass(b.inward, each).packets).map(readIp);
      const whole = reassemble(arrived);
      assert.ok(isRight(whole, arrived[0]!.protocol, [arrived[0]!.source, arrived[0]!.destination]), name);
      const copy = { ...arrived[0]!, payload: whole, offset: 0 };
      assert.is(essence(copy), essence({ ...copy, protocol, payload: inner }), name);
    }
  });

  test(`${title(combination)}: an error about a packet finds its sender, who knows the packet again`, () => {
    for (const name of ["udp", "tcp", "echo", "sctp"] as const) {
      const { a, b, sides: both } = pair(combination);
      const protocol = numberOf(name, combination.lanA);
      const there = { source: both.a.host, destination: both.a.theirHost, protocol };
      // An odd number of bytes, as most.
      const sent = ip(there, transport(there, filler(33)));
      const arrived = passed(b.inward, passed(a.outward, sent));
      // Port unreachable, from host B.
      const back = { source: both.b.host, destination: both.b.theirHost, protocol: icmpOf(combination.lanB) };
      const message = new Uint8Array(8 + arrived.length);
      message.set(combination.lanB === 4 ? [3, 3] : [1, 4]);
      message.set(arrived, 8);
      const error = withChecksum(message, back.protocol, [address(back.source), address(back.destination)]);
      const tunnel = passed(b.outward, ip(back, error));
      const { header, payload } = readTunnel(tunnel);
      assert.is(header.protocol, ICMP);
      assert.is(get16(payload, 0), 0x0302);
      assert.ok(isRight(payload, ICMP, []), "in the tunnel");
      const told = readIp(passed(a.inward, tunnel));
      assert.ok(told.right && told.headerRight, "at the sender");
      assert.is(get16(told.payload, 0), combination.lanA === 4 ? 0x0303 : 0x0104);
      const quoted = readIp(told.payload.slice(8));
      assert.ok(quoted.headerRight && quoted.right, `${name} quoted`);
      assert.equal(quoted.source, address(both.a.host));
      assert.equal(quoted.destination, address(both.a.theirHost));
      assert.is(hex(quoted.payload), hex(readIp(sent).payload));
    }
  });
}

/** The payload of a packet from its fragments, whichever order they came in. */
function reassemble(fragments: readonly Read[]): Uint8Array {
  const ordered = [...fragments].sort((left, right) => left.offset - right.offset);
  const length = ordered.at(-1)!.offset + ordered.at(-1)!.payload.length;
  const whole = new Uint8Array(length);
  let end = 0;
  for (const each of ordered) {
    assert.is(each.offset, end, "no gap");
    assert.is(each.more, each !== ordered.at(-1));
    whole.set(each.payload, end);
    end += each.payload.length;
  }
  return whole;
}

test("a fragmented echo between IPv6 hosts waits for its end, and nothing else does", () => {
  const { a, sides: both } = pair({ lanA: 6, tunnel: 6, lanB: 6 });
  const there = { source: both.a.host, destination: both.a.theirHost, protocol: ICMPV6 };
  const inner = transport(there, filler(3000));
  const fragment = (offset: number, end: number) =>
    ip({ ...there, offset, more: end < inner.length, id: 7 }, inner.subarray(offset, end));
  const verdicts = [fragment(0, 1400), fragment(1400, 2800), fragment(2800, 3008)].map((each) =>
    nameOf(pass(a.outward, each)),
  );
  assert.equal(verdicts, ["hold", "send", "pieces"]);
});

test.run();
