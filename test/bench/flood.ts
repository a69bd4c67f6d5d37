/**
 * New flows by the thousand: how many a second the agent books exactly, and how soon it answers meanwhile.
 *
 * Every packet sent is a flow of its own (a hundred devices, ports counted up, hundreds of far addresses), and
 * the kernel forgets it after two seconds, so that a run has as many ends as beginnings. The baseline is the
 * same flood without the agent: what the kernel itself tracks. A flow is lost if the kernel tracked it and the
 * device's packets in `gatehouse.nodes` don't show it when all is quiet again.
 */

import { spawn } from "node:child_process";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { heading, quantile, table } from "./figure.ts";
import { addDevices, buildNetwork, Daemons, deviceAddress, output, sh, sleep, system } from "./router.ts";

const rates = [5_000, 20_000, 40_000];
const seconds = 4;
const devices = 100;
const servers = 250;
/** The kernel keeps a flow of one packet for so long. */
const lifeSeconds = 2;

/** `--flood RATE`, run in the client's namespace: sends packets of flows nobody has seen. */
export async function flood(rate: number): Promise<void> {
  output("ping -c 1 10.70.0.1");
  const [own] = JSON.parse(output("ip -json link show eth0")) as { ifindex: number; address: string }[];
  const [router] = JSON.parse(output("ip -json neigh show 10.70.0.1")) as { lladdr: string }[];
  const frame = emptyFrame(router!.lladdr, own!.address);
  const { ifindex } = own!;
  const nothing = () => {};
  // A protocol that nobody speaks: nothing is received.
  const handlers = { onMessage: nothing, onOverrun: nothing, onClose: nothing };
  const socket = system.packet({ ifindex, protocol: 0x88b5 }, handlers);
  const beganAt = performance.now();
  let sent = 0;
  while (sent < rate * seconds) {
    const due = Math.min(rate * seconds, Math.floor(((performance.now() - beganAt) / 1000) * rate));
    for (; sent < due; sent++) socket.send(flowOf(frame, sent));
    await sleep(1);
  }
  socket.close();
  console.log(sent / ((performance.now() - beganAt) / 1000));
}

const headerAt = 14;

/** The frame of flow number `index`: device, far address and port counted like the wheels of a clock. */
function flowOf(frame: Buffer, index: number): Buffer {
  const device = index % devices;
  const server = Math.floor(index / devices) % servers;
  const from = deviceAddress(device).split(".").map(Number);
  frame.set(from, headerAt + 12);
  frame.set([10, 90, 0, server], headerAt + 16);
  frame.writeUInt16BE(1024 + (Math.floor(index / devices / servers) % 60_000), headerAt + 20);
  frame.writeUInt16BE(0, headerAt + 10);
  let sum = 0;
  for (let at = headerAt; at < headerAt + 20; at += 2) sum += frame.readUInt16BE(at);
  sum = (sum & 0xffff) + (sum >>> 16);
  frame.writeUInt16BE(~(sum + (sum >>> 16)) & 0xffff, headerAt + 10);
  return frame;
}

/** An Ethernet frame with an empty UDP datagram, to the router. */
function emptyFrame(router: string, client: string): Buffer {
  const bytes = (mac: string) => mac.split(":").map((each) => Number.parseInt(each, 16));
  const ethernet = [...bytes(router), ...bytes(client), 0x08, 0x00];
  const header = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
  return Buffer.from([...ethernet, ...header, 0, 0, 0, 9, 0, 8, 0, 0]);
}

/** Packets of flows that the kernel has tracked as new since this was last asked. */
function takeTracked(): number {
  const text = output("nft -j reset counters table inet bench");
  return Number(/"packets": ?(\d+)/.exec(text)?.[1] ?? Number.NaN);
}

const tracked = () => Number(output("sysctl -n net.netfilter.nf_conntrack_count"));

/** Waits until the kernel has forgotten all flows. */
async function quiet(): Promise<void> {
  for (let attempt = 0; tracked() > 100 && attempt < 100; attempt++) {
    // Whoever lists them clears away those that have expired.
    if (attempt % 10 === 9) output("conntrack -L -o id");
    await sleep(100);
  }
}

/** Packets that the devices have sent, as the agent counts them. */
async function booked(ubus: Ubus): Promise<number> {
  const { nodes } = (await ubus.call("gatehouse.nodes", "list")) as unknown as {
    nodes: { ips: string[]; packets_out: number }[];
  };
  const own = new Set(Array.from({ length: devices }, (_, index) => deviceAddress(index)));
  return nodes
    .filter((node) => node.ips.some((ip) => own.has(ip)))
    .reduce((sum, node) => sum + Number(node.packets_out), 0);
}

/** Milliseconds of one bus call after the other, until `end` resolves. */
async function callUntil(ubus: Ubus, end: Promise<unknown>): Promise<number[]> {
  const times: number[] = [];
  let running = true;
  void end.then(() => {
    running = false;
  });
  while (running) {
    const at = performance.now();
    await ubus.call("spin", "get_blockflow");
    times.push(performance.now() - at);
    await sleep(5);
  }
  return times;
}

const shown = (times: readonly number[]) =>
  times.length === 0
    ? ""
    : `${quantile(times, 0.5).toFixed(1)} / ${quantile(times, 0.99).toFixed(1)} / ${Math.max(...times).toFixed(0)}`;

export async function measureFlood(): Promise<void> {
  heading("New flows a second");
  buildNetwork();
  addDevices(devices);
  sh(`
    sysctl -qw net.netfilter.nf_conntrack_udp_timeout=${lifeSeconds}
    sysctl -qw net.netfilter.nf_conntrack_acct=1
    ip netns exec server nft add table ip bench
    ip netns exec server nft add chain ip bench in { type filter hook prerouting priority -400; }
    ip netns exec server nft add rule ip bench in ip protocol udp drop
    nft add table inet bench
    nft add counter inet bench new
    nft add chain inet bench forward { type filter hook forward priority 10; }
    nft add rule inet bench forward ip protocol udp ct state new counter name new
  `);
  const run = async (rate: number): Promise<number> => {
    const argv = ["netns", "exec", "client", process.execPath, process.argv[1]!, "--flood", String(rate)];
    const child = spawn("ip", argv, { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    child.stdout.on("data", (chunk) => (text += chunk));
    await new Promise((resolve) => child.once("close", resolve));
    return Number(text);
  };
  const rows = [["", "sent/s", "tracked", "booked", "lost", "answer ms p50 / p99 / max", "agent CPU %"]];
  for (const rate of rates) {
    takeTracked();
    const sent = await run(rate);
    rows.push([
      `kernel alone, ${rate.toLocaleString("en")}/s`,
      sent.toFixed(0),
      String(takeTracked()),
      "",
      "",
      "",
      "",
    ]);
    await quiet();
  }
  const daemons = new Daemons();
  const ubus = await daemons.startBus();
  daemons.configure("nft");
  await daemons.startAgent(ubus);
  const idle = await callUntil(ubus, sleep(2_000));
  rows.push(["agent, idle", "", "", "", "", shown(idle), ""]);
  for (const rate of rates) {
    process.stderr.write(`  ${rate} flows a second\n`);
    takeTracked();
    const before = await booked(ubus);
    const cpu = daemons.cpuSeconds();
    const ended = run(rate);
    const times = await callUntil(ubus, ended);
    const share = (daemons.cpuSeconds() - cpu) / seconds;
    await quiet();
    await sleep(2_500);
    const [kernel, agent] = [takeTracked(), (await booked(ubus)) - before];
    rows.push([
      `agent, ${rate.toLocaleString("en")}/s`,
      (await ended).toFixed(0),
      String(kernel),
      String(agent),
      String(kernel - agent),
      shown(times),
      (share * 100).toFixed(0),
    ]);
  }
  const status = (await ubus.call("gatehouse", "status")) as unknown as { senses: { conntrack: unknown } };
  await daemons.stop();
  ubus.close();
  table(rows);
  console.log(`conntrack: ${JSON.stringify(status.senses.conntrack)}`);
}
