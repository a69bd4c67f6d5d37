/**
 * One connection to the bus, from connecting to its end: who waits for which answer.
 *
 * Keeps by `seq` the requests that wait for answers, and the ones given up whose answers may still come: no
 * seq is used again before. Keeps our objects by id: what comes in that is no answer goes to them. What is to
 * be sent collects in one buffer that goes out when the engine has nothing else to do, so that many messages
 * cost one write.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, Stream, System } from "../system/system.ts";
import { BlobWriter } from "./blob.ts";
import {
  type Attributes,
  type Message,
  MessageReader,
  MessageType,
  putMessage,
  type Received,
} from "./message.ts";
import { Status } from "./status.ts";

/** ubusd accepts a blob of 1 MiB, but adds the caller's names to what it hands on. */
const maxSentBytes = 1048576 - 1024;
/** A bus that adds names to a blob of 1 MiB is believed. */
const maxReceivedBytes = 1048576 + 65536;
/** Past this much unsent, nothing new is begun; answers shrink to their status. */
const maxQueuedBytes = 4 * 1048576;
/** Past this much unsent, the bus is taken for dead. */
const deadQueuedBytes = 8 * 1048576;
/** Data that a peer may send for one request. */
const maxAnswerBytes = 16 * 1048576;
/** A bus says hello at once. */
const helloMs = 5000;
/** For the bus to take what we sent last. */
const lingerMs = 1000;
const flushBytes = 65536;
/** Half of all seqs waiting for answers that were given up: time for a new connection. */
const maxLate = 32768;

export interface SessionHandlers {
  /** The bus has said hello: requests can be made. */
  onHello(): void;
  /** A copy of somebody's message, for who asked to be a monitor; valid until the call returns. */
  onMonitor?(message: Received): void;
  /** Called once, after every request that waited has failed with the fault. */
  onClose(fault: Fault): void;
}

/** What is sent; its seq is the session's to choose. */
export type Request = Omit<Message, "seq" | "version">;

/** Who waits for the answers to a request. */
export interface Waiter {
  /** A Data message; its bytes are valid until the call returns. */
  onData?(attributes: Attributes): void;
  /** A Status message. Returns how many more are to come; 0 ends the request. */
  onStatus(message: Received): number;
  /** The request failed: nothing more will be told of it. */
  onFault(fault: Fault): void;
}

interface Pending {
  readonly waiter: Waiter;
  readonly what: string;
  cancelTimer: Cancel | undefined;
  statusesToCome: number;
  dataBytes: number;
}

/** What an object of ours does with messages to it; their bytes are valid until the call returns. */
export interface Target {
  /** The bus has given the object its id: before any message to it. */
  onId?(objectId: number): void;
  /** A call, an event or a notification. Calls, and notifications without `noReply`, want an answer. */
  onInvoke(attributes: Attributes, from: ReturnAddress): void;
  /** The first subscriber came, or the last has left. */
  onActive?(active: boolean): void;
  /** The object that this one subscribes to is gone. */
  onUnsubscribe?(target: number): void;
}

/** Where an answer goes: what the asking message said. */
export interface ReturnAddress {
  readonly seq: number;
  /** The client that asked. */
  readonly peer: number;
  /** The object that was asked. */
  readonly objectId: number;
}

export class Session {
  readonly #system: System;
  readonly #handlers: SessionHandlers;
  readonly #stream: Stream;
  readonly #reader = new MessageReader(maxReceivedBytes);
  readonly #pending = new Map<number, Pending>();
  /** Seq → answers that may still come for a request that was given up. */
  readonly #late = new Map<number, number>();
  readonly #flush = () => this.flush();
  readonly #targets = new Map<number, Target>();
  #out = new BlobWriter();
  #flushing = false;
  #seq = 0;
  #ready = false;
  #fault: Fault | undefined;
  #cancelHello: Cancel;
  #cancelLinger: Cancel | undefined;

  constructor(system: System, path: string, handlers: SessionHandlers) {
    this.#system = system;
    this.#handlers = handlers;
    this.#cancelHello = system.after(helloMs, () =>
      this.close(new Fault("timeout", `Cannot use bus: no hello in ${helloMs} ms`)),
    );
    this.#stream = system.connect(path, {
      onBytes: (bytes) => this.#onBytes(bytes),
      onClose: (fault) => {
        this.#cancelLinger?.();
        const message = `Cannot use bus: connection ${this.#ready ? "lost" : "failed"}`;
        this.#end(new Fault("closed", message, { cause: fault }));
      },
    });
    if (this.#fault) this.#stream.close();
  }

  /** Nothing will come of it any more. */
  get ended(): boolean {
    return this.#fault !== undefined;
  }

  /** The bus has said hello and the connection stands. */
  get ready(): boolean {
    return this.#ready && !this.#fault;
  }

  /** Too much is unsent to begin anything new. */
  get congested(): boolean {
    return this.#unsentBytes() > maxQueuedBytes;
  }

  /**
   * Sends a request and waits for its one status.
   *
   * @param request.what the beginning of a fault's message, "Cannot *verb what*".
   * @returns the attributes of the status message.
   * @throws Fault "closed", "timeout", or "limit" if it is too long or too much is under way.
   */
  ask(request: Request, options: AskOptions): Promise<Attributes> {
    return new Promise((resolve, reject) => {
      this.exchange(request, options, {
        onData: options.onData,
        onStatus: (message) => {
          resolve(message.attributes);
          return 0;
        },
        onFault: reject,
      });
    });
  }

  /** Sends a request whose answers go to a waiter. */
  exchange(request: Request, options: { what: string; timeoutMs: number }, waiter: Waiter): void {
    const { what, timeoutMs } = options;
    const refusal = this.#refusal(what);
    if (refusal) {
      waiter.onFault(refusal);
      return;
    }
    const seq = this.#nextSeq();
    try {
      this.#put({ ...request, seq });
    } catch (thrown) {
      waiter.onFault(new Fault("limit", `${what}: ${messageOf(thrown)}`, { cause: thrown }));
      return;
    }
    const pending: Pending = { waiter, what, cancelTimer: undefined, statusesToCome: 1, dataBytes: 0 };
    this.#pending.set(seq, pending);
    if (timeoutMs > 0) {
      pending.cancelTimer = this.#system.after(timeoutMs, () =>
        this.#giveUp(seq, pending, new Fault("timeout", `${what}: no answer in ${timeoutMs} ms`)),
      );
    }
  }

  /** Sends a message that has no answer. @throws Fault "closed" or "limit". */
  tell(request: Request, what: string): void {
    const refusal = this.#refusal(what);
    if (refusal) throw refusal;
    this.#put({ ...request, seq: this.#nextSeq() });
  }

  /** From now on, messages to the object with this id go to a target; without one they are refused. */
  route(objectId: number, target: Target | undefined): void {
    if (!target) {
      this.#targets.delete(objectId);
      return;
    }
    this.#targets.set(objectId, target);
    target.onId?.(objectId);
  }

  /** Answers an Invoke: data if there are any, then the status. What does not fit becomes its status. */
  answer(to: ReturnAddress, status: number, data?: Uint8Array): void {
    if (this.#fault) return;
    const { seq, peer, objectId } = to;
    let outcome = status;
    if (data && this.congested) outcome = Status.NoMemory;
    else if (data) {
      try {
        this.#put({ type: MessageType.Data, seq, peer, attributes: { objectId, data } });
      } catch {
        outcome = Status.NoMemory;
      }
    }
    this.#put({ type: MessageType.Status, seq, peer, attributes: { status: outcome, objectId } });
    if (this.#unsentBytes() > deadQueuedBytes) {
      this.close(new Fault("closed", "Cannot use bus: it does not read"));
    }
  }

  /** Hands what has collected to the kernel. */
  flush(): void {
    this.#flushing = false;
    if (this.#fault || this.#out.length === 0) return;
    const bytes = this.#out.take();
    if (this.#out.capacityBytes > 4 * flushBytes) this.#out = new BlobWriter();
    this.#stream.write(bytes);
  }

  /** Ends the connection; requests that wait fail with the fault. Without one, what was sent goes out first. */
  close(fault?: Fault): void {
    if (this.#fault) return;
    this.flush();
    if (fault) this.#stream.close();
    else {
      this.#stream.end();
      this.#cancelLinger = this.#system.after(lingerMs, () => this.#stream.close());
    }
    this.#end(fault ?? new Fault("closed", "Cannot use bus: closed"));
  }

  #end(fault: Fault): void {
    if (this.#fault) return;
    this.#fault = fault;
    this.#cancelHello();
    const waiting = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of waiting) {
      pending.cancelTimer?.();
      pending.waiter.onFault(new Fault("closed", `${pending.what}: connection lost`, { cause: fault }));
    }
    this.#handlers.onClose(fault);
  }

  #onBytes(bytes: Uint8Array): void {
    if (this.#fault) return;
    let messages: Received[] = [];
    try {
      messages = this.#reader.push(bytes);
    } catch {
      // The reader's failure, seen below.
    }
    for (const message of messages) {
      this.#onMessage(message);
      if (this.#fault) return;
    }
    const { failure } = this.#reader;
    if (failure) this.close(new Fault("closed", "Cannot use bus: it sent garbage", { cause: failure }));
  }

  #onMessage(message: Received): void {
    if (message.type === MessageType.Status || message.type === MessageType.Data) {
      const pending = this.#pending.get(message.seq);
      if (!pending) this.#onLate(message);
      else if (message.type === MessageType.Data) this.#onData(message, pending);
      else this.#onStatus(message, pending);
    } else if (message.type === MessageType.Monitor) {
      this.#handlers.onMonitor?.(message);
    } else if (message.type !== MessageType.Hello) {
      if (this.#ready) this.#onTargeted(message);
    } else if (!this.#ready) {
      this.#ready = true;
      this.#cancelHello();
      this.#handlers.onHello();
    }
  }

  #onTargeted(message: Received): void {
    const { type, seq, peer, attributes } = message;
    const { objectId, active, target: lost } = attributes;
    if (objectId === undefined) return;
    const target = this.#targets.get(objectId);
    if (type === MessageType.Invoke) {
      const from = { seq, peer, objectId };
      if (target) target.onInvoke(attributes, from);
      else if (peer !== 0) this.answer(from, Status.NotFound);
    } else if (type === MessageType.Notify) {
      if (active !== undefined) target?.onActive?.(active);
    } else if (type === MessageType.Unsubscribe) {
      if (lost !== undefined) target?.onUnsubscribe?.(lost);
    }
  }

  #onData(message: Received, pending: Pending): void {
    pending.dataBytes += message.blob.length;
    if (pending.dataBytes > maxAnswerBytes) {
      const fault = new Fault("limit", `${pending.what}: more than ${maxAnswerBytes} bytes of answer`);
      this.#giveUp(message.seq, pending, fault);
    } else {
      pending.waiter.onData?.(message.attributes);
    }
  }

  #onStatus(message: Received, pending: Pending): void {
    pending.statusesToCome = pending.waiter.onStatus(message);
    if (pending.statusesToCome > 0) return;
    this.#pending.delete(message.seq);
    pending.cancelTimer?.();
  }

  #onLate(message: Received): void {
    if (message.type !== MessageType.Status) return;
    const left = (this.#late.get(message.seq) ?? 0) - 1;
    if (left > 0) this.#late.set(message.seq, left);
    else this.#late.delete(message.seq);
  }

  #giveUp(seq: number, pending: Pending, fault: Fault): void {
    this.#pending.delete(seq);
    pending.cancelTimer?.();
    this.#late.set(seq, pending.statusesToCome);
    pending.waiter.onFault(fault);
    if (this.#late.size > maxLate) {
      this.close(new Fault("limit", `Cannot use bus: ${maxLate} answers are missing`));
    }
  }

  /** Why a request cannot be sent now. */
  #refusal(what: string): Fault | undefined {
    if (this.#fault || !this.#ready) return new Fault("closed", `${what}: not connected to the bus`);
    if (this.#pending.size + this.#late.size >= 65536) {
      return new Fault("limit", `${what}: too many requests under way`);
    }
    return this.congested ? new Fault("limit", `${what}: the bus reads too slowly`) : undefined;
  }

  #nextSeq(): number {
    do this.#seq = (this.#seq + 1) & 0xffff;
    while (this.#pending.has(this.#seq) || this.#late.has(this.#seq));
    return this.#seq;
  }

  #put(message: Message): void {
    const start = this.#out.length;
    try {
      putMessage(this.#out, message);
      const bytes = this.#out.length - start - 8;
      if (bytes >= maxSentBytes) {
        throw new Fault(
          "limit",
          `Cannot send message: ${bytes} bytes, less than ${maxSentBytes} can be sent`,
        );
      }
    } catch (thrown) {
      this.#out.rewind(start);
      throw thrown;
    }
    if (this.#out.length > flushBytes) {
      this.flush();
    } else if (!this.#flushing) {
      this.#flushing = true;
      Promise.resolve().then(this.#flush);
    }
  }

  #unsentBytes(): number {
    return this.#out.length + this.#stream.queuedBytes;
  }
}

export interface AskOptions {
  readonly what: string;
  /** 0 is no limit. */
  readonly timeoutMs: number;
  readonly onData?: (attributes: Attributes) => void;
}
