/**
 * What a routing table is leased for: a family, an interface, an address, a tag. Values and their text; keeps nothing.
 *
 * The interface is a device or a netifd logical name; the address may be empty: the lease is then the interface's,
 * whatever addresses it has. Old clients of Table Allocator send any text for both, so a key takes what is printable
 * and short; an address that is one is canonical, so that its spellings are one key.
 */

import { type Address, type Family, familyOf, parseAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";

export const tableFamilies = ["inet", "inet6", "unspec"] as const;

/** Each has its own numbers: the same table may be out in two of them. */
export type TableFamily = (typeof tableFamilies)[number];

export interface TableKey {
  readonly family: TableFamily;
  readonly interface: string;
  /** Canonical, or "". Of an old client any text. */
  readonly address: string;
  readonly tag: string;
}

/** Families of the kernel in which a table of a number space is one. */
export const kernelFamilies: Readonly<Record<TableFamily, readonly Family[]>> = {
  inet: [4],
  inet6: [6],
  unspec: [4, 6],
};

/** Longest texts, in characters, as Table Allocator has them. */
export const longest = { interface: 15, address: 45, tag: 127 } as const;

/** One text for each key within its family. */
export function keyText({ interface: name, address, tag }: TableKey): string {
  return `${name}\n${address}\n${tag}`;
}

/** For messages: "inet eth0 192.0.2.1". */
export function describeKey({ family, interface: name, address, tag }: TableKey): string {
  return [family, name, address, tag].filter((part) => part !== "").join(" ");
}

/** The address of a key, if it is one of a family that the key's family has. */
export function addressOf(key: TableKey): Address | undefined {
  const address = parseAddress(key.address);
  return address !== undefined && kernelFamilies[key.family].includes(familyOf(address))
    ? address
    : undefined;
}

/** Text that can be shown, logged and stored. */
export function isPlain(text: string, most: number): boolean {
  return text.length <= most && !/[\u0000-\u001f\u007f\ud800-\udfff]/.test(text);
}

/**
 * A key that somebody asks about.
 *
 * @throws Fault "invalid" for a family, interface, address or tag that is none.
 */
export function keyOf(parts: {
  readonly family: string;
  readonly interface: string;
  readonly address?: string | undefined;
  readonly tag?: string | undefined;
}): TableKey {
  const { interface: name, address: given = "", tag = "" } = parts;
  const refuse = (what: string, value: string): never => {
    throw new Fault("invalid", `Cannot lease table: ${what} ${JSON.stringify(value.slice(0, 64))} is none`);
  };
  const family = tableFamilies.find((each) => each === parts.family) ?? refuse("family", parts.family);
  if (!/^[^\s/:]+$/.test(name) || !isPlain(name, longest.interface)) refuse("interface", name);
  if (!isPlain(tag, longest.tag)) refuse("tag", tag);
  const address = given === "" ? "" : (parseAddress(given) ?? refuse("address", given));
  const key = { family, interface: name, address, tag };
  if (address !== "" && addressOf(key) === undefined) refuse(`${family} address`, address);
  return key;
}
