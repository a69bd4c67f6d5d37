/**
 * Where the kernel holds what a packet meets: from a word of a plan to the rules that say it. Pure.
 *
 * Rules are found by what they look into, in what a back end has rendered: so nothing is told that is not there.
 */

import { type Family, familyOf, type Mac } from "../lib/address.ts";
import { soleAddress } from "../lib/nets.ts";
import type { Dispatch } from "./dispatch.ts";
import { bytesOf } from "./egress.ts";
import type { Place } from "./enforcer.ts";
import type { Packet, Reason, Side } from "./explain.ts";
import { setPrefix, tableOf, type XtRules, type XtTable } from "./ipsetrules.ts";
import { type NftTable, protocols, type TableFamily } from "./nftrules.ts";
import type { Owner } from "./plan.ts";

/** A packet, and a word of the plan that it meets. */
export interface Met {
  readonly packet: Packet;
  readonly reason: Reason;
}

/** What a rule must look into to be the one. */
type Lookup =
  | {
      readonly what: "list";
      readonly list: "exempt" | "barred" | "exemptNets" | "barredNets";
      readonly side: Side;
      readonly family: Family;
    }
  | { readonly what: "mac"; readonly list: "exempt" | "barred"; readonly side: Side; readonly mac: Mac }
  | {
      readonly what: "keeper";
      readonly keeper: number;
      /** Which side of the packet the keeper is, and the MAC that tells, if its address does not. */
      readonly side: Side;
      readonly mac: Mac | undefined;
      readonly family: Family;
    }
  | { readonly what: "strangers" };

export function nftPlaces(
  tables: Iterable<readonly [TableFamily, string, NftTable]>,
  dispatch: Dispatch,
  met: Met,
): Place[] {
  const lookups = lookupsOf(dispatch, met);
  const places: Place[] = [];
  for (const [family, name, { chains }] of tables) {
    for (const [chain, { rules }] of chains) {
      for (const { text } of rules) {
        if (lookups.some((lookup) => isOfNft({ family, chain, text }, lookup)))
          places.push({ table: name, chain, rule: text });
      }
    }
  }
  return places;
}

export function xtPlaces(
  owner: Owner,
  rules: XtRules,
  { dispatch, met }: { dispatch: Dispatch; met: Met },
): Place[] {
  const lookups = lookupsOf(dispatch, met);
  const family = familyOf(met.packet.source);
  const tool = family === 4 ? "iptables" : "ip6tables";
  const name = (table: XtTable) => `${tool} ${table}`;
  const places: Place[] = [];
  for (const [chain, list] of rules.chains[family]) {
    for (const { text } of list) {
      if (lookups.some((lookup) => isOfXt(text, lookup, setPrefix(owner))))
        places.push({ table: name(tableOf(chain)), chain, rule: text });
    }
  }
  return places;
}

function lookupsOf(dispatch: Dispatch, { packet, reason }: Met): Lookup[] {
  const macs = { source: packet.sourceMac, destination: packet.destinationMac };
  if (reason.kind !== "pair") {
    const { kind, side, by } = reason;
    const address = packet[side];
    const family = familyOf(address);
    if (by === "mac") return [{ what: "mac", list: kind, side, mac: macs[side]! }];
    if (reason.by !== "net") return [{ what: "list", list: kind, side, family }];
    const single = soleAddress(reason.net);
    // One that lies in a wider net has no entry of its own.
    const named = single !== undefined && dispatch[kind][family].has(single);
    return [{ what: "list", list: named ? kind : `${kind}Nets`, side, family }];
  }
  if (reason.source.by === "mac" && reason.destination.by === "mac") return [{ what: "strangers" }];
  const lookups: Lookup[] = [];
  for (const [side, other] of [
    ["source", "destination"],
    ["destination", "source"],
  ] as const) {
    const { node, by } = reason[side];
    const family = familyOf(packet[other]);
    const keeper = dispatch.keepers.find(({ id }) => id === node);
    if (!keeper?.partners[family].has(packet[other])) continue;
    lookups.push({ what: "keeper", keeper: node, side, mac: by === "mac" ? macs[side] : undefined, family });
  }
  return lookups;
}

function isOfNft(rule: { family: TableFamily; chain: string; text: string }, lookup: Lookup): boolean {
  const { family, chain, text } = rule;
  switch (lookup.what) {
    case "list": {
      const side = lookup.side === "source" ? "saddr" : "daddr";
      return text.startsWith(`${protocols[lookup.family]} ${side} @${lookup.list}${lookup.family} `);
    }
    case "mac": {
      if (family === "netdev") {
        const verdict = lookup.list === "exempt" ? " accept" : " goto end";
        return lookup.side === "destination" && text.includes(bytesOf(lookup.mac)) && text.endsWith(verdict);
      }
      const side = lookup.side === "source" ? "saddr" : "daddr";
      return text.includes(`ether ${side} @${lookup.list}Mac `);
    }
    case "keeper": {
      // Hooks that see addresses alone have no part in it.
      if (lookup.side === "destination" && lookup.mac !== undefined && family === "inet") return false;
      if (lookup.side === "source" && family === "netdev") return false;
      const way = lookup.side === "source" ? "f" : "t";
      return chain === `${way}${lookup.keeper}` && text.includes(`@P${lookup.keeper}V${lookup.family} `);
    }
    case "strangers":
      return text.includes("@strangers");
  }
}

function isOfXt(text: string, lookup: Lookup, prefix: string): boolean {
  const set = (name: string, family: Family, side: Side) =>
    text.includes(`--match-set ${prefix}${name}V${family} ${side === "source" ? "src" : "dst"} `);
  const isFrom = (mac: Mac) => text.includes(`--mac-source ${mac.toUpperCase()} `);
  switch (lookup.what) {
    case "list":
      return set(lookup.list, lookup.family, lookup.side);
    case "mac": {
      const isBarred = text.endsWith("-end");
      return (
        lookup.side === "source" &&
        isFrom(lookup.mac) &&
        !text.includes("--match-set") &&
        isBarred === (lookup.list === "barred")
      );
    }
    case "keeper": {
      const { keeper, family, side, mac } = lookup;
      if (!set(`P${keeper}`, family, side === "source" ? "destination" : "source")) return false;
      return mac === undefined ? set(`N${keeper}`, family, side) : side === "source" && isFrom(mac);
    }
    case "strangers":
      return false;
  }
}
