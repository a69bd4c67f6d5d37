/**
 * Messages as the bus handles them: found in a byte stream, looked into in place, forwarded without decoding.
 *
 * A program at the end of a connection wants values and decodes a message into them (message.ts). The bus only
 * passes messages on: it needs to know where one ends, which object it is for and what follows, and hands every
 * other byte over as it came, also bytes that are no text. So attributes are found where they lie, and a
 * message is copied once, into the buffer that it is sent from.
 *
 *     0        1       2        4           8                12
 *     version  type    seq      peer        length (24 bit)  attributes…
 *                                            counts itself and the attributes
 *
 *     attribute: 1 bit extended, 7 bit id, 24 bit length with this header, content, zeros up to a multiple of 4
 *
 * Names (paths, methods, patterns, users) are kept as strings with one character per byte: no byte is lost, and
 * the order of such strings is the order of their bytes.
 */

import { lengthAt } from "./blob.ts";

/** Bytes before the attributes: the message header and the header of the blob that holds them. */
export const headerBytes = 12;

/** Ids from 14 on mean nothing. */
const attributeCount = 14;

/** Decides about one message: true takes it, false leaves it and all that follows for `resume`. */
export type Take = (frame: Frame) => boolean;

/**
 * One message where it lies in a receive buffer; what it holds is valid until the callback that got it returns.
 *
 * Attributes are found by walking them once. One that does not fit what is left ends the walk; one of a wrong
 * size counts as absent; of repeated ones the last counts.
 */
export class Frame {
  readonly bytes: Uint8Array;
  /** Where the message starts and ends in `bytes`. */
  readonly start: number;
  readonly end: number;
  readonly version: number;
  readonly type: number;
  readonly seq: number;
  readonly peer: number;
  /** Where the content of each attribute starts and ends, by id; 0 if it is not there. */
  readonly #starts = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
  readonly #ends = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.bytes = bytes;
    this.start = start;
    this.end = end;
    this.version = bytes[start]!;
    this.type = bytes[start + 1]!;
    this.seq = (bytes[start + 2]! << 8) | bytes[start + 3]!;
    this.peer = readU32(bytes, start + 4);
    for (let at = start + headerBytes; end - at >= 4; ) {
      const length = lengthAt(bytes, at);
      const padded = (length + 3) & ~3;
      if (padded < 4 || padded > end - at) break;
      const id = bytes[at]! & 0x7f;
      if (length >= 4 && id < attributeCount) {
        this.#starts[id] = at + 4;
        this.#ends[id] = at + length;
      }
      at += padded;
    }
  }

  /** Whether the attribute is there, of whatever size. */
  has(id: number): boolean {
    return this.#starts[id] !== 0;
  }

  /** Where the content of an attribute that is there starts and ends in `bytes`. */
  startOf(id: number): number {
    return this.#starts[id]!;
  }

  endOf(id: number): number {
    return this.#ends[id]!;
  }

  /** A 32-bit value; undefined if it is absent or of another size. */
  u32(id: number): number | undefined {
    const start = this.#starts[id]!;
    return start !== 0 && this.#ends[id]! - start === 4 ? readU32(this.bytes, start) : undefined;
  }

  /** The first byte as truth; false if absent. */
  flag(id: number): boolean {
    const start = this.#starts[id]!;
    return start !== 0 && this.#ends[id]! > start && this.bytes[start] !== 0;
  }

  /** Whether `name` would find text. */
  hasName(id: number): boolean {
    const start = this.#starts[id]!;
    const end = this.#ends[id]!;
    return start !== 0 && end > start && this.bytes[end - 1] === 0;
  }

  /** Text up to its first NUL; undefined if absent or if the last byte is no NUL. */
  name(id: number): string | undefined {
    const start = this.#starts[id]!;
    return start === 0 ? undefined : readName(this.bytes, start, this.#ends[id]!);
  }
}

/** One attribute of a list; `start` and `end` bound its content without padding. */
export interface Span {
  readonly id: number;
  readonly extended: boolean;
  readonly start: number;
  readonly end: number;
}

/** Walks a list of attributes; whatever does not fit ends it. */
export function attributesOf(bytes: Uint8Array, from: number, to: number): Span[] {
  const spans: Span[] = [];
  for (let at = from; to - at >= 4; ) {
    const length = lengthAt(bytes, at);
    const padded = (length + 3) & ~3;
    if (padded < 4 || padded > to - at) break;
    const head = bytes[at]!;
    if (length >= 4) spans.push({ id: head & 0x7f, extended: head > 0x7f, start: at + 4, end: at + length });
    at += padded;
  }
  return spans;
}

/** A named value inside DATA or SIGNATURE (blobmsg): its type id, its name, and where the value lies. */
export interface NamedSpan {
  readonly type: number;
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

const fixedSizes: Readonly<Record<number, number>> = { 4: 8, 5: 4, 6: 2, 7: 1 };

/**
 * Reads one attribute of DATA or SIGNATURE as a named value.
 *
 * @returns undefined unless the name ends within the attribute, the type is known and the size is the type's.
 */
export function namedSpan(bytes: Uint8Array, { id, extended, start, end }: Span): NamedSpan | undefined {
  let name = "";
  let value = start;
  if (extended) {
    if (end - start < 3) return undefined;
    const nameLength = (bytes[start]! << 8) | bytes[start + 1]!;
    value = start + ((nameLength + 6) & ~3);
    if (value > end || bytes[start + 2 + nameLength] !== 0) return undefined;
    name = readName(bytes, start + 2, start + 3 + nameLength)!;
  }
  const size = end - value;
  const fixed = fixedSizes[id];
  if (id > 8 || (fixed !== undefined && size !== fixed) || (id === 8 && size < 8)) return undefined;
  if (id === 3 && (size < 1 || bytes[end - 1] !== 0)) return undefined;
  return { type: id, name, start: value, end };
}

/** Finds messages in a stream of bytes, however it was cut. */
export class FrameReader {
  readonly #maxBytes: number;
  /** What came and was not taken yet, in `#start`…`#end`; empty while whole messages come in. */
  #kept: Uint8Array = new Uint8Array(0);
  #start = 0;
  #end = 0;

  /** @param maxBytes the longest blob accepted, its own header included. */
  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes of memory held for input that was not taken yet. */
  get heldBytes(): number {
    return this.#kept.length;
  }

  /**
   * Offers every message that is complete.
   *
   * @throws SyntaxError if the length of a message is impossible; the stream is of no use any more.
   */
  push(chunk: Uint8Array, take: Take): void {
    if (this.#start === this.#end) {
      const rest = this.#offer(chunk, { from: 0, to: chunk.length, take });
      if (rest < chunk.length) this.#keep(chunk, rest);
      return;
    }
    this.#keep(chunk, 0);
    this.resume(take);
  }

  /** Offers again what was left. */
  resume(take: Take): void {
    this.#start = this.#offer(this.#kept, { from: this.#start, to: this.#end, take });
    if (this.#start === this.#end) {
      this.#kept = new Uint8Array(0);
      this.#start = this.#end = 0;
    }
  }

  /** @returns where the first message starts that was not taken. */
  #offer(bytes: Uint8Array, { from, to, take }: { from: number; to: number; take: Take }): number {
    let at = from;
    while (to - at >= headerBytes) {
      const length = lengthAt(bytes, at + 8);
      if (length < 4 || ((length + 3) & ~3) > this.#maxBytes) {
        throw new SyntaxError(`Cannot read message: its length is ${length}`);
      }
      const end = at + 8 + length;
      if (end > to || !take(new Frame(bytes, at, end))) break;
      at = end;
    }
    return at;
  }

  /** Appends to what is kept. Room grows with what really came, not with what a header announces. */
  #keep(chunk: Uint8Array, from: number): void {
    const held = this.#end - this.#start;
    const size = held + chunk.length - from;
    if (this.#start + size > this.#kept.length || this.#start > 0) {
      const room = size <= this.#kept.length ? this.#kept.length : Math.max(size, 2 * held);
      const kept = room === this.#kept.length ? this.#kept : new Uint8Array(room);
      if (kept === this.#kept) kept.copyWithin(0, this.#start, this.#end);
      else kept.set(this.#kept.subarray(this.#start, this.#end));
      this.#kept = kept;
      this.#start = 0;
      this.#end = held;
    }
    this.#kept.set(from === 0 ? chunk : chunk.subarray(from), this.#end);
    this.#end += chunk.length - from;
  }
}

/** The bytes of a name that has one character per byte. */
export function bytesOfName(name: string): Uint8Array {
  const bytes = new Uint8Array(name.length);
  for (let at = 0; at < name.length; at++) bytes[at] = name.charCodeAt(at);
  return bytes;
}

/** Text as a name: one character per byte of its UTF-8 form. */
export function nameOf(text: string): string {
  return readBytes(new TextEncoder().encode(text), 0, Number.POSITIVE_INFINITY);
}

/** The name in a stretch of bytes that must end with NUL; it ends at the first one. */
export function readName(bytes: Uint8Array, start: number, end: number): string | undefined {
  if (end <= start || bytes[end - 1] !== 0) return undefined;
  let stop = start;
  while (bytes[stop] !== 0) stop++;
  return readBytes(bytes, start, stop);
}

function readBytes(bytes: Uint8Array, start: number, end: number): string {
  let text = "";
  const stop = Math.min(end, bytes.length);
  for (let at = start; at < stop; at += 4096) {
    text += String.fromCharCode(...bytes.subarray(at, Math.min(at + 4096, stop)));
  }
  return text;
}

/** An unsigned 32-bit number in network order. */
export function readU32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}
