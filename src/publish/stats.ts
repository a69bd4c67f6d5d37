/**
 * Which counters are to be published: those that changed since they last were, at SPIN's pace.
 *
 * Kept by topic is what was last published, so that an unchanged counter costs no message. A counter that its
 * room no longer has leaves an empty message, which clears its topic.
 */

import { renderStat, type Stat } from "./messages.ts";

/** SPIN's period. */
const periodMs = 30_000;
const maxStats = 1_000;
const maxLevel = 64;

export class Stats {
  readonly #start: string;
  readonly #known = new Map<string, string>();
  #dueAt = Number.NEGATIVE_INFINITY;

  /** @param start what each topic begins with, with the slash. */
  constructor(start: string) {
    this.#start = start;
  }

  /** Whether it is time to look at the counters. */
  isDue(now: number): boolean {
    return now >= this.#dueAt;
  }

  /** The broker may have forgotten. */
  forget(): void {
    this.#known.clear();
    this.#dueAt = Number.NEGATIVE_INFINITY;
  }

  /** Topic → message of each counter that changed, empty if it is gone. */
  changed(stats: Iterable<Stat>, now: number): Map<string, string> {
    this.#dueAt = now + periodMs;
    const news = new Map<string, string>();
    const living = new Set<string>();
    for (const stat of stats) {
      const topic = `${this.#start}${level(stat.module)}/${level(stat.name)}`;
      // Of two whose names look alike on the wire the first one has the topic.
      if (living.has(topic) || living.size >= maxStats) continue;
      living.add(topic);
      const payload = renderStat(stat);
      if (this.#known.get(topic) === payload) continue;
      this.#known.set(topic, payload);
      news.set(topic, payload);
    }
    for (const topic of this.#known.keys()) {
      if (living.has(topic)) continue;
      this.#known.delete(topic);
      news.set(topic, "");
    }
    return news;
  }

  /** Whether a topic that a broker remembers can be one of an earlier life, ours or SPIN's. */
  isForeign(topic: string): boolean {
    const rest = topic.startsWith(this.#start) ? topic.slice(this.#start.length) : "";
    return /^[a-z0-9_-]{1,64}\/[a-z0-9_-]{1,64}$/.test(rest) && !this.#known.has(topic);
  }
}

/** A topic level: whatever the text was, it neither ends the level nor matches others. */
function level(text: string): string {
  const safe = text
    .slice(0, maxLevel)
    .toLowerCase()
    .replace(/[^a-z0-9_-]/g, "-")
    .slice(0, maxLevel);
  return safe === "" ? "-" : safe;
}
