/**
 * What a verb of the command line is, and the flags that verbs share.
 *
 * Flags are single letters as in the real `ubus`: they may be joined (`-vS`), and their value may follow at once
 * (`-t1`). They may come before the verb, and after it anywhere among the operands; `--` ends them.
 */

import type { Cancel, System } from "../system/system.ts";
import { defaultBusPath } from "../ubus/ubus.ts";

/** The terminal, or whatever stands in for it, and what the program brings along. */
export interface CommandLine {
  stdout(text: string): void;
  stderr(text: string): void;
  readonly stdoutIsTty: boolean;
  readonly stderrIsTty: boolean;
  /** Calls when the user wants an end (SIGINT, SIGTERM). */
  onSignal(call: () => void): Cancel;
  /** What `version` prints. */
  readonly version: string;
  /** Verbs beside those of the bus. */
  readonly verbs?: ReadonlyMap<string, Verb>;
}

export interface Verb {
  /** Verb and operands, for the usage text: "call OBJECT METHOD [JSON]". */
  readonly synopsis: string;
  /** One line for the usage text. */
  readonly summary: string;
  /**
   * Does it.
   *
   * @param args what came after the verb, untouched.
   * @returns the exit status, 0..255.
   */
  run(args: readonly string[], context: Context): Promise<number>;
}

export interface Context {
  readonly system: System;
  readonly io: CommandLine;
  /** Flags that came before the verb. */
  readonly flags: Flags;
  /** Prints the usage text on standard error. */
  usage(): void;
}

export interface Flags {
  /** -s: path of the bus's socket. */
  readonly socket: string;
  /** -t: seconds; undefined if not given. */
  readonly timeoutSeconds: number | undefined;
  /** -S: output and silence for scripts. */
  readonly simple: boolean;
  /** -v */
  readonly verbose: boolean;
  /** -m: names of message types that `monitor` shows; none is all. */
  readonly types: readonly string[];
  /** -M: "r" shows what the bus received, "t" what it sent. */
  readonly direction: "r" | "t" | undefined;
}

export const noFlags: Flags = {
  socket: defaultBusPath,
  timeoutSeconds: undefined,
  simple: false,
  verbose: false,
  types: [],
  direction: undefined,
};

const withValue = "stmM";

/**
 * Takes flags out of arguments.
 *
 * @param flags what holds where nothing else is said.
 * @param stop "operand" leaves the first operand and all behind it alone.
 * @throws SyntaxError with one line for the user, for a flag that does not exist or a value that makes no sense.
 */
export function parseFlags(
  args: readonly string[],
  flags: Flags,
  stop?: "operand",
): { readonly flags: Flags; readonly operands: readonly string[] } {
  const operands: string[] = [];
  let result = flags;
  for (let at = 0; at < args.length; at++) {
    const arg = args[at]!;
    if (arg === "--") return { flags: result, operands: [...operands, ...args.slice(at + 1)] };
    if (!/^-./s.test(arg)) {
      if (stop) return { flags: result, operands: args.slice(at) };
      operands.push(arg);
      continue;
    }
    for (let letter = 1; letter < arg.length; letter++) {
      const name = arg[letter]!;
      if (!withValue.includes(name)) {
        result = applyFlag(result, name, "");
        continue;
      }
      const value = letter + 1 < arg.length ? arg.slice(letter + 1) : args[++at];
      if (value === undefined) throw new SyntaxError(`-${name} needs a value`);
      result = applyFlag(result, name, value);
      break;
    }
  }
  return { flags: result, operands };
}

function applyFlag(flags: Flags, name: string, value: string): Flags {
  switch (name) {
    case "s":
      return { ...flags, socket: value };
    case "t":
      if (!/^\d{1,6}$/.test(value)) throw new SyntaxError(`-t wants seconds, not "${value}"`);
      return { ...flags, timeoutSeconds: Number(value) };
    case "S":
      return { ...flags, simple: true };
    case "v":
      return { ...flags, verbose: true };
    case "m":
      return { ...flags, types: [...flags.types, value] };
    case "M":
      if (value[0] !== "r" && value[0] !== "t") throw new SyntaxError(`-M wants r or t, not "${value}"`);
      return { ...flags, direction: value[0] };
    default:
      throw new SyntaxError(`there is no flag -${name}`);
  }
}
