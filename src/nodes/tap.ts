/**
 * DNS as the firewall's copy shows it: an IP packet of port 53 becomes a question or an answer.
 *
 * Nothing is kept. What is no DNS question or answer has a reason to be counted by. Of an answer only those
 * addresses count that belong to the name asked: by its own records or by following its aliases.
 */

import type { Address } from "../lib/address.ts";
import { CLASS_IN, type DnsMessage, decodeMessage, foldName } from "../lib/dns.ts";
import { type Packet, parsePacket, UDP, udpPayload } from "../lib/packet.ts";
import type { DnsAnswer, DnsQuery } from "./far.ts";

export type TapReason =
  /** No IP packet. */
  | "packet"
  /** No UDP of port 53, or only a piece of it. */
  | "transport"
  /** Its bytes are no DNS message. */
  | "message"
  /** DNS, but not a standard question or answer with one question of class IN. */
  | "question";

export type TapOutcome =
  | { readonly kind: "query"; readonly query: DnsQuery }
  | { readonly kind: "answer"; readonly answer: DnsAnswer }
  | { readonly kind: "dropped"; readonly reason: TapReason };

const DNS_PORT = 53;
/** A resolver follows no longer chain of aliases. */
const ALIASES = 16;

/** Reads one IP packet. */
export function readTap(bytes: Uint8Array): TapOutcome {
  const outcome = parsePacket(bytes);
  if (outcome.kind === "malformed") return dropped("packet");
  const { packet } = outcome;
  const payload = udpPayload(bytes, packet);
  if (packet.protocol !== UDP || !payload || !packet.ports) return dropped("transport");
  let message: DnsMessage;
  try {
    message = decodeMessage(payload);
  } catch (thrown) {
    if (thrown instanceof SyntaxError) return dropped("message");
    throw thrown;
  }
  return outcomeOf(packet, packet.ports, message);
}

function outcomeOf(packet: Packet, ports: NonNullable<Packet["ports"]>, message: DnsMessage): TapOutcome {
  const { flags, id, questions } = message;
  const [question] = questions;
  if (questions.length !== 1 || question!.class !== CLASS_IN || flags.opcode !== 0)
    return dropped("question");
  const { name, type } = question!;
  if (!flags.response && ports.destination === DNS_PORT) {
    const [client, server] = [packet.source, packet.destination];
    return { kind: "query", query: { client, clientPort: ports.source, server, id, name, type } };
  }
  if (flags.response && ports.source === DNS_PORT) {
    const [client, server] = [packet.destination, packet.source];
    const answers = flags.rcode === 0 ? addressesOf(name, message) : [];
    return {
      kind: "answer",
      answer: { client, clientPort: ports.destination, server, id, name, type, answers },
    };
  }
  return dropped("question");
}

/** An address lives no longer than the aliases that lead to it. */
function addressesOf(name: string, message: DnsMessage): { address: Address; ttlSeconds: number }[] {
  const aliases = new Map<string, { target: string; ttlSeconds: number }>();
  for (const record of message.answers) {
    if (record.target === undefined || record.class !== CLASS_IN) continue;
    aliases.set(foldName(record.name), { target: foldName(record.target), ttlSeconds: record.ttlSeconds });
  }
  const ttls = new Map<string, number>();
  let at = foldName(name);
  for (let ttlSeconds = Number.POSITIVE_INFINITY; ttls.size <= ALIASES && !ttls.has(at); ) {
    ttls.set(at, ttlSeconds);
    const alias = aliases.get(at);
    if (!alias) break;
    at = alias.target;
    ttlSeconds = Math.min(ttlSeconds, alias.ttlSeconds);
  }
  const addresses: { address: Address; ttlSeconds: number }[] = [];
  for (const { name: owner, address, ttlSeconds } of message.answers) {
    const limit = ttls.get(foldName(owner));
    if (address === undefined || limit === undefined) continue;
    addresses.push({ address, ttlSeconds: Math.min(ttlSeconds, limit) });
  }
  return addresses;
}

function dropped(reason: TapReason): TapOutcome {
  return { kind: "dropped", reason };
}
