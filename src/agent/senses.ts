/**
 * What the agent perceives, turned into evidence: interfaces, neighbours, connections, DNS, leases, host names.
 *
 * Keeps which interface is on which side, by number. Everything else goes at once to the nodes (who is there)
 * and the flows (what passed). What cannot be watched is told once to `onFault` and tried again by its watcher;
 * the others go on.
 */

import { parseUci, type UciSection } from "../config/config.ts";
import type { Flows } from "../flows/flows.ts";
import {
  type ConntrackWatch,
  type Delta,
  type InterfaceAddress,
  type Neighbour,
  type Nflog,
  openNflog,
  type RouteWatch,
  watchConntrack,
  watchRoute,
} from "../kernel/kernel.ts";
import { prefixOf } from "../lib/address.ts";
import { messageOf } from "../lib/fault.ts";
import { type Moment, type Nodes, parseHosts, parseLeases, type Side } from "../nodes/nodes.ts";
import type { Cancel, System } from "../system/system.ts";

export interface SensesOptions {
  readonly lanDevices: readonly string[];
  readonly wanDevices: readonly string[];
  readonly leaseFile: string;
  readonly dhcpConfig: string;
  readonly dnsGroup: number;
  /** After evidence was taken in that may have changed nodes. */
  noticed(): void;
}

/** From one reading of the connections' counters to the next. */
const countersMs = 1_000;
/** A lease file or DHCP configuration beyond this is not read. */
const maxFileBytes = 4 * 1024 * 1024;

export class Senses {
  readonly #system: System;
  readonly #nodes: Nodes;
  readonly #flows: Flows;
  readonly #options: SensesOptions;
  readonly #sides = new Map<number, Side>();
  readonly #cancels: Cancel[] = [];
  /** Packets of the DNS tap by what was wrong with them. */
  readonly #tapDrops = new Map<string, number>();
  #route: RouteWatch | undefined;
  #conntrack: ConntrackWatch | undefined;
  #nflog: Nflog | undefined;
  #skippedLeases = 0;
  #skippedHosts = 0;
  #closed = false;

  constructor(system: System, rooms: { nodes: Nodes; flows: Flows }, options: SensesOptions) {
    this.#system = system;
    this.#nodes = rooms.nodes;
    this.#flows = rooms.flows;
    this.#options = options;
  }

  /** Opens all of them. What fails is logged; the others are open when the promise resolves. */
  async open(): Promise<void> {
    // Interfaces first: they tell whose neighbours count, and which addresses are ours.
    await this.#try(async () => {
      this.#route = await watchRoute(this.#system, {
        onLink: (_, link) => this.#placeLink(link.ifindex),
        onAddress: (change, address) => this.#address(address, change !== "remove"),
        onNeighbour: (change, neighbour) => this.#neighbour(neighbour, change === "remove"),
        onFault: (fault) => this.#system.log("warning", fault.message),
      });
      for (const link of this.#route.links()) this.#placeLink(link.ifindex);
    });
    await Promise.all([
      this.#watchFile(this.#options.dhcpConfig, (text) => this.#hosts(parseUci(text).sections)),
      this.#watchFile(this.#options.leaseFile, (text) => this.#leases(text)),
      this.#try(async () => {
        this.#nflog = await openNflog(this.#system, {
          group: this.#options.dnsGroup,
          onPacket: ({ payload }) => this.#tapped(payload),
          onFault: (fault) => this.#system.log("warning", fault.message),
        });
      }),
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
    this.#nflog?.close();
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
      dns: { ...this.#nflog?.counters, dropped: Object.fromEntries(this.#tapDrops) },
      skipped_leases: this.#skippedLeases,
      skipped_hosts: this.#skippedHosts,
    };
  }

  get #moment(): Moment {
    return { now: this.#system.now(), date: this.#system.date() };
  }

  async #try(open: () => Promise<void>): Promise<void> {
    if (this.#closed) return;
    try {
      await open();
    } catch (thrown) {
      this.#system.log("error", messageOf(thrown));
    }
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

  #tapped(packet: Uint8Array): void {
    const outcome = this.#nodes.tapped(packet, this.#moment);
    // The reasons are a closed list: the map cannot grow by what strangers send.
    if (outcome.kind === "dropped") {
      this.#tapDrops.set(outcome.reason, (this.#tapDrops.get(outcome.reason) ?? 0) + 1);
    } else this.#options.noticed();
  }

  #account(deltas: readonly Delta[]): void {
    const at = this.#moment;
    for (const delta of deltas) {
      const { source, bytesOut, packetsOut, bytesIn, packetsIn } = delta;
      // Whom it really reaches: behind a port forwarding that is who answers.
      const destination = delta.reply.source;
      const packets = packetsOut + packetsIn;
      if (packets === 0) continue;
      // What the router itself does elsewhere is nobody's traffic.
      if (!this.#nodes.isLocal(source) && !this.#nodes.isLocal(destination)) continue;
      const from = this.#nodes.nodeFor(source, { asker: destination, at });
      const to = this.#nodes.nodeFor(destination, { asker: source, at });
      if (from === undefined || to === undefined || from === to) continue;
      const out = { bytesOut: BigInt(bytesOut), packetsOut: BigInt(packetsOut) };
      const back = { bytesIn: BigInt(bytesIn), packetsIn: BigInt(packetsIn) };
      this.#nodes.count(from, { ...out, ...back });
      this.#nodes.count(to, {
        bytesOut: back.bytesIn,
        packetsOut: back.packetsIn,
        bytesIn: out.bytesOut,
        packetsIn: out.packetsOut,
      });
      this.#flows.account({
        ...{ from, to, protocol: delta.protocol, fromPort: delta.sourcePort },
        toPort: delta.reply.sourcePort,
        icmpType: delta.icmpType ?? 0,
        ...{ bytes: bytesOut + bytesIn, packets, at: at.now },
      });
    }
    this.#options.noticed();
  }

  #leases(text: string): void {
    const { leases, skipped } = parseLeases(text);
    this.#skippedLeases = skipped;
    this.#nodes.leases(leases, this.#moment);
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
    let reading = false;
    let again = false;
    const read = async () => {
      again = true;
      if (reading) return;
      reading = true;
      while (again && !this.#closed) {
        again = false;
        await this.#try(async () => {
          const bytes = await this.#system.read(path, maxFileBytes);
          if (!this.#closed) take(bytes ? decoder.decode(bytes) : "");
        });
      }
      reading = false;
    };
    this.#cancels.push(this.#system.watch(path, () => void read()));
    await read();
  }
}

function sideOf(name: string, lan: readonly string[], wan: readonly string[]): Side | undefined {
  if (lan.includes(name)) return "lan";
  return wan.includes(name) ? "wan" : undefined;
}
