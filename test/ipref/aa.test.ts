/** AA records as text. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { formatAa, parseAa } from "../../src/ipref/aa.ts";
import type { Address } from "../../src/lib/address.ts";

const v4 = "203.0.113.98" as Address;

test("parseAa: addresses and names, blanks around the plus or not", () => {
  for (const text of ["AA 203.0.113.98 + 64", "AA 203.0.113.98+64", "AA   203.0.113.98  +  64  "]) {
    assert.equal(parseAa(text), { context: { address: v4 }, reference: 64n });
  }
  assert.equal(parseAa("AA 2001:db8::7 + 6-789a"), {
    context: { address: "2001:db8::7" },
    reference: 0x6789an,
  });
  assert.equal(parseAa("AA Gw.Example.COM. + 1"), { context: { name: "gw.example.com" }, reference: 1n });
});

test("parseAa: what does not begin with AA and one blank is about something else", () => {
  for (const text of [
    "",
    "AA",
    "aa 203.0.113.98 + 64",
    "v=spf1 -all",
    " AA 203.0.113.98 + 64",
    "AA\t1.2.3.4 + 1",
  ]) {
    assert.is(parseAa(text), undefined, text);
  }
});

test("parseAa: a broken IPREF address is a SyntaxError", () => {
  const wrong = [
    "AA ",
    "AA 203.0.113.98",
    "AA 203.0.113.98 64",
    "AA + 64",
    "AA 203.0.113.98 +",
    "AA 203.0.113.98 + 64 + 65",
    "AA 203.0.113.998 + 64",
    "AA 203.0.113 + 64",
    "AA gw..example + 1",
    "AA -gw + 1",
    "AA gw example + 1",
    "AA 203.0.113.98 + 1,234",
    "AA 203.0.113.98 + 0.85",
    "AA 2001:db8::7:: + 1",
    `AA ${"a".repeat(64)} + 1`,
    `AA ${"a.".repeat(127)}a + 1`,
    `AA ${"9".repeat(100_000)}`,
    "AA gw\u0000 + 1",
  ];
  for (const text of wrong)
    assert.throws(
      () => parseAa(text),
      (thrown: unknown) => thrown instanceof SyntaxError,
      text,
    );
});

test("formatAa: what it prints is read back", () => {
  const name = fc.stringMatching(/^[a-z][a-z0-9]{0,10}(\.[a-z]{2,5}){0,3}$/);
  fc.assert(
    fc.property(name, fc.bigInt({ min: 0n, max: (1n << 128n) - 1n }), (each, reference) => {
      const record = { context: { name: each }, reference };
      assert.equal(parseAa(formatAa(record)), record);
    }),
  );
  assert.is(formatAa({ context: { address: v4 }, reference: 0x12_0000n }), "AA 203.0.113.98 + 12-0");
});

test("parseAa: flipped text is a record, nothing, or a SyntaxError", () => {
  const bytes = new TextEncoder().encode("AA gw.example.com + b-5271-5f7d");
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(255), fc.nat(bytes.length), (at, byte, end) => {
      const changed = bytes.slice(0, end);
      changed[at] = byte;
      try {
        parseAa(new TextDecoder().decode(changed));
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }),
    { numRuns: 3_000 },
  );
});

test.run();
