/** What callers of the bus get: SPIN's answers, and our own. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows, flowMethods, spinMethods } from "../../src/flows/flows.ts";
import { parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json, JsonObject } from "../../src/lib/json.ts";
import { listNames } from "../../src/lib/spin.ts";
import { encodeFields, fieldsOf } from "../../src/ubus/blob.ts";
import type { Methods } from "../../src/ubus/methods.ts";

const nobody = { user: undefined, group: undefined };

function make(commit: () => Promise<void> = async () => {}) {
  const flows = new Flows({
    resolve: (id) => (id >= 1 && id <= 9 ? id : id === 42 ? 4 : undefined),
    commit,
    maxBlocks: 3,
  });
  const spin = spinMethods(flows);
  const own = flowMethods(flows, {
    dateOf: (at) => 1_795_228_693_000 + at,
    sharedWith: (id) => (id === 2 ? [7, 1] : []),
  });
  const call = async (methods: Methods, name: string, args: Record<string, Json> = {}) =>
    methods[name]!.call(args, nobody);
  return { flows, spin, own, call };
}

/** A signature as `ubus -v list` prints it. */
const signature = (methods: Methods) =>
  Object.entries(methods).map(([name, method]) => `"${name}":${JSON.stringify(method.args)}`);

test("spin has the three signatures of SPIN, to the letter", () => {
  assert.equal(signature(make().spin), [
    '"spindlist":{"list":"Integer","addrem":"Integer","node":"Integer"}',
    '"blockflow":{"node1":"Integer","node2":"Integer","block":"Integer"}',
    '"get_blockflow":{}',
  ]);
});

test("only what changes nothing is readable", () => {
  const { spin, own } = make();
  const access = { ...spin, ...own };
  const reads = Object.keys(access).filter((name) => access[name]!.access === "read");
  assert.equal(reads, ["get_blockflow", "list", "lists"]);
  assert.ok(Object.values(access).every((method) => method.doc.endsWith(".")));
});

const conversations: readonly [
  why: string,
  calls: readonly [method: string, args: Record<string, Json>, answer: string][],
][] = [
  [
    "block, ask, unblock",
    [
      ["get_blockflow", {}, '{"result":[]}'],
      ["blockflow", { node1: 9, node2: 2, block: 1 }, '{"return":0}'],
      ["blockflow", { node1: 1, node2: 9, block: 1 }, '{"return":0}'],
      ["get_blockflow", {}, '{"result":[{"node1":1,"node2":9},{"node1":2,"node2":9}]}'],
      ["blockflow", { node1: 2, node2: 9, block: 0 }, '{"return":0}'],
      ["get_blockflow", {}, '{"result":[{"node1":1,"node2":9}]}'],
    ],
  ],
  [
    "block twice",
    [
      ["blockflow", { node1: 1, node2: 2, block: 1 }, '{"return":0}'],
      ["blockflow", { node1: 1, node2: 2, block: 1 }, '{"return":0}'],
    ],
  ],
  ["unblock what is not blocked", [["blockflow", { node1: 1, node2: 2, block: 0 }, '{"return":0}']]],
  [
    "any block but 0 blocks",
    [
      ["blockflow", { node1: 1, node2: 2, block: -7 }, '{"return":0}'],
      ["get_blockflow", {}, '{"result":[{"node1":1,"node2":2}]}'],
    ],
  ],
  [
    "no block is 0: unblock",
    [
      ["blockflow", { node1: 1, node2: 2, block: 1 }, '{"return":0}'],
      ["blockflow", { node1: 1, node2: 2 }, '{"return":0}'],
      ["get_blockflow", {}, '{"result":[]}'],
    ],
  ],
  ["an unknown node", [["blockflow", { node1: 1, node2: 4242, block: 1 }, '{"return":4}']]],
  ["no nodes at all", [["blockflow", {}, '{"return":4}']]],
  ["one node twice", [["blockflow", { node1: 9, node2: 9, block: 1 }, '{"return":2}']]],
  ["one node and its merged id", [["blockflow", { node1: 4, node2: 42, block: 1 }, '{"return":2}']]],
  [
    "too many blocks",
    [
      ["blockflow", { node1: 1, node2: 2, block: 1 }, '{"return":0}'],
      ["blockflow", { node1: 1, node2: 3, block: 1 }, '{"return":0}'],
      ["blockflow", { node1: 1, node2: 4, block: 1 }, '{"return":0}'],
      ["blockflow", { node1: 1, node2: 5, block: 1 }, '{"return":9}'],
    ],
  ],
  [
    "the block list",
    [
      ["spindlist", { list: 0, addrem: 0, node: 4 }, '{"fake-return":"ok"}'],
      ["spindlist", { list: 0, addrem: 1, node: 4 }, '{"fake-return":"ok"}'],
    ],
  ],
  ["missing numbers are 0: on the block list", [["spindlist", { node: 4 }, '{"fake-return":"ok"}']]],
  [
    "a list that is none",
    [
      ["spindlist", { list: 3, addrem: 0, node: 4 }, '{"fake-return":"invalid"}'],
      ["spindlist", { list: -1, addrem: 0, node: 4 }, '{"fake-return":"invalid"}'],
    ],
  ],
  ["neither add nor remove", [["spindlist", { list: 0, addrem: 2, node: 4 }, '{"fake-return":"invalid"}']]],
  [
    "an unknown node on a list",
    [["spindlist", { list: 1, addrem: 0, node: 999 }, '{"fake-return":"not-found"}']],
  ],
];

for (const [why, calls] of conversations) {
  test(`spin answers: ${why}`, async () => {
    const { spin, call } = make();
    for (const [method, args, answer] of calls)
      assert.is(JSON.stringify(await call(spin, method, args)), answer);
  });
}

test("spindlist reaches the three lists by their numbers", async () => {
  const { flows, spin, call } = make();
  for (const [list, name] of [
    [0, "block"],
    [1, "ignore"],
    [2, "allow"],
  ] as const) {
    await call(spin, "spindlist", { list, addrem: 0, node: 5 });
    assert.ok(flows.isListed(name, 5));
    await call(spin, "spindlist", { list, addrem: 1, node: 5 });
    assert.not.ok(flows.isListed(name, 5));
  }
});

for (const code of ["kernel", "storage"] as const) {
  test(`a ${code} fault fails the call, for SPIN's callers too`, async () => {
    const { spin, own, call } = make(async () => {
      throw new Fault(code, "Cannot do it");
    });
    for (const asked of [
      call(spin, "blockflow", { node1: 1, node2: 2, block: 1 }),
      call(spin, "spindlist", { list: 0, addrem: 0, node: 1 }),
      call(own, "block", { node1: 1, node2: 2 }),
    ]) {
      assert.is(await asked.catch((thrown: Fault) => thrown.code), code);
    }
  });
}

test("gatehouse.flows blocks and unblocks, idempotently, and says who else is hit", async () => {
  const { own, call, flows } = make();
  assert.equal(await call(own, "block", { node1: 3, node2: 1 }), { changed: true });
  assert.equal(await call(own, "block", { node1: 1, node2: 3 }), { changed: false });
  assert.equal(await call(own, "block", { node1: 1, node2: 2 }), { changed: true, also_hit: [7] });
  assert.equal(await call(own, "unblock", { node1: 2, node2: 1 }), { changed: true });
  assert.equal(await call(own, "unblock", { node1: 2, node2: 1 }), { changed: false });
  assert.equal(flows.pairs(), [[1, 3]]);
});

const faults: readonly [method: string, args: Record<string, Json>, code: string, message: RegExp][] = [
  ["block", { node1: 1, node2: 99 }, "not-found", /Cannot block flow of 1 and 99: there is no node 99/],
  ["unblock", {}, "not-found", /there is no node 0/],
  ["block", { node1: 5, node2: 5 }, "invalid", /both are node 5/],
  ["block", { node1: 42, node2: 4 }, "invalid", /both are node 4/],
  ["list", { node: 99 }, "not-found", /there is no node 99/],
  ["list_add", { list: "block", node: 99 }, "not-found", /Cannot add to list block: there is no node 99/],
  ["list_add", { list: "block" }, "invalid", /name a node or an address/],
  ["list_add", { list: "block", node: 1, address: "10.0.0.1" }, "invalid", /name a node or an address/],
  ["list_add", { list: "b", node: 1 }, "invalid", /it has to be block, ignore, allow/],
  ["list_add", { node: 1 }, "invalid", /it has to be block, ignore, allow/],
  ["list_add", { list: "__proto__", node: 1 }, "invalid", /it has to be block/],
  ["list_add", { list: "allow", address: "10.0.0.0/33" }, "invalid", /neither an address nor a prefix/],
  ["list_add", { list: "allow", address: "" }, "invalid", /neither an address nor a prefix/],
  ["list_remove", { list: "allow", address: "foo" }, "invalid", /Cannot remove from list: that is neither/],
  ["list_remove", { list: "allow", node: 0 }, "not-found", /there is no node 0/],
  ["lists", { list: "" }, "invalid", /Cannot show lists: it has to be block, ignore, allow/],
];

for (const [method, args, code, message] of faults) {
  test(`gatehouse.flows ${method} ${JSON.stringify(args)} is a fault "${code}"`, async () => {
    const { own, call } = make();
    const thrown = await call(own, method, args).catch((fault: Fault) => fault);
    assert.instance(thrown, Fault);
    assert.is((thrown as Fault).code, code);
    assert.match((thrown as Fault).message, message);
  });
}

test("gatehouse.flows list shows records, the blocked ones marked, and the pairs", async () => {
  const { flows, own, call } = make();
  const activity = { protocol: 6, fromPort: 5, toPort: 80, packets: 1, at: 0 };
  flows.account({ ...activity, from: 1, to: 2, bytes: 2n ** 60n });
  flows.account({ ...activity, from: 3, to: 4, bytes: 5, at: 2_500 });
  await flows.block(3, 4);
  assert.equal(await call(own, "list"), {
    flows: [
      {
        from: 3,
        to: 4,
        protocol: 6,
        to_port: 80,
        icmp_type: 0,
        packets: 1n,
        bytes: 5n,
        first_seen: 1_795_228_695,
        last_seen: 1_795_228_695,
        blocked: true,
      },
      {
        from: 1,
        to: 2,
        protocol: 6,
        to_port: 80,
        icmp_type: 0,
        packets: 1n,
        bytes: 2n ** 60n,
        first_seen: 1_795_228_693,
        last_seen: 1_795_228_693,
        blocked: false,
      },
    ],
    total: 2,
    blocked: [{ node1: 3, node2: 4, hits: 0 }],
  });
  const shown = async (args: Record<string, Json>) => {
    const { flows: list, total } = (await call(own, "list", args)) as unknown as {
      flows: unknown[];
      total: number;
    };
    return [list.length, total];
  };
  assert.equal(await shown({ node: 42 }), [1, 1]);
  assert.equal(await shown({ node: 9 }), [0, 0]);
  assert.equal(await shown({ limit: 1 }), [1, 2]);
  assert.equal(await shown({ limit: -5 }), [2, 2]);
});

test("gatehouse.flows list gives a node's own pairs", async () => {
  const { flows, own, call } = make();
  await flows.block(3, 4);
  await flows.block(1, 2);
  assert.equal(await call(own, "list", { node: 42 }), {
    flows: [],
    total: 0,
    blocked: [{ node1: 3, node2: 4, hits: 0 }],
  });
});

test("gatehouse.flows list_add and list_remove take nodes, addresses and prefixes", async () => {
  const { own, call, flows } = make();
  const add = (args: Record<string, Json>) => call(own, "list_add", { list: "block", ...args });
  const remove = (args: Record<string, Json>) => call(own, "list_remove", { list: "block", ...args });
  assert.equal(await add({ node: 42 }), { changed: true });
  assert.equal(await add({ node: 4 }), { changed: false });
  assert.equal(await add({ node: 2 }), { changed: true, also_hit: [7, 1] });
  assert.equal(await add({ address: "10.0.0.0/24" }), { changed: true });
  assert.equal(await add({ address: "10.0.0.9/24" }), { changed: false });
  assert.equal(await add({ address: "10.0.0.1" }), { changed: true });
  assert.equal(await add({ address: "FD00::1" }), { changed: true });
  assert.equal(await call(own, "lists", { list: "block" }), {
    block: { nodes: [2, 4], prefixes: ["10.0.0.0/24", "10.0.0.1", "fd00::1"], hits: [] },
  });
  assert.equal(await remove({ address: "10.0.0.1" }), { changed: true, still_listed_by: ["10.0.0.0/24"] });
  assert.equal(await remove({ address: "10.0.0.0/24" }), { changed: true });
  assert.equal(await remove({ address: "10.0.0.1" }), { changed: false });
  assert.equal(await remove({ node: 4 }), { changed: true });
  assert.equal(flows.entries("block"), { nodes: [2], prefixes: ["fd00::1/128"] });
});

test("gatehouse.flows lists shows all three, and what was hit last first", async () => {
  const { own, call, flows } = make();
  await call(own, "list_add", { list: "block", node: 1 });
  await flows.as("anna").listNet("block", parsePrefix("10.0.0.0/8")!, true);
  await call(own, "list_add", { list: "ignore", address: "fd00::/8" });
  const packet = { protocol: 6, fromPort: 1, toPort: 2, bytes: 3, destination: parseAddress("10.1.1.1")! };
  flows.report({ ...packet, from: 1, to: 3, at: 1_000 });
  flows.report({ ...packet, from: 5, to: 3, at: 2_500 });
  assert.equal(await call(own, "lists"), {
    block: {
      nodes: [1],
      prefixes: ["10.0.0.0/8"],
      hits: [
        { list: "block", address: "10.0.0.0/8", by: "anna", hits: 2, last_hit: 1_795_228_695 },
        { list: "block", node: 1, hits: 1, last_hit: 1_795_228_694 },
      ],
    },
    ignore: { nodes: [], prefixes: ["fd00::/8"], hits: [] },
    allow: { nodes: [], prefixes: [], hits: [] },
  });
});

test("gatehouse.flows list shows how often a pair was hit, also after a merge", async () => {
  const { own, call, flows } = make();
  await flows.block(3, 4);
  await flows.block(3, 5);
  const packet = { protocol: 17, fromPort: 1, toPort: 2, bytes: 3 };
  flows.report({ ...packet, from: 4, to: 3, at: 1_000 });
  flows.report({ ...packet, from: 3, to: 4, at: 2_000 });
  flows.report({ ...packet, from: 3, to: 9, at: 9_000 });
  const blocked = async () => ((await call(own, "list")) as { blocked: Json }).blocked;
  assert.equal(await blocked(), [
    { node1: 3, node2: 4, hits: 2, last_hit: 1_795_228_695 },
    { node1: 3, node2: 5, hits: 0 },
  ]);
  flows.merge(4, 5);
  flows.report({ ...packet, from: 5, to: 3, at: 3_000 });
  assert.equal(await blocked(), [{ node1: 3, node2: 5, hits: 3, last_hit: 1_795_228_696 }]);
});

test("decisions carry the name of the caller that the bus vouches for, of SPIN's callers too", async () => {
  const { spin, own, flows } = make();
  const anna = { user: "anna", group: "users" };
  await spin.blockflow!.call({ node1: 1, node2: 2, block: 1 }, anna);
  await spin.spindlist!.call({ list: 0, addrem: 0, node: 3 }, anna);
  await own.block!.call({ node1: 1, node2: 4 }, { user: undefined, group: undefined });
  assert.equal(
    [...flows.pairEntries(), ...flows.listEntries("block")].map((each) => each.by),
    ["anna", "", "anna"],
  );
});

test("answers fit into a message of the bus, with as many blocks and records as may be", async () => {
  const size = (answer: unknown) => encodeFields(fieldsOf(answer as JsonObject)).length;
  const flows = new Flows({ resolve: (id) => id, commit: async () => {}, maxBlocks: 25_000 });
  const [spin, own] = [spinMethods(flows), flowMethods(flows, { dateOf: (at) => at })];
  const activity = { from: 1, to: 2, protocol: 6, fromPort: 1, bytes: 2n ** 63n, packets: 2n ** 63n };
  for (let toPort = 0; toPort < 8_000; toPort++) flows.account({ ...activity, toPort, at: toPort });
  const listed = async () => {
    const answer = (await own.list!.call({ limit: 2 ** 31 - 1 }, nobody)) as { flows: unknown[] };
    assert.ok(size(answer) < 1_048_576 - 100);
    return answer.flows.length;
  };
  assert.ok((await listed()) > 4_000);
  await Promise.all(Array.from({ length: 25_000 }, (_, index) => flows.block(1, index + 2)));
  assert.is(await listed(), 0);
  assert.ok(size(await spin.get_blockflow!.call({}, nobody)) < 1_048_576 - 100);
});

test("lists fit into a message of the bus one by one, however long; else the answer says so", async () => {
  const size = (answer: unknown) => encodeFields(fieldsOf(answer as JsonObject)).length;
  const flows = new Flows({ resolve: (id) => id, commit: async () => {} });
  const own = flowMethods(flows, { dateOf: (at) => at });
  const by = "x".repeat(64);
  for (const list of listNames) {
    for (let index = 0; index < 10_000; index++) {
      const text = `2001:db8:1111:2222:3333:4444:5555:${(0x1000 + 2 * index).toString(16)}/127`;
      void flows.as(by).listNet(list, parsePrefix(text)!, true);
    }
  }
  await flows.as(by).list("block", 2 ** 31 - 1, true);
  for (let index = 0; index < 10_000; index++) {
    const destination = parseAddress(
      `2001:db8:1111:2222:3333:4444:5555:${(0x1000 + 2 * index).toString(16)}`,
    )!;
    flows.report({
      ...{ from: 1, to: 2, destination, protocol: 6, fromPort: 1, toPort: 2, bytes: 3 },
      at: 2 ** 52,
    });
  }
  for (const list of listNames) {
    assert.ok(size(await own.lists!.call({ list }, nobody)) < 1_048_576 - 100);
  }
  assert.throws(
    () => own.lists!.call({}, nobody),
    (thrown: unknown) => thrown instanceof Fault && thrown.code === "limit",
  );
});

test.run();
