/**
 * How long a packet may be on the way to an address where less is known to pass than usual.
 *
 * Keeps at most 64 addresses (4 or 16 bytes), the oldest gives way; the caller clears all every ten minutes, so that a
 * path that grew is used again (RFC 1191). Learned by the tunnel's socket (EMSGSIZE) for peers, from the ICMP errors
 * of the LAN's routers for hosts. Costs nothing for packets that pass everywhere.
 */

const most = 64;

export class Paths {
  readonly #addressBytes: number;
  readonly #leastBytes: number;
  readonly #usualBytes: number;
  readonly #addresses: Uint8Array;
  readonly #sizes = new Uint16Array(most);
  #count = 0;
  #next = 0;
  /** A packet not longer than this passes on all ways. */
  smallestBytes: number;

  /** @param usualBytes MTU of addresses that nothing else is known of. */
  constructor(family: 4 | 6, usualBytes: number) {
    this.#addressBytes = family === 4 ? 4 : 16;
    // What Linux believes at least (ip_rt_min_pmtu), and what every IPv6 link carries.
    this.#leastBytes = Math.min(usualBytes, family === 4 ? 552 : 1280);
    this.#addresses = new Uint8Array(most * this.#addressBytes);
    this.#usualBytes = usualBytes;
    this.smallestBytes = usualBytes;
  }

  /** The MTU towards an address. */
  mtuOf(bytes: Uint8Array, offset: number): number {
    const slot = this.#slotOf(bytes, offset);
    return slot < 0 ? this.#usualBytes : this.#sizes[slot]!;
  }

  /** Something said that no more than `mtuBytes` pass towards an address. Numbers that make no sense are bent to some. */
  learn(bytes: Uint8Array, offset: number, mtuBytes: number): void {
    const size = Math.max(this.#leastBytes, Math.min(this.#usualBytes, mtuBytes));
    let slot = this.#slotOf(bytes, offset);
    if (slot < 0) {
      if (size === this.#usualBytes) return;
      slot = this.#next;
      this.#next = (slot + 1) % most;
      if (this.#count < most) this.#count++;
      const at = slot * this.#addressBytes;
      for (let index = 0; index < this.#addressBytes; index++)
        this.#addresses[at + index] = bytes[offset + index]!;
    }
    this.#sizes[slot] = size;
    if (size < this.smallestBytes) this.smallestBytes = size;
  }

  /** Forgets all. */
  clear(): void {
    this.#count = 0;
    this.#next = 0;
    this.smallestBytes = this.#usualBytes;
  }

  #slotOf(bytes: Uint8Array, offset: number): number {
    const length = this.#addressBytes;
    for (let slot = 0; slot < this.#count; slot++) {
      const at = slot * length;
      let index = 0;
      while (index < length && this.#addresses[at + index] === bytes[offset + index]) index++;
      if (index === length) return slot;
    }
    return -1;
  }
}
