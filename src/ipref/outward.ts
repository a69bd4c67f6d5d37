/**
 * LAN → tunnel: packets that the kernel routed into the TUN device become tunnel packets. How to call it: forward.ts.
 *
 * Keeps nothing about flows; the first fragments of ICMPv6 echoes, until their last has come, are all that stays from
 * one call to the next. The transport checksum leaves the two addresses out in the tunnel, so it is adjusted, never
 * made anew, and a damaged packet stays damaged.
 */

import { adjusted, fold, get16, put16, sumOf } from "../lib/checksum.ts";
import { ICMP, ICMPV6, TCP, UDP } from "../lib/packet.ts";
import { checksumAt, Datagram, isExtension, Kind, kindOf, readDatagram } from "./datagram.ts";
import { Drop, dropNames } from "./drops.ts";
import { Ends, OWN } from "./ends.ts";
import { Pieces, Totals } from "./fragment.ts";
import { encodeHeader, Header, outerBytes } from "./header.ts";
import { Complaints, fromTunnel, isEcho, Told, toTunnel } from "./icmp.ts";
import { Field, type Lookup } from "./lookup.ts";
import type { Paths } from "./paths.ts";
import { Quotes } from "./quote.ts";
import type { ForwardSettings } from "./settings.ts";
import { clampMss, transportBytesOf, transportHeaderBytes } from "./transport.ts";
import { longestHeaderBytes, Verdict } from "./verdict.ts";

const leastSix = 1280;

/** What an `Outward` is made of. */
export interface OutwardParts {
  readonly lookup: Lookup;
  readonly settings: ForwardSettings;
  /** Outer packets to peers. */
  readonly paths: Paths;
  /** Packets to hosts of the LAN: what its routers say is learned here, for `Inward`. */
  readonly hosts: Paths;
  /** One number per reason, counted up; by default an array of its own. */
  readonly counts?: Float64Array;
}

export class Outward {
  /** In: payload bytes per segment of the next packet, if it is a super-packet (the vnet header's gso_size). */
  gsoBytes = 0;
  /** In: the next packet's transport checksum is only begun (VIRTIO_NET_HDR_F_NEEDS_CSUM). */
  partial = false;
  /** How many errors may be sent; each takes one. The caller refills it. */
  tokens = 0;

  /** Where the tunnel packet is in the arena. */
  resultOffset = 0;
  resultLength = 0;
  /** Offset in `lookup.bytes` of the context address that it goes to. */
  peer = 0;
  /** Instead of `place`, the add-on may split it: see forward.ts. */
  templated = false;
  transportOffset = 0;
  transportLength = 0;
  protocol = 0;
  /** Payload bytes per segment, where `templated`: as many as the path carries. */
  segmentBytes = 0;
  /** Sum of the tunnel's pseudo header without the length: the protocol's number. */
  seedOut = 0;
  /** After `ask`: where in the arena the address of the local host is that has no reference. */
  asked = 0;
  /** After `answer`: the length of the error in `answer`. */
  answerLength = 0;
  /** Number in `Drop` after `drop` and `answer`. */
  reason = -1;
  readonly pieces = new Pieces();
  readonly counts: Float64Array;

  readonly #settings: ForwardSettings;
  readonly #lookup: Lookup;
  readonly #ends: Ends;
  readonly #paths: Paths;
  readonly #hosts: Paths;
  readonly #overhead: number;
  readonly #complaints: Complaints;
  readonly #quotes: Quotes;
  readonly #totals = new Totals();
  readonly #span = { at: 0, length: 0, cut: false };
  readonly #packet = new Datagram();
  readonly #header = new Header();
  readonly #frame = new Uint8Array(longestHeaderBytes);
  /** Views of the frame by length, made when needed. */
  readonly #frames: Uint8Array[] = [];
  #headerBytes = 0;
  /** Of a translated ICMP error, in `#quotes.body`. */
  #bodyBytes = 0;
  /** Largest tunnel packet for a packet that must be cut; 0: it passes whole. */
  #roomBytes = 0;
  #begun = false;
  /** What an ICMP message is called in the tunnel; -1: it is none. */
  #told = -1;
  #ours = 0;
  #their = 0;
  #id: number;

  constructor(parts: OutwardParts) {
    const { lookup, settings, paths, hosts, counts } = parts;
    const families = { lan: settings.lanFamily, tunnel: settings.tunnelFamily };
    this.#settings = settings;
    this.#lookup = lookup;
    this.#paths = paths;
    this.#hosts = hosts;
    this.#ends = new Ends(lookup, settings);
    this.#complaints = new Complaints(this.#ends, families);
    this.#quotes = new Quotes(this.#ends, families);
    this.#overhead = outerBytes[settings.tunnelFamily];
    this.#header.family = settings.tunnelFamily;
    this.#id = settings.firstId;
    this.counts = counts ?? new Float64Array(dropNames.length);
  }

  /** The error after `answer`: the first `answerLength` bytes. */
  get answer(): Uint8Array {
    return this.#complaints.bytes;
  }

  /** The tunnel header that `decide` made. The view stays, its bytes change with the next packet. */
  frame(): Uint8Array {
    const length = this.#headerBytes;
    this.#frames[length] ??= this.#frame.subarray(0, length);
    return this.#frames[length];
  }

  /** Looks at the packet and, if it can go, writes it. @returns any `Verdict`. */
  forward(arena: Uint8Array, offset: number, length: number): Verdict {
    const verdict = this.decide(arena, offset, length);
    return verdict === Verdict.send ? this.place(arena) : verdict;
  }

  /** Lets go of fragments whose last doesn't come: to be called every half minute or so. */
  age(): void {
    this.#totals.age();
  }

  /** Looks at the packet. @returns send, ask, answer or drop. */
  decide(arena: Uint8Array, offset: number, length: number): Verdict {
    const packet = this.#packet;
    const ends = this.#ends;
    const gso = this.gsoBytes;
    this.#begun = this.partial;
    this.gsoBytes = 0;
    this.partial = false;
    this.templated = false;
    this.answerLength = 0;
    this.reason = -1;
    this.segmentBytes = 0;
    this.#bodyBytes = 0;
    this.#roomBytes = 0;

    this.#span.at = offset;
    this.#span.length = length;
    const wrong = readDatagram(packet, arena, this.#span);
    if (wrong === Drop.routed) return this.#refuseRoute(arena);
    if (wrong >= 0) return this.#drop(wrong);
    const family = this.#settings.lanFamily;
    if (packet.family !== family) return this.#drop(Drop.version);
    if (kindOf(arena, packet.sourceAt, family) !== Kind.host) return this.#drop(Drop.source);
    const self = ends.isOwnAddress(arena, packet.sourceAt);
    if (!self && ends.isEncoded(arena, packet.sourceAt)) return this.#drop(Drop.source);
    if (kindOf(arena, packet.destinationAt, family) !== Kind.host) return this.#drop(Drop.destination);
    const their = this.#lookup.theirByAddress(arena, packet.destinationAt);
    if (their === -1) return this.#refuseDestination(arena);
    if (packet.ttl === 0) return this.#drop(Drop.expired);
    if (this.#settings.decrementTtl && packet.ttl === 1)
      return this.#refuse(arena, Drop.expired, Told.expired);
    const illegal = this.#classify(arena);
    if (illegal >= 0) return this.#drop(illegal);
    const ours = self ? OWN : this.#lookup.oursByAddress(arena, packet.sourceAt);
    if (ours === -1) {
      this.asked = packet.sourceAt;
      return Verdict.ask;
    }
    ends.touch(ours);
    ends.touch(their);
    this.#ours = ours;
    this.#their = their;
    this.peer = their + Field.context;
    this.#writeHeader(ours, their);
    this.protocol = this.#header.protocol;
    this.transportOffset = packet.transportAt;
    this.transportLength = packet.transportBytes;
    this.seedOut = this.protocol;
    if (this.#told >= 0 && !isEcho(this.#told)) return this.#translate(arena, this.#told);
    return gso > 0 ? this.#fitSegments(arena, gso) : this.#fit(arena);
  }

  /** Writes what `decide` let through. @returns send, pieces, hold, or drop. */
  place(arena: Uint8Array): Verdict {
    const packet = this.#packet;
    const header = this.#headerBytes;
    let transport = packet.transportAt;
    if (this.#bodyBytes > 0) {
      // Ends where the packet ended, or begins where it began, whichever is earlier.
      const end = packet.transportAt + packet.transportBytes;
      transport = Math.min(packet.at + header, end - this.#bodyBytes);
      arena.set(this.#quotes.body.subarray(0, this.#bodyBytes), transport);
      this.resultLength = header + this.#bodyBytes;
    } else {
      this.#adjust(arena);
      this.resultLength = header + packet.transportBytes;
    }
    const at = transport - header;
    for (let index = 0; index < header; index++) arena[at + index] = this.#frame[index]!;
    this.resultOffset = at;
    if (packet.fragmented && this.protocol === ICMP && packet.family === 6) return this.#total(arena);
    return this.#roomBytes === 0 ? Verdict.send : this.#cut(arena, transport);
  }

  /** Finds out what an ICMP message is called in the tunnel. @returns -1, or why the packet cannot go. */
  #classify(arena: Uint8Array): number {
    const { protocol, family, fragmented, fragmentOffset, transportAt, transportBytes } = this.#packet;
    this.#told = -1;
    if (isExtension(protocol)) return Drop.malformed;
    if (protocol === (family === 4 ? ICMPV6 : ICMP)) return Drop.icmp;
    if (protocol !== (family === 4 ? ICMP : ICMPV6)) {
      return fragmented || transportBytes >= transportHeaderBytes(protocol) ? -1 : Drop.short;
    }
    if (fragmentOffset > 0) return -1;
    if (transportBytes < 8) return Drop.short;
    this.#told = toTunnel(family, get16(arena, transportAt));
    if (this.#told < 0) return Drop.icmp;
    return fragmented && !isEcho(this.#told) ? Drop.fragment : -1;
  }

  #writeHeader(ours: number, their: number): void {
    const packet = this.#packet;
    const header = this.#header;
    const ends = this.#ends;
    header.ttl = this.#settings.decrementTtl ? packet.ttl - 1 : packet.ttl;
    header.protocol = packet.protocol === ICMPV6 ? ICMP : packet.protocol;
    header.dontFragment = packet.dontFragment;
    header.fragmented = packet.fragmented;
    header.fragmentOffset = packet.fragmentOffset;
    header.more = packet.more;
    header.id = packet.id;
    header.source = ends.own;
    header.sourceAt = Field.context;
    header.sourceReference = ends.bytes(ours);
    header.sourceReferenceAt = ends.at(ours) + Field.reference;
    header.destination = this.#lookup.bytes;
    header.destinationAt = their + Field.context;
    header.destinationReference = this.#lookup.bytes;
    header.destinationReferenceAt = their + Field.reference;
    this.#headerBytes = encodeHeader(header, this.#frame);
  }

  /** An ICMP error: its message is made anew. */
  #translate(arena: Uint8Array, kind: number): Verdict {
    const packet = this.#packet;
    const { transportAt: at, transportBytes: length } = packet;
    const seed =
      packet.family === 4 ? 0 : sumOf(arena, packet.sourceAt, 2 * this.#ends.lanBytes) + length + ICMPV6;
    if (!this.#begun && fold(sumOf(arena, at, length) + fold(seed)) !== 0xffff)
      return this.#drop(Drop.checksum);
    this.#bodyBytes = this.#quotes.outward({ bytes: arena, at, length, kind });
    if (this.#bodyBytes === 0) return this.#drop(Drop.quote);
    const { mtuBytes, destinationAt } = this.#quotes.learned;
    if (mtuBytes > 0) this.#hosts.learn(arena, destinationAt, mtuBytes);
    const room = this.#paths.mtuOf(this.#lookup.bytes, this.peer) - this.#overhead;
    if (this.#headerBytes + this.#bodyBytes > room) this.#roomBytes = room;
    return Verdict.send;
  }

  /** A packet of its own: does it pass the way to its peer? */
  #fit(arena: Uint8Array): Verdict {
    const packet = this.#packet;
    const needed = this.#headerBytes + packet.transportBytes;
    const { protocol } = packet;
    if (needed + this.#overhead > this.#paths.smallestBytes) {
      const room = this.#paths.mtuOf(this.#lookup.bytes, this.peer) - this.#overhead;
      if (needed > room) {
        if (!this.#mayCut()) return this.#tooBig(arena, room);
        this.#roomBytes = room;
      }
    }
    if (packet.fragmented) return Verdict.send;
    if (protocol === TCP) this.#clamp(arena);
    if (this.#begun && this.#roomBytes === 0) {
      this.templated =
        transportBytesOf(arena, { protocol, at: packet.transportAt, length: packet.transportBytes }) > 0;
      this.segmentBytes = packet.transportBytes;
    }
    return Verdict.send;
  }

  /** A super-packet: do its segments pass? Those of TCP may be made shorter where a router may cut packets. */
  #fitSegments(arena: Uint8Array, gso: number): Verdict {
    const { protocol, fragmented, transportAt, transportBytes } = this.#packet;
    const head = transportBytesOf(arena, { protocol, at: transportAt, length: transportBytes });
    if (fragmented || head === 0) return this.#drop(Drop.malformed);
    this.segmentBytes = Math.min(gso, transportBytes - head || 1);
    const needed = this.#headerBytes + head + this.segmentBytes;
    if (needed + this.#overhead > this.#paths.smallestBytes) {
      const room = this.#paths.mtuOf(this.#lookup.bytes, this.peer) - this.#overhead;
      if (needed > room) {
        const small = protocol === TCP && this.#mayCut(head + this.segmentBytes);
        if (!small) return this.#tooBig(arena, room);
        this.segmentBytes = room - this.#headerBytes - head;
      }
    }
    if (protocol === TCP) this.#clamp(arena);
    this.templated = true;
    return Verdict.send;
  }

  /** Whether a packet may be sent in parts. IPv6 hosts rely on 1280 bytes to pass everywhere (RFC 8200, 5). */
  #mayCut(transportBytes = this.#packet.transportBytes): boolean {
    const { family, dontFragment, transportAt, at } = this.#packet;
    if (family === 4) return !dontFragment;
    return transportAt - at + transportBytes <= leastSix;
  }

  #tooBig(arena: Uint8Array, room: number): Verdict {
    const { transportAt, at, family } = this.#packet;
    const mtu = room - this.#headerBytes + transportAt - at;
    return this.#refuse(arena, Drop.big, Told.big, Math.max(family === 6 ? leastSix : 68, mtu));
  }

  /** Lowers the MSS of a SYN to what fits the way with this very header. */
  #clamp(arena: Uint8Array): void {
    const { transportAt: at, transportBytes: length } = this.#packet;
    if (!this.#settings.clampMss || (arena[at + 13]! & 2) === 0) return;
    const room = this.#paths.mtuOf(this.#lookup.bytes, this.peer) - this.#overhead;
    clampMss(arena, { at, length, most: room - this.#headerBytes - 20, begun: this.#begun });
  }

  /** Takes the addresses out of the transport checksum; of ICMPv6, makes ICMP. */
  #adjust(arena: Uint8Array): void {
    const packet = this.#packet;
    const { protocol, transportAt, transportBytes } = packet;
    if (protocol === ICMP) return;
    if (protocol === ICMPV6) {
      if (packet.fragmentOffset === 0) this.#adjustEcho(arena);
      return;
    }
    const position = checksumAt(protocol);
    const field = transportAt + position - packet.fragmentOffset;
    if (position < 0 || field < transportAt || field + 2 > transportAt + transportBytes) return;
    if (this.#begun && !packet.fragmented) {
      put16(arena, field, 0);
      const sum = fold(sumOf(arena, transportAt, transportBytes) + protocol + transportBytes);
      put16(arena, field, protocol === UDP && sum === 0xffff ? 0xffff : ~sum & 0xffff);
      return;
    }
    const value = get16(arena, field);
    if (protocol === UDP && value === 0) return;
    const next = adjusted(value, fold(sumOf(arena, packet.sourceAt, 2 * this.#ends.lanBytes)), 0);
    put16(arena, field, protocol === UDP && next === 0 ? 0xffff : next);
  }

  #adjustEcho(arena: Uint8Array): void {
    const { transportAt: at, sourceAt, fragmented, transportBytes } = this.#packet;
    const was = get16(arena, at);
    const kind = toTunnel(6, was);
    const total = fragmented ? 0 : transportBytes;
    const less = fold(sumOf(arena, sourceAt, 32) + total + ICMPV6 + was);
    put16(arena, at, kind);
    put16(arena, at + 2, adjusted(get16(arena, at + 2), less, kind));
  }

  /** A fragment of an ICMPv6 echo: its checksum covers the length of the whole, which the last one tells. */
  #total(arena: Uint8Array): Verdict {
    const { fragmentOffset, more, id, transportBytes } = this.#packet;
    const key = { source: this.#ours, destination: this.#their, id };
    const end = this.resultOffset + this.resultLength;
    if (fragmentOffset === 0) {
      const total = this.#totals.first(key, arena.subarray(this.resultOffset, end));
      if (total < 0) return Verdict.hold;
      const field = this.resultOffset + this.#headerBytes + 2;
      put16(arena, field, adjusted(get16(arena, field), total, 0));
    } else if (!more) {
      const total = fragmentOffset + transportBytes;
      const first = this.#totals.last(key, total);
      if (first !== undefined) {
        const field = this.#headerBytes + 2;
        put16(first, field, adjusted(get16(first, field), total, 0));
        this.pieces.clear();
        this.pieces.add(first, 0, first.length);
        this.pieces.add(arena, this.resultOffset, this.resultLength);
        return Verdict.pieces;
      }
    }
    return this.#roomBytes === 0 ? Verdict.send : this.#cut(arena, this.resultOffset + this.#headerBytes);
  }

  /** Sends a packet that doesn't fit in fragments. */
  #cut(arena: Uint8Array, transport: number): Verdict {
    const header = this.#header;
    const end = this.resultOffset + this.resultLength;
    if (!header.fragmented) {
      header.fragmented = true;
      header.fragmentOffset = 0;
      header.more = false;
      header.id = this.#nextId();
      this.#headerBytes = encodeHeader(header, this.#frame);
    }
    this.pieces.clear();
    const head = {
      bytes: this.#frame,
      length: this.#headerBytes,
      fragmentAt: 4,
      lengthAt: -1,
      roomBytes: this.#roomBytes,
    };
    return this.pieces.cut(arena.subarray(transport, end), head) ? Verdict.pieces : this.#drop(Drop.big);
  }

  #refuseDestination(arena: Uint8Array): Verdict {
    const { destinationAt } = this.#packet;
    const encoded = this.#ends.isEncoded(arena, destinationAt);
    if (this.#ends.isOwnAddress(arena, destinationAt)) return this.#drop(Drop.destination);
    if (encoded && this.#ends.isBroadcast(arena, destinationAt)) return this.#drop(Drop.destination);
    return this.#refuse(arena, Drop.unmapped, Told.net);
  }

  /** A route that we don't take: IPv4's "source route failed", IPv6's "erroneous header field". */
  #refuseRoute(arena: Uint8Array): Verdict {
    const { family, routeAt } = this.#packet;
    if (family !== this.#settings.lanFamily) return this.#drop(Drop.version);
    return family === 4
      ? this.#complain(arena, Drop.routed, { kind: 0x0305, rest: 0 })
      : this.#complain(arena, Drop.routed, { kind: 0x0400, rest: routeAt });
  }

  #refuse(arena: Uint8Array, reason: number, told: number, rest = 0): Verdict {
    return this.#complain(arena, reason, { kind: fromTunnel(this.#settings.lanFamily, told), rest });
  }

  #complain(
    arena: Uint8Array,
    reason: number,
    what: { readonly kind: number; readonly rest: number },
  ): Verdict {
    const packet = this.#packet;
    this.#drop(reason);
    if (packet.fragmentOffset > 0 || !this.#mayComplain(arena)) return Verdict.drop;
    if (this.tokens < 1) {
      this.counts[Drop.rate]!++;
      return Verdict.drop;
    }
    this.tokens--;
    const { at, length } = this.#span;
    const complaint = { ...what, bytes: arena, at, length };
    this.answerLength = this.#complaints.toLan(complaint, packet, this.#nextId() & 0xffff);
    return Verdict.answer;
  }

  /** No error is sent about an error, nor about what no single host sent or got. */
  #mayComplain(arena: Uint8Array): boolean {
    const { family, sourceAt, destinationAt, protocol, transportAt, transportBytes } = this.#packet;
    if (kindOf(arena, sourceAt, family) !== Kind.host) return false;
    if (kindOf(arena, destinationAt, family) !== Kind.host) return false;
    if (protocol !== (family === 4 ? ICMP : ICMPV6)) return true;
    return transportBytes >= 8 && isEcho(toTunnel(family, get16(arena, transportAt)));
  }

  #drop(reason: number): Verdict {
    this.reason = reason;
    this.counts[reason]!++;
    return Verdict.drop;
  }

  #nextId(): number {
    this.#id = (this.#id + 1) >>> 0;
    return this.#id;
  }
}
