/** Ten thousand connects: each costs what the first one did, and nothing is left of what ended. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { address, type House, openHouse, resolve } from "./house.ts";

const count = 10_000;
const at = (index: number) => address(`10.${100 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`);

function manyServices() {
  const services = Array.from({ length: count }, (_, index) => ({
    ...{ name: `s${index}`, segment: "wide", addresses: [at(index + 2)] },
  }));
  const segments = [{ name: "wide", devices: ["br-wide"] }];
  const house: House = openHouse({
    ...{ segments, services, isDown: true },
    commit: async () => void [house.isolation.plan(), house.isolation.save()],
  });
  const [own, prefixLength] = [address("10.100.255.254"), 8];
  house.isolation.linkUp({ device: "br-wide", addresses: [{ address: own, prefixLength }] });
  return house;
}

const heapMb = () => {
  global.gc?.();
  return process.memoryUsage().heapUsed / 2 ** 20;
};

test("10,000 pairs: connected, planned, resolved, disconnected, with nothing left", async () => {
  const house = manyServices();
  const before = heapMb();
  const times: number[] = [];
  let startedAt = performance.now();
  for (let done = 0; done < count; done += 1_000) {
    const calls = Array.from({ length: 1_000 }, (_, index) => {
      const one = done + index;
      return house.isolation.connect({ name: `s${one}`, peers: [`s${(one * 7 + 1) % count}`] });
    });
    await Promise.all(calls);
    times.push(performance.now() - startedAt);
    startedAt = performance.now();
  }
  const full = heapMb();
  startedAt = performance.now();
  const plan = house.isolation.plan();
  const planMs = performance.now() - startedAt;
  assert.is(plan.routes.length, 2 * house.isolation.parts.connects.size);
  startedAt = performance.now();
  await house.isolation.connect({ name: "s1", peers: ["s2"] });
  const oneMs = performance.now() - startedAt;
  startedAt = performance.now();
  for (let index = 0; index < count; index++) {
    const answer = resolve(house, at(index + 2), `s${(index * 7 + 1) % count}`);
    if ((index * 7 + 1) % count !== index) assert.ok(answer.startsWith("198.1"), String(index));
  }
  const answerUs = ((performance.now() - startedAt) / count) * 1_000;
  await Promise.all(
    Array.from({ length: count }, (_, index) => house.isolation.disconnect({ name: `s${index}` })),
  );
  assert.is(house.isolation.plan().routes.length, 0);
  assert.is(house.isolation.parts.connects.size, 0);
  assert.is(house.isolation.parts.standIns.size, 0);
  if (process.env.SHOW) {
    const rounded = times.map((each) => Math.round(each)).join(" ");
    console.log(
      `1,000 connects each: ${rounded} ms; plan ${planMs.toFixed(1)} ms; one more ${oneMs.toFixed(1)} ms`,
    );
    console.log(`answer ${answerUs.toFixed(1)} us; heap ${before.toFixed(0)} → ${full.toFixed(0)} MB`);
  }
});

test("connecting and disconnecting again and again keeps nothing", async () => {
  const house = openHouse({ restMs: 1_000 });
  for (let round = 0; round < 400; round++) {
    await house.isolation.connect({
      name: "hub",
      peers: [`p${round}`, `*.d${round}.example.com`, `x${round}.example.com`],
    });
    await house.isolation.disconnect({ name: "hub" });
    house.clock.nowMs += 2_000;
    house.isolation.tick();
  }
  house.clock.nowMs += 1_000_000;
  house.isolation.tick();
  const { standIns, outside, connects } = house.isolation.parts;
  assert.equal([standIns.size, connects.size, house.isolation.wanted().length], [0, 0, 0]);
  assert.ok(outside.size === 0 && standIns.resting <= 4);
  assert.ok(JSON.stringify(house.isolation.save()).length < 1_000);
});

test("connects past what is allowed are refused, whole calls at a time", async () => {
  const house = openHouse({ maxPairs: 5 });
  await house.isolation.connect({ name: "hub", peers: ["a", "b", "c"] });
  let code = "";
  await house.isolation.connect({ name: "hub", peers: ["d", "e", "f"] }).catch((thrown) => {
    code = thrown.code;
  });
  assert.is(code, "limit");
  assert.is(house.isolation.parts.connects.size, 3);
  house.isolation.plan();
  assert.is(house.isolation.parts.standIns.size, 4);
});

test.run();
