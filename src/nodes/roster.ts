/**
 * The nodes and how to find them: by id (also an old one that was merged away), address, MAC, DHCP identity
 * and name. Who is who is decided in lan.ts and far.ts; this file keeps the books of it.
 *
 * An address has one home, the node it is shown and booked under; only named nodes may hold it besides. Counts
 * are bounded: far and bare nodes make room for others of their kind, the least seen first; devices that nobody
 * vouches for make room for devices; what is known or wanted stays.
 *
 * Every change is noted three ways, for subscribers (`takeChanged…`), for the kernel (`onEnds`, at the end of
 * the verb that caused it, pinned nodes only) and for the disk (`dirty`).
 */

import type { Address, Mac } from "../lib/address.ts";
import {
  addTraffic,
  type Holding,
  isKnown,
  isPersistent,
  isWanted,
  type Kind,
  type Limits,
  type Moment,
  type Node,
  newHolding,
  noTraffic,
  type Source,
} from "./node.ts";
import { Numbers } from "./numbers.ts";

/** How often a node that is merely seen again is worth telling. */
const SHOW_MS = 60_000;

export type RemovalReason = "expired" | "evicted" | "alias";

/** An id that was merged away, with what would be needed to part the two again. */
export interface Alias {
  readonly into: number;
  readonly at: number;
  readonly macs: readonly Mac[];
  readonly clients: readonly string[];
  readonly userName: string | undefined;
}

export interface Listeners {
  /** These pinned nodes have other addresses or MACs than before. Called before the verb returns. */
  onEnds?(ids: readonly number[]): void;
  /** A node was poured into another; the old id answers for the new one. Called before `onEnds`. */
  onMerge?(old: number, into: number): void;
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

  readonly #listeners: Listeners;
  readonly #nodes = new Map<number, Node>();
  readonly #aliases = new Map<number, Alias>();
  readonly #homes = new Map<Address, Node>();
  /** Named nodes that hold an address whose home is another. */
  readonly #guests = new Map<Address, Node[]>();
  readonly #macs = new Map<Mac, Node[]>();
  readonly #clients = new Map<string, Node>();
  readonly #names = new Map<string, Node>();
  #devices = 0;

  readonly #changed = new Set<number>();
  #removed: { id: number; reason: RemovalReason }[] = [];
  #merged: { id: number; into: number }[] = [];
  readonly #ends = new Set<number>();

  constructor(limits: Limits, listeners: Listeners) {
    this.limits = limits;
    this.#listeners = listeners;
  }

  /** Each verb of the room begins here … */
  begin(at: Moment): void {
    this.now = at.now;
    this.clockOffset = at.date - at.now;
  }

  /** … and ends here. */
  settle(): void {
    if (this.#ends.size === 0) return;
    const ids = [...this.#ends].filter((id) => this.#nodes.has(id));
    this.#ends.clear();
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
    return this.#nodes.get(id) ?? this.#nodes.get(this.#aliases.get(id)?.into ?? 0);
  }

  home(address: Address): Node | undefined {
    return this.#homes.get(address);
  }

  /** Every node that holds an address, its home first. */
  holders(address: Address): readonly Node[] {
    const home = this.#homes.get(address);
    return home ? [home, ...(this.#guests.get(address) ?? [])] : [];
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

  aliases(): IterableIterator<[number, Alias]> {
    return this.#aliases.entries();
  }

  /** @returns undefined if there is no room for a node of this kind. */
  create(kind: Kind): Node | undefined {
    const id = this.#makeRoom(kind) ? this.numbers.give(this.now) : undefined;
    if (id === undefined) {
      this.refused++;
      return undefined;
    }
    if (this.numbers.short) this.dirty = true;
    const node: Node = {
      id,
      kind,
      addresses: new Map(),
      macs: none,
      clients: none,
      dnsName: undefined,
      observed: undefined,
      userName: undefined,
      staticName: undefined,
      dhcpName: undefined,
      firstAt: this.now,
      seenAt: this.now,
      firstDate: undefined,
      lastDate: undefined,
      shownAt: this.now,
      evidence: 0,
      traffic: noTraffic,
      pins: undefined,
      leases: 0,
      aliases: undefined,
      announced: false,
    };
    this.insert(node);
    return node;
  }

  /** Takes in a node with everything it holds; its id is taken. */
  insert(node: Node): void {
    this.#nodes.set(node.id, node);
    if (node.kind === "device") this.#devices++;
    for (const address of node.addresses.keys()) this.#lodge(node, address);
    for (const mac of node.macs) this.#macs.set(mac, [...this.byMac(mac), node]);
    for (const client of node.clients) this.#clients.set(client, node);
    if (node.dnsName !== undefined) this.#names.set(node.dnsName, node);
    this.#changed.add(node.id);
    if (isPersistent(node)) this.dirty = true;
  }

  setKind(node: Node, kind: Kind): void {
    if (node.kind === kind) return;
    this.#devices += (kind === "device" ? 1 : 0) - (node.kind === "device" ? 1 : 0);
    const before = isPersistent(node);
    node.kind = kind;
    if (before || isPersistent(node)) this.dirty = true;
    this.#changed.add(node.id);
  }

  remove(node: Node, reason: RemovalReason): void {
    if (isPersistent(node)) this.dirty = true;
    this.#unlink(node);
    for (const alias of node.aliases ?? []) {
      this.#aliases.delete(alias);
      this.#report(alias, "alias");
    }
    if (node.announced) this.#report(node.id, reason);
    if (reason === "evicted") this.evicted++;
  }

  /** Pours one node into another, with addresses, identities, names, counters and pins; its id stays an alias. */
  absorb(old: Node, into: Node): void {
    if (isPersistent(old) || isPersistent(into)) this.dirty = true;
    const holdings = [...old.addresses];
    this.#unlink(old);
    for (const [address, holding] of holdings) this.#regain(into, address, holding);
    for (const mac of old.macs) this.addMac(into, mac);
    for (const client of old.clients) this.addClient(into, client);
    into.userName ??= old.userName;
    into.staticName ??= old.staticName;
    into.dhcpName ??= old.dhcpName;
    if (old.firstAt < into.firstAt) [into.firstAt, into.firstDate] = [old.firstAt, old.firstDate];
    if (old.seenAt > into.seenAt) [into.seenAt, into.lastDate] = [old.seenAt, old.lastDate];
    into.evidence = Math.max(into.evidence, old.evidence);
    into.traffic = addTraffic(into.traffic, old.traffic);
    into.leases += old.leases;
    if (old.pins) into.pins = new Set([...(into.pins ?? []), ...old.pins]);
    this.#alias(old, into);
    this.#merged.push({ id: old.id, into: into.id });
    if (this.#merged.length > this.limits.aliases) this.#merged.shift();
    this.#changed.add(into.id);
    if (into.pins) this.#ends.add(into.id);
    this.#listeners.onMerge?.(old.id, into.id);
  }

  /** Gives an address to a node, beside those that hold it; makes room by the address least worth keeping. */
  hold(node: Node, address: Address, source: Source): Holding {
    const held = node.addresses.get(address);
    if (held) return held;
    if (node.addresses.size >= this.limits.addressesPerNode) this.release(node, leastOf(node));
    const holding = newHolding(source, this.now);
    node.addresses.set(address, holding);
    this.#lodge(node, address);
    this.noteEnds(node);
    return holding;
  }

  /** Takes an address from a node. If it was its home, the next that holds it becomes home. */
  release(node: Node, address: Address): void {
    if (!node.addresses.delete(address)) return;
    this.#evict(node, address);
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
    node.dnsName = name;
    node.observed = undefined;
    this.#names.set(name, node);
    this.#changed.add(node.id);
  }

  setNames(node: Node, names: Partial<Pick<Node, "userName" | "staticName" | "dhcpName">>): void {
    const before = [node.userName, node.staticName, node.dhcpName];
    const persistent = isPersistent(node);
    Object.assign(node, names);
    if (before[0] === node.userName && before[1] === node.staticName && before[2] === node.dhcpName) return;
    this.#changed.add(node.id);
    if (persistent || isPersistent(node)) this.dirty = true;
  }

  /** Pins hold a node; only its first and last change what is kept on disk. */
  setPin(node: Node, reason: string, held: boolean): void {
    const before = isPersistent(node);
    const pins = new Set(node.pins);
    if (held) pins.add(reason);
    else pins.delete(reason);
    node.pins = pins.size > 0 ? pins : undefined;
    if (before !== isPersistent(node)) this.dirty = true;
    this.#changed.add(node.id);
  }

  /** It was seen just now. */
  touch(node: Node): void {
    node.seenAt = this.now;
    node.lastDate = undefined;
    if (this.now - node.shownAt < SHOW_MS) return;
    node.shownAt = this.now;
    node.evidence = Math.min(255, node.evidence + 1);
    this.#changed.add(node.id);
  }

  /** Subscribers shall see it anew. */
  noteChange(node: Node): void {
    this.#changed.add(node.id);
  }

  /** Its addresses or MACs changed. */
  noteEnds(node: Node): void {
    this.#changed.add(node.id);
    if (!node.pins) return;
    this.#ends.add(node.id);
    this.dirty = true;
  }

  takeChanged(): number[] {
    const ids = [...this.#changed].filter((id) => this.#nodes.has(id));
    for (const id of ids) this.#nodes.get(id)!.announced = true;
    this.#changed.clear();
    return ids;
  }

  takeRemoved(): { id: number; reason: RemovalReason }[] {
    const taken = this.#removed;
    this.#removed = [];
    return taken;
  }

  takeMerged(): { id: number; into: number }[] {
    const taken = this.#merged;
    this.#merged = [];
    return taken;
  }

  /** Restores an alias from disk; one whose node is gone is dropped. */
  addAlias(id: number, alias: Alias): void {
    const into = this.#nodes.get(alias.into);
    if (!into || this.#nodes.has(id)) return;
    this.#aliases.set(id, alias);
    into.aliases = [...(into.aliases ?? []), id];
    for (const [oldest] of this.#aliases) {
      if (this.#aliases.size <= this.limits.aliases) break;
      this.dropAlias(oldest);
    }
  }

  dropAlias(id: number): void {
    const into = this.#nodes.get(this.#aliases.get(id)?.into ?? 0);
    if (into) {
      const left = into.aliases?.filter((each) => each !== id) ?? [];
      into.aliases = left.length > 0 ? left : undefined;
    }
    this.#aliases.delete(id);
    this.#report(id, "alias");
  }

  /** Unix seconds at which a node was first and last seen, by the clock as it is set now. */
  firstSeen(node: Node): number {
    return node.firstDate ?? Math.floor((node.firstAt + this.clockOffset) / 1000);
  }

  lastSeen(node: Node): number {
    return node.lastDate ?? Math.floor((node.seenAt + this.clockOffset) / 1000);
  }

  #makeRoom(kind: Kind): boolean {
    const { nodes } = this.limits;
    const far = this.#nodes.size - this.#devices;
    if (kind !== "device") {
      const roomy = this.#nodes.size < nodes && far < nodes - (nodes >> 2);
      return roomy || this.#evictSome("far") || kind === "router";
    }
    if (this.#devices >= nodes >> 1 && this.#evictSome("strangers")) return true;
    if (this.#nodes.size < nodes) return true;
    return this.#evictSome("far") || this.#evictSome("strangers");
  }

  /** Several at once, so that a flood doesn't sort all nodes for each newcomer. */
  #evictSome(group: "far" | "strangers"): boolean {
    const candidates = [...this.#nodes.values()].filter((node) =>
      group === "strangers"
        ? node.kind === "device" && !isKnown(node)
        : (node.kind === "local" || node.kind === "address" || node.kind === "name") && !isWanted(node),
    );
    candidates.sort((a, b) => worth(a) - worth(b) || a.seenAt - b.seenAt);
    const count = Math.max(1, this.limits.nodes >> 6);
    for (const node of candidates.slice(0, count)) this.remove(node, "evicted");
    return candidates.length > 0;
  }

  #lodge(node: Node, address: Address): void {
    const home = this.#homes.get(address);
    const guests = this.#guests.get(address) ?? [];
    // Whoever is that address comes before a name that merely holds it, whichever was there first.
    const moves = home?.kind === "name" && node.kind !== "name";
    if (!home || home === node || moves) this.#homes.set(address, node);
    if (moves) this.#guests.set(address, [home, ...guests]);
    else if (home && home !== node) this.#guests.set(address, [...guests, node]);
  }

  #evict(node: Node, address: Address): void {
    const guests = (this.#guests.get(address) ?? []).filter((each) => each !== node);
    if (this.#homes.get(address) === node) {
      const heir = guests.shift();
      if (heir) this.#homes.set(address, heir);
      else this.#homes.delete(address);
    }
    if (guests.length > 0) this.#guests.set(address, guests);
    else this.#guests.delete(address);
  }

  #regain(into: Node, address: Address, old: Holding): void {
    const holding = this.hold(into, address, old.source);
    holding.mac ??= old.mac;
    holding.macAt = Math.max(holding.macAt, old.macAt);
    holding.seenAt = Math.max(holding.seenAt, old.seenAt);
    holding.untilAt = Math.max(holding.untilAt, old.untilAt);
    holding.live ||= old.live;
  }

  #unlist(node: Node, mac: Mac): void {
    const left = this.byMac(mac).filter((each) => each !== node);
    if (left.length > 0) this.#macs.set(mac, left);
    else this.#macs.delete(mac);
    for (const sharer of left) this.noteEnds(sharer);
  }

  #unlink(node: Node): void {
    this.#nodes.delete(node.id);
    this.#changed.delete(node.id);
    if (node.kind === "device") this.#devices--;
    for (const address of node.addresses.keys()) this.#evict(node, address);
    for (const mac of node.macs) this.#unlist(node, mac);
    for (const client of node.clients) {
      if (this.#clients.get(client) === node) this.#clients.delete(client);
    }
    if (node.dnsName !== undefined && this.#names.get(node.dnsName) === node)
      this.#names.delete(node.dnsName);
  }

  #alias(old: Node, into: Node): void {
    for (const id of old.aliases ?? []) {
      const alias = this.#aliases.get(id);
      this.#aliases.delete(id);
      if (alias) this.addAlias(id, { ...alias, into: into.id });
    }
    const { macs, clients, userName } = old;
    this.addAlias(old.id, { into: into.id, at: this.now, macs, clients, userName });
  }

  #report(id: number, reason: RemovalReason): void {
    this.#removed.push({ id, reason });
    if (this.#removed.length > this.limits.nodes * 4) this.#removed.splice(0, this.limits.nodes);
  }
}

const none: readonly never[] = [];

/** Minutes in which a node was seen, and whether traffic was booked on it. */
function worth(node: Node): number {
  return node.evidence * 2 + (node.traffic === noTraffic ? 0 : 1);
}

/** The address that a full node gives up: answered by nobody, not leased, longest unseen. */
function leastOf(node: Node): Address {
  let least: Address | undefined;
  let lowest = Number.POSITIVE_INFINITY;
  for (const [address, holding] of node.addresses) {
    const bonus = (holding.live ? 1e12 : 0) + (holding.source === "dhcp" ? 2e12 : 0);
    const value = Math.max(holding.seenAt, holding.untilAt) + bonus;
    if (value < lowest) [least, lowest] = [address, value];
  }
  return least!;
}
