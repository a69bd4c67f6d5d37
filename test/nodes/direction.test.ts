/** One direction of a DNS connection over TCP: order, repeats, holes, strangers, framing, memory. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TcpSegment } from "../../src/lib/packet.ts";
import { Direction } from "../../src/nodes/direction.ts";

const none = new Uint8Array(0);

function segment(sequence: number, data: Uint8Array = none, flags = ""): TcpSegment {
  return {
    sequence: sequence >>> 0,
    acknowledged: undefined,
    syn: flags.includes("S"),
    fin: flags.includes("F"),
    rst: false,
    data,
  };
}

/** A message of so many bytes whose header says that it is a question, or an answer. */
function message(size: number, { seed = 1, answer = false } = {}): Uint8Array {
  const bytes = Uint8Array.from({ length: size }, (_, at) => (at * 31 + seed * 17) & 255);
  if (size > 2) bytes[2] = answer ? 0x81 : 0x01;
  return bytes;
}

function framed(...messages: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    messages.map((each) => Buffer.concat([Uint8Array.of(each.length >> 8, each.length & 255), each])),
  );
}

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

/** A direction and what came out of it. */
class Listener {
  readonly direction: Direction;
  readonly messages: string[] = [];
  readonly losses: string[] = [];

  constructor(answers = false) {
    this.direction = new Direction(answers);
  }

  take(each: TcpSegment): this {
    const found: Uint8Array[] = [];
    const loss = this.direction.take(each, found);
    // They may share memory with the segment, so they are read before the next.
    this.messages.push(...found.map(hex));
    if (loss) this.losses.push(loss);
    return this;
  }

  acknowledge(sequence: number): this {
    const loss = this.direction.acknowledge(sequence >>> 0);
    if (loss) this.losses.push(loss);
    return this;
  }

  gives(messages: readonly Uint8Array[], losses: readonly string[] = []): void {
    assert.equal(this.messages, messages.map(hex));
    assert.equal(this.losses, losses);
  }
}

const [one, two, three] = [message(20, { seed: 1 }), message(33, { seed: 2 }), message(12, { seed: 3 })];
const all = framed(one, two, three);

for (const start of [1000, 0xffff_fff0]) {
  test(`Direction cut at every place, in two segments, from ${start} on`, () => {
    for (let at = 0; at <= all.length; at++) {
      const listener = new Listener().take(segment(start - 1, none, "S"));
      listener.take(segment(start, all.subarray(0, at))).take(segment(start + at, all.subarray(at)));
      listener.gives([one, two, three]);
      assert.is(listener.direction.bytes, 0, "nothing is kept of whole messages");
    }
  });

  test(`Direction one byte at a time, forwards and backwards, from ${start} on`, () => {
    const forwards = new Listener().take(segment(start - 1, none, "S"));
    const backwards = new Listener().take(segment(start - 1, none, "S"));
    const part = framed(one, two);
    for (let at = 0; at < part.length; at++) forwards.take(segment(start + at, part.subarray(at, at + 1)));
    for (let at = part.length - 1; at >= 0; at--)
      backwards.take(segment(start + at, part.subarray(at, at + 1)));
    forwards.gives([one, two]);
    backwards.gives([one, two]);
    assert.is(backwards.direction.bytes, 0);
  });
}

test("Direction takes the largest message there is, in pieces of a segment, and holds no more than it", () => {
  const largest = message(65_535);
  const stream = framed(largest, three);
  const listener = new Listener().take(segment(0, none, "S"));
  let most = 0;
  for (let at = 0; at < stream.length; at += 1448) {
    listener.take(segment(1 + at, stream.subarray(at, at + 1448)));
    most = Math.max(most, listener.direction.bytes);
  }
  listener.gives([largest, three]);
  assert.ok(most <= 65_537, `${most} bytes`);
});

test("Direction gives no memory for a length alone", () => {
  const listener = new Listener().take(segment(0, none, "S"));
  listener.take(segment(1, Uint8Array.of(0xff, 0xff, 1)));
  listener.gives([]);
  assert.ok(listener.direction.bytes <= 64);
});

test("Direction: what comes again changes nothing, whatever it says the second time", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  const [head, tail] = [all.subarray(0, 30), all.subarray(30)];
  listener.take(segment(100, head)).take(segment(100, head));
  listener.take(segment(100, new Uint8Array(30).fill(0xee)));
  // An overlap at its beginning: only what is new of it counts.
  listener.take(segment(110, Buffer.concat([new Uint8Array(20).fill(0xee), tail])));
  listener.take(segment(99, none, "S"));
  listener.gives([one, two, three]);
});

test("Direction: of bytes that wait, the first that came count", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(110, all.subarray(10, 20)));
  listener.take(
    segment(105, Buffer.concat([all.subarray(5, 10), new Uint8Array(10).fill(0xee), all.subarray(20)])),
  );
  listener.take(segment(100, all.subarray(0, 5)));
  listener.gives([one, two, three]);
});

test("Direction keeps its own copy of what waits: the bytes of a packet are somebody else's afterwards", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  const take = (sequence: number, data: Uint8Array) => {
    // A Buffer, as packets come in: its `slice` shares memory.
    const bytes = Buffer.from(data);
    listener.take(segment(sequence, bytes));
    bytes.fill(0xee);
  };
  take(110, all.subarray(10, 30));
  take(100, all.subarray(0, 10));
  take(130, all.subarray(30, 50));
  take(150, all.subarray(50));
  listener.gives([one, two, three]);
});

test("Direction: any order, any repeats and overlaps of the same bytes give the same messages", () => {
  const cuts = fc.array(fc.nat(200), { minLength: 1, maxLength: 12 });
  const sizes = fc.array(fc.integer({ min: 12, max: 60 }), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(
      sizes,
      cuts,
      fc.array(fc.tuple(fc.nat(200), fc.nat(40)), { maxLength: 10 }),
      fc.infiniteStream(fc.nat(1000)),
      fc.constantFrom(5, 0xffff_ffc0),
      (lengths, places, extra, order, start) => {
        const messages = lengths.map((size, seed) => message(size, { seed }));
        const stream = framed(...messages);
        const ends = [...new Set([...places.map((place) => place % stream.length), 0, stream.length])];
        ends.sort((a, b) => a - b);
        const spans = [
          ...ends.slice(1).map((end, index) => [ends[index]!, end] as const),
          ...extra.map(
            ([at, size]) =>
              [at % stream.length, Math.min(stream.length, (at % stream.length) + size)] as const,
          ),
        ];
        const shuffled = spans
          .map((span) => ({ span, rank: order.next().value as number }))
          .sort((a, b) => a.rank - b.rank);
        const listener = new Listener().take(segment(start - 1, none, "S"));
        for (const { span } of shuffled) listener.take(segment(start + span[0], stream.subarray(...span)));
        listener.gives(messages);
        assert.is(listener.direction.bytes, 0);
      },
    ),
    { numRuns: 500, seed: 3 },
  );
});

test("Direction: any segments at all neither throw nor hold more than their limit, and never invent a message", () => {
  const step = fc.record({
    sequence: fc.oneof(fc.nat(3000), fc.nat(0xffff_ffff), fc.constantFrom(0xffff_ffff, 0x8000_0000)),
    size: fc.nat(2000),
    fill: fc.nat(255),
    flags: fc.constantFrom("", "", "", "", "S", "F", "SF"),
    acknowledged: fc.option(fc.nat(4000)),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.boolean(), (steps, answers) => {
      const direction = new Direction(answers);
      const messages: Uint8Array[] = [];
      let came = 0;
      for (const { sequence, size, fill, flags, acknowledged } of steps) {
        direction.take(segment(sequence, new Uint8Array(size).fill(fill), flags), messages);
        came += size;
        if (acknowledged !== null) direction.acknowledge(acknowledged);
        assert.ok(direction.bytes <= 2 * came + 64 * 200, "no more than came");
        assert.ok(direction.bytes <= 140_000);
      }
      for (const each of messages) assert.ok(each.length >= 12);
      assert.ok(messages.reduce((sum, each) => sum + each.length, 0) <= came);
    }),
    { numRuns: 500, seed: 4 },
  );
});

test("Direction: bytes that the receiver acknowledges and we never saw end it, until a new connection", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(100, framed(one))).acknowledge(122);
  listener.gives([one]);
  listener.take(segment(140, framed(three))).acknowledge(122);
  listener.gives([one], []);
  listener.acknowledge(140);
  listener.gives([one], ["gap"]);
  assert.is(listener.direction.bytes, 0);
  listener.take(segment(122, framed(two))).take(segment(154, framed(one)));
  listener.gives([one], ["gap"]);
  listener.take(segment(7_000_000, none, "S")).take(segment(7_000_001, framed(two)));
  listener.gives([one, two], ["gap"]);
});

test("Direction: one byte that is missing is enough, and then nothing is near", () => {
  const listener = new Listener().take(segment(99, none, "S")).acknowledge(100);
  assert.ok(listener.direction.isNear(100));
  listener.acknowledge(101);
  listener.gives([], ["gap"]);
  assert.not(listener.direction.isNear(100));
});

test("Direction: the byte behind a SYN with the last number is number 0", () => {
  const { direction } = new Listener().take(segment(0xffff_ffff, none, "S"));
  assert.ok(direction.isNext(0));
  assert.not(direction.isNext(undefined));
});

test("Direction: too much that waits for a hole to be filled ends it", () => {
  const many = new Listener().take(segment(99, none, "S"));
  for (let piece = 0; piece < 80; piece++) many.take(segment(110 + piece * 3, Uint8Array.of(1)));
  many.gives([], ["gap"]);
  assert.is(many.direction.bytes, 0);
  const much = new Listener().take(segment(99, none, "S"));
  much.take(segment(110, new Uint8Array(60_000))).take(segment(61_000, new Uint8Array(10_000)));
  much.gives([], ["gap"]);
  assert.is(much.direction.bytes, 0);
});

test("Direction: segments far from their place are counted and change nothing", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(100, all.subarray(0, 30)));
  for (const far of [10_000_000, 0x8000_0064, -1_000_000]) listener.take(segment(far, framed(one), "F"));
  listener.gives([one], ["stray", "stray", "stray"]);
  listener.take(segment(130, all.subarray(30)));
  assert.equal(listener.messages, [one, two, three].map(hex));
  assert.not(listener.direction.ended);
});

test("Direction: a SYN from elsewhere changes nothing unless data follows it", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(100, all.subarray(0, 30)));
  listener.take(segment(0x7000_0000, none, "S"));
  listener.take(segment(130, all.subarray(30)));
  listener.gives([one, two, three]);
  listener.take(segment(0x7000_0001, framed(three)));
  listener.gives([one, two, three, three]);
});

test("Direction ends where FIN says, also if FIN comes first", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(130, all.subarray(30), "F"));
  assert.not(listener.direction.ended);
  listener.take(segment(100, all.subarray(0, 30)));
  listener.gives([one, two, three]);
  assert.ok(listener.direction.ended);
  listener.acknowledge(100 + all.length + 1);
  listener.take(segment(100 + all.length + 1, framed(one)));
  listener.gives([one, two, three]);
});

test("Direction: of two ends the first counts", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(100 + all.length, none, "F")).take(segment(130, none, "F"));
  listener.take(segment(100, all.subarray(0, 30)));
  assert.not(listener.direction.ended);
  listener.take(segment(130, all.subarray(30)));
  listener.gives([one, two, three]);
  assert.ok(listener.direction.ended);
});

for (const isn of [700, 0x6000_0000]) {
  test(`Direction: the next connection of the same ports counts, and ends, too (from ${isn} on)`, () => {
    const listener = new Listener().take(segment(99, none, "S")).take(segment(100, framed(one), "F"));
    assert.ok(listener.direction.ended);
    listener.take(segment(isn, none, "S")).take(segment(isn + 1, framed(two)));
    listener.gives([one, two]);
    assert.not(listener.direction.ended);
    listener.take(segment(isn + 1 + two.length + 2, none, "F"));
    assert.ok(listener.direction.ended);
  });
}

test("Direction: data in the SYN, as TCP Fast Open has it", () => {
  new Listener().take(segment(99, all, "S")).gives([one, two, three]);
});

test("Direction of a connection that was there before: its first data must look like a message", () => {
  const answered = message(40, { answer: true });
  new Listener(true).take(segment(5, framed(answered))).gives([answered]);
  new Listener(false).take(segment(5, framed(one, two))).gives([one, two]);
  const wrongWay = new Listener(false).take(segment(5, framed(answered)));
  wrongWay.take(segment(47, framed(one)));
  wrongWay.gives([], ["gap"]);
  const tooShort = new Listener(false).take(segment(5, framed(message(11), one)));
  tooShort.gives([], ["gap"]);
});

test("Direction: messages that are too short are counted and passed over", () => {
  const listener = new Listener().take(segment(99, none, "S"));
  listener.take(segment(100, framed(none, message(11), one, none)));
  listener.gives([one], ["message"]);
});

test("Direction: segments without data begin nothing", () => {
  const listener = new Listener();
  listener
    .take(segment(100))
    .take(segment(200, none, "F"))
    .acknowledge(500);
  assert.not(listener.direction.isNear(100));
  listener.take(segment(7000, framed(one)));
  listener.gives([one]);
});

test.run();
