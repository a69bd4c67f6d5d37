/** Blocks on the real kernel, with both back ends: what they stop, what they leave alone, and how they stay. */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "uvu";
import * as assert from "uvu/assert";
import { type Kernel, openKernel } from "../../src/kernel/kernel.ts";
import { emptyPlan } from "../../src/kernel/plan.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { eventually } from "../lab/children.ts";
import { end, plan } from "./plans.ts";
import { answers, camera, laptop, Street, sh, video, web } from "./street.ts";

const scratch = process.env.TMPDIR!;
const log: string[] = [];
const system = openLinux({
  nativePath: join(process.cwd(), "dist/netio.node"),
  log: (level, line) => void log.push(`${level}: ${line}`),
});
const boot = join(process.cwd(), "files/usr/lib/gatehouse/boot.sh");
const lanDevices = ["br-lan"];
const ends = [laptop, camera, web, video];
const laptopWeb = plan({ ends, pairs: [[1, 3]] });
const kinds = ["tcp", "udp", "ping"] as const;

let street: Street;

/** Rules of everybody, without counters and handles, as far as each back end's tools show them. */
const shown = {
  nft: () => sh("nft -s list ruleset"),
  ipset: async () => {
    const parts = await Promise.all([
      sh("ipset save"),
      sh("iptables-save -t filter"),
      sh("ip6tables-save -t filter"),
    ]);
    // Entries come in the order of their hashes, counters and dates are of no interest.
    const clean = (text: string) =>
      text
        .replace(/^#.*\n/gm, "")
        .replace(/ \[\d+:\d+\]/g, "")
        .replace(/ initval \S+/g, "");
    return [...clean(parts[0]).split("\n").sort(), ...parts.slice(1).map(clean)].join("\n");
  },
};

const opened: Kernel[] = [];
async function open(backend: "nft" | "ipset", on: System = system, name: string = backend): Promise<Kernel> {
  const kernel = await openKernel(on, { backend, stateDirectory: stateOf(name), lanDevices });
  opened.push(kernel);
  return kernel;
}
const stateOf = (backend: string) => join(scratch, `state-${backend}`);

/** A network without rules, traffic or state. */
async function wipe(): Promise<void> {
  street ??= await Street.build();
  await street.quiet();
  for (const kernel of opened.splice(0)) {
    kernel.close();
    await kernel.verify();
  }
  await sh("nft flush ruleset");
  for (const tool of ["iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"]) {
    await sh(`${tool} -F`);
    await sh(`${tool} -X`);
  }
  await eventually("sets free of rules", () =>
    sh("ipset destroy").then(
      () => true,
      () => false,
    ),
  );
  for (const name of ["nft", "ipset", "both"]) rmSync(stateOf(name), { recursive: true, force: true });
}

/** Commands that changed something, seen through the machine. */
function spied(): {
  machine: System;
  sent: string[];
  refuse: { next?: (argv: readonly string[], input: string) => string };
} {
  const sent: string[] = [];
  const refuse: { next?: (argv: readonly string[], input: string) => string } = {};
  const machine: System = {
    ...system,
    run: (argv, options = {}) => {
      if (options.input === undefined || argv.includes("-c")) return system.run(argv, options);
      sent.push(options.input);
      return system.run(argv, { ...options, input: refuse.next?.(argv, options.input) ?? options.input });
    },
  };
  return { machine, sent, refuse };
}

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);
  it.before.each(wipe);

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
      assert.not.ok(await answers("laptop", to, from), `${from} ${to}`);
      assert.ok(await answers("laptop", other, from));
    }
    const grown = end(3, "198.51.100.10 198.51.100.99 2001:db8::10 2001:db8::99");
    await kernel.apply("flows", plan({ ends: [laptop, camera, grown, video], pairs: [[1, 3]] }));
    assert.not.ok(await answers("laptop", "198.51.100.99"));
    assert.not.ok(await answers("laptop", "2001:db8::99"));
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
        answers("camera", "198.51.100.10"),
        answers("camera", "2001:db8::10"),
        answers("camera", "198.51.100.10", "10.1.0.78"),
        answers("camera", "10.1.0.1"),
        answers("laptop", "198.51.100.10"),
      ]),
      [false, false, false, false, false],
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
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    assert.not.ok(await answers("camera", "198.51.100.10"));
    assert.ok(await answers("laptop", "2001:db8::10"), "node 5 has no such address");
    assert.not.ok(await answers("camera", "2001:db8::10"));
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
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    assert.not.ok(await answers("laptop", "198.51.100.20"));
    assert.ok(await answers("camera", "198.51.100.20"));
  });

  it("rules and sets of others stay as they are, and in their order", async () => {
    await sh("nft -f -", [
      "table inet fw4 { chain forward { type filter hook forward priority filter; policy accept; ct state established accept",
      "ip saddr 192.0.2.1 drop",
      "}",
      "}",
    ]);
    for (const tool of ["iptables", "ip6tables"]) {
      await sh(`${tool} -N foreign`);
      await sh(`${tool} -A FORWARD -p tcp --dport 9 -j foreign`);
      await sh(`${tool} -A INPUT -p tcp --dport 9 -j DROP`);
      await sh(`${tool} -A foreign -j RETURN`);
    }
    await sh("ipset create gh-foreign hash:ip");
    await sh("ipset create gatehouse-flows hash:ip");
    await sh("ipset add gh-foreign 192.0.2.7");
    const before = [await shown.nft(), await shown.ipset()];
    const kernel = await open(backend);
    await kernel.apply("flows", laptopWeb);
    await kernel.apply("nodes", plan({ ends, barred: [2], exempt: [3], tap: { group: 7 } }));
    const during = await shown[backend]();
    assert.ok(during.length > before[backend === "nft" ? 0 : 1]!.length);
    for (const line of before[backend === "nft" ? 0 : 1]!.split("\n")) assert.ok(during.includes(line), line);
    await kernel.clear("flows");
    await kernel.clear("nodes");
    assert.equal([await shown.nft(), await shown.ipset()], before);
    assert.equal(readdirSync(stateOf(backend)), []);
  });

  it("the same plan again sends nothing, a further pair only itself, and who waits is overtaken", async () => {
    const { machine, sent } = spied();
    const kernel = await open(backend, machine);
    const many = Array.from({ length: 200 }, (_, at) => end(100 + at, `192.0.2.${at}`));
    const wide = (count: number) =>
      plan({ ends: [laptop, ...many], pairs: many.slice(0, count).map(({ id }) => [1, id] as const) });
    await kernel.apply("flows", wide(150));
    sent.length = 0;
    await kernel.apply("flows", wide(150));
    assert.equal(sent, []);
    await kernel.apply("flows", wide(151));
    assert.ok(sent.length > 0);
    const addresses = new Set(sent.join("\n").match(/192\.0\.2\.\d+/g));
    assert.equal([...addresses], ["192.0.2.150"]);
    sent.length = 0;
    await Promise.all([wide(10), wide(11), wide(12), wide(200)].map((each) => kernel.apply("flows", each)));
    assert.not.ok(sent.join("\n").includes("192.0.2.11 "));
    assert.is(kernel.counters.applied, 3);
    assert.equal(await kernel.verify(), []);
  });

  it("an agent that starts anew takes over what is in force, and does not open it", async () => {
    const first = await open(backend);
    await first.apply("flows", laptopWeb);
    first.close();
    const blocked = await street.stream("udp", "laptop", "198.51.100.10", false);
    const free = await street.stream("udp", "laptop", "198.51.100.20");
    const { machine, sent } = spied();
    const second = await open(backend, machine);
    await second.apply("flows", laptopWeb);
    assert.equal(sent, []);
    await second.apply(
      "flows",
      plan({
        ends,
        pairs: [
          [1, 3],
          [2, 4],
        ],
      }),
    );
    await free.flows();
    assert.is(blocked.received + blocked.heard, 0);
    assert.is(free.lost, 0);
    second.close();
  });

  it("what somebody else changed is repaired by itself", async () => {
    const kernel = await open(backend);
    await kernel.apply("flows", laptopWeb);
    const right = await shown[backend]();
    const attacks =
      backend === "nft"
        ? [
            "nft flush ruleset",
            "nft delete table inet gatehouse_flows",
            "nft flush table bridge gatehouse_flows",
            "nft flush set inet gatehouse_flows P1V4",
            "nft insert rule inet gatehouse_flows forward accept",
            "nft add element inet gatehouse_flows partners6 { ::1 }",
          ]
        : [
            "iptables -F",
            "ip6tables -F FORWARD",
            "iptables -I FORWARD -j ACCEPT",
            "ipset flush",
            "ipset del gh-flows-P1V4 198.51.100.10",
            "ip6tables -F gatehouse-flows-end",
          ];
    for (const attack of attacks) {
      const repaired = kernel.counters.repaired;
      await sh(attack);
      await eventually(`repair after ${attack}`, () => kernel.counters.repaired > repaired);
      if (attack.includes("ACCEPT")) await sh("iptables -D FORWARD -j ACCEPT");
      assert.is(await shown[backend](), right, attack);
    }
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    assert.equal(await kernel.verify(), []);
  });

  it("what the kernel refuses leaves the kernel and the boot text as they were", async () => {
    const { machine, refuse } = spied();
    const kernel = await open(backend, machine);
    await kernel.apply("flows", laptopWeb);
    const [rules, texts] = [await shown[backend](), textsOf(backend)];
    // The last thing that is sent is what fails: everything before it has to be taken back.
    refuse.next = (argv, input) =>
      argv[0] === "nft"
        ? `${input}add rule inet not_there x accept\n`
        : argv[0] === "ip6tables-restore" && input.includes("N2V6")
          ? input.replace("COMMIT", "-A not_there -j DROP\nCOMMIT")
          : input;
    const wider = plan({
      ends,
      pairs: [
        [1, 3],
        [2, 4],
      ],
    });
    await rejects(kernel.apply("flows", wider), "kernel");
    assert.is(await shown[backend](), rules);
    assert.is(textsOf(backend), texts);
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    assert.ok(await answers("camera", "198.51.100.20"));
    delete refuse.next;
    await kernel.apply("flows", wider);
    assert.not.ok(await answers("camera", "198.51.100.20"));
  });

  it("a disk that refuses is told, the rules are in force, and the text is written when the disk is back", async () => {
    let full = true;
    const machine: System = {
      ...system,
      replace: (path, content, options) =>
        full
          ? Promise.reject(new Fault("storage", "Cannot write: full"))
          : system.replace(path, content, options),
    };
    const kernel = await open(backend, machine);
    await rejects(kernel.apply("flows", laptopWeb), "storage");
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    full = false;
    await kernel.verify();
    assert.ok(existsSync(join(stateOf(backend), `flows.${backend}`)));
  });

  it("the boot text makes the same rules without us, loaded once or twice, and over rules that stand", async () => {
    const kernel = await open(backend);
    await kernel.apply(
      "flows",
      plan({
        ends,
        pairs: [
          [1, 3],
          [1, 2],
        ],
        exempt: [4],
        tap: { group: 3 },
      }),
    );
    await kernel.apply("nodes", plan({ ends, barred: [2] }));
    kernel.close();
    const right = await shown[backend]();
    const text = textsOf(backend);
    await sh(`sh ${boot} ${stateOf(backend)}`);
    assert.is(await shown[backend](), right, "over rules that stand");
    await street.quiet();
    await sh("nft flush ruleset");
    if (backend === "ipset") await sh("ipset destroy");
    for (let times = 0; times < 2; times++) {
      await sh(`sh ${boot} ${stateOf(backend)}`);
      assert.is(sorted(await shown[backend]()), sorted(right));
    }
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    assert.is(textsOf(backend), text);
  });

  it("a change of back end leaves nothing of the other one", async () => {
    const other = backend === "nft" ? "ipset" : "nft";
    const before = await shown[other]();
    const former = await open(other, system, "both");
    await former.apply("flows", laptopWeb);
    former.close();
    const kernel = await open(backend, system, "both");
    await kernel.apply("flows", laptopWeb);
    if (other === "nft") assert.is(await sh("nft list tables inet"), "");
    else assert.is(await shown.ipset(), before);
    assert.not.ok(readdirSync(stateOf("both")).some((name) => name.endsWith(other)));
    assert.not.ok(await answers("laptop", "198.51.100.10"));
  });

  it.run();
}

test("nft: devices on the same bridge are kept apart, by address and by MAC", async () => {
  await wipe();
  const kernel = await open("nft");
  assert.ok(await answers("laptop", "10.1.0.3"));
  await sh("ip -n camera addr add 10.1.0.79/24 dev eth0");
  await kernel.apply("flows", plan({ ends, pairs: [[1, 2]] }));
  for (const to of ["10.1.0.3", "fd01::3", "10.1.0.79"]) assert.not.ok(await answers("laptop", to), to);
  assert.not.ok(await answers("camera", "fd01::2"));
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
    assert.not.ok(await answers("laptop", "198.51.100.10"));
    assert.not.ok(await answers("laptop", "2001:db8::10"));
    assert.not.ok(await answers("camera", "198.51.100.10"));
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

test("openKernel: a device name that could match others is refused", async () => {
  for (const name of ["br*", "br+", "", "a b", "x".repeat(16), 'a"', "a\nb", "$(x)"]) {
    const opening = openKernel(system, { backend: "nft", stateDirectory: scratch, lanDevices: [name] });
    await rejects(opening, "invalid");
  }
});

test("all done", async () => {
  await wipe();
  await street.close();
});

function textsOf(backend: string): string {
  const folder = stateOf(backend);
  return readdirSync(folder)
    .map((name) => `${name}\n${readFileSync(join(folder, name), "utf8")}`)
    .join("\n");
}

const sorted = (text: string) => text.split("\n").sort().join("\n");

async function rejects(promise: Promise<unknown>, code: string): Promise<void> {
  const outcome = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.instance(outcome, Fault);
  assert.is((outcome as Fault).code, code);
}

test.run();
