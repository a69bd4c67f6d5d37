/**
 * The program's life as the service sees it: signals at any moment, and what it begins with when its file is broken.
 *
 * It runs on a bus of its own, without a lab. To make it slow to start, an `nft` that waits stands in front of the real
 * one.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openLinux } from "../../src/system/linux.ts";
import { connectUbus } from "../../src/ubus/ubus.ts";
import { eventually } from "../lab/children.ts";

const root = process.cwd();
const program = join(root, "dist/gatehouse");
const init = join(root, "files/etc/init.d/gatehouse");
const folder = mkdtempSync(join(tmpdir(), "life-"));
const socket = join(folder, "bus.sock");
const file = join(folder, "config");
const state = join(folder, "state");
const good = join(state, "configuration.json");
const slow = join(folder, "slow");
const machine = openLinux({ nativePath: join(root, "dist/netio.node"), log: () => {} });
let bus: ChildProcess;

/** With a LAN of that name. */
const configuration = (lan: string) => `config gatehouse 'main'
	option state_dir '${state}'
	option run_dir '${folder}/run'
	option backend 'nft'
	option rpc_socket 'none'
	option spin_dir 'none'
	list lan_device '${lan}'

config mqtt 'mqtt'
	option enabled '0'

config tables 'tables'
	option socket 'none'
`;

class Agent {
  static readonly all = new Set<Agent>();
  readonly child: ChildProcess;
  log = "";
  #ended = false;

  constructor(more: { readonly slowly?: boolean } = {}) {
    const PATH = `${more.slowly ? `${slow}:` : ""}${process.env.PATH}`;
    this.child = spawn(process.execPath, [program, "-s", socket, "run", "-c", file], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, PATH },
    });
    for (const stream of [this.child.stdout!, this.child.stderr!])
      stream.on("data", (chunk) => (this.log += String(chunk)));
    Agent.all.add(this);
    this.child.on("exit", () => {
      this.#ended = true;
      Agent.all.delete(this);
    });
  }

  /** Times that an agent was ready. */
  get lives(): number {
    return [...this.log.matchAll(/ runs, \d+ nodes/g)].length;
  }

  /** Whether it has a handler for SIGHUP, as the kernel sees it. */
  get hears(): boolean {
    const status = readFileSync(`/proc/${this.child.pid}/status`, "utf8");
    return (Number.parseInt(/^SigCgt:\s+\w*(\w)$/m.exec(status)![1]!, 16) & 1) === 1;
  }

  status(): Promise<Record<string, unknown>> {
    assert.not.ok(this.#ended, `it has ended: ${this.child.exitCode} ${this.child.signalCode}\n${this.log}`);
    const ubus = connectUbus(machine, { path: socket, retry: false, timeoutMs: 500 });
    return ubus
      .call("gatehouse", "status")
      .catch(() => ({}))
      .finally(() => ubus.close());
  }

  async ready(lan: string): Promise<void> {
    await eventually(`an agent on ${lan}`, async () => {
      const { ready, lan_devices } = await this.status();
      return (ready === true && String(lan_devices) === lan) || undefined;
    });
  }

  signal(name: NodeJS.Signals): void {
    this.child.kill(name);
  }

  /** Resolves with how it ended. */
  async end(signal?: NodeJS.Signals): Promise<number | string | null> {
    if (signal) this.signal(signal);
    await eventually("its end", async () => this.#ended || undefined);
    return this.child.exitCode ?? this.child.signalCode;
  }
}

test.before(async () => {
  mkdirSync(slow);
  const nft = execFileSync("sh", ["-c", "command -v nft"], { encoding: "utf8" }).trim();
  writeFileSync(join(slow, "nft"), `#!/bin/sh\nsleep 0.1\nexec ${nft} "$@"\n`, { mode: 0o755 });
  bus = spawn(process.execPath, [program, "-s", socket, "bus"], { stdio: "ignore" });
  await eventually("a bus", async () => existsSync(socket) || undefined);
});

test.before.each(() => {
  rmSync(state, { recursive: true, force: true });
  writeFileSync(file, configuration("br-one"));
});

// One that failed must not answer in the place of the next.
test.after.each(async () => {
  for (const agent of Agent.all) await agent.end("SIGKILL");
});

test.after(() => {
  bus.kill();
  rmSync(folder, { recursive: true });
});

test("SIGHUP: while it starts it is heard, and the agent has at last what the file says then", async () => {
  const agent = new Agent({ slowly: true });
  await eventually("a handler", async () => agent.hears || undefined);
  assert.is(agent.lives, 0, "it hears before it is ready");
  await eventually("it has read its file", async () => existsSync(join(state, "nodes.json")) || undefined);
  assert.is(agent.lives, 0, "it is still starting");
  writeFileSync(file, configuration("br-two"));
  const hammer = setInterval(() => agent.signal("SIGHUP"), 5);
  await eventually(
    "the first life",
    async () => agent.lives > 0 || agent.child.signalCode !== null || undefined,
  );
  clearInterval(hammer);
  await agent.ready("br-two");
  assert.is(await agent.end("SIGTERM"), 0, agent.log);
});

test("SIGTERM: a SIGHUP after it starts nothing", async () => {
  const agent = new Agent();
  await agent.ready("br-one");
  agent.signal("SIGTERM");
  for (let count = 0; count < 3; count++) agent.signal("SIGHUP");
  assert.is(await agent.end(), 0, agent.log);
  assert.is(agent.lives, 1);
});

test("SIGTERM: while it starts, or begins anew, it ends", async () => {
  const starting = new Agent({ slowly: true });
  await eventually("a handler", async () => starting.hears || undefined);
  assert.is(await starting.end("SIGTERM"), 0, starting.log);
  const reloading = new Agent();
  await reloading.ready("br-one");
  reloading.signal("SIGHUP");
  await eventually("its going", async () => (await reloading.status()).ready !== true || undefined);
  assert.is(await reloading.end("SIGTERM"), 0, reloading.log);
});

/** Runs functions of the init script, with this program in the place of the installed one. */
function script(text: string, pid: number): string {
  const ours = readFileSync(init, "utf8").replaceAll(
    "/usr/bin/node /usr/lib/gatehouse/gatehouse run ",
    `${process.execPath} ${program} -s ${socket} run `,
  );
  const standIns = `
can_jail() { false; }
uci() { false; }
sh() { :; }
procd_send_signal() { kill -HUP ${pid}; echo told; }
`;
  const path = join(folder, "init");
  writeFileSync(path, `extra_command() { :; }\n${ours}\n${standIns}\n${text}\n`);
  const { stdout, stderr } = spawnSync("dash", [path], { encoding: "utf8" });
  assert.is(stderr, "");
  return stdout;
}

test("init: reload tells the program nothing before it hears, and everything after", async () => {
  const agent = new Agent();
  const told: boolean[] = [];
  await eventually("a life under reloads", async () => {
    assert.is(agent.child.signalCode, null, agent.log);
    told.push(script("reload_service", agent.child.pid!) !== "");
    return agent.lives > 0 || undefined;
  });
  assert.is(told[0], false, "while Node loads it, it cannot hear");
  writeFileSync(file, configuration("br-two"));
  assert.is(script("reload_service", agent.child.pid!), "told\n");
  await agent.ready("br-two");
  assert.is(await agent.end("SIGTERM"), 0, agent.log);
});

const check = () => spawnSync(process.execPath, [program, "check", "-c", file], { encoding: "utf8" });

test("a broken file: an agent that starts uses the last good configuration, and says so; so does check", async () => {
  const first = new Agent();
  await first.ready("br-one");
  await eventually("the good one on disk", async () => existsSync(good) || undefined);
  assert.is(await first.end("SIGTERM"), 0);
  assert.is(statSync(good).mode & 0o777, 0o600);
  assert.equal(JSON.parse(readFileSync(good, "utf8")).state.lines, configuration("br-one").split("\n"));
  // Another value, and a quote that nothing closes.
  const broken = `${configuration("br-two")}\nconfig 'ipref\n`;
  writeFileSync(file, broken);
  const { status, stderr } = check();
  assert.is(status, 1);
  assert.match(stderr, `Cannot read ${file}: it is broken; a start uses the last good one, ${good}`);
  const second = new Agent();
  await second.ready("br-one");
  assert.match(second.log, `Cannot read ${file}: it is broken; the last good one is used, from ${good}`);
  assert.is(await second.end("SIGTERM"), 0);
  rmSync(file);
  const third = new Agent();
  // Where its state is, nobody says now: the default place has none.
  await eventually(
    "a word on it",
    async () => /it is not there; defaults are used/.test(third.log) || undefined,
  );
  await third.end("SIGKILL");
  assert.equal(JSON.parse(readFileSync(good, "utf8")).state.lines, configuration("br-one").split("\n"));
});

test("a broken file: without a good one before, what can be read of it is used, and said", async () => {
  writeFileSync(file, `${configuration("br-two")}\nconfig 'ipref\n`);
  assert.match(check().stderr, `Cannot read ${file}: it is broken; what can be read of it is used`);
  assert.not.ok(existsSync(state), "check touches nothing");
  const agent = new Agent();
  await agent.ready("br-two");
  assert.match(agent.log, /it is broken; what can be read of it is used/);
  // What comes next is the first good one.
  writeFileSync(file, configuration("br-three"));
  assert.not.ok(existsSync(good));
  agent.signal("SIGHUP");
  await agent.ready("br-three");
  await eventually("the good one on disk", async () => existsSync(good) || undefined);
  assert.is(await agent.end("SIGTERM"), 0);
});

test("a file that is written, or cannot be read, while it runs: what was stays, and nobody ends", async () => {
  const agent = new Agent();
  await agent.ready("br-one");
  // A folder is no file.
  renameSync(file, `${file}.away`);
  mkdirSync(file);
  const lives = agent.lives;
  agent.signal("SIGHUP");
  await eventually(
    "another life",
    async () => agent.lives > lives || agent.child.exitCode !== null || undefined,
  );
  await agent.ready("br-one");
  assert.match(agent.log, /Cannot read .*what was stays/);
  rmSync(file, { recursive: true });
  assert.is(await agent.end("SIGTERM"), 0);
});

test("the good configuration is written when it is another, and only then", async () => {
  const agent = new Agent();
  await agent.ready("br-one");
  await eventually("the good one on disk", async () => existsSync(good) || undefined);
  const written = statSync(good).ino;
  agent.signal("SIGHUP");
  await eventually("another life", async () => agent.lives > 1 || undefined);
  await agent.ready("br-one");
  writeFileSync(file, configuration("br-two"));
  assert.is(statSync(good).ino, written);
  agent.signal("SIGHUP");
  await agent.ready("br-two");
  await eventually("the other one", async () => statSync(good).ino !== written || undefined);
  assert.match(readFileSync(good, "utf8"), "br-two");
  assert.is(await agent.end("SIGTERM"), 0);
});

test.run();
