/**
 * The real machine: Linux, through Node and the addon netio.
 *
 * Keeps nothing of its own but what its parts keep. Parts that cost start-up time (processes, sockets, MQTT,
 * the addon) are loaded when they are first used.
 */

import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { Fault } from "../lib/fault.ts";
import { datagramsOf } from "./datagram.ts";
import { Files } from "./disk.ts";
import { connectTcp, listenTcp, openUdp } from "./inet.ts";
import { loadNetio, nodeFault } from "./native.ts";
import { connectStream, listenStream } from "./stream.ts";
import type { Clock, Level, RunOptions, RunResult, System } from "./system.ts";

/** CLOCK_MONOTONIC_RAW (linux/time.h). */
const monotonicRaw = 4;

export interface LinuxOptions {
  /** Where netio.node lies. */
  readonly nativePath: string;
  /** The file of this program, which worker threads run, too; without it there are none. */
  readonly program?: string;
  /** Takes the lines of the log in place of standard error. */
  readonly log?: (level: Level, line: string) => void;
}

const longestDelayMs = 2 ** 31 - 1;
const longestLine = 4096;
const logBurst = 100;
const logPerSecond = 2;
const defaultTimeoutMs = 30_000;
const defaultOutputBytes = 64 * 1024 * 1024;
const defaultPath = "/usr/sbin:/usr/bin:/sbin:/bin";

/** This machine. Nothing is touched before its verbs are called. */
export function openLinux(options: LinuxOptions): System {
  const netio = () => loadNetio(options.nativePath);
  const datagrams = () => datagramsOf(netio());
  const files = new Files();
  const log = limitLog(options.log ?? writeLine);
  return {
    ...clock,
    read: (path, maxBytes) => files.read(path, maxBytes),
    replace: (path, content, how) => files.replace(path, content, how),
    create: (path, mode) => files.create(path, mode),
    readPieces: (path) => files.readPieces(path),
    set: (path, value) => files.set(path, value),
    rename: (from, to) => files.rename(from, to),
    remove: (path) => files.remove(path),
    list: (path) => files.list(path),
    stat: (path) => files.stat(path),
    makeDirectory: (path, mode) => files.makeDirectory(path, mode),
    watch: (path, changed) => files.watch(path, changed),
    connect: (path, handlers) => connectStream(path, handlers, netio),
    listen: (path, how) => listenStream(path, how, netio),
    netlink: (how, handlers) => datagrams().netlink(how, handlers),
    packet: (how, handlers) => datagrams().packet(how, handlers),
    unix: (how, handlers) => datagrams().unix(how, handlers),
    udp: (how, handlers) => openUdp(netio(), how, handlers),
    tcpListen: (how) => listenTcp(how, netio),
    tcpConnect: (to, handlers) => connectTcp(to, handlers, netio),
    serve: (how, handler) => webRoom().serveWeb(how, handler),
    queue: (how) => workerRoom().openQueue(netio(), how),
    worker: (how, handlers) => {
      const { nativePath, program } = options;
      if (program === undefined) throw new Fault("unsupported", `Cannot run ${how.program}: no threads here`);
      return workerRoom().startWorker({ netio: netio(), nativePath, file: program }, how, handlers);
    },
    mqtt: (how, handlers) => mqttRoom().openMqtt(how, handlers, clock),
    random,
    rawNow: () => netio().clock(monotonicRaw) / 1_000,
    zoneOffsetMs: (date) => -new Date(date).getTimezoneOffset() * 60_000,
    log,
    run,
    self: {
      pid: process.pid,
      uid: process.getuid?.() ?? 0,
      residentBytes: () => process.memoryUsage.rss(),
    },
  };
}

const webRoom = () => require("./web.ts") as typeof import("./web.ts");
const workerRoom = () => require("./workers.ts") as typeof import("./workers.ts");
const mqttRoom = () => require("./mqtt.ts") as typeof import("./mqtt.ts");

/** performance.now() counts from the start of the process, hrtime from that of the machine; both are steady. */
const processStartMs = (() => {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6 - performance.now();
})();

const clock: Clock = {
  now: () => processStartMs + performance.now(),
  date: () => Date.now(),
  after(delayMs, call) {
    if (Number.isNaN(delayMs)) throw new RangeError("Cannot wait: the delay is not a number");
    const dueAt = performance.now() + delayMs;
    let timer: NodeJS.Timeout;
    // Node's timers fire up to a millisecond early, and at once beyond 24 days.
    const wait = () => {
      const leftMs = dueAt - performance.now();
      timer = setTimeout(
        () => (performance.now() < dueAt ? wait() : call()),
        Math.min(leftMs, longestDelayMs),
      );
    };
    wait();
    return () => clearTimeout(timer);
  },
  every(periodMs, call) {
    if (!(periodMs >= 1 && periodMs <= longestDelayMs)) {
      throw new RangeError(`Cannot repeat: a period of ${periodMs} ms`);
    }
    const timer = setInterval(call, periodMs);
    return () => clearInterval(timer);
  },
};

function random(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  // node:crypto would cost milliseconds at start.
  const source = openSync("/dev/urandom", "r");
  try {
    for (let done = 0; done < length; ) done += readSync(source, bytes, done, length - done, null);
  } finally {
    closeSync(source);
  }
  return bytes;
}

/** Makes control characters, line separators and lone surrogates visible, and cuts what is too long. */
export function visible(line: string): string {
  const cut = line.length > longestLine ? `${line.slice(0, longestLine)}…` : line;
  return cut.replace(
    /[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]|\p{Surrogate}/gu,
    (character) => {
      const hex = character.charCodeAt(0).toString(16);
      return hex.length <= 2 ? `\\x${hex.padStart(2, "0")}` : `\\u${hex}`;
    },
  );
}

type Sink = (level: Level, line: string) => void;

/** Whoever makes us complain all the time must not fill the log: past a burst some lines a second pass. */
function limitLog(sink: Sink): Sink {
  let allowance = logBurst;
  let allowanceAt = clock.now();
  let leftOut = 0;
  return (level, line) => {
    const now = clock.now();
    allowance = Math.min(logBurst, allowance + ((now - allowanceAt) / 1000) * logPerSecond);
    allowanceAt = now;
    if (allowance < 1) {
      leftOut++;
      return;
    }
    allowance--;
    if (leftOut > 0) sink("warning", `${leftOut} lines left out`);
    leftOut = 0;
    sink(level, visible(line));
  };
}

function writeLine(_level: Level, line: string): void {
  try {
    writeSync(2, `gatehouse: ${line}\n`);
  } catch {
    // Nobody reads the log: there is nobody to tell.
  }
}

function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const [program, ...args] = argv;
  if (program === undefined) throw new TypeError("Cannot run: no program");
  const { spawn } = require("node:child_process") as typeof import("node:child_process");
  const { timeoutMs = defaultTimeoutMs, maxOutputBytes = defaultOutputBytes } = options;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: "/",
      // Messages of tools are compared: in one language.
      env: { ...process.env, PATH: process.env.PATH || defaultPath, LC_ALL: "C" },
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    const output: Record<"stdout" | "stderr", Buffer[]> = { stdout: [], stderr: [] };
    let size = 0;
    const fail = (fault: Fault) => {
      clearTimeout(timer);
      child.kill("SIGKILL");
      // Children of the child may hold the pipes open.
      for (const pipe of child.stdio) pipe?.destroy();
      reject(fault);
    };
    const timer = setTimeout(
      () => fail(new Fault("timeout", `Cannot run ${program}: no end within ${timeoutMs} ms`)),
      timeoutMs,
    );
    for (const name of ["stdout", "stderr"] as const) {
      child[name]?.on("data", (chunk: Buffer) => {
        size += chunk.length;
        if (size > maxOutputBytes) {
          fail(new Fault("limit", `Cannot run ${program}: more than ${maxOutputBytes} bytes of output`));
        } else {
          output[name].push(chunk);
        }
      });
    }
    child.on("error", (error) => fail(nodeFault(error, `run ${program}`)));
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const signalNumber = signal === null ? 0 : require("node:os").constants.signals[signal];
      resolve({
        status: code ?? 128 + signalNumber,
        stdout: Buffer.concat(output.stdout).toString("utf8"),
        stderr: Buffer.concat(output.stderr).toString("utf8"),
        pid: child.pid ?? 0,
      });
    });
    // A program that ends without reading its input is no fault: its exit status tells.
    child.stdin?.on("error", () => {});
    child.stdin?.end(options.input);
  });
}
