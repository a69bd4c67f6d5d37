/** MQTT 3.1.1 and 5 with a real broker that restarts and stops, and with brokers that lie. */

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openMqtt } from "../../src/system/mqtt.ts";
import type { Clock, Mqtt, MqttOptions } from "../../src/system/system.ts";

const never = (): never => {
  throw new Error("nobody repeats");
};

/** How long the broker may take to let us in, and to hear our farewell. */
const [connectLimitMs, closeLimitMs] = [10_000, 1_000];

/**
 * A clock that runs `speed` times as fast as the wall. What the broker gets done within a limit is done at the pace of
 * this machine: limits run with the wall, or a slow machine fails what it was to show. `impatient` hurries them too.
 */
function clockOf(speed: number, impatient = false): Clock {
  const now = () => performance.now() * speed;
  return {
    now,
    date: () => Date.now(),
    after(delayMs, call) {
      const isLimit = delayMs === connectLimitMs || delayMs === closeLimitMs;
      const timer = setTimeout(call, isLimit && !impatient ? delayMs : delayMs / speed);
      return () => clearTimeout(timer);
    },
    every: never,
  };
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (const endAt = performance.now() + 60_000; !holds(); ) {
    if (performance.now() > endAt) assert.unreachable(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A session with a diary of what its handlers were told. */
function open(
  port: number,
  given: Partial<MqttOptions> & { readonly speed?: number; readonly clock?: Clock } = {},
) {
  const diary: string[] = [];
  const messages: [topic: string, payload: string][] = [];
  const remembered: string[] = [];
  const options: MqttOptions = {
    host: "127.0.0.1",
    port,
    clientId: "test",
    keepaliveSeconds: 60,
    will: { topic: "SPIN/status", payload: "offline" },
    maxQueuedBytes: 64 * 1024,
    ...given,
  };
  const mqtt: Mqtt = openMqtt(
    options,
    {
      onConnect: () => diary.push("connect"),
      onDisconnect: (reason) => diary.push(reason),
      onMessage(topic, payload, retained) {
        messages.push([topic, Buffer.from(payload).toString()]);
        if (retained) remembered.push(topic);
      },
      onRefusal: (topic, reason) => diary.push(`${topic}: ${reason}`),
    },
    given.clock ?? clockOf(given.speed ?? 20),
  );
  opened.push(mqtt);
  return { mqtt, diary, messages, remembered };
}

const directory = mkdtempSync(join(tmpdir(), "mqtt-"));
const opened: Mqtt[] = [];
const children = new Set<ChildProcess>();
const servers = new Set<Server>();
/** Of the servers: they would outlive them. */
const accepted = new Set<Socket>();
let lastPort = 20_000;

/** A real broker on a port, ready. */
async function broker(port: number): Promise<ChildProcess> {
  const file = join(directory, `${port}.conf`);
  writeFileSync(file, `listener ${port} 127.0.0.1\nallow_anonymous true\nuser root\n`);
  const child = spawn("mosquitto", ["-c", file], { stdio: "ignore" });
  children.add(child);
  for (let ready = false; !ready; ) {
    assert.is(child.exitCode, null);
    ready = await new Promise((resolve) => {
      const probe = connect({ host: "127.0.0.1", port }, () => {
        probe.destroy();
        resolve(true);
      });
      probe.on("error", () => setTimeout(() => resolve(false), 10));
    });
  }
  return child;
}

async function stop(child: ChildProcess, signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill(signal);
  await ended;
  children.delete(child);
}

/** Lines of `mosquitto_sub -v`, as they come. */
async function listen(port: number, topic: string): Promise<string[]> {
  const lines: string[] = [];
  const args = ["-p", String(port), "-t", topic, "-v", "-d"];
  const child = spawn("stdbuf", ["-oL", "mosquitto_sub", ...args], { stdio: ["ignore", "pipe", "ignore"] });
  children.add(child);
  let rest = "";
  let subscribed = false;
  child.stdout.on("data", (chunk: Buffer) => {
    const parts = (rest + chunk).split("\n");
    rest = parts.pop()!;
    for (const line of parts) {
      if (line.startsWith("Subscribed")) subscribed = true;
      else if (!line.startsWith("Client ")) lines.push(line);
    }
  });
  await until("mosquitto_sub is subscribed", () => subscribed);
  return lines;
}

/** A broker of ours. The behaviour may be exchanged while it runs. */
async function pretend(behave: (socket: Socket) => void) {
  const part = { behave, sockets: new Set<Socket>(), accepted: 0 };
  const server = createServer((socket) => {
    part.accepted++;
    part.sockets.add(socket);
    accepted.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => {
      part.sockets.delete(socket);
      accepted.delete(socket);
    });
    part.behave(socket);
  });
  servers.add(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(part, { port: (server.address() as AddressInfo).port });
}

type Version = NonNullable<MqttOptions["version"]>;
const versions: readonly Version[] = ["3.1.1", "5"];
const welcome = Buffer.from([0x20, 2, 0, 0]);
const welcome5 = Buffer.from([0x20, 3, 0, 0, 0]);
const honest = (socket: Socket) => socket.once("data", () => socket.write(welcome));
const honest5 = (socket: Socket) => socket.once("data", () => socket.write(welcome5));

/** Calls with each chunk that the client sends, counted from 0. */
function onChunk(socket: Socket, call: (count: number, chunk: Buffer) => void): void {
  let count = 0;
  socket.on("data", (chunk: Buffer) => call(count++, chunk));
}

for (const version of versions) {
  test(`MQTT ${version}: publish reaches subscribers, retained where asked`, async () => {
    const port = ++lastPort;
    await broker(port);
    const { mqtt, diary } = open(port, { version });
    assert.not.ok(mqtt.publish("a", "too early"));
    await until("connected", () => mqtt.connected);
    const live = await listen(port, "#");
    assert.ok(mqtt.publish("SPIN/a", "Ünï\u{1F600}", { retain: true }));
    assert.ok(mqtt.publish("SPIN/b", "passing"));
    assert.ok(mqtt.publish("SPIN/c", ""));
    await until("three messages", () => live.length === 3);
    assert.equal(live, ["SPIN/a Ünï\u{1F600}", "SPIN/b passing", "SPIN/c (null)"]);
    const late = await listen(port, "SPIN/+");
    await until("the retained message", () => late.length === 1);
    assert.equal(late, ["SPIN/a Ünï\u{1F600}"]);
    assert.equal(diary, ["connect"]);
  });
}

for (const version of versions) {
  test(`MQTT ${version}: subscribe brings messages until unsubscribe`, async () => {
    const port = ++lastPort;
    await broker(port);
    const { mqtt, messages, remembered } = open(port, { version });
    mqtt.subscribe("ignored/without/a/session");
    await until("connected", () => mqtt.connected);
    mqtt.publish("x/1", "remembered", { retain: true });
    mqtt.subscribe("x/+");
    await until("the retained message", () => messages.length === 1);
    mqtt.publish("x/2", "live");
    await until("the live message", () => messages.length === 2);
    mqtt.unsubscribe("x/+");
    mqtt.publish("x/3", "unheard");
    mqtt.subscribe("y");
    mqtt.publish("y", "last");
    await until("the last message", () => messages.length === 3);
    assert.equal(messages, [
      ["x/1", "remembered"],
      ["x/2", "live"],
      ["y", "last"],
    ]);
    assert.equal(remembered, ["x/1"]);
  });
}

for (const version of versions) {
  test(`MQTT ${version}: the broker tells of our end: the farewell if we close, the will if we vanish`, async () => {
    const port = ++lastPort;
    await broker(port);
    const cable = await pretend((socket) => {
      const far = connect({ host: "127.0.0.1", port });
      far.on("error", () => {});
      socket.pipe(far).pipe(socket);
      socket.on("close", () => far.destroy());
    });
    const lines = await listen(port, "SPIN/status");
    const { mqtt } = open(cable.port, { version });
    await until("connected", () => mqtt.connected);
    mqtt.publish("SPIN/status", "online", { retain: true });
    await until("online", () => lines.length === 1);
    for (const socket of cable.sockets) socket.destroy();
    await until("the will", () => lines.length === 2);
    await until("connected again", () => mqtt.connected);
    await mqtt.close({ topic: "SPIN/status", payload: "goodbye" });
    await until("the farewell", () => lines.length === 3);
    assert.equal(lines, ["SPIN/status online", "SPIN/status offline", "SPIN/status goodbye"]);
    const late = await listen(port, "SPIN/status");
    await until("the farewell is retained", () => late.length === 1);
    assert.not.ok(mqtt.connected);
    assert.not.ok(mqtt.publish("a", "b"));
    await mqtt.close();
  });
}

for (const version of versions) {
  test(`MQTT ${version}: a broker that restarts is found again, and everything can be sent again`, async () => {
    const port = ++lastPort;
    const first = await broker(port);
    const { mqtt, diary } = open(port, { version });
    await until("connected", () => mqtt.connected);
    await stop(first, "SIGTERM");
    await until("disconnected", () => !mqtt.connected);
    assert.not.ok(mqtt.publish("a", "nobody there"));
    await until("refused", () => diary.some((line) => line.includes("ECONNREFUSED")));
    await broker(port);
    await until("connected again", () => mqtt.connected);
    assert.equal(
      diary.map((line) => line.replace(/^connect .*ECONN.*/, "refused")),
      ["connect", "the broker closed the connection", "refused", "connect"],
    );
    assert.ok(mqtt.publish("a", "b"));
  });
}

test("a broker that stands still takes a bounded amount, is given up, and is found again", async () => {
  const port = ++lastPort;
  const child = await broker(port);
  const { mqtt, diary } = open(port, { keepaliveSeconds: 1 });
  await until("connected", () => mqtt.connected);
  child.kill("SIGSTOP");
  const payload = "x".repeat(10_000);
  let refused = 0;
  for (let round = 0; round < 2_000 && refused < 100; round++) {
    if (!mqtt.publish("a", payload)) refused++;
    assert.ok(mqtt.queuedBytes <= 64 * 1024, `${mqtt.queuedBytes} bytes wait`);
    if (round % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  assert.is(refused, 100);
  await until("given up", () => diary.length > 1);
  assert.match(diary[1]!, /[Kk]eepalive timeout/);
  assert.is(mqtt.queuedBytes, 0);
  child.kill("SIGCONT");
  await until("connected again", () => mqtt.connected);
});

test("a message larger than the queue is refused, and the session stays", async () => {
  const port = ++lastPort;
  await broker(port);
  const { mqtt, diary } = open(port);
  await until("connected", () => mqtt.connected);
  assert.not.ok(mqtt.publish("a", "x".repeat(64 * 1024)));
  assert.ok(mqtt.publish("a", "x".repeat(60 * 1024)));
  assert.equal(diary, ["connect"]);
});

const text = (bytes: string) =>
  Buffer.concat([Buffer.from([0, Buffer.byteLength(bytes)]), Buffer.from(bytes)]);
// User, password, retained will with QoS 0, clean session: 0b1110_0110.
const connects: readonly [Version, readonly Buffer[]][] = [
  ["3.1.1", [text("MQTT"), Buffer.from([4, 0xe6, 0, 42]), text("id"), text("SPIN/status"), text("offline")]],
  [
    "5",
    [
      ...[text("MQTT"), Buffer.from([5, 0xe6, 0, 42])],
      // Receive maximum 1, packets of at most 256 KiB, no topic alias.
      Buffer.from([11, 0x21, 0, 1, 0x27, 0, 4, 0, 0, 0x22, 0, 0]),
      ...[text("id"), Buffer.from([0]), text("SPIN/status"), text("offline")],
    ],
  ],
];

for (const [version, parts] of connects) {
  test(`MQTT ${version}: CONNECT says who we are, what our will is and what we take`, async () => {
    const heard: Buffer[] = [];
    const part = await pretend((socket) => socket.on("data", (chunk: Buffer) => heard.push(chunk)));
    const secrets = async () => ({ password: "p\u00e4ss" });
    open(part.port, { version, username: "us", secrets, clientId: "id", keepaliveSeconds: 42 });
    const packet = Buffer.concat([...parts, text("us"), text("p\u00e4ss")]);
    await until("the packet", () => Buffer.concat(heard).length >= packet.length + 2);
    assert.equal(Buffer.concat(heard), Buffer.concat([Buffer.from([0x10, packet.length]), packet]));
  });
}

type Trick = readonly [why: string, bytes: readonly number[] | undefined, reason: RegExp];

/** What a broker answers to CONNECT; undefined: nothing. */
const tricks: Readonly<Record<Version, readonly Trick[]>> = {
  "3.1.1": [
    ["refuses us", [0x20, 2, 0, 5], /refuses us: not authorized$/],
    ["refuses us for no known reason", [0x20, 2, 0, 99], /refuses us: code 99$/],
    ["answers with a long CONNACK", [0x20, 0xff, 0xff, 0x7f], /no CONNACK/],
    ["remembers a session that we never had", [0x20, 2, 1, 0], /a session that we do not have/],
    ["welcomes us twice", [...welcome, ...welcome], /0x20/],
    ["sends a DISCONNECT", [...welcome, 0xe0, 0], /0xe0/],
    ["sends a topic longer than its message", [...welcome, 0x30, 3, 0xff, 0xff, 65], /cut short/],
    ["sends a message without a topic", [...welcome, 0x30, 0], /cut short/],
    ["sends a message with an empty topic", [...welcome, 0x30, 3, 0, 0, 65], /without a topic/],
    ["grants more than was asked for", [...welcome, 0x90, 3, 0, 1, 1], /not asked for/],
  ],
  "5": [
    ["never heard of version 5", [0x20, 2, 0, 1], /does not speak this version of MQTT$/],
    ["welcomes us as it would another version", [...welcome], /a CONNACK that is none/],
    ["refuses us", [0x20, 3, 0, 0x87, 0], /refuses us: not authorized$/],
    [
      "refuses us with words",
      [0x20, 9, 0, 0x8a, 6, 0x1f, 0, 3, 0x0a, 0x1b, 0x41],
      /refuses us: banned \(\?\?A\)$/,
    ],
    ["answers with a long CONNACK", [0x20, 0xff, 0xff, 0x7f], /no CONNACK/],
    ["has a property twice", [0x20, 9, 0, 0, 6, 0x13, 0, 1, 0x13, 0, 1], /0x13 twice/],
    ["has a property that belongs elsewhere", [0x20, 6, 0, 0, 3, 0x23, 0, 1], /0x23 that does not belong/],
    ["has properties longer than their packet", [0x20, 4, 0, 0, 9, 0x13], /cut short/],
    ["has properties shorter than their packet", [0x20, 4, 0, 0, 0, 0x13], /a CONNACK that is none/],
    ["has properties without end", [0x20, 6, 0, 0, 0xff, 0xff, 0xff, 0xff], /without end/],
    ["takes no packet at all", [0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0], /forbids every packet/],
    ["retains nothing", [0x20, 5, 0, 0, 2, 0x25, 0], /keeps no retained messages/],
    ["welcomes us twice", [...welcome5, ...welcome5], /0x20/],
    ["asks for more proof", [...welcome5, 0xf0, 0], /0xf0/],
    ["says goodbye", [...welcome5, 0xe0, 0], /ended the session$/],
    ["goes for maintenance", [...welcome5, 0xe0, 1, 0x8b], /ended the session: server shutting down$/],
    [
      "goes with words",
      [...welcome5, 0xe0, 9, 0x98, 7, 0x1f, 0, 4, 0xf0, 0x9f, 0x98, 0x80],
      /administrative action \(\u{1f600}\)$/u,
    ],
    ["goes for a reason that is none", [...welcome5, 0xe0, 1, 0x04], /a DISCONNECT for the reason 0x04/],
    ["sends a topic alias", [...welcome5, 0x30, 8, 0, 1, 65, 3, 0x23, 0, 1, 66], /a topic alias/],
    ["sends nothing but a topic alias", [...welcome5, 0x30, 6, 0, 0, 3, 0x23, 0, 1], /without a topic/],
    ["sends a property that is none", [...welcome5, 0x30, 6, 0, 1, 65, 1, 0x7f, 66], /0x7f/],
    ["sends more than we take", [...welcome5, 0x30, 0x81, 0x80, 0x10], /a message of 262145 bytes/],
    ["answers one question twice", [...welcome5, 0x90, 5, 0, 1, 0, 0, 0], /2 answers to one question/],
    ["grants more than was asked for", [...welcome5, 0x90, 4, 0, 1, 0, 2], /not asked for/],
  ],
};

for (const version of versions) {
  const hello = version === "5" ? welcome5 : welcome;
  const both: readonly Trick[] = [
    ["answers with garbage", new Array<number>(1_000).fill(0xa5), /a length without end/],
    ["speaks HTTP", [...Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")], /no CONNACK/],
    ["never answers", undefined, /does not answer/],
    ["announces a length without end", [...hello, 0x30, 0xff, 0xff, 0xff, 0xff], /a length without end/],
    ["sends with QoS 1", [...hello, 0x32, 7, 0, 1, 65, 0, 1, 66, 67], /0x32/],
    ["sends with QoS 2", [...hello, 0x34, 7, 0, 1, 65, 0, 1, 66, 67], /0x34/],
    ["acknowledges what was never sent", [...hello, 0x40, 2, 0, 1], /0x40/],
    ["sends a client's packet", [...hello, 0x82, 6, 0, 1, 0, 1, 65, 0], /0x82/],
    ["answers and answers", [...hello, ...new Array(9_000).fill([0xd0, 0]).flat()], /answers to nothing/],
  ];
  for (const [why, bytes, reason] of [...both, ...tricks[version]]) {
    test(`MQTT ${version}: a broker that ${why} is left, and an honest one after it is found`, async () => {
      const part = await pretend((socket) => bytes && socket.write(Uint8Array.from(bytes)));
      const { mqtt, diary } = open(part.port, { version, clock: clockOf(40, bytes === undefined) });
      await until("left", () => diary.some((line) => line !== "connect"));
      assert.match(diary.find((line) => line !== "connect")!, reason);
      part.behave = version === "5" ? honest5 : honest;
      for (const socket of part.sockets) socket.destroy();
      await until("an honest session", () => mqtt.connected);
      assert.ok(mqtt.publish("a", "b"));
    });
  }
}

for (const [why, behave, reason] of [
  ["closes at once", (socket: Socket) => socket.destroy(), /closed|ECONNRESET/],
  ["closes in order at once", (socket: Socket) => socket.end(), /closed/],
] as const) {
  test(`a broker that ${why} is left, and an honest one after it is found`, async () => {
    const part = await pretend(behave);
    const { mqtt, diary } = open(part.port, { speed: 40 });
    await until("left", () => diary.length > 0);
    assert.match(diary[0]!, reason);
    part.behave = honest;
    await until("an honest session", () => mqtt.connected);
  });
}

test("a giant message of a stranger is heard in part, and the session goes on", async () => {
  const length = 1_000_000;
  const part = await pretend((socket) =>
    onChunk(socket, (count) => {
      if (count === 0) socket.write(welcome);
      if (count !== 1) return;
      socket.write(Uint8Array.of(0x31, 0x80 | (length & 127), 0x80 | ((length >> 7) & 127), length >> 14));
      socket.write(Buffer.concat([Buffer.from([0, 1, 65]), Buffer.alloc(length - 3, 66)]));
      socket.write(Uint8Array.of(0x30, 4, 0, 1, 67, 68));
    }),
  );
  const { mqtt, diary, messages } = open(part.port);
  await until("connected", () => mqtt.connected);
  mqtt.subscribe("#");
  await until("the message after it", () => messages.length === 2);
  assert.equal(messages[0]![1].length, 262_144 - 3);
  assert.equal(messages[1], ["C", "D"]);
  assert.equal(diary, ["connect"]);
});

test("a message whose topic is no text is not heard, and the session goes on", async () => {
  const part = await pretend((socket) =>
    onChunk(socket, (count) => {
      if (count === 0) socket.write(welcome);
      const odd = [0x30, 4, 0, 1, 0xff, 65, 0x30, 4, 0, 1, 0x23, 65, 0x30, 4, 0, 1, 0, 65];
      if (count === 1) socket.write(Uint8Array.from([...odd, 0x30, 4, 0, 1, 67, 68]));
    }),
  );
  const { mqtt, diary, messages } = open(part.port);
  await until("connected", () => mqtt.connected);
  mqtt.subscribe("#");
  await until("the message after them", () => messages.length === 1);
  assert.equal(messages, [["C", "D"]]);
  assert.equal(diary, ["connect"]);
});

test("an MQTT 5 broker that takes little is sent no more than that, and asked as often as it wants", async () => {
  const chunks: Buffer[] = [];
  const part = await pretend((socket) =>
    onChunk(socket, (count, chunk) => {
      chunks.push(chunk);
      // At most 100 bytes, a ping at least each second.
      if (count === 0) socket.write(Uint8Array.of(0x20, 11, 0, 0, 8, 0x27, 0, 0, 0, 100, 0x13, 0, 1));
      if (chunk[0] === 0xc0) socket.write(Uint8Array.of(0xd0, 0));
    }),
  );
  const { mqtt, diary } = open(part.port, { version: "5" });
  await until("connected", () => mqtt.connected);
  assert.is(mqtt.maxMessageBytes, 92);
  assert.not.ok(mqtt.publish("a", "x".repeat(92)));
  assert.ok(mqtt.publish("a", "x".repeat(91)));
  assert.equal(diary, ["connect"]);
  await until("a ping", () => chunks.some((chunk) => chunk[0] === 0xc0));
  assert.ok(Buffer.concat(chunks.slice(1)).length <= 100 + 2 * chunks.length);
});

for (const version of versions) {
  const hello = version === "5" ? welcome5 : welcome;

  test(`MQTT ${version}: a broker that speaks ever so slowly without end is given up`, async () => {
    const part = await pretend((socket) =>
      onChunk(socket, (count) => {
        if (count > 0) return;
        // A message of 262,000 bytes, one every 20 ms.
        socket.write(Uint8Array.of(...hello, 0x30, 0xf0, 0xfe, 0x0f));
        const timer = setInterval(() => socket.write(Uint8Array.of(0)), 20);
        socket.once("close", () => clearInterval(timer));
      }),
    );
    const { diary } = open(part.port, { version, keepaliveSeconds: 1 });
    await until("given up", () => diary.length === 2);
    assert.match(diary[1]!, /[Kk]eepalive timeout/);
  });

  test(`MQTT ${version}: a hundred mad brokers in a row do no harm`, async () => {
    const rest = [0x30, 6, 0, 1, 65, 0, 66, 67, 0x90, 4, 0, 1, 0, 0, 0xb0, 4, 0, 2, 0, 0, 0xd0, 0];
    const [first] = fc.sample(
      fc.array(fc.tuple(fc.nat(400), fc.nat(255), fc.uint8Array({ maxLength: 40 })), {
        minLength: 100,
        maxLength: 100,
      }),
      { numRuns: 1, seed: 7 },
    );
    let round = 0;
    const part = await pretend((socket) => {
      const [at, byte, junk] = first![round++ % 100]!;
      const bytes = Buffer.from([...hello, ...rest, ...junk]);
      if (at % 2 === 0) bytes[(at >> 1) % bytes.length] = byte;
      socket.write(bytes);
      setTimeout(() => socket.destroy(), 5);
    });
    const { mqtt } = open(part.port, { version, speed: 20_000 });
    await until("a hundred", () => round >= 100);
    part.behave = version === "5" ? honest5 : honest;
    await until("an honest session", () => mqtt.connected && mqtt.publish("a", "b"));
  });
}

test("a refused subscription is told, in both versions, and the session goes on", async () => {
  for (const version of versions) {
    const part = await pretend((socket) =>
      onChunk(socket, (count, chunk) => {
        if (count === 0) socket.write(version === "5" ? welcome5 : welcome);
        if (count !== 1) return;
        const [high, low] = [chunk[2]!, chunk[3]!];
        const words = [8, 0x1f, 0, 5, ...Buffer.from("never")];
        if (version === "5") socket.write(Uint8Array.of(0x90, 12, high, low, ...words, 0x87));
        else socket.write(Uint8Array.of(0x90, 3, high, low, 0x80));
      }),
    );
    const { mqtt, diary } = open(part.port, { version });
    await until("connected", () => mqtt.connected);
    mqtt.subscribe("x");
    await until("told", () => diary.length === 2);
    assert.match(diary[1]!, version === "5" ? /^x: .*Not authorized/ : /^x: /);
    assert.ok(mqtt.connected);
  }
});

test("a session taken over by another client is asked for again after a minute, not at once", async () => {
  const delays: number[] = [];
  const clock = clockOf(20);
  const watched: Clock = {
    ...clock,
    after(delayMs, call) {
      delays.push(delayMs);
      return clock.after(delayMs, call);
    },
  };
  const part = await pretend((socket) =>
    onChunk(socket, (count) => socket.write(count === 0 ? welcome5 : Uint8Array.of(0xe0, 1, 0x8e))),
  );
  const { mqtt, diary } = open(part.port, { version: "5", clock: watched });
  await until("connected", () => mqtt.connected);
  delays.length = 0;
  mqtt.publish("a", "b");
  await until("taken over", () => diary.length === 2);
  assert.is(diary[1], "the broker ended the session: another client uses our client id");
  assert.ok(delays.at(-1)! >= 45_000, `again after ${delays.at(-1)} ms`);
});

test("a password without a user, which MQTT 3.1.1 has no room for, is a reason, not an exception", async () => {
  const part = await pretend(honest);
  const { mqtt, diary } = open(part.port, { secrets: async () => ({ password: "alone" }) });
  await until("told", () => diary.length > 0);
  assert.match(diary[0]!, /Username is required/);
  assert.not.ok(mqtt.connected);
});

test("secrets that are not to be had are why there is no session, and are asked for again", async () => {
  const port = ++lastPort;
  await broker(port);
  let asked = 0;
  const secrets = async () => {
    if (++asked < 3) throw new Error("Cannot read /etc/secret: it is not there");
    return {};
  };
  const { mqtt, diary } = open(port, { secrets });
  await until("connected", () => mqtt.connected);
  assert.is(asked, 3);
  assert.equal(diary, ["Cannot read /etc/secret: it is not there", "connect"]);
});

test("answers that were never asked for, but may be sent, do no harm", async () => {
  const odd = [0x90, 3, 0, 9, 0x80, 0xb0, 2, 0, 9, 0x90, 3, 0, 1, 0, 0xd0, 0];
  const unasked = [0x30, 4, 0, 1, 65, 66];
  const part = await pretend((socket) =>
    onChunk(socket, (count) => {
      if (count === 0) socket.write(Uint8Array.from([...welcome, ...unasked, ...odd]));
      if (count === 1) socket.write(Uint8Array.from([...odd, 0x30, 4, 0, 1, 67, 68]));
    }),
  );
  const { mqtt, messages, diary } = open(part.port);
  await until("connected", () => mqtt.connected);
  mqtt.publish("a", "b");
  await until("the message after them", () => messages.length === 1);
  assert.equal(messages, [["C", "D"]]);
  assert.equal(diary, ["connect"]);
});

test("a flood of messages is taken at a bounded rate, and the broker has to wait", async () => {
  let time = 0;
  const timers = new Set<() => void>();
  const frozen: Clock = {
    now: () => time,
    date: () => 0,
    after(delayMs, call) {
      if (delayMs === 0) setImmediate(call);
      else timers.add(call);
      return () => timers.delete(call);
    },
    every: never,
  };
  const message = Buffer.from([0x30, 8, 0, 1, 65, 1, 2, 3, 4, 5]);
  const flood = Buffer.alloc(message.length * 500_000, message);
  const part = await pretend((socket) =>
    onChunk(socket, (count) => count < 2 && socket.write(count === 0 ? welcome : flood)),
  );
  let received = 0;
  const handlers = {
    onConnect: () => void mqtt.publish("give", ""),
    onDisconnect() {},
    onMessage: () => void received++,
  };
  const options = {
    host: "127.0.0.1",
    port: part.port,
    clientId: "x",
    keepaliveSeconds: 60,
    maxQueuedBytes: 100,
  };
  const mqtt: Mqtt = openMqtt({ ...options, will: { topic: "a", payload: "" } }, handlers, frozen);
  /** One second's worth, and what one read may bring on top of it. */
  const most = 4_000 + 65_536 / message.length + 1;
  for (let second = 1; second <= 3; second++) {
    await until("a second's worth", () => received > 4_000 * second);
    let before = -1;
    while (before !== received) {
      before = received;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.ok(received <= most * second, `${received} messages in second ${second}`);
    time += 1_000;
    const due = [...timers];
    timers.clear();
    for (const call of due) call();
  }
  assert.ok([...part.sockets][0]!.writableLength > 0);
  const closed = mqtt.close();
  for (const call of timers) call();
  await closed;
});

test("tries follow each other more and more slowly, at most a minute and a quarter apart", async () => {
  const delays: number[] = [];
  let stopped = false;
  const hasty: Clock = {
    now: () => 0,
    date: () => 0,
    after(delayMs, call) {
      // The limit of a try is not waited for: a refused connection ends sooner.
      if (delayMs === connectLimitMs) return () => {};
      if (delayMs > 0) delays.push(delayMs);
      if (!stopped) setImmediate(call);
      return () => {};
    },
    every: never,
  };
  const reasons: string[] = [];
  const handlers = {
    onConnect() {},
    onDisconnect: (reason: string) => void reasons.push(reason),
    onMessage() {},
  };
  const options = { host: "127.0.0.1", port: 1, clientId: "x", keepaliveSeconds: 60, maxQueuedBytes: 1 };
  const mqtt = openMqtt({ ...options, will: { topic: "a", payload: "" } }, handlers, hasty);
  await until("ten tries", () => delays.length >= 10);
  stopped = true;
  await mqtt.close();
  for (const [index, base] of [1, 2, 4, 8, 16, 32, 60, 60, 60, 60].entries()) {
    const seconds = delays[index]! / 1_000;
    assert.ok(seconds >= base * 0.75 && seconds <= base * 1.25, `try ${index} after ${seconds} s`);
  }
  // Told once: nothing new happened.
  assert.is(reasons.length, 1);
});

test("close ends a try that is under way, and a session that takes no more", async () => {
  const silent = await pretend((socket) => socket.resume());
  const trying = open(silent.port);
  await until("accepted", () => silent.accepted === 1);
  await trying.mqtt.close({ topic: "a", payload: "b" });
  const stuck = await pretend((socket) => {
    socket.once("data", () => {
      socket.write(welcome);
      socket.pause();
    });
  });
  const { mqtt } = open(stuck.port);
  await until("connected", () => mqtt.connected);
  await mqtt.close({ topic: "a", payload: "b" });
  for (const socket of stuck.sockets) socket.resume();
  for (const part of [silent, stuck]) await until("gone", () => part.sockets.size === 0);
  assert.is(silent.accepted + stuck.accepted, 2);
});

test("a host that does not resolve is a reason, not an exception", async () => {
  const { mqtt, diary } = open(1, { host: "no-such-host.invalid" });
  await until("told", () => diary.length === 1);
  assert.match(diary[0]!, /no-such-host/);
  await mqtt.close();
});

test.after(async () => {
  await Promise.all(opened.map((each) => each.close()));
  for (const child of children) child.kill("SIGKILL");
  for (const server of servers) server.close();
  for (const socket of accepted) socket.destroy();
  rmSync(directory, { recursive: true, force: true });
});

test.run();
