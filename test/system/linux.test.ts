/** Clock, programs, log and randomness of the real machine. */

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { nativePath, until } from "./until.ts";

const lines: string[] = [];
const system = openLinux({ nativePath, log: (level, line) => lines.push(`${level} ${line}`) });

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as Fault).code;
  }
  return "no fault";
}

test("now counts from the boot, for every process alike", () => {
  const uptimeMs = () => Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1000;
  // Suspended time apart, of which a test machine has next to none.
  const [before, now, after] = [uptimeMs(), system.now(), uptimeMs()];
  assert.ok(now > before - 5_000 && now < after + 5_000, `${now} against ${before} to ${after}`);
  assert.ok(system.now() >= now);
  const [earlier, date, later] = [Date.now(), system.date(), Date.now()];
  assert.ok(earlier <= date && date <= later);
});

test("after calls once, never early; cancelled it does not", async () => {
  const early: number[] = [];
  let calls = 0;
  for (let delayMs = 0; delayMs < 30; delayMs++) {
    const dueAt = system.now() + delayMs;
    system.after(delayMs, () => {
      calls++;
      if (system.now() < dueAt) early.push(delayMs);
    });
  }
  let cancelled = 0;
  const cancel = system.after(1, () => cancelled++);
  cancel();
  cancel();
  system.after(-5, () => calls++);
  await until(() => calls === 31, "all calls");
  assert.equal(early, []);
  assert.is(cancelled, 0);
});

test("after takes delays that Node's timers do not", async () => {
  let calls = 0;
  const cancels = [2 ** 31, 1e15, Number.POSITIVE_INFINITY].map((delayMs) =>
    system.after(delayMs, () => calls++),
  );
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.is(calls, 0);
  for (const cancel of cancels) cancel();
  assert.throws(() => system.after(Number.NaN, () => {}), RangeError);
  for (const periodMs of [0, -1, Number.NaN, 2 ** 31]) {
    assert.throws(() => system.every(periodMs, () => {}), RangeError);
  }
});

test("every calls again and again until cancelled", async () => {
  let calls = 0;
  const cancel = system.every(5, () => calls++);
  await until(() => calls >= 3, "three calls");
  cancel();
  const after = calls;
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.is(calls, after);
});

test("run answers with status, output and pid, and no shell looks at the words", async () => {
  const words = ["$(touch /run/scratch/pwned)", "a b", "*", "`id`", ";", "\u00e9"];
  const result = await system.run(["printf", "%s\n", ...words]);
  assert.is(result.stdout, `${words.join("\n")}\n`);
  assert.not.ok(existsSync("/run/scratch/pwned"));
  assert.equal([result.status, result.stderr], [0, ""]);
  assert.ok(result.pid > 1);
  const failed = await system.run(["sh", "-c", "echo out; echo err >&2; exit 7"]);
  assert.equal([failed.status, failed.stdout, failed.stderr], [7, "out\n", "err\n"]);
  assert.is((await system.run(["sh", "-c", "kill -9 $$"])).status, 137);
  assert.is((await system.run(["sh", "-c", "echo $LC_ALL; pwd"])).stdout, "C\n/\n");
});

test("run hands over input of any size; a program that does not read it is no fault", async () => {
  const input = "0123456789\n".repeat(100_000);
  assert.is((await system.run(["cat"], { input })).stdout, input);
  assert.is((await system.run(["true"], { input })).status, 0);
  assert.is((await system.run(["wc", "-c"])).stdout.trim(), "0");
});

test("run ends what takes too long or says too much", async () => {
  assert.is(await codeOf(system.run(["sleep", "600"], { timeoutMs: 50 })), "timeout");
  assert.is(await codeOf(system.run(["sh", "-c", "sleep 600 & sleep 600"], { timeoutMs: 50 })), "timeout");
  assert.is(await codeOf(system.run(["yes"], { maxOutputBytes: 100_000 })), "limit");
  const left = () => execFileSync("ps", ["-eo", "args"], { encoding: "utf8" });
  await until(() => !/^yes$/m.test(left()), "the program is gone");
});

test("run names a program that is not there, or may not be run", async () => {
  assert.is(await codeOf(system.run(["no-such-program"])), "not-found");
  assert.is(await codeOf(system.run(["/etc/passwd"])), "denied");
  assert.throws(() => system.run([]), TypeError);
});

test("log shows control characters, and cuts what is too long", () => {
  lines.length = 0;
  system.log("warning", "a\x1b[31m\nb\x00\x7f\x9b\u2028\u202e\ud800 \u00e9 \u{1f600}");
  assert.equal(lines, ["warning a\\x1b[31m\\x0ab\\x00\\x7f\\x9b\\u2028\\u202e\\ud800 \u00e9 \u{1f600}"]);
  system.log("info", "x".repeat(100_000));
  assert.ok(lines[1]!.length < 5_000);
});

test("log lets a flood through in part, and says how much it left out", async () => {
  const told: string[] = [];
  const { log } = openLinux({ nativePath, log: (_, line) => told.push(line) });
  for (let count = 1; count <= 1000; count++) log("warning", `complaint ${count}`);
  assert.ok(told.length >= 100 && told.length < 200, `${told.length} lines`);
  const passed = told.length;
  await until(() => {
    log("info", "later");
    return told.length > passed;
  }, "a line that passes");
  const leftOut = Number(/^(\d+) lines left out$/.exec(told[passed]!)?.[1]);
  assert.ok(leftOut >= 1000 - passed, `${leftOut} left out`);
  assert.is(told[passed + 1], "later");
});

test("log goes to standard error by itself", async () => {
  const code = `require("node:fs").writeSync(2, "")`;
  assert.is((await system.run([process.execPath, "-e", code])).stderr, "");
  const written: string[] = [];
  const fs = require("node:fs");
  const before = fs.writeSync;
  fs.writeSync = (_fd: number, text: string) => written.push(text);
  openLinux({ nativePath }).log("error", "broken\nlamp");
  fs.writeSync = before;
  assert.equal(written, ["gatehouse: broken\\x0alamp\n"]);
});

test("random gives bytes that differ, of every length", () => {
  assert.is(system.random(0).length, 0);
  assert.is(system.random(100_000).length, 100_000);
  assert.not.equal(system.random(16), system.random(16));
});

test("self tells this process", () => {
  assert.equal([system.self.pid, system.self.uid], [process.pid, 0]);
  assert.ok(system.self.residentBytes() > 10_000_000);
});

test("without the addon, what needs it is a fault and all else works", async () => {
  const bare = openLinux({ nativePath: "/nowhere/netio.node" });
  const handlers = { onMessage() {}, onOverrun() {}, onClose() {} };
  assert.throws(() => bare.netlink({ protocol: 0 }, handlers), /Cannot load/);
  assert.is((await bare.run(["true"])).status, 0);
});

test.run();
