/** Capture files: each form and byte order, in any pieces, cut, damaged and hostile; and those that we write. */

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { encodePcapHeader, encodePcapRecord, LinkType, PcapReader } from "../../src/lib/pcap.ts";

const bytesOf = (hex: string) => Uint8Array.from(Buffer.from(hex.replace(/\s/g, ""), "hex"));
const concat = (parts: readonly Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));

interface Read {
  readonly packets: { linkType: number; date: number | undefined; originalBytes: number; text: string }[];
  readonly damage: string | undefined;
}

/** Reads a file in pieces of a size. Anything but a SyntaxError is thrown. */
function read(file: Uint8Array, pieceBytes = file.length || 1): Read {
  const reader = new PcapReader();
  const packets: Read["packets"] = [];
  try {
    for (let at = 0; at < file.length; at += pieceBytes) {
      // A buffer of its own, which is gone when the next piece comes.
      const piece = file.slice(at, at + pieceBytes);
      for (const { bytes, ...packet } of reader.read(piece)) {
        packets.push({ ...packet, text: Buffer.from(bytes).toString("hex") });
      }
      piece.fill(0xee);
    }
    reader.end();
  } catch (thrown) {
    if (!(thrown instanceof SyntaxError)) throw thrown;
    return { packets, damage: thrown.message };
  }
  return { packets, damage: undefined };
}

/** Numbers in one byte order. */
function order(isLittle: boolean) {
  const number = (size: number) => (value: number) => {
    const bytes = [...new Array(size).keys()].map((at) => Math.floor(value / 256 ** at) % 256);
    return Uint8Array.from(isLittle ? bytes : bytes.reverse());
  };
  return { u16: number(2), u32: number(4), u64: number(8) };
}

function pcapHeader(isLittle: boolean, { magic = 0xa1b2c3d4, link = 1, minor = 4 } = {}): Uint8Array {
  const { u16, u32 } = order(isLittle);
  return concat([u32(magic), u16(2), u16(minor), u32(0), u32(0), u32(65_535), u32(link)]);
}

function pcapRecord(
  isLittle: boolean,
  data: Uint8Array,
  { seconds = 1_795_230_676, fraction = 102_605, captured = data.length, original = data.length } = {},
): Uint8Array {
  const { u32 } = order(isLittle);
  return concat([u32(seconds), u32(fraction), u32(captured), u32(original), data]);
}

function block(isLittle: boolean, type: number, body: Uint8Array): Uint8Array {
  const { u32 } = order(isLittle);
  const padded = concat([body, new Uint8Array((4 - (body.length % 4)) % 4)]);
  const total = u32(padded.length + 12);
  return concat([u32(type), total, padded, total]);
}

function section(isLittle: boolean, major = 1): Uint8Array {
  const { u16, u32 } = order(isLittle);
  const length = Uint8Array.from(new Array(8).fill(255));
  return block(isLittle, 0x0a0d0d0a, concat([u32(0x1a2b3c4d), u16(major), u16(0), length]));
}

function option(isLittle: boolean, code: number, value: Uint8Array): Uint8Array {
  const { u16 } = order(isLittle);
  return concat([u16(code), u16(value.length), value, new Uint8Array((4 - (value.length % 4)) % 4)]);
}

function iface(isLittle: boolean, link: number, { snap = 0, options = [] as Uint8Array[] } = {}): Uint8Array {
  const { u16, u32 } = order(isLittle);
  return block(isLittle, 1, concat([u16(link), u16(0), u32(snap), ...options]));
}

function enhanced(
  isLittle: boolean,
  data: Uint8Array,
  { on = 0, time = 1_795_230_676_102_605, captured = data.length, original = data.length } = {},
): Uint8Array {
  const { u32 } = order(isLittle);
  const [high, low] = [u32(Math.floor(time / 2 ** 32)), u32(time % 2 ** 32)];
  const padded = concat([data, new Uint8Array((4 - (data.length % 4)) % 4)]);
  return block(isLittle, 6, concat([u32(on), high, low, u32(captured), u32(original), padded]));
}

const [one, two] = [bytesOf("0a0b0c0d0e"), bytesOf("ffeeddccbbaa")];
const date = 1_795_230_676_102.605;
const packet = (text: string, more: object = {}) => ({
  ...{ linkType: 1, date, originalBytes: text.length / 2, text },
  ...more,
});

const files: readonly (readonly [string, Uint8Array, Read["packets"]])[] = [
  ...[true, false].flatMap((isLittle) => {
    const name = isLittle ? "little-endian" : "big-endian";
    const micro = concat([
      pcapHeader(isLittle),
      pcapRecord(isLittle, one, { original: 1500 }),
      pcapRecord(isLittle, new Uint8Array(0), { seconds: 0, fraction: 0 }),
      pcapRecord(isLittle, two, { seconds: 2 ** 32 - 1, fraction: 999_999 }),
    ]);
    const nano = concat([
      pcapHeader(isLittle, { magic: 0xa1b23c4d, link: 0xf4000000 + LinkType.cooked }),
      pcapRecord(isLittle, one, { fraction: 102_605_999 }),
    ]);
    const ng = concat([
      section(isLittle),
      // A block with secrets, and one of somebody's own.
      block(isLittle, 10, new Uint8Array(100).fill(7)),
      block(isLittle, 0x80000001, new Uint8Array(5)),
      iface(isLittle, 1),
      iface(isLittle, LinkType.raw, {
        options: [
          option(isLittle, 2, new TextEncoder().encode("eth0")),
          option(isLittle, 9, Uint8Array.of(9)),
          option(isLittle, 14, order(isLittle).u64(1_000)),
          option(isLittle, 0, new Uint8Array(0)),
        ],
      }),
      iface(isLittle, 1, { options: [option(isLittle, 9, Uint8Array.of(0x80 | 10))] }),
      enhanced(isLittle, one),
      enhanced(isLittle, two, { on: 1, time: 5_000_000_999, original: 9000 }),
      enhanced(isLittle, two, { on: 2, time: 1024 * 77 + 512 }),
      block(isLittle, 3, concat([order(isLittle).u32(5), one, new Uint8Array(3)])),
    ]);
    return [
      [
        `pcap, ${name}, microseconds`,
        micro,
        [
          packet("0a0b0c0d0e", { originalBytes: 1500 }),
          packet("", { date: 0 }),
          packet("ffeeddccbbaa", { date: 4_294_967_295_999.999 }),
        ],
      ],
      [`pcap, ${name}, nanoseconds`, nano, [packet("0a0b0c0d0e", { linkType: LinkType.cooked })]],
      [
        `pcapng, ${name}`,
        ng,
        [
          packet("0a0b0c0d0e"),
          packet("ffeeddccbbaa", { linkType: LinkType.raw, date: 1_005_000, originalBytes: 9000 }),
          packet("ffeeddccbbaa", { date: 77_500 }),
          packet("0a0b0c0d0e", { date: undefined }),
        ],
      ],
    ] as [string, Uint8Array, Read["packets"]][];
  }),
  [
    "pcapng with sections of both byte orders, each with interfaces of its own",
    concat([
      ...[
        section(true),
        iface(true, 1, { snap: 2 }),
        block(true, 3, concat([order(true).u32(5), bytesOf("0a0b0000")])),
      ],
      ...[section(false), iface(false, LinkType.ipv6), enhanced(false, two)],
    ]),
    [
      packet("0a0b", { date: undefined, originalBytes: 5 }),
      packet("ffeeddccbbaa", { linkType: LinkType.ipv6 }),
    ],
  ],
  ["pcap without packets", pcapHeader(true), []],
];

test("each form is read whole, one byte at a time, and in odd pieces", () => {
  for (const [name, file, packets] of files) {
    for (const pieceBytes of [file.length, 1, 7, 33]) {
      assert.equal(
        read(file, pieceBytes),
        { packets, damage: undefined },
        `${name}, ${pieceBytes} bytes a piece`,
      );
    }
  }
});

test("cut at any length, what was whole before is read, and the cut is told", () => {
  for (const [name, file, packets] of files) {
    const ends = new Set<number>();
    for (let length = 0; length < file.length; length++) {
      const got = read(file.slice(0, length));
      assert.equal(got.packets, packets.slice(0, got.packets.length), `${name}, ${length} bytes`);
      if (got.damage === undefined) ends.add(length);
      else assert.is(got.damage, "Cannot read capture: it is cut short", `${name}, ${length} bytes`);
    }
    // Only between two records or blocks a file may end.
    assert.ok(ends.size <= 10, `${name}: ${[...ends]}`);
    assert.ok(!ends.has(file.length - 1));
  }
});

test("what is no capture, or lies about its lengths, is refused after what came before", () => {
  const { u32 } = order(true);
  const before = concat([pcapHeader(true), pcapRecord(true, one)]);
  const beforeNg = concat([section(true), iface(true, 1), enhanced(true, one)]);
  const rows: [string, Uint8Array, RegExp, number][] = [
    ["text", new TextEncoder().encode("hello, capture"), /no capture/, 0],
    ["version 2.3", pcapHeader(true, { minor: 3 }), /version 2\.3/, 0],
    [
      "a record of 4 GiB",
      concat([before, u32(0), u32(0), u32(2 ** 32 - 1), u32(1)]),
      /packet of 4294967295/,
      1,
    ],
    [
      "a record above the bound",
      concat([before, u32(0), u32(0), u32(262_145), u32(1)]),
      /packet of 262145/,
      1,
    ],
    ["a section in no byte order", block(true, 0x0a0d0d0a, new Uint8Array(16)), /without byte order/, 0],
    ["a section of version 2", section(true, 2), /version 2/, 0],
    ["a block of 0 bytes", concat([beforeNg, u32(5), u32(0), u32(0)]), /block of 0/, 1],
    ["a block of 13 bytes", concat([beforeNg, u32(5), u32(13), new Uint8Array(12)]), /block of 13/, 1],
    ["a packet block of 1 GiB", concat([beforeNg, u32(6), u32(2 ** 30), u32(0)]), /block of 1073741824/, 1],
    [
      "a block with two lengths",
      concat([beforeNg, enhanced(true, two).slice(0, -4), u32(44)]),
      /another length/,
      1,
    ],
    [
      "a packet longer than its block",
      concat([beforeNg, enhanced(true, two, { captured: 9 })]),
      /longer than/,
      1,
    ],
    ["a packet of no interface", concat([beforeNg, enhanced(true, two, { on: 1 })]), /without interface/, 1],
    [
      "a simple packet of no interface",
      concat([section(true), block(true, 3, u32(0))]),
      /without interface/,
      0,
    ],
    [
      "an enhanced block too short",
      concat([beforeNg, block(true, 6, new Uint8Array(16))]),
      /without interface/,
      1,
    ],
    [
      "an interface too short",
      concat([section(true), block(true, 1, new Uint8Array(4))]),
      /interface of 16/,
      0,
    ],
    [
      "an option longer than its block",
      concat([section(true), iface(true, 1, { options: [bytesOf("0900ff00")] })]),
      /option/,
      0,
    ],
    [
      "more interfaces than anybody has",
      concat([section(true), ...new Array(4097).fill(iface(true, 1))]),
      /more than 4096/,
      0,
    ],
  ];
  for (const [what, file, message, packets] of rows) {
    for (const pieceBytes of [file.length, 5]) {
      const got = read(file, pieceBytes);
      assert.match(got.damage ?? "no damage", message, what);
      assert.is(got.packets.length, packets, what);
    }
  }
});

test("a damaged reader stays damaged", () => {
  const reader = new PcapReader();
  const again = () => [...reader.read(pcapHeader(true))];
  const damaged = (thrown: unknown) => thrown instanceof SyntaxError;
  assert.throws(() => [...reader.read(new Uint8Array(100))], damaged);
  assert.throws(again, damaged);
  assert.throws(() => reader.end(), damaged);
});

test("a block without packets is skipped without being kept, however long it says it is", () => {
  const reader = new PcapReader();
  const { u32 } = order(true);
  const drain = (piece: Uint8Array) => [...reader.read(piece)].length;
  drain(concat([section(true), iface(true, 1), u32(10), u32(64 * 1024 * 1024)]));
  const before = process.memoryUsage().arrayBuffers;
  const piece = new Uint8Array(64 * 1024);
  for (let left = 64 * 1024 * 1024 - 8; left > 0; left -= piece.length) {
    drain(piece.subarray(0, Math.min(piece.length, left)));
  }
  assert.ok(process.memoryUsage().arrayBuffers - before < 16 * 1024 * 1024);
  assert.is(drain(enhanced(true, one)), 1);
  reader.end();
});

test("with bytes changed anywhere, nothing but SyntaxErrors come, and no packet is longer than the file", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...files.map(([, file]) => file)),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      fc.integer({ min: 1, max: 64 }),
      (file, changes, pieceBytes) => {
        const damaged = file.slice();
        for (const [at, value] of changes) damaged[at % damaged.length] = value;
        const whole = read(damaged);
        for (const each of whole.packets) assert.ok(each.text.length <= 2 * damaged.length);
        assert.equal(read(damaged, pieceBytes), whole);
      },
    ),
    { numRuns: 2_000 },
  );
});

test("what we write is read back, cut to the length asked for", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.uint8Array({ maxLength: 200 }), fc.integer({ min: 0, max: 2 ** 32 * 1000 - 1 }))),
      fc.integer({ min: 1, max: 250 }),
      (frames, snapBytes) => {
        const file = concat([
          encodePcapHeader(snapBytes),
          ...frames.map(([frame, at]) => encodePcapRecord(frame, { date: at + 0.25, snapBytes })),
        ]);
        const packets = frames.map(([frame, at]) => ({
          ...{ linkType: LinkType.ethernet, date: at + 0.25, originalBytes: frame.length },
          text: Buffer.from(frame.subarray(0, snapBytes)).toString("hex"),
        }));
        assert.equal(read(file), { packets, damage: undefined });
      },
    ),
  );
});

test("encodePcapRecord writes dates that 32 bits of seconds cannot hold as the nearest", () => {
  const about = (at: number) => ({ date: at, snapBytes: 10 });
  const file = concat([
    encodePcapHeader(10),
    encodePcapRecord(one, about(-1)),
    encodePcapRecord(one, about(Number.MAX_SAFE_INTEGER)),
  ]);
  assert.equal(
    read(file).packets.map((each) => each.date),
    [0, 4_294_967_295_999.999],
  );
});

test("tcpdump and we read the same", () => {
  const sample = readFileSync("test/cli/fixtures/lan-sample.pcap");
  const ours = read(sample, 1000);
  assert.is(ours.damage, undefined);
  assert.is(ours.packets.length, 250);
  const copy = join(process.env.TMPDIR!, "ours.pcap");
  const frames = ours.packets.map((each) =>
    encodePcapRecord(Buffer.from(each.text, "hex"), { date: each.date!, snapBytes: 65_535 }),
  );
  writeFileSync(copy, concat([encodePcapHeader(65_535), ...frames]));
  const show = (file: string) =>
    execFileSync("tcpdump", ["-tt", "-nn", "-e", "-r", file], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  const shown = show(copy);
  assert.is(shown.trim().split("\n").length, 250);
  assert.is(shown, show("test/cli/fixtures/lan-sample.pcap"));
});

test.run();
