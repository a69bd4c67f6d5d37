/** Tunnel → LAN: who may send, where to, what is answered, what is dropped for which reason. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Drop, dropNames, headroomBytes, Verdict } from "../../src/ipref/forward.ts";
import { decodeHeader, encodeHeader, Header } from "../../src/ipref/header.ts";
import {
  address,
  anybody,
  checksum,
  filler,
  type Gateway,
  gateway,
  get16,
  ICMP,
  ICMPV6,
  isRight,
  join,
  nameOf,
  nobody,
  pass,
  passed,
  put16,
  readIp,
  reference,
  sides,
  TCP,
  transport,
  UDP,
  type Wish,
  withChecksum,
} from "./crossing.ts";

/** The gateway of side B, which packets of side A come to. */
function far(family: 4 | 6, wish: Wish = {}, tunnel: 4 | 6 = 4): Gateway {
  const { a, b } = sides(4, tunnel, family);
  return gateway(b, a, wish);
}

interface About {
  readonly source?: string;
  readonly destination?: string;
  readonly sourceReference?: bigint;
  readonly destinationReference?: bigint;
  readonly ttl?: number;
  readonly dontFragment?: boolean;
  readonly fragment?: { readonly offset: number; readonly more: boolean; readonly id: number };
}

/** A tunnel packet from host A to host B. */
function tunnel(to: Gateway, protocol: number, data: Uint8Array, about: About = {}): Uint8Array {
  const four = to.settings.tunnelFamily === 4;
  const { source = four ? "198.51.100.97" : "2001:db8:a::97", destination = to.side.context } = about;
  const header = Object.assign(new Header(), {
    family: source.includes(":") ? 6 : 4,
    ttl: about.ttl ?? 63,
    protocol,
    dontFragment: about.dontFragment ?? true,
    fragmented: about.fragment !== undefined,
    fragmentOffset: about.fragment?.offset ?? 0,
    more: about.fragment?.more ?? false,
    id: about.fragment?.id ?? 0,
    source: address(source),
    destination: address(destination),
    sourceReference: reference(about.sourceReference ?? 2711n),
    destinationReference: reference(about.destinationReference ?? 2823n),
  });
  const into = new Uint8Array(80);
  return join(into.slice(0, encodeHeader(header, into)), data);
}

/** A transport packet with a checksum as in the tunnel. */
function bare(protocol: number, data = filler(64)): Uint8Array {
  const packet = transport({ source: "1.1.1.1", destination: "1.1.1.1", protocol }, data);
  return withChecksum(packet, protocol, []);
}

const reasonOf = (outcome: { readonly reason: number }) => dropNames[outcome.reason];

/** Type and code of an error that is right and goes from our gateway to host A. */
function told(answer: Uint8Array | undefined, to: Gateway): readonly number[] {
  assert.ok(answer, "an answer");
  const header = new Header();
  assert.is(decodeHeader(header, answer, { at: 0, length: answer.length, cut: false }), -1);
  const size = to.settings.tunnelFamily === 4 ? 4 : 16;
  assert.equal(header.source.slice(header.sourceAt, header.sourceAt + size), to.settings.ownContext);
  assert.equal(header.sourceReference, reference(1n));
  assert.equal(
    [header.ttl, header.protocol, header.dontFragment, header.fragmented],
    [64, ICMP, false, false],
  );
  const message = answer.subarray(header.length);
  assert.is(checksum(message), 0);
  return [message[0]!, message[1]!];
}

test("inward: a remote host without an encoded address is asked for, with the packet unchanged", () => {
  for (const family of [4, 6] as const) {
    const to = far(family);
    const packet = tunnel(to, UDP, bare(UDP), { sourceReference: 0xd0223f68ee5a3ea19n });
    const arena = new Uint8Array(2048);
    arena.set(packet, headroomBytes);
    assert.is(to.inward.forward(arena, headroomBytes, packet.length), Verdict.ask);
    assert.equal(arena.slice(headroomBytes, headroomBytes + packet.length), packet);
    assert.equal(to.inward.askedContext, join(address("198.51.100.97"), new Uint8Array(12)));
    assert.equal(to.inward.askedReference, reference(0xd0223f68ee5a3ea19n));
    to.records.addTheir(family === 4 ? "10.250.0.7" : "fdea::7", "198.51.100.97", 0xd0223f68ee5a3ea19n);
    assert.is(to.inward.forward(arena, headroomBytes, packet.length), Verdict.send);
  }
});

test("inward: an unknown destination makes no state: it is answered before the source is asked for", () => {
  const to = far(4);
  const outcome = pass(
    to.inward,
    tunnel(to, UDP, bare(UDP), { sourceReference: 77n, destinationReference: 2999n }),
  );
  assert.is(reasonOf(outcome), "unmapped");
  assert.equal(told(outcome.answer, to), [3, 0]);
  assert.is(to.records.touched, 0);
});

test("inward: a peer that isn't allowed gets no state and no answer, wherever it sends", () => {
  const to = far(4, { peers: nobody });
  for (const destinationReference of [2823n, 2999n, 1n]) {
    const packet = tunnel(to, UDP, bare(UDP), { sourceReference: 77n, destinationReference });
    const outcome = pass(to.inward, packet);
    assert.is(nameOf(outcome), "drop");
    assert.is(reasonOf(outcome), "refused");
  }
  assert.is(nameOf(pass(to.inward, tunnel(to, UDP, bare(UDP)))), "send", "a host that has a mapping");
});

test("inward: the source context is the address that the packet came from, or none", () => {
  for (const version of [4, 6] as const) {
    const to = far(4, {}, version);
    const other = version === 4 ? "198.51.100.98" : "2001:db8:a::98";
    const forged = pass(to.inward, tunnel(to, UDP, bare(UDP), { source: other }));
    assert.is(nameOf(forged), "drop");
    assert.is(reasonOf(forged), "spoofed");
    const none = tunnel(to, UDP, bare(UDP), { source: version === 4 ? "0.0.0.0" : "::" });
    assert.equal(passed(to.inward, none), passed(to.inward, tunnel(to, UDP, bare(UDP))));
  }
});

test("inward: an outer address that no host has is no source", () => {
  const to = far(4);
  to.inward.from(address("127.0.0.1"), 0);
  assert.is(reasonOf(pass(to.inward, tunnel(to, UDP, bare(UDP), { source: "127.0.0.1" }))), "source");
});

test("inward: for another gateway is dropped, unless we don't know our own address", () => {
  const to = far(4);
  const elsewhere = { destination: "203.0.113.1" };
  assert.is(reasonOf(pass(to.inward, tunnel(to, UDP, bare(UDP), elsewhere))), "stranger");
  assert.is(nameOf(pass(to.inward, tunnel(to, UDP, bare(UDP), { destination: "0.0.0.0" }))), "send");
  const hidden = far(4, { ownContext: new Uint8Array(4) });
  assert.is(nameOf(pass(hidden.inward, tunnel(hidden, UDP, bare(UDP), elsewhere))), "send");
});

test("inward: the other IP version in the tunnel is dropped", () => {
  const to = far(4, {}, 4);
  const six = tunnel(to, UDP, bare(UDP), { source: "2001:db8:a::97", destination: "2001:db8:b::98" });
  assert.is(reasonOf(pass(to.inward, six)), "version");
});

test("inward: the router itself gets answers only, unless it is opened", () => {
  const rows: [string, Uint8Array, number, boolean][] = [
    ["TCP", bare(TCP), TCP, false],
    ["UDP", bare(UDP), UDP, false],
    ["an echo", bare(ICMP), ICMP, false],
    ["an echo reply", withChecksum(Uint8Array.from([0, 0, 0, 0, 1, 2, 0, 1]), ICMP, []), ICMP, true],
  ];
  for (const [name, data, protocol, reply] of rows) {
    const closed = far(4);
    const outcome = pass(closed.inward, tunnel(closed, protocol, data, { destinationReference: 1n }));
    assert.is(nameOf(outcome), reply ? "send" : "drop", name);
    if (!reply) assert.is(reasonOf(outcome), "forbidden");
    const opened = far(4, { admitRouter: true });
    const packet = passed(opened.inward, tunnel(opened, protocol, data, { destinationReference: 1n }));
    assert.equal(readIp(packet).destination, address("10.240.0.1"));
  }
});

test("inward: no mapping leads to loopback, multicast, an encoded address or the router's own ones", () => {
  const rows: [4 | 6, string][] = [
    [4, "127.0.0.1"],
    [4, "224.0.0.1"],
    [4, "0.0.0.0"],
    [4, "169.254.1.1"],
    [4, "255.255.255.255"],
    [4, "10.241.1.1"],
    [4, "192.168.98.1"],
    [6, "::1"],
    [6, "ff02::1"],
    [6, "fe80::1"],
    [6, "fdea::5"],
    [6, "fd98::1"],
  ];
  for (const [family, host] of rows) {
    const forbidden = [address(family === 4 ? "192.168.98.1" : "fd98::1")];
    const to = far(family, { forbidden });
    to.records.addOurs(host, 4000n);
    const outcome = pass(to.inward, tunnel(to, UDP, bare(UDP), { destinationReference: 4000n }));
    assert.is(nameOf(outcome), "drop", host);
    assert.is(reasonOf(outcome), "forbidden", host);
  }
});

test("inward: IPv4 packets that may be fragmented get ids that differ, others none", () => {
  const to = far(4);
  const ids = [1, 2, 3].map(
    () => readIp(passed(to.inward, tunnel(to, UDP, bare(UDP), { dontFragment: false }))).id,
  );
  assert.is(new Set(ids).size, 3);
  assert.not(ids.includes(0));
  assert.is(readIp(passed(to.inward, tunnel(to, UDP, bare(UDP)))).id, 0);
  const fragment = { offset: 64, more: true, id: 0xabcd1234 };
  const read = readIp(passed(to.inward, tunnel(to, UDP, filler(64), { fragment, dontFragment: false })));
  assert.equal([read.id, read.offset, read.more], [0x1234, 64, true]);
});

test("inward: a UDP packet without a checksum gets one for an IPv6 host, and keeps none for an IPv4 host", () => {
  for (const length of [64, 65]) {
    const none = bare(UDP, filler(length));
    put16(none, 6, 0);
    const six = far(6);
    const read = readIp(passed(six.inward, tunnel(six, UDP, none)));
    assert.ok(read.right);
    assert.is.not(get16(read.payload, 6), 0);
    const four = far(4);
    assert.is(get16(readIp(passed(four.inward, tunnel(four, UDP, none))).payload, 6), 0);
  }
});

test("inward: fragments of a UDP packet without a checksum cannot go to an IPv6 host", () => {
  const none = bare(UDP, filler(120));
  put16(none, 6, 0);
  const to = far(6);
  const first = tunnel(to, UDP, none, { fragment: { offset: 0, more: true, id: 1 } });
  assert.is(reasonOf(pass(to.inward, first)), "checksum");
});

test("inward: a fragment that is a whole packet is one", () => {
  for (const family of [4, 6] as const) {
    for (const protocol of [TCP, UDP, ICMP]) {
      const to = far(family);
      const whole = { fragment: { offset: 0, more: false, id: 9 } };
      const packet = passed(to.inward, tunnel(to, protocol, bare(protocol), whole));
      assert.equal(packet, passed(to.inward, tunnel(to, protocol, bare(protocol))));
      assert.ok(readIp(packet).right);
    }
  }
});

test("inward: a TCP checksum field of 0x0000 is a checksum like any other", () => {
  for (const family of [4, 6] as const) {
    const to = far(family);
    const data = bare(TCP);
    const word = get16(data, 60) + get16(data, 16);
    put16(data, 60, word > 0xffff ? word - 0xffff : word);
    put16(data, 16, 0);
    assert.ok(isRight(data, TCP, []));
    assert.ok(readIp(passed(to.inward, tunnel(to, TCP, data))).right);
  }
});

test("inward: a damaged packet stays damaged", () => {
  for (const protocol of [TCP, UDP, ICMP]) {
    for (const family of [4, 6] as const) {
      const to = far(family);
      const data = bare(protocol);
      data[30] = data[30]! ^ 4;
      assert.not(readIp(passed(to.inward, tunnel(to, protocol, data))).right);
    }
  }
});

test("inward: protocols that nobody knows pass as they are, IPv6 extension headers don't", () => {
  for (const family of [4, 6] as const) {
    const to = far(family);
    for (const protocol of [47, 50, 132, 135]) {
      const read = readIp(passed(to.inward, tunnel(to, protocol, filler(31))));
      assert.is(read.protocol, protocol);
      assert.equal(read.payload, filler(31));
    }
    for (const protocol of [0, 43, 44, 60]) {
      assert.is(reasonOf(pass(to.inward, tunnel(to, protocol, filler(32)))), "malformed");
    }
    assert.is(reasonOf(pass(to.inward, tunnel(to, ICMPV6, filler(32)))), "icmp");
  }
});

test("inward: the TTL is copied, or counted down and its end told", () => {
  const plain = far(4);
  assert.is(readIp(passed(plain.inward, tunnel(plain, UDP, bare(UDP), { ttl: 1 }))).ttl, 1);
  for (const version of [4, 6] as const) {
    const to = far(4, { decrementTtl: true }, version);
    assert.is(readIp(passed(to.inward, tunnel(to, UDP, bare(UDP), { ttl: 2 }))).ttl, 1);
    const outcome = pass(to.inward, tunnel(to, UDP, bare(UDP), { ttl: 1 }));
    assert.is(reasonOf(outcome), "expired");
    assert.equal(told(outcome.answer, to), [11, 0]);
    assert.is(nameOf(pass(to.inward, tunnel(to, UDP, bare(UDP), { ttl: 0 }))), "drop");
  }
});

test("inward: no error is sent about an error, nor about a later fragment", () => {
  const to = far(4);
  const unknown = { destinationReference: 2999n };
  for (const kind of [0x0300, 0x0304, 0x0b00]) {
    const error = filler(60);
    put16(error, 0, kind);
    withChecksum(error, ICMP, []);
    assert.is(nameOf(pass(to.inward, tunnel(to, ICMP, error, unknown))), "drop");
  }
  assert.is(nameOf(pass(to.inward, tunnel(to, ICMP, bare(ICMP), unknown))), "answer");
  const fragment = { offset: 64, more: false, id: 1 };
  assert.is(nameOf(pass(to.inward, tunnel(to, UDP, filler(20), { ...unknown, fragment }))), "drop");
});

test("inward: errors cost tokens; without one the drop is silent and counted", () => {
  const to = far(4);
  to.inward.tokens = 1;
  const packet = tunnel(to, UDP, bare(UDP), { destinationReference: 2999n });
  assert.equal(
    [1, 2].map(() => nameOf(pass(to.inward, packet))),
    ["answer", "drop"],
  );
  assert.is(to.inward.counts[Drop.rate], 1);
  assert.is(to.inward.counts[Drop.unmapped], 2);
});

test("inward: who has no mapping and was never heard of is told no error, which would be longer than the packet", () => {
  const to = far(4, { peers: anybody });
  const stranger = { sourceReference: 77n, destinationReference: 2999n };
  const packet = tunnel(to, ICMP, bare(ICMP), stranger);
  const outcome = pass(to.inward, packet);
  assert.equal([nameOf(outcome), reasonOf(outcome), outcome.answer], ["drop", "unmapped", undefined]);
  assert.equal([to.inward.counts[Drop.unknown], to.inward.tokens], [1, 1000]);
  // With a mapping of its own, or heard of, it is told; and anybody may have a mapping.
  assert.is(nameOf(pass(to.inward, tunnel(to, ICMP, bare(ICMP), { destinationReference: 2999n }))), "answer");
  assert.is(nameOf(pass(to.inward, tunnel(to, ICMP, bare(ICMP), { sourceReference: 77n }))), "ask");
  const known = pass(far(4).inward, packet);
  assert.is(nameOf(known), "answer");
  assert.ok(known.answer!.length > packet.length);
  const late = far(4, { peers: anybody, decrementTtl: true });
  assert.is(
    nameOf(pass(late.inward, tunnel(late, UDP, bare(UDP), { sourceReference: 77n, ttl: 1 }))),
    "drop",
  );
});

test("inward: an error quotes at most 576 bytes", () => {
  const to = far(4, {}, 6);
  const packet = tunnel(to, UDP, bare(UDP, filler(1300)), { destinationReference: 2999n });
  const answer = pass(to.inward, packet).answer!;
  assert.is(answer.length, 44 + 8 + 576);
  assert.equal(answer.slice(52), packet.slice(0, 576));
});

test("inward: an IPv6 packet that may be fragmented is, where the LAN takes less", () => {
  const to = far(6, { lanMtuBytes: 1400 });
  const data = bare(UDP, filler(1400));
  const outcome = pass(to.inward, tunnel(to, UDP, data, { dontFragment: false }));
  assert.is(nameOf(outcome), "pieces");
  const reads = outcome.packets.map(readIp);
  assert.equal(
    reads.map((read) => [read.headerRight, read.offset, read.more]),
    [
      [true, 0, true],
      [true, 704, false],
    ],
  );
  assert.is(new Set(reads.map((read) => read.id)).size, 1);
  const whole = join(...reads.map((read) => read.payload));
  assert.ok(isRight(whole, UDP, [reads[0]!.source, reads[0]!.destination]));
  assert.is(
    nameOf(pass(to.inward, tunnel(to, UDP, data))),
    "send",
    "one that may not is the LAN's to refuse",
  );
});

test("inward: what a LAN's router says about a host is believed for that host", () => {
  const to = far(6);
  const packet = tunnel(to, UDP, bare(UDP, filler(1400)), { dontFragment: false });
  assert.is(nameOf(pass(to.inward, packet)), "send");
  to.hosts.learn(address("fd98::22"), 0, 1300);
  assert.is(nameOf(pass(to.inward, packet)), "pieces");
  to.hosts.clear();
  assert.is(nameOf(pass(to.inward, packet)), "send");
});

test("inward: the MSS of a SYN is lowered to what fits the path back", () => {
  for (const [version, most] of [
    [4, 1500 - 28 - 20 - 20],
    [6, 1500 - 48 - 44 - 20],
  ] as const) {
    for (const family of [4, 6] as const) {
      const to = far(family, { clampMss: true }, version);
      const segment = new Uint8Array(24);
      segment.set(bare(TCP, new Uint8Array(0)));
      segment.set([0x60, 2], 12);
      segment.set([2, 4, 5, 180], 20);
      const packet = passed(to.inward, tunnel(to, TCP, withChecksum(segment, TCP, [])));
      const read = readIp(packet);
      assert.is(get16(read.payload, 22), most);
      assert.ok(read.right);
    }
  }
});

test("inward: cut short at every length a packet is dropped or shorter", () => {
  for (const version of [4, 6] as const) {
    for (const family of [4, 6] as const) {
      for (const protocol of [TCP, UDP, ICMP]) {
        const to = far(family, {}, version);
        const packet = tunnel(to, protocol, bare(protocol));
        const header = packet.length - bare(protocol).length;
        const least = protocol === TCP ? 20 : 8;
        for (let length = 0; length < packet.length; length++) {
          const outcome = pass(to.inward, packet.slice(0, length));
          assert.is(nameOf(outcome), length < header + least ? "drop" : "send");
          if (length < header + least) assert.is(reasonOf(outcome), "short");
        }
      }
    }
  }
});

test("inward: both mappings of a packet live on", () => {
  const to = far(4);
  passed(to.inward, tunnel(to, UDP, bare(UDP)));
  assert.is(to.records.touched, 2);
});

test("inward: a packet of our own gateway for one of our hosts comes from its encoded address", () => {
  const to = far(4);
  to.inward.from(address("203.0.113.98"), 0);
  const packet = tunnel(to, UDP, bare(UDP), { source: "203.0.113.98", sourceReference: 1n });
  assert.equal(readIp(passed(to.inward, packet)).source, address("10.240.0.1"));
});

test.run();
