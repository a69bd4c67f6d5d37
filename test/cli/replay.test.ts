/** `gatehouse replay` with the capture of a LAN: what it makes of it, what it tells others, and its ends. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type CommandLine, runCli } from "../../src/cli/cli.ts";
import { type ByteInput, replayVerb } from "../../src/cli/replay.ts";
import { decodeExternal, type ExternalMessage } from "../../src/lib/extsrc.ts";
import { encodePcapHeader, encodePcapRecord } from "../../src/lib/pcap.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { Machine } from "../fake/machine.ts";
import { nativePath, until } from "../system/until.ts";

const sample = "test/cli/fixtures/lan-sample.pcap";
const linux = openLinux({ nativePath, log: () => {} });

interface Run {
  readonly done: Promise<number>;
  stdout: string;
  stderr: string;
  signal(): void;
}

function start(argv: readonly string[], { system = linux as System, stdin = () => pieces([]) } = {}): Run {
  let signal = () => {};
  const run = { stdout: "", stderr: "", signal: () => signal() };
  const io: CommandLine = {
    stdout: (text) => {
      run.stdout += text;
    },
    stderr: (text) => {
      run.stderr += text;
    },
    ...{ stdoutIsTty: false, stderrIsTty: false, version: "test" },
    onSignal(call) {
      signal = call;
      return () => {
        signal = () => {};
      };
    },
    verbs: new Map([["replay", replayVerb(stdin)]]),
  };
  return Object.assign(run, { done: runCli(argv, system, io) });
}

function pieces(all: readonly Uint8Array[]): ByteInput {
  return {
    pieces: (async function* () {
      yield* all;
    })(),
    close() {},
  };
}

interface Answer {
  readonly nodes: readonly { id: number; kind: string; mac?: string; ips: string[]; domains: string[] }[];
  readonly flows: readonly { from: number; to: number; protocol: number; to_port: number; packets: number }[];
  readonly packets: number;
  readonly unspoken: Readonly<Record<string, number>>;
  readonly strangers: number;
}

async function replay(argv: readonly string[], stdin?: () => ByteInput): Promise<Answer> {
  const run = start(["replay", "--json", ...argv], stdin && { stdin });
  assert.is(await run.done, 0, run.stderr);
  return JSON.parse(run.stdout);
}

test("a device is one node from its first packet on, names that share an address are two", async () => {
  const { nodes } = await replay([sample]);
  const devices = nodes.filter(({ kind }) => kind === "device");
  const ipsOf = (mac: string) => devices.filter((each) => each.mac === mac).map(({ ips }) => ips);
  assert.equal(ipsOf("02:77:00:00:00:11"), [["10.77.0.11", "fd77::11", "fe80::77:ff:fe00:11"]]);
  assert.equal(ipsOf("02:77:00:00:00:12"), [["10.77.0.12", "fd77::12", "fe80::77:ff:fe00:12"]]);
  assert.equal(ipsOf("02:77:00:00:00:13"), [["10.77.0.13", "fd77::13", "fe80::77:ff:fe00:13"]]);
  assert.equal(ipsOf("02:77:00:00:00:01"), [["10.77.0.1", "fd77::1", "fe80::77:ff:fe00:1"]]);
  assert.is(devices.length, 4);
  const named = (domain: string) => nodes.filter(({ domains }) => domains.includes(domain));
  assert.equal(
    ["web.example.net.", "cdn-a.example.com.", "cdn-b.example.com."].map((each) =>
      named(each).map(({ ips }) => ips),
    ),
    [[["198.51.100.10", "2001:db8:100::10"]], [["198.51.100.20"]], [["198.51.100.20"]]],
  );
  assert.not.ok(nodes.some(({ ips }) => ips.some((each) => each.startsWith("ff02:"))));
});

test("every packet is in a flow or counted as in none, and a flow is on the name that its client was answered", async () => {
  const { nodes, flows, packets, unspoken, strangers } = await replay([sample]);
  assert.is(packets, 250);
  assert.is(strangers, 0);
  const silent = Object.values(unspoken).reduce((sum, each) => sum + each, 0);
  assert.is(
    flows.reduce((sum, each) => sum + each.packets, silent),
    250,
  );
  const idOf = (what: string) =>
    nodes.find(({ domains, ips }) => domains.includes(what) || ips.includes(what))!.id;
  const https = flows.filter(({ to_port }) => to_port === 443);
  const between = (from: string, to: string) =>
    https.some((each) => each.from === idOf(from) && each.to === idOf(to));
  assert.ok(between("10.77.0.12", "cdn-b.example.com."));
  assert.ok(between("10.77.0.11", "web.example.net."));
  for (const { from } of https) assert.ok([idOf("10.77.0.11"), idOf("10.77.0.12")].includes(from));
});

test("standard input in any pieces tells the same as the file", async () => {
  const whole = await replay([sample]);
  const bytes = readFileSync(sample);
  for (const size of [100_000, 77]) {
    const parts: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += size) parts.push(bytes.subarray(at, at + size));
    assert.equal(await replay(["-"], () => pieces(parts)), whole);
  }
});

test("-l says which addresses are ours; without any, there are only strangers", async () => {
  const { nodes, flows, strangers } = await replay(["-l", "192.0.2.0/24", sample]);
  // Addresses that ARP and neighbour discovery showed are of this link all the same.
  assert.ok(nodes.some(({ ips }) => ips.includes("10.77.0.11")));
  assert.ok(flows.length > 0 || strangers > 0);
  const more = await replay(["-l", "198.51.100.0/24", "-l", "10.77.0.0/16", "-l", "fd77::/64", sample]);
  assert.ok(more.nodes.some(({ kind, ips }) => kind === "local" && ips.includes("198.51.100.10")));
});

test("for people there are two tables", async () => {
  const run = start(["replay", sample]);
  assert.is(await run.done, 0);
  assert.match(run.stdout, /^NODE +KIND +MAC +IN +OUT +NAMES AND ADDRESSES\n/);
  assert.match(run.stdout, /device +02:77:00:00:00:11 +\d+ +\d+ +10\.77\.0\.11 fd77::11 fe80::/);
  assert.match(run.stdout, /\nFROM +TO +PROTOCOL +PORT +PACKETS +BYTES\n/);
  assert.match(run.stdout, /tcp +8883 +\d+ +\d+\n/);
  assert.match(run.stderr, /^250 packets read, \d+ of them in no conversation\n$/);
});

/** What an external source's socket got. */
function listen(system: System, path: string) {
  const got: ExternalMessage[] = [];
  const socket = system.unix(
    { type: "datagram", bind: path, mode: 0o600 },
    {
      onMessage(bytes) {
        const outcome = decodeExternal(bytes);
        if (outcome.kind === "dropped") throw new Error(outcome.reason);
        got.push(outcome);
      },
      onOverrun() {},
      onClose() {},
    },
  );
  const of = (kind: ExternalMessage["kind"]) => got.filter((each) => each.kind === kind);
  return { got, of, close: () => socket.close() };
}

test("-e -R tells a socket all of it at once: names with their clients, MACs, and every conversation", async () => {
  const path = join(process.env.TMPDIR!, "extsrc.sock");
  const { got, of, close } = listen(linux, path);
  const run = start(["replay", "-R", "-e", path, sample]);
  assert.is(await run.done, 0, run.stderr);
  const sent = Number(/(\d+) messages sent/.exec(run.stderr)![1]);
  await until(() => got.length === sent, "all messages");
  const { unspoken } = await replay([sample]);
  const spoken = 250 - Object.values(unspoken).reduce((sum, each) => sum + each, 0);
  const packets = of("packet").map((each) => each.kind === "packet" && each.packet.packets);
  assert.is(
    packets.reduce<bigint>((sum, each) => sum + (each || 0n), 0n),
    BigInt(spoken),
  );
  // As many as SPIN's own reader sends for this file.
  assert.is(of("query").length, 15);
  assert.ok(
    of("answer").some((each) => each.kind === "answer" && each.answer.address === "2001:db8:100::10"),
  );
  assert.equal(of("neighbour")[0], {
    kind: "neighbour",
    neighbour: { address: "10.77.0.11", mac: "02:77:00:00:00:11" },
  });
  close();
});

/** A capture of one UDP packet at each of these instants, and of a forged answer in between. */
function capture(dates: readonly number[]): Uint8Array {
  const packet = Buffer.from(
    "0277000000010277000000110800450000200000000040110000" +
      "0a4d000bc633640a" +
      "1388007b000c0000" +
      "00000000",
    "hex",
  );
  const records = dates.map((date) => encodePcapRecord(packet, { date, snapBytes: 100 }));
  return Buffer.concat([encodePcapHeader(100), ...records]);
}

test("-e goes at the capture's own pace, tells before a pause, and goes on where the clock was set back", async () => {
  const machine = new Machine();
  machine.put("/c.pcap", capture([10_000, 10_400, 15_000, 2_000, 2_500]));
  const { of, close } = listen(machine, "/run/extsrc.sock");
  const run = start(["replay", "-e", "/run/extsrc.sock", "/c.pcap"], { system: machine });
  let ended = false;
  void run.done.then(() => {
    ended = true;
  });
  const startedAt = machine.now();
  await machine.advance(4_000);
  // The pause begins after the second packet: both are told.
  assert.equal(
    of("packet").map((each) => each.kind === "packet" && each.packet.packets),
    [2n],
  );
  while (!ended) await machine.advance(100);
  assert.is(Math.round((machine.now() - startedAt) / 100), 55);
  assert.is(
    of("packet").reduce((sum, each) => sum + (each.kind === "packet" ? Number(each.packet.packets) : 0), 0),
    5,
  );
  close();
});

test("a signal ends it at once with what was read, be it pacing or waiting for input", async () => {
  const machine = new Machine();
  machine.put("/c.pcap", capture([10_000, 90_000_000_000]));
  const { of, close } = listen(machine, "/run/extsrc.sock");
  const pacing = start(["replay", "-e", "/run/extsrc.sock", "/c.pcap"], { system: machine });
  await machine.advance(100);
  pacing.signal();
  assert.is(await pacing.done, 0);
  await machine.settle();
  assert.is(of("packet").length, 1);
  close();
  let end = (_: Error) => {};
  const stuck = new Promise<never>((_, reject) => {
    end = reject;
  });
  const waiting = start(["replay", "--json", "-"], {
    stdin: () => ({
      pieces: (async function* () {
        yield capture([10_000]);
        await stuck;
      })(),
      close: () => end(new Error("closed")),
    }),
  });
  await new Promise((resolve) => setImmediate(resolve));
  waiting.signal();
  assert.is(await waiting.done, 0);
  assert.is((JSON.parse(waiting.stdout) as Answer).packets, 1);
});

test("a full receiver is waited for, one that is gone ends it", async () => {
  const path = join(process.env.TMPDIR!, "slow.sock");
  const none = start(["replay", "-e", path, sample]);
  assert.is(await none.done, 1);
  assert.match(none.stderr, /^gatehouse: Cannot open unix socket .*slow\.sock/);
  const { got, close } = listen(linux, path);
  // More messages than a socket's queue takes while nobody reads.
  const file = join(process.env.TMPDIR!, "many.pcap");
  await linux.replace(file, capture(Array.from({ length: 2_000 }, (_, at) => 10_000 + at * 1_000)));
  const run = start(["replay", "-R", "-e", path, file]);
  assert.is(await run.done, 0, run.stderr);
  await until(() => got.length === 2_001, "all messages");
  close();
});

test("what was read before damage counts, and the status tells of it", async () => {
  const file = join(process.env.TMPDIR!, "cut.pcap");
  await linux.replace(file, readFileSync(sample).subarray(0, 30_000));
  const run = start(["replay", "--json", file]);
  assert.is(await run.done, 1);
  const { packets, nodes } = JSON.parse(run.stdout) as Answer;
  assert.ok(packets > 100 && nodes.length > 4);
  assert.match(run.stderr, /\ngatehouse: Cannot read capture: it is cut short\n$/);
  await linux.replace(file, new TextEncoder().encode("no capture at all"));
  assert.is(await start(["replay", file]).done, 1);
});

test("wrong words are refused with the usage", async () => {
  for (const [argv, message] of [
    [[], "replay wants one file"],
    [["a", "b"], "replay wants one file"],
    [["-x", "a"], "there is no flag -x"],
    [["a", "-l"], "-l needs a value"],
    [["a", "-l", "10.0.0.0/33"], '-l wants a prefix, not "10.0.0.0/33"'],
    [["a", "--json", "-e", "/x"], "--json prints what -e sends away"],
  ] as const) {
    const run = start(["replay", ...argv]);
    assert.is(await run.done, 1);
    assert.ok(run.stderr.startsWith(`gatehouse: ${message}\nUsage: `), run.stderr);
  }
  const absent = start(["replay", "/nowhere/c.pcap"]);
  assert.is(await absent.done, 1);
  assert.match(absent.stderr, /^gatehouse: Cannot read \/nowhere\/c\.pcap: no such file/);
});

test.run();
