/**
 * The header of tunnel packets: what is between UDP and the transport header of a host's packet.
 *
 *      0                   1                   2                   3
 *     +-------+---+-+-+-------+-------+---------------+---------------+
 *     | ver=1 |RL |I|D| ipver |0 0 0 0|      TTL      |   protocol    |
 *     +-------+---+-+-+-------+-------+---------------+---------------+
 *     | if I:         0               |         offset          |0 0|M|
 *     | if I:                  identification                         |
 *     +---------------------------------------------------------------+
 *     | source context, destination context      4 or 16 bytes each   |
 *     | source reference, destination reference  4, 8 or 16 each (RL) |
 *     +---------------------------------------------------------------+
 *
 * There is no length and no checksum. A reference of 128 bits is shortened by leaving out zeros behind its first byte:
 * to the first byte and the last three, or the first and the last seven; both references take the longer form. ICMP is
 * protocol 1 on behalf of IPv6 hosts too.
 */

import type { Family } from "../lib/address.ts";
import { get16, get32, put16, put32 } from "../lib/checksum.ts";
import type { Span } from "./datagram.ts";
import { Drop } from "./drops.ts";

const version = 1;

/** What is in front of it: UDP and the outer IP header, by the tunnel's IP version. */
export const outerBytes = { 4: 28, 6: 48 } as const;

/** A header's fields. One is made per forwarder and used again and again; bytes are pointed at, not copied. */
export class Header {
  ttl = 0;
  protocol = 0;
  dontFragment = false;
  /** There is fragment information: the next three count. */
  fragmented = false;
  /** Bytes, a multiple of 8. */
  fragmentOffset = 0;
  more = false;
  id = 0;
  family: Family = 4;
  source: Uint8Array = new Uint8Array(16);
  sourceAt = 0;
  destination: Uint8Array = this.source;
  destinationAt = 0;
  /** 16 bytes each, whatever the form on the wire. */
  sourceReference: Uint8Array = new Uint8Array(16);
  sourceReferenceAt = 0;
  destinationReference: Uint8Array = new Uint8Array(16);
  destinationReferenceAt = 0;
  /** On the wire; set by `decode` and `encode`. */
  length = 0;
}

/**
 * Reads the header at the start of a tunnel packet of `length` bytes. The references are written to the header's own
 * arrays, so a header that is decoded into must not point at foreign ones.
 *
 * @returns -1, or why it is none (a number of `Drop`).
 */
export function decodeHeader(header: Header, bytes: Uint8Array, span: Span): number {
  const { at, length, cut } = span;
  if (length < 20) return Drop.short;
  const first = bytes[at]!;
  const second = bytes[at + 1]!;
  if (first >> 4 !== version) return Drop.malformed;
  const form = (first >> 2) & 3;
  if (form === 3 || (second & 15) !== 0) return Drop.malformed;
  if (second !== 0x40 && second !== 0x60) return Drop.malformed;
  header.family = second === 0x40 ? 4 : 6;
  header.fragmented = (first & 2) !== 0;
  header.dontFragment = (first & 1) !== 0;
  header.ttl = bytes[at + 2]!;
  header.protocol = bytes[at + 3]!;
  const addressBytes = header.family === 4 ? 4 : 16;
  const referenceBytes = 4 << form;
  const contextsAt = at + (header.fragmented ? 12 : 4);
  const referencesAt = contextsAt + 2 * addressBytes;
  header.length = referencesAt + 2 * referenceBytes - at;
  if (length < header.length) return Drop.short;
  header.fragmentOffset = 0;
  header.more = false;
  header.id = 0;
  if (header.fragmented) {
    const bits = get16(bytes, at + 6);
    if (get16(bytes, at + 4) !== 0 || (bits & 6) !== 0) return Drop.malformed;
    header.fragmentOffset = bits & 0xfff8;
    header.more = (bits & 1) === 1;
    header.id = get32(bytes, at + 8);
    const data = length - header.length;
    if (header.more && ((data & 7) !== 0 || data === 0) && !cut) return Drop.fragment;
    if (header.fragmentOffset + data > 65_535) return Drop.fragment;
  }
  header.source = bytes;
  header.sourceAt = contextsAt;
  header.destination = bytes;
  header.destinationAt = contextsAt + addressBytes;
  const { sourceReference: a, destinationReference: b } = header;
  header.sourceReferenceAt = 0;
  header.destinationReferenceAt = 0;
  a[0] = bytes[referencesAt]!;
  b[0] = bytes[referencesAt + referenceBytes]!;
  const gap = 17 - referenceBytes;
  for (let index = 1; index < gap; index++) {
    a[index] = 0;
    b[index] = 0;
  }
  for (let index = gap, from = referencesAt + 1; index < 16; index++, from++) {
    a[index] = bytes[from]!;
    b[index] = bytes[from + referenceBytes]!;
  }
  return -1;
}

/** Writes the header at the start of `into`, at most 76 bytes. @returns its length. */
export function encodeHeader(header: Header, into: Uint8Array): number {
  const form = formOf(header);
  into[0] = (version << 4) | (form << 2) | (header.fragmented ? 2 : 0) | (header.dontFragment ? 1 : 0);
  into[1] = header.family << 4;
  into[2] = header.ttl;
  into[3] = header.protocol;
  let at = 4;
  if (header.fragmented) {
    put16(into, 4, 0);
    put16(into, 6, header.fragmentOffset | (header.more ? 1 : 0));
    put32(into, 8, header.id);
    at = 12;
  }
  const addressBytes = header.family === 4 ? 4 : 16;
  for (let index = 0; index < addressBytes; index++) {
    into[at + index] = header.source[header.sourceAt + index]!;
    into[at + addressBytes + index] = header.destination[header.destinationAt + index]!;
  }
  at += 2 * addressBytes;
  const referenceBytes = 4 << form;
  const {
    sourceReference: a,
    sourceReferenceAt: x,
    destinationReference: b,
    destinationReferenceAt: y,
  } = header;
  into[at] = a[x]!;
  into[at + referenceBytes] = b[y]!;
  for (let index = 1, from = 17 - referenceBytes; index < referenceBytes; index++, from++) {
    into[at + index] = a[x + from]!;
    into[at + referenceBytes + index] = b[y + from]!;
  }
  header.length = at + 2 * referenceBytes;
  return header.length;
}

/** The shortest form that has room for both references: 0, 1 or 2 for 4, 8 or 16 bytes. */
function formOf(header: Header): number {
  const {
    sourceReference: a,
    sourceReferenceAt: x,
    destinationReference: b,
    destinationReferenceAt: y,
  } = header;
  for (let index = 1; index < 9; index++) if ((a[x + index]! | b[y + index]!) !== 0) return 2;
  for (let index = 9; index < 13; index++) if ((a[x + index]! | b[y + index]!) !== 0) return 1;
  return 0;
}
