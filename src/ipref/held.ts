/**
 * Packets that wait for a mapping, while the control plane is asked for it.
 *
 * Kept by what was asked for: copies of the first few packets, in their order, for two seconds at most. All bounds
 * are small, because a host sends again what got lost: they are there so that a name's first packet is not. What
 * finds no room is not kept, and what waited too long is let go; both are told by number.
 */

/** How many packets may wait for one mapping; for how many mappings; and how many bytes in all. */
export const heldLimits = { packets: 4, keys: 128, bytes: 256 * 1024, ms: 2_000 } as const;

interface Waiting {
  readonly packets: Uint8Array[];
  readonly since: number;
}

export class Held {
  /** Oldest first. */
  readonly #waiting = new Map<string, Waiting>();
  #bytes = 0;

  get size(): number {
    return this.#waiting.size;
  }

  /** Keeps a copy. @returns false if there is no room. */
  keep(key: string, packet: Uint8Array, now: number): boolean {
    const waiting = this.#waiting.get(key);
    if (this.#bytes + packet.length > heldLimits.bytes) return false;
    if (waiting === undefined) {
      if (this.#waiting.size >= heldLimits.keys) return false;
      this.#waiting.set(key, { packets: [packet.slice()], since: now });
    } else {
      if (waiting.packets.length >= heldLimits.packets) return false;
      waiting.packets.push(packet.slice());
    }
    this.#bytes += packet.length;
    return true;
  }

  /** What waited for it, in order; nothing waits any more. */
  take(key: string): readonly Uint8Array[] {
    const waiting = this.#waiting.get(key);
    if (waiting === undefined) return [];
    this.#forget(key, waiting);
    return waiting.packets;
  }

  /** Lets go of what has waited too long. @returns how many packets. */
  lapse(now: number): number {
    let count = 0;
    for (const [key, waiting] of this.#waiting) {
      if (now - waiting.since < heldLimits.ms) break;
      count += waiting.packets.length;
      this.#forget(key, waiting);
    }
    return count;
  }

  #forget(key: string, waiting: Waiting): void {
    this.#waiting.delete(key);
    for (const packet of waiting.packets) this.#bytes -= packet.length;
  }
}
