/**
 * A lane: jobs of one owner, one after the other, where of the plans that wait only the newest is done.
 *
 * Whole plans replace each other, so while one is being applied all that wait but the last are out of date. Who
 * handed in an older one is answered when the newer is done: what was asked is in force as far as it still counts.
 */

interface Slot<Job> {
  job: Job;
  done: Promise<void>;
}

export class Lane<Job> {
  readonly #work: (job: Job) => Promise<void>;
  #tail: Promise<unknown> = Promise.resolve();
  /** The job that is last in the lane and has not begun: a newer one takes its place. */
  #waiting: Slot<Job> | undefined;

  constructor(work: (job: Job) => Promise<void>) {
    this.#work = work;
  }

  /** Resolves or rejects as the job does, or the one that took its place. */
  push(job: Job): Promise<void> {
    if (this.#waiting) {
      this.#waiting.job = job;
      return this.#waiting.done;
    }
    const slot: Slot<Job> = { job, done: Promise.resolve() };
    slot.done = this.between(() => {
      if (this.#waiting === slot) this.#waiting = undefined;
      return this.#work(slot.job);
    });
    this.#waiting = slot;
    return slot.done;
  }

  /** Does something else when it is its turn; jobs that come later are not done before it. */
  between<Result>(call: () => Promise<Result>): Promise<Result> {
    this.#waiting = undefined;
    const result = this.#tail.then(call);
    this.#tail = result.catch(() => undefined);
    return result;
  }
}
