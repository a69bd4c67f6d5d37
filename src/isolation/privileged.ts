/**
 * Privileged parties: who may resolve and reach every service, and whom every service may.
 *
 * Kept: clients by name, for they stay privileged wherever they go, or by address, while nobody knows their name;
 * hosts, by name, from the configuration; and the bootstrap, in which everybody on one segment is a client. It ends
 * for good when the manager has said who it is, and until the next start when its time is over; that the segment's
 * device goes and comes does not begin it again.
 */

import type { Address } from "../lib/address.ts";

export interface PrivilegedOptions {
  /** Canonical names that every service may resolve and reach. */
  readonly hosts?: readonly string[];
  /** Canonical names that may resolve and reach every service. */
  readonly clients?: readonly string[];
  /** The segment whose parties all are clients at first. */
  readonly bootstrap?: { readonly segment: string; readonly forMs: number };
}

/** What is stored. */
export interface SavedPrivileged {
  readonly names: readonly string[];
  readonly addresses: readonly Address[];
  /** The manager has said who it is. */
  readonly identified: boolean;
}

/** Addresses and names that calls may add. */
const maxAdded = 256;

export class Privileged {
  readonly hosts: ReadonlySet<string>;
  readonly #configured: ReadonlySet<string>;
  readonly #names: Set<string>;
  readonly #addresses: Set<Address>;
  readonly #bootstrap: { readonly segment: string; readonly endsAt: number } | undefined;
  #isIdentified: boolean;

  constructor(
    { hosts = [], clients = [], bootstrap }: PrivilegedOptions,
    now: number,
    saved?: SavedPrivileged,
  ) {
    this.hosts = new Set(hosts);
    this.#configured = new Set(clients);
    this.#names = new Set(saved?.names);
    this.#addresses = new Set(saved?.addresses);
    this.#isIdentified = saved?.identified ?? false;
    this.#bootstrap = bootstrap && { segment: bootstrap.segment, endsAt: now + bootstrap.forMs };
  }

  /** Nobody is privileged, so nothing has to be ready for them. */
  isEmpty(now: number): boolean {
    const count = this.hosts.size + this.#configured.size + this.#names.size + this.#addresses.size;
    return count === 0 && this.bootstrapping(now) === undefined;
  }

  isFull(): boolean {
    return this.#names.size + this.#addresses.size >= maxAdded;
  }

  /** The segment whose parties are clients, while they are; and when that ends. */
  bootstrapping(now: number): { readonly segment: string; readonly endsAt: number } | undefined {
    const isOn = this.#bootstrap && !this.#isIdentified && now < this.#bootstrap.endsAt;
    return isOn ? this.#bootstrap : undefined;
  }

  isClient(name: string): boolean {
    return this.#configured.has(name) || this.#names.has(name) || this.#addresses.has(name as Address);
  }

  *clients(): Iterable<string> {
    yield* this.#configured;
    for (const name of this.#names) if (!this.#configured.has(name)) yield name;
  }

  get addresses(): Iterable<Address> {
    return this.#addresses;
  }

  /** Has the manager identified itself: the bootstrap is over. @returns the undoing */
  identify(): () => void {
    const before = this.#isIdentified;
    this.#isIdentified = true;
    return () => {
      this.#isIdentified = before;
    };
  }

  /** @param who a canonical name, or an address. @returns the undoing */
  add(who: string): () => void {
    const set: Set<string> = isAddress(who) ? this.#addresses : this.#names;
    if (set.has(who)) return () => {};
    set.add(who);
    return () => void set.delete(who);
  }

  /** What the configuration says stays. @returns the undoing, or undefined if it was not privileged by a call. */
  remove(who: string): (() => void) | undefined {
    const set: Set<string> = isAddress(who) ? this.#addresses : this.#names;
    return set.delete(who) ? () => void set.add(who) : undefined;
  }

  save(): SavedPrivileged {
    return { names: [...this.#names], addresses: [...this.#addresses], identified: this.#isIdentified };
  }
}

/** No canonical name is an address. */
export function isAddress(who: string): who is Address {
  return who.includes(":") || /^[0-9.]+$/.test(who);
}
