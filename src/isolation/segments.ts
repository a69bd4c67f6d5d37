/**
 * Segments: where services are, and which addresses can be whose.
 *
 * Kept by device: what the kernel says of it, be it of a segment or not; by segment what the configuration says, and
 * the devices that `place` added to those of the configuration. Changed by `linkUp` and `linkDown`, as often as
 * devices come and go. A device is of one segment: of the first that claimed it, as long as it does. An address
 * belongs to a segment only while a device of it is there with a prefix that has it; an address of the router itself is
 * nobody's.
 */

import {
  type Address,
  contains,
  type Family,
  familyOf,
  type Prefix,
  prefixOf,
  scopeOf,
} from "../lib/address.ts";
import { Nets } from "../lib/nets.ts";

export interface SegmentDeclaration {
  readonly name: string;
  readonly devices: readonly string[];
  /** Its bridge ports exchange no frames with each other, so that the router sees every packet. */
  readonly isolate?: boolean;
  /** DNS over TLS and QUIC goes nowhere. Default: it is dropped. */
  readonly encryptedDns?: boolean;
  /** Multicast DNS is relayed between connected services. */
  readonly mdns?: boolean;
}

export interface LinkAddress {
  readonly address: Address;
  readonly prefixLength: number;
}

export interface Link {
  readonly device: string;
  readonly addresses: readonly LinkAddress[];
  /** Of a bridge: its ports. */
  readonly ports?: readonly string[];
}

/** A segment with the devices that it has now. */
export interface Segment extends SegmentDeclaration {
  /** Another list each time that it is another. */
  devices: readonly string[];
}

/** A device that one segment claims and another has. */
export interface Contest {
  readonly device: string;
  readonly segment: string;
  readonly holder: string;
}

interface Present {
  readonly prefixes: readonly Prefix[];
  readonly own: readonly Address[];
  readonly ports: readonly string[];
  readonly text: string;
}

const maxLinks = 4_096;
/** Devices that a segment may be told besides those of the configuration. */
const maxPlaced = 256;

export class Segments {
  readonly all: readonly Segment[];
  readonly #declared: ReadonlyMap<Segment, ReadonlySet<string>>;
  /** Devices that a segment claims, those of the configuration first. */
  readonly #claims = new Map<Segment, readonly string[]>();
  #byDevice: ReadonlyMap<string, Segment> = new Map();
  /** Devices that a segment claims and another has. */
  #contests: readonly Contest[] = [];
  readonly #links = new Map<string, Present>();
  /** Devices by the prefixes that they have. */
  readonly #nets = new Nets<Set<string>>();

  constructor(declarations: readonly SegmentDeclaration[]) {
    this.all = declarations.map((each) => ({ ...each, devices: [] }));
    this.#declared = new Map(declarations.map(({ devices }, at) => [this.all[at]!, new Set(devices)]));
    for (const [segment, devices] of this.#declared) this.#claims.set(segment, [...devices]);
    this.#share();
  }

  get contests(): readonly Contest[] {
    return this.#contests;
  }

  /**
   * These devices are a segment's too, beside those of the configuration; to be said again when they are others.
   *
   * @returns devices that are of a segment, of none or of another one now.
   */
  place(name: string, devices: readonly string[]): readonly string[] {
    const segment = this.named(name);
    if (!segment) return [];
    const all = new Set([...this.#declared.get(segment)!, ...devices.slice(0, maxPlaced)]);
    this.#claims.set(segment, [...all]);
    return this.#share();
  }

  /** Devices that `place` added, by segment. */
  *placed(): Iterable<readonly [string, readonly string[]]> {
    for (const [segment, devices] of this.#claims) {
      const added = devices.filter((each) => !this.#declared.get(segment)!.has(each));
      if (added.length > 0) yield [segment.name, added];
    }
  }

  /** @returns whether anything is new. */
  linkUp({ device, addresses, ports = [] }: Link): boolean {
    const text = JSON.stringify([addresses, ports]);
    if (this.#links.get(device)?.text === text) return false;
    if (this.#links.size >= maxLinks && !this.#links.has(device)) return false;
    const usable = addresses.filter(({ address }) => isUnicast(address));
    const prefixes = usable.map(({ address, prefixLength }) => prefixOf(address, prefixLength));
    const own = usable.map(({ address }) => address);
    this.linkDown(device);
    for (const each of prefixes) this.#nets.set(each, (this.#nets.get(each) ?? new Set()).add(device));
    this.#links.set(device, { prefixes: [...new Set(prefixes)], own, ports, text });
    return true;
  }

  /** @returns whether it was there. */
  linkDown(device: string): boolean {
    for (const prefix of this.prefixes(device)) {
      const devices = this.#nets.get(prefix);
      devices?.delete(device);
      if (devices?.size === 0) this.#nets.delete(prefix);
    }
    return this.#links.delete(device);
  }

  /** The segment that a device is of. */
  of(device: string): Segment | undefined {
    return this.#byDevice.get(device);
  }

  named(name: string): Segment | undefined {
    return this.all.find((each) => each.name === name);
  }

  isUp(device: string): boolean {
    return this.#links.has(device);
  }

  prefixes(device: string): readonly Prefix[] {
    return this.#links.get(device)?.prefixes ?? [];
  }

  ports(device: string): readonly string[] {
    return this.#links.get(device)?.ports ?? [];
  }

  /** The router's own address on a device. */
  own(device: string, family: Family): Address | undefined {
    return this.#links.get(device)?.own.find((each) => familyOf(each) === family);
  }

  /** Prefixes of every device of the machine. */
  *allPrefixes(): Iterable<Prefix> {
    for (const { prefixes } of this.#links.values()) yield* prefixes;
  }

  /** Whether a service may have an address on a device of a segment now. */
  holds(device: string, address: Address): boolean {
    const link = this.#links.get(device);
    if (!link || !this.#byDevice.has(device) || !isUnicast(address) || link.own.includes(address))
      return false;
    return link.prefixes.some((prefix) => contains(prefix, address) && !isEdge(prefix, address));
  }

  /** The device of a segment, or of any, that an address is on. */
  deviceOf(address: Address, segment?: Segment): string | undefined {
    if (segment) return segment.devices.find((device) => this.holds(device, address));
    for (const [, devices] of this.#nets.covering(address).reverse()) {
      for (const device of devices) if (this.holds(device, address)) return device;
    }
    return undefined;
  }

  /** Whether an address is the machine's own, or on one of its networks. */
  isNear(address: Address): boolean {
    return this.#nets.covering(address).some(([prefix]) => !prefix.endsWith("/0"));
  }

  /** Gives every device to one of those who claim it. @returns devices that changed hands. */
  #share(): readonly string[] {
    const before = this.#byDevice;
    const now = new Map<string, Segment>();
    for (const [device, segment] of before) {
      if (this.#claims.get(segment)!.includes(device)) now.set(device, segment);
    }
    const contests: Contest[] = [];
    for (const segment of this.all) {
      for (const device of this.#claims.get(segment)!) {
        const holder = now.get(device) ?? segment;
        if (holder !== segment) contests.push({ device, segment: segment.name, holder: holder.name });
        now.set(device, holder);
      }
    }
    this.#byDevice = now;
    this.#contests = contests;
    const moved = [...new Set([...before.keys(), ...now.keys()])].filter(
      (device) => before.get(device) !== now.get(device),
    );
    if (moved.length === 0) return moved;
    for (const segment of this.all)
      segment.devices = this.#claims.get(segment)!.filter((device) => now.get(device) === segment);
    return moved;
  }
}

/** An address that one host can have and that is routed. */
export function isUnicast(address: Address): boolean {
  const scope = scopeOf(address);
  return scope === "private" || scope === "global";
}

/** Network and broadcast address of an IPv4 prefix are nobody's (but RFC 3021). */
function isEdge(prefix: Prefix, address: Address): boolean {
  const slash = prefix.indexOf("/");
  const length = Number(prefix.slice(slash + 1));
  if (familyOf(address) === 6 || length > 30) return false;
  if (address === prefix.slice(0, slash)) return true;
  const octets = address.split(".").map(Number);
  const value = ((octets[0]! << 24) | (octets[1]! << 16) | (octets[2]! << 8) | octets[3]!) >>> 0;
  const hosts = 2 ** (32 - length) - 1;
  return (value & hosts) >>> 0 === hosts >>> 0;
}
