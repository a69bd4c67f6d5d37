/**
 * The lab: a home network with a router, made of namespaces, for tests and for people.
 *
 *     const lab = await Lab.up({ backend: "nft" });
 *     const download = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
 *     await lab.call("spin", "blockflow", { node1: 4, node2: 7, block: 1 });
 *     await download.isCut();
 *     await lab.close();
 *
 * Must run inside an enclosure (enclosure.ts): it takes /run/lab, /run/netns and a private copy of /etc for
 * itself, so there is one lab at a time in each. Hosts are network namespaces `router`, `internet`, `laptop`,
 * `camera` and one for each further client, all sharing one file system except for /etc/resolv.conf. Who has
 * which address is in topology.ts. The router's cables can be pulled and a new router booted on them
 * (`reboot`), while the other hosts and their traffic stay.
 *
 * Everything ends with the enclosure; `close` makes room for the next lab in the same one.
 */

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import type { JsonObject } from "../../src/lib/json.ts";
import { openLinux } from "../../src/system/linux.ts";
import { connectUbus, type Ubus } from "../../src/ubus/ubus.ts";
import { Daemon, must, type Result, type RunOptions, run } from "./children.ts";
import { enclosed } from "./enclosure.ts";
import { Hearing, Stream, type StreamOptions } from "./streams.ts";
import * as topology from "./topology.ts";
import { type Backend, type Client, clientsOf, paths, servers } from "./topology.ts";

export interface LabOptions {
  /** What the agent is told to use; "ipset" also gives the router a firewall in iptables instead of nft. */
  readonly backend?: Backend;
  /** Masquerade IPv4 on wan. Default true; without, internet has a route back to the LAN. */
  readonly nat?: boolean;
  /** Names of clients besides laptop and camera. */
  readonly clients?: readonly string[];
  /** Start our bus and the agent. Default true. */
  readonly agent?: boolean;
  /** UCI text added to the router's /etc/config/gatehouse. */
  readonly configuration?: string;
  /** Lines added to what dnsmasq in the router is told. */
  readonly dnsmasq?: readonly string[];
  /** Hosts that others build, by name: commands reach them as they do all, and they go with the lab. */
  readonly guests?: readonly string[];
}

/** The project's folder: where package.json is. Tests and the lab are started there. */
export const root = process.cwd();

/** Where commands on the hosts are looked for: `gatehouse` is the built one. */
export const searchPath = [
  join(root, "dist"),
  dirname(process.execPath),
  "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
].join(":");

/** Bundles a program of test/lab, or of another folder of test, into one file. */
export async function bundleProgram(name: string, outfile: string, room = "lab"): Promise<void> {
  // Who was built together with everything else under build/test finds it there, as fresh as itself.
  const built = join(root, "build/test");
  if (process.argv[1]?.startsWith(`${built}/`)) {
    copyFileSync(join(built, room, `${name}.cjs`), outfile);
    return;
  }
  await must([
    join(root, "node_modules/.bin/esbuild"),
    join(root, "test", room, `${name}.ts`),
    "--bundle",
    "--platform=node",
    "--format=cjs",
    "--log-level=error",
    `--outfile=${outfile}`,
  ]);
}

/** How long whoever is asked on a bus may take: nobody is to fail for a machine that is slow. */
const callMs = 60_000;

/** Our place on a bus of a lab. */
export function joinBus(path: string): Ubus {
  const system = openLinux({ nativePath: join(root, "dist/netio.node"), log: () => {} });
  return connectUbus(system, { path, timeoutMs: callMs });
}

/** Asks on a bus, and gives the answer as plain data. */
export async function askOn(
  ubus: Ubus,
  [object, method]: readonly [object: string, method: string],
  args: object = {},
): Promise<Record<string, unknown>> {
  const answer = await ubus.call(object, method, args as JsonObject);
  return JSON.parse(JSON.stringify(answer)) as Record<string, unknown>;
}

const needed = [
  "ip",
  "nft",
  "dnsmasq",
  "mosquitto",
  "busybox",
  "ping",
  "iptables-restore",
  "ip6tables-restore",
];

/** How long an agent that starts may take for the answer that it is ready; then it is asked again. */
const probeMs = 2_000;

/** What a reboot of the router wipes, besides the leases. */
const volatile = [paths.run, paths.rpc, dirname(paths.bus)];

function enter(host: string, argv: readonly string[]): string[] {
  return ["ip", "netns", "exec", host, ...argv];
}

function environment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: searchPath };
}

/** Whether somebody listens on a unix socket. */
function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on("error", () => resolve(false));
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/** Keeps a script under /run/lab for readers, and runs it on a host or in the enclosure itself. */
async function runScript(name: string, text: string, host?: string): Promise<void> {
  const path = `${paths.folder}/${name}.sh`;
  writeFileSync(path, text);
  const argv = ["sh", "-eu", path];
  await must(host === undefined ? argv : enter(host, argv));
}

async function pidsOf(host: string): Promise<number[]> {
  const text = await must(["ip", "netns", "pids", host]);
  return text.split("\n").filter(Boolean).map(Number);
}

async function deleteHost(host: string): Promise<void> {
  for (const pid of await pidsOf(host)) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has ended by itself meanwhile.
    }
  }
  await must(["ip", "netns", "delete", host]);
}

export class Lab {
  readonly clients: readonly Client[];
  /** Our ubusd in the router. */
  readonly bus: Daemon;
  /** The agent in the router. `agent.kill()` is kill -9; `agent.start()` waits until it answers. */
  readonly agent: Daemon;
  /** mosquitto in the router. */
  readonly broker: Daemon;
  readonly #options: LabOptions;
  readonly #lanNames: Daemon;
  readonly #internetNames: Daemon;
  readonly #server: Daemon;
  #mounted = false;
  readonly #children = new Set<ChildProcess>();
  readonly #streams = new Set<Stream>();
  readonly #hearing = new Hearing();
  /** Made with the first call, and anew after a reboot. */
  #ubus: Ubus | undefined;

  private constructor(options: LabOptions) {
    this.#options = options;
    this.clients = clientsOf(options.clients ?? []);
    const daemon = (host: string, name: string, argv: readonly string[], more: object) =>
      new Daemon({
        name,
        argv: enter(host, argv),
        logFile: `${paths.folder}/${name}.log`,
        env: environment(),
        ...more,
      });
    const file = (name: string) => `${paths.folder}/${name}`;
    const dnsmasq = (name: string) => ["dnsmasq", `--conf-file=${file(name)}.conf`];
    this.#lanNames = daemon("router", "dnsmasq", dnsmasq("dnsmasq"), { ready: /started, version/ });
    this.#internetNames = daemon("internet", "ns", dnsmasq("ns"), { ready: /started, version/ });
    this.broker = daemon("router", "mosquitto", ["mosquitto", "-c", file("mosquitto.conf")], {
      ready: /mosquitto version .* running/,
    });
    const addresses = Object.values(servers).flatMap((each) => [each.address4, each.address6]);
    this.#server = daemon("internet", "server", [process.execPath, paths.peer, "serve", ...addresses], {
      ready: /^serving$/m,
      onLine: (line: string) => this.#hearing.push(line),
    });
    const gatehouse = [join(root, "dist/gatehouse"), "-s", paths.bus];
    const isReady = async () => {
      // A call that an agent took along with it is not answered.
      const status = this.#bus().call("gatehouse", "status", {}, { timeoutMs: probeMs });
      return (await status.catch(() => undefined))?.ready === true;
    };
    this.bus = daemon("router", "bus", [...gatehouse, "bus"], { probe: () => accepts(paths.bus) });
    this.agent = daemon("router", "agent", [...gatehouse, "run", "-c", paths.configuration], {
      probe: isReady,
    });
  }

  /** Builds the network and starts everything in it. Rejects with what is missing; then nothing stays. */
  static async up(options: LabOptions = {}): Promise<Lab> {
    if (!enclosed()) throw new Error("Cannot build the lab: this process is not in an enclosure");
    if (existsSync(paths.folder)) throw new Error("Cannot build the lab: there is one in this enclosure");
    const missing = needed.filter((name) => !searchPath.split(":").some((at) => existsSync(join(at, name))));
    if (missing.length > 0) throw new Error(`Cannot build the lab: ${missing.join(", ")} not installed`);
    const lab = new Lab(options);
    try {
      await lab.#build();
    } catch (error) {
      await lab.close();
      throw error;
    }
    return lab;
  }

  /** Names of all hosts. */
  get hosts(): string[] {
    const guests = this.#options.guests ?? [];
    return ["router", "internet", ...this.clients.map((each) => each.name), ...guests];
  }

  /** Runs a command on a host to its end, without a shell. */
  exec(host: string, argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    return run(this.#enter(host, argv), { env: environment(), ...options });
  }

  /** Like `exec`, but a status other than 0 rejects with what the command said. Gives its stdout. */
  must(host: string, argv: readonly string[], options: RunOptions = {}): Promise<string> {
    return must(this.#enter(host, argv), { env: environment(), ...options });
  }

  /** Starts a command on a host; the process is the command's own. It ends with the lab at the latest. */
  spawn(host: string, argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program, ...args] = this.#enter(host, argv);
    const child = spawn(program!, args, { env: environment(), ...options });
    this.#children.add(child);
    const forget = () => this.#children.delete(child);
    child.on("exit", forget);
    child.on("error", forget);
    return child;
  }

  /** Starts peer.ts on a host. */
  peer(host: string, args: readonly string[], options: SpawnOptions = { stdio: "ignore" }): ChildProcess {
    return this.spawn(host, [process.execPath, paths.peer, ...args], options);
  }

  /** Ids of the processes on a host. */
  async pids(host: string): Promise<number[]> {
    return pidsOf(this.#known(host));
  }

  /** Calls a method on the bus. Rejects with the bus's word unless it answers. */
  call(object: string, method: string, args: object = {}): Promise<Record<string, unknown>> {
    return askOn(this.#bus(), [object, method], args);
  }

  /** Starts traffic and waits until it flows. */
  async stream(options: StreamOptions): Promise<Stream> {
    const id = randomBytes(4).toString("hex");
    const peer = [process.execPath, paths.peer];
    const stream = new Stream(
      { ...options, id, peer },
      (host, argv) => this.#enter(host, argv),
      this.#hearing,
    );
    this.#streams.add(stream);
    await stream.flows();
    return stream;
  }

  /**
   * Cuts the router's power and boots it again: its processes, kernel state and everything under /run are
   * gone, the state directory stays. `boot` runs in the new router when its firewall stands, before it forwards
   * and its cables are in. Bus and agent are down afterwards; dnsmasq and mosquitto run.
   */
  async reboot(boot: () => Promise<void> = async () => {}): Promise<void> {
    await Promise.all([this.agent, this.bus, this.broker, this.#lanNames].map((each) => each.kill()));
    this.#leaveBus();
    await runScript("unplug", topology.renderPlug(this.clients, "out"));
    await deleteHost("router");
    for (const path of [paths.leases, ...volatile]) rmSync(path, { recursive: true, force: true });
    await this.#bootRouter(boot);
  }

  /** Writes the agent's configuration anew; `more` follows the lab's own part. */
  configure(more: string, backend: Backend = this.#options.backend ?? "auto"): void {
    writeFileSync(paths.configuration, topology.renderConfiguration(backend, more));
  }

  /** Ends everything and takes the network down. */
  async close(): Promise<void> {
    await Promise.all([...this.#streams].map((each) => each.end()));
    await this.agent.stop();
    this.#leaveBus();
    const daemons = [this.bus, this.broker, this.#lanNames, this.#internetNames, this.#server];
    await Promise.all(daemons.map((each) => each.stop()));
    for (const child of this.#children) child.kill("SIGKILL");
    for (const host of this.hosts.filter((each) => existsSync(`/run/netns/${each}`))) await deleteHost(host);
    // A router that was never built, or is being booted, leaves its cables behind.
    for (const port of ["wan", ...this.clients.map((each) => each.port)])
      await run(["ip", "link", "delete", port]);
    if (this.#mounted) await must(["umount", "--lazy", "/etc"]);
    this.#mounted = false;
    for (const path of [paths.folder, paths.etc, ...volatile]) rmSync(path, { recursive: true, force: true });
  }

  async #build(): Promise<void> {
    mkdirSync(paths.folder);
    // The lab writes into /etc, and hosts need a resolv.conf each: all of that happens to a copy.
    await must(["cp", "--archive", "/etc/.", paths.etc]);
    await must(["mount", "--bind", paths.etc, "/etc"]);
    this.#mounted = true;
    this.#writeFiles();
    await runScript("cables", topology.renderCables(this.clients));
    await Promise.all([
      bundleProgram("peer", paths.peer),
      this.#bootRouter(async () => {}),
      runScript("internet", topology.renderInternet(this.#nat), "internet"),
    ]);
    await Promise.all([
      this.#internetNames.start(),
      this.#server.start(),
      ...this.clients.map((each) => this.#bootClient(each)),
    ]);
    if (this.#options.agent === false) return;
    await this.bus.start();
    await this.agent.start();
  }

  get #nat(): boolean {
    return this.#options.nat ?? true;
  }

  #writeFiles(): void {
    const files: Record<string, string> = {
      "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
      "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
      "/etc/config/dhcp": topology.renderHosts(this.clients),
      [`${paths.folder}/dnsmasq.conf`]: [
        topology.renderRouterDnsmasq(this.clients),
        ...(this.#options.dnsmasq ?? []),
        "",
      ].join("\n"),
      [`${paths.folder}/ns.conf`]: topology.renderInternetDnsmasq(),
      [`${paths.folder}/mosquitto.conf`]: topology.mosquittoConfiguration,
      [paths.dhcpScript]: topology.dhcpScript,
      ...Object.fromEntries(this.clients.map((each) => [`/etc/netns/${each.name}/resolv.conf`, ""])),
      "/etc/netns/router/resolv.conf": "nameserver 127.0.0.1\nsearch lan\n",
      "/etc/netns/internet/resolv.conf": `nameserver ${servers.names.address4}\n`,
    };
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(path), { recursive: true });
      rmSync(path, { force: true }); // Where it is a link, the link goes, not what it points to.
      writeFileSync(path, text, { mode: path === paths.dhcpScript ? 0o755 : 0o644 });
    }
    this.configure(this.#options.configuration ?? "");
  }

  async #bootRouter(boot: () => Promise<void>): Promise<void> {
    await must(["ip", "netns", "add", "router"]);
    mkdirSync(dirname(paths.bus), { recursive: true });
    if (this.#options.backend === "ipset") {
      for (const [family, program] of [
        [4, "iptables-restore"],
        [6, "ip6tables-restore"],
      ] as const) {
        await this.must("router", [program], { input: topology.renderFw3(family, this.#nat) });
      }
    } else {
      await this.must("router", ["nft", "-f", "-"], { input: topology.renderFw4(this.#nat) });
    }
    // As OpenWrt's init scripts do: the firewall, then what stands beside it, and only then the network.
    await boot();
    await runScript("settings", topology.routerSettings, "router");
    await runScript("plug", topology.renderPlug(this.clients, "in"));
    await runScript("router", topology.renderRouter(this.clients), "router");
    await Promise.all([this.#lanNames.start(), this.broker.start()]);
  }

  async #bootClient(client: Client): Promise<void> {
    await runScript(client.name, topology.renderClient(client), client.name);
    const options = "-i eth0 -f -q -n -t 20 -T 1".split(" ");
    if (client.tellsName) options.push("-x", `hostname:${client.name}`);
    await this.must(client.name, ["busybox", "udhcpc", ...options, "-s", paths.dhcpScript]);
  }

  #bus(): Ubus {
    this.#ubus ??= joinBus(paths.bus);
    return this.#ubus;
  }

  #leaveBus(): void {
    this.#ubus?.close();
    this.#ubus = undefined;
  }

  #known(host: string): string {
    if (!this.hosts.includes(host)) throw new RangeError(`Cannot enter ${host}: no such host in the lab`);
    return host;
  }

  #enter(host: string, argv: readonly string[]): string[] {
    return enter(this.#known(host), argv);
  }
}
