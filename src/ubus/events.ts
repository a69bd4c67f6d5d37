/**
 * Events that we listen for.
 *
 * Keeps the handlers by pattern, over all connections. On each connection one nameless object receives the
 * events of all patterns, once each, whatever number of them match; it is made for the first pattern and taken
 * away with the last.
 */

import type { JsonObject } from "../lib/json.ts";
import { decodeFields, jsonOf } from "./blob.ts";
import type { Attributes } from "./message.ts";
import { Grant, type Registration, type Trouble } from "./registration.ts";
import { addObject, registerPattern, removeObject } from "./requests.ts";
import type { Session } from "./session.ts";

/** Told of an event's name and data. */
export type EventHandler = (event: string, data: JsonObject) => void;

interface Listener {
  readonly handler: EventHandler;
  readonly grant: Grant;
}

/** The nameless object of one connection. */
interface Ear {
  readonly session: Session;
  readonly id: Promise<number>;
  /** Pattern → when the bus has registered it. */
  readonly registered: Map<string, Promise<void>>;
}

export class Events {
  readonly #trouble: Trouble;
  readonly #listeners = new Map<string, Set<Listener>>();
  #session: Session | undefined;
  #ear: Ear | undefined;

  constructor(trouble: Trouble) {
    this.#trouble = trouble;
  }

  /** Calls the handler with each event whose name matches: an exact name, or a prefix with "*" behind it. */
  listen(pattern: string, handler: EventHandler): Registration {
    const listener: Listener = { handler, grant: new Grant(() => this.#remove(pattern, listener)) };
    const listeners = this.#listeners.get(pattern) ?? new Set();
    listeners.add(listener);
    this.#listeners.set(pattern, listeners);
    if (this.#session) this.#register(this.#session, pattern);
    return listener.grant;
  }

  /** Registers everything on a new connection; without one, waits for the next. */
  renew(session: Session | undefined): void {
    this.#session = session;
    this.#ear = undefined;
    if (!session) return;
    for (const pattern of this.#listeners.keys()) this.#register(session, pattern);
  }

  /** Resolves when the bus has registered a pattern that somebody listens for on the present connection. */
  async registered(pattern: string): Promise<void> {
    await this.#ear?.registered.get(pattern);
  }

  #deliver(attributes: Attributes): void {
    const { method: event, data: bytes } = attributes;
    if (event === undefined) return;
    const data = jsonOf(decodeFields(bytes ?? new Uint8Array(0), { skipBad: true }));
    for (const [pattern, listeners] of this.#listeners) {
      if (!matches(pattern, event)) continue;
      for (const { handler } of [...listeners]) {
        try {
          handler(event, data);
        } catch (thrown) {
          this.#trouble.log(thrown);
        }
      }
    }
  }

  #register(session: Session, pattern: string): void {
    const ear = this.#ear ?? this.#open(session);
    this.#ear = ear;
    const registered =
      ear.registered.get(pattern) ?? ear.id.then((id) => registerPattern(session, id, pattern));
    ear.registered.set(pattern, registered);
    registered.then(
      () => this.#each(pattern, (listener) => listener.grant.grant()),
      (thrown) => this.#refuse(ear, pattern, thrown),
    );
  }

  #refuse(ear: Ear, pattern: string, thrown: unknown): void {
    if (ear.session.ended) return;
    this.#each(pattern, (listener) => listener.grant.refuse(thrown));
    // Listeners that came meanwhile wait for the same answer; one of them speaks for all.
    if (!ear.registered.delete(pattern)) return;
    this.#trouble.log(thrown);
    this.#trouble.later(() => {
      const wanted = this.#listeners.has(pattern) && !ear.session.ended;
      if (wanted && !this.#ear?.registered.has(pattern)) this.#register(ear.session, pattern);
    });
  }

  #open(session: Session): Ear {
    const id = addObject(session, {}, { onInvoke: (attributes) => this.#deliver(attributes) });
    const ear: Ear = { session, id, registered: new Map() };
    id.catch(() => {
      // For the next try, a new one.
      if (this.#ear === ear) this.#ear = undefined;
    });
    return ear;
  }

  #each(pattern: string, tell: (listener: Listener) => void): void {
    for (const listener of [...(this.#listeners.get(pattern) ?? [])]) tell(listener);
  }

  #remove(pattern: string, listener: Listener): void {
    const listeners = this.#listeners.get(pattern);
    listeners?.delete(listener);
    if (listeners?.size === 0) this.#listeners.delete(pattern);
    // The bus knows no way to give up one pattern: unwanted ones are heard until the object goes.
    const ear = this.#ear;
    if (this.#listeners.size > 0 || !ear) return;
    this.#ear = undefined;
    ear.id.then((id) => removeObject(ear.session, id)).catch(() => {});
  }
}

function matches(pattern: string, event: string): boolean {
  return pattern.endsWith("*") ? event.startsWith(pattern.slice(0, -1)) : event === pattern;
}
