/**
 * What isolation costs: TCP throughput and new connections per second through a translated pair, with 1 to 10,000
 * connected pairs, beside plain routing with connection tracking, which every router with a firewall has; and how
 * long one route takes to be added to them, and a flush to be repaired. Variants take turns, so that a machine that
 * gets slower is slower for all of them.
 */

import { spawn } from "node:child_process";
import { connect, createServer } from "node:net";
import { emptyIsolation, type IsolationPlan, openKernel, type Route } from "../../src/kernel/kernel.ts";
import { type Address, decodeAddress, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { heading, median, spread, table } from "./figure.ts";
import { measureRepairs, measureRoutes } from "./isolationrepair.ts";
import { buildNetwork, sh, sleep, system } from "./router.ts";

const rounds = 3;
const seconds = 2;
const sizes = [1, 100, 10_000];
const port = 8090;
const lanes = 16;
const real = parseAddress("10.80.0.2")!;
/** A rule that has the kernel track connections, and does nothing else. */
const tracking =
  "table inet bench { chain f { type filter hook forward priority 0; ct state new counter; }\n}\n";

const numbered = (first: number, second: number, number: number): Address =>
  decodeAddress(Uint8Array.of(first, second + (number >>> 16), (number >>> 8) & 255, number & 255), 0, 4);

/** The measured pair, and as many others as it takes. */
function planOf(pairs: number): IsolationPlan {
  const routes: Route[] = [];
  for (let number = 0; number < pairs; number++) {
    const [source, target] =
      number === 0
        ? [parseAddress("10.70.0.2")!, real]
        : [numbered(10, 71, number), numbered(10, 72, number)];
    const [standin, sourceStandin] = [numbered(198, 18, 2 * number + 2), numbered(198, 18, 2 * number + 3)];
    routes.push(
      { device: "br-lan", source, standin, target, targetDevice: "wan", sourceStandin },
      {
        device: "wan",
        source: target,
        standin: sourceStandin,
        target: source,
        targetDevice: "br-lan",
        sourceStandin: standin,
      },
    );
  }
  const segment = { dns: { port4: 5335, port6: 5335 }, dropEncryptedDns: true, mdns: false };
  return {
    ...emptyIsolation,
    segments: [
      {
        ...segment,
        name: "near",
        devices: ["br-lan"],
        prefixes: [parsePrefix("10.70.0.0/16")!, parsePrefix("10.71.0.0/16")!],
      },
      {
        ...segment,
        name: "far",
        devices: ["wan"],
        prefixes: [parsePrefix("10.80.0.0/24")!, parsePrefix("10.72.0.0/16")!],
      },
    ],
    pools: [parsePrefix("198.18.0.0/15")!],
    routes,
  };
}

interface Load {
  readonly gigabits: number;
  readonly connections: number;
}

async function measure(to: string): Promise<Load> {
  const enter = ["ip", "netns", "exec", "client"];
  const tcp = JSON.parse(await text([...enter, "iperf3", "-c", to, "-J", "-t", String(seconds)]));
  if (tcp.error) throw new Error(tcp.error);
  const dialled = await text([...enter, process.execPath, process.argv[1]!, "--dial", to]);
  return { gigabits: tcp.end.sum_received.bits_per_second / 1e9, connections: Number(dialled) };
}

/** `--answer`: accepts connections and ends them. */
export function answerCalls(): void {
  createServer((socket) => {
    socket.on("error", () => {});
    socket.end("x");
  }).listen(port, real, 1024);
}

/** `--dial HOST`: opens connections, one after the other in some lanes; prints how many a second. */
export async function dial(host: string): Promise<void> {
  const endsAt = performance.now() + seconds * 1000;
  let count = 0;
  const lane = async () => {
    while (performance.now() < endsAt) {
      await new Promise<void>((resolve) => {
        const socket = connect(port, host);
        socket.on("data", () => {});
        socket.on("error", () => {});
        socket.on("close", (failed) => {
          if (!failed) count++;
          resolve();
        });
      });
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  console.log(count / seconds);
}

function text(argv: readonly string[], input = ""): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0]!, argv.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
    let output = "";
    child.stdout.on("data", (chunk) => (output += chunk));
    child.on("error", reject);
    child.on("close", () => resolve(output));
    child.stdin.end(input);
  });
}

export async function measureIsolation(): Promise<void> {
  heading("Isolation: a translated pair beside plain routing");
  buildNetwork();
  const inside = ["ip", "netns", "exec", "server"];
  const helpers = [
    [...inside, "iperf3", "-s"],
    [...inside, process.execPath, process.argv[1]!, "--answer"],
  ].map(([program, ...args]) => spawn(program!, args, { stdio: "ignore" }));
  await sleep(1_000);
  const standin = planOf(1).routes[0]!.standin;
  const loads = new Map<string, Load[]>();
  const note = async (name: string, to: string) => {
    loads.set(name, [...(loads.get(name) ?? []), await measure(to)]);
  };
  const changes: string[][] = [["pairs", "first load", "one route more", "one route less"]];
  try {
    for (let round = 0; round < rounds; round++) {
      await note("routing alone", real);
      await text(["nft", "-f", "-"], tracking);
      await note("routing, tracked", real);
      sh("nft delete table inet bench");
      for (const size of sizes) {
        const kernel = await openKernel(system, {
          backend: "nft",
          stateDirectory: `/run/bench/isolation-${size}`,
          lanDevices: [],
        });
        const plan = planOf(size);
        const timed = async (given: IsolationPlan) => {
          const beganAt = performance.now();
          await kernel.apply("isolation", given, { durable: false });
          return `${(performance.now() - beganAt).toFixed(0)} ms`;
        };
        const first = await timed(plan);
        const more = await timed({ ...plan, routes: [...plan.routes, planOf(size + 1).routes.at(-1)!] });
        const less = await timed(plan);
        if (round === rounds - 1) changes.push([String(size), first, more, less]);
        await note(`pairs: ${size}`, standin);
        await kernel.clear("isolation");
        kernel.close();
      }
    }
  } finally {
    for (const helper of helpers) helper.kill();
  }
  const base = loads.get("routing, tracked")!;
  const ratio = (list: readonly Load[], of: keyof Load) =>
    (median(list.map((each) => each[of])) / median(base.map((each) => each[of]))).toFixed(2);
  table([
    ["", "Gbit/s", "of tracked", "connections/s", "of tracked"],
    ...[...loads].map(([name, list]) => [
      name,
      spread(
        list.map(({ gigabits }) => gigabits),
        2,
      ),
      ratio(list, "gigabits"),
      spread(list.map(({ connections }) => connections)),
      ratio(list, "connections"),
    ]),
  ]);
  console.log();
  table(changes);
  await measureRoutes();
  await measureRepairs();
}
