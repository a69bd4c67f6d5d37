/**
 * What the disk has to learn of drawn mappings, and when.
 *
 * Kept: the records that it has to learn of at once, since somebody waits or a promise outlasts what it knows, and
 * those that can wait for others. What is written is later than what was promised, by a life, so that a mapping in
 * daily use is written every few hours only.
 */

import { Mark, type Records } from "./records.ts";
import { renderMapping } from "./saved.ts";

/** A record for good: a number, and which of its lives. */
export interface Named {
  readonly record: number;
  readonly life: number;
}

/** What the disk has to learn of a record. */
export interface Unkept extends Named {
  readonly untilAt: number;
  readonly line: string;
}

export class Keeping {
  readonly #records: Records;
  readonly #lifeMs: number;
  readonly #aheadMs: number;
  readonly #urgent = new Set<number>();
  readonly #lazy = new Set<number>();

  /** @param times how much later is written than is promised; how much earlier than needed. */
  constructor(records: Records, times: { readonly lifeMs: number; readonly aheadMs: number }) {
    this.#records = records;
    this.#lifeMs = times.lifeMs;
    this.#aheadMs = times.aheadMs;
  }

  /** Whether the disk has to learn something at once. */
  get isUrgent(): boolean {
    return this.#urgent.size > 0;
  }

  /** Of how many records it has to learn. */
  get size(): number {
    return this.#urgent.size + this.#lazy.size;
  }

  /** The end of a record was put off. */
  want(record: number): void {
    const endsAt = this.#records.endsAt[record]!;
    const keptUntilAt = this.#records.keptUntilAt[record]!;
    if (endsAt > keptUntilAt) {
      this.#urgent.add(record);
      this.#lazy.delete(record);
    } else if (endsAt > keptUntilAt - this.#aheadMs) {
      this.#lazy.add(record);
    }
  }

  /** Something else about a record has changed that has to outlive us. */
  wantChanged(record: number): void {
    this.#urgent.add(record);
    this.#lazy.delete(record);
  }

  /** A record has ended: what the disk knows of it does no harm. */
  drop(record: number): void {
    this.#urgent.delete(record);
    this.#lazy.delete(record);
  }

  /** As much as goes together, the urgent first. It is either confirmed or given back. */
  take(most: number): Unkept[] {
    const taken: Unkept[] = [];
    for (const waiting of [this.#urgent, this.#lazy]) {
      for (const record of waiting) {
        if (taken.length >= most) return taken;
        waiting.delete(record);
        const untilAt = this.#records.endsAt[record]! + this.#lifeMs;
        const line = renderMapping({ ...this.#records.savedOf(record), untilAt });
        taken.push({ record, life: this.#records.lives[record]!, untilAt, line });
      }
    }
    return taken;
  }

  /** The disk knows these: who asked for them has them now. */
  confirm(kept: readonly Unkept[]): void {
    for (const { record, life, untilAt } of kept) {
      if (this.#records.lives[record] !== life) continue;
      this.#records.keptUntilAt[record] = untilAt;
      this.#records.mark(record, 0, Mark.isNew);
    }
  }

  /** The disk refused these. @returns those that it never knew; the others are to be written again. */
  giveBack(unkept: readonly Unkept[]): number[] {
    const fresh: number[] = [];
    for (const { record, life } of unkept) {
      if (this.#records.lives[record] !== life || this.#records.has(record, Mark.rests)) continue;
      if (this.#records.has(record, Mark.isNew)) fresh.push(record);
      else this.#lazy.add(record);
    }
    return fresh;
  }

  /** Everything that was drawn, as it is when it is asked for. */
  *whole(): Iterable<string> {
    for (let record = 1; record <= this.#records.highest; record++) {
      if ((this.#records.marksOf(record) & Mark.drawn) === 0) continue;
      const saved = this.#records.savedOf(record);
      const untilAt = saved.untilAt + (saved.rests ? 0 : this.#lifeMs);
      // Whichever of the two the disk will have.
      this.#records.keptUntilAt[record] = Math.min(this.#records.keptUntilAt[record]!, untilAt);
      yield renderMapping({ ...saved, untilAt });
    }
  }
}
