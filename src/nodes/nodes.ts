/**
 * The nodes: who is on this network and whom they talk to, worked out from evidence.
 *
 * Evidence comes in by plain verbs with the moment at which it came: neighbours, own addresses, prefixes and
 * next hops from the kernel, leases and static names from the DHCP server, DNS questions and answers, ends of
 * connections, and the user's word. lan.ts and identity.ts work out devices, far.ts names and addresses
 * elsewhere; roster.ts keeps all by id, address, MAC, DHCP identity and name. There are no timers: `tick` is
 * called every few seconds.
 *
 * Told are: `onMerge` (other rooms move what they hold of the old id) and then `onEnds` (the kernel needs new
 * addresses or MACs of pinned nodes), both before the verb that caused them returns; subscribers through
 * `takeChanged`, `takeRemoved` and `takeMerged`; the store through `dirty`.
 */

import type { End } from "../kernel/plan.ts";
import type { Address } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { NodeInfo } from "../lib/spin.ts";
import { type AnswerOutcome, type DnsAnswer, type DnsQuery, Far } from "./far.ts";
import type { Lease, StaticHost } from "./identity.ts";
import { Lan, type Neighbour, type OnLink, type OwnAddress } from "./lan.ts";
import {
  addTraffic,
  defaultLimits,
  isNodeAddress,
  type Kind,
  type Limits,
  type Moment,
  type Node,
  type Traffic,
} from "./node.ts";
import { type Listeners, type RemovalReason, Roster } from "./roster.ts";
import { loadNodes, type NodesState, nodesVersion, parseNodes, saveNodes } from "./saved.ts";
import { readTap, type TapOutcome } from "./tap.ts";
import { detailOf, endOf, type Flags, infoOf, summaryOf } from "./view.ts";

export type { AnswerOutcome, DnsAnswer, DnsQuery } from "./far.ts";
export type { Lease, StaticHost } from "./identity.ts";
export type { Neighbour, NeighbourState, OnLink, OwnAddress, Side } from "./lan.ts";
export { type HostSection, parseHosts, parseLeases } from "./leases.ts";
export { nodeMethods } from "./methods.ts";
export { defaultLimits, type Kind, type Limits, type Moment, type Traffic } from "./node.ts";
export type { RemovalReason } from "./roster.ts";
export type { NodesState } from "./saved.ts";
export { readTap, type TapOutcome, type TapReason } from "./tap.ts";
export type { Flags } from "./view.ts";

/** For the store: what `save` returns, and how it is read. */
export const nodesFormat = { version: nodesVersion, parse: parseNodes };

export interface NodesOptions extends Listeners {
  readonly limits?: Partial<Limits>;
  /** What other rooms decided about a node; nothing by default. */
  flags?(id: number): Flags;
}

/** What the room holds and what it had to leave out, for the status. */
export interface NodesStatus {
  readonly nodes: number;
  readonly byKind: Readonly<Record<Kind, number>>;
  /** Nodes that were not made, or removed, for lack of room. */
  readonly refused: number;
  readonly evicted: number;
  readonly questions: number;
  readonly answers: number;
  /** Questions and answers forgotten for lack of room. */
  readonly forgotten: number;
  /** Answers that nobody asked for; questions and addresses that are no far ones. */
  readonly unasked: number;
  readonly foreign: number;
  /** Addresses and identities claimed by two devices at once. */
  readonly conflicts: number;
  /** Leases not taken for lack of room. */
  readonly leasesRefused: number;
}

/** Names of users are as long as SPIN's. */
const NAME_LENGTH = 128;
/** How often `tick` looks at all nodes. */
const SWEEP_MS = 5_000;

const noFlags: Flags = { blocked: false, excepted: false };

export class Nodes {
  readonly #roster: Roster;
  readonly #lan: Lan;
  readonly #far: Far;
  readonly #flags: (id: number) => Flags;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor(options: NodesOptions = {}) {
    const limits: Limits = { ...defaultLimits, ...options.limits };
    this.#flags = options.flags?.bind(options) ?? (() => noFlags);
    this.#roster = new Roster(limits, {
      onMerge: (old, into) => {
        this.#far.merge(old, into);
        this.#lan.identity.merge(old, into);
        options.onMerge?.(old, into);
      },
      onEnds: (ids) => options.onEnds?.(ids),
    });
    this.#lan = new Lan(this.#roster);
    this.#far = new Far(this.#roster, this.#lan);
  }

  // Evidence.

  /** An entry of the neighbour table came, changed or went. */
  neighbour(entry: Neighbour, at: Moment): void {
    this.#work(at, () => this.#lan.neighbour(entry));
  }

  /** The whole neighbour table, after messages were lost. */
  neighbours(entries: readonly Neighbour[], at: Moment): void {
    this.#work(at, () => this.#lan.neighbours(entries));
  }

  /** The router has an address on an interface, or has it no longer. */
  ownAddress(change: OwnAddress, at: Moment): void {
    this.#work(at, () => this.#lan.ownAddress(change));
  }

  /** A prefix is on-link on one side, or no longer. */
  prefix(change: OnLink, at: Moment): void {
    this.#work(at, () => this.#lan.prefix(change));
  }

  /** The next hops of all default routes: the gateways, unless they are devices on the LAN. */
  nextHops(addresses: readonly Address[], at: Moment): void {
    this.#work(at, () => this.#lan.nextHops(addresses));
  }

  /** A DHCP server gave or renewed a lease. */
  lease(lease: Lease, at: Moment): void {
    this.#work(at, () => this.#lan.lease(lease));
  }

  /** The whole lease file; leases that are not in it have ended. */
  leases(all: readonly Lease[], at: Moment): void {
    this.#work(at, () => this.#lan.leases(all));
  }

  /** All hosts that the administrator named. */
  hosts(hosts: readonly StaticHost[], at: Moment): void {
    this.#work(at, () => this.#lan.hosts(hosts));
  }

  /** @returns the nodes of client and name, or undefined if it is no question of a client. */
  dnsQuery(query: DnsQuery, at: Moment): { from: number; queried: number } | undefined {
    return this.#work(at, () => {
      const nodes = this.#far.query(query);
      return nodes && { from: nodes.from.id, queried: nodes.queried.id };
    });
  }

  /** An answer on its way to a client. Only one that fits a question seen before changes anything. */
  dnsAnswer(answer: DnsAnswer, at: Moment): AnswerOutcome {
    return this.#work(at, () => this.#far.answer(answer));
  }

  /** A packet of port 53, as the firewall copied it: question, answer, or dropped with a reason. */
  tapped(packet: Uint8Array, at: Moment): TapOutcome {
    const outcome = readTap(packet);
    if (outcome.kind === "query") this.dnsQuery(outcome.query, at);
    if (outcome.kind === "answer") this.dnsAnswer(outcome.answer, at);
    return outcome;
  }

  /**
   * The node on which traffic of an address is booked, made if need be, and seen now.
   *
   * @param seen `asker` is the other end: what it was last answered decides between names that share the address.
   * @returns undefined for addresses that are no node's (multicast, broadcast, loopback), and without room.
   */
  nodeFor(address: Address, seen: { readonly asker?: Address; readonly at: Moment }): number | undefined {
    this.#roster.begin(seen.at);
    const node = this.#far.nodeFor(address, seen.asker);
    this.#roster.settle();
    return node?.id;
  }

  /** Adds to a node's counters. Unknown ids are passed over: the node may just have gone. */
  count(id: number, traffic: Traffic): void {
    const node = this.#roster.get(id);
    if (node) node.traffic = addTraffic(node.traffic, traffic);
  }

  // The user's word, and other rooms'.

  /**
   * Names a node, or with an empty name takes the name back.
   *
   * @throws Fault "not-found"; "invalid" for control characters and more than 128 characters.
   */
  rename(id: number, name: string): void {
    const node = this.#need(id, "rename node");
    const why = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(name)
      ? "the name has control characters"
      : name.length > NAME_LENGTH
        ? `the name is longer than ${NAME_LENGTH} characters`
        : undefined;
    if (why !== undefined) throw new Fault("invalid", `Cannot rename node ${id}: ${why}`);
    this.#roster.setNames(node, { userName: name === "" ? undefined : name });
  }

  /**
   * The user says that two are one device. The first id becomes an alias of the second.
   *
   * @returns the id of the one that stays.
   * @throws Fault "not-found"; "invalid" if they are one already, or not both of our own network.
   */
  merge(id: number, into: number, at: Moment): number {
    const [old, kept] = [this.#need(id, "merge node"), this.#need(into, "merge node")];
    const why =
      old === kept
        ? "they are one node"
        : [old, kept].some((node) => node.kind !== "device" && node.kind !== "local")
          ? "only devices can be merged"
          : undefined;
    if (why !== undefined) throw new Fault("invalid", `Cannot merge node ${id} into ${into}: ${why}`);
    this.#work(at, () => {
      if (old.kind === "device") this.#roster.setKind(kept, "device");
      this.#roster.absorb(old, kept);
    });
    return kept.id;
  }

  /** Holds a node for a reason, until `unpin` with the same: it neither expires nor makes room. @throws Fault */
  pin(id: number, reason: string): void {
    this.#roster.setPin(this.#need(id, "pin node"), reason, true);
  }

  unpin(id: number, reason: string): void {
    const node = this.#roster.get(id);
    if (node?.pins?.has(reason)) this.#roster.setPin(node, reason, false);
  }

  // Looking.

  get size(): number {
    return this.#roster.size;
  }

  /** How many of them are devices. */
  get devices(): number {
    return this.#roster.devices;
  }

  /** All ids, the lowest first. */
  ids(): number[] {
    return [...this.#roster.all()].map((node) => node.id).sort((left, right) => left - right);
  }

  /** The id of the node that an id means now: itself, or what it was merged into. */
  resolve(id: number): number | undefined {
    return this.#roster.get(id)?.id;
  }

  /** The node that an address is shown under; nothing is made, nothing is seen. */
  find(address: Address): number | undefined {
    return this.#roster.home(address)?.id;
  }

  /** Whether an address is a client's: of our own network, and not the router's. */
  isLocal(address: Address): boolean {
    const home = this.#roster.home(address);
    if (home) return home.kind === "device" || home.kind === "local";
    return isNodeAddress(address) && this.#lan.isLocal(address) && !this.#lan.isOwn(address);
  }

  /** Other nodes that share an address with this one, and so are hit by what is done to it. */
  sharedWith(id: number): number[] {
    const node = this.#roster.get(id);
    if (!node) return [];
    const others = [...node.addresses.keys()].flatMap((address) => this.#roster.holders(address));
    return [...new Set(others)].filter((other) => other !== node).map((other) => other.id);
  }

  /** A node for the kernel's plan. An id that was merged away gives the end of the one it became. */
  end(id: number): End | undefined {
    const node = this.#roster.get(id);
    return node && endOf(this.#roster, node);
  }

  /** SPIN's node object, the same for an alias as for its node. */
  info(id: number): NodeInfo | undefined {
    return this.#view(id, infoOf);
  }

  /** SPIN's node object and the most asked for of ours. */
  summary(id: number): JsonObject | undefined {
    return this.#view(id, summaryOf);
  }

  /** All that is known of a node. */
  detail(id: number): JsonObject | undefined {
    return this.#view(id, detailOf);
  }

  get status(): NodesStatus {
    const byKind = { device: 0, local: 0, name: 0, address: 0, router: 0, gateway: 0 };
    for (const node of this.#roster.all()) byKind[node.kind]++;
    const { questions, answers, dropped } = this.#far.memory;
    return {
      nodes: this.#roster.size,
      byKind,
      refused: this.#roster.refused,
      evicted: this.#roster.evicted,
      questions,
      answers,
      forgotten: dropped,
      unasked: this.#far.unasked,
      foreign: this.#far.foreign,
      conflicts: this.#lan.identity.conflicts,
      leasesRefused: this.#lan.identity.refused,
    };
  }

  // What changed.

  /** Nodes that are new or look different since the last call. */
  takeChanged(): number[] {
    return this.#roster.takeChanged();
  }

  /** Nodes that `takeChanged` told of and that are gone, and aliases that no longer answer. */
  takeRemoved(): { id: number; reason: RemovalReason }[] {
    return this.#roster.takeRemoved();
  }

  /** Nodes that were poured into others since the last call, in order. */
  takeMerged(): { id: number; into: number }[] {
    return this.#roster.takeMerged();
  }

  /** Drops what has outlived its time. Cheap when called often. */
  tick(at: Moment): void {
    if (at.now - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = at.now;
    this.#work(at, () => {
      this.#lan.tick();
      this.#far.tick();
      this.#expire();
      this.#roster.numbers.tick(at.now);
    });
  }

  // The disk.

  /** Something that belongs on disk changed since the last `save`. */
  get dirty(): boolean {
    return this.#roster.dirty;
  }

  /**
   * The state to be stored. Until `saved` is called, ids are given from the reserve of the one before.
   *
   * @param options `last`: the agent ends now; no node is made after it.
   */
  save(at: Moment, options: { readonly last?: boolean } = {}): Json {
    this.#roster.begin(at);
    this.#roster.dirty = false;
    return saveNodes(this.#roster, options);
  }

  /** What `save` last returned is durable. */
  saved(): void {
    this.#roster.numbers.reserved();
  }

  /**
   * Takes what an earlier life saved.
   *
   * @param options `older`: the last file was damaged or lost, this is the generation before it. Save twice
   *   then, so that there is a new generation before, too.
   * @throws TypeError if there are nodes already.
   */
  load(state: NodesState, at: Moment, options: { readonly older?: boolean } = {}): void {
    this.#work(at, () => loadNodes(this.#roster, state, options));
  }

  #work<Result>(at: Moment, verb: () => Result): Result {
    this.#roster.begin(at);
    try {
      return verb();
    } finally {
      this.#roster.settle();
    }
  }

  #need(id: number, verb: string): Node {
    const node = this.#roster.get(id);
    if (!node) throw new Fault("not-found", `Cannot ${verb} ${id}: there is no such node`);
    return node;
  }

  #view<View>(id: number, view: (roster: Roster, node: Node, flags: Flags) => View): View | undefined {
    const node = this.#roster.get(id);
    return node && view(this.#roster, node, this.#flags(node.id));
  }

  #expire(): void {
    const { now, limits } = this.#roster;
    for (const node of this.#roster.all()) {
      if (node.pins || node.userName !== undefined || node.kind === "router" || node.kind === "gateway")
        continue;
      if (node.kind === "device" && node.leases > 0) continue;
      const lifeMs = node.kind === "device" ? limits.deviceMs : limits.farMs;
      if (now - node.seenAt > lifeMs) this.#roster.remove(node, "expired");
    }
    for (const [id, alias] of this.#roster.aliases()) {
      const lasting = this.#roster.get(alias.into)?.kind === "device";
      if (now - alias.at > (lasting ? limits.aliasMs : limits.farMs)) this.#roster.dropAlias(id);
    }
  }
}
