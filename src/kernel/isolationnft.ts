/**
 * A plan of isolation as nft's table: pure, plan in, sets and chains out. For v 4 and 6:
 *
 *     pre (nat, prerouting)      DNS of a segment → redirect to the agent; else
 *                                device . source . stand-in → @tov → real address of the target
 *     gate (prerouting)          device → s_<device>: stand-in left, DNS over TLS, not a source of ours? → end
 *     forward ── to or from a managed device ── across
 *       ├ as opened  ── there: in-device  . opener . whom it wrote to → @mayv ─┐
 *       └ as answered ─ back:  out-device . opener . whom it wrote to → @mayv ─┤
 *                        accepts nothing by itself: not found → end            ├ [ports of the route] ─┐
 *       inside: the target is where the route says (device . address in @homesv)? accept, else end ←───┤
 *       outside: the other device is of no segment? accept, else end ←─────────────────────────────────┘
 *     input ── device → i_<device>: DNS that was redirected, mDNS; addresses, discovery, answers; device . source .
 *              port in @doorsv; else end
 *     output                     ICMP redirects, which would name real addresses, go to no managed device
 *     post (nat, postrouting)    source . whom it wrote to → @asv → stand-in of the source
 *
 * The maps are asked for every packet, not for the first of a flow alone: a route that is taken out stops its flow
 * with the same transaction, whatever connection tracking remembers. A packet costs the same for one route and ten
 * thousand. What is accepted here still has to pass the firewall of the machine, which `segments.sh` has let it.
 */

import { type Family, familyOf } from "../lib/address.ts";
import { labelOf } from "./device.ts";
import { digestOf, type Isolated, nameOfPorts, type Part, type Path } from "./isolate.ts";
import {
  discovery,
  dropRule,
  families,
  fingerprint,
  leaseQueries,
  type NftChain,
  type NftRule,
  type NftSet,
  type NftTable,
  protocols,
  reportRule,
  rule,
  types,
} from "./nftrules.ts";
import { quoted } from "./nfttext.ts";
import type { Ports } from "./standins.ts";

const group4 = "224.0.0.251";
const group6 = "ff02::fb";
const listeners = ["mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"];

/** Sets and maps that hold routes, of either family. */
const routing = ["to", "as", "may", "homes"] as const;

/** The table of a plan, or undefined if it manages no device. */
export function isolationTable(isolated: Isolated): NftTable | undefined {
  const { segments, paths, ports, doors, reportGroup } = isolated;
  const managed = segments.flatMap(({ devices }) => devices);
  if (managed.length === 0) return undefined;
  const sets = new Map<string, NftSet>();
  const chains = new Map<string, NftChain>();
  addMaps(sets, paths);
  sets.set("managed", elementsOf("ifname", new Map(managed.map((device) => [quoted(device), ""]))));
  addEntrances({ sets, chains }, isolated);
  addDoors(sets, doors);
  for (const [name, list] of ports) {
    for (const where of ["inside", "outside"] as const)
      chains.set(chainOfPorts(name, where), { rules: portRules(list, where) });
  }
  const end: NftRule[] = reportGroup === undefined ? [] : [reportRule(reportGroup)];
  for (const [name, rules] of Object.entries(crossing)) chains.set(name, { rules });
  chains.set("end", { rules: [...end, dropRule] });
  const entries = ["iifname", "oifname"].map((side) => rule(`${side} @managed goto across`, "managed"));
  chains.set("forward", { hook: "forward", rules: entries });
  chains.set("output", { hook: "output", rules: redirects });
  chains.set("post", { hook: "postrouting", nat: true, rules: sourceRules });
  return { sets, chains, counted: true };
}

/** A table as it would be without routes: nothing passes that does with them, and nothing else. */
export function withoutRoutes(table: NftTable): NftTable {
  const sets = new Map(table.sets);
  for (const version of families) {
    for (const kind of routing) {
      const name = `${kind}${version}`;
      const set = sets.get(name);
      if (set) sets.set(name, { ...set, elements: new Map() });
    }
  }
  return { ...table, sets };
}

function addMaps(sets: Map<string, NftSet>, paths: readonly Path[]): void {
  for (const version of families) {
    const address = types[version];
    const [to, as, may, homes] = [0, 0, 0, 0].map(() => new Map<string, string>());
    for (const path of paths) {
      if (path.family !== version) continue;
      const { device, source, standin, target, targetDevice, sourceStandin } = path;
      const key = `${quoted(device)} . ${source} . ${standin}`;
      to!.set(key, target);
      may!.set(key, `goto ${wayOf(path)}`);
      if (sourceStandin !== undefined) as!.set(`${source} . ${standin}`, sourceStandin);
      if (targetDevice !== undefined) homes!.set(`${quoted(targetDevice)} . ${target}`, "");
    }
    const key = `ifname . ${address} . ${address}`;
    sets.set(`to${version}`, { ...elementsOf(key, to!), map: true, data: address });
    sets.set(`as${version}`, { ...elementsOf(`${address} . ${address}`, as!), map: true, data: address });
    sets.set(`may${version}`, { ...elementsOf(key, may!), map: true });
    sets.set(`homes${version}`, elementsOf(`ifname . ${address}`, homes!));
  }
}

/** Ports of the router by who may use them. */
function addDoors(sets: Map<string, NftSet>, doors: Isolated["doors"]): void {
  const open = { all: new Map<string, string>(), 4: new Map<string, string>(), 6: new Map<string, string>() };
  for (const { device, source, port } of doors) {
    const to = source === undefined ? "all" : familyOf(source);
    open[to].set(`${quoted(device)}${source === undefined ? "" : ` . ${source}`} . ${port}`, "");
  }
  sets.set("doors", elementsOf("ifname . inet_service", open.all));
  for (const version of families)
    sets.set(`doors${version}`, elementsOf(`ifname . ${types[version]} . inet_service`, open[version]));
}

/** What comes in by a managed device: its queries, its sources, what it may have of the router. */
function addEntrances(
  { sets, chains }: { sets: Map<string, NftSet>; chains: Map<string, NftChain> },
  { segments, pools }: Isolated,
): void {
  const gates = new Map<string, string>();
  const inputs = new Map<string, string>();
  const asking = new Map<string, { version: Family; port: number; devices: Map<string, string> }>();
  for (const segment of segments) {
    for (const device of segment.devices) {
      const label = labelOf(device, fingerprint(device));
      gates.set(quoted(device), `goto s_${label}`);
      inputs.set(quoted(device), `goto i_${label}`);
      chains.set(`s_${label}`, { rules: gateRules(segment, pools) });
      chains.set(`i_${label}`, { rules: inputRules(segment) });
      for (const version of families) {
        const port = segment.dns[`port${version}`];
        if (port === undefined) continue;
        const name = `ask${version}p${port}`;
        const group = asking.get(name) ?? { version, port, devices: new Map<string, string>() };
        group.devices.set(quoted(device), "");
        asking.set(name, group);
      }
    }
  }
  sets.set("gates", { ...elementsOf("ifname", gates), map: true });
  sets.set("inputs", { ...elementsOf("ifname", inputs), map: true });
  const pre: NftRule[] = [];
  for (const [name, { version, port, devices }] of [...asking].sort(([a], [b]) => (a < b ? -1 : 1))) {
    sets.set(name, elementsOf("ifname", devices));
    const asked = `meta nfproto ipv${version} meta l4proto { tcp, udp } th dport 53`;
    pre.push(rule(`${asked} iifname @${name} redirect to :${port}`, "queries"));
  }
  pre.push(...targetRules);
  chains.set("pre", { hook: "prerouting", nat: true, rules: pre });
  chains.set("gate", { hook: "prerouting", rules: [rule("iifname vmap @gates", "managed")] });
  chains.set("input", { hook: "input", rules: [rule("iifname vmap @inputs", "managed")] });
}

function gateRules({ prefixes, dns, dropEncryptedDns }: Part, pools: Isolated["pools"]): NftRule[] {
  const rules: NftRule[] = [];
  for (const version of families) {
    if (pools[version].length === 0) continue;
    rules.push(rule(`${protocols[version]} daddr ${oneOf(pools[version])} goto end`, "a stand-in of nobody"));
  }
  for (const version of families) {
    if (dns[`port${version}`] !== undefined) continue;
    const to = `meta nfproto ipv${version} meta l4proto { tcp, udp } th dport 53`;
    rules.push(rule(`ct direction original ${to} goto end`, "nobody answers"));
  }
  if (dropEncryptedDns) {
    const to = "ct direction original meta l4proto { tcp, udp } th dport 853";
    rules.push(rule(`${to} goto end`, "DNS over TLS or QUIC"));
  }
  if (prefixes[4].length > 0) rules.push(rule(`ip saddr ${oneOf(prefixes[4])} accept`, "own source"));
  rules.push(
    rule(`ip6 saddr ${oneOf([...prefixes[6], "fe80::/10"])} accept`, "own source"),
    rule("ip saddr 0.0.0.0 udp dport 67 accept", "address assignment"),
    rule(`ip6 saddr :: icmpv6 type { ${[...discovery, ...listeners].join(", ")} } accept`, "discovery"),
    rule("goto end", "spoofed"),
  );
  return rules;
}

function inputRules({ dns, mdns }: Part): NftRule[] {
  const rules: NftRule[] = [];
  for (const version of families) {
    const port = dns[`port${version}`];
    if (port === undefined) continue;
    // A query to the agent's own port 53 may need no translation.
    const status = port === 53 ? "" : "ct status dnat ";
    const to = `meta nfproto ipv${version} meta l4proto { tcp, udp } th dport ${port}`;
    rules.push(rule(`${status}${to} accept`, "queries"));
  }
  if (mdns) {
    rules.push(rule(`ip daddr ${group4} udp dport 5353 accept`, "multicast DNS"));
    rules.push(rule(`ip6 daddr ${group6} udp dport 5353 accept`, "multicast DNS"));
  }
  return [...rules, rule("goto needs", "what everybody needs")];
}

function portRules(list: readonly Ports[], where: "inside" | "outside"): NftRule[] {
  const rules = [rule(`ct state related goto ${where}`, "errors")];
  for (const protocol of ["tcp", "udp"] as const) {
    const spans = list.flatMap((each) =>
      each.protocol === protocol
        ? [each.first === each.last ? `${each.first}` : `${each.first}-${each.last}`]
        : [],
    );
    for (const span of spans) {
      rules.push(rule(`ct direction original ${protocol} dport ${span} goto ${where}`, "port"));
      rules.push(rule(`ct direction reply ${protocol} sport ${span} goto ${where}`, "port"));
    }
  }
  if (list.some(({ protocol }) => protocol === "icmp"))
    rules.push(rule(`meta l4proto { icmp, icmpv6 } goto ${where}`, "echo"));
  return [...rules, rule("goto end", "other ports")];
}

function wayOf({ ports, targetDevice }: Path): string {
  const where = targetDevice === undefined ? "outside" : "inside";
  return ports === undefined ? where : chainOfPorts(nameOfPorts(ports), where);
}

function chainOfPorts(name: string, where: "inside" | "outside"): string {
  return `${where}_${digestOf(name)}`;
}

function oneOf(prefixes: readonly string[]): string {
  return prefixes.length === 1 ? prefixes[0]! : `{ ${prefixes.join(", ")} }`;
}

function elementsOf(type: string, elements: ReadonlyMap<string, string>): NftSet {
  return { type, map: false, interval: false, elements };
}

const targetRules = families.map((version) => {
  const p = protocols[version];
  return rule(`dnat ${p} to iifname . ${p} saddr . ${p} daddr map @to${version}`, "to the target");
});
const sourceRules = families.map((version) => {
  const p = protocols[version];
  return rule(`snat ${p} to ${p} saddr . ct original ${p} daddr map @as${version}`, "as a stand-in");
});
const redirects = ["icmp type redirect", "icmpv6 type nd-redirect"].map((match) =>
  rule(`oifname @managed ${match} drop`, "names real addresses"),
);

function mayRules(side: "iifname" | "oifname"): NftRule[] {
  const found = families.map((version) => {
    const p = protocols[version];
    return rule(`${side} . ct original ${p} saddr . ct original ${p} daddr vmap @may${version}`, "routes");
  });
  return [...found, rule("goto end", "no route")];
}

/** Chains that are the same for every plan. */
const crossing: Readonly<Record<string, readonly NftRule[]>> = {
  across: [
    rule("ct direction vmap { original : goto there, reply : goto back }", "direction"),
    rule("goto end", "untracked"),
  ],
  there: [
    // An answer must not go on as if its side had begun, because that may begin too, when its own route has gone.
    rule("ct state new tcp flags & (fin | syn | rst | ack) != syn goto end", "no beginning"),
    ...mayRules("iifname"),
  ],
  back: mayRules("oifname"),
  inside: [
    rule("ct state related accept", "errors"),
    ...families.flatMap((version) => {
      const p = protocols[version];
      return [
        rule(`ct direction original oifname . ${p} daddr @homes${version} accept`, "to the target"),
        rule(`ct direction reply iifname . ${p} saddr @homes${version} accept`, "from the target"),
      ];
    }),
    rule("goto end", "the target is elsewhere"),
  ],
  outside: [
    rule("ct direction original oifname != @managed accept", "out"),
    rule("ct direction reply iifname != @managed accept", "in"),
    rule("goto end", "the target is elsewhere"),
  ],
  needs: [
    rule("ct direction reply accept", "answers to the router"),
    rule("iifname . tcp dport @doors accept", "open to all of a device"),
    ...families.map((version) =>
      rule(`iifname . ${protocols[version]} saddr . tcp dport @doors${version} accept`, "open to one"),
    ),
    ...leaseQueries,
    rule(`icmpv6 type { ${discovery.join(", ")} } ip6 hoplimit 255 accept`, "neighbour discovery"),
    rule(`icmpv6 type { ${listeners.join(", ")} } ip6 hoplimit 1 accept`, "multicast groups"),
    rule("ip protocol igmp accept", "multicast groups"),
    rule("goto end", "of the router"),
  ],
};
