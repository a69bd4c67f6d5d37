/**
 * Which ids have become part of which other nodes, so that decisions made under them can go back.
 *
 * Kept by the id that went, with the id it went into and the epoch of that merge: merges are counted, and a
 * decision whose epoch is not below a merge's was made after it. An id that went into one that went itself stands
 * for the last of that row. Changed by `add`, `cut` and `forget`.
 */

/** One merge. */
export interface Merge {
  readonly old: number;
  readonly into: number;
  readonly epoch: number;
}

export class Merges {
  /** By the id that went, the oldest merge first. */
  readonly #merges = new Map<number, Merge>();
  #epoch = 0;

  /** @param merges without circles, no id going twice. */
  constructor(merges: readonly Merge[] = []) {
    for (const merge of merges) {
      this.#merges.set(merge.old, merge);
      this.#epoch = Math.max(this.#epoch, merge.epoch);
    }
  }

  get size(): number {
    return this.#merges.size;
  }

  /** What is decided now carries this. */
  get epoch(): number {
    return this.#epoch;
  }

  has(id: number): boolean {
    return this.#merges.has(id);
  }

  /** Whether ids have gone into an id. */
  isSuccessor(id: number): boolean {
    for (const { into } of this.#merges.values()) if (into === id) return true;
    return false;
  }

  /** The id that an id stands for now: itself, or the last one it became part of. */
  root(id: number): number {
    if (this.#merges.size === 0) return id;
    let at = id;
    for (let merge = this.#merges.get(at); merge; merge = this.#merges.get(at)) at = merge.into;
    return at;
  }

  /** The merges from an id to its root. */
  path(id: number): Merge[] {
    const path: Merge[] = [];
    for (let merge = this.#merges.get(id); merge; merge = this.#merges.get(merge.into)) path.push(merge);
    return path;
  }

  /** Both are roots, and different. */
  add(old: number, into: number): void {
    this.#merges.set(old, { old, into, epoch: ++this.#epoch });
  }

  /** An id stands for itself again, and takes along what became part of it. */
  cut(old: number): void {
    this.#merges.delete(old);
  }

  /** An id will not come back: what went into it counts as gone into its successor, which is returned. */
  forget(old: number): number {
    const gone = this.#merges.get(old)!;
    this.#merges.delete(old);
    for (const [id, merge] of this.#merges) {
      if (merge.into !== old) continue;
      this.#merges.set(id, { old: id, into: gone.into, epoch: Math.max(merge.epoch, gone.epoch) });
    }
    return gone.into;
  }

  /** The id that went longest ago. */
  oldest(): number | undefined {
    return this.#merges.keys().next().value;
  }

  all(): Merge[] {
    return [...this.#merges.values()];
  }
}
