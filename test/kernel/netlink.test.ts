/** Netlink: messages, questions and answers; on bytes, on a made-up socket, on the real kernel. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Attributes, encodeAttributes, host } from "../../src/kernel/attribute.ts";
import {
  eachMessage,
  encodeMessage,
  errnoOf,
  Netlink,
  netfilterProtocol,
  routeProtocol,
} from "../../src/kernel/netlink.ts";
import { Fault } from "../../src/lib/fault.ts";
import { faultOf, madeUpMachine, openSystem, pause, sh, toUs } from "./yard.ts";

const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

// ── messages ──

test("eachMessage hands out what encodeMessage wrote, several to a datagram", () => {
  const message = fc.record({
    type: fc.nat(0xffff),
    flags: fc.nat(0xffff),
    sequence: fc.nat(0xffffffff),
    payload: fc.uint8Array({ maxLength: 30 }),
  });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 5 }), (messages) => {
      const seen: unknown[] = [];
      const bytes = Buffer.concat(messages.map(encodeMessage));
      assert.ok(
        eachMessage(bytes, ({ type, flags, sequence, start, end }) =>
          seen.push({ type, flags, sequence, payload: text(bytes.subarray(start, end)) }),
        ),
      );
      assert.equal(
        seen,
        messages.map((each) => ({ ...each, payload: text(each.payload) })),
      );
    }),
  );
});

test("eachMessage hands out the whole messages before a cut, and tells of the cut", () => {
  const one = encodeMessage({ type: 16, flags: 2, sequence: 7, payload: hex("0102030405") });
  const two = Buffer.concat([one, one]);
  for (let end = 0; end <= two.length; end++) {
    let count = 0;
    const whole = eachMessage(two.subarray(0, end), () => count++);
    const bare = 16 + 5;
    const messages = (end >= bare ? 1 : 0) + (end >= one.length + bare ? 1 : 0);
    assert.is(count, messages, `cut at ${end}`);
    const between = end === 0 || (end >= bare && end <= one.length) || end >= one.length + bare;
    assert.is(whole, between, `cut at ${end}`);
  }
});

// ── questions, on a made-up socket ──

const ack = (sequence: number, errno = 0) =>
  toUs(2, sequence, { payload: Buffer.concat([host.bytes32(-errno), new Uint8Array(16)]) });
const done = (sequence: number, flags = 0) => toUs(3, sequence, { payload: host.bytes32(0), flags });
const question = { type: 100, payload: hex("01020304"), verb: "do it" };

test("Netlink.request sends the question and ends with its acknowledgement, not another's", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  let ended = false;
  const request = netlink.request(question).then(() => {
    ended = true;
  });
  assert.is(fake.sent.length, 1);
  assert.equal([fake.sent[0]!.type, fake.sent[0]!.flags, fake.sent[0]!.sequence], [100, 5, 1]);
  fake.answer([ack(2), toUs(2, 1, { payload: host.bytes32(0), to: 78 })]);
  await pause(1);
  assert.not.ok(ended);
  fake.answer([ack(1)]);
  await request;
  assert.is(netlink.counters.stale, 1);
  netlink.close();
});

test("Netlink.requestAll sends many in one datagram, and answers each in its place", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const answered = netlink.requestAll([question, question, question]);
  await pause(1);
  fake.answer([ack(3), ack(2, 17), ack(1)]);
  const outcomes = await answered;
  assert.equal(
    outcomes.map((fault) => fault?.code),
    [undefined, "conflict", undefined],
  );
  assert.equal(await netlink.requestAll([]), []);
  netlink.close();
  const refused = await netlink.requestAll([question, question]);
  assert.equal(
    refused.map((fault) => fault?.code),
    ["closed", "closed"],
  );
});

test("Netlink.request turns the kernel's numbers into Faults, with its words where it has some", async () => {
  const rows = [
    [1, "denied"],
    [2, "not-found"],
    [16, "conflict"],
    [17, "conflict"],
    [95, "unsupported"],
    [122, "unsupported"],
    [22, "kernel"],
    [71, "kernel"],
  ] as const;
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  for (const [errno, code] of rows) {
    const request = netlink.request(question);
    fake.answer([ack(fake.sent.at(-1)!.sequence, errno)]);
    const fault = await faultOf(request);
    assert.is(fault.code, code);
    assert.is(errnoOf(fault), errno);
    assert.match(fault.message, `Cannot do it: the kernel refuses`);
  }
  assert.is(errnoOf(new Fault("kernel", "other")), undefined);
  const request = netlink.request(question);
  const words = encodeAttributes([[1, Buffer.from("no such thing\0")]]);
  const original = Buffer.concat([host.bytes32(20), new Uint8Array(16)]);
  const sequence = fake.sent.at(-1)!.sequence;
  const payload = Buffer.concat([host.bytes32(-2), original, words]);
  fake.answer([toUs(2, sequence, { payload, flags: 0x200 })]);
  assert.is((await faultOf(request)).message, "Cannot do it: no such thing (ENOENT, 2)");
  netlink.close();
});

test("Netlink.dump hands out each message, and begins anew when the table changed under it", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const seen: string[] = [];
  const dump = netlink.dump(question, {
    onMessage: (message) => seen.push(text(message.bytes.subarray(message.start, message.end))),
    onRestart: () => seen.push("restart"),
  });
  await pause(1);
  assert.is(fake.sent[0]!.flags, 0x301);
  fake.answer([toUs(20, 1, { payload: hex("aaaaaaaa"), flags: 2 | 0x10 })]);
  fake.answer([done(1)]);
  await pause(1);
  fake.answer([toUs(20, 2, { payload: hex("bbbbbbbb"), flags: 2 }), done(2)]);
  await dump;
  assert.equal(seen, ["aaaaaaaa", "restart", "bbbbbbbb"]);
  netlink.close();
});

test("Netlink.dump gives up on a table that never holds still", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const dump = faultOf(netlink.dump(question, { onMessage: () => undefined }));
  for (let round = 0; round < 25; round++) {
    await pause(0);
    const last = fake.sent.at(-1);
    if (last) fake.answer([done(last.sequence, 0x10)]);
  }
  assert.is((await dump).code, "conflict");
  assert.is(fake.sent.length, 21);
  netlink.close();
});

test("Netlink: one dump at a time, and a failed one does not stop the next", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const first = faultOf(netlink.dump(question, { onMessage: () => undefined }));
  const second = netlink.dump(question, { onMessage: () => undefined });
  await pause(1);
  assert.is(fake.sent.length, 1);
  fake.answer([ack(1, 1)]);
  assert.is((await first).code, "denied");
  await pause(1);
  assert.is(fake.sent.length, 2);
  fake.answer([done(2)]);
  await second;
  netlink.close();
});

test("Netlink: silence is a timeout, progress is not; a dump that hangs is cut by a new socket", async () => {
  const { fake, system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const request = faultOf(netlink.request(question));
  for (let round = 0; round < 3; round++) fake.advance(2_500);
  assert.is((await request).code, "timeout");
  assert.equal(fake.sockets, [0]);
  fake.answer([ack(1)]);
  assert.is(netlink.counters.stale, 1);

  const dump = faultOf(netlink.dump(question, { onMessage: () => undefined }));
  await pause(1);
  for (let round = 0; round < 5; round++) {
    fake.advance(2_500);
    fake.answer([toUs(20, 2)]);
  }
  assert.equal(fake.sockets, [0], "progress");
  for (let round = 0; round < 3; round++) fake.advance(2_500);
  assert.is((await dump).code, "timeout");
  assert.equal(fake.sockets, [0, 1]);
  netlink.close();
});

test("Netlink: close fails what is open, a broken socket too, and both refuse what comes after", async () => {
  for (const how of ["close", "break"] as const) {
    const { fake, system } = madeUpMachine();
    let broken = 0;
    const netlink = new Netlink(system, { protocol: 0 }, { onClose: () => broken++ });
    const request = faultOf(netlink.request(question));
    if (how === "close") netlink.close();
    else fake.fail(new Fault("closed", "Cannot read: gone"));
    assert.is((await request).code, "closed");
    assert.is((await faultOf(netlink.request(question))).code, "closed");
    assert.is(broken, how === "break" ? 1 : 0);
  }
});

test("Netlink: open questions are bounded", async () => {
  const { system } = madeUpMachine();
  const netlink = new Netlink(system, { protocol: 0 });
  const requests = Array.from({ length: 1_024 }, () => faultOf(netlink.request(question)));
  assert.is((await faultOf(netlink.request(question))).code, "limit");
  netlink.close();
  for (const fault of await Promise.all(requests)) assert.is(fault.code, "closed");
});

test("Netlink: events go to onEvent, overruns are told, garbage is counted and harms nothing", () => {
  const { fake, system } = madeUpMachine();
  const seen: number[] = [];
  let ends = 0;
  let overruns = 0;
  const netlink = new Netlink(
    system,
    { protocol: 0, groups: [1] },
    { onEvent: ({ type }) => seen.push(type), onEventsEnd: () => ends++, onOverrun: () => overruns++ },
  );
  fake.answer([toUs(16, 0, { to: 0 }), toUs(17, 5, { to: 99 })]);
  assert.equal([seen, ends], [[16, 17], 1]);
  fake.overrun();
  fake.answer([toUs(4, 0, { to: 0 })]);
  assert.is(overruns, 2);
  assert.is(netlink.counters.overruns, 2);
  fake.answer([hex("ffffffff")]);
  assert.is(netlink.counters.malformed, 1);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      fake.answer([bytes]);
    }),
  );
  netlink.close();
});

// ── the real kernel ──

test("Netlink.dump reads the real interfaces, and a refused request is a Fault with its number", async () => {
  const netlink = new Netlink(openSystem(), { protocol: routeProtocol });
  sh("ip link add spare type veth peer name erapS");
  const names: (string | undefined)[] = [];
  const attributes = new Attributes(3);
  await netlink.dump(
    { type: 18, payload: new Uint8Array(16), verb: "read links" },
    {
      onMessage: ({ bytes, start, end }) => {
        if (attributes.read(bytes, start + 16, end)) names.push(attributes.text(3));
      },
    },
  );
  assert.equal(names.sort(), ["erapS", "lo", "spare"]);
  // A link that is not there is not to be deleted.
  const payload = Buffer.concat([new Uint8Array(4), host.bytes32(9_999), new Uint8Array(8)]);
  const fault = await faultOf(netlink.request({ type: 17, payload, verb: "delete link" }));
  assert.equal([fault.code, errnoOf(fault)], ["not-found", 19]);
  sh("ip link del spare");
  netlink.close();
});

test("Netlink.request gets the answers before the acknowledgement", async () => {
  const netlink = new Netlink(openSystem(), { protocol: routeProtocol });
  const seen: number[] = [];
  const payload = Buffer.concat([new Uint8Array(4), host.bytes32(1), new Uint8Array(8)]);
  await netlink.request({ type: 18, payload, verb: "read link" }, ({ type }) => seen.push(type));
  assert.equal(seen, [16]);
  netlink.close();
});

test("Netlink: what is not there in this kernel's netfilter is a Fault", async () => {
  const netlink = new Netlink(openSystem(), { protocol: netfilterProtocol });
  const fault = await faultOf(
    netlink.request({ type: 0xee01, payload: new Uint8Array(4), verb: "ask nobody" }),
  );
  assert.ok(errnoOf(fault)! > 0);
  assert.match(fault.message, /^Cannot ask nobody: /);
  netlink.close();
});

test.run();
