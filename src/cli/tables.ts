/**
 * `gatehouse tables import FILE`: hands the leases of Table Allocator's database to the agent, with their numbers.
 *
 * Its server has to be stopped before. Doing it again does no harm. Prints how many were taken over; those that were
 * not are named on standard error: their numbers are not among those that the agent leases, or are out.
 */

import { Fault } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import { importLeases } from "../tables/tables.ts";
import { connectUbus } from "../ubus/ubus.ts";
import type { Context, Verb } from "./verb.ts";

const maxFileBytes = 64 * 1024 * 1024;
/** Leases in one call: a message of the bus has 1 MiB. */
const perCall = 1_000;
const timeoutMs = 30_000;
/** The agent gives them its own. */
const terms = { owner: "root", lifetimeMs: 1 };

export const tablesVerb: Verb = {
  synopsis: "tables import FILE",
  summary: "take over the leases in a database of Table Allocator",
  async run(args, context) {
    const [action, path] = args;
    if (action !== "import" || path === undefined || args.length > 2) {
      context.usage();
      return 1;
    }
    return importFile(path, context);
  },
};

async function importFile(path: string, { system, io, flags }: Context): Promise<number> {
  const bytes = await system.read(path, maxFileBytes);
  if (!bytes) throw new Fault("not-found", `Cannot read ${path}: it is not there`);
  for (const suffix of ["-wal", "-journal"]) {
    const beside = await system.stat(`${path}${suffix}`);
    if (beside && beside.sizeBytes > 0) {
      throw new Fault("conflict", `Cannot read ${path}: ${path}${suffix} has changes; stop the server first`);
    }
  }
  let found: ReturnType<typeof importLeases>;
  try {
    found = importLeases(bytes, terms);
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
    throw new Fault("invalid", thrown.message);
  }
  const { leases, senseless } = found;
  const rows = leases.map(({ table, note: { key, label } }): Json => {
    const { family, interface: name, address } = key;
    return { table, family, interface: name, address, ...(label !== "" && { label }) };
  });
  const ubus = connectUbus(system, { path: flags.socket, retry: false, timeoutMs });
  let adopted = 0;
  const left: Json[] = [];
  try {
    for (let at = 0; at < rows.length; at += perCall) {
      const answer = await ubus.call("gatehouse.tables", "import", { leases: rows.slice(at, at + perCall) });
      adopted += Number(answer.adopted ?? 0);
      if (Array.isArray(answer.left)) left.push(...(answer.left as readonly Json[]));
    }
  } finally {
    ubus.close();
  }
  io.stdout(`${adopted} of ${leases.length + senseless} leases taken over\n`);
  if (left.length > 0)
    io.stderr(`not taken over, their numbers or keys are not to be had: ${left.join(" ")}\n`);
  if (senseless > 0) io.stderr(`not taken over, they make no sense: ${senseless}\n`);
  return 0;
}
