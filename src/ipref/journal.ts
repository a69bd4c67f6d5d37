/**
 * Mappings on disk: what changed is written at once, many changes together, the whole now and then.
 *
 * The whole is a store (`mappings.json`); each group of changes since is a small file beside it,
 * `mappings.d/<generation>-<number>.json`, durable before anybody is answered. When the small files have become many
 * or as large as the whole, the whole is written with the next generation; files of two generations ago are removed
 * then, so that even the store's previous generation and the files after it give everything that was ever promised.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type Json } from "../lib/json.ts";
import { openStore, type Store } from "../system/store.ts";
import type { Clock, Disk } from "../system/system.ts";
import { parseLines, renderLines, type SavedLines, savedVersion } from "./saved.ts";

/** Groups of changes that are kept one by one before the whole is written. */
const maxPieces = 512;
const leastWholeBytes = 256 * 1024;
const maxPieceBytes = 32 * 1024 * 1024;
/** Files that are read at a time. */
const readsAtOnce = 16;

export interface JournalOptions {
  /** Where `mappings.json` and `mappings.d` are. */
  readonly directory: string;
  /** Tells boots apart; "": this one is like no other. */
  readonly boot: string;
  /** Told the first fault of a row, and `undefined` when all is on disk again. */
  onFault?(fault: Fault | undefined): void;
}

export interface OpenedJournal {
  readonly journal: Journal;
  /** What was stored, oldest first. */
  readonly saved: readonly SavedLines[];
  /** What was wrong with the files, in sentences. */
  readonly damages: readonly string[];
}

interface Piece {
  readonly generation: number;
  readonly number: number;
}

/** Reads what there is. Never fails: damage is told. */
export async function openJournal(system: Disk & Clock, options: JournalOptions): Promise<OpenedJournal> {
  const directory = `${options.directory}/mappings.d`;
  await system.makeDirectory(directory, 0o700).catch(() => {});
  const { store, state, damage } = await openStore(system, `${options.directory}/mappings.json`, {
    version: savedVersion,
    parse: parseWhole,
    ...(options.onFault && { onFault: options.onFault }),
  });
  const damages = damage ? [damage.message] : [];
  const saved: SavedLines[] = state ? [state.saved] : [];
  const pieces = await listPieces(system, directory);
  const least = state?.generation ?? 0;
  const wanted = pieces.filter(({ generation }) => generation >= least);
  for (let from = 0; from < wanted.length; from += readsAtOnce) {
    const paths = wanted.slice(from, from + readsAtOnce).map((piece) => pathOf(directory, piece));
    for (const read of await Promise.all(paths.map((path) => readPiece(system, path)))) {
      if (typeof read === "string") damages.push(read);
      else saved.push(read);
    }
  }
  const generation = Math.max(least, ...pieces.map((piece) => piece.generation));
  const journal = new Journal(system, store, { ...options, directory, pieces, generation, whole: least });
  return { journal, saved, damages };
}

export class Journal {
  readonly #system: Disk;
  readonly #store: Store;
  readonly #directory: string;
  readonly #boot: string;
  /** What lies there, oldest first. */
  #pieces: readonly Piece[];
  #generation: number;
  /** The generation of the whole that lies there; it may be a later one. */
  #whole: number;
  #next: number;
  #pieceBytes = 0;
  #wholeBytes = 0;

  /** Use `openJournal`. */
  constructor(
    system: Disk,
    store: Store,
    state: {
      readonly directory: string;
      readonly boot: string;
      readonly pieces: readonly Piece[];
      readonly generation: number;
      readonly whole: number;
    },
  ) {
    this.#system = system;
    this.#store = store;
    this.#directory = state.directory;
    this.#boot = state.boot;
    this.#pieces = state.pieces;
    this.#generation = state.generation;
    this.#whole = state.whole;
    this.#next = Math.max(0, ...this.#present().map(({ number }) => number)) + 1;
  }

  /**
   * Makes lines durable. One call at a time; after a fault the lines count as never written.
   *
   * @throws Fault "storage"
   */
  async keep(lines: readonly Json[]): Promise<void> {
    const piece = { generation: this.#generation, number: this.#next };
    const file = { version: savedVersion, ...renderLines(this.#boot, lines) };
    const bytes = new TextEncoder().encode(`${JSON.stringify(file)}\n`);
    await this.#system.replace(pathOf(this.#directory, piece), bytes, { mode: 0o600 });
    this.#pieces = [...this.#pieces, piece];
    this.#next++;
    this.#pieceBytes += bytes.length;
  }

  /** Whether the whole is to be written now. */
  get isDue(): boolean {
    const isLarge = this.#pieceBytes > Math.max(leastWholeBytes, this.#wholeBytes);
    return isLarge || this.#present().length >= maxPieces;
  }

  /**
   * Writes the whole, and forgets the changes that it has. `keep` may go on meanwhile: what it brings counts after the
   * whole, which is rendered before this returns.
   *
   * @throws Fault "storage"; the store tries again by itself.
   */
  async fold(whole: () => readonly Json[]): Promise<void> {
    // Even if the disk refuses now: when the store succeeds at last, what was kept meanwhile must not be older than it.
    const generation = ++this.#generation;
    this.#next = 1;
    this.#pieceBytes = 0;
    await this.#store.save(() => {
      const lines = whole();
      this.#wholeBytes = lines.reduce<number>((sum, line) => sum + lengthOf(line), 64);
      return { generation, ...renderLines(this.#boot, lines) };
    });
    const least = this.#whole;
    this.#whole = generation;
    const old = this.#pieces.filter((piece) => piece.generation < least);
    this.#pieces = this.#pieces.filter((piece) => piece.generation >= least);
    for (const piece of old) await this.#system.remove(pathOf(this.#directory, piece)).catch(() => {});
  }

  /** After the last `keep`. @throws Fault "storage" */
  close(): Promise<void> {
    return this.#store.close();
  }

  #present(): readonly Piece[] {
    return this.#pieces.filter(({ generation }) => generation === this.#generation);
  }
}

function parseWhole(state: unknown): { readonly generation: number; readonly saved: SavedLines } {
  const saved = parseLines(state);
  const { generation } = state as { generation: unknown };
  if (typeof generation !== "number" || !Number.isSafeInteger(generation) || generation < 0) {
    throw new SyntaxError("Cannot read mappings: generation is wrong");
  }
  return { generation, saved };
}

async function listPieces(system: Disk, directory: string): Promise<Piece[]> {
  const names = await system.list(directory).catch(() => []);
  const pieces = names.flatMap((name): Piece[] => {
    const match = /^([0-9]{1,15})-([0-9]{1,15})\.json$/.exec(name);
    return match ? [{ generation: Number(match[1]), number: Number(match[2]) }] : [];
  });
  return pieces.sort((one, other) => one.generation - other.generation || one.number - other.number);
}

/** About as many bytes as a line takes in the whole. */
function lengthOf(line: Json): number {
  return (typeof line === "string" ? line.length : JSON.stringify(line).length) + 9;
}

/** What a file says, or what is wrong with it. */
async function readPiece(system: Disk, path: string): Promise<SavedLines | string> {
  try {
    const bytes = await system.read(path, maxPieceBytes);
    if (!bytes) throw new Fault("not-found", "it is gone");
    const file: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (!isObject(file) || file.version !== savedVersion) throw new SyntaxError("it is of another version");
    return parseLines(file);
  } catch (thrown) {
    return `Cannot read ${path}: ${messageOf(thrown)}; it is left out`;
  }
}

function pathOf(directory: string, { generation, number }: Piece): string {
  return `${directory}/${generation}-${number}.json`;
}
