/** Life and death: expiry, floods, what subscribers are told, what lies on disk. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Json } from "../../src/lib/json.ts";
import { Nodes, nodeMethods, nodesFormat } from "../../src/nodes/nodes.ts";
import { address, camera, laptop, mac, phone, Stage, start } from "./stage.ts";

const minute = 60_000;
const day = 86_400_000;
const syntaxError = (thrown: unknown) => thrown instanceof SyntaxError;

/** As the store writes and reads it. */
function throughDisk(state: Json): unknown {
  return JSON.parse(
    JSON.stringify(state, (_, value) => (typeof value === "bigint" ? value.toString() : value)),
  );
}

function restart(stage: Stage, options: ConstructorParameters<typeof Stage>[0] = {}): Stage {
  const state = nodesFormat.parse(throughDisk(stage.nodes.save(stage.at)));
  stage.nodes.saved();
  const next = new Stage({ now: 5000, date: stage.date, ...options });
  next.nodes.load(state, next.at);
  return next;
}

test("defect 6: far and bare nodes expire after 30 minutes unseen, with a reason; devices after 30 days", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const far = stage.traffic("198.51.100.1")!;
  const local = stage.traffic("10.77.0.99")!;
  const name = stage.ask("10.77.0.12", "web.example.").ids!.queried;
  stage.nodes.takeChanged();
  stage.pass(29 * minute);
  stage.traffic("198.51.100.1");
  assert.equal(stage.nodes.takeRemoved(), []);
  stage.pass(2 * minute);
  assert.equal(stage.nodes.takeRemoved(), [
    { id: local, reason: "expired" },
    { id: name, reason: "expired" },
  ]);
  stage.pass(29 * minute);
  assert.equal(stage.nodes.takeRemoved(), [{ id: far, reason: "expired" }]);
  stage.pass(29 * day);
  assert.is(stage.nodes.resolve(device), device);
  stage.pass(1.1 * day);
  assert.equal(stage.nodes.takeRemoved(), [{ id: device, reason: "expired" }]);
  assert.equal(
    stage.nodes.ids().map((id) => stage.kind(id)),
    ["router", "gateway"],
  );
});

test("what is pinned, named by the user or leased does not expire", () => {
  const stage = new Stage().router();
  const pinned = stage.traffic("198.51.100.1")!;
  const named = stage.traffic("198.51.100.2")!;
  const leased = stage.lease("10.77.0.12", camera)!;
  stage.nodes.pin(pinned, "block");
  stage.nodes.pin(pinned, "list");
  stage.nodes.rename(named, "mine");
  stage.pass(100 * day);
  assert.equal(
    [pinned, named, leased].map((id) => stage.nodes.resolve(id)),
    [pinned, named, leased],
  );
  stage.nodes.unpin(pinned, "block");
  stage.nodes.unpin(pinned, "nobody");
  stage.pass(minute);
  assert.is(stage.nodes.resolve(pinned), pinned, "one pin is left");
  stage.nodes.unpin(pinned, "list");
  stage.nodes.rename(named, "");
  stage.nodes.leases([], stage.at);
  stage.pass(minute);
  assert.equal(
    [pinned, named, leased].map((id) => stage.nodes.resolve(id)),
    [undefined, undefined, undefined],
  );
});

test("defect 6: an alias answers for its time, then its end is told; with its node at once", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const bare = stage.traffic("fd77::12")!;
  stage.neighbour("fd77::12", camera);
  stage.nodes.takeChanged();
  stage.pass(6 * day);
  assert.is(stage.nodes.resolve(bare), device);
  stage.pass(2 * day);
  assert.is(stage.nodes.resolve(bare), undefined);
  assert.equal(stage.nodes.takeRemoved(), [{ id: bare, reason: "alias" }]);

  const second = stage.traffic("fd77::13")!;
  stage.neighbour("fd77::13", camera);
  stage.pass(31 * day, { ticks: 1 });
  assert.equal(stage.nodes.takeRemoved(), [
    { id: second, reason: "alias" },
    { id: device, reason: "expired" },
  ]);
});

test("a lease that came by a merge holds the node until it ends, also after the alias has gone", () => {
  const stage = new Stage().router();
  const [old, kept] = [stage.lease("10.77.0.11", laptop)!, stage.neighbour("10.77.0.12", camera)!];
  stage.nodes.merge(old, kept, stage.at);
  stage.pass(40 * day);
  assert.is(stage.nodes.resolve(old), undefined, "the alias has gone");
  assert.is(stage.nodes.resolve(kept), kept, "it is leased");
  stage.nodes.leases([], stage.at);
  stage.pass(minute);
  assert.is(stage.nodes.resolve(kept), undefined);
});

test("after a start the router keeps only the addresses that it still has", () => {
  const stage = new Stage().router();
  stage.own("10.78.0.1");
  const router = stage.id("10.78.0.1");
  const next = restart(stage).router();
  next.pass(10_000);
  assert.is(next.id("10.77.0.1"), router);
  assert.equal(next.ips(router), ["10.77.0.1", "192.0.2.1", "fd77::1", "fe80::77:ff:fe00:1"]);
});

test("takeChanged() tells each node once per change, and seen again at most once a minute", () => {
  const stage = new Stage().router();
  stage.nodes.takeChanged();
  const id = stage.neighbour("10.77.0.12", camera)!;
  assert.equal(stage.nodes.takeChanged(), [id]);
  assert.equal(stage.nodes.takeChanged(), []);
  for (let second = 0; second < 60; second++) {
    stage.pass(1000);
    stage.traffic("10.77.0.12");
  }
  assert.equal(stage.nodes.takeChanged(), [id]);
  stage.nodes.rename(id, "x");
  stage.nodes.rename(id, "x");
  assert.equal(stage.nodes.takeChanged(), [id]);
});

test("a node that nobody was told of goes without a word", () => {
  const stage = new Stage().router();
  stage.nodes.takeChanged();
  stage.traffic("198.51.100.1");
  stage.pass(31 * minute);
  assert.equal(stage.nodes.takeRemoved(), []);
  assert.equal(stage.nodes.takeChanged(), []);
});

test("20,000 invented MACs stay within the cap and displace no known device", () => {
  const stage = new Stage({ limits: { nodes: 512 } }).router();
  const leased = stage.lease("10.77.0.11", laptop)!;
  const pinned = stage.neighbour("10.77.0.12", camera)!;
  const named = stage.neighbour("10.77.0.13", phone)!;
  const regular = stage.neighbour("10.77.0.14", "02:77:00:00:00:14")!;
  const talker = stage.traffic("198.51.100.1", "10.77.0.14")!;
  stage.nodes.pin(pinned, "block");
  stage.nodes.rename(named, "phone");
  for (let count = 0; count < 5; count++) {
    stage.pass(2 * minute);
    for (const each of ["10.77.0.14", "198.51.100.1"]) stage.traffic(each);
  }
  const known = [leased, pinned, named, regular, talker];
  for (let count = 0; count < 20_000; count++) {
    const tail = count
      .toString(16)
      .padStart(6, "0")
      .replace(/(..)(?=.)/g, "$1:");
    stage.now += 5;
    stage.neighbour(`fd77::${(count + 1000).toString(16)}`, `06:00:00:${tail}`);
    assert.ok(stage.nodes.size <= 512);
  }
  assert.equal(
    known.map((id) => stage.nodes.resolve(id)),
    known,
  );
  assert.ok(stage.nodes.status.evicted > 19_000);
  assert.ok(stage.nodes.takeRemoved().length <= 512 * 4);
  // Who comes after the flood, with a lease, finds a place.
  assert.ok(stage.lease("10.77.0.99", mac("02:77:00:00:00:99")) !== undefined);
});

test("20,000 invented names and addresses stay within the cap and displace no device and nothing pinned", () => {
  const stage = new Stage({ limits: { nodes: 512, questions: 1000, answers: 1000 } }).router();
  const devices = [laptop, camera, phone].map((who, index) => stage.neighbour(`10.77.0.${11 + index}`, who)!);
  const pinned = stage.traffic("198.51.100.1")!;
  stage.nodes.pin(pinned, "block");
  const used = stage.resolve("10.77.0.12", "used.example.", ["198.51.100.2"])!;
  for (let count = 0; count < 3; count++) {
    stage.pass(2 * minute);
    stage.traffic("198.51.100.2", "10.77.0.12");
  }
  for (let count = 0; count < 20_000; count++) {
    stage.now += 1;
    const far = `100.64.${count >> 8}.${count & 255}`;
    if (count % 2) stage.resolve("10.77.0.11", `n${count}.example.`, [far]);
    else stage.traffic(far, "10.77.0.11");
    assert.ok(stage.nodes.size <= 512);
  }
  assert.equal(
    [...devices, pinned, used].map((id) => stage.nodes.resolve(id)),
    [...devices, pinned, used],
  );
  const { questions, answers } = stage.nodes.status;
  assert.ok(questions <= 1000 && answers <= 1000);
  assert.is(stage.traffic("198.51.100.2", "10.77.0.12"), used, "the other client's memory is untouched");
});

test("when every node is pinned a new one is refused, counted, and nothing breaks", () => {
  const stage = new Stage({ limits: { nodes: 8 } });
  for (let last = 1; last <= 8; last++) {
    const id = stage.traffic(`198.51.100.${last}`);
    if (id !== undefined) stage.nodes.pin(id, "block");
  }
  const size = stage.nodes.size;
  assert.is(stage.traffic("198.51.100.99"), undefined);
  stage.neighbour("10.77.0.12", camera);
  stage.neighbour("10.77.0.13", phone);
  stage.neighbour("10.77.0.14", laptop);
  assert.is(stage.ask("10.77.0.12", "web.example.").ids, undefined);
  assert.ok(size <= 8 && stage.nodes.size <= 8);
  assert.ok(stage.nodes.status.refused >= 2);
});

test("one MAC that claims thousands of addresses keeps the newest", () => {
  const stage = new Stage({ limits: { addressesPerNode: 16 } }).router();
  const id = stage.lease("10.77.0.12", camera)!;
  for (let count = 2; count <= 5000; count++) {
    stage.now += 1;
    assert.is(stage.neighbour(`fd77::${count.toString(16)}`, camera), id);
  }
  const ips = stage.ips(id);
  assert.is(ips.length, 16);
  assert.ok(ips.includes("10.77.0.12"), "the leased one stays");
  assert.ok(ips.includes("fd77::1388"));
});

test("save() and load(): devices and router always, others while wanted, all under their ids", () => {
  const stage = new Stage().router();
  const device = stage.lease("10.77.0.11", laptop, { name: "laptop", clientId: "ff:01" })!;
  stage.neighbour("fd77::11", laptop);
  const bare = stage.traffic("fd77::1:11")!;
  stage.neighbour("fd77::1:11", laptop);
  const name = stage.resolve("10.77.0.11", "web.example.", ["198.51.100.10"])!;
  const named = stage.traffic("198.51.100.2")!;
  const dropped = stage.traffic("198.51.100.3")!;
  stage.nodes.pin(name, "block");
  stage.nodes.rename(named, "__proto__");
  stage.nodes.count(device, { bytesIn: 2n ** 60n + 1n, packetsIn: 1n, bytesOut: 2n, packetsOut: 3n });
  const router = stage.id("10.77.0.1")!;
  stage.pass(10 * minute);
  const before = [device, name, named, router].map((id) => stage.nodes.detail(id)!);

  const next = restart(stage);
  assert.equal(
    next.nodes.ids(),
    [device, name, named, router].sort((a, b) => a - b),
  );
  for (const [index, id] of [device, name, named, router].entries()) {
    const now = next.nodes.detail(id)!;
    for (const field of [
      "id",
      "name",
      "mac",
      "lastseen",
      "ips",
      "domains",
      "kind",
      "firstseen",
      "bytes_in",
      "aliases",
      "dhcp_identities",
    ]) {
      assert.equal(now[field], before[index]![field], `${id} ${field}`);
    }
  }
  assert.is(next.nodes.resolve(bare), device, "aliases answer on");
  assert.is(next.nodes.resolve(dropped), undefined);
  assert.is(next.neighbour("10.77.0.77", laptop), device);
  assert.is(next.lease("10.77.0.78", mac("06:00:00:00:00:78"), { clientId: "ff:01" }), device);
  assert.ok(next.traffic("203.0.113.1")! > dropped, "no number is given twice");
  assert.not.ok(next.nodes.takeRemoved().length);
});

test("load(): an address that is a node of its own stays its home, though a name holds it too and came first", () => {
  const stage = new Stage().router();
  stage.neighbour("10.77.0.11", laptop);
  const name = stage.ask("10.77.0.11", "a.example.").ids!.queried;
  stage.nodes.rename(name, "the name");
  const bare = stage.traffic("198.51.100.1")!;
  stage.nodes.rename(bare, "the address");
  stage.resolve("10.77.0.11", "a.example.", ["198.51.100.1"]);
  assert.is(stage.nodes.find(address("198.51.100.1")), bare);
  assert.is(restart(stage).nodes.find(address("198.51.100.1")), bare);
});

test("load(): an address that the router lost meanwhile is nobody else's until the next tick, then not the router's", () => {
  const stage = new Stage().router();
  stage.own("198.51.100.1");
  const router = stage.id("198.51.100.1");
  const next = restart(stage).router();
  next.neighbour("10.77.0.11", laptop);
  const name = next.resolve("10.77.0.11", "a.example.", ["198.51.100.1"]);
  assert.is(next.id("198.51.100.1"), router);
  assert.equal(next.ips(name), []);
  next.pass(10_000);
  assert.not.ok(next.ips(router).includes("198.51.100.1"));
  assert.ok(next.ips(router).includes("10.77.0.1"));
});

test("a state that is loaded and saved again is the same but for the reserve", () => {
  const stage = new Stage().router();
  stage.lease("10.77.0.11", laptop, { name: "laptop" });
  stage.neighbour("10.77.0.12", camera);
  const once = throughDisk(stage.nodes.save(stage.at)) as Record<string, unknown>;
  const next = new Stage({ date: stage.date, now: 0 });
  next.nodes.load(nodesFormat.parse(once), next.at);
  const again = throughDisk(next.nodes.save(next.at)) as Record<string, unknown>;
  assert.ok((again.nextId as number) > (once.nextId as number));
  // Leases are told anew after a start.
  const plain = (state: Record<string, unknown>) =>
    JSON.stringify(state.nodes).replaceAll('"dhcp"', '"neighbour"').replaceAll('"own"', '"neighbour"');
  assert.is(plain(again), plain(once));
});

for (const [title, date] of [
  ["at 1970", 60_000],
  ["50 years ahead", start + 50 * 365 * day],
  ["a day behind", start - day],
] as const) {
  test(`a clock ${title} after the start expires nothing, and dates are right once it is set`, () => {
    const stage = new Stage().router();
    const device = stage.neighbour("10.77.0.12", camera)!;
    const firstseen = stage.nodes.summary(device)!.firstseen;
    stage.pass(20 * day);
    const next = restart(stage, { date });
    next.pass(9 * day);
    assert.is(next.nodes.resolve(device), device);
    assert.is(next.nodes.summary(device)!.firstseen, firstseen);
    next.neighbour("10.77.0.12", camera);
    const fresh = next.neighbour("10.77.0.13", phone)!;
    next.date = start + 29 * day;
    next.nodes.tick(next.at);
    next.pass(10_000);
    assert.is(next.nodes.info(fresh)!.lastseen, Math.floor((next.date - 10_000) / 1000));
    // Once more from there: what was saved under the wrong clock is read under the right one.
    const third = restart(next);
    third.pass(day / 2);
    assert.is(third.nodes.resolve(device), device);
  });
}

test("a node read from disk has at least a day, whatever the dates say", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const state = throughDisk(stage.nodes.save(stage.at)) as { nodes: { id: number; lastSeen: number }[] };
  for (const node of state.nodes) node.lastSeen = 0;
  const next = new Stage();
  next.nodes.load(nodesFormat.parse(state), next.at);
  next.pass(0.9 * day);
  assert.is(next.nodes.resolve(device), device);
  next.pass(0.2 * day);
  assert.is(next.nodes.resolve(device), undefined);
});

test("load() takes devices first when the limit was lowered, and only into an empty room", () => {
  const stage = new Stage().router();
  for (let last = 1; last <= 20; last++) stage.nodes.pin(stage.traffic(`198.51.100.${last}`)!, "block");
  const device = stage.neighbour("10.77.0.12", camera)!;
  const next = restart(stage, { limits: { nodes: 4 } });
  assert.is(next.nodes.size, 4);
  assert.is(next.nodes.resolve(device), device);
  const state = nodesFormat.parse(throughDisk(stage.nodes.save(stage.at)));
  assert.throws(() => next.nodes.load(state, next.at), /there are nodes already/);
});

test("dirty: what outlives the agent changed; seeing things again is not worth a write", () => {
  const stage = new Stage().router();
  const changes: boolean[] = [];
  const saved = () => {
    changes.push(stage.nodes.dirty);
    stage.nodes.save(stage.at);
    stage.nodes.saved();
  };
  saved();
  const expect = (title: string, dirty: boolean, change: () => void) => {
    change();
    assert.is(stage.nodes.dirty, dirty, title);
    saved();
  };
  let device = 0;
  let far = 0;
  expect("a device", true, () => {
    device = stage.neighbour("10.77.0.12", camera)!;
  });
  expect("seen again", false, () => {
    stage.pass(5 * minute);
    stage.neighbour("10.77.0.12", camera);
    stage.neighbour("fd77::12", camera);
    stage.nodes.count(device, { bytesIn: 1n, packetsIn: 1n, bytesOut: 1n, packetsOut: 1n });
  });
  expect("a far node", false, () => {
    far = stage.traffic("198.51.100.1")!;
    stage.resolve("10.77.0.12", "web.example.", ["198.51.100.2"]);
  });
  expect("a name", true, () => stage.nodes.rename(device, "camera"));
  expect("the same name", false, () => stage.nodes.rename(device, "camera"));
  expect("a pin on a far node", true, () => stage.nodes.pin(far, "block"));
  expect("a second pin", false, () => stage.nodes.pin(far, "list"));
  expect("an address of a pinned device", true, () => {
    stage.nodes.pin(device, "block");
    stage.neighbour("fd77::13", camera);
  });
  expect("a lease's name", true, () => stage.lease("10.77.0.12", camera, { name: "own" }));
  expect("no pin any more", true, () => {
    stage.nodes.unpin(far, "block");
    stage.nodes.unpin(far, "list");
  });
  expect("a far node expires", false, () => stage.pass(40 * minute));
  assert.is(changes[0], true);
});

interface Loose {
  nodes: Record<string, unknown>[];
  nextId: number;
}
const top = (change: object) => (state: Loose) => Object.assign(state, change);
const node = (index: number, change: (nodes: Loose["nodes"]) => object) => (state: Loose) =>
  Object.assign(state.nodes[index]!, change(state.nodes));
const place = (change: object) => (state: Loose) =>
  Object.assign((state.nodes[0]!.addresses as object[])[0]!, change);
const all = (change: object) => (state: Loose) => {
  for (const each of state.nodes) Object.assign(each, change);
};
const negative = { bytesIn: "-1", packetsIn: 0, bytesOut: 0, packetsOut: 0 };

/** In the state that they spoil the router comes first, then a device. */
const damage: readonly (readonly [string, (state: Loose) => unknown])[] = [
  ["no nodes", top({ nodes: undefined })],
  ["nodes no list", top({ nodes: {} })],
  ["an id of 0", node(0, () => ({ id: 0 }))],
  ["an id that is a text", node(0, () => ({ id: "1" }))],
  ["an id past the next", top({ nextId: 1 })],
  ["an id twice", node(1, ([first]) => ({ id: first!.id }))],
  ["a next id past all numbers", top({ nextId: 2 ** 31 })],
  ["a kind that is none", node(0, () => ({ kind: "__proto__" }))],
  ["two routers", all({ kind: "router" })],
  ["a multicast address", place({ address: "224.0.0.1" })],
  ["an address of two devices", node(1, ([first]) => ({ addresses: first!.addresses }))],
  ["a source that is none", place({ source: "rumour" })],
  ["a MAC that is none", node(1, () => ({ macs: ["x"] }))],
  ["an identity of two devices", all({ clients: ["4 x"] })],
  ["a name of a megabyte", node(1, () => ({ userName: "x".repeat(1e6) }))],
  ["a name that is a number", node(1, () => ({ userName: 5 }))],
  ["a named node without name", node(1, () => ({ kind: "name" }))],
  ["a negative counter", node(1, () => ({ traffic: negative }))],
  ["a date that is none", node(0, () => ({ lastSeen: "2026-01-01" }))],
  [
    "more addresses than anything has",
    node(0, ([first]) => ({ addresses: new Array(5000).fill((first!.addresses as object[])[0]) })),
  ],
  ["a pair of three", top({ apart: [[1, 2, 3]] })],
  ["a pair of names", top({ apart: [["1", "2"]] })],
  ["a day that is none", top({ day: -1 })],
  ["a pin that is neither true nor false", node(1, () => ({ pinned: "yes" }))],
  ["a total that is no number", node(1, () => ({ today: { ...negative } }))],
  ["names since a text", node(1, () => ({ named: { user: "today" } }))],
  ["an address since a text", place({ since: "today" })],
  ["an alias of no number", top({ aliases: [{ id: 1, into: "2", since: 0 }] })],
  [
    "an alias with a multicast address",
    top({ aliases: [{ id: 1, into: 2, since: 0, addresses: ["224.0.0.1"] }] }),
  ],
  [
    "an alias that is a node",
    (state) => top({ aliases: [{ id: state.nodes[0]!.id, into: 2, since: 0 }] })(state),
  ],
];
for (const [title, spoil] of damage) {
  test(`parse() refuses ${title}`, () => {
    const stage = new Stage().router();
    stage.neighbour("10.77.0.12", camera);
    const state = throughDisk(stage.nodes.save(stage.at)) as Loose;
    nodesFormat.parse(state);
    spoil(state);
    assert.throws(() => nodesFormat.parse(state), syntaxError);
  });
}

test("parse() of any JSON throws nothing but SyntaxError, and what it takes loads", () => {
  const stage = new Stage().router();
  stage.lease("10.77.0.12", camera, { name: "camera", clientId: "ff:00" });
  stage.nodes.pin(stage.resolve("10.77.0.12", "web.example.", ["198.51.100.1"])!, "block");
  const [device, one, two] = [
    stage.id("10.77.0.12")!,
    stage.neighbour("10.77.0.11", laptop)!,
    stage.neighbour("10.77.0.13", phone)!,
  ];
  stage.nodes.merge(one, two, stage.at);
  stage.nodes.merge(two, device, stage.at);
  stage.nodes.split(two, stage.at);
  stage.nodes.pin(two, "user");
  stage.nodes.rename(two, "phone");
  stage.nodes.count(device, { bytesIn: 1n, packetsIn: 1n, bytesOut: 1n, packetsOut: 1n });
  const good = JSON.stringify(throughDisk(stage.nodes.save(stage.at)));
  const check = (value: unknown) => {
    try {
      const next = new Stage();
      next.nodes.load(nodesFormat.parse(value), next.at);
      for (const id of next.nodes.ids()) next.nodes.detail(id);
      for (const [id] of [...next.nodes.aliases()]) next.code(() => next.nodes.split(id, next.at));
      next.nodes.save(next.at);
      next.pass(60 * day);
    } catch (thrown) {
      assert.instance(thrown, SyntaxError);
    }
  };
  fc.assert(fc.property(fc.jsonValue(), check));
  const key = fc.constantFrom(
    "id",
    "kind",
    "addresses",
    "macs",
    "nodes",
    "aliases",
    "nextId",
    "savedAt",
    "dnsName",
    "lastSeen",
    "source",
    "apart",
    "via",
    "into",
    "shared",
    "named",
    "today",
    "day",
    "pinned",
    "since",
  );
  const mutation = fc.tuple(key, fc.jsonValue(), fc.nat(20));
  fc.assert(
    fc.property(mutation, ([name, value, place]) => {
      let seen = 0;
      check(JSON.parse(good, (at, each) => (at === name && seen++ === place ? value : each)));
    }),
    { numRuns: 1000 },
  );
});

test("load(): aliases that lead in a circle, to nobody, or to themselves do no harm", () => {
  const stage = new Stage().router();
  const into = stage.neighbour("10.77.0.12", camera)!;
  const state = throughDisk(stage.nodes.save(stage.at)) as Record<string, unknown>;
  const alias = (id: number, via: number) => ({ id, into, via, since: 0, addresses: ["10.77.0.12"] });
  state.aliases = [
    alias(101, 102),
    alias(102, 101),
    alias(103, 103),
    alias(104, 999),
    { ...alias(105, 5), into: 9 },
  ];
  state.apart = [
    [101, 102],
    [103, 103],
    [7, 8],
  ];
  const next = new Stage();
  next.nodes.load(nodesFormat.parse(state), next.at);
  assert.equal(
    [...next.nodes.aliases()].map(([old]) => old),
    [101, 102, 103, 104],
  );
  for (const id of [101, 102, 103, 104]) next.code(() => next.nodes.split(id, next.at));
  next.pass(60 * day);
  assert.is(next.nodes.resolve(104), undefined);
});

test("nodeMethods: a list that no message could hold comes in parts, of which each node is in one", () => {
  const stage = new Stage({ limits: { nodes: 20_000 } }).router();
  const client = stage.neighbour("10.77.0.12", camera)!;
  assert.ok(client);
  for (let at = 0; at < 6_000; at++) {
    stage.nodes.nameObserved(
      `host-${at}.example.net.`,
      [{ address: address(`198.51.${at >> 8}.${at & 255}`), ttlSeconds: 60 }],
      stage.at,
    );
  }
  const methods = nodeMethods(stage.nodes);
  const ids: number[] = [];
  for (let parts = 1; ; parts++) {
    const after = ids.at(-1) ?? 0;
    const answer = methods.list!.call({ after }, { user: undefined, group: undefined }) as {
      nodes: { id: number }[];
      more?: boolean;
    };
    assert.ok(
      JSON.stringify(answer, (_, value) => (typeof value === "bigint" ? String(value) : value)).length <
        1_048_576,
    );
    ids.push(...answer.nodes.map((node) => node.id));
    if (answer.more) continue;
    assert.ok(parts > 1);
    break;
  }
  assert.equal(ids, stage.nodes.ids());
});

test("nodeMethods: list, get, rename", async () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const changed: number[] = [];
  const methods = nodeMethods(stage.nodes, { changed: (id) => void changed.push(id) });
  const caller = { user: undefined, group: undefined };
  const call = (name: string, args: Record<string, Json>) => methods[name]!.call(args, caller);
  const code = async (name: string, args: Record<string, Json>) => {
    try {
      await call(name, args);
    } catch (thrown) {
      return (thrown as { code?: string }).code;
    }
    return "done";
  };
  const { nodes } = call("list", {}) as { nodes: Record<string, Json>[] };
  assert.equal(
    nodes.map((node) => node.id),
    stage.nodes.ids(),
  );
  assert.equal(Object.keys(nodes.at(-1)!), [
    "id",
    "mac",
    "lastseen",
    "ips",
    "domains",
    "kind",
    "firstseen",
    "randomised_mac",
    "bytes_in",
    "packets_in",
    "bytes_out",
    "packets_out",
    "today_in",
    "today_out",
  ]);
  const part = call("list", { after: stage.nodes.ids()[0]!, limit: 1 }) as { nodes: Record<string, Json>[] };
  assert.equal(
    part.nodes.map((node) => node.id),
    [stage.nodes.ids()[1]],
  );
  assert.is((call("get", { node: device }) as Record<string, Json>).kind, "device");
  assert.is(await code("rename", { node: device, name: "cam" }), "done");
  assert.equal(changed, [device]);
  assert.is((call("get", { node: device }) as Record<string, Json>).name, "cam");
  assert.is(await code("get", { node: 9999 }), "not-found");
  assert.is(await code("get", {}), "invalid");
  assert.is(await code("get", { node: "1" }), "invalid");
  assert.is(await code("rename", { node: 9999, name: "x" }), "not-found");
  assert.is(await code("rename", { node: device }), "invalid");
  assert.is(await code("rename", { node: device, name: "a\nb" }), "invalid");
  assert.is(await code("list", { limit: -1 }), "invalid");
  assert.equal(changed, [device], "a call that failed changed nothing");
  assert.equal(
    Object.entries(methods).map(([name, { access }]) => `${name} ${access}`),
    [
      "list read",
      "get read",
      "rename write",
      "pin write",
      "merge write",
      "split write",
      "forget write",
      "series read",
    ],
  );
});

test("info() has SPIN's fields in SPIN's order, flags only when set, domains by length", () => {
  const stage = new Stage().router();
  const id = stage.traffic("198.51.100.10")!;
  stage.nodes.pin(id, "block");
  stage.neighbour("10.77.0.11", laptop);
  for (const name of ["longer.example.", "b.example.", "a.example."]) {
    stage.resolve("10.77.0.11", name, ["198.51.100.10"]);
  }
  assert.equal(stage.nodes.info(id)!.domains, ["a.example.", "b.example.", "longer.example."]);
  assert.equal(Object.keys(stage.nodes.info(id)!), ["id", "lastseen", "ips", "domains"]);
  assert.is(stage.nodes.info(999), undefined);

  const other = new Nodes({ flags: (node) => ({ blocked: node === 1, excepted: true }) });
  const at = { now: 0, date: 1795228988_500 };
  for (const text of ["fd77::12", "10.77.0.12"]) {
    other.neighbour({ address: address(text), mac: camera, side: "lan", state: "reachable" }, at);
  }
  other.rename(1, "camera");
  assert.is(
    JSON.stringify(other.info(1)),
    '{"id":1,"name":"camera","mac":"02:77:00:00:00:12","is_blocked":true,"is_excepted":true,' +
      '"lastseen":1795228988,"ips":["10.77.0.12","fd77::12"],"domains":[]}',
  );
});

test("aliases of 20,000 merges stay within their cap", () => {
  const stage = new Stage({ limits: { aliases: 100 } }).router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  for (let count = 1; count <= 20_000; count++) {
    stage.now += 1;
    stage.traffic(`fd77::${count.toString(16)}`);
    stage.neighbour(`fd77::${count.toString(16)}`, camera);
  }
  assert.ok((stage.nodes.detail(device)!.aliases as number[]).length <= 100);
  assert.ok(stage.nodes.takeMerged().length <= 100);
  assert.is(stage.nodes.resolve(device), device);
});

test.run();
