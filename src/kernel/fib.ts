/**
 * Policy routing as messages: rules that choose a routing table, and the routes in it. Bytes in and out, no state.
 *
 *     fib_rule_hdr  +--------+---------+---------+-----+-------+---+---+--------+------------+
 *                   | family | dst len | src len | tos | table | 0 | 0 | action | flags (32) |  FRA_…
 *     rtmsg         +--------+---------+---------+-----+-------+----------+-------+------+------------+
 *                   | family | dst len | src len | tos | table | protocol | scope | type | flags (32) |  RTA_…
 *                   +--------+---------+---------+-----+-------+----------+-------+------+------------+
 *
 * Tables beyond 255 are in an attribute; the byte then says 252 (RT_TABLE_COMPAT).
 *
 * Source: linux/fib_rules.h, linux/rtnetlink.h.
 */

import { type Address, encodeAddress, type Family, familyOf, type Prefix, prefixOf } from "../lib/address.ts";
import { type AttributeList, Attributes, concat, encodeAttributes, host } from "./attribute.ts";
import type { Message } from "./netlink.ts";

/** RTM_… */
export const fibMessage = {
  newRoute: 24,
  deleteRoute: 25,
  getRoute: 26,
  newRule: 32,
  deleteRule: 33,
  getRule: 34,
};

/** A rule as we make it: packets that match look their route up in `table`. */
export interface SteerRule {
  readonly family: Family;
  /** The lower, the earlier. */
  readonly priority: number;
  readonly from?: Prefix;
  readonly to?: Prefix;
  /** Name of the interface that they come in by; "lo" is what the router itself sends. */
  readonly incoming?: string;
  readonly table: number;
}

/** A unicast route in a table. */
export interface SteerRoute {
  readonly family: Family;
  readonly table: number;
  /** 0.0.0.0/0 or ::/0: the default route. */
  readonly to: Prefix;
  readonly via?: Address;
  readonly ifindex: number;
  readonly source?: Address;
  readonly metric?: number;
}

/** A rule in the kernel, anybody's. */
export interface FoundRule {
  /** What it is, if it is one that we could have made; undefined: it matches or does something else. */
  readonly rule: SteerRule | undefined;
  readonly family: Family;
  readonly priority: number;
  /** 0: it looks nothing up. */
  readonly table: number;
  /** FRA_PROTOCOL: who made it. */
  readonly protocol: number;
  /** To delete exactly this one. */
  readonly message: Uint8Array;
}

/** A route in the kernel, anybody's. */
export interface FoundRoute {
  readonly route: SteerRoute | undefined;
  readonly family: Family;
  readonly table: number;
  readonly protocol: number;
  readonly message: Uint8Array;
}

const headerBytes = 12;
const families = { 4: 2, 6: 10 } as const;
const compatTable = 252;
const lookUp = 1;
const unicast = 1;
const scope = { universe: 0, link: 253 } as const;
/** FRA_… */
const ruleAttribute = { to: 1, from: 2, incoming: 3, priority: 6, table: 15, protocol: 21 } as const;
/** What rules of others may match besides; those of ours never do. */
const foreignMatches = [4, 10, 11, 16, 17, 19, 20, 22, 23, 24] as const;
/** FRA_SUPPRESS_PREFIXLEN and _IFGROUP: the kernel shows "none" as -1. */
const suppressors = [13, 14] as const;
/** RTA_… */
const routeAttribute = { to: 1, device: 4, via: 5, metric: 6, source: 7, table: 15 } as const;
const multipath = 9;
const attributes = new Attributes(30);

/** @returns the payload that makes the rule, or deletes it. */
export function encodeRule(rule: SteerRule, protocol: number): Uint8Array {
  const list: (readonly [number, Uint8Array])[] = [];
  const [to, from] = [partsOf(rule.to), partsOf(rule.from)];
  if (to) list.push([ruleAttribute.to, encodeAddress(to.base)]);
  if (from) list.push([ruleAttribute.from, encodeAddress(from.base)]);
  if (rule.incoming !== undefined) list.push([ruleAttribute.incoming, textOf(rule.incoming)]);
  list.push([ruleAttribute.priority, host.bytes32(rule.priority)]);
  list.push([ruleAttribute.table, host.bytes32(rule.table)]);
  list.push([ruleAttribute.protocol, Uint8Array.of(protocol)]);
  const header = [
    families[rule.family],
    to?.length ?? 0,
    from?.length ?? 0,
    0,
    byteOf(rule.table),
    0,
    0,
    lookUp,
  ];
  return concat([Uint8Array.from(header), host.bytes32(0), encodeAttributes(list as AttributeList)]);
}

/** @returns the payload that makes the route, or deletes it. */
export function encodeRoute(route: SteerRoute, protocol: number): Uint8Array {
  const { base, length } = partsOf(route.to)!;
  const list: (readonly [number, Uint8Array])[] = [];
  if (length > 0) list.push([routeAttribute.to, encodeAddress(base)]);
  if (route.via !== undefined) list.push([routeAttribute.via, encodeAddress(route.via)]);
  list.push([routeAttribute.device, host.bytes32(route.ifindex)]);
  if (route.source !== undefined) list.push([routeAttribute.source, encodeAddress(route.source)]);
  if (route.metric !== undefined) list.push([routeAttribute.metric, host.bytes32(route.metric)]);
  list.push([routeAttribute.table, host.bytes32(route.table)]);
  const reach = route.via === undefined && route.family === 4 ? scope.link : scope.universe;
  const header = [families[route.family], length, 0, 0, byteOf(route.table), protocol, reach, unicast];
  return concat([Uint8Array.from(header), host.bytes32(0), encodeAttributes(list as AttributeList)]);
}

/** The question for all rules, or routes, of a family. */
export function encodeFibQuestion(family: Family): Uint8Array {
  const header = new Uint8Array(headerBytes);
  header[0] = families[family];
  return header;
}

/** @returns undefined if the message is malformed or of another family. */
export function decodeRule({ bytes, start, end }: Message): FoundRule | undefined {
  const from = start + headerBytes;
  if (from > end || !attributes.read(bytes, from, end)) return undefined;
  const family = familyNumber(bytes[start]!);
  if (!family) return undefined;
  const [toLength, fromLength, tos] = [bytes[start + 1]!, bytes[start + 2]!, bytes[start + 3]!];
  const table = attributes.number32(ruleAttribute.table, host) ?? bytes[start + 4]!;
  const priority = attributes.number32(ruleAttribute.priority, host) ?? 0;
  const protocol = attributes.byte(ruleAttribute.protocol) ?? 0;
  const flags = host.read32(bytes, start + 8);
  const [to, source] = [netOf(ruleAttribute.to, toLength), netOf(ruleAttribute.from, fromLength)];
  const incoming = attributes.text(ruleAttribute.incoming);
  const isPlain =
    bytes[start + 7] === lookUp &&
    tos === 0 &&
    // FIB_RULE_INVERT and others; IIF_DETACHED (8) only says that the interface is not there now.
    (flags & ~0x18) === 0 &&
    to !== "malformed" &&
    source !== "malformed" &&
    !foreignMatches.some((type) => attributes.has(type)) &&
    !suppressors.some((type) => (attributes.number32(type, host) ?? 0xffff_ffff) !== 0xffff_ffff);
  const rule: SteerRule | undefined = isPlain
    ? {
        ...{ family, priority, table },
        ...(to === undefined ? {} : { to: to as Prefix }),
        ...(source === undefined ? {} : { from: source as Prefix }),
        ...(incoming === undefined ? {} : { incoming }),
      }
    : undefined;
  const known = bytes[start + 7] === lookUp ? table : 0;
  return { ...{ rule, family, priority, protocol }, table: known, message: bytes.slice(start, end) };
}

/** @returns undefined if the message is malformed, of another family, or of a clone in the route cache. */
export function decodeRoute({ bytes, start, end }: Message): FoundRoute | undefined {
  const from = start + headerBytes;
  if (from > end || !attributes.read(bytes, from, end)) return undefined;
  const family = familyNumber(bytes[start]!);
  // RTM_F_CLONED
  if (!family || (host.read32(bytes, start + 8) & 0x200) !== 0) return undefined;
  const table = attributes.number32(routeAttribute.table, host) ?? bytes[start + 4]!;
  const to = netOf(routeAttribute.to, bytes[start + 1]!) ?? everything(family);
  const ifindex = attributes.number32(routeAttribute.device, host);
  const via = attributes.address(routeAttribute.via);
  const source = attributes.address(routeAttribute.source);
  // IPv6 gives a metric to each route: 1024 if nobody asked for another.
  const metric = attributes.number32(routeAttribute.metric, host);
  const isPlain =
    bytes[start + 7] === unicast &&
    bytes[start + 2] === 0 &&
    bytes[start + 3] === 0 &&
    to !== "malformed" &&
    ifindex !== undefined &&
    !attributes.has(multipath);
  const route: SteerRoute | undefined = isPlain
    ? {
        ...{ family, table, to: to as Prefix, ifindex },
        ...(via === undefined ? {} : { via }),
        ...(source === undefined ? {} : { source }),
        ...(metric === undefined ? {} : { metric }),
      }
    : undefined;
  return { route, family, table, protocol: bytes[start + 5]!, message: bytes.slice(start, end) };
}

/** All of a family. */
export function everything(family: Family): Prefix {
  return (family === 4 ? "0.0.0.0/0" : "::/0") as Prefix;
}

function netOf(type: number, length: number): Prefix | undefined | "malformed" {
  const address = attributes.address(type);
  if (address === undefined) return length === 0 ? undefined : "malformed";
  return length > (familyOf(address) === 4 ? 32 : 128) ? "malformed" : prefixOf(address, length);
}

function partsOf(prefix: Prefix | undefined): { base: Address; length: number } | undefined {
  if (prefix === undefined) return undefined;
  const [base, length] = prefix.split("/") as [Address, string];
  return { base, length: Number(length) };
}

function familyNumber(byte: number): Family | undefined {
  return byte === families[4] ? 4 : byte === families[6] ? 6 : undefined;
}

function byteOf(table: number): number {
  return table < 256 ? table : compatTable;
}

function textOf(text: string): Uint8Array {
  return new TextEncoder().encode(`${text}\0`);
}
