/**
 * Prefixes as a list of nets to match packets by: made free of overlap for the kernel, and looked up for us.
 *
 * Both back ends refuse, or read back otherwise than written, intervals that overlap. So of two prefixes of which
 * one lies in the other only the wider goes to the kernel. Prefixes side by side stay apart: a /24 stays a /24.
 */

import {
  type Address,
  encodeAddress,
  type Family,
  familyOf,
  type Prefix,
  parsePrefix,
} from "../lib/address.ts";

/** By family: prefixes none of which lies in another, the widest first, each once. */
export type Nets = Readonly<Record<Family, readonly Prefix[]>>;

const bitsOf = { 4: 32, 6: 128 } as const;

/** @throws TypeError for text that is no canonical prefix. */
export function netsOf(prefixes: Iterable<Prefix>): Nets {
  const nets: Record<Family, Prefix[]> = { 4: [], 6: [] };
  const index = new NetIndex([]);
  const sorted = [...prefixes].map(partsOf).sort((left, right) => left.length - right.length);
  for (const { prefix, address, length } of sorted) {
    if (index.holding(address).length > 0) continue;
    index.add(prefix, { address, length });
    nets[familyOf(address)].push(prefix);
  }
  return nets;
}

/** The address of a prefix that holds but one; undefined for a wider one. */
export function onlyAddress(prefix: Prefix): Address | undefined {
  const { address, length } = partsOf(prefix);
  return length === bitsOf[familyOf(address)] ? address : undefined;
}

/** Finds the prefixes that an address lies in, in a step for each length that occurs. */
export class NetIndex {
  readonly #lengths: Readonly<Record<Family, Map<number, Map<bigint, Prefix>>>> = {
    4: new Map(),
    6: new Map(),
  };

  /** @throws TypeError for text that is no canonical prefix. */
  constructor(prefixes: Iterable<Prefix>) {
    for (const prefix of prefixes) this.add(prefix, partsOf(prefix));
  }

  /** @internal for who has taken it apart already */
  add(prefix: Prefix, { address, length }: { address: Address; length: number }): void {
    const lengths = this.#lengths[familyOf(address)];
    const nets = lengths.get(length) ?? new Map<bigint, Prefix>();
    lengths.set(length, nets.set(headOf(numberOf(address), familyOf(address), length), prefix));
  }

  /** In the order in which their lengths were added. */
  holding(address: Address): Prefix[] {
    const family = familyOf(address);
    const lengths = this.#lengths[family];
    if (lengths.size === 0) return [];
    const value = numberOf(address);
    const found: Prefix[] = [];
    for (const [length, nets] of lengths) {
      const net = nets.get(headOf(value, family, length));
      if (net !== undefined) found.push(net);
    }
    return found;
  }
}

function headOf(value: bigint, family: Family, length: number): bigint {
  return value >> BigInt(bitsOf[family] - length);
}

function numberOf(address: Address): bigint {
  let hex = "0x";
  for (const byte of encodeAddress(address)) hex += byte.toString(16).padStart(2, "0");
  return BigInt(hex);
}

/** The last check before text becomes rules: a Prefix cannot look otherwise. */
function partsOf(prefix: Prefix): { prefix: Prefix; address: Address; length: number } {
  if (!prefix.includes("/") || parsePrefix(prefix) !== prefix) {
    throw new TypeError(`Cannot block: ${JSON.stringify(prefix)} is no prefix`);
  }
  const [address, length] = prefix.split("/") as [Address, string];
  return { prefix, address, length: Number(length) };
}
