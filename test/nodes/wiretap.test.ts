/**
 * DNS over TCP on a real kernel: dig asks dnsmasq through this router, the firewall's copies become nodes.
 *
 *     lan (10.9.1.2, fd09:1::2) ── this namespace ── wan (10.9.2.2, fd09:2::2: dnsmasq)
 */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Nflog, openNflog } from "../../src/kernel/kernel.ts";
import { parsePacket, TCP } from "../../src/lib/packet.ts";
import { Nodes, type TapOutcome } from "../../src/nodes/nodes.ts";
import { addHost, forward, nft, openSystem, script, sh, start, stopAll, until } from "../kernel/yard.ts";
import { address, mac, prefix } from "./stage.ts";
import { framed, question } from "./wire.ts";

const system = openSystem();
const scratch = process.env.TMPDIR!;
const group = 5;
const numbers = Array.from({ length: 50 }, (_, index) => index + 1);
let nflog: Nflog;
let nodes: Nodes;
const outcomes: TapOutcome[] = [];
/** Packets of TCP that carried data, and their sizes. */
const segments: number[] = [];

const at = () => ({ now: system.now(), date: system.date() });
const said = (kind: TapOutcome["kind"]) => outcomes.filter((outcome) => outcome.kind === kind);
const dropped = () => outcomes.flatMap((outcome) => (outcome.kind === "dropped" ? [outcome.reason] : []));

/** The node of a name, by what was asked. */
function nodeOf(name: string): number {
  for (const outcome of outcomes) {
    if (outcome.kind === "query" && outcome.query.name === name) return outcome.nodes!.queried;
  }
  throw new Error(`${name} was not asked for`);
}
const ips = (name: string) => nodes.info(nodes.resolve(nodeOf(name))!)!.ips;

test.before(async () => {
  addHost({ name: "lan", device: "lan0", net: 1 });
  addHost({ name: "wan", device: "wan0", net: 2 });
  forward();
  nft(`table inet test {
    chain forward {
      type filter hook forward priority 0;
      meta l4proto { tcp, udp } th dport 53 log group ${group} queue-threshold 1
      meta l4proto { tcp, udp } th sport 53 log group ${group} queue-threshold 1
    }
  }`);
  // The server's segments are this small, and no card cuts them, so that its longer answers come in many.
  sh("ip -n lan route replace default via 10.9.1.1 advmss 200");
  sh("ip -n wan link set eth0 gso_max_segs 1");
  const hosts = join(scratch, "hosts");
  writeFileSync(hosts, numbers.map((last) => `198.51.100.${last} big.example\n`).join(""));
  start(
    `ip netns exec wan dnsmasq --keep-in-foreground --no-resolv --no-hosts --conf-file=/dev/null --user=root --addn-hosts=${hosts} --address=/a.example/192.0.2.7 --address=/a.example/2001:db8::7 --address=/b.example/192.0.2.8 --cname=alias.example,big.example --local=/example/`,
  );
  await until("the name server", () => sh("ip netns exec wan ss -Hlnt").includes(":53"));
  nflog = await openNflog(system, {
    group,
    onPacket: ({ payload }) => {
      const outcome = parsePacket(payload);
      if (outcome.kind === "packet" && outcome.packet.protocol === TCP && outcome.packet.payloadBytes > 32) {
        segments.push(outcome.packet.payloadBytes);
      }
      outcomes.push(...nodes.tapped(payload, at()));
    },
  });
});

test.before.each(() => {
  outcomes.length = 0;
  segments.length = 0;
  nodes = new Nodes();
  for (const [net, host] of [
    ["10.9.1.0/24", "10.9.1.2"],
    ["fd09:1::/64", "fd09:1::2"],
  ] as const) {
    nodes.prefix({ prefix: prefix(net), side: "lan", present: true }, at());
    const who = mac("02:00:00:00:00:01");
    nodes.neighbour({ address: address(host), mac: who, side: "lan", state: "reachable" }, at());
  }
});

test.after(async () => {
  nflog?.close();
  await stopAll();
});

for (const [server, type, expected] of [
  ["10.9.2.2", "A", "192.0.2.7"],
  ["fd09:2::2", "AAAA", "2001:db8::7"],
] as const) {
  test(`tapped(): a name asked for over TCP of ${server} becomes a node with its address`, async () => {
    assert.is(sh(`ip netns exec lan dig +tcp +short +tries=1 @${server} a.example ${type}`).trim(), expected);
    await until("question and answer", () => outcomes.length >= 2);
    const [asked] = said("query");
    assert.is(asked?.kind === "query" && asked.nodes?.from, nodes.find(address("10.9.1.2")));
    assert.equal(ips("a.example."), [expected]);
    assert.equal(dropped(), []);
    assert.ok(segments.length >= 2);
  });
}

test("tapped(): questions pipelined on one connection, and their answers", async () => {
  const names = ["a.example.", "b.example.", "none.example."];
  const file = join(scratch, "questions");
  writeFileSync(file, framed(...names.map((name, id) => question(name, id))));
  // Closes when it has the answers: 45 bytes with their lengths twice, and 32 without an address.
  script("lan", `exec 3<>/dev/tcp/10.9.2.2/53; cat ${file} >&3; timeout 5 head -c 122 <&3 >/dev/null`);
  await until("all answers", () => said("answer").length === 3);
  assert.equal(
    said("answer").map((outcome) => outcome.kind === "answer" && [outcome.answer.id, outcome.became]),
    [
      [0, "taken"],
      [1, "taken"],
      [2, "taken"],
    ],
  );
  assert.equal(ips("a.example."), ["192.0.2.7"]);
  assert.equal(ips("b.example."), ["192.0.2.8"]);
  assert.equal(ips("none.example."), []);
  assert.equal(dropped(), []);
});

test("tapped(): an answer too long for UDP teaches nothing there, and all of it over TCP, in many segments", async () => {
  const shown = sh("ip netns exec lan dig +noedns +short +tries=1 @10.9.2.2 alias.example A")
    .trim()
    .split("\n");
  assert.is(shown.length, 51, "the alias and its addresses");
  await until("both answers", () => said("answer").length === 2);
  const counts = said("answer").map((outcome) => outcome.kind === "answer" && outcome.answer.answers.length);
  assert.equal(counts, [0, 50]);
  assert.equal(
    ips("alias.example."),
    numbers.map((last) => `198.51.100.${last}`),
  );
  assert.ok(segments.length >= 5, `${segments} bytes`);
  assert.equal(dropped(), []);
});

test.run();
