/**
 * Rounds: a job that is done again whenever it is asked for, and at a period, without ever getting in its own way.
 *
 * Reading a table of the kernel costs the more the larger it is, and asks for it come in bursts (a flood of
 * changes overruns the socket again and again). So there is never more than one round at a time, however often
 * it is asked for; after each there is a rest in proportion to what it cost; and one that fails is tried again
 * later and later.
 */

import type { Cancel, Clock } from "../system/system.ts";

/** A round may take a tenth of the time: nine times as long as it took, nothing follows. */
const usualRestFactor = 9;
const maxRestMs = 30_000;
const firstRetryMs = 1_000;
const maxRetryMs = 30_000;

export interface RoundsOptions {
  /** From start to start, if it is to be done by itself too. */
  readonly periodMs?: number;
  /** How many times as long as a round took nothing follows. Default 9. */
  readonly restFactor?: number;
  /** A round failed with this; the next try is on its way. */
  onFault?(thrown: unknown): void;
}

export class Rounds {
  readonly #clock: Pick<Clock, "now" | "after">;
  readonly #job: () => Promise<void>;
  readonly #options: RoundsOptions;
  #running = false;
  #asked = false;
  #closed = false;
  #failures = 0;
  #restEndsAt = 0;
  #cancel: Cancel = () => undefined;

  constructor(clock: Pick<Clock, "now" | "after">, job: () => Promise<void>, options: RoundsOptions = {}) {
    this.#clock = clock;
    this.#job = job;
    this.#options = options;
  }

  /** The first round. If it fails, there will be none. */
  async start(): Promise<void> {
    const startedAt = this.#clock.now();
    this.#running = true;
    try {
      await this.#job();
    } catch (thrown) {
      this.close();
      throw thrown;
    }
    this.#finish(startedAt);
  }

  /** Asks for a round that begins after this call, as early as the rest from the last one allows. */
  soon(): void {
    if (this.#running) this.#asked = true;
    else if (this.#failures === 0) this.#schedule(this.#restEndsAt);
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
    this.#cancel = this.#clock.after(Math.max(0, at - this.#clock.now()), () => void this.#run());
  }

  async #run(): Promise<void> {
    const startedAt = this.#clock.now();
    this.#running = true;
    this.#asked = false;
    try {
      await this.#job();
    } catch (thrown) {
      this.#running = false;
      if (this.#closed) return;
      const delayMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures++);
      this.#schedule(this.#clock.now() + delayMs);
      this.#options.onFault?.(thrown);
      return;
    }
    this.#finish(startedAt);
  }

  #finish(startedAt: number): void {
    const now = this.#clock.now();
    const { restFactor = usualRestFactor } = this.#options;
    this.#running = false;
    this.#failures = 0;
    this.#restEndsAt = now + Math.min(maxRestMs, restFactor * (now - startedAt));
    const { periodMs } = this.#options;
    if (this.#asked) this.#schedule(this.#restEndsAt);
    else if (periodMs !== undefined) this.#schedule(Math.max(startedAt + periodMs, this.#restEndsAt));
  }
}
