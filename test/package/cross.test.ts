/**
 * The addon compiles for the processors of routers, with nothing to warn of, and works there: calls that were recorded
 * on this machine give the same under qemu, where that is installed.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { check, inspect, targets } from "./cross.ts";

const folder = mkdtempSync(join(tmpdir(), "cross-"));
const isThere = (program: string) => spawnSync("which", [program]).status === 0;

for (const target of targets) {
  // Another machine's own compiler has another name: the addon of this one has all other tests.
  if (target.emulator.length === 0) continue;
  test(`netio compiles for ${target.cpu}, and works there`, () => {
    const addon = join(folder, `${target.cpu}.node`);
    execFileSync("sh", ["src/system/native/build.sh", addon], {
      env: { ...process.env, CC: target.compiler },
      stdio: "pipe",
    });
    inspect(target, addon);
    if (isThere(target.emulator[0]!)) assert.match(check(target, addon), /^[1-9][0-9]* calls/);
  });
}

test.run();
