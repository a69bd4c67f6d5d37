/**
 * Dropped packets as a few lines a second, whose counts are exact however many packets there are.
 *
 * Lines wait here by what they tell of, equal ones added up. As long as there are few they go as they came; of
 * more than one second may bring, those that differ only in the source port, then those that differ only in ports
 * and protocol become one line, with 0 for what differed. What is still too much waits for the next second, in
 * turn by the node that sent it, so that no flood of one hides the reports of another. Each sender may have so
 * many lines waiting; packets past it are counted and nothing else.
 */

import type { TrafficFlow } from "../lib/spin.ts";
import { sum } from "./messages.ts";

const maxPerSender = 256;
const maxLines = 4_096;

/** What is made equal, step by step: the source port; the destination port and the protocol. */
const coarser: readonly ((flow: TrafficFlow) => TrafficFlow)[] = [
  (flow) => ({ ...flow, from_port: 0 }),
  (flow) => ({ ...flow, from_port: 0, to_port: 0, protocol: 0 }),
];

export class Reports {
  /** Sender → what a line tells of → the line. */
  #waiting = new Map<number, Map<string, TrafficFlow>>();
  #unreported = 0;

  /** Lines that wait. */
  get size(): number {
    let lines = 0;
    for (const own of this.#waiting.values()) lines += own.size;
    return lines;
  }

  /** Packets that no line tells of. */
  get unreported(): number {
    return this.#unreported;
  }

  /** Adds lines, and takes out at most `most` for this second. */
  take(news: readonly TrafficFlow[], most: number): TrafficFlow[] {
    for (const flow of news) this.#add(flow);
    for (const step of coarser) {
      if (this.size > most) this.#rebuild(step);
    }
    const taken: TrafficFlow[] = [];
    for (const [from, own] of this.#waiting) {
      if (taken.length === most) break;
      const [key, flow] = own.entries().next().value!;
      taken.push(flow);
      own.delete(key);
      // Whoever had its turn goes to the end, where this loop finds it again.
      this.#waiting.delete(from);
      if (own.size > 0) this.#waiting.set(from, own);
    }
    this.#trim();
    return taken;
  }

  /** Gives back what could not be sent. */
  putBack(flow: TrafficFlow): void {
    this.#add(flow);
  }

  clear(): void {
    this.#waiting.clear();
  }

  #add(flow: TrafficFlow): void {
    const own = this.#waiting.get(flow.from) ?? new Map<string, TrafficFlow>();
    this.#waiting.set(flow.from, own);
    const key = `${flow.to} ${flow.protocol} ${flow.from_port} ${flow.to_port}`;
    const before = own.get(key);
    if (before) {
      own.set(key, { ...flow, size: sum(before.size, flow.size), count: sum(before.count, flow.count) });
    } else own.set(key, flow);
  }

  #rebuild(step: (flow: TrafficFlow) => TrafficFlow): void {
    const before = this.#waiting;
    this.#waiting = new Map();
    for (const own of before.values()) for (const flow of own.values()) this.#add(step(flow));
  }

  /** Drops what no second will have room for, and counts it. */
  #trim(): void {
    const most = Math.min(maxPerSender, Math.max(1, Math.floor(maxLines / this.#waiting.size)));
    for (const own of this.#waiting.values()) {
      if (own.size <= most) continue;
      for (const [key, flow] of [...own].slice(most)) {
        this.#unreported = sum(this.#unreported, flow.count);
        own.delete(key);
      }
    }
  }
}
