/** SPIN's door over the rooms themselves: what its JSON-RPC gets of flows and lists. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { spinDoor } from "../../src/agent/door.ts";
import { type Activity, Flows } from "../../src/flows/flows.ts";
import type { Address, Mac } from "../../src/lib/address.ts";
import type { JsonObject } from "../../src/lib/json.ts";
import { Nodes } from "../../src/nodes/nodes.ts";
import { Rpc } from "../../src/spin/spin.ts";

const at = { now: 0, date: 1_795_228_693_000 };
const mac = "02:77:00:00:00:11" as Mac;
const prefix = "10.77.0.0/24" as never;

function make() {
  const nodes = new Nodes();
  const flows = new Flows({
    resolve: (id) => nodes.resolve(id),
    addressesOf: (id) => nodes.end(id)?.addresses ?? [],
    commit: async () => {},
  });
  nodes.prefix({ prefix, side: "lan", present: true }, at);
  nodes.neighbour({ address: "10.77.0.11" as Address, mac, side: "lan", state: "reachable" }, at);
  const device = nodes.deviceByMac(mac)!;
  const others = [1, 2, 3].map((last) => nodes.nodeFor(`198.51.100.${last}` as Address, { at })!);
  const door = spinDoor({ nodes, flows, moment: () => at, saveNodes: async () => {} });
  const rpc = new Rpc(door, () => {});
  const call = (method: string, params: JsonObject) => rpc.answer({ method, params });
  const activity = (given: Partial<Activity>): Activity => ({
    ...{ from: device, to: others[0]!, protocol: 6, fromPort: 55_516, toPort: 80 },
    ...{ bytes: 2_654, packets: 10, at: 0, ...given },
  });
  return { nodes, flows, device, others, call, activity };
}

test("list_device_flows has SPIN's shape, its order, and both directions", async () => {
  const { flows, device, others, call, activity } = make();
  const [first, second, third] = others as [number, number, number];
  flows.account(activity({ toPort: 443, at: 2_900 }));
  flows.account(activity({ fromPort: 1 }));
  flows.account(activity({ fromPort: 2, protocol: 17, at: 1_000 }));
  const ping = { protocol: 1, fromPort: 0, toPort: 0, icmpType: 8, packets: 2, bytes: 168 };
  flows.account(activity({ from: third, to: device, ...ping }));
  flows.account(activity({ from: first, to: second }));
  await flows.block(device, first);
  await flows.block(device, second);
  await flows.block(first, third);
  const blocked = (to: number) => ({ to, dst_port: 0, icmp_type: 0, blocked: 1 });
  const expected = [
    blocked(first),
    { to: first, dst_port: 80, icmp_type: 0, packets: 20, bytes: 5_308, lastseen: 1_795_228_694 },
    { to: first, dst_port: 443, icmp_type: 0, packets: 10, bytes: 2_654, lastseen: 1_795_228_695 },
    blocked(second),
    { to: third, dst_port: 0, icmp_type: 8, packets: 2, bytes: 168, lastseen: 1_795_228_693 },
  ];
  const answer = await call("list_device_flows", { device: mac });
  assert.is(JSON.stringify(answer), JSON.stringify({ result: expected }));
});

test("list_device_flows stays within what a number holds", async () => {
  const { flows, call, activity } = make();
  flows.account(activity({ bytes: 2n ** 63n, packets: 2n ** 63n }));
  const { result } = (await call("list_device_flows", { device: mac })) as unknown as {
    result: { packets: number; bytes: number }[];
  };
  assert.equal([result[0]?.packets, result[0]?.bytes], [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER]);
});

test("an address of a listed node that is taken off leaves its others; a node taken off takes all along", async () => {
  const { nodes, device, call } = make();
  nodes.addAddress(device, "10.77.0.12" as Address, at);
  const listed = async () =>
    ((await call("list_iplist", { list: "block" })) as { result: readonly string[] }).result;
  await call("add_iplist_node", { list: "block", node: device });
  assert.equal(await listed(), ["10.77.0.11", "10.77.0.12"]);
  await call("remove_iplist_ip", { list: "block", ip: "10.77.0.11" });
  assert.equal(await listed(), ["10.77.0.12"]);
  await call("add_iplist_node", { list: "block", node: device });
  await call("remove_iplist_node", { list: "block", node: device });
  assert.equal(await listed(), []);
});

test.run();
