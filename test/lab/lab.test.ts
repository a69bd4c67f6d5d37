/** The lab's commands do what they say, and nothing of a lab outlives it, however it ends. */

import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually, type Result, run } from "./children.ts";
import { processOf, runningLabs } from "./claim.ts";
import { bundleProgram } from "./network.ts";
import { servers } from "./topology.ts";
import { processes, traces, untilLike } from "./traces.ts";

// Beside the test and not in $TMPDIR: the lab's own enclosure has another /run.
const program = `${__filename}.lab.cjs`;

interface Up {
  readonly child: ChildProcess;
  readonly ended: Promise<number>;
  text(): string;
}

/** Starts a lab without an agent. */
const up = (...args: string[]) => start("--no-agent", ...args);

/** Starts a lab in the foreground and waits until it says that it is up. */
async function start(...args: string[]): Promise<Up> {
  const child = spawn(process.execPath, [program, "up", ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (text += chunk));
  const ended = new Promise<number>((resolve) => {
    child.on("exit", (code, signal) => resolve(code ?? (signal === "SIGKILL" ? 137 : 1)));
  });
  await eventually("the lab up", () => / is up: /.test(text));
  return { child, ended, text: () => text };
}

function lab(...args: string[]): Promise<Result> {
  return run([process.execPath, program, ...args]);
}

test.before(() => bundleProgram("lab", program));
test.after(() => rmSync(program, { force: true }));

test("lab exec: passes status, output, input and signals, and finds names and gatehouse", async () => {
  const before = await traces();
  const running = await up();
  await eventually("the lab listed", () => runningLabs()[0]?.enclosure);
  assert.match(
    (await lab("status")).stdout,
    /^lab \(process \d+\) is up: router, internet, laptop, camera$/m,
  );
  assert.is((await lab("exec", "laptop", "sh", "-c", "exit 42")).status, 42);
  assert.is((await lab("exec", "laptop", "no-such-command")).status, 127);
  assert.is((await lab("exec", "nowhere", "true")).status, 2);
  assert.is((await lab("exec", "laptop")).status, 2);
  assert.is((await lab("exec", "--name", "other", "laptop", "true")).status, 1);
  assert.match(
    (await lab("exec", "laptop", "ping", "-c1", "-W20", "web.example.net")).stdout,
    " 0% packet loss",
  );
  assert.match((await lab("exec", "router", "sh", "-c", "echo $PATH")).stdout, `${process.cwd()}/dist:`);
  assert.match((await lab("exec", "camera", "pwd")).stdout, process.cwd());
  const echo = await run([process.execPath, program, "exec", "camera", "cat"], {
    input: "through\0 and through",
  });
  assert.is(echo.stdout, "through\0 and through");
  for (const [signal, status] of [
    ["SIGTERM", 55],
    ["SIGINT", 56],
  ] as const) {
    const script = "trap 'exit 55' TERM; trap 'exit 56' INT; echo ready; while :; do sleep 0.05; done";
    const child = spawn(process.execPath, [program, "exec", "laptop", "sh", "-c", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await new Promise((resolve) => child.stdout.once("data", resolve));
    child.kill(signal);
    assert.is(await new Promise((resolve) => child.on("exit", (code) => resolve(code))), status);
  }
  const killed = spawn(process.execPath, [program, "exec", "laptop", "sleep", "4321"]);
  const sleeps = () => [...processes().values()].some((command) => /^sleep\x004321/.test(command));
  await eventually("the command", sleeps);
  killed.kill("SIGKILL"); // The command runs on, but no longer than the lab.
  running.child.kill("SIGINT");
  assert.is(await running.ended, 0);
  await untilLike(before);
});

test("lab up: two without a name run side by side, and each ends alone", async () => {
  const before = await traces();
  const [first, second] = await Promise.all([up(), up("--quiet")]);
  await eventually("both", () => runningLabs().filter((each) => each.enclosure).length === 2);
  assert.equal(
    runningLabs().map((each) => each.name),
    ["lab", "lab-2"],
  );
  const ambiguous = await lab("exec", "laptop", "true");
  assert.is(ambiguous.status, 2);
  assert.match(ambiguous.stderr, "lab, lab-2");
  const spaces = await Promise.all(
    ["lab", "lab-2"].map(
      async (name) => (await lab("exec", "--name", name, "laptop", "readlink", "/proc/self/ns/net")).stdout,
    ),
  );
  assert.is.not(spaces[0], spaces[1]);
  const taken = await lab("up", "--no-agent", "--name", "lab-2");
  assert.is(taken.status, 1);
  assert.match(taken.stderr, "runs already");
  assert.is((await lab("down", "--name", "lab")).status, 0);
  assert.equal(
    runningLabs().map((each) => each.name),
    ["lab-2"],
  );
  assert.match(
    (await lab("exec", "camera", "ping", "-c1", "-n", "-W20", servers.time.address6)).stdout,
    " 0% packet loss",
  );
  assert.is((await lab("down")).status, 0);
  assert.equal(await Promise.all([first.ended, second.ended]), [0, 0]);
  const none = await lab("status");
  assert.equal([none.status, none.stdout], [1, "No lab runs\n"]);
  assert.is((await lab("down")).status, 1);
  await untilLike(before);
});

test("lab up --ipref: two homes with the same addresses, where hosts of one know those of the other by name", async () => {
  const before = await traces();
  const running = await start("--ipref");
  await eventually("the lab listed", () => runningLabs()[0]?.enclosure);
  for (const [from, name] of [
    ["mine-laptop", "nas.parents.example"],
    ["parents-laptop", "nas.mine.example"],
  ] as const) {
    assert.match((await lab("exec", from, "ip", "-4", "address")).stdout, " 192.168.1.10/24 ");
    assert.match((await lab("exec", from, "ping", "-c1", "-W20", name)).stdout, " 0% packet loss");
  }
  // What is printed to be tried works as it stands.
  const [, hint] = / exec (mine gatehouse .*)/.exec(running.text())!;
  assert.match((await lab("exec", ...hint!.split(" "))).stdout, "203.0.113.98");
  assert.is((await lab("down")).status, 0);
  assert.is(await running.ended, 0);
  await untilLike(before);
});

test("lab up: SIGTERM leaves nothing, also in the middle of building", async () => {
  const before = await traces();
  const running = await up("--name", "one");
  running.child.kill("SIGTERM");
  assert.is(await running.ended, 0);
  await untilLike(before);
  const child = spawn(process.execPath, [program, "up", "--no-agent"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve)); // "building the network"
  child.kill("SIGTERM");
  assert.is(await new Promise((resolve) => child.on("exit", resolve)), 0);
  await untilLike(before);
});

test("lab up: kill -9 of either process leaves at most the name's file, which the next start removes", async () => {
  const before = await traces();
  const first = await up("--name", "one");
  const second = await up("--name", "two");
  const enclosure = await eventually(
    "the second's place",
    () => runningLabs().find((each) => each.name === "two")?.enclosure,
  );
  first.child.kill("SIGKILL");
  process.kill(enclosure.pid, "SIGKILL");
  assert.is(await first.ended, 137);
  assert.is.not(await second.ended, 0);
  assert.match(second.text(), "has ended");
  await eventually("one file", () => JSON.stringify(files()) === '["gatehouse-lab-one.json"]');
  assert.equal(runningLabs(), []);
  assert.is((await lab("exec", "--name", "one", "laptop", "true")).status, 1);
  const third = await up();
  assert.equal(files(), ["gatehouse-lab-lab.json"]);
  third.child.kill("SIGTERM");
  await third.ended;
  await untilLike(before);
});

function files(): string[] {
  return readdirSync("/run").filter((name) => name.startsWith("gatehouse-lab-"));
}

test("lab exec: a process id that somebody else has now is not taken for the lab", async () => {
  const other = { pid: process.pid, startedAt: processOf(process.pid)!.startedAt - 1 };
  const text = { name: "lab", foreground: other, enclosure: other, hosts: ["laptop"] };
  writeFileSync("/run/gatehouse-lab-lab.json", JSON.stringify(text));
  const foreign = await lab("exec", "laptop", "true");
  assert.equal([foreign.status, foreign.stderr], [1, "No lab runs; start one with up\n"]);
  const running = await up();
  assert.match(running.text(), "lab lab is up"); // Nobody held the name.
  running.child.kill("SIGTERM");
  await running.ended;
  assert.equal(files(), []);
});

test("lab: what is typed wrongly is answered by one line and status 2", async () => {
  for (const args of [
    ["up", "--name", "A/b"],
    ["up", "--nonsense"],
    ["up", "--backend", "pf"],
    ["up", "--ipref", "--uplinks"],
    ["dance"],
    [],
  ]) {
    const result = await lab(...args);
    assert.is(result.status, 2, args.join(" "));
    assert.not.match(result.stderr, /\n\s+at /);
  }
  assert.equal(files(), []);
});

test.run();
