/**
 * The object `gatehouse.nodes`: what callers may ask of the nodes and say about them.
 *
 * Keeps nothing. `changed` is called after a call changed a node, so that it is published and stored.
 */

import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import { answerBytes, type Methods, maxAnswerBytes } from "../ubus/methods.ts";
import { type Kind, USER_PIN } from "./node.ts";
import type { Nodes } from "./nodes.ts";

export interface NodeMethodsOptions {
  /**
   * A caller changed a node; the answer waits for the promise, so that what was acknowledged is durable.
   */
  changed?(id: number): Promise<void> | void;
}

const kindNames: readonly Kind[] = ["device", "local", "name", "address", "router", "gateway"];

type Arguments = Readonly<Record<string, Json>>;

export function nodeMethods(nodes: Nodes, options: NodeMethodsOptions = {}): Methods {
  return {
    list: {
      args: { after: "Integer", limit: "Integer", kind: "String" },
      access: "read",
      doc:
        "Nodes in order of id: those greater than `after`, at most `limit`, of one `kind` or (`ours`) of this network. " +
        "If a message cannot hold them, `more` is true.",
      call: (args) => list(nodes, args),
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
    pin: {
      args: { node: "Integer", pinned: "Boolean" },
      access: "write",
      doc: "Holds a node, so that it neither expires nor makes room, or (pinned false) lets it go again.",
      async call(args) {
        const id = integerOf(args, "node", "Cannot pin node");
        const { pinned } = args;
        if (typeof pinned !== "boolean") {
          throw new Fault("invalid", `Cannot pin node ${id}: pinned must be true or false`);
        }
        if (nodes.resolve(id) === undefined) {
          throw new Fault("not-found", `Cannot pin node ${id}: there is no such node`);
        }
        if (pinned) nodes.pin(id, USER_PIN);
        else nodes.unpin(id, USER_PIN);
        await options.changed?.(nodes.resolve(id) ?? id);
        return undefined;
      },
    },
    merge: {
      args: { node: "Integer", into: "Integer" },
      access: "write",
      doc: "Makes two devices one: node becomes part of into, and its id answers for that. Answers who stays.",
      async call(args) {
        const id = integerOf(args, "node", "Cannot merge node");
        const kept = nodes.merge(id, integerOf(args, "into", `Cannot merge node ${id}`), nodes.moment);
        await options.changed?.(kept);
        return { node: kept };
      },
    },
    split: {
      args: { node: "Integer" },
      access: "write",
      doc: "Undoes a merge: the id becomes a node again with what it brought. Answers whose part it was.",
      async call(args) {
        const id = integerOf(args, "node", "Cannot split node");
        const from = nodes.split(id, nodes.moment);
        await options.changed?.(id);
        await options.changed?.(from);
        return { node: id, from };
      },
    },
    forget: {
      args: { node: "Integer" },
      access: "write",
      doc: "Removes a node that nothing pins; if it is still there, it comes back under another id.",
      async call(args) {
        const id = integerOf(args, "node", "Cannot forget node");
        nodes.forget(id, nodes.moment);
        await options.changed?.(id);
        return undefined;
      },
    },
    series: {
      args: { node: "Integer" },
      access: "read",
      doc: "Bytes in and out of a device in the last 24 hours, by quarter hours, and what passed since midnight.",
      call(args) {
        const id = integerOf(args, "node", "Cannot get series of node");
        const series = nodes.series(id);
        if (!series) throw new Fault("not-found", `Cannot get series of node ${id}: there is no such node`);
        return series;
      },
    },
  };
}

function list(nodes: Nodes, args: Arguments): JsonObject {
  const after = args.after === undefined ? 0 : integerOf(args, "after", "Cannot list nodes");
  const limit = args.limit === undefined ? undefined : integerOf(args, "limit", "Cannot list nodes");
  if (limit !== undefined && limit < 0) throw new Fault("invalid", "Cannot list nodes: limit is negative");
  const kinds = kindsOf(args);
  const listed: JsonObject[] = [];
  let room = maxAnswerBytes;
  for (const id of nodes.ids()) {
    if (id <= after) continue;
    if (listed.length === limit) break;
    const summary = nodes.summary(id)!;
    if (kinds && !kinds.includes(summary.kind as Kind)) continue;
    room -= answerBytes(summary);
    if (room < 0) return { nodes: listed, more: true };
    listed.push(summary);
  }
  return { nodes: listed };
}

/** The kinds that are asked for; undefined: all. */
function kindsOf({ kind }: Arguments): readonly Kind[] | undefined {
  if (kind === undefined) return undefined;
  if (kind === "ours") return ["device", "local"];
  const known = kindNames.find((each) => each === kind);
  if (!known) throw new Fault("invalid", `Cannot list nodes: kind ${JSON.stringify(kind)} is none`);
  return [known];
}

function integerOf(args: Arguments, name: string, what: string): number {
  const value = args[name];
  if (typeof value !== "number" || !Number.isSafeInteger(value)) {
    throw new Fault("invalid", `${what}: ${name} must be an integer`);
  }
  return value;
}
