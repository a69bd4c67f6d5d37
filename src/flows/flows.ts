/**
 * Flows: who speaks with whom, and who may not.
 *
 * Joins the ledger (what passed, by connection), the reports (what was dropped) and the policy (blocked pairs and
 * SPIN's lists of nodes and prefixes). A decision is answered when it is enforced and durable (see turns.ts): the
 * agent is asked to commit, which is to tell the kernel and save the stores. Whoever passed `changed` hears of
 * every node and list whose blocks or marks may look different now.
 */

import type { End, Plan } from "../kernel/plan.ts";
import type { Address, Prefix } from "../lib/address.ts";
import type { Json } from "../lib/json.ts";
import { type ListName, listNames, type TrafficFlow } from "../lib/spin.ts";
import { AddressLists } from "./addresslists.ts";
import { authorOf, type Entry, type Pair, pairOf } from "./decision.ts";
import { type Explanation, explain, type Party } from "./explain.ts";
import { type Activity, type FlowRecord, Ledger } from "./ledger.ts";
import { type Merged, Policy } from "./policy.ts";
import { type Dropped, type DroppedCounters, Reports } from "./reports.ts";
import { maxPolicyBytes, type PolicyState, parsePolicy, policyVersion } from "./saved.ts";
import { type Applied, type Outcome, Turns } from "./turns.ts";

export type { Entry, Pair } from "./decision.ts";
export type { Explanation, Party } from "./explain.ts";
export type { Activity, FlowRecord } from "./ledger.ts";
export { flowMethods, spinMethods } from "./methods.ts";
export type { Merged } from "./policy.ts";
export type { Dropped } from "./reports.ts";
export type { Outcome } from "./turns.ts";

/** For the store: what `save` returns, and how it is read. */
export const flowsFormat = { version: policyVersion, parse: parsePolicy, maxBytes: maxPolicyBytes };

export interface FlowsOptions {
  /** The living node behind an id, itself or what it was merged into; undefined if there is none. */
  resolve(id: number): number | undefined;
  /** The addresses that a living node has now. Without it, lists of nodes and of addresses are kept apart. */
  addressesOf?(id: number): readonly Address[];
  /**
   * Enforces `plan` and makes `save` durable.
   * @throws Fault "storage" if it is enforced and only not durable; any other means not enforced.
   */
  commit(): Promise<void>;
  /** Told after each change that holds, and after one was taken back. */
  changed?(nodes: readonly number[], lists: readonly ListName[]): void;
  /** Flow records kept. Default 8,192. */
  readonly maxRecords?: number;
  /** Lines of a traffic message. Default 1,000. */
  readonly maxTraffic?: number;
  /** Idle time after which a record is dropped. Default 30 minutes, as SPIN. */
  readonly idleMs?: number;
  /** Pairs that may be blocked. Default 20,000. */
  readonly maxBlocks?: number;
  /** Prefixes on each list. Default 10,000. */
  readonly maxNets?: number;
  /** Lines of `takeBlocked` with ports, and lines without. Default 8 and 32. */
  readonly maxBlockedDetailed?: number;
  readonly maxBlockedSummed?: number;
  /** From one handing out of blocked lines to the next. Default 400 ms. */
  readonly blockedPeriodMs?: number;
  /** Any 32-bit number; unguessable, so that nobody can choose flows that make look-ups slow. Default 0. */
  readonly seed?: number;
}

/** What can be decided. @throws Fault see FlowsOptions.commit, from each of them */
export interface Decisions {
  /** Cuts two nodes off from each other. */
  block(one: number, other: number): Promise<Outcome>;
  /** Lets two nodes speak again. */
  unblock(one: number, other: number): Promise<Outcome>;
  /** Puts a node on a list, or takes it off, together with the addresses on the list that it has now. */
  list(list: ListName, node: number, listed: boolean): Promise<Outcome>;
  /**
   * Puts a prefix on a list, or takes it off. If an address that is taken off is one of a node on the list, the
   * node goes and its other addresses stay, as SPIN's users expect of a list of addresses.
   */
  listNet(list: ListName, prefix: Prefix, listed: boolean): Promise<Outcome>;
  /** Makes these the whole ignore list. */
  resetIgnore(prefixes: readonly Prefix[]): Promise<Outcome>;
}

export class Flows implements Decisions {
  readonly #options: FlowsOptions;
  readonly #policy: Policy;
  readonly #ledger: Ledger;
  readonly #reports: Reports;
  readonly #turns: Turns;
  readonly #lists: AddressLists;
  readonly #maxBlocks: number;
  /** Merges since the turn under way began. */
  readonly #merges = new Map<number, number>();

  constructor(options: FlowsOptions, state?: PolicyState) {
    this.#options = options;
    this.#policy = new Policy(state);
    this.#lists = new AddressLists(this.#policy, {
      addressesOf: (id) => options.addressesOf?.(id) ?? [],
      maxNets: options.maxNets ?? 10_000,
    });
    this.#maxBlocks = options.maxBlocks ?? 20_000;
    const { seed = 0 } = options;
    this.#ledger = new Ledger({
      maxRecords: options.maxRecords ?? 8_192,
      maxTraffic: options.maxTraffic ?? 1_000,
      idleMs: options.idleMs ?? 30 * 60_000,
      seed,
    });
    this.#reports = new Reports({
      maxDetailed: options.maxBlockedDetailed ?? 8,
      maxSummed: options.maxBlockedSummed ?? 32,
      periodMs: options.blockedPeriodMs ?? 400,
      seed,
    });
    this.#turns = new Turns({
      commit: () => options.commit(),
      settled: (applied) => this.#tell(applied),
      begun: () => this.#merges.clear(),
      // What was taken back may name an id that was merged away meanwhile: it goes where that one went.
      takenBack: () => {
        for (const [old, id] of this.#merges) this.#policy.merge(old, id);
      },
    });
  }

  /** Figures for the status page. */
  get counters(): {
    readonly records: number;
    readonly evicted: number;
    readonly missed: number;
    readonly blocks: number;
    readonly dropped: DroppedCounters;
  } {
    const { pairs } = this.#policy.counters;
    return { ...this.#ledger.counters, blocks: pairs, dropped: this.#reports.counters };
  }

  // What passed, and what was dropped.

  /** Books what passed on a connection. Traffic that the ignore list hides is booked but not shown. Never throws. */
  account(activity: Activity): void {
    const { from, to, source, destination } = activity;
    this.#ledger.account(activity, !this.#isIgnored(from, source) && !this.#isIgnored(to, destination));
  }

  /** Books a packet that the kernel dropped, in reports and as a hit of what forbids it. Never throws. */
  report(packet: Dropped): void {
    const { from, to, source, destination } = packet;
    this.#policy.stopped(packet);
    this.#reports.add(packet, !this.#isIgnored(from, source) && !this.#isIgnored(to, destination));
  }

  /** Whether the ignore list hides what these nodes or addresses have part in. */
  isHidden(nodes: readonly number[], addresses: readonly Address[] = []): boolean {
    return (
      nodes.some((id) => this.#isIgnored(id, undefined)) ||
      addresses.some((address) => this.#isIgnored(undefined, address))
    );
  }

  /** Forgets records that were idle for too long. */
  tick(now: number): void {
    this.#ledger.expire(now);
  }

  /** Records of a node, or all, up to a limit; the latest active first. */
  records(node?: number, limit?: number): FlowRecord[] {
    return this.#ledger.list(node, limit);
  }

  /** How many records a node has, or how many there are. */
  recordCount(node?: number): number {
    return this.#ledger.count(node);
  }

  /** The lines of the next traffic message; they are handed out once. */
  takeTraffic(): TrafficFlow[] {
    return this.#ledger.takeTraffic();
  }

  /** The lines of the next `blocked` messages, one each; they are handed out once, a few times a second. */
  takeBlocked(now: number): TrafficFlow[] {
    return this.#reports.take(now);
  }

  // Decisions.

  /** The same decisions in somebody's name, which is kept with them and shown by `explain`. */
  as(name: string): Decisions {
    const by = authorOf(name);
    const decide = (apply: () => Applied) => this.#turns.decide(apply);
    return {
      block: (one, other) => decide(() => this.#setPair([one, other], by)),
      unblock: (one, other) => decide(() => this.#setPair([one, other], undefined)),
      list: (list, node, listed) =>
        decide(() => {
          const isLeft = !listed && this.#policy.isListed(list, node);
          const id = this.#options.resolve(node) ?? (isLeft ? node : undefined);
          if (id === undefined) return { outcome: { kind: "unknown", id: node } };
          return this.#lists.setNode({ list, member: id }, listed ? by : undefined);
        }),
      listNet: (list, prefix, listed) =>
        decide(() => this.#lists.setNet({ list, member: prefix }, listed ? by : undefined)),
      resetIgnore: (prefixes) => decide(() => this.#lists.reset("ignore", prefixes, by)),
    };
  }

  block(one: number, other: number): Promise<Outcome> {
    return this.as("").block(one, other);
  }

  unblock(one: number, other: number): Promise<Outcome> {
    return this.as("").unblock(one, other);
  }

  list(list: ListName, node: number, listed: boolean): Promise<Outcome> {
    return this.as("").list(list, node, listed);
  }

  listNet(list: ListName, prefix: Prefix, listed: boolean): Promise<Outcome> {
    return this.as("").listNet(list, prefix, listed);
  }

  resetIgnore(prefixes: readonly Prefix[]): Promise<Outcome> {
    return this.as("").resetIgnore(prefixes);
  }

  // Looking.

  /** The living node behind an id; undefined if there is none. */
  resolve(id: number): number | undefined {
    return this.#options.resolve(id);
  }

  /** The blocked pairs, in order. */
  pairs(): Pair[] {
    return this.#policy.pairs();
  }

  /** The blocked pairs of a living node, or all, in order, with authors and hits. */
  pairEntries(node?: number): Entry[] {
    const pairs =
      node === undefined
        ? this.#policy.pairs()
        : this.#policy.partners(node).map((partner) => pairOf(node, partner));
    return pairs.flatMap((pair) => this.#policy.pairEntry(pair) ?? []);
  }

  /** Whether two living nodes are cut off from each other as a pair. */
  isBlocked(one: number, other: number): boolean {
    return this.#policy.has([one, other]);
  }

  /** The nodes of a list, in order. */
  listed(list: ListName): number[] {
    return this.#policy.listed(list);
  }

  isListed(list: ListName, id: number): boolean {
    return this.#policy.isListed(list, id);
  }

  /** The nodes and the prefixes of a list, each in order. */
  entries(list: ListName): { readonly nodes: readonly number[]; readonly prefixes: readonly Prefix[] } {
    return { nodes: this.#policy.listed(list), prefixes: this.#policy.prefixes(list) };
  }

  /** The same with authors and hits. */
  listEntries(list: ListName): Entry[] {
    const nodes = this.#policy.listed(list).flatMap((id) => this.#policy.nodeEntry(list, id) ?? []);
    return [...nodes, ...this.#policy.netEntries(list)];
  }

  /** A list as SPIN shows it: addresses, of its nodes too, IPv4 first, each by value; wider prefixes with length. */
  spinList(list: ListName): string[] {
    return this.#lists.show(list);
  }

  /** The prefixes on a list that an address lies in. */
  covering(list: ListName, address: Address): Prefix[] {
    const entries = this.#policy.netEntries(list, address);
    return entries.flatMap((each) => (each.kind === "net" ? each.prefix : []));
  }

  /**
   * Which decisions apply between two ends.
   *
   * @param parties nodes by their living ids, and addresses.
   * @param dateOf the wall-clock date in milliseconds of a monotonic instant.
   */
  explain(parties: readonly [Party, Party], dateOf: (at: number) => number): Explanation {
    return explain(this.#policy, parties, dateOf);
  }

  // What the agent needs.

  /** Nodes that a decision names: they must not be forgotten. */
  pinned(): Set<number> {
    return this.#policy.pinned();
  }

  /**
   * What the kernel shall enforce now.
   *
   * @param endOf a node as packets show it, with the id asked for; undefined if there is none.
   */
  plan(endOf: (id: number) => End | undefined): Plan {
    return this.#policy.plan(endOf);
  }

  /** The state for the store. */
  save(): Json {
    return this.#policy.save();
  }

  /**
   * Node `old` has become part of node `id`. The agent applies the plan and saves afterwards, as for every change
   * of nodes.
   *
   * @returns whether there is anything to apply or save, and the pairs that ended as their two nodes are one now.
   */
  merge(old: number, id: number): Merged {
    this.#ledger.merge(old, id);
    this.#reports.merge(old, id);
    if (this.#turns.busy) this.#merges.set(old, id);
    const lists = this.#listsWith(old, id);
    const merged = this.#policy.merge(old, id);
    if (merged.changed) this.#options.changed?.([id], lists);
    return merged;
  }

  /**
   * Node `old` is no part of node `id` any more; to be called when both live, before the plan is applied. What had
   * been decided about `old` goes back to it, what was decided since holds for both. What passed meanwhile stays
   * booked on `id`.
   *
   * @returns whether there is anything to apply or save.
   */
  split(old: number, id: number): boolean {
    this.#merges.delete(old);
    const lists = this.#listsWith(old, id);
    const changed = this.#policy.split(old, id);
    if (changed) this.#options.changed?.([old, id], lists);
    return changed;
  }

  /** An alias no longer answers: its merge will not be undone. @returns whether there is anything to save. */
  forget(old: number): boolean {
    return this.#policy.forget(old);
  }

  /**
   * Once the nodes are loaded: brings decisions in line with them, if a crash fell between the saves of both.
   *
   * @returns whether there is anything to apply or save.
   */
  reconcile(): boolean {
    return this.#policy.reconcile((id) => this.#options.resolve(id));
  }

  /** @param by undefined: off. */
  #setPair(ids: Pair, by: string | undefined): Applied {
    const [one, other] = ids.map((id) => this.#options.resolve(id) ?? id) as [number, number];
    const unknown = ids.find((id) => this.#options.resolve(id) === undefined);
    // What names a node that is gone can still be taken off.
    const isLeft = by === undefined && this.#policy.has([one, other]);
    if (unknown !== undefined && !isLeft) return { outcome: { kind: "unknown", id: unknown } };
    if (one === other) return { outcome: { kind: "same", id: one } };
    const pair = pairOf(one, other);
    const { pairDecisions } = this.#policy.counters;
    if (by !== undefined && pairDecisions >= this.#maxBlocks && !this.#policy.has(pair)) {
      return { outcome: { kind: "full", limit: this.#maxBlocks } };
    }
    const undo = this.#policy.set(pair, by !== undefined, by);
    return { outcome: { kind: "done", changed: undo !== undefined }, undo, nodes: pair };
  }

  #isIgnored(node: number | undefined, address: Address | undefined): boolean {
    return (
      (node !== undefined && this.#policy.isListed("ignore", node)) ||
      (address !== undefined && this.#policy.covers("ignore", address))
    );
  }

  #tell(applied: readonly Applied[]): void {
    const changed = applied.filter((each) => each.outcome.kind === "done" && each.outcome.changed);
    const nodes = new Set(changed.flatMap((each) => each.nodes ?? []));
    const lists = new Set(changed.flatMap((each) => each.lists ?? []));
    if (nodes.size + lists.size > 0) this.#options.changed?.([...nodes], [...lists]);
  }

  #listsWith(...ids: readonly number[]): ListName[] {
    return listNames.filter((list) => ids.some((id) => this.#policy.isListed(list, id)));
  }
}
