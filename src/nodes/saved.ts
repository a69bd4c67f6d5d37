/**
 * The nodes on disk: what a file of this room says, read back from JSON.
 *
 * Everything read is checked and bounded before any of it is taken. Fields that an earlier version didn't write may
 * be missing. How a state is made and taken is in disk.ts.
 */

import { type Address, type Mac, parseAddress, parseMac } from "../lib/address.ts";
import { isObject } from "../lib/json.ts";
import type { Alias } from "./aliases.ts";
import {
  COUNTER_MAX,
  isNodeAddress,
  type Kind,
  type NameSource,
  noTraffic,
  type Source,
  type Traffic,
} from "./node.ts";
import { ID_MAX } from "./numbers.ts";
import type { Totals } from "./usage.ts";

export const nodesVersion = 1;

interface SavedAddress {
  readonly address: Address;
  readonly source: Source;
  readonly mac: Mac | undefined;
  /** A date, like all times here. */
  readonly since: number | undefined;
}

export interface SavedNode {
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
  /** Since when it has its names. */
  readonly named: Partial<Record<NameSource, number>>;
  readonly traffic: Traffic;
  readonly today: Totals | undefined;
  /** By the user. */
  readonly pinned: boolean;
}

interface SavedAlias extends Omit<Alias, "at" | "firstAt" | "firstDate"> {
  readonly id: number;
  readonly since: number;
  readonly firstSeen: number | undefined;
}

/** What a file of this room says, checked. */
export interface NodesState {
  readonly nextId: number;
  /** Unix seconds when it was written. */
  readonly savedAt: number;
  /** Local day since 1970 that `today` of the nodes was counted on. */
  readonly day: number | undefined;
  readonly nodes: readonly SavedNode[];
  readonly aliases: readonly SavedAlias[];
  /** Pairs of ids that the user parted. */
  readonly apart: readonly (readonly [number, number])[];
}

/** What a configuration may allow at most. */
const NODES = 262_144;
const PER_NODE = 4096;
/** Of the file: nodes with three addresses, names and counters each have about half of that. */
export const maxNodesBytes = NODES * 1_024;
const DAYS = 1e8;
const TEXT = 1024;
const kinds: readonly Kind[] = ["device", "local", "name", "address", "router", "gateway"];
const sources: readonly Source[] = ["neighbour", "dhcp", "dns", "traffic", "own", "route", "user"];
const nameSources: readonly NameSource[] = ["user", "static", "dhcp", "dns"];

/** @throws SyntaxError if this is no state of the nodes. */
export function parseNodes(state: unknown): NodesState {
  const top = object(state, "nodes");
  const nodes = array(top.nodes, "nodes", NODES).map(parseNode);
  const aliases = array(top.aliases ?? [], "aliases", NODES).map(parseAlias);
  const apart = array(top.apart ?? [], "apart", NODES).map(parsePair);
  const day = top.day === undefined ? undefined : integer(top.day, "day", DAYS);
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
  const savedAt = integer(top.savedAt, "savedAt", Number.MAX_SAFE_INTEGER);
  return { nextId, savedAt, day, nodes, aliases, apart };
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
    named: parseNamed(node.named ?? {}),
    traffic: node.traffic === undefined ? noTraffic : parseTraffic(node.traffic),
    today: node.today === undefined ? undefined : parseTotals(node.today),
    pinned: flag(node.pinned, "pinned"),
  };
}

function parseNamed(value: unknown): SavedNode["named"] {
  const named = object(value, "named");
  const entries = nameSources.flatMap((source) => {
    const date = Object.hasOwn(named, source) ? named[source] : undefined;
    return date === undefined ? [] : [[source, integer(date, "named", Number.MAX_SAFE_INTEGER)] as const];
  });
  return Object.fromEntries(entries);
}

function parseSavedAddress(value: unknown): SavedAddress {
  const saved = object(value, "address");
  const address = nodeAddress(saved.address);
  const source = sources.find((each) => each === saved.source) ?? fail("source");
  return {
    address,
    source,
    mac: saved.mac === undefined ? undefined : mac(saved.mac),
    since: saved.since === undefined ? undefined : integer(saved.since, "since", Number.MAX_SAFE_INTEGER),
  };
}

/** Of what an alias brought, files of the first release know MACs, identities and the name only. */
function parseAlias(value: unknown): SavedAlias {
  const alias = object(value, "alias");
  const into = integer(alias.into, "into", ID_MAX);
  const macs = array(alias.macs ?? [], "macs", PER_NODE).map(mac);
  const clients = array(alias.clients ?? [], "clients", PER_NODE).map((each) => text(each, "client"));
  const isDevice = macs.length + clients.length > 0;
  return {
    id: integer(alias.id, "id", ID_MAX),
    into,
    via: alias.via === undefined ? into : integer(alias.via, "via", ID_MAX),
    since: integer(alias.since, "since", Number.MAX_SAFE_INTEGER),
    kind: kinds.find((each) => each === alias.kind) ?? (isDevice ? "device" : "local"),
    macs,
    shared: array(alias.shared ?? [], "shared", PER_NODE).map(mac),
    clients,
    addresses: array(alias.addresses ?? [], "addresses", PER_NODE).map(nodeAddress),
    userName: optional(alias.userName, "userName"),
    dhcpName: optional(alias.dhcpName, "dhcpName"),
    named: flag(alias.named, "named"),
    pinned: flag(alias.pinned, "pinned"),
    firstSeen:
      alias.firstSeen === undefined
        ? undefined
        : integer(alias.firstSeen, "firstSeen", Number.MAX_SAFE_INTEGER),
  };
}

function parsePair(value: unknown): readonly [number, number] {
  const pair = array(value, "apart", 2);
  if (pair.length !== 2) fail("apart");
  return [integer(pair[0], "apart", ID_MAX), integer(pair[1], "apart", ID_MAX)];
}

function parseTotals(value: unknown): Totals {
  const totals = object(value, "today");
  const most = Number.MAX_SAFE_INTEGER;
  return {
    bytesIn: integer(totals.bytesIn, "today", most),
    packetsIn: integer(totals.packetsIn, "today", most),
    bytesOut: integer(totals.bytesOut, "today", most),
    packetsOut: integer(totals.packetsOut, "today", most),
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

function nodeAddress(value: unknown): Address {
  const address = parseAddress(text(value, "address"));
  return address !== undefined && isNodeAddress(address) ? address : fail("address");
}

function flag(value: unknown, what: string): boolean {
  return value === undefined || typeof value === "boolean" ? value === true : fail(what);
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
