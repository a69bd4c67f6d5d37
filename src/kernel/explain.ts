/**
 * What a plan means: whether a packet passes, and by which words of the plan. Pure, and the only place that says
 * so: connections are cut by it, rules are tested against it, and people are answered from it.
 *
 *     plan → index: address → nodes, MAC → nodes, nets by length, pairs      (kept by who holds the function)
 *
 * Exempt beats barred and pairs. A node is known by its addresses, and by its MACs where a packet shows them: the
 * source's on a LAN device as it comes, the destination's only where the frame leaves towards it. So an exemption
 * by the destination's MAC saves a packet from blocks by that MAC; what its addresses say has been done before.
 *
 * Left out are packets that hosts need to find each other (ARP, neighbour discovery) and to be given an address
 * (DHCP with the router itself): no plan stops those.
 */

import type { Address, Mac, Prefix } from "../lib/address.ts";
import { finderOf } from "./nets.ts";
import type { Plan } from "./plan.ts";

/** A packet as rules see it. */
export interface Packet {
  readonly source: Address;
  readonly destination: Address;
  /** The Ethernet address that it comes from, on a LAN device. */
  readonly sourceMac?: Mac;
  /** The Ethernet address that it goes to, on a LAN device. */
  readonly destinationMac?: Mac;
}

export type Side = "source" | "destination";

/** One word of a plan that a packet meets. */
export type Reason = {
  /** Whether the verdict rests on it. */
  readonly decides: boolean;
} & (
  | {
      readonly kind: "exempt" | "barred";
      readonly side: Side;
      readonly by: "address" | "mac";
      /** Id of the node. */
      readonly node: number;
    }
  | { readonly kind: "exempt" | "barred"; readonly side: Side; readonly by: "net"; readonly net: Prefix }
  | {
      readonly kind: "pair";
      /** The lower id first, as in the plan. */
      readonly pair: readonly [number, number];
      readonly source: { readonly node: number; readonly by: "address" | "mac" };
      readonly destination: { readonly node: number; readonly by: "address" | "mac" };
    }
);

export interface Explanation {
  readonly verdict: "pass" | "drop";
  /** Exempt first, then barred, then pairs; empty if the plan says nothing of such packets. */
  readonly reasons: readonly Reason[];
}

/** A node that one side of a packet is. */
interface Holder {
  readonly node: number;
  readonly by: "address" | "mac";
}

type Undecided = Reason extends infer Each ? (Each extends Reason ? Omit<Each, "decides"> : never) : never;

/** What a plan says of one packet. For many packets, keep what `explainer` returns. */
export function explainPlan(plan: Plan, packet: Packet): Explanation {
  return explainer(plan)(packet);
}

/** Explains packets of one plan, each in a time that does not grow with the plan. */
export function explainer(plan: Plan): (packet: Packet) => Explanation {
  const byAddress = new Map<Address, number[]>();
  const byMac = new Map<Mac, number[]>();
  for (const { id, addresses, macs } of plan.ends) {
    for (const address of addresses) put(byAddress, address, id);
    for (const mac of macs) put(byMac, mac, id);
  }
  const pairs = new Map(plan.pairs.map((pair) => [`${pair[0]} ${pair[1]}`, pair]));
  const lists = (["exempt", "barred"] as const).map((kind) => ({
    kind,
    nodes: new Set(plan[kind]),
    netsWith: finderOf(plan[`${kind}Nets`] ?? []),
  }));

  const holdersOf = (address: Address, mac: Mac | undefined): Holder[] => {
    const nodes = byAddress.get(address) ?? [];
    const more = mac === undefined ? [] : (byMac.get(mac) ?? []).filter((node) => !nodes.includes(node));
    return [
      ...nodes.map((node): Holder => ({ node, by: "address" })),
      ...more.map((node): Holder => ({ node, by: "mac" })),
    ];
  };

  return ({ source, destination, sourceMac, destinationMac }) => {
    const sides = [
      { side: "source", address: source, holders: holdersOf(source, sourceMac) },
      { side: "destination", address: destination, holders: holdersOf(destination, destinationMac) },
    ] as const;
    const met: Undecided[] = [];
    for (const { kind, nodes, netsWith } of lists) {
      for (const { side, address, holders } of sides) {
        for (const holder of holders) if (nodes.has(holder.node)) met.push({ kind, side, ...holder });
        for (const net of netsWith(address)) met.push({ kind, side, by: "net", net });
      }
    }
    for (const from of pairs.size > 0 ? sides[0].holders : []) {
      for (const to of sides[1].holders) {
        const pair = pairs.get(from.node < to.node ? `${from.node} ${to.node}` : `${to.node} ${from.node}`);
        if (pair) met.push({ kind: "pair", pair, source: from, destination: to });
      }
    }
    return decide(met);
  };
}

/** Tells of two addresses whether a plan lets no packet pass between them, MACs left out. */
export function blockedBy(plan: Plan): (source: Address, destination: Address) => boolean {
  const explain = explainer(plan);
  return (source, destination) => explain({ source, destination }).verdict === "drop";
}

/** Whether a word counts only where a frame leaves towards a MAC. */
export function isLate(reason: Undecided | Reason): boolean {
  if (reason.kind === "pair") return reason.destination.by === "mac";
  return reason.side === "destination" && reason.by === "mac";
}

function decide(met: readonly Undecided[]): Explanation {
  const early = met.filter((each) => !isLate(each));
  for (const stage of early.length < met.length ? [early, met] : [met]) {
    if (!stage.some(isBlock) || stage.some((each) => each.kind === "exempt")) continue;
    const decides = (each: Undecided) => isBlock(each) && stage.includes(each);
    return { verdict: "drop", reasons: met.map((each) => ({ ...each, decides: decides(each) })) };
  }
  // An exemption decides where something would else have blocked.
  const saved = met.some(isBlock);
  return {
    verdict: "pass",
    reasons: met.map((each) => ({ ...each, decides: saved && each.kind === "exempt" })),
  };
}

function isBlock(reason: Undecided): boolean {
  return reason.kind !== "exempt";
}

function put<Name>(holders: Map<Name, number[]>, name: Name, id: number): void {
  const ids = holders.get(name);
  if (!ids) holders.set(name, [id]);
  else if (!ids.includes(id)) ids.push(id);
}
