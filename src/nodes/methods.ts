/**
 * The object `gatehouse.nodes`: what callers may ask of the nodes and say about them.
 *
 * Keeps nothing. `changed` is called after a call changed a node, so that it is published and stored.
 */

import { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Nodes } from "./nodes.ts";

export interface NodeMethodsOptions {
  /**
   * A caller changed a node; the answer waits for the promise, so that what was acknowledged is durable.
   */
  changed?(id: number): Promise<void> | void;
}

type Arguments = Readonly<Record<string, Json>>;

/** A message on the bus is bounded: whoever has more nodes asks for them in parts. */
const LIST_MAX = 10_000;

export function nodeMethods(nodes: Nodes, options: NodeMethodsOptions = {}): Methods {
  return {
    list: {
      args: { after: "Integer", limit: "Integer" },
      access: "read",
      doc: "All nodes in order of id, or at most `limit` of those whose id is greater than `after`.",
      call: (args) => ({ nodes: list(nodes, args) }),
    },
    get: {
      args: { node: "Integer" },
      access: "read",
      doc: "All that is known of a node; an id that was merged away answers for the node it became.",
      call(args) {
        const id = integerOf(args, "node", "Cannot get node");
        const detail = nodes.detail(id);
        if (!detail) throw new Fault("not-found", `Cannot get node ${id}: there is no such node`);
        return detail;
      },
    },
    rename: {
      args: { node: "Integer", name: "String" },
      access: "write",
      doc: "Names a node; an empty name takes the name back.",
      async call(args) {
        const id = integerOf(args, "node", "Cannot rename node");
        const { name } = args;
        if (typeof name !== "string") throw new Fault("invalid", `Cannot rename node ${id}: name is missing`);
        nodes.rename(id, name);
        await options.changed?.(nodes.resolve(id) ?? id);
        return undefined;
      },
    },
  };
}

function list(nodes: Nodes, args: Arguments): Json[] {
  const after = args.after === undefined ? 0 : integerOf(args, "after", "Cannot list nodes");
  const limit = args.limit === undefined ? LIST_MAX : integerOf(args, "limit", "Cannot list nodes");
  if (limit < 0) throw new Fault("invalid", "Cannot list nodes: limit is negative");
  const ids = nodes.ids().filter((id) => id > after);
  return ids.slice(0, Math.min(limit, LIST_MAX)).flatMap((id) => nodes.summary(id) ?? []);
}

function integerOf(args: Arguments, name: string, what: string): number {
  const value = args[name];
  if (typeof value !== "number" || !Number.isSafeInteger(value)) {
    throw new Fault("invalid", `${what}: ${name} must be an integer`);
  }
  return value;
}
