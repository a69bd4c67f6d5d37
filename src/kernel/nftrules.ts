/**
 * A plan as nft tables: pure, plan in, sets and chains out.
 *
 *     chain forward, input, output      (hook, priority filter - 5: before fw4 accepts what is established and
 *       │                                before a flowtable takes a connection away)
 *       ├ tap: DNS over UDP to NFLOG
 *       ├ barred address or MAC ────────────────────────────────────────────────────────┐
 *       ├ destination in @partners ── outbound ── source (or MAC) keeper's ── f<id> ──┐ │
 *       └ source in @partners ─────── inbound ─── destination keeper's ────── t<id> ──┤ │
 *                                                                                     ↓ ↓
 *                             f<id>, t<id>: other address in @P<id>V4, @P<id>V6 ───── end: exempt? else drop
 *
 * A packet that is of no partner leaves after two lookups. An address of several keepers goes to a chain of its
 * own that asks each. Table `bridge` has the same for frames that pass between two ports of a LAN bridge and
 * never come to the inet hooks; there MACs are known on both sides.
 *
 * Each rule's comment carries a fingerprint of its text, so that rules read back are recognised whatever way this
 * version of nft prints them.
 */

import type { Family } from "../lib/address.ts";
import type { Dispatch, Keeper, Names } from "./dispatch.ts";

export type TableFamily = "inet" | "bridge";
type Hook = "forward" | "input" | "output";

export interface NftSet {
  /** As nft writes it: `ipv4_addr`, `ether_addr . ether_addr`, … */
  readonly type: string;
  /** A map's elements have verdicts. */
  readonly map: boolean;
  /** Element → verdict, "" in a set. */
  readonly elements: ReadonlyMap<string, string>;
}

export interface NftRule {
  readonly text: string;
  /** Names what it is for, with a fingerprint of the text. */
  readonly comment: string;
}

export interface NftChain {
  readonly hook?: Hook;
  readonly rules: readonly NftRule[];
}

export interface NftTable {
  readonly sets: ReadonlyMap<string, NftSet>;
  readonly chains: ReadonlyMap<string, NftChain>;
}

export interface NftOptions {
  readonly lanDevices: readonly string[];
  readonly tapGroup?: number;
}

const types = { 4: "ipv4_addr", 6: "ipv6_addr" } as const;
const protocols = { 4: "ip", 6: "ip6" } as const;
const families = [4, 6] as const;
const discovery = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"];

/** The table of a plan, or undefined if it has nothing to say. */
export function nftTable(family: TableFamily, dispatch: Dispatch, options: NftOptions): NftTable | undefined {
  const tap = family === "inet" ? options.tapGroup : undefined;
  if (!dispatch.blocks && tap === undefined) return undefined;
  const sets = new Map<string, NftSet>();
  const chains = new Map<string, NftChain>();
  const hooks: readonly Hook[] = family === "inet" ? ["forward", "input", "output"] : ["forward"];
  const lan = family === "bridge" ? "" : lanMatch(options.lanDevices);
  if (dispatch.blocks) {
    addPairs({ sets, chains }, dispatch, { family, lan });
    chains.set("end", { rules: lastRules(sets, dispatch.exempt, { family, lan }) });
  }
  for (const hook of hooks) {
    chains.set(hook, {
      hook,
      rules: [
        ...(tap === undefined ? [] : tapRules(hook, tap)),
        ...(dispatch.blocks
          ? firstRules(sets, dispatch, { family, lan: hook === "output" ? undefined : lan })
          : []),
      ],
    });
  }
  return { sets, chains };
}

interface Growing {
  readonly sets: Map<string, NftSet>;
  readonly chains: Map<string, NftChain>;
}

/** `lan`: a match for frames whose source MAC is a LAN device's own; undefined where packets have no MAC. */
interface Place {
  readonly family: TableFamily;
  readonly lan: string | undefined;
}

function addPairs({ sets, chains }: Growing, dispatch: Dispatch, { lan }: Place): void {
  if (dispatch.keepers.length === 0) return;
  for (const version of families) {
    if (dispatch.partners[version].size > 0) {
      sets.set(`partners${version}`, setOf(types[version], dispatch.partners[version]));
    }
  }
  for (const keeper of dispatch.keepers) {
    for (const version of families) {
      const partners = keeper.partners[version];
      if (partners.size > 0) sets.set(partnersOf(keeper, version), setOf(types[version], partners));
    }
    for (const [prefix, side] of [
      ["f", "daddr"],
      ["t", "saddr"],
    ] as const) {
      chains.set(`${prefix}${keeper.id}`, {
        rules: families
          .filter((version) => keeper.partners[version].size > 0)
          .map((version) =>
            rule(
              `${protocols[version]} ${side} @${partnersOf(keeper, version)} goto end`,
              `node ${keeper.id}, ${prefix === "f" ? "from" : "to"}`,
            ),
          ),
      });
    }
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
  }
  chains.set("outbound", { rules: outbound });
  chains.set("inbound", { rules: inbound });
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
function lastRules(sets: Map<string, NftSet>, exempt: Names, { family, lan }: Place): NftRule[] {
  const rules = [
    rule(`icmpv6 type { ${discovery.join(", ")} } ip6 hoplimit 255 accept`, "neighbour discovery"),
  ];
  if (family === "bridge") rules.push(rule("ether type arp accept", "neighbour discovery"));
  for (const version of families) {
    if (exempt[version].size === 0) continue;
    sets.set(`exempt${version}`, setOf(types[version], exempt[version]));
    for (const side of ["saddr", "daddr"]) {
      rules.push(rule(`${protocols[version]} ${side} @exempt${version} accept`, "exempt"));
    }
  }
  if (exempt.macs.size > 0) {
    sets.set("exemptMac", setOf("ether_addr", exempt.macs));
    rules.push(rule(`${lan}ether saddr @exemptMac accept`, "exempt, by MAC"));
    if (family === "bridge") rules.push(rule("ether daddr @exemptMac accept", "exempt, by MAC"));
  }
  return [...rules, rule("counter drop", "blocked")];
}

/**
 * Queries to us, answers of ours, and both where they pass through; without threshold the kernel would collect a
 * hundred. `ct state` is there for what it causes: connection tracking for both families.
 */
function tapRules(hook: Hook, group: number): NftRule[] {
  const ports = { forward: ["dport", "sport"], input: ["dport"], output: ["sport"] }[hook];
  return [
    ...ports.map((port) => rule(`udp ${port} 53 log group ${group} queue-threshold 1`, "tap")),
    ...(hook === "input" ? [rule("ct state new counter", "keeps connection tracking on")] : []),
  ];
}

function partnersOf(keeper: Keeper, version: Family): string {
  return `P${keeper.id}V${version}`;
}

function holdersOf<Name extends string>(
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
function mapOf(
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
  return { type, map: true, elements };
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
  return { type, map: false, elements };
}

function rule(text: string, what: string): NftRule {
  return { text, comment: `gatehouse ${fingerprint(text)}: ${what}` };
}

function lanMatch(devices: readonly string[]): string {
  if (devices.length === 0) return "";
  const names = devices.map((name) => `"${name}"`);
  return names.length === 1 ? `iifname ${names[0]} ` : `iifname { ${names.join(", ")} } `;
}

/** FNV-1a, 32 bits, as eight hex digits: tells texts apart, guards against nobody. */
export function fingerprint(text: string): string {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}
