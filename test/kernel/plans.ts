/** Plans for tests: written by hand, made at random, and shown on the page of a golden file. */

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import * as assert from "uvu/assert";
import type { BlockOrder } from "../../src/kernel/enforcer.ts";
import { orderOf as anyOrderOf } from "../../src/kernel/order.ts";
import type { End, Plan } from "../../src/kernel/plan.ts";
import {
  type Address,
  type Mac,
  type Prefix,
  parseAddress,
  parseMac,
  parsePrefix,
} from "../../src/lib/address.ts";

/** `end(4, "10.0.0.4 fd00::4", "02:00:00:00:00:04")`. */
export function end(id: number, addresses: string, macs = ""): End {
  const words = (text: string) => text.split(" ").filter(Boolean);
  return {
    id,
    addresses: words(addresses).map((each) => parseAddress(each) as Address),
    macs: words(macs).map((each) => parseMac(each) as Mac),
  };
}

/** `nets("10.0.0.0/8 fd00::/8")`. */
export function nets(prefixes: string): Prefix[] {
  return prefixes.split(" ").map((each) => parsePrefix(each) as Prefix);
}

export function plan(parts: Partial<Plan>): Plan {
  return { ends: [], pairs: [], barred: [], exempt: [], ...parts };
}

/** Addresses that random plans choose from; few, so that nodes share some. */
export const pool = {
  4: Array.from({ length: 7 }, (_, at) => parseAddress(`10.66.0.${at + 1}`) as Address),
  6: Array.from({ length: 7 }, (_, at) => parseAddress(`fd66::${at + 1}`) as Address),
};

/** Nets around addresses of the pool, in each other, side by side, and beside it. */
const anyNets = fc.oneof(
  { weight: 3, arbitrary: fc.constant([]) },
  fc.array(
    fc.constantFrom(
      ...nets("10.66.0.0/30 10.66.0.4/31 10.66.0.6/31 10.66.0.4/32 10.66.0.2/31 10.66.0.0/24 192.0.2.0/24"),
      ...nets("fd66::/126 fd66::4/127 fd66::6/127 fd66::5/128 fd66::/64 fd66::2/127 2001:db8::/32"),
    ),
    { maxLength: 3 },
  ),
);

/** Plans of up to `count` nodes with ids far and near, some with MACs, some without any address. */
export function anyPlan(count = 12): fc.Arbitrary<Plan> {
  const addresses = fc.subarray([...pool[4], ...pool[6]], { maxLength: 4 });
  const macs = fc.subarray(
    [1, 2, 3].map((each) => parseMac(`02:00:00:00:00:0${each}`) as Mac),
    {
      maxLength: 2,
    },
  );
  const ids = fc.uniqueArray(
    fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 2 ** 32 - 1 })),
    {
      minLength: 1,
      maxLength: count,
    },
  );
  return ids.chain((list) =>
    fc.record({
      ends: fc.tuple(
        ...list.map((id) =>
          fc.record({ id: fc.constant(id), addresses, macs: fc.oneof(fc.constant([]), macs) }),
        ),
      ),
      pairs: fc.subarray(pairsOf(list)),
      barred: fc.oneof(
        { weight: 3, arbitrary: fc.constant([]) },
        fc.subarray(list, { maxLength: Math.min(2, list.length) }),
      ),
      exempt: fc.oneof(
        { weight: 3, arbitrary: fc.constant([]) },
        fc.subarray(list, { maxLength: Math.min(2, list.length) }),
      ),
      barredNets: anyNets,
      exemptNets: anyNets,
    }),
  );
}

function pairsOf(ids: readonly number[]): (readonly [number, number])[] {
  const sorted = [...ids].sort((a, b) => a - b);
  return sorted.flatMap((low, at) => sorted.slice(at + 1).map((high) => [low, high] as const));
}

/** A plan as a back end gets it. */
export function orderOf(given: Plan): BlockOrder {
  return anyOrderOf(given) as BlockOrder;
}

/** Compares with test/kernel/golden/`name`; GOLDEN=write makes the file anew, to be read before it is kept. */
export function matchesGolden(name: string, text: string): void {
  const path = join(process.cwd(), "test/kernel/golden", name);
  if (process.env.GOLDEN === "write") writeFileSync(path, text);
  assert.ok(existsSync(path), `${path} is not there`);
  assert.fixture(text, readFileSync(path, "utf8"));
}

/** A plan as the page shows it. */
export function show(given: Plan): string {
  const { ends, pairs, barred, exempt, barredNets = [], exemptNets = [], tap, report } = given;
  const lines = ends.map(({ id, addresses, macs }) => `node ${id}: ${[...addresses, ...macs].join(" ")}`);
  if (pairs.length > 0) lines.push(`pairs: ${pairs.map((pair) => pair.join("-")).join(" ")}`);
  if (barred.length > 0) lines.push(`barred: ${barred.join(" ")}`);
  if (exempt.length > 0) lines.push(`exempt: ${exempt.join(" ")}`);
  if (barredNets.length > 0) lines.push(`barred nets: ${barredNets.join(" ")}`);
  if (exemptNets.length > 0) lines.push(`exempt nets: ${exemptNets.join(" ")}`);
  if (tap) lines.push(`tap: group ${tap.group}${tap.hold ? `, answers in queue ${tap.hold.queue}` : ""}`);
  if (report) lines.push(`report: group ${report.group}`);
  return `${lines.join("\n")}\n`;
}
