/**
 * Our own side: which addresses are on-link, the router's own, a gateway's, or a device's.
 *
 * Kept, by address: the router's own addresses with their interfaces, the next hops of default routes; by
 * prefix: what is on-link. A neighbour on the LAN side gives its address to the device that identity.ts finds;
 * on the WAN side a MAC is a next hop's and ties nothing. An address that moves to another device leaves the
 * one that had it, and one that turns out to be near leaves every named node: no answer of a name server puts
 * the router or a device of ours into the address set of a name.
 */

import { type Address, contains, isDeviceMac, type Mac, type Prefix, scopeOf } from "../lib/address.ts";
import { Identity, type Lease, type StaticHost } from "./identity.ts";
import { type Holding, isBare, isNear, isNodeAddress, type Node, type Source } from "./node.ts";
import type { Roster } from "./roster.ts";

export type Side = "lan" | "wan";

/** States of neighbour entries (NUD_… of linux/neighbour.h); "gone" is a deleted entry. */
export type NeighbourState =
  | "permanent"
  | "noarp"
  | "reachable"
  | "stale"
  | "delay"
  | "probe"
  | "incomplete"
  | "failed"
  | "none"
  | "gone";

/** An entry of the neighbour table, or its change. */
export interface Neighbour {
  readonly address: Address;
  readonly mac?: Mac;
  /** Of the interface that has the entry. */
  readonly side: Side;
  readonly state: NeighbourState;
  /** It says that it is a router (NTF_ROUTER). */
  readonly router?: boolean;
}

/** An address of the router itself on one of its interfaces, there or no longer. */
export interface OwnAddress {
  readonly address: Address;
  readonly interface: string;
  readonly present: boolean;
}

/** A prefix that is on-link on one side, or no longer. */
export interface OnLink {
  readonly prefix: Prefix;
  readonly side: Side;
  readonly present: boolean;
}

/** Changes of MAC within this time of each other are a contest … */
const CONTEST_MS = 60_000;
/** … that the address doesn't follow past this many. */
const CONTESTS = 4;
/** Own addresses, prefixes and next hops are configuration: more than so many of each is nonsense. */
const CONFIGURED = 1024;
/** Neighbours on the WAN that say they route: these are others' words, so fewer. */
const WAN_ROUTERS = 64;

export class Lan {
  readonly identity: Identity;
  readonly #roster: Roster;
  readonly #own = new Map<Address, Set<string>>();
  /** On-link prefix → its side and, for IPv4, the addresses that name no host. */
  readonly #prefixes = new Map<Prefix, { readonly side: Side; readonly nobody: readonly Address[] }>();
  readonly #hops = new Set<Address>();
  readonly #wanRouters = new Set<Address>();

  constructor(roster: Roster) {
    this.#roster = roster;
    this.identity = new Identity(roster);
  }

  isOwn(address: Address): boolean {
    return this.#own.has(address);
  }

  /** Whether an address, seen for the first time, must be of our own network. */
  isLocal(address: Address): boolean {
    return scopeOf(address) === "link" || this.#onLink(address, "lan");
  }

  /** A subnet's broadcast or network address. */
  isNobody(address: Address): boolean {
    for (const { nobody } of this.#prefixes.values()) if (nobody.includes(address)) return true;
    return false;
  }

  /** Whether an answer of a name server may put this address into the set of a name. */
  isFar(address: Address): boolean {
    if (!isNodeAddress(address) || this.isOwn(address) || this.#isGateway(address)) return false;
    const home = this.#roster.home(address);
    if (home && isNear(home)) return false;
    return !this.isLocal(address) && !this.isNobody(address);
  }

  neighbour(entry: Neighbour): void {
    const { address } = entry;
    if (!isNodeAddress(address) || this.isOwn(address)) return;
    if (entry.side === "wan") this.#wanNeighbour(entry);
    else this.#lanNeighbour(entry);
  }

  #lanNeighbour(entry: Neighbour): void {
    const { address } = entry;
    const answers = entry.mac !== undefined && isDeviceMac(entry.mac) && isUsable(entry.state);
    if (!answers) {
      const holding = this.#roster.home(address)?.addresses.get(address);
      if (holding) holding.live = false;
      return;
    }
    const confirmed = isConfirmed(entry.state);
    const before = this.#roster.home(address)?.addresses.get(address);
    const change = this.#changeOf(before, entry.mac!);
    const contested = change.contests > CONTESTS;
    if (contested) this.identity.conflicts++;
    // Contested, it goes to whom it is leased, else it stays where it is.
    if (contested && !this.identity.hasLease(address)) {
      Object.assign(before!, change, { live: true });
      return;
    }
    const answering = contested
      ? { mac: undefined, confirmed, since: Number.NEGATIVE_INFINITY }
      : { mac: entry.mac, confirmed, since: change.macAt };
    const node = this.identity.identify(address, answering) ?? this.#bare(address);
    const holding = node && this.#settle(node, address, "neighbour");
    if (!holding) return;
    Object.assign(holding, change, { live: true });
    if (confirmed) this.#seen(node, holding);
  }

  /** The whole neighbour table: what is not in it has gone. */
  neighbours(entries: readonly Neighbour[]): void {
    const there = new Set(entries.map((entry) => entry.address));
    for (const node of this.#roster.all()) {
      for (const [address, holding] of node.addresses) if (!there.has(address)) holding.live = false;
    }
    for (const address of this.#wanRouters) if (!there.has(address)) this.#wanRouters.delete(address);
    for (const entry of entries) this.neighbour(entry);
    this.#refreshGateways();
  }

  ownAddress(change: OwnAddress): void {
    const { address } = change;
    if (!isNodeAddress(address)) return;
    const interfaces = this.#own.get(address) ?? new Set();
    if (!change.present) {
      interfaces.delete(change.interface);
      if (interfaces.size > 0 || !this.#own.delete(address)) return;
      const router = this.#router();
      if (router) this.#roster.release(router, address);
      return;
    }
    if (this.#own.size >= CONFIGURED || interfaces.size >= CONFIGURED) return;
    this.#own.set(address, interfaces.add(change.interface));
    const router = this.#router() ?? this.#roster.create("router");
    if (router) this.#settle(router, address, "own");
  }

  prefix(change: OnLink): void {
    if (!change.present) {
      this.#prefixes.delete(change.prefix);
      return;
    }
    if (this.#prefixes.size >= CONFIGURED) return;
    this.#prefixes.set(change.prefix, { side: change.side, nobody: nobodyIn(change.prefix) });
    if (change.side === "lan") this.#reclaim(change.prefix);
  }

  /** The next hops of all default routes. */
  nextHops(addresses: readonly Address[]): void {
    this.#hops.clear();
    for (const address of addresses.slice(0, CONFIGURED)) this.#hops.add(address);
    this.#refreshGateways();
  }

  lease(lease: Lease): void {
    const { address } = lease;
    if (!isNodeAddress(address) || this.isOwn(address)) return;
    const noted = this.identity.note(lease);
    if (noted === "same" || noted === "refused") return;
    const holding = this.#roster.home(address)?.addresses.get(address);
    // An IPv4 lease tells its MAC itself; what answered before the lease may be who had the address then.
    const mac = lease.mac === undefined && holding?.live ? holding.mac : undefined;
    const node = this.identity.identify(address, {
      mac,
      confirmed: false,
      since: Number.NEGATIVE_INFINITY,
    });
    const held = node && this.#settle(node, address, "dhcp");
    if (held && noted === "renewed") this.#seen(node, held);
  }

  /** The whole lease file: what is not in it has ended. */
  leases(all: readonly Lease[]): void {
    const there = new Set(all.map((lease) => lease.address));
    for (const address of [...this.identity.leases()]) if (!there.has(address)) this.endLease(address);
    for (const lease of all) this.lease(lease);
  }

  endLease(address: Address): void {
    this.identity.forget(address);
    const holding = this.#roster.home(address)?.addresses.get(address);
    if (holding?.source === "dhcp") holding.source = "neighbour";
  }

  hosts(hosts: readonly StaticHost[]): void {
    this.identity.setHosts(hosts);
  }

  /** The node of an address that is ours but nobody's yet. */
  local(address: Address): Node | undefined {
    const node = this.#bare(address);
    if (node) this.#settle(node, address, "traffic");
    return node;
  }

  /** Takes addresses from devices that have not used them for long, and from the router if it had them once. */
  tick(): void {
    const before = this.#roster.now - this.#roster.limits.addressMs;
    for (const node of this.#roster.all()) {
      if (node.kind === "router" && this.#own.size > 0) {
        for (const address of node.addresses.keys())
          if (!this.isOwn(address)) this.#roster.release(node, address);
      }
      if (node.kind !== "device") continue;
      for (const [address, holding] of node.addresses) {
        if (holding.live || holding.seenAt > before || this.identity.hasLease(address)) continue;
        this.#roster.release(node, address);
      }
    }
  }

  isGatewayNode(node: Node): boolean {
    for (const address of node.addresses.keys()) if (this.#isGateway(address)) return true;
    return false;
  }

  /** What becomes of a holding's memory of MACs when one answers. */
  #changeOf(before: Holding | undefined, mac: Mac): Pick<Holding, "mac" | "macAt" | "contests"> {
    if (!before || before.mac === undefined || before.mac === mac) {
      return {
        mac,
        macAt: before?.macAt ?? Number.NEGATIVE_INFINITY,
        contests: before && this.#roster.now - before.macAt < CONTEST_MS ? before.contests : 0,
      };
    }
    const soon = this.#roster.now - before.macAt < CONTEST_MS;
    return { mac, macAt: this.#roster.now, contests: soon ? before.contests + 1 : 1 };
  }

  #wanNeighbour(entry: Neighbour): void {
    const { address, mac } = entry;
    const usable = mac !== undefined && isUsable(entry.state);
    const router = usable && entry.router === true && this.#wanRouters.size < WAN_ROUTERS;
    if (router !== this.#wanRouters.has(address)) {
      if (router) this.#wanRouters.add(address);
      else this.#wanRouters.delete(address);
      this.#refreshGateways();
    }
    const node = this.#roster.home(address);
    const holding = node?.kind === "gateway" ? node.addresses.get(address) : undefined;
    if (!node || !holding) return;
    if (usable) holding.mac = mac;
    holding.live = usable;
    if (isConfirmed(entry.state)) this.#seen(node, holding);
  }

  #isGateway(address: Address): boolean {
    return this.#hops.has(address) || this.#wanRouters.has(address);
  }

  #refreshGateways(): void {
    for (const address of [...this.#hops, ...this.#wanRouters]) {
      const home = this.#roster.home(address);
      if (!isNodeAddress(address) || home?.kind === "gateway") continue;
      // A next hop on the LAN is a device like any other.
      if (home && (home.kind === "device" || home.kind === "router")) continue;
      const node = home && isBare(home) ? home : this.#roster.create("gateway");
      if (!node) continue;
      this.#roster.setKind(node, "gateway");
      this.#settle(node, address, "route");
    }
    for (const node of this.#roster.all()) {
      if (node.kind === "gateway" && !this.isGatewayNode(node)) this.#roster.setKind(node, "address");
    }
  }

  /** Makes a node the one that has an address, whoever had it. Undefined: it is the router's own. */
  #settle(node: Node, address: Address, source: Source): Holding | undefined {
    let memory: Holding | undefined;
    for (const holder of this.#roster.holders(address)) {
      if (holder === node) continue;
      if (holder.kind === "router" && this.isOwn(address)) return undefined;
      if (holder.kind !== "name") memory = holder.addresses.get(address);
      // A bare node was this address and nothing else: it was this node all along.
      if (isBare(holder)) this.#roster.absorb(holder, node);
      else this.#roster.release(holder, address);
    }
    const holding = this.#roster.hold(node, address, source);
    if (memory) {
      holding.mac = memory.mac;
      holding.macAt = memory.macAt;
      holding.contests = memory.contests;
    }
    if (source === "dhcp" || source === "own" || source === "route") holding.source = source;
    this.identity.endow(node, address);
    return holding;
  }

  #bare(address: Address): Node | undefined {
    const home = this.#roster.home(address);
    if (home && home.kind !== "name") return home;
    return this.#roster.create("local");
  }

  /** Addresses of a prefix that we learn to be ours were taken for far ones until now. */
  #reclaim(prefix: Prefix): void {
    for (const node of this.#roster.all()) {
      if (node.kind !== "address" && node.kind !== "name") continue;
      for (const address of node.addresses.keys()) {
        if (!contains(prefix, address)) continue;
        if (node.kind === "address") this.#roster.setKind(node, "local");
        else this.#roster.release(node, address);
      }
    }
  }

  #seen(node: Node, holding: Holding): void {
    holding.seenAt = this.#roster.now;
    this.#roster.touch(node);
  }

  #router(): Node | undefined {
    for (const node of this.#roster.all()) if (node.kind === "router") return node;
    return undefined;
  }

  #onLink(address: Address, side: Side): boolean {
    for (const [prefix, entry] of this.#prefixes) {
      if (entry.side === side && contains(prefix, address)) return true;
    }
    return false;
  }
}

function isUsable(state: NeighbourState): boolean {
  return isConfirmed(state) || state === "stale" || state === "delay" || state === "probe";
}

function isConfirmed(state: NeighbourState): boolean {
  return state === "reachable" || state === "permanent";
}

/** Network and broadcast address of an IPv4 prefix that has them. */
function nobodyIn(prefix: Prefix): Address[] {
  const [base, length] = prefix.split("/") as [Address, string];
  if (base.includes(":") || Number(length) > 30) return [];
  const host = 2 ** (32 - Number(length)) - 1;
  const value = base.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0) + host;
  const last = [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
  return [base, last as Address];
}
