/**
 * What a room remembers when it is much and changes often: each change is a small file of its own, the whole is
 * written now and then.
 *
 * The whole is a store, `<name>.json`; each group of entries since is a file beside it,
 * `<name>.d/<generation>-<number>.json`, durable before anybody is answered: a change costs the same however much there
 * is. When these files have become many, or as large as the whole, the whole is written with the next generation; files
 * of two generations ago are removed then, so that even the store's previous generation and the files after it give
 * everything that was ever promised. Entries are read in the order in which they were written, those of the whole
 * first: of what contradicts itself the last counts.
 *
 *     {"version": 1, "state": {"generation": 3, "boot": "…", "<list>": [entry, …]}}      the whole, an entry on each line
 *     {"version": 1, "boot": "…", "<list>": [entry, …]}                                  a small file
 *
 * An entry is any JSON value. Files are read and written entry by entry, and never become one value or one text.
 */

import { readEntries } from "../lib/entries.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type Json } from "../lib/json.ts";
import { openStore, type Store } from "./store.ts";
import type { Clock, Disk } from "./system.ts";

/** Small files of one generation before the whole is written. */
const maxPieces = 512;
const leastWholeBytes = 256 * 1024;
const maxPieceBytes = 32 * 1024 * 1024;
/** Small files that are read at a time. */
const readsAtOnce = 16;
/** The whole is written in pieces of about as many characters. */
const writtenAtOnce = 64 * 1024;
const maxBootLength = 64;

export interface JournalOptions {
  /** Where `<name>.json` and `<name>.d` are. */
  readonly directory: string;
  /** Tells boots apart (/proc/sys/kernel/random/boot_id), and stands in each file; "": this one is like no other. */
  readonly boot: string;
  /** Told the first fault of a row, and `undefined` when all is on disk again. */
  onFault?(fault: Fault | undefined): void;
}

export interface JournalFormat<Saved> {
  readonly name: string;
  /** Files of another version are not this room's to read. */
  readonly version: number;
  /** What the list of entries is called in the files. */
  readonly list: string;
  /** Of a file, as for a store: the longest that is one of this room's. */
  readonly maxBytes?: number;
  /** Begins with a file. */
  open(): JournalReader<Saved>;
}

/** Reads one file. */
export interface JournalReader<Saved> {
  /** Takes the entry whose JSON text is there. @throws SyntaxError: the file counts as damaged. */
  take(bytes: Uint8Array, from: number, to: number): void;
  /** What the file says. @param boot in which it was written */
  close(boot: string): Saved;
}

export interface OpenedJournal<Saved> {
  readonly journal: Journal;
  /** What each file says, oldest first. */
  readonly saved: readonly Saved[];
  /** What was wrong with the files, in sentences. */
  readonly damages: readonly string[];
}

interface Piece {
  readonly generation: number;
  readonly number: number;
}

/** Reads what there is. Never fails: damage is told. */
export async function openJournal<Saved>(
  system: Disk & Clock,
  options: JournalOptions,
  format: JournalFormat<Saved>,
): Promise<OpenedJournal<Saved>> {
  const stem = `${options.directory}/${format.name}`;
  const directory = `${stem}.d`;
  await system.makeDirectory(directory, 0o700).catch(() => {});
  const { store, state, damage } = await openStore(system, `${stem}.json`, {
    decode: (bytes) => decodeWhole(bytes, format),
    encode: (pieces: Iterable<Uint8Array>) => pieces,
    ...(format.maxBytes !== undefined && { maxBytes: format.maxBytes }),
    ...(options.onFault && { onFault: options.onFault }),
  });
  const damages = damage ? [damage.message] : [];
  const saved = state ? [state.saved] : [];
  const sizes = { whole: state?.sizeBytes ?? 0, pieces: 0 };
  const pieces = await listPieces(system, directory);
  const whole = state?.generation ?? 0;
  const wanted = pieces.filter(({ generation }) => generation >= whole);
  const read = async (piece: Piece) => {
    const path = pathOf(directory, piece);
    try {
      const bytes = await system.read(path, format.maxBytes ?? maxPieceBytes);
      if (!bytes) throw new Fault("not-found", "it is gone");
      sizes.pieces += bytes.length;
      return { saved: decodeFile(bytes, format, (file) => file) };
    } catch (thrown) {
      return { damage: `Cannot read ${path}: ${messageOf(thrown)}; it is left out` };
    }
  };
  for (let from = 0; from < wanted.length; from += readsAtOnce) {
    for (const each of await Promise.all(wanted.slice(from, from + readsAtOnce).map(read))) {
      if (each.damage === undefined) saved.push(each.saved);
      else damages.push(each.damage);
    }
  }
  const { boot } = options;
  return {
    journal: new Journal(system, store, { directory, boot, format, pieces, whole, sizes }),
    saved,
    damages,
  };
}

export class Journal {
  readonly #system: Disk;
  readonly #store: Store<Iterable<Uint8Array>>;
  readonly #directory: string;
  readonly #boot: string;
  readonly #format: Pick<JournalFormat<unknown>, "version" | "list">;
  /** What lies there, oldest first. */
  #pieces: readonly Piece[];
  #generation: number;
  /** The generation of the whole that lies there; it may be a later one. */
  #whole: number;
  #next: number;
  /** Of the small files that count after the whole, and of the whole. */
  #pieceBytes: number;
  #wholeBytes: number;
  #folding: Promise<void> | undefined;

  /** Use `openJournal`. */
  constructor(
    system: Disk,
    store: Store<Iterable<Uint8Array>>,
    state: {
      readonly directory: string;
      readonly boot: string;
      readonly format: Pick<JournalFormat<unknown>, "version" | "list">;
      readonly pieces: readonly Piece[];
      readonly whole: number;
      readonly sizes: { readonly whole: number; readonly pieces: number };
    },
  ) {
    this.#system = system;
    this.#store = store;
    this.#directory = state.directory;
    this.#boot = state.boot;
    this.#format = state.format;
    this.#pieces = state.pieces;
    this.#generation = Math.max(state.whole, ...state.pieces.map(({ generation }) => generation));
    this.#whole = state.whole;
    this.#pieceBytes = state.sizes.pieces;
    this.#wholeBytes = state.sizes.whole;
    this.#next = Math.max(0, ...this.#present().map(({ number }) => number)) + 1;
  }

  /**
   * Makes entries durable. One call at a time; after a fault they count as never written. When it is time for it, the
   * whole is written afterwards, while others go on; what the disk refuses of that is told by `onFault`, and tried again.
   *
   * @param whole every entry there is, those of this call included, as it is when it is asked for: some at a time,
   *   while others are written. What is kept meanwhile counts after it, whatever of it the whole has already.
   * @throws Fault "storage"
   */
  async keep(entries: readonly Json[], whole: () => Iterable<Json>): Promise<void> {
    if (entries.length > 0) {
      const piece = { generation: this.#generation, number: this.#next };
      const { version, list } = this.#format;
      const file = { version, boot: this.#boot, [list]: entries };
      const bytes = new TextEncoder().encode(`${JSON.stringify(file)}\n`);
      await this.#system.replace(pathOf(this.#directory, piece), bytes, { mode: 0o600 });
      this.#pieces = [...this.#pieces, piece];
      this.#next++;
      this.#pieceBytes += bytes.length;
    }
    const isLarge = this.#pieceBytes > Math.max(leastWholeBytes, this.#wholeBytes);
    if (this.#folding || !(isLarge || this.#present().length >= maxPieces)) return;
    this.#folding = this.#fold(whole)
      .catch(() => {})
      .finally(() => {
        this.#folding = undefined;
      });
  }

  /** After the last `keep`. @throws Fault "storage" */
  async close(): Promise<void> {
    await this.#folding;
    await this.#store.close();
  }

  /** Writes the whole, and forgets the changes that it has. @throws Fault "storage"; the store tries again by itself. */
  async #fold(whole: () => Iterable<Json>): Promise<void> {
    // Even if the disk refuses now: when the store succeeds at last, what was kept meanwhile must not be older than it.
    const generation = ++this.#generation;
    this.#next = 1;
    this.#pieceBytes = 0;
    await this.#store.save(() => this.#render(generation, whole()));
    const least = this.#whole;
    this.#whole = generation;
    const old = this.#pieces.filter((piece) => piece.generation < least);
    this.#pieces = this.#pieces.filter((piece) => piece.generation >= least);
    for (const piece of old) await this.#system.remove(pathOf(this.#directory, piece)).catch(() => {});
  }

  /** The whole, a line for each entry, as a store is written. */
  *#render(generation: number, entries: Iterable<Json>): Iterable<Uint8Array> {
    const encoder = new TextEncoder();
    const { version, list } = this.#format;
    this.#wholeBytes = 0;
    const encode = (text: string) => {
      const bytes = encoder.encode(text);
      this.#wholeBytes += bytes.length;
      return bytes;
    };
    const boot = JSON.stringify(this.#boot);
    let text = `{\n  "version": ${version},\n  "state": {\n    "generation": ${generation},\n`;
    text += `    "boot": ${boot},\n    "${list}": [`;
    let before = "\n      ";
    for (const entry of entries) {
      text += before + JSON.stringify(entry);
      before = ",\n      ";
      if (text.length < writtenAtOnce) continue;
      yield encode(text);
      text = "";
    }
    yield encode(`${text}\n    ]\n  }\n}\n`);
  }

  #present(): readonly Piece[] {
    return this.#pieces.filter(({ generation }) => generation === this.#generation);
  }
}

function decodeWhole<Saved>(
  bytes: Uint8Array,
  format: JournalFormat<Saved>,
): { readonly generation: number; readonly saved: Saved; readonly sizeBytes: number } {
  let generation: unknown;
  const saved = decodeFile(bytes, format, (file) => {
    if (!isObject(file.state)) throw new SyntaxError("no version and state");
    generation = file.state.generation;
    return file.state;
  });
  if (typeof generation !== "number" || !Number.isSafeInteger(generation) || generation < 0) {
    throw new SyntaxError("its generation is none");
  }
  return { generation, saved, sizeBytes: bytes.length };
}

type JsonRecord = { readonly [name: string]: unknown };

/** @param find the part of the file that has boot and entries. */
function decodeFile<Saved>(
  bytes: Uint8Array,
  format: JournalFormat<Saved>,
  find: (file: JsonRecord) => JsonRecord,
): Saved {
  const reader = format.open();
  let wrong: { readonly thrown: unknown } | undefined;
  const file = readEntries(bytes, format.list, (from, to) => {
    if (wrong) return;
    try {
      reader.take(bytes, from, to);
    } catch (thrown) {
      // Of a file of another version that is what is to be told.
      wrong = { thrown };
    }
  });
  if (!isObject(file)) throw new SyntaxError("it is no object");
  if (file.version !== format.version) {
    throw new SyntaxError(`version ${JSON.stringify(file.version)}, not ${format.version}`);
  }
  const part = find(file);
  // What was found is the list that was left empty.
  if (!Array.isArray(part[format.list])) throw new SyntaxError(`its ${format.list} are elsewhere`);
  if (typeof part.boot !== "string" || part.boot.length > maxBootLength)
    throw new SyntaxError("its boot is none");
  if (wrong) throw wrong.thrown;
  return reader.close(part.boot);
}

async function listPieces(system: Disk, directory: string): Promise<Piece[]> {
  const names = await system.list(directory).catch(() => []);
  const pieces = names.flatMap((name): Piece[] => {
    const match = /^([0-9]{1,15})-([0-9]{1,15})\.json$/.exec(name);
    return match ? [{ generation: Number(match[1]), number: Number(match[2]) }] : [];
  });
  return pieces.sort((one, other) => one.generation - other.generation || one.number - other.number);
}

function pathOf(directory: string, { generation, number }: Piece): string {
  return `${directory}/${generation}-${number}.json`;
}
