/**
 * Flows: who speaks with whom, and who may not.
 *
 * Joins the ledger (what passed, by connection) and the policy (blocked pairs and SPIN's lists, by node id).
 * A decision is answered when it is enforced and durable: changes wait for their turn, a turn takes all that
 * wait, puts them into the policy and asks the agent to commit (tell the kernel, save the stores); a hundred
 * calls at once cost two commits. If the kernel refuses, the changes of the turn are taken back and the kernel
 * is told so; if only the disk refuses, they stay in force, and either way the callers get the fault. Whoever
 * passed `changed` hears of every node and list whose blocks or marks may look different now.
 */

import type { End, Plan } from "../kernel/plan.ts";
import { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import type { TrafficFlow } from "../lib/spin.ts";
import { type Activity, type FlowRecord, Ledger } from "./ledger.ts";
import {
  type ListName,
  type Pair,
  Policy,
  type PolicyState,
  pairOf,
  parsePolicy,
  policyVersion,
  type Undo,
} from "./policy.ts";

export type { Activity, FlowRecord } from "./ledger.ts";
export { flowMethods, spinMethods } from "./methods.ts";
export { type ListName, listNames, type Pair } from "./policy.ts";

/** For the store: what `save` returns, and how it is read. */
export const flowsFormat = { version: policyVersion, parse: parsePolicy };

export interface FlowsOptions {
  /** The living node behind an id, itself or what it was merged into; undefined if there is none. */
  resolve(id: number): number | undefined;
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
}

/** What came of a decision. */
export type Outcome =
  /** It is in force and durable; `changed` is false if it was so before. */
  | { readonly kind: "done"; readonly changed: boolean }
  /** There is no such node. */
  | { readonly kind: "unknown"; readonly id: number }
  /** Both ids are the same node. */
  | { readonly kind: "same"; readonly id: number }
  /** As many pairs as are allowed are blocked. */
  | { readonly kind: "full"; readonly limit: number };

interface Applied {
  readonly outcome: Outcome;
  readonly undo?: Undo;
  readonly nodes?: readonly number[];
  readonly lists?: readonly ListName[];
}

interface Waiting {
  apply(): Applied;
  resolve(outcome: Outcome): void;
  reject(thrown: unknown): void;
}

export class Flows {
  readonly #options: FlowsOptions;
  readonly #policy: Policy;
  readonly #ledger: Ledger;
  readonly #maxBlocks: number;
  #waiting: Waiting[] = [];
  #committing = false;
  /** Merges since the turn under way began. */
  #merges: (readonly [old: number, id: number])[] = [];

  constructor(options: FlowsOptions, state?: PolicyState) {
    this.#options = options;
    this.#policy = new Policy(state);
    this.#maxBlocks = options.maxBlocks ?? 20_000;
    this.#ledger = new Ledger({
      maxRecords: options.maxRecords ?? 8_192,
      maxTraffic: options.maxTraffic ?? 1_000,
      idleMs: options.idleMs ?? 30 * 60_000,
    });
  }

  /** Figures for the status page. */
  get counters(): {
    readonly records: number;
    readonly evicted: number;
    readonly missed: number;
    readonly blocks: number;
  } {
    return { ...this.#ledger.counters, blocks: this.#policy.size };
  }

  /** Books what passed on a connection. Traffic of an ignored node is booked but not shown. Never throws. */
  account(activity: Activity): void {
    const hidden =
      this.#policy.isListed("ignore", activity.from) || this.#policy.isListed("ignore", activity.to);
    this.#ledger.account(activity, !hidden);
  }

  /** Forgets records that were idle for too long. */
  tick(now: number): void {
    this.#ledger.expire(now);
  }

  /** Records of a node, or all; the latest active first. */
  records(node?: number): FlowRecord[] {
    return this.#ledger.list(node);
  }

  /** The lines of the next traffic message; they are handed out once. */
  takeTraffic(): TrafficFlow[] {
    return this.#ledger.takeTraffic();
  }

  /** Cuts two nodes off from each other. @throws Fault see FlowsOptions.commit */
  block(one: number, other: number): Promise<Outcome> {
    return this.#decide(() => this.#setPair([one, other], true));
  }

  /** Lets two nodes speak again. @throws Fault see FlowsOptions.commit */
  unblock(one: number, other: number): Promise<Outcome> {
    return this.#decide(() => this.#setPair([one, other], false));
  }

  /** Puts a node on a list, or takes it off. @throws Fault see FlowsOptions.commit */
  list(list: ListName, node: number, listed: boolean): Promise<Outcome> {
    return this.#decide(() => {
      const id = this.#options.resolve(node);
      if (id === undefined) return { outcome: { kind: "unknown", id: node } };
      const undo = this.#policy.list(list, id, listed);
      return { outcome: { kind: "done", changed: undo !== undefined }, undo, nodes: [id], lists: [list] };
    });
  }

  /** The living node behind an id; undefined if there is none. */
  resolve(id: number): number | undefined {
    return this.#options.resolve(id);
  }

  /** The blocked pairs, in order. */
  pairs(): Pair[] {
    return this.#policy.pairs();
  }

  /** Whether two living nodes are cut off from each other as a pair. */
  isBlocked(one: number, other: number): boolean {
    return this.#policy.has(pairOf(one, other));
  }

  /** The nodes of a list, in order. */
  listed(list: ListName): number[] {
    return this.#policy.listed(list);
  }

  isListed(list: ListName, id: number): boolean {
    return this.#policy.isListed(list, id);
  }

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
   * @returns whether a decision moved, and the pairs that ended because their two nodes are one now.
   */
  merge(old: number, id: number): { readonly changed: boolean; readonly dropped: readonly Pair[] } {
    this.#ledger.merge(old, id);
    if (this.#committing) this.#merges.push([old, id]);
    const merged = this.#policy.merge(old, id);
    if (merged.changed) this.#tell([{ outcome: { kind: "done", changed: true }, nodes: [id] }]);
    return merged;
  }

  #setPair(ids: Pair, blocked: boolean): Applied {
    const living = ids.map((id) => this.#options.resolve(id));
    const unknown = living.indexOf(undefined);
    if (unknown >= 0) return { outcome: { kind: "unknown", id: ids[unknown]! } };
    const [one, other] = living as [number, number];
    if (one === other) return { outcome: { kind: "same", id: one } };
    const pair = pairOf(one, other);
    if (blocked && this.#policy.size >= this.#maxBlocks && !this.#policy.has(pair)) {
      return { outcome: { kind: "full", limit: this.#maxBlocks } };
    }
    const undo = this.#policy.set(pair, blocked);
    return { outcome: { kind: "done", changed: undo !== undefined }, undo, nodes: pair };
  }

  #decide(apply: () => Applied): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ apply, resolve, reject });
      if (this.#committing) return;
      this.#committing = true;
      void this.#takeTurns();
    });
  }

  async #takeTurns(): Promise<void> {
    // Calls made in one breath share the first turn too.
    await undefined;
    while (this.#waiting.length > 0) {
      const turn = this.#waiting;
      this.#waiting = [];
      await this.#takeTurn(turn);
    }
    this.#committing = false;
  }

  async #takeTurn(turn: readonly Waiting[]): Promise<void> {
    this.#merges = [];
    const applied: Applied[] = [];
    try {
      for (const each of turn) applied.push(each.apply());
      // What was so already is committed too: it may be on its way, or an earlier save may have failed.
      if (applied.some((each) => each.outcome.kind === "done")) await this.#options.commit();
    } catch (thrown) {
      const holds = thrown instanceof Fault && thrown.code === "storage";
      if (!holds) await this.#takeBack(applied);
      this.#tell(applied);
      for (const [index, each] of turn.entries()) {
        const outcome = applied[index]?.outcome;
        // A call that asked for nothing possible learns that, not what became of the others.
        if (outcome && outcome.kind !== "done") each.resolve(outcome);
        else each.reject(thrown);
      }
      return;
    }
    this.#tell(applied);
    for (const [index, each] of turn.entries()) each.resolve(applied[index]!.outcome);
  }

  /** Puts the policy where it was before the turn, and tells the kernel, whatever it had made of it. */
  async #takeBack(applied: readonly Applied[]): Promise<void> {
    for (const each of [...applied].reverse()) each.undo?.();
    // An id that was merged away meanwhile may be back now: where a merge moved the pair, it stays blocked.
    for (const [old, id] of this.#merges) this.#policy.merge(old, id);
    // The fault that matters is already on its way to the caller.
    await this.#options.commit().catch(() => {});
  }

  #tell(applied: readonly Applied[]): void {
    const changed = applied.filter((each) => each.outcome.kind === "done" && each.outcome.changed);
    const nodes = new Set(changed.flatMap((each) => each.nodes ?? []));
    const lists = new Set(changed.flatMap((each) => each.lists ?? []));
    if (nodes.size + lists.size > 0) this.#options.changed?.([...nodes], [...lists]);
  }
}
