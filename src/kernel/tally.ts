/**
 * How far the counters of each connection had come when they were last told of.
 *
 * Kept by the key of the connection: four counters of 64 bits, and in how many readings in a row it was missing.
 * All of it lies in two typed arrays, some eighty bytes for each connection with its place in the index: a busy
 * router has a hundred thousand.
 */

import { counterWords } from "./connection.ts";

/** Readings in a row that a connection may be missing from: a reading can pass over one while others move. */
const maxMissed = 2;
const firstCapacity = 256;
const words = counterWords.length;

export class Tally {
  readonly #limit: number;
  readonly #slots = new Map<number, number>();
  readonly #free: number[] = [];
  #counters = new Uint32Array(firstCapacity * words);
  #missed = new Uint8Array(firstCapacity);

  /** @param limit connections kept. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** The place of a connection, until it is removed; undefined if it is not kept. */
  find(key: number): number | undefined {
    return this.#slots.get(key);
  }

  /** Keeps a connection that is not yet kept, with counters at 0. @returns undefined if there is no room. */
  add(key: number): number | undefined {
    if (this.#slots.size >= this.#limit) return undefined;
    const slot = this.#free.pop() ?? this.#slots.size;
    if (slot >= this.#missed.length) this.#grow();
    this.#counters.fill(0, slot * words, (slot + 1) * words);
    this.#missed[slot] = 0;
    this.#slots.set(key, slot);
    return slot;
  }

  remove(key: number): void {
    const slot = this.#slots.get(key);
    if (slot === undefined) return;
    this.#slots.delete(key);
    this.#free.push(slot);
  }

  /** It is there in the reading that runs. */
  meet(slot: number): void {
    this.#missed[slot] = 0;
  }

  /** Ends a reading. @returns how many connections were removed because they had been missing for too long. */
  sweep(): number {
    let removed = 0;
    for (const [key, slot] of this.#slots) {
      if (this.#missed[slot]!++ < maxMissed) continue;
      this.remove(key);
      removed++;
    }
    return removed;
  }

  /** Whether the counters stand elsewhere than `now`. */
  differs(slot: number, now: Uint32Array): boolean {
    const at = slot * words;
    for (let word = 0; word < words; word++) {
      if (this.#counters[at + word] !== now[word]) return true;
    }
    return false;
  }

  /**
   * Brings the counters to `now` and fills in the four differences, in the order of `counterWords`, each at most
   * 2^53−1. A direction of which either counter went backwards was zeroed meanwhile: what stands there now is
   * what passed.
   */
  advance(slot: number, now: Uint32Array, passed: number[]): void {
    const at = slot * words;
    const last = this.#counters;
    for (let word = 0; word < words; word += 4) {
      let packets = difference(last, at + word, now, word);
      let bytes = difference(last, at + word + 2, now, word + 2);
      if (packets < 0 || bytes < 0) {
        packets = counterAt(now, word);
        bytes = counterAt(now, word + 2);
      }
      passed[word / 2] = Math.min(packets, Number.MAX_SAFE_INTEGER);
      passed[word / 2 + 1] = Math.min(bytes, Number.MAX_SAFE_INTEGER);
    }
    for (let word = 0; word < words; word++) last[at + word] = now[word]!;
  }

  /** Fills in the four counters as what passed on a connection that was not kept. */
  whole(now: Uint32Array, passed: number[]): void {
    for (let word = 0; word < words; word += 2) {
      passed[word / 2] = Math.min(counterAt(now, word), Number.MAX_SAFE_INTEGER);
    }
  }

  #grow(): void {
    const capacity = this.#missed.length * 2;
    const [counters, missed] = [new Uint32Array(capacity * words), new Uint8Array(capacity)];
    counters.set(this.#counters);
    missed.set(this.#missed);
    this.#counters = counters;
    this.#missed = missed;
  }
}

/** A counter; above 2^53 rounded. */
function counterAt(counters: Uint32Array, word: number): number {
  return counters[word]! * 2 ** 32 + counters[word + 1]!;
}

/** Exact up to 2^53: the halves are subtracted before they are put together. */
function difference(last: Uint32Array, at: number, now: Uint32Array, word: number): number {
  return (now[word]! - last[at]!) * 2 ** 32 + (now[word + 1]! - last[at + 1]!);
}
