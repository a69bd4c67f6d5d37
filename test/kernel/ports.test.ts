/** Guards on real bridges: isolated ports, proxied ARP, settings of devices; kept whatever others do. */

import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { concat, encodeAttributes } from "../../src/kernel/attribute.ts";
import { emptyIsolation, type Kernel } from "../../src/kernel/kernel.ts";
import {
  decodeBridgePort,
  encodeIsolation,
  Guards,
  parseGuards,
  renderGuards,
} from "../../src/kernel/ports.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { System } from "../../src/system/system.ts";
import { eventually, must } from "../lab/children.ts";
import { boot, clean, open, stateOf, system } from "./rig.ts";
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
/** What runs that the kernel's events brought have set. */
let heard: string[];
it.before.each(clean);
it.before.each(gone);
it.after.each(() => guards?.close());

function opened(on: System = system): Guards {
  const made: Guards = new Guards(on, () => void made.verify().then((changed) => heard.push(...changed)));
  guards = made;
  heard = [];
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
  // Runs that wait come first.
  await made.verify();
  heard = [];
  await sh("sysctl -qw net.ipv4.conf.br-g.proxy_arp_pvlan=0");
  heard.push(...(await made.verify()));
  assert.equal(heard, ["proxy_arp_pvlan of br-g"]);
});

it("takes back what an earlier life set, and nothing else", async () => {
  await bridge();
  for (const port of ["p1", "p3"]) await sh(`bridge link set dev ${port} isolated on`);
  await sh("sysctl -qw net.ipv4.conf.br-g.proxy_arp_pvlan=1");
  const before = parseGuards(
    `${renderGuards({ isolatedPorts: ["p1", "p2", "p9"], proxyArp: ["br-g"] })}# x\n`,
  );
  assert.equal(before, { isolatedPorts: ["p1", "p2", "p9"], proxyArp: ["br-g"] });
  guards = new Guards(system, () => {}, before);
  await guards.apply({ ...none, isolatedPorts: ["p2"] });
  assert.equal([await isolated("p1"), await isolated("p2"), await isolated("p3")], [false, true, true]);
  assert.is(setting("br-g", "proxy_arp_pvlan"), "0");
});

for (const backend of ["nft", "ipset"] as const) {
  it(`Kernel, ${backend}: ports that an earlier life isolated are free when nobody asks for them any more`, async () => {
    await bridge();
    const asked = { ...emptyIsolation, guards: { isolatedPorts: ["p1", "p2"], proxyArp: ["br-g"] } };
    const live = async (call: (kernel: Kernel) => Promise<void>) => {
      const kernel = await open(backend);
      await call(kernel);
      kernel.close();
      return [await isolated("p1"), await isolated("p2"), setting("br-g", "proxy_arp_pvlan") === "1"];
    };
    // Even where the text of the rules may lag.
    const isolate = (kernel: Kernel) => kernel.apply("isolation", asked, { durable: false });
    assert.equal(await live(isolate), [true, true, true]);
    assert.equal(await live((kernel) => kernel.apply("isolation", emptyIsolation)), [false, false, false]);
    assert.equal(await live(isolate), [true, true, true]);
    assert.equal(await live((kernel) => kernel.clear("isolation")), [false, false, false]);
    assert.equal(readdirSync(stateOf(backend)), []);
  });
}

it("a run that began before a newer one asked otherwise does not have the last word", async () => {
  await bridge();
  const waiting: (() => void)[] = [];
  let holds = true;
  const made = opened({
    ...system,
    set: async (path, value) => {
      if (holds && path.endsWith("br-g/proxy_arp_pvlan")) await new Promise<void>((go) => waiting.push(go));
      await system.set(path, value);
    },
  });
  const older = made.apply({ ...none, proxyArp: ["br-g"] });
  await eventually("the older run, about to write", () => waiting.length > 0);
  holds = false;
  const newer = made.apply(none);
  waiting[0]!();
  await Promise.all([older, newer]);
  assert.is(setting("br-g", "proxy_arp_pvlan"), "0");
});

it("parseGuards: reads what was rendered, and passes over all else", () => {
  for (const text of ["", "# complete\n", "port\nport \nport a b\nlink p1\nbridge ..\nport x/y\nport  p1\n"])
    assert.equal(parseGuards(text), { isolatedPorts: [], proxyArp: [] });
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
