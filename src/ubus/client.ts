/**
 * Our place on the bus: what we publish, listen and subscribe to, and calls of others.
 *
 * Keeps published objects by path, and through `events.ts` and `subscribe.ts` patterns and subscriptions, over
 * all connections: the connection comes back by itself (100 ms doubling to 1 s) and everything is asked for
 * again on it. Per connection it keeps the ids of objects that were called, which are looked up once and again
 * when the bus no longer knows them. Calls in flight fail when the connection does; later ones wait for the
 * next connection within their time.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import type { Json, JsonObject } from "../lib/json.ts";
import type { Cancel, System } from "../system/system.ts";
import { decodeFields, encodeFields, fieldsOf, jsonOfField } from "./blob.ts";
import { type EventHandler, Events } from "./events.ts";
import { type Attributes, MessageType } from "./message.ts";
import type { Methods } from "./methods.ts";
import { Publications, type Replies } from "./publish.ts";
import type { Registration, Trouble } from "./registration.ts";
import { lookup, lookupId, type ObjectInfo, sendEvent } from "./requests.ts";
import { Session } from "./session.ts";
import { faultOf, Status } from "./status.ts";
import { type NotificationHandler, Subscriptions } from "./subscribe.ts";

const defaultTimeoutMs = 30_000;
const firstRetryMs = 100;
const lastRetryMs = 1000;
/** The bus refused something: until the next try. */
const refusedMs = 5000;
/** A caller that makes a method fail shall not fill the log. */
const quietMs = 1000;
/** Calls that wait for a connection. */
const maxWaiting = 1024;
/** Ids of objects kept. */
const maxIds = 1024;

export interface UbusOptions {
  /** The bus's socket. */
  readonly path: string;
  /** How long a call may take that says nothing else. Default 30 s; 0 is for ever. */
  readonly timeoutMs?: number;
  /** Connects again after a failure. Default true; without it the first failure is the end. */
  readonly retry?: boolean;
  /** Told when a connection stands, and with the fault when it is lost or a try has failed. */
  readonly onState?: (connected: boolean, fault?: Fault) => void;
}

export interface CallOptions {
  /** 0 is for ever. */
  readonly timeoutMs?: number;
}

export interface InvokeOptions extends CallOptions {
  /** Each piece of the answer, a list of fields; valid until the call returns. */
  readonly onData?: (data: Uint8Array) => void;
}

export interface NotifyOptions extends CallOptions {
  /** Wants an answer of each subscriber. */
  readonly reply?: boolean;
}

interface Waiting {
  readonly resolve: (session: Session) => void;
  readonly reject: (fault: Fault) => void;
  cancelTimer: Cancel | undefined;
}

/** Connects to a bus, and keeps connected. Never fails: what does is told to `onState` and to who calls. */
export function connectUbus(system: System, options: UbusOptions): Ubus {
  return new Ubus(system, options);
}

export class Ubus {
  readonly #system: System;
  readonly #options: UbusOptions;
  readonly #timeoutMs: number;
  readonly #publications: Publications;
  readonly #events: Events;
  readonly #subscriptions: Subscriptions;
  readonly #waiting = new Set<Waiting>();
  #session: Session | undefined;
  #retryMs = firstRetryMs;
  #cancelRetry: Cancel | undefined;
  /** Why there will be no connection any more. */
  #end: Fault | undefined;
  #loggedAt = Number.NEGATIVE_INFINITY;
  #unlogged = 0;
  // On the present connection:
  readonly #ids = new Map<string, number>();
  readonly #lookups = new Map<string, Promise<number | undefined>>();

  constructor(system: System, options: UbusOptions) {
    this.#system = system;
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    const trouble: Trouble = {
      log: (thrown) => this.#log(messageOf(thrown)),
      later: (call) => system.after(refusedMs, call),
    };
    this.#publications = new Publications(trouble);
    this.#events = new Events(trouble);
    this.#subscriptions = new Subscriptions(this.#events, trouble);
    this.#connect();
  }

  /** A connection stands. */
  get connected(): boolean {
    return this.#session?.ready === true;
  }

  /** Notifications that could not be sent. */
  get dropped(): number {
    return this.#publications.dropped;
  }

  /** Resolves when a connection stands. @throws Fault "closed" if there will be none. */
  async ready(): Promise<void> {
    await this.#connection("Cannot use bus", 0);
  }

  /**
   * The objects that match a path, a prefix that ends in "*", or all; sorted bytewise by path.
   *
   * @throws Fault "not-found" if a path or prefix matches none; "closed", "timeout".
   */
  async lookup(pattern?: string): Promise<ObjectInfo[]> {
    return lookup(await this.#connection("Cannot look up objects", this.#timeoutMs), pattern);
  }

  /**
   * Calls a method and waits for its answer.
   *
   * @returns all pieces of the answer merged into one object without prototype.
   * @throws Fault by the status of the answer, see status.ts; "closed", "timeout", "limit".
   */
  async call(
    object: string,
    method: string,
    args: JsonObject = {},
    options: CallOptions = {},
  ): Promise<JsonObject> {
    const answer: Record<string, Json> = Object.create(null);
    const status = await this.invoke(object, method, encodeFields(fieldsOf(args)), {
      ...options,
      onData: (data) => {
        for (const field of decodeFields(data, { skipBad: true })) answer[field.name] = jsonOfField(field);
      },
    });
    if (status !== Status.Ok) throw faultOf(status, `Cannot call ${object} ${method}`);
    return answer;
  }

  /**
   * Calls a method with encoded fields, and hands out each piece of the answer as it came.
   *
   * @returns the status of the answer.
   * @throws Fault "closed", "timeout", "limit"; "not-found" if there is no such object.
   */
  async invoke(
    object: string,
    method: string,
    data: Uint8Array,
    options: InvokeOptions = {},
  ): Promise<number> {
    const what = `Cannot call ${object} ${method}`;
    const { timeoutMs = this.#timeoutMs, onData } = options;
    const session = this.#readySession() ?? (await this.#connection(what, timeoutMs));
    for (let again = false; ; again = true) {
      const known = this.#ids.get(object);
      const objectId = known ?? (await this.#idOf(session, object));
      if (objectId === undefined) throw faultOf(Status.NotFound, what);
      const request = { type: MessageType.Invoke, peer: objectId, attributes: { objectId, method, data } };
      const answer = await session.ask(request, {
        what,
        timeoutMs,
        onData: onData && (({ data: piece }: Attributes) => piece && onData(piece)),
      });
      const { status = Status.InvalidArgument } = answer;
      // The bus does not know the object; the object itself would have named itself in its answer.
      const gone = status === Status.NotFound && answer.objectId === undefined;
      if (gone && this.#ids.get(object) === objectId) this.#ids.delete(object);
      if (!gone || known === undefined || again) return status;
    }
  }

  /**
   * Publishes an object. Its methods may answer later; a Fault becomes its status, undefined a status without
   * data. `done` rejects with Fault "invalid" if the path is taken or not allowed.
   *
   * @throws RangeError if we publish one of this name already.
   */
  publish(name: string, methods: Methods): Registration {
    return this.#publications.publish(name, methods);
  }

  /** Whether somebody subscribes to an object of ours. */
  hasSubscribers(object: string): boolean {
    return this.#publications.hasSubscribers(object);
  }

  /**
   * Notifies all who subscribe to an object of ours; if nobody does, nothing is sent.
   *
   * Without `reply` it never rejects: what cannot be sent is counted in `dropped`.
   * @returns with `reply`: the answer of each subscriber; else nothing.
   * @throws RangeError if we do not publish the object; with `reply` Fault "closed", "limit", and "timeout" if
   *   the bus does not answer.
   */
  notify(object: string, type: string, data: JsonObject, options: NotifyOptions = {}): Promise<Replies> {
    const { reply = false, timeoutMs = this.#timeoutMs } = options;
    return this.#publications.notify(object, { type, data, reply, timeoutMs });
  }

  /** Sends an event to all who listen for its name. @throws Fault "denied" for names that begin with "ubus." */
  async send(event: string, data: JsonObject): Promise<void> {
    const session = await this.#connection(`Cannot send event ${event}`, this.#timeoutMs);
    await sendEvent(session, event, fieldsOf(data));
  }

  /** Calls the handler with each event whose name is the pattern, or begins with it if it ends in "*". */
  listen(pattern: string, handler: EventHandler): Registration {
    return this.#events.listen(pattern, handler);
  }

  /** Calls the handler with each notification of an object, whenever it is there. */
  subscribe(object: string, handler: NotificationHandler): Registration {
    return this.#subscriptions.subscribe(object, handler);
  }

  /** Sends what is queued and ends the connection. What waits fails with Fault "closed". */
  close(): void {
    this.#end ??= new Fault("closed", "Cannot use bus: closed");
    this.#cancelRetry?.();
    this.#session?.close();
    this.#failWaiting(this.#end);
  }

  #readySession(): Session | undefined {
    return this.#session?.ready ? this.#session : undefined;
  }

  /** The session, as soon as there is one that is ready. */
  #connection(what: string, timeoutMs: number): Promise<Session> {
    const session = this.#readySession();
    if (session) return Promise.resolve(session);
    return new Promise((resolve, reject) => {
      if (this.#end) {
        reject(new Fault("closed", `${what}: not connected to the bus`, { cause: this.#end }));
        return;
      }
      if (this.#waiting.size >= maxWaiting) {
        reject(new Fault("limit", `${what}: too many calls wait for the bus`));
        return;
      }
      const waiting: Waiting = { resolve, reject, cancelTimer: undefined };
      this.#waiting.add(waiting);
      if (timeoutMs === 0) return;
      waiting.cancelTimer = this.#system.after(timeoutMs, () => {
        this.#waiting.delete(waiting);
        reject(new Fault("timeout", `${what}: no connection to the bus in ${timeoutMs} ms`));
      });
    });
  }

  #failWaiting(fault: Fault): void {
    for (const waiting of this.#waiting) {
      waiting.cancelTimer?.();
      waiting.reject(fault);
    }
    this.#waiting.clear();
  }

  #connect(): void {
    const session: Session = new Session(this.#system, this.#options.path, {
      onHello: () => this.#onHello(session),
      onClose: (fault) => this.#onClose(fault),
    });
    if (!session.ended) this.#session = session;
  }

  #onHello(session: Session): void {
    this.#retryMs = firstRetryMs;
    this.#publications.renew(session);
    this.#events.renew(session);
    this.#subscriptions.renew(session);
    this.#options.onState?.(true);
    for (const waiting of this.#waiting) {
      waiting.cancelTimer?.();
      waiting.resolve(session);
    }
    this.#waiting.clear();
  }

  #onClose(fault: Fault): void {
    this.#session = undefined;
    this.#ids.clear();
    this.#lookups.clear();
    this.#publications.renew(undefined);
    this.#events.renew(undefined);
    this.#subscriptions.renew(undefined);
    if (this.#options.retry === false) this.#end ??= fault;
    if (this.#end) this.#failWaiting(this.#end);
    else {
      this.#cancelRetry = this.#system.after(this.#retryMs, () => this.#connect());
      this.#retryMs = Math.min(this.#retryMs * 2, lastRetryMs);
    }
    this.#options.onState?.(false, fault);
  }

  /** One line a second at most; what was left out is counted in the next. */
  #log(line: string): void {
    const now = this.#system.now();
    if (now - this.#loggedAt < quietMs) {
      this.#unlogged++;
      return;
    }
    const left = this.#unlogged > 0 ? ` (and ${this.#unlogged} more)` : "";
    this.#loggedAt = now;
    this.#unlogged = 0;
    this.#system.log("warning", line + left);
  }

  /** The id of an object, from the bus; calls at the same time share one lookup. */
  #idOf(session: Session, path: string): Promise<number | undefined> {
    const under = this.#lookups.get(path);
    if (under) return under;
    const found = lookupId(session, path);
    this.#lookups.set(path, found);
    const forget = () => this.#lookups.delete(path);
    found.then((id) => {
      forget();
      if (id === undefined || session !== this.#session) return;
      if (this.#ids.size >= maxIds) this.#ids.clear();
      this.#ids.set(path, id);
    }, forget);
    return found;
  }
}
