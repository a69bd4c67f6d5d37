/**
 * The access rules that the packages ship, made from the tables of methods: what rpcd lets a LuCI session call, by
 * its right to read or to write, and what ubusd lets the service do as a user of its own.
 *
 * SPIN's object `spin` is for programs of the router itself: no page calls it, and no session may.
 */

import { ownMethods } from "../../src/agent/methods.ts";
import { captureMethods } from "../../src/capture/capture.ts";
import { flowMethods, spinMethods } from "../../src/flows/flows.ts";
import { iprefMethods } from "../../src/ipref/ipref.ts";
import { isolationMethods } from "../../src/isolation/isolation.ts";
import { neighbourMethods } from "../../src/neighbours/neighbours.ts";
import { nodeMethods } from "../../src/nodes/nodes.ts";
import { rpcMethods } from "../../src/spin/spin.ts";
import { tableMethods } from "../../src/tables/tables.ts";
import type { Methods } from "../../src/ubus/methods.ts";

export const rpcdAclFile = "files/usr/share/rpcd/acl.d/luci-app-gatehouse.json";
export const busAclFile = "files/usr/share/acl.d/gatehouse.json";
/** The name that pages and menu entries refer to. */
export const aclName = "luci-app-gatehouse";
/** The user that the service may run as. */
export const user = "gatehouse";

/** A room that nobody calls: tables are made without looking at it. */
const nobody = undefined as never;

/** All objects of the agent on the bus, with their methods. */
export const tables: Readonly<Record<string, Methods>> = {
  gatehouse: ownMethods(nobody),
  "gatehouse.nodes": nodeMethods(nobody),
  "gatehouse.flows": flowMethods(nobody, nobody),
  "gatehouse.capture": captureMethods(nobody),
  "gatehouse.tables": tableMethods(nobody, nobody),
  "gatehouse.neighbours": neighbourMethods(nobody, { clock: nobody }),
  "gatehouse.ipref": iprefMethods({ mappings: nobody, clock: nobody }),
  "gatehouse.isolation": isolationMethods(nobody, nobody),
  spin: { ...spinMethods(nobody), ...rpcMethods(nobody) },
};

interface Rights {
  readonly ubus: Readonly<Record<string, readonly string[]>>;
  readonly uci: readonly string[];
}

export type RpcdAcl = Readonly<
  Record<string, { readonly description: string; readonly read: Rights; readonly write: Rights }>
>;

/** @throws RangeError if a method would be offered that changes something, and calls itself a reader. */
export function rpcdAcl(objects: Readonly<Record<string, Methods>>): RpcdAcl {
  const rights = (access: "read" | "write"): Rights => {
    const named = Object.entries(objects).filter(([name]) => name !== "spin");
    const granted = named.map(([name, methods]) => {
      const of = Object.entries(methods).filter(([, method]) => method.access === access);
      return [name, of.map(([method]) => method).sort()] as const;
    });
    return {
      ubus: Object.fromEntries(granted.filter(([, methods]) => methods.length > 0).sort()),
      uci: ["gatehouse"],
    };
  };
  return {
    [aclName]: {
      description: "Grant access to gatehouse: its pages, its objects and its settings",
      read: rights("read"),
      write: rights("write"),
    },
  };
}

/**
 * What the agent asks of others: netifd of its interfaces, and of tables that netifd is to use; access points of their
 * stations.
 */
const asks = {
  "network.interface": { methods: ["dump"] },
  network: { methods: ["reload"] },
  uci: { methods: ["changes", "commit", "delete", "get", "set"] },
  "hostapd.*": { methods: ["get_clients"] },
};

/** Its own objects, what it asks of others, and whose notifications and events it follows. */
export function busAcl(objects: Readonly<Record<string, Methods>>): object {
  return {
    user,
    access: asks,
    publish: Object.keys(objects).sort(),
    subscribe: ["network.interface", "hostapd.*"],
    // An object that comes later is subscribed to then; one that goes has no stations any more.
    listen: ["network.interface", "ubus.object.add", "ubus.object.remove"],
  };
}

export const render = (rules: object): string => `${JSON.stringify(rules, null, "\t")}\n`;
