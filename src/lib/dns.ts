/**
 * DNS messages (RFC 1035, AAAA by RFC 3596, EDNS by RFC 6891, SVCB and HTTPS by RFC 9460): bytes to values and
 * back.
 *
 * A name is text in presentation form with the trailing dot: `. ; ( ) \` inside a label get a backslash, every
 * byte that is not a graphic ASCII character becomes `\ddd`. So any 255 bytes of a hostile name are harmless
 * ASCII, and two names are the same where `foldName` of both is the same string.
 *
 * Decoding reads header, questions and answers strictly. What follows (authorities, additional) is walked for
 * the EDNS record only and may be damaged, since resolvers of clients don't look at it either: a message that
 * works for the client must not be invisible to us. Each name position is decoded once per message, so the
 * work is linear in the message whatever its compression pointers do.
 *
 * ```
 *  0  id                                     4  questions    8  authorities
 *  2  QR opcode AA TC RD | RA Z AD CD rcode  6  answers     10  additional
 * 12  question: name type class …  record: name type class ttl(32) length data
 * ```
 */

import { type Address, decodeAddress, encodeAddress, familyOf, parseAddress } from "./address.ts";

export const TYPE_A = 1;
export const TYPE_CNAME = 5;
export const TYPE_AAAA = 28;
const TYPE_OPT = 41;
export const TYPE_SVCB = 64;
export const TYPE_HTTPS = 65;
export const CLASS_IN = 1;

/** No message is shorter. */
export const HEADER_BYTES = 12;
const LABEL_BYTES = 63;
const NAME_BYTES = 255;
/** A name has at most 127 labels, so an honest chain of pointers is never longer. */
const POINTERS = 127;

export interface DnsFlags {
  readonly response: boolean;
  /** 0 is a standard query. */
  readonly opcode: number;
  readonly authoritative: boolean;
  readonly truncated: boolean;
  readonly recursionDesired: boolean;
  readonly recursionAvailable: boolean;
  readonly authenticData: boolean;
  readonly checkingDisabled: boolean;
  /** 0 no error, 2 server failure, 3 no such name, 5 refused; the low four bits. */
  readonly rcode: number;
}

export interface DnsQuestion {
  readonly name: string;
  readonly type: number;
  readonly class: number;
}

/** A record of the answer section. Of types that are not named below there is no more than this. */
export interface DnsRecord extends DnsQuestion {
  /** RFC 2181: values above 2³¹−1 count as 0. */
  readonly ttlSeconds: number;
  /** Of an A or AAAA record of class IN. */
  readonly address?: Address;
  /** Of a CNAME record. */
  readonly target?: string;
  /** Of a whole SVCB or HTTPS record: the addresses that a client may use without asking for them; not empty. */
  readonly hints?: readonly Address[];
}

export interface DnsMessage {
  /** 16 bits. */
  readonly id: number;
  readonly flags: DnsFlags;
  readonly questions: readonly DnsQuestion[];
  readonly answers: readonly DnsRecord[];
  /** The EDNS record, if there is one that could be read. */
  readonly edns?: { readonly udpBytes: number; readonly dnssecOk: boolean };
}

/** The form of a name under which equal names are equal strings: ASCII letters in lower case. */
export function foldName(name: string): string {
  return name.toLowerCase();
}

/** Whether the header of a message (all of it must be there) says that it is an answer. */
export function isResponse(bytes: Uint8Array): boolean {
  return (bytes[2]! & 0x80) !== 0;
}

/** @throws SyntaxError if the bytes are no DNS message up to the end of the answer section. */
export function decodeMessage(bytes: Uint8Array): DnsMessage {
  const reader = new Reader(bytes);
  const id = reader.u16();
  const flags = flagsOf(reader.u16());
  const counts = [reader.u16(), reader.u16(), reader.u16(), reader.u16()] as const;
  const questions: DnsQuestion[] = [];
  for (let left = counts[0]; left > 0; left--) {
    questions.push({ name: reader.name(), type: reader.u16(), class: reader.u16() });
  }
  const answers: DnsRecord[] = [];
  for (let left = counts[1]; left > 0; left--) answers.push(reader.record());
  const edns = findEdns(reader, counts[2] + counts[3]);
  return { id, flags, questions, answers, ...(edns && { edns }) };
}

/**
 * Writes a message, sharing names that were written before.
 *
 * @throws SyntaxError for a name that is none; RangeError for numbers out of range, and past 65,535 bytes.
 * @throws TypeError for a record with neither `address` nor `target`.
 */
export function encodeMessage(message: DnsMessage): Uint8Array {
  const writer = new Writer();
  const { flags } = message;
  writer.u16(message.id);
  writer.u16(
    (flags.response ? 0x8000 : 0) |
      ((flags.opcode & 15) << 11) |
      (flags.authoritative ? 0x400 : 0) |
      (flags.truncated ? 0x200 : 0) |
      (flags.recursionDesired ? 0x100 : 0) |
      (flags.recursionAvailable ? 0x80 : 0) |
      (flags.authenticData ? 0x20 : 0) |
      (flags.checkingDisabled ? 0x10 : 0) |
      (flags.rcode & 15),
  );
  for (const count of [message.questions.length, message.answers.length, 0, message.edns ? 1 : 0]) {
    writer.u16(count);
  }
  for (const question of message.questions) {
    writer.name(question.name);
    writer.u16(question.type);
    writer.u16(question.class);
  }
  for (const record of message.answers) writer.record(record);
  if (message.edns) {
    writer.bytes([0]);
    writer.u16(TYPE_OPT);
    writer.u16(message.edns.udpBytes);
    writer.u32(message.edns.dnssecOk ? 0x8000 : 0);
    writer.u16(0);
  }
  return writer.finish();
}

/**
 * The labels of a name in presentation form, as bytes. The trailing dot may be missing; "." has no labels.
 *
 * @throws SyntaxError for an empty or too long label, a name past 255 bytes, a bad escape, a character that is
 *   not ASCII.
 */
export function parseName(text: string): Uint8Array[] {
  const fail = (why: string): never => {
    throw new SyntaxError(`Cannot parse name: ${why}`);
  };
  if (text === ".") return [];
  if (text === "" || text.length > NAME_BYTES * 4) fail(`length ${text.length}`);
  const labels: Uint8Array[] = [];
  let label: number[] = [];
  let total = 1;
  const finish = () => {
    if (label.length === 0) fail("empty label");
    if (label.length > LABEL_BYTES) fail("label too long");
    total += label.length + 1;
    if (total > NAME_BYTES) fail("name too long");
    labels.push(Uint8Array.from(label));
    label = [];
  };
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code > 126) fail("not ASCII");
    if (code === 46) {
      finish();
    } else if (code !== 92) {
      label.push(code);
    } else if (/^[0-9]{3}$/.test(text.slice(at + 1, at + 4))) {
      const value = Number(text.slice(at + 1, at + 4));
      if (value > 255) fail("escape above 255");
      label.push(value);
      at += 3;
    } else {
      const next = text.charCodeAt(at + 1);
      if (!(next > 32 && next < 127) || (next >= 48 && next <= 57)) fail("bad escape");
      label.push(next);
      at++;
    }
  }
  if (!text.endsWith(".") || label.length > 0) finish();
  return labels;
}

/** Labels in presentation form, with the trailing dot. */
export function formatName(labels: readonly Uint8Array[]): string {
  if (labels.length === 0) return ".";
  return labels.map((label) => `${formatLabel(label)}.`).join("");
}

function formatLabel(label: Uint8Array): string {
  let text = "";
  for (const byte of label) text += shown[byte];
  return text;
}

/** Each byte of a label as it is written. */
const shown: readonly string[] = Array.from({ length: 256 }, (_, byte) => {
  if (byte <= 32 || byte >= 127) return `\\${String(byte).padStart(3, "0")}`;
  const character = String.fromCharCode(byte);
  return ".;()\\".includes(character) ? `\\${character}` : character;
});

function flagsOf(bits: number): DnsFlags {
  return {
    response: (bits & 0x8000) !== 0,
    opcode: (bits >> 11) & 15,
    authoritative: (bits & 0x400) !== 0,
    truncated: (bits & 0x200) !== 0,
    recursionDesired: (bits & 0x100) !== 0,
    recursionAvailable: (bits & 0x80) !== 0,
    authenticData: (bits & 0x20) !== 0,
    checkingDisabled: (bits & 0x10) !== 0,
    rcode: bits & 15,
  };
}

function findEdns(reader: Reader, records: number): DnsMessage["edns"] {
  try {
    for (let left = records; left > 0; left--) {
      const { ofRoot, type, class: udpBytes, rawTtl } = reader.skipRecord();
      // EDNS keeps its figures where others have class and time to live.
      if (type === TYPE_OPT && ofRoot) return { udpBytes, dnssecOk: (rawTtl & 0x8000) !== 0 };
    }
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
  }
  return undefined;
}

interface Name {
  readonly text: string;
  /** What it would take without compression, for the limit of 255. */
  readonly wireBytes: number;
}

class Reader {
  readonly #bytes: Uint8Array;
  /** Where a name starts → the name: each position is decoded once. */
  readonly #names = new Map<number, Name>();
  #at = 0;

  constructor(bytes: Uint8Array) {
    if (bytes.length < HEADER_BYTES) throw cut();
    this.#bytes = bytes;
  }

  u16(): number {
    if (this.#at + 2 > this.#bytes.length) throw cut();
    const value = (this.#bytes[this.#at]! << 8) | this.#bytes[this.#at + 1]!;
    this.#at += 2;
    return value;
  }

  name(): string {
    const { name, end } = this.#nameAt(this.#at, 0);
    this.#at = end;
    return name.text;
  }

  record(): DnsRecord {
    const name = this.name();
    const { type, class: kind, rawTtl, length } = this.#recordHead();
    const end = this.#at + length;
    if (end > this.#bytes.length) throw cut();
    const record = { name, type, class: kind, ttlSeconds: rawTtl > 0x7fffffff ? 0 : rawTtl };
    const size = kind === CLASS_IN ? sizeOf(type) : undefined;
    if (size !== undefined) {
      if (length !== size) throw new SyntaxError(`Cannot decode DNS address: ${length} bytes`);
      const address = decodeAddress(this.#bytes, this.#at, size === 4 ? 4 : 6);
      this.#at = end;
      return { ...record, address };
    }
    if (type === TYPE_CNAME) {
      const target = this.name();
      if (this.#at !== end) throw new SyntaxError("Cannot decode DNS alias: its length is wrong");
      return { ...record, target };
    }
    const binds = kind === CLASS_IN && (type === TYPE_SVCB || type === TYPE_HTTPS);
    const hints = binds ? this.#hints(end) : undefined;
    this.#at = end;
    return hints ? { ...record, hints } : record;
  }

  /** Passes over a record without reading its name or its data. */
  skipRecord(): { ofRoot: boolean; type: number; class: number; rawTtl: number } {
    const ofRoot = this.#bytes[this.#at] === 0;
    for (let size = this.#u8(); size !== 0; size = this.#u8()) {
      this.#at += size < 0xc0 ? size : 1;
      // A pointer is the end of a name.
      if (size >= 0xc0) break;
    }
    const head = this.#recordHead();
    this.#at += head.length;
    return { ofRoot, ...head };
  }

  #u8(): number {
    const value = this.#bytes[this.#at++];
    if (value === undefined) throw cut();
    return value;
  }

  #recordHead(): { type: number; class: number; rawTtl: number; length: number } {
    const [type, kind] = [this.u16(), this.u16()];
    const rawTtl = this.u16() * 0x10000 + this.u16();
    return { type, class: kind, rawTtl, length: this.u16() };
  }

  /**
   * The address hints of a service binding (RFC 9460):
   *
   *     priority(16) target-name { key(16) length(16) value } …    key 4: IPv4, key 6: IPv6 addresses
   *
   * A damaged record is one that clients ignore, not a damaged message: its length says where the next begins.
   */
  #hints(end: number): Address[] | undefined {
    const hints: Address[] = [];
    try {
      const priority = this.u16();
      this.name();
      // Priority 0 is an alias: what follows is to be ignored.
      if (priority === 0) return undefined;
      for (let last = -1; this.#at < end; ) {
        const key = this.u16();
        const length = this.u16();
        const next = this.#at + length;
        if (key <= last || next > end) return undefined;
        const size = key === 4 ? 4 : key === 6 ? 16 : 0;
        if (size > 0 && (length === 0 || length % size !== 0)) return undefined;
        for (; size > 0 && this.#at < next; this.#at += size) {
          hints.push(decodeAddress(this.#bytes, this.#at, size === 4 ? 4 : 6));
        }
        last = key;
        this.#at = next;
      }
    } catch (thrown) {
      if (thrown instanceof SyntaxError) return undefined;
      throw thrown;
    }
    return this.#at === end && hints.length > 0 ? hints : undefined;
  }

  /** Pointers lead strictly backwards, so a loop is impossible; their number is bounded for the stack's sake. */
  #nameAt(start: number, pointers: number): { name: Name; end: number } {
    let text = "";
    let wireBytes = 0;
    for (let at = start; ; ) {
      const length = this.#bytes[at];
      if (length === undefined) throw cut();
      if (length >= 0xc0) {
        const low = this.#bytes[at + 1];
        if (low === undefined) throw cut();
        const target = ((length & 0x3f) << 8) | low;
        if (target >= start || pointers >= POINTERS)
          throw new SyntaxError("Cannot decode DNS name: bad pointer");
        const rest = this.#names.get(target) ?? this.#nameAt(target, pointers + 1).name;
        return { name: this.#keep(start, { text, wireBytes }, rest), end: at + 2 };
      }
      if (length > LABEL_BYTES) throw new SyntaxError("Cannot decode DNS name: bad label type");
      if (length === 0) return { name: this.#keep(start, { text, wireBytes }, root), end: at + 1 };
      const end = at + 1 + length;
      if (end > this.#bytes.length) throw cut();
      text += `${formatLabel(this.#bytes.subarray(at + 1, end))}.`;
      wireBytes += length + 1;
      if (wireBytes >= NAME_BYTES) throw new SyntaxError("Cannot decode DNS name: too long");
      at = end;
    }
  }

  #keep(start: number, head: Name, rest: Name): Name {
    const wireBytes = head.wireBytes + rest.wireBytes;
    if (wireBytes > NAME_BYTES) throw new SyntaxError("Cannot decode DNS name: too long");
    const name =
      head.text === "" ? rest : { text: rest.text === "." ? head.text : head.text + rest.text, wireBytes };
    this.#names.set(start, name);
    return name;
  }
}

const root: Name = { text: ".", wireBytes: 1 };

function sizeOf(type: number): 4 | 16 | undefined {
  return type === TYPE_A ? 4 : type === TYPE_AAAA ? 16 : undefined;
}

function cut(): SyntaxError {
  return new SyntaxError("Cannot decode DNS message: cut short");
}

class Writer {
  readonly #out: number[] = [];
  /** Name in presentation form → where it was written. */
  readonly #names = new Map<string, number>();

  u16(value: number): void {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff) {
      throw new RangeError(`Cannot encode DNS message: ${value} in 16 bits`);
    }
    this.#out.push(value >> 8, value & 255);
  }

  u32(value: number): void {
    this.u16(Math.floor(value / 0x10000));
    this.u16(value % 0x10000);
  }

  bytes(values: Iterable<number>): void {
    for (const value of values) this.#out.push(value);
  }

  name(text: string): void {
    const labels = parseName(text);
    for (let first = 0; first < labels.length; first++) {
      const rest = formatName(labels.slice(first));
      const known = this.#names.get(rest);
      if (known !== undefined) {
        this.u16(0xc000 | known);
        return;
      }
      if (this.#out.length < 0x4000) this.#names.set(rest, this.#out.length);
      this.bytes([labels[first]!.length]);
      this.bytes(labels[first]!);
    }
    this.bytes([0]);
  }

  record(record: DnsRecord): void {
    this.name(record.name);
    this.u16(record.type);
    this.u16(record.class);
    this.u32(record.ttlSeconds);
    const lengthAt = this.#out.length;
    this.u16(0);
    if (record.address !== undefined) {
      const address = parseAddress(record.address);
      if (!address || sizeOf(record.type) !== (familyOf(address) === 4 ? 4 : 16)) {
        throw new TypeError(`Cannot encode DNS record: type ${record.type} with address ${record.address}`);
      }
      this.bytes(encodeAddress(address));
    } else if (record.target !== undefined) {
      this.name(record.target);
    } else {
      throw new TypeError(`Cannot encode DNS record: type ${record.type} without data`);
    }
    const length = this.#out.length - lengthAt - 2;
    this.#out[lengthAt] = length >> 8;
    this.#out[lengthAt + 1] = length & 255;
  }

  finish(): Uint8Array {
    if (this.#out.length > 0xffff)
      throw new RangeError(`Cannot encode DNS message: ${this.#out.length} bytes`);
    return Uint8Array.from(this.#out);
  }
}
