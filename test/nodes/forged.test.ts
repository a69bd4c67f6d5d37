/** What name servers, and those who pretend to be one, cannot do to the nodes. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { encodeAddress } from "../../src/lib/address.ts";
import { encodeMessage } from "../../src/lib/dns.ts";
import type { TapOutcome } from "../../src/nodes/nodes.ts";
import { address, camera, laptop, phone, Stage } from "./stage.ts";
import { answer, backwards, framed, question, record, Speaker, tcp, udp, type Way } from "./wire.ts";

const c1 = "10.77.0.11";
const c2 = "10.77.0.12";
const way: Way = { from: address(c1), to: address("10.77.0.1"), ports: [40_000, 53] };
const back = backwards(way);
const asked = question("bad.example.");
const good = record("bad.example.", "203.0.113.66");

function network(limits = {}): Stage {
  const stage = new Stage({ limits }).router();
  stage.neighbour(c1, laptop);
  stage.neighbour("fd77::11", laptop);
  stage.neighbour(c2, camera);
  stage.lease("10.77.0.13", phone, { name: "phone" });
  stage.neighbour("192.0.2.254", "02:77:00:00:01:fe", "reachable", { side: "wan" });
  return stage;
}

const tapped = (stage: Stage, bytes: Uint8Array) => stage.nodes.tapped(bytes, stage.at);

/** What became of the one message in a packet. */
function alone(stage: Stage, bytes: Uint8Array): TapOutcome {
  const outcomes = tapped(stage, bytes);
  assert.is(outcomes.length, 1);
  return outcomes[0]!;
}

function all(stage: Stage): string {
  return JSON.stringify(
    stage.nodes.ids().map((id) => stage.nodes.detail(id)),
    (_, value) => (typeof value === "bigint" ? String(value) : value),
  );
}

/** Which MACs and addresses belong together: devices, the router, the gateway. */
function bindings(stage: Stage): string[] {
  return stage.nodes
    .ids()
    .map((id) => ({ kind: stage.kind(id), end: stage.nodes.end(id) }))
    .filter(({ kind }) => kind !== "name" && kind !== "address")
    .map(({ kind, end }) => JSON.stringify([kind, end]));
}

test("tapped(): a question gives the nodes of client and name, for those who tell of it", () => {
  const stage = network();
  const outcome = alone(stage, udp(asked, way));
  assert.is(outcome.kind, "query");
  if (outcome.kind !== "query") return;
  assert.is(outcome.query.name, "bad.example.");
  assert.is(outcome.nodes!.from, stage.id(c1));
  assert.equal(stage.nodes.info(outcome.nodes!.queried)!.domains, ["bad.example."]);
  const stranger = alone(stage, udp(asked, { ...way, from: address("203.0.113.1") }));
  assert.is(stranger.kind === "query" && stranger.nodes, undefined);
});

test("tapped(): several questions in one TCP packet give several, and their answers are matched one by one", () => {
  const stage = network();
  const [client, server] = [new Speaker(way, 9), new Speaker(back, 700)];
  tapped(stage, client.say(undefined, { flags: "S" }));
  tapped(stage, server.say(undefined, { flags: "S" }));
  const questions = ["a.example.", "b.example."].map((name, id) => question(name, id));
  const outcomes = tapped(stage, client.say(framed(...questions)));
  const ids = outcomes.map((outcome) => (outcome.kind === "query" ? outcome.nodes?.queried : undefined));
  assert.is(new Set(ids).size, 2);
  const told = questions.map((each, id) =>
    answer(each, [record(each.questions[0]!.name, `198.51.100.${id}`)]),
  );
  const became = tapped(stage, server.say(framed(told[1]!, told[0]!, told[0]!)));
  assert.equal(
    became.map((outcome) => outcome.kind === "answer" && outcome.became),
    ["taken", "taken", "unasked"],
  );
  assert.equal(stage.ips(ids[0]), ["198.51.100.0"]);
  assert.equal(stage.ips(ids[1]), ["198.51.100.1"]);
});

const forgeries: readonly (readonly [string, Uint8Array])[] = [
  ["another id", udp(answer({ ...asked, id: 8 }, [good]), back)],
  ["another server", udp(answer(asked, [good]), { ...back, from: address("10.77.0.66") })],
  ["the client itself as server", udp(answer(asked, [good]), { ...back, from: address(c1) })],
  ["another client", udp(answer(asked, [good]), { ...back, to: address(c2) })],
  ["another port of the client", udp(answer(asked, [good]), { ...back, ports: [53, 40_001] })],
  ["another port of the server", udp(answer(asked, [good]), { ...back, ports: [5353, 40_000] })],
  ["another name", udp(answer(question("worse.example."), [good]), back)],
  ["another type", udp(answer(question("bad.example.", 7, 28), [good]), back)],
  ["a question with answers", udp({ ...asked, answers: [good] }, back)],
  ["a cut message", udp(encodeMessage(answer(asked, [good])).subarray(0, 40), back)],
  [
    "TCP, far from any connection",
    tcp({ sequence: 1, data: framed(answer({ ...asked, id: 8 }, [good])) }, back),
  ],
  ["TCP, of a question over UDP", tcp({ sequence: 1, data: framed(answer(asked, [good])) }, back)],
];
for (const [title, bytes] of forgeries) {
  test(`tapped(): an answer with ${title} changes nothing, and the real one still counts`, () => {
    const stage = network();
    const outcome = alone(stage, udp(asked, way));
    const name = outcome.kind === "query" ? outcome.nodes!.queried : 0;
    const before = all(stage);
    tapped(stage, bytes);
    assert.is(all(stage), before);
    const real = alone(stage, udp(answer(asked, [good]), back));
    assert.is(real.kind === "answer" && real.became, "taken");
    assert.equal(stage.ips(name), ["203.0.113.66"]);
  });
}

const harmless: readonly (readonly [string, ReturnType<typeof answer>])[] = [
  ["no such name", answer(asked, [], { rcode: 3 })],
  ["a failure of the server, with an address", answer(asked, [good], { rcode: 2 })],
  ["no address", answer(asked, [])],
  ["a cut answer", answer(asked, [good], { truncated: true })],
  ["an address of somebody else's name", answer(asked, [record("bank.example.", "203.0.113.66")])],
];
for (const [title, message] of harmless) {
  test(`tapped(): ${title} takes no address and gives none`, () => {
    const stage = network();
    const name = stage.resolve(c1, "bad.example.", ["203.0.113.5"])!;
    tapped(stage, udp(asked, way));
    const outcome = alone(stage, udp(message, back));
    assert.is(outcome.kind === "answer" && outcome.became, "taken");
    assert.equal(stage.ips(name), ["203.0.113.5"]);
  });
}

/** Addresses that stand for the network itself: whoever blocks a name must not lose these. */
const near = [
  ["the router", "10.77.0.1"],
  ["the router, IPv6", "fd77::1"],
  ["the router, link-local", "fe80::77:ff:fe00:1"],
  ["the router on the WAN", "192.0.2.1"],
  ["the gateway", "192.0.2.254"],
  ["a device", c2],
  ["a device, IPv6", "fd77::11"],
  ["a leased address", "10.77.0.13"],
  ["a LAN address nobody has", "10.77.0.200"],
  ["a LAN address nobody has, IPv6", "fd77::dead"],
  ["another link-local", "fe80::1"],
  ["an IPv4 link-local", "169.254.7.7"],
  ["the LAN's broadcast", "10.77.0.255"],
  ["the LAN's own number", "10.77.0.0"],
  ["everybody", "255.255.255.255"],
  ["0.0.0.0", "0.0.0.0"],
  ["0/8", "0.1.2.3"],
  ["loopback", "127.0.0.1"],
  ["127/8", "127.255.1.2"],
  ["multicast", "224.0.0.251"],
  ["multicast, to its end", "239.255.255.250"],
  ["multicast, IPv6", "ff02::fb"],
  ["::", "::"],
  ["::1", "::1"],
  ["the router, mapped", "::ffff:10.77.0.1"],
  ["a device, mapped", "::ffff:10.77.0.12"],
  ["0/8, mapped", "::ffff:0.1.2.3"],
  ["loopback, mapped", "::ffff:127.0.0.1"],
  ["everybody, mapped", "::ffff:255.255.255.255"],
] as const;

for (const pinned of [false, true]) {
  test(`tapped(): no ${pinned ? "blocked " : ""}name takes in what the network itself needs`, () => {
    const stage = network();
    const name = stage.resolve(c1, "bad.example.", ["203.0.113.5"])!;
    if (pinned) stage.nodes.pin(name, "block");
    const before = bindings(stage);
    for (const [title, text] of near) {
      for (const type of [1, 28, 65]) {
        tapped(stage, udp(question("bad.example.", 7, type), way));
        const told = answer(question("bad.example.", 7, type), [record("bad.example.", text)]);
        const outcome = alone(stage, udp(told, back));
        assert.is(outcome.kind === "answer" && outcome.became, "taken");
        assert.equal(stage.ips(name), ["203.0.113.5"], title);
      }
    }
    assert.equal(bindings(stage), before);
    assert.is(stage.nodes.status.foreign >= near.length, true);
  });
}

test("tapped(): the name server that a client asks is in no name's set, wherever it is", () => {
  const stage = network();
  const away: Way = { ...way, to: address("203.0.113.53") };
  const outcome = alone(stage, udp(asked, away));
  const name = outcome.kind === "query" ? outcome.nodes!.queried : 0;
  const records = [record("bad.example.", "203.0.113.53"), good];
  tapped(stage, udp(answer(asked, records), backwards(away)));
  assert.equal(stage.ips(name), ["203.0.113.66"]);
});

test("tapped(): no sequence of DNS messages changes what a MAC or an address of the network belongs to", () => {
  const hosts = [c1, c2, "10.77.0.13", "10.77.0.1", "192.0.2.254", "203.0.113.53"];
  const step = fc.record({
    client: fc.constantFrom(c1, c2, "10.77.0.13"),
    server: fc.constantFrom(...hosts),
    name: fc.constantFrom("a.example.", "b.example.", "phone.", "11.0.77.10.in-addr.arpa.", "."),
    addresses: fc.array(fc.constantFrom(...near.map(([, text]) => text), "203.0.113.66", "198.51.100.1"), {
      maxLength: 6,
    }),
    kind: fc.constantFrom("question", "answer", "both", "both", "both"),
    over: fc.constantFrom("udp", "tcp"),
    forged: fc.nat(8),
    noise: fc.uint8Array({ maxLength: 4 }),
    passMs: fc.constantFrom(0, 10, 10, 40_000, 400_000),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const stage = network({ nodes: 64 });
      const before = bindings(stage);
      let port = 2000;
      for (const each of steps) {
        port++;
        const here: Way = { from: address(each.client), to: address(each.server), ports: [port, 53] };
        const ask = question(each.name, port);
        const told = answer(
          each.forged === 0 ? { ...ask, id: port + 1 } : ask,
          each.addresses.map((text) => record(each.name, text, each.noise.length * 30)),
        );
        const send = (message: Parameters<typeof udp>[0], where: Way) => {
          const bytes =
            each.over === "udp" ? udp(message, where) : tcp({ sequence: 5, data: framed(message) }, where);
          // Now and then a byte is another.
          if (each.forged === 1) {
            for (const [at, value] of each.noise.entries())
              bytes[28 + ((at * 37) % (bytes.length - 28))] = value;
          }
          tapped(stage, bytes);
        };
        if (each.kind !== "answer") send(ask, here);
        if (each.kind !== "question") send(told, backwards(here));
        stage.pass(each.passMs);
      }
      assert.equal(bindings(stage), before);
      const kept = new Set(near.map(([, text]) => String(address(text))));
      for (const id of stage.nodes.ids()) {
        if (stage.kind(id) !== "name") continue;
        for (const ip of stage.ips(id)) {
          assert.not(kept.has(ip), `${ip} is in a name's set`);
          assert.not(encodeAddress(address(ip)).slice(0, 12).join() === "0,0,0,0,0,0,0,0,0,0,255,255", ip);
        }
      }
    }),
    { numRuns: 150, seed: 6 },
  );
});

test("tapped(): a flood of questions with random labels keeps within the limits and leaves devices alone", () => {
  const limits = { nodes: 256, questionsPerClient: 32, questions: 64, answersPerClient: 32, answers: 64 };
  const stage = network(limits);
  const before = bindings(stage);
  const kept = stage.resolve(c2, "kept.example.", ["198.51.100.77"])!;
  stage.nodes.pin(kept, "block");
  for (let round = 0; round < 10_000; round++) {
    // 5,000 a second, half of them answered.
    stage.pass(0.2);
    const label = ((round * 2_654_435_761) >>> 0).toString(36);
    const flood: Way = { ...way, ports: [1024 + (round % 60_000), 53] };
    const ask = question(`${label}.flood.example.`, round & 0xffff);
    const over = round % 8 === 0;
    const pack = (message: Parameters<typeof udp>[0], where: Way) =>
      over ? tcp({ sequence: 7, data: framed(message) }, where) : udp(message, where);
    tapped(stage, pack(ask, flood));
    if (round % 2 === 0) {
      const told = answer(ask, [
        record(ask.questions[0]!.name, `203.0.${(round >> 8) & 255}.${round & 255}`),
      ]);
      tapped(stage, pack(told, backwards(flood)));
    }
    const { nodes, questions, answers } = stage.nodes.status;
    assert.ok(nodes <= limits.nodes && questions <= limits.questions && answers <= limits.answers);
  }
  assert.equal(bindings(stage), before);
  assert.equal(stage.ips(kept), ["198.51.100.77"]);
  assert.ok(stage.nodes.status.evicted > 9000);
  assert.ok(stage.nodes.status.forgotten > 4000);
});

test.run();
