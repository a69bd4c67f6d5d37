/**
 * DNS messages (RFC 1035, AAAA by RFC 3596, EDNS by RFC 6891, SVCB and HTTPS by RFC 9460): bytes to values and
 * back. Names are text as `name.ts` writes them.
 *
 * Decoding reads header, questions and answers strictly. What follows (authorities, additional) is walked for SOA
 * and EDNS records only and may be damaged, since resolvers of clients don't look at it either: a message that
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
import { DnsWriter } from "./dnswriter.ts";
import { formatLabel, LABEL_BYTES, NAME_BYTES } from "./name.ts";

export { foldName, formatName, parseName } from "./name.ts";

export const TYPE_A = 1;
export const TYPE_CNAME = 5;
export const TYPE_SOA = 6;
export const TYPE_PTR = 12;
export const TYPE_TXT = 16;
export const TYPE_AAAA = 28;
export const TYPE_OPT = 41;
export const TYPE_SVCB = 64;
export const TYPE_HTTPS = 65;
export const CLASS_IN = 1;

/** No message is shorter. */
export const HEADER_BYTES = 12;
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
  /** Of a CNAME record. Encoded it is the data of any type that is one name. */
  readonly target?: string;
  /** Of a whole TXT record: its character-strings, at most 255 bytes each. */
  readonly texts?: readonly Uint8Array[];
  /** Of a whole SOA record. */
  readonly authority?: DnsAuthority;
  /** Of a whole SVCB or HTTPS record: the addresses that a client may use without asking for them; not empty. */
  readonly hints?: readonly Address[];
}

/** Who keeps a zone, and how long an answer "no" about it holds (RFC 2308). */
export interface DnsAuthority {
  readonly server: string;
  /** A mail address with a dot for the @. */
  readonly contact: string;
  readonly serial: number;
  readonly refreshSeconds: number;
  readonly retrySeconds: number;
  readonly expireSeconds: number;
  readonly negativeTtlSeconds: number;
}

export interface DnsMessage {
  /** 16 bits. */
  readonly id: number;
  readonly flags: DnsFlags;
  readonly questions: readonly DnsQuestion[];
  readonly answers: readonly DnsRecord[];
  /** The SOA records of the authority section that could be read, if there are any; no others. */
  readonly authorities?: readonly DnsRecord[];
  /** The EDNS record, if there is one that could be read. */
  readonly edns?: DnsEdns;
}

export interface DnsEdns {
  readonly udpBytes: number;
  readonly dnssecOk: boolean;
  /** Left out: 0, the only one there is. */
  readonly version?: number;
  /** The high eight bits of the rcode; left out: 0. */
  readonly highRcode?: number;
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
  return { id, flags, questions, answers, ...readTail(reader, counts[2], counts[3]) };
}

/**
 * Writes a message, sharing names that were written before.
 *
 * @throws SyntaxError for a name that is none; RangeError for numbers out of range, and past 65,535 bytes.
 * @throws TypeError for a record without data: an address, a target, texts or an authority.
 */
export function encodeMessage(message: DnsMessage): Uint8Array {
  const writer = new DnsWriter();
  const { flags, authorities = [] } = message;
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
  for (const count of [
    message.questions.length,
    message.answers.length,
    authorities.length,
    message.edns ? 1 : 0,
  ]) {
    writer.u16(count);
  }
  for (const question of message.questions) {
    writer.name(question.name);
    writer.u16(question.type);
    writer.u16(question.class);
  }
  for (const record of message.answers) writeRecord(writer, record);
  for (const record of authorities) writeRecord(writer, record);
  if (message.edns) {
    const { udpBytes, dnssecOk, version = 0, highRcode = 0 } = message.edns;
    writer.bytes([0]);
    writer.u16(TYPE_OPT);
    writer.u16(udpBytes);
    writer.u16(highRcode * 256 + version);
    writer.u16(dnssecOk ? 0x8000 : 0);
    writer.u16(0);
  }
  return writer.finish();
}

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

function writeRecord(writer: DnsWriter, record: DnsRecord): void {
  writer.name(record.name);
  writer.u16(record.type);
  writer.u16(record.class);
  writer.u32(record.ttlSeconds);
  const lengthAt = writer.begin();
  if (record.address !== undefined) {
    const address = parseAddress(record.address);
    if (!address || sizeOf(record.type) !== (familyOf(address) === 4 ? 4 : 16)) {
      throw new TypeError(`Cannot encode DNS record: type ${record.type} with address ${record.address}`);
    }
    writer.bytes(encodeAddress(address));
  } else if (record.target !== undefined) {
    writer.name(record.target);
  } else if (record.authority !== undefined) {
    const { server, contact, serial, ...spans } = record.authority;
    writer.name(server);
    writer.name(contact);
    const { refreshSeconds, retrySeconds, expireSeconds, negativeTtlSeconds } = spans;
    for (const value of [serial, refreshSeconds, retrySeconds, expireSeconds, negativeTtlSeconds]) {
      writer.u32(value);
    }
  } else if (record.texts !== undefined && record.texts.length > 0) {
    for (const text of record.texts) {
      if (text.length > 255) throw new RangeError(`Cannot encode DNS text: ${text.length} bytes`);
      writer.bytes([text.length]);
      writer.bytes(text);
    }
  } else {
    throw new TypeError(`Cannot encode DNS record: type ${record.type} without data`);
  }
  writer.end(lengthAt);
}

/** What may be damaged: it is read as far as it goes. */
function readTail(
  reader: Reader,
  authorityCount: number,
  additionalCount: number,
): Pick<DnsMessage, "authorities" | "edns"> {
  const authorities: DnsRecord[] = [];
  let edns: DnsEdns | undefined;
  try {
    for (let index = 0; index < authorityCount + additionalCount && edns === undefined; index++) {
      const start = reader.position;
      const { ofRoot, type, class: udpBytes, rawTtl } = reader.skipRecord();
      // EDNS keeps its figures where others have class and time to live.
      if (type === TYPE_OPT && ofRoot) edns = ednsOf(udpBytes, rawTtl);
      else if (type === TYPE_SOA && index < authorityCount) authorities.push(...reader.recordsAt(start));
    }
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
  }
  return { ...(authorities.length > 0 && { authorities }), ...(edns && { edns }) };
}

function ednsOf(udpBytes: number, rawTtl: number): DnsEdns {
  const [highRcode, version] = [rawTtl >>> 24, (rawTtl >>> 16) & 255];
  const dnssecOk = (rawTtl & 0x8000) !== 0;
  return { udpBytes, dnssecOk, ...(version > 0 && { version }), ...(highRcode > 0 && { highRcode }) };
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
    if (type === TYPE_TXT) {
      const texts = this.#texts(end);
      return texts ? { ...record, texts } : record;
    }
    if (type === TYPE_SOA) {
      const authority = this.#authority(end);
      return authority ? { ...record, authority } : record;
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

  get position(): number {
    return this.#at;
  }

  /** The record at a place that was passed over, if it is whole; the place stays. */
  recordsAt(start: number): DnsRecord[] {
    const back = this.#at;
    this.#at = start;
    try {
      const record = this.record();
      return record.authority ? [record] : [];
    } catch (thrown) {
      if (thrown instanceof SyntaxError) return [];
      throw thrown;
    } finally {
      this.#at = back;
    }
  }

  /** length(8) bytes …; a damaged one is nothing to clients, and its end is known. */
  #texts(end: number): Uint8Array[] | undefined {
    const texts: Uint8Array[] = [];
    let at = this.#at;
    this.#at = end;
    while (at < end) {
      const next = at + 1 + this.#bytes[at]!;
      if (next > end) return undefined;
      texts.push(this.#bytes.slice(at + 1, next));
      at = next;
    }
    return texts.length > 0 ? texts : undefined;
  }

  /** server-name contact-name serial(32) refresh(32) retry(32) expire(32) negative-ttl(32) */
  #authority(end: number): DnsAuthority | undefined {
    try {
      const [server, contact] = [this.name(), this.name()];
      const u32 = () => this.u16() * 0x10000 + this.u16();
      const [serial, refreshSeconds, retrySeconds, expireSeconds] = [u32(), u32(), u32(), u32()];
      const negativeTtlSeconds = u32();
      if (this.#at !== end) return undefined;
      return {
        server,
        contact,
        serial,
        refreshSeconds,
        retrySeconds,
        expireSeconds,
        negativeTtlSeconds,
      };
    } catch (thrown) {
      if (thrown instanceof SyntaxError) return undefined;
      throw thrown;
    } finally {
      this.#at = end;
    }
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
