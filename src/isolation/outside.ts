/**
 * Names outside: which addresses they have, for how long, and which to ask for next.
 *
 * Kept by name: the targets, each with how long it is valid (by its time to live) and how long it is kept beyond:
 * who speaks with an address, or has just been told of it, goes on doing so when the name has another. Exact names
 * that somebody is connected to are asked for again by themselves; names below a pattern when somebody resolves them.
 * Of those each asker has a share, and all of them together half of the room: whoever makes up names is in nobody's way.
 * A resolver that does not answer changes nothing. Addresses that are near (the machine's networks, private,
 * stand-ins) are no answers for a name outside, so that nobody out there can lead a service to them.
 */

import type { Address } from "../lib/address.ts";

export interface OutsideAnswer {
  readonly address: Address;
  readonly ttlSeconds: number;
}

/** What came of asking. */
export type Lookup =
  | { readonly kind: "found"; readonly answers: readonly OutsideAnswer[] }
  /** There is no such name, or it has no address. */
  | { readonly kind: "missing"; readonly ttlSeconds: number }
  /** Nobody answered, or not as it should be. */
  | { readonly kind: "silent" };

export interface Target {
  readonly address: Address;
  validUntilAt: number;
  keptUntilAt: number;
}

export interface OutsideName {
  readonly name: string;
  /** Who resolved it first; undefined: somebody is connected to just this name. */
  asker: string | undefined;
  readonly targets: Map<Address, Target>;
  /** When to ask again. */
  nextAt: number;
  /** Somebody resolved it last. */
  wantedAt: number;
  /** Known to be missing until then. */
  missingUntilAt: number;
  failures: number;
}

export interface OutsideOptions {
  readonly maxNames: number;
  readonly keepMs: number;
  /** Whether an address may be a target. */
  isFar(address: Address): boolean;
}

const leastTtlMs = 5_000;
const mostTtlMs = 3_600_000;
/** Valid addresses of a name; and with those that are only kept. */
const maxValid = 16;
const maxTargets = 64;
const firstRetryMs = 1_000;
const lastRetryMs = 60_000;
/** So many askers may have their whole share of names below patterns. */
const askers = 4;
/** A name below a pattern that nobody resolves for so long is not asked for again. */
const idleMs = 600_000;

/** In whose name names of an earlier life are kept until they are resolved again: nobody has this one. */
const restored = " ";

export class Outside {
  readonly #options: OutsideOptions;
  readonly #names = new Map<string, OutsideName>();
  #refused = 0;

  constructor(options: OutsideOptions) {
    this.#options = options;
  }

  /** Answers that were near, and names for which there was no room. */
  get refused(): number {
    return this.#refused;
  }

  get size(): number {
    return this.#names.size;
  }

  get(name: string): OutsideName | undefined {
    return this.#names.get(name);
  }

  all(): Iterable<OutsideName> {
    return this.#names.values();
  }

  /** Targets that are valid now, in the order of the answer. */
  valid(name: string, now: number): Target[] {
    return [...(this.#names.get(name)?.targets.values() ?? [])].filter(
      ({ validUntilAt }) => validUntilAt > now,
    );
  }

  isMissing(name: string, now: number): boolean {
    return (this.#names.get(name)?.missingUntilAt ?? 0) > now;
  }

  /**
   * Somebody may resolve a name.
   *
   * @param asker who does, if it is below a pattern. @returns false if there is no room for it.
   */
  want(name: string, now: number, asker?: string): boolean {
    const known = this.#names.get(name);
    if (known) {
      known.wantedAt = now;
      if (asker === undefined) known.asker = undefined;
      return true;
    }
    if (!this.#hasRoom(asker)) {
      this.#refused++;
      return false;
    }
    const [nextAt, wantedAt] = [now, now];
    this.#names.set(name, {
      ...{ name, asker, targets: new Map(), nextAt, wantedAt },
      ...{ missingUntilAt: 0, failures: 0 },
    });
    return true;
  }

  /** What to ask for now. @param isExact whether somebody is connected to just this name. */
  due(now: number, isExact: (name: string) => boolean): OutsideName[] {
    return [...this.#names.values()].filter(
      (each) => each.nextAt <= now && (isExact(each.name) || each.wantedAt + idleMs > now),
    );
  }

  /** @returns whether targets came; or went, too. */
  learn(name: string, lookup: Lookup, now: number): "more" | "other" | undefined {
    const known = this.#names.get(name);
    if (!known) return undefined;
    if (lookup.kind === "silent") {
      const wait = Math.min(lastRetryMs, firstRetryMs * 2 ** Math.min(known.failures++, 10));
      known.nextAt = now + wait;
      // Better an old answer than none, while nobody says otherwise.
      for (const target of known.targets.values()) {
        const isKept = target.validUntilAt > 0 && target.keptUntilAt > now;
        if (isKept) target.validUntilAt = Math.max(target.validUntilAt, known.nextAt + leastTtlMs);
      }
      return undefined;
    }
    known.failures = 0;
    const far = lookup.kind === "found" ? lookup.answers.filter(({ address }) => this.#isFar(address)) : [];
    const ttls = far.map(({ ttlSeconds }) => ttlSeconds);
    const ttlSeconds = lookup.kind === "missing" ? lookup.ttlSeconds : Math.min(...ttls, mostTtlMs / 1_000);
    const ttlMs = Math.max(leastTtlMs, Math.min(mostTtlMs, ttlSeconds * 1_000));
    known.nextAt = now + (far.length > 0 ? ttlMs : Math.min(ttlMs, lastRetryMs));
    known.missingUntilAt = far.length > 0 ? 0 : known.nextAt;
    return this.#renew(known, far.slice(0, maxValid), now + ttlMs);
  }

  /**
   * Drops what is neither valid nor kept, and names that nobody may resolve any more.
   *
   * @returns whether targets went.
   */
  expire(
    now: number,
    rest: {
      isNeeded(name: string): boolean;
      isExact(name: string): boolean;
      isInUse(address: Address): boolean;
    },
  ): boolean {
    let went = false;
    for (const known of [...this.#names.values()]) {
      const isNeeded = rest.isNeeded(known.name);
      for (const target of [...known.targets.values()]) {
        if (isNeeded && target.keptUntilAt <= now && rest.isInUse(target.address)) {
          target.keptUntilAt = now + leastTtlMs;
        }
        if (isNeeded && target.keptUntilAt > now) continue;
        known.targets.delete(target.address);
        went = true;
      }
      const isIdle = !rest.isExact(known.name) && known.targets.size === 0 && known.wantedAt + idleMs <= now;
      if (!isNeeded || isIdle) this.#names.delete(known.name);
    }
    return went;
  }

  /** A target of an earlier life: it is kept, told while nobody answers, and asked for again. */
  restore(name: string, address: Address, now: number): boolean {
    if (!this.#options.isFar(address) || !this.want(name, now, restored)) return false;
    const { targets } = this.#names.get(name)!;
    if (targets.size >= maxTargets) return false;
    targets.set(address, {
      address,
      validUntilAt: now + leastTtlMs,
      keptUntilAt: now + this.#options.keepMs,
    });
    return true;
  }

  /** Networks came: addresses that are near now are targets no more. @returns whether any was */
  dropNear(): boolean {
    let went = false;
    for (const { targets } of this.#names.values()) {
      for (const address of [...targets.keys()])
        if (!this.#options.isFar(address)) went = targets.delete(address);
    }
    return went;
  }

  #renew(
    { targets }: OutsideName,
    answers: readonly OutsideAnswer[],
    validUntilAt: number,
  ): "more" | "other" | undefined {
    const before = [...targets.keys()];
    const named = new Set(answers.map(({ address }) => address));
    // What the name has no more is not told to anybody again.
    for (const target of targets.values()) if (!named.has(target.address)) target.validUntilAt = 0;
    for (const address of named) {
      // Again and at the end: those named longest ago are the first to go.
      targets.delete(address);
      targets.set(address, { address, validUntilAt, keptUntilAt: validUntilAt + this.#options.keepMs });
    }
    for (const address of [...targets.keys()].slice(0, Math.max(0, targets.size - maxTargets))) {
      targets.delete(address);
    }
    if (before.some((address) => !targets.has(address))) return "other";
    return targets.size > before.length ? "more" : undefined;
  }

  #hasRoom(asker: string | undefined): boolean {
    const { maxNames } = this.#options;
    if (asker === undefined) return this.#names.size < maxNames;
    let [below, own] = [0, 0];
    for (const each of this.#names.values()) {
      if (each.asker === undefined) continue;
      below++;
      if (each.asker === asker) own++;
    }
    const most = Math.min(maxNames / 2, maxNames - (this.#names.size - below));
    return below < most && (asker === restored || own < maxNames / 2 / askers);
  }

  #isFar(address: Address): boolean {
    const isFar = this.#options.isFar(address);
    if (!isFar) this.#refused++;
    return isFar;
  }
}
