/**
 * DNS as the firewall's copy shows it: IP packets of port 53 become questions and answers.
 *
 * A UDP packet is one message; of TCP connections the streams keep what is not whole, so a packet may bring no
 * message or many. What is no DNS question or answer has a reason to be counted by. Of an answer only those
 * addresses count that belong to the name asked: by its own records or by following its aliases. Nothing is
 * believed of an answer over UDP that says it is cut: the client asks again over TCP.
 */

import { type Address, decodeAddress, encodeAddress } from "../lib/address.ts";
import { CLASS_IN, type DnsMessage, type DnsRecord, decodeMessage, foldName } from "../lib/dns.ts";
import { type Packet, parsePacket, TCP, tcpSegment, UDP, udpPayload } from "../lib/packet.ts";
import type { StreamLoss } from "./direction.ts";
import type { DnsAnswer, DnsQuery } from "./far.ts";
import { type Ends, type StreamLimits, Streams } from "./streams.ts";

export type TapReason =
  /** No IP packet. */
  | "packet"
  /** No UDP or TCP of port 53 on one side, or only a piece of it. */
  | "transport"
  /** Its bytes are no DNS message. */
  | "message"
  /** DNS, but not a standard question or answer with one question of class IN. */
  | "question"
  /** Of a TCP stream; see there. */
  | StreamLoss;

export type TapMessage =
  | { readonly kind: "query"; readonly query: DnsQuery }
  | { readonly kind: "answer"; readonly answer: DnsAnswer }
  | { readonly kind: "dropped"; readonly reason: TapReason };

type Ports = NonNullable<Packet["ports"]>;

const DNS_PORT = 53;
/** A resolver follows no longer chain of aliases. */
const ALIASES = 16;

export class Tap {
  readonly #streams: Streams;

  constructor(limits?: StreamLimits) {
    this.#streams = new Streams(limits);
  }

  /** Reads one IP packet of those that pass, in their order. `now` never goes back. */
  read(bytes: Uint8Array, now: number): readonly TapMessage[] {
    const outcome = parsePacket(bytes);
    if (outcome.kind === "malformed") return [dropped("packet")];
    const { packet } = outcome;
    const { protocol, ports } = packet;
    if (!ports) return [dropped("transport")];
    const [asks, answers] = [ports.destination === DNS_PORT, ports.source === DNS_PORT];
    if (protocol === UDP && (asks || answers)) {
      const payload = udpPayload(bytes, packet);
      return [payload ? read(payload, packet, ports) : dropped("transport")];
    }
    // Where both ports are the server's, nothing says which side of a connection is.
    const segment = protocol === TCP && asks !== answers ? tcpSegment(bytes, packet) : undefined;
    if (!segment) return [dropped("transport")];
    const { source, destination } = packet;
    const ends: Ends = asks
      ? { client: source, clientPort: ports.source, server: destination, from: "client" }
      : { client: destination, clientPort: ports.destination, server: source, from: "server" };
    const { messages, losses } = this.#streams.take(ends, segment, now);
    return [...messages.map((message) => read(message, packet, ports)), ...losses.map(dropped)];
  }
}

function read(bytes: Uint8Array, packet: Packet, ports: Ports): TapMessage {
  let message: DnsMessage;
  try {
    message = decodeMessage(bytes);
  } catch (thrown) {
    if (thrown instanceof SyntaxError) return dropped("message");
    throw thrown;
  }
  const { flags, id, questions } = message;
  const [question] = questions;
  if (questions.length !== 1 || question!.class !== CLASS_IN || flags.opcode !== 0)
    return dropped("question");
  const { name, type } = question!;
  const over = packet.protocol === UDP ? {} : { transport: "tcp" as const };
  if (!flags.response && ports.destination === DNS_PORT) {
    const [client, server] = [packet.source, packet.destination];
    return { kind: "query", query: { client, clientPort: ports.source, server, id, name, type, ...over } };
  }
  if (flags.response && ports.source === DNS_PORT) {
    const [client, server] = [packet.destination, packet.source];
    const told = flags.rcode === 0 && !(flags.truncated && packet.protocol === UDP);
    const addresses = told ? addressesOf(name, message.answers) : [];
    // Who names its name server must not get us to block it.
    const answers = addresses.filter(({ address }) => address !== server);
    return {
      kind: "answer",
      answer: { client, clientPort: ports.destination, server, id, name, type, ...over, answers },
    };
  }
  return dropped("question");
}

/** The addresses of a name and of its aliases; none lives longer than the aliases that lead to it. */
function addressesOf(name: string, records: readonly DnsRecord[]): DnsAnswer["answers"] {
  if (records.length === 0) return [];
  const ttls = aliasesOf(foldName(name), records);
  const lengths = new Set([...ttls.keys()].map((each) => each.length));
  const addresses: { address: Address; ttlSeconds: number }[] = [];
  for (const { name: owner, address, hints, ttlSeconds } of records) {
    if (address === undefined && hints === undefined) continue;
    // Thousands of long names may be in a message: most needn't be folded to see that they don't belong.
    if (!lengths.has(owner.length)) continue;
    const limit = ttls.get(foldName(owner));
    if (limit === undefined) continue;
    for (const each of hints ?? [address!]) {
      addresses.push({ address: unmapped(each), ttlSeconds: Math.min(ttlSeconds, limit) });
    }
  }
  return addresses;
}

/** Packets to an IPv4-mapped address (RFC 4291) are sent to the IPv4 address in it. */
function unmapped(address: Address): Address {
  if (!address.startsWith("::ffff:")) return address;
  const bytes = encodeAddress(address);
  // "::ffff:0:0:1" begins like one, but is none.
  return bytes[10] === 0xff && bytes[11] === 0xff ? decodeAddress(bytes, 12, 4) : address;
}

/**
 * The names that a name leads to, itself first, each with the time to live of the way there. Where a name has
 * two aliases, against the rules, clients differ in which they follow: so both are.
 */
function aliasesOf(name: string, records: readonly DnsRecord[]): Map<string, number> {
  const targets = new Map<string, { target: string; ttlSeconds: number }[]>();
  for (const record of records) {
    if (record.target === undefined || record.class !== CLASS_IN) continue;
    const owner = foldName(record.name);
    const alias = { target: foldName(record.target), ttlSeconds: record.ttlSeconds };
    const known = targets.get(owner);
    if (known) known.push(alias);
    else targets.set(owner, [alias]);
  }
  const ttls = new Map([[name, Number.POSITIVE_INFINITY]]);
  // A map walks over what is added while it is walked.
  for (const [owner, limit] of ttls) {
    for (const { target, ttlSeconds } of targets.get(owner) ?? []) {
      if (ttls.size > ALIASES) return ttls;
      if (!ttls.has(target)) ttls.set(target, Math.min(limit, ttlSeconds));
    }
  }
  return ttls;
}

function dropped(reason: TapReason): TapMessage {
  return { kind: "dropped", reason };
}
