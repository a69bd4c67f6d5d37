/**
 * What a name means here: declared or learnt, an alias, the router's own, or outside.
 *
 * Follows from the configuration alone. Commands, evidence and queries all come through here, so that a name is the same one everywhere.
 */

import { Fault } from "../lib/fault.ts";
import { canonicalName, canonicalPattern, isPattern, requireName, shown, type Territory } from "./name.ts";
import type { Services } from "./services.ts";

/** More names than are connected to. */
const maxKnown = 131_072;

export class Naming {
  /** Names of the router itself. */
  readonly own: ReadonlySet<string>;
  /** What `isOutside` said: it is asked again and again of the same names, and nothing changes it. */
  readonly #known = new Map<string, boolean>();
  readonly #territory: Territory;
  readonly #services: Services;

  constructor(parts: {
    readonly territory: Territory;
    readonly own: ReadonlySet<string>;
    readonly services: Services;
  }) {
    this.own = parts.own;
    this.#territory = parts.territory;
    this.#services = parts.services;
  }

  /** Canonical form of a name of a service, its alias resolved, or of a pattern. @throws Fault "invalid" */
  canonical(text: unknown, what: string): string {
    const pattern = typeof text === "string" && text.startsWith("*.") ? canonicalPattern(text) : undefined;
    if (pattern !== undefined) {
      if (this.#territory.isOutside(pattern)) return pattern;
      throw new Fault("invalid", `${what}: ${shown(text)} is no pattern of names outside`);
    }
    const name = requireName(text, what);
    return this.local(name) ?? name;
  }

  /** What a canonical name is called here, or undefined if it is outside. */
  local(name: string): string | undefined {
    const short = this.#territory.shortened(name);
    for (const each of [name, short]) {
      const known = this.#services.nameOf(each);
      if (this.#services.isDeclared(known)) return known;
    }
    return this.#territory.isOutside(name) ? undefined : short;
  }

  isOutside(name: string): boolean {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const isOutside = isPattern(name) || this.local(name) === undefined;
    if (this.#known.size >= maxKnown) this.#known.clear();
    this.#known.set(name, isOutside);
    return isOutside;
  }

  /** A host name as hosts send it: one label, alone or in a domain of ours. */
  hostname(text: string | undefined): string | undefined {
    const name = text === undefined ? undefined : canonicalName(text);
    if (name === undefined) return undefined;
    const short = this.#territory.shortened(name);
    return short.includes(".") ? undefined : short;
  }
}
