/** Files: whole or not at all, whatever happens; and told of when they change. */

import { execFileSync, spawn } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Fault } from "../../src/lib/fault.ts";
import { Files } from "../../src/system/disk.ts";
import { until } from "./until.ts";

const disk = new Files();
const root = "/run/scratch/disk";
const bytes = (text: string) => new TextEncoder().encode(text);
const read = async (path: string) => {
  const content = await disk.read(path);
  return content && new TextDecoder().decode(content);
};

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    return (error as Fault).code ?? String(error);
  }
  return "no fault";
}

test.before(() => {
  mkdirSync(root, { recursive: true });
});

test("read gives the whole file, nothing if there is none, and a fault past the limit", async () => {
  writeFileSync(`${root}/a`, "content");
  assert.is(await read(`${root}/a`), "content");
  assert.is((await disk.read(`${root}/a`))?.constructor, Uint8Array);
  assert.is(await disk.read(`${root}/none`), undefined);
  assert.is(await disk.read(`${root}/a/below`), undefined);
  assert.is(await codeOf(disk.read(`${root}/a`, 6)), "limit");
  assert.is((await disk.read(`${root}/a`, 7))?.length, 7);
  writeFileSync(`${root}/empty`, "");
  assert.is(await read(`${root}/empty`), "");
  assert.is(await codeOf(disk.read(root)), "storage");
});

test("read takes files of /proc, which tell no size, and those that never end up to the limit", async () => {
  assert.match((await read("/proc/self/status"))!, /^Name:/);
  const maps = await read(`/proc/${process.pid}/smaps`);
  assert.ok(maps!.length > 70_000);
  assert.is(await codeOf(disk.read("/dev/zero", 100_000)), "limit");
});

test("create makes a file of its own that grows piece by piece, and never writes through a link", async () => {
  const path = `${root}/grown`;
  const writer = await disk.create(path);
  assert.is(statSync(path).mode & 0o7777, 0o600);
  assert.is(await codeOf(disk.create(path)), "conflict");
  for (const piece of ["one ", "", "two ", "x".repeat(100_000)]) await writer.write(bytes(piece));
  assert.is(await read(path), `one two ${"x".repeat(100_000)}`);
  await writer.close();
  symlinkSync(`${root}/victim`, `${root}/dangling`);
  assert.is(await codeOf(disk.create(`${root}/dangling`)), "conflict");
  assert.not.ok(existsSync(`${root}/victim`));
  assert.is(await codeOf(disk.create(`${root}/none/file`)), "storage");
  const shared = await disk.create(`${root}/shared`, 0o644);
  assert.is(statSync(`${root}/shared`).mode & 0o7777, 0o644);
  await shared.close();
});

test("create tells of a full disk, and readPieces gives what is there", async () => {
  const tiny = `${root}/tiny`;
  mkdirSync(tiny);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", tiny]);
  const writer = await disk.create(`${tiny}/file`);
  assert.is(await codeOf(writer.write(new Uint8Array(100_000))), "storage");
  await writer.close();
  let length = 0;
  for await (const piece of disk.readPieces(`${tiny}/file`)) length += piece.length;
  assert.is(length, statSync(`${tiny}/file`).size);
  execFileSync("umount", [tiny]);
});

test("read takes numbers of /proc/sys whole, which are given to the first read alone", async () => {
  const path = "/proc/sys/kernel/pid_max";
  const text = await read(path);
  assert.ok(text!.length > 2, text);
  assert.is(text, readFileSync(path, "utf8"));
});

test("readPieces gives a file of any length in pieces, and a fault if there is none", async () => {
  const content = Uint8Array.from({ length: 200_001 }, (_, at) => at & 255);
  writeFileSync(`${root}/long`, content);
  const pieces: Uint8Array[] = [];
  for await (const piece of disk.readPieces(`${root}/long`)) pieces.push(piece.slice());
  assert.ok(pieces.length > 1);
  assert.equal(Uint8Array.from(Buffer.concat(pieces)), content);
  // Leaving early is allowed.
  for await (const piece of disk.readPieces("/dev/zero")) if (piece.length > 0) break;
  const all = async (path: string) => {
    for await (const piece of disk.readPieces(path)) assert.ok(piece.length > 0);
  };
  assert.is(await codeOf(all(`${root}/absent`)), "not-found");
  assert.is(await codeOf(all(root)), "storage");
});

test("replace writes, keeps the content before, sets the mode, and leaves nothing else", async () => {
  const path = `${root}/state/nodes.json`;
  await disk.makeDirectory(`${root}/state`, 0o700);
  await disk.makeDirectory(`${root}/state`);
  assert.is(statSync(`${root}/state`).mode & 0o777, 0o700);
  const keep = `${root}/state/nodes.json.1`;
  await disk.replace(path, bytes("one"), { keep });
  assert.is(await read(keep), undefined);
  await disk.replace(path, bytes("two"), { keep, mode: 0o640 });
  assert.equal([await read(path), await read(keep)], ["two", "one"]);
  assert.is(statSync(path).mode & 0o777, 0o640);
  assert.is(statSync(keep).mode & 0o777, 0o600);
  await disk.replace(path, bytes("three"), { keep });
  assert.equal([await read(path), await read(keep)], ["three", "two"]);
  // The kept file and the present one may be the same already.
  unlinkSync(keep);
  execFileSync("ln", [path, keep]);
  await disk.replace(path, bytes("four"), { keep });
  assert.equal([await read(path), await read(keep)], ["four", "three"]);
  assert.equal(await disk.list(`${root}/state`), ["nodes.json", "nodes.json.1"]);
});

test("replace takes pieces one by one, and what fails between them leaves the file as it was", async () => {
  const path = `${root}/pieces`;
  const piece = new Uint8Array(70_000);
  function* pieces(most: number): Iterable<Uint8Array> {
    // The same memory each time: a piece is written when the next is asked for.
    for (let at = 0; at < 5; at++) {
      if (at === most) throw new Error("no more to be had");
      yield piece.fill(at);
    }
  }
  await disk.replace(path, pieces(9));
  const content = readFileSync(path);
  assert.is(content.length, 350_000);
  for (let at = 0; at < 5; at++)
    assert.ok(content.subarray(at * 70_000, (at + 1) * 70_000).every((byte) => byte === at));
  const thrown = await disk.replace(path, pieces(3)).catch((fault: unknown) => fault);
  assert.is((thrown as { code: string }).code, "storage");
  assert.equal(readFileSync(path), content);
  assert.equal(
    readdirSync(root).filter((name) => name.startsWith(".pieces")),
    [],
  );
});

test("replacements of one file keep their order", async () => {
  const path = `${root}/order`;
  await Promise.all(Array.from({ length: 30 }, (_, index) => disk.replace(path, bytes(String(index)))));
  assert.is(await read(path), "29");
  const failing = disk.replace(`${root}/none/x`, bytes("x"));
  const next = disk.replace(`${root}/none/x`, bytes("y"));
  assert.equal([await codeOf(failing), await codeOf(next)], ["storage", "storage"]);
});

test("a full or read-only disk is a fault, and the file is as it was", async () => {
  const mount = `${root}/small`;
  mkdirSync(mount);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", mount]);
  const path = `${mount}/a`;
  await disk.replace(path, bytes("old"));
  assert.is(await codeOf(disk.replace(path, new Uint8Array(200_000))), "storage");
  assert.equal([await read(path), readdirSync(mount)], ["old", ["a"]]);
  execFileSync("mount", ["-o", "remount,ro", mount]);
  assert.is(await codeOf(disk.replace(path, bytes("new"))), "storage");
  assert.is(await codeOf(disk.remove(path)), "storage");
  assert.is(await codeOf(disk.rename(path, `${mount}/b`)), "storage");
  assert.is(await codeOf(disk.makeDirectory(`${mount}/folder`)), "storage");
  assert.is(await read(path), "old");
  execFileSync("mount", ["-o", "remount,rw", mount]);
  await disk.replace(path, bytes("new"));
  assert.is(await read(path), "new");
  execFileSync("umount", [mount]);
});

test("what a killed replacement left is removed by the next, what a living one writes is not", async () => {
  const path = `${root}/left`;
  const gone = spawn("true");
  await new Promise((resolve) => gone.on("close", resolve));
  const living = spawn("sleep", ["100"]);
  writeFileSync(`${root}/.left.${gone.pid}-3.new`, "half");
  writeFileSync(`${root}/.left.${process.pid}-999.new`, "half, by this pid before a reboot");
  writeFileSync(`${root}/.left.${living.pid}-1.new`, "being written");
  writeFileSync(`${root}/.left.mine`, "another's");
  await disk.replace(path, bytes("whole"));
  const names = readdirSync(root).filter((name) => name.startsWith(".left"));
  assert.equal(names.sort(), [`.left.${living.pid}-1.new`, ".left.mine"].sort());
  living.kill();
});

test("killed at any moment, a replacement shows the old or the new content, and keep an older one", async () => {
  const path = `${root}/killed`;
  const bundle = process.argv[1]!;
  const content = (generation: number) => `${generation}:${"x".repeat(20_000)}`;
  await disk.replace(path, bytes(content(0)));
  let last = 0;
  for (let round = 0; round < 10; round++) {
    const child = spawn(process.execPath, [bundle], {
      env: { ...process.env, REPLACE: path, FROM: String(last) },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let acknowledged = last;
    child.stdout.on("data", (chunk: Buffer) => {
      for (const line of String(chunk).trim().split("\n"))
        acknowledged = Math.max(acknowledged, Number(line));
    });
    await until(() => acknowledged > last, "the first replacement");
    await new Promise((resolve) => setTimeout(resolve, (round * 7) % 11));
    child.kill("SIGKILL");
    await new Promise((resolve) => child.on("close", resolve));
    const now = (await read(path))!;
    const generation = Number.parseInt(now, 10);
    assert.is(now, content(generation));
    assert.ok(generation >= acknowledged, `${generation} after ${acknowledged} was acknowledged`);
    const kept = (await read(`${path}.1`))!;
    assert.is(kept, content(Number.parseInt(kept, 10)));
    assert.ok([generation, generation - 1].includes(Number.parseInt(kept, 10)));
    last = generation;
  }
  await disk.replace(path, bytes("end"), { keep: `${path}.1` });
  assert.equal(
    readdirSync(root).filter((name) => name.startsWith(".killed")),
    [],
  );
});

test("set, rename, remove, list and stat do what they say, and name what is missing", async () => {
  await disk.set("/proc/sys/net/ipv4/ip_forward", "1");
  assert.is(readFileSync("/proc/sys/net/ipv4/ip_forward", "utf8"), "1\n");
  assert.is(await codeOf(disk.set("/proc/sys/net/ipv4/no_such_setting", "1")), "not-found");
  assert.is(await codeOf(disk.set("/proc/sys/net/ipv4/ip_forward", "words")), "kernel");
  assert.not.ok(existsSync("/proc/sys/net/ipv4/no_such_setting"));
  writeFileSync(`${root}/from`, "x");
  await disk.rename(`${root}/from`, `${root}/to`);
  assert.is(await codeOf(disk.rename(`${root}/from`, `${root}/to`)), "not-found");
  const status = (await disk.stat(`${root}/to`))!;
  assert.equal(
    [status.uid, status.gid, status.mode, status.sizeBytes, status.isDirectory],
    [0, 0, 0o644, 1, false],
  );
  assert.ok(Math.abs(status.modifiedAt - Date.now()) < 60_000);
  assert.is((await disk.stat(root))?.isDirectory, true);
  assert.is(await disk.stat(`${root}/none`), undefined);
  await disk.remove(`${root}/to`);
  await disk.remove(`${root}/to`);
  assert.equal(await disk.list(`${root}/none`), []);
  assert.is(await codeOf(disk.remove(root)), "storage");
});

/** Counts the calls of a watch. */
function watching(path: string) {
  let calls = 0;
  const cancel = disk.watch(path, () => calls++);
  return { cancel, calls: () => calls };
}

test("watch tells of writes, replacements, removal and coming back, of its own file only", async () => {
  const path = `${root}/watched/leases`;
  mkdirSync(`${root}/watched`);
  writeFileSync(path, "0");
  const watch = watching(path);
  const changes: readonly (readonly [string, () => unknown])[] = [
    ["a write", () => writeFileSync(path, "1")],
    ["a replacement", () => disk.replace(path, bytes("2"))],
    [
      "another's replacement",
      () => execFileSync("sh", ["-c", `echo 3 >${path}.tmp && mv ${path}.tmp ${path}`]),
    ],
    ["removal", () => unlinkSync(path)],
    ["coming back", () => writeFileSync(path, "4")],
  ];
  await new Promise((resolve) => setTimeout(resolve, 50));
  for (const [name, change] of changes) {
    const before = watch.calls();
    await change();
    await until(() => watch.calls() > before, name);
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  const before = watch.calls();
  writeFileSync(`${root}/watched/other`, "x");
  writeFileSync(path, "5");
  await until(() => watch.calls() > before, "the file after another");
  watch.cancel();
  watch.cancel();
  const after = watch.calls();
  writeFileSync(path, "6");
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.is(watch.calls(), after);
});

test("watch tells a storm of changes at most ten times a second, and the last one for certain", async () => {
  const path = `${root}/storm`;
  writeFileSync(path, "");
  let seen = "";
  let calls = 0;
  const cancel = disk.watch(path, () => {
    calls++;
    seen = readFileSync(path, "utf8");
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  const startedAt = performance.now();
  for (let round = 0; round < 200; round++) {
    writeFileSync(path, String(round));
    if (round % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await until(() => seen === "199", "the last change");
  const spentMs = performance.now() - startedAt;
  assert.ok(calls <= Math.ceil(spentMs / 100) + 1, `${calls} calls in ${spentMs} ms`);
  cancel();
});

test("watch of a directory tells of what comes and goes in it", async () => {
  const folder = `${root}/folder`;
  mkdirSync(folder);
  const watch = watching(folder);
  await new Promise((resolve) => setTimeout(resolve, 50));
  writeFileSync(`${folder}/a`, "x");
  await until(() => watch.calls() > 0, "the new file");
  watch.cancel();
});

test("watch of what is not there yet, folder and all, tells when it comes", async () => {
  const watch = watching(`${root}/later/file`);
  await new Promise((resolve) => setTimeout(resolve, 50));
  mkdirSync(`${root}/later`);
  writeFileSync(`${root}/later/file`, "x");
  await until(() => watch.calls() > 0, "the file");
  watch.cancel();
});

test("a link in place of the file is replaced, not followed", async () => {
  writeFileSync(`${root}/target`, "precious");
  symlinkSync(`${root}/target`, `${root}/link`);
  await disk.replace(`${root}/link`, bytes("new"));
  assert.is(readFileSync(`${root}/target`, "utf8"), "precious");
  assert.ok(lstatSync(`${root}/link`).isFile());
});

/** As a child of the kill test: replaces one file for ever and says which generation is safe. */
async function replaceForEver(path: string): Promise<void> {
  for (let generation = Number(process.env.FROM) + 1; ; generation++) {
    await disk.replace(path, bytes(`${generation}:${"x".repeat(20_000)}`), { keep: `${path}.1` });
    process.stdout.write(`${generation}\n`);
  }
}

if (process.env.REPLACE !== undefined) void replaceForEver(process.env.REPLACE);
else test.run();
