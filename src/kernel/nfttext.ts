/**
 * nft's language: tables as text for `nft -f`, changes between two tables as one transaction, and what
 * `nft -j list table` prints read back. Pure.
 */

import { type Address, parseAddress, parseMac } from "../lib/address.ts";
import { isObject } from "../lib/json.ts";
import type { NftChain, NftRule, NftSet, NftTable } from "./nftrules.ts";

/** Before fw4's own chains. nft prints it as a number: 0 is filter in table inet, -200 in table bridge. */
const priority = "filter - 5";
const priorities = new Map([
  ["inet", -5],
  ["bridge", -205],
]);
const perLine = 8;

/**
 * The whole table, in place of whatever is there under its name, in one transaction; loading it twice is loading
 * it once. @param name family and name, `inet gatehouse_flows`.
 */
export function renderTable(name: string, table: NftTable): string {
  const lines = [...renderRemoval(name), `table ${name} {`];
  for (const [set, { type, map, elements }] of table.sets) {
    lines.push(`\t${map ? "map" : "set"} ${set} {`, `\t\ttype ${type}${map ? " : verdict" : ""}`);
    if (elements.size > 0) lines.push("\t\telements = {", ...renderElements(elements, "\t\t\t"), "\t\t}");
    lines.push("\t}");
  }
  for (const [chain, { hook, rules }] of inOrder(table.chains)) {
    lines.push(`\tchain ${chain} {`);
    if (hook) lines.push(`\t\t${renderHook(hook)}`);
    lines.push(...rules.map((rule) => `\t\t${renderRule(rule)}`), "\t}");
  }
  return `${[...lines, "}"].join("\n")}\n`;
}

/** Removes a table whether it is there or not: older nft has no `destroy`. */
export function renderRemoval(name: string): string[] {
  return [`table ${name}`, `delete table ${name}`];
}

/** What turns one table into the other, as one transaction; "" if nothing does. */
export function renderChange(name: string, from: NftTable | undefined, to: NftTable | undefined): string {
  if (!to) return from ? `delete table ${name}\n` : "";
  if (!from || !akin(from, to)) return renderTable(name, to);
  const lines: string[] = [];
  const add = (verb: string, set: string, elements: ReadonlyMap<string, string>) => {
    if (elements.size > 0)
      lines.push(`${verb} element ${name} ${set} {`, ...renderElements(elements, "\t"), "}");
  };
  // First all that others refer to, then who refers, then what nobody refers to any more.
  for (const [set, { type, map }] of to.sets) {
    if (!from.sets.has(set)) {
      lines.push(`add ${map ? "map" : "set"} ${name} ${set} { type ${type}${map ? " : verdict" : ""}; }`);
    }
  }
  for (const [chain, { hook }] of to.chains) {
    if (!from.chains.has(chain)) {
      lines.push(`add chain ${name} ${chain}${hook ? ` { ${renderHook(hook)} }` : ""}`);
    }
  }
  for (const [chain, { rules }] of to.chains) {
    const present = from.chains.get(chain)?.rules ?? [];
    if (sameRules(present, rules)) continue;
    if (present.length > 0) lines.push(`flush chain ${name} ${chain}`);
    for (const rule of rules) lines.push(`add rule ${name} ${chain} ${renderRule(rule)}`);
  }
  for (const [chain, { rules }] of from.chains) {
    if (!to.chains.has(chain) && rules.length > 0) lines.push(`flush chain ${name} ${chain}`);
  }
  for (const [set, { map, elements }] of from.sets) {
    const next = to.sets.get(set)?.elements ?? new Map<string, string>();
    // A set that goes takes its elements along; a map's are taken out, for older kernels keep their chains busy.
    if (map || to.sets.has(set)) add("delete", set, keyed(lacking(elements, next)));
  }
  for (const [set, { elements }] of to.sets) {
    add("add", set, lacking(elements, from.sets.get(set)?.elements ?? new Map<string, string>()));
  }
  for (const chain of from.chains.keys()) {
    if (!to.chains.has(chain)) lines.push(`delete chain ${name} ${chain}`);
  }
  for (const [set, { map }] of from.sets) {
    if (!to.sets.has(set)) lines.push(`delete ${map ? "map" : "set"} ${name} ${set}`);
  }
  return lines.length > 0 ? `${lines.join("\n")}\n` : "";
}

/** How two tables differ, for the log: at most a few words per set and chain. */
export function differences(from: NftTable | undefined, to: NftTable | undefined): string[] {
  if (!from || !to) return from ? ["a table too many"] : to ? ["the table was gone"] : [];
  const said: string[] = [];
  for (const [kind, here, there] of [
    ["set", from.sets, to.sets],
    ["chain", from.chains, to.chains],
  ] as const) {
    for (const name of there.keys()) if (!here.has(name)) said.push(`${kind} ${name} was gone`);
    for (const name of here.keys()) if (!there.has(name)) said.push(`${kind} ${name} was not ours`);
  }
  for (const [name, { elements }] of to.sets) {
    const present = from.sets.get(name)?.elements;
    if (!present) continue;
    const [gone, more] = [lacking(elements, present).size, lacking(present, elements).size];
    if (gone > 0) said.push(`${gone} elements of ${name} were gone`);
    if (more > 0) said.push(`${more} elements of ${name} were not ours`);
  }
  for (const [name, { rules }] of to.chains) {
    const present = from.chains.get(name);
    if (present && !sameRules(present.rules, rules)) said.push(`rules of ${name} were changed`);
  }
  return said;
}

/**
 * Reads what `nft -j list table` printed.
 *
 * @returns the table, its rules with comments only; undefined if it is not made the way our tables are, so that
 *   only replacing it helps.
 * @throws SyntaxError if it is not nft's JSON.
 */
export function parseTable(text: string): NftTable | undefined {
  const root: unknown = JSON.parse(text);
  const items = isObject(root) && Array.isArray(root.nftables) ? (root.nftables as unknown[]) : undefined;
  if (!items) throw new SyntaxError("Cannot read nft's list: it has no objects");
  const sets = new Map<string, NftSet>();
  const chains = new Map<string, { hook?: "forward" | "input" | "output"; rules: NftRule[] }>();
  for (const item of items) {
    if (!isObject(item)) continue;
    const { set, map, chain, rule } = item;
    if (isObject(set) || isObject(map)) {
      const object = (isObject(set) ? set : map) as { readonly [name: string]: unknown };
      const read = readSet(object);
      if (!read) return undefined;
      sets.set(String(object.name), read);
    } else if (isObject(chain)) {
      const hook = readHook(chain);
      if (hook === false) return undefined;
      chains.set(String(chain.name), { ...(hook ? { hook } : {}), rules: [] });
    } else if (isObject(rule)) {
      chains.get(String(rule.chain))?.rules.push({ text: "", comment: String(rule.comment ?? "") });
    } else if (!isObject(item.table) && !isObject(item.metainfo)) {
      return undefined;
    }
  }
  return { sets, chains };
}

function readHook(chain: {
  readonly [name: string]: unknown;
}): "forward" | "input" | "output" | undefined | false {
  const { hook, type, prio, policy, family } = chain;
  if (hook === undefined) return undefined;
  if (hook !== "forward" && hook !== "input" && hook !== "output") return false;
  const ours = type === "filter" && policy === "accept" && prio === priorities.get(String(family));
  return ours ? hook : false;
}

function readSet(object: { readonly [name: string]: unknown }): NftSet | undefined {
  const { type, map, flags, elem } = object;
  if ((map !== undefined && map !== "verdict") || flags !== undefined) return undefined;
  const elements = new Map<string, string>();
  for (const item of Array.isArray(elem) ? (elem as unknown[]) : []) {
    const [key, verdict] = map ? (Array.isArray(item) ? item : []) : [item, ""];
    const [name, text] = [readKey(key), map ? readVerdict(verdict) : ""];
    if (name === undefined || text === undefined) return undefined;
    elements.set(name, text);
  }
  return {
    type: Array.isArray(type) ? type.join(" . ") : String(type),
    map: map !== undefined,
    elements,
  };
}

function readKey(key: unknown): string | undefined {
  if (typeof key === "string") return (parseAddress(key) as Address | undefined) ?? parseMac(key);
  if (!isObject(key) || !Array.isArray(key.concat)) return undefined;
  const parts = key.concat.map(readKey);
  return parts.includes(undefined) ? undefined : parts.join(" . ");
}

function readVerdict(verdict: unknown): string | undefined {
  if (!isObject(verdict)) return undefined;
  for (const verb of ["jump", "goto"]) {
    const to = verdict[verb];
    if (isObject(to)) return `${verb} ${String(to.target)}`;
  }
  return undefined;
}

/** Whether one can become the other by pieces: what is in both is of the same kind. */
function akin(from: NftTable, to: NftTable): boolean {
  for (const [name, set] of to.sets) {
    const present = from.sets.get(name);
    if (present && (present.type !== set.type || present.map !== set.map)) return false;
  }
  for (const [name, chain] of to.chains) {
    const present = from.chains.get(name);
    if (present && present.hook !== chain.hook) return false;
  }
  return true;
}

function sameRules(left: readonly NftRule[], right: readonly NftRule[]): boolean {
  return left.length === right.length && left.every((rule, at) => rule.comment === right[at]!.comment);
}

/** What is in the first and not, or otherwise, in the second. */
function lacking(
  first: ReadonlyMap<string, string>,
  second: ReadonlyMap<string, string>,
): Map<string, string> {
  const left = new Map<string, string>();
  for (const [name, verdict] of first) if (second.get(name) !== verdict) left.set(name, verdict);
  return left;
}

function keyed(elements: ReadonlyMap<string, string>): Map<string, string> {
  return new Map([...elements.keys()].map((name) => [name, ""]));
}

function renderElements(elements: ReadonlyMap<string, string>, indent: string): string[] {
  const items = [...elements].map(([name, verdict]) => (verdict ? `${name} : ${verdict}` : name));
  const lines: string[] = [];
  for (let at = 0; at < items.length; at += perLine) {
    lines.push(
      `${indent}${items.slice(at, at + perLine).join(", ")}${at + perLine < items.length ? "," : ""}`,
    );
  }
  return lines;
}

function renderRule({ text, comment }: NftRule): string {
  return `${text} comment "${comment}"`;
}

function renderHook(hook: string): string {
  return `type filter hook ${hook} priority ${priority}; policy accept;`;
}

/** Chains to jump to before those that jump, for a reader; nft does not mind. */
function inOrder(chains: ReadonlyMap<string, NftChain>): [string, NftChain][] {
  const rank = (name: string, { hook }: NftChain) =>
    hook ? 0 : name.endsWith("bound") ? 1 : name === "end" ? 3 : 2;
  return [...chains].sort(([a, one], [b, other]) => rank(a, one) - rank(b, other));
}
