/**
 * Services on segments behind the lab's router, each an own host, with the agent keeping them apart.
 *
 *     br-apps  app  (DHCP, by host name)   web (declared addresses)   ─┐
 *     br-iot   cam  (DHCP, by MAC)         lamp (declared addresses)  ─┼─ router ── internet, laptop, camera
 *     br-ops   boss (declared addresses)                              ─┘
 *
 *     const town = await Town.up({ backend: "nft" });
 *     await town.connect("web", ["lamp"]);
 *     await town.passes("web", { kind: "tcp", to: await town.standIn("lamp", 4) });
 *     await town.close();
 *
 * Everything else is the lab's (network.ts). The router's firewall lets through what isolation needs and nothing else
 * of the segments. In each service party.ts serves and tries what it is told to.
 */

import type { ChildProcess } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import type { JsonObject } from "../../src/lib/json.ts";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { Party } from "../kernel/driver.ts";
import type { Outcome, Try } from "../kernel/party.ts";
import { eventually, must } from "./children.ts";
import { bundleProgram, joinBus, Lab } from "./network.ts";
import { type Backend, paths, router, servers } from "./topology.ts";

export interface Segment {
  readonly name: string;
  readonly device: string;
  /** Third octet of its IPv4 network, and hexadecimal group of its IPv6 network. */
  readonly net: number;
}

export const segments = [
  { name: "apps", device: "br-apps", net: 31 },
  { name: "iot", device: "br-iot", net: 32 },
  { name: "ops", device: "br-ops", net: 33 },
] as const satisfies readonly Segment[];

export interface Service {
  readonly name: string;
  readonly segment: Segment;
  readonly mac: string;
  /** By hand; undefined: by DHCP. */
  readonly address4?: string;
  readonly address6: string;
}

function service(name: string, segment: Segment, number: number, isFixed: boolean): Service {
  return {
    ...{ name, segment, mac: `02:31:00:00:${segment.net}:0${number}` },
    ...{ address6: `fd${segment.net}::${number}` },
    ...(isFixed && { address4: `10.${segment.net}.0.${number}` }),
  };
}

export const app = service("app", segments[0], 2, false);
export const web = service("web", segments[0], 3, true);
export const cam = service("cam", segments[1], 2, false);
export const lamp = service("lamp", segments[1], 3, true);
export const boss = service("boss", segments[2], 2, true);
export const services: readonly Service[] = [app, web, cam, lamp, boss];

export const door = { address: `10.${segments[2].net}.0.1`, port: 8080, key: "a key for the lab\n" } as const;
export const keyFile = `${paths.state}/network.key`;
export const dnsPort = 5365;

export interface TownOptions {
  readonly backend?: Backend;
  readonly agent?: boolean;
  /** UCI lines of `config isolation` besides those of the lab. */
  readonly isolation?: readonly string[];
  /** UCI lines of `config service` by its name. */
  readonly services?: Readonly<Record<string, readonly string[]>>;
}

/** What the agent is told. */
export function renderIsolation({ isolation = [], services: more = {} }: TownOptions): string {
  const section = (title: string, lines: readonly string[]) =>
    [`config ${title}`, ...lines.map((line) => `\t${line}`), ""].join("\n");
  return [
    section("isolation 'isolation'", [
      "option enabled '1'",
      `option dns_port '${dnsPort}'`,
      "list upstream '127.0.0.1'",
      `option http '${door.address}:${door.port}'`,
      `option key_file '${keyFile}'`,
      ...isolation,
    ]),
    ...segments.map(({ name, device }) =>
      section(`segment '${name}'`, [
        `list device '${device}'`,
        ...(name === "ops" ? [] : ["option isolate '1'"]),
      ]),
    ),
    ...services.map(({ name, segment, mac, address4, address6 }) =>
      section(`service '${name}'`, [
        `option segment '${segment.name}'`,
        ...(address4 === undefined ? [] : [`list address '${address4}'`, `list address '${address6}'`]),
        ...(name === "cam" ? [`option mac '${mac}'`] : []),
        ...(name === "app" ? ["option hostname 'app'"] : []),
        ...(more[name] ?? []),
      ]),
    ),
  ].join("\n");
}

/**
 * Addresses for who asks; names are the agent's. As some providers do, it also claims a local name, and leads one of
 * the world to a service.
 */
const dnsmasq = [
  ...segments.flatMap(({ device, net }) => [
    `interface=${device}`,
    `dhcp-range=set:${device},10.${net}.0.100,10.${net}.0.199,255.255.255.0,12h`,
  ]),
  `host-record=arbiter,${servers.web.address4}`,
  `host-record=inside.example.net,${lamp.address4},${lamp.address6}`,
];

const devices = segments.map(({ device }) => device);

/** What the router's firewall has to let through, as the agent's README says. */
function renderFirewall(backend: Backend): string {
  if (backend !== "ipset") {
    const from = `iifname { ${devices.map((each) => `"${each}"`).join(", ")} }`;
    return [
      `insert rule inet fw4 forward ${from} ct status dnat accept`,
      `add rule inet fw4 input ${from} udp dport { 67, 547, 5353 } accept`,
      `add rule inet fw4 input ${from} meta l4proto { tcp, udp } th dport ${dnsPort} accept`,
      `add rule inet fw4 input ${from} tcp dport ${door.port} accept`,
      `add rule inet fw4 input ${from} meta l4proto ipv6-icmp accept`,
      "",
    ].join("\n");
  }
  return devices
    .flatMap((device) =>
      ["iptables", "ip6tables"].flatMap((tool) => [
        `${tool} -I FORWARD -i ${device} -m conntrack --ctstate DNAT -j ACCEPT`,
        `${tool} -A INPUT -i ${device} -p udp -m multiport --dports 67,547,5353,${dnsPort} -j ACCEPT`,
        `${tool} -A INPUT -i ${device} -p tcp -m multiport --dports ${dnsPort},${door.port} -j ACCEPT`,
        ...(tool === "ip6tables" ? [`${tool} -A INPUT -i ${device} -p ipv6-icmp -j ACCEPT`] : []),
      ]),
    )
    .join("\n");
}

interface Listed {
  readonly services: readonly {
    name: string;
    state: string;
    addresses: string[];
    standins?: string[];
    privileged?: boolean;
  }[];
  readonly pairs: readonly {
    name: string;
    peer: string;
    state: string;
    direction: string;
    ports?: string[];
  }[];
}

/** Who is where and seen as what, and who may begin to talk to whom: what `gatehouse.isolation list` says. */
export function renderReach({ services: all, pairs }: Listed): string[] {
  const arrows: Readonly<Record<string, string>> = { both: "<->", out: "-->", in: "<--" };
  const who = all.map(({ name, addresses, standins = [], privileged }) => {
    const where = addresses.length > 0 ? addresses.join(" ") : "(nowhere)";
    const seen = standins.length > 0 ? `seen as ${standins.join(" ")}` : "seen by nobody";
    return `  ${name.padEnd(6)} ${where.padEnd(24)} ${seen}${privileged ? ", privileged" : ""}`;
  });
  const what = pairs.map(({ name, peer, state, direction, ports }) => {
    const arrow = arrows[direction] ?? direction;
    return `  ${name.padEnd(6)} ${arrow} ${peer.padEnd(14)} ${ports?.join(" ") ?? "all"}${state === "active" ? "" : `, ${state}`}`;
  });
  return ["services:", ...who, "may talk:", ...(what.length > 0 ? what : ["  nobody to anybody"])];
}

/** What people may try, as `lab exec` takes it. */
export function renderErrands(lab: string | undefined): string[] {
  const exec = `npm run -s lab -- exec ${lab === undefined ? "" : `--name ${lab} `}`;
  return [
    "Try in a second terminal:",
    `  ${exec}web dig lamp`,
    `  ${exec}app dig web.example.net`,
    `  ${exec}router gatehouse call gatehouse.isolation connect '{"name":"boss","peers":["app"]}'`,
    `  ${exec}router gatehouse call gatehouse.isolation disconnect '{"name":"web","peer":"lamp"}'`,
    `  ${exec}router gatehouse call gatehouse.isolation explain '{"from":"web","to":"lamp"}'`,
  ];
}

const batch = (lines: readonly string[]) => ({ input: `${lines.join("\n")}\n` });
const ip = ["ip", "-batch", "-"];

export class Town {
  readonly lab: Lab;
  readonly #options: TownOptions;
  readonly #parties = new Map<string, Party>();
  readonly #macs = new Map(services.map(({ name, mac }) => [name, mac]));
  #ubus: Ubus | undefined;
  readonly #macCounts = new Map<string, number>();

  private constructor(lab: Lab, options: TownOptions) {
    this.lab = lab;
    this.#options = options;
  }

  /** Builds lab and services, and starts the agent in their midst. */
  static async up(options: TownOptions = {}): Promise<Town> {
    const { backend = "auto" } = options;
    const lab = await Lab.up({
      ...{ backend, agent: false, dnsmasq, guests: services.map(({ name }) => name) },
      configuration: renderIsolation(options),
    });
    const town = new Town(lab, options);
    try {
      await town.#build();
    } catch (error) {
      await lab.close();
      throw error;
    }
    return town;
  }

  /** Ends everything. */
  async close(): Promise<void> {
    this.#ubus?.close();
    this.#ubus = undefined;
    await Promise.all([...this.#parties.values()].map((party) => party.close()));
    await this.lab.close();
  }

  // What the agent is asked.

  async call(method: string, args: JsonObject = {}): Promise<Record<string, unknown>> {
    this.#ubus ??= joinBus(paths.bus);
    return (await this.#ubus.call("gatehouse.isolation", method, args)) as Record<string, unknown>;
  }

  async connect(name: string, peers: readonly string[], more: JsonObject = {}): Promise<void> {
    await this.call("connect", { name, peers, ...more });
  }

  /** Who may talk to whom, in lines. */
  async reach(): Promise<string[]> {
    return renderReach((await this.call("list")) as unknown as Listed);
  }

  async disconnect(name: string, peer?: string): Promise<void> {
    await this.call("disconnect", { name, ...(peer !== undefined && { peer }) });
  }

  /** Addresses that the agent knows of a service, and those that stand in for it. */
  async known(name: string): Promise<{ addresses: string[]; standins?: [string, string]; state: string }> {
    const { services: found } = (await this.call("list", { name })) as {
      services: { addresses: string[]; standins?: [string, string]; state: string }[];
    };
    return found[0]!;
  }

  /** Under which address others see a service. Rejects if nobody may. */
  async standIn(name: string, family: 4 | 6): Promise<string> {
    const { standins } = await this.known(name);
    if (!standins) throw new Error(`Cannot tell the stand-in of ${name}: it has none`);
    return standins[family === 4 ? 0 : 1];
  }

  // What services do.

  try(from: string, given: Omit<Try, "id">): Promise<Outcome> {
    return this.#parties.get(from)!.try(given);
  }

  async passes(from: string, given: Omit<Try, "id">): Promise<boolean> {
    return (await this.try(from, given)).passed;
  }

  /** What DNS says to a service: addresses or a name, or in capitals why there are none. */
  async resolve(
    from: string,
    word: string,
    more: { readonly type?: string; readonly over?: "udp" | "tcp"; readonly server?: string } = {},
  ): Promise<readonly string[]> {
    const { server: to = "192.0.2.77", ...rest } = more;
    return (await this.try(from, { kind: "dns", to, word, ...rest })).answers ?? ["SILENCE"];
  }

  /** The address that a service has now. */
  async address(name: string, family: 4 | 6): Promise<string> {
    const text = await this.lab.must(name, ["ip", "-json", `-${family}`, "address", "show", "dev", "eth0"]);
    const [{ addr_info: found }] = JSON.parse(text) as [{ addr_info: { local: string; scope: string }[] }];
    return found.find(({ scope }) => scope === "global")!.local;
  }

  /** A service comes back elsewhere, as a container does: with another MAC, and what DHCP gives it. */
  async restart(name: "app"): Promise<void> {
    const count = (this.#macCounts.get(name) ?? 0) + 1;
    this.#macCounts.set(name, count);
    const mac = `02:31:00:01:00:${count.toString(16).padStart(2, "0")}`;
    this.#macs.set(name, mac);
    const { address6, segment } = app;
    await this.lab.must(
      name,
      ip,
      batch([
        "link set eth0 down",
        "address flush dev eth0",
        `link set eth0 address ${mac}`,
        "link set eth0 up",
        `address add ${address6}/64 dev eth0 nodad`,
        `route replace default via fd${segment.net}::1 dev eth0`,
      ]),
    );
    await this.#lease(app);
    await this.#greet(app);
  }

  /** What the kernels of all services counted of wrong checksums; none if all were right. */
  async damaged(): Promise<string[]> {
    const texts = await Promise.all(
      services.map(({ name }) => this.lab.must(name, ["cat", "/proc/net/snmp", "/proc/net/snmp6"])),
    );
    return texts.flatMap((text, at) => errorsIn(text).map((each) => `${services[at]!.name} ${each}`));
  }

  /** What the agent tells whoever subscribed. */
  listen(handler: (kind: string, data: JsonObject) => void): ReturnType<Ubus["subscribe"]> {
    this.#ubus ??= joinBus(paths.bus);
    return this.#ubus.subscribe("gatehouse.isolation", handler);
  }

  /** Bus and agent, after a reboot. */
  async start(): Promise<void> {
    await this.lab.bus.start();
    await this.lab.agent.start();
  }

  /** A name server that nobody on the segments may know. */
  get foreignNames(): string {
    return servers.names.address4;
  }

  /**
   * Cuts the router's power. What `boot` starts is what there is until the agent is started. Whoever has its address by
   * DHCP asks for one again, as hosts do when their cable comes back.
   */
  async reboot(boot: () => Promise<void>): Promise<void> {
    this.#ubus?.close();
    this.#ubus = undefined;
    await this.lab.must("router", ip, batch(services.map(({ name }) => `link set ${name} netns 1`)));
    await this.lab.reboot(async () => {
      await this.#openFirewall();
      await boot();
    });
    await this.#plug();
    const leasing = services.filter(({ address4 }) => address4 === undefined);
    await Promise.all(leasing.map((each) => this.#lease(each)));
    await Promise.all(services.map((each) => this.#greet(each)));
  }

  async #build(): Promise<void> {
    const program = `${paths.folder}/party.cjs`;
    const bundled = bundleProgram("party", program, "kernel");
    mkdirSync(paths.state, { recursive: true });
    writeFileSync(keyFile, door.key, { mode: 0o600 });
    for (const [index, { name, mac }] of services.entries()) {
      // DHCP writes the service's own resolv.conf.
      mkdirSync(`/etc/netns/${name}`, { recursive: true });
      writeFileSync(`/etc/netns/${name}/resolv.conf`, "nameserver 192.0.2.77\n");
      await must(["ip", "netns", "add", name]);
      const cable = `link add ${name} index ${300 + index} type veth peer name eth0 address ${mac} netns ${name}`;
      await must(["ip", ...cable.split(" ")]);
    }
    const routes = segments.map(({ net }) => `route add fd${net}::/64 via ${router.wan6}`);
    await this.lab.must("internet", ip, batch(routes));
    await this.#openFirewall();
    await this.#plug();
    await Promise.all(services.map((each) => this.#settle(each)));
    await bundled;
    for (const { name } of services) this.#parties.set(name, new Party(name, program));
    for (const party of this.#parties.values()) await party.ready;
    if (this.#options.agent === false) return;
    await this.lab.bus.start();
    await this.lab.agent.start();
    await Promise.all(services.map((each) => this.#greet(each)));
    await eventually("everybody's addresses", async () => {
      const all = await Promise.all(services.map(({ name }) => this.known(name)));
      return all.every(({ addresses }) => addresses.length === 2);
    });
  }

  async #openFirewall(): Promise<void> {
    const { backend = "auto" } = this.#options;
    const argv = backend === "ipset" ? ["sh", "-eu"] : ["nft", "-f", "-"];
    await this.lab.must("router", argv, { input: renderFirewall(backend) });
    await must(["ip", "netns", "exec", "router", "sh", "-c", quiet]);
  }

  /** In a router: bridges, and the services' cables in them. */
  async #plug(): Promise<void> {
    await must(ip, batch(services.map(({ name }) => `link set ${name} netns router`)));
    await this.lab.must(
      "router",
      ip,
      batch([
        ...segments.flatMap(({ device, net }) => [
          `link add ${device} address 02:31:00:00:${net}:01 type bridge forward_delay 0 mcast_snooping 0`,
          `address add 10.${net}.0.1/24 dev ${device}`,
          `address add fd${net}::1/64 dev ${device} nodad`,
        ]),
        ...services.flatMap(({ name, segment }) => [
          `link set ${name} master ${segment.device}`,
          `link set ${name} up`,
        ]),
        ...devices.map((device) => `link set ${device} up`),
      ]),
    );
  }

  async #settle(each: Service): Promise<void> {
    const { name, segment, address4, address6 } = each;
    await this.lab.must(name, ["sh", "-euc", "echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad"]);
    await this.lab.must(
      name,
      ip,
      batch([
        "link set lo up",
        "link set eth0 up",
        `address add ${address6}/64 dev eth0 nodad`,
        `route add default via fd${segment.net}::1`,
        ...(address4 === undefined
          ? []
          : [`address add ${address4}/24 dev eth0`, `route add default via 10.${segment.net}.0.1`]),
      ]),
    );
    if (address4 === undefined) await this.#lease(each);
  }

  async #lease({ name }: Service): Promise<void> {
    const options = `-i eth0 -f -q -n -t 20 -T 1 -x hostname:${name}`.split(" ");
    await this.lab.must(name, ["busybox", "udhcpc", ...options, "-s", paths.dhcpScript]);
  }

  /** Whoever writes to the router is its neighbour. An answer it gets only where nobody is isolated. */
  async #greet({ name, segment }: Service): Promise<void> {
    const to = `fd${segment.net}::1`;
    await this.lab.exec(name, ["ping", "-c", "1", "-W", "0.1", to]);
  }

  /** The program on a host, or what it runs. */
  spawn(host: string, argv: readonly string[]): ChildProcess {
    return this.lab.spawn(host, argv, { stdio: "ignore" });
  }
}

/** Counters of wrong checksums that are not 0: those of snmp are in columns, those of snmp6 in lines. */
function errorsIn(text: string): string[] {
  const rows = text.split("\n");
  const six = rows.filter((row) => /InCsumErrors\s+[1-9]/.test(row));
  const four = rows.flatMap((row, at) => {
    const column = row.split(" ").indexOf("InCsumErrors");
    const value = column < 0 ? "0" : rows[at + 1]!.split(" ")[column]!;
    return value === "0" ? [] : [`${row.split(" ")[0]} ${value}`];
  });
  if (!text.includes("InCsumErrors"))
    throw new Error("Cannot count checksums: the kernel has no such counters");
  return [...six, ...four];
}

/** A bridge's own frames are none of a router's firewall, as OpenWrt has it. */
const quiet =
  "for each in iptables ip6tables arptables; do file=/proc/sys/net/bridge/bridge-nf-call-$each; " +
  "[ ! -e $file ] || echo 0 >$file; done";
