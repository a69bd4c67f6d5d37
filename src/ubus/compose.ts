/**
 * Writing messages for the bus: out of attributes, or out of somebody else's message that is passed on.
 *
 * Attributes are made as bytes and joined; a message that is passed on is copied once. Memory for small pieces
 * comes out of a slab that is never used twice, so that a message may wait for its reader as it is.
 */

import { bytesOfName, type Frame, headerBytes } from "./frame.ts";
import { Attribute, MessageType } from "./message.ts";

/** Where a message goes and what it answers. */
export interface Envelope {
  readonly type: number;
  readonly seq: number;
  readonly peer: number;
}

/** A message out of attributes that are encoded already. */
export function composeMessage(envelope: Envelope, attributes: readonly Uint8Array[]): Uint8Array {
  let size = headerBytes;
  for (const attribute of attributes) size += attribute.length;
  const bytes = allocate(size);
  writeHeader(bytes, envelope);
  let at = headerBytes;
  for (const attribute of attributes) {
    bytes.set(attribute, at);
    at += attribute.length;
  }
  return bytes;
}

/** What a forwarded call or notification says beside the data. */
export interface Forward {
  readonly seq: number;
  /** Client id of the caller. */
  readonly peer: number;
  readonly objectId: number;
  readonly noReply?: boolean;
  /** Encoded USER and GROUP attributes. */
  readonly caller: Uint8Array;
}

/** A call as the owner of the object gets it: METHOD and DATA are taken over from the caller's message. */
export function forwardInvoke(frame: Frame, to: Forward): Uint8Array {
  const { bytes } = frame;
  const method = frame.startOf(Attribute.Method);
  let methodEnd = method;
  while (bytes[methodEnd] !== 0) methodEnd++;
  const methodBytes = methodEnd + 1 - method;
  const data = frame.startOf(Attribute.Data);
  const dataBytes = frame.has(Attribute.Data) ? frame.endOf(Attribute.Data) - data : -4;
  const before = headerBytes + (to.noReply === true ? 8 : 0) + 8;
  const size = before + 4 + ((methodBytes + 3) & ~3) + to.caller.length + 4 + ((dataBytes + 3) & ~3);
  const out = allocate(size);
  writeHeader(out, { type: MessageType.Invoke, seq: to.seq, peer: to.peer });
  if (to.noReply === true) {
    writeU32(out, headerBytes, (Attribute.NoReply << 24) | 5);
    writeU32(out, headerBytes + 4, 0x01000000);
  }
  writeU32(out, before - 8, (Attribute.ObjectId << 24) | 8);
  writeU32(out, before - 4, to.objectId);
  let at = putContent(out, before, { id: Attribute.Method, bytes, start: method, end: methodEnd + 1 });
  out.set(to.caller, at);
  at += to.caller.length;
  if (dataBytes >= 0) {
    putContent(out, at, { id: Attribute.Data, bytes, start: data, end: data + dataBytes });
  }
  return out;
}

/** A message unchanged but for its type and its peer. */
export function forwardAnswer(frame: Frame, type: number, peer: number): Uint8Array {
  const bytes = allocate(frame.end - frame.start);
  bytes.set(frame.bytes.subarray(frame.start, frame.end));
  bytes[1] = type;
  writeU32(bytes, 4, peer);
  return bytes;
}

/** An attribute with a 32-bit value. */
export function encodeU32(id: number, value: number): Uint8Array {
  const bytes = allocate(8);
  writeU32(bytes, 0, (id << 24) | 8);
  writeU32(bytes, 4, value);
  return bytes;
}

/** An attribute with one byte. */
export function encodeU8(id: number, value: number): Uint8Array {
  return encodeContent(id, Uint8Array.of(value));
}

/** An attribute with a name and its NUL. */
export function encodeName(id: number, name: string): Uint8Array {
  return encodeContent(id, bytesOfName(`${name}\0`));
}

/** An attribute around bytes, padded. */
export function encodeContent(id: number, content: Uint8Array): Uint8Array {
  const bytes = allocate((content.length + 7) & ~3);
  putContent(bytes, 0, { id, bytes: content, start: 0, end: content.length });
  return bytes;
}

/** A named value for DATA or SIGNATURE, padded. */
export function encodeNamed(type: number, name: string, value: Uint8Array): Uint8Array {
  const nameBytes = (name.length + 6) & ~3;
  const content = new Uint8Array(nameBytes + value.length);
  content[0] = name.length >> 8;
  content[1] = name.length;
  content.set(bytesOfName(name), 2);
  content.set(value, nameBytes);
  const bytes = encodeContent(type, content);
  bytes[0] = 0x80 | type;
  return bytes;
}

/** A 32-bit value in network order. */
export function bytesOfU32(value: number): Uint8Array {
  return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

/** Pieces, one after the other. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

function writeHeader(bytes: Uint8Array, { type, seq, peer }: Envelope): void {
  writeU32(bytes, 0, ((type & 255) << 16) | (seq & 0xffff));
  writeU32(bytes, 4, peer);
  writeU32(bytes, 8, bytes.length - 8);
}

interface Content {
  readonly id: number;
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
}

/** Writes an attribute into zeroed memory. @returns where the next one goes. */
function putContent(out: Uint8Array, at: number, { id, bytes, start, end }: Content): number {
  const length = end - start;
  writeU32(out, at, (id << 24) | (length + 4));
  if (length > 48) out.set(bytes.subarray(start, end), at + 4);
  else for (let index = 0; index < length; index++) out[at + 4 + index] = bytes[start + index]!;
  return at + ((length + 7) & ~3);
}

const slabBytes = 65536;
let slab = new Uint8Array(slabBytes);
let slabUsed = 0;

/** Zeroed memory. Small pieces come out of one slab: a typed array of its own costs more than its content. */
function allocate(size: number): Uint8Array {
  if (size > 4096) return new Uint8Array(size);
  if (slabUsed + size > slabBytes) {
    slab = new Uint8Array(slabBytes);
    slabUsed = 0;
  }
  const bytes = slab.subarray(slabUsed, slabUsed + size);
  slabUsed += size;
  return bytes;
}
