/** SIGHUP: a new configuration counts, and nobody but its reader notices. */

import { readFileSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { paths } from "../lab/topology.ts";
import { begin, periodMs } from "./trial.ts";

const logOf = (name: string) => readFileSync(`${paths.folder}/${name}.log`, "utf8");
const count = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].length;

test("reload under load: no packet passes a block, no id changes, no stream pauses, the MQTT session stays", async () => {
  const { trial, pairs } = await begin("nft");
  const { lab } = trial;
  try {
    await trial.kill();
    await lab.agent.start();
    const reloads = () => count(logOf("agent"), / runs, \d+ nodes/g);
    const sessions = () => count(logOf("mosquitto"), /New client connected .* as gatehouse-/g);
    const reload = async () => {
      const before = reloads();
      process.kill(lab.agent.pid!, "SIGHUP");
      await eventually("the reloaded agent", async () => reloads() > before);
    };
    for (const pair of pairs.slice(0, 3)) await trial.block(pair);
    await trial.agree("before");
    await eventually("a session", async () => sessions() > 0);
    const first = sessions();
    const witness = trial.streams.at(-1)!;
    const witnessed = witness.received;
    for (let round = 0; round < 8; round++) {
      // Decisions go on meanwhile: what is acknowledged counts, whichever life acknowledged it.
      await trial.decide(pairs.slice(3, 5), reload);
      await trial.agree(`reload ${round}`);
    }
    await trial.proveSilence();
    assert.ok(witness.received > witnessed);
    const pauseMs = witness.longestRun * periodMs;
    assert.ok(pauseMs < 2_000, `${pauseMs} ms of the witness's packets were dropped in a row`);
    assert.is(sessions(), first, "the session was opened again");

    // A broken file is said, and changes nothing; one with another broker setting brings another session.
    const whole = readFileSync(paths.configuration, "utf8");
    writeFileSync(paths.configuration, whole.slice(0, whole.indexOf("'127.0.0.1'") + 4));
    await reload();
    assert.match(logOf("agent"), "it is broken; what was stays");
    await trial.agree("a broken file");
    assert.is(sessions(), first);
    writeFileSync(paths.configuration, whole.replace("option prefix 'SPIN'", "option prefix 'HOME'"));
    await reload();
    await eventually("a session with the new prefix", async () => sessions() === first + 1);
    const argv = ["mosquitto_sub", "-t", "HOME/status", "-C", "1", "-W", "30"];
    assert.is((await lab.must("router", argv)).trim(), "online");
    await trial.agree("a new prefix");
    await trial.proveSilence();
  } finally {
    await trial.end();
  }
});

test.run();
