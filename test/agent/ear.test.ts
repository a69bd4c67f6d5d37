/** What is heard on a link and what is not: rows of frames, cut and flipped ones, and sockets that fail. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Ear, frameOf, readFrame } from "../../src/agent/ear.ts";
import { type Address, parseAddress } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { encodeUdp } from "../../src/lib/udp.ts";
import type { DatagramHandlers, DatagramSocket, PacketOptions, UdpSocket } from "../../src/system/system.ts";

const address = (text: string): Address => parseAddress(text)!;
const own = {
  addresses: new Set(["10.1.0.1", "fd01::1", "fe80::1"].map(address)),
  broadcasts: new Set([address("10.1.0.255")]),
};
const everybody = Uint8Array.of(255, 255, 255, 255, 255, 255);
const alone = Uint8Array.of(2, 0, 0, 0, 0, 1);
const from = Uint8Array.of(2, 0, 0, 0, 0, 9);

interface Said {
  readonly to: string;
  readonly ports: readonly [source: number, destination: number];
  readonly mac?: Uint8Array;
}

function framed({ to, ports, mac = everybody }: Said): Uint8Array {
  const destination = address(to);
  const source = address(to.includes(":") ? "fd01::2" : "10.1.0.2");
  const [sourcePort, destinationPort] = ports;
  const data = Uint8Array.of(1, 2, 3);
  return frameOf(encodeUdp({ source, destination, sourcePort, destinationPort, hops: 4, data }), {
    from,
    to: mac,
  });
}

const rows: readonly [expected: string, said: Said][] = [
  ["mdns", { to: "224.0.0.251", ports: [5353, 5353] }],
  ["mdns", { to: "ff02::fb", ports: [5353, 5353] }],
  ["mdns", { to: "10.1.0.1", ports: [5353, 5353], mac: alone }],
  ["mdns", { to: "fe80::1", ports: [5353, 5353], mac: alone }],
  ["foreign", { to: "224.0.0.251", ports: [40_000, 5353] }],
  ["other", { to: "10.1.0.77", ports: [5353, 5353], mac: alone }],
  ["other", { to: "255.255.255.255", ports: [5353, 5353] }],
  ["broadcast", { to: "255.255.255.255", ports: [40_000, 9999] }],
  ["broadcast", { to: "10.1.0.255", ports: [9999, 9999] }],
  ["other", { to: "10.2.0.255", ports: [9999, 9999] }],
  ["other", { to: "10.1.0.1", ports: [9999, 9999], mac: alone }],
  ["other", { to: "10.1.0.255", ports: [9999, 9999], mac: alone }],
  ["other", { to: "255.255.255.255", ports: [68, 67] }],
  ["other", { to: "255.255.255.255", ports: [67, 68] }],
  ["other", { to: "255.255.255.255", ports: [40_000, 53] }],
  ["other", { to: "255.255.255.255", ports: [40_000, 0] }],
  ["other", { to: "255.255.255.255", ports: [0, 9999] }],
  ["broadcast 239.255.255.250", { to: "239.255.255.250", ports: [40_000, 1900] }],
  ["broadcast ff02::c", { to: "ff02::c", ports: [40_000, 1900] }],
  ["broadcast ff05::c", { to: "ff05::c", ports: [40_000, 1900] }],
  ["other", { to: "239.255.255.250", ports: [40_000, 3702] }],
  ["other", { to: "224.0.0.252", ports: [5355, 5355] }],
  ["other", { to: "ff02::1:2", ports: [546, 547] }],
];

function shown(frame: Uint8Array): string {
  const said = readFrame(frame, own);
  if (typeof said === "string") return said;
  return said.group === undefined ? said.kind : `${said.kind} ${said.group}`;
}

for (const [expected, said] of rows) {
  test(`readFrame: ${expected} is what goes from port ${said.ports[0]} to ${said.to}:${said.ports[1]}${said.mac ? ", to one alone" : ""}`, () => {
    assert.is(shown(framed(said)), expected);
  });
}

test("readFrame: tells who speaks, from which port, to which, and what", () => {
  const said = readFrame(framed({ to: "10.1.0.255", ports: [1234, 9999] }), own);
  assert.equal(said, {
    ...{ kind: "broadcast", source: "10.1.0.2", sourcePort: 1234, destinationPort: 9999 },
    data: Uint8Array.of(1, 2, 3),
  });
});

test("readFrame: the padding of a short frame is no part of what was said", () => {
  const frame = new Uint8Array(60);
  frame.set(framed({ to: "10.1.0.255", ports: [1, 9999] }));
  const said = readFrame(frame, own);
  assert.ok(typeof said !== "string" && said.data.length === 3);
});

test("readFrame: fragments, other protocols and tagged frames are nobody's", () => {
  const whole = framed({ to: "10.1.0.255", ports: [1, 9999] });
  const changed = (at: number, ...bytes: number[]) => {
    const copy = whole.slice();
    copy.set(bytes, at);
    return copy;
  };
  assert.is(shown(changed(20, 0x20)), "fragment", "the first");
  assert.is(shown(changed(20, 0, 1)), "fragment", "a later one");
  assert.is(shown(changed(23, 6)), "other", "TCP");
  assert.is(shown(changed(14, 0x55)), "unreadable", "a version that is none");
  const tagged = Uint8Array.of(...whole.subarray(0, 12), 0x81, 0, 0, 7, ...whole.subarray(12));
  assert.is(shown(tagged), "other");
});

test("readFrame: cut at any length it is nothing, and with any byte another it never throws", () => {
  for (const [expected, said] of rows) {
    const whole = framed(said);
    for (let length = 0; length < whole.length; length++) {
      const was = shown(whole.slice(0, length));
      assert.ok(["unreadable", "other"].includes(was), `${expected} of ${length} bytes: ${was}`);
    }
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, value) => {
        const bytes = whole.slice();
        bytes[at] = value;
        shown(bytes);
      }),
      { numRuns: 300 },
    );
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => void shown(bytes)));
});

/** Sockets that can be made to fail, and that say what is open. */
function machine(refuse: { at?: number } = {}) {
  const opened: (PacketOptions | "member")[] = [];
  const handlers: DatagramHandlers[] = [];
  const open = new Set<number>();
  const add = (what: PacketOptions | "member", told: Omit<DatagramHandlers, "onMessage">) => {
    if (refuse.at === opened.length) throw new Fault("limit", "Cannot open: too many");
    const number = opened.push(what);
    handlers.push(told as DatagramHandlers);
    open.add(number);
    return { close: () => void open.delete(number) };
  };
  return {
    ...{ opened, handlers, open },
    packet: (options: PacketOptions, told: DatagramHandlers): DatagramSocket => ({
      ...add(options, told),
      ...{ port: 0, send() {} },
    }),
    udp: (_: unknown, told: Omit<DatagramHandlers, "onMessage">): UdpSocket => ({
      ...add("member", told),
      ...{ local: { address: address("0.0.0.0"), port: 1 }, send() {} },
    }),
  };
}

test("Ear: each frame is told once, by the socket that it is meant for", () => {
  const fake = machine();
  let frames = 0;
  const ear = new Ear(
    fake,
    { ifindex: 3, family: 4 },
    { onFrame: () => void frames++, onOverrun() {}, onLost() {} },
  );
  const passes = (options: PacketOptions, frame: Uint8Array) =>
    options.only!.every(({ offset, values }) => values.includes(frame[offset]!));
  for (const said of [
    framed({ to: "224.0.0.251", ports: [5353, 5353], mac: Uint8Array.of(1, 0, 0x5e, 0, 0, 251) }),
    framed({ to: "10.1.0.1", ports: [5353, 5353], mac: alone }),
    framed({ to: "255.255.255.255", ports: [9999, 9999] }),
  ]) {
    frames = 0;
    for (const [at, options] of fake.opened.entries())
      if (options !== "member" && passes(options, said)) fake.handlers[at]!.onMessage(said);
    assert.is(frames, 1);
  }
  ear.close();
  fake.handlers[0]!.onMessage(framed({ to: "255.255.255.255", ports: [9999, 9999] }));
  assert.is(frames, 1, "nothing after its end");
});

test("Ear: a socket that is refused leaves no other open, and one that is lost takes the others with it, told once", () => {
  for (let at = 0; at < 3; at++) {
    const fake = machine({ at });
    const make = () =>
      new Ear(fake, { ifindex: 3, family: 6 }, { onFrame() {}, onOverrun() {}, onLost() {} });
    assert.throws(make, (thrown: unknown) => thrown instanceof Fault && thrown.code === "limit");
    assert.is(fake.open.size, 0);
  }
  const fake = machine();
  let lost = 0;
  new Ear(fake, { ifindex: 3, family: 6 }, { onFrame() {}, onOverrun() {}, onLost: () => void lost++ });
  assert.is(fake.open.size, 3);
  for (const { onClose } of fake.handlers) onClose(new Fault("kernel", "Cannot receive: gone"));
  assert.equal([lost, fake.open.size], [1, 0]);
});

test.run();
