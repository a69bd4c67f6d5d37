/**
 * Commands in turns: each answered when it is enforced and durable, hundreds at once for the price of one.
 *
 * A command waits for its turn; a turn applies all that wait, in order, and commits once. What comes meanwhile waits
 * for the next. A command that asks for something impossible is refused alone. If the commit fails and nothing holds,
 * all of the turn is taken back, last first, and that is committed too; if only the disk refused, it stays.
 */

import { Fault } from "../lib/fault.ts";

/** A change that was made, and how to unmake it. */
export interface Applied<Result> {
  readonly result: Result;
  readonly undo?: (() => void) | undefined;
}

interface Waiting {
  apply(): Applied<unknown>;
  resolve(result: never): void;
  reject(thrown: unknown): void;
}

/** Commands of one turn: more would let the first wait too long. */
const maxJobs = 1_024;
const maxWaiting = 16_384;

export class Turns {
  readonly #commit: () => Promise<void>;
  #waiting: Waiting[] = [];
  #isBusy = false;

  /** @param commit throws Fault "storage" if all is enforced and only not durable; any other: not enforced. */
  constructor(commit: () => Promise<void>) {
    this.#commit = commit;
  }

  /** @throws what `apply` throws; Fault "limit" if too many wait; what `commit` threw. */
  do<Result>(apply: () => Applied<Result>): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      if (this.#waiting.length >= maxWaiting) {
        reject(new Fault("limit", "Cannot change isolation: too many wait already"));
        return;
      }
      this.#waiting.push({ apply, resolve, reject });
      if (this.#isBusy) return;
      this.#isBusy = true;
      void this.#takeAll();
    });
  }

  async #takeAll(): Promise<void> {
    // Calls made in one breath share the first turn too.
    await undefined;
    while (this.#waiting.length > 0) await this.#take(this.#waiting.splice(0, maxJobs));
    this.#isBusy = false;
  }

  async #take(turn: readonly Waiting[]): Promise<void> {
    const done: { readonly job: Waiting; readonly applied: Applied<unknown> }[] = [];
    for (const job of turn) {
      try {
        done.push({ job, applied: job.apply() });
      } catch (thrown) {
        job.reject(thrown);
      }
    }
    if (done.length === 0) return;
    try {
      // What was so already is committed too: it may be on its way, or an earlier save may have failed.
      await this.#commit();
    } catch (thrown) {
      if (!(thrown instanceof Fault && thrown.code === "storage")) {
        for (const { applied } of done.reverse()) applied.undo?.();
        // The fault that matters is already on its way to the caller.
        await this.#commit().catch(() => {});
      }
      for (const { job } of done) job.reject(thrown);
      return;
    }
    for (const { job, applied } of done) job.resolve(applied.result as never);
  }
}
