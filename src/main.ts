/**
 * The door: finds the addon beside the program, reads the arguments, and leaves with a status.
 *
 * Here, and in the machine floor, Node is touched; the verbs of the command line are in cli/, the agent in
 * agent/. Signals: SIGTERM and SIGINT end in order, SIGHUP makes the agent read its configuration again (state,
 * kernel rules and ids stay as they are) and the bus its access rules.
 */

import { realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { isMainThread } from "node:worker_threads";
import { type Agent, Sessions, startAgent } from "./agent/agent.ts";
import { captureVerb, leaseVerb, replayVerb, runCli, tablesVerb, type Verb } from "./cli/cli.ts";
import { type Config, loadConfig } from "./config/config.ts";
import { forwardingProgram, forwardPackets } from "./ipref/ipref.ts";
import { messageOf } from "./lib/fault.ts";
import { openLinux } from "./system/linux.ts";
import type { Cancel, System } from "./system/system.ts";
import { runWorker } from "./system/workers.ts";
import { openBus } from "./ubus/ubus.ts";

declare const GATEHOUSE_VERSION: string;

const version = `gatehouse ${GATEHOUSE_VERSION}`;
const defaultConfig = "/etc/config/gatehouse";
/** A stop that takes longer than this is one that hangs. */
const stopMs = 8_000;

function onSignals(names: readonly NodeJS.Signals[], call: () => void): Cancel {
  for (const name of names) process.on(name, call);
  return () => {
    for (const name of names) process.off(name, call);
  };
}

/** Resolves when the user or procd wants an end. */
function endWanted(): Promise<void> {
  return new Promise((resolve) => onSignals(["SIGTERM", "SIGINT"], resolve));
}

/** The configuration; `before`, if there is one, stands in for a file that is broken or not there. */
async function readConfig(system: System, path: string, before?: Config): Promise<Config> {
  const bytes = await system.read(path);
  const { config, warnings, isWhole } = loadConfig(bytes ? new TextDecoder().decode(bytes) : "");
  for (const warning of warnings) system.log("warning", `${path}: ${warning}`);
  const keeps = before !== undefined && (!bytes || !isWhole);
  if (!bytes || keeps) {
    const fault = bytes ? "it is broken" : "it is not there";
    system.log("warning", `Cannot read ${path}: ${fault}; ${keeps ? "what was stays" : "defaults are used"}`);
  }
  return keeps ? before : config;
}

/** Ends the process when the work has ended, or when it hangs. */
async function end(work: Promise<void>): Promise<number> {
  setTimeout(() => process.exit(1), stopMs).unref();
  await work;
  return 0;
}

/**
 * Chosen by measuring an agent with 1,000 nodes that is asked for all of them ten times: 60 MB resident with both,
 * 68 MB with the first alone, 94 MB with neither. The price is more, and shorter, collections.
 */
const thriftyFlags = ["--semi-space-growth-factor=1", "--optimize-for-size"];

const run: Verb = {
  synopsis: "run [-c FILE]",
  summary: "the agent, in the foreground",
  async run(args, { system, flags }) {
    for (const flag of thriftyFlags) setFlagsFromString(flag);
    const path = optionOf(args, "-c") ?? defaultConfig;
    const sessions = new Sessions(system);
    let config = await readConfig(system, path);
    const start = () => startAgent(system, { config, socket: flags.socket, version, sessions });
    let agent: Agent = await start();
    let reloading: Promise<void> = Promise.resolve();
    onSignals(["SIGHUP"], () => {
      reloading = reloading.then(async () => {
        config = await readConfig(system, path, config);
        sessions.hold();
        await agent.close();
        agent = await start();
        await sessions.settle();
      });
      reloading.catch((thrown) => {
        system.log("error", messageOf(thrown));
        process.exit(1);
      });
    });
    await endWanted();
    return end(reloading.then(() => agent.close()));
  },
};

const bus: Verb = {
  synopsis: "bus",
  summary: "a ubusd of our own, for machines without one",
  async run(_args, { system, flags }) {
    const opened = await openBus(system, { path: flags.socket });
    onSignals(["SIGHUP"], () => void opened.reloadAcl());
    await endWanted();
    return end(opened.close());
  },
};

const check: Verb = {
  synopsis: "check [-c FILE]",
  summary: "reads the configuration and says what is wrong with it",
  async run(args, { system, io }) {
    const path = optionOf(args, "-c") ?? defaultConfig;
    const bytes = await system.read(path);
    if (!bytes) {
      io.stderr(`Cannot read ${path}: it is not there\n`);
      return 1;
    }
    const { warnings } = loadConfig(new TextDecoder().decode(bytes));
    for (const warning of warnings) io.stdout(`${path}: ${warning}\n`);
    return warnings.length === 0 ? 0 : 1;
  },
};

/** Bytes for standard output. @returns false if its reader has left. */
function writeOut(bytes: Uint8Array): Promise<boolean> {
  return new Promise((resolve) => process.stdout.write(bytes, (error) => resolve(!error)));
}

/** The value behind a flag; undefined if the flag is not there. */
function optionOf(args: readonly string[], flag: string): string | undefined {
  const at = args.indexOf(flag);
  return at < 0 ? undefined : args[at + 1];
}

async function main(): Promise<void> {
  const program = realpathSync(process.argv[1]!);
  const system = openLinux({ nativePath: join(dirname(program), "netio.node"), program });
  // A pipe whose reader has left is the end of output, not of the program.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  process.exitCode = await runCli(process.argv.slice(2), system, {
    stdout: (text) => process.stdout.write(text),
    stderr: (text) => process.stderr.write(text),
    stdoutIsTty: process.stdout.isTTY === true,
    stderrIsTty: process.stderr.isTTY === true,
    onSignal: (call) => onSignals(["SIGINT", "SIGTERM"], call),
    version,
    verbs: new Map([
      ["run", run],
      ["bus", bus],
      ["check", check],
      ["lease", leaseVerb],
      ["tables", tablesVerb],
      ["capture", captureVerb(writeOut)],
      ["replay", replayVerb(() => ({ pieces: process.stdin, close: () => void process.stdin.destroy() }))],
    ]),
  });
}

if (isMainThread) {
  main().catch((thrown) => {
    process.stderr.write(`gatehouse: ${messageOf(thrown)}\n`);
    process.exitCode = 1;
  });
} else {
  runWorker({ [forwardingProgram]: forwardPackets });
}
