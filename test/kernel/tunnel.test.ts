/** The tunnel's interface is made ready on the real kernel, and again when it is another. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { raiseTunnel, type TunnelPlan } from "../../src/kernel/tunnel.ts";
import type { Address, Prefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import { nativePath } from "../system/until.ts";

const system = openLinux({ nativePath, log: () => {} });
const ip = (words: string) => execFileSync("ip", words.split(" "), { encoding: "utf8" });
const setting = (name: string) => readFileSync(`/proc/sys/net/${name}`, "utf8").trim();

const four: TunnelPlan = {
  device: "tunnel4",
  address: "10.240.0.1" as Address,
  net: "10.240.0.0/12" as Prefix,
  mtuBytes: 1472,
  protocol: 97,
};
const six: TunnelPlan = {
  device: "tunnel6",
  address: "fd00:240::1" as Address,
  net: "fd00:240::/32" as Prefix,
  mtuBytes: 1448,
  queuePackets: 300,
  protocol: 97,
};

test("raiseTunnel gives a tunnel its address, its net, its MTU and its queue, v4 and v6", async () => {
  for (const plan of [four, six]) {
    const queue = system.queue({ kind: "tun", name: plan.device });
    const link = await raiseTunnel(system, plan);
    assert.is(link.name, plan.device);
    assert.ok(link.up);
    assert.is(link.mtuBytes, plan.mtuBytes);
    assert.match(
      ip(`link show ${plan.device}`),
      new RegExp(`mtu ${plan.mtuBytes} .* qlen ${plan.queuePackets ?? 2000}\\b`),
    );
    const bits = plan === four ? 32 : 128;
    assert.match(ip(`address show dev ${plan.device}`), new RegExp(`${plan.address}/${bits} `));
    const family = plan === four ? "-4" : "-6";
    assert.match(
      ip(`${family} route show ${plan.net}`),
      new RegExp(`^${plan.net} dev ${plan.device} proto 97 .*src ${plan.address}`),
    );
    queue.close();
  }
});

test("raiseTunnel does again what is done, and follows another plan", async () => {
  const queue = system.queue({ kind: "tun", name: "tunnel4" });
  await raiseTunnel(system, four);
  const before = ip("address show dev tunnel4") + ip("route");
  await raiseTunnel(system, four);
  assert.is(ip("address show dev tunnel4") + ip("route"), before);
  await raiseTunnel(system, { ...four, mtuBytes: 1300 });
  assert.match(ip("link show tunnel4"), /mtu 1300/);
  queue.close();
  assert.not.match(ip("route"), /10\.240/);
});

test("raiseTunnel lets errors with the router's own source come out of the tunnel, and keeps the kernel silent in it", async () => {
  const queue = system.queue({ kind: "tun", name: "tunnel4" });
  await raiseTunnel(system, four);
  assert.is(setting("ipv4/conf/tunnel4/accept_local"), "1");
  assert.is(setting("ipv6/conf/tunnel4/disable_ipv6"), "1");
  const other = system.queue({ kind: "tun", name: "tunnel6" });
  await raiseTunnel(system, six);
  assert.not.match(ip("-6 address show dev tunnel6"), /fe80::/);
  queue.close();
  other.close();
});

test("raiseTunnel says that an interface is not there", async () => {
  const outcome = await raiseTunnel(system, { ...four, device: "nowhere" }).catch((thrown) => thrown);
  assert.instance(outcome, Fault);
  assert.is((outcome as Fault).code, "not-found");
});

test.run();
