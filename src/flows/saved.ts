/**
 * Decisions as they lie on disk, in a form that earlier versions read too.
 *
 * `pairs`, `block`, `ignore` and `allow` are the nodes as the decisions stand, which is all that there was at
 * first. Beside them, each only if there is something to say: `nets`, the prefixes on the lists; `merged`, rows
 * of id, id it went into, epoch; and `made`, the decisions that were made under other ids, after a merge or by
 * somebody with a name, in groups of the same author and epoch.
 */

import type { Prefix } from "../lib/address.ts";
import { isObject, type Json } from "../lib/json.ts";
import { isPrefix } from "../lib/nets.ts";
import { type ListName, listNames } from "../lib/spin.ts";
import { eachList, type Lists, type Member, maxAuthor, type Pair } from "./decision.ts";
import type { Merge } from "./merges.ts";
import type { Standing } from "./standings.ts";

/** Version of what is stored. */
export const policyVersion = 1;
/** A file with more is not one of ours. */
const maxLoaded = 1_000_000;
/** A pair of large ids, indented, has less. */
export const maxPolicyBytes = maxLoaded * 96;

/** Decisions of one author between two merges, by the ids that the nodes had then. */
export interface Made {
  readonly by: string;
  readonly epoch: number;
  readonly pairs: readonly Pair[];
  readonly lists: Lists<readonly Member[]>;
}

export interface PolicyState {
  readonly pairs: readonly Pair[];
  readonly lists: Lists<readonly number[]>;
  readonly nets?: Lists<readonly Prefix[]>;
  readonly merged?: readonly Merge[];
  readonly made?: readonly Made[];
}

interface Group extends Made {
  readonly pairs: Pair[];
  readonly lists: Lists<Member[]>;
}

/** Decisions that the lists as they stand don't tell all of, by author and epoch. */
export class Groups {
  readonly #firstEpoch: number;
  readonly #groups = new Map<string, Map<number, Group>>();

  /** @param firstEpoch of the first merge that is known: before it, all epochs are one. */
  constructor(firstEpoch: number) {
    this.#firstEpoch = firstEpoch;
  }

  /** The decisions of a standing that are more than the spot where it stands. */
  telling(standing: Standing, one: number, other: number): Standing {
    const first = standing[0]!;
    const isPlain = standing.length === 1 && first.one === one && first.other === other;
    return isPlain && first.by === "" && first.epoch < this.#firstEpoch ? [] : standing;
  }

  of(decision: { readonly by: string; readonly epoch: number }): Group {
    const { by } = decision;
    const epoch = decision.epoch < this.#firstEpoch ? 0 : decision.epoch;
    const epochs = this.#groups.get(by) ?? new Map<number, Group>();
    this.#groups.set(by, epochs);
    const group = epochs.get(epoch) ?? { by, epoch, pairs: [], lists: eachList(() => []) };
    epochs.set(epoch, group);
    return group;
  }

  all(): Made[] {
    return [...this.#groups.values()].flatMap((epochs) => [...epochs.values()]);
  }
}

/** The state for the store. */
export function renderPolicy(state: Required<PolicyState>): Json {
  const made = state.made.map(({ by, epoch, pairs, lists }) => ({
    ...(by !== "" && { by }),
    ...(epoch > 0 && { epoch }),
    ...(pairs.length > 0 && { pairs }),
    ...Object.fromEntries(listNames.flatMap((list) => (lists[list].length > 0 ? [[list, lists[list]]] : []))),
  }));
  return {
    pairs: state.pairs,
    ...state.lists,
    ...(listNames.some((list) => state.nets[list].length > 0) && { nets: { ...state.nets } }),
    ...(state.merged.length > 0 && {
      merged: state.merged.map(({ old, into, epoch }) => [old, into, epoch]),
    }),
    ...(made.length > 0 && { made }),
  };
}

/**
 * Reads what `renderPolicy` returned.
 *
 * @throws SyntaxError for anything else.
 */
export function parsePolicy(state: unknown): PolicyState {
  if (!isObject(state)) throw new SyntaxError("blocks and lists are no object");
  const { nets, merged, made } = state;
  return {
    pairs: parsePairs(state.pairs),
    lists: eachList((list) => arrayOf(state[list], list).map((each) => parseId(each, list))),
    ...(nets !== undefined && { nets: parseNets(nets) }),
    ...(merged !== undefined && { merged: parseMerged(merged) }),
    ...(made !== undefined && { made: arrayOf(made, "made").map(parseMade) }),
  };
}

function parsePairs(value: unknown): Pair[] {
  return arrayOf(value, "pairs").map((each): Pair => {
    const [one, other] = Array.isArray(each) && each.length === 2 ? each : [];
    if (!isId(one) || !isId(other) || one >= other) {
      throw new SyntaxError(`${show(each)} is no pair of node ids`);
    }
    return [one, other];
  });
}

function parseNets(value: unknown): Lists<readonly Prefix[]> {
  if (!isObject(value)) throw new SyntaxError("nets are no object");
  return eachList((list) =>
    arrayOf(value[list], `nets of ${list}`).map((each) => {
      if (!isPrefix(each)) throw new SyntaxError(`${show(each)} on list ${list} is no prefix`);
      return each;
    }),
  );
}

function parseMerged(value: unknown): Merge[] {
  const merged = arrayOf(value, "merged").map((each): Merge => {
    const [old, into, epoch] = Array.isArray(each) && each.length === 3 ? each : [];
    if (!isId(old) || !isId(into) || !isId(epoch) || old === into) {
      throw new SyntaxError(`${show(each)} is no merge`);
    }
    return { old, into, epoch };
  });
  const into = new Map(merged.map((each) => [each.old, each.into]));
  if (into.size !== merged.length) throw new SyntaxError("an id was merged twice");
  // Each id that was seen to end somewhere needs no second look, so this stays linear.
  const ends = new Set<number>();
  for (const { old } of merged) {
    const trail = new Set<number>();
    for (let at: number | undefined = old; at !== undefined && !ends.has(at); at = into.get(at)) {
      if (trail.has(at)) throw new SyntaxError(`${at} was merged into itself`);
      trail.add(at);
    }
    for (const id of trail) ends.add(id);
  }
  return merged;
}

function parseMade(value: unknown): Made {
  if (!isObject(value)) throw new SyntaxError(`${show(value)} is no group of decisions`);
  const { by = "", epoch = 0, pairs = [] } = value;
  if (typeof by !== "string" || by.length > maxAuthor) throw new SyntaxError(`${show(by)} is no author`);
  if (epoch !== 0 && !isId(epoch)) throw new SyntaxError(`${show(epoch)} is no epoch`);
  const lists = eachList((list) =>
    arrayOf(value[list] ?? [], list).map((each) => (isPrefix(each) ? each : parseId(each, list))),
  );
  return { by, epoch, pairs: parsePairs(pairs), lists };
}

function parseId(value: unknown, list: ListName): number {
  if (!isId(value)) throw new SyntaxError(`${show(value)} on list ${list} is no node id`);
  return value;
}

function arrayOf(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length > maxLoaded) throw new SyntaxError(`${what} are no list`);
  return value;
}

function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0;
}

/** A foreign value in a message: not at any length, nor at any depth. */
function show(value: unknown): string {
  const plain = (each: unknown) =>
    typeof each === "object" && each !== null ? "…" : String(JSON.stringify(each)).slice(0, 40);
  return Array.isArray(value) ? `[${value.slice(0, 4).map(plain).join(",")}]` : plain(value);
}
