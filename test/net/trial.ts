/**
 * A trial: a lab with an agent that is killed and started at will, a model of what it acknowledged, and numbered
 * datagrams between clients and servers that run the whole time and tell whether a packet got past a block.
 *
 * The model keeps, by pair, what the last acknowledged call said; a call that was cut off leaves its pair open to
 * either answer. It keeps, too, from when to when each pair was known to be blocked: no datagram may have been sent and
 * read within such a time, however late that is told. The seed is printed with the first failure.
 */

import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import * as assert from "uvu/assert";
import type { Ubus } from "../../src/ubus/ubus.ts";
import { eventually } from "../lab/children.ts";
import { joinBus, Lab, type LabOptions } from "../lab/network.ts";
import { randomOf, seed } from "../lab/random.ts";
import type { Stream } from "../lab/streams.ts";
import { clockMs, sleep } from "../lab/time.ts";
import { paths, servers } from "../lab/topology.ts";

export { randomOf, seed };

const targets = [servers.web, servers.video, servers.time];
/** Datagrams a second in each direction of each stream, and the time between two. */
const rate = 25;
export const periodMs = 1_000 / rate;
/** A call that dies with its agent is not answered. */
const cutOffMs = 2_000;

export type Known = "blocked" | "open" | "either";

/** A time in which nothing of a pair may have passed. */
interface Silence {
  readonly pair: string;
  readonly fromAt: number;
  readonly toAt: number;
}

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
  readonly #known = new Map<string, Known>();
  readonly ids = new Map<string, number>();
  readonly streams: Stream[] = [];
  readonly pairOf = new Map<Stream, string>();
  /** Pair → since when it is known to be blocked. */
  readonly #blockedAt = new Map<string, number>();
  readonly #silences: Silence[] = [];

  constructor(lab: Lab) {
    this.lab = lab;
    this.ubus = joinBus(paths.bus);
  }

  /** In a lab of its own. `ready` runs in it before there is an agent. */
  static async begin(
    options: LabOptions,
    ready: (lab: Lab) => Promise<unknown> = async () => {},
  ): Promise<Trial> {
    const lab = await Lab.up({ ...options, agent: false });
    const trial = new Trial(lab);
    try {
      await ready(lab);
      await lab.bus.start();
      await trial.start();
      // Whoever answers need not see everything yet.
      await eventually("an agent that is ready", async () => (await lab.call("gatehouse", "status")).ready);
    } catch (error) {
      await trial.end();
      throw error;
    }
    return trial;
  }

  /** Ends all of it. */
  async end(): Promise<void> {
    await this.kill();
    this.ubus.close();
    await this.lab.close();
  }

  async start(): Promise<void> {
    const argv = ["gatehouse", "-s", paths.bus, "run", "-c", paths.configuration];
    const agent = this.lab.spawn("router", argv, { stdio: ["ignore", "ignore", "pipe"] });
    agent.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.log = (this.log + text).slice(-2_000);
    });
    this.agent = agent;
    await this.answers();
  }

  /** Waits until the agent answers on the bus, under each of the names that are asked here. */
  async answers(): Promise<void> {
    const { agent, ubus } = this;
    const ask = (object: string, method: string) =>
      eventually(`an answer of the agent as ${object}`, () => {
        if (agent!.exitCode !== null) throw new Error(`The agent ended:\n${this.log}`);
        // One that boots has more to do than to be asked all the time.
        return ubus.call(object, method, {}, { timeoutMs: cutOffMs }).catch(() => sleep(25));
      });
    await ask("spin", "get_blockflow");
    await ask("gatehouse.nodes", "list");
  }

  /** Cuts the power; the new router loads the boot texts, forwards, and has an agent again some time later. */
  async reboot(): Promise<void> {
    const script = join(process.cwd(), "files/usr/lib/gatehouse/boot.sh");
    await this.kill();
    await this.lab.reboot(async () => void (await this.lab.must("router", ["sh", script, paths.state])));
    // Traffic goes on meanwhile: who has reported has tried.
    await this.caughtUp();
    await this.lab.bus.start();
    this.ubus.close();
    this.ubus = joinBus(paths.bus);
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

  /** What is known of a pair from now on. */
  know(pair: string, known: Known): void {
    this.#known.set(pair, known);
    const fromAt = this.#blockedAt.get(pair);
    if (known === "blocked") {
      if (fromAt === undefined) this.#blockedAt.set(pair, clockMs());
    } else if (fromAt !== undefined) {
      this.#silences.push({ pair, fromAt, toAt: clockMs() });
      this.#blockedAt.delete(pair);
    }
  }

  /** The pairs of which that is known, sorted. */
  pairsThatAre(known: Known): string[] {
    return [...this.#known].flatMap(([pair, each]) => (each === known ? [pair] : [])).sort();
  }

  /** Blocks may be open from now on, until `work` is done. */
  async exempting(work: () => Promise<void>): Promise<void> {
    const blocked = this.pairsThatAre("blocked");
    for (const pair of blocked) this.know(pair, "either");
    await work();
    for (const pair of blocked) this.know(pair, "blocked");
  }

  /** Waits until all streams have told what came until now. */
  async caughtUp(): Promise<void> {
    await Promise.all(this.streams.map((each) => each.caughtUp()));
  }

  /** Nothing has ever passed a pair while it was known to be blocked. */
  async proveSilence(): Promise<void> {
    await this.caughtUp();
    const toAt = clockMs();
    const open = [...this.#blockedAt].map(([pair, fromAt]) => ({ pair, fromAt, toAt }));
    const silences = [...this.#silences, ...open];
    assert.ok(silences.length > 0, "nothing was ever blocked");
    for (const each of silences) this.#assertSilence(each, "in the end");
  }

  #assertSilence({ pair, fromAt, toAt }: Silence, what: string): void {
    for (const stream of this.streams.filter((each) => this.pairOf.get(each) === pair)) {
      const count = stream.arrivedWithin(fromAt, toAt);
      const when = `${Math.round(toAt - fromAt)} ms from ${fromAt} on`;
      assert.is(
        count,
        0,
        `${what}: ${count} packets passed the block of ${pair}, ${when}, seed ${seed}\n${this.log}`,
      );
    }
  }

  /** Every block in the agent's answer, and none but those, is what the model knows; and none lets anything through. */
  async agree(what: string): Promise<void> {
    const { result } = (await this.ubus.call("spin", "get_blockflow")) as unknown as {
      result: { node1: number; node2: number }[];
    };
    const blocked = new Set(result.map(({ node1, node2 }) => `${node1} ${node2}`));
    for (const [pair, known] of this.#known) {
      if (known === "either") this.know(pair, blocked.has(pair) ? "blocked" : "open");
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
    const toAt = clockMs();
    for (const [pair, fromAt] of this.#blockedAt) this.#assertSilence({ pair, fromAt, toAt }, what);
  }

  /** Blocks a pair; acknowledged. */
  async block(pair: string): Promise<void> {
    const [node1, node2] = pair.split(" ").map(Number) as [number, number];
    await this.ubus.call("spin", "blockflow", { node1, node2, block: 1 });
    this.know(pair, "blocked");
  }

  /**
   * Some calls at once, until all are answered; or until `cut`, which may cut them off, is over. Those that are answered
   * count, whenever the answer comes.
   */
  async decide(pairs: readonly string[], cut?: () => Promise<unknown>): Promise<void> {
    const count = 1 + Math.floor(this.random() * 4);
    const calls: Promise<void>[] = [];
    const chosen = new Set(
      Array.from({ length: count }, () => pairs[Math.floor(this.random() * pairs.length)]!),
    );
    for (const pair of chosen) {
      const [node1, node2] = pair.split(" ").map(Number) as [number, number];
      const block = this.random() < 0.5 ? 0 : 1;
      // What is blocked and is blocked once more is blocked all the time, whatever comes of the call.
      if (block === 0 || this.#known.get(pair) !== "blocked") this.know(pair, "either");
      const call = this.ubus.call("spin", "blockflow", { node1, node2, block });
      calls.push(
        call.then(
          (answer) => {
            assert.is(answer.return, 0);
            this.know(pair, block === 1 ? "blocked" : "open");
          },
          () => {},
        ),
      );
    }
    await (cut === undefined ? Promise.all(calls) : cut());
  }

  /** Some calls at once, and the end of the agent in their midst. */
  decideAndDie(pairs: readonly string[]): Promise<void> {
    return this.decide(pairs, async () => {
      await sleep(this.random() * 60);
      await this.kill();
      // What the agent had answered comes before the bus's word that it is gone; what it had not never comes.
      await eventually("the agent's end on the bus", () =>
        this.ubus.lookup("spin").then(
          () => false,
          () => true,
        ),
      );
    });
  }
}

export async function begin(backend: "nft" | "ipset"): Promise<{ trial: Trial; pairs: string[] }> {
  const trial = await Trial.begin({ backend });
  const { lab } = trial;
  const pairs: string[] = [];
  for (const client of ["laptop", "camera"]) {
    for (const server of targets) {
      const stream = await lab.stream({ from: client, to: server.address4, kind: "udp", rate });
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
      trial.pairOf.set(stream, pair);
      trial.know(pair, "open");
    }
  }
  return { trial, pairs };
}
