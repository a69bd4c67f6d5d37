/**
 * Two homes that have the same addresses, and an internet between them.
 *
 *     nas, laptop … ── br-lan │ router of "mine"    │ wan ──┐
 *          192.168.1.0/24, fd01::/64                        ├── internet
 *     nas, laptop … ── br-lan │ router of "parents" │ wan ──┘
 *          192.168.1.0/24, fd01::/64
 *
 *     const homes = await Homes.up();
 *     await homes.must("mine-laptop", ["ping", "-c1", "192.168.1.1"]);
 *     await homes.close();
 *
 * Hosts are network namespaces: `internet`, a router named as its home, and `HOME-HOST` for each host. Must run in an
 * enclosure (enclosure.ts); everything ends with it, `close` makes room for the next homes in the same one. Routers
 * forward and have no firewall and no masquerade: what they are to do is for tests to set up. Cables pass
 * super-packets as between namespaces, or frames of the length of the MTU with whole checksums as on a wire
 * (`wire`). The path between the homes goes through `internet`, whose MTU towards a home can be lowered.
 */

import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { must, type Result, type RunOptions, run } from "./children.ts";

export interface HomesOptions {
  /** Of each home. Default "laptop" and "nas". */
  readonly hosts?: readonly string[];
  /** Cables carry frames as a wire does: no super-packets, whole checksums. Default false. */
  readonly wire?: boolean;
}

export interface Home {
  readonly name: "mine" | "parents";
  /** Of the router towards the internet. */
  readonly public4: string;
  readonly public6: string;
  /** Of the router in the home: the same in both. */
  readonly router4: string;
  readonly router6: string;
  readonly hosts: readonly HomeHost[];
}

export interface HomeHost {
  /** Of its namespace. */
  readonly name: string;
  readonly address4: string;
  readonly address6: string;
}

const publics = {
  mine: {
    public4: "198.51.100.97",
    public6: "2001:db8:a::97",
    gateway4: "198.51.100.1",
    gateway6: "2001:db8:a::1",
  },
  parents: {
    public4: "203.0.113.98",
    public6: "2001:db8:b::98",
    gateway4: "203.0.113.1",
    gateway6: "2001:db8:b::1",
  },
} as const;

/** The features of a cable that make it more than a wire. */
const features = ["tx", "rx", "tso", "gso", "gro", "tx-udp-segmentation"];

export function homeOf(name: Home["name"], hosts: readonly string[]): Home {
  return {
    name,
    public4: publics[name].public4,
    public6: publics[name].public6,
    router4: "192.168.1.1",
    router6: "fd01::1",
    hosts: hosts.map((host, index) => ({
      name: `${name}-${host}`,
      address4: `192.168.1.${10 + index}`,
      address6: `fd01::${10 + index}`,
    })),
  };
}

/** The commands of `ip -batch` that build a home; for the enclosure's own namespace. */
export function renderHome(home: Home): string[] {
  const { name } = home;
  const { gateway4, gateway6 } = publics[name];
  return [
    `netns add ${name}`,
    ...home.hosts.map((host) => `netns add ${host.name}`),
    `link add wan netns ${name} type veth peer name ${name} netns internet`,
    `-n internet address add ${gateway4}/24 dev ${name}`,
    `-n internet address add ${gateway6}/64 dev ${name} nodad`,
    `-n internet link set ${name} up`,
    `-n ${name} link set lo up`,
    `-n ${name} link add br-lan type bridge forward_delay 0 mcast_snooping 0`,
    `-n ${name} address add ${home.router4}/24 dev br-lan`,
    `-n ${name} address add ${home.router6}/64 dev br-lan nodad`,
    `-n ${name} link set br-lan up`,
    `-n ${name} address add ${home.public4}/24 dev wan`,
    `-n ${name} address add ${home.public6}/64 dev wan nodad`,
    `-n ${name} link set wan up`,
    `-n ${name} route add default via ${gateway4}`,
    `-n ${name} -6 route add default via ${gateway6}`,
    ...home.hosts.flatMap((host, index) => [
      `link add lan${index} netns ${name} type veth peer name eth0 netns ${host.name}`,
      `-n ${name} link set lan${index} master br-lan up`,
      `-n ${host.name} link set lo up`,
      `-n ${host.name} address add ${host.address4}/24 dev eth0`,
      `-n ${host.name} address add ${host.address6}/64 dev eth0 nodad`,
      `-n ${host.name} link set eth0 up`,
      `-n ${host.name} route add default via ${home.router4}`,
      `-n ${host.name} -6 route add default via ${home.router6}`,
    ]),
  ];
}

export class Homes {
  readonly mine: Home;
  readonly parents: Home;
  readonly #options: HomesOptions;
  readonly #children = new Set<ChildProcess>();

  private constructor(options: HomesOptions) {
    const hosts = options.hosts ?? ["laptop", "nas"];
    this.#options = options;
    this.mine = homeOf("mine", hosts);
    this.parents = homeOf("parents", hosts);
  }

  /** Builds both homes. Rejects with what the kernel refuses; then nothing stays. */
  static async up(options: HomesOptions = {}): Promise<Homes> {
    const homes = new Homes(options);
    try {
      await homes.#build();
    } catch (error) {
      await homes.close();
      throw error;
    }
    return homes;
  }

  /** Names of all namespaces. */
  get hosts(): string[] {
    const all = [this.mine, this.parents].flatMap((home) => [
      home.name,
      ...home.hosts.map((each) => each.name),
    ]);
    return ["internet", ...all];
  }

  exec(host: string, argv: readonly string[], options: RunOptions = {}): Promise<Result> {
    return run(this.#enter(host, argv), options);
  }

  /** Like `exec`, but a status other than 0 rejects with what the command said. Gives its stdout. */
  must(host: string, argv: readonly string[], options: RunOptions = {}): Promise<string> {
    return must(this.#enter(host, argv), options);
  }

  /** Starts a command on a host; the process is the command's own. It ends with the homes at the latest. */
  spawn(host: string, argv: readonly string[], options: SpawnOptions = {}): ChildProcess {
    const [program, ...args] = this.#enter(host, argv);
    const child = spawn(program!, args, options);
    this.#children.add(child);
    const forget = () => this.#children.delete(child);
    child.on("exit", forget);
    child.on("error", forget);
    return child;
  }

  /** What passes from the internet to a home's router, and back, from now on. */
  async narrow(home: Home, mtuBytes: number): Promise<void> {
    await this.must("internet", ["ip", "link", "set", home.name, "mtu", String(mtuBytes)]);
  }

  async close(): Promise<void> {
    for (const child of this.#children) child.kill("SIGKILL");
    for (const host of this.hosts) {
      const { status, stdout } = await run(["ip", "netns", "pids", host]);
      if (status !== 0) continue;
      for (const pid of stdout.split("\n").filter(Boolean).map(Number)) kill(pid);
      await run(["ip", "netns", "delete", host]);
    }
  }

  async #build(): Promise<void> {
    const batch = [
      "netns add internet",
      "-n internet link set lo up",
      ...[this.mine, this.parents].flatMap(renderHome),
    ];
    // One line of a batch cannot change the namespace for itself.
    const groups: { host: string; lines: string[] }[] = [];
    for (const line of batch) {
      const hit = /^-n (\S+) (.*)$/.exec(line);
      const [host, rest] = hit ? [hit[1]!, hit[2]!] : ["", line];
      if (groups.at(-1)?.host === host) groups.at(-1)!.lines.push(rest);
      else groups.push({ host, lines: [rest] });
    }
    for (const { host, lines } of groups) {
      const where = host === "" ? [] : ["-n", host];
      await must(["ip", ...where, "-batch", "-"], { input: `${lines.map(familiar).join("\n")}\n` });
    }
    for (const router of ["internet", "mine", "parents"]) {
      const settings =
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
      await this.must(router, ["sh", "-eu", "-c", settings]);
    }
    if (this.#options.wire) await this.#straighten();
  }

  /** Takes from all cables what a wire doesn't have. */
  async #straighten(): Promise<void> {
    const cables: [string, string][] = [];
    for (const home of [this.mine, this.parents]) {
      cables.push([home.name, "wan"], ["internet", home.name]);
      for (const [index, host] of home.hosts.entries()) {
        cables.push([host.name, "eth0"], [home.name, `lan${index}`]);
      }
    }
    for (const [host, device] of cables) {
      const { status, stderr } = await this.exec(host, [
        "ethtool",
        "-K",
        device,
        ...features.flatMap((each) => [each, "off"]),
      ]);
      if (status !== 0) throw new Error(`Cannot make a wire of ${device}: ${stderr}`);
    }
  }

  #enter(host: string, argv: readonly string[]): string[] {
    if (!this.hosts.includes(host)) throw new RangeError(`Cannot enter ${host}: no such host in the homes`);
    return ["ip", "netns", "exec", host, ...argv];
  }
}

/** `ip -batch` takes the family within the line. */
function familiar(line: string): string {
  return line.startsWith("-6 ") ? line.slice(3) : line;
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended by itself meanwhile.
  }
}
