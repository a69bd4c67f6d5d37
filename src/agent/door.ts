/**
 * SPIN's own doors, joined to the rooms that decide: what its JSON-RPC and its old files ask for goes to nodes and
 * flows, and is answered when it is in force and durable. Keeps nothing.
 */

import type { Flows, Outcome } from "../flows/flows.ts";
import type { Address } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { singlePrefix } from "../lib/nets.ts";
import type { Moment, Nodes } from "../nodes/nodes.ts";
import type { Decision, SpinDoor } from "../spin/spin.ts";

export interface DoorParts {
  readonly nodes: Nodes;
  readonly flows: Flows;
  moment(): Moment;
  /** Writes the nodes. @throws Fault "storage" */
  saveNodes(): Promise<void>;
}

/** In whose name decisions are kept. */
const author = "spin";

export function spinDoor(parts: DoorParts): SpinDoor {
  const { nodes, flows } = parts;
  const decisions = flows.as(author);
  return {
    devices: () => nodes.ids().flatMap((id) => withMac(nodes, id)),
    node: (id) => nodes.info(id),
    deviceByMac: (mac) => nodes.deviceByMac(mac),
    deviceFlows: (id) => {
      const { now, date } = parts.moment();
      return flows.records(id).map(({ from, to, toPort, icmpType, packets, bytes, lastAt }) => ({
        ...{ to: from === id ? to : from, dstPort: toPort, icmpType, packets, bytes },
        lastSeen: Math.floor((lastAt + date - now) / 1_000),
      }));
    },
    pairs: () => flows.pairs(),
    listEntries: (list) => flows.spinList(list),
    rename: (id, name) => changed(parts, id, () => nodes.rename(id, name)),
    async addNode(address) {
      let id: number | undefined;
      const decision = await changed(parts, address, () => {
        id = nodes.addAddress(0, address, parts.moment());
      });
      return decision.kind === "done" && id !== undefined ? { kind: "made", id } : decision;
    },
    addAddress: (id, address) =>
      changed(parts, nodes.resolve(id) === undefined ? id : address, () =>
        nodes.addAddress(id, address, parts.moment()),
      ),
    setListNode: (list, id, listed) => decisions.list(list, id, listed).then(decisionOf),
    setListNet: (list, net, listed) => decisions.listNet(list, net, listed).then(decisionOf),
    resetIgnore: () => decisions.resetIgnore(ownNets(nodes)).then(decisionOf),
    setBlock: (one, other, blocked) =>
      (blocked ? decisions.block(one, other) : decisions.unblock(one, other)).then(decisionOf),
  };
}

function withMac(nodes: Nodes, id: number) {
  const info = nodes.info(id);
  return info?.mac === undefined ? [] : [info];
}

/** A change of nodes as a decision: made at once, answered when it is durable. */
async function changed(parts: DoorParts, about: number | Address, change: () => void): Promise<Decision> {
  try {
    change();
  } catch (thrown) {
    const code = thrown instanceof Fault ? thrown.code : undefined;
    if (code === "not-found" && typeof about === "number") return { kind: "unknown", id: about };
    if (code === "conflict" && typeof about === "string") {
      return { kind: "taken", id: parts.nodes.find(about) ?? 0 };
    }
    throw thrown;
  }
  await parts.saveNodes();
  return { kind: "done" };
}

function decisionOf(outcome: Outcome): Decision {
  return outcome.kind === "done" ? { kind: "done" } : outcome;
}

/** The addresses of this machine, as prefixes. */
function ownNets(nodes: Nodes) {
  const router = nodes.ids().find((id) => nodes.summary(id)?.kind === "router");
  const end = router === undefined ? undefined : nodes.end(router);
  return (end?.addresses ?? []).map(singlePrefix);
}
