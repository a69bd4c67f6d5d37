/**
 * No shell anywhere, and no name of an interface that could be more than a name: the rules as tests over the source
 * and over what the configuration takes.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { loadConfig } from "../../src/config/config.ts";
import { renderUci } from "../../src/config/uci.ts";
import { openKernel } from "../../src/kernel/kernel.ts";
import { Fault } from "../../src/lib/fault.ts";
import { Machine } from "../fake/machine.ts";

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

const sources = filesBelow("src").filter((path) => /\.(?:ts|c|h)$/.test(path));
const codeOf = (path: string) => readFileSync(path, "utf8").replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");

test("no source starts a shell, or runs text as a program", () => {
  assert.ok(sources.length > 100);
  const banned = [
    /\bchild_process\.exec\b|\bexecSync\b|\bexecFileSync\b|\bspawnSync\b|\bfork\(/,
    /import\s*\{[^}]*\bexec\b[^}]*\}\s*from\s*"node:child_process"/,
    /\bshell\s*:/,
    /["'`](?:\/bin\/)?(?:sh|ash|bash)["'`]\s*,\s*["'`]-c/,
    /\bsystem\s*\(\s*"|\bpopen\s*\(/,
    /\beval\s*\(|\bnew Function\b|\bFunction\s*\(\s*["'`]|node:vm/,
  ];
  for (const path of sources) {
    for (const pattern of banned) assert.not.match(codeOf(path), pattern, `${path} has ${pattern}`);
  }
});

test("one file starts programs, and it gives them words, not a line", () => {
  const starting = sources.filter((path) => /child_process/.test(codeOf(path)));
  assert.equal(starting, ["src/system/linux.ts"]);
  assert.match(codeOf(starting[0]!), /\bspawn\(/);
});

test("scripts that are shipped quote whatever they are given", () => {
  for (const path of filesBelow("files").filter((each) => /boot\.sh$|init\.d/.test(each))) {
    const text = readFileSync(path, "utf8");
    assert.not.match(text, /\beval\b|`|\bsource\b/, path);
    const bare = text.replaceAll(/^\s*#.*$/gm, "").replaceAll(/"(?:[^"\\]|\\.)*"/g, '""');
    // An argument without quotes would be split; `$tool` and `$secrets` are words of the script's own.
    for (const [, name] of bare.matchAll(/(?<!["\w=])\$(\w+)/g)) {
      assert.ok(
        ["tool", "status", "line", "secrets"].includes(name!),
        `${path}: $${name} stands without quotes`,
      );
    }
  }
});

const hostile = [
  "$(touch X)",
  ";reboot",
  "a\nb",
  "-x y",
  "br-lan;",
  "br-lan*",
  "br-lan+",
  "x".repeat(16),
  "a/b",
  "..",
  "a b",
  '"',
  "}",
  "é",
  "",
];

test("interfaces: the kernel is opened with plain names only, whatever the configuration lets through", async () => {
  for (const name of hostile.filter((each) => each !== "..")) {
    const { config } = loadConfig(
      renderUci([{ type: "gatehouse", name: "main", options: new Map([["lan_device", [name]]]) }]),
    );
    const machine = new Machine();
    const [device] = config.main.lanDevice;
    if (device === undefined || device === "br-lan") continue;
    const outcome = await openKernel(machine, {
      backend: "nft",
      stateDirectory: "/x",
      lanDevices: [device!],
    }).catch((thrown: unknown) => thrown);
    assert.instance(outcome, Fault, JSON.stringify(name));
    assert.is((outcome as Fault).code, "invalid", JSON.stringify(name));
    assert.match((outcome as Fault).message, "no name of a network device");
    assert.not.ok(
      machine.journal.some((line) => line.startsWith("run ")),
      "nothing was run",
    );
  }
});

test("loadConfig: whatever the text, a name of an interface has no blank, no slash and at most 15 characters", () => {
  const value = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom(...hostile));
  fc.assert(
    fc.property(value, (name) => {
      let text: string;
      try {
        text = renderUci([{ type: "gatehouse", name: "main", options: new Map([["lan_device", [name]]]) }]);
      } catch (thrown) {
        assert.instance(thrown, RangeError);
        return;
      }
      const { config, warnings } = loadConfig(text);
      assert.match(config.main.lanDevice[0]!, /^[^\s/:]{1,15}$/);
      if (config.main.lanDevice[0] !== name)
        assert.ok(warnings.length > 0 || name === "", JSON.stringify(name));
    }),
    { numRuns: 500 },
  );
});

test.run();
