/** What of leases is on disk after each kind of end. */

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { parseRecord } from "../../src/tables/record.ts";
import { openJournal } from "../../src/tables/tables.ts";
import { Machine } from "../fake/machine.ts";
import { nativePath } from "../system/until.ts";

const system = openLinux({ nativePath, log: () => {} });
let serial = 0;

function fresh(): string {
  const directory = `${process.env.TMPDIR}/journal-${process.pid}-${serial++}`;
  mkdirSync(directory, { recursive: true });
  return directory;
}

const record = (table: number, more: object = {}) => ({
  ...{ table, family: "inet", interface: "eth1", address: `10.0.0.${table % 256}` },
  ...{ owner: "root", lifetime: 60, granted: 5, ends: 99 },
  ...more,
});
const open = (directory: string, on: System = system) => openJournal(on, { directory, boot: "b1" });
const tablesIn = (saved: Awaited<ReturnType<typeof open>>["saved"]) =>
  saved.flatMap(({ records }) => records.map((each) => each.table));

test("keep makes records durable one by one, and a later life reads them in order", async () => {
  const directory = fresh();
  const { journal } = await open(directory);
  await journal.keep([record(1), record(2)], () => []);
  await journal.keep([record(3)], () => []);
  assert.equal(readdirSync(`${directory}/tables.d`), ["0-1.json", "0-2.json"]);
  const again = await open(directory);
  assert.equal(tablesIn(again.saved), [1, 2, 3]);
  assert.is(again.saved[0]!.boot, "b1");
  await again.journal.keep([record(4)], () => []);
  assert.equal(tablesIn((await open(directory)).saved), [1, 2, 3, 4]);
});

test("when the pieces have become many the whole is written, and those before the last whole go", async () => {
  const directory = fresh();
  const { journal } = await open(directory);
  const all: ReturnType<typeof record>[] = [];
  for (let table = 1; table <= 1_200; table++) {
    all.push(record(table));
    await journal.keep([record(table)], () => all);
  }
  await journal.close();
  const names = readdirSync(`${directory}/tables.d`);
  assert.ok(names.every((name) => name.startsWith("1-") || name.startsWith("2-")));
  assert.ok(names.length < 1_024, `${names.length} pieces`);
  const { saved } = await open(directory);
  assert.equal(tablesIn(saved).at(-1), 1_200);
  assert.is(new Set(tablesIn(saved)).size, 1_200);
  // Even the generation before the last gives everything.
  writeFileSync(`${directory}/tables.json`, "damaged");
  const restored = await open(directory);
  assert.is(restored.damages.length, 1);
  assert.is(new Set(tablesIn(restored.saved)).size, 1_200);
});

test("a piece that is damaged is left out and told, the others count", async () => {
  const directory = fresh();
  const { journal } = await open(directory);
  for (const table of [1, 2, 3]) await journal.keep([record(table)], () => []);
  const path = `${directory}/tables.d/0-2.json`;
  const text = readFileSync(path, "utf8");
  for (const content of ["", "{}", text.slice(0, 50), text.replace('"version":1', '"version":2')]) {
    writeFileSync(path, content);
    const { saved, damages } = await open(directory);
    assert.equal(tablesIn(saved), [1, 3]);
    assert.match(damages[0]!, /0-2\.json/);
  }
});

test("a disk that refuses is a fault, and the next call takes the same place", async () => {
  const directory = fresh();
  let broken = false;
  const shaky: System = Object.assign(Object.create(system), {
    replace: async (...args: Parameters<System["replace"]>) => {
      if (broken) throw new Fault("storage", "Cannot replace: the disk is full");
      await system.replace(...args);
    },
  });
  const { journal } = await open(directory, shaky);
  broken = true;
  const thrown = await journal.keep([record(1)], () => []).catch((fault: unknown) => fault);
  assert.instance(thrown, Fault);
  broken = false;
  await journal.keep([record(1), record(2)], () => []);
  assert.equal(tablesIn((await open(directory)).saved), [1, 2]);
  rmSync(directory, { recursive: true });
});

test("a whole that the disk takes late, and then no more: what was kept since counts", async () => {
  const machine = new Machine();
  let isRefused = true;
  const replace = machine.replace.bind(machine);
  machine.replace = async (...args) => {
    if (isRefused && args[0].endsWith("tables.json")) throw new Fault("storage", "Cannot replace: full");
    await replace(...args);
  };
  const { journal } = await open("/etc/gatehouse", machine);
  const all: ReturnType<typeof record>[] = [];
  const keep = async (table: number) => {
    all.push(record(table));
    await journal.keep([record(table)], () => [...all]);
    await machine.settle();
  };
  for (let table = 1; table <= 600; table++) await keep(table);
  isRefused = false;
  await machine.advance(61_000);
  assert.ok(machine.text("/etc/gatehouse/tables.json"), "the store has tried again by itself");
  // A disk that is nearly full takes small files, and the whole only now and then.
  isRefused = true;
  await keep(601);
  const { saved } = await open("/etc/gatehouse", machine);
  assert.is(new Set(tablesIn(saved)).size, 601);
});

test("parseRecord refuses what it never wrote", () => {
  assert.is(parseRecord(record(1)).table, 1);
  assert.is(parseRecord({ ...record(2), rests: 7 }).kind, "rest");
  const bad = [
    ...[null, [], {}, 7],
    ...[
      ...[{ table: -1 }, { table: 1.5 }, { family: "ipx" }, { interface: "x".repeat(16) }, { address: 7 }],
      ...[
        { owner: undefined },
        { lifetime: "1" },
        { ends: -1 },
        { steer: "x" },
        { follow: 1 },
        { prefix: 129 },
      ],
      ...[{ label: "a\u0000" }, { rests: "x" }, { owner: "\ud800" }],
    ].map((change) => record(1, change)),
  ];
  for (const each of bad) {
    assert.throws(
      () => parseRecord(each),
      (thrown: unknown) => thrown instanceof SyntaxError,
      JSON.stringify(each),
    );
  }
});

test.run();
