/**
 * Pools: where leased values come from, and in which order.
 *
 * A pool proposes, the lease book (lease.ts) decides: `propose` is given a test for values that are neither out nor
 * resting nor otherwise in use, and gives one that passes it. Three orders: the lowest free number, a number at
 * random, an address in a prefix. The lowest-number pool keeps a bit for each number that is out; the others nothing.
 */

import { type Address, contains, decodeAddress, encodeAddress, familyOf, type Prefix } from "./address.ts";

export interface Pool<Value> {
  /** How many values there are. */
  readonly size: number;
  has(value: Value): boolean;
  /** A value that passes the test, or undefined if there is none. */
  propose(isFree: (value: Value) => boolean): Value | undefined;
  /** A value has gone out. */
  taken(value: Value): void;
  /** A value is back, rested. */
  returned(value: Value): void;
}

/** Gives a number from 0 up to, not including, the limit. */
export type Draw = (limit: number) => number;

/** Draws before a random pool searches one by one. */
const draws = 32;
const allOut = 0xffff_ffff;

/** Numbers from `first` on, the lowest free one first. @throws RangeError for more than 65,536, or none. */
export function lowestNumbers(first: number, count: number): Pool<number> {
  if (!Number.isSafeInteger(first) || first < 0)
    throw new RangeError(`Cannot lease from ${first}: no number`);
  if (!Number.isInteger(count) || count < 1 || count > 65_536) {
    throw new RangeError(`Cannot lease from ${count} numbers: 1 to 65536 are possible`);
  }
  const out = new Uint32Array(Math.ceil(count / 32));
  const has = (value: number) => Number.isInteger(value) && value >= first && value < first + count;
  const mark = (value: number, isOut: boolean) => {
    if (!has(value)) return;
    const [word, bit] = [(value - first) >>> 5, 1 << ((value - first) & 31)];
    if (isOut) out[word]! |= bit;
    else out[word]! &= ~bit;
  };
  return {
    size: count,
    has,
    propose(isFree) {
      for (let word = 0; word < out.length; word++) {
        if (out[word] === allOut) continue;
        for (let index = word * 32; index < Math.min(count, word * 32 + 32); index++) {
          const isOut = (out[word]! & (1 << (index & 31))) !== 0;
          if (!isOut && isFree(first + index)) return first + index;
        }
      }
      return undefined;
    },
    taken: (value) => mark(value, true),
    returned: (value) => mark(value, false),
  };
}

/** Numbers from `first` on, at random. @throws RangeError if they go past 2^53. */
export function randomNumbers(first: number, count: number, draw: Draw): Pool<number> {
  if (!Number.isSafeInteger(first) || first < 0 || !Number.isSafeInteger(first + count) || count < 1) {
    throw new RangeError(`Cannot lease ${count} numbers from ${first} on`);
  }
  return {
    size: count,
    has: (value) => Number.isSafeInteger(value) && value >= first && value < first + count,
    propose(isFree) {
      for (let tries = 0; tries < draws; tries++) {
        const value = first + draw(count);
        if (isFree(value)) return value;
      }
      const start = draw(count);
      for (let step = 0; step < count; step++) {
        const value = first + ((start + step) % count);
        if (isFree(value)) return value;
      }
      return undefined;
    },
    taken() {},
    returned() {},
  };
}

/**
 * Addresses in a prefix: with `draw` at random, else the lowest free one first. Network and broadcast address of an
 * IPv4 prefix, and the first address of an IPv6 one (the routers', RFC 4291 2.6.1), are nobody's. Of a prefix with
 * more than 2^32 addresses the first 2^32 are used.
 */
export function addressesIn(prefix: Prefix, draw?: Draw): Pool<Address> {
  const [base, length] = prefix.split("/") as [Address, string];
  const family = familyOf(base);
  const bits = Math.min(32, (family === 4 ? 32 : 128) - Number(length));
  const all = 2 ** bits;
  const isWide = bits >= 2;
  const count = Math.max(1, all - (isWide ? (family === 4 ? 2 : 1) : 0));
  const bytes = encodeAddress(base);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const low = view.getUint32(bytes.length - 4) + (isWide ? 1 : 0);
  const addressOf = (index: number): Address => {
    view.setUint32(bytes.length - 4, low + index);
    return decodeAddress(bytes, 0, family);
  };
  const indexOf = (address: Address): number => {
    const parts = encodeAddress(address);
    const value = new DataView(parts.buffer, parts.byteOffset).getUint32(parts.length - 4);
    return value - low;
  };
  const has = (address: Address) => {
    if (familyOf(address) !== family || !contains(prefix, address)) return false;
    const index = indexOf(address);
    return index >= 0 && index < count && addressOf(index) === address;
  };
  const numbers = draw ? randomNumbers(0, count, draw) : inOrder(count);
  return {
    size: count,
    has,
    propose(isFree) {
      const index = numbers.propose((each) => isFree(addressOf(each)));
      return index === undefined ? undefined : addressOf(index);
    },
    taken: (address) => has(address) && numbers.taken(indexOf(address)),
    returned: (address) => has(address) && numbers.returned(indexOf(address)),
  };
}

/** Small ranges with a bit for each; large ones by search, which ends after as many steps as there are leases. */
function inOrder(count: number): Pool<number> {
  return count <= 65_536 ? lowestNumbers(0, count) : randomNumbers(0, count, () => 0);
}
