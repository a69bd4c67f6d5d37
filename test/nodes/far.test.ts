/** Far nodes: names, addresses, and on which of them traffic is booked. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { address, camera, laptop, phone, Stage } from "./stage.ts";

const fixtures = join(process.cwd(), "test/nodes/fixtures");
const c1 = "10.77.0.11";
const c2 = "10.77.0.12";
const c3 = "10.77.0.13";

function network(limits = {}): Stage {
  const stage = new Stage({ limits }).router();
  stage.neighbour(c1, laptop);
  stage.neighbour(c2, camera);
  stage.neighbour(c3, phone);
  return stage;
}

test("a name that a client asks for is a node, and grows with the addresses answered", () => {
  const stage = network();
  const { ids } = stage.ask(c1, "Web.Example.NET.");
  assert.equal(ids, { from: stage.id(c1), queried: ids!.queried });
  assert.equal(stage.nodes.info(ids!.queried), {
    id: ids!.queried,
    lastseen: stage.date / 1000,
    ips: [],
    domains: ["web.example.net."],
  });
  stage.resolve(c1, "web.example.net.", ["198.51.100.10"]);
  stage.resolve(c2, "WEB.example.net.", ["2001:db8:100::10", "198.51.100.9"]);
  assert.equal(stage.ips(ids!.queried), ["198.51.100.9", "198.51.100.10", "2001:db8:100::10"]);
  assert.equal(stage.nodes.takeMerged(), []);
});

test("an address nobody named keeps its id when a name turns up; the node of the question becomes its alias", () => {
  const stage = network();
  const bare = stage.traffic("198.51.100.10", c1)!;
  assert.is(stage.kind(bare), "address");
  const { query, ids } = stage.ask(c1, "web.example.net.");
  stage.nodes.dnsAnswer(
    { ...query, answers: [{ address: address("198.51.100.10"), ttlSeconds: 60 }] },
    stage.at,
  );
  assert.is(stage.traffic("198.51.100.10", c1), bare);
  assert.equal(stage.nodes.info(bare)!.domains, ["web.example.net."]);
  assert.is(stage.kind(bare), "name");
  assert.equal(stage.nodes.takeMerged(), [{ id: ids!.queried, into: bare }]);
  assert.equal(stage.nodes.info(ids!.queried), stage.nodes.info(bare));
  stage.resolve(c1, "web.example.net.", ["198.51.100.11"]);
  assert.equal(stage.ips(bare), ["198.51.100.10", "198.51.100.11"]);
});

test("of several bare addresses the eldest takes the name; the others stay and show it", () => {
  const stage = network();
  const [one, two] = [stage.traffic("198.51.100.10")!, stage.traffic("198.51.100.11")!];
  const name = stage.resolve(c1, "web.example.net.", ["198.51.100.11", "198.51.100.10"]);
  assert.is(name, one);
  assert.equal(stage.ips(one), ["198.51.100.10", "198.51.100.11"]);
  assert.equal(stage.ips(two), ["198.51.100.11"]);
  assert.equal(stage.nodes.info(two)!.domains, ["web.example.net."]);
  assert.is(stage.traffic("198.51.100.11", c1), one, "booked where the client was told");
  assert.is(stage.traffic("198.51.100.11", c2), two, "booked where nobody told the client");
});

for (const [title, hold] of [
  ["pinned", (stage: Stage, id: number) => stage.nodes.pin(id, "allow")],
  ["named by the user", (stage: Stage, id: number) => stage.nodes.rename(id, "mine")],
] as const) {
  test(`a bare address that is ${title} stays just this address: a name server cannot make it grow`, () => {
    const stage = network();
    const bare = stage.traffic("198.51.100.10")!;
    hold(stage, bare);
    const name = stage.resolve(c1, "evil.example.", ["198.51.100.10", "203.0.113.66"]);
    assert.is.not(name, bare);
    assert.equal(stage.ips(bare), ["198.51.100.10"]);
    assert.equal(stage.nodes.info(bare)!.domains, ["evil.example."], "the name is shown");
    assert.equal(stage.nodes.sharedWith(bare), [name]);
    assert.equal(
      stage.told.filter((line) => line.startsWith("ends")),
      [],
    );
  });
}

test("defect 7: two names on one address stay two nodes, flows booked by who asked what", () => {
  const stage = network();
  const a = stage.resolve(c1, "cdn-a.example.com.", ["198.51.100.20"])!;
  const b = stage.resolve(c2, "cdn-b.example.com.", ["198.51.100.20"])!;
  assert.is.not(a, b);
  assert.is(stage.traffic("198.51.100.20", c1), a);
  assert.is(stage.traffic("198.51.100.20", c2), b);
  assert.is(stage.traffic("198.51.100.20", c3), a, "who asked for neither sees the first");
  assert.equal(stage.nodes.sharedWith(a), [b]);
  assert.equal(stage.nodes.sharedWith(b), [a]);
  stage.resolve(c1, "cdn-b.example.com.", ["198.51.100.20"]);
  assert.is(stage.traffic("198.51.100.20", c1), b, "the last answer counts");
  assert.equal(stage.nodes.takeMerged(), []);
  const detail = stage.nodes.detail(a)!.addresses as { shared_with?: number[] }[];
  assert.equal(detail[0]!.shared_with, [b]);
});

test("a client is the device, whichever of its addresses asks or talks", () => {
  const stage = network();
  stage.neighbour("fd77::12", camera);
  stage.resolve(c1, "cdn-a.example.com.", ["198.51.100.20"]);
  const b = stage.resolve("fd77::12", "cdn-b.example.com.", ["198.51.100.20"]);
  assert.is(stage.traffic("198.51.100.20", c2), b);
});

test("defect 7: an answer counts only if it fits a question of that client in every field", () => {
  const stage = network();
  const { query, ids } = stage.ask(c1, "web.example.net.");
  const answers = [{ address: address("203.0.113.66"), ttlSeconds: 60 }];
  const before = JSON.stringify(
    stage.nodes.ids().map((id) => stage.nodes.detail(id)),
    (_, value) => String(value),
  );
  const forged = [
    { ...query, client: address(c2) },
    { ...query, clientPort: query.clientPort + 1 },
    { ...query, id: query.id + 1 },
    { ...query, server: address("10.77.0.66") },
    { ...query, name: "web.example.org." },
    { ...query, type: 28 },
  ];
  for (const each of forged) assert.is(stage.nodes.dnsAnswer({ ...each, answers }, stage.at), "unasked");
  assert.is(stage.nodes.status.unasked, forged.length);
  assert.is(
    JSON.stringify(
      stage.nodes.ids().map((id) => stage.nodes.detail(id)),
      (_, value) => String(value),
    ),
    before,
    "nothing has changed",
  );
  assert.is(stage.nodes.dnsAnswer({ ...query, answers }, stage.at), "taken");
  assert.is(stage.nodes.dnsAnswer({ ...query, answers }, stage.at), "unasked", "the first answer is the one");
  assert.equal(stage.ips(ids!.queried), ["203.0.113.66"]);
});

test("an answer that comes too late was not waited for", () => {
  const stage = network();
  const { query } = stage.ask(c1, "web.example.net.");
  stage.now += 31_000;
  assert.is(stage.nodes.dnsAnswer({ ...query, answers: [] }, stage.at), "unasked");
});

test("defect 7: names never tie devices, and answers with near addresses go into no name", () => {
  const stage = network();
  stage.neighbour("192.0.2.254", "02:77:00:00:01:fe", "reachable", { side: "wan" });
  const ids = stage.nodes.ids();
  const near = [
    c1,
    c2,
    "10.77.0.1",
    "fd77::1",
    "192.0.2.254",
    "10.77.0.77",
    "fe80::1",
    "169.254.1.1",
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "10.77.0.255",
    "224.0.0.1",
    "::1",
    "ff02::1",
  ];
  const name = stage.resolve(c1, "evil.example.", [...near, "203.0.113.66"])!;
  assert.equal(stage.ips(name), ["203.0.113.66"]);
  assert.equal(stage.nodes.ids(), [...ids, name]);
  assert.is(stage.nodes.status.foreign, near.length);
  stage.resolve(c2, "evil.example.", near);
  assert.equal(stage.nodes.ids(), [...ids, name]);
  assert.is.not(stage.id(c1), stage.id(c2));
});

test("a private address that is not on-link may be a name's (a VPN, another site)", () => {
  const stage = network();
  assert.equal(stage.ips(stage.resolve(c1, "nas.corp.example.", ["10.99.0.5"])), ["10.99.0.5"]);
});

test("questions of strangers make no nodes", () => {
  const stage = network();
  const before = stage.nodes.ids();
  assert.is(stage.ask("203.0.113.5", "web.example.net.").ids, undefined);
  assert.is(stage.ask("10.77.0.1", "web.example.net.").ids, undefined);
  assert.is(stage.ask("192.0.2.254", "web.example.net.").ids, undefined);
  assert.equal(stage.nodes.ids(), before);
});

test("an address leaves its name after its time to live and a grace, unless traffic with it goes on", () => {
  const stage = network({ graceMs: 60_000, farMs: 3_600_000 });
  const name = stage.resolve(c1, "web.example.net.", ["198.51.100.10", "198.51.100.11"], 120);
  stage.pass(170_000);
  assert.is(stage.ips(name).length, 2);
  stage.traffic("198.51.100.10", c1);
  stage.pass(20_000);
  assert.equal(stage.ips(name), ["198.51.100.10"]);
  stage.pass(60_000);
  assert.equal(stage.ips(name), []);
  assert.equal(stage.nodes.info(name!)!.domains, ["web.example.net."], "the name is still there");
});

test("a pinned name keeps its addresses longer, and its end follows each change at once", () => {
  const stage = network({ graceMs: 60_000, pinnedGraceMs: 600_000 });
  const name = stage.resolve(c1, "web.example.net.", ["198.51.100.10"], 60)!;
  stage.nodes.pin(name, "block");
  stage.resolve(c2, "web.example.net.", ["2001:db8:100::10"], 60);
  assert.equal(stage.told, [`ends ${name}`]);
  assert.equal(stage.nodes.end(name)!.addresses, ["198.51.100.10", "2001:db8:100::10"]);
  stage.pass(300_000);
  assert.is(stage.ips(name).length, 2);
  stage.pass(400_000);
  assert.equal(stage.ips(name), []);
  assert.equal(stage.told, [`ends ${name}`, `ends ${name}`]);
});

test("when a name gives up an address that another shares, the other becomes its home", () => {
  const stage = network({ graceMs: 60_000 });
  const a = stage.resolve(c1, "a.example.", ["198.51.100.20"], 10);
  const b = stage.resolve(c2, "b.example.", ["198.51.100.20"], 1000);
  assert.is(stage.id("198.51.100.20"), a);
  stage.pass(200_000);
  assert.is(stage.id("198.51.100.20"), b);
  assert.is(stage.traffic("198.51.100.20", c1), b, "what c1 was told is outlived");
});

test("absurd times to live are a day at most", () => {
  const stage = network({ graceMs: 0, farMs: 1e12 });
  const name = stage.resolve(c1, "web.example.net.", ["198.51.100.10"], 0x7fffffff);
  stage.pass(86_400_000 + 10_000);
  assert.equal(stage.ips(name), []);
});

test("names seen for an address go after their time to live, and their number is bounded", () => {
  const stage = network({ namesPerNode: 3 });
  const bare = stage.traffic("198.51.100.10")!;
  stage.nodes.pin(bare, "block");
  for (const name of ["one.", "two.", "three.", "four."]) stage.resolve(c1, name, ["198.51.100.10"], 100);
  assert.equal(stage.nodes.info(bare)!.domains, ["two.", "four.", "three."]);
  stage.pass(200_000);
  assert.equal(stage.nodes.info(bare)!.domains, []);
});

test("addresses of a name are bounded: the one longest unused goes", () => {
  const stage = network({ addressesPerNode: 4 });
  let name: number | undefined;
  for (let last = 1; last <= 10; last++) {
    stage.pass(1000);
    name = stage.resolve(c1, "web.example.net.", [`198.51.100.${last}`], 600);
  }
  assert.equal(
    stage.ips(name),
    [7, 8, 9, 10].map((last) => `198.51.100.${last}`),
  );
});

test("hostile names stay text", () => {
  const stage = network();
  const names = [
    "__proto__.",
    "constructor.",
    "$(touch\\032x).",
    "<img\\032src=x>.",
    `${"\\255".repeat(63)}.`.repeat(3),
    "\\010\\013.",
  ];
  for (const [index, name] of names.entries()) {
    const id = stage.resolve(c1, name, [`203.0.113.${index + 1}`]);
    assert.equal(stage.nodes.info(id!)!.domains, [name.toLowerCase()]);
  }
  assert.is(stage.ask(c1, "x".repeat(2000)).ids, undefined, "longer than a name can be");
});

test("tapped(): the recorded network gives SPIN's nodes, without what it got wrong", () => {
  const stage = network();
  const packets = readFileSync(join(fixtures, "dns-packets.txt"), "utf8")
    .split("\n")
    .filter((line) => /^[0-9a-f]+$/.test(line));
  const counts = { query: 0, answer: 0, dropped: 0 };
  for (const packet of packets) {
    stage.now += 10;
    const outcomes = stage.nodes.tapped(Uint8Array.from(Buffer.from(packet, "hex")), stage.at);
    for (const { kind } of outcomes) counts[kind]++;
  }
  assert.equal(counts, { query: 15, answer: 15, dropped: 0 });
  const names = stage.nodes.ids().flatMap((id) => (stage.kind(id) === "name" ? [stage.nodes.info(id)!] : []));
  const found = names.map(({ domains, ips }) => `${domains} ${ips}`).sort();
  assert.equal(found, [
    "api.example.org. 198.51.100.11",
    "cdn-a.example.com. 198.51.100.20",
    "cdn-b.example.com. 198.51.100.20",
    "web.example.net. 198.51.100.10,2001:db8:100::10",
  ]);
  assert.is(stage.nodes.status.unasked, 0);
});

test.run();
