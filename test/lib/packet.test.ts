/** Packet headers: rows, cuts, flips, recorded packets. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type Packet,
  type PacketFailure,
  type PacketHead,
  packetHead,
  parsePacket,
  tcpSegment,
  udpPayload,
} from "../../src/lib/packet.ts";

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));

const a4 = "0a4d000b"; // 10.77.0.11
const b4 = "c633640a"; // 198.51.100.10
const a6 = "fd770000000000000000000000000011"; // fd77::11
const b6 = "20010db8010000000000000000000010"; // 2001:db8:100::10

/** An IPv4 packet with 20 bytes of header, and its length right. */
function v4(protocol: string, payload: string, { fragment = "4000", total = 20 + payload.length / 2 } = {}) {
  const length = total.toString(16).padStart(4, "0");
  return `4500 ${length} 54c5 ${fragment} 40 ${protocol} 0000 ${a4} ${b4} ${payload}`;
}

function v6(next: string, payload: string, { length = payload.length / 2 } = {}) {
  return `60000000 ${length.toString(16).padStart(4, "0")} ${next} 40 ${a6} ${b6} ${payload}`;
}

const udp = "e9980035000c0000aabbccdd"; // 59800 → 53, four bytes of data
const tcp = `a0bc00501aca89c100000000a002faf034c40000${"00".repeat(20)}`;
const ends4 = { family: 4, source: "10.77.0.11", destination: "198.51.100.10" };
const ends6 = { family: 6, source: "fd77::11", destination: "2001:db8:100::10" };
const whole = { cut: false };
const udpPorts = { ports: { source: 59800, destination: 53 } };

const rows: readonly (readonly [string, string, object])[] = [
  [
    "UDP",
    v4("11", udp),
    { ...ends4, protocol: 17, payloadOffset: 20, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  [
    "TCP with options",
    v4("06", tcp),
    {
      ...ends4,
      protocol: 6,
      payloadOffset: 20,
      payloadBytes: 40,
      ...whole,
      ports: { source: 41148, destination: 80 },
    },
  ],
  [
    "ICMP has no ports",
    v4("01", "0800710551d17348"),
    { ...ends4, protocol: 1, payloadOffset: 20, payloadBytes: 8, ...whole },
  ],
  [
    "IPv4 options",
    `4600 0024 54c5 4000 40 11 0000 ${a4} ${b4} 94040000 ${udp}`,
    { ...ends4, protocol: 17, payloadOffset: 24, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  [
    "bytes behind the end (Ethernet padding)",
    `${v4("11", udp)}0000`,
    { ...ends4, protocol: 17, payloadOffset: 20, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  [
    "a capture that was cut",
    v4("11", udp, { total: 500 }),
    { ...ends4, protocol: 17, payloadOffset: 20, payloadBytes: 12, cut: true, ...udpPorts },
  ],
  [
    "a total length of 0 (offloaded)",
    v4("06", tcp, { total: 0 }),
    {
      ...ends4,
      protocol: 6,
      payloadOffset: 20,
      payloadBytes: 40,
      ...whole,
      ports: { source: 41148, destination: 80 },
    },
  ],
  [
    "a first fragment has ports",
    v4("11", udp, { fragment: "2000" }),
    {
      ...ends4,
      protocol: 17,
      payloadOffset: 20,
      payloadBytes: 12,
      ...whole,
      fragment: { id: 0x54c5, offset: 0, more: true },
      ...udpPorts,
    },
  ],
  [
    "a later fragment has none",
    v4("11", udp, { fragment: "00b9" }),
    {
      ...ends4,
      protocol: 17,
      payloadOffset: 20,
      payloadBytes: 12,
      ...whole,
      fragment: { id: 0x54c5, offset: 1480, more: false },
    },
  ],
  [
    "UDP too short for ports",
    v4("11", "e998"),
    { ...ends4, protocol: 17, payloadOffset: 20, payloadBytes: 2, ...whole },
  ],
  [
    "IPv6 UDP",
    v6("11", udp),
    { ...ends6, protocol: 17, payloadOffset: 40, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  [
    "ICMPv6 has no ports",
    v6("3a", "8700000000000000"),
    { ...ends6, protocol: 58, payloadOffset: 40, payloadBytes: 8, ...whole },
  ],
  [
    "hop-by-hop, routing and destination options",
    v6(
      "00",
      `2b00050200000100 3c02040000000000${"00".repeat(16)} 1100010400000000 ${udp}`.replace(/\s/g, ""),
    ),
    { ...ends6, protocol: 17, payloadOffset: 80, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  [
    "an authentication header counts in words of four bytes",
    v6("33", `1104000000000001${"00".repeat(16)}${udp}`),
    { ...ends6, protocol: 17, payloadOffset: 64, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  [
    "a first IPv6 fragment",
    v6("2c", `1100000100000007${udp}`),
    {
      ...ends6,
      protocol: 17,
      payloadOffset: 48,
      payloadBytes: 12,
      ...whole,
      fragment: { id: 7, offset: 0, more: true },
      ...udpPorts,
    },
  ],
  [
    "a later IPv6 fragment is data, whatever its header number says",
    v6("2c", `0000000880000007${udp}`),
    {
      ...ends6,
      protocol: 0,
      payloadOffset: 48,
      payloadBytes: 12,
      ...whole,
      fragment: { id: 0x80000007, offset: 8, more: false },
    },
  ],
  [
    "an atomic fragment is whole",
    v6("2c", `1100000000000007${udp}`),
    { ...ends6, protocol: 17, payloadOffset: 48, payloadBytes: 12, ...whole, ...udpPorts },
  ],
  ["no next header", v6("3b", ""), { ...ends6, protocol: 59, payloadOffset: 40, payloadBytes: 0, ...whole }],
  [
    "ESP hides the rest",
    v6("32", "0000000100000001"),
    { ...ends6, protocol: 50, payloadOffset: 40, payloadBytes: 8, ...whole },
  ],
  [
    "a payload length of 0 (jumbogram, offloaded)",
    v6("11", udp, { length: 0 }),
    { ...ends6, protocol: 17, payloadOffset: 40, payloadBytes: 12, ...whole, ...udpPorts },
  ],
];

for (const [title, hex, expected] of rows) {
  test(`parsePacket(): ${title}`, () => {
    assert.equal(parsePacket(bytesOf(hex)), { kind: "packet", packet: expected });
  });

  test(`parsePacket() cut at every length stays within the bytes: ${title}`, () => {
    const bytes = bytesOf(hex);
    for (let length = 0; length < bytes.length; length++) staysWithin(bytes.subarray(0, length));
  });

  test(`parsePacket() with each byte changed stays within the bytes: ${title}`, () => {
    const bytes = bytesOf(hex);
    for (let at = 0; at < bytes.length; at++) {
      for (const value of [0, 1, 0x2b, 0x2c, 0x33, 0x45, 0x4f, 0x60, 0x7f, 0xff]) {
        const changed = bytes.slice();
        changed[at] = value;
        staysWithin(changed);
      }
    }
  });
}

const failures: readonly (readonly [string, string, PacketFailure])[] = [
  ["nothing", "", "short"],
  ["half a header", "45000020", "short"],
  ["half an IPv6 header", "6000000000001140", "short"],
  ["version 5", "55".repeat(40), "version"],
  ["an IPv4 header of 16 bytes", v4("11", udp).replace("4500", "4400"), "length"],
  ["an IPv4 header longer than the packet", v4("11", udp, { total: 24 }).replace("4500", "4f00"), "length"],
  ["IPv4 options that were cut", v4("11", udp, { total: 100 }).replace("4500", "4f00"), "short"],
  ["a total length below the header", v4("11", udp, { total: 10 }), "length"],
  ["an extension header past the packet", v6("00", "11ff000000000000"), "length"],
  ["extension headers without end", v6("3c", "3c00000000000000".repeat(40)), "headers"],
];

for (const [title, hex, reason] of failures) {
  test(`parsePacket() says "${reason}" of ${title}`, () => {
    assert.equal(parsePacket(bytesOf(hex)), { kind: "malformed", reason });
  });
}

test("udpPayload() is the data by UDP's own length", () => {
  const payload = (hex: string) => {
    const bytes = bytesOf(hex);
    const outcome = parsePacket(bytes);
    if (outcome.kind !== "packet") throw new Error(outcome.reason);
    const data = udpPayload(bytes, outcome.packet);
    return data && Buffer.from(data).toString("hex");
  };
  assert.is(payload(v4("11", udp)), "aabbccdd");
  assert.is(payload(v6("11", udp)), "aabbccdd");
  assert.is(payload(v4("11", "e9980035000a0000aabbccdd")), "aabb");
  assert.is(payload(v4("11", "e998003500080000")), "");
  assert.is(payload(v4("11", "e9980035000d0000aabbccdd")), undefined, "longer than what is there");
  assert.is(payload(v4("11", "e998003500070000aabbccdd")), undefined, "shorter than its header");
  assert.is(payload(v4("11", "e9980035")), undefined);
  assert.is(payload(v4("11", udp, { fragment: "2000" })), undefined, "a piece");
  assert.is(payload(v4("06", tcp)), undefined);
});

test("tcpSegment() is the segment by the header's own length", () => {
  const segment = (hex: string) => {
    const bytes = bytesOf(hex);
    const outcome = parsePacket(bytes);
    if (outcome.kind !== "packet") throw new Error(outcome.reason);
    const found = tcpSegment(bytes, outcome.packet);
    return found && { ...found, data: Buffer.from(found.data).toString("hex") };
  };
  const none = { acknowledged: undefined, syn: false, fin: false, rst: false, data: "" };
  assert.equal(segment(v4("06", tcp)), { ...none, sequence: 0x1aca89c1, syn: true });
  const said = (flags: string, data = "") => `a0bc0035fffffff080000001${flags}faf000000000${data}`;
  const there = { ...none, sequence: 0xfffffff0 };
  assert.equal(segment(v4("06", said("5018", "aabb"))), { ...there, acknowledged: 0x80000001, data: "aabb" });
  assert.equal(segment(v6("06", said("5011"))), { ...there, acknowledged: 0x80000001, fin: true });
  assert.equal(segment(v6("06", said("5004"))), { ...there, rst: true });
  assert.equal(segment(v4("06", said("6002", "01020304aabb"))), { ...there, syn: true, data: "aabb" });
  assert.is(segment(v4("06", said("4018", "aabb"))), undefined, "a header of 16 bytes");
  assert.is(segment(v4("06", said("6018", "aabb"))), undefined, "a header past the packet");
  assert.is(segment(v4("06", said("5018").slice(0, 38))), undefined, "half a header");
  assert.is(segment(v4("06", said("5018", "aabb"), { total: 60 })), undefined, "a copy that was cut");
  assert.is(segment(v4("06", said("5018", "aabb"), { fragment: "2000" })), undefined, "a piece");
  assert.is(segment(v4("11", udp)), undefined);
});

const head4 = { family: 4, source: "10.77.0.11", destination: "198.51.100.10" };
const head6 = { family: 6, source: "fd77::11", destination: "2001:db8:100::10" };
const noPorts = { sourcePort: 0, destinationPort: 0 };
const udpEnds = { sourcePort: 59800, destinationPort: 53 };
const tcpEnds = { sourcePort: 41148, destinationPort: 80 };
const extensions = `2b00050200000100 3c02040000000000${"00".repeat(16)} 1100010400000000`;

/** Packets of which perhaps only the beginning is there, and what is said about the whole. */
const heads: readonly (readonly [string, string, object | undefined])[] = [
  ["UDP", v4("11", udp), { ...head4, protocol: 17, ...udpEnds, payloadBytes: 4 }],
  ["UDP, cut", v4("11", udp, { total: 528 }), { ...head4, protocol: 17, ...udpEnds, payloadBytes: 500 }],
  ["a SYN", v4("06", tcp), { ...head4, protocol: 6, ...tcpEnds, payloadBytes: 0 }],
  ["TCP, cut", v4("06", tcp, { total: 1500 }), { ...head4, protocol: 6, ...tcpEnds, payloadBytes: 1440 }],
  [
    "TCP, cut before its length: 20 bytes are the least",
    v4("06", tcp.slice(0, 24), { total: 1500 }),
    { ...head4, protocol: 6, ...tcpEnds, payloadBytes: 1460 },
  ],
  [
    "TCP, cut within its ports",
    v4("06", tcp.slice(0, 6), { total: 1500 }),
    { ...head4, protocol: 6, ...noPorts, payloadBytes: 1460 },
  ],
  [
    "a TCP header that says it is longer than the packet",
    v4("06", `${tcp.slice(0, 24)}f${tcp.slice(25)}`),
    { ...head4, protocol: 6, ...tcpEnds, payloadBytes: 0 },
  ],
  [
    "a ping",
    v4("01", "0800710551d17348"),
    { ...head4, protocol: 1, ...noPorts, icmpType: 8, payloadBytes: 0 },
  ],
  [
    "a long ping, cut",
    v4("01", "0800", { total: 1028 }),
    { ...head4, protocol: 1, ...noPorts, icmpType: 8, payloadBytes: 1000 },
  ],
  [
    "ICMP, all of it cut",
    v4("01", "", { total: 1028 }),
    { ...head4, protocol: 1, ...noPorts, payloadBytes: 1000 },
  ],
  [
    "ICMPv6",
    v6("3a", "8700000000000000"),
    { ...head6, protocol: 58, ...noPorts, icmpType: 135, payloadBytes: 0 },
  ],
  [
    "ICMP's number in IPv6 is no ICMP",
    v6("01", "0800710551d17348"),
    { ...head6, protocol: 1, ...noPorts, payloadBytes: 0 },
  ],
  [
    "GRE has no header that is known",
    v4("2f", "00000800", { total: 520 }),
    { ...head4, protocol: 47, ...noPorts, payloadBytes: 500 },
  ],
  [
    "SCTP has ports",
    v4("84", udp, { total: 520 }),
    { ...head4, protocol: 132, ...udpEnds, payloadBytes: 500 },
  ],
  [
    "a first fragment",
    v4("11", udp, { fragment: "2000", total: 1500 }),
    { ...head4, protocol: 17, ...udpEnds, payloadBytes: 1472 },
  ],
  [
    "a later fragment is all payload, and what looks like ports is none",
    v4("11", udp, { fragment: "00b9" }),
    { ...head4, protocol: 17, ...noPorts, payloadBytes: 12 },
  ],
  [
    "a later fragment of ICMP has no type",
    v4("01", "0800", { fragment: "00b9", total: 520 }),
    { ...head4, protocol: 1, ...noPorts, payloadBytes: 500 },
  ],
  [
    "a later IPv6 fragment",
    v6("2c", `1100000880000007${udp}`, { length: 1440 }),
    { ...head6, protocol: 17, ...noPorts, payloadBytes: 1432 },
  ],
  [
    "a first IPv6 fragment",
    v6("2c", `1100000100000007${udp}`, { length: 1440 }),
    { ...head6, protocol: 17, ...udpEnds, payloadBytes: 1424 },
  ],
  [
    "IPv6 past extension headers",
    v6("00", extensions + udp, { length: 1440 }),
    { ...head6, protocol: 17, ...udpEnds, payloadBytes: 1392 },
  ],
  [
    "IPv6, cut among extension headers: the one that is not whole",
    v6("00", extensions.replace(/\s/g, "").slice(0, 32), { length: 1440 }),
    { ...head6, protocol: 43, ...noPorts, payloadBytes: 1432 },
  ],
  [
    "IPv6, cut behind its header",
    v6("00", "", { length: 1440 }),
    { ...head6, protocol: 0, ...noPorts, payloadBytes: 1440 },
  ],
  ["an extension header past the packet", v6("00", "11ff000000000000"), undefined],
  ["nothing", "", undefined],
  ["half an IPv4 header", "4500002000", undefined],
  ["half an IPv6 header", "6000000000001140", undefined],
  ["version 5", "55".repeat(40), undefined],
];

for (const [title, hex, expected] of heads) {
  test(`packetHead(): ${title}`, () => {
    assert.equal(packetHead(bytesOf(hex)), expected);
  });

  test(`packetHead() cut at every length, and with each byte changed, makes sense: ${title}`, () => {
    const bytes = bytesOf(hex);
    for (let at = 0; at < bytes.length; at++) {
      makesSense(bytes.subarray(0, at));
      for (const value of [0, 1, 0x2b, 0x2c, 0x33, 0x45, 0x4f, 0x60, 0x7f, 0xff]) {
        const changed = bytes.slice();
        changed[at] = value;
        makesSense(changed);
      }
    }
  });
}

/** A packet as somebody builds it, with a long payload, and what its head is. */
interface Built {
  readonly bytes: Uint8Array;
  readonly head: PacketHead;
  /** Where everything that the head says has been seen. */
  readonly known: number;
}

const building = fc
  .record({
    v4: fc.boolean(),
    extensions: fc.array(fc.tuple(fc.constantFrom(0, 43, 60, 135), fc.nat(4)), { maxLength: 4 }),
    options: fc.nat(10),
    protocol: fc.constantFrom(1, 6, 17, 47, 58, 132),
    ports: fc.tuple(fc.nat(0xffff), fc.nat(0xffff)),
    words: fc.integer({ min: 5, max: 15 }),
    payloadBytes: fc.nat(1300),
  })
  .map((parts): Built => {
    const { v4: four, protocol, payloadBytes, words } = parts;
    const u16 = (value: number) => [value >> 8, value & 255];
    const icmp = protocol === (four ? 1 : 58);
    const header = protocol === 6 ? words * 4 : protocol === 17 || protocol === 1 || protocol === 58 ? 8 : 0;
    const transport = new Uint8Array(header + payloadBytes).fill(0xa5);
    const ported = protocol === 6 || protocol === 17 || (protocol === 132 && payloadBytes >= 4);
    if (ported) transport.set([...u16(parts.ports[0]), ...u16(parts.ports[1])]);
    if (protocol === 6) transport[12] = words << 4;
    if (icmp) transport[0] = 128;
    const between = four
      ? new Array<number>(parts.options * 4).fill(1)
      : parts.extensions.flatMap(([, length], index) => {
          const next = parts.extensions[index + 1]?.[0] ?? protocol;
          return [next, length, ...new Array<number>(6 + length * 8).fill(0)];
        });
    const total = between.length + transport.length;
    const front = four
      ? [0x45 + parts.options, 0, ...u16(20 + total), 0, 0, 0x40, 0, 64, protocol, 0, 0, ...bytesOf(a4 + b4)]
      : [0x60, 0, 0, 0, ...u16(total), parts.extensions[0]?.[0] ?? protocol, 64, ...bytesOf(a6 + b6)];
    return {
      bytes: Uint8Array.from([...front, ...between, ...transport]),
      head: {
        ...((four ? head4 : head6) as Pick<PacketHead, "family" | "source" | "destination">),
        protocol,
        sourcePort: ported ? parts.ports[0] : 0,
        destinationPort: ported ? parts.ports[1] : 0,
        ...(icmp && { icmpType: 128 }),
        payloadBytes,
      },
      known: front.length + between.length + (protocol === 6 ? 13 : Math.min(4, transport.length)),
    };
  });

test("packetHead() of a packet cut anywhere behind its headers is that of the whole", () => {
  fc.assert(
    fc.property(building, fc.nat(2000), ({ bytes, head, known }, more) => {
      assert.equal(packetHead(bytes), head);
      assert.equal(packetHead(bytes.subarray(0, known + more)), head);
      for (let length = 0; length < known; length++) {
        const cut = packetHead(bytes.subarray(0, length));
        if (!cut) continue;
        assert.equal([cut.source, cut.destination], [head.source, head.destination]);
        assert.ok(cut.payloadBytes >= head.payloadBytes, "what is not seen counts as payload");
      }
    }),
    { numRuns: 300, seed: 7 },
  );
});

/** Whatever it is given: no surprise, and the same as `parsePacket` says where that says something. */
function makesSense(bytes: Uint8Array): void {
  const head = packetHead(bytes);
  const outcome = parsePacket(bytes);
  if (!head) {
    assert.is(outcome.kind, "malformed");
    return;
  }
  assert.ok(head.payloadBytes >= 0 && head.payloadBytes <= 65_575);
  if (outcome.kind === "malformed") return;
  const { family, source, destination, protocol, ports } = outcome.packet;
  assert.equal(
    [head.family, head.source, head.destination, head.protocol],
    [family, source, destination, protocol],
  );
  assert.equal([head.sourcePort, head.destinationPort], [ports?.source ?? 0, ports?.destination ?? 0]);
}

function staysWithin(bytes: Uint8Array): void {
  const outcome = parsePacket(bytes);
  if (outcome.kind === "malformed") return;
  const packet: Packet = outcome.packet;
  assert.ok(packet.payloadOffset >= 20 && packet.payloadBytes >= 0);
  assert.ok(packet.payloadOffset + packet.payloadBytes <= bytes.length);
  const data = udpPayload(bytes, packet);
  if (data) assert.ok(data.length + 8 <= packet.payloadBytes);
}

test.run();
