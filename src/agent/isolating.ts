/**
 * Isolation, joined to the machine: who is where (links, leases, neighbours, stations, queries), the kernel's rules,
 * the disk, DNS for the segments and the HTTP door.
 *
 * Kept: the links, addresses and neighbours that rtnetlink tells, for devices that become a segment's; leases, to tell
 * which went; and when somebody last spoke with an address outside. Segments that go by the names of networks have the
 * devices that netifd says, and until it says others those that they had. A command is answered when the kernel
 * enforces it and the disk knows it; what evidence changes is applied at the end of the batch that brought it. Nothing is applied before the first evidence is
 * in.
 */

import type { Config, ServiceConfig } from "../config/config.ts";
import { canonicalName, Isolation, isolationFormat, isolationMethods } from "../isolation/isolation.ts";
import {
  connectionStatus,
  type Delta,
  hasAnswered,
  type InterfaceAddress,
  type Kernel,
  type Link,
  type Neighbour,
} from "../kernel/kernel.ts";
import { type Address, contains, type Mac } from "../lib/address.ts";
import { isDeviceName } from "../lib/device.ts";
import { messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import { openStore, type Store } from "../system/store.ts";
import type { Cancel, System } from "../system/system.ts";
import type { LogicalInterface } from "../tables/tables.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Ubus } from "../ubus/ubus.ts";
import { Discovery } from "./discovery.ts";
import { allOf } from "./effects.ts";
import { type Station, Stations } from "./hostapd.ts";
import { SegmentNames } from "./names.ts";
import { type Following, followNetifd } from "./netifd.ts";
import { endpointOf, WebDoor } from "./webdoor.ts";

export const isolationObject = "gatehouse.isolation";

/** After a refusal of the kernel or the disk, the next try. */
const retryMs = 5_000;
/**
 * An address outside that nobody has spoken with for so long is not in use. TCP makes sure of a connection without
 * traffic every two hours (tcp(7), `tcp_keepalive_time`).
 */
const idleMs = 7_500_000;
const maxOutside = 16_384;

type IsolatingBus = Pick<Ubus, "hasSubscribers" | "notify" | "listen" | "subscribe" | "call" | "lookup">;

export interface LeaseSeen {
  readonly address: Address;
  readonly mac?: Mac;
  readonly name?: string;
}

export class Isolating {
  readonly #system: System;
  readonly #config: Config;
  readonly #kernel: Kernel;
  readonly #store: Store;
  readonly #isolation: Isolation;
  readonly #names: SegmentNames;
  readonly #discovery: Discovery;
  readonly #door: WebDoor;
  readonly #ubus: IsolatingBus;
  readonly #stations: Stations;
  readonly #netifd: Following | undefined;
  readonly #damages: readonly string[];
  readonly #links = new Map<number, Link>();
  readonly #addresses = new Map<number, Map<Address, InterfaceAddress>>();
  readonly #neighbours = new Map<number, Map<Address, Neighbour>>();
  #leases = new Map<Address, LeaseSeen>();
  /** Address outside → when a packet last came from or went to it. */
  readonly #outside = new Map<Address, number>();
  /** Services that were there at the last commit. */
  readonly #present = new Set<string>();
  #hasCommitted = false;
  /** Resolves when links and leases have been told for the first time. */
  readonly #begun: Promise<void>;
  #begin!: () => void;
  /** Evidence is about to be committed. */
  #applying: Promise<void> | undefined;
  #cancelRetry: Cancel | undefined;
  #closed = false;

  private constructor(
    system: System,
    config: Config,
    parts: {
      readonly kernel: Kernel;
      readonly ubus: IsolatingBus;
      readonly store: Store;
      readonly state: ReturnType<typeof isolationFormat.parse> | undefined;
      readonly damages: readonly string[];
    },
  ) {
    this.#system = system;
    this.#config = config;
    this.#kernel = parts.kernel;
    this.#ubus = parts.ubus;
    this.#store = parts.store;
    this.#damages = parts.damages;
    this.#begun = new Promise((resolve) => {
      this.#begin = resolve;
    });
    const { isolation, segments, services } = config;
    this.#names = new SegmentNames(system, {
      port: isolation.dnsPort,
      upstreams: isolation.upstream,
      resolvers: [...new Set(segments.flatMap((each) => each.resolver))],
      isolation: () => this.#isolation,
    });
    const isNamed = (name: string) => segments.some((each) => each.name === name && each.network.length > 0);
    const isPatient = isolation.bootstrapSegment !== "";
    this.#isolation = new Isolation(
      system,
      {
        segments: segments.map((each) => ({
          name: each.name,
          devices: each.device,
          isolate: each.isolate,
          encryptedDns: each.encryptedDns,
          mdns: each.mdns,
        })),
        services: services.flatMap((each) => declarationOf(each, (line) => system.log("warning", line))),
        pool4: isolation.pool4,
        pool6: isolation.pool6,
        domains: isolation.domain,
        draw: (limit) => drawBelow(system, limit),
        dns: { port4: isolation.dnsPort, port6: isolation.dnsPort },
        doorPort: endpointOf(isolation.http)?.port,
        privileged: {
          hosts: isolation.privilegedHost.flatMap((each) => canonicalName(each) ?? []),
          clients: isolation.privileged.flatMap((each) => canonicalName(each) ?? []),
          ...(isPatient && {
            bootstrap: { segment: isolation.bootstrapSegment, forMs: isolation.bootstrapTime * 1_000 },
          }),
        },
        commit: ({ isMore }) => this.#commit(isMore),
        onChange: () => this.#changed(),
        lookup: (name) => this.#names.lookUp(name),
        isInUse: (address) => (this.#outside.get(address) ?? -idleMs) > system.now() - idleMs,
        report: (line) => system.log("warning", line),
      },
      parts.state && { ...parts.state, placed: parts.state.placed.filter(([name]) => isNamed(name)) },
    );
    this.#discovery = new Discovery(system, this.#isolation);
    this.#door = new WebDoor(system, isolation, this.#isolation);
    this.#stations = new Stations(system, parts.ubus, {
      deviceOf: (name) => this.#masterOf(name) ?? name,
      tell: (station) => this.#station(station),
    });
    const follow = () => followNetifd(parts.ubus, (all) => this.#interfaces(all));
    this.#netifd = segments.some(({ name }) => isNamed(name)) ? follow() : undefined;
  }

  /** Reads what was connected. */
  static async open(
    system: System,
    config: Config,
    { kernel, ubus }: { readonly kernel: Kernel; readonly ubus: IsolatingBus },
  ): Promise<Isolating> {
    const path = `${config.main.stateDir}/isolation.json`;
    const { store, state, damage } = await openStore(system, path, {
      ...isolationFormat,
      copied: true,
      onFault: (fault) => {
        if (fault) system.log("error", fault.message);
      },
    });
    const damages = damage ? [damage.message] : [];
    for (const line of damages) system.log("error", line);
    return new Isolating(system, config, { kernel, ubus, store, state, damages });
  }

  /**
   * Who is where is known as far as it can be at once: the rules may follow. Those of an earlier life are in force
   * until then, so that nothing it allowed breaks. Never fails: what the kernel refuses is said, and tried again.
   */
  async begin(): Promise<void> {
    this.#begin();
    this.#changed();
    await this.#applying;
    await this.#door.open();
  }

  get methods(): Methods {
    return isolationMethods(this.#isolation, this.#system);
  }

  get status(): JsonObject {
    return {
      dns: this.#names.status,
      discovery: { ...this.#discovery.counters },
      stations: this.#stations.size,
      door: this.#door.port ?? null,
      damaged: [...this.#damages],
      storage: this.#store.lastFault?.message ?? null,
    };
  }

  // Evidence.

  link(link: Link, isThere: boolean): void {
    const before = this.#links.get(link.ifindex);
    if (isThere) this.#links.set(link.ifindex, link);
    else {
      this.#links.delete(link.ifindex);
      this.#discovery.remove(link.ifindex);
      this.#addresses.delete(link.ifindex);
      this.#neighbours.delete(link.ifindex);
    }
    // A device under another name is another device.
    if (before && (!isThere || before.name !== link.name)) this.#tellDown(before);
    if (isThere) this.#tellLink(link.ifindex);
    for (const master of new Set([before?.master, link.master])) {
      if (master !== undefined) this.#tellLink(master);
    }
    this.#stations.relink(link.name);
  }

  address(address: InterfaceAddress, isThere: boolean): void {
    const own = this.#addresses.get(address.ifindex) ?? new Map<Address, InterfaceAddress>();
    if (isThere) own.set(address.address, address);
    else own.delete(address.address);
    this.#addresses.set(address.ifindex, own);
    this.#tellLink(address.ifindex);
  }

  neighbour(neighbour: Neighbour, isThere: boolean): void {
    const { ifindex, address } = neighbour;
    const own = this.#neighbours.get(ifindex) ?? new Map<Address, Neighbour>();
    const before = own.get(address);
    if (isThere) own.set(address, neighbour);
    else own.delete(address);
    if (own.size > 0) this.#neighbours.set(ifindex, own);
    else this.#neighbours.delete(ifindex);
    this.#tellNeighbour(neighbour, isThere);
    // The kernel makes room, and people flush: who is there still would not be let through and so not be met again.
    const isLost = before !== undefined && hasAnswered(before) && !(isThere && hasAnswered(neighbour));
    if (isLost) this.#meetAgain(ifindex, address);
  }

  #meetAgain(ifindex: number, address: Address): void {
    const device = this.#links.get(ifindex)?.name;
    const { segments } = this.#isolation.parts;
    if (device !== undefined && segments.holds(device, address)) this.#discovery.meetAgain(ifindex, address);
  }

  #tellNeighbour(neighbour: Neighbour, isThere: boolean): void {
    const { ifindex, address, mac } = neighbour;
    const device = this.#links.get(ifindex)?.name;
    if (device === undefined) return;
    if (isThere && hasAnswered(neighbour))
      this.#isolation.seen({ device, address, mac, source: "neighbour" });
    else this.#isolation.gone({ device, address, source: "neighbour" });
  }

  /** All leases, each time that one changed. */
  leases(leases: readonly LeaseSeen[]): void {
    const now = new Map(leases.map((each) => [each.address, each]));
    const { segments } = this.#isolation.parts;
    for (const { address } of this.#leases.values()) {
      const device = now.has(address) ? undefined : segments.deviceOf(address);
      if (device !== undefined) this.#isolation.gone({ device, address, source: "dhcp" });
    }
    this.#leases = now;
    this.#tellLeases();
  }

  /** What passed: who speaks with an address outside goes on doing so after its name has another. */
  traffic(deltas: readonly Delta[]): void {
    const { pool4, pool6 } = this.#config.isolation;
    const { segments } = this.#isolation.parts;
    for (const { status, destination, reply } of deltas) {
      if ((status & connectionStatus.destinationNat) === 0) continue;
      if (!contains(pool4, destination) && !contains(pool6, destination)) continue;
      if (segments.deviceOf(reply.source) !== undefined) continue;
      this.#outside.delete(reply.source);
      if (this.#outside.size >= maxOutside) this.#outside.delete(this.#outside.keys().next().value!);
      this.#outside.set(reply.source, this.#system.now());
    }
  }

  tick(): void {
    this.#isolation.tick();
    this.#names.resolveLocal();
  }

  /** What is enforced stays so. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#begin();
    this.#cancelRetry?.();
    this.#netifd?.close();
    this.#stations.close();
    this.#discovery.close();
    await Promise.all([this.#door.close(), this.#names.close(), this.#applying]);
    await this.#isolation.idle();
    await this.#store.close();
  }

  #tellLink(ifindex: number): void {
    const link = this.#links.get(ifindex);
    if (!link) return;
    const own = [...(this.#addresses.get(ifindex)?.values() ?? [])];
    this.#discovery.place(link, own);
    if (!link.up) {
      this.#tellDown(link);
      return;
    }
    const ports = [...this.#links.values()].filter(({ master }) => master === ifindex);
    this.#isolation.linkUp({
      device: link.name,
      addresses: own.map(({ address, prefixLength }) => ({ address, prefixLength })),
      ports: ports.map(({ name }) => name),
    });
    const isManaged = this.#isolation.parts.segments.of(link.name) !== undefined;
    this.#names.place(link.name, { ifindex, addresses: isManaged ? own.map(({ address }) => address) : [] });
    this.#tellLeases();
  }

  #tellDown({ name, ifindex }: Link): void {
    this.#isolation.linkDown(name);
    this.#names.place(name, { ifindex, addresses: [] });
  }

  #tellLeases(): void {
    for (const { address, mac, name } of this.#leases.values()) {
      const device = this.#isolation.parts.segments.deviceOf(address);
      if (device === undefined) continue;
      this.#isolation.seen({ device, address, mac, hostname: name, source: "dhcp" });
    }
  }

  #masterOf(name: string): string | undefined {
    for (const link of this.#links.values()) {
      if (link.name === name)
        return link.master === undefined ? undefined : this.#links.get(link.master)?.name;
    }
    return undefined;
  }

  /**
   * What netifd has. Of a segment with an interface that is down nothing is let go: it may come up on what it was on, and
   * then somebody must be there who guards it.
   */
  #interfaces(all: readonly LogicalInterface[]): void {
    const byName = new Map(all.map((each) => [each.name, each]));
    const placed = new Map(this.#isolation.parts.segments.placed());
    for (const { name, network } of this.#config.segments) {
      if (network.length === 0) continue;
      const found = network.flatMap((each) => byName.get(each) ?? []);
      // Of one that is down, netifd names the device below.
      const devices = found.flatMap(({ up, device = "" }) => (up && isDeviceName(device) ? [device] : []));
      const kept = devices.length < found.length ? (placed.get(name) ?? []) : [];
      for (const moved of this.#isolation.place(name, [...devices, ...kept])) this.#retell(moved);
    }
  }

  /** A device is of another segment: what is known of it is news there. */
  #retell(device: string): void {
    for (const { name, ifindex } of this.#links.values()) {
      if (name !== device) continue;
      this.#tellLink(ifindex);
      for (const each of this.#neighbours.get(ifindex)?.values() ?? []) this.#tellNeighbour(each, true);
    }
    this.#stations.repeat(device);
  }

  /** Where a station may be is looked for at once, so that nobody waits for whoever roams. */
  #station(station: Station): void {
    const wanted = new Set(this.#isolation.station(station));
    const { segments } = this.#isolation.parts;
    for (const { address, mac } of station.isThere ? this.#leases.values() : []) {
      if (mac === station.mac && segments.holds(station.device, address)) wanted.add(address);
    }
    for (const { name, ifindex } of this.#links.values()) {
      if (name !== station.device) continue;
      for (const address of wanted) this.#discovery.meet(ifindex, address);
    }
  }

  // Effects.

  /**
   * What lags on the disk after a commit that only gives is closed after a reboot, until the agent is there: who was
   * connected to whom is in the store.
   *
   * @throws Fault "storage" if only the disk refused.
   */
  async #commit(isMore: boolean): Promise<void> {
    await this.#begun;
    await allOf([
      this.#kernel.apply("isolation", this.#isolation.plan(), { durable: !isMore }),
      this.#store.save(() => this.#isolation.save()),
    ]);
    this.#tellStates();
  }

  /** Pairs of services that were waited for and are there, or the other way round, are told to subscribers. */
  #tellStates(): void {
    const { connects, services, naming } = this.#isolation.parts;
    /** Who came or went. */
    const turned = new Set<string>();
    for (const name of this.#isolation.takeMoved()) {
      const isThere = services.get(name) !== undefined;
      if (isThere === this.#present.has(name)) continue;
      turned.add(name);
      if (isThere) this.#present.add(name);
      else this.#present.delete(name);
    }
    const isFirst = !this.#hasCommitted;
    this.#hasCommitted = true;
    if (isFirst || !this.#ubus.hasSubscribers(isolationObject)) return;
    for (const { one, other } of new Set([...turned].flatMap((name) => [...connects.of(name)]))) {
      if (naming.isOutside(one) || naming.isOutside(other)) continue;
      const isThere = [one, other].map((name) => this.#present.has(name));
      const wasThere = [one, other].map((name) => this.#present.has(name) !== turned.has(name));
      const state = isThere.every(Boolean) ? "active" : "pending";
      if (state === (wasThere.every(Boolean) ? "active" : "pending")) continue;
      this.#ubus.notify(isolationObject, state, { name: one, peer: other }).catch(() => {});
    }
  }

  /** At the end of the batch of evidence that brought it. */
  #changed(): void {
    if (this.#closed || this.#applying) return;
    this.#applying = this.#begun.then(async () => {
      // What changes from here on is for the next.
      this.#applying = undefined;
      if (this.#closed) return;
      try {
        await this.#isolation.settled();
      } catch (thrown) {
        this.#system.log("error", messageOf(thrown));
        this.#cancelRetry?.();
        this.#cancelRetry = this.#system.after(retryMs, () => this.#changed());
      }
    });
  }
}

/** A service as the room takes it: names in canonical form. One without a name that can be is left out. */
function declarationOf(service: ServiceConfig, report: (line: string) => void) {
  const { segment, address: addresses, mac, hostname, alias, peer: peers } = service;
  const name = canonicalName(service.name);
  if (name === undefined) {
    report(`Service ${JSON.stringify(service.name)} is left out: that is no name of a service`);
    return [];
  }
  const aliases = alias.flatMap((each) => canonicalName(each) ?? []);
  return [{ name, segment, addresses, mac, aliases, peers, hostname: canonicalName(hostname) }];
}

/** A random number from 0 up to, not including, `limit` (at most 2^32), every one as likely. */
function drawBelow(system: Pick<System, "random">, limit: number): number {
  const most = 2 ** 32 - (2 ** 32 % limit);
  for (;;) {
    const value = new DataView(system.random(4).buffer).getUint32(0);
    if (value < most) return value % limit;
  }
}
