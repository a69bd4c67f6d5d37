/**
 * Addresses that changed hands, or that several claim: who is right is found out by asking the old owner.
 *
 *     moved from A to B ─► A asked at its own MAC ─┬─ answers ─► conflict: both claim it, or B lied
 *                          B asked at its own MAC  └─ silent  ─► a move: a new device, a failover, a new MAC
 *
 * Kept per address, on one link: the claimants, what was found out and when. Changed by `moved` (somebody else has
 * the address now) and `rivals` (two answered one question). Told: each move once, each conflict at most once a
 * minute. An address is verified at most every ten seconds, so many at a time at most; what a flood of claims
 * leaves unverified is counted. Instants are monotonic.
 *
 * Source: RFC 5227 §2.4 (intervals), RFC 4861 §7.2.5.
 */

import type { Address, Mac } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Cancel, Clock } from "../system/system.ts";
import type { Answer, Inquiry } from "./prober.ts";

export interface Conflict {
  readonly address: Address;
  /** All that claimed it, the first owner first. */
  readonly macs: readonly Mac[];
  /** Those of them that answered for it when asked last. */
  readonly answering: readonly Mac[];
  readonly firstAt: number;
  readonly lastAt: number;
  /** Times that it was seen. */
  readonly count: number;
  /** It still stood when looked at last. */
  readonly active: boolean;
}

export interface Move {
  readonly address: Address;
  /** The same as `to` where the old owner has it again. */
  readonly from: Mac;
  readonly to: Mac;
  /** The new owner answered when asked, and the old one did not; false if that could not be found out. */
  readonly verified: boolean;
}

export interface ClaimsParts {
  /** Begins to take answers for an address. @throws Fault */
  inquire(address: Address, onAnswer: (answer: Answer) => void): Inquiry;
  onConflict(conflict: Conflict): void;
  onMove(move: Move): void;
}

interface Claim {
  readonly address: Address;
  readonly macs: Set<Mac>;
  answering: readonly Mac[];
  /** Who had it before all this, and who has it now. */
  from: Mac;
  to: Mac;
  /** Who has got it since the check under way began: the owner's answer moves it back. */
  next: Mac | undefined;
  checkedAt: number;
  /** A check is under way, or due. */
  timer: Cancel | undefined;
  unlisten: Cancel;
  count: number;
  /** The conflict stood when looked at last. */
  active: boolean;
  firstAt: number;
  lastAt: number;
  toldAt: number;
}

const roundMs = 1_000;
const rounds = 3;
/** DEFEND_INTERVAL and RATE_LIMIT_INTERVAL of RFC 5227. */
const [checkPeriodMs, tellPeriodMs] = [10_000, 60_000];
/** A conflict that was not seen for so long is over. */
const memoryMs = 600_000;
const [maxClaims, maxChecks, maxMacs] = [256, 16, 8];

export class Claims {
  readonly #clock: Clock;
  readonly #parts: ClaimsParts;
  readonly #claims = new Map<Address, Claim>();
  #checks = 0;
  #unverified = 0;
  #closed = false;

  constructor(clock: Clock, parts: ClaimsParts) {
    this.#clock = clock;
    this.#parts = parts;
  }

  /** Changes that were not verified, because there were too many or the link did not take questions. */
  get unverified(): number {
    return this.#unverified;
  }

  /** Conflicts of the last ten minutes. */
  conflicts(): Conflict[] {
    this.#prune();
    return [...this.#claims.values()].filter(({ count }) => count > 0).map(conflictOf);
  }

  /** Whether an address is in conflict, or about to be found so or not. */
  isDisputed(address: Address): boolean {
    const claim = this.#claims.get(address);
    return claim !== undefined && (claim.timer !== undefined || claim.active);
  }

  /** An address was at `from` and is at `to` now. */
  moved(address: Address, from: Mac, to: Mac): void {
    if (this.#closed) return;
    const claim = this.#claimOf(address, from, to);
    if (!claim) {
      this.#unverified++;
      this.#parts.onMove({ address, from, to, verified: false });
      return;
    }
    this.#admit(claim, from);
    this.#admit(claim, to);
    // Under way or due.
    if (claim.timer) {
      claim.next = to;
      return;
    }
    // While two have it, each answer of either looks like a move back: it is from the first owner all the same.
    if (!claim.active) claim.from = from;
    claim.to = to;
    const waitMs = claim.checkedAt + checkPeriodMs - this.#clock.now();
    if (waitMs <= 0) this.#check(claim);
    else claim.timer = this.#clock.after(waitMs, () => this.#check(claim));
  }

  /** Two answered one question. */
  rivals(address: Address, one: Mac, other: Mac): void {
    if (this.#closed) return;
    const claim = this.#claimOf(address, one, other);
    if (!claim) {
      this.#unverified++;
      return;
    }
    this.#admit(claim, one);
    this.#admit(claim, other);
    claim.answering = [one, other];
    this.#noteConflict(claim);
  }

  forget(address: Address): void {
    const claim = this.#claims.get(address);
    if (claim) this.#drop(claim);
  }

  close(): void {
    this.#closed = true;
    for (const claim of [...this.#claims.values()]) this.#drop(claim);
  }

  #claimOf(address: Address, from: Mac, to: Mac): Claim | undefined {
    const known = this.#claims.get(address);
    if (known) return known;
    if (this.#claims.size >= maxClaims) this.#prune();
    if (this.#claims.size >= maxClaims) return undefined;
    const now = this.#clock.now();
    const never = Number.NEGATIVE_INFINITY;
    const claim: Claim = {
      ...{ address, macs: new Set<Mac>(), answering: [], from, to, next: undefined },
      ...{ checkedAt: never, timer: undefined, unlisten: () => undefined },
      ...{ count: 0, active: false, firstAt: now, lastAt: now, toldAt: never },
    };
    this.#claims.set(address, claim);
    return claim;
  }

  #admit({ macs }: Claim, mac: Mac): void {
    if (macs.size < maxMacs) macs.add(mac);
  }

  #check(claim: Claim): void {
    claim.timer = undefined;
    const { address } = claim;
    const now = this.#clock.now();
    // Of what happened while the check was due, the last counts.
    if (claim.next !== undefined) claim.to = claim.next;
    claim.next = undefined;
    if (this.#checks >= maxChecks) {
      this.#giveUp(claim);
      return;
    }
    claim.checkedAt = now;
    const answering = new Set<Mac>();
    let asked = 0;
    this.#checks++;
    let inquiry: Inquiry | undefined;
    let isOpen = true;
    claim.unlisten = () => {
      if (isOpen) this.#checks--;
      isOpen = false;
      inquiry?.end();
    };
    const end = () => {
      claim.timer?.();
      claim.timer = undefined;
      claim.unlisten();
      claim.unlisten = () => undefined;
    };
    const round = () => {
      const others = [...answering].some((mac) => mac !== claim.to);
      if (others || asked >= rounds) {
        end();
        this.#conclude(claim, answering);
        return;
      }
      asked++;
      claim.timer = this.#clock.after(roundMs, round);
      try {
        inquiry ??= this.#parts.inquire(address, ({ mac }) => {
          if (claim.macs.has(mac)) answering.add(mac);
        });
        for (const mac of claim.macs) if (!answering.has(mac)) inquiry.ask(mac);
      } catch (thrown) {
        end();
        this.#giveUp(claim);
        if (!(thrown instanceof Fault)) throw thrown;
      }
    };
    round();
  }

  #conclude(claim: Claim, answering: ReadonlySet<Mac>): void {
    const isContested = [...answering].some((mac) => mac !== claim.to);
    claim.answering = [...answering];
    if (isContested) this.#noteConflict(claim);
    else this.#settle(claim, answering.has(claim.to));
    const { address, to, next } = claim;
    claim.next = undefined;
    if (next !== undefined && next !== to) this.moved(address, to, next);
  }

  #giveUp(claim: Claim): void {
    this.#unverified++;
    this.#settle(claim, false);
  }

  /** One owner: a conflict that there was is over. The last check stays known, so that the next one is not soon. */
  #settle(claim: Claim, verified: boolean): void {
    const { address, from, to } = claim;
    claim.active = false;
    claim.from = to;
    if (claim.count === 0) {
      claim.macs.clear();
      claim.macs.add(to);
      claim.lastAt = this.#clock.now();
    }
    this.#parts.onMove({ address, from, to, verified });
  }

  #noteConflict(claim: Claim): void {
    const now = this.#clock.now();
    if (claim.count === 0) claim.firstAt = now;
    claim.count++;
    claim.active = true;
    claim.lastAt = now;
    if (now - claim.toldAt < tellPeriodMs) return;
    claim.toldAt = now;
    this.#parts.onConflict(conflictOf(claim));
  }

  #prune(): void {
    const now = this.#clock.now();
    for (const claim of [...this.#claims.values()]) {
      const keepMs = claim.count > 0 ? memoryMs : checkPeriodMs;
      if (!claim.timer && now - claim.lastAt >= keepMs) this.#drop(claim);
    }
  }

  #drop(claim: Claim): void {
    claim.timer?.();
    claim.unlisten();
    this.#claims.delete(claim.address);
  }
}

function conflictOf({ address, macs, answering, firstAt, lastAt, count, active }: Claim): Conflict {
  return { address, macs: [...macs], answering, firstAt, lastAt, count, active };
}
