/** LAN → tunnel: what is let through and how, what is answered, what is dropped for which reason. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Drop, dropNames, Verdict } from "../../src/ipref/forward.ts";
import { decodeHeader, Header } from "../../src/ipref/header.ts";
import {
  address,
  filler,
  type Gateway,
  gateway,
  get16,
  get32,
  ICMP,
  ICMPV6,
  type Ip,
  ip,
  isRight,
  join,
  nameOf,
  pass,
  passed,
  put16,
  readIp,
  type Side,
  sides,
  TCP,
  transport,
  UDP,
  type Wish,
  withChecksum,
} from "./crossing.ts";

interface Lan extends Gateway {
  readonly there: { readonly source: string; readonly destination: string };
}

function lan(family: 4 | 6, wish: Wish = {}, tunnel: 4 | 6 = 4): Lan {
  const { a, b } = sides(family, tunnel, 4);
  return { ...gateway(a, b, wish), there: { source: a.host, destination: a.theirHost } };
}

const send = (from: Lan, protocol: number, about: Partial<Ip> = {}, length = 64) => {
  const whole = { ...from.there, protocol, ...about };
  return ip(whole, transport(whole, filler(length)));
};

function headerOf(packet: Uint8Array): Header {
  const header = new Header();
  assert.is(decodeHeader(header, packet, { at: 0, length: packet.length, cut: false }), -1);
  return header;
}

const reasonOf = (outcome: { readonly reason: number }) => dropNames[outcome.reason];
const icmpOf = (family: number) => (family === 4 ? ICMP : ICMPV6);

/** Type, code and the four bytes behind the checksum of an error that is right in every way and comes from us. */
function told(answer: Uint8Array | undefined, side: Side): readonly [number, number, number] {
  assert.ok(answer, "an answer");
  const read = readIp(answer);
  assert.ok(read.headerRight && read.right);
  assert.equal(read.source, address(side.gateway));
  assert.equal(read.destination, address(side.host));
  assert.is(read.protocol, icmpOf(read.version));
  return [read.payload[0]!, read.payload[1]!, get32(read.payload, 4)];
}

test("outward: a local host without a reference is asked for, with the packet unchanged", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    const stranger = family === 4 ? "192.168.97.77" : "fd97::77";
    const packet = send(from, UDP, { source: stranger });
    const arena = new Uint8Array(2048);
    arena.set(packet, 200);
    assert.is(from.outward.forward(arena, 200, packet.length), Verdict.ask);
    assert.equal(arena.slice(200, 200 + packet.length), packet);
    const size = family === 4 ? 4 : 16;
    assert.equal(arena.slice(from.outward.asked, from.outward.asked + size), address(stranger));
    from.records.addOurs(stranger, 77n);
    assert.is(from.outward.forward(arena, 200, packet.length), Verdict.send);
  }
});

test("outward: an unknown destination makes no state: it is answered before the source is asked for", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    const [source, destination] = family === 4 ? ["192.168.97.77", "10.250.1.1"] : ["fd97::77", "fdea::77"];
    const outcome = pass(from.outward, send(from, UDP, { source: source!, destination: destination! }));
    assert.is(nameOf(outcome), "answer");
    assert.is(reasonOf(outcome), "unmapped");
    assert.is(from.records.touched, 0);
  }
});

test("outward: both mappings of a packet live on", () => {
  const from = lan(4);
  passed(from.outward, send(from, UDP));
  assert.is(from.records.touched, 2);
});

test("outward: the peer is the context address of the destination", () => {
  const from = lan(6);
  passed(from.outward, send(from, UDP));
  assert.equal(from.records.bytes.slice(from.outward.peer, from.outward.peer + 4), address("203.0.113.98"));
});

test("outward: a context address of ours that isn't known is zero in the tunnel", () => {
  const from = lan(4, { ownContext: new Uint8Array(4) });
  const header = headerOf(passed(from.outward, send(from, UDP)));
  assert.equal(header.source.slice(header.sourceAt, header.sourceAt + 4), new Uint8Array(4));
});

test("outward: protocols that nobody knows pass as they are", () => {
  for (const family of [4, 6] as const) {
    for (const protocol of [2, 47, 50, 51, 132, 135, 253]) {
      const from = lan(family);
      const data = filler(31, protocol);
      const packet = passed(from.outward, ip({ ...from.there, protocol }, data));
      const header = headerOf(packet);
      assert.is(header.protocol, protocol);
      assert.equal(packet.slice(header.length), data);
    }
  }
});

test("outward: IPv4 options stay behind, and the packet passes", () => {
  const from = lan(4);
  const options = Uint8Array.of(1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0);
  const about = { ...from.there, protocol: UDP, options };
  const plain = passed(from.outward, send(from, UDP));
  assert.equal(passed(from.outward, ip(about, transport(about, filler(64)))), plain);
});

test("outward: a source route that isn't used up is refused, one that is is an option like others", () => {
  const from = lan(4);
  for (const kind of [131, 137]) {
    const about = { ...from.there, protocol: UDP };
    const open = ip(
      { ...about, options: Uint8Array.of(kind, 7, 4, 10, 1, 1, 1, 0) },
      transport(about, filler(20)),
    );
    const outcome = pass(from.outward, open);
    assert.is(reasonOf(outcome), "routed");
    assert.equal(told(outcome.answer, from.side).slice(0, 2), [3, 5]);
    const used = ip(
      { ...about, options: Uint8Array.of(kind, 7, 8, 10, 1, 1, 1, 0) },
      transport(about, filler(20)),
    );
    assert.is(nameOf(pass(from.outward, used)), "send");
  }
});

test("outward: damaged IPv4 options are malformed", () => {
  const from = lan(4);
  for (const options of [
    [7, 1, 0, 0],
    [7, 5, 0, 0],
    [1, 1, 1, 68],
    [7, 0, 0, 0],
  ]) {
    const about = { ...from.there, protocol: UDP, options: Uint8Array.from(options) };
    assert.is(reasonOf(pass(from.outward, ip(about, transport(about, filler(20))))), "malformed");
  }
});

const extension = (next: number, length = 8, third = 0) => {
  const bytes = new Uint8Array(length);
  bytes.set([next, length / 8 - 1, 0, third]);
  return bytes;
};

/** An IPv6 packet with extension headers in front of a UDP packet. */
function extended(from: Lan, first: number, ...headers: Uint8Array[]): Uint8Array {
  const udp = transport({ ...from.there, protocol: UDP }, filler(64));
  return ip({ ...from.there, protocol: first }, join(...headers, udp));
}

test("outward: IPv6 hop-by-hop, destination and used-up routing headers stay behind, and the packet passes", () => {
  const from = lan(6);
  const plain = passed(from.outward, send(from, UDP));
  assert.equal(passed(from.outward, extended(from, 0, extension(UDP))), plain);
  assert.equal(passed(from.outward, extended(from, 60, extension(UDP, 24))), plain);
  assert.equal(passed(from.outward, extended(from, 43, extension(UDP))), plain);
  assert.equal(
    passed(from.outward, extended(from, 0, extension(60), extension(43, 16), extension(UDP))),
    plain,
  );
});

test("outward: an IPv6 routing header that isn't used up is refused where it says so", () => {
  const from = lan(6);
  const outcome = pass(from.outward, extended(from, 0, extension(43), extension(UDP, 8, 1)));
  assert.is(reasonOf(outcome), "routed");
  assert.equal(told(outcome.answer, from.side), [4, 0, 51]);
});

test("outward: IPv6 extension headers without an end, or inside of fragments, are dropped", () => {
  const from = lan(6);
  const chain = Array.from({ length: 9 }, () => extension(60));
  assert.is(reasonOf(pass(from.outward, extended(from, 60, ...chain, extension(UDP)))), "malformed");
  const about = { ...from.there, protocol: 60, offset: 0, more: true };
  assert.is(reasonOf(pass(from.outward, ip(about, extension(UDP, 16)))), "fragment");
  const twice = { ...from.there, protocol: 44, offset: 8, more: false };
  assert.is(reasonOf(pass(from.outward, ip(twice, extension(UDP, 16)))), "fragment");
});

test("outward: an IPv6 fragment that is a whole packet passes as one", () => {
  const from = lan(6);
  const fragment = Uint8Array.of(UDP, 0, 0, 0, 0, 0, 0, 9);
  assert.equal(passed(from.outward, extended(from, 44, fragment)), passed(from.outward, send(from, UDP)));
});

test("outward: a fragment with more to come has some multiple of 8 bytes, and none goes beyond 64 kB", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    const about = { ...from.there, protocol: UDP, dontFragment: false };
    for (const [offset, more, length] of [
      [0, true, 0],
      [0, true, 15],
      [64, true, 0],
      [0xfff8, false, 8],
    ] as const) {
      assert.is(reasonOf(pass(from.outward, ip({ ...about, offset, more }, filler(length)))), "fragment");
    }
    assert.is(nameOf(pass(from.outward, ip({ ...about, offset: 0xfff8 }, filler(7)))), "send");
  }
});

test("outward: padding behind the packet stays behind", () => {
  const from = lan(4);
  const packet = send(from, UDP);
  assert.equal(passed(from.outward, join(packet, filler(9))), passed(from.outward, packet));
});

test("outward: the id of a fragment is its id in the tunnel, DF is D, IPv6 always has it", () => {
  const four = lan(4);
  const fragment = ip(
    { ...four.there, protocol: UDP, id: 0xdd27, offset: 1440, more: true, dontFragment: false },
    filler(16),
  );
  const header = headerOf(passed(four.outward, fragment));
  assert.equal(
    [header.fragmented, header.fragmentOffset, header.more, header.id],
    [true, 1440, true, 0xdd27],
  );
  assert.not(header.dontFragment);
  assert.ok(headerOf(passed(four.outward, send(four, UDP))).dontFragment);
  const six = lan(6);
  assert.ok(headerOf(passed(six.outward, send(six, UDP))).dontFragment);
});

test("outward: TOS and ECN have no place in the tunnel, and harm nothing", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    assert.equal(passed(from.outward, send(from, TCP, { tos: 0xb9 })), passed(from.outward, send(from, TCP)));
  }
});

test("outward: a TCP checksum field of 0x0000 is a checksum like any other", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    const about = { ...from.there, protocol: TCP };
    const data = transport(about, filler(64));
    // Adding the field's value to any word makes the sum full.
    const word = get16(data, 60) + get16(data, 16);
    put16(data, 60, word > 0xffff ? word - 0xffff : word);
    put16(data, 16, 0);
    assert.ok(isRight(data, TCP, [address(about.source), address(about.destination)]));
    const packet = passed(from.outward, ip(about, data));
    assert.ok(isRight(packet.subarray(headerOf(packet).length), TCP, []));
  }
});

test("outward: a UDP packet without a checksum keeps none, one that would come out as 0 is 0xffff", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    const about = { ...from.there, protocol: UDP };
    const none = transport(about, filler(64));
    put16(none, 6, 0);
    const packet = passed(from.outward, ip(about, none));
    assert.is(get16(packet, headerOf(packet).length + 6), 0);
    const data = transport(about, filler(64));
    const there = passed(from.outward, ip(about, data));
    // The same trick, for the sum in the tunnel.
    const word = get16(data, 20) + get16(there, headerOf(there).length + 6);
    put16(data, 20, word > 0xffff ? word - 0xffff : word);
    withChecksum(data, UDP, [address(about.source), address(about.destination)]);
    const full = passed(from.outward, ip(about, data));
    assert.is(get16(full, headerOf(full).length + 6), 0xffff);
  }
});

test("outward: a damaged packet stays damaged", () => {
  for (const protocol of [TCP, UDP, ICMP]) {
    const from = lan(4);
    const packet = send(from, protocol);
    packet[50] = packet[50]! ^ 1;
    const there = passed(from.outward, packet);
    assert.not(isRight(there.subarray(headerOf(there).length), protocol, []));
  }
});

test("outward: the TTL is copied, or counted down and its end told", () => {
  const plain = lan(4);
  assert.is(headerOf(passed(plain.outward, send(plain, UDP, { ttl: 1 }))).ttl, 1);
  for (const family of [4, 6] as const) {
    const from = lan(family, { decrementTtl: true });
    assert.is(headerOf(passed(from.outward, send(from, UDP, { ttl: 2 }))).ttl, 1);
    const outcome = pass(from.outward, send(from, UDP, { ttl: 1 }));
    assert.is(reasonOf(outcome), "expired");
    assert.equal(told(outcome.answer, from.side), family === 4 ? [11, 0, 0] : [3, 0, 0]);
    assert.is(nameOf(pass(from.outward, send(from, UDP, { ttl: 0 }))), "drop");
  }
});

test("outward: the MTU that is told is exact, for the header that this very packet has", () => {
  const rows: [4 | 6, 4 | 6, bigint, number][] = [
    [4, 4, 2711n, 1500 - 28 - 20 + 20],
    [4, 4, 0xd0223f68ee5a3ea19n, 1500 - 28 - 44 + 20],
    [4, 4, 0x1000000n, 1500 - 28 - 28 + 20],
    [4, 6, 2711n, 1500 - 48 - 44 + 20],
    [6, 4, 2711n, 1500 - 28 - 20 + 40],
    [6, 6, 0xd0223f68ee5a3ea19n, 1500 - 48 - 68 + 40],
  ];
  for (const [family, tunnel, own, mtu] of rows) {
    const from = lan(family, { reference: own }, tunnel);
    const head = family === 4 ? 20 : 40;
    const fits = send(from, UDP, {}, mtu - head - 8);
    assert.is(fits.length, mtu);
    assert.is(passed(from.outward, fits).length, 1500 - (tunnel === 4 ? 28 : 48));
    const outcome = pass(from.outward, send(from, UDP, {}, mtu - head - 7));
    assert.is(reasonOf(outcome), "big");
    assert.equal(told(outcome.answer, from.side), family === 4 ? [3, 4, mtu] : [2, 0, mtu]);
  }
});

test("outward: a path that was found narrower is believed for its peer only, until it is forgotten", () => {
  const from = lan(4);
  from.records.addTheir("10.250.0.9", "203.0.113.99", 5n);
  const big = send(from, UDP, {}, 1400);
  passed(from.outward, big);
  from.paths.learn(address("203.0.113.98"), 0, 1400);
  assert.equal(told(pass(from.outward, big).answer, from.side), [3, 4, 1400 - 28]);
  assert.is(nameOf(pass(from.outward, send(from, UDP, { destination: "10.250.0.9" }, 1400))), "send");
  from.paths.clear();
  assert.is(nameOf(pass(from.outward, big)), "send");
});

test("outward: an IPv6 host is never told less than 1280, and packets up to that always pass", () => {
  const from = lan(6, { tunnelMtuBytes: 1280 }, 6);
  const outcome = pass(from.outward, send(from, UDP, {}, 1280 - 47));
  assert.equal(told(outcome.answer, from.side), [2, 0, 1280]);
  assert.is(nameOf(pass(from.outward, send(from, UDP, {}, 1280 - 48))), "pieces");
});

function synOf(from: Lan, options: readonly number[], begun = false): Uint8Array {
  const about = { ...from.there, protocol: TCP };
  const addresses = [address(about.source), address(about.destination)];
  const segment = new Uint8Array(20 + options.length);
  segment.set(transport(about, new Uint8Array(0)));
  segment[12] = ((20 + options.length) / 4) << 4;
  segment[13] = 2;
  segment.set(options, 20);
  withChecksum(segment, TCP, addresses);
  if (begun) put16(segment, 16, 0x1234);
  return ip(about, segment);
}

test("outward: the MSS of a SYN is lowered to what fits the path with its header, wherever the option is", () => {
  const mss = (value: number) => [2, 4, value >> 8, value & 255];
  const rows: [readonly number[], number][] = [
    [[...mss(1460), 1, 3, 3, 7], 22],
    [[1, ...mss(1460), 3, 3, 7], 23],
    [[4, 2, ...mss(9000), 1, 1], 24],
  ];
  for (const [family, tunnel, most] of [
    [4, 4, 1500 - 28 - 20 - 20],
    [6, 6, 1500 - 48 - 44 - 20],
  ] as const) {
    for (const [options, at] of rows) {
      const from = lan(family, { clampMss: true }, tunnel);
      const packet = passed(from.outward, synOf(from, options));
      const { length } = headerOf(packet);
      assert.is(get16(packet, length + at), most);
      assert.ok(isRight(packet.subarray(length), TCP, []));
    }
  }
  const from = lan(4, { clampMss: true });
  const small = passed(from.outward, synOf(from, mss(536)));
  assert.is(get16(small, headerOf(small).length + 22), 536);
  const off = lan(4);
  const left = passed(off.outward, synOf(off, mss(1460)));
  assert.is(get16(left, headerOf(left).length + 22), 1460);
});

test("outward: damaged TCP options are left alone", () => {
  for (const options of [
    [2, 4, 0xff, 0xff].reverse(),
    [2, 0, 0, 0],
    [2, 40, 0, 0],
    [1, 1, 1, 2],
    [0, 2, 4, 255],
  ]) {
    const from = lan(4, { clampMss: true });
    const packet = passed(from.outward, synOf(from, options));
    const at = headerOf(packet).length + 20;
    assert.equal([...packet.subarray(at, at + 4)], options.slice(0, 4));
  }
});

const sources: readonly [4 | 6, string, string][] = [
  [4, "224.0.0.5", "source"],
  [4, "127.0.0.1", "source"],
  [4, "0.0.0.0", "source"],
  [4, "169.254.3.4", "source"],
  [4, "255.255.255.255", "source"],
  [4, "10.240.0.9", "source"],
  [6, "::", "source"],
  [6, "::1", "source"],
  [6, "::ffff:102:304", "source"],
  [6, "fe80::1", "source"],
  [6, "ff02::1", "source"],
  [6, "fdea::9", "source"],
];

test("outward: a source that no host of the LAN has gets neither way nor answer", () => {
  for (const [family, source, reason] of sources) {
    const outcome = pass(lan(family).outward, send(lan(family), UDP, { source }));
    assert.is(nameOf(outcome), "drop", source);
    assert.is(reasonOf(outcome), reason, source);
  }
});

test("outward: multicast and broadcast are dropped without an answer", () => {
  const rows: [4 | 6, string][] = [
    [4, "224.0.0.251"],
    [4, "255.255.255.255"],
    [4, "10.255.255.255"],
    [6, "ff02::fb"],
  ];
  for (const [family, destination] of rows) {
    const outcome = pass(lan(family).outward, send(lan(family), UDP, { destination }));
    assert.is(nameOf(outcome), "drop", destination);
    assert.is(reasonOf(outcome), "destination", destination);
  }
});

test("outward: what is outside of the encoding network has no way", () => {
  const from = lan(4);
  const outcome = pass(from.outward, send(from, UDP, { destination: "172.20.1.1" }));
  assert.equal(told(outcome.answer, from.side), [3, 0, 0]);
});

test("outward: no error is sent about an error, nor about a later fragment", () => {
  for (const family of [4, 6] as const) {
    const from = lan(family);
    const destination = family === 4 ? "10.250.1.1" : "fdea::77";
    const about = { ...from.there, destination, protocol: icmpOf(family) };
    const types = family === 4 ? [3, 4, 5, 11, 12] : [1, 2, 3, 4, 100];
    for (const type of types) {
      const error = transport(about, filler(60));
      error[0] = type;
      withChecksum(error, about.protocol, [address(about.source), address(destination)]);
      const outcome = pass(from.outward, ip(about, error));
      assert.is(nameOf(outcome), "drop", `v${family} type ${type}`);
      assert.is(reasonOf(outcome), "unmapped");
    }
    assert.is(nameOf(pass(from.outward, ip(about, transport(about, filler(60))))), "answer", "an echo");
    const later = ip({ ...about, protocol: UDP, offset: 64, more: false }, filler(20));
    assert.is(nameOf(pass(from.outward, later)), "drop");
  }
});

test("outward: errors cost tokens; without one the drop is silent and counted", () => {
  const from = lan(4);
  from.outward.tokens = 2;
  const packet = send(from, UDP, { destination: "10.250.1.1" });
  const verdicts = [1, 2, 3, 4].map(() => nameOf(pass(from.outward, packet)));
  assert.equal(verdicts, ["answer", "answer", "drop", "drop"]);
  assert.is(from.outward.counts[Drop.unmapped], 4);
  assert.is(from.outward.counts[Drop.rate], 2);
  assert.is(from.outward.tokens, 0);
});

test("outward: an error quotes what was sent, as much as may be", () => {
  for (const [family, most] of [
    [4, 576],
    [6, 1280],
  ] as const) {
    const from = lan(family);
    const destination = family === 4 ? "10.250.1.1" : "fdea::77";
    for (const length of [20, 1400]) {
      const packet = send(from, UDP, { destination, tos: 0x28, id: 99 }, length);
      const answer = pass(from.outward, packet).answer!;
      const head = family === 4 ? 28 : 48;
      assert.is(answer.length, Math.min(most, head + packet.length));
      assert.equal(answer.slice(head), packet.slice(0, answer.length - head));
      assert.ok(readIp(answer).right);
    }
  }
});

test("outward: ids of our errors differ", () => {
  const from = lan(4);
  const packet = send(from, UDP, { destination: "10.250.1.1" });
  const ids = [1, 2, 3].map(() => readIp(pass(from.outward, packet).answer!).id);
  assert.is(new Set(ids).size, 3);
});

test("outward: the other IP version is dropped", () => {
  const outcome = pass(lan(4).outward, send(lan(6), UDP));
  assert.is(reasonOf(outcome), "version");
});

test("outward: cut short at every length a packet is dropped", () => {
  for (const family of [4, 6] as const) {
    for (const protocol of [TCP, UDP, icmpOf(family)]) {
      const from = lan(family);
      const packet = send(from, protocol);
      for (let length = 0; length < packet.length; length++) {
        assert.is(nameOf(pass(from.outward, packet.slice(0, length))), "drop");
      }
    }
  }
});

test("outward: a transport header that isn't whole is short", () => {
  for (const [protocol, length] of [
    [TCP, 19],
    [UDP, 7],
    [ICMP, 7],
  ] as const) {
    const from = lan(4);
    assert.is(reasonOf(pass(from.outward, ip({ ...from.there, protocol }, filler(length)))), "short");
  }
});

test("outward: ICMP of the wrong version, of one link only, or unknown is dropped", () => {
  const rows: [4 | 6, number, number, number][] = [
    [4, ICMPV6, 128, 0],
    [6, ICMP, 8, 0],
    [4, ICMP, 5, 0],
    [4, ICMP, 13, 0],
    [4, ICMP, 8, 1],
    [6, ICMPV6, 135, 0],
    [6, ICMPV6, 143, 0],
  ];
  for (const [family, protocol, type, code] of rows) {
    const from = lan(family);
    const data = filler(64);
    data.set([type, code]);
    assert.is(
      reasonOf(pass(from.outward, ip({ ...from.there, protocol }, data))),
      "icmp",
      `${family} ${type}`,
    );
  }
});

test("outward: the gateway's own packets have its reference", () => {
  const from = lan(4);
  const header = headerOf(passed(from.outward, send(from, UDP, { source: from.side.gateway })));
  assert.is(get32(header.sourceReference, 12), 1);
});

test("outward: settings of the wrong family are a mistake of the caller", () => {
  assert.throws(() => lan(4, { ownEncoded: address("fdea::1") }), RangeError);
  assert.throws(() => lan(4, { encodeNet: { bytes: address("10.240.0.0"), length: 33 } }), RangeError);
  assert.throws(() => lan(4, { ownContext: address("::1") }), RangeError);
  assert.throws(() => lan(4, { forbidden: [address("::1")] }), RangeError);
});

test.run();
