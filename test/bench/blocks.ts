/**
 * What blocks cost: forwarding with 0 to 10,000 blocked pairs in both back ends, beside a router without any
 * rule and one that only tracks connections; and how long a call to block takes to answer.
 *
 * The traffic measured is that of a device which itself takes part in blocked pairs (its packets are looked up
 * in every structure there is) and it goes to a server that is not blocked. Variants take turns, so that a
 * machine that gets slower is slower for all of them.
 */

import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { heading, median, quantile, table } from "./figure.ts";
import { addDevices, buildNetwork, Daemons, deviceAddress, sh, sleep } from "./router.ts";

const rounds = 3;
const seconds = 2;
const devices = 100;
const pairCounts = [0, 10, 1_000, 10_000];
const backends = ["nft", "ipset"];

interface Load {
  readonly gigabits: number;
  readonly kpps: number;
  readonly connections: number;
}

function text(argv: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0]!, argv.slice(1), { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk) => (output += chunk));
    child.on("error", reject);
    child.on("close", () => resolve(output));
  });
}

async function iperf(
  ...options: string[]
): Promise<{ bits_per_second: number; packets?: number; seconds: number; lost_packets?: number }> {
  const argv = [
    "ip",
    "netns",
    "exec",
    "client",
    "iperf3",
    "-c",
    "10.80.0.2",
    "-J",
    "-t",
    String(seconds),
    ...options,
  ];
  const result = JSON.parse(await text(argv));
  if (result.error) throw new Error(result.error);
  return result.end.sum_received ?? result.end.sum;
}

/** The two ends of the connection test: `--sink` accepts and closes, `--connects` opens one after the other. */
export function serveConnections(): void {
  const { createServer } = require("node:net") as typeof import("node:net");
  createServer((socket) => {
    socket.on("error", () => {});
    socket.end("x");
  }).listen(8080, "10.80.0.2", 1024);
}

export async function openConnections(): Promise<void> {
  const { connect } = require("node:net") as typeof import("node:net");
  const endAt = performance.now() + seconds * 1000;
  let count = 0;
  const lane = async () => {
    while (performance.now() < endAt) {
      await new Promise<void>((resolve) => {
        const socket = connect(8080, "10.80.0.2");
        socket.on("data", () => {});
        socket.on("error", () => {});
        socket.on("close", (failed) => {
          if (!failed) count++;
          resolve();
        });
      });
    }
  };
  await Promise.all(Array.from({ length: 16 }, lane));
  console.log(count / seconds);
}

async function measure(): Promise<Load> {
  const tcp = await iperf();
  const udp = await iperf("-u", "-b", "0", "-l", "64");
  const delivered = (udp.packets ?? 0) - (udp.lost_packets ?? 0);
  const self = ["ip", "netns", "exec", "client", process.execPath, process.argv[1]!];
  const connections = Number(await text([...self, "--connects"]));
  return { gigabits: tcp.bits_per_second / 1e9, kpps: delivered / seconds / 1000, connections };
}

/** Lets devices speak with so many far addresses that each becomes a node. */
export async function makeFarNodes(count: number): Promise<void> {
  const argv = [
    "ip",
    "netns",
    "exec",
    "client",
    process.execPath,
    process.argv[1]!,
    "--knock",
    String(count),
  ];
  await text(argv);
}

export async function knock(count: number): Promise<void> {
  const socket = createSocket("udp4");
  for (let index = 0; index < count; index++) {
    await new Promise((resolve) => socket.send("x", 9, farAddress(index), resolve));
  }
  await new Promise((resolve) => socket.send("x", 9, "10.80.0.2", resolve));
  socket.close();
}

const farAddress = (index: number) => `10.90.${index >> 8}.${index & 255}`;

interface NodeRow {
  readonly id: number;
  readonly ips: readonly string[];
}

/** The ids of the nodes with these addresses, once all are there. */
async function idsOf(ubus: Ubus, addresses: readonly string[]): Promise<number[]> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const { nodes } = (await ubus.call("gatehouse.nodes", "list")) as unknown as { nodes: NodeRow[] };
    const byAddress = new Map(nodes.flatMap((node) => node.ips.map((ip) => [ip, node.id] as const)));
    const ids = addresses.map((address) => byAddress.get(address));
    if (ids.every((id) => id !== undefined)) return ids as number[];
    await sleep(200);
  }
  throw new Error("Cannot find all nodes of the bench");
}

/** Blocks that many pairs, the measuring client's first, 100 calls at a time. */
async function blockPairs(ubus: Ubus, count: number): Promise<void> {
  const far = Math.max(10, Math.ceil(count / devices));
  await makeFarNodes(far);
  const near = ["10.70.0.2", ...Array.from({ length: devices - 1 }, (_, index) => deviceAddress(index))];
  const nearIds = await idsOf(ubus, near);
  const farIds = await idsOf(
    ubus,
    Array.from({ length: far }, (_, index) => farAddress(index)),
  );
  const pairs = nearIds.flatMap((one) => farIds.map((other) => [one, other] as const)).slice(0, count);
  let next = 0;
  const lane = async () => {
    while (next < pairs.length) {
      const [node1, node2] = pairs[next++]!;
      const answer = await ubus.call("spin", "blockflow", { node1, node2, block: 1 }, { timeoutMs: 120_000 });
      if (answer.return !== 0)
        throw new Error(`Cannot block ${node1} and ${node2}: ${String(answer.return)}`);
    }
  };
  await Promise.all(Array.from({ length: 100 }, lane));
}

/** Milliseconds from call to answer for one more pair, blocked and released in turn. */
async function callTimes(ubus: Ubus): Promise<number[]> {
  const [node1] = await idsOf(ubus, ["10.70.0.2"]);
  const [node2] = await idsOf(ubus, ["10.80.0.2"]);
  const times: number[] = [];
  for (let index = 0; index < 20; index++) {
    const at = performance.now();
    await ubus.call("spin", "blockflow", { node1: node1!, node2: node2!, block: 1 - (index % 2) });
    if (index % 2 === 0) times.push(performance.now() - at);
  }
  return times;
}

interface Variant {
  readonly name: string;
  readonly loads: Load[];
  times?: number[];
  enter(): Promise<void>;
  leave(): Promise<void>;
}

export async function measureBlocks(): Promise<void> {
  heading("What blocks cost");
  buildNetwork();
  addDevices(devices);
  const daemons = new Daemons();
  const ubus = await daemons.startBus();
  const servers = [
    spawn("ip", ["netns", "exec", "server", "iperf3", "-s"], { stdio: "ignore" }),
    spawn("ip", ["netns", "exec", "server", process.execPath, process.argv[1]!, "--sink"], {
      stdio: "ignore",
    }),
  ];
  await sleep(500);
  const clean = async () => {
    await daemons.stopAgent();
    sh("nft flush ruleset");
    for (const tool of ["iptables", "ip6tables"]) sh(`${tool} -F\n${tool} -X`);
    sh("ipset destroy");
  };
  const variants: Variant[] = [
    { name: "no rules at all", loads: [], enter: async () => {}, leave: clean },
    {
      name: "connection tracking only",
      loads: [],
      enter: async () =>
        void (await text([
          "nft",
          "table inet bench { chain f { type filter hook forward priority 0; ct state new counter; }; }",
        ])),
      leave: clean,
    },
    ...backends.flatMap((backend) =>
      pairCounts.map((count) => {
        const variant: Variant = {
          name: `${backend}, ${count.toLocaleString("en")} pairs`,
          loads: [],
          async enter() {
            daemons.configure(backend);
            await daemons.startAgent(ubus);
            await blockPairs(ubus, count);
            variant.times ??= await callTimes(ubus);
            await sleep(1_000);
          },
          leave: clean,
        };
        return variant;
      }),
    ),
  ];
  for (let round = 1; round <= rounds; round++) {
    for (const variant of variants) {
      process.stderr.write(`  round ${round} of ${rounds}: ${variant.name}\n`);
      await variant.enter();
      variant.loads.push(await measure());
      await variant.leave();
    }
  }
  for (const server of servers) server.kill("SIGKILL");
  await daemons.stop();
  ubus.close();
  const of = (variant: Variant, what: keyof Load) => median(variant.loads.map((load) => load[what]));
  const ratio = (variant: Variant, what: keyof Load) =>
    (of(variant, what) / of(variants[0]!, what)).toFixed(2);
  table([
    [
      "",
      "TCP Gbit/s",
      "of none",
      "UDP 64 B kpps",
      "of none",
      "new conn/s",
      "of none",
      "call→answer ms p50 / max",
    ],
    ...variants.map((variant) => [
      variant.name,
      of(variant, "gigabits").toFixed(2),
      ratio(variant, "gigabits"),
      of(variant, "kpps").toFixed(0),
      ratio(variant, "kpps"),
      of(variant, "connections").toFixed(0),
      ratio(variant, "connections"),
      variant.times
        ? `${quantile(variant.times, 0.5).toFixed(0)} / ${Math.max(...variant.times).toFixed(0)}`
        : "",
    ]),
  ]);
}
