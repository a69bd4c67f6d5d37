/**
 * The command line: finds the verb and hands it its arguments.
 *
 *     gatehouse [-s SOCKET] [-t SECONDS] [-v] [-S] VERB …
 *
 * The verbs of the bus and those that are one call of the agent are here; others come with the call.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import type { System } from "../system/system.ts";
import { shortVerbs } from "./short.ts";
import { ubusVerbs } from "./ubus.ts";
import { type CommandLine, noFlags, parseFlags, type Verb } from "./verb.ts";

export { captureVerb } from "./capture.ts";
export { leaseVerb } from "./lease.ts";
export { replayVerb } from "./replay.ts";
export { tablesVerb } from "./tables.ts";
export type { CommandLine, Context, Flags, Verb } from "./verb.ts";

/** The command line was wrong. */
const misused = 1;
/** As for the real `ubus`, which returns -2. */
const unknownVerb = 254;

/** What people try first. */
const otherNames: ReadonlyMap<string | undefined, string> = new Map([
  ["--help", "help"],
  ["-h", "help"],
  ["--version", "version"],
]);

/**
 * Runs one command to its end.
 *
 * @param argv what follows the name of the program.
 * @returns the exit status, 0..255. Faults are reported, not thrown.
 */
export async function runCli(argv: readonly string[], system: System, io: CommandLine): Promise<number> {
  const verbs = new Map([...(io.verbs ?? []), ...shortVerbs, ...ubusVerbs]);
  printer(verbs, "version", { summary: "print the version", print: () => io.stdout(`${io.version}\n`) });
  printer(verbs, "help", { summary: "print this", print: () => io.stdout(usageText(verbs)) });
  const usage = () => io.stderr(usageText(verbs));
  const other = otherNames.get(argv[0]);
  try {
    const { flags, operands } = parseFlags(other ? [other] : argv, noFlags, "operand");
    const [name, ...args] = operands;
    const verb = verbs.get(name ?? "");
    if (verb) return await verb.run(args, { system, io, flags, usage });
    if (name !== undefined) io.stderr(`gatehouse: there is no verb ${name}\n`);
    usage();
    return name === undefined ? misused : unknownVerb;
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError || thrown instanceof Fault)) throw thrown;
    io.stderr(`gatehouse: ${messageOf(thrown)}\n`);
    if (thrown instanceof SyntaxError) usage();
    return misused;
  }
}

/** Adds a verb that only prints. */
function printer(
  verbs: Map<string, Verb>,
  name: string,
  { summary, print }: { readonly summary: string; print(): void },
): void {
  const run = async () => {
    print();
    return 0;
  };
  verbs.set(name, { synopsis: name, summary, run });
}

function usageText(verbs: ReadonlyMap<string, Verb>): string {
  const width = Math.max(...[...verbs.values()].map((verb) => verb.synopsis.length));
  const lines = [...verbs.values()].map((verb) => ` ${verb.synopsis.padEnd(width)}  ${verb.summary}\n`);
  return `Usage: gatehouse [-s SOCKET] [-t SECONDS] [-v] [-S] VERB …

 -s SOCKET   socket of the bus (default ${noFlags.socket})
 -t SECONDS  how long to wait for an answer, or to listen
 -v          tell more
 -S          output on one line and no error messages, for scripts

${lines.join("")}
`;
}
