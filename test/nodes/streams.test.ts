/** DNS connections over TCP by client: their beginnings and ends, and the limits that nobody gets past. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import type { TcpSegment } from "../../src/lib/packet.ts";
import { type Ends, type StreamLimits, Streams, streamLimits } from "../../src/nodes/streams.ts";

const server = "10.77.0.1" as Address;
const client = "10.77.0.11" as Address;
const none = new Uint8Array(0);

function ends(more: Partial<Ends> = {}): Ends {
  return { client, clientPort: 40_000, server, from: "client", ...more };
}

function segment(sequence: number, more: Partial<TcpSegment> = {}): TcpSegment {
  return {
    ...{ sequence, acknowledged: undefined, syn: false, fin: false, rst: false, data: none },
    ...more,
  };
}

/** A message with its length, and the same without its last byte. */
function framed(size = 20, answer = false): Uint8Array {
  const bytes = new Uint8Array(size + 2);
  bytes[0] = size >> 8;
  bytes[1] = size & 255;
  bytes[4] = answer ? 0x80 : 0;
  return bytes;
}
const half = framed(1000).subarray(0, 900);
const whole = framed();

function limited(limits: Partial<StreamLimits> = {}): Streams {
  return new Streams({ ...streamLimits, ...limits });
}

/** A connection with half a question in it. */
function open(streams: Streams, which: Partial<Ends>, now = 0): number {
  const begun = streams.take(ends(which), segment(99, { syn: true }), now);
  const { losses } = streams.take(ends(which), segment(100, { data: half }), now);
  return begun.losses.length + losses.length;
}

/** Whether the rest of that question still makes it whole. */
function completes(streams: Streams, which: Partial<Ends>, now = 0): boolean {
  const rest = framed(1000).subarray(900);
  return streams.take(ends(which), segment(1000, { data: rest }), now).messages.length === 1;
}

test("Streams keep connections apart by client, port and server", () => {
  const streams = limited();
  const others: readonly Partial<Ends>[] = [
    {},
    { client: "10.77.0.12" as Address },
    { clientPort: 40_001 },
    { server: "10.77.0.2" as Address },
  ];
  for (const which of others) open(streams, which);
  assert.is(streams.size, 4);
  for (const which of others) assert.ok(completes(streams, which));
  assert.is(streams.bytes, 0);
});

test("Streams: both directions of a connection, from its beginning to its end", () => {
  const streams = limited();
  const say = (from: Ends["from"], each: TcpSegment) => {
    const { messages, losses } = streams.take(ends({ from }), each, 0);
    assert.equal(losses, []);
    return messages.map((bytes) => bytes.length);
  };
  say("client", segment(99, { syn: true }));
  say("server", segment(4999, { syn: true, acknowledged: 100 }));
  assert.equal(say("client", segment(100, { acknowledged: 5000, data: whole })), [20]);
  assert.equal(say("server", segment(5000, { acknowledged: 122, data: framed(30, true) })), [30]);
  assert.is(streams.size, 1);
  say("client", segment(122, { acknowledged: 5032, fin: true }));
  assert.is(streams.size, 1, "one side may go on");
  say("server", segment(5032, { acknowledged: 123, fin: true }));
  assert.is(streams.size, 0);
  say("client", segment(123, { acknowledged: 5033 }));
  assert.is(streams.size, 0, "the last acknowledgement begins nothing");
});

test("Streams: the ports of a connection that has ended serve the next one", () => {
  const streams = limited();
  for (let round = 0, at = 99; round < 20; round++, at = (at * 48_271) % 0x7fff_ffff) {
    streams.take(ends(), segment(at, { syn: true }), round);
    const { messages } = streams.take(ends(), segment(at + 1, { data: whole }), round);
    assert.is(messages.length, 1, `round ${round}`);
    // Ends one way in three: in order, half, or without a word.
    if (round % 3 > 0) streams.take(ends(), segment(at + 23, { fin: true }), round);
  }
});

test("Streams: an acknowledgement tells of lost bytes only if it is of the connection", () => {
  const streams = limited();
  const answer = framed(30, true);
  streams.take(ends(), segment(99, { syn: true }), 0);
  streams.take(ends({ from: "server" }), segment(4999, { syn: true, acknowledged: 100 }), 0);
  const forged = streams.take(ends(), segment(0x6000_0000, { acknowledged: 9000 }), 0);
  assert.equal(forged.losses, []);
  const first = streams.take(ends({ from: "server" }), segment(5000, { data: answer }), 0);
  assert.is(first.messages.length, 1);
  const real = streams.take(ends(), segment(100, { acknowledged: 9000 }), 0);
  assert.equal(real.losses, ["gap"]);
  const later = streams.take(ends({ from: "server" }), segment(9000, { data: answer }), 0);
  assert.equal(later, { messages: [], losses: [] });
  assert.is(
    streams.take(ends(), segment(100, { data: whole }), 0).messages.length,
    1,
    "the other one goes on",
  );
});

test("Streams: a reset counts only near the connection's place, or as the answer to a SYN", () => {
  const streams = limited();
  open(streams, {});
  streams.take(ends(), segment(0x7000_0000, { rst: true }), 0);
  streams.take(ends({ from: "server" }), segment(1, { rst: true, acknowledged: 12_345 }), 0);
  assert.ok(completes(streams, {}));
  streams.take(ends(), segment(1100, { rst: true }), 0);
  assert.is(streams.size, 0);
  streams.take(ends(), segment(99, { syn: true }), 0);
  assert.is(streams.size, 1);
  streams.take(ends({ from: "server" }), segment(0, { rst: true, acknowledged: 100 }), 0);
  assert.is(streams.size, 0);
  streams.take(ends(), segment(5, { rst: true }), 0);
  streams.take(ends(), segment(5, { acknowledged: 77 }), 0);
  streams.take(ends(), segment(5, { fin: true }), 0);
  assert.is(streams.size, 0, "what begins nothing takes no place");
});

test("Streams: the oldest of a client goes when it has too many, others' stay", () => {
  const streams = limited({ streamsPerClient: 4 });
  const other = { client: "10.77.0.12" as Address };
  open(streams, other);
  for (let port = 1; port <= 4; port++) assert.is(open(streams, { clientPort: port }), 0);
  // The first is used again, so the second is the oldest.
  streams.take(ends({ clientPort: 1 }), segment(1000, { data: none, acknowledged: 1 }), 0);
  assert.is(open(streams, { clientPort: 5 }), 1);
  assert.is(streams.size, 5);
  for (const clientPort of [1, 3, 4, 5]) assert.ok(completes(streams, { clientPort }));
  assert.not(completes(streams, { clientPort: 2 }));
  assert.ok(completes(streams, other));
});

test("Streams: bytes of one client are bounded, and the stream in use always has room", () => {
  const streams = limited();
  const largest = framed(65_535);
  let lost = 0;
  for (let clientPort = 1; clientPort <= 100; clientPort++) {
    const say = (more: Partial<TcpSegment>, sequence: number) => {
      const { messages, losses } = streams.take(ends({ clientPort }), segment(sequence, more), 0);
      lost += losses.length;
      assert.ok(streams.bytes <= streamLimits.bytesPerClient);
      return messages.length;
    };
    say({ syn: true }, 99);
    for (let at = 0; at < 65_000; at += 13_000) say({ data: largest.subarray(at, at + 13_000) }, 100 + at);
    // Every other one stays half.
    if (clientPort % 2 === 0) assert.is(say({ data: largest.subarray(65_000) }, 65_100), 1);
  }
  assert.ok(lost > 30, `${lost} of 50 halves had to go`);
});

test("Streams: 20,000 half questions of one client leave others' alone", () => {
  const streams = limited();
  const other = { client: "10.77.0.12" as Address };
  open(streams, other);
  let lost = 0;
  for (let port = 0; port < 20_000; port++) {
    lost += open(streams, { clientPort: port, server: `10.78.0.${port % 250}` as Address });
  }
  assert.ok(streams.size <= streamLimits.streamsPerClient + 1);
  assert.is(lost, 20_000 - streamLimits.streamsPerClient);
  assert.ok(completes(streams, other));
});

test("Streams: 20,000 half questions of as many clients keep within the limits", () => {
  const streams = limited({ streams: 256, bytes: 100_000 });
  let lost = 0;
  for (let each = 0; each < 20_000; each++) {
    const forged = { client: `10.${77 + (each >> 16)}.${(each >> 8) & 255}.${each & 255}` as Address };
    lost += open(streams, forged);
    assert.ok(streams.size <= 256);
    assert.ok(streams.bytes <= 100_000);
  }
  assert.is(lost, 20_000 - streams.size);
});

test("Streams: when there are too many, the client that holds most loses the older half", () => {
  for (const limits of [{ streams: 100 }, { bytes: 100 * 900 }]) {
    const streams = limited(limits);
    const calm = { client: "10.80.0.2" as Address };
    open(streams, calm);
    for (let clientPort = 1; clientPort < 100; clientPort++) assert.is(open(streams, { clientPort }), 0);
    assert.is(open(streams, { clientPort: 100 }), 50);
    assert.ok(completes(streams, calm));
    for (const clientPort of [51, 100]) assert.ok(completes(streams, { clientPort }));
    assert.not(completes(streams, { clientPort: 50 }));
  }
});

test("Streams: what is idle goes at the next packet, what is used stays", () => {
  const streams = limited({ idleMs: 30_000 });
  open(streams, { clientPort: 1 });
  open(streams, { clientPort: 2 });
  streams.take(ends({ clientPort: 2 }), segment(1000, { acknowledged: 1 }), 20_000);
  streams.take(ends({ clientPort: 3 }), segment(5, { syn: true }), 31_000);
  assert.is(streams.size, 2);
  assert.ok(completes(streams, { clientPort: 2 }, 31_000));
  streams.take(ends({ clientPort: 3 }), segment(6, { acknowledged: 1 }), 100_000);
  assert.is(streams.size, 0);
  assert.is(streams.bytes, 0);
});

test.run();
