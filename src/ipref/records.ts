/**
 * Records of mappings: the table that forwarders read, and what only the control plane knows of each record.
 *
 * Kept by record number, in flat memory: what it is (`Mark`), when its time is over, until when the disk knows it, when
 * it was last used, whose it is, and how often its place was used. It says by what readers find a record; who may have
 * one is the book's to decide.
 */

import { type Address, decodeAddress, encodeAddress, familyOf } from "../lib/address.ts";
import { decodeReference, encodeReference, formatReferenceAt, maxReference } from "../lib/reference.ts";
import { addressBytes, Field } from "./lookup.ts";
import type { GatewayFacts } from "./rules.ts";
import type { SavedMapping } from "./saved.ts";
import type { StaticRecord } from "./sources.ts";
import { type RecordKeys, State, TableWriter } from "./table.ts";

/** Drawn or written down; drawn ones are new until the disk knows them, or at rest; asked for by name. */
export const Mark = { drawn: 1, written: 2, isNew: 4, rests: 8, byName: 16 } as const;

/** A host with its number. */
export type Pair = Pick<StaticRecord, "kind" | "address" | "context" | "reference">;

export class Records {
  readonly table: TableWriter;
  /** Instants, monotonic milliseconds. Of a record at rest `endsAt` is the end of its rest. */
  readonly endsAt: Float64Array;
  readonly keptUntilAt: Float64Array;
  readonly usedAt: Float64Array;
  /** Of drawn ones: the slot of the peer. */
  readonly slots: Uint16Array;
  /** What a place was used for, counted: a number and a life name a record for good. */
  readonly lives: Uint32Array;
  readonly #marks: Uint8Array;
  readonly #facts: GatewayFacts;
  /** Our own context address, zeros if not known. */
  readonly #own: Uint8Array;
  #count = 0;
  #written = 0;
  #resting = 0;

  constructor(facts: GatewayFacts, capacity: number, random: (length: number) => Uint8Array) {
    this.#facts = facts;
    this.#own = place(facts.context);
    this.table = new TableWriter({ capacity, lan: facts.net.family, tunnel: facts.tunnel, random });
    const instants = () => new Float64Array(capacity + 1);
    [this.endsAt, this.keptUntilAt, this.usedAt] = [instants(), instants(), instants()];
    this.slots = new Uint16Array(capacity + 1);
    this.lives = new Uint32Array(capacity + 1);
    this.#marks = new Uint8Array(capacity + 1);
  }

  /** How many there are, and how many of them rest. */
  get count(): number {
    return this.#count;
  }

  get resting(): number {
    return this.#resting;
  }

  /** Records are numbered from 1 to this. */
  get highest(): number {
    return this.table.highest;
  }

  /** 0: there is no such record. */
  marksOf(record: number): number {
    return this.#marks[record] ?? 0;
  }

  has(record: number, mark: number): boolean {
    return (this.#marks[record]! & mark) !== 0;
  }

  /** Sets marks and takes others away, and shows the record as that makes it. */
  mark(record: number, set: number, clear: number): void {
    const before = this.#marks[record]!;
    const after = (before | set) & ~clear;
    if ((before & Mark.rests) !== (after & Mark.rests)) this.#resting += (after & Mark.rests) !== 0 ? 1 : -1;
    this.#marks[record] = after;
    if ((before ^ after) & (Mark.rests | Mark.isNew)) this.show(record);
  }

  /** A record that nobody finds before `show`. 0: there is no place. The context of a local host is always our own. */
  add(kind: Pair["kind"], keys: RecordKeys, mark: typeof Mark.drawn | typeof Mark.written): number {
    const { address, reference } = keys;
    const context = kind === "ours" ? this.#own : keys.context;
    const state = (kind === "ours" ? State.ours : 0) | (mark === Mark.drawn ? State.drawn : State.written);
    const record = this.table.add({ address, context, reference }, state);
    if (record === 0) return 0;
    this.#count++;
    if (mark === Mark.written) this.#written++;
    this.#marks[record] = mark;
    this.endsAt[record] = 0;
    this.keptUntilAt[record] = 0;
    this.usedAt[record] = 0;
    return record;
  }

  remove(record: number): void {
    if (this.has(record, Mark.rests)) this.#resting--;
    if (this.has(record, Mark.written)) this.#written--;
    this.#count--;
    this.#marks[record] = 0;
    this.lives[record]!++;
    this.table.remove(record);
  }

  /** Has readers find a drawn record by whatever it should be found by. */
  show(record: number): void {
    if (this.has(record, Mark.isNew | Mark.rests)) {
      this.table.show(record, 0);
      return;
    }
    if (this.#written === 0) {
      this.table.show(record, State.byAddress | State.byReference);
      return;
    }
    const at = this.table.offsetOf(record);
    const part = (field: number) => this.table.bytes.subarray(at + field, at + field + addressBytes);
    // What is written down goes before, where there is one way only; the other ways lead to both.
    if (this.isOurs(record)) {
      const wanted = State.byAddress | State.written | State.ours;
      const isFirst = this.table.byAddress(part(Field.address), wanted) === 0;
      this.table.show(record, State.byReference | (isFirst ? State.byAddress : 0));
    } else {
      const wanted = State.byReference | State.written;
      const isFirst = this.table.theirs(part(Field.context), part(Field.reference), wanted) === 0;
      this.table.show(record, State.byAddress | (isFirst ? State.byReference : 0));
    }
  }

  isOurs(record: number): boolean {
    return (this.table.stateOf(record) & State.ours) !== 0;
  }

  // Finding; 0: there is none.

  /** By the address that the LAN sees: what has these bits of `State`. */
  byAddress(kind: Pair["kind"], address: Address, want: number): number {
    if (familyOf(address) !== this.#facts.net.family) return 0;
    return this.table.byAddress(encodeAddress(address), want | (kind === "ours" ? State.ours : 0));
  }

  /** By what the tunnel sees. */
  byReference({ kind, context, reference }: Omit<Pair, "address">, want: number): number {
    if (reference < 0n || reference > maxReference) return 0;
    const bytes = encodeReference(reference);
    if (kind === "ours") return this.table.ours(bytes, want);
    if (context === undefined || familyOf(context) !== this.#facts.tunnel) return 0;
    return this.table.theirs(encodeAddress(context), bytes, want);
  }

  /** What was drawn for a host: for a remote one by its IPREF address, for a local one by its address. */
  drawnFor(pair: Pair): number {
    return pair.kind === "ours"
      ? this.byAddress("ours", pair.address, State.drawn)
      : this.byReference(pair, State.drawn);
  }

  // Reading.

  addressOf(record: number): Address {
    const at = this.table.offsetOf(record) + Field.address;
    return decodeAddress(this.table.bytes, at, this.#facts.net.family);
  }

  referenceOf(record: number): bigint {
    return decodeReference(this.table.bytes, this.table.offsetOf(record) + Field.reference);
  }

  pairOf(record: number): Pair {
    const isOurs = this.isOurs(record);
    return {
      kind: isOurs ? "ours" : "theirs",
      address: this.addressOf(record),
      context: isOurs ? this.#facts.context : this.#contextOf(record),
      reference: this.referenceOf(record),
    };
  }

  savedOf(record: number): SavedMapping {
    const isOurs = this.isOurs(record);
    return {
      kind: isOurs ? "ours" : "theirs",
      address: this.addressOf(record),
      context: isOurs ? undefined : this.#contextOf(record),
      reference: formatReferenceAt(this.table.bytes, this.table.offsetOf(record) + Field.reference),
      rests: this.has(record, Mark.rests),
      untilAt: this.endsAt[record]!,
      byName: !isOurs && this.has(record, Mark.byName),
    };
  }

  #contextOf(record: number): Address {
    const at = this.table.offsetOf(record) + Field.context;
    return decodeAddress(this.table.bytes, at, this.#facts.tunnel);
  }
}

/** The bytes of a pair as they stand in the table. */
export function keysOf({ address, context, reference }: Pair): RecordKeys {
  return { address: place(address), context: place(context), reference: encodeReference(reference) };
}

function place(address: Address | undefined): Uint8Array {
  const placed = new Uint8Array(addressBytes);
  if (address !== undefined) placed.set(encodeAddress(address));
  return placed;
}
