/**
 * Running traffic as a test sees it: a download, datagrams both ways or a ping between two lab hosts, with
 * live counters at both ends, and the two questions that tests ask: does it flow, is it cut.
 *
 * Counters change by the reports of peer.ts (ten a second) and the lines of ping; nobody is told, one asks.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { eventually, LineReader } from "./children.ts";
import type { Report } from "./peer.ts";

export type StreamKind = "tcp" | "udp" | "ping";

export interface StreamOptions {
  /** The host that opens it. */
  readonly from: string;
  /** Address of a server, or of a host that answers pings. */
  readonly to: string;
  readonly kind: StreamKind;
  /** TCP: bytes a second, or "max". UDP and ping: packets a second (ping at most 100). */
  readonly rate?: number | "max";
}

const defaultRates = { tcp: 200_000, udp: 50, ping: 10 } as const;

export class Stream {
  readonly id: string;
  readonly kind: StreamKind;
  readonly #child: ChildProcess;
  readonly #heardOf: (id: string) => number;
  #received = 0;
  #lost = 0;
  #longestGapMs = 0;
  #ended: string | undefined;

  /**
   * @param enter gives the command that runs `argv` on a host
   * @param heardOf what the server has received of the stream with this id
   */
  constructor(
    options: StreamOptions & { readonly id: string; readonly peer: readonly string[] },
    enter: (host: string, argv: readonly string[]) => string[],
    heardOf: (id: string) => number,
  ) {
    const { kind, to, id } = options;
    this.id = id;
    this.kind = kind;
    this.#heardOf = heardOf;
    const rate = options.rate ?? defaultRates[kind];
    const argv =
      kind === "ping"
        ? ["ping", "-n", "-i", String(1 / Number(rate)), to]
        : [...options.peer, kind, to, id, String(rate)];
    const [program, ...args] = enter(options.from, argv);
    this.#child = spawn(program!, args, { stdio: ["ignore", "pipe", "ignore"] });
    const lines = new LineReader((line) => (kind === "ping" ? this.#hearPing(line) : this.#hear(line)));
    this.#child.stdout!.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
    this.#child.on("error", (error) => {
      this.#ended = error.message;
    });
    this.#child.on("exit", () => {
      this.#ended ??= "its program ended";
    });
  }

  /** What the client has received: bytes of TCP, datagrams of UDP, answered pings. */
  get received(): number {
    return this.#received;
  }

  /** What the server has received; pings are not counted there: 0. */
  get heard(): number {
    return this.#heardOf(this.id);
  }

  /** UDP and ping: numbers that never came, below the highest one that did. */
  get lost(): number {
    return this.#lost;
  }

  /** The longest silence at the client so far in milliseconds (not for ping: 0). */
  get longestGapMs(): number {
    return this.#longestGapMs;
  }

  /** Why it ended, undefined while it is open, also while it is cut. */
  get ended(): string | undefined {
    return this.#ended;
  }

  /** Waits until more has arrived at both ends (ping: at the client) than now. */
  async flows(limitMs?: number): Promise<void> {
    const [received, heard] = [this.received, this.heard];
    await eventually(
      `${this.kind} flow`,
      () => this.received > received && (this.kind === "ping" || this.heard > heard),
      limitMs,
    );
  }

  /** Waits until nothing has arrived at either end for `quietMs`. A stream that ended is silent too. */
  async isCut(quietMs = 1000, limitMs?: number): Promise<void> {
    let seen = "";
    let sinceAt = 0;
    await eventually(
      `${this.kind} cut`,
      () => {
        const now = `${this.received} ${this.heard}`;
        if (now !== seen) sinceAt = performance.now();
        seen = now;
        return performance.now() - sinceAt >= quietMs;
      },
      limitMs,
    );
  }

  /** Ends it and waits until its program is gone. */
  async end(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined)
      return;
    await new Promise((resolve) => {
      this.#child.once("exit", resolve);
      this.#child.kill("SIGKILL");
    });
  }

  #hear(line: string): void {
    const report = JSON.parse(line) as Report;
    this.#received = report.received;
    this.#lost = report.lost;
    // The time until the first arrival is the connection's beginning, not a gap.
    if (report.received > 0) this.#longestGapMs = Math.max(this.#longestGapMs, report.gapMs);
    this.#ended = report.ended;
  }

  #hearPing(line: string): void {
    const number = /^\d+ bytes from .*icmp_seq=(\d+)/.exec(line)?.[1];
    if (number === undefined || line.includes("DUP!")) return;
    this.#received += 1;
    this.#lost = Math.max(this.#lost, Number(number) - this.#received);
  }
}
