/** The agent in the lab: shown, called, stopped and started, as people and tests do it. */

import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually, run } from "./children.ts";
import { bundleProgram, Lab } from "./network.ts";
import { servers } from "./topology.ts";
import { traces, untilLike } from "./traces.ts";

// Beside the test and not in $TMPDIR: the lab's own enclosure has another /run.
const program = `${__filename}.lab.cjs`;

test.before(() => bundleProgram("lab", program));
test.after(() => rmSync(program, { force: true }));

test("lab up: shows what the agent sees, and the commands that it prints work", async () => {
  const before = await traces();
  const up = spawn(process.execPath, [program, "up"], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [up.stdout, up.stderr]) stream.on("data", (chunk) => (text += chunk));
  const lab = (...args: string[]) => run([process.execPath, program, ...args]);
  try {
    const hint = await eventually("the command that cuts laptop and web", () =>
      /exec router (gatehouse call spin blockflow) '(\{.*"block":1\})'/.exec(text),
    ).catch((error: Error) => assert.unreachable(`${error.message}:\n${text}`));
    // Both families and all kinds of traffic take some seconds to have been seen.
    for (const line of [
      /^\d+ nodes$/m,
      /^\d+ +laptop +02:77:00:00:00:0a +10\.77\.0\.10 fd77::10/m,
      /^laptop \(\d+\) +web\.example\.net \(\d+\) +TCP 80 /m,
    ]) {
      await eventually(`${line} in\n${text}`, () => line.test(text));
    }
    const [, command, pair] = hint!;
    const ping = (seconds: number) =>
      lab("exec", "laptop", "ping", "-nqc1", `-w${seconds}`, servers.web.address4);
    assert.is((await ping(30)).status, 0);
    const answer = await lab("exec", "router", ...command!.split(" "), pair!);
    assert.equal(JSON.parse(answer.stdout), { return: 0 });
    assert.is((await ping(1)).status, 1);
  } finally {
    up.kill("SIGTERM");
    assert.is(await new Promise((resolve) => up.on("exit", resolve)), 0);
  }
  await untilLike(before);
});

test("Lab.agent: is called, killed and started again", async () => {
  const lab = await Lab.up();
  try {
    const first = lab.agent.pid!;
    assert.ok((await lab.pids("router")).includes(first));
    assert.ok(Array.isArray((await lab.call("gatehouse.nodes", "list")).nodes));
    assert.is(await lab.agent.kill(), 137);
    const refused = await lab.call("gatehouse.nodes", "list").then(
      () => "answered",
      () => "refused",
    );
    assert.is(refused, "refused");
    await lab.agent.start();
    assert.is.not(lab.agent.pid, first);
    assert.ok(Array.isArray((await lab.call("gatehouse.nodes", "list")).nodes));
    assert.is(await lab.agent.stop(), 0);
  } finally {
    await lab.close();
  }
});

test.run();
