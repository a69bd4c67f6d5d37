/**
 * Table leases through the bus: what a request costs beside a bus call that does nothing, alone and in crowds, with
 * and without rules; whether that grows when ten thousand are held, what they weigh, and how long a restart takes.
 *
 * Each answer that is counted came when the lease was on disk and its rules in the kernel. The state directory is on
 * a real disk where there is one; the cost of making a small file durable there stands beside.
 */

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { JsonObject } from "../../src/lib/json.ts";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { heading, quantile, table } from "./figure.ts";
import { buildNetwork, Daemons, output, sh, system } from "./router.ts";

const callMs = 1_500;
const held = 10_000;
const inFlight = 200;
const withRules = 2_000;

interface Figures {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
}

/** Calls with the numbers from 0 on, so many in flight, until `most` are made or the time is over. */
async function drive(
  call: (index: number) => Promise<unknown>,
  options: { readonly width: number; readonly most?: number; readonly forMs?: number },
): Promise<Figures> {
  const { width, most = Number.POSITIVE_INFINITY, forMs = Number.POSITIVE_INFINITY } = options;
  const latencies: number[] = [];
  const beganAt = performance.now();
  let next = 0;
  const lane = async () => {
    while (next < most && performance.now() - beganAt < forMs) {
      const at = performance.now();
      await call(next++);
      latencies.push((performance.now() - at) * 1_000);
    }
  };
  await Promise.all(Array.from({ length: width }, lane));
  const seconds = (performance.now() - beganAt) / 1_000;
  return {
    perSecond: latencies.length / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

function row(name: string, { perSecond, p50, p99 }: Figures): string[] {
  return [name, perSecond.toFixed(0), p50.toFixed(0), p99.toFixed(0)];
}

/** A new address for each number and purpose. */
function wishOf(index: number, purpose: number, more: JsonObject): JsonObject {
  const address = `10.${purpose}.${index >> 8}.${index & 255}`;
  return { family: "inet", interface: "wan", address, netmask: "255.255.255.0", ...more };
}

/** Where files are durable: not on a memory disk, if that can be helped. */
function stateDirectory(): string {
  mkdirSync(join(process.cwd(), "build"), { recursive: true });
  return mkdtempSync(join(process.cwd(), "build/bench-state-"));
}

async function requests(ubus: Ubus, directory: string): Promise<void> {
  const request = (wish: JsonObject) => ubus.call("gatehouse.tables", "request", wish, { timeoutMs: 60_000 });
  const idle = () => ubus.call("gatehouse.tables", "list", { after: 4_294_967_294 });
  const rows = [["", "per second", "p50 µs", "p99 µs"]];
  const file = join(directory, "probe");
  const bytes = new Uint8Array(300).fill(48);
  const none = { rules: false };
  rows.push(row("a call that does nothing, 1 in flight", await drive(idle, { width: 1, forMs: callMs })));
  rows.push(row(`the same, ${inFlight} in flight`, await drive(idle, { width: inFlight, forMs: callMs })));
  const durable = () => system.replace(file, bytes);
  rows.push(row("a small file made durable, no bus", await drive(durable, { width: 1, forMs: callMs })));
  const fresh = (purpose: number, more: JsonObject) => (index: number) =>
    request(wishOf(index, purpose, more));
  rows.push(row("new lease, 1 in flight", await drive(fresh(1, none), { width: 1, forMs: callMs })));
  const crowd = await drive(fresh(2, none), { width: inFlight, most: held });
  rows.push(row(`new leases, ${inFlight} in flight`, crowd));
  const again = (index: number) => request(wishOf(index % held, 2, none));
  rows.push(row(`refreshed, ${inFlight} in flight`, await drive(again, { width: inFlight, most: 2 * held })));
  rows.push(row("new with 3 rules, 1 in flight", await drive(fresh(3, {}), { width: 1, forMs: callMs })));
  const ruled = await drive(fresh(4, {}), { width: inFlight, most: withRules });
  rows.push(row(`new with 3 rules, ${inFlight} in flight`, ruled));
  table(rows);
  rmSync(file, { force: true });
  const shown = output("ip -N rule show").match(/ proto 71/g)?.length ?? 0;
  console.log(`Rules in the kernel at the end: ${shown}.`);
}

/** The kernel alone: as many rules by one program that has nothing else to do. */
function kernelAlone(): void {
  const lines: string[] = [];
  for (let index = 0; index < withRules; index++) {
    const address = `10.99.${index >> 8}.${index & 255}`;
    const at = `lookup ${200_000 + index}`;
    lines.push(`rule add pref 10000 from ${address} ${at}`, `rule add pref 20000 to ${address} ${at}`);
    lines.push(`rule add pref 91000 iif lo ${at}`);
  }
  const beganAt = performance.now();
  execFileSync("ip", ["-batch", "-"], { input: lines.join("\n") });
  const seconds = (performance.now() - beganAt) / 1_000;
  sh("ip rule flush");
  console.log(
    `${lines.length} rules by "ip -batch", 3 each, into an empty list: ${(withRules / seconds).toFixed(0)} times 3 per second.`,
  );
}

async function many(ubus: Ubus, daemons: Daemons, directory: string): Promise<void> {
  const none = { rules: false };
  const request = (wish: JsonObject) => ubus.call("gatehouse.tables", "request", wish, { timeoutMs: 60_000 });
  const release = (wish: JsonObject) => ubus.call("gatehouse.tables", "release", wish, { timeoutMs: 60_000 });
  const rows = [["leases held", "memory MB", "new µs p50", "new with rules µs p50", "restart ms"]];
  let next = 0;
  for (const count of [0, 1_000, held]) {
    const missing = count - next;
    if (missing > 0)
      await drive((index) => request(wishOf(next + index, 5, none)), { width: inFlight, most: missing });
    next = Math.max(next, count);
    const cost = async (purpose: number, more: JsonObject) => {
      const wishes = Array.from({ length: 200 }, (_, index) => wishOf(index, purpose, more));
      const { p50 } = await drive((index) => request(wishes[index]!), { width: 1, most: wishes.length });
      for (const { netmask: _, rules: __, ...key } of wishes) await release(key);
      return p50.toFixed(0);
    };
    const costs = [await cost(6, none), await cost(7, {})];
    const megabytes = daemons.residentMegabytes().toFixed(0);
    await daemons.stopAgent();
    const restartMs = await daemons.startAgent(ubus);
    await request(wishOf(0, 8, none));
    rows.push([String(count), megabytes, ...costs, restartMs.toFixed(0)]);
  }
  table(rows);
  console.log(`Files of ${held} leases: ${readdirSync(join(directory, "tables.d")).length} pieces.`);
}

export async function measureTables(): Promise<void> {
  heading("Leases of routing tables: client → bus → agent → kernel and disk → bus → client");
  buildNetwork();
  kernelAlone();
  const directory = stateDirectory();
  const options = { stateDirectory: directory, more: "config tables 'tables'\n\toption count '65536'\n" };
  for (const measure of [requests, many]) {
    const daemons = new Daemons();
    const ubus = await daemons.startBus();
    try {
      daemons.configure("auto", options);
      await daemons.startAgent(ubus);
      await (measure === requests ? requests(ubus, directory) : many(ubus, daemons, directory));
    } finally {
      await daemons.stop();
      ubus.close();
      rmSync(directory, { recursive: true, force: true });
    }
    sh("ip rule flush protocol 71");
  }
}
