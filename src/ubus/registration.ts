/** Something that stays asked of the bus over all connections until it is cancelled. */

/** A published object, an event pattern, a subscription. */
export interface Registration {
  /**
   * Resolves when the bus has granted it for the first time, rejects with the Fault if the bus refuses it
   * first. Nobody has to look at it. A refusal is not the end: it is asked for again some seconds later.
   */
  readonly done: Promise<void>;
  /** Ends it. */
  cancel(): void;
}

/** What is done about a refusal, or a handler that threw. */
export interface Trouble {
  /** Says so, once. */
  log(thrown: unknown): void;
  /** Calls some seconds later, for another try. */
  later(call: () => void): void;
}

/** A registration with its two ends: who asks keeps it, who grants settles it. */
export class Grant implements Registration {
  readonly done: Promise<void>;
  readonly #cancel: () => void;
  #resolve!: () => void;
  #reject!: (thrown: unknown) => void;
  #cancelled = false;

  constructor(cancel: () => void) {
    this.#cancel = cancel;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.done.catch(() => {});
  }

  get cancelled(): boolean {
    return this.#cancelled;
  }

  /** Only the first of `grant` and `refuse` counts for `done`. */
  grant(): void {
    this.#resolve();
  }

  refuse(thrown: unknown): void {
    this.#reject(thrown);
  }

  cancel(): void {
    if (this.#cancelled) return;
    this.#cancelled = true;
    this.#cancel();
  }
}
