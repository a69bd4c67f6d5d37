/**
 * What a room remembers: one readable JSON file, written whole, durable when its promise says so.
 *
 * `{"version": 1, "state": …}`, two-space indented, bigints as decimal strings, beside it `<file>.old`, the
 * generation before, and where decisions are at stake `<file>.copy`, the same once more: damage to one file then
 * costs nothing that was acknowledged. A file that cannot be read is moved to `<file>.damaged-<n>` (three are
 * kept) and the copy, else the generation before, takes its place; nothing is written that would be too long to be
 * read again. Rooms ask for a save with a function that renders their present state;
 * callers that come while a write is under way share the next one. A disk that refuses is tried again, slower
 * and slower, until the last rendered state lies on it; who opened the store is told once when that begins and
 * once when it ends. A room whose state is large reads and writes the bytes of its file itself, piece by piece.
 */

import { sameBytes } from "../lib/bytes.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type Json } from "../lib/json.ts";
import type { Cancel, Clock, Content, Disk } from "./system.ts";

export interface StoreFormat<State> extends Told {
  /** A file of another version is not this room's to read. */
  readonly version: number;
  /** @throws SyntaxError if the value is no state of this room. */
  parse(state: unknown): State;
  /** Whether a save is durable only when a copy is, too. */
  readonly copied?: boolean;
}

/** A file whose bytes are the room's own making. */
export interface PieceFormat<State, Saved> extends Told {
  /** @throws SyntaxError if the bytes are no file of this room. */
  decode(bytes: Uint8Array): State;
  /** Pieces are asked for while those before are being written: what they say may be newer, never older. */
  encode(saved: Saved): Iterable<Uint8Array>;
}

interface Told {
  /**
   * The longest file that is one of this room's: what its own bounds come to, at their most. Default 32 MiB. What is
   * longer is neither read nor written.
   */
  readonly maxBytes?: number;
  /** Told when what was rendered last is durable. */
  onSaved?(): void;
  /** Told the first fault of a row, and `undefined` when the state is on disk again. */
  onFault?(fault: Fault | undefined): void;
}

export interface OpenedStore<State, Saved = Json> {
  readonly store: Store<Saved>;
  /** Undefined: nothing was ever stored, or nothing readable is left. */
  readonly state: State | undefined;
  /** What was wrong with the file, and what was done about it. */
  readonly damage?: Fault;
}

const defaultMaxBytes = 32 * 1024 * 1024;
const keptDamaged = 3;
const firstRetryMs = 1_000;
const lastRetryMs = 60_000;

/**
 * Reads the store at `path` and makes it ready for writing. Never fails for what lies on the disk or for a disk
 * that refuses: that comes back as `damage`, and again from `save`.
 *
 * A file that is missing while its previous generation is there counts as damage (a recovery was cut short), so
 * whoever wants to start afresh removes both.
 */
export async function openStore<State, Saved = Json>(
  system: Clock & Disk,
  path: string,
  format: StoreFormat<State> | PieceFormat<State, Saved>,
): Promise<OpenedStore<State, Saved>> {
  const isCopied = "copied" in format && format.copied === true;
  const decode = (bytes: Uint8Array) =>
    "decode" in format ? format.decode(bytes) : decodeStore(bytes, format);
  const encode = (saved: Saved) =>
    "encode" in format ? format.encode(saved) : encodeStore(format.version, saved as Json);
  await system.makeDirectory(path.slice(0, path.lastIndexOf("/")) || "/", 0o700).catch(() => {});
  const { maxBytes = defaultMaxBytes } = format;
  const read = (file: string) => readGeneration(system, file, { decode, maxBytes });
  const current = await read(path);
  const parts = { told: format, isCopied, encode };
  if (current.kind === "good") {
    const copy = isCopied ? await read(`${path}.copy`) : undefined;
    // What is written in pieces is not compared with what lies there.
    const bytes = "decode" in format ? ("good" as const) : current.bytes;
    const there = { current: bytes, ...(copy?.kind === "good" && { copy: copy.bytes }) };
    return { store: new Store(system, path, { ...parts, ...there }), state: current.state };
  }
  const store = new Store(system, path, parts);
  const stands: { readonly suffix: string; readonly used: string }[] = [
    ...(isCopied ? [{ suffix: ".copy", used: "the copy is used" }] : []),
    { suffix: ".old", used: "the previous generation is used" },
  ];
  let missing = current.kind === "missing";
  let state: State | undefined;
  let left = "no copy or previous generation can be read";
  for (const { suffix, used } of stands) {
    const stand = await read(`${path}${suffix}`);
    missing &&= stand.kind === "missing";
    if (stand.kind !== "good") continue;
    [state, left] = [stand.state, used];
    break;
  }
  if (missing) return { store, state: undefined };

  const wrong = current.kind === "bad" ? current.why : "the file is gone";
  const aside = current.kind === "bad" ? `; ${await setAside(system, path)}` : "";
  const damage = new Fault("storage", `Cannot read ${path}: ${wrong}${aside}; ${left}`);
  return { store, state, damage };
}

/** The state that `openStore` would find, with nothing touched: whose file it is may be writing it. */
export async function peekStore<State>(
  disk: Disk,
  path: string,
  format: StoreFormat<State>,
): Promise<State | undefined> {
  const { maxBytes = defaultMaxBytes } = format;
  const decode = (bytes: Uint8Array) => decodeStore(bytes, format);
  for (const suffix of ["", ".copy", ".old"]) {
    const found = await readGeneration(disk, `${path}${suffix}`, { decode, maxBytes });
    if (found.kind === "good") return found.state;
  }
  return undefined;
}

type Generation<State> =
  | { readonly kind: "good"; readonly state: State; readonly bytes: Uint8Array }
  | { readonly kind: "missing" }
  | { readonly kind: "bad"; readonly why: string };

async function readGeneration<State>(
  disk: Disk,
  path: string,
  how: { readonly decode: (bytes: Uint8Array) => State; readonly maxBytes: number },
): Promise<Generation<State>> {
  try {
    const bytes = await disk.read(path, how.maxBytes);
    if (bytes === undefined) return { kind: "missing" };
    return { kind: "good", state: how.decode(bytes), bytes };
  } catch (thrown) {
    // A parse function that trips over a shape it did not foresee must not keep the agent from starting.
    return { kind: "bad", why: messageOf(thrown) };
  }
}

function decodeStore<State>(bytes: Uint8Array, format: StoreFormat<State>): State {
  let file: unknown;
  try {
    file = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new SyntaxError(`${bytes.length} bytes that are no JSON text`);
  }
  if (!isObject(file) || !("state" in file)) throw new SyntaxError("no version and state");
  if (file.version !== format.version) {
    throw new SyntaxError(`version ${JSON.stringify(file.version)}, not ${format.version}`);
  }
  return format.parse(file.state);
}

/** The bytes of a store file. */
function encodeStore(version: number, state: Json): Uint8Array {
  const text = JSON.stringify(
    { version, state },
    (_, value: Json) => (typeof value === "bigint" ? value.toString() : value),
    2,
  );
  return new TextEncoder().encode(`${text}\n`);
}

/** The same content, which is refused where it is longer: pieces, when they come to that. @throws Fault "storage" */
function bounded(path: string, content: Content, maxBytes: number): Content {
  const check = (length: number) => {
    if (length <= maxBytes) return;
    throw new Fault("storage", `Cannot save ${path}: longer than the ${maxBytes} bytes that are read again`);
  };
  if (content instanceof Uint8Array) {
    check(content.length);
    return content;
  }
  return (function* () {
    let length = 0;
    for (const piece of content) {
      length += piece.length;
      check(length);
      yield piece;
    }
  })();
}

/** Moves a damaged file out of the way and forgets the oldest of its kind. Says what came of it. */
async function setAside(disk: Disk, path: string): Promise<string> {
  const slash = path.lastIndexOf("/");
  const [directory, stem] = [path.slice(0, slash) || "/", `${path.slice(slash + 1)}.damaged-`];
  try {
    const numbers = (await disk.list(directory))
      .filter((name) => name.startsWith(stem) && /^[1-9][0-9]{0,8}$/.test(name.slice(stem.length)))
      .map((name) => Number(name.slice(stem.length)))
      .sort((left, right) => left - right);
    const target = `${path}.damaged-${(numbers.at(-1) ?? 0) + 1}`;
    await disk.rename(path, target);
    for (const number of numbers.slice(0, Math.max(0, numbers.length + 1 - keptDamaged))) {
      await disk.remove(`${path}.damaged-${number}`);
    }
    return `kept as ${target}`;
  } catch (thrown) {
    return `not moved aside (${messageOf(thrown)})`;
  }
}

/** The writing half of a store. Made by `openStore`. */
export class Store<Saved = Json> {
  readonly #system: Clock & Disk;
  readonly #path: string;
  readonly #told: Told;
  readonly #isCopied: boolean;
  readonly #encode: (saved: Saved) => Content;
  readonly #maxBytes: number;
  /** What lies under `#path`, once we know that it is good; we may know nothing more. */
  #current: Uint8Array | "good" | undefined;
  /** The same for the copy. */
  #copy: Uint8Array | undefined;
  #render: (() => Saved) | undefined;
  #dirty = false;
  #lastFault: Fault | undefined;
  #writing: Promise<void> | undefined;
  #waiting: Promise<void> | undefined;
  #cancelLater: Cancel | undefined;
  #laterAt = 0;
  #retryMs = firstRetryMs;
  #closed = false;

  constructor(
    system: Clock & Disk,
    path: string,
    parts: {
      readonly told: Told;
      readonly isCopied: boolean;
      readonly encode: (saved: Saved) => Content;
      readonly current?: Uint8Array | "good";
      readonly copy?: Uint8Array;
    },
  ) {
    this.#system = system;
    this.#path = path;
    this.#told = parts.told;
    this.#isCopied = parts.isCopied;
    this.#encode = parts.encode;
    this.#maxBytes = parts.told.maxBytes ?? defaultMaxBytes;
    this.#current = parts.current;
    this.#copy = parts.copy;
  }

  /** Whether something is known that is not yet durable. */
  get dirty(): boolean {
    return this.#dirty;
  }

  /** Why the disk refused last, until it takes the state again. */
  get lastFault(): Fault | undefined {
    return this.#lastFault;
  }

  /**
   * Makes durable what `render` returns, and whatever changes before it is called. Each call gives the room's
   * whole present state, so only the newest is rendered: at once, or when the write under way is done.
   *
   * @throws Fault "storage"; the store goes on trying by itself.
   */
  save(render: () => Saved): Promise<void> {
    this.#render = render;
    this.#dirty = true;
    if (this.#writing === undefined) return this.#start();
    this.#waiting ??= this.#writing.then(
      () => this.#start(),
      () => this.#start(),
    );
    return this.#waiting;
  }

  /** Saves within `delayMs`, together with whatever else comes until then; for what may be lost by a crash. */
  saveSoon(render: () => Saved, delayMs: number): void {
    this.#render = render;
    this.#dirty = true;
    this.#later(delayMs);
  }

  /** Writes what is not durable yet, then never again. @throws Fault "storage" */
  async close(): Promise<void> {
    this.#closed = true;
    try {
      if (this.#dirty && this.#render) await this.save(this.#render);
    } finally {
      this.#cancelLater?.();
      this.#cancelLater = undefined;
    }
  }

  #later(delayMs: number): void {
    const at = this.#system.now() + delayMs;
    if (this.#closed || (this.#cancelLater && this.#laterAt <= at)) return;
    this.#cancelLater?.();
    this.#laterAt = at;
    this.#cancelLater = this.#system.after(delayMs, () => {
      this.#cancelLater = undefined;
      // The fault was reported by the write; the next try is set.
      if (this.#dirty && this.#render) this.save(this.#render).catch(() => {});
    });
  }

  #start(): Promise<void> {
    this.#waiting = undefined;
    this.#cancelLater?.();
    this.#cancelLater = undefined;
    const writing = this.#write().finally(() => {
      if (this.#writing === writing) this.#writing = undefined;
    });
    this.#writing = writing;
    return writing;
  }

  async #write(): Promise<void> {
    const content = this.#encode(this.#render!());
    const isThere = (bytes: Uint8Array | "good" | undefined) =>
      bytes instanceof Uint8Array && content instanceof Uint8Array && sameBytes(bytes, content);
    try {
      if (!isThere(this.#current)) {
        // Only a generation known to be good may take the place of the one before.
        const keep = this.#current && { keep: `${this.#path}.old` };
        const checked = bounded(this.#path, content, this.#maxBytes);
        await this.#system.replace(this.#path, checked, { mode: 0o600, ...keep });
        this.#current = content instanceof Uint8Array ? content : "good";
      }
      if (this.#isCopied && content instanceof Uint8Array && !isThere(this.#copy)) {
        await this.#system.replace(`${this.#path}.copy`, content, { mode: 0o600 });
        this.#copy = content;
      }
    } catch (thrown) {
      throw this.#failed(thrown);
    }
    this.#told.onSaved?.();
    // What was handed in meanwhile has its own write or timer.
    if (!this.#waiting && !this.#cancelLater) this.#dirty = false;
    this.#retryMs = firstRetryMs;
    if (this.#lastFault) {
      this.#lastFault = undefined;
      this.#told.onFault?.(undefined);
    }
  }

  #failed(thrown: unknown): Fault {
    const fault =
      thrown instanceof Fault && thrown.code === "storage"
        ? thrown
        : new Fault("storage", `Cannot save ${this.#path}: ${messageOf(thrown)}`, { cause: thrown });
    const first = this.#lastFault === undefined;
    this.#lastFault = fault;
    this.#later(this.#retryMs);
    this.#retryMs = Math.min(this.#retryMs * 2, lastRetryMs);
    if (first) this.#told.onFault?.(fault);
    return fault;
  }
}
