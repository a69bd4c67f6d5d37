/**
 * What SPIN's doors need of the rest of gatehouse: nodes to look at and decisions to make, as plain functions.
 *
 * Decisions are made in the order of the calls, also when nobody waits in between, and their promises resolve
 * when the decision is in force and durable. Asking for what is so already is no failure.
 */

import type { Address, Mac, Prefix } from "../lib/address.ts";
import type { ListName, NodeInfo } from "../lib/spin.ts";

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
  /**
   * A list as SPIN shows it: the addresses of the nodes on it, and the addresses and prefixes on it; all IPv4 before
   * all IPv6, each by value, a prefix of one address as that address.
   */
  listEntries(list: ListName): readonly string[];
  /** Names a node; an empty name takes the name back. @throws Fault "invalid" for a name that cannot be one. */
  rename(id: number, name: string): Promise<Decision>;
  /** Makes a node with one address. */
  addNode(address: Address): Promise<Decision | { readonly kind: "made"; readonly id: number }>;
  /** Gives a node one more address. */
  addAddress(id: number, address: Address): Promise<Decision>;
  /** Taking a node off takes its addresses off, however they got there. */
  setListNode(list: ListName, id: number, listed: boolean): Promise<Decision>;
  /** Taking an address off that a listed node has takes the node off, and leaves its other addresses on the list. */
  setListNet(list: ListName, net: Prefix, listed: boolean): Promise<Decision>;
  /** Puts the addresses of this machine on the ignore list, in place of all that is there. */
  resetIgnore(): Promise<Decision>;
  /** Cuts two nodes off from each other, or lets them speak again. */
  setBlock(one: number, other: number, blocked: boolean): Promise<Decision>;
}
