/** Base64 against the engine's own. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { base64, base64Text } from "../../src/isolation/base64.ts";
import { sameText } from "../../src/isolation/door.ts";

test("base64 and base64Text are what everybody else says", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      const text = Buffer.from(bytes).toString("base64");
      assert.is(base64(bytes), text);
      assert.is(base64Text(text), Buffer.from(bytes).toString("latin1"));
    }),
  );
  for (const bad of ["a", "ab", "abc", "=abc", "ab=c", "a===", "ab c", "ab-_", "abcd="])
    assert.is(base64Text(bad), undefined, bad);
});

test("sameText is equality", () => {
  const text = fc.string({ maxLength: 6 });
  fc.assert(fc.property(text, text, (one, other) => void assert.is(sameText(one, other), one === other)));
  fc.assert(fc.property(text, (each) => void assert.ok(sameText(each, each))));
});

test.run();
