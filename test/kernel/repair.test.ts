/**
 * What somebody else takes away comes back, whatever else goes wrong: a disk that is full or takes its time, a kernel
 * that refuses, somebody who does it again, an owner whose turn takes long.
 */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import type { Kernel } from "../../src/kernel/kernel.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { RunResult, System } from "../../src/system/system.ts";
import { eventually } from "../lab/children.ts";
import { plan } from "./plans.ts";
import { crowd } from "./quarter.ts";
import { clean, laptopWeb, open, rejects, shown, spied, system, textsOf } from "./rig.ts";
import { camera, laptop, sh, video, web } from "./street.ts";
import { pause } from "./yard.ts";

const cameraVideo = plan({ ends: [laptop, camera, web, video], pairs: [[2, 4]] });
const tools = ["iptables", "ip6tables"] as const;
const flush = {
  nft: () => sh("nft flush ruleset"),
  ipset: async () => {
    for (const tool of tools) await sh(`${tool} -w 10 -F`);
  },
};

/** A machine of which a test may hold up or refuse what it runs and writes. */
function meddling(): {
  machine: System;
  on: {
    run?: (argv: readonly string[], input: string) => Promise<RunResult> | undefined;
    replace?: () => Promise<void> | undefined;
  };
} {
  const on: ReturnType<typeof meddling>["on"] = {};
  const machine: System = {
    ...system,
    run: async (argv, options = {}) =>
      (await on.run?.(argv, options.input ?? "")) ?? system.run(argv, options),
    replace: async (path, content, options) => {
      await on.replace?.();
      return system.replace(path, content, options);
    },
  };
  return { machine, on };
}

/** Resolves when the rules are as they were and that has been counted as so many repairs more. */
async function repaired(kernel: Kernel, right: string, after: () => Promise<unknown>): Promise<void> {
  const before = kernel.counters.repaired;
  await after();
  await eventually(
    "the rules as they were",
    async () => kernel.counters.repaired > before && (await standing(kernel.backend)) === right,
  );
}

/** All rules, their lines without order: tables and jumps come in the order of their making. */
async function standing(backend: "nft" | "ipset"): Promise<string> {
  return (await shown[backend]()).split("\n").sort().join("\n");
}

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);
  it.before.each(clean);

  it("repairs while the disk is full, time and again, and writes the boot text when it is not", async () => {
    const { machine, on } = meddling();
    let refused = 0;
    on.replace = () => {
      refused++;
      return Promise.reject(new Fault("storage", "Cannot write: full"));
    };
    const kernel = await open(backend, machine);
    await rejects(kernel.apply("flows", laptopWeb), "storage");
    const right = await standing(backend);
    await eventually("further tries", () => refused > 1);
    for (let times = 0; times < 3; times++) await repaired(kernel, right, flush[backend]);
    await rejects(kernel.verify(), "storage");
    delete on.replace;
    await eventually("a boot text", () => /complete/.test(textsOf(backend)));
  });

  it("repairs and applies while the disk takes its time, and a caller's answer waits for the newest text", async () => {
    const { machine, on } = meddling();
    let go: (() => void) | undefined;
    const held = new Promise<void>((resolve) => {
      go = resolve;
    });
    const kernel = await open(backend, machine);
    await kernel.apply("flows", laptopWeb);
    const first = textsOf(backend);
    on.replace = () => held;
    let answers = 0;
    const applied = async (given: typeof laptopWeb) => {
      await kernel.apply("flows", given);
      answers++;
    };
    const older = applied(cameraVideo);
    await eventually("an older plan in force", () => kernel.counters.applied === 2);
    await repaired(kernel, await standing(backend), flush[backend]);
    const newer = applied(plan({ ends: [laptop, camera, web, video], pairs: [[1, 4]] }));
    await eventually("a newer plan in force", () => kernel.counters.applied === 3);
    assert.is(answers, 0);
    assert.is(textsOf(backend), first);
    go!();
    await Promise.all([older, newer]);
    const fresh = await open(backend, system, "both");
    await fresh.apply("flows", plan({ ends: [laptop, camera, web, video], pairs: [[1, 4]] }));
    assert.is(textsOf(backend), textsOf("both"));
  });

  it("repairs one owner's rules while another's turn takes long", async () => {
    const { machine, on } = meddling();
    const kernel = await open(backend, machine);
    await kernel.apply("flows", laptopWeb);
    await kernel.apply("nodes", cameraVideo);
    const right = await standing(backend);
    let go: (() => void) | undefined;
    on.run = (_, input) => {
      if (!/gatehouse[_-]flows/.test(input) || go) return undefined;
      return new Promise((resolve) => {
        go = () => resolve(undefined as never);
      });
    };
    await flush[backend]();
    await eventually("a repair of flows, held up", () => go);
    await eventually("a repair of nodes", () => kernel.counters.repaired > 0);
    assert.match(await standing(backend), /gatehouse[_-]nodes/);
    go!();
    await eventually("all", async () => (await standing(backend)) === right);
  });

  it("repairs what two owners lose one after the other", async () => {
    const kernel = await open(backend);
    await kernel.apply("flows", laptopWeb);
    await kernel.apply("nodes", cameraVideo);
    const right = await standing(backend);
    const lose = (owner: string) =>
      sh(
        backend === "nft"
          ? `nft delete table inet gatehouse_${owner}`
          : `iptables -w 10 -D FORWARD -j gatehouse-${owner}-fwd`,
      );
    await lose("flows");
    await pause(200);
    await lose("nodes");
    await eventually("both", async () => kernel.counters.repaired > 1 && (await standing(backend)) === right);
    assert.equal(await kernel.verify(), []);
  });

  it("a repair that the kernel refuses leaves in force what it took, and comes when it does not any more", async () => {
    const { machine, on } = meddling();
    const kernel = await open(backend, machine);
    await kernel.apply("flows", laptopWeb);
    const right = await standing(backend);
    let refused = 0;
    on.run = (argv, input) => {
      if (input === "" || argv.includes("-c") || /^(iptables|ipset)/.test(argv[0]!)) return undefined;
      refused++;
      return Promise.resolve({ status: 1, stdout: "", stderr: "no", pid: 1 });
    };
    await flush[backend]();
    await eventually("refusals", () => refused > 6);
    if (backend === "ipset") {
      // IPv4's were taken, and stay however often those of IPv6 are not.
      const rules = await sh("iptables-save -t filter");
      assert.match(rules, "-A FORWARD -j gatehouse-flows-fwd");
      assert.match(rules, "-A gatehouse-flows-end");
      assert.not.match(await sh("ip6tables-save -t filter"), "-A FORWARD");
    }
    // Who asks for something else meanwhile is refused, and it does not take away more.
    await rejects(kernel.apply("flows", cameraVideo), "kernel");
    if (backend === "ipset")
      assert.match(await sh("iptables-save -t filter"), "-A FORWARD -j gatehouse-flows-fwd");
    delete on.run;
    await eventually("all", async () => (await standing(backend)) === right);
    assert.equal(await kernel.verify(), []);
  });

  it.run();
}

const nftAlone = suite("nft alone");
nftAlone.before.each(clean);

nftAlone("of many routes that are gone, all are denied at once, and then let through again", async () => {
  const { machine, sent } = spied();
  const kernel = await open("nft", machine);
  await kernel.apply("isolation", crowd(1_000));
  sent.length = 0;
  await repaired(kernel, await standing("nft"), flush.nft);
  const [first, second, ...more] = sent;
  assert.equal(more, []);
  for (const denying of ["goto across", "iifname @managed", '"br-apps"', "counter name dropped drop"])
    assert.match(first!, denying);
  assert.not.match(first!, "198.18.7.");
  assert.match(second!, "add element inet gatehouse_isolation may4");
  assert.not.match(second!, "chain");
  assert.equal(await kernel.verify(), []);
});
nftAlone.run();

const it = suite("ipset alone");
it.before.each(clean);

it("repairs a flush that takes its time", async () => {
  const kernel = await open("ipset");
  await kernel.apply("flows", laptopWeb);
  const right = await standing("ipset");
  for (const tool of ["iptables", "ip6tables", "iptables", "ip6tables"]) {
    await sh(`${tool} -w 10 -F`);
    await pause(250);
  }
  await eventually("the rules", async () => (await standing("ipset")) === right);
});

it("hears of changes without looking, of those that matter and of no others", async () => {
  let looks = 0;
  const machine: System = {
    ...system,
    // Nothing comes of itself.
    after: (delayMs, call) => (delayMs > 300 ? () => {} : system.after(delayMs, call)),
    run: (argv, options) => {
      if (argv.join(" ") === "ipset list -t") looks++;
      return system.run(argv, options);
    },
  };
  const kernel = await open("ipset", machine);
  await kernel.apply("flows", laptopWeb);
  await kernel.apply("flows", cameraVideo);
  const right = await standing("ipset");
  await eventually("the look after a change", () => looks === 2);
  for (const command of ["-N foreign", "-A foreign -j RETURN", "-t mangle -A POSTROUTING -j RETURN"])
    await sh(`iptables ${command}`);
  await pause(300);
  assert.is(looks, 2);
  for (const command of ["-t mangle -D POSTROUTING 1", "-F foreign", "-X foreign"])
    await sh(`iptables ${command}`);
  await repaired(kernel, right, () => sh("iptables -D FORWARD -j gatehouse-flows-fwd"));
  await repaired(kernel, right, () => sh("ip6tables -F gatehouse-flows-end"));
});

it("looks of all owners at one time print the machine's rules once, what was sent is looked at anew", async () => {
  const runs: string[] = [];
  const machine: System = {
    ...system,
    run: (argv, options) => {
      if (options?.input === undefined) runs.push(argv.join(" "));
      return system.run(argv, options);
    },
  };
  const kernel = await open("ipset", machine);
  for (const owner of ["flows", "nodes", "ipref"] as const) await kernel.apply(owner, laptopWeb);
  runs.length = 0;
  await kernel.verify();
  const shared = runs.filter((each) => each === "iptables-save").length;
  assert.ok(shared < 6, `${shared} lists of rules`);
  assert.equal(await kernel.verify(), []);
});

it("works with the older iptables, of which nothing is announced", async () => {
  const machine: System = {
    ...system,
    run: (argv, options) =>
      system.run([argv[0]!.replace(/^(ip6?tables)/, "$1-legacy"), ...argv.slice(1)], options),
  };
  const kernel = await open("ipset", machine);
  await kernel.apply("flows", laptopWeb);
  const rules = async () =>
    (await Promise.all(tools.map((tool) => sh(`${tool.replace("tables", "tables-legacy")}-save -t filter`))))
      .join("")
      .replace(/^#.*\n| \[\d+:\d+\]/gm, "");
  const right = await rules();
  assert.match(right, "-A FORWARD -j gatehouse-flows-fwd");
  for (const tool of tools) await sh(`${tool.replace("tables", "tables-legacy")} -w 10 -F`);
  await eventually("the rules", async () => (await rules()) === right);
});

it.after(clean);
it.run();
