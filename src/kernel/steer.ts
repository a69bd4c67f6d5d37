/**
 * Steering: rules and routes of our own in the kernel's routing policy, made as asked and kept so.
 *
 * Ours are told by their protocol number; others' are read (to find out which tables are in use) and never touched,
 * except in tables that `flush` is asked to empty. `apply` takes all that shall be, sends only the difference, each
 * change acknowledged, new before old; what the kernel refuses is said, and tried again when something changed. What
 * somebody else takes away is put back: the kernel tells of it. It also tells of tables that others begin to use, so
 * that asking for them costs nothing.
 */

import type { Family } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Clock, Sockets } from "../system/system.ts";
import {
  decodeRoute,
  decodeRule,
  encodeFibQuestion,
  encodeRoute,
  encodeRule,
  type FoundRoute,
  type FoundRule,
  fibMessage,
  type SteerRoute,
  type SteerRule,
} from "./fib.ts";
import { Lane } from "./lane.ts";
import {
  errnoOf,
  type Message,
  Netlink,
  type NetlinkCounters,
  newCounters,
  routeProtocol,
} from "./netlink.ts";
import { Rounds } from "./rounds.ts";
import { Subscription } from "./subscription.ts";

/** What shall be: everything, each time. */
export interface SteerPlan {
  readonly rules: readonly SteerRule[];
  readonly routes: readonly SteerRoute[];
}

/** A rule or route that the kernel did not take. */
export interface Refusal {
  readonly what: SteerRule | SteerRoute;
  readonly fault: Fault;
}

/** A table of one family: the two families' tables of one number have nothing to do with each other. */
export interface FamilyTable {
  readonly family: Family;
  readonly table: number;
}

/** Numbers of tables. */
export type TablesInUse = Readonly<Record<Family, ReadonlySet<number>>>;

export interface SteeringOptions {
  /** FRA_PROTOCOL and RTA_PROTOCOL of what is ours. */
  readonly protocol: number;
  /** Something of ours was changed by somebody else and put back, a few words each. */
  onRepair?(what: readonly string[]): void;
  onFault?(fault: Fault): void;
}

/** NLM_F_CREATE and NLM_F_EXCL. A deletion must have neither: EXCL means "bulk" there since Linux 5.19. */
const create = 0x400 | 0x200;
/** RTNLGRP_IPV4_ROUTE, _IPV4_RULE, _IPV6_ROUTE, _IPV6_RULE. */
const groups = [7, 8, 11, 19];
/** What changes unheard: nothing that we know of. */
const periodMs = 300_000;
const errno = { noEntry: 2, noSuchProcess: 3, exists: 17 } as const;

/** Tables that others have left are taken for used so long, if it would cost a look to learn better. */
const lookAgainMs = 10_000;

interface InUse {
  readonly tables: Record<Family, Set<number>>;
  readonly looked: Promise<void>;
  readonly at: number;
  /** Somebody removed something since. */
  shrunk: boolean;
}

type Present = { readonly rules: FoundRule[]; readonly routes: FoundRoute[] };

/** Starts watching; what is ours from an earlier life stays until the first `apply`. @throws Fault "kernel", "denied" */
export function openSteering(system: Sockets & Clock, options: SteeringOptions): Steering {
  return new Steering(system, options);
}

export class Steering {
  readonly counters: NetlinkCounters = newCounters();
  readonly #options: SteeringOptions;
  readonly #netlink: Netlink;
  readonly #events: Subscription;
  readonly #lane: Lane<SteerPlan>;
  readonly #rounds: Rounds;
  readonly #clock: Clock;
  #wanted: SteerPlan | undefined;
  /** What the kernel has of ours, as far as we know; undefined: it has to be read. */
  #inForce: SteerPlan | undefined;
  /** Of the last plan that was applied. */
  #refused: readonly Refusal[] = [];
  #inUse: InUse | undefined;
  #closed = false;

  /** Use `openSteering`. */
  constructor(system: Sockets & Clock, options: SteeringOptions) {
    this.#options = options;
    this.#clock = system;
    this.#netlink = new Netlink(system, { protocol: routeProtocol, counters: this.counters });
    this.#lane = new Lane((plan) => this.#enforce(plan));
    this.#rounds = new Rounds(system, () => this.#verify(), {
      periodMs,
      onFault: (thrown) => this.#report(thrown),
    });
    this.#events = new Subscription(
      system,
      { protocol: routeProtocol, groups, counters: this.counters },
      {
        onEvent: (message) => this.#onEvent(message),
        onGap: () => {
          this.#inUse = undefined;
          this.#inForce = undefined;
          this.#rounds.soon();
        },
        onFault: (fault) => this.#report(fault),
      },
    );
    // The first round has nothing to verify, and sets the period.
    void this.#rounds.start();
  }

  /**
   * Makes a plan true.
   *
   * @returns what the kernel refused; all else is made, and this is tried again when something changes.
   * @throws Fault "kernel" if rules cannot be read or removed.
   */
  async apply(plan: SteerPlan): Promise<readonly Refusal[]> {
    await this.#lane.push(plan);
    return this.#refused;
  }

  /** Tables that rules or routes of anybody but us speak of. @throws Fault */
  async tables(): Promise<TablesInUse> {
    const known = this.#inUse;
    const isOld = known?.shrunk && this.#clock.now() - known.at > lookAgainMs;
    const inUse = known && !isOld ? known : this.#look();
    this.#inUse = inUse;
    try {
      await inUse.looked;
    } catch (thrown) {
      if (this.#inUse === inUse) this.#inUse = undefined;
      throw thrown;
    }
    return inUse.tables;
  }

  /** Removes everything that is in these tables or leads to them, whoever made it. @throws Fault */
  async flush(tables: readonly FamilyTable[]): Promise<void> {
    const keys = new Set(tables.map(({ family, table }) => `${family} ${table}`));
    await this.#lane.between(async () => {
      const { rules, routes } = await this.#read();
      const isMeant = ({ family, table }: FamilyTable) => keys.has(`${family} ${table}`);
      for (const each of rules) if (isMeant(each)) await this.#delete(each, "rule");
      for (const each of routes) if (isMeant(each)) await this.#delete(each, "route");
    });
    for (const { family, table } of tables) this.#inUse?.tables[family].delete(table);
  }

  /** Ends watching. Rules and routes stay. */
  close(): void {
    this.#closed = true;
    this.#rounds.close();
    this.#events.close();
    this.#netlink.close();
  }

  #onEvent(message: Message): void {
    const { type } = message;
    const isRemoval = type === fibMessage.deleteRule || type === fibMessage.deleteRoute;
    // A new route may be the way to a gateway that was refused.
    if (isRemoval || this.#refused.length > 0) this.#rounds.soon();
    if (!this.#inUse) return;
    if (isRemoval) this.#inUse.shrunk = true;
    else if (type === fibMessage.newRule) this.#note(decodeRule(message), this.#inUse);
    else if (type === fibMessage.newRoute) this.#note(decodeRoute(message), this.#inUse);
  }

  #look(): InUse {
    const tables = { 4: new Set<number>(), 6: new Set<number>() };
    const looked = this.#read().then(({ rules, routes }) => {
      for (const each of [...rules, ...routes]) this.#note(each, inUse);
    });
    const inUse: InUse = { tables, looked, at: this.#clock.now(), shrunk: false };
    return inUse;
  }

  #note(found: FoundRule | FoundRoute | undefined, { tables }: InUse): void {
    if (!found || found.protocol === this.#options.protocol || found.table === 0) return;
    tables[found.family].add(found.table);
  }

  async #enforce(plan: SteerPlan): Promise<void> {
    this.#wanted = plan;
    const before = this.#inForce;
    // What somebody has removed since is put back by the next round, which reads.
    await this.#reconcile(plan, before && without(before, plan), before && without(plan, before));
  }

  async #verify(): Promise<void> {
    if (!this.#wanted || this.#closed) return;
    const repaired = await this.#lane.between(() => this.#reconcile(this.#wanted!));
    if (repaired.length > 0) this.#options.onRepair?.(repaired);
  }

  /**
   * @param known what is there of ours; undefined: look.
   * @param wanted what shall be there of what is known.
   * @returns what was made or removed, a few words each; what was refused is in `#refused`.
   */
  async #reconcile(plan: SteerPlan, known?: SteerPlan, wanted: SteerPlan = plan): Promise<string[]> {
    const { protocol } = this.#options;
    this.#inForce = undefined;
    const { rules, routes } = known ? presentOf(known, protocol) : await this.#read();
    const done: string[] = [];
    const refused: Refusal[] = [];
    const make = async (what: SteerRule | SteerRoute, text: string, call: () => Promise<void>) => {
      try {
        await call();
        done.push(text);
      } catch (thrown) {
        if (!(thrown instanceof Fault) || thrown.code === "closed") throw thrown;
        refused.push({ what, fault: thrown });
      }
    };
    const remove = async (found: FoundRule | FoundRoute, what: "rule" | "route") => {
      await this.#delete(found, what);
      done.push(`a ${what} too many`);
    };
    // Routes before the rules that lead to them, and the other way round when they go.
    const [missingRoutes, extraRoutes] = compare(
      wanted.routes,
      routes,
      protocol,
      routeKey,
      (each) => each.route,
    );
    const [missingRules, extraRules] = compare(wanted.rules, rules, protocol, ruleKey, (each) => each.rule);
    // A gateway is only taken if a route over the link leads to it.
    missingRoutes.sort((one, other) => Number(one.via !== undefined) - Number(other.via !== undefined));
    for (const route of missingRoutes) {
      await make(route, `route ${routeKey(route)}`, () =>
        this.#make(fibMessage.newRoute, encodeRoute(route, protocol)),
      );
    }
    for (const rule of missingRules) {
      await make(rule, `rule ${ruleKey(rule)}`, () =>
        this.#make(fibMessage.newRule, encodeRule(rule, protocol)),
      );
    }
    for (const rule of extraRules) await remove(rule, "rule");
    for (const route of extraRoutes) await remove(route, "route");
    this.#refused = refused;
    if (refused.length === 0) this.#inForce = plan;
    return done;
  }

  async #make(type: number, payload: Uint8Array): Promise<void> {
    try {
      await this.#netlink.request({ type, flags: create, payload, verb: "steer" });
    } catch (thrown) {
      if (errnoOf(thrown) !== errno.exists) throw thrown;
    }
  }

  async #delete(found: FoundRule | FoundRoute, what: "rule" | "route"): Promise<void> {
    const type = what === "rule" ? fibMessage.deleteRule : fibMessage.deleteRoute;
    try {
      await this.#netlink.request({ type, payload: found.message, verb: `remove a ${what}` });
    } catch (thrown) {
      // Gone with its interface meanwhile.
      const number = errnoOf(thrown);
      if (number !== errno.noEntry && number !== errno.noSuchProcess) throw thrown;
    }
  }

  async #read(): Promise<Present> {
    const present: Present = { rules: [], routes: [] };
    for (const family of [4, 6] as const) {
      const [rules, routes]: [FoundRule[], FoundRoute[]] = [[], []];
      const payload = encodeFibQuestion(family);
      await this.#netlink.dump(
        { type: fibMessage.getRule, payload, verb: "read rules" },
        {
          onMessage: (message) => {
            const rule = decodeRule(message);
            if (rule) rules.push(rule);
          },
          onRestart: () => void rules.splice(0),
        },
      );
      await this.#netlink.dump(
        { type: fibMessage.getRoute, payload, verb: "read routes" },
        {
          onMessage: (message) => {
            const route = decodeRoute(message);
            if (route) routes.push(route);
          },
          onRestart: () => void routes.splice(0),
        },
      );
      present.rules.push(...rules);
      present.routes.push(...routes);
    }
    return present;
  }

  #report(thrown: unknown): void {
    if (this.#closed) return;
    this.#options.onFault?.(
      thrown instanceof Fault ? thrown : new Fault("kernel", "Cannot steer", { cause: thrown }),
    );
  }
}

/** A plan without what another has as the very same objects. */
function without(plan: SteerPlan, other: SteerPlan): SteerPlan {
  const [rules, routes] = [new Set(other.rules), new Set(other.routes)];
  return {
    rules: plan.rules.filter((rule) => !rules.has(rule)),
    routes: plan.routes.filter((route) => !routes.has(route)),
  };
}

/** What the kernel would show of a plan that is in force. */
function presentOf({ rules, routes }: SteerPlan, protocol: number): Present {
  return {
    rules: rules.map((rule) => ({
      ...{ rule, family: rule.family, priority: rule.priority, table: rule.table, protocol },
      get message() {
        return encodeRule(rule, protocol);
      },
    })),
    routes: routes.map((route) => ({
      ...{ route, family: route.family, table: route.table, protocol },
      get message() {
        return encodeRoute(route, protocol);
      },
    })),
  };
}

/** What is wanted and not there, and what is ours and not wanted; of equal ones that are there twice, one is. */
function compare<Wanted, Found extends { readonly protocol: number }>(
  wanted: readonly Wanted[],
  found: readonly Found[],
  protocol: number,
  keyOf: (each: Wanted) => string,
  meaning: (each: Found) => Wanted | undefined,
): [missing: Wanted[], extra: Found[]] {
  const missing = new Map(wanted.map((each) => [keyOf(each), each]));
  const extra: Found[] = [];
  for (const each of found) {
    if (each.protocol !== protocol) continue;
    const meant = meaning(each);
    if (meant === undefined || !missing.delete(keyOf(meant))) extra.push(each);
  }
  return [[...missing.values()], extra];
}

function ruleKey({ family, priority, from, to, incoming, table }: SteerRule): string {
  return `${family} ${priority} from ${from ?? "all"} to ${to ?? "all"} iif ${incoming ?? "any"} lookup ${table}`;
}

function routeKey({ family, table, to, via, ifindex, source, metric }: SteerRoute): string {
  // IPv6 has no route without metric: 1024 is its way to say none.
  const cost = metric ?? (family === 6 ? 1024 : 0);
  return `${family} ${to} via ${via ?? "link"} dev ${ifindex} src ${source ?? "any"} metric ${cost} table ${table}`;
}
