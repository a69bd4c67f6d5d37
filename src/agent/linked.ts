/**
 * The rooms that follow the machine's links: tables, neighbours, isolation and IPREF. What the senses tell of
 * interfaces, addresses, neighbours, routes, leases and traffic goes to those that want it.
 *
 * Each is opened by itself: one that cannot be is said, and the others run.
 */

import type { Config } from "../config/config.ts";
import type { DefaultRoute, Delta, InterfaceAddress, Kernel, Link, Neighbour } from "../kernel/kernel.ts";
import type { Address } from "../lib/address.ts";
import type { JsonObject } from "../lib/json.ts";
import type { System } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Ubus } from "../ubus/ubus.ts";
import { attempt } from "./effects.ts";
import { Gateway, iprefObject, leaveEncodeNet } from "./gateway.ts";
import { Isolating, isolationObject, type LeaseSeen } from "./isolating.ts";
import { Leasing, tablesObject } from "./leasing.ts";
import { neighboursObject, Resolving, type ResolvingOptions } from "./resolving.ts";

export interface LinkedParts {
  readonly kernel: Kernel;
  readonly ubus: Ubus;
  readonly resolving: Pick<ResolvingOptions, "nodes" | "tell">;
}

export class LinkedRooms {
  #isolating: Isolating | undefined;
  #leasing: Leasing | undefined;
  #resolving: Resolving | undefined;
  #gateway: Gateway | undefined;

  /** Opens what is wanted. Never fails. */
  static async open(system: System, config: Config, parts: LinkedParts): Promise<LinkedRooms> {
    const rooms = new LinkedRooms();
    const { kernel, ubus, resolving } = parts;
    const { lanDevice: lanDevices, wanDevice: wanDevices, stateDir } = config.main;
    await attempt(system, async () => {
      if (config.isolation.enabled) rooms.#isolating = await Isolating.open(system, config, { kernel, ubus });
      else await clearIsolation(system, kernel, stateDir);
    });
    await attempt(system, async () => {
      rooms.#leasing = await Leasing.open(system, config, ubus);
    });
    await attempt(system, async () => {
      rooms.#resolving = new Resolving(system, ubus, {
        ...resolving,
        lanDevices,
        wanDevices,
        pins: config.pins,
      });
    });
    await attempt(system, async () => {
      if (config.ipref.enabled) rooms.#gateway = await Gateway.open(system, config);
      else await leaveEncodeNet(system);
    });
    return rooms;
  }

  /** What of them is on the bus. */
  get objects(): Readonly<Record<string, Methods>> {
    return {
      ...(this.#leasing && { [tablesObject]: this.#leasing.methods }),
      ...(this.#resolving && { [neighboursObject]: this.#resolving.methods }),
      ...(this.#isolating && { [isolationObject]: this.#isolating.methods }),
      ...(this.#gateway && { [iprefObject]: this.#gateway.methods }),
    };
  }

  get status(): JsonObject {
    return {
      tables: this.#leasing?.status ?? {},
      neighbours: { ...this.#resolving?.status } as JsonObject,
      isolation: this.#isolating?.status ?? {},
      ipref: this.#gateway?.status ?? {},
    };
  }

  /** What these rooms know of addresses, for who asks why packets pass or don't. */
  explain(addresses: readonly Address[]): JsonObject {
    const ipref = addresses.flatMap((each) => this.#gateway?.explain(each) ?? []);
    return ipref.length > 0 ? { ipref } : {};
  }

  /** All links and addresses that are there have been told. */
  async begin(): Promise<void> {
    this.#leasing?.begin();
    await this.#isolating?.begin();
    await this.#gateway?.begin();
  }

  link(link: Link, isThere: boolean): void {
    this.#resolving?.link(link, isThere);
    this.#leasing?.link(link, isThere);
    this.#isolating?.link(link, isThere);
  }

  address(address: InterfaceAddress, isThere: boolean): void {
    this.#resolving?.address(address, isThere);
    this.#leasing?.address(address, isThere);
    this.#isolating?.address(address, isThere);
    this.#gateway?.address(address, isThere);
  }

  neighbour(neighbour: Neighbour, isThere: boolean): void {
    this.#resolving?.neighbour(neighbour, isThere);
    this.#isolating?.neighbour(neighbour, isThere);
  }

  routes(routes: readonly DefaultRoute[]): void {
    this.#leasing?.routes(routes);
  }

  leases(leases: readonly LeaseSeen[]): void {
    this.#isolating?.leases(leases);
  }

  traffic(deltas: readonly Delta[]): void {
    this.#isolating?.traffic(deltas);
  }

  tick(): void {
    this.#leasing?.tick();
    this.#isolating?.tick();
  }

  /** What the kernel enforces stays in force. */
  async close(): Promise<void> {
    this.#resolving?.close();
    await Promise.all([this.#leasing?.close(), this.#isolating?.close(), this.#gateway?.close()]);
  }
}

/** Nobody is isolated any more: rules of an earlier life go, where there were any. */
async function clearIsolation(system: System, kernel: Kernel, stateDir: string): Promise<void> {
  const names = await system.list(stateDir);
  if (names.some((name) => /^isolation\.(?!json)/.test(name))) await kernel.clear("isolation");
}
