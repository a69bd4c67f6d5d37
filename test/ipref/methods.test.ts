/** The object gatehouse.ipref. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { iprefMethods, type MethodParts } from "../../src/ipref/methods.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json } from "../../src/lib/json.ts";
import { answerBytes, maxAnswerBytes } from "../../src/ubus/methods.ts";
import { address, codeOf, Stage } from "./stage.ts";

const caller = { user: "root", group: "root" };
const peer = address("203.0.113.98");

async function opened(
  parts: Partial<MethodParts> = {},
  options: ConstructorParameters<typeof Stage>[0] = {},
) {
  const stage = new Stage(options);
  const mappings = await stage.open();
  const methods = iprefMethods({ mappings, clock: stage.machine, ...parts });
  const call = async (name: string, args: Readonly<Record<string, Json>> = {}) =>
    (await methods[name]!.call(args, caller)) as Record<string, Json>;
  return { stage, mappings, methods, call };
}

test("every method says what it takes, and only those that change something write", async () => {
  const { methods } = await opened();
  assert.equal(Object.keys(methods), ["status", "mappings", "peers", "drops", "add", "remove", "resolve"]);
  const writing = Object.entries(methods).filter(([, { access }]) => access === "write");
  assert.equal(
    writing.map(([name]) => name),
    ["add", "remove", "resolve"],
  );
  for (const { doc } of Object.values(methods)) assert.match(doc, /^[A-Z].*\.$/);
});

test("add, mappings, remove: what is written down is shown and ends", async () => {
  const { call } = await opened();
  assert.equal(await call("add", { kind: "ours", address: "192.168.97.11", reference: "2711" }), {
    ...{ kind: "ours", address: "192.168.97.11", reference: "2711" },
  });
  await call("add", { kind: "theirs", address: "10.240.2.98", context: "203.0.113.98", reference: "b-7" });
  const { mappings } = await call("mappings");
  assert.equal(mappings, [
    {
      id: 1,
      kind: "ours",
      address: "192.168.97.11",
      context: "198.51.100.97",
      reference: "2711",
      state: "static",
      source: "user",
    },
    {
      id: 2,
      kind: "theirs",
      address: "10.240.2.98",
      context: "203.0.113.98",
      reference: "b-7",
      state: "static",
      source: "user",
    },
  ]);
  await call("remove", { kind: "ours", address: "192.168.97.11", reference: "2711" });
  assert.is(((await call("mappings")).mappings as Json[]).length, 1);
  assert.is(
    await codeOf(call("remove", { kind: "ours", address: "192.168.97.11", reference: "2711" })),
    "not-found",
  );
});

test("mappings: pages by number, and filters", async () => {
  const { call, mappings, stage } = await opened();
  for (let at = 1; at <= 25; at++) await mappings.encodedFor(peer, BigInt(at));
  await mappings.referenceFor(address("192.168.97.11"));
  await mappings.encodedFor(address("203.0.113.99"), 5n);
  const seen: Json[] = [];
  let pages = 0;
  for (let after = 0, more = true; more; pages++) {
    const page = await call("mappings", { after, limit: 10 });
    const rows = page.mappings as { id: number }[];
    seen.push(...rows.map(({ id }) => id));
    [after, more] = [rows.at(-1)!.id, page.more === true];
  }
  assert.is(pages, 3);
  assert.is(new Set(seen).size, 27);
  const count = async (args: Record<string, Json>) =>
    ((await call("mappings", args)).mappings as Json[]).length;
  assert.is(await count({ kind: "ours" }), 1);
  assert.is(await count({ peer: "203.0.113.99" }), 1);
  assert.is(await count({ address: "192.168.97.11" }), 1);
  assert.is(await count({ state: "rest" }), 0);
  assert.is(await count({ source: "user" }), 0);
  await stage.pass(14_400_000);
  assert.is(await count({ state: "rest" }), 27);
  const [row] = (await call("mappings", { limit: 1 })).mappings as [Record<string, Json>];
  assert.is(row.kept_for, 21_600);
  assert.is(row.expires_in, undefined);
});

test("mappings: a page fits into one message, however many there are", async () => {
  const { call, mappings } = await opened({}, { maxPerPeer: 4_000 });
  await Promise.all(
    Array.from({ length: 3_000 }, (_, at) => mappings.encodedFor(peer, (1n << 127n) + BigInt(at + 1))),
  );
  const page = await call("mappings");
  assert.ok(answerBytes(page) <= maxAnswerBytes);
  assert.ok((page.mappings as Json[]).length >= 1_000);
  assert.is(page.more, true);
});

test("status, peers and drops: what other parts know is shown beside", async () => {
  const { call, mappings, stage } = await opened({
    status: () => ({ forwards: true }),
    drops: () => ({ "unknown source": 3 }),
    peerCounters: (context) => (context === peer ? { packets_in: 5 } : undefined),
  });
  await mappings.encodedFor(peer, 1n);
  await mappings.encodedFor(address("203.0.113.99"), 1n, "packet");
  await mappings.setSource("hosts:/etc/hosts", [
    { kind: "ours", address: address("224.0.0.1"), context: undefined, reference: 5n },
  ]);
  await stage.pass(5_000);
  const status = await call("status");
  assert.is(status.forwards, true);
  assert.is(status.gateway_address, "10.240.0.1");
  assert.is(status.mappings, 2);
  assert.is(status.peers, 2);
  assert.equal(status.sources, [
    {
      ...{ source: "hosts:/etc/hosts", records: 1, unused: 1 },
      refusals: [{ kind: "ours", address: "224.0.0.1", reference: "5", why: "no host can have the address" }],
    },
  ]);
  const { peers } = await call("peers");
  assert.equal(peers, [
    { context: "203.0.113.98", by_packet: 0, by_name: 1, static: 0, resting: 0, used: 5, packets_in: 5 },
    { context: "203.0.113.99", by_packet: 1, by_name: 0, static: 0, resting: 0, used: 5 },
  ]);
  assert.equal(await call("peers", { limit: 1 }), { peers: [(peers as Json[])[0]!], more: true });
  assert.equal(await call("peers", { after: "203.0.113.98" }), { peers: [(peers as Json[])[1]!] });
  assert.equal(await call("drops"), { drops: { "unknown source": 3 } });
});

test("resolve: names go to whoever knows DNS, and answers say how long they last", async () => {
  const { call, mappings } = await opened({
    resolve: async (name) => {
      if (name !== "nas.parents.example")
        throw new Fault("not-found", `Cannot resolve ${name}: no such name`);
      return [await mappings.encodedFor(peer, 11n)];
    },
  });
  const { addresses } = await call("resolve", { name: "nas.parents.example" });
  const [row] = addresses as [Record<string, Json>];
  assert.is(row.context, "203.0.113.98");
  assert.is(row.reference, "11");
  assert.is(row.expires_in, 14_400);
  assert.is(await codeOf(call("resolve", { name: "other.example" })), "not-found");
  assert.is(await codeOf((await opened()).call("resolve", { name: "x" })), "unsupported");
});

test("arguments that make no sense are refused as such", async () => {
  const { call } = await opened({ resolve: async () => [] });
  const right = { kind: "ours", address: "192.168.97.11", reference: "2711" };
  const wrong: readonly (readonly [string, Record<string, Json>])[] = [
    ["add", {}],
    ["add", { ...right, kind: "__proto__" }],
    ["add", { ...right, address: "192.168.97.999" }],
    ["add", { ...right, reference: "1,234" }],
    ["add", { ...right, reference: "0" }],
    ["add", { ...right, reference: "9".repeat(5_000) }],
    ["add", { ...right, context: "gw.example.com" }],
    ["add", { ...right, kind: "theirs" }],
    ["add", { ...right, reference: "4660" }],
    ["remove", { kind: "ours" }],
    ["remove", { ...right, reference: "x" }],
    ["resolve", {}],
    ["resolve", { name: "" }],
    ["resolve", { name: "x".repeat(254) }],
    ["mappings", { limit: 0 }],
    ["mappings", { limit: 2_001 }],
    ["mappings", { limit: 1.5 }],
    ["mappings", { after: -1 }],
    ["mappings", { state: "dead" }],
    ["mappings", { kind: "x" }],
    ["mappings", { peer: "x" }],
    ["mappings", { address: "x" }],
    ["mappings", { source: "s".repeat(1_000) }],
    ["peers", { after: "x" }],
    ["peers", { limit: -1 }],
  ];
  for (const [name, args] of wrong)
    assert.is(await codeOf(() => call(name, args)), "invalid", `${name} ${JSON.stringify(args)}`);
});

test("any arguments at all: an answer or a fault with a code, nothing else", async () => {
  const { methods } = await opened({ resolve: async () => [] });
  const json = fc.jsonValue({ maxDepth: 1 });
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(methods)),
      fc.dictionary(
        fc.constantFrom(
          "kind",
          "address",
          "context",
          "reference",
          "name",
          "after",
          "limit",
          "state",
          "peer",
          "source",
        ),
        json,
      ),
      async (name, args) => {
        try {
          await methods[name]!.call(args as Record<string, Json>, caller);
        } catch (thrown) {
          assert.instance(thrown, Fault);
        }
      },
    ),
    { numRuns: 500 },
  );
});

test.run();
