/**
 * A blocked device that changes its addresses as fast as it likes gets nothing past the router.
 *
 * The camera is on the block list. Once and again it takes a new temporary IPv6 address, and another IPv4 address by
 * DHCP, pinging a server from each; a server knows each new address beforehand and pings it. Counters in the kernels of
 * the server and of the camera tell what arrived, to the packet: of the camera's nothing, to the camera nothing where
 * the back end sees MACs of frames that leave, and nothing anywhere once the kernel knows the address. It does so three
 * times at least, and for ROTATE_SECONDS (5 by default) in each back end; the router's own firewall lets everything in,
 * so that only the block stops it.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Lab } from "../lab/network.ts";
import { clockMs } from "../lab/time.ts";
import { paths, router, servers } from "../lab/topology.ts";
import { Counter, enforced, letIn } from "../lab/watch.ts";
import { idOf } from "./trial.ts";

const seconds = Number(process.env.ROTATE_SECONDS ?? 5);
/** So many packets each way, at a hundred a second, with each address. */
const attempts = 100;
/** The camera's, towards the DHCP server. */
const identities = 10;
const dnsmasq = Array.from(
  { length: identities },
  (_, each) => `dhcp-host=id:00:11:22:33:4${each},10.77.0.${150 + each}`,
);

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: a blocked device that changes its addresses for ${seconds} s gets no packet past the router`, async () => {
    const lab = await Lab.up({ backend, nat: false, dnsmasq });
    try {
      await letIn(lab, backend);
      const witness = await lab.stream({ from: "laptop", to: servers.web.address6, kind: "udp" });
      const before = await lab.stream({ from: "camera", to: servers.web.address6, kind: "udp" });
      const camera = await idOf(lab, "10.77.0.11", "fd77::11");
      await before.end();
      assert.equal(await lab.call("spin", "spindlist", { list: 0, addrem: 0, node: camera }), {
        "fake-return": "ok",
      });
      const out = await Counter.of(lab, "internet", [
        `ip saddr 10.77.0.0/24 ip saddr != { 10.77.0.10, ${router.lan4} }`,
        `ip6 saddr fd77::/64 ip6 saddr != { fd77::10, ${router.lan6} }`,
      ]);
      const back = await Counter.of(lab, "camera", ["ip saddr 198.51.100.0/24", "ip6 saddr 2001:db8::/32"]);
      const endsAt = clockMs() + seconds * 1_000;
      let last = "fd77::11";
      let own4 = "10.77.0.11";
      for (let round = 0; round < 3 || clockMs() < endsAt; round++) {
        const pings: ReturnType<Lab["spawn"]>[] = [];
        const ping = (host: string, ...args: string[]) => {
          pings.push(lab.spawn(host, ["ping", "-n", "-q", "-i", "0.01", ...args], { stdio: "ignore" }));
        };
        const next = `fd77::5:${(round + 1).toString(16)}`;
        ping("internet", "-I", servers.web.address6, next);
        await lab.must("camera", ["ip", "address", "add", `${next}/64`, "dev", "eth0"]);
        await lab.must("camera", ["ip", "address", "delete", `${last}/64`, "dev", "eth0"]);
        last = next;
        if (round % 3 === 1) {
          // A DHCP client that says it is another one is given another address.
          const which = round % identities;
          own4 = `10.77.0.${150 + which}`;
          ping("internet", "-I", servers.web.address4, own4);
          await lab.must("camera", ["ip", "-4", "address", "flush", "dev", "eth0"]);
          const options = `-i eth0 -f -q -n -t 20 -T 1 -x 0x3d:001122334${which}`.split(" ");
          await lab.must("camera", ["busybox", "udhcpc", ...options, "-s", paths.dhcpScript]);
          assert.match(await lab.must("camera", ["ip", "-4", "-o", "address"]), `${own4}/`);
        }
        ping("camera", servers.web.address4);
        ping("camera", "-I", next, servers.web.address6);
        await enforced(lab, backend, next);
        await enforced(lab, backend, own4);
        const known = await back.read();
        // In iptables, packets to an address that nobody has seen before pass until it is known.
        if (backend === "nft") assert.is(known, 0, `packets to the camera, round ${round}`);
        const tried = await Counter.of(lab, "router", [
          `iifname "wan" ip6 daddr ${next}`,
          `ip6 saddr ${next} ip6 daddr ${servers.web.address6}`,
          `ip saddr ${own4} ip daddr ${servers.web.address4}`,
          ...(round % 3 === 1 ? [`iifname "wan" ip daddr ${own4}`] : []),
        ]);
        await tried.more(attempts);
        assert.is(await back.read(), known, `packets to the camera, round ${round}`);
        for (const each of pings) each.kill();
      }
      assert.is(await out.read(), 0, "packets of the camera past the router");
      await witness.flows();
      assert.is(witness.lost, 0, "another device lost packets");
    } finally {
      await lab.close();
    }
  });
}

test.run();
