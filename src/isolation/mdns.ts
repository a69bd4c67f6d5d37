/**
 * Discovery between connected services: who hears whose multicast DNS and broadcasts, and what it says then.
 *
 * Keeps an allowance for each sender, so that one that shouts costs the others nothing. A question goes to whom the
 * asker may talk to, an answer to who may talk to the answerer, to each by itself and on its own segment: nobody else
 * there hears it. Every address of the sender in a message becomes its stand-in, in its place, so that no pointer of
 * the message moves; a record with any other address, or with addresses inside (SVCB, HTTPS), becomes one that nobody
 * knows (a type for private use, RFC 6895, without meaning). A message that cannot be walked to its end goes nowhere.
 * A broadcast is passed on as it is, from the sender's stand-in, so that whoever hears it can answer.
 */

import { type Address, decodeAddress, encodeAddress, type Family, familyOf } from "../lib/address.ts";
import { HEADER_BYTES, isResponse, TYPE_A, TYPE_AAAA, TYPE_HTTPS, TYPE_SVCB } from "../lib/dns.ts";
import type { Isolation } from "./isolation.ts";
import { allowsUdp } from "./permission.ts";
import { type Party, placesOf } from "./services.ts";
import type { StandIn } from "./standins.ts";

export interface RelayOptions {
  readonly isolation: Isolation;
  /** Messages of one sender at once, and each second from then on. Default 60 and 20. */
  readonly burst?: number;
  readonly perSecond?: number;
}

/** What came in by multicast or broadcast. */
export interface Heard {
  readonly device: string;
  readonly source: Address;
  /** Of UDP, of a broadcast: who may not be talked to at the destination does not hear it. */
  readonly ports?: { readonly source: number; readonly destination: number };
  /** The payload of UDP. */
  readonly bytes: Uint8Array;
}

/** What is to be sent, to one party. */
export interface Relayed {
  readonly device: string;
  readonly to: Address;
  /** Multicast DNS: the router's own address there, which is on the link. Broadcast: the sender's stand-in. */
  readonly from: Address;
  /**
   * Set on a broadcast whose hearer may not begin to talk to the port that it came from: its answer passes only as
   * that of a datagram from the sender, at this address, to the hearer's stand-in.
   */
  readonly answered?: { readonly source: Address; readonly standIn: Address };
  readonly bytes: Uint8Array;
}

export interface RelayCounters {
  relayed: number;
  /** From nobody of a segment. */
  strangers: number;
  /** Too many from one sender. */
  tooMany: number;
  /** No message of multicast DNS. */
  malformed: number;
}

/** Private use: what a record becomes that must not be understood. */
const TYPE_BLANK = 0xff01;
const TYPE_OPT = 41;
const maxMessageBytes = 9_000;
const maxRecords = 512;
const maxHearers = 256;
const maxSenders = 4_096;

export class Relay {
  readonly counters: RelayCounters = { relayed: 0, strangers: 0, tooMany: 0, malformed: 0 };
  readonly #options: RelayOptions;
  readonly #allowances = new Map<string, { left: number; at: number }>();

  constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** A message of multicast DNS. Never throws. */
  mdns(heard: Heard, now: number): Relayed[] {
    const sender = this.#sender(heard, now);
    if (!sender) return [];
    const { party, standIn } = sender;
    const bytes =
      heard.bytes.length >= HEADER_BYTES && heard.bytes.length <= maxMessageBytes ? heard.bytes : undefined;
    const message =
      bytes && rewritten(bytes, { own: placesOf(party).map(({ address }) => address), standIn });
    if (!message) {
      this.counters.malformed++;
      return [];
    }
    const relayed = this.#hearers(party, isResponse(message), now).flatMap((hearer): Relayed[] => {
      const place = hearer.places[4][0] ?? hearer.places[6][0];
      const from = place && this.#options.isolation.parts.segments.own(place.device, familyOf(place.address));
      return place && from ? [{ device: place.device, to: place.address, from, bytes: message }] : [];
    });
    this.counters.relayed += relayed.length;
    return relayed;
  }

  /** A datagram to a subnet's or the limited broadcast address, or to a group that is relayed. Never throws. */
  broadcast(heard: Heard, now: number): Relayed[] {
    const sender = this.#sender(heard, now);
    if (!sender) return [];
    const { party, standIn } = sender;
    const family = familyOf(heard.source);
    const { reach } = this.#options.isolation.parts;
    const relayed = this.#hearers(party, false, now).flatMap((hearer): Relayed[] => {
      const place = hearer.places[family][0];
      const given = reach.permission(party, hearer.name, now);
      if (!place || (heard.ports && !allowsUdp(given, heard.ports.destination))) return [];
      const answered = this.#answered(heard, { party, hearer }, now);
      const { device, address: to } = place;
      return [{ device, to, from: standIn[family], bytes: heard.bytes, ...(answered && { answered }) }];
    });
    this.counters.relayed += relayed.length;
    return relayed;
  }

  #sender({ device, source }: Heard, now: number): { party: Party; standIn: StandIn } | undefined {
    const { reach, standIns } = this.#options.isolation.parts;
    const party = reach.at(device, source, now);
    const standIn = party && standIns.get(party.name);
    if (!standIn) {
      this.counters.strangers++;
      return undefined;
    }
    if (this.#mayShout(party.name, now)) return { party, standIn };
    this.counters.tooMany++;
    return undefined;
  }

  /** How an answer passes that the hearer may not begin by itself. */
  #answered(
    { source: heard, ports }: Heard,
    { party, hearer }: { readonly party: Party; readonly hearer: Party },
    now: number,
  ): Relayed["answered"] {
    const { reach, standIns } = this.#options.isolation.parts;
    if (!ports || allowsUdp(reach.permission(hearer, party.name, now), ports.source)) return undefined;
    const family = familyOf(heard);
    const own = party.places[family].map(({ address }) => address);
    // Answers go to an address that is routed.
    const source = own.includes(heard) ? heard : own[0];
    const standIn = standIns.get(hearer.name)?.[family];
    return source !== undefined && standIn !== undefined ? { source, standIn } : undefined;
  }

  /** Of a question who may be asked; of an answer who may ask. */
  #hearers(sender: Party, isAnswer: boolean, now: number): Party[] {
    const { reach, connects, services, privileged } = this.#options.isolation.parts;
    const names = new Set<string>();
    for (const { one, other } of connects.of(sender.name)) names.add(one === sender.name ? other : one);
    if (!privileged.isEmpty(now)) {
      for (const { name } of [...reach.clients(now), ...services.present()]) names.add(name);
    }
    const hearers: Party[] = [];
    for (const name of names) {
      const peer = reach.named(name, now);
      const given =
        peer && (isAnswer ? reach.permission(peer, sender.name, now) : reach.permission(sender, name, now));
      if (given !== undefined && hearers.push(peer!) >= maxHearers) break;
    }
    return hearers;
  }

  #mayShout(name: string, now: number): boolean {
    const { burst = 60, perSecond = 20 } = this.#options;
    const before = this.#allowances.get(name) ?? { left: burst, at: now };
    const left = Math.min(burst, before.left + ((now - before.at) / 1_000) * perSecond);
    // Again and at the end: who was silent longest is forgotten first.
    this.#allowances.delete(name);
    this.#allowances.set(name, { left: left >= 1 ? left - 1 : left, at: now });
    if (this.#allowances.size > maxSenders) this.#allowances.delete(this.#allowances.keys().next().value!);
    return left >= 1;
  }
}

/**
 * A message as others may read it, or undefined if it is none.
 *
 * @param who the sender's real addresses, and what it is seen as.
 */
export function rewritten(
  bytes: Uint8Array,
  who: { readonly own: readonly Address[]; readonly standIn: StandIn },
): Uint8Array | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  const out = bytes.slice();
  const view = new DataView(out.buffer);
  const [questions, ...rest] = [4, 6, 8, 10].map((at) => view.getUint16(at)) as [
    number,
    number,
    number,
    number,
  ];
  const records = rest.reduce((sum, each) => sum + each, 0);
  if (questions + records > maxRecords) return undefined;
  let at = HEADER_BYTES;
  for (let left = questions; left > 0; left--) {
    const end = nameEnd(out, at);
    if (end === undefined || end + 4 > out.length) return undefined;
    at = end + 4;
  }
  for (let left = records; left > 0; left--) {
    const head = nameEnd(out, at);
    if (head === undefined || head + 10 > out.length) return undefined;
    const data = head + 10;
    const end = data + view.getUint16(head + 8);
    if (end > out.length) return undefined;
    rewriteRecord(view, { head, data, end }, who);
    at = end;
  }
  // What follows the last record is no part of the message, and nobody's to pass on.
  return at === out.length ? out : out.slice(0, at);
}

function rewriteRecord(
  view: DataView,
  { head, data, end }: { readonly head: number; readonly data: number; readonly end: number },
  { own, standIn }: { readonly own: readonly Address[]; readonly standIn: StandIn },
): void {
  const type = view.getUint16(head);
  if (type === TYPE_OPT) return;
  const out = new Uint8Array(view.buffer);
  const family: Family | undefined = type === TYPE_A ? 4 : type === TYPE_AAAA ? 6 : undefined;
  if (family === undefined && type !== TYPE_SVCB && type !== TYPE_HTTPS) return;
  const isWhole = family !== undefined && end - data === (family === 4 ? 4 : 16);
  if (isWhole && own.includes(decodeAddress(out, data, family))) {
    out.set(encodeAddress(standIn[family]), data);
    return;
  }
  view.setUint16(head, TYPE_BLANK);
  view.setUint32(head + 4, 0);
  out.fill(0, data, end);
}

/** Where a name ends that begins at an offset; its pointer is not followed. */
function nameEnd(bytes: Uint8Array, start: number): number | undefined {
  let at = start;
  for (;;) {
    const length = bytes[at];
    if (length === undefined || at - start > 255) return undefined;
    if (length === 0) return at + 1;
    if (length >= 0xc0) return at + 2 <= bytes.length ? at + 2 : undefined;
    if (length > 63) return undefined;
    at += 1 + length;
  }
}
