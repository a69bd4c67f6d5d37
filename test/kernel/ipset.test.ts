/** The languages of ipset and iptables: plans as sets and chains, changes in order, lists read back. On paper. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { chainPrefix, entrances, setPrefix, type XtRules, xtRules } from "../../src/kernel/ipsetrules.ts";
import {
  nothing,
  parseCounts,
  parseDropped,
  parseRules,
  parseSets,
  placedJumps,
  renderAdditions,
  renderBoot,
  renderDeletions,
  renderDestruction,
  renderRules,
  ruleDifferences,
  setDifferences,
} from "../../src/kernel/ipsettext.ts";
import type { Owner, Plan } from "../../src/kernel/plan.ts";
import { anyPlan, end, matchesGolden, nets, orderOf, plan, show } from "./plans.ts";

const prefix = chainPrefix("flows");

function rulesOf(given: Plan, owner: Owner = "flows"): XtRules {
  const { dispatch, ...options } = orderOf(given);
  return xtRules(dispatch, { owner, lanDevices: ["br-lan"], ...options });
}

const laptop = end(4, "10.0.0.4 fd00::4", "02:00:00:00:00:04");
const camera = end(5, "10.0.0.5", "02:00:00:00:00:05");
const web = end(9, "198.51.100.9 2001:db8::9");
const ends = [laptop, camera, web];
const crowd = [1, 2, 3, 4, 5, 6].map((id) => end(id, `10.0.0.${id}`, `02:00:00:00:00:0${id}`));

const pages: [string, Plan, Plan?][] = [
  ["pair", plan({ ends, pairs: [[4, 9]] })],
  ["barred", plan({ ends, barred: [5], exempt: [9, 4], tap: { group: 7 } })],
  ["tree", plan({ ends: [...crowd, web], pairs: crowd.map(({ id }) => [id, 9] as const) })],
  ["move", plan({ ends, pairs: [[4, 9]] }), plan({ ends, pairs: [[5, 9]], tap: { group: 1 } })],
  [
    "nets",
    plan({
      ends,
      barred: [5],
      barredNets: nets("203.0.113.0/24 203.0.113.0/26 192.0.2.7/32 ::/0"),
      exemptNets: nets("203.0.113.128/25"),
    }),
    plan({
      ends,
      barred: [5],
      barredNets: nets("203.0.113.0/25 192.0.2.7/32 ::/0"),
      exemptNets: nets("203.0.113.128/25"),
    }),
  ],
  ["report", plan({ ends, pairs: [[4, 9]], report: { group: 8 }, tap: { group: 7, hold: { queue: 3 } } })],
];

for (const [title, before, after] of pages) {
  test(`a page on ${title}`, () => {
    const from = rulesOf(before);
    const parts = [`── plan\n${show(before)}`];
    if (after) {
      const to = rulesOf(after);
      parts.push(`── then\n${show(after)}`);
      parts.push(`── ipset restore\n${renderAdditions(from.sets, to.sets)}`);
      for (const family of [4, 6] as const) {
        const chains = from.chains[family];
        const present = { chains, jumps: placedJumps(prefix, chains) };
        parts.push(`── restore of IPv${family}\n${renderRules(prefix, present, to.chains[family])}`);
      }
      parts.push(
        `── ipset restore\n${renderDeletions(from.sets, to.sets)}${renderDestruction(from.sets, to.sets)}`,
      );
    } else {
      const { sets, rules } = renderBoot(prefix, from);
      parts.push(`── ipset\n${sets}`, `── iptables\n${rules[4]}`, `── ip6tables\n${rules[6]}`);
    }
    matchesGolden(`ipset-${title}.txt`, parts.join("\n"));
  });
}

test("xtRules: names keep within the kernel's limits, whatever the ids, and MACs are not behind OUTPUT", () => {
  const ids = Array.from({ length: 40 }, (_, at) => 2 ** 32 - 1 - at * 4 ** 12);
  const fixed = ids.filter((id) => id > 0);
  const deep = plan({
    ends: [web, ...fixed.map((id, at) => end(id, `10.9.0.${at}`, "02:00:00:00:00:01"))],
    pairs: fixed.map((id) => (id < 9 ? ([id, 9] as const) : ([9, id] as const))),
    barred: [fixed[0]!],
    exempt: [fixed[1]!],
  });
  fc.assert(
    fc.property(fc.oneof(anyPlan(), fc.constant(deep)), (given) => {
      const { sets, chains } = rulesOf(given, "isolation");
      for (const name of sets.keys())
        assert.ok(name.length <= 31 && name.startsWith(setPrefix("isolation")), name);
      for (const family of [4, 6] as const) {
        for (const [name, rules] of chains[family]) {
          assert.ok(name.length <= 28 && name.startsWith(chainPrefix("isolation")), name);
          for (const { text } of rules) {
            for (const [, set] of text.matchAll(/--match-set (\S+)/g)) assert.ok(sets.has(set!), set);
            const target = /-j (gatehouse\S+)/.exec(text)?.[1];
            if (target) assert.ok(chains[family].has(target), target);
          }
        }
        for (const chain of reached(chains[family], `${chainPrefix("isolation")}-out`)) {
          for (const { text } of chains[family].get(chain)!) assert.not.match(text, "--mac-source");
        }
      }
    }),
  );
});

function reached(chains: ReadonlyMap<string, readonly { text: string }[]>, from: string): Set<string> {
  const found = new Set<string>(chains.has(from) ? [from] : []);
  for (const chain of found) {
    for (const { text } of chains.get(chain)!) {
      const target = /-j (gatehouse\S+)/.exec(text)?.[1];
      if (target) found.add(target);
    }
  }
  return found;
}

/** What `ipset save` and `iptables-save` would print of it. */
function printed({ sets, chains }: XtRules) {
  const rules = (family: 4 | 6) => {
    const lines = renderRules(prefix, nothing, chains[family]).split("\n");
    const jumps = lines.filter((line) => line.startsWith("-I")).map((line) => line.replace("-I", "-A"));
    return [":FORWARD ACCEPT [0:0]", ...lines.filter((line) => !line.startsWith("-I")), ...jumps].join("\n");
  };
  return { sets: renderAdditions(new Map(), sets), rules: { 4: rules(4), 6: rules(6) } };
}

test("parseSets, parseRules: read back what was made, and see every difference between two plans", () => {
  fc.assert(
    fc.property(anyPlan(), anyPlan(), (one, other) => {
      const [first, second] = [rulesOf(one), rulesOf(other)];
      const text = printed(first);
      const sets = parseSets(
        `create foreign hash:ip family inet x\nadd foreign 10.0.0.1\n${text.sets}`,
        setPrefix("flows"),
      );
      assert.equal(setDifferences(sets, first.sets), []);
      assert.is(
        setDifferences(sets, second.sets).length > 0,
        [renderAdditions, renderDeletions, renderDestruction].some(
          (render) => render(first.sets, second.sets) !== "",
        ),
      );
      for (const family of [4, 6] as const) {
        const rules = parseRules(text.rules[family], prefix);
        assert.equal(ruleDifferences(prefix, rules, first.chains[family]), []);
        assert.is(renderRules(prefix, rules, first.chains[family]), "");
        const seen = ruleDifferences(prefix, rules, second.chains[family]).length > 0;
        assert.is(seen, renderRules(prefix, rules, second.chains[family]) !== "");
      }
    }),
  );
});

test("parseRules: our jump counts as first below other jumps of gatehouse, not below anything else", () => {
  const jumps = (rules: string) => {
    const { jumps } = parseRules(
      `*filter\n:FORWARD ACCEPT [0:0]\n:gatehouse-flows-fwd - [0:0]\n${rules}`,
      prefix,
    );
    return jumps.get(entrances[0]!);
  };
  const ours = "-A FORWARD -j gatehouse-flows-fwd\n";
  assert.equal(jumps(ours), { count: 1, first: true });
  assert.equal(jumps(`-A FORWARD -j gatehouse-nodes-fwd\n${ours}`), { count: 1, first: true });
  assert.equal(jumps(`-A FORWARD -j ACCEPT\n${ours}`), { count: 1, first: false });
  assert.equal(jumps(`${ours}-A FORWARD -j ACCEPT\n${ours}`), { count: 2, first: true });
  assert.equal(jumps(`-A FORWARD -p tcp -j gatehouse-flows-fwd\n${ours}`), { count: 1, first: false });
  assert.is(jumps("-A FORWARD -j ACCEPT\n"), undefined);
});

test("renderRules: a jump that is there twice or too low is put right, and nothing else is touched", () => {
  const { chains } = rulesOf(plan({ tap: { group: 1 } }));
  const present = (count: number, first: boolean) => ({
    chains: chains[4],
    jumps: new Map([...placedJumps(prefix, chains[4]), [entrances[0]!, { count, first }]] as const),
  });
  assert.is(renderRules(prefix, present(1, true), chains[4]), "");
  const jump = "FORWARD -j gatehouse-flows-fwd";
  assert.is(renderRules(prefix, present(1, false), chains[4]), `*filter\n-D ${jump}\n-I ${jump}\nCOMMIT\n`);
  assert.is(
    renderRules(prefix, present(2, true), chains[4]),
    `*filter\n-D ${jump}\n-D ${jump}\n-I ${jump}\nCOMMIT\n`,
  );
});

test("renderRules: what waits does so in table mangle, and both tables are read back", () => {
  const { chains } = rulesOf(plan({ tap: { group: 1, hold: { queue: 2 } } }));
  const text = renderRules(prefix, nothing, chains[4]);
  assert.match(
    text,
    /^\*filter\n(?:[^*].*\n)*COMMIT\n\*mangle\n:gatehouse-flows-hold - \[0:0\]\n-I FORWARD /,
  );
  assert.is(text.split("*mangle")[0]!.includes("NFQUEUE"), false);
  const saved = text.replaceAll("-I ", "-A ");
  const present = parseRules(saved, prefix);
  assert.equal(ruleDifferences(prefix, present, chains[4]), []);
  assert.is(renderRules(prefix, present, chains[4]), "");
  const tapped = rulesOf(plan({ tap: { group: 1 } })).chains[4];
  assert.match(
    renderRules(prefix, present, tapped),
    /\*mangle\n:gatehouse-flows-hold - \[0:0\]\n-D FORWARD \S+ gatehouse-flows-hold\n-D OUTPUT \S+ gatehouse-flows-hold\n-X gatehouse-flows-hold\nCOMMIT\n$/,
  );
  // The same names in tables where they are not ours are not read as ours.
  assert.is(parseRules(saved.replace("*mangle", "*nat"), prefix).chains.has("gatehouse-flows-hold"), false);
});

test("parseDropped: the packets of our last rule alone", () => {
  const text = [
    "*filter",
    "[7:90] -A gatehouse-flows-end -m set --match-set x src -j RETURN",
    '[12:900] -A gatehouse-flows-end -m comment --comment "gatehouse 1: blocked" -j DROP',
    "[5:9] -A gatehouse-nodes-end -j DROP",
    "[99999999999999999999:9] -A FORWARD -j DROP",
  ].join("\n");
  assert.is(parseDropped(text, prefix), 12n);
  assert.is(parseDropped("", prefix), 0n);
});

test("parseCounts: numbers of entries of our sets, undefined where ipset does not tell", () => {
  const text = [
    "Name: foreign",
    "Type: hash:ip",
    "Number of entries: 7",
    "Members:",
    "",
    "Name: gh-flows-P4V4",
    "Type: hash:ip",
    "Number of entries: 3",
    "",
    "Name: gh-flows-N4V4",
    "Type: hash:ip",
    "",
  ].join("\n");
  assert.equal(
    [...parseCounts(text, "gh-flows-")],
    [
      ["gh-flows-P4V4", 3],
      ["gh-flows-N4V4", undefined],
    ],
  );
});

test("parseSets, parseRules, parseCounts: take any text", () => {
  const { sets, rules } = printed(
    rulesOf(
      plan({
        ends,
        pairs: [
          [4, 5],
          [4, 9],
        ],
        barred: [5],
      }),
    ),
  );
  for (const text of [sets, rules[4]]) {
    fc.assert(
      fc.property(fc.nat(text.length), fc.string({ maxLength: 3 }), (at, patch) => {
        const damaged = text.slice(0, at) + patch + text.slice(at + 1);
        parseSets(damaged, "gh-flows-");
        parseRules(damaged, prefix);
        parseCounts(damaged, "gh-flows-");
      }),
      { numRuns: 1000 },
    );
  }
});

test.run();
