/** What a bad client can do to the bus and to others: nothing. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { BlobType, encodeFields, fieldsOf } from "../../src/ubus/blob.ts";
import { type BusLimits, openBus } from "../../src/ubus/bus.ts";
import {
  type Attributes,
  encodeMessage,
  MessageReader,
  MessageType,
  type Received,
} from "../../src/ubus/message.ts";
import { Status } from "../../src/ubus/status.ts";
import { type Line, Stage, settled } from "./stage.ts";

/** A client of the bus on a stage. */
class Client {
  readonly line: Line;
  readonly #reader = new MessageReader(1 << 21);
  #read = 0;
  #seq = 0;

  constructor(line: Line) {
    this.line = line;
  }

  /** Sends a message. @returns its seq. */
  send(type: number, attributes: Attributes, peer = 0): number {
    this.line.feed(this.encode(type, attributes, peer));
    return this.#seq;
  }

  encode(type: number, attributes: Attributes, peer = 0): Uint8Array {
    return encodeMessage({ type, seq: ++this.#seq, peer, attributes });
  }

  /** Messages that came since the last look. */
  look(): Received[] {
    const all = this.line.received.slice(this.#read);
    this.#read = this.line.received.length;
    return all.flatMap((bytes) => this.#reader.push(bytes));
  }

  /** Sends a request. @returns the status, or undefined if there is none yet. */
  ask(type: number, attributes: Attributes): { status: number | undefined; data: Attributes[] } {
    const seq = this.send(type, attributes);
    const answers = this.look().filter((message) => message.seq === seq);
    return {
      status: answers.find((message) => message.type === MessageType.Status)?.attributes.status,
      data: answers
        .filter((message) => message.type === MessageType.Data)
        .map((message) => message.attributes),
    };
  }

  addObject(path?: string): number {
    const { data } = this.ask(
      MessageType.AddObject,
      path === undefined ? {} : { path, signature: new Uint8Array(0) },
    );
    return data[0]!.objectId!;
  }

  register(object: number, pattern: string): number | undefined {
    const data = encodeFields(fieldsOf({ object: object | 0, pattern }));
    return this.ask(MessageType.Invoke, { objectId: 1, method: "register", data }).status;
  }

  event(id: string): Uint8Array {
    const fields = [
      ...fieldsOf({ id }),
      { name: "data", type: BlobType.Table, value: fieldsOf({ x: "y".repeat(900) }) },
    ];
    return this.encode(MessageType.Invoke, { objectId: 1, method: "send", data: encodeFields(fields) });
  }
}

async function stageBus(limits: Partial<BusLimits> = {}, acl?: object) {
  const stage = new Stage();
  if (acl) stage.files.set("/acl/a.json", { text: JSON.stringify(acl) });
  const bus = await openBus(stage.system, { path: "/bus", aclDirectory: "/acl", limits });
  const client = (uid = 0) => new Client(stage.connect({ uid, gid: uid }));
  return { stage, bus, client };
}

const payload = (bytes: number) => encodeFields(fieldsOf({ x: "y".repeat(bytes) }));

test("A server that does not read makes its callers wait, loses nothing, and serves on when it reads", async () => {
  const { bus, client } = await stageBus({ highBytes: 4000 });
  const server = client();
  const objectId = server.addObject("slow");
  server.line.room = 0;
  const callers = [client(), client()];
  for (let round = 0; round < 50; round++) {
    for (const caller of callers)
      caller.send(MessageType.Invoke, { objectId, method: "m", data: payload(500) });
  }
  assert.ok(server.line.queuedBytes < 8000, `${server.line.queuedBytes} bytes wait`);
  assert.ok(callers.every((caller) => caller.line.paused));
  assert.ok(bus.counters().waits > 0);
  const other = client();
  assert.is(other.ask(MessageType.Ping, {}).status, Status.Ok);
  const seen = new Map<number, number[]>();
  for (let round = 0; round < 200; round++) {
    server.line.drain(2000);
    for (const { peer, seq } of server.look()) seen.set(peer, [...(seen.get(peer) ?? []), seq]);
  }
  assert.equal(
    [...seen.values()],
    callers.map(() => Array.from({ length: 50 }, (_, index) => index + 1)),
  );
  assert.ok(callers.every((caller) => !caller.line.paused && !caller.line.closed));
  assert.equal(bus.counters().closed, {});
  await bus.close();
});

test("A server for which callers wait is closed when it does not read in time, and they go on", async () => {
  const { bus, stage, client } = await stageBus({ highBytes: 4000, drainMs: 1000 });
  const server = client();
  const objectId = server.addObject("stuck");
  server.line.room = 0;
  const caller = client();
  for (let call = 0; call < 20; call++)
    caller.send(MessageType.Invoke, { objectId, method: "m", data: payload(500) });
  stage.pass(999);
  assert.is(server.line.closed, false);
  stage.pass(1);
  assert.is(server.line.closed, true);
  await settled();
  const statuses = caller.look().filter((message) => message.type === MessageType.Status);
  assert.ok(statuses.length > 5);
  assert.ok(statuses.every((message) => message.attributes.status === Status.NotFound));
  assert.equal(bus.counters().closed, { slow: 1 });
  assert.match(stage.log.join("\n"), /Closed a client of the bus: slow \(root, process 1\)/);
  assert.is(caller.ask(MessageType.Ping, {}).status, Status.Ok);
  await bus.close();
});

test("Callers of a busy server take turns", async () => {
  const { bus, client } = await stageBus({ highBytes: 1000 });
  const server = client();
  const objectId = server.addObject("busy");
  server.line.room = 0;
  const callers = [client(), client(), client()];
  for (const caller of callers) {
    const calls = Array.from({ length: 20 }, () =>
      caller.encode(MessageType.Invoke, { objectId, method: "m", data: payload(700) }),
    );
    caller.line.feed(Buffer.concat(calls));
  }
  const order: number[] = [];
  for (let round = 0; round < 100; round++) {
    server.line.drain(900);
    order.push(...server.look().map((message) => message.peer));
  }
  assert.is(order.length, 60);
  const half = order.slice(0, 30);
  for (const peer of new Set(order)) {
    const share = half.filter((each) => each === peer).length;
    assert.ok(share >= 8 && share <= 12, `${share} of the first 30`);
  }
  await bus.close();
});

test("Who does not read its own answers is not read from, but its answers to others pass", async () => {
  const { bus, stage, client } = await stageBus({ highBytes: 4000, drainMs: 1000 });
  const lazy = client();
  const objectId = lazy.addObject("lazy");
  const caller = client();
  const seq = caller.send(MessageType.Invoke, { objectId, method: "m", data: payload(10) });
  const call = lazy.look().at(-1)!;
  lazy.line.room = 0;
  const ping = { data: payload(1000) };
  for (let count = 0; count < 20; count++) lazy.send(MessageType.Ping, ping);
  assert.ok(lazy.line.queuedBytes < 8000);
  assert.is(lazy.line.paused, true);
  lazy.line.drain();
  assert.is(lazy.line.paused, false);
  assert.is(lazy.look().filter((message) => message.type === MessageType.Status).length, 20);
  lazy.line.room = 0;
  while (lazy.line.queuedBytes <= 4000) lazy.send(MessageType.Ping, ping);
  // The queue is full, and nothing is held back yet.
  lazy.line.feed(
    encodeMessage({ type: MessageType.Status, seq, peer: call.peer, attributes: { status: 3, objectId } }),
  );
  assert.is(caller.look().at(-1)!.attributes.status, 3);
  lazy.send(MessageType.Ping, ping);
  stage.pass(1000);
  assert.is(lazy.line.closed, true);
  await bus.close();
});

test("A subscriber that does not read holds a publisher up for a time, then it is closed", async () => {
  const { bus, stage, client } = await stageBus({ highBytes: 4000, drainMs: 1000 });
  const server = client();
  const target = server.addObject("news");
  const subscribers = [client(), client()];
  for (const each of subscribers) {
    const objectId = each.addObject();
    assert.is(each.ask(MessageType.Subscribe, { objectId, target }).status, Status.Ok);
  }
  const [good, bad] = subscribers as [Client, Client];
  bad.line.room = 0;
  for (let count = 0; count < 20; count++) {
    server.send(MessageType.Notify, { objectId: target, method: "n", data: payload(500), noReply: true });
  }
  assert.is(server.line.paused, true);
  stage.pass(1000);
  assert.is(bad.line.closed, true);
  assert.is(server.line.paused, false);
  assert.is(good.look().filter((message) => message.attributes.method === "n").length, 20);
  await bus.close();
});

test("A listener that does not read holds a sender of events up, no one else", async () => {
  const { bus, stage, client } = await stageBus({ highBytes: 4000, drainMs: 1000 });
  const listener = client();
  assert.is(listener.register(listener.addObject(), "*"), Status.Ok);
  listener.line.room = 0;
  const sender = client();
  for (let count = 0; count < 20; count++) sender.line.feed(sender.event("flood"));
  assert.is(sender.line.paused, true);
  assert.is(client().ask(MessageType.Ping, {}).status, Status.Ok);
  listener.line.drain();
  assert.is(listener.look().filter((message) => message.attributes.method === "flood").length, 20);
  assert.is(sender.line.paused, false);
  stage.pass(5000);
  assert.equal(bus.counters().closed, {});
  await bus.close();
});

test("One notification to a thousand subscriptions of one client stays within its queue", async () => {
  const { bus, client } = await stageBus();
  const [server, greedy] = [client(), client()];
  const target = server.addObject("news");
  const objectId = greedy.addObject();
  for (let count = 0; count < 1000; count++) greedy.ask(MessageType.Subscribe, { objectId, target });
  greedy.line.room = 0;
  const data = payload(500_000);
  server.send(MessageType.Notify, { objectId: target, method: "n", data, noReply: true });
  assert.is(greedy.line.closed, true);
  assert.ok(greedy.line.queuedBytes < 6 << 20, `${greedy.line.queuedBytes} bytes wait`);
  await settled();
  assert.equal(bus.counters().closed, { "queue full": 1 });
  assert.is(bus.counters().heldBytes, 0);
  assert.is(server.ask(MessageType.Ping, {}).status, Status.Ok);
  await bus.close();
});

test("Who floods somebody with other things than calls is slowed down too", async () => {
  const { bus, client } = await stageBus({ highBytes: 4000, queueBytes: 8000 });
  const [server, pest] = [client(), client()];
  const target = server.addObject("news");
  const objectId = pest.addObject();
  server.line.room = 0;
  for (let count = 0; count < 500; count++) {
    pest.send(MessageType.Subscribe, { objectId, target });
    pest.send(MessageType.Unsubscribe, { objectId, target });
  }
  assert.is(pest.line.paused, true);
  assert.is(server.line.closed, false);
  while (pest.line.paused) server.line.drain(5000);
  server.line.drain();
  assert.is(server.look().filter((message) => message.type === MessageType.Notify).length, 1000);
  assert.equal(bus.counters().closed, {});
  await bus.close();
});

test("Who may not call a busy server is told so at once, and puts no pressure on it", async () => {
  const { bus, stage, client } = await stageBus({ highBytes: 4000, drainMs: 1000 });
  const [server, root] = [client(), client()];
  const objectId = server.addObject("busy");
  server.line.room = 0;
  while (server.line.queuedBytes <= 4000)
    root.send(MessageType.Invoke, { objectId, method: "m", data: payload(500) });
  const other = client(1000);
  await settled();
  assert.is(other.ask(MessageType.Invoke, { objectId, method: "m" }).status, Status.PermissionDenied);
  stage.pass(5000);
  assert.is(server.line.closed, false);
  await bus.close();
});

test("A monitor that does not read is closed, and delays nobody", async () => {
  const { bus, client } = await stageBus({ queueBytes: 20_000 });
  const monitor = client();
  const request = { objectId: 3, method: "add", data: new Uint8Array(0) };
  assert.is(monitor.ask(MessageType.Invoke, request).status, Status.Ok);
  monitor.line.room = 0;
  const other = client();
  for (let count = 0; count < 40; count++) {
    assert.is(other.ask(MessageType.Ping, { data: payload(500) }).status, Status.Ok);
  }
  assert.is(monitor.line.closed, true);
  assert.equal(bus.counters().closed, { "queue full": 1 });
  await bus.close();
});

test("A lookup of many objects waits for its reader and is complete", async () => {
  const { bus, client } = await stageBus({ highBytes: 4000 });
  const server = client();
  const paths = Array.from({ length: 900 }, (_, index) => `object.${String(index).padStart(4, "0")}`);
  for (const path of [...paths].reverse()) server.addObject(path);
  const reader = client();
  reader.look();
  reader.line.room = 0;
  const seq = reader.send(MessageType.Lookup, {});
  assert.ok(reader.line.queuedBytes < 8000);
  const second = reader.send(MessageType.Ping, {});
  const told: string[] = [];
  const ends: number[] = [];
  for (let round = 0; round < 100; round++) {
    // Objects come and go meanwhile; the walk goes on where it was.
    if (round === 3) server.addObject("object.0000.new");
    reader.line.drain(3000);
    for (const message of reader.look()) {
      if (message.seq === seq && message.type === MessageType.Data) told.push(message.attributes.path!);
      if (message.type === MessageType.Status) ends.push(message.seq);
    }
  }
  assert.equal(told, paths);
  assert.equal(ends, [seq, second]);
  await bus.close();
});

test("Limits on what a client has the bus keep are answered with NoMemory", async () => {
  const { bus, client } = await stageBus({
    objectsPerClient: 5,
    patternsPerClient: 3,
    subscriptionsPerClient: 2,
    subscribersPerObject: 3,
    nameBytes: 20,
    objects: 12,
  });
  const server = client();
  const target = server.addObject("t");
  const one = client();
  const object = one.addObject();
  for (let count = 0; count < 4; count++) one.addObject();
  assert.is(one.ask(MessageType.AddObject, {}).status, Status.NoMemory);
  assert.is(one.ask(MessageType.RemoveObject, { objectId: object }).status, Status.Ok);
  const ear = one.addObject();
  assert.is(server.ask(MessageType.AddObject, { path: "p".repeat(21) }).status, Status.NoMemory);
  for (let count = 0; count < 3; count++) assert.is(one.register(ear, `p${count}*`), Status.Ok);
  assert.is(one.register(ear, "p3"), Status.NoMemory);
  const subscribe = (who: Client, objectId: number) =>
    who.ask(MessageType.Subscribe, { objectId, target }).status;
  assert.is(subscribe(one, ear), Status.Ok);
  assert.is(subscribe(one, ear), Status.Ok);
  assert.is(subscribe(one, ear), Status.NoMemory);
  const two = client();
  const other = two.addObject();
  assert.is(subscribe(two, other), Status.Ok);
  assert.is(subscribe(two, other), Status.NoMemory);
  for (let count = 0; count < 4; count++) two.addObject();
  assert.is(server.ask(MessageType.AddObject, {}).status, Status.Ok);
  assert.is(server.ask(MessageType.AddObject, {}).status, Status.NoMemory, "12 in all");
  one.line.hangUp();
  await settled();
  assert.is(server.ask(MessageType.AddObject, {}).status, Status.Ok);
  assert.is(subscribe(two, other), Status.Ok, "what the gone client had is free");
  await bus.close();
});

test("Signatures count against what a client may keep, and no longer when their object is gone", async () => {
  const { bus, client } = await stageBus({ keptBytesPerClient: 10_000 });
  const one = client();
  const method = { name: "m".repeat(3000), type: BlobType.Table, value: [] };
  const signature = encodeFields([method]);
  const ids: number[] = [];
  const add = (path: string) => one.ask(MessageType.AddObject, { path, signature });
  for (const path of ["a", "b", "c"]) ids.push(add(path).data[0]!.objectId!);
  assert.is(add("d").status, Status.NoMemory);
  one.ask(MessageType.RemoveObject, { objectId: ids[0]! });
  assert.is(add("d").status, Status.Ok);
  await bus.close();
});

test("Too many clients are refused; nobody can keep root out", async () => {
  const { bus, client } = await stageBus({ clients: 10, clientsPerUser: 6 });
  const mine = Array.from({ length: 8 }, () => client(1000));
  await settled();
  assert.is(mine.filter((each) => each.line.closed).length, 2);
  const roots = Array.from({ length: 6 }, () => client());
  assert.is(roots.filter((each) => each.line.closed).length, 2);
  assert.is(roots[0]!.ask(MessageType.Ping, {}).status, Status.Ok);
  mine[0]!.line.hangUp();
  await settled();
  assert.is(client().ask(MessageType.Ping, {}).status, Status.Ok);
  assert.equal(bus.counters().closed, { "too many": 4 });
  assert.is(bus.counters().clients, 10);
  await bus.close();
});

test("Users without a name are closed without a hello", async () => {
  const { bus, client } = await stageBus();
  const stranger = client(4711);
  await settled();
  assert.is(stranger.line.closed, true);
  assert.equal(stranger.line.received, []);
  assert.equal(bus.counters().closed, { "no account": 1 });
  await bus.close();
});

test("When all together hold too much, who holds most goes", async () => {
  const { bus, client } = await stageBus({ totalBytes: 300_000, messageBytes: 1 << 20 });
  const small = Array.from({ length: 5 }, () => client());
  // Announces a message of 1 MiB and sends but a part of it.
  const partial = (bytes: number) => {
    const start = new Uint8Array(bytes);
    start.set([0, 3, 0, 1, 0, 0, 0, 0, 0, 0x0f, 0xff, 0xfc]);
    return start;
  };
  for (const each of small) each.line.feed(partial(20_000));
  const greedy = client();
  for (let count = 0; count < 12 && !greedy.line.closed; count++) {
    greedy.line.feed(count === 0 ? partial(30_000) : new Uint8Array(30_000));
  }
  assert.is(greedy.line.closed, true);
  assert.ok(small.every((each) => !each.line.closed));
  assert.ok(bus.counters().heldBytes <= 300_000);
  assert.equal(bus.counters().closed, { memory: 1 });
  await bus.close();
});

test("A message that would grow past the limit on its way is refused, one that just fits arrives whole", async () => {
  const { bus, client } = await stageBus();
  const server = client();
  const objectId = server.addObject("big");
  const caller = client();
  const spare = 1048576 - 60;
  const data = new Uint8Array(spare - 40);
  data.set([0x83, data.length >> 16, data.length >> 8, data.length, 0, 1, 0x78, 0]);
  caller.send(MessageType.Invoke, { objectId, method: "m", data });
  const [call] = server.look();
  assert.is(Buffer.compare(call!.attributes.data!, data), 0);
  assert.ok(call!.blob.length <= 1048576);
  const full = new Uint8Array(1048576 - 32);
  assert.is(caller.ask(MessageType.Invoke, { objectId, method: "m", data: full }).status, Status.NoMemory);
  assert.equal(server.look(), []);
  await bus.close();
});

test("Bytes that are no text pass through names and data unchanged", async () => {
  const { bus, client } = await stageBus();
  const server = client();
  const objectId = server.addObject("raw");
  const caller = client();
  const message = caller.encode(MessageType.Invoke, {
    objectId,
    method: "XXXX",
    data: new Uint8Array([1, 2, 3]),
  });
  const at = Buffer.from(message).indexOf("XXXX");
  message.set([0xff, 0xfe, 0x80, 0xc3], at);
  caller.line.feed(message);
  const [call] = server.look();
  assert.ok(Buffer.from(call!.blob).includes(Buffer.from([0xff, 0xfe, 0x80, 0xc3, 0])));
  assert.equal([...call!.attributes.data!], [1, 2, 3]);
  await bus.close();
});

test("Garbage closes its sender and nobody else, whatever it is", async () => {
  const { bus, client } = await stageBus();
  const server = client();
  const objectId = server.addObject("here");
  const add = server.encode(MessageType.AddObject, {
    path: "garbage",
    signature: encodeFields(fieldsOf({ m: {} })),
  });
  const good = [
    add,
    server.encode(MessageType.Lookup, { path: "here*" }),
    server.encode(MessageType.Invoke, {
      objectId: 1,
      method: "register",
      data: encodeFields(fieldsOf({ object: 5, pattern: "x*" })),
    }),
    server.event("x"),
    server.encode(MessageType.Notify, { objectId, method: "n", data: payload(3) }),
    server.encode(MessageType.Subscribe, { objectId, target: objectId }),
    server.encode(MessageType.Status, { objectId, status: 1 }, 77),
  ];
  const flip = fc.record({
    message: fc.nat(good.length - 1),
    at: fc.nat(400),
    bits: fc.integer({ min: 1, max: 255 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(flip, { maxLength: 30 }),
      fc.uint8Array({ maxLength: 40 }),
      async (flips, noise) => {
        const bad = client();
        for (const { message, at, bits } of flips) {
          const bytes = good[message]!.slice();
          const place = at % bytes.length;
          bytes[place] = bytes[place]! ^ bits;
          bad.line.feed(bytes);
        }
        bad.line.feed(noise);
        bad.line.hangUp();
        await settled();
        assert.is(server.ask(MessageType.Ping, {}).status, Status.Ok);
      },
    ),
    { numRuns: 300 },
  );
  assert.is(server.line.closed, false);
  assert.is(bus.counters().clients, 1);
  assert.is(bus.counters().objects, 1);
  assert.is(bus.counters().heldBytes, 0);
  await bus.close();
});

test("Thousands of objects and clients come and go without a trace", async () => {
  const { bus, client } = await stageBus({ clients: 3000 });
  const clients = Array.from({ length: 2000 }, () => client());
  for (const [index, each] of clients.entries()) {
    for (let count = 0; count < 4; count++) each.addObject(`o${index}.${count}`);
  }
  assert.is(bus.counters().objects, 8000);
  assert.is(clients[0]!.ask(MessageType.Lookup, { path: "o1999.*" }).data.length, 4);
  for (const each of clients) each.line.hangUp();
  await settled();
  const { clients: left, objects, heldBytes } = bus.counters();
  assert.equal({ left, objects, heldBytes }, { left: 0, objects: 0, heldBytes: 0 });
  await bus.close();
});

test.run();
