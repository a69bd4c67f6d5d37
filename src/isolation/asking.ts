/**
 * Local names that nobody has seen yet: whom to ask a segment's resolver for, and when.
 *
 * Kept by name: when to ask next, and which addresses the last answer gave. A name that is not found is asked for
 * again, slower and slower; one that is found is asked for now and then, so that a restart is noticed. An answer says
 * all there is: what it no longer names is taken back.
 */

import type { Address } from "../lib/address.ts";
import type { Place } from "./services.ts";

interface Asked {
  nextAt: number;
  waitMs: number;
  places: readonly Place[];
}

const firstWaitMs = 1_000;
const lastWaitMs = 30_000;
const foundWaitMs = 5_000;

export class Asking {
  readonly #names = new Map<string, Asked>();

  /** Asks for a name from now on. */
  add(name: string, now: number): void {
    if (!this.#names.has(name)) this.#names.set(name, { nextAt: now, waitMs: firstWaitMs, places: [] });
  }

  /** @returns where it was found, to be taken back. */
  drop(name: string): readonly Place[] {
    const places = this.#names.get(name)?.places ?? [];
    this.#names.delete(name);
    return places;
  }

  /** Now rather than later. */
  hurry(name: string, now: number): void {
    const asked = this.#names.get(name);
    if (asked) [asked.nextAt, asked.waitMs] = [now, firstWaitMs];
  }

  due(now: number): string[] {
    return [...this.#names].flatMap(([name, { nextAt }]) => (nextAt <= now ? [name] : []));
  }

  /**
   * What a resolver said; undefined: it did not answer, which says nothing.
   *
   * @param placeOf the device of an address, if it is on a segment: an address that is elsewhere is no answer.
   * @returns places that are new or again, and places to be taken back.
   */
  answered(
    name: string,
    answer: {
      readonly addresses: readonly Address[] | undefined;
      placeOf(address: Address): string | undefined;
    },
    now: number,
  ): { readonly found: readonly Place[]; readonly gone: readonly Place[] } {
    const asked = this.#names.get(name);
    if (!asked) return { found: [], gone: [] };
    const found = (answer.addresses ?? []).slice(0, 16).flatMap((address) => {
      const device = answer.placeOf(address);
      return device === undefined ? [] : [{ device, address }];
    });
    asked.nextAt = now + (found.length > 0 ? foundWaitMs : asked.waitMs);
    asked.waitMs = found.length > 0 ? firstWaitMs : Math.min(lastWaitMs, asked.waitMs * 2);
    if (answer.addresses === undefined) return { found: [], gone: [] };
    const isFound = (place: Place) =>
      found.some((each) => each.device === place.device && each.address === place.address);
    const gone = asked.places.filter((place) => !isFound(place));
    asked.places = found;
    return { found, gone };
  }
}
