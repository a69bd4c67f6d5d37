/**
 * Two homes with the same addresses that are IPREF neighbours: an agent in each router, names between them.
 *
 *     const both = await Neighbourhood.up();
 *     await both.homes.must("mine-laptop", ["ping", "-c1", "nas.parents.example"]);
 *     await both.close();
 *
 * The homes are those of homes.ts. Each router has our bus, an agent and dnsmasq, which serves its home and leaves the
 * other home's zone to the agent; `internet` has the name server that says who is published. What a home publishes
 * stands in its hosts file: `laptop`, `nas` and further hosts in the order of the homes. Both routers live in one file
 * system, so each has a folder of its own (`folderOf`), with configuration, state and the bus's socket.
 *
 * Takes /run/neighbourhood and a private copy of /etc, in an enclosure: one neighbourhood at a time in each.
 */

import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { Daemon, must } from "./children.ts";
import { type Home, Homes, type HomesOptions } from "./homes.ts";
import { askOn, joinBus, root, searchPath } from "./network.ts";

export type HomeName = Home["name"];
export const homeNames = ["mine", "parents"] as const;

export interface NeighbourhoodOptions extends HomesOptions {
  /** IP version of the hosts, in both homes or in each. Default 4. */
  readonly lan?: 4 | 6 | Readonly<Record<HomeName, 4 | 6>>;
  /** IP version of the way between the routers. Default 4. */
  readonly tunnel?: 4 | 6;
  /** UCI lines added to `config ipref` of both. */
  readonly ipref?: readonly string[];
  /** Homes whose router has an agent. Default both. */
  readonly agents?: readonly HomeName[];
}

const folder = "/run/neighbourhood";
const etc = `${folder}/etc`;
/** Of the name server in `internet`. */
const nameServer = "192.0.2.53";
const dnsPort = 5_364;

export const encodeNets = { 4: "10.240.0.0/12", 6: "fd0a:6e74::/64" } as const;

export const otherOf = (name: HomeName): HomeName => (name === "mine" ? "parents" : "mine");
export const folderOf = (name: HomeName) => `${folder}/${name}`;
export const busOf = (name: HomeName) => `${folderOf(name)}/ubus.sock`;
export const configurationOf = (name: HomeName) => `${folderOf(name)}/gatehouse.conf`;
export const hostsOf = (name: HomeName) => `${folderOf(name)}/hosts`;
export const mapperOf = (name: HomeName) => `${folderOf(name)}/run/mapper.sock`;

/** Under which reference the host at this place of its home is published. */
export const referenceOf = (index: number): number => 2_711 + 112 * index;

const dnsmasqBasics = ["keep-in-foreground", "user=root", "pid-file=", "log-facility=-", "no-hosts"];

/** What each of the two routers is told. */
export function renderConfiguration(home: Home, other: Home, options: NeighbourhoodOptions): string {
  const { tunnel = 4, ipref = [] } = options;
  const own = folderOf(home.name);
  return `config gatehouse 'main'
	option state_dir '${own}/state'
	option run_dir '${own}/run'
	option lease_file '${own}/leases'
	option dhcp_config '${own}/dhcp'
	option rpc_socket ''
	list lan_device 'br-lan'
	list wan_device 'wan'

config mqtt 'mqtt'
	option enabled '0'

config tables 'tables'
	option socket ''

config ipref 'ipref'
	option enabled '1'
	option gateway_bind '${publicOf(home, tunnel)}'
	option encode_net '${encodeNets[lanOf(home.name, options)]}'
	option hosts '${hostsOf(home.name)}'
	option mapper_socket '${mapperOf(home.name)}'
	list peer '${publicOf(other, tunnel)}'
	list zone '${other.name}.example'
	list upstream '${nameServer}'
	option dns_port '${dnsPort}'
${ipref.map((line) => `\t${line}\n`).join("")}`;
}

/** What to try in it, in a second terminal. */
export function renderTrials(lab: string | undefined): string[] {
  const exec = `npm run -s lab -- exec ${lab === undefined ? "" : `--name ${lab} `}`;
  const ask = (home: HomeName, method: string) =>
    `  ${exec}${home} gatehouse -s ${busOf(home)} call gatehouse.ipref ${method}`;
  return [
    "Both homes are 192.168.1.0/24. Try in a second terminal:",
    `  ${exec}mine-laptop ping nas.parents.example`,
    `  ${exec}parents-laptop ping nas.mine.example`,
    `  ${exec}parents-nas iperf3 -s -D`,
    `  ${exec}mine-laptop iperf3 -c nas.parents.example`,
    `  ${exec}mine dig @127.0.0.1 nas.parents.example`,
    `  ${exec}internet dig @${nameServer} nas.parents.example TXT`,
    `  ${exec}internet tcpdump -ni any udp port 1045`,
    ask("mine", "mappings"),
    ask("parents", "peers"),
    ask("parents", "drops"),
  ];
}

/** A home's hosts file: who is published under which reference. */
export function renderPublished(home: Home, lan: 4 | 6): string {
  const lines = home.hosts.map(
    (host, index) => `${addressOf(host, lan)} ${bare(host.name)} #= pub + ${referenceOf(index)}`,
  );
  return ["127.0.0.1 localhost", ...lines, ""].join("\n");
}

function renderRouterNames(home: Home): string {
  const zone = `${otherOf(home.name)}.example`;
  return [
    ...dnsmasqBasics,
    ...["bind-interfaces", "interface=br-lan", "interface=lo", "no-resolv", "stop-dns-rebind"],
    `server=${nameServer}`,
    `server=/${zone}/127.0.0.1#${dnsPort}`,
    `rebind-domain-ok=/${zone}/`,
    ...home.hosts.map((host) => `host-record=${bare(host.name)}.lan,${host.address4},${host.address6}`),
    "",
  ].join("\n");
}

function renderInternetNames(homes: readonly Home[], tunnel: 4 | 6): string {
  return [
    ...dnsmasqBasics,
    ...["bind-interfaces", `listen-address=${nameServer}`, "no-resolv", "local-ttl=60"],
    ...homes.map((home) => `local=/${home.name}.example/`),
    ...homes.flatMap((home) =>
      home.hosts.map(
        (host, index) =>
          `txt-record=${bare(host.name)}.${home.name}.example,"AA ${publicOf(home, tunnel)} + ${referenceOf(index)}"`,
      ),
    ),
    "",
  ].join("\n");
}

export class Neighbourhood {
  readonly homes: Homes;
  readonly agents: Readonly<Record<HomeName, Daemon>>;
  readonly #buses: Readonly<Record<HomeName, Daemon>>;
  readonly #names: readonly Daemon[];
  readonly #options: NeighbourhoodOptions;
  /** Our place on the bus of each router that was asked. */
  readonly #ubuses = new Map<HomeName, Ubus>();
  #mounted = false;

  private constructor(homes: Homes, options: NeighbourhoodOptions) {
    this.homes = homes;
    this.#options = options;
    const daemon = (host: string, name: string, argv: readonly string[], more: object) =>
      new Daemon({
        name: `${name} of ${host}`,
        argv: ["ip", "netns", "exec", host, ...argv],
        logFile: `${folder}/${host}-${name}.log`,
        env: { ...process.env, PATH: searchPath },
        ...more,
      });
    const gatehouse = (home: HomeName) => [join(root, "dist/gatehouse"), "-s", busOf(home)];
    const bus = (home: HomeName) =>
      daemon(home, "bus", [...gatehouse(home), "bus"], { probe: async () => existsSync(busOf(home)) });
    const agent = (home: HomeName) =>
      daemon(home, "agent", [...gatehouse(home), "run", "-c", configurationOf(home)], {
        ready: / runs, \d+ nodes/,
      });
    this.#buses = { mine: bus("mine"), parents: bus("parents") };
    this.agents = { mine: agent("mine"), parents: agent("parents") };
    this.#names = ["internet", ...homeNames].map((host) =>
      daemon(host, "dnsmasq", ["dnsmasq", `--conf-file=${folder}/${host}-dnsmasq.conf`], {
        ready: /started, version/,
      }),
    );
  }

  /** Builds everything; the agents answer when it resolves. Rejects with what went wrong; then nothing stays. */
  static async up(options: NeighbourhoodOptions = {}): Promise<Neighbourhood> {
    const both = new Neighbourhood(await Homes.up(options), options);
    try {
      await both.#furnish();
      await Promise.all([both.#names[0]!.start(), ...both.#wanted.map((name) => both.#moveIn(name))]);
      return both;
    } catch (error) {
      await both.close();
      throw error;
    }
  }

  /** Calls a method on a router's bus. Rejects with what the bus says. */
  async call(home: HomeName, object: string, method: string, args: object = {}): Promise<never> {
    const ubus = this.#ubuses.get(home) ?? joinBus(busOf(home));
    this.#ubuses.set(home, ubus);
    return (await askOn(ubus, [object, method], args)) as never;
  }

  /** What the command line prints on a router. Rejects unless its status is 0. */
  async cli(home: HomeName, ...args: readonly string[]): Promise<string> {
    return this.homes.must(home, [join(root, "dist/gatehouse"), "-s", busOf(home), ...args]);
  }

  async close(): Promise<void> {
    for (const ubus of this.#ubuses.values()) ubus.close();
    const all = [...Object.values(this.agents), ...Object.values(this.#buses), ...this.#names];
    await Promise.all(all.map((each) => each.kill()));
    await this.homes.close();
    if (this.#mounted) await must(["umount", "--lazy", "/etc"]);
    this.#mounted = false;
    rmSync(folder, { recursive: true, force: true });
  }

  get #wanted(): readonly HomeName[] {
    return this.#options.agents ?? homeNames;
  }

  async #furnish(): Promise<void> {
    const { mine, parents } = this.homes;
    // Hosts need a resolv.conf each: that happens to a copy of /etc.
    mkdirSync(etc, { recursive: true });
    await must(["cp", "--archive", "/etc/.", etc]);
    await must(["mount", "--bind", etc, "/etc"]);
    this.#mounted = true;
    const files: Record<string, string> = {
      "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
      "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
      [`${folder}/internet-dnsmasq.conf`]: renderInternetNames([mine, parents], this.#options.tunnel ?? 4),
      "/etc/netns/internet/resolv.conf": `nameserver ${nameServer}\n`,
    };
    for (const [home, other] of [
      [mine, parents],
      [parents, mine],
    ] as const) {
      const lan = lanOf(home.name, this.#options);
      files[configurationOf(home.name)] = renderConfiguration(home, other, this.#options);
      files[hostsOf(home.name)] = renderPublished(home, lan);
      files[`${folder}/${home.name}-dnsmasq.conf`] = renderRouterNames(home);
      files[`/etc/netns/${home.name}/resolv.conf`] = "nameserver 127.0.0.1\n";
      for (const host of home.hosts) {
        const server = lan === 4 ? home.router4 : home.router6;
        files[`/etc/netns/${host.name}/resolv.conf`] = `nameserver ${server}\n`;
      }
    }
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(join(path, ".."), { recursive: true });
      writeFileSync(path, text);
    }
    await this.homes.must("internet", ["ip", "address", "add", `${nameServer}/32`, "dev", "lo"]);
  }

  async #moveIn(name: HomeName): Promise<void> {
    await this.#names[1 + homeNames.indexOf(name)]!.start();
    await this.#buses[name].start();
    await this.agents[name].start();
  }
}

function lanOf(name: HomeName, { lan = 4 }: NeighbourhoodOptions): 4 | 6 {
  return typeof lan === "number" ? lan : lan[name];
}

function publicOf(home: Home, tunnel: 4 | 6): string {
  return tunnel === 4 ? home.public4 : home.public6;
}

function addressOf(host: Home["hosts"][number], lan: 4 | 6): string {
  return lan === 4 ? host.address4 : host.address6;
}

/** A host's name within its home. */
function bare(name: string): string {
  return name.slice(name.indexOf("-") + 1);
}
