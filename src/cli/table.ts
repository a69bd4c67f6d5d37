/**
 * Nodes and flows as two tables for people, and mappings of IPREF as one.
 *
 * Keeps nothing. Takes objects as the bus shows them; of what is not there, "-" is shown.
 */

import type { Json, JsonObject } from "../lib/json.ts";

const nodeTitles = ["NODE", "KIND", "MAC", "IN", "OUT", "NAMES AND ADDRESSES"];
const flowTitles = ["FROM", "TO", "PROTOCOL", "PORT", "PACKETS", "BYTES"];
const mappingTitles = ["KIND", "ADDRESS", "GATEWAY", "REFERENCE", "STATE", "SECONDS", "SOURCE"];
/** Of the commonest protocols; others are shown by number. */
const protocolNames: ReadonlyMap<Json | undefined, string> = new Map([
  [1, "icmp"],
  [6, "tcp"],
  [17, "udp"],
  [58, "icmp6"],
]);

export function formatReview({
  nodes,
  flows,
}: {
  readonly nodes: readonly JsonObject[];
  readonly flows: readonly JsonObject[];
}): string {
  const nodeRows = nodes.map((node) => [
    text(node.id),
    text(node.kind),
    text(node.mac),
    text(node.bytes_in),
    text(node.bytes_out),
    [node.name, ...list(node.domains), ...list(node.ips)].filter((each) => each !== undefined).join(" "),
  ]);
  const flowRows = flows.map((flow) => [
    text(flow.from),
    text(flow.to),
    protocolNames.get(flow.protocol) ?? text(flow.protocol),
    text(flow.to_port),
    text(flow.packets),
    text(flow.bytes),
  ]);
  return `${formatTable([nodeTitles, ...nodeRows])}\n${formatTable([flowTitles, ...flowRows])}`;
}

export function formatMappings(mappings: readonly JsonObject[]): string {
  const rows = mappings.map((each) => [
    text(each.kind),
    text(each.address),
    text(each.context),
    text(each.reference),
    text(each.state),
    text(each.expires_in ?? each.kept_for),
    text(each.source),
  ]);
  return formatTable([mappingTitles, ...rows]);
}

/** Columns as wide as their widest cell; the last is not padded. */
function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
  return `${lines.join("\n")}\n`;
}

function text(value: Json | undefined): string {
  return value === undefined ? "-" : String(value);
}

function list(value: Json | undefined): readonly Json[] {
  return Array.isArray(value) ? value : [];
}
