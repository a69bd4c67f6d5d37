/** Two homes with the same addresses reach each other by name, through two real agents that may be killed. */

import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { openLinux } from "../../src/system/linux.ts";
import { recorded } from "../ipref/exchanges.ts";
import { eventually, LineReader } from "../lab/children.ts";
import {
  type HomeName,
  homeNames,
  mapperOf,
  Neighbourhood,
  type NeighbourhoodOptions,
  otherOf,
  referenceOf,
} from "../lab/neighbourhood.ts";

interface MappingRow {
  readonly id: number;
  readonly kind: string;
  readonly address: string;
  readonly context?: string;
  readonly reference: string;
  readonly state: string;
}

const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node"), log: () => {} });
const hexOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
/** The second host of each home. */
const nasReference = referenceOf(1);

async function inBoth(
  options: NeighbourhoodOptions,
  work: (both: Neighbourhood) => Promise<void>,
): Promise<void> {
  const both = await Neighbourhood.up(options);
  try {
    await work(both);
  } finally {
    await both.close();
  }
}

async function mappingsOf(both: Neighbourhood, home: HomeName): Promise<readonly MappingRow[]> {
  const { mappings } = (await both.call(home, "gatehouse.ipref", "mappings")) as {
    mappings: readonly MappingRow[];
  };
  return mappings;
}

/** What every copy of the mappings agrees on, whenever it is looked at. */
async function pairsOf(both: Neighbourhood, home: HomeName): Promise<string> {
  const rows = await mappingsOf(both, home);
  return rows
    .map(({ kind, address, context, reference }) => `${kind} ${address} ${context} + ${reference}`)
    .sort()
    .join("\n");
}

async function dropsOf(both: Neighbourhood, home: HomeName): Promise<Readonly<Record<string, number>>> {
  return ((await both.call(home, "gatehouse.ipref", "drops")) as { drops: Record<string, number> }).drops;
}

/** Ping, TCP and UDP by name, from the laptop of either home to the nas of the other. */
async function talk(both: Neighbourhood): Promise<void> {
  for (const home of homeNames) {
    const nas = `${home}-nas`;
    both.homes.spawn(nas, ["busybox", "nc", "-ll", "-p", "7001", "-e", "cat"]);
    both.homes.spawn(nas, ["socat", "UDP6-RECVFROM:7002,ipv6only=0,fork", "PIPE"]);
    await eventually(`listeners on ${nas}`, async () => {
      const text = await both.homes.must(nas, ["ss", "-Hlnut"]);
      return text.includes(":7001") && text.includes(":7002");
    });
  }
  for (const home of homeNames) {
    const from = `${otherOf(home)}-laptop`;
    const name = `nas.${home}.example`;
    const ping = await both.homes.must(from, ["ping", "-c", "1", "-W", "30", name]);
    assert.match(ping, " 0% packet loss");
    const tcp = await both.homes.must(from, ["busybox", "nc", "-w", "30", name, "7001"], {
      input: "by TCP\n",
    });
    assert.is(tcp, "by TCP\n");
    const udp = both.homes.spawn(from, ["socat", "-", `UDP:${name}:7002`], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    let answer = "";
    udp.stdout!.setEncoding("utf8").on("data", (chunk: string) => (answer += chunk));
    udp.stdin!.write("by UDP\n");
    await eventually(`an answer of ${name} by UDP`, () => answer !== "");
    udp.kill("SIGKILL");
    assert.is(answer, "by UDP\n");
  }
}

const versions: readonly NeighbourhoodOptions[] = [
  { lan: 6, tunnel: 6 },
  { lan: { mine: 4, parents: 6 }, tunnel: 6 },
  { lan: { mine: 6, parents: 4 }, tunnel: 4 },
];

for (const options of versions) {
  const { lan, tunnel } = options;
  const lans = typeof lan === "object" ? `IPv${lan.mine} and IPv${lan.parents}` : `IPv${lan}`;
  test(`homes in ${lans} reach each other by name over IPv${tunnel}, both ways`, () => inBoth(options, talk));
}

test("homes with the same IPv4 addresses reach each other by name, both ways, and the bus tells of it", () =>
  inBoth({}, async (both) => {
    await talk(both);
    const status = (await both.call("mine", "gatehouse.ipref", "status")) as Record<string, unknown>;
    assert.is(status.forwarding, true);
    assert.is(status.context, both.homes.mine.public4);
    assert.is(status.peers, 1);
    assert.is(status.restarts, 0);
    const { peers } = (await both.call("mine", "gatehouse.ipref", "peers")) as {
      peers: readonly Record<string, unknown>[];
    };
    assert.is(peers.length, 1);
    assert.is(peers[0]!.context, both.homes.parents.public4);
    assert.is(peers[0]!.by_name, 1);
    assert.is(peers[0]!.port, 1_045);
    const { packets_in, bytes_in, packets_out, bytes_out } = peers[0] as Record<string, number>;
    // All of it is the only one's that there is; the last of TCP may still be on its way.
    const { inPackets, inBytes, outPackets, outBytes } = status.packets as Record<string, number>;
    assert.ok(inPackets! > 10 && outPackets! > 10);
    assert.ok(packets_in! >= inPackets! && packets_in! < inPackets! + 5, `${packets_in} of ${inPackets}`);
    assert.ok(
      packets_out! >= outPackets! && packets_out! < outPackets! + 5,
      `${packets_out} of ${outPackets}`,
    );
    assert.ok(bytes_in! >= inBytes! && bytes_out! >= outBytes!);
    assert.equal(await dropsOf(both, "mine"), {});

    const all = await mappingsOf(both, "mine");
    const theirs = all.find(
      ({ kind, reference }) => kind === "theirs" && reference === String(nasReference),
    )!;
    assert.is(theirs.context, both.homes.parents.public4);
    const ours = all.filter(({ kind }) => kind === "ours").map(({ address }) => address);
    for (const host of both.homes.mine.hosts)
      assert.ok(ours.includes(host.address4), `${host.name} has a reference`);
    const paged: MappingRow[] = [];
    for (let after = 0; ; after = paged.at(-1)!.id) {
      const page = (await both.call("mine", "gatehouse.ipref", "mappings", { after, limit: 2 })) as {
        mappings: readonly MappingRow[];
        more?: boolean;
      };
      assert.ok(page.mappings.length <= 2);
      paged.push(...page.mappings);
      if (!page.more) break;
    }
    assert.equal(
      paged.map(({ id }) => id),
      all.map(({ id }) => id),
    );

    const resolved = (await both.call("mine", "gatehouse.ipref", "resolve", {
      name: "nas.parents.example",
    })) as {
      addresses: readonly { address: string }[];
    };
    assert.equal(
      resolved.addresses.map(({ address }) => address),
      [theirs.address],
    );
    const nobody = await both
      .call("mine", "gatehouse.ipref", "resolve", { name: "nobody.parents.example" })
      .catch((thrown: Error) => thrown);
    assert.instance(nobody, Error);

    const explained = (await both.call("mine", "gatehouse", "explain", {
      from: "192.168.1.10",
      to: theirs.address,
    })) as { ipref: readonly { address: string; context: string }[] };
    assert.equal(
      explained.ipref.map(({ address, context }) => [address, context]),
      [[theirs.address, both.homes.parents.public4]],
    );
    const table = await both.cli("mine", "ipref");
    assert.match(table, /^KIND +ADDRESS +GATEWAY/);
    assert.match(table, new RegExp(`^theirs +${theirs.address.replaceAll(".", "\\.")} `, "m"));

    // Written down while it runs: reachable at once, and no more when it is taken back.
    const extra = {
      kind: "theirs",
      address: "10.240.3.9",
      context: both.homes.parents.public4,
      reference: "2711",
    };
    const reach = (address: string) =>
      both.homes.exec("mine-laptop", ["ping", "-c", "1", "-W", "2", address]);
    assert.is.not((await reach(extra.address)).status, 0);
    await both.call("mine", "gatehouse.ipref", "add", extra);
    await eventually("what was written down", async () => (await reach(extra.address)).status === 0);
    const { kind, address, reference } = extra;
    await both.call("mine", "gatehouse.ipref", "remove", { kind, address, reference });
    assert.is.not((await reach(extra.address)).status, 0);
  }));

test("an unknown gateway gets no answer and leaves no state; the same packet from a peer is answered", () =>
  inBoth({}, async (both) => {
    const { mine, parents } = both.homes;
    const before = await pairsOf(both, "parents");
    // An echo request to the published nas, from a reference that nobody knows yet.
    const packet = (context: string) => {
      const bytes = (address: string) => Buffer.from(address.split(".").map(Number)).toString("hex");
      const references = `0000abcd${nasReference.toString(16).padStart(8, "0")}`;
      return `11404001${bytes(context)}${bytes(parents.public4)}${references}0800f7fd00010001`;
    };
    const send = (host: string, context: string) => {
      const escaped = packet(context).replace(/../g, "\\x$&");
      const socat = `socat -t 1 - UDP4:${parents.public4}:1045,bind=${context},shut-none`;
      return both.homes.must(host, ["busybox", "sh", "-c", `printf '${escaped}' | ${socat} | od -An -tx1`]);
    };
    const stranger = "203.0.113.1";
    assert.is(await send("internet", stranger), "");
    await eventually("a drop", async () => Object.keys(await dropsOf(both, "parents")).length > 0);
    assert.equal(await dropsOf(both, "parents"), { "in refused": 1 });
    assert.is(await pairsOf(both, "parents"), before);
    const { peers } = (await both.call("parents", "gatehouse.ipref", "peers")) as {
      peers: readonly { context: string }[];
    };
    assert.not.ok(peers.some(({ context }) => context === stranger));

    const answer = await eventually("an answer to a peer", async () =>
      (await send("mine", mine.public4)).replace(/\s/g, ""),
    );
    assert.match(answer, new RegExp(`^1.40..01.{16}${packet(stranger).slice(32, 40)}0000abcd00`));
    assert.match(await pairsOf(both, "parents"), `${mine.public4} + 43981`);
  }));

/** Intervals of a tenth of a second that a flow may take to go on once the agent is back, besides those of TCP's tries. */
const patience = 10;

test("a flow continues when either agent is killed and comes back, with the same mappings", () =>
  inBoth({}, async (both) => {
    let receivedBytes = 0;
    let intervals = 0;
    let silent = false;
    const server = both.homes.spawn(
      "parents-nas",
      ["iperf3", "-s", "-1", "-i", "0.1", "-f", "k", "--forceflush"],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    const reader = new LineReader((line) => {
      const hit = /sec\s+([\d.]+) ([KMG]?)Bytes/.exec(line);
      if (!hit) return;
      const bytes = Number(hit[1]) * { "": 1, K: 1e3, M: 1e6, G: 1e9 }[hit[2] as "" | "K" | "M" | "G"];
      receivedBytes += bytes;
      silent = bytes === 0;
      intervals++;
    });
    server.stdout!.setEncoding("utf8").on("data", (chunk: string) => reader.push(chunk));
    await eventually("the server", async () =>
      (await both.homes.must("parents-nas", ["ss", "-Hlnt"])).includes(":5201"),
    );
    const client = both.homes.spawn(
      "mine-laptop",
      ["iperf3", "-c", "nas.parents.example", "-t", "600", "-b", "100M"],
      { stdio: "ignore" },
    );
    await eventually("data", () => intervals > 3 && receivedBytes > 0);
    for (const victim of homeNames) {
      const before = { mine: await pairsOf(both, "mine"), parents: await pairsOf(both, "parents") };
      await both.agents[victim].kill();
      // Whoever moves no packets is gone indeed.
      const killed = intervals;
      await eventually(`silence after the end of ${victim}`, () => silent && intervals > killed);
      await both.agents[victim].start();
      // The sender tries again by a clock of its own, and the later the longer nobody has answered.
      const [waited, back] = [intervals - killed, intervals];
      await eventually(`data after the return of ${victim}`, () => !silent);
      assert.ok(
        intervals - back <= patience + 2 * waited,
        `${intervals - back} intervals without data after ${waited} without an agent`,
      );
      for (const home of homeNames)
        assert.is(await pairsOf(both, home), before[home], `${home} after ${victim}`);
    }
    assert.is(client.exitCode, null, "it is still the same connection");
    client.kill("SIGKILL");
  }));

test("an agent that is there before its address forwards once that comes, and goes on when another does", () =>
  inBoth({}, async (both) => {
    const { homes, agents } = both;
    const { public4 } = homes.mine;
    const router = (...words: string[]) => homes.must("mine", ["ip", ...words]);
    const isForwarding = async () =>
      ((await both.call("mine", "gatehouse.ipref", "status")) as { forwarding: boolean }).forwarding;
    await agents.mine.stop();
    await router("address", "delete", `${public4}/24`, "dev", "wan");
    await agents.mine.start();
    assert.is(await isForwarding(), false);
    assert.match(agents.mine.log, `Cannot open UDP socket on ${public4} port 1045`);
    await router("address", "add", `${public4}/24`, "dev", "wan");
    await router("route", "add", "default", "via", "198.51.100.1");
    await eventually("the tunnel", isForwarding);
    const ping = ["ping", "-c", "1", "-W", "30", "nas.parents.example"];
    await homes.must("mine-laptop", ping);
    const device = () => homes.must("mine", ["cat", "/sys/class/net/ipref/ifindex"]).catch(() => "");
    const before = await device();
    await router("address", "add", "192.168.7.1/24", "dev", "br-lan");
    await eventually("a tunnel that knows of it", async () => !["", before].includes(await device()));
    await eventually("packets", async () => (await homes.exec("mine-laptop", ping)).status === 0);
  }));

test("an unmodified plugin and dns-agent get what the Go gateway answers, from the agent's socket", () =>
  inBoth({ agents: ["mine"] }, async (both) => {
    const answers: Uint8Array[] = [];
    let closed = false;
    const socket = system.unix(
      { type: "seqpacket", connect: mapperOf("mine") },
      {
        onMessage: (bytes) => answers.push(bytes.slice()),
        onOverrun() {},
        onClose: () => {
          closed = true;
        },
      },
    );
    const ask = async (request: Uint8Array) => {
      const before = answers.length;
      socket.send(request);
      await eventually(`an answer to ${hexOf(request)}`, () => answers.length > before || closed);
      assert.not.ok(closed, "it is not hung up on");
      return answers[before]!;
    };
    const encoded = new Set<string>();
    for (const { request, answer, title } of recorded("plugin.proxy.log")) {
      const got = await ask(request);
      // The encoded address is ours to choose; everything else is told back.
      assert.is(got[8], 10, title);
      encoded.add(hexOf(got.subarray(8, 12)));
      got.fill(0, 8, 12);
      assert.is(hexOf(got), hexOf(answer!.fill(0, 8, 12)), title);
    }
    const peers = (await mappingsOf(both, "mine")).filter(({ kind }) => kind === "theirs");
    assert.is(peers.length, encoded.size);
    for (const { request, answer, title } of recorded("dns-agent.proxy.log")) {
      assert.is(hexOf(await ask(request)), hexOf(answer!), title);
    }
    const published = (await mappingsOf(both, "mine")).map(
      ({ address, reference }) => `${address} ${reference}`,
    );
    for (const pair of ["192.168.97.1 1", "192.168.97.11 11", "192.168.97.22 22", "192.168.97.33 33"]) {
      // Reference 1 is the gateway's, which needs no mapping.
      assert.is(published.includes(pair), !pair.endsWith(" 1"), pair);
    }
    socket.close();
  }));

test.run();
