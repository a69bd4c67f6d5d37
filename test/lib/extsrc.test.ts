/** SPIN's external source messages: as its own reader sends them, both ways, in both byte orders, and damaged. */

import { readFileSync } from "node:fs";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Address, decodeAddress, decodeMac } from "../../src/lib/address.ts";
import { formatName } from "../../src/lib/dns.ts";
import {
  decodeExternal,
  deliver,
  type ExternalMessage,
  type ExternalReason,
  encodeExternal,
} from "../../src/lib/extsrc.ts";

/**
 * One message of each kind and family as SPIN's reader lays them out on x86-64, with a5 where it sets nothing: there
 * it sends whatever its memory holds.
 */
const recorded = readFileSync("test/lib/fixtures/extsrc.txt", "utf8")
  .trim()
  .split("\n")
  .map((line) => Uint8Array.from(Buffer.from(line, "hex")));

const flow = (
  ends: readonly [string, string],
  protocol: number,
  [sourcePort, destinationPort, bytes, packets]: readonly [number, number, bigint, bigint],
) => ({
  kind: "packet",
  packet: {
    ...{ source: ends[0], destination: ends[1], protocol, sourcePort, destinationPort, icmpType: 0 },
    ...{ bytes, packets },
  },
});

const expected: readonly object[] = [
  { kind: "query", query: { client: "10.77.0.11", name: "web.example.net." } },
  { kind: "neighbour", neighbour: { address: "10.77.0.11", mac: "02:77:00:00:00:11" } },
  { kind: "answer", answer: { name: "web.example.net.", address: "198.51.100.10", ttlSeconds: 1234 } },
  { kind: "answer", answer: { name: "web.example.net.", address: "2001:db8:100::10", ttlSeconds: 1234 } },
  { kind: "neighbour", neighbour: { address: "fd77::11", mac: "02:77:00:00:00:11" } },
  { kind: "query", query: { client: "fd77::12", name: "cdn-a.example.com." } },
  flow(["10.77.0.11", "198.51.100.10"], 6, [41148, 80, 277n, 6n]),
  flow(["10.77.0.1", "10.77.0.11"], 17, [53, 59800, 68n, 1n]),
  flow(["2001:db8:100::10", "fd77::11"], 6, [80, 35616, 2177n, 4n]),
];

test("decodeExternal reads what SPIN's reader sends, whatever lies behind the names", () => {
  const shown = recorded.map((bytes) => decodeExternal(bytes, true));
  for (const outcome of shown) assert.is.not(outcome.kind, "dropped", JSON.stringify(outcome.kind));
  for (const message of expected) {
    assert.ok(
      shown.some((each) => same(each, message)),
      show(message),
    );
  }
  assert.is(recorded.length, 12);
});

test("encodeExternal gives the bytes of SPIN's reader, up to what its memory held", () => {
  for (const bytes of recorded) {
    const message = decodeExternal(bytes, true) as ExternalMessage;
    const ours = encodeExternal(message, true);
    assert.is(ours.length, bytes.length);
    assert.equal(ours, zeroed(bytes, message));
  }
});

/** A recorded message with zeros where its sender set nothing. */
function zeroed(bytes: Uint8Array, message: ExternalMessage): Uint8Array {
  const copy = bytes.slice();
  if (message.kind === "packet") {
    copy.fill(0, 46, 48);
    copy.fill(0, 64);
  } else if (message.kind !== "neighbour") {
    const dns = message.kind === "query" ? 28 : 8;
    copy.fill(0, dns + 17, dns + 20);
    let end = dns + 24;
    while (copy[end]! > 0) end += copy[end]! + 1;
    copy.fill(0, end);
  }
  return copy;
}

const show = (value: unknown) =>
  JSON.stringify(value, (_, each) => (typeof each === "bigint" ? `${each}n` : each));
const same = (left: unknown, right: unknown) => show(left) === show(right);

const address4 = fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => decodeAddress(bytes, 0, 4));
const address6 = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => decodeAddress(bytes, 0, 6));
const anyAddress = fc.oneof(address4, address6);
const name = fc
  .array(fc.uint8Array({ minLength: 1, maxLength: 63 }), { maxLength: 3 })
  .map((labels) => formatName(labels));
const port = fc.integer({ min: 0, max: 65535 });
/** As objects are made otherwise. */
const record = <T>(model: { [Name in keyof T]: fc.Arbitrary<T[Name]> }) =>
  fc.record<T>(model, { noNullPrototype: true });
const counter = fc.bigInt({ min: 1n, max: (1n << 64n) - 1n });
const anyMessage: fc.Arbitrary<ExternalMessage> = fc.oneof(
  record({
    ends: fc.oneof(fc.tuple(address4, address4), fc.tuple(address6, address6)),
    ...{ protocol: fc.constantFrom(6, 17, 132), sourcePort: port, destinationPort: port },
    ...{ bytes: counter, packets: counter },
  }).map(({ ends: [source, destination], ...rest }) => ({
    kind: "packet" as const,
    packet: { source, destination, icmpType: 0, ...rest },
  })),
  record({ client: anyAddress, name }).map((query) => ({ kind: "query" as const, query })),
  record({ name, address: anyAddress, ttlSeconds: fc.integer({ min: 0, max: 2 ** 32 - 1 }) }).map(
    (answer) => ({ kind: "answer" as const, answer }),
  ),
  record({
    address: anyAddress,
    mac: fc.uint8Array({ minLength: 6, maxLength: 6 }).map((bytes) => {
      bytes[0] = (bytes[0]! & 0xfe) | 2;
      return decodeMac(bytes);
    }),
  }).map((neighbour) => ({ kind: "neighbour" as const, neighbour })),
);

test("every message comes back, in either byte order, and only in its own", () => {
  fc.assert(
    fc.property(anyMessage, fc.boolean(), (message, isLittle) => {
      const bytes = encodeExternal(message, isLittle);
      assert.equal(decodeExternal(bytes, isLittle), message);
      assert.equal(decodeExternal(bytes, !isLittle), { kind: "dropped", reason: "length" });
    }),
  );
});

test("the ICMP type is read of ICMP only", () => {
  const ends = { source: "10.0.0.1" as Address, destination: "10.0.0.2" as Address };
  const rest = { sourcePort: 0, destinationPort: 0, icmpType: 8, bytes: 1n, packets: 1n };
  for (const [protocol, icmpType] of [
    [1, 8],
    [58, 8],
    [6, 0],
  ] as const) {
    const outcome = decodeExternal(
      encodeExternal({ kind: "packet", packet: { ...ends, protocol, ...rest } }),
    );
    assert.ok(outcome.kind === "packet");
    assert.is(outcome.packet.icmpType, icmpType);
  }
});

test("packets of a 32-bit x86 are four bytes shorter", () => {
  const long = encodeExternal(
    decodeExternal(recorded.find((bytes) => bytes[0] === 1)!, true) as ExternalMessage,
    true,
  );
  const short = long.slice(0, 68);
  short[4] = 60;
  assert.ok(same(decodeExternal(short, true), decodeExternal(long, true)));
});

const of = (kind: number) => recorded.find((bytes) => bytes[0] === kind)!;
const changed = (kind: number, changes: readonly (readonly [number, number | readonly number[]])[]) => {
  const bytes = of(kind).slice();
  for (const [at, value] of changes) bytes.set(typeof value === "number" ? [value] : value, at);
  return bytes;
};

test("what makes no sense has its reason", () => {
  const rows: [string, Uint8Array, ExternalReason][] = [
    ["nothing", new Uint8Array(0), "length"],
    ["half a header", of(1).slice(0, 7), "length"],
    ["a header alone", changed(1, []).slice(0, 8), "length"],
    ["a length of 0", changed(1, [[4, 0]]).slice(0, 8), "length"],
    ["one byte more than said", Uint8Array.from([...of(1), 0]), "length"],
    ["a length of 4 GiB", changed(1, [[4, [255, 255, 255, 255]]]), "length"],
    ["an answer in the length of a question", changed(2, [[0, 3]]), "length"],
    ["a question in the length of an answer", changed(3, [[0, 2]]), "length"],
    ["a neighbour in the length of packets", changed(1, [[0, 4]]), "length"],
    ["type 0", changed(1, [[0, 0]]), "type"],
    ["type 5", changed(4, [[0, 5]]), "type"],
    ["packets of no family", changed(1, [[8, 0]]), "family"],
    ["a question of family 2³¹", changed(2, [[8, [2, 0, 0, 128]]]), "family"],
    ["an answer of family 255", changed(3, [[8, 255]]), "family"],
    ["a neighbour of family 1", changed(4, [[26, 1]]), "family"],
    ["no packets", changed(1, [[56, [0, 0, 0, 0, 0, 0, 0, 0]]]), "count"],
    ["a label of 64 bytes", changed(2, [[52, 64]]), "name"],
    ["a pointer in a name", changed(3, [[32, [0xc0, 0]]]), "name"],
    ["a name without end", changed(3, [[32, new Array(256).fill(1)]]), "name"],
    ["a name of 256 bytes", changed(3, [[32, longName(63)]]), "name"],
    ["a MAC of words", changed(4, [[8, 103]]), "mac"],
    ["a MAC without end", changed(4, [[25, 48]]), "mac"],
    ["a MAC that is short", changed(4, [[24, 0]]), "mac"],
    ["a group's MAC", changed(4, [[9, 49]]), "mac"],
  ];
  for (const [what, bytes, reason] of rows) {
    assert.equal(decodeExternal(bytes, true), { kind: "dropped", reason }, what);
  }
  // The longest name there is has 255 bytes.
  assert.is(decodeExternal(changed(3, [[32, longName(61)]]), true).kind, "answer");
});

/** Three labels of 63 bytes and a last one, and the end. */
function longName(last: number): number[] {
  const label = (length: number) => [length, ...new Array(length).fill(97)];
  return [...label(63), ...label(63), ...label(63), ...label(last)].concat(last === 63 ? [] : [0]);
}

test("cut at every length or with a byte changed, nothing throws, and nothing but texts and numbers come out", () => {
  for (const bytes of recorded) {
    for (let length = 0; length < bytes.length; length++) {
      assert.equal(decodeExternal(bytes.slice(0, length), true), { kind: "dropped", reason: "length" });
    }
    for (let at = 0; at < bytes.length; at++) {
      for (const flip of [1, 0x80, 0xff]) {
        const damaged = bytes.slice();
        damaged[at] = damaged[at]! ^ flip;
        const outcome = decodeExternal(damaged, true);
        if (outcome.kind === "dropped") continue;
        assert.ok(same(decodeExternal(encodeExternal(outcome, true), true), outcome));
      }
    }
  }
});

test("encodeExternal refuses what the fields cannot hold", () => {
  const packet = {
    source: "10.0.0.1",
    destination: "10.0.0.2",
    protocol: 6,
    sourcePort: 1,
    destinationPort: 2,
  };
  const whole = { ...packet, icmpType: 0, bytes: 1n, packets: 1n };
  for (const change of [
    { destination: "fd00::1" },
    { protocol: 256 },
    { sourcePort: 65_536 },
    { destinationPort: -1 },
    { icmpType: 0.5 },
    { bytes: -1n },
    { packets: 1n << 64n },
  ]) {
    const message = { kind: "packet", packet: { ...whole, ...change } } as ExternalMessage;
    assert.throws(
      () => encodeExternal(message),
      (thrown: unknown) => thrown instanceof RangeError,
      show(change),
    );
  }
  const query = {
    kind: "query",
    query: { client: "10.0.0.1", name: `${"a".repeat(64)}.` },
  } as ExternalMessage;
  assert.throws(
    () => encodeExternal(query),
    (thrown: unknown) => thrown instanceof SyntaxError,
  );
});

test("deliver tells the verb of the message's kind", () => {
  const told: string[] = [];
  const sink = {
    packet: () => told.push("packet"),
    query: () => told.push("query"),
    answer: () => told.push("answer"),
    neighbour: () => told.push("neighbour"),
  };
  for (const kind of [1, 2, 3, 4]) deliver(decodeExternal(of(kind), true) as ExternalMessage, sink);
  assert.equal(told, ["packet", "query", "answer", "neighbour"]);
});

test.run();
