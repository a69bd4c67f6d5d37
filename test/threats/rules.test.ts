/**
 * Hostile names and addresses never become rules: what the kernel has after a plan is as many objects as the plan
 * asks for, and the boot text holds no character of a name.
 */

import { mkdtempSync, readdirSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows } from "../../src/flows/flows.ts";
import { openKernel } from "../../src/kernel/kernel.ts";
import type { Plan } from "../../src/kernel/plan.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { System } from "../../src/system/system.ts";
import { must } from "../lab/children.ts";
import { Stage } from "../nodes/stage.ts";
import { nativePath } from "../system/until.ts";

const commands: (readonly string[])[] = [];
const linux = openLinux({ nativePath, log: () => {} });
const system: System = {
  ...linux,
  run(argv, options) {
    commands.push(argv);
    return linux.run(argv, options);
  },
};

/** Names that would mean something to nft, ipset and iptables-restore if they got there. */
const evil = fc.oneof(
  fc.string({ unit: "binary", minLength: 1, maxLength: 40 }),
  fc.constantFrom(
    "x; flush ruleset",
    "} table inet evil {",
    "N1V4 { type ipv4_addr; }",
    '" comment "evil',
    "-A evil -j ACCEPT",
    "COMMIT",
    "add evil 10.0.0.1",
    "# complete",
    "$(nft flush ruleset)",
    "include evil",
  ),
);

interface Given {
  readonly plan: Plan;
  readonly names: readonly string[];
}

/** Some devices and far names, all called by hostile names, and decisions about them. */
function planOf(names: readonly string[]): Given {
  const stage = new Stage().router();
  const ids: number[] = [];
  for (const [index, name] of names.entries()) {
    const host = index + 20;
    const id = stage.lease(`10.77.0.${host}`, `02:77:00:00:01:${host}`, { name })!;
    stage.code(() => stage.nodes.rename(id, name));
    stage.nodes.hosts([{ name, macs: [], address: `10.77.0.${host}` as never }], stage.at);
    ids.push(id);
  }
  ids.push(stage.resolve("10.77.0.20", "evil.example.", ["198.51.100.1", "198.51.100.2"])!);
  const flows = new Flows({ resolve: (id) => stage.nodes.resolve(id), commit: async () => {} });
  const far = ids.at(-1)!;
  for (const id of ids.slice(0, -1)) void flows.block(id, far);
  void flows.as(names[0]!).list("block", ids[0]!, true);
  return { plan: flows.plan((id) => stage.nodes.end(id)!), names };
}

interface Listed {
  readonly set?: { readonly name: string; readonly elem?: readonly unknown[] };
  readonly map?: { readonly name: string };
  readonly chain?: { readonly name: string };
  readonly table?: { readonly name: string };
}

async function listed(): Promise<readonly Listed[]> {
  const text = await must(["nft", "-j", "list", "ruleset"]);
  return (JSON.parse(text) as { nftables: Listed[] }).nftables;
}

test("nft: whatever devices are called, the kernel takes the text and has the plan's objects and no others", async () => {
  const directory = mkdtempSync(join(tmpdir(), "rules-"));
  const kernel = await openKernel(system, {
    backend: "nft",
    stateDirectory: directory,
    lanDevices: ["br-lan"],
  });
  try {
    const cases = fc.sample(fc.array(evil, { minLength: 2, maxLength: 6 }), { numRuns: 15, seed: 7 });
    for (const names of cases) {
      const { plan } = planOf(names);
      await kernel.apply("flows", plan);
      const text = readFileSync(join(directory, "flows.nft"), "utf8");
      await must(["nft", "-c", "-f", join(directory, "flows.nft")]);
      assert.match(text, /^[\n\t -~]*$/);
      assert.not.match(text, /evil|ruleset\b(?!.*;)|include|\$\(/);
      const all = await listed();
      const tables = all.flatMap(({ table }) => table?.name ?? []);
      for (const name of tables) assert.match(name, /^gatehouse_flows/, JSON.stringify(names));
      // Each node that is blocked is in the sets with as many addresses as it has.
      const words = new Set(text.match(/\b(?:\d{1,3}\.){3}\d{1,3}\b/g));
      const addresses = plan.ends.flatMap((end) => end.addresses).filter((each) => !each.includes(":"));
      assert.equal([...words].sort(), [...new Set<string>(addresses)].sort());
      for (const { set, map, chain } of all) {
        const name = set?.name ?? map?.name ?? chain?.name;
        if (name !== undefined) assert.match(name, /^[A-Za-z0-9_-]{1,31}$/);
      }
    }
  } finally {
    kernel.close();
    await must(["nft", "flush", "ruleset"]);
  }
});

test("both back ends: the same plan under other names is the same text, byte for byte", async () => {
  for (const backend of ["nft", "ipset"] as const) {
    const texts: string[] = [];
    for (const names of [
      ["camera", "laptop", "phone"],
      ["} flush ruleset", "COMMIT\n*filter", "-A x -j ACCEPT"],
    ]) {
      const directory = mkdtempSync(join(tmpdir(), "rules-"));
      const kernel = await openKernel(system, { backend, stateDirectory: directory, lanDevices: ["br-lan"] });
      await kernel.apply("flows", planOf(names).plan);
      const files = readdirSync(directory).sort();
      assert.ok(files.length > 0);
      texts.push(files.map((name) => `${name}\n${readFileSync(join(directory, name), "utf8")}`).join("\n"));
      for (const name of files) assert.is(statSync(join(directory, name)).mode & 0o077, 0, `mode of ${name}`);
      await kernel.apply("flows", { ends: [], pairs: [], barred: [], exempt: [] });
      kernel.close();
    }
    assert.is(texts[0], texts[1], backend);
  }
});

test("every program that was run has a constant name, and words that nobody outside can choose", () => {
  assert.ok(commands.length > 20);
  for (const [program, ...words] of commands) {
    assert.match(program!, /^(?:nft|ipset|ip6?tables(?:-save|-restore)?|conntrack)$/);
    for (const word of words) assert.match(word, /^[A-Za-z0-9_./=-]+$/, program);
  }
});

test.run();
