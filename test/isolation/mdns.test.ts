/** Discovery: who hears whom, with which addresses, and that a hostile message goes nowhere. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Heard, Relay } from "../../src/isolation/isolation.ts";
import { rewritten } from "../../src/isolation/mdns.ts";
import { type Address, encodeAddress } from "../../src/lib/address.ts";
import { type DnsRecord, decodeMessage, encodeMessage } from "../../src/lib/dns.ts";
import { address, openHouse } from "./house.ts";

const services = [
  { name: "web", segment: "apps", addresses: [address("10.1.0.2"), address("fd01::2")] },
  { name: "cast", segment: "data", addresses: [address("10.2.0.2"), address("fd02::2")] },
  { name: "spy", segment: "data", addresses: [address("10.2.0.3")] },
];
const flags = {
  ...{ response: true, opcode: 0, authoritative: true, truncated: false, recursionDesired: false },
  ...{ recursionAvailable: false, authenticData: false, checkingDisabled: false, rcode: 0 },
};
const aRecord = (name: string, text: string): DnsRecord => ({
  ...{ name, type: text.includes(":") ? 28 : 1, class: 1, ttlSeconds: 120 },
  address: address(text),
});

function message(isAnswer: boolean, answers: readonly DnsRecord[]): Uint8Array {
  const questions = isAnswer ? [] : [{ name: "_googlecast._tcp.local.", type: 12, class: 1 }];
  return encodeMessage({ id: 0, flags: { ...flags, response: isAnswer }, questions, answers });
}

async function open(direction: "both" | "out" = "both") {
  const house = openHouse({ services });
  await house.isolation.connect({ name: "web", peers: ["cast"], direction });
  return { house, relay: new Relay({ isolation: house.isolation }) };
}

const from = (device: string, source: string, bytes: Uint8Array): Heard => ({
  device,
  source: address(source),
  bytes,
});

test("a question goes to whom the asker may talk to, alone, and its answer comes back with stand-ins", async () => {
  const { house, relay } = await open("out");
  const question = message(false, []);
  const asked = relay.mdns(from("br-apps", "10.1.0.2", question), 0);
  assert.equal(
    asked.map(({ bytes: _, ...rest }) => rest),
    [{ device: "br-data", to: "10.2.0.2", from: "10.2.0.1" }],
  );
  assert.equal(asked[0]!.bytes, question);
  assert.equal(relay.mdns(from("br-data", "10.2.0.2", question), 0), [], "cast may ask nobody");
  const answer = message(true, [aRecord("cast.local.", "10.2.0.2"), aRecord("cast.local.", "fd02::2")]);
  const [told, ...more] = relay.mdns(from("br-data", "10.2.0.2", answer), 0);
  assert.equal(more, []);
  assert.equal([told!.device, told!.to, told!.from], ["br-apps", "10.1.0.2", "10.1.0.1"]);
  const standIn = house.isolation.parts.standIns.get("cast")!;
  assert.equal(
    decodeMessage(told!.bytes).answers.map((each) => each.address),
    [standIn[4], standIn[6]],
  );
  assert.equal(relay.mdns(from("br-apps", "10.1.0.2", message(true, [])), 0), [], "nobody may talk to web");
});

test("nobody hears who is not connected, spoofs, or is no service", async () => {
  const { relay } = await open();
  const answer = message(true, [aRecord("spy.local.", "10.2.0.3")]);
  assert.equal(relay.mdns(from("br-data", "10.2.0.3", answer), 0), []);
  assert.equal(
    relay.mdns(from("br-apps", "10.2.0.2", answer), 0),
    [],
    "cast's address, from where it is not",
  );
  assert.equal(relay.mdns(from("br-data", "10.2.0.99", answer), 0), []);
  assert.equal(
    relay.mdns(from("br-data", "10.2.0.1", answer), 0),
    [],
    "the router's own are not relayed again",
  );
  assert.is(relay.counters.strangers, 4);
});

test("addresses that are not the sender's tell nothing, and names and pointers stay as they are", async () => {
  const { relay } = await open();
  const records = [
    aRecord("cast.local.", "192.168.7.7"),
    aRecord("cast.local.", "fe80::2"),
    aRecord("cast.local.", "10.2.0.2"),
    { name: "_x.local.", type: 5, class: 1, ttlSeconds: 9, target: "cast.local." },
  ];
  const [told] = relay.mdns(from("br-data", "10.2.0.2", message(true, records)), 0);
  const { answers } = decodeMessage(told!.bytes);
  assert.equal(
    answers.map(({ type, name }) => `${type} ${name}`),
    ["65281 cast.local.", "65281 cast.local.", "1 cast.local.", "5 _x.local."],
  );
  assert.is(answers[3]!.target, "cast.local.");
  const bytes = [...told!.bytes].join();
  for (const text of ["192.168.7.7", "fe80::2", "10.2.0.2"]) {
    assert.not.ok(bytes.includes([...encodeAddress(text as Address)].join()), text);
  }
});

test("one that shouts is cut short, the others are not", async () => {
  const { relay } = await open();
  const question = message(false, []);
  let heard = 0;
  for (let at = 0; at < 200; at++) heard += relay.mdns(from("br-apps", "10.1.0.2", question), 0).length;
  assert.is(heard, 60);
  assert.is(relay.mdns(from("br-data", "10.2.0.2", question), 0).length, 1);
  assert.is(relay.mdns(from("br-apps", "10.1.0.2", question), 1_000).length, 1);
});

test("defect: a broadcast keeps a source that can be answered: the sender's stand-in", async () => {
  const { house, relay } = await open();
  const bytes = Uint8Array.of(1, 2, 3);
  const relayed = relay.broadcast(from("br-apps", "10.1.0.2", bytes), 0);
  const standIn = house.isolation.parts.standIns.get("web")![4];
  assert.equal(relayed, [{ device: "br-data", to: "10.2.0.2", from: standIn, bytes }]);
  const back = house.isolation.plan().routes.find((each) => each.source === "10.2.0.2");
  assert.is(back?.standin, standIn, "its answer has a route");
});

test("a broadcast goes to the ports that were given, and tells whose answer would not pass by itself", async () => {
  const house = openHouse({ services });
  const relay = new Relay({ isolation: house.isolation });
  const { standIns } = house.isolation.parts;
  const say = (device: string, source: string, ports: Heard["ports"]) =>
    relay
      .broadcast({ ...from(device, source, Uint8Array.of(1)), ...(ports && { ports }) }, 0)
      .map(({ to, answered }) => [to, answered?.source, answered?.standIn]);
  await house.isolation.connect({
    name: "web",
    peers: ["cast"],
    ports: ["udp/1900", "tcp/80"],
    direction: "out",
  });
  const standIn = standIns.get("cast")!;
  assert.equal(say("br-apps", "10.1.0.2", { source: 5000, destination: 1900 }), [
    ["10.2.0.2", "10.1.0.2", standIn[4]],
  ]);
  assert.equal(say("br-apps", "fd01::2", { source: 5000, destination: 1900 }), [
    ["fd02::2", "fd01::2", standIn[6]],
  ]);
  for (const destination of [80, 1901, 1899])
    assert.equal(say("br-apps", "10.1.0.2", { source: 5000, destination }), [], String(destination));
  assert.equal(say("br-data", "10.2.0.2", { source: 5000, destination: 1900 }), [], "the other way");
  await house.isolation.connect({ name: "cast", peers: ["web"], ports: ["udp/5000"], direction: "out" });
  const open = { source: 5000, destination: 1900 };
  assert.equal(say("br-apps", "10.1.0.2", open), [["10.2.0.2", undefined, undefined]], "it may begin itself");
  assert.is(say("br-apps", "10.1.0.2", { ...open, source: 5001 })[0]![1], "10.1.0.2", "not there");
});

test("rewritten: cut at every length, and with any byte another, it is a message of that length or none", () => {
  const who = {
    own: [address("10.2.0.2"), address("fd02::2")],
    standIn: { 4: address("198.18.0.9"), 6: address("fd00::9") },
  };
  const whole = message(true, [
    aRecord("a.local.", "10.2.0.2"),
    aRecord("a.local.", "fd02::2"),
    aRecord("b.local.", "10.0.0.9"),
  ]);
  for (let length = 0; length < whole.length; length++)
    assert.is(rewritten(whole.slice(0, length), who), undefined, String(length));
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, value) => {
      const bytes = whole.slice();
      bytes[at] = value;
      const out = rewritten(bytes, who);
      assert.ok(out === undefined || out.length <= whole.length);
    }),
    { numRuns: 3_000 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void rewritten(bytes, who)),
    { numRuns: 2_000 },
  );
});

test("rewritten: whatever is in a message, no address of the sender comes through in an address record", () => {
  const own = [address("10.2.0.2"), address("fd02::2")];
  const who = { own, standIn: { 4: address("198.18.0.9"), 6: address("fd00::9") } };
  const any = fc.constantFrom("10.2.0.2", "fd02::2", "10.9.9.9", "fe80::1");
  fc.assert(
    fc.property(fc.array(any, { maxLength: 12 }), (texts) => {
      const out = rewritten(
        message(
          true,
          texts.map((text) => aRecord("a.local.", text)),
        ),
        who,
      )!;
      const shown = decodeMessage(out).answers.flatMap((each) => each.address ?? []);
      assert.ok(shown.every((each) => each === "198.18.0.9" || each === "fd00::9"));
      assert.is(shown.length, texts.filter((text) => own.includes(text as Address)).length);
    }),
  );
});

test.run();
