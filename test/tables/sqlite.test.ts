/** The reader of SQLite files, against files that sqlite3 made, and against what is left of them. */

import { readFileSync } from "node:fs";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { readSqliteTable } from "../../src/tables/sqlite.ts";
import { importLeases } from "../../src/tables/tables.ts";

const fixture = (name: string) => new Uint8Array(readFileSync(`test/tables/fixtures/${name}`));
const terms = { owner: "root", lifetimeMs: 1_000 };

test("importLeases reads the server's database: keys, numbers and tags", () => {
  const { leases, senseless } = importLeases(fixture("leases.db"), terms);
  assert.is(senseless, 2);
  assert.equal(
    leases.map(({ table, note: { key, label } }) => [table, key.family, key.interface, key.address, label]),
    [
      [10_000, "inet", "eth1", "192.168.5.113", ""],
      [10_000, "inet6", "eth1", "2001:db8::5", "home"],
      [10_000, "unspec", "wwan0", "10.64.1.2", ""],
      [10_001, "inet", "eth2", "192.168.6.7", "ünï"],
    ],
  );
});

test("importLeases reads a database that Table Allocator's server has written", () => {
  const { leases, senseless } = importLeases(fixture("recorded.db"), terms);
  assert.is(senseless, 0);
  assert.equal(
    leases.map(({ table, note: { key, label } }) => [table, key.family, key.interface, key.address, label]),
    [
      [10_000, "inet", "eth1", "192.168.5.113", "home"],
      [10_000, "inet6", "eth1", "2001:db8::5", ""],
      [10_001, "inet", "eth1", "192.168.5.114", "home"],
    ],
  );
});

test("readSqliteTable reads rows over many pages in their order", () => {
  const rows = readSqliteTable(fixture("many.db"), "RtTables");
  assert.is(rows.length, 600);
  for (const [index, row] of rows.entries()) {
    assert.equal(row, [
      10_000 + index,
      2,
      `eth${index}`,
      `10.0.${index >> 8}.${index & 255}`,
      86_400 * index,
      null,
    ]);
  }
});

test("readSqliteTable reads every kind of value", () => {
  const [row] = readSqliteTable(fixture("kinds.db"), "kinds");
  assert.equal(row, [
    null,
    0,
    1,
    -2,
    300,
    -70_000,
    5_000_000_000,
    -9e15,
    1.5,
    "text",
    new Uint8Array([1, 2]),
  ]);
});

test("a file that is none, and a table that is not there, are syntax errors", () => {
  const whole = fixture("leases.db");
  const damaged = (change: (bytes: Uint8Array) => void) => {
    const bytes = Uint8Array.from(whole);
    change(bytes);
    return bytes;
  };
  for (const bytes of [
    new Uint8Array(0),
    new Uint8Array(4_096),
    whole.subarray(0, 300),
    damaged((bytes) => bytes.set([0, 3], 16)),
    damaged((bytes) => bytes.set([0, 0, 0, 2], 56)),
    // The schema's page says that it is its own child.
    damaged((bytes) => bytes.set([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 100)),
  ]) {
    assert.throws(
      () => readSqliteTable(bytes, "RtTables"),
      (thrown: unknown) => thrown instanceof SyntaxError,
    );
  }
  assert.throws(() => readSqliteTable(whole, "Others"), /there is no table Others/);
});

test("whatever is cut off or flipped, nothing but a syntax error is thrown, and it ends", () => {
  const whole = fixture("leases.db");
  const harmless = (bytes: Uint8Array) => {
    try {
      importLeases(bytes, terms);
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
    }
  };
  for (let end = 0; end < whole.length; end += 7) harmless(whole.subarray(0, end));
  const position = fc.nat(whole.length - 1);
  fc.assert(
    fc.property(fc.array(fc.tuple(position, fc.nat(255)), { minLength: 1, maxLength: 8 }), (changes) => {
      const bytes = Uint8Array.from(whole);
      for (const [at, value] of changes) bytes[at] = value;
      harmless(bytes);
    }),
    { numRuns: 3_000 },
  );
  // Where it matters most: header, schema and the pages' heads.
  for (let at = 0; at < 120; at++) {
    for (const value of [0, 1, 5, 13, 127, 128, 255]) {
      const bytes = Uint8Array.from(whole);
      bytes[at] = value;
      harmless(bytes);
    }
  }
});

test.run();
