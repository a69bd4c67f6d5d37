/** The door to the kernel, with both back ends: what it sends, keeps, repairs, takes over and leaves alone. */

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "uvu";
import * as assert from "uvu/assert";
import { openKernel } from "../../src/kernel/kernel.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { System } from "../../src/system/system.ts";
import { eventually } from "../lab/children.ts";
import { end, plan } from "./plans.ts";
import {
  boot,
  close,
  ends,
  laptopWeb,
  open,
  rejects,
  scratch,
  shown,
  spied,
  stateOf,
  system,
  textsOf,
  wipe,
} from "./rig.ts";
import { answers, laptop, type Street, sh, silent } from "./street.ts";

let street: Street;

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);
  it.before.each(async () => {
    street = await wipe();
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
      await sh(`${tool} -A OUTPUT -p tcp --dport 9 -j foreign`);
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
            "nft flush chain bridge gatehouse_flows output",
          ]
        : [
            "iptables -F",
            "ip6tables -F FORWARD",
            "iptables -I FORWARD -j ACCEPT",
            "ipset flush",
            "ipset del gh-flows-P1V4 198.51.100.10",
            "ip6tables -F gatehouse-flows-end",
          ];
    for (const [at, attack] of attacks.entries()) {
      const repaired = kernel.counters.repaired;
      await sh(attack);
      // Of iptables nobody tells: the first is left to the next look, the others are not waited for.
      if (backend === "ipset" && at > 0) await kernel.verify();
      await eventually(`repair after ${attack}`, () => kernel.counters.repaired > repaired);
      if (attack.includes("ACCEPT")) await sh("iptables -D FORWARD -j ACCEPT");
      assert.is(await shown[backend](), right, attack);
    }
    assert.ok(await silent("laptop", "198.51.100.10"));
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
    assert.ok(await silent("laptop", "198.51.100.10"));
    assert.ok(await answers("camera", "198.51.100.20"));
    delete refuse.next;
    await kernel.apply("flows", wider);
    assert.ok(await silent("camera", "198.51.100.20"));
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
    assert.ok(await silent("laptop", "198.51.100.10"));
    full = false;
    await kernel.verify();
    assert.ok(existsSync(join(stateOf(backend), `flows.${backend}`)));
  });

  it("a plan that may lag is in force at once and in the boot text with the next that may not, or in some minutes", async () => {
    let minutesAreShort = false;
    const machine: System = {
      ...system,
      after: (delayMs, call) => system.after(minutesAreShort ? Math.min(delayMs, 50) : delayMs, call),
    };
    const kernel = await open(backend, machine);
    await kernel.apply("flows", laptopWeb);
    const first = textsOf(backend);
    const wider = plan({
      ends,
      pairs: [
        [1, 3],
        [2, 4],
      ],
    });
    await kernel.apply("flows", wider, { durable: false });
    assert.ok(await silent("camera", "198.51.100.20"));
    assert.is(textsOf(backend), first);
    await Promise.all([
      kernel.apply("flows", wider, { durable: false }),
      kernel.apply("flows", wider),
      kernel.apply("flows", wider, { durable: false }),
    ]);
    const second = textsOf(backend);
    assert.is.not(second, first);
    await kernel.apply("flows", laptopWeb, { durable: false });
    await kernel.verify();
    assert.is(textsOf(backend), first);
    kernel.close();
    minutesAreShort = true;
    const next = await open(backend, machine);
    await next.apply("flows", wider, { durable: false });
    await eventually("a text written by itself", () => textsOf(backend) === second);
  });

  it("boot texts are read once, and one that was damaged or lost before the start is written anew", async () => {
    let read: string[] = [];
    const written: string[] = [];
    const machine: System = {
      ...system,
      read: (path, maxBytes) => {
        if (path.startsWith(stateOf(backend))) read.push(path);
        return system.read(path, maxBytes);
      },
      replace: (path, content, options) => {
        written.push(path);
        return system.replace(path, content, options);
      },
    };
    const first = await open(backend, machine);
    await first.apply("flows", laptopWeb);
    const right = textsOf(backend);
    const files = written.length;
    read = [];
    await first.apply("flows", plan({ ends, pairs: [[2, 4]] }));
    await first.apply("flows", laptopWeb);
    assert.equal(read, []);
    first.close();
    const [damaged, lost] = [`flows.${backend}`, `flows.${backend}.copy`].map((each) =>
      join(stateOf(backend), each),
    );
    writeFileSync(damaged!, "cut");
    rmSync(lost!);
    written.length = 0;
    const second = await open(backend, machine);
    await second.apply("flows", laptopWeb);
    assert.is(textsOf(backend), right);
    assert.equal(written.sort(), [damaged, lost]);
    assert.is(read.length, files);
  });

  it("a cut boot text is replaced by its copy", async () => {
    const kernel = await open(backend);
    await kernel.apply("flows", laptopWeb);
    kernel.close();
    const right = sorted(await shown[backend]());
    await street.quiet();
    for (const name of readdirSync(stateOf(backend)).filter((each) => !each.endsWith(".copy"))) {
      const path = join(stateOf(backend), name);
      const text = readFileSync(path, "utf8");
      writeFileSync(path, text.slice(0, text.lastIndexOf("\n", text.length - 2) + 1));
    }
    await sh("nft flush ruleset");
    if (backend === "ipset") await sh("ipset destroy");
    await sh(`sh ${boot} ${stateOf(backend)}`);
    assert.is(sorted(await shown[backend]()), right);
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
    assert.ok(await silent("laptop", "198.51.100.10"));
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
    assert.ok(await silent("laptop", "198.51.100.10"));
  });

  it.run();
}

test("nft: changes of our own are not taken for somebody else's; changes of others elsewhere do not matter", async () => {
  await wipe();
  let lists = 0;
  const machine: System = {
    ...system,
    run: (argv, options) => {
      if (argv.includes("list")) lists++;
      return system.run(argv, options);
    },
  };
  const kernel = await open("nft", machine);
  await kernel.apply("flows", laptopWeb);
  const before = lists;
  for (const other of [3, 4, 3, 4]) await kernel.apply("flows", plan({ ends, pairs: [[2, other]] }));
  await sh("nft add table inet foreign");
  await sh("nft add chain inet foreign x");
  assert.is(kernel.counters.applied, 5);
  // Messages come in order: when this one has been heard, so have all before it.
  const repaired = kernel.counters.repaired;
  assert.is(lists, before);
  await sh("nft add chain inet gatehouse_flows x");
  await eventually("repair", () => kernel.counters.repaired > repaired);
  assert.is(kernel.counters.repaired, repaired + 1);
  assert.is(lists, before + 3, "of all tables, and of both of ours");
});

test("openKernel: a device name that could match others is refused", async () => {
  for (const name of ["br*", "br+", "", "a b", "x".repeat(16), 'a"', "a\nb", "$(x)"]) {
    const opening = openKernel(system, { backend: "nft", stateDirectory: scratch, lanDevices: [name] });
    await rejects(opening, "invalid");
  }
});

test("all is taken down", close);

const sorted = (text: string) => text.split("\n").sort().join("\n");

test.run();
