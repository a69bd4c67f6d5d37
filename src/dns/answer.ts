/**
 * Answers: what whoever knows the names says, and the bytes of it for one client. Keeps nothing.
 *
 * An answer repeats the question as it was spelled, has an EDNS record exactly when the question had one, and is
 * never longer than the client said that it takes: records that don't fit are left out and the client is told (TC),
 * so that it asks again over TCP.
 */

import { type Address, decodeAddress, encodeAddress, familyOf } from "../lib/address.ts";
import {
  CLASS_IN,
  type DnsMessage,
  type DnsRecord,
  decodeMessage,
  encodeMessage,
  HEADER_BYTES,
  TYPE_A,
  TYPE_AAAA,
  TYPE_PTR,
  TYPE_SOA,
} from "../lib/dns.ts";
import { type DnsQuery, Rcode, udpBytes } from "./query.ts";

/** What somebody here says to a question. */
export interface Answer {
  readonly rcode: number;
  readonly records: readonly DnsRecord[];
  /** Why there are none: the SOA record of whom this is from (RFC 2308). */
  readonly authorities?: readonly DnsRecord[];
  /** We are who decides about the name. */
  readonly authoritative: boolean;
  /** We would ask others, too. */
  readonly recursionAvailable: boolean;
}

/** What somebody else said to the same question, word for word. */
export interface Relayed {
  readonly relayed: Uint8Array;
}

export type Outcome = Answer | Relayed;

/** In whose name "no" is said, and how long that holds. */
export interface Denial {
  /** A zone that the name is in; "." is every name's. */
  readonly zone: string;
  readonly ttlSeconds: number;
}

const own = { rcode: Rcode.noError, authoritative: true, recursionAvailable: false } as const;

/** Yes: these. */
export function yes(records: readonly DnsRecord[]): Answer {
  return { ...own, records };
}

/** The name is there, but nothing of the type that was asked for. */
export function noData(denial: Denial): Answer {
  return { ...own, records: [], authorities: [authorityOf(denial)] };
}

/** No such name, nor any below it. */
export function noSuchName(denial: Denial): Answer {
  return { ...own, rcode: Rcode.noSuchName, records: [], authorities: [authorityOf(denial)] };
}

/** No answer, for a reason: `Rcode.failure`, `Rcode.refused`, … */
export function failed(rcode: number): Answer {
  return { ...own, rcode, authoritative: false, records: [] };
}

/** An A or AAAA record. */
export function addressRecord(name: string, address: Address, ttlSeconds: number): DnsRecord {
  const type = familyOf(address) === 4 ? TYPE_A : TYPE_AAAA;
  return { name, type, class: CLASS_IN, ttlSeconds, address };
}

/** A PTR record. */
export function pointerRecord(name: string, target: string, ttlSeconds: number): DnsRecord {
  return { name, type: TYPE_PTR, class: CLASS_IN, ttlSeconds, target };
}

/** The name under which the name of an address is asked for (RFC 1035 §3.5, RFC 3596 §2.5). */
export function reverseName(address: Address): string {
  const bytes = [...encodeAddress(address)].reverse();
  if (bytes.length === 4) return `${bytes.join(".")}.in-addr.arpa.`;
  const digits = bytes.flatMap((byte) => [byte & 15, byte >> 4]);
  return `${digits.map((digit) => digit.toString(16)).join(".")}.ip6.arpa.`;
}

/** The address whose name is asked for, or undefined if the name is not one of a whole address. */
export function addressOfReverse(name: string): Address | undefined {
  const folded = name.toLowerCase();
  const four = /^((?:(?:0|[1-9][0-9]{0,2})\.){4})in-addr\.arpa\.$/.exec(folded);
  if (four) {
    const bytes = four[1]!.slice(0, -1).split(".").reverse().map(Number);
    return bytes.every((byte) => byte < 256) ? decodeAddress(Uint8Array.from(bytes), 0, 4) : undefined;
  }
  const six = /^((?:[0-9a-f]\.){32})ip6\.arpa\.$/.exec(folded);
  if (!six) return undefined;
  const digits = six[1]!.replaceAll(".", "").split("").reverse().join("");
  const bytes = Uint8Array.from({ length: 16 }, (_, at) =>
    Number.parseInt(digits.slice(at * 2, at * 2 + 2), 16),
  );
  return decodeAddress(bytes, 0, 6);
}

function authorityOf({ zone, ttlSeconds }: Denial): DnsRecord {
  return {
    name: zone,
    type: TYPE_SOA,
    class: CLASS_IN,
    ttlSeconds,
    authority: {
      server: zone,
      contact: "nobody.invalid.",
      serial: 1,
      refreshSeconds: 3600,
      retrySeconds: 600,
      expireSeconds: 86_400,
      negativeTtlSeconds: ttlSeconds,
    },
  };
}

/**
 * The bytes of an answer.
 *
 * @param limitBytes what the client takes; the question and a denial always fit into 512.
 */
export function encodeOutcome(query: DnsQuery, outcome: Outcome, limitBytes: number): Uint8Array {
  if ("relayed" in outcome) return relay(query, outcome.relayed, limitBytes);
  const message: DnsMessage = {
    id: query.id,
    flags: {
      response: true,
      opcode: 0,
      authoritative: outcome.authoritative,
      truncated: false,
      recursionDesired: query.recursionDesired,
      recursionAvailable: outcome.recursionAvailable,
      authenticData: false,
      checkingDisabled: query.checkingDisabled,
      rcode: outcome.rcode,
    },
    questions: [query.question],
    answers: outcome.records,
    ...(outcome.authorities && { authorities: outcome.authorities }),
    ...(query.edns && { edns: { udpBytes, dnssecOk: query.edns.dnssecOk } }),
  };
  return fit(message, limitBytes);
}

/** As many records as fit. */
function fit(message: DnsMessage, limitBytes: number): Uint8Array {
  const whole = tryEncode(message, limitBytes);
  if (whole !== undefined) return whole;
  const part = (count: number): DnsMessage => ({
    ...message,
    flags: { ...message.flags, truncated: true },
    answers: message.answers.slice(0, count),
    authorities: [],
  });
  // So many fit, so many don't.
  let [some, many] = [0, message.answers.length + 1];
  while (many - some > 1) {
    const middle = (some + many) >> 1;
    if (tryEncode(part(middle), limitBytes) === undefined) many = middle;
    else some = middle;
  }
  return encodeMessage(part(some));
}

function tryEncode(message: DnsMessage, limitBytes: number): Uint8Array | undefined {
  try {
    const bytes = encodeMessage(message);
    return bytes.length <= limitBytes ? bytes : undefined;
  } catch (thrown) {
    // More than any message holds; whatever else is wrong with the records would be our own fault.
    if (thrown instanceof RangeError) return undefined;
    throw thrown;
  }
}

/** The same message to this client: its id, its spelling. One that is too long goes without its records. */
function relay(query: DnsQuery, relayed: Uint8Array, limitBytes: number): Uint8Array {
  if (relayed.length > limitBytes) {
    const { flags } = decodeMessage(relayed);
    return encodeMessage({
      id: query.id,
      flags: { ...flags, truncated: true },
      questions: [query.question],
      answers: [],
      ...(query.edns && { edns: { udpBytes, dnssecOk: query.edns.dnssecOk } }),
    });
  }
  const bytes = relayed.slice();
  bytes[0] = query.id >> 8;
  bytes[1] = query.id & 255;
  const asked = encodeOutcome(query, failed(Rcode.noError), limitBytes);
  const end = nameEnd(asked);
  for (let at = HEADER_BYTES; at < end; at++) {
    // Letters that differ in case only are bytes that differ in one bit.
    if (((asked[at]! ^ (bytes[at] ?? 0)) & ~0x20) !== 0) return bytes;
  }
  bytes.set(asked.subarray(HEADER_BYTES, end), HEADER_BYTES);
  return bytes;
}

/** Where the question's name ends; nothing comes before it that it could point to. */
function nameEnd(message: Uint8Array): number {
  let at = HEADER_BYTES;
  while (message[at] !== 0) at += message[at]! + 1;
  return at;
}
