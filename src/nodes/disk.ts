/**
 * The nodes to disk and back: what of them outlives the agent.
 *
 * Devices and the router are kept always, others while a user or another room wants them; the next id always.
 * Times on disk are dates, for people. They order events only within one file, by the date at which it was
 * written: a router boots with a wrong clock, so neither the date of the start nor the time in between counts,
 * and whatever they say, a node read from disk has at least a day (or half its time, if that is less) to be
 * seen again.
 */

import type { Json, JsonObject } from "../lib/json.ts";
import type { Alias } from "./aliases.ts";
import {
  isPersistent,
  type Node,
  newHolding,
  newNode,
  noTraffic,
  type Since,
  type Source,
  USER_PIN,
} from "./node.ts";
import type { Roster } from "./roster.ts";
import type { NodesState, SavedNode } from "./saved.ts";
import { Usage } from "./usage.ts";

/** Before this no clock was right: such dates are not shown. */
const PLAUSIBLE_SECONDS = 1_577_836_800; // 2020-01-01
const DAY_MS = 86_400_000;
/** Sources of addresses that are not told anew after a start. */
const lasting: readonly Source[] = ["dns", "traffic", "user"];

/** The state as it goes to disk; reserves ids ahead, unless this is the last of this life. */
export function saveNodes(roster: Roster, options: { last?: boolean }): Json {
  const kept = [...roster.all()].filter(isPersistent);
  const ids = new Set(kept.map((node) => node.id));
  const aliases = [...roster.aliases.entries()].filter(([, alias]) => ids.has(alias.into));
  for (const [id] of aliases) ids.add(id);
  const dates = datesOf(roster);
  const { label } = roster.calendar;
  return {
    nextId: roster.numbers.reserve(options),
    savedAt: dates.dateOf(roster.now),
    ...(Number.isSafeInteger(label) && label >= 0 && { day: label }),
    nodes: kept.map((node) => nodeJson(roster, node, dates)),
    aliases: aliases.map(([id, alias]) => aliasJson(id, alias, dates)),
    apart: [...roster.aliases.pairs()]
      .filter((pair) => pair.every((id) => ids.has(id)))
      .map((pair) => [...pair]),
  };
}

interface Dates {
  dateOf(at: number): number;
  sinceOf(since: Since): number;
}

function datesOf(roster: Roster): Dates {
  const dateOf = (at: number) => Math.floor((at + roster.clockOffset) / 1000);
  return { dateOf, sinceOf: ({ sinceAt, sinceDate }) => sinceDate ?? dateOf(sinceAt) };
}

function nodeJson(roster: Roster, node: Node, { sinceOf }: Dates): JsonObject {
  const named = Object.entries(node.named ?? {}).map(([source, since]) => [source, sinceOf(since)] as const);
  const today = node.usage?.today(roster.calendar);
  return {
    id: node.id,
    kind: node.kind,
    firstSeen: roster.firstSeen(node),
    lastSeen: roster.lastSeen(node),
    ...(node.userName !== undefined && { userName: node.userName }),
    ...(node.staticName !== undefined && { staticName: node.staticName }),
    ...(node.dhcpName !== undefined && { dhcpName: node.dhcpName }),
    ...(node.dnsName !== undefined && { dnsName: node.dnsName }),
    ...(named.length > 0 && { named: Object.fromEntries(named) }),
    ...(node.macs.length > 0 && { macs: node.macs }),
    ...(node.clients.length > 0 && { clients: node.clients }),
    addresses: [...node.addresses].map(([address, holding]) => ({
      address,
      source: holding.source,
      ...(holding.mac !== undefined && { mac: holding.mac }),
      since: sinceOf(holding),
    })),
    ...(node.traffic !== noTraffic && { traffic: { ...node.traffic } }),
    ...(today && today.packetsIn + today.packetsOut > 0 && { today: { ...today } }),
    ...(node.pins?.has(USER_PIN) && { pinned: true }),
  };
}

function aliasJson(id: number, alias: Alias, { dateOf, sinceOf }: Dates): JsonObject {
  const { into, via, at, kind, macs, shared, clients, addresses, userName, dhcpName, named, pinned } = alias;
  return {
    id,
    into,
    ...(via !== into && { via }),
    since: dateOf(at),
    kind,
    ...(macs.length > 0 && { macs }),
    ...(shared.length > 0 && { shared }),
    ...(clients.length > 0 && { clients }),
    ...(addresses.length > 0 && { addresses }),
    ...(userName !== undefined && { userName }),
    ...(dhcpName !== undefined && { dhcpName }),
    ...(named && { named }),
    ...(pinned && { pinned }),
    firstSeen: sinceOf({ sinceAt: alias.firstAt, sinceDate: alias.firstDate }),
  };
}

/** Takes a state into a roster that has no nodes yet; `older` if it is the generation before the last. */
export function loadNodes(roster: Roster, state: NodesState, options: { older?: boolean }): void {
  if (roster.size > 0) throw new TypeError("Cannot load nodes: there are nodes already");
  roster.numbers.startAt(state.nextId, options);
  // If the limit was lowered, devices stay before others.
  const ranked = [...state.nodes].sort((a, b) => rank(a) - rank(b) || b.lastSeen - a.lastSeen);
  for (const saved of ranked.slice(0, roster.limits.nodes))
    roster.insert(revive(roster, saved, state.savedAt));
  if (state.day !== undefined) roster.calendar.resume(state.day);
  for (const { id, since, firstSeen, ...alias } of state.aliases) {
    const agoMs = Math.max(0, state.savedAt - since) * 1000;
    const at = roster.now - Math.min(agoMs, roster.limits.aliasMs / 2);
    roster.addAlias(id, { ...alias, at, firstAt: at, firstDate: plausible(firstSeen) });
  }
  for (const [one, other] of state.apart)
    if (roster.get(one) && roster.get(other)) roster.aliases.part(one, other);
  roster.dirty = false;
}

function rank(node: SavedNode): number {
  return node.kind === "router" ? 0 : node.kind === "device" ? 1 : 2;
}

function revive(roster: Roster, saved: SavedNode, savedAt: number): Node {
  const { limits, now } = roster;
  const { firstSeen, lastSeen, addresses, named, today, pinned, ...same } = saved;
  const lifeMs = saved.kind === "device" ? limits.deviceMs : limits.farMs;
  const graceMs = Math.min(DAY_MS, lifeMs / 2);
  const idleMs = Math.min(Math.max(0, savedAt - lastSeen) * 1000, lifeMs - graceMs);
  const node = Object.assign(newNode(saved.id, saved.kind, now), same, {
    firstAt: now - idleMs,
    seenAt: now - idleMs,
    firstDate: plausible(firstSeen),
    lastDate: plausible(lastSeen),
    // It was worth keeping once.
    evidence: 8,
    ...(pinned && { pins: new Set([USER_PIN]) }),
  });
  for (const { address, source, mac, since } of addresses.slice(0, limits.addressesPerNode)) {
    // Leases and own addresses are told anew; until then these are what was once seen.
    const known = lasting.includes(source) ? source : "neighbour";
    node.addresses.set(address, { ...newHolding(known, now), mac, sinceDate: plausible(since) });
    if (known === "user") node.ties++;
  }
  for (const [source, date] of Object.entries(named)) {
    node.named = { ...node.named, [source]: { sinceAt: now, sinceDate: plausible(date) } };
  }
  if (today) {
    node.usage = new Usage();
    node.usage.resume(today);
  }
  return node;
}

function plausible(date: number | undefined): number | undefined {
  return date !== undefined && date >= PLAUSIBLE_SECONDS ? date : undefined;
}
