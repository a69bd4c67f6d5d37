/**
 * Names of services: one canonical text for each, and whether it is ours to answer or the world's.
 *
 * A canonical name is in lower case and without the dot at its end, so that names which are equal in DNS are equal
 * strings. What a name is depends on the configuration alone, never on what somebody claims: a declared service, a
 * name without a dot and a name in a domain of ours are local; every other is outside. So no answer from outside is
 * ever taken for a local name, and no host of a segment can take the place of a name outside.
 */

import { parseAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";

/** RFC 1035 in text, without the last dot. */
const maxName = 253;
const label = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;
/** Nobody outside may be asked for these (RFC 6761, 6762, 7686, 8375, ICANN's `internal`). */
const reserved: readonly string[] = ["arpa", "internal", "invalid", "local", "localhost", "onion"];

/** The canonical form of a name, or undefined if the text is none. */
export function canonicalName(text: string): string | undefined {
  if (text.length > maxName + 1) return undefined;
  const name = (text.endsWith(".") ? text.slice(0, -1) : text).toLowerCase();
  if (name.length > maxName || parseAddress(name) !== undefined) return undefined;
  // A letter beyond ASCII may fold into one of ASCII: what does is no name either.
  if (/[^\x21-\x7e]/.test(text)) return undefined;
  return name.split(".").every((each) => label.test(each)) ? name : undefined;
}

/** The canonical form of a name or of `*.` and a name, which stands for every name below it. */
export function canonicalPattern(text: string): string | undefined {
  if (!text.startsWith("*.")) return canonicalName(text);
  const name = canonicalName(text.slice(2));
  return name === undefined || name.length + 2 > maxName ? undefined : `*.${name}`;
}

/** @throws Fault "invalid" */
export function requireName(text: unknown, what: string): string {
  const name = typeof text === "string" ? canonicalName(text) : undefined;
  if (name === undefined) throw new Fault("invalid", `${what}: ${shown(text)} is no name of a service`);
  return name;
}

/** A foreign text in a message: not at any length, and harmless. */
export function shown(text: unknown): string {
  return typeof text === "string" ? JSON.stringify(text.slice(0, 64)) : "what is given";
}

export function isPattern(name: string): boolean {
  return name.startsWith("*.");
}

/** Whether a name lies below that of a pattern. */
export function matches(pattern: string, name: string): boolean {
  return name.length > pattern.length - 1 && name.endsWith(pattern.slice(1));
}

/** The patterns that a name lies below, the narrowest first. */
export function* patternsOf(name: string): Iterable<string> {
  for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) yield `*${name.slice(dot)}`;
}

export class Territory {
  readonly #domains: readonly string[];

  /** @param domains whose names are ours; `db.lan` is then `db`. */
  constructor(domains: readonly string[]) {
    this.#domains = [...domains, "local"].flatMap((domain) => canonicalName(domain) ?? []);
  }

  /** A name without the domain of ours that it is in. */
  shortened(name: string): string {
    for (const domain of this.#domains) {
      if (name.endsWith(`.${domain}`)) return name.slice(0, -domain.length - 1);
    }
    return name;
  }

  /** Whether a name that is no declared service's, or a pattern, is the world's. */
  isOutside(name: string): boolean {
    const plain = isPattern(name) ? name.slice(2) : name;
    if (!plain.includes(".") && !isPattern(name)) return false;
    const isBelow = (domain: string) => plain === domain || plain.endsWith(`.${domain}`);
    return !this.#domains.some(isBelow) && !reserved.some(isBelow);
  }
}
