/** The bus on a real socket: real users, real kernel buffers. */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { BlobType, decodeFields, encodeFields, fieldsOf, jsonOf } from "../../src/ubus/blob.ts";
import { type BusOptions, openBus } from "../../src/ubus/bus.ts";
import {
  type Attributes,
  encodeMessage,
  MessageReader,
  MessageType,
  type Received,
} from "../../src/ubus/message.ts";
import { Status } from "../../src/ubus/status.ts";
import { group, passwd } from "./stage.ts";

const scratch = process.env.TMPDIR!;
const linux = openLinux({ nativePath: `${process.cwd()}/dist/netio.node`, log: () => {} });
let directories = 0;

async function realBus(files: Record<string, object> = {}, limits: BusOptions["limits"] = {}) {
  const directory = `${scratch}/people${directories++}`;
  mkdirSync(`${directory}/acl`, { recursive: true });
  writeFileSync(`${directory}/passwd`, passwd);
  writeFileSync(`${directory}/group`, group);
  for (const [name, file] of Object.entries(files)) {
    writeFileSync(`${directory}/acl/${name}`, JSON.stringify(file), { mode: 0o644 });
  }
  const path = `${directory}/ubus.sock`;
  const accounts = { passwd: `${directory}/passwd`, group: `${directory}/group` };
  const bus = await openBus(linux, { path, aclDirectory: `${directory}/acl`, accounts, limits });
  return { bus, path, directory };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`It never happened that ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

class Person {
  readonly messages: Received[] = [];
  receivedBytes = 0;
  ended = false;
  readonly #reader = new MessageReader(1 << 21);
  readonly #output: NodeJS.WritableStream;
  readonly #input: NodeJS.ReadableStream;
  readonly #end: () => void;
  #seq = 0;

  constructor(input: NodeJS.ReadableStream, output: NodeJS.WritableStream, end: () => void) {
    this.#input = input;
    this.#output = output;
    this.#end = end;
    input.on("data", (chunk: Buffer) => {
      this.receivedBytes += chunk.length;
      this.messages.push(...this.#reader.push(new Uint8Array(chunk)));
    });
    input.on("close", () => {
      this.ended = true;
    });
    input.on("error", () => {});
    output.on("error", () => {});
  }

  static root(path: string): Person {
    const socket: Duplex = connect(path);
    return new Person(socket, socket, () => socket.destroy());
  }

  /** Somebody with a user, a group and perhaps more groups. */
  static of(path: string, uid: number, groups: readonly number[] = []): Person {
    const more = groups.length > 0 ? `--groups=${groups.join(",")}` : "--clear-groups";
    const argv = [`--reuid=${uid}`, `--regid=${uid}`, more, "socat", "-", `UNIX-CONNECT:${path}`];
    const child: ChildProcess = spawn("setpriv", argv, { stdio: ["pipe", "pipe", "ignore"] });
    return new Person(child.stdout!, child.stdin!, () => child.kill());
  }

  send(type: number, attributes: Attributes): number {
    this.#output.write(encodeMessage({ type, seq: ++this.#seq, peer: 0, attributes }));
    return this.#seq;
  }

  async ask(type: number, attributes: Attributes): Promise<{ status: number; data: Attributes[] }> {
    const seq = this.send(type, attributes);
    const isEnd = (message: Received) => message.seq === seq && message.type === MessageType.Status;
    await until("a status came", () => this.ended || this.messages.some(isEnd));
    const data = this.messages.filter((message) => message.seq === seq && message.type === MessageType.Data);
    return {
      status: this.messages.find(isEnd)!.attributes.status!,
      data: data.map((message) => message.attributes),
    };
  }

  async addObject(path?: string): Promise<number> {
    const object = path === undefined ? {} : { path, signature: encodeFields(fieldsOf({ m: {} })) };
    return (await this.ask(MessageType.AddObject, object)).data[0]!.objectId!;
  }

  async register(pattern: string): Promise<number> {
    const object = await this.addObject();
    const data = encodeFields(fieldsOf({ object: object | 0, pattern }));
    return (await this.ask(MessageType.Invoke, { objectId: 1, method: "register", data })).status;
  }

  stopReading(): void {
    this.#input.pause();
  }

  end(): void {
    this.#end();
  }
}

test("openBus lets a user in by a supplementary group, and closes strangers without a word", async () => {
  const rights = { methods: ["*"] };
  const { bus, path } = await realBus({ "a.json": { group: "audio", access: { thing: rights } } });
  const server = Person.root(path);
  await server.addObject("thing");
  const inside = Person.of(path, 1000, [29]);
  const outside = Person.of(path, 1000);
  const stranger = Person.of(path, 4711);
  assert.is((await inside.ask(MessageType.Lookup, {})).data.length, 1);
  assert.is((await outside.ask(MessageType.Lookup, {})).data.length, 0);
  await until("the stranger was out", () => stranger.ended);
  assert.is(stranger.receivedBytes, 0);
  assert.equal(bus.counters().closed, { "no account": 1 });
  for (const person of [server, inside, outside]) person.end();
  await bus.close();
});

test("Bus.reloadAcl puts new rules in force and tells who listens", async () => {
  const { bus, path, directory } = await realBus();
  const root = Person.root(path);
  assert.is(await root.register("ubus.acl.*"), Status.Ok);
  const ann = Person.of(path, 1000);
  const publish = { path: "ann.thing", signature: new Uint8Array(0) };
  assert.is((await ann.ask(MessageType.AddObject, publish)).status, Status.InvalidArgument);
  writeFileSync(`${directory}/acl/ann.json`, JSON.stringify({ user: "ann", publish: ["ann.*"] }), {
    mode: 0o644,
  });
  await Promise.all([bus.reloadAcl(), bus.reloadAcl()]);
  assert.is((await ann.ask(MessageType.AddObject, publish)).status, Status.Ok);
  const events = () => root.messages.filter((message) => message.attributes.method === "ubus.acl.sequence");
  await until("both events came", () => events().length === 2);
  const data = events().map((event) => ({ ...jsonOf(decodeFields(event.attributes.data!)) }));
  assert.equal(data, [{ sequence: 2 }, { sequence: 3 }]);
  for (const person of [root, ann]) person.end();
  await bus.close();
});

test("Object 2 tells a server which acl tables concern its objects", async () => {
  const { bus, path } = await realBus({
    "a.json": { user: "ann", access: { "my.*": { acl: { level: 3 } } } },
    "b.json": { group: "audio", access: { "my.two": { acl: {} }, other: { acl: {} } } },
  });
  const server = Person.root(path);
  await server.addObject("my.one");
  await server.addObject("my.two");
  const { status, data } = await server.ask(MessageType.Invoke, {
    objectId: 2,
    method: "query",
    data: new Uint8Array(0),
  });
  assert.is(status, Status.Ok);
  assert.is(
    JSON.stringify(jsonOf(decodeFields(data[0]!.data!))),
    '{"seq":1,"acl":[{"obj":"my.two","user":"ann","acl":{"level":3}},{"obj":"my.two","group":"audio","acl":{}},{"obj":"my.one","user":"ann","acl":{"level":3}}]}',
  );
  server.end();
  await bus.close();
});

test("openBus opens its socket to everybody, refuses a served one, replaces a stale one, and cleans up", async () => {
  const { bus, path } = await realBus();
  assert.is(statSync(path).mode & 0o777, 0o666);
  await openBus(linux, { path }).then(
    () => assert.unreachable(),
    (thrown) => assert.is(thrown instanceof Fault && thrown.code, "conflict"),
  );
  await bus.close();
  await until("the socket is gone", () => !existsSync(path));
  const code = `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 9))`;
  const dead = spawn(process.execPath, ["-e", code]);
  await new Promise((resolve) => dead.on("close", resolve));
  assert.ok(existsSync(path));
  const again = await openBus(linux, { path });
  const person = Person.root(path);
  assert.is((await person.ask(MessageType.Ping, {})).status, Status.Ok);
  await again.close();
  await until("the connection is gone", () => person.ended);
});

test("A listener that stops reading is closed; the sender's flood arrives whole at the other listener", async () => {
  const { bus, path } = await realBus({}, { drainMs: 200 });
  const [lazy, good, sender] = [Person.root(path), Person.root(path), Person.root(path)];
  assert.is(await lazy.register("*"), Status.Ok);
  assert.is(await good.register("*"), Status.Ok);
  lazy.stopReading();
  const data = encodeFields([
    ...fieldsOf({ id: "flood" }),
    { name: "data", type: BlobType.Table, value: fieldsOf({ text: "x".repeat(2000) }) },
  ]);
  const count = 2000;
  for (let sent = 0; sent < count; sent++)
    sender.send(MessageType.Invoke, { objectId: 1, method: "send", data });
  const of = (person: Person, type: number) =>
    person.messages.filter((message) => message.type === type).length;
  await until("everything was sent", () => of(sender, MessageType.Status) === count);
  await until("everything was heard", () => of(good, MessageType.Invoke) === count);
  assert.equal(bus.counters().closed, { slow: 1 });
  assert.ok(bus.counters().waits > 0);
  for (const person of [lazy, good, sender]) person.end();
  await bus.close();
});

test("Hundreds of clients at once each get their own answers", async () => {
  const { bus, path } = await realBus();
  const server = Person.root(path);
  const objectId = await server.addObject("thing");
  const people: Person[] = [];
  // In waves: the kernel refuses who comes while too many wait to be accepted.
  for (let wave = 1; wave <= 4; wave++) {
    people.push(...Array.from({ length: 75 }, () => Person.root(path)));
    await until("a wave was let in", () => bus.counters().clients === 1 + wave * 75);
  }
  const answers = await Promise.all(
    people.map((person) => person.ask(MessageType.Lookup, { path: "thing" })),
  );
  assert.ok(answers.every(({ status, data }) => status === Status.Ok && data[0]!.objectId === objectId));
  assert.is(bus.counters().clients, 301);
  for (const person of people) person.end();
  await until("they are gone", () => bus.counters().clients === 1);
  server.end();
  await bus.close();
});

test("openBus makes the directory of its socket", async () => {
  const path = `${scratch}/deep/er/ubus.sock`;
  const bus = await openBus(linux, { path, aclDirectory: `${scratch}/none` });
  assert.ok(existsSync(path));
  await bus.close();
});

test.run();
