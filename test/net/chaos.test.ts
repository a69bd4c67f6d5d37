/**
 * Chaos, seeded: one thing after another happens to everything that the agent depends on, and each time kernel, answers,
 * files and retained messages come to agree with what was acknowledged; how long that took is printed.
 *
 * Runs for CHAOS_SECONDS (15 by default), and until each thing has happened once. No datagram gets past an acknowledged
 * block, except between somebody else's flush of our tables and its repair; of those less come than are sent in two
 * seconds. Of a flow that nobody decides about, never so many are dropped in a row as are sent in two seconds.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import type { Lab } from "../lab/network.ts";
import { seed } from "../lab/random.ts";
import { Retained } from "../lab/retained.ts";
import { clockMs, sleep } from "../lab/time.ts";
import { paths } from "../lab/topology.ts";
import { begin, periodMs, type Trial } from "./trial.ts";

const durationMs = Number(process.env.CHAOS_SECONDS ?? 15) * 1_000;
/** An exempt moment: from a foreign flush to its repair, by an agent that answers at once. */
const repairMs = 2_000;
/** A repair takes some turns of the agent; one that waits for its turn answers as late. */
const turns = 20;
/** What an unblocked flow may pause at most. */
const pauseMs = 2_000;

interface Calamity {
  readonly name: string;
  happen(trial: Trial, retained: Retained): Promise<void>;
}

interface Repair {
  /** For how long the datagrams that passed were sent. */
  readonly openMs: number;
  readonly slowestAnswerMs: number;
}

const repairs: Repair[] = [];

/** The words of our table in no order: sets and chains made anew are listed otherwise. */
async function rulesOf(lab: Lab): Promise<string> {
  const { stdout } = await lab.exec("router", ["nft", "list", "table", "inet", "gatehouse_flows"]);
  const words = stdout.replaceAll(/packets \d+ bytes \d+/g, "").split(/[\s,{}]+/);
  return words.sort().join(" ");
}

/** Somebody else changes our table. How long it stayed so is told by the datagrams of blocked pairs that passed. */
async function flushed(trial: Trial, how: readonly string[]): Promise<void> {
  const { lab } = trial;
  const blocked = new Set(trial.pairsThatAre("blocked"));
  const streams = trial.streams.filter((each) => blocked.has(trial.pairOf.get(each)!));
  const before = await rulesOf(lab);
  let slowestAnswerMs = 0;
  const fromAt = clockMs();
  await trial.exempting(async () => {
    await lab.exec("router", ["nft", ...how, "table", "inet", "gatehouse_flows"]);
    await eventually("our table repaired", async () => {
      const askedAt = clockMs();
      await trial.nodes();
      slowestAnswerMs = Math.max(slowestAnswerMs, clockMs() - askedAt);
      return (await rulesOf(lab)) === before;
    });
  });
  const toAt = clockMs();
  await trial.caughtUp();
  const passed = Math.max(0, ...streams.map((each) => each.readWithin(fromAt, toAt)));
  repairs.push({ openMs: passed * periodMs, slowestAnswerMs });
}

const calamities: readonly Calamity[] = [
  { name: "calls", happen: async () => {} },
  {
    name: "broker restart",
    async happen(trial, retained) {
      await trial.lab.broker.restart();
      retained.again();
    },
  },
  {
    name: "kill -9 of the agent",
    async happen(trial) {
      await trial.kill();
      await sleep(trial.random() * 500);
      await trial.start();
    },
  },
  { name: "bus restart", happen: (trial) => trial.lab.bus.restart() },
  { name: "flush of our table", happen: (trial) => flushed(trial, ["flush"]) },
  { name: "deletion of our table", happen: (trial) => flushed(trial, ["delete"]) },
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
function remembered(retained: Retained): string[] {
  return [...retained.messages.values()]
    .map((payload) => (JSON.parse(payload) as { result: { id: number; "merged-to"?: number } }).result)
    .filter((result) => result["merged-to"] === undefined)
    .map((result) => String(result.id))
    .sort();
}

/** Waits until answers, disk, broker and kernel say what the model says. */
async function agree(trial: Trial, retained: Retained, what: string): Promise<void> {
  // Whoever answers answers right; the rest has to follow.
  await trial.answers();
  await trial.agree(what);
  let differs: unknown;
  await eventually(`agreement, ${what}`, async () => {
    try {
      assert.equal(pairsOnDisk(), trial.pairsThatAre("blocked"), `${what}: pairs on disk, seed ${seed}`);
      const nodes = (await trial.nodes()).map((node) => String(node.id)).sort();
      assert.equal(remembered(retained), nodes, `${what}: retained nodes, seed ${seed}`);
      return true;
    } catch (thrown) {
      differs = thrown;
      return false;
    }
  }).catch((thrown) => {
    throw differs ?? thrown;
  });
  const open = new Set(trial.pairsThatAre("open"));
  const streams = trial.streams.filter((each) => open.has(trial.pairOf.get(each)!));
  await Promise.all(streams.map((each) => each.flows()));
}

test(`${durationMs / 1_000} s of chaos: everything agrees again each time, and nothing passes a block`, async () => {
  const { trial, pairs } = await begin("nft");
  const retained = new Retained(trial.lab, "SPIN/traffic/node/+");
  // Nobody decides about the last of laptop's flows: it is the witness.
  const witness = trial.streams[2]!;
  const decidable = pairs.filter((pair) => pair !== trial.pairOf.get(witness));
  const happened = new Map<string, number>();
  let slowestMs = 0;
  try {
    const endsAt = clockMs() + durationMs;
    for (let round = 1; clockMs() < endsAt || happened.size < calamities.length; round++) {
      const calamity = calamities[round % calamities.length]!;
      const what = `round ${round}, ${calamity.name}`;
      await trial.decide(decidable);
      await calamity.happen(trial, retained);
      const startedAt = clockMs();
      await agree(trial, retained, what);
      slowestMs = Math.max(slowestMs, clockMs() - startedAt);
      happened.set(calamity.name, (happened.get(calamity.name) ?? 0) + 1);
    }
    await trial.proveSilence();
    const pausedMs = witness.longestRun * periodMs;
    assert.ok(
      pausedMs < pauseMs,
      `${pausedMs} ms of the witness's packets were dropped in a row, seed ${seed}`,
    );
    for (const { openMs, slowestAnswerMs } of repairs) {
      const allowedMs = repairMs + turns * slowestAnswerMs;
      assert.ok(openMs < allowedMs, `${openMs} ms of packets passed, not ${allowedMs}, seed ${seed}`);
    }
    console.log(
      `${[...happened].map(([name, count]) => `${count} × ${name}`).join(", ")}; agreed in ${Math.round(slowestMs)} ms ` +
        `at most; the witness lost ${pausedMs} ms at most; open before repairs: ` +
        repairs.map(({ openMs, slowestAnswerMs }) => `${openMs} (${Math.round(slowestAnswerMs)})`).join(", "),
    );
  } finally {
    retained.end();
    await trial.end();
  }
});

test.run();
