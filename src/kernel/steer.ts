/**
 * Steering: rules and routes of our own in the kernel's routing policy, made as asked and kept so.
 *
 * Ours are told by their protocol number; others' are read (to find out which tables are in use) and never touched,
 * except in tables that `flush` is asked to empty. Kept, by what each means: all that shall be, and what of it the
 * kernel refused. `apply` takes everything, `amend` only what changes, so that its cost does not grow with what is
 * there; each change is acknowledged, many share a system call, new goes before old. What is refused is said, and
 * tried again when something changed. What somebody else takes away is put back: the kernel tells of it. It also
 * tells of tables that others begin to use, so that asking for them costs nothing.
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
  type Question,
  routeProtocol,
} from "./netlink.ts";
import { Rounds } from "./rounds.ts";
import { Subscription } from "./subscription.ts";

/** Rules and routes; of equal ones one is made. */
export interface SteerPlan {
  readonly rules: readonly SteerRule[];
  readonly routes: readonly SteerRoute[];
}

/** What is no longer wanted, and what is from now on. */
export interface SteerChange {
  readonly drop: SteerPlan;
  readonly add: SteerPlan;
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

type Kind = "rule" | "route";

/** What is wanted, by what it means. */
interface Wanted {
  readonly rule: Map<string, SteerRule>;
  readonly route: Map<string, SteerRoute>;
}

interface Present {
  readonly rule: FoundRule[];
  readonly route: FoundRoute[];
}

/** What is to be done: things by what they mean, and messages that delete. */
interface Work {
  readonly make: Wanted;
  readonly remove: { readonly [kind in Kind]: readonly Uint8Array[] };
}

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
  /** Undefined: nobody has said, and what an earlier life left stays. */
  #wanted: Wanted | undefined;
  /** The kernel has what is wanted, but for what it refused. */
  #isKnown = false;
  #refused = new Map<string, Refusal>();
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
          this.#isKnown = false;
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
    return [...this.#refused.values()];
  }

  /**
   * Makes a change of the last plan true; at a cost that does not depend on the plan.
   *
   * @returns and throws as `apply`. After a fault the next one makes up for it.
   */
  async amend({ drop, add }: SteerChange): Promise<readonly Refusal[]> {
    await this.#lane.between(async () => {
      const wanted = this.#wanted ?? wantedOf({ rules: [], routes: [] });
      this.#wanted = wanted;
      const [gone, come] = [wantedOf(drop), wantedOf(add)];
      for (const kind of ["rule", "route"] as const) {
        for (const key of gone[kind].keys()) wanted[kind].delete(key);
      }
      for (const [key, rule] of come.rule) wanted.rule.set(key, rule);
      for (const [key, route] of come.route) wanted.route.set(key, route);
      if (this.#isKnown) await this.#carryOut(this.#differenceOf(gone, come));
      else await this.#reconcile(wanted);
    });
    return [...this.#refused.values()];
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
      const { rule, route } = await this.#read();
      const isMeant = ({ family, table }: FamilyTable) => keys.has(`${family} ${table}`);
      await this.#delete("rule", rule.filter(isMeant).map(messageOf));
      await this.#delete("route", route.filter(isMeant).map(messageOf));
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
    const { type, port } = message;
    // Our own doing is known.
    if (port !== 0 && port === this.#netlink.port) return;
    const isRemoval = type === fibMessage.deleteRule || type === fibMessage.deleteRoute;
    // A new route may be the way to a gateway that was refused.
    if (isRemoval || this.#refused.size > 0) this.#rounds.soon();
    if (!this.#inUse) return;
    if (isRemoval) this.#inUse.shrunk = true;
    else if (type === fibMessage.newRule) this.#note(decodeRule(message), this.#inUse);
    else if (type === fibMessage.newRoute) this.#note(decodeRoute(message), this.#inUse);
  }

  #look(): InUse {
    const tables = { 4: new Set<number>(), 6: new Set<number>() };
    const looked = this.#read().then(({ rule, route }) => {
      for (const each of [...rule, ...route]) this.#note(each, inUse);
    });
    const inUse: InUse = { tables, looked, at: this.#clock.now(), shrunk: false };
    return inUse;
  }

  #note(found: FoundRule | FoundRoute | undefined, { tables }: InUse): void {
    if (!found || found.protocol === this.#options.protocol || found.table === 0) return;
    tables[found.family].add(found.table);
  }

  async #enforce(plan: SteerPlan): Promise<void> {
    const [before, wanted] = [this.#wanted, wantedOf(plan)];
    this.#wanted = wanted;
    // What somebody has removed since is put back by the next round, which reads.
    if (!before || !this.#isKnown) await this.#reconcile(wanted);
    else {
      const work = this.#differenceOf(without(before, wanted), without(wanted, before));
      await this.#carryOut(work);
    }
  }

  async #verify(): Promise<void> {
    if (!this.#wanted || this.#closed) return;
    const repaired = await this.#lane.between(() => this.#reconcile(this.#wanted!));
    if (repaired.length > 0) this.#options.onRepair?.(repaired);
  }

  /** What makes the kernel go from one to the other; what it refused before is tried again. */
  #differenceOf(gone: Wanted, come: Wanted): Work {
    const { protocol } = this.#options;
    const make: Wanted = { rule: new Map(come.rule), route: new Map(come.route) };
    for (const [key, { what }] of this.#refused) {
      if (this.#wanted!.rule.get(key) === what) make.rule.set(key, what as SteerRule);
      else if (this.#wanted!.route.get(key) === what) make.route.set(key, what as SteerRoute);
    }
    const isOut = (key: string, kind: Kind) => !make[kind].has(key) && !this.#refused.has(key);
    const rules = [...gone.rule].filter(([key]) => isOut(key, "rule"));
    const routes = [...gone.route].filter(([key]) => isOut(key, "route"));
    return {
      make,
      remove: {
        rule: rules.map(([, each]) => encodeRule(each, protocol)),
        route: routes.map(([, each]) => encodeRoute(each, protocol)),
      },
    };
  }

  /** Reads what is there, and makes of it what shall be. @returns what was made or removed, a few words each. */
  async #reconcile(wanted: Wanted): Promise<string[]> {
    this.#isKnown = false;
    const { protocol } = this.#options;
    const present = await this.#read();
    const rules = compare(
      wanted.rule,
      present.rule.filter((each) => each.protocol === protocol),
      ({ rule }) => rule && ruleKey(rule),
    );
    const routes = compare(
      wanted.route,
      present.route.filter((each) => each.protocol === protocol),
      ({ route }) => route && routeKey(route),
    );
    return this.#carryOut({
      make: { rule: rules.missing, route: routes.missing },
      remove: { rule: rules.extra.map(messageOf), route: routes.extra.map(messageOf) },
    });
  }

  /** Routes before the rules that lead to them, and the other way round when they go. */
  async #carryOut({ make, remove }: Work): Promise<string[]> {
    this.#isKnown = false;
    const { protocol } = this.#options;
    const refused = new Map<string, Refusal>();
    const done: string[] = [];
    const makeAll = async <Each extends SteerRule | SteerRoute>(
      what: readonly (readonly [string, Each])[],
      kind: Kind,
      encode: (each: Each, protocol: number) => Uint8Array,
    ) => {
      const type = kind === "rule" ? fibMessage.newRule : fibMessage.newRoute;
      const questions = what.map(
        ([, each]): Question => ({ type, flags: create, payload: encode(each, protocol), verb: "steer" }),
      );
      const faults = await this.#netlink.requestAll(questions);
      for (const [index, [key, each]] of what.entries()) {
        const fault = faults[index];
        if (fault?.code === "closed") throw fault;
        const isThere = fault !== undefined && errnoOf(fault) === errno.exists;
        if (fault && !isThere) refused.set(key, { what: each, fault });
        else done.push(`${kind} ${key}`);
        if (isThere) present.add(key);
      }
    };
    const present = new Set<string>();
    // A gateway is only taken if a route over the link leads to it.
    const routes = [...make.route];
    routes.sort(([, one], [, other]) => Number(one.via !== undefined) - Number(other.via !== undefined));
    await makeAll(routes, "route", encodeRoute);
    await makeAll([...make.rule], "rule", encodeRule);
    for (const kind of ["rule", "route"] as const) {
      await this.#delete(kind, remove[kind]);
      done.push(...remove[kind].map(() => `a ${kind} too many`));
    }
    // To the kernel two ways to one net are one route: the old one had to go first.
    const hidden = routes.filter(([key]) => present.has(key));
    if (remove.route.length > 0) await makeAll(hidden, "route", encodeRoute);
    this.#refused = refused;
    this.#isKnown = true;
    return done;
  }

  /** What has gone with its interface meanwhile is gone. @throws Fault */
  async #delete(kind: Kind, messages: readonly Uint8Array[]): Promise<void> {
    const type = kind === "rule" ? fibMessage.deleteRule : fibMessage.deleteRoute;
    const verb = `remove a ${kind}`;
    const faults = await this.#netlink.requestAll(messages.map((payload) => ({ type, payload, verb })));
    const isGone = (fault: Fault) =>
      errnoOf(fault) === errno.noEntry || errnoOf(fault) === errno.noSuchProcess;
    const fault = faults.find((each) => each !== undefined && !isGone(each));
    if (fault) throw fault;
  }

  async #read(): Promise<Present> {
    const present: Present = { rule: [], route: [] };
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
      for (const each of rules) present.rule.push(each);
      for (const each of routes) present.route.push(each);
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

function wantedOf({ rules, routes }: SteerPlan): Wanted {
  return {
    rule: new Map(rules.map((each) => [ruleKey(each), each])),
    route: new Map(routes.map((each) => [routeKey(each), each])),
  };
}

/** What one has and another has not. */
function without(all: Wanted, others: Wanted): Wanted {
  return {
    rule: new Map([...all.rule].filter(([key]) => !others.rule.has(key))),
    route: new Map([...all.route].filter(([key]) => !others.route.has(key))),
  };
}

function messageOf({ message }: { readonly message: Uint8Array }): Uint8Array {
  return message;
}

/** What is wanted and not there, and what is there and not wanted; of equal ones that are there twice, one is. */
function compare<Each, Found>(
  wanted: ReadonlyMap<string, Each>,
  found: readonly Found[],
  keyOf: (each: Found) => string | undefined,
): { readonly missing: Map<string, Each>; readonly extra: readonly Found[] } {
  const missing = new Map(wanted);
  const extra = found.filter((each) => {
    const key = keyOf(each);
    return key === undefined || !missing.delete(key);
  });
  return { missing, extra };
}

function ruleKey({ family, priority, from, to, incoming, table }: SteerRule): string {
  return `${family} ${priority} from ${from ?? "all"} to ${to ?? "all"} iif ${incoming ?? "any"} lookup ${table}`;
}

function routeKey({ family, table, to, via, ifindex, source, metric }: SteerRoute): string {
  // IPv6 has no route without metric: 1024 is its way to say none.
  const cost = metric ?? (family === 6 ? 1024 : 0);
  return `${family} ${to} via ${via ?? "link"} dev ${ifindex} src ${source ?? "any"} metric ${cost} table ${table}`;
}
