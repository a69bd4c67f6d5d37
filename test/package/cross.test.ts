/**
 * The addon answers on other processors as it does on this one: for each whose compiler and emulator are here. Where they
 * are not, it says so, and nothing is counted; `make cross` brings them.
 */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { check, inspect, type Target, targets } from "./cross.ts";

const root = process.cwd();
const own: Target = {
  ...{ cpu: process.arch, compiler: "cc", emulator: [] },
  machine: process.arch === "arm64" ? 183 : 62,
};
const isHere = (program: string) => spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;

test("addon: what it answers here is what was recorded here", () => {
  assert.match(check(own, join(root, "dist/netio.node")), /^\d{2,} calls/);
});

test("addon: one for another processor is told apart", () => {
  const other = targets.find(({ machine }) => machine !== own.machine)!;
  assert.throws(() => inspect(other, join(root, "dist/netio.node")), /is for machine/);
});

for (const target of targets) {
  // This machine's own was tried above.
  if (target.machine === own.machine) continue;
  const missing = [target.compiler, ...target.emulator.slice(0, 1)].filter((program) => !isHere(program));
  if (missing.length > 0) {
    console.log(`not run: the addon for ${target.cpu}, without ${missing.join(" and ")}`);
    continue;
  }
  test(`addon: compiled for ${target.cpu}, it answers there as it does here`, () => {
    const addon = join(mkdtempSync(join(tmpdir(), "addon-")), "netio.node");
    execFileSync("sh", ["src/system/native/build.sh", addon], {
      cwd: root,
      env: { ...process.env, CC: target.compiler },
      stdio: ["ignore", "ignore", "inherit"],
    });
    inspect(target, addon);
    assert.match(check(target, addon), /^\d{2,} calls/);
  });
}

test.run();
