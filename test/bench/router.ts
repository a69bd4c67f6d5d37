/**
 * A bench's router: hosts `client` and `server` at its two sides, our bus and agent on it as processes.
 *
 *     client 10.70.0.2, fd70::2 ── br-lan 10.70.0.1/16, fd70::1 │ router │ wan 10.80.0.1, fd80::1 ── server 10.80.0.2, fd80::2
 *
 * Must run in an enclosure, whose own network namespace is the router. Everything under 10.90.0.0/16 is the
 * server too: as many far addresses as a bench wants.
 */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { connectUbus, type Ubus } from "../../src/ubus/ubus.ts";

const root = process.cwd();
export const program = join(root, "dist/gatehouse");
export const busPath = "/run/bench/ubus.sock";
/** SPIN's JSON-RPC. */
export const rpcPath = "/run/bench/rpc.sock";
const configPath = "/run/bench/gatehouse";

export const system: System = openLinux({ nativePath: join(root, "dist/netio.node"), log: () => {} });

/** Runs commands, one a line, words split at blanks. */
export function sh(lines: string): void {
  for (const line of lines
    .split("\n")
    .map((each) => each.trim())
    .filter(Boolean)) {
    const [name, ...args] = line.split(/\s+/);
    execFileSync(name!, args, { stdio: ["ignore", "ignore", "inherit"] });
  }
}

/** What a command line prints, words split at blanks. */
export function output(line: string): string {
  const [name, ...args] = line.split(" ");
  return execFileSync(name!, args, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    maxBuffer: 2 ** 30,
  });
}

export function buildNetwork(): void {
  mkdirSync("/run/bench", { recursive: true });
  for (const [name, value] of [
    ["net/ipv4/ip_forward", "1"],
    ["net/ipv6/conf/all/forwarding", "1"],
    ["net/ipv6/conf/default/accept_dad", "0"],
    ["net/ipv6/conf/all/accept_dad", "0"],
  ]) {
    writeFileSync(`/proc/sys/${name}`, value!);
  }
  sh(`
    ip netns add client
    ip netns add server
    ip link add br-lan type bridge
    ip link add lan0 type veth peer name eth0 netns client
    ip link add wan type veth peer name eth0 netns server
    ip link set lan0 master br-lan up
    ip link set br-lan up
    ip link set wan up
    ip addr add 10.70.0.1/16 dev br-lan
    ip addr add fd70::1/64 dev br-lan nodad
    ip addr add 10.80.0.1/24 dev wan
    ip addr add fd80::1/64 dev wan nodad
    ip route add 10.90.0.0/16 via 10.80.0.2
    ip -n client link set lo up
    ip -n client link set eth0 up
    ip -n client addr add 10.70.0.2/16 dev eth0
    ip -n client addr add fd70::2/64 dev eth0 nodad
    ip -n client route add default via 10.70.0.1
    ip -n client route add default via fd70::1
    ip -n server link set lo up
    ip -n server link set eth0 up
    ip -n server addr add 10.80.0.2/24 dev eth0
    ip -n server addr add fd80::2/64 dev eth0 nodad
    ip -n server route add local 10.90.0.0/16 dev lo
    ip -n server route add default via 10.80.0.1
    ip -n server route add default via fd80::1
  `);
}

/** Devices beside `client`: permanent neighbours of the LAN, 10.70.1.0 upwards. */
export function addDevices(count: number): void {
  const lines: string[] = [];
  for (let index = 0; index < count; index++) {
    const bytes = [index >> 8, index & 255];
    const mac = `02:70:00:01:${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(":")}`;
    lines.push(`neigh replace ${deviceAddress(index)} lladdr ${mac} dev br-lan nud permanent`);
  }
  execFileSync("ip", ["-batch", "-"], { input: lines.join("\n") });
}

export function deviceAddress(index: number): string {
  return `10.70.${1 + (index >> 8)}.${index & 255}`;
}

export interface ConfigureOptions {
  /** Of the broker; none is told of anything by default. */
  readonly mqttPort?: number;
  /** Emptied; default: in memory. */
  readonly stateDirectory?: string;
  /** UCI text that follows. */
  readonly more?: string;
}

export class Daemons {
  readonly #children: ChildProcess[] = [];
  agent: ChildProcess | undefined;

  async startBus(): Promise<Ubus> {
    this.#children.push(spawn(program, ["-s", busPath, "bus"], { stdio: ["ignore", "ignore", "inherit"] }));
    const ubus = connectUbus(system, { path: busPath });
    await ubus.ready();
    return ubus;
  }

  configure(backend: string, options: ConfigureOptions = {}): void {
    const { mqttPort, stateDirectory = "/run/bench/state", more = "" } = options;
    rmSync(stateDirectory, { recursive: true, force: true });
    writeFileSync(
      configPath,
      `config gatehouse 'main'
	option state_dir '${stateDirectory}'
	option run_dir '/run/bench/run'
	option backend '${backend}'
	option rpc_socket '${rpcPath}'
	list lan_device 'br-lan'
	list wan_device 'wan'
config mqtt 'mqtt'
	option enabled '${mqttPort === undefined ? 0 : 1}'
	option port '${mqttPort ?? 1883}'
${more}`,
    );
  }

  /** Starts the agent; resolves with the milliseconds until it answered its first call. */
  async startAgent(ubus: Ubus): Promise<number> {
    let answered: (() => void) | undefined;
    const done = new Promise<void>((resolve) => {
      answered = resolve;
    });
    const watch = ubus.listen("ubus.object.add", (_, data) => {
      if (data.path === "gatehouse") void ubus.call("gatehouse", "status").then(() => answered?.());
    });
    await watch.done;
    const beganAt = performance.now();
    this.agent = spawn(program, ["-s", busPath, "run", "-c", configPath], {
      stdio: "ignore",
    });
    await done;
    const elapsedMs = performance.now() - beganAt;
    watch.cancel();
    while (!(await ubus.call("gatehouse", "status")).ready) await sleep(20);
    return elapsedMs;
  }

  async stopAgent(): Promise<void> {
    const { agent } = this;
    if (!agent) return;
    this.agent = undefined;
    await new Promise((resolve) => {
      agent.once("exit", resolve);
      agent.kill("SIGTERM");
    });
  }

  residentMegabytes(): number {
    const status = readFileSync(`/proc/${this.agent!.pid}/status`, "utf8");
    return Number(/VmRSS:\s+(\d+)/.exec(status)![1]) / 1024;
  }

  /** Processor time that the agent has used, user and system. */
  cpuSeconds(): number {
    const fields = readFileSync(`/proc/${this.agent!.pid}/stat`, "utf8").split(") ")[1]!.split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }

  async stop(): Promise<void> {
    await this.stopAgent();
    for (const child of this.#children) child.kill("SIGTERM");
  }
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
