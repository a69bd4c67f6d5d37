/**
 * DNS for managed segments: whatever server a service asks, the answer is ours; and what we have to ask for it.
 *
 * Kept, by device and address: a server on each of the router's own addresses there, because the kernel leads queries
 * to one of them and lets only that one answer. A name outside is asked for at the configured upstreams, a local name
 * that nobody declared at the segments' resolvers.
 */

import {
  type Asker,
  addressRecord,
  DnsClient,
  type DnsQuery,
  type DnsServer,
  failed,
  followAliases,
  noData,
  noSuchName,
  openDnsServer,
  pointerRecord,
  Rcode,
  type Outcome as Reply,
  yes,
} from "../dns/dns.ts";
import type { Isolation, Lookup, OutsideAnswer } from "../isolation/isolation.ts";
import type { Address } from "../lib/address.ts";
import { TYPE_A, TYPE_AAAA } from "../lib/dns.ts";
import { messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import type { Cancel, Endpoint, System } from "../system/system.ts";

export interface SegmentNamesOptions {
  readonly port: number;
  /** For names outside. */
  readonly upstreams: readonly Address[];
  /** For local names that nobody declared. */
  readonly resolvers: readonly Address[];
  /** Made after this. */
  isolation(): Isolation;
}

/** A server on one of the router's addresses. */
interface Place {
  readonly device: string;
  readonly ifindex: number;
  readonly address: Address;
  server?: DnsServer;
  cancelRetry?: Cancel;
  isOver: boolean;
}

/** In whose name we deny: there is no zone, only this router. */
const zone = ".";
const dnsPort = 53;
/** How long a name outside that has no address is not asked for again. */
const missingSeconds = 60;
/** After an address could not be listened on. */
const reopenMs = 1_000;

export class SegmentNames {
  readonly #system: System;
  readonly #options: SegmentNamesOptions;
  readonly #client: DnsClient;
  readonly #resolvers: readonly DnsClient[];
  /** By device, interface and address. */
  readonly #places = new Map<string, Place>();
  readonly #answered = { answered: 0, failed: 0 };
  /** Of servers that are gone. */
  readonly #dropped = new Map<string, number>();
  #closed = false;

  constructor(system: System, options: SegmentNamesOptions) {
    this.#system = system;
    this.#options = options;
    const endpointOf = (address: Address): Endpoint => ({ address, port: dnsPort });
    this.#client = new DnsClient(system, { upstreams: options.upstreams.map(endpointOf) });
    this.#resolvers = options.resolvers.map(
      (each) => new DnsClient(system, { upstreams: [endpointOf(each)] }),
    );
  }

  get status(): JsonObject {
    const drops = new Map(this.#dropped);
    for (const { server } of this.#places.values()) {
      for (const [reason, count] of server?.drops ?? []) drops.set(reason, (drops.get(reason) ?? 0) + count);
    }
    return {
      ...this.#answered,
      open: [...this.#places.values()].flatMap(({ address, server }) => (server ? [address] : [])),
      dropped: Object.fromEntries(drops),
      ignored: Object.fromEntries(this.#client.ignored),
    };
  }

  /** A segment's device has these addresses: queries to them are its own. None: it is gone. */
  place(device: string, { ifindex, addresses }: { ifindex: number; addresses: readonly Address[] }): void {
    if (this.#closed) return;
    const own = new Set(addresses);
    const keyOf = (address: Address) => `${device} ${ifindex} ${address}`;
    for (const [key, place] of this.#places) {
      if (place.device !== device || (place.ifindex === ifindex && own.has(place.address))) continue;
      this.#places.delete(key);
      void this.#end(place);
    }
    for (const address of own) {
      const key = keyOf(address);
      if (this.#places.has(key)) continue;
      const place: Place = { device, ifindex, address, isOver: false };
      this.#places.set(key, place);
      void this.#open(place);
    }
  }

  /** Asks the segments' resolvers for the local names that are waited for. */
  resolveLocal(): void {
    if (this.#resolvers.length === 0) return;
    const isolation = this.#options.isolation();
    for (const name of isolation.wanted()) {
      void Promise.all(this.#resolvers.map((each) => lookUp(each, name))).then((found) => {
        const known = found.filter(({ kind }) => kind !== "silent");
        const addresses = found.flatMap((each) =>
          each.kind === "found" ? each.answers.map(({ address }) => address) : [],
        );
        isolation.found(name, known.length > 0 ? addresses : undefined);
      });
    }
  }

  /** What the world says of a name. Never rejects. */
  lookUp(name: string): Promise<Lookup> {
    return lookUp(this.#client, name);
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const each of [this.#client, ...this.#resolvers]) each.close();
    await Promise.all([...this.#places.values()].map((place) => this.#end(place)));
  }

  /** Never rejects: what cannot be opened, such as an address that is still being tried, is said and tried again. */
  async #open(place: Place, isSaid = false): Promise<void> {
    const { device, ifindex, address } = place;
    let server: DnsServer;
    try {
      server = await openDnsServer(this.#system, {
        places: [{ address, port: this.#options.port, ifindex }],
        answer: (query, asker) => this.#answer(device, query, asker),
        onTrouble: (line) => this.#system.log("warning", line),
      });
    } catch (thrown) {
      if (place.isOver) return;
      if (!isSaid) this.#system.log("warning", messageOf(thrown));
      place.cancelRetry = this.#system.after(reopenMs, () => void this.#open(place, true));
      return;
    }
    // It may have gone meanwhile.
    if (place.isOver) await server.close();
    else place.server = server;
  }

  async #end(place: Place): Promise<void> {
    place.isOver = true;
    place.cancelRetry?.();
    for (const [reason, count] of place.server?.drops ?? []) this.#count(reason, count);
    await place.server?.close();
  }

  #count(reason: string, count: number): void {
    this.#dropped.set(reason, (this.#dropped.get(reason) ?? 0) + count);
  }

  async #answer(device: string, { question }: DnsQuery, { endpoint }: Asker): Promise<Reply> {
    const outcome = await this.#options.isolation().ask(device, endpoint.address, question);
    this.#answered[outcome.kind === "silent" ? "failed" : "answered"]++;
    switch (outcome.kind) {
      case "addresses":
        return yes(outcome.addresses.map((each) => addressRecord(question.name, each, outcome.ttlSeconds)));
      case "pointer":
        return yes([pointerRecord(question.name, outcome.name, outcome.ttlSeconds)]);
      case "nodata":
        return noData({ zone, ttlSeconds: outcome.ttlSeconds });
      case "missing":
        return noSuchName({ zone, ttlSeconds: outcome.ttlSeconds });
      case "silent":
        return failed(Rcode.failure);
    }
  }
}

/** Both families of a name. Never rejects. */
async function lookUp(client: DnsClient, name: string): Promise<Lookup> {
  const types = await Promise.all([TYPE_A, TYPE_AAAA].map((type) => ask(client, name, type)));
  const answers = types.flatMap((each) => (each.kind === "found" ? each.answers : []));
  if (answers.length > 0) return { kind: "found", answers };
  // One of the two that nobody answered may have had addresses.
  if (types.some(({ kind }) => kind === "silent")) return { kind: "silent" };
  return { kind: "missing", ttlSeconds: missingSeconds };
}

async function ask(client: DnsClient, name: string, type: number): Promise<Lookup> {
  try {
    const { message } = await client.ask({ name: `${name}.`, type });
    const { rcode } = message.flags;
    if (rcode !== Rcode.noError && rcode !== Rcode.noSuchName) return { kind: "silent" };
    const { aliases, records } = followAliases(message.answers, `${name}.`, type);
    // An alias may lead elsewhere before the addresses change.
    const ttlSeconds = Math.min(...[...aliases, ...records].map((record) => record.ttlSeconds));
    const answers = records.flatMap(({ address }): OutsideAnswer[] =>
      address === undefined ? [] : [{ address, ttlSeconds }],
    );
    return answers.length > 0 ? { kind: "found", answers } : { kind: "missing", ttlSeconds: missingSeconds };
  } catch {
    return { kind: "silent" };
  }
}
