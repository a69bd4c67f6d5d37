/**
 * Who has this address: the questions and answers of ARP (IPv4) and neighbour discovery (IPv6), as the bytes that
 * an Ethernet frame carries.
 *
 * ```
 * ARP            hardware 1(16) 0800(16) 6 4 operation(16) sender(48) sender(32) target(48) target(32)
 * solicitation   IPv6(40 bytes) 135 0 checksum(16) 0(32)              target(128) [1 1 MAC of the asker]
 * advertisement  IPv6(40 bytes) 136 0 checksum(16) R S O 0(29 bits)   target(128) [2 1 MAC of the target]
 * ```
 *
 * Nothing is kept. Decoding never throws: what is no question and no answer has a reason to be counted by. What
 * RFC 4861 asks of a message before anything in it may be believed is asked here; whether it was asked for, and by
 * whom, is for the caller to know.
 *
 * Source: RFC 826, RFC 5227, RFC 4861 §4.3, §4.4 and §7.1, RFC 6980.
 */

import { type Address, decodeAddress, decodeMac, encodeAddress, type Mac, scopeOf } from "./address.ts";
import { fold, put16, sumOf } from "./checksum.ts";
import { decodeArp, EtherType, protocolOf } from "./frame.ts";
import { ICMPV6 } from "./packet.ts";

/** A question for an address, or the answer to one. */
export interface Spoken {
  readonly kind: "question" | "answer";
  /** The address asked for, or told of. */
  readonly about: Address;
  /** Who speaks: unspecified (`0.0.0.0`, `::`) in a probe of somebody who wants to take an address. */
  readonly sender: Address;
  /** To whom: of a question in ARP the address asked for, in IPv6 mostly a multicast group. */
  readonly receiver: Address;
  /** The link-layer address told: in a question the asker's, in an answer the target's. Absent where left out. */
  readonly mac?: Mac;
  /** An answer that says of itself that it was asked for. ARP cannot say otherwise. */
  readonly solicited: boolean;
  /** An answer that replaces what is known: not set by proxies and for anycast addresses. */
  readonly override: boolean;
  /** The target forwards (IPv6). */
  readonly router: boolean;
}

export type Unspoken =
  /** Less than its headers say, or than they need. */
  | "short"
  /** Neither ARP for IPv4 nor ICMPv6 right behind the IPv6 header, or of another type. */
  | "foreign"
  /** IPv6 that has passed a router, or pretends to: a hop limit under 255. */
  | "hops"
  | "checksum"
  /** Options whose lengths don't add up. */
  | "option"
  /** An address that nobody can have, or a contradiction between those given. */
  | "address";

const arpBytes = 28;
const [arpRequest, arpReply] = [1, 2];
const ipv6Bytes = 40;
/** From the ICMPv6 type to the end of the target. */
const ndBytes = 24;
const optionBytes = 8;
const [solicitation, advertisement] = [135, 136];
const [sourceOption, targetOption] = [1, 2];
const flag = { router: 0x80, solicited: 0x40, override: 0x20 } as const;
const unspecified = { 4: "0.0.0.0" as Address, 6: "::" as Address } as const;
const allNodes = "ff02::1" as Address;

export interface ArpFields {
  readonly senderMac: Mac;
  /** `0.0.0.0` in a probe (RFC 5227): nobody who hears it learns anything of the sender. */
  readonly sender: Address;
  /** Undefined: not known, all zeros. */
  readonly targetMac?: Mac;
  readonly target: Address;
}

/** Who has `target`? 28 bytes. */
export function encodeArpRequest(fields: ArpFields): Uint8Array {
  return encodeArp(arpRequest, fields);
}

/** I, `sender`, am at `senderMac`. 28 bytes. */
export function encodeArpReply(fields: ArpFields): Uint8Array {
  return encodeArp(arpReply, fields);
}

export interface SolicitationFields {
  readonly source: Address;
  readonly sourceMac: Mac;
  readonly target: Address;
  /** Default: the group of all who may have the target. The target itself asks one owner. */
  readonly destination?: Address;
}

/** Who has `target`? An IPv6 packet. An asker without address (`::`) does not tell its MAC. */
export function encodeSolicitation(fields: SolicitationFields): Uint8Array {
  const { source, sourceMac, target, destination = solicitedNode(target) } = fields;
  const option = source === unspecified[6] ? undefined : ([sourceOption, sourceMac] as const);
  return encodeNd({ type: solicitation, flags: 0, source, destination, target, option });
}

export interface AdvertisementFields {
  readonly source: Address;
  /** Default: all nodes. */
  readonly destination?: Address;
  readonly target: Address;
  /** Left out: that of the frame. */
  readonly mac?: Mac;
  readonly router?: boolean;
  readonly solicited?: boolean;
  readonly override?: boolean;
}

/** I have `target`. An IPv6 packet. */
export function encodeAdvertisement(fields: AdvertisementFields): Uint8Array {
  const { source, destination = allNodes, target, mac } = fields;
  const flags =
    (fields.router ? flag.router : 0) |
    (fields.solicited ? flag.solicited : 0) |
    (fields.override ? flag.override : 0);
  const option = mac === undefined ? undefined : ([targetOption, mac] as const);
  return encodeNd({ type: advertisement, flags, source, destination, target, option });
}

/** The group that a solicitation for an address goes to (RFC 4291 §2.7.1). */
export function solicitedNode(target: Address): Address {
  const group = Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0);
  group.set(encodeAddress(target).subarray(13), 13);
  return decodeAddress(group, 0, 6);
}

/** The link-local address that a MAC makes by itself (RFC 4291, appendix A). */
export function linkLocalOf(mac: Mac): Address {
  const [a, b, c, d, e, f] = bytesOf(mac) as unknown as [number, number, number, number, number, number];
  const bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
  return decodeAddress(Uint8Array.from(bytes), 0, 6);
}

/** Reads what a frame of ARP or IPv6 carries; padding behind it does not matter. */
export function decodeSpoken(packet: Uint8Array): Spoken | Unspoken {
  return protocolOf(packet) === EtherType.ipv6 ? decodeNd(packet) : decodeArpSpoken(packet);
}

function decodeArpSpoken(packet: Uint8Array): Spoken | Unspoken {
  if (packet.length < arpBytes) return "short";
  const arp = decodeArp(packet, 0);
  if (!arp) return "foreign";
  const { operation, sender, target, senderMac } = arp;
  if (operation !== arpRequest && operation !== arpReply) return "foreign";
  const isReply = operation === arpReply;
  const about = isReply ? sender : target;
  if (!isHostAddress(about) || (sender !== unspecified[4] && !isHostAddress(sender))) return "address";
  return {
    kind: isReply ? "answer" : "question",
    ...{ about, sender, receiver: target, mac: senderMac },
    ...{ solicited: isReply, override: isReply, router: false },
  };
}

function decodeNd(packet: Uint8Array): Spoken | Unspoken {
  if (packet.length < ipv6Bytes) return "short";
  if (packet[6] !== ICMPV6) return "foreign";
  const end = ipv6Bytes + ((packet[4]! << 8) | packet[5]!);
  if (end > packet.length || end < ipv6Bytes + 4) return "short";
  const [type, code] = [packet[ipv6Bytes]!, packet[ipv6Bytes + 1]!];
  if ((type !== solicitation && type !== advertisement) || code !== 0) return "foreign";
  if (end < ipv6Bytes + ndBytes) return "short";
  // No router passes on a packet with the highest hop limit: who sends it is on this link.
  if (packet[7] !== 255) return "hops";
  if (sumOfNd(packet, end) !== 0xffff) return "checksum";
  const told = { [sourceOption]: undefined as Mac | undefined, [targetOption]: undefined as Mac | undefined };
  for (let at = ipv6Bytes + ndBytes; at < end; ) {
    const length = at + 2 > end ? 0 : packet[at + 1]! * 8;
    if (length === 0 || at + length > end) return "option";
    const kind = packet[at]!;
    if (kind === sourceOption || kind === targetOption) told[kind] = decodeMac(packet, at + 2);
    at += length;
  }
  const sender = decodeAddress(packet, 8, 6);
  const receiver = decodeAddress(packet, 24, 6);
  const about = decodeAddress(packet, ipv6Bytes + 8, 6);
  const flags = packet[ipv6Bytes + 4]!;
  const isAnswer = type === advertisement;
  const solicited = isAnswer && (flags & flag.solicited) !== 0;
  const mac = told[isAnswer ? targetOption : sourceOption];
  if (!isHostAddress(about) || scopeOf(sender) === "multicast") return "address";
  // An answer to one asker is not for all, and who has no address yet neither answers nor tells a MAC.
  if (solicited && scopeOf(receiver) === "multicast") return "address";
  if (sender === unspecified[6] && (isAnswer || mac !== undefined)) return "address";
  return {
    kind: isAnswer ? "answer" : "question",
    ...{ about, sender, receiver, ...(mac === undefined ? {} : { mac }) },
    solicited,
    override: isAnswer && (flags & flag.override) !== 0,
    router: isAnswer && (flags & flag.router) !== 0,
  };
}

/** Whether one host on a link can have an address. */
function isHostAddress(address: Address): boolean {
  const scope = scopeOf(address);
  return scope !== "unspecified" && scope !== "multicast" && scope !== "broadcast" && scope !== "loopback";
}

function encodeArp(operation: number, { senderMac, sender, targetMac, target }: ArpFields): Uint8Array {
  const bytes = new Uint8Array(arpBytes);
  bytes.set([0, 1, 8, 0, 6, 4, 0, operation]);
  bytes.set(bytesOf(senderMac), 8);
  bytes.set(encodeAddress(sender), 14);
  if (targetMac !== undefined) bytes.set(bytesOf(targetMac), 18);
  bytes.set(encodeAddress(target), 24);
  return bytes;
}

interface NdFields {
  readonly type: number;
  readonly flags: number;
  readonly source: Address;
  readonly destination: Address;
  readonly target: Address;
  readonly option: readonly [type: number, mac: Mac] | undefined;
}

function encodeNd({ type, flags, source, destination, target, option }: NdFields): Uint8Array {
  const payloadBytes = ndBytes + (option ? optionBytes : 0);
  const packet = new Uint8Array(ipv6Bytes + payloadBytes);
  packet.set([0x60, 0, 0, 0, 0, payloadBytes, ICMPV6, 255]);
  packet.set(encodeAddress(source), 8);
  packet.set(encodeAddress(destination), 24);
  packet.set([type, 0, 0, 0, flags], ipv6Bytes);
  packet.set(encodeAddress(target), ipv6Bytes + 8);
  if (option) packet.set([option[0], 1, ...bytesOf(option[1])], ipv6Bytes + ndBytes);
  put16(packet, ipv6Bytes + 2, ~sumOfNd(packet, packet.length) & 0xffff);
  return packet;
}

/** The sum over the pseudo header (both addresses, length, protocol) and the message; 0xffff if its checksum is right. */
function sumOfNd(packet: Uint8Array, end: number): number {
  return fold(sumOf(packet, 8, end - 8) + end - ipv6Bytes + ICMPV6);
}

/** The six bytes of a MAC. */
export function bytesOf(mac: Mac): Uint8Array {
  return Uint8Array.from(mac.split(":"), (digits) => Number.parseInt(digits, 16));
}
