/**
 * How mappings lie on disk: one line of text each, and one object for each source that is kept.
 *
 *     T 10.243.27.121 203.0.113.98 b-5271-5f7d 14400 n     a remote host until a second of the boot; asked for by name
 *     O 192.168.97.12 d-223-f68e-e5a3-ea19 14400           a local host
 *     t …, o …                                             the same, at rest until then
 *     {"source": "user", "records": ["O 192.168.97.11 2711", "T 10.240.2.1 203.0.113.98 12"]}
 *
 * Lines come with the id of the boot in which they were written. In the same boot the seconds count; in another one no
 * clock can be trusted (routers boot with a wrong one), and every time begins anew: a mapping may last longer than was
 * said, never shorter. Of lines that contradict each other the last counts.
 */

import { type Address, parseAddress } from "../lib/address.ts";
import { isObject, type Json, type JsonObject } from "../lib/json.ts";
import { formatReference, parseReference } from "./reference.ts";
import { maxOwnerLength, maxSourceRecords, type SourceState, type StaticRecord } from "./sources.ts";

export const savedVersion = 1;

export interface SavedMapping {
  readonly kind: "ours" | "theirs";
  readonly address: Address;
  readonly context: Address | undefined;
  readonly reference: bigint;
  /** At rest: kept for its host, and in nobody's way. */
  readonly rests: boolean;
  /** Monotonic, of the boot of the lines. */
  readonly untilAt: number;
  /** Somebody of ours asked for it by name, not only the other side by packets. */
  readonly byName: boolean;
}

/** What was written at a time. */
export interface SavedLines {
  readonly boot: string;
  readonly lines: readonly (SavedMapping | SourceState)[];
}

const maxLines = 1 << 20;
const maxLineLength = 160;

export function renderMapping(mapping: SavedMapping): string {
  const { kind, address, context, reference, rests, untilAt, byName } = mapping;
  const letter = kind === "ours" ? "O" : "T";
  const until = Math.ceil(untilAt / 1_000);
  const parts = [rests ? letter.toLowerCase() : letter, address];
  if (kind === "theirs") parts.push(context!);
  parts.push(formatReference(reference), String(until));
  if (byName) parts.push("n");
  return parts.join(" ");
}

export function renderSource({ owner, records, hash }: SourceState): JsonObject {
  return {
    source: owner,
    ...(hash !== undefined && { hash: hash.toString(16) }),
    records: records.map(({ kind, address, context, reference }) =>
      [kind === "ours" ? "O" : "T", address, ...(context === undefined ? [] : [context])]
        .concat(formatReference(reference))
        .join(" "),
    ),
  };
}

export function renderLines(boot: string, lines: readonly Json[]): JsonObject {
  return { boot, lines };
}

/** Reads what `renderLines` returned. @throws SyntaxError for anything else. */
export function parseLines(state: unknown): SavedLines {
  if (!isObject(state)) return fail("it is no object");
  const { boot, lines } = state;
  if (typeof boot !== "string" || boot.length > 64) return fail("boot is wrong");
  if (!Array.isArray(lines) || lines.length > maxLines) return fail("lines are wrong");
  return { boot, lines: (lines as unknown[]).map(parseLine) };
}

function parseLine(line: unknown): SavedMapping | SourceState {
  if (typeof line === "string" && line.length <= maxLineLength) return parseMapping(line);
  return isObject(line) ? parseSource(line) : fail("a line is neither text nor source");
}

function parseMapping(line: string): SavedMapping {
  const parts = line.split(" ");
  const kind = kindOf(parts[0]!.toUpperCase(), line);
  const at = kind === "ours" ? 2 : 3;
  const byName = parts[at + 2] === "n";
  if (parts.length !== at + (byName ? 3 : 2) || !/^[0-9]{1,12}$/.test(parts[at + 1]!)) return failLine(line);
  return {
    ...{ kind, byName, rests: parts[0] !== parts[0]!.toUpperCase() },
    address: parseAddress(parts[1]!) ?? failLine(line),
    context: kind === "ours" ? undefined : (parseAddress(parts[2]!) ?? failLine(line)),
    reference: parseReference(parts[at]!),
    untilAt: Number(parts[at + 1]) * 1_000,
  };
}

function parseSource({ source: owner, hash, records }: { readonly [name: string]: unknown }): SourceState {
  if (typeof owner !== "string" || owner.length > maxOwnerLength)
    return fail("the name of a source is wrong");
  if (!Array.isArray(records) || records.length > maxSourceRecords) return fail(`records of ${owner}`);
  const isHash = typeof hash === "string" && /^[0-9a-f]{1,16}$/.test(hash);
  if (hash !== undefined && !isHash) return fail(`hash of ${owner}`);
  return {
    owner,
    records: (records as unknown[]).map(parseStatic),
    hash: hash === undefined ? undefined : BigInt(`0x${hash}`),
  };
}

function parseStatic(line: unknown): StaticRecord {
  if (typeof line !== "string" || line.length > maxLineLength) return fail("a record of a source");
  const parts = line.split(" ");
  const kind = kindOf(parts[0]!, line);
  if (parts.length < 3 || parts.length > 4 || (kind === "theirs" && parts.length !== 4))
    return failLine(line);
  return {
    kind,
    address: parseAddress(parts[1]!) ?? failLine(line),
    context: parts.length === 3 ? undefined : (parseAddress(parts[2]!) ?? failLine(line)),
    reference: parseReference(parts.at(-1)!),
  };
}

function kindOf(letter: string, line: string): "ours" | "theirs" {
  if (letter === "O") return "ours";
  return letter === "T" ? "theirs" : failLine(line);
}

function failLine(line: string): never {
  return fail(`${JSON.stringify(line)} is no mapping`);
}

function fail(what: string): never {
  throw new SyntaxError(`Cannot read mappings: ${what}`);
}
