/**
 * Interfaces, their addresses, neighbours and default routes as rtnetlink writes them: decoded from messages,
 * nothing kept.
 *
 * Source: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h.
 */

import { type Address, decodeAddress, decodeMac, type Family, type Mac } from "../lib/address.ts";
import { Attributes, host, padded } from "./attribute.ts";
import type { Message } from "./netlink.ts";

export interface Link {
  readonly ifindex: number;
  /** As the administrator chose it: any bytes but "/" and space, up to 15. */
  readonly name: string;
  /** Absent where frames have no Ethernet address. */
  readonly mac?: Mac;
  /** Switched on. */
  readonly up: boolean;
  /** Can carry packets: switched on, and carrier there. */
  readonly running: boolean;
  /** Index of the bridge (bond, VRF) that it is a port of. */
  readonly master?: number;
  /** What it sits on: the device under a VLAN, the other end of a veth. Absent if that is in another namespace. */
  readonly parent?: number;
  /** "bridge", "veth", "vlan"…; absent for hardware. */
  readonly kind?: string;
  /** VLAN id, if it is one. */
  readonly vlan?: number;
  readonly mtuBytes?: number;
}

export interface InterfaceAddress {
  readonly ifindex: number;
  readonly address: Address;
  readonly prefixLength: number;
  /** The other end, on a point-to-point link. */
  readonly peer?: Address;
  /** IFA_F_… bits, see `addressFlag`. */
  readonly flags: number;
}

/** Bits of `InterfaceAddress.flags`. */
export const addressFlag = {
  temporary: 0x01,
  dadFailed: 0x08,
  deprecated: 0x20,
  tentative: 0x40,
  permanent: 0x80,
} as const;

export type NeighbourState =
  | "none"
  | "incomplete"
  | "reachable"
  | "stale"
  | "delay"
  | "probe"
  | "failed"
  | "noarp"
  | "permanent";

export interface Neighbour {
  readonly ifindex: number;
  readonly address: Address;
  /** Absent while unknown ("incomplete", mostly "failed"), and where it is no Ethernet address. */
  readonly mac?: Mac;
  /** "stale" is not gone: it was there, and has not been asked since. "noarp" is never told. */
  readonly state: NeighbourState;
  /** Says of itself that it forwards (IPv6 only). */
  readonly router: boolean;
}

/** Whether somebody has said that it is there, as far as the kernel knows. */
export function hasAnswered({ mac, state }: Pick<Neighbour, "mac" | "state">): boolean {
  return mac !== undefined && state !== "failed" && state !== "incomplete";
}

/** Where packets go of which the routing table knows nothing better. */
export interface DefaultRoute {
  readonly family: Family;
  /** 254 is the main one; others serve packets that rules send there. */
  readonly table: number;
  /** The lowest wins. */
  readonly metric: number;
  /** Never empty; several share the load. */
  readonly hops: readonly Hop[];
}

export interface Hop {
  /** 0 if the kernel names none. */
  readonly ifindex: number;
  /** May be of the other family (RFC 5549). Absent on a point-to-point link. */
  readonly gateway?: Address;
}

/** Why a message is no entry: "foreign" ones are well-formed and about something else. */
export type Unread = "malformed" | "foreign";

const [inet, inet6] = [2, 10];
const macBytes = 6;
/** IFLA_…, IFA_…, NDA_…; IFLA_INFO_… and IFLA_VLAN_… one and two levels below. */
const linkAttribute = {
  mac: 1,
  name: 3,
  mtu: 4,
  parent: 5,
  master: 10,
  wireless: 11,
  info: 18,
  elsewhere: 37,
} as const;
const infoAttribute = { kind: 1, data: 2 } as const;
const vlanId = 1;
const addressAttribute = { address: 1, local: 2, flags: 8 } as const;
const neighbourAttribute = { address: 1, mac: 2 } as const;
const routeAttribute = { device: 4, gateway: 5, metric: 6, multipath: 9, table: 15, via: 18 } as const;
const attributes = new Attributes(37);
const info = new Attributes(2);
const infoData = new Attributes(1);
const hopAttributes = new Attributes(18);

/**
 *     +--------+--------+----------------+----------------+----------------+----------------+
 *     | family | 0      | hardware type  | ifindex (32)   | flags (32)     | changed (32)   |  IFLA_…
 *     +--------+--------+----------------+----------------+----------------+----------------+
 */
export function decodeLink({ bytes, start, end }: Message): Link | Unread {
  const from = start + 16;
  if (from > end || !attributes.read(bytes, from, end)) return "malformed";
  // A wireless driver's own event comes as a link message with hardly any of the link in it.
  if (bytes[start] !== 0 || attributes.has(linkAttribute.wireless)) return "foreign";
  const ifindex = host.read32(bytes, start + 4);
  const flags = host.read32(bytes, start + 8);
  const name = attributes.text(linkAttribute.name);
  if (ifindex === 0 || name === undefined) return "malformed";
  const mac = macOf(linkAttribute.mac);
  const master = attributes.number32(linkAttribute.master, host);
  // The number of another namespace's interface may be that of one of ours (IFLA_LINK_NETNSID).
  const elsewhere = attributes.has(linkAttribute.elsewhere);
  const parent = elsewhere ? undefined : attributes.number32(linkAttribute.parent, host);
  const mtuBytes = attributes.number32(linkAttribute.mtu, host);
  info.readNested(attributes, linkAttribute.info);
  const kind = info.text(infoAttribute.kind);
  infoData.readNested(info, infoAttribute.data);
  const vlan = kind === "vlan" ? infoData.number16(vlanId, host) : undefined;
  return {
    ...{ ifindex, name },
    ...(mac === undefined ? {} : { mac }),
    ...{ up: (flags & 1) !== 0, running: (flags & 0x41) === 0x41 },
    ...(master ? { master } : {}),
    ...(parent ? { parent } : {}),
    ...(kind === undefined ? {} : { kind }),
    ...(vlan === undefined ? {} : { vlan }),
    ...(mtuBytes === undefined ? {} : { mtuBytes }),
  };
}

/**
 *     +--------+--------+--------+--------+----------------+
 *     | family | prefix | flags  | scope  | ifindex (32)   |  IFA_…
 *     +--------+--------+--------+--------+----------------+
 */
export function decodeInterfaceAddress({ bytes, start, end }: Message): InterfaceAddress | Unread {
  const from = start + 8;
  if (from > end || !attributes.read(bytes, from, end)) return "malformed";
  const family = bytes[start]!;
  if (family !== inet && family !== inet6) return "foreign";
  const ifindex = host.read32(bytes, start + 4);
  const prefixLength = bytes[start + 1]!;
  // On a point-to-point link ADDRESS is the other end; where there is no LOCAL, it is our own.
  const remote = attributes.address(addressAttribute.address);
  const own = attributes.address(addressAttribute.local) ?? remote;
  if (
    own === undefined ||
    ifindex === 0 ||
    !isOf(family, own) ||
    prefixLength > (family === inet ? 32 : 128)
  ) {
    return "malformed";
  }
  return {
    ...{ ifindex, address: own, prefixLength },
    ...(remote === undefined || remote === own ? {} : { peer: remote }),
    flags: attributes.number32(addressAttribute.flags, host) ?? bytes[start + 2]!,
  };
}

const states = new Map<number, NeighbourState>([
  ...([
    [0, "none"],
    [0x01, "incomplete"],
    [0x02, "reachable"],
    [0x04, "stale"],
    [0x08, "delay"],
  ] as const),
  ...([
    [0x10, "probe"],
    [0x20, "failed"],
    [0x40, "noarp"],
    [0x80, "permanent"],
  ] as const),
]);

/**
 *     +--------+--------+----------------+----------------+----------------+--------+--------+
 *     | family | 0      | 0              | ifindex (32)   | state (16)     | flags  | type   |  NDA_…
 *     +--------+--------+----------------+----------------+----------------+--------+--------+
 */
export function decodeNeighbour({ bytes, start, end }: Message): Neighbour | Unread {
  const from = start + 12;
  if (from > end || !attributes.read(bytes, from, end)) return "malformed";
  const family = bytes[start]!;
  const flags = bytes[start + 10]!;
  const proxied = (flags & 0x08) !== 0;
  if ((family !== inet && family !== inet6) || proxied) return "foreign";
  const ifindex = host.read32(bytes, start + 4);
  const state = states.get(host.read16(bytes, start + 8));
  const of = attributes.address(neighbourAttribute.address);
  if (of === undefined || ifindex === 0 || state === undefined || !isOf(family, of)) return "malformed";
  const mac = macOf(neighbourAttribute.mac);
  return {
    ...{ ifindex, address: of },
    ...(mac === undefined ? {} : { mac }),
    ...{ state, router: (flags & 0x80) !== 0 },
  };
}

const unicast = 1;
/** RTNH_F_DEAD: its interface is down. The kernel keeps such a way of several, without using it. */
const dead = 1;
/** Made by the kernel for one destination, as a note to itself. */
const cloned = 0x200;

/**
 *     +--------+--------+--------+--------+--------+--------+--------+--------+----------------+
 *     | family | dst    | src    | tos    | table  | origin | scope  | type   | flags (32)     |  RTA_…
 *     +--------+--------+--------+--------+--------+--------+--------+--------+----------------+
 *
 * A route for some sources only ("default from …") is one too: routers have no other for IPv6. All routes to
 * somewhere are "foreign", and so are those that refuse or lead nowhere at present.
 */
export function decodeDefaultRoute({ bytes, start, end }: Message): DefaultRoute | Unread {
  const from = start + 12;
  if (from > end || end > bytes.length) return "malformed";
  const family = bytes[start]!;
  if (family !== inet && family !== inet6) return "foreign";
  // A router of the backbone has a million others: they are passed over before anything is decoded.
  if (bytes[start + 1] !== 0 || bytes[start + 7] !== unicast || host.read32(bytes, start + 8) & cloned)
    return "foreign";
  if (!attributes.read(bytes, from, end)) return "malformed";
  const hops = attributes.has(routeAttribute.multipath)
    ? decodeHops(bytes, attributes.start(routeAttribute.multipath), {
        end: attributes.start(routeAttribute.multipath) + attributes.size(routeAttribute.multipath),
      })
    : [hopOf(attributes, attributes.number32(routeAttribute.device, host) ?? 0)];
  if (!hops) return "malformed";
  if (hops.length === 0) return "foreign";
  return {
    family: family === inet ? 4 : 6,
    table: attributes.number32(routeAttribute.table, host) ?? bytes[start + 4]!,
    metric: attributes.number32(routeAttribute.metric, host) ?? 0,
    hops,
  };
}

/**
 *     +----------------+--------+--------+----------------+
 *     | length (16)    | flags  | weight | ifindex (32)   |  RTA_GATEWAY or RTA_VIA; then the next
 *     +----------------+--------+--------+----------------+
 */
function decodeHops(bytes: Uint8Array, start: number, { end }: { end: number }): Hop[] | undefined {
  const hops: Hop[] = [];
  for (let at = start; at < end; ) {
    const size = end - at < 8 ? 0 : host.read16(bytes, at);
    if (size < 8 || size > end - at || !hopAttributes.read(bytes, at + 8, at + size)) return undefined;
    if (!(bytes[at + 2]! & dead)) hops.push(hopOf(hopAttributes, host.read32(bytes, at + 4)));
    at += padded(size);
  }
  return hops;
}

function hopOf(from: Attributes, ifindex: number): Hop {
  const gateway = from.address(routeAttribute.gateway) ?? viaOf(from.bytes(routeAttribute.via));
  return { ifindex, ...(gateway === undefined ? {} : { gateway }) };
}

/** `struct rtvia`: a family and an address of it. */
function viaOf(bytes: Uint8Array | undefined): Address | undefined {
  if (bytes === undefined || bytes.length < 2) return undefined;
  const family = host.read16(bytes, 0);
  if (family === inet && bytes.length === 6) return decodeAddress(bytes, 2, 4);
  return family === inet6 && bytes.length === 18 ? decodeAddress(bytes, 2, 6) : undefined;
}

function macOf(type: number): Mac | undefined {
  const bytes = attributes.bytes(type);
  return bytes?.length === macBytes ? decodeMac(bytes) : undefined;
}

function isOf(family: number, of: Address): boolean {
  return of.includes(":") === (family === inet6);
}
