/**
 * Rules for the files that a browser gets, as far as they can be read off the text: nothing becomes markup, no code is
 * made out of text, every text can be translated, and each file is what LuCI's loader takes.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { languages, messagesOf, readCatalogue } from "./catalogue.ts";
import { callsOf, isChildren } from "./script.ts";

const resources = join(process.cwd(), "files/www/luci-static/resources");

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? filesBelow(path) : [path];
  });
}

const files = filesBelow(resources);
const text = (path: string) => readFileSync(path, "utf8");

test("there are only scripts", () => {
  assert.ok(files.length >= 8);
  for (const path of files) assert.match(path, /\.js$/);
});

test("nothing becomes markup, and no text becomes code", () => {
  const banned =
    /\b(?:innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|srcdoc|document\.write|dom\.parse|eval|Function)\b/;
  for (const path of files) assert.not.match(text(path), banned, path);
});

/** Which argument of a call holds children: LuCI takes a string there for markup. */
const children: Record<string, readonly number[]> = {
  E: [2],
  "dom.content": [1],
  "dom.append": [1],
  "bus.fill": [1],
  "ui.showModal": [0, 1],
  "ui.addNotification": [0, 1],
};

for (const [name, positions] of Object.entries(children)) {
  test(`${name}: children are an array or a node, never a string`, () => {
    for (const path of files) {
      for (const args of callsOf(text(path), name)) {
        // E('p', children) leaves the attributes out.
        const shifted =
          name === "E" && args[1] !== undefined && !args[1].startsWith("{") ? [1, 2] : positions;
        for (const at of shifted) {
          const given = args[at];
          assert.ok(given === undefined || isChildren(given, text(path)), `${path}: ${name}(… ${given} …)`);
        }
      }
    }
  });
}

test("isChildren: tells arrays and nodes from what may be a string", () => {
  const source =
    "const made = E('p', {}, []); const list = [ 1 ]; let name = node.name; function draw(parts) {}";
  for (const good of [
    "[]",
    "[ a, b ]",
    "list",
    "made",
    "E('p')",
    "[ 1 ].concat(name)",
    "names.map(f)",
    "a ? [ b ] : []",
    "null",
    "path.node",
  ]) {
    assert.ok(isChildren(good, source), good);
  }
  for (const bad of [
    "name",
    "'text'",
    '"text"',
    "a + b",
    "_('text')",
    "a ? [ b ] : name",
    "String(x)",
    "`x`",
    "node.name",
    "f(x)",
  ]) {
    assert.not.ok(isChildren(bad, source), bad);
  }
});

test("callsOf: finds arguments in spite of strings, comments and brackets", () => {
  const source = `E('p', { 'a': f(1, [2, ')']) }, [ E("b", {}, [ ',' ]) ]); // E('x', 'y')
/* E('x', 'y') */ BE('z', 'w'); "E('q', 'r')";`;
  assert.equal(callsOf(source, "E"), [
    ["'p'", "{ 'a': f(1, [2, ')']) }", `[ E("b", {}, [ ',' ]) ]`],
    [`"b"`, "{}", "[ ',' ]"],
  ]);
});

test("every class that a file requires is LuCI's or is there", () => {
  const known = ["baseclass", "view", "dom", "poll", "rpc", "ui", "form", "uci"];
  for (const path of files) {
    for (const [, name] of text(path).matchAll(/^'require (\S+)(?: as \w+)?';$/gm)) {
      const file = join(resources, `${name!.replaceAll(".", "/")}.js`);
      assert.ok(known.includes(name!) || existsSync(file), `${path} requires ${name}`);
    }
  }
});

test("every file is a strict script that returns its class, and says what it is for", () => {
  for (const path of files) {
    assert.match(text(path), /^'use strict';\n(?:'require [^']+';\n)+\n(?:\/\*\n \* [\s\S]*?\*\/\n)/, path);
    assert.match(text(path), /^return (?:view|baseclass)\.extend\(/m, path);
    // As LuCI does it; this only parses.
    new Function("window", "document", "L", text(path));
  }
});

test("every text of the menu and of the pages has a translation in every language", () => {
  const wanted = messagesOf(files.map(text));
  assert.ok(wanted.size > 50);
  const template = readCatalogue("templates/gatehouse.pot");
  assert.equal(
    [...template.keys()].sort(),
    [...wanted].sort(),
    "the template: PO=write make test ONLY=web/lint",
  );
  for (const language of languages) {
    const catalogue = readCatalogue(`${language}/gatehouse.po`);
    for (const message of wanted) {
      const translated = catalogue.get(message);
      assert.ok(translated, `${language} has nothing for ${JSON.stringify(message)}`);
      const holes = (each: string) => (each.match(/%[sd]/g) ?? []).join();
      assert.is(holes(translated!), holes(message), `${language}: ${message}`);
    }
    for (const message of catalogue.keys())
      assert.ok(wanted.has(message), `${language} still has ${JSON.stringify(message)}`);
  }
});

test.run();
