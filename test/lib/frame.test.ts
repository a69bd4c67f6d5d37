/** Frames of every kind of link, ARP and neighbour advertisements: rows, cuts and flips. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  decodeAdvertisement,
  decodeArp,
  decodeFrame,
  EtherType,
  type Frame,
  protocolOf,
  senderOf,
} from "../../src/lib/frame.ts";
import { parsePacket } from "../../src/lib/packet.ts";
import { LinkType } from "../../src/lib/pcap.ts";

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));

const mac = "02:77:00:00:00:11";
const own = "027700000011";
const router = "027700000001";
const v4 = "4500001400000000400600000a4d000bc633640a";
const v6 = "60000000000006400000";

const rows: readonly (readonly [string, number, string, Frame, string | undefined])[] = [
  [
    "Ethernet",
    LinkType.ethernet,
    `${router}${own}0800 ${v4}`,
    { protocol: EtherType.ipv4, offset: 14, sourceAt: 6, isGroup: false },
    mac,
  ],
  [
    "a broadcast",
    LinkType.ethernet,
    `ffffffffffff${own}0806`,
    { protocol: EtherType.arp, offset: 14, sourceAt: 6, isGroup: true },
    mac,
  ],
  [
    "a multicast",
    LinkType.ethernet,
    `333300000001${own}86dd`,
    { protocol: EtherType.ipv6, offset: 14, sourceAt: 6, isGroup: true },
    mac,
  ],
  [
    "from a group, which sends nothing",
    LinkType.ethernet,
    `${router}0377000000110800`,
    { protocol: EtherType.ipv4, offset: 14, sourceAt: 6, isGroup: false },
    undefined,
  ],
  [
    "a VLAN",
    LinkType.ethernet,
    `${router}${own}8100000a86dd ${v6}`,
    { protocol: EtherType.ipv6, offset: 18, sourceAt: 6, isGroup: false },
    mac,
  ],
  [
    "a VLAN in a VLAN",
    LinkType.ethernet,
    `${router}${own}88a800648100000a0800 ${v4}`,
    { protocol: EtherType.ipv4, offset: 22, sourceAt: 6, isGroup: false },
    mac,
  ],
  [
    "a VLAN in a VLAN as it was before the standard",
    LinkType.ethernet,
    `${router}${own}910000648100000a0800 ${v4}`,
    { protocol: EtherType.ipv4, offset: 22, sourceAt: 6, isGroup: false },
    mac,
  ],
  [
    "cooked, to us",
    LinkType.cooked,
    `0000 0001 0006 ${own}0000 0800 ${v4}`,
    { protocol: EtherType.ipv4, offset: 16, sourceAt: 6, isGroup: false },
    mac,
  ],
  [
    "cooked, broadcast, with a VLAN",
    LinkType.cooked,
    `0001 0001 0006 ${own}0000 8100 0001 0806`,
    { protocol: EtherType.arp, offset: 20, sourceAt: 6, isGroup: true },
    mac,
  ],
  [
    "cooked, of a link without MACs",
    LinkType.cooked,
    `0004 fffe 0000 0000000000000000 86dd ${v6}`,
    { protocol: EtherType.ipv6, offset: 16, sourceAt: undefined, isGroup: false },
    undefined,
  ],
  [
    "cooked 2, multicast",
    LinkType.cooked2,
    `86dd 0000 00000003 0001 02 06 ${own}0000 ${v6}`,
    { protocol: EtherType.ipv6, offset: 20, sourceAt: 12, isGroup: true },
    mac,
  ],
  [
    "cooked 2, of a link without MACs",
    LinkType.cooked2,
    `0800 0000 00000003 fffe 00 00 0000000000000000 ${v4}`,
    { protocol: EtherType.ipv4, offset: 20, sourceAt: undefined, isGroup: false },
    undefined,
  ],
  ...([LinkType.raw, LinkType.ipv4] as const).map(
    (link) =>
      [
        `IPv4 alone, link ${link}`,
        link,
        v4,
        { protocol: EtherType.ipv4, offset: 0, sourceAt: undefined, isGroup: false },
        undefined,
      ] as const,
  ),
  [
    "IPv6 alone",
    LinkType.ipv6,
    v6,
    { protocol: EtherType.ipv6, offset: 0, sourceAt: undefined, isGroup: false },
    undefined,
  ],
];

test("decodeFrame finds what a frame carries, and senderOf who sent it", () => {
  for (const [what, link, hex, frame, sender] of rows) {
    const bytes = bytesOf(hex);
    assert.equal(decodeFrame(link, bytes), frame, what);
    assert.is(senderOf(bytes, frame), sender, what);
  }
});

test("decodeFrame passes over links that nobody knows, and IP of no version", () => {
  assert.is(decodeFrame(147, bytesOf(v4)), undefined);
  assert.is(decodeFrame(LinkType.raw, bytesOf("55")), undefined);
  assert.is(decodeFrame(LinkType.raw, new Uint8Array(0)), undefined);
  assert.is(protocolOf(bytesOf("45")), EtherType.ipv4);
  assert.is(protocolOf(bytesOf("6f")), EtherType.ipv6);
});

test("cut at every length, a frame is undefined or begins within its bytes", () => {
  for (const [what, link, hex, frame] of rows) {
    const bytes = bytesOf(hex);
    for (let length = 0; length < bytes.length; length++) {
      const cut = decodeFrame(link, bytes.slice(0, length));
      if (length >= Math.max(frame.offset, 1)) assert.equal(cut, frame, `${what}, ${length}`);
      else assert.is(cut, undefined, `${what}, ${length}`);
    }
  }
  // Nothing but tags.
  const tags = bytesOf(`${router}${own}${"81000001".repeat(300)}`);
  assert.is(decodeFrame(LinkType.ethernet, tags), undefined);
});

const arp = `0001 0800 06 04 0002 ${own} 0a4d000b ${router} 0a4d0001`;

test("decodeArp reads IPv4 on Ethernet, and nothing else", () => {
  const bytes = bytesOf(`00 ${arp}`);
  assert.equal(decodeArp(bytes, 1), {
    ...{ operation: 2, senderMac: mac, sender: "10.77.0.11", target: "10.77.0.1" },
  });
  for (let length = 0; length < bytes.length; length++)
    assert.is(decodeArp(bytes.slice(0, length), 1), undefined);
  for (const at of [1, 2, 3, 4, 5, 6]) {
    const other = bytes.slice();
    other[at] = other[at]! ^ 1;
    assert.is(decodeArp(other, 1), undefined, `byte ${at}`);
  }
});

const target = "fd770000000000000000000000000011";
const advertisement = (options: string, { hops = "ff", type = "88", code = "00" } = {}) => {
  const payload = `${type}${code}0000 60000000 ${target} ${options}`.replace(/\s/g, "");
  const length = (payload.length / 2).toString(16).padStart(4, "0");
  return bytesOf(`60000000 ${length} 3a ${hops} ${target} fe800000000000000077000000000001 ${payload}`);
};
const advertised = (bytes: Uint8Array) => {
  const outcome = parsePacket(bytes);
  return outcome.kind === "packet" ? decodeAdvertisement(bytes, outcome.packet) : undefined;
};

test("decodeAdvertisement tells target and MAC, and believes only what comes from the link itself", () => {
  assert.equal(advertised(advertisement(`0201${own}`)), { address: "fd77::11", mac });
  assert.equal(advertised(advertisement(`0e01000000000000 0201${own}`)), { address: "fd77::11", mac });
  assert.equal(advertised(advertisement("")), { address: "fd77::11", mac: undefined });
  assert.is(advertised(advertisement(`0201${own}`, { hops: "fe" })), undefined);
  assert.is(advertised(advertisement(`0201${own}`, { type: "87" })), undefined);
  assert.is(advertised(advertisement(`0201${own}`, { code: "01" })), undefined);
  assert.is(advertised(advertisement(`0200${own}`)), undefined);
  assert.is(advertised(advertisement(`0202${own}`)), undefined);
});

test("cut or with a byte changed, an advertisement throws nothing", () => {
  const bytes = advertisement(`0e01000000000000 0201${own}`);
  for (let at = 0; at < bytes.length; at++) {
    advertised(bytes.slice(0, at));
    for (const flip of [1, 0x80, 0xff]) {
      const damaged = bytes.slice();
      damaged[at] = damaged[at]! ^ flip;
      const told = advertised(damaged);
      assert.ok(told === undefined || typeof told.address === "string");
    }
  }
});

test.run();
