/**
 * Every method of every object against everybody who may ask for it: by default nobody but root may call anything,
 * and whoever was granted reading changes nothing.
 *
 * The bus is ours, with its files and connections in memory; a server stands in for the agent with the agent's own
 * tables of methods, and counts what reaches it. Callers know the numbers of all objects, as one who guesses would.
 */

import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { encodeFields, fieldsOf } from "../../src/ubus/blob.ts";
import { openBus } from "../../src/ubus/bus.ts";
import {
  type Attributes,
  encodeMessage,
  MessageReader,
  MessageType,
  type Received,
} from "../../src/ubus/message.ts";
import { Status } from "../../src/ubus/status.ts";
import { busAclFile, tables } from "../package/acl.ts";
import { type Line, Stage, settled } from "../ubus/stage.ts";

const directory = "/usr/share/acl.d";
const users = { root: 0, none: 1000, reader: 1001, writer: 1002, service: 1003, stranger: 4711 } as const;

/** What an administrator grants who follows the tables. */
function rights(user: string, access: readonly string[]): string {
  const granted = Object.entries(tables).map(([object, methods]) => [
    object,
    { methods: Object.keys(methods).filter((name) => access.includes(methods[name]!.access)) },
  ]);
  return JSON.stringify({ user, access: Object.fromEntries(granted) });
}

/** Accounts are looked up on the way: lets all of that happen. */
async function calm(): Promise<void> {
  for (let turn = 0; turn < 6; turn++) await settled();
}

/** Somebody on the bus. */
class Caller {
  readonly line: Line;
  readonly #reader = new MessageReader(1 << 21);
  #read = 0;
  #seq = 0;

  constructor(stage: Stage, uid: number) {
    this.line = stage.connect({ uid, gid: uid });
  }

  /** The bus has found out who it is. */
  async greeted(): Promise<void> {
    await calm();
    assert.is(this.take()[0]?.type, MessageType.Hello);
  }

  /** What came since the last time. */
  take(): Received[] {
    const fresh = this.line.received.slice(this.#read);
    this.#read = this.line.received.length;
    return fresh.flatMap((bytes) => this.#reader.push(bytes.slice()));
  }

  send(type: number, attributes: Attributes, to: { peer?: number; seq?: number } = {}): number {
    const seq = to.seq ?? ++this.#seq;
    this.line.feed(encodeMessage({ type, seq, peer: to.peer ?? 0, attributes }));
    return seq;
  }

  async ask(
    type: number,
    attributes: Attributes,
  ): Promise<{ status: number | undefined; data: Attributes[] }> {
    const seq = this.send(type, attributes);
    await calm();
    const messages = this.take().filter((each) => each.seq === seq);
    return {
      status: messages.find((each) => each.type === MessageType.Status)?.attributes.status,
      data: messages.filter((each) => each.type === MessageType.Data).map((each) => each.attributes),
    };
  }
}

async function network() {
  const stage = new Stage();
  const people = Object.entries(users).filter(([name]) => name !== "stranger");
  const passwd = people.map(([name, uid]) => `${name}:x:${uid}:${uid}::/:/bin/false`);
  stage.files.set("/etc/passwd", { text: `${passwd.join("\n")}\n` });
  stage.files.set("/etc/group", { text: `${people.map(([name, uid]) => `${name}:x:${uid}:`).join("\n")}\n` });
  stage.files.set(`${directory}/reader.json`, { text: rights("reader", ["read"]) });
  stage.files.set(`${directory}/writer.json`, { text: rights("writer", ["read", "write"]) });
  // The file that is shipped, for the user that the service runs as.
  const shipped = JSON.parse(readFileSync(busAclFile, "utf8")) as object;
  stage.files.set(`${directory}/gatehouse.json`, { text: JSON.stringify({ ...shipped, user: "service" }) });
  const bus = await openBus(stage.system, { path: "/run/ubus.sock" });
  const server = new Caller(stage, 0);
  await server.greeted();
  const ids = new Map<string, number>();
  for (const [path, methods] of Object.entries(tables)) {
    const signature = encodeFields(
      fieldsOf(Object.fromEntries(Object.keys(methods).map((name) => [name, {}]))),
    );
    const { data } = await server.ask(MessageType.AddObject, { path, signature });
    ids.set(path, data[0]!.objectId!);
  }
  const reached: string[] = [];
  /** The server answers what has come to it. */
  const serve = () => {
    for (const { type, peer, seq, attributes } of server.take()) {
      if (type !== MessageType.Invoke) continue;
      const [path] = [...ids].find(([, id]) => id === attributes.objectId)!;
      reached.push(`${path} ${attributes.method}`);
      server.send(MessageType.Status, { status: Status.Ok, objectId: attributes.objectId! }, { peer, seq });
    }
  };
  return { stage, bus, ids, reached, serve };
}

const everything = Object.entries(tables).flatMap(([object, methods]) =>
  Object.entries(methods).map(([method, { access }]) => ({ object, method, access })),
);

const expected: Readonly<Record<keyof typeof users, (access: "read" | "write") => boolean>> = {
  root: () => true,
  none: () => false,
  reader: (access) => access === "read",
  writer: () => true,
  service: () => false,
  stranger: () => false,
};

for (const [name, uid] of Object.entries(users) as [keyof typeof users, number][]) {
  test(`bus: as ${name}, exactly the methods that are granted reach the agent`, async () => {
    const { stage, bus, ids, reached, serve } = await network();
    const caller = new Caller(stage, uid);
    if (name === "stranger") {
      await calm();
      assert.ok(caller.line.closed, "without an account nobody is let in");
      assert.equal(caller.line.received, []);
      await bus.close();
      return;
    }
    await caller.greeted();
    for (const { object, method, access } of everything) {
      const before = reached.length;
      const seq = caller.send(MessageType.Invoke, {
        objectId: ids.get(object)!,
        method,
        data: encodeFields([]),
      });
      await calm();
      serve();
      await calm();
      const status = caller.take().find((each) => each.seq === seq && each.type === MessageType.Status)
        ?.attributes.status;
      const may = expected[name](access);
      assert.is(status, may ? Status.Ok : Status.PermissionDenied, `${object} ${method}`);
      assert.equal(reached.slice(before), may ? [`${object} ${method}`] : [], `${object} ${method}`);
    }
    await bus.close();
  });
}

test("bus: who may call nothing of an object does not see it, and what is seen is told apart by name alone", async () => {
  const { stage, bus, ids } = await network();
  for (const [name, sees] of [
    ["none", 0],
    ["service", 0],
    ["reader", ids.size],
    ["root", ids.size],
  ] as const) {
    const caller = new Caller(stage, users[name]);
    await caller.greeted();
    const { data } = await caller.ask(MessageType.Lookup, {});
    assert.is(data.filter(({ path }) => ids.has(path!)).length, sees, name);
  }
  await bus.close();
});

test("bus: nobody but root and the service publishes our objects, listens for all events or watches", async () => {
  const { stage, bus } = await network();
  for (const name of ["none", "reader", "writer"] as const) {
    const caller = new Caller(stage, users[name]);
    await caller.greeted();
    for (const path of ["gatehouse.tables", "spin2", "spin", "gatehouse", "system"]) {
      const { status } = await caller.ask(MessageType.AddObject, { path, signature: encodeFields([]) });
      assert.is(status, Status.InvalidArgument, `${name} publishes ${path}`);
    }
    const own = (await caller.ask(MessageType.AddObject, {})).data[0]!.objectId!;
    for (const pattern of ["*", "ubus.object.*", "gatehouse.*"]) {
      const data = encodeFields(fieldsOf({ object: own | 0, pattern }));
      const { status } = await caller.ask(MessageType.Invoke, { objectId: 1, method: "register", data });
      assert.is.not(status, Status.Ok, `${name} listens for ${pattern}`);
    }
    const sent = encodeFields(fieldsOf({ id: "gatehouse.nodes", data: {} }));
    assert.is.not(
      (await caller.ask(MessageType.Invoke, { objectId: 1, method: "send", data: sent })).status,
      Status.Ok,
    );
    const watching = await caller.ask(MessageType.Invoke, {
      objectId: 3,
      method: "add",
      data: encodeFields([]),
    });
    assert.is.not(watching.status, Status.Ok, `${name} watches`);
  }
  await bus.close();
});

test("tables: every method says whether it reads or writes, and JSON-RPC, which can do everything, writes", () => {
  assert.ok(everything.length > 20, `${everything.length} methods`);
  for (const { object, method, access } of everything) {
    assert.ok(["read", "write"].includes(access), `${object} ${method}`);
  }
  assert.is(tables.spin!.rpc!.access, "write");
});

test.run();
