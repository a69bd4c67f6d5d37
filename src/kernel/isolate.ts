/**
 * From a plan of isolation to what both back ends render: checked, its prefixes free of overlap, all routes alike
 * and by family. Pure.
 *
 * Also what the plan means for a connection that stands: which of them it does not allow, or would have led
 * elsewhere. Rules stop those, but for two: what a flowtable forwards passes no rule, and what came to be while our
 * rules were gone keeps its translation, or its lack of one, as long as somebody sends.
 */

import { type Address, contains, type Family, familyOf } from "../lib/address.ts";
import { isDeviceName } from "../lib/device.ts";
import { Nets } from "../lib/nets.ts";
import { type Connection, connectionStatus } from "./connection.ts";
import { isOffloaded } from "./entries.ts";
import { type NetsApart, netsApart } from "./nets.ts";
import { fingerprint } from "./nftrules.ts";
import type { Exit, IsolationPlan, Ports, Route, Segment } from "./standins.ts";

/** A route, or an exit if it has neither `targetDevice` nor `sourceStandin`. */
export interface Path extends Exit {
  readonly family: Family;
  readonly targetDevice?: string;
  readonly sourceStandin?: Address;
}

export interface Part extends Omit<Segment, "prefixes"> {
  readonly prefixes: NetsApart;
}

export interface Isolated {
  readonly segments: readonly Part[];
  readonly pools: NetsApart;
  /** In the order of the plan, exits last. */
  readonly paths: readonly Path[];
  readonly doors: IsolationPlan["doors"];
  /** Name of a list of ports, as `nameOfPorts` gives it → the list. */
  readonly ports: ReadonlyMap<string, readonly Ports[]>;
  readonly reportGroup?: number;
}

/** @throws RangeError for a plan that contradicts itself, TypeError for text that is no canonical address. */
export function isolatedOf(plan: IsolationPlan): Isolated {
  const devices = new Set<string>();
  const everybody = new Nets<true>();
  const segments = plan.segments.map((segment): Part => {
    const prefixes = netsApart(segment.prefixes);
    for (const prefix of [...prefixes[4], ...prefixes[6]]) everybody.set(prefix, true);
    for (const device of segment.devices) {
      if (!isDeviceName(device)) wrong(`${JSON.stringify(device)} is no name of a device`);
      if (devices.has(device)) wrong(`device ${device} is in two segments`);
      devices.add(device);
    }
    for (const port of [segment.dns.port4, segment.dns.port6]) if (port !== undefined) checkPort(port);
    return { ...segment, prefixes };
  });
  const pools = netsApart(plan.pools);
  for (const prefix of [...pools[4], ...pools[6]]) {
    if (everybody.covers(prefix.slice(0, prefix.indexOf("/")) as Address))
      wrong(`the pool ${prefix} is in a segment`);
  }
  const index = new Index({ devices, inPool: coverOf(pools), everybody });
  for (const route of plan.routes) index.add(route);
  for (const exit of plan.outside) index.add(exit);
  for (const { device, source, port } of plan.doors) {
    if (!devices.has(device)) wrong(`device ${device} is in no segment`);
    if (source !== undefined && index.isStandIn(source)) wrong(`the door for ${source} is for a stand-in`);
    checkPort(port);
  }
  for (const name of [...plan.guards.isolatedPorts, ...plan.guards.proxyArp])
    if (!isDeviceName(name)) wrong(`${JSON.stringify(name)} is no name of a device`);
  if (
    plan.report &&
    !(Number.isInteger(plan.report.group) && (plan.report.group & 0xffff) === plan.report.group)
  )
    wrong(`${plan.report.group} is no NFLOG group`);
  return {
    ...{ segments, pools, paths: index.paths, doors: plan.doors, ports: index.ports },
    ...(plan.report ? { reportGroup: plan.report.group } : {}),
  };
}

interface Places {
  /** Of all segments. */
  readonly devices: ReadonlySet<string>;
  readonly inPool: (address: Address) => boolean;
  readonly everybody: Nets<true>;
}

class Index {
  readonly paths: Path[] = [];
  readonly ports = new Map<string, readonly Ports[]>();
  readonly #places: Places;
  readonly #keys = new Set<string>();
  /** Source and stand-in → what the target sees: no device is known there. */
  readonly #seen = new Map<string, string>();

  constructor(places: Places) {
    this.#places = places;
  }

  add(route: Route | Exit): void {
    const { device, source, standin, target, ports } = route;
    const { targetDevice, sourceStandin } = route as Partial<Route>;
    const { devices, inPool, everybody } = this.#places;
    const family = checked(source);
    for (const address of [standin, target, ...(sourceStandin === undefined ? [] : [sourceStandin])])
      if (checked(address) !== family) wrong(`${source} and ${address} are of two families`);
    for (const name of targetDevice === undefined ? [device] : [device, targetDevice])
      if (!devices.has(name)) wrong(`device ${name} is in no segment`);
    for (const address of sourceStandin === undefined ? [standin] : [standin, sourceStandin])
      if (!inPool(address)) wrong(`${address} is in no pool`);
    if (inPool(target)) wrong(`the target ${target} is in a pool`);
    if (targetDevice === undefined && everybody.covers(target))
      wrong(`the exit to ${target} leads to a segment`);
    const key = `${device} ${source} ${standin}`;
    if (this.#keys.has(key)) wrong(`two routes from ${key}`);
    this.#keys.add(key);
    const seen = this.#seen.get(`${source} ${standin}`);
    if (seen !== undefined && seen !== (sourceStandin ?? "")) wrong(`${source} is seen as two at ${standin}`);
    this.#seen.set(`${source} ${standin}`, sourceStandin ?? "");
    if (ports !== undefined) this.#note(ports);
    this.paths.push({ ...route, family });
  }

  /** @throws TypeError for text that is no canonical address. */
  isStandIn(address: Address): boolean {
    checked(address);
    return this.#places.inPool(address);
  }

  #note(ports: readonly Ports[]): void {
    for (const each of ports) {
      if (each.protocol === "icmp") continue;
      checkPort(each.first);
      checkPort(each.last);
      if (each.first > each.last) wrong(`ports ${each.first} to ${each.last} are none`);
    }
    this.ports.set(nameOfPorts(ports), ports);
  }
}

/** Equal for lists that say the same in the same order. */
export function nameOfPorts(ports: readonly Ports[]): string {
  return ports
    .map((each) => (each.protocol === "icmp" ? "icmp" : `${each.protocol} ${each.first}-${each.last}`))
    .join(", ");
}

/** Sixteen hex digits for names of chains. Two lists that shared them would need somebody to look for such. */
export function digestOf(text: string): string {
  return fingerprint(text) + fingerprint(`${[...text].reverse().join("")}.`);
}

/** Whether a list of ports holds what a packet of `protocol` (an IP protocol number) goes to. */
export function holdsPort(ports: readonly Ports[] | undefined, protocol: number, port: number): boolean {
  return (
    ports === undefined ||
    ports.some((each) =>
      each.protocol === "icmp"
        ? protocol === 1 || protocol === 58
        : protocol === (each.protocol === "tcp" ? 6 : 17) && each.first <= port && port <= each.last,
    )
  );
}

/** A packet that would begin something, as it comes in by a managed device. */
export interface Beginning {
  readonly device: string;
  readonly source: Address;
  readonly destination: Address;
  /** IP protocol number. */
  readonly protocol: number;
  /** Of the destination; 0 for protocols without. */
  readonly port: number;
}

export type Answer =
  /** Led to the target, which sees `sourceStandin`, or the source itself. */
  | { readonly verdict: "pass"; readonly path: Path }
  /** Taken by the agent. */
  | { readonly verdict: "dns"; readonly port: number }
  | { readonly verdict: "drop"; readonly reason: "spoofed" | "encrypted DNS" | "DNS" | "no route" | "port" };

/**
 * What a plan says of who would begin to talk to whom; undefined if the device is not managed. What the router
 * gives everybody (addresses, discovery) is left out.
 */
export function answerer({ segments, paths }: Isolated): (beginning: Beginning) => Answer | undefined {
  const found = new Map(paths.map((path) => [`${path.device} ${path.source} ${path.standin}`, path]));
  const behind = new Map(segments.flatMap((part) => part.devices.map((device) => [device, part] as const)));
  return ({ device, source, destination, protocol, port }) => {
    const part = behind.get(device);
    if (!part) return undefined;
    const drop = (reason: (Answer & { verdict: "drop" })["reason"]) => ({ verdict: "drop", reason }) as const;
    const family = familyOf(source);
    if (!part.prefixes[family].some((prefix) => contains(prefix, source))) return drop("spoofed");
    const carries = protocol === 6 || protocol === 17;
    if (carries && port === 53) {
      const own = part.dns[`port${family}`];
      return own === undefined ? drop("DNS") : { verdict: "dns", port: own };
    }
    if (carries && port === 853 && part.dropEncryptedDns) return drop("encrypted DNS");
    const path = found.get(`${device} ${source} ${destination}`);
    if (!path) return drop("no route");
    return holdsPort(path.ports, protocol, port) ? { verdict: "pass", path } : drop("port");
  };
}

/** Selects the connections that a plan's rules would not have made, or not that way; for `deleteConnections`. */
export function strays({ segments, pools, paths }: Isolated): (connection: Connection) => boolean {
  const found = new Map<string, Path[]>();
  for (const path of paths) {
    const key = `${path.source} ${path.standin}`;
    const same = found.get(key);
    if (same) same.push(path);
    else found.set(key, [path]);
  }
  const inPool = coverOf(pools);
  const managed = new Nets<true>();
  for (const { prefixes } of segments)
    for (const prefix of [...prefixes[4], ...prefixes[6]]) managed.set(prefix, true);
  return (connection) => {
    const { source, destination, reply, protocol, destinationPort } = connection;
    // Queries are taken by the agent whomever they address.
    if (destinationPort === 53 && (protocol === 6 || protocol === 17))
      return managed.covers(source) && (connection.status & connectionStatus.destinationNat) === 0;
    const ways = found.get(`${source} ${destination}`);
    if (ways) {
      return !ways.some(
        ({ target, sourceStandin, ports }) =>
          reply.source === target &&
          (sourceStandin === undefined || reply.destination === sourceStandin) &&
          holdsPort(ports, protocol, destinationPort),
      );
    }
    if (inPool(destination)) return true;
    return isOffloaded(connection) && (managed.covers(source) || managed.covers(reply.source));
  };
}

/** Tells whether an address lies in any of some nets; of ten thousand that are asked for once each, fast. */
function coverOf(nets: NetsApart): (address: Address) => boolean {
  const four = nets[4].map((prefix) => {
    const [base, length] = prefix.split("/") as [string, string];
    const scale = 2 ** (32 - Number(length));
    return { scale, base: Math.floor(numberOf(base) / scale) };
  });
  const six = nets[6];
  return (address) => {
    if (familyOf(address) === 6) return six.some((prefix) => contains(prefix, address));
    const number = numberOf(address);
    return four.some(({ base, scale }) => Math.floor(number / scale) === base);
  };
}

/** An IPv4 address as a number. */
function numberOf(address: string): number {
  let [number, octet] = [0, 0];
  for (let at = 0; at < address.length; at++) {
    const code = address.charCodeAt(at);
    if (code === 46) [number, octet] = [number * 256 + octet, 0];
    else octet = octet * 10 + code - 48;
  }
  return number * 256 + octet;
}

function checkPort(port: number): void {
  if (!Number.isInteger(port) || port < 1 || port > 0xffff) wrong(`${port} is no port`);
}

/** The last check before text becomes rules: an Address cannot look otherwise. */
function checked(address: Address): Family {
  if (!/^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f:]{2,39})$/.test(address))
    throw new TypeError(`Cannot isolate: ${JSON.stringify(address)} is no address`);
  return familyOf(address);
}

function wrong(state: string): never {
  throw new RangeError(`Cannot isolate: ${state}`);
}
