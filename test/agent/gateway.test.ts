/** The gateway on a real kernel: what outlives its forwarders, and what the kernel does while it is away. */

import { execFileSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMainThread } from "node:worker_threads";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Gateway, leaveEncodeNet } from "../../src/agent/gateway.ts";
import { loadConfig } from "../../src/config/config.ts";
import type { ToThread } from "../../src/ipref/asking.ts";
import { forwardingProgram } from "../../src/ipref/forwarding.ts";
import { encodeHeader, Header } from "../../src/ipref/header.ts";
import { decodeHead, encodeV1 } from "../../src/ipref/protocol.ts";
import { forwardPackets } from "../../src/ipref/thread.ts";
import type { Address } from "../../src/lib/address.ts";
import { fold, put16, sumOf } from "../../src/lib/checksum.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json } from "../../src/lib/json.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { WorkerMachine } from "../../src/system/packets.ts";
import type { System, WorkerThread } from "../../src/system/system.ts";
import { runWorker } from "../../src/system/workers.ts";
import { nativePath, until } from "../system/until.ts";

const own = "198.51.100.97";
const peer = "203.0.113.98";
const ip = (words: string) => execFileSync("ip", words.split(" "), { encoding: "utf8", stdio: "pipe" });
const nobody = { user: undefined, group: undefined };

/** A forwarder that dies when it is told to. */
const mortal = (machine: WorkerMachine) =>
  forwardPackets(
    Object.create(machine, {
      take: {
        value() {
          const message = machine.take();
          if (message === "die") throw new Error("Cannot go on: told to die");
          return message;
        },
      },
    }) as WorkerMachine,
  );

/** The machine, with what the test looks at and holds back. */
class Watched {
  readonly system: System;
  readonly posted: ToThread[] = [];
  readonly lines: string[] = [];
  readonly ticks: (() => void)[] = [];
  threads = 0;
  thread: WorkerThread | undefined;
  /** While it is there, devices don't become ready. */
  gate: Promise<void> | undefined;
  waiting = false;

  constructor() {
    const linux = openLinux({
      nativePath,
      program: process.argv[1]!,
      log: (level, line) => this.lines.push(`${level}: ${line}`),
    });
    this.system = {
      ...linux,
      worker: (how, handlers) => {
        const thread = linux.worker(how, handlers);
        this.threads++;
        this.thread = thread;
        return {
          ...thread,
          close: () => thread.close(),
          post: (message) => {
            this.posted.push(message as ToThread);
            thread.post(message);
          },
        };
      },
      // Nothing happens by itself.
      every: (_, call) => {
        this.ticks.push(call);
        return () => {};
      },
      set: async (path, value) => {
        if (this.gate && path.includes("/conf/ipref")) {
          this.waiting = true;
          await this.gate;
        }
        return linux.set(path, value);
      },
    };
  }

  /** What was listed last. */
  get listed(): string {
    const lists = this.posted.filter((message) => message.kind === "list");
    const last = lists.at(-1);
    return last?.kind === "list" ? [...last.contexts].map((each) => [...each].join(".")).join(" ") : "";
  }
}

/** What a test that fails leaves. */
const left = new Set<Gateway>();
test.after.each(async () => {
  for (const gateway of left) await gateway.close();
  left.clear();
});

const directory = () => mkdtempSync(join(tmpdir(), "gateway-"));

async function open(watched: Watched, options: Readonly<Record<string, string>> = {}): Promise<Gateway> {
  const all = {
    ...{ enabled: "1", gateway_bind: own, hosts: "none", mapper_socket: "none" },
    ...options,
  };
  const lines = Object.entries(all).map(([name, value]) => `\toption ${name} '${value}'`);
  const state = options.state ?? directory();
  const { config, warnings } = loadConfig(
    `config gatehouse 'main'\n\toption state_dir '${state}'\nconfig ipref 'ipref'\n${lines.join("\n")}\n`,
  );
  assert.equal(warnings, []);
  const gateway = await Gateway.open(watched.system, config);
  left.add(gateway);
  await gateway.begin();
  assert.is(gateway.status.forwarding, true, watched.lines.join("\n"));
  return gateway;
}

async function call(gateway: Gateway, method: string, args: Readonly<Record<string, Json>> = {}) {
  return (await gateway.methods[method]!.call(args, nobody)) as Record<string, Json>;
}

/** An address of the router's own comes: forwarders with other settings take their place. */
function another(gateway: Gateway, address: string): void {
  const [ifindex, prefixLength, flags] = [1, 24, 0x80];
  gateway.address({ ifindex, address: address as Address, prefixLength, flags }, true);
}

async function portOf(gateway: Gateway): Promise<Json | undefined> {
  const { peers } = (await call(gateway, "peers")) as { peers: Record<string, Json>[] };
  return peers.find(({ context }) => context === peer)?.port;
}

/** An echo request of the peer's host 2.7 for ours, b.7. */
function knock(): Uint8Array {
  const header = new Header();
  const bytesOf = (text: string) => Uint8Array.from(text.split("."), Number);
  header.protocol = 1;
  header.ttl = 64;
  header.source = bytesOf(peer);
  header.destination = bytesOf(own);
  header.sourceReference = Uint8Array.from({ length: 16 }, (_, at) => (at === 14 ? 2 : at === 15 ? 7 : 0));
  header.destinationReference = Uint8Array.from({ length: 16 }, (_, at) =>
    at === 14 ? 11 : at === 15 ? 7 : 0,
  );
  const packet = new Uint8Array(128);
  const at = encodeHeader(header, packet);
  packet.set([8, 0, 0, 0, 0, 1, 0, 1], at);
  put16(packet, at + 2, ~fold(sumOf(packet, at, 32)) & 0xffff);
  return packet.subarray(0, at + 32);
}

test("the set-up: two addresses, and a default route that leads outside", () => {
  for (const each of [own, peer]) ip(`address add ${each}/32 dev lo`);
  ip("link add outside type veth peer name provider");
  ip("address add 192.0.2.1/24 dev outside");
  for (const each of ["outside", "provider"]) ip(`link set ${each} up`);
  ip("route add default via 192.0.2.254");
  assert.match(ip("route get 10.240.5.5"), /dev outside/);
});

test("while the gateway is away the kernel refuses packets to encoded addresses, until this is no gateway any more", async () => {
  const watched = new Watched();
  const away = (address: string) => {
    try {
      return ip(`route get ${address}`);
    } catch (thrown) {
      return String((thrown as { stderr: unknown }).stderr);
    }
  };
  let gateway = await open(watched);
  assert.match(ip("route get 10.240.5.5"), /dev ipref/);
  assert.match(ip("route show"), /^unreachable 10\.240\.0\.0\/12 proto 72 metric 4294967295/m);
  await gateway.close();
  assert.match(away("10.240.5.5"), /unreachable|No route to host/i);
  // The same again, and then another net.
  gateway = await open(watched);
  assert.match(ip("route get 10.240.5.5"), /dev ipref/);
  await gateway.close();
  gateway = await open(watched, { encode_net: "10.224.0.0/12" });
  assert.match(ip("route get 10.240.5.5"), /dev outside/);
  await gateway.close();
  assert.match(away("10.224.5.5"), /unreachable|No route to host/i);
  gateway = await open(watched, { encode_net: "fd00:240::/32" });
  assert.match(ip("-6 route show"), /^unreachable fd00:240::\/32 dev lo proto 72 metric 4294967295/m);
  assert.match(ip("-6 route show"), /^fd00:240::\/32 dev ipref/m);
  assert.not.match(ip("route show"), /unreachable/);
  ip("route add unreachable 10.66.0.0/16 metric 4294967295");
  await gateway.close();
  assert.match(away("fd00:240::5"), /unreachable|No route to host/i);
  await leaveEncodeNet(watched.system);
  assert.not.match(ip("-6 route show"), /fd00:240/);
  // Somebody else's stays.
  assert.match(ip("route show"), /^unreachable 10\.66\.0\.0\/16/m);
  assert.match(ip("route get 10.224.5.5"), /dev outside/);
  assert.equal(
    watched.lines.filter((line) => line.startsWith("error")),
    [],
  );
});

test("ports that were learned outlive forwarders: other settings, and a thread that dies", async () => {
  const watched = new Watched();
  const gateway = await open(watched);
  await call(gateway, "add", { kind: "theirs", address: "10.240.2.98", context: peer, reference: "519" });
  await call(gateway, "add", { kind: "ours", address: "192.168.97.11", reference: "2823" });
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(40_001, peer, resolve));
  await until(async () => {
    socket.send(knock(), 1045, own);
    return (await portOf(gateway)) === 40_001;
  }, "the port");
  socket.close();
  const threads = watched.threads;
  another(gateway, "192.168.97.1");
  await until(
    () => watched.threads === threads + 1 && gateway.status.forwarding === true,
    "other forwarders",
  );
  assert.is(await portOf(gateway), 40_001);
  watched.thread!.post("die");
  await until(() => gateway.status.restarts === 1 && gateway.status.forwarding === true, "a restart");
  assert.is(await portOf(gateway), 40_001);
  await gateway.close();
});

test("who may reach us first is told to forwarders that opened meanwhile", async () => {
  const watched = new Watched();
  const gateway = await open(watched);
  const tick = () => {
    for (const each of watched.ticks) each();
  };
  tick();
  assert.is(watched.listed, "");
  let release = () => {};
  watched.gate = new Promise((resolve) => {
    release = resolve;
  });
  another(gateway, "192.168.97.1");
  await until(() => watched.waiting, "the opening");
  await call(gateway, "add", { kind: "theirs", address: "10.240.2.98", context: peer, reference: "519" });
  tick();
  const threads = watched.threads;
  release();
  await until(() => watched.threads > threads && gateway.status.forwarding === true, "other forwarders");
  tick();
  assert.is(watched.listed, peer);
  await gateway.close();
});

test("who is asked for by name may reach us before the asker has its answer", async () => {
  const watched = new Watched();
  const path = join(directory(), "mapper");
  const gateway = await open(watched, { mapper_socket: path });
  let listed: string | undefined;
  const client = watched.system.unix(
    { type: "seqpacket", connect: path },
    {
      onMessage: (bytes) => {
        const head = decodeHead(bytes);
        listed = head.mode === "ack" ? watched.listed : head.mode;
      },
      onClose: () => {},
      onOverrun: () => {},
    },
  );
  const families = { lan: 4, tunnel: 4 } as const;
  const record = { context: peer as Address, reference: 519n };
  client.send(
    encodeV1({ mode: "request", id: 1, families }, { kind: "encode", record, name: "nas.example" }),
  );
  await until(() => listed !== undefined, "an answer");
  assert.is(listed, peer);
  client.close();
  await gateway.close();
});

test("resolve says what is no name, and nothing of it is our own error", async () => {
  const watched = new Watched();
  const gateway = await open(watched, { zone: "example.com" });
  for (const name of ["a..b", ".a.example.com", `${"x".repeat(64)}.example.com`, "é.example.com", "a\\300"]) {
    const outcome = await call(gateway, "resolve", { name }).catch((thrown: unknown) => thrown);
    assert.instance(outcome, Fault);
    assert.is((outcome as Fault).code, "invalid", name);
  }
  const elsewhere = await call(gateway, "resolve", { name: "a.b" }).catch((thrown: unknown) => thrown);
  assert.is((elsewhere as Fault).code, "not-found");
  await gateway.close();
});

if (isMainThread) {
  mkdirSync(tmpdir(), { recursive: true });
  test.run();
} else runWorker({ [forwardingProgram]: mortal });
