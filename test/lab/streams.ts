/**
 * Running traffic as a test sees it: a download, datagrams both ways or a ping between two lab hosts, with
 * live counters at both ends, and the questions that tests ask: does it flow, is it cut, did anything pass then.
 *
 * Counters change by the reports of peer.ts (ten a second) and the lines of ping; nobody is told, one asks. No answer
 * depends on how late a report is: silence is counted in reports, not in seconds, and of each datagram is known when it
 * was sent and when it was read.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { eventually, LineReader } from "./children.ts";
import type { Arrival, Heard, Report, Told } from "./peer.ts";
import { clockMs, reportMs } from "./time.ts";

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

/** What a server tells of all its streams, by their ids. */
export class Hearing {
  readonly #streams = new Map<string, { heard: number; longestRun: number; arrivals: Arrival[] }>();
  #count = 0;
  #at = 0;

  /** A line of the server's output. */
  push(line: string): void {
    if (!line.startsWith("{")) return;
    const told = JSON.parse(line) as Heard | Told;
    if ("at" in told) {
      this.#count++;
      this.#at = told.at;
      return;
    }
    const stream = this.#of(told.id);
    stream.heard = told.heard;
    stream.longestRun = told.longestRun;
    stream.arrivals.push(...told.arrivals);
  }

  heard(id: string): number {
    return this.#streams.get(id)?.heard ?? 0;
  }

  longestRun(id: string): number {
    return this.#streams.get(id)?.longestRun ?? 0;
  }

  arrivals(id: string): readonly Arrival[] {
    return this.#streams.get(id)?.arrivals ?? [];
  }

  /** How often the server has told everything. */
  get count(): number {
    return this.#count;
  }

  /** Up to when the server has told everything. */
  get at(): number {
    return this.#at;
  }

  #of(id: string): { heard: number; longestRun: number; arrivals: Arrival[] } {
    let stream = this.#streams.get(id);
    if (stream === undefined) {
      stream = { heard: 0, longestRun: 0, arrivals: [] };
      this.#streams.set(id, stream);
    }
    return stream;
  }
}

export class Stream {
  readonly id: string;
  readonly kind: StreamKind;
  readonly #child: ChildProcess;
  readonly #heardOf: (id: string) => number;
  readonly #hearing: Hearing | undefined;
  readonly #arrivals: Arrival[] = [];
  /** Between two pings. */
  readonly #pingMs: number;
  #received = 0;
  #lost = 0;
  #longestRun = 0;
  #reports = 0;
  #reportedAt = 0;
  #ended: string | undefined;

  /**
   * @param enter gives the command that runs `argv` on a host
   * @param server what the server tells, or only how much it has received of the stream with an id
   */
  constructor(
    options: StreamOptions & { readonly id: string; readonly peer: readonly string[] },
    enter: (host: string, argv: readonly string[]) => string[],
    server: Hearing | ((id: string) => number),
  ) {
    const { kind, to, id } = options;
    this.id = id;
    this.kind = kind;
    this.#hearing = server instanceof Hearing ? server : undefined;
    this.#heardOf = server instanceof Hearing ? (which) => server.heard(which) : server;
    const rate = options.rate ?? defaultRates[kind];
    this.#pingMs = 1_000 / Number(rate);
    const argv =
      kind === "ping"
        ? ["ping", "-n", "-O", "-i", String(this.#pingMs / 1_000), to]
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

  /**
   * UDP: the longest run of numbers so far that one end sent and the other never got. A pause of a program is none:
   * who does not run sends no numbers.
   */
  get longestRun(): number {
    return Math.max(this.#longestRun, this.#hearing?.longestRun(this.id) ?? 0);
  }

  /** Why it ended, undefined while it is open, also while it is cut. */
  get ended(): string | undefined {
    return this.#ended;
  }

  /** UDP: how many datagrams, of either direction, were sent after `fromAt` and read before `toAt`, as told so far. */
  arrivedWithin(fromAt: number, toAt = Number.POSITIVE_INFINITY): number {
    const all = [this.#arrivals, this.#hearing?.arrivals(this.id) ?? []];
    return all.reduce(
      (sum, arrivals) => sum + arrivals.filter(([sentAt, readAt]) => sentAt > fromAt && readAt < toAt).length,
      0,
    );
  }

  /** UDP: how many datagrams, of the busier direction, were read between two instants, as told so far. */
  readWithin(fromAt: number, toAt: number): number {
    const all = [this.#arrivals, this.#hearing?.arrivals(this.id) ?? []];
    return Math.max(
      ...all.map((arrivals) => arrivals.filter(([, readAt]) => readAt > fromAt && readAt < toAt).length),
    );
  }

  /** Waits until both ends have told of everything that came until now. An end that is gone tells nothing more. */
  async caughtUp(): Promise<void> {
    const nowAt = clockMs();
    const counts = [this.#reports, this.#hearing?.count ?? 0];
    // Two reports, since the first may come before its program has read what lay there.
    await eventually(
      `reports of a ${this.kind} stream`,
      () =>
        (this.#ended !== undefined || (this.#reportedAt > nowAt && this.#reports >= counts[0]! + 2)) &&
        (this.#hearing === undefined || (this.#hearing.at > nowAt && this.#hearing.count >= counts[1]! + 2)),
    );
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

  /**
   * Waits until both ends, running, have reported silence for so long (ping: until as many echoes in a row have not come
   * back as are sent in that time). A stream that ended is silent too.
   */
  async isCut(quietMs = 1000, limitMs?: number): Promise<void> {
    const isPing = this.kind === "ping";
    const needed = Math.ceil(quietMs / (isPing ? this.#pingMs : reportMs));
    const counts = () => [this.#reports, isPing ? this.#reports : (this.#hearing?.count ?? this.#reports)];
    let seen = "";
    let from = counts();
    await eventually(
      `${this.kind} cut`,
      () => {
        const now = `${this.received} ${this.heard}`;
        if (now !== seen) from = counts();
        seen = now;
        if (this.#ended !== undefined) return true;
        return counts().every((count, at) => count - from[at]! >= needed);
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
    this.#longestRun = report.longestRun;
    this.#arrivals.push(...report.arrivals);
    this.#reportedAt = report.at;
    this.#reports++;
    this.#ended ??= report.ended;
  }

  #hearPing(line: string): void {
    const missing = /^no answer yet for icmp_seq=/.test(line);
    const number = /^\d+ bytes from .*icmp_seq=(\d+)/.exec(line)?.[1];
    if (line.includes("DUP!") || (number === undefined && !missing)) return;
    this.#reports++;
    this.#reportedAt = clockMs();
    if (number === undefined) return;
    this.#received += 1;
    this.#lost = Math.max(this.#lost, Number(number) - this.#received);
  }
}
