/**
 * The measurements: `npm run bench` (or `make bench`), all or those whose name holds one of the words given.
 *
 * Every figure comes with its baseline from the same run, because this machine and yours differ, and one
 * machine differs from itself an hour later. Each section runs in an enclosure of its own.
 */

import { spawnSync } from "node:child_process";
import { cpus } from "node:os";
import { enclose } from "../lab/enclosure.ts";
import { runGateway } from "../lab/gateway.ts";
import { knock, measureBlocks, openConnections, serveConnections } from "./blocks.ts";
import { measureBus, serveEcho } from "./bus.ts";
import { arrivals, measureCut, stream } from "./cut.ts";
import { flood, measureFlood } from "./flood.ts";
import { blast, measureIpref, sink } from "./ipref.ts";
import { answerCalls, dial, measureIsolation } from "./isolation.ts";
import { mappingsLife, measureMappings } from "./mappings.ts";
import { askNames, measureNames, serveNames } from "./names.ts";
import { measureNeighbours } from "./neighbours.ts";
import { measurePages } from "./pages.ts";
import { measureSize } from "./size.ts";
import { measureStart } from "./start.ts";
import { measureTables } from "./tables.ts";

const sections: Record<string, () => Promise<void>> = {
  start: measureStart,
  size: measureSize,
  bus: measureBus,
  cut: measureCut,
  flood: measureFlood,
  tables: measureTables,
  neighbours: measureNeighbours,
  isolation: measureIsolation,
  names: measureNames,
  blocks: measureBlocks,
  ipref: measureIpref,
  mappings: measureMappings,
  pages: measurePages,
};

async function main(): Promise<void> {
  if (runGateway()) return;
  const [mode, ...words] = process.argv.slice(2);
  if (mode === "--section") {
    await sections[words[0]!]!();
    process.exit(0);
  }
  // Programs that the sections start at the other ends.
  if (mode === "--echo") return serveEcho();
  if (mode === "--sink") return serveConnections();
  if (mode === "--connects") return openConnections();
  if (mode === "--knock") return knock(Number(words[0]));
  if (mode === "--stream") return stream();
  if (mode === "--arrivals") return arrivals();
  if (mode === "--answer") return answerCalls();
  if (mode === "--dial") return dial(words[0]!);
  if (mode === "--names") return askNames(Number(words[0]));
  if (mode === "--resolver") return serveNames();
  if (mode === "--blast") return blast(words[0]!, Number(words[1]), Number(words[2]));
  if (mode === "--count") return sink();
  if (mode === "--flood") return flood(Number(words[0]));
  if (mode === "--mappings") return mappingsLife(words[0]!, words[1]!);
  const wanted = mode === undefined ? [] : [mode, ...words];
  console.log(`node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? "unknown CPU"}`);
  for (const name of Object.keys(sections)) {
    if (wanted.length > 0 && !wanted.some((word) => name.includes(word))) continue;
    const [program, ...args] = enclose([process.execPath, process.argv[1]!, "--section", name]);
    const { status } = spawnSync(program!, args, { stdio: ["ignore", "inherit", "inherit"] });
    if (status !== 0) process.exitCode = 1;
  }
}

void main();
