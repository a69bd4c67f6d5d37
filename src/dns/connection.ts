/**
 * One client's TCP connection (RFC 7766): questions as they come, answers as they are ready.
 *
 * Kept: how many questions wait, and since when there was none. Reading stops while as many wait as are allowed, or
 * while the client doesn't read; a client that reads nothing at all or says nothing at all is closed.
 */

import type { Address } from "../lib/address.ts";
import type { Cancel, Clock, Stream, StreamHandlers } from "../system/system.ts";
import { Frames, frame } from "./framing.ts";

export interface ConnectionOptions {
  readonly client: Address;
  readonly idleMs: number;
  /** A message. `reply` is to be called once; without an answer the connection is closed. */
  onMessage(bytes: Uint8Array, reply: (answer: Uint8Array | undefined) => void): void;
  /** Called once. Without a reason the client or we closed in order. */
  onEnd(reason: "idle" | "stream" | undefined): void;
}

/** Longer than any question. */
const maxQuestionBytes = 4096;
const maxWaiting = 32;
const maxQueuedBytes = 256 * 1024;

export class Connection {
  readonly handlers: StreamHandlers;
  readonly #clock: Clock;
  readonly #stream: Stream;
  readonly #options: ConnectionOptions;
  readonly #frames = new Frames(maxQuestionBytes);
  #held: Uint8Array[] = [];
  #waiting = 0;
  #isFull = false;
  /** Questions are being handed on: an answer at once must not begin that again. */
  #isHanding = false;
  #hasEnded = false;
  #over = false;
  #patience: Cancel;

  constructor(clock: Clock, stream: Stream, options: ConnectionOptions) {
    this.#clock = clock;
    this.#stream = stream;
    this.#options = options;
    this.#patience = clock.after(options.idleMs, () => this.#finish("idle"));
    this.handlers = {
      onBytes: (bytes) => this.#take(bytes),
      onDrain: () => {
        this.#isFull = false;
        this.#next();
      },
      onEnd: () => {
        this.#hasEnded = true;
        this.#next();
      },
      onClose: () => this.#finish(undefined),
    };
  }

  get client(): Address {
    return this.#options.client;
  }

  /** Nothing waits and nothing has begun. */
  get isIdle(): boolean {
    return this.#waiting === 0 && this.#held.length === 0 && !this.#frames.isCut;
  }

  close(): void {
    this.#finish(undefined);
  }

  #take(bytes: Uint8Array): void {
    try {
      this.#held.push(...this.#frames.take(bytes));
    } catch (thrown) {
      if (!(thrown instanceof SyntaxError)) throw thrown;
      this.#finish("stream");
      return;
    }
    this.#next();
  }

  /** Hands on what may be asked now. */
  #next(): void {
    if (this.#isHanding) return;
    this.#isHanding = true;
    while (!this.#over && !this.#isFull && this.#waiting < maxWaiting) {
      const message = this.#held.shift();
      if (message === undefined) break;
      this.#waiting++;
      this.#restart();
      this.#options.onMessage(message, (answer) => {
        this.#waiting--;
        this.#reply(answer);
      });
    }
    this.#isHanding = false;
    if (this.#over) return;
    if (this.#held.length > 0) this.#stream.pause();
    else if (this.#hasEnded && this.#waiting === 0) this.#stream.end();
    else this.#stream.resume();
  }

  #reply(answer: Uint8Array | undefined): void {
    if (this.#over) return;
    if (answer === undefined) {
      this.#finish(undefined);
      return;
    }
    if (!this.#stream.write(frame(answer))) this.#isFull = true;
    if (this.#stream.queuedBytes > maxQueuedBytes) this.#finish("stream");
    else this.#next();
  }

  /** The client has asked something: its time begins anew. */
  #restart(): void {
    this.#patience();
    this.#patience = this.#clock.after(this.#options.idleMs, () => this.#finish("idle"));
  }

  #finish(reason: "idle" | "stream" | undefined): void {
    if (this.#over) return;
    this.#over = true;
    this.#held = [];
    this.#patience();
    this.#stream.close();
    this.#options.onEnd(reason);
  }
}
