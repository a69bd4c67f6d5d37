/**
 * Neighbour resolution, joined to the machine: the kernel's table, packets where it does not reach, whoever listens on
 * the bus, and the nodes, which learn of every address that answered. Keeps the names of the links.
 *
 * What changes is told on the bus to those who subscribed; that an address moved or is claimed by several is told by
 * MQTT, too.
 */

import {
  type InterfaceAddress,
  type Link,
  type Neighbour,
  type NeighbourSteering,
  openNeighbourSteering,
} from "../kernel/kernel.ts";
import type { Address, Mac } from "../lib/address.ts";
import { messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import {
  type Event,
  Neighbours,
  neighbourMethods,
  noticeOf,
  openDevice,
  type Pin,
} from "../neighbours/neighbours.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { System } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Ubus } from "../ubus/ubus.ts";
import { momentOf } from "./moment.ts";
import { ourProtocol } from "./protocol.ts";

export const neighboursObject = "gatehouse.neighbours";

export interface ResolvingOptions {
  readonly nodes: Pick<Nodes, "neighbour">;
  readonly lanDevices: readonly string[];
  readonly wanDevices: readonly string[];
  /** Addresses that belong to one MAC for good. */
  readonly pins: readonly Pin[];
  /** An address moved, or is claimed by several: for MQTT. */
  tell?(kind: "moved" | "conflict", payload: JsonObject): void;
}

export class Resolving {
  readonly #steering: NeighbourSteering;
  readonly #neighbours: Neighbours;
  readonly #system: System;
  readonly #ubus: Ubus;
  readonly #options: ResolvingOptions;
  readonly #names = new Map<number, string>();

  /** @throws Fault "kernel" or "denied" if the kernel's table cannot be steered. */
  constructor(system: System, ubus: Ubus, options: ResolvingOptions) {
    this.#system = system;
    this.#ubus = ubus;
    this.#options = options;
    // NDA_PROTOCOL of entries that we pin.
    this.#steering = openNeighbourSteering(system, { protocol: ourProtocol });
    this.#neighbours = new Neighbours(system, {
      steer: this.#steering,
      openLink: (device) => openDevice(system, device),
      onEvent: (event) => this.#onEvent(event),
      // What the kernel has an entry for, it tells the nodes itself.
      onEvidence: ({ ifindex, ...answer }) => this.#answered(this.#names.get(ifindex), answer),
      onTrouble: (line) => system.log("warning", line),
    });
    // What an earlier life pinned and nobody wants any more is let go.
    this.#neighbours.setPins(options.pins).catch((thrown) => system.log("warning", messageOf(thrown)));
  }

  get methods(): Methods {
    return neighbourMethods(this.#neighbours, { clock: this.#system });
  }

  get status() {
    return this.#neighbours.status;
  }

  link(link: Link, isThere: boolean): void {
    if (isThere) {
      this.#names.set(link.ifindex, link.name);
      this.#neighbours.link(link);
    } else {
      this.#neighbours.linkGone(link.ifindex);
      this.#names.delete(link.ifindex);
    }
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

  #onEvent(event: Event): void {
    const { kind, payload } = noticeOf(event, this.#system.now());
    // Most of what changes concerns nobody.
    if (this.#ubus.hasSubscribers(neighboursObject)) {
      this.#ubus.notify(neighboursObject, kind, payload).catch(() => {});
    }
    if (event.kind === "conflict") {
      const { address, answering, macs } = event.conflict;
      const [first] = macs;
      // The first owner has the last word: the nodes note who else answered for its address.
      const ordered = [...answering].sort((one, other) => Number(one === first) - Number(other === first));
      for (const mac of ordered) this.#answered(event.device, { address, mac, router: false });
    }
    if (kind === "moved" || kind === "conflict") this.#options.tell?.(kind, payload);
  }

  #answered(
    device: string | undefined,
    answer: { readonly address: Address; readonly mac: Mac; readonly router: boolean },
  ): void {
    const { lanDevices, wanDevices, nodes } = this.#options;
    if (device === undefined) return;
    const side = lanDevices.includes(device) ? "lan" : wanDevices.includes(device) ? "wan" : undefined;
    if (side) nodes.neighbour({ ...answer, side, state: "reachable" }, momentOf(this.#system));
  }
}
