/** Captures on the real kernel: whose packets are in them, both ways, and when they end. */

import { execFileSync } from "node:child_process";
import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  Capture,
  type CaptureLimits,
  type CaptureOptions,
  findInterfaces,
} from "../../src/capture/capture.ts";
import type { Address, Mac } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { native, until } from "../system/until.ts";
import { camera, type Frame, framesOf, ip, laptop, makeLan, ping, router, system } from "./lan.ts";

test.before(makeLan);

const generous: CaptureLimits = { seconds: 60, bytes: 10_000_000, snapBytes: 65_535 };
const byMac = { macs: [camera.mac], addresses: [camera.address4] };

/** Captures on br-lan; the file is what was written so far. */
async function start(options: Partial<CaptureOptions> = {}, device = "br-lan") {
  const pieces: Uint8Array[] = [];
  const capture = new Capture(system, {
    interfaces: await findInterfaces(system, [device]),
    limits: generous,
    target: () => byMac,
    write: async (piece) => void pieces.push(piece.slice()),
    ...options,
  });
  return { capture, file: () => Buffer.concat(pieces) };
}

const echoes = (frames: readonly Frame[], type: number) =>
  frames.filter(({ bytes }) => bytes[12] === 8 && bytes[13] === 0 && bytes[23] === 1 && bytes[34] === type);

test("a capture by MAC holds what the device sends and is sent, in both families, and nothing of others", async () => {
  const { capture, file } = await start();
  for (const from of [camera, laptop]) {
    ping(from, router.address4);
    ping(from, router.address6);
  }
  await until(() => echoes(framesOf(file()), 0).length === 3, "the echoes");
  ping(laptop, router.address4);
  capture.stop();
  const result = await capture.done;
  const frames = framesOf(file());
  for (const { from, to } of frames) assert.ok(from === camera.mac || to === camera.mac, `${from} to ${to}`);
  assert.is(echoes(frames, 8).length, 3);
  assert.is(echoes(frames, 0).length, 3);
  const v6 = frames.filter(({ bytes }) => bytes[12] === 0x86 && bytes[20] === 58);
  for (const type of [128, 129]) assert.is(v6.filter(({ bytes }) => bytes[54] === type).length, 3, `${type}`);
  assert.equal(result, { packets: frames.length, bytes: file().length, dropped: 0, end: "told" });
  const now = system.date();
  for (const { date } of frames) assert.ok(date <= now && date > now - 60_000);
  const path = join(process.env.TMPDIR!, "camera.pcap");
  writeFileSync(path, file());
  assert.is(statSync(path).size, result.bytes);
  const shown = execFileSync("tcpdump", ["-nn", "-e", "-r", path], { encoding: "utf8", stdio: "pipe" });
  assert.is(shown.trim().split("\n").length, frames.length);
});

test("a capture by address holds what is from or to it, ARP included, and follows the device", async () => {
  let addresses: Address[] = [camera.address4, camera.address6];
  const { capture, file } = await start({ target: () => ({ macs: [], addresses }) });
  ip("neigh flush dev br-lan");
  ip(`-n ${camera.name} neigh flush dev eth0`);
  for (const from of [camera, laptop]) {
    ping(from, router.address4);
    ping(from, router.address6);
  }
  await until(() => echoes(framesOf(file()), 0).length === 3, "the echoes");
  let frames = framesOf(file());
  for (const { from, to } of frames)
    assert.ok(from === camera.mac || to === camera.mac || to.startsWith("ff"));
  assert.ok(frames.some(({ bytes }) => bytes[12] === 8 && bytes[13] === 6));
  assert.is(frames.filter(({ bytes }) => bytes[12] === 0x86 && bytes[54] === 129).length, 3);
  addresses = [laptop.address4];
  await until(() => {
    ping(laptop, router.address4, { count: 1 });
    frames = framesOf(file());
    return frames.some(({ from }) => from === laptop.mac);
  }, "the packets of the other one");
  const before = frames.length;
  ping(camera, router.address6);
  ping(laptop, router.address4);
  await until(() => framesOf(file()).length >= before + 6, "the echoes of the other one");
  for (const { from, to } of framesOf(file()).slice(before))
    assert.ok(from === laptop.mac || to === laptop.mac);
  capture.stop();
  await capture.done;
});

test("a capture stays as it was while nobody knows the device", async () => {
  let isKnown = true;
  const { capture, file } = await start({ target: () => (isKnown ? byMac : undefined) });
  isKnown = false;
  await new Promise((resolve) => system.after(1_200, () => resolve(undefined)));
  ping(camera, router.address4);
  await until(() => echoes(framesOf(file()), 0).length === 3, "the echoes");
  capture.stop();
  await capture.done;
});

test("the file is never longer than asked for, and ends with a whole packet", async () => {
  for (const bytes of [24, 1_024, 4_000]) {
    const { capture, file } = await start({ limits: { ...generous, bytes } });
    for (let round = 0; round < 6; round++) ping(camera, router.address4, { count: 2, size: 400 });
    const result = await capture.done;
    assert.is(result.end, "bytes");
    assert.is(file().length, result.bytes);
    assert.ok(result.bytes <= bytes && result.bytes > bytes - 458);
    assert.is(framesOf(file()).length, result.packets);
  }
});

test("frames are cut to the length asked for, and say how long they were", async () => {
  const { capture, file } = await start({ limits: { ...generous, snapBytes: 64, packets: 4 } });
  ping(camera, router.address4, { size: 1000 });
  const result = await capture.done;
  assert.is(result.end, "packets");
  const frames = framesOf(file());
  assert.is(frames.length, 4);
  for (const { bytes } of frames) assert.ok(bytes.length <= 64);
  assert.ok(frames.some(({ originalBytes }) => originalBytes === 1042));
});

test("a capture ends when its time is over, and is a capture file without a packet, too", async () => {
  const { capture, file } = await start({ limits: { ...generous, seconds: 1 } });
  assert.is((await capture.done).end, "time");
  assert.equal(framesOf(file()).length, capture.counters.packets);
});

test("what a slow reader leaves no room for is dropped and counted", async () => {
  const pieces: Uint8Array[] = [];
  let release = () => {};
  const isFree = new Promise<void>((resolve) => {
    release = resolve;
  });
  const { capture } = await start({
    maxQueuedBytes: 2_000,
    async write(piece) {
      await isFree;
      pieces.push(piece.slice());
    },
  });
  ping(camera, router.address4, { count: 10, size: 400 });
  await until(() => capture.counters.dropped > 0, "a loss");
  release();
  capture.stop();
  const result = await capture.done;
  assert.ok(result.bytes <= 2_000);
  const frames = framesOf(Buffer.concat(pieces));
  assert.is(frames.length, result.packets);
  assert.ok(result.dropped + result.packets >= 20);
});

test("a capture whose file cannot be written ends with the reason", async () => {
  const { capture } = await start({
    write: async () => {
      throw new Fault("storage", "Cannot write: no space left on device (ENOSPC)");
    },
  });
  const { end, fault } = await capture.done;
  assert.is(end, "failed");
  assert.is(fault?.code, "storage");
});

test("a capture ends with its last interface, and what was captured before is written", async () => {
  ip("link add lost address 02:99:00:00:00:01 type veth peer name lost1");
  ip("link set lost up");
  const pieces: Uint8Array[] = [];
  let release = () => {};
  const isFree = new Promise<void>((resolve) => {
    release = resolve;
  });
  const { capture } = await start(
    {
      target: () => ({ macs: ["02:99:00:00:00:01" as Mac], addresses: [] }),
      async write(piece) {
        await isFree;
        pieces.push(piece.slice());
      },
    },
    "lost",
  );
  // With the cable plugged in, the kernel reports its IPv6 groups.
  ip("link set lost1 up");
  await until(() => capture.counters.packets > 0, "the first packet");
  // Somebody else on the interface shows when its end has come through.
  let isGone = false;
  const [lost] = await findInterfaces(system, ["lost"]);
  system.packet(
    { ifindex: lost!.ifindex, protocol: 3 },
    {
      onMessage() {},
      onOverrun() {},
      onClose: () => {
        isGone = true;
      },
    },
  );
  ip("link del lost");
  await until(() => isGone, "the end of the interface");
  release();
  const { end, fault, packets, bytes } = await capture.done;
  assert.is(end, "interfaces");
  assert.instance(fault, Fault);
  const file = Buffer.concat(pieces);
  assert.is(file.length, bytes);
  assert.is(framesOf(file).length, packets);
});

test("packets of an interface without MACs are kept as frames, by address", async () => {
  const name = new Uint8Array(16);
  name.set(new TextEncoder().encode("tun7"));
  const tun = native().tun(name, 0, 0);
  assert.ok(tun > 0);
  ip("link set tun7 up");
  const [found] = await findInterfaces(system, ["tun7"]);
  assert.is(found?.hasMacs, false);
  const { capture, file } = await start(
    { target: () => ({ ...byMac, addresses: ["10.9.9.9" as Address] }) },
    "tun7",
  );
  const packet = (source: number[]) => [
    ...[0x45, 0, 0, 20, 0, 0, 0x40, 0, 64, 254, 0, 0],
    ...source,
    ...[192, 0, 2, 1],
  ];
  for (const source of [
    [10, 9, 9, 8],
    [10, 9, 9, 9],
  ]) {
    const bytes = Uint8Array.from(packet(source));
    const row = new Int32Array(8);
    row[1] = bytes.length;
    assert.is(native().send(tun, bytes, new Uint8Array(128), row, 1), 1);
  }
  await until(() => capture.counters.packets === 1, "the packet");
  capture.stop();
  await capture.done;
  const [frame] = framesOf(file());
  assert.equal([...frame!.bytes], [...new Array(12).fill(0), 8, 0, ...packet([10, 9, 9, 9])]);
  native().close(tun);
});

test("findInterfaces and Capture refuse what is not there", async () => {
  const codeOf = async (call: () => unknown) => {
    try {
      await call();
    } catch (thrown) {
      return (thrown as Fault).code;
    }
    return "no fault";
  };
  assert.is(await codeOf(() => findInterfaces(system, ["nowhere"])), "not-found");
  assert.is(await codeOf(() => findInterfaces(system, [])), "not-found");
  assert.is(await codeOf(() => start({ target: () => undefined })), "not-found");
  const gone = [{ name: "gone", ifindex: 9_999, hasMacs: true }];
  assert.is(await codeOf(() => start({ interfaces: gone })), "not-found");
});

test.run();
