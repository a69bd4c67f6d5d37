/**
 * The network that blocks are tried on. The test's own namespace is the router; `laptop` and `camera` are ports of
 * its bridge br-lan, `internet` has several servers' addresses. Bridged frames pass no inet hook, as on a router.
 */

import { join } from "node:path";
import type { End } from "../../src/kernel/plan.ts";
import { Daemon, eventually, must } from "../lab/children.ts";
import { bundleProgram } from "../lab/network.ts";
import { Stream, type StreamKind } from "../lab/streams.ts";
import { end } from "./plans.ts";

export const laptop = end(1, "10.1.0.2 fd01::2", "02:00:00:00:01:02");
export const camera = end(2, "10.1.0.3 fd01::3", "02:00:00:00:01:03");
export const web = end(3, "198.51.100.10 2001:db8::10");
export const video = end(4, "198.51.100.20 2001:db8::20");
const servers: readonly End[] = [web, video];
const enter = (host: string, argv: readonly string[]) => ["ip", "netns", "exec", host, ...argv];

export class Street {
  readonly #server: Daemon;
  readonly #peer: string;
  readonly #heard: Map<string, number>;
  readonly #streams: Stream[] = [];
  #count = 0;

  private constructor(server: Daemon, peer: string, heard: Map<string, number>) {
    this.#server = server;
    this.#peer = peer;
    this.#heard = heard;
  }

  static async build(): Promise<Street> {
    const peer = join(process.env.TMPDIR!, "peer.cjs");
    const bundled = bundleProgram("peer", peer);
    await sh("ip -batch -", [
      "link add br-lan type bridge",
      "addr add 10.1.0.1/24 dev br-lan",
      "addr add fd01::1/64 dev br-lan nodad",
      "link set br-lan up",
      "netns add internet",
      "link add wan type veth peer name eth0 netns internet",
      "addr add 203.0.113.2/24 dev wan",
      "addr add 2001:db8:ff::2/64 dev wan nodad",
      "link set wan up",
      "route add 198.51.100.0/24 via 203.0.113.1",
      "route add 2001:db8::/64 via 2001:db8:ff::1",
    ]);
    await sh("ip -n internet -batch -", [
      "link set lo up",
      "addr add 203.0.113.1/24 dev eth0",
      "addr add 2001:db8:ff::1/64 dev eth0 nodad",
      ...servers.flatMap(({ addresses }) => addresses.map((each) => `addr add ${each} dev lo nodad`)),
      "link set eth0 up",
      "route add default via 203.0.113.2",
      "route add default via 2001:db8:ff::2",
    ]);
    for (const [name, { addresses, macs }] of [
      ["laptop", laptop],
      ["camera", camera],
    ] as const) {
      await sh("ip -batch -", [
        `netns add ${name}`,
        `link add ${name} type veth peer name eth0 address ${macs[0]} netns ${name}`,
        `link set ${name} master br-lan`,
        `link set ${name} up`,
      ]);
      await sh(`ip -n ${name} -batch -`, [
        "link set lo up",
        `addr add ${addresses[0]}/24 dev eth0`,
        `addr add ${addresses[1]}/64 dev eth0 nodad`,
        "link set eth0 up",
        "route add default via 10.1.0.1",
        "route add default via fd01::1",
      ]);
    }
    await sh("sysctl -q -p -", [
      "net.ipv4.ip_forward=1",
      "net.ipv6.conf.all.forwarding=1",
      "net.bridge.bridge-nf-call-iptables=0",
      "net.bridge.bridge-nf-call-ip6tables=0",
    ]);
    await bundled;
    const heard = new Map<string, number>();
    const addresses = servers.flatMap((each) => each.addresses);
    const server = new Daemon({
      name: "server",
      argv: enter("internet", [process.execPath, peer, "serve", ...addresses]),
      ready: /^serving$/m,
      onLine: (line) => {
        if (!line.startsWith("{")) return;
        const { id, heard: count } = JSON.parse(line) as { id: string; heard: number };
        heard.set(id, count);
      },
    });
    await server.start();
    for (const host of ["laptop", "camera"]) {
      for (const to of [...addresses, ...laptop.addresses, ...camera.addresses]) {
        await eventually(`an answer to ${host} from ${to}`, () => answers(host, to));
      }
    }
    return new Street(server, peer, heard);
  }

  /** Starts traffic to a server and waits until it flows, unless it is not to. */
  async stream(kind: StreamKind, from: string, to: string, flows = true): Promise<Stream> {
    const stream = new Stream(
      { kind, from, to, id: `s${this.#count++}`, peer: [process.execPath, this.#peer] },
      enter,
      (id) => this.#heard.get(id) ?? 0,
    );
    this.#streams.push(stream);
    if (flows) await stream.flows();
    return stream;
  }

  async quiet(): Promise<void> {
    await Promise.all(this.#streams.splice(0).map((each) => each.end()));
  }

  async close(): Promise<void> {
    await this.quiet();
    await this.#server.stop();
  }
}

/** Runs a command line (words split at spaces) in the router, with lines of input; its output. */
export function sh(line: string, input?: readonly string[]): Promise<string> {
  return must(line.split(" "), input ? { input: `${input.join("\n")}\n` } : {});
}

/** Whether an echo comes back, however slow the machine: for what is to go through. */
export function answers(host: string, to: string, from?: string): Promise<boolean> {
  return ping(host, to, { from, waiting: ["-i", "0.2", "-w", "20"] });
}

/** Whether no echo comes back, within far more time than one takes here: for what is to be stopped. */
export async function silent(host: string, to: string, from?: string): Promise<boolean> {
  return !(await ping(host, to, { from, waiting: ["-W", "0.25"] }));
}

function ping(
  host: string,
  to: string,
  { from, waiting }: { from: string | undefined; waiting: readonly string[] },
): Promise<boolean> {
  const source = from === undefined ? [] : ["-I", from];
  return must(enter(host, ["ping", "-n", "-q", "-c", "1", ...waiting, ...source, to])).then(
    () => true,
    () => false,
  );
}
