/** From pairs to keepers: who keeps what, what a plan means, and which connections that cuts. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Connection, connectionStatus } from "../../src/kernel/connection.ts";
import { type Dispatch, dispatchOf } from "../../src/kernel/dispatch.ts";
import { entriesToCut } from "../../src/kernel/entries.ts";
import { blockedBy } from "../../src/kernel/explain.ts";
import type { Plan } from "../../src/kernel/plan.ts";
import { type Address, contains, familyOf, type Prefix } from "../../src/lib/address.ts";
import { anyPlan, end, nets, plan, pool } from "./plans.ts";

const keepersOf = (given: Plan) =>
  dispatchOf(given).keepers.map(({ id, partners }) => `${id}: ${[...partners[4], ...partners[6]].join(" ")}`);

test("dispatchOf: a LAN device keeps its pairs with far nodes, whatever their ids", () => {
  const ends = [
    end(3, "198.51.100.3"),
    end(8, "10.0.0.8", "02:00:00:00:00:08"),
    end(9, "198.51.100.9 2001:db8::9"),
  ];
  assert.equal(
    keepersOf(
      plan({
        ends,
        pairs: [
          [3, 8],
          [8, 9],
        ],
      }),
    ),
    ["8: 198.51.100.3 198.51.100.9 2001:db8::9"],
  );
});

test("dispatchOf: two LAN devices both keep their pair, and their MACs are strangers both ways", () => {
  const ends = [end(1, "10.0.0.1", "02:00:00:00:00:01"), end(2, "10.0.0.2", "02:00:00:00:00:02")];
  const dispatch = dispatchOf(plan({ ends, pairs: [[1, 2]] }));
  assert.equal(keepersOf(plan({ ends, pairs: [[1, 2]] })), ["1: 10.0.0.2", "2: 10.0.0.1"]);
  assert.equal(dispatch.strangers, [
    ["02:00:00:00:00:01", "02:00:00:00:00:02"],
    ["02:00:00:00:00:02", "02:00:00:00:00:01"],
  ]);
});

test("dispatchOf: without MACs the node of many pairs keeps them; between equals the lower id", () => {
  const ends = [1, 2, 3, 4, 90].map((id) => end(id, `198.51.100.${id}`));
  const star = plan({
    ends,
    pairs: [
      [1, 90],
      [2, 90],
      [3, 90],
      [4, 90],
    ],
  });
  assert.equal(keepersOf(star).length, 1);
  assert.match(keepersOf(star)[0]!, /^90: /);
  assert.equal(keepersOf(plan({ ends, pairs: [[2, 3]] })), ["2: 198.51.100.3"]);
});

test("dispatchOf: a plan that contradicts itself is a wrong call", () => {
  const ends = [end(1, "10.0.0.1"), end(2, "10.0.0.2")];
  const wrong: [string, Plan][] = [
    ["twice", plan({ ends: [...ends, end(1, "10.0.0.9")] })],
    ["not among the ends", plan({ ends, pairs: [[1, 3]] })],
    ["not among the ends", plan({ ends, barred: [7] })],
    ["not among the ends", plan({ ends, exempt: [7] })],
    ["not in order", plan({ ends, pairs: [[2, 1]] })],
    ["not in order", plan({ ends, pairs: [[1, 1]] })],
    ["can have the id", plan({ ends: [end(0, "10.0.0.1")] })],
    ["can have the id", plan({ ends: [end(1.5, "10.0.0.1")] })],
    ["can have the id", plan({ ends: [end(2 ** 32, "10.0.0.1")] })],
  ];
  for (const [words, given] of wrong) {
    assert.throws(
      () => dispatchOf(given),
      (error: Error) => error instanceof RangeError && error.message.includes(words),
    );
  }
});

test("dispatchOf: nothing but an address gets into rules, whatever a caller forged", () => {
  const forged = [
    "10.0.0.1; flush ruleset",
    "10.0.0.1\nadd",
    "__proto__",
    "$(x)",
    "",
    "10.0.0.1/8",
    "fe80::1%eth0",
    "0.0.0.0, ::",
    "x".repeat(255),
    "\u00ff".repeat(255),
    "1.2.3.4 }",
    "@P1V4",
  ];
  for (const text of forged) {
    const addresses = [text as Address];
    assert.throws(
      () => dispatchOf(plan({ ends: [{ id: 1, addresses, macs: [] }], barred: [1] })),
      TypeError,
      text,
    );
    const macs = [text as never];
    assert.throws(
      () => dispatchOf(plan({ ends: [{ id: 1, addresses: [], macs }], barred: [1] })),
      TypeError,
      text,
    );
  }
});

/** What the sets of a dispatch say of two addresses: the meaning that both back ends render. */
function droppedBy({ keepers, barred, exempt, barredNets, exemptNets }: Dispatch) {
  return (source: Address, destination: Address): boolean => {
    const family = familyOf(source);
    const either = (names: ReadonlySet<Address>) => names.has(source) || names.has(destination);
    const inside = (list: readonly Prefix[]) =>
      list.some((net) => contains(net, source) || contains(net, destination));
    if (either(exempt[family]) || inside(exemptNets[family])) return false;
    if (either(barred[family]) || inside(barredNets[family])) return true;
    return keepers.some(
      ({ own, partners }) =>
        (own[family].has(source) && partners[family].has(destination)) ||
        (own[family].has(destination) && partners[family].has(source)),
    );
  };
}

test("dispatchOf: drops what the plan says, for any plan", () => {
  fc.assert(
    fc.property(anyPlan(), (given) => {
      const [model, dropped] = [blockedBy(given), droppedBy(dispatchOf(given))];
      for (const addresses of [pool[4], pool[6]]) {
        for (const source of addresses) {
          for (const destination of addresses) {
            assert.is(dropped(source, destination), model(source, destination), `${source} ${destination}`);
          }
        }
      }
    }),
    { numRuns: 300 },
  );
});

test("blockedBy: rows", () => {
  const given = plan({
    ends: [
      end(1, "10.0.0.1 fd00::1"),
      end(2, "198.51.100.2 2001:db8::2"),
      end(3, "198.51.100.2"),
      end(4, "10.0.0.4"),
      end(5, "10.0.0.5"),
    ],
    pairs: [
      [1, 2],
      [1, 5],
    ],
    barred: [4, 5],
    exempt: [5],
    barredNets: nets("203.0.113.0/24 fd99::/16"),
    exemptNets: nets("203.0.113.128/25 10.0.0.128/25"),
  });
  const blocked = blockedBy(given);
  const rows: [string, string, boolean][] = [
    ["10.0.0.1", "198.51.100.2", true],
    ["198.51.100.2", "10.0.0.1", true],
    ["fd00::1", "2001:db8::2", true],
    ["10.0.0.1", "198.51.100.9", false],
    ["10.0.0.4", "198.51.100.9", true],
    ["198.51.100.9", "10.0.0.4", true],
    ["10.0.0.5", "198.51.100.9", false],
    ["10.0.0.5", "10.0.0.1", false],
    ["10.0.0.5", "10.0.0.4", false],
    ["192.0.2.1", "192.0.2.2", false],
    ["192.0.2.1", "203.0.113.2", true],
    ["203.0.113.2", "192.0.2.1", true],
    ["203.0.113.2", "203.0.113.200", false],
    ["192.0.2.1", "203.0.113.200", false],
    ["fd00::1", "fd99::7", true],
    ["10.0.0.4", "10.0.0.129", false],
    ["10.0.0.5", "203.0.113.2", false],
  ];
  for (const [source, destination, is] of rows) {
    assert.is(blocked(source as Address, destination as Address), is, `${source} ${destination}`);
  }
});

test("dispatchOf: nets that lie in others are left out, those of one address go with the addresses", () => {
  const { barred, barredNets, blocks } = dispatchOf(
    plan({
      ends: [end(1, "10.0.0.1")],
      barred: [1],
      barredNets: nets(
        "192.0.2.0/24 192.0.2.0/25 192.0.2.7/32 192.0.2.0/24 192.0.3.0/24 203.0.113.9/32 2001:db8::/33 2001:db8::/32 fd00::1/128",
      ),
    }),
  );
  assert.equal([...barred[4], ...barred[6]], ["10.0.0.1", "203.0.113.9", "fd00::1"]);
  assert.equal([...barredNets[4], ...barredNets[6]], nets("192.0.2.0/24 192.0.3.0/24 2001:db8::/32"));
  assert.ok(blocks);
  const all = dispatchOf(plan({ barredNets: nets("10.0.0.0/8 0.0.0.0/0 ::/0 fd00::/8") }));
  assert.equal([...all.barredNets[4], ...all.barredNets[6]], nets("0.0.0.0/0 ::/0"));
  assert.not.ok(dispatchOf(plan({ exemptNets: nets("10.0.0.0/8") })).blocks);
});

test("dispatchOf: nothing but a prefix gets into rules, whatever a caller forged", () => {
  for (const text of [
    "10.0.0.1/8",
    "10.0.0.0",
    "10.0.0.0/33",
    "::/129",
    "x",
    "",
    "10.0.0.0/8 }",
    "::/0/0",
    "10.0.0.0/08",
  ])
    for (const list of ["barredNets", "exemptNets"])
      assert.throws(() => dispatchOf(plan({ [list]: [text] })), TypeError, text);
});

const tuple = (source: string, destination: string) => ({
  source: source as Address,
  destination: destination as Address,
  sourcePort: 1,
  destinationPort: 2,
});
const connection = (there: [string, string], back: [string, string], status: number): Connection => ({
  ...tuple(...there),
  reply: tuple(...back),
  id: 1,
  zone: 0,
  family: 4,
  protocol: 6,
  status,
});

test("entriesToCut: what a flowtable forwards between blocked nodes, also behind translation; with all, the rest", () => {
  const given = plan({
    ends: [
      end(1, "10.0.0.1", "02:00:00:00:00:01"),
      end(2, "198.51.100.2"),
      end(3, "198.51.100.3"),
      end(4, "10.0.0.4"),
    ],
    pairs: [
      [1, 2],
      [2, 4],
    ],
    exempt: [4],
  });
  const { offload, hardwareOffload, assured } = connectionStatus;
  const masqueraded: [[string, string], [string, string]] = [
    ["10.0.0.1", "198.51.100.2"],
    ["198.51.100.2", "203.0.113.9"],
  ];
  const forwarded: [[string, string], [string, string]] = [
    ["198.51.100.2", "203.0.113.9"],
    ["10.0.0.1", "198.51.100.2"],
  ];
  const rows: [Connection, boolean, boolean][] = [
    [connection(...masqueraded, assured | offload), true, true],
    [connection(...masqueraded, assured | hardwareOffload), true, true],
    [connection(...masqueraded, assured), false, true],
    [connection(...forwarded, offload), true, true],
    [connection(["10.0.0.1", "198.51.100.3"], ["198.51.100.3", "203.0.113.9"], offload), false, false],
    [connection(["10.0.0.4", "198.51.100.2"], ["198.51.100.2", "10.0.0.4"], offload), false, false],
  ];
  for (const [each, usually, all] of rows) {
    assert.is(entriesToCut(given)(each), usually);
    assert.is(entriesToCut(given, { all: true })(each), all);
  }
});

test.run();
