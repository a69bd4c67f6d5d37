/**
 * Neighbours on a running router: an address that two hosts claim is told on the bus and by MQTT, listed, and noted
 * with the node that has it; one that moves for good is told as a move; a rogue that lies is unmasked.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";

const disputed = "10.77.0.200";
const moving = "10.77.0.201";

interface Told {
  readonly command: string;
  readonly result: { readonly address: string; readonly lladdrs?: string[]; readonly from?: string };
}

test("an address that two hosts answer for is a conflict on the bus, by MQTT and with the node; one that moves is a move", async () => {
  const lab = await Lab.up();
  try {
    const told: Told[] = [];
    const heard = lab.spawn("router", ["mosquitto_sub", "-v", "-t", "SPIN/neighbours"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    heard.stdout!.setEncoding("utf8").on("data", (text: string) => {
      for (const line of text.split("\n").filter(Boolean)) {
        told.push(JSON.parse(line.slice("SPIN/neighbours ".length)) as Told);
      }
    });
    const resolve = (address: string, more: object = {}) =>
      lab.call("gatehouse.neighbours", "resolve", { address, device: "br-lan", timeout: 3_000, ...more });
    const [laptop, camera] = ["laptop", "camera"].map(
      (name) => lab.clients.find((each) => each.name === name)!,
    );
    for (const address of [disputed, moving]) {
      await lab.must("laptop", ["ip", "address", "add", `${address}/24`, "dev", "eth0"]);
      const found = await eventually("the laptop", () => resolve(address).catch(() => undefined));
      assert.is(found.lladdr, laptop!.mac);
    }
    // The camera takes both; the laptop keeps one of them.
    await lab.must("laptop", ["ip", "address", "delete", `${moving}/24`, "dev", "eth0"]);
    const isTold = (command: string, address: string) =>
      told.find((each) => each.command === command && each.result.address === address);
    for (const address of [disputed, moving]) {
      await lab.must("camera", ["ip", "address", "add", `${address}/24`, "dev", "eth0"]);
    }
    const claim = ["busybox", "arping", "-U", "-c", "1", "-I", "eth0"];
    const conflict = await eventually("a conflict by MQTT", async () => {
      await lab.exec("camera", [...claim, "-s", disputed, disputed]);
      return isTold("neighbourConflict", disputed);
    });
    assert.equal([...conflict.result.lladdrs!].sort(), [laptop!.mac, camera!.mac].sort());
    const { conflicts } = (await lab.call("gatehouse.neighbours", "conflicts")) as {
      conflicts: { address: string; active: boolean }[];
    };
    assert.ok(conflicts.some((each) => each.address === disputed && each.active));
    const move = await eventually("a move by MQTT", async () => {
      await lab.exec("camera", [...claim, "-s", moving, moving]);
      return isTold("neighbourMoved", moving);
    });
    assert.is(move.result.from, laptop!.mac);
    const holder = await eventually("the node with the dispute", async () => {
      const { nodes } = (await lab.call("gatehouse.nodes", "list")) as {
        nodes: { id: number; ips: string[] }[];
      };
      return nodes.find((node) => node.ips.includes(disputed));
    });
    await eventually("the dispute with its node", async () => {
      const node = await lab.call("gatehouse.nodes", "get", { node: holder.id });
      return JSON.stringify(node).includes(camera!.mac) && JSON.stringify(node).includes(laptop!.mac);
    });
  } finally {
    await lab.close();
  }
});

test.run();
