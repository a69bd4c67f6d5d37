/**
 * What the user decided: pairs of nodes that may not speak, and SPIN's three lists of nodes and prefixes.
 *
 * Of a node nothing but its id is known here, so a decision follows it whatever addresses it has. Decisions are
 * kept as they were made, under the ids of that time, and stand under the ids of today (see merges.ts): pairs by
 * both living nodes, lists by the living node in them, prefixes by themselves. So a merge carries decisions over,
 * and when it is undone, each goes back where it came from; what was decided in between holds for both.
 * Changed by `set`, `list`, `merge`, `split`, `forget`, `reconcile`; the first two return how to take the change
 * back. Nobody is told.
 */

import type { End, Plan } from "../kernel/plan.ts";
import type { Address, Prefix } from "../lib/address.ts";
import type { Json } from "../lib/json.ts";
import { Nets } from "../lib/nets.ts";
import { type ListName, listNames } from "../lib/spin.ts";
import {
  type Decision,
  type Entry,
  eachList,
  hit,
  type Lists,
  type Member,
  type NetDecision,
  type Pair,
  type Place,
  pairOf,
  type Undo,
} from "./decision.ts";
import { Merges } from "./merges.ts";
import { Groups, type PolicyState, renderPolicy } from "./saved.ts";
import { type Load, Standings, sumOf } from "./standings.ts";

/** A dropped packet, as far as decisions are about it. */
export interface Stopped {
  readonly from: number | undefined;
  readonly to: number | undefined;
  readonly source?: Address | undefined;
  readonly destination?: Address | undefined;
  /** Monotonic milliseconds. */
  readonly at: number;
}

export interface Merged {
  /** Whether there is anything to enforce or to store. */
  readonly changed: boolean;
  /** Pairs that are none now because both ends are one node. */
  readonly dropped: readonly Pair[];
}

/** Merges that can be undone exactly; of older ones both nodes keep all decisions. */
const maxMerges = 4_096;

const byNumber = (left: number, right: number) => left - right;
const nothing: Merged = { changed: false, dropped: [] };

export class Policy {
  readonly #nets: Lists<Nets<NetDecision>> = eachList(() => new Nets());
  readonly #merges: Merges;
  readonly #standings: Standings;

  constructor(state?: PolicyState) {
    this.#merges = new Merges(state?.merged);
    this.#standings = new Standings((id) => this.#merges.root(id));
    for (const { by, epoch, pairs, lists } of state?.made ?? []) {
      for (const [one, other] of pairs) this.#standings.filePair(decide([one, other], { by, epoch }));
      for (const list of listNames) {
        for (const member of lists[list]) {
          if (typeof member === "number") this.#standings.fileNode(list, decide([member, 0], { by, epoch }));
          else this.#setNet(list, member, by);
        }
      }
    }
    // The rest has nothing to tell but where it stands: it is of no epoch, and of nobody.
    const plain = { by: "", epoch: 0 };
    for (const pair of state?.pairs ?? []) {
      if (!this.has(pair)) this.#standings.filePair(decide(pair, plain));
    }
    for (const list of listNames) {
      for (const id of state?.lists[list] ?? []) {
        if (!this.isListed(list, id)) this.#standings.fileNode(list, decide([id, 0], plain));
      }
      for (const prefix of state?.nets?.[list] ?? []) this.list({ list, member: prefix }, true);
    }
  }

  // Pairs and lists.

  /** How many pairs are blocked, and by how many decisions: more, where nodes with blocks became one. */
  get counters(): { readonly pairs: number; readonly pairDecisions: number } {
    return this.#standings.counters;
  }

  has([one, other]: Pair): boolean {
    return this.#standings.pair(one, other) !== undefined;
  }

  isListed(list: ListName, member: Member): boolean {
    if (typeof member === "number") return this.#standings.node(list, member) !== undefined;
    return this.#nets[list].get(member) !== undefined;
  }

  /** Whether an address lies in a prefix on a list. */
  covers(list: ListName, address: Address): boolean {
    return this.#nets[list].covers(address);
  }

  /** The blocked pairs, in order. */
  pairs(): Pair[] {
    return this.#standings.pairs();
  }

  /** The nodes that a node is cut off from, in order. */
  partners(id: number): number[] {
    return this.#standings.partners(id);
  }

  /** The nodes of a list, in order. */
  listed(list: ListName): number[] {
    return this.#standings.nodes(list);
  }

  /** The prefixes of a list, IPv4 first, each by value. */
  prefixes(list: ListName): Prefix[] {
    return this.#nets[list].entries().map(([prefix]) => prefix);
  }

  /** How many prefixes are on a list. */
  netsOn(list: ListName): number {
    return this.#nets[list].size;
  }

  /** A blocked pair with its author and hits. */
  pairEntry(pair: Pair): Entry | undefined {
    const standing = this.#standings.pair(pair[0], pair[1]);
    return standing && { kind: "pair", pair, ...sumOf(standing) };
  }

  nodeEntry(list: ListName, node: number): Entry | undefined {
    const standing = this.#standings.node(list, node);
    return standing && { kind: "node", list, node, ...sumOf(standing) };
  }

  /** The prefixes of a list: all, in order, or those that an address lies in. */
  netEntries(list: ListName, address?: Address): Entry[] {
    const nets = this.#nets[list];
    const found = address === undefined ? nets.entries() : nets.covering(address);
    return found.map(([prefix, decision]) => ({ kind: "net", list, prefix, ...decision }));
  }

  /** Blocks or unblocks a pair of living nodes. Undefined: it was so already. */
  set(pair: Pair, blocked: boolean, by = ""): Undo | undefined {
    if (this.has(pair) === blocked) return undefined;
    if (blocked) {
      const decision = decide(pair, { by, epoch: this.#merges.epoch });
      this.#standings.filePair(decision);
      return () => this.#standings.dropPair(decision);
    }
    const standing = this.#standings.takePair(pair[0], pair[1]);
    return () => {
      for (const decision of standing) this.#standings.filePair(decision);
    };
  }

  /** Puts a living node or a prefix on a list, or takes it off. Undefined: it was so already. */
  list({ list, member }: Place, listed: boolean, by = ""): Undo | undefined {
    if (this.isListed(list, member) === listed) return undefined;
    if (typeof member !== "number") return this.#setNet(list, member, listed ? by : undefined);
    if (listed) {
      const decision = decide([member, 0], { by, epoch: this.#merges.epoch });
      this.#standings.fileNode(list, decision);
      return () => this.#standings.dropNode(list, decision);
    }
    const standing = this.#standings.takeNode(list, member);
    return () => {
      for (const decision of standing) this.#standings.fileNode(list, decision);
    };
  }

  /** Counts a dropped packet on every decision that forbids it. */
  stopped({ from, to, source, destination, at }: Stopped): void {
    if (from !== undefined && to !== undefined) hit(this.#standings.pair(from, to)?.[0], at);
    if (from !== undefined) hit(this.#standings.node("block", from)?.[0], at);
    if (to !== undefined && to !== from) hit(this.#standings.node("block", to)?.[0], at);
    const nets = this.#nets.block;
    if (nets.size === 0) return;
    const found = [source, destination].flatMap((each) => (each === undefined ? [] : nets.covering(each)));
    for (const decision of new Set(found.map(([, each]) => each))) hit(decision, at);
  }

  // Merges.

  /** Node `old` has become part of node `id`: what was decided about it now stands on that one. */
  merge(old: number, id: number): Merged {
    if (old === id || this.#merges.root(old) === id) return nothing;
    // Whoever takes part in a merge lives: if we took it for a part of another, we missed a split.
    for (const each of [old, id]) if (this.#merges.has(each)) this.split(each, this.#merges.root(each));
    // Where nothing is decided, nothing can be told apart later: all decisions will have come after the merge.
    const isKnown =
      this.#standings.isNamed(old) || this.#standings.isNamed(id) || this.#merges.isSuccessor(old);
    if (!isKnown) return nothing;
    const dropped = this.has(pairOf(old, id)) ? [pairOf(old, id)] : [];
    const load = this.#standings.unload(old);
    this.#merges.add(old, id);
    this.#standings.file(load);
    while (this.#merges.size > maxMerges) this.forget(this.#merges.oldest()!);
    return { changed: true, dropped };
  }

  /**
   * Node `old` is no part of node `id` any more. It gets back what was decided about it, and that ends for `id`;
   * what was decided since they became one holds for both. Of a merge that is not known (any more), all decisions
   * do.
   *
   * @returns whether there is anything to enforce or to store.
   */
  split(old: number, id: number): boolean {
    const path = this.#merges.path(old);
    const root = path.at(-1)?.into ?? this.#merges.root(id);
    if (root === old) return false;
    const load = this.#standings.unload(root);
    const since = new Map(path.map(({ into, epoch }) => [into, epoch]));
    const isShared = (node: number, epoch: number) =>
      path.length > 0
        ? epoch >= (since.get(node) ?? Number.POSITIVE_INFINITY)
        : this.#merges.root(node) === root;
    const copy = ({ one, other, by, epoch }: Decision): Decision[] =>
      [
        [one, other],
        [other, one],
      ].flatMap(([end, rest]) =>
        end !== 0 && rest !== old && isShared(end!, epoch)
          ? decide(rest === 0 ? [old, 0] : pairOf(old, rest!), { by, epoch: this.#merges.epoch })
          : [],
      );
    // What sleeps in a node is about its parts; of parts that are not known nothing can be said.
    const isAwake = ({ one, other }: Decision) => this.#merges.root(one) !== this.#merges.root(other);
    const copies: Load = {
      pairs: load.pairs.filter((each) => path.length > 0 || isAwake(each)).flatMap(copy),
      lists: eachList((list) => load.lists[list].flatMap(copy)),
    };
    this.#merges.cut(old);
    this.#standings.file(load);
    this.#standings.file(copies);
    // If it was a part of another than we knew, it keeps what both had.
    if (path.length > 0 && this.#merges.root(id) !== root) this.split(old, id);
    return path.length > 0 || this.#standings.isNamed(old);
  }

  /** A merged id will never come back: its decisions become those of the node that it went into. */
  forget(old: number): boolean {
    if (!this.#merges.has(old)) return false;
    const load = this.#standings.unload(this.#merges.root(old));
    const into = this.#merges.forget(old);
    const rename = (decision: Decision): Decision[] => {
      const { one, other } = decision;
      if (one !== old && other !== old) return [decision];
      if (other === 0) return [{ ...decision, one: into }];
      const rest = one === old ? other : one;
      if (rest === into) return [];
      const [low, high] = pairOf(into, rest);
      return [{ ...decision, one: low, other: high }];
    };
    this.#standings.file({
      pairs: load.pairs.flatMap(rename),
      lists: eachList((list) => load.lists[list].flatMap(rename)),
    });
    return true;
  }

  /**
   * Brings merges in line with the nodes as they are, after a crash between two saves.
   *
   * @param livingOf the living node behind an id; undefined if there is none.
   * @returns whether there is anything to enforce or to store.
   */
  reconcile(livingOf: (id: number) => number | undefined): boolean {
    const known = new Set(this.#merges.all().flatMap(({ old, into }) => [old, into]));
    for (const id of this.pinned()) known.add(id);
    let changed = false;
    for (const id of known) {
      const living = livingOf(id);
      const root = this.#merges.root(id);
      if (living === undefined || living === root) continue;
      if (this.#merges.has(id)) this.split(id, root);
      if (living !== id) this.merge(id, living);
      changed = true;
    }
    return changed;
  }

  // What others need.

  /** Every living node that a decision names: it must not be forgotten. */
  pinned(): Set<number> {
    return this.#standings.ids();
  }

  /**
   * What the kernel shall enforce. A node without any address or MAC cannot be matched: it is left out, its
   * decisions stay and count as soon as it has one.
   *
   * @param endOf the node of an id as packets show it, with that same id; undefined if there is none.
   */
  plan(endOf: (id: number) => End | undefined): Plan {
    const ends = new Map<number, End | undefined>();
    const takesPart = (id: number) => {
      if (!ends.has(id)) {
        const end = endOf(id);
        ends.set(id, end && (end.addresses.length > 0 || end.macs.length > 0) ? end : undefined);
      }
      return ends.get(id) !== undefined;
    };
    const pairs = this.pairs().filter(([one, other]) => takesPart(one) && takesPart(other));
    const barred = this.listed("block").filter(takesPart);
    const exempt = this.listed("allow").filter(takesPart);
    const named = new Set([...pairs.flat(), ...barred, ...exempt]);
    const [barredNets, exemptNets] = [this.prefixes("block"), this.prefixes("allow")];
    return {
      ends: [...named].sort(byNumber).map((id) => ends.get(id)!),
      pairs,
      barred,
      exempt,
      ...(barredNets.length > 0 && { barredNets }),
      ...(exemptNets.length > 0 && { exemptNets }),
    };
  }

  /** The state for a store. */
  save(): Json {
    const merged = this.#merges.all();
    const state = { pairs: this.pairs(), lists: eachList((list) => this.listed(list)) };
    const made = new Groups(Math.min(...merged.map((each) => each.epoch)));
    for (const [one, other] of state.pairs) {
      for (const each of made.telling(this.#standings.pair(one, other)!, one, other))
        made.of(each).pairs.push([each.one, each.other]);
    }
    for (const each of this.#standings.sleeping()) made.of(each).pairs.push([each.one, each.other]);
    for (const list of listNames) {
      for (const id of state.lists[list]) {
        for (const each of made.telling(this.#standings.node(list, id)!, id, 0))
          made.of(each).lists[list].push(each.one);
      }
      for (const [prefix, { by }] of this.#nets[list].entries()) {
        if (by !== "") made.of({ by, epoch: 0 }).lists[list].push(prefix);
      }
    }
    const nets = eachList((list) => this.prefixes(list));
    return renderPolicy({ ...state, nets, merged, made: made.all() });
  }

  /** Lists a prefix in somebody's name, or takes it off if `by` is undefined. */
  #setNet(list: ListName, prefix: Prefix, by: string | undefined): Undo {
    const nets = this.#nets[list];
    const before = nets.get(prefix);
    const put = (decision: NetDecision | undefined) => {
      if (decision) nets.set(prefix, decision);
      else nets.delete(prefix);
    };
    put(by === undefined ? undefined : { by, hits: 0, lastHitAt: undefined });
    return () => put(before);
  }
}

function decide([one, other]: Pair, { by, epoch }: { by: string; epoch: number }): Decision {
  return { one, other, by, epoch, hits: 0, lastHitAt: undefined };
}
