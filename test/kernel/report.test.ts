/** What the kernel tells of packets, with both back ends: those dropped, and answers of DNS that wait. */

import { suite, test } from "uvu";
import * as assert from "uvu/assert";
import { type Nflog, type Nfqueue, openNflog, openNfqueue, reportBytes } from "../../src/kernel/kernel.ts";
import { emptyPlan } from "../../src/kernel/plan.ts";
import { decodeAddress } from "../../src/lib/address.ts";
import { Daemon, eventually, run } from "../lab/children.ts";
import { end, nets, plan } from "./plans.ts";
import { close, ends, laptopWeb, open, spied, system, wipe } from "./rig.ts";
import { answers, laptop, sh, silent, web } from "./street.ts";

const listening: (Nflog | Nfqueue)[] = [];

/** Sends datagrams of 256 bytes from a host, none answered. */
const flood = (host: string, to: string, count: number) =>
  run(["ip", "netns", "exec", host, "socat", "-b", "256", "-u", "-", to], { input: "x".repeat(256 * count) });

/** Counts what the laptop sends to port 9: a stream that is cut into datagrams may make one more. */
async function countSent(): Promise<() => Promise<bigint>> {
  await sh("ip netns exec laptop nft -f -", [
    "flush ruleset",
    "table inet sent { chain c { type filter hook output priority 300; udp dport 9 counter; }",
    "}",
  ]);
  return async () =>
    BigInt(/packets (\d+)/.exec(await sh("ip netns exec laptop nft list table inet sent"))![1]!);
}

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);
  it.before.each(async () => void (await wipe()));
  it.after.each(async () => {
    for (const each of listening.splice(0)) await each.close();
  });

  it("the heads of dropped packets are copied, and every one is counted, whatever becomes of the rules", async () => {
    const kernel = await open(backend);
    assert.is(await kernel.dropped("flows"), 0n);
    const sent = await countSent();
    const seen: string[] = [];
    let longest = 0;
    listening.push(
      await openNflog(system, {
        ...{ group: 11, copyBytes: reportBytes, threshold: 64 },
        onPacket: ({ payload, family }) => {
          longest = Math.max(longest, payload.length);
          const [at, size] = family === 4 ? [12, 4] : [8, 16];
          seen.push(`${decodeAddress(payload, at, family)} ${decodeAddress(payload, at + size, family)}`);
        },
      }),
    );
    const reported = plan({ ends, pairs: [[1, 3]], report: { group: 11 } });
    await kernel.apply("flows", reported);
    await flood("laptop", "UDP4-SENDTO:198.51.100.10:9", 500);
    await flood("laptop", "UDP6-SENDTO:[2001:db8::10]:9", 300);
    const first = await sent();
    assert.ok(first >= 800n);
    await eventually("the copies", () => BigInt(seen.length) === first);
    assert.equal([...new Set(seen)].sort(), ["10.1.0.2 198.51.100.10", "fd01::2 2001:db8::10"]);
    assert.is(longest, reportBytes);
    assert.is(await kernel.dropped("flows"), first);
    // Rules that are made anew begin to count anew; the sum does not.
    await kernel.apply("flows", { ...reported, exempt: [4] });
    await flood("laptop", "UDP4-SENDTO:198.51.100.10:9", 100);
    const second = await sent();
    assert.ok(second > first);
    assert.is(await kernel.dropped("flows"), second);
    await kernel.apply("flows", emptyPlan);
    await flood("laptop", "UDP4-SENDTO:198.51.100.10:9", 100);
    const passed = (await sent()) - second;
    assert.is(await kernel.dropped("flows"), second);
    await kernel.apply("flows", laptopWeb);
    await flood("laptop", "UDP4-SENDTO:198.51.100.10:9", 100);
    const all = (await sent()) - passed;
    assert.ok(all > second);
    assert.is(await kernel.dropped("flows"), all);
    await kernel.apply("flows", reported);
    await kernel.clear("flows");
    assert.is(await kernel.dropped("flows"), all);
    assert.is(await kernel.dropped("nodes"), 0n);
  });

  it("a flood is counted to the last packet, copied in part or not at all", async () => {
    const kernel = await open(backend);
    await kernel.apply("flows", plan({ ends, pairs: [[1, 3]], report: { group: 11 } }));
    const sent = await countSent();
    for (let times = 0; times < 5; times++) await flood("laptop", "UDP4-SENDTO:198.51.100.10:9", 4_000);
    assert.ok((await sent()) >= 20_000n);
    assert.is(await kernel.dropped("flows"), await sent());
  });

  it("a net is blocked with all that is in it, LAN devices too, except for what is exempt; one more is one more", async () => {
    const { machine, sent } = spied();
    const kernel = await open(backend, machine);
    const listed = plan({
      barredNets: nets("198.51.100.0/28 2001:db8::/124"),
      exemptNets: nets("198.51.100.20/32"),
    });
    await kernel.apply("flows", listed);
    assert.ok(await silent("laptop", "198.51.100.10"));
    assert.ok(await answers("laptop", "198.51.100.20"));
    assert.ok(await answers("laptop", "2001:db8::10"), "beside it");
    sent.length = 0;
    const grown = {
      ...listed,
      barredNets: [...listed.barredNets!, ...nets("2001:db8::10/124 10.1.0.3/32 10.1.0.2/31")],
    };
    await kernel.apply("flows", grown);
    assert.not.match(sent.join("\n"), "198.51.100.0");
    assert.ok(await silent("laptop", "2001:db8::10"));
    assert.ok(await silent("camera", "203.0.113.1"));
    assert.ok(await silent("internet", "10.1.0.2"));
    assert.ok(await answers("laptop", "198.51.100.20"), "exempt");
    assert.equal(await kernel.verify(), []);
    await kernel.apply("flows", {
      ...listed,
      barredNets: nets("0.0.0.0/0 ::/0 10.0.0.0/8"),
      exemptNets: nets("198.51.100.16/28 fd01::/16"),
    });
    assert.ok(await silent("laptop", "198.51.100.10"));
    assert.ok(await answers("laptop", "198.51.100.20"));
    assert.ok(await answers("laptop", "2001:db8::10"));
    assert.ok(await silent("internet", "2001:db8:ff::2"));
    assert.equal(await kernel.verify(), []);
    await kernel.apply("flows", listed);
    assert.ok(await answers("internet", "2001:db8:ff::2"));
  });

  it("the kernel tells why and where a packet is dropped, and the rules it names are there", async () => {
    const kernel = await open(backend);
    const [source, destination] = [laptop.addresses[0]!, web.addresses[0]!];
    assert.equal(kernel.explain("flows", { source, destination }).reasons, []);
    await kernel.apply("flows", plan({ ends, pairs: [[1, 3]], barredNets: nets("198.51.100.0/24") }));
    const told = kernel.explain("flows", { source, destination });
    assert.equal([told.backend, told.verdict, told.mark], [backend, "drop", "none"]);
    assert.equal(
      told.reasons.map(({ kind }) => kind),
      ["barred", "pair"],
    );
    const places = told.reasons.flatMap((each) => each.places);
    assert.ok(places.length > 2);
    for (const { table, chain, rule } of places) {
      const text =
        backend === "nft"
          ? await sh(`nft list chain ${table} ${chain}`)
          : await sh(`${table.split(" ")[0]} -S ${chain}`);
      for (const word of rule.match(/@\w+|gh-[\w-]+/g)!)
        assert.ok(text.includes(word), `${word} in ${chain}`);
    }
    const known = kernel.explain("flows", {
      source: "192.0.2.1" as never,
      destination: "192.0.2.2" as never,
    });
    assert.equal([known.verdict, known.reasons], ["pass", []]);
    // Towards a MAC only where it is seen.
    await kernel.apply("flows", plan({ ends, barred: [1] }));
    const towards = {
      source: destination,
      destination: "10.1.0.99" as never,
      destinationMac: laptop.macs[0]!,
    };
    assert.is(kernel.explain("flows", towards).verdict, backend === "nft" ? "drop" : "pass");
    assert.is(
      kernel.limits.some((each) => each.includes("just taken")),
      backend === "ipset",
    );
  });

  it("answers wait for our verdict, and pass without us; what is blocked stays blocked, and others' rules count", async () => {
    const kernel = await open(backend);
    await kernel.apply("nodes", plan({ tap: { group: 9, hold: { queue: 12 } } }));
    await kernel.apply("flows", plan({ ends, pairs: [[2, 4]] }));
    await sh("ip netns exec laptop nft -f -", [
      "flush ruleset",
      "table inet seen { chain c { type filter hook prerouting priority -300; udp sport 53 counter; }",
      "}",
    ]);
    const arrived = async () =>
      Number(/packets (\d+)/.exec(await sh("ip netns exec laptop nft list table inet seen"))![1]);
    const answer = () => flood("internet", "UDP4-SENDTO:10.1.0.2:4000,sourceport=53,reuseaddr", 1);
    const own = () => run(["socat", "-u", "-", "UDP6-SENDTO:[fd01::2]:4000,sourceport=53"], { input: "x" });
    await answer();
    await own();
    await eventually("both, without a listener", async () => (await arrived()) === 2);
    const logged: number[] = [];
    listening.push(
      await openNflog(system, { group: 9, onPacket: ({ payload }) => void logged.push(payload.length) }),
    );
    const waiting: (() => void)[] = [];
    const queue = await openNfqueue(system, {
      queue: 12,
      holdMs: 10_000,
      onPacket: (_, give) => void waiting.push(give),
    });
    listening.push(queue);
    await answer();
    await own();
    if (kernel.limits.some((each) => each.startsWith("Answers"))) {
      // A kernel that cannot let them wait shows them as they pass.
      await eventually("copies", () => logged.length === 2);
      await eventually("both", async () => (await arrived()) === 4);
      return;
    }
    await eventually("both to wait", () => waiting.length === 2);
    assert.equal([await arrived(), logged], [2, []]);
    for (const give of waiting) give();
    await eventually("both", async () => (await arrived()) === 4);
    // Accepted here is not accepted by the firewall.
    await sh("iptables -A FORWARD -p udp --sport 53 -j DROP");
    await answer();
    await eventually("one more to wait", () => waiting.length === 3);
    waiting[2]!();
    await answers("laptop", "198.51.100.10");
    assert.is(await arrived(), 4);
    await queue.close();
    assert.equal(await kernel.verify(), []);
    await kernel.apply("nodes", plan({ tap: { group: 9 } }));
    assert.not.match(await sh("iptables-save"), "NFQUEUE");
    await sh("ip netns exec laptop nft flush ruleset");
  });

  it("the tap shows DNS over TCP too", async () => {
    const kernel = await open(backend);
    await kernel.apply("nodes", plan({ tap: { group: 9 } }));
    const seen: string[] = [];
    listening.push(
      await openNflog(system, {
        group: 9,
        onPacket: ({ payload, family, hook }) =>
          void seen.push(
            `${hook} ${family} ${Buffer.from(payload).includes("question") ? "question" : Buffer.from(payload).includes("answer") ? "answer" : ""}`,
          ),
      }),
    );
    const dial = async (server: readonly string[], target: string) => {
      const family = target.startsWith("[") ? 6 : 4;
      const listen = `TCP${family}-LISTEN:53,reuseaddr,fork`;
      const daemon = new Daemon({ name: "server", argv: [...server, "socat", listen, "SYSTEM:echo answer"] });
      await daemon.start();
      try {
        const client = ["ip", "netns", "exec", "laptop", "socat", "-t", "1", "-", `TCP:${target}:53`];
        await eventually("an answer", async () =>
          (await run(client, { input: "question" })).stdout.includes("answer"),
        );
      } finally {
        await daemon.stop();
      }
    };
    await dial(["ip", "netns", "exec", "internet"], "198.51.100.10");
    await eventually("both ways", () => ["2 4 question", "2 4 answer"].every((each) => seen.includes(each)));
    await dial([], "[fd01::1]");
    await eventually("the router's own", () =>
      ["1 6 question", "3 6 answer"].every((each) => seen.includes(each)),
    );
  });

  it.run();
}

test("a blocked device can ask for an address, and for nothing else", async () => {
  await wipe();
  for (const backend of ["nft", "ipset"] as const) {
    const kernel = await open(backend);
    await kernel.apply("flows", plan({ ends: [...ends, end(8, "203.0.113.1")], barred: [1] }));
    let heard = "";
    const server = run(["timeout", "60", "socat", "-u", "UDP4-RECVFROM:67,reuseaddr", "-"]).then(
      ({ stdout }) => (heard = stdout),
    );
    const listens = async () => (await run(["ss", "-Hlnu", "sport = :67"])).stdout !== "";
    await eventually("a server", listens);
    await eventually("a query", async () => {
      await run(
        ["ip", "netns", "exec", "laptop", "socat", "-u", "-", "UDP4-SENDTO:10.1.0.1:67,sourceport=68"],
        { input: "query" },
      );
      return heard !== "" || !(await listens());
    });
    await server;
    assert.is(heard, "query");
    assert.ok(await silent("laptop", "10.1.0.1"));
    await kernel.clear("flows");
  }
});

test("all is taken down", close);
test.run();
