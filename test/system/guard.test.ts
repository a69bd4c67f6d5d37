/** What a broker may say: every cut, every byte flipped, both versions. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Guard, maxPacketBytes, printable, type Verdict } from "../../src/system/guard.ts";

type Version = "3.1.1" | "5";
const versions: readonly Version[] = ["3.1.1", "5"];
const welcome: Readonly<Record<Version, readonly number[]>> = {
  "3.1.1": [0x20, 2, 0, 0],
  "5": [0x20, 3, 0, 0, 0],
};

const connackProperties = [
  ...[0x11, 0, 0, 0, 9, 0x12, 0, 1, 65, 0x13, 0, 60, 0x21, 0, 9, 0x22, 0, 10],
  ...[0x24, 1, 0x25, 1, 0x27, 0, 1, 0, 0, 0x28, 1, 0x29, 1, 0x2a, 0, 0x1f, 0, 1, 65],
];
const publishProperties = [
  ...[0x01, 1, 0x02, 0, 0, 0, 9, 0x03, 0, 1, 65, 0x08, 0, 1, 65, 0x09, 0, 1, 0xff],
  ...[0x26, 0, 1, 65, 0, 0, 0x26, 0, 1, 65, 0, 1, 66, 0x0b, 0x80, 0x01, 0x0b, 1],
];

/** A session in which a broker says all that it may, and what of it is heard. */
const sane: Readonly<Record<Version, { bytes: readonly number[]; packets: string; messages: string }>> = {
  "3.1.1": {
    bytes: [
      ...welcome["3.1.1"],
      ...[0x30, 4, 0, 1, 65, 66, 0x90, 3, 0, 1, 0, 0xb0, 2, 0, 2, 0xd0, 0],
      ...[0x31, 0x80, 0x02, 0, 1, 67, ...new Array<number>(253).fill(68)],
      ...[0x90, 3, 0, 3, 0x80],
    ],
    packets: "20020000 9003000100 b0020002 d000 9003000380",
    messages: `A=B C=${"D".repeat(253)}*`,
  },
  "5": {
    bytes: [
      ...[0x20, 3 + connackProperties.length, 0, 0, connackProperties.length, ...connackProperties],
      ...[0x30, 5, 0, 1, 65, 0, 66],
      ...[0x31, 5 + publishProperties.length, 0, 1, 67, publishProperties.length, ...publishProperties, 68],
      ...[0x90, 4, 0, 1, 0, 0, 0xb0, 8, 0, 2, 4, 0x1f, 0, 1, 65, 0x11, 0xd0, 0],
      ...[0x90, 4, 0, 3, 0, 0x87, 0x90, 4, 0, 4, 0, 0xff],
    ],
    packets: "200600000313003c 900400010000 b00400020000 d000 900400030087 900400040080",
    messages: "A=B C=D*",
  },
};

/** All that a guard hears of bytes that come in parts, as text; "wrong" if it ends there. */
function hearing(version: Version, parts: readonly (readonly number[])[]): string {
  const guard = new Guard(version);
  const packets: string[] = [];
  const messages: string[] = [];
  for (const part of parts) {
    const verdict = guard.check(Uint8Array.from(part), 0);
    if (verdict.kind === "wrong") return "wrong";
    for (const packet of verdict.packets) packets.push(Buffer.from(packet).toString("hex"));
    for (const { topic, payload, retained } of verdict.messages) {
      messages.push(`${topic}=${Buffer.from(payload)}${retained ? "*" : ""}`);
    }
  }
  return `${packets.join(" ")} | ${messages.join(" ")}`;
}

for (const version of versions) {
  const { bytes, packets, messages } = sane[version];
  const whole = `${packets} | ${messages}`;

  test(`MQTT ${version}: Guard hears alike however the bytes are cut`, () => {
    assert.is(hearing(version, [bytes]), whole);
    for (let at = 0; at <= bytes.length; at++) {
      assert.is(hearing(version, [bytes.slice(0, at), bytes.slice(at)]), whole, `cut at ${at}`);
      assert.is(
        hearing(version, [bytes.slice(0, at), bytes.slice(at), [0xc0]]),
        whole,
        "a head is no packet",
      );
      assert.is(
        hearing(version, [bytes.slice(0, at), [...bytes.slice(at), 0xc0, 0]]),
        "wrong",
        `cut at ${at}`,
      );
    }
    const each = bytes.map((byte) => [byte]);
    assert.is(hearing(version, each), whole);
    assert.is(hearing(version, [...each, [0xc0], [0]]), "wrong");
  });

  test(`MQTT ${version}: Guard takes any bytes without throwing, and lets only known packets through`, () => {
    const kinds = new Set([0x20, 0x90, 0xb0, 0xd0]);
    const tail = fc.uint8Array({ maxLength: 200 });
    const cuts = fc.array(fc.nat(400), { maxLength: 4 });
    fc.assert(
      fc.property(tail, fc.nat(bytes.length - 1), fc.nat(255), cuts, (junk, at, byte, ends) => {
        const all = Uint8Array.from([...bytes, ...junk]);
        all[at] = byte;
        const guard = new Guard(version);
        const sorted = [0, ...ends.map((end) => Math.min(end, all.length)).sort((a, b) => a - b), all.length];
        for (let part = 1; part < sorted.length; part++) {
          const verdict = guard.check(all.subarray(sorted[part - 1], sorted[part]), 0);
          if (verdict.kind === "wrong") {
            assert.match(verdict.why, /^the broker .*$/);
            assert.ok(verdict.why.length < 400);
            return;
          }
          for (const packet of verdict.packets) {
            assert.ok(kinds.has(packet[0]!));
            assert.is(packet.length, packet[1]! + 2);
            assert.ok(packet.length <= 8);
          }
          for (const { topic } of verdict.messages) assert.not.match(topic, /[+#\u0000]|^$/);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test(`MQTT ${version}: Guard lets no packet type through that a broker may not send`, () => {
    const good = version === "5" ? [0x30, 0x31, 0x90, 0xb0, 0xe0] : [0x30, 0x31, 0x90];
    for (let head = 0; head < 256; head++) {
      const verdict = new Guard(version).check(Uint8Array.from([...welcome[version], head, 3]), 0);
      assert.is(verdict.kind, good.includes(head) ? "good" : "wrong", `0x${head.toString(16)}`);
    }
  });

  test(`MQTT ${version}: Guard counts a second's bytes and messages, and begins anew after it`, () => {
    const guard = new Guard(version);
    guard.check(Uint8Array.from(welcome[version]), 0);
    const message = Uint8Array.from([0x30, 0x80, 0x80, 0x08, 0, 1, 65, 0, ...new Uint8Array(131_068)]);
    const delay = (verdict: Verdict) => verdict.kind === "good" && verdict.delayMs;
    for (let count = 0; count < 31; count++) assert.is(delay(guard.check(message, 400)), 0);
    guard.check(message, 400);
    assert.is(delay(guard.check(message, 400)), 600);
    assert.is(delay(guard.check(message, 1_000)), 0);
    const small = Uint8Array.from(new Array(4_001).fill([0x30, 4, 0, 1, 65, 0]).flat());
    assert.is(delay(guard.check(small, 1_500)), 500);
  });

  test(`MQTT ${version}: a message's memory is bounded, whatever its length says`, () => {
    const guard = new Guard(version);
    guard.check(Uint8Array.from(welcome[version]), 0);
    const before = process.memoryUsage().arrayBuffers;
    const verdict = guard.check(Uint8Array.of(0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, 65), 0);
    assert.is(verdict.kind, version === "5" ? "wrong" : "good");
    assert.ok(process.memoryUsage().arrayBuffers - before < 2 * maxPacketBytes);
    if (version === "5") return;
    const part = new Uint8Array(1_000_000);
    let heard = 0;
    for (let left = 268_435_455 - 3, second = 0; left > 0; left -= part.length, second++) {
      const next = guard.check(part.subarray(0, Math.min(part.length, left)), second * 1_000);
      if (next.kind === "good") heard += next.messages.length;
    }
    assert.is(heard, 1);
    assert.is(guard.check(Uint8Array.of(0xd0, 0), 1e9).kind, "good");
  });
}

test("Guard tells what the broker takes, and nothing of it before the welcome", () => {
  const guard = new Guard("5");
  assert.is(guard.brokerTakes, Number.POSITIVE_INFINITY);
  guard.check(Uint8Array.of(0x20, 8, 0, 0, 5, 0x27, 0, 1, 0, 0), 0);
  assert.is(guard.brokerTakes, 65_536);
});

test("printable keeps text, and bounds and disarms the rest, for any string", () => {
  assert.is(printable("Zugriff verweigert \u{1f600}"), "Zugriff verweigert \u{1f600}");
  assert.is(printable("a\nb\u001b[31m\u202e\ud800"), "a?b?[31m??");
  fc.assert(
    fc.property(fc.string({ unit: "binary", maxLength: 600 }), (words) => {
      const text = printable(words);
      assert.not.match(text, /\p{C}/u);
      assert.ok(text.length <= 201);
    }),
  );
});

test.run();
