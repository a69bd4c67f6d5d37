/**
 * DNS for managed segments: whatever server a service asks, the answer is ours; and what we have to ask for it.
 *
 * Kept, by device: a server on each of the router's own addresses there, because the kernel leads queries to one of
 * them and lets only that one answer. A name outside is asked for at the configured upstreams, a local name that nobody
 * declared at the segments' resolvers.
 */

import {
  type Asker,
  addressRecord,
  DnsClient,
  type DnsPlace,
  type DnsQuery,
  type DnsServer,
  failed,
  noData,
  noSuchName,
  openDnsServer,
  pointerRecord,
  Rcode,
  type Outcome as Reply,
  yes,
} from "../dns/dns.ts";
import type { Isolation, Lookup, OutsideAnswer } from "../isolation/isolation.ts";
import { type Address, scopeOf } from "../lib/address.ts";
import { TYPE_A, TYPE_AAAA } from "../lib/dns.ts";
import { messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import type { Endpoint, System } from "../system/system.ts";

export interface SegmentNamesOptions {
  readonly port: number;
  /** For names outside. */
  readonly upstreams: readonly Address[];
  /** For local names that nobody declared. */
  readonly resolvers: readonly Address[];
  /** Made after this. */
  isolation(): Isolation;
}

/** In whose name we deny: there is no zone, only this router. */
const zone = ".";
const dnsPort = 53;
/** How long a name outside that has no address is not asked for again. */
const missingSeconds = 60;

export class SegmentNames {
  readonly #system: System;
  readonly #options: SegmentNamesOptions;
  readonly #client: DnsClient;
  readonly #resolvers: readonly DnsClient[];
  readonly #places = new Map<
    string,
    { readonly addresses: string; readonly server: Promise<DnsServer | undefined> }
  >();
  readonly #answered = { answered: 0, failed: 0 };
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
    return { ...this.#answered, ignored: Object.fromEntries(this.#client.ignored) };
  }

  /** A segment's device has these addresses: queries to them are its own. None: it is gone. */
  place(device: string, { ifindex, addresses }: { ifindex: number; addresses: readonly Address[] }): void {
    // Nobody is led to a link-local address.
    const own = addresses.filter((address) => scopeOf(address) !== "link").sort();
    const before = this.#places.get(device);
    const text = `${ifindex} ${own.join(" ")}`;
    if (before?.addresses === text || this.#closed) return;
    const server = this.#reopen(device, before?.server, {
      places: own.map((address) => ({ address, port: this.#options.port, ifindex })),
    });
    this.#places.set(device, { addresses: text, server });
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
    const servers = await Promise.all([...this.#places.values()].map(({ server }) => server));
    await Promise.all(servers.map((server) => server?.close()));
  }

  /** Never rejects: a place that cannot be opened is said, and its segment has no names until its next change. */
  async #reopen(
    device: string,
    before: Promise<DnsServer | undefined> | undefined,
    { places }: { readonly places: readonly DnsPlace[] },
  ): Promise<DnsServer | undefined> {
    await (await before)?.close();
    if (places.length === 0 || this.#closed) return undefined;
    try {
      return await openDnsServer(this.#system, {
        places,
        answer: (query, asker) => this.#answer(device, query, asker),
        onTrouble: (line) => this.#system.log("warning", line),
      });
    } catch (thrown) {
      if (!this.#closed) this.#system.log("warning", messageOf(thrown));
      return undefined;
    }
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
    const answers = message.answers.flatMap((record): OutsideAnswer[] =>
      record.type === type && record.address !== undefined
        ? [{ address: record.address, ttlSeconds: record.ttlSeconds }]
        : [],
    );
    return answers.length > 0 ? { kind: "found", answers } : { kind: "missing", ttlSeconds: missingSeconds };
  } catch {
    return { kind: "silent" };
  }
}
