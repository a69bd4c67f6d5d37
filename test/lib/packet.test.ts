/** Packet headers: rows, cuts, flips, recorded packets. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Packet, type PacketFailure, parsePacket, udpPayload } from "../../src/lib/packet.ts";

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
