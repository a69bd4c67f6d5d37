/**
 * What lies in the agent's directories that should not, and a power cut between any two calls to the disk.
 *
 * For the cuts, every call that a store makes is recorded with what it means for the disk: what was written is on it
 * only after a flush of the file, a name only after a flush of the directory. Each moment is then played again with
 * everything that the disk may have by then, and a store opened on it.
 */

import {
  mkdirSync,
  mkdtempSync,
  promises,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { isObject } from "../../src/lib/json.ts";
import { readSpin } from "../../src/spin/spin.ts";
import { openLinux } from "../../src/system/linux.ts";
import { openStore } from "../../src/system/store.ts";
import { Machine } from "../fake/machine.ts";
import { must } from "../lab/children.ts";
import { nativePath, until } from "../system/until.ts";

const linux = openLinux({ nativePath, log: () => {} });
const scratch = () => mkdtempSync(join(tmpdir(), "files-"));
const format = {
  version: 1,
  copied: true,
  parse(state: unknown) {
    if (!isObject(state) || !Number.isSafeInteger(state.count)) throw new SyntaxError("no count");
    return { count: state.count as number };
  },
};
const gigabyte = 2 ** 30;

/** Each puts something at a path that is no file of ours. */
const intruders: Readonly<Record<string, (path: string, victim: string) => unknown>> = {
  "a link to another file": (path, victim) => symlinkSync(victim, path),
  "a link to nowhere": (path) => symlinkSync("/nowhere/at/all", path),
  "a link to itself": (path) => symlinkSync(path, path),
  "a link to a device without end": (path) => symlinkSync("/dev/zero", path),
  "a pipe that nobody writes to": (path) => must(["mkfifo", path]),
  "a directory": (path) => mkdirSync(path),
  "a gigabyte": (path) => {
    writeFileSync(path, "");
    truncateSync(path, gigabyte);
  },
  "another program's text": (path) => writeFileSync(path, "root:x:0:0::/:/bin/sh\n", { mode: 0o666 }),
};

for (const [title, put] of Object.entries(intruders)) {
  test(`a store: ${title} in its place is reported, stays untouched, and makes way for a file of the owner's alone`, async () => {
    for (const suffix of ["", ".old", ".copy"]) {
      const directory = scratch();
      const victim = join(directory, "victim");
      writeFileSync(victim, "precious", { mode: 0o644 });
      const path = join(directory, "count.json");
      await put(`${path}${suffix}`, victim);
      let opened: Awaited<ReturnType<typeof openStore<{ count: number }>>> | undefined;
      void openStore(linux, path, format).then((each) => {
        opened = each;
      });
      await until(() => opened !== undefined, `a store beside ${title} at ${suffix || "its file"}`);
      const { store, state, damage } = opened!;
      assert.is(state, undefined);
      // What cannot be reached at all is as good as not there.
      if (!/nowhere/.test(title)) assert.instance(damage, Fault);
      const saved = await store
        .save(() => ({ count: 7 }))
        .then(
          () => true,
          () => false,
        );
      // A directory in the way is not removed, and said.
      assert.ok(saved || title === "a directory", `${title} at ${suffix}: ${store.lastFault?.message}`);
      if (saved) {
        const status = statSync(path);
        assert.ok(status.isFile());
        assert.is(status.mode & 0o777, 0o600);
        assert.equal((await openStore(linux, path, format)).state, { count: 7 });
      }
      assert.is(readFileSync(victim, "utf8"), "precious");
      assert.is(statSync(victim).mode & 0o777, 0o644);
      await store.close().catch(() => {});
    }
  });
}

test("SPIN's directory: links, pipes, names with dots and a gigabyte are skipped or read as text, and nothing hangs", async () => {
  const directory = scratch();
  const store = join(directory, "nodestore");
  mkdirSync(store);
  const victim = join(directory, "victim");
  writeFileSync(victim, "precious");
  await must(["mkfifo", join(directory, "block.list")]);
  symlinkSync("/dev/zero", join(directory, "allow.list"));
  symlinkSync("/etc/passwd", join(directory, "names.conf"));
  writeFileSync(join(directory, "nodepair.list"), "");
  truncateSync(join(directory, "nodepair.list"), gigabyte);
  for (const name of ["..passwd", "1.json", "-1", "1e3", "0x10", "99999999999999999999", " 7"]) {
    writeFileSync(join(store, name), '{"id":7,"ips":["10.0.0.7"],"domains":[]}');
  }
  symlinkSync(victim, join(store, "8"));
  mkdirSync(join(store, "9"));
  await must(["mkfifo", join(store, "10")]);
  let read: Awaited<ReturnType<typeof readSpin>>;
  void readSpin(linux, directory).then((each) => {
    read = each;
  });
  await until(() => read !== undefined, "the directory read to its end");
  const state = read!;
  assert.equal(state.nodes, []);
  assert.equal(state.pairs, []);
  assert.equal(state.lists, { block: [], ignore: [], allow: [] });
  assert.equal(state.names, []);
  assert.ok(state.skipped.length > 0);
  assert.is(readFileSync(victim, "utf8"), "precious");
});

test("a lease file that is a pipe, or without end, is read as empty or refused, at once", async () => {
  const directory = scratch();
  const pipe = join(directory, "leases");
  await must(["mkfifo", pipe]);
  let content: Uint8Array | undefined;
  void linux.read(pipe, 1_000).then((each) => {
    content = each;
  });
  await until(() => content !== undefined, "a pipe read");
  assert.is(content!.length, 0);
  const outcome = await linux.read("/dev/zero", 1_000).catch((thrown: unknown) => thrown);
  assert.instance(outcome, Fault);
  assert.is((outcome as Fault).code, "limit");
});

// Power cuts.

type Call =
  | { readonly kind: "create"; readonly path: string; readonly file: number }
  | { readonly kind: "write"; readonly file: number; readonly content: Uint8Array }
  | { readonly kind: "flush"; readonly file: number }
  | { readonly kind: "flush names" }
  | { readonly kind: "link" | "rename"; readonly from: string; readonly to: string }
  | { readonly kind: "remove"; readonly path: string }
  /** A save was acknowledged. */
  | { readonly kind: "acknowledged"; readonly count: number };

/** Everything that a row of saves asks of the disk. */
async function recorded(saves: number): Promise<readonly Call[]> {
  const directory = scratch();
  const calls: Call[] = [];
  const real = { open: promises.open, link: promises.link, rename: promises.rename, unlink: promises.unlink };
  let files = 0;
  Object.assign(promises, {
    async open(path: string, flags: string | number, mode?: number) {
      const handle = await real.open(path, flags, mode);
      const file = ++files;
      const { write, sync } = handle;
      let whole = Buffer.alloc(0);
      if (flags === "wx") calls.push({ kind: "create", path: basename(path), file });
      return Object.assign(handle, {
        async write(piece: Uint8Array, from: number, length: number) {
          const done = await (write as (...args: unknown[]) => Promise<{ bytesWritten: number }>).call(
            handle,
            piece,
            from,
            length,
          );
          whole = Buffer.concat([whole, piece.subarray(from, from + done.bytesWritten)]);
          calls.push({ kind: "write", file, content: Uint8Array.from(whole) });
          return done;
        },
        async sync() {
          await sync.call(handle);
          calls.push(path === directory ? { kind: "flush names" } : { kind: "flush", file });
        },
      });
    },
    async link(from: string, to: string) {
      await real.link(from, to);
      calls.push({ kind: "link", from: basename(from), to: basename(to) });
    },
    async rename(from: string, to: string) {
      await real.rename(from, to);
      calls.push({ kind: "rename", from: basename(from), to: basename(to) });
    },
    async unlink(path: string) {
      await real.unlink(path);
      assert.is(dirname(path), directory);
      calls.push({ kind: "remove", path: basename(path) });
    },
  });
  try {
    const { store } = await openStore(linux, join(directory, "count.json"), format);
    for (let count = 1; count <= saves; count++) {
      await store.save(() => ({ count, padding: "x".repeat(200) }));
      calls.push({ kind: "acknowledged", count });
    }
    await store.close();
  } finally {
    Object.assign(promises, real);
  }
  return calls;
}

/** What a file may hold that was not flushed. */
const torn: readonly ((content: Uint8Array) => Uint8Array)[] = [
  (content) => content,
  (content) => content.subarray(0, 0),
  (content) => content.subarray(0, content.length >> 1),
  (content) => content.slice().fill(0),
];

interface Disk {
  readonly names: Map<string, number>;
  readonly contents: Map<number, Uint8Array>;
}

/** The disks that a cut after these calls may leave: names up to any one that was not flushed, contents torn. */
function* disksAfter(calls: readonly Call[]): Generator<Disk> {
  const flushed = new Set(calls.flatMap((call) => (call.kind === "flush" ? call.file : [])));
  const certain = calls.map(({ kind }) => kind).lastIndexOf("flush names");
  const changes = calls.flatMap((call, at) => ("from" in call || "path" in call ? [{ call, at }] : []));
  const sure = changes.filter(({ at }) => at < certain).length;
  for (let applied = sure; applied <= changes.length; applied++) {
    for (const tear of torn) {
      const names = new Map<string, number>();
      for (const { call } of changes.slice(0, applied)) {
        if (call.kind === "create") names.set(call.path, call.file);
        else if (call.kind === "remove") names.delete(call.path);
        else if (call.kind === "link" || call.kind === "rename") {
          names.set(call.to, names.get(call.from)!);
          if (call.kind === "rename") names.delete(call.from);
        }
      }
      const contents = new Map<number, Uint8Array>();
      for (const call of calls) {
        if (call.kind === "write")
          contents.set(call.file, flushed.has(call.file) ? call.content : tear(call.content));
      }
      yield { names, contents };
    }
  }
}

test("a power cut after any call, with whatever was not flushed torn or lost: the last state or the one after it", async () => {
  const calls = await recorded(4);
  for (const kind of ["create", "write", "flush", "flush names", "link", "rename"]) {
    assert.ok(
      calls.some((call) => call.kind === kind),
      `no ${kind} was recorded`,
    );
  }
  let disks = 0;
  for (let at = 0; at <= calls.length; at++) {
    const before = calls.slice(0, at);
    const acknowledged = before.reduce((last, call) => (call.kind === "acknowledged" ? call.count : last), 0);
    for (const { names, contents } of disksAfter(before)) {
      disks++;
      const machine = new Machine();
      for (const [name, file] of names) machine.put(`/s/${name}`, contents.get(file) ?? new Uint8Array(0));
      const { state } = await openStore(machine, "/s/count.json", format);
      const count = state?.count ?? 0;
      const what = `after ${at} calls, the last ${JSON.stringify(calls[at - 1]?.kind)}: ${[...names.keys()]}`;
      assert.ok(
        count === acknowledged || count === acknowledged + 1,
        `${count}, not ${acknowledged}, ${what}`,
      );
    }
  }
  assert.ok(disks > 200, `${disks} disks`);
});

test.run();
