/**
 * How mappings lie on disk: one line of text each, and one object for each source that is kept.
 *
 *     T 10.243.27.121 203.0.113.98 b-5271-5f7d 14400 n     a remote host until a second of the boot; asked for by name
 *     O 192.168.97.12 d-223-f68e-e5a3-ea19 14400           a local host
 *     t …, o …                                             the same, at rest until then
 *     {"source": "user", "records": ["O 192.168.97.11 2711", "T 10.240.2.1 203.0.113.98 12"]}
 *
 * Lines come with the id of the boot in which they were written. In the same boot the seconds count; in another one no
 * clock can be trusted (routers boot with a wrong one), and every time begins anew: a mapping may last longer than was
 * said, never shorter. Of lines that contradict each other the last counts.
 */

import { type Address, type Family, parseAddress, readAddress } from "../lib/address.ts";
import { parseEntry } from "../lib/entries.ts";
import { isObject, type JsonObject } from "../lib/json.ts";
import {
  encodeReference,
  formatReference,
  parseReference,
  readReference,
  referenceBytes,
} from "../lib/reference.ts";
import type { JournalFormat, JournalReader } from "../system/journal.ts";
import { addressBytes, Field } from "./lookup.ts";
import { maxOwnerLength, maxSourceRecords, type SourceState, type StaticRecord } from "./sources.ts";
import type { RecordKeys } from "./table.ts";

export interface SavedMapping {
  readonly kind: "ours" | "theirs";
  readonly address: Address;
  readonly context: Address | undefined;
  /** As text. */
  readonly reference: string;
  /** At rest: kept for its host, and in nobody's way. */
  readonly rests: boolean;
  /** Monotonic, of the boot of the lines. */
  readonly untilAt: number;
  /** Somebody of ours asked for it by name, not only the other side by packets. */
  readonly byName: boolean;
}

/** What was written at a time, known to be right. */
export interface SavedLines {
  readonly boot: string;
  readonly sources: readonly SourceState[];
  /** Mapping by mapping; what is given is the same object each time. */
  eachMapping(visit: (line: MappingLine) => void): void;
}

const maxLines = 1 << 20;
const maxLineLength = 160;
/** What JSON puts around a line: blanks, quotes, comma, line end. */
const aroundLine = 10;
/** What is written down is mappings, too, which are counted once more as such. */
const maxBytes = 2 * maxLines * (maxLineLength + aroundLine);

/** The files of `mappings.json` and `mappings.d`. A line that is no mapping or source is a SyntaxError. */
export const savedFormat: JournalFormat<SavedLines> = {
  ...{ name: "mappings", version: 1, list: "lines", maxBytes },
  open: openLines,
};

export function renderMapping(mapping: SavedMapping): string {
  const { kind, address, context, reference, rests, untilAt, byName } = mapping;
  const letter = kind === "ours" ? (rests ? "o" : "O") : rests ? "t" : "T";
  const from = kind === "ours" ? "" : ` ${context}`;
  return `${letter} ${address}${from} ${reference} ${Math.ceil(untilAt / 1_000)}${byName ? " n" : ""}`;
}

export function renderSource({ owner, records, hash }: SourceState): JsonObject {
  return {
    source: owner,
    ...(hash !== undefined && { hash: hash.toString(16) }),
    records: records.map(({ kind, address, context, reference }) =>
      [kind === "ours" ? "O" : "T", address, ...(context === undefined ? [] : [context])]
        .concat(formatReference(reference))
        .join(" "),
    ),
  };
}

const code = { space: 32, quote: 34, zero: 48, lowN: 110, lowO: 111, lowT: 116, lower: 32 } as const;
const maxUntilDigits = 12;

/** Of a line in memory: address, context and reference, sixteen bytes each, and then these. */
const Place = { untilAt: 48, flags: 56 } as const;
const Flag = { isOurs: 1, rests: 2, byName: 4, addressIs6: 8, contextIs6: 16 } as const;
const lineWords = 16;
/** Lines are kept in blocks of so many. */
const blockLines = 512;

/** One mapping after the other in the same memory: with a hundred thousand, nothing is made for each. */
export class MappingLine implements RecordKeys {
  readonly address: Uint8Array;
  /** Of a remote host. */
  readonly context: Uint8Array;
  readonly reference: Uint8Array<ArrayBuffer>;
  /** All of it. */
  readonly words = new Int32Array(lineWords);
  readonly #until: Float64Array;
  readonly #token = { from: 0, to: 0 };

  constructor() {
    const { buffer } = this.words;
    this.address = new Uint8Array(buffer, Field.address, addressBytes);
    this.context = new Uint8Array(buffer, Field.context, addressBytes);
    this.reference = new Uint8Array(buffer, Field.reference, referenceBytes);
    this.#until = new Float64Array(buffer, Place.untilAt, 1);
  }

  get isOurs(): boolean {
    return this.#has(Flag.isOurs);
  }

  get rests(): boolean {
    return this.#has(Flag.rests);
  }

  get byName(): boolean {
    return this.#has(Flag.byName);
  }

  get addressFamily(): Family {
    return this.#has(Flag.addressIs6) ? 6 : 4;
  }

  get contextFamily(): Family {
    return this.#has(Flag.contextIs6) ? 6 : 4;
  }

  /** Whether the reference is not 0, which is none. */
  get hasReference(): boolean {
    const from = Field.reference / 4;
    for (let word = 0; word < 4; word++) if (this.words[from + word] !== 0) return true;
    return false;
  }

  get untilAt(): number {
    return this.#until[0]!;
  }

  /** Reads what `renderMapping` returned. @throws SyntaxError for anything else. */
  read(text: Uint8Array, from: number, to: number): void {
    const letter = text[from]! | code.lower;
    const isOurs = letter === code.lowO;
    const isLetter = (isOurs || letter === code.lowT) && text[from + 1] === code.space;
    if (!isLetter || to - from > maxLineLength) failLine(text, from, to);
    let flags = (isOurs ? Flag.isOurs : 0) | (letter === text[from] ? Flag.rests : 0);
    const token = this.#token;
    token.to = from + 1;
    if (this.#address(text, to, this.address) === 6) flags |= Flag.addressIs6;
    if (isOurs) this.context.fill(0);
    else if (this.#address(text, to, this.context) === 6) flags |= Flag.contextIs6;
    this.#next(text, to);
    if (!readReference(text, token, this.reference)) {
      encodeReference(parseReference(textOf(text, token.from, token.to)), this.reference);
    }
    this.#next(text, to);
    this.#until[0] = secondsOf(text, token.from, token.to) * 1_000;
    if (token.to < to) {
      this.#next(text, to);
      if (token.to !== to || token.from + 1 !== to || text[token.from] !== code.lowN)
        failLine(text, from, to);
      flags |= Flag.byName;
    }
    this.words[Place.flags / 4] = flags;
  }

  #has(flag: number): boolean {
    return (this.words[Place.flags / 4]! & flag) !== 0;
  }

  /** Goes on to what stands between the next two spaces; the last of a line ends where it does. */
  #next(text: Uint8Array, end: number): void {
    const token = this.#token;
    let at = Math.min(token.to + 1, end);
    token.from = at;
    while (at < end && text[at] !== code.space) at++;
    token.to = at;
  }

  #address(text: Uint8Array, end: number, into: Uint8Array): Family {
    this.#next(text, end);
    const { from, to } = this.#token;
    return readAddress(text, this.#token, into) ?? failLine(text, from, to);
  }
}

function secondsOf(text: Uint8Array, from: number, to: number): number {
  let seconds = 0;
  for (let at = from; at < to; at++) {
    const digit = text[at]! - code.zero;
    if (digit < 0 || digit > 9) failLine(text, from, to);
    seconds = seconds * 10 + digit;
  }
  return from === to || to - from > maxUntilDigits ? failLine(text, from, to) : seconds;
}

function openLines(): JournalReader<SavedLines> {
  const line = new MappingLine();
  const blocks: Int32Array[] = [];
  const sources: SourceState[] = [];
  let count = 0;
  return {
    take(bytes, from, to) {
      if (count + sources.length >= maxLines) fail("there are too many");
      if (bytes[from] !== code.quote) {
        sources.push(parseSource(parseEntry(bytes, from, to)));
        return;
      }
      line.read(bytes, from + 1, to - 1);
      const place = (count % blockLines) * lineWords;
      if (place === 0) blocks.push(new Int32Array(blockLines * lineWords));
      const block = blocks.at(-1)!;
      for (let word = 0; word < lineWords; word++) block[place + word] = line.words[word]!;
      count++;
    },
    close: (boot) => ({
      boot,
      sources,
      eachMapping(visit) {
        for (let at = 0; at < count; at++) {
          const block = blocks[Math.floor(at / blockLines)]!;
          const place = (at % blockLines) * lineWords;
          for (let word = 0; word < lineWords; word++) line.words[word] = block[place + word]!;
          visit(line);
        }
      },
    }),
  };
}

function parseSource(entry: unknown): SourceState {
  if (!isObject(entry)) return fail("a line is neither text nor source");
  const { source: owner, hash, records } = entry;
  if (typeof owner !== "string" || owner.length > maxOwnerLength)
    return fail("the name of a source is wrong");
  if (!Array.isArray(records) || records.length > maxSourceRecords) return fail(`records of ${owner}`);
  const isHash = typeof hash === "string" && /^[0-9a-f]{1,16}$/.test(hash);
  if (hash !== undefined && !isHash) return fail(`hash of ${owner}`);
  return {
    owner,
    records: (records as unknown[]).map(parseStatic),
    hash: hash === undefined ? undefined : BigInt(`0x${hash}`),
  };
}

function parseStatic(line: unknown): StaticRecord {
  if (typeof line !== "string" || line.length > maxLineLength) return fail("a record of a source");
  const parts = line.split(" ");
  const wrong = () => fail(`${JSON.stringify(line)} is no mapping`);
  const isOurs = parts[0] === "O" && (parts.length === 3 || parts.length === 4);
  if (!isOurs && !(parts[0] === "T" && parts.length === 4)) return wrong();
  return {
    kind: isOurs ? "ours" : "theirs",
    address: parseAddress(parts[1]!) ?? wrong(),
    context: parts.length === 3 ? undefined : (parseAddress(parts[2]!) ?? wrong()),
    reference: parseReference(parts.at(-1)!),
  };
}

function textOf(bytes: Uint8Array, from: number, to: number): string {
  let text = "";
  for (let at = from; at < Math.min(to, from + maxLineLength); at++) text += String.fromCharCode(bytes[at]!);
  return text;
}

function failLine(bytes: Uint8Array, from: number, to: number): never {
  return fail(`${JSON.stringify(textOf(bytes, from, to))} is no mapping`);
}

function fail(what: string): never {
  throw new SyntaxError(`Cannot read mappings: ${what}`);
}
