/**
 * The headers of an IPv4 or IPv6 packet, as far as the transport ports.
 *
 * Takes what a capture hands over (NFLOG, TUN, a file): bytes that begin with the IP header, perhaps cut short.
 * Nothing here throws; a packet that makes no sense has a reason to be counted by. Lengths written in the
 * packet are believed only as far as bytes are there.
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

/** Reads the headers of the packet that fills `bytes`. */
export function parsePacket(bytes: Uint8Array): PacketOutcome {
  if (bytes.length < 1) return malformed("short");
  const version = bytes[0]! >> 4;
  if (version === 4) return parseV4(bytes);
  if (version === 6) return parseV6(bytes);
  return malformed("version");
}

/**
 * The data of a UDP datagram, sharing memory with `bytes`; undefined if the packet is no whole, unfragmented
 * datagram.
 */
export function udpPayload(bytes: Uint8Array, packet: Packet): Uint8Array | undefined {
  if (packet.protocol !== UDP || packet.fragment || packet.payloadBytes < 8) return undefined;
  const at = packet.payloadOffset;
  const length = u16(bytes, at + 4);
  if (length < 8 || length > packet.payloadBytes) return undefined;
  return bytes.subarray(at + 8, at + length);
}

function parseV4(bytes: Uint8Array): PacketOutcome {
  if (bytes.length < 20) return malformed("short");
  const header = (bytes[0]! & 15) * 4;
  // Offloaded packets may say 0: then the bytes themselves are the length.
  const total = u16(bytes, 2) || bytes.length;
  if (header < 20 || total < header) return malformed("length");
  if (bytes.length < header) return malformed("short");
  const bits = u16(bytes, 6);
  const [offset, more] = [(bits & 0x1fff) * 8, (bits & 0x2000) !== 0];
  return finish(bytes, {
    family: 4,
    source: decodeAddress(bytes, 12, 4),
    destination: decodeAddress(bytes, 16, 4),
    protocol: bytes[9]!,
    payloadOffset: header,
    payloadBytes: Math.min(total, bytes.length) - header,
    cut: total > bytes.length,
    ...((offset > 0 || more) && { fragment: { id: u16(bytes, 4), offset, more } }),
  });
}

function parseV6(bytes: Uint8Array): PacketOutcome {
  if (bytes.length < IPV6_BYTES) return malformed("short");
  // Jumbograms and offloaded packets say 0.
  const total = IPV6_BYTES + (u16(bytes, 4) || bytes.length - IPV6_BYTES);
  const end = Math.min(total, bytes.length);
  let protocol = bytes[6]!;
  let at = IPV6_BYTES;
  let fragment: Packet["fragment"];
  for (let left = EXTENSIONS; isExtension(protocol); left--) {
    if (left === 0) return malformed("headers");
    if (at + 8 > end) return malformed("short");
    const next = bytes[at]!;
    let length = (bytes[at + 1]! + 1) * 8;
    if (protocol === FRAGMENT) {
      length = 8;
      const bits = u16(bytes, at + 2);
      const id = u16(bytes, at + 4) * 0x10000 + u16(bytes, at + 6);
      // An atomic fragment (RFC 6946) is whole.
      if (bits >> 3 !== 0 || bits & 1) fragment = { id, offset: bits & 0xfff8, more: (bits & 1) === 1 };
    } else if (protocol === AUTHENTICATION) {
      length = (bytes[at + 1]! + 2) * 4;
    }
    if (at + length > end) return malformed(total > bytes.length ? "short" : "length");
    protocol = next;
    at += length;
    // What follows in a later fragment is data, whatever its header number says.
    if (fragment && fragment.offset > 0) break;
  }
  return finish(bytes, {
    family: 6,
    source: decodeAddress(bytes, 8, 6),
    destination: decodeAddress(bytes, 24, 6),
    protocol,
    payloadOffset: at,
    payloadBytes: end - at,
    cut: total > bytes.length,
    ...(fragment && { fragment }),
  });
}

function finish(bytes: Uint8Array, packet: Packet): PacketOutcome {
  if (!hasPorts(packet.protocol) || packet.payloadBytes < 4 || (packet.fragment?.offset ?? 0) > 0) {
    return { kind: "packet", packet };
  }
  const at = packet.payloadOffset;
  return {
    kind: "packet",
    packet: { ...packet, ports: { source: u16(bytes, at), destination: u16(bytes, at + 2) } },
  };
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

function malformed(reason: PacketFailure): PacketOutcome {
  return { kind: "malformed", reason };
}
