/**
 * A standing subscription to what the kernel tells by itself: one netlink socket in multicast groups, opened
 * anew if it breaks. Where messages may be missing, after an overrun or a break, the subscriber is told, and
 * reads the whole table again.
 */

import { Fault } from "../lib/fault.ts";
import type { NetlinkOptions } from "../system/system.ts";
import { type Message, Netlink, type NetlinkCounters, type NetlinkSystem } from "./netlink.ts";

export interface SubscriptionHandlers {
  onEvent(message: Message): void;
  /** The events of one datagram have all been handed over. */
  onEventsEnd?(): void;
  /** Messages are missing. */
  onGap(): void;
  /** The socket broke, or could not be opened anew; it is tried again by itself. */
  onFault(fault: Fault): void;
}

const reopenMs = 1_000;

export class Subscription {
  readonly #system: NetlinkSystem;
  readonly #options: NetlinkOptions & { readonly counters: NetlinkCounters };
  readonly #handlers: SubscriptionHandlers;
  #netlink: Netlink;
  #closed = false;

  /** @throws Fault "kernel" or "denied" if the socket cannot be opened now. */
  constructor(
    system: NetlinkSystem,
    options: NetlinkOptions & { readonly counters: NetlinkCounters },
    handlers: SubscriptionHandlers,
  ) {
    this.#system = system;
    this.#options = options;
    this.#handlers = handlers;
    this.#netlink = this.#open();
  }

  close(): void {
    this.#closed = true;
    this.#netlink.close();
  }

  #open(): Netlink {
    const { onEvent, onEventsEnd, onGap } = this.#handlers;
    return new Netlink(this.#system, this.#options, {
      onEvent,
      ...(onEventsEnd ? { onEventsEnd } : {}),
      onOverrun: onGap,
      onClose: (fault) => this.#openLater(fault),
    });
  }

  #openLater(fault: Fault): void {
    if (this.#closed) return;
    this.#handlers.onFault(fault);
    this.#system.after(reopenMs, () => {
      if (this.#closed) return;
      try {
        this.#netlink = this.#open();
      } catch (thrown) {
        this.#openLater(
          thrown instanceof Fault ? thrown : new Fault("kernel", "Cannot open netlink", { cause: thrown }),
        );
        return;
      }
      this.#handlers.onGap();
    });
  }
}
