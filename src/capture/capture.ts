/**
 * Captures into files, as the bus asks for them; the front door of everything about captures.
 *
 * Kept: captures by number, those under way and the last ones, each with its file
 * `capture-NODE-NUMBER.pcap` in one directory. That directory is in memory on a router, so files are few and
 * their bytes bounded: the oldest make room for a new one, those of an earlier life, too. A node is captured
 * once at a time. Nobody is told of an end; `list` shows it. Files stay when the agent ends.
 */

import { Fault } from "../lib/fault.ts";
import type { Clock, Disk, Sockets, System } from "../system/system.ts";
import type { Target } from "./filter.ts";
import { Capture, type CaptureCounters, type CaptureEnd, findInterfaces } from "./packets.ts";

export { type Conversation, Conversations } from "./conversations.ts";
export type { Target } from "./filter.ts";
export { captureMethods } from "./methods.ts";
export {
  Capture,
  type CaptureCounters,
  type CaptureEnd,
  type CaptureInterface,
  type CaptureLimits,
  type CaptureOptions,
  type CaptureResult,
  findInterfaces,
} from "./packets.ts";

export interface CapturesOptions {
  /** Where the files go. Only root may write there. */
  readonly directory: string;
  /** Names of the interfaces to listen on. */
  readonly interfaces: readonly string[];
  /** A node as packets show it, under the id that it has now; undefined if there is none. */
  end(id: number): (Target & { readonly id: number }) | undefined;
  /** Captures at a time. Default 3. */
  readonly maxRunning?: number;
  /** Files that are kept. Default 6. */
  readonly maxFiles?: number;
  /** Of all files together. Default 16 MiB. */
  readonly maxBytes?: number;
}

/** What is asked of a capture; what is not said has a default. */
export interface CaptureWish {
  /** 1…3,600, default 60. */
  readonly seconds?: number;
  /** 1,024…8 MiB, default 1 MiB. */
  readonly bytes?: number;
  /** 64…262,144 bytes of each frame, default 1,600. */
  readonly snapBytes?: number;
}

export interface CaptureInfo extends CaptureCounters {
  readonly id: number;
  /** Under its present id. */
  readonly node: number;
  readonly file: string;
  /** Wall clock in milliseconds since 1970. */
  readonly startedDate: number;
  /** Undefined while it runs. */
  readonly end: CaptureEnd | undefined;
  readonly fault: Fault | undefined;
}

type CaptureSystem = Sockets & Clock & Disk & Pick<System, "log">;

interface Entry {
  readonly id: number;
  readonly node: number;
  readonly file: string;
  readonly startedDate: number;
  readonly maxBytes: number;
  readonly capture: Capture;
  end: CaptureEnd | undefined;
  fault: Fault | undefined;
}

interface Range {
  readonly least: number;
  readonly most: number;
  readonly default: number;
}

const ranges = {
  seconds: { least: 1, most: 3_600, default: 60 },
  bytes: { least: 1_024, most: 8 * 1024 * 1024, default: 1024 * 1024 },
  snapBytes: { least: 64, most: 262_144, default: 1_600 },
} as const satisfies Record<keyof CaptureWish, Range>;

const fileName = /^capture-\d+-(\d{1,15})\.pcap$/;

export class Captures {
  readonly #system: CaptureSystem;
  readonly #options: CapturesOptions;
  readonly #maxRunning: number;
  readonly #maxFiles: number;
  readonly #maxBytes: number;
  readonly #entries = new Map<number, Entry>();
  #lastId = 0;
  /** Starts come one after the other: each makes room for itself. */
  #starting: Promise<unknown> = Promise.resolve();
  #closed = false;

  /** Touches nothing before the first start. */
  constructor(system: CaptureSystem, options: CapturesOptions) {
    this.#system = system;
    this.#options = options;
    this.#maxRunning = options.maxRunning ?? 3;
    this.#maxFiles = options.maxFiles ?? 6;
    this.#maxBytes = options.maxBytes ?? 16 * 1024 * 1024;
  }

  /**
   * Starts to capture a node.
   *
   * @throws Fault "not-found" for no such node, or none of the interfaces; "invalid" for numbers out of range and
   *   a node without address; "conflict" if it is being captured; "limit" if too many are; "storage", "kernel".
   */
  start(node: number, wish: CaptureWish = {}): Promise<CaptureInfo> {
    const started = this.#starting.then(() => this.#start(node, wish));
    this.#starting = started.catch(() => {});
    return started;
  }

  /** Ends the capture of a node. @returns how it was when its file was complete. @throws Fault "not-found" */
  async stop(node: number): Promise<CaptureInfo> {
    const id = this.#options.end(node)?.id ?? node;
    const entry = this.#runningOf(id);
    if (!entry) throw new Fault("not-found", `Cannot stop capture: node ${node} is not being captured`);
    entry.capture.stop();
    await entry.capture.done;
    return this.#infoOf(entry);
  }

  /** All that are known, in the order of their starts. */
  list(): CaptureInfo[] {
    return [...this.#entries.values()].map((each) => this.#infoOf(each));
  }

  /** Ends all; the files stay. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#starting;
    const captures = [...this.#entries.values()].map((each) => each.capture);
    for (const capture of captures) capture.stop();
    await Promise.all(captures.map((capture) => capture.done));
  }

  async #start(node: number, wish: CaptureWish): Promise<CaptureInfo> {
    const what = `Cannot capture node ${node}`;
    const end = this.#options.end(node);
    if (!end) throw new Fault("not-found", `${what}: there is no such node`);
    const limits = {
      seconds: within(wish.seconds, ranges.seconds, `${what}: seconds`),
      bytes: within(wish.bytes, ranges.bytes, `${what}: bytes`),
      snapBytes: within(wish.snapBytes, ranges.snapBytes, `${what}: snaplen`),
    };
    if (end.macs.length + end.addresses.length === 0)
      throw new Fault("invalid", `${what}: it has no address`);
    if (this.#closed) throw new Fault("closed", `${what}: the agent ends`);
    if (this.#runningOf(end.id)) throw new Fault("conflict", `${what}: it is being captured`);
    const running = [...this.#entries.values()].filter((each) => each.end === undefined).length;
    if (running >= this.#maxRunning) throw new Fault("limit", `${what}: ${running} captures are under way`);
    const interfaces = await findInterfaces(this.#system, this.#options.interfaces);
    await this.#makeRoom(limits.bytes, what);
    const id = ++this.#lastId;
    const file = `${this.#options.directory}/capture-${end.id}-${id}.pcap`;
    const writer = await this.#system.create(file, 0o600);
    let capture: Capture;
    try {
      capture = new Capture(this.#system, {
        ...{ interfaces, limits },
        target: () => this.#options.end(end.id),
        write: (piece) => writer.write(piece),
      });
    } catch (thrown) {
      await writer.close();
      await this.#system.remove(file);
      throw thrown;
    }
    const entry: Entry = {
      ...{ id, node: end.id, file, capture, maxBytes: limits.bytes, startedDate: this.#system.date() },
      ...{ end: undefined, fault: undefined },
    };
    this.#entries.set(id, entry);
    void capture.done.then(async (result) => {
      entry.end = result.end;
      entry.fault = result.fault;
      if (result.fault) this.#system.log("warning", `Cannot go on with ${file}: ${result.fault.message}`);
      await writer.close().catch(() => {});
    });
    return this.#infoOf(entry);
  }

  /** Removes the oldest files until there is room for one more. Those of an earlier life are the oldest. */
  async #makeRoom(bytes: number, what: string): Promise<void> {
    const { directory } = this.#options;
    await this.#system.makeDirectory(directory);
    const files: { id: number; path: string; bytes: number }[] = [];
    for (const name of await this.#system.list(directory)) {
      const id = Number(fileName.exec(name)?.[1] ?? Number.NaN);
      if (!Number.isSafeInteger(id)) continue;
      const path = `${directory}/${name}`;
      const running = this.#entries.get(id);
      const reserved = running?.end === undefined ? running?.maxBytes : undefined;
      files.push({ id, path, bytes: reserved ?? (await this.#system.stat(path))?.sizeBytes ?? 0 });
    }
    files.sort((left, right) => left.id - right.id);
    this.#lastId = Math.max(this.#lastId, files.at(-1)?.id ?? 0);
    const isFull = () =>
      files.length >= this.#maxFiles || files.reduce((sum, each) => sum + each.bytes, bytes) > this.#maxBytes;
    while (isFull()) {
      const at = files.findIndex(
        ({ id }) => this.#entries.get(id)?.end !== undefined || !this.#entries.has(id),
      );
      if (at < 0) throw new Fault("limit", `${what}: there is no room for its file`);
      const [oldest] = files.splice(at, 1);
      await this.#system.remove(oldest!.path);
      this.#entries.delete(oldest!.id);
    }
    // Files may have been removed by others, who did not tell.
    const there = new Set(files.map(({ id }) => id));
    for (const [id, entry] of this.#entries) {
      if (entry.end !== undefined && !there.has(id)) this.#entries.delete(id);
    }
  }

  #runningOf(node: number): Entry | undefined {
    for (const entry of this.#entries.values()) {
      if (entry.end === undefined && this.#presentId(entry) === node) return entry;
    }
    return undefined;
  }

  /** Its node may have become another one since. */
  #presentId(entry: Entry): number {
    return this.#options.end(entry.node)?.id ?? entry.node;
  }

  #infoOf(entry: Entry): CaptureInfo {
    const { id, file, startedDate, end, fault } = entry;
    const { counters } = entry.capture;
    return { id, node: this.#presentId(entry), file, startedDate, end, fault, ...counters };
  }
}

function within(value: number | undefined, range: Range, what: string): number {
  if (value === undefined) return range.default;
  if (Number.isInteger(value) && value >= range.least && value <= range.most) return value;
  throw new Fault("invalid", `${what} must be ${range.least} to ${range.most}`);
}
