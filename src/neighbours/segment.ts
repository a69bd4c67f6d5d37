/**
 * One device's neighbours: what the kernel tells of them, what was asked besides, and who waits.
 *
 * Kept by address: a view on the kernel's entries, changed by nothing but what the kernel tells, and the answers to
 * our own packets where the kernel has no entry. Age counts from confirmation, not from use: up to half a minute
 * an entry is good, up to a minute it is given out while it is asked for again, after that whoever wants it waits
 * for the answer. As traffic confirms entries without a word from the kernel, an aged one is looked at there first.
 *
 * An address in a prefix of our own on the device is resolved by the kernel; others, and whatever the kernel does
 * not take, by packets. With the segment end its entries and all who wait.
 */

import type { Neighbour } from "../kernel/kernel.ts";
import {
  type Address,
  contains,
  type Family,
  familyOf,
  type Mac,
  type Prefix,
  prefixOf,
  scopeOf,
} from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Cancel, Clock } from "../system/system.ts";
import { Claims, type Conflict, type Move } from "./claims.ts";
import type { Entry, Steer, Wish } from "./entry.ts";
import type { Link } from "./link.ts";
import { type Answer, type Inquiry, type ProbeDrops, Prober } from "./prober.ts";
import { type Means, type Outcome, type QuestionLimits, Questions } from "./questions.ts";

export interface SegmentParts {
  readonly clock: Clock;
  readonly ifindex: number;
  readonly steer: Steer | undefined;
  readonly openLink: (family: Family) => Link;
  readonly limits: QuestionLimits & { readonly maxEntries: number };
  readonly drops: ProbeDrops;
  readonly onEntry: (entry: Entry, before: Entry | undefined) => void;
  readonly onGone: (entry: Entry) => void;
  readonly onConflict: (conflict: Conflict) => void;
  readonly onMove: (move: Move) => void;
}

/** REACHABLE_TIME of RFC 4861, and when an entry that nothing confirmed is no entry any more. */
export const [goodMs, expiryMs] = [30_000, 60_000];
/** The kernel asks three times, a second apart; asked again so often, it is never long without a question. */
const kernelPeriodMs = 1_100;
const packetPeriodMs = 1_000;
/** A second owner has so long to answer too. */
const lingerMs = 500;
/** Who had an address before it went is asked when somebody else has it within this time. */
const formerMs = 600_000;
const [maxFormer, maxAnswers] = [1_024, 8];

interface Kept extends Entry {
  /** The kernel has it. */
  readonly isKernels: boolean;
  nudgedAt: number;
}

/** An inquiry with the answers that it had. */
interface Asked {
  readonly answers: Map<Mac, Answer>;
  inquiry: Inquiry;
}

export class Segment {
  readonly #parts: SegmentParts;
  readonly #clock: Clock;
  readonly #entries = new Map<Address, Kept>();
  readonly #former = new Map<Address, { readonly mac: Mac; readonly goneAt: number }>();
  readonly #own = new Map<string, { readonly address: Address; readonly prefix: Prefix }>();
  readonly #probers: Readonly<Record<Family, Prober>>;
  readonly #byKernel: Questions<Entry>;
  readonly #byPacket: Questions<Entry>;
  readonly #asked = new Map<Address, Asked>();
  /** Inquiries that are over, and still hear who else answers. */
  readonly #lingering = new Map<Inquiry, Cancel>();
  /** Addresses whose known owner is being asked by the kernel, before everybody is. */
  readonly #reprobed = new Set<Address>();
  readonly #claims: Claims;
  #dropped = 0;
  #closed = false;

  constructor(parts: SegmentParts) {
    this.#parts = parts;
    const { clock, limits, drops } = parts;
    this.#clock = clock;
    const prober = (family: Family) => new Prober(() => parts.openLink(family), drops);
    this.#probers = { 4: prober(4), 6: prober(6) };
    const kernelMeans: Means = {
      periodMs: kernelPeriodMs,
      ask: (address, attempt) => this.#steer(address, attempt),
      rest: (address) => {
        this.#reprobed.delete(address);
        this.#endInquiry(address);
      },
    };
    const packetMeans: Means = {
      periodMs: packetPeriodMs,
      ask: (address) => this.#askByPacket(address),
      rest: (address) => this.#endInquiry(address),
    };
    this.#byKernel = new Questions(clock, kernelMeans, limits);
    const onRefused = (address: Address) => this.#removeProbed(address);
    this.#byPacket = new Questions(clock, packetMeans, { ...limits, onRefused });
    this.#claims = new Claims(clock, {
      inquire: (address, onAnswer) => this.#inquire(address, onAnswer),
      onConflict: (conflict) => parts.onConflict(conflict),
      onMove: (move) => this.#moved(move),
    });
  }

  /** Figures: what is kept, who waits, what was left out. */
  get status() {
    return {
      entries: this.#entries.size,
      questions: this.#byKernel.size + this.#byPacket.size,
      waiting: this.#byKernel.waiting + this.#byPacket.waiting,
      inquiries: this.#probers[4].size + this.#probers[6].size,
      dropped: this.#dropped,
      unverified: this.#claims.unverified,
    };
  }

  /** All entries as they are to be shown. */
  *entries(): Generator<Entry> {
    for (const kept of this.#entries.values()) yield this.#shown(kept);
  }

  get(address: Address): Entry | undefined {
    const kept = this.#entries.get(address);
    return kept && this.#shown(kept);
  }

  /** Addresses that nobody answers for at present. */
  *refused(): Generator<{ readonly address: Address; readonly retryAfterMs: number }> {
    yield* this.#byKernel.refused();
    for (const each of this.#byPacket.refused()) if (!this.#entries.has(each.address)) yield each;
  }

  conflicts(): Conflict[] {
    return this.#claims.conflicts();
  }

  /** An address of ours on the device comes or goes. */
  own(address: Address, prefixLength: number, present: boolean): void {
    const key = `${address}/${prefixLength}`;
    if (!present) this.#own.delete(key);
    else if (this.#own.size < this.#parts.limits.maxEntries) {
      this.#own.set(key, { address, prefix: prefixOf(address, prefixLength) });
    }
  }

  isOwn(address: Address): boolean {
    for (const own of this.#own.values()) if (own.address === address) return true;
    return false;
  }

  /**
   * Who has an address: at once if that is known, or known to be nobody; else when the answer is there.
   *
   * @throws Fault (rejects) "limit", "closed", or as the link refuses.
   */
  resolve(address: Address, wish: Wish): Outcome<Entry> | Promise<Outcome<Entry>> {
    const { fresh = false, byPacket = false } = wish;
    const questions = byPacket || !this.#isForKernel(address) ? this.#byPacket : this.#byKernel;
    if (fresh || byPacket) return questions.wait(address, wish.timeoutMs, true);
    const kept = this.#entries.get(address);
    if (!kept) return this.#ask(questions, address, wish.timeoutMs);
    if (this.#age(kept) <= goodMs) return this.#found(kept);
    if (kept.isKernels) return this.#lookThenResolve(address, wish.timeoutMs);
    return this.#aged(kept, wish.timeoutMs);
  }

  /** The kernel tells of an entry. */
  hear(seen: Neighbour, isRemoved: boolean): void {
    if (this.#closed) return;
    const { address, mac, state } = seen;
    const known = this.#entries.get(address);
    const isKnown = mac !== undefined && state !== "none" && state !== "incomplete" && state !== "failed";
    if (isRemoved || !isKnown) {
      if (known?.isKernels) this.#remove(known);
      if (!isRemoved && state === "failed") {
        this.#byKernel.unanswered(address, this.#reprobed.delete(address));
      }
      return;
    }
    const before = known?.mac ?? this.#formerOf(address);
    const isOther = before !== undefined && before !== mac;
    const isPermanent = state === "permanent" || state === "noarp";
    const isConfirmed = state === "reachable";
    // Of an entry that we first meet the kernel alone knows how old it is.
    const isWitnessed = known !== undefined || this.#byKernel.isProbing(address);
    const same = known?.mac === mac ? known : undefined;
    const kept: Kept = {
      ...{ address, mac, state, isKernels: true, router: seen.router },
      source: isPermanent ? "permanent" : isConfirmed && !isOther ? "solicited" : (same?.source ?? "learned"),
      confirmedAt: isConfirmed && isWitnessed ? this.#clock.now() : same?.confirmedAt,
      verified: isConfirmed ? !isOther : (same?.verified ?? false),
      nudgedAt: same?.nudgedAt ?? Number.NEGATIVE_INFINITY,
    };
    if (!this.#keep(kept, known)) return;
    if (isOther && !isPermanent) this.#claims.moved(address, before, mac);
    const isNews = isConfirmed || isPermanent || (state === "stale" && !same);
    if (isNews) {
      const entry = this.#shown(kept);
      this.#byKernel.found(address, entry, isConfirmed || isPermanent);
      this.#byPacket.forgive(address);
    }
  }

  /** The kernel's whole table of this device: what is not in it is gone. */
  hearAll(table: readonly Neighbour[]): void {
    const present = new Set(table.map(({ address }) => address));
    for (const kept of [...this.#entries.values()]) {
      if (kept.isKernels && !present.has(kept.address)) this.#remove(kept);
    }
    for (const seen of table) {
      const known = this.#entries.get(seen.address);
      const isSame = known?.isKernels && known.mac === seen.mac && known.state === seen.state;
      if (!isSame) this.hear(seen, false);
    }
  }

  /** Somebody else saw a sign of the address: what was refused is asked again at the next wish. */
  evidence(address: Address): void {
    this.#byKernel.forgive(address);
    this.#byPacket.forgive(address);
  }

  /** Forgets what we know and has the kernel do so; the next wish asks. Resolves when the kernel has. */
  async forget(address: Address): Promise<boolean> {
    const kept = this.#entries.get(address);
    this.#former.delete(address);
    this.#claims.forget(address);
    this.evidence(address);
    if (kept && !kept.isKernels) this.#remove(kept);
    if (kept?.isKernels) await this.#parts.steer?.remove(this.#parts.ifindex, address);
    return kept !== undefined;
  }

  /** The device lost its link: what was learned by packets is forgotten, all who wait get the fault. */
  down(fault: Fault): void {
    for (const kept of [...this.#entries.values()]) if (!kept.isKernels) this.#remove(kept);
    this.#end(fault, false);
  }

  close(fault: Fault): void {
    this.#closed = true;
    this.#claims.close();
    this.#end(fault, true);
    for (const kept of [...this.#entries.values()]) this.#remove(kept);
    this.#probers[4].close();
    this.#probers[6].close();
  }

  #end(fault: Fault, forGood: boolean): void {
    this.#byKernel.end(fault, forGood);
    this.#byPacket.end(fault, forGood);
    for (const { inquiry } of this.#asked.values()) inquiry.end();
    this.#asked.clear();
    for (const [inquiry, cancel] of this.#lingering) {
      cancel();
      inquiry.end();
    }
    this.#lingering.clear();
  }

  #ask(
    questions: Questions<Entry>,
    address: Address,
    timeoutMs: number,
  ): Outcome<Entry> | Promise<Outcome<Entry>> {
    const retryAfterMs = questions.refusal(address);
    if (retryAfterMs !== undefined) return { kind: "failed", reason: "negative", retryAfterMs };
    return questions.wait(address, timeoutMs);
  }

  async #lookThenResolve(address: Address, timeoutMs: number): Promise<Outcome<Entry>> {
    await this.#look(address);
    const kept = this.#entries.get(address);
    if (!kept) return this.#ask(this.#byKernel, address, timeoutMs);
    return this.#age(kept) <= goodMs ? this.#found(kept) : this.#aged(kept, timeoutMs);
  }

  /** An entry past its best: given out while it is asked for again, or not before it has answered. */
  #aged(kept: Kept, timeoutMs: number): Outcome<Entry> | Promise<Outcome<Entry>> {
    const questions = kept.isKernels ? this.#byKernel : this.#byPacket;
    if (this.#age(kept) > expiryMs) return questions.wait(kept.address, timeoutMs, true);
    const now = this.#clock.now();
    if (now - kept.nudgedAt >= packetPeriodMs) {
      kept.nudgedAt = now;
      if (kept.isKernels) {
        this.#parts.steer?.use(this.#parts.ifindex, kept.address).catch(() => this.#dropped++);
      } else questions.start(kept.address);
    }
    return this.#found(kept);
  }

  /** Takes over what the kernel alone knows: when an entry was confirmed last. */
  async #look(address: Address): Promise<void> {
    const { steer, ifindex } = this.#parts;
    const reading = await steer?.read(ifindex, address).catch(() => undefined);
    const kept = this.#entries.get(address);
    // Of another MAC the watch is about to tell.
    if (!kept?.isKernels || reading?.mac !== kept.mac || this.#closed) return;
    const confirmedAt = Math.max(
      kept.confirmedAt ?? Number.NEGATIVE_INFINITY,
      this.#clock.now() - reading.confirmedAgoMs,
    );
    this.#entries.set(address, { ...kept, confirmedAt });
  }

  #isForKernel(address: Address): boolean {
    if (!this.#parts.steer) return false;
    if (this.#entries.get(address)?.isKernels) return true;
    for (const { prefix } of this.#own.values()) if (contains(prefix, address)) return true;
    return false;
  }

  /** Our address that a question for another one carries: of its prefix; in IPv6 else the link-local one. */
  #askerFor(address: Address): Address | undefined {
    let linkLocal: Address | undefined;
    for (const own of this.#own.values()) {
      if (familyOf(own.address) !== familyOf(address)) continue;
      if (contains(own.prefix, address)) return own.address;
      if (familyOf(address) === 6 && scopeOf(own.address) === "link") linkLocal = own.address;
    }
    return linkLocal;
  }

  #steer(address: Address, attempt: number): void {
    const { steer, ifindex } = this.#parts;
    const kept = this.#entries.get(address);
    const hasOwner = attempt === 1 && kept?.isKernels === true && kept.source !== "permanent";
    if (hasOwner) this.#reprobed.add(address);
    const told = hasOwner
      ? steer!.probe(ifindex, address).catch(() => {
          this.#reprobed.delete(address);
          return steer!.use(ifindex, address);
        })
      : steer!.use(ifindex, address);
    told.catch(() => {
      // Its table is full, or it cannot on this device: we can.
      if (this.#closed || !this.#byKernel.isProbing(address)) return;
      try {
        this.#askByPacket(address);
      } catch (thrown) {
        if (!(thrown instanceof Fault)) throw thrown;
        this.#dropped++;
      }
    });
  }

  #inquire(address: Address, onAnswer: (answer: Answer) => void): Inquiry {
    return this.#probers[familyOf(address)].inquire(address, this.#askerFor(address), onAnswer);
  }

  #askByPacket(address: Address): void {
    let asked = this.#asked.get(address);
    if (!asked) {
      const answers = new Map<Mac, Answer>();
      const inquiry = this.#inquire(address, (answer) => this.#answered(address, answer, answers));
      asked = { answers, inquiry };
      this.#asked.set(address, asked);
    }
    asked.inquiry.ask();
  }

  #endInquiry(address: Address): void {
    const asked = this.#asked.get(address);
    // The kernel's question and our own may be about the same address.
    if (!asked || this.#byKernel.isProbing(address) || this.#byPacket.isProbing(address)) return;
    this.#asked.delete(address);
    const { answers, inquiry } = asked;
    if (answers.size === 0) {
      inquiry.end();
      return;
    }
    const cancel = this.#clock.after(lingerMs, () => {
      this.#lingering.delete(inquiry);
      inquiry.end();
    });
    this.#lingering.set(inquiry, cancel);
  }

  #answered(address: Address, answer: Answer, answers: Map<Mac, Answer>): void {
    const [first] = answers.values();
    if (answers.size < maxAnswers) answers.set(answer.mac, answer);
    if (first && first.mac !== answer.mac) {
      if (first.override && answer.override) this.#claims.rivals(address, first.mac, answer.mac);
      // A proxy was faster than the owner; anybody else is told of, and changes nothing.
      if (first.override || !answer.override) return;
    }
    const { mac, router } = answer;
    const known = this.#entries.get(address);
    const kept: Kept = {
      ...{ address, mac, router, state: "reachable", source: "probed", isKernels: false },
      ...{ confirmedAt: this.#clock.now(), verified: true, nudgedAt: Number.NEGATIVE_INFINITY },
    };
    const before = known?.mac ?? this.#formerOf(address);
    // What the kernel has stays the truth: it sees the same answer, and decides for itself.
    if (!known?.isKernels) this.#keep(kept, known);
    if (before !== undefined && before !== mac && !first) this.#claims.moved(address, before, mac);
    const entry = this.#shown(kept);
    this.#byPacket.found(address, entry, true);
    this.#byKernel.found(address, entry, true);
  }

  /** One owner is left. */
  #moved(move: Move): void {
    const kept = this.#entries.get(move.address);
    if (kept?.mac === move.to) {
      this.#entries.set(move.address, { ...kept, verified: move.verified });
    }
    if (move.from !== move.to) this.#parts.onMove(move);
  }

  #keep(kept: Kept, known: Kept | undefined): boolean {
    if (!known && this.#entries.size >= this.#parts.limits.maxEntries && !this.#expel()) {
      this.#dropped++;
      return false;
    }
    this.#entries.set(kept.address, kept);
    this.#former.delete(kept.address);
    this.#parts.onEntry(this.#shown(kept), known);
    return true;
  }

  /** Makes room by an answer of our own that is no longer good. */
  #expel(): boolean {
    for (const kept of this.#entries.values()) {
      if (kept.isKernels || this.#age(kept) <= goodMs) continue;
      this.#remove(kept);
      return true;
    }
    return false;
  }

  #removeProbed(address: Address): void {
    const kept = this.#entries.get(address);
    if (kept && !kept.isKernels) this.#remove(kept);
  }

  #remove(kept: Kept): void {
    this.#entries.delete(kept.address);
    if (!this.#closed && kept.source !== "permanent") {
      this.#former.delete(kept.address);
      const [oldest] = this.#former.keys();
      if (this.#former.size >= maxFormer) this.#former.delete(oldest!);
      this.#former.set(kept.address, { mac: kept.mac, goneAt: this.#clock.now() });
    }
    this.#parts.onGone(this.#shown(kept));
  }

  #formerOf(address: Address): Mac | undefined {
    const former = this.#former.get(address);
    return former && this.#clock.now() - former.goneAt < formerMs ? former.mac : undefined;
  }

  /** Since when it was confirmed; infinite if only the kernel knows. */
  #age({ source, confirmedAt }: Kept): number {
    if (source === "permanent") return 0;
    return confirmedAt === undefined ? Number.POSITIVE_INFINITY : this.#clock.now() - confirmedAt;
  }

  #found(kept: Kept): Outcome<Entry> {
    return { kind: "found", found: this.#shown(kept) };
  }

  #shown(kept: Kept): Entry {
    const { address, mac, source, confirmedAt, router } = kept;
    const isGood = this.#age(kept) <= goodMs;
    const state = kept.isKernels || isGood ? kept.state : "stale";
    const verified = kept.verified && isGood && source !== "permanent" && !this.#claims.isDisputed(address);
    return { address, mac, state, source, confirmedAt, verified, router };
  }
}
