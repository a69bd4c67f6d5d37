/**
 * Two uplinks: what is bound to an address leaves by that address's own, in both families, as leases of routing
 * tables make it; and a lost uplink takes its leases, rules and routes along.
 */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { Lab } from "../lab/network.ts";
import { clockMs } from "../lab/time.ts";
import { servers } from "../lab/topology.ts";
import { addUplink, answers, leaseUplinks, uplinks } from "../lab/uplinks.ts";

const [first, second] = uplinks;

const leased = async (lab: Lab) =>
  ((await lab.call("gatehouse.tables", "list")) as { leases: { address: string; table: number }[] }).leases;

/** What the router would do with a packet of a program that is bound to an address. */
async function deviceOf(lab: Lab, from: string): Promise<string | undefined> {
  const target = from.includes(":") ? servers.web.address6 : servers.web.address4;
  const text = await lab.must("router", ["ip", "route", "get", target, "from", from]);
  return / dev (\S+)/.exec(text)?.[1];
}

async function mentions(lab: Lab, table: number): Promise<string> {
  const shown: string[] = [];
  for (const family of ["-4", "-6"]) {
    shown.push(await lab.must("router", ["ip", family, "-N", "rule", "show"]));
    shown.push((await lab.exec("router", ["ip", family, "route", "show", "table", String(table)])).stdout);
  }
  return shown
    .join("")
    .split("\n")
    .filter((line) => line.includes(`lookup ${table} `) || /^default/.test(line))
    .join("\n");
}

async function proveBoth(lab: Lab): Promise<void> {
  for (const { device, address4, address6 } of uplinks) {
    for (const from of [address4, address6]) {
      assert.is(await deviceOf(lab, from), device, from);
      await eventually(`an answer to ${from} by ${device}`, () => answers(lab, from));
    }
  }
}

async function proveLoss(lab: Lab, tables: readonly number[]): Promise<void> {
  const lostAt = clockMs();
  await lab.must("router", ["ip", "link", "delete", second.device]);
  await eventually("its leases are released", async () =>
    (await leased(lab)).every(({ address }) => ![second.address4, second.address6].includes(address)),
  );
  await eventually("its rules and routes are gone", async () => {
    const left = await Promise.all(tables.map((table) => mentions(lab, table)));
    return left.join("") === "";
  });
  console.log(`a lost uplink is released after ${Math.round(clockMs() - lostAt)} ms`);
  const kept = (await leased(lab)).map(({ address }) => address).sort();
  assert.equal(kept, [first.address4, first.address6].sort());
  for (const from of [first.address4, first.address6]) {
    await eventually(`an answer to ${from}`, () => answers(lab, from));
  }
}

let lab: Lab;
const it = suite("two uplinks");
it.before(async () => {
  // Masquerading would hide which address a packet leaves with.
  lab = await Lab.up({ nat: false });
});
it.after(() => lab?.close());

it("by gatehouse lease in a DHCP hook: each address leaves by its own uplink, and a lost one is released", async () => {
  await addUplink(lab);
  // Without leases the main table sends everything by the first uplink, whose provider drops what is not its own.
  assert.is(await deviceOf(lab, second.address4), first.device);
  assert.not.ok(await answers(lab, second.address4));
  assert.not.ok(await answers(lab, second.address6));
  const tables = await leaseUplinks(lab);
  await proveBoth(lab);
  assert.equal(await leaseUplinks(lab), tables);
  await proveLoss(lab, [tables[4][1]!, tables[6][1]!]);
  for (const address of [first.address4, first.address6]) {
    const family = address === first.address4 ? "inet" : "inet6";
    await lab.call("gatehouse.tables", "release", { family, interface: first.device, address });
  }
  await lab.must("internet", ["nft", "delete", "table", "inet", "providers"]);
});

it("by a request on the bus with routes: the agent makes the default route of each table from what the uplink was given", async () => {
  await addUplink(lab);
  const tables: number[] = [];
  for (const { device, address4, address6 } of uplinks) {
    for (const [family, address] of [
      ["inet", address4],
      ["inet6", address6],
    ]) {
      const wish = { family, interface: device, address, routes: true, follow: true };
      const { table } = await lab.call("gatehouse.tables", "request", wish);
      if (device === second.device) tables.push(table as number);
    }
  }
  await proveBoth(lab);
  // The provider gives another gateway: the table follows.
  await lab.must("internet", ["ip", "address", "add", "192.0.2.254/24", "dev", "uplink2"]);
  const move = `route replace default via 192.0.2.254 dev ${second.device} metric 2048`;
  await lab.must("router", ["ip", ...move.split(" ")]);
  await eventually("the new gateway in the table", async () =>
    (await mentions(lab, tables[0]!)).includes("default via 192.0.2.254"),
  );
  await proveLoss(lab, tables);
});

it.run();
