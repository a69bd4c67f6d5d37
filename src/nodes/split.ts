/**
 * Undoing a merge: which of what a node holds goes back to the id that was poured into it.
 *
 * MACs and DHCP identities go with whom brought them, and with them what they tied since; one that both had stays
 * with both. An address goes with the MAC that answers for it, else with its lease, else with whom brought it. So
 * it doesn't matter how much was seen since the merge. A name goes back if the other took it over. Counters stay.
 *
 * What evidence merged, evidence would merge again: the two are parted for it (aliases.ts), until the user merges
 * them.
 */

import type { Address, Mac } from "../lib/address.ts";
import type { Alias } from "./aliases.ts";
import type { Identity, Ties } from "./identity.ts";
import { type Holding, isBare, type Node, USER_PIN } from "./node.ts";
import type { Roster } from "./roster.ts";

/** What an alias takes along. */
interface Share extends Ties {
  /** Of its MACs those that it leaves to the other, too. */
  readonly shared: readonly Mac[];
  readonly addresses: readonly Address[];
}

/**
 * Makes an alias a node again. Its node is a device or a bare local address.
 *
 * @returns "nothing" if nothing is left that could be its own, "full" if there is no room for a node.
 */
export function splitNode(roster: Roster, identity: Identity, id: number): Node | "nothing" | "full" {
  const alias = roster.aliases.get(id)!;
  const from = roster.get(id)!;
  const ancestors = roster.aliases.ancestors(id);
  const share = shareOf(roster, identity, { id, alias, from, ancestors });
  if (share.macs.length + share.clients.length + share.addresses.length === 0) return "nothing";
  const isDevice = share.macs.length + share.clients.length > 0;
  const node = roster.revive(id, isDevice ? "device" : "local");
  if (!node) return "full";
  roster.aliases.strip(ancestors, {
    ...share,
    macs: share.macs.filter((mac) => !share.shared.includes(mac)),
  });
  for (const mac of share.macs) {
    if (from.macs.includes(mac) && !share.shared.includes(mac)) roster.removeMac(from, mac);
    roster.addMac(node, mac);
  }
  for (const client of share.clients) {
    if (from.clients.includes(client)) roster.removeClient(from, client);
    roster.addClient(node, client);
  }
  for (const address of share.addresses) {
    node.seenAt = Math.max(node.seenAt, from.addresses.get(address)!.seenAt);
    roster.hand(from, node, address);
  }
  if (from.kind === "device" && from.macs.length + from.clients.length === 0) roster.setKind(from, "local");
  // What nothing but the user tells apart, the user vouches for.
  for (const bare of [node, from].filter(isBare)) {
    for (const address of bare.addresses.keys()) roster.tie(bare, address);
  }
  roster.setNames(node, { userName: alias.userName, dhcpName: alias.dhcpName });
  if (alias.named && from.userName === alias.userName) roster.setNames(from, { userName: undefined });
  if (from.dhcpName === alias.dhcpName) roster.setNames(from, { dhcpName: undefined });
  if (alias.pinned) roster.setPin(node, USER_PIN, true);
  identity.split(from, node);
  roster.revived(node, from);
  return node;
}

interface Merged {
  readonly id: number;
  readonly alias: Alias;
  readonly from: Node;
  /** What it had been part of before it was part of `from`. */
  readonly ancestors: readonly number[];
}

function shareOf(roster: Roster, identity: Identity, { id, alias, from, ancestors }: Merged): Share {
  const siblings = from.aliases ?? [];
  const coming = new Set([id, ...roster.aliases.branch(id, siblings)]);
  // Who else has a MAC by right: those that had it when this one came, and those that brought it themselves.
  const others = siblings
    .filter((each) => !coming.has(each))
    .map((each) => [each, roster.aliases.get(each)!] as const);
  const claims = others.map(([each, other]) => (ancestors.includes(each) ? other.shared : other.macs));
  const claimed = new Set([alias.shared, ...claims].flat());
  const macs = alias.macs.filter((mac) => from.macs.includes(mac) || roster.byMac(mac).length === 0);
  const shared = macs.filter((mac) => claimed.has(mac));
  const clients = alias.clients.filter((client) => (roster.byClient(client) ?? from) === from);
  const mine = { macs, clients };
  const theirs = {
    macs: from.macs.filter((mac) => !macs.includes(mac) || shared.includes(mac)),
    clients: from.clients.filter((client) => !clients.includes(client)),
  };
  const isMine = (address: Address, { mac }: Holding) => {
    // What was nothing but an address has nothing that could tell better.
    if (macs.length + clients.length === 0) return alias.addresses.includes(address);
    if (mac !== undefined && macs.includes(mac) !== theirs.macs.includes(mac)) return macs.includes(mac);
    const isLeased = identity.isLeasedTo(address, mine);
    if (isLeased !== identity.isLeasedTo(address, theirs)) return isLeased;
    return alias.addresses.includes(address);
  };
  const addresses = [...from.addresses].filter((each) => isMine(...each)).map(([address]) => address);
  return { macs, shared, clients, addresses };
}
