/**
 * The door: finds the addon beside the program, reads the arguments, and leaves with a status.
 *
 * Here, and in the machine floor, Node is touched; the verbs of the command line are in cli/, the agent in
 * agent/. Signals: SIGTERM and SIGINT end in order, SIGHUP makes the agent read its configuration again (state,
 * kernel rules and ids stay as they are) and the bus its access rules.
 *
 * Kept on disk is the last configuration that an agent began with, `configuration.json` in the state directory: a file
 * that is broken when an agent starts does not change what the router does. It is written only when it is another.
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
import { isObject } from "./lib/json.ts";
import { openLinux } from "./system/linux.ts";
import { openStore, peekStore } from "./system/store.ts";
import type { Cancel, Disk, Level, System } from "./system/system.ts";
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

/**
 * What signals ask of an agent: another reading of its configuration, or its end, which nothing takes back. Made first
 * of all: a SIGHUP that nobody hears ends the process. What is asked while it is busy is done next, and once.
 */
class Wishes {
  #wish: "reload" | "end" | undefined;
  #wake: (() => void) | undefined;
  /** Resolves when its end is wanted. */
  readonly end: Promise<"end">;

  constructor() {
    this.end = new Promise((resolve) =>
      onSignals(["SIGTERM", "SIGINT"], () => {
        if (this.#wish !== "end") exitLater();
        this.#wish = "end";
        this.#wake?.();
        resolve("end");
      }),
    );
    // Last: who sees that it is heard may send any of them.
    onSignals(["SIGHUP"], () => {
      this.#wish ??= "reload";
      this.#wake?.();
    });
  }

  async next(): Promise<"reload" | "end"> {
    while (this.#wish === undefined) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const wish = this.#wish;
    if (wish === "reload") this.#wish = undefined;
    return wish;
  }
}

/** Ends the process when its work has not. */
function exitLater(): void {
  setTimeout(() => process.exit(1), stopMs).unref();
}

/** The text of a configuration, and what it says; or why there is none. */
type Reading =
  | { readonly kind: "whole"; readonly text: string; readonly config: Config }
  | { readonly kind: "broken"; readonly fault: string; readonly rest: string; readonly config: Config };

async function readConfig(system: Disk & Pick<System, "log">, path: string): Promise<Reading> {
  let bytes: Uint8Array | undefined;
  let fault = "it is not there";
  try {
    bytes = await system.read(path);
  } catch (thrown) {
    fault = messageOf(thrown);
  }
  const text = bytes ? new TextDecoder().decode(bytes) : "";
  const { config, warnings, isWhole } = loadConfig(text);
  for (const warning of warnings) system.log("warning", `${path}: ${warning}`);
  if (bytes && isWhole) return { kind: "whole", text, config };
  return bytes
    ? { kind: "broken", fault: "it is broken", rest: "what can be read of it is used", config }
    : { kind: "broken", fault, rest: "defaults are used", config };
}

/** The last configuration that was whole and that an agent began with, line by line. */
const goodFormat = {
  version: 1,
  parse(state: unknown): string {
    const lines = isObject(state) && Array.isArray(state.lines) ? (state.lines as unknown[]) : [];
    const text = lines.join("\n");
    if (lines.some((line) => typeof line !== "string") || !loadConfig(text).isWhole)
      throw new SyntaxError("it is no configuration");
    return text;
  },
};

/** In the state directory, which a broken file may not tell: then it is the default one. */
function goodPath({ main }: Config): string {
  return `${main.stateDir}/configuration.json`;
}

async function saveGood(system: System, { text, config }: { text: string; config: Config }): Promise<void> {
  const { store, damage } = await openStore(system, goodPath(config), goodFormat);
  if (damage) system.log("warning", damage.message);
  try {
    await store.save(() => ({ lines: text.split("\n") }));
  } catch (thrown) {
    system.log("warning", messageOf(thrown));
  }
  await store.close().catch(() => {});
}

/** What an agent begins with: the file, or, where that is broken or not there, the last one that was neither. */
async function firstConfig(system: System, path: string): Promise<Reading> {
  const reading = await readConfig(system, path);
  if (reading.kind === "whole") return reading;
  const { fault, rest, config } = reading;
  const kept = goodPath(config);
  const text = await peekStore(system, kept, goodFormat);
  const used = text === undefined ? rest : `the last good one is used, from ${kept}`;
  system.log("error", `Cannot read ${path}: ${fault}; ${used}`);
  return text === undefined ? reading : { ...reading, config: loadConfig(text).config };
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
    const wishes = new Wishes();
    for (const flag of thriftyFlags) setFlagsFromString(flag);
    const path = optionOf(args, "-c") ?? defaultConfig;
    const sessions = new Sessions(system);
    const begin = async ({ config }: Reading): Promise<Agent> => {
      const starting = startAgent(system, { config, socket: flags.socket, version, sessions });
      const begun = await Promise.race([starting, wishes.end]);
      if (begun !== "end") return begun;
      // What is only starting has nothing to end: wherever it is, a crash would lose nothing.
      await sessions.settle();
      process.exit(0);
    };
    let reading = await firstConfig(system, path);
    let agent = await begin(reading);
    if (reading.kind === "whole") await saveGood(system, reading);
    while ((await wishes.next()) === "reload") {
      try {
        const next = await readConfig(system, path);
        if (next.kind === "whole") reading = next;
        else system.log("warning", `Cannot read ${path}: ${next.fault}; what was stays`);
        sessions.hold();
        await agent.close();
        agent = await begin(reading);
        await sessions.settle();
        if (reading.kind === "whole") await saveGood(system, reading);
      } catch (thrown) {
        system.log("error", messageOf(thrown));
        process.exit(1);
      }
    }
    await agent.close();
    return 0;
  },
};

const bus: Verb = {
  synopsis: "bus",
  summary: "a ubusd of our own, for machines without one",
  async run(_args, { system, flags }) {
    const wishes = new Wishes();
    const opened = await openBus(system, { path: flags.socket });
    while ((await wishes.next()) === "reload") await opened.reloadAcl();
    await opened.close();
    return 0;
  },
};

const check: Verb = {
  synopsis: "check [-c FILE]",
  summary: "reads the configuration and says what is wrong with it",
  async run(args, { system, io }) {
    const path = optionOf(args, "-c") ?? defaultConfig;
    const lines: string[] = [];
    const log = (_level: Level, line: string) => void lines.push(line);
    const reading = await readConfig({ ...system, log }, path);
    if (reading.kind === "broken") {
      const kept = goodPath(reading.config);
      const isKept = (await peekStore(system, kept, goodFormat)) !== undefined;
      const used = isKept ? `a start uses the last good one, ${kept}` : reading.rest;
      io.stderr(`Cannot read ${path}: ${reading.fault}; ${used}\n`);
    }
    for (const line of lines) io.stdout(`${line}\n`);
    return reading.kind === "whole" && lines.length === 0 ? 0 : 1;
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
