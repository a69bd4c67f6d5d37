/**
 * The numbers of nodes: each is given once, over all lives of the agent.
 *
 * What is saved reserves numbers ahead, and none past a reserve that is durable is given out: so whatever was
 * given before a crash, the next life starts behind it. If the file is damaged, the generation before is read
 * instead: its reserve may be one step behind, so that life starts a step further on. A disk that takes nothing
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

  /**
   * The first number that a later life may give; to be stored.
   *
   * @param last This life gives none after it, so nothing is skipped.
   */
  reserve({ last = false } = {}): number {
    this.#pending = Math.min(ID_MAX, this.#next + (last ? 0 : RESERVE));
    return this.#pending;
  }

  /** What `reserve` last answered is on disk. */
  reserved(): void {
    if (this.#pending === undefined) return;
    this.#durable = this.#pending;
    this.#shortAt = undefined;
  }

  /**
   * Goes on behind the reserve of an earlier life.
   *
   * @param older It is from the generation before the last.
   */
  startAt(next: number, { older = false } = {}): void {
    this.#next = Math.min(ID_MAX, Math.max(this.#next, next + (older ? RESERVE : 0)));
  }

  tick(now: number): void {
    if (this.#shortAt !== undefined && now - this.#shortAt > WAIT_MS) {
      this.#durable = Number.POSITIVE_INFINITY;
    }
  }
}
