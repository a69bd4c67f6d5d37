/**
 * How often each client may ask: a bucket of questions that fills with time.
 *
 * Kept by client: what is left in its bucket and since when. A client is an IPv4 address or an IPv6 /64, which is
 * what one host can take addresses from. The number of buckets is bounded: the one longest unused goes, and whoever
 * comes again begins anew.
 */

import { type Address, familyOf, prefixOf } from "../lib/address.ts";

export interface RateOptions {
  readonly perSecond: number;
  /** Questions at once. */
  readonly burst: number;
  readonly maxClients: number;
}

interface Bucket {
  left: number;
  at: number;
}

export class Rate {
  readonly #options: RateOptions;
  /** The longest unused first. */
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: RateOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#buckets.size;
  }

  /** Takes one question out of a client's bucket. False: it is empty. @param now monotonic milliseconds. */
  allow(client: Address, now: number): boolean {
    const key = clientOf(client);
    const { burst, maxClients, perSecond } = this.#options;
    const bucket = this.#buckets.get(key) ?? { left: burst, at: now };
    this.#buckets.delete(key);
    for (const oldest of this.#buckets.keys()) {
      if (this.#buckets.size < maxClients) break;
      this.#buckets.delete(oldest);
    }
    this.#buckets.set(key, bucket);
    bucket.left = Math.min(burst, bucket.left + ((now - bucket.at) / 1000) * perSecond);
    bucket.at = now;
    if (bucket.left < 1) return false;
    bucket.left--;
    return true;
  }
}

/** Who counts as one client. */
export function clientOf(address: Address): string {
  return familyOf(address) === 4 ? address : prefixOf(address, 64);
}
