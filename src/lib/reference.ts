/**
 * References: the unsigned 128-bit numbers that name hosts behind a context address, as text and as bytes.
 *
 * In memory a reference is a bigint, in records and lookups sixteen bytes, big endian. Text is either decimal, or
 * groups of one to four hex digits with dashes between, sixteen bits each; one "--" stands for as many zero groups as
 * are missing, but not in front. Nothing is kept here.
 */

import type { Bounds } from "./address.ts";

export const referenceBytes = 16;
export const maxReference = (1n << 128n) - 1n;

/** The second-lowest byte of a reference tells who gave it: below this somebody wrote it down, else the gateway drew it. */
export const staticBytes = 16;

const maxTextLength = 64;
const dash = 45;
const low64 = (1n << 64n) - 1n;

/**
 * Reads a reference.
 *
 * @throws SyntaxError for anything else than the two forms, and beyond 128 bits.
 */
export function parseReference(text: string): bigint {
  if (text.length > maxTextLength) return fail(text);
  if (/^[0-9]{1,39}$/.test(text)) {
    const value = BigInt(text);
    return value <= maxReference ? value : fail(text);
  }
  if (!text.includes("-")) return fail(text);
  const halves = text.split("--");
  const head = groupsOf(halves[0]!);
  if (halves.length > 2 || !head || head.length === 0) return fail(text);
  if (halves.length === 1) return head.length <= 8 ? joined(head) : fail(text);
  const tail = halves[1] === "" ? [] : groupsOf(halves[1]!);
  if (!tail || head.length + tail.length > 7) return fail(text);
  return joined([...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail]);
}

/** Below 65,536 decimal; else all groups from the first that is not zero. */
export function formatReference(reference: bigint): string {
  // A wrong one is shown as it is, to whoever named it.
  if (reference < 0n || reference > maxReference) return reference.toString();
  return formatReferenceAt(encodeReference(reference), 0);
}

/** The same of sixteen bytes. */
export function formatReferenceAt(bytes: Uint8Array, offset: number): string {
  const last = offset + referenceBytes - 2;
  let at = offset;
  while (at < last && bytes[at] === 0 && bytes[at + 1] === 0) at += 2;
  const groupAt = (from: number) => (bytes[from]! << 8) | bytes[from + 1]!;
  if (at === last) return groupAt(last).toString();
  let text = groupAt(at).toString(16);
  for (at += 2; at <= last; at += 2) text += `-${groupAt(at).toString(16)}`;
  return text;
}

/**
 * Reads a reference as `formatReference` writes it, without making anything of it: stores hold a hundred thousand.
 *
 * @param into sixteen bytes.
 * @returns whether it is one; the rare other forms are for `parseReference`.
 */
export function readReference(text: Uint8Array, bounds: Bounds, into: Uint8Array): boolean {
  into.fill(0);
  const { from, to } = bounds;
  return readGroups(text, bounds, into) || (to - from <= 5 && readDecimal(text, bounds, into));
}

/** Writes sixteen bytes, big endian. @throws RangeError for what is no reference, or if they do not fit. */
export function encodeReference(
  reference: bigint,
  into = new Uint8Array(referenceBytes),
  offset = 0,
): Uint8Array {
  if (reference < 0n || reference > maxReference) {
    throw new RangeError(`Cannot encode reference: ${reference} is none`);
  }
  const view = new DataView(into.buffer, into.byteOffset + offset, referenceBytes);
  view.setBigUint64(0, reference >> 64n);
  view.setBigUint64(8, reference & low64);
  return into;
}

/** Reads sixteen bytes. @throws RangeError if they are not all there. */
export function decodeReference(bytes: Uint8Array, offset = 0): bigint {
  if (offset < 0 || offset + referenceBytes > bytes.length) {
    throw new RangeError(`Cannot decode reference: 16 bytes at ${offset} of ${bytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + offset, referenceBytes);
  return (view.getBigUint64(0) << 64n) | view.getBigUint64(8);
}

/** Whether a reference is of the half that people write down, by its second-lowest byte. */
export function isStaticReference(reference: bigint): boolean {
  return Number((reference >> 8n) & 0xffn) < staticBytes;
}

/**
 * A reference as the gateway draws them: 68 random bits, of which the second-lowest byte is never in the static half.
 *
 * @param bytes nine random ones.
 */
export function drawReference(bytes: Uint8Array): bigint {
  let value = BigInt(bytes[0]! >> 4);
  for (let at = 1; at <= 8; at++) {
    // Of 256 values 240 remain: by remainder, which prefers sixteen of them by a hair, as everybody does here.
    const byte = at === 7 ? (bytes[at]! % (256 - staticBytes)) + staticBytes : bytes[at]!;
    value = (value << 8n) | BigInt(byte);
  }
  return value;
}

/** From behind, so that each group finds its place. */
function readGroups(text: Uint8Array, { from, to }: Bounds, into: Uint8Array): boolean {
  let group = referenceBytes;
  let digits = 0;
  for (let at = to - 1; at >= from; at--) {
    const byte = text[at]!;
    if (byte === dash && digits > 0) {
      group -= 2;
      digits = 0;
      continue;
    }
    const value = hexOf(byte);
    if (value < 0 || digits === 4 || group < 2) return false;
    const place = group - 1 - (digits >> 1);
    into[place] = into[place]! | ((digits & 1) === 0 ? value : value << 4);
    digits++;
  }
  return digits > 0 && group < referenceBytes;
}

function readDecimal(text: Uint8Array, { from, to }: Bounds, into: Uint8Array): boolean {
  let value = 0;
  for (let at = from; at < to; at++) {
    const digit = text[at]! - 48;
    if (digit < 0 || digit > 9) return false;
    value = value * 10 + digit;
  }
  into.fill(0);
  into[referenceBytes - 3] = value >> 16;
  into[referenceBytes - 2] = value >> 8;
  into[referenceBytes - 1] = value;
  return to > from;
}

/** -1: no digit. */
function hexOf(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const letter = byte | 32;
  return letter >= 97 && letter <= 102 ? letter - 87 : -1;
}

function groupsOf(text: string): number[] | undefined {
  const groups = text.split("-");
  if (groups.length > 8 || !groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return undefined;
  return groups.map((group) => Number.parseInt(group, 16));
}

function joined(groups: readonly number[]): bigint {
  return BigInt(`0x${groups.map((group) => group.toString(16).padStart(4, "0")).join("")}`);
}

function fail(text: string): never {
  throw new SyntaxError(`Cannot read reference: ${JSON.stringify(text.slice(0, maxTextLength))} is none`);
}
