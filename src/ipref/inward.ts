/**
 * Tunnel → LAN: tunnel packets become packets that the kernel routes to a host. How to call it: forward.ts.
 *
 * Who sends is judged before anything is answered or asked for: the source context must be the address that the
 * packet came from, and a source without a mapping must be allowed to have one. Where it leads is judged before the
 * source gets a mapping, so that probing for references makes no state. Keeps the first fragments of echoes for IPv6
 * hosts until their last has come, and nothing else.
 */

import { adjusted, fold, get16, put16, sumOf } from "../lib/checksum.ts";
import { ICMP, ICMPV6, TCP, UDP } from "../lib/packet.ts";
import { checksumAt, Envelope, isExtension, Kind, kindOf, writeEnvelope } from "./datagram.ts";
import { Drop, dropNames } from "./drops.ts";
import { Ends, OWN } from "./ends.ts";
import { Pieces, Totals } from "./fragment.ts";
import { decodeHeader, Header, outerBytes } from "./header.ts";
import { Complaints, fromTunnel, isEcho, Told } from "./icmp.ts";
import { Field, type Lookup } from "./lookup.ts";
import type { Paths } from "./paths.ts";
import { Quotes } from "./quote.ts";
import type { ForwardSettings, Peers } from "./settings.ts";
import { clampMss, transportBytesOf, transportHeaderBytes } from "./transport.ts";
import { Verdict } from "./verdict.ts";

const vnetBytes = 10;
/** IPv6 with a fragment header. */
const longestEnvelope = 48;

/** What an `Inward` is made of. */
export interface InwardParts {
  readonly lookup: Lookup;
  readonly settings: ForwardSettings;
  readonly peers: Peers;
  /** Outer packets to peers. */
  readonly paths: Paths;
  /** Packets to hosts of the LAN. */
  readonly hosts: Paths;
  /** One number per reason, counted up; by default an array of its own. */
  readonly counts?: Float64Array;
}

export class Inward {
  /** How many errors may be sent; each takes one. The caller refills it. */
  tokens = 0;

  /** Where the host's packet is in the arena. */
  resultOffset = 0;
  resultLength = 0;
  /** Instead of `place`, the add-on may join it with those that follow: see forward.ts. */
  templated = false;
  /** Length of the tunnel header. */
  stripBytes = 0;
  protocol = 0;
  /** Sums of the pseudo headers without the length: in the tunnel, on the LAN. */
  seedIn = 0;
  seedOut = 0;
  /** After `ask`: the remote host that has no encoded address, left-aligned in 16 bytes; its reference. */
  readonly askedContext = new Uint8Array(16);
  readonly askedReference = new Uint8Array(16);
  /** After `answer`: the length of the error in `answer`. */
  answerLength = 0;
  /** Number in `Drop` after `drop` and `answer`. */
  reason = -1;
  readonly pieces = new Pieces();
  readonly counts: Float64Array;

  readonly #settings: ForwardSettings;
  readonly #peers: Peers;
  readonly #ends: Ends;
  readonly #paths: Paths;
  readonly #hosts: Paths;
  readonly #complaints: Complaints;
  readonly #quotes: Quotes;
  readonly #totals = new Totals();
  readonly #header = new Header();
  readonly #envelope = new Envelope();
  readonly #span = { at: 0, length: 0, cut: false };
  readonly #outer: { bytes: Uint8Array; at: number } = { bytes: new Uint8Array(16), at: 0 };
  /** Room for a virtio_net_hdr, then the IP header. */
  readonly #frame = new Uint8Array(vnetBytes + longestEnvelope);
  /** Views of the frame by length, with and without the room. */
  readonly #frames: Uint8Array[] = [];
  readonly #behind: Uint8Array[] = [];
  #envelopeBytes = 0;
  #transportAt = 0;
  #transportBytes = 0;
  #bodyBytes = 0;
  /** What the LAN takes of a packet that must be cut; 0: it passes whole. */
  #roomBytes = 0;
  #ours = 0;
  #their = 0;
  /** Type and code of an ICMP message; -1: it is none. */
  #told = -1;
  #id: number;

  constructor(parts: InwardParts) {
    const { lookup, settings, peers, paths, hosts, counts } = parts;
    const families = { lan: settings.lanFamily, tunnel: settings.tunnelFamily };
    this.#settings = settings;
    this.#peers = peers;
    this.#paths = paths;
    this.#hosts = hosts;
    this.#ends = new Ends(lookup, settings);
    this.#complaints = new Complaints(this.#ends, families);
    this.#quotes = new Quotes(this.#ends, families);
    this.#envelope.family = settings.lanFamily;
    this.#id = settings.firstId;
    this.counts = counts ?? new Float64Array(dropNames.length);
  }

  /** The error after `answer`: the first `answerLength` bytes. */
  get answer(): Uint8Array {
    return this.#complaints.bytes;
  }

  /** The IP header that `decide` made. The view stays, its bytes change with the next packet. */
  frame(): Uint8Array {
    const length = this.#envelopeBytes;
    this.#frames[length] ??= this.#frame.subarray(vnetBytes, vnetBytes + length);
    return this.#frames[length];
  }

  /** The same behind ten bytes for a virtio_net_hdr. */
  frameBehindVnet(): Uint8Array {
    const length = this.#envelopeBytes;
    this.#behind[length] ??= this.#frame.subarray(0, vnetBytes + length);
    return this.#behind[length];
  }

  /** Says which address the next packets come from: 4 or 16 bytes at `offset`, which must stay there meanwhile. */
  from(bytes: Uint8Array, offset: number): void {
    this.#outer.bytes = bytes;
    this.#outer.at = offset;
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

  /** Looks at the packet, which stays as it is. @returns send, ask, answer or drop. */
  decide(arena: Uint8Array, offset: number, length: number): Verdict {
    const header = this.#header;
    const ends = this.#ends;
    this.templated = false;
    this.answerLength = 0;
    this.reason = -1;
    this.#bodyBytes = 0;
    this.#roomBytes = 0;
    this.#span.at = offset;
    this.#span.length = length;
    const wrong = decodeHeader(header, arena, this.#span);
    if (wrong >= 0) return this.#drop(wrong);
    if (header.family !== this.#settings.tunnelFamily) return this.#drop(Drop.version);
    // One that is the whole packet is no fragment.
    header.fragmented = header.fragmentOffset > 0 || header.more;
    this.stripBytes = header.length;
    this.protocol = header.protocol;
    this.#transportAt = offset + header.length;
    this.#transportBytes = length - header.length;
    if (!this.#isHonest()) return this.#drop(Drop.spoofed);
    if (kindOf(header.source, header.sourceAt, header.family) !== Kind.host) return this.#drop(Drop.source);
    if (!ends.isOurContext(header.destination, header.destinationAt)) return this.#drop(Drop.stranger);
    const illegal = this.#classify(arena);
    if (illegal >= 0) return this.#drop(illegal);

    const their = ends.theirByReference(header.source, header.sourceAt, header.sourceReference);
    this.#their = their;
    if (their === -1 && !this.#peers.allows(header.source, header.sourceAt)) return this.#drop(Drop.refused);
    const ours = ends.oursByReference(header.destinationReference);
    if (ours === -1) return this.#refuse(arena, Drop.unmapped, Told.net);
    if (!this.#isReachable(ours)) return this.#drop(Drop.forbidden);
    if (header.ttl === 0) return this.#drop(Drop.expired);
    if (this.#settings.decrementTtl && header.ttl === 1)
      return this.#refuse(arena, Drop.expired, Told.expired);
    const six = this.#settings.lanFamily === 6;
    if (header.protocol === UDP && six && header.fragmented && header.fragmentOffset === 0) {
      // The checksum that an IPv6 host wants covers what isn't here.
      if (get16(arena, this.#transportAt + 6) === 0) return this.#drop(Drop.checksum);
    }
    if (this.#told >= 0 && !isEcho(this.#told) && !this.#translate(arena)) return Verdict.drop;
    if (their === -1) return this.#ask();
    ends.touch(ours);
    ends.touch(their);
    this.#ours = ours;
    this.#writeEnvelope(this.#bodyBytes || this.#transportBytes);
    if (this.#bodyBytes === 0) this.#fit(arena);
    return Verdict.send;
  }

  /** Writes what `decide` let through. @returns send, pieces, hold, or drop. */
  place(arena: Uint8Array): Verdict {
    const length = this.#envelopeBytes;
    let transport = this.#transportAt;
    if (this.#bodyBytes > 0) {
      // Ends where the packet ended, or begins where it began, whichever is earlier.
      const end = transport + this.#transportBytes;
      transport = Math.min(this.#span.at + length, end - this.#bodyBytes);
      arena.set(this.#quotes.body.subarray(0, this.#bodyBytes), transport);
      if (this.#settings.lanFamily === 6) this.#finishError(arena, transport);
    } else {
      this.#adjust(arena);
    }
    const at = transport - length;
    for (let index = 0; index < length; index++) arena[at + index] = this.#frame[vnetBytes + index]!;
    this.resultOffset = at;
    this.resultLength = length + (this.#bodyBytes || this.#transportBytes);
    if (this.#header.fragmented && this.protocol === ICMP && this.#settings.lanFamily === 6)
      return this.#total(arena);
    return this.#roomBytes === 0 ? Verdict.send : this.#cut(arena);
  }

  /** Whether the source context is the address that the packet came from. None at all stands for it. */
  #isHonest(): boolean {
    const header = this.#header;
    const { bytes, at } = this.#outer;
    if (this.#ends.isNoContext(header.source, header.sourceAt)) {
      header.source = bytes;
      header.sourceAt = at;
      return true;
    }
    const length = this.#ends.tunnelBytes;
    for (let index = 0; index < length; index++) {
      if (header.source[header.sourceAt + index] !== bytes[at + index]) return false;
    }
    return true;
  }

  /** Finds out what an ICMP message is. @returns -1, or why the packet cannot go. */
  #classify(arena: Uint8Array): number {
    const { protocol, fragmented, fragmentOffset } = this.#header;
    this.#told = -1;
    if (protocol === ICMPV6) return Drop.icmp;
    if (isExtension(protocol)) return Drop.malformed;
    if (protocol !== ICMP) {
      return fragmented || this.#transportBytes >= transportHeaderBytes(protocol) ? -1 : Drop.short;
    }
    if (fragmentOffset > 0) return -1;
    if (this.#transportBytes < 8) return Drop.short;
    this.#told = get16(arena, this.#transportAt);
    if (fromTunnel(this.#settings.lanFamily, this.#told) < 0) return Drop.icmp;
    return fragmented && !isEcho(this.#told) ? Drop.fragment : -1;
  }

  /** Whether remote hosts may send to a host of ours. Answers may always reach the gateway. */
  #isReachable(ours: number): boolean {
    if (ours === OWN) {
      if (this.#settings.admitRouter) return true;
      return this.protocol === ICMP && this.#told !== Told.echo;
    }
    const bytes = this.#ends.bytes(ours);
    const at = ours + Field.address;
    if (kindOf(bytes, at, this.#settings.lanFamily) !== Kind.host) return false;
    return !this.#ends.isEncoded(bytes, at) && !this.#ends.isForbidden(bytes, at);
  }

  #ask(): Verdict {
    const header = this.#header;
    const length = this.#ends.tunnelBytes;
    this.askedContext.fill(0);
    for (let index = 0; index < length; index++)
      this.askedContext[index] = header.source[header.sourceAt + index]!;
    this.askedReference.set(header.sourceReference);
    return Verdict.ask;
  }

  #writeEnvelope(transportBytes: number): void {
    const header = this.#header;
    const envelope = this.#envelope;
    const ends = this.#ends;
    const six = envelope.family === 6;
    envelope.ttl = this.#settings.decrementTtl ? header.ttl - 1 : header.ttl;
    envelope.protocol = header.protocol === ICMP && six ? ICMPV6 : header.protocol;
    envelope.dontFragment = header.dontFragment;
    envelope.fragmented = header.fragmented;
    envelope.fragmentOffset = header.fragmentOffset;
    envelope.more = header.more;
    envelope.id = six ? header.id : header.id & 0xffff;
    if (!header.fragmented) {
      // A router behind us may cut a packet that has no DF: its pieces must not be taken for another's.
      envelope.id = six || header.dontFragment ? 0 : this.#nextId() & 0xffff;
    }
    envelope.source = ends.bytes(this.#their);
    envelope.sourceAt = ends.at(this.#their) + Field.address;
    envelope.destination = ends.bytes(this.#ours);
    envelope.destinationAt = ends.at(this.#ours) + Field.address;
    envelope.transportBytes = transportBytes;
    this.#envelopeBytes = writeEnvelope(envelope, this.#frame, vnetBytes);
    const sum = sumOf(this.#frame, vnetBytes + (six ? 8 : 12), 2 * ends.lanBytes);
    this.seedIn = header.protocol;
    this.seedOut = fold(sum + envelope.protocol);
  }

  /** An ICMP error: its message is made anew. Counts the drop if it cannot be. */
  #translate(arena: Uint8Array): boolean {
    const [at, length] = [this.#transportAt, this.#transportBytes];
    // Upstream's own sum of an odd number of bytes is wrong; UDP's outer one covers it.
    if ((length & 1) === 0 && fold(sumOf(arena, at, length)) !== 0xffff) {
      this.#drop(Drop.checksum);
      return false;
    }
    this.#bodyBytes = this.#quotes.inward({ bytes: arena, at, length, kind: this.#told }, this.#outer);
    if (this.#bodyBytes === 0) this.#drop(Drop.quote);
    return this.#bodyBytes > 0;
  }

  /** What else `place` has to do, and whether the add-on may do it. */
  #fit(arena: Uint8Array): void {
    const header = this.#header;
    const { protocol } = header;
    const [at, length] = [this.#transportAt, this.#transportBytes];
    const six = this.#settings.lanFamily === 6;
    if (six && !header.dontFragment && this.#envelopeBytes + length > this.#hosts.smallestBytes) {
      const mtu = this.#hosts.mtuOf(this.#ends.bytes(this.#ours), this.#ends.at(this.#ours) + Field.address);
      if (this.#envelopeBytes + length > mtu) this.#roomBytes = mtu;
    }
    if (header.fragmented || this.#roomBytes > 0) return;
    if (protocol === TCP) {
      const syn = (arena[at + 13]! & 2) !== 0;
      if (syn && this.#settings.clampMss) this.#clamp(arena);
      this.templated = !syn && transportBytesOf(arena, { protocol, at, length }) > 0;
    } else if (protocol === UDP) {
      this.templated = get16(arena, at + 6) !== 0;
    }
  }

  /** Lowers the MSS of a SYN to what fits the way back, whose header is as long as this one. */
  #clamp(arena: Uint8Array): void {
    const header = this.#header;
    const overhead = outerBytes[this.#settings.tunnelFamily];
    const room = this.#paths.mtuOf(header.source, header.sourceAt) - overhead;
    const most = room - header.length - 20;
    clampMss(arena, { at: this.#transportAt, length: this.#transportBytes, most, begun: false });
  }

  /** Puts the addresses into the transport checksum; of ICMP, makes ICMPv6 where the LAN is IPv6. */
  #adjust(arena: Uint8Array): void {
    const header = this.#header;
    const { protocol } = header;
    const [start, length] = [this.#transportAt, this.#transportBytes];
    const six = this.#settings.lanFamily === 6;
    if (protocol === ICMP) {
      if (six && header.fragmentOffset === 0) this.#adjustEcho(arena);
      return;
    }
    const position = checksumAt(protocol);
    const field = start + position - header.fragmentOffset;
    if (position < 0 || field < start || field + 2 > start + length) return;
    const value = get16(arena, field);
    const addresses = fold(this.seedOut + (~protocol & 0xffff));
    if (protocol === UDP && value === 0) {
      if (six) this.#compute(arena, field);
      return;
    }
    const next = adjusted(value, 0, addresses);
    put16(arena, field, protocol === UDP && next === 0 ? 0xffff : next);
  }

  /** The checksum of a UDP packet that came without. */
  #compute(arena: Uint8Array, field: number): void {
    const [at, length] = [this.#transportAt, this.#transportBytes];
    const sum = fold(fold(sumOf(arena, at, length)) + this.seedOut + length);
    put16(arena, field, sum === 0xffff ? 0xffff : ~sum & 0xffff);
  }

  #adjustEcho(arena: Uint8Array): void {
    const at = this.#transportAt;
    const was = get16(arena, at);
    const kind = fromTunnel(6, was);
    const total = this.#header.fragmented ? 0 : this.#transportBytes;
    put16(arena, at, kind);
    put16(arena, at + 2, adjusted(get16(arena, at + 2), was, fold(this.seedOut + total + kind)));
  }

  /** Adds the pseudo header to the checksum of a translated error. */
  #finishError(arena: Uint8Array, at: number): void {
    const field = get16(arena, at + 2);
    put16(arena, at + 2, adjusted(field, 0, fold(this.seedOut + this.#bodyBytes)));
  }

  /** A fragment of an echo for an IPv6 host: its checksum covers the length of the whole, which the last one tells. */
  #total(arena: Uint8Array): Verdict {
    const { fragmentOffset, more, id } = this.#header;
    const key = { source: this.#their, destination: this.#ours, id };
    const end = this.resultOffset + this.resultLength;
    if (fragmentOffset === 0) {
      const total = this.#totals.first(key, arena.subarray(this.resultOffset, end));
      if (total < 0) return Verdict.hold;
      const field = this.resultOffset + this.#envelopeBytes + 2;
      put16(arena, field, adjusted(get16(arena, field), 0, total));
    } else if (!more) {
      const total = fragmentOffset + this.#transportBytes;
      const first = this.#totals.last(key, total);
      if (first !== undefined) {
        const field = this.#envelopeBytes + 2;
        put16(first, field, adjusted(get16(first, field), 0, total));
        this.pieces.clear();
        this.pieces.add(first, 0, first.length);
        this.pieces.add(arena, this.resultOffset, this.resultLength);
        return Verdict.pieces;
      }
    }
    return this.#roomBytes === 0 ? Verdict.send : this.#cut(arena);
  }

  /** Sends an IPv6 packet that the LAN doesn't take in fragments. */
  #cut(arena: Uint8Array): Verdict {
    const envelope = this.#envelope;
    const from = this.resultOffset + this.#envelopeBytes;
    const end = this.resultOffset + this.resultLength;
    if (!envelope.fragmented) {
      envelope.fragmented = true;
      envelope.fragmentOffset = 0;
      envelope.more = false;
      envelope.id = this.#nextId();
      this.#envelopeBytes = writeEnvelope(envelope, this.#frame, vnetBytes);
    }
    this.pieces.clear();
    const head = {
      ...{ bytes: this.frame(), length: this.#envelopeBytes, fragmentAt: 40, lengthAt: 4 },
      roomBytes: this.#roomBytes,
    };
    return this.pieces.cut(arena.subarray(from, end), head) ? Verdict.pieces : this.#drop(Drop.big);
  }

  /** No error is sent about an error, nor about a later fragment. */
  #refuse(arena: Uint8Array, reason: number, told: number): Verdict {
    this.#drop(reason);
    const error = this.#told >= 0 && !isEcho(this.#told);
    const header = this.#header;
    if (error || header.fragmentOffset > 0) return Verdict.drop;
    if (this.#their === -1 && !this.#peers.knows(header.source, header.sourceAt)) {
      this.counts[Drop.unknown]!++;
      return Verdict.drop;
    }
    if (this.tokens < 1) {
      this.counts[Drop.rate]!++;
      return Verdict.drop;
    }
    this.tokens--;
    const { at, length } = this.#span;
    this.answerLength = this.#complaints.toTunnel({ kind: told, rest: 0, bytes: arena, at, length }, header);
    return Verdict.answer;
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
