/**
 * `explain A B`: whether packets from one end to the other pass, and by whose word.
 *
 * Puts together what the rooms know: which nodes are meant, which decisions apply to them (with author and hits),
 * and what the kernel does with packets between their addresses, rule by rule. Keeps nothing, changes nothing. Other
 * rooms add their part here.
 */

import type { Flows, Party } from "../flows/flows.ts";
import type { Kernel } from "../kernel/kernel.ts";
import { type Address, familyOf, type Mac, parseAddress, parseMac } from "../lib/address.ts";
import { foldName } from "../lib/dns.ts";
import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { Nodes } from "../nodes/nodes.ts";

export interface ExplainParts {
  readonly nodes: Nodes;
  readonly flows: Flows;
  readonly kernel: Kernel;
  /** The wall-clock date in milliseconds of a monotonic instant. */
  dateOf(at: number): number;
}

/** One end, as it was found. */
interface End extends Party {
  readonly nodes: readonly number[];
  readonly addresses: readonly Address[];
  readonly mac?: Mac;
}

/** A node may have many addresses: so many packets are looked at, and so many shown. */
const maxPackets = 256;
const maxShown = 16;
const maxNameLength = 1_010;

/**
 * @param ends each a node's id, an address, a MAC or a name.
 * @throws Fault "not-found" if an end is nobody's.
 */
export function explain(ends: readonly [string, string], parts: ExplainParts): JsonObject {
  const { nodes, flows, kernel, dateOf } = parts;
  const [from, to] = [findEnd(ends[0], nodes), findEnd(ends[1], nodes)];
  const decisions = flows.explain([from, to], dateOf);
  const packets: JsonObject[] = [];
  const verdicts = new Set<string>();
  let looked = 0;
  for (const source of from.addresses) {
    for (const destination of to.addresses) {
      if (familyOf(source) !== familyOf(destination) || looked >= maxPackets) continue;
      looked++;
      const packet = {
        ...{ source, destination },
        ...(from.mac !== undefined && { sourceMac: from.mac }),
        ...(to.mac !== undefined && { destinationMac: to.mac }),
      };
      const explained = kernel.explain("flows", packet);
      verdicts.add(explained.verdict);
      if (packets.length < maxShown) packets.push({ ...packet, ...(explained as unknown as JsonObject) });
    }
  }
  const [only] = verdicts;
  return {
    from: showEnd(from, nodes),
    to: showEnd(to, nodes),
    verdict: only === undefined ? "none" : verdicts.size === 1 ? only : "mixed",
    decisions: decisions as unknown as Json,
    packets,
    ...(looked > packets.length && { packets_not_shown: looked - packets.length }),
    ...(looked === 0 && { why: "the two have no addresses of one family" }),
  };
}

function findEnd(text: string, nodes: Nodes): End {
  const address = parseAddress(text);
  if (address !== undefined) {
    const home = nodes.find(address);
    const sharers = home === undefined ? [] : nodes.sharedWith(home);
    const holders = sharers.filter((id) => nodes.end(id)?.addresses.includes(address));
    return {
      ...macOf(nodes, home),
      nodes: home === undefined ? [] : [home, ...holders],
      addresses: [address],
    };
  }
  const id = idOf(text, nodes);
  if (id === undefined)
    throw new Fault("not-found", `Cannot explain: there is no node ${JSON.stringify(text)}`);
  return { ...macOf(nodes, id), nodes: [id], addresses: nodes.end(id)?.addresses ?? [] };
}

function idOf(text: string, nodes: Nodes): number | undefined {
  if (/^[1-9][0-9]{0,9}$/.test(text)) return nodes.resolve(Number(text));
  const mac = parseMac(text);
  if (mac !== undefined) return nodes.deviceByMac(mac);
  if (text === "" || text.length > maxNameLength) return undefined;
  const [name, domain] = [text.toLowerCase(), foldName(text.endsWith(".") ? text : `${text}.`)];
  return nodes.ids().find((id) => {
    const info = nodes.info(id);
    return info?.name?.toLowerCase() === name || info?.domains.includes(domain);
  });
}

function macOf(nodes: Nodes, id: number | undefined): { mac?: Mac } {
  const [mac] = id === undefined ? [] : (nodes.end(id)?.macs ?? []);
  return mac === undefined ? {} : { mac };
}

function showEnd(end: End, nodes: Nodes): JsonObject {
  return {
    nodes: end.nodes.map((id) => {
      const info = nodes.info(id);
      const name = info?.name ?? info?.domains[0];
      return { id, ...(name !== undefined && { name }) };
    }),
    addresses: [...end.addresses],
    ...(end.mac !== undefined && { mac: end.mac }),
  };
}
