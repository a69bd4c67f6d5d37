/**
 * The encode net: addresses that stand for remote hosts, drawn at random; and which addresses make sense at all.
 *
 * The host part of an encoded address is never all zeros or all ones (network, broadcast), and one is the gateway.
 * The second-to-last byte tells who gave it: below 16 somebody wrote it down, else the gateway drew it, so that
 * neither takes what the other has. Where the net's own bits leave only one of the halves, nothing is told apart by
 * it; who draws then looks whether an address is in use, as it does anyway. Nothing is kept here.
 */

import {
  type Address,
  decodeAddress,
  encodeAddress,
  type Family,
  familyOf,
  type Prefix,
  scopeOf,
} from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { staticBytes } from "../lib/reference.ts";

/** Fewer host bits than this would be used up by a handful of hosts. */
const leastHostBits = 4;
/** So often an address is drawn at random: in a net that is half full, in vain almost never. */
const draws = 64;
/** In a net that is so full that drawing fails, so many neighbours of a drawn address are tried; all of a small net. */
const mostSteps = 65_536;

export class EncodeNet {
  readonly prefix: Prefix;
  readonly family: Family;
  /** 4 or 16. */
  readonly bytes: number;
  /** The gateway itself: the first address. */
  readonly gatewayAddress: Address;
  /** Whether the second-to-last byte tells who gave an address. */
  readonly hasHalves: boolean;
  readonly #base: Uint8Array;
  /** Ones where the host part is. */
  readonly #mask: Uint8Array;
  readonly #steps: number;

  /** @throws Fault "invalid" for a net that nobody can be encoded in. */
  constructor(prefix: Prefix) {
    const [base, length] = prefix.split("/") as [Address, string];
    this.prefix = prefix;
    this.family = familyOf(base);
    this.#base = encodeAddress(base);
    this.bytes = this.#base.length;
    const scope = scopeOf(base);
    const isUnicast = scope === "private" || scope === "global";
    if (!isUnicast || this.bytes * 8 - Number(length) < leastHostBits) {
      throw new Fault("invalid", `Cannot encode hosts in ${prefix}: it is no unicast net with room for them`);
    }
    this.#steps = Math.min(mostSteps, 2 ** (this.bytes * 8 - Number(length)));
    this.#mask = this.#base.map((_, at) => 0xff & ~(0xff00 >> clamp(Number(length) - at * 8, 0, 8)));
    const gateway = this.#base.slice();
    gateway[this.bytes - 1]! |= 1;
    this.gatewayAddress = decodeAddress(gateway, 0, this.family);
    const [low, room] = [this.#base[this.bytes - 2]!, this.#mask[this.bytes - 2]!];
    this.hasHalves = low < staticBytes && low + room >= staticBytes;
  }

  has(address: Address): boolean {
    return familyOf(address) === this.family && this.#holds(encodeAddress(address));
  }

  /**
   * Whether an address of the net may stand for a remote host: it is neither the net's, nor everybody's, nor ours.
   *
   * @param bytes of its family; more may follow.
   */
  isUsable(bytes: Uint8Array): boolean {
    return this.#holds(bytes) && this.#isHost(bytes) && !this.#isGateway(bytes);
  }

  /** Whether it may be written down, as far as the halves say. */
  isStatic(address: Address): boolean {
    if (familyOf(address) !== this.family) return false;
    const bytes = encodeAddress(address);
    return this.isUsable(bytes) && (!this.hasHalves || bytes[this.bytes - 2]! < staticBytes);
  }

  /**
   * A free address for a remote host, at random.
   *
   * @param isFree is asked with the bytes, which it must not keep.
   * @returns undefined if none was found.
   */
  draw(
    random: (length: number) => Uint8Array,
    isFree: (address: Uint8Array) => boolean,
  ): Address | undefined {
    const fits = (bytes: Uint8Array) =>
      this.#isHost(bytes) &&
      (!this.hasHalves || bytes[this.bytes - 2]! >= staticBytes) &&
      !this.#isGateway(bytes) &&
      isFree(bytes);
    let bytes = this.#base;
    for (let tries = 0; tries < draws; tries++) {
      bytes = this.#place(random(this.bytes));
      if (fits(bytes)) return decodeAddress(bytes, 0, this.family);
    }
    for (let tries = 0; tries < this.#steps; tries++) {
      this.#step(bytes);
      if (fits(bytes)) return decodeAddress(bytes, 0, this.family);
    }
    return undefined;
  }

  /** The net's bits with these host bits, in the half that is drawn from. */
  #place(bytes: Uint8Array): Uint8Array {
    const second = this.bytes - 2;
    for (let at = 0; at < this.bytes; at++) bytes[at] = this.#base[at]! | (bytes[at]! & this.#mask[at]!);
    if (this.hasHalves && bytes[second]! < staticBytes) {
      bytes[second] = staticBytes + (bytes[second]! % (this.#mask[second]! + 1 - staticBytes));
    }
    return bytes;
  }

  /** The next address; after the last of the net, its first. */
  #step(bytes: Uint8Array): void {
    for (let at = this.bytes - 1; at >= 0 && this.#mask[at] !== 0; at--) {
      const next = (bytes[at]! & this.#mask[at]!) + 1;
      bytes[at] = this.#base[at]! | (next & this.#mask[at]!);
      if (next <= this.#mask[at]!) return;
    }
  }

  #holds(bytes: Uint8Array): boolean {
    for (let at = 0; at < this.bytes; at++) {
      if ((bytes[at]! & ~this.#mask[at]!) !== this.#base[at]!) return false;
    }
    return true;
  }

  /** Whether the host part is neither all zeros nor all ones. */
  #isHost(bytes: Uint8Array): boolean {
    let zeros = true;
    let ones = true;
    for (let at = 0; at < this.bytes; at++) {
      const host = bytes[at]! & this.#mask[at]!;
      zeros &&= host === 0;
      ones &&= host === this.#mask[at]!;
    }
    return !zeros && !ones;
  }

  #isGateway(bytes: Uint8Array): boolean {
    const last = this.bytes - 1;
    for (let at = 0; at < last; at++) if (bytes[at] !== this.#base[at]) return false;
    return bytes[last] === (this.#base[last]! | 1);
  }
}

/** Whether an address may be a host's or gateway's: unicast beyond the link. Private ones may. */
export function isUnicast(address: Address): boolean {
  const scope = scopeOf(address);
  if (scope !== "private" && scope !== "global") return false;
  // 240.0.0.0/4 is reserved, and no router takes it.
  return familyOf(address) === 6 || Number(address.slice(0, address.indexOf("."))) < 240;
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}
