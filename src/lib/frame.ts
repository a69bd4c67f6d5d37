/**
 * What is around an IP packet on a link: Ethernet with VLAN tags, Linux's cooked frames, or nothing; and who is
 * where on the link, by ARP and by IPv6's neighbour advertisements.
 *
 * Nothing is kept and nothing throws: a frame that makes no sense is undefined. Addresses are told as offsets,
 * since most frames are looked at only to be passed over.
 *
 * ```
 * Ethernet  destination(48) source(48) [8100|88a8|9100 tag(16)]… type(16)
 * cooked    kind(16) hardware(16) length(16) source(64) type(16)
 * cooked 2  type(16) 0(16) interface(32) hardware(16) kind(8) length(8) source(64)
 * ARP       hardware(16) protocol(16) 6 4 operation(16) sender(48) sender(32) target(48) target(32)
 * ```
 *
 * Source: IEEE 802.3 and 802.1Q, RFC 826, RFC 4861, LINKTYPE_LINUX_SLL and _SLL2 of tcpdump.org.
 */

import { type Address, decodeAddress, decodeMac, isDeviceMac, type Mac } from "./address.ts";
import { ICMPV6, type Packet } from "./packet.ts";
import { LinkType } from "./pcap.ts";

export const EtherType = { ipv4: 0x0800, arp: 0x0806, ipv6: 0x86dd } as const;

export interface Frame {
  /** Ethertype of what it carries, past VLAN tags. */
  readonly protocol: number;
  /** Where that begins. */
  readonly offset: number;
  /** Where the MAC of its sender is; undefined if it tells none. */
  readonly sourceAt: number | undefined;
  /** Sent to many: by broadcast or multicast of the link. */
  readonly isGroup: boolean;
}

/** Service, customer, and an early form of stacked tags. */
const tags: ReadonlySet<number> = new Set([0x8100, 0x88a8, 0x9100]);
const hardwareEthernet = 1;
/** Kinds of cooked frames. */
const [broadcast, multicast] = [1, 2];

/** @param linkType LINKTYPE_… @returns undefined if the frame is too short, or of another kind. */
export function decodeFrame(linkType: number, bytes: Uint8Array): Frame | undefined {
  switch (linkType) {
    case LinkType.ethernet:
      if (bytes.length < 14) return undefined;
      return pastTags(bytes, { offset: 14, sourceAt: 6, isGroup: (bytes[0]! & 1) === 1 });
    case LinkType.cooked:
      if (bytes.length < 16) return undefined;
      return pastTags(bytes, {
        offset: 16,
        sourceAt: u16(bytes, 2) === hardwareEthernet && u16(bytes, 4) === 6 ? 6 : undefined,
        isGroup: isGroupKind(u16(bytes, 0)),
      });
    case LinkType.cooked2: {
      if (bytes.length < 20) return undefined;
      const sourceAt = u16(bytes, 8) === hardwareEthernet && bytes[11] === 6 ? 12 : undefined;
      return { protocol: u16(bytes, 0), offset: 20, sourceAt, isGroup: isGroupKind(bytes[10]!) };
    }
    case LinkType.raw:
    case LinkType.ipv4:
    case LinkType.ipv6: {
      const protocol = protocolOf(bytes);
      return protocol === undefined
        ? undefined
        : { protocol, offset: 0, sourceAt: undefined, isGroup: false };
    }
    default:
      return undefined;
  }
}

/** The ethertype of an IP packet, by its version. */
export function protocolOf(packet: Uint8Array): number | undefined {
  const version = packet.length === 0 ? 0 : packet[0]! >> 4;
  if (version === 4) return EtherType.ipv4;
  return version === 6 ? EtherType.ipv6 : undefined;
}

export interface Arp {
  /** 1 asks, 2 answers. */
  readonly operation: number;
  readonly senderMac: Mac;
  readonly sender: Address;
  readonly target: Address;
}

/** ARP for IPv4 on Ethernet, from `offset` on. */
export function decodeArp(bytes: Uint8Array, offset: number): Arp | undefined {
  if (offset + 28 > bytes.length || u16(bytes, offset) !== hardwareEthernet) return undefined;
  if (u16(bytes, offset + 2) !== EtherType.ipv4 || u16(bytes, offset + 4) !== 0x0604) return undefined;
  return {
    operation: u16(bytes, offset + 6),
    senderMac: decodeMac(bytes, offset + 8),
    sender: decodeAddress(bytes, offset + 14, 4),
    target: decodeAddress(bytes, offset + 24, 4),
  };
}

const neighbourAdvertisement = 136;
const targetLinkAddress = 2;

/**
 * Whose address a neighbour advertisement tells.
 *
 * @param bytes from the IPv6 header on. @returns `mac` is undefined if it is that of the frame's sender;
 *   undefined in all if this is no advertisement, or not from the link itself.
 */
export function decodeAdvertisement(
  bytes: Uint8Array,
  packet: Packet,
): { readonly address: Address; readonly mac: Mac | undefined } | undefined {
  const at = packet.payloadOffset;
  const end = at + packet.payloadBytes;
  // No router passes on a packet with the highest hop limit: who sends it is on this link.
  if (packet.family !== 6 || packet.protocol !== ICMPV6 || packet.fragment || bytes[7] !== 255)
    return undefined;
  if (end - at < 24 || bytes[at] !== neighbourAdvertisement || bytes[at + 1] !== 0) return undefined;
  const address = decodeAddress(bytes, at + 8, 6);
  for (let option = at + 24; option + 8 <= end; ) {
    const length = bytes[option + 1]! * 8;
    if (length === 0 || option + length > end) return undefined;
    if (bytes[option] === targetLinkAddress) return { address, mac: decodeMac(bytes, option + 2) };
    option += length;
  }
  return { address, mac: undefined };
}

/** The MAC of a frame's sender, if it is one device's. */
export function senderOf(bytes: Uint8Array, frame: Frame): Mac | undefined {
  const mac = frame.sourceAt === undefined ? undefined : decodeMac(bytes, frame.sourceAt);
  return mac !== undefined && isDeviceMac(mac) ? mac : undefined;
}

/** The type is in the two bytes before `offset`. */
function pastTags(bytes: Uint8Array, untagged: Omit<Frame, "protocol">): Frame | undefined {
  const { sourceAt, isGroup } = untagged;
  let { offset } = untagged;
  let protocol = u16(bytes, offset - 2);
  while (tags.has(protocol)) {
    offset += 4;
    if (offset > bytes.length) return undefined;
    protocol = u16(bytes, offset - 2);
  }
  return { protocol, offset, sourceAt, isGroup };
}

function isGroupKind(kind: number): boolean {
  return kind === broadcast || kind === multicast;
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}
