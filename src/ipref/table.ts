/**
 * The table of mappings that forwarders read while the control plane changes it: flat memory, shared by threads.
 *
 *     byte 0    word  0 magic   1 capacity   2 buckets   3 families (LAN | tunnel << 8)   4, 5 hash key   6 epoch
 *     64        words 16..31    one for each reader: the epoch that it works in, 0 while it holds nothing
 *     128       buckets × u32   heads by address: number of the first record of each chain, 0: none
 *               buckets × u32   heads by reference
 *               records of 64 bytes, numbered from 1 (the place of 0 stays empty):
 *
 *       0 address (16)   16 context (16)   32 reference (16, big endian)
 *      48 state   52 used   56 next by address   60 next by reference
 *
 * Words are unsigned, 32 bits, of the machine's own byte order. State: bit 0, found by its address; bit 1, found by
 * its reference; bit 2, a local host (else a remote one); bit 3, in the chains; bit 4, drawn by the gateway; bit 5,
 * written down by somebody. A chain is chosen by HalfSipHash-1-3
 * (words big endian: the kind, which is bit 2 of the state; of a remote host the context, if it is looked for by its
 * reference; the address or reference; without the length, which keys of a kind share) modulo the buckets, whose
 * number is a power of two and at least the capacity: so chains stay short whatever is in the table, and nobody
 * outside can tell which keys meet. These are plain arrays and bounded walks: a BPF program finds its way as well.
 *
 * One thread writes; readers never wait. A record is written whole before the head that leads to it is stored, and
 * one that ends loses its state first and is taken out of its chains then, with its own links left as they are for
 * who stands on it. Its place is used again when every reader has since begun another round (`enter`) or holds
 * nothing (`leave`): who ends a record counts the epoch up and remembers the one before, a reader copies the epoch
 * when it enters, and a place is free when no reader is in the epoch remembered or an earlier one.
 */

import type { Family } from "../lib/address.ts";
import { Field, type Lookup } from "./lookup.ts";

/** What another thread needs for reading. */
export interface ReaderHandle {
  readonly buffer: SharedArrayBuffer;
  readonly reader: number;
}

export interface TableOptions {
  /** Most records at a time. */
  readonly capacity: number;
  readonly lan: Family;
  readonly tunnel: Family;
  random(length: number): Uint8Array;
}

/** What a record is found by, and what it is. */
export const State = { byAddress: 1, byReference: 2, ours: 4, linked: 8, drawn: 16, written: 32 } as const;

export const maxReaders = 16;

const recordBytes = 64;
const magic = 0x49505231;
const Word = { magic: 0, capacity: 1, buckets: 2, families: 3, key: 4, epoch: 6, readers: 16 } as const;
const headsAt = 128;
const Offset = { state: 48, used: 52, nextByAddress: 56, nextByReference: 60 } as const;
/** No chain that a keyed hash makes is as long; a walk ends here whatever happens. */
const maxWalk = 256;

/** HalfSipHash-1-3 of words that were put in. Each thread has one of its own. */
class Digest {
  /** Up to the kind, four words of a context, and four of a reference. */
  readonly words = new Int32Array(9);
  readonly #k0: number;
  readonly #k1: number;

  constructor(k0: number, k1: number) {
    this.#k0 = k0;
    this.#k1 = k1;
  }

  of(length: number): number {
    const words = this.words;
    let v0 = this.#k0;
    let v1 = this.#k1;
    let v2 = this.#k0 ^ 0x6c796765;
    let v3 = this.#k1 ^ 0x74656462;
    // How long the keys of a kind are is the same for all: the length need not be hashed.
    for (let at = 0; at < length + 3; at++) {
      let word = 0;
      if (at < length) word = words[at]!;
      else if (at === length) v2 ^= 0xff;
      v3 ^= word;
      v0 = (v0 + v1) | 0;
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
      v2 = (v2 << 16) | (v2 >>> 16);
      v0 ^= word;
    }
    return v1 ^ v3;
  }
}

function wordAt(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}

/** The memory with its two ways in. Both sides are made of it. */
class Chains {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly capacity: number;
  readonly #buckets: number;
  readonly #recordsAt: number;
  readonly #lanBytes: number;
  readonly #tunnelBytes: number;
  readonly #digest: Digest;

  constructor(buffer: SharedArrayBuffer) {
    this.words = new Int32Array(buffer);
    if (this.words[Word.magic] !== magic) throw new TypeError("Cannot read table: this memory is none");
    this.bytes = new Uint8Array(buffer);
    this.capacity = this.words[Word.capacity]!;
    this.#buckets = this.words[Word.buckets]!;
    this.#recordsAt = recordsAt(this.#buckets);
    const families = this.words[Word.families]!;
    this.#lanBytes = (families & 0xff) === 4 ? 4 : 16;
    this.#tunnelBytes = families >> 8 === 4 ? 4 : 16;
    this.#digest = new Digest(this.words[Word.key]!, this.words[Word.key + 1]!);
  }

  offsetOf(record: number): number {
    return this.#recordsAt + record * recordBytes;
  }

  recordAt(offset: number): number {
    return (offset - this.#recordsAt) / recordBytes;
  }

  /** Which word leads to the chain of an address. @param kind `State.ours` or 0 */
  addressHead(address: Uint8Array, offset: number, kind: number): number {
    const words = this.#digest.words;
    words[0] = kind;
    const length = 1 + this.#lanBytes / 4;
    for (let word = 1, at = offset; word < length; word++, at += 4) words[word] = wordAt(address, at);
    return headsAt / 4 + (this.#digest.of(length) & (this.#buckets - 1));
  }

  /** Of a remote host: of a context and a reference. */
  theirHead(context: Uint8Array, offset: number, reference: Uint8Array): number {
    return this.#referenceHead(this.#theirWords(context, offset), reference, 0);
  }

  ourHead(reference: Uint8Array): number {
    this.#digest.words[0] = State.ours;
    return this.#referenceHead(1, reference, 0);
  }

  /** Of the record at an offset. @param kind `State.ours` or 0 */
  recordHead(at: number, kind: number): number {
    this.#digest.words[0] = kind;
    const from = kind === 0 ? this.#theirWords(this.bytes, at + Field.context) : 1;
    return this.#referenceHead(from, this.bytes, at + Field.reference);
  }

  /** @returns how many words there are now. */
  #theirWords(context: Uint8Array, offset: number): number {
    const words = this.#digest.words;
    words[0] = 0;
    const length = 1 + this.#tunnelBytes / 4;
    for (let word = 1, at = offset; word < length; word++, at += 4) words[word] = wordAt(context, at);
    return length;
  }

  #referenceHead(from: number, reference: Uint8Array, offset: number): number {
    const words = this.#digest.words;
    for (let word = 0; word < 4; word++) words[from + word] = wordAt(reference, offset + word * 4);
    return headsAt / 4 + this.#buckets + (this.#digest.of(from + 4) & (this.#buckets - 1));
  }

  // The three ways in. Each gives the offset of the first record with the key, the kind and all the bits wanted; -1.

  byAddress(address: Uint8Array, offset: number, want: number): number {
    const { words, bytes } = this;
    const length = this.#lanBytes;
    let record = Atomics.load(words, this.addressHead(address, offset, want & State.ours));
    for (let steps = 0; record !== 0 && steps < maxWalk; steps++) {
      const at = this.#recordsAt + record * recordBytes;
      const state = Atomics.load(words, (at + Offset.state) >> 2);
      if ((state & (want | State.ours)) === want) {
        let same = 0;
        while (same < length && bytes[at + same] === address[offset + same]) same++;
        if (same === length) return at;
      }
      record = Atomics.load(words, (at + Offset.nextByAddress) >> 2);
    }
    return -1;
  }

  theirs(context: Uint8Array, contextOffset: number, reference: Uint8Array, want: number): number {
    const { words, bytes } = this;
    const length = this.#tunnelBytes;
    let record = Atomics.load(words, this.theirHead(context, contextOffset, reference));
    for (let steps = 0; record !== 0 && steps < maxWalk; steps++) {
      const at = this.#recordsAt + record * recordBytes;
      const state = Atomics.load(words, (at + Offset.state) >> 2);
      if ((state & (want | State.ours)) === want) {
        let same = 0;
        while (same < 16 && bytes[at + Field.reference + same] === reference[same]) same++;
        if (same === 16) {
          same = 0;
          while (same < length && bytes[at + Field.context + same] === context[contextOffset + same]) same++;
          if (same === length) return at;
        }
      }
      record = Atomics.load(words, (at + Offset.nextByReference) >> 2);
    }
    return -1;
  }

  ours(reference: Uint8Array, want: number): number {
    const { words, bytes } = this;
    let record = Atomics.load(words, this.ourHead(reference));
    for (let steps = 0; record !== 0 && steps < maxWalk; steps++) {
      const at = this.#recordsAt + record * recordBytes;
      const state = Atomics.load(words, (at + Offset.state) >> 2);
      if ((state & (want | State.ours)) === want) {
        let same = 0;
        while (same < 16 && bytes[at + Field.reference + same] === reference[same]) same++;
        if (same === 16) return at;
      }
      record = Atomics.load(words, (at + Offset.nextByReference) >> 2);
    }
    return -1;
  }
}

/** How a thread that doesn't write reads. */
export class TableReader implements Lookup {
  readonly bytes: Uint8Array;
  readonly #chains: Chains;
  readonly #words: Int32Array;
  /** Where our epoch stands; -1: this is the writer's own thread, which needs none. */
  readonly #slot: number;

  /** It is in a round from the start. @param handle as `TableWriter.open` gave it */
  constructor(handle: ReaderHandle) {
    this.#chains = new Chains(handle.buffer);
    this.bytes = this.#chains.bytes;
    this.#words = this.#chains.words;
    this.#slot = handle.reader < 0 ? -1 : Word.readers + handle.reader;
  }

  /** Begins another round (a batch of packets): offsets that were answered before mean nothing any more. */
  enter(): void {
    if (this.#slot >= 0) Atomics.store(this.#words, this.#slot, Atomics.load(this.#words, Word.epoch));
  }

  /** Ends the round, before a wait: what ends meanwhile need not wait for us. */
  leave(): void {
    if (this.#slot >= 0) Atomics.store(this.#words, this.#slot, 0);
  }

  theirByAddress(packet: Uint8Array, offset: number): number {
    return this.#chains.byAddress(packet, offset, State.byAddress);
  }

  theirByReference(context: Uint8Array, contextOffset: number, reference: Uint8Array): number {
    return this.#chains.theirs(context, contextOffset, reference, State.byReference);
  }

  oursByAddress(packet: Uint8Array, offset: number): number {
    return this.#chains.byAddress(packet, offset, State.byAddress | State.ours);
  }

  oursByReference(reference: Uint8Array): number {
    return this.#chains.ours(reference, State.byReference | State.ours);
  }

  touch(record: number): void {
    const word = (record + Offset.used) >> 2;
    // Most packets find the mark set, and leave the cache line to all.
    if (this.#words[word] === 0) this.#words[word] = 1;
  }
}

/** What a record is found by. All sixteen bytes each. */
export interface RecordKeys {
  readonly address: Uint8Array;
  /** Of a local host: our own, which counts for nothing in lookups. */
  readonly context: Uint8Array;
  readonly reference: Uint8Array;
}

/** The one side that changes the table. Records are known by their numbers. */
export class TableWriter {
  readonly buffer: SharedArrayBuffer;
  readonly capacity: number;
  readonly bytes: Uint8Array;
  readonly #chains: Chains;
  readonly #words: Int32Array;
  readonly #isOpen = new Array<boolean>(maxReaders).fill(false);
  /** The highest number that was ever given. */
  #highest = 0;
  readonly #free: number[] = [];
  /** Ended, oldest first, with the epochs that readers may still see them in. */
  readonly #ended: { readonly record: number; readonly epoch: number }[] = [];
  #endedFrom = 0;

  constructor(options: TableOptions) {
    const { capacity, lan, tunnel } = options;
    if (!Number.isInteger(capacity) || capacity < 1 || capacity > 1 << 22) {
      throw new RangeError(`Cannot make table: a capacity of ${capacity}`);
    }
    const buckets = 2 ** Math.ceil(Math.log2(Math.max(16, capacity)));
    this.buffer = new SharedArrayBuffer(recordsAt(buckets) + (capacity + 1) * recordBytes);
    const words = new Int32Array(this.buffer);
    words.set([magic, capacity, buckets, lan | (tunnel << 8)]);
    const key = options.random(8);
    const view = new DataView(key.buffer, key.byteOffset, 8);
    words.set([view.getInt32(0), view.getInt32(4), 1], Word.key);
    this.#chains = new Chains(this.buffer);
    this.#words = this.#chains.words;
    this.bytes = this.#chains.bytes;
    this.capacity = capacity;
  }

  /** Records are numbered from 1 to this. */
  get highest(): number {
    return this.#highest;
  }

  /** Places that new records can take now. */
  get room(): number {
    this.#reclaim();
    return this.#free.length + this.capacity - this.#highest;
  }

  /** For another thread. @throws RangeError if too many read. */
  open(): ReaderHandle {
    const reader = this.#isOpen.indexOf(false);
    if (reader < 0) throw new RangeError(`Cannot open table: ${maxReaders} readers have it`);
    this.#isOpen[reader] = true;
    Atomics.store(this.#words, Word.readers + reader, Atomics.load(this.#words, Word.epoch));
    return { buffer: this.buffer, reader };
  }

  /** The thread has ended, however it did. */
  close(reader: number): void {
    this.#isOpen[reader] = false;
    Atomics.store(this.#words, Word.readers + reader, 0);
  }

  /**
   * A new record, which nobody finds before `show`.
   *
   * @param state `State.ours` or not, `State.drawn` or `State.written`.
   * @returns its number; 0: there is no place.
   */
  add(keys: RecordKeys, state: number): number {
    this.#reclaim();
    const record = this.#free.pop() ?? (this.#highest < this.capacity ? ++this.#highest : 0);
    if (record === 0) return 0;
    const at = this.#chains.offsetOf(record);
    this.bytes.set(keys.address, at + Field.address);
    this.bytes.set(keys.context, at + Field.context);
    this.bytes.set(keys.reference, at + Field.reference);
    this.#words[(at + Offset.used) >> 2] = 0;
    Atomics.store(this.#words, (at + Offset.state) >> 2, state | State.linked);
    const kind = state & State.ours;
    this.#link(record, this.#chains.addressHead(this.bytes, at, kind), Offset.nextByAddress);
    this.#link(record, this.#chains.recordHead(at, kind), Offset.nextByReference);
    return record;
  }

  /** Says what readers find it by: `State.byAddress`, `State.byReference`, both, or 0: nothing. */
  show(record: number, by: number): void {
    const word = (this.#chains.offsetOf(record) + Offset.state) >> 2;
    const kept = this.#words[word]! & ~(State.byAddress | State.byReference);
    Atomics.store(this.#words, word, kept | by);
  }

  /** Ends a record: nobody finds it from now on. */
  remove(record: number): void {
    const at = this.#chains.offsetOf(record);
    const kind = this.#words[(at + Offset.state) >> 2]! & State.ours;
    Atomics.store(this.#words, (at + Offset.state) >> 2, 0);
    this.#unlink(record, this.#chains.addressHead(this.bytes, at, kind), Offset.nextByAddress);
    this.#unlink(record, this.#chains.recordHead(at, kind), Offset.nextByReference);
    const epoch = this.#words[Word.epoch]!;
    this.#ended.push({ record, epoch });
    // 0 is no epoch: it says that a reader holds nothing.
    Atomics.store(this.#words, Word.epoch, (epoch + 1) | 0 || 1);
  }

  /** The bits of a record, as in `State`. */
  stateOf(record: number): number {
    return this.#words[(this.#chains.offsetOf(record) + Offset.state) >> 2]!;
  }

  offsetOf(record: number): number {
    return this.#chains.offsetOf(record);
  }

  /** Whether readers have used a record since this was asked last. */
  takeUsed(record: number): boolean {
    const word = (this.#chains.offsetOf(record) + Offset.used) >> 2;
    if (this.#words[word] === 0) return false;
    this.#words[word] = 0;
    return true;
  }

  // Finding, by key and whichever bits; the number, or 0.

  byAddress(address: Uint8Array, want: number): number {
    return this.#numberAt(this.#chains.byAddress(address, 0, want));
  }

  theirs(context: Uint8Array, reference: Uint8Array, want: number): number {
    return this.#numberAt(this.#chains.theirs(context, 0, reference, want));
  }

  ours(reference: Uint8Array, want: number): number {
    return this.#numberAt(this.#chains.ours(reference, want | State.ours));
  }

  #numberAt(offset: number): number {
    return offset < 0 ? 0 : this.#chains.recordAt(offset);
  }

  /** Puts a record, which is whole, in front of a chain. @param next where in records the next of the chain is */
  #link(record: number, head: number, next: number): void {
    const word = (this.#chains.offsetOf(record) + next) >> 2;
    Atomics.store(this.#words, word, Atomics.load(this.#words, head));
    Atomics.store(this.#words, head, record);
  }

  /** Takes a record out of a chain, and leaves its own link to who stands on it. */
  #unlink(record: number, head: number, next: number): void {
    let from = head;
    while (this.#words[from] !== record) from = (this.#chains.offsetOf(this.#words[from]!) + next) >> 2;
    Atomics.store(this.#words, from, this.#words[(this.#chains.offsetOf(record) + next) >> 2]!);
  }

  /** Makes places free that no reader can stand on any more. */
  #reclaim(): void {
    if (this.#endedFrom === this.#ended.length) return;
    const now = this.#words[Word.epoch]!;
    // Epochs go round: what counts is how far back one lies.
    let oldest = 0;
    for (let reader = 0; reader < maxReaders; reader++) {
      const epoch = Atomics.load(this.#words, Word.readers + reader);
      if (epoch !== 0) oldest = Math.max(oldest, (now - epoch) >>> 0);
    }
    while (this.#endedFrom < this.#ended.length) {
      const { record, epoch } = this.#ended[this.#endedFrom]!;
      if (oldest >= (now - epoch) >>> 0) break;
      this.#free.push(record);
      this.#endedFrom++;
    }
    if (this.#endedFrom * 2 > this.#ended.length) {
      this.#ended.splice(0, this.#endedFrom);
      this.#endedFrom = 0;
    }
  }
}

/** Records begin where a cache line does. */
function recordsAt(buckets: number): number {
  return Math.ceil((headsAt + buckets * 8) / recordBytes) * recordBytes;
}
