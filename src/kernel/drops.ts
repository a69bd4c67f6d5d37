/**
 * Totals of counters that begin anew whenever their rules are made anew.
 *
 * Kept by owner and place (a table, or a family's chains): the last reading, and the sum of all growth. Who is
 * about to remove a counter reads it once more.
 */

import type { Owner } from "./plan.ts";

export class Drops {
  readonly #places = new Map<string, { owner: Owner; last: bigint; sum: bigint }>();

  /** A reading. One below the last is of a counter that has begun anew. */
  note(owner: Owner, place: string, value: bigint): void {
    const key = `${owner} ${place}`;
    const { last, sum } = this.#places.get(key) ?? { last: 0n, sum: 0n };
    this.#places.set(key, { owner, last: value, sum: sum + (value < last ? value : value - last) });
  }

  /** The counters of an owner are gone, and count from nothing when they come back. */
  restart(owner: Owner): void {
    for (const entry of this.#places.values()) if (entry.owner === owner) entry.last = 0n;
  }

  total(owner: Owner): bigint {
    let total = 0n;
    for (const entry of this.#places.values()) if (entry.owner === owner) total += entry.sum;
    return total;
  }
}
