/**
 * The words of this room: an entry, what is wished of one, and the kernel as far as it can be steered.
 */

import type { Neighbour } from "../kernel/kernel.ts";
import { type Address, type Mac, scopeOf } from "../lib/address.ts";

/** The kernel's table, steered; each verb resolves when the kernel has taken the order. */
export interface Steer {
  use(ifindex: number, address: Address): Promise<void>;
  probe(ifindex: number, address: Address): Promise<void>;
  manage(ifindex: number, address: Address): Promise<void>;
  pin(ifindex: number, address: Address, mac: Mac): Promise<void>;
  remove(ifindex: number, address: Address): Promise<void>;
  read(ifindex: number, address: Address): Promise<Reading | undefined>;
  pinned(): Promise<readonly Reading[]>;
}

export interface Reading {
  readonly ifindex: number;
  readonly address: Address;
  readonly mac?: Mac;
  readonly state: Neighbour["state"];
  readonly confirmedAgoMs: number;
}

/** Where an entry comes from. "learned": somebody said so unasked, or nobody knows any more. */
export type Source = "solicited" | "learned" | "probed" | "permanent";

export interface Entry {
  readonly address: Address;
  readonly mac: Mac;
  readonly state: Neighbour["state"];
  readonly source: Source;
  /** Of the last answer known; undefined if that is for the kernel to say. */
  readonly confirmedAt: number | undefined;
  /** The owner itself answered when asked, and nobody else claims the address. */
  readonly verified: boolean;
  /** It forwards (IPv6). */
  readonly router: boolean;
}

export interface Wish {
  readonly timeoutMs: number;
  /** Nothing known is good enough: an answer from now on. */
  readonly fresh?: boolean;
  /** By packets of our own, whatever the kernel could do. */
  readonly byPacket?: boolean;
}

/** Whether an address can be one neighbour's. */
export function canBeNeighbour(address: Address): boolean {
  const scope = scopeOf(address);
  return scope === "link" || scope === "private" || scope === "global";
}
