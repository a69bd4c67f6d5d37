/**
 * Where this machine sends what it knows no route for: its gateways.
 *
 * Kept: the default routes of all tables and both families. They are few, and each notification about one is only
 * a hint to read them anew: the kernel does not tell of routes that go with an interface or an address, nor which
 * one a new route replaced. Told: `onRoutes`, with all of them, whenever they differ from what was told last.
 *
 * Routes by nexthop objects are shown with their gateways unless `nexthop_compat_mode` is off, where the kernel
 * gives a mere number; such a route counts as one without gateway. One that goes with its nexthop object, instead
 * of being deleted, is noticed at the next reading only.
 */

import type { Address } from "../lib/address.ts";
import type { Fault } from "../lib/fault.ts";
import type { Cancel, Clock, Sockets } from "../system/system.ts";
import { type Message, type Netlink, routeProtocol } from "./netlink.ts";
import { type DefaultRoute, decodeDefaultRoute } from "./rtnetlink.ts";
import { type TableCounters, TableWatch } from "./watch.ts";

export interface DefaultsOptions {
  readonly counters: TableCounters;
  readonly receiveBytes?: number | undefined;
  onRoutes?: ((routes: readonly DefaultRoute[]) => void) | undefined;
  onFault?: ((fault: Fault) => void) | undefined;
}

const route = { new: 24, remove: 25, get: 26 } as const;
/** RTNLGRP_IPV4_ROUTE and _IPV6_ROUTE. */
const groups = [7, 11];
const settleMs = 250;
/** Beyond this somebody plays with us. */
const maxRoutes = 1_024;

export class Defaults {
  readonly #system: Sockets & Clock;
  readonly #options: DefaultsOptions;
  readonly #table: TableWatch;
  #routes: readonly DefaultRoute[] = [];
  #told = "[]";
  #settling: Cancel | undefined;

  constructor(system: Sockets & Clock, options: DefaultsOptions) {
    this.#system = system;
    this.#options = options;
    this.#table = new TableWatch(system, {
      ...{ what: "routes", protocol: routeProtocol, groups, counters: options.counters },
      receiveBytes: options.receiveBytes,
      read: (questions) => this.#readAll(questions),
      onEvent: (event) => {
        if (isRoute(event) && decodeDefaultRoute(event) !== "foreign") this.#table.readSoon();
      },
      onFault: options.onFault,
    });
  }

  /** @throws Fault as `Netlink.dump` does. */
  start(): Promise<void> {
    return this.#table.start();
  }

  /** The best of each family and table first. */
  get routes(): readonly DefaultRoute[] {
    return this.#routes;
  }

  /** The gateways of all of them, each once. */
  nextHops(): Address[] {
    const gateways = this.#routes.flatMap(({ hops }) => hops.flatMap(({ gateway }) => gateway ?? []));
    return [...new Set(gateways)];
  }

  /** Something went, or was switched off, that may take routes with it; the kernel tells of it before it does. */
  readLater(): void {
    if (this.#settling || this.#table.closed) return;
    this.#settling = this.#system.after(settleMs, () => {
      this.#settling = undefined;
      this.#table.readSoon();
    });
  }

  close(): void {
    this.#settling?.();
    this.#table.close();
  }

  async #readAll(questions: Netlink): Promise<void> {
    let routes: DefaultRoute[] = [];
    await questions.dump(
      { type: route.get, payload: new Uint8Array(12), verb: "read routes" },
      {
        onMessage: (answer) => {
          const entry = isRoute(answer) ? decodeDefaultRoute(answer) : "foreign";
          if (entry === "malformed") this.#options.counters.malformed++;
          else if (entry !== "foreign" && routes.length < maxRoutes) routes.push(entry);
        },
        onRestart: () => {
          routes = [];
        },
      },
    );
    if (this.#table.closed) return;
    routes.sort(
      (left, right) => left.family - right.family || left.table - right.table || left.metric - right.metric,
    );
    const text = JSON.stringify(routes);
    if (text === this.#told) return;
    this.#told = text;
    this.#routes = routes;
    this.#options.onRoutes?.(routes);
  }
}

function isRoute({ type }: Message): boolean {
  return type === route.new || type === route.remove;
}
