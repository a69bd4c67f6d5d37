/**
 * Ids that were merged away, and pairs that must not be merged.
 *
 * Kept by old id: what it brought along, so that a split can give it back; what its MACs and identities learn
 * later is added. A merge of merged nodes makes a tree: `via` is the id that one was poured into at first, `into`
 * the living node at the root. Kept by pair of ids: that the user parted them. Such a pair holds for the nodes that
 * the two ids mean, until the user merges those again.
 *
 * Nothing is told to anybody; roster.ts keeps the nodes' own lists of aliases in step.
 */

import type { Address, Mac } from "../lib/address.ts";
import { type Kind, type Node, USER_PIN } from "./node.ts";

/** Of the addresses that a node brings into another so many are remembered, the latest seen: a MAC tells the rest. */
const BROUGHT = 16;

/** An id that was merged away, with what is needed to part the two again. */
export interface Alias {
  readonly into: number;
  readonly via: number;
  readonly at: number;
  readonly kind: Kind;
  readonly macs: readonly Mac[];
  /** Those of its MACs that the other had, too. */
  readonly shared: readonly Mac[];
  readonly clients: readonly string[];
  readonly addresses: readonly Address[];
  readonly userName: string | undefined;
  readonly dhcpName: string | undefined;
  /** The other had no name of the user and took this one's. */
  readonly named: boolean;
  /** The user had pinned it. */
  readonly pinned: boolean;
  readonly firstAt: number;
  readonly firstDate: number | undefined;
}

/** What is kept of a node that is about to be poured into another. */
export function aliasOf(old: Node, into: Node, now: number): Alias {
  const { kind, macs, clients, userName, dhcpName, firstAt, firstDate } = old;
  const latest = [...old.addresses].sort(([, left], [, right]) => right.seenAt - left.seenAt);
  return {
    into: into.id,
    via: into.id,
    at: now,
    ...{ kind, macs, clients, userName, dhcpName, firstAt, firstDate },
    shared: macs.filter((mac) => into.macs.includes(mac)),
    addresses: latest.slice(0, BROUGHT).map(([address]) => address),
    named: userName !== undefined && into.userName === undefined,
    pinned: old.pins?.has(USER_PIN) === true,
  };
}

/** A MAC or DHCP identity. */
export type Tie = { readonly mac: Mac } | { readonly client: string };

export class Aliases {
  readonly #aliases = new Map<number, Alias>();
  /** "lower higher" → the two ids. */
  readonly #apart = new Map<string, readonly [number, number]>();
  readonly #most: { readonly apart: number; readonly macsPerNode: number };

  constructor(limits: { readonly apart: number; readonly macsPerNode: number }) {
    this.#most = limits;
  }

  get size(): number {
    return this.#aliases.size;
  }

  get(id: number): Alias | undefined {
    return this.#aliases.get(id);
  }

  set(id: number, alias: Alias): void {
    this.#aliases.set(id, alias);
  }

  entries(): IterableIterator<[number, Alias]> {
    return this.#aliases.entries();
  }

  /** Forgets an alias. What was poured into it counts as poured into what it was poured into. */
  delete(id: number, siblings: readonly number[]): void {
    const via = this.#aliases.get(id)?.via;
    this.#aliases.delete(id);
    if (via === undefined) return;
    for (const sibling of siblings) {
      const alias = this.#aliases.get(sibling);
      if (alias?.via === id) this.#aliases.set(sibling, { ...alias, via });
    }
  }

  /** Of a node's aliases those that came with one of them. */
  branch(id: number, siblings: readonly number[]): number[] {
    const branch = new Set([id]);
    for (let before = 0; before < branch.size; ) {
      before = branch.size;
      for (const each of siblings) if (branch.has(this.#aliases.get(each)?.via ?? 0)) branch.add(each);
    }
    branch.delete(id);
    return [...branch];
  }

  /** The aliases that one had become part of before, the nearest first. */
  ancestors(id: number): number[] {
    const ancestors: number[] = [];
    for (let via = this.#aliases.get(id)?.via; via !== undefined; via = this.#aliases.get(via)?.via) {
      // A file may have been edited into a circle.
      if (via === id || ancestors.includes(via)) break;
      if (this.#aliases.has(via)) ancestors.push(via);
    }
    return ancestors;
  }

  /** What was split off was not brought by these. */
  strip(ids: readonly number[], gone: Pick<Alias, "macs" | "clients" | "addresses">): void {
    for (const id of ids) {
      const alias = this.#aliases.get(id)!;
      this.#aliases.set(id, {
        ...alias,
        macs: alias.macs.filter((mac) => !gone.macs.includes(mac)),
        clients: alias.clients.filter((client) => !gone.clients.includes(client)),
        addresses: alias.addresses.filter((address) => !gone.addresses.includes(address)),
      });
    }
  }

  /** A MAC or identity of a node tied another to it: the aliases that brought the first take both along. */
  learn(node: { readonly aliases: readonly number[] | undefined }, by: Tie, gained: Tie): void {
    for (const id of node.aliases ?? []) {
      const alias = this.#aliases.get(id);
      if (!alias) continue;
      const isOf = "mac" in by ? alias.macs.includes(by.mac) : alias.clients.includes(by.client);
      if (!isOf) continue;
      const most = this.#most.macsPerNode;
      if ("mac" in gained) this.#aliases.set(id, { ...alias, macs: latest(alias.macs, gained.mac, most) });
      else this.#aliases.set(id, { ...alias, clients: latest(alias.clients, gained.client, most * 2) });
    }
  }

  // Pairs that the user parted.

  /** @returns the pairs, the oldest first. */
  pairs(): IterableIterator<readonly [number, number]> {
    return this.#apart.values();
  }

  part(one: number, other: number): void {
    if (this.#root(one) === this.#root(other)) return;
    const pair = one < other ? ([one, other] as const) : ([other, one] as const);
    this.#apart.delete(pair.join(" "));
    this.#apart.set(pair.join(" "), pair);
    const [oldest] = this.#apart.keys();
    if (this.#apart.size > this.#most.apart) this.#apart.delete(oldest!);
  }

  isApart(one: number, other: number): boolean {
    return this.#apart.size > 0 && this.apartFrom(one).includes(other);
  }

  /** The living nodes that a living node must not be merged with. */
  apartFrom(id: number): number[] {
    const others = new Set<number>();
    for (const [one, other] of this.#apart.values()) {
      const [left, right] = [this.#root(one), this.#root(other)];
      if (left === id && right !== id) others.add(right);
      if (right === id && left !== id) others.add(left);
    }
    return [...others];
  }

  /** The user merges two nodes: nothing parts them any more. */
  join(one: number, other: number): void {
    for (const [key, pair] of this.#apart) {
      const [left, right] = pair.map((each) => this.#root(each));
      if ((left === one && right === other) || (left === other && right === one)) this.#apart.delete(key);
    }
  }

  /** Ids that mean nothing any more; `heir` is what they meant, if it lives on. */
  retire(ids: readonly number[], heir?: number): void {
    if (this.#apart.size === 0) return;
    for (const [key, pair] of [...this.#apart]) {
      if (!pair.some((each) => ids.includes(each))) continue;
      this.#apart.delete(key);
      if (heir === undefined) continue;
      const [left, right] = pair.map((each) => (ids.includes(each) ? heir : each)) as [number, number];
      this.part(left, right);
    }
  }

  #root(id: number): number {
    return this.#aliases.get(id)?.into ?? id;
  }
}

/** With one more at the end, and no more than so many. */
function latest<Value>(values: readonly Value[], value: Value, most: number): readonly Value[] {
  return values.includes(value) ? values : [...values, value].slice(-most);
}
