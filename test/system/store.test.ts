/** The store: what it promises, on a machine that fails at will and on the real disk. */

import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Fault } from "../../src/lib/fault.ts";
import { isObject, type Json } from "../../src/lib/json.ts";
import { openLinux } from "../../src/system/linux.ts";
import { openStore, type Store, type StoreFormat } from "../../src/system/store.ts";
import { Machine } from "../fake/machine.ts";

interface Count {
  readonly count: number;
}

const format: StoreFormat<Count> = {
  version: 3,
  parse(state) {
    if (!isObject(state) || !Number.isSafeInteger(state.count)) throw new SyntaxError("no count");
    return { count: state.count as number };
  },
};
const path = "/etc/gatehouse/count.json";
const stored = (count: number) => `{\n  "version": 3,\n  "state": {\n    "count": ${count}\n  }\n}\n`;
const linux = openLinux({ nativePath: "/nowhere" });

/** What the kill test kills: counts up for ever, and says each number that is durable. */
async function countOn(file: string): Promise<void> {
  const { store, state } = await openStore(linux, file, format);
  for (let count = (state?.count ?? 0) + 1; ; count++) {
    await store.save(() => ({ count, padding: "x".repeat(20_000) }));
    process.stdout.write(`${count}\n`);
  }
}

test("openStore of nothing has no state and no damage", async () => {
  const opened = await openStore(new Machine(), path, format);
  assert.is(opened.state, undefined);
  assert.is(opened.damage, undefined);
  assert.is(opened.store.dirty, false);
});

test("save writes a versioned file that people can read, and openStore reads it", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  await store.save(() => ({ count: 1 }));
  assert.is(machine.text(path), stored(1));
  assert.equal((await openStore(machine, path, format)).state, { count: 1 });
});

test("save keeps the generation before", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  for (const count of [1, 2, 3]) await store.save(() => ({ count }));
  assert.is(machine.text(path), stored(3));
  assert.is(machine.text(`${path}.old`), stored(2));
});

test("save writes bigints as decimal strings, and foreign names as they are", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  await store.save(() => JSON.parse('{"__proto__":"\\n\\ud800"}'));
  assert.match(machine.text(path)!, '"__proto__": "\\n\\ud800"');
  await store.save(() => ({ bytes: 2n ** 64n - 1n }));
  assert.match(machine.text(path)!, '"bytes": "18446744073709551615"');
});

test("save writes nothing when nothing changed, after a restart neither", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  await store.save(() => ({ count: 1 }));
  const written = machine.journal.length;
  await store.save(() => ({ count: 1 }));
  const again = await openStore(machine, path, format);
  await again.store.save(() => ({ count: 1 }));
  assert.is(machine.journal.length, written);
});

test("onSaved is told of each durable state, never of one that the disk refused", async () => {
  const machine = new Machine();
  const told: (string | undefined)[] = [];
  const { store } = await openStore(machine, path, {
    ...format,
    onSaved: () => told.push(machine.text(path)),
  });
  await store.save(() => ({ count: 1 }));
  machine.disk = "full";
  await store.save(() => ({ count: 2 })).catch(() => {});
  assert.equal(told, [stored(1)]);
  machine.disk = "fine";
  await store.save(() => ({ count: 2 }));
  assert.equal(told, [stored(1), stored(2)]);
});

test("a hundred saves at once cost two writes, and each is durable when it resolves", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  let count = 0;
  const saves = Array.from({ length: 100 }, async () => {
    const mine = ++count;
    await store.save(() => ({ count }));
    const durable = format.parse(JSON.parse(machine.text(path)!).state).count;
    assert.ok(durable >= mine, `${durable} on disk when ${mine} was acknowledged`);
  });
  await Promise.all(saves);
  assert.is(machine.journal.filter((line) => line.includes("replace ")).length, 2);
  assert.is(machine.text(path), stored(100));
  assert.is(store.dirty, false);
});

test("save renders as late as it writes", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  let count = 1;
  const first = store.save(() => ({ count }));
  const second = store.save(() => ({ count }));
  count = 2;
  await Promise.all([first, second]);
  assert.is(machine.text(path), stored(2));
});

test("a save that the disk refuses fails, is reported once, and is repeated until it succeeds", async () => {
  const machine = new Machine();
  const reports: (Fault | undefined)[] = [];
  const { store } = await openStore(machine, path, { ...format, onFault: (fault) => reports.push(fault) });
  await store.save(() => ({ count: 1 }));
  machine.disk = "full";
  for (const count of [2, 3]) {
    const thrown = await store.save(() => ({ count })).catch((fault: Fault) => fault);
    assert.is((thrown as Fault).code, "storage");
  }
  assert.ok(store.dirty);
  assert.is(store.lastFault?.code, "storage");
  await machine.advance(300_000);
  assert.is(reports.length, 1);
  assert.is(machine.text(path), stored(1));
  machine.disk = "fine";
  await machine.advance(61_000);
  assert.is(machine.text(path), stored(3));
  assert.not.ok(store.dirty);
  assert.is(store.lastFault, undefined);
  assert.equal(
    reports.map((fault) => fault?.code),
    ["storage", undefined],
  );
  assert.is(machine.timers, 0);
});

test("a refused save is repeated more and more seldom, at least once a minute", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  machine.disk = "read-only";
  let renders = 0;
  store.save(() => ({ count: ++renders })).catch(() => {});
  await machine.advance(600_000);
  // 1 + 2 + 4 + … + 32 + 60 + 60 + …
  assert.is(renders, 1 + 6 + Math.floor((600 - 63) / 60));
});

test("an error of the caller's render is the caller's, and the store lives on", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  const failing = () => {
    throw new TypeError("Cannot render");
  };
  assert.match(
    (await store.save(failing).catch((thrown: Error) => thrown.message)) as string,
    "Cannot render",
  );
  await store.save(() => ({ count: 1 }));
  assert.is(machine.text(path), stored(1));
});

test("saveSoon gathers what comes, and writes it once within the delay", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  for (let count = 1; count <= 10; count++) {
    store.saveSoon(() => ({ count }), 10_000);
    await machine.advance(900);
  }
  assert.is(machine.text(path), undefined);
  assert.ok(store.dirty);
  await machine.advance(1_000);
  assert.is(machine.text(path), stored(10));
  assert.not.ok(store.dirty);
  assert.is(machine.journal.filter((line) => line.includes("replace ")).length, 1);
});

test("saveSoon is overtaken by save, and by an earlier saveSoon", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  store.saveSoon(() => ({ count: 1 }), 60_000);
  store.saveSoon(() => ({ count: 2 }), 1_000);
  await machine.advance(1_000);
  assert.is(machine.text(path), stored(2));
  store.saveSoon(() => ({ count: 3 }), 1_000);
  await store.save(() => ({ count: 4 }));
  await machine.advance(5_000);
  assert.is(machine.text(path), stored(4));
  assert.is(machine.timers, 0);
});

test("close writes what waits and leaves no timer", async () => {
  const machine = new Machine();
  const { store } = await openStore(machine, path, format);
  store.saveSoon(() => ({ count: 7 }), 60_000);
  await store.close();
  assert.is(machine.text(path), stored(7));
  machine.disk = "full";
  store.saveSoon(() => ({ count: 8 }), 1_000);
  assert.is(await store.close().catch((fault: Fault) => fault.code), "storage");
  assert.is(machine.timers, 0);
});

const damages: readonly [why: string, content: string | Uint8Array][] = [
  ["is empty", ""],
  ["is garbage", Uint8Array.from({ length: 500 }, (_, index) => (index * 151) & 255)],
  ["is cut short", stored(5).slice(0, -4)],
  ["is zeros", new Uint8Array(200)],
  ["is another version's", stored(5).replace('"version": 3', '"version": 4')],
  ["has no version", '{"state":{"count":5}}'],
  ["is no object", "[3]"],
  ["has a state that is none", '{"version":3,"state":{"count":"5"}}'],
  ["is longer than any state", new Uint8Array(33 * 1024 * 1024).fill(32)],
];

for (const [why, content] of damages) {
  test(`a file that ${why} is set aside and reported, and the generation before is used`, async () => {
    const machine = new Machine();
    machine.put(`${path}.old`, stored(4));
    machine.put(path, content);
    const { state, damage, store } = await openStore(machine, path, format);
    assert.equal(state, { count: 4 });
    assert.is(damage?.code, "storage");
    assert.match(damage!.message, `kept as ${path}.damaged-1; the previous generation is used`);
    assert.is(machine.text(path), undefined);
    // The good generation stays until there is a better one, whatever happens now.
    assert.equal((await openStore(machine, path, format)).state, { count: 4 });
    await store.save(() => ({ count: 5 }));
    assert.is(machine.text(path), stored(5));
    assert.is(machine.text(`${path}.old`), stored(4));
  });
}

test("a file as long as the format's files may be is read again, one that would be longer is never written", async () => {
  const padded = (count: number, bytes: number) => ({
    count,
    padding: "x".repeat(bytes - stored(count).length - ',\n    "padding": ""'.length),
  });
  for (const maxBytes of [200, 33 * 1024 * 1024]) {
    const machine = new Machine();
    const limited = { ...format, copied: maxBytes < 1_000, maxBytes };
    const { store } = await openStore(machine, path, limited);
    await store.save(() => ({ count: 1 }));
    await store.save(() => padded(2, maxBytes));
    assert.is((await machine.read(path, maxBytes))!.length, maxBytes);
    const fault = await store.save(() => padded(3, maxBytes + 1)).catch((thrown: Fault) => thrown);
    assert.is((fault as Fault).code, "storage");
    assert.match((fault as Fault).message, `Cannot save ${path}: longer than the ${maxBytes} bytes`);
    const opened = await openStore(machine, path, limited);
    assert.equal([opened.state, opened.damage], [{ count: 2 }, undefined]);
    assert.is(machine.text(`${path}.old`), stored(1));
  }
});

test("on disk: pieces that come to more than a file may have leave the file and the one before as they were", async () => {
  const file = fresh();
  const pieces = {
    maxBytes: 100,
    decode: (bytes: Uint8Array) => bytes.length,
    encode: function* (counts: readonly number[]) {
      for (const count of counts) yield new Uint8Array(count).fill(32);
    },
  };
  const { store } = await openStore<number, readonly number[]>(linux, file, pieces);
  for (const counts of [[50], [40, 60]]) await store.save(() => counts);
  const fault = await store.save(() => [60, 41]).catch((thrown: Fault) => thrown);
  assert.match((fault as Fault).message, `Cannot save ${file}: longer than the 100 bytes`);
  await store.close().catch(() => {});
  assert.is(readFileSync(file).length, 100);
  assert.is(readFileSync(`${file}.old`).length, 50);
  assert.is((await openStore(linux, file, pieces)).state, 100);
});

test("a copied store loses nothing that was acknowledged to damage of one file", async () => {
  const copied = { ...format, copied: true };
  for (const damaged of ["", ".copy", ".old"]) {
    const machine = new Machine();
    const { store } = await openStore(machine, path, copied);
    for (const count of [1, 2, 3]) await store.save(() => ({ count }));
    machine.put(`${path}${damaged}`, "garbage");
    const opened = await openStore(machine, path, copied);
    assert.equal(opened.state, { count: 3 });
    assert.is(opened.damage !== undefined, damaged === "");
    await opened.store.save(() => ({ count: 4 }));
    assert.is(machine.text(path), stored(4));
    assert.is(machine.text(`${path}.copy`), stored(4));
  }
});

test("a copied store is durable only with its copy, and writes neither without a change", async () => {
  const copied = { ...format, copied: true };
  const machine = new Machine();
  const { store } = await openStore(machine, path, copied);
  await store.save(() => ({ count: 1 }));
  machine.disk = "read-only";
  await (await openStore(machine, path, copied)).store.save(() => ({ count: 1 }));
  machine.disk = "fine";
  machine.put(`${path}.copy`, "garbage");
  const opened = await openStore(machine, path, copied);
  machine.disk = "read-only";
  const fault = await opened.store.save(() => ({ count: 1 })).catch((thrown: Fault) => thrown);
  assert.is((fault as Fault).code, "storage");
});

test("damage of both generations leaves no state, and is no reason to fail", async () => {
  const machine = new Machine();
  machine.put(`${path}.old`, "{");
  machine.put(path, "}");
  const { state, damage } = await openStore(machine, path, format);
  assert.is(state, undefined);
  assert.match(damage!.message, "no copy or previous generation can be read");
});

test("a damaged file that cannot be moved never becomes the generation before", async () => {
  const machine = new Machine();
  machine.put(`${path}.old`, stored(4));
  machine.put(path, "garbage");
  machine.disk = "read-only";
  const { state, damage, store } = await openStore(machine, path, format);
  assert.equal(state, { count: 4 });
  assert.match(damage!.message, "not moved aside");
  machine.disk = "fine";
  await store.save(() => ({ count: 5 }));
  assert.is(machine.text(`${path}.old`), stored(4));
});

test("a disk that cannot be read is damage, not an exception", async () => {
  const machine = new Machine();
  machine.put(path, stored(1));
  machine.disk = "broken";
  const { state, damage } = await openStore(machine, path, format);
  assert.is(state, undefined);
  assert.match(damage!.message, "i/o error");
});

test("three damaged files are kept, the newest", async () => {
  const machine = new Machine();
  for (let round = 1; round <= 5; round++) {
    machine.put(path, `garbage ${round}`);
    await openStore(machine, path, format);
  }
  const kept = (await machine.list("/etc/gatehouse")).filter((name) => name.includes("damaged"));
  assert.equal(kept, ["count.json.damaged-3", "count.json.damaged-4", "count.json.damaged-5"]);
  assert.is(machine.text(`${path}.damaged-5`), "garbage 5");
});

// The real disk.

const directory = mkdtempSync(join(tmpdir(), "store-"));
const fresh = (() => {
  let serial = 0;
  return () => {
    const below = join(directory, String(++serial));
    mkdirSync(below);
    return join(below, "count.json");
  };
})();

async function saved(file: string, ...counts: number[]): Promise<Store> {
  const { store } = await openStore(linux, file, format);
  for (const count of counts) await store.save(() => ({ count }));
  return store;
}

test("on disk: cut at every byte, the file gives its state or the one before", async () => {
  const file = fresh();
  await saved(file, 1, 2);
  const whole = readFileSync(file);
  for (let length = 0; length <= whole.length; length++) {
    writeFileSync(file, whole.subarray(0, length));
    const { state, damage } = await openStore(linux, file, format);
    // Without its last line end the text is whole all the same.
    const complete = length >= whole.length - 1;
    assert.equal(state, { count: complete ? 2 : 1 }, `${length} bytes`);
    assert.is(damage === undefined, complete);
  }
  assert.is(readdirSync(join(file, "..")).filter((name) => name.includes("damaged")).length, 3);
});

test("on disk: every flipped bit gives a state that was saved, or is reported", async () => {
  const file = fresh();
  await saved(file, 1, 2);
  const whole = readFileSync(file);
  for (let bit = 0; bit < whole.length * 8; bit += 7) {
    const bytes = Buffer.from(whole);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    writeFileSync(file, bytes);
    const { state, damage } = await openStore(linux, file, format);
    if (damage) assert.equal(state, { count: 1 });
    else assert.ok(Number.isSafeInteger(state!.count));
  }
});

test("on disk: a full disk refuses, keeps what was there, and takes the state once there is room", async () => {
  const mount = join(directory, "small");
  mkdirSync(mount);
  assert.is(spawnSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", mount]).status, 0);
  try {
    const file = join(mount, "count.json");
    const store = await saved(file, 1);
    writeFileSync(join(mount, "ballast"), Buffer.alloc(48 * 1024));
    const large = (): Json => ({ count: 2, padding: "x".repeat(20_000) });
    assert.is(await store.save(large).catch((fault: Fault) => fault.code), "storage");
    assert.is(readFileSync(file, "utf8"), stored(1));
    assert.equal((await openStore(linux, file, format)).state, { count: 1 });
    assert.ok(store.dirty);
    rmSync(join(mount, "ballast"));
    await until(() => !store.dirty);
    assert.equal((await openStore(linux, file, format)).state, { count: 2 });
  } finally {
    spawnSync("umount", ["-l", mount]);
  }
});

test("on disk: a read-only disk gives its state and refuses to take one", async () => {
  const mount = join(directory, "fixed");
  mkdirSync(mount);
  assert.is(spawnSync("mount", ["-t", "tmpfs", "tmpfs", mount]).status, 0);
  try {
    const file = join(mount, "gatehouse", "count.json");
    await saved(file, 1);
    assert.is(spawnSync("mount", ["-o", "remount,ro", mount]).status, 0);
    const { store, state, damage } = await openStore(linux, file, format);
    assert.equal(state, { count: 1 });
    assert.is(damage, undefined);
    assert.is(await store.save(() => ({ count: 2 })).catch((fault: Fault) => fault.code), "storage");
    assert.is(await store.close().catch((fault: Fault) => fault.code), "storage");
  } finally {
    spawnSync("umount", ["-l", mount]);
  }
});

test("on disk: kill -9 at any moment loses nothing that was acknowledged", async () => {
  const file = fresh();
  let acknowledged = 0;
  for (let round = 0; round < 15; round++) {
    const child = spawn(process.execPath, [process.argv[1]!, "count", file], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    let lines = 0;
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (chunk: Buffer) => {
        said += chunk;
        lines += chunk.toString().split("\n").length - 1;
        // Each round at another distance from a write.
        if (lines > 2) setTimeout(() => child.kill("SIGKILL"), Math.random() * 8);
      });
      child.on("close", () => resolve());
    });
    // The last line may be cut; a whole one was acknowledged.
    const last = said.split("\n").slice(0, -1).map(Number).at(-1)!;
    assert.ok(last > acknowledged);
    acknowledged = last;
    const { state, damage } = await openStore(linux, file, format);
    assert.is(damage, undefined);
    assert.ok(state!.count >= acknowledged, `${state!.count} after ${acknowledged} was acknowledged`);
    acknowledged = state!.count;
  }
  const names = readdirSync(join(file, ".."));
  assert.ok(names.length <= 4, `left behind: ${names}`);
});

test.after(() => rmSync(directory, { recursive: true, force: true }));

async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 1_000, "the condition never held");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

if (process.argv[2] === "count") void countOn(process.argv[3]!);
else test.run();
