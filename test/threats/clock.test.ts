/**
 * A clock that jumps while the router runs: 50 years ahead when it is set for the first time, a day back, an hour for
 * daylight saving. Who is who, what is blocked and what was counted goes by the monotonic clock and stays.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Flows } from "../../src/flows/flows.ts";
import { parseLeases } from "../../src/nodes/nodes.ts";
import { camera, laptop, phone, Stage, start } from "../nodes/stage.ts";

const day = 86_400_000;
const hour = 3_600_000;
const year = 365 * day;

const jumps: readonly (readonly [title: string, ms: number])[] = [
  ["50 years ahead", 50 * year],
  ["from 1970 to now", 56 * year],
  ["a day back", -day],
  ["an hour ahead", hour],
  ["an hour back", -hour],
];

const laptop4 = "10.77.0.11";
const camera4 = "10.77.0.12";
const phone4 = "10.77.0.13";
const web4 = "198.51.100.1";

function network() {
  const stage = new Stage({ date: start }).router();
  stage.neighbour(laptop4, laptop);
  stage.neighbour(camera4, camera);
  stage.neighbour(phone4, phone);
  const expiry = Math.floor(stage.date / 1_000) + 43_200;
  const leases = `${expiry} ${laptop} ${laptop4} laptop *\n${expiry} ${camera} ${camera4} camera *\n`;
  stage.nodes.leases(parseLeases(leases).leases, stage.at);
  const ids = [laptop4, camera4, phone4].map((each) => stage.id(each)!);
  const named = stage.resolve(laptop4, "web.example.", [web4], 3_600)!;
  const bare = stage.traffic("198.51.100.2", laptop4)!;
  const [, , third] = ids;
  const merged = stage.neighbour("10.77.0.14", "02:77:00:00:00:14")!;
  stage.nodes.merge(merged, third!, stage.at);
  stage.nodes.rename(ids[0]!, "mine");
  stage.nodes.count(ids[0]!, { bytesIn: 700n, packetsIn: 7n, bytesOut: 300n, packetsOut: 3n });
  return { stage, ids, named, bare, merged, third: third!, leases };
}

for (const [title, ms] of jumps) {
  test(`${title}: every id, name, address, alias and today's count stays, also over a restart after it`, () => {
    const { stage, ids, named, bare, merged, third, leases } = network();
    const look = (at: Stage) =>
      ids.map((id) => {
        const { name, mac, ips } = at.nodes.info(id)!;
        return { id, name, mac, ips };
      });
    const before = look(stage);
    const today = stage.detail(ids[0]).today_in;
    stage.date += ms;
    // The DHCP server goes on with its own dates; the file is read again as it is.
    stage.nodes.tick(stage.at);
    stage.nodes.leases(parseLeases(leases).leases, stage.at);
    stage.pass(60_000, { ticks: 12 });
    assert.equal(look(stage), before);
    assert.is(stage.nodes.resolve(named), named);
    assert.equal(stage.ips(named), [web4]);
    assert.is(stage.nodes.resolve(bare), bare);
    assert.is(stage.nodes.resolve(merged), third);
    assert.is(stage.detail(ids[0]).today_in, today);
    // Far nodes end by the time that passed, and not before.
    stage.pass(20 * 60_000, { ticks: 10 });
    assert.is(stage.nodes.resolve(bare), bare);
    const next = stage.restart({ date: stage.date });
    next.router();
    next.pass(60_000, { ticks: 12 });
    for (const id of ids) {
      assert.is(next.nodes.resolve(id), id);
      assert.is(next.nodes.info(id)!.mac, before.find((each) => each.id === id)!.mac);
    }
    assert.is(next.nodes.info(ids[0]!)!.name, "mine");
    assert.is(next.nodes.resolve(merged), third);
    stage.pass(60 * 60_000, { ticks: 60 });
    assert.is(stage.nodes.resolve(bare), undefined, "in its time it goes");
  });

  test(`${title}: an import before and after the jump gives the same nodes, and each number once`, () => {
    const { stage } = network();
    const adoption = { mac: camera, name: "camera of old", addresses: [], names: [] };
    const first = stage.nodes.adopt(adoption, stage.at);
    stage.date += ms;
    stage.nodes.tick(stage.at);
    assert.is(stage.nodes.adopt(adoption, stage.at), first);
    const highest = Math.max(...stage.nodes.ids());
    const fresh = stage.traffic("198.51.100.77", laptop4)!;
    assert.ok(fresh > highest);
    const next = stage.restart({ date: stage.date - ms });
    assert.is(next.nodes.adopt(adoption, next.at), first);
    assert.ok(next.traffic("198.51.100.78")! > fresh);
  });

  test(`${title}: what is decided and counted between nodes has nothing to do with the date`, async () => {
    const { stage, ids, named } = network();
    const flows = new Flows({ resolve: (id) => stage.nodes.resolve(id), commit: async () => {} });
    await flows.block(ids[1]!, named);
    const record = {
      ...{ from: ids[0]!, to: named, protocol: 6, fromPort: 1, toPort: 443, icmpType: 0 },
      ...{ bytes: 10, packets: 1, source: laptop4 as never, destination: web4 as never },
    };
    flows.account({ ...record, at: stage.now });
    stage.date += ms;
    stage.pass(5_000);
    flows.tick(stage.now);
    flows.account({ ...record, at: stage.now });
    assert.equal(flows.pairs(), [[Math.min(ids[1]!, named), Math.max(ids[1]!, named)]]);
    const [traffic] = flows.takeTraffic();
    assert.is(traffic!.count, 2);
  });
}

test.run();
