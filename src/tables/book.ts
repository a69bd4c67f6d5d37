/**
 * The book of table leases: what is out, to whom, and what has ended and is not clean yet.
 *
 * Kept, in three number spaces by family: leases by key, resting tables, by owner how many it has, and by table what
 * is still to be removed from the kernel before anybody else may have the table. Changed by the verbs; what changed
 * since it was last asked is handed out as records for the disk and as news for subscribers. It decides, and touches
 * nothing.
 */

import type { FamilyTable } from "../kernel/kernel.ts";
import type { Family } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import { Leases } from "../lib/lease.ts";
import { lowestNumbers } from "../lib/pool.ts";
import {
  describeKey,
  kernelFamilies,
  keyText,
  type TableFamily,
  type TableKey,
  tableFamilies,
} from "./key.ts";
import {
  type Note,
  type RestRecord,
  renderLease,
  renderRest,
  type SavedRecords,
  type Steer,
  type TableLease,
  type TableRecord,
} from "./record.ts";

export interface BookOptions {
  /** The first table and how many there are. */
  readonly first: number;
  readonly count: number;
  readonly families: readonly TableFamily[];
  /** How long a table rests after a lease before another key gets it. */
  readonly restMs: number;
  /** Leases that one owner may have; root may have all. */
  readonly maxPerOwner: number;
  /** Whether a number is somebody else's by the machine's configuration. */
  isReserved(table: number): boolean;
}

/** What a lease shall be. */
export interface Wish extends Omit<Note, "key" | "owner" | "keptUntilAt"> {
  readonly owner: string;
}

export type NewsKind = "granted" | "expired" | "released" | "conflict";

export interface News {
  readonly kind: NewsKind;
  readonly lease: TableLease;
  /** Of a conflict: who wanted it. */
  readonly by?: string;
}

/** A table whose lease has ended, until nothing of it is left in the kernel. */
export interface Ending {
  readonly rest: RestRecord;
  /** It was removed from the kernel once. It is again when the rest is over: netifd and dying clients are slow. */
  isFlushed: boolean;
}

type Used = Readonly<Record<Family, ReadonlySet<number>>>;

/** May do everything. */
export const root = "root";

/** New leases of one owner but root: so many at once, and then one in this time. Each is written to flash. */
const pace = { burst: 128, everyMs: 1_000 } as const;

const nobody: Used = { 4: new Set(), 6: new Set() };

export class Book {
  readonly #options: BookOptions;
  readonly #spaces: Readonly<Record<TableFamily, Leases<number, Note>>>;
  readonly #counts = new Map<string, number>();
  readonly #endings = new Map<string, Ending>();
  /** Leases with rules, by where their address is. */
  readonly #steered = new Map<string, TableLease>();
  /** When an owner will have paid for all the leases begun; nobody is in here for long. */
  readonly #paidAt = new Map<string, number>();
  /** By key: what the disk does not know yet. */
  #records = new Map<string, Json>();
  #news: News[] = [];
  /** Whose rules are to be looked at. */
  #unsteered = new Set<TableLease>();
  #changes = 0;
  /** Tables that others use in the kernel; as of now, whenever a lease may be granted. */
  inUse: Used = nobody;

  constructor(options: BookOptions) {
    this.#options = options;
    const space = () => {
      const pool = lowestNumbers(options.first, options.count);
      return new Leases<number, Note>({ pool, restMs: options.restMs });
    };
    this.#spaces = { inet: space(), inet6: space(), unspec: space() };
  }

  /** Counts what the disk has to learn. */
  get changes(): number {
    return this.#changes;
  }

  /** Tables that were leased and are not clean yet. */
  get endings(): number {
    return this.#endings.size;
  }

  get size(): number {
    return tableFamilies.reduce((sum, family) => sum + this.#spaces[family].size, 0);
  }

  *all(): IterableIterator<TableLease> {
    for (const family of tableFamilies) yield* this.#spaces[family].all();
  }

  get(key: TableKey): TableLease | undefined {
    return this.#spaces[key.family].get(keyText(key));
  }

  holder(family: TableFamily, table: number): TableLease | undefined {
    return this.#spaces[family].holder(table);
  }

  isServed(family: TableFamily): boolean {
    return this.#options.families.includes(family);
  }

  /** How many leases somebody has. */
  countOf(owner: string): number {
    return this.#counts.get(owner) ?? 0;
  }

  /**
   * The lease of a key: as it is but renewed and as wished, or a new one.
   *
   * @throws Fault "unsupported" for a family that is not served, "denied" if it is somebody else's, "limit" if
   *   there is no free table, or the owner has enough or asks too fast, "conflict" if the address is steered to another table.
   */
  take(key: TableKey, wish: Wish, now: number): { readonly lease: TableLease; readonly isNew: boolean } {
    const what = `Cannot lease table for ${describeKey(key)}`;
    if (!this.isServed(key.family)) throw new Fault("unsupported", `${what}: family ${key.family} is off`);
    const present = this.get(key);
    if (present) {
      this.#authorize(present, wish.owner, what);
      return { lease: this.#adjust(present, wish, now), isNew: false };
    }
    if (wish.steer === "rules") this.#refuseDouble(key);
    const { owner, ...rest } = wish;
    const most = owner === root ? Number.POSITIVE_INFINITY : this.#options.maxPerOwner;
    if (this.countOf(owner) >= most)
      throw new Fault("limit", `${what}: ${owner || "the caller"} has ${most}`);
    if (owner !== root && !this.#isInPace(owner, now)) {
      throw new Fault("limit", `${what}: ${owner || "the caller"} begins leases too fast`);
    }
    const note: Note = { ...rest, key, owner, keptUntilAt: 0 };
    const text = keyText(key);
    const grant = this.#spaces[key.family].take(text, {
      ...{ now, lifeMs: wish.lifetimeMs, note },
      isFree: (table) => this.#isFree(table, { key, text, steer: wish.steer }),
    });
    if (grant.kind === "full") throw new Fault("limit", `${what}: no table is free`);
    this.#begin(grant.lease);
    return { lease: grant.lease, isNew: true };
  }

  /**
   * Puts the end of a lease off.
   *
   * @param lifetimeMs undefined: as long as before.
   * @throws Fault "denied" if it is somebody else's.
   */
  renew(lease: TableLease, by: { readonly owner: string; readonly lifetimeMs?: number }, now: number): void {
    this.#authorize(lease, by.owner, `Cannot renew table ${lease.value}`);
    if (by.lifetimeMs !== undefined) lease.note.lifetimeMs = by.lifetimeMs;
    this.#spaces[lease.note.key.family].renew(lease.key, now, lease.note.lifetimeMs);
    this.#keep(lease);
  }

  /** @throws Fault "denied" if it is somebody else's. */
  release(lease: TableLease, owner: string, now: number): void {
    this.#authorize(lease, owner, `Cannot release table ${lease.value}`);
    this.end(lease, "released", now);
  }

  /** Ends a lease, whoever has it. */
  end(lease: TableLease, kind: NewsKind, now: number): void {
    const { key } = lease.note;
    if (this.get(key) !== lease) return;
    this.#spaces[key.family].release(lease.key, now);
    this.#ended(lease, kind, now);
  }

  /** Ends what has run out. */
  expire(now: number): void {
    for (const family of tableFamilies) {
      for (const lease of this.#spaces[family].expire(now)) this.#ended(lease, "expired", now);
    }
  }

  /**
   * Takes in a lease with its number, from elsewhere.
   *
   * @param options `isInUse`: the configuration speaks of the number because of this very lease.
   * @returns undefined if the key or the number is out already, or the number is none of ours.
   */
  adopt(table: number, note: Note, now: number, options: { isInUse?: boolean } = {}): TableLease | undefined {
    const { family } = note.key;
    const present = this.get(note.key);
    if (present) return present.value === table ? present : undefined;
    if (!this.isServed(family) || (!options.isInUse && this.#options.isReserved(table))) return undefined;
    if (note.steer === "rules" && this.#steered.has(spotOf(note.key))) return undefined;
    const lease: TableLease = {
      ...{ key: keyText(note.key), value: table, note },
      ...{ grantedAt: now, endsAt: now + note.lifetimeMs },
    };
    if (!this.#spaces[family].restore(lease)) return undefined;
    this.#begin(lease);
    return lease;
  }

  // What the kernel has still.

  /** Tables that are to be emptied now: of leases that have ended, and again at the end of their rest. */
  dueEndings(now: number): Ending[] {
    return [...this.#endings.values()].filter((each) => !each.isFlushed || each.rest.untilAt <= now);
  }

  /** The kernel's tables of an ending that are nobody else's meanwhile. */
  tablesOf({ rest: { key, table } }: Ending): FamilyTable[] {
    const families = kernelFamilies[key.family].filter((family) =>
      tableFamilies.every(
        (space) => !kernelFamilies[space].includes(family) || !this.#spaces[space].holder(table),
      ),
    );
    return families.map((family) => ({ family, table }));
  }

  /** They were emptied. */
  flushed(endings: readonly Ending[], now: number): void {
    for (const ending of endings) {
      ending.isFlushed = true;
      const { key, table, untilAt } = ending.rest;
      const name = `${key.family} ${table}`;
      if (untilAt <= now && this.#endings.get(name) === ending) this.#endings.delete(name);
    }
  }

  // What others are told.

  /** What the disk does not know yet. They stay until `kept`. */
  get unkept(): ReadonlyMap<string, Json> {
    return this.#records;
  }

  /** These are on disk. */
  kept(records: ReadonlyMap<string, Json>): void {
    for (const [name, record] of records) {
      if (this.#records.get(name) === record) this.#records.delete(name);
    }
  }

  /** Everything, for the disk. */
  whole(): Json[] {
    return [
      ...[...this.all()].map(renderLease),
      ...[...this.#endings.values()].map(({ rest }) => renderRest(rest)),
    ];
  }

  takeNews(): News[] {
    const news = this.#news;
    this.#news = [];
    return news;
  }

  /** Leases whose rules have to be made, changed or removed, since it was last asked. */
  takeUnsteered(): ReadonlySet<TableLease> {
    const leases = this.#unsteered;
    this.#unsteered = new Set();
    return leases;
  }

  /** How many of them there are. */
  get unsteered(): number {
    return this.#unsteered.size;
  }

  /** Leases with rules. */
  steered(): Iterable<TableLease> {
    return this.#steered.values();
  }

  /** Whether a lease is out, with rules. */
  isSteered(lease: TableLease): boolean {
    return this.#steered.get(spotOf(lease.note.key)) === lease;
  }

  /**
   * Takes in what was on disk.
   *
   * @param boot of now.
   * @returns `left`: leases that cannot be, since their numbers are not ours any more, they end; `stayed`: leases of
   *   this very boot.
   */
  load(
    saved: readonly SavedRecords[],
    boot: string,
    now: number,
  ): { readonly left: readonly Note[]; readonly stayed: readonly TableLease[] } {
    const latest = new Map<string, { record: TableRecord; isOurs: boolean }>();
    for (const { boot: of, records } of saved) {
      const isOurs = of === boot && boot !== "";
      for (const record of records) {
        const key = record.kind === "lease" ? record.note.key : record.key;
        const name = `${key.family} ${keyText(key)}`;
        // What was granted last stands last, as it was granted.
        latest.delete(name);
        latest.set(name, { record, isOurs });
      }
    }
    const left: Note[] = [];
    const stayed: TableLease[] = [];
    /** Of a table that rested more than once, the last counts. */
    const rests = new Map<string, RestRecord>();
    for (const { record, isOurs } of latest.values()) {
      if (record.kind === "lease") {
        const { table, note } = record;
        const lease = this.#revive(record, { isOurs, now });
        if (lease && isOurs) stayed.push(lease);
        if (lease) continue;
        this.#await({ key: note.key, table, untilAt: now, steer: note.steer });
        left.push(note);
      } else {
        const longest = now + this.#options.restMs;
        const untilAt = isOurs ? Math.min(record.untilAt, longest) : longest;
        rests.set(`${record.key.family} ${record.table}`, { ...record, untilAt });
      }
    }
    for (const rest of [...rests.values()].sort((one, other) => one.untilAt - other.untilAt)) {
      const text = keyText(rest.key);
      const { table: value, untilAt } = rest;
      if (this.#spaces[rest.key.family].restoreRest({ key: text, value, untilAt })) this.#await(rest);
    }
    return { left, stayed };
  }

  #revive(
    { table, grantedAt, note }: Extract<TableRecord, { kind: "lease" }>,
    { isOurs, now }: { readonly isOurs: boolean; readonly now: number },
  ): TableLease | undefined {
    const endsAt = isOurs ? note.keptUntilAt : now + note.lifetimeMs;
    const lease: TableLease = {
      ...{ key: keyText(note.key), value: table, note, endsAt },
      grantedAt: isOurs ? grantedAt : now,
    };
    // Of another boot: the end on disk means nothing here.
    if (!isOurs) note.keptUntilAt = 0;
    if (!this.isServed(note.key.family) || !this.#spaces[note.key.family].restore(lease)) {
      return undefined;
    }
    this.#count(note.owner, 1);
    this.#steer(lease, true);
    if (!isOurs) this.#keep(lease);
    return lease;
  }

  #adjust(lease: TableLease, wish: Wish, now: number): TableLease {
    const { note } = lease;
    const isOther =
      note.steer !== wish.steer || note.routes !== wish.routes || note.prefixLength !== wish.prefixLength;
    if (wish.steer === "rules" && note.steer !== "rules") this.#refuseDouble(note.key);
    const isNews = isOther || note.follow !== wish.follow || note.lifetimeMs !== wish.lifetimeMs;
    const { steer, routes, prefixLength, follow, lifetimeMs } = wish;
    Object.assign(note, { steer, routes, prefixLength, follow, lifetimeMs });
    if (isOther) this.#steer(lease, true);
    this.#spaces[note.key.family].renew(lease.key, now, lifetimeMs);
    if (isNews) note.keptUntilAt = 0;
    this.#keep(lease);
    return lease;
  }

  #begin(lease: TableLease): void {
    const { key, owner } = lease.note;
    this.#endings.delete(`${key.family} ${lease.value}`);
    this.#count(owner, 1);
    this.#steer(lease, true);
    this.#keep(lease);
    this.#news.push({ kind: "granted", lease });
  }

  #ended(lease: TableLease, kind: NewsKind, now: number): void {
    const { key, owner, steer } = lease.note;
    this.#count(owner, -1);
    this.#steer(lease, false);
    const rest = { key, table: lease.value, untilAt: now + this.#options.restMs, steer };
    this.#await(rest);
    this.#record(lease, renderRest(rest));
    this.#news.push({ kind, lease });
  }

  #await(rest: RestRecord): void {
    this.#endings.set(`${rest.key.family} ${rest.table}`, { rest, isFlushed: false });
  }

  /** Writes an end down that is later by a lifetime, once what is written does not reach any more. */
  #keep(lease: TableLease): void {
    const { note } = lease;
    if (lease.endsAt <= note.keptUntilAt) return;
    note.keptUntilAt = lease.endsAt + note.lifetimeMs;
    this.#record(lease, renderLease(lease));
  }

  #record(lease: TableLease, record: Json): void {
    this.#changes++;
    this.#records.set(`${lease.note.key.family} ${lease.key}`, record);
  }

  #isFree(
    table: number,
    wanted: { readonly key: TableKey; readonly text: string; readonly steer: Steer },
  ): boolean {
    const { family } = wanted.key;
    const ending = this.#endings.get(`${family} ${table}`);
    const isOwn = ending !== undefined && keyText(ending.rest.key) === wanted.text;
    if ((ending && !isOwn) || this.#options.isReserved(table)) return false;
    if (!isOwn && kernelFamilies[family].some((each) => this.inUse[each].has(table))) return false;
    // A number that is out in another space is the same table in the kernel if both have a family in common:
    // two holders are two too many once one of them has rules.
    return tableFamilies.every((space) => {
      const shares = space !== family && (space === "unspec" || family === "unspec");
      const other = shares ? this.#spaces[space].holder(table) : undefined;
      return !other || (other.note.steer === "none" && wanted.steer === "none");
    });
  }

  /** An address leads to one table: of two rules for it only the first would count. @throws Fault "conflict" */
  #refuseDouble(key: TableKey): void {
    const other = this.#steered.get(spotOf(key));
    if (!other || other.note.key === key) return;
    this.#news.push({ kind: "conflict", lease: other });
    throw new Fault(
      "conflict",
      `Cannot steer ${describeKey(key)}: the address leads to table ${other.value} already`,
    );
  }

  /** After anything that a lease's rules depend on. */
  #steer(lease: TableLease, isOut: boolean): void {
    const { key, steer } = lease.note;
    const spot = spotOf(key);
    if (isOut && steer === "rules") this.#steered.set(spot, lease);
    else if (this.#steered.get(spot) === lease) this.#steered.delete(spot);
    else return;
    this.#unsteered.add(lease);
  }

  #authorize(lease: TableLease, owner: string, what: string): void {
    if (owner === root || owner === lease.note.owner) return;
    this.#news.push({ kind: "conflict", lease, by: owner });
    throw new Fault("denied", `${what}: it is ${lease.note.owner || "nobody"}'s`);
  }

  #isInPace(owner: string, now: number): boolean {
    for (const [each, paidAt] of this.#paidAt) if (paidAt <= now) this.#paidAt.delete(each);
    const paidAt = Math.max(now, this.#paidAt.get(owner) ?? now);
    if (paidAt - now >= pace.burst * pace.everyMs) return false;
    this.#paidAt.set(owner, paidAt + pace.everyMs);
    return true;
  }

  #count(owner: string, by: number): void {
    const count = this.countOf(owner) + by;
    if (count > 0) this.#counts.set(owner, count);
    else this.#counts.delete(owner);
  }
}

/** Without an address all of the interface's are meant. */
function spotOf({ interface: name, address, family }: TableKey): string {
  return address === "" ? `${family} ${name}` : `${name} ${address}`;
}
