/**
 * The IP header of a host's packet, read and written where it lies.
 *
 * Past the header's own options and IPv6's hop-by-hop, destination and routing headers there is the transport header;
 * what they say is not carried through the tunnel. A source route that isn't used up asks for what nobody does any
 * more, and is refused. Anything else that IPv6 calls an extension (authentication, mobility) is a protocol like
 * others.
 */

import type { Family } from "../lib/address.ts";
import { fold, get16, get32, put16, put32, sumOf } from "../lib/checksum.ts";
import { TCP, UDP } from "../lib/packet.ts";
import { Drop } from "./drops.ts";

export const DCCP = 33;
export const UDPLITE = 136;

const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const DESTINATION = 60;
const mostExtensions = 8;

/** Fields of a header. One is made per forwarder and used again and again. */
export class Datagram {
  family: Family = 4;
  at = 0;
  ttl = 0;
  protocol = 0;
  sourceAt = 0;
  destinationAt = 0;
  dontFragment = false;
  fragmented = false;
  /** Bytes. */
  fragmentOffset = 0;
  more = false;
  id = 0;
  transportAt = 0;
  /** Bytes of the packet from the transport header on, which are there. */
  transportBytes = 0;
  /** The same as the packet says; more than there are in a quoted packet that was cut. */
  statedBytes = 0;
  /** Where a route is asked for, in bytes from the packet's start. */
  routeAt = 0;
}

/** Bytes that are a packet, or the beginning of one. */
export interface Span {
  readonly at: number;
  readonly length: number;
  /** The packet may be longer than what is there. */
  readonly cut: boolean;
}

/**
 * Reads the header of a packet; what is behind its end (padding) doesn't count.
 *
 * @returns -1, or why it is none (a number of `Drop`).
 */
export function readDatagram(packet: Datagram, bytes: Uint8Array, span: Span): number {
  if (span.length < 20) return Drop.short;
  packet.at = span.at;
  packet.fragmented = false;
  packet.fragmentOffset = 0;
  packet.more = false;
  packet.id = 0;
  const version = bytes[span.at]! >> 4;
  if (version === 4) return readFour(packet, bytes, span);
  if (version === 6) return readSix(packet, bytes, span);
  return Drop.version;
}

function readFour(packet: Datagram, bytes: Uint8Array, { at, length, cut }: Span): number {
  const header = (bytes[at]! & 15) * 4;
  const total = get16(bytes, at + 2);
  if (header < 20 || total < header) return Drop.malformed;
  if (length < header || (total > length && !cut)) return Drop.short;
  packet.family = 4;
  packet.ttl = bytes[at + 8]!;
  packet.protocol = bytes[at + 9]!;
  packet.sourceAt = at + 12;
  packet.destinationAt = at + 16;
  packet.transportAt = at + header;
  packet.statedBytes = total - header;
  packet.transportBytes = Math.min(total, length) - header;
  const bits = get16(bytes, at + 6);
  packet.dontFragment = (bits & 0x4000) !== 0;
  packet.id = get16(bytes, at + 4);
  if ((bits & 0x3fff) !== 0) {
    const refused = setFragment(packet, (bits & 0x1fff) << 3, (bits & 0x2000) !== 0);
    if (refused >= 0) return refused;
  }
  return header === 20 ? -1 : readOptions(packet, bytes, header);
}

/** Looks for a source route that isn't used up. */
function readOptions(packet: Datagram, bytes: Uint8Array, header: number): number {
  const end = packet.at + header;
  for (let at = packet.at + 20; at < end; ) {
    const kind = bytes[at]!;
    if (kind === 0) break;
    if (kind === 1) {
      at++;
      continue;
    }
    const length = at + 1 < end ? bytes[at + 1]! : 0;
    if (length < 2 || at + length > end) return Drop.malformed;
    // Loose and strict; the pointer is past the end once all is done.
    if ((kind === 131 || kind === 137) && length >= 3 && bytes[at + 2]! <= length) {
      packet.routeAt = at - packet.at;
      return Drop.routed;
    }
    at += length;
  }
  return -1;
}

function readSix(packet: Datagram, bytes: Uint8Array, { at, length, cut }: Span): number {
  if (length < 40) return Drop.short;
  const total = 40 + get16(bytes, at + 4);
  if (total === 40) return Drop.malformed;
  if (total > length && !cut) return Drop.short;
  const end = at + Math.min(total, length);
  packet.family = 6;
  packet.ttl = bytes[at + 7]!;
  packet.sourceAt = at + 8;
  packet.destinationAt = at + 24;
  packet.dontFragment = true;
  let protocol = bytes[at + 6]!;
  let next = at + 40;
  let left = mostExtensions;
  while (isSkipped(protocol) || protocol === FRAGMENT) {
    if (left-- === 0) return Drop.malformed;
    if (next + 8 > end) return Drop.short;
    // Extensions inside of a fragment are data of the whole.
    if (packet.fragmented) return Drop.fragment;
    const size = protocol === FRAGMENT ? 8 : (bytes[next + 1]! + 1) * 8;
    if (next + size > end) return Drop.short;
    if (protocol === ROUTING && bytes[next + 3] !== 0) {
      packet.routeAt = next + 3 - at;
      packet.protocol = protocol;
      return Drop.routed;
    }
    if (protocol === FRAGMENT) {
      const bits = get16(bytes, next + 2);
      packet.statedBytes = at + total - next - size;
      packet.id = get32(bytes, next + 4);
      // One that is the whole packet (RFC 6946) is none.
      if ((bits & 0xfff9) !== 0) {
        const refused = setFragment(packet, bits & 0xfff8, (bits & 1) !== 0);
        if (refused >= 0) return refused;
      }
    }
    protocol = bytes[next]!;
    next += size;
  }
  packet.protocol = protocol;
  packet.transportAt = next;
  packet.transportBytes = end - next;
  packet.statedBytes = at + total - next;
  return -1;
}

function setFragment(packet: Datagram, offset: number, more: boolean): number {
  packet.fragmented = true;
  packet.fragmentOffset = offset;
  packet.more = more;
  if (more && ((packet.statedBytes & 7) !== 0 || packet.statedBytes === 0)) return Drop.fragment;
  return offset + packet.statedBytes > 65_535 ? Drop.fragment : -1;
}

/** IPv6 extension headers that are read over. */
function isSkipped(protocol: number): boolean {
  return protocol === HOP_BY_HOP || protocol === ROUTING || protocol === DESTINATION;
}

/** Protocol numbers that would be read as extension headers by an IPv6 host: no transport has them. */
export function isExtension(protocol: number): boolean {
  return isSkipped(protocol) || protocol === FRAGMENT;
}

/** What is written into an IP header. Addresses are pointed at. */
export class Envelope {
  family: Family = 4;
  ttl = 64;
  protocol = 0;
  dontFragment = false;
  fragmented = false;
  fragmentOffset = 0;
  more = false;
  id = 0;
  source: Uint8Array = new Uint8Array(16);
  sourceAt = 0;
  destination: Uint8Array = this.source;
  destinationAt = 0;
  /** From the transport header on. */
  transportBytes = 0;
}

/**
 * Writes an IP header, for IPv6 with a fragment header where the packet is a fragment.
 *
 * @returns its length: 20, 40 or 48.
 */
export function writeEnvelope(packet: Envelope, into: Uint8Array, at: number): number {
  return packet.family === 4 ? writeFour(packet, into, at) : writeSix(packet, into, at);
}

function writeFour(packet: Envelope, into: Uint8Array, at: number): number {
  into[at] = 0x45;
  into[at + 1] = 0;
  put16(into, at + 2, 20 + packet.transportBytes);
  put16(into, at + 4, packet.id);
  const flags = (packet.dontFragment ? 0x4000 : 0) | (packet.fragmented && packet.more ? 0x2000 : 0);
  put16(into, at + 6, flags | (packet.fragmented ? packet.fragmentOffset >> 3 : 0));
  into[at + 8] = packet.ttl;
  into[at + 9] = packet.protocol;
  into[at + 10] = 0;
  into[at + 11] = 0;
  for (let index = 0; index < 4; index++) {
    into[at + 12 + index] = packet.source[packet.sourceAt + index]!;
    into[at + 16 + index] = packet.destination[packet.destinationAt + index]!;
  }
  put16(into, at + 10, ~fold(sumOf(into, at, 20)) & 0xffff);
  return 20;
}

function writeSix(packet: Envelope, into: Uint8Array, at: number): number {
  put32(into, at, 0x60000000);
  put16(into, at + 4, packet.transportBytes + (packet.fragmented ? 8 : 0));
  into[at + 6] = packet.fragmented ? FRAGMENT : packet.protocol;
  into[at + 7] = packet.ttl;
  for (let index = 0; index < 16; index++) {
    into[at + 8 + index] = packet.source[packet.sourceAt + index]!;
    into[at + 24 + index] = packet.destination[packet.destinationAt + index]!;
  }
  if (!packet.fragmented) return 40;
  into[at + 40] = packet.protocol;
  into[at + 41] = 0;
  put16(into, at + 42, packet.fragmentOffset | (packet.more ? 1 : 0));
  put32(into, at + 44, packet.id);
  return 48;
}

/** What an address can be in a packet that is forwarded. */
export const Kind = { host: 0, multicast: 1, other: 2 } as const;

/** Tells hosts from multicast (with the limited broadcast) and from what is on no routed packet. */
export function kindOf(bytes: Uint8Array, at: number, family: Family): number {
  const first = bytes[at]!;
  if (family === 4) {
    if (first >= 224) return first < 240 || get32(bytes, at) === 0xffffffff ? Kind.multicast : Kind.other;
    if (first === 0 || first === 127) return Kind.other;
    return first === 169 && bytes[at + 1] === 254 ? Kind.other : Kind.host;
  }
  if (first === 0xff) return Kind.multicast;
  if (first === 0xfe && (bytes[at + 1]! & 0xc0) === 0x80) return Kind.other;
  if (first !== 0) return Kind.host;
  // Unspecified, loopback and IPv4 written as IPv6: the first ten bytes are zero.
  for (let index = 1; index < 10; index++) if (bytes[at + index] !== 0) return Kind.host;
  return Kind.other;
}

/** Where the checksum is in the transport header of protocols that sum the addresses too; -1: in none, or elsewhere. */
export function checksumAt(protocol: number): number {
  if (protocol === TCP) return 16;
  return protocol === UDP || protocol === UDPLITE || protocol === DCCP ? 6 : -1;
}
