/** What tests of isolation share: the quarter, built once, a plan, and a kernel with it in force. */

import { type Backend, deleteConnections, type IsolationPlan, type Kernel } from "../../src/kernel/kernel.ts";
import { app, cam, db, log, plan, Quarter, web } from "./quarter.ts";
import { clean, open, system } from "./rig.ts";

let built: Quarter | undefined;
const http = [{ protocol: "tcp", first: 80, last: 80 }] as const;
const some = [{ protocol: "icmp" }, { protocol: "udp", first: 400, last: 500 }] as const;

/** Some pairs in both directions, some in one, some with ports, two on one segment. */
export const usual = plan([
  [app, db],
  [db, app],
  [app, web],
  [web, app],
  [web, log, http],
  [cam, db, some],
]);

export async function quarter(): Promise<Quarter> {
  built ??= await Quarter.build();
  await clean();
  await deleteConnections(system, () => true);
  return built;
}

export async function enforced(backend: Backend, given: IsolationPlan): Promise<[Quarter, Kernel]> {
  const all = await quarter();
  const kernel = await open(backend);
  await kernel.apply("isolation", given);
  return [all, kernel];
}

/** Connections that a pair has, as connection tracking knows them. */
export async function connections(source: string, destination: string): Promise<number> {
  let count = 0;
  await deleteConnections(system, (each) => {
    if (each.source === source && each.destination === destination) count++;
    return false;
  });
  return count;
}

export async function close(): Promise<void> {
  await clean();
  await built?.close();
}
