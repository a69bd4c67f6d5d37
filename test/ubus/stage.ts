/**
 * A stage for the bus: its files, its clock and its connections in memory, each under the test's control.
 *
 * A connection takes what the bus writes as fast as the test says: `room` bytes fit into the kernel, the rest
 * waits in the stream as it would in the real one.
 */

import type {
  Credentials,
  FileStatus,
  ListenOptions,
  Stream,
  StreamHandlers,
  System,
} from "../../src/system/system.ts";

export interface StageFile {
  readonly text: string;
  readonly uid?: number;
  readonly gid?: number;
  readonly mode?: number;
}

export const passwd =
  "root:x:0:0:root:/root:/bin/sh\nnobody:*:65534:65534::/:/bin/false\nann:x:1000:1000::/:\n";
export const group = "root:x:0:\nnogroup:x:65534:\nann:x:1000:\naudio:x:29:ann\n";

/** The bus's end of a connection, and what the client at the other end sees of it. */
export class Line implements Stream {
  readonly peer: Credentials;
  handlers: StreamHandlers | undefined;
  /** What the client can read. */
  received: Uint8Array[] = [];
  paused = false;
  closed = false;
  /** How much the kernel takes before the client reads. */
  room = Number.POSITIVE_INFINITY;
  writes = 0;
  #waiting: Uint8Array[] = [];
  #needsDrain = false;

  constructor(peer: Credentials) {
    this.peer = peer;
  }

  get queuedBytes(): number {
    return this.#waiting.reduce((sum, bytes) => sum + bytes.length, 0);
  }

  get hex(): string {
    return this.received.map((bytes) => Buffer.from(bytes).toString("hex")).join("");
  }

  write(bytes: Uint8Array): boolean {
    if (this.closed) return false;
    this.writes++;
    this.#waiting.push(bytes);
    this.#move();
    if (this.#waiting.length > 0) this.#needsDrain = true;
    return this.#waiting.length === 0;
  }

  /** The client reads: room for that many bytes more. */
  drain(bytes = Number.POSITIVE_INFINITY): void {
    this.room += bytes;
    this.#move();
    if (this.#waiting.length > 0 || !this.#needsDrain || this.closed) return;
    this.#needsDrain = false;
    this.handlers?.onDrain?.();
  }

  /** The client sends. */
  feed(bytes: Uint8Array): void {
    if (!this.closed) this.handlers?.onBytes(bytes);
  }

  /** The client hangs up. */
  hangUp(): void {
    if (!this.closed) this.close();
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  end(): void {
    this.close();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    queueMicrotask(() => this.handlers?.onClose());
  }

  #move(): void {
    for (;;) {
      const first = this.#waiting[0];
      if (!first || this.room <= 0) return;
      const taken = first.subarray(0, Math.min(first.length, this.room));
      this.received.push(taken.slice());
      this.room -= taken.length;
      if (taken.length === first.length) this.#waiting.shift();
      else this.#waiting[0] = first.subarray(taken.length);
    }
  }
}

interface Timer {
  readonly at: number;
  readonly call: () => void;
}

export class Stage {
  readonly files = new Map<string, StageFile>([
    ["/etc/passwd", { text: passwd }],
    ["/etc/group", { text: group }],
  ]);
  readonly log: string[] = [];
  readonly #timers = new Set<Timer>();
  #now = 0;
  #options: ListenOptions | undefined;

  /** The machine as the bus sees it. */
  readonly system = {
    now: () => this.#now,
    after: (delayMs: number, call: () => void) => {
      const timer = { at: this.#now + delayMs, call };
      this.#timers.add(timer);
      return () => void this.#timers.delete(timer);
    },
    random: (length: number) => crypto.getRandomValues(new Uint8Array(length)),
    log: (level: string, line: string) => void this.log.push(`${level}: ${line}`),
    read: async (path: string) => {
      const file = this.files.get(path);
      return file && new TextEncoder().encode(file.text);
    },
    list: async (directory: string) => {
      const names = [...this.files.keys()].filter((path) => path.startsWith(`${directory}/`));
      return names.map((path) => path.slice(directory.length + 1)).sort();
    },
    stat: async (path: string): Promise<FileStatus | undefined> => {
      const file = this.files.get(path);
      if (!file) return undefined;
      const { uid = 0, gid = 0, mode = 0o644, text } = file;
      return { uid, gid, mode, sizeBytes: text.length, modifiedAt: 0, isDirectory: false };
    },
    watch: () => () => {},
    makeDirectory: async () => {},
    listen: async (_path: string, options: ListenOptions) => {
      this.#options = options;
      return { close: async () => {} };
    },
  } as unknown as System;

  /** A client connects; root unless said otherwise. */
  connect(peer: Partial<Credentials> = {}): Line {
    const line = new Line({ pid: 1, uid: 0, gid: 0, ...peer });
    line.handlers = this.#options!.accept(line);
    if (!line.handlers) line.closed = true;
    return line;
  }

  /** Lets the clock run. */
  pass(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers]) {
      if (timer.at > this.#now || !this.#timers.delete(timer)) continue;
      timer.call();
    }
  }
}

/** Lets everything that waits in promises happen. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Ids in the order of their giving out, as in the recordings. */
export function countingIds(): () => number {
  let next = 0x5a000000;
  return () => ++next;
}
