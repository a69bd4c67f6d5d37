/**
 * Mappings that somebody wrote down, from several sources, and what holds where they contradict each other.
 *
 * Kept by owner (the hosts file, the user, a DNS zone): its records, the hash of its generation, and which of its
 * records are not used, and why. The user comes before hosts files, these before the others, who stand in the order
 * in which they came. Of what is claimed twice the first holds: a reference of ours, an encoded address. A local host
 * may have several references and a remote host several encoded addresses: all are understood, and the first source
 * that names one says which is used for what we send; within a source the last record does.
 */

import type { Address } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";

/** A mapping that somebody wrote down. */
export interface StaticRecord {
  /** ours: a local host is published under a reference; theirs: a remote host has a fixed encoded address. */
  readonly kind: "ours" | "theirs";
  /** The local host, or the encoded address. */
  readonly address: Address;
  /** Of a local host: our own public address, or undefined, which means the same. */
  readonly context: Address | undefined;
  readonly reference: bigint;
}

/** A record of a source that is not used, and why. */
export interface Refusal {
  readonly record: StaticRecord;
  readonly why: string;
}

/** What holds: a record, whose it is, and by what it is found. */
export interface Written {
  readonly owner: string;
  readonly record: StaticRecord;
  byAddress: boolean;
  byReference: boolean;
}

export interface SourceState {
  readonly owner: string;
  readonly records: readonly StaticRecord[];
  readonly hash: bigint | undefined;
}

/** The owner of what the user adds at run time. */
export const userOwner = "user";
/** Owners that are hosts files begin so. */
export const hostsOwner = "hosts:";

export const maxSources = 64;
export const maxSourceRecords = 65_536;
export const maxOwnerLength = 600;

interface Source extends SourceState {
  /** How many IPREF addresses it names. */
  readonly distinct: number;
  refusals: readonly Refusal[];
}

export class Sources {
  readonly #sources = new Map<string, Source>();
  readonly #check: (record: StaticRecord) => string | undefined;

  /** @param check says why a record makes no sense. */
  constructor(check: (record: StaticRecord) => string | undefined) {
    this.#check = check;
  }

  /** Replaces what a source says. With no records and no hash it is forgotten. @throws Fault "limit" */
  set({ owner, records, hash }: SourceState): void {
    if (records.length === 0 && hash === undefined) {
      this.#sources.delete(owner);
      return;
    }
    if (records.length > maxSourceRecords) {
      throw new Fault("limit", `Cannot take mappings of ${owner}: more than ${maxSourceRecords}`);
    }
    if (owner.length > maxOwnerLength || (!this.#sources.has(owner) && this.#sources.size >= maxSources)) {
      throw new Fault(
        "limit",
        `Cannot take mappings of ${owner.slice(0, 80)}: too many sources, or too long`,
      );
    }
    const distinct = new Set(records.map(({ context, reference }) => `${context ?? ""} ${reference}`)).size;
    this.#sources.set(owner, { owner, records, hash, distinct, refusals: [] });
  }

  get(
    owner: string,
  ): { readonly count: number; readonly hash: bigint | undefined; refusals: readonly Refusal[] } | undefined {
    const source = this.#sources.get(owner);
    return source && { count: source.distinct, hash: source.hash, refusals: source.refusals };
  }

  /** What held, and yet cannot be used. */
  refuse(written: readonly Written[], why: string): void {
    for (const source of this.#sources.values()) {
      const more = written.filter(({ owner }) => owner === source.owner);
      if (more.length > 0)
        source.refusals = [...source.refusals, ...more.map(({ record }) => ({ record, why }))];
    }
  }

  recordsOf(owner: string): readonly StaticRecord[] {
    return this.#sources.get(owner)?.records ?? [];
  }

  all(): readonly SourceState[] {
    return [...this.#sources.values()];
  }

  /** What holds now, by a name that is the same as long as the record is. */
  resolve(): Map<string, Written> {
    const written = new Map<string, Written>();
    const references = new Map<bigint, Written>();
    const encoded = new Map<Address, Written>();
    const owners = [...this.#sources.values()].sort((one, other) => rankOf(one.owner) - rankOf(other.owner));
    for (const source of owners) {
      const refusals: Refusal[] = [];
      for (const record of source.records) {
        const isOurs = record.kind === "ours";
        const holder = isOurs ? references.get(record.reference) : encoded.get(record.address);
        const why = this.#check(record) ?? (holder && contradiction(holder, record));
        if (why !== undefined) refusals.push({ record, why });
        if (why !== undefined || holder) continue;
        const each = { owner: source.owner, record, byAddress: true, byReference: true };
        written.set(nameOf(record), each);
        if (isOurs) references.set(record.reference, each);
        else encoded.set(record.address, each);
      }
      source.refusals = refusals;
    }
    prefer(written.values());
    return written;
  }
}

/** Leaves one way out for each host: of the first source that has one, the last. */
function prefer(written: Iterable<Written>): void {
  const chosen = new Map<string, Written>();
  for (const each of written) {
    const { kind, address, context, reference } = each.record;
    const key = kind === "ours" ? address : `${context} ${reference}`;
    const before = chosen.get(key);
    const loser = before && before.owner !== each.owner ? each : before;
    if (loser && kind === "ours") loser.byAddress = false;
    else if (loser) loser.byReference = false;
    if (loser !== each) chosen.set(key, each);
  }
}

function contradiction({ owner, record: held }: Written, record: StaticRecord): string | undefined {
  if (held.kind === "ours") {
    return held.address === record.address ? undefined : `${owner} has the reference for ${held.address}`;
  }
  const isSame = held.context === record.context && held.reference === record.reference;
  return isSame ? undefined : `${owner} has the encoded address for another host`;
}

function rankOf(owner: string): number {
  if (owner === userOwner) return 0;
  return owner.startsWith(hostsOwner) ? 1 : 2;
}

/** The same for the same mapping, whoever wrote it down. */
function nameOf({ kind, address, context, reference }: StaticRecord): string {
  return kind === "ours" ? `ours ${address} ${reference}` : `theirs ${address} ${context} ${reference}`;
}
