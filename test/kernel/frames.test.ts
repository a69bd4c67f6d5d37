/** Packets towards a MAC, whatever address they are for: what a blocked device gets before its address is known. */

import { suite, test } from "uvu";
import * as assert from "uvu/assert";
import { type Kernel, openKernel } from "../../src/kernel/kernel.ts";
import type { Plan } from "../../src/kernel/plan.ts";
import { eventually, run } from "../lab/children.ts";
import { end, nets, plan } from "./plans.ts";
import { close, ends, stateOf, system, wipe } from "./rig.ts";
import { answers, camera, laptop, type Street, sh } from "./street.ts";

const uplink = end(7, "203.0.113.1 2001:db8:ff::1");
/** Addresses that the camera takes, unannounced. */
const taken = { 4: "10.1.0.78", 6: "fd01::78" } as const;
let street: Street;
let kernel: Kernel;

/** Counts, on the camera, datagrams from the internet and from the router. */
async function watchCamera(): Promise<void> {
  await sh("ip netns exec camera nft -f -", [
    "table inet seen { chain c { type filter hook prerouting priority -300",
    'udp dport 7000 counter comment "far"',
    'udp dport { 68, 546 } counter comment "lease"',
    'udp dport 7001 counter comment "near"',
    "}",
    "}",
  ]);
}

async function seen(what: string): Promise<number> {
  const text = await sh("ip netns exec camera nft list table inet seen");
  return Number(new RegExp(`packets (\\d+) bytes \\d+ comment "${what}"`).exec(text)![1]);
}

/** Sends datagrams from a host, or from the router, some of each family. */
async function flood(host: string | undefined, port: number, from?: number): Promise<void> {
  const enter = host === undefined ? [] : ["ip", "netns", "exec", host];
  const source = from === undefined ? "" : `,sourceport=${from},reuseaddr`;
  for (const to of [`UDP4-SENDTO:${taken[4]}:${port}${source}`, `UDP6-SENDTO:[${taken[6]}]:${port}${source}`])
    for (let times = 0; times < 5; times++) await run([...enter, "socat", "-u", "-", to], { input: "x" });
}

async function open(lanDevices: readonly string[]): Promise<void> {
  kernel = await openKernel(system, { backend: "nft", stateDirectory: stateOf("nft"), lanDevices });
}

/** What a hook towards a MAC has to do, wherever it is. */
async function proves(device: string): Promise<void> {
  await watchCamera();
  const known = async () => {
    const rows = await sh(`ip neigh show dev ${device}`);
    return [taken[4], taken[6]].every((address) =>
      new RegExp(`^${address} .*lladdr ${camera.macs[0]}`, "m").test(rows),
    );
  };
  const drops = async (given: Plan) => {
    await kernel.apply("flows", given);
    const before = await kernel.dropped("flows");
    await sh(`ip neigh flush dev ${device}`);
    await flood("internet", 7000);
    // All ten, and perhaps the camera's complaints about earlier ones.
    await eventually("drops", async () => (await kernel.dropped("flows")) >= before + 10n);
    assert.ok(await known(), "the camera's MAC was found all the same");
  };
  const passes = async (given: Plan, what: string) => {
    await kernel.apply("flows", given);
    const before = await seen("far");
    await flood("internet", 7000);
    await eventually(what, async () => (await seen("far")) >= before + 10);
  };
  // Its own address is known, the one it has just taken is not.
  await drops(plan({ ends, barred: [2] }));
  await drops(plan({ ends: [...ends, uplink], pairs: [[2, 7]] }));
  await drops(plan({ ends: [...ends, uplink], pairs: [[2, 7]], exempt: [1] }));
  assert.is(await seen("far"), 0, "not one before its address was known");

  await passes(plan({ ends: [...ends, uplink], pairs: [[1, 7]] }), "packets to others");
  await passes(plan({ ends: [...ends, uplink], barred: [2], exempt: [7] }), "packets from an exempt node");
  await passes(plan({ ends: [...ends, uplink], pairs: [[2, 7]], exempt: [2] }), "packets to an exempt MAC");
  await passes(
    plan({ ends, barred: [2], exemptNets: nets("203.0.113.0/24 2001:db8:ff::/64") }),
    "packets from an exempt net",
  );

  // The router's own DHCP reaches it, from a DHCP server's port alone; what is routed under those ports does not.
  await kernel.apply("flows", plan({ ends, barred: [2] }));
  await flood(undefined, 7001);
  assert.is(await seen("near"), 0);
  const leases = await seen("lease");
  const before = await kernel.dropped("flows");
  await run(["socat", "-u", "-", `UDP4-SENDTO:${taken[4]}:68,sourceport=67`], { input: "x" });
  await run(["socat", "-u", "-", `UDP6-SENDTO:[${taken[6]}]:546,sourceport=547`], { input: "x" });
  await eventually("leases", async () => (await seen("lease")) === leases + 2);
  for (const to of [
    `UDP4-SENDTO:${taken[4]}:68,sourceport=67`,
    `UDP6-SENDTO:[${taken[6]}]:546,sourceport=547`,
  ])
    await run(["ip", "netns", "exec", "internet", "socat", "-u", "-", to], { input: "x" });
  await eventually("drops", async () => (await kernel.dropped("flows")) >= before + 2n);
  assert.is(await seen("lease"), leases + 2);
  assert.equal(await kernel.verify(), []);
}

const it = suite("frames");
it.before.each(async () => {
  street = await wipe();
  await run(["ip", "netns", "exec", "camera", "nft", "flush", "ruleset"]);
  await sh("ip -n camera -batch -", [
    `addr replace ${taken[4]}/24 dev eth0`,
    `addr replace ${taken[6]}/64 dev eth0 nodad`,
  ]);
});
it.after.each(async () => {
  kernel.close();
  await kernel.clear("flows");
  await run(["ip", "-n", "camera", "addr", "del", `${taken[6]}/64`, "dev", "eth0"]);
});

it("a bridge: nothing reaches a blocked device on an address that nobody has told of", async () => {
  await open(["br-lan"]);
  assert.equal(kernel.limits, []);
  await proves("br-lan");
  assert.match(await sh("nft list tables"), "bridge gatehouse_flows");
  assert.not.match(await sh("nft list tables"), "netdev");
});

it("a bridge: frames from a partner on the same bridge are stopped as well", async () => {
  await open(["br-lan"]);
  await watchCamera();
  // The partner has no MAC in the plan: a far node's address, on a bridge that reaches far.
  const near = end(1, laptop.addresses.join(" "));
  await kernel.apply("flows", plan({ ends: [near, camera], pairs: [[1, 2]] }));
  const before = await kernel.dropped("flows");
  await flood("laptop", 7000);
  await eventually("drops", async () => (await kernel.dropped("flows")) >= before + 10n);
  assert.is(await seen("far"), 0);
  await kernel.apply("flows", plan({ ends: [near, camera] }));
  await flood("laptop", 7000);
  await eventually("packets", async () => (await seen("far")) >= 10);
});

it("a LAN device that is no bridge has a hook of its own, which follows the device as it comes and goes", async () => {
  // The camera's cable is taken out of the bridge, and gets the bridge's part of the network for itself.
  await sh("ip -batch -", [
    "link set camera nomaster",
    "addr add 10.1.0.65/27 dev camera",
    "addr add fd01::65/128 dev camera nodad",
    "route add fd01::3/128 dev camera",
    `route add ${taken[6]}/128 dev camera`,
    "route add 10.1.0.3/32 dev camera",
  ]);
  try {
    await open(["br-lan", "camera"]);
    await proves("camera");
    const table = () => run(["nft", "list", "table", "netdev", "gatehouse_flows"]);
    assert.match((await table()).stdout, /hook egress device "camera"/);
    const repaired = kernel.counters.repaired;
    await sh("nft delete table netdev gatehouse_flows");
    await eventually("repair", () => kernel.counters.repaired > repaired);
    await sh("ip link set camera name away");
    await eventually("the end of the hook", async () => {
      await kernel.verify();
      return (await table()).status !== 0;
    });
    await sh("ip link set away name camera");
    await eventually("a new hook", async () => (await table()).status === 0);
  } finally {
    await run(["ip", "link", "set", "away", "name", "camera"]);
    for (const address of ["10.1.0.65/27", "fd01::65/128"])
      await run(["ip", "addr", "del", address, "dev", "camera"]);
    await run(["ip", "route", "del", "10.1.0.3/32"]);
    for (const to of ["fd01::3", taken[6]]) await run(["ip", "-6", "route", "del", `${to}/128`]);
    await sh("ip link set camera master br-lan up");
  }
});

it("where bridge tables are missing, a bridge is served like any device; without either, it is said", async () => {
  const lacking = (...families: string[]) => ({
    ...system,
    run: (argv: readonly string[], options?: Parameters<typeof system.run>[1]) =>
      argv.includes("-c") && families.some((family) => options?.input?.startsWith(`table ${family}`))
        ? Promise.resolve({ status: 1, stdout: "", stderr: "Not supported", pid: 0 })
        : system.run(argv, options),
  });
  const options = { backend: "nft", stateDirectory: stateOf("nft"), lanDevices: ["br-lan"] } as const;
  kernel = await openKernel(lacking("bridge", "netdev"), options);
  assert.is(kernel.limits.length, 2);
  kernel.close();
  kernel = await openKernel(lacking("netdev"), options);
  assert.is(kernel.limits.length, 1);
  kernel.close();
  kernel = await openKernel(lacking("bridge"), options);
  assert.is(kernel.limits.length, 1);
  await proves("br-lan");
  assert.match(await sh("nft list tables"), "netdev gatehouse_flows");
});

it("a device that is let go is reached again at once, its neighbours all along", async () => {
  await open(["br-lan"]);
  await kernel.apply("flows", plan({ ends, barred: [2] }));
  assert.ok(await answers("internet", "10.1.0.2"));
  await kernel.apply("flows", plan({ ends }));
  for (const to of [...camera.addresses, taken[4], taken[6]]) assert.ok(await answers("internet", to), to);
  assert.ok(street);
});

it.run();

test("all is taken down", close);
test.run();
