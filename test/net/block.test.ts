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
import type { Stream, StreamKind } from "../lab/streams.ts";
import { servers } from "../lab/topology.ts";
import { idOf, type NodeRow, sleep } from "./trial.ts";

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

const counts = (streams: readonly Stream[]) => streams.map((each) => `${each.received} ${each.heard}`);

for (const backend of ["nft", "ipset"] as const) {
  test(`${backend}: a block cuts TCP, UDP and ping in both families at once, survives kill -9, and ends at once`, async () => {
    const lab = await Lab.up({ backend });
    try {
      for (const name of ["web.example.net", "video.example.net"]) await look(lab, "laptop", name);
      const blocked = await streamsTo(lab, servers.web);
      const witnesses = await streamsTo(lab, servers.video);
      const laptop = await idOf(lab, "10.77.0.10", "fd77::10");
      const web = await idOf(lab, servers.web.address4, servers.web.address6);

      assert.equal(await lab.call("spin", "blockflow", { node1: laptop, node2: web, block: 1 }), {
        return: 0,
      });
      await sleep(1_000);
      const atOneSecond = counts(blocked);
      await sleep(1_500);
      assert.equal(counts(blocked), atOneSecond, "something passed later than one second after the answer");

      const pair = { node1: Math.min(laptop, web), node2: Math.max(laptop, web) };
      assert.equal(await lab.call("spin", "get_blockflow"), { result: [pair] });
      await Promise.all(witnesses.map((each) => each.flows()));

      const before = (await nodesOf(lab)).filter((node) => node.mac).map((node) => [node.mac, node.id]);
      await lab.agent.kill();
      await sleep(500);
      assert.equal(counts(blocked), atOneSecond, "something passed while the agent was dead");
      await lab.agent.start();
      await sleep(500);
      assert.equal(counts(blocked), atOneSecond, "something passed when the agent came back");
      assert.equal(await lab.call("spin", "get_blockflow"), { result: [pair] });
      const after = new Map(
        (await nodesOf(lab)).filter((node) => node.mac).map((node) => [node.mac, node.id]),
      );
      for (const [mac, id] of before) assert.is(after.get(mac as string), id, `${mac} has another id`);
      assert.is(await idOf(lab, servers.web.address4, servers.web.address6), web);

      assert.equal(await lab.call("spin", "blockflow", { node1: web, node2: laptop, block: 0 }), {
        return: 0,
      });
      await Promise.all(blocked.map((each) => each.flows(20_000)));
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
      await seen.isCut();
      const heardBefore = seen.heard;
      await seen.end();
      await lab.must("camera", ["ip", "-4", "address", "flush", "dev", "eth0"]);
      await lab.must("camera", ["ip", "address", "add", "10.77.0.199/24", "dev", "eth0"]);
      await lab.must("camera", ["ip", "route", "replace", "default", "via", "10.77.0.1"]);
      const { stdout } = await lab.exec("camera", [
        "ping",
        "-n",
        "-c",
        "5",
        "-i",
        "0.2",
        "-W",
        "1",
        servers.web.address4,
      ]);
      assert.match(stdout, /\b0 received/);
      assert.is(seen.heard, heardBefore);
      assert.match(
        (await lab.exec("camera", ["ping", "-c", "2", "-W", "1", servers.video.address4])).stdout,
        /2 received/,
      );
    } finally {
      await lab.close();
    }
  });
}

test("the bus shows SPIN's three signatures to the letter", async () => {
  const lab = await Lab.up();
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
  } finally {
    await lab.close();
  }
});

test("retained nodes are on the broker, also after it forgot them", async () => {
  const lab = await Lab.up();
  try {
    await look(lab, "laptop", "web.example.net");
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const laptop = await idOf(lab, "10.77.0.10");
    const web = await idOf(lab, servers.web.address4);
    const remembered = async () =>
      (await lab.exec("router", ["mosquitto_sub", "-t", "SPIN/#", "-v", "--retained-only", "-W", "2"]))
        .stdout;
    const isComplete = async () => {
      const text = await remembered();
      return (
        [laptop, web].every((id) => text.includes(`SPIN/traffic/node/${id} {"command":"nodeInfo"`)) &&
        text.includes("SPIN/status online")
      );
    };
    await eventually("retained nodes", isComplete, 20_000);
    await lab.broker.restart();
    await eventually("retained nodes after a restart of the broker", isComplete, 30_000);
    const { stdout } = await lab.exec("router", [
      "mosquitto_sub",
      "-t",
      "SPIN/traffic",
      "-C",
      "1",
      "-W",
      "10",
    ]);
    const message = JSON.parse(stdout);
    assert.is(message.command, "traffic");
    assert.ok(
      message.result.flows.some(
        (flow: { from: number; to: number }) => flow.from === laptop && flow.to === web,
      ),
    );
    await stream.end();
  } finally {
    await lab.close();
  }
});

test.run();
