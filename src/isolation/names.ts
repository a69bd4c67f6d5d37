/**
 * What a query of a service is answered with: stand-ins of whom it may reach, and of nobody else.
 *
 * Keeps nothing and asks nobody. A name that the asker may not resolve does not exist, whether or not it does for
 * others. Of a peer that is there the answer has the family's stand-in, or no data; whoever has no address of a
 * family gets none of it, for it could not use it. A name outside that is not known now is to be looked up, and asked
 * for here again.
 */

import { addressOfReverse } from "../dns/dns.ts";
import type { Address, Family } from "../lib/address.ts";
import { CLASS_IN, TYPE_A, TYPE_AAAA, TYPE_PTR } from "../lib/dns.ts";
import { canonicalName } from "./name.ts";
import type { Naming } from "./naming.ts";
import { type Reach, type ReachParts, targetKey } from "./reach.ts";
import type { Party } from "./services.ts";
import type { StandIns } from "./standins.ts";

export interface Question {
  /** In presentation form, as `decodeMessage` gives it; with or without the dot at its end. */
  readonly name: string;
  readonly type: number;
  /** Default: IN. */
  readonly class?: number;
}

export type Outcome =
  | { readonly kind: "addresses"; readonly addresses: readonly Address[]; readonly ttlSeconds: number }
  /** Of a reverse look-up: the name with its last dot. */
  | { readonly kind: "pointer"; readonly name: string; readonly ttlSeconds: number }
  /** The name is there and has nothing of this type: an empty answer, with SOA. */
  | { readonly kind: "nodata"; readonly ttlSeconds: number }
  /** NXDOMAIN, with SOA. */
  | { readonly kind: "missing"; readonly ttlSeconds: number }
  /** A name outside: look it up, tell `learn`, have the plan applied, and ask again. */
  | { readonly kind: "later"; readonly name: string };

export interface NamesParts extends ReachParts {
  readonly reach: Reach;
  readonly standIns: StandIns;
  readonly naming: Naming;
}

const TYPE_ANY = 255;
const CLASS_ANY = 255;
/** So short that whoever restarts is found again soon, and so long that a page is not all queries. */
const ttlSeconds = 10;
const missingTtlSeconds = 5;

const missing: Outcome = { kind: "missing", ttlSeconds: missingTtlSeconds };
const nodata: Outcome = { kind: "nodata", ttlSeconds: missingTtlSeconds };

/** @param asker where the query came in, and from whom. */
export function answerQuestion(
  parts: NamesParts,
  asker: { readonly device: string; readonly source: Address; readonly now: number },
  question: Question,
): Outcome {
  const { device, source, now } = asker;
  const name = canonicalName(question.name);
  const party = parts.reach.at(device, source, now);
  const isInternet =
    question.class === undefined || question.class === CLASS_IN || question.class === CLASS_ANY;
  if (name === undefined || !party || !isInternet) return missing;
  const pointed = addressOfReverse(`${name}.`);
  if (pointed !== undefined)
    return answerPointer(parts, { party, now }, { address: pointed, type: question.type });
  if (name.endsWith(".arpa")) return missing;
  const local = parts.naming.local(name);
  if (local === undefined) return answerOutside(parts, { party, now }, { name, type: question.type });
  if (parts.naming.own.has(local)) {
    if (!parts.reach.isClient(party, now)) return missing;
    return addressesOf(question.type, (family) => {
      const own = parts.segments.own(device, family);
      return own === undefined ? [] : [own];
    });
  }
  const permission = parts.reach.permission(party, local, now);
  const peer = permission && parts.reach.named(local, now);
  const standIn = peer && parts.standIns.get(local);
  if (!standIn) return missing;
  return addressesOf(question.type, (family) =>
    party.places[family].length > 0 && peer.places[family].length > 0 ? [standIn[family]] : [],
  );
}

function answerOutside(
  parts: NamesParts,
  { party, now }: { readonly party: Party; readonly now: number },
  { name, type }: { readonly name: string; readonly type: number },
): Outcome {
  if (parts.reach.outside(party, name, now) === undefined) return missing;
  const targets = parts.outside.valid(name, now);
  if (targets.length === 0) return parts.outside.isMissing(name, now) ? missing : { kind: "later", name };
  const leftMs = Math.min(...targets.map(({ validUntilAt }) => validUntilAt - now));
  const outcome = addressesOf(type, (family) => {
    if (party.places[family].length === 0) return [];
    return targets.flatMap(({ address }) => {
      const isOfFamily = address.includes(":") === (family === 6);
      return isOfFamily ? (parts.standIns.get(targetKey(name, address))?.[family] ?? []) : [];
    });
  });
  const left = Math.max(1, Math.min(ttlSeconds, Math.floor(leftMs / 1_000)));
  return outcome.kind === "addresses" ? { ...outcome, ttlSeconds: left } : outcome;
}

/** Only who may reach somebody, or be reached, learns whose an address is. */
function answerPointer(
  parts: NamesParts,
  { party, now }: { readonly party: Party; readonly now: number },
  { address, type }: { readonly address: Address; readonly type: number },
): Outcome {
  const holder = parts.standIns.holder(address);
  if (holder === undefined) return missing;
  const [name, target] = holder.split(" ") as [string, string | undefined];
  const peer = target === undefined ? parts.reach.named(name, now) : undefined;
  const isSeen =
    target === undefined
      ? peer &&
        !peer.isGuest &&
        (parts.reach.permission(party, name, now) ?? parts.reach.permission(peer, party.name, now))
      : parts.reach.outside(party, name, now);
  if (isSeen === undefined || isSeen === false) return missing;
  if (type !== TYPE_PTR && type !== TYPE_ANY) return nodata;
  return { kind: "pointer", name: `${name}.`, ttlSeconds };
}

function addressesOf(type: number, of: (family: Family) => readonly Address[]): Outcome {
  const addresses =
    type === TYPE_A ? of(4) : type === TYPE_AAAA ? of(6) : type === TYPE_ANY ? [...of(4), ...of(6)] : [];
  return addresses.length > 0 ? { kind: "addresses", addresses, ttlSeconds } : nodata;
}
