/** UCI files as libuci reads them, and hostile ones. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { maxUciLength, parseUci, renderUci, type UciFile } from "../../src/config/uci.ts";

/** A file as plain rows: type, name, options. */
const rows = (file: UciFile) =>
  file.sections.map((each) => [each.type, each.name ?? "", Object.fromEntries(each.options)]);

const reads: readonly [why: string, text: string, sections: unknown][] = [
  ["nothing", "", []],
  ["blanks and comments", " \t\n# a\n\n  # b", []],
  ["a named section", "config a 'b'\n\toption c 'd'\n", [["a", "b", { c: "d" }]]],
  ["an anonymous section", "config a\noption c d", [["a", "", { c: "d" }]]],
  [
    "two anonymous sections of a type",
    "config a\nconfig a",
    [
      ["a", "", {}],
      ["a", "", {}],
    ],
  ],
  ["quoted names", "config 'a' \"b\"\n\toption 'c' \"d\"", [["a", "b", { c: "d" }]]],
  ["short forms", "c a b; o c d; l e f", [["a", "b", { c: "d", e: ["f"] }]]],
  ["a package line", "package x\nconfig a", [["a", "", {}]]],
  ["a list", "config a\nlist x 1\nlist x '2 3'", [["a", "", { x: ["1", "2 3"] }]]],
  ["a list after an option keeps both", "config a\noption x 1\nlist x 2", [["a", "", { x: ["1", "2"] }]]],
  ["an option after a list replaces it", "config a\nlist x 1\noption x 2", [["a", "", { x: "2" }]]],
  ["a later option wins", "config a\noption x 1\noption x 2", [["a", "", { x: "2" }]]],
  [
    "a section named again is continued",
    "config a b\noption x 1\nconfig c\nconfig a b\noption y 2",
    [
      ["a", "b", { x: "1", y: "2" }],
      ["c", "", {}],
    ],
  ],
  ["single quotes are literal", `config a\noption x 'a\\n"#;b'`, [["a", "", { x: 'a\\n"#;b' }]]],
  ["double quotes know the backslash", 'config a\noption x "a\\"\\\\b\\n"', [["a", "", { x: 'a"\\bn' }]]],
  ["bare text knows the backslash", "config a\noption x a\\ \\#b", [["a", "", { x: "a #b" }]]],
  ["pieces join into a word", `config a\noption x \\''it'"'"s`, [["a", "", { x: "'it's" }]]],
  [
    "a value over two lines",
    "config a\noption x 'one\ntwo'\noption y 3",
    [["a", "", { x: "one\ntwo", y: "3" }]],
  ],
  [
    "a backslash joins lines",
    'config a\noption x "on\\\ne"\noption \\\n y \\\r\n 2',
    [["a", "", { x: "one", y: "2" }]],
  ],
  [
    "a backslash in single quotes joins nothing",
    "config a\noption x 'on\\\ne'",
    [["a", "", { x: "on\\\ne" }]],
  ],
  ["a comment cuts a bare word", "config a\noption x b#c\noption y d # e", [["a", "", { x: "b", y: "d" }]]],
  ["an empty value", "config a\noption x ''", [["a", "", { x: "" }]]],
  ["lines that end as on Windows", "config a 'b'\r\n\toption c 'd'\r\n", [["a", "b", { c: "d" }]]],
  [
    "foreign names stay text",
    "config __proto__ constructor\noption __proto__ '$(x)'",
    [["__proto__", "constructor", JSON.parse('{"__proto__":"$(x)"}')]],
  ],
  [
    "bytes that are no ASCII",
    "config a\noption x 'Ünï\u0001\u{1F600}'",
    [["a", "", { x: "Ünï\u0001\u{1F600}" }]],
  ],
];

for (const [why, text, expected] of reads) {
  test(`parseUci reads ${why}`, () => {
    const file = parseUci(text);
    assert.equal(file.errors, []);
    assert.equal(JSON.stringify(rows(file)), JSON.stringify(expected));
  });
}

const refuses: readonly [text: string, line: number, message: RegExp, sectionsLeft: unknown][] = [
  ["config a\nwrong x y\noption x 1", 2, /"wrong" is no keyword/, [["a", "", { x: "1" }]]],
  ["option x 1\nconfig a", 1, /x belongs to no section/, [["a", "", {}]]],
  ["config", 1, /"" is no section type/, []],
  ["config a b c", 1, /too many words/, []],
  ["config a\noption", 2, /"" is no option name/, [["a", "", {}]]],
  ["config a\noption x", 2, /x has no value/, [["a", "", {}]]],
  ["config a\noption x-y 1", 2, /"x-y" is no option name/, [["a", "", {}]]],
  ["config a\noption x 1 2\noption y 3", 2, /too many words/, [["a", "", { y: "3" }]]],
  ["config a 'b c'\noption x 1", 1, /"b c" is no section name/, []],
  ["config a b\nconfig c b\noption x 1", 2, /b is already a section of type a/, [["a", "b", {}]]],
  ["config a\noption x '1\noption y 2\n", 2, /never closed/, [["a", "", {}]]],
  ['config a\n\n\noption x "\\', 4, /never closed/, [["a", "", {}]]],
  ["package", 1, /package without a name/, []],
];

for (const [text, line, message, left] of refuses) {
  test(`parseUci reports ${JSON.stringify(text)}`, () => {
    const file = parseUci(text);
    // An option of a section that could not be opened is reported as well.
    assert.is(file.errors[0]!.line, line);
    assert.match(file.errors[0]!.message, message);
    assert.equal(rows(file), left);
  });
}

test("parseUci counts lines over joined and quoted ones", () => {
  const file = parseUci("config a\noption x 'b\nc' # d\noption \\\ny 1\nnonsense\n");
  assert.equal(file.errors, [{ line: 6, message: '"nonsense" is no keyword' }]);
  assert.is(parseUci("\n\nconfig a").sections[0]!.line, 3);
});

test("parseUci bounds what it reads and reports", () => {
  assert.is(parseUci("x\n".repeat(10_000)).errors.length, 100);
  const file = parseUci(`config a\n${"#".repeat(maxUciLength)}`);
  assert.is(file.sections.length, 0);
  assert.match(file.errors[0]!.message, /more than/);
  const many = parseUci("c a\no x 1\n".repeat(maxUciLength / 12));
  assert.is(many.sections.length, Math.floor(maxUciLength / 12));
});

test("parseUci never throws, whatever the text and wherever it is cut", () => {
  const whole = reads.map(([, text]) => text).join("\n");
  for (let length = 0; length <= whole.length; length++) parseUci(whole.slice(0, length));
  const pieces = fc.array(
    fc.oneof(
      fc.constantFrom("config ", "option ", "list ", "'", '"', "\\", "\n", "#", ";", " "),
      fc.string(),
    ),
  );
  fc.assert(fc.property(pieces, (parts) => parseUci(parts.join("")).errors.length <= 100));
});

test("renderUci prints as uci export does", () => {
  const options = new Map<string, string | string[]>([
    ["x", "it's"],
    ["y", ["1", "2\n3"]],
  ]);
  assert.is(
    renderUci([
      { type: "a", name: "b", options },
      { type: "c", name: undefined, options: new Map() },
    ]),
    "config a 'b'\n\toption x 'it'\\''s'\n\tlist y '1'\n\tlist y '2\n3'\n\nconfig c\n",
  );
});

test("renderUci refuses what the format cannot hold", () => {
  const none = new Map<string, string>();
  assert.throws(() => renderUci([{ type: "a b", name: undefined, options: none }]), /not a name/);
  assert.throws(() => renderUci([{ type: "a", name: "b-c", options: none }]), /not a name/);
  assert.throws(() => renderUci([{ type: "a", name: "b", options: new Map([["x y", ""]]) }]), /not a name/);
  assert.throws(() => renderUci([{ type: "a", name: "b", options: new Map([["x", "\0"]]) }]), /has a NUL/);
});

test("renderUci and parseUci are each other's reverse", () => {
  const name = fc.stringMatching(/^[A-Za-z0-9_]{1,8}$/);
  const value = fc.string({ unit: "binary" }).filter((text) => !text.includes("\0"));
  const options = fc.dictionary(name, fc.oneof(value, fc.array(value, { minLength: 1 })));
  const sections = fc.uniqueArray(fc.record({ type: name, name, options }), {
    selector: (each) => each.name,
  });
  fc.assert(
    fc.property(sections, (list) => {
      const given = list.map((each) => ({ ...each, options: new Map(Object.entries(each.options)) }));
      const back = parseUci(renderUci(given));
      assert.equal(back.errors, []);
      assert.equal(
        back.sections.map(({ line: _, ...each }) => each),
        given,
      );
    }),
  );
});

test.run();
