/** The v1 protocol: recorded messages both ways, cuts, flips, properties. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type Body,
  decodeBody,
  decodeHead,
  encodeRefusal,
  encodeV1,
  type Head,
} from "../../src/ipref/protocol.ts";
import type { Address, Family } from "../../src/lib/address.ts";
import { handMade, recorded } from "./exchanges.ts";

const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));
const address = (text: string) => text as Address;
const syntaxError = (thrown: unknown) => thrown instanceof SyntaxError;

function decode(bytes: Uint8Array): { readonly head: Head; readonly body: Body | undefined } {
  const head = decodeHead(bytes);
  return { head, body: decodeBody(head, bytes) };
}

/** Those among the hand-made ones that are no messages; 21 says that its addresses are longer than they are. */
const broken = [20, 21, 22, 23, 26];

const made = handMade();
const exchanges = [
  ...recorded("plugin.proxy.log"),
  ...recorded("dns-agent.proxy.log"),
  ...[...made].filter(([number]) => !broken.includes(number)).map(([, exchange]) => exchange),
];

test("every recorded message of programs and gateway decodes, and encodes to the same bytes", () => {
  let count = 0;
  for (const { answer, request, title } of exchanges) {
    for (const bytes of [request, answer]) {
      if (bytes === undefined) continue;
      const { head, body } = decode(bytes);
      if (body === undefined) continue;
      const { families, id, mode } = head;
      assert.is(hexOf(encodeV1({ families, id, mode }, body)), hexOf(bytes), title);
      count++;
    }
  }
  assert.ok(count >= 60, `${count} messages`);
});

test("a question of CoreDNS' plugin and its answer mean what they say", () => {
  const [{ answer, request } = assert.unreachable() as never] = recorded("plugin.proxy.log");
  const families = { lan: 4, tunnel: 4 } as const;
  const record = { context: address("203.0.113.98"), reference: 2823n };
  assert.equal(decode(request), {
    head: { mode: "request", command: 7, id: 0x0754, families },
    body: { kind: "encode", record, name: "hostb.remote.net." },
  });
  assert.equal(decode(answer!), {
    head: { mode: "ack", command: 7, id: 0x0754, families },
    body: { kind: "encode", record: { ...record, encoded: "10.248.2.222" } },
  });
});

test("a message of dns-agent means what it says", () => {
  const [{ request } = assert.unreachable() as never] = recorded("dns-agent.proxy.log");
  const { body } = decode(request);
  const hosts = [22n, 33n, 1n, 11n].map((reference) => ({
    host: address(`192.168.97.${reference}`),
    context: address("198.51.100.97"),
    reference,
  }));
  assert.equal(body, {
    kind: "hosts",
    batch: 0x21d0efc3,
    hash: 0x5fce473ef931d7f1n,
    local: "internal",
    public: "example.com",
    records: hosts,
  });
});

test("what is no message is a SyntaxError: wrong version, reserved byte, length, cut record", () => {
  for (const number of broken) assert.throws(() => decode(made.get(number)!.request), syntaxError);
  for (const hex of ["11000001 54000002", "11000001 45000002", "11000001 440000", ""]) {
    assert.throws(() => decode(bytesOf(hex)), syntaxError);
  }
  // A name of another type, and something behind the name.
  assert.throws(() => decode(bytesOf(`11470001 4400000a ${"00".repeat(28)} 05016100`)), syntaxError);
  assert.throws(() => decode(bytesOf(`11470001 4400000b ${"00".repeat(28)} 04016100 00000000`)), syntaxError);
});

test("a refusal is the header alone", () => {
  const head = decodeHead(made.get(1)!.request);
  assert.is(hexOf(encodeRefusal(head)), "11c7010144000002");
  assert.equal(decode(encodeRefusal(head)).body, { kind: "encode" });
});

test("messages cut at every length and with every bit flipped throw nothing but SyntaxError", () => {
  const look = (bytes: Uint8Array) => {
    try {
      decode(bytes);
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
    }
  };
  for (const { request } of exchanges) {
    for (let length = 0; length < request.length; length++) {
      const cut = request.slice(0, length);
      look(cut);
      // The same, with the length that it has.
      if (length >= 8 && length % 4 === 0)
        look(Uint8Array.from([...cut.subarray(0, 7), length / 4, ...cut.subarray(8)]));
    }
    for (let at = 0; at < request.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const bytes = request.slice();
        bytes[at]! ^= 1 << bit;
        look(bytes);
      }
    }
  }
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 4, maxLength: 200 }),
      fc.constantFrom(7, 14, 15, 2),
      (body, command) => {
        const padded = new Uint8Array((body.length >> 2) << 2);
        padded.set(body.subarray(0, padded.length));
        look(Uint8Array.from([0x11, 0x40 | command, 0, 1, 0x44, 0, 0, 2 + padded.length / 4, ...padded]));
      },
    ),
    { numRuns: 3000 },
  );
});

const plain = { noNullPrototype: true };
const some = (family: Family) =>
  fc
    .oneof(
      family === 4
        ? fc.ipV4()
        : fc.bigInt({ min: 1n, max: 0xffffn }).map((tail) => `2001:db8::${tail.toString(16)}`),
    )
    .filter((text) => text !== "0.0.0.0")
    .map(address);
const text = fc.uint8Array({ maxLength: 255 }).map((bytes) => String.fromCharCode(...bytes));
const bits = (count: bigint) => fc.bigInt({ min: 0n, max: (1n << count) - 1n });

test("decode(encode(m)) is m for all messages in all IP versions", () => {
  const families = fc.record(
    { lan: fc.constantFrom<Family>(4, 6), tunnel: fc.constantFrom<Family>(4, 6) },
    plain,
  );
  const messages = families.chain((each) => {
    const record = fc.record(
      { encoded: some(each.lan), host: some(each.lan), context: some(each.tunnel), reference: bits(128n) },
      { ...plain, requiredKeys: ["reference"] },
    );
    const names = { hash: bits(64n), local: text, public: text };
    const number = fc.nat(0xffffffff);
    const body: fc.Arbitrary<Body> = fc.oneof(
      fc.record(
        { kind: fc.constant("encode" as const), record, name: text },
        { ...plain, requiredKeys: ["kind", "record"] },
      ),
      fc.record(
        { kind: fc.constant("hosts" as const), batch: number, ...names, records: fc.array(record) },
        plain,
      ),
      fc.record({ kind: fc.constant("hash" as const), count: number, ...names }, plain),
    );
    const mode = fc.constantFrom("data" as const, "request" as const, "ack" as const, "refusal" as const);
    return fc.tuple(fc.record({ mode, id: fc.nat(0xffff), families: fc.constant(each) }, plain), body);
  });
  fc.assert(
    fc.property(messages, ([head, body]) => {
      const bytes = encodeV1(head, body);
      const decoded = decode(bytes);
      assert.equal({ ...decoded.head, command: 0 }, { ...head, command: 0 });
      assert.equal(decoded.body, body);
    }),
    { numRuns: 500 },
  );
});

test("encodeV1() refuses what does not fit", () => {
  const head = { mode: "request", id: 1, families: { lan: 4, tunnel: 4 } } as const;
  const about = { kind: "hash", count: 1, hash: 1n, local: "a", public: "b" } as const;
  for (const wrong of [{ local: "x".repeat(256) }, { local: "\u0100" }, { hash: 1n << 64n }, { hash: -1n }]) {
    assert.throws(
      () => encodeV1(head, { ...about, ...wrong }),
      (thrown: unknown) => thrown instanceof RangeError,
    );
  }
  const six = { kind: "encode", record: { context: address("::1"), reference: 1n } } as const;
  assert.throws(
    () => encodeV1(head, six),
    (thrown: unknown) => thrown instanceof TypeError,
  );
});

test.run();
