/**
 * The numbers of nodes: each is given once, over all lives of the agent.
 *
 * What is saved reserves numbers ahead, and none past a reserve that is durable is given out: so whatever was
 * given before a crash, the next life starts behind it. The generation of the file before the last may be the
 * one that is read next (if the last is damaged), so it is its reserve that counts. A disk that takes nothing
 * for a minute lifts the bound: new nodes then matter more than their numbers.
 */

/** Ids stay within what a signed 32-bit integer on the bus can say. */
export const ID_MAX = 0x7fff_ffff;

/** Numbers reserved with each save: more than the nodes that can come before the next. */
const RESERVE = 16_384;
const WAIT_MS = 60_000;

export class Numbers {
  #next = 1;
  /** Numbers from here on are not given. */
  #durable = Number.POSITIVE_INFINITY;
  #confirmed: number | undefined;
  #pending: number | undefined;
  /** Since when a save is needed. */
  #shortAt: number | undefined;

  /** A save is needed, or soon no numbers are left. */
  get short(): boolean {
    return this.#pending === undefined || this.#durable - this.#next < RESERVE / 2;
  }

  /** @returns undefined while the reserve is used up. */
  give(now: number): number | undefined {
    if (this.#next >= Math.min(this.#durable, ID_MAX)) return undefined;
    if (this.short) this.#shortAt ??= now;
    return this.#next++;
  }

  /** The first number that a later life may give; to be stored. */
  reserve(): number {
    this.#pending = Math.min(ID_MAX, this.#next + RESERVE);
    return this.#pending;
  }

  /** What `reserve` last answered is on disk. */
  reserved(): void {
    if (this.#pending === undefined) return;
    this.#durable = this.#confirmed ?? this.#pending;
    this.#confirmed = this.#pending;
    this.#shortAt = undefined;
  }

  /** Goes on behind the reserve of an earlier life. */
  startAt(next: number): void {
    this.#next = Math.max(this.#next, next);
  }

  tick(now: number): void {
    if (this.#shortAt !== undefined && now - this.#shortAt > WAIT_MS) {
      this.#durable = Number.POSITIVE_INFINITY;
    }
  }
}
