/**
 * Messages of ubus and the stream they come in.
 *
 *      0        1        2                 4                                   8
 *     +--------+--------+-----------------+-----------------------------------+------------- - -
 *     | version|  type  |       seq       |               peer                | blob: u32 length, attributes
 *     +--------+--------+-----------------+-----------------------------------+------------- - -
 *
 * `seq` is chosen by who asks and comes back in every answer; `peer` is an object or a client, depending on
 * type and direction. The blob's length includes its own four bytes and not the header. Attributes of unknown
 * ids, and ones whose data do not fit their type, count as absent; of repeated ones the last counts.
 *
 * Decoded messages share memory with the bytes they came in: who keeps `blob`, `data` or `signature` past
 * the callback that brought the bytes must copy.
 *
 * Source: ubus 3cc98db (ubusmsg.h), recorded traffic.
 */

import { type BlobWriter, borrowWriter, lengthAt, readInt32, readString, returnWriter } from "./blob.ts";

export const MessageType = {
  Hello: 0,
  Status: 1,
  Data: 2,
  Ping: 3,
  Lookup: 4,
  Invoke: 5,
  AddObject: 6,
  RemoveObject: 7,
  Subscribe: 8,
  Unsubscribe: 9,
  Notify: 10,
  Monitor: 11,
} as const;

/** Ids of attributes, except in a Monitor message, which has its own. */
export const Attribute = {
  Status: 1,
  Path: 2,
  ObjectId: 3,
  Method: 4,
  ObjectType: 5,
  Signature: 6,
  Data: 7,
  Target: 8,
  Active: 9,
  NoReply: 10,
  Subscribers: 11,
  User: 12,
  Group: 13,
} as const;

const MonitorAttribute = { Client: 0, Peer: 1, Send: 2, Seq: 3, Type: 4, Data: 5 } as const;

export interface Attributes {
  /** Signed; 0 is success. */
  readonly status?: number;
  readonly path?: string;
  /** Ids of objects and types are unsigned 32-bit numbers. */
  readonly objectId?: number;
  readonly method?: string;
  readonly objectType?: number;
  /** A list of fields: one Table per method, in it one Int32 per argument that holds its type. */
  readonly signature?: Uint8Array;
  /** A list of fields, not looked at. */
  readonly data?: Uint8Array;
  readonly target?: number;
  readonly active?: boolean;
  readonly noReply?: boolean;
  readonly subscribers?: readonly number[];
  readonly user?: string;
  readonly group?: string;
}

export interface Header {
  /** 0 unless somebody plays tricks; ubusd copies what it was sent. */
  readonly version?: number;
  readonly type: number;
  /** 16 bits. */
  readonly seq: number;
  /** 32 bits, unsigned. */
  readonly peer: number;
}

export interface Message extends Header {
  readonly attributes: Attributes;
}

/** A message as it came in. */
export interface Received extends Message {
  readonly version: number;
  /** The blob as it was sent, its header of four bytes included. */
  readonly blob: Uint8Array;
}

/** What a Monitor message tells of another client's message. */
export interface Sighting {
  /** The client that the message came from or went to. */
  readonly client: number;
  readonly peer: number;
  readonly seq: number;
  readonly type: number;
  /** True for a message that the bus sent to the client. */
  readonly send: boolean;
  /** The message's attributes: its blob without the header of four bytes. */
  readonly data: Uint8Array;
}

/** The bytes of a message, attributes in the order in which ubusd and libubus send them. */
export function encodeMessage(message: Message): Uint8Array {
  const writer = borrowWriter();
  try {
    putMessage(writer, message);
    return writer.take();
  } finally {
    returnWriter(writer);
  }
}

/** Writes a message behind what a writer holds already. */
export function putMessage(writer: BlobWriter, message: Message): void {
  putHeader(writer, message);
  const blob = writer.open(0);
  putAttributes(writer, message.type, message.attributes);
  writer.close(blob);
}

/** The bytes of a Monitor message, the `seq`th to this monitor. */
export function encodeMonitor(seq: number, sighting: Sighting): Uint8Array {
  const writer = borrowWriter();
  try {
    putHeader(writer, { type: MessageType.Monitor, seq, peer: 0 });
    const blob = writer.open(0);
    writer.putInt32(MonitorAttribute.Client, sighting.client);
    writer.putInt32(MonitorAttribute.Peer, sighting.peer);
    writer.putInt32(MonitorAttribute.Seq, sighting.seq);
    writer.putInt32(MonitorAttribute.Type, sighting.type);
    writer.putInt8(MonitorAttribute.Send, sighting.send ? 1 : 0);
    writer.putBytes(MonitorAttribute.Data, sighting.data);
    writer.close(blob);
    return writer.take();
  } finally {
    returnWriter(writer);
  }
}

/** What a received Monitor message tells, or undefined if something of it is missing. */
export function sightingOf(message: Received): Sighting | undefined {
  const found: { -readonly [name in keyof Sighting]?: Sighting[name] } = {};
  const { blob } = message;
  eachAttribute(blob, 4, (id, start, end) => {
    if (id === MonitorAttribute.Data) found.data = blob.subarray(start, end);
    else if (id === MonitorAttribute.Send) {
      if (end - start === 1) found.send = blob[start] !== 0;
    } else if (end - start === 4) {
      const value = readInt32(blob, start) >>> 0;
      if (id === MonitorAttribute.Client) found.client = value;
      else if (id === MonitorAttribute.Peer) found.peer = value;
      else if (id === MonitorAttribute.Seq) found.seq = value;
      else if (id === MonitorAttribute.Type) found.type = value;
    }
  });
  const { client, peer, seq, type, send, data } = found;
  if (client === undefined || peer === undefined || seq === undefined || type === undefined) return undefined;
  return send === undefined || data === undefined ? undefined : { client, peer, seq, type, send, data };
}

/** Reads one whole message, header first. */
export function decodeMessage(bytes: Uint8Array): Received {
  const type = bytes[1]!;
  const blob = bytes.subarray(8);
  return {
    version: bytes[0]!,
    type,
    seq: (bytes[2]! << 8) | bytes[3]!,
    peer: readInt32(bytes, 4) >>> 0,
    attributes: type === MessageType.Monitor ? {} : decodeAttributes(blob, 4),
    blob,
  };
}

/** Reads the attributes of a blob; `start` is 4 to skip its header, 0 if it has none. */
export function decodeAttributes(blob: Uint8Array, start: number): Attributes {
  const found: { -readonly [name in keyof Attributes]: Attributes[name] } = {};
  eachAttribute(blob, start, (id, from, to) => {
    switch (id) {
      case Attribute.Status:
        if (to - from === 4) found.status = readInt32(blob, from);
        break;
      case Attribute.Path:
        if (isString(blob, from, to)) found.path = readString(blob, from, to);
        break;
      case Attribute.ObjectId:
        if (to - from === 4) found.objectId = readInt32(blob, from) >>> 0;
        break;
      case Attribute.Method:
        if (isString(blob, from, to)) found.method = readString(blob, from, to);
        break;
      case Attribute.ObjectType:
        if (to - from === 4) found.objectType = readInt32(blob, from) >>> 0;
        break;
      case Attribute.Signature:
        found.signature = blob.subarray(from, to);
        break;
      case Attribute.Data:
        found.data = blob.subarray(from, to);
        break;
      case Attribute.Target:
        if (to - from === 4) found.target = readInt32(blob, from) >>> 0;
        break;
      case Attribute.Active:
        if (to - from === 1) found.active = blob[from] !== 0;
        break;
      case Attribute.NoReply:
        if (to - from === 1) found.noReply = blob[from] !== 0;
        break;
      case Attribute.Subscribers:
        found.subscribers = decodeIds(blob.subarray(from, to));
        break;
      case Attribute.User:
        if (isString(blob, from, to)) found.user = readString(blob, from, to);
        break;
      case Attribute.Group:
        if (isString(blob, from, to)) found.group = readString(blob, from, to);
        break;
    }
  });
  return found;
}

/**
 * Cuts a byte stream into messages.
 *
 * Keeps the beginning of at most one message, in memory that grows with what has come, not with what was
 * announced; every byte is copied a bounded number of times, however the stream is chopped.
 */
export class MessageReader {
  readonly #maxBlobBytes: number;
  /** The beginning of a message, `#held` bytes of it. */
  #partial = new Uint8Array(0);
  #held = 0;
  #failure: SyntaxError | undefined;

  /** @param maxBlobBytes the longest blob that is believed, its header of four bytes included. */
  constructor(maxBlobBytes: number) {
    this.#maxBlobBytes = maxBlobBytes;
  }

  /** Why the stream cannot be read any further, once that is so. */
  get failure(): SyntaxError | undefined {
    return this.#failure;
  }

  /**
   * The messages that a chunk completes. They may share memory with the chunk.
   *
   * @throws SyntaxError if the stream cannot be cut any more: a length is below 4 or past the limit. Whole
   *   messages before that place are still returned, and `failure` is set; then the next call throws.
   */
  push(chunk: Uint8Array): Received[] {
    const messages: Received[] = [];
    let at = 0;
    while (!this.#failure && at < chunk.length) {
      if (this.#held > 0) {
        at += this.#fill(chunk.subarray(at), messages);
        continue;
      }
      const total = this.#totalAt(chunk, at);
      if (total === undefined || at + total > chunk.length) {
        if (!this.#failure) at += this.#fill(chunk.subarray(at), messages);
        continue;
      }
      messages.push(decodeMessage(chunk.subarray(at, at + total)));
      at += total;
    }
    if (this.#failure && messages.length === 0) throw this.#failure;
    return messages;
  }

  /** Moves bytes into the partial message, at most up to its end; returns how many. */
  #fill(bytes: Uint8Array, messages: Received[]): number {
    const total = this.#heldTotal() ?? 12;
    const taken = Math.min(total - this.#held, bytes.length);
    this.#reserve(this.#held + taken, total);
    this.#partial.set(taken < bytes.length ? bytes.subarray(0, taken) : bytes, this.#held);
    this.#held += taken;
    if (this.#held === this.#heldTotal()) {
      messages.push(decodeMessage(this.#partial.subarray(0, this.#held)));
      this.#partial = new Uint8Array(0);
      this.#held = 0;
    }
    return taken;
  }

  /** The size of the partial message, once its header is there. */
  #heldTotal(): number | undefined {
    return this.#held < 12 ? undefined : this.#totalAt(this.#partial, 0);
  }

  #reserve(needed: number, total: number): void {
    if (needed <= this.#partial.length) return;
    const grown = new Uint8Array(Math.min(total, Math.max(needed, this.#partial.length * 2)));
    grown.set(this.#partial.subarray(0, this.#held));
    this.#partial = grown;
  }

  /** The size of the message at an offset, or undefined if that is not known yet or not to be believed. */
  #totalAt(bytes: Uint8Array, at: number): number | undefined {
    if (at + 12 > bytes.length) return undefined;
    const length = lengthAt(bytes, at + 8);
    if (length >= 4 && ((length + 3) & ~3) <= this.#maxBlobBytes) return 8 + length;
    this.#failure = new SyntaxError(`Cannot decode message: its blob says ${length} bytes`);
    return undefined;
  }
}

function putHeader(writer: BlobWriter, header: Header): void {
  const { version = 0, type, seq, peer } = header;
  writer.append32((version << 24) | (type << 16) | seq);
  writer.append32(peer);
}

/**
 * Writes attributes in the order in which the real programs send them: STATUS first, but last in the answer
 * to a notification; NO_REPLY last in a notification, but first where the bus hands one on.
 */
function putAttributes(writer: BlobWriter, type: number, attributes: Attributes): void {
  const { status, subscribers, noReply } = attributes;
  const replyFirst = type === MessageType.Invoke;
  if (noReply !== undefined && replyFirst) writer.putInt8(Attribute.NoReply, noReply ? 1 : 0);
  if (attributes.path !== undefined) writer.putString(Attribute.Path, attributes.path);
  if (status !== undefined && !subscribers) writer.putInt32(Attribute.Status, status);
  if (attributes.objectId !== undefined) writer.putInt32(Attribute.ObjectId, attributes.objectId);
  if (attributes.objectType !== undefined) writer.putInt32(Attribute.ObjectType, attributes.objectType);
  if (attributes.signature) writer.putBytes(Attribute.Signature, attributes.signature);
  if (attributes.method !== undefined) writer.putString(Attribute.Method, attributes.method);
  if (attributes.user !== undefined) writer.putString(Attribute.User, attributes.user);
  if (attributes.group !== undefined) writer.putString(Attribute.Group, attributes.group);
  if (attributes.data) writer.putBytes(Attribute.Data, attributes.data);
  if (attributes.target !== undefined) writer.putInt32(Attribute.Target, attributes.target);
  if (attributes.active !== undefined) writer.putInt8(Attribute.Active, attributes.active ? 1 : 0);
  if (noReply !== undefined && !replyFirst) writer.putInt8(Attribute.NoReply, noReply ? 1 : 0);
  if (!subscribers) return;
  const list = writer.open(Attribute.Subscribers);
  for (const id of subscribers) writer.putInt32(0, id);
  writer.close(list);
  if (status !== undefined) writer.putInt32(Attribute.Status, status);
}

type EachAttribute = (id: number, start: number, end: number) => void;

/** Calls with the data of each attribute; ends where one does not fit, as libubox does. */
function eachAttribute(bytes: Uint8Array, start: number, each: EachAttribute): void {
  for (let at = start; at + 4 <= bytes.length; ) {
    const length = lengthAt(bytes, at);
    const padded = (length + 3) & ~3;
    if (padded < 4 || at + padded > bytes.length) return;
    if (length >= 4) each(bytes[at]! & 0x7f, at + 4, at + length);
    at += padded;
  }
}

function decodeIds(bytes: Uint8Array): number[] {
  const ids: number[] = [];
  eachAttribute(bytes, 0, (_id, start, end) => {
    if (end - start === 4) ids.push(readInt32(bytes, start) >>> 0);
  });
  return ids;
}

function isString(bytes: Uint8Array, start: number, end: number): boolean {
  return end > start && bytes[end - 1] === 0;
}
