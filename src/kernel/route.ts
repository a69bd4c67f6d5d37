/**
 * Interfaces, their addresses, the neighbours and the gateways, as the kernel has them at this moment (rtnetlink).
 *
 * Kept: links by interface index, addresses and neighbours by index and address. The kernel changes it: a dump
 * fills it, then each notification. Default routes are kept by `Defaults`. Told: whoever watches, once per difference,
 * never for a message that says what is known. After an overrun the tables are read again and the differences told, so
 * that no loss lasts.
 *
 * Left out: entries of other families (a bridge tells of its ports and of its forwarding table through the same
 * groups, and "deletes a link" when one only leaves the bridge), proxied neighbours, and neighbours without
 * resolution (NOARP: multicast, loopback, tunnels).
 *
 * Source: rtnetlink(7), linux/rtnetlink.h.
 */

import type { Address } from "../lib/address.ts";
import type { Fault } from "../lib/fault.ts";
import type { Clock, Sockets } from "../system/system.ts";
import { encodeAttributes, host } from "./attribute.ts";
import { Defaults } from "./defaults.ts";
import { type Change, Mirror } from "./mirror.ts";
import { type Message, type Netlink, newCounters, routeProtocol } from "./netlink.ts";
import {
  type DefaultRoute,
  decodeInterfaceAddress,
  decodeLink,
  decodeNeighbour,
  type InterfaceAddress,
  type Link,
  type Neighbour,
} from "./rtnetlink.ts";
import { type TableCounters, TableWatch } from "./watch.ts";

/** Each is told what is new ("add", "change") or was last known ("remove"). */
export interface RouteHandlers {
  onLink?(change: Change, link: Link): void;
  onAddress?(change: Change, address: InterfaceAddress): void;
  onNeighbour?(change: Change, neighbour: Neighbour): void;
  /** All default routes, whenever they are others than before. */
  onRoutes?(routes: readonly DefaultRoute[]): void;
  /** Reading failed; it is tried again by itself. What is kept may be out of date until then. */
  onFault?(fault: Fault): void;
}

export type RouteCounters = TableCounters;

export interface RouteOptions {
  /** Receive buffer for notifications; the default of `Sockets.netlink` if absent. */
  readonly receiveBytes?: number;
  /** Of links, addresses, neighbours at most this many each; what comes beyond is counted. Default 16,384. */
  readonly maxEntries?: number;
}

/**
 * Reads everything, then follows it. All that is there has been told as "add" when the promise resolves.
 *
 * @throws Fault as `Netlink.dump` does.
 */
export async function watchRoute(
  system: Sockets & Clock,
  handlers: RouteHandlers,
  options: RouteOptions = {},
): Promise<RouteWatch> {
  const watch = new RouteWatch(system, handlers, options);
  await watch.start();
  return watch;
}

const defaultMaxEntries = 16_384;

/** Message types (RTM_…), multicast groups (RTNLGRP_…). */
const link = { new: 16, remove: 17, get: 18 } as const;
const address = { new: 20, remove: 21, get: 22 } as const;
const neighbour = { new: 28, remove: 29, get: 30 } as const;
const groups = { link: 1, neighbour: 3, ipv4Address: 5, ipv6Address: 9 } as const;

/** `struct ifinfomsg`, and the wish (IFLA_EXT_MASK) to be spared the statistics. */
const getLinks = new Uint8Array([...new Uint8Array(16), ...encodeAttributes([[29, host.bytes32(1 << 3)]])]);

export class RouteWatch {
  readonly counters: RouteCounters = { ...newCounters(), resyncs: 0 };
  readonly #handlers: RouteHandlers;
  readonly #links: Mirror<Link>;
  readonly #addresses: Mirror<InterfaceAddress>;
  readonly #neighbours: Mirror<Neighbour>;
  readonly #linksByName = new Map<string, Link>();
  readonly #table: TableWatch;
  readonly #defaults: Defaults;

  /** Use `watchRoute`. */
  constructor(system: Sockets & Clock, handlers: RouteHandlers, options: RouteOptions) {
    const maxEntries = options.maxEntries ?? defaultMaxEntries;
    this.#handlers = handlers;
    this.#links = new Mirror<Link>(maxEntries, (change, entry) => this.#tellLink(change, entry));
    this.#addresses = new Mirror<InterfaceAddress>(maxEntries, (change, entry) => {
      handlers.onAddress?.(change, entry);
      if (change === "remove") this.#defaults.readLater();
    });
    this.#neighbours = new Mirror<Neighbour>(maxEntries, (change, entry) =>
      handlers.onNeighbour?.(change, entry),
    );
    const { receiveBytes } = options;
    const shared = { counters: this.counters, receiveBytes, onFault: handlers.onFault?.bind(handlers) };
    this.#table = new TableWatch(system, {
      ...shared,
      ...{ what: "interfaces", protocol: routeProtocol, groups: Object.values(groups) },
      read: (questions) => this.#readAll(questions),
      onEvent: (event) => this.#hear(event),
    });
    this.#defaults = new Defaults(system, { ...shared, onRoutes: handlers.onRoutes?.bind(handlers) });
  }

  async start(): Promise<void> {
    try {
      await this.#table.start();
      await this.#defaults.start();
    } catch (thrown) {
      this.close();
      throw thrown;
    }
  }

  close(): void {
    this.#table.close();
    this.#defaults.close();
  }

  links(): IterableIterator<Link> {
    return this.#links.entries.values();
  }

  addresses(): IterableIterator<InterfaceAddress> {
    return this.#addresses.entries.values();
  }

  neighbours(): IterableIterator<Neighbour> {
    return this.#neighbours.entries.values();
  }

  linkByName(name: string): Link | undefined {
    return this.#linksByName.get(name);
  }

  linkByIndex(ifindex: number): Link | undefined {
    return this.#links.entries.get(String(ifindex));
  }

  neighbour(ifindex: number, of: Address): Neighbour | undefined {
    return this.#neighbours.entries.get(`${ifindex} ${of}`);
  }

  /** Where packets go that no other route is for, the best of each family and table first. */
  defaultRoutes(): readonly DefaultRoute[] {
    return this.#defaults.routes;
  }

  /** The gateways of all default routes, each once. */
  nextHops(): Address[] {
    return this.#defaults.nextHops();
  }

  /** Entries that were not kept because there were too many. */
  get dropped(): number {
    return this.#links.dropped + this.#addresses.dropped + this.#neighbours.dropped;
  }

  #hear(event: Message): void {
    const gone =
      event.type === link.remove || event.type === address.remove || event.type === neighbour.remove;
    this.#sort(event, (mirror, key, entry) => mirror.hear(key, gone ? undefined : entry));
  }

  async #readAll(questions: Netlink): Promise<void> {
    type Readable = Pick<Mirror<Link>, "beginRead" | "endRead" | "abandonRead">;
    const dump = async (mirror: Readable, type: number, payload: Uint8Array) => {
      mirror.beginRead();
      try {
        const onMessage = (answer: Message) =>
          this.#sort(answer, (of, key, entry) => entry && of.read(key, entry));
        await questions.dump({ type, payload, verb: "read interfaces and neighbours" }, { onMessage });
        mirror.endRead();
      } finally {
        mirror.abandonRead();
      }
    };
    await dump(this.#links, link.get, getLinks);
    await dump(this.#addresses, address.get, new Uint8Array(8));
    await dump(this.#neighbours, neighbour.get, new Uint8Array(12));
  }

  /** Decodes a message and says what it is about; an entry that is not to be kept is undefined. */
  #sort(
    message: Message,
    take: <Entry extends object>(mirror: Mirror<Entry>, key: string, entry: Entry | undefined) => void,
  ): void {
    if (this.#table.closed) return;
    switch (message.type) {
      case link.new:
      case link.remove: {
        const entry = decodeLink(message);
        if (typeof entry === "object") take(this.#links, String(entry.ifindex), entry);
        else if (entry === "malformed") this.counters.malformed++;
        return;
      }
      case address.new:
      case address.remove: {
        const entry = decodeInterfaceAddress(message);
        if (typeof entry === "object") {
          const key = `${entry.ifindex} ${entry.address}/${entry.prefixLength} ${entry.peer ?? ""}`;
          take(this.#addresses, key, entry);
        } else if (entry === "malformed") this.counters.malformed++;
        return;
      }
      case neighbour.new:
      case neighbour.remove: {
        const entry = decodeNeighbour(message);
        if (typeof entry === "object") {
          const kept = entry.state === "noarp" ? undefined : entry;
          take(this.#neighbours, `${entry.ifindex} ${entry.address}`, kept);
        } else if (entry === "malformed") this.counters.malformed++;
        return;
      }
    }
  }

  #tellLink(change: Change, entry: Link): void {
    // A rename leaves the old name behind, unless another link has taken it since.
    for (const [name, known] of this.#linksByName) {
      if (known.ifindex === entry.ifindex) this.#linksByName.delete(name);
    }
    if (change === "remove") this.#removeDependents(entry.ifindex);
    else this.#linksByName.set(entry.name, entry);
    this.#handlers.onLink?.(change, entry);
    // Routes go with their interface, and the kernel tells of hardly any.
    if (change !== "add") this.#defaults.readLater();
  }

  /** With an interface go its addresses and neighbours; the kernel tells of each, unless that was lost. */
  #removeDependents(ifindex: number): void {
    for (const mirror of [this.#addresses, this.#neighbours]) {
      for (const [key, entry] of [...mirror.entries]) {
        if (entry.ifindex === ifindex) mirror.remove(key);
      }
    }
  }
}
