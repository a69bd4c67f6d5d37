/**
 * What people and scripts read of isolation: who is there, who has whom, and why.
 *
 * Keeps nothing; each answer is worked out from the parts that plan and names are made of.
 */

import type { Address } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { JsonObject } from "../lib/json.ts";
import type { Pair } from "./connects.ts";
import type { Isolation } from "./isolation.ts";
import { isPattern, shown } from "./name.ts";
import { formatPorts, type Permission } from "./permission.ts";
import { type Party, placesOf } from "./services.ts";

/** A pair as it is listed. */
export function renderPair(isolation: Isolation, { one, other, forward, backward, asked }: Pair): JsonObject {
  const { commands, naming } = isolation.parts;
  const state = commands.stateOf(one, other);
  const isHere = (name: string) => commands.stateOf(name, name) === "active";
  const missing = [one, other].filter((name) => !isPattern(name) && !isHere(name));
  return {
    name: one,
    peer: other,
    state,
    ...(missing.length > 0 && { waits_for: missing }),
    direction: forward && backward ? "both" : forward ? "out" : "in",
    ...renderPorts("ports", forward ?? backward),
    // Only where the two sides were given different things.
    ...(forward &&
      backward &&
      String(formatPorts(forward)) !== String(formatPorts(backward)) &&
      renderBack(backward)),
    ...(commands.isConfigured(one, other) && { configured: true }),
    ...(asked && { asked: true }),
    ...([one, other].some((name) => naming.isOutside(name)) && { outside: true }),
  };
}

function renderBack(backward: Permission): JsonObject {
  return { ports_back: formatPorts(backward) ?? ["all"] };
}

function renderPorts(name: string, permission: Permission | undefined): JsonObject {
  const ports = permission && formatPorts(permission);
  return ports ? { [name]: ports } : {};
}

/** A service as it is listed. */
export function renderParty(isolation: Isolation, name: string, now: number): JsonObject {
  const { services, standIns, reach, segments, privileged } = isolation.parts;
  const party = reach.named(name, now);
  const declaration = services.declaration(name);
  const [first] = placesOf(party);
  const segment =
    declaration?.segment ?? (first && segments.of(first.device)?.name) ?? services.homes.get(name);
  const standIn = standIns.get(name);
  return {
    name,
    state: party ? "active" : "pending",
    ...(segment !== undefined && { segment }),
    ...(first && { device: first.device }),
    addresses: placesOf(party).map(({ address }) => address),
    ...(standIn && { standins: [standIn[4], standIn[6]] }),
    ...(declaration && { declared: true }),
    ...(party?.isGuest && { guest: true }),
    ...((party ? reach.isClient(party, now) : privileged.isClient(name)) && { privileged: true }),
    ...(reach.isHost(name) && { reachable_by_all: true }),
  };
}

/** Names that there is anything to say about, sorted. */
export function knownNames(isolation: Isolation, now: number): string[] {
  const { services, connects, reach, privileged, naming } = isolation.parts;
  const names = new Set<string>();
  for (const { one, other } of connects.all()) {
    for (const name of [one, other]) if (!naming.isOutside(name)) names.add(name);
  }
  for (const { name } of services.declarations) names.add(name);
  for (const { name } of services.present()) names.add(name);
  for (const { name } of reach.guests(now)) names.add(name);
  for (const name of privileged.clients()) names.add(name);
  return [...names].sort();
}

/** Counts and what is not as it should be. */
export function renderStatus(isolation: Isolation, now: number): JsonObject {
  const { connects, commands, standIns, privileged, outside, segments, services } = isolation.parts;
  let pending = 0;
  for (const { one, other } of connects.all()) if (commands.stateOf(one, other) === "pending") pending++;
  const bootstrap = privileged.bootstrapping(now);
  return {
    pairs: connects.size,
    pending,
    services: [...services.present()].length,
    standins: standIns.size,
    resting: standIns.resting,
    pools: standIns.pools,
    outside_names: outside.size,
    refused: { evidence: services.refusedEvidence, answers: outside.refused },
    privileged: [...privileged.clients(), ...privileged.addresses],
    ...(bootstrap && {
      bootstrap: { segment: bootstrap.segment, ends_in: Math.ceil((bootstrap.endsAt - now) / 1_000) },
    }),
    ...(segments.contests.length > 0 && { contested: segments.contests.map((each) => ({ ...each })) }),
    segments: segments.all.map(({ name, devices }) => ({
      name,
      devices: devices.map((device) => ({
        device,
        state: segments.isUp(device) ? "up" : "missing",
        prefixes: segments.prefixes(device),
      })),
    })),
  };
}

/**
 * Whether one may begin to talk to another, and by which words.
 *
 * @param from a name, or an address on a segment. @param to a name, or a stand-in.
 * @throws Fault "invalid"
 */
export function renderExplanation(
  isolation: Isolation,
  ends: { from: string; to: string },
  now: number,
): JsonObject {
  const { reach, standIns, naming } = isolation.parts;
  const from = partyOf(isolation, ends.from, now);
  const toName = standIns.holder(ends.to as Address)?.split(" ")[0] ?? nameOf(isolation, ends.to, now);
  const fromName = from?.name ?? nameOf(isolation, ends.from, now);
  const isOutside = !isAddressText(toName) && naming.isOutside(toName);
  const given = from && (isOutside ? reach.outside(from, toName, now) : reach.permission(from, toName, now));
  const to = isOutside ? undefined : reach.named(toName, now);
  const isThere = isOutside ? isolation.parts.outside.valid(toName, now).length > 0 : to !== undefined;
  const passes = given !== undefined && isThere && (isOutside || haveFamily(from, to));
  return {
    from: fromName,
    to: toName,
    verdict: passes ? "pass" : "drop",
    reasons: reasons(isolation, { from, fromName, toName, given, isThere, passes }, now),
    ...renderPorts("ports", given),
    ...(passes &&
      !isOutside && { standins: familiesOf(from!, to!).map((family) => standIns.get(toName)![family]) }),
  };
}

interface Findings {
  readonly from: Party | undefined;
  readonly fromName: string;
  readonly toName: string;
  readonly given: Permission | undefined;
  readonly isThere: boolean;
  readonly passes: boolean;
}

function reasons(isolation: Isolation, found: Findings, now: number): string[] {
  const { connects, reach, privileged } = isolation.parts;
  const { from, fromName, toName, given, isThere } = found;
  const pair = connects.get(fromName, toName);
  const why: string[] = [];
  if (!from) why.push(`${fromName} is at no address of a segment`);
  if (!isThere) why.push(`${toName} is at no address now`);
  if (fromName === toName) why.push("both are the same");
  if (reach.isHost(toName)) why.push(`everybody may reach ${toName}`);
  if (from && reach.isClient(from, now)) {
    const isByName = privileged.isClient(fromName);
    why.push(isByName ? `${fromName} is privileged` : `${fromName} is where everybody is privileged now`);
  }
  if (pair) why.push(given ? "they are connected" : "they are connected the other way round only");
  else if (given === undefined) why.push("they are not connected");
  if (given !== undefined && from && isThere && !found.passes)
    why.push("they have no family of addresses in common");
  return why;
}

function partyOf(isolation: Isolation, who: string, now: number): Party | undefined {
  const { segments, reach } = isolation.parts;
  if (!isAddressText(who)) return reach.named(nameOf(isolation, who, now), now);
  const device = segments.deviceOf(who as Address);
  return device === undefined ? undefined : reach.at(device, who as Address, now);
}

function nameOf(isolation: Isolation, who: string, now: number): string {
  if (!isAddressText(who)) return isolation.parts.naming.canonical(who, "Cannot explain");
  const { segments, reach } = isolation.parts;
  const device = segments.deviceOf(who as Address);
  return (device !== undefined && reach.at(device, who as Address, now)?.name) || who;
}

/** Canonical address, or a Fault for what looks like one and is none. */
function isAddressText(who: string): boolean {
  if (!/^[0-9.]+$/.test(who) && !who.includes(":")) return false;
  if (who.length > 45)
    throw new Fault("invalid", `Cannot explain: ${shown(who)} is neither name nor address`);
  return true;
}

function familiesOf(from: Party, to: Party): (4 | 6)[] {
  return ([4, 6] as const).filter((family) => from.places[family].length > 0 && to.places[family].length > 0);
}

function haveFamily(from: Party | undefined, to: Party | undefined): boolean {
  return from !== undefined && to !== undefined && familiesOf(from, to).length > 0;
}
