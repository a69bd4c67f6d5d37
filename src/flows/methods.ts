/**
 * What the outside may ask of flows: SPIN's three calls of April 2019, and our own with typed errors.
 *
 * SPIN's callers expect an object whatever happens, and SPIN said success whatever happened. Here `blockflow`
 * answers `{"return": 0}` only if the pair is now as asked, else the number of the ubus status that fits (2 the
 * nodes are one, 4 no such node, 9 too many blocks). `spindlist`, whose answer has no field for it, says "ok" or
 * the word of the fault in `fake-return`. If the kernel or the disk refuses, both calls fail as calls.
 */

import { Fault, type FaultCode } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { Methods } from "../ubus/methods.ts";
import type { FlowRecord, Flows, Outcome } from "./flows.ts";
import { listNames } from "./policy.ts";

/** Outcomes that are no success, for SPIN's callers: a number, and a word. */
const refusals: Readonly<Record<Exclude<Outcome["kind"], "done">, { status: number; code: FaultCode }>> = {
  unknown: { status: 4, code: "not-found" },
  same: { status: 2, code: "invalid" },
  full: { status: 9, code: "limit" },
};

const defaultLimit = 500;
/** An answer has to fit into one ubus message, of 1 MiB; these are a pair and a record there, and a reserve. */
const messageBytes = 1_000_000;
const pairBytes = 40;
const recordBytes = 208;

/** An integer argument; a missing one is 0, as in SPIN. */
function integerOf(args: Readonly<Record<string, Json>>, name: string): number {
  return Number(args[name] ?? 0);
}

/** The object `spin`. */
export function spinMethods(flows: Flows): Methods {
  return {
    spindlist: {
      args: { list: "Integer", addrem: "Integer", node: "Integer" },
      access: "write",
      doc: "Puts a node on list 0 block, 1 ignore or 2 allow (addrem 0), or takes it off (addrem 1).",
      async call(args) {
        const list = listNames[integerOf(args, "list")];
        const addrem = integerOf(args, "addrem");
        if (list === undefined || (addrem !== 0 && addrem !== 1)) return { "fake-return": "invalid" };
        const outcome = await flows.list(list, integerOf(args, "node"), addrem === 0);
        return { "fake-return": outcome.kind === "done" ? "ok" : refusals[outcome.kind].code };
      },
    },
    blockflow: {
      args: { node1: "Integer", node2: "Integer", block: "Integer" },
      access: "write",
      doc: "Cuts two nodes off from each other (block 1), or lets them speak again (block 0).",
      async call(args) {
        const [one, other] = [integerOf(args, "node1"), integerOf(args, "node2")];
        const blocks = integerOf(args, "block") !== 0;
        const outcome = await (blocks ? flows.block(one, other) : flows.unblock(one, other));
        return { return: outcome.kind === "done" ? 0 : refusals[outcome.kind].status };
      },
    },
    get_blockflow: {
      args: {},
      access: "read",
      doc: "The pairs of nodes that are cut off from each other.",
      call: () => ({ result: pairsOf(flows) }),
    },
  };
}

export interface FlowMethodsOptions {
  /** The wall-clock date in milliseconds of a monotonic instant. */
  dateOf(at: number): number;
  /** Other nodes that share an address with this one, and so are hit by its blocks. */
  sharedWith?(id: number): readonly number[];
}

/** The object `gatehouse.flows`. Blocking what is blocked, or unblocking what is not, is no fault. */
export function flowMethods(flows: Flows, options: FlowMethodsOptions): Methods {
  const change = (block: boolean) => async (args: Readonly<Record<string, Json>>) => {
    const [one, other] = [integerOf(args, "node1"), integerOf(args, "node2")];
    const verb = block ? "block" : "unblock";
    const outcome = await flows[verb](one, other);
    if (outcome.kind !== "done") throw faultOf(`Cannot ${verb} flow of ${one} and ${other}`, outcome);
    const also = [one, other].flatMap((id) => options.sharedWith?.(flows.resolve(id) ?? id) ?? []);
    const hit = [...new Set(also)].filter((id) => id !== one && id !== other);
    return { changed: outcome.changed, ...(block && hit.length > 0 ? { also_hit: hit } : {}) };
  };
  return {
    list: {
      args: { node: "Integer", limit: "Integer" },
      access: "read",
      doc: "Flow records of a node or of all, the latest active first, and its or all blocked pairs.",
      call(args) {
        const node = integerOf(args, "node");
        const id = node === 0 ? undefined : flows.resolve(node);
        if (node !== 0 && id === undefined) {
          throw new Fault("not-found", `Cannot list flows: there is no node ${node}`);
        }
        const blocked = pairsOf(flows).filter(
          (pair) => id === undefined || pair.node1 === id || pair.node2 === id,
        );
        const room = Math.floor((messageBytes - blocked.length * pairBytes) / recordBytes);
        const limit = Math.max(0, integerOf(args, "limit")) || defaultLimit;
        const records = flows.records(id);
        const shown = records.slice(0, Math.max(0, Math.min(limit, room)));
        return { flows: shown.map((each) => recordOf(flows, each, options)), total: records.length, blocked };
      },
    },
    block: {
      args: { node1: "Integer", node2: "Integer" },
      access: "write",
      doc: "Cuts two nodes off from each other; answers when the kernel does so and the disk knows.",
      call: change(true),
    },
    unblock: {
      args: { node1: "Integer", node2: "Integer" },
      access: "write",
      doc: "Lets two nodes speak with each other again.",
      call: change(false),
    },
  };
}

function faultOf(what: string, outcome: Exclude<Outcome, { kind: "done" }>): Fault {
  const { code } = refusals[outcome.kind];
  if (outcome.kind === "unknown") return new Fault(code, `${what}: there is no node ${outcome.id}`);
  if (outcome.kind === "same") return new Fault(code, `${what}: both are node ${outcome.id}`);
  return new Fault(code, `${what}: ${outcome.limit} pairs are blocked already`);
}

function pairsOf(flows: Flows): { node1: number; node2: number }[] {
  return flows.pairs().map(([node1, node2]) => ({ node1, node2 }));
}

function recordOf(flows: Flows, record: FlowRecord, options: FlowMethodsOptions): JsonObject {
  const seconds = (at: number) => Math.floor(options.dateOf(at) / 1_000);
  return {
    from: record.from,
    to: record.to,
    protocol: record.protocol,
    to_port: record.toPort,
    icmp_type: record.icmpType,
    packets: record.packets,
    bytes: record.bytes,
    first_seen: seconds(record.firstAt),
    last_seen: seconds(record.lastAt),
    blocked: flows.isBlocked(record.from, record.to),
  };
}
