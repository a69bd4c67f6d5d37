/**
 * Leases: a key holds a value from a pool until an instant, unless it is renewed.
 *
 * Kept by key and by value: what is out; by value: what rests. A value that was given back or ran out rests before
 * another key gets it, so that whoever still believes in the old lease meets nobody else's traffic; the key that had
 * it gets the same one back meanwhile. Changed by `take`, `renew`, `release` and `expire`, each of which returns
 * what came of it; nobody is told, and there are no timers. Instants are monotonic milliseconds.
 */

import type { Pool } from "./pool.ts";

export interface Lease<Value, Note> {
  readonly key: string;
  readonly value: Value;
  /** What the owner of the book keeps beside it. */
  note: Note;
  readonly grantedAt: number;
  endsAt: number;
}

export type Grant<Value, Note> =
  | { readonly kind: "granted"; readonly lease: Lease<Value, Note>; readonly isNew: boolean }
  /** The pool has no free value, or as many leases as are allowed are out. */
  | { readonly kind: "full" };

export interface LeaseOptions<Value> {
  readonly pool: Pool<Value>;
  /** How long a value rests. */
  readonly restMs: number;
  /** Leases at a time; default: as many as the pool has values. */
  readonly max?: number;
}

export interface Terms<Value, Note> {
  readonly now: number;
  readonly lifeMs: number;
  /** For a new lease; an old one keeps its own. */
  readonly note: Note;
  /** Whether nobody else uses a value; asked when granting, of values that are free here. */
  isFree?(value: Value): boolean;
}

/** A value that rests. */
export interface Rest<Value> {
  /** Who had it. */
  readonly key: string;
  readonly value: Value;
  readonly untilAt: number;
}

export class Leases<Value extends string | number, Note = undefined> {
  readonly #pool: Pool<Value>;
  readonly #restMs: number;
  readonly #max: number;
  readonly #byKey = new Map<string, Lease<Value, Note>>();
  readonly #byValue = new Map<Value, Lease<Value, Note>>();
  /** In the order in which their rest ends. */
  readonly #resting = new Map<Value, Rest<Value>>();
  readonly #lastValues = new Map<string, Value>();
  /** No lease ends before. */
  #nextEndAt = Number.POSITIVE_INFINITY;

  constructor(options: LeaseOptions<Value>) {
    this.#pool = options.pool;
    this.#restMs = options.restMs;
    this.#max = options.max ?? options.pool.size;
  }

  /** How many leases are out. */
  get size(): number {
    return this.#byKey.size;
  }

  /** How many values rest. */
  get resting(): number {
    return this.#resting.size;
  }

  /** What rests, in the order in which that ends. */
  rests(): IterableIterator<Rest<Value>> {
    return this.#resting.values();
  }

  all(): IterableIterator<Lease<Value, Note>> {
    return this.#byKey.values();
  }

  get(key: string): Lease<Value, Note> | undefined {
    return this.#byKey.get(key);
  }

  /** The lease that a value is out on. */
  holder(value: Value): Lease<Value, Note> | undefined {
    return this.#byValue.get(value);
  }

  /** The lease of a key: as it is but renewed, or a new one. */
  take(key: string, terms: Terms<Value, Note>): Grant<Value, Note> {
    const { now, lifeMs } = terms;
    this.#wake(now);
    const present = this.renew(key, now, lifeMs);
    if (present) return { kind: "granted", lease: present, isNew: false };
    if (this.#byKey.size >= this.#max) return { kind: "full" };
    const isUnused = (value: Value) => terms.isFree?.(value) ?? true;
    const last = this.#lastValues.get(key);
    const value =
      last !== undefined && isUnused(last)
        ? last
        : this.#pool.propose(
            (each) => !this.#byValue.has(each) && !this.#resting.has(each) && isUnused(each),
          );
    if (value === undefined) return { kind: "full" };
    const lease = { key, value, note: terms.note, grantedAt: now, endsAt: now + lifeMs };
    this.#put(lease);
    return { kind: "granted", lease, isNew: true };
  }

  /** Puts the end of a lease off to `lifeMs` from now. Undefined: there is none. */
  renew(key: string, now: number, lifeMs: number): Lease<Value, Note> | undefined {
    const lease = this.#byKey.get(key);
    if (!lease) return undefined;
    lease.endsAt = now + lifeMs;
    this.#nextEndAt = Math.min(this.#nextEndAt, lease.endsAt);
    return lease;
  }

  /** Ends a lease now. Its value rests. */
  release(key: string, now: number): Lease<Value, Note> | undefined {
    const lease = this.#byKey.get(key);
    if (!lease) return undefined;
    this.#byKey.delete(key);
    this.#byValue.delete(lease.value);
    this.#pool.taken(lease.value);
    this.#rest({ key, value: lease.value, untilAt: now + this.#restMs });
    return lease;
  }

  /** Ends what has run out. Cheap when nothing has. */
  expire(now: number): Lease<Value, Note>[] {
    this.#wake(now);
    if (now < this.#nextEndAt) return [];
    const ended: Lease<Value, Note>[] = [];
    this.#nextEndAt = Number.POSITIVE_INFINITY;
    for (const lease of this.#byKey.values()) {
      if (lease.endsAt <= now) ended.push(lease);
      else this.#nextEndAt = Math.min(this.#nextEndAt, lease.endsAt);
    }
    for (const lease of ended) this.release(lease.key, now);
    return ended;
  }

  /**
   * Takes in a lease of an earlier life.
   *
   * @returns false if its key or value is out already, or the value is none of the pool's.
   */
  restore(lease: Lease<Value, Note>): boolean {
    if (this.#byKey.has(lease.key) || this.#byValue.has(lease.value) || !this.#pool.has(lease.value)) {
      return false;
    }
    this.#put(lease);
    return true;
  }

  /**
   * Takes in a rest of an earlier life; those that end later must come later.
   *
   * @returns false if the value is out or rests already, or is none of the pool's.
   */
  restoreRest(rest: Rest<Value>): boolean {
    if (this.#byValue.has(rest.value) || this.#resting.has(rest.value) || !this.#pool.has(rest.value)) {
      return false;
    }
    this.#pool.taken(rest.value);
    this.#rest(rest);
    return true;
  }

  #rest(rest: Rest<Value>): void {
    this.#resting.set(rest.value, rest);
    this.#lastValues.set(rest.key, rest.value);
  }

  #put(lease: Lease<Value, Note>): void {
    const rest = this.#resting.get(lease.value);
    if (rest) {
      this.#resting.delete(lease.value);
      this.#lastValues.delete(rest.key);
    }
    this.#byKey.set(lease.key, lease);
    this.#byValue.set(lease.value, lease);
    this.#pool.taken(lease.value);
    this.#nextEndAt = Math.min(this.#nextEndAt, lease.endsAt);
  }

  /** Values that have rested long enough are free. */
  #wake(now: number): void {
    for (const [value, { key, untilAt }] of this.#resting) {
      if (untilAt > now) return;
      this.#resting.delete(value);
      if (this.#lastValues.get(key) === value) this.#lastValues.delete(key);
      this.#pool.returned(value);
    }
  }
}
