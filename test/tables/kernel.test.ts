/** Leases over the real kernel: what `ip` shows after whatever happened, in both families. */

import { execFileSync } from "node:child_process";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openSteering, type Steering } from "../../src/kernel/steer.ts";
import type { Address } from "../../src/lib/address.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { Journal } from "../../src/tables/journal.ts";
import { keyOf, openJournal, type TableKey, Tables, type TablesOptions } from "../../src/tables/tables.ts";
import { nativePath, until } from "../system/until.ts";
import { wish } from "./stage.ts";

const system = openLinux({ nativePath, log: () => {} });
const protocol = 71;
const sh = (script: string) => execFileSync("sh", ["-c", script], { encoding: "utf8" });
const directory = `${process.env.TMPDIR}/kernel-${process.pid}`;

interface ShownRule {
  readonly priority: number;
  readonly src: string;
  readonly srclen?: number;
  readonly dst?: string;
  readonly dstlen?: number;
  readonly iif?: string;
  readonly table: string;
  readonly protocol: string;
}

function shownRules(): string[] {
  return (["-4", "-6"] as const)
    .flatMap((family) => {
      const rules = JSON.parse(sh(`ip ${family} -j -N -d rule show`)) as ShownRule[];
      const bits = family === "-4" ? 32 : 128;
      return rules
        .filter((rule) => rule.protocol === String(protocol))
        .map((rule) => {
          const what =
            rule.iif !== undefined
              ? `iif ${rule.iif}`
              : rule.dst !== undefined
                ? `to ${rule.dst}/${rule.dstlen ?? bits}`
                : `from ${rule.src}/${rule.srclen ?? bits}`;
          return `${rule.priority} ${what} lookup ${rule.table}`;
        });
    })
    .sort();
}

/** Routes of ours in all tables: family, table, and how far. */
function shownRoutes(): string[] {
  return (["4", "6"] as const)
    .flatMap((family) => {
      const text = sh(`ip -${family} -N route show table all proto ${protocol}`);
      return [...text.matchAll(/^(\S+) (via \S+ )?(dev \S+) table (\d+)/gm)].map(
        ([, to, via = "", device, table]) => `${family} ${table} ${to} ${via}${device}`,
      );
    })
    .sort();
}

interface Life {
  readonly tables: Tables;
  readonly steering: Steering;
  readonly journal: Journal;
}

const lives: Life[] = [];

async function begin(more: Partial<TablesOptions> = {}): Promise<Life> {
  const boot = "boot";
  const { journal, saved } = await openJournal(system, { directory, boot });
  const steering = openSteering(system, { protocol });
  const tables = new Tables(
    system,
    {
      ...{ first: 10_000, count: 32, families: ["inet", "inet6"], lifetimeMs: 3_600_000, restMs: 0, boot },
      ...{ steers: steering, keep: (records, whole) => journal.keep(records, whole) },
      ...more,
    },
    saved,
  );
  const life = { tables, steering, journal };
  lives.push(life);
  return life;
}

/** As kill -9 leaves it. */
function kill(life: Life): void {
  life.steering.close();
  lives.splice(lives.indexOf(life), 1);
}

sh(
  "ip link add up1 type veth peer name far1; ip link add up2 type veth peer name far2;" +
    "for i in 1 2; do ip link set up$i up; ip link set far$i up; done;" +
    "ip address add 192.0.2.5/24 dev up1; ip address add 198.51.100.5/25 dev up2;" +
    "ip -6 address add 2001:db8:1::5/64 dev up1 nodad; ip -6 address add 2001:db8:2::5/64 dev up2 nodad",
);
const indexOf = (name: string) =>
  (JSON.parse(sh(`ip -j link show ${name}`)) as { ifindex: number }[])[0]!.ifindex;
const ifindexes = { up1: indexOf("up1"), up2: indexOf("up2") };
const placed = (name: "up1" | "up2", address: string, prefixLength: number) => ({
  ...{ interface: name, ifindex: ifindexes[name], address: address as Address, prefixLength },
});
const everywhere = [
  ...[placed("up1", "192.0.2.5", 24), placed("up2", "198.51.100.5", 25)],
  ...[placed("up1", "2001:db8:1::5", 64), placed("up2", "2001:db8:2::5", 64)],
];
const gateways = new Map<string, string>([
  ...[["up1 4", "192.0.2.1"] as const, ["up2 4", "198.51.100.1"] as const],
  ...[["up1 6", "2001:db8:1::1"] as const, ["up2 6", "2001:db8:2::1"] as const],
]);
const gatewayOf = (name: string, family: number) => gateways.get(`${name} ${family}`) as Address;
const key = (name: string, address: string) =>
  keyOf({ family: address.includes(":") ? "inet6" : "inet", interface: name, address });

test.after(() => {
  for (const life of [...lives]) kill(life);
});

test("two uplinks: what is sent from each address leaves by its own link, in both families", async () => {
  const life = await begin({ gatewayOf });
  life.tables.addresses(everywhere);
  const uplinks = [
    ...[["up1", "192.0.2.5"] as const, ["up2", "198.51.100.5"] as const],
    ...[["up1", "2001:db8:1::5"] as const, ["up2", "2001:db8:2::5"] as const],
  ];
  for (const [name, address] of uplinks) {
    await life.tables.request(key(name, address), wish({ steer: "rules", routes: true, follow: true }));
  }
  for (const [name, address] of uplinks) {
    const target = address.includes(":") ? "2001:db8:ffff::1" : "203.0.113.9";
    assert.match(sh(`ip route get ${target} from ${address}`), new RegExp(`dev ${name} `), address);
  }
  // The uplink is lost: its rules are gone, the other's stay.
  life.tables.linkGone("up1");
  await life.tables.settled();
  assert.is(shownRules().length, 6);
  assert.not.ok(shownRules().some((rule) => rule.includes("192.0.2.5") || rule.includes("2001:db8:1::")));
  assert.is(sh("ip route show table 10000; ip -6 route show table 10000").trim(), "");
  for (const lease of [...life.tables.all()]) await life.tables.release(() => lease, "root");
  assert.equal(shownRules(), []);
  kill(life);
});

test("600 random steps with kills leave the kernel's rules and routes as the leases say", async () => {
  const keys: TableKey[] = [
    ...[key("up1", "192.0.2.5"), key("up2", "198.51.100.5"), key("up1", "2001:db8:1::5")],
    ...[key("up2", "2001:db8:2::5"), key("up1", "192.0.2.6"), key("up2", "2001:db8:2::6")],
  ];
  const lengths = new Map([...keys.map((each) => [each, each.family === "inet" ? 24 : 64] as const)]);
  const step = fc.record({
    verb: fc.constantFrom("request", "request", "release", "release", "kill", "gone", "meddle"),
    key: fc.constantFrom(...keys),
    rules: fc.boolean(),
    routes: fc.boolean(),
    follow: fc.boolean(),
  });
  let life = await begin({ gatewayOf });
  /** What has been answered. */
  const model = new Map<TableKey, { table: number; rules: boolean; routes: boolean; follow: boolean }>();
  life.tables.addresses(everywhere);
  let meddled = false;
  for (const [index, each] of fc.sample(step, { numRuns: 600, seed: 20 }).entries()) {
    if (each.verb === "request") {
      const { rules, follow } = each;
      const routes = rules && each.routes;
      const steer = rules ? "rules" : "none";
      const wanted = wish({ steer, routes, follow, prefixLength: lengths.get(each.key)! });
      const lease = await life.tables.request(each.key, wanted);
      const before = model.get(each.key);
      if (before) assert.is(lease.value, before.table, `step ${index}`);
      model.set(each.key, { table: lease.value, rules, routes, follow });
    } else if (each.verb === "release") {
      await life.tables.release(() => life.tables.get(each.key), "root").catch(() => {});
      model.delete(each.key);
    } else if (each.verb === "kill") {
      kill(life);
      life = await begin({ gatewayOf });
      life.tables.addresses(everywhere);
      // What follows an address that is not there has missed its going.
      for (const [of, { follow }] of [...model]) {
        if (follow && !everywhere.some(({ address }) => address === of.address)) model.delete(of);
      }
    } else if (each.verb === "gone") {
      // An address that has been there goes, and comes back.
      const isThere = everywhere.some(({ address }) => address === each.key.address);
      life.tables.addressGone(each.key.interface, each.key.address as Address);
      await life.tables.settled();
      if (isThere && model.get(each.key)?.follow) model.delete(each.key);
      life.tables.addresses(everywhere);
    } else {
      // A rule is taken away by somebody.
      sh(`ip rule delete priority 10000 2>/dev/null || ip -6 rule delete priority 10000 2>/dev/null || true`);
      meddled = true;
    }
    if (index % 10 !== 0) continue;
    await life.tables.settled();
    const expected = [...model].flatMap(([of, { table, rules }]) => {
      if (!rules) return [];
      const [bits, length] = of.family === "inet" ? [32, 24] : [128, 64];
      const net = of.family === "inet" ? of.address.replace(/\d+$/, "0") : of.address.replace(/[56]$/, "");
      return [
        ...[`10000 from ${of.address}/${bits} lookup ${table}`, `20000 to ${net}/${length} lookup ${table}`],
        `91000 iif lo lookup ${table}`,
      ];
    });
    expected.sort();
    // What was meddled with is put back soon, everything else is so already.
    const isSame = () => shownRules().join("\n") === expected.join("\n");
    if (meddled) await until(isSame, `rules after step ${index}`);
    else assert.equal(shownRules(), expected, `step ${index}`);
    meddled = false;
    const routed = [...model].flatMap(([of, { table, routes }]) => {
      const isThere = everywhere.some(({ address }) => address === of.address);
      if (!routes || !isThere) return [];
      const [family, length] = of.family === "inet" ? ([4, 24] as const) : ([6, 64] as const);
      const net = family === 4 ? of.address.replace(/\d+$/, "0") : of.address.replace(/5$/, "");
      const at = `dev ${of.interface}`;
      const via = `via ${gatewayOf(of.interface, family)}`;
      return [`${family} ${table} default ${via} ${at}`, `${family} ${table} ${net}/${length} ${at}`];
    });
    assert.equal(shownRoutes(), routed.sort(), `routes after step ${index}`);
    const held = [...life.tables.all()].map((lease) => `${lease.note.key.address} ${lease.value}`);
    assert.equal(held.sort(), [...model].map(([of, { table }]) => `${of.address} ${table}`).sort());
  }
  kill(life);
});

test("what others use in the kernel is never granted, and what they left in a table is removed with its lease", async () => {
  const life = await begin();
  for (const lease of [...life.tables.all()]) await life.tables.release(() => lease, "root");
  sh("ip rule add from 192.0.2.77 lookup 10000 priority 5; ip route add 203.0.113.0/24 dev up1 table 10001");
  const lease = await life.tables.request(key("up1", "192.0.2.5"), wish());
  assert.is(lease.value, 10_002);
  // As a client does that dies, or whose deletions Linux has refused since 5.19.
  sh(`ip rule add from 192.0.2.5 lookup 10002 priority 10000; ip route add default dev up1 table 10002`);
  await life.tables.release(() => lease, "root");
  assert.not.match(sh("ip rule"), /10002/);
  assert.is(sh("ip route show table 10002 2>/dev/null || true").trim(), "");
  assert.match(sh("ip rule"), /lookup 10000/);
  kill(life);
});

test.run();
