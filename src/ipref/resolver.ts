/**
 * The resolver: names of other networks, answered with encoded addresses.
 *
 * A name has an IPREF address if an upstream server has AA records for it (see `aa.ts`); then hosts of our LAN get
 * the encoded addresses of these, in the LAN's IP version, and nothing in the other. Names without are answered as
 * the upstream does, and so is every other type. An answer lives no longer than the records it comes from and the
 * mappings it leads to. Where the upstream fails so does the answer: a plain address in place of an encoded one may
 * be that of somebody else.
 *
 * Kept: what names had, bounded, as long as their records say, so that hosts asking for A and AAAA cost one question.
 */

import type { Answered, DnsClient, DnsQuery } from "../dns/dns.ts";
import { failed, followAliases, noData, type Outcome, Rcode } from "../dns/dns.ts";
import { type Address, type Family, familyOf } from "../lib/address.ts";
import {
  CLASS_IN,
  type DnsRecord,
  foldName,
  formatName,
  parseName,
  TYPE_A,
  TYPE_AAAA,
  TYPE_TXT,
} from "../lib/dns.ts";
import { Fault } from "../lib/fault.ts";
import type { Clock } from "../system/system.ts";
import type { AaRecord } from "./aa.ts";
import { aaRecordsOf } from "./aatexts.ts";
import type { Families } from "./protocol.ts";

/** What the resolver asks of the mappings; see `Mappings`. */
export interface EncodingDoor {
  /** @throws Fault "invalid" for what is no remote host, "limit", "storage". */
  encodedFor(context: Address, reference: bigint): Promise<Address>;
  /** How long the mapping of an encoded address lasts at least; Infinity: it is written down. */
  remainingMs(encoded: Address): number;
}

export interface ResolverParts {
  readonly client: Pick<DnsClient, "ask">;
  readonly door: EncodingDoor;
}

export interface ResolverOptions {
  /** Names at and below these are answered; "." is all. */
  readonly zones: readonly string[];
  readonly families: Families;
  /** Names that are remembered. Default 512. */
  readonly maxKnown?: number;
}

/** A remote host, and where a name leads to it. */
interface Ends {
  readonly aliases: readonly DnsRecord[];
  /** The name that has the AA records. */
  readonly owner: string;
  /** Empty: the name has no IPREF address. */
  readonly hosts: readonly { readonly context: Address; readonly reference: bigint }[];
}

interface Known {
  readonly ends: Ends;
  /** Monotonic. */
  readonly untilAt: number;
}

/** Of one name; more make no answer that fits. */
const maxHosts = 16;
const maxKnownMs = 3_600_000;
const maxNoneMs = 60_000;
/** What "nothing in this IP version" may hold at most. */
const maxDenialSeconds = 300;

export class Resolver {
  readonly #clock: Clock;
  readonly #parts: ResolverParts;
  readonly #options: ResolverOptions;
  /** As they are compared. */
  readonly #zones: ReadonlySet<string>;
  /** By folded name, the oldest first. */
  readonly #known = new Map<string, Known>();
  readonly #asking = new Map<string, Promise<Known>>();

  /** @throws SyntaxError for a zone that is no name. */
  constructor(clock: Clock, parts: ResolverParts, options: ResolverOptions) {
    this.#clock = clock;
    this.#parts = parts;
    this.#options = options;
    this.#zones = new Set(options.zones.map((zone) => foldName(formatName(parseName(zone)))));
  }

  /** How many names are remembered. */
  get known(): number {
    return this.#known.size;
  }

  /** A fault becomes the answer that says so. @throws SyntaxError for a name that is none: no decoded query has one. */
  async answer(query: DnsQuery): Promise<Outcome> {
    const { name, type } = query.question;
    const zone = this.#zoneOf(name);
    if (zone === undefined) return failed(Rcode.refused);
    try {
      if (type !== TYPE_A && type !== TYPE_AAAA) return await this.#relay(query);
      const known = await this.#endsOf(name);
      if (known.ends.hosts.length === 0) return await this.#relay(query);
      const secondsLeft = this.#secondsLeft(known);
      const family: Family = type === TYPE_A ? 4 : 6;
      const aliases = spelled(known.ends.aliases, name).map((each) => limited(each, secondsLeft));
      if (family !== this.#options.families.lan) {
        const none = noData({ zone, ttlSeconds: Math.min(secondsLeft, maxDenialSeconds) });
        return { ...none, ...ours, records: aliases };
      }
      return { ...ours, rcode: Rcode.noError, records: await this.#encoded(query, known, aliases) };
    } catch (thrown) {
      if (thrown instanceof Fault) return { ...failed(Rcode.failure), recursionAvailable: true };
      throw thrown;
    }
  }

  /** @throws Fault if there is no mapping for any of the hosts. */
  async #encoded(query: DnsQuery, known: Known, aliases: readonly DnsRecord[]): Promise<DnsRecord[]> {
    const { hosts, owner } = known.ends;
    const addresses = new Set<Address>();
    let fault: unknown;
    for (const { context, reference } of hosts) {
      try {
        addresses.add(await this.#parts.door.encodedFor(context, reference));
      } catch (thrown) {
        if (!(thrown instanceof Fault)) throw thrown;
        fault = thrown;
      }
    }
    if (addresses.size === 0) throw fault;
    const lifesMs = [...addresses].map((address) => this.#parts.door.remainingMs(address));
    const ttlSeconds = Math.max(
      0,
      Math.min(this.#secondsLeft(known), ...lifesMs.map((ms) => Math.floor(ms / 1000))),
    );
    const { name, type } = query.question;
    const own = aliases.length === 0 ? name : owner;
    const records = [...addresses].map((address) => ({
      ...{ name: own, type, class: CLASS_IN },
      ...{ ttlSeconds, address },
    }));
    return [...aliases.map((each) => limited(each, ttlSeconds)), ...records];
  }

  /** Of what the upstream said, in the seconds that it counts in. */
  #secondsLeft({ untilAt }: Known): number {
    return Math.max(0, Math.ceil((untilAt - this.#clock.now()) / 1000));
  }

  /** The same question to the upstream, word for word. @throws Fault */
  async #relay({ question, edns, ...flags }: DnsQuery): Promise<Outcome> {
    const { recursionDesired, checkingDisabled, authenticData } = flags;
    const { bytes } = await this.#parts.client.ask({
      ...{ name: question.name, type: question.type },
      ...{ recursionDesired, checkingDisabled, authenticData },
      edns: edns ? { dnssecOk: edns.dnssecOk } : false,
    });
    return { relayed: bytes };
  }

  /** @throws Fault */
  #endsOf(name: string): Promise<Known> {
    const key = foldName(name);
    const known = this.#known.get(key);
    if (known && known.untilAt > this.#clock.now()) return Promise.resolve(known);
    this.#known.delete(key);
    const asking =
      this.#asking.get(key) ??
      this.#find(name)
        .then((found) => {
          this.#remember(key, found);
          return found;
        })
        .finally(() => this.#asking.delete(key));
    this.#asking.set(key, asking);
    return asking;
  }

  #remember(key: string, found: Known): void {
    for (const oldest of this.#known.keys()) {
      if (this.#known.size < (this.#options.maxKnown ?? 512)) break;
      this.#known.delete(oldest);
    }
    if (found.untilAt > this.#clock.now()) this.#known.set(key, found);
  }

  /** @throws Fault if the upstream does not say. */
  async #find(name: string): Promise<Known> {
    const askedAt = this.#clock.now();
    const answered = await this.#parts.client.ask({ name, type: TYPE_TXT });
    succeed(answered, name);
    const { aliases, records } = followAliases(answered.message.answers, name, TYPE_TXT);
    const hosts: { context: Address; reference: bigint }[] = [];
    let ttlSeconds = Math.min(...[...aliases, ...records].map((each) => each.ttlSeconds));
    for (const aa of records.flatMap(aaRecordsOf).slice(0, maxHosts)) {
      const context = await this.#contextOf(aa);
      if (context === undefined) continue;
      hosts.push({ context: context.address, reference: aa.reference });
      ttlSeconds = Math.min(ttlSeconds, context.ttlSeconds);
    }
    const ends: Ends = { aliases, owner: aliases.at(-1)?.target ?? name, hosts };
    const lifeMs =
      hosts.length > 0
        ? Math.min(ttlSeconds * 1000, maxKnownMs)
        : Math.min((records.length > 0 ? ttlSeconds : denialSeconds(answered)) * 1000, maxNoneMs);
    return { ends, untilAt: askedAt + lifeMs };
  }

  /** The context address, literal or by name; undefined if it has none in the tunnel's IP version. @throws Fault */
  async #contextOf({
    context,
  }: AaRecord): Promise<{ readonly address: Address; readonly ttlSeconds: number } | undefined> {
    const { tunnel } = this.#options.families;
    if ("address" in context) {
      if (familyOf(context.address) !== tunnel) return undefined;
      return { address: context.address, ttlSeconds: Number.POSITIVE_INFINITY };
    }
    const type = tunnel === 4 ? TYPE_A : TYPE_AAAA;
    const name = `${context.name}.`;
    const answered = await this.#parts.client.ask({ name, type });
    succeed(answered, name);
    const { aliases, records } = followAliases(answered.message.answers, name, type);
    const address = records[0]?.address;
    const ttlSeconds = Math.min(...[...aliases, ...records].map((each) => each.ttlSeconds));
    return address && { address, ttlSeconds };
  }

  /** Which of our zones a name is in. */
  #zoneOf(name: string): string | undefined {
    const labels = parseName(name);
    for (let first = 0; first <= labels.length; first++) {
      const zone = foldName(formatName(labels.slice(first)));
      if (this.#zones.has(zone)) return zone;
    }
    return undefined;
  }
}

/** We have asked others. */
const ours = { authoritative: false, recursionAvailable: true } as const;

/** @throws Fault if the upstream says that it failed. */
function succeed({ message }: Answered, name: string): void {
  const { rcode } = message.flags;
  if (rcode === Rcode.noError || rcode === Rcode.noSuchName) return;
  throw new Fault("closed", `Cannot resolve ${name}: the upstream answers with rcode ${rcode}`);
}

/** How long "no such record" holds (RFC 2308). */
function denialSeconds({ message: { authorities = [] } }: Answered): number {
  const [soa] = authorities;
  return soa?.authority ? Math.min(soa.ttlSeconds, soa.authority.negativeTtlSeconds) : 0;
}

/** The first alias is of the name as this client spells it. */
function spelled(aliases: readonly DnsRecord[], name: string): DnsRecord[] {
  return aliases.map((each, index) => (index === 0 ? { ...each, name } : each));
}

function limited(record: DnsRecord, ttlSeconds: number): DnsRecord {
  return { ...record, ttlSeconds: Math.min(record.ttlSeconds, ttlSeconds) };
}
