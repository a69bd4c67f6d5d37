/** Connections: decoding them, telling what passes on them, cutting them; on bytes, made up, and on real traffic. */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { type AttributeList, concat, encodeAttributes, network } from "../../src/kernel/attribute.ts";
import { type Connection, ConnectionReader, connectionStatus } from "../../src/kernel/connection.ts";
import {
  type ConntrackOptions,
  type ConntrackWatch,
  type Delta,
  watchConntrack,
} from "../../src/kernel/conntrack.ts";
import { deleteConnections } from "../../src/kernel/cut.ts";
import { Fault } from "../../src/lib/fault.ts";
import {
  addHost,
  forward,
  madeUpMachine,
  messageOf,
  nft,
  openSystem,
  pause,
  recorded,
  recordedElsewhere,
  script,
  sh,
  start,
  stopAll,
  toUs,
  until,
} from "./yard.ts";

const system = openSystem();
const bytes = (...values: number[]) => Uint8Array.from(values);
const long = (value: bigint) =>
  concat([network.bytes32(Number(value >> 32n)), network.bytes32(Number(value & 0xffffffffn))]);

interface MadeUp {
  id?: number;
  sourcePort?: number;
  counters?: readonly [packetsOut: bigint, bytesOut: bigint, packetsIn: bigint, bytesIn: bigint];
}

/** A UDP connection 10.0.0.1:port → 10.0.0.2:53. */
function payloadOf({ id = 7, sourcePort = 1_000, counters }: MadeUp): Uint8Array {
  const tuple = (from: number, to: number, ports: [number, number]): AttributeList => [
    [
      1,
      [
        [1, bytes(10, 0, 0, from)],
        [2, bytes(10, 0, 0, to)],
      ],
    ],
    [
      2,
      [
        [1, bytes(17)],
        [2, network.bytes16(ports[0])],
        [3, network.bytes16(ports[1])],
      ],
    ],
  ];
  const list: AttributeList = [
    [1, tuple(1, 2, [sourcePort, 53])],
    [2, tuple(2, 1, [53, sourcePort])],
    [3, network.bytes32(0x18a)],
    ...(counters
      ? ([
          [
            9,
            [
              [1, long(counters[0])],
              [2, long(counters[1])],
            ],
          ],
          [
            10,
            [
              [1, long(counters[2])],
              [2, long(counters[3])],
            ],
          ],
        ] as AttributeList)
      : []),
    [12, network.bytes32(id)],
  ];
  return concat([bytes(2, 0, 0, 0), encodeAttributes(list)]);
}

// ── decoding ──

const connections = () => recorded().filter((row) => row.kind === "connection");

test("ConnectionReader: connections recorded from a kernel", () => {
  const reader = new ConnectionReader();
  for (const { hex, type, expected, counted, counters } of connections()) {
    assert.ok(reader.read(messageOf(type, Buffer.from(hex, "hex"))));
    assert.equal(reader.decode(), expected);
    assert.is(reader.counted, counted);
    assert.equal([...reader.counters], counters);
  }
  assert.is(connections().length, recordedElsewhere ? 0 : 7);
});

test("ConnectionReader.read gives different keys to connections, the same to one that has moved on", () => {
  const reader = new ConnectionReader();
  const keyOf = (connection: MadeUp) => {
    assert.ok(reader.read(messageOf(0x100, payloadOf(connection))));
    return reader.key;
  };
  const key = keyOf({});
  assert.is(keyOf({ counters: [1n, 2n, 3n, 4n] }), key);
  assert.is.not(keyOf({ id: 8 }), key);
  assert.is.not(keyOf({ sourcePort: 1_001 }), key);
  assert.ok(Number.isSafeInteger(keyOf({ id: 0xffffffff })));
});

test("ConnectionReader: cut at every length, it is whole, without its tail, or nothing", () => {
  const reader = new ConnectionReader();
  const payloads = [
    ...connections().map(({ hex }) => Buffer.from(hex, "hex")),
    payloadOf({ counters: [1n, 2n, 3n, 4n] }),
  ];
  for (const payload of payloads) {
    assert.ok(reader.read(messageOf(0x100, payload)));
    const { source, reply } = reader.decode()!;
    let read = 0;
    for (let end = 0; end < payload.length; end++) {
      if (!reader.read({ ...messageOf(0x100, payload), end })) continue;
      const connection = reader.decode();
      if (!connection) continue;
      read++;
      assert.equal([connection.source, connection.reply], [source, reply]);
    }
    assert.ok(read < 20, "only cuts between two attributes of the top level");
  }
});

test("ConnectionReader never throws, whatever bytes are flipped", () => {
  const reader = new ConnectionReader();
  const payloads = [
    ...connections().map(({ hex }) => Buffer.from(hex, "hex")),
    payloadOf({ counters: [1n, 2n, 3n, 4n] }),
  ];
  const look = (payload: Uint8Array) => {
    if (!reader.read(messageOf(0x100, payload))) return;
    const connection = reader.decode();
    if (connection) assert.ok(connection.source.length > 1 && connection.reply.destination.length > 1);
    assert.ok(Number.isSafeInteger(reader.key));
    reader.encodeName();
  };
  for (const payload of payloads) {
    for (let at = 0; at < payload.length; at++) {
      for (const flip of [1, 2, 0x80, 0xff]) {
        const changed = Uint8Array.from(payload);
        changed[at]! ^= flip;
        look(changed);
      }
    }
  }
  fc.assert(fc.property(fc.uint8Array({ maxLength: 120 }), look));
});

// ── telling what passes, on a made-up kernel ──

/** A watch on a made-up kernel: `reading` lets it read what is given, and answers what it told. */
async function madeUp(first: readonly MadeUp[] = [], options: Partial<ConntrackOptions> = {}) {
  const { fake, system: clock } = madeUpMachine();
  const told: Delta[] = [];
  const settings = new Map([
    ["/proc/sys/net/netfilter/nf_conntrack_acct", "0\n"],
    ["/proc/sys/net/netfilter/nf_conntrack_events", "2\n"],
  ]);
  const machine = {
    ...(clock as unknown as typeof system),
    read: async (path: string) => (settings.has(path) ? Buffer.from(settings.get(path)!) : undefined),
    set: async (path: string, value: string) => void settings.set(path, value),
  };
  const starting = watchConntrack(machine, {
    periodMs: 1_000,
    onFlows: (deltas) => told.push(...deltas),
    ...options,
  });
  const take = () => told.splice(0);
  const answer = (rows: readonly MadeUp[]) => {
    const { sequence } = fake.sent.at(-1)!;
    fake.answer(rows.map((row) => toUs(0x100, sequence, { payload: payloadOf(row), flags: 2 })));
  };
  const end = async () => {
    fake.answer([toUs(3, fake.sent.at(-1)!.sequence, { payload: bytes(0, 0, 0, 0) })]);
    await pause(0);
  };
  const ask = async () => {
    const before = fake.sent.length;
    fake.advance(1_000);
    await pause(0);
    assert.is(fake.sent.length, before + 1, "it reads again");
  };
  await pause(0);
  answer(first);
  await end();
  const watch = await starting;
  return {
    ...{ watch, fake, settings, take, ask, answer, end },
    reading: async (rows: readonly MadeUp[]) => {
      await ask();
      answer(rows);
      await end();
      return take();
    },
    event: (kind: "new" | "destroy", row: MadeUp) => {
      fake.event([toUs(kind === "new" ? 0x100 : 0x102, 0, { payload: payloadOf(row), to: 0 })]);
      return take();
    },
  };
}

/** The numbers of deltas, "+" for new, "-" for ended. */
const numbers = (deltas: readonly Delta[]) =>
  deltas.map(
    (each) =>
      `${each.new ? "+" : ""}${each.packetsOut}/${each.bytesOut} ${each.packetsIn}/${each.bytesIn}${each.ended ? "-" : ""}`,
  );

test("watchConntrack: what was there before is told with nothing passed, later ones whole, then differences", async () => {
  const { watch, take, reading } = await madeUp([{ counters: [10n, 1000n, 20n, 2000n] }]);
  assert.equal(numbers(take()), ["+0/0 0/0"]);
  const now: MadeUp = { counters: [11n, 1050n, 22n, 2500n] };
  const later: MadeUp = { id: 8, counters: [1n, 60n, 0n, 0n] };
  assert.equal(numbers(await reading([now, later])), ["1/50 2/500", "+1/60 0/0"]);
  assert.equal(await reading([now, later]), [], "nothing moved, nothing is told");
  assert.is(watch.size, 2);
  assert.is(watch.counters.readings, 3);
  watch.close();
});

test("watchConntrack: differences are exact however high the counters stand, and stop at 2^53-1", async () => {
  const { watch, take, reading } = await madeUp([{ counters: [2n ** 53n, 2n ** 63n + 1n, 0n, 0n] }]);
  take();
  assert.equal(numbers(await reading([{ counters: [2n ** 53n + 1n, 2n ** 63n + 4n, 0n, 2n ** 32n] }])), [
    "1/3 0/4294967296",
  ]);
  assert.equal(numbers(await reading([{ counters: [2n ** 53n + 1n, 2n ** 64n - 1n, 0n, 2n ** 32n + 1n] }])), [
    `0/${2 ** 53 - 1} 0/1`,
  ]);
  watch.close();
});

test("watchConntrack: a direction whose counters went backwards was zeroed, and counts from zero", async () => {
  const { watch, take, reading } = await madeUp([{ counters: [10n, 1000n, 20n, 2000n] }]);
  take();
  assert.equal(numbers(await reading([{ counters: [1n, 60n, 21n, 2100n] }])), ["1/60 1/100"]);
  // More bytes than before, but fewer packets: zeroed as well.
  assert.equal(numbers(await reading([{ counters: [1n, 60n, 2n, 3000n] }])), ["0/0 2/3000"]);
  watch.close();
});

test("watchConntrack: differences add up to the kernel's counters, in whatever steps they are read", async () => {
  const step = fc.tuple(
    fc.bigInt(0n, 2n ** 40n),
    fc.bigInt(0n, 2n ** 40n),
    fc.bigInt(0n, 9n),
    fc.bigInt(0n, 9n),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 8 }), async (steps) => {
      const { watch, take, reading } = await madeUp([{ counters: [0n, 0n, 0n, 0n] }]);
      take();
      const sum = [0n, 0n, 0n, 0n] as [bigint, bigint, bigint, bigint];
      const told = [0n, 0n, 0n, 0n];
      for (const each of steps) {
        for (const at of [0, 1, 2, 3] as const) sum[at] += each[at];
        for (const delta of await reading([{ counters: sum }])) {
          told[0]! += BigInt(delta.packetsOut);
          told[1]! += BigInt(delta.bytesOut);
          told[2]! += BigInt(delta.packetsIn);
          told[3]! += BigInt(delta.bytesIn);
        }
      }
      assert.equal(told, sum);
      watch.close();
    }),
    { numRuns: 20 },
  );
});

test("watchConntrack: the end of a connection brings its last counters, also if it was never read", async () => {
  const { watch, event, reading } = await madeUp();
  assert.equal(numbers(event("new", {})), ["+0/0 0/0"]);
  assert.equal(numbers(await reading([{ counters: [1n, 10n, 0n, 0n] }])), ["1/10 0/0"]);
  assert.equal(numbers(event("destroy", { counters: [3n, 40n, 1n, 5n] })), ["2/30 1/5-"]);
  assert.is(watch.size, 0);
  assert.equal(numbers(event("destroy", { id: 9, counters: [3n, 40n, 1n, 5n] })), ["+3/40 1/5-"]);
  assert.is(watch.size, 0);
  watch.close();
});

test("watchConntrack: a reading that is older than the news of the end does not bring it back", async () => {
  const { watch, ask, answer, end, event, take, reading } = await madeUp();
  const row: MadeUp = { counters: [3n, 40n, 1n, 5n] };
  event("new", {});
  await ask();
  assert.equal(numbers(event("destroy", row)), ["3/40 1/5-"]);
  assert.equal(numbers(event("destroy", { ...row, id: 9 })), ["+3/40 1/5-"]);
  answer([row, { ...row, id: 9 }]);
  await end();
  assert.equal(take(), []);
  assert.is(watch.size, 0);
  // The same number and tuple again is another connection.
  assert.equal(numbers(event("new", {})), ["+0/0 0/0"]);
  assert.equal(numbers(await reading([{ counters: [1n, 10n, 0n, 0n] }])), ["1/10 0/0"]);
  watch.close();
});

test("watchConntrack: a reading may bring a connection before the news of its beginning does", async () => {
  const { watch, event, reading } = await madeUp();
  assert.equal(numbers(await reading([{ counters: [1n, 10n, 0n, 0n] }])), ["+1/10 0/0"]);
  assert.equal(event("new", {}), []);
  assert.equal(numbers(await reading([{ counters: [2n, 20n, 0n, 0n] }])), ["1/10 0/0"]);
  watch.close();
});

test("watchConntrack: a successor with the same number during a reading is not given its predecessor's counters", async () => {
  const { watch, ask, answer, end, event, take, reading } = await madeUp();
  event("new", {});
  await ask();
  assert.equal(numbers(event("destroy", { counters: [9n, 90n, 0n, 0n] })), ["9/90 0/0-"]);
  assert.equal(numbers(event("new", {})), ["+0/0 0/0"]);
  answer([{ counters: [9n, 90n, 0n, 0n] }]);
  await end();
  assert.equal(take(), []);
  assert.equal(numbers(await reading([{ counters: [1n, 10n, 0n, 0n] }])), ["1/10 0/0"]);
  watch.close();
});

test("watchConntrack: told as new twice, the end of the first was lost", async () => {
  const { watch, event } = await madeUp();
  event("new", {});
  assert.equal(numbers(event("new", {})), ["0/0 0/0-", "+0/0 0/0"]);
  assert.equal([watch.size, watch.counters.vanished], [1, 1]);
  watch.close();
});

test("watchConntrack: missing from two readings in a row it has ended, from one it has not", async () => {
  const { watch, take, reading } = await madeUp([{}]);
  take();
  assert.equal(await reading([]), []);
  assert.equal(await reading([{}]), []);
  assert.equal(await reading([]), []);
  assert.equal(numbers(await reading([])), ["0/0 0/0-"]);
  assert.equal([watch.size, watch.counters.vanished], [0, 1]);
  watch.close();
});

test("watchConntrack: an overrun asks for a reading at once", async () => {
  const { watch, fake, answer, end, take } = await madeUp();
  const before = fake.sent.length;
  fake.overrun();
  fake.advance(1);
  assert.is(fake.sent.length, before, "the question is asked in its turn");
  await pause(0);
  assert.is(fake.sent.length, before + 1);
  answer([{ counters: [1n, 10n, 0n, 0n] }]);
  await end();
  assert.equal(numbers(take()), ["+1/10 0/0"]);
  assert.equal([watch.counters.overruns, watch.counters.resyncs], [1, 1]);
  watch.close();
});

test("watchConntrack keeps no more than its limit; what it has no room for is counted when it ends", async () => {
  const rows = Array.from({ length: 50 }, (_, id) => ({ id, counters: [1n, 10n, 0n, 0n] as const }));
  const { watch, event, reading } = await madeUp([], { maxConnections: 20 });
  assert.is((await reading(rows)).length, 20);
  assert.equal([watch.size, watch.counters.dropped], [20, 30]);
  assert.equal(numbers(event("destroy", { id: 49, counters: [2n, 20n, 0n, 0n] })), ["+2/20 0/0-"]);
  assert.is(watch.size, 20);
  watch.close();
});

test("watchConntrack: a failed reading is reported and tried again, and a broken socket is opened anew", async () => {
  const faults: string[] = [];
  const { watch, fake, ask, answer, end, take } = await madeUp([{}], {
    onFault: ({ code }) => faults.push(code),
  });
  take();
  await ask();
  fake.answer([
    toUs(2, fake.sent.at(-1)!.sequence, {
      payload: concat([bytes(0xf4, 0xff, 0xff, 0xff), new Uint8Array(16)]),
    }),
  ]);
  await pause(0);
  assert.equal(faults, [recordedElsewhere ? "denied" : "kernel"]);
  await ask();
  answer([{ counters: [1n, 10n, 0n, 0n] }]);
  await end();
  assert.equal(numbers(take()), ["1/10 0/0"]);
  fake.fail(new Fault("closed", "Cannot read: gone"));
  assert.equal(faults.slice(1), ["closed"]);
  const sockets = fake.sockets.length;
  fake.advance(1_000);
  assert.ok(fake.sockets.length > sockets);
  assert.is(watch.counters.resyncs, 1);
  watch.close();
});

test("watchConntrack switches on what is off, and leaves alone what is on", async () => {
  const { watch, settings } = await madeUp();
  assert.equal([...settings.values()], ["1", "2\n"]);
  assert.ok(watch.counting);
  watch.close();
});

test("watchConntrack: without the switches it says so, goes on, and tries again", async () => {
  const faults: string[] = [];
  let there = false;
  const set: string[] = [];
  const { fake, system: clock } = madeUpMachine();
  const machine = {
    ...(clock as unknown as typeof system),
    read: async () => (there ? Buffer.from("0\n") : undefined),
    set: async (path: string) => void set.push(path),
  };
  const starting = watchConntrack(machine, {
    periodMs: 1_000,
    onFlows: () => undefined,
    onFault: ({ code }) => faults.push(code),
  });
  await pause(0);
  assert.equal(faults, ["unsupported"]);
  there = true;
  fake.answer([toUs(3, fake.sent.at(-1)!.sequence, { payload: bytes(0, 0, 0, 0) })]);
  const watch = await starting;
  assert.ok(watch.counting);
  assert.is(set.length, 2);
  watch.close();
});

// ── real traffic ──

/** What `conntrack -L -o extended,id` shows of a connection. */
interface Listed {
  id: number;
  protocol: number;
  values: Record<string, string[]>;
}

function listed(): Listed[] {
  const lines = sh("conntrack -L -o extended,id").trim().split("\n");
  return lines
    .filter((line) => line.includes("src="))
    .map((line) => {
      const values: Record<string, string[]> = Object.create(null);
      for (const [, name, value] of line.matchAll(/(\w+)=(\S+)/g)) {
        values[name!] = [...(values[name!] ?? []), value!];
      }
      return { id: Number(values.id!.at(-1)), protocol: Number(line.trim().split(/\s+/)[3]), values };
    });
}

/** A watch on the real kernel that adds up what it is told. */
const watches: ConntrackWatch[] = [];

async function watchReal(options: Partial<ConntrackOptions> = {}) {
  const flows = new Map<number, Delta>();
  const faults: Fault[] = [];
  const watch = await watchConntrack(system, {
    periodMs: 50,
    onFault: (fault) => faults.push(fault),
    onFlows(deltas) {
      for (const delta of deltas) {
        // A number may serve again after the end of a connection.
        const before = flows.get(delta.id);
        const sum = before && !before.ended ? before : undefined;
        assert.is(delta.new, sum === undefined);
        flows.set(delta.id, {
          ...delta,
          new: false,
          bytesOut: (sum?.bytesOut ?? 0) + delta.bytesOut,
          packetsOut: (sum?.packetsOut ?? 0) + delta.packetsOut,
          bytesIn: (sum?.bytesIn ?? 0) + delta.bytesIn,
          packetsIn: (sum?.packetsIn ?? 0) + delta.packetsIn,
        });
      }
    },
    ...options,
  });
  watches.push(watch);
  const find = (match: (flow: Delta) => boolean) => [...flows.values()].find(match);
  return { watch, flows, faults, find };
}

const row = (flow: Delta) =>
  [
    ...[flow.source, flow.destination, flow.reply.source, flow.reply.destination],
    ...[flow.sourcePort, flow.destinationPort, flow.reply.sourcePort, flow.reply.destinationPort],
    ...[flow.icmpType ?? "", flow.packetsOut, flow.packetsIn, flow.bytesOut, flow.bytesIn],
  ].join(" ");

const listedRow = ({ values }: Listed) => {
  const { src, dst, sport = ["0", "0"], dport = ["0", "0"], packets, bytes: sizes, type = [""] } = values;
  return [
    ...[src![0], dst![0], src![1], dst![1], sport[0], dport[0], sport[1], dport[1]],
    ...[type[0], packets?.[0], packets?.[1], sizes?.[0], sizes?.[1]],
  ].join(" ");
};

const rules = `table inet test {
  chain forward { type filter hook forward priority 0; ct state new counter; }
  chain input { type filter hook input priority 0; ct state new counter; }
  chain postrouting { type nat hook postrouting priority 100; oifname "wan0" meta nfproto ipv4 masquerade; }
  chain prerouting { type nat hook prerouting priority -100; iifname "wan0" tcp dport 8080 dnat ip to 10.9.1.2:80; }
}`;

test.before(async () => {
  addHost({ name: "lan", device: "lan0", net: 1 });
  addHost({ name: "wan", device: "wan0", net: 2 });
  forward();
  sh("sysctl -qw net.netfilter.nf_conntrack_acct=0");
  nft(rules);
  const servers = [
    "TCP4-LISTEN:9000",
    "TCP6-LISTEN:9000,ipv6only=1",
    "UDP4-LISTEN:9001",
    "UDP6-LISTEN:9001,ipv6only=1",
  ];
  for (const server of servers) start(`ip netns exec wan socat ${server},fork,reuseaddr EXEC:cat`);
  start("ip netns exec lan socat TCP4-LISTEN:80,fork,reuseaddr EXEC:cat");
  await until("servers", () => {
    const open = sh("ip netns exec wan ss -Hlntu") + sh("ip netns exec lan ss -Hlntu");
    return open.match(/:(9000|9001|80)\b/g)?.length === 5;
  });
});
test.after(async () => {
  for (const watch of watches) watch.close();
  await stopAll();
});

test("watchConntrack counts nothing of a connection that opened before accounting was on, but tells of it", async () => {
  assert.is(sh("sysctl -n net.netfilter.nf_conntrack_acct").trim(), "0");
  const client = start("ip netns exec lan socat - TCP:10.9.2.2:9000,sourceport=7000");
  client.write("before\n");
  await until("the connection", () => listed().some(({ values }) => values.sport?.[0] === "7000"));
  const { watch, faults, find } = await watchReal();
  assert.is(sh("sysctl -n net.netfilter.nf_conntrack_acct").trim(), "1");
  assert.ok(watch.counting);
  assert.equal(faults, []);
  const old = find((flow) => flow.sourcePort === 7_000);
  assert.equal(old && [old.source, old.bytesOut, old.ended], ["10.9.1.2", 0, false]);
  const other = start("ip netns exec lan socat - TCP:10.9.2.2:9000,sourceport=7001");
  other.write("after\n");
  await until("one that counts", () => (find((flow) => flow.sourcePort === 7_001)?.bytesIn ?? 0) > 150);
  client.kill();
  other.kill();
  watch.close();
});

test("watchConntrack: TCP, UDP and ICMP of both families, with and without masquerading, as conntrack -L counts", async () => {
  sh("conntrack -F");
  const { watch, flows, find } = await watchReal();
  const clients = [
    ...["TCP:10.9.2.2:9000,sourceport=7010", "TCP6:[fd09:2::2]:9000,sourceport=7011"],
    ...["UDP:10.9.2.2:9001,sourceport=7012", "UDP6:[fd09:2::2]:9001,sourceport=7013"],
  ].map((target) => start(`ip netns exec lan socat - ${target}`));
  const pings = ["10.9.2.2", "fd09:2::2"].map((address) =>
    start(`ip netns exec lan ping -n -c 3 -i 0.1 ${address}`),
  );
  for (const client of clients) client.write("hello\n".repeat(500));
  await Promise.all(pings.map((ping) => ping.ended));
  const echoed = (port: number) => (find((flow) => flow.sourcePort === port)?.bytesIn ?? 0) > 3_000;
  await until("all echoed", () => [7_010, 7_011, 7_012, 7_013].every(echoed));
  // Connections are quiet now: the last reading must bring both to the same numbers.
  await until("the same numbers", () => {
    const rows = listed().filter(({ values }) => values.packets !== undefined);
    return (
      rows.length >= 6 &&
      rows.every((each) => flows.has(each.id) && row(flows.get(each.id)!) === listedRow(each))
    );
  });
  const masqueraded = find((flow) => flow.sourcePort === 7_010)!;
  assert.equal(
    [masqueraded.source, masqueraded.reply.source, masqueraded.reply.destination],
    ["10.9.1.2", "10.9.2.2", "10.9.2.1"],
  );
  assert.ok(
    masqueraded.status & connectionStatus.sourceNat && masqueraded.status & connectionStatus.seenReply,
  );
  const plain = find((flow) => flow.sourcePort === 7_011)!;
  assert.equal([plain.family, plain.source, plain.reply.destination], [6, "fd09:1::2", "fd09:1::2"]);
  assert.is(plain.status & connectionStatus.sourceNat, 0);
  const types = [...flows.values()].filter((flow) => flow.icmpType !== undefined && flow.packetsOut === 3);
  assert.equal(types.map((flow) => [flow.protocol, flow.icmpType]).sort(), [
    [1, 8],
    [58, 128],
  ]);
  for (const client of clients) client.kill();
  watch.close();
});

test("watchConntrack: behind a port forward, the true ends are the source and the source of the reply", async () => {
  const { watch, find } = await watchReal();
  const client = start("ip netns exec wan socat - TCP:10.9.2.1:8080,sourceport=7020");
  client.write("knock\n");
  const flow = await until("the connection", () => {
    const known = find((each) => each.sourcePort === 7_020);
    return known && known.bytesIn > 100 && known;
  });
  assert.equal(
    [flow.source, flow.destination, flow.destinationPort, flow.reply.source, flow.reply.sourcePort],
    ["10.9.2.2", "10.9.2.1", 8_080, "10.9.1.2", 80],
  );
  assert.ok(flow.status & connectionStatus.destinationNat);
  client.kill();
  watch.close();
});

test("watchConntrack: a connection that lives shorter than a period is counted in full, by its end", async () => {
  const { watch, find } = await watchReal({ periodMs: 3_600_000 });
  sh("sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=1 net.netfilter.nf_conntrack_icmpv6_timeout=1");
  script("lan", "ping -n -c 2 -i 0.1 10.9.2.2; ping -n -c 2 -i 0.1 fd09:2::2");
  const short = (protocol: number, size: number) =>
    until("the end", () =>
      find(
        (flow) => flow.protocol === protocol && flow.ended && flow.bytesOut === size && flow.bytesIn === size,
      ),
    );
  assert.equal([(await short(1, 168)).packetsIn, (await short(58, 208)).packetsOut], [2, 2]);
  assert.is(watch.counters.readings, 1);
  sh("sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=30 net.netfilter.nf_conntrack_icmpv6_timeout=30");
  watch.close();
});

test("watchConntrack: a connection is told as soon as it opens", async () => {
  const { watch, find } = await watchReal({ periodMs: 3_600_000 });
  const client = start("ip netns exec lan socat - TCP:10.9.2.2:9000,sourceport=7030");
  const flow = await until("the news", () => find((each) => each.sourcePort === 7_030));
  assert.equal([flow.bytesOut, flow.ended], [0, false]);
  client.kill();
  watch.close();
});

test("watchConntrack leaves others' counters as they are, and bears others' zeroing", async () => {
  const { watch, find } = await watchReal();
  const client = start("ip netns exec lan socat - TCP:10.9.2.2:9000,sourceport=7040");
  const flow = () => find((each) => each.sourcePort === 7_040);
  const bytesListed = () =>
    Number(listed().find(({ values }) => values.sport?.[0] === "7040")!.values.bytes![0]);
  client.write("x".repeat(1_000));
  await until("a first thousand", () => (flow()?.bytesOut ?? 0) > 1_000);
  const readings = watch.counters.readings;
  await until("some more readings", () => watch.counters.readings > readings + 2);
  const first = flow()!.bytesOut;
  assert.is(bytesListed(), first);
  sh("conntrack -L -z");
  client.write("x".repeat(2_000));
  await until("two thousand more", () => flow()!.bytesOut > first + 2_000);
  await until("the sum of both", () => flow()!.bytesOut === first + bytesListed());
  client.kill();
  watch.close();
});

test("watchConntrack: after an overrun it reads again, and neither a connection nor a byte is lost", async () => {
  sh("conntrack -F");
  const { watch, flows } = await watchReal({ receiveBytes: 4_096 });
  // While these run, nothing is read.
  script("lan", "for port in {20000..20299}; do echo hello > /dev/udp/10.9.2.2/$port; done");
  const udp = () =>
    [...flows.values()].filter((flow) => flow.destinationPort >= 20_000 && flow.destinationPort < 20_300);
  await until("all of them", () => udp().length === 300 && udp().every((flow) => flow.bytesOut === 34));
  assert.ok(watch.counters.overruns > 0, "there was an overrun");
  assert.ok(watch.counters.resyncs > 0);
  assert.is(new Set(udp().map((flow) => flow.destinationPort)).size, 300);
  sh("conntrack -F");
  await until("the end of all", () => udp().every((flow) => flow.ended));
  assert.ok(watch.counters.vanished > 0, "some ends were not told");
  assert.is(watch.counters.malformed, 0);
  watch.close();
});

test("deleteConnections cuts those selected and no others", async () => {
  sh("conntrack -F");
  for (const address of ["10.9.2.2", "fd09:2::2"]) {
    script("lan", `for port in {21000..21079}; do echo hello > /dev/udp/${address}/$port; done`);
  }
  script("lan", "ping -n -c 1 10.9.2.2; ping -n -c 1 fd09:2::2");
  const selected = ({ destinationPort, icmpType, family }: Connection) =>
    (destinationPort >= 21_000 && destinationPort % 2 === 0) || (icmpType !== undefined && family === 6);
  const before = listed().length;
  const told: string[] = [];
  const { watch } = await watchReal({
    onFlows: (deltas) => {
      for (const each of deltas)
        if (each.ended) told.push(`${each.family} ${each.destinationPort} ${each.bytesOut}`);
    },
  });
  const deletion = await deleteConnections(system, selected);
  assert.equal(deletion, { examined: before, deleted: 81, gone: 0, refused: 0 });
  const left = listed();
  assert.is(left.length, before - 81);
  const ports = left.map(({ values }) => Number(values.dport?.[0] ?? 0)).filter((port) => port >= 21_000);
  assert.is(ports.length, 80);
  assert.ok(ports.every((port) => port % 2 === 1));
  assert.equal(
    left.filter(({ protocol }) => protocol === 1 || protocol === 58).map(({ protocol }) => protocol),
    [1],
  );
  // Those cut are told as ended. What the watch saw at its start is not counted.
  await until("the ends", () => told.length === 81);
  assert.equal(await deleteConnections(system, () => false), {
    examined: left.length,
    deleted: 0,
    gone: 0,
    refused: 0,
  });
  watch.close();
});

test("deleteConnections: a TCP connection that was cut is looked at as new by its next packet", async () => {
  nft("add chain inet test cut { type filter hook forward priority -10; }");
  nft("add rule inet test cut tcp sport 7050 ct state new tcp flags & syn == 0 counter drop");
  const { watch, find } = await watchReal();
  const clients = [7_050, 7_051].map((port) =>
    start(`ip netns exec lan socat - TCP:10.9.2.2:9000,sourceport=${port}`),
  );
  const received = (port: number) => find((flow) => flow.sourcePort === port && !flow.ended)?.bytesIn ?? 0;
  for (const client of clients) client.write("x".repeat(1_000));
  await until("both run", () => received(7_050) > 1_000 && received(7_051) > 1_000);
  const { deleted } = await deleteConnections(system, ({ sourcePort }) => sourcePort === 7_050);
  assert.is(deleted, 1);
  for (const client of clients) client.write("y".repeat(1_000));
  await until("the other goes on", () => received(7_051) > 2_000);
  await until("the cut one meets the rule", () =>
    /counter packets [1-9]/.test(sh("nft list chain inet test cut")),
  );
  nft("delete chain inet test cut");
  for (const client of clients) client.kill();
  watch.close();
});

test("ConntrackWatch.close: nothing is told afterwards", async () => {
  let closed = false;
  const { watch } = await watchReal({ onFlows: () => assert.not.ok(closed) });
  watch.close();
  closed = true;
  script("lan", "echo hello > /dev/udp/10.9.2.2/22000");
  await pause(150);
});

test.run();
