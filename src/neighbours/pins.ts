/**
 * Addresses that the configuration gives to one MAC for good, or wants kept resolved: the gateways, mostly.
 *
 * Kept: the pins by device and address. A pin with a MAC is written to the kernel when its device is there; one
 * without takes the first MAC that is verified, and stays with it while we live. What an earlier life pinned and
 * nobody wants any more is removed. A device that goes down loses its entries: they are written again. Kept
 * addresses are the kernel's to ask for; one that does not do that by itself (before 5.16) is told every few seconds.
 */

import type { Address, Mac } from "../lib/address.ts";
import { messageOf } from "../lib/fault.ts";
import type { Cancel, Clock } from "../system/system.ts";
import type { Entry, Steer } from "./entry.ts";

export interface Pin {
  /** Name of the device. */
  readonly device: string;
  readonly address: Address;
  /** Without it, the first that is verified. */
  readonly mac?: Mac;
}

export interface PinsParts {
  readonly clock: Clock;
  readonly steer: Steer;
  /** The number of a device that is there and can carry packets. */
  ifindexOf(device: string): number | undefined;
  /** What cannot be done is tried again; it is said once for each pin. */
  onTrouble(line: string): void;
}

interface State {
  readonly pin: Pin;
  mac: Mac | undefined;
  troubled: boolean;
}

/** INTERVAL_PROBE_TIME_MS of the kernel's managed entries. */
const upkeepMs = 5_000;

export class Pins {
  readonly #parts: PinsParts;
  readonly #pins = new Map<string, State>();
  readonly #kept = new Map<string, Pick<Pin, "device" | "address">>();
  #upkeep: Cancel | undefined;

  constructor(parts: PinsParts) {
    this.#parts = parts;
  }

  /** The MAC that an address is pinned to. */
  macOf(device: string, address: Address): Mac | undefined {
    return this.#pins.get(keyOf(device, address))?.mac;
  }

  /** All pins and kept addresses from now on; what was pinned and is not wanted any more is removed. */
  async set(pins: readonly Pin[], kept: readonly Pick<Pin, "device" | "address">[]): Promise<void> {
    const before = new Map(this.#pins);
    this.#pins.clear();
    for (const pin of pins) {
      const key = keyOf(pin.device, pin.address);
      this.#pins.set(key, { pin, mac: pin.mac ?? before.get(key)?.mac, troubled: false });
    }
    this.#kept.clear();
    for (const each of kept) this.#kept.set(keyOf(each.device, each.address), each);
    this.#upkeep?.();
    this.#upkeep = kept.length > 0 ? this.#parts.clock.every(upkeepMs, () => this.#keepUp()) : undefined;
    await this.#removeUnwanted();
    const devices = new Set([...pins, ...kept].map(({ device }) => device));
    for (const device of devices) this.deviceUp(device);
  }

  /** A device can carry packets: its pins are written. */
  deviceUp(device: string): void {
    const ifindex = this.#parts.ifindexOf(device);
    if (ifindex === undefined) return;
    for (const state of this.#pins.values()) if (state.pin.device === device) this.#write(state, ifindex);
    for (const each of this.#kept.values()) {
      if (each.device !== device || this.#isWritten(each)) continue;
      this.#parts.steer.manage(ifindex, each.address).catch(() => undefined);
    }
  }

  /** An entry is seen: it may be the one to pin. */
  seen(device: string, entry: Entry): void {
    const state = this.#pins.get(keyOf(device, entry.address));
    if (!state || entry.state === "permanent") return;
    if (state.mac === undefined) {
      if (!entry.verified) return;
      state.mac = entry.mac;
    }
    const ifindex = this.#parts.ifindexOf(device);
    if (ifindex !== undefined) this.#write(state, ifindex);
  }

  /** An entry is gone: if pinned, it is written again. */
  gone(device: string, address: Address): void {
    const state = this.#pins.get(keyOf(device, address));
    const ifindex = this.#parts.ifindexOf(device);
    if (state && ifindex !== undefined) this.#write(state, ifindex);
  }

  /** What is pinned stays so. */
  close(): void {
    this.#upkeep?.();
    this.#pins.clear();
    this.#kept.clear();
  }

  #write(state: State, ifindex: number): void {
    const { device, address } = state.pin;
    if (state.mac === undefined) return;
    this.#parts.steer.pin(ifindex, address, state.mac).then(
      () => {
        state.troubled = false;
      },
      (thrown: unknown) => {
        if (!state.troubled && this.#pins.get(keyOf(device, address)) === state) {
          this.#parts.onTrouble(`Cannot pin ${address} on ${device}: ${messageOf(thrown)}`);
        }
        state.troubled = true;
      },
    );
  }

  async #removeUnwanted(): Promise<void> {
    const { steer } = this.#parts;
    try {
      const wanted = new Set<string>();
      for (const { pin, mac } of this.#pins.values()) {
        const ifindex = this.#parts.ifindexOf(pin.device);
        if (ifindex !== undefined && mac !== undefined) wanted.add(`${ifindex} ${pin.address}`);
      }
      for (const { ifindex, address } of await steer.pinned()) {
        if (!wanted.has(`${ifindex} ${address}`)) await steer.remove(ifindex, address);
      }
    } catch (thrown) {
      this.#parts.onTrouble(`Cannot remove old pins: ${messageOf(thrown)}`);
    }
  }

  #keepUp(): void {
    for (const each of this.#kept.values()) {
      const ifindex = this.#parts.ifindexOf(each.device);
      if (ifindex === undefined || this.#isWritten(each)) continue;
      this.#parts.steer.use(ifindex, each.address).catch(() => undefined);
    }
  }

  #isWritten({ device, address }: Pick<Pin, "device" | "address">): boolean {
    return this.macOf(device, address) !== undefined;
  }
}

function keyOf(device: string, address: Address): string {
  return `${device} ${address}`;
}
