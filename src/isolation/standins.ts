/**
 * Stand-ins: the addresses under which services see each other.
 *
 * One of each family for whoever is seen by anybody, the same for all who see it: who may use it is the kernel's to
 * say, by where a packet comes from, so an address that leaked or was guessed is of no use. Kept by key (a service's
 * name, a guest's address, a name and address outside) as leases without end; one that is given back rests before
 * another gets it, so that a client which still believes in it meets nobody else. Addresses that are on a network of
 * the machine are never given, and given up when a network with them appears.
 */

import { type Address, contains, type Family, familyOf, type Prefix } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { Leases, type Rest } from "../lib/lease.ts";
import { addressesIn, type Draw } from "../lib/pool.ts";

export interface StandInOptions {
  readonly pool4: Prefix;
  readonly pool6: Prefix;
  readonly draw: Draw;
  /** How long an address rests after it was given back. */
  readonly restMs: number;
}

/** What one key has. */
export interface StandIn {
  readonly 4: Address;
  readonly 6: Address;
}

export interface SavedRest {
  readonly key: string;
  readonly value: Address;
  readonly leftMs: number;
}

const families: readonly Family[] = [4, 6];
const forever = { lifeMs: Number.POSITIVE_INFINITY, note: undefined } as const;

export class StandIns {
  readonly pools: readonly Prefix[];
  readonly #leases: Readonly<Record<Family, Leases<Address>>>;
  /** The pair of addresses of each key: one object while it stays, so that it can be compared. */
  readonly #byKey = new Map<string, StandIn>();
  #taboo: readonly Prefix[] = [];

  constructor({ pool4, pool6, draw, restMs }: StandInOptions) {
    this.pools = [pool4, pool6];
    const book = (pool: Prefix) => new Leases<Address>({ pool: addressesIn(pool, draw), restMs });
    this.#leases = { 4: book(pool4), 6: book(pool6) };
  }

  get size(): number {
    return this.#byKey.size;
  }

  get resting(): number {
    return this.#leases[4].resting + this.#leases[6].resting;
  }

  get(key: string): StandIn | undefined {
    return this.#byKey.get(key);
  }

  keys(): Iterable<string> {
    return this.#byKey.keys();
  }

  /** Whose stand-in an address is. */
  holder(address: Address): string | undefined {
    return this.#leases[familyOf(address)].holder(address)?.key;
  }

  /** Whether an address could be a stand-in. */
  isOurs(address: Address): boolean {
    return this.pools.some((pool) => contains(pool, address));
  }

  /** The addresses of a key, the same each time. @throws Fault "limit" if a pool has none left. */
  take(key: string, now: number): StandIn {
    const present = this.#byKey.get(key);
    if (present) return present;
    const values = families.map((family) => this.#grant(family, key, now));
    const [v4, v6] = values;
    if (v4 === undefined || v6 === undefined) {
      for (const family of families) this.#leases[family].release(key, now);
      throw new Fault("limit", `Cannot give ${key} a stand-in: the pool has no address left`);
    }
    const standIn: StandIn = { 4: v4, 6: v6 };
    this.#byKey.set(key, standIn);
    return standIn;
  }

  /**
   * Gives every key its addresses, and takes back those of all others.
   *
   * @returns why some have none.
   */
  settle(keys: ReadonlySet<string>, now: number): readonly string[] {
    for (const key of [...this.#byKey.keys()]) if (!keys.has(key)) this.release(key, now);
    for (const key of keys) {
      try {
        this.take(key, now);
      } catch (thrown) {
        // The others would fail in the same way.
        return [messageOf(thrown)];
      }
    }
    return [];
  }

  /** Its addresses rest from now on. */
  release(key: string, now: number): void {
    if (!this.#byKey.delete(key)) return;
    for (const family of families) this.#leases[family].release(key, now);
  }

  /**
   * Networks of the machine: no stand-in is in one of them.
   *
   * @returns keys whose stand-ins were in one of them, and that have none now.
   */
  avoid(prefixes: Iterable<Prefix>, now: number): readonly string[] {
    this.#taboo = [...new Set(prefixes)].filter((prefix) => this.pools.some((pool) => overlap(pool, prefix)));
    if (this.#taboo.length === 0) return [];
    const hit = [...this.#byKey].filter(([, standIn]) =>
      families.some((family) => !this.#isFree(standIn[family])),
    );
    for (const [key] of hit) this.release(key, now);
    return hit.map(([key]) => key);
  }

  /** Takes in a stand-in of an earlier life. @returns false if it is out already, or none of the pools'. */
  restore(key: string, standIn: StandIn): boolean {
    if (this.#byKey.has(key)) return false;
    const lease = (family: Family) => ({
      ...{ key, value: standIn[family], note: undefined, grantedAt: 0 },
      endsAt: Number.POSITIVE_INFINITY,
    });
    if (!this.#leases[4].restore(lease(4))) return false;
    if (!this.#leases[6].restore(lease(6))) {
      this.#leases[4].release(key, 0);
      return false;
    }
    this.#byKey.set(key, standIn);
    return true;
  }

  /** Takes in addresses that rested in an earlier life. */
  restoreRests(rests: readonly SavedRest[], now: number): void {
    for (const { key, value, leftMs } of [...rests].sort((one, other) => one.leftMs - other.leftMs)) {
      this.#leases[familyOf(value)].restoreRest({ key, value, untilAt: now + leftMs });
    }
  }

  rests(now: number): SavedRest[] {
    const of = ({ key, value, untilAt }: Rest<Address>) => ({
      key,
      value,
      leftMs: Math.max(0, untilAt - now),
    });
    return families
      .flatMap((family) => [...this.#leases[family].rests()].map(of))
      .filter(({ leftMs }) => leftMs > 0);
  }

  #grant(family: Family, key: string, now: number): Address | undefined {
    const isFree = (value: Address) => this.#isFree(value);
    const grant = this.#leases[family].take(key, { now, ...forever, isFree });
    return grant.kind === "granted" ? grant.lease.value : undefined;
  }

  #isFree(value: Address): boolean {
    return !this.#taboo.some((prefix) => contains(prefix, value));
  }
}

/** Whether two prefixes have addresses in common. */
export function overlap(one: Prefix, other: Prefix): boolean {
  const base = (prefix: Prefix) => prefix.slice(0, prefix.indexOf("/")) as Address;
  return !other.endsWith("/0") && (contains(one, base(other)) || contains(other, base(one)));
}
