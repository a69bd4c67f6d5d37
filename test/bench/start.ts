/** How soon the agent answers, and what it weighs. */

import { execFileSync } from "node:child_process";
import { statSync } from "node:fs";
import { heading, median, spread, table } from "./figure.ts";
import { addDevices, buildNetwork, Daemons, program, sleep } from "./router.ts";

const rounds = 9;

async function countNodes(daemons: Daemons, ubus: Awaited<ReturnType<Daemons["startBus"]>>, atLeast: number) {
  for (let attempt = 0; attempt < 100; attempt++) {
    const answer = await ubus.call("gatehouse.nodes", "list");
    if ((answer.nodes as unknown[]).length >= atLeast) return;
    await sleep(100);
  }
  throw new Error(`Cannot reach ${atLeast} nodes, agent ${daemons.agent?.pid}`);
}

export async function measureStart(): Promise<void> {
  heading("Start and size");
  buildNetwork();
  const daemons = new Daemons();
  const ubus = await daemons.startBus();
  daemons.configure("auto");
  const bare: number[] = [];
  const ours: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const at = performance.now();
    execFileSync(process.execPath, ["-e", "0"]);
    bare.push(performance.now() - at);
    ours.push(await daemons.startAgent(ubus));
    await daemons.stopAgent();
  }
  await daemons.startAgent(ubus);
  await sleep(5_000);
  const atRest = daemons.residentMegabytes();
  addDevices(1_000);
  await countNodes(daemons, ubus, 1_000);
  await sleep(5_000);
  const full = daemons.residentMegabytes();
  const bareRss = Number(execFileSync(process.execPath, ["-p", "process.memoryUsage.rss()"])) / 2 ** 20;
  await daemons.stop();
  ubus.close();
  table([
    ["", "gatehouse", "bare node", "ratio"],
    ["start to first ubus answer, ms", spread(ours), spread(bare), (median(ours) / median(bare)).toFixed(2)],
    ["resident memory at rest, MB", atRest.toFixed(1), bareRss.toFixed(1), (atRest / bareRss).toFixed(2)],
    ["resident memory, 1,000 nodes, MB", full.toFixed(1), bareRss.toFixed(1), (full / bareRss).toFixed(2)],
    ["bundle, kB", (statSync(program).size / 1000).toFixed(0), "", ""],
  ]);
}
