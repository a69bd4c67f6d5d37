/**
 * What SPIN's doors need of the rest of gatehouse: nodes to look at and decisions to make, as plain functions.
 *
 * Decisions are made in the order of the calls, also when nobody waits in between, and their promises resolve
 * when the decision is in force and durable. Asking for what is so already is no failure.
 */

import { type Address, encodeAddress, familyOf, type Mac, type Prefix, parsePrefix } from "../lib/address.ts";
import type { NodeInfo } from "../lib/spin.ts";

/** SPIN's lists, in the order of their numbers. */
export const listNames = ["block", "ignore", "allow"] as const;
export type ListName = (typeof listNames)[number];

/** What came of a decision. */
export type Decision =
  | { readonly kind: "done" }
  /** There is no such node. */
  | { readonly kind: "unknown"; readonly id: number }
  /** Both ids are the same node. */
  | { readonly kind: "same"; readonly id: number }
  /** A node has the address already. */
  | { readonly kind: "taken"; readonly id: number }
  /** No more of these are allowed. */
  | { readonly kind: "full"; readonly limit: number };

/** What passed between a device and a node. What SPIN does not tell apart may come in several of these. */
export interface DeviceFlow {
  /** The node at the other end. */
  readonly to: number;
  readonly dstPort: number;
  readonly icmpType: number;
  /** Both directions. */
  readonly packets: number | bigint;
  readonly bytes: number | bigint;
  /** Unix seconds. */
  readonly lastSeen: number;
}

/** What the user put on a list: nodes with whatever addresses they have, and addresses whoever has them. */
export interface Listing {
  readonly nodes: readonly number[];
  readonly nets: readonly Prefix[];
}

/** Every verb that makes a decision may throw a Fault: "storage" if it holds and only is not durable. */
export interface SpinDoor {
  /** The nodes with a MAC, in any order. */
  devices(): readonly NodeInfo[];
  /** The living node behind an id; one that was merged away answers as what it became. */
  node(id: number): NodeInfo | undefined;
  deviceByMac(mac: Mac): number | undefined;
  /** The flows of a living node, in any order. */
  deviceFlows(id: number): Iterable<DeviceFlow>;
  /** The blocked pairs of living nodes, in any order. */
  pairs(): readonly (readonly [number, number])[];
  listing(list: ListName): Listing;
  /** Names a node; an empty name takes the name back. @throws Fault "invalid" for a name that cannot be one. */
  rename(id: number, name: string): Promise<Decision>;
  /** Makes a node with one address. */
  addNode(address: Address): Promise<Decision | { readonly kind: "made"; readonly id: number }>;
  /** Gives a node one more address. */
  addAddress(id: number, address: Address): Promise<Decision>;
  setListNode(list: ListName, id: number, listed: boolean): Promise<Decision>;
  setListNet(list: ListName, net: Prefix, listed: boolean): Promise<Decision>;
  /** Puts the addresses of this machine on the ignore list, in place of all that is there. */
  resetIgnore(): Promise<Decision>;
  /** Cuts two nodes off from each other, or lets them speak again. */
  setBlock(one: number, other: number, blocked: boolean): Promise<Decision>;
}

/**
 * A list as SPIN shows it: all IPv4 before all IPv6, each by value. A prefix that holds one address only is shown
 * as that address.
 */
export function listEntries(door: Pick<SpinDoor, "listing" | "node">, list: ListName): string[] {
  const { nodes, nets } = door.listing(list);
  const entries = new Map<string, readonly number[]>();
  const add = (net: Prefix) => entries.set(textOf(net), orderOf(net));
  for (const net of nets) add(net);
  for (const id of nodes) {
    for (const ip of door.node(id)?.ips ?? []) {
      const net = parsePrefix(ip);
      if (net !== undefined) add(net);
    }
  }
  return [...entries].sort(([, left], [, right]) => compare(left, right)).map(([text]) => text);
}

/** The prefix that holds just this address. */
export function netOf(address: Address): Prefix {
  return `${address}/${familyOf(address) === 4 ? 32 : 128}` as Prefix;
}

/** The one address that a prefix holds; undefined if it holds more. */
export function addressOf(net: Prefix): Address | undefined {
  const [address, length] = net.split("/") as [Address, string];
  return Number(length) === (familyOf(address) === 4 ? 32 : 128) ? address : undefined;
}

function textOf(net: Prefix): string {
  return addressOf(net) ?? net;
}

function orderOf(net: Prefix): readonly number[] {
  const [address, length] = net.split("/") as [Address, string];
  return [familyOf(address), ...encodeAddress(address), Number(length)];
}

/** Compares number by number; both are equally long unless the first numbers differ. */
function compare(left: readonly number[], right: readonly number[]): number {
  for (let at = 0; at < left.length; at++) {
    if (left[at] !== right[at]) return left[at]! - right[at]!;
  }
  return 0;
}
