/**
 * Netlink: questions to the kernel and their answers, and the messages that it sends by itself.
 *
 *      0               1               2               3
 *     +---------------------------------------------------------------+
 *     | length, header included                                       |  all in host byte order;
 *     +-------------------------------+-------------------------------+  several messages to a datagram,
 *     | type                          | flags                         |  each padded to 4 bytes
 *     +-------------------------------+-------------------------------+
 *     | sequence: the question's, 0 for a message without question    |
 *     +---------------------------------------------------------------+
 *     | port: the asker's                                             |
 *     +---------------------------------------------------------------+
 *     | payload: a fixed header of the protocol, then attributes      |
 *     +---------------------------------------------------------------+
 *
 * A `Netlink` keeps the open questions of one socket by sequence number. A message that carries our port and an
 * open number is an answer; one of another port is an event, even if its number is one of ours: notifications
 * carry the number and the port of whoever caused them. What is left over is an answer that comes too late.
 *
 * Only the kernel speaks here: for the protocols used (route, netfilter) it lets no unprivileged process send
 * to another's socket. Bytes that do not parse are counted, never thrown.
 *
 * Source: netlink(7), linux/netlink.h.
 */

import { Fault, type FaultCode } from "../lib/fault.ts";
import type { Cancel, Clock, DatagramSocket, NetlinkOptions, Sockets } from "../system/system.ts";
import { Attributes, concat, host, padded } from "./attribute.ts";

export const routeProtocol = 0;
export const netfilterProtocol = 12;

/** Header flags (NLM_F_…). */
const flag = { request: 0x1, acknowledge: 0x4, interrupted: 0x10, dump: 0x300 } as const;
/** Header flags of an error (NLM_F_…): the question in it is without payload; attributes follow. */
const errorFlag = { capped: 0x100, attributes: 0x200 } as const;
/** NLMSGERR_ATTR_MSG: what is wrong, in the kernel's words. */
const reasonAttribute = 1;

const headerBytes = 16;
const type = { noop: 1, error: 2, done: 3, overrun: 4 } as const;

/** One message of a datagram: a window on its bytes that moves on when the call ends. */
export interface Message {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly port: number;
  readonly bytes: Uint8Array;
  /** Where the payload lies in `bytes`. */
  readonly start: number;
  readonly end: number;
}

/** A message as bytes, ready to send. The port stays 0: the kernel knows who asks. */
export function encodeMessage(message: {
  type: number;
  flags: number;
  sequence: number;
  payload: Uint8Array;
}): Uint8Array {
  const size = headerBytes + message.payload.length;
  return concat([
    host.bytes32(size),
    host.bytes16(message.type),
    host.bytes16(message.flags),
    host.bytes32(message.sequence),
    host.bytes32(0),
    message.payload,
    new Uint8Array(padded(size) - size),
  ]);
}

/** Calls for each message of a datagram, in order. @returns false if the datagram ends amid one. */
export function eachMessage(bytes: Uint8Array, call: (message: Message) => void): boolean {
  const message = { type: 0, flags: 0, sequence: 0, port: 0, bytes, start: 0, end: 0 };
  let at = 0;
  while (at < bytes.length) {
    const left = bytes.length - at;
    const size = left < headerBytes ? 0 : host.read32(bytes, at);
    if (size < headerBytes || size > left) return false;
    message.type = host.read16(bytes, at + 4);
    message.flags = host.read16(bytes, at + 6);
    message.sequence = host.read32(bytes, at + 8);
    message.port = host.read32(bytes, at + 12);
    message.start = at + headerBytes;
    message.end = at + size;
    call(message);
    at += padded(size);
  }
  return true;
}

/** What is asked of the kernel, or told to it. */
export interface Question {
  readonly type: number;
  /** Beside those that the verb sets. */
  readonly flags?: number;
  readonly payload: Uint8Array;
  /** What we do, for the message of a Fault: "Cannot *delete connection*: …". */
  readonly verb: string;
}

export interface DumpHandlers {
  onMessage(message: Message): void;
  /** The table changed under the dump: everything comes again, forget what came. */
  onRestart?(): void;
}

export interface NetlinkHandlers {
  /** A message that answers no question. */
  onEvent?(message: Message): void;
  /** The events of one datagram have all been handed over. */
  onEventsEnd?(): void;
  /** Messages were dropped: what the events told is out of date. */
  onOverrun?(): void;
  /** The socket is gone without our doing. */
  onClose?(fault: Fault): void;
}

/** Kept by every reader of netlink, and shown in the agent's status. */
export interface NetlinkCounters {
  /** Messages received, answers and events. */
  messages: number;
  /** Messages and datagrams that did not parse. */
  malformed: number;
  /** Times that the kernel dropped messages because we read too slowly. */
  overruns: number;
  /** Answers that came after their question was given up. */
  stale: number;
}

export function newCounters(): NetlinkCounters {
  return { messages: 0, malformed: 0, overruns: 0, stale: 0 };
}

export type NetlinkSystem = Pick<Sockets, "netlink"> & Pick<Clock, "after">;

interface Pending {
  readonly question: Question;
  readonly dump: boolean;
  readonly onMessage: ((message: Message) => void) | undefined;
  readonly resolve: (interrupted: boolean) => void;
  readonly reject: (fault: Fault) => void;
  interrupted: boolean;
  /** Looks at the clock since something came. */
  silences: number;
  cancel: Cancel;
}

/**
 * How long the kernel may be silent on a question: it answers within microseconds, or never. It takes two looks
 * in a row, because after the process was held up a timer comes before what waits in the socket.
 */
const silenceMs = 2_500;
const maxSilences = 2;
const maxPending = 1_024;
/** Questions of one datagram: the send takes as long as the kernel does for all of them. */
const maxTogether = 64;
/** A table that changes under so many dumps in a row is not going to hold still. */
const maxRestarts = 20;

/** One netlink socket with its open questions. */
export class Netlink {
  readonly counters: NetlinkCounters;
  readonly #system: NetlinkSystem;
  readonly #options: NetlinkOptions;
  readonly #handlers: NetlinkHandlers;
  readonly #pending = new Map<number, Pending>();
  #sequence = 0;
  #socket: DatagramSocket | undefined;
  /** Tells the calls of the present socket from those of one that was dropped. */
  #generation = 0;
  /** The kernel runs one dump per socket at a time: each waits for the one before. */
  #lastDump: Promise<unknown> = Promise.resolve();
  #closed: Fault | undefined;

  /** @throws Fault "kernel" or "denied" */
  constructor(
    system: NetlinkSystem,
    options: NetlinkOptions & { readonly counters?: NetlinkCounters },
    handlers: NetlinkHandlers = {},
  ) {
    this.#system = system;
    this.#options = options;
    this.#handlers = handlers;
    this.counters = options.counters ?? newCounters();
    this.#open();
  }

  /**
   * Asks or tells, and waits until the kernel has done it; `onMessage` gets what it answers before that.
   *
   * @throws Fault "not-found", "conflict", "denied", "unsupported" or "kernel" as the kernel refuses (the number
   *   by `errnoOf`), "timeout", "closed", or "limit" if too many questions are open.
   */
  async request(question: Question, onMessage?: (message: Message) => void): Promise<void> {
    await this.#ask(question, flag.acknowledge, onMessage);
  }

  /**
   * Tells many things in order, as many to a system call as fit; one that is refused does not stop the others.
   *
   * @returns for each the Fault that `request` would have thrown, or undefined.
   */
  async requestAll(questions: readonly Question[]): Promise<readonly (Fault | undefined)[]> {
    const outcomes: (Fault | undefined)[] = [];
    for (let at = 0; at < questions.length; at += maxTogether) {
      const some = questions.slice(at, at + maxTogether);
      outcomes.push(...(await this.#askTogether(some)));
    }
    return outcomes;
  }

  /**
   * Reads a whole table, again from the start if it changed meanwhile. Dumps wait for each other.
   *
   * @throws Fault as `request` does, and "conflict" if the table never holds still.
   */
  dump(question: Question, handlers: DumpHandlers): Promise<void> {
    const dump = this.#lastDump.then(async () => {
      for (let restarts = 0; await this.#ask(question, flag.dump, handlers.onMessage); restarts++) {
        if (restarts === maxRestarts) throw cannot("conflict", question.verb, "the table keeps changing");
        handlers.onRestart?.();
      }
    });
    this.#lastDump = dump.catch(() => undefined);
    return dump;
  }

  /** Our number: notifications of what we did ourselves carry it. Undefined while no socket is open. */
  get port(): number | undefined {
    return this.#socket?.port;
  }

  close(): void {
    if (!this.#closed) this.#end(new Fault("closed", "Cannot ask the kernel: netlink socket closed"));
  }

  /** Resolves to whether the answer was interrupted by a change of the table. */
  #ask(question: Question, flags: number, onMessage?: (message: Message) => void): Promise<boolean> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw cannot("closed", question.verb, "netlink socket closed", this.#closed);
      if (this.#pending.size >= maxPending) throw cannot("limit", question.verb, "too many open questions");
      const sequence = this.#nextSequence();
      const dump = flags === flag.dump;
      const pending: Pending = {
        ...{ question, dump, onMessage, resolve, reject },
        ...{ interrupted: false, silences: 0, cancel: () => undefined },
      };
      const all = flag.request | flags | (question.flags ?? 0);
      this.#socket!.send(
        encodeMessage({ type: question.type, flags: all, sequence, payload: question.payload }),
      );
      this.#pending.set(sequence, pending);
      this.#watch(sequence, pending);
    });
  }

  /** All in one datagram: the kernel takes its messages one after the other before the send returns. */
  async #askTogether(questions: readonly Question[]): Promise<(Fault | undefined)[]> {
    const refuse = (code: FaultCode, state: string, cause?: unknown) =>
      questions.map(({ verb }) => cannot(code, verb, state, cause));
    if (this.#closed) return refuse("closed", "netlink socket closed", this.#closed);
    if (this.#pending.size + questions.length > maxPending) return refuse("limit", "too many open questions");
    const numbered = questions.map((question) => ({ question, sequence: this.#nextSequence() }));
    const messages = numbered.map(({ question: { type, flags = 0, payload }, sequence }) =>
      encodeMessage({ type, flags: flag.request | flag.acknowledge | flags, sequence, payload }),
    );
    try {
      this.#socket!.send(concat(messages));
    } catch (thrown) {
      if (!(thrown instanceof Fault)) throw thrown;
      return questions.map(() => thrown);
    }
    const answers = numbered.map(
      ({ question, sequence }) =>
        new Promise<Fault | undefined>((resolve) => {
          const pending: Pending = {
            ...{ question, dump: false, onMessage: undefined, reject: resolve },
            ...{ interrupted: false, silences: 0, cancel: () => undefined },
            resolve: () => resolve(undefined),
          };
          this.#pending.set(sequence, pending);
          this.#watch(sequence, pending);
        }),
    );
    return Promise.all(answers);
  }

  #nextSequence(): number {
    // 0 is for messages without question.
    this.#sequence = this.#sequence === 0xffffffff ? 1 : this.#sequence + 1;
    return this.#sequence;
  }

  #watch(sequence: number, pending: Pending): void {
    pending.cancel = this.#system.after(silenceMs, () => {
      if (++pending.silences < maxSilences) {
        this.#watch(sequence, pending);
        return;
      }
      this.#settle(sequence, cannot("timeout", pending.question.verb, "no answer from the kernel"));
      // The kernel may still be in the middle of it, and refuses the next dump until it is through.
      if (pending.dump) this.#reopen();
    });
  }

  #open(): void {
    // A socket that was closed may have a last call on its way.
    const generation = ++this.#generation;
    const current = () => generation === this.#generation;
    this.#socket = this.#system.netlink(this.#options, {
      onMessage: (bytes) => {
        if (current()) this.#receive(bytes, this.#socket!.port);
      },
      onOverrun: () => {
        if (current()) this.#overrun();
      },
      onClose: (fault) => {
        if (!current()) return;
        const reason = fault ?? new Fault("closed", "Cannot read netlink: socket closed");
        this.#end(reason);
        this.#handlers.onClose?.(reason);
      },
    });
  }

  #drop(): void {
    this.#generation++;
    this.#socket?.close();
    this.#socket = undefined;
  }

  #reopen(): void {
    this.#drop();
    const lost = new Fault("closed", "Cannot ask the kernel: netlink socket opened anew");
    for (const sequence of [...this.#pending.keys()]) this.#settle(sequence, lost);
    try {
      this.#open();
    } catch (thrown) {
      const fault = thrown instanceof Fault ? thrown : new Fault("kernel", "Cannot open netlink: it failed");
      this.#end(fault);
      this.#handlers.onClose?.(fault);
      return;
    }
    if (this.#options.groups?.length) this.#overrun();
  }

  #overrun(): void {
    this.counters.overruns++;
    this.#handlers.onOverrun?.();
  }

  #end(reason: Fault): void {
    this.#closed = reason;
    this.#drop();
    for (const sequence of [...this.#pending.keys()]) this.#settle(sequence, reason);
  }

  #receive(bytes: Uint8Array, port: number): void {
    let events = false;
    const whole = eachMessage(bytes, (message) => {
      if (this.#closed) return;
      this.counters.messages++;
      if (message.port === port && message.sequence !== 0) {
        this.#answer(message);
      } else if (message.type > type.overrun) {
        events = true;
        this.#handlers.onEvent?.(message);
      } else if (message.type === type.overrun) {
        this.#overrun();
      }
    });
    if (!whole) this.counters.malformed++;
    if (events && !this.#closed) this.#handlers.onEventsEnd?.();
  }

  #answer(message: Message): void {
    const pending = this.#pending.get(message.sequence);
    if (!pending) {
      this.counters.stale++;
      return;
    }
    pending.silences = 0;
    if (message.flags & flag.interrupted) pending.interrupted = true;
    if (message.type !== type.error && message.type !== type.done) {
      if (message.type > type.overrun) pending.onMessage?.(message);
      return;
    }
    // Both begin with a negative errno or 0; an old kernel ends a dump without it.
    const size = message.end - message.start;
    if (size < 4 && message.type === type.error) {
      this.counters.malformed++;
      return;
    }
    const errno = size < 4 ? 0 : -(host.read32(message.bytes, message.start) | 0);
    const fault = errno === 0 ? undefined : refusal(pending.question.verb, errno, reasonOf(message));
    this.#settle(message.sequence, fault);
  }

  #settle(sequence: number, fault: Fault | undefined): void {
    const pending = this.#pending.get(sequence)!;
    this.#pending.delete(sequence);
    pending.cancel();
    if (fault) pending.reject(fault);
    else pending.resolve(pending.interrupted);
  }
}

/**
 * What the kernel's error numbers mean to us. They differ between processors above 34: MIPS, of which many
 * routers are, counts otherwise, and the core cannot tell where it runs; the numbers listed here for either
 * are not used by netlink for anything else.
 */
const errnos = new Map<number, readonly [name: string, code: FaultCode]>([
  [1, ["EPERM", "denied"]],
  [2, ["ENOENT", "not-found"]],
  [3, ["ESRCH", "not-found"]],
  [12, ["ENOMEM", "kernel"]],
  [13, ["EACCES", "denied"]],
  [16, ["EBUSY", "conflict"]],
  [17, ["EEXIST", "conflict"]],
  [19, ["ENODEV", "not-found"]],
  [22, ["EINVAL", "kernel"]],
  [34, ["ERANGE", "kernel"]],
  [93, ["EPROTONOSUPPORT", "unsupported"]],
  [120, ["EPROTONOSUPPORT", "unsupported"]],
  [95, ["EOPNOTSUPP", "unsupported"]],
  [122, ["EOPNOTSUPP", "unsupported"]],
  [97, ["EAFNOSUPPORT", "unsupported"]],
  [124, ["EAFNOSUPPORT", "unsupported"]],
]);

/** The kernel's error number behind a Fault of `request` or `dump`, if there is one. */
export function errnoOf(thrown: unknown): number | undefined {
  const cause = thrown instanceof Fault ? (thrown.cause as { errno?: unknown } | undefined) : undefined;
  return typeof cause?.errno === "number" ? cause.errno : undefined;
}

function refusal(verb: string, errno: number, reason: string | undefined): Fault {
  const [name, code] = errnos.get(errno) ?? ["refused", "kernel"];
  return cannot(code, verb, `${reason ?? "the kernel refuses"} (${name}, ${errno})`, { errno });
}

/** The kernel's words in an error or at the end of a dump: after the number, and in an error after the question. */
function reasonOf({ bytes, flags, start, end, type: kind }: Message): string | undefined {
  if (!(flags & errorFlag.attributes)) return undefined;
  let at = start + 4;
  if (kind === type.error) {
    if (at + headerBytes > end) return undefined;
    at += flags & errorFlag.capped ? headerBytes : padded(host.read32(bytes, at));
  }
  const attributes = new Attributes(reasonAttribute);
  return attributes.read(bytes, at, end) ? attributes.text(reasonAttribute) : undefined;
}

function cannot(code: FaultCode, verb: string, state: string, cause?: unknown): Fault {
  return new Fault(code, `Cannot ${verb}: ${state}`, cause === undefined ? {} : { cause });
}
