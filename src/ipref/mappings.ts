/**
 * The mappings: who stands behind an encoded address and who behind a reference; the one place that knows.
 *
 * Kept in the book (book.ts), whose table the forwarders read, in the sources of what was written down (sources.ts),
 * and on disk (a journal). Whoever asks is answered when the disk knows the mapping, and no forwarder uses it before;
 * all that is asked for while a write is under way goes into the next one. Refreshes come from the marks that
 * forwarders leave, by `sweep`. Nobody is told: both directions are one record, which all look up.
 */

import type { Address, Family, Prefix } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import { type Journal, openJournal } from "../system/journal.ts";
import type { Clock, Disk, System } from "../system/system.ts";
import { Book, type Entry, times } from "./book.ts";
import { EncodeNet } from "./encoding.ts";
import type { Named } from "./keeping.ts";
import type { Asker } from "./peers.ts";
import { renderSource, type SavedLines, savedFormat } from "./saved.ts";
import { maxSources, type Refusal, Sources, type StaticRecord, userOwner } from "./sources.ts";
import { type ReaderHandle, State, TableReader } from "./table.ts";

export interface MappingsOptions {
  /** `mappings.json` and `mappings.d` are in here. */
  readonly directory: string;
  /** Tells boots apart (/proc/sys/kernel/random/boot_id); "": this one is like no other. */
  readonly boot: string;
  readonly encodeNet: Prefix;
  /** Family of context addresses. */
  readonly tunnel: Family;
  /** Our own; undefined while nobody knows it. */
  readonly context: Address | undefined;
  readonly gatewayReference: bigint;
  /** Of all mappings, those written down and those at rest included. Default 131,072; some 160 bytes each. */
  readonly maxMappings?: number;
  /** Drawn for one context address. Default 8,192. */
  readonly maxPerPeer?: number;
  /** Context addresses with drawn mappings. Default 1,024. */
  readonly maxPeers?: number;
  /** Local hosts with a drawn reference. Default 8,192. */
  readonly maxLocals?: number;
  /** Told who was asked for by name, before the asker has its answer. */
  onNamed?(context: Address): void;
  /** Told the first fault of a row that nobody waits for, and `undefined` when all is on disk again. */
  onFault?(fault: Fault | undefined): void;
}

export interface PeerStatus {
  readonly context: Address;
  /** In force: drawn because of its packets only, asked for by name, written down. */
  readonly byPacket: number;
  readonly byName: number;
  readonly written: number;
  readonly resting: number;
  /** Monotonic; when one of them was used last, as far as a sweep has seen. 0: not in this life. */
  readonly usedAt: number;
}

/** Which mappings are wanted. Every part that is there has to fit. */
export interface Filter {
  readonly kind?: "ours" | "theirs";
  readonly state?: Entry["state"];
  readonly context?: Address;
  readonly address?: Address;
  readonly owner?: string;
}

/** How often `sweep` is to be called. */
export const sweepMs = 16_000;

/** Lines of one write. */
const maxLines = 4_096;
/** Who may wait for the disk at a time. */
const maxWaiting = 16_384;
/** What can wait for others is written after this at the latest. */
const lazyMs = 1_800_000;

/** Opens what is stored, before anything is forwarded. Never fails for the disk: damage is told in sentences. */
export async function openMappings(
  system: Clock & Disk & Pick<System, "random">,
  options: MappingsOptions,
): Promise<{ readonly mappings: Mappings; readonly damages: readonly string[] }> {
  const { directory, boot, onFault } = options;
  const opened = await openJournal(system, { directory, boot, ...(onFault && { onFault }) }, savedFormat);
  const mappings = new Mappings(system, options, { journal: opened.journal, saved: opened.saved });
  const { left } = mappings;
  const dropped = left > 0 ? [`${left} stored mappings make no sense here any more; they are left out`] : [];
  return { mappings, damages: [...opened.damages, ...dropped] };
}

export class Mappings {
  readonly net: EncodeNet;
  /** For this thread. */
  readonly lookup: TableReader;
  /** Stored mappings that could not be taken in. */
  readonly left: number;
  readonly #system: Clock;
  readonly #options: MappingsOptions;
  readonly #book: Book;
  readonly #sources: Sources;
  readonly #journal: Journal;
  #waiting = 0;
  #writing: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  /** Owners of sources that the disk has to learn of. */
  #unkeptSources = new Set<string>();
  #lazySince: number | undefined;

  /** Use `openMappings`. */
  constructor(
    system: Clock & Pick<System, "random">,
    options: MappingsOptions,
    stored: { readonly journal: Journal; readonly saved: readonly SavedLines[] },
  ) {
    this.#system = system;
    this.#options = options;
    this.#journal = stored.journal;
    this.net = new EncodeNet(options.encodeNet);
    const { tunnel, context, gatewayReference } = options;
    this.#book = new Book({
      facts: { net: this.net, tunnel, context, gatewayReference },
      maxMappings: options.maxMappings ?? 131_072,
      maxPerPeer: options.maxPerPeer ?? 8_192,
      maxPeers: options.maxPeers ?? 1_024,
      maxLocals: options.maxLocals ?? 8_192,
      random: (length) => system.random(length),
    });
    this.#sources = new Sources((record) => this.#book.rules.wrongWritten(record));
    this.lookup = new TableReader({ buffer: this.#book.records.table.buffer, reader: -1 });
    const { sources, left } = this.#book.load(stored.saved, options.boot, system.now());
    this.left = left;
    for (const source of sources.slice(0, maxSources)) this.#sources.set(source);
    this.#rewrite();
  }

  /** For another thread; to be closed when that thread has ended, however it ended. @throws RangeError: too many */
  openReader(): ReaderHandle {
    return this.#book.records.table.open();
  }

  closeReader(reader: number): void {
    this.#book.records.table.close(reader);
  }

  // What forwarders, the broker and the resolver ask for.

  /**
   * The encoded address of a remote host: as it is and refreshed, revived, or drawn. In force and durable.
   *
   * @throws Fault "invalid" for what is no remote host, "limit", "storage".
   */
  async encodedFor(context: Address, reference: bigint, asked: Asker = "name"): Promise<Address> {
    const { record } = await this.#ready((now) => this.#book.askTheirs(context, reference, { asked, now }));
    if (asked === "name") this.#options.onNamed?.(context);
    return this.#book.records.addressOf(record);
  }

  /** The reference of a local host, likewise. */
  async referenceFor(address: Address): Promise<bigint> {
    const { record } = await this.#ready((now) => this.#book.askOurs(address, now));
    return this.#book.records.referenceOf(record);
  }

  /** The local host behind a reference of ours, if it is in force. */
  localOf(reference: bigint): Address | undefined {
    const pair = { kind: "ours", context: undefined, reference } as const;
    const record = this.#book.records.byReference(pair, State.byReference);
    return record === 0 ? undefined : this.#book.records.addressOf(record);
  }

  /** The remote host behind an encoded address, if it is in force. */
  remoteOf(encoded: Address): { readonly context: Address; readonly reference: bigint } | undefined {
    const record = this.#book.records.byAddress("theirs", encoded, State.byAddress);
    if (record === 0) return undefined;
    const { context, reference } = this.#book.records.pairOf(record);
    return { context: context!, reference };
  }

  /**
   * How long the mapping of an address (encoded or a local host's) lasts at least: no answer may outlive it.
   *
   * @returns 0: there is none; Infinity: it is written down.
   */
  remainingMs(address: Address): number {
    const kind = this.net.has(address) ? "theirs" : "ours";
    const record = this.#book.records.byAddress(kind, address, State.byAddress);
    const entry = record === 0 ? undefined : this.#book.entry(record);
    if (!entry || entry.state === "static") return entry ? Number.POSITIVE_INFINITY : 0;
    // After a restart it may last longer; after a reboot, when every time begins anew, no longer than this.
    return Math.min(times.lifeMs, Math.max(0, entry.endsAt - this.#system.now()));
  }

  /** Whether a gateway is one that somebody of ours has asked for by name, or written down. */
  knows(context: Address): boolean {
    if (this.#book.writtenBy.has(context)) return true;
    const peer = this.#book.peers.get(context);
    return peer !== undefined && this.#book.peers.length(peer, "name") > 0;
  }

  /** Every `sweepMs` or so: takes up what readers used, refreshes, ends, forgets. */
  sweep(now: number): void {
    this.#book.sweep(now);
    const { keeping } = this.#book;
    this.#lazySince = keeping.size === 0 ? undefined : (this.#lazySince ?? now);
    const isOld = this.#lazySince !== undefined && now - this.#lazySince >= lazyMs;
    // What the disk refuses is told by onFault and tried again by the next sweep.
    if (keeping.isUrgent || isOld || this.#unkeptSources.size > 0) this.#write().catch(() => {});
  }

  // What is written down.

  /**
   * A new generation: replaces all that a source says, at once. It holds when this returns; when the promise resolves
   * it is durable, if it is to be: sources with a hash are stored, and the user's. Without records and hash it goes.
   *
   * @throws Fault "limit"; "storage": it holds, and is stored later.
   */
  async setSource(
    owner: string,
    records: readonly StaticRecord[],
    hash?: bigint,
  ): Promise<readonly Refusal[]> {
    const isStored = () => owner === userOwner || this.#sources.get(owner)?.hash !== undefined;
    const was = isStored();
    this.#sources.set({ owner, records, hash });
    this.#rewrite();
    const refusals = this.#sources.get(owner)?.refusals ?? [];
    if (was || isStored()) {
      this.#unkeptSources.add(owner);
      await this.#write();
    }
    return refusals;
  }

  /**
   * One batch of a generation that comes in several: adds if the hash is that of the batch before, else it begins a
   * new generation, which replaces the former.
   */
  extendSource(owner: string, records: readonly StaticRecord[], hash: bigint): Promise<readonly Refusal[]> {
    if (this.#sources.get(owner)?.hash !== hash) return this.setSource(owner, records, hash);
    const nameOf = ({ kind, address, context, reference }: StaticRecord) =>
      [kind, address, context, reference].join(" ");
    const all = new Map([...this.#sources.recordsOf(owner), ...records].map((each) => [nameOf(each), each]));
    return this.setSource(owner, [...all.values()], hash);
  }

  /** How many IPREF addresses a source named last, used or not, and the hash of that generation. */
  source(owner: string): { readonly count: number; readonly hash: bigint | undefined } | undefined {
    return this.#sources.get(owner);
  }

  /** Every source, and what of it is not used. */
  sources(): readonly {
    readonly owner: string;
    readonly records: number;
    readonly refusals: readonly Refusal[];
  }[] {
    return this.#sources.all().map(({ owner, records }) => {
      return { owner, records: records.length, refusals: this.#sources.get(owner)!.refusals };
    });
  }

  /** Writes a mapping down for the user. @throws Fault "invalid", "conflict", "limit", "storage" */
  async addStatic(record: StaticRecord): Promise<void> {
    const wrong = this.#book.rules.wrongWritten(record);
    if (wrong !== undefined) throw new Fault("invalid", `Cannot add mapping: ${wrong}`);
    const before = this.#sources.recordsOf(userOwner);
    if (before.some((each) => isSame(each, record))) return this.#write();
    const refusals = await this.#setUser([...before, record]);
    const refusal = refusals.find((each) => each.record === record);
    if (!refusal) return;
    // Others may have been added while the disk was waited for.
    await this.#setUser(this.#sources.recordsOf(userOwner).filter((each) => each !== record));
    throw new Fault("conflict", `Cannot add mapping: ${refusal.why}`);
  }

  /** Ends a mapping that the user wrote down. @throws Fault "not-found", "storage" */
  async removeStatic(record: Pick<StaticRecord, "kind" | "address" | "reference">): Promise<void> {
    const before = this.#sources.recordsOf(userOwner);
    const after = before.filter(
      ({ kind, address, reference }) =>
        kind !== record.kind || address !== record.address || reference !== record.reference,
    );
    if (after.length === before.length) {
      throw new Fault("not-found", `Cannot remove mapping of ${record.address}: the user wrote down none`);
    }
    await this.#setUser(after);
  }

  // What is shown.

  /** Mappings by number, from after a number on. */
  *entries(after: number, filter: Filter = {}): IterableIterator<Entry> {
    for (let id = Math.max(0, after) + 1; id <= this.#book.records.highest; id++) {
      const entry = this.#book.entry(id);
      if (!entry) continue;
      const { kind, state, context, address, owner } = filter;
      if (kind !== undefined && entry.kind !== kind) continue;
      if (state !== undefined && entry.state !== state) continue;
      if (address !== undefined && entry.address !== address) continue;
      if (owner !== undefined && entry.owner !== owner) continue;
      if (context === undefined || (entry.kind === "theirs" && entry.context === context)) yield entry;
    }
  }

  peers(): PeerStatus[] {
    const { peers, writtenBy } = this.#book;
    const contexts = new Set([...[...peers.all()].map((peer) => peer.context!), ...writtenBy.keys()]);
    return [...contexts].map((context) => {
      const peer = peers.get(context);
      return {
        context,
        byPacket: peer ? peers.length(peer, "packet") : 0,
        byName: peer ? peers.length(peer, "name") : 0,
        written: writtenBy.get(context) ?? 0,
        resting: peer ? peers.length(peer, "rest") : 0,
        usedAt: peer ? this.#book.usedAt(peer) : 0,
      };
    });
  }

  get counters() {
    const { records, peers, written } = this.#book;
    return {
      mappings: records.count - records.resting,
      written,
      resting: records.resting,
      locals: peers.length(peers.locals, "packet", "name"),
      waiting: this.#waiting,
    };
  }

  /** Makes durable what is not. No other call may follow. @throws Fault "storage" */
  async close(): Promise<void> {
    if (this.#book.keeping.size > 0 || this.#unkeptSources.size > 0 || this.#writing) await this.#write();
    await this.#journal.close();
  }

  // Inside.

  /** Asks until the answer is in force. */
  async #ready(ask: (now: number) => Named): Promise<Named> {
    const asked = ask(this.#system.now());
    if (this.#book.isReady(asked)) return asked;
    if (this.#waiting >= maxWaiting) {
      throw new Fault("limit", "Cannot make mapping: too many wait for the disk already");
    }
    this.#waiting++;
    try {
      await this.#write();
    } finally {
      this.#waiting--;
    }
    if (this.#book.isReady(asked)) return asked;
    throw new Fault("conflict", "Cannot make mapping: it had to give way before it was stored");
  }

  /** What is written down has changed. */
  #rewrite(): void {
    const wanted = this.#sources.resolve();
    const left = this.#book.setWritten(wanted, this.#system.now());
    if (left.length > 0)
      this.#sources.refuse(
        left.map((name) => wanted.get(name)!),
        "there is no place",
      );
  }

  #setUser(records: readonly StaticRecord[]): Promise<readonly Refusal[]> {
    return this.setSource(userOwner, records);
  }

  /** Resolves when all that the disk has to learn now is there. Calls while it is busy share the next write. */
  #write(): Promise<void> {
    if (!this.#writing) {
      // Calls made in one breath share the first write, too.
      this.#writing = Promise.resolve()
        .then(() => this.#writeAll())
        .finally(() => {
          this.#writing = undefined;
        });
      this.#hasBegun = false;
      return this.#writing;
    }
    if (!this.#hasBegun) return this.#writing;
    const again = () => {
      this.#next = undefined;
      return this.#write();
    };
    this.#next ??= this.#writing.then(again, again);
    return this.#next;
  }

  #hasBegun = false;

  async #writeAll(): Promise<void> {
    this.#hasBegun = true;
    const { keeping } = this.#book;
    const owners = [...this.#unkeptSources];
    this.#unkeptSources.clear();
    let sources: Json[] = owners.map((owner) => this.#renderSource(owner));
    for (;;) {
      const unkept = keeping.take(maxLines);
      if (unkept.length === 0 && sources.length === 0) break;
      try {
        await this.#journal.keep([...sources, ...unkept.map(({ line }) => line)], () => this.#whole());
      } catch (thrown) {
        if (sources.length > 0) for (const owner of owners) this.#unkeptSources.add(owner);
        this.#book.giveBack(unkept, this.#system.now());
        throw this.#failed(thrown);
      }
      sources = [];
      keeping.confirm(unkept);
    }
    this.#lazySince = undefined;
    this.#recovered();
  }

  *#whole(): Iterable<Json> {
    const stored = this.#sources.all().filter(({ owner, hash }) => owner === userOwner || hash !== undefined);
    for (const source of stored) yield renderSource(source);
    yield* this.#book.keeping.whole();
  }

  #renderSource(owner: string): Json {
    const { hash } = this.#sources.get(owner) ?? { hash: undefined };
    return renderSource({ owner, records: this.#sources.recordsOf(owner), hash });
  }

  #isFailing = false;

  #failed(thrown: unknown): unknown {
    if (!this.#isFailing && thrown instanceof Fault) this.#options.onFault?.(thrown);
    this.#isFailing = true;
    return thrown;
  }

  #recovered(): void {
    if (this.#isFailing) this.#options.onFault?.(undefined);
    this.#isFailing = false;
  }
}

function isSame(one: StaticRecord, other: StaticRecord): boolean {
  const { kind, address, context, reference } = one;
  const hasContext = kind === "ours" || context === other.context;
  return kind === other.kind && address === other.address && hasContext && reference === other.reference;
}

/** For whoever shows mappings. */
export type { Entry };
