/**
 * Columns of 64-bit counters, by slot, that stay at their end.
 *
 * A number holds 53 bits and a bigint is slow and lives on the heap; here a counter is its low 52 bits in one
 * column and its high 12 in another, so that adding is exact and costs a comparison. Bigints are made when
 * somebody looks.
 */

/** What a counter of 64 bits can say; it stays there. */
export const maxCount = (1n << 64n) - 1n;

const lowBits = 52n;
const radix = 2 ** 52;
const maxHigh = 2 ** 12 - 1;

export class Tally {
  readonly #low: Float64Array;
  readonly #high: Uint16Array;

  constructor(capacity: number) {
    this.#low = new Float64Array(capacity + 1);
    this.#high = new Uint16Array(capacity + 1);
  }

  /** Starts a counter anew. */
  clear(slot: number): void {
    this.#low[slot] = 0;
    this.#high[slot] = 0;
  }

  /** Adds; what is no count (negative, no integer, a number that is not exact) counts as none. */
  add(slot: number, amount: number | bigint): void {
    if (typeof amount === "bigint") this.#addLarge(slot, amount);
    else if (Number.isSafeInteger(amount) && amount > 0) {
      // Both below 2⁵²: their sum is exact.
      if (amount < radix) this.#addParts(slot, 0, amount);
      else this.#addParts(slot, 1, amount - radix);
    }
  }

  get(slot: number): bigint {
    return (BigInt(this.#high[slot]!) << lowBits) + BigInt(this.#low[slot]!);
  }

  #addLarge(slot: number, amount: bigint): void {
    if (amount <= 0n) return;
    const capped = amount > maxCount ? maxCount : amount;
    this.#addParts(slot, Number(capped >> lowBits), Number(BigInt.asUintN(Number(lowBits), capped)));
  }

  #addParts(slot: number, high: number, low: number): void {
    const sum = this.#low[slot]! + low;
    const carry = sum >= radix ? 1 : 0;
    const top = this.#high[slot]! + high + carry;
    if (top > maxHigh) {
      this.#high[slot] = maxHigh;
      this.#low[slot] = radix - 1;
      return;
    }
    this.#high[slot] = top;
    this.#low[slot] = sum - carry * radix;
  }
}

/** A counter as a number, at most 2⁵³ − 1; what is no count is 0. */
export function numberOf(count: number | bigint): number {
  if (typeof count === "number") return Number.isSafeInteger(count) && count > 0 ? count : 0;
  if (count <= 0n) return 0;
  return count > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(count);
}
