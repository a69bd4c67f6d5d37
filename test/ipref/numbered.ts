/** Keys of records that are made of one number, so that a record that is not whole shows. */

import type { RecordKeys } from "../../src/ipref/table.ts";

/** For IPv4 in the LAN and IPv6 in the tunnel. Odd numbers are local hosts. */
export function keysOfNumber(number: number): RecordKeys {
  const address = new Uint8Array(16);
  address.set([10, 240 | (number >> 16), (number >> 8) & 255, number & 255]);
  const fill = (salt: number) =>
    Uint8Array.from({ length: 16 }, (_, at) => (number >> ((at % 4) * 8)) ^ salt ^ at);
  // Of a local host the context is our own, the same for all; here it is not, since nothing looks.
  return { address, context: fill(0x20), reference: fill(0x55) };
}
