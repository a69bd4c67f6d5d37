/**
 * What is new about nodes and not yet told: to subscribers (changed, removed, merged, split) and, of pinned
 * nodes, to the kernel (ends).
 *
 * Each queue is bounded; who doesn't take what is in it loses the oldest. Merges and splits of one id cancel what
 * is still in the queues about it, so that what is taken is true at that moment, in whatever order it is read.
 */

export type RemovalReason = "expired" | "evicted" | "alias" | "user";

export interface Removal {
  readonly id: number;
  readonly reason: RemovalReason;
}

export interface Merge {
  readonly id: number;
  readonly into: number;
}

export interface Split {
  readonly id: number;
  /** The node that it was part of. */
  readonly from: number;
}

export class News {
  readonly changed = new Set<number>();
  readonly ends = new Set<number>();
  readonly #limits: { readonly nodes: number; readonly aliases: number };
  #removed: Removal[] = [];
  #merged: Merge[] = [];
  #split: Split[] = [];

  constructor(limits: { readonly nodes: number; readonly aliases: number }) {
    this.#limits = limits;
  }

  removed(id: number, reason: RemovalReason): void {
    this.#removed.push({ id, reason });
    if (this.#removed.length > this.#limits.nodes * 4) this.#removed.splice(0, this.#limits.nodes);
  }

  merged(id: number, into: number): void {
    if (this.#split.length > 0) this.#split = this.#split.filter((each) => each.id !== id);
    this.#merged.push({ id, into });
    if (this.#merged.length > this.#limits.aliases) this.#merged.shift();
  }

  split(id: number, from: number): void {
    this.#merged = this.#merged.filter((each) => each.id !== id);
    this.#split.push({ id, from });
    if (this.#split.length > this.#limits.aliases) this.#split.shift();
  }

  takeRemoved(): Removal[] {
    const taken = this.#removed;
    this.#removed = [];
    return taken;
  }

  takeMerged(): Merge[] {
    const taken = this.#merged;
    this.#merged = [];
    return taken;
  }

  takeSplit(): Split[] {
    const taken = this.#split;
    this.#split = [];
    return taken;
  }
}
