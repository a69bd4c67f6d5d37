/**
 * Isolation as it lies on disk: names and stand-ins; where services are is found out anew.
 *
 * `pairs` are rows of two names, the lesser first, and what either may begin (`true` for everything, else ports);
 * `cut`, pairs of the configuration that were disconnected; `privileged`, what was added by calls; `standins` and
 * `resting`, addresses by key; `homes`, segments of names that nobody declares; `placed`, devices that segments have
 * besides those of the configuration, so that they are guarded before anybody tells of them again. The key of an address
 * outside is the name and the address, so that flows that were allowed go on after a restart.
 */

import { type Address, familyOf, parseAddress } from "../lib/address.ts";
import { isDeviceName } from "../lib/device.ts";
import { isObject, type Json } from "../lib/json.ts";
import type { Sides } from "./connects.ts";
import { canonicalName, canonicalPattern } from "./name.ts";
import { formatPorts, type Permission, parsePorts } from "./permission.ts";
import type { SavedPrivileged } from "./privileged.ts";
import type { SavedRest, StandIn } from "./standins.ts";

export interface SavedPair extends Sides {
  readonly one: string;
  readonly other: string;
}

export interface IsolationState {
  readonly pairs: readonly SavedPair[];
  readonly cut: readonly (readonly [string, string])[];
  readonly privileged: SavedPrivileged;
  readonly standIns: readonly (readonly [string, StandIn])[];
  readonly resting: readonly SavedRest[];
  readonly homes: readonly (readonly [string, string])[];
  readonly placed: readonly (readonly [string, readonly string[]])[];
}

/** A file with more is not one of ours. */
const maxRows = 400_000;

/** The state for the store. */
export function renderIsolation(state: IsolationState): Json {
  const { identified, names, addresses } = state.privileged;
  return {
    pairs: state.pairs.map(({ one, other, forward, backward }) => [
      one,
      other,
      renderPermission(forward),
      renderPermission(backward),
    ]),
    ...(state.cut.length > 0 && { cut: state.cut }),
    privileged: { names, addresses, identified },
    standins: state.standIns.map(([key, standIn]) => [key, standIn[4], standIn[6]]),
    resting: state.resting.map(({ key, value, leftMs }) => [key, value, Math.ceil(leftMs / 1_000)]),
    ...(state.homes.length > 0 && { homes: state.homes }),
    ...(state.placed.length > 0 && { placed: state.placed }),
  };
}

/**
 * Reads what `renderIsolation` returned.
 *
 * @throws SyntaxError for anything else.
 */
export function parseIsolation(state: unknown): IsolationState {
  if (!isObject(state)) throw new SyntaxError("isolation is no object");
  const { privileged } = state;
  if (!isObject(privileged) || typeof privileged.identified !== "boolean") throw wrong("privileged");
  return {
    pairs: rows(state.pairs, "pairs", 4).map(([one, other, forward, backward]): SavedPair => {
      const pair = { one: target(one), other: target(other) };
      if (pair.one >= pair.other) throw wrong("pairs");
      const sides = { forward: permission(forward), backward: permission(backward) };
      if (sides.forward === undefined && sides.backward === undefined) throw wrong("pairs");
      return { ...pair, ...sides };
    }),
    cut: rows(state.cut ?? [], "cut", 2).map(([one, other]) => [target(one), target(other)]),
    privileged: {
      names: list(privileged.names, "names").map(name),
      addresses: list(privileged.addresses, "addresses").map(address),
      identified: privileged.identified,
    },
    standIns: rows(state.standins, "standins", 3).map(([key, v4, v6]) => {
      const standIn = { 4: address(v4), 6: address(v6) };
      if (familyOf(standIn[4]) !== 4 || familyOf(standIn[6]) !== 6) throw wrong("standins");
      return [keyOf(key), standIn];
    }),
    resting: rows(state.resting, "resting", 3).map(([key, value, seconds]) => {
      const isTime =
        typeof seconds === "number" && Number.isSafeInteger(seconds) && seconds >= 0 && seconds <= 1e6;
      if (!isTime) throw wrong("resting");
      return { key: keyOf(key), value: address(value), leftMs: seconds * 1_000 };
    }),
    homes: rows(state.homes ?? [], "homes", 2).map(([service, segment]) => {
      if (typeof segment !== "string" || segment.length > 255) throw wrong("homes");
      return [name(service), segment];
    }),
    placed: rows(state.placed ?? [], "placed", 2).map(([segment, devices]) => {
      if (typeof segment !== "string" || segment.length > 255) throw wrong("placed");
      return [segment, list(devices, "placed").map(device)];
    }),
  };
}

function renderPermission(given: Permission | undefined): Json {
  return given === undefined ? null : (formatPorts(given) ?? true);
}

function permission(value: unknown): Permission | undefined {
  if (value === null) return undefined;
  if (value === true) return "all";
  try {
    if (Array.isArray(value) && value.length > 0) return parsePorts(value);
  } catch {
    // What is wrong with it is of no interest here.
  }
  throw wrong("ports");
}

function name(value: unknown): string {
  if (typeof value !== "string" || canonicalName(value) !== value) throw wrong("a name");
  return value;
}

function target(value: unknown): string {
  if (typeof value !== "string" || canonicalPattern(value) !== value) throw wrong("a name");
  return value;
}

function address(value: unknown): Address {
  const found = typeof value === "string" ? parseAddress(value) : undefined;
  if (found === undefined || found !== value) throw wrong("an address");
  return found;
}

function device(value: unknown): string {
  if (typeof value !== "string" || !isDeviceName(value)) throw wrong("a device");
  return value;
}

/** A service's name, a guest's address, or a name and an address outside. */
function keyOf(value: unknown): string {
  const [first = "", second, ...more] = typeof value === "string" ? value.split(" ") : [];
  if (more.length > 0) throw wrong("a key");
  if (second === undefined) {
    if (parseAddress(first) !== first) name(first);
  } else {
    name(first);
    address(second);
  }
  return value as string;
}

function list(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length > maxRows) throw wrong(what);
  return value;
}

function rows(value: unknown, what: string, length: number): readonly (readonly unknown[])[] {
  return list(value, what).map((row) => {
    if (!Array.isArray(row) || row.length !== length) throw wrong(what);
    return row;
  });
}

function wrong(what: string): SyntaxError {
  return new SyntaxError(`${what} of isolation cannot be read`);
}
