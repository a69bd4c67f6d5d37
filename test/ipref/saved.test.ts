/** What of mappings lies on disk, and what is read when it is damaged. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type MappingLine,
  renderMapping,
  renderSource,
  type SavedLines,
  type SavedMapping,
  savedFormat,
} from "../../src/ipref/saved.ts";
import { decodeAddress } from "../../src/lib/address.ts";
import type { Json } from "../../src/lib/json.ts";
import { formatReference, formatReferenceAt } from "../../src/lib/reference.ts";
import { openJournal } from "../../src/system/journal.ts";
import { Machine } from "../fake/machine.ts";
import { address, directory, Stage } from "./stage.ts";

const anyAddress = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .chain((bytes) => fc.constantFrom(decodeAddress(bytes, 0, 4), decodeAddress(bytes, 0, 6)));
const reference = fc
  .oneof(fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }), fc.bigInt({ min: 0n, max: 70_000n }))
  .map(formatReference);
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

/** What is read of entries. @throws SyntaxError */
function read(...entries: readonly Json[]): SavedLines {
  const reader = savedFormat.open();
  for (const entry of entries) {
    // In the midst of other bytes, as in a file.
    const bytes = new TextEncoder().encode(`[${JSON.stringify(entry)}]`);
    reader.take(bytes, 1, bytes.length - 1);
  }
  return reader.close("b1");
}

function mappingOf(line: MappingLine): SavedMapping {
  return {
    kind: line.isOurs ? "ours" : "theirs",
    address: decodeAddress(line.address, 0, line.addressFamily),
    context: line.isOurs ? undefined : decodeAddress(line.context, 0, line.contextFamily),
    reference: formatReferenceAt(line.reference, 0),
    ...{ rests: line.rests, untilAt: line.untilAt, byName: line.byName },
  };
}

function mappingsIn({ eachMapping }: SavedLines): SavedMapping[] {
  const mappings: SavedMapping[] = [];
  eachMapping((line) => mappings.push(mappingOf(line)));
  return mappings;
}

test("a mapping and a source as text are read back", () => {
  fc.assert(
    fc.property(fc.array(anyMapping, { maxLength: 5 }), (mappings) => {
      assert.equal(mappingsIn(read(...mappings.map(renderMapping))), mappings);
    }),
  );
  const records = [
    { kind: "ours", address: address("192.168.97.11"), context: undefined, reference: 2711n },
    { kind: "ours", address: address("192.168.97.12"), context: address("198.51.100.97"), reference: 12n },
    { kind: "theirs", address: address("10.240.2.1"), context: address("203.0.113.98"), reference: 1n },
  ] as const;
  for (const hash of [undefined, 0n, 0x5fce473ef931d7f1n]) {
    const source = { owner: "__proto__", records, hash };
    assert.equal(read(renderSource(source)).sources, [source]);
  }
});

test("the lines are as the manual of the format shows them", () => {
  const remote: SavedMapping = {
    ...{ kind: "theirs", address: address("10.243.27.121"), context: address("203.0.113.98") },
    ...{ reference: "b-5271-5f7d", rests: false, untilAt: 14_399_001, byName: true },
  };
  assert.is(renderMapping(remote), "T 10.243.27.121 203.0.113.98 b-5271-5f7d 14400 n");
  assert.is(
    renderMapping({ ...remote, kind: "ours", context: undefined, rests: true, byName: false }),
    "o 10.243.27.121 b-5271-5f7d 14400",
  );
});

test("many lines: each is read as it was written, in its order", () => {
  const lines = Array.from({ length: 2_000 }, (_, at) => `O 192.168.${at >> 8}.${at & 255} ${at + 1} ${at}`);
  const saved = read(...lines, { source: "user", records: [] });
  assert.equal(mappingsIn(saved).map(renderMapping), lines);
  assert.equal(mappingsIn(saved).length, 2_000, "and again");
  assert.is(saved.sources.length, 1);
});

test("references and addresses in the forms that people write are read, too", () => {
  for (const [text, shown] of [
    ["T FD00::1:0 203.0.113.98 a0--12 5", "T fd00::1:0 203.0.113.98 a0-0-0-0-0-0-0-12 5"],
    ["O 10.0.0.1 65536 5", "O 10.0.0.1 1-0 5"],
    ["O 10.0.0.1 0-12 5", "O 10.0.0.1 18 5"],
    ["O ::ffff:10.0.0.1 00000000000000000000000012 5", "O ::ffff:a00:1 12 5"],
  ] as const) {
    assert.equal(mappingsIn(read(text)).map(renderMapping), [shown]);
  }
});

test("an entry that is anything else is a SyntaxError", () => {
  const wrong: Json[] = [
    "",
    "T",
    "X 1.2.3.4 5 6",
    "T 10.0.0.1 5 6",
    "O 10.0.0.1 5",
    "O 10.0.0.1 5 6 7",
    "O 10.0.0.1 5 -6",
    "O 10.0.0 5 6",
    "O 10.0.0.256 5 6",
    "O 10.0.0.01 5 6",
    "O 10.0.0.1. 5 6",
    "O 10.0.0.1.1 5 6",
    "O  10.0.0.1 5 6",
    "O 10.0.0.1  5 6",
    "O 10.0.0.1 5 6 ",
    "O 10.0.0.1 5 6 n ",
    "O 10.0.0.1 5 6 n n",
    "O\t10.0.0.1 5 6",
    "T 10.0.0.1 1.2.3 5 6",
    "O 10.0.0.1 x 6",
    "O 10.0.0.1 1-2-3-4-5-6-7-8-9 6",
    "O 10.0.0.1 12345-1 6",
    "O 10.0.0.1 1- 6",
    "O 10.0.0.1 5 1e3",
    `O 10.0.0.1 5 ${"6".repeat(13)}`,
    `O 10.0.0.1 5 6${" ".repeat(200)}`,
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
  ];
  for (const entry of wrong) {
    assert.throws(
      () => read(entry),
      (thrown: unknown) => thrown instanceof SyntaxError,
      JSON.stringify(entry),
    );
  }
});

test("a line cut anywhere is a SyntaxError, or as right as it is short; flipped bytes never throw anything else", () => {
  const bytes = new TextEncoder().encode('"T 10.243.27.121 203.0.113.98 b-5271-5f7d 14400 n"');
  const take = (some: Uint8Array) => {
    const reader = savedFormat.open();
    try {
      reader.take(some, 0, some.length);
      return true;
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
      return false;
    }
  };
  // Of a text that was cut behind a digit of the time nobody can tell.
  const right: number[] = [];
  for (let length = 1; length <= bytes.length; length++) {
    const cut = Uint8Array.from([...bytes.subarray(0, length - 1), bytes.at(-1)!]);
    if (take(cut)) right.push(length);
  }
  assert.equal(right, [44, 45, 46, 47, 48, 50]);
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(255), (at, value) => {
      const changed = bytes.slice();
      changed[at] = value;
      take(changed);
    }),
    { numRuns: 2_000 },
  );
});

const open = (machine: Machine) => openJournal(machine, { directory, boot: "b1" }, savedFormat);
const linesOf = ({ saved }: Awaited<ReturnType<typeof open>>) =>
  saved.flatMap((lines) => mappingsIn(lines).map((each) => each.reference));
const line = (at: number) => `O 192.168.97.1 ${at} 5`;
const none = () => [];

test("keep: groups of lines are durable one by one, and read in their order", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  for (let at = 1; at <= 12; at++) await journal.keep([line(at), line(at + 100)], none);
  const again = await open(machine);
  assert.equal(
    linesOf(again),
    Array.from({ length: 12 }, (_, at) => [String(at + 1), String(at + 101)]).flat(),
  );
  await again.journal.keep([line(13)], none);
  assert.is(linesOf(await open(machine)).at(-1), "13");
});

test("a damaged small file is left out and told, and the others count", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  for (let at = 1; at <= 3; at++) await journal.keep([line(at)], none);
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

test("a whole that is cut or damaged anywhere: told, set aside, and what was before it is there with all since", async () => {
  const machine = new Machine();
  const { journal } = await open(machine);
  const all: string[] = [];
  // Long enough for two wholes.
  for (let at = 1; at <= 1_100; at++) {
    all.push(line(at));
    await journal.keep([line(at)], () => [...all]);
    await machine.settle();
  }
  const path = `${directory}/mappings.json`;
  const whole = new TextEncoder().encode(machine.text(path)!);
  const old = machine.text(`${path}.old`)!;
  assert.is(JSON.parse(machine.text(path)!).state.lines.length, 1_024, "it is JSON");
  const inList = whole.indexOf(91) + 500;
  const contents: readonly (readonly [string, Uint8Array])[] = [
    ...[0, 1, 20, 60, inList, whole.length - 30, whole.length - 3].map(
      (length) => [`cut at ${length}`, whole.slice(0, length)] as const,
    ),
    ...[5, 20, inList, whole.length - 4].map((at) => {
      const changed = whole.slice();
      changed[at] = 35;
      return [`damaged at ${at}`, changed] as const;
    }),
  ];
  for (const [name, content] of contents) {
    machine.put(path, content);
    machine.put(`${path}.old`, old);
    const opened = await open(machine);
    assert.match(opened.damages.join(), /mappings\.json: .*kept as .*the previous generation is used/, name);
    assert.is(new Set(linesOf(opened)).size, 1_100, name);
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
