/**
 * Requests in turns: each answered when it is enforced and durable, hundreds at once for the price of one.
 *
 * A job waits for its turn; a turn runs all that wait, then makes them hold together. What comes meanwhile waits for
 * the next. A job that cannot be done is refused alone.
 */

/** A job in its turn. */
export interface Job {
  /** Makes the change. What it throws is thrown to the caller. */
  run(job: Job): void;
  /** It may grant a lease: what others use has to be known. */
  readonly looks: boolean;
  /** What became of it, if it is not as it should be. */
  fault: unknown;
}

interface Waiting {
  readonly job: Job;
  resolve(): void;
  reject(thrown: unknown): void;
}

/** Jobs of one turn: more would let the first wait too long. */
const maxJobs = 1_024;

export class Turns {
  readonly #take: (jobs: readonly Job[]) => Promise<void>;
  #waiting: Waiting[] = [];
  #busy = false;

  /** @param take runs the jobs and makes them hold; sets the fault of those that do not. Never rejects. */
  constructor(take: (jobs: readonly Job[]) => Promise<void>) {
    this.#take = take;
  }

  /** Jobs that wait. */
  get length(): number {
    return this.#waiting.length;
  }

  /** Resolves when the job holds. @throws what it threw, or why it does not hold */
  do(run: Job["run"], looks = false): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ job: { run, looks, fault: undefined }, resolve, reject });
      if (this.#busy) return;
      this.#busy = true;
      void this.#takeAll();
    });
  }

  async #takeAll(): Promise<void> {
    // Calls made in one breath share the first turn too.
    await undefined;
    while (this.#waiting.length > 0) {
      const turn = this.#waiting.splice(0, maxJobs);
      await this.#take(turn.map(({ job }) => job));
      for (const { job, resolve, reject } of turn) {
        if (job.fault === undefined) resolve();
        else reject(job.fault);
      }
    }
    this.#busy = false;
  }
}
