/** Mappings in a hosts file. */

import { mkdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { describeReport, HostsFile, hostsLimits, parseHosts } from "../../src/ipref/hosts.ts";
import type { StaticRecord } from "../../src/ipref/sources.ts";
import { formatReference } from "../../src/lib/reference.ts";
import { openLinux } from "../../src/system/linux.ts";
import { Machine } from "../fake/machine.ts";
import { nativePath, until } from "../system/until.ts";
import { Stage } from "./stage.ts";

const show = ({ kind, address, context, reference }: StaticRecord) =>
  `${kind} ${address} ${context ?? "-"} ${formatReference(reference)}`;
const recorded = readFileSync("test/ipref/fixtures/hosts", "utf8");

test("the recorded file: what the original accepts is accepted, but for what contradicts", () => {
  const { records } = parseHosts(recorded, 4);
  assert.equal(records.map(show), [
    "ours 192.168.97.11 198.51.100.97 2711",
    "ours 192.168.97.12 - 12",
    "ours 192.168.97.13 - 13",
    "ours 192.168.97.18 - 3063",
    "ours 192.168.97.19 - 2-f47",
    "ours 192.168.97.20 - 2-bf47",
    "ours 192.168.97.24 - 123e-4567-e89b-12d3-a456-4266-5544-0",
    "ours 192.168.97.26 - 26",
    "ours 192.168.97.28 - 28",
    "ours 10.240.2.40 - 40",
    "ours fd00::41 - 41",
    "theirs 10.248.2.1 203.0.113.98 1",
    "theirs 10.248.2.2 203.0.113.98 2",
    "theirs 10.248.16.5 203.0.113.98 5",
    "theirs 192.168.1.6 203.0.113.98 6",
    "theirs 10.248.2.8 203.0.113.98 a0-0-0-0-0-0-0-12",
    "theirs 10.248.2.9 224.0.0.1 9",
  ]);
});

test("defect 16.2.10: names, commas, dots and UUIDs are reported, by line; so are duplicate references", () => {
  const { reports, mistakes } = parseHosts(recorded, 4);
  assert.equal(
    reports.map(({ line, mistake, text }) => `${line} ${mistake} ${text}`),
    [
      "6 no-reference 198.51.100.97",
      "7 no-reference ",
      "13 wrong-reference 1,234",
      "14 wrong-reference 0.85",
      "15 wrong-reference 123e4567-e89b-12d3-a456-426655440000",
      "17 wrong-context gw.example.com",
      "21 wrong-reference 29 x",
      "22 unknown-type foo",
      "23 duplicate reference 12: 192.168.97.12",
      "28 no-reference 203.0.113.98",
      "29 no-context + 4",
      "32 wrong-context 2001:db8::7",
      "35 no-reference 203.0.113.98 10",
    ],
  );
  assert.is(mistakes, reports.length);
  assert.is(
    describeReport("/etc/hosts", reports[2]!),
    '/etc/hosts, line 13: no reference: "1,234"; the line is left out',
  );
});

test("the recorded file in force: the book refuses what the original refuses", async () => {
  const stage = new Stage();
  const mappings = await stage.open();
  const refusals = await mappings.setSource("hosts:/etc/hosts", parseHosts(recorded, 4).records);
  assert.equal(
    refusals.map(({ record }) => record.address),
    ["192.168.97.20", "10.240.2.40", "fd00::41", "10.248.16.5", "192.168.1.6", "10.248.2.9"],
  );
  assert.is([...mappings.entries(0)].length, 11);
});

test("defect 16.2.2: a line of one #, or one that ends in #, is a comment", () => {
  for (const text of [
    "#",
    "192.168.1.1 nas #",
    "#\n",
    "##",
    "# \n#\n",
    "1.2.3.4 a # = pub + 1",
    "#=",
    "1.2.3.4 #=",
  ]) {
    assert.equal(parseHosts(text, 4).records, [], text);
  }
  assert.equal(parseHosts("# = pub + 1", 4).reports, []);
  const lines =
    "#\n192.168.1.1 nas #= pub + 5\n192.168.1.2 x #\n\r\n192.168.1.3 tab\t#=\tpub\t+\t6\t# more # = x\r";
  assert.equal(parseHosts(lines, 4).records.map(show), ["ours 192.168.1.1 - 5", "ours 192.168.1.3 - 6"]);
});

test("duplicates: the first line of a reference or an encoded address holds; the same again is none", () => {
  const { records, reports } = parseHosts(
    [
      "192.168.1.1 #= pub + 5",
      "192.168.1.1 #= pub 5",
      "192.168.1.1 #= pub + 6",
      "192.168.1.2 #= pub + 5",
      "10.240.1.1 #= ext 203.0.113.1 + 5",
      "10.240.1.1 #= ext 203.0.113.1 + 5",
      "10.240.1.1 #= ext 203.0.113.2 + 5",
      "10.240.1.2 #= ext 203.0.113.1 + 5",
    ].join("\n"),
    4,
  );
  assert.is(records.length, 4);
  assert.equal(
    reports.map(({ line, mistake }) => `${line} ${mistake}`),
    ["4 duplicate", "7 duplicate"],
  );
});

test("bounds: long lines, many records and many mistakes", () => {
  const long = `192.168.1.1 ${"x".repeat(5_000)} #= pub + 5`;
  assert.equal(
    parseHosts(long, 4).reports.map(({ mistake, text }) => [mistake, text.length]),
    [["line-too-long", 81]],
  );
  const many = Array.from({ length: hostsLimits.records + 200 }, (_, at) => `192.168.1.1 #= pub + ${at + 1}`);
  const { records, reports, mistakes } = parseHosts(many.join("\n"), 4);
  assert.is(records.length, hostsLimits.records);
  assert.is(mistakes, 200);
  assert.is(reports.length, hostsLimits.reports);
  assert.is(parseHosts("__proto__ #= pub + 5\nconstructor #= pub + 6", 4).mistakes, 2);
});

test("parseHosts: flipped, cut and foreign bytes never throw, and give records that make sense as text", () => {
  const bytes = new TextEncoder().encode(recorded);
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(255), fc.nat(bytes.length), (at, byte, end) => {
      const changed = bytes.slice(0, end);
      changed[at] = byte;
      const { records, reports, mistakes } = parseHosts(new TextDecoder().decode(changed), 4);
      assert.ok(records.length + mistakes <= 40);
      for (const { reference, context } of records) {
        assert.ok(reference > 0n && reference < 1n << 128n);
        assert.ok(context === undefined || !context.includes(":"));
      }
      for (const { line } of reports) assert.ok(line >= 1 && line <= 40);
    }),
    { numRuns: 2_000 },
  );
  fc.assert(fc.property(fc.string({ maxLength: 200 }), (text) => void parseHosts(`1.2.3.4 #=${text}`, 6)));
});

function watcher(system: ConstructorParameters<typeof HostsFile>[0], path: string) {
  const taken: string[][] = [];
  const faults: string[] = [];
  const file = new HostsFile(system, {
    path,
    tunnel: 4,
    take: async (owner, records) => {
      assert.is(owner, `hosts:${path}`);
      taken.push(records.map(({ address }) => address));
    },
    onFault: (message) => faults.push(message),
  });
  return { file, taken, faults };
}

test("HostsFile: a missing file is harmless; it is read when it comes, changes, is replaced and goes", async () => {
  const directory = `${process.env.TMPDIR}/hosts-${process.pid}`;
  mkdirSync(directory, { recursive: true });
  const path = `${directory}/hosts`;
  const { file, taken, faults } = watcher(openLinux({ nativePath, log: () => {} }), path);
  await file.open();
  assert.equal(taken, [[]]);
  const line = (host: number) => `192.168.1.${host} h #= pub + ${host}\n`;
  const now = () => JSON.stringify(taken.at(-1));
  writeFileSync(path, line(1));
  await until(() => now() === '["192.168.1.1"]', "it came");
  writeFileSync(path, line(1) + line(2));
  await until(() => now() === '["192.168.1.1","192.168.1.2"]', "it was changed");
  writeFileSync(`${path}.new`, line(3));
  renameSync(`${path}.new`, path);
  await until(() => now() === '["192.168.1.3"]', "it was replaced");
  writeFileSync(`${path}.new`, line(4));
  renameSync(`${path}.new`, path);
  await until(() => now() === '["192.168.1.4"]', "it was replaced again");
  unlinkSync(path);
  await until(() => now() === "[]", "it went");
  writeFileSync(path, line(5));
  await until(() => now() === '["192.168.1.5"]', "it came back");
  await file.close();
  assert.equal(faults, []);
});

test("HostsFile: a row of changes is one reading after a moment's quiet, at last after five seconds", async () => {
  const machine = new Machine();
  const { file, taken } = watcher(machine, "/etc/hosts");
  await file.open();
  for (let step = 0; step < 20; step++) {
    machine.put("/etc/hosts", `192.168.1.${step} #= pub + ${step + 1}`);
    await machine.advance(400);
  }
  await machine.advance(500);
  assert.is(taken.length, 3);
  assert.equal(taken.at(-1), ["192.168.1.19"]);
  await file.close();
  machine.put("/etc/hosts", "");
  await machine.advance(10_000);
  assert.is(taken.length, 3);
});

test("HostsFile: a file that cannot be read is told, and what it said before goes on", async () => {
  const machine = new Machine();
  machine.put("/etc/hosts", "192.168.1.1 #= pub + 1");
  const { file, taken, faults } = watcher(machine, "/etc/hosts");
  await file.open();
  machine.put("/etc/hosts", new Uint8Array(hostsLimits.bytes + 1));
  await machine.advance(1_000);
  assert.is(faults.length, 1);
  assert.is(taken.length, 1);
  machine.put("/etc/hosts", "192.168.1.2 #= pub + 1");
  await machine.advance(1_000);
  assert.equal(taken.at(-1), ["192.168.1.2"]);
  await file.close();
});

test.run();
