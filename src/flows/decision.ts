/**
 * The words in which decisions are kept and shown: lists, pairs, who decided, how often it was felt.
 */

import type { Prefix } from "../lib/address.ts";
import type { ListName } from "../lib/spin.ts";

export type Lists<Of> = Readonly<Record<ListName, Of>>;

/** Two node ids, the lower first. */
export type Pair = readonly [number, number];

/** What may stand on a list: a node by its id, or a prefix. */
export type Member = number | Prefix;

export interface Place {
  readonly list: ListName;
  readonly member: Member;
}

/** Takes a change back. */
export type Undo = () => void;

/** Packets that were dropped because of a decision, in this life of the agent. */
export interface Hits {
  hits: number;
  /** Monotonic milliseconds. */
  lastHitAt: number | undefined;
}

/** A prefix on a list. */
export interface NetDecision extends Hits {
  /** Who decided; empty if nobody said. */
  readonly by: string;
}

/** A decision about nodes, by the ids they had when it was made. */
export interface Decision extends NetDecision {
  readonly one: number;
  /** The higher id of a pair; 0 on a list. */
  readonly other: number;
  /** After how many merges it was made: tells whether a merged node had it before or got it after. */
  readonly epoch: number;
}

/** A decision as it stands now, for people. */
export type Entry = (
  | { readonly kind: "pair"; readonly pair: Pair }
  | { readonly kind: "node"; readonly list: ListName; readonly node: number }
  | { readonly kind: "net"; readonly list: ListName; readonly prefix: Prefix }
) &
  Readonly<NetDecision>;

/** A value for each list. */
export function eachList<Of>(make: (list: ListName) => Of): Record<ListName, Of> {
  return { block: make("block"), ignore: make("ignore"), allow: make("allow") };
}

/** Two different node ids as a pair. */
export function pairOf(one: number, other: number): Pair {
  return one < other ? [one, other] : [other, one];
}

/** Counts a packet that a decision stopped. */
export function hit(target: Hits | undefined, at: number): void {
  if (!target) return;
  target.hits++;
  target.lastHitAt = at;
}

/** Names of authors are kept up to this length. */
export const maxAuthor = 64;
const controls = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

/** A name as it may be kept: short, and fit for a log. */
export function authorOf(name: string): string {
  return name.replace(controls, "").slice(0, maxAuthor);
}
