/**
 * Isolation, joined to the machine: who is where (links, leases, neighbours, queries), the kernel's rules, the disk,
 * DNS for the segments and the HTTP door.
 *
 * Kept: the links and addresses that rtnetlink tells, for the segments; leases, to tell which went; and when somebody
 * last spoke with an address outside. A command is answered when the kernel enforces it and the disk knows it; what
 * evidence changes is applied at the end of the batch that brought it. Nothing is applied before the first evidence is
 * in.
 */

import type { Config, ServiceConfig } from "../config/config.ts";
import {
  canonicalName,
  Isolation,
  isolationDoor,
  isolationFormat,
  isolationMethods,
} from "../isolation/isolation.ts";
import {
  connectionStatus,
  type Delta,
  type InterfaceAddress,
  type Kernel,
  type Link,
  type Neighbour,
} from "../kernel/kernel.ts";
import { type Address, contains, type Mac, parseAddress } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import { openStore, type Store } from "../system/store.ts";
import type { Cancel, Endpoint, System, WebServer } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Ubus } from "../ubus/ubus.ts";
import { Discovery } from "./discovery.ts";
import { allOf } from "./effects.ts";
import { SegmentNames } from "./names.ts";

export const isolationObject = "gatehouse.isolation";

/** After a refusal of the kernel or the disk, the next try. */
const retryMs = 5_000;
/** An address outside that nobody has spoken with for so long is not in use. */
const idleMs = 600_000;
const maxOutside = 16_384;

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
  readonly #ubus: Pick<Ubus, "hasSubscribers" | "notify">;
  readonly #damages: readonly string[];
  readonly #links = new Map<number, Link>();
  readonly #addresses = new Map<number, Map<Address, InterfaceAddress>>();
  #leases = new Map<Address, LeaseSeen>();
  /** Address outside → when a packet last came from or went to it. */
  readonly #outside = new Map<Address, number>();
  /** Pair of services → its state as it was enforced last. */
  #states = new Map<string, string>();
  /** Resolves when links and leases have been told for the first time. */
  readonly #begun: Promise<void>;
  #begin!: () => void;
  #applying: Promise<void> | undefined;
  #cancelRetry: Cancel | undefined;
  #cancelReopen: Cancel | undefined;
  #door: WebServer | undefined;
  #closed = false;

  private constructor(
    system: System,
    config: Config,
    parts: {
      readonly kernel: Kernel;
      readonly ubus: Pick<Ubus, "hasSubscribers" | "notify">;
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
        commit: () => this.#commit(),
        onChange: () => this.#changed(),
        lookup: (name) => this.#names.lookUp(name),
        isInUse: (address) => (this.#outside.get(address) ?? -idleMs) > system.now() - idleMs,
        report: (line) => system.log("warning", line),
      },
      parts.state,
    );
    this.#discovery = new Discovery(system, this.#isolation);
  }

  /** Reads what was connected. */
  static async open(
    system: System,
    config: Config,
    { kernel, ubus }: { readonly kernel: Kernel; readonly ubus: Pick<Ubus, "hasSubscribers" | "notify"> },
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
    await this.#openDoor();
  }

  get methods(): Methods {
    return isolationMethods(this.#isolation, this.#system);
  }

  get status(): JsonObject {
    return {
      dns: this.#names.status,
      discovery: { ...this.#discovery.counters },
      door: this.#door?.port ?? null,
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
    }
    // A device under another name is another device.
    if (before && (!isThere || before.name !== link.name)) this.#tellDown(before);
    if (isThere) this.#tellLink(link.ifindex);
    for (const master of new Set([before?.master, link.master])) {
      if (master !== undefined) this.#tellLink(master);
    }
  }

  address(address: InterfaceAddress, isThere: boolean): void {
    const own = this.#addresses.get(address.ifindex) ?? new Map<Address, InterfaceAddress>();
    if (isThere) own.set(address.address, address);
    else own.delete(address.address);
    this.#addresses.set(address.ifindex, own);
    this.#tellLink(address.ifindex);
  }

  neighbour(neighbour: Neighbour, isThere: boolean): void {
    const device = this.#links.get(neighbour.ifindex)?.name;
    if (device === undefined) return;
    const { address, mac, state } = neighbour;
    if (isThere && mac !== undefined && state !== "failed" && state !== "incomplete") {
      this.#isolation.seen({ device, address, mac, source: "neighbour" });
    } else this.#isolation.gone({ device, address, source: "neighbour" });
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
    for (const { status, destination, reply } of deltas) {
      if ((status & connectionStatus.destinationNat) === 0) continue;
      if (!contains(pool4, destination) && !contains(pool6, destination)) continue;
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
    this.#cancelReopen?.();
    this.#discovery.close();
    await Promise.all([this.#door?.close(), this.#names.close(), this.#applying]);
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
    if (this.#isolation.parts.segments.of(link.name)) {
      this.#names.place(link.name, { ifindex, addresses: own.map(({ address }) => address) });
    }
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

  // Effects.

  /** @throws Fault "storage" if only the disk refused. */
  async #commit(): Promise<void> {
    await this.#begun;
    await allOf([
      this.#kernel.apply("isolation", this.#isolation.plan()),
      this.#store.save(() => this.#isolation.save()),
    ]);
    this.#tellStates();
  }

  /** Pairs of services that were waited for and are there, or the other way round, are told to subscribers. */
  #tellStates(): void {
    const { connects, commands, naming } = this.#isolation.parts;
    const states = new Map<string, string>();
    for (const { one, other } of connects.all()) {
      if (naming.isOutside(one) || naming.isOutside(other)) continue;
      const [key, state] = [`${one} ${other}`, commands.stateOf(one, other)];
      states.set(key, state);
      const before = this.#states.get(key);
      if (before === undefined || before === state || !this.#ubus.hasSubscribers(isolationObject)) continue;
      this.#ubus.notify(isolationObject, state, { name: one, peer: other }).catch(() => {});
    }
    this.#states = states;
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

  /**
   * The HTTP door, where it is wanted. One that cannot be opened as asked for, such as on an address that is not there
   * yet, is said, stays shut and is tried again.
   */
  async #openDoor(isSaid = false): Promise<void> {
    const { http, httpName, httpCert, httpKey, keyFile } = this.#config.isolation;
    const endpoint = endpointOf(http);
    if (!endpoint || this.#closed) return;
    try {
      const tls = httpCert === "" ? {} : { tls: await this.#certificate(httpCert, httpKey || httpCert) };
      const door = isolationDoor({
        isolation: this.#isolation,
        readKey: () => this.#read(keyFile),
        hosts: httpName,
        report: (line) => this.#system.log("warning", line),
      });
      const server = await this.#system.serve({ ...endpoint, ...tls }, door);
      if (this.#closed) await server.close();
      else this.#door = server;
    } catch (thrown) {
      if (!isSaid) this.#system.log("error", messageOf(thrown));
      if (!this.#closed) this.#cancelReopen = this.#system.after(retryMs, () => void this.#openDoor(true));
    }
  }

  async #certificate(certificatePath: string, keyPath: string) {
    const decoder = new TextDecoder();
    const [certificate, key] = await Promise.all([this.#read(certificatePath), this.#read(keyPath)]);
    return { certificate: decoder.decode(certificate), key: decoder.decode(key) };
  }

  async #read(path: string): Promise<Uint8Array> {
    const bytes = await this.#system.read(path, 64 * 1024);
    if (!bytes) throw new Fault("not-found", `Cannot use ${path}: it is not there`);
    return bytes;
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

/** Where the configuration has the HTTP door; nowhere if it is empty. */
function endpointOf(http: string): Endpoint | undefined {
  const [, host = "", port = ""] = /^(.*):([0-9]+)$/.exec(http) ?? [];
  const address = parseAddress(host.replace(/^\[|\]$/g, ""));
  return address === undefined ? undefined : { address, port: Number(port) };
}

/** A random number from 0 up to, not including, `limit` (at most 2^32), every one as likely. */
function drawBelow(system: Pick<System, "random">, limit: number): number {
  const most = 2 ** 32 - (2 ** 32 % limit);
  for (;;) {
    const value = new DataView(system.random(4).buffer).getUint32(0);
    if (value < most) return value % limit;
  }
}
