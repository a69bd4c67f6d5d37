/**
 * What is kept beside a leased table, and the plain text of both: how they lie on disk.
 *
 * A file has the id of the boot in which it was written. In the same boot the monotonic instants in it still count;
 * in another one no clock can be trusted (routers boot with a wrong one), so every lease begins its time anew: it may
 * last longer than was said, never shorter. What is written is later than what was promised, by a lifetime, so that
 * renewals need no disk until it is reached.
 */

import { isObject, type JsonObject } from "../lib/json.ts";
import type { Lease } from "../lib/lease.ts";
import { isPlain, longest, type TableFamily, type TableKey, tableFamilies } from "./key.ts";

/** Version of what is stored. */
export const tablesVersion = 1;

/** Who makes rules and routes: nobody (the caller does), we, or netifd because we told it the table. */
export type Steer = "none" | "rules" | "netifd";

export const steers: readonly Steer[] = ["none", "rules", "netifd"];

export interface Note {
  readonly key: TableKey;
  /** Who may renew and end it, beside root. */
  readonly owner: string;
  lifetimeMs: number;
  /** Ends when the address or the interface goes, and is renewed by us while they are there. */
  follow: boolean;
  steer: Steer;
  /** A default route by the interface's gateway, and the connected one, in the table. */
  routes: boolean;
  /** Given by the caller; undefined: what the kernel says. */
  prefixLength: number | undefined;
  /** What an old client calls it. */
  readonly label: string;
  /** The end that is on disk, a monotonic instant. */
  keptUntilAt: number;
}

export type TableLease = Lease<number, Note>;

/** A table that rests, with the key that had it. */
export interface RestRecord {
  readonly key: TableKey;
  readonly table: number;
  readonly untilAt: number;
  readonly steer: Steer;
}

export type TableRecord =
  | { readonly kind: "lease"; readonly table: number; readonly grantedAt: number; readonly note: Note }
  | ({ readonly kind: "rest" } & RestRecord);

/** What was read: the instants are of the boot named. */
export interface SavedRecords {
  readonly boot: string;
  readonly records: readonly TableRecord[];
}

/** Of one file. */
export const maxRecords = 3 * 65_536 * 2;
/** A record whose every text is as long as it may be has less. */
export const maxRecordBytes = 1_280;
/** Of a lease: the shortest that makes sense, the longest that may be asked for. */
export const lifetimes = { leastMs: 1_000, mostMs: 365 * 86_400_000 } as const;

/** The text of a lease as it is to be kept. */
export function renderLease({ value, note, grantedAt }: TableLease): JsonObject {
  const { key, owner, lifetimeMs, follow, steer, routes, prefixLength, label, keptUntilAt } = note;
  return {
    table: value,
    ...renderKey(key),
    owner,
    lifetime: Math.ceil(lifetimeMs / 1_000),
    granted: Math.floor(grantedAt / 1_000),
    ends: Math.ceil(keptUntilAt / 1_000),
    ...(follow && { follow }),
    ...(steer !== "none" && { steer }),
    ...(routes && { routes }),
    ...(prefixLength !== undefined && { prefix: prefixLength }),
    ...(label !== "" && { label }),
  };
}

export function renderRest({ key, table, untilAt, steer }: RestRecord): JsonObject {
  return {
    table,
    ...renderKey(key),
    rests: Math.ceil(untilAt / 1_000),
    ...(steer !== "none" && { steer }),
  };
}

function renderKey({ family, interface: name, address, tag }: TableKey): JsonObject {
  return { family, interface: name, ...(address !== "" && { address }), ...(tag !== "" && { tag }) };
}

/** Reads what `renderLease` or `renderRest` returned. @throws SyntaxError for anything else. */
export function parseRecord(value: unknown): TableRecord {
  if (!isObject(value)) return fail("a record");
  const table = integer(value.table, "table", 0xffff_fffe);
  const key: TableKey = {
    family: tableFamilies.find((each): each is TableFamily => each === value.family) ?? fail("family"),
    interface: text(value.interface, "interface", longest.interface),
    address: text(value.address ?? "", "address", longest.address),
    tag: text(value.tag ?? "", "tag", longest.tag),
  };
  const steer = steers.find((each) => each === (value.steer ?? "none")) ?? fail("steer");
  if (value.rests !== undefined) {
    return { kind: "rest", key, table, untilAt: instant(value.rests, "rests"), steer };
  }
  const note: Note = {
    key,
    owner: text(value.owner, "owner", 64),
    lifetimeMs: Math.max(1, integer(value.lifetime, "lifetime", lifetimes.mostMs / 1_000)) * 1_000,
    follow: flag(value.follow, "follow"),
    steer,
    routes: flag(value.routes, "routes"),
    prefixLength: value.prefix === undefined ? undefined : integer(value.prefix, "prefix", 128),
    label: text(value.label ?? "", "label", longest.tag),
    keptUntilAt: instant(value.ends, "ends"),
  };
  return { kind: "lease", table, grantedAt: instant(value.granted ?? 0, "granted"), note };
}

function instant(value: unknown, what: string): number {
  return integer(value, what, Number.MAX_SAFE_INTEGER / 1_000) * 1_000;
}

function integer(value: unknown, what: string, most: number): number {
  const usable = typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= most;
  return usable ? (value as number) : fail(what);
}

function text(value: unknown, what: string, most: number): string {
  return typeof value === "string" && isPlain(value, most) ? value : fail(what);
}

function flag(value: unknown, what: string): boolean {
  return value === undefined || typeof value === "boolean" ? value === true : fail(what);
}

function fail(what: string): never {
  throw new SyntaxError(`Cannot read table leases: ${what} is wrong`);
}
