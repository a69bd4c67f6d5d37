/** Undoing a merge: what goes back to whom, and that no evidence does it again. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { nodesFormat } from "../../src/nodes/nodes.ts";
import { address, camera, laptop, mac, phone, Stage } from "./stage.ts";

const day = 86_400_000;

/** Two devices, the first poured into the second. */
function merged(): { stage: Stage; old: number; into: number } {
  const stage = new Stage().router();
  const old = stage.lease("10.77.0.11", laptop, { name: "laptop", clientId: "ff:01" })!;
  stage.neighbour("10.77.0.11", laptop);
  stage.neighbour("fd77::11", laptop);
  const into = stage.lease("10.77.0.13", phone, { name: "phone", clientId: "ff:03" })!;
  stage.neighbour("10.77.0.13", phone);
  stage.nodes.rename(old, "work");
  stage.nodes.merge(old, into, stage.at);
  stage.told.length = 0;
  return { stage, old, into };
}

const macsOf = (stage: Stage, id: number) =>
  ((stage.detail(id).macs ?? []) as { mac: string }[]).map((each) => each.mac);

test("defect 5: split() gives an id back what it brought, and the other keeps its own", () => {
  const { stage, old, into } = merged();
  assert.is(stage.nodes.info(into)!.name, "work", "the name went along");
  assert.is(stage.nodes.split(old, stage.at), into);
  assert.equal(stage.told, [`split ${old} ${into}`]);
  assert.is(stage.nodes.resolve(old), old);
  assert.equal(stage.ips(old), ["10.77.0.11", "fd77::11"]);
  assert.equal(stage.ips(into), ["10.77.0.13"]);
  assert.equal(macsOf(stage, old), [laptop]);
  assert.equal(macsOf(stage, into), [phone]);
  assert.equal(stage.detail(old).dhcp_identities, ["4 ff:01"]);
  assert.equal(stage.detail(into).dhcp_identities, ["4 ff:03"]);
  assert.is(stage.nodes.info(old)!.name, "work");
  assert.is(stage.nodes.info(into)!.name, "phone", "its own name is back");
  assert.is(stage.kind(old), "device");
  assert.equal(stage.detail(old).apart, [into]);
  assert.equal(stage.detail(into).apart, [old]);
  assert.equal([...stage.nodes.aliases()], []);
  assert.is(stage.nodes.devices, 2);
});

test("split(): counters and series stay with the survivor", () => {
  const { stage, old, into } = merged();
  stage.nodes.count(into, { bytesIn: 7n, packetsIn: 1n, bytesOut: 5n, packetsOut: 1n });
  stage.nodes.split(old, stage.at);
  assert.is(stage.detail(into).bytes_in, 7n);
  assert.is(stage.detail(into).today_in, 7);
  assert.is(stage.detail(old).bytes_in, 0n);
  assert.is(stage.detail(old).today_in, 0);
});

test("split(): evidence since the merge went to the one node; the MAC tells whose it is", () => {
  const { stage, old, into } = merged();
  stage.pass(60_000);
  for (const last of [21, 22]) assert.is(stage.neighbour(`fd77::${last}`, laptop), into);
  assert.is(stage.neighbour("fd77::31", phone), into);
  // An identity that was brought along ties a new MAC: it is that one's.
  assert.is(stage.lease("10.77.0.15", mac("06:00:00:00:00:15"), { clientId: "ff:01" }), into);
  // A leased address that nobody answers for goes with its lease.
  assert.is(stage.lease("10.77.0.16", laptop, { clientId: "ff:01" }), into);
  stage.nodes.split(old, stage.at);
  assert.equal(stage.ips(old), [
    "10.77.0.11",
    "10.77.0.15",
    "10.77.0.16",
    "fd77::11",
    "fd77::21",
    "fd77::22",
  ]);
  assert.equal(stage.ips(into), ["10.77.0.13", "fd77::31"]);
  assert.equal(macsOf(stage, old), [laptop, "06:00:00:00:00:15"]);
});

test("split(): evidence after it goes to the right one", () => {
  const { stage, old, into } = merged();
  stage.nodes.split(old, stage.at);
  stage.pass(1000);
  assert.is(stage.neighbour("fd77::41", laptop), old);
  assert.is(stage.neighbour("fd77::43", phone), into);
  assert.is(stage.lease("10.77.0.17", mac("06:00:00:00:00:17"), { clientId: "ff:01" }), old);
  assert.is(stage.lease("10.77.0.18", mac("06:00:00:00:00:18"), { clientId: "ff:03" }), into);
  assert.equal(stage.told, [`split ${old} ${into}`], "nobody merges");
});

test("split(): leases hold the one that they were given to", () => {
  const { stage, old, into } = merged();
  stage.nodes.split(old, stage.at);
  const lease = { address: address("10.77.0.11"), mac: laptop, clientId: "ff:01", expiresAt: 1 };
  stage.nodes.leases([lease], stage.at);
  stage.nodes.rename(old, "");
  stage.pass(40 * day);
  assert.is(stage.nodes.resolve(old), old, "it is leased");
  assert.is(stage.nodes.resolve(into), undefined, "its lease has ended");
});

test("a merge by DHCP identity that the user ended is not made again by the same evidence, also after a restart", () => {
  const stage = new Stage().router();
  const one = stage.lease("10.77.0.13", phone, { clientId: "ff:07" })!;
  const other = stage.neighbour("10.77.0.14", camera)!;
  const claim = (on: Stage) => on.lease("10.77.0.14", camera, { clientId: "ff:07", expiresAt: on.now });
  claim(stage);
  const [[old, into]] = [...stage.nodes.aliases()] as [[number, number]];
  assert.equal([old, into], [other, one], "the same identity with another MAC is the same device");
  stage.nodes.split(old, stage.at);
  for (const on of [stage, stage.restart().router()]) {
    for (let round = 0; round < 3; round++) {
      on.pass(10_000);
      claim(on);
      on.neighbour("10.77.0.14", camera);
      on.neighbour("10.77.0.13", phone);
    }
    assert.is(on.nodes.resolve(other), other);
    assert.is(on.nodes.resolve(one), one);
    assert.is(on.id("10.77.0.14"), other, "the MAC tells which of the two it is");
    assert.equal(on.detail(one).apart, [other]);
    // The user's later word counts.
    on.nodes.merge(other, one, on.at);
    assert.is(on.nodes.resolve(other), one);
    assert.is(on.detail(one).apart, undefined);
  }
});

test("a bare address that was poured into a device can be parted from it, for good", () => {
  const stage = new Stage().router();
  const device = stage.neighbour("10.77.0.12", camera)!;
  const bare = stage.traffic("fd77::12")!;
  stage.neighbour("fd77::12", camera);
  assert.is(stage.nodes.resolve(bare), device);
  stage.nodes.split(bare, stage.at);
  for (let on = stage, life = 0; life < 2; on = on.restart().router(), life++) {
    for (let round = 0; round < 3; round++) {
      on.pass(40 * 60_000);
      on.neighbour("10.77.0.12", camera);
      assert.is(on.neighbour("fd77::12", camera), bare, "the same evidence ties nothing");
    }
    assert.equal(on.ips(bare), ["fd77::12"]);
    assert.is(on.kind(bare), "local");
    assert.equal(on.detail(device).apart, [bare]);
  }
  // Another device that answers for it is new evidence.
  assert.is(stage.neighbour("fd77::12", phone), bare);
  assert.is(stage.kind(bare), "device");
});

test("split() of a merge of merges: each id with all that had come with it, in any order, also after a restart", () => {
  const build = () => {
    const stage = new Stage().router();
    const [a, b, c] = [
      stage.neighbour("10.77.0.11", laptop)!,
      stage.neighbour("10.77.0.12", camera)!,
      stage.neighbour("10.77.0.13", phone)!,
    ];
    stage.nodes.merge(a, b, stage.at);
    stage.nodes.merge(b, c, stage.at);
    return { stage, a, b, c };
  };
  for (const life of ["same life", "next life"]) {
    {
      const { stage, a, b, c } = build();
      const on = life === "same life" ? stage : stage.restart().router();
      on.nodes.split(b, on.at);
      assert.equal(
        [on.nodes.resolve(a), on.nodes.resolve(b)],
        [b, b],
        "what was poured into it comes with it",
      );
      assert.equal(on.ips(b), ["10.77.0.11", "10.77.0.12"]);
      assert.equal(on.ips(c), ["10.77.0.13"]);
      on.nodes.split(a, on.at);
      assert.equal([on.ips(a), on.ips(b), on.ips(c)], [["10.77.0.11"], ["10.77.0.12"], ["10.77.0.13"]]);
      assert.equal(on.detail(b).apart, [c, a]);
    }
    {
      const { stage, a, b, c } = build();
      const on = life === "same life" ? stage : stage.restart().router();
      assert.is(on.nodes.split(a, on.at), c);
      assert.equal([on.ips(a), on.ips(c)], [["10.77.0.11"], ["10.77.0.12", "10.77.0.13"]]);
      assert.is(on.nodes.split(b, on.at), c);
      assert.equal([on.ips(b), on.ips(c)], [["10.77.0.12"], ["10.77.0.13"]]);
      assert.is(on.nodes.resolve(a), a);
    }
  }
});

test("a pair that was parted stays apart while one of them is part of a third, and after the id has expired", () => {
  const stage = new Stage({ limits: { aliasMs: day, deviceMs: 100 * day } }).router();
  const phones = { clientId: "ff:07" };
  const a = stage.lease("10.77.0.11", laptop, phones)!;
  const b = stage.neighbour("10.77.0.12", camera)!;
  const c = stage.neighbour("10.77.0.13", phone)!;
  stage.nodes.merge(b, a, stage.at);
  stage.nodes.split(b, stage.at);
  stage.nodes.merge(a, c, stage.at);
  const claim = () => {
    stage.lease("10.77.0.12", camera, { ...phones, expiresAt: stage.now });
    stage.neighbour("10.77.0.12", camera);
  };
  claim();
  assert.is(stage.nodes.resolve(b), b);
  assert.equal(stage.detail(b).apart, [c]);
  stage.pass(2 * day);
  assert.is(stage.nodes.resolve(a), undefined, "the alias has gone");
  claim();
  assert.equal(stage.detail(b).apart, [c]);
  assert.is(stage.nodes.resolve(b), b);
});

test("a MAC that both had stays with both", () => {
  const repeater = mac("02:77:00:00:00:aa");
  const stage = new Stage().router();
  const one = stage.lease("10.77.0.40", repeater, { clientId: "ff:0a" })!;
  const two = stage.lease("10.77.0.41", repeater, { clientId: "ff:0b" })!;
  stage.nodes.merge(one, two, stage.at);
  assert.equal(stage.nodes.end(two)!.macs, [repeater]);
  stage.nodes.split(one, stage.at);
  for (const id of [one, two]) {
    assert.equal(macsOf(stage, id), [repeater]);
    assert.equal(stage.nodes.end(id)!.macs, [], "it stands for neither");
  }
  assert.equal([stage.ips(one), stage.ips(two)], [["10.77.0.40"], ["10.77.0.41"]]);
});

test("split() tells the kernel of both ends when they are pinned, after onSplit", () => {
  const { stage, old, into } = merged();
  stage.nodes.pin(into, "block");
  stage.nodes.split(old, stage.at);
  assert.equal(stage.told, [`split ${old} ${into}`, `ends ${into}`]);
  assert.equal(stage.nodes.end(into), { id: into, addresses: [address("10.77.0.13")], macs: [phone] });
});

test("split() brings the user's own pin back, not those of rooms", () => {
  const stage = new Stage().router();
  const [old, into] = [stage.neighbour("10.77.0.11", laptop)!, stage.neighbour("10.77.0.13", phone)!];
  stage.nodes.pin(old, "user");
  stage.nodes.pin(old, "block");
  stage.nodes.merge(old, into, stage.at);
  stage.nodes.split(old, stage.at);
  assert.equal(stage.detail(old).pinned_by, ["user"]);
  assert.equal(stage.detail(into).pinned_by, ["user", "block"]);
});

test("takeSplit() and takeMerged() tell what is true when they are read", () => {
  const { stage, old, into } = merged();
  stage.nodes.split(old, stage.at);
  assert.equal(stage.nodes.takeMerged(), [], "over before anybody was told");
  stage.nodes.merge(old, into, stage.at);
  assert.equal(stage.nodes.takeSplit(), []);
  assert.equal(stage.nodes.takeMerged(), [{ id: old, into }]);
  stage.nodes.takeChanged();
  stage.nodes.split(old, stage.at);
  assert.equal(stage.nodes.takeSplit(), [{ id: old, from: into }]);
  assert.equal(stage.nodes.takeChanged().sort(), [old, into].sort());
  assert.ok(stage.nodes.dirty);
});

test("split() refuses with a reason, and changes nothing", () => {
  const { stage, old, into } = merged();
  stage.resolve("10.77.0.13", "a.example.", ["198.51.100.1"]);
  const bare = stage.traffic("198.51.100.2", "10.77.0.13")!;
  const { ids } = stage.ask("10.77.0.13", "b.example.");
  stage.resolve("10.77.0.13", "b.example.", ["198.51.100.2"]);
  assert.is(stage.nodes.resolve(ids!.queried), bare);
  const router = stage.id("10.77.0.1")!;
  const before = JSON.stringify(stage.nodes.ids());
  const code = (id: number) => stage.code(() => stage.nodes.split(id, stage.at));
  assert.is(code(9999), "not-found");
  assert.is(code(into), "invalid");
  assert.is(code(router), "invalid");
  assert.is(code(ids!.queried), "invalid", "a name that an address took is no device");
  assert.is(JSON.stringify(stage.nodes.ids()), before);
  // A bare address that has moved to somebody else since leaves nothing to be split off.
  const local = stage.traffic("fd77::99")!;
  stage.neighbour("fd77::99", phone);
  stage.neighbour("fd77::99", undefined, "gone");
  stage.pass(120_000);
  stage.neighbour("fd77::99", camera);
  assert.is(stage.nodes.resolve(local), into);
  assert.is(code(local), "invalid");
  assert.is(stage.nodes.resolve(local), into);
  assert.is(code(old), "done");
  assert.is(code(old), "invalid", "twice");
});

test("split() finds no room when all is pinned", () => {
  const stage = new Stage({ limits: { nodes: 4 } });
  const pinned = (text: string, who: string) => {
    const id = stage.neighbour(text, who)!;
    stage.nodes.pin(id, "block");
    return id;
  };
  const ids = [pinned("10.77.0.11", laptop), pinned("10.77.0.12", camera)];
  stage.nodes.merge(ids[0]!, ids[1]!, stage.at);
  for (const last of [20, 21, 22]) pinned(`10.77.0.${last}`, `02:00:00:00:00:${last}`);
  assert.is(stage.nodes.size, 4);
  assert.is(
    stage.code(() => stage.nodes.split(ids[0]!, stage.at)),
    "limit",
  );
  assert.is(stage.nodes.resolve(ids[0]!), ids[1]);
});

test("pairs that were parted are bounded: the oldest are forgotten", () => {
  const stage = new Stage({ limits: { apart: 3 } }).router();
  const into = stage.neighbour("10.77.0.13", phone)!;
  const parted = [1, 2, 3, 4, 5].map(
    (last) => stage.neighbour(`10.77.0.10${last}`, `02:00:00:00:01:0${last}`)!,
  );
  for (const id of parted) {
    stage.nodes.merge(id, into, stage.at);
    stage.nodes.split(id, stage.at);
  }
  assert.equal(stage.detail(into).apart, parted.slice(2));
});

test("load() takes aliases of the first release: MACs and identities go back, addresses by their MAC", () => {
  const { stage, old, into } = merged();
  const state = JSON.parse(
    JSON.stringify(stage.nodes.save(stage.at), (_, value) =>
      typeof value === "bigint" ? String(value) : value,
    ),
  );
  state.aliases = state.aliases.map(
    ({ id, into: kept, since, macs, clients, userName }: Record<string, unknown>) => ({
      ...{ id, into: kept, since, macs, clients, userName },
    }),
  );
  delete state.apart;
  delete state.day;
  for (const node of state.nodes) {
    delete node.named;
    for (const held of node.addresses) delete held.since;
  }
  const next = new Stage({ now: 5000, date: stage.date });
  next.nodes.load(nodesFormat.parse(state), next.at);
  next.nodes.split(old, next.at);
  assert.equal(next.ips(old), ["10.77.0.11", "fd77::11"]);
  assert.equal(next.ips(into), ["10.77.0.13"]);
  assert.is(next.nodes.info(old)!.name, "work");
});

// Random merges and splits.

const devices = [1, 2, 3, 4, 5, 6].map((last) => ({
  mac: mac(`02:77:00:00:00:0${last}`),
  clientId: `ff:0${last}`,
  places: [`10.77.0.1${last}`, `fd77::1${last}`, `fd77::2${last}`],
}));

const step = fc.record({
  verb: fc.constantFrom(
    "merge",
    "merge",
    "split",
    "split",
    "split",
    "see",
    "see",
    "lease",
    "restart",
    "pass",
  ),
  one: fc.nat(5),
  other: fc.nat(5),
  place: fc.nat(2),
});

test("random merges and splits: every MAC, identity and address is always the one node's that it should be", () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 50, size: "max" }), (steps) => {
      let stage = new Stage().router();
      const ids = devices.map(({ mac: who, clientId, places }) => {
        stage.lease(places[0]!, who, { clientId });
        return stage.neighbour(places[0]!, who)!;
      });
      /** The model: whose part a device is now, and what it was poured into at first. */
      const via = ids.map(() => -1);
      const root = (index: number): number => (via[index] === -1 ? index : root(via[index]!));
      const seen = devices.map(({ places }) => new Set([places[0]!]));
      for (const each of steps) {
        stage.now += 1000;
        const { mac: who, clientId, places } = devices[each.one]!;
        if (each.verb === "merge") {
          const [from, to] = [root(each.one), root(each.other)];
          const code = stage.code(() => stage.nodes.merge(ids[from]!, ids[to]!, stage.at));
          assert.is(code, from === to ? "invalid" : "done");
          if (from !== to) via[from] = to;
        }
        if (each.verb === "split") {
          const code = stage.code(() => stage.nodes.split(ids[each.one]!, stage.at));
          assert.is(code, via[each.one] === -1 ? "invalid" : "done");
          via[each.one] = -1;
        }
        if (each.verb === "see") {
          stage.neighbour(places[each.place]!, who);
          seen[each.one]!.add(places[each.place]!);
        }
        if (each.verb === "lease") stage.lease(places[0]!, who, { clientId, expiresAt: stage.now });
        if (each.verb === "restart") stage = stage.restart({ now: stage.now }).router();
        if (each.verb === "pass") stage.pass(60_000);
        for (const [index, device] of devices.entries()) {
          const node = ids[root(index)]!;
          assert.is(stage.nodes.resolve(ids[index]!), node, `${index} is part of ${root(index)}`);
          assert.is(stage.nodes.deviceByMac(device.mac), node);
          assert.ok((stage.detail(node).dhcp_identities as string[]).includes(`4 ${device.clientId}`));
          for (const place of seen[index]!) assert.is(stage.id(place), node, place);
        }
      }
    }),
    { numRuns: 150, seed: 20_261_121 },
  );
});

test.run();
