/** ICMP errors in translation: their names on each side, the numbers in them, and what is quoted. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { dropNames } from "../../src/ipref/forward.ts";
import { decodeHeader, encodeHeader, Header } from "../../src/ipref/header.ts";
import {
  address,
  checksum,
  filler,
  type Gateway,
  gateway,
  get16,
  get32,
  ICMP,
  ICMPV6,
  ip,
  join,
  nameOf,
  type Outcome,
  pass,
  passed,
  put16,
  readIp,
  reference,
  sides,
  TCP,
  transport,
  UDP,
  withChecksum,
} from "./crossing.ts";

const icmpOf = (family: number) => (family === 4 ? ICMP : ICMPV6);
const reasonOf = (outcome: Outcome) => dropNames[outcome.reason];

interface Scene {
  readonly a: Gateway;
  readonly b: Gateway;
}

function scene(lanA: 4 | 6, tunnel: 4 | 6, lanB: 4 | 6, own = 2711n): Scene {
  const both = sides(lanA, tunnel, lanB);
  return {
    a: gateway(both.a, both.b, { reference: own }),
    b: gateway(both.b, both.a, { theirReference: own }),
  };
}

/** An error that host B sends about a packet it got. `words`: what is behind the checksum. */
function error(
  from: Gateway,
  kind: number,
  quoted: Uint8Array,
  words: readonly number[] = [0, 0, 0, 0],
): Uint8Array {
  const protocol = icmpOf(from.settings.lanFamily);
  const about = { source: from.side.host, destination: from.side.theirHost, protocol };
  const message = join([kind >> 8, kind & 255, 0, 0], words, quoted);
  return ip(about, withChecksum(message, protocol, [address(about.source), address(about.destination)]));
}

/** An error in the tunnel, from B's gateway to host A. */
function tunnelError(
  to: Gateway,
  kind: number,
  quoted: Uint8Array,
  words: readonly number[] = [0, 0, 0, 0],
): Uint8Array {
  const four = to.settings.tunnelFamily === 4;
  const header = Object.assign(new Header(), {
    ttl: 64,
    protocol: ICMP,
    family: four ? 4 : 6,
    source: address(four ? "203.0.113.98" : "2001:db8:b::98"),
    destination: to.settings.ownContext,
    sourceReference: reference(1n),
    destinationReference: reference(2711n),
  });
  const into = new Uint8Array(80);
  const head = into.slice(0, encodeHeader(header, into));
  return join(head, withChecksum(join([kind >> 8, kind & 255, 0, 0], words, quoted), ICMP, []));
}

/** A packet of host A as it goes through the tunnel and as host B gets it. */
function crossing({ a, b }: Scene, protocol: number, length = 60, dontFragment = true) {
  const about = { source: a.side.host, destination: a.side.theirHost, protocol, dontFragment };
  const sent = ip(about, transport(about, filler(length)));
  const tunnel = passed(a.outward, sent);
  return { sent, tunnel, arrived: passed(b.inward, tunnel) };
}

function messageOf(tunnel: Uint8Array): { readonly header: Header; readonly message: Uint8Array } {
  const header = new Header();
  assert.is(decodeHeader(header, tunnel, { at: 0, length: tunnel.length, cut: false }), -1);
  const message = tunnel.slice(header.length);
  assert.is(checksum(message), 0);
  return { header, message };
}

/** Meaning: IPv4, tunnel, IPv6; each in type × 256 + code. */
const both: readonly [string, number, number, number][] = [
  ["net unreachable", 0x0300, 0x0300, 0x0100],
  ["host unreachable", 0x0301, 0x0301, 0x0103],
  ["port unreachable", 0x0303, 0x0302, 0x0104],
  ["administratively prohibited", 0x030d, 0x030d, 0x0101],
  ["TTL exceeded", 0x0b00, 0x0b00, 0x0300],
  ["reassembly time exceeded", 0x0b01, 0x0b01, 0x0301],
];

/** What has no number of its own in the tunnel: version, its number, the tunnel's. */
const outOnly: readonly [4 | 6, number, number][] = [
  [4, 0x0302, 0x0302],
  [4, 0x0305, 0x0301],
  [4, 0x0306, 0x0300],
  [4, 0x0309, 0x030d],
  [4, 0x030a, 0x030d],
  [6, 0x0102, 0x0301],
  [6, 0x0105, 0x030d],
  [6, 0x0401, 0x0302],
];

test("icmp: errors have their number on each side", () => {
  for (const lanA of [4, 6] as const) {
    for (const lanB of [4, 6] as const) {
      for (const [name, four, inside, six] of both) {
        const way = scene(lanA, 4, lanB);
        const { arrived } = crossing(way, UDP);
        const tunnel = passed(way.b.outward, error(way.b, lanB === 4 ? four : six, arrived));
        assert.is(get16(messageOf(tunnel).message, 0), inside, name);
        const read = readIp(passed(way.a.inward, tunnel));
        assert.is(get16(read.payload, 0), lanA === 4 ? four : six, name);
        assert.ok(read.right, name);
      }
    }
  }
  for (const [family, own, inside] of outOnly) {
    const way = scene(4, 4, family);
    const tunnel = passed(way.b.outward, error(way.b, own, crossing(way, UDP).arrived));
    assert.is(get16(messageOf(tunnel).message, 0), inside);
  }
});

test("icmp: the quoted header's id is none, its TTL and flags are those of the packet", () => {
  const way = scene(4, 4, 4);
  const { sent, arrived } = crossing(way, UDP);
  const told = readIp(passed(way.a.inward, passed(way.b.outward, error(way.b, 0x0303, arrived))));
  const quoted = readIp(told.payload.slice(8));
  assert.is(quoted.ttl, readIp(sent).ttl);
  assert.ok(quoted.dontFragment);
  assert.is(quoted.id, 0);
});

test("icmp: an error of odd length has a right checksum, whatever lies behind it", () => {
  for (const length of [1, 2, 3, 20, 21]) {
    const way = scene(4, 4, 4);
    const { arrived } = crossing(way, UDP, length);
    const tunnel = passed(way.b.outward, error(way.b, 0x0303, arrived));
    assert.is(checksum(messageOf(tunnel).message), 0);
    assert.ok(readIp(passed(way.a.inward, tunnel)).right);
  }
});

test("icmp: an odd message with upstream's wrong checksum still arrives, with a right one", () => {
  const way = scene(4, 4, 4);
  const { tunnel } = crossing(way, UDP, 21);
  const wrong = tunnelError(way.a, 0x0302, tunnel);
  assert.is((wrong.length - 20) & 1, 1);
  wrong[22] = wrong[22]! ^ 0x55;
  assert.ok(readIp(passed(way.a.inward, wrong)).right);
});

test("icmp: an error that is damaged is dropped, not healed", () => {
  for (const lanB of [4, 6] as const) {
    const way = scene(4, 4, lanB);
    const { arrived, tunnel } = crossing(way, UDP);
    const outgoing = error(way.b, lanB === 4 ? 0x0303 : 0x0104, arrived);
    outgoing[outgoing.length - 1] = outgoing.at(-1)! ^ 1;
    assert.is(reasonOf(pass(way.b.outward, outgoing)), "checksum");
    const incoming = tunnelError(way.a, 0x0302, tunnel);
    incoming[incoming.length - 1] = incoming.at(-1)! ^ 1;
    assert.is(reasonOf(pass(way.a.inward, incoming)), "checksum");
  }
});

test("icmp: a quoted packet of the tunnel's other IP version is dropped", () => {
  for (const version of [4, 6] as const) {
    const way = scene(4, version, 4);
    const other = scene(4, version === 4 ? 6 : 4, 4);
    const { tunnel } = crossing(other, UDP);
    const outcome = pass(way.a.inward, tunnelError(way.a, 0x0300, tunnel));
    assert.is(nameOf(outcome), "drop");
    assert.is(reasonOf(outcome), "quote");
  }
});

test("icmp: a quoted packet of the LAN's other IP version is dropped", () => {
  const way = scene(4, 4, 4);
  const { arrived } = crossing(scene(4, 4, 6), UDP);
  assert.is(reasonOf(pass(way.b.outward, error(way.b, 0x0303, arrived))), "quote");
});

test("icmp: an error about an error is dropped", () => {
  const way = scene(4, 4, 4);
  const { arrived, tunnel } = crossing(way, UDP);
  const nested = { source: way.b.side.theirHost, destination: way.b.side.host, protocol: ICMP };
  const inner = ip(nested, withChecksum(join([3, 3, 0, 0, 0, 0, 0, 0], arrived), ICMP, []));
  assert.is(reasonOf(pass(way.b.outward, error(way.b, 0x0303, inner))), "quote");
  const twice = tunnelError(way.a, 0x0302, tunnelError(way.a, 0x0302, tunnel));
  assert.is(reasonOf(pass(way.a.inward, twice)), "quote");
});

test("icmp: an error about a packet that none of us sent is dropped", () => {
  const way = scene(4, 4, 4);
  const about = { source: "10.250.9.9", destination: way.b.side.host, protocol: UDP };
  assert.is(
    reasonOf(pass(way.b.outward, error(way.b, 0x0303, ip(about, transport(about, filler(20)))))),
    "quote",
  );
  const { tunnel } = crossing(way, UDP);
  const foreign = tunnel.slice();
  foreign[15] = 9;
  assert.is(reasonOf(pass(way.a.inward, tunnelError(way.a, 0x0302, foreign))), "quote");
  const unknown = tunnel.slice();
  unknown[19] = 9;
  assert.is(reasonOf(pass(way.a.inward, tunnelError(way.a, 0x0302, unknown))), "quote");
});

test("icmp: an error about a packet to another gateway than the one that complains is dropped", () => {
  const way = scene(4, 4, 4);
  const { a } = way;
  a.records.addTheir("10.250.0.9", "203.0.113.99", 2823n);
  const about = { source: a.side.host, destination: "10.250.0.9", protocol: UDP };
  const other = passed(a.outward, ip(about, transport(about, filler(20))));
  assert.is(reasonOf(pass(a.inward, tunnelError(a, 0x0304, other, [0, 0, 2, 64]))), "quote");
  const own = tunnelError(a, 0x0301, other);
  own.set(a.settings.ownContext, 4);
  a.inward.from(a.settings.ownContext, 0);
  const told = readIp(passed(a.inward, own));
  assert.equal(told.source, address(a.side.gateway), "the gateway may complain about all that it sends");
});

test("icmp: an error that cannot be translated makes no state for its sender", () => {
  const way = scene(4, 4, 4);
  const { tunnel } = crossing(way, UDP);
  const foreign = tunnelError(way.a, 0x0302, tunnel);
  foreign[15] = 200;
  assert.is(nameOf(pass(way.a.inward, foreign)), "ask");
  const useless = tunnelError(way.a, 0x0302, filler(40));
  useless[15] = 200;
  assert.is(reasonOf(pass(way.a.inward, useless)), "quote");
});

test("icmp: a quoted context that its sender doesn't know is the address that the error came from", () => {
  const way = scene(4, 4, 4);
  const { tunnel } = crossing(way, UDP);
  const hidden = tunnel.slice();
  hidden.fill(0, 4, 12);
  const payloadOf = (quoted: Uint8Array) =>
    readIp(passed(way.a.inward, tunnelError(way.a, 0x0302, quoted))).payload;
  assert.equal(payloadOf(hidden), payloadOf(tunnel));
});

test("icmp: at most 576 bytes are quoted, and what is quoted is the packet's beginning", () => {
  for (const [lanA, version, lanB] of [
    [4, 4, 4],
    [4, 6, 6],
    [6, 4, 4],
  ] as const) {
    const way = scene(lanA, version, lanB);
    const { arrived, sent } = crossing(way, UDP, 1200);
    const tunnel = passed(way.b.outward, error(way.b, lanB === 4 ? 0x0303 : 0x0104, arrived));
    assert.is(messageOf(tunnel).message.length, 8 + 576);
    const told = readIp(passed(way.a.inward, tunnel));
    assert.ok(told.right && told.payload.length <= 8 + 576);
    const head = lanA === 4 ? 20 : 40;
    const quoted = told.payload.slice(8);
    assert.equal(quoted.slice(head), sent.slice(head, head + quoted.length - head));
    assert.is(
      get16(quoted, lanA === 4 ? 2 : 4),
      get16(sent, lanA === 4 ? 2 : 4),
      "its whole length, which UDP says",
    );
  }
});

test("icmp: a quote that ends within the transport header still finds its sender", () => {
  for (const protocol of [TCP, UDP]) {
    const way = scene(4, 4, 4);
    const { arrived, sent } = crossing(way, protocol, 400);
    for (let length = 20; length < 48; length++) {
      const tunnel = passed(way.b.outward, error(way.b, 0x0303, arrived.slice(0, length)));
      const told = readIp(passed(way.a.inward, tunnel));
      assert.ok(told.right);
      const quoted = told.payload.slice(8);
      assert.equal(quoted.slice(20), sent.slice(20, length));
    }
    for (let length = 0; length < 20; length++) {
      assert.is(reasonOf(pass(way.b.outward, error(way.b, 0x0303, arrived.slice(0, length)))), "quote");
    }
  }
});

test("icmp: extensions behind the quoted packet stay behind", () => {
  const way = scene(4, 4, 4);
  const { arrived } = crossing(way, UDP, 100);
  assert.is(arrived.length, 128);
  const plain = passed(way.b.outward, error(way.b, 0x0303, arrived));
  const extended = error(way.b, 0x0303, join(arrived, filler(20)), [0, 32, 0, 0]);
  assert.equal(passed(way.b.outward, extended), plain);
});

test("icmp: the MTU of a LAN is told exactly, for the header that the packet has", () => {
  const rows: [4 | 6, 4 | 6, 4 | 6, bigint][] = [
    [4, 4, 4, 2711n],
    [4, 4, 4, 0xd0223f68ee5a3ea19n],
    [6, 4, 4, 2711n],
    [4, 6, 6, 0xd0223f68ee5a3ea19n],
    [6, 6, 6, 2711n],
  ];
  for (const [lanA, version, lanB, own] of rows) {
    const way = scene(lanA, version, lanB, own);
    const { arrived } = crossing(way, UDP, 1320);
    const [headA, headB] = [lanA === 4 ? 20 : 40, lanB === 4 ? 20 : 40];
    const mtu = 1300;
    const kind = lanB === 4 ? 0x0304 : 0x0200;
    const tunnel = passed(way.b.outward, error(way.b, kind, arrived, [0, 0, mtu >> 8, mtu & 255]));
    const { header, message } = messageOf(tunnel);
    const quoted = new Header();
    assert.is(decodeHeader(quoted, message, { at: 8, length: message.length - 8, cut: true }), -1);
    assert.is(get32(message, 4), mtu - headB + quoted.length, "the longest tunnel packet");
    assert.is(header.protocol, ICMP);
    const told = readIp(passed(way.a.inward, tunnel));
    assert.is(get32(told.payload, 4), mtu - headB + headA, "the longest packet of the sender");
  }
});

test("icmp: an IPv6 host is never told less than 1280", () => {
  const way = scene(6, 4, 4);
  const { arrived } = crossing(way, UDP, 1200);
  const told = readIp(
    passed(way.a.inward, passed(way.b.outward, error(way.b, 0x0304, arrived, [0, 0, 2, 0]))),
  );
  assert.is(get32(told.payload, 4), 1280);
});

test("icmp: a router that doesn't say its MTU means the next smaller one that links have", () => {
  const way = scene(4, 4, 4);
  const { arrived } = crossing(way, UDP, 1400);
  assert.is(arrived.length, 1428);
  const tunnel = passed(way.b.outward, error(way.b, 0x0304, arrived));
  assert.is(get16(messageOf(tunnel).message, 6), 1006);
});

test("icmp: what a LAN's router says is learned for packets that come in", () => {
  const way = scene(4, 4, 6);
  const { arrived } = crossing(way, UDP, 1400);
  passed(way.b.outward, error(way.b, 0x0200, arrived, [0, 0, 1300 >> 8, 1300 & 255]));
  assert.is(way.b.hosts.mtuOf(address("fd98::22"), 0), 1300);
});

test("icmp: an error in fragments is dropped", () => {
  const way = scene(4, 4, 4);
  const whole = readIp(error(way.b, 0x0303, crossing(way, UDP, 100).arrived));
  const about = { source: way.b.side.host, destination: way.b.side.theirHost, protocol: ICMP, more: true };
  assert.is(reasonOf(pass(way.b.outward, ip(about, whole.payload.slice(0, 64)))), "fragment");
});

test("icmp: a router in a LAN needs a reference to complain", () => {
  const way = scene(4, 4, 4);
  const { arrived } = crossing(way, UDP);
  const about = { source: "192.168.98.254", destination: way.b.side.theirHost, protocol: ICMP };
  const message = withChecksum(join([3, 1, 0, 0, 0, 0, 0, 0], arrived), ICMP, []);
  assert.is(nameOf(pass(way.b.outward, ip(about, message))), "ask");
  way.b.records.addOurs("192.168.98.254", 99n);
  assert.is(nameOf(pass(way.b.outward, ip(about, message))), "send");
});

test("icmp: our own errors about packets of the far side are understood there", () => {
  for (const lanA of [4, 6] as const) {
    for (const version of [4, 6] as const) {
      const way = scene(lanA, version, 4);
      way.a.records.addTheir(lanA === 4 ? "10.250.0.7" : "fdea::777", way.b.side.context, 2999n);
      const about = {
        source: way.a.side.host,
        destination: lanA === 4 ? "10.250.0.7" : "fdea::777",
        protocol: UDP,
      };
      const sent = ip(about, transport(about, filler(700)));
      const answer = pass(way.b.inward, passed(way.a.outward, sent)).answer!;
      const told = readIp(passed(way.a.inward, answer));
      assert.ok(told.right);
      assert.is(get16(told.payload, 0), lanA === 4 ? 0x0300 : 0x0100);
      assert.equal(told.source, address(way.a.side.theirGateway));
      const quoted = told.payload.slice(8);
      const head = lanA === 4 ? 12 : 8;
      assert.equal(quoted.slice(head, head + 40), sent.slice(head, head + 40));
    }
  }
});

test("icmp: a quoted UDP packet without a checksum is quoted without one", () => {
  const way = scene(4, 4, 4);
  const about = { source: way.a.side.host, destination: way.a.side.theirHost, protocol: UDP };
  const none = transport(about, filler(20));
  put16(none, 6, 0);
  const arrived = passed(way.b.inward, passed(way.a.outward, ip(about, none)));
  const told = readIp(passed(way.a.inward, passed(way.b.outward, error(way.b, 0x0303, arrived))));
  assert.equal(told.payload.slice(28), none);
});

test.run();
