/**
 * Where DHCP servers and administrators write down who is who: dnsmasq's lease file and the `config host`
 * sections of the router's DHCP configuration.
 *
 * Neither is trusted: a client chooses its name and its client id. What does not parse is counted and skipped,
 * the rest counts; the order of lines means nothing but that `duid` begins the IPv6 part.
 *
 * ```
 * <expiry> <mac> <address> <name|*> <client id|*>        IPv4, mac perhaps with a hardware type "06-" before
 * duid <server's duid>
 * <expiry> <iaid, T before it: temporary> <address> <name|*> <client's duid|*>    name and address may be swapped
 * ```
 */

import { type Address, familyOf, isDeviceMac, type Mac, parseAddress, parseMac } from "../lib/address.ts";
import type { Lease, StaticHost } from "./identity.ts";

/** Lines past this are not read; dnsmasq's own limit is 1000 leases. */
const LINES = 16_384;
/** A client id has at most 255 bytes (RFC 2132), a DUID 130 (RFC 8415). */
const CLIENT_ID = /^[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){0,254}$/;
const LINE_LENGTH = 2048;
const HOSTS = 4096;
const MACS = 16;

/** Reads the text of a lease file. `skipped` counts the lines that are none. */
export function parseLeases(text: string): { leases: Lease[]; skipped: number } {
  const leases = new Map<Address, Lease>();
  let skipped = 0;
  let lines = 0;
  for (let start = 0; start < text.length && lines < LINES; lines++) {
    const newline = text.indexOf("\n", start);
    const end = newline < 0 ? text.length : newline;
    const line = end - start > LINE_LENGTH ? undefined : text.slice(start, end).replace(/\r$/, "");
    start = end + 1;
    if (line === "" || line?.startsWith("duid ")) continue;
    const lease = line === undefined ? undefined : parseLease(line);
    if (lease) leases.set(lease.address, lease);
    else skipped++;
  }
  return { leases: [...leases.values()], skipped };
}

function parseLease(line: string): Lease | undefined {
  const fields = line.split(" ");
  // Hosts that dnsmasq knows by name may have a sixth field in some versions; nobody has fewer than five.
  if (fields.length < 5 || fields.length > 6) return undefined;
  const [expiry, link, third, fourth, clientId] = fields as [string, string, string, string, string];
  const [address, name] = parseAddress(third) || !fourth.includes(":") ? [third, fourth] : [fourth, third];
  const parsed = parseAddress(address);
  if (!parsed || !/^[0-9]{1,15}$/.test(expiry)) return undefined;
  if (clientId !== "*" && !CLIENT_ID.test(clientId)) return undefined;
  const common = {
    address: parsed,
    expiresAt: Number(expiry) * 1000,
    ...(name !== "*" && name !== "" && { name }),
    ...(clientId !== "*" && { clientId: clientId.toLowerCase() }),
  };
  if (familyOf(parsed) === 6) return /^T?[0-9]{1,10}$/.test(link) ? common : undefined;
  const mac = parseMac(link.replace(/^[0-9a-fA-F]{2}-/, ""));
  return mac && isDeviceMac(mac) ? { ...common, mac } : undefined;
}

/** A section of a UCI file. */
export interface HostSection {
  readonly type: string;
  readonly options: ReadonlyMap<string, string | readonly string[]>;
}

/**
 * Reads the `host` sections of `/etc/config/dhcp`; others are passed over. `skipped` counts those of them
 * that name nobody: no name, or neither MAC nor address.
 */
export function parseHosts(sections: readonly HostSection[]): { hosts: StaticHost[]; skipped: number } {
  const hosts: StaticHost[] = [];
  let skipped = 0;
  for (const { type, options } of sections) {
    if (type !== "host") continue;
    const [name] = words(options.get("name"));
    const macs = words(options.get("mac")).flatMap((text) => parseMac(text) ?? ([] as Mac[]));
    const address = parseAddress(words(options.get("ip"))[0] ?? "");
    if (name === undefined || (macs.length === 0 && !address) || hosts.length >= HOSTS) {
      skipped++;
      continue;
    }
    hosts.push({ name, macs: macs.filter(isDeviceMac).slice(0, MACS), ...(address && { address }) });
  }
  return { hosts, skipped };
}

/** Lists are written as such or with blanks between. */
function words(value: string | readonly string[] | undefined): string[] {
  if (value === undefined) return [];
  const texts = typeof value === "string" ? [value] : value;
  return texts.flatMap((text) => text.slice(0, LINE_LENGTH).split(/[ \t\n]+/)).filter((word) => word !== "");
}
