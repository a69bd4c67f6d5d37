/** Texts of addresses from memory are those that would be made. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { AddressTexts } from "../../src/kernel/texts.ts";
import { decodeAddress } from "../../src/lib/address.ts";

for (const family of [4, 6] as const) {
  test(`AddressTexts.read: IPv${family}, the first time and again, whoever took the place meanwhile`, () => {
    const size = family === 4 ? 4 : 16;
    const texts = new AddressTexts(family);
    const address = fc.uint8Array({ minLength: size, maxLength: size });
    fc.assert(
      fc.property(fc.array(address, { minLength: 1, maxLength: 50 }), fc.nat(3), (addresses, shift) => {
        for (const bytes of [...addresses, ...addresses]) {
          const within = Uint8Array.from([...new Array<number>(shift).fill(9), ...bytes, 9]);
          assert.is(texts.read(within, shift), decodeAddress(bytes, 0, family));
        }
      }),
    );
    // Far more than there are places.
    for (let index = 0; index < 10_000; index++) {
      const bytes = new Uint8Array(size);
      bytes.set([index >> 8, index & 255], size - 2);
      assert.is(texts.read(bytes, 0), decodeAddress(bytes, 0, family));
      assert.is(texts.read(bytes, 0), decodeAddress(bytes, 0, family));
    }
  });
}

test.run();
