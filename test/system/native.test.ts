/** The addon holds against wrong use: it throws, and neither the process, nor its memory or descriptors suffer. */

import { readdirSync } from "node:fs";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseAddress } from "../../src/lib/address.ts";
import {
  AF,
  decodeInet,
  inetAddress,
  loadNetio,
  type Netio,
  nameLength,
  netlinkAddress,
  netlinkPort,
  packetAddress,
  packetInterface,
  Ready,
  rowLength,
  SOCK,
  unixAddress,
  unixName,
} from "../../src/system/native.ts";
import { native, nativePath, until } from "./until.ts";

const netio = native();
const descriptors = () => readdirSync("/proc/self/fd").length;
const threads = () => readdirSync("/proc/self/task").length;
const open = () => netio.open(AF.unix, SOCK.datagram, 0);

function detached(): Uint8Array {
  const bytes = new Uint8Array(64);
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
  return bytes;
}

/** What each argument is, in order. */
type Kind = "handle" | "number" | "bytes" | "numbers" | "function";
const signatures: Readonly<Record<keyof Netio, readonly Kind[]>> = {
  open: ["number", "number", "number"],
  tun: ["bytes", "number", "number"],
  bind: ["handle", "bytes"],
  connect: ["handle", "bytes"],
  listen: ["handle", "number"],
  accept: ["handle"],
  filter: ["handle", "bytes"],
  group: ["handle", "number", "bytes"],
  clock: ["number"],
  option: ["handle", "number", "number", "number"],
  address: ["handle", "bytes"],
  peer: ["handle", "numbers"],
  peerOf: ["number", "numbers"],
  close: ["handle"],
  receive: ["handle", "bytes", "number", "bytes", "numbers"],
  send: ["handle", "bytes", "bytes", "numbers", "number"],
  errors: ["handle", "bytes", "number", "bytes", "numbers"],
  event: [],
  descriptor: ["handle"],
  adopt: ["number"],
  onReady: ["function"],
  watch: ["handle", "number"],
  wait: ["numbers", "number"],
  checksum: ["bytes", "number", "number", "number"],
  split: ["bytes", "bytes", "bytes", "numbers"],
  join: ["bytes", "bytes", "bytes", "numbers"],
};

const invoke = (verb: keyof Netio, args: readonly unknown[]) =>
  (netio[verb] as (...args: readonly unknown[]) => unknown)(...args);

test("every function refuses every argument of a wrong type", () => {
  assert.equal(Object.keys(netio).sort(), Object.keys(signatures).sort());
  const handle = open();
  const good: Record<Kind, unknown> = {
    handle,
    number: 1,
    bytes: new Uint8Array(nameLength),
    numbers: new Int32Array(rowLength),
    function: () => {},
  };
  const strangers: readonly unknown[] = [
    undefined,
    null,
    true,
    "1",
    1n,
    Symbol("x"),
    {},
    [],
    [1, 2, 3],
    new ArrayBuffer(8),
    new DataView(new ArrayBuffer(8)),
    new Float64Array(8),
    new Uint8ClampedArray(8),
    new Int16Array(8),
    new Proxy(new Uint8Array(8), {}),
  ];
  for (const [verb, kinds] of Object.entries(signatures) as [keyof Netio, readonly Kind[]][]) {
    for (const [index, kind] of kinds.entries()) {
      const wrong = strangers.concat(
        kind === "bytes" ? [1, new Int32Array(8)] : [],
        kind === "numbers" ? [1, new Uint8Array(8), new Uint32Array(8)] : [],
        kind === "number" || kind === "handle" ? [new Uint8Array(8), () => {}] : [],
        kind === "function" ? [1, new Uint8Array(8)] : [],
      );
      for (const value of wrong) {
        const args = kinds.map((each) => good[each]);
        args[index] = value;
        assert.throws(
          () => invoke(verb, args),
          TypeError,
          `${verb} argument ${index}: ${String(typeof value)}`,
        );
      }
    }
    if (kinds.length === 0) continue;
    assert.throws(
      () =>
        invoke(
          verb,
          kinds.slice(1).map((each) => good[each]),
        ),
      TypeError,
      `${verb} with too few`,
    );
  }
  netio.close(handle);
});

test("every function refuses every number out of range, and every handle that is not open", () => {
  const handle = open();
  const closed = open();
  netio.close(closed);
  for (const [verb, kinds] of Object.entries(signatures) as [keyof Netio, readonly Kind[]][]) {
    for (const [index, kind] of kinds.entries()) {
      if (kind !== "number" && kind !== "handle") continue;
      const wrong =
        kind === "handle"
          ? [
              0,
              1,
              2,
              closed,
              -1,
              1.5,
              Number.NaN,
              Number.POSITIVE_INFINITY,
              2 ** 31,
              2 ** 53,
              handle + 1,
              handle + 4096,
            ]
          : [
              -(2 ** 31) - 1,
              1.5,
              Number.NaN,
              Number.POSITIVE_INFINITY,
              Number.NEGATIVE_INFINITY,
              2 ** 53,
              1e300,
            ];
      for (const value of wrong) {
        const args = kinds.map((each) =>
          each === "handle"
            ? handle
            : each === "number"
              ? 1
              : each === "bytes"
                ? new Uint8Array(nameLength)
                : new Int32Array(rowLength),
        );
        args[index] = value;
        assert.throws(() => invoke(verb, args), RangeError, `${verb} argument ${index}: ${value}`);
      }
    }
  }
  netio.close(handle);
});

test("buffers that are too short, detached or pointed past are refused", () => {
  const handle = open();
  const names = new Uint8Array(nameLength);
  const rows = new Int32Array(rowLength);
  const arena = new Uint8Array(100);
  const gone = detached();
  const refused: readonly (readonly [string, () => unknown])[] = [
    ["receive into nothing", () => netio.receive(handle, new Uint8Array(0), 1, names, rows)],
    ["receive into a detached buffer", () => netio.receive(handle, gone, 1, names, rows)],
    ["receive, stride above the arena", () => netio.receive(handle, arena, 101, names, rows)],
    ["receive, stride 0", () => netio.receive(handle, arena, 0, names, rows)],
    ["receive, names too short", () => netio.receive(handle, arena, 100, names.subarray(1), rows)],
    ["receive, rows too short", () => netio.receive(handle, arena, 100, names, rows.subarray(1))],
    ["send more than rows", () => netio.send(handle, arena, names, rows, 2)],
    ["send none", () => netio.send(handle, arena, names, rows, 0)],
    ["send too many", () => netio.send(handle, arena, names, new Int32Array(rowLength * 65), 65)],
    [
      "send, offset below",
      () => netio.send(handle, arena, names, Int32Array.from([-1, 1, 0, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, offset past",
      () => netio.send(handle, arena, names, Int32Array.from([101, 0, 0, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, length below",
      () => netio.send(handle, arena, names, Int32Array.from([0, -1, 0, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, length past",
      () => netio.send(handle, arena, names, Int32Array.from([50, 51, 0, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, both huge",
      () =>
        netio.send(handle, arena, names, Int32Array.from([2 ** 31 - 1, 2 ** 31 - 1, 0, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, segment below",
      () => netio.send(handle, arena, names, Int32Array.from([0, 1, -1, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, segment huge",
      () => netio.send(handle, arena, names, Int32Array.from([0, 1, 65536, 0, 0, 0, 0, 0]), 1),
    ],
    [
      "send, name too long",
      () => netio.send(handle, arena, names, Int32Array.from([0, 1, 0, 0, 129, 0, 0, 0]), 1),
    ],
    [
      "send, name below",
      () => netio.send(handle, arena, names, Int32Array.from([0, 1, 0, 0, -1, 0, 0, 0]), 1),
    ],
    [
      "send, name past the names",
      () => netio.send(handle, arena, names.subarray(1), Int32Array.from([0, 1, 0, 0, 10, 0, 0, 0]), 1),
    ],
    [
      "send from a detached buffer",
      () => netio.send(handle, gone, names, Int32Array.from([0, 1, 0, 0, 0, 0, 0, 0]), 1),
    ],
    ["errors, stride above the arena", () => netio.errors(handle, arena, 101, names, rows)],
    ["errors, names too short", () => netio.errors(handle, arena, 100, names.subarray(1), rows)],
    ["errors, rows too short", () => netio.errors(handle, arena, 100, names, rows.subarray(1))],
    ["errors into a detached buffer", () => netio.errors(handle, gone, 1, names, rows)],
    ["address, short", () => netio.address(handle, names.subarray(1))],
    ["address, detached", () => netio.address(handle, gone)],
    ["bind, empty", () => netio.bind(handle, new Uint8Array(0))],
    ["bind, one byte", () => netio.bind(handle, new Uint8Array(1))],
    ["bind, too long", () => netio.bind(handle, new Uint8Array(129))],
    ["bind, detached", () => netio.bind(handle, gone)],
    ["peer, short", () => netio.peer(handle, new Int32Array(2))],
    ["peerOf, short", () => netio.peerOf(0, new Int32Array(2))],
    ["wait for none", () => netio.wait(new Int32Array(2), 0)],
    ["wait for too many", () => netio.wait(new Int32Array(65 * 3), 0)],
    ["wait for a stranger", () => netio.wait(Int32Array.from([handle, 1, 0, 1, 1, 0]), 0)],
    ["wait for a negative handle", () => netio.wait(Int32Array.from([-1, 1, 0]), 0)],
    ["tun, short name", () => netio.tun(new Uint8Array(15), 0, 0)],
    ["open, a family that is not ours", () => netio.open(15, SOCK.raw, 0)],
    ["checksum past", () => netio.checksum(arena, 90, 11, 0)],
    ["checksum of a detached buffer", () => netio.checksum(gone, 0, 1, 0)],
  ];
  for (const [name, call] of refused) assert.throws(call, RangeError, name);
  netio.close(handle);
});

test("what the kernel refuses is a negative errno", () => {
  const handle = open();
  assert.is(netio.listen(handle, 1), -95);
  assert.is(netio.accept(handle), -95);
  assert.is(
    netio.receive(handle, new Uint8Array(10), 10, new Uint8Array(nameLength), new Int32Array(8)),
    -11,
  );
  assert.is(
    netio.send(handle, new Uint8Array(1), new Uint8Array(0), Int32Array.from([0, 1, 0, 0, 0, 0, 0, 0]), 1),
    -107,
  );
  assert.is(netio.connect(handle, unixAddress("/run/nowhere")), -2);
  assert.is(netio.option(handle, 1, 65535, 1), -92);
  assert.is(netio.peerOf(123_456, new Int32Array(3)), -9);
  assert.is(netio.peerOf(0, new Int32Array(3)), -88);
  assert.is(netio.open(AF.netlink, SOCK.raw, 31), -93);
  assert.is(netio.adopt(123_456), -9);
  assert.is(netio.errors(handle, new Uint8Array(10), 10, new Uint8Array(nameLength), new Int32Array(8)), -11);
  netio.close(handle);
});

test("thousands of random calls leave the process alive, with its descriptors", () => {
  const before = descriptors();
  const opened: number[] = [];
  const reopen = () => {
    closeAll(opened);
    for (const type of [SOCK.stream, SOCK.datagram, SOCK.seqpacket])
      opened.push(netio.open(AF.unix, type, 0));
    opened.push(netio.open(AF.netlink, SOCK.raw, 0), netio.open(AF.inet, SOCK.datagram, 0));
  };
  reopen();
  /** A handle that is open when the call is made. */
  class Open {
    readonly pick: number;
    constructor(pick: number) {
      this.pick = pick;
    }
  }
  const small = { weight: 8, arbitrary: fc.integer({ min: 0, max: 17 }) };
  const value: Record<Kind, fc.Arbitrary<unknown>> = {
    handle: fc.oneof(
      { weight: 12, arbitrary: fc.nat(1000).map((pick) => new Open(pick)) },
      fc.integer(),
      fc.double(),
    ),
    number: fc.oneof(small, fc.integer({ min: -2, max: 300 }), fc.integer(), fc.double()),
    bytes: fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(70_000).map((length) => new Uint8Array(length)),
      fc.constant(0).map(() => detached()),
      fc.constantFrom(unixAddress("@random"), unixAddress(""), netlinkAddress(0), packetAddress(1, 3)),
      fc.nat(500).map((length) => new Uint8Array(new SharedArrayBuffer(length))),
    ),
    numbers: fc.oneof(
      fc.int32Array({ maxLength: 40 }),
      fc.array(fc.integer({ min: -1, max: 300 }), { maxLength: 40 }).map((all) => Int32Array.from(all)),
    ),
    function: fc.constant(() => {}),
  };
  const calls = (Object.entries(signatures) as [keyof Netio, readonly Kind[]][]).filter(
    // The callback of one is for good; the other takes whatever descriptor of the process a number means.
    ([verb]) => verb !== "onReady" && verb !== "adopt",
  );
  const any = fc.oneof(
    ...calls.map(([verb, kinds]) =>
      fc.tuple(fc.constant(verb), fc.tuple(...kinds.map((kind) => value[kind]))),
    ),
  );
  let refusals = 0;
  let answers = 0;
  for (const [verb, args] of fc.sample(any, 6000)) {
    const given = args.map((each) =>
      each instanceof Open ? (opened[each.pick % opened.length] ?? 0) : each,
    );
    // A wait may be as long as its argument says.
    if (verb === "wait") given[1] = 0;
    try {
      const answer = invoke(verb, given) as number;
      assert.type(answer, "number");
      answers++;
      if (["open", "tun", "accept", "event"].includes(verb) && answer >= 0) opened.push(answer);
    } catch (error) {
      assert.ok(error instanceof TypeError || error instanceof RangeError, String(error));
      refusals++;
    }
    if (opened.length > 30) reopen();
  }
  closeAll(opened);
  assert.ok(refusals > 1000 && answers > 300, `${refusals} refusals, ${answers} answers`);
  // The epoll and eventfd of readiness may have come.
  assert.ok(descriptors() <= before + 2);
});

function closeAll(handles: number[]): void {
  for (const handle of handles.splice(0)) {
    try {
      netio.close(handle);
    } catch (error) {
      // Closed by a random call.
      assert.instance(error, RangeError);
    }
  }
}

test("handles are not given again soon, and the table has an end", () => {
  const before = descriptors();
  const first = open();
  netio.close(first);
  const second = open();
  assert.is.not(first, second);
  assert.throws(() => netio.close(first), RangeError);
  netio.close(second);
  const all: number[] = [];
  for (;;) {
    const handle = open();
    if (handle < 0) {
      assert.is(handle, -24);
      break;
    }
    all.push(handle);
  }
  assert.ok(all.length >= 500 && all.length <= 4096, `${all.length} at once`);
  assert.is(new Set(all).size, all.length);
  for (const handle of all) netio.close(handle);
  assert.is(descriptors(), before);
});

test("readiness comes once per watch; a closed descriptor is silent; one is told while another is not", async () => {
  const worker = await inWorker(`
    const ready = [];
    netio.onReady((handle) => ready.push(handle));
    const address = (text) => Uint8Array.from([1, 0, 0, ...Buffer.from(text)]);
    const a = netio.open(1, 2, 0), b = netio.open(1, 2, 0), c = netio.open(1, 2, 0);
    netio.bind(a, address("a")); netio.bind(b, address("b"));
    const none = new Uint8Array(0);
    const send = (to) => { const names = new Uint8Array(128); names.set(address(to));
      return netio.send(c, Uint8Array.from([7]), names, Int32Array.from([0, 1, 0, 0, 4, 0, 0, 0]), 1); };
    const take = (from) => netio.receive(from, new Uint8Array(10), 10, new Uint8Array(128), new Int32Array(8));
    const pause = () => new Promise((resolve) => setTimeout(resolve, 20));
    const seen = async (count) => { while (ready.length < count) await pause(); };
    netio.watch(a, 1); netio.watch(b, 1);
    send("a"); await seen(1);
    send("a"); await pause(); const once = ready.length;
    netio.watch(a, 1); await seen(2);
    take(a); take(a);
    netio.watch(a, 1); send("a"); netio.close(a);
    send("b"); await seen(3);
    return { once, ready: ready.map((each) => (each === a ? "a" : each === b ? "b" : "?")), empty: take(b) };
  `);
  // What was on its way when "a" closed may still come; its handle is dead then.
  assert.is(worker.once, 1);
  assert.equal(
    (worker.ready as string[]).filter((each, index) => each === "b" || index < 2),
    ["a", "a", "b"],
  );
});

/** Runs a text in a worker that has its own addon; answers what it returns, once the worker has ended. */
function inWorker(text: string): Promise<Record<string, unknown>> {
  const code = `
    const { parentPort, workerData } = require("node:worker_threads");
    const module_ = { exports: {} };
    process.dlopen(module_, workerData);
    const netio = module_.exports;
    (async () => { ${text} })().then((value) => { parentPort.postMessage(value); process.exit(0); });
  `;
  return new Promise((resolve, reject) => {
    const worker = new Worker(code, { eval: true, workerData: nativePath });
    let answer: Record<string, unknown> = {};
    worker.on("message", (value) => {
      answer = value;
    });
    worker.on("error", reject);
    // Not before it has gone: what it held counts until then.
    worker.on("exit", () => resolve(answer));
  });
}

test("workers that end, in order or not, leave no descriptor and no thread", async () => {
  const rest = async () => {
    await new Promise((resolve) => setTimeout(resolve, 30));
    return [descriptors(), threads()];
  };
  const run = (text: string) => inWorker(text);
  await run("return {}");
  const [fds] = await rest();
  const baseThreads = threads();
  const watching = `
    netio.onReady(() => {});
    for (let index = 0; index < 10; index++) {
      const handle = netio.open(16, 3, 0);
      netio.watch(handle, 1);
    }
    netio.wait(Int32Array.from([netio.open(1, 2, 0), 1, 0]), 0);
    return { done: true };
  `;
  for (let round = 0; round < 5; round++) await Promise.all([run(watching), run(watching)]);
  const killed = new Worker(
    `const m = { exports: {} }; process.dlopen(m, require("node:worker_threads").workerData);
     m.exports.onReady(() => {});
     const handle = m.exports.open(1, 2, 0);
     m.exports.watch(handle, 4);
     require("node:worker_threads").parentPort.postMessage(0);`,
    { eval: true, workerData: nativePath },
  );
  await new Promise((resolve) => killed.on("message", resolve));
  await killed.terminate();
  await until(async () => {
    const [nowFds, nowThreads] = await rest();
    return nowFds! <= fds! && nowThreads! <= baseThreads;
  }, "descriptors and threads of ended workers are gone");
});

test("wait blocks until ready or late, and says what came", () => {
  const [near, far] = [open(), open()];
  const name = unixAddress("@waiting");
  netio.bind(near, name);
  netio.connect(far, name);
  const rows = Int32Array.from([near, Ready.in, 0, far, Ready.out, 0]);
  assert.is(netio.wait(rows, 0), 1);
  assert.equal([rows[2], rows[5]], [0, Ready.out]);
  netio.send(far, new Uint8Array(1), new Uint8Array(0), Int32Array.from([0, 1, 0, 0, 0, 0, 0, 0]), 1);
  assert.is(netio.wait(rows, -1), 2);
  assert.equal([rows[2], rows[5]], [Ready.in, Ready.out]);
  netio.close(near);
  netio.close(far);
});

test("a batch keeps its messages apart, with their senders", () => {
  const [near, far] = [open(), open()];
  netio.bind(near, unixAddress("@batch"));
  netio.bind(far, unixAddress("@sender"));
  netio.connect(far, unixAddress("@batch"));
  const arena = Uint8Array.from({ length: 64 }, (_, index) => index);
  const rows = new Int32Array(10 * rowLength);
  for (let index = 0; index < 10; index++) rows.set([index * 3, index, 0, 0, 0], index * rowLength);
  assert.is(netio.send(far, arena, new Uint8Array(0), rows, 10), 10);
  const into = new Uint8Array(10 * 6).fill(255);
  const names = new Uint8Array(10 * nameLength);
  const got = new Int32Array(10 * rowLength);
  assert.is(netio.receive(near, into, 6, names, got), 10);
  for (let index = 0; index < 10; index++) {
    const row = got.subarray(index * rowLength);
    const length = Math.min(index, 6);
    assert.is(row[0], index * 6);
    assert.is(row[1], length);
    assert.is(row[3]! & 0x20, index > 6 ? 0x20 : 0);
    const at = index * nameLength;
    assert.is(unixName(names.subarray(at, at + row[4]!)), "@sender");
    assert.equal(into.subarray(index * 6, index * 6 + length), arena.subarray(index * 3, index * 3 + length));
    assert.ok(into.subarray(index * 6 + length, index * 6 + 6).every((byte) => byte === 255));
  }
  netio.close(near);
  netio.close(far);
});

test("socket names: every text and every byte string has a form and comes back", () => {
  const rows = [
    "@tas_socket",
    `@tas_socket${"\0".repeat(97)}`,
    "/run/a",
    `/${"a".repeat(106)}`,
    "@",
    "@\u00e9\u4e00",
  ];
  for (const name of rows) assert.is(unixName(unixAddress(name)) ?? "", name === "@" ? "@" : name);
  assert.is(unixAddress(`@tas_socket${"\0".repeat(97)}`).length, 110);
  assert.is(unixAddress("").length, 2);
  assert.is(unixName(unixAddress("")), undefined);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 107 }), (bytes) => {
      const address = Uint8Array.from([AF.unix, 0, 0, ...bytes]);
      assert.equal(unixAddress(unixName(address)!), address);
    }),
  );
  for (const name of [`@${"x".repeat(108)}`, `/${"x".repeat(107)}`, "/a\0b"]) {
    assert.throws(() => unixAddress(name), /Cannot use socket name/);
  }
});

test("addresses of netlink, packet and internet sockets come back", () => {
  assert.is(netlinkPort(netlinkAddress(0xfedcba98)), 0xfedcba98);
  assert.is(packetInterface(packetAddress(7, 0x0806)), 7);
  for (const text of ["192.0.2.7", "2001:db8::9"]) {
    const address = parseAddress(text)!;
    assert.equal(decodeInet(inetAddress(address, 1045)), { address, port: 1045 });
  }
  assert.is(decodeInet(netlinkAddress(1)), undefined);
});

test("a file that is no addon is a fault, not a crash", () => {
  assert.throws(() => loadNetio("/nowhere/netio.node"), /Cannot load/);
  assert.throws(() => loadNetio("/bin/sh"), /Cannot load/);
});

test.run();
