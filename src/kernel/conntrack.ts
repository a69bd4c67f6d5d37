/**
 * What passes between whom: the kernel's connections with their counters, told as differences.
 *
 * Kept: how far the counters of every open connection had come, by the reader's key. Two things change it: the
 * whole table is read each period (both families; counters are read, never zeroed: others count too), and the
 * kernel tells when a connection ends. That message carries its final counters, so one that lives shorter than a
 * period is counted in full. Told: `onFlows`, in batches, with what has passed since the connection was last told
 * of; what has not moved is not told. A connection is first told when a reading meets it, or at its end: to be
 * told of each beginning would cost the kernel a message, and every new connection the time for it.
 *
 * What lies before the watch is not counted: connections that are there at the start are told once, with
 * nothing passed. Counters that go backwards were zeroed by somebody else, and count from zero on.
 *
 * The kernel counts only connections that opened while `nf_conntrack_acct` was on, so it is switched on. It
 * tells of the end only for connections that opened while somebody listened, and not of all if we are slow: one
 * that is missing from two readings in a row has ended, and what it moved after the last reading is not known.
 *
 * Readings and news of ends come over different sockets, and either may be ahead. A connection that ended while
 * a reading runs is not taken from that reading; the same key in it may also be a successor's, which the next
 * reading shows.
 *
 * Reading takes about 2 ms for each thousand connections, half of it in the kernel: the next reading
 * waits until at least nine times as long as the last one took, so a huge table is read less often.
 */

import { Fault } from "../lib/fault.ts";
import type { Clock, Disk, Sockets } from "../system/system.ts";
import {
  type Connection,
  ConnectionReader,
  connectionMessage,
  connectionStatus,
  readConnections,
} from "./connection.ts";
import { type Message, type Netlink, netfilterProtocol, newCounters } from "./netlink.ts";
import { Tally } from "./tally.ts";
import { type TableCounters, TableWatch } from "./watch.ts";

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
  /** Told of for the last time. Not told of one whose end the kernel did not tell. */
  readonly ended: boolean;
}

export interface ConntrackOptions {
  /** From one reading of the table to the next. */
  readonly periodMs: number;
  /** Connections kept, some eighty bytes each; default 131,072. Those beyond are counted when they end. */
  readonly maxConnections?: number;
  /** Receive buffer for events; default 16 MiB, which the kernel fills only while we are held up. */
  readonly receiveBytes?: number;
  /** Some hundred at most at a time; the array is the callee's. */
  onFlows(deltas: Delta[]): void;
  /** Reading failed and is tried again by itself, or the kernel's accounting cannot be switched on. */
  onFault?(fault: Fault): void;
}

export interface ConntrackCounters extends TableCounters {
  /** Readings of the table that came to their end. */
  readings: number;
  /** Connections not kept because there were too many, counted at each reading. */
  dropped: number;
  /** Connections whose end was not told: what they moved last is missing. */
  vanished: number;
  /** Connections, as the last reading found them, that a flowtable forwards; by hardware of those. */
  offloaded: number;
  hardwareOffloaded: number;
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
const defaultMaxConnections = 131_072;
/** Ends come in bursts of ten thousand: the kernel looks for what has expired every few moments. */
const defaultReceiveBytes = 16 * 1024 * 1024;
const accountingRetryMs = 60_000;

/** NFNLGRP_CONNTRACK_DESTROY. */
const groups = [3];

/** Settings without which the kernel does not count, or does not tell. */
const settings = [
  "/proc/sys/net/netfilter/nf_conntrack_acct",
  "/proc/sys/net/netfilter/nf_conntrack_events",
] as const;

export class ConntrackWatch {
  readonly counters: ConntrackCounters = {
    ...newCounters(),
    resyncs: 0,
    readings: 0,
    dropped: 0,
    vanished: 0,
    offloaded: 0,
    hardwareOffloaded: 0,
  };
  readonly #system: Sockets & Clock & Pick<Disk, "read" | "set">;
  readonly #options: ConntrackOptions;
  readonly #table: TableWatch;
  readonly #reader = new ConnectionReader();
  readonly #tally: Tally;
  /** Connections that ended while the reading runs, by key. */
  readonly #ended = new Set<number>();
  /** What the delta made next has passed, in the order of `counterWords`. */
  readonly #passed = [0, 0, 0, 0];
  #deltas: Delta[] = [];
  #reading = false;
  #offloaded = 0;
  #hardwareOffloaded = 0;
  #counting = false;
  #nextAccountingAt = 0;

  /** Use `watchConntrack`. */
  constructor(system: Sockets & Clock & Pick<Disk, "read" | "set">, options: ConntrackOptions) {
    this.#system = system;
    this.#options = options;
    this.#tally = new Tally(options.maxConnections ?? defaultMaxConnections);
    this.#table = new TableWatch(system, {
      ...{ what: "connections", protocol: netfilterProtocol, groups, counters: this.counters },
      receiveBytes: options.receiveBytes ?? defaultReceiveBytes,
      periodMs: options.periodMs,
      read: (questions) => this.#readAll(questions),
      onEvent: (event) => {
        if (event.type === connectionMessage.delete) this.#finish(event);
      },
      onEventsEnd: () => this.#flush(),
      onFault: options.onFault?.bind(options),
    });
  }

  async start(): Promise<void> {
    await this.#switchOn();
    await this.#table.start();
  }

  /** Whether the kernel counts what passes. It was told so; older connections stay uncounted until they end. */
  get counting(): boolean {
    return this.#counting;
  }

  /** Connections kept now. */
  get size(): number {
    return this.#tally.size;
  }

  close(): void {
    this.#table.close();
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
      this.#table.report(thrown);
    }
  }

  async #readAll(questions: Netlink): Promise<void> {
    this.#reading = true;
    this.#offloaded = 0;
    this.#hardwareOffloaded = 0;
    try {
      await questions.dump(readConnections, {
        onMessage: (answer) => this.#see(answer),
        onRestart: () => {
          this.#offloaded = 0;
          this.#hardwareOffloaded = 0;
        },
      });
    } finally {
      this.#reading = false;
      this.#ended.clear();
    }
    if (this.#table.closed) return;
    this.counters.readings++;
    this.counters.offloaded = this.#offloaded;
    this.counters.hardwareOffloaded = this.#hardwareOffloaded;
    this.counters.vanished += this.#tally.sweep();
    this.#flush();
    // The switches are there only once the kernel has loaded connection tracking, which the question does.
    if (!this.#counting && this.#system.now() >= this.#nextAccountingAt) {
      this.#nextAccountingAt = this.#system.now() + accountingRetryMs;
      await this.#switchOn();
    }
  }

  /** A connection in a reading of the table. */
  #see(answer: Message): void {
    if (this.#table.closed || !this.#readMessage(answer)) return;
    const { key, status } = this.#reader;
    if (status & connectionStatus.hardwareOffload) this.#hardwareOffloaded++;
    if (status & (connectionStatus.offload | connectionStatus.hardwareOffload)) this.#offloaded++;
    if (status & connectionStatus.dying || this.#ended.has(key)) return;
    const slot = this.#tally.find(key);
    if (slot === undefined) this.#add(key);
    else {
      this.#tally.meet(slot);
      if (!this.#reader.counted || !this.#tally.differs(slot, this.#reader.counters)) return;
      this.#tally.advance(slot, this.#reader.counters, this.#passed);
      this.#tell(false, false);
    }
  }

  #add(key: number): void {
    const slot = this.#tally.add(key);
    if (slot === undefined) {
      this.counters.dropped++;
      return;
    }
    this.#tally.advance(slot, this.#reader.counters, this.#passed);
    this.#tell(true, false);
  }

  /** The news of an end. */
  #finish(event: Message): void {
    if (!this.#readMessage(event)) return;
    const { key, counters } = this.#reader;
    const slot = this.#tally.find(key);
    // One that was never read, or had no room, is told as a whole.
    if (slot === undefined) this.#tally.whole(counters, this.#passed);
    else if (this.#reader.counted) this.#tally.advance(slot, counters, this.#passed);
    else this.#passed.fill(0);
    this.#tally.remove(key);
    if (this.#reading && this.#ended.size < defaultMaxConnections) this.#ended.add(key);
    this.#tell(slot === undefined, true);
  }

  #readMessage(from: Message): boolean {
    if (this.#reader.read(from)) return true;
    this.counters.malformed++;
    return false;
  }

  /** Tells of the connection that the reader looks at, and what has passed. */
  #tell(isNew: boolean, ended: boolean): void {
    const connection = this.#reader.decode();
    if (!connection) {
      this.counters.malformed++;
      return;
    }
    const passed = this.#passed;
    // What was there before the first reading has moved what it moved before our time.
    if (isNew && this.counters.readings === 0) passed.fill(0);
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
      status: connection.status,
      startedAt: connection.startedAt,
      packetsOut: passed[0]!,
      bytesOut: passed[1]!,
      packetsIn: passed[2]!,
      bytesIn: passed[3]!,
      new: isNew,
      ended,
    });
    if (this.#deltas.length >= batch) this.#flush();
  }

  #flush(): void {
    if (this.#deltas.length === 0 || this.#table.closed) return;
    const deltas = this.#deltas;
    this.#deltas = [];
    this.#options.onFlows(deltas);
  }
}
