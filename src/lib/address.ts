/**
 * IP and MAC addresses as canonical text.
 *
 * An address lives in memory as its canonical text, so that equal addresses are equal strings: they serve as
 * map keys, in JSON and in rules without conversion. IPv4 is dotted decimal, IPv6 is RFC 5952 (lower case,
 * longest run of zeros shortened, no IPv4 tail), MACs are lower case with colons. Text from outside becomes an
 * Address only through the parse functions here, bytes only through the decode functions.
 */

declare const canonical: unique symbol;

/** A canonical IPv4 or IPv6 address without zone or prefix length. */
export type Address = string & { readonly [canonical]: "address" };

/** A canonical 48-bit MAC address, `aa:bb:cc:dd:ee:ff`. */
export type Mac = string & { readonly [canonical]: "mac" };

/** A canonical prefix: address with host bits zero, slash, length. */
export type Prefix = string & { readonly [canonical]: "prefix" };

export type Family = 4 | 6;

/** Which family a canonical address is of. */
export function familyOf(address: Address): Family {
  return address.includes(":") ? 6 : 4;
}

/**
 * Reads an IPv4 or IPv6 address.
 *
 * Leading zeros, octal, hex and short IPv4 forms, zones (`%eth0`) and brackets are not addresses.
 *
 * @returns the canonical address, or undefined if the text is none.
 */
export function parseAddress(text: string): Address | undefined {
  if (text.length > 45) return undefined;
  if (text.includes(":")) {
    const groups = parseGroups(text);
    return groups && formatGroups(groups);
  }
  return parseOctets(text) ? (text as Address) : undefined;
}

/** A part of a text. */
export interface Bounds {
  readonly from: number;
  readonly to: number;
}

/**
 * Reads an address out of the bytes of a text, as `parseAddress` does, but makes nothing of it: stores hold a hundred
 * thousand. IPv6 with an IPv4 tail, which nobody stores, takes the longer way.
 *
 * @param into sixteen bytes: the address comes first, zeros follow.
 */
export function readAddress(text: Uint8Array, bounds: Bounds, into: Uint8Array): Family | undefined {
  into.fill(0);
  if (readOctets(text, bounds, into)) return 4;
  into.fill(0);
  if (readColons(text, bounds, into)) return 6;
  into.fill(0);
  const { from, to } = bounds;
  if (to - from > 45) return undefined;
  let part = "";
  for (let at = from; at < to; at++) part += String.fromCharCode(text[at]!);
  const groups = part.includes(":") ? parseGroups(part) : undefined;
  groups?.forEach((group, index) => {
    into[index * 2] = group >> 8;
    into[index * 2 + 1] = group & 255;
  });
  return groups && 6;
}

/** Groups and at most one "::". */
function readColons(text: Uint8Array, { from, to }: Bounds, into: Uint8Array): boolean {
  let length = 0;
  let gap = -1;
  let digits = 0;
  for (let at = from; at < to; at++) {
    const byte = text[at]!;
    if (byte === 58) {
      // The first of two colons, or one between groups; never alone at an end.
      const isFirst = digits > 0 || at === from;
      if (isFirst ? at + 1 === to || (at === from && text[at + 1] !== 58) : gap >= 0) return false;
      if (digits > 0) length += 2;
      if (!isFirst) gap = length;
      digits = 0;
      continue;
    }
    const letter = byte | 32;
    const value = byte >= 48 && byte <= 57 ? byte - 48 : letter >= 97 && letter <= 102 ? letter - 87 : -1;
    if (value < 0 || digits === 4 || length === 16) return false;
    const group = (((into[length]! << 8) | into[length + 1]!) << 4) | value;
    into[length] = group >> 8;
    into[length + 1] = group;
    digits++;
  }
  if (digits > 0) length += 2;
  if (gap < 0) return length === 16;
  if (length > 14) return false;
  into.copyWithin(16 - (length - gap), gap, length);
  into.fill(0, gap, 16 - (length - gap));
  return true;
}

function readOctets(text: Uint8Array, { from, to }: Bounds, into: Uint8Array): boolean {
  let octet = 0;
  let value = 0;
  let digits = 0;
  for (let at = from; at < to; at++) {
    const digit = text[at]! - 48;
    if (digit === -2 && digits > 0 && octet < 3) {
      into[octet++] = value;
      value = 0;
      digits = 0;
      continue;
    }
    const isRight = digit >= 0 && digit <= 9 && !(digits === 1 && value === 0);
    value = value * 10 + digit;
    if (!isRight || value > 255) return false;
    digits++;
  }
  into[octet] = value;
  return octet === 3 && digits > 0;
}

/**
 * Reads four or sixteen bytes in network order.
 *
 * @throws RangeError if the bytes are not all there.
 */
export function decodeAddress(bytes: Uint8Array, offset: number, family: Family): Address {
  const size = family === 4 ? 4 : 16;
  if (offset < 0 || offset + size > bytes.length) {
    throw new RangeError(`Cannot decode address: ${size} bytes at ${offset} of ${bytes.length}`);
  }
  if (family === 4) {
    return `${bytes[offset]}.${bytes[offset + 1]}.${bytes[offset + 2]}.${bytes[offset + 3]}` as Address;
  }
  const groups: number[] = [];
  for (let at = offset; at < offset + 16; at += 2) groups.push((bytes[at]! << 8) | bytes[at + 1]!);
  return formatGroups(groups);
}

/** The four or sixteen bytes of an address, in network order. */
export function encodeAddress(address: Address): Uint8Array {
  if (familyOf(address) === 4) return encodeFour(address);
  const bytes = new Uint8Array(16);
  parseGroups(address)!.forEach((group, index) => {
    bytes[index * 2] = group >> 8;
    bytes[index * 2 + 1] = group & 255;
  });
  return bytes;
}

/** Digit by digit: stores hold a hundred thousand of them. */
function encodeFour(address: Address): Uint8Array {
  const bytes = new Uint8Array(4);
  let value = 0;
  let index = 0;
  for (let at = 0; at < address.length; at++) {
    const digit = address.charCodeAt(at) - 48;
    if (digit >= 0) value = value * 10 + digit;
    else {
      bytes[index++] = value;
      value = 0;
    }
  }
  bytes[index] = value;
  return bytes;
}

/** Reads a MAC of six two-digit groups, with colons or dashes, in any case. */
export function parseMac(text: string): Mac | undefined {
  if (!/^[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}$/.test(text)) return undefined;
  return text.toLowerCase().replaceAll("-", ":") as Mac;
}

/** Reads six bytes as a MAC. */
export function decodeMac(bytes: Uint8Array, offset = 0): Mac {
  if (offset < 0 || offset + 6 > bytes.length)
    throw new RangeError(`Cannot decode MAC: 6 bytes at ${offset} of ${bytes.length}`);
  let text = "";
  for (let at = offset; at < offset + 6; at++) {
    text += (at === offset ? "" : ":") + bytes[at]!.toString(16).padStart(2, "0");
  }
  return text as Mac;
}

/** True for a MAC that names one device: not zero, not a group (broadcast, multicast) address. */
export function isDeviceMac(mac: Mac): boolean {
  return mac !== "00:00:00:00:00:00" && (Number.parseInt(mac.slice(0, 2), 16) & 1) === 0;
}

/** What an address is for, as far as its bits tell (IANA special-purpose registries). */
export type Scope = "unspecified" | "loopback" | "multicast" | "broadcast" | "link" | "private" | "global";

/**
 * The scope of an address; "broadcast" is the limited broadcast only, a subnet's cannot be told by its bits. An IPv4
 * address written as IPv6 (::ffff:0:0/96) is on no wire: "unspecified".
 */
export function scopeOf(address: Address): Scope {
  return familyOf(address) === 4 ? scopeOf4(address) : scopeOf6(address);
}

function scopeOf4(address: Address): Scope {
  const dot = address.indexOf(".");
  const first = Number(address.slice(0, dot));
  if (first === 0) return "unspecified";
  if (first === 10) return "private";
  if (first === 127) return "loopback";
  if (first >= 224 && first <= 239) return "multicast";
  if (first !== 169 && first !== 172 && first !== 192 && first !== 255) return "global";
  const second = Number(address.slice(dot + 1, address.indexOf(".", dot + 1)));
  if (first === 169) return second === 254 ? "link" : "global";
  if (first === 172) return second >= 16 && second <= 31 ? "private" : "global";
  if (first === 192) return second === 168 ? "private" : "global";
  return address === "255.255.255.255" ? "broadcast" : "global";
}

function scopeOf6(address: Address): Scope {
  if (address.startsWith("::")) {
    if (address === "::1") return "loopback";
    return address === "::" || address.startsWith("::ffff:") ? "unspecified" : "global";
  }
  // Only a group of four digits can begin with "f" and be one of these.
  if (address[0] !== "f" || address.indexOf(":") !== 4) return "global";
  const second = address[1]!;
  if (second === "f") return "multicast";
  if (second === "c" || second === "d") return "private";
  return second === "e" && "89ab".includes(address[2]!) ? "link" : "global";
}

/** Reads `address/length`; an address alone is its full-length prefix. Host bits are cleared. */
export function parsePrefix(text: string): Prefix | undefined {
  const slash = text.indexOf("/");
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) return undefined;
  const bits = familyOf(address) === 4 ? 32 : 128;
  if (slash < 0) return `${address}/${bits}` as Prefix;
  const digits = text.slice(slash + 1);
  if (!/^(?:0|[1-9][0-9]{0,2})$/.test(digits) || Number(digits) > bits) return undefined;
  return prefixOf(address, Number(digits));
}

/** The prefix of a given length that an address lies in. */
export function prefixOf(address: Address, length: number): Prefix {
  const bytes = encodeAddress(address);
  for (let index = 0; index < bytes.length; index++) {
    const keep = Math.min(8, Math.max(0, length - index * 8));
    bytes[index] = bytes[index]! & (0xff00 >> keep);
  }
  return `${decodeAddress(bytes, 0, familyOf(address))}/${length}` as Prefix;
}

/** The address of an IPv4 prefix that means all in it; undefined where there is none (RFC 3021, IPv6). */
export function broadcastOf(address: Address, prefixLength: number): Address | undefined {
  if (familyOf(address) === 6 || prefixLength > 30) return undefined;
  const bytes = encodeAddress(address);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, view.getUint32(0) | (0xffff_ffff >>> prefixLength));
  return decodeAddress(bytes, 0, 4);
}

/** Whether an address lies in a prefix of its own family. */
export function contains(prefix: Prefix, address: Address): boolean {
  const [base, length] = prefix.split("/") as [Address, string];
  return familyOf(base) === familyOf(address) && prefixOf(address, Number(length)) === prefix;
}

/** Orders addresses as SPIN lists them: all IPv4 before all IPv6, each by value. */
export function compareAddresses(left: Address, right: Address): number {
  if (familyOf(left) !== familyOf(right)) return familyOf(left) - familyOf(right);
  const [a, b] = [encodeAddress(left), encodeAddress(right)];
  for (let index = 0; index < a.length; index++) {
    if (a[index] !== b[index]) return a[index]! - b[index]!;
  }
  return 0;
}

function parseOctets(text: string): number[] | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (!match) return undefined;
  const octets: number[] = [];
  for (const digits of match.slice(1)) {
    if (Number(digits) > 255 || (digits.length > 1 && digits.startsWith("0"))) return undefined;
    octets.push(Number(digits));
  }
  return octets;
}

/** Eight 16-bit groups of an IPv6 text, or undefined. */
function parseGroups(text: string): number[] | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = parseHalf(halves[0]!, halves.length === 1);
  if (!head) return undefined;
  if (halves.length === 1) return head.length === 8 ? head : undefined;
  const tail = parseHalf(halves[1]!, true);
  if (!tail || head.length + tail.length > 7) return undefined;
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
}

function parseHalf(text: string, last: boolean): number[] | undefined {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (const [index, part] of parts.entries()) {
    if (last && index === parts.length - 1 && part.includes(".")) {
      const octets = parseOctets(part);
      if (!octets) return undefined;
      groups.push((octets[0]! << 8) | octets[1]!, (octets[2]! << 8) | octets[3]!);
    } else if (/^[0-9a-fA-F]{1,4}$/.test(part)) {
      groups.push(Number.parseInt(part, 16));
    } else {
      return undefined;
    }
  }
  return groups;
}

/** RFC 5952: the first longest run of at least two zero groups becomes "::". */
function formatGroups(groups: readonly number[]): Address {
  let start = -1;
  let length = 1;
  for (let at = 0; at < 8; at++) {
    let end = at;
    while (end < 8 && groups[end] === 0) end++;
    if (end - at > length) {
      start = at;
      length = end - at;
    }
    if (end > at) at = end;
  }
  const hex = (part: readonly number[]) => part.map((group) => group.toString(16)).join(":");
  if (start < 0) return hex(groups) as Address;
  return `${hex(groups.slice(0, start))}::${hex(groups.slice(start + length))}` as Address;
}
