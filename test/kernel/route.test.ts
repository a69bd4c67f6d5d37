/** Following interfaces, addresses, neighbours and gateways on the real kernel. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import {
  type RouteHandlers,
  type RouteOptions,
  type RouteWatch,
  watchRoute,
} from "../../src/kernel/route.ts";
import type { Neighbour } from "../../src/kernel/rtnetlink.ts";
import type { Address } from "../../src/lib/address.ts";
import { addHost, openSystem, pause, sh, start, stopAll, until } from "./yard.ts";

const system = openSystem();

const watches: RouteWatch[] = [];

/** A watch that writes down what it is told, "add link veth…", and keeps what that adds up to. */
async function watch(options: RouteOptions = {}) {
  const lines: string[] = [];
  const told = new Map<string, unknown>();
  const keep = (change: string, key: string, entry: unknown) => {
    assert.is(told.has(key), change !== "add", `${change} ${key}`);
    if (change === "remove") told.delete(key);
    else told.set(key, entry);
    lines.push(`${change} ${key}`);
  };
  const handlers: RouteHandlers = {
    onLink: (change, link) => keep(change, `link ${link.ifindex}`, link),
    onAddress: (change, address) => keep(change, `address ${address.ifindex} ${address.address}`, address),
    onNeighbour: (change, neighbour) =>
      keep(change, `neighbour ${neighbour.ifindex} ${neighbour.address}`, neighbour),
    onFault: (fault) => assert.unreachable(fault.message),
  };
  const route = await watchRoute(system, handlers, options);
  watches.push(route);
  /** What was told adds up to what is kept. */
  const consistent = () => {
    const kept = [...route.links(), ...route.addresses(), ...route.neighbours()];
    assert.equal([...told.values()].length, kept.length);
    for (const entry of kept) assert.ok([...told.values()].includes(entry));
  };
  return { route, lines, consistent };
}

/** A watch of gateways: what `onRoutes` told, as the gateways of each time. */
async function watchHops(options: RouteOptions = {}) {
  const told: (Address | undefined)[][] = [];
  const route = await watchRoute(
    system,
    {
      onRoutes: (routes) => void told.push(routes.flatMap(({ hops }) => hops.map(({ gateway }) => gateway))),
      onFault: (fault) => assert.unreachable(fault.message),
    },
    options,
  );
  watches.push(route);
  return { route, told };
}

const found = (route: RouteWatch, device: string, address: string): Neighbour | undefined =>
  route.neighbour(route.linkByName(device)?.ifindex ?? 0, address as Address);

/** What `ip` shows, to compare with. */
interface Shown {
  ifindex: number;
  ifname: string;
  dst: string;
  dev: string;
  lladdr?: string;
  state: string[];
}

function sameAsIp(route: RouteWatch): void {
  const links = JSON.parse(sh("ip -json link show")) as Shown[];
  assert.equal(
    [...route.links()].map((link) => `${link.ifindex} ${link.name}`).sort(),
    links.map((link) => `${link.ifindex} ${link.ifname}`).sort(),
  );
  const neighbours = [4, 6].flatMap(
    (family) => JSON.parse(sh(`ip -${family} -json neigh show nud all`)) as Shown[],
  );
  assert.equal(
    [...route.neighbours()].map((each) => `${each.ifindex} ${each.address} ${each.mac ?? ""}`).sort(),
    neighbours
      .filter((each) => !each.state.includes("NOARP"))
      .map((each) => `${route.linkByName(each.dev)!.ifindex} ${each.dst} ${each.lladdr ?? ""}`)
      .sort(),
  );
}

test.before(() => {
  addHost({ name: "lan", device: "lan0", net: 1 });
  // A neighbour that does not answer fails in half a second instead of three.
  sh("sysctl -qw net.ipv4.neigh.lan0.retrans_time_ms=150 net.ipv6.neigh.lan0.retrans_time_ms=150");
});
test.after(async () => {
  for (const route of watches) route.close();
  await stopAll();
});

test("watchRoute tells all that is there, and knows it by name and index", async () => {
  const { route, lines, consistent } = await watch();
  const link = route.linkByName("lan0")!;
  assert.equal(
    [link.name, link.up, link.running, link.kind, typeof link.mac, link.mtuBytes],
    ["lan0", true, true, "veth", "string", 1500],
  );
  assert.is(route.linkByIndex(link.ifindex), link);
  assert.is(route.linkByName("nosuch"), undefined);
  const own = [...route.addresses()].filter((each) => each.ifindex === link.ifindex);
  assert.equal(
    own
      .filter((each) => !each.address.startsWith("fe80"))
      .map((each) => `${each.address}/${each.prefixLength}`),
    ["10.9.1.1/24", "fd09:1::1/64"],
  );
  assert.ok(lines.every((line) => line.startsWith("add ")));
  consistent();
  sameAsIp(route);
  route.close();
});

test("watchRoute follows neighbours of both families: found, changed, failed, deleted", async () => {
  const { route, lines, consistent } = await watch();
  const mac = route.linkByName("lan0")!.mac;
  for (const address of ["10.9.1.2", "fd09:1::2"]) {
    sh(`ip neigh flush dev lan0 to ${address}`);
    const ping = start(`ping -n -i 0.2 ${address}`);
    const reachable = await until(`${address} reachable`, () => {
      const neighbour = found(route, "lan0", address);
      return neighbour?.state === "reachable" && neighbour;
    });
    assert.ok(reachable.mac !== undefined && reachable.mac !== mac);
    ping.kill();
    await ping.ended;
    assert.is(reachable.router, false);
    sh(`ip neigh replace ${address} lladdr 02:00:00:00:00:99 dev lan0 nud stale`);
    await until("the other MAC", () => found(route, "lan0", address)?.mac === "02:00:00:00:00:99");
    assert.is(found(route, "lan0", address)?.state, "stale");
    sh(`ip neigh del ${address} dev lan0`);
    await until(`${address} gone`, () => !found(route, "lan0", address));
  }
  for (const address of ["10.9.1.77", "fd09:1::77"]) start(`ping -n -c 1 -W 1 ${address}`);
  for (const address of ["10.9.1.77", "fd09:1::77"]) {
    await until(`${address} failed`, () => found(route, "lan0", address)?.state === "failed");
    assert.is(found(route, "lan0", address)?.mac, undefined);
  }
  assert.ok(lines.some((line) => line.startsWith("change neighbour")));
  consistent();
  route.close();
});

test("watchRoute: a neighbour that forwards is a router", async () => {
  const { route } = await watch();
  sh("ip netns exec lan sysctl -qw net.ipv6.conf.all.forwarding=1");
  sh("ip -6 neigh flush dev lan0");
  const ping = start("ping -n -i 0.2 fd09:1::2");
  await until("the router flag", () => found(route, "lan0", "fd09:1::2")?.router);
  ping.kill();
  await ping.ended;
  sh("ip netns exec lan sysctl -qw net.ipv6.conf.all.forwarding=0");
  route.close();
});

test("watchRoute leaves out multicast and proxied neighbours", async () => {
  const { route } = await watch();
  sh("ip neigh add proxy 10.9.1.50 dev lan0");
  sh("ip neigh add 10.9.1.51 lladdr 02:00:00:00:00:51 dev lan0 nud noarp");
  sh("ip neigh add 10.9.1.52 lladdr 02:00:00:00:00:52 dev lan0 nud permanent");
  await until("the permanent one", () => found(route, "lan0", "10.9.1.52")?.state === "permanent");
  assert.is(found(route, "lan0", "10.9.1.50"), undefined);
  assert.is(found(route, "lan0", "10.9.1.51"), undefined);
  sh("ip neigh replace 10.9.1.52 lladdr 02:00:00:00:00:52 dev lan0 nud noarp");
  await until("it became one of them", () => !found(route, "lan0", "10.9.1.52"));
  assert.ok([...route.neighbours()].every((each) => !each.address.startsWith("ff02")));
  route.close();
});

test("watchRoute follows interfaces: made, renamed, bridged, switched off, carrier lost, removed", async () => {
  const { route, lines, consistent } = await watch();
  sh("ip link add br9 type bridge");
  sh("ip link add port9 type veth peer name far9");
  await until("made", () => route.linkByName("port9") && route.linkByName("br9"));
  assert.equal([route.linkByName("port9")!.up, route.linkByName("br9")!.kind], [false, "bridge"]);
  sh("ip link set port9 master br9 up");
  sh("ip link set br9 up");
  await until("bridged", () => route.linkByName("port9")!.master === route.linkByName("br9")!.ifindex);
  await until("no carrier", () => route.linkByName("port9")!.up && !route.linkByName("port9")!.running);
  sh("ip link set far9 up");
  await until("carrier", () => route.linkByName("port9")!.running && route.linkByName("br9")!.running);
  sh("ip addr add 10.8.0.1/24 dev br9");
  sh("ip neigh add 10.8.0.7 lladdr 02:00:00:00:00:07 dev br9");
  await until("neighbour on the bridge", () => found(route, "br9", "10.8.0.7"));

  const { ifindex } = route.linkByName("port9")!;
  sh("ip link set port9 nomaster");
  await until("out of the bridge, still there", () => route.linkByName("port9")!.master === undefined);
  sh("ip link set port9 down");
  await until("down", () => !route.linkByName("port9")!.up);
  sh("ip link set port9 name other9");
  await until("renamed", () => route.linkByName("other9")?.ifindex === ifindex);
  assert.is(route.linkByName("port9"), undefined);
  sh("ip link set other9 address 02:00:00:00:09:09");
  await until("another MAC", () => route.linkByName("other9")!.mac === "02:00:00:00:09:09");

  const bridge = route.linkByName("br9")!.ifindex;
  sh("ip link del br9");
  await until("removed", () => !route.linkByName("br9"));
  assert.ok([...route.addresses()].every((each) => each.ifindex !== bridge));
  assert.ok([...route.neighbours()].every((each) => each.ifindex !== bridge));
  sh("ip link del other9");
  await until("removed", () => !route.linkByIndex(ifindex));
  assert.is(lines.filter((line) => line === `remove link ${ifindex}`).length, 1);
  consistent();
  sameAsIp(route);
  assert.is(route.counters.malformed, 0);
  route.close();
});

test("watchRoute follows addresses, with peer and flags", async () => {
  const { route, consistent } = await watch();
  const own = (address: string) => [...route.addresses()].find((each) => each.address === address);
  sh("ip addr add 10.7.0.1 peer 10.7.0.2/32 dev lan0");
  await until("the peer", () => own("10.7.0.1")?.peer === "10.7.0.2");
  sh("ip addr add fd07::1/64 dev lan0 nodad preferred_lft 0");
  await until("deprecated", () => ((own("fd07::1")?.flags ?? 0) & 0x20) !== 0);
  sh("ip addr del 10.7.0.1 peer 10.7.0.2/32 dev lan0");
  sh("ip addr del fd07::1/64 dev lan0");
  await until("gone", () => !own("10.7.0.1") && !own("fd07::1"));
  consistent();
  route.close();
});

/** Adds or removes neighbours while the watch cannot run. */
function flood(verb: "replace" | "del", from: number, count: number): void {
  const line = (at: number) => {
    const address = `10.6.${at >> 8}.${at & 255}`;
    return `neigh ${verb} ${address} ${verb === "replace" ? "lladdr 02:00:00:00:00:06 " : ""}dev lan0`;
  };
  sh("ip -batch -", Array.from({ length: count }, (_, index) => line(from + index)).join("\n"));
}

test("watchRoute: after an overrun it reads again, tells the differences, and has lost nothing", async () => {
  sh("ip addr add 10.6.0.1/16 dev lan0");
  flood("replace", 1_000, 300);
  const { route, lines, consistent } = await watch({ receiveBytes: 4_096 });
  const count = () => [...route.neighbours()].filter((each) => each.address.startsWith("10.6.")).length;
  assert.is(count(), 300);
  lines.length = 0;
  // While this runs nothing is read: the buffer of a few kilobytes overflows.
  flood("replace", 2_000, 300);
  flood("del", 1_000, 300);
  sh("ip link add late0 type veth peer name late1");
  await until(
    "all is as in the kernel",
    () => found(route, "lan0", "10.6.7.208") && count() === 300 && route.linkByName("late0"),
  );
  assert.ok(route.counters.overruns > 0, "there was an overrun");
  assert.ok(route.counters.resyncs > 0);
  assert.is(lines.filter((line) => /^remove neighbour \d+ 10\.6\./.test(line)).length, 300);
  consistent();
  sameAsIp(route);
  sh("ip link del late0");
  flood("del", 2_000, 300);
  await until("gone", () => count() === 0);
  sh("ip addr del 10.6.0.1/16 dev lan0");
  route.close();
});

test("watchRoute keeps no more than its limit", async () => {
  sh("ip addr add 10.6.0.1/16 dev lan0");
  flood("replace", 1_000, 200);
  const { route } = await watch({ maxEntries: 100 });
  assert.is([...route.neighbours()].length, 100);
  assert.ok(route.dropped >= 100);
  flood("del", 1_000, 200);
  await until("room again", () => [...route.neighbours()].every((each) => !each.address.startsWith("10.6.")));
  sh("ip addr del 10.6.0.1/16 dev lan0");
  route.close();
});

test("watchRoute: default routes of all tables and both families are told, with every gateway", async () => {
  const { route, told } = await watchHops();
  assert.equal(told, []);
  const device = route.linkByName("lan0")!.ifindex;
  sh("ip route add default via 10.9.1.2 metric 100");
  await until("v4", () => route.nextHops().includes("10.9.1.2" as Address));
  assert.equal(route.defaultRoutes(), [
    { family: 4, table: 254, metric: 100, hops: [{ ifindex: device, gateway: "10.9.1.2" }] },
  ]);
  sh("ip -6 route add default via fd09:1::2 dev lan0");
  sh("ip -6 route add default from fd09:7::/64 via fe80::7 dev lan0 metric 5");
  sh("ip route add default via 10.9.1.3 table 1000");
  sh("ip -4 route add default via inet6 fe80::9 dev lan0 table 1001");
  const all = ["10.9.1.2", "10.9.1.3", "fd09:1::2", "fe80::7", "fe80::9"];
  await until("all five", () => [...route.nextHops()].sort().join() === all.join());
  assert.equal(told.at(-1), route.nextHops(), "what is told is what is kept");
  const count = told.length;
  sh("ip route add 10.44.0.0/16 via 10.9.1.2");
  sh("ip route add unreachable default metric 4000");
  sh("ip neigh replace 10.9.1.9 lladdr 02:00:00:00:00:09 dev lan0");
  await until("the neighbour", () => found(route, "lan0", "10.9.1.9"));
  assert.is(told.length, count, "other routes are of no interest");
  sh("ip route del 10.44.0.0/16");
  sh("ip route del unreachable default metric 4000");
  for (const table of ["1000", "1001"]) sh(`ip route del default table ${table}`);
  await until("the main table only", () => route.defaultRoutes().every((each) => each.table === 254));
  route.close();
});

test("watchRoute: default routes that are replaced, shared by several gateways, or gone with their interface", async () => {
  const { route } = await watchHops();
  const hops = (): string[] => [...route.nextHops()].filter((each) => !each.includes(":")).sort();
  const six = (): string[] => [...route.nextHops()].filter((each) => each.includes(":")).sort();
  sh("ip route replace default via 10.9.1.4 metric 100");
  await until("replaced", () => hops().join() === "10.9.1.4");
  sh("ip link add wan9 type veth peer name far9");
  sh("ip addr add 10.19.0.1/24 dev wan9");
  sh("ip addr add fd19::1/64 dev wan9 nodad");
  sh("ip link set wan9 up");
  sh("ip link set far9 up");
  sh("ip route replace default metric 100 nexthop via 10.9.1.4 nexthop via 10.19.0.2");
  sh("ip -6 route append default via fd19::2 dev wan9");
  await until("both", () => hops().join() === "10.19.0.2,10.9.1.4" && six().includes("fd19::2"));
  // The kernel says nothing of what goes with an IPv4 address, nor with an interface that is switched off.
  sh("ip route replace default via 10.19.0.2 metric 100");
  await until("one", () => hops().join() === "10.19.0.2");
  sh("ip link set wan9 down");
  await until("gone", () => hops().length === 0 && !six().includes("fd19::2"));
  sh("ip link set wan9 up");
  sh("ip route add default via 10.19.0.3 src 10.19.0.1 metric 100");
  await until("again", () => hops().join() === "10.19.0.3");
  sh("ip addr del 10.19.0.1/24 dev wan9");
  await until("gone with its address", () => hops().length === 0);
  sh("ip link del wan9");
  sh("ip -6 route del default via fd09:1::2 dev lan0");
  sh("ip -6 route del default from fd09:7::/64 via fe80::7 dev lan0 metric 5");
  await until("no gateway", () => route.nextHops().length === 0);
  assert.is(route.counters.malformed, 0);
  route.close();
});

test("watchRoute: default routes by nexthop objects", async () => {
  const { route } = await watchHops();
  sh("ip nexthop add id 9 via 10.9.1.2 dev lan0");
  sh("ip nexthop add id 10 via 10.9.1.3 dev lan0");
  sh("ip nexthop add id 11 group 9/10");
  sh("ip route add default nhid 11");
  await until("both of the group", () => [...route.nextHops()].sort().join() === "10.9.1.2,10.9.1.3");
  sh("ip nexthop replace id 10 via 10.9.1.7 dev lan0");
  await until("the other one", () => [...route.nextHops()].sort().join() === "10.9.1.2,10.9.1.7");
  sh("ip route del default");
  sh("ip nexthop flush");
  await until("none", () => route.nextHops().length === 0);
  route.close();
});

test("watchRoute: after an overrun default routes are read again", async () => {
  const { route } = await watchHops({ receiveBytes: 4_096 });
  const lines = (verb: string) =>
    Array.from(
      { length: 400 },
      (_, index) => `route ${verb} 10.45.${index >> 8}.${index & 255} via 10.9.1.2`,
    );
  // While this runs nothing is read.
  sh("ip -batch -", [...lines("add"), "route replace default via 10.9.1.8", ...lines("del")].join("\n"));
  await until("the gateway", () => route.nextHops().join() === "10.9.1.8");
  assert.ok(route.counters.overruns > 0, "there was an overrun");
  sh("ip route del default");
  await until("none", () => route.nextHops().length === 0);
  route.close();
});

test("RouteWatch.close: nothing is told afterwards", async () => {
  const { route, lines } = await watch();
  route.close();
  const before = lines.length;
  sh("ip link add late0 type veth peer name late1");
  await pause(50);
  assert.is(lines.length, before);
  sh("ip link del late0");
});

test.run();
