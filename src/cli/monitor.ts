/** Messages on the bus as `monitor` prints them, one line each. */

import {
  type Attributes,
  BlobType,
  decodeAttributes,
  type Field,
  type Received,
  sightingOf,
} from "../ubus/ubus.ts";
import { formatFields, readFields } from "./print.ts";
import type { Flags } from "./verb.ts";

/** By type number. */
const typeNames = [
  "hello",
  "status",
  "data",
  "ping",
  "lookup",
  "invoke",
  "add_object",
  "remove_object",
  "subscribe",
  "unsubscribe",
  "notify",
];

/** Attributes that are shown, in their order, with the names they are shown by. */
const shown: readonly (readonly [
  string,
  (attributes: Attributes) => number | string | boolean | Uint8Array | undefined,
])[] = [
  ["status", (each) => each.status],
  ["objpath", (each) => each.path],
  ["objid", (each) => each.objectId],
  ["method", (each) => each.method],
  ["objtype", (each) => each.objectType],
  ["signature", (each) => each.signature],
  ["data", (each) => each.data],
  ["active", (each) => each.active],
  ["no_reply", (each) => each.noReply],
  ["user", (each) => each.user],
  ["group", (each) => each.group],
];

/** @throws SyntaxError for a name that is no type of message. */
export function checkTypes(types: readonly string[]): void {
  for (const type of types) {
    if (!typeNames.includes(type)) throw new SyntaxError(`-m wants a type of message, not "${type}"`);
  }
}

/** The line for a message, with its line end; undefined if it was not asked for. */
export function formatSighting(
  message: Received,
  flags: Pick<Flags, "types" | "direction">,
): string | undefined {
  const sighting = sightingOf(message);
  if (!sighting) return "Invalid monitor msg\n";
  const { client, peer, type, send, data } = sighting;
  const name = typeNames[type] ?? String(type | 0);
  if (flags.types.length > 0 && type < 32 && !flags.types.includes(name)) return undefined;
  if (flags.direction !== undefined && flags.direction !== (send ? "t" : "r")) return undefined;
  const arrow = send ? "->" : "<-";
  const attributes = decodeAttributes(data, 0);
  const fields = shown.flatMap(([label, of]) => fieldOf(label, of(attributes)));
  return `${arrow} ${hex(client)} #${hex(peer)} ${name.padStart(14)}: ${formatFields(fields)}\n`;
}

function fieldOf(name: string, value: number | string | boolean | Uint8Array | undefined): Field[] {
  switch (typeof value) {
    case "undefined":
      return [];
    case "number":
      return [{ name, type: BlobType.Int32, value: value | 0 }];
    case "boolean":
      return [{ name, type: BlobType.Int8, value: value ? 1 : 0 }];
    case "string":
      return [{ name, type: BlobType.String, value }];
    default:
      return [{ name, type: BlobType.Table, value: readFields(value) }];
  }
}

function hex(id: number): string {
  return id.toString(16).padStart(8, "0");
}
