/**
 * Mappings in a hosts file: comments that begin with "#=", which every other reader of the file skips.
 *
 *     192.168.97.11  nas      #= pub + 2711                       a local host, published under a reference
 *     10.240.2.98    parents  #= ext 203.0.113.98 + 11            an encoded address for a remote host
 *     192.168.97.12  printer  #= loc                              nothing
 *
 * A line is cut at each "#"; what stands between the first and the second counts, if it begins with "=". `public`,
 * `external` and `local` are the same in full; "pub REF" is short for "pub + REF". What is wrong is reported by line,
 * and the other lines count. Of a reference that is given to two hosts, and of an encoded address for two, the first
 * line holds and the other is reported; a host may have several.
 *
 * `HostsFile` keeps one file watched: each time it has changed, been replaced or gone, it is read as a whole after a
 * moment's quiet, and what it says replaces what it said. A file that is missing says nothing.
 */

import { type Address, type Family, familyOf, parseAddress } from "../lib/address.ts";
import { type Fault, messageOf } from "../lib/fault.ts";
import { parseReference } from "../lib/reference.ts";
import type { Cancel, Clock, Disk } from "../system/system.ts";
import type { StaticRecord } from "./sources.ts";
import { hostsOwner } from "./sources.ts";

export type HostsMistake =
  | "line-too-long"
  | "no-address"
  | "unknown-type"
  | "wrong-context"
  | "no-context"
  | "wrong-reference"
  | "no-reference"
  | "duplicate"
  | "too-many";

/** What is wrong with a line. */
export interface HostsReport {
  /** From 1 on. */
  readonly line: number;
  readonly mistake: HostsMistake;
  /** The words concerned, cut to a readable length. */
  readonly text: string;
}

export interface HostsContent {
  readonly records: readonly StaticRecord[];
  /** The first of them; `mistakes` counts all. */
  readonly reports: readonly HostsReport[];
  readonly mistakes: number;
}

export const hostsLimits = {
  bytes: 8 * 1024 * 1024,
  lineLength: 4_096,
  records: 65_536,
  reports: 100,
} as const;

/** How long a file has to be left alone before it is read: writers that are not atomic take a while. */
const quietMs = 500;
/** It is read after this in any case. */
const mostMs = 5_000;

/**
 * Reads the text of a hosts file. Never throws.
 *
 * @param tunnel the family that context addresses have to be of.
 */
export function parseHosts(text: string, tunnel: Family): HostsContent {
  const records: StaticRecord[] = [];
  const reports: HostsReport[] = [];
  let mistakes = 0;
  /** What a reference or an encoded address was given to. */
  const holders = new Map<string, string>();
  const lines = text.split("\n");
  for (let number = 1; number <= lines.length; number++) {
    const result = parseLine(lines[number - 1]!, tunnel);
    if (result === undefined) continue;
    const wrong = "mistake" in result ? result : misplaced(result, holders, records.length);
    if (wrong === "known") continue;
    if (wrong === undefined) {
      records.push(result as StaticRecord);
    } else {
      mistakes++;
      if (reports.length < hostsLimits.reports) reports.push({ line: number, ...wrong });
    }
  }
  return { records, reports, mistakes };
}

type Wrong = Omit<HostsReport, "line">;

/** @returns undefined for a line that says nothing of mappings. */
function parseLine(line: string, tunnel: Family): StaticRecord | Wrong | undefined {
  const hash = line.indexOf("#");
  if (hash < 0 || line[hash + 1] !== "=") return undefined;
  if (line.length > hostsLimits.lineLength) return mistake("line-too-long", line);
  const end = line.indexOf("#", hash + 1);
  const content = line.slice(hash + 2, end < 0 ? undefined : end).trim();
  const space = content.search(/\s/);
  const type = space < 0 ? content : content.slice(0, space);
  if (type === "loc" || type === "local") return undefined;
  const isOurs = type === "pub" || type === "public";
  if (!isOurs && type !== "ext" && type !== "external") return mistake("unknown-type", type);
  const first = line.slice(0, hash).trim().split(/\s/, 1)[0]!;
  const address = parseAddress(first);
  if (address === undefined) return mistake("no-address", first);
  return parseMapping({ isOurs, address, rest: space < 0 ? "" : content.slice(space), tunnel });
}

function parseMapping(line: {
  readonly isOurs: boolean;
  readonly address: Address;
  /** "[GW] [+ REF]" */
  readonly rest: string;
  readonly tunnel: Family;
}): StaticRecord | Wrong {
  const { isOurs, address, rest, tunnel } = line;
  const plus = rest.indexOf("+");
  let context = (plus < 0 ? rest : rest.slice(0, plus)).trim();
  let reference = plus < 0 ? "" : rest.slice(plus + 1).trim();
  // "pub REF"
  if (isOurs && plus < 0 && parseAddress(context) === undefined) [context, reference] = ["", context];
  if (reference === "") return mistake("no-reference", rest.trim());
  const parsed = numberOf(reference);
  if (parsed === undefined || parsed === 0n) return mistake("wrong-reference", reference);
  if (context === "") {
    if (!isOurs) return mistake("no-context", rest.trim());
    return { kind: "ours", address, context: undefined, reference: parsed };
  }
  const gateway = parseAddress(context);
  if (gateway === undefined || familyOf(gateway) !== tunnel) return mistake("wrong-context", context);
  return { kind: isOurs ? "ours" : "theirs", address, context: gateway, reference: parsed };
}

/** Why a record cannot stand beside those before; "known": it stands there already. */
function misplaced(
  { kind, address, context, reference }: StaticRecord,
  holders: Map<string, string>,
  count: number,
): Wrong | "known" | undefined {
  const [given, holder] =
    kind === "ours" ? [`reference ${reference}`, address] : [address, `${context} + ${reference}`];
  const before = holders.get(given);
  if (before === holder) return "known";
  if (before !== undefined) return mistake("duplicate", `${given}: ${before}`);
  if (count >= hostsLimits.records) return mistake("too-many", given);
  holders.set(given, holder);
  return undefined;
}

function numberOf(text: string): bigint | undefined {
  try {
    return parseReference(text);
  } catch {
    return undefined;
  }
}

function mistake(kind: HostsMistake, text: string): Wrong {
  return { mistake: kind, text: text.length > 80 ? `${text.slice(0, 80)}…` : text };
}

/** A sentence for the log. */
export function describeReport(path: string, { line, mistake: kind, text }: HostsReport): string {
  return `${path}, line ${line}: ${sentences[kind]} ${JSON.stringify(text)}; the line is left out`;
}

const sentences: Readonly<Record<HostsMistake, string>> = {
  "line-too-long": "the line is too long:",
  "no-address": "no address:",
  "unknown-type": "no type of mapping (pub, ext, loc):",
  "wrong-context": "no context address of the tunnel's family:",
  "no-context": "a remote host needs a context address:",
  "wrong-reference": "no reference:",
  "no-reference": "a reference is needed:",
  duplicate: "given before to another host:",
  "too-many": "too many mappings:",
};

export interface HostsFileOptions {
  readonly path: string;
  readonly tunnel: Family;
  /** Takes what the file says now. What it throws is told. */
  take(owner: string, records: readonly StaticRecord[]): Promise<unknown>;
  /** Told what is wrong with the lines, whenever the file was read. */
  onContent?(content: HostsContent): void;
  /** The file cannot be read or taken. */
  onFault?(message: string): void;
}

export class HostsFile {
  readonly #system: Clock & Disk;
  readonly #options: HostsFileOptions;
  #stopWatching: Cancel | undefined;
  #cancelRead: Cancel | undefined;
  #changedAt: number | undefined;
  #reading: Promise<void> | undefined;
  #closed = false;

  constructor(system: Clock & Disk, options: HostsFileOptions) {
    this.#system = system;
    this.#options = options;
  }

  /** Reads the file, and again whenever it has changed. Resolves after the first time. */
  async open(): Promise<void> {
    // Watched before it is read: a change in between is seen.
    this.#stopWatching = this.#system.watch(this.#options.path, () => this.#changed());
    this.#reading = this.#read();
    await this.#reading;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#stopWatching?.();
    this.#cancelRead?.();
    await this.#reading;
  }

  #changed(): void {
    if (this.#closed) return;
    const now = this.#system.now();
    this.#changedAt ??= now;
    this.#cancelRead?.();
    const delayMs = Math.min(quietMs, Math.max(0, this.#changedAt + mostMs - now));
    this.#cancelRead = this.#system.after(delayMs, () => {
      this.#cancelRead = undefined;
      this.#changedAt = undefined;
      this.#reading = (this.#reading ?? Promise.resolve()).then(() => this.#read());
    });
  }

  /** Never rejects. */
  async #read(): Promise<void> {
    if (this.#closed) return;
    const { path, tunnel, take, onContent, onFault } = this.#options;
    try {
      const bytes = await this.#system.read(path, hostsLimits.bytes);
      const content = parseHosts(bytes ? new TextDecoder().decode(bytes) : "", tunnel);
      onContent?.(content);
      if (!this.#closed) await take(`${hostsOwner}${path}`, content.records);
    } catch (thrown) {
      // What the file said before goes on.
      onFault?.(messageOf(thrown as Fault));
    }
  }
}
