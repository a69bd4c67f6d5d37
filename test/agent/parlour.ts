/**
 * The network that discovery is tried on: hosts that talk to all, on two segments, and a third that has none.
 *
 *     br-apps   app 10.31.0.2 fd31::2              br-mute   mum 10.33.0.2 fd33::2 (relays nothing)
 *     br-data   db 10.32.0.2 fd32::2, spy …3       each host on a port of its own, which meets no other
 *
 * The test's own namespace is the router. What the kernel tells goes to isolation and discovery as the agent does it.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { Discovery } from "../../src/agent/discovery.ts";
import { Isolation } from "../../src/isolation/isolation.ts";
import {
  type Backend,
  type InterfaceAddress,
  type Kernel,
  type Link,
  openKernel,
  watchRoute,
} from "../../src/kernel/kernel.ts";
import { type Address, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { openLinux } from "../../src/system/linux.ts";
import { eventually, LineReader, must } from "../lab/children.ts";
import { nativePath } from "../system/until.ts";
import type { Hearing, Say } from "./talker.ts";

export interface Host {
  readonly name: string;
  readonly device: string;
  readonly 4: Address;
  readonly 6: Address;
}

export const address = (text: string): Address => parseAddress(text)!;
const host = (name: string, device: string, [net, last]: readonly [number, number]): Host => ({
  ...{ name, device },
  4: address(`10.${net}.0.${last}`),
  6: address(`fd${net}::${last}`),
});

export const app = host("app", "br-apps", [31, 2]);
export const db = host("db", "br-data", [32, 2]);
export const spy = host("spy", "br-data", [32, 3]);
export const mum = host("mum", "br-mute", [33, 2]);
export const hosts = [app, db, spy, mum];
export const bridges = [
  ["br-apps", 31],
  ["br-data", 32],
  ["br-mute", 33],
] as const;

export const log: string[] = [];
export const system = openLinux({ nativePath, log: (level, line) => void log.push(`${level}: ${line}`) });

/** Runs a line in the router, words split at spaces. */
export const sh = (line: string, input?: readonly string[]): Promise<string> =>
  must(line.split(" "), input ? { input: `${input.join("\n")}\n` } : {});

export class Talker {
  readonly heard: Hearing[] = [];
  readonly #child: ChildProcess;
  readonly ready: Promise<void>;

  constructor({ name, 4: own }: Host, program: string) {
    this.#child = spawn("ip", ["netns", "exec", name, process.execPath, program, "talk", own], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    let begin = (): void => undefined;
    this.ready = new Promise((resolve) => {
      begin = resolve;
    });
    const lines = new LineReader((line) => {
      const told = JSON.parse(line) as Hearing | "listening";
      if (told === "listening") begin();
      else this.heard.push(told);
    });
    this.#child.stdout!.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
  }

  say(say: Omit<Say, "hex">, bytes: Uint8Array): void {
    this.#child.stdin!.write(`${JSON.stringify({ ...say, hex: Buffer.from(bytes).toString("hex") })}\n`);
  }

  /** What was heard with these bytes. */
  with(bytes: Uint8Array): Hearing[] {
    const hex = Buffer.from(bytes).toString("hex");
    return this.heard.filter((each) => each.hex === hex);
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#child.on("exit", () => resolve());
      this.#child.stdin!.end();
    });
  }
}

/** Builds the network, and starts who talks there. */
export async function buildParlour(): Promise<ReadonlyMap<Host, Talker>> {
  const program = join(process.env.TMPDIR!, "talker.cjs");
  const bundled = must([
    join(process.cwd(), "node_modules/.bin/esbuild"),
    join(process.cwd(), "test/agent/talker.ts"),
    ...["--bundle", "--platform=node", "--format=cjs", "--log-level=error", `--outfile=${program}`],
  ]);
  await sh("sysctl -q -p -", [
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.bridge.bridge-nf-call-iptables=0",
    "net.bridge.bridge-nf-call-ip6tables=0",
    // Nobody is asked for before a device has made sure of its own address, which takes seconds.
    "net.ipv6.conf.default.accept_dad=0",
  ]);
  await sh(
    "ip -batch -",
    bridges.flatMap(([device, net]) => raised(device, net)),
  );
  for (const { name, device, 4: four, 6: six } of hosts) {
    await sh("ip -batch -", [
      `netns add ${name}`,
      `link add ${name} type veth peer name eth0 netns ${name}`,
      `link set ${name} master ${device}`,
      `link set ${name} type bridge_slave isolated on`,
      `link set ${name} up`,
    ]);
    await sh(
      `ip netns exec ${name} sysctl -q -w net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0`,
    );
    await sh(`ip -n ${name} -batch -`, [
      "link set lo up",
      `addr add ${four}/24 dev eth0 broadcast +`,
      `addr add ${six}/64 dev eth0 nodad`,
      "link set eth0 up",
      `route add default via ${four.replace(/\d+$/, "1")}`,
      `route add default via ${six.replace(/\d+$/, "1")}`,
    ]);
  }
  await bundled;
  const talkers = new Map(hosts.map((each) => [each, new Talker(each, program)] as const));
  await Promise.all([...talkers.values()].map(({ ready }) => ready));
  return talkers;
}

/** Lines of `ip -batch` that make a bridge with the router's addresses. */
export function raised(device: string, net: number): string[] {
  return [
    `link add ${device} type bridge`,
    `link set ${device} up`,
    `addr add 10.${net}.0.1/24 dev ${device}`,
    `addr add fd${net}::1/64 dev ${device} nodad`,
  ];
}

export interface Router {
  readonly isolation: Isolation;
  readonly discovery: Discovery;
  readonly kernel: Kernel;
  close(): void;
}

/** The rules in force, and everything that the kernel tells told on. */
export async function openRouter(backend: Backend): Promise<Router> {
  const stateDirectory = join(process.env.TMPDIR!, `state-${backend}`);
  const kernel = await openKernel(system, { backend, stateDirectory, lanDevices: [] });
  let state = 1;
  const isolation = new Isolation(system, {
    segments: bridges.map(([device]) => ({
      name: device.slice(3),
      devices: [device],
      isolate: true,
      mdns: device !== "br-mute",
    })),
    services: hosts.map(({ name, device, 4: four, 6: six }) => ({
      ...{ name, segment: device.slice(3), addresses: [four, six] },
    })),
    pool4: parsePrefix("198.18.0.0/15")!,
    pool6: parsePrefix("fd00:6a7e::/64")!,
    draw: (limit) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 2 ** 32) * limit);
    },
    dns: { port4: 5335, port6: 5335 },
    commit: () => kernel.apply("isolation", isolation.plan()),
    onChange: () => void isolation.settled(),
  });
  const discovery = new Discovery(system, isolation);
  const links = new Map<number, Link>();
  const addresses = new Map<string, InterfaceAddress>();
  const own = (ifindex: number) => [...addresses.values()].filter((each) => each.ifindex === ifindex);
  const tell = (ifindex: number) => {
    const link = links.get(ifindex);
    if (!link) return;
    if (!link.up) {
      isolation.linkDown(link.name);
      discovery.remove(ifindex);
      return;
    }
    const ports = [...links.values()].filter(({ master }) => master === ifindex).map(({ name }) => name);
    isolation.linkUp({ device: link.name, addresses: own(ifindex), ports });
    discovery.place(link, own(ifindex));
  };
  const watch = await watchRoute(system, {
    onLink: (change, link) => {
      if (change !== "remove") {
        links.set(link.ifindex, link);
        tell(link.ifindex);
        return;
      }
      links.delete(link.ifindex);
      isolation.linkDown(link.name);
      discovery.remove(link.ifindex);
    },
    onAddress: (change, each) => {
      const key = `${each.ifindex} ${each.address}`;
      if (change === "remove") addresses.delete(key);
      else addresses.set(key, each);
      tell(each.ifindex);
    },
    onNeighbour: (change, { ifindex, address: at, mac }) => {
      const device = links.get(ifindex)?.name;
      if (device === undefined || change === "remove" || mac === undefined) return;
      isolation.seen({ device, address: at, mac, source: "neighbour" });
    },
  });
  await isolation.settled();
  return {
    ...{ isolation, discovery, kernel },
    close() {
      watch.close();
      discovery.close();
      kernel.close();
    },
  };
}

/** Says something again and again until it is heard: hosts do so too, and the first may come too early. */
export async function repeated<T>(
  what: string,
  say: () => void,
  heard: () => T | undefined,
): Promise<NonNullable<T>> {
  let count = 0;
  return eventually(what, () => {
    if (count++ % 30 === 0) say();
    return heard();
  });
}
