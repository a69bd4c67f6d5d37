/**
 * What becomes of drawn mappings on two routers: they end, their numbers come back to who had them, and a gateway that
 * makes too many makes no more. Each router runs the whole gateway, whose clock the test moves.
 */

import type { ChildProcess } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { isMainThread } from "node:worker_threads";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Gateway } from "../../src/agent/gateway.ts";
import { loadConfig } from "../../src/config/config.ts";
import { forwardingProgram } from "../../src/ipref/forwarding.ts";
import { forwardPackets } from "../../src/ipref/thread.ts";
import type { Json } from "../../src/lib/json.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { runWorker } from "../../src/system/workers.ts";
import { eventually } from "../lab/children.ts";
import { Homes } from "../lab/homes.ts";
import { nativePath } from "../system/until.ts";

const hour = 3_600_000;
const [laptop, nas] = ["192.168.1.10", "192.168.1.11"];
/** The other home's laptop. */
const theirs = "10.240.2.222";
const publics = { mine: "198.51.100.97", parents: "203.0.113.98" } as const;
type Name = keyof typeof publics;

type Command = { readonly pass: number } | { readonly call: string; readonly args: Record<string, Json> };
type Row = Readonly<Record<string, Json>>;

// In the router.

/** `--router OPTIONS`: a gateway that does what it is told, a line each, and answers a line. */
async function serve(options: Readonly<Record<string, string>>): Promise<void> {
  const linux = openLinux({ nativePath, program: process.argv[1]!, log: (_, line) => console.error(line) });
  let ahead = 0;
  const ticks: (() => void)[] = [];
  const system: System = {
    ...linux,
    now: () => linux.now() + ahead,
    every: (_, call) => {
      ticks.push(call);
      return () => {};
    },
  };
  const lines = Object.entries(options).map(([name, value]) => `\toption ${name} '${value}'`);
  const { config, warnings } = loadConfig(
    `config gatehouse 'main'\n\toption state_dir '${mkdtempSync(join(tmpdir(), "life-"))}'\n` +
      `config ipref 'ipref'\n${lines.join("\n")}\n`,
  );
  if (warnings.length > 0) throw new Error(warnings.join("; "));
  const gateway = await Gateway.open(system, config);
  await gateway.begin();
  const act = async (command: Command): Promise<unknown> => {
    if ("pass" in command) {
      ahead += command.pass;
      for (const each of ticks) each();
      return {};
    }
    const method = gateway.methods[command.call]!;
    return method.call(command.args, { user: undefined, group: undefined });
  };
  const say = (what: unknown) => console.log(JSON.stringify(what));
  createInterface({ input: process.stdin }).on("line", (line) => {
    act(JSON.parse(line)).then(say, (thrown) => say({ failed: String(thrown) }));
  });
  say({ ready: gateway.status.forwarding });
}

// In the test.

class Router {
  readonly #child: ChildProcess;
  readonly #waiting: ((said: Record<string, Json>) => void)[] = [];

  constructor(child: ChildProcess) {
    this.#child = child;
    createInterface({ input: child.stdout! }).on("line", (line) => this.#waiting.shift()?.(JSON.parse(line)));
  }

  heard(): Promise<Record<string, Json>> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async tell(command: Command): Promise<Record<string, Json>> {
    const answer = this.heard();
    this.#child.stdin!.write(`${JSON.stringify(command)}\n`);
    const said = await answer;
    assert.is(said.failed, undefined);
    return said;
  }

  async mappings(args: Record<string, Json>): Promise<readonly Row[]> {
    return (await this.tell({ call: "mappings", args })).mappings as readonly Row[];
  }
}

interface Town {
  readonly homes: Homes;
  readonly routers: Readonly<Record<Name, Router>>;
  /** Time passes in both, and what was used meanwhile is taken up. */
  pass(ms: number): Promise<void>;
  /** One echo within 20 s; told at once if there is no way. */
  reaches(from: string, to: string, ...more: readonly string[]): Promise<boolean>;
}

/** Two homes whose laptops are published, each known at the other end. */
async function town(more: Readonly<Record<string, string>>, act: (town: Town) => Promise<void>) {
  const homes = await Homes.up();
  try {
    const open = async (name: Name, other: Name): Promise<Router> => {
      const options = {
        ...{ enabled: "1", gateway_bind: publics[name], hosts: "none", mapper_socket: "none" },
        ...{ any_peer: "1", ...more },
      };
      const argv = [process.execPath, process.argv[1]!, "--router", JSON.stringify(options)];
      const router = new Router(homes.spawn(name, argv, { stdio: ["pipe", "pipe", "inherit"] }));
      assert.equal(await router.heard(), { ready: true });
      const add = (args: Record<string, Json>) => router.tell({ call: "add", args });
      await add({ kind: "ours", address: laptop!, reference: "0-b07" });
      await add({ kind: "theirs", address: theirs, context: publics[other], reference: "0-b07" });
      return router;
    };
    const [mine, parents] = await Promise.all([open("mine", "parents"), open("parents", "mine")]);
    await act({
      homes,
      routers: { mine, parents },
      async pass(ms) {
        // Once to take up what was used so far, once for the time itself.
        for (const each of [0, ms]) for (const router of [mine, parents]) await router.tell({ pass: each });
      },
      async reaches(from, to, ...args) {
        return (await homes.exec(from, ["ping", "-c", "1", "-W", "20", ...args, to])).status === 0;
      },
    });
  } finally {
    await homes.close();
  }
}

test("a mapping that packets made lives while it is used, ends, and comes back with its numbers", async () => {
  await town({}, async ({ routers, pass, reaches }) => {
    const { mine, parents } = routers;
    assert.ok(await reaches("parents-nas", theirs));
    const drawn = async () => ({
      encoded: (await mine.mappings({ kind: "theirs", peer: publics.parents })).filter(
        ({ state }) => state !== "static",
      ),
      references: (await parents.mappings({ kind: "ours", address: nas! })).map(({ reference, state }) => [
        reference!,
        state!,
      ]),
    });
    const first = await drawn();
    assert.equal(
      first.encoded.map(({ state }) => state),
      ["live"],
    );
    const address = first.encoded[0]!.address as string;
    const reference = first.encoded[0]!.reference!;
    assert.equal(first.references, [[reference, "live"]]);
    // Both directions, for days, as long as it is used every few hours.
    for (let part = 0; part < 8; part++) {
      assert.ok(await reaches("mine-laptop", address), `after ${3 * part} hours`);
      await pass(3 * hour);
    }
    assert.ok(await reaches("mine-laptop", address));
    await pass(0);
    // Unused it ends, at both ends; nobody finds it.
    await pass(4 * hour);
    await pass(0);
    assert.equal(
      (await drawn()).encoded.map(({ state, address: at }) => [state, at]),
      [["rest", address]],
    );
    assert.equal((await drawn()).references, [[reference, "rest"]]);
    assert.not(await reaches("mine-laptop", address));
    // Hours later who had it gets it back, and what leads there again does.
    await pass(5 * hour);
    assert.ok(await reaches("parents-nas", theirs));
    assert.equal(
      (await drawn()).encoded.map(({ state, address: at }) => [state, at]),
      [["live", address]],
    );
    assert.equal((await drawn()).references, [[reference, "live"]]);
    assert.ok(await reaches("mine-laptop", address));
    // After its rest it is another's.
    await pass(4 * hour);
    await pass(6 * hour);
    await pass(0);
    assert.equal(await drawn(), { encoded: [], references: [] });
  });
});

test("a gateway whose hosts are too many makes no more mappings, and those that it has go on", async () => {
  await town({ max_peer_mappings: "16" }, async ({ homes, routers, pass, reaches }) => {
    const { mine } = routers;
    const hosts = Array.from({ length: 12 }, (_, index) => `192.168.1.${100 + index}`);
    for (const each of hosts)
      await homes.must("parents-nas", ["ip", "address", "add", `${each}/24`, "dev", "eth0"]);
    const live = async () =>
      (await mine.mappings({ kind: "theirs", peer: publics.parents, state: "live" })).length;
    // Packets alone make half of the quota.
    for (const each of hosts.slice(0, 8)) assert.ok(await reaches("parents-nas", theirs, "-I", each));
    assert.is(await live(), 8);
    const ninth = homes.exec("parents-nas", [
      "ping",
      "-c",
      "3",
      "-i",
      "0.2",
      "-W",
      "2",
      "-I",
      hosts[8]!,
      theirs,
    ]);
    assert.match((await ninth).stdout, / 0 received/);
    assert.is(await live(), 8);
    assert.ok(await reaches("parents-nas", theirs, "-I", hosts[0]!));
    assert.ok(await reaches("parents-laptop", theirs));
    // Whoever was idle for ten minutes gives way; who was used does not.
    await pass(300_000);
    assert.ok(await reaches("parents-nas", theirs, "-I", hosts[0]!));
    await pass(301_000);
    await eventually("a place", () => reaches("parents-nas", theirs, "-W", "2", "-I", hosts[8]!));
    assert.ok(await reaches("parents-nas", theirs, "-I", hosts[0]!));
    const rests = await mine.mappings({ kind: "theirs", peer: publics.parents, state: "rest" });
    assert.is(rests.length, 1);
    assert.is(await live(), 8);
  });
});

const at = process.argv.indexOf("--router");
if (!isMainThread) runWorker({ [forwardingProgram]: forwardPackets });
else if (at > 0) void serve(JSON.parse(process.argv[at + 1]!));
else test.run();
