/**
 * Tables that netifd uses: OpenWrt's own way to have rules and routes of an interface in a table of its own.
 *
 * Of an interface that netifd manages we lease the number and tell netifd (`ip4table`, `ip6table`); it makes the rules
 * and routes, and makes them again as addresses and prefixes come and go. Kept: by interface and family the table
 * that netifd is still to be told. What it leaves behind when a table is taken away from it (rules of the old table
 * stay until the network is restarted) is removed by whoever empties the table afterwards.
 */

import type { Family } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import { kernelFamilies } from "./key.ts";
import type { LogicalInterface } from "./places.ts";
import type { TableLease } from "./record.ts";

/** netifd, as far as we need it. */
export interface Netifd {
  /** Has an interface use a table from now on. @throws Fault */
  setTable(name: string, family: Family, table: number): Promise<void>;
  /** Has an interface use the main table again, unless somebody has given it another than this one. @throws Fault */
  clearTable(name: string, family: Family, table: number): Promise<void>;
}

/** A call on the bus. */
export type BusCall = (path: string, method: string, args: JsonObject) => Promise<unknown>;

const options = { 4: "ip4table", 6: "ip6table" } as const;
/** Somebody else wants another table: we tell ours again, but not in a row. */
const insistMs = 60_000;
const retryMs = 5_000;

interface Want {
  readonly name: string;
  readonly family: Family;
  readonly table: number;
  /** It is to use the table, or to use it no longer. */
  readonly isOut: boolean;
  readonly dueAt: number;
}

export class NetifdTables {
  readonly #netifd: Netifd;
  readonly #wants = new Map<string, Want>();
  readonly #insistedAt = new Map<TableLease, number>();

  constructor(netifd: Netifd) {
    this.#netifd = netifd;
  }

  /** Has to be told, at the next `settle`. */
  want(lease: TableLease, isOut: boolean): void {
    const name = lease.note.key.interface;
    if (!isOut) this.#insistedAt.delete(lease);
    for (const family of kernelFamilies[lease.note.key.family]) {
      this.#wants.set(`${name} ${family}`, { name, family, table: lease.value, isOut, dueAt: 0 });
    }
  }

  /** Whether an interface has still to be told of any table. */
  isPending(name: string): boolean {
    return [...this.#wants.values()].some((want) => want.name === name);
  }

  /** Has an interface that is up and uses another table told again. */
  compare(lease: TableLease, present: LogicalInterface | undefined, now: number): void {
    if (!present?.up) return;
    const families = kernelFamilies[lease.note.key.family];
    if (families.every((family) => String(present.tables[family]) === String(lease.value))) return;
    const lastAt = this.#insistedAt.get(lease) ?? Number.NEGATIVE_INFINITY;
    if (now - lastAt < insistMs) return;
    this.#insistedAt.set(lease, now);
    this.want(lease, true);
  }

  /** Tells netifd what is due. @returns what it refused, by interface; it is told again later. */
  async settle(now: number): Promise<ReadonlyMap<string, Fault>> {
    const refused = new Map<string, Fault>();
    for (const [key, want] of [...this.#wants]) {
      if (want.dueAt > now) continue;
      try {
        const { name, family, table } = want;
        await (want.isOut
          ? this.#netifd.setTable(name, family, table)
          : this.#netifd.clearTable(name, family, table));
        if (this.#wants.get(key) === want) this.#wants.delete(key);
      } catch (thrown) {
        const fault =
          thrown instanceof Fault
            ? thrown
            : new Fault("unsupported", `Cannot tell netifd: ${messageOf(thrown)}`);
        refused.set(want.name, fault);
        // An interface that is gone has no table to be taken away.
        if (!want.isOut && fault.code === "not-found") this.#wants.delete(key);
        else this.#wants.set(key, { ...want, dueAt: now + retryMs });
      }
    }
    return refused;
  }
}

/**
 * netifd through the bus: sets the option in the configuration, and has it read again.
 *
 * Changes that somebody has made and not committed are not ours to commit: then it is a Fault "conflict".
 */
export function netifdOverUbus(call: BusCall): Netifd {
  const config = "network";
  const tableOf = async (name: string, family: Family) => {
    const found = await call("uci", "get", { config, section: name });
    const values = isObject(found) && isObject(found.values) ? found.values : {};
    if (values[".type"] === "interface") return values[options[family]];
    throw new Fault("not-found", `Cannot set table of ${name}: netifd has no such interface`);
  };
  const change = async (name: string, make: () => Promise<unknown>) => {
    const pending = await call("uci", "changes", { config });
    if (isObject(pending) && Array.isArray(pending.changes) && pending.changes.length > 0) {
      throw new Fault(
        "conflict",
        `Cannot set table of ${name}: there are changes of the network that nobody has committed`,
      );
    }
    await make();
    await call("uci", "commit", { config });
    await call("network", "reload", {});
  };
  return {
    async setTable(name, family, table) {
      if ((await tableOf(name, family)) === String(table)) return;
      const values = { [options[family]]: String(table) };
      await change(name, () => call("uci", "set", { config, section: name, values }));
    },
    async clearTable(name, family, table) {
      if ((await tableOf(name, family)) !== String(table)) return;
      await change(name, () => call("uci", "delete", { config, section: name, option: options[family] }));
    },
  };
}
