/**
 * A trial: a lab with an agent that is killed and started at will, a model of what it acknowledged, and numbered
 * datagrams between clients and servers that run the whole time and tell whether a packet got past a block.
 *
 * The model keeps, by pair, what the last acknowledged call said; a call that was cut off leaves its pair open to
 * either answer. The seed is printed with the first failure.
 */

import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import * as assert from "uvu/assert";
import { openLinux } from "../../src/system/linux.ts";
import { connectUbus, type Ubus } from "../../src/ubus/ubus.ts";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import type { Stream } from "../lab/streams.ts";
import { paths, servers } from "../lab/topology.ts";

export const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** mulberry32: small, and the same everywhere. */
export function randomOf(state: number): () => number {
  let at = state >>> 0;
  return () => {
    at = (at + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(at ^ (at >>> 15), at | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });
const targets = [servers.web, servers.video, servers.time];

export type Known = "blocked" | "open" | "either";

export interface NodeRow {
  readonly id: number;
  readonly mac?: string;
  readonly ips: readonly string[];
}

/** The id of the node that has all these addresses, once there is one. */
export function idOf(lab: Lab, ...addresses: string[]): Promise<number> {
  return eventually(`node with ${addresses.join(" and ")}`, async () => {
    const { nodes } = (await lab.call("gatehouse.nodes", "list")) as unknown as { nodes: NodeRow[] };
    return nodes.find((node) => addresses.every((each) => node.ips.includes(each)))?.id;
  });
}

export class Trial {
  readonly random = randomOf(seed);
  readonly lab: Lab;
  ubus: Ubus;
  agent: ChildProcess | undefined;
  log = "";
  readonly known = new Map<string, Known>();
  readonly ids = new Map<string, number>();
  readonly streams: Stream[] = [];

  constructor(lab: Lab) {
    this.lab = lab;
    this.ubus = this.#connect();
  }

  #connect(): Ubus {
    return connectUbus(system, { path: paths.bus });
  }

  async start(): Promise<void> {
    const argv = ["gatehouse", "-s", paths.bus, "run", "-c", paths.configuration];
    const agent = this.lab.spawn("router", argv, { stdio: ["ignore", "ignore", "pipe"] });
    agent.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.log = (this.log + text).slice(-2_000);
    });
    this.agent = agent;
    await eventually("an answer of the agent", async () => {
      if (agent.exitCode !== null) throw new Error(`The agent ended:\n${this.log}`);
      return this.ubus.call("spin", "get_blockflow", {}, { timeoutMs: 500 }).catch(() => undefined);
    });
  }

  /** Cuts the power; the new router loads the boot texts, forwards, and has an agent again some time later. */
  async reboot(): Promise<void> {
    const script = join(process.cwd(), "files/usr/lib/gatehouse/boot.sh");
    await this.kill();
    await this.lab.reboot(async () => void (await this.lab.must("router", ["sh", script, paths.state])));
    await sleep(300);
    await this.lab.bus.start();
    this.ubus.close();
    this.ubus = this.#connect();
    await this.start();
  }

  async kill(): Promise<void> {
    const { agent } = this;
    if (!agent || agent.exitCode !== null || agent.signalCode !== null) return;
    const gone = once(agent, "exit");
    agent.kill("SIGKILL");
    await gone;
  }

  async nodes(): Promise<readonly NodeRow[]> {
    return ((await this.ubus.call("gatehouse.nodes", "list")) as unknown as { nodes: NodeRow[] }).nodes;
  }

  /** Every block in the agent's answer, and none but those, is what the model knows. */
  async agree(what: string): Promise<void> {
    const { result } = (await this.ubus.call("spin", "get_blockflow")) as unknown as {
      result: { node1: number; node2: number }[];
    };
    const blocked = new Set(result.map(({ node1, node2 }) => `${node1} ${node2}`));
    for (const [pair, known] of this.known) {
      if (known === "either") this.known.set(pair, blocked.has(pair) ? "blocked" : "open");
      else
        assert.is(blocked.has(pair), known === "blocked", `${what}: pair ${pair}, seed ${seed}\n${this.log}`);
      blocked.delete(pair);
    }
    assert.is(blocked.size, 0, `${what}: unknown blocks ${[...blocked].join()}, seed ${seed}`);
    for (const node of await this.nodes()) {
      if (!node.mac) continue;
      assert.is(
        this.ids.get(node.mac) ?? node.id,
        node.id,
        `${what}: ${node.mac} has another id, seed ${seed}`,
      );
      this.ids.set(node.mac, node.id);
    }
  }

  /** Some calls at once. If the agent is killed meanwhile, those that are answered before count. */
  async decide(pairs: readonly string[], { kills = true }: { kills?: boolean } = {}): Promise<void> {
    const count = 1 + Math.floor(this.random() * 4);
    const calls: Promise<void>[] = [];
    const chosen = new Set(
      Array.from({ length: count }, () => pairs[Math.floor(this.random() * pairs.length)]!),
    );
    for (const pair of chosen) {
      const [node1, node2] = pair.split(" ").map(Number) as [number, number];
      const block = this.random() < 0.5 ? 0 : 1;
      this.known.set(pair, "either");
      const call = this.ubus.call("spin", "blockflow", { node1, node2, block }, { timeoutMs: 2_000 });
      calls.push(
        call.then(
          (answer) => {
            assert.is(answer.return, 0);
            this.known.set(pair, block === 1 ? "blocked" : "open");
          },
          () => {},
        ),
      );
    }
    if (!kills) return void (await Promise.all(calls));
    await sleep(this.random() * 60);
    await this.kill();
    // What the agent had answered is still on its way through the bus; what it had not never comes.
    await Promise.race([Promise.all(calls), sleep(100)]);
  }
}

/** What the streams through blocked pairs have delivered. */
export function heard(trial: Trial, pairOf: ReadonlyMap<Stream, string>): string {
  return trial.streams
    .filter((stream) => trial.known.get(pairOf.get(stream)!) === "blocked")
    .map((stream) => `${stream.id}:${stream.heard}:${stream.received}`)
    .join(" ");
}

/** Whether nothing passes the pairs that are known to be blocked, from 300 ms from now on, during `work`. */
export async function silentDuring(
  what: string,
  { trial, pairOf }: { trial: Trial; pairOf: ReadonlyMap<Stream, string> },
  work: () => Promise<void>,
): Promise<void> {
  // Reports of the streams come ten times a second: let those of packets from before the block arrive.
  await sleep(300);
  const before = heard(trial, pairOf);
  await work();
  assert.is(heard(trial, pairOf), before, `a packet passed a block, ${what}, seed ${seed}\n${trial.log}`);
}

export async function begin(
  backend: "nft" | "ipset",
): Promise<{ trial: Trial; pairs: string[]; pairOf: Map<Stream, string> }> {
  const lab = await Lab.up({ backend });
  await lab.agent.stop();
  const trial = new Trial(lab);
  await trial.start();
  const pairOf = new Map<Stream, string>();
  const pairs: string[] = [];
  for (const client of ["laptop", "camera"]) {
    for (const server of targets) {
      const stream = await lab.stream({ from: client, to: server.address4, kind: "udp", rate: 25 });
      trial.streams.push(stream);
      const pair = await eventually(`nodes of ${client} and ${server.address4}`, async () => {
        const nodes = await trial.nodes();
        const host = lab.clients.find((each) => each.name === client)!;
        const one = nodes.find((node) => node.ips.includes(host.address4))?.id;
        const other = nodes.find((node) => node.ips.includes(server.address4))?.id;
        return one && other ? `${Math.min(one, other)} ${Math.max(one, other)}` : undefined;
      });
      // What the user named is remembered, blocked or not: the same pair can be blocked again in every life.
      for (const id of pair.split(" ")) {
        await trial.ubus.call("gatehouse.nodes", "rename", { node: Number(id), name: `node ${id}` });
      }
      pairs.push(pair);
      pairOf.set(stream, pair);
      trial.known.set(pair, "open");
    }
  }
  return { trial, pairs, pairOf };
}
