/** What tests of blocks share: the real machine, kernels opened on it, its rules as text, and a clean start. */

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as assert from "uvu/assert";
import { type Backend, type Kernel, openKernel } from "../../src/kernel/kernel.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { eventually, run } from "../lab/children.ts";
import { plan } from "./plans.ts";
import { camera, laptop, Street, sh, video, web } from "./street.ts";

export const scratch = process.env.TMPDIR!;
const log: string[] = [];
export const system = openLinux({
  nativePath: join(process.cwd(), "dist/netio.node"),
  log: (level, line) => void log.push(`${level}: ${line}`),
});
export const boot = join(process.cwd(), "files/usr/lib/gatehouse/boot.sh");
export const lanDevices = ["br-lan"];
export const ends = [laptop, camera, web, video];
export const laptopWeb = plan({ ends, pairs: [[1, 3]] });
let built: Street | undefined;

/** Rules of everybody, without counters and handles, as far as each back end's tools show them. */
export const shown = {
  nft: async () =>
    // Tables come in the order of their making.
    (await sh("nft -s list ruleset"))
      .split(/^(?=table )/m)
      .sort()
      .join(""),
  ipset: async () => {
    const parts = await Promise.all([
      sh("ipset save"),
      ...["filter", "mangle", "nat"].flatMap((table) => [
        sh(`iptables-save -t ${table}`),
        sh(`ip6tables-save -t ${table}`),
      ]),
    ]);
    // Entries come in the order of their hashes, counters and dates are of no interest.
    const clean = (text: string) =>
      text
        .replace(/^#.*\n/gm, "")
        .replace(/ \[\d+:\d+\]/g, "")
        .replace(/ initval \S+/g, "");
    return [...clean(parts[0]!).split("\n").sort(), ...parts.slice(1).map(clean)].join("\n");
  },
};

const opened: Kernel[] = [];
export async function open(backend: Backend, on: System = system, name: string = backend): Promise<Kernel> {
  const kernel = await openKernel(on, { backend, stateDirectory: stateOf(name), lanDevices });
  opened.push(kernel);
  return kernel;
}
export const stateOf = (backend: string) => join(scratch, `state-${backend}`);

/** A network without rules, traffic or state. */
export async function wipe(): Promise<Street> {
  built ??= await Street.build();
  const street = built;
  await street.quiet();
  for (const host of ["laptop", "camera"]) {
    // Those that are not there are none to it.
    const lines = [77, 78, 79].map((last) => `addr del 10.1.0.${last}/24 dev eth0\n`);
    await run(["ip", "-n", host, "-force", "-batch", "-"], { input: lines.join("") });
  }
  await clean();
  return street;
}

/** A machine without rules or state of ours. */
export async function clean(): Promise<void> {
  for (const kernel of opened.splice(0)) {
    kernel.close();
    await kernel.verify();
  }
  await sh("nft flush ruleset");
  for (const tool of ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"]) {
    // A restore that does not leave what is there leaves nothing.
    const empty = ["filter", "mangle", "nat"].flatMap((table) => [`*${table}`, "COMMIT"]);
    await sh(tool.replace(/(-legacy)?$/, "$1-restore"), empty);
  }
  await eventually("sets free of rules", () =>
    sh("ipset destroy").then(
      () => true,
      () => false,
    ),
  );
  for (const name of ["nft", "ipset", "both"]) rmSync(stateOf(name), { recursive: true, force: true });
}

export async function close(): Promise<void> {
  await wipe();
  await built?.close();
}

/** Commands that changed something, seen through the machine. */
export function spied(): {
  machine: System;
  sent: string[];
  refuse: { next?: (argv: readonly string[], input: string) => string };
} {
  const sent: string[] = [];
  const refuse: { next?: (argv: readonly string[], input: string) => string } = {};
  const machine: System = {
    ...system,
    run: (argv, options = {}) => {
      if (options.input === undefined || argv.includes("-c")) return system.run(argv, options);
      sent.push(options.input);
      return system.run(argv, { ...options, input: refuse.next?.(argv, options.input) ?? options.input });
    },
  };
  return { machine, sent, refuse };
}

/** All files of a state directory, as one text. */
export function textsOf(backend: string): string {
  const folder = stateOf(backend);
  return readdirSync(folder)
    .map((name) => `${name}\n${readFileSync(join(folder, name), "utf8")}`)
    .join("\n");
}

export async function rejects(promise: Promise<unknown>, code: string): Promise<void> {
  const outcome = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.instance(outcome, Fault);
  assert.is((outcome as Fault).code, code);
}
