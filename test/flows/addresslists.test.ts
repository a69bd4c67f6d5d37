/** Lists of nodes and prefixes, seen as SPIN's lists of addresses. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows, type FlowsOptions, flowsFormat } from "../../src/flows/flows.ts";
import { type Address, compareAddresses, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { type ListName, listNames } from "../../src/lib/spin.ts";

const net = (text: string) => parsePrefix(text)!;
const camera = 4;
const addresses: Record<number, string[]> = {
  4: ["10.77.0.12", "fd77::12"],
  5: ["198.51.100.20", "198.51.100.21"],
  6: ["198.51.100.20"],
  7: ["10.77.0.9"],
  8: [],
};

function make(options: Partial<FlowsOptions> = {}) {
  const told: string[] = [];
  const flows = new Flows({
    resolve: (id) => (id in addresses ? id : undefined),
    addressesOf: (id) => (addresses[id] ?? []).map((each) => parseAddress(each)!),
    commit: async () => {},
    changed: (nodes, lists) => told.push([...nodes, ...lists].join(" ")),
    ...options,
  });
  return { flows, told };
}

const changed = { kind: "done", changed: true };
const unchanged = { kind: "done", changed: false };

test("listNet puts an address on and takes it off, each once", async () => {
  const { flows, told } = make();
  assert.equal(await flows.listNet("block", net("203.0.113.5"), true), changed);
  assert.equal(await flows.listNet("block", net("203.0.113.5/32"), true), unchanged);
  assert.equal(flows.spinList("block"), ["203.0.113.5"]);
  assert.equal(await flows.listNet("block", net("203.0.113.5"), false), changed);
  assert.equal(await flows.listNet("block", net("203.0.113.5"), false), unchanged);
  assert.equal(flows.spinList("block"), []);
  assert.equal(told, ["block", "block"]);
});

test("a prefix stays a prefix, in the list, the plan and the file", async () => {
  const { flows } = make();
  for (const text of ["10.0.0.0/24", "10.0.0.7", "2001:db8::/32"])
    await flows.listNet("block", net(text), true);
  await flows.listNet("allow", net("10.0.0.0/30"), true);
  await flows.listNet("ignore", net("10.9.0.0/16"), true);
  const prefixes = ["10.0.0.0/24", "10.0.0.7/32", "2001:db8::/32"];
  assert.equal(flows.entries("block"), { nodes: [], prefixes });
  assert.equal(flows.spinList("block"), ["10.0.0.0/24", "10.0.0.7", "2001:db8::/32"]);
  const plan = flows.plan(() => undefined);
  assert.equal(plan.barredNets, prefixes);
  assert.equal(plan.exemptNets, ["10.0.0.0/30"]);
  const later = new Flows(
    { resolve: () => undefined, commit: async () => {} },
    flowsFormat.parse(JSON.parse(JSON.stringify(flows.save()))),
  );
  for (const list of listNames) assert.equal(later.entries(list), flows.entries(list));
});

test("a plan without prefixes has no lists of them", () => {
  const plan = make().flows.plan(() => undefined);
  assert.equal(plan, { ends: [], pairs: [], barred: [], exempt: [] });
});

test("spinList shows addresses of nodes and prefixes, IPv4 first, each by value, none twice", async () => {
  const { flows } = make();
  for (const node of [camera, 5, 6]) await flows.list("block", node, true);
  for (const text of ["9.0.0.1", "10.77.0.12", "10.77.0.0/24", "10.77.0.100", "fd00::/8"]) {
    await flows.listNet("block", net(text), true);
  }
  assert.equal(flows.spinList("block"), [
    ...["9.0.0.1", "10.77.0.0/24", "10.77.0.12", "10.77.0.100", "198.51.100.20", "198.51.100.21"],
    ...["fd00::/8", "fd77::12"],
  ]);
});

test("taking off an address of a listed node takes the node off and leaves its other addresses", async () => {
  const { flows, told } = make();
  await flows.as("anna").list("block", camera, true);
  assert.equal(await flows.listNet("block", net("10.77.0.12"), false), changed);
  assert.equal(flows.spinList("block"), ["fd77::12"]);
  assert.equal(flows.entries("block"), { nodes: [], prefixes: ["fd77::12/128"] });
  assert.is(flows.listEntries("block")[0]?.by, "anna");
  assert.is(told.at(-1), "4 block");
});

test("an address that is listed itself and through its node is gone after one removal", async () => {
  const { flows } = make();
  await flows.list("block", camera, true);
  await flows.listNet("block", net("10.77.0.12"), true);
  await flows.listNet("block", net("10.77.0.12"), false);
  assert.equal(flows.spinList("block"), ["fd77::12"]);
});

test("an address that several listed nodes have is gone for all, and their others stay", async () => {
  const { flows } = make();
  for (const node of [5, 6]) await flows.list("block", node, true);
  await flows.listNet("block", net("198.51.100.20"), false);
  assert.equal(flows.entries("block"), { nodes: [], prefixes: ["198.51.100.21/32"] });
});

test("taking off a node takes off what is left of its addresses too", async () => {
  const { flows } = make();
  await flows.list("block", camera, true);
  await flows.listNet("block", net("10.77.0.12"), false);
  assert.equal(await flows.list("block", camera, false), changed);
  assert.equal(flows.spinList("block"), []);
  assert.equal(await flows.list("block", camera, false), unchanged);
});

test("a wider prefix is taken off as such: nodes and addresses in it stay", async () => {
  const { flows } = make();
  await flows.list("block", camera, true);
  await flows.listNet("block", net("10.77.0.0/24"), true);
  assert.equal(await flows.listNet("block", net("10.77.0.0/16"), false), unchanged);
  await flows.listNet("block", net("10.77.0.0/24"), false);
  assert.equal(flows.spinList("block"), ["10.77.0.12", "fd77::12"]);
});

test("lists are full at their limit, each for itself, and what is on them can still be asked for", async () => {
  const { flows } = make({ maxNets: 2 });
  for (const text of ["10.0.0.1", "10.0.0.2"]) await flows.listNet("block", net(text), true);
  assert.equal(await flows.listNet("block", net("10.0.0.3"), true), { kind: "full", limit: 2 });
  assert.equal(await flows.listNet("block", net("10.0.0.2"), true), unchanged);
  assert.equal(await flows.listNet("allow", net("10.0.0.3"), true), changed);
  await flows.list("block", camera, true);
  assert.equal(await flows.listNet("block", net("10.77.0.12"), false), { kind: "full", limit: 2 });
  assert.equal(flows.listed("block"), [camera], "a block must not get lost for lack of room");
  assert.equal(await flows.resetIgnore(["1.1.1.1", "1.1.1.2", "1.1.1.3"].map(net)), {
    kind: "full",
    limit: 2,
  });
});

test("a node's other addresses need just their own room", async () => {
  const { flows } = make({ maxNets: 1 });
  await flows.list("block", camera, true);
  assert.equal(await flows.listNet("block", net("10.77.0.12"), false), changed);
  assert.equal(flows.spinList("block"), ["fd77::12"]);
});

test("resetIgnore makes the given prefixes the whole list, at once", async () => {
  const { flows, told } = make();
  await flows.list("ignore", camera, true);
  for (const text of ["10.0.0.1", "10.0.0.2"]) await flows.listNet("ignore", net(text), true);
  told.length = 0;
  assert.equal(await flows.as("root").resetIgnore(["10.0.0.2", "192.168.1.1", "fd77::1"].map(net)), changed);
  assert.equal(flows.spinList("ignore"), ["10.0.0.2", "192.168.1.1", "fd77::1"]);
  assert.equal(told, ["4 ignore"]);
  assert.equal(await flows.resetIgnore(["fd77::1", "10.0.0.2", "192.168.1.1"].map(net)), unchanged);
});

test("if the kernel refuses, every part of a change is taken back", async () => {
  let refuses = false;
  const { flows } = make({
    commit: async () => {
      if (refuses) throw new Fault("kernel", "Cannot commit");
    },
  });
  await flows.list("block", camera, true);
  await flows.listNet("ignore", net("10.0.0.1"), true);
  await flows.list("ignore", 7, true);
  const before = JSON.stringify(flows.save());
  refuses = true;
  for (const change of [
    () => flows.listNet("block", net("10.77.0.12"), false),
    () => flows.listNet("block", net("10.0.0.0/8"), true),
    () => flows.list("block", camera, false),
    () => flows.resetIgnore([net("10.0.0.9")]),
  ]) {
    assert.is(await change().catch((thrown: Fault) => thrown.code), "kernel");
    assert.is(JSON.stringify(flows.save()), before);
  }
});

const hiding: readonly [why: string, list: () => [node?: number, text?: string], hidden: boolean][] = [
  ["nothing is ignored", () => [], false],
  ["its node is", () => [camera], true],
  ["its address is", () => [undefined, "10.77.0.12"], true],
  ["its prefix is", () => [undefined, "10.77.0.0/24"], true],
  ["its prefix of the other family is", () => [undefined, "fd77::/64"], false],
  ["another node is", () => [7], false],
];

for (const [why, what, hidden] of hiding) {
  test(`traffic, reports and questions of a node are ${hidden ? "hidden" : "shown"}: ${why}`, async () => {
    const { flows } = make();
    const [node, text] = what();
    if (node !== undefined) await flows.list("ignore", node, true);
    if (text !== undefined) await flows.listNet("ignore", net(text), true);
    const [source, destination] = ["10.77.0.12", "198.51.100.21"].map((each) => parseAddress(each)!);
    const common = { protocol: 6, fromPort: 1, toPort: 2, bytes: 3, at: 0 };
    for (const ends of [
      { from: camera, to: 5, source, destination },
      { from: 5, to: camera, source: destination, destination: source },
    ]) {
      flows.account({ ...common, ...ends, packets: 1 });
      flows.report({ ...common, ...ends });
    }
    assert.is(flows.takeTraffic().length, hidden ? 0 : 2);
    assert.is(flows.takeBlocked(0).length, hidden ? 0 : 2);
    assert.is(flows.records().length, 2, "what is hidden is booked all the same");
    assert.is(flows.counters.dropped.packets, 2);
    assert.is(flows.isHidden([camera], [source!]), hidden);
    assert.is(flows.isHidden([5, camera], [destination!, source!]), hidden);
    assert.not.ok(flows.isHidden([5], [destination!]));
  });
}

test("whatever is put on and taken off, SPIN's user sees the list that SPIN would show", async () => {
  const owned: Record<number, string[]> = { 1: ["10.0.0.1", "10.0.0.2", "fd00::1"], 2: ["10.0.0.3"], 3: [] };
  const step = fc.record({
    list: fc.constantFrom<ListName>(...listNames),
    node: fc.integer({ min: 1, max: 3 }),
    text: fc.constantFrom("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "fd00::1", "fd00::2"),
    byNode: fc.boolean(),
    listed: fc.boolean(),
    fails: fc.integer({ min: 0, max: 9 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      let fails = false;
      const { flows } = make({
        resolve: (id) => id,
        addressesOf: (id) => owned[id]!.map((each) => parseAddress(each)!),
        commit: async () => {
          if (fails) throw new Fault("kernel", "Cannot commit");
        },
      });
      const model = { block: new Set<string>(), ignore: new Set<string>(), allow: new Set<string>() };
      for (const { list, node, text, byNode, listed, ...each } of steps) {
        fails = each.fails === 0;
        const answer = byNode ? flows.list(list, node, listed) : flows.listNet(list, net(text), listed);
        await answer.catch(() => {});
        if (!fails) {
          for (const address of byNode ? owned[node]! : [text]) {
            if (listed) model[list].add(address);
            else model[list].delete(address);
          }
        }
        for (const name of listNames) {
          const expected = [...model[name]].sort((left, right) =>
            compareAddresses(left as Address, right as Address),
          );
          assert.equal(flows.spinList(name), expected);
        }
      }
    }),
    { numRuns: 200 },
  );
});

test.run();
