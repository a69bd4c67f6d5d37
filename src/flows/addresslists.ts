/**
 * SPIN's lists as its users know them, lists of addresses, on top of lists of nodes and prefixes.
 *
 * SPIN puts the addresses that a node has at the moment on the list. Here it is the node that is listed, so that it
 * stays listed whatever address it takes, and it stands for its present addresses. So that both views agree, taking
 * a node off takes its addresses off too, and taking off an address of a listed node leaves the others listed
 * without the node. Keeps nothing; changes the policy.
 */

import type { Address, Prefix } from "../lib/address.ts";
import { formatNet, Nets, singlePrefix, soleAddress } from "../lib/nets.ts";
import type { ListName } from "../lib/spin.ts";
import type { Undo } from "./decision.ts";
import type { Policy } from "./policy.ts";
import type { Applied } from "./turns.ts";

export interface AddressListsOptions {
  /** The addresses that a living node has now. */
  addressesOf(id: number): readonly Address[];
  /** Prefixes on each list. */
  readonly maxNets: number;
}

export class AddressLists {
  readonly #policy: Policy;
  readonly #options: AddressListsOptions;

  constructor(policy: Policy, options: AddressListsOptions) {
    this.#policy = policy;
    this.#options = options;
  }

  /** Lists a living node in somebody's name, or takes it off if `by` is undefined. */
  setNode(place: { readonly list: ListName; readonly member: number }, by: string | undefined): Applied {
    const { list, member: id } = place;
    const undos = [this.#policy.list(place, by !== undefined, by)];
    const addresses = by === undefined ? this.#options.addressesOf(id) : [];
    for (const address of addresses) undos.push(this.#takeOff(list, singlePrefix(address)));
    return done(undos, { nodes: [id], lists: [list] });
  }

  /** Lists a prefix in somebody's name, or takes it off if `by` is undefined. */
  setNet(place: { readonly list: ListName; readonly member: Prefix }, by: string | undefined): Applied {
    const { list, member: prefix } = place;
    if (by === undefined) return this.#takeNetOff(list, prefix);
    if (this.#lacksRoom(list, [prefix])) return this.#full();
    return done([this.#policy.list(place, true, by)], { lists: [list] });
  }

  /** Makes these the whole list. */
  reset(list: ListName, prefixes: readonly Prefix[], by: string): Applied {
    const wanted = new Set(prefixes);
    if (wanted.size > this.#options.maxNets) return this.#full();
    const nodes = this.#policy.listed(list);
    const unwanted = this.#policy.prefixes(list).filter((each) => !wanted.has(each));
    const undos = [
      ...[...nodes, ...unwanted].map((member) => this.#takeOff(list, member)),
      ...[...wanted].map((member) => this.#policy.list({ list, member }, true, by)),
    ];
    return done(undos, { nodes, lists: [list] });
  }

  /** Addresses, of the nodes on the list too, and wider prefixes with their length; IPv4 first, each by value. */
  show(list: ListName): string[] {
    const shown = new Nets<true>();
    for (const prefix of this.#policy.prefixes(list)) shown.set(prefix, true);
    for (const id of this.#policy.listed(list)) {
      for (const address of this.#options.addressesOf(id)) shown.set(singlePrefix(address), true);
    }
    return shown.entries().map(([prefix]) => formatNet(prefix));
  }

  #takeNetOff(list: ListName, prefix: Prefix): Applied {
    const holders = this.#holders(list, soleAddress(prefix));
    const kept = holders.flatMap(({ id, addresses }) => {
      const by = this.#policy.nodeEntry(list, id)?.by;
      return addresses.map(singlePrefix).flatMap((member) => (member === prefix ? [] : { member, by }));
    });
    if (
      this.#lacksRoom(
        list,
        kept.map(({ member }) => member),
      )
    ) {
      return this.#full();
    }
    const undos = [
      ...holders.map(({ id }) => this.#takeOff(list, id)),
      ...kept.map(({ member, by }) => this.#policy.list({ list, member }, true, by)),
      this.#takeOff(list, prefix),
    ];
    return done(undos, { nodes: holders.map(({ id }) => id), lists: [list] });
  }

  /** The nodes on a list that have an address, with all that they have. */
  #holders(list: ListName, address: Address | undefined): { id: number; addresses: readonly Address[] }[] {
    if (address === undefined) return [];
    const nodes = this.#policy.listed(list).map((id) => ({ id, addresses: this.#options.addressesOf(id) }));
    return nodes.filter(({ addresses }) => addresses.includes(address));
  }

  #takeOff(list: ListName, member: number | Prefix): Undo | undefined {
    return this.#policy.list({ list, member }, false);
  }

  #lacksRoom(list: ListName, prefixes: readonly Prefix[]): boolean {
    const fresh = new Set(prefixes.filter((each) => !this.#policy.isListed(list, each)));
    return fresh.size > 0 && this.#policy.netsOn(list) + fresh.size > this.#options.maxNets;
  }

  #full(): Applied {
    return { outcome: { kind: "full", limit: this.#options.maxNets } };
  }
}

/** What some changes came to, together. */
function done(undos: readonly (Undo | undefined)[], looks: Pick<Applied, "nodes" | "lists">): Applied {
  const made = undos.filter((each) => each !== undefined);
  const undo = () => {
    for (const each of [...made].reverse()) each();
  };
  return { outcome: { kind: "done", changed: made.length > 0 }, undo, ...looks };
}
