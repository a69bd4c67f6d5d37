/**
 * Rounds: a job that is done again whenever it is asked for, and at a period, without ever getting in its own way.
 *
 * Reading a table of the kernel costs the more the larger it is, and asks for it come in bursts (a flood of
 * changes overruns the socket again and again). So there is never more than one round at a time, however often
 * it is asked for; after each there is a rest in proportion to what it cost; and one that fails is tried again
 * later and later.
 */

import { messageOf } from "../lib/fault.ts";
import type { Cancel, Clock } from "../system/system.ts";

/** A round may take a tenth of the time: nine times as long as it took, nothing follows. */
const usualRestFactor = 9;
const usualMaxRestMs = 30_000;
const usualFirstRetryMs = 1_000;
const usualMaxRetryMs = 30_000;

export interface RoundsOptions {
  /** From start to start, if it is to be done by itself too. */
  readonly periodMs?: number;
  /** How many times as long as a round took nothing follows. Default 9. */
  readonly restFactor?: number;
  /** No rest is longer. Default 30 s. */
  readonly maxRestMs?: number;
  /** How long after a round that failed the next begins; after each further one twice as long. Default 1 s. */
  readonly firstRetryMs?: number;
  /** No wait after a failure is longer. Default 30 s. */
  readonly maxRetryMs?: number;
  /** A round failed with this; the next try is on its way. */
  onFault?(thrown: unknown): void;
}

export class Rounds {
  readonly #clock: Pick<Clock, "now" | "after">;
  readonly #job: (begin: () => void) => Promise<void>;
  readonly #options: RoundsOptions;
  #running = false;
  #asked = false;
  #closed = false;
  #failures = 0;
  #restEndsAt = 0;
  /** When the next round begins. */
  #dueAt = Number.POSITIVE_INFINITY;
  #cancel: Cancel = () => undefined;

  /** @param job calls `begin` if it had to wait for its turn: that is no part of what it costs. */
  constructor(
    clock: Pick<Clock, "now" | "after">,
    job: (begin: () => void) => Promise<void>,
    options: RoundsOptions = {},
  ) {
    this.#clock = clock;
    this.#job = job;
    this.#options = options;
  }

  /** The first round. If it fails, there will be none. */
  async start(): Promise<void> {
    const startedAt = this.#clock.now();
    this.#running = true;
    try {
      await this.#job(() => {});
    } catch (thrown) {
      this.close();
      throw thrown;
    }
    this.#finish(startedAt);
  }

  /** Asks for a round that begins after this call, as early as the rest from the last one allows. */
  soon(): void {
    if (this.#running) this.#asked = true;
    // Of a flood of asks the first has its round: one that moved it would put it off for as long as the flood lasts.
    else if (this.#failures === 0 && this.#dueAt > Math.max(this.#restEndsAt, this.#clock.now()))
      this.#schedule(this.#restEndsAt);
    // After a failure the next try is on its way and must not come earlier.
  }

  /** No round begins any more; one that runs comes to its end. */
  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  #schedule(at: number): void {
    this.#cancel();
    if (this.#closed) return;
    this.#dueAt = at;
    this.#cancel = this.#clock.after(Math.max(0, at - this.#clock.now()), () => void this.#run());
  }

  async #run(): Promise<void> {
    let startedAt = this.#clock.now();
    this.#running = true;
    this.#asked = false;
    this.#dueAt = Number.POSITIVE_INFINITY;
    try {
      await this.#job(() => {
        startedAt = this.#clock.now();
        // What was asked for until now is about to be done.
        this.#asked = false;
      });
    } catch (thrown) {
      this.#running = false;
      if (this.#closed) return;
      const { firstRetryMs = usualFirstRetryMs, maxRetryMs = usualMaxRetryMs } = this.#options;
      const delayMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures++);
      this.#schedule(this.#clock.now() + delayMs);
      this.#options.onFault?.(thrown);
      return;
    }
    this.#finish(startedAt);
  }

  #finish(startedAt: number): void {
    const now = this.#clock.now();
    const { restFactor = usualRestFactor, maxRestMs = usualMaxRestMs } = this.#options;
    this.#running = false;
    this.#failures = 0;
    this.#restEndsAt = now + Math.min(maxRestMs, restFactor * (now - startedAt));
    const { periodMs } = this.#options;
    if (this.#asked) this.#schedule(this.#restEndsAt);
    else if (periodMs !== undefined) this.#schedule(Math.max(startedAt + periodMs, this.#restEndsAt));
  }
}

/** For `onFault`: says what was thrown, but not the same again before its `end`. */
export function saidOnce(say: (line: string) => void): { say(thrown: unknown): void; end(): void } {
  let said: string | undefined;
  return {
    say: (thrown) => {
      const line = messageOf(thrown);
      if (line !== said) say(line);
      said = line;
    },
    end: () => {
      said = undefined;
    },
  };
}
