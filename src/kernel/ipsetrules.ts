/**
 * A plan as ipsets and iptables chains: pure, plan in, sets and chains out. For a family v (4 or 6) and an owner o:
 *
 *     FORWARD ── gatehouse-o-fwd ─┐ tap                    INPUT ── gatehouse-o-in ─┐ tap
 *                                 └──────── gatehouse-o ────────────────────────────┘
 *                                             ├ exempt MAC → RETURN, barred MAC or address → …-end
 *                                             ├ to a partner of anybody → …-dst
 *                                             │     ├ from a keeper's address → …-from
 *                                             │     └ from a LAN device → …-mac: keeper's MAC, its partner → …-end
 *                                             └ from a partner of anybody, to a keeper's address → …-to
 *     OUTPUT ── gatehouse-o-out: tap, then the same without MACs, which xt_mac allows nowhere behind OUTPUT
 *
 *     …-from, …-to: keeper's address in N<id>Vv, the other in P<id>Vv → …-end;  …-end: exempt → RETURN, else DROP
 *
 * A packet that is of no partner leaves after two lookups. Past that, keepers are found through a tree: a chain
 * holds at most four keepers, or else four groups of them by the next two bits of their ids, each with the set
 * of its addresses (G…). Lookups are what costs here, a tenth of a microsecond each; a walk over four per level
 * is the cheapest. An address of several keepers lies in the groups of each, and each is asked.
 *
 * A single set of address pairs (hash:net,net) would be one lookup, but it holds the product of both ends'
 * addresses: a device's new address would cost an entry for every address of every partner.
 *
 * Answers of DNS wait for a verdict in table mangle: …-hold, from FORWARD and OUTPUT. Whoever queues a packet has the
 * last word on it in its table, and in table filter that would be past all that the firewall says of it.
 */

import type { Address, Family, Mac } from "../lib/address.ts";
import type { Dispatch, Keeper } from "./dispatch.ts";
import { reportThreshold } from "./enforcer.ts";
import type { NetsApart } from "./nets.ts";
import { fingerprint } from "./nftrules.ts";
import type { Owner } from "./plan.ts";

export interface XtRule {
  readonly text: string;
  /** Names what it is for, with a fingerprint of the text. */
  readonly comment: string;
}

export interface XtSet {
  readonly type: "hash:ip" | "hash:net" | "hash:net,iface";
  readonly family: Family;
  readonly elements: ReadonlySet<string>;
}

export interface XtRules {
  readonly sets: ReadonlyMap<string, XtSet>;
  /** Of all tables: `tableOf` tells which. */
  readonly chains: Readonly<Record<Family, ReadonlyMap<string, readonly XtRule[]>>>;
}

export interface XtOptions {
  readonly owner: Owner;
  readonly lanDevices: readonly string[];
  readonly tap?: { readonly group: number; readonly queue?: number } | undefined;
  readonly reportGroup?: number | undefined;
}

export type XtTable = "filter" | "mangle" | "nat";
/** What drops comes into force before what translates. */
export const xtTables: readonly XtTable[] = ["filter", "mangle", "nat"];

/** A built-in chain, and what follows its owner's name in the chain that it jumps to, first of all. */
export interface Entrance {
  readonly table: XtTable;
  readonly chain: "PREROUTING" | "FORWARD" | "INPUT" | "OUTPUT" | "POSTROUTING";
  readonly suffix: "fwd" | "in" | "out" | "hold" | "gate" | "pre" | "post";
}
export const entrances: readonly Entrance[] = [
  { table: "filter", chain: "FORWARD", suffix: "fwd" },
  { table: "filter", chain: "INPUT", suffix: "in" },
  { table: "filter", chain: "OUTPUT", suffix: "out" },
  { table: "mangle", chain: "FORWARD", suffix: "hold" },
  { table: "mangle", chain: "OUTPUT", suffix: "hold" },
  { table: "mangle", chain: "PREROUTING", suffix: "gate" },
  { table: "nat", chain: "PREROUTING", suffix: "pre" },
  { table: "nat", chain: "POSTROUTING", suffix: "post" },
];

/** The table that a chain of ours is in. */
export function tableOf(chain: string): XtTable {
  // Branches of isolation's trees, lists of ports, and where those come from and lead to.
  const own = /^gatehouse-isolation-(?:(pre|post|[ds]\w{7})|(gate|guest|stop|[gp]\w{7}))$/.exec(chain);
  if (own) return own[1] === undefined ? "mangle" : "nat";
  return chain.endsWith("-hold") ? "mangle" : "filter";
}

/** Router and neighbour solicitation and advertisement. */
const discovery = [133, 134, 135, 136];
/** UDP ports of client and server from which addresses are assigned. */
const leasePorts = { 4: [68, 67], 6: [546, 547] } as const;
/** Packets per second, and at once, that are copied; the rest is only counted. The match takes no more. */
export const reportLimit = 10_000;
/** Keepers or groups that a chain holds at most, two bits of an id at a time. */
const fan = 4;
/** Levels of the tree, so that names keep to 28 characters; beyond that a chain holds as many as it must. */
const maxLevels = 12;

/** Prefix of an owner's chains. With the longest suffix at most 28 characters. */
export function chainPrefix(owner: Owner): string {
  return `gatehouse-${owner}`;
}

/** Prefix of an owner's sets, whose names may have 31 characters. */
export function setPrefix(owner: Owner): string {
  return `gh-${owner}-`;
}

/** Sets and chains of a plan; without any if it has nothing to say. */
export function xtRules(dispatch: Dispatch, options: XtOptions): XtRules {
  const sets = new Map<string, XtSet>();
  const chains = { 4: new Map<string, XtRule[]>(), 6: new Map<string, XtRule[]>() };
  if (dispatch.blocks || options.tap !== undefined) {
    for (const family of [4, 6] as const)
      new Drawing(family, options, { sets, chains: chains[family] }).all(dispatch);
  }
  return { sets, chains };
}

class Drawing {
  readonly #family: Family;
  readonly #options: XtOptions;
  readonly #sets: Map<string, XtSet>;
  readonly #chains: Map<string, XtRule[]>;

  constructor(
    family: Family,
    options: XtOptions,
    to: { sets: Map<string, XtSet>; chains: Map<string, XtRule[]> },
  ) {
    this.#family = family;
    this.#options = options;
    this.#sets = to.sets;
    this.#chains = to.chains;
  }

  all(dispatch: Dispatch): void {
    for (const entrance of ["fwd", "in", "out"] as const) this.#chain(entrance).push(...this.#tap(entrance));
    this.#hold();
    if (!dispatch.blocks) return;
    const out = this.#chain("out");
    // Being given an address is no traffic between nodes.
    const [client, server] = leasePorts[this.#family];
    for (const [entrance, from, to] of [
      ["in", client, server],
      ["out", server, client],
    ] as const) {
      const ports = `--sport ${from} --dport ${to}`;
      this.#add(this.#chain(entrance), `-p udp -m udp ${ports} -j RETURN`, "address assignment");
    }
    for (const entrance of ["fwd", "in"]) this.#add(this.#chain(entrance), `-j ${this.#name()}`, "all");
    const main = this.#chain();
    for (const mac of dispatch.exempt.macs)
      this.#addLan(main, `-m mac --mac-source ${show(mac)} -j RETURN`, "exempt");
    for (const mac of dispatch.barred.macs)
      this.#addLan(main, `-m mac --mac-source ${show(mac)} ${this.#end}`, "barred");
    for (const match of [
      ...this.#either("barred", dispatch.barred[this.#family]),
      ...this.#eitherNet("barredNets", dispatch.barredNets),
    ]) {
      for (const chain of [main, out]) this.#add(chain, `${match} ${this.#end}`, "barred");
    }
    this.#pairs(dispatch, main, out);
    const end = this.#chain("end");
    // Finding a neighbour's MAC is no traffic between nodes: without it a barred node would not reach an exempt one.
    for (const type of this.#family === 6 ? discovery : []) {
      this.#add(
        end,
        `-p ipv6-icmp -m icmp6 --icmpv6-type ${type} -m hl --hl-eq 255 -j RETURN`,
        "neighbour discovery",
      );
    }
    for (const match of [
      ...this.#either("exempt", dispatch.exempt[this.#family]),
      ...this.#eitherNet("exemptNets", dispatch.exemptNets),
    ]) {
      this.#add(end, `${match} -j RETURN`, "exempt");
    }
    const { reportGroup } = this.#options;
    if (reportGroup !== undefined) {
      // How much is copied is up to who listens: not every version of the target knows how to say it.
      const limit = `-m limit --limit ${reportLimit}/sec --limit-burst ${reportLimit}`;
      const log = `-j NFLOG --nflog-group ${reportGroup} --nflog-threshold ${reportThreshold}`;
      this.#add(end, `${limit} ${log}`, "report");
    }
    this.#add(end, "-j DROP", "blocked");
  }

  #pairs(dispatch: Dispatch, main: XtRule[], out: XtRule[]): void {
    const partners = dispatch.partners[this.#family];
    if (partners.size === 0) return;
    const keepers = dispatch.keepers.filter((keeper) => keeper.partners[this.#family].size > 0);
    for (const keeper of keepers) this.#set(`P${keeper.id}`, keeper.partners[this.#family]);
    const partnerSet = this.#set("partners", partners);
    const byAddress = keepers.filter((keeper) => keeper.own[this.#family].size > 0);
    const byMac = keepers.filter((keeper) => keeper.own.macs.size > 0);
    const toPartner = this.#chain("dst");
    this.#add(main, `${match(partnerSet, "dst")} -j ${this.#name("dst")}`, "to a partner");
    if (byAddress.length > 0) {
      const own = this.#set("keepers", addressesOf(byAddress, this.#family));
      const from = `${match(own, "src")} -j ${this.#name("from")}`;
      const to = `${match(partnerSet, "src")} ${match(own, "dst")} -j ${this.#name("to")}`;
      this.#add(toPartner, from, "from whom");
      this.#add(main, to, "from a partner");
      this.#add(out, `${match(partnerSet, "dst")} ${from}`, "to a partner");
      this.#add(out, to, "from a partner");
      this.#tree(byAddress, "", { level: 0, path: 0 });
    }
    if (byMac.length > 0) {
      this.#addLan(toPartner, `-j ${this.#name("mac")}`, "from whom, by MAC");
      const chain = this.#chain("mac");
      for (const keeper of byMac) {
        const others = match(this.#setName(`P${keeper.id}`), "dst");
        for (const mac of keeper.own.macs) {
          this.#add(chain, `-m mac --mac-source ${show(mac)} ${others} ${this.#end}`, `node ${keeper.id}`);
        }
      }
    }
  }

  /** Chains `from…` and `to…` for some keepers: one rule each, or one per group of them. */
  #tree(keepers: readonly Keeper[], suffix: string, at: { level: number; path: number }): void {
    const [from, to] = [this.#chain(`from${suffix}`), this.#chain(`to${suffix}`)];
    if (keepers.length <= fan || at.level === maxLevels) {
      for (const keeper of keepers) {
        const own = this.#set(`N${keeper.id}`, keeper.own[this.#family]);
        const others = this.#setName(`P${keeper.id}`);
        this.#add(from, `${match(own, "src")} ${match(others, "dst")} ${this.#end}`, `node ${keeper.id}`);
        this.#add(to, `${match(own, "dst")} ${match(others, "src")} ${this.#end}`, `node ${keeper.id}`);
      }
      return;
    }
    const scale = fan ** at.level;
    for (let digit = 0; digit < fan; digit++) {
      const group = keepers.filter(({ id }) => Math.floor(id / scale) % fan === digit);
      if (group.length === 0) continue;
      const next = { level: at.level + 1, path: at.path + digit * scale };
      const name = next.level.toString(36) + next.path.toString(36);
      const own = this.#set(`G${name}`, addressesOf(group, this.#family));
      this.#add(from, `${match(own, "src")} -j ${this.#name(`from${name}`)}`, "group");
      this.#add(to, `${match(own, "dst")} -j ${this.#name(`to${name}`)}`, "group");
      this.#tree(group, name, next);
    }
  }

  /**
   * Queries to us, answers of ours, and both where they pass through; without threshold the kernel would collect
   * a hundred. Answers over UDP that wait for a verdict are seen there. The connection match is there for what it
   * causes: connection tracking for this family.
   */
  #tap(entrance: "fwd" | "in" | "out"): XtRule[] {
    const { tap } = this.#options;
    if (tap === undefined) return [];
    const log = `-j NFLOG --nflog-group ${tap.group} --nflog-threshold 1`;
    const rules: XtRule[] = [];
    for (const protocol of ["udp", "tcp"]) {
      const match = `-p ${protocol} -m ${protocol}`;
      if (entrance !== "out") this.#add(rules, `${match} --dport 53 ${log}`, "tap");
      if (entrance !== "in" && (protocol === "tcp" || tap.queue === undefined))
        this.#add(rules, `${match} --sport 53 ${log}`, "tap");
    }
    if (entrance === "in") this.#add(rules, "-m conntrack --ctstate NEW", "keeps connection tracking on");
    return rules;
  }

  #hold(): void {
    const queue = this.#options.tap?.queue;
    if (queue === undefined) return;
    this.#add(this.#chain("hold"), holdRule(queue), "answers wait");
  }

  /** Matches for source and destination in nets; none if there are none. */
  #eitherNet(what: string, nets: NetsApart): string[] {
    const list = nets[this.#family];
    if (list.length === 0) return [];
    const name = this.#setName(what);
    const elements = new Set(list.flatMap((net) => halves.get(net) ?? [net]));
    this.#sets.set(name, { type: "hash:net", family: this.#family, elements });
    return [match(name, "src"), match(name, "dst")];
  }

  /** Matches for source and destination in a set; none if the set would be empty. */
  #either(what: string, addresses: ReadonlySet<Address>): string[] {
    if (addresses.size === 0) return [];
    const set = this.#set(what, addresses);
    return [match(set, "src"), match(set, "dst")];
  }

  get #end(): string {
    return `-j ${this.#name("end")}`;
  }

  #name(suffix = ""): string {
    const prefix = chainPrefix(this.#options.owner);
    // A tree's chains have long names: "f12345" is "from" of group 12345.
    const short = suffix.replace(/^from(?=.)/, "f").replace(/^to(?=.)/, "t");
    return short === "" ? prefix : `${prefix}-${short}`;
  }

  #chain(suffix = ""): XtRule[] {
    const name = this.#name(suffix);
    const rules = this.#chains.get(name) ?? [];
    this.#chains.set(name, rules);
    return rules;
  }

  #setName(what: string): string {
    return `${setPrefix(this.#options.owner)}${what}V${this.#family}`;
  }

  #set(what: string, elements: ReadonlySet<Address>): string {
    const name = this.#setName(what);
    this.#sets.set(name, { type: "hash:ip", family: this.#family, elements });
    return name;
  }

  #add(chain: XtRule[], text: string, what: string): void {
    chain.push({ text, comment: `gatehouse ${fingerprint(text)}: ${what}` });
  }

  /** A rule for packets that come in from a LAN device: one for each, or one for all if none is named. */
  #addLan(chain: XtRule[], text: string, what: string): void {
    const { lanDevices } = this.#options;
    for (const device of lanDevices.length > 0 ? lanDevices : [""]) {
      this.#add(chain, device === "" ? text : `-i ${device} ${text}`, what);
    }
  }
}

/** Without anybody who listens, answers pass. */
export function holdRule(queue: number): string {
  return `-p udp -m udp --sport 53 -j NFQUEUE --queue-num ${queue} --queue-bypass`;
}

/** A set of nets does not hold the net of all addresses. */
const halves = new Map<string, readonly string[]>([
  ["0.0.0.0/0", ["0.0.0.0/1", "128.0.0.0/1"]],
  ["::/0", ["::/1", "8000::/1"]],
]);

function match(set: string, side: "src" | "dst"): string {
  return `-m set --match-set ${set} ${side}`;
}

function show(mac: Mac): string {
  return mac.toUpperCase();
}

function addressesOf(keepers: readonly Keeper[], family: Family): ReadonlySet<Address> {
  return new Set(keepers.flatMap((keeper) => [...keeper.own[family]]));
}
