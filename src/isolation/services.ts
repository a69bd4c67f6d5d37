/**
 * Services: which name has which addresses, on which device, now.
 *
 * Declared ones are known by address, MAC or host name, on their segment only; every other local name is whoever a
 * host name or a resolver says, on the first segment that it was found on while anybody is connected to it. Kept by
 * name: the party, a new object each time anything of it changed; by device and address: whose it is, one service
 * alone. What is told of an address counts only while it is on its segment, whoever tells it: an answer from
 * elsewhere never makes a service. Guests are addresses without a name, for privileged parties.
 */

import { type Address, type Family, familyOf, type Mac, scopeOf } from "../lib/address.ts";
import type { Segment, Segments } from "./segments.ts";
import { type Evidence, type Sighting, Sightings, type Witness } from "./sightings.ts";

export interface ServiceDeclaration {
  /** Canonical, as `canonicalName` gives it. */
  readonly name: string;
  /** Of a segment. */
  readonly segment: string;
  readonly addresses?: readonly Address[];
  readonly mac?: Mac | undefined;
  readonly hostname?: string | undefined;
  /** Other names that it is connected and resolved by. */
  readonly aliases?: readonly string[];
}

export interface Place {
  readonly device: string;
  readonly address: Address;
}

/** Somebody on a segment. Immutable: whoever keeps something of it compares the object. */
export interface Party {
  /** Canonical; of a guest its address. */
  readonly name: string;
  readonly isGuest: boolean;
  /** Best first: others reach it by the first, and it may come from any. */
  readonly places: Readonly<Record<Family, readonly Place[]>>;
}

export interface ServicesOptions {
  readonly segments: Segments;
  readonly declarations: readonly ServiceDeclaration[];
  /** Names that are nobody's to take. */
  readonly reserved: ReadonlySet<string>;
  /** Whether a name that nobody declares may be a service's. */
  isLearnable(name: string): boolean;
  isStandIn(address: Address): boolean;
  /** Whether anybody is connected to a name, so that what is known of it stays. */
  isNeeded(name: string): boolean;
}

/** Addresses that a party has of one family. */
const maxPlaces = 8;

export class Services {
  readonly #options: ServicesOptions;
  readonly #segments: Segments;
  readonly #sightings: Sightings;
  readonly #declared = new Map<string, ServiceDeclaration>();
  readonly #aliases = new Map<string, string>();
  readonly #byAddress = new Map<Address, string>();
  readonly #byMac = new Map<Mac, string>();
  readonly #byHostname = new Map<string, string>();
  /** Name that nobody declares → the segment it is on. */
  readonly #homes = new Map<string, string>();
  /** Name → where somebody said that it is now, and when that was, as claims are counted. */
  readonly #told = new Map<string, { readonly address: Address; readonly claim: number }>();
  readonly #toldAt = new Map<Address, string>();
  readonly #parties = new Map<string, Party>();
  /** An address is one party's, whatever device it is on: in the kernel a source is one. */
  readonly #owners = new Map<Address, string>();
  #changed = new Set<string>();

  constructor(options: ServicesOptions) {
    this.#options = options;
    this.#segments = options.segments;
    this.#sightings = new Sightings(({ mac }) => mac !== undefined && this.#byMac.has(mac));
    for (const service of options.declarations) {
      const { name, addresses = [], mac, hostname, aliases = [] } = service;
      this.#declared.set(name, service);
      for (const address of addresses) this.#byAddress.set(address, name);
      if (mac !== undefined) this.#byMac.set(mac, name);
      if (hostname !== undefined) this.#byHostname.set(hostname, name);
      for (const alias of aliases) this.#aliases.set(alias, name);
    }
  }

  get refusedEvidence(): number {
    return this.#sightings.refused;
  }

  /** Names that changed since the last call. */
  takeChanged(): ReadonlySet<string> {
    const changed = this.#changed;
    this.#changed = new Set();
    return changed;
  }

  get declarations(): readonly ServiceDeclaration[] {
    return this.#options.declarations;
  }

  isDeclared(name: string): boolean {
    return this.#declared.has(name);
  }

  declaration(name: string): ServiceDeclaration | undefined {
    return this.#declared.get(name);
  }

  /** The name that an alias stands for, or the name itself. */
  nameOf(name: string): string {
    return this.#declared.has(name) ? name : (this.#aliases.get(name) ?? name);
  }

  get(name: string): Party | undefined {
    return this.#parties.get(name);
  }

  present(): Iterable<Party> {
    return this.#parties.values();
  }

  /** Whose an address is. */
  at(device: string, address: Address): Party | undefined {
    const name = this.#owners.get(address);
    if (name !== undefined) return this.#isAt(name, device, address) ? this.#parties.get(name) : undefined;
    // Hosts ask by their link-local address too; they are who has the same MAC.
    if (scopeOf(address) !== "link") return undefined;
    const mac = this.#sightings.get(device, address)?.mac;
    if (mac === undefined) return undefined;
    for (const other of this.#sightings.withMac(mac)) {
      const owner = other.device === device ? this.#owners.get(other.address) : undefined;
      if (owner !== undefined && this.#isAt(owner, device, other.address)) return this.#parties.get(owner);
    }
    return undefined;
  }

  /** Addresses on the devices of a segment that are nobody's. */
  *strangers(segment: Segment): Iterable<Place> {
    for (const device of segment.devices) {
      for (const { address } of this.#sightings.on(device)) {
        if (!this.#owners.has(address) && this.#isUsable(device, address)) yield { device, address };
      }
    }
  }

  /** An address without a name, if it is on a segment. One that a service has, on whatever device, is nobody else's. */
  guest(address: Address): Party | undefined {
    if (this.#owners.has(address)) return undefined;
    const device = this.#segments.deviceOf(address);
    if (device === undefined || !this.#isUsable(device, address)) return undefined;
    const places = [{ device, address }];
    const family = familyOf(address);
    return {
      name: address,
      isGuest: true,
      places: { 4: family === 4 ? places : [], 6: family === 6 ? places : [] },
    };
  }

  /** Segments of names that nobody declares, for the disk. */
  get homes(): ReadonlyMap<string, string> {
    return this.#homes;
  }

  restoreHome(name: string, segment: string): void {
    if (!this.#declared.has(name) && this.#segments.named(segment)) this.#homes.set(name, segment);
  }

  // Evidence.

  /** Somebody says that an address is there. Evidence of devices of no segment is not kept. */
  see(evidence: Evidence): void {
    if (!this.#segments.of(evidence.device)) return;
    const before = this.#sightings.get(evidence.device, evidence.address);
    const was = before && { mac: before.mac, hostname: before.hostname };
    const sighting = this.#sightings.see(evidence);
    if (sighting) this.#review([was, sighting]);
  }

  /** A witness, or every one, takes back that an address is there. */
  forget(device: string, address: Address, source?: Witness): void {
    const before = this.#sightings.get(device, address);
    const was = before && { mac: before.mac, hostname: before.hostname };
    const sighting = this.#sightings.forget(device, address, source);
    if (sighting) this.#review([was, sighting]);
  }

  /** A station has come to a device, or has left it. */
  station({ device, mac, isThere }: { device: string; mac: Mac; isThere: boolean }): void {
    if (!this.#segments.of(device)) return;
    const gone = this.#sightings.station(device, mac, isThere);
    this.#review(gone.map(({ hostname }) => ({ mac, hostname })));
  }

  /** Addresses that were seen with a MAC, wherever that was. */
  addressesOf(mac: Mac): Address[] {
    return [...new Set([...this.#sightings.withMac(mac)].map(({ address }) => address))];
  }

  /** A device came, went or has other addresses. */
  relink(device: string): void {
    const segment = this.#segments.of(device);
    if (!segment) return;
    const names = new Set<string>(this.#told.keys());
    for (const { name, segment: home } of this.declarations) if (home === segment.name) names.add(name);
    for (const { address, hostname } of this.#sightings.on(device)) {
      const owner = this.#owners.get(address);
      if (owner !== undefined) names.add(owner);
      if (hostname !== undefined) this.#addName(names, hostname);
    }
    for (const name of names) this.#refresh(name);
  }

  /** Devices are of another segment now, or of none: what was seen there is told anew. */
  move(devices: readonly string[]): void {
    for (const device of devices) this.#sightings.clear(device);
    // It happens so rarely that everybody may be looked for again.
    for (const name of new Set([...this.#declared.keys(), ...this.#parties.keys()])) this.#refresh(name);
  }

  /** Whether anything was ever seen at an address and not forgotten. */
  isSeen(device: string, address: Address): boolean {
    return this.#sightings.get(device, address) !== undefined;
  }

  /** Somebody who must know says where a service is now, and that it is no more where it was. @returns the undoing */
  tell(name: string, address: Address): () => void {
    const before = this.#told.get(name);
    this.#setTold(name, { address, claim: this.#sightings.nextClaim() });
    return () => this.#setTold(name, before);
  }

  /** Nobody is connected to a name any more: unless it is declared, where it was does not bind it. @returns the undoing */
  release(name: string): () => void {
    if (this.#declared.has(name)) return () => {};
    const [home, told] = [this.#homes.get(name), this.#told.get(name)];
    if (this.#parties.has(name) && told === undefined) return () => {};
    this.#homes.delete(name);
    this.#setTold(name, undefined);
    return () => {
      if (home !== undefined) this.#homes.set(name, home);
      this.#setTold(name, told);
    };
  }

  // Whose is what.

  #setTold(name: string, told: { readonly address: Address; readonly claim: number } | undefined): void {
    const before = this.#told.get(name);
    if (before && this.#toldAt.get(before.address) === name) this.#toldAt.delete(before.address);
    let displaced: string | undefined;
    if (told) {
      displaced = this.#toldAt.get(told.address);
      if (displaced !== undefined && displaced !== name) this.#told.delete(displaced);
      this.#told.set(name, told);
      this.#toldAt.set(told.address, name);
    } else {
      this.#told.delete(name);
    }
    const holder = told && this.#owners.get(told.address);
    for (const each of new Set([holder, displaced, name])) if (each !== undefined) this.#refresh(each);
  }

  /** Services whose addresses may be others after what changed. */
  #review(changed: readonly ({ mac: Mac | undefined; hostname: string | undefined } | undefined)[]): void {
    const names = new Set<string>();
    for (const each of changed) {
      if (each?.hostname !== undefined) this.#addName(names, each.hostname);
      if (each?.mac === undefined) continue;
      const known = this.#byMac.get(each.mac);
      if (known !== undefined) names.add(known);
      for (const { hostname } of this.#sightings.withMac(each.mac)) {
        if (hostname !== undefined) this.#addName(names, hostname);
      }
    }
    for (const name of names) this.#refresh(name);
  }

  #addName(names: Set<string>, hostname: string): void {
    const name = this.#nameFor(hostname);
    if (name !== undefined) names.add(name);
  }

  /** The service that a host name speaks for. */
  #nameFor(hostname: string): string | undefined {
    const known = this.#byHostname.get(hostname);
    if (known !== undefined) return known;
    const isTaken =
      this.#declared.has(hostname) || this.#aliases.has(hostname) || this.#options.reserved.has(hostname);
    return isTaken || !this.#options.isLearnable(hostname) ? undefined : hostname;
  }

  /** Works out where a service is, and takes note if that is new. */
  #refresh(name: string): void {
    const before = this.#parties.get(name);
    for (const { address } of placesOf(before)) {
      if (this.#owners.get(address) === name) this.#owners.delete(address);
    }
    const found = this.#places(name);
    const places = {
      4: found.filter(isFamily(4)).slice(0, maxPlaces),
      6: found.filter(isFamily(6)).slice(0, maxPlaces),
    };
    for (const { address } of [...places[4], ...places[6]]) this.#owners.set(address, name);
    if (samePlaces(before?.places[4], places[4]) && samePlaces(before?.places[6], places[6])) return;
    this.#changed.add(name);
    if (found.length > 0) {
      this.#parties.set(name, { name, isGuest: false, places });
      const home = this.#segments.of(found[0]!.device)!.name;
      if (!this.#declared.has(name)) this.#homes.set(name, home);
    } else {
      this.#parties.delete(name);
      if (!this.#options.isNeeded(name)) this.#homes.delete(name);
    }
    // An address that was this one's may be what another is known by.
    for (const { device, address } of placesOf(before)) {
      if (this.#owners.has(address)) continue;
      const next = this.#claimant(device, address);
      if (next !== undefined && next !== name) this.#refresh(next);
    }
  }

  #places(name: string): Place[] {
    const declared = this.#declared.get(name);
    const home = this.#segments.named(declared?.segment ?? this.#homes.get(name) ?? "");
    const seen = this.#seenOf(declared ?? { hostname: name }, home);
    const told = this.#stillTold(name, seen);
    const places = new Map<Address, Place>();
    const add = (device: string | undefined, address: Address) => {
      if (device === undefined || (home && !home.devices.includes(device))) return;
      if (!this.#isUsable(device, address) || !this.#mayTake(name, { device, address })) return;
      if (!places.has(address)) places.set(address, { device, address });
    };
    if (told) add(this.#segments.deviceOf(told.address, home), told.address);
    // Who is told to be elsewhere is no more where it was.
    const isLeft = (address: Address) => told !== undefined && familyOf(told.address) === familyOf(address);
    for (const address of declared?.addresses ?? []) {
      if (!isLeft(address)) add(this.#segments.deviceOf(address, home), address);
    }
    for (const { device, address } of seen) if (!isLeft(address)) add(device, address);
    return [...places.values()];
  }

  /** Where somebody said that a service is, until it is seen elsewhere later. */
  #stillTold(name: string, seen: readonly Sighting[]): { readonly address: Address } | undefined {
    const told = this.#told.get(name);
    const isFollowed =
      told &&
      seen.some((each) => familyOf(each.address) === familyOf(told.address) && each.claim > told.claim);
    if (!isFollowed) return told;
    this.#told.delete(name);
    if (this.#toldAt.get(told.address) === name) this.#toldAt.delete(told.address);
    return undefined;
  }

  /** What was seen of a service by its MAC or host name, best first. */
  #seenOf(
    { mac, hostname }: { readonly mac?: Mac | undefined; readonly hostname?: string | undefined },
    home: Segment | undefined,
  ): Sighting[] {
    const isHere = (each: Sighting) =>
      (!home || home.devices.includes(each.device)) && this.#isUsable(each.device, each.address);
    const found = mac === undefined ? [] : [...this.#sightings.withMac(mac)].filter(isHere).sort(newestFirst);
    const named = hostname === undefined ? [] : [...this.#sightings.withHostname(hostname)].filter(isHere);
    return [...found, ...this.#claimed(named.sort(newestFirst))];
  }

  /** Of those who have a host name whoever claimed it last, in each family, and what has the same MAC. */
  #claimed(claims: readonly Sighting[]): Sighting[] {
    if (claims.length === 0) return [];
    // All of a name are on one segment: that of the first who was found.
    const { devices } = this.#segments.of(oldest(claims).device)!;
    const found = new Set<Sighting>();
    for (const family of [4, 6] as const) {
      const newest = claims.find(
        (each) => familyOf(each.address) === family && devices.includes(each.device),
      );
      if (!newest) continue;
      found.add(newest);
      if (newest.mac === undefined) continue;
      for (const other of this.#sightings.withMac(newest.mac)) {
        const isSame = other.hostname === undefined || other.hostname === newest.hostname;
        if (isSame && other.device === newest.device) found.add(other);
      }
    }
    return [...found];
  }

  /** Who has the best claim to an address. */
  #claimant(device: string, address: Address): string | undefined {
    const segment = this.#segments.of(device)?.name;
    const isHere = (name: string) =>
      (this.#declared.get(name)?.segment ?? this.#homes.get(name) ?? segment) === segment;
    const told = this.#toldAt.get(address);
    if (told !== undefined && isHere(told)) return told;
    const fixed = this.#byAddress.get(address);
    if (fixed !== undefined && isHere(fixed)) {
      const moved = this.#told.get(fixed);
      if (!moved || familyOf(moved.address) !== familyOf(address)) return fixed;
    }
    const sighting = this.#sightings.get(device, address);
    const known = sighting?.mac === undefined ? undefined : this.#byMac.get(sighting.mac);
    if (known !== undefined && isHere(known)) return known;
    return sighting?.hostname === undefined ? undefined : this.#nameFor(sighting.hostname);
  }

  /** Whether an address is nobody's, or may be taken from whoever has it: then it is. */
  #mayTake(name: string, { device, address }: Place): boolean {
    const owner = this.#owners.get(address);
    if (owner === undefined || owner === name) return true;
    if (this.#claimant(device, address) !== name) return false;
    // What somebody has elsewhere is taken by no mere sighting.
    const isSaid = this.#toldAt.get(address) === name || this.#byAddress.get(address) === name;
    if (!isSaid && !this.#isAt(owner, device, address)) return false;
    this.#yield(owner, address);
    return true;
  }

  #yield(owner: string, address: Address): void {
    this.#owners.delete(address);
    const party = this.#parties.get(owner);
    if (!party) return;
    const left = (family: Family) => party.places[family].filter((each) => each.address !== address);
    const places = { 4: left(4), 6: left(6) };
    this.#changed.add(owner);
    if (places[4].length + places[6].length > 0) this.#parties.set(owner, { ...party, places });
    else this.#parties.delete(owner);
  }

  #isAt(name: string, device: string, address: Address): boolean {
    return placesOf(this.#parties.get(name)).some(
      (place) => place.address === address && place.device === device,
    );
  }

  #isUsable(device: string, address: Address): boolean {
    return this.#segments.holds(device, address) && !this.#options.isStandIn(address);
  }
}

export function placesOf(party: Party | undefined): readonly Place[] {
  return party ? [...party.places[4], ...party.places[6]] : [];
}

const isFamily = (family: Family) => (place: Place) => familyOf(place.address) === family;

const newestFirst = (one: Sighting, other: Sighting) => other.claim - one.claim;

function oldest(claims: readonly Sighting[]): Sighting {
  return claims.reduce((first, each) => (each.claim < first.claim ? each : first));
}

function samePlaces(left: readonly Place[] | undefined, right: readonly Place[]): boolean {
  if ((left?.length ?? 0) !== right.length) return false;
  return right.every(
    (place, at) => left![at]!.device === place.device && left![at]!.address === place.address,
  );
}
