/**
 * The far side: names that clients asked for, and the addresses they were answered.
 *
 * A name is one node; it grows with the addresses answered, each for its time to live and a grace while
 * traffic with it is seen. An address may belong to several names, which are never fused. An address that
 * nobody named is a node of its own; when a name without a node of its own is answered with it, that node
 * becomes the name's and keeps its id. One that somebody pinned or named stays just this address, and shows
 * the name: what was blocked or allowed as an address must not grow by what a name server says.
 *
 * Kept per client: its open questions, and which name it was last answered for an address, when and for how
 * long: there its traffic is booked. An answer counts only if it fits an open question of that client in every
 * field; the first that fits is the one the client takes, too.
 */

import type { Address } from "../lib/address.ts";
import { foldName } from "../lib/dns.ts";
import type { Lan } from "./lan.ts";
import { Ledger } from "./ledger.ts";
import { type Holding, isNear, isNodeAddress, isWanted, type Node } from "./node.ts";
import type { Roster } from "./roster.ts";

/** A question that a client sent, as it identifies the answer. */
export interface DnsQuery {
  readonly client: Address;
  readonly clientPort: number;
  readonly server: Address;
  /** 16 bits. */
  readonly id: number;
  /** Presentation form with trailing dot, any case. */
  readonly name: string;
  readonly type: number;
  /** What it came by: a question over TCP is not answered over UDP. Default UDP. */
  readonly transport?: "tcp";
}

/** An answer that was sent to a client. */
export interface DnsAnswer extends DnsQuery {
  readonly answers: readonly Answered[];
}

/** An address that a name was answered with. */
export interface Answered {
  readonly address: Address;
  readonly ttlSeconds: number;
}

/** Who was answered a name, or an address. */
export interface Asker {
  /** The client's node. */
  readonly id: number;
  readonly seenAt: number;
  readonly untilAt: number;
}

/** What became of an answer; all but "taken" change nothing. */
export type AnswerOutcome = "taken" | "unasked" | "refused";

/** Resolvers of clients give up after a few seconds, servers after some more. */
const QUESTION_MS = 30_000;
/** Longer times to live than a day are not believed. */
const TTL_SECONDS = 86_400;
/** Addresses of one answer that are looked at; one UDP packet holds more than anybody uses. */
const ANSWERS = 64;
/** What a client was answered, it may use for so long, whatever the time to live. */
const TOLD_MS = 86_400_000;
/** A name of 255 bytes in presentation form is no longer than this. */
const NAME_LENGTH = 1010;

export class Far {
  /** Answers to no question, questions not from a client of ours, addresses that are not far. */
  unasked = 0;
  foreign = 0;
  readonly #roster: Roster;
  readonly #lan: Lan;
  /** Client's node → question → when it was asked. */
  readonly #questions: Ledger<number>;
  /** Client's node → address → the named node. */
  readonly #told: Ledger<{ readonly id: number; readonly seenAt: number; readonly untilAt: number }>;

  constructor(roster: Roster, lan: Lan) {
    const { limits } = roster;
    this.#roster = roster;
    this.#lan = lan;
    this.#questions = new Ledger({ perClient: limits.questionsPerClient, total: limits.questions });
    this.#told = new Ledger({ perClient: limits.answersPerClient, total: limits.answers });
  }

  /** Questions and answers remembered, and those forgotten for lack of room. */
  get memory(): { questions: number; answers: number; dropped: number } {
    return {
      questions: this.#questions.size,
      answers: this.#told.size,
      dropped: this.#questions.dropped + this.#told.dropped,
    };
  }

  /**
   * The node that traffic with an address is booked on, made if need be.
   *
   * @param asker The other end of the traffic.
   * @returns undefined if the address can be no node's, or there is no room.
   */
  nodeFor(address: Address, asker: Address | undefined): Node | undefined {
    const home = this.#roster.home(address);
    if (home && isNear(home)) return this.#use(home, address);
    const named = asker === undefined ? undefined : this.#namedFor(address, asker);
    const known = named ?? home;
    if (known) return this.#use(known, address);
    if (!isNodeAddress(address) || this.#lan.isNobody(address)) return undefined;
    if (this.#lan.isLocal(address)) return this.#lan.local(address);
    const node = this.#roster.create("address");
    if (node) this.#roster.hold(node, address, "traffic");
    return node;
  }

  /** @returns the nodes of client and name, or undefined if the question is not a client's. */
  query(query: DnsQuery): { from: Node; queried: Node } | undefined {
    const name = foldName(query.name);
    const from = name.length <= NAME_LENGTH ? this.#client(query.client) : undefined;
    if (!from) {
      this.foreign++;
      return undefined;
    }
    const queried = this.#nodeOf(name);
    // Making room for the name may have cost a client that was never seen before.
    if (!queried || this.#roster.get(from.id) !== from) return undefined;
    this.#roster.touch(queried);
    this.#questions.set(from.id, questionKey(query, name), this.#roster.now);
    return { from, queried };
  }

  answer(answer: DnsAnswer): AnswerOutcome {
    const name = foldName(answer.name);
    const client = this.#roster.home(answer.client);
    const askedAt = client && this.#questions.take(client.id, questionKey(answer, name));
    if (!client || askedAt === undefined || this.#roster.now - askedAt > QUESTION_MS) {
      this.unasked++;
      return "unasked";
    }
    const usable = this.#usable(answer.answers);
    if (usable.length === 0) return "taken";
    const node = this.#learn(name, usable);
    if (!node) return "refused";
    const { now } = this.#roster;
    for (const { address, ttlSeconds } of usable) {
      this.#told.set(client.id, address, { id: node.id, seenAt: now, untilAt: now + ttlMs(ttlSeconds) });
    }
    return "taken";
  }

  /** What somebody who is believed without a question says of a name. */
  observe(name: string, addresses: readonly Answered[]): Node | undefined {
    const folded = foldName(name);
    if (folded.length > NAME_LENGTH) return undefined;
    return this.#learn(folded, this.#usable(addresses));
  }

  /** Clients that were answered a name, or for an address without one, the address; the latest first. */
  askers(node: Node): Asker[] {
    const askers = new Map<number, Asker>();
    const keys = node.kind === "name" ? undefined : node.addresses;
    for (const [id, address, { id: named, seenAt, untilAt }] of this.#told.entries()) {
      if (keys ? !keys.has(address as Address) : named !== node.id) continue;
      const before = askers.get(id);
      askers.set(id, {
        id,
        seenAt: Math.max(seenAt, before?.seenAt ?? seenAt),
        untilAt: Math.max(untilAt, before?.untilAt ?? untilAt),
      });
    }
    return [...askers.values()].sort((left, right) => right.seenAt - left.seenAt || left.id - right.id);
  }

  /** Takes addresses from names whose answers are outlived and unused, and forgets old questions. */
  tick(): void {
    const { now, limits } = this.#roster;
    this.#questions.prune((askedAt) => now - askedAt > QUESTION_MS);
    this.#told.prune(({ id, seenAt }) => now - seenAt > TOLD_MS || !this.#roster.get(id));
    for (const node of this.#roster.all()) {
      if (node.kind === "name") {
        const graceMs = node.pins ? limits.pinnedGraceMs : limits.graceMs;
        for (const [address, holding] of node.addresses) {
          if (holding.source !== "user" && now > lastUse(holding) + graceMs)
            this.#roster.release(node, address);
        }
      } else if (node.observed) {
        for (const [name, { untilAt }] of node.observed) if (now > untilAt) this.#unsee(node, name);
      }
    }
  }

  /** A client's node was merged into another. */
  merge(old: number, into: number): void {
    this.#questions.move(old, into);
    this.#told.move(old, into);
  }

  /** A merge of clients was undone: what one of them was told, either may use. */
  split(from: number, id: number): void {
    this.#told.copy(from, id);
  }

  #usable(answers: readonly Answered[]): Answered[] {
    const looked = answers.slice(0, ANSWERS);
    const usable = looked.filter(({ address }) => this.#lan.isFar(address));
    this.foreign += looked.length - usable.length;
    return usable;
  }

  #learn(name: string, answers: readonly Answered[]): Node | undefined {
    const node = this.#named(
      name,
      answers.map(({ address }) => address),
    );
    if (!node) return undefined;
    for (const { address, ttlSeconds } of answers) {
      this.#grow(node, address, this.#roster.now + ttlMs(ttlSeconds));
    }
    this.#roster.touch(node);
    return node;
  }

  #use(node: Node, address: Address): Node {
    const holding = node.addresses.get(address);
    if (holding) holding.seenAt = this.#roster.now;
    this.#roster.touch(node);
    return node;
  }

  #namedFor(address: Address, asker: Address): Node | undefined {
    const client = this.#roster.home(asker);
    const told = client && this.#told.get(client.id, address);
    const node = told && this.#roster.get(told.id);
    return node?.addresses.has(address) ? node : undefined;
  }

  /** The router asks for itself, not as a client; so do gateways. Far ends are no clients of ours. */
  #client(address: Address): Node | undefined {
    if (!this.#roster.home(address) && !this.#lan.isLocal(address)) return undefined;
    const node = this.nodeFor(address, undefined);
    return node?.kind === "device" || node?.kind === "local" ? node : undefined;
  }

  #nodeOf(name: string): Node | undefined {
    const known = this.#roster.byName(name);
    if (known) return known;
    const node = this.#roster.create("name");
    if (node) this.#roster.setDnsName(node, name);
    return node;
  }

  /** The node of a name that was answered with these addresses: one of them, if only that was known so far. */
  #named(name: string, addresses: readonly Address[]): Node | undefined {
    const known = this.#roster.byName(name);
    if (known && (known.addresses.size > 0 || isWanted(known))) return known;
    let eldest: Node | undefined;
    for (const address of addresses) {
      const home = this.#roster.home(address);
      if (home?.kind !== "address" || isWanted(home)) continue;
      if (!eldest || home.id < eldest.id) eldest = home;
    }
    if (!eldest) return known ?? this.#nodeOf(name);
    if (known) this.#roster.absorb(known, eldest);
    this.#roster.setKind(eldest, "name");
    this.#roster.setDnsName(eldest, name);
    return eldest;
  }

  #grow(node: Node, address: Address, untilAt: number): void {
    const holding = this.#roster.hold(node, address, "dns");
    holding.untilAt = Math.max(holding.untilAt, untilAt);
    const home = this.#roster.home(address);
    if (home && home !== node && home.kind === "address") this.#see(home, node.dnsName!, untilAt);
  }

  #see(node: Node, name: string, untilAt: number): void {
    const { now } = this.#roster;
    node.observed ??= new Map();
    const known = node.observed.get(name);
    if (known) {
      known.seenAt = now;
      known.untilAt = Math.max(known.untilAt, untilAt);
      return;
    }
    const [oldest] = node.observed.keys();
    if (node.observed.size >= this.#roster.limits.namesPerNode) node.observed.delete(oldest!);
    node.observed.set(name, { sinceAt: now, seenAt: now, untilAt });
    this.#roster.noteChange(node);
  }

  #unsee(node: Node, name: string): void {
    node.observed!.delete(name);
    if (node.observed!.size === 0) node.observed = undefined;
    this.#roster.noteChange(node);
  }
}

function ttlMs(ttlSeconds: number): number {
  return Math.min(TTL_SECONDS, Math.max(0, ttlSeconds || 0)) * 1000;
}

function lastUse(holding: Holding): number {
  return Math.max(holding.untilAt, holding.seenAt);
}

/** The name last: it may contain anything. */
function questionKey(query: DnsQuery, name: string): string {
  return `${query.transport ?? "udp"} ${query.clientPort} ${query.id} ${query.type} ${query.server} ${name}`;
}
