/**
 * Two gateways in memory, packets to send between them, and a second opinion on whether packets are right.
 *
 * Everything here is written the long way on purpose: mappings are Maps of text, checksums are summed word by word.
 */

import {
  type ForwardSettings,
  headroomBytes,
  Inward,
  Outward,
  Paths,
  type Peers,
  Verdict,
} from "../../src/ipref/forward.ts";
import { Field, type Lookup } from "../../src/ipref/lookup.ts";
import type { Address, Family } from "../../src/lib/address.ts";
import { encodeAddress } from "../../src/lib/address.ts";

export const [ICMP, TCP, UDP, ICMPV6] = [1, 6, 17, 58];

const hex = (bytes: Uint8Array) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const key = (bytes: Uint8Array, at: number, length: number) => hex(bytes.subarray(at, at + length));

/** 16 bytes of a number. */
export function reference(value: bigint): Uint8Array {
  return Uint8Array.from({ length: 16 }, (_, index) => Number((value >> BigInt(8 * (15 - index))) & 255n));
}

export const address = (text: string) => encodeAddress(text as Address);

/** Mappings as text in Maps. */
export class Records implements Lookup {
  readonly bytes = new Uint8Array(48 * 64);
  touched = 0;
  #count = 0;
  readonly #ours = new Map<string, number>();
  readonly #their = new Map<string, number>();
  readonly #lan: number;
  readonly #tunnel: number;

  constructor(lanFamily: Family, tunnelFamily: Family) {
    this.#lan = lanFamily === 4 ? 4 : 16;
    this.#tunnel = tunnelFamily === 4 ? 4 : 16;
  }

  addTheir(encoded: string, context: string, value: bigint): void {
    const record = this.#add(address(encoded), address(context), reference(value));
    this.#their.set(hex(address(encoded)), record);
    this.#their.set(hex(address(context)) + hex(reference(value)), record);
  }

  addOurs(host: string, value: bigint): void {
    const record = this.#add(address(host), new Uint8Array(0), reference(value));
    this.#ours.set(hex(address(host)), record);
    this.#ours.set(hex(reference(value)), record);
  }

  #add(host: Uint8Array, context: Uint8Array, value: Uint8Array): number {
    const record = 48 * this.#count++;
    this.bytes.set(host, record + Field.address);
    this.bytes.set(context, record + Field.context);
    this.bytes.set(value, record + Field.reference);
    return record;
  }

  theirByAddress(packet: Uint8Array, offset: number): number {
    return this.#their.get(key(packet, offset, this.#lan)) ?? -1;
  }

  theirByReference(context: Uint8Array, contextOffset: number, value: Uint8Array): number {
    return this.#their.get(key(context, contextOffset, this.#tunnel) + hex(value)) ?? -1;
  }

  oursByAddress(packet: Uint8Array, offset: number): number {
    return this.#ours.get(key(packet, offset, this.#lan)) ?? -1;
  }

  oursByReference(value: Uint8Array): number {
    return this.#ours.get(hex(value)) ?? -1;
  }

  touch(): void {
    this.touched++;
  }
}

/** The addresses of one side. */
export interface Side {
  readonly net: string;
  readonly netLength: number;
  readonly gateway: string;
  readonly host: string;
  /** Encoded addresses of the other side's host and gateway. */
  readonly theirHost: string;
  readonly theirGateway: string;
  readonly context: string;
  readonly reference: bigint;
}

const lans = {
  a4: { net: "10.240.0.0", netLength: 12, gateway: "10.240.0.1", host: "192.168.97.11" },
  a6: { net: "fdea::", netLength: 64, gateway: "fdea::1", host: "fd97::11" },
  b4: { net: "10.240.0.0", netLength: 12, gateway: "10.240.0.1", host: "192.168.98.22" },
  b6: { net: "fdea::", netLength: 64, gateway: "fdea::1", host: "fd98::22" },
};

/** What the recordings have on both sides. */
export function sides(lanA: Family, tunnel: Family, lanB: Family): { readonly a: Side; readonly b: Side } {
  const four = tunnel === 4;
  return {
    a: {
      ...lans[`a${lanA}`],
      theirHost: lanA === 4 ? "10.248.2.222" : "fdea::2:222",
      theirGateway: lanA === 4 ? "10.248.2.1" : "fdea::2:1",
      context: four ? "198.51.100.97" : "2001:db8:a::97",
      reference: 2711n,
    },
    b: {
      ...lans[`b${lanB}`],
      theirHost: lanB === 4 ? "10.255.1.111" : "fdea::1:111",
      theirGateway: lanB === 4 ? "10.255.1.1" : "fdea::1:1",
      context: four ? "203.0.113.98" : "2001:db8:b::98",
      reference: 2823n,
    },
  };
}

export interface Gateway {
  readonly side: Side;
  readonly settings: ForwardSettings;
  readonly records: Records;
  readonly outward: Outward;
  readonly inward: Inward;
  readonly paths: Paths;
  readonly hosts: Paths;
}

export const everybody: Peers = { allows: () => true, knows: () => true };
export const nobody: Peers = { allows: () => false, knows: () => false };
/** Any peer may come, and none has been heard of. */
export const anybody: Peers = { allows: () => true, knows: () => false };

export interface Wish extends Partial<ForwardSettings> {
  readonly peers?: Peers;
  readonly reference?: bigint;
  readonly theirReference?: bigint;
}

/** One gateway that knows its host and the other side's. */
export function gateway(here: Side, there: Side, wish: Wish = {}): Gateway {
  const {
    peers = everybody,
    reference: own = here.reference,
    theirReference = there.reference,
    ...rest
  } = wish;
  const family = (text: string): Family => (text.includes(":") ? 6 : 4);
  const settings: ForwardSettings = {
    lanFamily: family(here.host),
    tunnelFamily: family(here.context),
    encodeNet: { bytes: address(here.net), length: here.netLength },
    ownEncoded: address(here.gateway),
    ownContext: address(here.context),
    ownReference: reference(1n),
    decrementTtl: false,
    tunnelMtuBytes: 1500,
    lanMtuBytes: 1500,
    clampMss: false,
    admitRouter: false,
    forbidden: [],
    firstId: 0x12340000,
    ...rest,
  };
  const records = new Records(settings.lanFamily, settings.tunnelFamily);
  records.addOurs(here.host, own);
  records.addTheir(here.theirHost, there.context, theirReference);
  records.addTheir(here.theirGateway, there.context, 1n);
  const paths = new Paths(settings.tunnelFamily, settings.tunnelMtuBytes);
  const hosts = new Paths(settings.lanFamily, settings.lanMtuBytes);
  const outward = new Outward({ lookup: records, settings, paths, hosts });
  const inward = new Inward({ lookup: records, settings, peers, paths, hosts });
  outward.tokens = 1000;
  inward.tokens = 1000;
  inward.from(address(there.context), 0);
  return { side: here, settings, records, outward, inward, paths, hosts };
}

/** What became of a packet. */
export interface Outcome {
  readonly verdict: Verdict;
  readonly reason: number;
  /** What goes on, in its order. */
  readonly packets: readonly Uint8Array[];
  readonly answer: Uint8Array | undefined;
}

const verdictNames = Object.fromEntries(Object.entries(Verdict).map(([name, value]) => [value, name]));
export const nameOf = (outcome: Outcome) => verdictNames[outcome.verdict];

/** Sends a packet through a forwarder, in an arena full of other bytes that must stay as they are. */
export function pass(through: Outward | Inward, packet: Uint8Array): Outcome {
  const arena = new Uint8Array(headroomBytes + packet.length + 64).fill(0xa5);
  const at = headroomBytes;
  arena.set(packet, at);
  const verdict = through.forward(arena, at, packet.length);
  for (let index = at + packet.length; index < arena.length; index++) {
    if (arena[index] !== 0xa5)
      throw new Error(`byte ${index - at} behind a packet of ${packet.length} was written`);
  }
  const packets: Uint8Array[] = [];
  if (verdict === Verdict.send) {
    packets.push(arena.slice(through.resultOffset, through.resultOffset + through.resultLength));
  }
  if (verdict === Verdict.pieces) {
    const { pieces } = through;
    for (let index = 0; index < pieces.count; index++) {
      const from = pieces.offsets[index]!;
      packets.push(pieces.bytes.slice(from, from + pieces.lengths[index]!));
    }
  }
  const answer = verdict === Verdict.answer ? through.answer.slice(0, through.answerLength) : undefined;
  return { verdict, reason: through.reason, packets, answer };
}

/** The one packet that goes on. */
export function passed(through: Outward | Inward, packet: Uint8Array): Uint8Array {
  const outcome = pass(through, packet);
  if (outcome.packets.length !== 1)
    throw new Error(`${nameOf(outcome)} ${outcome.reason}, ${outcome.packets.length} packets`);
  return outcome.packets[0]!;
}

// ---- packets ----

export const get16 = (bytes: Uint8Array, at: number) => bytes[at]! * 256 + bytes[at + 1]!;
export const get32 = (bytes: Uint8Array, at: number) => get16(bytes, at) * 65_536 + get16(bytes, at + 2);

export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value & 255;
}

export function join(...parts: (Uint8Array | readonly number[])[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** The internet checksum, word by word. */
export function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes[at]! * 256 + (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum % 65_536) + Math.floor(sum / 65_536);
  return 0xffff - sum;
}

/** What transport checksums sum beside their packet; in the tunnel, without addresses. */
export function pseudo(addresses: readonly Uint8Array[], protocol: number, length: number): Uint8Array {
  return join(...addresses, [0, 0, length >> 8, length & 255, 0, 0, 0, protocol]);
}

export interface Ip {
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly ttl?: number;
  readonly tos?: number;
  readonly id?: number;
  readonly dontFragment?: boolean;
  /** IPv4: raw options. */
  readonly options?: Uint8Array;
  /** Bytes. */
  readonly offset?: number;
  readonly more?: boolean;
}

/** A packet of the version that its addresses have; fragments have a fragment header in IPv6. */
export function ip(about: Ip, payload: Uint8Array): Uint8Array {
  const [source, destination] = [address(about.source), address(about.destination)];
  const { ttl = 64, tos = 0, id = 0, offset = 0, more = false, dontFragment = true } = about;
  const fragment = offset > 0 || more;
  if (source.length === 16) {
    const extension = fragment
      ? Uint8Array.of(
          about.protocol,
          0,
          (offset | Number(more)) >> 8,
          (offset | Number(more)) & 255,
          0,
          0,
          id >> 8,
          id & 255,
        )
      : new Uint8Array(0);
    const length = extension.length + payload.length;
    const head = [
      0x60 | (tos >> 4),
      (tos & 15) << 4,
      0,
      0,
      length >> 8,
      length & 255,
      fragment ? 44 : about.protocol,
      ttl,
    ];
    return join(head, source, destination, extension, payload);
  }
  const options = about.options ?? new Uint8Array(0);
  const bits = (dontFragment ? 0x4000 : 0) | (more ? 0x2000 : 0) | (offset >> 3);
  const total = 20 + options.length + payload.length;
  const start = [
    0x45 + options.length / 4,
    tos,
    total >> 8,
    total & 255,
    id >> 8,
    id & 255,
    bits >> 8,
    bits & 255,
  ];
  const head = join(start, [ttl, about.protocol, 0, 0], source, destination, options);
  put16(head, 10, checksum(head));
  return join(head, payload);
}

/** A transport packet with a right checksum between two addresses. `body` begins behind the ports. */
export function transport(
  about: Pick<Ip, "source" | "destination" | "protocol">,
  payload: Uint8Array,
): Uint8Array {
  const { protocol } = about;
  const addresses = [address(about.source), address(about.destination)];
  const head =
    protocol === TCP
      ? [0x9c, 0x40, 1, 0xbb, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 1, 0xf5, 0, 0, 0, 0]
      : protocol === UDP
        ? [0x9c, 0x40, 0, 53, (8 + payload.length) >> 8, (8 + payload.length) & 255, 0, 0]
        : protocol === ICMP
          ? [8, 0, 0, 0, 0x12, 0x34, 0, 1]
          : protocol === ICMPV6
            ? [128, 0, 0, 0, 0x12, 0x34, 0, 1]
            : [];
  return withChecksum(join(head, payload), protocol, addresses);
}

const fieldOf = (protocol: number) => (protocol === TCP ? 16 : protocol === UDP ? 6 : 2);

/** Sets the checksum of a transport packet. */
export function withChecksum(
  packet: Uint8Array,
  protocol: number,
  addresses: readonly Uint8Array[],
): Uint8Array {
  if (![TCP, UDP, ICMP, ICMPV6].includes(protocol)) return packet;
  const field = fieldOf(protocol);
  put16(packet, field, 0);
  const beside = protocol === ICMP ? new Uint8Array(0) : pseudo(addresses, protocol, packet.length);
  const sum = checksum(join(beside, packet));
  put16(packet, field, protocol === UDP && sum === 0 ? 0xffff : sum);
  return packet;
}

/** What a whole IP packet says, read the long way. */
export interface Read {
  readonly version: number;
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly protocol: number;
  readonly ttl: number;
  readonly payload: Uint8Array;
  readonly headerBytes: number;
  /** Header checksum, total length. */
  readonly headerRight: boolean;
  /** The transport checksum is right; UDP's 0 in IPv4 counts as right, in IPv6 not. */
  readonly right: boolean;
  readonly offset: number;
  readonly more: boolean;
  readonly id: number;
  readonly dontFragment: boolean;
}

export function readIp(packet: Uint8Array): Read {
  const four = packet[0]! >> 4 === 4;
  const fragment = !four && packet[6] === 44;
  const headerBytes = four ? (packet[0]! & 15) * 4 : fragment ? 48 : 40;
  const source = four ? packet.slice(12, 16) : packet.slice(8, 24);
  const destination = four ? packet.slice(16, 20) : packet.slice(24, 40);
  const protocol = four ? packet[9]! : fragment ? packet[40]! : packet[6]!;
  const payload = packet.slice(headerBytes);
  const total = four ? get16(packet, 2) : get16(packet, 4) + 40;
  const headerRight = total === packet.length && (!four || checksum(packet.subarray(0, headerBytes)) === 0);
  const bits = four ? get16(packet, 6) : fragment ? get16(packet, 42) : 0;
  return {
    ...{ version: four ? 4 : 6, source, destination, protocol, payload, headerBytes, headerRight },
    ttl: four ? packet[8]! : packet[7]!,
    right: isRight(payload, protocol, [source, destination]),
    offset: four ? (bits & 0x1fff) * 8 : bits & 0xfff8,
    more: four ? (bits & 0x2000) !== 0 : (bits & 1) === 1,
    id: four ? get16(packet, 4) : fragment ? get32(packet, 44) : 0,
    dontFragment: four && (bits & 0x4000) !== 0,
  };
}

/** Whether a transport checksum is right between addresses; none of them in the tunnel. */
export function isRight(payload: Uint8Array, protocol: number, addresses: readonly Uint8Array[]): boolean {
  if (protocol === ICMP) return checksum(payload) === 0;
  if (protocol === UDP && get16(payload, 6) === 0) return (addresses[0]?.length ?? 4) === 4;
  if (![TCP, UDP, ICMPV6].includes(protocol)) return true;
  return checksum(join(pseudo(addresses, protocol, payload.length), payload)) === 0;
}

/** Bytes that differ from place to place. */
export function filler(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + seed * 31 + (index >> 8)) & 255);
}
