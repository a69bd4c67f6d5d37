/**
 * A plan of isolation as ipsets and iptables chains: pure, plan in, sets and chains out. For each family:
 *
 *     mangle PREROUTING ── gate: from a managed device
 *       ├ not its own source, DNS over TLS ──────────────────────────────────────────────── stop (drop)
 *       └ to a stand-in ── g…: a route's source and stand-in, or a route's target and the source's stand-in?
 *                              [p…: ports of the route] pass ── else ────────────────────── stop
 *     nat PREROUTING ─── pre:  DNS → redirect to the agent; to a stand-in ── d… → DNAT to the target
 *     filter FORWARD ─── fwd:  from or to a managed device ── across: was it to a stand-in, and translated?
 *                              ── inside: the target is where the route says? pass ── else  end (drop)
 *     filter INPUT ───── in:   from a managed device ── needs: queries, addresses, discovery, answers; else end
 *     filter OUTPUT ──── out:  no redirects to managed devices
 *     nat POSTROUTING ── post: was it to a stand-in ── s… → SNAT to the source's stand-in
 *
 * No set holds two addresses on every kernel, and none gives one: a route takes a rule where it is looked up. So
 * that a packet does not walk over all, the rules lie in a tree by the digits of both addresses, a chain for at most
 * sixteen rules or branches; what is added or goes changes the chains on its way. Gate sees every packet, of
 * both directions, before any translation: a route that is taken out stops its flow, whatever connection tracking
 * remembers. For answers from exits that takes their connections' end.
 *
 * `-g` leads on, so that RETURN, in whatever chain, leaves all of ours for the rules of others.
 */

import { type Address, encodeAddress, type Family, familyOf, prefixOf } from "../lib/address.ts";
import { reportThreshold } from "./enforcer.ts";
import { chainPrefix, reportLimit, setPrefix, type XtRule, type XtRules, type XtSet } from "./ipsetrules.ts";
import { digestOf, type Isolated, nameOfPorts, type Part, type Path } from "./isolate.ts";
import { fingerprint } from "./nftrules.ts";
import type { Owner } from "./plan.ts";
import type { Ports } from "./standins.ts";

/**
 * Rules that a chain of the tree holds at most before it branches: as many as it has branches, so that stand-ins given
 * one after the other share a chain. The iptables of nf_tables takes time by the square of the number of chains.
 */
const leaf = 16;
const hex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
/** Every address, as a set by device takes it. */
const anywhere = { 4: "0.0.0.0/0", 6: "::/0" } as const;
const icmp = { 4: "icmp", 6: "ipv6-icmp" } as const;
const [original, reply] = ["-m conntrack --ctdir ORIGINAL", "-m conntrack --ctdir REPLY"];

/** Sets and chains of a plan; none if it manages no device. */
export function isolationRules(isolated: Isolated, owner: Owner): XtRules {
  const sets = new Map<string, XtSet>();
  const chains = { 4: new Map<string, XtRule[]>(), 6: new Map<string, XtRule[]>() };
  if (isolated.segments.some(({ devices }) => devices.length > 0)) {
    for (const family of [4, 6] as const)
      new Plotting({ family, owner, isolated }, { sets, chains: chains[family] }).all();
  }
  return { sets, chains };
}

/** A rule that belongs where two addresses lead. */
interface Spot {
  /** The digits of `to`, then those of `from`. */
  readonly key: string;
  readonly to: Address;
  readonly from: Address;
  readonly text: string;
  readonly what: string;
}

/** What becomes of packets that come in by a device with two addresses: of those that begin, and of answers. */
interface Gap {
  readonly key: string;
  readonly from: Address;
  readonly to: Address;
  readonly device: string;
  forth: string | undefined;
  back: string | undefined;
}

/** Some of a list, by their places. */
interface Stretch {
  readonly spots: readonly Spot[];
  readonly from: number;
  readonly to: number;
}

/** What a tree's branches match by. */
interface Sides {
  readonly letter: "g" | "d" | "s";
  readonly to: (prefix: string) => string;
}

class Plotting {
  readonly #family: Family;
  readonly #owner: Owner;
  readonly #isolated: Isolated;
  readonly #sets: Map<string, XtSet>;
  readonly #chains: Map<string, XtRule[]>;
  readonly #names = new Map<string, string>();
  readonly #taken = new Set<string>();
  readonly #known = new Map<Address, string>();

  constructor(
    of: { family: Family; owner: Owner; isolated: Isolated },
    to: { sets: Map<string, XtSet>; chains: Map<string, XtRule[]> },
  ) {
    this.#family = of.family;
    this.#owner = of.owner;
    this.#isolated = of.isolated;
    this.#sets = to.sets;
    this.#chains = to.chains;
  }

  all(): void {
    const { segments, paths } = this.#isolated;
    const mine = paths.filter(({ family }) => family === this.#family);
    this.#deviceSet("managed", segments, () => [anywhere[this.#family]]);
    this.#deviceSet("own", segments, ({ prefixes }) => [
      ...prefixes[this.#family],
      ...(this.#family === 6 ? ["fe80::/10"] : []),
    ]);
    this.#gate(mine);
    this.#translation(mine);
    this.#forward(mine);
    this.#input();
    const redirect =
      this.#family === 4 ? "-p icmp -m icmp --icmp-type 5" : "-p ipv6-icmp -m icmp6 --icmpv6-type 137";
    this.#add("out", `${this.#set("managed", "dst,dst")} ${redirect} -j DROP`, "names real addresses");
    this.#ends();
  }

  #gate(paths: readonly Path[]): void {
    const { segments, ports } = this.#isolated;
    const related = "-m conntrack --ctstate RELATED";
    this.#add("gate", `${this.#setNot("managed", "src,src")} -j RETURN`, "others");
    this.#add("gate", `${this.#setNot("own", "src,src")} -g ${this.#name("guest")}`, "not its own source");
    const quiet = segments.filter(({ dropEncryptedDns }) => dropEncryptedDns);
    const deaf = segments.filter(({ dns }) => dns[`port${this.#family}`] === undefined);
    for (const [name, among, port] of [
      ["quiet", quiet, 853],
      ["deaf", deaf, 53],
    ] as const) {
      if (!this.#deviceSet(name, among, () => [anywhere[this.#family]])) continue;
      for (const protocol of ["tcp", "udp"]) {
        const to = `-p ${protocol} -m ${protocol} --dport ${port} ${original} ${this.#set(name, "src,src")}`;
        this.#add("gate", `${to} -g ${this.#name("stop")}`, "DNS");
      }
    }
    for (const protocol of ["tcp", "udp"])
      this.#add("gate", `-p ${protocol} -m ${protocol} --dport 53 ${original} -j RETURN`, "queries");
    this.#add("gate", `${related} -j RETURN`, "errors");
    // An answer must not go on as if its side had begun, because that may begin too, when its own route has gone.
    const midway = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW";
    this.#add("gate", `${midway} -g ${this.#name("stop")}`, "no beginning");
    for (const [name, list] of ports) this.#portChain(name, list);
    this.#tree("gate", this.#gateSpots(paths), { letter: "g", to: (prefix) => `-d ${prefix}` });
    for (const pool of this.#pools)
      this.#add("gate", `-d ${pool} -g ${this.#name("stop")}`, "a stand-in of nobody");
    const guests =
      this.#family === 4
        ? [["-s 0.0.0.0/32 -p udp -m udp --dport 67", "address assignment"] as const]
        : [["-s ::/128 -p ipv6-icmp", "discovery"] as const];
    for (const [match, what] of guests) this.#add("guest", `${match} -j RETURN`, what);
    this.#add("guest", `-g ${this.#name("stop")}`, "spoofed");
  }

  /** Both directions of each route, as packets come in. */
  #gateSpots(paths: readonly Path[]): Spot[] {
    const gaps = new Map<string, Gap>();
    const gapOf = (device: string, from: Address, to: Address): Gap => {
      const key = this.#keyOf(from, to);
      let gap = gaps.get(key + device);
      if (!gap) {
        gap = { key, from, to, device, forth: undefined, back: undefined };
        gaps.set(key + device, gap);
      }
      return gap;
    };
    for (const { device, source, standin, target, targetDevice, sourceStandin, ports } of paths) {
      const then = ports === undefined ? "-j RETURN" : `-g ${this.#name(this.#portName(ports))}`;
      gapOf(device, source, standin).forth = then;
      if (targetDevice !== undefined && sourceStandin !== undefined)
        gapOf(targetDevice, target, sourceStandin).back = then;
    }
    const spots: Spot[] = [];
    for (const { key, from, to, device, forth, back } of gaps.values()) {
      const match = `-i ${device} -s ${from} -d ${to}`;
      const add = (text: string) => void spots.push({ key, from, to, text, what: "route" });
      // Where both directions may have everything, one rule is for both.
      if (forth !== undefined && forth === back) add(`${match} ${forth}`);
      else {
        if (forth !== undefined) add(`${match} ${original} ${forth}`);
        if (back !== undefined) add(`${match} ${reply} ${back}`);
      }
    }
    return spots;
  }

  #translation(paths: readonly Path[]): void {
    const ports = new Set(this.#isolated.segments.flatMap(({ dns }) => dns[`port${this.#family}`] ?? []));
    this.#chain("pre");
    this.#chain("post");
    for (const port of [...ports].sort((a, b) => a - b)) {
      const asking = this.#isolated.segments.filter(({ dns }) => dns[`port${this.#family}`] === port);
      this.#deviceSet(`ask${port}-`, asking, () => [anywhere[this.#family]]);
      for (const protocol of ["tcp", "udp"]) {
        const match = `-p ${protocol} -m ${protocol} --dport 53 ${this.#set(`ask${port}-`, "src,src")}`;
        this.#add("pre", `${match} -j REDIRECT --to-ports ${port}`, "queries");
      }
    }
    const targets = paths.map(({ device, source, standin, target }) => ({
      key: this.#keyOf(source, standin),
      from: source,
      to: standin,
      text: `-i ${device} -s ${source} -d ${standin} -j DNAT --to-destination ${target}`,
      what: "to the target",
    }));
    this.#tree("pre", targets, { letter: "d", to: (prefix) => `-d ${prefix}` });
    // One for routes of two devices that say the same.
    const sources = new Map<string, Spot>();
    for (const { source, standin, sourceStandin } of paths) {
      if (sourceStandin === undefined) continue;
      const key = this.#keyOf(source, standin);
      const match = `-s ${source} -m conntrack --ctorigdst ${standin}`;
      const text = `${match} -j SNAT --to-source ${sourceStandin}`;
      sources.set(key, { key, from: source, to: standin, text, what: "as a stand-in" });
    }
    const to = (prefix: string) => `-m conntrack --ctorigdst ${prefix}`;
    this.#tree("post", [...sources.values()], { letter: "s", to });
  }

  #forward(paths: readonly Path[]): void {
    for (const side of ["src", "dst"])
      this.#add("fwd", `${this.#set("managed", `${side},${side}`)} -g ${this.#name("across")}`, "managed");
    this.#chain("across");
    for (const pool of this.#pools) {
      const match = `-m conntrack --ctstate DNAT --ctorigdst ${pool}`;
      this.#add("across", `${match} -g ${this.#name("inside")}`, "to a stand-in");
    }
    this.#add("across", `-g ${this.#name("end")}`, "no route");
    const homes = paths.flatMap(({ target, targetDevice }) =>
      targetDevice ? [`${target},${targetDevice}`] : [],
    );
    const exits = paths.flatMap(({ target, targetDevice }) => (targetDevice ? [] : [target]));
    this.#sets.set(this.#setName("homes"), this.#setOf("hash:net,iface", homes));
    this.#sets.set(this.#setName("exits"), this.#setOf("hash:ip", exits));
    this.#add("inside", "-m conntrack --ctstate RELATED -j RETURN", "errors");
    for (const [direction, side, way] of [
      [original, "dst", "to"],
      [reply, "src", "from"],
    ] as const) {
      const there = `${side},${side}`;
      const exit = `${this.#set("exits", side)} ${this.#setNot("managed", there)}`;
      this.#add("inside", `${direction} ${this.#set("homes", there)} -j RETURN`, `${way} the target`);
      this.#add("inside", `${direction} ${exit} -j RETURN`, `${way} outside`);
    }
    this.#add("inside", `-g ${this.#name("end")}`, "the target is elsewhere");
  }

  #input(): void {
    const { segments } = this.#isolated;
    this.#add("in", `${this.#set("managed", "src,src")} -g ${this.#name("needs")}`, "managed");
    this.#add("needs", `${reply} -j RETURN`, "answers to the router");
    const ports = new Set(segments.flatMap(({ dns }) => dns[`port${this.#family}`] ?? []));
    for (const port of [...ports].sort((a, b) => a - b)) {
      // A query to the agent's own port 53 may need no translation.
      const status = port === 53 ? "" : " -m conntrack --ctstate DNAT";
      for (const protocol of ["tcp", "udp"]) {
        const match = `-p ${protocol} -m ${protocol} --dport ${port} ${this.#set(`ask${port}-`, "src,src")}`;
        this.#add("needs", `${match}${status} -j RETURN`, "queries");
      }
    }
    const hearing = segments.filter(({ mdns }) => mdns);
    if (this.#deviceSet("mdns", hearing, () => [anywhere[this.#family]])) {
      const group = this.#family === 4 ? "224.0.0.251/32" : "ff02::fb/128";
      const match = `-d ${group} -p udp -m udp --dport 5353 ${this.#set("mdns", "src,src")}`;
      this.#add("needs", `${match} -j RETURN`, "multicast DNS");
    }
    for (const { device, source, port } of this.#isolated.doors) {
      if (source !== undefined && familyOf(source) !== this.#family) continue;
      const who = source === undefined ? "" : ` -s ${source}`;
      this.#add("needs", `-i ${device}${who} -p tcp -m tcp --dport ${port} -j RETURN`, "a door");
    }
    const lease = this.#family === 4 ? "--sport 68 --dport 67" : "--sport 546 --dport 547";
    this.#add("needs", `-p udp -m udp ${lease} -j RETURN`, "address assignment");
    if (this.#family === 4) this.#add("needs", "-p igmp -j RETURN", "multicast groups");
    else {
      for (const type of [133, 134, 135, 136]) this.#icmp6(type, 255, "neighbour discovery");
      for (const type of [130, 131, 132, 143]) this.#icmp6(type, 1, "multicast groups");
    }
    this.#add("needs", `-g ${this.#name("end")}`, "of the router");
  }

  #icmp6(type: number, hops: number, what: string): void {
    this.#add("needs", `-p ipv6-icmp -m icmp6 --icmpv6-type ${type} -m hl --hl-eq ${hops} -j RETURN`, what);
  }

  #ends(): void {
    const { reportGroup } = this.#isolated;
    for (const chain of ["stop", "end"]) {
      if (reportGroup !== undefined) {
        const limit = `-m limit --limit ${reportLimit}/sec --limit-burst ${reportLimit}`;
        const log = `-j NFLOG --nflog-group ${reportGroup} --nflog-threshold ${reportThreshold}`;
        this.#add(chain, `${limit} ${log}`, "report");
      }
      this.#add(chain, "-j DROP", "blocked");
    }
  }

  #portChain(name: string, list: readonly Ports[]): void {
    const chain = this.#portName(list);
    for (const each of list) {
      if (each.protocol === "icmp") {
        this.#add(chain, `-p ${icmp[this.#family]} -j RETURN`, "echo");
        continue;
      }
      const { protocol, first, last } = each;
      const match = `-p ${protocol} -m ${protocol}`;
      this.#add(chain, `${match} --dport ${first}:${last} ${original} -j RETURN`, "port");
      this.#add(chain, `${match} --sport ${first}:${last} ${reply} -j RETURN`, "port");
    }
    this.#add(chain, `-g ${this.#name("stop")}`, name === "" ? "no ports" : "other ports");
  }

  /** Rules where their addresses lead, below a chain: in it if they are few. */
  #tree(chain: string, spots: readonly Spot[], sides: Sides): void {
    const sorted = [...spots].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
    this.#branch(chain, { spots: sorted, from: 0, to: sorted.length }, sides);
  }

  #branch(chain: string, { spots, from, to }: Stretch, sides: Sides): void {
    const size = spots[from]?.key.length ?? 0;
    const at = to - from > leaf ? commonLength(spots[from]!.key, spots[to - 1]!.key) : size;
    if (at >= size) {
      const rules = this.#chain(chain);
      for (let spot = from; spot < to; spot++) rules.push(ruleOf(spots[spot]!.text, spots[spot]!.what));
      return;
    }
    const half = size / 2;
    for (let start = from; start < to; ) {
      const first = spots[start]!;
      const digits = first.key.slice(0, at + 1);
      const digit = first.key.charCodeAt(at);
      let end = start + 1;
      while (end < to && spots[end]!.key.charCodeAt(at) === digit) end++;
      const match =
        at < half
          ? sides.to(prefixOf(first.to, (at + 1) * 4))
          : `-s ${prefixOf(first.from, (at + 1 - half) * 4)}`;
      const next = this.#short(sides.letter, digits);
      this.#add(chain, `${match} -g ${this.#name(next)}`, "group");
      this.#branch(next, { spots, from: start, to: end }, sides);
      // Who is led on does not come back to see that nothing was found.
      if (sides.letter === "g") this.#add(next, `-g ${this.#name("stop")}`, "no route");
      start = end;
    }
  }

  #keyOf(from: Address, to: Address): string {
    return this.#digits(to) + this.#digits(from);
  }

  /** An address comes again in several rules, and as the same text. */
  #digits(address: Address): string {
    let digits = this.#known.get(address);
    if (digits === undefined) {
      digits = digitsOf(address);
      this.#known.set(address, digits);
    }
    return digits;
  }

  #portName(ports: readonly Ports[]): string {
    return this.#short("p", nameOfPorts(ports));
  }

  /** A letter and seven of a digest: names of chains are short. Who comes first has it, in an order of the plan. */
  #short(letter: string, text: string): string {
    const key = `${letter} ${text}`;
    let name = this.#names.get(key);
    for (let tries = 0; name === undefined; tries++) {
      const number = Number.parseInt(digestOf(`${key}${tries || ""}`).slice(0, 9), 16);
      const candidate = letter + number.toString(36).padStart(7, "0");
      if (!this.#taken.has(candidate)) name = candidate;
    }
    this.#names.set(key, name);
    this.#taken.add(name);
    return name;
  }

  get #pools(): readonly string[] {
    return this.#isolated.pools[this.#family];
  }

  /** A set of devices, each with some nets. @returns whether it has any. */
  #deviceSet(name: string, segments: readonly Part[], nets: (segment: Part) => readonly string[]): boolean {
    const elements = segments.flatMap((segment) =>
      segment.devices.flatMap((device) => nets(segment).map((net) => `${bareOf(net)},${device}`)),
    );
    if (elements.length === 0 && name !== "own" && name !== "managed") return false;
    this.#sets.set(this.#setName(name), this.#setOf("hash:net,iface", elements));
    return true;
  }

  #setOf(type: XtSet["type"], elements: readonly string[]): XtSet {
    return { type, family: this.#family, elements: new Set(elements) };
  }

  #setName(name: string): string {
    return `${setPrefix(this.#owner)}${name}V${this.#family}`;
  }

  #set(name: string, sides: string): string {
    return `-m set --match-set ${this.#setName(name)} ${sides}`;
  }

  #setNot(name: string, sides: string): string {
    return `-m set ! --match-set ${this.#setName(name)} ${sides}`;
  }

  #name(suffix: string): string {
    return `${chainPrefix(this.#owner)}-${suffix}`;
  }

  #chain(suffix: string): XtRule[] {
    const name = this.#name(suffix);
    const rules = this.#chains.get(name) ?? [];
    this.#chains.set(name, rules);
    return rules;
  }

  #add(suffix: string, text: string, what: string): void {
    this.#chain(suffix).push(ruleOf(text, what));
  }
}

function ruleOf(text: string, what: string): XtRule {
  return { text, comment: `gatehouse ${fingerprint(text)}: ${what}` };
}

function digitsOf(address: Address): string {
  let digits = "";
  for (const byte of encodeAddress(address)) digits += hex[byte];
  return digits;
}

/** How many digits two keys begin with in common. */
function commonLength(one: string, other: string): number {
  let at = 0;
  while (at < one.length && one[at] === other[at]) at++;
  return at;
}

/** A net of one address is shown without length. */
function bareOf(net: string): string {
  return net.replace(/^([0-9.]+)\/32$|^([0-9a-f:]+)\/128$/, "$1$2");
}
