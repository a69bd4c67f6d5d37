/**
 * What passes between whom: the kernel's connections with their counters, told as differences.
 *
 * Kept: every connection that is open, by the reader's key, with the counters last seen. Two things change it:
 * the whole table is read each period (both families; counters are read, never zeroed: others count too), and
 * the kernel tells when a connection opens and when it ends. The last message of a connection carries its final
 * counters, so one that lives shorter than a period is counted in full. Told: `onFlows`, in batches, with what
 * has passed since the connection was last told of; what has not moved is not told.
 *
 * What lies before the watch is not counted: connections that are there at the start are told once, with
 * nothing passed. Counters that go backwards were zeroed by somebody else, and count from zero on.
 *
 * The kernel counts only connections that opened while `nf_conntrack_acct` was on, so it is switched on. It
 * tells of the end only for connections that opened while somebody listened, and not of all if we are slow: one
 * that is missing from two readings in a row has ended, and what it moved after the last reading is not known.
 *
 * Reading takes about 3 ms for each thousand connections, half of it in the kernel: the next reading
 * waits until at least nine times as long as the last one took, so a huge table is read less often.
 */

import { Fault } from "../lib/fault.ts";
import type { Clock, Disk, Sockets } from "../system/system.ts";
import {
  type Connection,
  ConnectionReader,
  connectionMessage,
  counterWords,
  readConnections,
} from "./connection.ts";
import { type Message, Netlink, type NetlinkCounters, netfilterProtocol, newCounters } from "./netlink.ts";
import { Rounds } from "./rounds.ts";
import { Subscription } from "./subscription.ts";

/**
 * What passed on a connection since it was last told of. "Out" is the way of the original tuple.
 *
 * Numbers are exact up to 2^53−1, however high the kernel's counters stand; a difference beyond that is told
 * as 2^53−1.
 */
export interface Delta extends Connection {
  readonly bytesOut: number;
  readonly packetsOut: number;
  readonly bytesIn: number;
  readonly packetsIn: number;
  /** Told of for the first time. */
  readonly new: boolean;
  /** Told of for the last time. */
  readonly ended: boolean;
}

export interface ConntrackOptions {
  /** From one reading of the table to the next. */
  readonly periodMs: number;
  /** Connections kept, somewhat under a kilobyte each; default 65,536. Those beyond are counted when they end. */
  readonly maxConnections?: number;
  /** Receive buffer for events; the default of `Sockets.netlink` if absent. */
  readonly receiveBytes?: number;
  /** Some hundred at most at a time; the array is the callee's. */
  onFlows(deltas: Delta[]): void;
  /** Reading failed and is tried again by itself, or the kernel's accounting cannot be switched on. */
  onFault?(fault: Fault): void;
}

export interface ConntrackCounters extends NetlinkCounters {
  /** Times that the table is read at once because events were lost. */
  resyncs: number;
  /** Readings of the table that came to their end. */
  readings: number;
  /** Connections not kept because there were too many, counted at each reading. */
  dropped: number;
  /** Connections whose end was not told: what they moved last is missing. */
  vanished: number;
}

/**
 * Reads the connections, then follows them. Those that are there have been told when the promise resolves.
 *
 * @throws Fault as `Netlink.dump` does.
 */
export async function watchConntrack(
  system: Sockets & Clock & Pick<Disk, "read" | "set">,
  options: ConntrackOptions,
): Promise<ConntrackWatch> {
  const watch = new ConntrackWatch(system, options);
  await watch.start();
  return watch;
}

const batch = 256;
const defaultMaxConnections = 65_536;
const accountingRetryMs = 60_000;
/** Readings in a row that a connection may be missing from: a reading can pass over one while others move. */
const maxMissed = 2;

/** NFNLGRP_CONNTRACK_NEW and _DESTROY. */
const groups = [1, 3];

/** Settings without which the kernel does not count, or does not tell. */
const settings = [
  "/proc/sys/net/netfilter/nf_conntrack_acct",
  "/proc/sys/net/netfilter/nf_conntrack_events",
] as const;

interface Known {
  readonly connection: Connection;
  /** Last seen, see `counterWords`. */
  readonly counters: Uint32Array;
  /** Readings since it was last seen. */
  missed: number;
  /** The kernel has told of its beginning. */
  announced: boolean;
  /** The reading that ran when its beginning was told: that one may still speak of a predecessor. */
  readonly bornIn: number;
  /** It has ended while a reading runs, which may still bring it. */
  ended: boolean;
}

export class ConntrackWatch {
  readonly counters: ConntrackCounters = {
    ...newCounters(),
    resyncs: 0,
    readings: 0,
    dropped: 0,
    vanished: 0,
  };
  readonly #system: Sockets & Clock & Pick<Disk, "read" | "set">;
  readonly #options: ConntrackOptions;
  readonly #known = new Map<number, Known>();
  readonly #reader = new ConnectionReader();
  /** What the delta made next has passed, in the order of `counterWords`. */
  readonly #passed = [0, 0, 0, 0];
  readonly #rounds: Rounds;
  #deltas: Delta[] = [];
  #events: Subscription | undefined;
  /** Number of the reading that runs or ran last; `#reading` if one runs. */
  #round = 0;
  #reading = false;
  #counting = false;
  #nextAccountingAt = 0;
  #closed = false;

  /** Use `watchConntrack`. */
  constructor(system: Sockets & Clock & Pick<Disk, "read" | "set">, options: ConntrackOptions) {
    this.#system = system;
    this.#options = options;
    this.#rounds = new Rounds(system, () => this.#readAll(), {
      periodMs: options.periodMs,
      onFault: (thrown) => this.#report(thrown),
    });
  }

  async start(): Promise<void> {
    try {
      await this.#switchOn();
      this.#listen();
      await this.#rounds.start();
    } catch (thrown) {
      this.close();
      throw thrown;
    }
  }

  /** Whether the kernel counts what passes. It was told so; older connections stay uncounted until they end. */
  get counting(): boolean {
    return this.#counting;
  }

  /** Connections kept now. */
  get size(): number {
    return this.#known.size;
  }

  close(): void {
    this.#closed = true;
    this.#rounds.close();
    this.#events?.close();
  }

  async #switchOn(): Promise<void> {
    try {
      for (const path of settings) {
        const content = await this.#system.read(path);
        if (!content) throw new Fault("unsupported", `Cannot switch on accounting: ${path} is not there`);
        // Any other value of the kernel's switches means on, some of them in a way that is not ours to change.
        if (content[0] === 0x30) await this.#system.set(path, "1");
      }
      this.#counting = true;
    } catch (thrown) {
      this.#report(thrown);
    }
  }

  #listen(): void {
    const { receiveBytes } = this.#options;
    this.#events = new Subscription(
      this.#system,
      {
        ...{ protocol: netfilterProtocol, groups, counters: this.counters },
        ...(receiveBytes === undefined ? {} : { receiveBytes }),
      },
      {
        onEvent: (event) => this.#hear(event),
        onEventsEnd: () => this.#flush(),
        onGap: () => this.#resync(),
        onFault: (fault) => this.#report(fault),
      },
    );
  }

  #resync(): void {
    this.counters.resyncs++;
    this.#rounds.soon();
  }

  #report(thrown: unknown): void {
    if (this.#closed) return;
    this.#options.onFault?.(
      thrown instanceof Fault ? thrown : new Fault("kernel", "Cannot read connections", { cause: thrown }),
    );
  }

  async #readAll(): Promise<void> {
    const questions = new Netlink(this.#system, { protocol: netfilterProtocol, counters: this.counters });
    this.#round++;
    this.#reading = true;
    try {
      await questions.dump(readConnections, { onMessage: (answer) => this.#see(answer) });
    } finally {
      this.#reading = false;
      questions.close();
    }
    if (this.#closed) return;
    this.counters.readings++;
    this.#sweep();
    this.#flush();
    // The switches are there only once the kernel has loaded connection tracking, which the question does.
    if (!this.#counting && this.#system.now() >= this.#nextAccountingAt) {
      this.#nextAccountingAt = this.#system.now() + accountingRetryMs;
      await this.#switchOn();
    }
  }

  /** A connection in a reading of the table. */
  #see(answer: Message): void {
    if (this.#closed || !this.#readMessage(answer)) return;
    const known = this.#known.get(this.#reader.key);
    if (!known) {
      const fresh = this.#add({ announced: false });
      if (!fresh) return;
      // What was there before the first reading has moved what it moved before our time.
      if (this.counters.readings === 0) fresh.counters.set(this.#reader.counters);
      this.#tell(fresh, { new: true, ended: false });
      return;
    }
    if (known.ended) return;
    known.missed = 0;
    if (known.bornIn !== this.#round && this.#moved(known)) this.#tell(known, { new: false, ended: false });
  }

  #hear(event: Message): void {
    if (event.type !== connectionMessage.new && event.type !== connectionMessage.delete) return;
    if (this.#closed || !this.#readMessage(event)) return;
    const known = this.#known.get(this.#reader.key);
    if (event.type === connectionMessage.new) this.#begin(known);
    else this.#finish(known);
  }

  #begin(known: Known | undefined): void {
    if (known && !known.ended && !known.announced) {
      known.announced = true;
      return;
    }
    // The same key again, told as new twice: the end of the former has been lost.
    if (known && !known.ended) this.#vanish(known);
    this.#known.delete(this.#reader.key);
    const fresh = this.#add({ announced: true });
    if (fresh) this.#tell(fresh, { new: true, ended: false });
  }

  #finish(known: Known | undefined): void {
    if (known?.ended) return;
    // One that we have not heard of, or had no room for, is told as a whole.
    const whole = known ?? this.#make({ announced: true });
    if (!whole) return;
    if (!known && this.counters.readings === 0) whole.counters.set(this.#reader.counters);
    this.#tell(whole, { new: !known, ended: true });
    whole.ended = true;
    if (!this.#reading) this.#known.delete(this.#reader.key);
    else if (this.#known.size < this.#maxConnections) this.#known.set(this.#reader.key, whole);
  }

  #sweep(): void {
    for (const [key, known] of this.#known) {
      if (known.ended) {
        this.#known.delete(key);
      } else if (known.missed++ >= maxMissed) {
        this.#vanish(known);
        this.#known.delete(key);
      }
    }
  }

  #vanish(known: Known): void {
    this.counters.vanished++;
    this.#passed.fill(0);
    this.#push(known.connection, { status: known.connection.status, new: false, ended: true });
  }

  #readMessage(from: Message): boolean {
    if (this.#reader.read(from)) return true;
    this.counters.malformed++;
    return false;
  }

  get #maxConnections(): number {
    return this.#options.maxConnections ?? defaultMaxConnections;
  }

  #add(state: { announced: boolean }): Known | undefined {
    if (this.#known.size >= this.#maxConnections) {
      this.counters.dropped++;
      return undefined;
    }
    const known = this.#make(state);
    if (known) this.#known.set(this.#reader.key, known);
    return known;
  }

  #make({ announced }: { announced: boolean }): Known | undefined {
    const connection = this.#reader.decode();
    if (!connection) {
      this.counters.malformed++;
      return undefined;
    }
    const bornIn = announced && this.#reading ? this.#round : 0;
    const counters = new Uint32Array(counterWords.length);
    return { connection, counters, missed: 0, announced, bornIn, ended: false };
  }

  #moved(known: Known): boolean {
    if (!this.#reader.counted) return false;
    for (let word = 0; word < counterWords.length; word++) {
      if (known.counters[word] !== this.#reader.counters[word]) return true;
    }
    return false;
  }

  /** Tells what passed up to the message that the reader looks at. */
  #tell(known: Known, state: { new: boolean; ended: boolean }): void {
    this.#passed.fill(0);
    if (this.#reader.counted) advance(known.counters, this.#reader.counters, this.#passed);
    this.#push(known.connection, { status: this.#reader.status, ...state });
  }

  #push(connection: Connection, state: { status: number; new: boolean; ended: boolean }): void {
    const passed = this.#passed;
    // Written out, because there may be tens of thousands at once.
    this.#deltas.push({
      id: connection.id,
      zone: connection.zone,
      family: connection.family,
      protocol: connection.protocol,
      source: connection.source,
      destination: connection.destination,
      sourcePort: connection.sourcePort,
      destinationPort: connection.destinationPort,
      icmpType: connection.icmpType,
      icmpCode: connection.icmpCode,
      reply: connection.reply,
      status: state.status,
      startedAt: connection.startedAt,
      packetsOut: passed[0]!,
      bytesOut: passed[1]!,
      packetsIn: passed[2]!,
      bytesIn: passed[3]!,
      new: state.new,
      ended: state.ended,
    });
    if (this.#deltas.length >= batch) this.#flush();
  }

  #flush(): void {
    if (this.#deltas.length === 0 || this.#closed) return;
    const deltas = this.#deltas;
    this.#deltas = [];
    this.#options.onFlows(deltas);
  }
}

/**
 * Brings `last` up to `now` and fills in the four differences, in the order of `counterWords`. A direction of
 * which either counter went backwards was zeroed meanwhile: what stands there now is what passed.
 */
function advance(last: Uint32Array, now: Uint32Array, passed: number[]): void {
  for (let direction = 0; direction < 8; direction += 4) {
    let [packets, bytes] = [difference(last, now, direction), difference(last, now, direction + 2)];
    if (packets < 0 || bytes < 0) {
      last.fill(0, direction, direction + 4);
      [packets, bytes] = [difference(last, now, direction), difference(last, now, direction + 2)];
    }
    passed[direction / 2] = Math.min(packets, Number.MAX_SAFE_INTEGER);
    passed[direction / 2 + 1] = Math.min(bytes, Number.MAX_SAFE_INTEGER);
  }
  last.set(now);
}

/** Exact up to 2^53: the halves are subtracted before they are put together. */
function difference(last: Uint32Array, now: Uint32Array, word: number): number {
  return (now[word]! - last[word]!) * 2 ** 32 + (now[word + 1]! - last[word + 1]!);
}
