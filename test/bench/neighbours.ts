/**
 * Neighbours on the real kernel: what a hit costs, alone and while a thousand dead addresses are asked for; how long
 * a first resolution takes; how soon a host that comes up is found by one who keeps asking; what forged answers
 * leave behind.
 */

import type { Address, Mac } from "../../src/lib/address.ts";
import { encodeArpReply } from "../../src/lib/arp.ts";
import { build, clean, forgeMany, host4, host6, ip, type Open, open, resolve } from "../neighbours/switch.ts";
import { heading, quantile, spread, table } from "./figure.ts";

const hitMs = 2_000;
const firstTimes = 100;
const dead = 1_000;
const comebacks = 10;
const forged = 100_000;

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

/** Calls one after the other for a while, each with the turn of the event loop that it waits for; microseconds. */
async function drive(call: () => Promise<unknown>, until: () => boolean): Promise<number[]> {
  const latencies: number[] = [];
  while (!until()) {
    const at = performance.now();
    await new Promise((done) => setImmediate(done));
    await call();
    latencies.push((performance.now() - at) * 1_000);
  }
  return latencies;
}

function row(name: string, latencies: readonly number[]): string[] {
  const perSecond = (latencies.length / latencies.reduce((sum, each) => sum + each, 0)) * 1e6;
  const cells = [
    quantile(latencies, 0.5),
    quantile(latencies, 0.99),
    latencies.reduce((most, each) => Math.max(most, each), 0),
  ];
  return [name, perSecond.toFixed(0), ...cells.map((each) => each.toFixed(1))];
}

async function hits(on: Open): Promise<void> {
  const end = () => {
    const endAt = performance.now() + hitMs;
    return () => performance.now() > endAt;
  };
  await resolve(on, host4);
  const ifindex = on.route.linkByName("lan")!.ifindex;
  const rows = [["", "per second", "p50 µs", "p99 µs", "longest µs"]];
  rows.push(row("a call that does nothing", await drive(async () => undefined, end())));
  rows.push(row("a question to the kernel", await drive(() => on.steering.read(ifindex, host4), end())));
  const hit = async () => {
    const outcome = await resolve(on, host4);
    if (outcome.kind !== "found") throw new Error("a hit was none");
  };
  rows.push(row("a hit", await drive(hit, end())));
  ip("addr add 10.66.0.1/16 dev lan");
  await sleep(200);
  let left = dead;
  const misses = Array.from({ length: dead }, (_, index) =>
    resolve(on, `10.66.${1 + (index >> 8)}.${index & 255}` as Address).then(() => left--),
  );
  rows.push(row(`a hit, while ${dead} dead addresses are asked for`, await drive(hit, () => left < dead)));
  await Promise.all(misses);
  ip("addr del 10.66.0.1/16 dev lan");
  table(rows);
  const perSecond =
    200_000 /
    (await timed(async () => {
      for (let index = 0; index < 200_000; index++) await hit();
    }));
  console.log(`Without a turn of the event loop for each: ${perSecond.toFixed(0)} hits per second.`);
}

async function timed(run: () => Promise<void>): Promise<number> {
  const at = performance.now();
  await run();
  return (performance.now() - at) / 1_000;
}

async function first(): Promise<void> {
  const rows = [["", "p50 µs", "p99 µs"]];
  for (const [name, address, byPacket] of [
    ["ARP, by the kernel", host4, false],
    ["NDP, by the kernel", host6, false],
    ["ARP, by packets", host4, true],
    ["NDP, by packets", host6, true],
  ] as const) {
    const latencies: number[] = [];
    for (let time = 0; time < firstTimes; time++) {
      // Each on neighbours of its own: nobody is asked twice within a second.
      const fresh = await open();
      ip("neigh flush dev lan nud all");
      const at = performance.now();
      await resolve(fresh, address, { byPacket });
      latencies.push((performance.now() - at) * 1_000);
      fresh.neighbours.close();
      fresh.steering.close();
      fresh.route.close();
    }
    rows.push([name, quantile(latencies, 0.5).toFixed(0), quantile(latencies, 0.99).toFixed(0)]);
  }
  table(rows);
}

async function comeback(on: Open): Promise<void> {
  const delays: number[] = [];
  for (let time = 0; time < comebacks; time++) {
    ip(`-n far addr del ${host4}/24 dev eth0`);
    ip("neigh flush dev lan nud all");
    while (on.neighbours.get("lan", host4)) await sleep(10);
    const failed = await resolve(on, host4);
    if (failed.kind !== "failed") throw new Error("resolved a host that is away");
    const upAt = performance.now() + 1_000 + 173 * time;
    let isUp = false;
    for (;;) {
      if (!isUp && performance.now() >= upAt) {
        ip(`-n far addr add ${host4}/24 dev eth0`);
        isUp = true;
        delays.push(-performance.now());
      }
      const outcome = await resolve(on, host4, { timeoutMs: 200 });
      if (outcome.kind === "found") break;
      await sleep(20);
    }
    delays[time]! += performance.now();
  }
  console.log(
    `A host comes up, asked for all the time: found after ${spread(delays)} ms, ${comebacks} times.`,
  );
}

async function forgeries(on: Open): Promise<void> {
  const waiting = resolve(on, "192.0.2.66" as Address, { byPacket: true, timeoutMs: 60_000 });
  const from = "02:00:00:00:00:66" as Mac;
  const packets = Array.from({ length: forged }, (_, index) =>
    encodeArpReply({
      ...{ senderMac: from, target: "192.0.2.1" as Address },
      sender: `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}` as Address,
    }),
  );
  global.gc?.();
  const before = process.memoryUsage().heapUsed;
  const at = performance.now();
  await forgeMany(packets, from, "02:00:00:00:00:01" as Mac);
  const seconds = (performance.now() - at) / 1_000;
  await waiting;
  global.gc?.();
  const grownKb = (process.memoryUsage().heapUsed - before) / 1_024;
  const { entries, packets: drops } = on.neighbours.status;
  console.log(
    `${forged} forged answers in ${seconds.toFixed(1)} s while something is asked for: ${JSON.stringify(drops)}, ` +
      `${entries} entries, heap ${grownKb < 0 ? "" : "+"}${grownKb.toFixed(0)} kB.`,
  );
}

export async function measureNeighbours(): Promise<void> {
  heading("Neighbours: who has this address");
  build();
  const on = await open();
  await hits(on);
  await first();
  await comeback(on);
  await forgeries(on);
  clean();
}
