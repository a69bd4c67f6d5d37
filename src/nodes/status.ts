/**
 * What the room holds and what it had to leave out, as numbers.
 *
 * Keeps nothing, changes nothing.
 */

import type { Far } from "./far.ts";
import type { Lan } from "./lan.ts";
import type { Kind } from "./node.ts";
import type { Roster } from "./roster.ts";

/** What the room holds and what it had to leave out, for the status. */
export interface NodesStatus {
  readonly nodes: number;
  readonly byKind: Readonly<Record<Kind, number>>;
  /** Nodes that were not made, or removed, for lack of room. */
  readonly refused: number;
  readonly evicted: number;
  readonly questions: number;
  readonly answers: number;
  /** Questions and answers forgotten for lack of room. */
  readonly forgotten: number;
  /** Answers that nobody asked for; questions and addresses that are no far ones. */
  readonly unasked: number;
  readonly foreign: number;
  /** Claims to addresses and identities that another device has. */
  readonly conflicts: number;
  /** Leases not taken for lack of room. */
  readonly leasesRefused: number;
}

export function statusOf(roster: Roster, lan: Lan, far: Far): NodesStatus {
  const byKind = { device: 0, local: 0, name: 0, address: 0, router: 0, gateway: 0 };
  for (const node of roster.all()) byKind[node.kind]++;
  const { questions, answers, dropped } = far.memory;
  return {
    nodes: roster.size,
    byKind,
    refused: roster.refused,
    evicted: roster.evicted,
    questions,
    answers,
    forgotten: dropped,
    unasked: far.unasked,
    foreign: far.foreign,
    conflicts: lan.identity.conflicts.count,
    leasesRefused: lan.identity.refused,
  };
}
