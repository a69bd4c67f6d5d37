/**
 * The lab for people: a home network with the agent in its router, on one machine, until Ctrl-C.
 *
 *     npm run lab -- up [--name NAME] [--backend nft|ipset] [--uplinks] [--no-agent] [--quiet]
 *     npm run lab -- up --services [--name NAME] [--backend nft|ipset] [--no-agent] [--quiet]
 *     npm run lab -- up --ipref [--name NAME] [--no-agent] [--quiet]
 *     npm run lab -- exec [--name NAME] HOST COMMAND…
 *     npm run lab -- status
 *     npm run lab -- down [--name NAME]
 *
 * `up` stays in the foreground as two processes: this one, which the user sees and signals, holds the lab's name
 * (claim.ts); the other is the first process of the enclosure, builds the network (network.ts), makes traffic and
 * draws. Either one's end is the end of everything. Without a name `up` takes a free one, and the others
 * mean the only lab that runs.
 */

import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { isatty } from "node:tty";
import { parseArgs } from "node:util";
import { messageOf } from "../../src/lib/fault.ts";
import { servePages } from "../web/serve.ts";
import { eventually, statusOf } from "./children.ts";
import { Claim, checkName, childrenOf, isAlive, processOf, type RunningLab, runningLabs } from "./claim.ts";
import { enclose } from "./enclosure.ts";
import { Neighbourhood, renderTrials } from "./neighbourhood.ts";
import { Lab, root, searchPath } from "./network.ts";
import { renderErrands, renderReach, services, Town } from "./services.ts";
import { type Frame, plain, redraw, renderHints, renderView, rowsOf, type Size, type View } from "./table.ts";
import { type Backend, paths } from "./topology.ts";
import { addUplink, leaseUplinks } from "./uplinks.ts";

const usage = `usage: lab up [--name NAME] [--backend nft|ipset] [--uplinks] [--no-agent] [--quiet]
       lab up --services [--name NAME] [--backend nft|ipset] [--no-agent] [--quiet]
       lab up --ipref [--name NAME] [--no-agent] [--quiet]
       lab exec [--name NAME] HOST COMMAND…
       lab status
       lab down [--name NAME]
`;

interface UpOptions {
  readonly name: string;
  readonly named: boolean;
  readonly backend: Backend;
  readonly agent: boolean;
  readonly quiet: boolean;
  /** A second uplink, and a leased routing table for each address of both. */
  readonly uplinks: boolean;
  /** Two homes with the same addresses instead of one (neighbourhood.ts). */
  readonly ipref: boolean;
  /** Services on three segments, kept apart. */
  readonly services: boolean;
}

/** What the process in the enclosure tells the one in the foreground. */
interface UpMessage {
  readonly hosts: readonly string[];
}

/** A wrong command line, or something that the user can put right: one line, no stack. */
class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const drawEveryMs = 2000;
const printEveryMs = 5_000;
const stopLimitMs = 3000;

/** What the clients do all day: KIND:FAMILY:NAME, see peer.ts. */
const habits: Record<string, readonly string[]> = {
  laptop: [
    "tcp:4:web.example.net",
    "tcp:6:web.example.net",
    "udp:4:time.example.net",
    "ping:6:video.example.net",
    "dns:4:www.example.net",
    "tcp:6:cdn-a.example.net",
    "udp:6:video.example.net",
    "ping:4:web.example.net",
  ],
  camera: [
    "tcp:4:cdn-b.example.net",
    "udp:6:time.example.net",
    "ping:4:time.example.net",
    "tcp:6:video.example.net",
    "udp:4:video.example.net",
    "ping:6:cdn-b.example.net",
  ],
};

// ── up, in the foreground ───────────────────────────────────────────────────────────────────────────────

function up(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      name: { type: "string" },
      backend: { type: "string", default: "auto" },
      agent: { type: "boolean", default: true },
      "no-agent": { type: "boolean", default: false },
      quiet: { type: "boolean", default: false },
      uplinks: { type: "boolean", default: false },
      ipref: { type: "boolean", default: false },
      services: { type: "boolean", default: false },
    },
  });
  if (values.ipref && (values.uplinks || values.backend !== "auto"))
    throw new Refusal(2, "Cannot start: --ipref goes with neither --uplinks nor --backend");
  if (values.services && (values.uplinks || values.ipref))
    throw new Refusal(2, "Cannot start: --services goes with neither --uplinks nor --ipref");
  if (!["auto", "nft", "ipset"].includes(values.backend))
    throw new Refusal(2, "Cannot start: --backend nft or ipset");
  if (values.name !== undefined) checkName(values.name);
  if (process.getuid?.() !== 0)
    throw new Refusal(1, "Cannot start the lab: it needs root, for its namespaces");
  const agent = values.agent && !values["no-agent"];
  if (agent && !existsSync(join(root, "dist/gatehouse"))) {
    throw new Refusal(1, "Cannot start the lab: dist/gatehouse is not built (make build), or use --no-agent");
  }
  const claim = Claim.take(values.name);
  if (claim === undefined)
    throw new Refusal(1, `Cannot start the lab: one named ${values.name} runs already`);
  const options: UpOptions = {
    name: claim.name,
    named: runningLabs().length > 1,
    backend: values.backend as Backend,
    agent,
    quiet: values.quiet,
    uplinks: values.uplinks,
    ipref: values.ipref,
    services: values.services,
  };
  const [program, ...rest] = enclose([process.execPath, __filename, "inside", JSON.stringify(options)]);
  // Away from the terminal's signals: they come here, and the enclosure is told.
  const child = spawn(program!, rest, { stdio: ["ignore", "inherit", "inherit", "ipc"], detached: true });
  let stopping = false;
  const stop = () => {
    if (stopping) child.kill("SIGKILL"); // Asked twice: at once.
    stopping = true;
    if (child.connected) child.disconnect();
    setTimeout(() => child.kill("SIGKILL"), stopLimitMs).unref();
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, stop);
  let isUp = false;
  child.on("message", (message) => {
    isUp = true;
    const inside = childrenOf(child.pid!)[0];
    claim.tell(inside === undefined ? undefined : processOf(inside), (message as UpMessage).hosts);
    if (inside === undefined || !agent) return;
    const send = (what: "reload" | { readonly pages: string }) => child.connected && child.send(what);
    servePages({ pid: inside, reload: () => send("reload") }).then(
      ({ url }) => send({ pages: url }),
      (error: unknown) => console.error(`Cannot serve the pages: ${messageOf(error)}`),
    );
  });
  return new Promise((resolve, reject) => {
    child.on("error", (error) => {
      claim.release();
      reject(new Refusal(1, `Cannot start the lab: ${error.message}`));
    });
    child.on("exit", (code, signal) => {
      claim.release();
      // Before it is up, it says itself what went wrong.
      if (isUp && !stopping) console.error(`Lab ${claim.name} has ended: its first process is gone`);
      resolve(stopping ? 0 : statusOf(code, signal));
    });
  });
}

// ── up, as the first process of the enclosure ───────────────────────────────────────────────────────────

async function inside(text: string): Promise<never> {
  const options = JSON.parse(text) as UpOptions;
  // The end of the enclosure's first process is the end of everything in it.
  process.on("disconnect", () => process.exit(0));
  process.stdout.on("error", () => process.exit(0));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(0));
  const print = (line: string) => process.stdout.write(`${line}\n`);
  if (!options.quiet) print(`gatehouse lab ${options.name}: building the network`);
  if (options.ipref) return insideHomes(options, print);
  if (options.services) return insideTown(options, print);
  const lab = await Lab.up({ backend: options.backend, agent: options.agent });
  if (options.uplinks) {
    await addUplink(lab);
    if (options.agent) await leaseUplinks(lab);
  }
  for (const [host, plan] of Object.entries(habits)) lab.peer(host, ["traffic", ...plan]);
  let pages: string | undefined;
  process.on("message", (message) => {
    if (message === "reload") process.kill(lab.agent.pid!, "SIGHUP");
    else pages = (message as { pages: string }).pages;
    if (options.quiet && pages !== undefined) print(`pages: ${pages}`);
  });
  process.send!({ hosts: lab.hosts } satisfies UpMessage);
  print(`gatehouse lab ${options.name} is up: ${lab.hosts.join(", ")}; Ctrl-C ends it`);
  if (options.quiet) return new Promise(() => setInterval(() => {}, 1 << 30));
  const name = options.named ? options.name : undefined;
  if (!options.agent) {
    for (const line of renderHints(undefined, name)) print(line);
    return new Promise(() => setInterval(() => {}, 1 << 30));
  }
  const show = shower();
  for (;;) {
    const view = await look(lab);
    show((size) => {
      const hints = renderHints(typeof view === "string" ? undefined : view, name);
      if (pages !== undefined) hints.push("", `  in a browser:  ${pages}`);
      const height = size.height - rowsOf(hints, size.width) - 2;
      return [
        ...(typeof view === "string" ? [view] : renderView(view, { width: size.width, height })),
        "",
        ...hints,
      ];
    });
    await new Promise((resolve) => setTimeout(resolve, process.stdout.isTTY ? drawEveryMs : printEveryMs));
  }
}

/** The same for services that are kept apart; some are connected for a start. */
async function insideTown(options: UpOptions, print: (line: string) => void): Promise<never> {
  const town = await Town.up({ backend: options.backend, agent: options.agent });
  if (options.agent) {
    await town.connect("web", ["lamp"]);
    await town.connect("app", ["cam", "*.example.net"], { direction: "out" });
  }
  process.send!({ hosts: town.lab.hosts } satisfies UpMessage);
  print(`gatehouse lab ${options.name} is up: ${town.lab.hosts.join(", ")}; Ctrl-C ends it`);
  if (options.quiet || !options.agent) return new Promise(() => setInterval(() => {}, 1 << 30));
  const hints = renderErrands(options.named ? options.name : undefined);
  const show = shower();
  for (;;) {
    const reach = await town.reach().catch((error: unknown) => [plain(messageOf(error))]);
    show(() => [...reach, "", ...hints]);
    await new Promise((resolve) => setTimeout(resolve, process.stdout.isTTY ? drawEveryMs : printEveryMs));
  }
}

/** The same for two homes. */
async function insideHomes(options: UpOptions, print: (line: string) => void): Promise<never> {
  const { homes } = await Neighbourhood.up(options.agent ? {} : { agents: [] });
  process.send!({ hosts: homes.hosts } satisfies UpMessage);
  print(`gatehouse lab ${options.name} is up: ${homes.hosts.join(", ")}; Ctrl-C ends it`);
  if (!options.quiet) {
    for (const line of renderTrials(options.named ? options.name : undefined)) print(line);
  }
  return new Promise(() => setInterval(() => {}, 1 << 30));
}

/** What the agent knows, or why it cannot be asked. */
async function look(lab: Lab): Promise<View | string> {
  try {
    const [nodes, flows] = await Promise.all([
      lab.call("gatehouse.nodes", "list"),
      lab.call("gatehouse.flows", "list", { limit: 100 }),
    ]);
    return { nodes: nodes.nodes as View["nodes"], flows: flows.flows as View["flows"] };
  } catch (error) {
    const last = lab.agent.log.trimEnd().split("\n").at(-1) ?? "";
    return lab.agent.pid === undefined
      ? `The agent has ended with status ${lab.agent.status}; its last words: ${plain(last)}`
      : plain((error as Error).message);
  }
}

/** Shows one block after the other: each over the last one on a terminal, one below the other elsewhere. */
function shower(): (block: (size: Size) => string[]) => void {
  let last: Frame | undefined;
  return (block) => {
    if (!process.stdout.isTTY) {
      process.stdout.write(`\n${block({ width: 160, height: 100 }).join("\n")}\n`);
      return;
    }
    // Asked each time: resizing is signalled to the terminal's own session only.
    const [width, height] = process.stdout.getWindowSize();
    const { text, frame } = redraw(block({ width, height }), { width, height }, last);
    process.stdout.write(text);
    last = frame;
  };
}

// ── exec, status, down ──────────────────────────────────────────────────────────────────────────────────

/** The lab of that name, or the only one. */
function pick(name: string | undefined): RunningLab {
  const labs = runningLabs();
  if (name !== undefined) checkName(name);
  const found = labs.filter((each) => name === undefined || each.name === name);
  if (found.length === 1) return found[0]!;
  if (found.length > 1) {
    throw new Refusal(2, `Cannot choose a lab: ${labs.map((each) => each.name).join(", ")} run; say --name`);
  }
  throw new Refusal(1, name === undefined ? "No lab runs; start one with up" : `No lab named ${name} runs`);
}

function exec(args: readonly string[]): Promise<number> {
  const name = args[0] === "--name" ? args[1] : undefined;
  const [host, ...command] = args[0] === "--name" ? args.slice(2) : args;
  if (host === undefined || command.length === 0) throw new Refusal(2, usage.trimEnd());
  const lab = pick(name);
  if (lab.enclosure === undefined || !isAlive(lab.enclosure))
    throw new Refusal(1, `Lab ${lab.name} is not up yet`);
  if (!lab.hosts.includes(host)) {
    throw new Refusal(2, `Lab ${lab.name} has no host ${plain(host)}: ${lab.hosts.join(", ")}`);
  }
  const folder = /^\/run(\/|$)/.test(root) ? "/" : root;
  // nsenter has to outlive a kill -9 of this process: the enclosure cannot end before somebody has collected
  // what ran in it, and a command whose parent is gone falls to the machine's first process, which in a
  // container may collect nothing. So the command runs on then, at the longest until the lab ends.
  const [program, ...rest] = [
    ...["nsenter", "--target", String(lab.enclosure.pid), "--mount", "--pid"],
    ...["ip", "netns", "exec", host, "env", `--chdir=${folder}`, ...command],
  ];
  const child = spawn(program!, rest, {
    stdio: "inherit",
    env: { ...process.env, PATH: searchPath, TMPDIR: "/run/scratch" },
  });
  const pass = (signal: NodeJS.Signals) => {
    // nsenter waits for the command, its only child. A terminal's own signals have reached that already.
    if (isatty(0) && (signal === "SIGINT" || signal === "SIGQUIT")) return;
    const pids = childrenOf(child.pid!);
    for (const pid of pids.length > 0 ? pids : [child.pid!]) process.kill(pid, signal);
  };
  for (const signal of ["SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR2"] as const)
    process.on(signal, pass);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => resolve(statusOf(code, signal)));
  });
}

function status(): number {
  const labs = runningLabs();
  for (const lab of labs) {
    const state = lab.enclosure === undefined ? "is starting" : `is up: ${lab.hosts.join(", ")}`;
    console.log(`${lab.name} (process ${lab.foreground.pid}) ${state}`);
    for (const line of reachIn(lab)) console.log(`  ${line}`);
  }
  if (labs.length === 0) console.log("No lab runs");
  return labs.length > 0 ? 0 : 1;
}

/** Who may talk to whom in a lab of services; nothing of any other, or while there is no agent. */
function reachIn({ enclosure, hosts }: RunningLab): string[] {
  if (enclosure === undefined || !services.every(({ name }) => hosts.includes(name))) return [];
  const ask = ["gatehouse", "-s", paths.bus, "-S", "call", "gatehouse.isolation", "list"];
  const { status, stdout } = spawnSync(
    "nsenter",
    ["--target", String(enclosure.pid), "--mount", "--pid", "ip", "netns", "exec", "router", ...ask],
    { encoding: "utf8", env: { ...process.env, PATH: searchPath }, timeout: stopLimitMs },
  );
  return status === 0 ? renderReach(JSON.parse(stdout)) : [];
}

async function down(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: [...args], options: { name: { type: "string" } } });
  const lab = pick(values.name);
  process.kill(lab.foreground.pid, "SIGTERM");
  const gone = () => !isAlive(lab.foreground) && (lab.enclosure === undefined || !isAlive(lab.enclosure));
  try {
    await eventually(`the end of lab ${lab.name}`, gone, 2 * stopLimitMs);
  } catch {
    if (isAlive(lab.foreground)) process.kill(lab.foreground.pid, "SIGKILL");
    await eventually(`the end of lab ${lab.name}`, gone);
  }
  return 0;
}

async function main(): Promise<number> {
  const [verb, ...args] = process.argv.slice(2);
  if (!existsSync(join(root, "test/lab/peer.ts"))) {
    throw new Refusal(1, "Cannot start: run it in gatehouse's own folder, as npm run lab does");
  }
  if (verb === "up") return up(args);
  if (verb === "inside" && args[0] !== undefined) return inside(args[0]);
  if (verb === "exec") return exec(args);
  if (verb === "status") return status();
  if (verb === "down") return down(args);
  throw new Refusal(2, usage.trimEnd());
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    console.error(messageOf(error));
    // What parseArgs throws, and a name that cannot be one, are wrong commands too.
    const mistyped = error instanceof RangeError || error instanceof TypeError;
    process.exit(error instanceof Refusal ? error.status : mistyped ? 2 : 1);
  },
);
