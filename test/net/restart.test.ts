/** After a restart a blocked device's newest address is blocked from the first packet on, in both back ends. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { servers } from "../lab/topology.ts";
import { Counter, enforced, letIn } from "../lab/watch.ts";
import { idOf, Trial } from "./trial.ts";

const address = "fd77::5:1";
/** So many more packets, at a hundred a second, each life of the agent has to withstand. */
const attempts = 50;

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: kill -9 after a blocked device took a new address lets no packet through to it`, async () => {
    const trial = await Trial.begin({ backend, nat: false });
    const { lab } = trial;
    try {
      await letIn(lab, backend);
      const stream = await lab.stream({ from: "camera", to: servers.web.address6, kind: "udp" });
      const camera = await idOf(lab, "10.77.0.11", "fd77::11");
      await stream.end();
      await lab.call("spin", "spindlist", { list: 0, addrem: 0, node: camera });
      await lab.must("camera", ["ip", "address", "add", `${address}/64`, "dev", "eth0"]);
      const ping = (host: string, ...args: string[]) =>
        lab.spawn(host, ["ping", "-n", "-q", ...args], { stdio: "ignore" });
      ping("internet", "-i", "0.01", "-I", servers.web.address6, address);
      ping("camera", "-i", "0.5", "-I", address, servers.web.address6);
      await idOf(lab, address);
      await enforced(lab, backend, address);
      const tried = await Counter.of(lab, "router", [`iifname "wan" ip6 daddr ${address}`]);
      const arrived = await Counter.of(lab, "camera", ["ip6 saddr 2001:db8::/32"]);
      for (let round = 0; round < 3; round++) {
        await trial.kill();
        await tried.more(attempts);
        await trial.start();
        await tried.more(attempts);
        assert.is(await arrived.read(), 0, `round ${round}`);
      }
    } finally {
      await trial.end();
    }
  });
}

test.run();
