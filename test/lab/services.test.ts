/** The lab of services as people start it: it comes up, says who may talk to whom, and what it proposes works. */

import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually, run } from "./children.ts";
import { runningLabs } from "./claim.ts";
import { bundleProgram } from "./network.ts";
import { services } from "./services.ts";
import { traces, untilLike } from "./traces.ts";

// Beside the test and not in $TMPDIR: the lab's own enclosure has another /run.
const program = `${__filename}.lab.cjs`;
const lab = (...args: string[]) => run([process.execPath, program, ...args]);

test.before(() => bundleProgram("lab", program));
test.after(() => rmSync(program, { force: true }));

test("lab up --services: status shows who may talk to whom, as packets and names have it, and follows changes", async () => {
  const before = await traces();
  const child = spawn(process.execPath, [program, "up", "--services"], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (text += chunk));
  const ended = new Promise((resolve) => child.on("exit", resolve));
  await eventually("the lab up", () => / is up: /.test(text));
  await eventually("the lab listed", () => runningLabs()[0]?.enclosure);
  const status = async () => (await lab("status")).stdout;
  await eventually("who may talk to whom", async () => (await status()).includes("may talk:"));
  const said = await status();
  for (const { name } of services)
    assert.match(
      said,
      new RegExp(`^ +${name} +10\\.3\\d\\.0\\.\\d+ fd3\\d::\\d +seen (?:as 198\\.1|by nobody)`, "m"),
    );
  assert.match(said, /^ +lamp +<-> web +all$/m);
  assert.match(said, /^ +app +--> cam +all$/m);
  assert.match(said, /^ +\*\.example\.net +<-- app +all$|^ +app +--> \*\.example\.net +all$/m);
  const dig = async (from: string, name: string) =>
    (await lab("exec", from, "dig", "+time=20", "+tries=2", "+noall", "+comments", "+answer", name)).stdout;
  const lamp = / lamp +\S+ \S+ +seen as (\S+)/.exec(said)![1]!;
  assert.ok((await dig("web", "lamp")).includes(lamp));
  assert.match(await dig("cam", "lamp"), /status: NXDOMAIN/);
  // What is printed to be tried works as it stands.
  await eventually("proposals", () => text.includes("explain"));
  for (const words of ["connect", "explain", "disconnect"]) {
    const [, shown] = new RegExp(` exec (router gatehouse call gatehouse\\.isolation ${words} .*)`).exec(
      text,
    )!;
    const argv = shown!.split(" ").map((word) => word.replaceAll("'", ""));
    const result = await lab("exec", ...argv);
    assert.is(result.status, 0, result.stderr);
  }
  const after = await status();
  assert.match(after, /^ +app +<-> boss +all$/m);
  assert.not.match(after, /^ +lamp +<-> web/m);
  assert.match(await dig("web", "lamp"), /status: NXDOMAIN/);
  assert.is((await lab("down")).status, 0);
  assert.is(await ended, 0);
  await untilLike(before);
});

test.run();
