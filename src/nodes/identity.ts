/**
 * Which device an address of our network belongs to.
 *
 * Two things tie addresses into one device: the MAC that answers for them, and the DHCP identity they are
 * leased to. (The third is the user's word: a merge, in nodes.ts.) Kept here, by address: the leases; by MAC
 * and address: the administrator's static names. The rules, in the order in which they decide:
 *
 * 1. The MAC of a pinned device decides alone. Whatever else it may claim by DHCP, a device that is blocked
 *    stays what it is.
 * 2. A lease decides against the MAC that answers, unless that MAC took the address over from another one
 *    after the lease was last renewed. A MAC confirmed for an address that is leased to another MAC carries
 *    other devices (a repeater): it ties nothing but what is leased to itself.
 * 3. Several DHCP identities on one MAC, with leases at the same time, are several devices; the MAC then ties
 *    nothing more and stands for none of them. What it tied before, it may have tied wrongly; that stays until
 *    it moves.
 * 4. One DHCP identity with a new MAC is the same device (a phone that makes up MACs). Where the other MAC has
 *    an identity of its own, or is wanted by somebody, or the user parted the two, they stay apart: identities can
 *    be forged.
 */

import type { Address, Mac } from "../lib/address.ts";
import { Conflicts } from "./conflicts.ts";
import { isBare, isWanted, type Node } from "./node.ts";
import type { Roster } from "./roster.ts";

/** A DHCP lease, as a server told it. */
export interface Lease {
  readonly address: Address;
  /** The MAC in the DHCP messages; IPv6 leases have none. */
  readonly mac?: Mac;
  /** What the client calls itself; anything. */
  readonly name?: string;
  /** Client id (IPv4) or DUID (IPv6) in hex, as the server writes it. */
  readonly clientId?: string;
  /** Unix milliseconds; 0 is never. Only its change is heeded: clocks of routers are wrong. */
  readonly expiresAt: number;
}

/** A host that the administrator named (`config host`). */
export interface StaticHost {
  readonly name: string;
  readonly macs: readonly Mac[];
  readonly address?: Address;
}

/** What the neighbour table says of an address. */
export interface Answering {
  readonly mac: Mac | undefined;
  /** The MAC has just proven that it answers, it is not only remembered. */
  readonly confirmed: boolean;
  /** When it took the address over from another MAC; -Infinity if it didn't. */
  readonly since: number;
}

/** What ties addresses to a device. */
export interface Ties {
  readonly macs: readonly Mac[];
  readonly clients: readonly string[];
}

interface HeldLease extends Lease {
  /** Identity that the lease is given to. */
  readonly client: string | undefined;
  renewedAt: number;
  /** Node that counts it. */
  holder: number;
}

const NAME_LENGTH = 255;

export class Identity {
  /** Claims to what another has. */
  readonly conflicts = new Conflicts();
  /** Leases not taken for lack of room. */
  refused = 0;

  readonly #roster: Roster;
  readonly #leases = new Map<Address, HeldLease>();
  /** Identity → how many leases it has. */
  readonly #leased = new Map<string, number>();
  /** MAC that carries other devices → the leased address that proves it. */
  readonly #carriers = new Map<Mac, Address>();
  #hostsByMac = new Map<Mac, string>();
  #hostsByAddress = new Map<Address, string>();

  constructor(roster: Roster) {
    this.#roster = roster;
  }

  hasLease(address: Address): boolean {
    return this.#leases.has(address);
  }

  leases(): IterableIterator<Address> {
    return this.#leases.keys();
  }

  /**
   * Notes a lease.
   *
   * @returns "new" or "renewed" if something is to be worked out, "same" if it is known.
   */
  note(lease: Lease): "new" | "renewed" | "same" | "refused" {
    const old = this.#leases.get(lease.address);
    const name = lease.name?.slice(0, NAME_LENGTH);
    const client = clientOf(lease);
    if (old && old.mac === lease.mac && old.client === client && old.expiresAt === lease.expiresAt) {
      if (old.name === name) return "same";
    }
    if (!old && this.#leases.size >= this.#roster.limits.leases) {
      this.refused++;
      return "refused";
    }
    if (old) this.#drop(old);
    const { address, mac, expiresAt } = lease;
    this.#leases.set(address, {
      address,
      expiresAt,
      client,
      renewedAt: this.#roster.now,
      holder: 0,
      ...(mac !== undefined && { mac }),
      ...(name !== undefined && { name }),
    });
    if (client !== undefined) this.#leased.set(client, (this.#leased.get(client) ?? 0) + 1);
    return old ? "renewed" : "new";
  }

  /** A lease has ended. */
  forget(address: Address): void {
    const lease = this.#leases.get(address);
    if (!lease) return;
    this.#drop(lease);
    for (const [mac, proof] of this.#carriers) if (proof === address) this.#carriers.delete(mac);
  }

  /** A node was merged into another, and its leases with it. */
  merge(old: number, into: number): void {
    for (const lease of this.#leases.values()) if (lease.holder === old) lease.holder = into;
    this.conflicts.merge(old, into);
  }

  /** A merge was undone: leases go with the identity that they were given to, names with leases. */
  split(from: Node, node: Node): void {
    for (const lease of this.#leases.values()) {
      const holder = this.#roster.get(lease.holder);
      if (holder !== from && holder !== node) continue;
      const owner = isOf(lease, node) && !isOf(lease, from) ? node : from;
      if (holder !== owner) {
        from.leases = Math.max(0, from.leases - 1);
        owner.leases++;
        lease.holder = owner.id;
      }
      if (lease.name !== undefined) this.#roster.setNames(owner, { dhcpName: lease.name });
    }
    this.#nameStatic(from);
    this.#nameStatic(node);
  }

  /** Whether an address is leased to one of these identities. */
  isLeasedTo(address: Address, ties: Ties): boolean {
    const lease = this.#leases.get(address);
    return lease !== undefined && isOf(lease, ties);
  }

  /** Whether a MAC is known to carry other devices. */
  isCarrier(mac: Mac): boolean {
    return this.#carriers.has(mac);
  }

  /** Replaces the static names. */
  setHosts(hosts: readonly StaticHost[]): void {
    this.#hostsByMac = new Map();
    this.#hostsByAddress = new Map();
    for (const host of hosts.slice(0, this.#roster.limits.leases)) {
      const name = host.name.slice(0, NAME_LENGTH);
      for (const mac of host.macs) this.#hostsByMac.set(mac, name);
      if (host.macs.length === 0 && host.address !== undefined) this.#hostsByAddress.set(host.address, name);
    }
    for (const node of this.#roster.all()) this.#nameStatic(node);
  }

  /** Gives a node what lease and administrator say of an address that it now holds. */
  endow(node: Node, address: Address): void {
    this.#nameStatic(node);
    const lease = this.#leases.get(address);
    // An address may be used by another than its lease says; what the lease says is not about that one.
    if (!lease || !isOf(lease, node)) return;
    const before = this.#roster.get(lease.holder);
    if (before !== node) {
      if (before) before.leases = Math.max(0, before.leases - 1);
      node.leases++;
    }
    lease.holder = node.id;
    if (lease.name !== undefined) this.#roster.setNames(node, { dhcpName: lease.name });
  }

  /**
   * The device that an address belongs to, made if need be.
   *
   * @returns undefined if nothing ties the address to a device, or there is no room for one.
   */
  identify(address: Address, answering: Answering): Node | undefined {
    const { mac } = answering;
    const owners = mac === undefined ? [] : this.#roster.byMac(mac);
    const lease = this.#leases.get(address);
    const leased = lease !== undefined && this.#leaseDecides(lease, answering);
    if (owners.length === 1 && owners[0]!.pins) {
      if (leased && lease.mac === mac) this.#tie(owners[0]!, lease.client, mac!);
      return owners[0];
    }
    if (!leased) return mac === undefined ? undefined : this.#ofMac(mac, address);
    if (mac !== undefined && lease.mac !== undefined && lease.mac !== mac && answering.confirmed) {
      this.#noteCarrier(mac, address);
    }
    const named = ethernetOf(lease.clientId);
    if (lease.mac !== undefined && named !== undefined && named !== lease.mac) {
      // The client id tells the device behind a repeater that puts its own MAC into DHCP messages.
      this.#noteCarrier(lease.mac, address);
      const behind = this.#roster.byMac(named);
      return behind.length === 1 ? behind[0] : this.#ofClient(lease.client!, undefined, address);
    }
    const own = lease.mac ?? (mac !== undefined && !this.#carriers.has(mac) ? mac : undefined);
    if (lease.client === undefined) return own === undefined ? undefined : this.#ofMac(own, address);
    return this.#ofClient(lease.client, own, address);
  }

  #leaseDecides(lease: HeldLease, { mac, since }: Answering): boolean {
    if (mac === undefined || lease.mac === undefined || lease.mac === mac) return true;
    return this.#carriers.has(mac) || lease.renewedAt >= since;
  }

  /** By MAC alone, for an address that nobody leased. */
  #ofMac(mac: Mac, address: Address): Node | undefined {
    const owners = this.#roster.byMac(mac);
    if (owners.length === 0) return this.#make(address, mac, undefined);
    if (owners.length === 1 && !this.#carriers.has(mac)) return owners[0];
    return owners.find((owner) => owner.addresses.has(address));
  }

  #ofClient(client: string, mac: Mac | undefined, address: Address): Node | undefined {
    const owners = mac === undefined ? [] : this.#roster.byMac(mac);
    const device = this.#roster.byClient(client);
    if (!device) {
      const owner = owners[0];
      if (owners.length === 1 && this.#mayTake(owner!, client)) {
        this.#tie(owner!, client, mac!);
        return owner;
      }
      // Without a MAC an IPv6 identity waits for the neighbour table to tell one.
      if (mac === undefined && ethernetOf(client.slice(2)) === undefined) return undefined;
      return this.#make(address, mac, client);
    }
    if (mac === undefined || device.macs.includes(mac)) return device;
    if (owners.length === 0) {
      this.#roster.addMac(device, mac);
      this.#roster.aliases.learn(device, { client }, { mac });
      return device;
    }
    const other = owners[0]!;
    if (owners.length > 1) return device;
    // The user parted them: the MAC tells which of them it is.
    if (this.#roster.aliases.isApart(device.id, other.id)) return other;
    if (!isWanted(other) && !other.clients.some((each) => sameSort(each, client))) {
      const [old, into] = other.id < device.id && !isWanted(device) ? [device, other] : [other, device];
      this.#roster.absorb(old, into);
      return into;
    }
    this.conflicts.count++;
    return other;
  }

  /** Whether a new identity may be that of a device, rather than of another one behind the same MAC. */
  #mayTake(owner: Node, client: string): boolean {
    if (owner.pins) return true;
    return !owner.clients.some((each) => sameSort(each, client) && this.#leased.has(each));
  }

  #tie(device: Node, client: string | undefined, mac: Mac): void {
    if (client === undefined || this.#roster.byClient(client)) return;
    for (const each of device.clients) {
      if (sameSort(each, client) && !this.#leased.has(each)) this.#roster.removeClient(device, each);
    }
    this.#roster.addClient(device, client);
    this.#roster.aliases.learn(device, { mac }, { client });
  }

  /** A node that was nothing but this address so far becomes the device and keeps its id. */
  #make(address: Address, mac: Mac | undefined, client: string | undefined): Node | undefined {
    const home = this.#roster.home(address);
    const device = home && isBare(home) ? home : this.#roster.create("device");
    if (!device) return undefined;
    this.#roster.setKind(device, "device");
    device.observed = undefined;
    if (mac !== undefined) this.#roster.addMac(device, mac);
    if (client !== undefined) this.#roster.addClient(device, client);
    return device;
  }

  #noteCarrier(mac: Mac, proof: Address): void {
    if (this.#carriers.has(mac) || this.#carriers.size >= this.#roster.limits.leases) return;
    this.#carriers.set(mac, proof);
  }

  #drop(lease: HeldLease): void {
    this.#leases.delete(lease.address);
    if (lease.client !== undefined) {
      const left = this.#leased.get(lease.client)! - 1;
      if (left > 0) this.#leased.set(lease.client, left);
      else this.#leased.delete(lease.client);
    }
    const holder = this.#roster.get(lease.holder);
    if (holder) holder.leases = Math.max(0, holder.leases - 1);
  }

  #nameStatic(node: Node): void {
    if (node.kind !== "device" && node.kind !== "local") return;
    let name: string | undefined;
    for (const mac of node.macs) name ??= this.#hostsByMac.get(mac);
    if (this.#hostsByAddress.size > 0) {
      for (const address of node.addresses.keys()) name ??= this.#hostsByAddress.get(address);
    }
    this.#roster.setNames(node, { staticName: name });
  }
}

function isOf(lease: HeldLease, { macs, clients }: Ties): boolean {
  if (lease.mac !== undefined && macs.includes(lease.mac)) return true;
  return lease.client !== undefined && clients.includes(lease.client);
}

/** A client that sends no id of its own is its MAC, in the form that others send. */
function clientOf(lease: Lease): string | undefined {
  if (lease.mac === undefined) return lease.clientId === undefined ? undefined : `6 ${lease.clientId}`;
  return `4 ${lease.clientId ?? `01:${lease.mac}`}`;
}

/** IPv4 and IPv6 identities of one device differ by nature; only two of the same sort contradict. */
function sameSort(left: string, right: string): boolean {
  return left[0] === right[0];
}

/** The MAC in a client id of hardware type Ethernet (RFC 2132, 9.14). */
function ethernetOf(clientId: string | undefined): Mac | undefined {
  return clientId !== undefined && /^01(?::[0-9a-f]{2}){6}$/.test(clientId)
    ? (clientId.slice(3) as Mac)
    : undefined;
}
