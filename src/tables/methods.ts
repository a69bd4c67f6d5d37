/**
 * What the outside may ask of tables: the object `gatehouse.tables`.
 *
 * A lease belongs to the user of the bus who asked for it; root may do everything. An answer means that it is so:
 * rules are in the kernel, the lease is on disk.
 */

import { parseAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { isObject, type Json, type JsonObject } from "../lib/json.ts";
import type { ArgumentType, Caller, Methods } from "../ubus/methods.ts";
import { root, type Wish } from "./book.ts";
import { type ImportedLease, importedLease } from "./import.ts";
import { addressOf, describeKey, keyOf, type TableFamily, type TableKey, tableFamilies } from "./key.ts";
import { lifetimes, type Steer, type TableLease } from "./record.ts";
import type { Tables } from "./tables.ts";

type Args = Readonly<Record<string, Json>>;

const keyArguments = { family: "String", interface: "String", address: "String", tag: "String" } as const;
const nameArguments: Readonly<Record<string, ArgumentType>> = { ...keyArguments, table: "Integer" };
/** An answer has to fit into one ubus message, of 1 MiB. */
const maxListed = 2_000;

export function tableMethods(tables: Tables, clock: { now(): number }): Methods {
  const render = (lease: TableLease) => renderTableLease(lease, tables, clock.now());
  return {
    request: {
      args: {
        ...keyArguments,
        ...{ lifetime: "Integer", rules: "Boolean", netmask: "String", follow: "Boolean" },
        ...{ routes: "Boolean", netifd: "Boolean" },
      },
      access: "write",
      doc:
        "Leases a routing table for a family (inet, inet6, unspec), an interface and an address or none, the same " +
        "one each time, with rules that lead to it unless rules is false; of a netifd interface netifd makes them.",
      async call(args, caller) {
        const key = keyFrom(args);
        return render(await tables.request(key, wishFrom(args, { key, tables, owner: ownerOf(caller) })));
      },
    },
    renew: {
      args: { ...nameArguments, lifetime: "Integer" },
      access: "write",
      doc: "Puts the end of a lease off, for as long as before or for lifetime seconds.",
      async call(args, caller) {
        const lifetimeMs = args.lifetime === undefined ? undefined : lifetimeOf(args);
        const by = { owner: ownerOf(caller), ...(lifetimeMs !== undefined && { lifetimeMs }) };
        return render(await tables.renew(finder(tables, args), by));
      },
    },
    release: {
      args: nameArguments,
      access: "write",
      doc: "Ends a lease and removes every rule and route of its table.",
      async call(args, caller) {
        const lease = await tables.release(finder(tables, args), ownerOf(caller));
        return { table: lease.value };
      },
    },
    import: {
      args: { leases: "Array" },
      access: "write",
      doc: "Takes over leases of Table Allocator, by root: table, family, interface, address and label of each.",
      async call(args, caller) {
        if (ownerOf(caller) !== root) throw new Fault("denied", "Cannot import leases: only root may");
        const leases = importsFrom(args, tables.defaultLifetimeMs);
        const left = await tables.adopt(leases);
        return { adopted: leases.length - left.length, left: left.map((at) => leases[at]!.table) };
      },
    },
    get: {
      args: nameArguments,
      access: "read",
      doc: "The lease of a key, or of a table in a family.",
      call(args) {
        const lease = finder(tables, args)();
        if (!lease) throw new Fault("not-found", "Cannot get lease: there is none");
        return render(lease);
      },
    },
    list: {
      args: { family: "String", after: "Integer" },
      access: "read",
      doc: "Leases by table, at most 2,000 or so; more: there are some after the last, to be asked for with after.",
      call(args) {
        const family = args.family === undefined ? undefined : familyFrom(args);
        const after = Number(args.after ?? -1);
        const all = [...tables.all()]
          .filter((each) => each.value > after && (family === undefined || each.note.key.family === family))
          .sort((one, other) => one.value - other.value);
        let end = Math.min(all.length, maxListed);
        // Leases of one table are not torn apart: `after` names a table.
        while (end > 0 && end < all.length && all[end]!.value === all[end - 1]!.value) end++;
        return { leases: all.slice(0, end).map(render), ...(end < all.length && { more: true }) };
      },
    },
  };
}

/** A lease as the bus shows it. */
export function renderTableLease(lease: TableLease, tables: Tables, now: number): JsonObject {
  const { key, owner, steer, follow, routes, label, lifetimeMs } = lease.note;
  const missing = tables.missing(lease);
  return {
    table: lease.value,
    expires_in: Math.max(0, Math.floor((lease.endsAt - now) / 1_000)),
    family: key.family,
    interface: key.interface,
    address: key.address,
    ...(key.tag !== "" && { tag: key.tag }),
    ...(label !== "" && { label }),
    owner,
    lifetime: Math.round(lifetimeMs / 1_000),
    rules: steer === "rules",
    ...(steer === "netifd" && { netifd: true }),
    ...(follow && { follow }),
    ...(routes && { routes }),
    ...(missing !== undefined && { missing }),
  };
}

/** Who a caller is: nobody in particular, if the bus does not say. */
function ownerOf({ user }: Caller): string {
  return (user ?? "").slice(0, 64);
}

function keyFrom(args: Args): TableKey {
  const { family, interface: name, address, tag } = args as Readonly<Record<string, string | undefined>>;
  if (family === undefined || name === undefined || name === "") {
    throw new Fault("invalid", "Cannot lease table: family and interface are needed");
  }
  return keyOf({ family, interface: name, address, tag });
}

function familyFrom(args: Args): TableFamily {
  const family = tableFamilies.find((each) => each === args.family);
  if (!family) throw new Fault("invalid", `Cannot find lease: family ${JSON.stringify(args.family)} is none`);
  return family;
}

/** By key, or by family and table. */
function finder(tables: Tables, args: Args): () => TableLease | undefined {
  if (args.table === undefined) {
    const key = keyFrom(args);
    return () => tables.get(key);
  }
  const family = familyFrom(args);
  return () => tables.holder(family, Number(args.table));
}

function lifetimeOf(args: Args): number {
  const lifetimeMs = Number(args.lifetime) * 1_000;
  if (lifetimeMs >= lifetimes.leastMs && lifetimeMs <= lifetimes.mostMs) return lifetimeMs;
  throw new Fault("invalid", `Cannot lease table: ${String(args.lifetime)} seconds are no lifetime`);
}

function importsFrom(args: Args, lifetimeMs: number): ImportedLease[] {
  const rows = Array.isArray(args.leases) ? (args.leases as readonly Json[]) : [];
  return rows.map((row) => {
    const lease = isObject(row) ? importedLease({ ...row, owner: root, lifetimeMs }) : undefined;
    if (!lease)
      throw new Fault("invalid", `Cannot import lease: ${JSON.stringify(row).slice(0, 200)} is none`);
    return lease;
  });
}

function wishFrom(
  args: Args,
  about: { readonly key: TableKey; readonly tables: Tables; readonly owner: string },
): Wish {
  const { key, tables, owner } = about;
  const steer = steerOf(args, about);
  const routes = args.routes === true || args.routes === 1;
  if (routes && steer !== "rules") {
    throw new Fault(
      "invalid",
      `Cannot lease table for ${describeKey(key)}: routes without rules lead nowhere`,
    );
  }
  return {
    ...{ owner, steer, routes, label: "" },
    lifetimeMs: args.lifetime === undefined ? tables.defaultLifetimeMs : lifetimeOf(args),
    follow: args.follow === true || args.follow === 1,
    prefixLength: args.netmask === undefined ? undefined : prefixLengthOf(String(args.netmask), key),
  };
}

/** Unless the caller says otherwise netifd makes the rules of its interfaces, and we make those of addresses. */
function steerOf(args: Args, { key, tables }: { readonly key: TableKey; readonly tables: Tables }): Steer {
  const said = (value: Json | undefined) => (value === undefined ? undefined : value === true || value === 1);
  const [rules, netifd] = [said(args.rules), said(args.netifd)];
  const isWhole = key.address === "" && tables.isLogical(key.interface);
  if (netifd && (rules === false || !isWhole)) {
    const why = rules === false ? "netifd makes rules" : "it is no interface of netifd as a whole";
    throw new Fault("invalid", `Cannot have netifd steer ${describeKey(key)}: ${why}`);
  }
  if (netifd ?? (rules === undefined && isWhole)) return "netifd";
  return rules === false ? "none" : "rules";
}

/** The length of a prefix: of a netmask such as 255.255.255.0, or as a number. @throws Fault "invalid" */
export function prefixLengthOf(netmask: string, key: TableKey): number {
  const address = addressOf(key);
  const bits = address?.includes(":") ? 128 : 32;
  if (/^[0-9]{1,3}$/.test(netmask) && Number(netmask) <= bits) return Number(netmask);
  const mask = bits === 32 && !netmask.includes(":") ? parseAddress(netmask) : undefined;
  if (mask !== undefined) {
    const binary = mask.split(".").map((octet) => Number(octet).toString(2).padStart(8, "0"));
    const match = /^(1*)0*$/.exec(binary.join(""));
    if (match) return match[1]!.length;
  }
  throw new Fault("invalid", `Cannot lease table: netmask ${JSON.stringify(netmask.slice(0, 64))} is none`);
}
