/**
 * Published hosts out of DNS zones: AA records by zone transfer, as `dns-agent` takes them in.
 *
 * A source is a public zone, the servers that have it, and the local domain in which its hosts are found: the record
 * `nas.example.com TXT "AA gw + 11"` publishes the host `nas.internal`, and `nas.lab.example.com` publishes
 * `nas.lab.internal`. What more than half of the servers agree on, by the hash of their records, holds, and replaces
 * what held before.
 *
 * Kept by source: when something held last, and what is wrong since. The mappings keep the records. A source whose
 * servers fail, disagree or no longer have the zone stays as it is for a while and then ends; one that is no longer
 * named ends at once. While nobody says which address a name has, a source stays as it is, too; a name of which that
 * is so time and again is left out, so that one dead name doesn't take the others with it.
 */

import type { DnsClient } from "../dns/dns.ts";
import {
  type Address,
  compareAddresses,
  encodeAddress,
  type Family,
  familyOf,
  parseAddress,
} from "../lib/address.ts";
import { type DnsRecord, foldName, formatName, parseName, TYPE_TXT } from "../lib/dns.ts";
import { messageOf } from "../lib/fault.ts";
import { encodeReference } from "../lib/reference.ts";
import type { Cancel, Clock, Endpoint } from "../system/system.ts";
import { aaRecordsOf } from "./aatexts.ts";
import type { Families } from "./protocol.ts";
import type { StaticRecord } from "./sources.ts";

/**
 * Reads a source as dns-agent takes it: LOCAL:PUBLIC:SERVER[:PORT][,SERVER[:PORT]…], an IPv6 server in brackets.
 *
 * @throws SyntaxError for anything else.
 */
export function parseSource(text: string): ImportSource {
  const [, local, zone, rest] = /^([^:]+):([^:]+):(.+)$/.exec(text.trim()) ?? [];
  if (local === undefined || zone === undefined || rest === undefined) {
    throw new SyntaxError(`Cannot read ${JSON.stringify(text.slice(0, 80))}: LOCAL:PUBLIC:SERVER is wanted`);
  }
  const servers = rest.split(",").map((each): Endpoint => {
    const [, six, four, port] = /^(?:\[([^\]]+)\]|([^:[\]]+))(?::([0-9]{1,5}))?$/.exec(each.trim()) ?? [];
    const address = parseAddress(six ?? four ?? "");
    const number = port === undefined ? 53 : Number(port);
    if (address === undefined || number < 1 || number > 65_535) {
      throw new SyntaxError(`Cannot read ${JSON.stringify(each.slice(0, 80))}: it is no server`);
    }
    return { address, port: number };
  });
  return { local: local.trim(), public: zone.trim(), servers };
}

/** What is asked of the mappings; see `Mappings`. */
export interface SourceDoor {
  /** Replaces all that a source says; without records and hash it goes. @throws Fault "limit", "storage" */
  setSource(owner: string, records: readonly StaticRecord[], hash?: bigint): Promise<unknown>;
  source(owner: string): { readonly hash: bigint | undefined } | undefined;
  sources(): readonly { readonly owner: string }[];
}

/** One zone to be imported. */
export interface ImportSource {
  /** The domain of the local hosts. */
  readonly local: string;
  /** The zone. */
  readonly public: string;
  readonly servers: readonly Endpoint[];
}

export interface TransferParts {
  readonly client: Pick<DnsClient, "transfer">;
  readonly door: SourceDoor;
  /** The first address of a name in an IP version; undefined if it has none. @throws Fault if nobody says now */
  resolve(name: string, family: Family): Promise<Address | undefined>;
  onTrouble?(line: string): void;
}

export interface ImportOptions {
  readonly sources: readonly ImportSource[];
  readonly families: Families;
  /** Default 59 minutes, less up to a tenth by chance. */
  readonly intervalMs?: number;
  /** How long a source that fails stays as it was. Default 4 hours. */
  readonly staleMs?: number;
}

/** How an import stands. */
export interface ImportStatus {
  readonly owner: string;
  /** Monotonic; when enough servers agreed last. */
  readonly heldAt: number | undefined;
  /** What was wrong with the last try, if anything. */
  readonly trouble: string | undefined;
}

/** Owners of imported records begin so. */
export const importOwner = "axfr:";

const firstMs = 5_000;
/** After a failure, doubled up to the interval. */
const retryMs = 60_000;
/** So many tries in a row end where nobody says which address a name has; then such names are left out. */
const patience = 5;
/** Names that are resolved at a time. */
const parallel = 16;
/** Of one zone. */
const maxRecords = 65_536;

interface Import {
  readonly source: ImportSource;
  readonly owner: string;
  heldAt: number | undefined;
  /** Since when nothing new held. */
  failingSince: number;
  retryMs: number;
  /** Tries in a row that failed. */
  failures: number;
  trouble: string | undefined;
  cancel: Cancel;
}

type Resolve = (name: string, family: Family) => Promise<Address | undefined>;

/** A record of ours with its context: by it servers agree. */
type Published = StaticRecord & { readonly context: Address };

export class Imports {
  readonly #system: Clock & { random(length: number): Uint8Array };
  readonly #parts: TransferParts;
  readonly #options: Required<ImportOptions>;
  readonly #imports: readonly Import[];
  #closed = false;

  /**
   * Begins after some seconds.
   *
   * @throws SyntaxError for a domain or zone that is no name.
   */
  constructor(
    system: Clock & { random(length: number): Uint8Array },
    parts: TransferParts,
    options: ImportOptions,
  ) {
    this.#system = system;
    this.#parts = parts;
    this.#options = { intervalMs: 59 * 60_000, staleMs: 4 * 3_600_000, ...options };
    const failingSince = system.now();
    this.#imports = options.sources.map((given) => {
      const [local, zone] = [nameOf(given.local), nameOf(given.public)];
      const source = { local, public: zone, servers: given.servers };
      const owner = `${importOwner}${local}:${zone}`;
      const each: Import = {
        ...{ source, owner, failingSince, retryMs, failures: 0 },
        ...{ heldAt: undefined, trouble: undefined, cancel: () => {} },
      };
      each.cancel = system.after(firstMs, () => this.#run(each));
      return each;
    });
    const named = new Set(this.#imports.map(({ owner }) => owner));
    for (const { owner } of parts.door.sources()) {
      if (owner.startsWith(importOwner) && !named.has(owner)) this.#forget(owner);
    }
  }

  get status(): readonly ImportStatus[] {
    return this.#imports.map(({ owner, heldAt, trouble }) => ({ owner, heldAt, trouble }));
  }

  /** Imports all zones now. Never rejects; see `status`. */
  async refresh(): Promise<void> {
    await Promise.all(
      this.#imports.map((each) => {
        each.cancel();
        return this.#run(each);
      }),
    );
  }

  /** What was imported stays. */
  close(): void {
    this.#closed = true;
    for (const { cancel } of this.#imports) cancel();
  }

  async #run(each: Import): Promise<void> {
    each.cancel();
    try {
      await this.#import(each);
      each.heldAt = this.#system.now();
      each.failingSince = each.heldAt;
      each.retryMs = retryMs;
      each.failures = 0;
      each.trouble = undefined;
    } catch (thrown) {
      each.failures++;
      this.#failed(each, messageOf(thrown));
    }
    if (this.#closed) return;
    const { intervalMs } = this.#options;
    const shareOf = (this.#system.random(1)[0]! / 255) * 0.1;
    const pauseMs = each.trouble === undefined ? intervalMs * (1 - shareOf) : each.retryMs;
    if (each.trouble !== undefined) each.retryMs = Math.min(each.retryMs * 2, intervalMs);
    each.cancel();
    each.cancel = this.#system.after(pauseMs, () => this.#run(each));
  }

  /** @throws Error that says why nothing new holds. */
  async #import({ owner, source, failures }: Import): Promise<void> {
    const resolve = this.#resolver(failures >= patience);
    const asked = await Promise.all(
      source.servers.map(async (server) => {
        try {
          const records = await this.#parts.client.transfer(source.public, server, { maxRecords });
          return await this.#publishedIn(records, source, resolve);
        } catch (thrown) {
          return messageOf(thrown);
        }
      }),
    );
    const { records, hash } = agreed(asked, source);
    if (this.#closed || this.#parts.door.source(owner)?.hash === hash) return;
    await this.#parts.door.setSource(owner, records, hash);
  }

  #failed(each: Import, why: string): void {
    if (each.trouble !== why) this.#parts.onTrouble?.(`Import of ${each.source.public}: ${why}`);
    each.trouble = why;
    const isStale = this.#system.now() - each.failingSince >= this.#options.staleMs;
    if (isStale && !this.#closed && this.#parts.door.source(each.owner)) this.#forget(each.owner);
  }

  #forget(owner: string): void {
    this.#parts.door
      .setSource(owner, [])
      .catch((thrown) => this.#parts.onTrouble?.(`Cannot end mappings of ${owner}: ${messageOf(thrown)}`));
  }

  /** Asks for each name once. @param leaves whether a name of which nobody says anything has no address. */
  #resolver(leaves: boolean): Resolve {
    const known = new Map<string, Promise<Address | undefined>>();
    return (name, family) => {
      const key = `${family} ${name}`;
      const found =
        known.get(key) ??
        this.#parts.resolve(name, family).catch((thrown) => {
          if (leaves || thrown instanceof SyntaxError) return undefined;
          throw thrown;
        });
      known.set(key, found);
      return found;
    };
  }

  /**
   * The hosts that a zone publishes; those that have no address are left out. Of two with one address the first.
   *
   * @throws Fault of `resolve`.
   */
  async #publishedIn(
    records: readonly DnsRecord[],
    source: ImportSource,
    resolve: Resolve,
  ): Promise<Published[]> {
    const { lan, tunnel } = this.#options.families;
    const wanted = records.flatMap((record) => {
      const host = localNameOf(record, source);
      return host === undefined ? [] : aaRecordsOf(record).map((aa) => ({ aa, host }));
    });
    const published = new Map<string, Published>();
    for (let first = 0; first < wanted.length && !this.#closed; first += parallel) {
      const found = await Promise.all(
        wanted.slice(first, first + parallel).map(async ({ aa: { context, reference }, host }) => {
          const gateway = "address" in context ? context.address : await resolve(`${context.name}.`, tunnel);
          const address = gateway && (await resolve(host, lan));
          if (!gateway || !address || familyOf(gateway) !== tunnel) return undefined;
          return { kind: "ours" as const, address, context: gateway, reference };
        }),
      );
      for (const each of found) {
        const key = each && `${each.context} ${each.reference}`;
        if (each && !published.has(key!)) published.set(key!, each);
      }
    }
    return [...published.values()].sort(
      (one, other) =>
        compareAddresses(one.context, other.context) || (one.reference < other.reference ? -1 : 1),
    );
  }
}

/** What more than half of the servers say. @throws Error if there is no such thing. */
function agreed(
  asked: readonly (readonly Published[] | string)[],
  { servers }: ImportSource,
): { readonly records: readonly Published[]; readonly hash: bigint } {
  const quorum = Math.floor(servers.length / 2) + 1;
  const votes = new Map<bigint, number>();
  for (const records of asked) {
    if (typeof records === "string") continue;
    const hash = hashOf(records);
    const count = (votes.get(hash) ?? 0) + 1;
    if (count >= quorum) return { records, hash };
    votes.set(hash, count);
  }
  const faults = asked.filter((each) => typeof each === "string");
  throw new Error(faults.length > 0 ? faults.join("; ") : "its servers disagree");
}

/**
 * FNV-1a of the records, 64 bits, over the bytes of host, context and reference of each.
 *
 * @param records in the order of context and reference.
 */
export function hashOf(records: readonly (StaticRecord & { readonly context: Address })[]): bigint {
  // In two halves: as bigint, byte by byte, a large zone would take seconds.
  let [high, low] = [0xcbf29ce4, 0x84222325];
  for (const { address, context, reference } of records) {
    for (const part of [encodeAddress(address), encodeAddress(context), encodeReference(reference)]) {
      for (const byte of part) {
        low = (low ^ byte) >>> 0;
        // The prime is 2⁴⁰ + 0x1b3; products of 32 and 9 bits are exact.
        const product = low * 0x1b3;
        high = (high * 0x1b3 + Math.floor(product / 0x1_0000_0000) + low * 256) % 0x1_0000_0000;
        low = product % 0x1_0000_0000;
      }
    }
  }
  return (BigInt(high) << 32n) | BigInt(low);
}

/** Under which name the host of a record is found; undefined if the record is not about one. */
function localNameOf({ name, type }: DnsRecord, source: ImportSource): string | undefined {
  if (type !== TYPE_TXT) return undefined;
  const [labels, zone] = [parseName(foldName(name)), parseName(source.public)];
  const count = labels.length - zone.length;
  if (count <= 0 || formatName(labels.slice(count)) !== source.public) return undefined;
  return formatName([...labels.slice(0, count), ...parseName(source.local)]);
}

/** As names are compared; blanks around it are the typist's. @throws SyntaxError */
function nameOf(text: string): string {
  return foldName(formatName(parseName(text.trim())));
}
