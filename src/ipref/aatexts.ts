/** The AA records in what a DNS server answers. Keeps nothing. */

import type { DnsRecord } from "../lib/dns.ts";
import { type AaRecord, parseAa } from "./aa.ts";

/** Those among the character-strings of a TXT record; what begins like one and is none, is none. */
export function aaRecordsOf({ texts = [] }: DnsRecord): AaRecord[] {
  return texts.flatMap((bytes) => {
    try {
      return parseAa(String.fromCharCode(...bytes)) ?? [];
    } catch (thrown) {
      if (thrown instanceof SyntaxError) return [];
      throw thrown;
    }
  });
}
