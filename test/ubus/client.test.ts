/** The client against a bus that the test plays, with a clock moved by hand. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault, type FaultCode } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { BlobType, decodeFields, encodeFields, type Field, fieldsOf, jsonOf } from "../../src/ubus/blob.ts";
import { connectUbus, type Ubus, type UbusOptions } from "../../src/ubus/client.ts";
import { type Attributes, MessageType, type Received } from "../../src/ubus/message.ts";
import type { Method, Methods } from "../../src/ubus/methods.ts";
import { Memory, type Peer, settle } from "./memory.ts";

interface Stage {
  readonly memory: Memory;
  readonly ubus: Ubus;
  readonly peer: Peer;
}

/** A client that is connected. */
async function open(options: Partial<UbusOptions> = {}): Promise<Stage> {
  const memory = new Memory();
  const ubus = connectUbus(memory.system, { path: "/bus", ...options });
  const peer = await memory.peer(0);
  peer.hello();
  return { memory, ubus, peer };
}

async function fails(promise: Promise<unknown>, code: FaultCode): Promise<Fault> {
  const thrown = await promise.then(
    (value: unknown) => assert.unreachable(`it gave ${value}`),
    (each: unknown) => each,
  );
  assert.instance(thrown, Fault);
  assert.is((thrown as Fault).code, code, String(thrown));
  return thrown as Fault;
}

const fields = (json: JsonObject) => encodeFields(fieldsOf(json));
const json = (data: Uint8Array | undefined) => ({ ...jsonOf(decodeFields(data!)) });
const method = (args: Method["args"], call: Method["call"]): Method => ({
  args,
  call,
  access: "read",
  doc: "Test.",
});

/** Takes a call and answers it. */
async function answer(peer: Peer, status: number, ...pieces: JsonObject[]): Promise<Received> {
  const call = await peer.take();
  assert.is(call.type, MessageType.Invoke);
  const objectId = call.attributes.objectId!;
  for (const piece of pieces) peer.data(call, { objectId, data: fields(piece) });
  peer.status(call, status, { objectId });
  return call;
}

/** Has the bus invoke a method of ours; what comes back. */
async function invoke(
  peer: Peer,
  attributes: Attributes,
  from: { seq?: number; peer?: number } = {},
): Promise<void> {
  const { seq = 7, peer: caller = 5000 } = from;
  peer.send({ type: MessageType.Invoke, seq, peer: caller, attributes });
  await settle();
}

/** Everything sent since, as `type status data`. */
async function replies(peer: Peer): Promise<string[]> {
  await settle();
  const taken: string[] = [];
  while (peer.sent.length > 0) {
    const { type, seq, peer: to, attributes } = await peer.take();
    const { status, data } = attributes;
    const what = type === MessageType.Data ? `data ${JSON.stringify(json(data))}` : `status ${status}`;
    taken.push(`${seq}>${to} ${what}`);
  }
  return taken;
}

// ---- calls ----

test("call looks the object up once, merges the pieces of the answer, and keeps the id", async () => {
  const { ubus, peer } = await open();
  const first = ubus.call("a.b", "m", { x: 1, left: undefined as unknown as Json });
  await peer.found("a.b", 4000);
  const sent = await answer(peer, 0, { p: 1, q: 2 }, JSON.parse('{"q":3,"__proto__":{"r":1}}'));
  assert.equal([sent.peer, sent.attributes.objectId, sent.attributes.method], [4000, 4000, "m"]);
  assert.equal(json(sent.attributes.data), { x: 1 });
  const merged = await first;
  assert.equal(Object.keys(merged), ["p", "q", "__proto__"]);
  assert.is(merged.q, 3);
  assert.is(Object.getPrototypeOf(merged), null);
  const second = ubus.call("a.b", "n");
  assert.equal(json((await answer(peer, 0)).attributes.data), {});
  assert.equal({ ...(await second) }, {});
});

test("calls at the same time share one lookup, and everything goes out in one write", async () => {
  const { ubus, peer } = await open();
  const calls = Array.from({ length: 100 }, (_, index) => ubus.call("o", "m", { index }));
  await peer.found("o", 4000);
  await settle();
  assert.is(peer.writes, 2);
  const seqs = new Set<number>();
  for (let index = 0; index < 100; index++) {
    const call = await peer.take();
    seqs.add(call.seq);
    peer.data(call, { data: call.attributes.data! });
    peer.status(call, 0);
  }
  assert.is(seqs.size, 100);
  for (const [index, call] of calls.entries()) assert.is((await call).index, index);
});

test("answers may come in any order", async () => {
  const { ubus, peer } = await open();
  const calls = ["a", "b"].map((name) => ubus.call("o", name));
  await peer.found("o", 4000);
  const [a, b] = [await peer.take(), await peer.take()];
  for (const each of [b, a]) {
    peer.data(each, { data: fields({ name: each.attributes.method! }) });
    peer.status(each, 0);
  }
  assert.equal(await Promise.all(calls.map(async (call) => (await call).name)), ["a", "b"]);
});

test("a status becomes the fault of its code, an unknown one too", async () => {
  const { ubus, peer } = await open();
  const rows: [number, FaultCode][] = [
    [2, "invalid"],
    [3, "not-found"],
    [4, "not-found"],
    [6, "denied"],
    [8, "unsupported"],
    [99, "kernel"],
    [-1, "kernel"],
  ];
  for (const [index, [status, code]] of rows.entries()) {
    const call = fails(ubus.call("o", "m"), code);
    if (index === 0) await peer.found("o", 4000);
    await answer(peer, status);
    const { message } = await call;
    assert.match(message, /^Cannot call o m: [A-Z]/);
  }
});

test("an id that the bus no longer knows is looked up again, once", async () => {
  const { ubus, peer } = await open();
  const first = ubus.call("o", "m");
  await peer.found("o", 4000);
  await answer(peer, 0);
  await first;
  const second = ubus.call("o", "m");
  peer.status(await peer.take(), 4);
  await peer.found("o", 4001);
  assert.is((await answer(peer, 0)).peer, 4001);
  await second;
  const third = fails(ubus.call("o", "m"), "not-found");
  peer.status(await peer.take(), 4);
  await peer.found("o", 4002);
  peer.status(await peer.take(), 4);
  await third;
  const gone = fails(ubus.call("o", "m"), "not-found");
  await peer.found("o");
  await gone;
  assert.is(peer.sent.length, 0);
});

test("NOT_FOUND from the object itself is its answer", async () => {
  const { ubus, peer } = await open();
  const first = ubus.call("o", "m");
  await peer.found("o", 4000);
  await answer(peer, 0);
  await first;
  const second = fails(ubus.call("o", "m"), "not-found");
  await answer(peer, 4);
  await second;
  assert.is(peer.sent.length, 0, "no second try");
});

test("a call that is not answered times out, and its seq is not used while an answer may come", async () => {
  const { ubus, peer, memory } = await open();
  const hung = fails(ubus.call("o", "hang", {}, { timeoutMs: 50 }), "timeout");
  await peer.found("o", 4000);
  const lost = await peer.take();
  await memory.advance(50);
  await hung;
  let used = 0;
  const seqs = new Set<number>();
  for (let round = 0; round < 66; round++) {
    const calls = Array.from({ length: 1000 }, () => ubus.call("o", "m"));
    await settle();
    peer.send(
      ...peer.sent.splice(0).map((bytes) => {
        used++;
        const seq = (bytes[2]! << 8) | bytes[3]!;
        seqs.add(seq);
        return { type: MessageType.Status, seq, peer: 4000, attributes: { status: 0 } };
      }),
    );
    await Promise.all(calls);
  }
  assert.is(used, 66000);
  assert.not(seqs.has(lost.seq));
  peer.data(lost, { data: fields({ late: 1 }) });
  peer.status(lost, 0);
  const next = ubus.call("o", "m");
  await answer(peer, 0, { own: 1 });
  assert.equal({ ...(await next) }, { own: 1 });
});

test("when too many answers are missing, a new connection is made", async () => {
  const { ubus, peer, memory } = await open();
  const first = ubus.call("o", "m");
  await peer.found("o", 4000);
  await answer(peer, 0);
  await first;
  const calls = Array.from({ length: 32770 }, () =>
    ubus.call("o", "hang", {}, { timeoutMs: 50 }).catch((thrown: Fault) => thrown.code),
  );
  await memory.advance(50);
  const codes = await Promise.all(calls);
  assert.is(codes.filter((code) => code === "timeout").length, 32769);
  assert.is(codes.filter((code) => code === "closed").length, 1);
  await memory.advance(100);
  (await memory.peer(1)).hello();
  assert.ok(ubus.connected);
});

test("answers that nobody waits for are ignored", async () => {
  const { ubus, peer } = await open();
  peer.send({ type: MessageType.Data, seq: 99, peer: 1, attributes: { data: fields({ x: 1 }) } });
  peer.send({ type: MessageType.Status, seq: 99, peer: 1, attributes: { status: 0 } });
  peer.send({ type: 77, seq: 1, peer: 1, attributes: { objectId: 3 } });
  peer.hello();
  const call = ubus.call("o", "m");
  await peer.found("o", 4000);
  await answer(peer, 0);
  await call;
});

test("what is too long is refused here, and does no harm", async () => {
  const { ubus, peer } = await open();
  const room = 1048576 - 1024;
  // Header of the blob, OBJID, METHOD "m", header of DATA, and of the field with its name and NUL.
  const rest = 4 + 8 + 8 + 4 + 8 + 1;
  const text = (length: number) => ({ x: "a".repeat(length) });
  const fits = ubus.call("o", "m", text(room - rest - 4));
  await peer.found("o", 4000);
  assert.is((await answer(peer, 0)).blob.length, room - 4);
  await fits;
  await fails(ubus.call("o", "m", text(room - rest)), "limit");
  await fails(ubus.send("e", text(2 ** 20)), "limit");
  const next = ubus.call("o", "m");
  assert.is((await answer(peer, 0)).attributes.method, "m");
  await next;
});

test("an answer of more than 16 MiB is given up", async () => {
  const { ubus, peer } = await open();
  const call = fails(ubus.call("o", "m"), "limit");
  await peer.found("o", 4000);
  const request = await peer.take();
  const piece = fields({ x: "a".repeat(1000000) });
  for (let index = 0; index < 17; index++) peer.data(request, { data: piece });
  await call;
  assert.ok(ubus.connected);
});

test("a bus that reads too slowly is not written to without end", async () => {
  const { ubus, peer, memory } = await open();
  ubus.publish("own", { m: method({}, () => ({ x: 1 })) });
  await peer.grant(6000);
  const known = ubus.call("o", "m");
  await peer.found("o", 4000);
  await answer(peer, 0);
  await known;
  peer.queuedBytes = 5 << 20;
  await fails(ubus.call("o", "m"), "limit");
  await invoke(peer, { objectId: 6000, method: "m", data: fields({}) });
  assert.equal(await replies(peer), ["7>5000 status 11"]);
  peer.queuedBytes = 9 << 20;
  await invoke(peer, { objectId: 6000, method: "m", data: fields({}) });
  assert.not(ubus.connected);
  await memory.advance(100);
  assert.is(memory.peers.length, 2);
});

// ---- connections ----

test("a lost connection fails what is in flight, and comes back 100 ms doubling to 1 s later", async () => {
  const states: boolean[] = [];
  const { ubus, peer, memory } = await open({ onState: (connected) => states.push(connected) });
  const call = fails(ubus.call("o", "m"), "closed");
  await peer.found("o", 4000);
  await peer.take();
  peer.close();
  await call;
  memory.refuses = true;
  for (const delayMs of [100, 200, 400, 800, 1000, 1000]) {
    const before = states.length;
    await memory.advance(delayMs - 1);
    assert.is(states.length, before, `${delayMs}`);
    await memory.advance(1);
    assert.is(states.length, before + 1, `${delayMs}`);
  }
  memory.refuses = false;
  await memory.advance(1000);
  const second = await memory.peer(1);
  const waiting = ubus.call("o", "m");
  second.hello();
  await second.found("o", 4009);
  assert.is((await answer(second, 0)).peer, 4009, "ids are looked up again");
  await waiting;
  assert.equal(states, [true, ...new Array(7).fill(false), true]);
});

test("a call without a connection waits for one as long as it may take", async () => {
  const memory = new Memory();
  const ubus = connectUbus(memory.system, { path: "/bus", timeoutMs: 500 });
  const call = fails(ubus.call("o", "m"), "timeout");
  const lookup = fails(ubus.lookup(), "timeout");
  await memory.advance(500);
  await call;
  await lookup;
  const calls = Array.from({ length: 1024 }, () => fails(ubus.call("o", "m"), "closed"));
  await fails(ubus.call("o", "m"), "limit");
  ubus.close();
  await Promise.all(calls);
  await fails(ubus.ready(), "closed");
});

test("without retry the first failure is the end", async () => {
  const memory = new Memory();
  memory.refuses = true;
  const ubus = connectUbus(memory.system, { path: "/bus", retry: false });
  await fails(ubus.ready(), "closed");
  await fails(ubus.call("o", "m"), "closed");
  await memory.advance(5000);
  assert.is(memory.timers, 0);
});

test("a bus that says no hello, and one that sends garbage, are left", async () => {
  const { peer, memory } = await open();
  peer.write(new Uint8Array(64).fill(0xff));
  await memory.advance(100);
  const mute = await memory.peer(1);
  await memory.advance(5000);
  assert.ok(mute.closed);
  await memory.advance(1000);
  assert.is(memory.peers.length, 3);
});

test("close sends what is queued, fails what waits, and leaves no timer", async () => {
  const { ubus, peer, memory } = await open();
  const call = fails(ubus.call("o", "m"), "closed");
  await settle();
  ubus.send("e", {}).catch(() => {});
  await Promise.resolve();
  ubus.close();
  await call;
  await settle();
  assert.equal(
    [(await peer.take()).type, (await peer.take()).type],
    [MessageType.Lookup, MessageType.Invoke],
  );
  assert.is(memory.timers, 0);
  ubus.close();
});

// ---- what we publish ----

/** A client that publishes `own` with id 6000. */
async function serve(methods: Methods): Promise<Stage> {
  const stage = await open();
  const published = stage.ubus.publish("own", methods);
  await stage.peer.grant(6000);
  await published.done;
  return stage;
}

test("the signature has methods and arguments in the order of the table", async () => {
  const { ubus, peer } = await open();
  ubus.publish("own", {
    z: method({ s: "String", i: "Integer", b: "Boolean" }, () => undefined),
    a: method({ t: "Table", l: "Array" }, () => undefined),
  });
  const { attributes } = await peer.grant(6000);
  assert.is(attributes.path, "own");
  const shown = decodeFields(attributes.signature!).map(({ name, value }) => [
    name,
    (value as readonly Field[]).map((arg) => [arg.name, arg.value]),
  ]);
  assert.equal(shown, [
    ["z", [["s", 3], ["i", 5], ["b", 7]]], // biome-ignore format: one method a line
    [
      "a",
      [
        ["t", 2],
        ["l", 1],
      ],
    ],
  ]);
  assert.throws(() => ubus.publish("own", {}), RangeError);
});

test("arguments arrive by name and exact type, all others are left out", async () => {
  const got: JsonObject[] = [];
  const { peer } = await serve({
    m: method({ s: "String", i: "Integer", b: "Boolean", t: "Table", l: "Array" }, (args, caller) => {
      got.push({ ...args, user: caller.user ?? null, group: caller.group ?? null });
      return undefined;
    }),
  });
  const call = async (list: Field[]) => {
    await invoke(peer, {
      objectId: 6000,
      method: "m",
      user: "nobody",
      group: "www",
      data: encodeFields(list),
    });
    assert.equal(await replies(peer), ["7>5000 status 0"]);
    return got.pop();
  };
  const who = { user: "nobody", group: "www" };
  const right = { s: "x", i: -5, b: true, t: { k: null }, l: [1, "2"] };
  assert.is(
    JSON.stringify(await call(fieldsOf({ ...right, ubus_rpc_session: "0", more: 1 }))),
    JSON.stringify({ ...right, ...who }),
  );
  assert.equal(await call(fieldsOf({ s: 1, i: "1", b: 1, t: [], l: {} })), who);
  assert.equal(await call(fieldsOf({ i: 2 ** 40, b: null })), who);
  const twice = [3, 4].map((value) => ({ name: "i", type: BlobType.Int32, value }));
  assert.equal(await call([{ name: "i", type: BlobType.Int16, value: 1 }, ...twice]), { i: 3, ...who });
});

test("a call is answered with at most one piece of data and one status", async () => {
  const { peer, memory } = await serve({
    data: method({}, () => ({ a: [1] })),
    none: method({}, () => undefined),
    later: method({}, async () => ({ later: true })),
    denied: method({}, () => {
      throw new Fault("denied", "Cannot do it: no");
    }),
    lost: method({}, async () => {
      throw new Fault("not-found", "Cannot find it: no");
    }),
    bug: method({}, () => {
      throw new SyntaxError("bug");
    }),
    bare: method({}, () => 5),
    huge: method({}, () => ({ x: "a".repeat(2 ** 20) })),
  });
  const rows: [string, string[]][] = [
    ["data", ['data {"a":[1]}', "status 0"]],
    ["none", ["status 0"]],
    ["later", ['data {"later":true}', "status 0"]],
    ["denied", ["status 6"]],
    ["lost", ["status 4"]],
    ["bug", ["status 9"]],
    ["bare", ["status 9"]],
    ["huge", ["status 11"]],
    ["nope", ["status 3"]],
    ["__proto__", ["status 3"]],
  ];
  for (const [name, expected] of rows) {
    await invoke(peer, { objectId: 6000, method: name, data: fields({}) });
    assert.equal(
      await replies(peer),
      expected.map((each) => `7>5000 ${each}`),
      name,
    );
    await invoke(peer, { objectId: 6000, method: name, data: fields({}), noReply: true });
    assert.equal(await replies(peer), [], name);
  }
  await invoke(peer, { objectId: 6000, method: "data" });
  await invoke(peer, { objectId: 6000, method: "data", data: Uint8Array.of(0x85, 0, 0, 8, 0, 1, 97, 98) });
  await invoke(peer, { objectId: 6000, data: fields({}) });
  await invoke(peer, { objectId: 6001, method: "data", data: fields({}) });
  const refusals = [2, 2, 3, 4].map((status) => `7>5000 status ${status}`);
  assert.equal(await replies(peer), refusals);
  assert.equal(memory.logged, ["Cannot answer own bug: SyntaxError: bug"], "once a second");
  await memory.advance(1000);
  await invoke(peer, { objectId: 6000, method: "bug", data: fields({}) });
  assert.match(memory.logged[1]!, /\(and 3 more\)$/);
});

test("a caller may run 256 calls at once and all together 1,024, the rest is refused", async () => {
  const finish: (() => void)[] = [];
  const { peer } = await serve({
    wait: method({}, () => new Promise<undefined>((resolve) => finish.push(() => resolve(undefined)))),
  });
  const call = (seq: number, caller: number) => ({
    ...{ type: MessageType.Invoke, seq, peer: caller },
    attributes: { objectId: 6000, method: "wait", data: fields({}) },
  });
  for (let caller = 1; caller <= 6; caller++) {
    peer.send(...Array.from({ length: 300 }, (_, seq) => call(seq, caller)));
  }
  assert.is(finish.length, 1024);
  const refused = await replies(peer);
  assert.is(refused.length, 6 * 300 - 1024);
  assert.ok(refused.every((each) => each.endsWith("status 11")));
  assert.is(refused.filter((each) => each.includes(">1 ")).length, 44);
  for (const each of finish.splice(0)) each();
  const answered = await replies(peer);
  assert.is(answered.length, 1024);
  assert.ok(answered.every((each) => each.endsWith("status 0")));
  peer.send(call(1, 1));
  assert.is(finish.length, 1, "there is room again");
});

test("an answer that comes after the connection has gone is dropped", async () => {
  let finish: (value: JsonObject) => void = () => {};
  const { peer, memory } = await serve({
    wait: method(
      {},
      () =>
        new Promise<JsonObject>((resolve) => {
          finish = resolve;
        }),
    ),
  });
  await invoke(peer, { objectId: 6000, method: "wait", data: fields({}) });
  peer.close();
  await memory.advance(100);
  const second = await memory.peer(1);
  second.hello();
  await second.grant(6005);
  finish({ late: true });
  assert.equal(await replies(second), []);
});

test("a path that is taken rejects, and is tried again until it is free", async () => {
  const { ubus, peer, memory } = await open();
  const published = ubus.publish("own", {});
  peer.status(await peer.take(), 2);
  await fails(published.done, "invalid");
  assert.equal(memory.logged, ["Cannot publish own: Invalid argument"]);
  await memory.advance(5000);
  await peer.grant(6000);
  published.cancel();
  const removal = await peer.take();
  assert.equal([removal.type, removal.attributes], [MessageType.RemoveObject, { objectId: 6000 }]);
  ubus.publish("own", {}).cancel();
  await peer.grant(6001);
  assert.is((await peer.take()).attributes.objectId, 6001, "cancelled before the bus had answered");
});

// ---- notifications ----

test("notify sends nothing while nobody subscribes", async () => {
  const { ubus, peer } = await serve({});
  const active = (on: boolean) =>
    peer.send({ type: MessageType.Notify, seq: 1, peer: 0, attributes: { objectId: 6000, active: on } });
  await ubus.notify("own", "t", { x: 1 });
  active(true);
  assert.ok(ubus.hasSubscribers("own"));
  await ubus.notify("own", "t", { x: 2 });
  active(false);
  assert.not(ubus.hasSubscribers("own"));
  await ubus.notify("own", "t", { x: 3 });
  const { type, attributes } = await peer.take();
  assert.is(type, MessageType.Notify);
  assert.equal([attributes.method, attributes.noReply, json(attributes.data)], ["t", true, { x: 2 }]);
  await settle();
  assert.is(peer.sent.length, 0);
  active(true);
  await ubus.notify("own", "t", { x: "a".repeat(2 ** 20) });
  peer.queuedBytes = 5 << 20;
  await ubus.notify("own", "t", {});
  assert.is(ubus.dropped, 2);
  const wrong = await ubus.notify("other", "t", {}).catch((thrown: unknown) => thrown);
  assert.instance(wrong, RangeError);
});

test("notify with reply tells what each subscriber answered, also when some do not", async () => {
  const { ubus, peer, memory } = await serve({});
  peer.send({ type: MessageType.Notify, seq: 1, peer: 0, attributes: { objectId: 6000, active: true } });
  const ask = async (subscribers: number[], answers: [number, number][]) => {
    const asked = ubus.notify("own", "t", {}, { reply: true, timeoutMs: 70 });
    const request = await peer.take();
    assert.is(request.attributes.noReply, undefined);
    peer.status(request, 0, { objectId: 6000, subscribers });
    for (const [from, status] of answers) {
      peer.send({
        type: MessageType.Status,
        seq: request.seq,
        peer: from,
        attributes: { status, objectId: from },
      });
    }
    if (answers.length < subscribers.length) await memory.advance(70);
    return [...(await asked)];
  };
  assert.equal(await ask([], []), []);
  assert.equal(await ask([1, 2], [[2, 5], [1, 0]]), [[1, 0], [2, 5]]); // biome-ignore format: one line
  assert.equal(await ask([1, 2, 3], [[2, 0]]), [[1, undefined], [2, 0], [3, undefined]]); // biome-ignore format: one line
  const silent = fails(ubus.notify("own", "t", {}, { reply: true, timeoutMs: 70 }), "timeout");
  await peer.take();
  await memory.advance(70);
  await silent;
  const refused = fails(ubus.notify("own", "t", {}, { reply: true }), "denied");
  peer.status(await peer.take(), 6);
  await refused;
});

// ---- events and subscriptions ----

/** Takes the registration of a pattern. */
async function registers(peer: Peer, pattern: string, status = 0): Promise<number> {
  const request = await peer.take();
  assert.equal(
    [request.type, request.attributes.objectId, request.attributes.method],
    [MessageType.Invoke, 1, "register"],
  );
  const { object, pattern: asked } = json(request.attributes.data);
  assert.is(asked, pattern);
  peer.status(request, status);
  return (object as number) >>> 0;
}

const event = (peer: Peer, objectId: number, name: string, data: JsonObject) =>
  peer.send({
    type: MessageType.Invoke,
    seq: 3,
    peer: 0,
    attributes: { objectId, method: name, data: fields(data) },
  });

test("listen registers each pattern once on one nameless object, on every connection", async () => {
  const { ubus, peer, memory } = await open();
  const heard: string[] = [];
  const hear = (who: string) => (name: string, data: JsonObject) =>
    heard.push(`${who} ${name} ${JSON.stringify(data)}`);
  const star = ubus.listen("a.*", hear("star"));
  const exact = ubus.listen("a.b", hear("exact"));
  const twice = ubus.listen("a.b", () => {
    throw new Error("handler");
  });
  assert.equal((await peer.grant(0x90000001)).attributes, {});
  assert.is(await registers(peer, "a.*"), 0x90000001);
  assert.is(await registers(peer, "a.b"), 0x90000001);
  await Promise.all([star.done, exact.done, twice.done]);
  event(peer, 0x90000001, "a.b", { x: 1 });
  event(peer, 0x90000001, "a.c", {});
  event(peer, 0x90000001, "b", {});
  assert.equal(heard.splice(0), ['star a.b {"x":1}', 'exact a.b {"x":1}', "star a.c {}"]);
  assert.equal(memory.logged, ["handler"]);
  await settle();
  assert.is(peer.sent.length, 0, "events are not answered");
  exact.cancel();
  twice.cancel();
  event(peer, 0x90000001, "a.b", {});
  assert.equal(heard.splice(0), ["star a.b {}"]);
  peer.close();
  await memory.advance(100);
  const second = await memory.peer(1);
  second.hello();
  await second.grant(0x90000002);
  await registers(second, "a.*");
  event(second, 0x90000002, "a.z", {});
  assert.equal(heard, ["star a.z {}"]);
  star.cancel();
  assert.equal((await second.take()).attributes, { objectId: 0x90000002 });
});

test("listen that is refused says so, and asks again", async () => {
  const { ubus, peer, memory } = await open();
  const listening = ubus.listen("a", () => {});
  peer.status(await peer.take(), 11);
  await fails(listening.done, "limit");
  await memory.advance(5000);
  await peer.grant(5);
  await registers(peer, "a", 6);
  await memory.advance(5000);
  await registers(peer, "a");
  const other = ubus.listen("a", () => {});
  await other.done;
  assert.is(peer.sent.length, 0);
});

/** Takes a Subscribe. */
async function subscribes(peer: Peer, objectId: number, target: number, status = 0): Promise<void> {
  const request = await peer.take();
  assert.equal([request.type, request.attributes], [MessageType.Subscribe, { objectId, target }]);
  peer.status(request, status);
  await settle();
}

const notification = (objectId: number, type: string, noReply?: boolean): Attributes => ({
  ...{ objectId, method: type, data: fields({ of: type }), user: "root", group: "root" },
  ...(noReply && { noReply }),
});

test("subscribe follows its object through absence, return and reconnection", async () => {
  const { ubus, peer, memory } = await open();
  const heard: string[] = [];
  const subscription = ubus.subscribe("o", (type, data) => {
    heard.push(`${type} ${JSON.stringify(data)}`);
    if (type === "no") throw new Fault("unsupported", "Cannot do no: no");
  });
  await peer.grant(100);
  await peer.found("o");
  await peer.grant(101);
  await registers(peer, "ubus.object.add");
  await peer.found("o");
  await settle();
  event(peer, 101, "ubus.object.add", { id: 3999, path: "other" });
  event(peer, 101, "ubus.object.add", { id: 4000, path: "o" });
  await peer.found("o", 4000);
  await subscribes(peer, 100, 4000);
  await subscription.done;
  await invoke(peer, notification(100, "yes"));
  await invoke(peer, notification(100, "no"));
  await invoke(peer, notification(100, "quiet", true));
  await invoke(peer, { objectId: 100, method: "empty" });
  assert.equal(await replies(peer), ["7>5000 status 0", "7>5000 status 8", "7>5000 status 2"]);
  assert.equal(heard.splice(0), ['yes {"of":"yes"}', 'no {"of":"no"}', 'quiet {"of":"quiet"}']);
  const lose = (target: number) =>
    peer.send({ type: MessageType.Unsubscribe, seq: 1, peer: 0, attributes: { objectId: 100, target } });
  lose(1234);
  lose(4000);
  await peer.found("o");
  event(peer, 101, "ubus.object.add", { id: 4001, path: "o" });
  await peer.found("o", 4001);
  await subscribes(peer, 100, 4001);
  event(peer, 101, "ubus.object.add", { id: 4002, path: "o" });
  await settle();
  assert.is(peer.sent.length, 0, "not subscribed twice");
  peer.close();
  await memory.advance(100);
  const second = await memory.peer(1);
  second.hello();
  // The watch is asked for beside; the lookup comes when the object has its id.
  await second.grant(200);
  await second.grant(201);
  await registers(second, "ubus.object.add");
  await second.found("o", 4003);
  await subscribes(second, 201, 4003);
  subscription.cancel();
  const removed = [await second.take(), await second.take()].map(({ attributes }) => attributes.objectId);
  assert.equal(removed.sort(), [200, 201]);
});

test("subscribe does not miss an object that comes between the lookup and the watch", async () => {
  const { ubus, peer } = await open();
  const subscription = ubus.subscribe("o", () => {});
  await peer.grant(100);
  await peer.found("o");
  await peer.grant(101);
  await registers(peer, "ubus.object.add");
  await peer.found("o", 4000);
  await subscribes(peer, 100, 4000);
  await subscription.done;
});

test("subscribe looks again when the target goes while it is being subscribed to", async () => {
  const { ubus, peer } = await open();
  const subscription = ubus.subscribe("o", () => {});
  await peer.grant(100);
  await peer.found("o", 4000);
  const request = await peer.take();
  // The status and the loss arrive together.
  peer.send(
    { type: MessageType.Status, seq: request.seq, peer: 0, attributes: { status: 0 } },
    { type: MessageType.Unsubscribe, seq: 1, peer: 0, attributes: { objectId: 100, target: 4000 } },
  );
  await peer.found("o", 4001);
  await subscribes(peer, 100, 4001);
  await subscription.done;
  subscription.cancel();
  assert.is((await peer.take()).type, MessageType.RemoveObject);
});

test("a subscription that the bus refuses is tried again", async () => {
  const { ubus, peer, memory } = await open();
  const subscription = ubus.subscribe("o", () => {});
  await peer.grant(100);
  await peer.found("o", 4000);
  await subscribes(peer, 100, 4000, 2);
  await fails(subscription.done, "invalid");
  await memory.advance(5000);
  await peer.found("o", 4000);
  await subscribes(peer, 100, 4000);
  await invoke(peer, notification(100, "yes"));
  assert.equal(await replies(peer), ["7>5000 status 0"]);
});

test.run();
