/**
 * Routing tables on lease: each uplink, VPN or container its own, unique and the same again after a restart.
 *
 * Who asks for a key (family, interface, address, tag) gets a number that nobody else on this machine uses, with the
 * rules and routes that lead to it where wished, until it is released, runs out, or the address or interface that it
 * follows is gone. Joins the book (who has what), the plan (what the kernel shall do), netifd (for interfaces that
 * it manages) and the journal (what is on disk). An answer is given when all of them have it. Whoever passed
 * `notify` hears of what was granted, expired, released and contested.
 */

import type { Address } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import { Turns } from "../lib/turns.ts";
import type { Clock } from "../system/system.ts";
import { Book, root, type Wish } from "./book.ts";
import { addressOf, describeKey, kernelFamilies, type TableFamily, type TableKey } from "./key.ts";
import { NetifdTables } from "./netifd.ts";
import type { TablesOptions } from "./parts.ts";
import { type LogicalInterface, type PlacedAddress, type PlacedLink, Places } from "./places.ts";
import type { Note, SavedRecords, TableLease } from "./record.ts";
import { Steered } from "./steered.ts";

export { type NewsKind, root, type Wish } from "./book.ts";
export { importLeases } from "./import.ts";
export { type JournalOptions, openJournal } from "./journal.ts";
export { keyOf, type TableFamily, type TableKey, tableFamilies } from "./key.ts";
export { renderTableLease, tableMethods } from "./methods.ts";
export { type Netifd, netifdOverUbus } from "./netifd.ts";
export type { TablesOptions } from "./parts.ts";
export type { LogicalInterface, PlacedAddress, PlacedLink } from "./places.ts";
export type { SavedRecords, Steer, TableLease } from "./record.ts";
export { Reserved } from "./reserved.ts";
export { openTableSocket, type TableSocket } from "./socket.ts";
export type { Steers } from "./steering.ts";

const defaultRestMs = 60_000;
const defaultMaxPerOwner = 64;
/** What failed and nobody waits for is tried again after this time. */
const retryMs = 1_000;
/** How often leases that follow something are looked at, if nothing was told. */
const followMs = 1_000;
/** Requests that may wait; each takes its caller's memory. */
const maxWaiting = 16_384;

/** Requests of one turn. */
const maxJobs = 1_024;

/** A request in its turn. */
interface Job {
  /** Makes the change. What it throws is thrown to the caller. */
  run(job: Job): void;
  /** It may grant a lease: what others use has to be known. */
  readonly looks: boolean;
  /** What became of it, if it is not as it should be. */
  fault: unknown;
}

export class Tables {
  readonly #clock: Pick<Clock, "now">;
  readonly #options: TablesOptions;
  readonly #book: Book;
  readonly #places = new Places();
  readonly #netifd: NetifdTables | undefined;
  readonly #turns = new Turns<Job>(async (jobs) => {
    await this.#take(jobs);
    return jobs.map(({ fault }) => fault);
  }, maxJobs);
  /** Leases whose address or interface has been there. */
  readonly #seen = new WeakSet<TableLease>();
  /** The kernel's addresses have been told. */
  #placesAreKnown = false;
  #followAt = 0;
  /** What the kernel does for leases with rules. */
  readonly #steered: Steered;
  #lastFault: string | undefined;
  #retryAt = 0;
  #isSettling = false;

  /**
   * Takes in what was on disk; nothing is touched before the first `tick` or request.
   *
   * @param saved as `openJournal` gave it.
   */
  constructor(clock: Pick<Clock, "now">, options: TablesOptions, saved: readonly SavedRecords[] = []) {
    this.#clock = clock;
    this.#options = options;
    const { first, count, families, isReserved = () => false } = options;
    this.#book = new Book({
      ...{ first, count, families, isReserved },
      restMs: options.restMs ?? defaultRestMs,
      maxPerOwner: options.maxPerOwner ?? defaultMaxPerOwner,
    });
    this.#netifd = options.netifd && new NetifdTables(options.netifd);
    this.#steered = new Steered({
      ...{ steers: options.steers, book: this.#book, places: this.#places },
      gatewayOf: options.gatewayOf ?? (() => undefined),
    });
    const { left, stayed } = this.#book.load(saved, options.boot, clock.now());
    for (const lease of stayed) this.#seen.add(lease);
    for (const { key } of left) {
      this.#report(
        new Fault("conflict", `Cannot keep table of ${describeKey(key)}: its number is not ours now`),
      );
    }
  }

  get counters(): { readonly leases: number; readonly ending: number; readonly unsteered: number } {
    return { leases: this.#book.size, ending: this.#book.endings, unsteered: this.#steered.size };
  }

  get defaultLifetimeMs(): number {
    return this.#options.lifetimeMs;
  }

  /** Whether netifd has an interface of this name, and can be told its table. */
  isLogical(name: string): boolean {
    return this.#netifd !== undefined && this.#places.logical(name) !== undefined;
  }

  /** Whether tables of a family are leased. */
  isServed(family: TableFamily): boolean {
    return this.#book.isServed(family);
  }

  all(): IterableIterator<TableLease> {
    return this.#book.all();
  }

  get(key: TableKey): TableLease | undefined {
    return this.#book.get(key);
  }

  holder(family: TableFamily, table: number): TableLease | undefined {
    return this.#book.holder(family, table);
  }

  /** Why a rule or route of a lease is not in the kernel now. */
  missing(lease: TableLease): string | undefined {
    return this.#steered.missing(lease);
  }

  // What callers ask for.

  /**
   * The lease of a key, new or renewed, once it is enforced and durable.
   *
   * @throws Fault as `Book.take`; "kernel" if its rules cannot be made; "storage" if the disk refuses: the lease then
   *   stands, and asking again gives it.
   */
  async request(key: TableKey, wish: Wish): Promise<TableLease> {
    if (this.#turns.length >= maxWaiting) {
      throw new Fault("limit", `Cannot lease table for ${describeKey(key)}: too many wait already`);
    }
    let lease: TableLease | undefined;
    await this.#do((job) => {
      const before = this.#book.get(key)?.note.steer;
      const taken = this.#takeFor(key, wish);
      lease = taken.lease;
      const { asked, fresh } = this.#turn;
      asked.set(lease, [...(asked.get(lease) ?? []), job]);
      if (taken.isNew) fresh.add(lease);
      // Who asks for an address that is not there waits for it.
      if (this.#isThere(lease)) this.#seen.add(lease);
      else this.#seen.delete(lease);
      if (wish.steer === "netifd" && before !== "netifd") this.#netifd?.want(lease, true);
      else if (wish.steer !== "netifd" && before === "netifd") this.#netifd?.want(lease, false);
    }, true);
    return lease!;
  }

  /** @param find is asked when it is its turn. @throws Fault "not-found", "denied", "storage" */
  async renew(
    find: () => TableLease | undefined,
    by: { readonly owner: string; readonly lifetimeMs?: number },
  ): Promise<TableLease> {
    let lease: TableLease | undefined;
    await this.#do(() => {
      lease = found(find(), "renew");
      this.#book.renew(lease, by, this.#clock.now());
    });
    return lease!;
  }

  /**
   * Answered when nothing of the lease is left in the kernel.
   *
   * @throws Fault "not-found", "denied"; "kernel", "storage": it has ended, and what is left is removed later.
   */
  async release(find: () => TableLease | undefined, owner: string): Promise<TableLease> {
    let lease: TableLease | undefined;
    await this.#do((job) => {
      lease = found(find(), "release");
      this.#book.release(lease, owner, this.#clock.now());
      this.#turn.releasing.add(job);
    });
    return lease!;
  }

  /**
   * Takes in leases with their numbers, from elsewhere.
   *
   * @returns the places in the list of those that were not: number or key is out already, or none of ours.
   * @throws Fault "storage"
   */
  async adopt(
    leases: readonly { readonly table: number; readonly note: Omit<Note, "keptUntilAt"> }[],
  ): Promise<readonly number[]> {
    const left: number[] = [];
    await this.#do(() => {
      const now = this.#clock.now();
      for (const [index, { table, note }] of leases.entries()) {
        if (!this.#book.adopt(table, { ...note, keptUntilAt: 0 }, now)) left.push(index);
      }
    });
    return left;
  }

  // What the machine tells.

  /**
   * All addresses of the kernel, whenever somebody has looked. Leases that follow one that is gone end.
   *
   * @param links all devices: one that has lost its last address is not gone.
   */
  addresses(all: Iterable<PlacedAddress>, links: Iterable<PlacedLink> = []): void {
    this.#places.setAddresses(all, links);
    this.#placesAreKnown = true;
    this.replan();
  }

  /** An address is gone from a device. */
  addressGone(device: string, address: Address): void {
    this.#places.removeAddress(device, address);
    this.replan();
  }

  /** A device is gone, with all its addresses. */
  linkGone(device: string): void {
    this.#places.removeDevice(device);
    this.replan();
  }

  /** All interfaces of netifd, after each of its events: what happened does not count, only what is. */
  interfaces(all: readonly LogicalInterface[]): void {
    this.#places.setInterfaces(all);
    this.replan();
  }

  /** Addresses or gateways may have changed. */
  replan(): void {
    this.#followAt = 0;
    this.#steered.redraw();
    this.#retryAt = 0;
    this.tick();
  }

  /** Often: ends what has run out, renews what follows, tries again what failed. */
  tick(): void {
    if (this.#isSettling || this.#clock.now() < this.#retryAt) return;
    this.#isSettling = true;
    const settle = () => {
      const now = this.#clock.now();
      this.#follow(now);
      this.#book.expire(now);
      this.#isSettling = false;
    };
    // What failed has been reported, and is tried again.
    this.#do(settle).catch(() => {});
  }

  /** Everything, for the disk. */
  whole(): readonly Json[] {
    return this.#book.whole();
  }

  /** Resolves when all that was asked so far has been answered. */
  settled(): Promise<void> {
    return this.#do(() => {});
  }

  // In its turn.

  #do(run: Job["run"], looks = false): Promise<void> {
    return this.#turns.do({ run, looks, fault: undefined });
  }

  #turn = newTurn();

  /** Never rejects. */
  async #take(jobs: readonly Job[]): Promise<void> {
    this.#turn = newTurn();
    await this.#look(jobs);
    /** Jobs that changed something, and those that changed what the kernel shall do. */
    const changers = new Set<Job>();
    const steerers = new Set<Job>();
    for (const job of jobs) {
      if (job.fault !== undefined) continue;
      const { changes, unsteered } = this.#book;
      try {
        job.run(job);
      } catch (thrown) {
        job.fault = thrown;
      }
      if (this.#book.changes !== changes) changers.add(job);
      if (this.#book.unsteered !== unsteered) steerers.add(job);
    }
    const news = this.#book.takeNews();
    for (const { kind, lease } of news) {
      const hasEnded = kind === "expired" || kind === "released";
      if (hasEnded && lease.note.steer === "netifd") this.#netifd?.want(lease, false);
    }
    const faults = [
      await this.#attempt(() => this.#steer(), steerers),
      await this.#attempt(() => this.#tellNetifd(), []),
      await this.#attempt(() => this.#store(), changers),
      await this.#attempt(() => this.#flush(), this.#turn.releasing),
    ].filter((fault) => fault !== undefined);
    for (const { kind, lease, by } of news) {
      // What was taken back was never granted.
      if (!this.#turn.undone.has(lease) || kind === "conflict") this.#options.notify?.(kind, lease, by);
    }
    this.#retryAt = faults.length > 0 ? this.#clock.now() + retryMs : 0;
    if (faults.length === 0) this.#lastFault = undefined;
    else if (faults[0]!.message !== this.#lastFault) this.#report(faults[0]!);
  }

  /** Learns which tables others use, if it matters. */
  async #look(jobs: readonly Job[]): Promise<void> {
    if (!jobs.some((job) => job.looks)) return;
    try {
      this.#book.inUse = await this.#options.steers.tables();
    } catch (thrown) {
      for (const job of jobs) if (job.looks) job.fault = thrown;
    }
  }

  async #attempt(step: () => Promise<void>, concerned: Iterable<Job>): Promise<Fault | undefined> {
    try {
      await step();
      return undefined;
    } catch (thrown) {
      const fault =
        thrown instanceof Fault
          ? thrown
          : new Fault("kernel", `Cannot keep tables: ${messageOf(thrown)}`, { cause: thrown });
      for (const job of concerned) job.fault ??= fault;
      return fault;
    }
  }

  /** Has the kernel do as the leases say. New leases whose rules it does not take end again. */
  async #steer(): Promise<void> {
    const { asked, fresh, undone } = this.#turn;
    try {
      const refused = await this.#steered.settle(asked.size > 0);
      for (const [lease, { fault, isRule }] of refused) if (isRule) this.#refuse(lease, fault);
      if (undone.size > 0) await this.#steered.settle(false);
    } catch (thrown) {
      for (const lease of fresh) if (lease.note.steer === "rules") this.#refuse(lease, thrown);
      throw thrown;
    }
  }

  /** Who asked for a lease in this turn does not get it; a new one ends again. */
  #refuse(lease: TableLease, fault: unknown): void {
    const { asked, fresh, undone } = this.#turn;
    for (const job of asked.get(lease) ?? []) job.fault ??= fault;
    if (!fresh.has(lease)) return;
    undone.add(lease);
    this.#book.end(lease, "released", this.#clock.now());
    this.#book.takeNews();
    if (lease.note.steer === "netifd") this.#netifd?.want(lease, false);
  }

  async #tellNetifd(): Promise<void> {
    const refused = await this.#netifd?.settle(this.#clock.now());
    for (const lease of this.#turn.asked.keys()) {
      const fault = lease.note.steer === "netifd" && refused?.get(lease.note.key.interface);
      if (fault) this.#refuse(lease, fault);
    }
    for (const fault of refused?.values() ?? []) throw fault;
  }

  async #store(): Promise<void> {
    const records = new Map(this.#book.unkept);
    if (records.size === 0) return;
    await this.#options.keep([...records.values()], () => this.#book.whole());
    this.#book.kept(records);
  }

  /** Removes from the kernel whatever is left of leases that have ended. */
  async #flush(): Promise<void> {
    const now = this.#clock.now();
    const due = this.#book.dueEndings(now).filter(({ rest }) => {
      return rest.steer !== "netifd" || this.#netifd?.isPending(rest.key.interface) !== true;
    });
    if (due.length === 0) return;
    const tables = due.flatMap((ending) => this.#book.tablesOf(ending));
    if (tables.length > 0) await this.#options.steers.flush(tables);
    this.#book.flushed(due, now);
  }

  /** A lease as `Book.take`; of an interface that netifd has in one of our tables already, that table. */
  #takeFor(key: TableKey, wish: Wish): { readonly lease: TableLease; readonly isNew: boolean } {
    const now = this.#clock.now();
    const logical = this.#places.logical(key.interface);
    if (wish.steer === "netifd" && this.#book.get(key) === undefined) {
      const what = `Cannot lease table for ${describeKey(key)}`;
      if (!logical || !this.#netifd) throw new Fault("not-found", `${what}: netifd has no such interface`);
      const [present] = kernelFamilies[key.family].flatMap((family) => logical.tables[family] ?? []);
      if (present !== undefined) {
        const { owner, ...rest } = wish;
        const note = { ...rest, key, owner, keptUntilAt: 0 };
        const lease = this.#book.adopt(Number(present), note, now, { isInUse: true });
        if (!lease) throw new Fault("conflict", `${what}: netifd has it in table ${present}`);
        return { lease, isNew: false };
      }
    }
    return this.#book.take(key, wish, now);
  }

  /** Renews leases while what they follow is there, and ends them when it has gone. */
  #follow(now: number): void {
    if (now < this.#followAt) return;
    this.#followAt = now + followMs;
    for (const lease of [...this.#book.all()]) {
      const { follow, steer, lifetimeMs, key } = lease.note;
      if (steer === "netifd") this.#netifd?.compare(lease, this.#places.logical(key.interface), now);
      if (!follow && steer !== "netifd") continue;
      if (this.#isThere(lease)) {
        this.#seen.add(lease);
        if (lease.endsAt - now < lifetimeMs / 2) this.#book.renew(lease, { owner: root }, now);
      } else if (follow && this.#placesAreKnown && this.#seen.has(lease)) {
        this.#book.end(lease, "released", now);
      }
    }
  }

  #isThere({ note: { key } }: TableLease): boolean {
    if (key.address === "") return this.#places.has(key.interface, undefined);
    const address = addressOf(key);
    return address !== undefined && this.#places.has(key.interface, address);
  }

  #report(fault: Fault): void {
    this.#lastFault = fault.message;
    this.#options.onFault?.(fault);
  }
}

/** Of a turn: who asked for which lease, which of them are new, which were taken back, and who ends some. */
function newTurn() {
  return {
    asked: new Map<TableLease, Job[]>(),
    fresh: new Set<TableLease>(),
    undone: new Set<TableLease>(),
    releasing: new Set<Job>(),
  };
}

function found(lease: TableLease | undefined, verb: string): TableLease {
  if (!lease) throw new Fault("not-found", `Cannot ${verb} lease: there is none`);
  return lease;
}
