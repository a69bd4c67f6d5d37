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
 * and decodes the addresses only when asked, since most of a table has not changed since it was last read.
 *
 * Source: linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nf_conntrack_common.h.
 */

import type { Address, Family } from "../lib/address.ts";
import { Attributes, concat, encodeAttributes, network } from "./attribute.ts";
import type { Message, Question } from "./netlink.ts";

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

/** Words of `ConnectionReader.counters`: each counter in two halves, the high one first. */
export const counterWords = { packetsOut: 0, bytesOut: 2, packetsIn: 4, bytesIn: 6, length: 8 } as const;

export class ConnectionReader {
  /** Counters of the message read, see `counterWords`; all 0 if it has none. */
  readonly counters = new Uint32Array(counterWords.length);
  /** Whether the kernel counts this connection. It does if accounting was on when it was opened. */
  counted = false;
  /** Tells connections apart that are there at the same time: from id and original tuple, an exact integer. */
  key = 0;
  status = 0;
  #family: Family = 4;
  readonly #top = new Attributes(20);
  readonly #tuple = new Attributes(2);
  readonly #ip = new Attributes(4);
  readonly #protocol = new Attributes(9);
  readonly #answer = new Attributes(4);
  readonly #numbers = new Attributes(2);
  #bytes: Uint8Array = new Uint8Array(0);

  /** Looks at a message. @returns false if it is no connection of IPv4 or IPv6, or malformed. */
  read({ bytes, start, end }: Message): boolean {
    const family = start + headerBytes <= end ? bytes[start] : undefined;
    if (family !== inet && family !== inet6) return false;
    const top = this.#top;
    if (!top.read(bytes, start + headerBytes, end) || !top.has(attribute.original)) return false;
    this.#bytes = bytes;
    this.#family = family === inet ? 4 : 6;
    this.status = top.number32(attribute.status, network) ?? 0;
    const id = top.number32(attribute.id, network) ?? 0;
    // Ids are hashes of 32 bits: among the 65,536 connections of a full table, two of a kind are to be expected.
    this.key = id * 0x200000 + (this.#hash(attribute.original) & 0x1fffff);
    this.counters.fill(0);
    const out = this.#count(attribute.countersOriginal, counterWords.packetsOut);
    const back = this.#count(attribute.countersReply, counterWords.packetsIn);
    this.counted = out && back;
    return true;
  }

  /** The connection in full, or undefined if its tuples are malformed. */
  decode(): Connection | undefined {
    const [top, ip, answer, protocol] = [this.#top, this.#ip, this.#answer, this.#protocol];
    const v4 = this.#family === 4;
    const sourceType = v4 ? ipAttribute.source4 : ipAttribute.source6;
    const destinationType = v4 ? ipAttribute.destination4 : ipAttribute.destination6;
    const isAddress = (level: Attributes, type: number) => level.size(type) === (v4 ? 4 : 16);

    if (!this.#readTuple(attribute.original, ip)) return undefined;
    const number = protocol.byte(protocolAttribute.number);
    if (number === undefined || !isAddress(ip, sourceType) || !isAddress(ip, destinationType))
      return undefined;
    const source = ip.address(sourceType)!;
    const destination = ip.address(destinationType)!;
    const sourcePort = this.#port(protocolAttribute.sourcePort);
    const destinationPort = this.#port(protocolAttribute.destinationPort);
    const icmpType = protocol.byte(protocolAttribute.icmpType + (v4 ? 0 : icmp6Offset));
    const icmpCode = protocol.byte(protocolAttribute.icmpCode + (v4 ? 0 : icmp6Offset));

    if (!this.#readTuple(attribute.reply, answer)) return undefined;
    if (!isAddress(answer, sourceType) || !isAddress(answer, destinationType)) return undefined;
    // Mostly there is no translation and the reply is the mirror image: the same texts serve again.
    const reply = {
      source: answer.same(sourceType, ip, destinationType) ? destination : answer.address(sourceType)!,
      destination: answer.same(destinationType, ip, sourceType) ? source : answer.address(destinationType)!,
      sourcePort: this.#port(protocolAttribute.sourcePort),
      destinationPort: this.#port(protocolAttribute.destinationPort),
    };
    return {
      id: top.number32(attribute.id, network) ?? 0,
      zone: top.number16(attribute.zone, network) ?? 0,
      family: this.#family,
      protocol: number,
      source,
      destination,
      sourcePort,
      destinationPort,
      icmpType,
      icmpCode,
      reply,
      status: this.status,
      startedAt: this.#startedAt(),
    };
  }

  /** The payload that names this connection and no other to the kernel, whatever its protocol is. */
  encodeName(): Uint8Array {
    const zone = this.#top.bytes(attribute.zone);
    const id = this.#top.bytes(attribute.id);
    return concat([
      Uint8Array.of(this.#family === 4 ? inet : inet6, 0, 0, 0),
      this.#top.copy(attribute.original)!,
      encodeAttributes(id ? [[attribute.id, id]] : []),
      encodeAttributes(zone ? [[attribute.zone, zone]] : []),
    ]);
  }

  #readTuple(type: number, ip: Attributes): boolean {
    return (
      this.#tuple.readNested(this.#top, type) &&
      ip.readNested(this.#tuple, tupleAttribute.ip) &&
      this.#protocol.readNested(this.#tuple, tupleAttribute.protocol)
    );
  }

  #port(type: number): number {
    return this.#protocol.number16(type, network) ?? 0;
  }

  /** Reads packets and bytes of one direction into `counters` from `word` on. */
  #count(type: number, word: number): boolean {
    const numbers = this.#numbers;
    if (!numbers.readNested(this.#top, type)) return false;
    if (numbers.size(counterAttribute.packets) < 8 || numbers.size(counterAttribute.bytes) < 8) return false;
    this.#copy64(numbers.start(counterAttribute.packets), word);
    this.#copy64(numbers.start(counterAttribute.bytes), word + 2);
    return true;
  }

  #copy64(at: number, word: number): void {
    this.counters[word] = network.read32(this.#bytes, at);
    this.counters[word + 1] = network.read32(this.#bytes, at + 4);
  }

  #startedAt(): number | undefined {
    const numbers = this.#numbers;
    numbers.readNested(this.#top, attribute.timestamp);
    if (numbers.size(timestampStart) < 8) return undefined;
    const at = numbers.start(timestampStart);
    const nanoseconds = network.read32(this.#bytes, at) * 2 ** 32 + network.read32(this.#bytes, at + 4);
    return Math.floor(nanoseconds / 1e6);
  }

  /** FNV-1a of an attribute's value: the kernel writes the same tuple as the same bytes each time. */
  #hash(type: number): number {
    const start = this.#top.start(type);
    const end = start + this.#top.size(type);
    let hash = 0x811c9dc5;
    for (let at = start; at < end; at++) hash = Math.imul(hash ^ this.#bytes[at]!, 0x01000193);
    return (hash ^ (hash >>> 15)) >>> 0;
  }
}
