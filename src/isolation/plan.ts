/**
 * The state of isolation as one plan for the kernel.
 *
 * Keeps what was drawn of each pair, by the pair and the parties it was drawn from: while they are the same objects,
 * so are the routes. A pair whose sides are not both there, or that has no stand-in, gives nothing: what is not known
 * is closed.
 */

import type { Door, Exit, IsolationPlan, Route, Segment } from "../kernel/kernel.ts";
import type { Family, Prefix } from "../lib/address.ts";
import type { Pair } from "./connects.ts";
import { isPattern } from "./name.ts";
import { type Permission, united } from "./permission.ts";
import { type Reach, type ReachParts, targetKey } from "./reach.ts";
import { type Party, placesOf } from "./services.ts";
import { overlap, type StandIn, type StandIns } from "./standins.ts";

export interface PlanOptions {
  /** Where the agent's DNS listens. */
  readonly dns: { readonly port4?: number; readonly port6?: number };
  /** TCP port of the HTTP door, for whoever is privileged. */
  readonly doorPort?: number | undefined;
  readonly reportGroup?: number | undefined;
}

/** What was drawn of a pair, and from what. */
interface Drawn {
  readonly one: End;
  readonly other: End;
  readonly forward: Permission | undefined;
  readonly backward: Permission | undefined;
  readonly routes: readonly Route[];
}

/** A party and under which addresses it is seen. */
interface End {
  readonly party: Party;
  readonly standIn: StandIn;
}

const families: readonly Family[] = [4, 6];

export class Planner {
  readonly #parts: ReachParts & { readonly standIns: StandIns };
  readonly #reach: Reach;
  readonly #options: PlanOptions;
  readonly #drawn = new WeakMap<Pair, Drawn>();
  /** The same as long as party and stand-in are. */
  readonly #ends = new WeakMap<Party, End>();

  constructor(
    parts: ReachParts & { readonly standIns: StandIns; readonly reach: Reach },
    options: PlanOptions,
  ) {
    this.#parts = parts;
    this.#reach = parts.reach;
    this.#options = options;
  }

  plan(now: number): IsolationPlan {
    const { standIns, connects } = this.#parts;
    const clients = new Map(this.#reach.clients(now).map((party) => [party.name, party]));
    const routes: Route[] = [];
    const given = new Map<string, Map<string, Permission>>();
    for (const pair of connects.all()) {
      if (this.#isOutside(pair.one) || this.#isOutside(pair.other)) this.#collect(given, pair);
      else for (const route of this.#drawPair(pair, clients)) routes.push(route);
    }
    this.#drawPrivileged(clients, routes, now);
    const outside = this.#drawOutside(clients, given);
    const { reportGroup } = this.#options;
    return {
      segments: this.#segments(),
      pools: standIns.pools,
      routes,
      outside,
      doors: this.#doors(clients.values(), now),
      guards: this.#guards(),
      ...(reportGroup !== undefined && { report: { group: reportGroup } }),
    };
  }

  #isOutside(name: string): boolean {
    return isPattern(name) || this.#parts.outside.get(name) !== undefined;
  }

  #end(party: Party | undefined): End | undefined {
    const standIn = party && this.#parts.standIns.get(party.name);
    if (!standIn) return undefined;
    const before = this.#ends.get(party);
    if (before?.standIn === standIn) return before;
    const end = { party, standIn };
    this.#ends.set(party, end);
    return end;
  }

  /** Routes of a pair, but those that a privilege gives anyway. */
  #drawPair(pair: Pair, clients: ReadonlyMap<string, Party>): readonly Route[] {
    const { services, privileged } = this.#parts;
    const [one, other] = [this.#end(services.get(pair.one)), this.#end(services.get(pair.other))];
    if (!one || !other) return [];
    const forward = clients.has(pair.one) || privileged.hosts.has(pair.other) ? undefined : pair.forward;
    const backward = clients.has(pair.other) || privileged.hosts.has(pair.one) ? undefined : pair.backward;
    const before = this.#drawn.get(pair);
    const isSame = before?.one === one && before.other === other;
    if (isSame && before.forward === forward && before.backward === backward) return before.routes;
    const routes = [...draw(one, other, forward), ...draw(other, one, backward)];
    this.#drawn.set(pair, { one, other, forward, backward, routes });
    return routes;
  }

  #drawPrivileged(clients: ReadonlyMap<string, Party>, routes: Route[], now: number): void {
    const { services, privileged } = this.#parts;
    if (clients.size === 0 && privileged.hosts.size === 0) return;
    const everybody = [...services.present(), ...this.#reach.guests(now)].flatMap(
      (party) => this.#end(party) ?? [],
    );
    for (const from of everybody) {
      const isClient = clients.has(from.party.name);
      if (!isClient && privileged.hosts.size === 0) continue;
      for (const to of everybody) {
        if (from === to || !(isClient || privileged.hosts.has(to.party.name))) continue;
        routes.push(...draw(from, to, "all"));
      }
    }
  }

  /** Takes note of who was given which name outside, or pattern. */
  #collect(given: Map<string, Map<string, Permission>>, pair: Pair): void {
    const isOther = this.#isOutside(pair.other);
    const [local, name] = isOther ? [pair.one, pair.other] : [pair.other, pair.one];
    const permission = isOther ? pair.forward : pair.backward;
    if (permission === undefined) return;
    for (const known of this.#reach.under(name)) {
      const names = given.get(local) ?? new Map<string, Permission>();
      given.set(local, names.set(known, united(names.get(known), permission)));
    }
  }

  #drawOutside(
    clients: ReadonlyMap<string, Party>,
    given: ReadonlyMap<string, Map<string, Permission>>,
  ): Exit[] {
    const { services, outside } = this.#parts;
    const exits: Exit[] = [];
    for (const [local, names] of given) {
      const party = clients.has(local) ? undefined : services.get(local);
      if (party) for (const [name, permission] of names) this.#exits(exits, { party, name, permission });
    }
    for (const party of clients.values()) {
      for (const { name } of outside.all()) this.#exits(exits, { party, name, permission: "all" });
    }
    return exits;
  }

  #exits(
    exits: Exit[],
    { party, name, permission }: { party: Party; name: string; permission: Permission },
  ): void {
    for (const target of this.#parts.outside.get(name)!.targets.keys()) {
      const standIn = this.#parts.standIns.get(targetKey(name, target));
      if (!standIn) continue;
      const family = target.includes(":") ? 6 : 4;
      for (const { device, address: source } of party.places[family]) {
        exits.push({ device, source, standin: standIn[family], target, ...portsOf(permission) });
      }
    }
  }

  #segments(): Segment[] {
    const { segments, standIns } = this.#parts;
    // A prefix that a pool overlaps is nobody's: what comes from there could be a stand-in.
    const isSound = (prefix: Prefix) => !standIns.pools.some((pool) => overlap(pool, prefix));
    const present = segments.all.filter(({ devices }) => devices.length > 0);
    return present.map(({ name, devices, encryptedDns = false, mdns = false }) => ({
      name,
      devices,
      prefixes: [...new Set(devices.flatMap((device) => segments.prefixes(device)))].filter(isSound),
      dns: this.#options.dns,
      dropEncryptedDns: !encryptedDns,
      mdns,
    }));
  }

  /** While a segment is being brought up, whoever is on it may say who the manager is. */
  #doors(clients: Iterable<Party>, now: number): Door[] {
    const port = this.#options.doorPort;
    if (port === undefined) return [];
    const { privileged, segments } = this.#parts;
    const segment = segments.named(privileged.bootstrapping(now)?.segment ?? "");
    const open = segment?.devices ?? [];
    const own = [...clients].flatMap(placesOf).filter(({ device }) => !open.includes(device));
    return [
      ...open.map((device) => ({ device, port })),
      ...own.map(({ device, address: source }) => ({ device, source, port })),
    ];
  }

  #guards(): IsolationPlan["guards"] {
    const { segments } = this.#parts;
    const bridges = segments.all.filter(({ isolate }) => isolate).flatMap(({ devices }) => devices);
    return {
      isolatedPorts: [...new Set(bridges.flatMap((device) => segments.ports(device)))].sort(),
      proxyArp: bridges.filter((device) => segments.isUp(device)),
    };
  }
}

function draw(from: End, to: End, permission: Permission | undefined): Route[] {
  if (permission === undefined) return [];
  return families.flatMap((family) => {
    const target = to.party.places[family][0];
    if (!target) return [];
    return from.party.places[family].map(({ device, address: source }) => ({
      device,
      source,
      standin: to.standIn[family],
      target: target.address,
      targetDevice: target.device,
      sourceStandin: from.standIn[family],
      ...portsOf(permission),
    }));
  });
}

function portsOf(permission: Permission): { readonly ports?: Exclude<Permission, "all"> } {
  return permission === "all" ? {} : { ports: permission };
}
