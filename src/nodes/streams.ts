/**
 * The TCP connections that carry DNS, bounded so that no client can push out what others need.
 *
 * Kept by client, then by its port and the server: both directions of each connection, as far as messages are
 * not whole yet (direction.ts). Every packet makes its stream the youngest of its client; a client past its own
 * limits loses its oldest streams, and when all are too many, or hold too much, the client that holds most
 * loses the older half. A stream without packets goes after a while, at the next packet of any. Nothing is
 * told to anybody: what a stream that went would have said is missed.
 */

import type { Address } from "../lib/address.ts";
import type { TcpSegment } from "../lib/packet.ts";
import { Direction, type StreamLoss } from "./direction.ts";

/** The ends of a connection, and which of them a packet came from. */
export interface Ends {
  readonly client: Address;
  readonly clientPort: number;
  readonly server: Address;
  readonly from: "client" | "server";
}

export interface StreamLimits {
  readonly streamsPerClient: number;
  readonly streams: number;
  /** Of messages that are not whole. One stream may hold 300 kB. */
  readonly bytesPerClient: number;
  readonly bytes: number;
  readonly idleMs: number;
}

export const streamLimits: StreamLimits = {
  streamsPerClient: 128,
  streams: 2048,
  bytesPerClient: 512 * 1024,
  bytes: 4 * 1024 * 1024,
  idleMs: 30_000,
};

/** What a packet brought. */
export interface Taken {
  /** Whole DNS messages, in order; valid as long as the packet's bytes are. */
  readonly messages: readonly Uint8Array[];
  readonly losses: readonly StreamLoss[];
}

interface Stream {
  readonly client: Direction;
  readonly server: Direction;
  /** What both hold. */
  bytes: number;
  usedAt: number;
}

interface Client {
  /** Port and server → stream, the one longest unused first. */
  readonly streams: Map<string, Stream>;
  bytes: number;
}

const PRUNE_MS = 1_000;

export class Streams {
  readonly #limits: StreamLimits;
  readonly #clients = new Map<Address, Client>();
  #size = 0;
  #bytes = 0;
  #prunedAt = Number.NEGATIVE_INFINITY;

  constructor(limits: StreamLimits = streamLimits) {
    this.#limits = limits;
  }

  /** Connections followed. */
  get size(): number {
    return this.#size;
  }

  /** Memory held for messages that are not whole. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Takes a segment. `now` never goes back. */
  take(ends: Ends, segment: TcpSegment, now: number): Taken {
    if (now - this.#prunedAt >= PRUNE_MS) this.#prune(now);
    const key = `${ends.clientPort} ${ends.server}`;
    let stream = this.#clients.get(ends.client)?.streams.get(key);
    if (!stream) {
      // Only what begins something is worth a place: the SYN, or the first data of a connection before us.
      if (segment.rst || (!segment.syn && segment.data.length === 0)) return { messages: [], losses: [] };
      stream = { client: new Direction(false), server: new Direction(true), bytes: 0, usedAt: now };
    }
    const [here, there] =
      ends.from === "client" ? [stream.client, stream.server] : [stream.server, stream.client];
    if (segment.rst) {
      // Anybody can send one. The answer to a refused SYN has no place but what it acknowledges.
      if (here.isNear(segment.sequence) || there.isNext(segment.acknowledged)) this.#drop(ends.client, key);
      return { messages: [], losses: [] };
    }
    const messages: Uint8Array[] = [];
    const losses: StreamLoss[] = [];
    note(losses, here.take(segment, messages));
    if (segment.acknowledged !== undefined && here.isNear(segment.sequence)) {
      note(losses, there.acknowledge(segment.acknowledged));
    }
    if (here.ended && there.ended) this.#drop(ends.client, key);
    else this.#keep({ client: ends.client, key, stream }, now, losses);
    return { messages, losses };
  }

  /** Makes a stream the youngest, and room for it. */
  #keep(place: { client: Address; key: string; stream: Stream }, now: number, losses: StreamLoss[]): void {
    const { client, key, stream } = place;
    const limits = this.#limits;
    this.#drop(client, key);
    const held = this.#clients.get(client) ?? { streams: new Map<string, Stream>(), bytes: 0 };
    this.#clients.set(client, held);
    held.streams.set(key, stream);
    stream.usedAt = now;
    stream.bytes = stream.client.bytes + stream.server.bytes;
    held.bytes += stream.bytes;
    this.#bytes += stream.bytes;
    this.#size++;
    while (held.streams.size > limits.streamsPerClient || held.bytes > limits.bytesPerClient) {
      this.#dropOldest(client, losses);
    }
    while (this.#size > limits.streams) this.#relieve((each) => each.streams.size, losses);
    while (this.#bytes > limits.bytes) this.#relieve((each) => each.bytes, losses);
  }

  /** The client that holds most loses the older half of its streams. */
  #relieve(weigh: (client: Client) => number, losses: StreamLoss[]): void {
    let [most, largest]: [number, Address | undefined] = [0, undefined];
    for (const [address, client] of this.#clients) {
      if (weigh(client) > most) [most, largest] = [weigh(client), address];
    }
    const count = this.#clients.get(largest!)!.streams.size;
    for (let left = count - (count >> 1); left > 0; left--) this.#dropOldest(largest!, losses);
  }

  #dropOldest(client: Address, losses: StreamLoss[]): void {
    const [oldest] = this.#clients.get(client)!.streams.keys();
    this.#drop(client, oldest!);
    losses.push("limit");
  }

  #drop(address: Address, key: string): void {
    const client = this.#clients.get(address);
    const stream = client?.streams.get(key);
    if (!client || !stream) return;
    client.streams.delete(key);
    client.bytes -= stream.bytes;
    this.#bytes -= stream.bytes;
    this.#size--;
    if (client.streams.size === 0) this.#clients.delete(address);
  }

  #prune(now: number): void {
    this.#prunedAt = now;
    for (const [address, { streams }] of this.#clients) {
      for (const [key, { usedAt }] of streams) {
        if (now - usedAt < this.#limits.idleMs) break;
        this.#drop(address, key);
      }
    }
  }
}

function note(losses: StreamLoss[], loss: StreamLoss | undefined): void {
  if (loss !== undefined) losses.push(loss);
}
