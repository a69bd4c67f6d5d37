/**
 * The nodes and how to find them: by id (also an old one that was merged away), address, MAC, DHCP identity
 * and name. Who is who is decided in lan.ts, far.ts and user.ts; this file keeps the books of it, and its parts:
 * homes.ts who has an address, aliases.ts what was merged, eviction.ts who makes room, usage.ts what day it is.
 *
 * Every change is noted three ways, for subscribers and the kernel (news.ts; `onEnds`, of pinned nodes, at the
 * end of the verb that caused it) and for the disk (`dirty`).
 */

import type { Address, Mac } from "../lib/address.ts";
import { type Alias, Aliases, aliasOf } from "./aliases.ts";
import { leastAddress, leastNodes } from "./eviction.ts";
import { Homes } from "./homes.ts";
import { News, type RemovalReason } from "./news.ts";
import {
  addTraffic,
  type Holding,
  isNear,
  isPersistent,
  type Kind,
  type Limits,
  type Moment,
  type NameSource,
  type Node,
  newHolding,
  newNode,
  type Source,
  USER_PIN,
} from "./node.ts";
import { Numbers } from "./numbers.ts";
import { Calendar } from "./usage.ts";

/** How often a node that is merely seen again is worth telling. */
const SHOW_MS = 60_000;
export interface Listeners {
  /** These pinned nodes have other addresses or MACs than before. Called before the verb returns. */
  onEnds?(ids: readonly number[]): void;
  /** A node was poured into another; the old id answers for the new one. Called before `onEnds`. */
  onMerge?(old: number, into: number): void;
  /**
   * A merge was undone: the old id is a node again, with what it had brought. Counters and what other rooms moved
   * to `from` stay there, unless they divide it now. Called before `onEnds`.
   */
  onSplit?(old: number, from: number): void;
}

export class Roster {
  readonly limits: Limits;
  /** Monotonic milliseconds of the verb being worked on. */
  now = 0;
  /** Wall clock minus monotonic clock. */
  clockOffset = 0;
  /** Something that belongs on disk has changed. */
  dirty = false;
  /** Nodes not made because no room could be made, nodes evicted. */
  refused = 0;
  evicted = 0;

  readonly numbers = new Numbers();
  readonly calendar = new Calendar();
  readonly news: News;
  /** To look up, and for pairs that are apart; aliases come and go by the verbs here. */
  readonly aliases: Aliases;

  readonly #listeners: Listeners;
  readonly #nodes = new Map<number, Node>();
  readonly #homes = new Homes();
  readonly #macs = new Map<Mac, Node[]>();
  readonly #clients = new Map<string, Node>();
  readonly #names = new Map<string, Node>();
  #devices = 0;

  constructor(limits: Limits, listeners: Listeners) {
    this.limits = limits;
    this.news = new News(limits);
    this.aliases = new Aliases(limits);
    this.#listeners = listeners;
  }

  /** Each verb of the room begins here … */
  begin(at: Moment): void {
    this.now = at.now;
    this.clockOffset = at.date - at.now;
    this.calendar.note(at);
  }

  /** … and ends here. */
  settle(): void {
    const { ends } = this.news;
    if (ends.size === 0) return;
    const ids = [...ends].filter((id) => this.#nodes.has(id));
    ends.clear();
    if (ids.length > 0) this.#listeners.onEnds?.(ids);
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** Nodes that are devices. */
  get devices(): number {
    return this.#devices;
  }

  all(): IterableIterator<Node> {
    return this.#nodes.values();
  }

  /** A node by its id or one that was merged into it. */
  get(id: number): Node | undefined {
    return this.#nodes.get(id) ?? this.#nodes.get(this.aliases.get(id)?.into ?? 0);
  }

  /** The node that an address is shown and booked under. */
  home(address: Address): Node | undefined {
    return this.#homes.home(address);
  }

  /** Every node that holds an address, its home first. */
  holders(address: Address): readonly Node[] {
    return this.#homes.holders(address);
  }

  /** More than one: the MAC is a repeater's and ties nothing. */
  byMac(mac: Mac): readonly Node[] {
    return this.#macs.get(mac) ?? [];
  }

  byClient(client: string): Node | undefined {
    return this.#clients.get(client);
  }

  byName(name: string): Node | undefined {
    return this.#names.get(name);
  }

  /** @returns undefined if there is no room for a node of this kind. */
  create(kind: Kind): Node | undefined {
    const id = this.#makeRoom(kind) ? this.numbers.give(this.now) : undefined;
    if (id === undefined) {
      this.refused++;
      return undefined;
    }
    if (this.numbers.short) this.dirty = true;
    const node = newNode(id, kind, this.now);
    this.insert(node);
    return node;
  }

  /** Takes in a node with everything it holds; its id is taken. */
  insert(node: Node): void {
    this.#nodes.set(node.id, node);
    if (node.kind === "device") this.#devices++;
    for (const address of node.addresses.keys()) this.#homes.add(node, address);
    for (const mac of node.macs) this.#macs.set(mac, [...this.byMac(mac), node]);
    for (const client of node.clients) this.#clients.set(client, node);
    if (node.dnsName !== undefined) this.#names.set(node.dnsName, node);
    this.news.changed.add(node.id);
    if (isPersistent(node)) this.dirty = true;
  }

  setKind(node: Node, kind: Kind): void {
    if (node.kind === kind) return;
    this.#devices += (kind === "device" ? 1 : 0) - (node.kind === "device" ? 1 : 0);
    const before = isPersistent(node);
    node.kind = kind;
    this.#expelNames(node);
    if (before || isPersistent(node)) this.dirty = true;
    this.news.changed.add(node.id);
  }

  remove(node: Node, reason: RemovalReason): void {
    if (isPersistent(node)) this.dirty = true;
    this.#unlink(node);
    this.aliases.retire([node.id, ...(node.aliases ?? [])]);
    for (const alias of node.aliases ?? []) {
      this.aliases.delete(alias, none);
      this.news.removed(alias, "alias");
    }
    if (node.announced) this.news.removed(node.id, reason);
    if (reason === "evicted") this.evicted++;
  }

  /** Pours one node into another, with addresses, identities, names, counters and pins; its id stays an alias. */
  absorb(old: Node, into: Node): void {
    if (isPersistent(old) || isPersistent(into)) this.dirty = true;
    const holdings = [...old.addresses];
    const alias = aliasOf(old, into, this.now);
    this.#unlink(old);
    for (const [address, holding] of holdings) this.#regain(into, address, holding);
    for (const mac of old.macs) this.addMac(into, mac);
    for (const client of old.clients) this.addClient(into, client);
    this.setNames(into, {
      userName: into.userName ?? old.userName,
      staticName: into.staticName ?? old.staticName,
      dhcpName: into.dhcpName ?? old.dhcpName,
    });
    if (old.firstAt < into.firstAt) [into.firstAt, into.firstDate] = [old.firstAt, old.firstDate];
    if (old.seenAt > into.seenAt) [into.seenAt, into.lastDate] = [old.seenAt, old.lastDate];
    into.evidence = Math.max(into.evidence, old.evidence);
    into.traffic = addTraffic(into.traffic, old.traffic);
    if (old.usage && into.usage) into.usage.absorb(old.usage, this.calendar, this.now);
    else into.usage ??= old.usage;
    into.leases += old.leases;
    if (old.pins) into.pins = new Set([...(into.pins ?? []), ...old.pins]);
    for (const id of old.aliases ?? []) {
      this.aliases.set(id, { ...this.aliases.get(id)!, into: into.id });
      into.aliases = [...(into.aliases ?? []), id];
    }
    this.#expelNames(into);
    this.addAlias(old.id, alias);
    this.news.merged(old.id, into.id);
    this.news.changed.add(into.id);
    if (into.pins) this.news.ends.add(into.id);
    this.#listeners.onMerge?.(old.id, into.id);
  }

  /**
   * Makes an alias a node again, and parts it from the one that it was in: they hold nothing in common yet, and
   * the caller moves what is whose (split.ts). Aliases that had come with it go with it.
   *
   * @returns undefined if there is no room.
   */
  revive(id: number, kind: Kind): Node | undefined {
    const alias = this.aliases.get(id)!;
    const from = this.#nodes.get(alias.into)!;
    if (!this.#makeRoom(kind, from)) return undefined;
    const node = newNode(id, kind, this.now);
    if (alias.firstAt < node.firstAt) [node.firstAt, node.firstDate] = [alias.firstAt, alias.firstDate];
    node.seenAt = alias.at;
    node.evidence = from.evidence;
    const siblings = from.aliases ?? [];
    const branch = this.aliases.branch(id, siblings);
    for (const each of branch) this.aliases.set(each, { ...this.aliases.get(each)!, into: id });
    const left = siblings.filter((each) => each !== id && !branch.includes(each));
    from.aliases = left.length > 0 ? left : undefined;
    node.aliases = branch.length > 0 ? branch : undefined;
    this.aliases.delete(id, none);
    this.aliases.part(id, from.id);
    this.insert(node);
    this.dirty = true;
    this.news.split(id, from.id);
    this.noteEnds(from);
    return node;
  }

  /** After `revive`, when all is moved. */
  revived(node: Node, from: Node): void {
    this.#listeners.onSplit?.(node.id, from.id);
  }

  /** Gives an address to a node, beside those that hold it; makes room by the address least worth keeping. */
  hold(node: Node, address: Address, source: Source): Holding {
    const held = node.addresses.get(address);
    if (held) return held;
    if (node.addresses.size >= this.limits.addressesPerNode) this.release(node, leastAddress(node));
    const holding = newHolding(source, this.now);
    this.#take(node, address, holding);
    return holding;
  }

  /** Hands an address from one node to another as it is held. */
  hand(from: Node, to: Node, address: Address): void {
    const holding = from.addresses.get(address);
    if (!holding) return;
    this.release(from, address);
    this.#take(to, address, holding);
  }

  /** The user vouches for an address that a node holds. */
  tie(node: Node, address: Address): void {
    const holding = node.addresses.get(address);
    if (!holding || holding.source === "user") return;
    holding.source = "user";
    node.ties++;
    this.dirty = true;
  }

  /** Takes an address from a node. If it was its home, the next that holds it becomes home. */
  release(node: Node, address: Address): void {
    const holding = node.addresses.get(address);
    if (!holding) return;
    node.addresses.delete(address);
    if (holding.source === "user") node.ties--;
    this.#homes.delete(node, address);
    this.noteEnds(node);
  }

  addMac(node: Node, mac: Mac): void {
    if (node.macs.includes(mac)) return;
    if (node.macs.length >= this.limits.macsPerNode) this.removeMac(node, node.macs[0]!);
    node.macs = [...node.macs, mac];
    const sharers = this.byMac(mac);
    this.#macs.set(mac, [...sharers, node]);
    this.noteEnds(node);
    // A MAC that is shared from now on no longer stands for the one that had it alone.
    for (const sharer of sharers) this.noteEnds(sharer);
    this.dirty = true;
  }

  removeMac(node: Node, mac: Mac): void {
    node.macs = node.macs.filter((each) => each !== mac);
    this.#unlist(node, mac);
    this.noteEnds(node);
    this.dirty = true;
  }

  addClient(node: Node, client: string): void {
    if (node.clients.includes(client)) return;
    if (node.clients.length >= this.limits.macsPerNode * 2) this.removeClient(node, node.clients[0]!);
    node.clients = [...node.clients, client];
    this.#clients.set(client, node);
    this.dirty = true;
  }

  removeClient(node: Node, client: string): void {
    node.clients = node.clients.filter((each) => each !== client);
    if (this.#clients.get(client) === node) this.#clients.delete(client);
    this.dirty = true;
  }

  /** Makes a bare address the node of a name. */
  setDnsName(node: Node, name: string): void {
    if (node.firstAt < this.now) this.#noteName(node, "dns", true);
    node.dnsName = name;
    node.observed = undefined;
    this.#names.set(name, node);
    this.news.changed.add(node.id);
  }

  setNames(node: Node, names: Partial<Pick<Node, "userName" | "staticName" | "dhcpName">>): void {
    const before = [node.userName, node.staticName, node.dhcpName];
    const persistent = isPersistent(node);
    Object.assign(node, names);
    const now = [node.userName, node.staticName, node.dhcpName];
    if (now.every((name, index) => name === before[index])) return;
    nameSources.forEach((source, index) => {
      if (now[index] !== before[index]) this.#noteName(node, source, now[index] !== undefined);
    });
    this.news.changed.add(node.id);
    if (persistent || isPersistent(node)) this.dirty = true;
  }

  /** Pins hold a node; only its first and last change what is kept on disk. */
  setPin(node: Node, reason: string, held: boolean): void {
    const before = isPersistent(node);
    const pins = new Set(node.pins);
    if (held) pins.add(reason);
    else pins.delete(reason);
    if (reason === USER_PIN && held !== node.pins?.has(reason)) this.dirty = true;
    node.pins = pins.size > 0 ? pins : undefined;
    if (before !== isPersistent(node)) this.dirty = true;
    this.news.changed.add(node.id);
  }

  /** It was seen just now. */
  touch(node: Node): void {
    node.seenAt = this.now;
    node.lastDate = undefined;
    if (this.now - node.shownAt < SHOW_MS) return;
    node.shownAt = this.now;
    node.evidence = Math.min(255, node.evidence + 1);
    this.news.changed.add(node.id);
  }

  /** Subscribers shall see it anew. */
  noteChange(node: Node): void {
    this.news.changed.add(node.id);
  }

  /** Its addresses or MACs changed. */
  noteEnds(node: Node): void {
    this.news.changed.add(node.id);
    if (!node.pins) return;
    this.news.ends.add(node.id);
    this.dirty = true;
  }

  takeChanged(): number[] {
    const ids = [...this.news.changed].filter((id) => this.#nodes.has(id));
    for (const id of ids) this.#nodes.get(id)!.announced = true;
    this.news.changed.clear();
    return ids;
  }

  /** Restores an alias; one whose node is gone is dropped. */
  addAlias(id: number, alias: Alias): void {
    const into = this.#nodes.get(alias.into);
    if (!into || this.#nodes.has(id)) return;
    this.aliases.set(id, alias);
    into.aliases = [...(into.aliases ?? []), id];
    for (const [oldest] of this.aliases.entries()) {
      if (this.aliases.size <= this.limits.aliases) break;
      this.dropAlias(oldest);
    }
  }

  dropAlias(id: number): void {
    const into = this.#nodes.get(this.aliases.get(id)?.into ?? 0);
    const left = into?.aliases?.filter((each) => each !== id) ?? [];
    if (into) into.aliases = left.length > 0 ? left : undefined;
    this.aliases.retire([id], into?.id);
    this.aliases.delete(id, left);
    this.news.removed(id, "alias");
  }

  /** Unix seconds at which a node was first and last seen, by the clock as it is set now. */
  firstSeen(node: Node): number {
    return node.firstDate ?? Math.floor((node.firstAt + this.clockOffset) / 1000);
  }

  lastSeen(node: Node): number {
    return node.lastDate ?? Math.floor((node.seenAt + this.clockOffset) / 1000);
  }

  /** @param spared A node that must not make the room. */
  #makeRoom(kind: Kind, spared?: Node): boolean {
    const { nodes } = this.limits;
    const far = this.#nodes.size - this.#devices;
    if (kind !== "device") {
      const roomy = this.#nodes.size < nodes && far < nodes - (nodes >> 2);
      return roomy || this.#evictSome("far", spared) || kind === "router";
    }
    if (this.#devices >= nodes >> 1 && this.#evictSome("strangers", spared)) return true;
    if (this.#nodes.size < nodes) return true;
    return this.#evictSome("far", spared) || this.#evictSome("strangers", spared);
  }

  #evictSome(group: "far" | "strangers", spared: Node | undefined): boolean {
    const count = Math.max(1, this.limits.nodes >> 4);
    const least = leastNodes(this.#nodes.values(), group, count).filter((node) => node !== spared);
    for (const node of least) this.remove(node, "evicted");
    return least.length > 0;
  }

  #take(node: Node, address: Address, holding: Holding): void {
    node.addresses.set(address, holding);
    if (holding.source === "user") node.ties++;
    this.#homes.add(node, address);
    this.noteEnds(node);
  }

  #regain(into: Node, address: Address, old: Holding): void {
    const isNew = !into.addresses.has(address);
    const holding = this.hold(into, address, old.source);
    if (isNew || old.sinceAt < holding.sinceAt) {
      holding.sinceAt = old.sinceAt;
      holding.sinceDate = old.sinceDate;
    }
    holding.mac ??= old.mac;
    holding.change ??= old.change;
    holding.seenAt = isNew ? old.seenAt : Math.max(holding.seenAt, old.seenAt);
    holding.untilAt = Math.max(holding.untilAt, old.untilAt);
    holding.live ||= old.live;
  }

  /** What is near is nobody else's: names that held its addresses before that was known let go of them. */
  #expelNames(node: Node): void {
    if (!isNear(node)) return;
    for (const address of node.addresses.keys()) {
      for (const other of this.holders(address)) if (other !== node) this.release(other, address);
    }
  }

  #noteName(node: Node, source: NameSource, present: boolean): void {
    const { [source]: _, ...others } = node.named ?? {};
    node.named = present ? { ...others, [source]: { sinceAt: this.now, sinceDate: undefined } } : others;
  }

  #unlist(node: Node, mac: Mac): void {
    const left = this.byMac(mac).filter((each) => each !== node);
    if (left.length > 0) this.#macs.set(mac, left);
    else this.#macs.delete(mac);
    for (const sharer of left) this.noteEnds(sharer);
  }

  #unlink(node: Node): void {
    this.#nodes.delete(node.id);
    this.news.changed.delete(node.id);
    if (node.kind === "device") this.#devices--;
    for (const address of node.addresses.keys()) this.#homes.delete(node, address);
    for (const mac of node.macs) this.#unlist(node, mac);
    for (const client of node.clients) {
      if (this.#clients.get(client) === node) this.#clients.delete(client);
    }
    if (node.dnsName !== undefined && this.#names.get(node.dnsName) === node)
      this.#names.delete(node.dnsName);
  }
}

const none: readonly never[] = [];
const nameSources = ["user", "static", "dhcp"] as const;
