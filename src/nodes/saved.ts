/**
 * The nodes on disk: what of them outlives the agent, and how it is read back.
 *
 * Devices and the router are kept always, others while a user or another room wants them; the next id always.
 * Times on disk are dates, for people. They order events only within one file, by the date at which it was
 * written: a router boots with a wrong clock, so neither the date of the start nor the time in between counts,
 * and whatever they say, a node read from disk has at least a day (or half its time, if that is less) to be
 * seen again. Everything read is checked and bounded before any of it is taken.
 */

import { type Address, type Mac, parseAddress, parseMac } from "../lib/address.ts";
import { isObject, type Json } from "../lib/json.ts";
import {
  COUNTER_MAX,
  isNodeAddress,
  isPersistent,
  type Kind,
  type Node,
  newHolding,
  noTraffic,
  type Source,
  type Traffic,
} from "./node.ts";
import { ID_MAX } from "./numbers.ts";
import type { Alias, Roster } from "./roster.ts";

export const nodesVersion = 1;

interface SavedAddress {
  readonly address: Address;
  readonly source: Source;
  readonly mac: Mac | undefined;
}

interface SavedNode {
  readonly id: number;
  readonly kind: Kind;
  readonly firstSeen: number;
  readonly lastSeen: number;
  readonly macs: readonly Mac[];
  readonly clients: readonly string[];
  readonly addresses: readonly SavedAddress[];
  readonly dnsName: string | undefined;
  readonly userName: string | undefined;
  readonly staticName: string | undefined;
  readonly dhcpName: string | undefined;
  readonly traffic: Traffic;
}

/** What a file of this room says, checked. */
export interface NodesState {
  readonly nextId: number;
  /** Unix seconds when it was written. */
  readonly savedAt: number;
  readonly nodes: readonly SavedNode[];
  readonly aliases: readonly (Omit<Alias, "at"> & { readonly id: number; readonly since: number })[];
}

/** More than any limit that a configuration could sensibly set. */
const NODES = 131_072;
const PER_NODE = 1024;
const TEXT = 1024;
/** Before this no clock was right: such dates are not shown. */
const PLAUSIBLE_SECONDS = 1_577_836_800; // 2020-01-01
const DAY_MS = 86_400_000;
const kinds: readonly Kind[] = ["device", "local", "name", "address", "router", "gateway"];
const sources: readonly Source[] = ["neighbour", "dhcp", "dns", "traffic", "own", "route"];

/** The state as it goes to disk; reserves ids ahead, unless this is the last of this life. */
export function saveNodes(roster: Roster, options: { last?: boolean }): Json {
  const kept = [...roster.all()].filter(isPersistent);
  const ids = new Set(kept.map((node) => node.id));
  const dateOf = (at: number) => Math.floor((at + roster.clockOffset) / 1000);
  return {
    nextId: roster.numbers.reserve(options),
    savedAt: dateOf(roster.now),
    nodes: kept.map((node) => ({
      id: node.id,
      kind: node.kind,
      firstSeen: roster.firstSeen(node),
      lastSeen: roster.lastSeen(node),
      ...(node.userName !== undefined && { userName: node.userName }),
      ...(node.staticName !== undefined && { staticName: node.staticName }),
      ...(node.dhcpName !== undefined && { dhcpName: node.dhcpName }),
      ...(node.dnsName !== undefined && { dnsName: node.dnsName }),
      ...(node.macs.length > 0 && { macs: node.macs }),
      ...(node.clients.length > 0 && { clients: node.clients }),
      addresses: [...node.addresses].map(([address, { source, mac }]) => ({
        address,
        source,
        ...(mac !== undefined && { mac }),
      })),
      ...(node.traffic !== noTraffic && { traffic: { ...node.traffic } }),
    })),
    aliases: [...roster.aliases()]
      .filter(([, alias]) => ids.has(alias.into))
      .map(([id, { into, at, macs, clients, userName }]) => ({
        id,
        into,
        since: dateOf(at),
        ...(macs.length > 0 && { macs }),
        ...(clients.length > 0 && { clients }),
        ...(userName !== undefined && { userName }),
      })),
  };
}

/** @throws SyntaxError if this is no state of the nodes. */
export function parseNodes(state: unknown): NodesState {
  const top = object(state, "nodes");
  const nodes = array(top.nodes, "nodes", NODES).map(parseNode);
  const aliases = array(top.aliases ?? [], "aliases", NODES).map(parseAlias);
  const nextId = integer(top.nextId, "nextId", ID_MAX);
  const ids = new Set<number>();
  const once = (set: Set<unknown>, value: unknown, what: string) => {
    if (set.has(value)) fail(`${what} ${String(value)} twice`);
    set.add(value);
  };
  for (const { id } of [...nodes, ...aliases]) {
    if (id < 1 || id >= nextId) fail(`id ${id} is not below the next, ${nextId}`);
    once(ids, id, "id");
  }
  const [clients, names, near] = [new Set<string>(), new Set<string>(), new Set<Address>()];
  for (const node of nodes) {
    for (const client of node.clients) once(clients, client, "client");
    if (node.kind === "name" && node.dnsName === undefined) fail(`name node ${node.id} without name`);
    if (node.dnsName !== undefined) once(names, node.dnsName, "name");
    if (node.kind === "name") continue;
    for (const { address } of node.addresses) once(near, address, "address");
  }
  if (nodes.filter((node) => node.kind === "router").length > 1) fail("router twice");
  return { nextId, savedAt: integer(top.savedAt, "savedAt", Number.MAX_SAFE_INTEGER), nodes, aliases };
}

/** Takes a state into a roster that has no nodes yet; `older` if it is the generation before the last. */
export function loadNodes(roster: Roster, state: NodesState, options: { older?: boolean }): void {
  if (roster.size > 0) throw new TypeError("Cannot load nodes: there are nodes already");
  roster.numbers.startAt(state.nextId, options);
  // If the limit was lowered, devices stay before others.
  const ranked = [...state.nodes].sort((a, b) => rank(a) - rank(b) || b.lastSeen - a.lastSeen);
  for (const saved of ranked.slice(0, roster.limits.nodes))
    roster.insert(revive(roster, saved, state.savedAt));
  for (const { id, since, ...alias } of state.aliases) {
    const agoMs = Math.max(0, state.savedAt - since) * 1000;
    roster.addAlias(id, { ...alias, at: roster.now - Math.min(agoMs, roster.limits.aliasMs / 2) });
  }
  roster.dirty = false;
}

function rank(node: SavedNode): number {
  return node.kind === "router" ? 0 : node.kind === "device" ? 1 : 2;
}

function revive(roster: Roster, saved: SavedNode, savedAt: number): Node {
  const { limits, now } = roster;
  const { firstSeen, lastSeen, ...same } = saved;
  const lifeMs = saved.kind === "device" ? limits.deviceMs : limits.farMs;
  const graceMs = Math.min(DAY_MS, lifeMs / 2);
  const idleMs = Math.min(Math.max(0, savedAt - lastSeen) * 1000, lifeMs - graceMs);
  const addresses: Node["addresses"] = new Map();
  for (const { address, source, mac } of saved.addresses.slice(0, limits.addressesPerNode)) {
    // Leases and own addresses are told anew; until then these are what was once seen.
    const known = source === "dns" || source === "traffic" ? source : "neighbour";
    addresses.set(address, { ...newHolding(known, now), mac });
  }
  return {
    ...same,
    addresses,
    observed: undefined,
    firstAt: now - idleMs,
    seenAt: now - idleMs,
    firstDate: firstSeen >= PLAUSIBLE_SECONDS ? firstSeen : undefined,
    lastDate: lastSeen >= PLAUSIBLE_SECONDS ? lastSeen : undefined,
    shownAt: now,
    // It was worth keeping once.
    evidence: 8,
    pins: undefined,
    leases: 0,
    aliases: undefined,
    announced: false,
  };
}

function parseNode(value: unknown): SavedNode {
  const node = object(value, "node");
  const kind = kinds.find((each) => each === node.kind) ?? fail("kind");
  return {
    id: integer(node.id, "id", ID_MAX),
    kind,
    firstSeen: integer(node.firstSeen, "firstSeen", Number.MAX_SAFE_INTEGER),
    lastSeen: integer(node.lastSeen, "lastSeen", Number.MAX_SAFE_INTEGER),
    macs: unique(array(node.macs ?? [], "macs", PER_NODE).map(mac)),
    clients: unique(array(node.clients ?? [], "clients", PER_NODE).map((each) => text(each, "client"))),
    addresses: array(node.addresses, "addresses", PER_NODE).map(parseSavedAddress),
    dnsName: optional(node.dnsName, "dnsName"),
    userName: optional(node.userName, "userName"),
    staticName: optional(node.staticName, "staticName"),
    dhcpName: optional(node.dhcpName, "dhcpName"),
    traffic: node.traffic === undefined ? noTraffic : parseTraffic(node.traffic),
  };
}

function parseSavedAddress(value: unknown): SavedAddress {
  const saved = object(value, "address");
  const address = parseAddress(text(saved.address, "address"));
  if (!address || !isNodeAddress(address)) fail("address");
  const source = sources.find((each) => each === saved.source) ?? fail("source");
  return { address: address!, source, mac: saved.mac === undefined ? undefined : mac(saved.mac) };
}

function parseAlias(value: unknown): NodesState["aliases"][number] {
  const alias = object(value, "alias");
  return {
    id: integer(alias.id, "id", ID_MAX),
    into: integer(alias.into, "into", ID_MAX),
    since: integer(alias.since, "since", Number.MAX_SAFE_INTEGER),
    macs: array(alias.macs ?? [], "macs", PER_NODE).map(mac),
    clients: array(alias.clients ?? [], "clients", PER_NODE).map((each) => text(each, "client")),
    userName: optional(alias.userName, "userName"),
  };
}

function parseTraffic(value: unknown): Traffic {
  const traffic = object(value, "traffic");
  return {
    bytesIn: counter(traffic.bytesIn),
    packetsIn: counter(traffic.packetsIn),
    bytesOut: counter(traffic.bytesOut),
    packetsOut: counter(traffic.packetsOut),
  };
}

/** Written as decimal text, since JSON's numbers end at 2^53. */
function counter(value: unknown): bigint {
  if (typeof value === "bigint" && value >= 0n && value <= COUNTER_MAX) return value;
  const digits = typeof value === "number" && Number.isSafeInteger(value) ? String(value) : value;
  if (typeof digits !== "string" || !/^[0-9]{1,19}$/.test(digits)) return fail("counter");
  const parsed = BigInt(digits);
  return parsed > COUNTER_MAX ? COUNTER_MAX : parsed;
}

function mac(value: unknown): Mac {
  return parseMac(text(value, "mac")) ?? fail("mac");
}

function optional(value: unknown, what: string): string | undefined {
  return value === undefined ? undefined : text(value, what);
}

function text(value: unknown, what: string): string {
  return typeof value === "string" && value.length <= TEXT ? value : fail(what);
}

function integer(value: unknown, what: string, most: number): number {
  const usable = typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= most;
  return usable ? (value as number) : fail(what);
}

function array(value: unknown, what: string, most: number): readonly unknown[] {
  return Array.isArray(value) && value.length <= most ? value : fail(what);
}

function object(value: unknown, what: string): { readonly [name: string]: unknown } {
  return isObject(value) ? value : fail(what);
}

function unique<Value>(values: readonly Value[]): Value[] {
  return [...new Set(values)];
}

function fail(what: string): never {
  throw new SyntaxError(`Cannot read nodes: ${what} is wrong`);
}
