/**
 * Who may begin what with whom: pairs, privileged parties and names outside seen as one.
 *
 * Keeps nothing. Every question of plan, names, relay and explanations is answered here, so that what resolves and
 * what passes cannot differ.
 */

import type { Address } from "../lib/address.ts";
import type { Connects } from "./connects.ts";
import { matches, patternsOf } from "./name.ts";
import type { Outside } from "./outside.ts";
import { type Permission, united } from "./permission.ts";
import type { Privileged } from "./privileged.ts";
import type { Segments } from "./segments.ts";
import { type Party, placesOf, type Services } from "./services.ts";

export interface ReachParts {
  readonly segments: Segments;
  readonly services: Services;
  readonly connects: Connects;
  readonly privileged: Privileged;
  readonly outside: Outside;
}

/** Where an address outside is kept among the stand-ins. No name has a space. */
export function targetKey(name: string, address: string): string {
  return `${name} ${address}`;
}

/** Guests at a time. */
const maxGuests = 256;

export class Reach {
  readonly #parts: ReachParts;

  constructor(parts: ReachParts) {
    this.#parts = parts;
  }

  /** Whoever is at an address: a service, or a guest while it is privileged. */
  at(device: string, address: Address, now: number): Party | undefined {
    const { services, segments, privileged } = this.#parts;
    const party = services.at(device, address);
    if (party) return party;
    const isGuest =
      privileged.isClient(address) || segments.of(device)?.name === privileged.bootstrapping(now)?.segment;
    const guest = isGuest ? services.guest(address) : undefined;
    return guest && placesOf(guest)[0]!.device === device ? guest : undefined;
  }

  /** A party by name; a guest by its address. */
  named(name: string, now: number): Party | undefined {
    return this.#parts.services.get(name) ?? this.guests(now).find((each) => each.name === name);
  }

  /** Privileged addresses, and those of the bootstrap, that are no service's. */
  guests(now: number): readonly Party[] {
    const { services, segments, privileged } = this.#parts;
    const guests = new Map<string, Party>();
    const add = (address: Address) => {
      const device = segments.deviceOf(address);
      const isNobodys = device !== undefined && !services.at(device, address);
      const guest = isNobodys && guests.size < maxGuests ? services.guest(address) : undefined;
      if (guest) guests.set(address, guest);
    };
    for (const address of privileged.addresses) add(address);
    const segment = segments.named(privileged.bootstrapping(now)?.segment ?? "");
    if (segment) for (const { address } of services.strangers(segment)) add(address);
    return [...guests.values()];
  }

  /** Whether a party may begin anything with everybody. */
  isClient(party: Party, now: number): boolean {
    const { privileged, segments } = this.#parts;
    if (privileged.isClient(party.name)) return true;
    const bootstrap = privileged.bootstrapping(now)?.segment;
    return placesOf(party).some(
      ({ device, address }) => privileged.isClient(address) || segments.of(device)?.name === bootstrap,
    );
  }

  isHost(name: string): boolean {
    return this.#parts.privileged.hosts.has(name);
  }

  /** What a party may begin with a local one. */
  permission(from: Party, to: string, now: number): Permission | undefined {
    if (from.name === to) return undefined;
    if (this.isHost(to) || this.isClient(from, now)) return "all";
    return this.#parts.connects.permission(from.name, to);
  }

  /** What a party may begin with a name outside: by that name, or by patterns that it is below. */
  outside(from: Party, name: string, now: number): Permission | undefined {
    if (this.isClient(from, now)) return "all";
    const { connects } = this.#parts;
    let permission = connects.permission(from.name, name);
    for (const pattern of patternsOf(name)) {
      const more = connects.permission(from.name, pattern);
      if (more !== undefined) permission = united(permission, more);
    }
    return permission;
  }

  /** Known names outside that an exact name or a pattern stands for. */
  *under(name: string): Iterable<string> {
    const { outside } = this.#parts;
    if (!name.startsWith("*.")) {
      if (outside.get(name)) yield name;
      return;
    }
    for (const known of outside.all()) if (matches(name, known.name)) yield known.name;
  }

  /** Whether anybody was given a name outside, or a pattern that it is below. */
  isGiven(name: string): boolean {
    const { connects } = this.#parts;
    if (connects.has(name)) return true;
    for (const pattern of patternsOf(name)) if (connects.has(pattern)) return true;
    return false;
  }

  /** Keys of all that anybody may see, and that so have stand-ins. */
  seen(now: number, isOutside: (name: string) => boolean): ReadonlySet<string> {
    const { connects, outside, services, privileged } = this.#parts;
    const keys = new Set<string>();
    for (const { one, other } of connects.all()) {
      for (const name of [one, other]) if (!keys.has(name) && !isOutside(name)) keys.add(name);
    }
    for (const { name, targets } of outside.all()) {
      for (const address of targets.keys()) keys.add(targetKey(name, address));
    }
    if (privileged.isEmpty(now)) return keys;
    for (const { name } of [...services.present(), ...this.guests(now)]) keys.add(name);
    for (const name of privileged.clients()) keys.add(name);
    return keys;
  }

  /** Privileged clients that are there. */
  clients(now: number): readonly Party[] {
    const { services, segments, privileged } = this.#parts;
    const clients = new Map<string, Party>();
    const add = (party: Party | undefined) => party && clients.set(party.name, party);
    for (const name of privileged.clients()) add(services.get(name));
    for (const address of privileged.addresses) {
      const device = segments.deviceOf(address);
      if (device !== undefined) add(services.at(device, address));
    }
    if (privileged.bootstrapping(now)) {
      for (const party of services.present()) if (this.isClient(party, now)) add(party);
    }
    for (const guest of this.guests(now)) add(guest);
    return [...clients.values()];
  }
}
