/**
 * Table Allocator's own door: an abstract unix datagram socket, for its clients as they are.
 *
 * Its clients send to a name that is filled up with NULs to the longest possible, so that is what is bound. They know
 * no errors: whatever cannot be granted is met with silence, and they ask again; here it is counted by reason. A
 * client makes its own rules, so leases get none from us. The lease belongs to the user behind the socket, as the
 * kernel tells; what others ask of it is met with silence, too. Kept: how many requests of each user wait.
 */

import { parseAddress } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Credentials, System, UnixSocket } from "../system/system.ts";
import { root } from "./book.ts";
import { decodeOldRequest, encodeOldReply, type OldRequest } from "./datagram.ts";
import type { TableKey } from "./key.ts";
import type { Tables } from "./tables.ts";

export interface TableSocketOptions {
  /** Without "@". */
  readonly name: string;
  /** CLOCK_MONOTONIC_RAW in milliseconds, which clients count by. Default: the machine's monotonic clock. */
  rawNow?(): number;
  onFault?(fault: Fault): void;
}

export interface TableSocketCounters {
  granted: number;
  released: number;
  /** No JSON object, too long, or of an unknown command or family. */
  malformed: number;
  /** By the book: somebody else's, no table free, a family that is off, no disk. */
  refused: number;
  /** Too many waited, or messages were lost before we saw them. */
  overrun: number;
  /** From nowhere or nobody: they cannot be answered. */
  nameless: number;
  /** The client was gone, or did not read. */
  unanswered: number;
}

/** sun_path has 108 bytes, of which an abstract name's first is NUL. */
const fullLength = 107;
/** Requests of one user, and of all, that may wait. */
const maxWaiting = { ofOne: 256, ofAll: 2_048 } as const;

/** @throws Fault "conflict" if somebody else has the name, "invalid" if it is too long. */
export function openTableSocket(
  system: Pick<System, "unix" | "now">,
  tables: Tables,
  options: TableSocketOptions,
): TableSocket {
  try {
    return new TableSocket(system, tables, options);
  } catch (thrown) {
    if (!(thrown instanceof Fault)) throw thrown;
    const why = thrown.code === "conflict" ? "another program has the name" : messageOf(thrown);
    throw new Fault(thrown.code, `Cannot open Table Allocator's socket ${options.name}: ${why}`, {
      cause: thrown,
    });
  }
}

export class TableSocket {
  readonly counters: TableSocketCounters = {
    ...{ granted: 0, released: 0, malformed: 0, refused: 0, overrun: 0, nameless: 0, unanswered: 0 },
  };
  readonly #system: Pick<System, "unix" | "now">;
  readonly #tables: Tables;
  readonly #options: TableSocketOptions;
  readonly #socket: UnixSocket;
  readonly #waiting = new Map<number, number>();
  #waitingInAll = 0;
  #closed = false;

  /** Use `openTableSocket`. */
  constructor(system: Pick<System, "unix" | "now">, tables: Tables, options: TableSocketOptions) {
    this.#system = system;
    this.#tables = tables;
    this.#options = options;
    this.#socket = system.unix(
      { type: "datagram", bind: paddedName(options.name) },
      {
        onMessage: (bytes, { name, peer }) => this.#onMessage(bytes, name, peer),
        onOverrun: () => void this.counters.overrun++,
        onClose: (fault) => {
          if (fault && !this.#closed) options.onFault?.(fault);
        },
      },
    );
  }

  close(): void {
    this.#closed = true;
    this.#socket.close();
  }

  #onMessage(bytes: Uint8Array, name: string | undefined, peer: Credentials | undefined): void {
    if (name === undefined || peer === undefined) {
      this.counters.nameless++;
      return;
    }
    let request: OldRequest;
    try {
      request = decodeOldRequest(bytes);
    } catch {
      this.counters.malformed++;
      return;
    }
    const { uid } = peer;
    const waiting = this.#waiting.get(uid) ?? 0;
    if (waiting >= maxWaiting.ofOne || this.#waitingInAll >= maxWaiting.ofAll) {
      this.counters.overrun++;
      return;
    }
    this.#waiting.set(uid, waiting + 1);
    this.#waitingInAll++;
    void this.#answer(request, name, uid).finally(() => {
      this.#waitingInAll--;
      const left = this.#waiting.get(uid)! - 1;
      if (left > 0) this.#waiting.set(uid, left);
      else this.#waiting.delete(uid);
    });
  }

  async #answer(request: OldRequest, to: string, uid: number): Promise<void> {
    const owner = uid === 0 ? root : `uid:${uid}`;
    try {
      const reply = await (request.verb === "request"
        ? this.#request(request, owner)
        : this.#release(request, owner));
      this.#send(encodeOldReply(reply), to);
    } catch (thrown) {
      this.counters.refused++;
      if (!(thrown instanceof Fault)) {
        this.#options.onFault?.(
          new Fault("invalid", `Cannot answer old client: ${messageOf(thrown)}`, { cause: thrown }),
        );
      } else if (thrown.code === "kernel" || thrown.code === "storage") this.#options.onFault?.(thrown);
    }
  }

  async #request(request: OldRequest, owner: string): Promise<{ table: number; leaseExpires: number }> {
    const lease = await this.#tables.request(keyOfOld(request), {
      ...{ owner, steer: "none", routes: false, follow: false, prefixLength: undefined },
      ...{ label: request.tag, lifetimeMs: this.#tables.defaultLifetimeMs },
    });
    this.counters.granted++;
    const raw = this.#options.rawNow?.() ?? this.#system.now();
    const leftMs = Math.max(0, lease.endsAt - this.#system.now());
    return { table: lease.value, leaseExpires: Math.floor((raw + leftMs) / 1_000) };
  }

  /** What is not leased is answered like what was. */
  async #release(request: OldRequest, owner: string): Promise<{ table: number; leaseExpires: number }> {
    const key = keyOfOld(request);
    if (!this.#tables.isServed(key.family)) {
      throw new Fault("unsupported", `Cannot release table: family ${key.family} is off`);
    }
    try {
      await this.#tables.release(() => this.#tables.get(key), owner);
    } catch (thrown) {
      if (!(thrown instanceof Fault && thrown.code === "not-found")) throw thrown;
    }
    this.counters.released++;
    return { table: 0, leaseExpires: 0 };
  }

  #send(bytes: Uint8Array, to: string): void {
    if (this.#closed) return;
    try {
      this.#socket.send(bytes, to);
    } catch {
      this.counters.unanswered++;
    }
  }
}

/** The tag is no part of an old client's key: it is what the client calls its lease. */
function keyOfOld({ family, interface: name, address }: OldRequest): TableKey {
  return { family, interface: name, address: parseAddress(address) ?? address, tag: "" };
}

/** The abstract name as the C programs bind it, with all of sun_path. */
export function paddedName(name: string): string {
  const missing = fullLength - new TextEncoder().encode(name).length;
  return `@${name}${"\0".repeat(Math.max(0, missing))}`;
}
