/**
 * What passed between nodes: records for people, and sums for the next traffic message.
 *
 * Kept by initiator, other node, protocol, port of the service and ICMP type: packets and bytes of both
 * directions, first and last activity. The records stand in the order of their last activity, so ageing and
 * making room both take from the front. Sums are kept by all ports as well and handed out by `takeTraffic`.
 * Changed by `account`, `expire` and `merge`; nobody is told.
 *
 * A router may see ten thousand new connections a second, so records are rows of flat columns, by slot number,
 * and become objects only when somebody looks.
 */

import type { Address } from "../lib/address.ts";
import type { TrafficFlow } from "../lib/spin.ts";
import { type Connection, Lines } from "./lines.ts";
import { Slots } from "./slots.ts";
import { numberOf, Tally } from "./tally.ts";

/** What was seen of one connection since it was last looked at. Both directions together. */
export interface Activity extends Connection {
  readonly icmpType?: number;
  /** Not negative; a bigint where a number cannot hold it. */
  readonly bytes: number | bigint;
  readonly packets: number | bigint;
  /** Monotonic milliseconds. */
  readonly at: number;
  /** The addresses, for prefixes on the ignore list. */
  readonly source?: Address;
  readonly destination?: Address;
}

export interface FlowRecord {
  readonly from: number;
  readonly to: number;
  readonly protocol: number;
  readonly toPort: number;
  readonly icmpType: number;
  /** At most 2⁶⁴ − 1, where they stay. */
  readonly bytes: bigint;
  readonly packets: bigint;
  /** Monotonic milliseconds. */
  readonly firstAt: number;
  readonly lastAt: number;
}

export interface LedgerLimits {
  readonly maxRecords: number;
  /** Lines of one traffic message; what does not fit is counted in `missed`. */
  readonly maxTraffic: number;
  /** A record without activity for longer is dropped. */
  readonly idleMs: number;
  /** See `Slots`. Default 0. */
  readonly seed?: number;
}

const typeValues = 0x100;
const portAndTypeValues = 0x100_0000;

export class Ledger {
  readonly #limits: LedgerLimits;
  readonly #slots: Slots;
  readonly #bytes: Tally;
  readonly #packets: Tally;
  readonly #firstAt: Float64Array;
  readonly #lastAt: Float64Array;
  /** Neighbours in the order of last activity. Slot 0 closes the ring: after it the longest idle, before it the latest. */
  readonly #before: Int32Array;
  readonly #after: Int32Array;
  readonly #traffic: Lines;
  #evicted = 0;
  #missed = 0;

  constructor(limits: LedgerLimits) {
    const { maxRecords, maxTraffic, seed = 0 } = limits;
    this.#limits = limits;
    this.#slots = new Slots(maxRecords, seed);
    this.#bytes = new Tally(maxRecords);
    this.#packets = new Tally(maxRecords);
    this.#firstAt = new Float64Array(maxRecords + 1);
    this.#lastAt = new Float64Array(maxRecords + 1);
    this.#before = new Int32Array(maxRecords + 1);
    this.#after = new Int32Array(maxRecords + 1);
    this.#traffic = new Lines(maxTraffic, seed);
  }

  /** Records kept, records that made room for others, and connections that a traffic message left out. */
  get counters(): { readonly records: number; readonly evicted: number; readonly missed: number } {
    return { records: this.#slots.size, evicted: this.#evicted, missed: this.#missed };
  }

  /** Books an activity; `shown` says whether the next traffic message tells of it. Never throws. */
  account(activity: Activity, shown: boolean): void {
    const { from, to, protocol, toPort, icmpType = 0, at, bytes, packets } = activity;
    const slot = this.#book(from, to, protocol * portAndTypeValues + toPort * typeValues + icmpType);
    this.#bytes.add(slot, bytes);
    this.#packets.add(slot, packets);
    if (at < this.#firstAt[slot]!) this.#firstAt[slot] = at;
    if (at > this.#lastAt[slot]!) this.#lastAt[slot] = at;
    if (shown && !this.#traffic.add(activity, numberOf(bytes), numberOf(packets))) this.#missed++;
  }

  /** Drops records that have been idle for too long. */
  expire(now: number): void {
    for (;;) {
      const slot = this.#after[0]!;
      if (slot === 0 || now - this.#lastAt[slot]! <= this.#limits.idleMs) return;
      this.#drop(slot);
    }
  }

  /** The records of a node, or all of them, up to a limit; the latest active first. */
  list(node?: number, limit = Number.POSITIVE_INFINITY): FlowRecord[] {
    const records: FlowRecord[] = [];
    for (let slot = this.#before[0]!; slot !== 0 && records.length < limit; slot = this.#before[slot]!) {
      if (this.#isOf(slot, node)) records.push(this.#read(slot));
    }
    return records;
  }

  /** How many records a node has, or how many there are. */
  count(node?: number): number {
    if (node === undefined) return this.#slots.size;
    let count = 0;
    for (let slot = this.#before[0]!; slot !== 0; slot = this.#before[slot]!) {
      if (this.#isOf(slot, node)) count++;
    }
    return count;
  }

  /** What the next traffic message says, and then forgets. */
  takeTraffic(): TrafficFlow[] {
    return this.#traffic.take();
  }

  /** Books what node `old` did on node `id`. */
  merge(old: number, id: number): void {
    const rename = (node: number) => (node === old ? id : node);
    const touched: { record: FlowRecord; service: number }[] = [];
    for (let slot = this.#after[0]!; slot !== 0; ) {
      const next = this.#after[slot]!;
      if (this.#isOf(slot, old)) {
        touched.push({ record: this.#read(slot), service: this.#slots.service(slot) });
        this.#drop(slot);
      }
      slot = next;
    }
    for (const { record, service } of touched) {
      const slot = this.#book(rename(record.from), rename(record.to), service);
      this.#bytes.add(slot, record.bytes);
      this.#packets.add(slot, record.packets);
      this.#firstAt[slot] = Math.min(this.#firstAt[slot]!, record.firstAt);
      this.#lastAt[slot] = Math.max(this.#lastAt[slot]!, record.lastAt);
    }
    this.#traffic.merge(old, id);
  }

  /** The record of a key, made if need be, as the latest active. */
  #book(from: number, to: number, service: number): number {
    let slot = this.#slots.find(from, to, service);
    if (slot !== 0) this.#unlink(slot);
    else {
      if (this.#slots.isFull) {
        this.#drop(this.#after[0]!);
        this.#evicted++;
      }
      slot = this.#slots.take(from, to, service);
      this.#bytes.clear(slot);
      this.#packets.clear(slot);
      this.#firstAt[slot] = Number.POSITIVE_INFINITY;
      this.#lastAt[slot] = Number.NEGATIVE_INFINITY;
    }
    const last = this.#before[0]!;
    this.#after[last] = slot;
    this.#before[slot] = last;
    this.#after[slot] = 0;
    this.#before[0] = slot;
    return slot;
  }

  #drop(slot: number): void {
    this.#unlink(slot);
    this.#slots.free(slot);
  }

  #unlink(slot: number): void {
    const [before, after] = [this.#before[slot]!, this.#after[slot]!];
    this.#after[before] = after;
    this.#before[after] = before;
  }

  #isOf(slot: number, node: number | undefined): boolean {
    return node === undefined || this.#slots.from(slot) === node || this.#slots.to(slot) === node;
  }

  #read(slot: number): FlowRecord {
    const service = this.#slots.service(slot);
    return {
      from: this.#slots.from(slot),
      to: this.#slots.to(slot),
      protocol: Math.floor(service / portAndTypeValues),
      toPort: Math.floor(service / typeValues) % 0x1_0000,
      icmpType: service % typeValues,
      bytes: this.#bytes.get(slot),
      packets: this.#packets.get(slot),
      firstAt: this.#firstAt[slot]!,
      lastAt: this.#lastAt[slot]!,
    };
  }
}
