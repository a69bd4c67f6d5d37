/** Delivery to hosts that the kernel has to find: what waits, for how long, and how much of it. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Delivery } from "../../src/agent/delivery.ts";
import { type Address, type Mac, parseAddress, parseMac } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { Machine } from "../fake/machine.ts";

const at = (number: number): Address => parseAddress(`10.1.${number >> 8}.${number & 255}`)!;
const mac = (last: number): Mac => parseMac(`02:00:00:00:00:0${last}`)!;

/** A neighbour table that tests fill, and what it was asked to resolve. */
function street() {
  const machine = new Machine();
  const table = new Map<Address, { readonly mac?: Mac; readonly state: "incomplete" | "failed" | "stale" }>();
  const used: Address[] = [];
  let isClosed = false;
  const refusal: { fault?: Fault } = {};
  const delivery = new Delivery(machine, {
    async use(_, address) {
      if (refusal.fault) throw refusal.fault;
      used.push(address);
      if (!table.has(address)) table.set(address, { state: "incomplete" });
    },
    async read(ifindex, address) {
      const found = table.get(address);
      return found && { ifindex, address, confirmedAgoMs: 0, managed: false, protocol: 0, ...found };
    },
    close: () => {
      isClosed = true;
    },
  });
  const sent: string[] = [];
  const send = (number: number, word = "x") =>
    delivery.deliver({ ifindex: 3, address: at(number) }, (to) => void sent.push(`${word} to ${to[5]}`));
  return { machine, table, used, refusal, delivery, sent, send, isClosed: () => isClosed };
}

test("deliver: what is known goes at once, without a question, for ten seconds", async () => {
  const { machine, table, used, sent, send } = street();
  table.set(at(1), { mac: mac(1), state: "stale" });
  send(1, "first");
  await machine.settle();
  send(1, "second");
  assert.equal(sent, ["first to 1", "second to 1"]);
  assert.equal(used, [at(1)]);
  table.set(at(1), { mac: mac(2), state: "stale" });
  await machine.advance(10_001);
  send(1, "third");
  await machine.settle();
  assert.equal(sent[2], "third to 2", "asked anew");
});

test("deliver: what waits goes in its order when the kernel has found out, and no more of it than may wait", async () => {
  const { machine, table, sent, send, delivery } = street();
  for (let count = 0; count < 20; count++) send(1, String(count));
  await machine.advance(300);
  assert.equal(sent, []);
  table.set(at(1), { mac: mac(1), state: "stale" });
  await machine.advance(1_000);
  assert.equal(
    sent,
    Array.from({ length: 16 }, (_, count) => `${count} to 1`),
  );
  assert.equal(delivery.counters, { sent: 16, unreached: 4, refused: 0 });
});

test("deliver: who does not answer is given up, and may be asked for again", async () => {
  const { machine, table, sent, send, delivery, used } = street();
  send(1);
  await machine.advance(10_000);
  assert.is(delivery.counters.unreached, 1);
  send(2);
  await machine.settle();
  table.set(at(2), { state: "failed" });
  await machine.advance(50);
  assert.is(delivery.counters.unreached, 2, "the kernel gave up before");
  table.set(at(1), { mac: mac(1), state: "stale" });
  send(1);
  await machine.settle();
  assert.equal(sent, ["x to 1"]);
  assert.equal(used, [at(1), at(2), at(1)]);
});

test("deliver: of many unknown ones only some are asked for", async () => {
  const { machine, send, delivery, used } = street();
  for (let number = 1; number <= 1_000; number++) send(number);
  await machine.settle();
  assert.is(used.length, 256);
  assert.is(delivery.counters.unreached, 1_000 - 256);
});

test("meet: makes the kernel ask, for few at a time, and leaves the rest to who has something to send", async () => {
  const { machine, delivery, used, send } = street();
  for (let number = 1; number <= 100; number++) delivery.meet({ ifindex: 3, address: at(number) });
  await machine.settle();
  assert.is(used.length, 16);
  send(500);
  await machine.settle();
  assert.is(used.length, 17);
  await machine.advance(10_000);
  assert.equal(delivery.counters, { sent: 0, unreached: 1, refused: 0 });
});

test("deliver: what the socket or the kernel refuses is counted, and thrown at nobody", async () => {
  const { machine, table, refusal, send, delivery } = street();
  refusal.fault = new Fault("not-found", "Cannot resolve neighbour: no such device");
  send(1);
  await machine.settle();
  assert.is(delivery.counters.unreached, 1);
  delete refusal.fault;
  table.set(at(1), { mac: mac(1), state: "stale" });
  delivery.deliver({ ifindex: 3, address: at(1) }, () => {
    throw new Fault("limit", "Cannot send: message too long");
  });
  await machine.settle();
  assert.is(delivery.counters.refused, 1);
});

test("forget: an interface with the same number is another one", async () => {
  const { machine, table, used, send, delivery } = street();
  table.set(at(1), { mac: mac(1), state: "stale" });
  send(1);
  await machine.settle();
  delivery.forget(30);
  send(1);
  assert.is(used.length, 1);
  delivery.forget(3);
  send(1);
  await machine.settle();
  assert.is(used.length, 2);
});

test("close: what waits is dropped at once, and nothing is asked any more", async () => {
  const { machine, table, sent, send, delivery, used, isClosed } = street();
  send(1);
  await machine.settle();
  delivery.close();
  table.set(at(1), { mac: mac(1), state: "stale" });
  await machine.settle();
  send(1);
  send(2);
  await machine.advance(10_000);
  assert.equal([sent, used, isClosed()], [[], [at(1)], true]);
  assert.is(delivery.counters.unreached, 3);
});

test.run();
