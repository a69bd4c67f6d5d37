/**
 * Threads with queues on the real machine. The threads run this very bundle: see the end.
 */

import { execFileSync, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { readdirSync } from "node:fs";
import { isMainThread } from "node:worker_threads";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import {
  ErrorRow,
  nameLength,
  Ready,
  Row,
  rowLength,
  Trouble,
  type WorkerMachine,
} from "../../src/system/packets.ts";
import type { WorkerThread } from "../../src/system/system.ts";
import { runWorker } from "../../src/system/workers.ts";
import { nativePath, until } from "./until.ts";

const system = openLinux({ nativePath, program: process.argv[1]!, log: () => {} });
const loop = "127.0.0.1" as Address;
const isFault = (thrown: unknown) => thrown instanceof Fault;
const descriptors = () => readdirSync("/proc/self/fd").length;
const threads = () => readdirSync("/proc/self/task").length;

/** Says back what it hears, and what a wait ended with. */
function parrot(machine: WorkerMachine): void {
  machine.post({ data: machine.data, queues: machine.queues });
  const rows = new Int32Array((machine.queues + 1) * 3);
  while (!machine.ending) {
    machine.wait(rows, -1);
    for (let message = machine.take(); message !== undefined; message = machine.take()) {
      if (message === "throw") throw new Error("Cannot go on: told to throw");
      if (message === "leave") return;
      if (message === "spin") for (;;);
      machine.post({ heard: message, now: machine.now() });
    }
  }
}

/** Sends datagrams back to where they came from, and tells errors. */
function mirror(machine: WorkerMachine): void {
  const stride = 70_000;
  const arena = new Uint8Array(4 * stride);
  const names = new Uint8Array(4 * nameLength);
  const rows = new Int32Array(4 * rowLength);
  const ready = Int32Array.of(0, Ready.in, 0, 0, 0, 0);
  machine.post("ready");
  while (!machine.ending) {
    machine.wait(ready, 5_000);
    const count = machine.receive(0, arena, stride, names, rows);
    if (count > 0) {
      const segments = Array.from({ length: count }, (_, index) => rows[index * rowLength + Row.segment]);
      const lengths = Array.from({ length: count }, (_, index) => rows[index * rowLength + Row.length]);
      machine.post({ count, lengths, segments });
      // Asked by a sender who will have left: the answer waits for a word of the owner.
      if (arena[0] === "w".charCodeAt(0))
        while (machine.take() === undefined) machine.wait(ready.fill(0, 1, 2), 5_000);
      ready[1] = Ready.in;
      machine.send(0, arena, names, rows, count);
    } else if (count !== Trouble.again) {
      const errors = machine.errors(0, arena, stride, names, rows);
      const port = (names[2]! << 8) | names[3]!;
      machine.post({
        trouble: count,
        errors,
        port,
        origin: rows[ErrorRow.origin],
        type: rows[ErrorRow.icmpType],
        code: rows[ErrorRow.icmpCode],
        length: rows[ErrorRow.length],
      });
    }
  }
}

interface Started {
  readonly thread: WorkerThread;
  readonly said: unknown[];
  /** undefined: not yet; null: it ended as asked. */
  end: Fault | null | undefined;
}

function start(
  program: string,
  data: unknown = undefined,
  queues: Parameters<typeof system.worker>[0]["queues"] = [],
): Started {
  const said: unknown[] = [];
  const started = { said, end: undefined } as { -readonly [Key in keyof Started]: Started[Key] };
  started.thread = system.worker(
    { program, data, queues },
    {
      onMessage: (message) => said.push(message),
      onEnd: (fault) => {
        started.end = fault ?? null;
      },
    },
  );
  return started;
}

test("a thread gets its data, hears messages while it blocks, answers, and ends when asked", async () => {
  const before = [descriptors(), threads()];
  const shared = new SharedArrayBuffer(8);
  const one = start("parrot", { text: "hello", shared });
  await until(() => one.said.length > 0, "its first word");
  assert.equal((one.said[0] as { queues: number }).queues, 0);
  assert.is((one.said[0] as { data: { text: string } }).data.text, "hello");
  for (let index = 0; index < 500; index++) one.thread.post(index);
  await until(() => one.said.length === 501, "an answer to each");
  assert.equal(
    one.said.slice(1).map((each) => (each as { heard: number }).heard),
    Array.from({ length: 500 }, (_, index) => index),
  );
  // Its clock is ours.
  assert.ok(Math.abs((one.said[500] as { now: number }).now - system.now()) < 60_000);
  await one.thread.close();
  assert.is(one.end, null);
  await one.thread.close();
  one.thread.post("too late");
  await until(() => threads() <= before[1]! + 1, "its thread gone");
  assert.ok(descriptors() <= before[0]! + 3, "its descriptors closed");
});

test("a thread that throws, leaves or is none of ours ends with a fault, once", async () => {
  for (const [program, message, words] of [
    ["parrot", "throw", /told to throw/],
    ["parrot", "leave", /ended by itself/],
    ["nobody", "", /no such program/],
    ["toString", "", /no such program/],
  ] as const) {
    const one = start(program);
    if (message !== "") one.thread.post(message);
    await until(() => one.end !== undefined, `the end of ${program} ${message}`);
    assert.instance(one.end, Fault);
    assert.match(one.end!.message, words);
    await one.thread.close();
  }
});

test("a thread that does not listen is ended all the same", async () => {
  const one = start("parrot");
  await until(() => one.said.length > 0, "its first word");
  one.thread.post("spin");
  await one.thread.close();
  assert.is(one.end, null);
});

test("a process that exits does not wait for a thread that blocks", async () => {
  const child = spawn(process.execPath, [process.argv[1]!, "--exits"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const status = await new Promise((resolve) => child.on("exit", resolve));
  assert.is(status, 3);
});

test("a gateway's socket sends back from its port, has many packets to a message, and outlives its thread", async () => {
  const queue = system.queue({ kind: "gateway", address: loop, port: 0 });
  assert.ok(queue.port > 0);
  const near = createSocket("udp4");
  const got: Buffer[] = [];
  near.on("message", (bytes, from) => {
    assert.is(from.port, queue.port);
    got.push(bytes);
  });
  await new Promise<void>((resolve) => near.bind(0, loop, resolve));
  const first = start("mirror", undefined, [queue]);
  await until(() => first.said.length > 0, "its word");
  near.send("one", queue.port, loop);
  await until(() => got.length === 1, "the first answer");
  first.thread.post("wake up and see that nothing is there");
  await first.thread.close();
  // While nobody reads, packets wait.
  near.send("two", queue.port, loop);
  const second = start("mirror", undefined, [queue]);
  await until(() => got.length === 2, "the second answer");
  assert.equal(got.map(String), ["one", "two"]);
  await second.thread.close();
  assert.throws(
    () => system.queue({ kind: "gateway", address: loop, port: queue.port }),
    (thrown: unknown) => {
      return thrown instanceof Fault && thrown.code === "conflict";
    },
  );
  queue.close();
  near.close();
  assert.throws(() => queue.descriptor, TypeError);
  system.queue({ kind: "gateway", address: loop, port: queue.port }).close();
});

test("a message to nobody comes back as an error with its beginning, v4 and v6", async () => {
  for (const [address, origin, type, code] of [
    [loop, 2, 3, 3],
    ["::1" as Address, 3, 1, 4],
  ] as const) {
    const queue = system.queue({ kind: "gateway", address, port: 0 });
    const one = start("mirror", undefined, [queue]);
    await until(() => one.said.length > 0, "its word");
    const near = createSocket(address === loop ? "udp4" : "udp6");
    await new Promise<void>((resolve) => near.bind(0, address, resolve));
    const { port } = near.address();
    near.send("who are you", queue.port, address);
    await until(() => one.said.length > 1, "the message");
    await new Promise<void>((resolve) => near.close(resolve));
    one.thread.post("now");
    await until(() => one.said.some((each) => (each as { errors?: number }).errors === 1), "an error");
    const told = one.said.find((each) => (each as { errors?: number }).errors === 1);
    assert.equal(told, {
      trouble: Trouble.unreachable,
      errors: 1,
      port,
      origin,
      type,
      code,
      length: "who are you".length,
    });
    await one.thread.close();
    queue.close();
  }
});

test("a TUN is opened by name, is gone when its last descriptor is, and bad names are refused", async () => {
  const links = () => execFileSync("ip", ["-br", "link"], { encoding: "utf8" });
  const queue = system.queue({ kind: "tun", name: "ghtest%d" });
  assert.is(queue.name, "ghtest0");
  const plain = system.queue({ kind: "tun", name: "ghplain", offload: false });
  assert.not(plain.joinsUdp);
  const one = start("mirror", undefined, [queue]);
  await until(() => one.said.length > 0, "its word");
  assert.match(links(), /ghtest0/);
  assert.throws(() => system.queue({ kind: "tun", name: "ghtest0" }), isFault);
  await one.thread.close();
  assert.match(links(), /ghtest0/);
  queue.close();
  plain.close();
  assert.not.match(links(), /ghtest0|ghplain/);
  for (const name of ["", "a name much too long", "x".repeat(16), "a/b"]) {
    assert.throws(() => system.queue({ kind: "tun", name }), isFault, name);
  }
});

test("without a file to run there are no threads", () => {
  const bare = openLinux({ nativePath, log: () => {} });
  assert.throws(
    () => bare.worker({ program: "parrot", data: undefined, queues: [] }, { onMessage() {}, onEnd() {} }),
    (thrown: unknown) => thrown instanceof Fault && thrown.code === "unsupported",
  );
});

if (!isMainThread) runWorker({ parrot, mirror });
else if (process.argv.includes("--exits")) {
  system.worker(
    { program: "parrot", data: undefined, queues: [] },
    { onMessage: () => setTimeout(() => process.exit(3), 100), onEnd() {} },
  );
} else test.run();
