/**
 * Our own side: which addresses are on-link, the router's own, a gateway's, or a device's.
 *
 * Kept, by address: the router's own addresses with their interfaces, the next hops of default routes; by
 * prefix: what is on-link. A neighbour on the LAN side gives its address to the device that identity.ts finds;
 * on the WAN side a MAC is a next hop's and ties nothing. An address that moves to another device leaves the
 * one that had it, and one that turns out to be near leaves every named node: no answer of a name server puts
 * the router or a device of ours into the address set of a name. While a device still answers for an address or
 * has it leased, a neighbour entry that is only remembered (anybody can make the kernel remember one) doesn't take it
 * away: the claim is told, and counts once it is confirmed.
 *
 * The user's word comes between what is claimed and what is proven: an address that the user tied to a node stays
 * there whatever leases and remembered neighbours say, until another device has answered for it (its MAC is
 * confirmed). That came later than the word, and packets go there. The router's own addresses are always its own.
 * A bare address that the user parted from a device is not poured into it again.
 */

import {
  type Address,
  contains,
  encodeAddress,
  type Family,
  familyOf,
  isDeviceMac,
  type Mac,
  type Prefix,
  scopeOf,
} from "../lib/address.ts";
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
  readonly #prefixes = new Map<Prefix, Side>();
  /** Of all IPv4 prefixes the addresses that name no host. */
  #nobody: ReadonlySet<Address> = new Set();
  /** The on-link prefixes of the LAN side: asked for each new address. */
  #local: readonly Net[] = [];
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
    if (scopeOf(address) === "link") return true;
    const family = familyOf(address);
    let bytes: Uint8Array | undefined;
    for (const net of this.#local) {
      if (net.family !== family) continue;
      bytes ??= encodeAddress(address);
      if (isIn(net, bytes)) return true;
    }
    return false;
  }

  /** A subnet's broadcast or network address. */
  isNobody(address: Address): boolean {
    return this.#nobody.has(address);
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
    const mac = entry.mac!;
    const confirmed = isConfirmed(entry.state);
    const holder = this.#roster.home(address);
    const before = holder?.addresses.get(address);
    const change = changeOf(before, mac, this.#roster.now);
    const contested = change !== undefined && change.contests > CONTESTS;
    const rightful = before && this.#isEntitled(holder!, address, before) ? holder : undefined;
    // Contested, it goes to whom it is leased, else it stays where it is.
    if (contested && !this.identity.hasLease(address)) {
      Object.assign(before!, { mac, change, live: true });
      this.#dispute(rightful, address, mac);
      return;
    }
    const answering = contested
      ? { mac: undefined, confirmed, since: Number.NEGATIVE_INFINITY }
      : { mac, confirmed, since: change?.at ?? Number.NEGATIVE_INFINITY };
    const found = this.identity.identify(address, answering) ?? this.#bare(address);
    // Only what is proven or leased takes an address from a device that has it by right.
    const isSure = confirmed || (found !== undefined && this.identity.isLeasedTo(address, found));
    const node =
      isSure || !rightful ? found && this.#keeper(found, address, confirmed) : this.#living(rightful);
    const holding = node && this.#settle(node, address, "neighbour");
    this.#dispute(rightful, address, mac);
    if (!holding) return;
    Object.assign(holding, { mac, change, live: true });
    if (confirmed) this.#seen(node, holding);
  }

  /** The whole neighbour table: what is not in it has gone. */
  neighbours(entries: readonly Neighbour[]): void {
    const there = new Set(entries.map((entry) => entry.address));
    for (const node of this.#roster.all()) {
      for (const [address, holding] of node.addresses) if (!there.has(address)) holding.live = false;
    }
    for (const address of this.#wanRouters) if (!there.has(address)) this.#wanRouters.delete(address);
    // What has just answered comes last: a device with more addresses than it may have keeps those.
    const isSure = ({ state }: Neighbour) => isConfirmed(state);
    for (const entry of entries) if (!isSure(entry)) this.neighbour(entry);
    for (const entry of entries) if (isSure(entry)) this.neighbour(entry);
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
    if (!change.present) this.#prefixes.delete(change.prefix);
    else if (this.#prefixes.size < CONFIGURED) this.#prefixes.set(change.prefix, change.side);
    else return;
    this.#nobody = new Set([...this.#prefixes.keys()].flatMap(nobodyIn));
    this.#local = [...this.#prefixes].filter(([, side]) => side === "lan").map(([prefix]) => netOf(prefix));
    if (change.present && change.side === "lan") this.#reclaim(change.prefix);
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
    const found = this.identity.identify(address, {
      mac,
      confirmed: false,
      since: Number.NEGATIVE_INFINITY,
    });
    const node = found && this.#keeper(found, address, false);
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

  /** The user ties an address that nobody has to a node. */
  tie(node: Node, address: Address): void {
    this.#roster.hold(node, address, "traffic");
    this.#roster.tie(node, address);
    this.identity.endow(node, address);
  }

  /** Gives an address to a device that is known to have had it, unless another has it now. */
  grant(device: Node, address: Address): void {
    const home = this.#roster.home(address);
    if (home && (!isBare(home) || this.#keeper(device, address, false) !== device)) return;
    this.#settle(device, address, "neighbour");
  }

  /** Takes addresses from devices that have not used them for long, and from the router if it had them once. */
  tick(): void {
    const before = this.#roster.now - this.#roster.limits.addressMs;
    this.identity.conflicts.tick(before);
    for (const node of this.#roster.all()) {
      if (node.kind === "router" && this.#own.size > 0) {
        for (const address of node.addresses.keys())
          if (!this.isOwn(address)) this.#roster.release(node, address);
      }
      if (node.kind !== "device") continue;
      for (const [address, holding] of node.addresses) {
        if (holding.live || holding.seenAt > before || holding.source === "user") continue;
        if (this.identity.hasLease(address)) continue;
        this.#roster.release(node, address);
      }
    }
  }

  isGatewayNode(node: Node): boolean {
    for (const address of node.addresses.keys()) if (this.#isGateway(address)) return true;
    return false;
  }

  /** Who has an address after evidence that it is a node's: that one, unless the user's word is against it. */
  #keeper(node: Node, address: Address, confirmed: boolean): Node {
    const home = this.#roster.home(address);
    if (!home || home === node) return node;
    if (isBare(home) && this.#roster.aliases.isApart(home.id, node.id)) return home;
    const tied = home.addresses.get(address)?.source === "user";
    return tied && !confirmed ? home : node;
  }

  /** Whether a device has an address by right: it still answers for it, or somebody vouches for that. */
  #isEntitled(holder: Node, address: Address, { live, source }: Holding): boolean {
    if (holder.kind !== "device") return false;
    return live || source === "user" || this.identity.isLeasedTo(address, holder);
  }

  /** A node, or what it was poured into meanwhile. */
  #living(node: Node): Node | undefined {
    return this.#roster.get(node.id);
  }

  /** Notes a claim, unless the MAC is a repeater's or, as it turned out, the rightful one's own. */
  #dispute(rightful: Node | undefined, address: Address, claimant: Mac): void {
    const holder = rightful && this.#living(rightful);
    if (!holder || holder.macs.includes(claimant) || this.identity.isCarrier(claimant)) return;
    this.identity.conflicts.note({ address, holder: holder.id, claimant, at: this.#roster.now });
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
      holding.change = memory.change;
    }
    const isTied = holding.source === "user";
    if (!isTied && (source === "dhcp" || source === "own" || source === "route")) holding.source = source;
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
}

/** A prefix as bytes. */
interface Net {
  readonly family: Family;
  readonly bytes: Uint8Array;
  readonly length: number;
}

function netOf(prefix: Prefix): Net {
  const [base, length] = prefix.split("/") as [Address, string];
  return { family: familyOf(base), bytes: encodeAddress(base), length: Number(length) };
}

function isIn({ bytes: base, length }: Net, bytes: Uint8Array): boolean {
  const whole = length >> 3;
  for (let at = 0; at < whole; at++) if (bytes[at] !== base[at]) return false;
  const mask = 0xff00 >> (length & 7);
  return (length & 7) === 0 || ((bytes[whole]! ^ base[whole]!) & mask & 0xff) === 0;
}

/** What becomes of the memory of changes when a MAC answers for an address. */
function changeOf(before: Holding | undefined, mac: Mac, now: number): Holding["change"] {
  const last = before?.change;
  const soon = last !== undefined && now - last.at < CONTEST_MS;
  if (before?.mac === undefined || before.mac === mac)
    return last && { at: last.at, contests: soon ? last.contests : 0 };
  return { at: now, contests: soon ? last.contests + 1 : 1 };
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
