/**
 * A fixed number of slots, found by two nodes and a service: the index under records and message lines.
 *
 * Every packet that conntrack or the firewall tells of ends in such a look-up, thousands a second, so keys are
 * three numbers in flat columns rather than text, and nothing is allocated after the start. Owners keep columns of
 * their own by slot number. Slots are numbered from 1, in the order taken while none was freed; 0 is none.
 * Memory that was never used stays untouched, so a large capacity costs nothing before it is needed.
 */

const secondHalf = 2 ** 32;

export class Slots {
  readonly capacity: number;
  readonly #from: Int32Array;
  readonly #to: Int32Array;
  readonly #service: Float64Array;
  /** The next slot of the same bucket; of a free slot, the next free one. */
  readonly #next: Int32Array;
  readonly #heads: Int32Array;
  readonly #seed: number;
  #size = 0;
  /** Slots up to here have been taken since the last `clear`. */
  #reached = 0;
  #free = 0;

  /**
   * @param seed any 32-bit number; unguessable, so that nobody can choose flows that share a bucket.
   * @throws RangeError if the capacity is not at least 1.
   */
  constructor(capacity: number, seed: number) {
    if (!(capacity >= 1)) throw new RangeError(`Cannot make ${capacity} slots`);
    this.capacity = capacity;
    this.#seed = seed | 0;
    this.#from = new Int32Array(capacity + 1);
    this.#to = new Int32Array(capacity + 1);
    this.#service = new Float64Array(capacity + 1);
    this.#next = new Int32Array(capacity + 1);
    this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(capacity + 1)));
  }

  get size(): number {
    return this.#size;
  }

  get isFull(): boolean {
    return this.#size >= this.capacity;
  }

  /**
   * The slot of a key, or 0.
   *
   * @param service an integer of at most 53 bits.
   */
  find(from: number, to: number, service: number): number {
    let slot = this.#heads[this.#bucket(from, to, service)]!;
    while (
      slot !== 0 &&
      (this.#service[slot] !== service || this.#to[slot] !== to || this.#from[slot] !== from)
    ) {
      slot = this.#next[slot]!;
    }
    return slot;
  }

  /** Takes a slot for a key that has none. @throws RangeError if all are taken. */
  take(from: number, to: number, service: number): number {
    if (this.isFull) throw new RangeError(`Cannot take a slot: all ${this.capacity} are taken`);
    let slot = this.#free;
    if (slot === 0) slot = ++this.#reached;
    else this.#free = this.#next[slot]!;
    this.#from[slot] = from;
    this.#to[slot] = to;
    this.#service[slot] = service;
    const bucket = this.#bucket(from, to, service);
    this.#next[slot] = this.#heads[bucket]!;
    this.#heads[bucket] = slot;
    this.#size++;
    return slot;
  }

  /** Frees a slot that was taken. */
  free(slot: number): void {
    const bucket = this.#bucket(this.#from[slot]!, this.#to[slot]!, this.#service[slot]!);
    if (this.#heads[bucket] === slot) this.#heads[bucket] = this.#next[slot]!;
    else {
      let before = this.#heads[bucket]!;
      while (this.#next[before] !== slot) before = this.#next[before]!;
      this.#next[before] = this.#next[slot]!;
    }
    this.#next[slot] = this.#free;
    this.#free = slot;
    this.#size--;
  }

  /** Frees all of them. */
  clear(): void {
    this.#heads.fill(0);
    [this.#size, this.#reached, this.#free] = [0, 0, 0];
  }

  from(slot: number): number {
    return this.#from[slot]!;
  }

  to(slot: number): number {
    return this.#to[slot]!;
  }

  service(slot: number): number {
    return this.#service[slot]!;
  }

  /** Multiply and fold, as the finalisers of Murmur3 do. */
  #bucket(from: number, to: number, service: number): number {
    let hash = Math.imul(from ^ this.#seed, 0x9e3779b1);
    hash = Math.imul(hash ^ (hash >>> 15) ^ to, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13) ^ (service | 0), 0xc2b2ae35);
    hash = Math.imul(hash ^ (hash >>> 16) ^ ((service / secondHalf) | 0), 0x85ebca6b);
    return (hash ^ (hash >>> 15)) & (this.#heads.length - 1);
  }
}
