/** The machine in memory behaves as the real one where decisions depend on it. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Fault } from "../../src/lib/fault.ts";
import type { StreamHandlers } from "../../src/system/system.ts";
import { Machine } from "./machine.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const text = (content: Uint8Array | undefined) => content && new TextDecoder().decode(content);

async function faultOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, Fault);
    return (error as Fault).code;
  }
  return "no fault";
}

/** Handlers that write down what they are told. */
function recorder(more: Partial<StreamHandlers> = {}) {
  const told: string[] = [];
  const handlers: StreamHandlers = {
    onConnect: () => told.push("connect"),
    onBytes: (content) => told.push(text(content)!),
    onDrain: () => told.push("drain"),
    onClose: (fault) => told.push(fault === undefined ? "close" : `close ${fault.code}`),
    ...more,
  };
  return { told, handlers };
}

test("advance runs timers at their instant, in order, also those that timers set", async () => {
  const machine = new Machine();
  const startAt = machine.now();
  const calls: string[] = [];
  const call = (name: string) => () => calls.push(`${name}@${machine.now() - startAt}`);
  machine.after(20, call("b"));
  machine.after(10, () => {
    call("a")();
    machine.after(5, call("nested"));
  });
  machine.after(20, call("c"));
  const cancel = machine.every(8, call("tick"));
  const never = machine.after(15, call("never"));
  never();
  await machine.advance(20);
  cancel();
  await machine.advance(100);
  assert.equal(calls, ["tick@8", "a@10", "nested@15", "tick@16", "b@20", "c@20"]);
  assert.is(machine.now() - startAt, 120);
  assert.is(machine.timers, 0);
});

test("date goes with the clock, and jumps where the clock does not", async () => {
  const machine = new Machine();
  const before = machine.date();
  await machine.advance(1500);
  assert.is(machine.date() - before, 1500);
  const now = machine.now();
  machine.setDate(86_400_000);
  assert.is(machine.date(), 86_400_000);
  assert.is(machine.now(), now);
});

test("promises settle between two timers", async () => {
  const machine = new Machine();
  const order: string[] = [];
  machine.after(1, () => void machine.read("/x").then(() => order.push("read")));
  machine.after(2, () => order.push("second"));
  await machine.advance(2);
  assert.equal(order, ["read", "second"]);
});

test("files are copies, and keep holds the content before", async () => {
  const machine = new Machine();
  const content = bytes("one");
  await machine.replace("/etc/a", content, { keep: "/etc/a.old" });
  content[0] = 0;
  assert.is(text(await machine.read("/etc/a")), "one");
  assert.is(await machine.read("/etc/a.old"), undefined);
  await machine.replace("/etc/a", bytes("two"), { keep: "/etc/a.old", mode: 0o644 });
  assert.is(machine.text("/etc/a.old"), "one");
  assert.equal(await machine.list("/etc"), ["a", "a.old"]);
  assert.is((await machine.stat("/etc/a"))?.mode, 0o644);
  assert.is((await machine.stat("/etc"))?.isDirectory, true);
  assert.is(await machine.stat("/etc/b"), undefined);
  assert.is(await faultOf(machine.read("/etc/a", 2)), "limit");
  await machine.rename("/etc/a", "/etc/b");
  await machine.remove("/etc/a.old");
  await machine.remove("/etc/nothing");
  assert.equal(await machine.list("/etc"), ["b"]);
  assert.is(await faultOf(machine.rename("/etc/a", "/etc/b")), "not-found");
});

test("a file grows piece by piece under a name of its own, and is read in pieces", async () => {
  const machine = new Machine();
  const writer = await machine.create("/run/c.pcap");
  assert.is(await faultOf(machine.create("/run/c.pcap")), "conflict");
  await writer.write(bytes("one "));
  await writer.write(bytes("two"));
  await writer.close();
  assert.is(machine.text("/run/c.pcap"), "one two");
  assert.is((await machine.stat("/run/c.pcap"))?.mode, 0o600);
  machine.put("/long", new Uint8Array(150_000));
  const lengths: number[] = [];
  for await (const piece of machine.readPieces("/long")) lengths.push(piece.length);
  assert.equal(lengths, [65_536, 65_536, 18_928]);
  machine.disk = "full";
  assert.is(await faultOf(writer.write(bytes("three"))), "storage");
  assert.is(await faultOf(machine.create("/run/d.pcap")), "storage");
  assert.is(await faultOf(machine.readPieces("/none")[Symbol.asyncIterator]().next()), "not-found");
});

test("a full, read-only or broken disk refuses with the file as it was", async () => {
  const machine = new Machine();
  machine.put("/etc/a", "old");
  for (const state of ["full", "read-only", "broken"] as const) {
    machine.disk = state;
    assert.is(await faultOf(machine.replace("/etc/a", bytes("new"))), "storage");
    assert.is(await faultOf(machine.remove("/etc/a")), "storage");
    assert.is(machine.text("/etc/a"), "old");
  }
  assert.is(await faultOf(machine.read("/etc/a")), "storage");
  machine.disk = "fine";
  await machine.replace("/etc/a", bytes("new"));
  assert.is(machine.text("/etc/a"), "new");
});

test("watch tells of a change, a removal and files in a directory", async () => {
  const machine = new Machine();
  let changes = 0;
  const cancel = machine.watch("/etc/a", () => changes++);
  machine.put("/etc/a", "1");
  await machine.settle();
  machine.put("/etc/b", "1");
  await machine.settle();
  await machine.remove("/etc/a");
  await machine.settle();
  assert.is(changes, 2);
  cancel();
  machine.put("/etc/a", "1");
  await machine.settle();
  assert.is(changes, 2);
});

test("run answers from its script and is recorded", async () => {
  const machine = new Machine();
  machine.script(["nft"], { status: 1, stderr: "no" });
  machine.script(["nft", "list"], (_argv, input) => ({ stdout: `listed ${input}` }));
  machine.script(["gone"], new Fault("not-found", "Cannot run gone: no such program"));
  assert.is((await machine.run(["nft", "-f", "-"], { input: "flush" })).status, 1);
  assert.is((await machine.run(["nft", "list", "ruleset"], { input: "x" })).stdout, "listed x");
  assert.is((await machine.run(["other"])).status, 0);
  assert.is(await faultOf(machine.run(["gone"])), "not-found");
  assert.equal(machine.commands[0], { argv: ["nft", "-f", "-"], input: "flush" });
});

test("streams connect, carry, push back and end once on both sides", async () => {
  const machine = new Machine();
  const client = recorder();
  const server = recorder();
  let far: Parameters<Parameters<Machine["listen"]>[1]["accept"]>[0] | undefined;
  const listener = await machine.listen("/run/s", {
    mode: 0o600,
    accept(stream) {
      far = stream;
      return server.handlers;
    },
  });
  const near = machine.connect("/run/s", client.handlers);
  near.write(bytes("early"));
  await machine.settle();
  assert.equal(client.told, ["connect"]);
  assert.equal(server.told, ["early"]);
  assert.is(far?.peer?.uid, 0);
  far!.pause();
  assert.ok(near.write(new Uint8Array(10_000)));
  assert.not.ok(near.write(new Uint8Array(10_000)));
  await machine.settle();
  assert.is(near.queuedBytes, 20_000);
  assert.is(server.told.length, 1);
  far!.resume();
  await machine.settle();
  assert.is(near.queuedBytes, 0);
  assert.is(server.told.length, 3);
  assert.equal(client.told, ["connect", "drain"]);
  near.end();
  await machine.settle();
  near.close();
  await machine.settle();
  assert.is(server.told.filter((each) => each === "close").length, 1);
  assert.is(client.told.filter((each) => each === "close").length, 1);
  assert.is(await faultOf(machine.listen("/run/s", { mode: 0o600, accept: () => undefined })), "conflict");
  await listener.close();
  const late = recorder();
  machine.dial("/run/s", late.handlers);
  await machine.settle();
  assert.equal(late.told, ["close not-found"]);
});

test("a refused connection ends", async () => {
  const machine = new Machine();
  await machine.listen("/run/s", { mode: 0o600, accept: () => undefined });
  const client = recorder();
  machine.connect("/run/s", client.handlers);
  await machine.settle();
  assert.equal(client.told, ["close"]);
});

test("unix datagrams go by name and can be answered; seqpacket goes in pairs", async () => {
  const machine = new Machine();
  const told: string[] = [];
  const quiet = { onOverrun() {}, onClose: () => told.push("close") };
  const server = machine.unix(
    { type: "datagram", bind: "@tas" },
    { ...quiet, onMessage: (content, from) => server.send(bytes(`re: ${text(content)}`), from.name) },
  );
  const client = machine.unix(
    { type: "datagram", connect: "@tas" },
    { ...quiet, onMessage: (content) => told.push(text(content)!) },
  );
  client.send(bytes("hello"));
  await machine.settle();
  assert.equal(told, ["re: hello"]);
  server.close();
  assert.throws(() => client.send(bytes("anybody")), /ECONNREFUSED/);
  machine.unix(
    { type: "seqpacket", bind: "/run/m" },
    {
      ...quiet,
      onMessage() {},
      onAccept: (socket) => ({ ...quiet, onMessage: (content) => socket.send(content) }),
    },
  );
  const caller = machine.unix(
    { type: "seqpacket", connect: "/run/m" },
    { ...quiet, onMessage: (content) => told.push(text(content)!) },
  );
  caller.send(bytes("echo"));
  await machine.settle();
  assert.equal(told, ["re: hello", "close", "echo"]);
  assert.throws(
    () => machine.unix({ type: "seqpacket", bind: "/run/m" }, { ...quiet, onMessage() {} }),
    /EADDRINUSE/,
  );
});

test("netlink: the test plays the kernel", async () => {
  const machine = new Machine();
  const told: string[] = [];
  const socket = machine.netlink(
    { protocol: 0, groups: [1, 5] },
    {
      onMessage: (content) => told.push(text(content)!),
      onOverrun: () => told.push("overrun"),
      onClose: (fault) => told.push(`close ${fault?.code}`),
    },
  );
  const kernel = machine.sockets[0]!;
  kernel.answer = () => [bytes("ack")];
  socket.send(bytes("dump"));
  await machine.settle();
  kernel.overrun();
  kernel.deliver(bytes("event"));
  kernel.close(new Fault("kernel", "Cannot receive: gone"));
  await machine.settle();
  kernel.deliver(bytes("late"));
  assert.equal(told, ["ack", "overrun", "event", "close kernel"]);
  assert.is(text(kernel.sent[0]), "dump");
  assert.throws(() => socket.send(bytes("late")), /closed/);
});

test("mqtt publishes while connected only, and shows what is retained", async () => {
  const machine = new Machine();
  const told: string[] = [];
  const mqtt = machine.mqtt(
    {
      host: "127.0.0.1",
      port: 1883,
      clientId: "gatehouse",
      keepaliveSeconds: 30,
      will: { topic: "SPIN/status", payload: "gone" },
      maxQueuedBytes: 100,
    },
    {
      onConnect: () => told.push("connect"),
      onDisconnect: (reason) => told.push(reason),
      onMessage: (topic, payload) => told.push(`${topic} ${text(payload)}`),
    },
  );
  const broker = machine.sessions[0]!;
  assert.not.ok(mqtt.publish("a", "1"));
  broker.accept();
  assert.ok(mqtt.publish("a", "1", { retain: true }));
  assert.ok(mqtt.publish("b", "2"));
  assert.not.ok(mqtt.publish("b", "x".repeat(101)));
  mqtt.subscribe("SPIN/commands");
  broker.deliver("SPIN/commands", "get");
  broker.lose("keepalive");
  assert.not.ok(mqtt.connected);
  assert.equal([...broker.retained], [["a", "1"]]);
  assert.equal(told, ["connect", "SPIN/commands get", "keepalive"]);
});

test("random is repeatable by its seed", () => {
  assert.equal(new Machine({ seed: 7 }).random(32), new Machine({ seed: 7 }).random(32));
  assert.not.equal(new Machine({ seed: 7 }).random(32), new Machine({ seed: 8 }).random(32));
});

test("the machine prints what was done to it", async () => {
  const machine = new Machine();
  await machine.run(["nft", "-f", "-"], { input: "flush ruleset\nadd table x\n" });
  await machine.advance(250);
  machine.log("warning", "careful");
  await machine.replace("/etc/gatehouse/a.json", bytes('{\n  "x": 1\n}\n'));
  assert.is(
    String(machine),
    [
      "1000 run nft -f -",
      "    flush ruleset",
      "    add table x",
      "1250 log warning careful",
      "1250 replace /etc/gatehouse/a.json (13 bytes)",
      "file /etc/gatehouse/a.json 0600",
      "    {",
      '      "x": 1',
      "    }",
      "",
    ].join("\n"),
  );
});

test.run();
