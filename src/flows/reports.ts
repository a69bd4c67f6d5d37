/**
 * What was dropped: lines for SPIN's `blocked` messages, few however much is dropped, with right counts.
 *
 * A blocked device tries again and again, often from a new port each time, and SPIN said each packet. Here they
 * are summed by both nodes, protocol and ports; past some such lines, by both nodes and protocol alone, with
 * ports 0; past some of these, only in the counters. Lines are handed out by `take` in a measured rhythm, the
 * first at once. Changed by `add` and `merge`; nobody is told.
 */

import type { Address } from "../lib/address.ts";
import { TCP, UDP } from "../lib/packet.ts";
import type { TrafficFlow } from "../lib/spin.ts";
import { type Connection, Lines } from "./lines.ts";
import { numberOf } from "./tally.ts";

/** A packet that the kernel dropped for a decision of ours. */
export interface Dropped {
  /** The node that sent it, and the one that was to get it; undefined where the address is no node's. */
  readonly from: number | undefined;
  readonly to: number | undefined;
  readonly source?: Address | undefined;
  readonly destination?: Address | undefined;
  /** IP protocol number. */
  readonly protocol: number;
  readonly fromPort: number;
  readonly toPort: number;
  /** Payload of TCP, UDP or what else IP carries, as SPIN counts it. */
  readonly bytes: number;
  /** Monotonic milliseconds. */
  readonly at: number;
}

export interface ReportsOptions {
  /** Lines with ports, and lines without, that may be handed out at once. */
  readonly maxDetailed: number;
  readonly maxSummed: number;
  /** From one handing out to the next. */
  readonly periodMs: number;
  /** See `Slots`. Default 0. */
  readonly seed?: number;
}

/** Dropped packets since the start. A type rather than an interface, so that it counts as JSON. */
export type DroppedCounters = {
  readonly packets: number;
  readonly bytes: number;
  /** Of these, in no message: of ignored nodes or prefixes; without a node at both ends; for lack of lines. */
  readonly hidden: number;
  readonly unplaced: number;
  readonly overflowPackets: number;
  readonly overflowBytes: number;
};

export class Reports {
  readonly #detailed: Lines;
  readonly #summed: Lines;
  readonly #periodMs: number;
  readonly #counters = {
    ...{ packets: 0, bytes: 0, hidden: 0, unplaced: 0 },
    ...{ overflowPackets: 0, overflowBytes: 0 },
  };
  #takenAt = Number.NEGATIVE_INFINITY;

  constructor({ maxDetailed, maxSummed, periodMs, seed = 0 }: ReportsOptions) {
    this.#detailed = new Lines(maxDetailed, seed);
    this.#summed = new Lines(maxSummed, seed);
    this.#periodMs = periodMs;
  }

  get counters(): DroppedCounters {
    return { ...this.#counters };
  }

  /** Books a packet; `shown` says whether a message may tell of it. Never throws. */
  add(packet: Dropped, shown: boolean): void {
    const { from, to, protocol, fromPort, toPort } = packet;
    const bytes = numberOf(packet.bytes);
    const counters = this.#counters;
    counters.packets++;
    counters.bytes += bytes;
    if (!shown) counters.hidden++;
    else if (from === undefined || to === undefined) counters.unplaced++;
    else {
      const hasPorts = protocol === TCP || protocol === UDP;
      const bare: Connection = { from, to, protocol: hasPorts ? protocol : 0, fromPort: 0, toPort: 0 };
      if (this.#detailed.add(hasPorts ? { ...bare, fromPort, toPort } : bare, bytes, 1)) return;
      if (this.#summed.add(bare, bytes, 1)) return;
      counters.overflowPackets++;
      counters.overflowBytes += bytes;
    }
  }

  /** What the next messages say, one line each; empty until the period since the last ones is over. */
  take(now: number): TrafficFlow[] {
    if (now - this.#takenAt < this.#periodMs) return [];
    const lines = [...this.#detailed.take(), ...this.#summed.take()];
    if (lines.length > 0) this.#takenAt = now;
    return lines;
  }

  /** Books what node `old` sent or was to get on node `id`. */
  merge(old: number, id: number): void {
    this.#detailed.merge(old, id);
    this.#summed.merge(old, id);
  }
}
