/**
 * nft's language: tables as text for `nft -f`, changes between two tables as one transaction, and what
 * `nft -j list table` prints read back. Pure.
 */

import { type Address, parseAddress, parseMac, parsePrefix } from "../lib/address.ts";
import { isObject } from "../lib/json.ts";
import type { Hook, NftChain, NftRule, NftSet, NftTable } from "./nftrules.ts";

/** Before fw4's own chains. nft prints it as a number: 0 is filter in most tables, -200 in table bridge. */
const [priority, latePriority] = ["filter - 5", "filter - 4"];
const priorities = new Map([
  ["inet", -5],
  ["bridge", -205],
  ["netdev", -5],
]);
/** Chains of type nat: before fw4's, for the first that translates a flow is the one that does. */
const natPriorities = new Map<Hook, readonly [text: string, number: number]>([
  ["prerouting", ["dstnat - 5", -105]],
  ["postrouting", ["srcnat - 5", 95]],
]);
/** After all that translates destinations. */
const translated = ["dstnat + 10", -90] as const;
const hooks: readonly Hook[] = ["prerouting", "forward", "input", "output", "postrouting", "egress"];
const counter = "dropped";
const perLine = 8;

/**
 * The whole table, in place of whatever is there under its name, in one transaction; loading it twice is loading
 * it once. @param name family and name, `inet gatehouse_flows`.
 */
export function renderTable(name: string, table: NftTable): string {
  const lines = [...renderRemoval(name), `table ${name} {`];
  if (table.counted) lines.push(`\tcounter ${counter} {`, "\t}");
  for (const [set, kind] of table.sets) {
    const { map, interval, elements } = kind;
    lines.push(`\t${map ? "map" : "set"} ${set} {`, `\t\ttype ${renderType(kind)}`);
    if (interval) lines.push("\t\tflags interval");
    if (elements.size > 0) lines.push("\t\telements = {", ...renderElements(elements, "\t\t\t"), "\t\t}");
    lines.push("\t}");
  }
  for (const [chain, given] of inOrder(table.chains)) {
    const { hook, rules } = given;
    lines.push(`\tchain ${chain} {`);
    if (hook) lines.push(`\t\t${renderHook(given)}`);
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
  if (to.counted && !from.counted) lines.push(`add counter ${name} ${counter}`);
  for (const [set, kind] of to.sets) {
    if (!from.sets.has(set)) {
      const flags = kind.interval ? " flags interval;" : "";
      lines.push(`add ${kind.map ? "map" : "set"} ${name} ${set} { type ${renderType(kind)};${flags} }`);
    }
  }
  for (const [chain, given] of to.chains) {
    if (!from.chains.has(chain)) {
      lines.push(`add chain ${name} ${chain}${given.hook ? ` { ${renderHook(given)} }` : ""}`);
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
  if (to.counted && !from.counted) said.push(`counter ${counter} was gone`);
  for (const [kind, here, there] of [
    ["set", from.sets, to.sets],
    ["chain", from.chains, to.chains],
  ] as const) {
    for (const name of there.keys()) if (!here.has(name)) said.push(`${kind} ${name} was gone`);
    for (const name of here.keys()) if (!there.has(name)) said.push(`${kind} ${name} was not ours`);
  }
  for (const [name, set] of to.sets) {
    const other = from.sets.get(name);
    if (!other) continue;
    if (!sameKind(other, set)) said.push(`set ${name} was made otherwise`);
    const [{ elements }, present] = [set, other.elements];
    const [gone, more] = [lacking(elements, present).size, lacking(present, elements).size];
    if (gone > 0) said.push(`${gone} elements of ${name} were gone`);
    if (more > 0) said.push(`${more} elements of ${name} were not ours`);
  }
  for (const [name, { rules }] of to.chains) {
    const present = from.chains.get(name);
    if (present && !sameHook(present, to.chains.get(name)!)) said.push(`chain ${name} was made otherwise`);
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
  const chains = new Map<string, HookRead & { rules: NftRule[] }>();
  let counted = false;
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
      chains.set(String(chain.name), { ...hook, rules: [] });
    } else if (isObject(rule)) {
      chains.get(String(rule.chain))?.rules.push({ text: "", comment: String(rule.comment ?? "") });
    } else if (isObject(item.counter) && item.counter.name === counter) {
      counted = true;
    } else if (!isObject(item.table) && !isObject(item.metainfo)) {
      return undefined;
    }
  }
  return { sets, chains, counted };
}

/**
 * Reads what `nft -j list counters` printed.
 *
 * @returns family and name of a table → packets that its counter `dropped` has counted.
 * @throws SyntaxError if it is not nft's JSON.
 */
export function parseDropped(text: string): Map<string, bigint> {
  const root: unknown = JSON.parse(text);
  const dropped = new Map<string, bigint>();
  for (const item of isObject(root) && Array.isArray(root.nftables) ? (root.nftables as unknown[]) : []) {
    if (!isObject(item) || !isObject(item.counter) || item.counter.name !== counter) continue;
    const { family, table, packets } = item.counter;
    if (typeof packets === "number" && packets >= 0 && Number.isFinite(packets))
      dropped.set(`${String(family)} ${String(table)}`, BigInt(Math.floor(packets)));
  }
  return dropped;
}

type HookRead = Pick<NftChain, "hook" | "late" | "nat">;

/** Nothing for a chain without hook; false for a hook that is not as ours are. */
function readHook(chain: { readonly [name: string]: unknown }): HookRead | false {
  const { type, prio, policy, family } = chain;
  if (chain.hook === undefined) return {};
  const hook = hooks.find((each) => each === chain.hook);
  const usual = priorities.get(String(family));
  if (hook === undefined || usual === undefined || policy !== "accept") return false;
  if (type === "nat") return prio === natPriorities.get(hook)?.[1] ? { hook, nat: true } : false;
  if (type !== "filter" || hook === "postrouting") return false;
  if (hook === "prerouting") return prio === translated[1] ? { hook } : false;
  if (prio === usual) return { hook };
  return prio === usual + 1 ? { hook, late: true } : false;
}

function readSet(object: { readonly [name: string]: unknown }): NftSet | undefined {
  const { type, map, flags, elem } = object;
  // One flag alone is printed with or without brackets.
  const named = flags === undefined ? [] : Array.isArray(flags) ? flags : [flags];
  if (named.some((flag) => flag !== "interval")) return undefined;
  if (map !== undefined && map !== "verdict" && map !== "ipv4_addr" && map !== "ipv6_addr") return undefined;
  const parts = Array.isArray(type) ? type.map(String) : [String(type)];
  const elements = new Map<string, string>();
  for (const item of Array.isArray(elem) ? (elem as unknown[]) : []) {
    const [key, value] = map ? (Array.isArray(item) ? item : []) : [item, ""];
    const read = map === undefined ? "" : map === "verdict" ? readVerdict(value) : readKey(value, [map]);
    const name = readKey(key, parts);
    if (name === undefined || read === undefined) return undefined;
    elements.set(name, read);
  }
  return {
    type: parts.join(" . "),
    map: map !== undefined,
    ...(map === undefined || map === "verdict" ? {} : { data: map }),
    interval: named.length > 0,
    elements,
  };
}

/** @param types of the parts that the key is joined of. */
function readKey(key: unknown, types: readonly string[]): string | undefined {
  if (typeof key === "string") {
    if (types[0] === "ifname") return quoted(key);
    return (parseAddress(key) as Address | undefined) ?? parseMac(key);
  }
  if (isObject(key) && isObject(key.prefix))
    return parsePrefix(`${String(key.prefix.addr)}/${String(key.prefix.len)}`);
  const [list, joint] = isObject(key) ? (key.range ? [key.range, "-"] : [key.concat, " . "]) : [];
  if (!Array.isArray(list)) return undefined;
  const parts = list.map((part, at) => readKey(part, [types[at] ?? ""]));
  return parts.includes(undefined) ? undefined : parts.join(joint);
}

/** A device's name as an element. */
export function quoted(device: string): string {
  return `"${device}"`;
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
    if (present && !sameKind(present, set)) return false;
  }
  for (const [name, chain] of to.chains) {
    const present = from.chains.get(name);
    if (present && !sameHook(present, chain)) return false;
  }
  return true;
}

function sameKind(left: NftSet, right: NftSet): boolean {
  return (
    left.type === right.type &&
    left.map === right.map &&
    left.data === right.data &&
    left.interval === right.interval
  );
}

/** The device is in the chain's name. */
function sameHook(left: NftChain, right: NftChain): boolean {
  return left.hook === right.hook && left.late === right.late && left.nat === right.nat;
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

function renderType({ type, map, data }: NftSet): string {
  return map ? `${type} : ${data ?? "verdict"}` : type;
}

function renderHook({ hook, late, device, nat }: NftChain): string {
  const where = device === undefined ? "" : ` device "${device}"`;
  const usual = hook === "prerouting" ? translated[0] : late ? latePriority : priority;
  const [type, when] = nat ? ["nat", natPriorities.get(hook!)![0]] : ["filter", usual];
  return `type ${type} hook ${hook}${where} priority ${when}; policy accept;`;
}

/** Chains to jump to before those that jump, for a reader; nft does not mind. */
function inOrder(chains: ReadonlyMap<string, NftChain>): [string, NftChain][] {
  const rank = (name: string, { hook }: NftChain) =>
    hook ? 0 : name.endsWith("bound") ? 1 : name === "end" ? 3 : 2;
  return [...chains].sort(([a, one], [b, other]) => rank(a, one) - rank(b, other));
}
