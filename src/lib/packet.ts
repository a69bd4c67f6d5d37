/**
 * The headers of an IPv4 or IPv6 packet, as far as the transport's.
 *
 * Takes what a capture hands over (NFLOG, TUN, a file): bytes that begin with the IP header, perhaps cut short.
 * Nothing here throws; a packet that makes no sense has a reason to be counted by. `parsePacket` is for those
 * who read on in the payload: it believes lengths only as far as bytes are there. `packetHead` is for those who
 * count: it takes a cut copy and believes what the headers say about the whole.
 */

import { type Address, decodeAddress, type Family } from "./address.ts";

export const ICMP = 1;
export const TCP = 6;
export const UDP = 17;
export const ICMPV6 = 58;

export interface Packet {
  readonly family: Family;
  readonly source: Address;
  readonly destination: Address;
  /** Of the payload, past all extension headers (IANA protocol numbers). */
  readonly protocol: number;
  /** Where the payload begins in the bytes given. */
  readonly payloadOffset: number;
  /** Bytes of payload that are there. */
  readonly payloadBytes: number;
  /** Less is there than the packet says: the capture cut it. */
  readonly cut: boolean;
  /** Set on fragments. Past the first one (`offset` > 0, in bytes) the payload has no transport header. */
  readonly fragment?: { readonly id: number; readonly offset: number; readonly more: boolean };
  /** Of TCP, UDP, UDP-Lite, DCCP and SCTP where the header is there. */
  readonly ports?: { readonly source: number; readonly destination: number };
}

export type PacketFailure =
  /** Less than a header. */
  | "short"
  /** Neither version 4 nor 6. */
  | "version"
  /** A header's length contradicts the packet's. */
  | "length"
  /** More extension headers than anybody needs. */
  | "headers";

/** What a report says about a packet of which perhaps only the beginning was copied. */
export interface PacketHead {
  readonly family: Family;
  readonly source: Address;
  readonly destination: Address;
  /** As in `Packet`; where the copy ends among extension headers, the first of them that is not whole. */
  readonly protocol: number;
  /** 0 where there are none to be seen: other protocols, later fragments, a copy that ends before them. */
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Of ICMP and ICMPv6, where it is to be seen. */
  readonly icmpType?: number;
  /** What the whole packet carries behind its transport header; of other protocols, behind the IP headers. */
  readonly payloadBytes: number;
}

/** A TCP segment; `data` shares memory with the packet. */
export interface TcpSegment {
  /** 32 bits; of the first byte of data, or of the SYN before it. */
  readonly sequence: number;
  /** The next byte that the sender expects; undefined without the ACK flag. */
  readonly acknowledged: number | undefined;
  readonly syn: boolean;
  readonly fin: boolean;
  readonly rst: boolean;
  readonly data: Uint8Array;
}

export type PacketOutcome =
  | { readonly kind: "packet"; readonly packet: Packet }
  | { readonly kind: "malformed"; readonly reason: PacketFailure };

const IPV6_BYTES = 40;
/** RFC 8200 knows eight kinds, each at most once but one. */
const EXTENSIONS = 16;
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const AUTHENTICATION = 51;
const DESTINATION = 60;
const MOBILITY = 135;
const HIP = 139;
const SHIM6 = 140;
const DCCP = 33;
const SCTP = 132;
const UDPLITE = 136;
const UDP_BYTES = 8;
const TCP_BYTES = 20;
const ICMP_BYTES = 8;

/** Reads the headers of the packet that fills `bytes`. */
export function parsePacket(bytes: Uint8Array): PacketOutcome {
  const layers = readLayers(bytes);
  if (typeof layers === "string") return { kind: "malformed", reason: layers };
  if (layers.hidden) return { kind: "malformed", reason: "short" };
  const { family, protocol, payloadOffset, totalBytes, fragment } = layers;
  const payloadBytes = Math.min(totalBytes, bytes.length) - payloadOffset;
  const packet = {
    family,
    source: sourceOf(bytes, family),
    destination: destinationOf(bytes, family),
    ...{ protocol, payloadOffset, payloadBytes, cut: totalBytes > bytes.length },
    ...(fragment && { fragment }),
  };
  if (!hasPorts(protocol) || payloadBytes < 4 || isLater(fragment)) return { kind: "packet", packet };
  const ports = { source: u16(bytes, payloadOffset), destination: u16(bytes, payloadOffset + 2) };
  return { kind: "packet", packet: { ...packet, ports } };
}

/** Reads the beginning of a packet. @returns undefined if not even its IP header is there and makes sense. */
export function packetHead(bytes: Uint8Array): PacketHead | undefined {
  const layers = readLayers(bytes);
  if (typeof layers === "string") return undefined;
  const { family, protocol, payloadOffset: at, totalBytes, fragment, hidden } = layers;
  const there = Math.min(totalBytes, bytes.length) - at;
  const begins = !hidden && !isLater(fragment);
  const ports = begins && hasPorts(protocol) && there >= 4;
  const icmp = begins && protocol === (family === 4 ? ICMP : ICMPV6) && there >= 1;
  const words = begins && protocol === TCP && there > 12 ? bytes[at + 12]! >> 4 : 0;
  const header = begins ? transportBytes(protocol, words) : 0;
  return {
    family,
    source: sourceOf(bytes, family),
    destination: destinationOf(bytes, family),
    protocol,
    sourcePort: ports ? u16(bytes, at) : 0,
    destinationPort: ports ? u16(bytes, at + 2) : 0,
    ...(icmp && { icmpType: bytes[at]! }),
    payloadBytes: Math.max(0, totalBytes - at - header),
  };
}

/**
 * The data of a UDP datagram, sharing memory with `bytes`; undefined if the packet is no whole, unfragmented
 * datagram.
 */
export function udpPayload(bytes: Uint8Array, packet: Packet): Uint8Array | undefined {
  if (packet.protocol !== UDP || packet.fragment || packet.payloadBytes < UDP_BYTES) return undefined;
  const at = packet.payloadOffset;
  const length = u16(bytes, at + 4);
  if (length < UDP_BYTES || length > packet.payloadBytes) return undefined;
  return bytes.subarray(at + UDP_BYTES, at + length);
}

/** The TCP segment of a packet; undefined if it is none, or not whole. */
export function tcpSegment(bytes: Uint8Array, packet: Packet): TcpSegment | undefined {
  if (packet.protocol !== TCP || packet.fragment || packet.cut || packet.payloadBytes < TCP_BYTES) {
    return undefined;
  }
  const at = packet.payloadOffset;
  const header = (bytes[at + 12]! >> 4) * 4;
  if (header < TCP_BYTES || header > packet.payloadBytes) return undefined;
  const flags = bytes[at + 13]!;
  return {
    sequence: u32(bytes, at + 4),
    acknowledged: (flags & 16) !== 0 ? u32(bytes, at + 8) : undefined,
    syn: (flags & 2) !== 0,
    fin: (flags & 1) !== 0,
    rst: (flags & 4) !== 0,
    data: bytes.subarray(at + header, at + packet.payloadBytes),
  };
}

/** Where the transport header is, and what is said about it. Both addresses are there. */
interface Layers {
  readonly family: Family;
  readonly protocol: number;
  /** Never past the bytes that are there. */
  readonly payloadOffset: number;
  /** Of the whole packet, as its header says. */
  readonly totalBytes: number;
  readonly fragment: Packet["fragment"];
  /** The copy ends before the transport header: `protocol` is an extension header's, at `payloadOffset`. */
  readonly hidden: boolean;
}

function readLayers(bytes: Uint8Array): Layers | PacketFailure {
  if (bytes.length < 1) return "short";
  const version = bytes[0]! >> 4;
  if (version === 4) return readV4(bytes);
  if (version === 6) return readV6(bytes);
  return "version";
}

function readV4(bytes: Uint8Array): Layers | PacketFailure {
  if (bytes.length < 20) return "short";
  const header = (bytes[0]! & 15) * 4;
  // Offloaded packets may say 0: then the bytes themselves are the length.
  const totalBytes = u16(bytes, 2) || bytes.length;
  if (header < 20 || totalBytes < header) return "length";
  if (bytes.length < header) return "short";
  const bits = u16(bytes, 6);
  const [offset, more] = [(bits & 0x1fff) * 8, (bits & 0x2000) !== 0];
  const fragment = offset > 0 || more ? { id: u16(bytes, 4), offset, more } : undefined;
  return {
    ...{ family: 4, protocol: bytes[9]!, payloadOffset: header, totalBytes, fragment, hidden: false },
  };
}

function readV6(bytes: Uint8Array): Layers | PacketFailure {
  if (bytes.length < IPV6_BYTES) return "short";
  // Jumbograms and offloaded packets say 0.
  const totalBytes = IPV6_BYTES + (u16(bytes, 4) || bytes.length - IPV6_BYTES);
  const end = Math.min(totalBytes, bytes.length);
  let protocol = bytes[6]!;
  let at = IPV6_BYTES;
  let fragment: Packet["fragment"];
  const layers = (hidden: boolean): Layers => ({
    ...{ family: 6, protocol, payloadOffset: at, totalBytes, fragment, hidden },
  });
  for (let left = EXTENSIONS; isExtension(protocol); left--) {
    if (left === 0) return "headers";
    const cut = totalBytes > bytes.length;
    if (at + 8 > end) return cut ? layers(true) : "short";
    const next = bytes[at]!;
    let length = (bytes[at + 1]! + 1) * 8;
    if (protocol === FRAGMENT) {
      length = 8;
      const bits = u16(bytes, at + 2);
      // An atomic fragment (RFC 6946) is whole.
      if (bits >> 3 !== 0 || bits & 1) {
        fragment = { id: u32(bytes, at + 4), offset: bits & 0xfff8, more: (bits & 1) === 1 };
      }
    } else if (protocol === AUTHENTICATION) {
      length = (bytes[at + 1]! + 2) * 4;
    }
    if (at + length > totalBytes) return "length";
    if (at + length > end) return layers(true);
    protocol = next;
    at += length;
    // What follows in a later fragment is data, whatever its header number says.
    if (isLater(fragment)) break;
  }
  return layers(false);
}

/** The length of a transport header; `words` is what TCP says of its own, 0 if that cannot be seen. */
function transportBytes(protocol: number, words: number): number {
  if (protocol === TCP) return Math.max(TCP_BYTES, words * 4);
  if (protocol === UDP || protocol === UDPLITE) return UDP_BYTES;
  if (protocol === ICMP || protocol === ICMPV6) return ICMP_BYTES;
  return 0;
}

function isLater(fragment: Packet["fragment"]): boolean {
  return fragment !== undefined && fragment.offset > 0;
}

function sourceOf(bytes: Uint8Array, family: Family): Address {
  return decodeAddress(bytes, family === 4 ? 12 : 8, family);
}

function destinationOf(bytes: Uint8Array, family: Family): Address {
  return decodeAddress(bytes, family === 4 ? 16 : 24, family);
}

function isExtension(protocol: number): boolean {
  return (
    protocol === HOP_BY_HOP ||
    protocol === ROUTING ||
    protocol === FRAGMENT ||
    protocol === AUTHENTICATION ||
    protocol === DESTINATION ||
    protocol === MOBILITY ||
    protocol === HIP ||
    protocol === SHIM6
  );
}

function hasPorts(protocol: number): boolean {
  return (
    protocol === TCP || protocol === UDP || protocol === DCCP || protocol === SCTP || protocol === UDPLITE
  );
}

function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

function u32(bytes: Uint8Array, at: number): number {
  return u16(bytes, at) * 0x10000 + u16(bytes, at + 2);
}
