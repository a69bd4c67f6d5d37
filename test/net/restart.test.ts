/** After a restart a blocked device's newest address is blocked from the first packet on, in both back ends. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Lab } from "../lab/network.ts";
import { servers } from "../lab/topology.ts";
import { idOf, sleep, Trial } from "./trial.ts";

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: kill -9 seconds after a blocked device took a new address lets no packet through to it`, async () => {
    const lab = await Lab.up({ backend, nat: false });
    const trial = new Trial(lab);
    try {
      await lab.agent.stop();
      await trial.start();
      // The router's own firewall lets everything in, so that only the block stops it.
      if (backend === "nft")
        await lab.must("router", ["nft", "insert", "rule", "inet", "fw4", "forward_wan", "accept"]);
      else {
        for (const tool of ["iptables", "ip6tables"]) {
          await lab.must("router", [tool, "-I", "zone_wan_forward", "-j", "ACCEPT"]);
        }
      }
      const stream = await lab.stream({ from: "camera", to: servers.web.address6, kind: "udp" });
      const camera = await idOf(lab, "10.77.0.11", "fd77::11");
      await stream.end();
      await lab.call("spin", "spindlist", { list: 0, addrem: 0, node: camera });
      await sleep(300);
      await lab.must("camera", ["ip", "address", "add", "fd77::5:1/64", "dev", "eth0"]);
      const ping = (host: string, ...args: string[]) =>
        lab.spawn(host, ["ping", "-n", "-q", "-w", "60", ...args], { stdio: "ignore" });
      ping("internet", "-i", "0.01", "-I", servers.web.address6, "fd77::5:1");
      ping("camera", "-i", "0.5", "-I", "fd77::5:1", servers.web.address6);
      await idOf(lab, "fd77::5:1");
      await sleep(1_000);
      const input =
        "table inet watch {\nchain arrived {\ntype filter hook prerouting priority -400;\nip6 saddr 2001:db8::/32 counter\n}\n}\n";
      await lab.must("camera", ["nft", "-f", "-"], { input });
      for (let round = 0; round < 3; round++) {
        await trial.kill();
        await trial.start();
        await sleep(1_000);
        const text = await lab.must("camera", ["nft", "list", "table", "inet", "watch"]);
        assert.match(text, "counter packets 0 ", `round ${round}`);
      }
    } finally {
      await trial.kill();
      trial.ubus.close();
      await lab.close();
    }
  });
}

test.run();
