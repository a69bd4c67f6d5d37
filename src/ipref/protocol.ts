/**
 * The v1 protocol of `ipref/gw` on its unix socket, as CoreDNS' plugin `ipref` and `dns-agent` speak it: messages to
 * values and back. Keeps nothing. All numbers are big endian.
 *
 * ```
 *  0  0x11 (version, generation)      4  IP versions: LAN in the high four bits, tunnel in the low
 *  1  mode (2 bits) command (6 bits)  5  0
 *  2  id, the asker's                 6  length of all in words of four bytes
 *  8  body
 *
 *  MC_GET_EA 7           address-record [name]; the refusal has no body
 *  MC_HOST_DATA 14       batch(32) hash(64) local-domain public-domain address-record …; answered without records
 *  MC_HOST_DATA_HASH 15  count(32) hash(64) local-domain public-domain
 *
 *  address-record  encoded address, local host's address, context address (4 or 16 bytes each), reference(128)
 *  name            4, length(8), bytes, zeros up to a multiple of four
 * ```
 *
 * An address that is all zeros is none. Names are bytes, one character each: what they may be is for others to say.
 * The bodies of other commands, which only the gateway's own parts ever sent, are not read.
 */

import { type Address, decodeAddress, encodeAddress, type Family, familyOf } from "../lib/address.ts";
import { decodeReference, encodeReference, referenceBytes } from "../lib/reference.ts";

export type Mode = "data" | "request" | "ack" | "refusal";

/** Of a local network and of the tunnel. */
export interface Families {
  readonly lan: Family;
  readonly tunnel: Family;
}

export interface Head {
  readonly mode: Mode;
  /** 6 bits. */
  readonly command: number;
  /** 16 bits. */
  readonly id: number;
  readonly families: Families;
}

export interface AddressRecord {
  readonly encoded?: Address;
  /** The local host. */
  readonly host?: Address;
  readonly context?: Address;
  readonly reference: bigint;
}

export type Body =
  /** Which encoded address has it? A refusal has no record. */
  | { readonly kind: "encode"; readonly record?: AddressRecord; readonly name?: string }
  | {
      readonly kind: "hosts";
      readonly batch: number;
      /** 64 bits, as are all. */
      readonly hash: bigint;
      readonly local: string;
      readonly public: string;
      readonly records: readonly AddressRecord[];
    }
  | {
      readonly kind: "hash";
      readonly count: number;
      readonly hash: bigint;
      readonly local: string;
      readonly public: string;
    };

export const Command = { noop: 0, encode: 7, hosts: 14, hash: 15 } as const;

const commandOf = { encode: Command.encode, hosts: Command.hosts, hash: Command.hash } as const;
const modes: readonly Mode[] = ["data", "request", "ack", "refusal"];
const signature = 0x11;
export const headBytes = 8;
const maxBytes = 0xffff * 4;
const nameType = 4;
const maxNameBytes = 255;

/**
 * Reads the first eight bytes.
 *
 * @throws SyntaxError if they are no header, or not that of a message of this length.
 */
export function decodeHead(bytes: Uint8Array): Head {
  if (bytes.length < headBytes) throw cannot(`${bytes.length} bytes`);
  const view = viewOf(bytes);
  if (bytes[0] !== signature) throw cannot(`version ${bytes[0]}`);
  const lan = familyOfVersion(bytes[4]! >> 4);
  const tunnel = familyOfVersion(bytes[4]! & 15);
  if (bytes[5] !== 0) throw cannot("a reserved byte is not zero");
  if (view.getUint16(6) * 4 !== bytes.length) throw cannot("its length is wrong");
  return {
    mode: modes[bytes[1]! >> 6]!,
    command: bytes[1]! & 63,
    id: view.getUint16(2),
    families: { lan, tunnel },
  };
}

/**
 * Reads the body that follows a header.
 *
 * @returns undefined for a command whose body is not read.
 * @throws SyntaxError if it is not as its command and mode say.
 */
export function decodeBody(head: Head, bytes: Uint8Array): Body | undefined {
  const reader = new Reader(bytes, head.families);
  let body: Body;
  if (head.command === Command.encode) {
    if (head.mode === "refusal" && reader.isAtEnd) return { kind: "encode" };
    const record = reader.record();
    body = { kind: "encode", record, ...(!reader.isAtEnd && { name: reader.name() }) };
  } else if (head.command === Command.hosts) {
    const about = { batch: reader.u32(), hash: reader.u64(), local: reader.name(), public: reader.name() };
    const records: AddressRecord[] = [];
    while (!reader.isAtEnd) records.push(reader.record());
    body = { kind: "hosts", ...about, records };
  } else if (head.command === Command.hash) {
    const [count, hash] = [reader.u32(), reader.u64()];
    body = { kind: "hash", count, hash, local: reader.name(), public: reader.name() };
  } else {
    return undefined;
  }
  if (!reader.isAtEnd) throw cannot("something follows its end");
  return body;
}

/**
 * Writes a message.
 *
 * @throws RangeError for numbers, names and lengths that don't fit; TypeError for an address of the wrong family.
 */
export function encodeV1(head: Omit<Head, "command">, body: Body): Uint8Array {
  const writer = new Writer(head.families);
  if (body.kind === "encode") {
    if (body.record) writer.record(body.record);
    if (body.record && body.name !== undefined) writer.name(body.name);
  } else {
    writer.number(BigInt(body.kind === "hosts" ? body.batch : body.count), 4);
    writer.number(body.hash, 8);
    writer.name(body.local);
    writer.name(body.public);
    if (body.kind === "hosts") for (const record of body.records) writer.record(record);
  }
  return writer.finish({ ...head, command: commandOf[body.kind] });
}

/** The refusal that every request can get: a header alone. */
export function encodeRefusal(head: Head): Uint8Array {
  return new Writer(head.families).finish({ ...head, mode: "refusal" });
}

function familyOfVersion(version: number): Family {
  if (version !== 4 && version !== 6) throw cannot(`IP version ${version}`);
  return version;
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #families: Families;
  #at = headBytes;

  constructor(bytes: Uint8Array, families: Families) {
    this.#bytes = bytes;
    this.#families = families;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#bytes.length;
  }

  u32(): number {
    return viewOf(this.#bytes).getUint32(this.#take(4));
  }

  u64(): bigint {
    return viewOf(this.#bytes).getBigUint64(this.#take(8));
  }

  name(): string {
    const at = this.#take(4);
    if (this.#bytes[at] !== nameType) throw cannot("a name is none");
    const length = this.#bytes[at + 1]!;
    this.#take(nameBytes(length) - 4);
    return String.fromCharCode(...this.#bytes.subarray(at + 2, at + 2 + length));
  }

  record(): AddressRecord {
    const { lan, tunnel } = this.#families;
    const [encoded, host, context] = [this.#address(lan), this.#address(lan), this.#address(tunnel)];
    const reference = decodeReference(this.#bytes, this.#take(referenceBytes));
    return { ...(encoded && { encoded }), ...(host && { host }), ...(context && { context }), reference };
  }

  #address(family: Family): Address | undefined {
    const length = family === 4 ? 4 : 16;
    const at = this.#take(length);
    const isNone = this.#bytes.subarray(at, at + length).every((byte) => byte === 0);
    return isNone ? undefined : decodeAddress(this.#bytes, at, family);
  }

  #take(length: number): number {
    const at = this.#at;
    if (at + length > this.#bytes.length) throw cannot("it is cut short");
    this.#at += length;
    return at;
  }
}

class Writer {
  readonly #families: Families;
  readonly #out: number[] = new Array<number>(headBytes).fill(0);

  constructor(families: Families) {
    this.#families = families;
  }

  number(value: bigint, bytes: number): void {
    if (value < 0n || value >> BigInt(bytes * 8) !== 0n) {
      throw new RangeError(`Cannot encode v1 message: ${value} in ${bytes} bytes`);
    }
    for (let at = bytes - 1; at >= 0; at--) this.#out.push(Number((value >> BigInt(at * 8)) & 255n));
  }

  name(text: string): void {
    const bytes = Array.from(text, (character) => character.charCodeAt(0));
    if (bytes.length > maxNameBytes || bytes.some((byte) => byte > 255)) {
      throw new RangeError(`Cannot encode v1 message: a name of ${bytes.length} bytes`);
    }
    const padding = nameBytes(bytes.length) - bytes.length - 2;
    this.#out.push(nameType, bytes.length, ...bytes, ...new Array<number>(padding).fill(0));
  }

  record({ encoded, host, context, reference }: AddressRecord): void {
    const { lan, tunnel } = this.#families;
    this.#address(encoded, lan);
    this.#address(host, lan);
    this.#address(context, tunnel);
    this.#out.push(...encodeReference(reference));
  }

  finish({ mode, command, id, families }: Head): Uint8Array {
    if (this.#out.length > maxBytes) {
      throw new RangeError(`Cannot encode v1 message: ${this.#out.length} bytes`);
    }
    const bytes = Uint8Array.from(this.#out);
    const view = viewOf(bytes);
    bytes[0] = signature;
    bytes[1] = (modes.indexOf(mode) << 6) | command;
    view.setUint16(2, id);
    bytes[4] = (families.lan << 4) | families.tunnel;
    view.setUint16(6, bytes.length / 4);
    return bytes;
  }

  #address(address: Address | undefined, family: Family): void {
    if (address !== undefined && familyOf(address) !== family) {
      throw new TypeError(`Cannot encode v1 message: ${address} is not IPv${family}`);
    }
    this.#out.push(...(address ? encodeAddress(address) : new Array<number>(family === 4 ? 4 : 16).fill(0)));
  }
}

/** With its two bytes before and its padding. */
function nameBytes(length: number): number {
  return (length + 5) & ~3;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function cannot(state: string): SyntaxError {
  return new SyntaxError(`Cannot decode v1 message: ${state}`);
}
