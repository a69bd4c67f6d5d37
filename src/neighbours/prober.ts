/**
 * Questions for addresses, asked on a link by packets of our own, and the answers to them.
 *
 * Kept: the open inquiries by address. An answer counts only if it comes in by this link from the very sender that
 * it tells, is about an address that is asked for at this moment, and is addressed to whom the question named as
 * asker. Whatever else comes is counted by reason and forgotten: there is nothing that it could fill. The link is
 * listened to while an inquiry is open.
 */

import { type Address, familyOf, isDeviceMac, type Mac } from "../lib/address.ts";
import {
  decodeSpoken,
  encodeArpRequest,
  encodeSolicitation,
  linkLocalOf,
  type Unspoken,
} from "../lib/arp.ts";
import { Fault } from "../lib/fault.ts";
import type { Cancel } from "../system/system.ts";
import type { Link } from "./link.ts";

export interface Answer {
  readonly mac: Mac;
  /** It is the owner's own and replaces what is known, unlike that of a proxy or of one of several (anycast). */
  readonly override: boolean;
  /** It forwards (IPv6). */
  readonly router: boolean;
}

/** Why a packet was let go; a closed list. */
export type ProbeDrop =
  | Unspoken
  /** Somebody else asks something. */
  | "question"
  /** Nobody asks for that here. */
  | "unasked"
  /** An answer, but not to us, or by its own words not to a question. */
  | "unsolicited"
  /** The link-layer address told is not that of the frame, or nobody's. */
  | "sender";

export type ProbeDrops = Map<ProbeDrop, number>;

/** An address that is being asked for. */
export interface Inquiry {
  /** Sends one question, to all or to one. @throws Fault if the link does not take it. */
  ask(to?: Mac): void;
  /** No more answers are taken. */
  end(): void;
}

interface Open {
  /** Whom the questions name as asker, and answers have to be addressed to. */
  readonly asker: Address;
  readonly onAnswer: (answer: Answer) => void;
}

const nobody = "0.0.0.0" as Address;
const maxInquiries = 4_096;

export class Prober {
  readonly #open: () => Link;
  readonly #drops: ProbeDrops;
  readonly #inquiries = new Map<Address, Set<Open>>();
  #count = 0;
  #link: Link | undefined;
  #unlisten: Cancel | undefined;

  /** @param open the link, asked for each time that listening begins. @param drops counted there. */
  constructor(open: () => Link, drops: ProbeDrops) {
    this.#open = open;
    this.#drops = drops;
  }

  /** Open inquiries. */
  get size(): number {
    return this.#count;
  }

  /**
   * Takes answers for an address until the inquiry ends; nothing is asked yet.
   *
   * @param own our address that questions carry; without it one that tells nobody anything is taken.
   * @throws Fault if the link cannot be listened to, "limit" if too many inquiries are open.
   */
  inquire(address: Address, own: Address | undefined, onAnswer: (answer: Answer) => void): Inquiry {
    if (this.#count >= maxInquiries) throw new Fault("limit", `Cannot ask for ${address}: too much is asked`);
    const link = this.#listen();
    const asker = own ?? anonymousFor(address, link);
    const open: Open = { asker, onAnswer };
    const all = this.#inquiries.get(address) ?? new Set();
    this.#inquiries.set(address, all.add(open));
    this.#count++;
    return {
      ask: (to) => {
        if (!all.has(open)) return;
        const packet = questionOf(address, asker, { link, to });
        if (to === undefined) link.broadcast(packet);
        else link.transmit(packet, to);
      },
      end: () => {
        if (!all.delete(open)) return;
        this.#count--;
        if (all.size === 0) this.#inquiries.delete(address);
        if (this.#count === 0) this.#deafen();
      },
    };
  }

  /** Drops all inquiries. */
  close(): void {
    for (const all of this.#inquiries.values()) all.clear();
    this.#inquiries.clear();
    this.#count = 0;
    this.#deafen();
  }

  #listen(): Link {
    if (this.#link) return this.#link;
    const link = this.#open();
    this.#unlisten = link.onReceive((packet, from) => this.#receive(packet, from));
    this.#link = link;
    return link;
  }

  #deafen(): void {
    this.#unlisten?.();
    this.#unlisten = undefined;
    this.#link = undefined;
  }

  #receive(packet: Uint8Array, from: Mac): void {
    const drop = this.#take(packet, from);
    if (drop !== undefined) this.#drops.set(drop, (this.#drops.get(drop) ?? 0) + 1);
  }

  #take(packet: Uint8Array, from: Mac): ProbeDrop | undefined {
    const spoken = decodeSpoken(packet);
    if (typeof spoken === "string") return spoken;
    if (spoken.kind === "question") return "question";
    const inquiries = this.#inquiries.get(spoken.about);
    if (!inquiries) return "unasked";
    const { mac = from, override, router, solicited, receiver } = spoken;
    if (!solicited) return "unsolicited";
    if (mac !== from || !isDeviceMac(mac) || mac === this.#link?.address) return "sender";
    const meant = [...inquiries].filter(({ asker }) => asker === receiver);
    if (meant.length === 0) return "unsolicited";
    for (const { onAnswer } of meant) onAnswer({ mac, override, router });
    return undefined;
  }
}

function questionOf(
  address: Address,
  asker: Address,
  { link, to }: { readonly link: Link; readonly to: Mac | undefined },
): Uint8Array {
  if (familyOf(address) === 4) {
    return encodeArpRequest({ senderMac: link.address, sender: asker, target: address });
  }
  const question = { source: asker, sourceMac: link.address, target: address };
  return encodeSolicitation(to === undefined ? question : { ...question, destination: address });
}

/**
 * Whom a question names as asker when no own address fits: in ARP nobody, as RFC 5227 asks for addresses; in
 * IPv6 the address that our MAC makes by itself, since a question of nobody would tell a host which is about to
 * take the address that it is taken (RFC 4862 §5.4.3).
 */
function anonymousFor(address: Address, link: Link): Address {
  return familyOf(address) === 4 ? nobody : linkLocalOf(link.address);
}
