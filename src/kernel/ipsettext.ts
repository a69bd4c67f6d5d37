/**
 * The languages of `ipset restore` and `iptables-restore --noflush`: sets and chains as text, changes as text in
 * an order that never opens anything in between, and what `ipset save` and `iptables-save` print read back. Pure.
 */

import { type Family, parseAddress } from "../lib/address.ts";
import { type Entrance, entrances, type XtRule, type XtRules, type XtSet } from "./ipsetrules.ts";

/** What a family's filter table holds of one owner. */
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

export const nothing: XtPresent = { chains: new Map(), jumps: new Map() };

/** Entries are few or some ten thousand; the kernel's limit is only there to stop accidents. */
const setOptions = "hashsize 64 maxelem 1048576";

/** Creates what is new and adds entries: both can only be missing, never be wrong, while old rules are in force. */
export function renderAdditions(from: ReadonlyMap<string, XtSet>, to: ReadonlyMap<string, XtSet>): string {
  let text = "";
  for (const [name, { family }] of to) {
    if (!from.has(name))
      text += `create ${name} hash:ip family ${family === 4 ? "inet" : "inet6"} ${setOptions}\n`;
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

/** One transaction of a family's filter table; "" if nothing is to be changed. */
export function renderRules(
  prefix: string,
  from: XtPresent,
  to: ReadonlyMap<string, readonly XtRule[]>,
): string {
  const gone = [...from.chains.keys()].filter((chain) => !to.has(chain));
  const changed = [...to].filter(([chain, rules]) => !sameRules(from.chains.get(chain), rules));
  const jumps: string[] = [];
  for (const [entrance, suffix] of Object.entries(entrances) as [Entrance, string][]) {
    const chain = `${prefix}-${suffix}`;
    const { count, first } = from.jumps.get(entrance) ?? { count: 0, first: false };
    if (count === (to.has(chain) ? 1 : 0) && (count === 0 || first)) continue;
    for (let left = count; left > 0; left--) jumps.push(`-D ${entrance} -j ${chain}`);
    if (to.has(chain)) jumps.push(`-I ${entrance} -j ${chain}`);
  }
  if (gone.length + changed.length + jumps.length === 0) return "";
  // A chain that is declared is emptied, in the same transaction in which it is filled again.
  const lines = [
    "*filter",
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
  for (const [name, { elements }] of to) {
    const present = from.get(name)?.elements;
    if (!present) {
      said.push(`set ${name} was gone`);
      continue;
    }
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
  for (const [entrance, suffix] of Object.entries(entrances) as [Entrance, string][]) {
    const wanted = to.has(`${prefix}-${suffix}`) ? 1 : 0;
    const { count, first } = from.jumps.get(entrance) ?? { count: 0, first: false };
    if (count !== wanted) said.push(`${entrance} had ${count} jumps to us`);
    else if (count === 1 && !first) said.push(`${entrance} had our jump below other rules`);
  }
  return said;
}

/** Reads an owner's sets out of what `ipset save` printed; sets of others are passed over. */
export function parseSets(text: string, prefix: string): Map<string, XtSet> {
  const sets = new Map<string, { family: Family; elements: Set<string> }>();
  for (const line of lines(text)) {
    const create = /^create (\S+) hash:ip family (inet6?) /.exec(line);
    if (create) {
      if (create[1]!.startsWith(prefix))
        sets.set(create[1]!, { family: create[2] === "inet" ? 4 : 6, elements: new Set() });
    } else if (line.startsWith(`add ${prefix}`)) {
      const [, name, element] = line.split(" ") as [string, string, string];
      sets.get(name)?.elements.add(parseAddress(element) ?? element);
    }
  }
  return sets;
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

/** Reads an owner's chains, and the way into them, out of what `iptables-save -t filter` printed. */
export function parseRules(text: string, prefix: string): XtPresent {
  const chains = new Map<string, XtRule[]>();
  const jumps = new Map<Entrance, JumpState>();
  /** Built-in chains in which a rule of somebody else has been seen. */
  const begun = new Set<string>();
  const isOurs = (chain: string) => chain === prefix || chain.startsWith(`${prefix}-`);
  for (const line of lines(text)) {
    const declared = /^:(\S+) -/.exec(line);
    if (declared) {
      if (isOurs(declared[1]!)) chains.set(declared[1]!, []);
      continue;
    }
    const rule = /^-A (\S+) (.*)$/.exec(line);
    if (!rule) continue;
    const [, chain, rest] = rule as unknown as [string, string, string];
    if (chains.has(chain)) {
      chains.get(chain)!.push({ text: rest, comment: / --comment "([^"]*)"/.exec(line)?.[1] ?? "" });
    } else if (Object.hasOwn(entrances, chain)) {
      const entrance = chain as Entrance;
      const target = /^-j (gatehouse-\S+)$/.exec(rest)?.[1];
      if (target === undefined) begun.add(chain);
      else if (target === `${prefix}-${entrances[entrance]}`) {
        const { count, first } = jumps.get(entrance) ?? { count: 0, first: !begun.has(chain) };
        jumps.set(entrance, { count: count + 1, first });
      }
    }
  }
  return { chains, jumps };
}

/** The jumps that chains need, each once and first. */
export function placedJumps(prefix: string, chains: ReadonlyMap<string, unknown>): Map<Entrance, JumpState> {
  const jumps = new Map<Entrance, JumpState>();
  for (const [entrance, suffix] of Object.entries(entrances) as [Entrance, string][]) {
    if (chains.has(`${prefix}-${suffix}`)) jumps.set(entrance, { count: 1, first: true });
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
  const target = text.search(/-j \S+/);
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
