/** A list in a JSON text, entry by entry. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseEntry, readEntries } from "../../src/lib/entries.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);

function read(text: string | Uint8Array, name = "list"): { rest: unknown; entries: unknown[] } {
  const bytes = typeof text === "string" ? bytesOf(text) : text;
  const entries: unknown[] = [];
  const rest = readEntries(bytes, name, (from, to) => entries.push(parseEntry(bytes, from, to)));
  return { rest, entries };
}

test("readEntries: entries of every kind, wherever the list stands, and the rest without them", () => {
  for (const [text, entries, rest] of [
    ['{"list":[]}', [], { list: [] }],
    ['{"a":1,"list":["x"],"b":2}', ["x"], { a: 1, list: [], b: 2 }],
    ['{"in":{"list" : [ 1 ,\n-2.5e3\t, true, null ] }}', [1, -2500, true, null], { in: { list: [] } }],
    ['{"list":[{"list":[1,"]"]},["}",[]],"\\"],["]}', [{ list: [1, "]"] }, ["}", []], '"],['], { list: [] }],
    ['{"a":"\\"list\\":[1]","list":["é"]}', ["é"], { a: '"list":[1]', list: [] }],
    ['{"a":"list","list":[7]}', [7], { a: "list", list: [] }],
  ] as const) {
    assert.equal(read(text), { rest, entries }, text);
  }
});

test("readEntries: whatever JSON there is, it is read as JSON.parse reads it", () => {
  fc.assert(
    fc.property(
      fc.array(fc.jsonValue(), { maxLength: 6 }),
      fc.jsonValue(),
      fc.nat(4),
      (list, after, indent) => {
        const text = JSON.stringify({ boot: "b", state: { entries: list }, after }, undefined, indent);
        const expected = { boot: "b", state: { entries: [] }, after: JSON.parse(JSON.stringify(after)) };
        assert.equal(read(text, "entries"), { rest: expected, entries: JSON.parse(JSON.stringify(list)) });
      },
    ),
  );
});

test("readEntries: what is cut at any length or changed anywhere is a SyntaxError, or JSON of other content", () => {
  const whole = bytesOf('{"version":1,"list":["T 10 é",{"a":[1,"\\\\"]},-5],"z":{}}\n');
  for (let length = 0; length < whole.length - 1; length++) {
    assert.throws(
      () => read(whole.subarray(0, length)),
      (thrown: unknown) => thrown instanceof SyntaxError,
      `${length} bytes`,
    );
  }
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, value) => {
      const changed = whole.slice();
      changed[at] = value;
      try {
        const { rest, entries } = read(changed);
        const plain = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(changed));
        assert.equal(entries, plain.list);
        assert.equal(rest, { ...plain, list: [] });
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }),
    { numRuns: 3_000 },
  );
});

test.run();
