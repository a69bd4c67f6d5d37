/**
 * Look-ups of names outside that run now, each once at a time.
 *
 * Kept by name, with who wants to know. Each is a query of ours upstream, so there are not many: some for those who wait
 * for an answer, some for what is due, and of both nobody has more than a share, so that whose names are slow is in
 * nobody's way.
 */

import type { Lookup } from "./outside.ts";

export interface LookupsOptions {
  /** Asks the world. What it throws means that nobody answered. */
  ask(name: string): Promise<Lookup> | undefined;
  learn(name: string, lookup: Lookup): void;
}

/** Who wants to know; undefined: nobody in particular, somebody is connected to just this name. */
type Asker = string | undefined;

interface Running {
  readonly looking: Promise<void>;
  readonly asker: Asker;
  /** It is due, and nobody waits for it. */
  readonly isRenewal: boolean;
}

const mostWaited = 24;
const mostRenewals = 16;
/** Of one asker, of both. */
const mostOfOne = 8;

export class Lookups {
  readonly #options: LookupsOptions;
  readonly #running = new Map<string, Running>();

  constructor(options: LookupsOptions) {
    this.#options = options;
  }

  /** For somebody who waits. Never rejects. @returns when it is learnt; undefined if too many run. */
  look(name: string, asker: string): Promise<void> | undefined {
    const running = this.#running.get(name)?.looking;
    return running ?? this.#start(name, asker, false);
  }

  /** Looks up, of what is due and nobody waits for, what may be. The rest is due the next time. */
  renew(due: Iterable<{ readonly name: string; readonly asker: Asker }>): void {
    for (const { name, asker } of due) if (!this.#running.has(name)) void this.#start(name, asker, true);
  }

  #start(name: string, asker: Asker, isRenewal: boolean): Promise<void> | undefined {
    const all = [...this.#running.values()];
    const count = all.filter((each) => each.isRenewal === isRenewal).length;
    if (count >= (isRenewal ? mostRenewals : mostWaited)) return undefined;
    if (asker !== undefined && all.filter((each) => each.asker === asker).length >= mostOfOne)
      return undefined;
    const looking = Promise.resolve()
      .then(() => this.#options.ask(name) ?? ({ kind: "silent" } as const))
      .catch((): Lookup => ({ kind: "silent" }))
      .then((found) => {
        this.#running.delete(name);
        this.#options.learn(name, found);
      });
    this.#running.set(name, { looking, asker, isRenewal });
    return looking;
  }
}
