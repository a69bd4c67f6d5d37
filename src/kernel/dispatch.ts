/**
 * From "these two nodes, never" to something that packets can be looked up in: what both back ends render.
 *
 * A rule per pair costs every packet a walk over all pairs. Here a pair is kept by one of its two nodes, its
 * keeper, and a packet needs, whatever the number of pairs, at most four questions: is one of its addresses a
 * partner of anybody (nearly always no, and that is all); is the other one a keeper's; which keeper's; is the
 * first among the partners of that keeper.
 *
 *     ends, pairs  →  keepers: id → { addresses, macs, partners }      (pure; kept by nobody)
 *
 * A LAN device is the better keeper, since there are few of them and their packets can also be told by MAC,
 * whatever address they take next. Two LAN devices both keep their pair, so that either's MAC counts. Far nodes
 * thus appear as addresses in sets only. An address that several nodes share is in the sets of each, and what
 * any of them may not do is not done. Lists by prefix are apart: a packet is looked up in each, if there is any.
 */

import { type Address, type Family, familyOf, type Mac, type Prefix } from "../lib/address.ts";
import { soleAddress } from "../lib/nets.ts";
import { type NetsApart, netsApart } from "./nets.ts";
import type { End, Plan } from "./plan.ts";

/** Addresses by family, MACs apart; each once, in the order they came. */
export interface Names {
  readonly 4: ReadonlySet<Address>;
  readonly 6: ReadonlySet<Address>;
  readonly macs: ReadonlySet<Mac>;
}

export interface Keeper {
  readonly id: number;
  readonly own: Names;
  /** Addresses that no packet of the keeper goes to or comes from. */
  readonly partners: Pick<Names, Family>;
}

export interface Dispatch {
  /** By ascending id. */
  readonly keepers: readonly Keeper[];
  /** All keepers' partners. */
  readonly partners: Pick<Names, Family>;
  /** Names of nodes, and single addresses. */
  readonly barred: Names;
  readonly exempt: Names;
  /** Prefixes of more than one address, none in another. */
  readonly barredNets: NetsApart;
  readonly exemptNets: NetsApart;
  /** MACs of LAN devices that must not meet, in both orders: for frames that a bridge passes on. */
  readonly strangers: readonly (readonly [Mac, Mac])[];
  /** Whether any packet at all may be dropped. */
  readonly blocks: boolean;
}

/** Ids stay below this: they become part of names of sets, whose length the kernel limits. */
const idLimit = 2 ** 32;

/** @throws RangeError for a plan that contradicts itself, TypeError for an address or MAC that is not canonical. */
export function dispatchOf(plan: Plan): Dispatch {
  const ends = new Map<number, End>();
  for (const end of plan.ends) {
    if (!Number.isInteger(end.id) || end.id < 1 || end.id >= idLimit)
      wrong(`no node can have the id ${end.id}`);
    if (ends.has(end.id)) wrong(`node ${end.id} is there twice`);
    ends.set(end.id, end);
  }
  const endOf = (id: number): End => ends.get(id) ?? wrong(`node ${id} is not among the ends`);

  const degrees = new Map<number, number>();
  for (const [low, high] of plan.pairs) {
    if (!(low < high)) wrong(`the pair ${low}, ${high} is not in order`);
    for (const id of [low, high]) degrees.set(id, (degrees.get(id) ?? 0) + 1);
  }

  const partnerIds = new Map<number, number[]>();
  const strangers = new Map<string, readonly [Mac, Mac]>();
  for (const [low, high] of plan.pairs) {
    const [a, b] = [endOf(low), endOf(high)];
    for (const [keeper, partner] of keptBy(a, b, degrees)) {
      const ids = partnerIds.get(keeper);
      if (ids) ids.push(partner);
      else partnerIds.set(keeper, [partner]);
    }
    for (const one of a.macs) {
      for (const other of b.macs) {
        strangers.set(`${one} ${other}`, [one, other]).set(`${other} ${one}`, [other, one]);
      }
    }
  }

  const known = new Map<number, Names>();
  const namesOfOne = (id: number): Names => {
    const names = known.get(id) ?? namesOf([endOf(id)]);
    known.set(id, names);
    return names;
  };
  const partners = { 4: new Set<Address>(), 6: new Set<Address>() };
  const keepers = [...partnerIds]
    .sort(([left], [right]) => left - right)
    .map(([id, ids]): Keeper => {
      const mine = { 4: new Set<Address>(), 6: new Set<Address>() };
      for (const partner of ids) {
        const names = namesOfOne(partner);
        for (const family of [4, 6] as const) {
          for (const address of names[family]) {
            mine[family].add(address);
            partners[family].add(address);
          }
        }
      }
      return { id, own: namesOfOne(id), partners: mine };
    });
  const [barred, barredNets] = listOf(plan.barred.map(endOf), plan.barredNets ?? []);
  const [exempt, exemptNets] = listOf(plan.exempt.map(endOf), plan.exemptNets ?? []);
  return {
    ...{ keepers, partners, barred, exempt, barredNets, exemptNets },
    strangers: [...strangers.values()],
    blocks:
      keepers.length > 0 ||
      barred[4].size + barred[6].size + barred.macs.size > 0 ||
      barredNets[4].length + barredNets[6].length > 0,
  };
}

/** [keeper, partner] of a pair. Without MACs the one with many more partners keeps it: fewer keepers. */
function keptBy(
  a: End,
  b: End,
  degrees: ReadonlyMap<number, number>,
): readonly (readonly [number, number])[] {
  if (a.macs.length > 0 && b.macs.length > 0) {
    return [
      [a.id, b.id],
      [b.id, a.id],
    ];
  }
  // By magnitude, so that single pairs that come and go don't make the others change hands.
  const magnitude = (end: End) =>
    end.macs.length > 0 ? 64 : Math.floor(Math.log2(degrees.get(end.id) ?? 1));
  return magnitude(b) > magnitude(a) ? [[b.id, a.id]] : [[a.id, b.id]];
}

/** A list's names and nets. A prefix of one address goes with the names: those are the cheaper to look up. */
function listOf(ends: readonly End[], prefixes: readonly Prefix[]): [Names, NetsApart] {
  const names = namesOf(ends);
  const nets = netsApart(prefixes);
  const wide = { 4: [] as Prefix[], 6: [] as Prefix[] };
  for (const family of [4, 6] as const) {
    for (const net of nets[family]) {
      const address = soleAddress(net);
      if (address === undefined) wide[family].push(net);
      else names[family].add(address);
    }
  }
  return [names, wide];
}

function namesOf(ends: readonly End[]) {
  const names = { 4: new Set<Address>(), 6: new Set<Address>(), macs: new Set<Mac>() };
  for (const end of ends) {
    for (const address of end.addresses) names[checked(address)].add(address);
    for (const mac of end.macs) {
      if (!/^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac))
        throw new TypeError(`Cannot block: ${mac} is no MAC`);
      names.macs.add(mac);
    }
  }
  return names;
}

/** The last check before text becomes rules: an Address cannot look otherwise. */
function checked(address: Address): Family {
  if (!/^(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f:]{2,39})$/.test(address)) {
    throw new TypeError(`Cannot block: ${JSON.stringify(address)} is no address`);
  }
  return familyOf(address);
}

function wrong(state: string): never {
  throw new RangeError(`Cannot block: ${state}`);
}
