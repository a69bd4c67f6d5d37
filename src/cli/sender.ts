/**
 * The other end of an external source's socket: sends messages to whoever serves it.
 *
 * Kept are messages that the receiver's queue has no room for; `drain` waits for it, as a blocking send would.
 */

import { type ExternalMessage, encodeExternal } from "../lib/extsrc.ts";
import { Fault } from "../lib/fault.ts";
import type { System, UnixSocket } from "../system/system.ts";

const againMs = 2;
/** A receiver that takes nothing for so long takes nothing any more. */
const patienceMs = 30_000;

export class Sender {
  /** Messages sent. */
  sent = 0;
  readonly #system: System;
  readonly #path: string;
  readonly #socket: UnixSocket;
  #queue: Uint8Array[] = [];

  /** Connects. @throws Fault "not-found" or "closed" if nobody serves the socket. */
  constructor(system: System, path: string) {
    this.#system = system;
    this.#path = path;
    this.#socket = system.unix(
      { type: "datagram", connect: path },
      { onMessage() {}, onOverrun() {}, onClose() {} },
    );
  }

  tell(message: ExternalMessage): void {
    this.#queue.push(encodeExternal(message));
  }

  /**
   * Resolves when all is sent.
   *
   * @throws Fault "closed" if the receiver is gone; "timeout" if it takes nothing.
   */
  async drain(): Promise<void> {
    const queue = this.#queue;
    this.#queue = [];
    for (const message of queue) await this.#send(message);
  }

  close(): void {
    this.#socket.close();
  }

  async #send(message: Uint8Array): Promise<void> {
    const startedAt = this.#system.now();
    for (;;) {
      try {
        this.#socket.send(message);
        this.sent++;
        return;
      } catch (thrown) {
        // Its queue is full.
        if (!(thrown instanceof Fault && thrown.code === "limit")) throw thrown;
      }
      if (this.#system.now() - startedAt > patienceMs) {
        throw new Fault("timeout", `Cannot send to ${this.#path}: nobody reads`);
      }
      await new Promise<void>((resolve) => this.#system.after(againMs, resolve));
    }
  }
}
