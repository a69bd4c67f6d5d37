/**
 * ICMP on the three sides: what each type is called, and errors that the forwarders make themselves.
 *
 *     meaning                    IPv4   tunnel   IPv6
 *     echo request, reply        8, 0   8, 0     128, 129
 *     net unreachable            3/0    3/0      1/0
 *     host unreachable           3/1    3/1      1/3
 *     port unreachable           3/3    3/2      1/4
 *     fragmentation needed       3/4    3/4      2/0
 *     prohibited                 3/13   3/13     1/1
 *     time exceeded              11/0   11/0     3/0
 *     reassembly time exceeded   11/1   11/1     3/1
 *
 * What has no number of its own in the tunnel goes by the nearest meaning: a protocol that nobody serves is a port
 * that nobody serves. Redirects, parameter problems and whatever concerns one link only stays where it is.
 */

import type { Family } from "../lib/address.ts";
import { adjusted, fold, get16, put16, put32, sumOf } from "../lib/checksum.ts";
import { ICMP, ICMPV6 } from "../lib/packet.ts";
import { type Datagram, Envelope, writeEnvelope } from "./datagram.ts";
import type { Ends } from "./ends.ts";
import { encodeHeader, Header } from "./header.ts";
import { Field } from "./lookup.ts";

/** Type and code in one number, type × 256 + code, as in the tunnel. */
export const Told = {
  echoReply: 0x0000,
  echo: 0x0800,
  net: 0x0300,
  host: 0x0301,
  port: 0x0302,
  big: 0x0304,
  prohibited: 0x030d,
  expired: 0x0b00,
  reassembly: 0x0b01,
} as const;

const fromFour = new Map<number, number>([
  [0x0000, Told.echoReply],
  [0x0800, Told.echo],
  [0x0300, Told.net],
  [0x0301, Told.host],
  [0x0302, Told.port],
  [0x0303, Told.port],
  [0x0304, Told.big],
  [0x0305, Told.host],
  [0x0306, Told.net],
  [0x0307, Told.host],
  [0x0308, Told.host],
  [0x0309, Told.prohibited],
  [0x030a, Told.prohibited],
  [0x030b, Told.net],
  [0x030c, Told.host],
  [0x030d, Told.prohibited],
  [0x0b00, Told.expired],
  [0x0b01, Told.reassembly],
]);

const fromSix = new Map<number, number>([
  [0x8000, Told.echo],
  [0x8100, Told.echoReply],
  [0x0100, Told.net],
  [0x0101, Told.prohibited],
  [0x0102, Told.host],
  [0x0103, Told.host],
  [0x0104, Told.port],
  [0x0105, Told.prohibited],
  [0x0106, Told.prohibited],
  [0x0200, Told.big],
  [0x0300, Told.expired],
  [0x0301, Told.reassembly],
  [0x0401, Told.port],
]);

const toFour = new Map<number, number>([
  [Told.echoReply, 0x0000],
  [Told.echo, 0x0800],
  [Told.net, 0x0300],
  [Told.host, 0x0301],
  [Told.port, 0x0303],
  [Told.big, 0x0304],
  [Told.prohibited, 0x030d],
  [Told.expired, 0x0b00],
  [Told.reassembly, 0x0b01],
]);

const toSix = new Map<number, number>([
  [Told.echoReply, 0x8100],
  [Told.echo, 0x8000],
  [Told.net, 0x0100],
  [Told.host, 0x0103],
  [Told.port, 0x0104],
  [Told.big, 0x0200],
  [Told.prohibited, 0x0101],
  [Told.expired, 0x0300],
  [Told.reassembly, 0x0301],
]);

/** A host's type and code as the tunnel's; -1: it has none. */
export function toTunnel(family: Family, kind: number): number {
  return (family === 4 ? fromFour : fromSix).get(kind) ?? -1;
}

/** The tunnel's type and code as a host's; -1: it has none. */
export function fromTunnel(family: Family, kind: number): number {
  return (family === 4 ? toFour : toSix).get(kind) ?? -1;
}

/** Whether a tunnel type and code is an echo; all others that are known are errors. */
export function isEcho(kind: number): boolean {
  return kind === Told.echo || kind === Told.echoReply;
}

/** Quoted bytes at most, of a packet translated or refused in the tunnel. */
export const mostQuoted = 576;
/** Quoted bytes of our own errors on the LAN: as much as anybody takes (RFC 1812, RFC 4443). */
const mostQuotedFour = 576 - 28;
const mostQuotedSix = 1280 - 48;

/** Longest error of ours. */
export const longestErrorBytes = 1280;

/** What an error says. */
export interface Complaint {
  /** Type × 256 + code, as the side that gets it calls it. */
  readonly kind: number;
  /** The four bytes behind the checksum: an MTU, a pointer. */
  readonly rest: number;
  /** The packet that it is about. */
  readonly bytes: Uint8Array;
  readonly at: number;
  readonly length: number;
}

/** Writes errors of the gateway about packets that it doesn't forward. */
export class Complaints {
  readonly bytes = new Uint8Array(longestErrorBytes);
  readonly #ends: Ends;
  readonly #envelope = new Envelope();
  readonly #header = new Header();

  constructor(ends: Ends, families: { readonly lan: Family; readonly tunnel: Family }) {
    this.#ends = ends;
    this.#envelope.family = families.lan;
    this.#header.family = families.tunnel;
  }

  /** To the sender of a packet of the LAN. @param id of an IPv4 packet. @returns length in `bytes`. */
  toLan(complaint: Complaint, packet: Datagram, id: number): number {
    const envelope = this.#envelope;
    const six = envelope.family === 6;
    const header = six ? 40 : 20;
    const quoted = Math.min(complaint.length, six ? mostQuotedSix : mostQuotedFour);
    envelope.protocol = six ? ICMPV6 : ICMP;
    envelope.id = id;
    envelope.source = this.#ends.own;
    envelope.sourceAt = Field.address;
    envelope.destination = complaint.bytes;
    envelope.destinationAt = packet.sourceAt;
    envelope.transportBytes = 8 + quoted;
    writeEnvelope(envelope, this.bytes, 0);
    this.#write(complaint, { at: header, quoted });
    if (six) {
      // The pseudo header: addresses, length, protocol.
      const seed = fold(sumOf(this.bytes, 8, 32) + 8 + quoted + ICMPV6);
      put16(this.bytes, header + 2, adjusted(get16(this.bytes, header + 2), 0, seed));
    }
    return header + 8 + quoted;
  }

  /** To the sender of a tunnel packet, whose header is given. @returns length in `bytes`. */
  toTunnel(complaint: Complaint, refused: Header): number {
    const header = this.#header;
    header.ttl = 64;
    header.protocol = ICMP;
    header.source = this.#ends.own;
    header.sourceAt = Field.context;
    header.sourceReference = this.#ends.own;
    header.sourceReferenceAt = Field.reference;
    header.destination = refused.source;
    header.destinationAt = refused.sourceAt;
    header.destinationReference = refused.sourceReference;
    header.destinationReferenceAt = refused.sourceReferenceAt;
    const at = encodeHeader(header, this.bytes);
    const quoted = Math.min(complaint.length, mostQuoted);
    this.#write(complaint, { at, quoted });
    return at + 8 + quoted;
  }

  /** An ICMP message whose checksum covers no addresses. */
  #write(complaint: Complaint, { at, quoted }: { readonly at: number; readonly quoted: number }): void {
    put16(this.bytes, at, complaint.kind);
    put16(this.bytes, at + 2, 0);
    put32(this.bytes, at + 4, complaint.rest);
    for (let index = 0; index < quoted; index++)
      this.bytes[at + 8 + index] = complaint.bytes[complaint.at + index]!;
    put16(this.bytes, at + 2, ~fold(sumOf(this.bytes, at, 8 + quoted)) & 0xffff);
  }
}

/** How much of an error's message is the quoted packet, and not extensions behind it (RFC 4884). */
export function quotedBytes(
  family: Family,
  message: Uint8Array,
  span: { at: number; length: number },
): number {
  const { at, length } = span;
  const type = message[at]!;
  let stated = 0;
  if (family === 4 && (type === 3 || type === 11)) stated = message[at + 5]! * 4;
  if (family === 6 && (type === 1 || type === 3)) stated = message[at + 4]! * 8;
  return stated === 0 ? length - 8 : Math.min(stated, length - 8);
}

/** Packet sizes that links have (RFC 1191, 7.1), for routers that don't say which. */
const plateaus = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 552, 296];

/** The MTU that an IPv4 error means which names none, about a packet of `length` bytes. */
export function plateauBelow(length: number): number {
  return plateaus.find((size) => size < length) ?? 68;
}
