/**
 * What a client asks: bytes to one question with what the client can take, or the answer to bytes that are no
 * question that anybody here answers. Keeps nothing.
 *
 * One question of class IN by a standard query is taken; everything else is told why not with the codes of RFC 1035,
 * 6891 (versions of EDNS) and 9619 (several questions). What is itself an answer is never answered, so that two
 * servers cannot be set upon each other.
 */

import {
  CLASS_IN,
  type DnsEdns,
  type DnsMessage,
  type DnsQuestion,
  decodeMessage,
  encodeMessage,
  HEADER_BYTES,
  isResponse,
  TYPE_OPT,
} from "../lib/dns.ts";

/** The low four bits of an answer's code (IANA DNS parameters). */
export const Rcode = {
  noError: 0,
  malformed: 1,
  failure: 2,
  noSuchName: 3,
  notImplemented: 4,
  refused: 5,
} as const;

/** What fits into one packet on every path (DNS flag day 2020). */
export const udpBytes = 1232;
/** What everybody takes over UDP who says nothing. */
const plainUdpBytes = 512;
/** What everybody takes over TCP. */
export const tcpBytes = 65_535;

const typeAxfr = 252;
const typeIxfr = 251;

export interface DnsQuery {
  readonly id: number;
  /** The name is spelled as the client spells it. */
  readonly question: DnsQuestion;
  readonly recursionDesired: boolean;
  readonly checkingDisabled: boolean;
  readonly authenticData: boolean;
  readonly edns?: DnsEdns;
}

export type Heard =
  | { readonly kind: "query"; readonly query: DnsQuery }
  /** Why the question is not taken, as the client is to be told. */
  | { readonly kind: "refusal"; readonly bytes: Uint8Array; readonly rcode: number }
  /** Nobody is answered. */
  | { readonly kind: "drop"; readonly reason: "short" | "response" };

/** Never throws. */
export function hear(bytes: Uint8Array): Heard {
  if (bytes.length < HEADER_BYTES) return { kind: "drop", reason: "short" };
  if (isResponse(bytes)) return { kind: "drop", reason: "response" };
  const opcode = (bytes[2]! >> 3) & 15;
  if (opcode !== 0) return refusal(bareOf(bytes, opcode), Rcode.notImplemented);
  let message: DnsMessage;
  try {
    message = decodeMessage(bytes);
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
    return refusal(bareOf(bytes, opcode), Rcode.malformed);
  }
  const { flags, questions, edns } = message;
  const question = questions[0];
  if (question === undefined || questions.length > 1 || message.answers.length > 0 || flags.truncated) {
    return refusal({ ...message, questions: [] }, Rcode.malformed);
  }
  if (edns?.version !== undefined) return refusal(message, Rcode.noError, 1);
  if (question.type === TYPE_OPT) return refusal(message, Rcode.malformed);
  if (question.type === typeAxfr || question.type === typeIxfr || question.class !== CLASS_IN) {
    return refusal(message, Rcode.refused);
  }
  const { recursionDesired, checkingDisabled, authenticData } = flags;
  return {
    kind: "query",
    query: {
      id: message.id,
      question,
      recursionDesired,
      checkingDisabled,
      authenticData,
      ...(edns && { edns }),
    },
  };
}

/** How long an answer over UDP may be. */
export function udpLimitOf(query: DnsQuery): number {
  return Math.min(udpBytes, Math.max(plainUdpBytes, query.edns?.udpBytes ?? 0));
}

/** A question without its question, for what could not be read. */
function bareOf(bytes: Uint8Array, opcode: number): DnsMessage {
  return {
    id: (bytes[0]! << 8) | bytes[1]!,
    flags: { ...silent, opcode, recursionDesired: (bytes[2]! & 1) !== 0 },
    questions: [],
    answers: [],
  };
}

const silent = {
  response: true,
  opcode: 0,
  authoritative: false,
  truncated: false,
  recursionDesired: false,
  recursionAvailable: false,
  authenticData: false,
  checkingDisabled: false,
  rcode: 0,
};

function refusal(to: DnsMessage, rcode: number, highRcode = 0): Heard {
  const { opcode, recursionDesired, checkingDisabled } = to.flags;
  const bytes = encodeMessage({
    id: to.id,
    flags: { ...silent, opcode, recursionDesired, checkingDisabled, rcode },
    questions: to.questions,
    answers: [],
    ...(to.edns && {
      edns: { udpBytes, dnssecOk: to.edns.dnssecOk, ...(highRcode > 0 && { highRcode }) },
    }),
  });
  return { kind: "refusal", bytes, rcode: highRcode * 16 + rcode };
}
