/**
 * The languages of `ipset restore` and `iptables-restore --noflush`: sets and chains as text, changes as text in
 * an order that never opens anything in between, and what `ipset save` and `iptables-save` print read back. Pure.
 */

import { type Family, parseAddress, parsePrefix } from "../lib/address.ts";
import {
  type Entrance,
  entrances,
  tableOf,
  type XtRule,
  type XtRules,
  type XtSet,
  type XtTable,
  xtTables,
} from "./ipsetrules.ts";

/** What a family's tables hold of one owner. */
export interface XtPresent {
  /** Chain → its rules; the text of one that was read is as iptables prints it, with comment. */
  readonly chains: ReadonlyMap<string, readonly XtRule[]>;
  /** Jumps into our chains from built-in ones, as they stand. */
  readonly jumps: ReadonlyMap<Entrance, JumpState>;
}

export interface JumpState {
  /** How often it is there. */
  readonly count: number;
  /** Whether nothing but jumps to chains of gatehouse is above it. */
  readonly first: boolean;
}

/** Chains at whose end a packet is counted and dropped. */
const dropping = ["end", "stop"];

export const nothing: XtPresent = { chains: new Map(), jumps: new Map() };

/** Entries are few or some ten thousand; the kernel's limit is only there to stop accidents. */
const setOptions = "hashsize 64 maxelem 1048576";

/** Creates what is new and adds entries: both can only be missing, never be wrong, while old rules are in force. */
export function renderAdditions(from: ReadonlyMap<string, XtSet>, to: ReadonlyMap<string, XtSet>): string {
  let text = "";
  for (const [name, { type, family }] of to) {
    if (!from.has(name))
      text += `create ${name} ${type} family ${family === 4 ? "inet" : "inet6"} ${setOptions}\n`;
  }
  for (const [name, { elements }] of to) {
    const present = from.get(name)?.elements;
    for (const element of elements) if (!present?.has(element)) text += `add ${name} ${element}\n`;
  }
  return text;
}

/** Takes out entries that no longer count. */
export function renderDeletions(from: ReadonlyMap<string, XtSet>, to: ReadonlyMap<string, XtSet>): string {
  let text = "";
  for (const [name, { elements }] of from) {
    const wanted = to.get(name)?.elements;
    if (!wanted) continue;
    for (const element of elements) if (!wanted.has(element)) text += `del ${name} ${element}\n`;
  }
  return text;
}

/** Destroys sets that no rule needs any more. */
export function renderDestruction(
  from: ReadonlyMap<string, unknown>,
  to: ReadonlyMap<string, unknown>,
): string {
  let text = "";
  for (const name of from.keys()) if (!to.has(name)) text += `destroy ${name}\n`;
  return text;
}

/** One transaction of each of a family's tables where something is to be changed; "" if nothing is. */
export function renderRules(
  prefix: string,
  from: XtPresent,
  to: ReadonlyMap<string, readonly XtRule[]>,
): string {
  return xtTables.map((table) => renderTableRules(prefix, { table, from, to })).join("");
}

function renderTableRules(
  prefix: string,
  { table, from, to }: { table: XtTable; from: XtPresent; to: ReadonlyMap<string, readonly XtRule[]> },
): string {
  const isHere = (chain: string) => tableOf(chain) === table;
  const gone = [...from.chains.keys()].filter((chain) => isHere(chain) && !to.has(chain));
  const changed = [...to].filter(
    ([chain, rules]) => isHere(chain) && !sameRules(from.chains.get(chain), rules),
  );
  const jumps: string[] = [];
  for (const entrance of entrances) {
    if (entrance.table !== table) continue;
    const chain = `${prefix}-${entrance.suffix}`;
    const { count, first } = from.jumps.get(entrance) ?? { count: 0, first: false };
    if (count === (to.has(chain) ? 1 : 0) && (count === 0 || first)) continue;
    for (let left = count; left > 0; left--) jumps.push(`-D ${entrance.chain} -j ${chain}`);
    if (to.has(chain)) jumps.push(`-I ${entrance.chain} -j ${chain}`);
  }
  if (gone.length + changed.length + jumps.length === 0) return "";
  // A chain that is declared is emptied, in the same transaction in which it is filled again.
  const lines = [
    `*${table}`,
    ...changed.map(([chain]) => `:${chain} - [0:0]`),
    ...gone.map((chain) => `:${chain} - [0:0]`),
  ];
  lines.push(...jumps);
  for (const [chain, rules] of changed) lines.push(...rules.map((rule) => renderRule(chain, rule)));
  lines.push(...gone.map((chain) => `-X ${chain}`), "COMMIT");
  return `${lines.join("\n")}\n`;
}

/** How two states of sets and chains differ, for the log. */
export function setDifferences(from: ReadonlyMap<string, XtSet>, to: ReadonlyMap<string, XtSet>): string[] {
  const said: string[] = [];
  for (const [name, { type, elements }] of to) {
    const present = from.get(name)?.elements;
    if (!present) {
      said.push(`set ${name} was gone`);
      continue;
    }
    if (from.get(name)!.type !== type) said.push(`set ${name} was made otherwise`);
    const gone = [...elements].filter((each) => !present.has(each)).length;
    const more = [...present].filter((each) => !elements.has(each)).length;
    if (gone > 0) said.push(`${gone} entries of ${name} were gone`);
    if (more > 0) said.push(`${more} entries of ${name} were not ours`);
  }
  for (const name of from.keys()) if (!to.has(name)) said.push(`set ${name} was not ours`);
  return said;
}

export function ruleDifferences(
  prefix: string,
  from: XtPresent,
  to: ReadonlyMap<string, readonly XtRule[]>,
): string[] {
  const said: string[] = [];
  for (const [chain, rules] of to) {
    if (!sameRules(from.chains.get(chain), rules)) said.push(`rules of ${chain} were changed`);
  }
  for (const chain of from.chains.keys()) if (!to.has(chain)) said.push(`chain ${chain} was not ours`);
  for (const entrance of entrances) {
    const wanted = to.has(`${prefix}-${entrance.suffix}`) ? 1 : 0;
    const { count, first } = from.jumps.get(entrance) ?? { count: 0, first: false };
    const name = entrance.table === "filter" ? entrance.chain : `${entrance.chain} of ${entrance.table}`;
    if (count !== wanted) said.push(`${name} had ${count} jumps to us`);
    else if (count === 1 && !first) said.push(`${name} had our jump below other rules`);
  }
  return said;
}

/** Reads an owner's sets out of what `ipset save` printed; sets of others are passed over. */
export function parseSets(text: string, prefix: string): Map<string, XtSet> {
  const sets = new Map<string, { type: XtSet["type"]; family: Family; elements: Set<string> }>();
  for (const line of lines(text)) {
    const create = /^create (\S+) (hash:ip|hash:net|hash:net,iface) family (inet6?) /.exec(line);
    if (create) {
      const [, name, type, family] = create as unknown as [string, string, XtSet["type"], string];
      if (name.startsWith(prefix))
        sets.set(name, { type, family: family === "inet" ? 4 : 6, elements: new Set() });
    } else if (line.startsWith(`add ${prefix}`)) {
      const [, name, element] = line.split(" ") as [string, string, string];
      sets.get(name)?.elements.add(canonical(element));
    }
  }
  return sets;
}

/** A net or an address, with or without a device after it. */
function canonical(element: string): string {
  const comma = element.indexOf(",");
  const net = comma < 0 ? element : element.slice(0, comma);
  const known = (net.includes("/") ? parsePrefix : parseAddress)(net) ?? net;
  return comma < 0 ? known : known + element.slice(comma);
}

/** Reads the number of entries of an owner's sets out of what `ipset list -t` printed; undefined where not told. */
export function parseCounts(text: string, prefix: string): Map<string, number | undefined> {
  const counts = new Map<string, number | undefined>();
  let name: string | undefined;
  for (const line of lines(text)) {
    if (line.startsWith("Name: ")) {
      name = line.startsWith(prefix, 6) ? line.slice(6) : undefined;
      if (name !== undefined) counts.set(name, undefined);
    } else if (name !== undefined && line.startsWith("Number of entries: ")) {
      counts.set(name, Number(line.slice(19)));
    }
  }
  return counts;
}

/** Reads an owner's chains, and the way into them, out of what `iptables-save` printed. */
export function parseRules(text: string, prefix: string): XtPresent {
  const chains = new Map<string, XtRule[]>();
  const jumps = new Map<Entrance, JumpState>();
  let table = "filter";
  /** Built-in chains of the table in which a rule of somebody else has been seen. */
  const begun = new Set<string>();
  const isOurs = (chain: string) =>
    (chain === prefix || chain.startsWith(`${prefix}-`)) && tableOf(chain) === table;
  for (const line of lines(text)) {
    if (line.startsWith("*")) {
      table = line.slice(1);
      begun.clear();
      continue;
    }
    const declared = /^:(\S+) -/.exec(line);
    if (declared) {
      if (isOurs(declared[1]!)) chains.set(declared[1]!, []);
      continue;
    }
    const rule = /^-A (\S+) (.*)$/.exec(line);
    if (!rule) continue;
    const [, chain, rest] = rule as unknown as [string, string, string];
    if (isOurs(chain)) {
      chains.get(chain)?.push({ text: rest, comment: / --comment "([^"]*)"/.exec(line)?.[1] ?? "" });
      continue;
    }
    const entrance = entrances.find((each) => each.table === table && each.chain === chain);
    if (!entrance) continue;
    const target = /^-j (gatehouse-\S+)$/.exec(rest)?.[1];
    if (target === undefined) begun.add(chain);
    else if (target === `${prefix}-${entrance.suffix}`) {
      const { count, first } = jumps.get(entrance) ?? { count: 0, first: !begun.has(chain) };
      jumps.set(entrance, { count: count + 1, first });
    }
  }
  return { chains, jumps };
}

/** Reads how many packets an owner's rules have dropped out of what `iptables-save -c` printed. */
export function parseDropped(text: string, prefix: string): bigint {
  const starts = dropping.map((suffix) => ` -A ${prefix}-${suffix} `);
  let dropped = 0n;
  for (const line of lines(text)) {
    const at = line.indexOf("]") + 1;
    if (!starts.some((start) => line.startsWith(start, at)) || !line.endsWith(" -j DROP")) continue;
    const packets = /^\[(\d+):\d+\]/.exec(line)?.[1];
    if (packets !== undefined) dropped += BigInt(packets);
  }
  return dropped;
}

/** Whether a text of rules sets the counters of what is dropped to nothing. */
export function resetsDropped(text: string, prefix: string): boolean {
  return dropping.some((suffix) => text.includes(`\n:${prefix}-${suffix} `));
}

/** Whether there is a rule that counts what is dropped. */
export function countsDropped({ chains }: XtPresent, prefix: string): boolean {
  return dropping.some((suffix) => (chains.get(`${prefix}-${suffix}`)?.length ?? 0) > 0);
}

/** The jumps that chains need, each once and first. */
export function placedJumps(prefix: string, chains: ReadonlyMap<string, unknown>): Map<Entrance, JumpState> {
  const jumps = new Map<Entrance, JumpState>();
  for (const entrance of entrances) {
    if (chains.has(`${prefix}-${entrance.suffix}`)) jumps.set(entrance, { count: 1, first: true });
  }
  return jumps;
}

/** Sets and both families' rules from nothing. The jumps are lines that the boot script leaves out if they stand. */
export function renderBoot(prefix: string, rules: XtRules): { sets: string; rules: Record<Family, string> } {
  return {
    sets: renderAdditions(new Map(), rules.sets),
    rules: {
      4: renderRules(prefix, nothing, rules.chains[4]),
      6: renderRules(prefix, nothing, rules.chains[6]),
    },
  };
}

function sameRules(present: readonly XtRule[] | undefined, rules: readonly XtRule[]): boolean {
  return present?.length === rules.length && rules.every((rule, at) => rule.comment === present[at]!.comment);
}

/** The comment comes last of the matches, where it costs nothing unless the others have matched. */
function renderRule(chain: string, { text, comment }: XtRule): string {
  if (text.includes("--comment")) return `-A ${chain} ${text}`;
  const target = text.search(/-[jg] \S+/);
  const matches = target < 0 ? `${text} ` : text.slice(0, target);
  return `-A ${chain} ${matches}-m comment --comment "${comment}"${target < 0 ? "" : ` ${text.slice(target)}`}`;
}

function* lines(text: string): Generator<string> {
  let at = 0;
  while (at < text.length) {
    const end = text.indexOf("\n", at);
    yield text.slice(at, end < 0 ? text.length : end);
    at = end < 0 ? text.length : end + 1;
  }
}
