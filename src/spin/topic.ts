/**
 * SPIN's JSON-RPC over MQTT: requests on `<prefix>/jsonrpc/q`, answers on `<prefix>/jsonrpc/a`.
 *
 * Keeps the requests that wait, in order, and how many more may be run now. One request runs at a time, so the
 * answers come in the order of the requests, one for each that wants one. Whoever asks faster than the rate
 * waits; whoever asks for more than may wait is not answered, and counted, for an answer to each message of a
 * flood would be a flood too. A retained request is one of another time: it is ignored. The publisher hands
 * messages in and sends what comes out.
 */

import type { Cancel, Clock } from "../system/system.ts";
import { maxRequestBytes, type Rpc } from "./rpc.ts";

/** Below the prefix. */
export const rpcTopics = { question: "jsonrpc/q", answer: "jsonrpc/a" } as const;

export interface RpcTopicOptions {
  readonly rpc: Rpc;
  /** Sends an answer, as far as the broker is there. */
  reply(text: string): void;
  /** Requests that may run in one go, and how many more each second brings. Defaults 100 and 50. */
  readonly burst?: number;
  readonly perSecond?: number;
  /** Requests, and their bytes, that may wait. Defaults 256 and 256 KiB. */
  readonly maxWaiting?: number;
  readonly maxWaitingBytes?: number;
}

export interface RpcTopicCounters {
  readonly requests: number;
  readonly retained: number;
  /** Not answered, because too much was waiting. */
  readonly dropped: number;
  readonly waiting: number;
}

/** After this long, others get their turn. */
const sliceMs = 5;

export class RpcTopic {
  readonly #clock: Clock;
  readonly #options: Required<RpcTopicOptions>;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #isRunning = false;
  #allowance: number;
  #allowanceAt: number;
  #cancelTurn: Cancel | undefined;
  #isClosed = false;
  #requests = 0;
  #retained = 0;
  #dropped = 0;

  constructor(clock: Clock, options: RpcTopicOptions) {
    this.#clock = clock;
    this.#options = { burst: 100, perSecond: 50, maxWaiting: 256, maxWaitingBytes: 256 * 1024, ...options };
    this.#allowance = this.#options.burst;
    this.#allowanceAt = clock.now();
  }

  get counters(): RpcTopicCounters {
    return {
      requests: this.#requests,
      retained: this.#retained,
      dropped: this.#dropped,
      waiting: this.#waiting.length,
    };
  }

  /** Takes a message of the topic of questions, and copies it. An empty one clears a retained one: no request. */
  take(payload: Uint8Array, isRetained: boolean): void {
    if (this.#isClosed || payload.length === 0) return;
    if (isRetained) {
      this.#retained++;
      return;
    }
    // Only the beginning of what is too large has to wait, to be answered as that.
    const request = payload.slice(0, maxRequestBytes + 1);
    const { maxWaiting, maxWaitingBytes } = this.#options;
    if (
      this.#waiting.length >= maxWaiting ||
      (this.#waiting.length > 0 && this.#waitingBytes + request.length > maxWaitingBytes)
    ) {
      this.#dropped++;
      return;
    }
    this.#waiting.push(request);
    this.#waitingBytes += request.length;
    if (!this.#isRunning && !this.#cancelTurn) void this.#run();
  }

  /** Answers nothing any more; a decision under way is still made. */
  close(): void {
    this.#isClosed = true;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#cancelTurn?.();
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    // Whoever hands a message in is not to be kept.
    await undefined;
    const endAt = this.#clock.now() + sliceMs;
    while (this.#waiting.length > 0) {
      if (!this.#mayRun()) {
        this.#runLater(((1 - this.#allowance) * 1_000) / this.#options.perSecond);
        break;
      }
      const bytes = this.#waiting.shift()!;
      this.#waitingBytes -= bytes.length;
      this.#requests++;
      const answer = await this.#options.rpc.read(bytes).run();
      if (answer !== undefined && !this.#isClosed) this.#options.reply(answer);
      if (this.#waiting.length > 0 && this.#clock.now() >= endAt) {
        this.#runLater(0);
        break;
      }
    }
    this.#isRunning = false;
  }

  #mayRun(): boolean {
    const { burst, perSecond } = this.#options;
    const now = this.#clock.now();
    const earned = ((now - this.#allowanceAt) * perSecond) / 1_000;
    this.#allowance = Math.min(burst, this.#allowance + earned);
    this.#allowanceAt = now;
    if (this.#allowance < 1) return false;
    this.#allowance--;
    return true;
  }

  #runLater(delayMs: number): void {
    this.#cancelTurn = this.#clock.after(delayMs, () => {
      this.#cancelTurn = undefined;
      void this.#run();
    });
  }
}
