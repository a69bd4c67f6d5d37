/**
 * External sources: programs on this machine that tell what they saw where we cannot look, as SPIN's
 * `spin-pcap-reader` does, over a unix datagram socket that only its owner may write to.
 *
 * Kept are counters. Each message that can be read goes to the sink at once; what cannot be read is counted by
 * its reason, and nothing that anybody sends closes the socket (SPIN's closed for good).
 */

import {
  decodeExternal,
  deliver,
  type ExternalMessage,
  type ExternalReason,
  type ExternalSink,
  hostIsLittle,
} from "../lib/extsrc.ts";
import { Fault } from "../lib/fault.ts";
import type { Sockets, UnixSocket } from "../system/system.ts";

export type {
  ExternalAnswer,
  ExternalNeighbour,
  ExternalPacket,
  ExternalQuery,
  ExternalSink,
} from "../lib/extsrc.ts";

export interface ExternalSourceOptions {
  /** Absolute path of the socket; one that nobody serves any more is replaced. SPIN's: /var/run/spin-extsrc.sock */
  readonly path: string;
  readonly sink: ExternalSink;
  /** Byte order of the senders; that of this machine by default. */
  readonly isLittle?: boolean;
  /** The socket broke. */
  onFault?(fault: Fault): void;
}

export interface ExternalCounters {
  /** Messages taken, by kind. */
  readonly taken: Readonly<Record<ExternalMessage["kind"], number>>;
  /** Messages dropped, by reason; "long" ones were longer than any message. */
  readonly dropped: Readonly<Record<ExternalReason | "long", number>>;
}

export class ExternalSource {
  readonly #taken = { packet: 0, query: 0, answer: 0, neighbour: 0 };
  readonly #dropped = { length: 0, type: 0, family: 0, count: 0, name: 0, mac: 0, long: 0 };
  readonly #socket: UnixSocket;

  /**
   * Opens the socket.
   *
   * @throws Fault "invalid" for a name that any process could write to; "conflict" if somebody serves it.
   */
  constructor(system: Pick<Sockets, "unix">, options: ExternalSourceOptions) {
    const { path, sink, isLittle = hostIsLittle } = options;
    if (!path.startsWith("/")) {
      throw new Fault("invalid", `Cannot open external source ${JSON.stringify(path)}: not an absolute path`);
    }
    this.#socket = system.unix(
      { type: "datagram", bind: path, mode: 0o600 },
      {
        onMessage: (bytes) => this.#take(bytes, { sink, isLittle }),
        onOverrun: () => {
          this.#dropped.long++;
        },
        onClose: (fault) => {
          if (fault) options.onFault?.(fault);
        },
      },
    );
  }

  get counters(): ExternalCounters {
    return { taken: { ...this.#taken }, dropped: { ...this.#dropped } };
  }

  /** Closes the socket and removes its file. */
  close(): void {
    this.#socket.close();
  }

  #take(bytes: Uint8Array, to: { sink: ExternalSink; isLittle: boolean }): void {
    const outcome = decodeExternal(bytes, to.isLittle);
    if (outcome.kind === "dropped") {
      this.#dropped[outcome.reason]++;
      return;
    }
    this.#taken[outcome.kind]++;
    deliver(outcome, to.sink);
  }
}
