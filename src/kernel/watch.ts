/**
 * What all who follow a table of the kernel have in common: read it whole, hear what the kernel tells of it, and
 * read it again when something was missed.
 *
 * Kept: the subscription and the rounds of reading. Told: each event to the owner, who also does the reading;
 * faults, once each. Nothing is told any more once it is closed.
 */

import { Fault } from "../lib/fault.ts";
import type { Clock, Sockets } from "../system/system.ts";
import { type Message, Netlink, type NetlinkCounters } from "./netlink.ts";
import { Rounds } from "./rounds.ts";
import { Subscription } from "./subscription.ts";

export interface TableCounters extends NetlinkCounters {
  /** Times that the table was to be read again because messages were lost. */
  resyncs: number;
}

export interface TableOptions {
  /** What is read, for the message of a fault: "Cannot read *connections*". */
  readonly what: string;
  readonly protocol: number;
  /** Multicast group numbers. */
  readonly groups: readonly number[];
  readonly counters: TableCounters;
  /** Receive buffer for events; the default of `Sockets.netlink` if absent. */
  readonly receiveBytes?: number | undefined;
  /** From one reading to the next; absent: only after losses. */
  readonly periodMs?: number;
  /** Reads all of it through the socket given, which is closed afterwards. */
  read(questions: Netlink): Promise<void>;
  onEvent(message: Message): void;
  /** The events of one datagram have all been handed over. */
  onEventsEnd?(): void;
  /** Messages are missing; a reading follows. */
  onGap?(): void;
  onFault?: ((fault: Fault) => void) | undefined;
}

export class TableWatch {
  readonly #system: Sockets & Clock;
  readonly #options: TableOptions;
  readonly #rounds: Rounds;
  #events: Subscription | undefined;
  #closed = false;

  constructor(system: Sockets & Clock, options: TableOptions) {
    this.#system = system;
    this.#options = options;
    const { periodMs } = options;
    this.#rounds = new Rounds(system, () => this.#read(), {
      ...(periodMs === undefined ? {} : { periodMs }),
      onFault: (thrown) => this.report(thrown),
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Listens, then reads for the first time. @throws Fault as `Netlink.dump` does; nothing is open then. */
  async start(): Promise<void> {
    try {
      this.#listen();
      await this.#rounds.start();
    } catch (thrown) {
      this.close();
      throw thrown;
    }
  }

  /** Reads again, as early as the rest from the last reading allows; before the first one there is no need. */
  readSoon(): void {
    if (this.#events) this.#rounds.soon();
  }

  /** Tells of a fault, whatever was thrown. */
  report(thrown: unknown): void {
    if (this.#closed) return;
    const { what, onFault } = this.#options;
    onFault?.(
      thrown instanceof Fault ? thrown : new Fault("kernel", `Cannot read ${what}`, { cause: thrown }),
    );
  }

  close(): void {
    this.#closed = true;
    this.#rounds.close();
    this.#events?.close();
  }

  #listen(): void {
    const { protocol, groups, counters, receiveBytes, onEvent, onEventsEnd, onGap } = this.#options;
    this.#events = new Subscription(
      this.#system,
      { protocol, groups, counters, ...(receiveBytes === undefined ? {} : { receiveBytes }) },
      {
        onEvent: (event) => {
          if (!this.#closed) onEvent(event);
        },
        onEventsEnd: () => onEventsEnd?.(),
        onGap: () => {
          counters.resyncs++;
          onGap?.();
          this.#rounds.soon();
        },
        onFault: (fault) => this.report(fault),
      },
    );
  }

  async #read(): Promise<void> {
    const { protocol, counters } = this.#options;
    const questions = new Netlink(this.#system, { protocol, counters });
    try {
      await this.#options.read(questions);
    } finally {
      questions.close();
    }
  }
}
