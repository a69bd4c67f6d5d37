/**
 * Netlink attributes: the type-length-value lists that every netlink message carries, read and written.
 *
 *      0               1               2               3
 *     +-------------------------------+-------------------------------+
 *     | length, header included       |N|O| type                      |  host byte order
 *     +-------------------------------+-------------------------------+
 *     | value: number, bytes, text, or attributes again (N)           |
 *     |                                        padded to 4 bytes      |
 *     +---------------------------------------------------------------+
 *
 * Lengths, types and rtnetlink's numbers are in the byte order of the machine; numbers inside nfnetlink's
 * attributes are in network order. Which of the two a field has is not written in the message, so each read
 * says it. Nothing here keeps state between messages: an `Attributes` is a finger on the latest one, reused so
 * that reading ten thousand messages makes no garbage.
 *
 * Source: netlink(7), linux/netlink.h.
 */

import { type Address, decodeAddress } from "../lib/address.ts";
import { hostIsLittle } from "../lib/endian.ts";

/** Numbers in one byte order. */
export class ByteOrder {
  readonly #little: boolean;

  constructor(little: boolean) {
    this.#little = little;
  }

  read16(bytes: Uint8Array, at: number): number {
    return this.#little ? bytes[at]! | (bytes[at + 1]! << 8) : (bytes[at]! << 8) | bytes[at + 1]!;
  }

  /** Unsigned. */
  read32(bytes: Uint8Array, at: number): number {
    const low = this.read16(bytes, this.#little ? at : at + 2);
    return this.read16(bytes, this.#little ? at + 2 : at) * 0x10000 + low;
  }

  bytes16(value: number): Uint8Array {
    const bytes = [value & 255, (value >>> 8) & 255];
    return Uint8Array.from(this.#little ? bytes : bytes.reverse());
  }

  /** Of a signed or an unsigned number. */
  bytes32(value: number): Uint8Array {
    const bytes = [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, (value >>> 24) & 255];
    return Uint8Array.from(this.#little ? bytes : bytes.reverse());
  }
}

/** The byte order of this machine: routers have either. */
export const host = new ByteOrder(hostIsLittle);
export const network = new ByteOrder(false);

const headerBytes = 4;
const nestedFlag = 0x8000;
/** Without the flags for "nested" and "in network byte order". */
const typeMask = 0x3fff;

/** Attributes to be written: type, and its value or the attributes nested in it. */
export type AttributeList = readonly (readonly [type: number, value: Uint8Array | AttributeList])[];

/**
 * The bytes of a list of attributes, padded.
 *
 * @throws RangeError for a type or a value that the 16-bit fields cannot hold.
 */
export function encodeAttributes(list: AttributeList): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const [type, value] of list) {
    const nested = !(value instanceof Uint8Array);
    const bytes = nested ? encodeAttributes(value) : value;
    const size = headerBytes + bytes.length;
    if (type < 0 || type > typeMask) throw new RangeError(`Cannot encode attribute: type ${type}`);
    if (size > 0xffff) throw new RangeError(`Cannot encode attribute ${type}: ${bytes.length} bytes`);
    parts.push(host.bytes16(size), host.bytes16(nested ? type | nestedFlag : type), bytes);
    parts.push(new Uint8Array(padded(size) - size));
  }
  return concat(parts);
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A size rounded up to the alignment of netlink. */
export function padded(size: number): number {
  return (size + 3) & ~3;
}

/**
 * Where the attributes of one level lie.
 *
 * Every getter answers undefined for an attribute that is absent or too short for what is asked. An attribute
 * that comes twice counts the last time, as in the kernel's own parser.
 */
export class Attributes {
  /** Start and end of the value of type n at 2n and 2n+1; start −1 if absent. */
  readonly #spans: Int32Array;
  #bytes: Uint8Array = new Uint8Array(0);

  /** @param highest types above it are passed over. */
  constructor(highest: number) {
    this.#spans = new Int32Array((highest + 1) * 2).fill(-1);
  }

  /** Looks at the attributes from `start` to `end`. @returns false, with nothing found, if lengths don't add up. */
  read(bytes: Uint8Array, start: number, end: number): boolean {
    const spans = this.#spans;
    spans.fill(-1);
    this.#bytes = bytes;
    if (start > end || end > bytes.length) return false;
    let at = start;
    while (at < end) {
      const size = end - at < headerBytes ? 0 : host.read16(bytes, at);
      if (size < headerBytes || size > end - at) {
        spans.fill(-1);
        return false;
      }
      const slot = (host.read16(bytes, at + 2) & typeMask) * 2;
      if (slot < spans.length) {
        spans[slot] = at + headerBytes;
        spans[slot + 1] = at + size;
      }
      at += padded(size);
    }
    return true;
  }

  /** Looks at the attributes nested in one of `outer`. @returns false if it is absent or malformed. */
  readNested(outer: Attributes, type: number): boolean {
    const start = outer.start(type);
    if (start >= 0) return this.read(outer.#bytes, start, start + outer.size(type));
    this.#spans.fill(-1);
    return false;
  }

  has(type: number): boolean {
    return this.start(type) >= 0;
  }

  /** Offset of the value in the bytes read; −1 if absent. */
  start(type: number): number {
    return this.#spans[type * 2] ?? -1;
  }

  /** Length of the value in bytes; 0 if absent. */
  size(type: number): number {
    return this.has(type) ? this.#spans[type * 2 + 1]! - this.#spans[type * 2]! : 0;
  }

  /** The value, as a window on the bytes read. */
  bytes(type: number): Uint8Array | undefined {
    const start = this.start(type);
    return start < 0 ? undefined : this.#bytes.subarray(start, start + this.size(type));
  }

  /** A copy of the whole attribute with header and padding, to be sent back as it came. */
  copy(type: number): Uint8Array | undefined {
    const start = this.start(type);
    if (start < 0) return undefined;
    const whole = new Uint8Array(padded(headerBytes + this.size(type)));
    whole.set(this.#bytes.subarray(start - headerBytes, start + this.size(type)));
    return whole;
  }

  byte(type: number): number | undefined {
    return this.size(type) < 1 ? undefined : this.#bytes[this.start(type)]!;
  }

  number16(type: number, order: ByteOrder): number | undefined {
    return this.size(type) < 2 ? undefined : order.read16(this.#bytes, this.start(type));
  }

  number32(type: number, order: ByteOrder): number | undefined {
    return this.size(type) < 4 ? undefined : order.read32(this.#bytes, this.start(type));
  }

  /** A text up to its NUL; bytes that are no UTF-8 become U+FFFD. */
  text(type: number): string | undefined {
    const bytes = this.bytes(type);
    if (bytes === undefined) return undefined;
    const end = bytes.indexOf(0);
    return decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
  }

  /** An IPv4 or IPv6 address, told by its length. */
  address(type: number): Address | undefined {
    const size = this.size(type);
    if (size !== 4 && size !== 16) return undefined;
    return decodeAddress(this.#bytes, this.start(type), size === 4 ? 4 : 6);
  }

  /** Whether two addresses (or any values) are the same bytes, so that one text serves both. */
  same(type: number, other: Attributes, otherType: number): boolean {
    const size = this.size(type);
    if (size !== other.size(otherType)) return false;
    const [left, right] = [this.start(type), other.start(otherType)];
    for (let at = 0; at < size; at++) {
      if (this.#bytes[left + at] !== other.#bytes[right + at]) return false;
    }
    return true;
  }
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
