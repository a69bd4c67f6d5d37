/** What MQTT clients see: SPIN's recorded shapes, and a broker that is away, slow, forgetful or full of old topics. */

import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { NodeInfo, TrafficFlow } from "../../src/lib/spin.ts";
import { Publish, renderNode, renderTraffic } from "../../src/publish/publish.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { Machine } from "../fake/machine.ts";

/** What a running spind published: retained or not, topic, payload. */
const recorded = readFileSync(join(process.cwd(), "test/publish/fixtures/spin-mqtt.txt"), "utf8")
  .split("\n")
  .filter((line) => line !== "")
  .map((line) => {
    const [, retain, topic, payload] = /^r=([01]) (\S+) (.*)$/.exec(line)!;
    return { retained: retain === "1", topic: topic!, payload: payload! };
  });
const payloadsOf = (command: string) =>
  recorded.filter((each) => each.payload.startsWith(`{"command":"${command}"`)).map((each) => each.payload);

const flow: TrafficFlow = {
  from: 9,
  to: 10,
  protocol: 6,
  from_port: 55_516,
  to_port: 80,
  size: 2_654,
  count: 10,
};
const nodeOf = (id: number, rest: Partial<NodeInfo> = {}): NodeInfo => ({
  id,
  lastseen: 1_795_228_676,
  ips: [`10.0.${id >> 8}.${id & 255}`],
  domains: [],
  ...rest,
});

/** A publisher over rooms that say what the test wants. */
function make(
  system: System,
  options: { ids?: Iterable<number>; maxQueuedBytes?: number; port?: number } = {},
) {
  const nodes = new Map([...(options.ids ?? [])].map((id) => [id, nodeOf(id)]));
  const aliases = new Map<number, number>();
  const lists = new Map<string, string[]>();
  let traffic: TrafficFlow[] = [];
  const publish = new Publish(system, {
    prefix: "SPIN",
    broker: {
      host: "127.0.0.1",
      port: options.port ?? 1883,
      clientId: "gatehouse",
      keepaliveSeconds: 60,
      maxQueuedBytes: options.maxQueuedBytes ?? 262_144,
    },
    nodeIds: () => nodes.keys(),
    node: (id) => nodes.get(aliases.get(id) ?? id),
    takeTraffic() {
      const taken = traffic;
      traffic = [];
      return taken;
    },
    lists: ["block", "ignore", "allow"],
    listed: (list) => lists.get(list) ?? [],
  });
  return { publish, nodes, aliases, lists, add: (...flows: TrafficFlow[]) => traffic.push(...flows) };
}

/** The same on a fake machine, with its broker's session. */
function fake(options: { ids?: Iterable<number>; maxQueuedBytes?: number } = {}) {
  const machine = new Machine();
  const parts = make(machine, options);
  const session = machine.sessions[0]!;
  let from = 0;
  /** What went out since the last look. */
  const news = () => {
    const lines = session.published.slice(from);
    from = session.published.length;
    return lines.map((each) => `${each.retain ? "r " : ""}${each.topic} ${each.payload}`);
  };
  const tick = () => {
    parts.publish.tick(machine.now());
    return news();
  };
  return { ...parts, machine, session, news, tick };
}

test("renderNode writes every node that spind wrote, to the letter", () => {
  const payloads = payloadsOf("nodeInfo");
  assert.ok(payloads.length > 10);
  for (const payload of payloads) assert.is(renderNode(JSON.parse(payload).result), payload);
  for (const field of ["name", "mac", "is_blocked", "is_excepted"]) {
    const full = { ...nodeOf(1), name: "x", mac: "02:77:00:00:00:12", is_blocked: true, is_excepted: true };
    assert.match(renderNode(full), `"${field}":`);
    assert.not.match(renderNode(nodeOf(1)), `"${field}":`);
  }
});

test("renderNode keeps SPIN's field order, whatever order the room has", () => {
  const { id, lastseen, ips, domains } = nodeOf(4);
  const odd = { domains, is_excepted: true, ips, is_blocked: true, lastseen, mac: "m", name: "n", id };
  assert.is(
    renderNode(odd),
    '{"command":"nodeInfo","result":{"id":4,"name":"n","mac":"m","is_blocked":true,"is_excepted":true,"lastseen":1795228676,"ips":["10.0.0.4"],"domains":[]}}',
  );
});

test("renderTraffic writes every traffic message that spind wrote, to the letter", () => {
  const payloads = payloadsOf("traffic");
  assert.ok(payloads.length >= 2);
  for (const payload of payloads) {
    const { flows, timestamp } = JSON.parse(payload).result;
    assert.is(renderTraffic(flows, timestamp), payload);
  }
});

test("renderTraffic never writes a number that is no integer", () => {
  const huge = { ...flow, size: Number.MAX_SAFE_INTEGER };
  assert.match(renderTraffic([huge, huge], 1), '"total_size":9007199254740991,');
});

for (const name of ["__proto__", "a\nb", '"}', "$(x)", "\u0000\u001b[31m", "\ud800", "\uffff".repeat(255)]) {
  test(`a node named ${JSON.stringify(name.slice(0, 9))} stays one line of text`, () => {
    const payload = renderNode(nodeOf(1, { name, domains: [`${name}.`] }));
    assert.not.match(payload, /[\u0000-\u001f]/);
    assert.is(JSON.parse(payload).result.name, name);
    assert.equal(JSON.parse(payload).result.domains, [`${name}.`]);
  });
}

test("renderNode is JSON with the node's own fields, for any node", () => {
  const node = fc.record({
    id: fc.nat(),
    name: fc.string({ unit: "binary" }),
    lastseen: fc.nat(),
    ips: fc.array(fc.ipV4()),
    domains: fc.array(fc.string({ unit: "binary" })),
  });
  fc.assert(fc.property(node, (each) => assert.equal(JSON.parse(renderNode(each)).result, { ...each })));
});

test("a new session gets status, restart, lists, then nodes; the will is offline", () => {
  const { session, lists, tick, news } = fake({ ids: [1, 2] });
  lists.set("block", ["10.77.0.12", "fd77::12"]);
  assert.equal(session.options.will, { topic: "SPIN/status", payload: "offline" });
  session.accept();
  assert.equal(news(), ["r SPIN/status online", `SPIN/traffic ${payloadsOf("serverRestart")[0]}`]);
  assert.equal(tick(), [
    'SPIN/traffic {"command":"block","result":["10.77.0.12","fd77::12"]}',
    'SPIN/traffic {"command":"ignore","result":[]}',
    'SPIN/traffic {"command":"allow","result":[]}',
    `r SPIN/traffic/node/1 ${renderNode(nodeOf(1))}`,
    `r SPIN/traffic/node/2 ${renderNode(nodeOf(2))}`,
  ]);
  assert.ok(payloadsOf("block").includes('{"command":"block","result":["10.77.0.12","fd77::12"]}'));
  assert.equal(tick(), []);
});

test("after every reconnect everything retained is sent again, the restart is not", () => {
  const { session, machine, publish, nodes, tick } = fake({ ids: [1, 2] });
  session.accept();
  tick();
  session.lose("gone");
  nodes.delete(1);
  publish.removed(1);
  nodes.set(3, nodeOf(3));
  publish.changed(3);
  publish.tick(machine.now());
  assert.is(publish.counters.waiting, 0);
  session.accept();
  const news = tick();
  assert.equal(
    news.filter((line) => line.startsWith("r ")).map((line) => line.split(" ")[1]),
    ["SPIN/status", "SPIN/traffic/node/2", "SPIN/traffic/node/3"],
  );
  assert.not.ok(news.some((line) => line.includes("serverRestart")));
  assert.equal(session.subscriptions, ["SPIN/traffic/node/+"]);
});

test("a node that changes all the time goes out once a second, as it is then", async () => {
  const { session, machine, publish, nodes, tick } = fake({ ids: [1] });
  session.accept();
  tick();
  const seen: string[] = [];
  for (let step = 1; step <= 500; step++) {
    await machine.advance(10);
    nodes.set(1, nodeOf(1, { lastseen: step }));
    publish.changed(1);
    seen.push(...tick());
  }
  assert.is(seen.length, 5);
  await machine.advance(1_000);
  const last = [...seen, ...tick()].at(-1)!;
  assert.match(last, '"lastseen":500');
});

test("traffic goes out at most once a second, and only if there is any", async () => {
  const { session, machine, add, tick } = fake();
  session.accept();
  tick();
  const seen: string[] = [];
  for (let step = 0; step < 40; step++) {
    await machine.advance(100);
    if (step < 20) add(flow);
    seen.push(...tick());
  }
  const sums = seen.map((line) => JSON.parse(line.slice("SPIN/traffic ".length)).result.total_count);
  assert.is(
    sums.reduce((sum, each) => sum + each, 0),
    200,
  );
  assert.ok(sums.length <= 3, `${sums.length} messages in two seconds`);
  const timestamp = Math.floor(machine.date() / 1_000);
  assert.match(seen[0]!, new RegExp(`"timestamp":${String(timestamp).slice(0, 8)}`));
});

test("what passed while nobody listened is not told later", async () => {
  const { session, machine, add, tick } = fake();
  add(flow);
  tick();
  await machine.advance(1_000);
  session.accept();
  assert.not.ok(tick().some((line) => line.includes('"traffic"')));
});

test("a merge is told as SPIN tells it, and the old topic cleared", () => {
  const { session, publish, nodes, aliases, tick } = fake({ ids: [10, 12] });
  session.accept();
  tick();
  nodes.delete(12);
  aliases.set(12, 10);
  publish.changed(12);
  publish.merged(12, 10);
  assert.equal(tick(), [`SPIN/traffic/admin ${payloadsOf("nodeMerged")[0]}`, "r SPIN/traffic/node/12 "]);
  assert.not.ok(session.retained.has("SPIN/traffic/node/12"));
});

test("a deletion is told as SPIN tells it, and the topic cleared", () => {
  const [recordedPayload] = payloadsOf("nodeDeleted");
  const { id } = JSON.parse(recordedPayload!).result;
  const { session, publish, nodes, tick } = fake({ ids: [id] });
  session.accept();
  tick();
  nodes.delete(id);
  publish.removed(id);
  assert.equal(tick(), [`SPIN/traffic/admin ${recordedPayload}`, `r SPIN/traffic/node/${id} `]);
});

test("a node that comes back before its end was told is not told gone", async () => {
  const { session, machine, publish, tick } = fake({ ids: [5] });
  session.accept();
  tick();
  publish.removed(5);
  publish.changed(5);
  await machine.advance(1_000);
  assert.equal(tick(), [`r SPIN/traffic/node/5 ${renderNode(nodeOf(5))}`]);
});

test("a list that changed goes out whole", () => {
  const { session, publish, lists, tick } = fake();
  session.accept();
  tick();
  lists.set("ignore", ["10.0.0.1"]);
  publish.listChanged("ignore");
  publish.listChanged("ignore");
  assert.equal(tick(), ['SPIN/traffic {"command":"ignore","result":["10.0.0.1"]}']);
});

test("remembered topics of an earlier life are cleared, ours and foreign ones are not", async () => {
  const { session, machine, aliases, tick } = fake({ ids: [1] });
  aliases.set(16, 1);
  session.accept();
  tick();
  assert.equal(session.subscriptions, ["SPIN/traffic/node/+"]);
  for (const level of ["1", "16", "7", "7", "x", "007", "-1", "1e3", "9999999999999999", "__proto__"]) {
    session.deliver(`SPIN/traffic/node/${level}`, "old");
  }
  session.deliver("SPIN/traffic/node/8", "");
  session.deliver("elsewhere/9", "old");
  assert.equal(tick(), ["r SPIN/traffic/node/16 ", "r SPIN/traffic/node/7 "]);
  await machine.advance(5_000);
  tick();
  assert.equal(session.subscriptions, []);
  session.deliver("SPIN/traffic/node/7", "too late");
  assert.equal(tick(), []);
});

test("the search for remembered topics lasts as long as there are any", async () => {
  const { session, machine, tick } = fake();
  session.accept();
  for (let id = 1; id <= 5; id++) {
    await machine.advance(4_000);
    session.deliver(`SPIN/traffic/node/${id}`, "old");
    tick();
  }
  assert.is(session.subscriptions.length, 1);
  assert.is(session.published.filter((each) => each.payload === "").length, 5);
});

test("a broker that remembers without end costs a bounded number of ids", () => {
  const { session, publish } = fake();
  session.accept();
  for (let id = 1; id <= 50_000; id++) session.deliver(`SPIN/traffic/node/${id}`, "old");
  assert.ok(publish.counters.waiting <= 20_003);
});

test("a slow broker gets what it takes, and the rest when it takes more; nothing is lost", () => {
  const ids = Array.from({ length: 1_000 }, (_, index) => index + 1);
  const { session, publish, tick } = fake({ ids, maxQueuedBytes: 10_000 });
  session.accept();
  session.queuedBytes = 5_000;
  assert.equal(
    tick().filter((line) => line.includes("/node/")),
    [],
  );
  assert.is(publish.counters.waiting, 1_003);
  session.queuedBytes = 0;
  let ticks = 0;
  for (; publish.counters.waiting > 0; ticks++) {
    assert.ok(tick().length <= 510);
    assert.ok(ticks < 10);
  }
  assert.is(session.retained.size, 1_001);
});

test("a broker that takes nothing is asked again and again, and memory holds ids only", async () => {
  const { session, machine, publish, add, tick } = fake({ ids: [1, 2, 3], maxQueuedBytes: 100 });
  session.accept();
  session.queuedBytes = 100;
  for (let step = 0; step < 1_000; step++) {
    await machine.advance(10);
    for (const id of [1, 2, 3]) publish.changed(id);
    add(flow);
    tick();
  }
  assert.is(publish.counters.waiting, 6);
  assert.ok(publish.counters.dropped >= 9);
  session.queuedBytes = 0;
});

test("close says goodbye", async () => {
  const { session, publish } = fake();
  session.accept();
  await publish.close();
  assert.is(session.retained.get("SPIN/status"), "offline");
  assert.ok(session.closed);
});

test("the log has one line for a broker won and one for a broker lost", () => {
  const { machine, session } = fake();
  session.accept();
  session.lose("kicked");
  const lines = machine.journal.filter((line) => line.includes("log "));
  assert.is(lines.length, 2);
  assert.match(lines[0]!, /info MQTT broker 127\.0\.0\.1:1883 is there/);
  assert.match(lines[1]!, /warning MQTT broker 127\.0\.0\.1:1883 is not there: kicked/);
});

// A real broker.

const directory = mkdtempSync(join(tmpdir(), "publish-"));
const children = new Set<ChildProcess>();

function broker(port: number): ChildProcess {
  const file = join(directory, "mosquitto.conf");
  writeFileSync(file, `listener ${port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n`);
  const child = spawn("mosquitto", ["-c", file], { stdio: "ignore" });
  children.add(child);
  return child;
}

/** What `mosquitto_sub` finds retained, until it has `count` messages or two seconds have passed. */
async function retained(port: number, count: number, topic = "SPIN/#"): Promise<Map<string, string>> {
  const args = ["-p", String(port), "-t", topic, "-v", "--retained-only", "-C", String(count), "-W", "2"];
  const child = spawn("mosquitto_sub", args, { stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk;
  });
  await new Promise((resolve) => child.once("close", resolve));
  const lines = text.split("\n").filter((line) => line !== "");
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(" ")), line.slice(line.indexOf(" ") + 1)]));
}

async function untilRetained(port: number, count: number): Promise<Map<string, string>> {
  for (let tries = 0; ; tries++) {
    const found = await retained(port, count);
    if (found.size === count) return found;
    assert.ok(tries < 20, `${found.size} retained messages, not ${count}`);
  }
}

test("mosquitto holds a thousand nodes, again after its restart, and no stale one", async () => {
  const port = 18_830;
  let child = broker(port);
  const seed = ["mosquitto_pub", "-p", String(port), "-r", "-t", "SPIN/traffic/node/4711", "-m", "old"];
  for (let status = 1; status !== 0; ) {
    status = await new Promise((resolve) =>
      spawn(seed[0]!, seed.slice(1), { stdio: "ignore" }).once("close", resolve),
    );
  }
  const ids = Array.from({ length: 1_000 }, (_, index) => index + 1);
  const linux = openLinux({ nativePath: "/nowhere", log: () => {} });
  // 128 kB of queue for 150 kB of nodes: they must be paced.
  const { publish, nodes } = make(linux, { ids, port, maxQueuedBytes: 131_072 });
  nodes.set(7, nodeOf(7, { name: "two\nlines of \u{1F4F7}" }));
  const ticking = setInterval(() => publish.tick(linux.now()), 50);
  try {
    const found = await untilRetained(port, 1_001);
    assert.is(found.get("SPIN/status"), "online");
    assert.is(found.get("SPIN/traffic/node/1000"), renderNode(nodeOf(1_000)));
    assert.is(JSON.parse(found.get("SPIN/traffic/node/7")!).result.name, "two\nlines of \u{1F4F7}");
    assert.not.ok(found.has("SPIN/traffic/node/4711"));
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
    child = broker(port);
    assert.equal([...(await untilRetained(port, 1_001)).keys()].sort(), [...found.keys()].sort());
  } finally {
    clearInterval(ticking);
    await publish.close();
  }
  assert.is((await retained(port, 1, "SPIN/status")).get("SPIN/status"), "offline");
});

test.after(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});

test.run();
