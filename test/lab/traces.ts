/** Everything that a lab could leave behind, as seen from outside of it: for tests that it leaves nothing. */

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import * as assert from "uvu/assert";
import { eventually, must } from "./children.ts";
import { processOf } from "./claim.ts";

/** Live processes with their command lines, by id. */
export function processes(): Map<number, string> {
  const found = new Map<number, string>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name) || processOf(Number(name)) === undefined) continue;
    try {
      found.set(Number(name), readFileSync(`/proc/${name}/cmdline`, "latin1"));
    } catch {
      // It ended while we looked.
    }
  }
  return found;
}

/** Processes, namespaces, interfaces, mounts and files, in an order that does not depend on chance. */
export async function traces(): Promise<Record<string, unknown>> {
  const [hosts, links] = [await must(["ip", "netns", "list"]), await must(["ip", "-o", "link"])];
  const running = processes();
  const spaces = new Set<string>();
  for (const pid of running.keys()) {
    for (const kind of ["net", "mnt", "pid"]) {
      try {
        spaces.add(readlinkSync(`/proc/${pid}/ns/${kind}`));
      } catch {
        // It ended while we looked.
      }
    }
  }
  return {
    processes: [...running].sort(([one], [other]) => one - other),
    spaces: [...spaces].sort(),
    hosts,
    links,
    mounts: readFileSync("/proc/self/mounts", "utf8"),
    run: readdirSync("/run", { recursive: true }).sort(),
    etc: readdirSync("/etc").sort(),
    tmp: readdirSync("/tmp").filter((name) => /lab|gatehouse/.test(name)),
  };
}

/** Waits until there is nothing that was not there before, nor anything missing. */
export async function untilLike(before: Record<string, unknown>): Promise<void> {
  const same = async () => JSON.stringify(await traces()) === JSON.stringify(before);
  await eventually("no trace", same).catch(async () => assert.equal(await traces(), before));
}
