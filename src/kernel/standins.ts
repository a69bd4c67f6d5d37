/**
 * What isolation asks of the kernel, as plain data: who reaches whom, under which addresses, and nothing else.
 * For who makes such a plan: it goes whole to `kernel.apply("isolation", plan)` each time something changed.
 *
 *     source ──(to its stand-in for the target)──► device │ router │ targetDevice ──(from its stand-in)──► target
 *
 * A managed device forwards nothing and reaches nothing of the router but what a plan names: addresses by DHCP,
 * neighbours, DNS where a segment says so, and its routes. A route lets one side begin: answers and ICMP errors
 * belong to it and pass, and a pair in which both may begin is two routes, each the other way round. A source that
 * is not the segment's own, a stand-in that nobody was given, a real address, and a target that is not where its
 * route says: dropped and counted. A route that goes ends its flows at once.
 *
 * Stand-ins come from `pools`, which are routed nowhere and in no segment's prefixes. IPv4 and IPv6 are routes of
 * their own; all addresses of a route are of one family.
 */

import type { Address, Prefix } from "../lib/address.ts";

export interface IsolationPlan {
  readonly segments: readonly Segment[];
  /** Where all stand-ins come from, those of routes that went before included. */
  readonly pools: readonly Prefix[];
  /** At most one for each device, source and stand-in. */
  readonly routes: readonly Route[];
  /** Routes to addresses beyond all segments, for external names; keyed as `routes` are. */
  readonly outside: readonly Exit[];
  /** What of the router itself is open, beside what everybody needs. */
  readonly doors: readonly Door[];
  readonly guards: Guards;
  /** Copies the head of packets that are dropped to this NFLOG group. */
  readonly report?: { readonly group: number };
}

/**
 * Devices from which the same is asked. A device belongs to one segment. Routes are bound to their own device;
 * queries may come from any source of the segment by any of its devices.
 */
export interface Segment {
  /** For people. */
  readonly name: string;
  /** Where its packets come in: bridges, VLANs, veths; not the ports of a bridge. They need not be there yet. */
  readonly devices: readonly string[];
  /** Sources that are its own. Without any of a family nothing of that family but DHCP and discovery passes. */
  readonly prefixes: readonly Prefix[];
  /**
   * Queries over UDP and TCP to port 53 of whomever go to these ports of the router, and answers come from whom was
   * asked. The agent must listen on every address, for it is the device's own that they come to. Without a port for
   * a family, its queries are dropped.
   */
  readonly dns: { readonly port4?: number; readonly port6?: number };
  /** Nothing passes to ports 853 of UDP and TCP, even where a route is. */
  readonly dropEncryptedDns: boolean;
  /** Multicast DNS reaches the router, for its relay. */
  readonly mdns: boolean;
}

/** `source`, behind `device`, may begin to talk to `target`. */
export interface Route {
  /** Of a segment. */
  readonly device: string;
  /** Its real address. */
  readonly source: Address;
  /** Whom it writes to. */
  readonly standin: Address;
  /** Real address of whom it reaches. */
  readonly target: Address;
  /** Where the target is: of a segment, perhaps the same. Packets that would leave elsewhere are dropped. */
  readonly targetDevice: string;
  /** Whom the target sees, and answers. */
  readonly sourceStandin: Address;
  /** Everything if absent. ICMP errors about what passes always do. */
  readonly ports?: readonly Ports[];
}

/** `source` may begin to talk to `target`, which is reached by a device of no segment and sees no stand-in. */
export interface Exit {
  readonly device: string;
  readonly source: Address;
  readonly standin: Address;
  readonly target: Address;
  readonly ports?: readonly Ports[];
}

/** A TCP port of the router, at any of its addresses, for whoever is behind `device`, or for `source` there alone. */
export interface Door {
  /** Of a segment. */
  readonly device: string;
  readonly source?: Address;
  readonly port: number;
}

export type Ports =
  | {
      readonly protocol: "tcp" | "udp";
      /** Of the target, 1 to 65535. */
      readonly first: number;
      /** Not below `first`. */
      readonly last: number;
    }
  /** Echo, of the route's family. */
  | { readonly protocol: "icmp" };

/** What makes the router see every packet between services on one bridge. Set, verified, set again if lost. */
export interface Guards {
  /** Bridge ports that exchange frames with no other port that is listed, only with the bridge itself. */
  readonly isolatedPorts: readonly string[];
  /** Bridges that answer for the neighbours behind isolated ports (proxy_arp_pvlan). */
  readonly proxyArp: readonly string[];
}

export const emptyIsolation: IsolationPlan = {
  segments: [],
  pools: [],
  routes: [],
  outside: [],
  doors: [],
  guards: { isolatedPorts: [], proxyArp: [] },
};
