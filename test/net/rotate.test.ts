/**
 * A blocked device that changes its addresses as fast as it likes gets nothing past the router.
 *
 * The camera is on the block list. It renews to another IPv4 address and takes a new temporary IPv6 address every
 * five seconds, pinging a server from each; a server knows each new address beforehand and pings it. Counters
 * in the kernels of the server and of the camera tell what arrived, to the packet: of the camera's nothing, to the
 * camera nothing where the back end sees MACs of frames that leave. Runs for ROTATE_SECONDS (15 by
 * default) in each back end; the router's own firewall lets everything in, so that only the block stops it.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Lab } from "../lab/network.ts";
import { router, servers } from "../lab/topology.ts";
import { idOf, sleep } from "./trial.ts";

const seconds = Number(process.env.ROTATE_SECONDS ?? 11);
const periodMs = 5_000;
/** In iptables, packets to an address that nobody has seen before pass until it is known. */
const learnMs = 2_000;

/** Counts packets that come in and match, from now on. */
async function count(lab: Lab, host: string, rules: readonly string[]): Promise<() => Promise<number>> {
  const lines = ["type filter hook prerouting priority -400;", ...rules.map((rule) => `${rule} counter`)];
  const input = `table inet watch {\nchain arrived {\n${lines.join("\n")}\n}\n}\n`;
  await lab.must(host, ["nft", "-f", "-"], { input });
  return async () => {
    const text = await lab.must(host, ["nft", "list", "table", "inet", "watch"]);
    return [...text.matchAll(/counter packets (\d+)/g)].reduce((sum, hit) => sum + Number(hit[1]), 0);
  };
}

async function openFirewall(lab: Lab, backend: "nft" | "ipset"): Promise<void> {
  if (backend === "nft")
    await lab.must("router", ["nft", "insert", "rule", "inet", "fw4", "forward_wan", "accept"]);
  else {
    for (const program of ["iptables", "ip6tables"]) {
      await lab.must("router", [program, "-I", "zone_wan_forward", "-j", "ACCEPT"]);
    }
  }
}

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: a blocked device that changes its addresses for ${seconds} s gets no packet past the router`, async () => {
    const lab = await Lab.up({ backend, nat: false });
    try {
      await openFirewall(lab, backend);
      const witness = await lab.stream({ from: "laptop", to: servers.web.address6, kind: "udp" });
      const before = await lab.stream({ from: "camera", to: servers.web.address6, kind: "udp" });
      const camera = await idOf(lab, "10.77.0.11", "fd77::11");
      await before.end();
      assert.equal(await lab.call("spin", "spindlist", { list: 0, addrem: 0, node: camera }), {
        "fake-return": "ok",
      });
      // What was on its way arrives.
      await sleep(300);
      const out = await count(lab, "internet", [
        `ip saddr 10.77.0.0/24 ip saddr != { 10.77.0.10, ${router.lan4} }`,
        `ip6 saddr fd77::/64 ip6 saddr != { fd77::10, ${router.lan6} }`,
      ]);
      const back = await count(lab, "camera", ["ip saddr 198.51.100.0/24", "ip6 saddr 2001:db8::/32"]);
      const ping = (host: string, ...args: string[]) =>
        lab.spawn(host, ["ping", "-n", "-q", "-i", "0.01", "-w", String(periodMs / 1_000 + 1), ...args], {
          stdio: "ignore",
        });
      let last = "fd77::11";
      for (let round = 0; round * periodMs < seconds * 1_000; round++) {
        const next = `fd77::5:${round + 1}`;
        ping("internet", "-I", servers.web.address6, next);
        await lab.must("camera", ["ip", "address", "add", `${next}/64`, "dev", "eth0"]);
        await lab.must("camera", ["ip", "address", "delete", `${last}/64`, "dev", "eth0"]);
        last = next;
        if (round === 1) {
          // A DHCP client that says it is another one is given another address.
          ping("internet", "-I", servers.web.address4, "10.77.0.150");
          await lab.must("camera", ["ip", "-4", "address", "flush", "dev", "eth0"]);
          const options = "-i eth0 -f -q -n -t 20 -T 1 -r 10.77.0.150 -x 0x3d:0011223344".split(" ");
          await lab.must("camera", ["busybox", "udhcpc", ...options, "-s", "/run/lab/dhcp.sh"]);
        }
        ping("camera", servers.web.address4);
        ping("camera", "-I", next, servers.web.address6);
        await sleep(learnMs);
        const learnt = await back();
        await sleep(periodMs - learnMs);
        assert.is(await back(), backend === "nft" ? 0 : learnt, `packets to the camera, round ${round}`);
      }
      assert.is(await out(), 0, "packets of the camera past the router");
      await witness.flows();
      assert.is(witness.lost, 0, "another device lost packets");
    } finally {
      await lab.close();
    }
  });
}

test.run();
