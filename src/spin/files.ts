/**
 * What SPIN left in its directory, usually /etc/spin: three lists, blocked pairs, nodes and names.
 *
 *     block.list ignore.list allow.list    one address per line
 *     nodepair.list                        "a b", ids of nodestore
 *     nodestore/N                          a node object; only nodes that take part in a pair, or did
 *     names.conf                           "name: ADDRESS NAME" of all addresses, then "name: MAC NAME"
 *
 * Files are only read. SPIN wrote them in place and without care, so any of them may be cut, stale or hostile: what
 * makes no sense is skipped, with the reason, and what makes sense is taken. SPIN wrote a name with a line break as
 * two lines, by which a name could name other nodes; of such lines those are told by their order that name an
 * address after a MAC, and skipped.
 *
 * Source: SIDN SPIN at a5185b7, its files after recorded sessions.
 */

import {
  type Address,
  isDeviceMac,
  type Mac,
  type Prefix,
  parseAddress,
  parseMac,
  parsePrefix,
} from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { isObject } from "../lib/json.ts";
import { type ListName, listNames } from "../lib/spin.ts";
import type { Disk } from "../system/system.ts";

export interface SpinNode {
  /** SPIN's number; undefined for a node that only a name tells of. */
  readonly oldId: number | undefined;
  readonly mac?: Mac;
  /** Given by the user or learned from DHCP: SPIN does not tell. */
  readonly name?: string;
  readonly ips: readonly Address[];
  /** With the trailing dot. */
  readonly domains: readonly string[];
  /** The user put it on the block or allow list as a node, at some time. */
  readonly isBlocked: boolean;
  readonly isExcepted: boolean;
}

/** A name that the user gave, by what SPIN knew the node by. */
export interface SpinName {
  readonly key: { readonly mac: Mac } | { readonly address: Address };
  readonly name: string;
}

export interface SpinState {
  readonly nodes: readonly SpinNode[];
  /** Ids of `nodes`, the lower first. */
  readonly pairs: readonly (readonly [number, number])[];
  readonly lists: Readonly<Record<ListName, readonly Prefix[]>>;
  readonly names: readonly SpinName[];
  /** What was left out, each with its place and the reason. */
  readonly skipped: readonly string[];
  /** Files that the disk did not give: what is in them is missing here, and worth another try. */
  readonly unread: readonly string[];
}

const maxFileBytes = 2 * 1024 * 1024;
/** SPIN itself does not read more of a node. */
const maxNodeBytes = 10 * 1024;
const maxNodes = 4_096;
/** Lines of a list, of pairs, of names. */
const maxLines = 20_000;
const maxPerNode = 256;
/** As SPIN cuts it. */
const maxNameLength = 128;
/** A name of 255 bytes, each as a backslash and three digits. */
const maxDomainLength = 1_020;
const maxReasons = 200;

/**
 * Reads the directory of a SPIN that does not run.
 *
 * @returns undefined if none of its files is there.
 */
export async function readSpin(
  disk: Pick<Disk, "list" | "read">,
  directory: string,
): Promise<SpinState | undefined> {
  const reader = new Reader(disk, directory);
  const nodes = await readNodes(reader);
  const known = new Set(nodes.map(({ oldId }) => oldId!));
  const pairs = await readPairs(reader, known);
  const names = await readNames(reader);
  const lists = { block: [] as Prefix[], ignore: [] as Prefix[], allow: [] as Prefix[] };
  for (const list of listNames) lists[list] = await readList(reader, `${list}.list`);
  if (!reader.isAnyThere) return undefined;
  return { nodes, pairs, lists, names, skipped: reader.reasons(), unread: reader.unread };
}

/** Files of one directory, and what was wrong with them. */
class Reader {
  readonly unread: string[] = [];
  isAnyThere = false;
  readonly #disk: Pick<Disk, "list" | "read">;
  readonly #directory: string;
  readonly #skipped: string[] = [];
  #more = 0;

  constructor(disk: Pick<Disk, "list" | "read">, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
  }

  skip(place: string, reason: string): void {
    if (this.#skipped.length < maxReasons) this.#skipped.push(`${place}: ${reason}`);
    else this.#more++;
  }

  reasons(): readonly string[] {
    return this.#more === 0 ? this.#skipped : [...this.#skipped, `and ${this.#more} more`];
  }

  async names(folder: string): Promise<string[]> {
    try {
      return await this.#disk.list(`${this.#directory}/${folder}`);
    } catch (thrown) {
      this.#lost(folder, thrown);
      return [];
    }
  }

  /** The text of a file; undefined if there is none or it is of no use. */
  async text(file: string, maxBytes: number): Promise<string | undefined> {
    try {
      const bytes = await this.#disk.read(`${this.#directory}/${file}`, maxBytes);
      if (bytes === undefined) return undefined;
      this.isAnyThere = true;
      return new TextDecoder().decode(bytes);
    } catch (thrown) {
      this.#lost(file, thrown);
      return undefined;
    }
  }

  /** Every line that is not empty, with its place. */
  async lines(file: string): Promise<{ readonly place: string; readonly line: string }[]> {
    const text = (await this.text(file, maxFileBytes)) ?? "";
    const lines = text.split("\n").flatMap((line, index) => {
      const trimmed = line.trim();
      return trimmed === "" ? [] : { place: `${file}:${index + 1}`, line: trimmed };
    });
    if (lines.length > maxLines) this.skip(file, `lines after the first ${maxLines} that say something`);
    return lines.slice(0, maxLines);
  }

  #lost(file: string, thrown: unknown): void {
    this.isAnyThere = true;
    if (thrown instanceof Fault && thrown.code === "limit") this.skip(file, "it is too large");
    else {
      this.skip(file, messageOf(thrown));
      this.unread.push(file);
    }
  }
}

async function readNodes(reader: Reader): Promise<SpinNode[]> {
  const nodes = new Map<number, SpinNode>();
  const files = await reader.names("nodestore");
  if (files.length > maxNodes) reader.skip("nodestore", `files after the first ${maxNodes}`);
  for (const file of files.slice(0, maxNodes)) {
    const place = `nodestore/${file}`;
    if (!/^[1-9][0-9]{0,9}$/.test(file)) {
      reader.skip(place, "its name is no number");
      continue;
    }
    const text = await reader.text(place, maxNodeBytes);
    if (text === undefined) continue;
    const node = parseNode(text, (reason) => reader.skip(place, reason));
    if (node?.oldId === undefined) continue;
    if (nodes.has(node.oldId)) reader.skip(place, `there is another node ${node.oldId}`);
    else nodes.set(node.oldId, node);
  }
  return [...nodes.values()].sort((left, right) => left.oldId! - right.oldId!);
}

function parseNode(text: string, skip: (reason: string) => void): SpinNode | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // It is reported below.
  }
  if (!isObject(value) || !isId(value.id)) {
    skip("it is no node");
    return undefined;
  }
  const mac = typeof value.mac === "string" ? parseMac(value.mac) : undefined;
  const isDevice = mac !== undefined && isDeviceMac(mac);
  if (value.mac !== undefined && !isDevice) skip(`${shown(value.mac)} is no MAC of a device`);
  const name = value.name === undefined ? undefined : parseName(value.name);
  if (value.name !== undefined && name === undefined) skip(`${shown(value.name)} is no name`);
  const take = <Item>(field: string, parse: (each: unknown) => Item | undefined): Item[] => {
    const given = Array.isArray(value[field]) ? value[field] : [];
    if (given.length > maxPerNode) skip(`${field} after the first ${maxPerNode}`);
    const items = given.slice(0, maxPerNode).flatMap((each: unknown) => {
      const item = parse(each);
      if (item === undefined) skip(`${shown(each)} in ${field}`);
      return item ?? [];
    });
    return [...new Set(items)] as Item[];
  };
  const ips = take("ips", (each) => (typeof each === "string" ? parseAddress(each) : undefined));
  const domains = take("domains", parseDomain);
  if (!isDevice && ips.length === 0 && domains.length === 0) {
    skip("nothing tells which node it is");
    return undefined;
  }
  return {
    oldId: value.id,
    ...(isDevice && { mac }),
    ...(name !== undefined && { name }),
    ips,
    domains,
    isBlocked: value.is_blocked === true,
    isExcepted: value.is_excepted === true,
  };
}

async function readPairs(reader: Reader, known: ReadonlySet<number>): Promise<(readonly [number, number])[]> {
  const pairs = new Map<string, readonly [number, number]>();
  for (const { place, line } of await reader.lines("nodepair.list")) {
    const match = /^([1-9][0-9]{0,9})\s+([1-9][0-9]{0,9})$/.exec(line);
    const ids = [Number(match?.[1]), Number(match?.[2])] as const;
    const missing = ids.find((id) => !known.has(id));
    if (!match || ids[0] === ids[1]) reader.skip(place, `${shown(line)} is no pair`);
    else if (missing !== undefined) reader.skip(place, `there is no node ${missing} in nodestore`);
    else {
      const [low, high] = [Math.min(...ids), Math.max(...ids)];
      pairs.set(`${low} ${high}`, [low, high]);
    }
  }
  return [...pairs.values()];
}

async function readList(reader: Reader, file: string): Promise<Prefix[]> {
  const nets = new Set<Prefix>();
  for (const { place, line } of await reader.lines(file)) {
    const net = parsePrefix(line);
    // Lists hold addresses. One of all addresses is not what anybody asked SPIN for.
    if (net === undefined || net.endsWith("/0")) reader.skip(place, `${shown(line)} is no address`);
    else nets.add(net);
  }
  return [...nets];
}

async function readNames(reader: Reader): Promise<SpinName[]> {
  const names = new Map<string, SpinName>();
  let isPastAddresses = false;
  for (const { place, line } of await reader.lines("names.conf")) {
    const match = /^name:\s+(\S+)\s+(.+)$/.exec(line);
    const mac = match ? parseMac(match[1]!) : undefined;
    const address = match ? parseAddress(match[1]!) : undefined;
    if (mac !== undefined) isPastAddresses = true;
    const name = match ? parseName(match[2]) : undefined;
    if (name === undefined || (mac === undefined ? address === undefined : !isDeviceMac(mac))) {
      reader.skip(place, `${shown(line)} names nothing`);
    } else if (address !== undefined && isPastAddresses) {
      reader.skip(
        place,
        `${shown(line)} stands after a MAC, where a name with a line break puts it, not SPIN`,
      );
    } else {
      // SPIN reads from the top, so the last of several counts.
      names.set(match![1]!.toLowerCase(), { key: mac ? { mac } : { address: address! }, name });
    }
  }
  return [...names.values()];
}

function isId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 && value < 2 ** 31;
}

/** A name as a node may have it: one line, of a length that SPIN shows. */
function parseName(value: unknown): string | undefined {
  if (typeof value !== "string" || /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(value)) return undefined;
  const name = value
    .trim()
    .slice(0, maxNameLength)
    .replace(/\p{Surrogate}/gu, "\ufffd");
  return name === "" ? undefined : name;
}

/** A DNS name in presentation form, with its dot. */
function parseDomain(value: unknown): string | undefined {
  if (typeof value !== "string" || value.length > maxDomainLength) return undefined;
  return /^[\x21-\x7e]+\.$/.test(value) ? value.toLowerCase() : undefined;
}

/** Foreign text, short and on one line. */
function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
