/** The unix socket with real clients: any chunking, many requests, half-closes, silence, greed, and who may talk. */

import { spawn } from "node:child_process";
import { chmodSync, chownSync, existsSync, statSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openRpcSocket, Rpc, type RpcSocketOptions } from "../../src/spin/spin.ts";
import { openLinux } from "../../src/system/linux.ts";
import { nativePath, until } from "../system/until.ts";
import { Model } from "./model.ts";

const system = openLinux({ nativePath });
const path = "/run/spin_rpc.sock";
/** What a test leaves open, also when it fails. */
const opened: (() => unknown)[] = [];
const pairs = '{"jsonrpc":"2.0","id":1,"method":"get_flow_block"}';
const none = '{"jsonrpc":"2.0","id":1,"result":[]}\n';
const wrong = '{"jsonrpc":"2.0","error":{"code":1,"message":"Wrong JSON-RPC version, expected 2.0"}}\n';

function network(): Model {
  const door = new Model();
  door.add({ id: 4, mac: "02:77:00:00:00:12", ips: ["10.77.0.12"] });
  for (let id = 5; id < 1_100; id++) door.add({ id, ips: [`10.80.${id >> 8}.${id & 255}`] });
  return door;
}

async function serve(options: Partial<RpcSocketOptions> = {}, door = network()) {
  const rpc = new Rpc(door, (line) => assert.unreachable(line));
  const socket = await openRpcSocket(system, rpc, { path, ...options });
  opened.push(() => socket.close());
  return { door, socket };
}

/** A client that keeps what it hears. */
class Client {
  readonly socket: Socket;
  text = "";
  ended = false;
  closed = false;

  constructor(at = path) {
    this.socket = connect({ path: at.startsWith("@") ? `\0${at.slice(1)}` : at, allowHalfOpen: true });
    opened.push(() => this.socket.destroy());
    this.socket.on("data", (chunk) => {
      this.text += chunk;
    });
    this.socket.on("end", () => {
      this.ended = true;
    });
    this.socket.on("error", () => {});
    this.socket.on("close", () => {
      this.closed = true;
    });
  }

  get lines(): string[] {
    return this.text.split("\n").slice(0, -1);
  }

  async hears(text: string): Promise<void> {
    await until(() => this.text.length >= text.length, `${text} after ${this.text}`);
    assert.is(this.text, text);
  }
}

/** Runs a program against the socket; what it printed, once it has ended. */
function run(argv: readonly string[], input: string): Promise<string> {
  return new Promise((resolve) => {
    const child = spawn(argv[0]!, argv.slice(1), { stdio: ["pipe", "pipe", "ignore"] });
    let output = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
    });
    child.on("close", () => resolve(output));
    child.stdin.on("error", () => {});
    child.stdin.end(input);
  });
}

test.after.each(async () => {
  for (const close of opened.splice(0)) await close();
});

test("the file is for owner and group, and gone at the end", async () => {
  const { socket } = await serve();
  assert.is(statSync(path).mode & 0o777, 0o660);
  await socket.close();
  assert.is(existsSync(path), false);
});

test("a request in pieces of any size, and several in one, are answered in order", async () => {
  const { socket } = await serve();
  const request = `{"jsonrpc":"2.0","id":"é\\"}{","method":"set_device_name","params":{"node":4,"name":"]}"}}`;
  const bytes = new TextEncoder().encode(`${request}\n${pairs}${request}`);
  const answer = '{"jsonrpc":"2.0","id":"é\\"}{"}\n';
  for (const size of [1, 2, 17, 1_000]) {
    const client = new Client();
    for (let at = 0; at < bytes.length; at += size) {
      await new Promise((resolve) => client.socket.write(bytes.subarray(at, at + size), resolve));
    }
    await client.hears(`${answer}${none}${answer}`);
    client.socket.destroy();
  }
  await until(() => socket.counters.connections === 0, "the ends");
  assert.is(socket.counters.requests, 12);
  await socket.close();
});

test("a client that sends nothing keeps nobody from an answer, and may still ask", async () => {
  const { socket } = await serve({ lingerMs: 50 });
  const silent = new Client();
  await until(() => socket.counters.connections === 1, "the silent client");
  const other = new Client();
  other.socket.write(pairs);
  await other.hears(none);
  await until(() => other.ended, "the end of the other");
  silent.socket.write(pairs);
  await silent.hears(none);
  await socket.close();
  await until(() => silent.ended, "the close");
});

test("SPIN's clients, which ask once and read until the end, get their answer and the end", async () => {
  const { socket } = await serve({ lingerMs: 20, lineLingerMs: 20 });
  for (const text of [pairs, `${pairs}\n`]) {
    const client = new Client();
    client.socket.write(text);
    await until(() => client.ended, "the end");
    assert.is(client.text, none);
    // As spinweb: it closes when it has read the end.
    client.socket.end();
    await until(() => client.closed, "the close");
  }
  const notified = new Client();
  notified.socket.write('{"jsonrpc":"2.0","method":"get_flow_block"}');
  await until(() => notified.ended, "the end without an answer");
  assert.is(notified.text, "");
  notified.socket.destroy();
  await socket.close();
});

test("a client that asks twice stays connected", async () => {
  const { socket } = await serve({ lingerMs: 20 });
  const client = new Client();
  client.socket.write(pairs + pairs);
  await client.hears(none + none);
  // Another, which asked only once and later, is ended: the first would have been long before it.
  const other = new Client();
  other.socket.write(pairs);
  await until(() => other.ended, "the end of the other");
  assert.is(client.ended, false);
  client.socket.write(pairs);
  await client.hears(none + none + none);
  client.socket.destroy();
  other.socket.destroy();
  await socket.close();
});

test("a client that closes its writing side gets all its answers before we close ours", async () => {
  const { socket, door } = await serve();
  const client = new Client();
  const block = (node2: number) =>
    `{"jsonrpc":"2.0","id":${node2},"method":"set_flow_block","params":{"node1":4,"node2":${node2},"block":1}}`;
  client.socket.end([5, 6, 7].map(block).join(""));
  await until(() => client.ended && client.closed, "the end");
  assert.equal(
    client.lines,
    [5, 6, 7].map((id) => `{"jsonrpc":"2.0","id":${id}}`),
  );
  assert.equal(door.pairs(), [
    [4, 5],
    [4, 6],
    [4, 7],
  ]);
  door.blocked.clear();
  const half = new Client();
  half.socket.end(pairs + pairs.slice(0, 20));
  await until(() => half.closed, "the end");
  assert.is(half.text, none + wrong);
  await socket.close();
});

test("socat and nc get their answers", async () => {
  const { socket } = await serve({ lingerMs: 50, lineLingerMs: 50 });
  assert.is(await run(["socat", "-t5", "-", `UNIX-CONNECT:${path}`], pairs), none);
  assert.is(await run(["nc", "-N", "-U", path], `${pairs}\n${pairs}\n`), none + none);
  // Without -N it does not close its side, and waits for us to close ours.
  assert.is(await run(["nc", "-U", path], `${pairs}\n`), none);
  await socket.close();
});

test("garbage is answered at once, and what follows on the next line is served", async () => {
  const { socket } = await serve();
  const client = new Client();
  client.socket.write("this is not json");
  await client.hears(wrong);
  client.socket.write(`, nor is this\n[${pairs}]{]\n${pairs}`);
  await client.hears(wrong + wrong + wrong + none);
  // As SPIN's recorded 5 kB.
  client.socket.write(`{"jsonrpc":"2.0","id":1,"method":"get_flow_block","x":"${"x".repeat(5_000)}"}`);
  await client.hears(wrong + wrong + wrong + none + none);
  client.socket.destroy();
  await socket.close();
});

test("a request without end is ended: when it is too large, and when it takes too long", async () => {
  const { socket } = await serve({ partialMs: 200 });
  const large = new Client();
  large.socket.write(pairs);
  large.socket.write(`{"x":"${"x".repeat(200_000)}`);
  await until(() => large.ended, "the end of the large one");
  assert.is(large.text, `${none}{"jsonrpc":"2.0","error":{"code":1,"message":"Request is too large"}}\n`);
  const slow = new Client();
  slow.socket.write(pairs + pairs);
  slow.socket.write('{"jsonrpc"');
  await until(() => slow.ended, "the end of the slow one");
  assert.is(slow.text, none + none + wrong);
  large.socket.destroy();
  slow.socket.destroy();
  assert.is(socket.counters.broken, 2);
  await socket.close();
});

test("a thousand requests in one go: all answered, in order, and each sees what was decided before it", async () => {
  const { socket, door } = await serve();
  const client = new Client();
  const requests: string[] = [];
  const answers: string[] = [];
  for (let id = 5; id < 1_005; id++) {
    const isLook = id % 100 === 0;
    const params = `{"node1":4,"node2":${id},"block":1}`;
    requests.push(
      isLook
        ? `{"jsonrpc":"2.0","id":${id},"method":"get_flow_block"}`
        : `{"jsonrpc":"2.0","id":${id},"method":"set_flow_block","params":${params}}`,
    );
    answers.push(isLook ? `${id}: ${id - 5 - Math.floor((id - 1) / 100)}` : `${id}: done`);
  }
  client.socket.write(requests.join("\n"));
  await until(() => client.lines.length === 1_000, "the answers");
  const told = client.lines.map((line) => {
    const { id, result, error } = JSON.parse(line);
    assert.is(error, undefined);
    return `${id}: ${result === undefined ? "done" : result.length}`;
  });
  assert.equal(told, answers);
  assert.is(door.pairs().length, 990);
  client.socket.destroy();
  await socket.close();
});

test("what decides by what it sees runs beside nothing", async () => {
  const { socket, door } = await serve();
  door.nodes.get(4)!.ips = ["10.77.0.12", "10.77.0.99"];
  const client = new Client();
  const call = (method: string, params: object) => JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const list = "block";
  client.socket.write(
    call("add_iplist_node", { list, node: 4 }) +
      call("remove_iplist_ip", { list, ip: "10.77.0.12" }) +
      call("add_iplist_node", { list, node: 4 }) +
      call("add_iplist_ip", { list, ip: "10.77.0.12" }) +
      call("remove_iplist_node", { list, node: 4 }) +
      call("list_iplist", { list }),
  );
  await until(() => client.lines.length === 6, "the answers");
  assert.is(client.lines[5], '{"jsonrpc":"2.0","id":1,"result":[]}');
  assert.equal(door.listing(list), { nodes: [], nets: [] });
  client.socket.destroy();
  await socket.close();
});

test("a client that asks and does not read is bounded, and closed; others are answered meanwhile", async () => {
  const { socket, door } = await serve({ drainMs: 500 });
  door.flows.set(
    4,
    Array.from({ length: 4_000 }, (_, to) => ({
      to,
      dstPort: 1,
      icmpType: 0,
      packets: 1,
      bytes: 1,
      lastSeen: 1,
    })),
  );
  const greedy = new Client();
  greedy.socket.pause();
  const ask = '{"jsonrpc":"2.0","id":1,"method":"list_device_flows","params":{"device":"02:77:00:00:00:12"}}';
  for (let count = 0; count < 2_000; count++) greedy.socket.write(ask);
  await until(() => socket.counters.requests > 0, "the first of them");
  const other = new Client();
  other.socket.write(pairs);
  await other.hears(none);
  await until(() => socket.counters.slow === 1, "the close");
  assert.ok(socket.counters.requests < 10, `${socket.counters.requests} requests were run`);
  greedy.socket.resume();
  await until(() => greedy.ended || greedy.closed, "the end");
  other.socket.destroy();
  await socket.close();
});

test("a client that reads slowly gets everything", async () => {
  const { socket, door } = await serve();
  door.flows.set(
    4,
    Array.from({ length: 2_000 }, (_, to) => ({
      to,
      dstPort: 1,
      icmpType: 0,
      packets: 1,
      bytes: 1,
      lastSeen: 1,
    })),
  );
  const client = new Client();
  const ask = '{"jsonrpc":"2.0","id":1,"method":"list_device_flows","params":{"device":"02:77:00:00:00:12"}}';
  client.socket.end(ask.repeat(20));
  client.socket.on("data", () => {
    client.socket.pause();
    setImmediate(() => client.socket.resume());
  });
  await until(() => client.closed, "the end");
  assert.is(client.lines.length, 20);
  for (const line of client.lines) assert.is(JSON.parse(line).result.length, 2_000);
  await socket.close();
});

test("connections are bounded, in all and for each user", async () => {
  const { socket } = await serve({ maxConnections: 3, maxPerUid: 2 });
  const clients = [new Client(), new Client()];
  await until(() => socket.counters.connections === 2, "two");
  const third = new Client();
  await until(() => third.ended || third.closed, "the refusal");
  assert.is(socket.counters.crowded, 1);
  clients[0]!.socket.destroy();
  await until(() => socket.counters.connections === 1, "room");
  const next = new Client();
  next.socket.write(pairs);
  await next.hears(none);
  for (const each of [...clients, next]) each.socket.destroy();
  await socket.close();
});

test("who may not talk is closed without a word: others than root, the file's own, and the listed", async () => {
  const as = (uid: number, gid: number) => {
    const ids = ["--reuid", `${uid}`, "--regid", `${gid}`, "--clear-groups"];
    return run(["setpriv", ...ids, "socat", "-t5", "-", `UNIX-CONNECT:${path}`], pairs);
  };
  const { socket } = await serve({ uids: [65_534], gids: [777] });
  // Mode 0660 alone keeps others out.
  assert.is(await as(1_234, 1_234), "");
  assert.is(socket.counters.denied, 0);
  chmodSync(path, 0o666);
  assert.is(await as(1_234, 1_234), "");
  assert.is(socket.counters.denied, 1);
  assert.is(await as(65_534, 1_234), none);
  assert.is(await as(1_234, 777), none);
  chownSync(path, 4_321, 5_432);
  assert.is(await as(4_321, 1_234), none);
  assert.is(await as(1_234, 5_432), none);
  assert.is(await as(1_235, 1_234), "");
  assert.is(socket.counters.denied, 2);
  await socket.close();
});

test("an abstract name has no owner: root and the listed only", async () => {
  const { socket } = await serve({ path: "@spin_rpc", uids: [65_534] });
  const client = new Client("@spin_rpc");
  client.socket.write(pairs);
  await client.hears(none);
  client.socket.destroy();
  const as = (uid: number) => {
    // The kernel notes who we are when we connect, which is before the constructor returns.
    process.seteuid!(uid);
    const other = new Client("@spin_rpc");
    process.seteuid!(0);
    other.socket.end(pairs);
    return other;
  };
  const listed = as(65_534);
  await until(() => listed.closed, "the answer");
  assert.is(listed.text, none);
  const stranger = as(65_533);
  await until(() => stranger.ended || stranger.closed, "the refusal");
  assert.is(stranger.text, "");
  assert.is(socket.counters.denied, 1);
  await socket.close();
});

test("a socket that somebody serves is a conflict", async () => {
  const { socket } = await serve();
  try {
    await serve();
    assert.unreachable();
  } catch (thrown) {
    assert.is((thrown as { code?: string }).code, "conflict");
  }
  await socket.close();
});

test("whatever bytes come, the socket goes on serving", async () => {
  const { socket } = await serve({ partialMs: 200, lingerMs: 20 });
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 1_103_515_245 + 12_345) & 0x7fffffff;
    return (seed >> 8) % below;
  };
  const alphabet = new TextEncoder().encode(`{}[]":,\\ \n\0x5${pairs}`);
  for (let round = 0; round < 60; round++) {
    const bytes = Uint8Array.from({ length: random(3_000) }, () =>
      random(8) === 0 ? random(256) : alphabet[random(alphabet.length)]!,
    );
    const client = new Client();
    for (let at = 0; at < bytes.length; ) {
      const size = 1 + random(700);
      client.socket.write(bytes.subarray(at, at + size));
      at += size;
    }
    if (random(2) === 0) client.socket.end();
    else setImmediate(() => client.socket.destroy());
    if (round % 10 > 0) continue;
    const honest = new Client();
    honest.socket.write(pairs);
    await honest.hears(none);
    honest.socket.destroy();
    client.socket.on("data", () => {});
  }
  await until(() => socket.counters.connections === 0, "the ends");
  assert.ok(socket.counters.broken > 0);
  await socket.close();
});

test.run();
