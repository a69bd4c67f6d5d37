/**
 * Neighbour resolution, joined to the machine: the kernel's table, packets where it does not reach, and whoever
 * listens on the bus. Keeps nothing of its own.
 */

import {
  type InterfaceAddress,
  type Link,
  type Neighbour,
  type NeighbourSteering,
  openNeighbourSteering,
} from "../kernel/kernel.ts";
import { Neighbours, neighbourMethods, noticeOf, openDevice } from "../neighbours/neighbours.ts";
import type { System } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Ubus } from "../ubus/ubus.ts";

/** NDA_PROTOCOL of entries that we pin. */
const protocol = 71;
export const neighboursObject = "gatehouse.neighbours";

export class Resolving {
  readonly #steering: NeighbourSteering;
  readonly #neighbours: Neighbours;
  readonly #system: System;

  /** @throws Fault "kernel" or "denied" if the kernel's table cannot be steered. */
  constructor(system: System, ubus: Ubus) {
    this.#system = system;
    this.#steering = openNeighbourSteering(system, { protocol });
    this.#neighbours = new Neighbours(system, {
      steer: this.#steering,
      openLink: (device) => openDevice(system, device),
      onEvent: (event) => {
        // Most of what changes concerns nobody.
        if (!ubus.hasSubscribers(neighboursObject)) return;
        const { kind, payload } = noticeOf(event, system.now());
        ubus.notify(neighboursObject, kind, payload).catch(() => {});
      },
      onTrouble: (line) => system.log("warning", line),
    });
    // Entries that an earlier life pinned are let go: none are configured.
    this.#neighbours.setPins([]).catch(() => {});
  }

  get methods(): Methods {
    return neighbourMethods(this.#neighbours, { clock: this.#system });
  }

  get status() {
    return this.#neighbours.status;
  }

  link(link: Link, isThere: boolean): void {
    if (isThere) this.#neighbours.link(link);
    else this.#neighbours.linkGone(link.ifindex);
  }

  address(address: InterfaceAddress, isThere: boolean): void {
    this.#neighbours.ownAddress(address, isThere);
  }

  neighbour(neighbour: Neighbour, isThere: boolean): void {
    this.#neighbours.entry(neighbour, !isThere);
  }

  close(): void {
    this.#neighbours.close();
    this.#steering.close();
  }
}
