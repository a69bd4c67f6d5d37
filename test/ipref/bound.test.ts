/** As many mappings as a configuration may allow are on disk, and come back from it. */

import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { loadConfig } from "../../src/config/config.ts";
import { renderMapping, savedFormat } from "../../src/ipref/saved.ts";
import { parseAddress } from "../../src/lib/address.ts";
import { formatReference } from "../../src/lib/reference.ts";
import { openJournal } from "../../src/system/journal.ts";
import { openLinux } from "../../src/system/linux.ts";

/** The most that the option takes. */
const most = 1 << 20;
const first = 0xb_5271_0000_0000n;
const directory = mkdtempSync(join(tmpdir(), "bound-"));
const system = openLinux({ nativePath: "/nowhere" });

test("max_mappings: the most that it takes is what this test has", () => {
  const config = (count: number) => `config ipref 'ipref'\n\toption max_mappings '${count}'\n`;
  assert.equal(loadConfig(config(most)).warnings, []);
  assert.is(loadConfig(config(most + 1)).warnings.length, 1);
});

test("mappings, as many and with lines as long as they can be, fit the longest file that is read", () => {
  const line = renderMapping({
    kind: "theirs",
    address: parseAddress("fd12:3456:789a:bcde:f123:4567:89ab:cdef")!,
    context: parseAddress("2001:1234:5678:9abc:def1:2345:6789:abcd")!,
    reference: "ffff-ffff-ffff-ffff-ffff-ffff-ffff-ffff",
    rests: false,
    untilAt: 999_999_999_999_000,
    byName: true,
  });
  const bytes = JSON.stringify(line).length + ",\n      ".length;
  // Those that are written down stand there twice.
  assert.ok(2 * most * bytes <= savedFormat.maxBytes!, `${bytes} bytes a line`);
});

test("on disk: that many mappings are read again, out of a file longer than a store's files are by default", async () => {
  const options = { directory, boot: "b1" };
  const count = most - 1;
  const lines = function* (from: number) {
    for (let at = from; at < count; at++)
      yield `T 10.${(at >> 16) & 255}.${(at >> 8) & 255}.${at & 255} 203.0.113.98 ${formatReference(first + BigInt(at))} 14400`;
  };
  const { journal } = await openJournal(system, options, savedFormat);
  // What is kept is enough for the whole to be written, which has the rest.
  await journal.keep([...lines(count - 10_000)], () => lines(0));
  await journal.close();
  const file = join(directory, "mappings.json");
  assert.ok(statSync(file).size > 48 * 1024 * 1024, `${statSync(file).size} bytes`);
  const { saved, damages } = await openJournal(system, options, savedFormat);
  assert.equal(damages, []);
  let found = 0;
  saved[0]!.eachMapping(() => found++);
  assert.is(found, count);
  assert.not.ok(existsSync(`${file}.damaged-1`));
});

test.after(() => rmSync(directory, { recursive: true, force: true }));

test.run();
