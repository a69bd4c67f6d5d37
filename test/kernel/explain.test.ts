/** What a plan means, word by word, and where the kernel holds it. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { egressTable } from "../../src/kernel/egress.ts";
import { blockedBy, explainer, explainPlan, type Packet, type Reason } from "../../src/kernel/explain.ts";
import { xtRules } from "../../src/kernel/ipsetrules.ts";
import { finderOf, netsApart } from "../../src/kernel/nets.ts";
import { nftTable, type TableFamily } from "../../src/kernel/nftrules.ts";
import { nftPlaces, xtPlaces } from "../../src/kernel/places.ts";
import type { Plan } from "../../src/kernel/plan.ts";
import { type Address, contains, type Mac, type Prefix } from "../../src/lib/address.ts";
import { anyPlan, end, nets, orderOf, plan, pool } from "./plans.ts";

const [laptopMac, cameraMac] = ["02:00:00:00:00:04", "02:00:00:00:00:05"];
const ends = [
  end(4, "10.0.0.4 fd00::4", laptopMac),
  end(5, "10.0.0.5", cameraMac),
  end(9, "198.51.100.9 2001:db8::9"),
  end(10, "198.51.100.9"),
];

/** `"10.0.0.4 > 198.51.100.9"`, each with `/MAC` where one is seen. */
function packet(text: string): Packet {
  const [source, destination] = text.split(" > ").map((each) => each.split("/"));
  return {
    source: source![0] as Address,
    destination: destination![0] as Address,
    ...(source![1] ? { sourceMac: source![1] as Mac } : {}),
    ...(destination![1] ? { destinationMac: destination![1] as Mac } : {}),
  };
}

/** A reason in a few words; with "!" if it decides. */
function shown(reason: Reason): string {
  const mark = reason.decides ? "!" : "";
  if (reason.kind === "pair") {
    const { pair, source, destination } = reason;
    return `${mark}pair ${pair.join("-")} ${source.node} by ${source.by} > ${destination.node} by ${destination.by}`;
  }
  const what = reason.by === "net" ? reason.net : `${reason.node} by ${reason.by}`;
  return `${mark}${reason.kind} ${reason.side} ${what}`;
}

const rows: [string, Plan, string, "pass" | "drop", string[]][] = [
  ["nothing is said", plan({ ends, pairs: [[5, 9]] }), "10.0.0.4 > 198.51.100.9", "pass", []],
  [
    "a pair",
    plan({ ends, pairs: [[4, 9]] }),
    "198.51.100.9 > 10.0.0.4",
    "drop",
    ["!pair 4-9 9 by address > 4 by address"],
  ],
  [
    "an address of two nodes",
    plan({
      ends,
      pairs: [
        [4, 9],
        [4, 10],
      ],
    }),
    "10.0.0.4 > 198.51.100.9",
    "drop",
    ["!pair 4-9 4 by address > 9 by address", "!pair 4-10 4 by address > 10 by address"],
  ],
  [
    "a new address",
    plan({ ends, pairs: [[4, 9]] }),
    `10.0.0.77/${laptopMac} > 198.51.100.9`,
    "drop",
    ["!pair 4-9 4 by mac > 9 by address"],
  ],
  [
    "towards a new address",
    plan({ ends, barred: [4] }),
    `192.0.2.1 > 10.0.0.77/${laptopMac}`,
    "drop",
    ["!barred destination 4 by mac"],
  ],
  [
    "an exemption beats all",
    plan({ ends, pairs: [[4, 9]], barred: [5], exempt: [9], barredNets: nets("198.51.100.0/24") }),
    "10.0.0.4 > 198.51.100.9",
    "pass",
    [
      "!exempt destination 9 by address",
      "barred destination 198.51.100.0/24",
      "pair 4-9 4 by address > 9 by address",
    ],
  ],
  [
    "an exemption of what nobody blocks",
    plan({ ends, exempt: [4] }),
    "10.0.0.4 > 192.0.2.1",
    "pass",
    ["exempt source 4 by address"],
  ],
  [
    "nets in nets",
    plan({
      barredNets: nets("10.0.0.0/8 10.0.0.0/24 10.0.0.4/32 fd00::/8"),
      exemptNets: nets("192.0.2.0/24"),
    }),
    "10.0.0.4 > 203.0.113.1",
    "drop",
    ["!barred source 10.0.0.0/8", "!barred source 10.0.0.0/24", "!barred source 10.0.0.4/32"],
  ],
  [
    "an exempt MAC at a new address: too late for what addresses say",
    plan({ ends, barred: [9], exempt: [4] }),
    `198.51.100.9 > 10.0.0.77/${laptopMac}`,
    "drop",
    ["exempt destination 4 by mac", "!barred source 9 by address"],
  ],
  [
    "an exempt MAC at a new address: in time for what MACs say",
    plan({ ends, pairs: [[4, 9]], exempt: [4] }),
    `198.51.100.9 > 10.0.0.77/${laptopMac}`,
    "pass",
    ["!exempt destination 4 by mac", "pair 4-9 9 by address > 4 by mac"],
  ],
  [
    "two MACs",
    plan({ ends, pairs: [[4, 5]] }),
    `10.0.0.77/${laptopMac} > 10.0.0.78/${cameraMac}`,
    "drop",
    ["!pair 4-5 4 by mac > 5 by mac"],
  ],
];

for (const [title, given, text, verdict, words] of rows) {
  test(`explainPlan: ${title}`, () => {
    const { verdict: found, reasons } = explainPlan(given, packet(text));
    assert.equal([found, ...reasons.map(shown)], [verdict, ...words]);
    assert.equal(JSON.parse(JSON.stringify(reasons)), reasons, "plain data");
  });
}

const everywhere = [...pool[4], ...pool[6]];
const macs = [undefined, ...[1, 2, 3].map((each) => `02:00:00:00:00:0${each}` as Mac)];
const anyPacket = fc
  .tuple(fc.constantFrom(...everywhere), fc.nat(6), fc.constantFrom(...macs), fc.constantFrom(...macs))
  .map(([source, at, sourceMac, destinationMac]): Packet => {
    const destination = pool[source.includes(":") ? 6 : 4][at]!;
    return {
      ...{ source, destination },
      ...(sourceMac ? { sourceMac } : {}),
      ...(destinationMac ? { destinationMac } : {}),
    };
  });

test("explainPlan: agrees with blockedBy, a verdict rests on something, and a drop on nothing that exempts", () => {
  fc.assert(
    fc.property(anyPlan(), anyPacket, (given, { source, destination, ...seen }) => {
      const bare = explainPlan(given, { source, destination });
      assert.is(bare.verdict === "drop", blockedBy(given)(source, destination));
      const { verdict, reasons } = explainPlan(given, { source, destination, ...seen });
      const deciding = reasons.filter(({ decides }) => decides);
      const kinds = new Set(deciding.map(({ kind }) => kind));
      if (verdict === "drop") assert.ok(deciding.length > 0 && !kinds.has("exempt"));
      else assert.ok([...kinds].every((kind) => kind === "exempt"));
      // Packets show more with MACs than without, never less.
      assert.ok(reasons.length >= bare.reasons.length);
    }),
    { numRuns: 500 },
  );
});

test("places: what blocks is found in the rules of either back end, also after its net was left out for a wider one", () => {
  fc.assert(
    fc.property(anyPlan(), anyPacket, (given, met) => {
      const { dispatch, ...options } = orderOf(given);
      if (!dispatch.blocks) return;
      const tables: [TableFamily, string, NonNullable<ReturnType<typeof egressTable>>][] = [];
      for (const family of ["inet", "bridge"] as const)
        tables.push([family, family, nftTable(family, dispatch, { lanDevices: [], ...options })!]);
      const egress = egressTable(dispatch, ["lan0"]);
      if (egress) tables.push(["netdev", "netdev", egress]);
      const xt = xtRules(dispatch, { owner: "flows", lanDevices: [], ...options });
      for (const reason of explainer(given)(met).reasons) {
        const words = shown(reason);
        assert.ok(nftPlaces(tables, dispatch, { packet: met, reason }).length > 0, words);
        // iptables sees no MAC that a packet goes to.
        const { destinationMac: _, ...early } = met;
        if (
          explainer(given)(early).reasons.some(
            (each) => shown(each).replace("!", "") === words.replace("!", ""),
          )
        )
          assert.ok(xtPlaces("flows", xt, { dispatch, met: { packet: early, reason } }).length > 0, words);
      }
    }),
    { numRuns: 500 },
  );
});

const anyPrefix = fc
  .tuple(fc.constantFrom(...everywhere), fc.nat(8))
  .map(([address, up]) => nets(`${address}/${(address.includes(":") ? 128 : 32) - up}`)[0]!);

test("netsApart, finderOf: cover what the prefixes cover, none in another, and find all that hold an address", () => {
  fc.assert(
    fc.property(fc.array(anyPrefix, { maxLength: 12 }), (prefixes: Prefix[]) => {
      const list = netsApart(prefixes);
      const kept = [...list[4], ...list[6]];
      const index = finderOf(prefixes);
      for (const address of everywhere) {
        const holding = new Set(prefixes.filter((each) => contains(each, address)));
        assert.equal(new Set(index(address)), holding);
        assert.is(kept.filter((each) => contains(each, address)).length, holding.size > 0 ? 1 : 0);
      }
      assert.ok(kept.every((each) => prefixes.includes(each)));
      const again = netsApart([...prefixes].reverse().concat(prefixes));
      assert.equal(new Set(again[4]), new Set(list[4]));
    }),
  );
});

test.run();
