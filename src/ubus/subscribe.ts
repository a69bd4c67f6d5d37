/**
 * Subscriptions to the notifications of other objects.
 *
 * Keeps each subscription over all connections, and through the comings and goings of its object: on every
 * connection it gets a nameless object of its own (a notification does not tell who sent it), looks its target
 * up, and while there is none waits for `ubus.object.add` to name it.
 */

import type { JsonObject } from "../lib/json.ts";
import { decodeFields, jsonOf } from "./blob.ts";
import type { Events } from "./events.ts";
import type { Attributes } from "./message.ts";
import { Grant, type Registration, type Trouble } from "./registration.ts";
import { addObject, lookupId, removeObject, subscribe } from "./requests.ts";
import type { Session, Target } from "./session.ts";
import { Status, statusOf } from "./status.ts";

/** Told of a notification's type and data. What it throws is the status of the answer, if one is wanted. */
export type NotificationHandler = (type: string, data: JsonObject) => void;

/** The event by which the bus tells of a new object. */
const appearance = "ubus.object.add";

interface Subscription {
  readonly path: string;
  readonly handler: NotificationHandler;
  readonly grant: Grant;
  /** What there is of it on the present connection. */
  attachment: Attachment | undefined;
}

interface Attachment {
  readonly session: Session;
  readonly subscription: Subscription;
  /** Our nameless object, once the bus has named it. */
  id: number | undefined;
  /** The object that we are subscribed to, or are asking to be. */
  target: number | undefined;
  /** A search for the target is under way; `again` asks it for another look. */
  searching: boolean;
  again: boolean;
  /** We hear of objects that appear. */
  watched: boolean;
}

export class Subscriptions {
  readonly #events: Events;
  readonly #trouble: Trouble;
  readonly #all = new Set<Subscription>();
  #session: Session | undefined;
  /** Listens for objects that appear, from the first time that one is missing. */
  #watch: Registration | undefined;

  constructor(events: Events, trouble: Trouble) {
    this.#events = events;
    this.#trouble = trouble;
  }

  /** Calls the handler with each notification of the object at a path. */
  subscribe(path: string, handler: NotificationHandler): Registration {
    const grant = new Grant(() => this.#remove(subscription));
    const subscription: Subscription = { path, handler, grant, attachment: undefined };
    this.#all.add(subscription);
    if (this.#session) this.#attach(subscription, this.#session);
    return grant;
  }

  /** Subscribes to everything on a new connection; without one, waits for the next. */
  renew(session: Session | undefined): void {
    this.#session = session;
    for (const subscription of this.#all) {
      subscription.attachment = undefined;
      if (session) this.#attach(subscription, session);
    }
  }

  #attach(subscription: Subscription, session: Session): void {
    const attachment: Attachment = {
      session,
      subscription,
      id: undefined,
      target: undefined,
      searching: false,
      again: false,
      watched: false,
    };
    subscription.attachment = attachment;
    const target: Target = {
      onId: (id) => {
        attachment.id = id;
      },
      onInvoke: (attributes, from) => {
        const status = this.#deliver(subscription, attributes);
        if (!attributes.noReply) session.answer(from, status);
      },
      onUnsubscribe: (lost) => {
        if (attachment.target !== lost) return;
        attachment.target = undefined;
        this.#search(attachment);
      },
    };
    addObject(session, {}, target).then(
      (id) => {
        if (!subscription.grant.cancelled) this.#search(attachment);
        else if (attachment.id === id) this.#withdraw(attachment);
      },
      (thrown) => this.#fail(attachment, thrown),
    );
  }

  /** Returns the status to answer with. */
  #deliver(subscription: Subscription, attributes: Attributes): number {
    const { method: type, data } = attributes;
    if (type === undefined || !data) return Status.InvalidArgument;
    try {
      subscription.handler(type, jsonOf(decodeFields(data, { skipBad: true })));
      return Status.Ok;
    } catch (thrown) {
      this.#trouble.log(thrown);
      return statusOf(thrown);
    }
  }

  /** Starts a search for the target, or has the one under way look once more. */
  #search(attachment: Attachment): void {
    attachment.again = true;
    if (attachment.searching) return;
    attachment.searching = true;
    this.#find(attachment).catch((thrown) => this.#fail(attachment, thrown));
  }

  async #find(attachment: Attachment): Promise<void> {
    const { session, subscription } = attachment;
    try {
      while (attachment.again && attachment.target === undefined && !subscription.grant.cancelled) {
        attachment.again = false;
        const target = await lookupId(session, subscription.path);
        const { id } = attachment;
        if (id === undefined) return;
        if (target !== undefined) {
          // Set before it is asked for: the loss may be told right behind the status.
          attachment.target = target;
          if (await subscribe(session, id, target)) {
            subscription.grant.grant();
            continue;
          }
          attachment.target = undefined;
        }
        if (!attachment.watched) {
          this.#watch ??= this.#events.listen(appearance, (_event, { path }) => this.#appear(path));
          await this.#events.registered(appearance);
          attachment.watched = true;
          // It may have come before we listened.
          attachment.again = true;
        }
      }
    } finally {
      attachment.searching = false;
    }
  }

  #appear(path: unknown): void {
    for (const { path: wanted, attachment } of this.#all) {
      if (wanted === path && attachment?.id !== undefined && attachment.target === undefined) {
        this.#search(attachment);
      }
    }
  }

  #fail(attachment: Attachment, thrown: unknown): void {
    if (attachment.session.ended || attachment.subscription.grant.cancelled) return;
    attachment.target = undefined;
    this.#trouble.log(thrown);
    attachment.subscription.grant.refuse(thrown);
    this.#trouble.later(() => {
      const { session, subscription, id } = attachment;
      if (session.ended || subscription.attachment !== attachment) return;
      if (id === undefined) this.#attach(subscription, session);
      else this.#search(attachment);
    });
  }

  #remove(subscription: Subscription): void {
    this.#all.delete(subscription);
    const attachment = subscription.attachment;
    subscription.attachment = undefined;
    if (attachment) this.#withdraw(attachment);
    if (this.#all.size === 0) {
      this.#watch?.cancel();
      this.#watch = undefined;
    }
  }

  /** Takes our nameless object off the bus, if it has got there. */
  #withdraw(attachment: Attachment): void {
    const { session, id } = attachment;
    if (id === undefined) return;
    attachment.id = undefined;
    removeObject(session, id).catch(() => {});
  }
}
