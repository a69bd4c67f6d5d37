/** The mappings: who gets which number, how long, and what survives. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { EncodeNet } from "../../src/ipref/encoding.ts";
import { sweepMs } from "../../src/ipref/mappings.ts";
import type { StaticRecord } from "../../src/ipref/sources.ts";
import type { Address } from "../../src/lib/address.ts";
import { isStaticReference } from "../../src/lib/reference.ts";
import {
  address,
  codeOf,
  directory,
  ownContext,
  prefix,
  Stage,
  seenByAddress,
  seenByReference,
  use,
} from "./stage.ts";

const peer = address("203.0.113.98");
const hour = 3_600_000;
const lifeMs = 4 * hour;
const restMs = 6 * hour;
const refreshBelowMs = 3 * hour;

const ours = (host: string, reference: bigint): StaticRecord => ({
  ...{ kind: "ours", address: address(host), context: undefined, reference },
});
const theirs = (encoded: string, reference: bigint, context: Address = peer): StaticRecord => ({
  ...{ kind: "theirs", address: address(encoded), context, reference },
});

async function opened(options: ConstructorParameters<typeof Stage>[0] = {}): Promise<Stage> {
  const stage = new Stage(options);
  await stage.open();
  return stage;
}

test("encodedFor: both directions are there when it resolves, and the same host gets the same address", async () => {
  const { mappings } = await opened();
  const encoded = await mappings.encodedFor(peer, 2823n);
  assert.is(await mappings.encodedFor(peer, 2823n), encoded);
  assert.is.not(await mappings.encodedFor(peer, 2824n), encoded);
  const seen = `${encoded} 203.0.113.98 2823`;
  assert.is(seenByAddress(mappings, encoded), seen);
  assert.is(seenByReference(mappings, peer, 2823n), seen);
  assert.equal(mappings.remoteOf(encoded), { context: peer, reference: 2823n });
  assert.is(mappings.remainingMs(encoded), lifeMs);
});

test("referenceFor: a reference is drawn from 68 bits, never below 256, in the drawn half", async () => {
  const { mappings } = await opened();
  const seen = new Set<bigint>();
  for (let host = 1; host <= 200; host++) {
    const reference = await mappings.referenceFor(address(`192.168.97.${host}`));
    assert.ok(reference >= 256n && reference < 1n << 68n && !isStaticReference(reference));
    assert.is(mappings.localOf(reference), `192.168.97.${host}`);
    seen.add(reference);
  }
  assert.is(seen.size, 200);
  assert.is(new Set([...seen].map((each) => each >> 40n)).size, 200);
});

test("nothing is in force before it is durable, and those who ask together share one write", async () => {
  const stage = await opened();
  const { mappings, machine } = stage;
  const asked = Array.from({ length: 500 }, (_, at) => mappings.encodedFor(peer, BigInt(at + 1)));
  assert.is(seenByReference(mappings, peer, 1n), undefined);
  assert.is(mappings.counters.waiting, 500);
  const encoded = await Promise.all(asked);
  assert.is(new Set(encoded).size, 500);
  assert.is(machine.journal.filter((line) => line.includes("mappings.d")).length - 1, 1);
  // What comes while a write is under way goes into the next, all together.
  const first = mappings.referenceFor(address("192.168.97.1"));
  await Promise.resolve();
  const later = [2, 3, 4].map((host) => mappings.referenceFor(address(`192.168.97.${host}`)));
  await Promise.all([first, ...later]);
  assert.ok((await stage.pieces()).length <= 3);
});

test("a disk that refuses: who asks is told, nothing is in force, and the same number comes when it is back", async () => {
  const stage = await opened();
  const { mappings, machine } = stage;
  machine.disk = "full";
  assert.is(await codeOf(mappings.encodedFor(peer, 7n)), "storage");
  assert.is(await codeOf(mappings.encodedFor(peer, 7n)), "storage");
  assert.is(seenByReference(mappings, peer, 7n), undefined);
  const [entry] = [...mappings.entries(0)];
  assert.is(entry!.state, "rest");
  machine.disk = "fine";
  assert.is(await mappings.encodedFor(peer, 7n), entry!.address);
  assert.is(stage.faults.length, 2);
  assert.is(stage.faults[1], "fine");
  await stage.open();
  assert.is(seenByAddress(stage.mappings, entry!.address), `${entry!.address} 203.0.113.98 7`);
});

test("same mappings after kill -9, at once, without anybody asking", async () => {
  const stage = await opened();
  const encoded = await stage.mappings.encodedFor(peer, 2823n);
  const reference = await stage.mappings.referenceFor(address("192.168.97.12"));
  for (const boot of ["b1", "b2", "b2", ""]) {
    stage.boot = boot;
    const mappings = await stage.open();
    assert.equal(stage.damages, []);
    assert.is(seenByAddress(mappings, encoded), `${encoded} 203.0.113.98 2823`);
    assert.is(mappings.localOf(reference), "192.168.97.12");
    assert.is(await mappings.encodedFor(peer, 2823n), encoded);
    assert.ok(mappings.remainingMs(encoded) >= lifeMs);
  }
});

test("life: four hours from the last refresh, which a use makes only when less than three are left", async () => {
  const stage = await opened();
  const { mappings } = stage;
  const encoded = await mappings.encodedFor(peer, 1n);
  use(mappings, encoded);
  await stage.pass(hour - 1_000);
  assert.is(mappings.remainingMs(encoded), lifeMs - hour + 1_000);
  await stage.pass(1_000);
  await stage.pass(lifeMs - hour - 1);
  assert.is(mappings.remainingMs(encoded), 1, "the use was swept up before it was due");
  use(mappings, encoded);
  await stage.pass(1);
  assert.is(mappings.remainingMs(encoded), lifeMs);
  await stage.pass(lifeMs);
  assert.is(mappings.remainingMs(encoded), 0);
  assert.is(seenByAddress(mappings, encoded), undefined);
  assert.is(seenByReference(mappings, peer, 1n), undefined);
});

test("an answer by name never outlives its mapping: three hours are left at least whenever it is asked for", async () => {
  const stage = await opened();
  const encoded = await stage.mappings.encodedFor(peer, 1n);
  for (let step = 0; step < 40; step++) {
    await stage.pass(step * 370_001);
    assert.is(await stage.mappings.encodedFor(peer, 1n), encoded);
    assert.ok(stage.mappings.remainingMs(encoded) >= refreshBelowMs);
  }
});

test("refreshes spare the flash: a mapping in use for two days is written a few times", async () => {
  const stage = await opened();
  const encoded = await stage.mappings.encodedFor(peer, 1n);
  for (let minute = 0; minute < 2 * 24 * 60; minute += 10) {
    use(stage.mappings, encoded);
    await stage.pass(600_000);
  }
  const writes = stage.machine.journal.filter((line) => line.includes("replace ")).length;
  assert.ok(writes >= 8 && writes <= 16, `${writes} writes`);
});

test("a restart in the same boot keeps what was promised, though refreshes were not written one by one", async () => {
  const stage = await opened();
  const encoded = await stage.mappings.encodedFor(peer, 1n);
  let promisedAt = 0;
  for (let step = 0; step < 60; step++) {
    use(stage.mappings, encoded);
    await stage.pass(1_500_000);
    promisedAt = stage.machine.now() + stage.mappings.remainingMs(encoded);
    await stage.open();
    assert.ok(stage.machine.now() + stage.mappings.remainingMs(encoded) >= promisedAt, `step ${step}`);
  }
});

// What the original gateway gets wrong (16.2 of the notes on it).

test("defect 16.2.1: every address of encode nets /17 to /19 works, in the half that is drawn from", async () => {
  for (const [net, low, high] of [
    ["10.240.0.0/17", 16, 127],
    ["10.240.0.0/18", 16, 63],
    ["10.240.0.0/19", 16, 31],
    ["10.240.32.0/19", 32, 63],
    ["10.240.128.0/17", 128, 255],
    ["10.240.0.0/20", 0, 15],
  ] as const) {
    const stage = new Stage({ encodeNet: prefix(net) });
    const mappings = await stage.open();
    const all = await Promise.all(
      Array.from({ length: 300 }, (_, at) => mappings.encodedFor(peer, BigInt(at + 1))),
    );
    assert.is(new Set(all).size, 300);
    for (const encoded of all) {
      assert.ok(mappings.net.has(encoded));
      const byte = Number(encoded.split(".")[2]);
      assert.ok(byte >= low && byte <= high, `${encoded} in ${net}`);
      assert.ok(seenByAddress(mappings, encoded));
    }
  }
  // Where the net's own bits leave no static half, anything may be written down.
  assert.ok(new EncodeNet(prefix("10.240.32.0/19")).isStatic(address("10.240.33.7")));
  assert.not.ok(new EncodeNet(prefix("10.240.0.0/19")).isStatic(address("10.240.17.7")));
  assert.ok(new EncodeNet(prefix("10.240.0.0/19")).isStatic(address("10.240.15.7")));
});

test("a small encode net is used to its last address, which is neither the net's, nor everybody's, nor ours", async () => {
  const stage = new Stage({ encodeNet: prefix("10.9.9.0/28") });
  const mappings = await stage.open();
  const all: string[] = [];
  for (let at = 1; at <= 13; at++) all.push(await mappings.encodedFor(peer, BigInt(at)));
  assert.equal(
    all.map((each) => Number(each.split(".")[3])).sort((a, b) => a - b),
    [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
  );
  assert.is(await codeOf(mappings.encodedFor(peer, 14n)), "limit");
  await stage.pass(lifeMs);
  // Somebody needs the numbers: the longest at rest goes.
  assert.ok(await mappings.encodedFor(peer, 14n));
});

test("defect 16.2.5: a damaged store starts, is reported, and the generation before is used with what came since", async () => {
  const stage = await opened();
  const encoded: Address[] = [];
  for (let at = 1; at <= 1_100; at++) encoded.push(await stage.mappings.encodedFor(peer, BigInt(at)));
  await stage.machine.settle();
  assert.ok(stage.machine.text(`${directory}/mappings.json.old`), "two generations");
  stage.machine.put(`${directory}/mappings.json`, "damaged");
  const mappings = await stage.open();
  assert.is(stage.damages.length, 1);
  assert.match(stage.damages[0]!, /previous generation/);
  for (const [at, each] of encoded.entries()) {
    assert.is(seenByAddress(mappings, each), `${each} 203.0.113.98 ${at + 1}`);
  }
});

test("defect 16.2.6: an expired mapping is revived with its numbers, for six hours", async () => {
  const stage = await opened();
  const { mappings } = stage;
  const encoded = await mappings.encodedFor(peer, 1n);
  const reference = await mappings.referenceFor(address("192.168.97.12"));
  await stage.pass(lifeMs);
  assert.is(mappings.localOf(reference), undefined);
  await stage.pass(restMs - 1);
  assert.is(await mappings.encodedFor(peer, 1n), encoded);
  assert.is(await mappings.referenceFor(address("192.168.97.12")), reference);
  assert.is(mappings.remainingMs(encoded), lifeMs);
  await stage.open();
  assert.ok(seenByAddress(stage.mappings, encoded), "what was revived is durable");
  await stage.pass(2 * lifeMs);
  await stage.pass(restMs);
  await stage.pass(1);
  assert.equal([...stage.mappings.entries(0)], []);
  assert.is(stage.mappings.peers().length, 0);
});

test("defect 16.2.6: at rest over a restart and a reboot the numbers are still the host's", async () => {
  const stage = await opened();
  const encoded = await stage.mappings.encodedFor(peer, 1n);
  await stage.machine.advance(2 * lifeMs + hour);
  await stage.open();
  assert.is(seenByAddress(stage.mappings, encoded), undefined);
  assert.is(await stage.mappings.encodedFor(peer, 1n), encoded);
});

test("defect 16.2.7: a source that goes takes its records with it, and is known again after a restart", async () => {
  const stage = await opened();
  const { mappings } = stage;
  const records = [ours("192.168.97.11", 11n), ours("192.168.97.22", 22n)];
  await mappings.setSource("internal:example.com", records, 0x5fce473ef931d7f1n);
  assert.is(mappings.localOf(11n), "192.168.97.11");
  const again = await stage.open();
  assert.is(again.localOf(22n), "192.168.97.22");
  const { count, hash } = again.source("internal:example.com")!;
  assert.equal([count, hash], [2, 0x5fce473ef931d7f1n]);
  await again.setSource("internal:example.com", []);
  assert.is(again.localOf(11n), undefined);
  assert.is(again.source("internal:example.com"), undefined);
  await stage.open();
  assert.is(stage.mappings.localOf(11n), undefined);
});

test("defect 16.2.8: one reference under two contexts are two mappings, and two changes within a second both count", async () => {
  const stage = await opened();
  const { mappings } = stage;
  const [one, other] = await Promise.all([
    mappings.encodedFor(peer, 5n),
    mappings.encodedFor(address("203.0.113.99"), 5n),
  ]);
  assert.is.not(one, other);
  await stage.open();
  assert.is(await stage.mappings.encodedFor(peer, 5n), one);
  assert.is(await stage.mappings.encodedFor(address("203.0.113.99"), 5n), other);
  await stage.mappings.setSource("z", [ours("192.168.97.1", 1_000n)], 1n);
  await stage.mappings.setSource("z", [ours("192.168.97.2", 1_001n)], 2n);
  assert.is(stage.mappings.localOf(1_000n), undefined);
  assert.is(stage.mappings.localOf(1_001n), "192.168.97.2");
});

test("defect 16.2.9: nonsense gets neither an address nor a reference, and leaves no state", async () => {
  const { mappings } = await opened();
  const contexts = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "10.240.0.1",
    "10.255.255.255",
    ownContext,
    "2001:db8::1",
    "::",
    "ff02::1",
  ];
  for (const context of contexts) {
    assert.is(await codeOf(mappings.encodedFor(address(context), 5n)), "invalid", context);
  }
  for (const reference of [0n, -1n, 1n << 128n]) {
    assert.is(await codeOf(mappings.encodedFor(peer, reference)), "invalid");
  }
  for (const host of [
    "0.0.0.0",
    "127.0.0.1",
    "169.254.3.4",
    "224.0.0.5",
    "255.255.255.255",
    "10.240.3.4",
    "fd00::1",
  ]) {
    assert.is(await codeOf(mappings.referenceFor(address(host))), "invalid", host);
  }
  assert.equal([...mappings.entries(0)], []);
  assert.equal(mappings.peers(), []);
  const sources = await mappings.setSource("hosts:/etc/hosts", [
    ours("224.0.0.1", 5n),
    ours("10.240.0.9", 6n),
    ours("192.168.97.20", 0x2_bf47n),
    ours("192.168.97.1", 1n),
    theirs("10.240.16.5", 5n),
    theirs("192.168.1.6", 6n),
    theirs("10.240.0.1", 7n),
    theirs("10.240.0.0", 8n),
    theirs("10.240.2.9", 9n, address("224.0.0.1")),
    theirs("10.255.255.255", 9n),
    ours("fd00::41", 41n),
    { ...ours("192.168.97.3", 3n), context: peer },
  ]);
  assert.is(sources.length, 12);
  assert.equal([...mappings.entries(0)], []);
});

test("defect 16.2.11: mappings are added, listed and removed at run time, and last", async () => {
  const stage = await opened();
  await stage.mappings.addStatic(ours("192.168.97.11", 2711n));
  await stage.mappings.addStatic(ours("192.168.97.11", 2711n));
  await stage.mappings.addStatic(theirs("10.240.2.98", 2823n));
  assert.is(await codeOf(stage.mappings.addStatic(ours("192.168.97.12", 2711n))), "conflict");
  assert.is(await codeOf(stage.mappings.addStatic(theirs("10.240.2.98", 2824n))), "conflict");
  assert.is(await codeOf(stage.mappings.addStatic(ours("192.168.97.12", 0x1234n))), "invalid");
  const mappings = await stage.open();
  assert.is(mappings.localOf(2711n), "192.168.97.11");
  assert.is(await mappings.encodedFor(peer, 2823n), "10.240.2.98");
  assert.is(mappings.remainingMs(address("10.240.2.98")), Number.POSITIVE_INFINITY);
  assert.equal(
    [...mappings.entries(0)].map(({ state, owner }) => [state, owner]),
    [
      ["static", "user"],
      ["static", "user"],
    ],
  );
  assert.is(await codeOf(mappings.removeStatic(ours("192.168.97.11", 2712n))), "not-found");
  await mappings.removeStatic(ours("192.168.97.11", 2711n));
  await stage.open();
  assert.is(stage.mappings.localOf(2711n), undefined);
  assert.is(await stage.mappings.encodedFor(peer, 2823n), "10.240.2.98");
});

test("addStatic: one that is refused takes nothing of others back who were added meanwhile", async () => {
  const stage = await opened();
  const { mappings } = stage;
  await mappings.setSource("hosts:h", [ours("192.168.97.9", 1n)]);
  await mappings.addStatic(ours("192.168.97.11", 2711n));
  const refused = codeOf(mappings.addStatic(ours("192.168.97.12", 2711n)));
  const added = mappings.addStatic(ours("192.168.97.13", 2713n));
  assert.equal([await refused, await added], ["conflict", undefined]);
  assert.is(mappings.localOf(2713n), "192.168.97.13");
  await stage.open();
  assert.is(stage.mappings.localOf(2711n), "192.168.97.11");
  assert.is(stage.mappings.localOf(2713n), "192.168.97.13");
});

// What is written down beside what was drawn.

test("what is written down goes before what was drawn, and what was drawn goes on in the other direction", async () => {
  const stage = await opened();
  const { mappings } = stage;
  const host = address("192.168.97.11");
  const reference = await mappings.referenceFor(host);
  const encoded = await mappings.encodedFor(peer, 2823n);
  await mappings.setSource("hosts:/etc/hosts", [ours(host, 2711n), theirs("10.240.2.98", 2823n)]);
  assert.is(await mappings.referenceFor(host), 2711n);
  assert.is(mappings.localOf(reference), host, "connections go on");
  assert.is(mappings.localOf(2711n), host);
  assert.is(await mappings.encodedFor(peer, 2823n), "10.240.2.98");
  assert.is(seenByReference(mappings, peer, 2823n), "10.240.2.98 203.0.113.98 2823");
  assert.is(seenByAddress(mappings, encoded), `${encoded} 203.0.113.98 2823`);
  await stage.open();
  await stage.mappings.setSource("hosts:/etc/hosts", [ours(host, 2711n)]);
  assert.is(await stage.mappings.encodedFor(peer, 2823n), encoded, "what was drawn is used again");
  await stage.mappings.setSource("hosts:/etc/hosts", []);
  assert.is(await stage.mappings.referenceFor(host), reference);
});

test("sources: the user first, then hosts files, then others; within one the last says which is sent", async () => {
  const { mappings } = await opened();
  await mappings.setSource("zone", [ours("192.168.97.1", 10n), ours("192.168.97.1", 11n)], 7n);
  assert.is(await mappings.referenceFor(address("192.168.97.1")), 11n);
  const refusals = await mappings.setSource("hosts:/etc/hosts", [
    ours("192.168.97.2", 10n),
    ours("192.168.97.1", 12n),
  ]);
  assert.equal(refusals, []);
  assert.is(mappings.localOf(10n), "192.168.97.2");
  assert.is(mappings.localOf(11n), "192.168.97.1");
  assert.is(await mappings.referenceFor(address("192.168.97.1")), 12n);
  await mappings.addStatic(ours("192.168.97.3", 10n));
  assert.is(mappings.localOf(10n), "192.168.97.3");
  const shown = mappings.sources().map(({ owner, refusals: left }) => [owner, left.length]);
  assert.equal(shown.sort(), [
    ["hosts:/etc/hosts", 1],
    ["user", 0],
    ["zone", 1],
  ]);
});

test("extendSource: batches of one generation add up, another hash replaces all, and records count once", async () => {
  const { mappings } = await opened();
  await mappings.extendSource("local:public", [ours("192.168.97.1", 10n)], 1n);
  await mappings.extendSource("local:public", [ours("192.168.97.2", 11n), ours("192.168.97.1", 10n)], 1n);
  const first = mappings.source("local:public")!;
  assert.equal([first.count, first.hash], [2, 1n]);
  assert.is(mappings.localOf(10n), "192.168.97.1");
  await mappings.extendSource("local:public", [ours("192.168.97.3", 12n)], 2n);
  assert.is(mappings.localOf(10n), undefined);
  assert.is(mappings.localOf(12n), "192.168.97.3");
  const second = mappings.source("local:public")!;
  assert.equal([second.count, second.hash], [1, 2n]);
});

test("a reference that moves to another host is replaced at once", async () => {
  const { mappings } = await opened();
  await mappings.setSource("hosts:h", [ours("192.168.97.1", 10n), theirs("10.240.2.1", 1n)]);
  await mappings.setSource("hosts:h", [ours("192.168.97.2", 10n), theirs("10.240.2.1", 2n)]);
  assert.is(mappings.localOf(10n), "192.168.97.2");
  assert.equal(mappings.remoteOf(address("10.240.2.1")), { context: peer, reference: 2n });
  assert.is([...mappings.entries(0)].length, 2);
});

// Quotas.

test("quota: a peer's packets make half of its mappings at most and push out nothing that is used", async () => {
  const stage = await opened({ maxPerPeer: 8 });
  const { mappings } = stage;
  for (let at = 1; at <= 4; at++) await mappings.encodedFor(peer, BigInt(at), "packet");
  assert.is(await codeOf(mappings.encodedFor(peer, 5n, "packet")), "limit");
  for (let at = 11; at <= 14; at++) await mappings.encodedFor(peer, BigInt(at), "name");
  assert.is(await codeOf(mappings.encodedFor(peer, 15n, "name")), "limit");
  assert.is(await mappings.encodedFor(address("203.0.113.99"), 5n, "packet").then(() => "fine"), "fine");
  await stage.pass(600_000);
  const kept = await mappings.encodedFor(peer, 11n, "name");
  assert.ok(await mappings.encodedFor(peer, 5n, "packet"), "the longest unused of its own packets rests");
  assert.is(seenByReference(mappings, peer, 1n), undefined);
  assert.ok(await mappings.encodedFor(peer, 15n, "name"), "names may push out packets");
  assert.is(seenByReference(mappings, peer, 2n), undefined);
  assert.is(seenByAddress(mappings, kept), `${kept} 203.0.113.98 11`);
  const [{ byPacket, byName, resting }] = mappings.peers() as [ReturnType<typeof mappings.peers>[number]];
  assert.equal([byPacket, byName, resting], [3, 5, 2]);
});

test("quota: the packets of a peer make mappings at a pace", async () => {
  const stage = await opened();
  const asked = Array.from({ length: 1_100 }, (_, at) =>
    codeOf(stage.mappings.encodedFor(peer, BigInt(at + 1), "packet")),
  );
  const codes = await Promise.all(asked);
  assert.is(codes.filter((code) => code === "limit").length, 1_100 - 1_024);
  await stage.pass(1_000);
  assert.is(await codeOf(stage.mappings.encodedFor(peer, 5_000n, "packet")), undefined);
});

test("quota: with all places taken the peer with most at rest gives way, and what is in use stays", async () => {
  const stage = await opened({ maxMappings: 6, maxPeers: 2 });
  const { mappings } = stage;
  for (let at = 1; at <= 6; at++) await mappings.encodedFor(peer, BigInt(at));
  assert.is(await codeOf(mappings.referenceFor(address("192.168.97.1"))), "limit");
  await stage.pass(lifeMs);
  assert.is(mappings.counters.resting, 6);
  assert.ok(await mappings.referenceFor(address("192.168.97.1")));
  assert.is(mappings.counters.resting, 5);
  assert.is(
    [...mappings.entries(0)].find(({ reference }) => reference === 1n),
    undefined,
  );
  await mappings.encodedFor(address("203.0.113.1"), 1n);
  // A third peer takes the slot of one that has nothing in force.
  await mappings.encodedFor(address("203.0.113.2"), 1n);
  assert.equal(
    mappings
      .peers()
      .map(({ context }) => context)
      .sort(),
    ["203.0.113.1", "203.0.113.2"],
  );
  assert.is(await codeOf(mappings.encodedFor(address("203.0.113.3"), 1n)), "limit");
});

test("a peer whose only mapping gives way while it asks for another is still one, and gets it", async () => {
  // In a net that is full; the longest at rest is the asker's own.
  const small = new Stage({ encodeNet: prefix("10.9.9.0/28") });
  let mappings = await small.open();
  const other = address("203.0.113.1");
  await mappings.encodedFor(other, 1n);
  await small.pass(lifeMs);
  for (let at = 1; at <= 12; at++) await mappings.encodedFor(peer, BigInt(at));
  const encoded = await mappings.encodedFor(other, 2n);
  assert.equal(mappings.remoteOf(encoded), { context: other, reference: 2n });
  // With all places taken, at rest and live.
  for (const idleMs of [lifeMs, 600_000]) {
    const full = new Stage({ maxMappings: 1 });
    mappings = await full.open();
    await mappings.encodedFor(other, 1n);
    await full.pass(idleMs);
    const next = await mappings.encodedFor(other, 2n);
    assert.equal(mappings.remoteOf(next), { context: other, reference: 2n });
    assert.equal(
      mappings.peers().map(({ context }) => context),
      [other],
    );
    // The slot was not given away, and is when it is free.
    await full.pass(600_000);
    assert.ok(await mappings.encodedFor(peer, 1n));
    assert.equal(
      mappings.peers().map(({ context }) => context),
      [peer],
    );
  }
});

test("quota: peers that only sent packets leave a quarter to names, and idle ones give way", async () => {
  const stage = await opened({ maxPeers: 8 });
  const { mappings } = stage;
  const from = (last: number) => address(`203.0.113.${last}`);
  const contexts = () => mappings.peers().map(({ context }) => Number(context.split(".")[3]));
  for (let last = 1; last <= 6; last++) {
    await mappings.encodedFor(from(last), 1n, "packet");
    await stage.pass(1_000);
  }
  assert.is(await codeOf(mappings.encodedFor(from(7), 1n, "packet")), "limit");
  assert.ok(await mappings.encodedFor(from(1), 2n, "packet"), "who is there already may have more");
  assert.ok(await mappings.encodedFor(from(11), 1n, "name"));
  assert.ok(await mappings.encodedFor(from(12), 1n, "name"));
  assert.is(await codeOf(mappings.encodedFor(from(13), 1n, "name")), "limit");
  await stage.pass(595_000);
  // The second is idle for ten minutes; the first was used later.
  assert.ok(await mappings.encodedFor(from(13), 1n, "name"));
  assert.equal(contexts(), [1, 3, 4, 5, 6, 11, 12, 13]);
  assert.is(seenByReference(mappings, from(2), 1n), undefined);
  await stage.pass(600_000);
  assert.ok(await mappings.encodedFor(from(14), 1n, "packet"));
  assert.equal(contexts(), [1, 4, 5, 6, 11, 12, 13, 14]);
  // Names do not give way to either.
  for (let last = 21; last <= 24; last++) await mappings.encodedFor(from(last), 1n, "name");
  assert.is(await codeOf(mappings.encodedFor(from(26), 1n, "name")), "limit");
  assert.is(await codeOf(mappings.encodedFor(from(27), 1n, "packet")), "limit");
});

test("knows: gateways that were written down or asked for by name, not those that only sent packets", async () => {
  const stage = await opened();
  const { mappings } = stage;
  await mappings.encodedFor(peer, 5n, "packet");
  assert.not.ok(mappings.knows(peer));
  await mappings.encodedFor(peer, 5n, "name");
  assert.ok(mappings.knows(peer));
  await mappings.setSource("hosts:h", [theirs("10.240.2.1", 2n, address("203.0.113.1"))]);
  assert.ok(mappings.knows(address("203.0.113.1")));
  await stage.pass(sweepMs);
  await stage.open();
  assert.ok(stage.mappings.knows(peer), "also after a restart");
});

test("a changed encode net: what lies outside is left out and told, and drawn anew", async () => {
  const stage = await opened();
  await stage.mappings.encodedFor(peer, 5n);
  const reference = await stage.mappings.referenceFor(address("192.168.97.1"));
  const mappings = await stage.open({ encodeNet: prefix("10.8.0.0/16") });
  assert.match(stage.damages[0]!, /1 stored mappings/);
  assert.match(await mappings.encodedFor(peer, 5n), /^10\.8\./);
  assert.is(await mappings.referenceFor(address("192.168.97.1")), reference);
});

test("IPv6 hosts behind an IPv6 tunnel", async () => {
  const stage = new Stage({
    encodeNet: prefix("fd00:1:2::/48"),
    tunnel: 6,
    context: address("2001:db8:a::97"),
  });
  const mappings = await stage.open();
  const context = address("2001:db8:b::98");
  const encoded = await mappings.encodedFor(context, 2823n);
  assert.ok(mappings.net.has(encoded));
  assert.is(mappings.net.gatewayAddress, "fd00:1:2::1");
  assert.equal(mappings.remoteOf(encoded), { context, reference: 2823n });
  const reference = await mappings.referenceFor(address("fd00:97::11"));
  await stage.open();
  assert.is(await stage.mappings.encodedFor(context, 2823n), encoded);
  assert.is(stage.mappings.localOf(reference), "fd00:97::11");
});

test("EncodeNet: nets that nobody can be encoded in are refused", () => {
  for (const net of [
    "0.0.0.0/0",
    "224.0.0.0/8",
    "127.0.0.0/8",
    "10.0.0.0/29",
    "10.0.0.1/32",
    "ff00::/8",
    "fe80::/64",
  ]) {
    assert.throws(
      () => new EncodeNet(prefix(net)),
      (thrown: { code?: string }) => thrown.code === "invalid",
      net,
    );
  }
});

test("EncodeNet: draw looks at each address of a small net once after the draws, not at thousands", () => {
  for (const [net, most] of [
    ["10.9.9.0/28", 64 + 16],
    ["10.9.0.0/20", 64 + 4_096],
    ["fd00::/124", 64 + 16],
    ["10.0.0.0/8", 64 + 65_536],
    ["fd00::/64", 64 + 65_536],
  ] as const) {
    let asked = 0;
    let drawn = 0;
    const net4 = new EncodeNet(prefix(net));
    const random = (length: number) => {
      drawn++;
      return crypto.getRandomValues(new Uint8Array(length));
    };
    const isFree = () => {
      asked++;
      return false;
    };
    assert.is(net4.draw(random, isFree), undefined, net);
    assert.is(drawn, 64);
    assert.ok(asked <= most, `${net}: ${asked}`);
  }
});

// Everything at random, against the simplest thing that could be right.

interface Promised {
  number: string;
  /** In force until then at least. */
  leastAt: number;
  /** And not for longer. */
  mostAt: number;
}

type Step =
  | { readonly verb: "ask"; readonly host: number }
  | { readonly verb: "use"; readonly host: number }
  | { readonly verb: "pass"; readonly ms: number }
  | { readonly verb: "kill" | "reboot" | "date" | "cut" };

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ verb: fc.constant("ask" as const), host: fc.nat(9) }) },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant("use" as const), host: fc.nat(9) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      verb: fc.constant("pass" as const),
      ms: fc.constantFrom(16_000, 1_000_000, hour, refreshBelowMs, lifeMs, restMs, 30 * hour),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ verb: fc.constantFrom("kill" as const, "reboot" as const, "date" as const) }),
  },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant("cut" as const) }) },
);

/** Even: a remote host; odd: a local one. */
class Model {
  readonly stage: Stage;
  readonly promises = new Map<number, Promised>();
  #boots = 1;

  constructor(seed: number) {
    this.stage = new Stage({ seed });
  }

  async ask(host: number): Promise<void> {
    const { mappings, machine } = this.stage;
    const now = machine.now();
    const number =
      host % 2 === 0
        ? await mappings.encodedFor(peer, BigInt(host + 1))
        : String(await mappings.referenceFor(address(`192.168.97.${host}`)));
    const before = this.promises.get(host);
    if (before && now < before.leastAt + restMs) assert.is(number, before.number, "the same numbers");
    const remainingMs = this.remaining(host, number);
    assert.ok(remainingMs >= refreshBelowMs, "long enough for an answer");
    const leastAt = now + remainingMs;
    this.promises.set(host, { number, leastAt, mostAt: Math.max(before?.mostAt ?? 0, leastAt) });
  }

  remaining(host: number, number: string): number {
    return this.stage.mappings.remainingMs(address(host % 2 === 0 ? number : `192.168.97.${host}`));
  }

  use(host: number): void {
    const promised = this.promises.get(host);
    if (
      !promised ||
      host % 2 === 1 ||
      seenByAddress(this.stage.mappings, promised.number as Address) === undefined
    )
      return;
    use(this.stage.mappings, promised.number as Address);
    const now = this.stage.machine.now();
    this.stage.mappings.sweep(now);
    const remainingMs = this.remaining(host, promised.number);
    assert.ok(remainingMs >= refreshBelowMs);
    promised.leastAt = now + remainingMs;
    promised.mostAt = Math.max(promised.mostAt, promised.leastAt);
  }

  async restart(): Promise<void> {
    await this.stage.machine.settle();
    await this.stage.open();
  }

  /** The newest small file is damaged: what it says is lost, and nothing else. */
  async cut(): Promise<void> {
    const { machine } = this.stage;
    const name = (await this.stage.pieces()).at(-1);
    if (name === undefined) return;
    const path = `${directory}/mappings.d/${name}`;
    const text = machine.text(path)!;
    for (const [host, { number }] of this.promises) {
      if (text.includes(`"T ${number} `) || text.includes(`O 192.168.97.${host} `))
        this.promises.delete(host);
    }
    machine.put(path, text.slice(0, text.length >> 1));
    await this.restart();
    assert.is(this.stage.damages.length, 1);
    await machine.remove(path);
  }

  async step(step: Step): Promise<void> {
    const { machine } = this.stage;
    if (step.verb === "ask") await this.ask(step.host);
    if (step.verb === "use") this.use(step.host);
    if (step.verb === "pass") await this.stage.pass(step.ms);
    if (step.verb === "date") machine.setDate(machine.date() * 0.5);
    if (step.verb === "kill") {
      await this.restart();
      for (const promised of this.promises.values()) promised.mostAt += lifeMs;
    }
    if (step.verb === "reboot") {
      this.stage.boot = `b${++this.#boots}`;
      await this.restart();
      const now = machine.now();
      for (const promised of this.promises.values()) {
        // Whether it rested or not: what no clock can tell begins anew.
        promised.mostAt = Math.max(promised.mostAt + 2 * lifeMs, now + lifeMs);
      }
    }
    if (step.verb === "cut") {
      await this.cut();
      for (const promised of this.promises.values()) promised.mostAt += 2 * lifeMs;
    }
  }

  check(): void {
    const { mappings, machine } = this.stage;
    const now = machine.now();
    for (const [host, { number, leastAt, mostAt }] of this.promises) {
      const isThere =
        host % 2 === 0
          ? seenByAddress(mappings, number as Address) === `${number} ${peer} ${host + 1}`
          : mappings.localOf(BigInt(number)) === `192.168.97.${host}`;
      if (now < leastAt) assert.ok(isThere, `host ${host} is in force as promised`);
      if (isThere && this.stage.boot === "b1" && now >= mostAt + 1)
        assert.unreachable(`host ${host} outlives its end`);
      if (host % 2 === 0) {
        const byReference = seenByReference(mappings, peer, BigInt(host + 1));
        assert.is(byReference !== undefined, isThere, "both directions, or none");
      }
    }
    const entries = [...mappings.entries(0)];
    assert.is(
      new Set(entries.filter(({ kind }) => kind === "theirs").map((each) => each.address)).size,
      entries.filter(({ kind }) => kind === "theirs").length,
    );
    assert.is(mappings.counters.mappings + mappings.counters.resting, entries.length);
  }
}

test("at random: asking, using, time, restarts, reboots, wrong clocks and cut files, against a naive model", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(anyStep, { minLength: 1, maxLength: 40 }),
      fc.integer({ min: 1, max: 1_000 }),
      async (steps, seed) => {
        const model = new Model(seed);
        await model.stage.open();
        for (const step of steps) {
          await model.step(step);
          model.check();
        }
      },
    ),
    { numRuns: 120 },
  );
});

test.run();
