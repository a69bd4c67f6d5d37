/**
 * What we publish on the bus, by path, over all connections: announced on each, answering calls, notifying.
 */

import type { JsonObject } from "../lib/json.ts";
import { encodeFields, fieldsOf } from "./blob.ts";
import { type Attributes, MessageType } from "./message.ts";
import type { Methods } from "./methods.ts";
import { Publication, Running } from "./publication.ts";
import { Grant, type Registration, type Trouble } from "./registration.ts";
import { addObject, removeObject } from "./requests.ts";
import type { ReturnAddress, Session, Target } from "./session.ts";
import { faultOf, Status } from "./status.ts";

/** Calls of our methods that may run at once; one caller may be a gateway for many. */
const running = { perCaller: 256, inAll: 1024 };

/** Subscriber → the status it answered with, undefined if it did not in time. */
export type Replies = ReadonlyMap<number, number | undefined>;

interface Published {
  readonly publication: Publication;
  readonly grant: Grant;
  /** What the bus calls it on the present connection. */
  id: number | undefined;
  /** Somebody subscribes to it. */
  active: boolean;
}

export interface Notification {
  readonly type: string;
  readonly data: JsonObject;
  /** Wants an answer of each subscriber. */
  readonly reply: boolean;
  readonly timeoutMs: number;
}

export class Publications {
  readonly #trouble: Trouble;
  readonly #all = new Map<string, Published>();
  readonly #running = new Running(running);
  #session: Session | undefined;
  #dropped = 0;

  constructor(trouble: Trouble) {
    this.#trouble = trouble;
  }

  /** Notifications that could not be sent. */
  get dropped(): number {
    return this.#dropped;
  }

  publish(name: string, methods: Methods): Registration {
    if (this.#all.has(name)) throw new RangeError(`Cannot publish ${name}: it is published`);
    const published: Published = {
      publication: new Publication(name, methods, this.#trouble.log),
      grant: new Grant(() => this.#remove(published)),
      id: undefined,
      active: false,
    };
    this.#all.set(name, published);
    if (this.#session) this.#announce(published, this.#session);
    return published.grant;
  }

  hasSubscribers(name: string): boolean {
    return this.#all.get(name)?.active === true;
  }

  async notify(name: string, notification: Notification): Promise<Replies> {
    const published = this.#all.get(name);
    if (!published) throw new RangeError(`Cannot notify of ${name}: it is not published`);
    const { active, id: objectId } = published;
    const session = this.#session;
    if (!active || objectId === undefined || !session) return new Map();
    const { type, data, reply, timeoutMs } = notification;
    const what = `Cannot notify of ${name} ${type}`;
    if (reply) {
      const attributes = { objectId, method: type, data: encodeFields(fieldsOf(data)) };
      return collectReplies(session, attributes, { what, timeoutMs });
    }
    try {
      const attributes = { objectId, method: type, data: encodeFields(fieldsOf(data)), noReply: true };
      session.tell({ type: MessageType.Notify, peer: objectId, attributes }, what);
    } catch {
      this.#dropped++;
    }
    return new Map();
  }

  /** Announces everything on a new connection; without one, waits for the next. */
  renew(session: Session | undefined): void {
    this.#session = session;
    for (const published of this.#all.values()) {
      published.id = undefined;
      published.active = false;
      if (session) this.#announce(published, session);
    }
  }

  #announce(published: Published, session: Session): void {
    const { publication, grant } = published;
    const { name: path, signature } = publication;
    const target: Target = {
      onId: (id) => {
        published.id = id;
      },
      onInvoke: (attributes, from) => this.#onCall(publication, attributes, { session, from }),
      onActive: (active) => {
        published.active = active;
      },
    };
    addObject(session, { path, signature }, target).then(
      (id) => {
        if (!grant.cancelled) grant.grant();
        else if (published.id === id) this.#withdraw(published, session);
      },
      (thrown) => {
        if (session.ended || grant.cancelled) return;
        this.#trouble.log(thrown);
        grant.refuse(thrown);
        this.#trouble.later(() => {
          if (!session.ended && !grant.cancelled) this.#announce(published, session);
        });
      },
    );
  }

  #onCall(
    publication: Publication,
    attributes: Attributes,
    call: { readonly session: Session; readonly from: ReturnAddress },
  ): void {
    const { session, from } = call;
    const { noReply } = attributes;
    if (!this.#running.admits(from.peer)) {
      if (!noReply) session.answer(from, Status.NoMemory);
      return;
    }
    const outcome = publication.run(attributes);
    if (outcome instanceof Promise) {
      this.#running.hold(from.peer, outcome);
      outcome.then(({ status, data }) => {
        if (!noReply) session.answer(from, status, data);
      });
    } else if (!noReply) {
      session.answer(from, outcome.status, outcome.data);
    }
  }

  #remove(published: Published): void {
    this.#all.delete(published.publication.name);
    if (this.#session) this.#withdraw(published, this.#session);
  }

  /** Takes it off the bus, if it has got there. */
  #withdraw(published: Published, session: Session): void {
    const { id } = published;
    if (id === undefined) return;
    published.id = undefined;
    removeObject(session, id).catch(() => {});
  }
}

/** Sends a notification and waits for the answers of those whom the bus says it went to. */
function collectReplies(
  session: Session,
  attributes: Attributes & { readonly objectId: number },
  options: { readonly what: string; readonly timeoutMs: number },
): Promise<Replies> {
  const replies = new Map<number, number | undefined>();
  let listed = false;
  let missing = 0;
  return new Promise((resolve, reject) => {
    session.exchange({ type: MessageType.Notify, peer: attributes.objectId, attributes }, options, {
      onStatus: ({ peer, attributes: { status = Status.InvalidArgument, subscribers = [] } }) => {
        if (!listed) {
          if (status !== Status.Ok) reject(faultOf(status, options.what));
          else for (const id of subscribers) replies.set(id, undefined);
          listed = true;
          missing = replies.size;
        } else if (replies.has(peer) && replies.get(peer) === undefined) {
          replies.set(peer, status);
          missing--;
        }
        if (missing === 0) resolve(replies);
        return missing;
      },
      onFault: (fault) => (listed && fault.code === "timeout" ? resolve(replies) : reject(fault)),
    });
  });
}
