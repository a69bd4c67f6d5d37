/**
 * Table leases on disk: what changed is written at once, the whole now and then.
 *
 * The whole is a store (`tables.json`); each change since is a small file of its own beside it,
 * `tables.d/<generation>-<number>.json`, made durable before the change is answered. So a change costs the same
 * however many leases there are. When the small files have become many or large, the whole is written with the next
 * generation; those of two generations ago are removed then, so that even the store's previous generation and the
 * files after it give everything that was ever answered. Of a key the last record counts.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import { isObject, type Json, type JsonObject } from "../lib/json.ts";
import { openStore, type Store } from "../system/store.ts";
import type { Clock, Disk } from "../system/system.ts";
import { parseRecords, renderRecords, type SavedRecords, tablesVersion } from "./record.ts";

/** Changes that are kept one by one before the whole is written. */
const maxPieces = 256;
const leastWholeBytes = 64 * 1024;
const maxPieceBytes = 32 * 1024 * 1024;

export interface JournalOptions {
  /** Where `tables.json` and `tables.d` are. */
  readonly directory: string;
  /** Tells boots apart (/proc/sys/kernel/random/boot_id); "": this one is like no other. */
  readonly boot: string;
  /** Told the first fault of a row, and `undefined` when all is on disk again. */
  onFault?(fault: Fault | undefined): void;
}

export interface OpenedJournal {
  readonly journal: Journal;
  /** What was stored, oldest first. */
  readonly saved: readonly SavedRecords[];
  /** What was wrong with the files, in sentences. */
  readonly damages: readonly string[];
}

interface Whole {
  readonly generation: number;
  readonly saved: SavedRecords;
}

interface Piece {
  readonly generation: number;
  readonly number: number;
}

/** Reads what there is. Never fails: damage is told. */
export async function openJournal(system: Disk & Clock, options: JournalOptions): Promise<OpenedJournal> {
  const directory = `${options.directory}/tables.d`;
  await system.makeDirectory(directory, 0o700).catch(() => {});
  const { store, state, damage } = await openStore(system, `${options.directory}/tables.json`, {
    version: tablesVersion,
    parse: parseWhole,
    ...(options.onFault && { onFault: options.onFault }),
  });
  const damages = damage ? [damage.message] : [];
  const saved: SavedRecords[] = state ? [state.saved] : [];
  const pieces = await listPieces(system, directory);
  const least = state?.generation ?? 0;
  for (const piece of pieces.filter(({ generation }) => generation >= least)) {
    try {
      saved.push(await readPiece(system, pathOf(directory, piece)));
    } catch (thrown) {
      damages.push(`Cannot read ${pathOf(directory, piece)}: ${messageOf(thrown)}; it is left out`);
    }
  }
  const last = Math.max(least, ...pieces.map(({ generation }) => generation));
  const journal = new Journal(system, store, { directory, boot: options.boot, pieces, generation: last });
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
    },
  ) {
    this.#system = system;
    this.#store = store;
    this.#directory = state.directory;
    this.#boot = state.boot;
    this.#pieces = state.pieces;
    this.#generation = state.generation;
    this.#next = Math.max(0, ...this.#present().map(({ number }) => number)) + 1;
  }

  /**
   * Makes records durable. One call at a time; after a fault the next call has to bring the same records again.
   *
   * @param whole renders every record there is; called now and then.
   * @throws Fault "storage"
   */
  async keep(records: readonly Json[], whole: () => readonly Json[]): Promise<void> {
    if (records.length > 0) {
      const piece = { generation: this.#generation, number: this.#next };
      const file = { version: tablesVersion, ...renderRecords(this.#boot, records) };
      const bytes = new TextEncoder().encode(`${JSON.stringify(file)}\n`);
      await this.#system.replace(pathOf(this.#directory, piece), bytes, { mode: 0o600 });
      this.#pieces = [...this.#pieces, piece];
      this.#next++;
      this.#pieceBytes += bytes.length;
    }
    const isDue =
      this.#present().length >= maxPieces || this.#pieceBytes > Math.max(leastWholeBytes, this.#wholeBytes);
    // What the store reports is no fault of this change, which is durable.
    if (isDue) await this.fold(whole).catch(() => {});
  }

  /** Writes the whole, and forgets the changes that it has. @throws Fault "storage" */
  async fold(whole: () => readonly Json[]): Promise<void> {
    const generation = this.#generation + 1;
    let bytes = 0;
    await this.#store.save(() => {
      const state: JsonObject = { generation, ...renderRecords(this.#boot, whole()) };
      bytes = JSON.stringify(state).length;
      return state;
    });
    this.#generation = generation;
    this.#next = 1;
    this.#pieceBytes = 0;
    this.#wholeBytes = bytes;
    const old = this.#pieces.filter((piece) => piece.generation < generation - 1);
    this.#pieces = this.#pieces.filter((piece) => piece.generation >= generation - 1);
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

function parseWhole(state: unknown): Whole {
  const saved = parseRecords(state);
  const { generation } = state as { generation: unknown };
  const usable = typeof generation === "number" && Number.isSafeInteger(generation) && generation >= 0;
  if (!usable) throw new SyntaxError("Cannot read table leases: generation is wrong");
  return { generation: generation as number, saved };
}

async function listPieces(system: Disk, directory: string): Promise<Piece[]> {
  const names = await system.list(directory).catch(() => []);
  const pieces = names.flatMap((name): Piece[] => {
    const match = /^([0-9]{1,15})-([0-9]{1,15})\.json$/.exec(name);
    return match ? [{ generation: Number(match[1]), number: Number(match[2]) }] : [];
  });
  return pieces.sort((one, other) => one.generation - other.generation || one.number - other.number);
}

async function readPiece(system: Disk, path: string): Promise<SavedRecords> {
  const bytes = await system.read(path, maxPieceBytes);
  if (!bytes) throw new Fault("not-found", "it is gone");
  const file: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  if (!isObject(file) || file.version !== tablesVersion) throw new SyntaxError("it is of another version");
  return parseRecords(file);
}

function pathOf(directory: string, { generation, number }: Piece): string {
  return `${directory}/${generation}-${number}.json`;
}
