/**
 * What the user decided about nodes: pairs that may not speak, and SPIN's three lists.
 *
 * Pairs are kept by the ids of their two nodes, lists by the ids in them; nothing else is known of a node here,
 * so a decision follows the node whatever addresses it has. Changed by `set`, `list` and `merge`, each of which
 * returns how to take the change back; nobody is told.
 */

import type { End, Plan } from "../kernel/plan.ts";
import { isObject, type Json } from "../lib/json.ts";

/** SPIN's lists, in the order of their numbers. */
export const listNames = ["block", "ignore", "allow"] as const;
export type ListName = (typeof listNames)[number];

/** Two node ids, the lower first. */
export type Pair = readonly [number, number];

/** Takes a change back. Does nothing where the state has moved on since. */
export type Undo = () => void;

/** Version of what `save` returns. */
export const policyVersion = 1;
/** A file with more is not one of ours. */
const maxLoaded = 1_000_000;

export interface PolicyState {
  readonly pairs: readonly Pair[];
  readonly lists: Readonly<Record<ListName, readonly number[]>>;
}

const keyOf = (pair: Pair) => `${pair[0]} ${pair[1]}`;
const byPair = (left: Pair, right: Pair) => left[0] - right[0] || left[1] - right[1];
const byNumber = (left: number, right: number) => left - right;

/** Two different node ids as a pair. */
export function pairOf(one: number, other: number): Pair {
  return one < other ? [one, other] : [other, one];
}

export class Policy {
  readonly #pairs = new Map<string, Pair>();
  readonly #lists: Record<ListName, Set<number>>;

  constructor(state?: PolicyState) {
    for (const pair of state?.pairs ?? []) this.#pairs.set(keyOf(pair), pair);
    this.#lists = {
      block: new Set(state?.lists.block),
      ignore: new Set(state?.lists.ignore),
      allow: new Set(state?.lists.allow),
    };
  }

  /** How many pairs are blocked. */
  get size(): number {
    return this.#pairs.size;
  }

  has(pair: Pair): boolean {
    return this.#pairs.has(keyOf(pair));
  }

  isListed(list: ListName, id: number): boolean {
    return this.#lists[list].has(id);
  }

  /** The blocked pairs, in order. */
  pairs(): Pair[] {
    return [...this.#pairs.values()].sort(byPair);
  }

  /** The nodes of a list, in order. */
  listed(list: ListName): number[] {
    return [...this.#lists[list]].sort(byNumber);
  }

  /** Blocks or unblocks a pair. Undefined: it was so already. */
  set(pair: Pair, blocked: boolean): Undo | undefined {
    const key = keyOf(pair);
    if (this.#pairs.has(key) === blocked) return undefined;
    if (blocked) this.#pairs.set(key, pair);
    else this.#pairs.delete(key);
    return () => {
      if (blocked) this.#pairs.delete(key);
      else this.#pairs.set(key, pair);
    };
  }

  /** Puts a node on a list, or takes it off. Undefined: it was so already. */
  list(list: ListName, id: number, listed: boolean): Undo | undefined {
    const set = this.#lists[list];
    if (set.has(id) === listed) return undefined;
    if (listed) set.add(id);
    else set.delete(id);
    return () => {
      if (listed) set.delete(id);
      else set.add(id);
    };
  }

  /**
   * Node `old` has become part of node `id`: what was decided about it now holds for that one.
   *
   * @returns what changed, and the pairs that are no pairs any more because both ends are one node now.
   */
  merge(old: number, id: number): { readonly changed: boolean; readonly dropped: readonly Pair[] } {
    const dropped: Pair[] = [];
    let changed = false;
    if (old === id) return { changed, dropped };
    for (const [key, pair] of this.#pairs) {
      if (pair[0] !== old && pair[1] !== old) continue;
      changed = true;
      this.#pairs.delete(key);
      const partner = pair[0] === old ? pair[1] : pair[0];
      if (partner === id) dropped.push(pair);
      else this.set(pairOf(partner, id), true);
    }
    for (const set of Object.values(this.#lists)) {
      if (!set.delete(old)) continue;
      changed = true;
      set.add(id);
    }
    return { changed, dropped };
  }

  /** Every node that a decision names: it must not be forgotten. */
  pinned(): Set<number> {
    const ids = new Set<number>();
    for (const pair of this.#pairs.values()) ids.add(pair[0]).add(pair[1]);
    for (const set of Object.values(this.#lists)) for (const id of set) ids.add(id);
    return ids;
  }

  /**
   * What the kernel shall enforce. A node without any address or MAC cannot be matched: it is left out, its
   * decisions stay and count as soon as it has one.
   *
   * @param endOf the node of an id as packets show it, with that same id; undefined if there is none.
   */
  plan(endOf: (id: number) => End | undefined): Plan {
    const ends = new Map<number, End | undefined>();
    const takesPart = (id: number) => {
      if (!ends.has(id)) {
        const end = endOf(id);
        ends.set(id, end && (end.addresses.length > 0 || end.macs.length > 0) ? end : undefined);
      }
      return ends.get(id) !== undefined;
    };
    const pairs = this.pairs().filter(([one, other]) => takesPart(one) && takesPart(other));
    const barred = this.listed("block").filter(takesPart);
    const exempt = this.listed("allow").filter(takesPart);
    const named = new Set([...pairs.flat(), ...barred, ...exempt]);
    return {
      ends: [...named].sort(byNumber).map((id) => ends.get(id)!),
      pairs,
      barred,
      exempt,
    };
  }

  /** The state for a store. */
  save(): Json {
    return {
      pairs: this.pairs(),
      block: this.listed("block"),
      ignore: this.listed("ignore"),
      allow: this.listed("allow"),
    };
  }
}

/**
 * Reads what `save` returned.
 *
 * @throws SyntaxError for anything else.
 */
export function parsePolicy(state: unknown): PolicyState {
  if (!isObject(state)) throw new SyntaxError("blocks and lists are no object");
  const pairs = arrayOf(state.pairs, "pairs").map((each): Pair => {
    const [one, other] = Array.isArray(each) && each.length === 2 ? each : [];
    if (!isId(one) || !isId(other) || one >= other) {
      throw new SyntaxError(`${JSON.stringify(each)} is no pair of node ids`);
    }
    return [one, other];
  });
  const idsOf = (list: ListName) =>
    arrayOf(state[list], list).map((each) => {
      if (!isId(each)) throw new SyntaxError(`${JSON.stringify(each)} on list ${list} is no node id`);
      return each;
    });
  return { pairs, lists: { block: idsOf("block"), ignore: idsOf("ignore"), allow: idsOf("allow") } };
}

function arrayOf(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length > maxLoaded) throw new SyntaxError(`${what} are no list`);
  return value;
}

function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0;
}
