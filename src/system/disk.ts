/**
 * Files: read whole or in pieces, replaced durably, made to grow, watched.
 *
 * Keeps per path the replacement under way, so that two of them keep their order. A replacement is written
 * beside its target under a name that only replacements have, flushed, and renamed; one that a crash left
 * behind is removed by the next replacement of the same file.
 */

import { constants, type FSWatcher, watch as fsWatch, promises, type Stats } from "node:fs";
import { basename, dirname, join } from "node:path";
import { Fault } from "../lib/fault.ts";
import { nodeFault } from "./native.ts";
import type { Cancel, Content, Disk, FileStatus, Writer } from "./system.ts";

const mostBytes = 64 * 1024 * 1024;
const chunkBytes = 64 * 1024;
const throttleMs = 100;
const pollMs = 5_000;
/** State may name people's devices: for the owner only, unless said otherwise. */
const defaultMode = 0o600;

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code;
const isAbsent = (error: unknown) => codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR";

/** Any error of a disk operation is the disk's, but for a file that is not there. */
function storageFault(error: unknown, verb: string): Fault {
  const fault = nodeFault(error, verb, "storage");
  if (fault.code === "storage" || fault.code === "not-found" || error instanceof Fault) return fault;
  return new Fault("storage", fault.message, { cause: error });
}

export class Files implements Disk {
  readonly #underWay = new Map<string, Promise<void>>();
  #serial = 0;

  async read(path: string, maxBytes = mostBytes): Promise<Uint8Array | undefined> {
    try {
      // A pipe that somebody put in the file's place must not make us wait for its writer.
      const file = await promises.open(path, constants.O_RDONLY | constants.O_NONBLOCK);
      try {
        return await readAll(file, path, maxBytes);
      } finally {
        await file.close();
      }
    } catch (error) {
      if (isAbsent(error)) return undefined;
      throw storageFault(error, `read ${path}`);
    }
  }

  replace(path: string, content: Content, options: { mode?: number; keep?: string } = {}): Promise<void> {
    const before = this.#underWay.get(path) ?? Promise.resolve();
    const done = before
      .catch(() => {})
      .then(() => this.#replace(path, content, options))
      .finally(() => {
        if (this.#underWay.get(path) === done) this.#underWay.delete(path);
      });
    this.#underWay.set(path, done);
    return done;
  }

  async #replace(path: string, content: Content, options: { mode?: number; keep?: string }): Promise<void> {
    const temp = this.#tempOf(path);
    try {
      await removeLeftovers(path);
      await writeDurably(temp, content, options.mode ?? defaultMode);
      if (options.keep !== undefined) await this.#keep(path, options.keep);
      await promises.rename(temp, path);
      await flushDirectory(dirname(path));
    } catch (error) {
      await promises.unlink(temp).catch(() => {});
      const fault = nodeFault(error, `replace ${path}`);
      throw new Fault("storage", fault.message, { cause: error });
    }
  }

  /** Gives the present content a second name, by which it stays when the first is replaced. */
  async #keep(path: string, keep: string): Promise<void> {
    const temp = this.#tempOf(keep);
    await removeLeftovers(keep);
    try {
      await promises.link(path, temp);
    } catch (error) {
      if (codeOf(error) === "ENOENT") return;
      if (!["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV"].includes(codeOf(error) ?? "")) throw error;
      // A file system without hard links.
      await writeDurably(temp, await promises.readFile(path), (await promises.stat(path)).mode & 0o7777);
    }
    try {
      await promises.rename(temp, keep);
    } finally {
      // Renaming one name of a file to another of the same file does nothing.
      await promises.unlink(temp).catch(() => {});
    }
    if (dirname(keep) !== dirname(path)) await flushDirectory(dirname(keep));
  }

  #tempOf(path: string): string {
    this.#serial += 1;
    return join(dirname(path), `.${basename(path)}.${process.pid}-${this.#serial}.new`);
  }

  async create(path: string, mode = defaultMode): Promise<Writer> {
    const verb = `create ${path}`;
    const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    let file: promises.FileHandle;
    try {
      file = await promises.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
    } catch (error) {
      if (codeOf(error) === "EEXIST") throw nodeFault(error, verb);
      throw new Fault("storage", nodeFault(error, verb).message, { cause: error });
    }
    try {
      await file.chmod(mode);
    } catch (error) {
      await file.close();
      throw storageFault(error, verb);
    }
    return {
      async write(piece) {
        try {
          await writeAll(file, piece);
        } catch (error) {
          throw storageFault(error, `write ${path}`);
        }
      },
      async close() {
        await file.close();
      },
    };
  }

  async *readPieces(path: string): AsyncGenerator<Uint8Array, void> {
    try {
      const file = await promises.open(path, "r");
      try {
        const piece = new Uint8Array(chunkBytes);
        for (;;) {
          const { bytesRead } = await file.read(piece, 0, piece.length);
          if (bytesRead === 0) return;
          yield piece.subarray(0, bytesRead);
        }
      } finally {
        await file.close();
      }
    } catch (error) {
      throw storageFault(error, `read ${path}`);
    }
  }

  async set(path: string, value: string): Promise<void> {
    try {
      const file = await promises.open(path, "r+");
      try {
        await file.write(value);
      } finally {
        await file.close();
      }
    } catch (error) {
      throw nodeFault(error, `set ${path}`);
    }
  }

  async rename(from: string, to: string): Promise<void> {
    try {
      await promises.rename(from, to);
    } catch (error) {
      throw storageFault(error, `rename ${from} to ${to}`);
    }
  }

  async remove(path: string): Promise<void> {
    try {
      await promises.unlink(path);
    } catch (error) {
      if (!isAbsent(error)) throw storageFault(error, `remove ${path}`);
    }
  }

  async list(path: string): Promise<string[]> {
    try {
      return (await promises.readdir(path)).sort();
    } catch (error) {
      if (isAbsent(error)) return [];
      throw storageFault(error, `list ${path}`);
    }
  }

  async stat(path: string): Promise<FileStatus | undefined> {
    const stats = await statOf(path);
    if (stats instanceof Fault) throw stats;
    return (
      stats && {
        uid: stats.uid,
        gid: stats.gid,
        mode: stats.mode & 0o7777,
        sizeBytes: stats.size,
        modifiedAt: stats.mtimeMs,
        isDirectory: stats.isDirectory(),
      }
    );
  }

  async makeDirectory(path: string, mode = 0o755): Promise<void> {
    try {
      await promises.mkdir(path, { recursive: true, mode });
    } catch (error) {
      // With `recursive` Node calls a read-only disk ENOENT; parents are made, so nothing can be missing.
      const fault = nodeFault(error, `make directory ${path}`);
      throw new Fault("storage", fault.message, { cause: error });
    }
  }

  watch(path: string, changed: () => void): Cancel {
    return new Watch(path, changed).cancel;
  }
}

/**
 * Watches one path: by inotify on the directory that it is in, which survives the file's replacement, and on
 * itself if it is a directory; and by a look now and then, for what inotify cannot see (the directory is not
 * there yet, or was replaced).
 */
class Watch {
  readonly #path: string;
  readonly #changed: () => void;
  readonly #watchers = new Map<string, { watcher: FSWatcher; identity: string }>();
  readonly #poll: NodeJS.Timeout;
  #timer: NodeJS.Timeout | undefined;
  #calledAt = Number.NEGATIVE_INFINITY;
  #seen: string | undefined;
  #over = false;

  constructor(path: string, changed: () => void) {
    this.#path = path;
    this.#changed = changed;
    void this.#look();
    this.#poll = setInterval(() => void this.#look(), pollMs);
  }

  readonly cancel = (): void => {
    this.#over = true;
    clearInterval(this.#poll);
    clearTimeout(this.#timer);
    for (const { watcher } of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  };

  async #look(): Promise<void> {
    const [stats, parent] = await Promise.all([statOf(this.#path), statOf(dirname(this.#path))]);
    if (this.#over) return;
    this.#follow(dirname(this.#path), parent);
    this.#follow(this.#path, stats);
    const state =
      stats === undefined || stats instanceof Fault
        ? "absent"
        : `${stats.dev}:${stats.ino}:${stats.size}:${stats.mtimeMs}:${stats.ctimeMs}`;
    if (this.#seen !== undefined && this.#seen !== state) this.#report();
    this.#seen = state;
  }

  /** Has a directory watched, if it is one, and anew if another one has taken its place. */
  #follow(path: string, stats: Stats | Fault | undefined): void {
    const directory =
      stats === undefined || stats instanceof Fault || !stats.isDirectory() ? undefined : stats;
    const identity = directory && `${directory.dev}:${directory.ino}`;
    const present = this.#watchers.get(path);
    if (present?.identity === identity) return;
    present?.watcher.close();
    this.#watchers.delete(path);
    if (identity === undefined) return;
    try {
      const watcher = fsWatch(path, (_event, name) => {
        if (path === this.#path || name === null || name === basename(this.#path)) this.#report();
      });
      watcher.on("error", () => {
        watcher.close();
        this.#watchers.delete(path);
      });
      this.#watchers.set(path, { watcher, identity });
    } catch {
      // No inotify to be had: the looks remain.
    }
  }

  #report(): void {
    if (this.#over || this.#timer !== undefined) return;
    const delayMs = Math.max(0, this.#calledAt + throttleMs - performance.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#calledAt = performance.now();
      this.#changed();
    }, delayMs);
  }
}

async function statOf(path: string): Promise<Stats | Fault | undefined> {
  try {
    return await promises.stat(path);
  } catch (error) {
    return isAbsent(error) ? undefined : storageFault(error, `look at ${path}`);
  }
}

/** Files of /proc and /sys tell no size: read until there is no more. */
async function readAll(file: promises.FileHandle, path: string, maxBytes: number): Promise<Uint8Array> {
  // Files of /proc have no size, and numbers in /proc/sys are given to the first read alone.
  const { size } = await file.stat();
  let content = new Uint8Array(Math.min(size === 0 ? chunkBytes : size, maxBytes) + 1);
  let length = 0;
  for (;;) {
    if (length === content.length) {
      const larger = new Uint8Array(Math.min(Math.max(length * 2, chunkBytes), maxBytes + 1));
      larger.set(content);
      content = larger;
    }
    const { bytesRead } = await file.read(content, length, content.length - length);
    if (bytesRead === 0) return content.subarray(0, length);
    length += bytesRead;
    if (length > maxBytes) throw new Fault("limit", `Cannot read ${path}: longer than ${maxBytes} bytes`);
  }
}

/** A disk that is nearly full takes a part. */
async function writeAll(file: promises.FileHandle, piece: Uint8Array): Promise<void> {
  for (let done = 0; done < piece.length; ) {
    done += (await file.write(piece, done, piece.length - done)).bytesWritten;
  }
}

async function writeDurably(path: string, content: Content, mode: number): Promise<void> {
  const file = await promises.open(path, "wx", mode);
  try {
    await file.chmod(mode);
    for (const piece of content instanceof Uint8Array ? [content] : content) await writeAll(file, piece);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function flushDirectory(path: string): Promise<void> {
  const directory = await promises.open(path, "r");
  try {
    await directory.sync();
  } catch (error) {
    // Some file systems flush no directories; their renames are durable, or never.
    if (codeOf(error) !== "EINVAL") throw error;
  } finally {
    await directory.close();
  }
}

/** Removes what replacements of this file left behind when their process died. */
async function removeLeftovers(path: string): Promise<void> {
  const prefix = `.${basename(path)}.`;
  for (const name of await promises.readdir(dirname(path))) {
    if (!name.startsWith(prefix)) continue;
    const pid = /^(\d+)-\d+\.new$/.exec(name.slice(prefix.length))?.[1];
    // Replacements of one file come one after the other, so that our own are leftovers too.
    if (pid === undefined || (Number(pid) !== process.pid && isAlive(Number(pid)))) continue;
    await promises.unlink(join(dirname(path), name)).catch(() => {});
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}
