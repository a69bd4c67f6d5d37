/**
 * Decisions about nodes, filed where they stand today.
 *
 * A decision names the ids of the day it was made; it stands on the living nodes behind them, pairs on both,
 * list entries on one. Kept by living node, so that what stands on one is found without looking at all. Several
 * may stand on the same spot after a merge; they count as one and end together. A pair whose ends are one node at
 * present sleeps until they part.
 */

import { type ListName, listNames } from "../lib/spin.ts";
import { type Decision, eachList, type Lists, type NetDecision, type Pair } from "./decision.ts";

/** Decisions that say the same of the same living nodes. Never empty. */
export type Standing = readonly Decision[];

/** Decisions that were taken out together. */
export interface Load {
  readonly pairs: readonly Decision[];
  readonly lists: Lists<readonly Decision[]>;
}

const byNumber = (left: number, right: number) => left - right;

export class Standings {
  readonly #rootOf: (id: number) => number;
  /** By living node, then by the other living node: the same standing from both ends. */
  readonly #partners = new Map<number, Map<number, Decision[]>>();
  readonly #nodes: Lists<Map<number, Decision[]>> = eachList(() => new Map());
  #sleeping: Decision[] = [];
  #pairs = 0;
  #pairDecisions = 0;

  /** @param rootOf the living node behind an id. What was filed before it changes its mind has to be unloaded. */
  constructor(rootOf: (id: number) => number) {
    this.#rootOf = rootOf;
  }

  /** Pairs that stand; decisions about pairs, with those that sleep and those that say the same. */
  get counters(): { readonly pairs: number; readonly pairDecisions: number } {
    return { pairs: this.#pairs, pairDecisions: this.#pairDecisions };
  }

  /** All living nodes that a decision stands on. */
  ids(): Set<number> {
    const ids = new Set(this.#partners.keys());
    for (const list of listNames) for (const id of this.#nodes[list].keys()) ids.add(id);
    return ids;
  }

  pair(one: number, other: number): Standing | undefined {
    return this.#partners.get(one)?.get(other);
  }

  node(list: ListName, id: number): Standing | undefined {
    return this.#nodes[list].get(id);
  }

  /** All pairs, in order. */
  pairs(): Pair[] {
    const pairs: Pair[] = [];
    for (const [one, partners] of this.#partners) {
      for (const other of partners.keys()) if (one < other) pairs.push([one, other]);
    }
    return pairs.sort((left, right) => left[0] - right[0] || left[1] - right[1]);
  }

  /** The other ends of a node's pairs, in order. */
  partners(id: number): number[] {
    return [...(this.#partners.get(id)?.keys() ?? [])].sort(byNumber);
  }

  /** The nodes of a list, in order. */
  nodes(list: ListName): number[] {
    return [...this.#nodes[list].keys()].sort(byNumber);
  }

  /** Pairs that sleep. */
  sleeping(): readonly Decision[] {
    return this.#sleeping;
  }

  /** Whether anything stands on a living node. */
  isNamed(id: number): boolean {
    return this.#partners.has(id) || listNames.some((list) => this.#nodes[list].has(id));
  }

  filePair(decision: Decision): void {
    const [one, other] = [this.#rootOf(decision.one), this.#rootOf(decision.other)];
    if (one === other) {
      if (join(this.#sleeping, decision)) this.#pairDecisions++;
      return;
    }
    let standing = this.#partners.get(one)?.get(other);
    if (!standing) {
      standing = [];
      this.#link(one, other, standing);
      this.#link(other, one, standing);
      this.#pairs++;
    }
    if (join(standing, decision)) this.#pairDecisions++;
  }

  fileNode(list: ListName, decision: Decision): void {
    const id = this.#rootOf(decision.one);
    const standing = this.#nodes[list].get(id) ?? [];
    join(standing, decision);
    this.#nodes[list].set(id, standing);
  }

  file({ pairs, lists }: Load): void {
    for (const decision of pairs) this.filePair(decision);
    for (const list of listNames) for (const decision of lists[list]) this.fileNode(list, decision);
  }

  /** Takes out what stands on a pair of living nodes. */
  takePair(one: number, other: number): Standing {
    const standing = this.#partners.get(one)?.get(other) ?? [];
    if (standing.length === 0) return standing;
    this.#unlink(one, other);
    this.#unlink(other, one);
    this.#pairs--;
    this.#pairDecisions -= standing.length;
    return standing;
  }

  takeNode(list: ListName, id: number): Standing {
    const standing = this.#nodes[list].get(id) ?? [];
    this.#nodes[list].delete(id);
    return standing;
  }

  /** Takes out one decision, wherever it stands now. */
  dropPair(decision: Decision): void {
    const [one, other] = [this.#rootOf(decision.one), this.#rootOf(decision.other)];
    if (one !== other) {
      for (const each of this.takePair(one, other)) if (!saysSame(each, decision)) this.filePair(each);
      return;
    }
    const left = this.#sleeping.filter((each) => !saysSame(each, decision));
    this.#pairDecisions -= this.#sleeping.length - left.length;
    this.#sleeping = left;
  }

  dropNode(list: ListName, decision: Decision): void {
    const standing = this.takeNode(list, this.#rootOf(decision.one));
    for (const each of standing) if (!saysSame(each, decision)) this.fileNode(list, each);
  }

  /** Takes out everything that stands on a living node or sleeps in it, to be filed anew. */
  unload(id: number): Load {
    const pairs = this.partners(id).flatMap((other) => this.takePair(id, other));
    const asleep = this.#sleeping.filter((each) => this.#rootOf(each.one) === id);
    this.#sleeping = this.#sleeping.filter((each) => !asleep.includes(each));
    this.#pairDecisions -= asleep.length;
    return {
      pairs: [...pairs, ...asleep],
      lists: eachList((list) => this.takeNode(list, id)),
    };
  }

  #link(one: number, other: number, standing: Decision[]): void {
    const partners = this.#partners.get(one) ?? new Map<number, Decision[]>();
    this.#partners.set(one, partners.set(other, standing));
  }

  #unlink(one: number, other: number): void {
    const partners = this.#partners.get(one);
    partners?.delete(other);
    if (partners?.size === 0) this.#partners.delete(one);
  }
}

/** Author, hits and last hit of decisions that count as one. */
export function sumOf(standing: Standing): NetDecision {
  const instants = standing.flatMap((each) => each.lastHitAt ?? []);
  return {
    by: standing.find((each) => each.by !== "")?.by ?? "",
    hits: standing.reduce((sum, each) => sum + each.hits, 0),
    lastHitAt: instants.length > 0 ? Math.max(...instants) : undefined,
  };
}

function saysSame(left: Decision, right: Decision): boolean {
  return left.one === right.one && left.other === right.other;
}

/** Adds a decision. If it is there already, only what it knows more: then the answer is false. */
function join(standing: Decision[], decision: Decision): boolean {
  const index = standing.findIndex((each) => saysSame(each, decision));
  const twin = standing[index];
  if (twin === undefined) {
    standing.push(decision);
    return true;
  }
  const epoch = Math.max(twin.epoch, decision.epoch);
  standing[index] = { ...twin, ...sumOf([twin, decision]), epoch };
  return false;
}
