/**
 * What the forwarding thread counts, in memory that its owner reads while it counts.
 *
 * One number per name, only ever growing, kept over a restart of the thread. Reasons for drops (drops.ts) are counted
 * for each direction. A number of 64 bits may be read while half of it is written on a machine of 32: who reads takes
 * two equal looks.
 */

import { dropNames } from "./drops.ts";

/** Names in the order of their numbers. */
export const countNames = [
  /** Packets into the tunnel and their bytes there; of a super-packet, each segment. */
  "outPackets",
  "outBytes",
  /** Packets out of the tunnel and their bytes there. */
  "inPackets",
  "inBytes",
  /** Super-packets split, and joined. */
  "split",
  "joined",
  /** Errors told to hosts of the LAN, and to peers. */
  "outAnswers",
  "inAnswers",
  /** Mappings asked of the owner; packets that waited for one; those that waited in vain or found no room. */
  "asked",
  "held",
  "lapsed",
  /** Packets that the kernel did not take: no room in the socket, no way to the peer, anything else; the TUN. */
  "full",
  "unreachable",
  "failed",
  "tunFailed",
  /** Messages of the network that a peer or a path is gone (ICMP), and those that a packet was too long. */
  "gone",
  "tooLong",
  /** Datagrams cut off or from no address that we read. */
  "odd",
  /** Peers' ports that changed. */
  "ports",
] as const;

export type CountName = (typeof countNames)[number];

/** Name → number. */
export const Count = Object.fromEntries(countNames.map((name, index) => [name, index])) as {
  readonly [Name in CountName]: number;
};

const total = countNames.length + 2 * dropNames.length;

export class Counts {
  /** Drops by reason, for the forwarders to count in. */
  readonly dropsOut: Float64Array;
  readonly dropsIn: Float64Array;
  readonly #numbers: Float64Array;

  /** @param buffer what `Counts.memory` made, perhaps in another thread. */
  constructor(buffer: SharedArrayBuffer) {
    this.#numbers = new Float64Array(buffer);
    if (this.#numbers.length !== total) throw new RangeError("Cannot count: the memory has another size");
    const middle = countNames.length + dropNames.length;
    this.dropsOut = this.#numbers.subarray(countNames.length, middle);
    this.dropsIn = this.#numbers.subarray(middle);
  }

  static memory(): SharedArrayBuffer {
    return new SharedArrayBuffer(total * 8);
  }

  add(which: number, amount: number): void {
    this.#numbers[which]! += amount;
  }

  get(name: CountName): number {
    return this.#read(Count[name]);
  }

  /** Everything counted, and the drops by reason as far as there were any. */
  all(): {
    readonly counts: Readonly<Record<CountName, number>>;
    readonly dropsOut: Readonly<Record<string, number>>;
    readonly dropsIn: Readonly<Record<string, number>>;
  } {
    const counts = Object.fromEntries(countNames.map((name, index) => [name, this.#read(index)]));
    const drops = (from: number) =>
      Object.fromEntries(
        dropNames
          .map((name, index) => [name, this.#read(from + index)] as const)
          .filter(([, count]) => count > 0),
      );
    return {
      counts: counts as Record<CountName, number>,
      dropsOut: drops(countNames.length),
      dropsIn: drops(countNames.length + dropNames.length),
    };
  }

  #read(index: number): number {
    for (let look = 0; ; look++) {
      const value = this.#numbers[index]!;
      if (value === this.#numbers[index] || look === 8) return value;
    }
  }
}
