/**
 * Taking over from SPIN: its files, once, with a record of what became of its node numbers.
 *
 * SPIN's files are only read. The record, `spin-import.json` in the state directory, is written when all is in
 * force and durable: a run that was cut short is run again, and comes to the same end.
 */

import { Fault, messageOf } from "../lib/fault.ts";
import type { Json } from "../lib/json.ts";
import { type ImportDoor, importSpin, readSpin } from "../spin/spin.ts";
import type { System } from "../system/system.ts";
import { type DoorParts, spinDoor } from "./door.ts";

/** Pin of nodes that an import has found. */
const importing = "import";
const recordName = "spin-import.json";

/** What it came to, as it is kept: node numbers of SPIN's that scripts may still know, and ours. */
export interface Takeover {
  readonly version: 1;
  readonly directory: string;
  readonly ids: Readonly<Record<string, number>>;
  readonly pairs: number;
  readonly listed: number;
  readonly names: number;
  /** What was left out, with the reasons. */
  readonly skipped: readonly string[];
}

/**
 * Takes over SPIN's files from a directory.
 *
 * @returns `isWhole` is false if a file could not be read, which is worth another try.
 * @throws Fault "not-found" if there is nothing of SPIN's; others as decisions are refused.
 */
export async function takeOver(
  system: System,
  directory: string,
  parts: DoorParts,
): Promise<{ readonly takeover: Takeover; readonly isWhole: boolean }> {
  const state = await readSpin(system, directory);
  if (!state) throw new Fault("not-found", `Cannot take over from ${directory}: there is nothing of SPIN's`);
  const { nodes } = parts;
  const adopted = new Set<number>();
  const door: ImportDoor = {
    ...spinDoor(parts),
    async adopt({ mac, ips, domains }) {
      const adoption = { ...(mac !== undefined && { mac }), addresses: ips, names: domains };
      const id = nodes.adopt(adoption, parts.moment());
      nodes.pin(id, importing);
      adopted.add(id);
      return id;
    },
  };
  try {
    const { ids, pairs, names, listed, skipped } = await importSpin(state, door);
    const all = [...state.skipped, ...skipped];
    const counts = { pairs, listed, names };
    return {
      takeover: { version: 1, directory, ids: Object.fromEntries(ids), ...counts, skipped: all },
      isWhole: state.unread.length === 0,
    };
  } finally {
    for (const id of adopted) nodes.unpin(id, importing);
  }
}

/** The same at the first start beside SPIN's files, unless the directory is "". Never fails: what goes wrong is logged. */
export async function takeOverOnce(
  system: System,
  { directory, stateDirectory }: { readonly directory: string; readonly stateDirectory: string },
  parts: DoorParts,
): Promise<void> {
  if (directory === "") return;
  const record = `${stateDirectory}/${recordName}`;
  try {
    if ((await system.stat(record)) !== undefined) return;
    const { takeover, isWhole } = await takeOver(system, directory, parts);
    const { pairs, listed, names, ids, skipped } = takeover;
    const left = skipped.length === 0 ? "" : `; left out: ${skipped.slice(0, 5).join("; ")}`;
    system.log(
      "info",
      `took over from ${directory}: ${Object.keys(ids).length} nodes, ${pairs} blocked pairs, ` +
        `${listed} entries of lists, ${names} names${left}`,
    );
    if (!isWhole) return;
    const text = `${JSON.stringify(takeover as unknown as Json, undefined, 2)}\n`;
    await system.replace(record, new TextEncoder().encode(text), { mode: 0o600 });
  } catch (thrown) {
    if (thrown instanceof Fault && thrown.code === "not-found") return;
    system.log("error", `Cannot take over from ${directory}: ${messageOf(thrown)}`);
  }
}
