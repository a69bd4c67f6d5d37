/** nft's language: plans as tables, changes as transactions, lists read back. On paper; the kernel is elsewhere. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { egressTable } from "../../src/kernel/egress.ts";
import { type NftTable, nftTable, type TableFamily } from "../../src/kernel/nftrules.ts";
import {
  differences,
  parseDropped,
  parseTable,
  renderChange,
  renderTable,
} from "../../src/kernel/nfttext.ts";
import type { Plan } from "../../src/kernel/plan.ts";
import { anyPlan, end, matchesGolden, nets, orderOf, plan, show } from "./plans.ts";

const name = "inet gatehouse_flows";
const lanDevices = ["br-lan"];

function tableOf(given: Plan, family: TableFamily = "inet", devices = lanDevices): NftTable | undefined {
  const { dispatch, ...options } = orderOf(given);
  if (family === "netdev") return egressTable(dispatch, devices);
  return nftTable(family, dispatch, { lanDevices: devices, ...options });
}

const laptop = end(4, "10.0.0.4 fd00::4", "02:00:00:00:00:04");
const camera = end(5, "10.0.0.5", "02:00:00:00:00:05");
const web = end(9, "198.51.100.9 2001:db8::9");
const ends = [laptop, camera, web];

const pages: [string, Plan, Plan?][] = [
  ["pair", plan({ ends, pairs: [[4, 9]] })],
  ["neighbours", plan({ ends, pairs: [[4, 5]] })],
  ["barred", plan({ ends, barred: [5], exempt: [9, 4], tap: { group: 7 } })],
  [
    "shared",
    plan({
      ends: [end(1, "10.0.0.1"), end(2, "10.0.0.1"), end(3, "192.0.2.3")],
      pairs: [
        [1, 3],
        [2, 3],
      ],
    }),
  ],
  [
    "grow",
    plan({ ends, pairs: [[4, 9]] }),
    plan({
      ends,
      pairs: [
        [4, 9],
        [5, 9],
      ],
    }),
  ],
  [
    "move",
    plan({ ends, pairs: [[4, 9]] }),
    plan({ ends: [laptop, camera, end(9, "198.51.100.10 2001:db8::9")], pairs: [[5, 9]], barred: [4] }),
  ],
  [
    "nets",
    plan({
      ends,
      barred: [5],
      barredNets: nets("203.0.113.0/24 203.0.113.0/26 192.0.2.7/32 fd99::/16"),
      exemptNets: nets("203.0.113.128/25"),
    }),
    plan({
      ends,
      barred: [5],
      barredNets: nets("203.0.113.0/25 192.0.2.7/32 fd99::/16"),
      exemptNets: nets("203.0.113.128/25"),
    }),
  ],
  ["report", plan({ ends, pairs: [[4, 9]], report: { group: 8 }, tap: { group: 7, hold: { queue: 3 } } })],
];

for (const [title, before, after] of pages) {
  test(`a page on ${title}`, () => {
    const parts = [`── plan\n${show(before)}`];
    if (after) parts.push(`── then\n${show(after)}`);
    for (const family of ["inet", "bridge", "netdev"] as const) {
      const [from, to] = [tableOf(before, family), after && tableOf(after, family)];
      const full = `${family} gatehouse_flows`;
      parts.push(
        `── ${family}\n${after ? renderChange(full, from, to) : from ? renderTable(full, from) : ""}`,
      );
    }
    matchesGolden(`nft-${title}.txt`, parts.join("\n"));
  });
}

test("nftTable: nothing to say is no table; the tap alone is in inet alone", () => {
  assert.is(tableOf(plan({ ends, exempt: [4] })), undefined);
  const tapped = plan({ tap: { group: 1 } });
  assert.equal([...tableOf(tapped)!.chains.keys()], ["forward", "input", "output"]);
  assert.is(tableOf(tapped, "bridge"), undefined);
});

test("nftTable: MACs count on LAN devices only; several devices, or none named for any", () => {
  const given = plan({ ends, pairs: [[4, 9]] });
  const text = (devices: string[]) => renderTable(name, tableOf(given, "inet", devices)!);
  assert.match(text(["br-lan"]), 'iifname "br-lan" ether saddr vmap @fromMac');
  assert.match(text(["br-lan", "br-iot"]), 'iifname { "br-lan", "br-iot" } ether saddr vmap @fromMac');
  assert.match(text([]), /\tether saddr vmap @fromMac/);
});

test("nftTable: an address of very many keepers has a chain with a name that the kernel takes", () => {
  const many = Array.from({ length: 60 }, (_, at) => end(1_000_000 + at, "10.0.0.1"));
  const given = plan({ ends: [end(1, "192.0.2.1"), ...many], pairs: many.map(({ id }) => [1, id] as const) });
  const keepers = plan({
    ends: [...many, ...many.map(({ id }) => end(id + 1000, `192.0.2.${id % 250}`))],
    pairs: many.map(({ id }) => [id, id + 1000] as const),
  });
  for (const each of [given, keepers]) {
    for (const chain of tableOf(each)!.chains.keys()) assert.ok(chain.length < 256, chain);
  }
  const shared = [...tableOf(keepers)!.chains].filter(([, { rules }]) => rules.length === 60);
  assert.is(shared.length, 2, "from and to");
});

test("renderChange: to itself is nothing; to nothing is its end; from nothing is all of it", () => {
  fc.assert(
    fc.property(anyPlan(), (given) => {
      const table = tableOf(given);
      assert.is(renderChange(name, table, tableOf(given)), "");
      if (!table) return;
      assert.is(renderChange(name, table, undefined), `delete table ${name}\n`);
      assert.is(renderChange(name, undefined, table), renderTable(name, table));
    }),
  );
});

/** What nft would print of a table, as far as we read it. */
function listed({ sets, chains }: NftTable): string {
  const objects: object[] = [
    { metainfo: { json_schema_version: 1 } },
    { table: { family: "inet", name: "x" } },
    { counter: { family: "inet", table: "x", name: "dropped", handle: 1, packets: 7, bytes: 900 } },
  ];
  for (const [chain, { hook, late }] of chains) {
    const base = hook ? { hook, type: "filter", prio: late ? -4 : -5, policy: "accept" } : {};
    objects.push({ chain: { family: "inet", table: "x", name: chain, handle: 1, ...base } });
  }
  for (const [set, { type, map, interval, elements }] of sets) {
    const elem = [...elements].map(([key, verdict]) => {
      const [addr, len] = key.split("/");
      const net = len === undefined ? key : { prefix: { addr, len: Number(len) } };
      const shown = key.includes(" . ") ? { concat: key.split(" . ") } : net;
      const [verb, target] = verdict.split(" ");
      return map ? [shown, { [verb!]: { target } }] : shown;
    });
    const body = {
      family: "inet",
      table: "x",
      name: set,
      type: type.includes(" . ") ? type.split(" . ") : type,
      ...(interval ? { flags: ["interval"] } : {}),
    };
    objects.push(map ? { map: { ...body, map: "verdict", elem } } : { set: { ...body, elem } });
  }
  for (const [chain, { rules }] of chains) {
    for (const { comment } of rules)
      objects.push({ rule: { family: "inet", table: "x", chain, comment, expr: [] } });
  }
  return JSON.stringify({ nftables: objects });
}

test("parseTable: reads back what was made, and sees every difference between two plans", () => {
  fc.assert(
    fc.property(anyPlan(), anyPlan(), (one, other) => {
      const [table, second] = [tableOf(one), tableOf(other)];
      if (!table || !second) return;
      const read = parseTable(listed(table));
      assert.equal(differences(read, table), []);
      assert.is(renderChange(name, read, table), "");
      assert.is(differences(read, second).length > 0, renderChange(name, table, second) !== "");
    }),
  );
});

test("parseTable: what is not made like ours is undefined, what is no list is a SyntaxError", () => {
  const item = (object: object) => JSON.stringify({ nftables: [object] });
  const strange = [
    item({ set: { name: "P1V4", type: "ipv4_addr", flags: ["timeout"], elem: [] } }),
    item({ set: { name: "P1V4", type: "ipv4_addr", flags: ["interval", "timeout"], elem: [] } }),
    item({ set: { name: "P1V4", type: "ipv4_addr", elem: [{ prefix: { addr: "}", len: 8 } }] } }),
    item({ set: { name: "P1V4", type: "ipv4_addr", elem: [{ range: ["10.0.0.1", "x"] }] } }),
    item({ set: { name: "P1V4", type: "ipv4_addr", elem: [{ range: { 0: "10.0.0.1" } }] } }),
    item({ map: { name: "from4", type: "ipv4_addr", map: "mark", elem: [] } }),
    item({ map: { name: "from4", type: "ipv4_addr", map: "verdict", elem: [["10.0.0.1", { drop: null }]] } }),
    item({ map: { name: "from4", type: "ipv4_addr", map: "verdict", elem: ["10.0.0.1"] } }),
    item({
      chain: { name: "forward", family: "inet", hook: "forward", type: "filter", prio: 0, policy: "accept" },
    }),
    item({
      chain: { name: "x", family: "inet", hook: "prerouting", type: "filter", prio: -5, policy: "accept" },
    }),
    item({ counter: { name: "x" } }),
  ];
  for (const text of strange) assert.is(parseTable(text), undefined, text);
  for (const text of ["", "{", "[]", "null", '{"nftables":{}}', '"x"']) {
    assert.throws(
      () => parseTable(text),
      (error: unknown) => error instanceof SyntaxError,
      text,
    );
  }
});

test("parseTable: nets, ranges and flags as versions of nft print them; a set of another kind is a difference", () => {
  const read = (flags: unknown, elem: unknown[]) => {
    const set = { name: "barredNets4", type: "ipv4_addr", flags, elem };
    return parseTable(JSON.stringify({ nftables: [{ set }] }))!;
  };
  const elem = [{ prefix: { addr: "10.0.0.0", len: 8 } }, "192.0.2.1", { range: ["192.0.2.4", "192.0.2.9"] }];
  for (const flags of [["interval"], "interval"]) {
    const { interval, elements } = read(flags, elem).sets.get("barredNets4")!;
    assert.ok(interval);
    assert.equal([...elements.keys()], ["10.0.0.0/8", "192.0.2.1", "192.0.2.4-192.0.2.9"]);
  }
  const [plain, nets] = [read(undefined, []), read(["interval"], [])];
  assert.equal(differences(plain, nets), ["set barredNets4 was made otherwise"]);
  assert.match(renderChange(name, plain, nets), "delete table");
});

test("parseDropped: what our counters have counted, by table", () => {
  const counter = { family: "inet", table: "gatehouse_flows", name: "dropped", packets: 7, bytes: 900 };
  const list = [{ counter }, { counter: { ...counter, family: "bridge", packets: 2 } }];
  const others = [
    { counter: { ...counter, name: "x" } },
    { counter: { ...counter, table: "y", packets: -1 } },
    {},
  ];
  assert.equal(
    [...parseDropped(JSON.stringify({ nftables: [{ metainfo: {} }, ...list, ...others] }))],
    [
      ["inet gatehouse_flows", 7n],
      ["bridge gatehouse_flows", 2n],
    ],
  );
  assert.is(parseDropped("[]").size, 0);
  assert.throws(
    () => parseDropped("{"),
    (error: unknown) => error instanceof SyntaxError,
  );
});

test("nftTable: without nets and report no packet is looked at for them; what may wait does so in later chains", () => {
  const table = tableOf(plan({ ends, pairs: [[4, 9]], barred: [5] }))!;
  const text = renderTable(name, table);
  for (const word of ["interval", "log ", "limit rate", "queue"]) assert.not.match(text, word);
  const held = tableOf(plan({ tap: { group: 1, hold: { queue: 2 } } }))!;
  assert.not.match(
    held.chains
      .get("forward")!
      .rules.map((each) => each.text)
      .join(),
    "udp sport",
  );
  assert.match(
    renderTable(name, held),
    /forward priority filter - 4; policy accept;\n\t\tudp sport 53 queue num 2 bypass/,
  );
});

test("parseTable: no bytes make it fail in another way", () => {
  const text = listed(
    tableOf(
      plan({
        ends,
        pairs: [
          [4, 5],
          [4, 9],
        ],
        barred: [5],
      }),
    )!,
  );
  fc.assert(
    fc.property(fc.nat(text.length - 1), fc.string({ maxLength: 3 }), (at, patch) => {
      try {
        parseTable(text.slice(0, at) + patch + text.slice(at + 1));
      } catch (thrown) {
        assert.instance(thrown, SyntaxError);
      }
    }),
    { numRuns: 2000 },
  );
});

test.run();
