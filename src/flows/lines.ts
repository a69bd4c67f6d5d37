/**
 * The lines of the next message: bytes and packets by both nodes, protocol and both ports.
 *
 * SPIN tells of what passed and of what was dropped in the same line. Lines stand in the order in which they
 * began; `take` hands them out and starts afresh. Past the limit nothing is added: the owner decides what becomes
 * of the rest.
 */

import type { TrafficFlow } from "../lib/spin.ts";
import { Slots } from "./slots.ts";

/** What a line is about. */
export interface Connection {
  /** The node that opened it. */
  readonly from: number;
  readonly to: number;
  /** IP protocol number. */
  readonly protocol: number;
  readonly fromPort: number;
  /** Port of the service; 0 where the protocol has none. */
  readonly toPort: number;
}

const portValues = 0x1_0000;
const portsValues = 0x1_0000_0000;

export class Lines {
  readonly #slots: Slots;
  readonly #size: Float64Array;
  readonly #count: Float64Array;

  constructor(limit: number, seed: number) {
    this.#slots = new Slots(limit, seed);
    this.#size = new Float64Array(limit + 1);
    this.#count = new Float64Array(limit + 1);
  }

  /**
   * @param bytes and `packets` are counts up to 2⁵³ − 1, where a line's sums stay.
   * @returns false if it needs a line of its own and there is none left.
   */
  add(connection: Connection, bytes: number, packets: number): boolean {
    const { from, to, protocol, fromPort, toPort } = connection;
    const service = protocol * portsValues + fromPort * portValues + toPort;
    let slot = this.#slots.find(from, to, service);
    if (slot === 0) {
      if (this.#slots.isFull) return false;
      slot = this.#slots.take(from, to, service);
      this.#size[slot] = 0;
      this.#count[slot] = 0;
    }
    this.#size[slot] = Math.min(Number.MAX_SAFE_INTEGER, this.#size[slot]! + bytes);
    this.#count[slot] = Math.min(Number.MAX_SAFE_INTEGER, this.#count[slot]! + packets);
    return true;
  }

  /** All lines; they are handed out once. */
  take(): TrafficFlow[] {
    const lines: TrafficFlow[] = [];
    for (let slot = 1; slot <= this.#slots.size; slot++) {
      const service = this.#slots.service(slot);
      lines.push({
        from: this.#slots.from(slot),
        to: this.#slots.to(slot),
        protocol: Math.floor(service / portsValues),
        from_port: Math.floor(service / portValues) % portValues,
        to_port: service % portValues,
        size: this.#size[slot]!,
        count: this.#count[slot]!,
      });
    }
    if (lines.length > 0) this.#slots.clear();
    return lines;
  }

  /** Books lines of node `old` on node `id`. */
  merge(old: number, id: number): void {
    const rename = (node: number) => (node === old ? id : node);
    for (const line of this.take()) {
      const { from_port: fromPort, to_port: toPort, protocol, size, count } = line;
      // There are no more lines than before: each finds room.
      this.add({ from: rename(line.from), to: rename(line.to), protocol, fromPort, toPort }, size, count);
    }
  }
}
