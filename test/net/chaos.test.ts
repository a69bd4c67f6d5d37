/**
 * Chaos, seeded: one thing after another happens to everything that the agent depends on, and each time, within
 * five seconds, kernel, answers, files and retained messages agree with what was acknowledged.
 *
 * Runs for CHAOS_SECONDS (30 by default). No datagram gets past an acknowledged block, except between somebody
 * else's flush of our tables and its repair, which is timed; a flow that nobody decides about never pauses for two
 * seconds.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import type { Lab } from "../lab/network.ts";
import type { Stream } from "../lab/streams.ts";
import { paths } from "../lab/topology.ts";
import { begin, seed, silentDuring, sleep, type Trial } from "./trial.ts";

const durationMs = Number(process.env.CHAOS_SECONDS ?? 15) * 1_000;
const agreeMs = 5_000;
/** An exempt moment: from a foreign flush to its repair. */
const repairMs = 2_000;
/** What an unblocked flow may pause at most. */
const pauseMs = 2_000;

interface Calamity {
  readonly name: string;
  /** Blocks may be open for a moment, which the calamity itself times. */
  readonly opens?: boolean;
  happen(trial: Trial): Promise<void>;
}

/** How long the tables of the blocks were not what they had been. */
const repairs: number[] = [];

/** The words of our table in no order: sets and chains made anew are listed otherwise. */
async function rulesOf(lab: Lab): Promise<string> {
  const { stdout } = await lab.exec("router", ["nft", "list", "table", "inet", "gatehouse_flows"]);
  const words = stdout.replaceAll(/packets \d+ bytes \d+/g, "").split(/[\s,{}]+/);
  return words.sort().join(" ");
}

/** Somebody else changes our table; times how long it stays so. */
async function flushed(trial: Trial, how: readonly string[]): Promise<void> {
  const { lab } = trial;
  const before = await rulesOf(lab);
  const startedAt = performance.now();
  await lab.exec("router", ["nft", ...how, "table", "inet", "gatehouse_flows"]);
  await eventually("our table repaired", async () => (await rulesOf(lab)) === before, agreeMs);
  repairs.push(performance.now() - startedAt);
}

const calamities: readonly Calamity[] = [
  { name: "calls", happen: async () => {} },
  { name: "broker restart", happen: (trial) => trial.lab.broker.restart() },
  {
    name: "kill -9 of the agent",
    async happen(trial) {
      await trial.kill();
      await sleep(trial.random() * 500);
      await trial.start();
    },
  },
  { name: "bus restart", happen: (trial) => trial.lab.bus.restart() },
  { name: "flush of our table", opens: true, happen: (trial) => flushed(trial, ["flush"]) },
  { name: "deletion of our table", opens: true, happen: (trial) => flushed(trial, ["delete"]) },
  {
    name: "camera's cable out and in",
    async happen({ lab, random }) {
      const { port } = lab.clients.find((each) => each.name === "camera")!;
      await lab.must("router", ["ip", "link", "set", port, "down"]);
      await sleep(random() * 1_000);
      await lab.must("router", ["ip", "link", "set", port, "up"]);
    },
  },
];

/** What is on disk about pairs. */
function pairsOnDisk(): string[] {
  const file = JSON.parse(readFileSync(join(paths.state, "flows.json"), "utf8")) as {
    state: { pairs: [number, number][] };
  };
  return file.state.pairs.map((pair) => pair.join(" ")).sort();
}

/** Ids of nodes that the broker remembers as nodes, aliases left out. */
async function remembered(lab: Lab): Promise<string[]> {
  const { stdout } = await lab.exec("router", [
    ...["mosquitto_sub", "-t", "SPIN/traffic/node/+", "--retained-only", "-W", "1", "-F", "%p"],
  ]);
  return stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => (JSON.parse(line) as { result: { id: number; "merged-to"?: number } }).result)
    .filter((result) => result["merged-to"] === undefined)
    .map((result) => String(result.id))
    .sort();
}

type PairOf = Map<Stream, string>;

/** Waits until answers, disk, broker and kernel say what the model says. */
async function agree(trial: Trial, pairOf: PairOf, what: string): Promise<void> {
  const endsAt = performance.now() + agreeMs;
  for (;;) {
    try {
      await trial.agree(what);
      const blocked = [...trial.known].filter(([, known]) => known === "blocked").map(([pair]) => pair);
      assert.equal(pairsOnDisk(), blocked.sort(), `${what}: pairs on disk, seed ${seed}`);
      const nodes = (await trial.nodes()).map((node) => String(node.id)).sort();
      assert.equal(await remembered(trial.lab), nodes, `${what}: retained nodes, seed ${seed}`);
      break;
    } catch (thrown) {
      if (performance.now() > endsAt) throw thrown;
      await sleep(100);
    }
  }
  const open = trial.streams.filter((each) => trial.known.get(pairOf.get(each)!) === "open");
  await Promise.all(open.map((each) => each.flows(agreeMs)));
}

test(`${durationMs / 1_000} s of chaos: within ${agreeMs / 1_000} s everything agrees again`, async () => {
  const { trial, pairs, pairOf } = await begin("nft");
  const { lab } = trial;
  // Nobody decides about the last of laptop's flows: it is the witness.
  const witness = trial.streams[2]!;
  const decidable = pairs.filter((pair) => pair !== pairOf.get(witness));
  const happened = new Map<string, number>();
  try {
    const endsAt = performance.now() + durationMs;
    for (let round = 1; performance.now() < endsAt; round++) {
      const calamity = calamities[round % calamities.length]!;
      const what = `round ${round}, ${calamity.name}`;
      await trial.decide(decidable, { kills: false });
      if (calamity.opens) await calamity.happen(trial);
      else await silentDuring(what, { trial, pairOf }, () => calamity.happen(trial));
      await silentDuring(`${what}, afterwards`, { trial, pairOf }, () => agree(trial, pairOf, what));
      happened.set(calamity.name, (happened.get(calamity.name) ?? 0) + 1);
    }
    assert.is(witness.longestGapMs < pauseMs, true, `the witness paused for ${witness.longestGapMs} ms`);
    for (const ms of repairs) assert.ok(ms < repairMs, `a repair took ${ms} ms, seed ${seed}`);
    console.log(
      `${[...happened].map(([name, count]) => `${count} × ${name}`).join(", ")}; longest pause of the witness ` +
        `${Math.round(witness.longestGapMs)} ms, repairs ${repairs.map((ms) => Math.round(ms)).join(", ")} ms`,
    );
  } finally {
    await trial.kill();
    trial.ubus.close();
    await lab.close();
  }
});

test.run();
