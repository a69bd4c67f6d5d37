/** The user's word: pins, addresses, imports, forgetting, and the calls that say it. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Json } from "../../src/lib/json.ts";
import { nodeMethods } from "../../src/nodes/nodes.ts";
import { address, camera, laptop, mac, phone, Stage } from "./stage.ts";

const day = 86_400_000;
const c1 = "10.77.0.11";

test("pin(): the user's own outlives the agent and holds any node; those of rooms are set anew", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const far = stage.traffic("198.51.100.1")!;
  const blocked = stage.traffic("198.51.100.2")!;
  for (const id of [device, far]) stage.nodes.pin(id, "user");
  stage.nodes.pin(blocked, "block");
  const next = stage.restart().router();
  assert.equal(
    [device, far].map((id) => next.detail(id).pinned_by),
    [["user"], ["user"]],
  );
  assert.equal(next.detail(blocked).pinned_by, [], "kept for its room to pin it");
  next.pass(100 * day);
  assert.equal(
    [device, far].map((id) => next.nodes.resolve(id)),
    [device, far],
  );
  next.nodes.unpin(far, "user");
  assert.ok(next.nodes.dirty);
  next.pass(60_000);
  assert.is(next.nodes.resolve(far), undefined);
});

test("pin(): that the user pins or unpins what a room pins, too, is worth a write", () => {
  const stage = new Stage().router();
  const id = stage.traffic("198.51.100.1")!;
  stage.nodes.pin(id, "block");
  for (const change of ["pin", "unpin"] as const) {
    stage.nodes.save(stage.at);
    stage.nodes[change](id, "user");
    assert.ok(stage.nodes.dirty, change);
  }
  assert.is(stage.restart().detail(id).pinned, undefined);
});

test("forget() removes what nothing pins, and says why not", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const bare = stage.traffic("fd77::12")!;
  stage.neighbour("fd77::12", camera);
  const gateway = stage.id("192.0.2.254")!;
  const router = stage.id("10.77.0.1")!;
  stage.nodes.rename(device, "mine");
  stage.nodes.takeChanged();
  const why = (id: number) => {
    try {
      stage.nodes.forget(id, stage.at);
    } catch (thrown) {
      return `${(thrown as { code: string }).code}: ${(thrown as Error).message}`;
    }
    return "done";
  };
  assert.is(why(999), "not-found: Cannot forget node 999: there is no such node");
  assert.is(why(router), `invalid: Cannot forget node ${router}: it is the router`);
  assert.is(why(gateway), `invalid: Cannot forget node ${gateway}: it is the gateway`);
  assert.is(why(bare), `invalid: Cannot forget node ${bare}: it was merged into ${device}`);
  stage.nodes.pin(device, "block");
  stage.nodes.pin(device, "user");
  assert.is(why(device), `invalid: Cannot forget node ${device}: it is pinned by block, user`);
  stage.nodes.unpin(device, "block");
  stage.nodes.unpin(device, "user");
  assert.is(why(device), "done");
  assert.equal(stage.nodes.takeRemoved(), [
    { id: bare, reason: "alias" },
    { id: device, reason: "user" },
  ]);
  const back = stage.neighbour("10.77.0.12", camera)!;
  assert.ok(back > router && back !== device, "still there, it comes back as another");
});

test("addAddress() ties an address to a node, or to a new one", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  stage.nodes.pin(device, "block");
  assert.is(stage.nodes.addAddress(device, address("10.99.0.12"), stage.at), device);
  assert.equal(stage.told, [`ends ${device}`]);
  assert.ok(stage.nodes.dirty);
  const near = stage.nodes.addAddress(0, address("10.77.0.50"), stage.at);
  const far = stage.nodes.addAddress(0, address("203.0.113.9"), stage.at);
  assert.equal(
    [near, far].map((id) => stage.kind(id)),
    ["local", "address"],
  );
  const source = (id: number) => (stage.detail(id).addresses as { address: string; source: string }[]).at(-1);
  assert.is(source(device)!.source, "user");
  // It ages away neither here nor in the next life.
  stage.pass(20 * day);
  const next = stage.restart().router();
  next.pass(20 * day);
  assert.equal(
    next.ips(device),
    ["10.77.0.12", "10.99.0.12"].slice(-1),
    "the other one was not seen for long",
  );
  assert.equal([next.id("10.77.0.50"), next.id("203.0.113.9")], [near, far]);
});

test("addAddress() refuses what a node has already, what names no device, and unknown nodes", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const bare = stage.traffic("198.51.100.1")!;
  const name = stage.resolve("10.77.0.12", "a.example.", ["198.51.100.2"])!;
  const code = (id: number, text: string) =>
    stage.code(() => stage.nodes.addAddress(id, address(text), stage.at));
  assert.is(code(device, "10.77.0.12"), "conflict");
  assert.is(code(0, "198.51.100.1"), "conflict");
  assert.is(code(bare, "198.51.100.2"), "conflict");
  assert.is(code(device, "10.77.0.1"), "conflict");
  assert.is(code(999, "10.77.0.60"), "not-found");
  for (const text of ["224.0.0.1", "127.0.0.1", "10.77.0.255", "::", "ff02::1"]) {
    assert.is(code(device, text), "invalid", text);
  }
  assert.is(code(stage.id("10.77.0.1")!, "10.77.0.60"), "invalid");
  assert.is(code(stage.id("192.0.2.254")!, "198.51.100.60"), "invalid");
  assert.is(stage.id("10.77.0.60"), undefined, "nothing has changed");
  assert.is(code(name, "198.51.100.3"), "done");
  stage.pass(10 * day);
  assert.equal(stage.ips(name), ["198.51.100.3"], "answers outlive their time, the user's word does not");
});

test("addAddress(): tied addresses push out those that are merely seen, and no tied one", () => {
  const stage = new Stage({ limits: { addressesPerNode: 3 } }).router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const code = (last: number) =>
    stage.code(() => stage.nodes.addAddress(device, address(`10.77.0.5${last}`), stage.at));
  assert.equal([1, 2, 3, 4].map(code), ["done", "done", "done", "limit"]);
  assert.equal(stage.ips(device), ["10.77.0.51", "10.77.0.52", "10.77.0.53"]);
});

test("an address tied by the user: claims don't take it, another device that really answers for it does", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const other = stage.neighbour("10.77.0.13", phone)!;
  stage.nodes.addAddress(device, address("10.77.0.50"), stage.at);
  stage.neighbour("10.77.0.50", phone, "stale");
  stage.lease("10.77.0.50", phone, { clientId: "ff:03" });
  assert.is(stage.id("10.77.0.50"), device, "remembered and leased is not proven");
  assert.is(stage.traffic("10.77.0.50"), device);
  assert.equal(
    stage.nodes.takeConflicts().map(({ holder, claimant }) => [holder, claimant]),
    [[device, phone]],
    "the claim is told",
  );
  // Its own MAC answers: it stays the user's word.
  stage.pass(120_000);
  stage.neighbour("10.77.0.50", camera);
  stage.nodes.leases([], stage.at);
  assert.is((stage.detail(device).addresses as { source: string }[]).at(-1)!.source, "user");
  stage.pass(120_000);
  stage.neighbour("10.77.0.50", phone);
  assert.is(stage.id("10.77.0.50"), other, "it answers: what is proven later than the word counts");
  assert.equal(
    stage.nodes.takeConflicts().map(({ holder, claimant }) => [holder, claimant]),
    [[device, phone]],
  );
});

test("an address tied to a new node becomes the device's whose MAC answers, under the same id", () => {
  const stage = new Stage().router();
  const tied = stage.nodes.addAddress(0, address("10.77.0.50"), stage.at);
  assert.is(stage.neighbour("10.77.0.50", mac("02:77:00:00:00:50")), tied);
  assert.is(stage.kind(tied), "device");
});

test("deviceByMac() finds the device, of several behind one MAC the eldest", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  assert.is(stage.nodes.deviceByMac(camera), device);
  assert.is(stage.nodes.deviceByMac(phone), undefined);
  const repeater = mac("02:77:00:00:00:aa");
  const one = stage.lease("10.77.0.40", repeater, { clientId: "ff:0a" })!;
  stage.lease("10.77.0.41", repeater, { clientId: "ff:0b" });
  assert.is(stage.nodes.deviceByMac(repeater), one);
});

test("nameObserved() believes what is said without a question, but puts nothing near into a name", () => {
  const stage = new Stage().router();
  stage.neighbour(c1, laptop);
  const answers = ["198.51.100.10", c1, "10.77.0.1", "127.0.0.1"].map((text) => ({
    address: address(text),
    ttlSeconds: 60,
  }));
  const id = stage.nodes.nameObserved("Web.Example.", answers, stage.at)!;
  assert.equal(stage.nodes.info(id)!.domains, ["web.example."]);
  assert.equal(stage.ips(id), ["198.51.100.10"]);
  assert.is(stage.nodes.nameObserved("web.example.", [], stage.at), id);
  assert.is(stage.nodes.nameObserved("x".repeat(2000), [], stage.at), undefined);
  for (const ttlSeconds of [Number.NaN, -5, Number.POSITIVE_INFINITY]) {
    stage.nodes.nameObserved("odd.example.", [{ address: address("198.51.100.11"), ttlSeconds }], stage.at);
  }
  stage.pass(2 * day);
  assert.is(stage.id("198.51.100.11"), undefined);
});

interface Import {
  readonly title: string;
  readonly before?: (stage: Stage) => void;
  readonly adoption: { mac?: string; name?: string; addresses: string[]; names?: string[] };
  readonly node: { kind: string; ips: string[]; name?: string; domains?: string[] };
}

const imports: readonly Import[] = [
  {
    title: "a device that is known by its MAC keeps what it has",
    before: (stage) => {
      stage.neighbour("10.77.0.12", camera);
      stage.nodes.rename(stage.id("10.77.0.12")!, "mine");
    },
    adoption: { mac: camera, name: "camera", addresses: ["10.77.0.12", "fd77::12"] },
    node: { kind: "device", ips: ["10.77.0.12", "fd77::12"], name: "mine" },
  },
  {
    title: "a device that nobody has seen yet",
    adoption: { mac: camera, name: "camera", addresses: ["10.77.0.12"] },
    node: { kind: "device", ips: ["10.77.0.12"], name: "camera" },
  },
  {
    title: "a device whose address is another's now comes without it",
    before: (stage) => void stage.neighbour("10.77.0.12", phone),
    adoption: { mac: camera, addresses: ["10.77.0.12", "fd77::12"] },
    node: { kind: "device", ips: ["fd77::12"] },
  },
  {
    title: "a device that was fused with a host elsewhere comes without that",
    adoption: { mac: camera, addresses: ["10.77.0.12", "203.0.113.9", "224.0.0.1", "10.77.0.255"] },
    node: { kind: "device", ips: ["10.77.0.12"] },
  },
  {
    title: "a bare address learns its MAC",
    before: (stage) => void stage.traffic("fd77::12"),
    adoption: { mac: camera, addresses: ["fd77::12"] },
    node: { kind: "device", ips: ["fd77::12"] },
  },
  {
    title: "the gateway is no device, whatever its MAC",
    adoption: { mac: "02:77:00:00:01:fe", addresses: ["192.0.2.254"] },
    node: { kind: "gateway", ips: ["192.0.2.254"] },
  },
  {
    title: "a name with its addresses",
    adoption: { addresses: ["198.51.100.10", "2001:db8:100::10"], names: ["web.example.net."] },
    node: { kind: "name", ips: ["198.51.100.10", "2001:db8:100::10"], domains: ["web.example.net."] },
  },
  {
    title: "several names that were fused: the first stands for the addresses",
    adoption: { addresses: ["198.51.100.20"], names: ["cdn-a.example.", "cdn-b.example."] },
    node: { kind: "name", ips: ["198.51.100.20"], domains: ["cdn-a.example."] },
  },
  {
    title: "addresses without a name are one node",
    adoption: { addresses: ["198.51.100.30", "198.51.100.31"] },
    node: { kind: "address", ips: ["198.51.100.30", "198.51.100.31"] },
  },
  {
    title: "an address of ours without MAC",
    adoption: { addresses: ["10.77.0.70"], names: ["printer.lan."], name: "printer" },
    node: { kind: "local", ips: ["10.77.0.70"], name: "printer" },
  },
  {
    title: "a MAC that names no device counts for nothing",
    adoption: { mac: "00:00:00:00:00:00", addresses: ["198.51.100.40"] },
    node: { kind: "address", ips: ["198.51.100.40"] },
  },
  {
    title: "a name with a line break is left out",
    adoption: { mac: camera, name: "x\n10.77.0.13 injected", addresses: [] },
    node: { kind: "device", ips: [] },
  },
];

for (const { title, before, adoption, node } of imports) {
  test(`adopt(): ${title}; twice is once, also after a restart`, () => {
    const stage = new Stage().router();
    before?.(stage);
    const { mac: who, name, addresses, names = [] } = adoption;
    const asked = {
      ...(who !== undefined && { mac: mac(who) }),
      ...(name !== undefined && { name }),
      addresses: addresses.map(address),
      names,
    };
    const id = stage.nodes.adopt(asked, stage.at);
    const info = stage.nodes.info(id)!;
    assert.equal([stage.kind(id), info.ips, info.name], [node.kind, node.ips, node.name]);
    assert.equal(info.domains, node.domains ?? []);
    const count = stage.nodes.size;
    assert.is(stage.nodes.adopt(asked, stage.at), id);
    assert.is(stage.nodes.size, count);
    stage.nodes.pin(id, "block");
    const next = stage.restart().router();
    next.nodes.pin(id, "block");
    assert.is(next.nodes.adopt(asked, next.at), id);
    assert.equal(next.ips(id), node.ips);
  });
}

test("adopt() before any interface is known takes private addresses for ours", () => {
  const stage = new Stage();
  const addresses = ["10.77.0.12", "fe80::12", "203.0.113.9"].map(address);
  const id = stage.nodes.adopt({ mac: camera, addresses, names: [] }, stage.at);
  assert.equal(stage.ips(id), ["10.77.0.12", "fe80::12"]);
  stage.router();
  assert.is(stage.neighbour("10.77.0.12", camera), id);
});

test("adopt() refuses what could be no node, and says when there is no room", () => {
  const stage = new Stage({ limits: { nodes: 1 } });
  const code = (text: string) =>
    stage.code(() => stage.nodes.adopt({ addresses: [address(text)], names: [] }, stage.at));
  assert.is(code("224.0.0.1"), "invalid");
  stage.nodes.pin(stage.traffic("198.51.100.1")!, "block");
  assert.is(code("198.51.100.2"), "limit");
});

test("nodeMethods: pin, merge, split, forget, series", async () => {
  const stage = new Stage().router();
  const one = stage.neighbour(c1, laptop)!;
  const two = stage.neighbour("10.77.0.12", camera)!;
  const changed: number[] = [];
  const methods = nodeMethods(stage.nodes, { changed: (id) => void changed.push(id) });
  const caller = { user: undefined, group: undefined };
  const call = async (name: string, args: Record<string, Json>) => {
    try {
      return await methods[name]!.call(args, caller);
    } catch (thrown) {
      return (thrown as { code?: string }).code;
    }
  };
  assert.is(await call("pin", { node: one, pinned: true }), undefined);
  assert.is(stage.detail(one).pinned, true);
  assert.is(await call("pin", { node: one, pinned: false }), undefined);
  assert.is(stage.detail(one).pinned, undefined);
  assert.is(await call("pin", { node: one }), "invalid");
  assert.is(await call("pin", { node: 999, pinned: false }), "not-found");
  assert.equal(changed.splice(0), [one, one]);

  stage.nodes.count(one, { bytesIn: 3n, packetsIn: 1n, bytesOut: 4n, packetsOut: 1n });
  assert.equal(await call("merge", { node: one, into: two }), { node: two });
  assert.is(await call("merge", { node: one, into: two }), "invalid");
  assert.is(await call("merge", { node: one }), "invalid");
  assert.equal((stage.nodes.summary(two) as Record<string, Json>).aliases, [one]);
  assert.equal(await call("split", { node: one }), { node: one, from: two });
  assert.is(await call("split", { node: one }), "invalid");
  assert.is(await call("split", { node: "x" }), "invalid");
  assert.equal((stage.nodes.summary(two) as Record<string, Json>).apart, [one]);
  assert.equal(changed.splice(0), [two, one, two]);

  const series = (await call("series", { node: two })) as { in: number[]; out: number[]; today: Json };
  assert.equal([series.in.length, series.in.at(-1), series.out.at(-1)], [96, 3, 4]);
  assert.equal(series.today, { bytes_in: 3, packets_in: 1, bytes_out: 4, packets_out: 1 });
  assert.is(await call("series", { node: 999 }), "not-found");
  assert.is(await call("forget", { node: two }), undefined);
  assert.is(await call("forget", { node: two }), "not-found");
  assert.equal(changed, [two]);
});

test.run();
