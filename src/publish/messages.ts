/**
 * The messages themselves: SPIN's shapes to the letter, and what we add to them.
 *
 * Pure functions from values to JSON text. Field order is part of a shape; fields that SPIN does not have come
 * last, so that its clients read on.
 *
 * Source: SIDN SPIN at a5185b7, observed on the wire.
 */

import type { Json, JsonObject } from "../lib/json.ts";
import type { NodeInfo, TrafficFlow } from "../lib/spin.ts";

/** A question that a device asked the DNS. */
export interface QueryTold {
  /** The node that asked. */
  readonly from: number;
  /** The node that bears the name. */
  readonly queriednode: number;
  /** With the trailing dot. */
  readonly query: string;
}

/** One counter of the `stat` topics. */
export interface Stat {
  readonly module: string;
  readonly name: string;
  /** 0: `value` is a total; 1: it is a maximum. */
  readonly type: 0 | 1;
  readonly value: number;
  /** How many times it was counted. */
  readonly count: number;
}

/** The message of a node topic. */
export function renderNode(node: NodeInfo): string {
  const { id, name, mac, is_blocked, is_excepted, lastseen, ips, domains } = node;
  // What is undefined is left out.
  return render("nodeInfo", {
    id,
    ...(name !== undefined && { name }),
    ...(mac !== undefined && { mac }),
    ...(is_blocked !== undefined && { is_blocked }),
    ...(is_excepted !== undefined && { is_excepted }),
    lastseen,
    ips,
    domains,
  });
}

/** The message of the topic of a node that has become part of another, as long as its id still answers. */
export function renderAlias(id: number, into: number): string {
  return render("nodeInfo", { id, "merged-to": into });
}

export function renderMerged(id: number, into: number): string {
  return render("nodeMerged", { id, "merged-to": into });
}

/** `reason` is ours: "expired", "evicted", "alias" and what else a room may say. */
export function renderDeleted(id: number, reason: string | undefined): string {
  return render("nodeDeleted", reason === undefined ? { id } : { id, reason });
}

/** A list with all that is on it. */
export function renderList(list: string, entries: readonly string[]): string {
  return render(list, entries);
}

/** Every pair of nodes between which no packet passes. Ours: SPIN tells nobody. */
export function renderPairs(pairs: Iterable<readonly [number, number]>): string {
  return render(
    "flowblock",
    [...pairs].map(([node1, node2]) => ({ node1, node2 })),
  );
}

export function renderQuery({ from, queriednode, query }: QueryTold): string {
  return render("dnsquery", { from, queriednode, query });
}

/** An address that is at another MAC, or claimed by several, as the bus tells it. Ours: SPIN knows nothing of it. */
export function renderNeighbour(kind: "moved" | "conflict", told: JsonObject): string {
  return render(kind === "moved" ? "neighbourMoved" : "neighbourConflict", told);
}

/** Packets that were dropped; `size` and `count` of all that the line stands for. */
export function renderBlocked(flow: TrafficFlow): string {
  return render("blocked", line(flow));
}

/** The traffic message. `timestamp` is in Unix seconds. */
export function renderTraffic(flows: readonly TrafficFlow[], timestamp: number): string {
  const result = {
    flows: flows.map(line),
    timestamp,
    total_size: flows.reduce((total, { size }) => sum(total, size), 0),
    total_count: flows.reduce((total, { count }) => sum(total, count), 0),
  };
  return JSON.stringify({ command: "traffic", argument: "", result });
}

export function renderStat({ module, name, type, value, count }: Stat): string {
  return JSON.stringify({ module, name, type, value: Math.trunc(value), count: Math.trunc(count) });
}

export const serverRestart = JSON.stringify({ command: "serverRestart" });

/** Adds counters without ever leaving the integers. */
export function sum(left: number, right: number): number {
  return Math.min(Number.MAX_SAFE_INTEGER, left + right);
}

function render(command: string, result: Json): string {
  return JSON.stringify({ command, result });
}

function line({ from, to, protocol, from_port, to_port, size, count }: TrafficFlow) {
  return { from, to, protocol, from_port, to_port, size, count };
}
