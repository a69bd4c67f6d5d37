/** What the forwarding thread keeps is bounded: packets that wait, questions that are open, gateways that it knows. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Asking, askLimits, keyOf, type ToOwner } from "../../src/ipref/asking.ts";
import { Gateways, gatewaysMemory } from "../../src/ipref/gateways.ts";
import { Held, heldLimits } from "../../src/ipref/held.ts";
import { mostBytes, mostSegments, Outbox } from "../../src/ipref/outbox.ts";
import { nameLength, type PacketMachine, Row, rowLength, Trouble } from "../../src/system/packets.ts";

const packet = (length: number, fill = 1) => new Uint8Array(length).fill(fill);

test("Held gives back copies, in order, once", () => {
  const held = new Held();
  const first = packet(10, 1);
  assert.ok(held.keep("a", first, 0));
  first.fill(9);
  assert.ok(held.keep("a", packet(10, 2), 0));
  assert.ok(held.keep("b", packet(10, 3), 0));
  assert.equal(held.take("a"), [packet(10, 1), packet(10, 2)]);
  assert.equal(held.take("a"), []);
  assert.is(held.size, 1);
});

test("Held is full by packets of a key, by keys, and by bytes, and has room again afterwards", () => {
  const held = new Held();
  for (let index = 0; index < heldLimits.packets; index++) assert.ok(held.keep("a", packet(1), 0));
  assert.not(held.keep("a", packet(1), 0));
  for (let index = 1; index < heldLimits.keys; index++) assert.ok(held.keep(`k${index}`, packet(1), 0));
  assert.not(held.keep("one more", packet(1), 0));
  held.take("k1");
  assert.ok(held.keep("one more", packet(1), 0));

  const heavy = new Held();
  const most = Math.floor(heldLimits.bytes / 60_000);
  for (let index = 0; index < most; index++) assert.ok(heavy.keep(`h${index}`, packet(60_000), 0));
  assert.not(heavy.keep("h", packet(60_000), 0));
  heavy.take("h0");
  assert.ok(heavy.keep("h", packet(60_000), 0));
});

test("Held lets go of what waited too long, and of nothing else", () => {
  const held = new Held();
  held.keep("old", packet(10), 0);
  held.keep("old", packet(10), 500);
  held.keep("young", packet(10), 1_000);
  assert.is(held.lapse(heldLimits.ms - 1), 0);
  assert.is(held.lapse(heldLimits.ms), 2);
  assert.equal(held.take("old"), []);
  assert.is(held.take("young").length, 1);
  assert.is(held.lapse(1e9), 0);
});

const ours = (last: number) =>
  ({ kind: "ours", address: Uint8Array.of(10, 0, last >> 8, last & 255) }) as const;

test("Asking asks once, remembers a refusal for a second, and asks again then", () => {
  const said: ToOwner[] = [];
  const asking = new Asking((message) => said.push(message));
  const key = keyOf(ours(1));
  assert.is(asking.ask(key, ours(1), 0), "asked");
  assert.is(asking.ask(key, ours(1), 1), "open");
  assert.equal(said, [{ kind: "ask", key, wanted: ours(1) }]);
  assert.ok(asking.answered(key, false, 10));
  assert.not(asking.answered(key, false, 10));
  assert.is(asking.ask(key, ours(1), 10 + askLimits.refusedMs - 1), "refused");
  assert.is(asking.ask(key, ours(1), 10 + askLimits.refusedMs), "asked");
  assert.ok(asking.answered(key, true, 2_000));
  assert.is(asking.ask(key, ours(1), 2_000), "asked");
});

test("Asking never has more questions open than its owner bears", () => {
  let said = 0;
  const asking = new Asking(() => said++);
  let busy = 0;
  for (let index = 0; index < 10_000; index++) {
    if (asking.ask(keyOf(ours(index)), ours(index), 0) === "busy") busy++;
  }
  assert.is(said, askLimits.open);
  assert.is(asking.open, askLimits.open);
  assert.is(busy, 10_000 - askLimits.open);
  for (let index = 0; index < askLimits.open; index++) asking.answered(keyOf(ours(index)), false, 0);
  assert.is(asking.ask(keyOf(ours(9_999)), ours(9_999), 1), "asked");
});

test("keyOf tells kinds, addresses and references apart", () => {
  const keys = [
    keyOf(ours(1)),
    keyOf(ours(2)),
    keyOf({ kind: "theirs", context: ours(1).address, reference: Uint8Array.of(1) }),
    keyOf({ kind: "theirs", context: ours(1).address, reference: Uint8Array.of(2) }),
    keyOf({ kind: "theirs", context: ours(2).address, reference: Uint8Array.of(1) }),
  ];
  assert.is(new Set(keys).size, keys.length);
});

const address = (index: number) => Uint8Array.of(203, 0, index >> 8, index & 255);

function nameOf(gateways: Gateways, bytes: Uint8Array): Uint8Array {
  const names = new Uint8Array(nameLength).fill(255);
  gateways.writeName(names, 0, bytes, 0);
  return names;
}

test("Gateways sends to the usual port until another is heard, v4 and v6", () => {
  for (const family of [4, 6] as const) {
    const gateways = new Gateways({ family, port: 1045, memory: gatewaysMemory(family, 7) });
    const bytes = family === 4 ? address(1) : Uint8Array.from({ length: 16 }, (_, index) => index);
    const name = nameOf(gateways, bytes);
    assert.is((name[2]! << 8) | name[3]!, 1045);
    assert.equal(name.subarray(gateways.addressAt, gateways.addressAt + bytes.length), bytes);
    if (family === 6)
      assert.equal([...name.subarray(4, 8), ...name.subarray(24, 28)], [0, 0, 0, 0, 0, 0, 0, 0]);
    name[2] = 40_001 >> 8;
    name[3] = 40_001 & 255;
    const before = gateways.version;
    assert.ok(gateways.heard(name, 0));
    assert.is.not(gateways.version, before);
    assert.not(gateways.heard(name, 0));
    assert.is(gateways.portOf(bytes, 0), 40_001);
    // A source port of 0 cannot be answered.
    name[2] = 0;
    name[3] = 0;
    assert.not(gateways.heard(name, 0));
    assert.is(gateways.portOf(bytes, 0), 40_001);
  }
});

test("Gateways lets those make mappings that are listed or were sent to, or all", () => {
  const gateways = new Gateways({ family: 4, port: 1045, memory: gatewaysMemory(4, 7) });
  assert.not(gateways.allows(address(1), 0));
  gateways.list([address(1)]);
  assert.ok(gateways.allows(address(1), 0));
  assert.not(gateways.allows(address(2), 0));
  nameOf(gateways, address(2));
  assert.ok(gateways.allows(address(2), 0));
  // To be heard is not enough.
  const names = new Uint8Array(nameLength);
  names.set(address(3), gateways.addressAt);
  gateways.heard(names, 0);
  assert.not(gateways.allows(address(3), 0));
  gateways.list("all");
  assert.ok(gateways.allows(address(3), 0));
  gateways.list([]);
  assert.not(gateways.allows(address(1), 0));
});

test("Gateways keeps those in use through a flood of others", () => {
  const gateways = new Gateways({ family: 4, port: 1045, memory: gatewaysMemory(4, 7, 16) });
  const names = nameOf(gateways, Uint8Array.of(198, 51, 100, 97));
  names[3] = 99;
  gateways.heard(names, 0);
  const other = new Uint8Array(nameLength);
  for (let index = 0; index < 20_000; index++) {
    other.set(address(index), gateways.addressAt);
    other[3] = 1;
    gateways.heard(other, 0);
    // Heard again now and then, as one that is in use.
    if (index % 16 === 0) gateways.heard(names, 0);
  }
  assert.is(gateways.portOf(Uint8Array.of(198, 51, 100, 97), 0), (names[2]! << 8) | 99);
});

test("Gateways knows who is listed, was sent to or heard", () => {
  const gateways = new Gateways({ family: 4, port: 1045, memory: gatewaysMemory(4, 7) });
  gateways.list([address(1)]);
  nameOf(gateways, address(2));
  const names = new Uint8Array(nameLength);
  names.set(address(3), gateways.addressAt);
  gateways.heard(names, 0);
  assert.equal(
    [1, 2, 3, 4].map((last) => gateways.knows(address(last), 0)),
    [true, true, true, false],
  );
  gateways.list("all");
  assert.not(gateways.knows(address(4), 0));
});

test("Gateways of the next thread goes on with ports, permissions, counts and ages of the last", () => {
  for (const family of [4, 6] as const) {
    const memory = gatewaysMemory(family, 7, 1);
    const first = new Gateways({ family, port: 1045, memory });
    const bytes = (last: number) =>
      Uint8Array.from({ length: family === 4 ? 4 : 16 }, (_, index) => (index === 3 ? last : 32));
    for (let last = 1; last <= 8; last++) {
      const name = nameOf(first, bytes(last));
      name[2] = 0x9c;
      name[3] = last;
      first.heard(name, 0);
      first.countIn(1, 60);
    }
    const next = new Gateways({ family, port: 1045, memory });
    assert.equal(next.counts(), first.counts());
    for (let last = 1; last <= 8; last++) {
      assert.is(next.portOf(bytes(last), 0), 0x9c00 + last);
      assert.ok(next.allows(bytes(last), 0));
    }
    const name = nameOf(next, bytes(5));
    assert.is((name[2]! << 8) | name[3]!, 0x9c05);
    // Who was used longest ago gives way, whichever thread used it.
    nameOf(next, bytes(1));
    for (let last = 9; last <= 13; last++) nameOf(next, bytes(last));
    const left = next.counts().map(({ context }) => context[3]!);
    assert.equal(
      left.sort((one, other) => one - other),
      [1, 5, 8, 9, 10, 11, 12, 13],
    );
    // Permissions of a list are not remembered.
    next.list([bytes(99)]);
    assert.not(new Gateways({ family, port: 1045, memory }).allows(bytes(99), 0));
  }
  assert.throws(
    () => new Gateways({ family: 6, port: 1045, memory: gatewaysMemory(4, 7, 1) }),
    (thrown: unknown) => thrown instanceof RangeError,
  );
});

test("Gateways counts what passes from and to each, as long as it is kept", () => {
  const gateways = new Gateways({ family: 4, port: 1045, memory: gatewaysMemory(4, 7, 1) });
  assert.equal(gateways.counts(), []);
  const names = nameOf(gateways, address(1));
  gateways.countOut(2, 300);
  gateways.heard(names, 0);
  nameOf(gateways, address(2));
  gateways.countIn(1, 60);
  gateways.countOut(1, 40);
  const row = (number: number) =>
    gateways.counts().find(({ context }) => String(context) === String(address(number)));
  const common = { port: 1045, packetsIn: 0, bytesIn: 0 };
  assert.equal(row(1), {
    context: address(1),
    port: 1045,
    packetsIn: 1,
    bytesIn: 60,
    packetsOut: 2,
    bytesOut: 300,
  });
  assert.equal(row(2), { context: address(2), ...common, packetsOut: 1, bytesOut: 40 });
  // Whoever gave way begins anew.
  for (let index = 3; index < 11; index++) nameOf(gateways, address(index));
  assert.is(gateways.counts().length, 8);
  assert.is(row(1), undefined);
  nameOf(gateways, address(1));
  assert.equal(row(1), { context: address(1), ...common, packetsOut: 0, bytesOut: 0 });
});

/** A machine whose `send` does as it is told, and writes down what it was given. */
function sending(answers: (count: number) => number) {
  const sent: { length: number; segment: number; at: number }[][] = [];
  const machine = {
    send(_queue: number, _arena: Uint8Array, _names: Uint8Array, rows: Int32Array, count: number) {
      const answer = answers(count);
      if (answer > 0) {
        sent.push(
          Array.from({ length: answer }, (_, index) => ({
            at: rows[index * rowLength + Row.offset]!,
            length: rows[index * rowLength + Row.length]!,
            segment: rows[index * rowLength + Row.segment]!,
          })),
        );
      }
      return answer;
    },
  } as unknown as PacketMachine;
  const lost: [number, number][] = [];
  const outbox = new Outbox(machine, {
    queue: 1,
    onLost: (trouble, _, { offset }) => lost.push([trouble, offset]),
  });
  return { outbox, sent, lost };
}

test("Outbox moves packets of one length together, the last may be shorter, and bytes stay what they were", () => {
  const { outbox, sent } = sending((count) => count);
  const arena = new Uint8Array(1_000);
  for (const [index, at] of [0, 200, 400, 600].entries()) arena.fill(index + 1, at, at + 100);
  outbox.select(arena);
  outbox.add(0, 100, 16);
  assert.ok(outbox.append(200, 100));
  assert.ok(outbox.append(400, 60));
  assert.not(outbox.append(600, 60), "nothing follows a shorter one");
  outbox.repeatName(16);
  outbox.add(600, 100, 16);
  outbox.flush();
  assert.equal(sent, [
    [
      { at: 0, length: 260, segment: 100 },
      { at: 600, length: 100, segment: 0 },
    ],
  ]);
  assert.equal([arena[99], arena[100], arena[199], arena[200], arena[259]], [1, 2, 2, 3, 3]);
});

test("Outbox adds segments to the message that they lie behind, as many as it may have", () => {
  const { outbox, sent } = sending((count) => count);
  const arena = new Uint8Array(400_000);
  const how = { segment: 1_400, nameBytes: 16 };
  const most = Math.floor(mostBytes / how.segment) * how.segment;
  outbox.select(arena);
  outbox.addSegments(0, 1_400, how);
  assert.is(outbox.extend(1_400, 2_800, 1_400), 2_800);
  assert.is(outbox.extend(4_200, 1_300, 1_300), 0, "of another length");
  assert.is(outbox.extend(5_600, 1_400, 1_400), 0, "elsewhere");
  assert.is(outbox.extend(4_200, 100_000, 1_400), most - 4_200);
  assert.is(outbox.extend(most, 1_400, 1_400), 0, "full");
  outbox.addSegments(most, 2_000, how);
  assert.is(outbox.extend(most + 2_000, 1_400, 1_400), 0, "behind a short one");
  outbox.add(300_000, 1_400, 16);
  assert.is(outbox.extend(301_400, 700, 1_400), 700);
  assert.not(outbox.append(310_000, 1_400), "nothing follows a short one");
  outbox.flush();
  assert.equal(sent, [
    [
      { at: 0, length: most, segment: 1_400 },
      { at: most, length: 2_000, segment: 1_400 },
      { at: 300_000, length: 2_100, segment: 1_400 },
    ],
  ]);
});

test("Outbox makes no message that the kernel would not take", () => {
  const { outbox, sent } = sending((count) => count);
  const arena = new Uint8Array(200_000);
  outbox.select(arena);
  outbox.add(0, 10, 16);
  let appended = 1;
  while (outbox.append(appended * 20, 10)) appended++;
  assert.is(appended, mostSegments);
  outbox.flush();
  outbox.select(arena);
  outbox.add(0, 1_400, 16);
  appended = 1;
  while (outbox.append(appended * 1_500, 1_400)) appended++;
  outbox.flush();
  assert.is(sent[1]![0]!.length, Math.floor(mostBytes / 1_400) * 1_400);
});

test("Outbox goes on behind a message that is refused, and tells of each one lost", () => {
  // An old error first, which says nothing of the first message; then the second is refused twice.
  const answers = [Trouble.unreachable, 1, Trouble.unreachable, Trouble.unreachable, 2];
  const { outbox, sent, lost } = sending(() => answers.shift()!);
  outbox.select(new Uint8Array(1_000));
  for (const [index, at] of [0, 100, 200, 300].entries()) outbox.add(at, 10 + index, 16);
  outbox.flush();
  assert.equal(lost, [[Trouble.unreachable, 100]]);
  assert.equal(
    sent.flat().map(({ at }) => at),
    [0, 200, 300],
  );
});

test("Outbox waits for nothing: what has no room is lost and counted", () => {
  const { outbox, lost } = sending(() => Trouble.again);
  outbox.select(new Uint8Array(1_000));
  outbox.add(0, 10, 16);
  outbox.add(100, 10, 16);
  outbox.flush();
  assert.equal(lost, [
    [Trouble.again, 0],
    [Trouble.again, 100],
  ]);
  assert.is(outbox.count, 0);
});

test("Outbox sends apart what the kernel does not take together, and joins nothing for ten seconds", () => {
  const answers = [Trouble.other, Trouble.other, 1, 1, 1];
  const { outbox, sent, lost } = sending(() => answers.shift() ?? 1);
  const arena = new Uint8Array(1_000);
  outbox.now = 5;
  outbox.select(arena);
  outbox.addSegments(0, 250, { segment: 100, nameBytes: 16 });
  outbox.flush();
  assert.equal(sent.flat(), [
    { at: 0, length: 100, segment: 0 },
    { at: 100, length: 100, segment: 0 },
    { at: 200, length: 50, segment: 0 },
  ]);
  assert.equal(lost, []);
  assert.not(outbox.joins);
  outbox.add(0, 100, 16);
  assert.not(outbox.append(200, 100));
  outbox.now = 10_005;
  assert.ok(outbox.joins);
});

test.run();
