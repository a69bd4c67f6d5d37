/** Blocks on the real kernel, with both back ends: what they stop, and what they leave alone. */

import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "uvu";
import * as assert from "uvu/assert";
import { openNflog } from "../../src/kernel/kernel.ts";
import { emptyPlan } from "../../src/kernel/plan.ts";
import { eventually } from "../lab/children.ts";
import { end, plan } from "./plans.ts";
import { boot, close, ends, laptopWeb, open, scratch, shown, stateOf, system, wipe } from "./rig.ts";
import { answers, camera, laptop, type Street, sh, silent, video, web } from "./street.ts";

const kinds = ["tcp", "udp", "ping"] as const;
let street: Street;

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);
  it.before.each(async () => {
    street = await wipe();
  });

  it("a block stops running traffic of either family, others lose nothing, and it goes on when lifted", async () => {
    const kernel = await open(backend);
    const blocked = await Promise.all(
      web.addresses.flatMap((to) => kinds.map((kind) => street.stream(kind, "laptop", to))),
    );
    const others = await Promise.all([
      ...video.addresses.flatMap((to) => kinds.map((kind) => street.stream(kind, "laptop", to))),
      ...web.addresses.map((to) => street.stream("udp", "camera", to)),
    ]);
    await kernel.apply("flows", laptopWeb);
    await Promise.all(blocked.map((each) => each.isCut(400)));
    await Promise.all(others.map((each) => each.flows()));
    for (const each of others) assert.is(each.lost, 0, each.kind);
    await kernel.apply("flows", emptyPlan);
    await Promise.all(blocked.map((each) => each.flows()));
    for (const each of others) assert.is(each.lost, 0, each.kind);
  });

  it("protocols without ports or connections are stopped as well, in both directions", async () => {
    const kernel = await open(backend);
    await sh("nft -f -", [
      "table inet watcher { chain passed { type filter hook postrouting priority 300",
      'meta l4proto 253 counter comment "passed"',
      "}",
      "}",
    ]);
    const passed = async () => Number(/packets (\d+)/.exec(await sh("nft list table inet watcher"))![1]);
    const send = (host: string, to: string) =>
      sh(
        `ip netns exec ${host} socat -u - ${to.includes(":") ? `IP6-SENDTO:[${to}]` : `IP4-SENDTO:${to}`}:253`,
        ["x"],
      );
    const ways = [
      ...web.addresses.map((to) => ["laptop", to] as const),
      ...laptop.addresses.map((to) => ["internet", to] as const),
    ];
    for (const [at, [host, to]] of ways.entries()) {
      await send(host, to);
      await eventually(`packet to ${to}`, async () => (await passed()) === at + 1);
    }
    // Packets from the internet come from the uplink's address: that one is the far node here.
    const uplink = end(7, "203.0.113.1 2001:db8:ff::1");
    await kernel.apply(
      "flows",
      plan({
        ends: [...ends, uplink],
        pairs: [
          [1, 3],
          [1, 7],
        ],
      }),
    );
    for (const [host, to] of ways) await send(host, to);
    await send("camera", "198.51.100.10");
    await eventually("the camera's packet", async () => (await passed()) === ways.length + 1);
  });

  it("a blocked node's new address is blocked with the next plan, an unannounced one by its MAC", async () => {
    const kernel = await open(backend);
    await sh("ip -n laptop -batch -", [
      "addr add 10.1.0.77/24 dev eth0",
      "addr add fd01::77/64 dev eth0 nodad",
    ]);
    await sh("ip -n internet -batch -", [
      "addr add 198.51.100.99 dev lo",
      "addr add 2001:db8::99 dev lo nodad",
    ]);
    await kernel.apply("flows", laptopWeb);
    for (const [from, to, other] of [
      ["10.1.0.77", "198.51.100.10", "198.51.100.99"],
      ["fd01::77", "2001:db8::10", "2001:db8::99"],
    ] as const) {
      assert.ok(await silent("laptop", to, from), `${from} ${to}`);
      assert.ok(await answers("laptop", other, from));
    }
    const grown = end(3, "198.51.100.10 198.51.100.99 2001:db8::10 2001:db8::99");
    await kernel.apply("flows", plan({ ends: [laptop, camera, grown, video], pairs: [[1, 3]] }));
    assert.ok(await silent("laptop", "198.51.100.99"));
    assert.ok(await silent("laptop", "2001:db8::99"));
    assert.ok(await answers("camera", "198.51.100.99"));
    await sh("ip -n laptop -batch -", ["addr del 10.1.0.77/24 dev eth0", "addr del fd01::77/64 dev eth0"]);
    await sh("ip -n internet -batch -", ["addr del 198.51.100.99 dev lo", "addr del 2001:db8::99 dev lo"]);
  });

  it("a barred node reaches nobody, also by MAC; an exempt one everybody, whatever else says", async () => {
    const kernel = await open(backend);
    await sh("ip -n camera addr add 10.1.0.78/24 dev eth0");
    await kernel.apply(
      "nodes",
      plan({
        ends,
        pairs: [
          [1, 3],
          [1, 4],
        ],
        barred: [2],
        exempt: [4],
      }),
    );
    assert.equal(
      await Promise.all([
        silent("camera", "198.51.100.10"),
        silent("camera", "2001:db8::10"),
        silent("camera", "198.51.100.10", "10.1.0.78"),
        silent("camera", "10.1.0.1"),
        silent("laptop", "198.51.100.10"),
      ]),
      [true, true, true, true, true],
    );
    // Barred and exempt meet, a pair and exempt meet: exempt wins.
    for (const host of ["camera", "laptop"]) {
      for (const to of video.addresses) assert.ok(await answers(host, to), `${host} ${to}`);
    }
    await kernel.apply("nodes", plan({ ends, pairs: [[1, 3]], barred: [2], exempt: [2] }));
    assert.ok(await answers("camera", "198.51.100.10", "10.1.0.78"), "exempt by MAC");
    await sh("ip -n camera addr del 10.1.0.78/24 dev eth0");
  });

  it("an address that two nodes share is blocked if either is", async () => {
    const kernel = await open(backend);
    const shared = [laptop, camera, web, end(5, "198.51.100.10"), end(6, "198.51.100.20")];
    await kernel.apply(
      "flows",
      plan({
        ends: shared,
        pairs: [
          [1, 5],
          [2, 3],
        ],
      }),
    );
    assert.ok(await silent("laptop", "198.51.100.10"));
    assert.ok(await silent("camera", "198.51.100.10"));
    assert.ok(await answers("laptop", "2001:db8::10"), "node 5 has no such address");
    assert.ok(await silent("camera", "2001:db8::10"));
    // Two keepers with one address: a far name as keeper of two blocks.
    const twins = [
      end(11, "10.1.0.2"),
      end(12, "10.1.0.2"),
      end(13, "198.51.100.10"),
      end(14, "198.51.100.20"),
    ];
    await kernel.apply(
      "flows",
      plan({
        ends: twins,
        pairs: [
          [11, 13],
          [12, 14],
        ],
      }),
    );
    assert.ok(await silent("laptop", "198.51.100.10"));
    assert.ok(await silent("laptop", "198.51.100.20"));
    assert.ok(await answers("camera", "198.51.100.20"));
  });

  it("the tap copies DNS over UDP whole and at once, forwarded both ways and to us, and turns tracking on", async () => {
    const kernel = await open(backend);
    await kernel.apply("nodes", plan({ tap: { group: 9 } }));
    const seen: string[] = [];
    const nflog = await openNflog(system, {
      group: 9,
      onPacket: ({ payload, family, hook }) => void seen.push(`${hook} ${family} ${payload.length}`),
    });
    const body = "x".repeat(1200);
    const send = (host: string, options: string) => sh(`ip netns exec ${host} socat -u - ${options}`, [body]);
    const rows: [string, string, string][] = [
      ["laptop", "UDP4-SENDTO:198.51.100.10:53", "2 4 1229"],
      ["laptop", "UDP6-SENDTO:[2001:db8::10]:53", "2 6 1249"],
      ["internet", "UDP4-SENDTO:10.1.0.2:4000,sourceport=53", "2 4 1229"],
      ["internet", "UDP6-SENDTO:[fd01::2]:4000,sourceport=53", "2 6 1249"],
      ["laptop", "UDP4-SENDTO:10.1.0.1:53", "1 4 1229"],
      ["laptop", "UDP6-SENDTO:[fd01::1]:53", "1 6 1249"],
    ];
    await send("laptop", "UDP4-SENDTO:198.51.100.10:54");
    for (const [at, [host, options, expected]] of rows.entries()) {
      await send(host, options);
      await eventually(options, () => seen.length > at);
      assert.is(seen[at], expected, options);
    }
    nflog.close();
    const tracked = await sh("conntrack -L -p udp");
    const tracked6 = await sh("conntrack -L -f ipv6 -p udp");
    assert.match(tracked, "198.51.100.10");
    assert.match(tracked6, "2001:db8::10");
  });

  it.run();
}

test("nft: devices on the same bridge are kept apart, by address and by MAC", async () => {
  await wipe();
  const kernel = await open("nft");
  assert.ok(await answers("laptop", "10.1.0.3"));
  await sh("ip -n camera addr add 10.1.0.79/24 dev eth0");
  await kernel.apply("flows", plan({ ends, pairs: [[1, 2]] }));
  for (const to of ["10.1.0.3", "fd01::3", "10.1.0.79"]) assert.ok(await silent("laptop", to), to);
  assert.ok(await silent("camera", "fd01::2"));
  assert.ok(await answers("laptop", "198.51.100.10"));
  await kernel.apply("flows", emptyPlan);
  assert.ok(await answers("laptop", "10.1.0.79"));
  await sh("ip -n camera addr del 10.1.0.79/24 dev eth0");
});

test("ipset: works on the older iptables as well", async () => {
  await wipe();
  const folder = join(scratch, "legacy");
  mkdirSync(folder);
  for (const tool of ["iptables", "ip6tables"]) {
    for (const part of ["", "-save", "-restore"]) {
      symlinkSync(`/usr/sbin/${tool}-legacy${part}`, join(folder, `${tool}${part}`));
    }
  }
  const path = process.env.PATH;
  process.env.PATH = `${folder}:${path}`;
  try {
    await sh("iptables -A FORWARD -p tcp --dport 9 -j DROP");
    const kernel = await open("ipset");
    await kernel.apply("flows", plan({ ends, pairs: [[1, 3]], barred: [2], exempt: [4], tap: { group: 3 } }));
    assert.match(await sh("iptables-legacy-save"), /-A FORWARD -j gatehouse-flows-fwd\n-A FORWARD -p tcp/);
    assert.ok(await silent("laptop", "198.51.100.10"));
    assert.ok(await silent("laptop", "2001:db8::10"));
    assert.ok(await silent("camera", "198.51.100.10"));
    assert.ok(await answers("camera", "2001:db8::20"));
    assert.equal(await kernel.verify(), []);
    const right = await shown.ipset();
    await sh(`sh ${boot} ${stateOf("ipset")}`);
    assert.is(await shown.ipset(), right);
    await kernel.clear("flows");
    assert.not.match(await sh("iptables-legacy-save"), /gatehouse/);
  } finally {
    process.env.PATH = path;
  }
});

test("all is taken down", close);

test.run();
