/**
 * Who has an address.
 *
 * An address has one home, the node it is shown and booked under; only named nodes may hold it besides, as its
 * guests. Whoever is an address comes before a name that merely holds it, whichever was there first. Nothing is
 * told to anybody.
 */

import type { Address } from "../lib/address.ts";
import type { Node } from "./node.ts";

export class Homes {
  readonly #homes = new Map<Address, Node>();
  readonly #guests = new Map<Address, readonly Node[]>();

  home(address: Address): Node | undefined {
    return this.#homes.get(address);
  }

  /** Every node that holds an address, its home first. */
  holders(address: Address): readonly Node[] {
    const home = this.#homes.get(address);
    return home ? [home, ...(this.#guests.get(address) ?? [])] : [];
  }

  /** A node holds an address from now on. */
  add(node: Node, address: Address): void {
    const home = this.#homes.get(address);
    if (!home || home === node) {
      this.#homes.set(address, node);
      return;
    }
    const guests = this.#guests.get(address) ?? [];
    if (home.kind === "name" && node.kind !== "name") {
      this.#homes.set(address, node);
      this.#guests.set(address, [home, ...guests]);
    } else this.#guests.set(address, [...guests, node]);
  }

  /** A node holds it no longer; if it was its home, the next that holds it becomes home. */
  delete(node: Node, address: Address): void {
    const guests = (this.#guests.get(address) ?? []).filter((each) => each !== node);
    if (this.#homes.get(address) === node) {
      const heir = guests.shift();
      if (heir) this.#homes.set(address, heir);
      else this.#homes.delete(address);
    }
    if (guests.length > 0) this.#guests.set(address, guests);
    else this.#guests.delete(address);
  }
}
