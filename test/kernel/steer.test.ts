/** Rules and routes of our own on the real kernel, against what `ip` shows. */

import { execFileSync } from "node:child_process";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  decodeRoute,
  decodeRule,
  encodeRoute,
  encodeRule,
  type SteerRoute,
  type SteerRule,
} from "../../src/kernel/fib.ts";
import { openSteering, type Steering, type SteeringOptions } from "../../src/kernel/steer.ts";
import { type Address, type Prefix, parsePrefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { eventually } from "../lab/children.ts";
import { openSystem } from "./yard.ts";

const system = openSystem();
const protocol = 71;
const sh = async (script: string) => execFileSync("sh", ["-c", script], { encoding: "utf8" });
const net = (text: string) => parsePrefix(text) as Prefix;
const address = (text: string) => text as Address;

interface ShownRule {
  readonly priority: number;
  readonly src: string;
  readonly srclen?: number;
  readonly dst?: string;
  readonly dstlen?: number;
  readonly iif?: string;
  readonly table: string;
  readonly protocol?: string;
}

async function shownRules(): Promise<string[]> {
  const all = await Promise.all(
    ["-4", "-6"].map(async (family) => {
      const rules = JSON.parse(await sh(`ip ${family} -j -N -d rule show`)) as ShownRule[];
      return rules
        .filter((rule) => rule.protocol === String(protocol))
        .map(
          (rule) =>
            `${family} ${rule.priority} ${rule.src}${rule.srclen ? `/${rule.srclen}` : ""} ` +
            `${rule.dst ?? "all"}${rule.dstlen ? `/${rule.dstlen}` : ""} ${rule.iif ?? "-"} ${rule.table}`,
        );
    }),
  );
  return all.flat().sort();
}

async function shownRoutes(table: number): Promise<string[]> {
  const all = await Promise.all(
    ["-4", "-6"].map((family) =>
      sh(`ip ${family} -N route show table ${table} proto ${protocol} 2>/dev/null || true`),
    ),
  );
  return all
    .flatMap((text) =>
      text
        .split("\n")
        .map((line) => line.trim())
        .filter(Boolean),
    )
    .sort();
}

let setUp = false;
async function device(): Promise<number> {
  if (!setUp) {
    await sh(
      "ip link add up1 type veth peer name up2; ip link set up2 up; ip address add 192.0.2.5/24 dev up1; ip -6 address add 2001:db8:1::5/64 dev up1 nodad; ip link set up1 up",
    );
    setUp = true;
  }
  return Number((JSON.parse(await sh("ip -j link show up1")) as { ifindex: number }[])[0]!.ifindex);
}

const opened: Steering[] = [];
function open(options: Partial<SteeringOptions> = {}): Steering {
  const steering = openSteering(system, { protocol, ...options });
  opened.push(steering);
  return steering;
}

test.after.each(async () => {
  for (const steering of opened.splice(0)) {
    await steering.apply({ rules: [], routes: [] });
    steering.close();
  }
});

const rules: SteerRule[] = [
  { family: 4, priority: 10_000, from: net("192.0.2.5/32"), table: 10_001 },
  { family: 4, priority: 20_000, to: net("192.0.2.0/24"), table: 10_001 },
  { family: 4, priority: 91_000, incoming: "lo", table: 10_001 },
  { family: 6, priority: 10_000, from: net("2001:db8:1::5/128"), table: 10_001 },
  { family: 6, priority: 20_000, to: net("2001:db8:1::/64"), table: 10_001 },
  { family: 6, priority: 91_000, incoming: "lo", table: 10_001 },
];

test("apply makes rules and routes in both families, as ip shows them, and removes them again", async () => {
  const ifindex = await device();
  const steering = open();
  const routes: SteerRoute[] = [
    {
      family: 4,
      table: 10_001,
      to: net("0.0.0.0/0"),
      via: address("192.0.2.1"),
      ifindex,
      source: address("192.0.2.5"),
    },
    { family: 4, table: 10_001, to: net("192.0.2.0/24"), ifindex, source: address("192.0.2.5") },
    { family: 6, table: 10_001, to: net("::/0"), via: address("2001:db8:1::1"), ifindex, metric: 512 },
    { family: 6, table: 10_001, to: net("2001:db8:1::/64"), ifindex },
  ];
  await steering.apply({ rules, routes });
  assert.equal(await shownRules(), [
    "-4 10000 192.0.2.5 all - 10001",
    "-4 20000 all 192.0.2.0/24 - 10001",
    "-4 91000 all all lo 10001",
    "-6 10000 2001:db8:1::5 all - 10001",
    "-6 20000 all 2001:db8:1::/64 - 10001",
    "-6 91000 all all lo 10001",
  ]);
  const shown = (await shownRoutes(10_001)).join("\n");
  assert.match(shown, /default via 192\.0\.2\.1 dev up1 .*src 192\.0\.2\.5/);
  assert.match(shown, /192\.0\.2\.0\/24 dev up1 .*scope 253 src 192\.0\.2\.5/);
  assert.match(shown, /default via 2001:db8:1::1 dev up1 .*metric 512/);
  assert.match(shown, /2001:db8:1::\/64 dev up1/);
  const before = [await sh("ip -N rule"), await sh("ip -6 -N rule"), shown];
  await steering.apply({ rules, routes });
  assert.equal(
    [await sh("ip -N rule"), await sh("ip -6 -N rule"), (await shownRoutes(10_001)).join("\n")],
    before,
  );
  await steering.apply({ rules: rules.slice(0, 1), routes: [] });
  assert.equal(await shownRules(), ["-4 10000 192.0.2.5 all - 10001"]);
  assert.equal(await shownRoutes(10_001), []);
});

test("amend makes and removes what changes, after any history, and a way to the same net takes the other's place", async () => {
  const ifindex = await device();
  const steering = open();
  const way = (via: string): SteerRoute => ({
    ...{ family: 4, table: 10_001, to: net("0.0.0.0/0"), via: address(via), ifindex },
  });
  const [one, other] = [way("192.0.2.1"), way("192.0.2.7")];
  const nothing = { rules: [], routes: [] };
  // The first word of this life: what an earlier one left goes.
  await steering.apply({ rules: rules.slice(0, 2), routes: [] });
  opened.splice(opened.indexOf(steering), 1);
  steering.close();
  const next = open();
  assert.equal(await next.amend({ drop: nothing, add: { rules: rules.slice(1, 3), routes: [one] } }), []);
  assert.equal(await shownRules(), ["-4 20000 all 192.0.2.0/24 - 10001", "-4 91000 all all lo 10001"]);
  await next.amend({
    drop: { rules: rules.slice(1, 2), routes: [one] },
    add: { rules: [], routes: [other] },
  });
  assert.equal(await shownRules(), ["-4 91000 all all lo 10001"]);
  assert.match((await shownRoutes(10_001)).join("\n"), /^default via 192\.0\.2\.7 dev up1/);
  const nowhere: SteerRoute = { family: 4, table: 10_001, to: net("198.51.100.0/24"), ifindex: 9_999 };
  const refused = await next.amend({ drop: nothing, add: { rules: rules.slice(0, 1), routes: [nowhere] } });
  assert.equal(
    refused.map((each) => each.what),
    [nowhere],
  );
  assert.is((await shownRules()).length, 2);
  assert.is((await next.amend({ drop: nothing, add: nothing })).length, 1);
  assert.equal(await next.amend({ drop: { rules: [], routes: [nowhere] }, add: nothing }), []);
  await next.amend({ drop: { rules: [rules[0]!, rules[2]!], routes: [other] }, add: nothing });
  assert.equal(await shownRules(), []);
  assert.equal(await shownRoutes(10_001), []);
});

test("what others made is left alone, and the tables that they use are known", async () => {
  const ifindex = await device();
  await sh(
    "ip rule add from 198.51.100.7 lookup 333 priority 10000; ip route add 198.51.100.0/24 dev up1 table 444",
  );
  const steering = open();
  await steering.apply({ rules, routes: [{ family: 4, table: 10_001, to: net("0.0.0.0/0"), ifindex }] });
  const tables = await steering.tables();
  for (const table of [333, 444, 254]) assert.ok(tables[4].has(table), String(table));
  assert.not.ok(tables[6].has(333));
  for (const family of [4, 6] as const) assert.not.ok(tables[family].has(10_001));
  await sh("ip -6 rule add from 2001:db8:2::7 lookup 335");
  await eventually("a table that others begin to use is known", async () =>
    (await steering.tables())[6].has(335),
  );
  await sh("ip -6 rule delete from 2001:db8:2::7 lookup 335");
  await steering.apply({ rules: [], routes: [] });
  assert.match(await sh("ip rule"), /from 198\.51\.100\.7 lookup 333/);
  assert.match(await sh("ip route show table 444"), /198\.51\.100\.0\/24/);
  await sh("ip rule delete from 198.51.100.7 lookup 333; ip route flush table 444");
});

test("what somebody else takes away is put back, and told", async () => {
  const ifindex = await device();
  const repaired: string[] = [];
  const steering = open({ onRepair: (what) => repaired.push(...what) });
  const routes: SteerRoute[] = [
    { family: 6, table: 10_001, to: net("::/0"), via: address("2001:db8:1::1"), ifindex },
  ];
  await steering.apply({ rules, routes });
  const before = await shownRules();
  await sh("ip rule delete priority 20000; ip -6 route flush table 10001");
  await eventually(
    "rules and routes are back",
    async () => (await shownRoutes(10_001)).length === 1 && (await shownRules()).length === 6,
  );
  assert.equal(await shownRules(), before);
  assert.ok(repaired.some((each) => each.includes("to 192.0.2.0/24")));
});

test("flush empties a table and removes every rule that leads to it, whoever made them", async () => {
  await device();
  await sh(
    "ip rule add from 192.0.2.5 lookup 10009 priority 5; ip -6 rule add iif lo lookup 10009; ip route add default via 192.0.2.1 dev up1 table 10009",
  );
  const steering = open();
  await steering.flush([{ family: 6, table: 10_009 }]);
  assert.match(await sh("ip rule"), /10009/);
  assert.not.match(await sh("ip -6 rule"), /10009/);
  await sh("ip -6 rule add iif lo lookup 10009");
  await steering.flush([
    { family: 4, table: 10_009 },
    { family: 6, table: 10_009 },
  ]);
  assert.not.match(await sh("ip rule"), /10009/);
  assert.not.match(await sh("ip -6 rule"), /10009/);
  assert.is((await sh("ip route show table 10009 2>/dev/null || true")).trim(), "");
});

test("a route over an interface that is not there is refused with the kernel's reason; the rest is made", async () => {
  const ifindex = await device();
  const steering = open();
  const nowhere: SteerRoute = { family: 4, table: 10_001, to: net("0.0.0.0/0"), ifindex: 9_999 };
  const refused = await steering.apply({ rules, routes: [nowhere] });
  assert.equal(
    refused.map((each) => each.what),
    [nowhere],
  );
  assert.instance(refused[0]!.fault, Fault);
  assert.is((await shownRules()).length, 6);
  // What has become possible is made without being asked for again.
  const late: SteerRoute = {
    ...{ family: 4, table: 10_001, to: net("0.0.0.0/0"), ifindex },
    via: address("203.0.113.1"),
  };
  assert.is((await steering.apply({ rules, routes: [late] })).length, 1);
  await sh("ip address add 203.0.113.5/24 dev up1");
  await eventually("the route is there", async () => (await shownRoutes(10_001)).length === 1);
  assert.equal(await steering.apply({ rules, routes: [late] }), []);
  await sh("ip address delete 203.0.113.5/24 dev up1");
});

test("500 random plans, with restarts, leave rules and routes as the last one says", async () => {
  const ifindex = await device();
  const tables = [10_001, 10_002, 10_003];
  const rule = fc.constantFrom(
    ...tables.flatMap((table) =>
      rules.map((each) => ({ ...each, table, priority: each.priority + table - 10_001 })),
    ),
  );
  // Without these a rule could lead a gateway's own address to a table that knows no way to it.
  const connected = tables.map(
    (table): SteerRoute => ({ family: 6, table, to: net("2001:db8:1::/64"), ifindex }),
  );
  const route = fc.constantFrom(
    ...tables.flatMap((table): SteerRoute[] => [
      { family: 4, table, to: net("0.0.0.0/0"), via: address("192.0.2.1"), ifindex },
      { family: 4, table, to: net("198.51.100.0/24"), ifindex },
      { family: 6, table, to: net("::/0"), via: address("2001:db8:1::1"), ifindex },
      { family: 6, table, to: net("2001:db8:9::/48"), ifindex, metric: 7 },
    ]),
  );
  const plan = fc.record({
    rules: fc.uniqueArray(rule, { maxLength: 10 }),
    routes: fc.uniqueArray(route, { maxLength: 8 }),
    restart: fc.boolean(),
  });
  let steering = open();
  for (const [step, each] of fc.sample(plan, { numRuns: 500, seed: 4711 }).entries()) {
    if (each.restart) {
      opened.splice(opened.indexOf(steering), 1);
      steering.close();
      steering = open();
    }
    await steering.apply({ rules: each.rules, routes: [...each.routes, ...connected] });
    if (step % 10 !== 0) continue;
    assert.is((await shownRules()).length, each.rules.length, `rules after step ${step}`);
    const shown = await Promise.all(tables.map(shownRoutes));
    assert.is(shown.flat().length, each.routes.length + connected.length, `routes after step ${step}`);
  }
});

test("decodeRule and decodeRoute read what was written, and nothing that is cut short or flipped throws", () => {
  const samples = [
    ...rules.map((each) => [decodeRule, encodeRule(each, protocol), each] as const),
    ...[{ family: 4, table: 300, to: net("192.0.2.0/24"), ifindex: 4, metric: 9 } as const].map(
      (each) => [decodeRoute, encodeRoute(each, protocol), each] as const,
    ),
  ];
  for (const [decode, bytes, expected] of samples) {
    const whole = { type: 0, flags: 0, sequence: 0, port: 0, bytes, start: 0, end: bytes.length };
    const found = decode(whole)! as { rule?: unknown; route?: unknown; protocol: number };
    assert.equal(found.rule ?? found.route, expected);
    assert.is(found.protocol, protocol);
    for (let end = 0; end < bytes.length; end++) decode({ ...whole, end });
    for (let at = 0; at < bytes.length * 8; at++) {
      const flipped = Uint8Array.from(bytes);
      flipped[at >> 3]! ^= 1 << (at & 7);
      decode({ ...whole, bytes: flipped });
    }
  }
});

test.run();
