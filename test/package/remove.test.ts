/**
 * When the package goes, all that it set in kernel and firewall goes, and nobody else's: with the real agent in the lab's
 * router, in either back end, and stand-ins for uci and the init script.
 */

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab, root, searchPath } from "../lab/network.ts";
import { paths, servers } from "../lab/topology.ts";

const scripts = join(root, "files/usr/lib/gatehouse");
const tools = "/run/tools";

/** As `uci show` has them. */
const configured = [
  `gatehouse.main.state_dir='${paths.state}'`,
  `gatehouse.main.run_dir='${paths.run}'`,
  "gatehouse.isolation.enabled='1'",
  "gatehouse.apps=segment",
  "gatehouse.apps.device='br-apps'",
  "network.theirs=device",
  "network.theirs.name='theirs'",
  "network.theirs.isolate='1'",
];

/** What is in the kernel, without what counts and ages. */
const shown = {
  nft: ["nft", "-s", "list", "ruleset"],
  iptables: ["iptables-save"],
  ip6tables: ["ip6tables-save"],
  sets: ["ipset", "list", "-n"],
  rule4: ["ip", "-4", "rule"],
  rule6: ["ip", "-6", "rule"],
  routes: ["ip", "route", "show", "table", "all"],
  routes6: ["ip", "-6", "route", "show", "table", "all"],
  neighbours: ["ip", "neigh", "show", "nud", "permanent"],
} as const;

/** Line by line. Of iptables only the rules: tables that were made for ours stay, with nothing in them. */
async function look(lab: Lab): Promise<Map<string, readonly string[]>> {
  const found = new Map<string, readonly string[]>();
  for (const [name, argv] of Object.entries(shown)) {
    const lines = (await lab.must("router", argv)).split("\n").map((line) => line.trim());
    const isOne = name.endsWith("tables") ? (line: string) => /^(?:-A|:\S+ -)/.test(line) : Boolean;
    // Routes learnt meanwhile say for how long.
    found.set(
      name,
      lines.filter(isOne).map((line) => line.replace(/ expires \S+| \[\d+:\d+\]/g, "")),
    );
  }
  return found;
}

const others = `
nft 'table inet gatehouses { chain forward { type filter hook forward priority 5; ip saddr 192.0.2.9 drop comment "gatehouse_flows"; }; }'
ip rule add from 192.0.2.9 lookup 77 protocol 70
ip route add 192.0.2.8/32 dev br-lan table 77 proto 70
ip neigh add 10.77.0.99 lladdr 02:00:00:00:00:99 dev br-lan nud permanent
ip link add ours type veth peer name ours-end; ip link add theirs type veth peer name theirs-end
ip link set ours master br-lan; ip link set theirs master br-lan
echo 1 >/sys/class/net/theirs/brport/isolated
`;
const othersInTables = `
ipset create gh-others hash:ip
for tool in iptables ip6tables; do
  $tool -N their-gatehouse; $tool -A their-gatehouse -m comment --comment "-j gatehouse-flows" -j RETURN
  $tool -I FORWARD -j their-gatehouse
done
`;

for (const backend of ["nft", "ipset"] as const) {
  test(`remove: with ${backend} nothing of ours is left, and all of the others' is`, async () => {
    const lab = await Lab.up({ backend, agent: false });
    try {
      mkdirSync(tools, { recursive: true });
      const file = (name: string, text: string) => writeFileSync(join(tools, name), text, { mode: 0o755 });
      file("lines", `${configured.join("\n")}\n`);
      file(
        "uci",
        `#!/bin/sh
[ "$1" = -q ] && shift
case $1 in
show) grep "^$2" ${tools}/lines ;;
get) sed -n "s/^$2='\\(.*\\)'\\$/\\1/p" ${tools}/lines | grep . ;;
batch) cat >${tools}/batch ;;
esac
`,
      );
      await lab.must("router", ["sh", "-eu", "-c", others + (backend === "ipset" ? othersInTables : "")]);
      const before = await look(lab);
      await lab.bus.start();
      await lab.agent.start();

      // A device is blocked, a table is leased, a neighbour is pinned, segments are let through, ports are parted.
      const download = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "tcp" });
      const laptop = await eventually("the laptop", async () => {
        const { nodes } = (await lab.call("gatehouse.nodes", "list")) as unknown as {
          nodes: { id: number; ips: string[] }[];
        };
        return nodes.find(({ ips }) => ips.includes("10.77.0.10"))?.id;
      });
      await lab.call("gatehouse.flows", "list_add", { list: "block", node: laptop });
      await download.isCut();
      for (const family of ["inet", "inet6"])
        await lab.call("gatehouse.tables", "request", {
          ...{ family, interface: "wan", routes: true },
          address: family === "inet" ? "203.0.113.2" : "2001:db8:ff::2",
        });
      await lab.must("router", ["ip", "route", "add", "192.0.2.7/32", "dev", "br-lan", "proto", "72"]);
      await lab.must("router", [
        ...["ip", "neigh", "add", "10.77.0.98", "lladdr", "02:00:00:00:00:98", "dev", "br-lan"],
        ...["nud", "permanent", "protocol", "71"],
      ]);
      writeFileSync(
        join(paths.state, "isolation.guards"),
        "port ours\nport theirs\nbridge br-lan\n# complete\n",
      );
      const env = { PATH: `${tools}:${searchPath}` };
      await lab.must("router", ["sh", join(scripts, "boot.sh"), paths.state, "guards"], { env });
      await lab.must("router", ["sh", join(scripts, "segments.sh"), "put"], { env });
      const setting = async (path: string) => (await lab.must("router", ["cat", path])).trim();
      const settings = [
        "/sys/class/net/ours/brport/isolated",
        "/sys/class/net/theirs/brport/isolated",
        "/proc/sys/net/ipv4/conf/br-lan/proxy_arp_pvlan",
      ];
      assert.equal(await Promise.all(settings.map(setting)), ["1", "1", "1"]);
      const between = await look(lab);
      for (const name of ["rule4", "rule6", "neighbours", "routes", backend === "nft" ? "nft" : "iptables"])
        assert.not.equal(between.get(name), before.get(name), name);

      // As procd does: told to end, and gone only later.
      mkdirSync("/etc/init.d", { recursive: true });
      const pid = lab.agent.pid;
      const init = `#!/bin/sh\ncase $1 in stop) kill ${pid} ;; alive) kill -0 ${pid} 2>/dev/null ;; esac\n`;
      writeFileSync("/etc/init.d/gatehouse", init, { mode: 0o755 });
      await lab.must("router", ["sh", join(scripts, "remove.sh")], { env });
      assert.not.ok(
        (await lab.exec("router", ["kill", "-0", String(pid)])).status === 0,
        "the agent has ended",
      );
      assert.equal(Object.fromEntries(await look(lab)), Object.fromEntries(before));
      assert.equal(await Promise.all(settings.map(setting)), ["0", "1", "0"]);
      assert.match(readFileSync(join(tools, "batch"), "utf8"), "delete firewall.gatehouse");
      // What is on disk is the user's.
      assert.match(readFileSync(join(paths.state, "flows.json"), "utf8"), new RegExp(`${laptop}`));
      await download.end();
      // Once more there is nothing to do, and that is no fault.
      await lab.must("router", ["sh", join(scripts, "remove.sh")], { env });
    } finally {
      await lab.close();
    }
  });
}

test.run();
