/**
 * A DNS client: questions to upstream servers, and what they truly answered.
 *
 * Kept: how many questions are out (bounded), and which messages were ignored, by reason. Each try has a socket of
 * its own, on a port that the kernel picks at random and that hears its upstream only, and a random id; an answer
 * counts if it comes there, with that id, to that question. Whoever guesses makes the try go on over TCP after some
 * wrong guesses. A try without an answer in time is made again, at the next upstream.
 */

import {
  CLASS_IN,
  type DnsMessage,
  type DnsRecord,
  decodeMessage,
  encodeMessage,
  foldName,
  HEADER_BYTES,
  isResponse,
  TYPE_CNAME,
} from "../lib/dns.ts";
import { Fault } from "../lib/fault.ts";
import type { Clock, Endpoint, Sockets, UdpSocket } from "../system/system.ts";
import { Frames, frame } from "./framing.ts";
import { Rcode, tcpBytes, udpBytes } from "./query.ts";
import { type TransferOptions, transferZone } from "./zone.ts";

export type { TransferOptions } from "./zone.ts";

/** What a client needs of the machine. */
export type ClientSystem = Clock &
  Pick<Sockets, "udp" | "tcpConnect"> & { random(length: number): Uint8Array };

export interface DnsClientOptions {
  /** Asked in this order. */
  readonly upstreams: readonly Endpoint[];
  /** How long one try may take. Default 1.5 s. */
  readonly tryMs?: number;
  /** Default 3. */
  readonly tries?: number;
  /** Questions at a time. Default 256. */
  readonly maxOut?: number;
}

/** A question; the rest is as a stub resolver asks. */
export interface Asking {
  readonly name: string;
  readonly type: number;
  readonly checkingDisabled?: boolean;
  readonly authenticData?: boolean;
  /** Default true. */
  readonly recursionDesired?: boolean;
  /** false: without EDNS, as clients ask that know none. Default: with it, without DNSSEC. */
  readonly edns?: { readonly dnssecOk: boolean } | false;
}

export interface Answered {
  readonly message: DnsMessage;
  /** The same as it came. */
  readonly bytes: Uint8Array;
}

/** Why a message was no answer; a closed list. */
export type IgnoredAnswer = "malformed" | "id" | "question" | "not-an-answer";

/** Wrong guesses after which UDP is not trusted any more. */
const maxGuesses = 16;

type Verdict = Answered | IgnoredAnswer;

export class DnsClient {
  readonly #system: ClientSystem;
  readonly #options: DnsClientOptions;
  readonly #ignored = new Map<IgnoredAnswer, number>();
  readonly #ends = new Set<(fault: Fault) => void>();
  #out = 0;
  #closed = false;

  constructor(system: ClientSystem, options: DnsClientOptions) {
    this.#system = system;
    this.#options = options;
  }

  /** Messages that were taken for no answer, by reason. */
  get ignored(): ReadonlyMap<IgnoredAnswer, number> {
    return this.#ignored;
  }

  /** Questions that are out. */
  get out(): number {
    return this.#out;
  }

  /**
   * Asks the upstreams until one knows. "No such name" is an answer, and so is a failure or refusal that the last
   * of them gives.
   *
   * @throws Fault "timeout" if nobody answered in time, "closed" if nobody is there, "limit" if too much is asked.
   * @throws SyntaxError for a name that is none.
   */
  async ask(asking: Asking): Promise<Answered> {
    return this.#counted(async () => {
      const { tries = 3, upstreams } = this.#options;
      let last: Answered | undefined;
      let fault = new Fault("not-found", `Cannot ask for ${asking.name}: no upstream is known`);
      for (let index = 0; index < Math.max(tries, upstreams.length) && !this.#closed; index++) {
        const upstream = upstreams[index % upstreams.length];
        if (upstream === undefined) break;
        try {
          last = await this.#try(asking, upstream);
          if (!isFailure(last.message) || index >= upstreams.length - 1) return last;
        } catch (thrown) {
          if (!(thrown instanceof Fault)) throw thrown;
          fault = thrown;
        }
      }
      if (last) return last;
      throw fault;
    });
  }

  /**
   * The records of a whole zone (AXFR, RFC 5936), its SOA record first.
   *
   * @throws Fault "denied" if the server doesn't give it, "closed" if it ends before its end or is damaged,
   *   "timeout", "limit" if it has more records or bytes than allowed.
   */
  async transfer(zone: string, server: Endpoint, options: TransferOptions = {}): Promise<DnsRecord[]> {
    return this.#counted(() => {
      const id = this.#id();
      const question = { name: zone, type: 252 };
      const query = encodeQuestion({ ...question, recursionDesired: false, edns: false }, id);
      return transferZone(this.#system, { ...options, zone, id, query, server, register: this.#register });
    });
  }

  /** Whoever waits is told that it is over. */
  close(): void {
    this.#closed = true;
    for (const end of [...this.#ends]) end(new Fault("closed", "Cannot ask: the client is closed"));
  }

  async #counted<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new Fault("closed", "Cannot ask: the client is closed");
    if (this.#out >= (this.#options.maxOut ?? 256)) throw new Fault("limit", "Cannot ask: too much is asked");
    this.#out++;
    try {
      return await work();
    } finally {
      this.#out--;
    }
  }

  /** Keeps a way to end something until it has ended. */
  readonly #register = (end: (fault: Fault) => void): (() => void) => {
    this.#ends.add(end);
    return () => this.#ends.delete(end);
  };

  async #try(asking: Asking, upstream: Endpoint): Promise<Answered> {
    const id = this.#id();
    const query = encodeQuestion(asking, id);
    const judge = (bytes: Uint8Array) => this.#judge(bytes, id, asking);
    const answered = await this.#overUdp(query, upstream, judge);
    if (answered === undefined || answered.message.flags.truncated) {
      return this.#overTcp(query, upstream, judge);
    }
    const { rcode } = answered.message.flags;
    const isOld = rcode === Rcode.malformed || rcode === Rcode.notImplemented;
    // A server from before EDNS.
    if (isOld && asking.edns !== false) return this.#try({ ...asking, edns: false }, upstream);
    return answered;
  }

  /** undefined: there were so many wrong answers that a right one may be one of them. */
  #overUdp(
    query: Uint8Array,
    upstream: Endpoint,
    judge: (bytes: Uint8Array) => Verdict,
  ): Promise<Answered | undefined> {
    return this.#timed(upstream, (settle) => {
      let guesses = 0;
      const address = anyOf(upstream);
      const socket: UdpSocket = this.#system.udp(
        { address, port: 0, peer: upstream },
        {
          onMessage: (bytes) => {
            const verdict = judge(bytes);
            if (typeof verdict === "object") settle.done(verdict);
            else if (++guesses >= maxGuesses) settle.done(undefined);
          },
          onOverrun() {},
          onClose: (fault) =>
            settle.failed(fault ?? new Fault("closed", `Cannot ask ${upstream.address}: closed`)),
        },
      );
      try {
        socket.send(query);
      } catch (thrown) {
        socket.close();
        throw thrown;
      }
      return () => socket.close();
    });
  }

  #overTcp(query: Uint8Array, upstream: Endpoint, judge: (bytes: Uint8Array) => Verdict): Promise<Answered> {
    return this.#timed(upstream, (settle) => {
      const frames = new Frames(tcpBytes);
      const stream = this.#system.tcpConnect(upstream, {
        onConnect: () => stream.write(frame(query)),
        onBytes: (bytes) => {
          for (const message of frames.take(bytes)) {
            const verdict = judge(message);
            if (typeof verdict === "object") settle.done(verdict);
          }
        },
        onClose: (fault) =>
          settle.failed(fault ?? new Fault("closed", `Cannot ask ${upstream.address}: it closed`)),
      });
      return () => stream.close();
    });
  }

  /** Runs one try: it ends with an answer, a fault, its time, or the client. */
  #timed<T>(
    upstream: Endpoint,
    start: (settle: { done(value: T): void; failed(fault: Fault): void }) => () => void,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      let stop = (): void => {};
      const finish = (then: () => void): void => {
        cancel();
        unregister();
        stop();
        then();
      };
      const failed = (fault: Fault): void => finish(() => reject(fault));
      const { tryMs = 1_500 } = this.#options;
      const cancel = this.#system.after(tryMs, () =>
        failed(new Fault("timeout", `Cannot ask ${upstream.address}: no answer within ${tryMs} ms`)),
      );
      const unregister = this.#register(failed);
      try {
        stop = start({ done: (value) => finish(() => resolve(value)), failed });
      } catch (thrown) {
        finish(() => reject(thrown));
      }
    });
  }

  #judge(bytes: Uint8Array, id: number, asking: Asking): Verdict {
    const verdict = judgeAnswer(bytes, id, asking);
    if (typeof verdict === "string") this.#ignored.set(verdict, (this.#ignored.get(verdict) ?? 0) + 1);
    return verdict;
  }

  #id(): number {
    const [high, low] = this.#system.random(2);
    return (high! << 8) | low!;
  }
}

/** What a message is to a question. Only one with the right id is read. */
function judgeAnswer(bytes: Uint8Array, id: number, asking: Asking): Verdict {
  if (bytes.length < HEADER_BYTES) return "malformed";
  if (((bytes[0]! << 8) | bytes[1]!) !== id) return "id";
  if (!isResponse(bytes)) return "not-an-answer";
  const copy = bytes.slice();
  let message: DnsMessage;
  try {
    message = decodeMessage(copy);
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
    return "malformed";
  }
  const [question] = message.questions;
  const { rcode } = message.flags;
  // Who cannot read a question, or won't, may leave it out.
  const isMute = message.questions.length === 0 && rcode !== Rcode.noError && rcode !== Rcode.noSuchName;
  const isOurs =
    message.questions.length === 1 &&
    foldName(question!.name) === foldName(asking.name) &&
    question!.type === asking.type &&
    question!.class === CLASS_IN;
  return isOurs || isMute ? { message, bytes: copy } : "question";
}

/** The bytes of a question. @throws SyntaxError for a name that is none. */
function encodeQuestion(asking: Asking, id: number): Uint8Array {
  const { name, type, recursionDesired = true, checkingDisabled = false, authenticData = false } = asking;
  return encodeMessage({
    id,
    flags: {
      response: false,
      opcode: 0,
      authoritative: false,
      truncated: false,
      recursionDesired,
      recursionAvailable: false,
      authenticData,
      checkingDisabled,
      rcode: 0,
    },
    questions: [{ name, type, class: CLASS_IN }],
    answers: [],
    ...(asking.edns !== false && { edns: { udpBytes, dnssecOk: asking.edns?.dnssecOk ?? false } }),
  });
}

/** Another server may do better. */
function isFailure({ flags: { rcode } }: DnsMessage): boolean {
  return rcode !== Rcode.noError && rcode !== Rcode.noSuchName;
}

function anyOf({ address }: Endpoint): Endpoint["address"] {
  return (address.includes(":") ? "::" : "0.0.0.0") as Endpoint["address"];
}

/**
 * What an answer says about a name: the aliases that lead on from it, in their order, and the records of a type
 * where they end.
 */
export function followAliases(
  answers: readonly DnsRecord[],
  name: string,
  type: number,
): { readonly aliases: readonly DnsRecord[]; readonly records: readonly DnsRecord[] } {
  const aliases: DnsRecord[] = [];
  const seen = new Set<string>();
  let at = foldName(name);
  while (!seen.has(at)) {
    seen.add(at);
    const own = answers.filter((each) => each.class === CLASS_IN && foldName(each.name) === at);
    const records = own.filter((each) => each.type === type);
    if (records.length > 0) return { aliases, records };
    const alias = own.find((each) => each.type === TYPE_CNAME && each.target !== undefined);
    if (alias === undefined) break;
    aliases.push(alias);
    at = foldName(alias.target!);
  }
  return { aliases, records: [] };
}
