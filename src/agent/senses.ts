/**
 * What the agent perceives, turned into evidence: interfaces, neighbours, connections, leases, host names.
 *
 * Keeps which interface is on which side, by number. Everything else goes at once to the nodes (who is there)
 * and the flows (what passed). What cannot be watched is told once to `onFault` and tried again by its watcher;
 * the others go on.
 */

import { parseUci, type UciSection } from "../config/config.ts";
import type { Flows } from "../flows/flows.ts";
import {
  type ConntrackWatch,
  type DefaultRoute,
  type Delta,
  type InterfaceAddress,
  type Link,
  type Neighbour,
  type NflogCounters,
  type RouteWatch,
  watchConntrack,
  watchRoute,
} from "../kernel/kernel.ts";
import { prefixOf } from "../lib/address.ts";
import { coalesced } from "../lib/coalesce.ts";
import { type Lease, type Moment, type Nodes, parseHosts, parseLeases, type Side } from "../nodes/nodes.ts";
import type { Cancel, System } from "../system/system.ts";
import { Accounts } from "./accounts.ts";
import { attempt } from "./effects.ts";
import { type BlindSpot, Honesty } from "./honesty.ts";
import { momentOf } from "./moment.ts";

export interface SensesOptions {
  readonly lanDevices: readonly string[];
  readonly wanDevices: readonly string[];
  readonly leaseFile: string;
  readonly dhcpConfig: string;
  /** Counters of the group that DNS is copied to. */
  tapCounters(): NflogCounters | undefined;
  /** After evidence was taken in that may have changed nodes. */
  noticed(): void;
  /** Who wants all of it, too: what rtnetlink tells as it comes (links before their addresses and neighbours). */
  readonly rooms: Followers;
}

export interface Followers {
  link(link: Link, isThere: boolean): void;
  address(address: InterfaceAddress, isThere: boolean): void;
  neighbour(neighbour: Neighbour, isThere: boolean): void;
  routes(routes: readonly DefaultRoute[]): void;
  /** All leases there are. */
  leases(leases: readonly Lease[]): void;
  traffic(deltas: readonly Delta[]): void;
}

/** From one reading of the connections' counters to the next. */
const countersMs = 1_000;
/** A lease file or DHCP configuration beyond this is not read. */
const maxFileBytes = 4 * 1024 * 1024;

export class Senses {
  readonly #system: System;
  readonly #nodes: Nodes;
  readonly #accounts: Accounts;
  readonly #honesty: Honesty;
  readonly #options: SensesOptions;
  readonly #sides = new Map<number, Side>();
  readonly #cancels: Cancel[] = [];
  #route: RouteWatch | undefined;
  #conntrack: ConntrackWatch | undefined;
  #skippedLeases = 0;
  #skippedHosts = 0;
  #closed = false;

  constructor(system: System, rooms: { nodes: Nodes; flows: Flows }, options: SensesOptions) {
    this.#system = system;
    this.#nodes = rooms.nodes;
    this.#accounts = new Accounts(rooms);
    this.#honesty = new Honesty(system);
    this.#options = options;
  }

  /** Opens all of them. What fails is logged; the others are open when the promise resolves. */
  async open(): Promise<void> {
    // Interfaces first: they tell whose neighbours count, and which addresses are ours.
    await this.#try(async () => {
      this.#route = await watchRoute(this.#system, {
        onLink: (change, link) => {
          this.#placeLink(link.ifindex);
          this.#options.rooms.link(link, change !== "remove");
        },
        onAddress: (change, address) => {
          this.#address(address, change !== "remove");
          this.#options.rooms.address(address, change !== "remove");
        },
        onNeighbour: (change, neighbour) => {
          this.#neighbour(neighbour, change === "remove");
          this.#options.rooms.neighbour(neighbour, change !== "remove");
        },
        onRoutes: (routes) => {
          this.#hops();
          this.#options.rooms.routes(routes);
        },
        onFault: (fault) => this.#system.log("warning", fault.message),
      });
      for (const link of this.#route.links()) this.#placeLink(link.ifindex);
      this.#hops();
    });
    await Promise.all([
      this.#watchFile(this.#options.dhcpConfig, (text) => this.#hosts(parseUci(text).sections)),
      this.#watchFile(this.#options.leaseFile, (text) => this.#leases(text)),
    ]);
    await this.#try(async () => {
      this.#conntrack = await watchConntrack(this.#system, {
        periodMs: countersMs,
        onFlows: (deltas) => this.#account(deltas),
        onFault: (fault) => this.#system.log("warning", fault.message),
      });
    });
    if (this.#closed) this.close();
  }

  close(): void {
    this.#closed = true;
    for (const cancel of this.#cancels.splice(0)) cancel();
    this.#route?.close();
    this.#conntrack?.close();
  }

  /** Whether links and addresses are followed: else nothing is known of them. */
  get followsLinks(): boolean {
    return this.#route !== undefined;
  }

  /** Figures for the status: what was read, lost and dropped. */
  get status() {
    return {
      route: { ...this.#route?.counters },
      conntrack: {
        ...this.#conntrack?.counters,
        connections: this.#conntrack?.size ?? 0,
        counting: this.#conntrack?.counting ?? false,
      },
      skipped_leases: this.#skippedLeases,
      skipped_hosts: this.#skippedHosts,
    };
  }

  /** What cannot be seen at present, and what to do about it. */
  blindSpots(): Promise<BlindSpot[]> {
    const route = this.#route;
    return this.#honesty.look({
      route: route && { ...route.counters, dropped: route.dropped },
      conntrack: this.#conntrack && { ...this.#conntrack.counters, counting: this.#conntrack.counting },
      dns: this.#options.tapCounters(),
      bridges: this.#bridges(),
    });
  }

  /** The bridges on the LAN side, with how many ports each has. */
  #bridges(): { name: string; ports: number }[] {
    const links = [...(this.#route?.links() ?? [])];
    return links
      .filter((link) => link.kind === "bridge" && this.#sides.get(link.ifindex) === "lan")
      .map(({ name, ifindex }) => ({ name, ports: links.filter(({ master }) => master === ifindex).length }));
  }

  get #moment(): Moment {
    return momentOf(this.#system);
  }

  async #try(open: () => Promise<void>): Promise<void> {
    if (!this.#closed) await attempt(this.#system, open);
  }

  /** Finds the side of an interface again; if it has changed, what is known there counts anew. */
  #placeLink(ifindex: number): void {
    const name = this.#route?.linkByIndex(ifindex)?.name;
    const { lanDevices, wanDevices } = this.#options;
    const side = name === undefined ? undefined : sideOf(name, lanDevices, wanDevices);
    if (side === this.#sides.get(ifindex)) return;
    if (side === undefined) this.#sides.delete(ifindex);
    else this.#sides.set(ifindex, side);
    for (const address of this.#route?.addresses() ?? []) {
      if (address.ifindex === ifindex) this.#address(address, true);
    }
    for (const neighbour of this.#route?.neighbours() ?? []) {
      if (neighbour.ifindex === ifindex) this.#neighbour(neighbour, false);
    }
  }

  #address({ ifindex, address, prefixLength }: InterfaceAddress, present: boolean): void {
    const at = this.#moment;
    this.#nodes.ownAddress({ address, interface: String(ifindex), present }, at);
    const side = this.#sides.get(ifindex);
    if (side) this.#nodes.prefix({ prefix: prefixOf(address, prefixLength), side, present }, at);
    this.#options.noticed();
  }

  #neighbour({ ifindex, address, mac, state, router }: Neighbour, removed: boolean): void {
    const side = this.#sides.get(ifindex);
    if (!side) return;
    const gone = removed || state === "none";
    this.#nodes.neighbour(
      { address, side, state: gone ? "gone" : state, router, ...(mac !== undefined && { mac }) },
      this.#moment,
    );
    this.#options.noticed();
  }

  #hops(): void {
    if (!this.#route) return;
    this.#nodes.nextHops(this.#route.nextHops(), this.#moment);
    this.#options.noticed();
  }

  #account(deltas: readonly Delta[]): void {
    this.#accounts.book(deltas, this.#moment);
    this.#options.rooms.traffic(deltas);
    this.#options.noticed();
  }

  #leases(text: string): void {
    const { leases, skipped } = parseLeases(text);
    this.#skippedLeases = skipped;
    this.#nodes.leases(leases, this.#moment);
    this.#options.rooms.leases(leases);
    this.#options.noticed();
  }

  #hosts(sections: readonly UciSection[]): void {
    const { hosts, skipped } = parseHosts(sections);
    this.#skippedHosts = skipped;
    this.#nodes.hosts(hosts, this.#moment);
    this.#options.noticed();
  }

  /** Reads a file now and whenever it changes. One that is not there reads as empty. */
  async #watchFile(path: string, take: (text: string) => void): Promise<void> {
    if (path === "" || this.#closed) return;
    const decoder = new TextDecoder();
    const read = coalesced(() =>
      this.#try(async () => {
        const bytes = await this.#system.read(path, maxFileBytes);
        if (!this.#closed) take(bytes ? decoder.decode(bytes) : "");
      }),
    );
    this.#cancels.push(this.#system.watch(path, () => void read()));
    await read();
  }
}

function sideOf(name: string, lan: readonly string[], wan: readonly string[]): Side | undefined {
  if (lan.includes(name)) return "lan";
  return wan.includes(name) ? "wan" : undefined;
}
