/**
 * A machine that has nothing but a clock moved by hand and streams to a bus that the test plays.
 *
 * Each connection of the client is a Peer, which reads whole messages and writes bytes. Nothing happens in the
 * call that causes it: as with real sockets, it arrives later (`settle` waits until all has).
 */

import * as assert from "uvu/assert";
import type { Fault } from "../../src/lib/fault.ts";
import type { Level, StreamHandlers, System } from "../../src/system/system.ts";
import {
  encodeMessage,
  type Message,
  MessageReader,
  MessageType,
  type Received,
} from "../../src/ubus/message.ts";

/** Lets everything happen that is under way. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Waits for what has to come of what is under way; fails if it does not. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  for (let turn = 0; !condition() && turn < 200; turn++) await settle();
  assert.ok(condition(), what);
}

/** The bus's end of one connection. */
export class Peer {
  /** Bytes of the messages that came from the client, in order, until `take` takes them. */
  readonly sent: Uint8Array[] = [];
  /** How many times the client wrote. */
  writes = 0;
  /** What the client is told of bytes that the kernel has not taken. */
  queuedBytes = 0;
  closed = false;
  readonly #handlers: StreamHandlers;
  readonly #reader = new MessageReader(1 << 21);

  constructor(handlers: StreamHandlers) {
    this.#handlers = handlers;
  }

  /** Bytes to the client. The memory is used again afterwards, as a machine may do. */
  write(bytes: Uint8Array): void {
    if (this.closed) return;
    const lent = bytes.slice();
    this.#handlers.onBytes(lent);
    lent.fill(0xee);
  }

  send(...messages: Message[]): void {
    this.write(new Uint8Array(Buffer.concat(messages.map(encodeMessage))));
  }

  hello(peer = 0x5a000001): void {
    this.send({ type: MessageType.Hello, seq: 0, peer, attributes: {} });
  }

  /** The next message from the client; fails if none comes. */
  async take(): Promise<Received> {
    return new MessageReader(1 << 21).push(await this.takeBytes())[0]!;
  }

  /** The same as it was sent. */
  async takeBytes(): Promise<Uint8Array> {
    for (let turn = 0; this.sent.length === 0 && turn < 50; turn++) await settle();
    const bytes = this.sent.shift();
    assert.ok(bytes, "the client has sent nothing");
    return bytes;
  }

  /** Answers a request with a status. */
  status(to: Message, status: number, attributes: Message["attributes"] = {}): void {
    this.send({
      type: MessageType.Status,
      seq: to.seq,
      peer: to.peer,
      attributes: { status, ...attributes },
    });
  }

  data(to: Message, attributes: Message["attributes"]): void {
    this.send({ type: MessageType.Data, seq: to.seq, peer: to.peer, attributes });
  }

  /** Takes an AddObject and gives the object an id. */
  async grant(objectId: number): Promise<Received> {
    const request = await this.take();
    assert.is(request.type, MessageType.AddObject);
    this.data(request, { objectId });
    this.status(request, 0);
    return request;
  }

  /** Takes a Lookup and answers with an id, or with NOT_FOUND. */
  async found(path: string, objectId?: number): Promise<Received> {
    const request = await this.take();
    assert.is(request.type, MessageType.Lookup);
    assert.is(request.attributes.path, path);
    if (objectId === undefined) this.status(request, 4);
    else {
      this.data(request, { path, objectId, objectType: 9, signature: new Uint8Array(0) });
      this.status(request, 0);
    }
    return request;
  }

  close(fault?: Fault): void {
    if (this.closed) return;
    this.closed = true;
    this.#handlers.onClose(fault);
  }

  /** Bytes from the client. */
  receive(bytes: Uint8Array): void {
    this.writes++;
    for (const { version, type, seq, peer, blob } of this.#reader.push(bytes)) {
      const header = Uint8Array.of(version, type, seq >> 8, seq, peer >>> 24, peer >>> 16, peer >>> 8, peer);
      this.sent.push(new Uint8Array(Buffer.concat([header, blob])));
    }
  }
}

interface Timer {
  readonly at: number;
  readonly call: () => void;
}

export class Memory {
  /** Connections in the order in which they came. */
  readonly peers: Peer[] = [];
  readonly logged: string[] = [];
  /** Connecting fails. */
  refuses = false;
  #now = 1000;
  readonly #timers = new Set<Timer>();
  readonly system: System;

  constructor() {
    const clock: Partial<System> = {
      now: () => this.#now,
      after: (delayMs, call) => {
        const timer = { at: this.#now + delayMs, call };
        this.#timers.add(timer);
        return () => this.#timers.delete(timer);
      },
      log: (_level: Level, line: string) => this.logged.push(line),
      connect: (_path, handlers) => this.#connect(handlers),
    };
    this.system = clock as System;
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** The connection with this number, from 0; fails if it does not come. */
  async peer(index: number): Promise<Peer> {
    for (let turn = 0; this.peers.length <= index && turn < 50; turn++) await settle();
    const peer = this.peers[index];
    assert.ok(peer, `connection ${index} has not come`);
    return peer;
  }

  /** Moves the clock and calls what is due, in order. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
      if (due.length === 0) break;
      const { at } = due[0]!;
      this.#now = Math.max(this.#now, at);
      for (const timer of due) if (timer.at === at && this.#timers.delete(timer)) timer.call();
    }
    this.#now = until;
    await settle();
  }

  #connect(handlers: StreamHandlers): ReturnType<System["connect"]> {
    const peer = new Peer(handlers);
    if (this.refuses) setImmediate(() => peer.close());
    else this.peers.push(peer);
    const finish = () => setImmediate(() => peer.close());
    return {
      peer: undefined,
      get queuedBytes() {
        return peer.queuedBytes;
      },
      write: (bytes) => {
        setImmediate(() => peer.receive(bytes));
        return true;
      },
      pause: () => {},
      resume: () => {},
      end: finish,
      close: finish,
    };
  }
}
