/** Captures into files as the bus asks for them: names, bounds, room, and what is refused. */

import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Captures, type CapturesOptions, captureMethods } from "../../src/capture/capture.ts";
import type { Fault } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { until } from "../system/until.ts";
import { camera, framesOf, ip, laptop, makeLan, ping, router, system } from "./lan.ts";

const directory = join(process.env.TMPDIR!, "captures");

test.before(makeLan);
test.before.each(() => {
  rmSync(directory, { recursive: true, force: true });
  for (const number of Object.keys(ends)) delete ends[Number(number)];
  Object.assign(ends, {
    1: { id: 1, macs: [camera.mac], addresses: [camera.address4] },
    2: { id: 2, macs: [laptop.mac], addresses: [laptop.address4] },
    3: { id: 3, macs: [], addresses: [router.address4] },
    4: { id: 4, macs: [], addresses: [] },
  });
});

type End = NonNullable<ReturnType<CapturesOptions["end"]>>;
const ends: Record<number, End> = {};

function open(options: Partial<CapturesOptions> = {}) {
  const captures = new Captures(system, {
    ...{ directory, interfaces: ["br-lan"], end: (id) => ends[id] },
    ...options,
  });
  const methods = captureMethods(captures);
  const caller = { user: "root", group: "root" };
  const call = async (name: string, args: Record<string, Json> = {}) =>
    (await methods[name]!.call(args, caller)) as JsonObject;
  const codeOf = async (name: string, args: Record<string, Json>) => {
    try {
      await call(name, args);
    } catch (thrown) {
      return (thrown as Fault).code;
    }
    return "no fault";
  };
  return { captures, call, codeOf };
}

const files = () => readdirSync(directory).sort();

test("start, status and stop: a file of the owner's alone with the device's packets", async () => {
  const { captures, call, codeOf } = open();
  const started = await call("start", { node: 1 });
  assert.equal(started, { id: 1, file: `${directory}/capture-1-1.pcap` });
  assert.is(statSync(started.file as string).mode & 0o7777, 0o600);
  ping(camera, router.address4);
  ping(laptop, router.address4);
  const running = async () => ((await call("status")).captures as JsonObject[])[0]!;
  await until(async () => ((await running()).packets as number) >= 6, "the echoes");
  const { started: startedAt, ...shown } = await running();
  assert.ok(Math.abs((startedAt as number) - system.date() / 1000) < 60);
  assert.equal(Object.keys(shown), ["id", "node", "file", "running", "packets", "bytes", "dropped"]);
  assert.is(shown.running, true);
  const stopped = await call("stop", { node: 1 });
  assert.equal([stopped.running, stopped.end, stopped.dropped], [false, "told", 0]);
  const content = readFileSync(started.file as string);
  assert.is(content.length, stopped.bytes);
  const frames = framesOf(content);
  assert.is(frames.length, stopped.packets);
  assert.ok(frames.every(({ from, to }) => from === camera.mac || to === camera.mac));
  assert.is(await codeOf("stop", { node: 1 }), "not-found");
  assert.equal(await running(), stopped);
  await captures.close();
});

test("a node is captured once at a time, under whichever id, and only a few are", async () => {
  const { captures, call, codeOf } = open({ maxRunning: 2 });
  // Both wait for their turn: the second finds the first.
  const [first, second] = await Promise.allSettled([call("start", { node: 1 }), call("start", { node: 1 })]);
  assert.is(first.status, "fulfilled");
  assert.is(second.status === "rejected" && (second.reason as Fault).code, "conflict");
  ends[9] = { ...ends[2]!, id: 9 };
  // Node 1 has become part of node 9.
  ends[1] = ends[9];
  assert.is(await codeOf("start", { node: 9 }), "conflict");
  await call("start", { node: 3 });
  assert.is(await codeOf("start", { node: 2 }), "limit");
  assert.equal(
    captures.list().map(({ node }) => node),
    [9, 3],
  );
  assert.is((await call("stop", { node: 9 })).node, 9);
  await call("start", { node: 2 });
  await captures.close();
  assert.ok(captures.list().every(({ end }) => end === "told"));
  assert.is(await codeOf("start", { node: 1 }), "closed");
});

test("what is asked for must make sense", async () => {
  const { captures, codeOf } = open();
  for (const [args, code] of [
    [{}, "invalid"],
    [{ node: 1.5 }, "invalid"],
    [{ node: 5 }, "not-found"],
    [{ node: 4 }, "invalid"],
    [{ node: 1, seconds: 0 }, "invalid"],
    [{ node: 1, seconds: 3_601 }, "invalid"],
    [{ node: 1, bytes: 1_023 }, "invalid"],
    [{ node: 1, bytes: 8 * 1024 * 1024 + 1 }, "invalid"],
    [{ node: 1, snaplen: 63 }, "invalid"],
    [{ node: 1, snaplen: 262_145 }, "invalid"],
  ] as const) {
    assert.is(await codeOf("start", args), code, JSON.stringify(args));
  }
  assert.is(await codeOf("stop", {}), "invalid");
  assert.is(await open({ interfaces: ["nowhere"] }).codeOf("start", { node: 1 }), "not-found");
  assert.equal(captures.list(), []);
  await captures.close();
});

test("seconds, bytes and snaplen are kept to", async () => {
  const { captures, call } = open();
  const { file } = await call("start", { node: 1, bytes: 2_000, snaplen: 100 });
  for (let round = 0; round < 5; round++) ping(camera, router.address4, { count: 3, size: 500 });
  await until(() => captures.list()[0]!.end === "bytes", "the end of the file");
  const content = readFileSync(file as string);
  assert.ok(content.length <= 2_000);
  assert.ok(framesOf(content).every(({ bytes }) => bytes.length <= 100));
  await call("start", { node: 1, seconds: 1 });
  await until(() => captures.list()[1]!.end === "time", "the end of the time");
  await captures.close();
});

test("the oldest files make room, those of an earlier life first; what runs and what is not ours stays", async () => {
  mkdirSync(directory);
  for (const name of ["capture-7-40.pcap", "capture-7-41.pcap", "notes.txt", "capture-x-1.pcap"]) {
    writeFileSync(join(directory, name), "old");
  }
  const { captures, call, codeOf } = open({ maxFiles: 3 });
  assert.equal(await call("start", { node: 1 }), { id: 42, file: `${directory}/capture-1-42.pcap` });
  assert.equal((await call("start", { node: 2 })).id, 43);
  assert.equal(files(), [
    "capture-1-42.pcap",
    "capture-2-43.pcap",
    "capture-7-41.pcap",
    "capture-x-1.pcap",
    "notes.txt",
  ]);
  await call("start", { node: 3 });
  await call("stop", { node: 2 });
  await call("start", { node: 2 });
  assert.equal(files().slice(0, 3), ["capture-1-42.pcap", "capture-2-45.pcap", "capture-3-44.pcap"]);
  assert.equal(
    captures.list().map(({ id }) => id),
    [42, 44, 45],
  );
  ends[5] = { ...ends[1]!, id: 5 };
  assert.is(await codeOf("start", { node: 5 }), "limit");
  await captures.close();
});

test("all files together stay within their bytes, those that still grow counted as full", async () => {
  const { captures, call, codeOf } = open({ maxBytes: 10_000 });
  await call("start", { node: 1, bytes: 6_000 });
  assert.is(await codeOf("start", { node: 2, bytes: 6_000 }), "limit");
  await call("stop", { node: 1 });
  // Now it counts as long as it is.
  await call("start", { node: 2, bytes: 6_000 });
  assert.is(files().length, 2);
  await captures.close();
});

test("a file removed by somebody else is forgotten, and a link in our way is not followed", async () => {
  const { captures, call, codeOf } = open();
  const { file } = await call("start", { node: 1 });
  await call("stop", { node: 1 });
  rmSync(file as string);
  const victim = join(process.env.TMPDIR!, "victim");
  // A name that is ours, but leads elsewhere.
  symlinkSync(victim, join(directory, "capture-2-2.pcap"));
  const next = await call("start", { node: 2 });
  assert.is(next.id, 3);
  assert.equal(
    captures.list().map(({ id }) => id),
    [3],
  );
  await captures.close();
  rmSync(directory, { recursive: true });
  writeFileSync(directory, "no directory");
  assert.is(await codeOf("start", { node: 1 }), "closed");
  assert.is(await open().codeOf("start", { node: 1 }), "storage");
});

test("a capture whose interface goes says so", async () => {
  ip("link add lost type veth peer name lost1");
  ip("link set lost up");
  const { captures, call } = open({ interfaces: ["lost"] });
  await call("start", { node: 1 });
  ip("link del lost");
  await until(() => captures.list()[0]!.end === "interfaces", "the end");
  const [shown] = (await call("status")).captures as JsonObject[];
  assert.type(shown!.fault, "string");
  await captures.close();
});

test.run();
