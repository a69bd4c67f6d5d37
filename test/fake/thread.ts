/** A thread of the fake machine: what it was told, and what a test lets it say. */

import type { Fault } from "../../src/lib/fault.ts";
import type { WorkerHandlers, WorkerOptions, WorkerThread } from "../../src/system/system.ts";

export class FakeWorker implements WorkerThread {
  readonly options: WorkerOptions;
  /** Messages that it was sent, in their order. */
  readonly told: unknown[] = [];
  running = true;
  readonly #handlers: WorkerHandlers;
  readonly #note: (text: string) => void;

  constructor(options: WorkerOptions, handlers: WorkerHandlers, note: (text: string) => void) {
    this.options = options;
    this.#handlers = handlers;
    this.#note = note;
    note(`start ${options.program}`);
  }

  post(message: unknown): void {
    if (this.running) this.told.push(message);
  }

  async close(): Promise<void> {
    this.#end(undefined);
  }

  /** It says something. */
  say(message: unknown): void {
    if (this.running) this.#handlers.onMessage(message);
  }

  /** It dies. */
  die(fault: Fault): void {
    this.#end(fault);
  }

  #end(fault: Fault | undefined): void {
    if (!this.running) return;
    this.running = false;
    this.#note(`end ${this.options.program}`);
    this.#handlers.onEnd(fault);
  }
}
