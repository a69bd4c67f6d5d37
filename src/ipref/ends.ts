/**
 * Both ends of a packet, as records: hosts by the mappings, the gateway by its settings.
 *
 * A record is an offset in the mappings' bytes, -1 if there is none, or `OWN`, which is the gateway itself: that one
 * lies in `own`, laid out like the others. Also tells what is ours by its bits.
 */

import { addressBytes, Field, type Lookup } from "./lookup.ts";
import type { ForwardSettings } from "./settings.ts";

/** The record of the gateway itself. */
export const OWN = -2;

export class Ends {
  readonly lookup: Lookup;
  /** The gateway's record. Its context stands for all of ours. */
  readonly own = new Uint8Array(3 * addressBytes);
  readonly lanBytes: number;
  readonly tunnelBytes: number;
  readonly #net: Uint8Array;
  readonly #netBits: number;
  readonly #forbidden: readonly Uint8Array[];
  readonly #known: boolean;

  constructor(lookup: Lookup, settings: ForwardSettings) {
    this.lookup = lookup;
    this.lanBytes = settings.lanFamily === 4 ? 4 : 16;
    this.tunnelBytes = settings.tunnelFamily === 4 ? 4 : 16;
    const sized: [string, Uint8Array, number][] = [
      ["encoding network", settings.encodeNet.bytes, this.lanBytes],
      ["own encoded address", settings.ownEncoded, this.lanBytes],
      ["own context", settings.ownContext, this.tunnelBytes],
      ["own reference", settings.ownReference, 16],
      ...settings.forbidden.map((each): [string, Uint8Array, number] => [
        "forbidden address",
        each,
        this.lanBytes,
      ]),
    ];
    for (const [name, bytes, length] of sized) {
      if (bytes.length !== length) throw new RangeError(`Cannot forward: ${name} has ${bytes.length} bytes`);
    }
    const { length: netBits } = settings.encodeNet;
    if (!(netBits >= 0 && netBits <= 8 * this.lanBytes)) {
      throw new RangeError(`Cannot forward: encoding network has ${netBits} bits`);
    }
    this.own.set(settings.ownEncoded, Field.address);
    this.own.set(settings.ownContext, Field.context);
    this.own.set(settings.ownReference, Field.reference);
    this.#net = settings.encodeNet.bytes;
    this.#netBits = settings.encodeNet.length;
    this.#forbidden = settings.forbidden;
    this.#known = settings.ownContext.some((byte) => byte !== 0);
  }

  /** Where a record's bytes are; its offset there is `at`. */
  bytes(record: number): Uint8Array {
    return record === OWN ? this.own : this.lookup.bytes;
  }

  at(record: number): number {
    return record === OWN ? 0 : record;
  }

  touch(record: number): void {
    if (record !== OWN) this.lookup.touch(record);
  }

  /** The local host, or the gateway, with an address. */
  oursByAddress(bytes: Uint8Array, at: number): number {
    return this.isOwnAddress(bytes, at) ? OWN : this.lookup.oursByAddress(bytes, at);
  }

  /** The local host, or the gateway, behind a reference of ours. */
  oursByReference(reference: Uint8Array): number {
    return this.#isOwnReference(reference) ? OWN : this.lookup.oursByReference(reference);
  }

  /** The remote host behind a context and a reference; the gateway where they are its own. */
  theirByReference(context: Uint8Array, at: number, reference: Uint8Array): number {
    const own = this.#isOwnReference(reference) && this.isOwnContext(context, at);
    return own ? OWN : this.lookup.theirByReference(context, at, reference);
  }

  isOwnAddress(bytes: Uint8Array, at: number): boolean {
    return this.#isSame(bytes, at, Field.address);
  }

  /** Whether a context is our own, as far as we know it. */
  isOwnContext(bytes: Uint8Array, at: number): boolean {
    return this.#known && this.#isSame(bytes, at, Field.context);
  }

  /** Whether a destination context means us: our own, none (the sender doesn't know it), or any if we don't know ours. */
  isOurContext(bytes: Uint8Array, at: number): boolean {
    return !this.#known || this.#isSame(bytes, at, Field.context) || this.isNoContext(bytes, at);
  }

  isNoContext(bytes: Uint8Array, at: number): boolean {
    for (let index = 0; index < this.tunnelBytes; index++) if (bytes[at + index] !== 0) return false;
    return true;
  }

  /** Whether an address lies in the encoding network. */
  isEncoded(bytes: Uint8Array, at: number): boolean {
    const whole = this.#netBits >> 3;
    for (let index = 0; index < whole; index++) if (bytes[at + index] !== this.#net[index]) return false;
    const rest = this.#netBits & 7;
    return rest === 0 || (bytes[at + whole]! ^ this.#net[whole]!) >> (8 - rest) === 0;
  }

  /** Whether the host part of an encoded address is all ones. */
  isBroadcast(bytes: Uint8Array, at: number): boolean {
    if (this.lanBytes !== 4) return false;
    for (let bit = this.#netBits; bit < 32; bit++) {
      if (((bytes[at + (bit >> 3)]! >> (7 - (bit & 7))) & 1) === 0) return false;
    }
    return true;
  }

  isForbidden(bytes: Uint8Array, at: number): boolean {
    for (const address of this.#forbidden) {
      let index = 0;
      while (index < address.length && address[index] === bytes[at + index]) index++;
      if (index === address.length) return true;
    }
    return false;
  }

  #isOwnReference(reference: Uint8Array): boolean {
    for (let index = 15; index >= 0; index--) {
      if (reference[index] !== this.own[Field.reference + index]) return false;
    }
    return true;
  }

  /** Whether bytes are those of our own record at `field`. */
  #isSame(bytes: Uint8Array, at: number, field: number): boolean {
    const length = field === Field.address ? this.lanBytes : this.tunnelBytes;
    for (let index = 0; index < length; index++)
      if (bytes[at + index] !== this.own[field + index]) return false;
    return true;
  }
}
