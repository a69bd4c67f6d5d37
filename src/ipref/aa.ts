/**
 * AA records: an IPREF address in DNS, which has no type of its own and travels as text.
 *
 *     TXT "AA <context address or name> + <reference>"
 *
 * Each character-string of a TXT record is looked at alone. Nothing is kept here.
 */

import { type Address, parseAddress } from "../lib/address.ts";
import { formatReference, parseReference } from "../lib/reference.ts";

export interface AaRecord {
  /** The context address, or the name that has it, in lower case and without a dot at its end. */
  readonly context: { readonly address: Address } | { readonly name: string };
  readonly reference: bigint;
}

/** Longer than any name with any reference. */
const maxTextLength = 512;

/**
 * Reads one character-string.
 *
 * @returns undefined if it is about something else: it does not begin with "AA ".
 * @throws SyntaxError if it begins so, and the rest is no IPREF address.
 */
export function parseAa(text: string): AaRecord | undefined {
  if (!text.startsWith("AA ")) return undefined;
  const parts = text.length > maxTextLength ? [] : text.slice(3).split("+");
  if (parts.length !== 2) return fail(text);
  const [host, reference] = [parts[0]!.trim(), parseReference(parts[1]!.trim())];
  const address = parseAddress(host);
  if (address !== undefined) return { context: { address }, reference };
  return { context: { name: nameOf(host) ?? fail(text) }, reference };
}

export function formatAa({ context, reference }: AaRecord): string {
  return `AA ${"address" in context ? context.address : context.name} + ${formatReference(reference)}`;
}

/** A host name (RFC 1123, with underscores); digits and dots alone are an address that somebody mistyped. */
function nameOf(text: string): string | undefined {
  const name = text.toLowerCase().replace(/\.$/, "");
  if (name.length < 1 || name.length > 253 || /^[0-9.]*$/.test(name)) return undefined;
  return name.split(".").every((label) => /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label))
    ? name
    : undefined;
}

function fail(text: string): never {
  throw new SyntaxError(`Cannot read AA record: ${JSON.stringify(text.slice(0, 80))} is no IPREF address`);
}
