/** MQTT with a real broker that restarts and stops, and with brokers that lie. */

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Guard, openMqtt } from "../../src/system/mqtt.ts";
import type { Clock, Mqtt, MqttOptions } from "../../src/system/system.ts";

const never = (): never => {
  throw new Error("nobody repeats");
};

/** A clock that runs `speed` times as fast as the wall. */
function clockOf(speed: number): Clock {
  const now = () => performance.now() * speed;
  return {
    now,
    date: () => Date.now(),
    after(delayMs, call) {
      const timer = setTimeout(call, delayMs / speed);
      return () => clearTimeout(timer);
    },
    every: never,
  };
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    if (tries >= 1_500) assert.unreachable(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A session with a diary of what its handlers were told. */
function open(port: number, given: Partial<MqttOptions> & { speed?: number } = {}) {
  const diary: string[] = [];
  const messages: [topic: string, payload: string][] = [];
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
      onMessage: (topic, payload) => messages.push([topic, Buffer.from(payload).toString()]),
    },
    clockOf(given.speed ?? 20),
  );
  opened.push(mqtt);
  return { mqtt, diary, messages };
}

const directory = mkdtempSync(join(tmpdir(), "mqtt-"));
const opened: Mqtt[] = [];
const children = new Set<ChildProcess>();
const servers = new Set<Server>();
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
    socket.on("error", () => {});
    socket.on("close", () => part.sockets.delete(socket));
    part.behave(socket);
  });
  servers.add(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(part, { port: (server.address() as AddressInfo).port });
}

const welcome = Buffer.from([0x20, 2, 0, 0]);
const honest = (socket: Socket) => socket.once("data", () => socket.write(welcome));

test("publish reaches subscribers, retained where asked", async () => {
  const port = ++lastPort;
  await broker(port);
  const { mqtt, diary } = open(port);
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

test("subscribe brings messages until unsubscribe", async () => {
  const port = ++lastPort;
  await broker(port);
  const { mqtt, messages } = open(port);
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
});

test("the broker tells of our end: the farewell if we close, the will if we vanish", async () => {
  const port = ++lastPort;
  await broker(port);
  const cable = await pretend((socket) => {
    const far = connect({ host: "127.0.0.1", port });
    far.on("error", () => {});
    socket.pipe(far).pipe(socket);
    socket.on("close", () => far.destroy());
  });
  const lines = await listen(port, "SPIN/status");
  const { mqtt } = open(cable.port);
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

test("a broker that restarts is found again, and everything can be sent again", async () => {
  const port = ++lastPort;
  const first = await broker(port);
  const { mqtt, diary } = open(port);
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

test("CONNECT says who we are and what our will is", async () => {
  const heard: Buffer[] = [];
  const part = await pretend((socket) => socket.on("data", (chunk: Buffer) => heard.push(chunk)));
  open(part.port, { username: "us", password: "p\u00e4ss", clientId: "id", keepaliveSeconds: 42 });
  await until("a packet", () => Buffer.concat(heard).length >= 2);
  const text = (bytes: string) =>
    Buffer.concat([Buffer.from([0, Buffer.byteLength(bytes)]), Buffer.from(bytes)]);
  // User, password, retained will with QoS 0, clean session: 0b1110_0110.
  const body = [Buffer.from([0, 4]), Buffer.from("MQTT"), Buffer.from([4, 0xe6, 0, 42])];
  const rest = ["id", "SPIN/status", "offline", "us", "p\u00e4ss"].map(text);
  const packet = Buffer.concat([...body, ...rest]);
  await until("the packet", () => Buffer.concat(heard).length >= packet.length + 2);
  assert.equal(Buffer.concat(heard), Buffer.concat([Buffer.from([0x10, packet.length]), packet]));
});

const hostile: readonly [why: string, behave: (socket: Socket) => void, reason: RegExp][] = [
  ["closes at once", (socket) => socket.destroy(), /closed|ECONNRESET/],
  ["closes in order at once", (socket) => socket.end(), /closed/],
  ["never answers", () => {}, /does not answer/],
  ["answers with garbage", (socket) => socket.write(Buffer.alloc(1_000, 0xa5)), /a length without end/],
  ["speaks HTTP", (socket) => socket.write("HTTP/1.1 400 Bad Request\r\n\r\n"), /no CONNACK/],
  ["refuses us", (socket) => socket.write(Buffer.from([0x20, 2, 0, 5])), /Not authorized/],
  ["refuses us for no known reason", (socket) => socket.write(Buffer.from([0x20, 2, 0, 99])), /refused/],
  [
    "answers with a long CONNACK",
    (socket) => socket.write(Buffer.from([0x20, 0xff, 0xff, 0x7f])),
    /no CONNACK/,
  ],
  ["welcomes us twice", (socket) => socket.write(Buffer.concat([welcome, welcome])), /0x20/],
  [
    "announces a giant message",
    (socket) => socket.write(Buffer.from([...welcome, 0x30, 0xff, 0xff, 0xff, 0x7f])),
    /a message of 268435455 bytes/,
  ],
  [
    "announces a length without end",
    (socket) => socket.write(Buffer.from([...welcome, 0x30, 0xff, 0xff, 0xff, 0xff])),
    /a length without end/,
  ],
  [
    "sends with QoS 1",
    (socket) => socket.write(Buffer.from([...welcome, 0x32, 7, 0, 1, 65, 0, 1, 66, 67])),
    /0x32/,
  ],
  [
    "sends with QoS 2",
    (socket) => socket.write(Buffer.from([...welcome, 0x34, 7, 0, 1, 65, 0, 1, 66, 67])),
    /0x34/,
  ],
  [
    "acknowledges what was never sent",
    (socket) => socket.write(Buffer.from([...welcome, 0x40, 2, 0, 1])),
    /0x40/,
  ],
  [
    "sends a client's packet",
    (socket) => socket.write(Buffer.from([...welcome, 0x82, 6, 0, 1, 0, 1, 65, 0])),
    /0x82/,
  ],
  [
    "sends a topic longer than its message",
    (socket) => socket.write(Buffer.from([...welcome, 0x30, 3, 0xff, 0xff, 65])),
    /topic/,
  ],
  [
    "sends a message without a topic",
    (socket) => socket.write(Buffer.from([...welcome, 0x30, 0])),
    /topic|Cannot/,
  ],
  [
    "answers and answers",
    (socket) => socket.write(Buffer.concat([welcome, Buffer.alloc(50_000, Buffer.from([0xd0, 0]))])),
    /answers to nothing/,
  ],
];

for (const [why, behave, reason] of hostile) {
  test(`a broker that ${why} is left, and an honest one after it is found`, async () => {
    const part = await pretend(behave);
    const { mqtt, diary } = open(part.port, { speed: 40 });
    await until("left", () => diary.some((line) => line !== "connect"));
    assert.match(diary.find((line) => line !== "connect")!, reason);
    part.behave = honest;
    for (const socket of part.sockets) socket.destroy();
    await until("an honest session", () => mqtt.connected);
    assert.ok(mqtt.publish("a", "b"));
  });
}

test("answers that were never asked for, but may be sent, do no harm", async () => {
  const part = await pretend((socket) =>
    socket.write(
      Buffer.from([
        ...welcome,
        0x90,
        3,
        0,
        9,
        0x80,
        0xb0,
        2,
        0,
        9,
        0x90,
        3,
        0,
        1,
        0,
        0xd0,
        0,
        0x30,
        4,
        0,
        1,
        65,
        66,
      ]),
    ),
  );
  const { mqtt, messages } = open(part.port);
  await until("the message after them", () => messages.length === 1);
  assert.equal(messages, [["A", "B"]]);
  assert.ok(mqtt.connected);
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
  const part = await pretend((socket) => socket.write(Buffer.concat([welcome, flood])));
  let received = 0;
  const handlers = { onConnect() {}, onDisconnect() {}, onMessage: () => void received++ };
  const options = {
    host: "127.0.0.1",
    port: part.port,
    clientId: "x",
    keepaliveSeconds: 60,
    maxQueuedBytes: 1,
  };
  const mqtt = openMqtt({ ...options, will: { topic: "a", payload: "" } }, handlers, frozen);
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
      if (delayMs === 10_000) return () => {};
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

const sane = [...welcome, 0x30, 4, 0, 1, 65, 66, 0x90, 3, 0, 1, 0, 0xb0, 2, 0, 2, 0xd0, 0];

test("Guard judges alike however the bytes are cut", () => {
  const long = [...sane, 0x31, 0x80, 0x02, 0, 1, 65, ...new Array<number>(253).fill(1), 0xd0, 0];
  const bad = [...long, 0xe0, 0];
  for (const [bytes, verdict] of [
    [sane, "good"],
    [long, "good"],
    [bad, "wrong"],
  ] as const) {
    for (let at = 0; at <= bytes.length; at++) {
      const guard = new Guard();
      const verdicts = [bytes.slice(0, at), bytes.slice(at)].map(
        (part) => guard.check(Uint8Array.from(part), 0).kind,
      );
      assert.ok(verdicts.includes(verdict), `cut at ${at}`);
    }
    const guard = new Guard();
    const verdicts = bytes.map((byte) => guard.check(Uint8Array.of(byte), 0).kind);
    assert.is(verdicts.includes("wrong"), verdict === "wrong");
  }
});

test("Guard takes any bytes without throwing, and no packet type that a broker may not send", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(sane.length - 1), fc.nat(255), (tail, at, byte) => {
      const bytes = Uint8Array.from([...sane, ...tail]);
      bytes[at] = byte;
      assert.ok(["good", "wait", "wrong"].includes(new Guard().check(bytes, 0).kind));
    }),
  );
  for (let head = 0; head < 256; head++) {
    const verdict = new Guard().check(Uint8Array.from([...welcome, head, 3]), 0);
    assert.is(
      verdict.kind,
      head === 0x30 || head === 0x31 || head === 0x90 ? "good" : "wrong",
      `0x${head.toString(16)}`,
    );
  }
});

test("Guard counts a second's bytes, and begins anew after it", () => {
  const guard = new Guard();
  guard.check(welcome, 0);
  const message = Uint8Array.from([0x30, 0x80, 0x80, 0x08, ...new Uint8Array(131_072)]);
  const kinds = Array.from({ length: 33 }, () => guard.check(message, 400).kind);
  assert.equal([...new Set(kinds.slice(0, 31))], ["good"]);
  assert.equal(guard.check(message, 400), { kind: "wait", delayMs: 600 });
  assert.is(guard.check(message, 1_000).kind, "good");
});

test.after(async () => {
  await Promise.all(opened.map((each) => each.close()));
  for (const child of children) child.kill("SIGKILL");
  for (const server of servers) server.close();
  rmSync(directory, { recursive: true, force: true });
});

test.run();
