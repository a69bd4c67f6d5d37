/** Plans of isolation before they meet a kernel: what is refused, what both back ends make of one, and by how much
 * a change differs. VLANs are here alone: not every kernel that tests run on has them. */

import fc from "fast-check";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Connection } from "../../src/kernel/connection.ts";
import { connectionStatus } from "../../src/kernel/connection.ts";
import {
  placedJumps,
  renderAdditions,
  renderBoot,
  renderDeletions,
  renderRules,
} from "../../src/kernel/ipsettext.ts";
import { isolatedOf, nameOfPorts, strays } from "../../src/kernel/isolate.ts";
import { isolationRules } from "../../src/kernel/isolationipset.ts";
import { isolationTable } from "../../src/kernel/isolationnft.ts";
import { emptyIsolation, type IsolationPlan, type Ports, type Route } from "../../src/kernel/kernel.ts";
import { renderChange, renderTable } from "../../src/kernel/nfttext.ts";
import { type Address, parseAddress, parsePrefix } from "../../src/lib/address.ts";
import { matchesGolden } from "./plans.ts";
import { crowd } from "./quarter.ts";

const a = (text: string) => parseAddress(text)!;
const p = (text: string) => parsePrefix(text)!;
const route = (words: string, ports?: readonly Ports[]): Route => {
  const [device, source, standin, target, targetDevice, sourceStandin] = words.split(" ");
  return {
    device: device!,
    source: a(source!),
    standin: a(standin!),
    target: a(target!),
    targetDevice: targetDevice!,
    sourceStandin: a(sourceStandin!),
    ...(ports ? { ports } : {}),
  };
};

/** A segment of a bridge, one of two VLANs. */
const small: IsolationPlan = {
  ...emptyIsolation,
  segments: [
    {
      name: "apps",
      devices: ["br-apps"],
      prefixes: [p("10.1.0.0/24"), p("fd01::/64")],
      dns: { port4: 5335, port6: 5335 },
      dropEncryptedDns: true,
      mdns: true,
    },
    {
      name: "things",
      devices: ["eth0.20", "br-lan.21"],
      prefixes: [p("10.20.0.0/24"), p("10.21.0.0/24")],
      dns: { port4: 53 },
      dropEncryptedDns: false,
      mdns: false,
    },
  ],
  pools: [p("198.18.0.0/15"), p("fd00:6a7e::/64")],
  routes: [
    route("br-apps 10.1.0.2 198.18.0.1 10.20.0.5 eth0.20 198.18.0.2"),
    route("eth0.20 10.20.0.5 198.18.0.2 10.1.0.2 br-apps 198.18.0.1"),
    route("br-lan.21 10.21.0.9 198.18.0.3 10.1.0.2 br-apps 198.18.0.4", [
      { protocol: "tcp", first: 80, last: 80 },
      { protocol: "udp", first: 5000, last: 5010 },
      { protocol: "icmp" },
    ]),
  ],
  outside: [
    {
      device: "br-apps",
      source: a("fd01::2"),
      standin: a("fd00:6a7e::1"),
      target: a("2001:db8::10"),
    },
  ],
  doors: [
    { device: "eth0.20", port: 8080 },
    { device: "br-apps", source: a("10.1.0.2"), port: 8443 },
    { device: "br-apps", source: a("fd01::2"), port: 8443 },
  ],
};

const it = suite("isolation");

function nftText(plan: IsolationPlan): string {
  const table = isolationTable(isolatedOf(plan));
  return table ? renderTable("inet gatehouse_isolation", table) : "";
}

it("becomes one table of nft", () => {
  matchesGolden("isolation.nft.txt", `${JSON.stringify(small, undefined, 1)}\n\n${nftText(small)}`);
  assert.is(nftText(emptyIsolation), "");
});

it("becomes sets and chains of three tables of iptables", () => {
  const { sets, rules } = renderBoot("gatehouse-isolation", isolationRules(isolatedOf(small), "isolation"));
  matchesGolden(
    "isolation.ipset.txt",
    `${JSON.stringify(small, undefined, 1)}\n\n${sets}\n# iptables\n${rules[4]}\n# ip6tables\n${rules[6]}`,
  );
  assert.is(isolationRules(isolatedOf(emptyIsolation), "isolation").sets.size, 0);
});

it("takes an element of each map for a route of ten thousand, and no rule", () => {
  const plan = crowd(10_000);
  const [from, to] = [plan, { ...plan, routes: plan.routes.slice(0, -1) }].map(
    (each) => isolationTable(isolatedOf(each))!,
  );
  const change = renderChange("inet gatehouse_isolation", from, to);
  assert.is(change.match(/^delete element/gm)?.length, 4);
  assert.not(/chain|rule/.test(change), change);
  assert.ok(change.length < 1_000, change);
});

it("leads through chains of few rules to any of many routes, and changes those on the way alone", () => {
  const plan = crowd(2_000);
  const [from, to] = [plan, { ...plan, routes: plan.routes.slice(0, -1) }].map((each) =>
    isolationRules(isolatedOf(each), "isolation"),
  );
  const { chains, sets } = from!;
  const longest = Math.max(...[...chains[4].values()].map(({ length }) => length));
  assert.ok(longest < 40, `a chain of ${longest} rules`);
  for (const name of chains[4].keys()) assert.ok(name.length <= 28, name);
  // No packet passes more than a handful of them.
  const depth = (chain: string): number =>
    1 +
    Math.max(
      0,
      ...(chains[4].get(chain) ?? [])
        .flatMap(({ text }) => /-g (gatehouse-isolation-[gds]\w{7})$/.exec(text)?.[1] ?? [])
        .map(depth),
    );
  for (const entrance of ["gate", "pre", "post"]) assert.ok(depth(`gatehouse-isolation-${entrance}`) <= 6);
  const present = { chains: chains[4], jumps: placedJumps("gatehouse-isolation", chains[4]) };
  const change =
    renderAdditions(sets, to!.sets) +
    renderRules("gatehouse-isolation", present, to!.chains[4]) +
    renderDeletions(sets, to!.sets);
  assert.ok(change.split("\n").length < 200, `${change.split("\n").length} lines`);
});

it("refuses a plan that contradicts itself", () => {
  const [first] = small.routes as [Route];
  const wrong: Partial<IsolationPlan>[] = [
    { routes: [first, first] },
    { routes: [{ ...first, device: "wan" }] },
    { routes: [{ ...first, targetDevice: "wan" }] },
    { routes: [{ ...first, standin: a("10.9.9.9") }] },
    { routes: [{ ...first, sourceStandin: a("10.9.9.9") }] },
    { routes: [{ ...first, target: a("198.18.0.9") }] },
    { routes: [{ ...first, target: a("fd01::2") }] },
    { routes: [first, { ...first, device: "br-lan.21", sourceStandin: a("198.18.9.9") }] },
    { routes: [{ ...first, ports: [{ protocol: "tcp", first: 9, last: 8 }] }] },
    { routes: [{ ...first, ports: [{ protocol: "udp", first: 0, last: 8 }] }] },
    { routes: [{ ...first, ports: [{ protocol: "udp", first: 1, last: 65536 }] }] },
    { outside: [{ ...small.outside[0]!, target: a("fd01::9") }] },
    { pools: [p("10.1.0.128/25"), ...small.pools] },
    { segments: [...small.segments, small.segments[0]!] },
    { segments: [{ ...small.segments[0]!, devices: ["br-*"] }] },
    { segments: [{ ...small.segments[0]!, devices: ['a"b'] }] },
    { segments: [{ ...small.segments[0]!, dns: { port4: 0 } }] },
    { guards: { isolatedPorts: ["../x"], proxyArp: [] } },
    { doors: [{ device: "br-none", port: 8080 }] },
    { doors: [{ device: "br-apps", port: 0 }] },
    { doors: [{ device: "br-apps", source: a("198.18.0.1"), port: 8080 }] },
    { report: { group: 65_536 } },
  ];
  for (const part of wrong) {
    const plan = { ...small, ...part };
    assert.throws(
      () => isolatedOf(plan),
      (thrown: Error) => thrown instanceof RangeError,
      JSON.stringify(part),
    );
  }
  for (const text of ["10.1.0.2; drop", "x", "10.1.0.2/24", "FD01::2 "]) {
    assert.throws(
      () => isolatedOf({ ...small, routes: [{ ...first, source: text as Address }] }),
      (thrown: Error) => thrown instanceof TypeError,
    );
  }
});

it("cuts what a plan would not have made, or led elsewhere, and keeps the rest", () => {
  const connection = (words: string, parts: Partial<Connection> = {}): Connection => {
    const [source, destination, answering, seen] = words.split(" ").map(a);
    const tuple = { sourcePort: 40_000, destinationPort: 80 };
    return {
      ...{ id: 1, zone: 0, family: 4, protocol: 6, status: 0, ...tuple },
      ...{ source: source!, destination: destination! },
      reply: { source: answering!, destination: seen!, sourcePort: 80, destinationPort: 40_000 },
      ...parts,
    };
  };
  const cut = strays(isolatedOf(small));
  const offload = { status: connectionStatus.offload };
  const rows: [boolean, Connection][] = [
    [false, connection("10.1.0.2 198.18.0.1 10.20.0.5 198.18.0.2")],
    [true, connection("10.1.0.2 198.18.0.1 10.20.0.6 198.18.0.2")],
    [true, connection("10.1.0.2 198.18.0.1 10.20.0.5 203.0.113.2")],
    [true, connection("10.1.0.2 198.18.0.1 198.18.0.1 203.0.113.2")],
    [true, connection("10.1.0.3 198.18.0.1 10.20.0.5 198.18.0.2")],
    [true, connection("192.168.1.5 198.18.0.1 198.18.0.1 192.168.1.5")],
    [false, connection("10.21.0.9 198.18.0.3 10.1.0.2 198.18.0.4")],
    [true, connection("10.21.0.9 198.18.0.3 10.1.0.2 198.18.0.4", { destinationPort: 81 })],
    [false, connection("10.21.0.9 198.18.0.3 10.1.0.2 198.18.0.4", { destinationPort: 5010, protocol: 17 })],
    [false, connection("10.21.0.9 198.18.0.3 10.1.0.2 198.18.0.4", { destinationPort: 0, protocol: 1 })],
    [false, connection("fd01::2 fd00:6a7e::1 2001:db8::10 fd01::2", { family: 6 })],
    [false, connection("10.1.0.2 10.20.0.5 10.20.0.5 10.1.0.2")],
    [true, connection("10.1.0.2 10.20.0.5 10.20.0.5 10.1.0.2", offload)],
    [true, connection("203.0.113.7 203.0.113.2 10.20.0.5 203.0.113.7", offload)],
    [false, connection("192.168.1.5 203.0.113.2 203.0.113.2 192.168.1.5", offload)],
    [true, connection("10.1.0.2 8.8.8.8 8.8.8.8 203.0.113.2", { destinationPort: 53, protocol: 17 })],
    [
      false,
      connection("10.1.0.2 8.8.8.8 10.1.0.1 10.1.0.2", {
        destinationPort: 53,
        protocol: 17,
        status: connectionStatus.destinationNat,
      }),
    ],
  ];
  for (const [at, [expected, given]] of rows.entries()) assert.is(cut(given), expected, `row ${at}`);
});

it("names lists of ports alike if and only if they are", () => {
  const port = fc.record({
    protocol: fc.constantFrom("tcp" as const, "udp" as const),
    first: fc.integer({ min: 1, max: 20 }),
    last: fc.integer({ min: 20, max: 40 }),
  });
  const list = fc.array(fc.oneof(port, fc.constant({ protocol: "icmp" as const })), { maxLength: 3 });
  fc.assert(
    fc.property(list, list, (one, other) => {
      assert.is(nameOfPorts(one) === nameOfPorts(other), JSON.stringify(one) === JSON.stringify(other));
    }),
  );
});

it.run();
