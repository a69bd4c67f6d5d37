/**
 * Claims of one device to an address that another has: who had it, who says it is his, and when.
 *
 * Kept by address: the last such claim and how many there were; the addresses least lately claimed are forgotten
 * past a limit. Told are (`take`) the first claim and then one a minute for each address, and so many a minute of
 * all: a thousand a second are one line.
 */

import type { Address, Mac } from "../lib/address.ts";

export interface Conflict {
  readonly address: Address;
  /** Id of the node that had it. */
  readonly holder: number;
  /** Who answers for it now. */
  readonly claimant: Mac;
  /** Monotonic milliseconds. */
  readonly at: number;
}

/** All claims to an address since the first that is remembered. */
export interface Dispute extends Conflict {
  readonly firstAt: number;
  readonly count: number;
}

interface Kept extends Dispute {
  readonly toldAt: number;
}

const DISPUTES = 128;
const TELL_MS = 60_000;

export class Conflicts {
  /** Claims, all in all. */
  count = 0;
  readonly #disputes = new Map<Address, Kept>();
  #untold: Conflict[] = [];
  /** Told in the minute that began then. */
  #told = 0;
  #toldSince = Number.NEGATIVE_INFINITY;

  note(conflict: Conflict): void {
    const { address, holder, at } = conflict;
    const before = this.#disputes.get(address);
    const same = before?.holder === holder ? before : undefined;
    // It went to the claimant, and who had it wants it back: the same dispute.
    if (before && !same && at - before.at < TELL_MS) return;
    this.count++;
    const isNew = !same || at - same.toldAt >= TELL_MS;
    this.#disputes.delete(address);
    this.#disputes.set(address, {
      ...conflict,
      firstAt: same?.firstAt ?? at,
      count: (same?.count ?? 0) + 1,
      toldAt: isNew ? at : same.toldAt,
    });
    const [oldest] = this.#disputes.keys();
    if (this.#disputes.size > DISPUTES) this.#disputes.delete(oldest!);
    if (!isNew) return;
    if (at - this.#toldSince >= TELL_MS) [this.#told, this.#toldSince] = [0, at];
    if (this.#told++ >= DISPUTES) return;
    this.#untold.push(conflict);
    if (this.#untold.length > DISPUTES) this.#untold.shift();
  }

  /** The disputes remembered, the least lately claimed first. */
  all(): Iterable<Dispute> {
    return this.#disputes.values();
  }

  /** A node was poured into another. */
  merge(old: number, into: number): void {
    for (const [address, dispute] of this.#disputes) {
      if (dispute.holder === old) this.#disputes.set(address, { ...dispute, holder: into });
    }
  }

  /** What is to be told since the last call. */
  take(): Conflict[] {
    const taken = this.#untold;
    this.#untold = [];
    return taken;
  }

  /** Forgets what was last claimed before an instant. */
  tick(before: number): void {
    for (const [address, { at }] of this.#disputes) if (at < before) this.#disputes.delete(address);
  }
}
