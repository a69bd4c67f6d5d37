/**
 * Work in turns: what waits is done together, and everybody is answered when it holds; hundreds for the price of one.
 *
 * A turn takes all that wait, as many as allowed; what comes meanwhile waits for the next. What one thing of a turn
 * comes to is for whoever does the turns to say: `undefined` for done, or why it is refused.
 */

interface Waiting<Job> {
  readonly job: Job;
  resolve(): void;
  reject(thrown: unknown): void;
}

export class Turns<Job> {
  readonly #take: (jobs: readonly Job[]) => Promise<readonly unknown[]>;
  readonly #most: number;
  readonly #waiting: Waiting<Job>[] = [];
  #busy = false;

  /**
   * @param take does a turn; answers for each job `undefined`, or what its caller is thrown. Never rejects.
   * @param most jobs of one turn: more would let the first wait too long.
   */
  constructor(take: (jobs: readonly Job[]) => Promise<readonly unknown[]>, most = Number.POSITIVE_INFINITY) {
    this.#take = take;
    this.#most = most;
  }

  /** Jobs that wait. */
  get length(): number {
    return this.#waiting.length;
  }

  /** Jobs wait or are being done. */
  get busy(): boolean {
    return this.#busy;
  }

  /** Resolves when the job is done. @throws why it was refused */
  do(job: Job): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ job, resolve, reject });
      if (this.#busy) return;
      this.#busy = true;
      void this.#takeAll();
    });
  }

  async #takeAll(): Promise<void> {
    // Calls made in one breath share the first turn too.
    await undefined;
    while (this.#waiting.length > 0) {
      const turn = this.#waiting.splice(0, this.#most);
      const faults = await this.#take(turn.map(({ job }) => job));
      for (const [index, { resolve, reject }] of turn.entries()) {
        const fault = faults[index];
        if (fault === undefined) resolve();
        else reject(fault);
      }
    }
    this.#busy = false;
  }
}
