/**
 * Leases of Table Allocator's server, taken over from its database with their numbers.
 *
 * `RtTables(RtTable, AddrFamily, Ifname, Addr, LeaseExpires, Tag)`. The ends in it are counted from the start of some
 * boot, which one it does not say: every lease begins its time anew, and whoever still needs it refreshes it.
 */

import { parseAddress } from "../lib/address.ts";
import { isPlain, longest, type TableFamily, tableFamilies } from "./key.ts";
import type { Note } from "./record.ts";
import { readSqliteTable } from "./sqlite.ts";

export interface ImportedLease {
  readonly table: number;
  readonly note: Omit<Note, "keptUntilAt">;
}

const familyNumbers: ReadonlyMap<unknown, TableFamily> = new Map<unknown, TableFamily>([
  [0, "unspec"],
  [2, "inet"],
  [10, "inet6"],
]);

/** A lease from what somebody says of it; undefined if it makes no sense. */
export function importedLease(row: {
  readonly table?: unknown;
  readonly family?: unknown;
  readonly interface?: unknown;
  readonly address?: unknown;
  readonly label?: unknown;
  readonly owner: string;
  readonly lifetimeMs: number;
}): ImportedLease | undefined {
  const { table, interface: name, address, label, owner, lifetimeMs } = row;
  const family = tableFamilies.find((each) => each === row.family);
  const isTable = typeof table === "number" && Number.isInteger(table) && table > 0 && table < 0xffff_ffff;
  if (!family || !isTable || typeof name !== "string" || typeof address !== "string") return undefined;
  if (!isPlain(name, longest.interface) || !isPlain(address, longest.address)) return undefined;
  const key = { family, interface: name, address: parseAddress(address) ?? address, tag: "" };
  const own = { steer: "none", follow: false, routes: false, prefixLength: undefined } as const;
  const isLabel = typeof label === "string" && isPlain(label, longest.tag);
  return { table, note: { key, owner, lifetimeMs, ...own, label: isLabel ? label : "" } };
}

/**
 * @returns the leases, by table, and how many rows make no sense.
 * @throws SyntaxError if the bytes are no such database.
 */
export function importLeases(
  bytes: Uint8Array,
  terms: { readonly owner: string; readonly lifetimeMs: number },
): { readonly leases: readonly ImportedLease[]; readonly senseless: number } {
  const rows = readSqliteTable(bytes, "RtTables");
  const leases = rows.flatMap(([table, number, name, address, , label]) => {
    const family = familyNumbers.get(number);
    return importedLease({ table, family, interface: name, address, label, ...terms }) ?? [];
  });
  leases.sort((one, other) => one.table - other.table);
  return { leases, senseless: rows.length - leases.length };
}
