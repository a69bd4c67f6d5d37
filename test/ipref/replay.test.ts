/**
 * Recorded packets of a pair of upstream gateways: ours make the same of the same.
 *
 * Each scenario was captured in the LAN of host A, between the gateways, and in the LAN of host B. The kernels of both
 * routers take one from the TTL between a LAN and its gateway. Ours differ on purpose in the id of IPv4 packets that
 * may be fragmented, and in the order in which fragments leave that had to be waited for. What has no counterpart in a
 * LAN came from a router itself, or was cut there by its kernel.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join as path } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Inward, Outward } from "../../src/ipref/forward.ts";
import { decodeHeader, encodeHeader, Header } from "../../src/ipref/header.ts";
import { PcapReader } from "../../src/lib/pcap.ts";
import {
  address,
  checksum,
  type Gateway,
  gateway,
  get16,
  pass,
  put16,
  type Side,
  sides,
} from "./crossing.ts";

const fixtures = path(process.cwd(), "test/ipref/fixtures");
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

/** The IP packets of a capture. */
function packetsOf(file: string): Uint8Array[] {
  const reader = new PcapReader();
  const packets = [];
  for (const { bytes, originalBytes, linkType } of reader.read(readFileSync(path(fixtures, file)))) {
    assert.is(bytes.length, originalBytes, file);
    assert.is(linkType, 1);
    const type = get16(bytes, 12);
    if (type === 0x0800) packets.push(bytes.slice(14, 14 + get16(bytes, 16)));
    if (type === 0x86dd) packets.push(bytes.slice(14, 54 + get16(bytes, 18)));
  }
  return packets;
}

interface Tunnel {
  readonly from: string;
  readonly packet: Uint8Array;
}

/** The tunnel packets among IP packets: UDP to port 1045. */
function tunnelPackets(file: string): Tunnel[] {
  return packetsOf(file).flatMap((packet) => {
    const four = packet[0]! >> 4 === 4;
    const at = four ? 20 : 40;
    if (packet[four ? 9 : 6] !== 17 || get16(packet, at + 2) !== 1045) return [];
    const from = hex(four ? packet.subarray(12, 16) : packet.subarray(8, 24));
    return [{ from, packet: packet.subarray(at + 8) }];
  });
}

/** What a router's kernel does to a packet that it forwards; undefined: it ends there. */
function forwarded(packet: Uint8Array): Uint8Array | undefined {
  const copy = packet.slice();
  const four = copy[0]! >> 4 === 4;
  const at = four ? 8 : 7;
  if (copy[at]! <= 1) return undefined;
  copy[at] = copy[at]! - 1;
  if (four) {
    put16(copy, 10, 0);
    put16(copy, 10, checksum(copy.subarray(0, 20)));
  }
  return copy;
}

/** A packet as text, without the id where ours has another. */
function comparable(packet: Uint8Array): string {
  const copy = packet.slice();
  if (copy[0]! >> 4 === 4 && (get16(copy, 6) & 0x7fff) === 0) {
    put16(copy, 4, 0);
    put16(copy, 10, 0);
  }
  return hex(copy);
}

function through(forwarder: Outward | Inward, packets: (Uint8Array | undefined)[]): Uint8Array[] {
  return packets.flatMap((packet) => (packet ? pass(forwarder, packet).packets : []));
}

interface World {
  readonly a: Gateway;
  readonly b: Gateway;
}

function world(family: 4 | 6): World {
  const { a: sideA, b: sideB } = sides(family, family, family);
  // As upstream does: the router answers everybody.
  const a = gateway(sideA, sideB, { admitRouter: true });
  const b = gateway(sideB, sideA, { admitRouter: true });
  const dynamic = family === 4 ? 0xd0223f68ee5a3ea19n : 0x4c8e84c6db71c4c92n;
  a.records.addTheir(family === 4 ? "10.248.2.224" : "fdea::2:224", sideB.context, 2999n);
  a.records.addOurs(family === 4 ? "192.168.97.12" : "fd97::12", dynamic);
  b.records.addTheir(family === 4 ? "10.243.169.3" : "fdea::56f6:f797:6141:d391", sideA.context, dynamic);
  return { a, b };
}

/**
 * Scenario → per family, how many packets must come out alike: LAN A → tunnel, tunnel → LAN B, LAN B → tunnel,
 * tunnel → LAN A.
 */
const scenarios: Record<string, Partial<Record<4 | 6, readonly [number, number, number, number]>>> = {
  "dyn-ref": { 4: [2, 2, 2, 2], 6: [2, 2, 2, 2] },
  options: { 6: [1, 1, 1, 1] },
  ping: { 4: [2, 2, 2, 2], 6: [2, 2, 2, 2] },
  "ping-big-frag": { 4: [6, 6, 2, 10], 6: [4, 4, 1, 1] },
  "ping-fromgwA": { 4: [0, 2, 2, 0], 6: [0, 2, 2, 0] },
  "ping-gwB": { 4: [2, 0, 0, 2], 6: [2, 0, 0, 2] },
  "ping-noremote": { 4: [2, 0, 0, 2], 6: [2, 0, 0, 2] },
  "proto-sctp": { 4: [2, 0, 0, 0], 6: [2, 0, 0, 0] },
  tcp: { 4: [6, 6, 4, 4], 6: [5, 5, 5, 5] },
  tos: { 4: [1, 1, 1, 1], 6: [1, 1, 1, 1] },
  traceroute: { 4: [2, 1, 1, 2], 6: [2, 1, 1, 2] },
  udp: { 4: [1, 1, 1, 1], 6: [1, 1, 1, 1] },
  "udp-csum0": { 4: [1, 1, 1, 1], 6: [1, 1, 1, 1] },
  "udp-portunreach": { 4: [1, 1, 1, 1], 6: [1, 1, 1, 1] },
};

/** How many of the expected packets are among those made; each made one counts once. */
function matches(expected: readonly string[], made: readonly string[]): number {
  const left = [...made];
  return expected.filter((each) => {
    const index = left.indexOf(each);
    if (index >= 0) left.splice(index, 1);
    return index >= 0;
  }).length;
}

for (const family of [4, 6] as const) {
  const { a: sideA, b: sideB } = sides(family, family, family);
  const from = (side: Side) => hex(address(side.context));

  for (const [name, counts] of Object.entries(scenarios)) {
    const expected = counts[family];
    if (expected === undefined) continue;
    test(`v${family} ${name}: recorded packets become what upstream made of them`, () => {
      const [lanA, lanB] = ["lanA", "lanB"].map((where) => packetsOf(`v${family}/${name}.${where}.pcap`));
      const tunnel = tunnelPackets(`v${family}/${name}.wan.pcap`);
      const sentBy = (side: Side) =>
        tunnel.filter((each) => each.from === from(side)).map(({ packet }) => packet);
      const counted: number[] = [];
      const ways: [Gateway, Gateway, Uint8Array[], Uint8Array[]][] = [];
      const { a, b } = world(family);
      ways.push([a, b, lanA!, lanB!], [b, a, lanB!, lanA!]);
      for (const [near, far, nearLan, farLan] of ways) {
        const sent = sentBy(near.side);
        const encapsulated = through(near.outward, nearLan.map(forwarded)).map(hex);
        counted.push(matches(sent.map(hex), encapsulated));
        const delivered = through(far.inward, sent).map(forwarded);
        const arrived = delivered.flatMap((packet) => (packet ? [comparable(packet)] : []));
        counted.push(matches(farLan.map(comparable), arrived));
      }
      assert.equal(counted, expected);
    });
  }

  test(`v${family}: every recorded tunnel packet decodes, and encodes to the same bytes`, () => {
    const files = readdirSync(path(fixtures, `v${family}`)).filter((file) => file.endsWith(".wan.pcap"));
    const packets = files.flatMap((file) => tunnelPackets(`v${family}/${file}`));
    assert.ok(packets.length > 50);
    for (const { packet } of packets) {
      const header = new Header();
      assert.is(decodeHeader(header, packet, { at: 0, length: packet.length, cut: false }), -1);
      const into = new Uint8Array(76);
      assert.is(encodeHeader(header, into), header.length);
      assert.is(hex(into.subarray(0, header.length)), hex(packet.subarray(0, header.length)));
    }
  });

  test(`v${family} ping-norec: the host is told that there is no way, as upstream tells it`, () => {
    const lan = packetsOf(`v${family}/ping-norec.lanA.pcap`);
    const { a } = world(family);
    const answers = lan.flatMap((packet) => {
      const there = forwarded(packet);
      const answer = there && pass(a.outward, there).answer;
      // Upstream's IPv4 errors leave by a raw socket, which no router stands behind.
      const arrived = family === 4 ? answer : answer && forwarded(answer);
      return arrived ? [arrived] : [];
    });
    // Upstream gives its errors a random id.
    const told = (packet: Uint8Array) => packet[family === 4 ? 9 : 6] === (family === 4 ? 1 : 58);
    const errors = lan.filter(
      (packet) => told(packet) && packet[family === 4 ? 20 : 40] === (family === 4 ? 3 : 1),
    );
    assert.is(errors.length, 2);
    assert.equal(answers.map(comparable), errors.map(comparable));
  });

  test(`v${family} ping-noremote: the remote host is told that there is no way, as upstream tells it`, () => {
    const tunnel = tunnelPackets(`v${family}/ping-noremote.wan.pcap`);
    const { b } = world(family);
    const answers = tunnel
      .filter((each) => each.from === from(sideA))
      .map(({ packet }) => hex(pass(b.inward, packet).answer ?? new Uint8Array(0)));
    const recorded = tunnel.filter((each) => each.from === from(sideB)).map(({ packet }) => hex(packet));
    assert.is(recorded.length, 2);
    assert.equal(answers, recorded);
  });
}

test.run();
