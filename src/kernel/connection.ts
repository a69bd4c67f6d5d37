/**
 * One connection as the kernel's connection tracking tells it (ctnetlink), read without making garbage.
 *
 *     +--------+--------+----------------+
 *     | family | 0      | 0              |  then attributes, their numbers in network order:
 *     +--------+--------+----------------+
 *     TUPLE_ORIG  { IP { source, destination }, PROTO { number, ports | icmp } }   as the opener sent it
 *     TUPLE_REPLY { the same }                                                     as answers come in
 *     STATUS, ID, ZONE, TIMESTAMP { start }
 *     COUNTERS_ORIG { packets, bytes }, COUNTERS_REPLY { packets, bytes }          64 bits each
 *
 * A reader looks at one message at a time: first at what tells connections and progress apart (key, counters),
 * and decodes the addresses only when asked, since most of a table has not changed since it was last read. A
 * hundred thousand of them are read in a row, so this does not go through `Attributes` but walks the bytes.
 *
 * Source: linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nf_conntrack_common.h.
 */

import type { Address, Family } from "../lib/address.ts";
import { Attributes, concat, encodeAttributes, host, network, padded } from "./attribute.ts";
import type { Message, Question } from "./netlink.ts";
import { AddressTexts, wordAt } from "./texts.ts";

export interface Tuple {
  readonly source: Address;
  readonly destination: Address;
  /** 0 for protocols without ports. */
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/**
 * A connection. Its own tuple is the original one: what the opener sent, before any translation.
 *
 * The true ends are `source` and `reply.source`, whatever translation is between them: with masquerading
 * `source` is the LAN address and `reply.source` the server; with a port forward `source` is the outside client
 * and `reply.source` the LAN server that answers. `destination` is whom the opener believes to talk to,
 * `reply.destination` as whom the answering end sees it.
 */
export interface Connection extends Tuple {
  /** The kernel's number for it: unique at any moment but for rare accidents, and used again later. */
  readonly id: number;
  readonly zone: number;
  readonly family: Family;
  /** IP protocol number. */
  readonly protocol: number;
  /** Of the packet that opened it; ICMP and ICMPv6 only. */
  readonly icmpType?: number | undefined;
  readonly icmpCode?: number | undefined;
  readonly reply: Tuple;
  /** IPS_… bits, see `connectionStatus`. */
  readonly status: number;
  /** Milliseconds since 1970; only where nf_conntrack_timestamp is on. */
  readonly startedAt?: number | undefined;
}

/** Bits of `Connection.status`. */
export const connectionStatus = {
  seenReply: 1 << 1,
  assured: 1 << 2,
  sourceNat: 1 << 4,
  destinationNat: 1 << 5,
  /** It has ended; the kernel tells of that, and may still list it for a moment. */
  dying: 1 << 9,
  /** A flowtable forwards it: rules of the forward hook don't see its packets. */
  offload: 1 << 14,
  hardwareOffload: 1 << 15,
} as const;

/** Message types: subsystem 1, IPCTNL_MSG_CT_…. An answer is "new" too. */
export const connectionMessage = { new: 0x100, get: 0x101, delete: 0x102 } as const;

/** Asks for all connections of all families, and leaves their counters as they are. */
export const readConnections: Question = {
  type: connectionMessage.get,
  payload: new Uint8Array(4),
  verb: "read connections",
};

/** CTA_…, CTA_TUPLE_…, CTA_IP_…, CTA_PROTO_…, CTA_COUNTERS_…, CTA_TIMESTAMP_… */
const attribute = {
  ...{ original: 1, reply: 2, status: 3, countersOriginal: 9, countersReply: 10 },
  ...{ id: 12, zone: 18, timestamp: 20 },
} as const;
const tupleAttribute = { ip: 1, protocol: 2 } as const;
const ipAttribute = { source4: 1, destination4: 2, source6: 3, destination6: 4 } as const;
const protocolAttribute = { number: 1, sourcePort: 2, destinationPort: 3, icmpType: 5, icmpCode: 6 } as const;
/** ICMPv6 has numbers of its own, this much higher. */
const icmp6Offset = 3;
const counterAttribute = { packets: 1, bytes: 2 } as const;
const timestampStart = 1;
const [inet, inet6] = [2, 10];
const headerBytes = 4;
/** Without the flags for "nested" and "in network byte order". */
const typeMask = 0x3fff;

/** Words of `ConnectionReader.counters`: each counter in two halves, the high one first. */
export const counterWords = { packetsOut: 0, bytesOut: 2, packetsIn: 4, bytesIn: 6, length: 8 } as const;

const texts = { 4: new AddressTexts(4), 6: new AddressTexts(6) } as const;

export class ConnectionReader {
  /** Counters of the message read, see `counterWords`; all 0 if it has none. */
  readonly counters = new Uint32Array(counterWords.length);
  /** Whether the kernel counts this connection. It does if accounting was on when it was opened. */
  counted = false;
  /** Tells connections apart that are there at the same time: from id and original tuple, an exact integer. */
  key = 0;
  status = 0;
  #family: Family = 4;
  #bytes: Uint8Array = new Uint8Array(0);
  /** Where the attributes of the message begin and end. */
  #start = 0;
  #end = 0;
  readonly #original = new TupleReader();
  readonly #reply = new TupleReader();

  /** Looks at a message. @returns false if it is no connection of IPv4 or IPv6, or malformed. */
  read({ bytes, start, end }: Message): boolean {
    const family = start + headerBytes <= end ? bytes[start] : undefined;
    if ((family !== inet && family !== inet6) || end > bytes.length) return false;
    this.#family = family === inet ? 4 : 6;
    this.#bytes = bytes;
    this.#start = start + headerBytes;
    this.#end = end;
    const { counters } = this;
    for (let word = 0; word < counterWords.length; word++) counters[word] = 0;
    this.status = 0;
    let hash = -1;
    let id = 0;
    let out = false;
    let back = false;
    let at = this.#start;
    while (at < end) {
      const size = sizeAt(bytes, at, end);
      if (size === 0) return false;
      const value = at + headerBytes;
      const type = host.read16(bytes, at + 2) & typeMask;
      if (type === attribute.original) hash = hashOf(bytes, value, at + size);
      else if (type === attribute.countersOriginal)
        out = this.#count(value, at + size, counterWords.packetsOut);
      else if (type === attribute.countersReply) back = this.#count(value, at + size, counterWords.packetsIn);
      else if (type === attribute.status && size >= 8) this.status = network.read32(bytes, value);
      else if (type === attribute.id && size >= 8) id = network.read32(bytes, value);
      at += padded(size);
    }
    if (hash < 0) return false;
    // Ids are hashes of 32 bits: among the 65,536 connections of a full table, two of a kind are to be expected.
    this.key = id * 0x200000 + (hash & 0x1fffff);
    this.counted = out && back;
    if (!this.counted) counters.fill(0);
    return true;
  }

  /** The connection in full, or undefined if its tuples are malformed. */
  decode(): Connection | undefined {
    const bytes = this.#bytes;
    const family = this.#family;
    this.#original.family = family;
    this.#reply.family = family;
    let id = 0;
    let zone = 0;
    let startedAt: number | undefined;
    let hasOriginal = false;
    let hasReply = false;
    for (let at = this.#start; at < this.#end; ) {
      const size = sizeAt(bytes, at, this.#end);
      const value = at + headerBytes;
      const type = host.read16(bytes, at + 2) & typeMask;
      if (type === attribute.original) hasOriginal = this.#original.read(bytes, value, at + size);
      else if (type === attribute.reply) hasReply = this.#reply.read(bytes, value, at + size);
      else if (type === attribute.id && size >= 8) id = network.read32(bytes, value);
      else if (type === attribute.zone && size >= 6) zone = network.read16(bytes, value);
      else if (type === attribute.timestamp) startedAt = startOf(bytes, value, at + size);
      at += padded(size);
    }
    const original = this.#original;
    const reply = this.#reply;
    if (!hasOriginal || !hasReply || original.protocol < 0) return undefined;
    const addresses = texts[family];
    // Written out, here and below: an object put together of others costs ten times as much.
    return {
      id,
      zone,
      family,
      protocol: original.protocol,
      source: addresses.read(bytes, original.sourceAt),
      destination: addresses.read(bytes, original.destinationAt),
      sourcePort: original.sourcePort,
      destinationPort: original.destinationPort,
      icmpType: original.icmpType,
      icmpCode: original.icmpCode,
      reply: {
        source: addresses.read(bytes, reply.sourceAt),
        destination: addresses.read(bytes, reply.destinationAt),
        sourcePort: reply.sourcePort,
        destinationPort: reply.destinationPort,
      },
      status: this.status,
      startedAt,
    };
  }

  /** The payload that names this connection and no other to the kernel, whatever its protocol is. */
  encodeName(): Uint8Array {
    const top = new Attributes(attribute.zone);
    top.read(this.#bytes, this.#start, this.#end);
    const zone = top.bytes(attribute.zone);
    const id = top.bytes(attribute.id);
    return concat([
      Uint8Array.of(this.#family === 4 ? inet : inet6, 0, 0, 0),
      top.copy(attribute.original)!,
      encodeAttributes(id ? [[attribute.id, id]] : []),
      encodeAttributes(zone ? [[attribute.zone, zone]] : []),
    ]);
  }

  /** Reads packets and bytes of one direction into `counters` from `word` on. */
  #count(start: number, end: number, word: number): boolean {
    const bytes = this.#bytes;
    let seen = 0;
    for (let at = start; at < end; ) {
      const size = sizeAt(bytes, at, end);
      if (size === 0) return false;
      const type = host.read16(bytes, at + 2) & typeMask;
      if ((type === counterAttribute.packets || type === counterAttribute.bytes) && size >= 12) {
        const to = type === counterAttribute.packets ? word : word + 2;
        this.counters[to] = network.read32(bytes, at + headerBytes);
        this.counters[to + 1] = network.read32(bytes, at + headerBytes + 4);
        seen |= type;
      }
      at += padded(size);
    }
    return seen === (counterAttribute.packets | counterAttribute.bytes);
  }
}

/** One tuple of a message: where its addresses lie, and the numbers of its protocol. */
class TupleReader {
  family: Family = 4;
  /** −1 if absent, as all of them. */
  sourceAt = -1;
  destinationAt = -1;
  protocol = -1;
  sourcePort = 0;
  destinationPort = 0;
  icmpType: number | undefined;
  icmpCode: number | undefined;

  /** @returns false if it is malformed, or has not both addresses and a protocol's part. */
  read(bytes: Uint8Array, start: number, end: number): boolean {
    this.sourceAt = -1;
    this.destinationAt = -1;
    this.protocol = -1;
    this.sourcePort = 0;
    this.destinationPort = 0;
    this.icmpType = undefined;
    this.icmpCode = undefined;
    let hasProtocol = false;
    for (let at = start; at < end; ) {
      const size = sizeAt(bytes, at, end);
      if (size === 0) return false;
      const type = host.read16(bytes, at + 2) & typeMask;
      const value = at + headerBytes;
      if (type === tupleAttribute.ip && !this.#readAddresses(bytes, value, at + size)) return false;
      if (type === tupleAttribute.protocol) {
        if (!this.#readProtocol(bytes, value, at + size)) return false;
        hasProtocol = true;
      }
      at += padded(size);
    }
    return hasProtocol && this.sourceAt >= 0 && this.destinationAt >= 0;
  }

  #readAddresses(bytes: Uint8Array, start: number, end: number): boolean {
    const source = this.family === 4 ? ipAttribute.source4 : ipAttribute.source6;
    const size = this.family === 4 ? 4 : 16;
    for (let at = start; at < end; ) {
      const length = sizeAt(bytes, at, end);
      if (length === 0) return false;
      const type = host.read16(bytes, at + 2) & typeMask;
      if (length === headerBytes + size) {
        if (type === source) this.sourceAt = at + headerBytes;
        else if (type === source + 1) this.destinationAt = at + headerBytes;
      }
      at += padded(length);
    }
    return true;
  }

  #readProtocol(bytes: Uint8Array, start: number, end: number): boolean {
    const icmp = this.family === 4 ? 0 : icmp6Offset;
    for (let at = start; at < end; ) {
      const size = sizeAt(bytes, at, end);
      if (size === 0) return false;
      const value = at + headerBytes;
      const type = host.read16(bytes, at + 2) & typeMask;
      if (size > headerBytes) {
        if (type === protocolAttribute.number) this.protocol = bytes[value]!;
        else if (type === protocolAttribute.icmpType + icmp) this.icmpType = bytes[value]!;
        else if (type === protocolAttribute.icmpCode + icmp) this.icmpCode = bytes[value]!;
      }
      if (size >= headerBytes + 2) {
        if (type === protocolAttribute.sourcePort) this.sourcePort = network.read16(bytes, value);
        else if (type === protocolAttribute.destinationPort)
          this.destinationPort = network.read16(bytes, value);
      }
      at += padded(size);
    }
    return true;
  }
}

/** Size of the attribute at `at`, header included; 0 if it does not fit. */
function sizeAt(bytes: Uint8Array, at: number, end: number): number {
  if (end - at < headerBytes) return 0;
  const size = host.read16(bytes, at);
  return size < headerBytes || size > end - at ? 0 : size;
}

/** Of bytes that the kernel writes the same for the same tuple each time; not negative. */
function hashOf(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0;
  for (let at = start; at + 4 <= end; at += 4) {
    hash = Math.imul(hash ^ wordAt(bytes, at), 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash >>> 0;
}

/** When a connection began, from the attribute for its times. */
function startOf(bytes: Uint8Array, start: number, end: number): number | undefined {
  const numbers = new Attributes(timestampStart);
  if (!numbers.read(bytes, start, end) || numbers.size(timestampStart) < 8) return undefined;
  const at = numbers.start(timestampStart);
  const nanoseconds = network.read32(bytes, at) * 2 ** 32 + network.read32(bytes, at + 4);
  return Math.floor(nanoseconds / 1e6);
}
