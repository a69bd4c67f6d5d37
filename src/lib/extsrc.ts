/**
 * SPIN's external source messages: what `spin-pcap-reader` and the like tell, bytes to values and back.
 *
 * A message is a header and a C struct as the sender's machine lays it out, so numbers are in its byte order
 * and have its alignment. Sender and receiver are the same machine. An address is 16 bytes, IPv4 in the last
 * four. A name is in DNS wire format without compression; what is behind its end is whatever the sender's
 * memory held. Nothing here throws for what came from outside: what cannot be read has a reason to be counted by.
 *
 * ```
 *  0 type(32)  4 length(32) of what follows
 *
 *  1 packets      8 family(8)  9 protocol(8) 10 source(128)  26 destination(128) 42 port(16) 44 port(16)
 *                46 ICMP type(8)  48 bytes(64)  56 packets(64)  64 offset(16)            … 72, on i386 68
 *  2 question     8 family(32) 12 client(128)  28 (as 3)                                 … 308
 *  3 answer       8 family(8)   9 address(128) 28 TTL in seconds(32) 32 name(256 bytes)   … 288
 *  4 neighbour    8 MAC as text with NUL(18 bytes)  26 family(8) 27 prefix(8) 28 address(128)  … 44
 * ```
 *
 * Families are 4 and 6 in packets and the sender's AF_INET and AF_INET6 elsewhere; both are understood in both.
 *
 * Source: SIDN SPIN at a5185b7, its structs, and what its reader sends.
 */

import {
  type Address,
  decodeAddress,
  encodeAddress,
  type Family,
  familyOf,
  isDeviceMac,
  type Mac,
  parseMac,
} from "./address.ts";
import { formatName, parseName } from "./dns.ts";
import { hostIsLittle } from "./endian.ts";
import { ICMP, ICMPV6 } from "./packet.ts";

export { hostIsLittle } from "./endian.ts";

/** What passed between two ends since the last message on them. */
export interface ExternalPacket {
  readonly source: Address;
  readonly destination: Address;
  /** IP protocol number. */
  readonly protocol: number;
  /** 0 where the protocol has none. */
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Of ICMP and ICMPv6, else 0. SPIN's reader does not set it: it is then whatever its memory held. */
  readonly icmpType: number;
  /** 64 bits, not negative. */
  readonly bytes: bigint;
  /** 64 bits, at least 1. */
  readonly packets: bigint;
}

/** A client asked for a name. */
export interface ExternalQuery {
  readonly client: Address;
  /** Presentation form, with trailing dot. */
  readonly name: string;
}

/** Somebody was answered an address for a name: SPIN's messages do not say who. */
export interface ExternalAnswer {
  readonly name: string;
  readonly address: Address;
  /** SPIN's reader always says 1,234. */
  readonly ttlSeconds: number;
}

/** An address is at a MAC. */
export interface ExternalNeighbour {
  readonly address: Address;
  readonly mac: Mac;
}

/** Who wants to know. */
export interface ExternalSink {
  packet(packet: ExternalPacket): void;
  query(query: ExternalQuery): void;
  answer(answer: ExternalAnswer): void;
  neighbour(neighbour: ExternalNeighbour): void;
}

export type ExternalMessage =
  | { readonly kind: "packet"; readonly packet: ExternalPacket }
  | { readonly kind: "query"; readonly query: ExternalQuery }
  | { readonly kind: "answer"; readonly answer: ExternalAnswer }
  | { readonly kind: "neighbour"; readonly neighbour: ExternalNeighbour };

export type ExternalReason =
  /** No header, a length that is not the message's, or not that of its type. */
  | "length"
  /** A type that nobody knows. */
  | "type"
  /** Neither IPv4 nor IPv6. */
  | "family"
  /** No packets at all. */
  | "count"
  /** No name in wire format that ends within its field. */
  | "name"
  /** No MAC of one device. */
  | "mac";

export type ExternalOutcome = ExternalMessage | { readonly kind: "dropped"; readonly reason: ExternalReason };

const Type = { packet: 1, query: 2, answer: 3, neighbour: 4 } as const;
const headerBytes = 8;
const packetBytes = 64;
/** There a 64-bit number is aligned to 32 bits, so that less is left over behind. */
const packetBytesI386 = 60;
const dnsBytes = 280;
const queryBytes = 20 + dnsBytes;
const neighbourBytes = 36;
const nameBytes = 256;
const macBytes = 18;
const [inet, inet6] = [2, 10];

/** @param isLittle byte order of the sender. */
export function decodeExternal(bytes: Uint8Array, isLittle = hostIsLittle): ExternalOutcome {
  if (bytes.length < headerBytes) return dropped("length");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const length = view.getUint32(4, isLittle);
  if (length !== bytes.length - headerBytes) return dropped("length");
  switch (view.getUint32(0, isLittle)) {
    case Type.packet:
      if (length !== packetBytes && length !== packetBytesI386) return dropped("length");
      return decodePacket(bytes, view, isLittle);
    case Type.query:
      return length === queryBytes ? decodeQuery(bytes, view.getUint32(8, isLittle)) : dropped("length");
    case Type.answer:
      return length === dnsBytes ? decodeAnswer(bytes, view.getUint32(28, isLittle)) : dropped("length");
    case Type.neighbour:
      return length === neighbourBytes ? decodeNeighbour(bytes) : dropped("length");
    default:
      return dropped("type");
  }
}

/** Tells a sink what a message says. */
export function deliver(message: ExternalMessage, sink: ExternalSink): void {
  if (message.kind === "packet") sink.packet(message.packet);
  else if (message.kind === "query") sink.query(message.query);
  else if (message.kind === "answer") sink.answer(message.answer);
  else sink.neighbour(message.neighbour);
}

/**
 * The message as SPIN's own programs send it.
 *
 * @throws RangeError for addresses of two families and numbers that don't fit; SyntaxError for a name that is
 *   none.
 */
export function encodeExternal(message: ExternalMessage, isLittle = hostIsLittle): Uint8Array {
  switch (message.kind) {
    case "packet":
      return encodePacket(message.packet, isLittle);
    case "query": {
      const { client, name } = message.query;
      const { bytes, view } = begin(Type.query, queryBytes, isLittle);
      const family = familyOf(client) === 4 ? inet : inet6;
      view.setUint32(8, family, isLittle);
      setAddress(bytes, 12, client);
      bytes[28] = family;
      setAddress(bytes, 29, client);
      setName(bytes, 52, name);
      return bytes;
    }
    case "answer": {
      const { name, address, ttlSeconds } = message.answer;
      const { bytes, view } = begin(Type.answer, dnsBytes, isLittle);
      bytes[8] = familyOf(address) === 4 ? inet : inet6;
      setAddress(bytes, 9, address);
      view.setUint32(28, within(ttlSeconds, 0xffff_ffff), isLittle);
      setName(bytes, 32, name);
      return bytes;
    }
    case "neighbour": {
      const { address, mac } = message.neighbour;
      const { bytes } = begin(Type.neighbour, neighbourBytes, isLittle);
      bytes.set(new TextEncoder().encode(mac), 8);
      const isV4 = familyOf(address) === 4;
      bytes.set([isV4 ? inet : inet6, isV4 ? 32 : 128], 26);
      setAddress(bytes, 28, address);
      return bytes;
    }
  }
}

function decodePacket(bytes: Uint8Array, view: DataView, isLittle: boolean): ExternalOutcome {
  const family = familyFrom(bytes[8]!);
  if (family === undefined) return dropped("family");
  const protocol = bytes[9]!;
  const packets = view.getBigUint64(56, isLittle);
  if (packets === 0n) return dropped("count");
  return {
    kind: "packet",
    packet: {
      source: addressAt(bytes, 10, family),
      destination: addressAt(bytes, 26, family),
      protocol,
      sourcePort: view.getUint16(42, isLittle),
      destinationPort: view.getUint16(44, isLittle),
      icmpType: protocol === ICMP || protocol === ICMPV6 ? bytes[46]! : 0,
      bytes: view.getBigUint64(48, isLittle),
      packets,
    },
  };
}

function decodeQuery(bytes: Uint8Array, number: number): ExternalOutcome {
  const family = familyFrom(number);
  if (family === undefined) return dropped("family");
  const name = nameAt(bytes, 52);
  if (name === undefined) return dropped("name");
  return { kind: "query", query: { client: addressAt(bytes, 12, family), name } };
}

function decodeAnswer(bytes: Uint8Array, ttlSeconds: number): ExternalOutcome {
  const family = familyFrom(bytes[8]!);
  if (family === undefined) return dropped("family");
  const name = nameAt(bytes, 32);
  if (name === undefined) return dropped("name");
  return { kind: "answer", answer: { name, address: addressAt(bytes, 9, family), ttlSeconds } };
}

function decodeNeighbour(bytes: Uint8Array): ExternalOutcome {
  const family = familyFrom(bytes[26]!);
  if (family === undefined) return dropped("family");
  const text = Array.from(bytes.subarray(8, 8 + macBytes - 1), (byte) => String.fromCharCode(byte)).join("");
  const mac = parseMac(text);
  if (mac === undefined || bytes[8 + macBytes - 1] !== 0 || !isDeviceMac(mac)) return dropped("mac");
  return { kind: "neighbour", neighbour: { address: addressAt(bytes, 28, family), mac } };
}

function encodePacket(packet: ExternalPacket, isLittle: boolean): Uint8Array {
  const { source, destination } = packet;
  if (familyOf(source) !== familyOf(destination)) {
    throw new RangeError(`Cannot encode packet: ${source} and ${destination} are of two families`);
  }
  const { bytes, view } = begin(Type.packet, packetBytes, isLittle);
  bytes[8] = familyOf(source);
  bytes[9] = within(packet.protocol, 255);
  setAddress(bytes, 10, source);
  setAddress(bytes, 26, destination);
  view.setUint16(42, within(packet.sourcePort, 0xffff), isLittle);
  view.setUint16(44, within(packet.destinationPort, 0xffff), isLittle);
  bytes[46] = within(packet.icmpType, 255);
  view.setBigUint64(48, within64(packet.bytes), isLittle);
  view.setBigUint64(56, within64(packet.packets), isLittle);
  return bytes;
}

function begin(type: number, length: number, isLittle: boolean): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(headerBytes + length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, isLittle);
  view.setUint32(4, length, isLittle);
  return { bytes, view };
}

function familyFrom(number: number): Family | undefined {
  if (number === 4 || number === inet) return 4;
  return number === 6 || number === inet6 ? 6 : undefined;
}

function addressAt(bytes: Uint8Array, offset: number, family: Family): Address {
  return decodeAddress(bytes, family === 4 ? offset + 12 : offset, family);
}

function setAddress(bytes: Uint8Array, offset: number, address: Address): void {
  const raw = encodeAddress(address);
  bytes.set(raw, offset + 16 - raw.length);
}

function nameAt(bytes: Uint8Array, offset: number): string | undefined {
  const labels: Uint8Array[] = [];
  // A name has at most 255 bytes, its end included.
  for (let at = offset; at < offset + nameBytes - 1; ) {
    const length = bytes[at]!;
    if (length === 0) return formatName(labels);
    if (length > 63 || at + 1 + length >= offset + nameBytes - 1) return undefined;
    labels.push(bytes.subarray(at + 1, at + 1 + length));
    at += 1 + length;
  }
  return undefined;
}

function setName(bytes: Uint8Array, offset: number, name: string): void {
  let at = offset;
  for (const label of parseName(name)) {
    bytes[at] = label.length;
    bytes.set(label, at + 1);
    at += 1 + label.length;
  }
}

function within(value: number, most: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= most) return value;
  throw new RangeError(`Cannot encode message: ${value} is not within 0 and ${most}`);
}

function within64(value: bigint): bigint {
  if (value >= 0n && value < 1n << 64n) return value;
  throw new RangeError(`Cannot encode message: ${value} in 64 bits`);
}

function dropped(reason: ExternalReason): ExternalOutcome {
  return { kind: "dropped", reason };
}
