/**
 * Prefixes with what belongs to them, found by the addresses in them.
 *
 * Kept by prefix; for the look-up by address, single addresses by their text and the others by length and leading
 * bits. A look-up costs one step for single addresses and one for each other length in use, however many
 * prefixes there are. Overlaps are welcome.
 */

import { type Address, encodeAddress, type Prefix, parsePrefix } from "./address.ts";

interface Net<Value> {
  readonly prefix: Prefix;
  readonly value: Value;
  /** See `orderOf`. */
  readonly order: string;
}

/** Each byte value as eight bits, and as two hexadecimal digits. */
const bitsOfByte = Array.from({ length: 256 }, (_, byte) => byte.toString(2).padStart(8, "0"));
const hexOfByte = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
/** Answers of `covers` that are kept. */
const maxAnswers = 4_096;

export class Nets<Value> {
  readonly #nets = new Map<Prefix, Net<Value>>();
  readonly #single = new Map<Address, Net<Value>>();
  /** By family and length, then by the bits of that length. Empty ones are removed. */
  readonly #wide: Record<4 | 6, Map<number, Map<string, Net<Value>>>> = { 4: new Map(), 6: new Map() };
  /** Recent answers of `covers`: the same addresses come again and again. */
  readonly #answers = new Map<Address, boolean>();

  get size(): number {
    return this.#nets.size;
  }

  get(prefix: Prefix): Value | undefined {
    return this.#nets.get(prefix)?.value;
  }

  set(prefix: Prefix, value: Value): void {
    const net: Net<Value> = { prefix, value, order: orderOf(prefix) };
    this.#nets.set(prefix, net);
    this.#answers.clear();
    const address = soleAddress(prefix);
    if (address !== undefined) {
      this.#single.set(address, net);
      return;
    }
    const { base, family, length } = partsOf(prefix);
    const same = this.#wide[family].get(length) ?? new Map<string, Net<Value>>();
    this.#wide[family].set(length, same.set(render(base, bitsOfByte).slice(0, length), net));
  }

  delete(prefix: Prefix): void {
    this.#nets.delete(prefix);
    this.#answers.clear();
    const address = soleAddress(prefix);
    if (address !== undefined) {
      this.#single.delete(address);
      return;
    }
    const { base, family, length } = partsOf(prefix);
    const same = this.#wide[family].get(length);
    same?.delete(render(base, bitsOfByte).slice(0, length));
    if (same?.size === 0) this.#wide[family].delete(length);
  }

  /** Whether an address lies in any of them. */
  covers(address: Address): boolean {
    if (this.#nets.size === 0) return false;
    if (this.#single.size === this.#nets.size) return this.#single.has(address);
    let answer = this.#answers.get(address);
    if (answer === undefined) {
      answer = this.#single.has(address) || this.#widerThan(address, 1).length > 0;
      if (this.#answers.size >= maxAnswers) this.#answers.clear();
      this.#answers.set(address, answer);
    }
    return answer;
  }

  /** Those that an address lies in, the widest first, as [prefix, value]. */
  covering(address: Address): [Prefix, Value][] {
    if (this.#nets.size === 0) return [];
    const single = this.#single.get(address);
    const found = [...this.#widerThan(address, Number.POSITIVE_INFINITY), ...(single ? [single] : [])];
    // Nets that hold the same address differ in length alone.
    found.sort((left, right) => (left.order < right.order ? -1 : 1));
    return found.map(({ prefix, value }) => [prefix, value]);
  }

  /** All of them, in SPIN's order (see `orderOf`), as [prefix, value]. */
  entries(): [Prefix, Value][] {
    const nets = [...this.#nets.values()].sort((left, right) => (left.order < right.order ? -1 : 1));
    return nets.map(({ prefix, value }) => [prefix, value]);
  }

  #widerThan(address: Address, limit: number): Net<Value>[] {
    const found: Net<Value>[] = [];
    const wide = this.#wide[address.includes(":") ? 6 : 4];
    if (wide.size === 0) return found;
    const bits = render(address, bitsOfByte);
    for (const [length, nets] of wide) {
      const net = nets.get(bits.slice(0, length));
      if (net === undefined) continue;
      found.push(net);
      if (found.length >= limit) break;
    }
    return found;
  }
}

/** The one address of a prefix of full length; undefined for others. */
export function soleAddress(prefix: Prefix): Address | undefined {
  const { base, family, length } = partsOf(prefix);
  return length === (family === 4 ? 32 : 128) ? base : undefined;
}

/** The prefix that is one address. */
export function singlePrefix(address: Address): Prefix {
  return `${address}/${address.includes(":") ? 128 : 32}` as Prefix;
}

/** A prefix as SPIN lists addresses: a single one without its length. */
export function formatNet(prefix: Prefix): string {
  return soleAddress(prefix) ?? prefix;
}

/**
 * A text that sorts as SPIN lists addresses: IPv4 before IPv6, each by value; of the same address, the wider
 * prefix first. A sort would else take addresses apart in every comparison.
 */
export function orderOf(prefix: Prefix): string {
  const { base, family, length } = partsOf(prefix);
  return `${family}${render(base, hexOfByte)}${String(length).padStart(3, "0")}`;
}

/** Whether a text is a prefix in canonical form. */
export function isPrefix(text: unknown): text is Prefix {
  return typeof text === "string" && parsePrefix(text) === text;
}

function partsOf(prefix: Prefix): { base: Address; family: 4 | 6; length: number } {
  const slash = prefix.indexOf("/");
  const base = prefix.slice(0, slash) as Address;
  return { base, family: base.includes(":") ? 6 : 4, length: Number(prefix.slice(slash + 1)) };
}

function render(address: Address, digits: readonly string[]): string {
  let text = "";
  for (const byte of encodeAddress(address)) text += digits[byte]!;
  return text;
}
