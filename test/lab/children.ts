/**
 * Child processes of the lab: programs that run to their end, and daemons that stay.
 *
 * A daemon is kept by its name with the tail of what it printed; it counts as started once it has said so or
 * a probe succeeds. Nothing here is shared: whoever makes a daemon ends it.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { appendFileSync, renameSync } from "node:fs";
import { sleep } from "./time.ts";

export interface Result {
  /** Exit status; 128 + signal number if a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Killed after this time, which rejects. Default 60 s. */
  readonly limitMs?: number;
}

/** So long a test waits for what has to come: for ever, as machines go, so that none fails for being slow. */
const patienceMs = 60_000;
const maxOutputChars = 32 * 1024 * 1024;
const signalNumbers = new Map<string, number>([
  ["SIGHUP", 1],
  ["SIGINT", 2],
  ["SIGQUIT", 3],
  ["SIGABRT", 6],
  ["SIGKILL", 9],
  ["SIGSEGV", 11],
  ["SIGPIPE", 13],
  ["SIGTERM", 15],
]);

/** An exit status as a shell gives it. */
export function statusOf(code: number | null, signal: string | null): number {
  return code ?? 128 + (signalNumbers.get(signal ?? "") ?? 0);
}

/** Runs a program to its end. Rejects if it cannot start, runs too long or prints without end. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<Result> {
  const [program, ...args] = argv;
  if (program === undefined) throw new TypeError("Cannot run: no program");
  const limitMs = options.limitMs ?? patienceMs;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
      env: options.env ?? process.env,
    });
    let reason = "";
    const end = (why: string) => {
      reason ||= `Cannot run ${argv.join(" ")}: ${why}`;
      child.kill("SIGKILL");
    };
    const timer = setTimeout(() => end(`not done within ${limitMs} ms`), limitMs);
    const texts = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      child[name]!.setEncoding("utf8").on("data", (chunk: string) => {
        texts[name] += chunk;
        if (texts[name].length > maxOutputChars) end("too much output");
      });
    }
    child.stdin?.on("error", () => {}); // It may end without reading everything.
    child.stdin?.end(options.input);
    child.on("error", (error) => {
      clearTimeout(timer);
      reject(new Error(`Cannot run ${program}: ${error.message}`));
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (reason) reject(new Error(`${reason}\n${texts.stderr.slice(-2000)}`));
      else resolve({ status: statusOf(code, signal), ...texts });
    });
  });
}

/** Like `run`, but any status other than 0 rejects with what the program said. Gives stdout. */
export async function must(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const result = await run(argv, options);
  if (result.status === 0) return result.stdout;
  throw new Error(
    `Cannot run ${argv.join(" ")}: status ${result.status}\n${result.stderr}${result.stdout}`.slice(0, 4000),
  );
}

/** Waits until `check` gives something true and returns it. Rejects after the limit, naming what was missing. */
export async function eventually<T>(
  what: string,
  check: () => T | Promise<T>,
  limitMs = patienceMs,
): Promise<NonNullable<T>> {
  const endsAt = performance.now() + limitMs;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (performance.now() > endsAt) throw new Error(`Cannot see ${what}: not within ${limitMs} ms`);
    await sleep(10);
  }
}

export interface DaemonOptions {
  readonly name: string;
  readonly argv: readonly string[];
  /** A line of its output that says that it works now … */
  readonly ready?: RegExp;
  /** … or a question asked again and again until it is answered true. Neither: it works at once. */
  readonly probe?: () => Promise<boolean>;
  readonly logFile?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly onLine?: (line: string) => void;
}

/** Cuts a stream of text into lines. A line without end is cut off at 16 KiB, so that it cannot grow. */
export class LineReader {
  #rest = "";
  readonly #onLine: (line: string) => void;

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  push(chunk: string): void {
    const lines = (this.#rest + chunk).split("\n");
    this.#rest = lines.pop()!.slice(-tailChars);
    for (const line of lines) this.#onLine(line);
  }
}

const tailChars = 16 * 1024;
const maxLogBytes = 1024 * 1024;

/** A program that stays until it is stopped, and can be started again. */
export class Daemon {
  readonly name: string;
  readonly #options: DaemonOptions;
  #child: ChildProcess | undefined;
  #ended: Promise<number> = Promise.resolve(0);
  #tail = "";
  #logBytes = 0;
  #status: number | undefined;

  constructor(options: DaemonOptions) {
    this.name = options.name;
    this.#options = options;
  }

  /** Its process id while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** How it ended last, undefined while it runs or before it ever did. */
  get status(): number | undefined {
    return this.#status;
  }

  /** The end of what it has printed, of all its lives. */
  get log(): string {
    return this.#tail;
  }

  /** Starts it and waits until it works. Rejects with its last words if it ends or takes over 60 s. */
  async start(): Promise<void> {
    if (this.#child !== undefined) throw new TypeError(`Cannot start ${this.name}: it runs`);
    const { argv, env, ready, probe } = this.#options;
    let said = ready === undefined;
    const child = spawn(argv[0]!, argv.slice(1), {
      stdio: ["ignore", "pipe", "pipe"],
      env: env ?? process.env,
    });
    this.#child = child;
    this.#status = undefined;
    let heard = "";
    for (const stream of [child.stdout, child.stderr]) {
      const lines = new LineReader((line) => this.#options.onLine?.(line));
      stream.setEncoding("utf8").on("data", (chunk: string) => {
        this.#hear(chunk);
        lines.push(chunk);
        if (said) return;
        heard = (heard + chunk).slice(-tailChars);
        said = ready!.test(heard);
      });
    }
    this.#ended = new Promise((resolve) => {
      const end = (status: number) => {
        if (this.#child === child) this.#child = undefined;
        this.#status = status;
        resolve(status);
      };
      child.on("error", (error) => {
        this.#hear(`${error.message}\n`);
        end(127);
      });
      child.on("exit", (code, signal) => end(statusOf(code, signal)));
    });
    try {
      await eventually(`${this.name} at work`, async () => {
        if (this.#child !== child) throw new Error(`Cannot start ${this.name}: it ended at once`);
        return said && (probe === undefined || (await probe()));
      });
    } catch (error) {
      await this.kill();
      throw new Error(`${(error as Error).message}\n${this.#tail.slice(-2000)}`);
    }
  }

  /** Asks it to end, insists after 30 s, and gives its status. Does nothing if it does not run. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number> {
    const child = this.#child;
    if (child === undefined) return this.#status ?? 0;
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), 30_000);
    const status = await this.#ended;
    clearTimeout(timer);
    return status;
  }

  /** Ends it the hard way (SIGKILL) and waits until it is gone. */
  kill(): Promise<number> {
    return this.stop("SIGKILL");
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  #hear(chunk: string): void {
    this.#tail = (this.#tail + chunk).slice(-tailChars);
    const { logFile } = this.#options;
    if (logFile === undefined) return;
    if (this.#logBytes > maxLogBytes) {
      renameSync(logFile, `${logFile}.old`);
      this.#logBytes = 0;
    }
    appendFileSync(logFile, chunk);
    this.#logBytes += Buffer.byteLength(chunk);
  }
}
