/** Isolation over time, on the real kernel, both back ends: routes that go, rules that go, the agent that goes. */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import { deleteConnections } from "../../src/kernel/kernel.ts";
import type { System } from "../../src/system/system.ts";
import { eventually, must, run } from "../lab/children.ts";
import { close, connections, enforced, quarter, usual } from "./isolated.ts";
import { app, closed, crowd, db, standinOf, tryAll, web } from "./quarter.ts";
import { boot, open, shown, spied, stateOf, system } from "./rig.ts";
import { sh } from "./street.ts";

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);

  it("ends a running download with its route, and leaves others alone", async () => {
    const [all, kernel] = await enforced(backend, usual);
    const [gone, kept] = [standinOf(app, db, 4), standinOf(app, web, 6)];
    for (const to of [gone, kept]) assert.ok(await all.passes(app, { kind: "load", to, port: 81 }));
    const more = async (from: string) => {
      const before = await all.loaded(app, from);
      return eventually(`more from ${from}`, async () => (await all.loaded(app, from)) > before);
    };
    await more(gone);
    await more(kept);
    assert.is(await connections(app[4], gone), 1);
    await kernel.apply("isolation", {
      ...usual,
      routes: usual.routes.filter(({ standin }) => standin !== gone),
    });
    const stopped = await all.loaded(app, gone);
    await more(kept);
    await more(kept);
    // What the receiver had in its queues when the rules came into force is not counted as passed.
    await eventually("an end", async () => {
      const one = await all.loaded(app, gone);
      await more(kept);
      return (await all.loaded(app, gone)) === one;
    });
    assert.ok((await all.loaded(app, gone)) - stopped < 64 * 1024 * 1024);
    await eventually("the connection's end", async () => (await connections(app[4], gone)) === 0);
    assert.is(await connections(app[6], kept), 1);
    assert.not(await all.passes(app, { kind: "tcp", to: gone }));
    await kernel.apply("isolation", usual);
    assert.ok(await eventually("the route again", () => all.passes(app, { kind: "tcp", to: gone })));
  });

  it("puts right what somebody flushed, and cuts what came to be meanwhile", async () => {
    const [all, kernel] = await enforced(backend, usual);
    const rules = await shown[backend]();
    if (backend === "nft") await sh("nft flush ruleset");
    else {
      for (const tool of ["iptables", "ip6tables"])
        for (const table of ["nat", "filter", "mangle"]) await sh(`${tool} -t ${table} -F`);
    }
    await all.passes(app, { kind: "udp", to: standinOf(app, db, 4) });
    await eventually("rules", async () => (await shown[backend]()) === rules);
    await eventually(
      "no stray connection",
      async () => (await connections(app[4], standinOf(app, db, 4))) === 0,
    );
    await eventually("a repair", () => kernel.counters.repaired);
    assert.ok(await eventually("a route", () => all.passes(app, { kind: "udp", to: standinOf(app, db, 4) })));
    assert.not(await all.passes(app, { kind: "udp", to: db[4] }));
  });

  it("lies ready for the boot: without the agent nothing opens and nothing allowed breaks", async () => {
    const [all, kernel] = await enforced(backend, usual);
    const rules = await shown[backend]();
    kernel.close();
    await sh("nft flush ruleset");
    if (backend === "ipset") await sh("ipset destroy");
    await deleteConnections(system, () => true);
    for (let twice = 0; twice < 2; twice++) {
      await sh(`sh ${boot} ${stateOf(backend)}`);
      assert.is(sorted(await shown[backend]()), sorted(rules));
    }
    await tryAll(all, usual, { quick: true });
    const next = await open(backend);
    await next.apply("isolation", usual);
    assert.is(next.counters.unchanged, 1, "taken over as it was");
  });

  it("translates with checksums, errors and path MTU that the ends' kernels find right", async () => {
    const [all] = await enforced(backend, usual);
    const bad = async (name: string) => {
      const text = await must(["ip", "netns", "exec", name, "cat", "/proc/net/snmp", "/proc/net/snmp6"]);
      return errorsIn(text);
    };
    const before = await Promise.all(["app", "db"].map(bad));
    for (const family of [4, 6] as const) {
      const to = standinOf(app, db, family);
      for (const kind of ["udp", "tcp"] as const)
        for (const sizeBytes of [1, 2, 999, 1400])
          assert.ok(
            await eventually("bytes", () => all.passes(app, { kind, to, sizeBytes })),
            `${kind} ${sizeBytes}`,
          );
      const refused = await run(
        [
          "ip",
          "netns",
          "exec",
          "app",
          "socat",
          "-T",
          "10",
          "-",
          `${family === 4 ? "udp4" : "udp6"}:${family === 4 ? to : `[${to}]`}:9`,
        ],
        { input: "x" },
      );
      assert.match(refused.stderr, /refused/, "an error came through");
    }
    await sh("ip link set br-data mtu 1300");
    try {
      for (const family of [4, 6] as const) {
        const to = standinOf(app, db, family);
        assert.ok(
          await eventually("a long upload", () => all.passes(app, { kind: "tcp", to, sizeBytes: 300_000 })),
        );
        assert.match(await sh(`ip -n app route get ${to}`), /mtu 1300/, `path MTU of ${to}`);
      }
    } finally {
      await sh("ip link set br-data mtu 1500");
      await sh("ip -n app route flush cache");
      await sh("ip -n app -6 route flush cache");
    }
    assert.equal(await Promise.all(["app", "db"].map(bad)), before);
  });

  if (backend === "ipset") {
    it("denies what it cannot translate, and says so", async () => {
      const all = await quarter();
      const machine: System = {
        ...system,
        run: (argv, options) =>
          argv.join(" ") === "ip6tables-save -t nat"
            ? Promise.resolve({ status: 3, stdout: "", stderr: "no such table", pid: 1 })
            : system.run(argv, options),
      };
      const kernel = await open(backend, machine);
      await kernel.apply("isolation", usual);
      assert.ok(kernel.limits.includes("No service reaches another over IPv6: no such table"));
      assert.equal(await kernel.verify(), []);
      assert.ok(await eventually("IPv4", () => all.passes(app, { kind: "udp", to: standinOf(app, db, 4) })));
      const six = [standinOf(app, db, 6), db[6], web[6]].map((to) => [app, { kind: "udp", to }] as const);
      assert.equal(await all.passing(six), []);
    });
  }

  it("changes one of many routes by the difference alone, and finds all as it was", async () => {
    await quarter();
    const { machine, sent } = spied();
    const kernel = await open(backend, machine);
    const plan = crowd(backend === "nft" ? 10_000 : 300);
    await kernel.apply("isolation", plan);
    assert.equal(await kernel.verify(), []);
    sent.length = 0;
    await kernel.apply("isolation", { ...plan, routes: plan.routes.slice(0, -1) });
    assert.ok(sent.length > 0);
    if (backend === "nft") assert.ok(sent.join("").length < 1_000, sent.join(""));
    else assert.ok(sent.join("").split("\n").length < 200, sent.join(""));
    assert.equal(await kernel.verify(), []);
  });

  it("takes all away with clear(), and isolates anew", async () => {
    const [all, kernel] = await enforced(backend, closed);
    assert.not(await all.passes(app, { kind: "tcp", to: db[4] }));
    await kernel.clear("isolation");
    assert.ok(await eventually("a router again", () => all.passes(app, { kind: "tcp", to: db[4] })));
    assert.ok(await eventually("a bridge again", () => all.passes(app, { kind: "tcp", to: web[4] })));
    assert.not(/isolation/.test(await shown[backend]()));
    await kernel.apply("isolation", closed);
    assert.not(await all.passes(app, { kind: "tcp", to: db[4] }));
  });

  it.run();
}

/** Lines without order and sizes: elements come in the order of their hashes. */
function sorted(text: string): string {
  return text
    .replace(/ hashsize \d+/g, "")
    .split(/\n|,|[{}]/)
    .map((line) => line.trim())
    .sort()
    .join("\n");
}

/** Counters of wrong checksums: those of snmp are in columns, those of snmp6 in lines. */
function errorsIn(text: string): Record<string, string> {
  const found: Record<string, string> = {};
  const lines = text.split("\n");
  for (const [at, line] of lines.entries()) {
    const names = line.split(" ");
    const values = lines[at + 1]?.split(" ") ?? [];
    if (values[0] === names[0])
      for (const [column, name] of names.entries())
        if (name === "InCsumErrors") found[`${names[0]}${name}`] = values[column]!;
    const six = /^(\w+InCsumErrors)\s+(\d+)$/.exec(line);
    if (six) found[six[1]!] = six[2]!;
  }
  assert.ok(Object.keys(found).length >= 4, "counters found");
  return found;
}

const last = suite("the end");
last("all is taken down", close);
last.run();
