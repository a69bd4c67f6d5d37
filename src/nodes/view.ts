/**
 * How nodes look from outside: SPIN's node object, ours with more in it, and the end of a plan.
 *
 * Keeps nothing, changes nothing.
 */

import type { End } from "../kernel/plan.ts";
import { compareAddresses } from "../lib/address.ts";
import type { JsonObject } from "../lib/json.ts";
import type { NodeInfo } from "../lib/spin.ts";
import type { Dispute } from "./conflicts.ts";
import type { Asker } from "./far.ts";
import {
  domainsOf,
  type Holding,
  isRandomised,
  type NameSource,
  type Node,
  nameOf,
  type Since,
  USER_PIN,
} from "./node.ts";
import type { Roster } from "./roster.ts";
import { BUCKET_MS, BUCKETS, Usage } from "./usage.ts";

/** What other rooms decided about a node. */
export interface Flags {
  readonly blocked: boolean;
  readonly excepted: boolean;
}

/** What the books don't say themselves. */
export interface Context {
  /** The latest first. */
  readonly askers: readonly Asker[];
  readonly disputes: readonly Dispute[];
}

/** Clients that are shown for a node. */
const ASKERS = 32;

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
    ...todayOf(roster, node),
    ...(node.pins?.has(USER_PIN) && { pinned: true }),
    ...(node.aliases && { aliases: node.aliases }),
    ...apartOf(roster, node),
  };
}

/** Bytes of the last 24 hours, in quarter hours; the last of them is not over. */
export function seriesOf(roster: Roster, node: Node): JsonObject {
  const { now, clockOffset } = roster;
  const startAt = (Math.floor(now / BUCKET_MS) - BUCKETS + 1) * BUCKET_MS;
  const { bytesIn, packetsIn, bytesOut, packetsOut } = (node.usage ?? unused).today(roster.calendar);
  const series = (node.usage ?? unused).series(now);
  return {
    node: node.id,
    start: Math.floor((startAt + clockOffset) / 1000),
    seconds: BUCKET_MS / 1000,
    in: series.in,
    out: series.out,
    today: { bytes_in: bytesIn, packets_in: packetsIn, bytes_out: bytesOut, packets_out: packetsOut },
  };
}

/** Everything that is known of a node. */
export function detailOf(roster: Roster, node: Node, flags: Flags, context: Context): JsonObject {
  const dateOf = (at: number) => Math.floor((at + roster.clockOffset) / 1000);
  const sinceOf = ({ sinceAt, sinceDate }: Since) => sinceDate ?? dateOf(sinceAt);
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
        since: sinceOf(holding),
        lastseen: dateOf(holding.seenAt),
        ...timeToLive(holding, dateOf),
        ...(holding.live && { answers: true }),
        ...(others.length > 0 && { shared_with: others.map((each) => each.id) }),
      };
    }),
    names: namesOf(roster, node, { dateOf, sinceOf }),
    ...(context.askers.length > 0 && {
      asked_by: context.askers
        .slice(0, ASKERS)
        .map(({ id, seenAt, untilAt }) => ({ node: id, lastseen: dateOf(seenAt), until: dateOf(untilAt) })),
    }),
    ...(context.disputes.length > 0 && {
      conflicts: context.disputes.map(({ address, claimant, firstAt, at, count }) => ({
        ...{ address, mac: claimant, since: dateOf(firstAt), lastseen: dateOf(at), count },
      })),
    }),
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

const unused = new Usage();

function todayOf(roster: Roster, { kind, usage }: Node): JsonObject {
  if (kind !== "device" && kind !== "local") return {};
  const { bytesIn, bytesOut } = (usage ?? unused).today(roster.calendar);
  return { today_in: bytesIn, today_out: bytesOut };
}

function apartOf(roster: Roster, node: Node): JsonObject {
  const apart = roster.aliases.apartFrom(node.id);
  return apart.length > 0 ? { apart } : {};
}

interface Dates {
  dateOf(at: number): number;
  sinceOf(since: Since): number;
}

/** The user's name first. A DNS name holds until its last answer has outlived its time. */
function namesOf(roster: Roster, node: Node, { dateOf, sinceOf }: Dates): JsonObject[] {
  const since = (source: NameSource) => {
    const named = node.named?.[source];
    return named ? sinceOf(named) : roster.firstSeen(node);
  };
  const names: JsonObject[] = [];
  const given = { user: node.userName, static: node.staticName, dhcp: node.dhcpName };
  for (const source of ["user", "static", "dhcp"] as const) {
    const name = given[source];
    if (name !== undefined) names.push({ name, source, since: since(source) });
  }
  if (node.dnsName !== undefined) {
    const untilAt = Math.max(...[...node.addresses.values()].map((holding) => holding.untilAt));
    names.push({
      name: node.dnsName,
      source: "dns",
      since: since("dns"),
      lastseen: roster.lastSeen(node),
      ...(Number.isFinite(untilAt) && { until: dateOf(untilAt) }),
    });
    return names;
  }
  for (const name of domainsOf(node)) {
    const { sinceAt, seenAt, untilAt } = node.observed!.get(name)!;
    const [lastseen, until] = [dateOf(seenAt), dateOf(untilAt)];
    names.push({ name, source: "dns", since: dateOf(sinceAt), lastseen, until });
  }
  return names;
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
