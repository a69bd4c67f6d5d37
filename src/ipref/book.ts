/**
 * The book of mappings: who has which number, until when, and who has to give way.
 *
 * Kept in the records (records.ts), in lists by peer (peers.ts), and as what the disk has to learn (keeping.ts).
 * Both directions of a mapping are one record, so that every copy ends together. Changed by `ask…`, `sweep` and
 * `setWritten`; nobody is told. It decides, and touches nothing but the table.
 *
 * A record that was drawn is *new* until the disk knows it, then *live*, then *at rest*: nobody finds it, its numbers
 * are kept for its host, who gets them back by asking. Quotas: each peer (a context address; local hosts together are
 * one, too) has live records up to its quota, and as many at rest; of them its packets alone make half at most, and
 * not too fast. At its quota a peer's own least recently used record goes to rest, if it was idle for a while: first
 * those that only its packets made; packets never push out what our own hosts asked for by name. When all places are
 * taken, the peer with the most at rest loses the one that has rested longest; if nobody has any, the peer with the
 * most live ones loses its least recently used. What is not idle stays, and the newcomer is refused. Of the places of
 * peers, those of whom nobody has asked by name take three quarters at most; one of them that was idle for a while, or
 * whose mappings all rest, gives way to a newcomer with all that it has.
 */

import { type Address, decodeAddress } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { drawReference, formatReference } from "../lib/reference.ts";
import { Keeping, type Named, type Unkept } from "./keeping.ts";
import { type Asker, type Peer, Peers } from "./peers.ts";
import { keysOf, Mark, type Pair, Records } from "./records.ts";
import { type GatewayFacts, Rules } from "./rules.ts";
import type { MappingLine, SavedLines } from "./saved.ts";
import type { SourceState, Written } from "./sources.ts";
import { State } from "./table.ts";

export interface BookOptions {
  readonly facts: GatewayFacts;
  /** Of all mappings, those written down and those at rest included. */
  readonly maxMappings: number;
  readonly maxPerPeer: number;
  readonly maxPeers: number;
  readonly maxLocals: number;
  random(length: number): Uint8Array;
}

/** Of a drawn mapping. Every copy of it ends at the same time, so these are the protocol's and no options. */
export const times = {
  /** From the last refresh to the end. */
  lifeMs: 14_400_000,
  /** A use refreshes what has less left. */
  refreshBelowMs: 10_800_000,
  /** How long the numbers are kept for their host after the end. */
  restMs: 21_600_000,
  /** Nobody gives way who was used since. */
  idleMs: 600_000,
  /** How much earlier than it has to the disk learns of a refresh, so that many go together. */
  aheadMs: 3_600_000,
} as const;

/** A mapping as it is shown. */
export interface Entry extends Pair {
  readonly id: number;
  readonly state: "static" | "live" | "new" | "rest";
  /** Of a static one. */
  readonly owner: string | undefined;
  /** When it ends, or its rest does; Infinity: never. Monotonic. */
  readonly endsAt: number;
  readonly usedAt: number;
  readonly byName: boolean;
}

interface Terms {
  readonly now: number;
  /** "Cannot …", for a fault. */
  what(): string;
}

/** Places beyond the most mappings, for those that have ended and that a reader may still stand on. */
const slack = 1_024;
const drawTries = 16;
/** Which part of the peers may be there for nothing but their packets, whose senders may be made up. */
const packetPeers = 3 / 4;

export class Book {
  readonly records: Records;
  readonly rules: Rules;
  readonly peers: Peers;
  readonly keeping: Keeping;
  readonly #options: BookOptions;
  readonly #written = new Map<string, { readonly record: number; readonly written: Written }>();
  readonly #owners = new Map<number, string>();
  /** How many mappings of a context are written down. */
  readonly writtenBy = new Map<Address, number>();
  /** Whose mapping is being made. */
  #asking: Peer | undefined;

  constructor(options: BookOptions) {
    this.#options = options;
    const capacity = options.maxMappings + slack;
    this.records = new Records(options.facts, capacity, options.random);
    this.rules = new Rules(options.facts);
    this.keeping = new Keeping(this.records, times);
    this.peers = new Peers(capacity, options.maxPeers);
  }

  get written(): number {
    return this.#written.size;
  }

  // What is asked for.

  /** The mapping of a remote host. @throws Fault "invalid" for what is none, "limit" */
  askTheirs(context: Address, reference: bigint, by: { readonly asked: Asker; readonly now: number }): Named {
    const { asked, now } = by;
    const what = () => `Cannot map ${context} + ${formatReference(reference)}`;
    const wrong = this.rules.wrongRemote(context, reference);
    if (wrong !== undefined) throw new Fault("invalid", `${what()}: ${wrong}`);
    const remote = { kind: "theirs", context, reference } as const;
    const present =
      this.records.byReference(remote, State.byReference) || this.records.byReference(remote, State.drawn);
    if (present !== 0) return this.#again(present, asked, { now, what });
    const peer = this.#peerOf(context, asked, { now, what });
    // While room is made its last record may be what gives way; the peer stays.
    this.#asking = peer;
    try {
      this.#admit(peer, asked, { now, what });
      this.#makePlace({ now, what });
      return this.#begin({ ...remote, address: this.#drawEncoded(what) }, { peer, asked, now });
    } finally {
      this.#asking = undefined;
      this.peers.settle(peer);
    }
  }

  /** The mapping of a local host. @throws Fault "invalid" for what is none, "limit" */
  askOurs(address: Address, now: number): Named {
    const what = () => `Cannot give ${address} a reference`;
    const wrong = this.rules.wrongLocal(address);
    if (wrong !== undefined) throw new Fault("invalid", `${what()}: ${wrong}`);
    const present =
      this.records.byAddress("ours", address, State.byAddress) ||
      this.records.byAddress("ours", address, State.drawn);
    if (present !== 0) return this.#again(present, "name", { now, what });
    const { locals } = this.peers;
    this.#admit(locals, "name", { now, what });
    this.#makePlace({ now, what });
    const pair = { kind: "ours", address, context: undefined, reference: this.#drawReference(what) } as const;
    return this.#begin(pair, { peer: locals, asked: "name", now });
  }

  /** Whether what was asked for can be had now. */
  isReady({ record, life }: Named): boolean {
    return this.records.lives[record] === life && !this.records.has(record, Mark.isNew | Mark.rests);
  }

  // What time does.

  /** Takes up what readers used, refreshes it, ends and forgets. */
  sweep(now: number): void {
    const { records } = this;
    for (let record = 1; record <= records.highest; record++) {
      const marks = records.marksOf(record);
      if (marks === 0) continue;
      const isUsed = records.table.takeUsed(record);
      const isOver = records.endsAt[record]! <= now;
      if ((marks & Mark.rests) !== 0) {
        if (isOver) this.#forget(record);
      } else if (isUsed) {
        this.#use(record, "packet", now);
      } else if (isOver && (marks & (Mark.isNew | Mark.written)) === 0) {
        this.#rest(record, records.endsAt[record]! + times.restMs);
      }
    }
  }

  // What the disk knows.

  /** The disk refused these: new ones go to rest, the others are to be written again. */
  giveBack(unkept: readonly Unkept[], now: number): void {
    for (const record of this.keeping.giveBack(unkept)) this.#rest(record, now + times.restMs);
  }

  /**
   * Takes in what was on disk.
   *
   * @returns the sources that were kept, and how many mappings make no sense here any more.
   */
  load(saved: readonly SavedLines[], boot: string, now: number): { sources: SourceState[]; left: number } {
    const sources = new Map<string, SourceState>();
    let left = 0;
    for (const lines of saved) {
      const isThisBoot = lines.boot === boot && boot !== "";
      for (const source of lines.sources) sources.set(source.owner, source);
      lines.eachMapping((line) => {
        if (!this.#restore(line, isThisBoot, now)) left++;
      });
    }
    return { sources: [...sources.values()], left };
  }

  // What is written down.

  /**
   * Makes what is written down hold, at once.
   *
   * @returns the names of those for which there is no place.
   */
  setWritten(wanted: ReadonlyMap<string, Written>, now: number): string[] {
    const changed: Written[] = [];
    for (const [name, { record, written }] of this.#written) {
      if (wanted.has(name)) continue;
      this.#written.delete(name);
      this.#owners.delete(record);
      this.#countWritten(written, -1);
      this.records.remove(record);
      changed.push(written);
    }
    const left: string[] = [];
    for (const [name, written] of wanted) {
      const before = this.#written.get(name);
      const record = before?.record ?? this.#write(written, now);
      if (record === 0) {
        left.push(name);
        continue;
      }
      if (!before) this.#countWritten(written, 1);
      this.#written.set(name, { record, written });
      this.#owners.set(record, written.owner);
      const by = (written.byAddress ? State.byAddress : 0) | (written.byReference ? State.byReference : 0);
      this.records.table.show(record, by);
      changed.push(written);
    }
    for (const { record } of changed) {
      const twin = this.records.drawnFor(record);
      if (twin !== 0) this.records.show(twin);
    }
    return left;
  }

  // What is shown.

  /** @returns undefined if nothing has the number. */
  entry(record: number): Entry | undefined {
    const marks = this.records.marksOf(record);
    if (marks === 0) return undefined;
    const isWritten = (marks & Mark.written) !== 0;
    const drawn = (marks & Mark.rests) !== 0 ? "rest" : (marks & Mark.isNew) !== 0 ? "new" : "live";
    return {
      ...this.records.pairOf(record),
      id: record,
      state: isWritten ? "static" : drawn,
      owner: this.#owners.get(record),
      endsAt: isWritten ? Number.POSITIVE_INFINITY : this.records.endsAt[record]!,
      usedAt: this.records.usedAt[record]!,
      byName: (marks & Mark.byName) !== 0,
    };
  }

  /** When a peer's most recently used mapping was. */
  usedAt(peer: Peer): number {
    const latest = (["packet", "name"] as const).map((where) => this.peers.last(peer, where));
    return Math.max(0, ...latest.map((record) => (record === 0 ? 0 : this.records.usedAt[record]!)));
  }

  // Inside.

  #ask(record: number): Named {
    return { record, life: this.records.lives[record]! };
  }

  /** A record that is there, wanted again: refreshed, or begun anew with its numbers. */
  #again(record: number, asked: Asker, terms: Terms): Named {
    if (!this.records.has(record, Mark.rests)) return this.#use(record, asked, terms.now);
    const peer = this.peers.at(this.records.slots[record]!);
    // While room is made it must not be what gives way.
    this.peers.take(record);
    try {
      this.#admit(peer, asked, terms);
    } catch (thrown) {
      this.peers.put(record, peer, "rest");
      throw thrown;
    }
    return this.#live(record, asked, terms.now);
  }

  /** A record that is not at rest was used. */
  #use(record: number, asked: Asker, now: number): Named {
    const { records } = this;
    records.usedAt[record] = now;
    if (records.has(record, Mark.written)) return this.#ask(record);
    this.#file(record, asked);
    if (records.endsAt[record]! - now < times.refreshBelowMs) {
      records.endsAt[record] = now + times.lifeMs;
      this.keeping.want(record);
    }
    return this.#ask(record);
  }

  /** Puts a record where it belongs in its peer's lists: used just now. */
  #file(record: number, asked: Asker): void {
    if (asked === "name" && !this.records.has(record, Mark.byName)) {
      this.records.mark(record, Mark.byName, 0);
      this.keeping.wantChanged(record);
    }
    const peer = this.peers.at(this.records.slots[record]!);
    this.peers.put(record, peer, this.records.has(record, Mark.byName) ? "name" : "packet");
  }

  #begin(pair: Pair, terms: { readonly peer: Peer; readonly asked: Asker; readonly now: number }): Named {
    const record = this.records.add(pair.kind, keysOf(pair), Mark.drawn);
    if (record === 0) throw new Fault("limit", "Cannot make mapping: the forwarders still hold every place");
    this.records.slots[record] = terms.peer.slot;
    return this.#live(record, terms.asked, terms.now);
  }

  /** Begins a life, which is in force once the disk knows it. */
  #live(record: number, asked: Asker, now: number): Named {
    const { records } = this;
    records.usedAt[record] = now;
    records.endsAt[record] = now + times.lifeMs;
    const isKept = records.endsAt[record]! <= records.keptUntilAt[record]!;
    records.mark(record, isKept ? 0 : Mark.isNew, Mark.rests);
    this.#file(record, asked);
    this.keeping.want(record);
    return this.#ask(record);
  }

  #rest(record: number, untilAt: number): void {
    const peer = this.peers.at(this.records.slots[record]!);
    this.records.mark(record, Mark.rests, Mark.isNew);
    this.records.endsAt[record] = untilAt;
    this.keeping.drop(record);
    this.peers.put(record, peer, "rest");
    if (this.peers.length(peer, "rest") > this.#mostOf(peer)) this.#forget(this.peers.first(peer, "rest"));
  }

  #forget(record: number): void {
    const peer = this.peers.at(this.records.slots[record]!);
    this.peers.take(record);
    this.keeping.drop(record);
    this.records.remove(record);
    if (peer !== this.#asking) this.peers.settle(peer);
  }

  #mostOf(peer: Peer): number {
    return peer === this.peers.locals ? this.#options.maxLocals : this.#options.maxPerPeer;
  }

  #peerOf(context: Address, asked: Asker, { now, what }: Terms): Peer {
    const { peers } = this;
    const present = peers.get(context);
    if (present) return present;
    const most =
      asked === "packet" ? Math.ceil(this.#options.maxPeers * packetPeers) : this.#options.maxPeers;
    if (peers.count >= most) {
      const unnamed = [...peers.all()].filter((each) => peers.length(each, "name") === 0);
      const isFull = asked === "name" || unnamed.length >= most || peers.count >= this.#options.maxPeers;
      const loser = isFull ? peers.idlest(unnamed, this.records.usedAt, now - times.idleMs) : undefined;
      if (isFull && !loser) throw new Fault("limit", `${what()}: ${peers.count} other peers have mappings`);
      // With its last record the peer goes, too.
      while (loser && peers.firstOf(loser) !== 0) this.#forget(peers.firstOf(loser));
    }
    return peers.add(context)!;
  }

  /** Makes room in a peer's quota. @throws Fault "limit" */
  #admit(peer: Peer, asked: Asker, { now, what }: Terms): void {
    const most = this.#mostOf(peer);
    const byPacket = this.peers.length(peer, "packet");
    const isFull = byPacket + this.peers.length(peer, "name") >= most;
    const isPacket = asked === "packet";
    if (isFull || (isPacket && byPacket >= Math.ceil(most / 2))) {
      const victim = this.#idle(peer, "packet", now) || (isPacket ? 0 : this.#idle(peer, "name", now));
      if (victim === 0) throw new Fault("limit", `${what()}: its peer has ${most} mappings in use`);
      this.#rest(victim, now + times.restMs);
    }
    if (isPacket && !this.peers.pays(peer, now)) {
      throw new Fault("limit", `${what()}: its peer makes mappings too fast`);
    }
  }

  /** The least recently used record of a list, if it was not used for a while; else 0. */
  #idle(peer: Peer, where: "packet" | "name", now: number): number {
    const record = this.peers.first(peer, where);
    if (record === 0 || this.records.has(record, Mark.isNew)) return 0;
    return this.records.usedAt[record]! + times.idleMs <= now ? record : 0;
  }

  #makePlace({ now, what }: Terms): void {
    while (this.records.count >= this.#options.maxMappings) {
      if (!this.#giveWay(now)) throw new Fault("limit", `${what()}: all places are in use`);
    }
  }

  /** Whether somebody has lost a place. */
  #giveWay(now: number): boolean {
    const resting = this.peers.most("rest");
    const living = resting ? undefined : this.peers.most("packet", "name");
    const victim = resting
      ? this.peers.first(resting, "rest")
      : living && (this.#idle(living, "packet", now) || this.#idle(living, "name", now));
    if (!victim) return false;
    this.#forget(victim);
    return true;
  }

  #drawEncoded(what: () => string): Address {
    const { facts, random } = this.#options;
    const { table } = this.records;
    for (let tries = 0; tries < drawTries; tries++) {
      const address = facts.net.draw(random, (bytes) => table.byAddress(bytes, State.linked) === 0);
      if (address !== undefined) return address;
      const resting = this.peers.most("rest");
      if (!resting) break;
      // In a small net somebody needs the numbers.
      this.#forget(this.peers.first(resting, "rest"));
    }
    throw new Fault("limit", `${what()}: the encode net is used up`);
  }

  #drawReference(what: () => string): bigint {
    for (let tries = 0; tries < drawTries; tries++) {
      const reference = drawReference(this.#options.random(9));
      const holder = this.records.byReference({ kind: "ours", context: undefined, reference }, State.linked);
      if (holder === 0) return reference;
    }
    throw new Fault("limit", `${what()}: the machine's randomness repeats itself`);
  }

  #write({ record: pair }: Written, now: number): number {
    // What somebody wants it to be goes before what we drew.
    const drawn =
      pair.kind === "ours"
        ? this.records.byReference(pair, State.drawn)
        : this.records.byAddress("theirs", pair.address, State.drawn);
    if (drawn !== 0) this.#forget(drawn);
    while (this.records.count >= this.#options.maxMappings) if (!this.#giveWay(now)) return 0;
    return this.records.add(pair.kind, keysOf(pair), Mark.written);
  }

  #countWritten({ record: { kind, context } }: Written, by: 1 | -1): void {
    if (kind === "ours" || context === undefined) return;
    const count = (this.writtenBy.get(context) ?? 0) + by;
    if (count === 0) this.writtenBy.delete(context);
    else this.writtenBy.set(context, count);
  }

  /** @returns whether the line makes sense here, and there is a place for it. */
  #restore(line: MappingLine, isThisBoot: boolean, now: number): boolean {
    const { isOurs, rests } = line;
    const { records, peers } = this;
    const { table } = records;
    const { tunnel } = this.#options.facts;
    if (!isOurs && line.contextFamily !== tunnel) return false;
    const context = isOurs ? undefined : decodeAddress(line.context, 0, tunnel);
    const known = context === undefined ? peers.locals : peers.get(context);
    if (!this.#isRight(line, known ? undefined : context)) return false;
    // The same host with another number before, and another host with the same.
    const kind = isOurs ? State.ours : 0;
    this.#forgetFormer(table.byAddress(line.address, State.drawn | kind));
    this.#forgetFormer(
      isOurs
        ? table.ours(line.reference, State.drawn)
        : table.theirs(line.context, line.reference, State.drawn),
    );
    const untilAt = isThisBoot
      ? Math.min(line.untilAt, now + (rests ? times.restMs : 2 * times.lifeMs))
      : Number.POSITIVE_INFINITY;
    const isLive = !rests && untilAt > now;
    const restUntilAt = isThisBoot ? untilAt + (rests ? 0 : times.restMs) : now + times.restMs;
    if (!isLive && restUntilAt <= now) return true;
    if (records.count >= this.#options.maxMappings) return false;
    const peer = context === undefined ? peers.locals : (peers.get(context) ?? peers.add(context));
    if (!peer) return false;
    const isCrowded = peers.length(peer, "packet", "name") >= this.#mostOf(peer);
    const record = records.add(isOurs ? "ours" : "theirs", line, Mark.drawn);
    records.slots[record] = peer.slot;
    records.keptUntilAt[record] = untilAt;
    records.usedAt[record] = now;
    records.endsAt[record] = isThisBoot ? untilAt : now + times.lifeMs;
    if (line.byName || isOurs) records.mark(record, Mark.byName, 0);
    this.#file(record, "packet");
    if (isLive && !isCrowded) records.show(record);
    else this.#rest(record, isLive ? now + times.restMs : restUntilAt);
    return true;
  }

  /** @param context to be judged; that of a peer that has mappings already was. */
  #isRight(line: MappingLine, context: Address | undefined): boolean {
    const { net } = this.#options.facts;
    if (line.addressFamily !== net.family || !line.hasReference) return false;
    if (line.isOurs) return this.rules.wrongLocal(decodeAddress(line.address, 0, net.family)) === undefined;
    const isJudged = context === undefined || this.rules.wrongGateway(context) === undefined;
    return isJudged && net.isUsable(line.address);
  }

  #forgetFormer(record: number): void {
    if (record !== 0 && this.records.marksOf(record) !== 0) this.#forget(record);
  }
}
