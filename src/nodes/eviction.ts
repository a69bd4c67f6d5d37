/**
 * Who makes room when all is full: the rules by which nodes and addresses are given up.
 *
 * Far and bare nodes make room for others of their kind, the least seen first; devices that nobody vouches for
 * make room for devices; what is known or wanted stays. So a flood of strangers displaces strangers.
 *
 * Keeps nothing, changes nothing.
 */

import type { Address } from "../lib/address.ts";
import { type Holding, isKnown, isWanted, type Node, noTraffic } from "./node.ts";

/** An address is kept so many times as long as it was used, and no longer than a day. */
const SPAN_FACTOR = 24;
const SPAN_MS = 86_400_000;
/** What an entry in the neighbour table is worth: it outlives what it tells. */
const LIVE_MS = 60_000;
/** What the DHCP server or the user vouches for goes last. */
const VOUCHED_MS = 1e12;

/**
 * The nodes to be given up for newcomers, the least worth first. Several at once, so that a flood doesn't make
 * all nodes be weighed for each newcomer.
 *
 * @param group "strangers": devices that nobody vouches for.
 */
export function leastNodes(nodes: Iterable<Node>, group: "far" | "strangers", count: number): Node[] {
  const candidates: Node[] = [];
  for (const node of nodes) {
    const isCandidate =
      group === "strangers" ? node.kind === "device" && !isKnown(node) : isPassing(node) && !isWanted(node);
    if (isCandidate) candidates.push(node);
  }
  candidates.sort((a, b) => worthOf(a) - worthOf(b) || a.seenAt - b.seenAt);
  return candidates.slice(0, count);
}

/**
 * The address that a full node gives up: of those that nobody vouches for, the one longest unused; one that was
 * used for long is kept for long. So a device that takes a new address every few seconds loses the dead
 * ones of those, not the one that it always had.
 */
export function leastAddress(node: Node): Address {
  let least: Address | undefined;
  let lowest = Number.POSITIVE_INFINITY;
  for (const [address, holding] of node.addresses) {
    const value = lastingOf(holding);
    if (value < lowest) [least, lowest] = [address, value];
  }
  return least!;
}

function lastingOf(holding: Holding): number {
  const { source, live, sinceAt, seenAt, untilAt } = holding;
  const vouched = source === "dhcp" || source === "user" || source === "own" ? VOUCHED_MS : 0;
  const spanMs = Math.min(SPAN_MS, SPAN_FACTOR * Math.max(0, seenAt - sinceAt));
  return Math.max(seenAt, untilAt) + spanMs + (live ? LIVE_MS : 0) + vouched;
}

/** Minutes in which a node was seen, and whether traffic was booked on it. */
function worthOf(node: Node): number {
  return node.evidence * 2 + (node.traffic === noTraffic ? 0 : 1);
}

function isPassing({ kind }: Node): boolean {
  return kind === "local" || kind === "address" || kind === "name";
}
