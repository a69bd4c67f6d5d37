/**
 * The front door to the neighbours: who has which address on which link, asked and told.
 *
 * Kept: a segment for each Ethernet device that is switched on, by interface number; within it everything by
 * address. The kernel's table is the truth. It is observed (`link`, `address`, `entry`, `wholeTable`, as whoever
 * watches it hears) and steered (`Steer`); what the kernel cannot do is asked by packets on a `Link`. A device that
 * goes away, or gets its number anew, ends its segment and all who wait there. Told: whoever gave `onEvent`, of
 * addresses that come, go, move or are claimed by two, and `onEvidence`, of each that answered.
 */

import type { InterfaceAddress, Link as KernelLink, Neighbour } from "../kernel/kernel.ts";
import type { Address, Family, Mac } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Clock } from "../system/system.ts";
import type { Conflict, Move } from "./claims.ts";
import { canBeNeighbour, type Entry, type Steer, type Wish } from "./entry.ts";
import type { Link } from "./link.ts";
import { type Pin, Pins } from "./pins.ts";
import type { ProbeDrops } from "./prober.ts";
import type { Outcome } from "./questions.ts";
import { Segment } from "./segment.ts";

export type { Conflict, Move } from "./claims.ts";
export type { Entry, Reading, Steer, Wish } from "./entry.ts";
export { type DeviceOptions, type Link, openDevice } from "./link.ts";
export { type NeighbourEvent, neighbourMethods, noticeOf } from "./methods.ts";
export type { Pin } from "./pins.ts";
export type { Outcome } from "./questions.ts";

/** What is told without being asked for. */
export type Event =
  /** An address came, or is at another MAC. */
  | { readonly kind: "changed"; readonly device: string; readonly entry: Entry }
  | { readonly kind: "removed"; readonly device: string; readonly entry: Entry }
  /** It is at another MAC, and the old one does not answer for it. */
  | { readonly kind: "moved"; readonly device: string; readonly move: Move }
  /** It is claimed by several; at most once a minute for each address. */
  | { readonly kind: "conflict"; readonly device: string; readonly conflict: Conflict };

export interface Evidence {
  readonly ifindex: number;
  readonly address: Address;
  readonly mac: Mac;
  readonly router: boolean;
}

export interface NeighboursOptions {
  /** Absent: everything is asked by packets. */
  readonly steer?: Steer;
  /** The link of one family on a device; opened when it is first needed. */
  openLink(device: { readonly ifindex: number; readonly address: Mac; readonly family: Family }): Link;
  onEvent?(event: Event): void;
  /** An address answered a question of our own that the kernel has no entry for. */
  onEvidence?(evidence: Evidence): void;
  /** A line for the log. */
  onTrouble?(line: string): void;
  readonly limits?: Partial<Limits>;
}

export interface Limits {
  /** Devices. */
  readonly maxDevices: number;
  /** Entries of a device. */
  readonly maxEntries: number;
  /** Addresses of a device that are asked for, or refused, at a time. */
  readonly maxQuestions: number;
  /** Callers that wait for one address. */
  readonly maxWaiters: number;
}

const defaultLimits: Limits = { maxDevices: 256, maxEntries: 16_384, maxQuestions: 2_048, maxWaiters: 64 };

interface Device {
  readonly ifindex: number;
  readonly name: string;
  readonly mac: Mac;
  readonly running: boolean;
  readonly segment: Segment;
}

export interface Resolve extends Wish {
  readonly device: string;
  readonly address: Address;
}

export class Neighbours {
  readonly #clock: Clock;
  readonly #options: NeighboursOptions;
  readonly #limits: Limits;
  readonly #devices = new Map<number, Device>();
  readonly #byName = new Map<string, Device>();
  readonly #pins: Pins | undefined;
  /** Packets heard while asking that answered nothing, by reason. */
  readonly #drops: ProbeDrops = new Map();
  #closed = false;

  constructor(clock: Clock, options: NeighboursOptions) {
    this.#clock = clock;
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    const { steer } = options;
    this.#pins =
      steer &&
      new Pins({
        ...{ clock, steer },
        ifindexOf: (name) => {
          const device = this.#byName.get(name);
          return device?.running ? device.ifindex : undefined;
        },
        onTrouble: (line) => options.onTrouble?.(line),
      });
  }

  // What the kernel tells.

  /** A link comes or changes. One without Ethernet address has no neighbours to ask for. */
  link({ ifindex, name, mac, running }: KernelLink): void {
    if (this.#closed) return;
    const known = this.#devices.get(ifindex);
    if (mac === undefined) {
      this.linkGone(ifindex);
      return;
    }
    if (!known && this.#devices.size >= this.#limits.maxDevices) return;
    const segment = known?.segment ?? this.#segment(ifindex);
    const device: Device = { ifindex, name, mac, running, segment };
    if (known && this.#byName.get(known.name) === known) this.#byName.delete(known.name);
    this.#devices.set(ifindex, device);
    this.#byName.set(name, device);
    if (known?.running && !running)
      segment.down(new Fault("closed", `Cannot resolve on ${name}: link is down`));
    if (running && !known?.running) this.#pins?.deviceUp(name);
  }

  /** A link is gone, and with it everything that was known there. */
  linkGone(ifindex: number): void {
    const device = this.#devices.get(ifindex);
    if (!device) return;
    if (this.#byName.get(device.name) === device) this.#byName.delete(device.name);
    // While it can still be named to those who are told what is gone.
    device.segment.close(new Fault("closed", `Cannot resolve on ${device.name}: link is gone`));
    this.#devices.delete(ifindex);
  }

  /** An address of ours comes or goes. */
  ownAddress({ ifindex, address, prefixLength }: InterfaceAddress, present: boolean): void {
    this.#devices.get(ifindex)?.segment.own(address, prefixLength, present);
  }

  /** An entry of the kernel's table comes, changes or goes. */
  entry(neighbour: Neighbour, isRemoved: boolean): void {
    if (canBeNeighbour(neighbour.address))
      this.#devices.get(neighbour.ifindex)?.segment.hear(neighbour, isRemoved);
  }

  /** The kernel's table was read anew after a loss: what is not in it is gone. */
  wholeTable(table: Iterable<Neighbour>): void {
    const byDevice = new Map<number, Neighbour[]>();
    for (const each of table) {
      if (!this.#devices.has(each.ifindex) || !canBeNeighbour(each.address)) continue;
      const list = byDevice.get(each.ifindex);
      if (list) list.push(each);
      else byDevice.set(each.ifindex, [each]);
    }
    for (const { ifindex, segment } of this.#devices.values()) segment.hearAll(byDevice.get(ifindex) ?? []);
  }

  /** Somebody else saw a sign of an address (DHCP, Wi-Fi, a bridge): it is not refused any longer. */
  evidence(ifindex: number, address: Address): void {
    this.#devices.get(ifindex)?.segment.evidence(address);
  }

  // What callers ask.

  /**
   * Who has an address on a device.
   *
   * @throws Fault "not-found" for no such device, "invalid" for an address that is nobody's or our own, "closed" if
   *   the link is down or goes away meanwhile, "limit", or as the link refuses.
   */
  async resolve({ device: name, address, ...wish }: Resolve): Promise<Outcome<Entry>> {
    const device = this.#deviceOf(name, "resolve");
    if (!canBeNeighbour(address)) throw new Fault("invalid", `Cannot resolve ${address}: it is no host's`);
    if (device.segment.isOwn(address)) throw new Fault("invalid", `Cannot resolve ${address}: it is our own`);
    if (!device.running) throw new Fault("closed", `Cannot resolve on ${name}: link is down`);
    return device.segment.resolve(address, wish);
  }

  /** What is known of an address; asks nobody. */
  get(name: string, address: Address): Entry | undefined {
    return this.#byName.get(name)?.segment.get(address);
  }

  /** Everything known, of one device or of all. @throws Fault "not-found" for no such device. */
  *entries(name?: string): Generator<{ readonly device: string; readonly entry: Entry }> {
    for (const device of this.#some(name)) {
      for (const entry of device.segment.entries()) yield { device: device.name, entry };
    }
  }

  /** Addresses that did not answer lately. @throws Fault "not-found" for no such device. */
  *refused(
    name?: string,
  ): Generator<{ readonly device: string; readonly address: Address; readonly retryAfterMs: number }> {
    for (const device of this.#some(name)) {
      for (const each of device.segment.refused()) yield { device: device.name, ...each };
    }
  }

  /** Conflicts of the last ten minutes. @throws Fault "not-found" for no such device. */
  conflicts(name?: string): { readonly device: string; readonly conflict: Conflict }[] {
    return [...this.#some(name)].flatMap((device) =>
      device.segment.conflicts().map((conflict) => ({ device: device.name, conflict })),
    );
  }

  /**
   * Forgets an address, in the kernel too. Answers whether there was anything.
   *
   * @throws Fault "not-found" for no such device, "denied" for a pinned address, or as the kernel refuses.
   */
  async forget(name: string, address: Address): Promise<boolean> {
    const { segment } = this.#deviceOf(name, "forget");
    if (this.isPinned(name, address)) throw new Fault("denied", `Cannot forget ${address}: it is pinned`);
    return segment.forget(address);
  }

  /** Pins and keeps from now on these addresses, and no others. Without a kernel to steer, nothing. */
  async setPins(pins: readonly Pin[], kept: readonly Pick<Pin, "device" | "address">[] = []): Promise<void> {
    await this.#pins?.set(pins, kept);
  }

  isPinned(name: string, address: Address): boolean {
    return this.#pins?.macOf(name, address) !== undefined;
  }

  /** Figures of all devices together, and why packets were let go. */
  get status() {
    const sum = { entries: 0, questions: 0, waiting: 0, inquiries: 0, dropped: 0, unverified: 0 };
    for (const { segment } of this.#devices.values()) {
      for (const [name, value] of Object.entries(segment.status)) sum[name as keyof typeof sum] += value;
    }
    return { devices: this.#devices.size, ...sum, packets: Object.fromEntries(this.#drops) };
  }

  /** All who wait get Fault "closed"; nothing is asked or told any more. Pins stay. */
  close(): void {
    this.#closed = true;
    this.#pins?.close();
    for (const ifindex of [...this.#devices.keys()]) this.linkGone(ifindex);
  }

  #segment(ifindex: number): Segment {
    const { steer, openLink } = this.#options;
    const present = () => this.#devices.get(ifindex);
    const tell = (event: (name: string) => Event) => {
      const device = present();
      if (device && !this.#closed) this.#options.onEvent?.(event(device.name));
    };
    return new Segment({
      ...{ clock: this.#clock, ifindex, steer, limits: this.#limits, drops: this.#drops },
      openLink: (family) => openLink({ ifindex, address: present()!.mac, family }),
      onEntry: (entry, before) => {
        if (entry.mac !== before?.mac) tell((device) => ({ kind: "changed", device, entry }));
        const { address, mac, router } = entry;
        if (entry.source === "probed") this.#options.onEvidence?.({ ifindex, address, mac, router });
        const device = present();
        if (device) this.#pins?.seen(device.name, entry);
      },
      onGone: (entry) => {
        tell((device) => ({ kind: "removed", device, entry }));
        const device = present();
        if (device) this.#pins?.gone(device.name, entry.address);
      },
      onConflict: (conflict) => tell((device) => ({ kind: "conflict", device, conflict })),
      onMove: (move) => tell((device) => ({ kind: "moved", device, move })),
    });
  }

  #deviceOf(name: string, verb: string): Device {
    if (this.#closed) throw new Fault("closed", `Cannot ${verb} on ${name}: the agent ends`);
    const device = this.#byName.get(name);
    if (!device)
      throw new Fault("not-found", `Cannot ${verb} on ${JSON.stringify(name)}: no such Ethernet device`);
    return device;
  }

  #some(name: string | undefined): Iterable<Device> {
    return name === undefined ? this.#devices.values() : [this.#deviceOf(name, "look")];
  }
}
