/**
 * blob and blobmsg: the typed, self-describing bytes that ubus messages are made of.
 *
 * Two layers. A *blob attribute* is an id with bytes; ubus messages are lists of them:
 *
 *      0 1       7 8                            31
 *     +-+---------+--------------------------------+---------- - - -+
 *     |x|   id    | length: header + data, no pad  | data           | zero padding to a multiple of 4
 *     +-+---------+--------------------------------+---------- - - -+
 *
 * A *field* (blobmsg) is an attribute with x set, whose id is its type and whose data open with its name:
 *
 *     u16 name length | name | NUL | zero padding of these to a multiple of 4 | value
 *
 * All numbers are big endian. Fields decode as libubox reads them, which is lenient in places: a list ends
 * silently where an attribute does not fit, names in arrays are ignored, a string ends at its first NUL. Bytes
 * that are not UTF-8 become U+FFFD, since text here is text; who must pass bytes on unchanged passes the bytes.
 *
 * Source: libubox 1aa36ee (blob.h, blobmsg.c), and vectors computed by it.
 */

import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";

/** The types of fields. */
export const BlobType = {
  Unspec: 0,
  Array: 1,
  Table: 2,
  String: 3,
  Int64: 4,
  Int32: 5,
  Int16: 6,
  /** Also the boolean; every value but 0 is true. */
  Int8: 7,
  Double: 8,
} as const;

/**
 * A named value. In an array the name is "". By type: Unspec undefined; Array and Table fields; String string;
 * Int64 number, or bigint where a number is not exact; Int32, Int16 signed number; Int8 number 0..255; Double
 * number.
 */
export interface Field {
  readonly name: string;
  readonly type: number;
  readonly value: undefined | string | number | bigint | readonly Field[];
}

/** Deepest nesting that is read or written; libubox has no limit, json-c stops at 32. */
const maxDepth = 64;
/** The length in an attribute's header has 24 bits. */
const maxAttributeBytes = 0xffffff;
const extended = 0x80;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * Reads a list of fields, the payload of a DATA attribute.
 *
 * @param options.skipBad leaves out a field that libubox would not print, instead of refusing the whole.
 * @throws SyntaxError for a field that libubox's parser refuses, and for nesting past 64.
 */
export function decodeFields(bytes: Uint8Array, options: { readonly skipBad?: boolean } = {}): Field[] {
  return readFields({ bytes, named: true, skipBad: options.skipBad === true }, 0, bytes.length, 0);
}

/**
 * The bytes of a list of fields.
 *
 * @throws Fault "limit" past 16 MiB, for a name past 65,535 bytes, and for nesting past 64.
 */
export function encodeFields(fields: readonly Field[]): Uint8Array {
  const writer = borrowWriter();
  try {
    for (const field of fields) writer.putField(field);
    return writer.take();
  } finally {
    returnWriter(writer);
  }
}

/**
 * A JSON object as fields, typed as `ubus call` types it: integers are Int32 if they fit, else Int64 (a bigint
 * past its range is clamped); other numbers are Double, as are numbers past the range of Int64; null is Unspec.
 * What is undefined is left out.
 */
export function fieldsOf(json: JsonObject): Field[] {
  return fieldsOfMembers(json, 0);
}

/**
 * Fields as a JSON object without prototype, so that every name is just a name. Of fields with the same name
 * the last counts. Int8 becomes a boolean, Unspec null.
 */
export function jsonOf(fields: readonly Field[]): JsonObject {
  const object: Record<string, Json> = Object.create(null);
  for (const field of fields) object[field.name] = jsonOfField(field);
  return object;
}

/** What one field is in JSON. */
export function jsonOfField(field: Field): Json {
  const { type, value } = field;
  if (type === BlobType.Int8) return value !== 0;
  if (type === BlobType.Table) return jsonOf(value as readonly Field[]);
  if (type === BlobType.Array) return (value as readonly Field[]).map(jsonOfField);
  return (value as string | number | bigint | undefined) ?? null;
}

function fieldsOfMembers(json: JsonObject, depth: number): Field[] {
  const fields: Field[] = [];
  for (const name of Object.keys(json)) {
    const value = json[name];
    if (value !== undefined) fields.push(fieldOf(name, value, depth));
  }
  return fields;
}

function fieldOf(name: string, value: Json, depth: number): Field {
  switch (typeof value) {
    case "string":
      return { name, type: BlobType.String, value };
    case "boolean":
      return { name, type: BlobType.Int8, value: value ? 1 : 0 };
    case "bigint":
      return fieldOfBigint(name, value);
    case "number":
      if (value === (value | 0)) return { name, type: BlobType.Int32, value: value | 0 };
      if (Number.isInteger(value) && value >= -(2 ** 63) && value < 2 ** 63) {
        return { name, type: BlobType.Int64, value };
      }
      return { name, type: BlobType.Double, value };
  }
  if (value === null) return { name, type: BlobType.Unspec, value: undefined };
  if (depth >= maxDepth) throw tooDeep();
  if (!Array.isArray(value)) {
    return { name, type: BlobType.Table, value: fieldsOfMembers(value as JsonObject, depth + 1) };
  }
  // An array keeps its places: what is undefined in it is null, as in JSON.stringify.
  const elements = value.map((element: Json | undefined) => fieldOf("", element ?? null, depth + 1));
  return { name, type: BlobType.Array, value: elements };
}

function fieldOfBigint(name: string, value: bigint): Field {
  if (BigInt.asIntN(32, value) === value) return { name, type: BlobType.Int32, value: Number(value) };
  return { name, type: BlobType.Int64, value };
}

const tooDeep = () => new Fault("limit", `Cannot encode fields: nested deeper than ${maxDepth}`);

interface Source {
  readonly bytes: Uint8Array;
  readonly named: boolean;
  readonly skipBad: boolean;
}

function readFields(source: Source, start: number, end: number, depth: number): Field[] {
  const { bytes } = source;
  const fields: Field[] = [];
  for (let at = start; at + 4 <= end; ) {
    const length = lengthAt(bytes, at);
    const padded = (length + 3) & ~3;
    if (padded < 4 || at + padded > end) break;
    const field = readField(source, at, length, depth);
    if (field) fields.push(field);
    else if (!source.skipBad) throw new SyntaxError(`Cannot decode fields: bad field at byte ${at}`);
    at += padded;
  }
  return fields;
}

/** One field, or undefined if libubox refuses it or it is nested too deep. */
function readField(source: Source, at: number, length: number, depth: number): Field | undefined {
  const { bytes } = source;
  const type = bytes[at]! & 0x7f;
  const end = at + length;
  let value = at + 4;
  let name = "";
  if (length < 4 || type > BlobType.Double) return undefined;
  if (bytes[at]! & extended) {
    if (value + 2 > end) return undefined;
    const nameLength = (bytes[value]! << 8) | bytes[value + 1]!;
    const nameAt = value + 2;
    value = at + 4 + ((nameLength + 6) & ~3);
    if (value > end || bytes[nameAt + nameLength] !== 0) return undefined;
    if (source.named) name = readText(bytes, nameAt, nameAt + nameLength);
  }
  switch (type) {
    case BlobType.Unspec:
      return { name, type, value: undefined };
    case BlobType.Array:
    case BlobType.Table: {
      if (depth >= maxDepth) return undefined;
      const inside =
        source.named === (type === BlobType.Table) ? source : { ...source, named: !source.named };
      return { name, type, value: readFields(inside, value, end, depth + 1) };
    }
    case BlobType.String:
      if (value === end || bytes[end - 1] !== 0) return undefined;
      return { name, type, value: readString(bytes, value, end) };
    case BlobType.Int64:
      return end - value === 8 ? { name, type, value: readInt64(bytes, value) } : undefined;
    case BlobType.Int32:
      return end - value === 4 ? { name, type, value: readInt32(bytes, value) } : undefined;
    case BlobType.Int16:
      if (end - value !== 2) return undefined;
      return { name, type, value: ((bytes[value]! << 24) >> 16) | bytes[value + 1]! };
    case BlobType.Int8:
      return end - value === 1 ? { name, type, value: bytes[value]! } : undefined;
    default:
      return end - value >= 8 ? { name, type, value: viewOf(bytes).getFloat64(value) } : undefined;
  }
}

/** The 24-bit length of the attribute at an offset, header included, padding not. */
export function lengthAt(bytes: Uint8Array, at: number): number {
  return (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}

/** A signed 32-bit number; `>>> 0` makes an id of it. */
export function readInt32(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
}

function readInt64(bytes: Uint8Array, at: number): number | bigint {
  const value = readInt32(bytes, at) * 2 ** 32 + (readInt32(bytes, at + 4) >>> 0);
  return Number.isSafeInteger(value) ? value : viewOf(bytes).getBigInt64(at);
}

/** A string that ends at its first NUL; the last byte before `end` is one. */
export function readString(bytes: Uint8Array, start: number, end: number): string {
  const nul = bytes.indexOf(0, start);
  return readText(bytes, start, nul < end ? nul : end - 1);
}

function readText(bytes: Uint8Array, start: number, end: number): string {
  // Calling the decoder costs more than reading a short name by hand.
  if (end - start > 24) return decoder.decode(bytes.subarray(start, end));
  let text = "";
  for (let at = start; at < end; at++) {
    const byte = bytes[at]!;
    if (byte >= 0x80) return decoder.decode(bytes.subarray(start, end));
    text += String.fromCharCode(byte);
  }
  return text;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Writes attributes and fields one after the other into a buffer that grows. */
export class BlobWriter {
  #bytes = new Uint8Array(1024);
  #length = 0;

  /** Bytes written so far; always a multiple of 4 between attributes. */
  get length(): number {
    return this.#length;
  }

  /** Memory held. */
  get capacityBytes(): number {
    return this.#bytes.length;
  }

  /** A copy of everything written; the writer is empty afterwards. */
  take(): Uint8Array {
    const bytes = this.#bytes.slice(0, this.#length);
    this.#length = 0;
    return bytes;
  }

  /** Forgets what was written past a length that there was before. */
  rewind(length: number): void {
    this.#length = length;
  }

  /** Begins an attribute whose data follow; what it returns goes to `close`. */
  open(id: number): number {
    this.#reserve(4);
    const start = this.#length;
    this.#bytes[start] = id;
    this.#length += 4;
    return start;
  }

  /** Ends an attribute: sets its length and pads it. */
  close(start: number): void {
    const length = this.#length - start;
    if (length > maxAttributeBytes) {
      throw new Fault("limit", `Cannot encode message: an attribute of ${length} bytes`);
    }
    this.#bytes[start + 1] = length >> 16;
    this.#bytes[start + 2] = length >> 8;
    this.#bytes[start + 3] = length;
    this.#pad();
  }

  /** An attribute of four bytes. */
  putInt32(id: number, value: number): void {
    const start = this.open(id);
    this.append32(value);
    this.close(start);
  }

  /** An attribute of one byte. */
  putInt8(id: number, value: number): void {
    const start = this.open(id);
    this.#append8(value);
    this.close(start);
  }

  /** An attribute of text with its NUL. Text ends at a NUL of its own. */
  putString(id: number, text: string): void {
    const start = this.open(id);
    this.#appendText(text);
    this.#append8(0);
    this.close(start);
  }

  /** An attribute of bytes. */
  putBytes(id: number, bytes: Uint8Array): void {
    const start = this.open(id);
    this.append(bytes);
    this.close(start);
  }

  putField(field: Field, depth = 0): void {
    const { type, value } = field;
    const start = this.open(extended | type);
    this.#appendName(field.name);
    switch (type) {
      case BlobType.Unspec:
        break;
      case BlobType.Array:
      case BlobType.Table:
        if (depth >= maxDepth) throw tooDeep();
        for (const inside of value as readonly Field[]) this.putField(inside, depth + 1);
        break;
      case BlobType.String:
        this.#appendText(value as string);
        this.#append8(0);
        break;
      case BlobType.Int64:
        this.#append64(value as number | bigint);
        break;
      case BlobType.Int32:
        this.append32(value as number);
        break;
      case BlobType.Int16:
        this.#append8((value as number) >> 8);
        this.#append8(value as number);
        break;
      case BlobType.Int8:
        this.#append8(value as number);
        break;
      case BlobType.Double:
        this.#reserve(8);
        viewOf(this.#bytes).setFloat64(this.#length, value as number);
        this.#length += 8;
        break;
      default:
        throw new RangeError(`Cannot encode field: type ${type}`);
    }
    this.close(start);
  }

  /** Bytes as they are. */
  append(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  append32(value: number): void {
    this.#reserve(4);
    const bytes = this.#bytes;
    const at = this.#length;
    bytes[at] = value >>> 24;
    bytes[at + 1] = value >>> 16;
    bytes[at + 2] = value >>> 8;
    bytes[at + 3] = value;
    this.#length = at + 4;
  }

  #append64(value: number | bigint): void {
    this.#reserve(8);
    const most = 2n ** 63n;
    const wide = BigInt(value);
    const clamped = wide >= most ? most - 1n : wide < -most ? -most : wide;
    viewOf(this.#bytes).setBigInt64(this.#length, clamped);
    this.#length += 8;
  }

  #append8(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
  }

  #appendName(name: string): void {
    this.#reserve(2);
    const start = this.#length;
    this.#length += 2;
    this.#appendText(name);
    const length = this.#length - start - 2;
    if (length > 0xffff) throw new Fault("limit", `Cannot encode field: a name of ${length} bytes`);
    this.#bytes[start] = length >> 8;
    this.#bytes[start + 1] = length;
    this.#append8(0);
    this.#pad();
  }

  #appendText(text: string): void {
    const { length } = text;
    if (length > 64) {
      this.#appendEncoded(text);
      return;
    }
    this.#reserve(length);
    const bytes = this.#bytes;
    const start = this.#length;
    for (let index = 0; index < length; index++) {
      const code = text.charCodeAt(index);
      if (code >= 0x80) {
        this.#length = start;
        this.#appendEncoded(text);
        return;
      }
      if (code === 0) break;
      bytes[start + index] = code;
      this.#length++;
    }
  }

  #appendEncoded(text: string): void {
    const nul = text.indexOf("\0");
    this.append(encoder.encode(nul < 0 ? text : text.slice(0, nul)));
  }

  #pad(): void {
    this.#reserve(3);
    while (this.#length & 3) this.#bytes[this.#length++] = 0;
  }

  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    // Room for one greatest attribute in a header and a frame.
    if (needed > maxAttributeBytes + 4096) throw new Fault("limit", `Cannot encode message: ${needed} bytes`);
    const grown = new Uint8Array(Math.max(needed, this.#bytes.length * 2));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}

/** One writer waits for the next encoder, unless a message made it large. */
let spare: BlobWriter | undefined;

/** A writer to be given back by `returnWriter`; spares each message a buffer. */
export function borrowWriter(): BlobWriter {
  const writer = spare ?? new BlobWriter();
  spare = undefined;
  return writer;
}

export function returnWriter(writer: BlobWriter): void {
  writer.rewind(0);
  if (writer.capacityBytes <= 65536) spare = writer;
}
