/**
 * Peers as the book counts them: which mappings are whose, least recently used first, and who may make more.
 *
 * A peer is a context address; all local hosts together are one, too. Kept by context: a slot, and in three lists the
 * records that only its packets made, those that our own hosts asked for by name, and those at rest. A peer is here as
 * long as it has any.
 */

import type { Address } from "../lib/address.ts";
import { Lists } from "./lists.ts";

/** Who wants a mapping: a packet from a remote gateway, or a name that somebody of ours asked for. */
export type Asker = "packet" | "name";

export interface Peer {
  readonly slot: number;
  /** Undefined: the local hosts. */
  readonly context: Address | undefined;
  /** When it will have paid for all the mappings that its packets made. */
  paidAt: number;
}

/** In which list a record is. */
export type Where = "packet" | "name" | "rest";

const order: readonly Where[] = ["packet", "name", "rest"];

/** New mappings of a peer's packets: so many at once, and then one in this time. */
export const pace = { burst: 1_024, everyMs: 10 } as const;

export class Peers {
  readonly locals: Peer = { slot: 0, context: undefined, paidAt: Number.NEGATIVE_INFINITY };
  readonly #slots: (Peer | undefined)[];
  readonly #free: number[] = [];
  readonly #byContext = new Map<Address, Peer>();
  readonly #lists: Lists;

  constructor(highestRecord: number, maxPeers: number) {
    this.#slots = [this.locals];
    for (let slot = maxPeers; slot > 0; slot--) this.#free.push(slot);
    this.#lists = new Lists(highestRecord, (maxPeers + 1) * order.length);
  }

  /** How many there are, the local hosts apart. */
  get count(): number {
    return this.#byContext.size;
  }

  all(): IterableIterator<Peer> {
    return this.#byContext.values();
  }

  get(context: Address): Peer | undefined {
    return this.#byContext.get(context);
  }

  at(slot: number): Peer {
    return this.#slots[slot]!;
  }

  /** A new peer; undefined if there are as many as may be. It stays if it gets a record before the next `settle`. */
  add(context: Address): Peer | undefined {
    const slot = this.#free.pop();
    if (slot === undefined) return undefined;
    const peer: Peer = { slot, context, paidAt: Number.NEGATIVE_INFINITY };
    this.#slots[slot] = peer;
    this.#byContext.set(context, peer);
    return peer;
  }

  /** Forgets a peer that has nothing. */
  settle(peer: Peer): void {
    if (peer === this.locals || this.length(peer, "packet", "name", "rest") > 0) return;
    if (this.#byContext.get(peer.context!) !== peer) return;
    this.#byContext.delete(peer.context!);
    this.#slots[peer.slot] = undefined;
    this.#free.push(peer.slot);
  }

  /** Puts a record at the end of a list of a peer, out of whichever it was in. */
  put(record: number, peer: Peer, where: Where): void {
    this.#lists.append(record, listOf(peer, where));
  }

  /** Takes a record out of its list. */
  take(record: number): void {
    this.#lists.remove(record);
  }

  /** The record of a list that was put there first; 0: there is none. */
  first(peer: Peer, where: Where): number {
    return this.#lists.first(listOf(peer, where));
  }

  /** Any record of a peer; 0: it has none. */
  firstOf(peer: Peer): number {
    return this.first(peer, "rest") || this.first(peer, "packet") || this.first(peer, "name");
  }

  last(peer: Peer, where: Where): number {
    return this.#lists.last(listOf(peer, where));
  }

  length(peer: Peer, ...wheres: readonly Where[]): number {
    return wheres.reduce((sum, where) => sum + this.#lists.length(listOf(peer, where)), 0);
  }

  /** Who has most in a list, or in several; undefined: nobody has any. */
  most(...wheres: readonly Where[]): Peer | undefined {
    let best: Peer | undefined;
    let most = 0;
    for (const peer of [this.locals, ...this.#byContext.values()]) {
      const length = this.length(peer, ...wheres);
      if (length > most) [best, most] = [peer, length];
    }
    return best;
  }

  /**
   * Who of peers without names can go: one that has nothing but what rests, else who was idle for longest.
   *
   * @param usedAt of each record.
   * @param sinceAt whoever was used later stays.
   */
  idlest(unnamed: readonly Peer[], usedAt: Float64Array, sinceAt: number): Peer | undefined {
    let idlest: Peer | undefined;
    let idleAt = sinceAt;
    for (const peer of unnamed) {
      const last = this.last(peer, "packet");
      if (last === 0) return peer;
      if (usedAt[last]! <= idleAt) [idlest, idleAt] = [peer, usedAt[last]!];
    }
    return idlest;
  }

  /** Whether packets of a peer may make one more mapping now; it counts. */
  pays(peer: Peer, now: number): boolean {
    const paidAt = Math.max(peer.paidAt, now - pace.burst * pace.everyMs) + pace.everyMs;
    if (paidAt > now) return false;
    peer.paidAt = paidAt;
    return true;
  }
}

function listOf({ slot }: Peer, where: Where): number {
  return slot * order.length + order.indexOf(where);
}
