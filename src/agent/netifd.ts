/**
 * netifd's interfaces, for every room that goes by their names: which device each of them is on now.
 *
 * Keeps nothing but that it asks. What happened does not count, only what is: each event makes it ask for all of them,
 * and whoever follows is told all of them.
 */

import type { Family } from "../lib/address.ts";
import { coalesced } from "../lib/coalesce.ts";
import { isObject } from "../lib/json.ts";
import type { LogicalInterface } from "../tables/tables.ts";
import type { Ubus } from "../ubus/ubus.ts";

export interface Following {
  /** Asks now: of what somebody else changes quietly, netifd tells nobody. */
  ask(): void;
  close(): void;
}

const netifd = "network.interface";
/** More interfaces than a router has. */
const maxInterfaces = 1_024;

/** Follows netifd, and asks it at once. Never throws: where there is no netifd, nothing is told. */
export function followNetifd(
  ubus: Pick<Ubus, "listen" | "subscribe" | "call">,
  onInterfaces: (all: readonly LogicalInterface[]) => void,
): Following {
  let isOver = false;
  const ask = coalesced(async () => {
    if (isOver) return;
    try {
      const dump = await ubus.call(netifd, "dump");
      if (!isOver) onInterfaces(parseInterfaces(dump));
    } catch {
      // Where there is no netifd, there are no interfaces of its.
    }
  });
  // Events tell of ifup and ifdown; of new addresses and prefixes, and of a new configuration, only notifications.
  const heard = [ubus.listen(netifd, () => void ask()), ubus.subscribe(netifd, () => void ask())];
  void ask();
  return {
    ask: () => void ask(),
    close() {
      isOver = true;
      for (const each of heard) each.cancel();
    },
  };
}

/** Reads the answer of `network.interface dump`; what is malformed is left out. */
export function parseInterfaces(dump: unknown): LogicalInterface[] {
  const all = isObject(dump) && Array.isArray(dump.interface) ? (dump.interface as unknown[]) : [];
  return all.slice(0, maxInterfaces).flatMap((each): LogicalInterface[] => {
    if (!isObject(each) || typeof each.interface !== "string") return [];
    const device = each.l3_device ?? each.device;
    return [
      {
        name: each.interface,
        up: each.up === true,
        device: typeof device === "string" ? device : undefined,
        tables: { ...tableOf(4, each.ip4table), ...tableOf(6, each.ip6table) },
      },
    ];
  });
}

function tableOf(family: Family, value: unknown): LogicalInterface["tables"] {
  return typeof value === "number" || typeof value === "string" ? { [family]: value } : {};
}
