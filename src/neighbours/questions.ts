/**
 * Questions under way and questions refused, by address: who waits, how often was asked, and until when not again.
 *
 *     wait ─► asking ── three probes, a second apart ── no evidence ─► refused, 3 s doubling to 30 s
 *                │                                                        │ asked all the same: one probe a
 *             evidence ─► all waiters have it                             │ second goes on behind the refusal
 *                └──────────────◄──────────── any evidence ◄──────────────┘
 *
 * All who wait for an address share its probes, each with a timeout of its own. Between two probes for an address
 * there is always the means' period, whatever happens in between; so a question that is over rests for a while.
 * Everything is bounded; a question at rest makes room for a new one. Nothing here waits or blocks: an answer may
 * come while the probe is being sent. Instants are monotonic.
 */

import type { Address } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, Clock } from "../system/system.ts";

/** How a question goes out. */
export interface Means {
  /** From one probe to the next. */
  readonly periodMs: number;
  /** Sends a probe, without waiting for anything. @throws Fault, which ends the question. */
  ask(address: Address, attempt: number): void;
  /** No more probes follow for now: answered, refused, or nobody is interested. */
  rest?(address: Address): void;
}

export type Outcome<Found> =
  | { readonly kind: "found"; readonly found: Found }
  /** "timeout": there was no answer. "negative": there was none a moment ago; ask again after `retryAfterMs`. */
  | { readonly kind: "failed"; readonly reason: "timeout" | "negative"; readonly retryAfterMs: number };

export interface QuestionLimits {
  readonly maxQuestions: number;
  readonly maxWaiters: number;
}

interface Waiter<Found> {
  /** Takes nothing but an answer given after it began to wait. */
  readonly fresh: boolean;
  settle(outcome: Outcome<Found> | Fault): void;
}

interface Question<Found> {
  readonly address: Address;
  readonly waiters: Set<Waiter<Found>>;
  /** Probes count; when the last one stays without answer, the address is refused. */
  asking: boolean;
  /** Probes sent while asking. */
  probes: number;
  probedAt: number;
  /** The round of three probes began, or is to begin. */
  beganAt: number;
  /** Somebody wanted to know. */
  askedAt: number;
  refusedUntilAt: number;
  refusalMs: number;
  /** A probe is due when the timer fires; else the timer ends the rest. */
  probing: boolean;
  timer: Cancel;
}

const probesPerRound = 3;
const [firstRefusalMs, longestRefusalMs] = [3_000, 30_000];
/** Who asked again since a round began, and so recently, keeps asking. */
const interestMs = 5_000;

export class Questions<Found> {
  readonly #clock: Clock;
  readonly #means: Means;
  readonly #limits: QuestionLimits;
  readonly #onRefused: (address: Address) => void;
  readonly #questions = new Map<Address, Question<Found>>();
  #closed: Fault | undefined;

  constructor(
    clock: Clock,
    means: Means,
    options: QuestionLimits & { readonly onRefused?: (address: Address) => void },
  ) {
    this.#clock = clock;
    this.#means = means;
    this.#limits = options;
    this.#onRefused = options.onRefused ?? (() => undefined);
  }

  /** Questions under way, refused and at rest. */
  get size(): number {
    return this.#questions.size;
  }

  /** Those who wait. */
  get waiting(): number {
    let sum = 0;
    for (const { waiters } of this.#questions.values()) sum += waiters.size;
    return sum;
  }

  /** Whether an address is being asked for, by whomever waits or behind a refusal. */
  isProbing(address: Address): boolean {
    return this.#questions.get(address)?.probing ?? false;
  }

  /** Addresses that are refused at present, with the time until they are not. */
  *refused(): Generator<{ readonly address: Address; readonly retryAfterMs: number }> {
    const now = this.#clock.now();
    for (const { address, asking, refusedUntilAt } of this.#questions.values()) {
      if (!asking && refusedUntilAt > now) yield { address, retryAfterMs: refusedUntilAt - now };
    }
  }

  /**
   * How long an address is refused yet, or undefined if it is not. Who looks is interested: while somebody is, the
   * address is probed behind the refusal, which itself is not made longer.
   */
  refusal(address: Address): number | undefined {
    const question = this.#questions.get(address);
    const now = this.#clock.now();
    if (!question || question.asking || question.refusedUntilAt <= now) return undefined;
    question.askedAt = now;
    this.#probeOn(question);
    return question.refusedUntilAt - now;
  }

  /**
   * Waits for an answer, asking if nobody does yet.
   *
   * @throws Fault (rejects) "limit" if too many wait or too much is asked, "closed", or as the means throw.
   */
  wait(address: Address, timeoutMs: number, fresh = false): Promise<Outcome<Found>> {
    return new Promise((resolve, reject) => {
      const question = this.#begin(address);
      if (question.waiters.size >= this.#limits.maxWaiters) {
        throw new Fault("limit", `Cannot resolve ${address}: too many wait for it`);
      }
      const cancel = this.#clock.after(timeoutMs, () => {
        waiter.settle({ kind: "failed", reason: "timeout", retryAfterMs: 0 });
      });
      const waiter: Waiter<Found> = {
        fresh,
        settle(outcome) {
          cancel();
          question.waiters.delete(waiter);
          if (outcome instanceof Fault) reject(outcome);
          else resolve(outcome);
        },
      };
      question.waiters.add(waiter);
      this.#probeOn(question);
    });
  }

  /** Asks, without anybody waiting. Does nothing where there is no room. */
  start(address: Address): void {
    if (this.#closed || (!this.#questions.has(address) && !this.#hasRoom())) return;
    this.#probeOn(this.#begin(address));
  }

  /**
   * There is evidence of an address: those who wait have it, and a refusal ends.
   *
   * @param fresh it is an answer to a question; without that, those who want one go on waiting.
   */
  found(address: Address, found: Found, fresh: boolean): void {
    const question = this.#questions.get(address);
    if (!question) return;
    for (const waiter of [...question.waiters]) {
      if (fresh || !waiter.fresh) waiter.settle({ kind: "found", found });
    }
    if (question.waiters.size > 0) return;
    this.#forgive(question);
    this.#rest(question);
  }

  /** Somebody may be there after all: a refusal ends, and the next who asks waits for an answer. */
  forgive(address: Address): void {
    const question = this.#questions.get(address);
    if (question) this.#forgive(question);
  }

  /** The means say that nobody answers: what is being asked is refused at once. @param again asks anew instead. */
  unanswered(address: Address, again: boolean): void {
    const question = this.#questions.get(address);
    if (!question?.asking || question.probes === 0) return;
    if (again) {
      question.probes = 0;
      this.#tick(question);
    } else {
      this.#refuse(question);
    }
  }

  /** All who wait get the fault; nothing is asked or refused any more. With `forGood`, later waiters get it too. */
  end(fault: Fault, forGood: boolean): void {
    if (forGood) this.#closed ??= fault;
    for (const question of [...this.#questions.values()]) this.#drop(question, fault);
  }

  #begin(address: Address): Question<Found> {
    if (this.#closed) throw this.#closed;
    const now = this.#clock.now();
    let question = this.#questions.get(address);
    if (!question) {
      if (!this.#hasRoom()) throw new Fault("limit", `Cannot resolve ${address}: too much is asked`);
      question = {
        ...{ address, waiters: new Set<Waiter<Found>>(), asking: false, probes: 0, probing: false },
        ...{ probedAt: Number.NEGATIVE_INFINITY, beganAt: now, askedAt: now },
        ...{ refusedUntilAt: 0, refusalMs: 0 },
        timer: () => undefined,
      };
      this.#questions.set(address, question);
    }
    question.askedAt = now;
    if (!question.asking) {
      question.asking = true;
      question.beganAt = now;
      question.probes = 0;
    }
    return question;
  }

  /** Whether one more question may be; one at rest gives way. */
  #hasRoom(): boolean {
    if (this.#questions.size < this.#limits.maxQuestions) return true;
    for (const question of this.#questions.values()) {
      if (question.asking || question.probing) continue;
      this.#remove(question);
      return true;
    }
    return false;
  }

  /** Sees to it that probes go on, the next as soon as the period allows. */
  #probeOn(question: Question<Found>): void {
    if (question.probing) return;
    question.probing = true;
    const waitMs = question.probedAt + this.#means.periodMs - this.#clock.now();
    if (waitMs <= 0) this.#tick(question);
    else this.#schedule(question, waitMs, () => this.#tick(question));
  }

  #tick(question: Question<Found>): void {
    if (question.asking && question.probes >= probesPerRound) this.#refuse(question);
    const now = this.#clock.now();
    const isWanted = question.askedAt > question.beganAt && now - question.askedAt < interestMs;
    if (!question.asking && !isWanted) {
      this.#rest(question);
      return;
    }
    question.probes++;
    question.probedAt = now;
    // Before the probe: its answer may come while it is being sent, and ends all this.
    this.#schedule(question, this.#means.periodMs, () => this.#tick(question));
    try {
      this.#means.ask(question.address, question.probes);
    } catch (thrown) {
      this.#drop(question, thrown instanceof Fault ? thrown : new Fault("kernel", messageOf(thrown)));
      if (!(thrown instanceof Fault)) throw thrown;
    }
  }

  #refuse(question: Question<Found>): void {
    const now = this.#clock.now();
    question.asking = false;
    question.refusalMs = Math.min(longestRefusalMs, question.refusalMs * 2 || firstRefusalMs);
    question.refusedUntilAt = now + question.refusalMs;
    const retryAfterMs = question.refusalMs;
    for (const waiter of [...question.waiters]) {
      waiter.settle({ kind: "failed", reason: "timeout", retryAfterMs });
    }
    this.#onRefused(question.address);
  }

  #forgive(question: Question<Found>): void {
    question.refusedUntilAt = 0;
    question.refusalMs = 0;
  }

  /** Ends probing; what was refused, and when was asked last, is remembered for a while. */
  #rest(question: Question<Found>): void {
    question.asking = false;
    question.probing = false;
    const now = this.#clock.now();
    const rememberUntilAt = Math.max(
      question.probedAt + this.#means.periodMs,
      question.refusedUntilAt + question.refusalMs,
    );
    this.#schedule(question, Math.max(0, rememberUntilAt - now), () => this.#remove(question));
    this.#means.rest?.(question.address);
  }

  #schedule(question: Question<Found>, delayMs: number, call: () => void): void {
    question.timer();
    question.timer = this.#clock.after(delayMs, call);
  }

  #drop(question: Question<Found>, fault: Fault): void {
    for (const waiter of [...question.waiters]) waiter.settle(fault);
    this.#remove(question);
  }

  #remove(question: Question<Found>): void {
    question.timer();
    const wasProbing = question.probing;
    question.probing = false;
    if (this.#questions.get(question.address) === question) this.#questions.delete(question.address);
    if (wasProbing) this.#means.rest?.(question.address);
  }
}
