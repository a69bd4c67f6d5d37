/**
 * The texts of addresses that come again and again: making one takes longer than all else about a connection.
 *
 * Kept by the address's bytes, one in each of a fixed number of places, where a later address takes the place of
 * an earlier one. Nobody can fill it, and whoever wants to can only make it useless.
 */

import { type Address, decodeAddress, type Family } from "../lib/address.ts";

/** A power of two. */
const places = 2_048;

export class AddressTexts {
  readonly #family: Family;
  readonly #words: number;
  readonly #keys: Uint32Array;
  readonly #texts: (Address | undefined)[] = new Array<Address | undefined>(places).fill(undefined);

  constructor(family: Family) {
    this.#family = family;
    this.#words = family === 4 ? 1 : 4;
    this.#keys = new Uint32Array(places * this.#words);
  }

  /** The address that lies at `at`, where its bytes must all be. */
  read(bytes: Uint8Array, at: number): Address {
    const place = this.#place(bytes, at);
    const known = this.#texts[place];
    if (known !== undefined && this.#isAt(place, bytes, at)) return known;
    const text = decodeAddress(bytes, at, this.#family);
    for (let word = 0; word < this.#words; word++) {
      this.#keys[place * this.#words + word] = wordAt(bytes, at + word * 4);
    }
    this.#texts[place] = text;
    return text;
  }

  #place(bytes: Uint8Array, at: number): number {
    let hash = 0;
    for (let word = 0; word < this.#words; word++) {
      hash = Math.imul(hash ^ wordAt(bytes, at + word * 4), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return hash & (places - 1);
  }

  #isAt(place: number, bytes: Uint8Array, at: number): boolean {
    for (let word = 0; word < this.#words; word++) {
      if (this.#keys[place * this.#words + word] !== wordAt(bytes, at + word * 4)) return false;
    }
    return true;
  }
}

/** Four bytes as one number, for comparing. */
export function wordAt(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}
