/**
 * One client of the socket: many requests, answered in their order.
 *
 * Keeps what was read and not yet run, a slot for each request under way, and since when the client makes us
 * wait. Decisions run side by side, so that many at once cost the kernel as little as one; what looks waits for
 * the decisions before it. A client that does not read is not read from, and closed after a while; one that
 * begins a request and does not end it is told so and closed; one that says nothing costs nothing.
 *
 * SPIN answered one request per connection and closed, and its clients, spinweb among them, read until that
 * happens. So a connection on which one request came and was answered is ended after a short silence: at once in
 * human terms where nothing followed the request, later where a newline did, as clients that mean to go on send
 * it. After a second request it stays open.
 */

import type { Cancel, Clock, Stream, StreamHandlers } from "../system/system.ts";
import { Framer } from "./frame.ts";
import { garbage, oversize, type Request, type Rpc } from "./rpc.ts";

export interface ConversationLimits {
  readonly maxRequestBytes: number;
  /** Requests under way. */
  readonly maxUnderWay: number;
  /** A request must be complete this long after its first byte. */
  readonly partialMs: number;
  /** A client that has not read our answers for this long is closed. */
  readonly drainMs: number;
  /** Silence after a first request without, and with a newline behind it. */
  readonly lingerMs: number;
  readonly lineLingerMs: number;
}

export interface ConversationCounters {
  requests: number;
  /** Bytes that were no request, too many, or not all of one in time. */
  broken: number;
  /** Clients that did not read their answers. */
  slow: number;
}

interface Slot {
  isDone: boolean;
  text: string | undefined;
}

/** After this long, others get their turn. */
const sliceMs = 5;

const encoder = new TextEncoder();

export class Conversation implements StreamHandlers {
  readonly #clock: Clock;
  readonly #rpc: Rpc;
  readonly #stream: Stream;
  readonly #limits: ConversationLimits;
  readonly #counters: ConversationCounters;
  readonly #closed: () => void;
  readonly #framer: Framer;
  readonly #slots: Slot[] = [];
  /** Waits for the decisions before it. */
  #waiting: Request | undefined;
  #deciding = 0;
  #requests = 0;
  /** Whether the client may talk is still being found out. */
  #isHeld = true;
  #isPaused = true;
  /** The client sends no more. */
  #isEnded = false;
  /** We send no more once all is answered. */
  #isLast = false;
  #isGone = false;
  #partialSince: number | undefined;
  #stuckSince: number | undefined;
  #overSince: number | undefined;
  #linger: Cancel | undefined;
  #turn: Cancel | undefined;

  constructor(
    clock: Clock,
    stream: Stream,
    options: {
      readonly rpc: Rpc;
      readonly limits: ConversationLimits;
      readonly counters: ConversationCounters;
      /** Called once, at the end. */
      closed(): void;
    },
  ) {
    this.#clock = clock;
    this.#stream = stream;
    this.#rpc = options.rpc;
    this.#limits = options.limits;
    this.#counters = options.counters;
    this.#closed = options.closed;
    this.#framer = new Framer(options.limits.maxRequestBytes);
    stream.pause();
  }

  /** The client may talk. */
  admit(): void {
    this.#isHeld = false;
    this.#pump();
  }

  /** Closes at once. */
  close(): void {
    this.#stream.close();
  }

  /** To be called about once a second. */
  tick(now: number): void {
    const { partialMs, drainMs } = this.#limits;
    if (this.#overSince !== undefined && now - this.#overSince > drainMs) {
      this.close();
    } else if (this.#stuckSince !== undefined && now - this.#stuckSince > drainMs) {
      this.#counters.slow++;
      this.close();
    } else if (this.#partialSince !== undefined && now - this.#partialSince > partialMs) {
      this.#break();
      this.#pump();
    }
  }

  onBytes(bytes: Uint8Array): void {
    if (this.#isLast) return;
    this.#linger?.();
    this.#linger = undefined;
    this.#framer.feed(bytes.slice());
    this.#pump();
  }

  onEnd(): void {
    this.#isEnded = true;
    this.#pump();
  }

  onDrain(): void {
    this.#stuckSince = undefined;
    this.#pump();
  }

  onClose(): void {
    this.#isGone = true;
    this.#linger?.();
    this.#turn?.();
    this.#closed();
  }

  /** Runs what can be run, sends what is answered, and works out whom we wait for. */
  #pump(): void {
    if (this.#isGone || this.#isHeld || this.#turn || this.#overSince !== undefined) return;
    const endAt = this.#clock.now() + sliceMs;
    while (this.#mayRun()) {
      const request = this.#waiting ?? this.#next();
      if (request === undefined) break;
      this.#waiting = undefined;
      if (request.turn !== "decide" && this.#deciding > 0) {
        this.#waiting = request;
        break;
      }
      this.#run(request);
      this.#send();
      if (this.#clock.now() < endAt) continue;
      this.#turn = this.#clock.after(0, () => {
        this.#turn = undefined;
        this.#pump();
      });
      break;
    }
    this.#send();
    this.#rest();
  }

  #mayRun(): boolean {
    return this.#slots.length < this.#limits.maxUnderWay && this.#stuckSince === undefined && !this.#isGone;
  }

  /** The next request that is all there. */
  #next(): Request | undefined {
    if (this.#isLast) return undefined;
    const frame = this.#framer.next();
    if (frame === undefined) {
      // What will never be completed is answered as what it is.
      if (this.#isEnded && this.#framer.isPartial) return this.#broken();
      return undefined;
    }
    this.#partialSince = undefined;
    if (frame.kind === "text") {
      this.#requests++;
      this.#counters.requests++;
      return this.#rpc.open(frame.text);
    }
    if (frame.kind === "garbage") {
      this.#requests++;
      this.#counters.broken++;
      return garbage;
    }
    this.#broken();
    return oversize;
  }

  #broken(): Request {
    this.#isLast = true;
    this.#counters.broken++;
    return garbage;
  }

  /** The time for a request is over: it is answered after those before it, and nothing after it. */
  #break(): void {
    this.#partialSince = undefined;
    this.#waiting = this.#broken();
  }

  #run(request: Request): void {
    const slot: Slot = { isDone: false, text: undefined };
    this.#slots.push(slot);
    const answer = request.run();
    if (!(answer instanceof Promise)) {
      slot.isDone = true;
      slot.text = answer;
      return;
    }
    this.#deciding++;
    void answer.then((text) => {
      this.#deciding--;
      slot.isDone = true;
      slot.text = text;
      this.#pump();
    });
  }

  /** Sends the answers that no earlier one is missing for. */
  #send(): void {
    let text = "";
    while (this.#slots[0]?.isDone) {
      const answer = this.#slots.shift()!.text;
      if (answer !== undefined) text += `${answer}\n`;
    }
    if (text === "" || this.#isGone) return;
    if (!this.#stream.write(encoder.encode(text))) this.#stuckSince ??= this.#clock.now();
  }

  /** Everything that can be done now is done. */
  #rest(): void {
    if (this.#isGone) return;
    const isBusy =
      this.#slots.length > 0 ||
      this.#waiting !== undefined ||
      this.#turn !== undefined ||
      this.#stuckSince !== undefined;
    const isBehind = isBusy && this.#framer.hasUnread;
    if (isBehind !== this.#isPaused) {
      this.#isPaused = isBehind;
      if (isBehind) this.#stream.pause();
      else this.#stream.resume();
    }
    // While we are behind, it is not the client who keeps a request waiting.
    const isPartial = this.#framer.isPartial && !isBusy && !this.#isEnded;
    this.#partialSince = isPartial ? (this.#partialSince ?? this.#clock.now()) : undefined;
    if (isBusy || this.#framer.hasUnread) return;
    if (this.#isLast || this.#isEnded) this.#end();
    else if (this.#requests === 1 && !this.#framer.isPartial) this.#lingerOn();
  }

  #lingerOn(): void {
    const { lingerMs, lineLingerMs } = this.#limits;
    this.#linger ??= this.#clock.after(this.#framer.hasBlanks ? lineLingerMs : lingerMs, () => this.#end());
  }

  #end(): void {
    this.#isLast = true;
    this.#overSince = this.#clock.now();
    this.#stream.end();
  }
}
