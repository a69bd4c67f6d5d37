/**
 * Our client in the place of the real programs: the recorded ubusd speaks, and what our client says must be
 * what the real program said, byte for byte.
 */

import { readdirSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault, type FaultCode } from "../../src/lib/fault.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { decodeFields, encodeFields } from "../../src/ubus/blob.ts";
import { connectUbus, type Ubus } from "../../src/ubus/client.ts";
import { decodeMessage, encodeMessage, MessageType } from "../../src/ubus/message.ts";
import type { Methods } from "../../src/ubus/methods.ts";
import { Memory, type Peer, settle, until } from "./memory.ts";
import { type Actor, answersToEvents, cuts, linesOf, perform, type Scene } from "./scene.ts";
import { commandsOf, hexOf, type Line, readTranscript, transcriptNames } from "./transcript.ts";
import { asSession, wireScenes } from "./wire.ts";

interface ClientScene extends Scene {
  /** What is asked of our client; checked, where something comes of it. */
  readonly play: (ubus: Ubus, memory: Memory) => unknown;
}

/** Puts our client to work. */
function asClient({ play }: ClientScene): (memory: Memory) => Actor {
  return (memory) => {
    const ubus = connectUbus(memory.system, { path: "/bus" });
    const played = Promise.resolve(play(ubus, memory));
    return { played, close: () => ubus.close() };
  };
}

const plain = (value: unknown) =>
  JSON.parse(JSON.stringify(value, (_name, each) => (typeof each === "bigint" ? `${each}` : each)));

/** A promise that must fail with this code. */
async function fails(promise: Promise<unknown>, code: FaultCode): Promise<void> {
  const thrown = await promise.then(
    () => undefined,
    (each: unknown) => each,
  );
  assert.instance(thrown, Fault);
  assert.is((thrown as Fault).code, code);
}

/** Arguments that JavaScript numbers cannot show: those of the recorded Invoke. */
function recordedData(of: string): Uint8Array {
  const said = linesOf(of).filter(({ dir }) => dir === "C2S");
  return decodeMessage(said.at(-1)!.bytes).attributes.data!;
}

const calls = (object: string, method: string, args: JsonObject, answer: unknown) => async (ubus: Ubus) =>
  assert.equal(plain(await ubus.call(object, method, args)), answer);

const refused = (object: string, method: string, args: JsonObject, code: FaultCode) => (ubus: Ubus) =>
  fails(ubus.call(object, method, args), code);

/** A call that nobody answers: it fails when its time is over, not before. */
const timesOut = (timeoutMs: number) => async (ubus: Ubus, memory: Memory) => {
  let ended = false;
  const call = fails(ubus.call("ref.server", "hang", {}, { timeoutMs }), "timeout").finally(() => {
    ended = true;
  });
  // The bus's hello, the lookup and the call come first.
  await until("the bus says hello", () => ubus.connected);
  await settle();
  await memory.advance(timeoutMs - 1);
  assert.not(ended);
  await memory.advance(1);
  await call;
};

/** Subscribes, and hears in the end exactly this; `failing` are types of which the handler wants to know nothing. */
const subscribes =
  (expected: readonly unknown[], failing: readonly string[] = []) =>
  async (ubus: Ubus) => {
    const heard: unknown[] = [];
    const { done } = ubus.subscribe("ref.server", (type, data) => {
      heard.push([type, plain(data)]);
      if (failing.includes(type)) throw new Fault("invalid", "Cannot use notification: as asked");
    });
    await done;
    await until("everything is heard", () => heard.length >= expected.length);
    await settle();
    assert.equal(heard, expected);
  };

/** A subscription whose object is gone is looked for again. */
const looksAgain = async (peer: Peer) => {
  await peer.found("ref.server");
  // Then it waits for the object to appear.
  const { type } = await peer.take();
  assert.is(type, MessageType.AddObject);
};

const scenes: ClientScene[] = [
  { of: "01-list-empty cli", play: async (ubus) => assert.equal(await ubus.lookup(), []) },
  {
    of: "03-list cli",
    play: async (ubus) =>
      assert.equal(
        (await ubus.lookup()).map(({ path, id, objectType }) => [path, id, objectType]),
        [
          ["another.one", 0x5a000006, 0x5a000005],
          ["ref.server", 0x5a000003, 0x5a000002],
        ],
      ),
  },
  {
    of: "04-list-verbose cli",
    play: async (ubus) => {
      const [object] = await ubus.lookup("ref.server");
      const status = object!.signature.find(({ name }) => name === "status");
      assert.equal(status!.value, [{ name: "code", type: 5, value: 5 }]);
    },
  },
  {
    of: "06-call-echo-json cli",
    play: async (ubus) => {
      const sent = recordedData("06-call-echo-json cli");
      const pieces: Uint8Array[] = [];
      const onData = (data: Uint8Array) => pieces.push(data.slice());
      assert.is(await ubus.invoke("ref.server", "echo", sent, { onData }), 0);
      assert.equal(pieces.map(hexOf), [hexOf(sent)]);
    },
  },
  {
    of: "07-call-all-blobmsg-types cli",
    play: async (ubus) => {
      const answer = await ubus.call("ref.server", "types");
      const printed = readTranscript("07-call-all-blobmsg-types").connections.simple!.stdout!;
      // Members without a name are printed without one, and doubles with six decimals, also past 2^53.
      assert.equal(Object.keys(answer), Object.keys(JSON.parse(printed)));
    },
  },
  {
    of: "07-call-all-blobmsg-types simple",
    play: async (ubus) => {
      const answer = await ubus.call("ref.server", "types");
      assert.is(answer.int64, 1234567890123456789n);
      assert.is(answer.int16, -2);
    },
  },
  {
    of: "08-call-policy-matching match",
    play: async (ubus) => {
      const answer = await ubus.call("ref.server", "policy", {
        ...{
          unspec: 1,
          array: [],
          table: {},
          string: "s",
          int64: 5000000000,
          int32: 1,
          int16: 1,
          bool: true,
        },
        double: 1.5,
      });
      assert.is(answer.int64, true);
      assert.is(answer.int16, false);
    },
  },
  {
    of: "08-call-policy-matching mismatch",
    play: async (ubus) => {
      const answer = await ubus.call("ref.server", "policy", {
        ...{ array: {}, table: [], string: 1, int64: 1, int32: 5000000000, bool: 1, double: 1, unknown: 1 },
      });
      assert.ok(Object.values(answer).every((each) => each === false));
    },
  },
  { of: "11-errors-by-ubusd noobject", play: refused("nope", "x", {}, "not-found") },
  { of: "11-errors-by-ubusd nomethod", play: refused("ref.server", "nope", {}, "not-found") },
  { of: "11-errors-by-ubusd simple", play: refused("ref.server", "nope", {}, "not-found") },
  { of: "12-deferred-reply slow", play: calls("ref.server", "deferred", { ms: 300 }, { answer: "late" }) },
  {
    of: "12-deferred-reply fast",
    play: calls("ref.server", "who", {}, { user: "root", group: "root", object: "ref.server" }),
  },
  { of: "13-timeout cli", play: timesOut(1000) },
  { of: "14-server-dies-during-call cli", play: timesOut(2000) },
  {
    of: "15-event-listen-send listener",
    play: async (ubus) => {
      const heard: unknown[] = [];
      ubus.listen("demo.*", (event, data) => heard.push([event, plain(data)]));
      ubus.listen("exact", (event, data) => heard.push([event, plain(data)]));
      await until("both are heard", () => heard.length >= 2);
      assert.equal(heard, [
        ["demo.one", { a: 1, b: { c: [true] } }],
        ["exact", {}],
      ]);
    },
    omits: answersToEvents,
  },
  { of: "15-event-listen-send send1", play: (ubus) => ubus.send("demo.one", { a: 1, b: { c: [true] } }) },
  { of: "15-event-listen-send send2", play: (ubus) => ubus.send("exact", {}) },
  { of: "15-event-listen-send send3", play: (ubus) => ubus.send("exact2", {}) },
  { of: "15-event-listen-send reserved", play: (ubus) => fails(ubus.send("ubus.fake", {}), "denied") },
  {
    of: "16-event-object-add-remove listener",
    play: (ubus) => ubus.listen("ubus.object.*", () => {}).done,
    omits: answersToEvents,
  },
  {
    of: "17-subscribe-notify sub1",
    play: subscribes([
      ["hello", { x: 1 }],
      ["quiet", { y: [1, 2] }],
    ]),
    after: looksAgain,
  },
  {
    of: "17-subscribe-notify sub2",
    play: subscribes(
      [
        ["hello", { x: 1 }],
        ["quiet", { y: [1, 2] }],
      ],
      ["hello"],
    ),
  },
  {
    of: "17-subscribe-notify trigger",
    play: calls("ref.server", "notify", { type: "hello", data: { x: 1 } }, {}),
  },
  {
    of: "17-subscribe-notify trigger2",
    play: calls("ref.server", "notify_noreply", { type: "quiet", data: { y: [1, 2] } }, {}),
  },
  {
    of: "20-remove-object client",
    play: async (ubus) => {
      const none = { access: "read", doc: "Does nothing.", call: () => undefined } as const;
      const published = ubus.publish("short.lived", {
        one: { ...none, args: { s: "String", n: "Integer" } },
        two: { ...none, args: {} },
      });
      await published.done;
      published.cancel();
    },
  },
  { of: "22-monitor cli", play: calls("ref.server", "echo", { a: 1 }, { a: 1 }) },
  // Descriptors go beside the bytes; ours neither sends nor takes any.
  { of: "23-fd-passing recv", play: calls("ref.server", "fd", {}, { note: "fd follows in STATUS" }) },
  { of: "23-fd-passing send", play: calls("ref.server", "takefd", {}, { got_fd: true }) },
  { of: "24-access-denied list", play: async (ubus) => assert.equal(await ubus.lookup(), []) },
  { of: "24-access-denied list1", play: async (ubus) => assert.equal(await ubus.lookup("ref.server"), []) },
  {
    of: "24-access-denied call",
    play: refused("ref.server", "who", {}, "not-found"),
    // The real one calls an id that it has not got.
    omits: ({ bytes }) => decodeMessage(bytes).type === MessageType.Invoke,
  },
  { of: "24-access-denied send", play: (ubus) => fails(ubus.send("x.y", {}), "denied") },
  { of: "24-access-denied listen", play: (ubus) => fails(ubus.listen("x.*", () => {}).done, "denied") },
  {
    of: "24-access-denied subscribe",
    play: (ubus) => {
      ubus.subscribe("ref.server", () => {});
    },
    // The real one goes on with an id that it has not got; ours waits for the object to appear.
    omits: ({ bytes }) => decodeMessage(bytes).type === MessageType.Subscribe,
    after: async (peer) => {
      const { type, attributes } = await peer.take();
      assert.is(type, MessageType.AddObject);
      assert.equal(attributes, {});
    },
  },
  {
    of: "24-access-denied publish",
    play: (ubus, memory) => fails(ubus.publish("mine", reference(ubus, memory)).done, "invalid"),
    instead: withoutPolicy,
  },
  {
    of: "25-access-by-acl list",
    play: async (ubus) => {
      const objects = await ubus.lookup();
      assert.equal(
        objects.map(({ path, signature }) => [path, signature.map(({ name }) => name)]),
        [["ref.server", ["status", "who"]]],
      );
    },
  },
  {
    of: "25-access-by-acl allowed",
    play: async (ubus) => assert.ok((await ubus.call("ref.server", "who")).user),
  },
  { of: "25-access-by-acl denied", play: refused("ref.server", "echo", {}, "denied") },
  { of: "25-access-by-acl send", play: (ubus) => ubus.send("demo.x", {}) },
  { of: "25-access-by-acl senddenied", play: (ubus) => fails(ubus.send("other.x", {}), "denied") },
  {
    of: "25-access-by-acl listenall",
    play: (ubus) => fails(ubus.listen("*", () => {}).done, "denied"),
  },
  { of: "25-access-by-acl subscriber", play: subscribes([["hello", {}]]), after: looksAgain },
  {
    of: "25-access-by-acl trigger",
    play: calls("ref.server", "notify", { type: "hello", data: {} }, {}),
  },
  {
    of: "25-access-by-acl root",
    play: calls("nobody.object", "who", {}, { user: "root", group: "root", object: "nobody.object" }),
  },
  {
    of: "27-large-message cli",
    play: calls("ref.server", "large", { size: 70000 }, { data: "x".repeat(70000) }),
  },
  {
    of: "28-wait-for waiter",
    play: async (ubus) => {
      let came = "";
      await ubus.listen("ubus.object.add", (_event, { path }) => {
        came = path as string;
      }).done;
      assert.equal(await ubus.lookup(), []);
      await until("it has come", () => came !== "");
      assert.is(came, "ref.server");
    },
    omits: answersToEvents,
  },
  {
    of: "29-ucode-server list",
    play: async (ubus) => {
      const [object] = await ubus.lookup("uc.demo");
      const [hello] = object!.signature;
      const args = hello!.value as readonly { readonly name: string; readonly value: number }[];
      assert.is(hello!.name, "hello");
      assert.equal(Object.fromEntries(args.map(({ name, value }) => [name, value])), {
        ...{ name: 3, i8: 7, i16: 6, i32: 5, i64: 4, b: 7, d: 8, arr: 1, tbl: 2 },
      });
    },
  },
  {
    of: "29-ucode-server call",
    play: async (ubus) => {
      const answer = await ubus.call("uc.demo", "hello", { name: "bob", i32: 1, b: true });
      assert.equal(plain(answer), {
        ...{ hi: "bob", int: 7, big: 5000000000, dbl: 0.5, t: true, n: null, a: [1, "x"], user: "root" },
      });
    },
  },
  { of: "29-ucode-server error", play: refused("uc.demo", "hello", { name: "die" }, "unsupported") },
  { of: "29-ucode-server wrongtype", play: refused("uc.demo", "hello", { name: 5, unknown: 1 }, "invalid") },
  {
    of: "38-reconnect-after-ubusd-restart cli",
    play: async (ubus) =>
      assert.equal(
        (await ubus.lookup()).map(({ path }) => path),
        ["my.daemon"],
      ),
  },
];

const faultOfStatus: FaultCode[] = [
  ...(["unsupported", "invalid", "not-found", "not-found", "not-found", "denied", "timeout"] as const),
  ...(["unsupported", "kernel", "closed", "limit", "invalid", "kernel"] as const),
];
for (const [index, code] of faultOfStatus.entries()) {
  const status = index + 1;
  const of = `10-error-statuses status${status}`;
  scenes.push({ of, play: refused("ref.server", "status", { code: status }, code) });
}
scenes.push({
  of: "10-error-statuses status20",
  play: refused("ref.server", "status", { code: 20 }, "kernel"),
});
scenes.push({
  of: "10-error-statuses status-1",
  play: async (ubus) => {
    const args = recordedData("10-error-statuses status-1");
    assert.is(await ubus.invoke("ref.server", "status", args), -1);
  },
});

// ---- the real server's part ----

const method = (args: Methods[string]["args"], call: Methods[string]["call"]): Methods[string] => ({
  ...{ args, call, access: "read", doc: "As the reference server has it." },
});

/** The reference server, but for one method whose arguments have types that our tables don't offer. */
const reference = (ubus: Ubus, memory: Memory, path = "ref.server"): Methods => ({
  echo: { ...method({}, (args) => args), anyArguments: true },
  types: method({}, () => undefined),
  status: method({ code: "Integer" }, ({ code }) => {
    const codes: Partial<Record<number, FaultCode>> = {
      2: "invalid",
      4: "not-found",
      6: "denied",
      7: "timeout",
    };
    const more: Partial<Record<number, FaultCode>> = {
      8: "unsupported",
      10: "closed",
      11: "limit",
      13: "kernel",
    };
    const fault = { ...codes, ...more }[code as number];
    throw fault ? new Fault(fault, "as asked") : new Error("none of ours");
  }),
  nodata: method({}, () => undefined),
  deferred: method(
    { ms: "Integer" },
    ({ ms }) =>
      new Promise((resolve) => {
        memory.system.after(ms as number, () => resolve({ answer: "late" }));
      }),
  ),
  hang: method({}, () => new Promise(() => {})),
  multi: method({}, () => undefined),
  who: method({}, (_args, { user, group }) => ({ user: user!, group: group!, object: path })),
  large: method({ size: "Integer" }, ({ size }) => ({ data: "x".repeat(size as number) })),
  notify: method({ type: "String", data: "Table" }, ({ type, data }) => {
    ubus.notify("ref.server", type as string, data as JsonObject, { reply: true }).then((replies) => {
      memory.logged.push(JSON.stringify([...replies]));
    });
    return undefined;
  }),
  notify_noreply: method({ type: "String", data: "Table" }, ({ type, data }) => {
    ubus.notify("ref.server", type as string, data as JsonObject);
    return undefined;
  }),
  fd: method({}, () => ({ note: "fd follows in STATUS" })),
  takefd: method({}, () => ({ got_fd: true })),
});

/** The recorded ADD_OBJECT without the method that ours has not. */
function withoutPolicy(line: Line): Uint8Array {
  const message = decodeMessage(line.bytes);
  const { signature } = message.attributes;
  if (!signature) return line.bytes;
  const kept = decodeFields(signature).filter(({ name }) => name !== "policy");
  return encodeMessage({ ...message, attributes: { ...message.attributes, signature: encodeFields(kept) } });
}

const serves = (ubus: Ubus, memory: Memory, path = "ref.server") =>
  ubus.publish(path, reference(ubus, memory, path)).done;

/** Serves, is told that somebody subscribes, and gets these answers to its notification. */
const notifies = (replies: readonly (readonly [number, number])[]) => async (ubus: Ubus, memory: Memory) => {
  await serves(ubus, memory);
  await until("somebody subscribes", () => ubus.hasSubscribers("ref.server"));
  await until("all have answered", () => memory.logged.length > 0);
  assert.equal(memory.logged, [JSON.stringify(replies)]);
};

/** Recordings in which the real server is the reference server and does nothing that ours cannot do. */
const served = [
  ...["02-add-object", "03-list", "04-list-verbose", "11-errors-by-ubusd", "13-timeout"],
  ...["14-server-dies-during-call", "16-event-object-add-remove", "22-monitor", "23-fd-passing"],
  ...["24-access-denied", "27-large-message", "28-wait-for", "31-raw-invalid", "32-raw-invoke-peer-zero"],
];
for (const name of served) scenes.push({ of: `${name} server`, play: serves, instead: withoutPolicy });

scenes.push(
  {
    of: "03-list server2",
    play: (ubus, memory) => serves(ubus, memory, "another.one"),
    instead: withoutPolicy,
  },
  {
    of: "12-deferred-reply server",
    play: (ubus, memory) => {
      const methods = reference(ubus, memory);
      const who = method({}, (args, caller) => {
        // The late answer comes behind this one.
        setImmediate(() => memory.advance(300));
        return methods.who!.call(args, caller);
      });
      return ubus.publish("ref.server", { ...methods, who }).done;
    },
    instead: withoutPolicy,
  },
  {
    of: "17-subscribe-notify server",
    play: notifies([
      [0x5a000007, 2],
      [0x5a000005, 0],
    ]),
    instead: withoutPolicy,
  },
  {
    of: "19-unsubscribe server",
    play: async (ubus, memory) => {
      await serves(ubus, memory);
      await settle();
      assert.not(ubus.hasSubscribers("ref.server"));
    },
    instead: withoutPolicy,
  },
  { of: "25-access-by-acl server", play: notifies([[0x5a00000c, 0]]), instead: withoutPolicy },
  {
    of: "25-access-by-acl publisher",
    play: (ubus, memory) => serves(ubus, memory, "nobody.object"),
    instead: withoutPolicy,
  },
);

for (const scene of scenes) {
  test(`our client in place of ${scene.of} says the same`, async () => {
    for (const cut of cuts) await perform(scene, asClient(scene), cut);
  });
}
for (const scene of wireScenes) {
  test(`our session in place of ${scene.of} says the same`, async () => {
    for (const cut of cuts) await perform(scene, asSession(scene), cut);
  });
}

test("our client answers every status that a Fault has, as the real server does", async () => {
  const memory = new Memory();
  const ubus = connectUbus(memory.system, { path: "/bus" });
  const peer = await memory.peer(0);
  serves(ubus, memory);
  const lines = readTranscript("10-error-statuses").lines.filter(({ conn }) => conn === "server");
  const own = ["02", "04", "06", "07", "08", "09", "0a", "0b", "0d"];
  let compared = 0;
  for (const line of lines) {
    if (line.dir === "S2C") peer.write(line.bytes);
    if (line.dir !== "C2S") continue;
    const real = decodeMessage(line.bytes);
    const said = await peer.takeBytes();
    if (real.type === MessageType.AddObject) continue;
    const status = real.attributes.status!;
    if (!own.includes(status.toString(16).padStart(2, "0"))) continue;
    assert.is(hexOf(said), hexOf(line.bytes));
    compared++;
  }
  assert.is(compared, own.length);
  ubus.close();
});

/** The one program that outlives its bus. */
const reconnecting = ["38-reconnect-after-ubusd-restart daemon", "38-reconnect-after-ubusd-restart daemon#2"];

test("our client in place of 38-reconnect daemon publishes again, with seq from 1", async () => {
  const { lines } = readTranscript("38-reconnect-after-ubusd-restart");
  const memory = new Memory();
  const ubus = connectUbus(memory.system, { path: "/bus" });
  ubus.publish("my.daemon", { ping: method({}, () => undefined) });
  for (const [index, conn] of ["daemon", "daemon#2"].entries()) {
    const peer = await memory.peer(index);
    for (const line of lines.filter((each) => each.conn === conn)) {
      if (line.dir === "S2C") peer.write(line.bytes);
      if (line.dir === "CLOSE_BY_UBUSD") peer.close();
      if (line.dir !== "C2S") continue;
      assert.is(hexOf(await peer.takeBytes()), hexOf(line.bytes));
    }
    await memory.advance(100);
  }
  assert.is(memory.peers.length, 2);
  assert.ok(ubus.connected);
  ubus.close();
});

// ---- nothing recorded is left out ----

const recorded = transcriptNames.flatMap((name) => [
  ...new Set(readTranscript(name).lines.map(({ conn }) => `${name} ${conn}`)),
]);

/** Recordings that only the command line plays, and why our client does not. */
const onlyCommands = {
  "11-errors-by-ubusd badjson": "it says nothing: what it was given is no JSON, which our client never sees",
  "22-monitor monitor": "our client does not watch others",
  "24-access-denied monitor": "our client does not watch others",
};

test("every connection of every recording is played by a program of ours, and nothing twice", () => {
  // The command line plays all of its own: test/cli/transcripts.
  const commands = transcriptNames.flatMap((name) => commandsOf(readTranscript(name)).map(({ of }) => of));
  const played = [...scenes, ...wireScenes].map(({ of }) => of).concat(reconnecting);
  assert.equal(
    recorded.filter((of) => !played.includes(of) && !commands.includes(of)),
    [],
  );
  assert.equal([...played].sort(), [...new Set(played)].sort());
  assert.equal(
    commands.filter((of) => !played.includes(of)),
    Object.keys(onlyCommands),
  );
});

test("every file of recordings is read", () => {
  const read = [...transcriptNames.map((name) => `${name}.json`), "blobmsg-vectors.json"];
  assert.equal(readdirSync("test/ubus/fixtures").sort(), read.sort());
});

test.run();
