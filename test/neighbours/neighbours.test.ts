/** Resolution on a link in memory: the ways that a resolver for such links went wrong, each as a test that ours does not. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Address, Mac } from "../../src/lib/address.ts";
import { encodeArpReply } from "../../src/lib/arp.ts";
import { Fault } from "../../src/lib/fault.ts";
import { type Entry, Neighbours, type Outcome } from "../../src/neighbours/neighbours.ts";
import { Machine } from "../fake/machine.ts";
import { hostA, hostB, hostC, lan, macA, macB, macC, ownMac, type Stage, stage, Wire } from "./wire.ts";

const ask = ({ neighbours }: Pick<Stage, "neighbours">, address: Address, timeoutMs = 10_000) =>
  neighbours.resolve({ device: "lan", address, timeoutMs });

/** What a promise came to, without waiting for it. */
function seen<Value>(promise: Promise<Value>): { value?: Value; fault?: Fault } {
  const state: { value?: Value; fault?: Fault } = {};
  promise.then(
    (value) => {
      state.value = value;
    },
    (thrown: Fault) => {
      state.fault = thrown;
    },
  );
  return state;
}

const macOf = (outcome: Outcome<Entry> | undefined) =>
  outcome?.kind === "found" ? outcome.found.mac : outcome && `${outcome.kind}: ${outcome.reason}`;

test("two hosts of three resolve: hostA and hostB are there, hostC is not", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostB] });
  assert.is(macOf(await ask(on, hostA)), macA);
  assert.is(macOf(await ask(on, hostB)), macB);
  const third = seen(ask(on, hostC));
  await on.machine.advance(3_500);
  assert.is(macOf(third.value), "failed: timeout");
});

test("defect 1, lost wake-up: an answer that comes while the question is being sent is heard at once", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const at = on.machine.now();
  assert.is(macOf(await ask(on, hostA)), macA);
  assert.is(on.machine.now(), at);
  on.wire.hosts.push({ mac: macB, addresses: [hostB], delayMs: 70 });
  const late = seen(ask(on, hostB));
  await on.machine.advance(69);
  assert.is(late.value, undefined);
  await on.machine.advance(1);
  assert.is(macOf(late.value), macB);
});

test("defect 2, failure cached: a host that comes up while it is asked for all the time is found in time", async () => {
  // Two minutes of polling, in which the refusals grow to their longest, and some more, to meet each phase of one.
  for (const seconds of [120, 125, 131, 137, 142, 148]) {
    const on = stage();
    for (let second = 0; second < seconds; second++) {
      void seen(ask(on, hostA));
      await on.machine.advance(1_000);
    }
    on.wire.hosts.push({ mac: macA, addresses: [hostA] });
    const upAt = on.machine.now();
    let outcome: Outcome<Entry> | undefined;
    while (outcome?.kind !== "found" && on.machine.now() - upAt < 60_000) {
      const state = seen(ask(on, hostA));
      await on.machine.advance(100);
      outcome = state.value;
    }
    assert.is(macOf(outcome), macA);
    assert.ok(on.machine.now() - upAt < 1_500, `${on.machine.now() - upAt} ms after ${seconds} s`);
  }
});

test("defect 3, success never looked at again: a neighbour in use all the time is asked again, and its new MAC found", async () => {
  const on = stage();
  const host = { mac: macA, addresses: [hostA] };
  on.wire.hosts.push(host);
  await ask(on, hostA);
  on.wire.hosts.splice(0, 1, { mac: macB, addresses: [hostA] });
  for (let second = 0; second < 70; second++) {
    await ask(on, hostA);
    await on.machine.advance(1_000);
  }
  assert.is(macOf(await ask(on, hostA)), macB);
  assert.equal(
    on.events.map((event) => event.kind),
    ["changed", "changed", "moved"],
  );
});

test("defect 4, every lookup after expiry asks: one question serves them", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await ask(on, hostA);
  await on.machine.advance(61_000);
  for (let index = 0; index < 4; index++) await ask(on, hostA);
  assert.is(on.wire.asked(hostA).length, 2);
});

test("defect 5, a lock around the wait: dead addresses wait side by side, hits pass them", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await ask(on, hostA);
  const at = on.machine.now();
  const dead = [hostB, hostC].map((address) => seen(ask(on, address)));
  const order: string[] = [];
  for (let index = 0; index < 1_000; index++) {
    const address = `192.0.2.${100 + (index % 100)}` as Address;
    void ask(on, address).then(
      () => order.push("dead"),
      () => order.push("dead"),
    );
  }
  await ask(on, hostA).then(() => order.push("hit"));
  assert.equal(
    order.filter((each) => each === "hit"),
    ["hit"],
  );
  assert.is(order[0], "hit");
  assert.is(on.machine.now(), at);
  await on.machine.advance(3_000);
  assert.equal(
    dead.map(({ value }) => macOf(value)),
    ["failed: timeout", "failed: timeout"],
  );
});

test("defect 6, cross-link: an answer on another link, or of another sender than it tells, is none", async () => {
  const machine = new Machine();
  const wires = [new Wire(machine), new Wire(machine)];
  const neighbours = new Neighbours(machine, { openLink: ({ ifindex }) => wires[ifindex - 3]! });
  neighbours.link(lan);
  neighbours.link({ ...lan, ifindex: 4, name: "guest" });
  const here = seen(ask({ neighbours }, hostA));
  const there = seen(neighbours.resolve({ device: "guest", address: hostB, timeoutMs: 9_000 }));
  const reply = (senderMac: Mac, sender: Address) =>
    encodeArpReply({ senderMac, sender, target: "0.0.0.0" as Address });
  wires[1]!.deliver(reply(macC, hostA), macC);
  wires[0]!.deliver(reply(macC, hostA), macB);
  wires[0]!.deliver(reply("03:00:00:00:00:01" as Mac, hostA), "03:00:00:00:00:01" as Mac);
  wires[0]!.deliver(reply(ownMac, hostA), ownMac);
  await machine.settle();
  assert.equal([here.value, there.value], [undefined, undefined]);
  assert.equal(neighbours.status.packets, { unasked: 1, sender: 3 });
  wires[0]!.deliver(reply(macA, hostA), macA);
  await machine.settle();
  assert.is(macOf(here.value), macA);
  assert.is(there.value, undefined);
  neighbours.close();
});

test("defect 7, pre-poisoning: an answer before its question, or late, fills nothing", async () => {
  const on = stage();
  const forged = encodeArpReply({ senderMac: macC, sender: hostA, target: "192.0.2.1" as Address });
  // Somebody else is asked for, so that the link is listened to.
  const other = seen(ask(on, hostB));
  on.wire.deliver(forged, macC);
  const state = seen(ask(on, hostA));
  await on.machine.settle();
  assert.is(state.value, undefined);
  await on.machine.advance(20_000);
  assert.is(macOf(state.value), "failed: timeout");
  assert.is(macOf(other.value), "failed: timeout");
  on.wire.deliver(forged, macC);
  await on.machine.advance(30_000);
  const next = seen(ask(on, hostA));
  await on.machine.settle();
  assert.is(next.value, undefined);
  assert.equal([...on.neighbours.entries()], []);
});

test("forged before and after the genuine one: what is known is not replaced unasked", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await ask(on, hostA);
  const dead = seen(ask(on, hostB));
  on.wire.deliver(encodeArpReply({ senderMac: macC, sender: hostA, target: "192.0.2.1" as Address }), macC);
  await on.machine.advance(1_000);
  assert.is(macOf(await ask(on, hostA)), macA);
  await on.machine.advance(5_000);
  assert.ok(dead.value);
});

test("defect 8, unbounded memory: 100,000 forged answers leave nothing behind", async () => {
  const on = stage();
  const open = seen(ask(on, hostB));
  const before = on.neighbours.status;
  for (let index = 0; index < 100_000; index++) {
    const sender = `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}` as Address;
    const senderMac = `02:00:00:${(index >> 16).toString(16).padStart(2, "0")}:00:0c` as Mac;
    on.wire.deliver(encodeArpReply({ senderMac, sender, target: "192.0.2.1" as Address }), senderMac);
  }
  assert.equal({ ...on.neighbours.status, packets: {} }, { ...before, packets: {} });
  assert.equal(on.neighbours.status.packets, { unasked: 100_000 });
  await on.machine.advance(10_000);
  assert.is(macOf(open.value), "failed: timeout");
  assert.is(on.machine.timers <= 1, true);
});

test("defect 9, malformed packets throw: whatever comes is counted, and the link goes on", async () => {
  const on = stage();
  const state = seen(ask(on, hostA));
  const whole = encodeArpReply({ senderMac: macA, sender: hostA, target: "192.0.2.1" as Address });
  let count = 0;
  const send = (packet: Uint8Array) => {
    on.wire.deliver(packet, macC);
    count++;
  };
  for (let end = 0; end < whole.length; end++) send(whole.slice(0, end));
  for (let bit = 0; bit < whole.length * 8; bit++) {
    const copy = whole.slice();
    copy[bit >> 3] = copy[bit >> 3]! ^ (1 << (bit & 7));
    send(copy);
  }
  let seed = 1;
  const next = () => {
    seed = (seed * 16_807) % 2_147_483_647;
    return seed;
  };
  for (let index = 0; index < 2_000; index++) {
    const bytes = Uint8Array.from({ length: index % 90 }, () => next() & 255);
    if (index % 3 === 0) bytes.set(whole.slice(0, 8).subarray(0, bytes.length));
    if (index % 3 === 1 && bytes.length > 7) bytes.set([0x60, 0, 0, 0, 0, 24, 58, 255]);
    send(bytes);
  }
  const dropped = Object.values(on.neighbours.status.packets).reduce((sum, each) => sum + each, 0);
  assert.is(dropped, count);
  on.wire.deliver(whole, macA);
  await on.machine.settle();
  assert.is(macOf(state.value), macA);
});

test("defect 10, use after close: who waits is told, nothing is listened to, and a late packet does nothing", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await ask(on, hostA);
  const waiting = [seen(ask(on, hostB)), seen(ask(on, hostB)), seen(ask(on, hostC))];
  assert.ok(on.wire.listeners > 0);
  on.neighbours.close();
  await on.machine.settle();
  for (const { fault } of waiting) assert.is(fault?.code, "closed");
  assert.is(on.wire.listeners, 0);
  assert.is(on.machine.timers, 0);
  on.wire.deliver(encodeArpReply({ senderMac: macB, sender: hostB, target: "192.0.2.1" as Address }), macB);
  on.neighbours.entry({ ifindex: 3, address: hostB, mac: macB, state: "reachable", router: false }, false);
  on.neighbours.link(lan);
  on.neighbours.wholeTable([]);
  const after = seen(ask(on, hostA));
  await on.machine.settle();
  assert.is(after.fault?.code, "closed");
  on.neighbours.close();
});

test("defect 11, self-deadlock: who hears a packet may resolve on the same link from there", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] }, { mac: macB, addresses: [hostB] });
  const inner: { value?: Outcome<Entry> }[] = [];
  on.wire.onReceive(() => {
    if (inner.length === 0) inner.push(seen(ask(on, hostB)));
  });
  assert.is(macOf(await ask(on, hostA)), macA);
  await on.machine.settle();
  assert.is(macOf(inner[0]?.value), macB);
});

test("defect 12, one question and no more: three, a second apart, and never two within a second", async () => {
  const on = stage();
  const at = on.machine.now();
  const first = seen(ask(on, hostA));
  await on.machine.advance(3_000);
  assert.equal(
    on.wire.asked(hostA).map((each) => each.at - at),
    [0, 1_000, 2_000],
  );
  assert.ok(on.wire.asked(hostA).every(({ to }) => to === "all"));
  assert.is(macOf(first.value), "failed: timeout");
  // Wanted with every means and at every moment for half a minute.
  for (let tick = 0; tick < 150; tick++) {
    void seen(ask(on, hostA, 10));
    void seen(on.neighbours.resolve({ device: "lan", address: hostA, timeoutMs: 5, fresh: tick % 2 === 0 }));
    if (tick % 7 === 0) on.neighbours.evidence(3, hostA);
    await on.machine.advance(200);
  }
  const times = on.wire.asked(hostA).map((each) => each.at);
  for (let index = 1; index < times.length; index++) {
    assert.ok(times[index]! - times[index - 1]! >= 1_000, `${times[index]! - times[index - 1]!} ms`);
  }
  assert.ok(times.length > 25, `${times.length} questions`);
});

test("one who answers is not asked twice within a second either, whoever insists", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const beganAt = on.machine.now();
  for (let tick = 0; tick < 50; tick++) {
    void seen(on.neighbours.resolve({ device: "lan", address: hostA, timeoutMs: 5_000, fresh: true }));
    await on.machine.advance(100);
  }
  assert.equal(
    on.wire.asked(hostA).map(({ at }) => at - beganAt),
    [0, 1_000, 2_000, 3_000, 4_000, 5_000],
  );
});

test("a packet that is lost is made up for: the second question finds the host", async () => {
  const on = stage();
  const state = seen(ask(on, hostA));
  await on.machine.advance(500);
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await on.machine.advance(500);
  assert.is(macOf(state.value), macA);
});

test("defect 13, one waiter woken of several: all who wait share one question and its answer", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA], delayMs: 300 });
  const waiting = Array.from({ length: 64 }, () => seen(ask(on, hostA)));
  const oneTooMany = seen(ask(on, hostA));
  await on.machine.advance(0);
  assert.is(oneTooMany.fault?.code, "limit");
  assert.is(on.neighbours.status.waiting, 64);
  await on.machine.advance(300);
  assert.ok(waiting.every(({ value }) => macOf(value) === macA));
  assert.is(on.wire.asked(hostA).length, 1);
  assert.is(on.neighbours.status.waiting, 0);
});

test("defect 14, coarse timeouts: each caller's own is kept to the millisecond, and ends no question of another", async () => {
  const on = stage();
  const [short, long] = [seen(ask(on, hostA, 37)), seen(ask(on, hostA, 2_500))];
  await on.machine.advance(36);
  assert.is(short.value, undefined);
  await on.machine.advance(1);
  assert.equal(short.value, { kind: "failed", reason: "timeout", retryAfterMs: 0 });
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await on.machine.advance(1_000);
  assert.is(macOf(long.value), macA);
});

test("a refusal is short, doubles to half a minute, is told with its end, and is not made longer by asking", async () => {
  const on = stage();
  const lengths: number[] = [];
  for (let round = 0; round < 6; round++) {
    const state = seen(ask(on, hostA));
    while (!state.value) await on.machine.advance(100);
    const { value } = state;
    assert.ok(value.kind === "failed" && value.reason === "timeout");
    lengths.push(value.retryAfterMs);
    let endAt: number | undefined;
    for (;;) {
      const again = seen(ask(on, hostA));
      await on.machine.settle();
      const outcome = again.value;
      if (outcome?.kind !== "failed") break;
      assert.is(outcome.reason, "negative");
      endAt ??= on.machine.now() + outcome.retryAfterMs;
      assert.is(on.machine.now() + outcome.retryAfterMs, endAt);
      await on.machine.advance(900);
    }
    assert.ok(endAt !== undefined && on.machine.now() >= endAt);
  }
  assert.equal(lengths, [3_000, 6_000, 12_000, 24_000, 30_000, 30_000]);
});

test("without anybody asking nothing is asked behind a refusal, and in the end nothing is kept", async () => {
  const on = stage();
  void seen(ask(on, hostA));
  await on.machine.advance(10_000);
  const sent = on.wire.sent.length;
  assert.ok(sent <= 6, `${sent} questions`);
  await on.machine.advance(120_000);
  assert.is(on.wire.sent.length, sent);
  assert.is(on.neighbours.status.questions, 0);
  assert.is(on.machine.timers, 0);
  assert.is(on.wire.listeners, 0);
});

test("evidence of any kind ends a refusal: who asks next waits for the answer", async () => {
  const on = stage();
  void seen(ask(on, hostA));
  await on.machine.advance(3_000);
  assert.is(macOf(await ask(on, hostA)), "failed: negative");
  on.neighbours.evidence(3, hostA);
  const state = seen(ask(on, hostA));
  await on.machine.settle();
  assert.is(state.value, undefined);
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await on.machine.advance(1_000);
  assert.is(macOf(state.value), macA);
});

test("an answer is good from its confirmation on, whoever uses it: after a minute the next one waits", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const first = await ask(on, hostA);
  assert.ok(first.kind === "found" && first.found.verified && first.found.state === "reachable");
  on.wire.hosts.length = 0;
  for (let second = 0; second < 30; second++) {
    assert.is(macOf(await ask(on, hostA)), macA);
    await on.machine.advance(1_000);
  }
  assert.is(on.wire.asked(hostA).length, 1);
  await on.machine.advance(1_000);
  const aged = await ask(on, hostA);
  assert.ok(aged.kind === "found" && !aged.found.verified && aged.found.state === "stale");
  await on.machine.advance(3_000);
  // Asked again behind that, and nobody there.
  assert.is(macOf(await ask(on, hostA)), "failed: negative");
});

test("fresh takes nothing known, neither an answer nor a refusal", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  const fresh = () => on.neighbours.resolve({ device: "lan", address: hostA, timeoutMs: 5_000, fresh: true });
  await ask(on, hostA);
  await on.machine.advance(1_000);
  assert.is(macOf(await fresh()), macA);
  assert.is(on.wire.asked(hostA).length, 2);
  on.wire.hosts.length = 0;
  const failing = seen(fresh());
  await on.machine.advance(4_000);
  assert.is(macOf(failing.value), "failed: timeout");
  const behind = seen(fresh());
  await on.machine.settle();
  assert.is(behind.value, undefined);
});

test("a link that goes down or away ends its entries and waiters, and its number anew is another link", async () => {
  for (const how of ["down", "gone"] as const) {
    const on = stage();
    on.wire.hosts.push({ mac: macA, addresses: [hostA] });
    await ask(on, hostA);
    const waiting = seen(ask(on, hostB));
    if (how === "down") on.neighbours.link({ ...lan, running: false });
    else on.neighbours.linkGone(3);
    await on.machine.settle();
    assert.is(waiting.fault?.code, "closed", how);
    assert.equal([...on.neighbours.entries()], []);
    const later = seen(ask(on, hostA));
    await on.machine.settle();
    assert.is(later.fault?.code, how === "down" ? "closed" : "not-found");
    on.wire.hosts.length = 0;
    on.neighbours.link(lan);
    const anew = seen(ask(on, hostA));
    await on.machine.settle();
    assert.is(anew.value, undefined, "nothing of before is believed");
    on.neighbours.close();
  }
});

test("a link that flaps while it is asked for all the time resolves again within a second and a half", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  for (let flap = 0; flap < 5; flap++) {
    on.neighbours.link({ ...lan, running: false });
    void seen(ask(on, hostA));
    await on.machine.advance(400);
    on.neighbours.link(lan);
    const state = seen(ask(on, hostA));
    await on.machine.advance(1_000);
    assert.is(macOf(state.value), macA);
  }
});

test("what is no neighbour's address is refused before anything is asked", async () => {
  const on = stage();
  const cases = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::", "::1", "ff02::1", "192.0.2.1"];
  for (const address of cases) {
    const state = seen(ask(on, address as Address));
    await on.machine.settle();
    assert.is(state.fault?.code, "invalid", address);
  }
  const nowhere = seen(on.neighbours.resolve({ device: "__proto__", address: hostA, timeoutMs: 1 }));
  await on.machine.settle();
  assert.is(nowhere.fault?.code, "not-found");
  assert.equal(on.wire.sent, []);
});

test("a question carries our address of the prefix, and nobody's where we have none", async () => {
  const on = stage();
  void seen(ask(on, hostA));
  void seen(ask(on, "198.51.100.7" as Address));
  void seen(ask(on, "2001:db8::77" as Address));
  void seen(ask(on, "2001:db8:5::77" as Address));
  await on.machine.settle();
  assert.equal(
    on.wire.sent.map(({ sender }) => sender),
    ["192.0.2.1", "0.0.0.0", "2001:db8::1", "fe80::ff:fe00:1"],
  );
});

test("a link that refuses is told as what it is, and asked again the next time", async () => {
  const machine = new Machine();
  const wire = new Wire(machine);
  let broken = true;
  const neighbours = new Neighbours(machine, {
    openLink: () => {
      if (broken) throw new Fault("denied", "Cannot open packet socket: not permitted");
      return wire;
    },
  });
  neighbours.link(lan);
  const state = seen(ask({ neighbours }, hostA));
  await machine.settle();
  assert.is(state.fault?.code, "denied");
  broken = false;
  wire.hosts.push({ mac: macA, addresses: [hostA] });
  assert.is(macOf(await ask({ neighbours }, hostA)), macA);
});

test("jumps of the wall clock change nothing; a long sleep of the machine only ages", async () => {
  const on = stage();
  on.wire.hosts.push({ mac: macA, addresses: [hostA] });
  await ask(on, hostA);
  for (const date of [0, 4_102_444_800_000, 1_000]) {
    on.machine.setDate(date);
    assert.is(macOf(await ask(on, hostA)), macA);
  }
  assert.is(on.wire.asked(hostA).length, 1);
  await on.machine.advance(86_400_000);
  assert.is(macOf(await ask(on, hostA)), macA);
  assert.is(on.wire.asked(hostA).length, 2);
});

test("questions are bounded in number: more than allowed are refused, and one at rest gives way", async () => {
  const on = stage({ limits: { maxQuestions: 10 } });
  const first = Array.from({ length: 10 }, (_, index) => seen(ask(on, `192.0.2.${20 + index}` as Address)));
  const beyond = seen(ask(on, hostA));
  await on.machine.settle();
  assert.is(beyond.fault?.code, "limit");
  await on.machine.advance(5_000);
  assert.ok(first.every(({ value }) => value?.kind === "failed"));
  const later = seen(ask(on, hostA));
  await on.machine.settle();
  assert.is(later.fault, undefined);
  assert.is(on.neighbours.status.questions, 10);
});

test("answers that are kept are bounded in number: the one past its best gives way, or it is not kept", async () => {
  const on = stage({ limits: { maxEntries: 2 } });
  on.wire.hosts.push({ mac: macA, addresses: [hostA, hostB, hostC] });
  for (const address of [hostA, hostB, hostC]) assert.is(macOf(await ask(on, address)), macA);
  assert.is(on.neighbours.status.entries, 2);
  assert.is(on.neighbours.status.dropped, 1);
  await on.machine.advance(31_000);
  assert.is(macOf(await ask(on, hostC)), macA);
  assert.is(on.neighbours.status.entries, 2);
});

test.run();
