/**
 * The object `gatehouse.neighbours`: who has an address on a link, what is known there, and what is in dispute.
 *
 * Keeps nothing. Times are milliseconds, as a resolution takes a few of them.
 */

import { type Address, parseAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { Clock } from "../system/system.ts";
import type { Methods } from "../ubus/methods.ts";
import type { Conflict } from "./claims.ts";
import type { Entry } from "./entry.ts";
import type { Event, Neighbours } from "./neighbours.ts";

type Arguments = Readonly<Record<string, Json>>;

/** A notification on the bus, or a message by MQTT. */
export interface NeighbourEvent {
  readonly kind: Event["kind"];
  readonly payload: JsonObject;
}

const [defaultTimeoutMs, maxTimeoutMs] = [5_000, 60_000];
const [defaultLimit, maxLimit] = [1_000, 5_000];

export interface NeighbourMethodsOptions {
  readonly clock: Clock;
}

export function neighbourMethods(neighbours: Neighbours, { clock }: NeighbourMethodsOptions): Methods {
  return {
    resolve: {
      args: { address: "String", device: "String", timeout: "Integer", fresh: "Boolean", probe: "String" },
      access: "read",
      doc:
        "The link-layer address of an address on a device, with state, source, age (ms) and whether it is verified. " +
        "Waits timeout ms (5000); fresh takes nothing but a new answer; probe packet asks past the kernel.",
      async call(args) {
        const { address, device } = targetOf(args, "resolve");
        const { fresh, probe = "kernel" } = args;
        if (probe !== "kernel" && probe !== "packet") {
          throw new Fault("invalid", `Cannot resolve ${address}: probe must be kernel or packet`);
        }
        const timeoutMs = integerIn(args, "timeout", {
          least: 1,
          most: maxTimeoutMs,
          default: defaultTimeoutMs,
        });
        const wish = { fresh: fresh === true, byPacket: probe === "packet" };
        const outcome = await neighbours.resolve({ device, address, timeoutMs, ...wish });
        if (outcome.kind === "found") return shown(outcome.found, device, clock.now());
        const { reason, retryAfterMs } = outcome;
        const wait = retryAfterMs > 0 ? `; ask again in ${Math.ceil(retryAfterMs)} ms` : "";
        if (reason === "timeout") {
          throw new Fault("timeout", `Cannot resolve ${address} on ${device}: no answer${wait}`);
        }
        throw new Fault("not-found", `Cannot resolve ${address} on ${device}: nobody answered lately${wait}`);
      },
    },
    list: {
      args: { device: "String", limit: "Integer" },
      access: "read",
      doc: "All that is known, of a device or of all, and the addresses that nobody answers for.",
      call(args) {
        const device = optionalText(args, "device");
        const limit = integerIn(args, "limit", { least: 1, most: maxLimit, default: defaultLimit });
        const now = clock.now();
        const all = [...neighbours.entries(device)];
        const failed = [...neighbours.refused(device)];
        return {
          neighbours: all.slice(0, limit).map((each) => ({
            ...shown(each.entry, each.device, now),
            ...(neighbours.isPinned(each.device, each.entry.address) && { pinned: true }),
          })),
          total: all.length,
          failed: failed.slice(0, limit).map((each) => ({
            address: each.address,
            device: each.device,
            retry_after: Math.ceil(each.retryAfterMs),
          })),
        };
      },
    },
    forget: {
      args: { address: "String", device: "String" },
      access: "write",
      doc: "Forgets an address, in the kernel too; the next who wants it asks.",
      async call(args) {
        const { address, device } = targetOf(args, "forget");
        return { forgotten: await neighbours.forget(device, address) };
      },
    },
    conflicts: {
      args: { device: "String" },
      access: "read",
      doc: "Addresses that several claimed in the last ten minutes, with those who answered for them.",
      call(args) {
        const now = clock.now();
        const found = neighbours.conflicts(optionalText(args, "device"));
        return { conflicts: found.map((each) => shownConflict(each.conflict, each.device, now)) };
      },
    },
    watch: {
      args: {},
      access: "read",
      doc: "What to subscribe to: this object notifies of addresses that change, go, move or are in conflict.",
      call: () => ({ subscribe: "gatehouse.neighbours", kinds: ["changed", "removed", "moved", "conflict"] }),
    },
  };
}

/** An event as it is told on the bus and by MQTT. */
export function noticeOf(event: Event, now: number): NeighbourEvent {
  const { kind, device } = event;
  switch (kind) {
    case "changed":
    case "removed":
      return { kind, payload: shown(event.entry, device, now) };
    case "moved": {
      const { address, from, to, verified } = event.move;
      return { kind, payload: { address, device, from, to, verified } };
    }
    case "conflict":
      return { kind, payload: shownConflict(event.conflict, device, now) };
  }
}

function shown(entry: Entry, device: string, now: number): JsonObject {
  const { address, mac, state, source, confirmedAt, verified, router } = entry;
  return {
    address,
    device,
    lladdr: mac,
    state,
    source,
    ...(confirmedAt !== undefined && { age: Math.max(0, Math.round(now - confirmedAt)) }),
    verified,
    ...(router && { router }),
  };
}

function shownConflict(conflict: Conflict, device: string, now: number): JsonObject {
  const { address, macs, answering, firstAt, lastAt, count, active } = conflict;
  return {
    address,
    device,
    lladdrs: macs,
    answering,
    active,
    count,
    first_age: Math.round(now - firstAt),
    last_age: Math.round(now - lastAt),
  };
}

function targetOf(args: Arguments, verb: string): { address: Address; device: string } {
  const { address: text, device } = args;
  const address = typeof text === "string" ? parseAddress(text) : undefined;
  if (address === undefined)
    throw new Fault("invalid", `Cannot ${verb} neighbour: address must be an IP address`);
  if (typeof device !== "string" || device === "") {
    throw new Fault("invalid", `Cannot ${verb} ${address}: device is missing`);
  }
  return { address, device };
}

function optionalText(args: Arguments, name: string): string | undefined {
  const value = args[name];
  return typeof value === "string" && value !== "" ? value : undefined;
}

function integerIn(
  args: Arguments,
  name: string,
  range: { readonly least: number; readonly most: number; readonly default: number },
): number {
  const value = args[name];
  if (value === undefined) return range.default;
  if (typeof value === "number" && Number.isInteger(value) && value >= range.least && value <= range.most)
    return value;
  throw new Fault("invalid", `Cannot take ${name}: it must be ${range.least} to ${range.most}`);
}
