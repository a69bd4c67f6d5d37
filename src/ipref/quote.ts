/**
 * ICMP errors in translation: the message and the packet that it quotes, whose two ends are seen from the other side.
 *
 * A host complains about a packet that it got, so the quoted source is theirs on the way out and ours on the way in.
 * The message is written anew in `body`: type and code, MTU, the quoted header in the other form, and as much of what
 * followed as fits 576 bytes. One quoted packet is translated; errors about errors are not to exist, and go nowhere.
 * Only packets of the tunnel's own IP version are believed, and only those that both ends are known of.
 */

import type { Family } from "../lib/address.ts";
import { adjusted, fold, get16, put16, sumOf } from "../lib/checksum.ts";
import { ICMP, ICMPV6, UDP } from "../lib/packet.ts";
import { checksumAt, Datagram, Envelope, isExtension, readDatagram, writeEnvelope } from "./datagram.ts";
import type { Ends } from "./ends.ts";
import { decodeHeader, encodeHeader, Header } from "./header.ts";
import { fromTunnel, isEcho, mostQuoted, plateauBelow, quotedBytes, Told, toTunnel } from "./icmp.ts";
import { Field } from "./lookup.ts";
import { longestHeaderBytes } from "./verdict.ts";

/** Where a message is, and what it is called in the tunnel. */
export interface Message {
  readonly bytes: Uint8Array;
  readonly at: number;
  readonly length: number;
  /** Type × 256 + code as in the tunnel. */
  readonly kind: number;
}

/** What the packet in a message was about, for those who learn from it. */
export interface Learned {
  /** Largest packet that passes, as the sender of the error says; 0: it isn't about that. */
  mtuBytes: number;
  /** Where in the message's bytes the address is that it passes to. */
  destinationAt: number;
}

export class Quotes {
  /** The message that was translated last, its checksum without any pseudo header. */
  readonly body = new Uint8Array(8 + mostQuoted + longestHeaderBytes);
  readonly learned: Learned = { mtuBytes: 0, destinationAt: 0 };
  readonly #ends: Ends;
  readonly #lan: Family;
  readonly #packet = new Datagram();
  readonly #header = new Header();
  readonly #read = new Header();
  readonly #envelope = new Envelope();
  readonly #scratch = new Uint8Array(longestHeaderBytes);

  constructor(ends: Ends, families: { readonly lan: Family; readonly tunnel: Family }) {
    this.#ends = ends;
    this.#lan = families.lan;
    this.#header.family = families.tunnel;
    this.#envelope.family = families.lan;
  }

  /** Translates an error of the LAN for the tunnel. @returns the length of `body`; 0: it cannot be. */
  outward(message: Message): number {
    const packet = this.#packet;
    const { bytes, at } = message;
    const span = { at: at + 8, length: quotedBytes(this.#lan, bytes, message), cut: true };
    this.learned.mtuBytes = 0;
    if (readDatagram(packet, bytes, span) >= 0 || packet.family !== this.#lan) return 0;
    const ends = this.#ends;
    const their = ends.lookup.theirByAddress(bytes, packet.sourceAt);
    const ours = ends.oursByAddress(bytes, packet.destinationAt);
    if (their === -1 || ours === -1 || isExtension(packet.protocol)) return 0;

    const header = this.#header;
    const icmp = packet.protocol === (this.#lan === 4 ? ICMP : ICMPV6);
    header.ttl = packet.ttl;
    header.protocol = icmp ? ICMP : packet.protocol;
    header.dontFragment = packet.dontFragment;
    header.fragmented = packet.fragmented;
    header.fragmentOffset = packet.fragmentOffset;
    header.more = packet.more;
    header.id = packet.id;
    header.source = ends.lookup.bytes;
    header.sourceAt = their + Field.context;
    header.sourceReference = ends.lookup.bytes;
    header.sourceReferenceAt = their + Field.reference;
    header.destination = ends.own;
    header.destinationAt = Field.context;
    header.destinationReference = ends.bytes(ours);
    header.destinationReferenceAt = ends.at(ours) + Field.reference;
    const headerBytes = encodeHeader(header, this.#scratch);

    const length = this.#put(bytes, { at: packet.transportAt, length: packet.transportBytes, headerBytes });
    const from = 8 + headerBytes;
    if (packet.protocol === ICMP || packet.protocol === ICMPV6) {
      if (!icmp) return 0;
      if (packet.fragmentOffset === 0 && !this.#echoOutward(packet, bytes, { at: from, length })) return 0;
    } else {
      const field = from + checksumAt(packet.protocol) - packet.fragmentOffset;
      const less = fold(sumOf(bytes, packet.sourceAt, 2 * ends.lanBytes));
      this.#adjust(packet.protocol, field, { start: from, end: from + length, less, more: 0 });
    }

    let rest = 0;
    if (message.kind === Told.big) {
      const said = this.#saidMtu(message, packet);
      const lan = packet.transportAt - packet.at;
      this.learned.mtuBytes = said;
      this.learned.destinationAt = packet.destinationAt;
      rest = Math.min(65_535, Math.max(68, said - lan + headerBytes));
    }
    return this.#finish(message.kind, rest, from + length);
  }

  /**
   * Translates an error of the tunnel for the LAN.
   *
   * @param outer the address that the message came from, which stands for contexts that its sender doesn't know.
   * @returns the length of `body`; 0: it cannot be.
   */
  inward(message: Message, outer: { readonly bytes: Uint8Array; readonly at: number }): number {
    const ends = this.#ends;
    const read = this.#read;
    const { bytes, at } = message;
    const span = { at: at + 8, length: quotedBytes(4, bytes, message), cut: true };
    const tunnel = this.#header.family;
    if (decodeHeader(read, bytes, span) >= 0 || read.family !== tunnel) return 0;
    if (!ends.isOurContext(read.source, read.sourceAt)) return 0;
    const ours = ends.oursByReference(read.sourceReference);
    const none = ends.isNoContext(read.destination, read.destinationAt);
    const context = none ? outer : { bytes: read.destination, at: read.destinationAt };
    if (!this.#isConcerned(outer, context)) return 0;
    const their = ends.theirByReference(context.bytes, context.at, read.destinationReference);
    if (their === -1 || ours === -1) return 0;
    if (read.protocol === ICMPV6 || isExtension(read.protocol)) return 0;

    const data = span.length - read.length;
    const dataAt = span.at + read.length;
    const icmp = read.protocol === ICMP;
    const six = this.#lan === 6;
    const envelope = this.#envelope;
    envelope.ttl = read.ttl;
    envelope.protocol = icmp && six ? ICMPV6 : read.protocol;
    envelope.dontFragment = read.dontFragment;
    envelope.fragmented = read.fragmented;
    envelope.fragmentOffset = read.fragmentOffset;
    envelope.more = read.more;
    envelope.id = read.id & 0xffff;
    if (six) envelope.id = read.id;
    envelope.source = ends.bytes(ours);
    envelope.sourceAt = ends.at(ours) + Field.address;
    envelope.destination = ends.bytes(their);
    envelope.destinationAt = ends.at(their) + Field.address;
    envelope.transportBytes = data;
    // A quote is cut; UDP alone says how long the packet was.
    if (read.protocol === UDP && !read.fragmented && data >= 6) {
      envelope.transportBytes = Math.max(data, Math.min(get16(bytes, dataAt + 4), 65_515));
    }
    const headerBytes = writeEnvelope(envelope, this.#scratch, 0);

    const length = this.#put(bytes, { at: dataAt, length: data, headerBytes });
    const from = 8 + headerBytes;
    const more = fold(sumOf(this.#scratch, six ? 8 : 12, 2 * ends.lanBytes));
    if (icmp) {
      if (read.fragmentOffset === 0 && !this.#echoInward({ at: from, length }, fold(more + data))) return 0;
    } else {
      const field = from + checksumAt(read.protocol) - read.fragmentOffset;
      this.#adjust(read.protocol, field, { start: from, end: from + length, less: 0, more });
    }

    let rest = 0;
    if (message.kind === Told.big) {
      const said = get16(bytes, at + 6) || plateauBelow(span.length);
      rest = Math.min(65_535, Math.max(six ? 1280 : 68, said - read.length + headerBytes));
    }
    return this.#finish(fromTunnel(this.#lan, message.kind), rest, from + length);
  }

  /** Whether who complains is the gateway that the packet went to, or we ourselves: others know nothing of it. */
  #isConcerned(
    outer: { readonly bytes: Uint8Array; readonly at: number },
    context: { readonly bytes: Uint8Array; readonly at: number },
  ): boolean {
    if (this.#ends.isOwnContext(outer.bytes, outer.at)) return true;
    for (let index = 0; index < this.#ends.tunnelBytes; index++) {
      if (outer.bytes[outer.at + index] !== context.bytes[context.at + index]) return false;
    }
    return true;
  }

  /** Puts the quoted header and what follows it in place. @returns how much follows. */
  #put(bytes: Uint8Array, data: { at: number; length: number; headerBytes: number }): number {
    const { at, headerBytes } = data;
    const length = Math.min(data.length, mostQuoted - headerBytes);
    for (let index = 0; index < headerBytes; index++) this.body[8 + index] = this.#scratch[index]!;
    for (let index = 0; index < length; index++) this.body[8 + headerBytes + index] = bytes[at + index]!;
    return length;
  }

  /** Adjusts a checksum in `body`, if its field is quoted. A UDP packet without one keeps none. */
  #adjust(
    protocol: number,
    field: number,
    span: { readonly start: number; readonly end: number; readonly less: number; readonly more: number },
  ): void {
    if (checksumAt(protocol) < 0 || field < span.start || field + 2 > span.end) return;
    const value = get16(this.body, field);
    if (protocol === UDP && value === 0) return;
    const next = adjusted(value, span.less, span.more);
    put16(this.body, field, protocol === UDP && next === 0 ? 0xffff : next);
  }

  /** The start of a quoted ICMP message. @returns false if it is no echo. */
  #echoOutward(
    packet: Datagram,
    bytes: Uint8Array,
    span: { readonly at: number; readonly length: number },
  ): boolean {
    const { at, length } = span;
    if (length < 2) return false;
    const was = get16(this.body, at);
    const kind = toTunnel(this.#lan, was);
    if (!isEcho(kind)) return false;
    put16(this.body, at, kind);
    if (this.#lan === 4 || length < 4) return true;
    const addresses = sumOf(bytes, packet.sourceAt, 32);
    const total = packet.fragmented ? 0 : packet.statedBytes;
    const less = fold(addresses + total + ICMPV6 + was);
    put16(this.body, at + 2, adjusted(get16(this.body, at + 2), less, kind));
    return true;
  }

  /** @param seed sum of addresses and length. @returns false if it is no echo. */
  #echoInward(span: { readonly at: number; readonly length: number }, seed: number): boolean {
    const { at, length } = span;
    if (length < 2) return false;
    const was = get16(this.body, at);
    if (!isEcho(was)) return false;
    const kind = fromTunnel(this.#lan, was);
    put16(this.body, at, kind);
    if (this.#lan === 4 || length < 4) return true;
    put16(this.body, at + 2, adjusted(get16(this.body, at + 2), was, fold(seed + ICMPV6 + kind)));
    return true;
  }

  /** The MTU in an error of the LAN. */
  #saidMtu(message: Message, packet: Datagram): number {
    const { bytes, at } = message;
    if (this.#lan === 4) return get16(bytes, at + 6) || plateauBelow(packet.statedBytes + 20);
    return get16(bytes, at + 4) !== 0 ? 65_535 : get16(bytes, at + 6);
  }

  #finish(kind: number, rest: number, length: number): number {
    put16(this.body, 0, kind);
    put16(this.body, 2, 0);
    put16(this.body, 4, 0);
    put16(this.body, 6, rest);
    put16(this.body, 2, ~fold(sumOf(this.body, 0, length)) & 0xffff);
    return length;
  }
}
