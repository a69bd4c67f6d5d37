/** UDP datagrams as packets: what is written is read again, and the sums are right by another way of counting. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, type Family, parseAddress } from "../../src/lib/address.ts";
import { parsePacket, udpPayload } from "../../src/lib/packet.ts";
import { encodeUdp } from "../../src/lib/udp.ts";

const address = (text: string): Address => parseAddress(text)!;
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const ends: Readonly<Record<Family, readonly [Address, Address]>> = {
  4: [address("198.18.0.9"), address("10.2.0.2")],
  6: [address("fd00:6a7e::9"), address("ff02::fb")],
};

/** The sum with its carries, which is all ones over what has a right checksum in it. */
function folded(bytes: readonly number[]): number {
  let sum = 0n;
  for (const [at, byte] of bytes.entries()) sum += BigInt(byte) << (at % 2 === 0 ? 8n : 0n);
  return Number(sum === 0n ? 0n : ((sum - 1n) % 0xffffn) + 1n);
}

function assertSums(packet: Uint8Array): void {
  const four = packet[0] === 0x45;
  const at = four ? 20 : 40;
  if (four) assert.is(folded([...packet.subarray(0, at)]), 0xffff, "of the header");
  const udp = [...packet.subarray(at)];
  const pseudo = [...packet.subarray(four ? 12 : 8, at), 0, 17, udp.length >> 8, udp.length & 255];
  assert.is(folded([...pseudo, ...udp]), 0xffff, "of the datagram");
  assert.ok(udp[6] !== 0 || udp[7] !== 0, "it has one");
}

test("encodeUdp: two packets, byte by byte", () => {
  const fields = { sourcePort: 5353, destinationPort: 1900, data: Uint8Array.of(1, 2, 3) };
  const four = encodeUdp({ source: ends[4][0], destination: ends[4][1], hops: 255, ...fields });
  assert.is(hex(four), "4500001f00004000ff11abaec61200090a02000214e9076c000b0f62010203");
  const six = encodeUdp({ source: ends[6][0], destination: ends[6][1], hops: 1, ...fields });
  assert.is(
    hex(six),
    `60000000000b1101fd006a7e000000000000000000000009ff0200000000000000000000000000fb14e9076c000b77fb010203`,
  );
});

for (const family of [4, 6] as const) {
  test(`encodeUdp: what is written is read again, with right sums (v${family})`, () => {
    const port = fc.integer({ min: 0, max: 0xffff });
    const given = fc.record({
      ...{ sourcePort: port, destinationPort: port, hops: fc.integer({ min: 1, max: 255 }) },
      data: fc.uint8Array({ maxLength: 600 }),
    });
    const [source, destination] = ends[family];
    fc.assert(
      fc.property(given, (fields) => {
        const bytes = encodeUdp({ source, destination, ...fields });
        assertSums(bytes);
        assert.is(bytes[family === 4 ? 8 : 7], fields.hops);
        const outcome = parsePacket(bytes);
        assert.ok(outcome.kind === "packet");
        const { packet } = outcome;
        assert.equal([packet.source, packet.destination, packet.cut], [source, destination, false]);
        assert.equal(packet.ports, { source: fields.sourcePort, destination: fields.destinationPort });
        assert.is(hex(udpPayload(bytes, packet)!), hex(fields.data));
      }),
    );
  });

  test(`encodeUdp: a sum that would be none is written as all ones (v${family})`, () => {
    const [source, destination] = ends[family];
    const fields = { source, destination, sourcePort: 1, destinationPort: 2, hops: 1 };
    const at = family === 4 ? 26 : 46;
    const bare = encodeUdp({ ...fields, data: Uint8Array.of(0, 0) });
    // What the sum was short of, as data, makes it nothing.
    const bytes = encodeUdp({ ...fields, data: bare.slice(at, at + 2) });
    assert.equal([bytes[at], bytes[at + 1]], [0xff, 0xff]);
    assertSums(bytes);
  });
}

test("encodeUdp: refuses what no packet can be", () => {
  const [source, destination] = ends[4];
  const fields = { sourcePort: 1, destinationPort: 2, hops: 1, data: new Uint8Array(0) };
  assert.throws(() => encodeUdp({ ...fields, source, destination: ends[6][1] }), TypeError);
  const most = 0xffff - 28;
  assert.is(encodeUdp({ ...fields, source, destination, data: new Uint8Array(most) }).length, 0xffff);
  assert.throws(
    () => encodeUdp({ ...fields, source, destination, data: new Uint8Array(most + 1) }),
    RangeError,
  );
});

test.run();
