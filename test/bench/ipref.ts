/**
 * The data plane of IPREF between two homes, beside plain routing and a kernel vxlan tunnel over the same cables.
 *
 * In two regimes: cables that pass super-packets, as between namespaces, and cables that carry frames with whole
 * checksums, as wires do. Everything shares the processors: sender, receiver, both gateways and the network between
 * them; so a ratio to plain routing says more than a rate. Gateways are this bundle, started again; their processor
 * time includes the kernel's work in their name.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAddress } from "../../src/lib/address.ts";
import {
  AF,
  batchLength,
  inetAddress,
  loadNetio,
  nameLength,
  Ready,
  Row,
  rowLength,
  SOCK,
} from "../../src/system/native.ts";
import { type GatewayPlan, GatewayProcess } from "../lab/gateway.ts";
import { type Home, Homes } from "../lab/homes.ts";
import { heading, median, spread, table } from "./figure.ts";

const nativePath = join(process.cwd(), "dist/netio.node");
const rounds = 3;
const tcpSeconds = 2;
const blastMs = 1_200;
/** A gateway that has begun lately is still having its code compiled, in portions while nothing comes. */
const compileMs = 6_000;
/** Of packets sent, what may be lost for a rate to count as carried. */
const tolerated = 0.005;
const port = 9_099;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A way from mine-laptop to parents-laptop. */
interface Way {
  readonly name: string;
  readonly to4: string;
  readonly to6: string;
}

const ways: readonly Way[] = [
  { name: "plain routing", to4: "10.2.1.10", to6: "fd10:2::10" },
  { name: "vxlan", to4: "10.12.1.10", to6: "fd12:2::10" },
  { name: "ipref", to4: "10.248.2.222", to6: "fd00:240::2:222" },
];

/** Addresses beside those that both homes have, and ways between them: routed, and through a kernel tunnel. */
async function addWays(homes: Homes): Promise<void> {
  const lines: [string, string][] = [];
  const sides = [
    { home: homes.mine, own: 1, other: 2, peer: homes.parents },
    { home: homes.parents, own: 2, other: 1, peer: homes.mine },
  ];
  for (const { home, own, other, peer } of sides) {
    const laptop = home.hosts[0]!.name;
    const add = (host: string, line: string) => lines.push([host, line]);
    add(
      home.name,
      `link add vx0 type vxlan id 7 local ${home.public4} remote ${peer.public4} dstport 4789 dev wan`,
    );
    add(home.name, `address add 172.16.0.${own}/24 dev vx0`);
    add(home.name, `address add fd16::${own}/64 dev vx0 nodad`);
    add(home.name, "link set vx0 up");
    for (const [net4, net6] of [
      ["10", "fd10"],
      ["10.1", "fd12"],
    ] as const) {
      const four = (side: number) => (net4 === "10" ? `10.${side}.1` : `10.1${side}.1`);
      add(home.name, `address add ${four(own)}.1/24 dev br-lan`);
      add(home.name, `address add ${net6}:${own}::1/64 dev br-lan nodad`);
      add(laptop, `address add ${four(own)}.10/24 dev eth0`);
      add(laptop, `address add ${net6}:${own}::10/64 dev eth0 nodad`);
      add(laptop, `route add ${four(other)}.0/24 via ${four(own)}.1 src ${four(own)}.10`);
      add(laptop, `route add ${net6}:${other}::/64 via ${net6}:${own}::1 src ${net6}:${own}::10`);
    }
    add(home.name, `route add 10.1${other}.1.0/24 via 172.16.0.${other}`);
    add(home.name, `route add fd12:${other}::/64 via fd16::${other}`);
    add("internet", `route add 10.${own}.1.0/24 via ${home.public4}`);
    add("internet", `route add fd10:${own}::/64 via ${home.public6}`);
  }
  for (const [host, line] of lines) await homes.must(host, ["ip", ...line.split(" ")]);
}

/** A gateway for IPv4 hosts and one for IPv6 hosts in each router, each with a port of its own. */
function planOf(home: Home, other: Home, lan: 4 | 6): GatewayPlan {
  const laptop = home.hosts[0]!;
  return {
    nativePath,
    encodeNet: lan === 4 ? "10.240.0.0/12" : "fd00:240::/32",
    ownEncoded: lan === 4 ? "10.240.0.1" : "fd00:240::1",
    public: lan === 4 ? home.public4 : home.public6,
    ours: [{ address: lan === 4 ? laptop.address4 : laptop.address6, reference: "b07" }],
    theirs: [
      {
        address: lan === 4 ? "10.248.2.222" : "fd00:240::2:222",
        context: lan === 4 ? other.public4 : other.public6,
        reference: "b07",
      },
    ],
    peers: "all",
    device: `ipref${lan}`,
  };
}

async function startGateways(homes: Homes): Promise<Record<4 | 6, GatewayProcess[]>> {
  const gateways: Record<4 | 6, GatewayProcess[]> = { 4: [], 6: [] };
  for (const lan of [4, 6] as const) {
    for (const [home, other] of [
      [homes.mine, homes.parents],
      [homes.parents, homes.mine],
    ] as const) {
      const argv = [
        process.execPath,
        process.argv[1]!,
        "--gateway",
        JSON.stringify(planOf(home, other, lan)),
      ];
      const gateway = new GatewayProcess(
        homes.spawn(home.name, argv, { stdio: ["pipe", "pipe", "inherit"] }),
      );
      await gateway.ready();
      gateways[lan].push(gateway);
    }
  }
  return gateways;
}

/** What all threads of the gateways have taken, to the nanosecond. */
function cpuSeconds(gateways: readonly GatewayProcess[]): number {
  let nanoseconds = 0;
  for (const { child } of gateways) {
    for (const thread of readdirSync(`/proc/${child.pid}/task`)) {
      const [running] = readFileSync(`/proc/${child.pid}/task/${thread}/schedstat`, "utf8").split(" ");
      nanoseconds += Number(running);
    }
  }
  return nanoseconds / 1e9;
}

async function tcp(homes: Homes, to: string): Promise<{ gigabits: number; perSecond: number }> {
  const argv = ["iperf3", "-c", to, "-t", String(tcpSeconds), "-J"];
  const text = await homes.must("mine-laptop", argv, { limitMs: 60_000 });
  const { end } = JSON.parse(text) as { end: { sum_received: { bytes: number; bits_per_second: number } } };
  return { gigabits: (end.sum_received.bytes * 8) / 1e9, perSecond: end.sum_received.bits_per_second / 1e9 };
}

async function ping(homes: Homes, to: string): Promise<number[]> {
  const text = await homes.must("mine-laptop", ["ping", "-c", "200", "-i", "0.005", to], { limitMs: 60_000 });
  return [...text.matchAll(/time=([\d.]+) ms/g)].map((hit) => Number(hit[1]) * 1_000);
}

/** `--blast TO SIZE RATE`: sends datagrams at a rate, and prints how many went. */
export function blast(to: string, size: number, rate: number): void {
  const netio = loadNetio(nativePath);
  const handle = netio.open(AF.inet, SOCK.datagram, 0);
  netio.connect(handle, inetAddress(parseAddress(to)!, port));
  const arena = new Uint8Array(size).fill(120);
  const rows = new Int32Array(batchLength * rowLength);
  for (let index = 0; index < batchLength; index++) rows[index * rowLength + Row.length] = size;
  const none = new Uint8Array(0);
  const idle = Int32Array.of(handle, 0, 0);
  const beganAt = performance.now();
  let sent = 0;
  for (;;) {
    const elapsedMs = performance.now() - beganAt;
    if (elapsedMs >= blastMs) break;
    const due = Math.min(batchLength, Math.floor((elapsedMs / 1_000) * rate) - sent);
    if (due < 8) netio.wait(idle, 1);
    else sent += Math.max(0, netio.send(handle, arena, none, rows, due));
  }
  process.stdout.write(`${sent}\n`);
}

/** `--count`: counts datagrams until nothing has come for a while. */
export function sink(): void {
  const netio = loadNetio(nativePath);
  const handle = netio.open(AF.inet, SOCK.datagram, 0);
  netio.option(handle, 1, 33, 8 * 1024 * 1024);
  netio.bind(handle, inetAddress(parseAddress("0.0.0.0")!, port));
  const stride = 2_048;
  const arena = new Uint8Array(batchLength * stride);
  const names = new Uint8Array(batchLength * nameLength);
  const rows = new Int32Array(batchLength * rowLength);
  const ready = Int32Array.of(handle, Ready.in, 0);
  process.stdout.write("ready\n");
  let count = 0;
  while (netio.wait(ready, count === 0 ? 5_000 : 400) > 0) {
    count += Math.max(0, netio.receive(handle, arena, stride, names, rows));
  }
  process.stdout.write(`${count}\n`);
}

/** How many packets a second a rate really was, and what share of them was lost. */
async function shoot(
  homes: Homes,
  to: string,
  size: number,
  rate: number,
): Promise<{ perSecond: number; lost: number; count: number }> {
  const own = [process.execPath, process.argv[1]!];
  const receiver = homes.spawn("parents-laptop", [...own, "--count"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let heard = "";
  receiver.stdout!.on("data", (chunk) => {
    heard += chunk;
  });
  while (!heard.includes("ready")) await sleep(5);
  const ended = new Promise((resolve) => receiver.on("close", resolve));
  const sent = Number(await homes.must("mine-laptop", [...own, "--blast", to, String(size), String(rate)]));
  await ended;
  const got = Number(heard.split("\n")[1]);
  return { perSecond: got / (blastMs / 1_000), lost: 1 - got / Math.max(1, sent), count: got };
}

/** The highest rate that arrives, by bisection, and what a packet of it took of the gateways' processors. */
async function carried(
  homes: Homes,
  gateways: readonly GatewayProcess[],
  what: { readonly to: string; readonly size: number },
): Promise<{ perSecond: number; cpuSeconds: number }> {
  let [low, high] = [0, 320_000];
  let best = { perSecond: 0, cpuSeconds: 0 };
  for (let step = 0; step < 6; step++) {
    const rate = (low + high) / 2;
    const before = cpuSeconds(gateways);
    const { perSecond, lost, count } = await shoot(homes, what.to, what.size, rate);
    const taken = cpuSeconds(gateways) - before;
    if (lost <= tolerated) {
      if (perSecond > best.perSecond) best = { perSecond, cpuSeconds: taken / count };
      low = rate;
    } else high = rate;
  }
  return best;
}

const ratio = (value: number, base: number) => `${(value / base).toFixed(2)}`;

async function measureRegime(wire: boolean): Promise<void> {
  heading(`IPREF: ${wire ? "cables with frames, as wires" : "cables with super-packets"}`);
  const homes = await Homes.up({ hosts: ["laptop"], wire });
  await addWays(homes);
  const gateways = await startGateways(homes);
  homes.spawn("parents-laptop", ["iperf3", "-s"], { stdio: "ignore" });
  await sleep(compileMs);
  const rates = new Map<string, number[]>();
  const pings = new Map<string, number[]>();
  const cpu: Record<4 | 6, number[]> = { 4: [], 6: [] };
  const note = (into: Map<string, number[]>, key: string, values: readonly number[]) =>
    into.set(key, [...(into.get(key) ?? []), ...values]);
  for (let round = 0; round < rounds; round++) {
    process.stderr.write(`  round ${round + 1}\n`);
    for (const family of [4, 6] as const) {
      for (const way of ways) {
        const to = family === 4 ? way.to4 : way.to6;
        const before = cpuSeconds(gateways[family]);
        const { gigabits, perSecond } = await tcp(homes, to);
        note(rates, `${way.name} ${family}`, [perSecond]);
        if (way.name === "ipref") cpu[family].push((cpuSeconds(gateways[family]) - before) / gigabits);
      }
    }
    for (const way of ways) note(pings, way.name, await ping(homes, way.to4));
  }
  const packets = new Map<string, { perSecond: number; cpuSeconds: number }>();
  for (const way of ways) {
    process.stderr.write(`  packets, ${way.name}\n`);
    for (const size of [64, 1_400]) {
      packets.set(`${way.name} ${size}`, await carried(homes, gateways[4], { to: way.to4, size }));
    }
  }
  const rows = [
    [
      "",
      "TCP v4 Gbit/s",
      "of plain",
      "TCP v6 Gbit/s",
      "of plain",
      "ping µs",
      "added",
      "64 B kpps",
      "1400 B kpps",
    ],
  ];
  const [plain] = ways;
  for (const { name } of ways) {
    const row = [name];
    for (const family of [4, 6]) {
      const values = rates.get(`${name} ${family}`)!;
      row.push(spread(values, 2), ratio(median(values), median(rates.get(`${plain!.name} ${family}`)!)));
    }
    const trip = median(pings.get(name)!);
    row.push(trip.toFixed(0), (trip - median(pings.get(plain!.name)!)).toFixed(0));
    for (const size of [64, 1_400]) row.push((packets.get(`${name} ${size}`)!.perSecond / 1_000).toFixed(0));
    rows.push(row);
  }
  table(rows);
  const perPacket = (size: number) => (packets.get(`ipref ${size}`)!.cpuSeconds * 1e6).toFixed(1);
  const memory = await Promise.all(gateways[4].map((each) => each.residentBytes()));
  console.log(
    `Both gateways together take ${spread(cpu[4], 3)} s of a processor per Gbit in v4, ${spread(cpu[6], 3)} s in v6,` +
      ` and ${perPacket(64)} µs per packet of 64 bytes, ${perPacket(1_400)} µs of 1400;` +
      ` each holds ${memory.map((bytes) => (bytes / 2 ** 20).toFixed(0)).join(" and ")} MB.`,
  );
  await homes.close();
}

export async function measureIpref(): Promise<void> {
  for (const wire of [false, true]) await measureRegime(wire);
  console.log(
    `The machine's load: ${readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ")}.`,
  );
}
