/** Packet sockets on the real kernel: frames both ways over a pair of interfaces. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { nativePath, until } from "./until.ts";

const system = openLinux({ nativePath });
const ip = (words: string) => execFileSync("ip", words.split(" "));
const indexOf = (name: string) => Number(readFileSync(`/sys/class/net/${name}/ifindex`, "utf8"));
const macOf = (name: string) =>
  readFileSync(`/sys/class/net/${name}/address`, "utf8")
    .trim()
    .split(":")
    .map((each) => Number.parseInt(each, 16));

test.before(() => {
  // The enclosure has its own /sys only if it is mounted anew.
  execFileSync("mount", ["-t", "sysfs", "sysfs", "/sys"]);
  ip("link add left type veth peer name right");
  ip("netns add far");
  ip("link set right netns far");
  ip("addr add 192.0.2.1/24 dev left");
  ip("link set left up");
  ip("-n far addr add 192.0.2.2/24 dev right");
  ip("-n far link set right up");
});

function open(protocol: number, name = "left") {
  const frames: Uint8Array[] = [];
  const ends: (Fault | undefined)[] = [];
  const socket = system.packet(
    { ifindex: indexOf(name), protocol },
    {
      onMessage: (bytes) => frames.push(bytes.slice()),
      onOverrun() {},
      onClose: (fault) => ends.push(fault),
    },
  );
  return { socket, frames, ends };
}

const far = () => Uint8Array.from([192, 0, 2, 2]);
const near = () => Uint8Array.from([192, 0, 2, 1]);

test("an ARP request that we send is answered by the other kernel", async () => {
  const { socket, frames } = open(0x0806);
  const mac = macOf("left");
  socket.send(
    Uint8Array.from([
      ...[255, 255, 255, 255, 255, 255],
      ...mac,
      ...[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1],
      ...mac,
      ...near(),
      ...[0, 0, 0, 0, 0, 0],
      ...far(),
    ]),
  );
  const isAnswer = (frame: Uint8Array) => frame[21] === 2 && frame[31] === 2;
  await until(() => frames.some(isAnswer), "the ARP answer");
  const answer = frames.find(isAnswer)!;
  assert.equal([...answer.subarray(0, 6)], mac);
  assert.equal(answer.subarray(28, 32), far());
  socket.close();
});

test("only frames of the protocol asked for arrive", async () => {
  const arp = open(0x0806);
  const all = open(3);
  ip("neigh flush dev left");
  execFileSync("ping", ["-c", "2", "-i", "0.2", "192.0.2.2"]);
  const type = (frame: Uint8Array) => (frame[12]! << 8) | frame[13]!;
  await until(() => all.frames.filter((frame) => type(frame) === 0x0800).length >= 4, "echoes both ways");
  await until(() => arp.frames.length > 0, "the ARP answer");
  assert.ok(arp.frames.every((frame) => type(frame) === 0x0806));
  arp.socket.close();
  all.socket.close();
});

test("an interface that goes down and up again is heard again", async () => {
  const { socket, frames, ends } = open(0x0806);
  ip("link set left down");
  ip("link set left up");
  await new Promise((resolve) => setTimeout(resolve, 20));
  ip("-n far neigh flush dev right");
  const before = frames.length;
  execFileSync("ip", ["netns", "exec", "far", "ping", "-c", "1", "-W", "20", "192.0.2.1"]);
  await until(() => frames.length > before, "ARP of the other side");
  assert.equal(ends, []);
  socket.close();
});

test("a frame that is too long is refused, and the socket goes on", async () => {
  const { socket, frames } = open(0x0806);
  assert.throws(
    () => socket.send(new Uint8Array(70_000)),
    (error: unknown) => error instanceof Fault && error.code === "limit",
  );
  assert.throws(() => socket.send(new Uint8Array(3)), /Cannot send on interface/);
  ip("-n far neigh flush dev right");
  execFileSync("ip", ["netns", "exec", "far", "ping", "-c", "1", "-W", "20", "192.0.2.1"]);
  await until(() => frames.length > 0, "ARP of the other side");
  socket.close();
});

test("an interface that is gone ends the socket", async () => {
  const { ends } = open(0x0806);
  ip("link del left");
  await until(() => ends.length > 0, "the end");
  assert.instance(ends[0], Fault);
  assert.throws(
    () => system.packet({ ifindex: 9999, protocol: 3 }, { onMessage() {}, onOverrun() {}, onClose() {} }),
    (error: unknown) => error instanceof Fault && error.code === "not-found",
  );
});

test("packet with only: the kernel hands over frames with these bytes in these places, and no others", async () => {
  ip("link add here type veth peer name there");
  for (const name of ["here", "there"]) ip(`link set ${name} up`);
  const frames: Uint8Array[] = [];
  const only = [
    { offset: 14, values: [1, 3] },
    { offset: 15, values: [9] },
  ];
  const handlers = { onMessage() {}, onOverrun() {}, onClose() {} };
  const socket = system.packet(
    { ifindex: indexOf("here"), protocol: 0x88b5, only },
    { ...handlers, onMessage: (bytes) => frames.push(bytes.slice()) },
  );
  const sender = system.packet({ ifindex: indexOf("there"), protocol: 0x88b5 }, handlers);
  const send = (bytes: readonly number[]) =>
    sender.send(Uint8Array.from([...macOf("here"), ...macOf("there"), 0x88, 0xb5, ...bytes]));
  for (const bytes of [[1, 8, 1], [2, 9, 2], [1], [], [3, 9, 3], [1, 9, 4]]) send(bytes);
  await until(() => frames.length >= 2, "the two that pass");
  assert.equal(
    frames.map((frame) => frame[16]),
    [3, 4],
  );
  socket.close();
  sender.close();
  for (const wrong of [
    [{ offset: -1, values: [1] }],
    [{ offset: 1, values: [] }],
    [{ offset: 1, values: [256] }],
    Array.from({ length: 40 }, () => ({ offset: 1, values: [1] })),
  ]) {
    assert.throws(
      () => system.packet({ ifindex: indexOf("here"), protocol: 3, only: wrong }, handlers),
      (thrown: Error) => thrown instanceof RangeError,
    );
  }
});

test("rawNow counts milliseconds of a clock that only goes forward", () => {
  const [one, other] = [system.rawNow(), system.rawNow()];
  assert.ok(other >= one && other - one < 60_000);
  const upMs = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1_000;
  assert.ok(one > 0 && one < upMs * 1.1 + 60_000);
});

test.run();
