/**
 * Which nodes have outlived their time.
 *
 * The router and its gateways don't; nor does what somebody wants. A device goes when it was unseen for long and
 * holds no lease, anything else much sooner. An id that was merged away answers for a time of its own, and no longer
 * than its node.
 */

import { isWanted, type Limits, type Node } from "./node.ts";
import type { Roster } from "./roster.ts";

/** Removes them. */
export function expire(roster: Roster): void {
  const { now, limits } = roster;
  for (const node of roster.all()) {
    if (now - node.seenAt > lifeMs(node, limits)) roster.remove(node, "expired");
  }
  for (const [id, alias] of roster.aliases.entries()) {
    const isLasting = roster.get(id)?.kind === "device";
    if (now - alias.at > (isLasting ? limits.aliasMs : limits.farMs)) roster.dropAlias(id);
  }
}

function lifeMs(node: Node, limits: Limits): number {
  if (isWanted(node) || node.kind === "router" || node.kind === "gateway") return Number.POSITIVE_INFINITY;
  if (node.kind !== "device") return limits.farMs;
  return node.leases > 0 ? Number.POSITIVE_INFINITY : limits.deviceMs;
}
