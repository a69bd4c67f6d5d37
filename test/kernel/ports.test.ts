/** Guards on real bridges: isolated ports, proxied ARP, settings of devices; kept whatever others do. */

import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { concat, encodeAttributes } from "../../src/kernel/attribute.ts";
import { decodeBridgePort, encodeIsolation, Guards, renderGuards } from "../../src/kernel/ports.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { System } from "../../src/system/system.ts";
import { eventually, must } from "../lab/children.ts";
import { boot, system } from "./rig.ts";
import { sh } from "./street.ts";
import { messageOf } from "./yard.ts";

const wanted = { isolatedPorts: ["p1", "p2"], proxyArp: ["br-g"], managed: ["br-g", "veth-g"] };
const none = { isolatedPorts: [], proxyArp: [], managed: [] };
const isolated = async (port: string) => /isolated on/.test(await sh(`bridge -d link show dev ${port}`));
const setting = (device: string, name: string) =>
  readFileSync(`/proc/sys/net/ipv4/conf/${device}/${name}`, "utf8").trim();

/** A bridge with ports p1 to p3. */
async function bridge(): Promise<void> {
  await sh("ip -batch -", [
    "link add br-g type bridge",
    "link set br-g up",
    ...[1, 2, 3].flatMap((each) => [
      `link add p${each} type veth peer name q${each}`,
      `link set p${each} master br-g`,
      `link set p${each} up`,
    ]),
  ]);
}

async function gone(): Promise<void> {
  for (const device of ["br-g", "p1", "p2", "p3", "veth-g"])
    await sh(`ip link del ${device}`).catch(() => undefined);
  await sh("sysctl -qw net.ipv4.conf.all.send_redirects=1");
}

const it = suite("Guards");
let guards: Guards | undefined;
it.before.each(gone);
it.after.each(() => guards?.close());

function opened(on: System = system): Guards {
  const made: Guards = new Guards(on, () => void made.verify());
  guards = made;
  return made;
}

it("sets what is asked, says what it changed, and takes back what is not asked any more", async () => {
  await bridge();
  const made = opened();
  await made.apply(wanted);
  assert.equal([await isolated("p1"), await isolated("p2"), await isolated("p3")], [true, true, false]);
  assert.is(setting("br-g", "proxy_arp_pvlan"), "1");
  assert.equal([setting("br-g", "send_redirects"), setting("all", "send_redirects")], ["0", "0"]);
  assert.is(setting("br-g", "rp_filter"), "1");
  assert.equal(await made.verify(), []);
  assert.equal(made.limits, []);
  await made.apply({ ...none, isolatedPorts: ["p2"] });
  assert.equal([await isolated("p1"), await isolated("p2")], [false, true]);
  assert.is(setting("br-g", "proxy_arp_pvlan"), "0");
  await made.apply(none);
  assert.not(await isolated("p2"));
});

it("sets again what comes later, comes back, or was changed by somebody", async () => {
  const made = opened();
  await made.apply(wanted);
  assert.equal(made.limits, [], "who is not there is not refused");
  await bridge();
  await eventually("isolation of new ports", async () => (await isolated("p1")) && (await isolated("p2")));
  await eventually("proxied ARP", () => setting("br-g", "proxy_arp_pvlan") === "1");
  await sh("bridge link set dev p1 isolated off");
  await eventually("isolation again", () => isolated("p1"));
  await sh("ip link set p2 nomaster");
  await sh("ip link set p2 master br-g");
  await eventually("isolation of a port that left and came back", () => isolated("p2"));
  await sh("ip link del p1");
  await sh("ip link add p1 type veth peer name q1");
  await sh("ip link set p1 master br-g");
  await eventually("isolation of a new device", () => isolated("p1"));
  await sh("ip link add veth-g type bridge");
  await eventually("a managed device", () => setting("veth-g", "rp_filter") === "1");
  await sh("sysctl -qw net.ipv4.conf.br-g.proxy_arp_pvlan=0");
  assert.equal(await made.verify(), ["proxy_arp_pvlan of br-g"]);
});

it("lists as a limit what the machine refuses, for as long as it does", async () => {
  await bridge();
  let refuses = true;
  const made = opened({
    ...system,
    set: (path, value) =>
      refuses && path.endsWith("proxy_arp_pvlan")
        ? Promise.reject(new Fault("denied", "Cannot write: no"))
        : system.set(path, value),
  });
  await made.apply(wanted);
  assert.equal(made.limits, ["Cannot set proxy_arp_pvlan of br-g: Cannot write: no"]);
  assert.ok(await isolated("p1"), "the rest is done");
  refuses = false;
  assert.equal(await made.verify(), ["proxy_arp_pvlan of br-g"]);
  assert.equal(made.limits, []);
});

it("takes no names that are paths", async () => {
  for (const name of ["..", "a/b", "", "eth*", "a name"]) {
    try {
      await opened().apply({ ...none, managed: [name] });
      assert.unreachable(name);
    } catch (thrown) {
      assert.instance(thrown, RangeError);
    }
  }
});

it("decodeBridgePort reads no message that is cut short, of another family, or of no port", () => {
  const payload = encodeIsolation(7, true);
  assert.is(payload.length, 16 + 4 + 8);
  assert.is(decodeBridgePort(messageOf(16, payload)), undefined, "without a name");
  for (let end = 0; end < payload.length; end++)
    assert.is(decodeBridgePort(messageOf(16, payload.subarray(0, end))), undefined);
});

it("decodeBridgePort reads a port's name and setting, and of damaged bytes at most another", () => {
  const name = encodeAttributes([[3, new TextEncoder().encode("p1\0")]]);
  for (const on of [true, false]) {
    const setting = encodeIsolation(7, on);
    const whole = concat([setting.subarray(0, 16), name, setting.subarray(16)]);
    assert.equal(decodeBridgePort(messageOf(16, whole)), { ifindex: 7, name: "p1", isolated: on });
    assert.is(decodeBridgePort(messageOf(17, whole)), undefined, "one that goes");
    for (let end = 0; end < whole.length; end++) {
      const read = decodeBridgePort(messageOf(16, whole.subarray(0, end)));
      assert.ok(read === undefined || !read.isolated, `cut at ${end}`);
    }
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const damaged = whole.slice();
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      const read = decodeBridgePort(messageOf(16, damaged));
      assert.ok(read === undefined || typeof read.name === "string");
    }
  }
});

it("lies ready for the boot: what is there is set, and nothing beside it can be named", async () => {
  await bridge();
  const folder = mkdtempSync(join(tmpdir(), "guards-"));
  const strange = "port ../../class/net/p3\nport p9\nbridge ../../../net/ipv4/conf/p3\nlink p3\nport\n";
  const text = `${strange}${renderGuards(wanted)}# complete\n`;
  writeFileSync(join(folder, "isolation.guards"), text);
  // A /sys of this network, as a machine has.
  const load = `mount -t sysfs sysfs /sys && sh ${boot} ${folder} guards`;
  await must(["unshare", "--mount", "--propagation", "private", "sh", "-euc", load]);
  assert.equal([await isolated("p1"), await isolated("p2"), await isolated("p3")], [true, true, false]);
  assert.equal([setting("br-g", "proxy_arp_pvlan"), setting("p3", "proxy_arp_pvlan")], ["1", "0"]);
  assert.equal(await sh("nft list ruleset"), "", "no rules yet");
});

it.after(gone);
it.run();
