/**
 * A plan as nft tables: pure, plan in, sets and chains out.
 *
 *     chain forward, input, output      (hook, priority filter - 5: before fw4 accepts what is established and
 *       │                                before a flowtable takes a connection away)
 *       ├ tap: DNS to NFLOG
 *       ├ barred address, net or MAC ───────────────────────────────────────────────────┐
 *       ├ destination in @partners ── outbound ── source (or MAC) keeper's ── f<id> ──┐ │
 *       └ source in @partners ─────── inbound ─── destination keeper's ────── t<id> ──┤ │
 *                                                                                     ↓ ↓
 *                             f<id>, t<id>: other address in @P<id>V4, @P<id>V6 ───── end: exempt? else drop
 *
 * A packet that is of no partner leaves after two lookups. An address of several keepers goes to a chain of its
 * own that asks each. Table `bridge` has the same for frames that pass between two ports of a LAN bridge and
 * never come to the inet hooks; there MACs are known on both sides. What the router sends into the bridge, routed
 * packets among it, passes the bridge's hook output: there a barred or kept MAC is told whatever address its owner
 * has just taken. LAN devices that are no bridge have a hook of their own for that (`egress.ts`).
 *
 * Answers of DNS that wait for a verdict do so in chains of their own after these: whoever queues a packet has the
 * last word on it in its chain.
 *
 * Each rule's comment carries a fingerprint of its text, so that rules read back are recognised whatever way this
 * version of nft prints them.
 */

import type { Family } from "../lib/address.ts";
import type { Dispatch, Keeper } from "./dispatch.ts";
import { reportBytes, reportThreshold } from "./enforcer.ts";
import type { NetsApart } from "./nets.ts";

export type TableFamily = "inet" | "bridge" | "netdev";
export type Hook = "prerouting" | "forward" | "input" | "output" | "postrouting" | "egress";

export interface NftSet {
  /** As nft writes it: `ipv4_addr`, `ether_addr . ether_addr`, … */
  readonly type: string;
  /** A map's elements have verdicts, or data. */
  readonly map: boolean;
  /** What a map's elements hold; absent: verdicts. */
  readonly data?: "ipv4_addr" | "ipv6_addr";
  /** Elements may be prefixes. */
  readonly interval: boolean;
  /** Element → verdict or data, "" in a set. */
  readonly elements: ReadonlyMap<string, string>;
}

export interface NftRule {
  readonly text: string;
  /** Names what it is for, with a fingerprint of the text. */
  readonly comment: string;
}

export interface NftChain {
  readonly hook?: Hook;
  /** One step of priority after the others. */
  readonly late?: true;
  /** Translates addresses; its hook is prerouting or postrouting. A chain for prerouting that does not comes after. */
  readonly nat?: true;
  /** Of a hook that is a device's. */
  readonly device?: string;
  readonly rules: readonly NftRule[];
}

export interface NftTable {
  readonly sets: ReadonlyMap<string, NftSet>;
  readonly chains: ReadonlyMap<string, NftChain>;
  /** Whether it has the counter `dropped`. Every table of ours has; it outlives all changes but the table's end. */
  readonly counted: boolean;
}

export interface NftOptions {
  readonly lanDevices: readonly string[];
  readonly tap?: { readonly group: number; readonly queue?: number } | undefined;
  readonly reportGroup?: number | undefined;
}

/** Rules that make up a table, while it grows. */
export interface Growing {
  readonly sets: Map<string, NftSet>;
  readonly chains: Map<string, NftChain>;
}

export const types = { 4: "ipv4_addr", 6: "ipv6_addr" } as const;
export const protocols = { 4: "ip", 6: "ip6" } as const;
export const families = [4, 6] as const;
export const discovery = [
  "nd-router-solicit",
  "nd-router-advert",
  "nd-neighbor-solicit",
  "nd-neighbor-advert",
];
/** Packets per second, and at once, that are copied; the rest is only counted. */
const [reportRate, reportBurst] = [20_000, 40_000];

/** The table of a plan, or undefined if it has nothing to say. For netdev see `egressTable`. */
export function nftTable(
  family: "inet" | "bridge",
  dispatch: Dispatch,
  options: NftOptions,
): NftTable | undefined {
  const tap = family === "inet" ? options.tap : undefined;
  if (!dispatch.blocks && tap === undefined) return undefined;
  const sets = new Map<string, NftSet>();
  const chains = new Map<string, NftChain>();
  const lan = family === "bridge" ? "" : lanMatch(options.lanDevices);
  if (dispatch.blocks) {
    addPairs({ sets, chains }, dispatch, { family, lan });
    chains.set("end", { rules: lastRules(sets, dispatch, { family, lan, group: options.reportGroup }) });
  }
  for (const hook of family === "inet" ? (["forward", "input", "output"] as const) : (["forward"] as const)) {
    const rules = tap === undefined ? [] : tapRules(hook, tap);
    if (dispatch.blocks) {
      if (hook === "input") rules.push(...leaseQueries);
      rules.push(...firstRules(sets, dispatch, { family, lan: hook === "output" ? undefined : lan }));
    }
    chains.set(hook, { hook, rules });
  }
  if (family === "bridge") addBridgeOutput({ sets, chains }, dispatch);
  if (tap?.queue !== undefined) {
    for (const hook of ["forward", "output"] as const) {
      const text = `udp sport 53 queue num ${tap.queue} bypass`;
      chains.set(`hold_${hook}`, { hook, late: true, rules: [rule(text, "answers wait")] });
    }
  }
  return { sets, chains, counted: true };
}

/** `lan`: a match for frames whose source MAC is a LAN device's own; undefined where packets have no MAC. */
interface Place {
  readonly family: "inet" | "bridge";
  readonly lan: string | undefined;
}

function addPairs({ sets, chains }: Growing, dispatch: Dispatch, { family, lan }: Place): void {
  if (dispatch.keepers.length === 0) return;
  for (const version of families) {
    if (dispatch.partners[version].size > 0) {
      sets.set(`partners${version}`, setOf(types[version], dispatch.partners[version]));
    }
  }
  for (const keeper of dispatch.keepers) {
    addPartners(sets, keeper);
    for (const way of ["f", "t"] as const)
      chains.set(`${way}${keeper.id}`, { rules: keeperRules(keeper, way) });
  }
  const outbound: NftRule[] = [];
  const inbound: NftRule[] = [];
  for (const version of families) {
    const holders = holdersOf(dispatch.keepers, (keeper) => keeper.own[version]);
    if (holders.size === 0) continue;
    sets.set(`from${version}`, mapOf({ sets, chains }, types[version], { prefix: "f", holders }));
    sets.set(`to${version}`, mapOf({ sets, chains }, types[version], { prefix: "t", holders }));
    outbound.push(rule(`${protocols[version]} saddr vmap @from${version}`, "from whom"));
    inbound.push(rule(`${protocols[version]} daddr vmap @to${version}`, "to whom"));
  }
  const macs = holdersOf(dispatch.keepers, (keeper) => keeper.own.macs);
  if (macs.size > 0) {
    sets.set("fromMac", mapOf({ sets, chains }, "ether_addr", { prefix: "f", holders: macs }));
    outbound.push(rule(`${lan}ether saddr vmap @fromMac`, "from whom, by MAC"));
    if (family === "bridge") {
      sets.set("toMac", mapOf({ sets, chains }, "ether_addr", { prefix: "t", holders: macs }));
      inbound.push(rule("ether daddr vmap @toMac", "to whom, by MAC"));
    }
  }
  chains.set("outbound", { rules: outbound });
  chains.set("inbound", { rules: inbound });
}

/** Frames that the router sends into a bridge: who they are for is told by MAC alone. */
function addBridgeOutput({ sets, chains }: Growing, dispatch: Dispatch): void {
  const rules: NftRule[] = [];
  if (dispatch.barred.macs.size > 0) {
    // Its own set is there from the rules of hook forward. Only routed packets are meant, and those are IP.
    chains.set("routed", {
      rules: [rule("ether type != { ip, ip6 } accept", "no traffic"), rule("goto end", "barred, by MAC")],
    });
    rules.push(rule("ether daddr @barredMac goto routed", "barred, by MAC"));
  }
  if (sets.has("toMac")) {
    for (const version of families) {
      if (dispatch.partners[version].size === 0) continue;
      rules.push(rule(`${protocols[version]} saddr @partners${version} jump inbound`, "from a partner"));
    }
  }
  if (rules.length > 0) chains.set("output", { hook: "output", rules });
}

/** What every packet passes. */
function firstRules(sets: Map<string, NftSet>, dispatch: Dispatch, { family, lan }: Place): NftRule[] {
  const rules: NftRule[] = [];
  for (const version of families) {
    if (dispatch.barred[version].size === 0) continue;
    sets.set(`barred${version}`, setOf(types[version], dispatch.barred[version]));
    for (const side of ["saddr", "daddr"]) {
      rules.push(rule(`${protocols[version]} ${side} @barred${version} goto end`, "barred"));
    }
  }
  for (const version of families) {
    if (dispatch.barredNets[version].length === 0) continue;
    for (const match of netMatches(sets, "barredNets", dispatch.barredNets, version))
      rules.push(rule(`${match} goto end`, "barred"));
  }
  if (dispatch.barred.macs.size > 0) {
    sets.set("barredMac", setOf("ether_addr", dispatch.barred.macs));
    if (lan !== undefined) rules.push(rule(`${lan}ether saddr @barredMac goto end`, "barred, by MAC"));
    if (family === "bridge") rules.push(rule("ether daddr @barredMac goto end", "barred, by MAC"));
  }
  for (const version of families) {
    if (dispatch.partners[version].size === 0) continue;
    rules.push(
      rule(`${protocols[version]} daddr @partners${version} jump outbound`, "to a partner"),
      rule(`${protocols[version]} saddr @partners${version} jump inbound`, "from a partner"),
    );
  }
  if (family === "bridge" && dispatch.strangers.length > 0) {
    const pairs = dispatch.strangers.map(([from, to]) => `${from} . ${to}`);
    sets.set("strangers", setOf("ether_addr . ether_addr", pairs));
    rules.push(rule("ether saddr . ether daddr @strangers goto end", "pair, by MAC"));
  }
  return rules;
}

/**
 * What every packet passes that is to be dropped. What it accepts may still meet another fate in another table.
 *
 * Finding a neighbour's MAC is no traffic between nodes: without it a barred node would not reach an exempt one, and
 * in IPv4 inet hooks don't see it either. The hop limit is that of packets which have not been forwarded.
 */
function lastRules(
  sets: Map<string, NftSet>,
  dispatch: Dispatch,
  { family, lan, group }: Place & { readonly group: number | undefined },
): NftRule[] {
  const rules = [...neverDropped];
  if (family === "bridge") rules.push(rule("ether type arp accept", "neighbour discovery"));
  rules.push(...exemptRules(sets, dispatch));
  if (dispatch.exempt.macs.size > 0) {
    sets.set("exemptMac", setOf("ether_addr", dispatch.exempt.macs));
    rules.push(rule(`${lan}ether saddr @exemptMac accept`, "exempt, by MAC"));
    if (family === "bridge") rules.push(rule("ether daddr @exemptMac accept", "exempt, by MAC"));
  }
  if (group !== undefined) rules.push(reportRule(group));
  return [...rules, dropRule];
}

/** Copies what is about to be dropped. */
export function reportRule(group: number): NftRule {
  const limit = `limit rate ${reportRate}/second burst ${reportBurst} packets`;
  const log = `log group ${group} snaplen ${reportBytes} queue-threshold ${reportThreshold}`;
  return rule(`${limit} ${log}`, "report");
}

/** Matches for source and destination in nets of a version; makes their set. */
function netMatches(
  sets: Map<string, NftSet>,
  name: string,
  ...[nets, version]: [nets: NetsApart, version: Family]
): string[] {
  sets.set(`${name}${version}`, { ...setOf(types[version], nets[version]), interval: true });
  return ["saddr", "daddr"].map((side) => `${protocols[version]} ${side} @${name}${version}`);
}

/** Lets pass what is exempt by address or net. */
export function exemptRules(sets: Map<string, NftSet>, { exempt, exemptNets }: Dispatch): NftRule[] {
  const rules: NftRule[] = [];
  for (const version of families) {
    if (exempt[version].size === 0) continue;
    sets.set(`exempt${version}`, setOf(types[version], exempt[version]));
    for (const side of ["saddr", "daddr"]) {
      rules.push(rule(`${protocols[version]} ${side} @exempt${version} accept`, "exempt"));
    }
  }
  for (const version of families) {
    if (exemptNets[version].length === 0) continue;
    for (const match of netMatches(sets, "exemptNets", exemptNets, version))
      rules.push(rule(`${match} accept`, "exempt"));
  }
  return rules;
}

/**
 * Queries to us, answers of ours, and both where they pass through; without threshold the kernel would collect a
 * hundred. Answers over UDP that wait for a verdict are seen there. `ct state` is there for what it causes:
 * connection tracking for both families.
 */
function tapRules(
  hook: "forward" | "input" | "output",
  { group, queue }: NonNullable<NftOptions["tap"]>,
): NftRule[] {
  const ports = { forward: ["dport", "sport"], input: ["dport"], output: ["sport"] }[hook];
  const matches = ["udp", "tcp"].flatMap((protocol) =>
    ports
      .filter((port) => queue === undefined || protocol === "tcp" || port === "dport")
      .map((port) => `${protocol} ${port} 53`),
  );
  return [
    ...matches.map((match) => rule(`${match} log group ${group} queue-threshold 1`, "tap")),
    ...(hook === "input" ? [rule("ct state new counter", "keeps connection tracking on")] : []),
  ];
}

/** Sets of the addresses that no packet of a keeper goes to or comes from. */
export function addPartners(sets: Map<string, NftSet>, keeper: Keeper): void {
  for (const version of families) {
    const partners = keeper.partners[version];
    if (partners.size > 0) sets.set(partnersOf(keeper, version), setOf(types[version], partners));
  }
}

/** Drops packets from ("f") or to ("t") a keeper whose other end is a partner. */
export function keeperRules(keeper: Keeper, way: "f" | "t"): NftRule[] {
  const [side, word] = way === "f" ? ["daddr", "from"] : ["saddr", "to"];
  return families
    .filter((version) => keeper.partners[version].size > 0)
    .map((version) =>
      rule(
        `${protocols[version]} ${side} @${partnersOf(keeper, version)} goto end`,
        `node ${keeper.id}, ${word}`,
      ),
    );
}

function partnersOf(keeper: Keeper, version: Family): string {
  return `P${keeper.id}V${version}`;
}

export function holdersOf<Name extends string>(
  keepers: readonly Keeper[],
  names: (keeper: Keeper) => Iterable<Name>,
): Map<Name, number[]> {
  const holders = new Map<Name, number[]>();
  for (const keeper of keepers) {
    for (const name of names(keeper)) {
      const ids = holders.get(name);
      if (ids) ids.push(keeper.id);
      else holders.set(name, [keeper.id]);
    }
  }
  return holders;
}

/** Name of a keeper → jump to its chain; of several keepers → jump to a chain that jumps to each of theirs. */
export function mapOf(
  { chains }: Growing,
  type: string,
  { prefix, holders }: { prefix: "f" | "t"; holders: ReadonlyMap<string, readonly number[]> },
): NftSet {
  const elements = new Map<string, string>();
  for (const [name, ids] of holders) {
    const chain = chainOf(prefix, ids);
    elements.set(name, `jump ${chain}`);
    if (ids.length > 1 && !chains.has(chain)) {
      chains.set(chain, { rules: ids.map((id) => rule(`jump ${prefix}${id}`, "shared")) });
    }
  }
  return { type, map: true, interval: false, elements };
}

/** Names have a limit of 255 in the kernel; what shares an address with so many gets a fingerprint instead. */
function chainOf(prefix: string, ids: readonly number[]): string {
  const list = ids.join("_");
  if (list.length <= 200) return `${prefix}${list}`;
  return `${prefix}${ids[0]}_and_${ids.length - 1}_${fingerprint(list)}${fingerprint(`${list}_`)}`;
}

function setOf(type: string, names: Iterable<string>): NftSet {
  const elements = new Map<string, string>();
  for (const name of names) elements.set(name, "");
  return { type, map: false, interval: false, elements };
}

export function rule(text: string, what: string): NftRule {
  return { text, comment: `gatehouse ${fingerprint(text)}: ${what}` };
}

function lanMatch(devices: readonly string[]): string {
  if (devices.length === 0) return "";
  const names = devices.map((name) => `"${name}"`);
  return names.length === 1 ? `iifname ${names[0]} ` : `iifname { ${names.join(", ")} } `;
}

/**
 * Being given an address is no traffic between nodes either: a DHCP server of this machine answers whom it likes.
 * A packet that is forwarded belongs to no socket, so none hides among these.
 */
const leaseAnswers = [
  rule("meta skuid >= 0 udp sport 67 udp dport 68 accept", "address assignment"),
  rule("meta skuid >= 0 udp sport 547 udp dport 546 accept", "address assignment"),
];
export const leaseQueries = [
  rule("udp sport 68 udp dport 67 accept", "address assignment"),
  rule("udp sport 546 udp dport 547 accept", "address assignment"),
];

/** For the chain `end` of any table. */
export const neverDropped: readonly NftRule[] = [
  rule(`icmpv6 type { ${discovery.join(", ")} } ip6 hoplimit 255 accept`, "neighbour discovery"),
  ...leaseAnswers,
];
export const dropRule = rule("counter name dropped drop", "blocked");

/** FNV-1a, 32 bits, as eight hex digits: tells texts apart, guards against nobody. */
export function fingerprint(text: string): string {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}
