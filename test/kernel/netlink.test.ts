/** Netlink: attributes, messages, questions and answers; on bytes, on a made-up socket, on the real kernel. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type AttributeList,
  Attributes,
  ByteOrder,
  encodeAttributes,
  host,
  network,
} from "../../src/kernel/attribute.ts";
import { Mirror } from "../../src/kernel/mirror.ts";
import {
  eachMessage,
  encodeMessage,
  errnoOf,
  Netlink,
  netfilterProtocol,
  routeProtocol,
} from "../../src/kernel/netlink.ts";
import { Rounds } from "../../src/kernel/rounds.ts";
import { Fault } from "../../src/lib/fault.ts";
import { madeUpMachine, openSystem, pause, sh, toUs } from "./yard.ts";

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const empty = new Uint8Array(0);

// ── attributes ──

test("ByteOrder reads and writes numbers of either order, whatever the machine's", () => {
  const rows = [
    [true, 0x1234, "3412", 0xfedcba98, "98badcfe"],
    [false, 0x1234, "1234", 0xfedcba98, "fedcba98"],
  ] as const;
  for (const [little, short, shortHex, long, longHex] of rows) {
    const order = new ByteOrder(little);
    assert.is(text(order.bytes16(short)), shortHex);
    assert.is(text(order.bytes32(long)), longHex);
    assert.is(order.read16(hex(`ff${shortHex}`), 1), short);
    assert.is(order.read32(hex(`ff${longHex}`), 1), long);
  }
  const native = new Uint8Array(Uint32Array.of(0x01020304).buffer);
  assert.is(host.read32(native, 0), 0x01020304);
});

/** A list, and its bytes on a little-endian machine. */
const attributeRows: readonly (readonly [AttributeList, string])[] = [
  [[], ""],
  [[[1, empty]], "0400 0100"],
  [[[3, hex("6c6f00")]], "0700 0300 6c6f00 00"],
  [
    [
      [2, hex("0a000001")],
      [1, hex("ff")],
    ],
    "0800 0200 0a000001 0500 0100 ff000000",
  ],
  [
    [
      [
        18,
        [
          [1, hex("76657468")],
          [2, []],
        ],
      ],
    ],
    "1000 1280 0800 0100 76657468 0400 0280",
  ],
];

test("encodeAttributes gives the bytes, and Attributes finds each value in them", () => {
  if (host.read16(Uint8Array.of(1, 0), 0) !== 1) return;
  for (const [list, bytes] of attributeRows) {
    const encoded = encodeAttributes(list);
    assert.is(text(encoded), bytes.replaceAll(" ", ""));
    const attributes = new Attributes(20);
    assert.ok(attributes.read(encoded, 0, encoded.length));
    for (const [type, value] of list) {
      assert.ok(attributes.has(type));
      const expected = value instanceof Uint8Array ? value : encodeAttributes(value);
      assert.is(text(attributes.bytes(type)!), text(expected));
    }
    assert.not.ok(attributes.has(9));
  }
});

test("Attributes refuses every cut that is not between two attributes", () => {
  for (const [list, bytes] of attributeRows) {
    const whole = hex(bytes);
    const borders = new Set([0]);
    let at = 0;
    for (const [type, value] of list) {
      // Padding after the last value may be missing.
      const size = encodeAttributes([[type, value]]).length;
      const bare = 4 + (value instanceof Uint8Array ? value : encodeAttributes(value)).length;
      for (let end = at + bare; end <= at + size; end++) borders.add(end);
      at += size;
    }
    for (let end = 0; end <= whole.length; end++) {
      const attributes = new Attributes(20);
      assert.is(attributes.read(whole, 0, end), borders.has(end), `${bytes} cut at ${end}`);
      if (!borders.has(end)) for (let type = 0; type <= 20; type++) assert.not.ok(attributes.has(type));
    }
  }
});

test("Attributes: what is written is read, nested too, and the last of equal types counts", () => {
  const value = fc.uint8Array({ maxLength: 40 });
  const list = fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), value), { maxLength: 12 });
  fc.assert(
    fc.property(list, fc.integer({ min: 0, max: 30 }), (inner, outerType) => {
      const bytes = encodeAttributes([[outerType, inner]]);
      const outer = new Attributes(30);
      assert.ok(outer.read(bytes, 0, bytes.length));
      const attributes = new Attributes(30);
      assert.ok(attributes.readNested(outer, outerType));
      const last = new Map(inner);
      for (let type = 0; type <= 30; type++) {
        const expected = last.get(type);
        assert.is(attributes.has(type), expected !== undefined);
        if (expected) assert.equal(text(attributes.bytes(type)!), text(expected));
        assert.is(attributes.size(type), expected?.length ?? 0);
      }
    }),
  );
});

test("Attributes: getters answer undefined where a value is absent or too short", () => {
  const bytes = encodeAttributes([
    [1, empty],
    [2, hex("01")],
    [3, hex("0102")],
    [4, hex("0a000001")],
    [5, hex("fd000000000000000000000000000001")],
    [6, hex("6c6f00ff")],
  ]);
  const attributes = new Attributes(7);
  assert.ok(attributes.read(bytes, 0, bytes.length));
  assert.equal(
    [1, 2, 3, 4, 7, 99].map((type) => attributes.byte(type)),
    [undefined, 1, 1, 10, undefined, undefined],
  );
  assert.equal(
    [1, 2, 3, 4, 7].map((type) => attributes.number16(type, network)),
    [undefined, undefined, 0x0102, 0x0a00, undefined],
  );
  assert.equal(
    [3, 4, 7].map((type) => attributes.number32(type, network)),
    [undefined, 0x0a000001, undefined],
  );
  assert.equal(
    [3, 4, 5, 7].map((type) => attributes.address(type)),
    [undefined, "10.0.0.1", "fd00::1", undefined],
  );
  assert.equal(
    [6, 7].map((type) => attributes.text(type)),
    ["lo", undefined],
  );
  assert.is(text(attributes.copy(3)!), text(encodeAttributes([[3, hex("0102")]])));
});

test("encodeAttributes refuses what its fields cannot hold", () => {
  assert.throws(
    () => encodeAttributes([[1, new Uint8Array(0xfffc)]]),
    (error: unknown) => error instanceof RangeError,
  );
  assert.throws(
    () => encodeAttributes([[0x4000, empty]]),
    (error: unknown) => error instanceof RangeError,
  );
  assert.is(encodeAttributes([[1, new Uint8Array(0xfffb)]]).length, 0x10000);
});

test("Attributes never throws and never reads outside, whatever the bytes", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(80), fc.nat(80), (bytes, start, end) => {
      const attributes = new Attributes(8);
      const nested = new Attributes(8);
      const ok = attributes.read(bytes, start, end);
      for (let type = 0; type <= 8; type++) {
        if (attributes.has(type)) {
          assert.ok(ok && attributes.start(type) >= start);
          assert.ok(attributes.start(type) + attributes.size(type) <= Math.min(end, bytes.length));
        }
        nested.readNested(attributes, type);
        attributes.text(type);
        attributes.address(type);
      }
    }),
  );
});

// ── messages ──

test("eachMessage hands out what encodeMessage wrote, several to a datagram", () => {
  const message = fc.record({
    type: fc.nat(0xffff),
    flags: fc.nat(0xffff),
    sequence: fc.nat(0xffffffff),
    payload: fc.uint8Array({ maxLength: 30 }),
  });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 5 }), (messages) => {
      const seen: unknown[] = [];
      const bytes = Buffer.concat(messages.map(encodeMessage));
      assert.ok(
        eachMessage(bytes, ({ type, flags, sequence, start, end }) =>
          seen.push({ type, flags, sequence, payload: text(bytes.subarray(start, end)) }),
        ),
      );
      assert.equal(
        seen,
        messages.map((each) => ({ ...each, payload: text(each.payload) })),
      );
    }),
  );
});

test("eachMessage hands out the whole messages before a cut, and tells of the cut", () => {
  const one = encodeMessage({ type: 16, flags: 2, sequence: 7, payload: hex("0102030405") });
  const two = Buffer.concat([one, one]);
  for (let end = 0; end <= two.length; end++) {
    let count = 0;
    const whole = eachMessage(two.subarray(0, end), () => count++);
    const bare = 16 + 5;
    const messages = (end >= bare ? 1 : 0) + (end >= one.length + bare ? 1 : 0);
    assert.is(count, messages, `cut at ${end}`);
    const between = end === 0 || (end >= bare && end <= one.length) || end >= one.length + bare;
    assert.is(whole, between, `cut at ${end}`);
  }
});

// ── questions, on a made-up socket ──

const ack = (sequence: number, errno = 0) =>
  toUs(2, sequence, { payload: Buffer.concat([host.bytes32(-errno), new Uint8Array(16)]) });
const done = (sequence: number, flags = 0) => toUs(3, sequence, { payload: host.bytes32(0), flags });
const question = { type: 100, payload: hex("01020304"), verb: "do it" };

async function faultOf(promise: Promise<unknown>): Promise<Fault> {
  try {
    await promise;
  } catch (thrown) {
    assert.instance(thrown, Fault);
    return thrown as Fault;
  }
  throw new Error("nothing was thrown");
}

test("Netlink.request sends the question and ends with its acknowledgement, not another's", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  let ended = false;
  const request = netlink.request(question).then(() => {
    ended = true;
  });
  assert.is(fake.sent.length, 1);
  assert.equal([fake.sent[0]!.type, fake.sent[0]!.flags, fake.sent[0]!.sequence], [100, 5, 1]);
  fake.answer([ack(2), toUs(2, 1, { payload: host.bytes32(0), to: 78 })]);
  await pause(1);
  assert.not.ok(ended);
  fake.answer([ack(1)]);
  await request;
  assert.is(netlink.counters.stale, 1);
  netlink.close();
});

test("Netlink.request turns the kernel's numbers into Faults, with its words where it has some", async () => {
  const rows = [
    [1, "denied"],
    [2, "not-found"],
    [16, "conflict"],
    [17, "conflict"],
    [95, "unsupported"],
    [122, "unsupported"],
    [22, "kernel"],
    [71, "kernel"],
  ] as const;
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  for (const [errno, code] of rows) {
    const request = netlink.request(question);
    fake.answer([ack(fake.sent.at(-1)!.sequence, errno)]);
    const fault = await faultOf(request);
    assert.is(fault.code, code);
    assert.is(errnoOf(fault), errno);
    assert.match(fault.message, `Cannot do it: the kernel refuses`);
  }
  assert.is(errnoOf(new Fault("kernel", "other")), undefined);
  const request = netlink.request(question);
  const words = encodeAttributes([[1, Buffer.from("no such thing\0")]]);
  const original = Buffer.concat([host.bytes32(20), new Uint8Array(16)]);
  const sequence = fake.sent.at(-1)!.sequence;
  const payload = Buffer.concat([host.bytes32(-2), original, words]);
  fake.answer([toUs(2, sequence, { payload, flags: 0x200 })]);
  assert.is((await faultOf(request)).message, "Cannot do it: no such thing (ENOENT, 2)");
  netlink.close();
});

test("Netlink.dump hands out each message, and begins anew when the table changed under it", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const seen: string[] = [];
  const dump = netlink.dump(question, {
    onMessage: (message) => seen.push(text(message.bytes.subarray(message.start, message.end))),
    onRestart: () => seen.push("restart"),
  });
  await pause(1);
  assert.is(fake.sent[0]!.flags, 0x301);
  fake.answer([toUs(20, 1, { payload: hex("aaaaaaaa"), flags: 2 | 0x10 })]);
  fake.answer([done(1)]);
  await pause(1);
  fake.answer([toUs(20, 2, { payload: hex("bbbbbbbb"), flags: 2 }), done(2)]);
  await dump;
  assert.equal(seen, ["aaaaaaaa", "restart", "bbbbbbbb"]);
  netlink.close();
});

test("Netlink.dump gives up on a table that never holds still", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const dump = faultOf(netlink.dump(question, { onMessage: () => undefined }));
  for (let round = 0; round < 25; round++) {
    await pause(0);
    const last = fake.sent.at(-1);
    if (last) fake.answer([done(last.sequence, 0x10)]);
  }
  assert.is((await dump).code, "conflict");
  assert.is(fake.sent.length, 21);
  netlink.close();
});

test("Netlink: one dump at a time, and a failed one does not stop the next", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const first = faultOf(netlink.dump(question, { onMessage: () => undefined }));
  const second = netlink.dump(question, { onMessage: () => undefined });
  await pause(1);
  assert.is(fake.sent.length, 1);
  fake.answer([ack(1, 1)]);
  assert.is((await first).code, "denied");
  await pause(1);
  assert.is(fake.sent.length, 2);
  fake.answer([done(2)]);
  await second;
  netlink.close();
});

test("Netlink: silence is a timeout, progress is not; a dump that hangs is cut by a new socket", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const request = faultOf(netlink.request(question));
  for (let round = 0; round < 3; round++) fake.advance(2_500);
  assert.is((await request).code, "timeout");
  assert.equal(fake.sockets, [0]);
  fake.answer([ack(1)]);
  assert.is(netlink.counters.stale, 1);

  const dump = faultOf(netlink.dump(question, { onMessage: () => undefined }));
  await pause(1);
  for (let round = 0; round < 5; round++) {
    fake.advance(2_500);
    fake.answer([toUs(20, 2)]);
  }
  assert.equal(fake.sockets, [0], "progress");
  for (let round = 0; round < 3; round++) fake.advance(2_500);
  assert.is((await dump).code, "timeout");
  assert.equal(fake.sockets, [0, 1]);
  netlink.close();
});

test("Netlink: close fails what is open, a broken socket too, and both refuse what comes after", async () => {
  for (const how of ["close", "break"] as const) {
    const { fake, system } = madeUpMachine();
    let broken = 0;
    const netlink = new Netlink(system, { protocol: 0 }, { onClose: () => broken++ });
    const request = faultOf(netlink.request(question));
    if (how === "close") netlink.close();
    else fake.fail(new Fault("closed", "Cannot read: gone"));
    assert.is((await request).code, "closed");
    assert.is((await faultOf(netlink.request(question))).code, "closed");
    assert.is(broken, how === "break" ? 1 : 0);
  }
});

test("Netlink: open questions are bounded", async () => {
  const { system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const requests = Array.from({ length: 1_024 }, () => faultOf(netlink.request(question)));
  assert.is((await faultOf(netlink.request(question))).code, "limit");
  netlink.close();
  for (const fault of await Promise.all(requests)) assert.is(fault.code, "closed");
});

test("Netlink: events go to onEvent, overruns are told, garbage is counted and harms nothing", () => {
  const { fake, system } = madeUpMachine();
  const seen: number[] = [];
  let ends = 0;
  let overruns = 0;
  const netlink = new Netlink(
    system,
    { protocol: 0, groups: [1] },
    { onEvent: ({ type }) => seen.push(type), onEventsEnd: () => ends++, onOverrun: () => overruns++ },
  );
  fake.answer([toUs(16, 0, { to: 0 }), toUs(17, 5, { to: 99 })]);
  assert.equal([seen, ends], [[16, 17], 1]);
  fake.overrun();
  fake.answer([toUs(4, 0, { to: 0 })]);
  assert.is(overruns, 2);
  assert.is(netlink.counters.overruns, 2);
  fake.answer([hex("ffffffff")]);
  assert.is(netlink.counters.malformed, 1);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      fake.answer([bytes]);
    }),
  );
  netlink.close();
});

// ── what watchers are made of ──

test("Rounds: never two at once, asked in between is once more, and after a costly one there is a rest", async () => {
  const { fake, system } = madeUpMachine();
  const open: (() => void)[] = [];
  const job = () => new Promise<void>((resolve) => void open.push(resolve));
  const rounds = new Rounds(system, job, { periodMs: 1_000 });
  const first = rounds.start();
  rounds.soon();
  rounds.soon();
  assert.is(open.length, 1);
  fake.advance(100);
  open[0]!();
  await first;
  fake.advance(899);
  assert.is(open.length, 1, "rests nine times as long as it took");
  fake.advance(1);
  assert.is(open.length, 2);
  open[1]!();
  await pause(0);
  fake.advance(999);
  assert.is(open.length, 2);
  fake.advance(1);
  assert.is(open.length, 3, "the period");
  rounds.close();
  open[2]!();
  await pause(0);
  fake.advance(100_000);
  assert.is(open.length, 3);
});

test("Rounds: the first failure is the caller's, later ones are tried again later and later", async () => {
  const { fake, system } = madeUpMachine();
  let broken = true;
  const faults: unknown[] = [];
  let runs = 0;
  const job = async () => {
    runs++;
    if (broken) throw new Fault("kernel", "Cannot: broken");
  };
  await faultOf(new Rounds(system, job).start());
  fake.advance(100_000);
  assert.is(runs, 1);

  broken = false;
  const rounds = new Rounds(system, job, { onFault: (thrown) => faults.push(thrown) });
  await rounds.start();
  broken = true;
  rounds.soon();
  fake.advance(0);
  await pause(0);
  assert.equal([runs, faults.length], [3, 1]);
  rounds.soon();
  fake.advance(999);
  assert.is(runs, 3, "being asked does not shorten the wait");
  fake.advance(1);
  await pause(0);
  assert.equal([runs, faults.length], [4, 2]);
  fake.advance(1_999);
  assert.is(runs, 4);
  broken = false;
  fake.advance(1);
  await pause(0);
  assert.equal([runs, faults.length], [5, 2]);
  fake.advance(100_000);
  assert.is(runs, 5);
});

test("Mirror tells each difference once, and a dump does not overrule what a notification said since", () => {
  const told: string[] = [];
  const mirror = new Mirror<{ value: number }>(10, (change, entry) => told.push(`${change} ${entry.value}`));
  const tell = () => told.splice(0).join(", ");
  mirror.hear("a", { value: 1 });
  mirror.hear("a", { value: 1 });
  mirror.hear("a", { value: 2 });
  mirror.hear("b", { value: 3 });
  mirror.hear("c", undefined);
  assert.is(tell(), "add 1, change 2, add 3");
  mirror.beginRead();
  mirror.hear("new", { value: 4 });
  mirror.hear("b", undefined);
  mirror.read("b", { value: 3 });
  mirror.read("a", { value: 2 });
  mirror.read("d", { value: 5 });
  mirror.endRead();
  assert.is(tell(), "add 4, remove 3, add 5");
  assert.equal([...mirror.entries.keys()].sort(), ["a", "d", "new"]);
  mirror.beginRead();
  mirror.read("d", { value: 5 });
  mirror.endRead();
  assert.is(tell(), "remove 2, remove 4");
  mirror.beginRead();
  mirror.abandonRead();
  mirror.endRead();
  assert.is(tell(), "", "a dump that failed removes nothing");
});

test("Mirror holds no more than its limit, and counts what it leaves out", () => {
  const mirror = new Mirror<{ value: number }>(100, () => undefined);
  for (let value = 0; value < 1_000; value++) mirror.hear(`${value}`, { value });
  assert.equal([mirror.entries.size, mirror.dropped], [100, 900]);
  mirror.hear("0", undefined);
  mirror.hear("999", { value: 999 });
  assert.equal([mirror.entries.size, mirror.entries.has("999")], [100, true]);
});

test("Mirror ends with what the kernel has, however notifications and dumps are interleaved", () => {
  // The kernel: a table, a queue of notifications, and dumps that answer with the table of the moment asked.
  const step = fc.oneof(
    fc.record({ kind: fc.constant("set" as const), key: fc.nat(4), value: fc.nat(3) }),
    fc.record({ kind: fc.constant("drop" as const), key: fc.nat(4), value: fc.constant(0) }),
    fc.record({
      kind: fc.constantFrom("hear" as const, "ask" as const, "answer" as const),
      key: fc.nat(4),
      value: fc.constant(0),
    }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const kernel = new Map<string, { value: number }>();
      const queue: [string, { value: number } | undefined][] = [];
      let answers: [string, { value: number }][] | undefined;
      const shown = new Map<{ value: number }, true>();
      const mirror = new Mirror<{ value: number }>(10, (change, entry) => {
        if (change === "remove") assert.ok(shown.delete(entry));
        else shown.set(entry, true);
      });
      const finish = () => {
        for (const [key, entry] of answers ?? []) mirror.read(key, entry);
        if (answers) mirror.endRead();
        answers = undefined;
      };
      for (const { kind, key, value } of steps) {
        const name = `${key}`;
        if (kind === "set") {
          kernel.set(name, { value });
          queue.push([name, { value }]);
        } else if (kind === "drop") {
          if (kernel.delete(name)) queue.push([name, undefined]);
        } else if (kind === "hear") {
          const next = queue.shift();
          if (next) mirror.hear(...next);
        } else if (kind === "ask" && !answers) {
          mirror.beginRead();
          answers = [...kernel].map(([each, entry]) => [each, { ...entry }]);
        } else if (kind === "answer") finish();
      }
      finish();
      for (const next of queue) mirror.hear(...next);
      const sorted = (map: ReadonlyMap<string, { value: number }>) =>
        [...map].map(([key, entry]) => `${key}=${entry.value}`).sort();
      assert.equal(sorted(mirror.entries), sorted(kernel));
    }),
  );
});

// ── the real kernel ──

test("Netlink.dump reads the real interfaces, and a refused request is a Fault with its number", async () => {
  const netlink = new Netlink(openSystem(), { protocol: routeProtocol });
  sh("ip link add spare type veth peer name erapS");
  const names: (string | undefined)[] = [];
  const attributes = new Attributes(3);
  await netlink.dump(
    { type: 18, payload: new Uint8Array(16), verb: "read links" },
    {
      onMessage: ({ bytes, start, end }) => {
        if (attributes.read(bytes, start + 16, end)) names.push(attributes.text(3));
      },
    },
  );
  assert.equal(names.sort(), ["erapS", "lo", "spare"]);
  // A link that is not there is not to be deleted.
  const payload = Buffer.concat([new Uint8Array(4), host.bytes32(9_999), new Uint8Array(8)]);
  const fault = await faultOf(netlink.request({ type: 17, payload, verb: "delete link" }));
  assert.equal([fault.code, errnoOf(fault)], ["not-found", 19]);
  sh("ip link del spare");
  netlink.close();
});

test("Netlink.request gets the answers before the acknowledgement", async () => {
  const netlink = new Netlink(openSystem(), { protocol: routeProtocol });
  const seen: number[] = [];
  const payload = Buffer.concat([new Uint8Array(4), host.bytes32(1), new Uint8Array(8)]);
  await netlink.request({ type: 18, payload, verb: "read link" }, ({ type }) => seen.push(type));
  assert.equal(seen, [16]);
  netlink.close();
});

test("Netlink: what is not there in this kernel's netfilter is a Fault", async () => {
  const netlink = new Netlink(openSystem(), { protocol: netfilterProtocol });
  const fault = await faultOf(
    netlink.request({ type: 0xee01, payload: new Uint8Array(4), verb: "ask nobody" }),
  );
  assert.ok(errnoOf(fault)! > 0);
  assert.match(fault.message, /^Cannot ask nobody: /);
  netlink.close();
});

test.run();
