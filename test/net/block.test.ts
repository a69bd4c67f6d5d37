/**
 * A block cuts running traffic, in both back ends, on the real kernel: what the product is for.
 *
 * In each lab laptop runs a download, numbered datagrams and a ping to one server and the same to another, in
 * both families. The first server is blocked; the other streams are the witnesses.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { Retained } from "../lab/retained.ts";
import type { Stream, StreamKind } from "../lab/streams.ts";
import { servers } from "../lab/topology.ts";
import { Counter } from "../lab/watch.ts";
import { idOf, type NodeRow } from "./trial.ts";

const kinds: readonly StreamKind[] = ["tcp", "udp", "ping"];

async function nodesOf(lab: Lab): Promise<NodeRow[]> {
  const answer = await lab.call("gatehouse.nodes", "list");
  return answer.nodes as NodeRow[];
}

/** Asks for both addresses of a name as a client does. */
async function look(lab: Lab, host: string, name: string): Promise<void> {
  await lab.must(host, ["getent", "ahostsv4", name]);
  await lab.must(host, ["getent", "ahostsv6", name]);
}

async function streamsTo(lab: Lab, server: { address4: string; address6: string }): Promise<Stream[]> {
  const streams: Stream[] = [];
  for (const to of [server.address4, server.address6]) {
    for (const kind of kinds) streams.push(await lab.stream({ from: "laptop", to, kind }));
  }
  return streams;
}

/** Packets of the streams to a server that come: there, and back to the laptop, by family and kind. */
async function arrivalsOf(
  lab: Lab,
  { address4, address6 }: { address4: string; address6: string },
): Promise<readonly [there: Counter, back: Counter]> {
  const kindsOf = (match: string) => [`${match} tcp`, `${match} udp`, `${match} { icmp, ipv6-icmp }`];
  const of = (host: string, word: "saddr" | "daddr") =>
    Counter.of(lab, host, [
      ...kindsOf(`ip ${word} ${address4} meta l4proto`),
      ...kindsOf(`ip6 ${word} ${address6} meta l4proto`),
    ]);
  return [await of("internet", "daddr"), await of("laptop", "saddr")];
}

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: a block cuts TCP, UDP and ping in both families at once, survives kill -9, and ends at once`, async () => {
    const lab = await Lab.up({ backend });
    try {
      for (const name of ["web.example.net", "video.example.net"]) await look(lab, "laptop", name);
      const blocked = await streamsTo(lab, servers.web);
      const witnesses = await streamsTo(lab, servers.video);
      const laptop = await idOf(lab, "10.77.0.10", "fd77::10");
      const web = await idOf(lab, servers.web.address4, servers.web.address6);
      const arrivals = await arrivalsOf(lab, servers.web);
      // Numbered datagrams and pings go on being sent both ways whatever comes of them: that many tell of each time.
      const fromLaptop = (l4: string) => `iifname "br-lan" meta l4proto ${l4}`;
      const tried = await Counter.of(lab, "router", [
        `${fromLaptop("udp")} ip daddr ${servers.web.address4}`,
        `${fromLaptop("udp")} ip6 daddr ${servers.web.address6}`,
        `${fromLaptop("icmp")} ip daddr ${servers.web.address4}`,
        `${fromLaptop("ipv6-icmp")} ip6 daddr ${servers.web.address6}`,
        `iifname "wan" udp sport 5004 ip saddr ${servers.web.address4}`,
        `iifname "wan" udp sport 5004 ip6 saddr ${servers.web.address6}`,
      ]);
      for (const each of arrivals) await each.more(1);
      const come = async () => (await Promise.all(arrivals.map((each) => each.each()))).join();

      assert.equal(await lab.call("spin", "blockflow", { node1: laptop, node2: web, block: 1 }), {
        return: 0,
      });
      const before = await come();
      await tried.more(10);
      assert.is(await come(), before, "something passed after the answer");

      const pair = { node1: Math.min(laptop, web), node2: Math.max(laptop, web) };
      assert.equal(await lab.call("spin", "get_blockflow"), { result: [pair] });
      await Promise.all(witnesses.map((each) => each.flows()));

      const ids = (await nodesOf(lab)).filter((node) => node.mac).map((node) => [node.mac, node.id]);
      await lab.agent.kill();
      await tried.more(5);
      assert.is(await come(), before, "something passed while the agent was dead");
      await lab.agent.start();
      await tried.more(5);
      assert.is(await come(), before, "something passed when the agent came back");
      assert.equal(await lab.call("spin", "get_blockflow"), { result: [pair] });
      const after = new Map(
        (await nodesOf(lab)).filter((node) => node.mac).map((node) => [node.mac, node.id]),
      );
      for (const [mac, id] of ids) assert.is(after.get(mac as string), id, `${mac} has another id`);
      assert.is(await idOf(lab, servers.web.address4, servers.web.address6), web);

      assert.equal(await lab.call("spin", "blockflow", { node1: web, node2: laptop, block: 0 }), {
        return: 0,
      });
      await Promise.all(blocked.map((each) => each.flows()));
      assert.equal(await lab.call("spin", "get_blockflow"), { result: [] });
      await Promise.all(witnesses.map((each) => each.flows()));
      for (const each of witnesses) assert.is(each.lost, 0, `a ${each.kind} stream of others lost packets`);
    } finally {
      await lab.close();
    }
  });

  test(`${backend}: a blocked device stays blocked with an address that nobody has seen before`, async () => {
    const lab = await Lab.up({ backend });
    try {
      const seen = await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
      const camera = await idOf(lab, "10.77.0.11");
      const web = await idOf(lab, servers.web.address4);
      await lab.call("gatehouse.flows", "block", { node1: camera, node2: web });
      await seen.end();
      const arrived = await Counter.of(lab, "internet", [`ip daddr ${servers.web.address4}`]);
      const tried = await Counter.of(lab, "router", [
        `ip saddr 10.77.0.199 ip daddr ${servers.web.address4}`,
      ]);
      await lab.must("camera", ["ip", "-4", "address", "flush", "dev", "eth0"]);
      await lab.must("camera", ["ip", "address", "add", "10.77.0.199/24", "dev", "eth0"]);
      await lab.must("camera", ["ip", "route", "replace", "default", "via", "10.77.0.1"]);
      const pings = lab.spawn("camera", ["ping", "-n", "-q", "-i", "0.1", servers.web.address4], {
        stdio: "ignore",
      });
      await tried.more(10);
      pings.kill();
      assert.is(await arrived.read(), 0, "packets from the new address");
      const { stdout } = await lab.exec("camera", ["ping", "-c", "2", "-W", "20", servers.video.address4]);
      assert.match(stdout, /2 received/);
    } finally {
      await lab.close();
    }
  });
}

test("the bus shows SPIN's three signatures to the letter, and retained nodes are on the broker, also after it forgot them", async () => {
  const lab = await Lab.up();
  const retained = new Retained(lab, "SPIN/#");
  try {
    const text = await lab.must("router", ["gatehouse", "list", "-v", "spin"]);
    const lines = text.split("\n").map((line) => line.trim());
    for (const signature of [
      '"spindlist":{"list":"Integer","addrem":"Integer","node":"Integer"}',
      '"blockflow":{"node1":"Integer","node2":"Integer","block":"Integer"}',
      '"get_blockflow":{}',
    ]) {
      assert.ok(lines.includes(signature), `${signature} is not in\n${text}`);
    }
    await look(lab, "laptop", "web.example.net");
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const laptop = await idOf(lab, "10.77.0.10");
    const web = await idOf(lab, servers.web.address4);
    const isComplete = () =>
      [laptop, web].every((id) =>
        retained.messages.get(`SPIN/traffic/node/${id}`)?.startsWith('{"command":"nodeInfo"'),
      ) && retained.messages.get("SPIN/status") === "online";
    await eventually("retained nodes", isComplete);
    await lab.broker.restart();
    retained.again();
    await eventually("retained nodes after a restart of the broker", isComplete);
    const argv = ["mosquitto_sub", "-t", "SPIN/traffic", "-C", "1", "-W", "30"];
    const message = JSON.parse(await lab.must("router", argv));
    assert.is(message.command, "traffic");
    assert.ok(
      message.result.flows.some(
        (flow: { from: number; to: number }) => flow.from === laptop && flow.to === web,
      ),
    );
    await stream.end();
  } finally {
    retained.end();
    await lab.close();
  }
});

test.run();
