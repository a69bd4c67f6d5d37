/** An isolation room on a clock that tests move, with the plan and the state that were committed last. */

import {
  Isolation,
  type IsolationOptions,
  isolationFormat,
  type Lookup,
  type Outcome,
} from "../../src/isolation/isolation.ts";
import { isolatedOf } from "../../src/kernel/isolate.ts";
import type { IsolationPlan } from "../../src/kernel/kernel.ts";
import {
  type Address,
  type Mac,
  type Prefix,
  parseAddress,
  parseMac,
  parsePrefix,
} from "../../src/lib/address.ts";
import type { Json } from "../../src/lib/json.ts";

export const address = (text: string): Address => parseAddress(text)!;
export const mac = (text: string): Mac => parseMac(text)!;
export const prefix = (text: string): Prefix => parsePrefix(text)!;

export interface House {
  readonly isolation: Isolation;
  readonly clock: { nowMs: number; now(): number };
  readonly reports: string[];
  /** What the world says of names. */
  readonly world: Map<string, Lookup>;
  readonly lookups: string[];
  /** What was committed last. */
  readonly committed: { plan: IsolationPlan | undefined; state: Json; count: number };
  /** Thrown by the next commits, first one first. */
  readonly refusals: unknown[];
  readonly inUse: Set<Address>;
  changes: number;
}

/** A draw that repeats itself from run to run. */
export function seeded(seed = 1): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** Three segments: apps 10.1.0.0/24 and fd01::/64, data 10.2.0.0/24 and fd02::/64, system 10.9.0.0/24. */
export const threeSegments = [
  { name: "apps", devices: ["br-apps"] },
  { name: "data", devices: ["br-data"] },
  { name: "system", devices: ["br-system"] },
] as const;

const links = [
  ["br-apps", "10.1.0.1", "fd01::1"],
  ["br-data", "10.2.0.1", "fd02::1"],
  ["br-system", "10.9.0.1", undefined],
] as const;

export function upLink(isolation: Isolation, device: string): void {
  const [, v4, v6] = links.find(([name]) => name === device)!;
  isolation.linkUp({
    device,
    addresses: [
      { address: address(v4), prefixLength: 24 },
      ...(v6 ? [{ address: address(v6), prefixLength: 64 }] : []),
    ],
  });
}

export interface HouseOptions extends Partial<IsolationOptions> {
  /** As `committed.state` of another house. */
  readonly saved?: Json;
  readonly seed?: number;
  readonly nowMs?: number;
  /** Leave the devices away. */
  readonly isDown?: boolean;
}

export function openHouse({
  saved,
  seed,
  nowMs = 1_000_000,
  isDown = false,
  ...rest
}: HouseOptions = {}): House {
  const clock = { nowMs, now: () => clock.nowMs };
  const committed: House["committed"] = { plan: undefined, state: null, count: 0 };
  const [reports, lookups, refusals]: [string[], string[], unknown[]] = [[], [], []];
  const world = new Map<string, Lookup>();
  const inUse = new Set<Address>();
  const state = saved === undefined ? undefined : isolationFormat.parse(JSON.parse(JSON.stringify(saved)));
  const house: House = {
    isolation: new Isolation(
      clock,
      {
        segments: threeSegments,
        services: [],
        pool4: prefix("198.18.0.0/15"),
        pool6: prefix("fd00:6a7e::/64"),
        draw: seeded(seed),
        dns: { port4: 5353, port6: 5353 },
        commit: async () => {
          await Promise.resolve();
          if (refusals.length > 0) {
            const refusal = refusals.shift();
            if (refusal !== undefined) throw refusal;
          }
          committed.plan = house.isolation.plan();
          // The kernel takes it: it does not contradict itself.
          isolatedOf(committed.plan);
          committed.state = house.isolation.save();
          committed.count++;
        },
        onChange: () => void house.changes++,
        lookup: async (name) => {
          lookups.push(name);
          return world.get(name) ?? { kind: "missing", ttlSeconds: 60 };
        },
        isInUse: (each) => inUse.has(each),
        report: (line) => reports.push(line),
        ...rest,
      },
      state,
    ),
    ...{ clock, reports, lookups, world, committed, refusals, inUse, changes: 0 },
  };
  if (!isDown) for (const [device] of links) upLink(house.isolation, device);
  return house;
}

/** A service that DHCP knows by host name. */
export function host(isolation: Isolation, device: string, name: string, ...addresses: string[]): void {
  for (const each of addresses) {
    isolation.seen({ device, address: address(each), source: "dhcp", hostname: name, mac: macOf(name) });
  }
}

/** A MAC made from a name. */
export function macOf(name: string): Mac {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.charCodeAt(0)) >>> 0;
  const hex = sum.toString(16).padStart(8, "0");
  return mac(`02:00:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4, 6)}:${hex.slice(6, 8)}`);
}

export const types = { A: 1, NS: 2, PTR: 12, MX: 15, AAAA: 28, HTTPS: 65, ANY: 255 } as const;

/** What somebody is answered, in one line. */
export function resolve(house: House, from: string, name: string, type: keyof typeof types = "A"): string {
  const device = house.isolation.parts.segments.deviceOf(address(from)) ?? "nowhere";
  return shown(house.isolation.answer(device, address(from), { name, type: types[type] }));
}

export function shown(outcome: Outcome | { readonly kind: "silent" }): string {
  if (outcome.kind === "addresses") return outcome.addresses.join(" ");
  if (outcome.kind === "pointer" || outcome.kind === "later") return `${outcome.kind} ${outcome.name}`;
  return outcome.kind;
}

/** The routes and exits of a plan, as "source > target ports", sorted. */
export function flows(plan: IsolationPlan): string[] {
  const ports = (each: { ports?: readonly { protocol: string }[] }) =>
    each.ports ? ` ${each.ports.map((port) => JSON.stringify(Object.values(port))).join("")}` : "";
  return [
    ...plan.routes.map((each) => `${each.source} > ${each.target}${ports(each)}`),
    ...plan.outside.map((each) => `${each.source} >> ${each.target}${ports(each)}`),
  ].sort();
}

/** @returns the code and message of the Fault that a promise ends in. */
export async function faultOf(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await promise;
  } catch (thrown) {
    const { code, message } = thrown as { code: string; message: string };
    return { code, message };
  }
  throw new Error("it was not refused");
}
