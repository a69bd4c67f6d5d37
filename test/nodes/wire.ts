/** IP packets of port 53 made by hand: UDP datagrams, and TCP connections packet by packet. */

import { type Address, encodeAddress, familyOf } from "../../src/lib/address.ts";
import { CLASS_IN, type DnsFlags, type DnsMessage, encodeMessage, TYPE_A } from "../../src/lib/dns.ts";
import { address } from "./stage.ts";

const flags: DnsFlags = {
  response: false,
  opcode: 0,
  authoritative: false,
  truncated: false,
  recursionDesired: true,
  recursionAvailable: false,
  authenticData: false,
  checkingDisabled: false,
  rcode: 0,
};

/** A question. */
export function question(name: string, id = 7, type = TYPE_A): DnsMessage {
  return { id, flags, questions: [{ name, type, class: CLASS_IN }], answers: [] };
}

/** The answer to it, without error. */
export function answer(
  asked: DnsMessage,
  answers: DnsMessage["answers"],
  more: Partial<DnsFlags> = {},
): DnsMessage {
  return { ...asked, flags: { ...asked.flags, response: true, ...more }, answers };
}

export function record(name: string, text: string, ttlSeconds = 60) {
  return {
    name,
    type: text.includes(":") ? 28 : TYPE_A,
    class: CLASS_IN,
    ttlSeconds,
    address: address(text),
  };
}

export interface Way {
  readonly from: Address;
  readonly to: Address;
  /** Source and destination port. */
  readonly ports: readonly [number, number];
}

export function udp(message: DnsMessage | Uint8Array, way: Way): Uint8Array {
  const data = message instanceof Uint8Array ? message : encodeMessage(message);
  return ip(17, [...u16(way.ports[0]), ...u16(way.ports[1]), ...u16(8 + data.length), 0, 0, ...data], way);
}

export interface Segment {
  readonly sequence: number;
  readonly acknowledged?: number | undefined;
  readonly flags?: string;
  readonly data?: Uint8Array;
}

export function tcp({ sequence, acknowledged, flags: letters = "", data }: Segment, way: Way): Uint8Array {
  const bits =
    [..."FSRP"].reduce((sum, letter, bit) => sum + (letters.includes(letter) ? 1 << bit : 0), 0) +
    (acknowledged === undefined ? 0 : 16);
  const header = [
    ...[...u16(way.ports[0]), ...u16(way.ports[1]), ...u32(sequence), ...u32(acknowledged ?? 0)],
    ...[0x50, bits, 0xff, 0xff, 0, 0, 0, 0],
  ];
  const bytes = new Uint8Array(header.length + (data?.length ?? 0));
  bytes.set(header);
  if (data) bytes.set(data, header.length);
  return ip(6, bytes, way);
}

/** Messages as TCP carries them: each behind its length. */
export function framed(...messages: readonly (DnsMessage | Uint8Array)[]): Uint8Array {
  return Buffer.concat(
    messages.map((message) => {
      const bytes = message instanceof Uint8Array ? message : encodeMessage(message);
      return Buffer.concat([Uint8Array.from(u16(bytes.length)), bytes]);
    }),
  );
}

/** One end of a connection that says things in order. */
export class Speaker {
  sequence: number;
  readonly #way: Way;

  constructor(way: Way, sequence: number) {
    this.#way = way;
    this.sequence = sequence >>> 0;
  }

  /** The next packet of this end; data longer than a packet goes in one all the same. */
  say(data: Uint8Array = new Uint8Array(0), { flags: letters = "", acknowledged }: Partial<Segment> = {}) {
    const bytes = tcp({ sequence: this.sequence, flags: letters, data, acknowledged }, this.#way);
    this.sequence = (this.sequence + data.length + (/[SF]/.test(letters) ? 1 : 0)) >>> 0;
    return bytes;
  }
}

export function backwards({ from, to, ports }: Way): Way {
  return { from: to, to: from, ports: [ports[1], ports[0]] };
}

function ip(protocol: number, payload: ArrayLike<number>, { from, to }: Way): Uint8Array {
  const v4 = familyOf(from) === 4;
  const total = payload.length + (v4 ? 20 : 0);
  const head = v4
    ? [0x45, 0, ...u16(total), 0, 0, 0x40, 0, 64, protocol, 0, 0]
    : [0x60, 0, 0, 0, ...u16(total), protocol, 64];
  const addresses = [...encodeAddress(from), ...encodeAddress(to)];
  const bytes = new Uint8Array(head.length + addresses.length + payload.length);
  bytes.set(head);
  bytes.set(addresses, head.length);
  bytes.set(payload, head.length + addresses.length);
  return bytes;
}

function u16(value: number): number[] {
  return [(value >> 8) & 255, value & 255];
}

function u32(value: number): number[] {
  return [...u16(value >>> 16), ...u16(value)];
}
