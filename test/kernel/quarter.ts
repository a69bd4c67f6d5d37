/**
 * The network that isolation is tried on: five services on three segments, and an internet.
 *
 *     br-apps   app 10.21.0.2 fd21::2, web …3 (each an own port)       wan   internet 198.51.100.10, 2001:db8::10
 *     br-data   db  10.22.0.2 fd22::2, log …3
 *     thing     cam 10.23.0.2 fd23::2 (a veth without a bridge)
 *
 * The test's own namespace is the router, which forwards everything: what is stopped is stopped by the plan.
 */

import { join } from "node:path";
import * as assert from "uvu/assert";
import {
  answerer,
  emptyIsolation,
  type IsolationPlan,
  isolatedOf,
  type Ports,
  type Route,
  type Segment,
} from "../../src/kernel/kernel.ts";
import { type Address, decodeAddress, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { eventually } from "../lab/children.ts";
import { bundleProgram } from "../lab/network.ts";
import { Party } from "./driver.ts";
import type { Outcome, Try } from "./party.ts";
import { sh } from "./street.ts";

export interface Service {
  readonly name: string;
  readonly device: string;
  readonly 4: Address;
  readonly 6: Address;
}

const address = (text: string) => parseAddress(text)!;

function service(name: string, device: string, at: readonly [net: number, host: number]): Service {
  const [net, host] = at;
  return { name, device, 4: address(`10.${net}.0.${host}`), 6: address(`fd${net}::${host}`) };
}

export const app = service("app", "br-apps", [21, 2]);
export const web = service("web", "br-apps", [21, 3]);
export const db = service("db", "br-data", [22, 2]);
export const log = service("log", "br-data", [22, 3]);
export const cam = service("cam", "thing", [23, 2]);
export const services = [app, web, db, log, cam];
export const internet = { name: "internet", 4: address("198.51.100.10"), 6: address("2001:db8::10") };
export const dnsPort = 5335;

const nets = [
  ["br-apps", 21],
  ["br-data", 22],
  ["thing", 23],
] as const;

/** Segments without routes. */
export const closed: IsolationPlan = {
  ...emptyIsolation,
  segments: nets.map(([device, net]) => ({
    name: device.replace("br-", ""),
    devices: [device],
    prefixes: [parsePrefix(`10.${net}.0.0/24`)!, parsePrefix(`fd${net}::/64`)!],
    dns: { port4: dnsPort, port6: dnsPort },
    dropEncryptedDns: true,
    mdns: false,
  })),
  pools: [parsePrefix("198.18.0.0/15")!, parsePrefix("fd00:6a7e::/64")!],
  guards: {
    isolatedPorts: services.filter(({ device }) => device !== "thing").map(({ name }) => name),
    proxyArp: ["br-apps", "br-data"],
  },
};

/** Whom `from` writes to when it means `to`, if they are connected. */
export function standinOf(from: Service, to: { readonly name: string }, family: 4 | 6): Address {
  const number =
    services.indexOf(from) * 16 + [...services.map(({ name }) => name), "internet"].indexOf(to.name);
  return address(family === 4 ? `198.18.0.${number + 1}` : `fd00:6a7e::${(number + 1).toString(16)}`);
}

/** Both families' routes by which one may begin to talk to another. */
export function routes(from: Service, to: Service, ports?: readonly Ports[]): Route[] {
  return ([4, 6] as const).map((family) => ({
    device: from.device,
    source: from[family],
    standin: standinOf(from, to, family),
    target: to[family],
    targetDevice: to.device,
    sourceStandin: standinOf(to, from, family),
    ...(ports ? { ports } : {}),
  }));
}

export function plan(list: readonly (readonly [Service, Service, (readonly Ports[])?])[]): IsolationPlan {
  return { ...closed, routes: list.flatMap(([from, to, ports]) => routes(from, to, ports)) };
}

/** Many pairs of IPv4, both ways, between two segments. */
export function crowd(pairs: number): IsolationPlan {
  const at = (base: number, number: number) =>
    decodeAddress(
      Uint8Array.of((base >>> 24) & 255, (base >>> 16) & 255, (number >>> 8) & 255, number & 255),
      0,
      4,
    );
  const standin = (number: number) =>
    decodeAddress(Uint8Array.of(198, 18 + (number >>> 16), (number >>> 8) & 255, number & 255), 0, 4);
  const routes: Route[] = [];
  for (let number = 1; number <= pairs; number++) {
    const [one, other] = [at(0x0a010000, number), at(0x0a140000, number)];
    const [left, right] = [standin(2 * number), standin(2 * number + 1)];
    const [ours, theirs] = ["br-apps", "br-data"] as const;
    routes.push(
      { device: ours, source: one, standin: left, target: other, targetDevice: theirs, sourceStandin: right },
      { device: theirs, source: other, standin: right, target: one, targetDevice: ours, sourceStandin: left },
    );
  }
  const [apps, data] = closed.segments as [Segment, Segment];
  return {
    ...closed,
    segments: [
      { ...apps, prefixes: [parsePrefix("10.1.0.0/16")!] },
      { ...data, prefixes: [parsePrefix("10.20.0.0/16")!] },
    ],
    routes,
  };
}

export class Quarter {
  readonly #parties: ReadonlyMap<string, Party>;

  private constructor(parties: ReadonlyMap<string, Party>) {
    this.#parties = parties;
  }

  static async build(): Promise<Quarter> {
    const program = join(process.env.TMPDIR!, "party.cjs");
    const bundled = bundleProgram("party", program, "kernel");
    await sh("ip -batch -", ["link add br-apps type bridge", "link add br-data type bridge"]);
    const own: string[] = [];
    for (const { name, device, 4: four, 6: six } of services) {
      const port = device.startsWith("br-") ? name : device;
      await sh("ip -batch -", [
        `netns add ${name}`,
        `link add ${port} type veth peer name eth0 netns ${name}`,
        ...(port === device ? [] : [`link set ${port} master ${device}`]),
        `link set ${port} up`,
      ]);
      own.push(name);
      await setUp(name, [`${four}/24`, `${six}/64`], [four.replace(/\d+$/, "1"), six.replace(/\d+$/, "1")]);
    }
    await sh("ip -batch -", [
      ...nets.flatMap(([device, net]) => [
        `addr add 10.${net}.0.1/24 dev ${device}`,
        `addr add fd${net}::1/64 dev ${device} nodad`,
        `link set ${device} up`,
      ]),
      "netns add internet",
      "link add wan type veth peer name eth0 netns internet",
      "addr add 203.0.113.2/24 dev wan",
      "addr add 2001:db8:ff::2/64 dev wan nodad",
      "link set wan up",
      "route add default via 203.0.113.1",
      "route add default via 2001:db8:ff::1",
    ]);
    await setUp(
      "internet",
      ["203.0.113.1/24", "2001:db8:ff::1/64", `${internet[4]}/32`, `${internet[6]}/128`],
      ["203.0.113.2", "2001:db8:ff::2"],
    );
    await sh("sysctl -q -p -", [
      "net.ipv4.ip_forward=1",
      "net.ipv6.conf.all.forwarding=1",
      "net.bridge.bridge-nf-call-iptables=0",
      "net.bridge.bridge-nf-call-ip6tables=0",
    ]);
    await bundled;
    const parties = new Map([...own, "internet"].map((name) => [name, new Party(name, program)]));
    const quarter = new Quarter(parties);
    for (const party of parties.values()) await party.ready;
    await eventually("everybody's answers", async () => {
      const hosts = [...services, internet];
      const all = await Promise.all(
        hosts.flatMap((from) =>
          hosts.flatMap((to) =>
            from === to ? [] : ([4, 6] as const).map((v) => quarter.passes(from, { kind: "udp", to: to[v] })),
          ),
        ),
      );
      return all.every(Boolean);
    });
    return quarter;
  }

  try(from: { readonly name: string }, given: Omit<Try, "id">): Promise<Outcome> {
    return this.#parties.get(from.name)!.try(given);
  }

  async passes(from: { readonly name: string }, given: Omit<Try, "id">): Promise<boolean> {
    return (await this.try(from, given)).passed;
  }

  /** Those of some tries that pass, in words: for what is to be silent, all at once. */
  async passing(
    tries: readonly (readonly [{ readonly name: string }, Omit<Try, "id">])[],
  ): Promise<string[]> {
    const outcomes = await Promise.all(tries.map(([from, given]) => this.passes(from, given)));
    return tries.flatMap(([from, given], at) =>
      outcomes[at] ? [`${from.name} ${JSON.stringify(given)}`] : [],
    );
  }

  /** How many datagrams that begin with a word have come to somebody. */
  async heard(by: { readonly name: string }, word: string): Promise<number> {
    return (await this.try(by, { kind: "heard", to: word })).bytes!;
  }

  /** Bytes of a download so far. */
  async loaded(by: { readonly name: string }, from: string): Promise<number> {
    return (await this.try(by, { kind: "loaded", to: from })).bytes!;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#parties.values()].map((party) => party.close()));
  }
}

const kinds = ["tcp", "udp", "icmp"] as const;

/** What a plan says of a new connection, written down once more: rules and explanations are held against it. */
function expected(
  given: IsolationPlan,
  from: Service,
  to: { address: Address; kind: string; port: number },
): boolean {
  return [...given.routes, ...given.outside].some(
    ({ device, source, standin, ports }) =>
      device === from.device &&
      (source === from[4] || source === from[6]) &&
      standin === to.address &&
      (ports === undefined ||
        ports.some((each) =>
          each.protocol === "icmp"
            ? to.kind === "icmp"
            : each.protocol === to.kind && each.first <= to.port && to.port <= each.last,
        )),
  );
}

const numbers = { tcp: 6, udp: 17, icmp: 1 } as const;

/** Tries every ordered pair, by stand-in and by real address; `quick`: UDP alone. */
export async function tryAll(
  all: Quarter,
  given: IsolationPlan,
  options: { quick?: boolean } = {},
): Promise<void> {
  const tries = services.flatMap((from) =>
    services.flatMap((to) =>
      from === to
        ? []
        : ([4, 6] as const).flatMap((family) =>
            (options.quick ? (["udp"] as const) : kinds).flatMap((kind) =>
              [standinOf(from, to, family), to[family]].flatMap((address) =>
                (kind === "icmp" ? [0] : [80, 443]).map((port) => ({ from, address, kind, port })),
              ),
            ),
          ),
    ),
  );
  const wrong: string[] = [];
  const answers = answerer(isolatedOf(given));
  const attempt = async ({ from, address: to, kind, port }: (typeof tries)[number]) => {
    const should = expected(given, from, { address: to, kind, port });
    const told = answers({
      ...{ device: from.device, source: from[to.includes(":") ? 6 : 4], destination: to },
      ...{ protocol: numbers[kind], port },
    });
    if ((told?.verdict === "pass") !== should) wrong.push(`explained: ${from.name} ${kind} ${to} ${port}`);
    let passed = false;
    // On a busy machine an answer may take longer than silence is waited for.
    for (let left = should ? 5 : 1; left > 0 && !passed; left--)
      passed = await all.passes(from, { kind, to, port });
    if (passed !== should) wrong.push(`${from.name} ${kind} ${to} ${port}: ${passed}, not ${should}`);
  };
  for (let at = 0; at < tries.length; at += 100) await Promise.all(tries.slice(at, at + 100).map(attempt));
  assert.equal(wrong, []);
}

async function setUp(name: string, addresses: readonly string[], gateways: readonly string[]): Promise<void> {
  await sh(`ip -n ${name} -batch -`, [
    "link set lo up",
    ...addresses.map((each) => `addr add ${each} dev eth0${each.includes(":") ? " nodad" : ""}`),
    "link set eth0 up",
    ...gateways.map((each) => `route add default via ${each}`),
  ]);
}
