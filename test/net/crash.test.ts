/**
 * Crashes: whatever happens to agent, router and disk, what was acknowledged holds.
 *
 * A model keeps, by pair, what the last acknowledged call said; a call that was cut off leaves its pair open to
 * either answer. After each crash the agent must agree with the model, every device must have the id that it
 * had, and numbered datagrams that run the whole time tell whether a packet got past a block, also while a
 * router boots that forwards before the agent is there. The seed is printed with the first failure.
 */

import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openLinux } from "../../src/system/linux.ts";
import { connectUbus, type Ubus } from "../../src/ubus/ubus.ts";
import { eventually, must, run } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import type { Stream } from "../lab/streams.ts";
import { paths, servers } from "../lab/topology.ts";

const crashes = 200;
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);

/** mulberry32: small, and the same everywhere. */
function randomOf(state: number): () => number {
  let at = state >>> 0;
  return () => {
    at = (at + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(at ^ (at >>> 15), at | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });
const targets = [servers.web, servers.video, servers.time];

type Known = "blocked" | "open" | "either";

interface NodeRow {
  readonly id: number;
  readonly mac?: string;
  readonly ips: readonly string[];
}

class Trial {
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

  /** Some calls at once; those that are answered before the agent dies count. */
  async decide(pairs: readonly string[]): Promise<void> {
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
    const killed = sleep(this.random() * 60).then(() => this.kill());
    await killed;
    // What the agent had answered is still on its way through the bus; what it had not never comes.
    await Promise.race([Promise.all(calls), sleep(100)]);
  }
}

/** What the streams through blocked pairs have delivered. */
function heard(trial: Trial, pairOf: ReadonlyMap<Stream, string>): string {
  return trial.streams
    .filter((stream) => trial.known.get(pairOf.get(stream)!) === "blocked")
    .map((stream) => `${stream.id}:${stream.heard}:${stream.received}`)
    .join(" ");
}

/** Whether nothing passes the pairs that are known to be blocked, from 300 ms from now on, during `work`. */
async function silentDuring(
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

async function begin(
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

test(`kill -9 at ${crashes} random moments, with reboots: every acknowledged block holds and every id stays`, async () => {
  const { trial, pairs, pairOf } = await begin("nft");
  const { lab } = trial;
  try {
    for (let round = 1; round <= crashes; round++) {
      await trial.decide(pairs);
      if (round % 25 === 0) {
        // The new router forwards as soon as its cables are in, long before the agent is there.
        await silentDuring(`reboot in round ${round}`, { trial, pairOf }, () => trial.reboot());
      } else if (round % 10 === 0) {
        await silentDuring(`round ${round}`, { trial, pairOf }, () => trial.start());
      } else {
        await trial.start();
      }
      await trial.agree(`round ${round}`);
    }
  } finally {
    await trial.kill();
    trial.ubus.close();
    await lab.close();
  }
});

test("ipset: kill -9 and reboot: every acknowledged block holds and every id stays", async () => {
  const { trial, pairs, pairOf } = await begin("ipset");
  const { lab } = trial;
  try {
    for (let round = 1; round <= 16; round++) {
      await trial.decide(pairs);
      const restart = () => (round % 4 === 0 ? trial.reboot() : trial.start());
      await silentDuring(`round ${round}`, { trial, pairOf }, restart);
      await trial.agree(`round ${round}`);
    }
  } finally {
    await trial.kill();
    trial.ubus.close();
    await lab.close();
  }
});

test("a damaged state file is reported and costs no acknowledged block and no id", async () => {
  const { trial, pairs, pairOf } = await begin("nft");
  const { lab } = trial;
  try {
    for (const pair of pairs.slice(0, 3)) {
      const [node1, node2] = pair.split(" ").map(Number) as [number, number];
      await trial.ubus.call("spin", "blockflow", { node1, node2, block: 1 });
      trial.known.set(pair, "blocked");
    }
    await trial.agree("before");
    const damages: ((path: string) => void)[] = [
      (path) => truncateSync(path, Math.floor(trial.random() * readFileSync(path).length)),
      (path) =>
        writeFileSync(path, Buffer.from(Array.from({ length: 500 }, () => Math.floor(trial.random() * 256)))),
      (path) => writeFileSync(path, '{"version": 99, "state": {"__proto__": []}}'),
    ];
    for (const damage of damages) {
      for (const name of ["flows.json", "nodes.json"]) {
        await trial.kill();
        damage(join(paths.state, name));
        trial.log = "";
        await silentDuring(`damaged ${name}`, { trial, pairOf }, () => trial.start());
        assert.match(trial.log, name);
        const status = (await trial.ubus.call("gatehouse", "status")) as { damaged: string[] };
        assert.ok(status.damaged.some((line) => line.includes(name)));
        await trial.agree(`damaged ${name}`);
      }
    }
    for (const damage of damages) {
      damage(join(paths.state, "flows.nft"));
      await silentDuring("damaged boot text", { trial, pairOf }, () => trial.reboot());
      await trial.agree("damaged boot text");
    }
  } finally {
    await trial.kill();
    trial.ubus.close();
    await lab.close();
  }
});

test("a full disk refuses the decision, keeps what is acknowledged, and is told", async () => {
  const lab = await Lab.up();
  const trial = new Trial(lab);
  try {
    await lab.agent.stop();
    await must(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", paths.state]);
    await trial.start();
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const find = async (address: string) =>
      await eventually(
        `node ${address}`,
        async () => (await trial.nodes()).find((node) => node.ips.includes(address))?.id,
      );
    const [node1, node2] = [await find("10.77.0.10"), await find(servers.web.address4)];
    assert.is((await trial.ubus.call("spin", "blockflow", { node1, node2, block: 1 })).return, 0);
    await stream.isCut();
    await lab.exec("router", ["sh", "-c", `head -c 200000 /dev/zero > ${paths.state}/ballast`]);
    const other = await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
    const camera = await find("10.77.0.11");
    const refused = await trial.ubus.call("spin", "blockflow", { node1: camera, node2, block: 1 }).then(
      () => undefined,
      (fault) => fault,
    );
    assert.ok(refused, "a decision that is not durable was acknowledged");
    assert.ok(((await trial.ubus.call("gatehouse", "status")) as { storage: string[] }).storage.length > 0);
    await trial.kill();
    await trial.start();
    const { result } = (await trial.ubus.call("spin", "get_blockflow")) as unknown as {
      result: { node1: number; node2: number }[];
    };
    assert.ok(
      result.some((pair) => pair.node1 === Math.min(node1, node2) && pair.node2 === Math.max(node1, node2)),
    );
    await stream.isCut();
    await lab.must("router", ["rm", `${paths.state}/ballast`]);
    await eventually(
      "the state on disk again",
      async () =>
        ((await trial.ubus.call("gatehouse", "status")) as { storage: string[] }).storage.length === 0,
      90_000,
    );
    await other.end();
  } finally {
    await trial.kill();
    trial.ubus.close();
    await run(["umount", "--lazy", paths.state]);
    await lab.close();
  }
});

test("a read-only disk does not keep the agent from running, and refuses decisions that would not last", async () => {
  const lab = await Lab.up();
  const trial = new Trial(lab);
  try {
    await lab.agent.stop();
    await must(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", paths.state]);
    await trial.start();
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const find = (address: string) =>
      eventually(
        `node ${address}`,
        async () => (await trial.nodes()).find((node) => node.ips.includes(address))?.id,
      );
    const [node1, node2] = [await find("10.77.0.10"), await find(servers.web.address4)];
    const refused = await trial.ubus
      .call("spin", "blockflow", { node1, node2, block: 1 })
      .catch((thrown: Error) => thrown);
    assert.instance(refused, Error);
    // What could be done is done: it is blocked until the next start.
    await stream.isCut();
    const { storage } = (await trial.ubus.call("gatehouse", "status")) as { storage: string[] };
    assert.ok(storage.length > 0);
  } finally {
    await trial.kill();
    trial.ubus.close();
    await run(["umount", "--lazy", paths.state]);
    await lab.close();
  }
});

test.run();
