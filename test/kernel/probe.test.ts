/** Choosing a back end from what a machine has. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { chooseBackend, openEnforcer, type Surroundings } from "../../src/kernel/probe.ts";
import { Fault } from "../../src/lib/fault.ts";
import { Machine } from "../fake/machine.ts";

const all: Surroundings = {
  nft: true,
  nftBridge: true,
  nftEgress: true,
  ipset: true,
  iptables: { 4: true, 6: true },
};
const no = "no such program";

const rows: [string, "auto" | "nft" | "ipset", Surroundings, "nft" | "ipset" | undefined][] = [
  ["nft where it works", "auto", all, "nft"],
  ["ipset where nft does not", "auto", { ...all, nft: no }, "ipset"],
  ["ipset with one family", "auto", { ...all, nft: no, iptables: { 4: no, 6: true } }, "ipset"],
  ["neither", "auto", { ...all, nft: no, ipset: no }, undefined],
  ["sets without rules", "auto", { ...all, nft: no, iptables: { 4: no, 6: no } }, undefined],
  ["what is asked for", "ipset", all, "ipset"],
  ["what is asked for", "nft", all, "nft"],
  ["what is asked for and is not there", "nft", { ...all, nft: no }, undefined],
  ["what is asked for and is not there", "ipset", { ...all, ipset: no }, undefined],
];

for (const [title, wanted, around, expected] of rows) {
  test(`chooseBackend: ${wanted}: ${title}`, () => {
    if (expected) {
      assert.is(chooseBackend(wanted, around).backend, expected);
    } else {
      assert.throws(
        () => chooseBackend(wanted, around),
        (thrown: unknown) =>
          thrown instanceof Fault && thrown.code === "unsupported" && thrown.message.includes(no),
      );
    }
  });
}

test("openEnforcer: one line of the log says what was chosen and why; what is missing is a limit", async () => {
  const machine = new Machine();
  machine.script(["nft"], (_, input) =>
    /bridge|netdev/.test(input) ? { status: 1, stderr: "Not supported" } : {},
  );
  const enforcer = await openEnforcer(machine, "auto", ["br-lan"]);
  assert.is(enforcer.name, "nft");
  assert.is(enforcer.limits.length, 2);
  assert.match(enforcer.limits[0]!, /bridge tables/);
  assert.match(enforcer.limits[1]!, /egress hooks/);
  assert.is(
    machine.journal.filter((line) => line.includes("Rules are made with nft: nft works here")).length,
    1,
  );
});

test.run();
