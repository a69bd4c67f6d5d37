/**
 * Rules and routes that a lease asks for. Pure: lease and places in, plan out.
 *
 * For each address of a lease, as Table Allocator has them for IPv4, and the same for IPv6:
 *
 *     10000  from ADDRESS           lookup T    sockets that are bound to it
 *     20000  to ADDRESS/PREFIX      lookup T    the uplink's own network: its router, its resolver
 *     91000  iif lo                 lookup T    what the router sends itself, if main knows no way; once per lease
 *
 * and where routes are asked for, the connected one and a default by the interface's gateway.
 */

import type {
  FamilyTable,
  Refusal,
  SteerChange,
  SteerPlan,
  SteerRoute,
  SteerRule,
} from "../kernel/kernel.ts";
import { type Address, type Family, familyOf, type Prefix, prefixOf } from "../lib/address.ts";
import type { Fault } from "../lib/fault.ts";
import { addressOf, kernelFamilies, type TableFamily, tableFamilies } from "./key.ts";
import type { Places } from "./places.ts";
import type { TableLease } from "./record.ts";

/** Who makes rules and routes in the kernel: its steering. */
export interface Steers {
  /** All that shall be. @returns what was refused; all else is there. @throws Fault if nothing could be done. */
  apply(plan: SteerPlan): Promise<readonly Refusal[]>;
  /** What changes of it. @returns all that is refused at present. @throws Fault if nothing could be done. */
  amend(change: SteerChange): Promise<readonly Refusal[]>;
  /** Tables that others use. */
  tables(): Promise<Readonly<Record<Family, ReadonlySet<number>>>>;
  /** Removes all that is in these tables or leads to them. */
  flush(tables: readonly FamilyTable[]): Promise<void>;
}

export const priorities = { from: 10_000, to: 20_000, own: 91_000 } as const;

/** The gateway that an interface was given, by DHCP or router advertisements. */
export type GatewayOf = (name: string, family: Family) => Address | undefined;

/** What a lease asks for, of all that is known of its places. */
export function planOf(lease: TableLease, places: Places, gatewayOf: GatewayOf): SteerPlan {
  const rules: SteerRule[] = [];
  const routes: SteerRoute[] = [];
  if (lease.note.steer !== "rules") return { rules, routes };
  for (const family of kernelFamilies[lease.note.key.family]) {
    const ends = endsOf(lease, family, places);
    if (ends.length === 0) continue;
    rules.push(...rulesOf(lease.value, family, ends));
    if (lease.note.routes) routes.push(...routesOf(lease, { family, ends, places, gatewayOf }));
  }
  return { rules, routes };
}

/** Whose rules and routes were refused, with the first reason; a rule's weighs more than a route's. */
export function refusedLeases(
  refusals: readonly Refusal[],
  book: { holder(family: TableFamily, table: number): TableLease | undefined },
): Map<TableLease, { readonly fault: Fault; readonly isRule: boolean }> {
  const leases = new Map<TableLease, { readonly fault: Fault; readonly isRule: boolean }>();
  for (const { what, fault } of refusals) {
    const isRule = "priority" in what;
    for (const space of tableFamilies) {
      const lease = book.holder(space, what.table);
      if (lease?.note.steer !== "rules" || !kernelFamilies[space].includes(what.family)) continue;
      if (leases.get(lease)?.isRule !== true) leases.set(lease, { fault, isRule });
    }
  }
  return leases;
}

/** What makes one plan of the other. */
export function changeOf(before: SteerPlan, after: SteerPlan): SteerChange {
  const texts = (each: SteerPlan) =>
    new Set([...each.rules, ...each.routes].map((part) => JSON.stringify(part)));
  const without = (plan: SteerPlan, other: Set<string>): SteerPlan => ({
    rules: plan.rules.filter((rule) => !other.has(JSON.stringify(rule))),
    routes: plan.routes.filter((route) => !other.has(JSON.stringify(route))),
  });
  return { drop: without(before, texts(after)), add: without(after, texts(before)) };
}

type End = readonly [Address, number | undefined];

/** The addresses of a lease, with their prefix lengths as far as they are known. */
function endsOf({ note }: TableLease, family: Family, places: Places): readonly End[] {
  const { key, prefixLength } = note;
  if (key.address === "") return places.addressesOf(key.interface, family);
  const address = addressOf(key);
  if (address === undefined || familyOf(address) !== family) return [];
  return [[address, prefixLength ?? places.prefixLengthOf(key.interface, address)]];
}

function rulesOf(table: number, family: Family, ends: readonly End[]): SteerRule[] {
  const rules: SteerRule[] = [];
  const networks = new Set<Prefix>();
  for (const [address, length] of ends) {
    rules.push({ family, priority: priorities.from, from: prefixOf(address, bitsOf(family)), table });
    if (length !== undefined) networks.add(prefixOf(address, length));
  }
  for (const to of networks) rules.push({ family, priority: priorities.to, to, table });
  rules.push({ family, priority: priorities.own, incoming: "lo", table });
  return rules;
}

function routesOf(
  { value: table, note }: TableLease,
  about: {
    readonly family: Family;
    readonly ends: readonly End[];
    readonly places: Places;
    readonly gatewayOf: GatewayOf;
  },
): SteerRoute[] {
  const { family, ends, places } = about;
  const ifindex = places.ifindexOf(note.key.interface);
  if (ifindex === undefined) return [];
  const connected = new Map<Prefix, Address>();
  for (const [address, length] of ends) {
    // The kernel takes a source only if it has the address.
    const isThere = places.prefixLengthOf(note.key.interface, address) !== undefined;
    const to = prefixOf(address, length ?? bitsOf(family));
    if (isThere && length !== undefined && !connected.has(to)) connected.set(to, address);
  }
  // IPv6 takes no source that is still being checked for duplicates, and picks one of the interface by itself.
  const from = (source: Address) => (family === 4 ? { source } : {});
  const routes: SteerRoute[] = [...connected].map(([to, source]) => ({
    ...{ family, table, to, ifindex },
    ...from(source),
  }));
  const via = about.gatewayOf(note.key.interface, family);
  const [first] = connected.values();
  if (via !== undefined && first !== undefined) {
    const everything = (family === 4 ? "0.0.0.0/0" : "::/0") as Prefix;
    routes.push({ family, table, to: everything, via, ifindex, ...from(first) });
  }
  return routes;
}

function bitsOf(family: Family): number {
  return family === 4 ? 32 : 128;
}
