/** Connections on the real kernel: what passes is told as `conntrack -L` counts it, and those selected are cut. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { type Connection, connectionStatus } from "../../src/kernel/connection.ts";
import {
  type ConntrackOptions,
  type ConntrackWatch,
  type Delta,
  watchConntrack,
} from "../../src/kernel/conntrack.ts";
import { deleteConnections } from "../../src/kernel/cut.ts";
import type { Fault } from "../../src/lib/fault.ts";
import { addHost, forward, nft, openSystem, pause, script, sh, start, stopAll, until } from "./yard.ts";

const system = openSystem();

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
    until("the end", () => {
      // The kernel clears away what has expired in its own time, or when somebody lists it.
      listed();
      return find(
        (flow) => flow.protocol === protocol && flow.ended && flow.bytesOut === size && flow.bytesIn === size,
      );
    });
  assert.equal([(await short(1, 168)).packetsIn, (await short(58, 208)).packetsOut], [2, 2]);
  assert.is(watch.counters.readings, 1);
  sh("sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=30 net.netfilter.nf_conntrack_icmpv6_timeout=30");
  watch.close();
});

test("watchConntrack costs the kernel no message for a new connection", async () => {
  sh("conntrack -F");
  const { watch } = await watchReal({ periodMs: 3_600_000 });
  const heard = watch.counters.messages;
  script("lan", "for port in {23000..23049}; do echo hello > /dev/udp/10.9.2.2/$port; done");
  assert.ok(listed().length >= 50);
  await pause(50);
  assert.is(watch.counters.messages, heard);
  watch.close();
});

test("watchConntrack tells of a new connection with the next reading, what it has moved included", async () => {
  const { watch, find } = await watchReal();
  script("lan", "echo hello > /dev/udp/10.9.2.2/23100");
  const flow = await until("the news", () => find((each) => each.destinationPort === 23_100));
  assert.equal([flow.source, flow.packetsOut, flow.bytesOut, flow.ended], ["10.9.1.2", 1, 34, false]);
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

test("watchConntrack: after an overrun it reads again, keeps no dead connection and tells nothing twice", async () => {
  sh("conntrack -F");
  const { watch, flows } = await watchReal({ receiveBytes: 4_096 });
  script("lan", "for port in {20000..20299}; do echo hello > /dev/udp/10.9.2.2/$port; done");
  const udp = () =>
    [...flows.values()].filter((flow) => flow.destinationPort >= 20_000 && flow.destinationPort < 20_300);
  await until("all of them", () => udp().length === 300 && udp().every((flow) => flow.bytesOut === 34));
  assert.is(new Set(udp().map((flow) => flow.destinationPort)).size, 300);
  // While this runs, nothing is read.
  sh("conntrack -F");
  await until("an overrun", () => watch.counters.overruns > 0);
  await until("all are gone", () => watch.size < 20 && watch.counters.vanished > 0);
  assert.ok(watch.counters.resyncs > 0);
  assert.ok(udp().every((flow) => flow.bytesOut === 34));
  const ended = udp().filter((flow) => flow.ended).length;
  assert.ok(ended < 300, "some ends were not told");
  assert.is(watch.counters.malformed, 0);
  watch.close();
});

test("deleteConnections cuts those selected and no others", async () => {
  sh("conntrack -F");
  const told: string[] = [];
  const { watch } = await watchReal({
    onFlows: (deltas) => {
      for (const each of deltas)
        if (each.ended) told.push(`${each.family} ${each.destinationPort} ${each.bytesOut}`);
    },
  });
  for (const address of ["10.9.2.2", "fd09:2::2"]) {
    script("lan", `for port in {21000..21079}; do echo hello > /dev/udp/${address}/$port; done`);
  }
  script("lan", "ping -n -c 1 10.9.2.2; ping -n -c 1 fd09:2::2");
  const selected = ({ destinationPort, icmpType, family }: Connection) =>
    (destinationPort >= 21_000 && destinationPort % 2 === 0) || (icmpType !== undefined && family === 6);
  const before = listed().length;
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
  // Those cut are told as ended.
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
