/** What of entries is on disk after each kind of end. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseEntry } from "../../src/lib/entries.ts";
import { Fault } from "../../src/lib/fault.ts";
import { type JournalFormat, type OpenedJournal, openJournal } from "../../src/system/journal.ts";
import { Machine } from "../fake/machine.ts";

interface Saved {
  readonly boot: string;
  readonly entries: readonly unknown[];
}

const format: JournalFormat<Saved> = {
  ...{ name: "counts", version: 3, list: "counts" },
  open() {
    const entries: unknown[] = [];
    return {
      take(bytes, from, to) {
        const entry = parseEntry(bytes, from, to);
        if (entry === "never") throw new SyntaxError("never");
        entries.push(entry);
      },
      close: (boot) => ({ boot, entries }),
    };
  },
};
const directory = "/etc/gatehouse";
const path = `${directory}/counts.json`;
const faults: (Fault | undefined)[] = [];
const open = (machine: Machine, boot = "b1") =>
  openJournal(machine, { directory, boot, onFault: (fault) => faults.push(fault) }, format);
const entriesIn = ({ saved }: OpenedJournal<Saved>) => saved.flatMap(({ entries }) => entries);
const upTo = (most: number) => Array.from({ length: most }, (_, at) => at + 1);

/** Keeps numbers one by one, each when the one before is done. */
class Counter {
  readonly all: number[] = [];
  readonly machine: Machine;
  opened!: OpenedJournal<Saved>;

  constructor(machine = new Machine()) {
    this.machine = machine;
  }

  async open(): Promise<void> {
    this.opened = await open(this.machine);
  }

  async to(most: number): Promise<void> {
    while (this.all.length < most) {
      this.all.push(this.all.length + 1);
      await this.opened.journal.keep(this.all.slice(-1), () => this.#whole());
    }
    await this.machine.settle();
  }

  /** As it is when it is asked for. */
  *#whole(): Iterable<number> {
    for (let at = 0; at < this.all.length; at++) yield this.all[at]!;
  }
}

test("keep: a small file for each call, and a later life reads them in their order, each with its boot", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  for (const number of [1, 2, 10]) await journal.keep([number, { "a]": '"' }], () => []);
  await journal.keep([], () => []);
  assert.equal(await machine.list(`${directory}/counts.d`), ["0-1.json", "0-2.json", "0-3.json"]);
  const again = await open(machine, "b2");
  await again.journal.keep([11], () => []);
  const { saved } = await open(machine);
  assert.equal(
    saved.map(({ boot }) => boot),
    ["b1", "b1", "b1", "b2"],
  );
  assert.equal(saved[2]!.entries, [10, { "a]": '"' }]);
});

test("the whole is JSON that people can read, an entry on each line, and takes the place of what it has", async () => {
  const counter = new Counter();
  await counter.open();
  await counter.to(1_100);
  const { machine } = counter;
  const text = machine.text(path)!;
  const { version, state } = JSON.parse(text);
  assert.equal([version, state.generation, state.boot], [3, 2, "b1"]);
  assert.ok(text.startsWith('{\n  "version": 3,\n  "state": {\n    "generation": 2,\n    "boot": "b1",\n'));
  assert.ok(text.includes('    "counts": [\n      1,\n      2,\n'));
  const names = await machine.list(`${directory}/counts.d`);
  assert.not.ok(
    names.some((name) => name.startsWith("0-")),
    "what two wholes have is gone",
  );
  assert.equal([...new Set(entriesIn(await open(machine)))], upTo(1_100));
});

test("an empty whole is read, too", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  await journal.keep(["x".repeat(300_000)], () => []);
  await journal.close();
  assert.equal(JSON.parse(machine.text(path)!).state.counts, []);
  const again = await open(machine);
  assert.equal(again.damages, []);
  assert.equal(entriesIn(again), []);
});

test("sizes are known again after a restart: many lives with large entries write the whole, too", async () => {
  const machine = new Machine();
  for (let life = 1; life <= 4; life++) {
    const { journal } = await open(machine);
    await journal.keep(["x".repeat(100_000)], () => ["all"]);
    await journal.close();
    assert.is(machine.text(path) !== undefined, life >= 3, `life ${life}`);
  }
});

test("what is kept while the whole is written counts after it, whatever of it the whole has", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  const state = new Map<string, number>();
  for (let at = 0; at < 20_000; at++) state.set(`name ${at}`, 0);
  function* whole(): Iterable<[string, number]> {
    for (const [name, number] of state) yield [name, number];
  }
  // More than one piece; between them others go on.
  const changing = async () => {
    for (let step = 1; step <= 60; step++) {
      const name = `name ${(step * 7_919) % 20_000}`;
      state.set(name, step);
      await journal.keep([[name, step]], whole);
    }
  };
  await journal.keep([["large", "x".repeat(300_000)] as never], whole);
  await changing();
  await journal.close();
  const read = new Map(entriesIn(await open(machine)) as [string, number][]);
  read.delete("large");
  assert.equal([...read].sort(), [...state].sort());
});

test("a disk that refuses: keep is a fault and the next call takes the same place", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  machine.disk = "full";
  const thrown = await journal.keep([1], () => []).catch((fault: unknown) => fault);
  assert.is((thrown as Fault).code, "storage");
  machine.disk = "fine";
  await journal.keep([1, 2], () => []);
  assert.equal(entriesIn(await open(machine)), [1, 2]);
});

test("a whole that the disk takes late, and then no more: what was kept since counts", async () => {
  const counter = new Counter();
  const { machine } = counter;
  const replace = machine.replace.bind(machine);
  let isRefused = true;
  machine.replace = async (...args) => {
    if (isRefused && args[0] === path) throw new Fault("storage", "Cannot replace: no space is left");
    await replace(...args);
  };
  await counter.open();
  faults.length = 0;
  await counter.to(600);
  assert.is(faults.length, 1);
  assert.equal(entriesIn(await open(machine)), upTo(600));
  isRefused = false;
  await machine.advance(61_000);
  assert.is(faults.at(-1), undefined, "the store has tried again by itself");
  isRefused = true;
  await counter.to(1_800);
  assert.equal([...new Set(entriesIn(await open(machine)))], upTo(1_800));
});

test("files that are cut, of another version or not ours are told and left out, and the others count", async () => {
  const counter = new Counter();
  await counter.open();
  await counter.to(3);
  const { machine } = counter;
  const small = `${directory}/counts.d/0-2.json`;
  const text = machine.text(small)!;
  for (const [content, why] of [
    ["", /without a list/],
    ["{}", /without a list/],
    [text.slice(0, -4), /breaks off|no JSON/],
    [text.replace('"version":3', '"version":4'), /version 4, not 3/],
    [text.replace("[2]", '["never"]'), /never/],
    [text.replace('"version":3', '"version":4').replace("[2]", '["never"]'), /version 4, not 3/],
    [text.replace('"boot":"b1"', '"boot":7'), /boot/],
    ['{"version":3,"boot":"b1","more":{"counts":[2]}}', /elsewhere/],
    ['[{"counts":[2]}]', /no object/],
  ] as const) {
    machine.put(small, content);
    const opened = await open(machine);
    assert.equal(entriesIn(opened), [1, 3], content);
    assert.is(opened.damages.length, 1);
    assert.match(opened.damages[0]!, /0-2\.json.*left out/);
    assert.match(opened.damages[0]!, why);
  }
});

test("a whole that is damaged is set aside, and the one before it gives everything with what came since", async () => {
  const counter = new Counter();
  await counter.open();
  await counter.to(1_100);
  const { machine } = counter;
  const text = machine.text(path)!;
  for (const content of [
    "",
    text.slice(0, text.length / 2),
    text.replace('"generation": 2', '"generation": -1'),
    text.replace("      700,\n", '      "never",\n'),
  ]) {
    machine.put(path, content);
    const opened = await open(machine);
    assert.match(opened.damages.join(), /kept as .*damaged-.*the previous generation is used/);
    assert.equal([...new Set(entriesIn(opened))], upTo(1_100));
  }
});

test.run();
