/**
 * What was seen on the segments: which address has which MAC and which host name, and who says so.
 *
 * Kept by device and address; and by MAC and by host name, which addresses have them. Who gives out addresses or
 * names (DHCP, a resolver) is believed before what neighbours say of themselves, so that nobody takes an address over
 * by answering for it. An access point knows who is there and not by which address: it only repeats what others said.
 * Of a host name the newest claim counts: whoever restarts with another address is followed while its old lease still
 * lives, and saying the same again is no new claim. Bounded by device; past it what nobody gave a name goes first.
 */

import type { Address, Mac } from "../lib/address.ts";

/** Who says that an address is there. Earlier ones are believed before later ones. */
export const witnesses = ["told", "resolver", "dhcp", "neighbour", "hostapd", "query"] as const;

export type Witness = (typeof witnesses)[number];

export interface Evidence {
  readonly device: string;
  readonly address: Address;
  readonly source: Witness;
  readonly mac?: Mac | undefined;
  /** Canonical. */
  readonly hostname?: string | undefined;
}

/** An address on a device, with what is believed of it. */
export interface Sighting {
  readonly device: string;
  readonly address: Address;
  mac: Mac | undefined;
  hostname: string | undefined;
  /** Grows with each new claim of the host name. */
  claim: number;
  readonly words: Map<Witness, { readonly mac: Mac | undefined; readonly hostname: string | undefined }>;
}

/** Those that say nothing that a host could not make them say. */
const weak: ReadonlySet<Witness> = new Set(["hostapd", "neighbour", "query"]);

/** Addresses of one device. */
const maxPerDevice = 4_096;
const maxDevices = 1_024;
/** Stations of one device. */
const maxStations = 4_096;
/** How far to look for one that may go. */
const evictionSteps = 256;

export class Sightings {
  readonly #byDevice = new Map<string, Map<Address, Sighting>>();
  readonly #byMac = new Map<Mac, Set<Sighting>>();
  readonly #byHostname = new Map<string, Set<Sighting>>();
  /** By device: MACs that an access point says are there. */
  readonly #stations = new Map<string, Set<Mac>>();
  readonly #isNeeded: (sighting: Sighting) => boolean;
  #claims = 0;
  #refused = 0;

  /** @param isNeeded whether a service is known by a sighting, so that it has to stay. */
  constructor(isNeeded: (sighting: Sighting) => boolean) {
    this.#isNeeded = isNeeded;
  }

  /** A number later than every claim so far. */
  nextClaim(): number {
    return ++this.#claims;
  }

  /** Evidence that was left out for want of room. */
  get refused(): number {
    return this.#refused;
  }

  get size(): number {
    let size = 0;
    for (const all of this.#byDevice.values()) size += all.size;
    return size;
  }

  get(device: string, address: Address): Sighting | undefined {
    return this.#byDevice.get(device)?.get(address);
  }

  on(device: string): Iterable<Sighting> {
    return this.#byDevice.get(device)?.values() ?? [];
  }

  withMac(mac: Mac): Iterable<Sighting> {
    return this.#byMac.get(mac) ?? [];
  }

  withHostname(hostname: string): Iterable<Sighting> {
    return this.#byHostname.get(hostname) ?? [];
  }

  /** @returns the sighting if it looks different now. */
  see(evidence: Evidence): Sighting | undefined {
    const { device, address, source, mac, hostname } = evidence;
    const sighting = this.get(device, address) ?? this.#make(device, address);
    if (!sighting) return undefined;
    const isNew = sighting.words.size === 0;
    const before = sighting.words.get(source);
    // Another MAC is another host: what was said of the first one by this witness no longer holds.
    const isSame = mac === undefined || before?.mac === undefined || before.mac === mac;
    sighting.words.set(source, {
      mac: mac ?? before?.mac,
      hostname: hostname ?? (isSame ? before?.hostname : undefined),
    });
    const isDifferent = this.#believe(sighting);
    if (sighting.mac !== undefined && this.#stations.get(device)?.has(sighting.mac))
      sighting.words.set("hostapd", { mac: sighting.mac, hostname: undefined });
    return isDifferent || isNew ? sighting : undefined;
  }

  /** A witness takes back what it said, or without one everybody does. @returns what is gone or different now. */
  forget(device: string, address: Address, source?: Witness): Sighting | undefined {
    const sighting = this.get(device, address);
    if (!sighting) return undefined;
    if (source === undefined) sighting.words.clear();
    else if (!sighting.words.delete(source)) return undefined;
    const isDifferent = this.#believe(sighting);
    if (sighting.words.size > 0) return isDifferent ? sighting : undefined;
    this.#drop(sighting);
    return sighting;
  }

  /** A station has come to a device, or has left it. @returns what is gone or different now. */
  station(device: string, mac: Mac, isThere: boolean): Sighting[] {
    const stations = this.#stations.get(device) ?? new Set<Mac>();
    const own = [...this.withMac(mac)].filter((each) => each.device === device);
    if (!isThere) {
      if (!stations.delete(mac)) return [];
      if (stations.size === 0) this.#stations.delete(device);
      return own.flatMap(({ address }) => this.forget(device, address, "hostapd") ?? []);
    }
    if (stations.size >= maxStations) return [];
    this.#stations.set(device, stations.add(mac));
    for (const { words } of own) words.set("hostapd", { mac, hostname: undefined });
    return [];
  }

  /** Nothing is known of a device any more. */
  clear(device: string): void {
    this.#stations.delete(device);
    for (const sighting of [...this.on(device)]) this.#drop(sighting);
  }

  /** Works out what is believed. @returns whether that is something else. */
  #believe(sighting: Sighting): boolean {
    let mac: Mac | undefined;
    let hostname: string | undefined;
    for (const witness of witnesses) {
      const word = sighting.words.get(witness);
      mac ??= word?.mac;
      hostname ??= word?.hostname;
    }
    // What an access point repeated was said of the one before.
    if (mac !== sighting.words.get("hostapd")?.mac) sighting.words.delete("hostapd");
    if (mac === sighting.mac && hostname === sighting.hostname) return false;
    this.#unlink(sighting);
    sighting.claim = this.nextClaim();
    sighting.mac = mac;
    sighting.hostname = hostname;
    if (mac !== undefined) put(this.#byMac, mac, sighting);
    if (hostname !== undefined) put(this.#byHostname, hostname, sighting);
    return true;
  }

  #make(device: string, address: Address): Sighting | undefined {
    const all = this.#byDevice.get(device) ?? new Map<Address, Sighting>();
    if (!this.#byDevice.has(device)) {
      if (this.#byDevice.size >= maxDevices) return this.#refuse();
      this.#byDevice.set(device, all);
    }
    if (all.size >= maxPerDevice && !this.#evict(all)) return this.#refuse();
    const sighting: Sighting = {
      ...{ device, address, mac: undefined, hostname: undefined },
      ...{ claim: 0, words: new Map() },
    };
    all.set(address, sighting);
    return sighting;
  }

  #refuse(): undefined {
    this.#refused++;
    return undefined;
  }

  /** Makes room at the cost of what only its own host speaks of. */
  #evict(all: Map<Address, Sighting>): boolean {
    let steps = 0;
    for (const sighting of all.values()) {
      if (++steps > evictionSteps) return false;
      const isWeak = [...sighting.words.keys()].every((each) => weak.has(each));
      if (!isWeak || this.#isNeeded(sighting)) continue;
      this.#drop(sighting);
      return true;
    }
    return false;
  }

  #drop(sighting: Sighting): void {
    this.#unlink(sighting);
    const all = this.#byDevice.get(sighting.device);
    all?.delete(sighting.address);
    if (all?.size === 0) this.#byDevice.delete(sighting.device);
  }

  #unlink(sighting: Sighting): void {
    if (sighting.mac !== undefined) take(this.#byMac, sighting.mac, sighting);
    if (sighting.hostname !== undefined) take(this.#byHostname, sighting.hostname, sighting);
  }
}

function put<Key>(index: Map<Key, Set<Sighting>>, key: Key, sighting: Sighting): void {
  const all = index.get(key) ?? new Set<Sighting>();
  index.set(key, all.add(sighting));
}

function take<Key>(index: Map<Key, Set<Sighting>>, key: Key, sighting: Sighting): void {
  const all = index.get(key);
  all?.delete(sighting);
  if (all?.size === 0) index.delete(key);
}
