/**
 * A short conversation with the bus: one request after the other, each ending in a status.
 *
 * Unlike the agent's connection it ends with the first failure, and tells statuses as they came, since exit
 * statuses and messages depend on them.
 */

import type { Cancel, System } from "../system/system.ts";
import {
  type Attributes,
  BlobType,
  encodeFields,
  type Field,
  fieldsOf,
  MessageType,
  type Received,
  type Request,
  type ReturnAddress,
  Session,
  Status,
  SystemObject,
  statusOf,
  type Target,
} from "../ubus/ubus.ts";

interface AskOptions {
  /** 0, the default, is no limit. */
  readonly timeoutMs?: number;
  readonly onData?: (attributes: Attributes) => void;
}

export class Talk {
  /** Gets copies of messages once `watch` has been heard. */
  onMonitor: (message: Received) => void = () => {};
  readonly #system: System;
  readonly #session: Session;
  readonly #closed: Promise<void>;

  private constructor(system: System, socket: string, onHello: (hello: boolean) => void) {
    let closed = () => {};
    this.#closed = new Promise((resolve) => {
      closed = resolve;
    });
    this.#system = system;
    this.#session = new Session(system, socket, {
      onHello: () => onHello(true),
      onMonitor: (message) => this.onMonitor(message),
      onClose: () => {
        onHello(false);
        closed();
      },
    });
  }

  /** Connects; undefined if there is no bus. */
  static async open(system: System, socket: string): Promise<Talk | undefined> {
    let hello = (_: boolean) => {};
    const answer = new Promise<boolean>((resolve) => {
      hello = resolve;
    });
    const talk = new Talk(system, socket, hello);
    return (await answer) ? talk : undefined;
  }

  /** Sends a request. @returns its status; ConnectionFailed or Timeout if there is no answer. */
  async ask(request: Request, { timeoutMs = 0, onData }: AskOptions = {}): Promise<number> {
    try {
      const options = { what: "Cannot ask the bus", timeoutMs };
      const answer = await this.#session.ask(request, onData ? { ...options, onData } : options);
      return answer.status ?? Status.InvalidArgument;
    } catch (thrown) {
      return statusOf(thrown);
    }
  }

  /** Tells of the objects that match a path, a prefix that ends in "*", or all, in the order of their paths. */
  lookup(path: string | undefined, onData: (attributes: Attributes) => void): Promise<number> {
    const attributes = path === undefined ? {} : { path };
    return this.ask({ type: MessageType.Lookup, peer: 0, attributes }, { onData });
  }

  /** Adds a nameless object. @returns its id, or the status if that failed. */
  async addObject(target: Target): Promise<number | { readonly status: number }> {
    let id: number | undefined;
    const status = await this.ask(
      { type: MessageType.AddObject, peer: 0, attributes: {} },
      {
        onData: ({ objectId }) => {
          id = objectId;
          // At once: what is for the object may follow in the same packet.
          if (objectId !== undefined) this.#session.route(objectId, target);
        },
      },
    );
    return status === Status.Ok && id !== undefined ? id : { status: status || Status.NoData };
  }

  /** Has events whose name matches a pattern sent to an own object. */
  register(objectId: number, pattern: string): Promise<number> {
    return this.#askEvents("register", fieldsOf({ object: objectId | 0, pattern }));
  }

  /** Sends an event. */
  send(event: string, data: readonly Field[]): Promise<number> {
    return this.#askEvents("send", [
      ...fieldsOf({ id: event }),
      { name: "data", type: BlobType.Table, value: data },
    ]);
  }

  /** Subscribes an own object to the object at a path. */
  async subscribe(objectId: number, path: string): Promise<number> {
    let target: number | undefined;
    const found = await this.lookup(path, (attributes) => {
      target = attributes.objectId;
    });
    if (found !== Status.Ok || target === undefined) return found || Status.NotFound;
    return this.ask({ type: MessageType.Subscribe, peer: 0, attributes: { objectId, target } });
  }

  /** Has the bus copy all messages to us, until the connection ends. */
  watch(): Promise<number> {
    const objectId = SystemObject.Monitor;
    const attributes = { objectId, method: "add", data: new Uint8Array(0) };
    return this.ask({ type: MessageType.Invoke, peer: objectId, attributes });
  }

  /** Answers a notification. */
  answer(to: ReturnAddress, status: number): void {
    this.#session.answer(to, status);
  }

  /** Waits. @param timeoutMs undefined is no limit. @returns what came first; "closed": the bus is gone. */
  async until(done: Promise<void>, timeoutMs: number | undefined): Promise<"done" | "timeout" | "closed"> {
    let cancel: Cancel = () => {};
    const timeout = new Promise<"timeout">((resolve) => {
      if (timeoutMs !== undefined) cancel = this.#system.after(timeoutMs, () => resolve("timeout"));
    });
    const first = await Promise.race([
      done.then(() => "done" as const),
      this.#closed.then(() => "closed" as const),
      timeout,
    ]);
    cancel();
    return first;
  }

  close(): void {
    this.#session.close();
  }

  #askEvents(method: string, fields: readonly Field[]): Promise<number> {
    const objectId = SystemObject.Event;
    const attributes = { objectId, method, data: encodeFields(fields) };
    return this.ask({ type: MessageType.Invoke, peer: objectId, attributes });
  }
}
