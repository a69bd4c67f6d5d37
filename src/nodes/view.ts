/**
 * How nodes look from outside: SPIN's node object, ours with more in it, and the end of a plan.
 *
 * Keeps nothing, changes nothing.
 */

import type { End } from "../kernel/plan.ts";
import { compareAddresses } from "../lib/address.ts";
import type { JsonObject } from "../lib/json.ts";
import type { NodeInfo } from "../lib/spin.ts";
import { domainsOf, type Holding, isRandomised, type Node, nameOf } from "./node.ts";
import type { Roster } from "./roster.ts";

/** What other rooms decided about a node. */
export interface Flags {
  readonly blocked: boolean;
  readonly excepted: boolean;
}

/** SPIN's node object. */
export function infoOf(roster: Roster, node: Node, flags: Flags): NodeInfo {
  const name = nameOf(node);
  const [mac] = node.macs;
  return {
    id: node.id,
    ...(name !== undefined && { name }),
    ...(mac !== undefined && { mac }),
    ...(flags.blocked && { is_blocked: true }),
    ...(flags.excepted && { is_excepted: true }),
    lastseen: roster.lastSeen(node),
    ips: [...node.addresses.keys()].sort(compareAddresses),
    domains: domainsOf(node),
  };
}

/** SPIN's node object with our fields behind: for lists. */
export function summaryOf(roster: Roster, node: Node, flags: Flags): JsonObject {
  const [mac] = node.macs;
  return {
    ...infoOf(roster, node, flags),
    kind: node.kind,
    firstseen: roster.firstSeen(node),
    ...(mac !== undefined && isRandomised(mac) && { randomised_mac: true }),
    bytes_in: node.traffic.bytesIn,
    packets_in: node.traffic.packetsIn,
    bytes_out: node.traffic.bytesOut,
    packets_out: node.traffic.packetsOut,
  };
}

/** Everything that is known of a node. */
export function detailOf(roster: Roster, node: Node, flags: Flags): JsonObject {
  const dateOf = (at: number) => Math.floor((at + roster.clockOffset) / 1000);
  const held = [...node.addresses].sort(([left], [right]) => compareAddresses(left, right));
  return {
    ...summaryOf(roster, node, flags),
    ...(node.macs.length > 0 && { macs: node.macs.map((mac) => macOf(roster, mac)) }),
    ...(node.clients.length > 0 && { dhcp_identities: node.clients }),
    addresses: held.map(([address, holding]) => {
      const others = roster.holders(address).filter((each) => each !== node);
      return {
        address,
        source: holding.source,
        ...(holding.mac !== undefined && { mac: holding.mac }),
        lastseen: dateOf(holding.seenAt),
        ...timeToLive(holding, dateOf),
        ...(holding.live && { answers: true }),
        ...(others.length > 0 && { shared_with: others.map((each) => each.id) }),
      };
    }),
    names: [
      ...(node.userName === undefined ? [] : [{ name: node.userName, source: "user" }]),
      ...(node.staticName === undefined ? [] : [{ name: node.staticName, source: "static" }]),
      ...(node.dhcpName === undefined ? [] : [{ name: node.dhcpName, source: "dhcp" }]),
      ...domainsOf(node).map((name) => ({ name, source: "dns" })),
    ],
    pinned_by: [...(node.pins ?? [])],
    aliases: [...(node.aliases ?? [])],
  };
}

/**
 * What packets of a node look like. A MAC that several devices share (a repeater's) is left out: it would match
 * the packets of the others.
 */
export function endOf(roster: Roster, node: Node): End {
  return {
    id: node.id,
    addresses: [...node.addresses.keys()].sort(compareAddresses),
    macs: node.macs.filter((mac) => roster.byMac(mac).length === 1),
  };
}

function macOf(roster: Roster, mac: Node["macs"][number]): JsonObject {
  return {
    mac,
    randomised: isRandomised(mac),
    ...(roster.byMac(mac).length > 1 && { shared: true }),
  };
}

function timeToLive(holding: Holding, dateOf: (at: number) => number): JsonObject {
  return Number.isFinite(holding.untilAt) ? { until: dateOf(holding.untilAt) } : {};
}
