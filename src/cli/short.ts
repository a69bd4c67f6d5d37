/**
 * Verbs that are one call of the agent's own object: shorter to type than `call gatehouse …`, and printed the same.
 */

import type { JsonObject } from "../lib/json.ts";
import { connectUbus } from "../ubus/ubus.ts";
import { formatMappings } from "./table.ts";
import { ubusVerbs } from "./ubus.ts";
import type { Context, Verb } from "./verb.ts";

const own = "gatehouse";
const timeoutMs = 10_000;

export const shortVerbs: ReadonlyMap<string, Verb> = new Map([
  ["status", short("status", "what the agent watches, counts, has lost and cannot see", [])],
  [
    "explain",
    short("explain A B", "whether packets from A to B pass, and why; ids, addresses, MACs or names", [
      "from",
      "to",
    ]),
  ],
  ["import", short("import DIR", "take over SPIN's files, once more", ["directory"])],
  [
    "print",
    { synopsis: "print", summary: "the rules that are in force, as the text that a boot loads", run: print },
  ],
  [
    "ipref",
    { synopsis: "ipref", summary: "who stands behind which encoded address and reference", run: ipref },
  ],
]);

/** A verb whose operands are the arguments of the method that it is named after. */
function short(synopsis: string, summary: string, names: readonly string[]): Verb {
  const [method] = synopsis.split(" ");
  return {
    synopsis,
    summary,
    async run(args, context) {
      // What begins with "-" is a flag of `call`, never an operand of ours.
      const operands = args.filter((each) => !each.startsWith("-"));
      const flags = args.filter((each) => each.startsWith("-"));
      if (operands.length !== names.length) {
        context.usage();
        return 1;
      }
      const given = Object.fromEntries(names.map((name, at) => [name, operands[at]!]));
      return ubusVerbs.get("call")!.run([...flags, own, method!, JSON.stringify(given)], context);
    },
  };
}

/** All mappings as a table, asked for page by page. */
async function ipref(args: readonly string[], { system, io, flags, usage }: Context): Promise<number> {
  if (args.length > 0) {
    usage();
    return 1;
  }
  const ubus = connectUbus(system, { path: flags.socket, retry: false, timeoutMs });
  try {
    const rows: JsonObject[] = [];
    for (let after = 0; ; ) {
      const { mappings, more } = await ubus.call(`${own}.ipref`, "mappings", { after });
      const page = (Array.isArray(mappings) ? mappings : []) as readonly JsonObject[];
      rows.push(...page);
      const last = page.at(-1)?.id;
      if (more !== true || typeof last !== "number" || last <= after) break;
      after = last;
    }
    io.stdout(formatMappings(rows));
    return 0;
  } finally {
    ubus.close();
  }
}

/** Asks for the text in pieces, since a message of the bus is bounded. */
async function print(args: readonly string[], { system, io, flags, usage }: Context): Promise<number> {
  if (args.length > 0) {
    usage();
    return 1;
  }
  const ubus = connectUbus(system, { path: flags.socket, retry: false, timeoutMs });
  try {
    for (let offset = 0; ; ) {
      const { text, next } = await ubus.call(own, "print", { offset });
      io.stdout(String(text ?? ""));
      if (typeof next !== "number" || next <= offset) return 0;
      offset = next;
    }
  } finally {
    ubus.close();
  }
}
