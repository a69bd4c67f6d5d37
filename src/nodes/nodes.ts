/**
 * The nodes: who is on this network and whom they talk to, worked out from evidence.
 *
 * Evidence comes in by plain verbs with the moment at which it came: neighbours, own addresses, prefixes and
 * next hops from the kernel, leases and static names from the DHCP server, DNS questions and answers, ends of
 * connections, and the user's word. lan.ts and identity.ts work out devices, far.ts names and addresses
 * elsewhere, user.ts does as the user says; roster.ts keeps all by id, address, MAC, DHCP identity and name. There
 * are no timers: `tick` is called every few seconds.
 *
 * Told are: `onMerge` and `onSplit` (other rooms move what they hold of the old id) and then `onEnds` (the kernel
 * needs new addresses or MACs of pinned nodes), all before the verb that caused them returns; subscribers through
 * `takeChanged`, `takeRemoved`, `takeMerged`, `takeSplit` and `takeConflicts`; the store through `dirty`.
 */

import type { End } from "../kernel/plan.ts";
import type { Address, Mac } from "../lib/address.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { NodeInfo } from "../lib/spin.ts";
import type { Conflict } from "./conflicts.ts";
import { loadNodes, saveNodes } from "./disk.ts";
import { expire } from "./expiry.ts";
import { type Answered, type AnswerOutcome, type DnsAnswer, type DnsQuery, Far } from "./far.ts";
import type { Lease, StaticHost } from "./identity.ts";
import { Lan, type Neighbour, type OnLink, type OwnAddress } from "./lan.ts";
import type { Merge, Removal, Split } from "./news.ts";
import {
  addTraffic,
  defaultLimits,
  isNodeAddress,
  type Limits,
  type Moment,
  type Node,
  type Traffic,
} from "./node.ts";
import { type Listeners, Roster } from "./roster.ts";
import { maxNodesBytes, type NodesState, nodesVersion, parseNodes } from "./saved.ts";
import { type NodesStatus, statusOf } from "./status.ts";
import { Tap, type TapMessage } from "./tap.ts";
import { Usage } from "./usage.ts";
import { type Adoption, User } from "./user.ts";
import { detailOf, endOf, type Flags, infoOf, seriesOf, summaryOf } from "./view.ts";

export type { Conflict } from "./conflicts.ts";
export type { Answered, AnswerOutcome, DnsAnswer, DnsQuery } from "./far.ts";
export type { Lease, StaticHost } from "./identity.ts";
export type { Neighbour, NeighbourState, OnLink, OwnAddress, Side } from "./lan.ts";
export { type HostSection, parseHosts, parseLeases } from "./leases.ts";
export { nodeMethods } from "./methods.ts";
export type { Merge, Removal, RemovalReason, Split } from "./news.ts";
export { defaultLimits, type Kind, type Limits, type Moment, type Traffic } from "./node.ts";
export type { NodesState } from "./saved.ts";
export type { NodesStatus } from "./status.ts";
export type { TapReason } from "./tap.ts";
export type { Adoption } from "./user.ts";
export type { Flags } from "./view.ts";

/** For the store: what `save` returns, and how it is read. */
export const nodesFormat = { version: nodesVersion, parse: parseNodes, maxBytes: maxNodesBytes };

export interface NodesOptions extends Listeners {
  readonly limits?: Partial<Limits>;
  /** What other rooms decided about a node; nothing by default. */
  flags?(id: number): Flags;
}

/** What a message on the tap was, and what became of it. */
export type TapOutcome =
  /** `nodes` are those of client and name; undefined if it is no question of a client, or there is no room. */
  | (Extract<TapMessage, { kind: "query" }> & {
      readonly nodes: { readonly from: number; readonly queried: number } | undefined;
    })
  | (Extract<TapMessage, { kind: "answer" }> & { readonly became: AnswerOutcome })
  /** It taught us nothing: to be counted by its reason. */
  | Extract<TapMessage, { kind: "dropped" }>;

/** How often `tick` looks at all nodes. */
const SWEEP_MS = 5_000;

const noFlags: Flags = { blocked: false, excepted: false };

export class Nodes {
  readonly #roster: Roster;
  readonly #lan: Lan;
  readonly #far: Far;
  readonly #user: User;
  readonly #tap = new Tap();
  readonly #flags: (id: number) => Flags;
  #sweptAt = Number.NEGATIVE_INFINITY;
  #moment: Moment = { now: 0, date: 0 };

  constructor(options: NodesOptions = {}) {
    const limits: Limits = { ...defaultLimits, ...options.limits };
    this.#flags = options.flags?.bind(options) ?? (() => noFlags);
    this.#roster = new Roster(limits, {
      onMerge: (old, into) => {
        this.#far.merge(old, into);
        this.#lan.identity.merge(old, into);
        options.onMerge?.(old, into);
      },
      onSplit: (old, from) => options.onSplit?.(old, from),
      onEnds: (ids) => options.onEnds?.(ids),
    });
    this.#lan = new Lan(this.#roster);
    this.#far = new Far(this.#roster, this.#lan);
    this.#user = new User(this.#roster, this.#lan, this.#far);
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

  /**
   * A packet of port 53, as the firewall copied it.
   *
   * @returns what was in it, in order: over UDP one message, over TCP any number of them.
   */
  tapped(packet: Uint8Array, at: Moment): TapOutcome[] {
    return this.#tap.read(packet, at.now).map((message) => {
      if (message.kind === "query") return { ...message, nodes: this.dnsQuery(message.query, at) };
      if (message.kind === "answer") return { ...message, became: this.dnsAnswer(message.answer, at) };
      return message;
    });
  }

  /**
   * The node on which traffic of an address is booked, made if need be, and seen now.
   *
   * @param seen `asker` is the other end: what it was last answered decides between names that share the address.
   * @returns undefined for addresses that are no node's (multicast, broadcast, loopback), and without room.
   */
  nodeFor(address: Address, seen: { readonly asker?: Address; readonly at: Moment }): number | undefined {
    this.#begin(seen.at);
    const node = this.#far.nodeFor(address, seen.asker);
    this.#roster.settle();
    return node?.id;
  }

  /**
   * What somebody says of a name who is believed without a question, as a capture that is replayed.
   *
   * @returns the id of the name's node; undefined for a name longer than any, and without room.
   */
  nameObserved(name: string, answers: readonly Answered[], at: Moment): number | undefined {
    return this.#work(at, () => this.#far.observe(name, answers)?.id);
  }

  /**
   * Adds to a node's counters, and to those of the day and the quarter hour of the last moment that came in.
   * Unknown ids are passed over: the node may just have gone.
   */
  count(id: number, traffic: Traffic): void {
    const node = this.#roster.get(id);
    if (!node) return;
    node.traffic = addTraffic(node.traffic, traffic);
    const isDevice = node.kind === "device";
    if (!isDevice && node.kind !== "local") return;
    node.usage ??= new Usage();
    node.usage.add(traffic, this.#roster.calendar, { now: this.#roster.now, isDevice });
  }

  // The user's word, and other rooms'.

  /**
   * Names a node, or with an empty name takes the name back.
   *
   * @throws Fault "not-found"; "invalid" for control characters and more than 128 characters.
   */
  rename(id: number, name: string): void {
    this.#user.rename(id, name);
  }

  /**
   * The user says that two are one device. The first id becomes an alias of the second.
   *
   * @returns the id of the one that stays.
   * @throws Fault "not-found"; "invalid" if they are one already, or not both of our own network.
   */
  merge(id: number, into: number, at: Moment): number {
    return this.#work(at, () => this.#user.merge(id, into));
  }

  /**
   * The user says that they are not: an id that was merged away becomes a node again, with the MACs, DHCP
   * identities, name and addresses that it brought and what they tied since. Counters stay with the other one.
   * No evidence merges the two again, until the user does.
   *
   * @returns the id of the node that it was part of.
   * @throws Fault "not-found"; "invalid" if it is no merged device, or nothing is left of it; "limit".
   */
  split(id: number, at: Moment): number {
    return this.#work(at, () => this.#user.split(id));
  }

  /**
   * Removes a node. If it is still there, it comes back under another id.
   *
   * @throws Fault "not-found"; "invalid" if it is pinned, merged away, the router or its gateway.
   */
  forget(id: number, at: Moment): void {
    this.#work(at, () => this.#user.forget(id));
  }

  /**
   * The user ties an address to a node, or with id 0 to a new one. It stays until another device answers for it.
   *
   * @returns the id of the node.
   * @throws Fault "conflict" if the address is a node's already; "not-found"; "invalid" if it names no device, or
   *   the node is the router or its gateway; "limit".
   */
  addAddress(id: number, address: Address, at: Moment): number {
    return this.#work(at, () => this.#user.addAddress(id, address));
  }

  /**
   * Takes over a node that another program knew: the device with its MAC, else the node with its names or
   * addresses, else a new one. Doing it again changes nothing.
   *
   * @returns the id of the node.
   * @throws Fault "invalid" if nothing of it could be a node's; "limit".
   */
  adopt(adoption: Adoption, at: Moment): number {
    return this.#work(at, () => this.#user.adopt(adoption));
  }

  /**
   * Holds a node for a reason, until `unpin` with the same: it neither expires nor makes room. The reason "user" is
   * the user's own and outlives the agent; rooms set theirs anew.
   *
   * @throws Fault "not-found".
   */
  pin(id: number, reason: string): void {
    this.#roster.setPin(this.#user.need(id, "pin node"), reason, true);
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

  /** Whether a node is a name that was asked for, whose addresses change with the answers. */
  isName(id: number): boolean {
    return this.#roster.get(id)?.kind === "name";
  }

  /** The node that an address is shown under; nothing is made, nothing is seen. */
  find(address: Address): number | undefined {
    return this.#roster.home(address)?.id;
  }

  /** The device with a MAC; of several behind one MAC the one known longest. */
  deviceByMac(mac: Mac): number | undefined {
    return this.#roster.byMac(mac)[0]?.id;
  }

  /** Ids that were merged away and still answer, each with the node that it is part of. */
  *aliases(): Generator<[old: number, into: number]> {
    for (const [old, { into }] of this.#roster.aliases.entries()) yield [old, into];
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
    const node = this.#roster.get(id);
    if (!node) return undefined;
    const disputes = [...this.#lan.identity.conflicts.all()].filter(({ holder }) => holder === node.id);
    const askers = this.#far.askers(node);
    return detailOf(this.#roster, node, this.#flags(node.id), { askers, disputes });
  }

  /** Bytes of a node in the last 24 hours, by quarter hours, and what passed since local midnight. */
  series(id: number): JsonObject | undefined {
    const node = this.#roster.get(id);
    return node && seriesOf(this.#roster, node);
  }

  get status(): NodesStatus {
    return statusOf(this.#roster, this.#lan, this.#far);
  }

  /** The clocks as they were last told. */
  get moment(): Moment {
    return this.#moment;
  }

  // What changed.

  /** Nodes that are new or look different since the last call. */
  takeChanged(): number[] {
    return this.#roster.takeChanged();
  }

  /** Nodes that `takeChanged` told of and that are gone, and aliases that no longer answer. */
  takeRemoved(): Removal[] {
    return this.#roster.news.takeRemoved();
  }

  /** Nodes that were poured into others since the last call, in order. */
  takeMerged(): Merge[] {
    return this.#roster.news.takeMerged();
  }

  /** Merges that were undone since the last call, in order. */
  takeSplit(): Split[] {
    return this.#roster.news.takeSplit();
  }

  /** Claims to addresses of others since the last call: the first of each address, then one a minute. */
  takeConflicts(): Conflict[] {
    return this.#lan.identity.conflicts.take();
  }

  /** Drops what has outlived its time. Cheap when called often. */
  tick(at: Moment): void {
    this.#begin(at);
    if (at.now - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = at.now;
    this.#work(at, () => {
      this.#lan.tick();
      this.#far.tick();
      expire(this.#roster);
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
    this.#begin(at);
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
    this.#begin(at);
    try {
      return verb();
    } finally {
      this.#roster.settle();
    }
  }

  #begin(at: Moment): void {
    this.#moment = at;
    this.#roster.begin(at);
  }

  #view<View>(id: number, view: (roster: Roster, node: Node, flags: Flags) => View): View | undefined {
    const node = this.#roster.get(id);
    return node && view(this.#roster, node, this.#flags(node.id));
  }
}
