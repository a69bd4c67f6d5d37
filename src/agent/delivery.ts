/**
 * Who gets what on a link, where only the kernel knows, or can find out, at which MAC somebody is.
 *
 * Kept by interface and address: the MAC for some seconds; and while the kernel asks for one what waits for it, a
 * few packets each and no more. What has nobody to go to is dropped and counted. The kernel's table is read each time
 * anew, so a host that is at another MAC now misses little.
 */

import { hasAnswered, type NeighbourSteering } from "../kernel/kernel.ts";
import type { Address } from "../lib/address.ts";
import { bytesOf } from "../lib/arp.ts";
import type { Clock } from "../system/system.ts";

export interface DeliveryCounters {
  sent: number;
  /** Nobody answers for the address, or too much waits for an answer. */
  unreached: number;
  /** The kernel did not take it: the device is down or gone, or it is too long for the link. */
  refused: number;
}

export interface Receiver {
  readonly ifindex: number;
  readonly address: Address;
}

/** Sends to a MAC, of six bytes. What it throws is counted. */
export type Transmit = (mac: Uint8Array) => void;

const freshMs = 10_000;
const maxKnown = 4_096;
/** Addresses that are asked for at a time, and packets that wait for each. */
const maxAsked = 256;
const maxWaiting = 16;
/** Of strangers: what they say makes us ask. */
const maxMet = 16;
/** The kernel asks three times, a second apart. */
const pausesMs = [5, 20, 50, 100, 200, 400, 800, 1_600];

export class Delivery {
  readonly counters: DeliveryCounters = { sent: 0, unreached: 0, refused: 0 };
  readonly #clock: Pick<Clock, "now" | "after">;
  readonly #steering: Pick<NeighbourSteering, "use" | "read" | "close">;
  readonly #known = new Map<string, { readonly mac: Uint8Array; readonly until: number }>();
  readonly #waiting = new Map<string, Transmit[]>();
  /** Ends the pauses of those who wait. */
  readonly #wakes = new Set<() => void>();
  #closed = false;

  constructor(
    clock: Pick<Clock, "now" | "after">,
    steering: Pick<NeighbourSteering, "use" | "read" | "close">,
  ) {
    this.#clock = clock;
    this.#steering = steering;
  }

  /** At once, or when the kernel has found out where. Never throws. */
  deliver(receiver: Receiver, transmit: Transmit): void {
    const key = keyOf(receiver);
    const known = this.#known.get(key);
    const waiting = this.#waiting.get(key);
    if (known && known.until > this.#clock.now()) this.#transmit(known.mac, transmit);
    else if (waiting && waiting.length < maxWaiting) waiting.push(transmit);
    else if (waiting || this.#waiting.size >= maxAsked || this.#closed) this.counters.unreached++;
    else {
      this.#waiting.set(key, [transmit]);
      void this.#find(receiver);
    }
  }

  /** Has the kernel find out who has an address, and so tell it. While many are asked for already, it is not done. */
  meet(receiver: Receiver): void {
    const key = keyOf(receiver);
    const known = this.#known.get(key);
    if ((known && known.until > this.#clock.now()) || this.#waiting.has(key)) return;
    if (this.#waiting.size >= maxMet || this.#closed) return;
    this.#waiting.set(key, []);
    void this.#find(receiver);
  }

  /** The kernel knows of an address no more: what it said of it counts no longer. */
  meetAgain(receiver: Receiver): void {
    this.#known.delete(keyOf(receiver));
    this.meet(receiver);
  }

  /** An interface is gone: its number may be another's next time. */
  forget(ifindex: number): void {
    for (const key of this.#known.keys()) if (key.startsWith(`${ifindex} `)) this.#known.delete(key);
  }

  close(): void {
    this.#closed = true;
    for (const wake of this.#wakes) wake();
    this.#steering.close();
  }

  /** Never rejects. */
  async #find(receiver: Receiver): Promise<void> {
    const key = keyOf(receiver);
    const mac = await this.#ask(receiver).catch(() => undefined);
    const waiting = this.#waiting.get(key) ?? [];
    this.#waiting.delete(key);
    if (mac === undefined || this.#closed) {
      this.counters.unreached += waiting.length;
      return;
    }
    this.#known.delete(key);
    this.#known.set(key, { mac, until: this.#clock.now() + freshMs });
    if (this.#known.size > maxKnown) this.#known.delete(this.#known.keys().next().value!);
    for (const transmit of waiting) this.#transmit(mac, transmit);
  }

  /** @throws Fault as the kernel says. */
  async #ask({ ifindex, address }: Receiver): Promise<Uint8Array | undefined> {
    // What it knows already it looks at again, too: nobody else here tells it that the address is in use.
    await this.#steering.use(ifindex, address);
    for (const pauseMs of pausesMs) {
      const found = await this.#steering.read(ifindex, address);
      if (found?.mac !== undefined && hasAnswered(found)) return bytesOf(found.mac);
      if (found?.state === "failed" || this.#closed) return undefined;
      await this.#pause(pauseMs);
    }
    return undefined;
  }

  #pause(pauseMs: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        cancel();
        this.#wakes.delete(wake);
        resolve();
      };
      const cancel = this.#clock.after(pauseMs, wake);
      this.#wakes.add(wake);
    });
  }

  #transmit(mac: Uint8Array, transmit: Transmit): void {
    try {
      transmit(mac);
      this.counters.sent++;
    } catch {
      this.counters.refused++;
    }
  }
}

function keyOf({ ifindex, address }: Receiver): string {
  return `${ifindex} ${address}`;
}
