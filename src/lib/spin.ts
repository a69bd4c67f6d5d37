/**
 * SPIN's JSON shapes, which its ubus and MQTT clients rely on. Field order is part of the shape.
 *
 * Source: SIDN SPIN at a5185b7, observed on the wire.
 */

/** SPIN's lists, in the order of their numbers. */
export const listNames = ["block", "ignore", "allow"] as const;
export type ListName = (typeof listNames)[number];

/** A node as SPIN shows it; `first-seen` and what follows are ours. */
export interface NodeInfo {
  readonly id: number;
  readonly name?: string;
  readonly mac?: string;
  readonly is_blocked?: boolean;
  readonly is_excepted?: boolean;
  /** Unix seconds. */
  readonly lastseen: number;
  /** IPv4 before IPv6, each by value. */
  readonly ips: readonly string[];
  /** Names with the trailing dot. */
  readonly domains: readonly string[];
}

/** One line of a `traffic` message: what passed between two nodes since the last one. */
export interface TrafficFlow {
  /** The node that opened the connection. */
  readonly from: number;
  readonly to: number;
  /** IP protocol number. */
  readonly protocol: number;
  readonly from_port: number;
  readonly to_port: number;
  /** Bytes, both directions. */
  readonly size: number;
  /** Packets, both directions. */
  readonly count: number;
}
