/** Plans of isolation on the real kernel, both back ends: what passes is what the plan says, and nothing else. */

import { createSocket } from "node:dgram";
import { mkdtempSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { IsolationPlan } from "../../src/kernel/kernel.ts";
import { eventually, must } from "../lab/children.ts";
import { close, enforced, usual } from "./isolated.ts";
import { app, cam, db, dnsPort, internet, log, plan, standinOf, tryAll, web } from "./quarter.ts";
import { scratch } from "./rig.ts";
import { sh } from "./street.ts";

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);

  it("passes between every ordered pair, in both families, what the plan says and nothing else", async () => {
    const [all, kernel] = await enforced(backend, usual);
    assert.equal(await kernel.verify(), []);
    const before = await kernel.dropped("isolation");
    await tryAll(all, usual);
    assert.equal(await kernel.verify(), []);
    assert.ok((await kernel.dropped("isolation")) > before + 100n);
    // Whom the target sees is the source's stand-in.
    for (const family of [4, 6] as const) {
      const { seen } = await all.try(app, { kind: "tcp", to: standinOf(app, db, family) });
      assert.is(seen, standinOf(db, app, family));
    }
  });

  it("lets nobody use another's route: spoofed sources, answers out of nowhere, another's stand-ins", async () => {
    const [all, kernel] = await enforced(backend, usual);
    const stolen = [app, db].flatMap((owner) => [`${owner[4]}/32`, `${owner[6]}/128`]);
    await sh(
      "ip -n cam -batch -",
      stolen.map((each) => `addr add ${each} dev eth0 nodad`),
    );
    try {
      for (const family of [4, 6] as const) {
        const to = standinOf(app, db, family);
        await eventually("the owner's own", async () => {
          await all.try(app, { kind: "udp", to, word: `own${family}` });
          return (await all.heard(db, `own${family}`)) > 0;
        });
        const before = await kernel.dropped("isolation");
        const word = `stolen${family}`;
        await all.passing([
          [cam, { kind: "udp", to, from: app[family], word }],
          [cam, { kind: "udp", to: standinOf(db, app, family), from: db[family], word }],
          [cam, { kind: "udp", to, word }],
          [web, { kind: "udp", to, word }],
          [cam, { kind: "udp", to: family === 4 ? "198.19.255.1" : "fd00:6a7e::ffff", word }],
        ]);
        assert.ok((await kernel.dropped("isolation")) >= before + 5n, `${family}: counted`);
        for (const each of [app, db, web]) assert.is(await all.heard(each, `stolen${family}`), 0);
      }
    } finally {
      await sh(
        "ip -n cam -batch -",
        stolen.map((each) => `addr del ${each} dev eth0`),
      );
    }
  });

  it("gives of the router DNS alone, whomever it was asked of, and nothing when the agent is away", async () => {
    const [all] = await enforced(backend, usual);
    const sockets = (["udp4", "udp6"] as const).map((type) => {
      const socket = createSocket({ type, ipv6Only: type === "udp6" });
      socket.on("message", (message, { address, port }) =>
        socket.send(`agent ${message.length}`, port, address),
      );
      return socket.bind(dnsPort);
    });
    const server = createServer(
      (socket) =>
        void socket.on("error", () => {}).once("data", (data) => socket.end(`agent ${data.length}\n`)),
    );
    server.listen(dnsPort, "::");
    const other = createServer((socket) => void socket.end("router 1\n")).listen(8022, "::");
    const asked = [
      [app, "203.0.113.77"],
      [cam, "10.23.0.1"],
      [app, standinOf(app, db, 4)],
      [db, db[4].replace(/2$/, "1")],
      [web, "2001:db8:5::5"],
      [log, "fd22::1"],
    ] as const;
    try {
      for (const [from, to] of asked) {
        for (const kind of ["udp", "tcp"] as const) {
          const outcome = await eventually("an answer", async () => {
            const given = await all.try(from, { kind, to, port: 53 });
            return given.seen === undefined ? undefined : given;
          });
          assert.is(outcome.seen, "agent", `${from.name} ${kind} ${to}`);
        }
      }
      const others = ["10.21.0.1", "fd21::1", "203.0.113.2", "10.22.0.1"].flatMap((to) =>
        (
          [
            ["udp", dnsPort],
            ["tcp", dnsPort],
            ["tcp", 8022],
            ["icmp", 0],
          ] as const
        ).map(([kind, port]) => [app, { kind, to, port }] as const),
      );
      // DNS over TLS goes not even where a route is.
      const secret = (["udp", "tcp"] as const).flatMap((kind) =>
        ([4, 6] as const).map(
          (family) => [app, { kind, to: standinOf(app, db, family), port: 853 }] as const,
        ),
      );
      assert.equal(await all.passing([...others, ...secret]), []);
    } finally {
      for (const socket of sockets) socket.close();
      server.close();
      other.close();
    }
    const unheard = asked.map(([from, to]) => [from, { kind: "udp", to, port: 53 }] as const);
    assert.equal(await all.passing(unheard), [], "no agent, no answer");
    assert.ok(await eventually("a route", () => all.passes(app, { kind: "tcp", to: standinOf(app, db, 4) })));
  });

  it("opens a door of the router to whom it is for, and no other port", async () => {
    const doors = [
      { device: "br-apps", source: app[4], port: 8022 },
      { device: "br-apps", source: app[6], port: 8022 },
      { device: "thing", port: 8023 },
    ];
    const [all, kernel] = await enforced(backend, { ...usual, doors });
    const servers = [8022, 8023].map((port) =>
      createServer(
        (socket) =>
          void socket.on("error", () => {}).once("data", (data) => socket.end(`router ${data.length}\n`)),
      ).listen(port, "::"),
    );
    try {
      for (const [from, to, port] of [
        [app, "10.21.0.1", 8022],
        [app, "10.22.0.1", 8022],
        [app, "fd21::1", 8022],
        [cam, "10.23.0.1", 8023],
        [cam, "fd23::1", 8023],
      ] as const)
        await eventually(`${from.name} at ${to}`, () => all.passes(from, { kind: "tcp", to, port }));
      const others = (
        [
          [web, "10.21.0.1", 8022],
          [web, "fd21::1", 8022],
          [cam, "10.23.0.1", 8022],
          [app, "10.21.0.1", 8023],
          [db, "10.22.0.1", 8022],
        ] as const
      ).map(([from, to, port]) => [from, { kind: "tcp", to, port }] as const);
      assert.equal(await all.passing(others), []);
      await kernel.apply("isolation", usual);
      assert.not(await all.passes(app, { kind: "tcp", to: "10.21.0.1", port: 8022 }), "shut again");
    } finally {
      for (const server of servers) server.close();
    }
  });

  it("leads out what may leave, under the router's own translation, and to no other address", async () => {
    const outside = ([4, 6] as const).map((family) => ({
      ...{
        device: app.device,
        source: app[family],
        standin: standinOf(app, internet, family),
        target: internet[family],
      },
      ports: [{ protocol: "tcp" as const, first: 80, last: 443 }],
    }));
    const [all, kernel] = await enforced(backend, { ...usual, outside });
    for (const family of [4, 6] as const) {
      const to = standinOf(app, internet, family);
      assert.is(
        (
          await eventually("it", async () => {
            const outcome = await all.try(app, { kind: "tcp", to });
            return outcome.passed ? outcome : undefined;
          })
        ).seen,
        app[family],
      );
      const silent = [
        [app, { kind: "udp", to, port: 80 }],
        [app, { kind: "tcp", to: internet[family] }],
        [web, { kind: "tcp", to }],
        [db, { kind: "tcp", to: internet[family] }],
        [internet, { kind: "tcp", to: app[family] }],
      ] as const;
      assert.equal(await all.passing(silent), []);
    }
    await kernel.apply("isolation", usual);
    assert.not(await all.passes(app, { kind: "tcp", to: standinOf(app, internet, 4) }));
  });

  it("sends nothing elsewhere while a target's device is away", async () => {
    const given = plan([[app, cam]]);
    const [all] = await enforced(backend, given);
    const reaches = () => all.passes(app, { kind: "udp", to: standinOf(app, cam, 4), word: "away" });
    assert.ok(await eventually("the camera", reaches));
    await sh(`ip -n internet addr add ${cam[4]}/32 dev lo`);
    await sh("ip link set thing down");
    try {
      assert.match(await sh(`ip route get ${cam[4]}`), "dev wan");
      assert.not(await reaches());
      assert.is(await all.heard(internet, "away"), 0);
    } finally {
      await sh("ip -batch -", ["link set thing up", "addr add fd23::1/64 dev thing nodad"]);
      await sh(`ip -n internet addr del ${cam[4]}/32 dev lo`);
    }
    assert.ok(await eventually("the camera again", reaches));
  });

  it("stands beside blocks: whoever is connected and blocked stays blocked", async () => {
    const [all, kernel] = await enforced(backend, usual);
    const ends = [
      { id: 1, addresses: [app[4], app[6]], macs: [] },
      { id: 2, addresses: [db[4], db[6]], macs: [] },
    ];
    const to = standinOf(app, db, 4);
    assert.ok(await eventually("a route", () => all.passes(app, { kind: "udp", to })));
    await kernel.apply("flows", { ends, pairs: [[1, 2]], barred: [], exempt: [] });
    assert.not(await all.passes(app, { kind: "udp", to }));
    assert.ok(
      await eventually("another", () => all.passes(app, { kind: "udp", to: standinOf(app, web, 4) })),
    );
    await kernel.clear("flows");
    assert.ok(await eventually("it again", () => all.passes(app, { kind: "udp", to })));
  });

  it("opens nothing that the machine's own firewall denies, and all of a plan with what segments.sh puts in", async () => {
    if (backend === "ipset") return;
    const [all] = await enforced(backend, usual);
    const fw4 = `table inet fw4
delete table inet fw4
table inet fw4 {
  chain forward { type filter hook forward priority filter; policy drop
    ct state established,related accept
  }
  chain input { type filter hook input priority filter; policy drop; }
  chain dstnat { type nat hook prerouting priority dstnat; policy accept; }
  chain srcnat { type nat hook postrouting priority srcnat; policy accept
    ip saddr 10.0.0.0/8 oifname "br-data" masquerade
  }
}
`;
    await must(["nft", "-f", "-"], { input: fw4 });
    assert.not(await all.passes(app, { kind: "tcp", to: standinOf(app, db, 4) }));
    await putSegments(usual);
    await tryAll(all, usual, { quick: true });
    const { seen } = await all.try(app, { kind: "tcp", to: standinOf(app, db, 4) });
    assert.is(seen, standinOf(db, app, 4), "not masqueraded");
  });

  it.run();
}

/** Has the shipped script let a plan's segments through the firewall, as the configuration of that plan does. */
async function putSegments({ segments }: IsolationPlan): Promise<void> {
  const folder = mkdtempSync(join(scratch, "segments-"));
  const lines = [
    "gatehouse.isolation=isolation",
    "gatehouse.isolation.enabled='1'",
    `gatehouse.isolation.dns_port='${dnsPort}'`,
    ...segments.flatMap(({ name, devices, mdns }) => [
      `gatehouse.${name}=segment`,
      `gatehouse.${name}.device='${devices.join("' '")}'`,
      `gatehouse.${name}.mdns='${mdns ? 1 : 0}'`,
    ]),
  ];
  writeFileSync(join(folder, "lines"), `${lines.join("\n")}\n`);
  writeFileSync(
    join(folder, "uci"),
    `#!/bin/sh
shift
case $1 in
show) cat ${folder}/lines ;;
get) sed -n "s/^$2='\\(.*\\)'$/\\1/p" ${folder}/lines | tr -d "'" | grep . ;;
esac
`,
    { mode: 0o755 },
  );
  const script = join(process.cwd(), "files/usr/lib/gatehouse/segments.sh");
  await must(["sh", script, "put"], { env: { ...process.env, PATH: `${folder}:${process.env.PATH}` } });
}

const last = suite("the end");
last("all is taken down", close);
last.run();
