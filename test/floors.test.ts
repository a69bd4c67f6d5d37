/** The floors of the house, as rules that fail. */

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";

const source = join(process.cwd(), "src");

/** Folder → floor. Files directly in src are on the top ones. */
const floors: Record<string, number> = {
  lib: 0,
  system: 1,
  ubus: 2,
  kernel: 2,
  dns: 2,
  nodes: 3,
  flows: 3,
  tables: 3,
  neighbours: 3,
  ipref: 3,
  isolation: 3,
  publish: 3,
  spin: 3,
  capture: 3,
  config: 3,
  cli: 4,
  agent: 4,
  "main.ts": 5,
};
const open = ["lib", "system"];

/** Files of the machine floor that may touch Node; system.ts, the interface, may not. */
const machine = (path: string) =>
  (path.startsWith("system/") && path !== "system/system.ts") || path === "main.ts";

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return filesBelow(path);
    return path.endsWith(".ts") && !path.endsWith(".d.ts") ? [path] : [];
  });
}

const files = filesBelow(source).map((path) => relative(source, path));
const text = (path: string) => readFileSync(join(source, path), "utf8");

function importsOf(path: string): Import[] {
  return [
    ...text(path).matchAll(
      /^(?:import|export)\s+(type\s)?[^;"]*?from\s+"([^"]+)"|^import\s+"([^"]+)"|\bimport\("([^"]+)"\)/gm,
    ),
  ].map((hit) => ({ from: path, to: (hit[2] ?? hit[3] ?? hit[4])!, typeOnly: hit[1] !== undefined }));
}

const resolve = (each: Import) => normalize(join(dirname(each.from), each.to));
const room = (path: string) => (path.includes("/") ? path.split("/")[0]! : path);
const internal = files.flatMap(importsOf).filter((each) => each.to.startsWith("."));

test("every file stands on a floor", () => {
  assert.ok(files.length > 10);
  for (const path of files) assert.ok(room(path) in floors, `${path} is on no floor`);
});

test("imports go down, or stay in the room", () => {
  for (const each of internal) {
    const [from, to] = [room(each.from), room(resolve(each))];
    if (from === to) continue;
    assert.ok(to in floors, `${each.from} imports ${each.to}, which is nowhere`);
    assert.ok(floors[to]! < floors[from]!, `${each.from} imports ${each.to}: not below it`);
  }
});

test("another room is entered by its front door", () => {
  for (const each of internal) {
    const target = resolve(each);
    const to = room(target);
    if (room(each.from) === to || open.includes(to) || !target.includes("/")) continue;
    // kernel's plan and ubus' methods are vocabulary: data and types that rooms are written in.
    const doors = [`${to}/${to}.ts`, "kernel/plan.ts", "ubus/methods.ts"];
    assert.ok(doors.includes(target), `${each.from} enters ${target} past the front door`);
  }
});

test("only the machine floor and the door import packages or Node", () => {
  for (const each of files.flatMap(importsOf)) {
    if (each.to.startsWith(".")) continue;
    assert.ok(machine(each.from), `${each.from} imports ${each.to}`);
  }
});

test("only the machine floor and the door use the engine's surroundings", () => {
  const names =
    /(?<![.\w"'`])(?:process|Buffer|setTimeout|setInterval|setImmediate|queueMicrotask|performance|fetch)\s*[.(]|\bDate\.now\b|\bMath\.random\b|\bnew Date\(\)/;
  for (const path of files.filter((each) => !machine(each))) {
    const code = text(path).replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    assert.not.match(code, names, `${path} reaches outside`);
  }
});

test("values are imported without cycles", () => {
  const next = new Map<string, string[]>();
  for (const each of internal) {
    if (!each.typeOnly) next.set(each.from, [...(next.get(each.from) ?? []), resolve(each)]);
  }
  const done = new Set<string>();
  const visit = (path: string, trail: string[]): void => {
    assert.not.ok(trail.includes(path), `cycle: ${[...trail, path].join(" → ")}`);
    if (done.has(path)) return;
    for (const to of next.get(path) ?? []) visit(to, [...trail, path]);
    done.add(path);
  };
  for (const path of files) visit(path, []);
});

test("every file opens by saying what it is for, and none is longer than 500 lines", () => {
  for (const path of files) {
    assert.match(text(path), /^(?:#!.*\n)?\/\*\*/, `${path} has no opening comment`);
    assert.ok(text(path).split("\n").length <= 501, `${path} is too long`);
  }
});

test("no file has a name that says nothing", () => {
  for (const path of files) assert.not.match(path, /(?:utils?|helpers?|common|types|index|misc)\.ts$/, path);
});

test("nothing from outside becomes markup", () => {
  for (const path of files) assert.not.match(text(path), /\binnerHTML\b/, path);
});

test.run();
