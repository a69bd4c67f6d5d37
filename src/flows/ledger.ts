/**
 * What passed between nodes: records for people, and sums for the next traffic message.
 *
 * Kept by initiator, other node, protocol, port of the service and ICMP type: packets and bytes of both
 * directions, first and last activity. The records stand in the order of their last activity, so ageing and
 * making room both take from the front. Sums are kept by all ports as well and handed out by `takeTraffic`.
 * Changed by `account`, `expire` and `merge`; nobody is told.
 */

import type { TrafficFlow } from "../lib/spin.ts";

/** What was seen of one connection since it was last looked at. Both directions together. */
export interface Activity {
  /** The node that opened the connection. */
  readonly from: number;
  readonly to: number;
  /** IP protocol number. */
  readonly protocol: number;
  readonly fromPort: number;
  /** Port of the service; 0 where the protocol has none. */
  readonly toPort: number;
  readonly icmpType?: number;
  /** Not negative; a bigint where a number cannot hold it. */
  readonly bytes: number | bigint;
  readonly packets: number | bigint;
  /** Monotonic milliseconds. */
  readonly at: number;
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
}

type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };

const maxCounter = (1n << 64n) - 1n;

export class Ledger {
  readonly #limits: LedgerLimits;
  readonly #records = new Map<string, Mutable<FlowRecord>>();
  #traffic = new Map<string, Mutable<TrafficFlow>>();
  #evicted = 0;
  #missed = 0;

  constructor(limits: LedgerLimits) {
    this.#limits = limits;
  }

  /** Records kept, records that made room for others, and connections that a traffic message left out. */
  get counters(): { readonly records: number; readonly evicted: number; readonly missed: number } {
    return { records: this.#records.size, evicted: this.#evicted, missed: this.#missed };
  }

  /** Books an activity; `shown` says whether the next traffic message tells of it. Never throws. */
  account(activity: Activity, shown: boolean): void {
    const { from, to, protocol, toPort, icmpType = 0, at } = activity;
    const [bytes, packets] = [counterOf(activity.bytes), counterOf(activity.packets)];
    this.#book({ from, to, protocol, toPort, icmpType, bytes, packets, firstAt: at, lastAt: at });
    if (shown) this.#sum(activity);
  }

  /** Drops records that have been idle for too long. */
  expire(now: number): void {
    for (const [key, record] of this.#records) {
      if (now - record.lastAt <= this.#limits.idleMs) return;
      this.#records.delete(key);
    }
  }

  /** The records of a node, or all of them; the latest active first. */
  list(node?: number): FlowRecord[] {
    const all = [...this.#records.values()].reverse();
    return node === undefined ? all : all.filter((each) => each.from === node || each.to === node);
  }

  /** What the next traffic message says, and then forgets. */
  takeTraffic(): TrafficFlow[] {
    const flows = [...this.#traffic.values()];
    this.#traffic = new Map();
    return flows;
  }

  /** Books what node `old` did on node `id`. */
  merge(old: number, id: number): void {
    const rename = (node: number) => (node === old ? id : node);
    const touched = this.list(old).reverse();
    for (const record of touched) this.#records.delete(keyOf(record));
    for (const record of touched) {
      this.#book({ ...record, from: rename(record.from), to: rename(record.to) });
    }
    const traffic = this.takeTraffic();
    for (const flow of traffic) {
      this.#add({ ...flow, from: rename(flow.from), to: rename(flow.to) });
    }
  }

  #book(entry: FlowRecord): void {
    const key = keyOf(entry);
    const record = this.#records.get(key);
    if (record) {
      record.bytes = capped(record.bytes + entry.bytes);
      record.packets = capped(record.packets + entry.packets);
      record.firstAt = Math.min(record.firstAt, entry.firstAt);
      record.lastAt = Math.max(record.lastAt, entry.lastAt);
      // Deleted and set again, it stands last.
      this.#records.delete(key);
      this.#records.set(key, record);
      return;
    }
    if (this.#records.size >= this.#limits.maxRecords) {
      this.#records.delete(this.#records.keys().next().value!);
      this.#evicted++;
    }
    this.#records.set(key, { ...entry });
  }

  #sum(activity: Activity): void {
    this.#add({
      from: activity.from,
      to: activity.to,
      protocol: activity.protocol,
      from_port: activity.fromPort,
      to_port: activity.toPort,
      size: safeNumber(activity.bytes),
      count: safeNumber(activity.packets),
    });
  }

  #add(flow: TrafficFlow): void {
    const key = `${flow.from} ${flow.to} ${flow.protocol} ${flow.from_port} ${flow.to_port}`;
    const sum = this.#traffic.get(key);
    if (sum) {
      sum.size = Math.min(Number.MAX_SAFE_INTEGER, sum.size + flow.size);
      sum.count = Math.min(Number.MAX_SAFE_INTEGER, sum.count + flow.count);
    } else if (this.#traffic.size < this.#limits.maxTraffic) {
      this.#traffic.set(key, { ...flow });
    } else {
      this.#missed++;
    }
  }
}

function keyOf(record: FlowRecord): string {
  return `${record.from} ${record.to} ${record.protocol} ${record.toPort} ${record.icmpType}`;
}

function capped(value: bigint): bigint {
  return value > maxCounter ? maxCounter : value;
}

/** A counter as it arrives; what is no count at all counts as none. */
function counterOf(value: number | bigint): bigint {
  if (typeof value === "bigint") return value < 0n ? 0n : capped(value);
  return Number.isSafeInteger(value) && value > 0 ? BigInt(value) : 0n;
}

function safeNumber(value: number | bigint): number {
  const counter = counterOf(value);
  return counter > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(counter);
}
