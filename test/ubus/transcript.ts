/** Recorded traffic between real programs and the real ubusd, and vectors computed by the real libubox. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Field } from "../../src/ubus/blob.ts";

const folder = join(process.cwd(), "test/ubus/fixtures");

/** One line of a recording; bytes only where something was sent. */
export interface Line {
  readonly n: number;
  readonly conn: string;
  /** C2S, S2C, OPEN, CLOSE_BY_CLIENT, CLOSE_BY_UBUSD; *_PARTIAL for a message that was cut off. */
  readonly dir: string;
  readonly bytes: Uint8Array;
  readonly decoded: Decoded | undefined;
}

/** What an independent decoder made of a message. */
export interface Decoded {
  readonly version: number;
  readonly type: number;
  readonly type_name: string;
  readonly seq: number;
  readonly peer: string;
  readonly attrs: readonly { readonly id: number; readonly name: string; readonly value?: unknown }[];
}

/** The program at one end of a connection, and what came of it. */
export interface Program {
  /** The command line as typed into a shell, the bus's socket as SOCK; "raw bytes written…" for none. */
  readonly command: string;
  readonly uid: number;
  readonly stdout?: string | null;
  readonly stderr?: string | null;
  readonly exit_code?: number;
}

export interface Transcript {
  readonly name: string;
  /** The ACL file that ubusd had been given. */
  readonly acl: unknown;
  readonly connections: Readonly<Record<string, Program>>;
  readonly lines: readonly Line[];
}

/** Names of all recordings, in order. */
export const transcriptNames: readonly string[] = readdirSync(folder)
  .filter((name) => /^\d\d-.*\.json$/.test(name))
  .map((name) => name.replace(/\.json$/, ""))
  .sort();

const read = new Map<string, Transcript>();

/** One recording. */
export function readTranscript(name: string): Transcript {
  const known = read.get(name) ?? parseTranscript(name);
  read.set(name, known);
  return known;
}

/** A long run of one character is stored as `(character*count)`. */
function parseTranscript(name: string): Transcript {
  const text = readFileSync(join(folder, `${name}.json`), "utf8").replace(
    /\((\w+)\*(\d+)\)/g,
    (_run, piece: string, count: string) => piece.repeat(Number(count)),
  );
  const { connections, acl_file: acl, messages } = JSON.parse(text);
  const lines = messages.map(
    (each: { n: number; conn: string; dir: string; hex?: string; decoded?: Decoded }) => ({
      n: each.n,
      conn: each.conn,
      dir: each.dir,
      bytes: bytesOf(each.hex ?? ""),
      decoded: each.decoded,
    }),
  );
  return { name, acl, connections, lines };
}

/** A recorded run of the real `ubus`. */
export interface Command {
  /** Recording and connection. */
  readonly of: string;
  /** What followed the name of the program. */
  readonly argv: readonly string[];
  readonly stdout: string;
  readonly stderr: string;
  readonly exit: number;
}

/** The runs of the real `ubus` in a recording. */
export function commandsOf({ name, connections }: Transcript): Command[] {
  return Object.entries(connections).flatMap(([conn, { command, stdout, stderr, exit_code }]) => {
    const [program, ...argv] = [...command.matchAll(/'([^']*)'|\S+/g)].map(
      ([word, quoted]) => quoted ?? word,
    );
    if (program !== "ubus") return [];
    return { of: `${name} ${conn}`, argv, stdout: stdout ?? "", stderr: stderr ?? "", exit: exit_code! };
  });
}

/** One vector of libubox's own encoder; `typed` are the fields in its terms. */
export interface EncodeVector {
  readonly json: string;
  readonly hex: string | null;
  readonly typed?: readonly TypedField[];
}

export interface TypedField {
  readonly name: string;
  readonly type: string;
  readonly value: unknown;
}

/** One payload with libubox's verdict: "ok FIELDS rem REST" or "bad". */
export interface DecodeVector {
  readonly description: string;
  readonly hex: string;
  readonly blobmsg_check_attr_len: string;
  readonly formatted: string;
}

export function readVectors(): { encode: readonly EncodeVector[]; decode: readonly DecodeVector[] } {
  // Python wrote NaN and Infinity, which JSON does not have.
  const text = readFileSync(join(folder, "blobmsg-vectors.json"), "utf8").replace(
    /"value": (NaN|Infinity)/g,
    '"value": "$1"',
  );
  return JSON.parse(text);
}

const typeNames = ["unspec", "array", "table", "string", "int64", "int32", "int16", "int8", "double"];

/** Fields in libubox's terms as ours. */
export function fieldOfTyped({ name, type, value }: TypedField): Field {
  const id = typeNames.indexOf(type);
  if (id < 0) throw new RangeError(`Cannot read field: type ${type}`);
  if (Array.isArray(value)) return { name, type: id, value: value.map(fieldOfTyped) };
  if (type === "unspec") return { name, type: id, value: undefined };
  if (type === "double") return { name, type: id, value: Number(value) };
  if (type !== "int64") return { name, type: id, value: value as string | number };
  const wide = BigInt(value as string);
  return { name, type: id, value: Number.isSafeInteger(Number(wide)) ? Number(wide) : wide };
}

export function bytesOf(hex: string): Uint8Array {
  return new Uint8Array(Buffer.from(hex, "hex"));
}

export function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}
