/**
 * What makes the router see every packet between services on one bridge: isolated ports, a bridge that answers for
 * neighbours, sources looked at, no redirects.
 *
 * Isolated ports exchange nothing, of either family: neither ARP nor neighbour discovery passes between them, so
 * that an address behind another port is found only where the bridge answers for it. In IPv6 it answers for none,
 * and nothing is missing: a stand-in is on no link, and a real address is nobody's to reach.
 *
 * Kept: what was asked last, and which settings are ours to take back. A port that comes, or loses its setting (some
 * Wi-Fi drivers forget it), is told of by the kernel and set again. What the kernel or a driver refuses is a limit,
 * said once and listed as long as it lasts. Isolation of ports and proxied ARP, those of an earlier life too, are taken
 * back when they are asked for no more; what devices take and send as redirects stays, being what a router wants anyway.
 */

import { isDeviceName } from "../lib/device.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, System } from "../system/system.ts";
import { Attributes, concat, encodeAttributes, host } from "./attribute.ts";
import { Lane } from "./lane.ts";
import { type Message, Netlink, newCounters, routeProtocol } from "./netlink.ts";
import { Subscription } from "./subscription.ts";

export interface Guarded {
  /** Bridge ports that exchange nothing with each other. */
  readonly isolatedPorts: readonly string[];
  /** Bridges that answer for neighbours behind isolated ports. */
  readonly proxyArp: readonly string[];
  /** Devices that take no source which is routed elsewhere, and redirect nobody. */
  readonly managed: readonly string[];
}

/** What of it the boot script sets without us, where it is there: a line each. */
export function renderGuards({
  isolatedPorts,
  proxyArp,
}: Pick<Guarded, "isolatedPorts" | "proxyArp">): string {
  const lines = [...isolatedPorts.map((name) => `port ${name}`), ...proxyArp.map((name) => `bridge ${name}`)];
  return lines.map((line) => `${line}\n`).join("");
}

/** Reads back what was rendered; a line that says nothing of a device is passed over. */
export function parseGuards(text: string): Pick<Guarded, "isolatedPorts" | "proxyArp"> {
  const names = (kind: string) =>
    text.split("\n").flatMap((line) => {
      const [word, name, ...more] = line.split(" ");
      return word === kind && name !== undefined && more.length === 0 && isDeviceName(name) ? [name] : [];
    });
  return { isolatedPorts: names("port"), proxyArp: names("bridge") };
}

/** RTNLGRP_LINK, RTM_…LINK, AF_BRIDGE, and of `struct ifinfomsg` the size. */
const link = { group: 1, come: 16, gone: 17, get: 18, set: 19 } as const;
const bridgeFamily = 7;
const headerBytes = 16;
/** IFLA_IFNAME, IFLA_PROTINFO (nested), and in that IFLA_BRPORT_ISOLATED. */
const attribute = { name: 3, port: 12, isolated: 33 } as const;

export interface BridgePort {
  readonly ifindex: number;
  readonly name: string;
  readonly isolated: boolean;
}

const outer = new Attributes(attribute.port);
const inner = new Attributes(attribute.isolated);

/** Reads what the kernel tells of a bridge's port; undefined for anything else. */
export function decodeBridgePort({ type, bytes, start, end }: Message): BridgePort | undefined {
  const from = start + headerBytes;
  if (type !== link.come || from > end || bytes[start] !== bridgeFamily) return undefined;
  if (!outer.read(bytes, from, end)) return undefined;
  const name = outer.text(attribute.name);
  const ifindex = host.read32(bytes, start + 4);
  if (name === undefined || ifindex === 0 || !outer.has(attribute.port)) return undefined;
  inner.readNested(outer, attribute.port);
  return { ifindex, name, isolated: inner.byte(attribute.isolated) === 1 };
}

/** What a port's setting is changed by. */
export function encodeIsolation(ifindex: number, isolated: boolean): Uint8Array {
  const header = new Uint8Array(headerBytes);
  header[0] = bridgeFamily;
  header.set(host.bytes32(ifindex), 4);
  const setting = Uint8Array.of(isolated ? 1 : 0);
  return concat([header, encodeAttributes([[attribute.port, [[attribute.isolated, setting]]]])]);
}

export class Guards {
  readonly #system: System;
  readonly #onChange: () => void;
  #wanted: Guarded = { isolatedPorts: [], proxyArp: [], managed: [] };
  /** Ports and bridges that we have changed: theirs to take back. */
  readonly #ports: Set<string>;
  readonly #bridges: Set<string>;
  /** What one run has set, another that began before it must not set back. */
  readonly #lane = new Lane<void>(() => Promise.resolve());
  /** What was refused → the sentence about it. */
  readonly #refused = new Map<string, string>();
  #watch: Cancel | undefined;
  #closed = false;

  /**
   * @param onChange a device that is guarded has come, or may have been changed: `verify` is to be called.
   * @param before ports and bridges that an earlier life changed.
   */
  constructor(
    system: System,
    onChange: () => void,
    before: Pick<Guarded, "isolatedPorts" | "proxyArp"> = { isolatedPorts: [], proxyArp: [] },
  ) {
    this.#system = system;
    this.#onChange = onChange;
    this.#ports = new Set(before.isolatedPorts);
    this.#bridges = new Set(before.proxyArp);
  }

  /** What the machine refused, in sentences. */
  get limits(): readonly string[] {
    return [...this.#refused.values()];
  }

  /**
   * Makes it so for all that is there, and for what comes from then on.
   *
   * @throws Fault as `Netlink.dump` does, if ports cannot be read; RangeError for what is no device.
   */
  async apply(wanted: Guarded): Promise<void> {
    for (const name of [...wanted.isolatedPorts, ...wanted.proxyArp, ...wanted.managed])
      if (!isDeviceName(name))
        throw new RangeError(`Cannot guard ${JSON.stringify(name)}: no name of a device`);
    this.#wanted = wanted;
    await this.verify();
  }

  /** Sets what is not as it was asked. @returns what it was, a few words each. */
  verify(): Promise<string[]> {
    return this.#lane.between(() => this.#verify());
  }

  async #verify(): Promise<string[]> {
    const { isolatedPorts, proxyArp, managed } = this.#wanted;
    const used = isolatedPorts.length + proxyArp.length + managed.length > 0;
    // A round that was under way may end after `close`.
    if (used && !this.#watch && !this.#closed) this.#watch = this.#follow();
    const refused = new Set<string>();
    const changed: string[] = [];
    const attempt = async (what: string, call: () => Promise<boolean>): Promise<void> => {
      try {
        if (await call()) changed.push(what);
      } catch (thrown) {
        refused.add(what);
        const limit = `Cannot set ${what}: ${messageOf(thrown)}`;
        if (!this.#refused.has(what)) this.#system.log("warning", limit);
        this.#refused.set(what, limit);
      }
    };
    if (isolatedPorts.length + this.#ports.size > 0) await this.#isolate(attempt);
    for (const bridge of proxyArp) {
      this.#bridges.add(bridge);
      await attempt(`proxy_arp_pvlan of ${bridge}`, () => this.#write(bridge, "proxy_arp_pvlan", "1"));
    }
    for (const bridge of [...this.#bridges]) {
      if (proxyArp.includes(bridge)) continue;
      await attempt(`proxy_arp_pvlan of ${bridge}`, async () => {
        const isChanged = await this.#write(bridge, "proxy_arp_pvlan", "0");
        this.#bridges.delete(bridge);
        return isChanged;
      });
    }
    // Of a device's own setting and that for all the kernel takes what says yes.
    const quiet = managed.length === 0 ? [] : ["all", ...managed];
    for (const device of quiet)
      await attempt(`send_redirects of ${device}`, () => this.#write(device, "send_redirects", "0"));
    for (const device of managed)
      await attempt(`rp_filter of ${device}`, () => this.#write(device, "rp_filter", "1"));
    for (const what of [...this.#refused.keys()]) if (!refused.has(what)) this.#refused.delete(what);
    return changed;
  }

  close(): void {
    this.#closed = true;
    this.#watch?.();
    this.#watch = undefined;
  }

  async #isolate(attempt: (what: string, call: () => Promise<boolean>) => Promise<void>): Promise<void> {
    const netlink = new Netlink(this.#system, { protocol: routeProtocol });
    try {
      const ports = await readPorts(netlink);
      const wanted = new Set(this.#wanted.isolatedPorts);
      for (const name of new Set([...wanted, ...this.#ports])) {
        const port = ports.get(name);
        const isolated = wanted.has(name);
        if (isolated) this.#ports.add(name);
        // One that is not there yet, or in no bridge, is told of when it is.
        if (!port || port.isolated === isolated) {
          if (!isolated) this.#ports.delete(name);
          continue;
        }
        await attempt(`isolation of port ${name}`, async () => {
          const payload = encodeIsolation(port.ifindex, isolated);
          await netlink.request({ type: link.set, payload, verb: `isolate port ${name}` });
          if ((await readPorts(netlink)).get(name)?.isolated === !isolated)
            throw new Fault("unsupported", "the driver does not keep it");
          if (!isolated) this.#ports.delete(name);
          return true;
        });
      }
    } finally {
      netlink.close();
    }
  }

  /** @returns whether it was otherwise; false too if there is no such device yet. */
  async #write(device: string, setting: string, value: string): Promise<boolean> {
    const path = `/proc/sys/net/ipv4/conf/${device}/${setting}`;
    const present = await this.#setting(path);
    if (present === undefined || present === value) return false;
    await this.#system.set(path, value);
    const now = await this.#setting(path);
    if (now !== undefined && now !== value) throw new Fault("unsupported", `the kernel keeps it at ${now}`);
    return true;
  }

  async #setting(path: string): Promise<string | undefined> {
    const bytes = await this.#system.read(path, 64);
    return bytes && String.fromCharCode(...bytes).trim();
  }

  #follow(): Cancel {
    const subscription = new Subscription(
      this.#system,
      { protocol: routeProtocol, groups: [link.group], counters: newCounters() },
      {
        onEvent: (message) => {
          if (this.#concerns(message)) this.#onChange();
        },
        onGap: () => this.#onChange(),
        onFault: (fault) => this.#system.log("warning", fault.message),
      },
    );
    return () => subscription.close();
  }

  #concerns(message: Message): boolean {
    const { type, bytes, start, end } = message;
    if (type !== link.come) return false;
    const { isolatedPorts, proxyArp, managed } = this.#wanted;
    const port = decodeBridgePort(message);
    if (port) return isolatedPorts.includes(port.name) !== port.isolated;
    if (!outer.read(bytes, start + headerBytes, end)) return false;
    const name = outer.text(attribute.name) ?? "";
    return isolatedPorts.includes(name) || proxyArp.includes(name) || managed.includes(name);
  }
}

async function readPorts(netlink: Netlink): Promise<ReadonlyMap<string, BridgePort>> {
  const ports = new Map<string, BridgePort>();
  const payload = new Uint8Array(headerBytes);
  payload[0] = bridgeFamily;
  await netlink.dump(
    { type: link.get, payload, verb: "read bridge ports" },
    {
      onMessage: (message) => {
        const port = decodeBridgePort(message);
        if (port) ports.set(port.name, port);
      },
      onRestart: () => ports.clear(),
    },
  );
  return ports;
}
