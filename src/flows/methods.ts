/**
 * What the outside may ask of flows: SPIN's three calls of April 2019, and our own with typed errors.
 *
 * SPIN's callers expect an object whatever happens, and SPIN said success whatever happened. Here `blockflow`
 * answers `{"return": 0}` only if the pair is now as asked, else the number of the ubus status that fits (2 the
 * nodes are one, 4 no such node, 9 too many blocks). `spindlist`, whose answer has no field for it, says "ok" or
 * the word of the fault in `fake-return`. If the kernel or the disk refuses, both calls fail as calls.
 */

import { type Prefix, parsePrefix } from "../lib/address.ts";
import { Fault, type FaultCode } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import { formatNet, soleAddress } from "../lib/nets.ts";
import { type ListName, listNames } from "../lib/spin.ts";
import type { Caller, Methods } from "../ubus/methods.ts";
import type { Entry } from "./decision.ts";
import { renderEntry, renderHits } from "./explain.ts";
import type { FlowRecord, Flows, Outcome } from "./flows.ts";

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
const hitPairBytes = 84;
const recordBytes = 208;
/** A node and the longest prefix there; entries with hits and the longest author. */
const listedNodeBytes = 12;
const listedNetBytes = 56;
const listedHitBytes = 248;
/** Entries of a list that are shown with their hits. */
const shownHits = 200;

type Args = Readonly<Record<string, Json>>;

/** An integer argument; a missing one is 0, as in SPIN. */
function integerOf(args: Args, name: string): number {
  return Number(args[name] ?? 0);
}

/** The object `spin`. */
export function spinMethods(flows: Flows): Methods {
  return {
    spindlist: {
      args: { list: "Integer", addrem: "Integer", node: "Integer" },
      access: "write",
      doc: "Puts a node on list 0 block, 1 ignore or 2 allow (addrem 0), or takes it off (addrem 1).",
      async call(args, caller) {
        const list = listNames[integerOf(args, "list")];
        const addrem = integerOf(args, "addrem");
        if (list === undefined || (addrem !== 0 && addrem !== 1)) return { "fake-return": "invalid" };
        const decisions = flows.as(authorFor(caller));
        const outcome = await decisions.list(list, integerOf(args, "node"), addrem === 0);
        return { "fake-return": outcome.kind === "done" ? "ok" : refusals[outcome.kind].code };
      },
    },
    blockflow: {
      args: { node1: "Integer", node2: "Integer", block: "Integer" },
      access: "write",
      doc: "Cuts two nodes off from each other (block 1), or lets them speak again (block 0).",
      async call(args, caller) {
        const decisions = flows.as(authorFor(caller));
        const [one, other] = [integerOf(args, "node1"), integerOf(args, "node2")];
        const blocks = integerOf(args, "block") !== 0;
        const outcome = await (blocks ? decisions.block(one, other) : decisions.unblock(one, other));
        return { return: outcome.kind === "done" ? 0 : refusals[outcome.kind].status };
      },
    },
    get_blockflow: {
      args: {},
      access: "read",
      doc: "The pairs of nodes that are cut off from each other.",
      call: () => ({ result: flows.pairs().map(([node1, node2]) => ({ node1, node2 })) }),
    },
  };
}

export interface FlowMethodsOptions {
  /** The wall-clock date in milliseconds of a monotonic instant. */
  dateOf(at: number): number;
  /** Other nodes that share an address with this one, and so are hit by its blocks. */
  sharedWith?(id: number): readonly number[];
}

/** The object `gatehouse.flows`. Asking for what is so already is no fault. */
export function flowMethods(flows: Flows, options: FlowMethodsOptions): Methods {
  const change = (verb: "block" | "unblock") => async (args: Args, caller: Caller) => {
    const [one, other] = [integerOf(args, "node1"), integerOf(args, "node2")];
    const outcome = await flows.as(authorFor(caller))[verb](one, other);
    if (outcome.kind !== "done") throw faultOf(`Cannot ${verb} flow of ${one} and ${other}`, outcome);
    return { changed: outcome.changed, ...(verb === "block" && alsoHit(flows, [one, other], options)) };
  };
  const place = (listed: boolean) => async (args: Args, caller: Caller) => {
    const what = listed ? "Cannot add to list" : "Cannot remove from list";
    const list = listOf(args, what);
    const { node, prefix } = memberOf(args, what);
    const decisions = flows.as(authorFor(caller));
    const outcome = await (prefix === undefined
      ? decisions.list(list, node, listed)
      : decisions.listNet(list, prefix, listed));
    if (outcome.kind !== "done") throw faultOf(`${what} ${list}`, outcome);
    const { changed } = outcome;
    if (listed) return { changed, ...(prefix === undefined && alsoHit(flows, [node], options)) };
    const address = prefix === undefined ? undefined : soleAddress(prefix);
    const still = address === undefined ? [] : flows.covering(list, address).map(formatNet);
    return { changed, ...(still.length > 0 && { still_listed_by: still }) };
  };
  return {
    list: {
      args: { node: "Integer", limit: "Integer" },
      access: "read",
      doc: "Flow records of a node or of all, the latest active first, and its or all blocked pairs with hits.",
      call(args) {
        const node = integerOf(args, "node");
        const id = node === 0 ? undefined : flows.resolve(node);
        if (node !== 0 && id === undefined) {
          throw new Fault("not-found", `Cannot list flows: there is no node ${node}`);
        }
        const entries = flows.pairEntries(id);
        // Whoever blocks very much sees the pairs rather than their hits.
        const fits = entries.length * hitPairBytes <= messageBytes / 2;
        const blocked = entries.flatMap((each) => (each.kind === "pair" ? pairOf(each, fits, options) : []));
        const room = Math.floor(
          (messageBytes - blocked.length * (fits ? hitPairBytes : pairBytes)) / recordBytes,
        );
        const limit = Math.max(0, integerOf(args, "limit")) || defaultLimit;
        const shown = flows.records(id, Math.max(0, Math.min(limit, room)));
        const records = shown.map((each) => recordOf(flows, each, options));
        return { flows: records, total: flows.recordCount(id), blocked };
      },
    },
    block: {
      args: { node1: "Integer", node2: "Integer" },
      access: "write",
      doc: "Cuts two nodes off from each other; answers when the kernel does so and the disk knows.",
      call: change("block"),
    },
    unblock: {
      args: { node1: "Integer", node2: "Integer" },
      access: "write",
      doc: "Lets two nodes speak with each other again.",
      call: change("unblock"),
    },
    lists: {
      args: { list: "String" },
      access: "read",
      doc: "Nodes and prefixes on the lists block, ignore and allow, or on one, and the entries hit last.",
      call(args) {
        const what = "Cannot show lists";
        const lists = args.list === undefined ? listNames : [listOf(args, what)];
        const shown = lists.map((list) => [list, membersOf(flows, list, options)] as const);
        const bytes = shown.reduce((sum, [, each]) => sum + bytesOf(each), 0);
        if (bytes > messageBytes) {
          throw new Fault("limit", `${what}: they don't fit into one answer, ask for one list`);
        }
        return Object.fromEntries(shown);
      },
    },
    list_add: {
      args: { list: "String", node: "Integer", address: "String" },
      access: "write",
      doc: "Puts a node, an address or a prefix on the list block, ignore or allow.",
      call: place(true),
    },
    list_remove: {
      args: { list: "String", node: "Integer", address: "String" },
      access: "write",
      doc: "Takes a node with its addresses, an address or a prefix off a list.",
      call: place(false),
    },
  };
}

/** Whom a decision is remembered as coming from. */
function authorFor(caller: Caller): string {
  return caller.user ?? "";
}

function listOf(args: Args, what: string): ListName {
  const list = listNames.find((each) => each === args.list);
  if (list === undefined) throw new Fault("invalid", `${what}: it has to be ${listNames.join(", ")}`);
  return list;
}

/** The one thing that a caller names. */
function memberOf(args: Args, what: string): { node: number; prefix: Prefix | undefined } {
  const { node, address } = args;
  if ((node === undefined) === (address === undefined)) {
    throw new Fault("invalid", `${what}: name a node or an address`);
  }
  if (address === undefined) return { node: integerOf(args, "node"), prefix: undefined };
  const prefix = parsePrefix(String(address));
  if (prefix === undefined) throw new Fault("invalid", `${what}: that is neither an address nor a prefix`);
  return { node: 0, prefix };
}

/** Other nodes that share an address with these, and so are hit too. */
function alsoHit(flows: Flows, ids: readonly number[], options: FlowMethodsOptions): JsonObject {
  const living = ids.map((id) => flows.resolve(id) ?? id);
  const shared = new Set(living.flatMap((id) => options.sharedWith?.(id) ?? []));
  const hit = [...shared].filter((id) => !living.includes(id));
  return hit.length > 0 ? { also_hit: hit } : {};
}

function faultOf(what: string, outcome: Exclude<Outcome, { kind: "done" }>): Fault {
  const { code } = refusals[outcome.kind];
  if (outcome.kind === "unknown") return new Fault(code, `${what}: there is no node ${outcome.id}`);
  if (outcome.kind === "same") return new Fault(code, `${what}: both are node ${outcome.id}`);
  return new Fault(code, `${what}: there are ${outcome.limit} entries already`);
}

function pairOf(entry: Entry & { kind: "pair" }, withHits: boolean, options: FlowMethodsOptions): JsonObject {
  const [node1, node2] = entry.pair;
  return { node1, node2, ...(withHits && renderHits(entry, options.dateOf)) };
}

interface Members {
  readonly nodes: readonly number[];
  readonly prefixes: readonly string[];
  readonly hits: readonly JsonObject[];
}

function membersOf(flows: Flows, list: ListName, options: FlowMethodsOptions): Members & JsonObject {
  const { nodes, prefixes } = flows.entries(list);
  const hit = flows.listEntries(list).filter((each) => each.hits > 0);
  const latest = hit.sort((left, right) => right.lastHitAt! - left.lastHitAt!).slice(0, shownHits);
  const hits = latest.map((each) => renderEntry(each, options.dateOf));
  return { nodes, prefixes: prefixes.map(formatNet), hits };
}

/** What they take in a message, at most. */
function bytesOf({ nodes, prefixes, hits }: Members): number {
  return nodes.length * listedNodeBytes + prefixes.length * listedNetBytes + hits.length * listedHitBytes;
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
