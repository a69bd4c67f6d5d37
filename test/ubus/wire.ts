/**
 * Recorded connections whose programs are nearer to the wire than our client: written byte by byte, or with
 * types and statuses that it does not offer. A bare session plays them.
 */

import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import { BlobType, decodeFields, encodeFields, type Field, fieldsOf } from "../../src/ubus/blob.ts";
import { type Attributes, decodeMessage, encodeMessage, MessageType } from "../../src/ubus/message.ts";
import { addObject, lookupId, subscribe } from "../../src/ubus/requests.ts";
import { type Request, type ReturnAddress, Session } from "../../src/ubus/session.ts";
import type { Memory } from "./memory.ts";
import { type Actor, linesOf, type Scene } from "./scene.ts";
import { fieldOfTyped, hexOf, type Line, type TypedField } from "./transcript.ts";

export interface WireScene extends Scene {
  /** What is asked of the session once the bus has said hello; checked. `closed` resolves when it ends. */
  readonly play: (session: Session, closed: Promise<Fault>) => Promise<unknown>;
}

/** Puts a session to work. */
export function asSession({ play }: WireScene): (memory: Memory) => Actor {
  return (memory) => {
    let hello = () => {};
    let end = (_fault: Fault) => {};
    const ready = new Promise<void>((resolve) => {
      hello = resolve;
    });
    const closed = new Promise<Fault>((resolve) => {
      end = resolve;
    });
    const session = new Session(memory.system, "/bus", {
      onHello: () => hello(),
      onClose: (fault) => end(fault),
    });
    const played = ready.then(() => play(session, closed));
    return { played, close: () => session.close() };
  };
}

const serverId = 0x5a000003;
const options = { what: "Cannot ask", timeoutMs: 0 };
const none = new Uint8Array(0);

async function statusOf(session: Session, request: Request): Promise<number | undefined> {
  return (await session.ask(request, options)).status;
}

const invoke = (objectId: number, method: string, data: Uint8Array = none): Request => ({
  type: MessageType.Invoke,
  peer: objectId,
  attributes: { objectId, method, data },
});

const ping: Request = { type: MessageType.Ping, peer: 0, attributes: {} };

/** Counts the session's seq up, so that the next request has the recorded one. */
function countTo(session: Session, seq: number, from: number): void {
  for (let at = from; at < seq; at++) session.tell(ping, "Cannot count");
}

async function closes(promise: Promise<unknown>): Promise<void> {
  const thrown = await promise.then(
    () => undefined,
    (each: unknown) => each,
  );
  assert.instance(thrown, Fault);
  assert.is((thrown as Fault).code, "closed");
}

// ---- requests that no program should make ----

const invalidRequests: readonly (readonly [number | undefined, Request])[] = [
  [1, { type: 12, peer: 0, attributes: {} }],
  [1, { type: MessageType.Hello, peer: 0, attributes: {} }],
  [1, { type: MessageType.Monitor, peer: 0, attributes: {} }],
  [2, { type: MessageType.Invoke, peer: serverId, attributes: {} }],
  [2, { type: MessageType.Invoke, peer: serverId, attributes: { objectId: serverId } }],
  [4, invoke(0x1234, "x")],
  [2, { type: MessageType.Invoke, peer: serverId, attributes: { objectId: serverId, method: "who" } }],
  [2, invoke(serverId, "who")],
  [2, invoke(serverId, "who")],
  [6, { type: MessageType.RemoveObject, peer: 0, attributes: { objectId: serverId } }],
  [2, { type: MessageType.Subscribe, peer: 0, attributes: { objectId: serverId, target: serverId } }],
  [
    6,
    { type: MessageType.Notify, peer: serverId, attributes: { objectId: serverId, method: "x", data: none } },
  ],
  [undefined, { type: MessageType.Data, peer: 0, attributes: { objectId: serverId, data: none } }],
  [undefined, { type: MessageType.Status, peer: 0, attributes: { objectId: serverId, status: 0 } }],
  [0, ping],
];

/** Messages of 31 that a session cannot say: it says them well formed, and hears the recorded answer. */
const malformed: ReadonlyMap<number, string> = new Map([
  [8, "METHOD not terminated"],
  [9, "OBJID of eight bytes"],
  [14, "STATUS behind OBJID"],
  [15, "version 9"],
]);

function wellFormed({ bytes }: Line): Uint8Array | undefined {
  const { seq } = decodeMessage(bytes);
  return malformed.has(seq) ? encodeMessage({ ...invalidRequests[seq - 1]![1], seq }) : undefined;
}

// ---- the real servers ----

/** Publishes the object that was recorded, signature and all; every call is answered at once. */
function serves(of: string, answer: (call: Attributes) => number | readonly Field[] | Uint8Array) {
  return async (session: Session): Promise<void> => {
    const added = linesOf(of).find(({ dir }) => dir === "C2S")!;
    const { path, signature } = decodeMessage(added.bytes).attributes;
    const onInvoke = (call: Attributes, from: ReturnAddress) => {
      const outcome = answer(call);
      if (typeof outcome === "number") session.answer(from, outcome);
      else session.answer(from, 0, outcome instanceof Uint8Array ? outcome : encodeFields(outcome));
    };
    await addObject(
      session,
      { path: path!, signature: encodeFields(decodeFields(signature!)) },
      { onInvoke },
    );
  };
}

/** What the server answered with, in the terms of the independent decoder. */
function decodedAnswer(of: string): Field[] {
  const { decoded } = linesOf(of).find(
    ({ dir, decoded }) => dir === "C2S" && decoded?.type === MessageType.Data,
  )!;
  return (decoded!.attrs.find(({ name }) => name === "DATA")!.value as TypedField[]).map(fieldOfTyped);
}

/** The types of `policy`'s arguments, by name; Unspec matches all. */
const policy: readonly (readonly [string, number])[] = [
  ["unspec", BlobType.Unspec],
  ["array", BlobType.Array],
  ["table", BlobType.Table],
  ["string", BlobType.String],
  ["int64", BlobType.Int64],
  ["int32", BlobType.Int32],
  ["int16", BlobType.Int16],
  ["bool", BlobType.Int8],
  ["double", BlobType.Double],
];

function matchPolicy({ data }: Attributes): Field[] {
  const sent = decodeFields(data!);
  return policy.map(([name, type]) => {
    const hit = sent.some(
      (field) => field.name === name && (type === BlobType.Unspec || field.type === type),
    );
    return { name, type: BlobType.Int8, value: hit ? 1 : 0 };
  });
}

function greet({ data, user }: Attributes): number | Field[] {
  const sent = decodeFields(data!);
  const name = sent.find((field) => field.name === "name")!;
  if (name.type !== BlobType.String) return 2;
  if (name.value === "die") return 8;
  const text = name.value as string;
  return fieldsOf({ hi: text, int: 7, big: 5e9, dbl: 0.5, t: true, n: null, a: [1, "x"], user: user! });
}

export const wireScenes: readonly WireScene[] = [
  { of: "06-call-echo-json server", play: serves("06-call-echo-json server", ({ data }) => data!) },
  {
    of: "07-call-all-blobmsg-types server",
    play: serves("07-call-all-blobmsg-types server", () => decodedAnswer("07-call-all-blobmsg-types server")),
  },
  {
    of: "08-call-policy-matching server",
    play: serves("08-call-policy-matching server", matchPolicy),
  },
  {
    of: "10-error-statuses server",
    play: serves("10-error-statuses server", ({ data }) => decodeFields(data!)[0]!.value as number),
  },
  {
    of: "19-unsubscribe sub",
    play: async (session) => {
      const own = await addObject(session, {}, { onInvoke: () => {} });
      const target = await lookupId(session, "ref.server");
      assert.is(target, serverId);
      assert.ok(await subscribe(session, own, target!));
      const attributes = { objectId: own, target: target! };
      const unsubscribe = { type: MessageType.Unsubscribe, peer: 0, attributes };
      assert.is(await statusOf(session, unsubscribe), 0);
      assert.is(await statusOf(session, unsubscribe), 4);
    },
  },
  { of: "29-ucode-server server", play: serves("29-ucode-server server", greet) },
  {
    of: "30-raw-ping raw",
    play: async (session) => {
      const echoed: unknown[] = [];
      const onData = (attributes: Attributes) => echoed.push({ ...attributes });
      assert.is((await session.ask(ping, { ...options, onData })).status, 0);
      countTo(session, 65535, 2);
      const tagged = { type: MessageType.Ping, peer: 0x12345678, attributes: { objectId: 7 } };
      assert.is((await session.ask(tagged, { ...options, onData })).status, 0);
      assert.equal(echoed, [{}, { objectId: 7 }]);
    },
    skips: ({ bytes }) => (decodeMessage(bytes).seq === 65535 ? 65533 : 0),
  },
  {
    of: "31-raw-invalid raw",
    play: async (session) => {
      for (const [status, request] of invalidRequests) {
        if (status === undefined) session.tell(request, "Cannot tell");
        else assert.is(await statusOf(session, request), status);
      }
    },
    instead: wellFormed,
  },
  {
    of: "32-raw-invoke-peer-zero raw",
    play: async (session) => {
      countTo(session, 77, 1);
      const sent = encodeFields(fieldsOf({ a: 1 }));
      const echoed: string[] = [];
      const onData = ({ data }: Attributes) => echoed.push(hexOf(data!));
      const request = { ...invoke(serverId, "echo", sent), peer: 0 };
      assert.is((await session.ask(request, { ...options, onData })).status, 0);
      assert.equal(echoed, [hexOf(sent)]);
    },
    skips: () => 76,
  },
  {
    of: "34-raw-disconnects short",
    play: async (session, closed) => {
      await closes(session.ask(ping, options));
      assert.is((await closed).code, "closed");
    },
    // It cannot say that a blob is shorter than its own header.
    instead: ({ bytes }) => encodeMessage({ ...ping, seq: decodeMessage(bytes).seq }),
  },
  {
    of: "34-raw-disconnects long",
    play: async (session, closed) => {
      // It does not begin what the bus would hang up at: the blob would be of the recorded 1 MiB and 4 bytes.
      const data = new Uint8Array(0x100004 - 8);
      const attributes = { data };
      assert.is(encodeMessage({ ...ping, attributes, seq: 1 }).length, 8 + 0x100004);
      const refused = await session.ask({ ...ping, attributes }, options).catch((thrown) => thrown);
      assert.is((refused as Fault).code, "limit");
      assert.is((await closed).code, "closed");
    },
  },
  {
    of: "35-raw-system-objects raw",
    play: async (session) => {
      const register = fieldsOf({ object: 5, pattern: "x" });
      assert.is(await statusOf(session, invoke(1, "nope")), 1);
      assert.is(await statusOf(session, invoke(1, "register")), 2);
      assert.is(await statusOf(session, invoke(1, "register", encodeFields(register))), 6);
      assert.is(await statusOf(session, invoke(1, "send", encodeFields(fieldsOf({ id: "x" })))), 2);
      assert.is(await statusOf(session, invoke(3, "nope")), 3);
      assert.is(await statusOf(session, invoke(2, "nope")), 1);
    },
  },
];
