/**
 * What a node is: the record that the rest of the room keeps, and the limits it keeps it within.
 *
 * Instants ending in `At` are monotonic milliseconds, also those from before this start (they may be negative);
 * dates appear only on the way out, so a clock that is set later corrects them all.
 */

import { type Address, type Mac, scopeOf } from "../lib/address.ts";
import type { Usage } from "./usage.ts";

/** The two clocks at the moment a piece of evidence came. */
export interface Moment {
  /** Monotonic milliseconds. */
  readonly now: number;
  /** Wall clock, milliseconds since 1970; may be wrong and may jump. */
  readonly date: number;
  /** Local time minus UTC; 0 by default. */
  readonly offsetMs?: number;
}

export type Kind =
  /** Something with a MAC or a DHCP identity on our own network. */
  | "device"
  /** An address of our own network whose MAC is not known yet. */
  | "local"
  /** A name that a client asked for, with the addresses answered. */
  | "name"
  /** An address elsewhere that nobody named. */
  | "address"
  /** This router. */
  | "router"
  /** A next hop of a default route, on the WAN side. */
  | "gateway";

/** Whence we know that an address is a node's. */
export type Source = "neighbour" | "dhcp" | "dns" | "traffic" | "own" | "route" | "user";

/** When something began: here, or on a date (unix seconds) in an earlier life, which then counts. */
export interface Since {
  readonly sinceAt: number;
  readonly sinceDate: number | undefined;
}

/** An address that a node holds. */
export interface Holding extends Since {
  source: Source;
  /** Last neighbour that answered for it, kept when the entry is gone so that a change is seen. */
  mac: Mac | undefined;
  /** When that MAC replaced another, and how often that happened in short order; undefined if it never did. */
  change: { readonly at: number; readonly contests: number } | undefined;
  sinceAt: number;
  sinceDate: number | undefined;
  seenAt: number;
  /** End of the longest time to live of an answer that brought it; -Infinity if none did. */
  untilAt: number;
  /** The neighbour table has it now. */
  live: boolean;
}

/** A name answered for an address. */
export interface Observation {
  readonly sinceAt: number;
  /** The last answer. */
  seenAt: number;
  /** End of the longest time to live. */
  untilAt: number;
}

export interface Traffic {
  readonly bytesIn: bigint;
  readonly packetsIn: bigint;
  readonly bytesOut: bigint;
  readonly packetsOut: bigint;
}

export type NameSource = "user" | "static" | "dhcp" | "dns";

export interface Node {
  readonly id: number;
  kind: Kind;
  readonly addresses: Map<Address, Holding>;
  /** Of devices only. */
  macs: readonly Mac[];
  /** DHCP identities: "4 " + client id or "6 " + DUID, in hex as the lease file has them. */
  clients: readonly string[];
  /** Of a "name" node: the name it is, folded. */
  dnsName: string | undefined;
  /** Names answered for the address of an "address" node; they are only shown. */
  observed: Map<string, Observation> | undefined;
  userName: string | undefined;
  /** From the router's `config host`. */
  staticName: string | undefined;
  dhcpName: string | undefined;
  /** Since when it has the names above; a name that is not in here it has as long as it is known. */
  named: Partial<Record<NameSource, Since>> | undefined;
  firstAt: number;
  seenAt: number;
  /** Dates (unix seconds) from an earlier life; the second only until it is seen again. */
  firstDate: number | undefined;
  lastDate: number | undefined;
  /** When seeing it was last worth telling subscribers. */
  shownAt: number;
  /** Distinct minutes in which it was seen, up to 255: what an eviction goes by. */
  evidence: number;
  traffic: Traffic;
  /** What passed today and lately; only of our own network, and only once something did. */
  usage: Usage | undefined;
  /** Why others need it; undefined is none. */
  pins: Set<string> | undefined;
  /** Addresses that the user tied to it. */
  ties: number;
  /** Addresses that are leased to it. */
  leases: number;
  /** Ids merged into it. */
  aliases: number[] | undefined;
  /** Somebody has been told of it, so its end must be told too. */
  announced: boolean;
}

export interface Limits {
  /** Nodes of all kinds. */
  readonly nodes: number;
  readonly addressesPerNode: number;
  /** Names seen for one address. */
  readonly namesPerNode: number;
  readonly macsPerNode: number;
  /** DNS questions waiting for an answer. */
  readonly questionsPerClient: number;
  readonly questions: number;
  /** Who was answered which name for which address. */
  readonly answersPerClient: number;
  readonly answers: number;
  readonly leases: number;
  readonly aliases: number;
  /** Pairs that the user parted. */
  readonly apart: number;
  /** Unseen for so long, a far or bare node goes. */
  readonly farMs: number;
  /** Unseen for so long, a device goes. */
  readonly deviceMs: number;
  /** Unseen for so long, an address leaves its device. */
  readonly addressMs: number;
  /** What an answered address stays past its time to live and past the last traffic with it. */
  readonly graceMs: number;
  /** The same for a node that somebody pinned: a blocked client may keep an answer longer than it should. */
  readonly pinnedGraceMs: number;
  /** How long an id that was merged away answers. */
  readonly aliasMs: number;
}

export const defaultLimits: Limits = {
  nodes: 4096,
  addressesPerNode: 64,
  namesPerNode: 32,
  macsPerNode: 8,
  questionsPerClient: 256,
  questions: 4096,
  answersPerClient: 1024,
  answers: 16_384,
  leases: 4096,
  aliases: 4096,
  apart: 1024,
  farMs: 30 * 60_000,
  deviceMs: 30 * 86_400_000,
  addressMs: 86_400_000,
  graceMs: 5 * 60_000,
  pinnedGraceMs: 60 * 60_000,
  aliasMs: 7 * 86_400_000,
};

/** 2^63-1: the counters of SPIN's clients are signed. */
export const COUNTER_MAX = 0x7fff_ffff_ffff_ffffn;

export const noTraffic: Traffic = { bytesIn: 0n, packetsIn: 0n, bytesOut: 0n, packetsOut: 0n };

/** Adds counters; each stays at its maximum instead of overflowing. */
export function addTraffic(left: Traffic, right: Traffic): Traffic {
  return {
    bytesIn: addCounter(left.bytesIn, right.bytesIn),
    packetsIn: addCounter(left.packetsIn, right.packetsIn),
    bytesOut: addCounter(left.bytesOut, right.bytesOut),
    packetsOut: addCounter(left.packetsOut, right.packetsOut),
  };
}

function addCounter(left: bigint, right: bigint): bigint {
  const sum = left + (right > 0n ? right : 0n);
  return sum > COUNTER_MAX ? COUNTER_MAX : sum;
}

/** One of our own network or the router itself: such an address is nobody else's. */
export function isNear(node: Node): boolean {
  return node.kind !== "name" && node.kind !== "address";
}

/** A node that is nothing but an address so far. */
export function isBare(node: Node): boolean {
  return node.kind === "local" || node.kind === "address";
}

/** Kept on disk: devices and the router always, others while somebody wants them. */
export function isPersistent(node: Node): boolean {
  return node.kind === "device" || node.kind === "router" || isWanted(node);
}

/** Somebody asked for it to stay. */
export function isWanted(node: Node): boolean {
  return node.pins !== undefined || node.userName !== undefined || node.ties > 0;
}

/** A device that somebody other than itself vouches for: no flood of strangers displaces it. */
export function isKnown(node: Node): boolean {
  return isWanted(node) || node.leases > 0 || node.staticName !== undefined;
}

/** What it is called: the user's word before the administrator's before its own. */
export function nameOf(node: Node): string | undefined {
  return node.userName ?? node.staticName ?? node.dhcpName;
}

/** DNS names of a node, the shortest first, then by text. */
export function domainsOf(node: Node): string[] {
  if (node.dnsName !== undefined) return [node.dnsName];
  if (!node.observed) return [];
  return [...node.observed.keys()].sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
}

/**
 * Whether an address can be a node's. Multicast, broadcast, loopback and unspecified addresses are not: SPIN
 * showed them as nodes, but they name no device that could be blocked.
 */
export function isNodeAddress(address: Address): boolean {
  const scope = scopeOf(address);
  return scope === "global" || scope === "private" || scope === "link";
}

/** A MAC that a device made up for itself (locally administered bit), as phones do for privacy. */
export function isRandomised(mac: Mac): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 2) !== 0;
}

/** Reason of the pin that the user's own word sets; it outlives the agent, those of rooms they set anew. */
export const USER_PIN = "user";

/** A node of a kind that nothing is known of yet. */
export function newNode(id: number, kind: Kind, now: number): Node {
  return {
    id,
    kind,
    addresses: new Map(),
    macs: none,
    clients: none,
    dnsName: undefined,
    observed: undefined,
    userName: undefined,
    staticName: undefined,
    dhcpName: undefined,
    named: undefined,
    firstAt: now,
    seenAt: now,
    firstDate: undefined,
    lastDate: undefined,
    shownAt: now,
    evidence: 0,
    traffic: noTraffic,
    usage: undefined,
    pins: undefined,
    ties: 0,
    leases: 0,
    aliases: undefined,
    announced: false,
  };
}

const none: readonly never[] = [];

/** A holding as new evidence makes it. */
export function newHolding(source: Source, now: number): Holding {
  return {
    source,
    mac: undefined,
    change: undefined,
    sinceAt: now,
    sinceDate: undefined,
    seenAt: now,
    untilAt: Number.NEGATIVE_INFINITY,
    live: false,
  };
}
