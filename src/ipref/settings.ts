/**
 * What the forwarders are told once: plain data that the control plane prepares and hands to the forwarding thread.
 *
 * Addresses are bytes in network order, 4 or 16 of them as the family says. A change of settings makes new
 * forwarders. What was learned of gateways lies in memory that outlives them (gateways.ts); what they keep besides
 * matters for seconds only, or is soon learned again.
 */

import type { Family } from "../lib/address.ts";

export interface ForwardSettings {
  /** IP version of the hosts on our LAN, and of encoded addresses. */
  readonly lanFamily: Family;
  /** IP version of the context addresses, which is the tunnel's. */
  readonly tunnelFamily: Family;
  /** The encoding network; `length` in bits. */
  readonly encodeNet: { readonly bytes: Uint8Array; readonly length: number };
  /** The gateway's own encoded address, `<net>.1`: source of errors, name of the router in the LAN. */
  readonly ownEncoded: Uint8Array;
  /** Our context address; all zeros: not known (behind NAT), the peer sees it on our packets. */
  readonly ownContext: Uint8Array;
  /** The gateway's own reference, 16 bytes. */
  readonly ownReference: Uint8Array;
  /** Take one from the TTL of each packet, as a router does; upstream's default is not to. */
  readonly decrementTtl: boolean;
  /** Largest outer IP packet to peers of which nothing else is known, e.g. 1500. */
  readonly tunnelMtuBytes: number;
  /** Largest packet that the LAN takes: longer IPv6 packets that may be fragmented are, on the way in. */
  readonly lanMtuBytes: number;
  /** Lower the MSS in TCP SYNs to what the path carries. */
  readonly clampMss: boolean;
  /**
   * Let remote hosts open connections to the router itself (its own reference). Without, only answers reach it: echo
   * replies and ICMP errors.
   */
  readonly admitRouter: boolean;
  /** Addresses of the LAN that no mapping may lead to: the router's own ones, and broadcast ones. */
  readonly forbidden: readonly Uint8Array[];
  /** First number of IP ids and fragment ids: random, so that nobody can guess them. */
  readonly firstId: number;
}

/**
 * Who may make mappings by sending to us: peers listed, in the hosts file, or sent to before.
 *
 * Of both: a context address (of the tunnel's family) lies at `offset`. Cheap; called for unknown sources only.
 */
export interface Peers {
  allows(bytes: Uint8Array, offset: number): boolean;
  /** Whether it is listed, or was sent to or heard: others are told no errors, since these are longer than packets. */
  knows(bytes: Uint8Array, offset: number): boolean;
}
