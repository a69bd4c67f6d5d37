/**
 * The user's word about nodes: names, pins, merges and their undoing, addresses, and what another program
 * (SPIN) knew of them.
 *
 * Keeps nothing; what is said is kept with the nodes, and on disk. Evidence may be wrong, the user is not: what is
 * refused here makes no sense or cannot be done, and says why.
 */

import { type Address, isDeviceMac, type Mac, scopeOf } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Far } from "./far.ts";
import type { Lan } from "./lan.ts";
import { isBare, isNear, isNodeAddress, type Kind, type Node } from "./node.ts";
import type { Roster } from "./roster.ts";
import { splitNode } from "./split.ts";

/** A node as another program had it. What is no address of a node is left out. */
export interface Adoption {
  readonly mac?: Mac;
  /** What the user called it. */
  readonly name?: string;
  readonly addresses: readonly Address[];
  /** DNS names. */
  readonly names: readonly string[];
}

/** Names of users are as long as SPIN's. */
const NAME_LENGTH = 128;
/** An address that was answered once is believed for as long as the longest answer. */
const ADOPTED_TTL_SECONDS = 86_400;

export class User {
  readonly #roster: Roster;
  readonly #lan: Lan;
  readonly #far: Far;

  constructor(roster: Roster, lan: Lan, far: Far) {
    this.#roster = roster;
    this.#lan = lan;
    this.#far = far;
  }

  rename(id: number, name: string): void {
    const node = this.need(id, "rename node");
    const why = whyNoName(name);
    if (why !== undefined) throw new Fault("invalid", `Cannot rename node ${id}: ${why}`);
    this.#roster.setNames(node, { userName: name === "" ? undefined : name });
  }

  merge(id: number, into: number): number {
    const [old, kept] = [this.need(id, "merge node"), this.need(into, "merge node")];
    const why =
      old === kept
        ? "they are one node"
        : isOurs(old) && isOurs(kept)
          ? undefined
          : "only devices can be merged";
    if (why !== undefined) throw new Fault("invalid", `Cannot merge node ${id} into ${into}: ${why}`);
    this.#roster.aliases.join(old.id, kept.id);
    if (old.kind === "device") this.#roster.setKind(kept, "device");
    this.#roster.absorb(old, kept);
    return kept.id;
  }

  split(id: number): number {
    const from = this.need(id, "split node");
    const refuse = (why: string) => new Fault("invalid", `Cannot split node ${id}: ${why}`);
    if (from.id === id) throw refuse("it is not merged into another");
    if (!isOurs(from)) throw refuse("only devices can be split");
    const node = splitNode(this.#roster, this.#lan.identity, id);
    if (node === "nothing") throw refuse("nothing is left of what it was");
    if (node === "full") throw new Fault("limit", `Cannot split node ${id}: there are too many nodes`);
    this.#far.split(from.id, node.id);
    return from.id;
  }

  forget(id: number): void {
    const node = this.need(id, "forget node");
    const why =
      node.id !== id
        ? `it was merged into ${node.id}`
        : node.kind === "router" || node.kind === "gateway"
          ? `it is the ${node.kind}`
          : node.pins
            ? `it is pinned by ${[...node.pins].join(", ")}`
            : undefined;
    if (why !== undefined) throw new Fault("invalid", `Cannot forget node ${id}: ${why}`);
    this.#roster.remove(node, "user");
  }

  addAddress(id: number, address: Address): number {
    const what = `Cannot add address ${address} to node ${id}`;
    const node = id === 0 ? undefined : this.need(id, `add address ${address} to node`);
    if (!isNodeAddress(address) || this.#lan.isNobody(address)) {
      throw new Fault("invalid", `${what}: it names no device`);
    }
    if (node && !isOurs(node) && isNear(node)) throw new Fault("invalid", `${what}: it is the ${node.kind}`);
    const holder = this.#roster.home(address);
    if (holder) throw new Fault("conflict", `${what}: it is node ${holder.id}'s`);
    if (this.#lan.isOwn(address)) throw new Fault("conflict", `${what}: it is the router's`);
    if (node && node.ties >= this.#roster.limits.addressesPerNode) {
      throw new Fault("limit", `${what}: it has as many as it may have`);
    }
    const kept = node ?? this.#make(this.#lan.isLocal(address) ? "local" : "address", what);
    this.#lan.tie(kept, address);
    return kept.id;
  }

  adopt(adoption: Adoption): number {
    const addresses = adoption.addresses.filter((each) => isNodeAddress(each) && !this.#lan.isNobody(each));
    const node =
      this.#own(addresses) ??
      (adoption.mac !== undefined && isDeviceMac(adoption.mac)
        ? this.#adoptDevice(adoption.mac, addresses)
        : (this.#adoptLocal(addresses) ?? this.#adoptFar(addresses, adoption.names)));
    const { name } = adoption;
    const isNew = name !== undefined && name !== "" && node.userName === undefined && node.dhcpName !== name;
    if (isNew && whyNoName(name) === undefined) this.#roster.setNames(node, { userName: name });
    return node.id;
  }

  need(id: number, verb: string): Node {
    const node = this.#roster.get(id);
    if (!node) throw new Fault("not-found", `Cannot ${verb} ${id}: there is no such node`);
    return node;
  }

  /** SPIN took the router and its gateway for devices; here they are what they are. */
  #own(addresses: readonly Address[]): Node | undefined {
    const homes = addresses.map((address) => this.#roster.home(address));
    return homes.find((home) => home?.kind === "router" || home?.kind === "gateway");
  }

  #adoptDevice(mac: Mac, addresses: readonly Address[]): Node {
    const ours = addresses.filter((address) => this.#isOurs(address));
    const sharers = this.#roster.byMac(mac);
    const known = sharers.find((each) => ours.some((address) => each.addresses.has(address))) ?? sharers[0];
    const bare = ours.map((address) => this.#roster.home(address)).find((home) => home && isBare(home));
    const device = known ?? bare ?? this.#make("device", `Cannot adopt device ${mac}`);
    if (!known) {
      this.#roster.setKind(device, "device");
      device.observed = undefined;
      this.#roster.addMac(device, mac);
    }
    for (const address of ours.slice(0, this.#roster.limits.addressesPerNode))
      this.#lan.grant(device, address);
    return device;
  }

  /** A node of our own network without MAC. */
  #adoptLocal(addresses: readonly Address[]): Node | undefined {
    const ours = addresses.filter((address) => this.#isOurs(address));
    if (ours.length === 0) return undefined;
    const homes = ours.map((address) => this.#roster.home(address));
    const known = homes.find((home) => home && isNear(home)) ?? homes.find((home) => home);
    const node = known ?? this.#make("local", `Cannot adopt address ${ours[0]}`);
    for (const address of ours) if (!this.#roster.home(address)) this.#roster.hold(node, address, "traffic");
    return node;
  }

  /** Each name is a node; the first stands for them all. Without a name, the first address does. */
  #adoptFar(addresses: readonly Address[], names: readonly string[]): Node {
    const answers = addresses.map((address) => ({ address, ttlSeconds: ADOPTED_TTL_SECONDS }));
    const [first] = names.map((name) => this.#far.observe(name, answers));
    if (first) return first;
    const [address] = addresses;
    if (address === undefined) {
      throw new Fault("invalid", "Cannot adopt node: it has no MAC, address or name that could be a node's");
    }
    const homes = addresses.map((each) => this.#roster.home(each));
    const node = homes.find((home) => home) ?? this.#make("address", `Cannot adopt address ${address}`);
    for (const each of addresses.slice(0, this.#roster.limits.addressesPerNode)) {
      if (!this.#roster.home(each) && this.#lan.isFar(each)) this.#roster.hold(node, each, "traffic");
    }
    return node;
  }

  /** Of our own network, as far as known: when another's files are read, no interface may be known yet. */
  #isOurs(address: Address): boolean {
    const home = this.#roster.home(address);
    if (home && isNear(home)) return true;
    return scopeOf(address) === "private" || this.#lan.isLocal(address);
  }

  #make(kind: Kind, what: string): Node {
    const node = this.#roster.create(kind);
    if (!node) throw new Fault("limit", `${what}: there are too many nodes`);
    return node;
  }
}

/** Something on our own network that is neither the router nor a way out of it. */
function isOurs(node: Node): boolean {
  return node.kind === "device" || node.kind === "local";
}

function whyNoName(name: string): string | undefined {
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(name)) return "the name has control characters";
  return name.length > NAME_LENGTH ? `the name is longer than ${NAME_LENGTH} characters` : undefined;
}
