/**
 * The internet checksum (RFC 1071) and its adjustment when a header around it changes (RFC 1624).
 *
 * Sums are one's complement sums of 16-bit words in network order; a sum may be kept unfolded as long as it stays
 * below 2^32, which holds for one packet of 64 kB with its pseudo header. A checksum field holds the complement of a folded sum. Zero has two
 * forms, 0 and 0xffff. A sum over a packet is never the first one, since some word in it is not zero: so an adjusted
 * sum of 0 is the other, and TCP's field may well be 0x0000, which is a checksum like any other.
 */

/** Sum of `length` bytes; an odd last byte is the upper half of its word. At most 131,070 bytes. */
export function sumOf(bytes: Uint8Array, offset: number, length: number): number {
  let sum = 0;
  const even = offset + (length & ~1);
  let at = offset;
  for (const end = even - 6; at < end; at += 8) {
    sum +=
      ((bytes[at]! << 8) | bytes[at + 1]!) +
      ((bytes[at + 2]! << 8) | bytes[at + 3]!) +
      ((bytes[at + 4]! << 8) | bytes[at + 5]!) +
      ((bytes[at + 6]! << 8) | bytes[at + 7]!);
  }
  for (; at < even; at += 2) sum += (bytes[at]! << 8) | bytes[at + 1]!;
  return (length & 1) === 0 ? sum : sum + (bytes[even]! << 8);
}

/** Folds a sum below 2^32 into 16 bits. */
export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/**
 * The field after words were taken from, and others added to what it covers.
 *
 * @param less folded sum of what no longer counts; `more` of what counts now.
 */
export function adjusted(field: number, less: number, more: number): number {
  const sum = fold((~field & 0xffff) + (~less & 0xffff) + more);
  return ~(sum || 0xffff) & 0xffff;
}

export function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** 0 … 2^32−1. */
export function get32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

export function put32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}
