/**
 * Who was given whom: pairs of names, each with what either side may begin.
 *
 * Kept by name and by the other name, so that everything of a service is found at once; and pairs of the
 * configuration that were disconnected since, so that a restart does not bring them back. A pair needs nobody to be
 * there: it takes effect whenever both sides are. Giving is adding: what was given twice, in whatever order, is what
 * either said. Nothing here fails half-way, so the same connect can be said again and again.
 */

import { Fault } from "../lib/fault.ts";
import { type Permission, samePermission, united } from "./permission.ts";

export type Direction = "both" | "out" | "in";

export const directions: readonly Direction[] = ["both", "out", "in"];

export interface Sides {
  /** What the lesser name may begin with the other. */
  readonly forward: Permission | undefined;
  readonly backward: Permission | undefined;
}

/** Two names, the lesser first; immutable, so that what was drawn from it can be kept by it. */
export interface Pair extends Sides {
  readonly one: string;
  readonly other: string;
  /** The part that was asked for by calls, and is stored; the rest is the configuration's. */
  readonly asked: Sides | undefined;
}

/** What one name is given with another. */
export interface Gift {
  readonly name: string;
  readonly peer: string;
  readonly direction: Direction;
  readonly permission: Permission;
}

export class Connects {
  readonly #byName = new Map<string, Map<string, Pair>>();
  readonly #max: number;
  /** Pairs of the configuration that were cut; what calls give them since is theirs alone. */
  readonly #cut = new Set<string>();
  #size = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get size(): number {
    return this.#size;
  }

  *all(): Iterable<Pair> {
    for (const [name, pairs] of this.#byName) {
      for (const pair of pairs.values()) if (pair.one === name) yield pair;
    }
  }

  /** Pairs of the configuration that do not hold. */
  get cut(): Iterable<readonly [string, string]> {
    return [...this.#cut].map((key) => key.split(" ") as [string, string]);
  }

  of(name: string): Iterable<Pair> {
    return this.#byName.get(name)?.values() ?? [];
  }

  has(name: string): boolean {
    return this.#byName.has(name);
  }

  get(name: string, peer: string): Pair | undefined {
    return this.#byName.get(name)?.get(peer);
  }

  /** What a name may begin with another. */
  permission(from: string, to: string): Permission | undefined {
    const pair = this.get(from, to);
    return pair && (pair.one === from ? pair.forward : pair.backward);
  }

  /** @returns how to take it back. @throws Fault "limit" if there are as many pairs as are allowed. */
  connect(gift: Gift): () => void {
    const before = this.get(gift.name, gift.peer);
    if (!before && this.#size >= this.#max) {
      throw new Fault("limit", `Cannot connect ${gift.name}: there are ${this.#max} pairs already`);
    }
    const [one, other] = ordered(gift.name, gift.peer);
    const asked = widened(gift, before?.asked);
    const pair = { one, other, ...widened(gift, before), asked };
    if (!before || !samePair(before, pair)) this.#put(pair);
    return () => {
      if (before) this.#put(before);
      else this.#drop(pair);
    };
  }

  /** Takes in a pair of the configuration, unless it was cut; of what else is known of it nothing is lost. */
  configure(gift: Gift): void {
    const [one, other] = ordered(gift.name, gift.peer);
    if (this.#cut.has(keyOf(one, other)) || this.#size >= this.#max) return;
    const before = this.get(one, other);
    this.#put({ one, other, ...widened(gift, before), asked: before?.asked });
  }

  /** Takes in a pair of an earlier life. */
  restore(pair: Pair): void {
    if (this.#size < this.#max) this.#put(pair);
  }

  /** Takes in a cut of an earlier life; those that the configuration does not know any more are forgotten. */
  restoreCut(one: string, other: string): void {
    this.#cut.add(keyOf(...ordered(one, other)));
  }

  /**
   * Ends the pair with one peer, or all of a name.
   *
   * @param configured whether the configuration says a pair, so that ending it has to be remembered.
   * @returns what ended, and how to take that back.
   */
  disconnect(
    name: string,
    peer: string | undefined,
    configured: (one: string, other: string) => boolean,
  ): { readonly ended: readonly Pair[]; undo(): void } {
    const pair = peer === undefined ? undefined : this.get(name, peer);
    const ended = peer === undefined ? [...this.of(name)] : pair ? [pair] : [];
    const cut: string[] = [];
    for (const each of ended) {
      this.#drop(each);
      const key = keyOf(each.one, each.other);
      if (configured(each.one, each.other) && !this.#cut.has(key)) cut.push(key);
    }
    for (const key of cut) this.#cut.add(key);
    return {
      ended,
      undo: () => {
        for (const key of cut) this.#cut.delete(key);
        for (const each of ended) this.#put(each);
      },
    };
  }

  #put(pair: Pair): void {
    if (!this.get(pair.one, pair.other)) this.#size++;
    this.#side(pair.one).set(pair.other, pair);
    this.#side(pair.other).set(pair.one, pair);
  }

  #drop({ one, other }: Pair): void {
    if (!this.get(one, other)) return;
    this.#size--;
    for (const [name, peer] of [
      [one, other],
      [other, one],
    ] as const) {
      const side = this.#side(name);
      side.delete(peer);
      if (side.size === 0) this.#byName.delete(name);
    }
  }

  #side(name: string): Map<string, Pair> {
    const side = this.#byName.get(name) ?? new Map<string, Pair>();
    this.#byName.set(name, side);
    return side;
  }
}

function ordered(name: string, peer: string): [string, string] {
  return name < peer ? [name, peer] : [peer, name];
}

/** No name has a space. */
function keyOf(one: string, other: string): string {
  return `${one} ${other}`;
}

function widened(gift: Gift, before: Sides | undefined): Sides {
  const lesser = gift.name < gift.peer;
  const side = (which: keyof Sides) => {
    const isGiven =
      gift.direction === "both" || (gift.direction === "out") === (lesser === (which === "forward"));
    return isGiven ? united(before?.[which], gift.permission) : before?.[which];
  };
  return { forward: side("forward"), backward: side("backward") };
}

function samePair(left: Pair, right: Pair): boolean {
  const sameSides = (one: Sides | undefined, other: Sides | undefined) =>
    one === other ||
    (samePermission(one?.forward, other?.forward) && samePermission(one?.backward, other?.backward));
  return (
    sameSides(left, right) &&
    (left.asked === undefined) === (right.asked === undefined) &&
    sameSides(left.asked, right.asked)
  );
}
