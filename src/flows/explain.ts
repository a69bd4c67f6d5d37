/**
 * Why two ends may or may not speak, as far as decisions go: every entry that applies to them, with its author and
 * hits. What the kernel makes of it is told elsewhere.
 */

import type { Address } from "../lib/address.ts";
import type { JsonObject } from "../lib/json.ts";
import { formatNet } from "../lib/nets.ts";
import type { ListName } from "../lib/spin.ts";
import { type Entry, pairOf } from "./decision.ts";
import type { Policy } from "./policy.ts";

/** One end of the question: the nodes that may be meant, and addresses. */
export interface Party {
  readonly nodes?: readonly number[];
  readonly addresses?: readonly Address[];
}

/** Plain data for an answer. */
export interface Explanation {
  /** The allow list beats all blocks. */
  readonly verdict: "pass" | "drop";
  readonly allowed_by: readonly JsonObject[];
  readonly blocked_by: readonly JsonObject[];
  /** Entries of the ignore list: what passes between the two is in no message. */
  readonly hidden_by: readonly JsonObject[];
}

/**
 * @param parties both ends; nodes by their living ids.
 * @param dateOf the wall-clock date in milliseconds of a monotonic instant.
 */
export function explain(
  policy: Policy,
  parties: readonly [Party, Party],
  dateOf: (at: number) => number,
): Explanation {
  const [one, other] = parties;
  const nodes = new Set(parties.flatMap((each) => each.nodes ?? []));
  const addresses = new Set(parties.flatMap((each) => each.addresses ?? []));
  const on = (list: ListName): Entry[] => {
    const nets = [...addresses].flatMap((address) => policy.netEntries(list, address));
    // Both addresses may lie in the same prefix.
    const distinct = new Map(nets.map((each) => [each.kind === "net" ? each.prefix : "", each]));
    return [...[...nodes].flatMap((id) => policy.nodeEntry(list, id) ?? []), ...distinct.values()];
  };
  const pairs = (one.nodes ?? []).flatMap((left) =>
    (other.nodes ?? []).flatMap((right) => policy.pairEntry(pairOf(left, right)) ?? []),
  );
  const render = (entries: readonly Entry[]) => entries.map((each) => renderEntry(each, dateOf));
  const [allowed, blocked] = [on("allow"), [...pairs, ...on("block")]];
  return {
    verdict: blocked.length > 0 && allowed.length === 0 ? "drop" : "pass",
    allowed_by: render(allowed),
    blocked_by: render(blocked),
    hidden_by: render(on("ignore")),
  };
}

/** An entry as answers show it: what it names, who set it if known, hits, Unix seconds of the last. */
export function renderEntry(entry: Entry, dateOf: (at: number) => number): JsonObject {
  return {
    ...nameOf(entry),
    ...(entry.by !== "" && { by: entry.by }),
    ...renderHits(entry, dateOf),
  };
}

export function renderHits({ hits, lastHitAt }: Entry, dateOf: (at: number) => number): JsonObject {
  return { hits, ...(lastHitAt !== undefined && { last_hit: Math.floor(dateOf(lastHitAt) / 1_000) }) };
}

function nameOf(entry: Entry): JsonObject {
  if (entry.kind === "pair") return { node1: entry.pair[0], node2: entry.pair[1] };
  if (entry.kind === "node") return { list: entry.list, node: entry.node };
  return { list: entry.list, address: formatNet(entry.prefix) };
}
