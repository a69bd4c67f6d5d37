/**
 * Runs the test suite: every file of build/test in a process and an enclosure of its own.
 *
 *     node build/run.cjs [WORD…]      only files whose path holds one of the words
 *
 * Four run side by side, each in a network of its own: three lanes with those that build networks and wait, the longest
 * first, and a fourth, which yields to them, with those that only compute. A file that fails in company runs once more
 * when the others have ended, because it may have been them who failed it: what fails alone has failed. The last line
 * is `N passed, N failed`.
 */

import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { enclose } from "./lab/enclosure.ts";

/** Folders whose tests build networks, and those among the others. What takes longest comes first. */
const networks = [
  "net",
  "web",
  "kernel",
  "lab",
  "threats",
  "package",
  "capture",
  "neighbours",
  "tables",
  "system",
];
const alsoNetworks = [
  "ipref/engine",
  "ipref/sizes",
  "ipref/forwarding",
  "ipref/crowd",
  "ipref/life",
  "agent/discovery",
  "agent/gateway",
];
/** As long as many others together. */
const longest = "net/crash";
const lanes = 3;
const limitMs = 900_000;
/** More than so many that failed are no accident. */
const mostAgain = 5;

interface Outcome {
  readonly passed: number;
  readonly failed: number;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesBelow(path);
    return path.endsWith(".test.cjs") ? [path] : [];
  });
}

function nameOf(path: string, root: string): string {
  return relative(root, path).replace(/\.test\.cjs$/, "");
}

function runFile(path: string, root: string, yields: boolean): Promise<Outcome> {
  const name = nameOf(path, root);
  const startedAt = Date.now();
  return new Promise((resolve) => {
    const nice = yields ? ["nice", "-n", "10"] : [];
    const [program, ...args] = enclose([...nice, process.execPath, "--enable-source-maps", path]);
    const child = spawn(program!, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, FORCE_COLOR: "0", NO_COLOR: "1" },
    });
    let text = "";
    let late = false;
    child.stdout.on("data", (chunk) => (text += chunk));
    child.stderr.on("data", (chunk) => (text += chunk));
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, limitMs);
    child.on("close", (status) => {
      clearTimeout(timer);
      const count = (word: string) =>
        [...text.matchAll(new RegExp(`^\\s*${word}:\\s+(\\d+)`, "gm"))].reduce(
          (sum, hit) => sum + Number(hit[1]),
          0,
        );
      const total = count("Total");
      const passed = count("Passed");
      // A skipped test has shown nothing: it counts as failed. So does a file that ran none, or died.
      const failed = Math.max(total - passed, status === 0 && total > 0 ? 0 : 1);
      const seconds = ((Date.now() - startedAt) / 1000).toFixed(1);
      console.log(
        `${failed === 0 ? "ok  " : "FAIL"} ${name}  ${passed} passed${failed ? `, ${failed} failed` : ""}  ${seconds} s`,
      );
      for (const [line] of failed > 0 ? [] : text.matchAll(/^not run: .*$/gm)) console.log(`     ${line}`);
      if (failed > 0) console.log(late ? `${text}\nstopped after ${limitMs / 1000} s` : text);
      resolve({ passed, failed });
    });
  });
}

async function main(): Promise<void> {
  const root = join(__dirname, "test");
  const words = process.argv.slice(2);
  const files = filesBelow(root)
    .filter((path) => words.length === 0 || words.some((word) => relative(root, path).includes(word)))
    .sort();
  const rank = (path: string) => {
    const name = nameOf(path, root);
    if (name === longest) return 0;
    const at = networks.indexOf(name.split("/")[0]!);
    if (at >= 0) return at + 1;
    return alsoNetworks.includes(name) ? networks.length + 1 : undefined;
  };
  const waiting = files
    .filter((path) => rank(path) !== undefined)
    .sort((one, other) => rank(one)! - rank(other)!);
  const computing = files.filter((path) => rank(path) === undefined);
  let passed = 0;
  let failed = 0;
  const add = (outcome: Outcome) => {
    passed += outcome.passed;
    failed += outcome.failed;
  };
  const inCompany = new Map<string, Outcome>();
  const lane = async (yields: boolean, ...queues: string[][]) => {
    for (const queue of queues) {
      for (let path = queue.shift(); path !== undefined; path = queue.shift()) {
        const outcome = await runFile(path, root, yields);
        if (outcome.failed > 0) inCompany.set(path, outcome);
        else add(outcome);
      }
    }
  };
  await Promise.all([
    ...Array.from({ length: lanes }, () => lane(false, waiting, computing)),
    lane(true, computing),
  ]);
  const again = files.length > 1 && inCompany.size <= mostAgain;
  if (again && inCompany.size > 0) console.log("once more, alone:");
  for (const [path, outcome] of inCompany) add(again ? await runFile(path, root, false) : outcome);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
}

void main();
