/**
 * What nodes cost: memory with 1,000 and 5,000 of them, processor time while nothing happens, and to tell a broker
 * that one has changed.
 *
 * The baseline is the same agent without nodes, and for the broker the same changes with nobody to tell.
 */

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { makeFarNodes } from "./blocks.ts";
import { heading, median, table } from "./figure.ts";
import { addDevices, buildNetwork, Daemons, sleep } from "./router.ts";

const nodeCounts = [0, 1_000, 5_000];
/** Devices of the LAN; the other nodes are far addresses that a client has spoken to. */
const maxDevices = 1_000;
const restSeconds = 5;
const mqttPort = 18_883;
const renamed = 200;

async function waitForNodes(ubus: Ubus, atLeast: number): Promise<void> {
  let last = 0;
  for (let attempt = 0; attempt < 200; attempt++) {
    const { nodes } = (await ubus.call("gatehouse", "status")) as unknown as { nodes: { nodes: number } };
    if (nodes.nodes >= atLeast) return;
    last = nodes.nodes;
    await sleep(100);
  }
  throw new Error(`Cannot reach ${atLeast} nodes: there are ${last}`);
}

/** Processor time in % of one processor, and memory in MB, once the agent has come to rest. */
async function rest(daemons: Daemons): Promise<{ cpu: number; megabytes: number }> {
  await sleep(4_000);
  const before = daemons.cpuSeconds();
  await sleep(restSeconds * 1_000);
  const cpu = ((daemons.cpuSeconds() - before) / restSeconds) * 100;
  return { cpu, megabytes: daemons.residentMegabytes() };
}

/** Milliseconds of processor time that one change of a node costs the agent. */
async function changeCost(daemons: Daemons, ubus: Ubus): Promise<number> {
  const costs: number[] = [];
  for (let round = 0; round < 3; round++) {
    const before = daemons.cpuSeconds();
    for (let node = 10; node < 10 + renamed; node++) {
      await ubus.call("gatehouse.nodes", "rename", { node, name: `n${round}-${node}` });
    }
    await sleep(1_500);
    costs.push(((daemons.cpuSeconds() - before) * 1_000) / renamed);
  }
  return median(costs);
}

export async function measureSize(): Promise<void> {
  heading("What nodes cost");
  buildNetwork();
  const daemons = new Daemons();
  const ubus = await daemons.startBus();
  const rows = [["", "resident MB", "kB a node", "CPU at rest %"]];
  let none = 0;
  for (const count of nodeCounts) {
    process.stderr.write(`  ${count} nodes\n`);
    addDevices(Math.min(count, maxDevices));
    daemons.configure("auto");
    await daemons.startAgent(ubus);
    if (count > maxDevices) await makeFarNodes(count - maxDevices);
    await waitForNodes(ubus, count);
    const { cpu, megabytes } = await rest(daemons);
    if (count === 0) none = megabytes;
    rows.push([
      `${count.toLocaleString("en")} nodes`,
      megabytes.toFixed(1),
      count === 0 ? "" : (((megabytes - none) * 1_024) / count).toFixed(1),
      cpu.toFixed(2),
    ]);
    await daemons.stopAgent();
  }
  table(rows);

  writeFileSync("/run/bench/mosquitto.conf", `listener ${mqttPort} 127.0.0.1\nallow_anonymous true\n`);
  const broker = spawn("mosquitto", ["-c", "/run/bench/mosquitto.conf"], { stdio: "ignore" });
  await sleep(500);
  const costs: number[] = [];
  for (const port of [undefined, mqttPort]) {
    process.stderr.write(`  changes of nodes, ${port === undefined ? "nobody to tell" : "a broker"}\n`);
    daemons.configure("auto", { mqttPort: port });
    await daemons.startAgent(ubus);
    await waitForNodes(ubus, maxDevices);
    costs.push(await changeCost(daemons, ubus));
    await daemons.stopAgent();
  }
  broker.kill();
  await daemons.stop();
  ubus.close();
  const [alone, told] = costs as [number, number];
  console.log(
    `\nA change of one of 1,000 nodes, ms of processor time: ${alone.toFixed(2)} with nobody to tell, ` +
      `${told.toFixed(2)} with a broker; to publish it costs ${(told - alone).toFixed(2)}`,
  );
}
