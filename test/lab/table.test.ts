/** What the lab shows of foreign names, and how it fits them in. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { nameOf, plain, redraw, renderHints, renderView, rowsOf, type View } from "./table.ts";

const view: View = {
  nodes: [
    { id: 4, name: "laptop", mac: "02:77:00:00:00:0a", ips: ["10.77.0.10", "fd77::10"], domains: [] },
    { id: 7, ips: ["198.51.100.10"], domains: ["web.example.net."] },
    { id: 9, ips: ["198.51.100.40"] },
  ],
  flows: [
    { from: 4, to: 7, protocol: 6, to_port: 80, bytes: 1_234_567, packets: 900, blocked: true },
    { from: 4, to: 12, protocol: 58, to_port: 0, bytes: 84, packets: 1, blocked: false },
  ],
};

test("renderView: nodes by name, flows by the names of their ends", () => {
  assert.equal(renderView(view, { width: 100, height: 40 }), [
    "3 nodes",
    "id  name             mac                addresses",
    "4   laptop           02:77:00:00:00:0a  10.77.0.10 fd77::10",
    "7   web.example.net                     198.51.100.10",
    "9   198.51.100.40                       198.51.100.40",
    "",
    "2 flows",
    "from        to                   what    packets  bytes",
    "laptop (4)  web.example.net (7)  TCP 80  900      1.2 MB  blocked",
    "laptop (4)  node 12 (12)         ICMPv6  1        84 B",
  ]);
});

test("renderView: never more lines or columns than there is room for, and nothing but printable ASCII", () => {
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.constantFrom("\x1b[2J", "__proto__", "a\nb", "\u202egnp.exe"),
  );
  const node = fc.record({
    id: fc.nat(),
    name: text,
    mac: text,
    ips: fc.array(text),
    domains: fc.array(text),
  });
  fc.assert(
    fc.property(
      fc.array(node, { maxLength: 60 }),
      fc.integer({ min: 20, max: 200 }),
      fc.integer({ min: 10, max: 60 }),
      (nodes, width, height) => {
        const flows = nodes.map((each) => ({ ...view.flows[0]!, from: each.id }));
        const lines = renderView({ nodes, flows }, { width, height });
        assert.ok(lines.length <= height, `${lines.length} lines for ${height}`);
        for (const line of lines) {
          assert.match(line, /^[\x20-\x7e…]*$/);
          assert.ok(line.length <= width);
        }
      },
    ),
  );
});

test("plain: writes what is not printable as its code and keeps to the width", () => {
  for (const [given, width, shown] of [
    ["web.example.net", 20, "web.example.net"],
    ["\x1b[31mred\x07", 40, "\\u{1b}[31mred\\u{7}"],
    ["ä\u202e🙂", 40, "\\u{e4}\\u{202e}\\u{1f642}"],
    ["a\r\nb", 40, "a\\u{d}\\u{a}b"],
    ["0123456789", 5, "0123~"],
    ["01234", 5, "01234"],
  ] as const) {
    assert.is(plain(given, width), shown);
  }
});

test("nameOf: the given name before a domain before an address before a MAC", () => {
  assert.is(nameOf({ id: 1 }), "node 1");
  assert.is(nameOf({ id: 1, mac: "02:00:00:00:00:01" }), "02:00:00:00:00:01");
  assert.is(nameOf({ id: 1, mac: "02:00:00:00:00:01", ips: ["10.0.0.1"] }), "10.0.0.1");
  assert.is(nameOf({ id: 1, ips: ["10.0.0.1"], domains: ["a.example."] }), "a.example");
  assert.is(nameOf({ id: 1, domains: ["a.example."], name: "b" }), "b");
});

test("renderHints: commands with the ids of laptop and web, once they are known, and the lab's name where needed", () => {
  const hints = renderHints(view, undefined).join("\n");
  assert.match(
    hints,
    `npm run -s lab -- exec router gatehouse call spin blockflow '{"node1":4,"node2":7,"block":1}'`,
  );
  assert.match(hints, "exec router mosquitto_sub -t 'SPIN/#' -v");
  assert.match(hints, "exec laptop ping web.example.net");
  assert.not.match(renderHints({ nodes: [], flows: [] }, undefined).join("\n"), "undefined");
  for (const line of renderHints(view, "two").slice(1)) assert.match(line, "exec --name two ");
});

test("redraw: goes over what was drawn, folded lines counted, below it after a resize, and never past the screen", () => {
  const size = { width: 10, height: 20 };
  const first = redraw(["one", "", "x".repeat(25)], size, undefined);
  assert.equal(first, { text: `\none\n\n${"x".repeat(25)}\n`, frame: { rows: 5, width: 10 } });
  const second = redraw(["two"], size, first.frame);
  assert.equal(second, { text: "\x1b[5A\r\x1b[Jtwo\n", frame: { rows: 1, width: 10 } });
  assert.is(redraw(["three"], { width: 12, height: 20 }, second.frame).text, "\nthree\n");
  const tall = redraw(Array(50).fill("line"), size, undefined);
  assert.is(tall.frame.rows, 19);
  assert.is(rowsOf(["0123456789", "0123456789a"], 10), 3);
});

test.run();
