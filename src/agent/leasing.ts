/**
 * Leases of routing tables, joined to the machine: kernel rules, disk, netifd, and Table Allocator's old socket.
 *
 * Kept: the links, addresses and default routes as rtnetlink tells them, for tables to look at. What changes in one
 * breath is told to the tables once.
 */

import type { Config } from "../config/config.ts";
import {
  type DefaultRoute,
  type InterfaceAddress,
  type Link,
  openSteering,
  type Steering,
} from "../kernel/kernel.ts";
import type { Address, Family } from "../lib/address.ts";
import { type Fault, messageOf } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import type { Cancel, System } from "../system/system.ts";
import {
  netifdOverUbus,
  openJournal,
  openTableSocket,
  Reserved,
  renderTableLease,
  type TableSocket,
  Tables,
  tableFamilies,
  tableMethods,
} from "../tables/tables.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Ubus } from "../ubus/ubus.ts";
import { bootOf } from "./boot.ts";
import { followNetifd } from "./netifd.ts";
import { ourProtocol } from "./protocol.ts";

const netifdPeriodMs = 30_000;
const reopenMs = 2_000;
export const tablesObject = "gatehouse.tables";

export class Leasing {
  readonly #system: System;
  readonly #ubus: Ubus;
  readonly #tables: Tables;
  readonly #steering: Steering;
  readonly #reserved: Reserved;
  readonly #damages: readonly string[];
  readonly #cancels: Cancel[] = [];
  readonly #links = new Map<number, Link>();
  readonly #addresses = new Map<string, InterfaceAddress>();
  #routes: readonly DefaultRoute[] = [];
  #socket: TableSocket | undefined;
  #cancelReopen: Cancel = () => undefined;
  /** Told later, or not yet at all: what is missing from half a picture would seem to be gone. */
  #isTelling = true;

  private constructor(
    system: System,
    parts: {
      ubus: Ubus;
      steering: Steering;
      reserved: Reserved;
      damages: readonly string[];
      tables(leasing: Leasing): Tables;
    },
  ) {
    this.#system = system;
    this.#ubus = parts.ubus;
    this.#steering = parts.steering;
    this.#reserved = parts.reserved;
    this.#damages = parts.damages;
    this.#tables = parts.tables(this);
  }

  /** Reads what was leased, and begins to serve the old socket. @throws Fault if the kernel cannot be steered. */
  static async open(system: System, config: Config, ubus: Ubus): Promise<Leasing> {
    const boot = await bootOf(system);
    const onFault = (fault: Fault | undefined) => {
      if (fault) system.log("warning", fault.message);
    };
    const steering = openSteering(system, {
      protocol: ourProtocol,
      onFault,
      onRepair: (what) =>
        system.log(
          "warning",
          `Routing rules of ours were changed by somebody else; repaired: ${what.slice(0, 5).join("; ")}`,
        ),
    });
    const reserved = new Reserved(system);
    await reserved.open();
    const { journal, saved, damages } = await openJournal(system, {
      directory: config.main.stateDir,
      boot,
      onFault,
    });
    for (const damage of damages) system.log("error", damage);
    const { first, count, family, timeout, rest, maxPerOwner, socket } = config.tables;
    const tables = (leasing: Leasing) =>
      new Tables(
        system,
        {
          ...{
            first,
            count,
            maxPerOwner,
            boot,
            families: tableFamilies.filter((each) => family.includes(each)),
          },
          lifetimeMs: timeout * 1_000,
          restMs: rest * 1_000,
          steers: steering,
          keep: (records, whole) => journal.keep(records, whole),
          isReserved: (table) => reserved.has(table),
          gatewayOf: (name, version) => leasing.#gatewayOf(name, version),
          netifd: netifdOverUbus((path, method, args) => ubus.call(path, method, args)),
          notify: (kind, lease, by) => leasing.#notify(kind, lease, by),
          onFault,
        },
        saved,
      );
    const leasing = new Leasing(system, { ubus, steering, reserved, damages, tables });
    leasing.#followNetifd();
    leasing.#listen(socket);
    return leasing;
  }

  get methods(): Methods {
    return tableMethods(this.#tables, this.#system);
  }

  get status(): JsonObject {
    return {
      leases: [...this.#tables.all()].length,
      socket: { ...this.#socket?.counters },
      damaged: [...this.#damages],
    };
  }

  /** Everything that is there has been told. */
  begin(): void {
    this.#isTelling = false;
    this.#look();
  }

  link(link: Link, isThere: boolean): void {
    if (isThere) this.#links.set(link.ifindex, link);
    else this.#links.delete(link.ifindex);
    this.#look();
  }

  address(address: InterfaceAddress, isThere: boolean): void {
    const key = `${address.ifindex} ${address.address}`;
    if (isThere) this.#addresses.set(key, address);
    else this.#addresses.delete(key);
    this.#look();
  }

  routes(routes: readonly DefaultRoute[]): void {
    this.#routes = routes;
    this.#look();
  }

  tick(): void {
    this.#tables.tick();
  }

  /** Rules and leases stay. */
  async close(): Promise<void> {
    for (const cancel of this.#cancels.splice(0)) cancel();
    this.#cancelReopen();
    this.#socket?.close();
    this.#reserved.close();
    await this.#tables.settled().catch(() => {});
    this.#steering.close();
  }

  /** At the end of this batch of news, however many there are in it. */
  #look(): void {
    if (this.#isTelling) return;
    this.#isTelling = true;
    void Promise.resolve().then(() => {
      this.#isTelling = false;
      const nameOf = (ifindex: number) => this.#links.get(ifindex)?.name;
      const placed = [...this.#addresses.values()].flatMap(({ ifindex, address, prefixLength }) => {
        const name = nameOf(ifindex);
        return name === undefined ? [] : [{ interface: name, ifindex, address, prefixLength }];
      });
      const links = [...this.#links.values()].map(({ name, ifindex }) => ({ interface: name, ifindex }));
      this.#tables.addresses(placed, links);
    });
  }

  #gatewayOf(device: string, family: Family): Address | undefined {
    const hops = this.#routes
      // Those in leased tables are what came of the others.
      .filter((route) => route.family === family && !this.#isLeased(route.table))
      .sort((one, other) => one.metric - other.metric)
      .flatMap((route) => route.hops);
    return hops.find((hop) => this.#links.get(hop.ifindex)?.name === device)?.gateway;
  }

  #isLeased(table: number): boolean {
    return tableFamilies.some((family) => this.#tables.holder(family, table) !== undefined);
  }

  #notify(kind: string, lease: Parameters<typeof renderTableLease>[0], by: string | undefined): void {
    const shown = renderTableLease(lease, this.#tables, this.#system.now()) as JsonObject;
    const data = by === undefined ? shown : { ...shown, by };
    // Nobody may be there to hear it.
    if (this.#ubus.hasSubscribers(tablesObject)) this.#ubus.notify(tablesObject, kind, data).catch(() => {});
  }

  #followNetifd(): void {
    const netifd = followNetifd(this.#ubus, (all) => this.#tables.interfaces(all));
    // A table that somebody else gives an interface which is up is told in no way.
    const look = () => {
      if ([...this.#tables.all()].some(({ note }) => note.steer === "netifd")) netifd.ask();
    };
    this.#cancels.push(() => netifd.close(), this.#system.every(netifdPeriodMs, look));
  }

  /** A name that another program has is tried again: it may be a client's or a squatter's, and is said once. */
  #listen(name: string, before?: string): void {
    if (name === "") return;
    try {
      this.#socket = openTableSocket(this.#system, this.#tables, {
        name,
        rawNow: () => this.#system.rawNow(),
        onFault: (fault) => this.#system.log("warning", fault.message),
      });
      if (before !== undefined) this.#system.log("info", `Table Allocator's socket ${name} is ours now`);
    } catch (thrown) {
      const why = messageOf(thrown);
      if (why !== before) this.#system.log("error", why);
      this.#cancelReopen = this.#system.after(reopenMs, () => this.#listen(name, why));
    }
  }
}
