/**
 * Which frames are a device's: those from or to one of its MACs, or, where none is known or the link has none,
 * those from or to one of its addresses.
 *
 * Kept: the MACs as numbers and the addresses. Everything that passes an interface is looked at here, so what
 * costs comes last.
 */

import { type Address, decodeAddress, type Mac } from "../lib/address.ts";
import { decodeFrame, EtherType } from "../lib/frame.ts";
import { LinkType } from "../lib/pcap.ts";

/** A device as frames show it. MACs that others share are left out: they would show the others' frames, too. */
export interface Target {
  readonly macs: readonly Mac[];
  readonly addresses: readonly Address[];
}

/** Where in an ARP message the IPv4 addresses of sender and target are, and how long it is. */
const arp = { sender: 14, target: 24, length: 28 } as const;

export class Filter {
  readonly #macs: ReadonlySet<number>;
  readonly #addresses: ReadonlySet<Address>;

  constructor(target: Target) {
    this.#macs = new Set(target.macs.map((mac) => Number.parseInt(mac.replaceAll(":", ""), 16)));
    this.#addresses = new Set(target.addresses);
  }

  /** @param frame an Ethernet frame. @param hasMacs false if its MACs mean nothing. */
  matches(frame: Uint8Array, hasMacs: boolean): boolean {
    if (frame.length < 14) return false;
    if (hasMacs && this.#macs.size > 0) {
      return this.#macs.has(macAt(frame, 6)) || this.#macs.has(macAt(frame, 0));
    }
    return this.#addresses.size > 0 && this.#matchesAddress(frame);
  }

  #matchesAddress(bytes: Uint8Array): boolean {
    const frame = decodeFrame(LinkType.ethernet, bytes);
    if (!frame) return false;
    const { protocol, offset } = frame;
    const has = (at: number, family: 4 | 6) => this.#addresses.has(decodeAddress(bytes, at, family));
    const room = bytes.length - offset;
    if (protocol === EtherType.ipv4) return room >= 20 && (has(offset + 12, 4) || has(offset + 16, 4));
    if (protocol === EtherType.ipv6) return room >= 40 && (has(offset + 8, 6) || has(offset + 24, 6));
    if (protocol !== EtherType.arp || room < arp.length) return false;
    return has(offset + arp.sender, 4) || has(offset + arp.target, 4);
  }
}

/** 48 bits are an exact number. */
function macAt(bytes: Uint8Array, at: number): number {
  const high = (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!;
  const low = (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!;
  return high * 0x1000000 + low;
}
