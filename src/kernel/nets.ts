/**
 * Prefixes as a list of nets to match packets by: checked, and made free of overlap for the kernel.
 *
 * Both back ends refuse, or read back otherwise than written, intervals that overlap. So of two prefixes of which
 * one lies in the other only the wider goes to the kernel. Prefixes side by side stay apart: a /24 stays a /24.
 */

import { type Address, type Family, familyOf, type Prefix } from "../lib/address.ts";
import { isPrefix, Nets } from "../lib/nets.ts";

/** By family: prefixes none of which lies in another, the widest first, each once. */
export type NetsApart = Readonly<Record<Family, readonly Prefix[]>>;

/** @throws TypeError for text that is no canonical prefix. */
export function netsApart(prefixes: Iterable<Prefix>): NetsApart {
  const kept: Record<Family, Prefix[]> = { 4: [], 6: [] };
  const nets = new Nets<true>();
  const sorted = [...prefixes].map(partsOf).sort((left, right) => left.length - right.length);
  for (const { prefix, address } of sorted) {
    if (nets.covers(address)) continue;
    nets.set(prefix, true);
    kept[familyOf(address)].push(prefix);
  }
  return kept;
}

/** Finds the prefixes that an address lies in. @throws TypeError for text that is no canonical prefix. */
export function finderOf(prefixes: Iterable<Prefix>): (address: Address) => Prefix[] {
  const nets = new Nets<true>();
  for (const prefix of prefixes) nets.set(partsOf(prefix).prefix, true);
  return (address) => nets.covering(address).map(([prefix]) => prefix);
}

/** The last check before text becomes rules: a Prefix cannot look otherwise. */
function partsOf(prefix: Prefix): { prefix: Prefix; address: Address; length: number } {
  if (!isPrefix(prefix)) throw new TypeError(`Cannot block: ${JSON.stringify(prefix)} is no prefix`);
  const [address, length] = prefix.split("/") as [Address, string];
  return { prefix, address, length: Number(length) };
}
