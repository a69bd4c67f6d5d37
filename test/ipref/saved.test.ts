/** What of mappings lies on disk, and what is read when it is damaged. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openJournal } from "../../src/ipref/journal.ts";
import {
  parseLines,
  renderLines,
  renderMapping,
  renderSource,
  type SavedMapping,
} from "../../src/ipref/saved.ts";
import { decodeAddress } from "../../src/lib/address.ts";
import { Machine } from "../fake/machine.ts";
import { address, directory, Stage } from "./stage.ts";

const anyAddress = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .chain((bytes) => fc.constantFrom(decodeAddress(bytes, 0, 4), decodeAddress(bytes, 0, 6)));
const reference = fc.bigInt({ min: 0n, max: (1n << 128n) - 1n });
const anyMapping: fc.Arbitrary<SavedMapping> = fc
  .record(
    {
      kind: fc.constantFrom("ours" as const, "theirs" as const),
      address: anyAddress,
      context: anyAddress,
      reference,
      rests: fc.boolean(),
      untilAt: fc.nat(1e9).map((seconds) => seconds * 1_000),
      byName: fc.boolean(),
    },
    { noNullPrototype: true },
  )
  .map((each) => (each.kind === "ours" ? { ...each, context: undefined } : each));

test("a mapping and a source as text are read back", () => {
  fc.assert(
    fc.property(fc.array(anyMapping, { maxLength: 5 }), (mappings) => {
      const state = JSON.parse(JSON.stringify(renderLines("b1", mappings.map(renderMapping))));
      assert.equal(parseLines(state), { boot: "b1", lines: mappings });
    }),
  );
  const records = [
    { kind: "ours", address: address("192.168.97.11"), context: undefined, reference: 2711n },
    { kind: "ours", address: address("192.168.97.12"), context: address("198.51.100.97"), reference: 12n },
    { kind: "theirs", address: address("10.240.2.1"), context: address("203.0.113.98"), reference: 1n },
  ] as const;
  for (const hash of [undefined, 0n, 0x5fce473ef931d7f1n]) {
    const source = { owner: "__proto__", records, hash };
    const state = JSON.parse(JSON.stringify(renderLines("", [renderSource(source)])));
    assert.equal(parseLines(state).lines, [source]);
  }
});

test("the lines are as the manual of the format shows them", () => {
  const remote: SavedMapping = {
    ...{ kind: "theirs", address: address("10.243.27.121"), context: address("203.0.113.98") },
    ...{ reference: 0xb_5271_5f7dn, rests: false, untilAt: 14_399_001, byName: true },
  };
  assert.is(renderMapping(remote), "T 10.243.27.121 203.0.113.98 b-5271-5f7d 14400 n");
  assert.is(
    renderMapping({ ...remote, kind: "ours", context: undefined, rests: true, byName: false }),
    "o 10.243.27.121 b-5271-5f7d 14400",
  );
});

test("parseLines: anything else is a SyntaxError", () => {
  const wrong = [
    null,
    1,
    [],
    {},
    { boot: 1, lines: [] },
    { boot: "b".repeat(65), lines: [] },
    { boot: "b", lines: {} },
    ...[
      "",
      "T",
      "X 1.2.3.4 5 6",
      "T 10.0.0.1 5 6",
      "O 10.0.0.1 5",
      "O 10.0.0.1 5 6 7",
      "O 10.0.0.1 5 -6",
      "O 10.0.0 5 6",
      "O 10.0.0.1 5 6 n n",
      "T 10.0.0.1 1.2.3 5 6",
      "O 10.0.0.1 x 6",
      "O 10.0.0.1 5 1e3",
      `O 10.0.0.1 5 ${"6".repeat(13)}`,
      `O 10.0.0.1 5 6${" ".repeat(200)}`,
    ].map((line) => ({ boot: "b", lines: [line] })),
    ...[
      null,
      1,
      [],
      {},
      { source: 1, records: [] },
      { source: "s", records: {} },
      { source: "s", records: [1] },
      { source: "s", records: ["O 10.0.0.1"] },
      { source: "s", records: ["T 10.0.0.1 5"] },
      { source: "s", hash: "xyz", records: [] },
      { source: "s".repeat(601), records: [] },
    ].map((line) => ({ boot: "b", lines: [line] })),
  ];
  for (const state of wrong) {
    assert.throws(
      () => parseLines(state),
      (thrown: unknown) => thrown instanceof SyntaxError,
      JSON.stringify(state),
    );
  }
});

const open = (machine: Machine) => openJournal(machine, { directory, boot: "b1" });
const linesOf = ({ saved }: Awaited<ReturnType<typeof open>>) =>
  saved.flatMap(({ lines }) =>
    lines.map((line) => ("records" in line ? line.owner : String(line.reference))),
  );
const line = (at: number) => `O 192.168.97.1 ${at} 5`;

test("keep: groups of lines are durable one by one, and read in their order", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  for (let at = 1; at <= 12; at++) await journal.keep([line(at), line(at + 100)]);
  const again = await open(machine);
  assert.equal(
    linesOf(again),
    Array.from({ length: 12 }, (_, at) => [String(at + 1), String(at + 101)]).flat(),
  );
  await again.journal.keep([line(13)]);
  assert.is(linesOf(await open(machine)).at(-1), "13");
});

test("fold: what is kept while the whole is written counts after it, also if the disk takes the whole much later", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  const all: string[] = [];
  for (let at = 1; at <= 600; at++) {
    await journal.keep([line(at)]);
    all.push(line(at));
    assert.is(journal.isDue, at >= 512);
  }
  machine.disk = "full";
  const folding = journal.fold(() => all).catch(() => "refused");
  assert.not.ok(journal.isDue);
  assert.is(await folding, "refused");
  machine.disk = "fine";
  await journal.keep([line(601)]);
  all.push(line(601));
  assert.is(new Set(linesOf(await open(machine))).size, 601);
  await machine.advance(5_000);
  assert.ok(machine.text(`${directory}/mappings.json`), "the store has tried again");
  await journal.keep([line(602)]);
  all.push(line(602));
  assert.is(new Set(linesOf(await open(machine))).size, 602);
  await journal.fold(() => all);
  await journal.fold(() => all);
  assert.is(new Set(linesOf(await open(machine))).size, 602);
  assert.equal(
    (await machine.list(`${directory}/mappings.d`)).filter((name) => !name.startsWith("2-")),
    [],
  );
});

test("a damaged small file is left out and told, and the others count", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  for (let at = 1; at <= 3; at++) await journal.keep([line(at)]);
  const path = `${directory}/mappings.d/0-2.json`;
  const text = machine.text(path)!;
  for (const content of [
    "",
    "{}",
    text.slice(0, 30),
    text.replace('"version":1', '"version":9'),
    text.replace("O 1", "O x"),
  ]) {
    machine.put(path, content);
    const opened = await open(machine);
    assert.equal(linesOf(opened), ["1", "3"]);
    assert.match(opened.damages[0]!, /0-2\.json.*left out/);
  }
});

test("flipped bytes in any file: it starts, what is wrong is told, and what is right is there", async () => {
  const stage = new Stage({ seed: 7 });
  const mappings = await stage.open();
  await mappings.addStatic({
    kind: "ours",
    address: address("192.168.97.9"),
    context: undefined,
    reference: 9n,
  });
  for (let at = 1; at <= 20; at++) await mappings.encodedFor(address("203.0.113.98"), BigInt(at));
  const path = `${directory}/mappings.d/${(await stage.pieces())[5]!}`;
  const original = new TextEncoder().encode(stage.machine.text(path)!);
  await fc.assert(
    fc.asyncProperty(fc.nat(original.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
      const changed = original.slice();
      changed[at]! ^= flip;
      stage.machine.put(path, changed);
      const restored = await stage.open();
      const live = [...restored.entries(0, { state: "live" })];
      assert.ok(live.length >= 18 && live.length <= 20, `${live.length}`);
      assert.is(restored.localOf(9n), "192.168.97.9");
    }),
    { numRuns: 300 },
  );
});

test.run();
