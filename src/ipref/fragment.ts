/**
 * Packets in several parts: cutting one that is too long, and the totals that ICMPv6 checksums need.
 *
 * `Pieces` cuts tunnel packets and IPv6 packets, whose fragment information has the same layout: 16 bits reserved (or
 * next header), offset and more-bit, 32 bits of id. `Totals` keeps, for at most sixteen fragmented echoes, the first
 * fragment until the last has told how long the whole is, or the total until the first has come; the oldest gives way,
 * and `age`, called every half minute or so, lets go of what waited for longer than one call's distance.
 */

import { get16, put16 } from "../lib/checksum.ts";
import { longestHeaderBytes } from "./verdict.ts";

/** A packet of 64 kB in pieces for the narrowest path that `Paths` believes in. */
const mostPieces = 180;

/** What each piece begins with. */
export interface PieceHead {
  /** The header, with room for the fragment information. */
  readonly bytes: Uint8Array;
  readonly length: number;
  /** Where in it the fragment information is; offset and more-bit are of the whole that is cut. */
  readonly fragmentAt: number;
  /** Where in it 16 bits tell the length of what follows the first 40 bytes; -1: nowhere. */
  readonly lengthAt: number;
  /** Of a piece with its header, at most. */
  readonly roomBytes: number;
}

/** Parts of a packet, to be sent in their order. Valid until the next call of the forwarder. */
export class Pieces {
  readonly bytes = new Uint8Array(65_536 + mostPieces * (longestHeaderBytes + 8));
  readonly offsets = new Int32Array(mostPieces);
  readonly lengths = new Int32Array(mostPieces);
  count = 0;
  #end = 0;

  clear(): void {
    this.count = 0;
    this.#end = 0;
  }

  /** Adds a whole packet; without room for it, nothing. */
  add(bytes: Uint8Array, offset: number, length: number): void {
    if (!this.#open(length)) return;
    this.bytes.set(bytes.subarray(offset, offset + length), this.offsets[this.count - 1]!);
  }

  /**
   * Adds the fragments of a packet whose data is given, in equal parts.
   *
   * @returns whether it could be cut; if not, nothing is added.
   */
  cut(data: Uint8Array, head: PieceHead): boolean {
    const whole = get16(head.bytes, head.fragmentAt + 2);
    const base = whole & 0xfff8;
    const room = (head.roomBytes - head.length) & ~7;
    if (room < 8 || base + data.length > 65_535) return false;
    const parts = Math.ceil(data.length / room);
    const share = Math.min(room, ((Math.ceil(data.length / parts) + 7) >> 3) << 3);
    if (this.count + parts > mostPieces) return false;
    for (let from = 0; from < data.length; from += share) {
      const length = Math.min(share, data.length - from);
      if (!this.#open(head.length + length)) return false;
      const at = this.offsets[this.count - 1]!;
      for (let index = 0; index < head.length; index++) this.bytes[at + index] = head.bytes[index]!;
      const last = from + length === data.length;
      put16(this.bytes, at + head.fragmentAt + 2, (base + from) | (last ? whole & 1 : 1));
      if (head.lengthAt >= 0) put16(this.bytes, at + head.lengthAt, head.length - 40 + length);
      this.bytes.set(data.subarray(from, from + length), at + head.length);
    }
    return true;
  }

  #open(length: number): boolean {
    if (this.count === mostPieces || this.#end + length > this.bytes.length) return false;
    this.offsets[this.count] = this.#end;
    this.lengths[this.count] = length;
    this.count++;
    this.#end += length;
    return true;
  }
}

const mostTotals = 16;

/** Who a fragment belongs to. */
export interface FragmentKey {
  /** Any two numbers that stand for the two hosts. */
  readonly source: number;
  readonly destination: number;
  readonly id: number;
}

interface Entry extends FragmentKey {
  /** The first fragment, or undefined while it is awaited. */
  first: Uint8Array | undefined;
  /** Of the data; -1 as long as it isn't known. */
  totalBytes: number;
  old: boolean;
}

export class Totals {
  /** Oldest first. */
  #entries: Entry[] = [];

  /** A first fragment came. @returns the total if it is known; otherwise -1, and a copy of the packet is kept. */
  first(key: FragmentKey, packet: Uint8Array): number {
    const entry = this.#take(key);
    if (entry !== undefined && entry.totalBytes >= 0) return entry.totalBytes;
    this.#keep({ ...key, first: packet.slice(), totalBytes: -1, old: false });
    return -1;
  }

  /** A last fragment came. @returns the first one, if it is here; otherwise its coming is awaited. */
  last(key: FragmentKey, totalBytes: number): Uint8Array | undefined {
    const entry = this.#take(key);
    if (entry?.first !== undefined) return entry.first;
    this.#keep({ ...key, first: undefined, totalBytes, old: false });
    return undefined;
  }

  /** Lets go of what was here at the last call. */
  age(): void {
    this.#entries = this.#entries.filter((entry) => !entry.old);
    for (const entry of this.#entries) entry.old = true;
  }

  #take(key: FragmentKey): Entry | undefined {
    const index = this.#entries.findIndex(
      (entry) => entry.id === key.id && entry.source === key.source && entry.destination === key.destination,
    );
    return index < 0 ? undefined : this.#entries.splice(index, 1)[0];
  }

  #keep(entry: Entry): void {
    if (this.#entries.length === mostTotals) this.#entries.shift();
    this.#entries.push(entry);
  }
}
