/**
 * Where addresses are: what the kernel and netifd say of interfaces, as far as leases need it.
 *
 * Kept: by device its number and its addresses with their prefix lengths, replaced as a whole each time somebody has
 * looked; by netifd's logical name the device behind it. Nobody is told; who changes it asks for a new plan.
 */

import { type Address, type Family, familyOf, scopeOf } from "../lib/address.ts";

/** An address on a device. */
export interface PlacedAddress {
  /** The device. */
  readonly interface: string;
  readonly ifindex: number;
  readonly address: Address;
  readonly prefixLength: number;
}

export type PlacedLink = Pick<PlacedAddress, "interface" | "ifindex">;

/** An interface as netifd has it. */
export interface LogicalInterface {
  readonly name: string;
  readonly up: boolean;
  /** The device that its addresses are on, if there is one now. */
  readonly device: string | undefined;
  /** The tables that it is told to use; undefined: the main one, or it is down. */
  readonly tables: Readonly<Partial<Record<Family, string | number>>>;
}

interface Device {
  readonly ifindex: number;
  readonly addresses: Map<Address, number>;
}

export class Places {
  #devices = new Map<string, Device>();
  #logical = new Map<string, LogicalInterface>();

  /** @param links every device, with and without addresses. */
  setAddresses(all: Iterable<PlacedAddress>, links: Iterable<PlacedLink>): void {
    this.#devices = new Map();
    for (const { interface: name, ifindex } of links)
      this.#devices.set(name, { ifindex, addresses: new Map() });
    for (const { interface: name, ifindex, address, prefixLength } of all) {
      const device = this.#devices.get(name) ?? { ifindex, addresses: new Map<Address, number>() };
      device.addresses.set(address, prefixLength);
      this.#devices.set(name, device);
    }
  }

  setInterfaces(all: readonly LogicalInterface[]): void {
    this.#logical = new Map(all.map((each) => [each.name, each]));
  }

  removeAddress(name: string, address: Address): void {
    this.#devices.get(name)?.addresses.delete(address);
  }

  removeDevice(name: string): void {
    this.#devices.delete(name);
  }

  logical(name: string): LogicalInterface | undefined {
    return this.#logical.get(name);
  }

  /** The device of a name, which may be a device's or a logical one. */
  deviceOf(name: string): string {
    return this.#logical.get(name)?.device ?? name;
  }

  ifindexOf(name: string): number | undefined {
    return this.#devices.get(this.deviceOf(name))?.ifindex;
  }

  /** Undefined: the address is not there. */
  prefixLengthOf(name: string, address: Address): number | undefined {
    return this.#devices.get(this.deviceOf(name))?.addresses.get(address);
  }

  /** All addresses of a family that others can reach, with their prefix lengths. */
  addressesOf(name: string, family: Family): (readonly [Address, number])[] {
    const addresses = this.#devices.get(this.deviceOf(name))?.addresses ?? [];
    return [...addresses].filter(([address]) => familyOf(address) === family && scopeOf(address) !== "link");
  }

  /** Whether the address, or without one any address of the interface, is there. */
  has(name: string, address: Address | undefined): boolean {
    if (address !== undefined) return this.prefixLengthOf(name, address) !== undefined;
    return this.#logical.has(name) || this.#devices.has(name);
  }
}
