/** The data plane lives on when its thread dies, its interface goes, a mapping is missing or a gateway is not there. */

import { readFileSync } from "node:fs";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { fold, put16, sumOf } from "../../src/lib/checksum.ts";
import { AF, packetAddress, SOCK } from "../../src/system/native.ts";
import { eventually } from "../lab/children.ts";
import { runGateway } from "../lab/gateway.ts";
import type { Homes } from "../lab/homes.ts";
import { native } from "../system/until.ts";
import { between, encoded, lost4 } from "./site.ts";

/** What a ping without end prints. */
function pinging(homes: Homes, to: string) {
  const ping = homes.spawn("mine-laptop", ["ping", "-i", "0.1", to], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  ping.stdout!.on("data", (chunk) => (text += chunk));
  return { said: () => text, end: () => ping.kill() };
}

/** Pings until the host is told that nobody is there. */
async function toldUnreachable(homes: Homes, to: string): Promise<void> {
  const { said, end } = pinging(homes, to);
  await eventually("an error", () => /Destination Host Unreachable/i.test(said()));
  end();
}

test("a gateway that is not there is told to the host as unreachable, and stalls nobody", async () => {
  await between({}, async ({ homes, mine }) => {
    // Its router answers for the address that nobody has; the ping to the living one goes on beside.
    const lost = toldUnreachable(homes, lost4);
    const alive = await homes.exec("mine-laptop", ["ping", "-c", "20", "-i", "0.05", "-W", "20", encoded[4]]);
    assert.match(alive.stdout, / 0% packet loss/);
    await lost;
    assert.ok((await mine.counts()).counts.gone! > 0);
    // Nobody listens on the port: the same.
    await homes.must("parents", ["sh", "-c", "kill -9 $(ip netns pids parents | grep -v $$) || true"]);
    await toldUnreachable(homes, encoded[4]);
  });
});

test("a host without a reference, and one that is not known at the other end, get theirs while the packet waits", async () => {
  await between({ hosts: ["laptop", "nas"] }, async ({ homes, mine, parents }) => {
    const { stdout } = await homes.exec("mine-nas", ["ping", "-c", "2", "-i", "0.2", "-W", "20", encoded[4]]);
    assert.match(stdout, /2 received/);
    assert.is((await mine.counts()).counts.asked, 1);
    assert.is((await parents.counts()).counts.asked, 1);
    assert.ok((await parents.counts()).counts.held! >= 1);
  });
});

test("what may not have a mapping is asked for once a second, and waits for nothing", async () => {
  await between({ hosts: ["laptop", "nas"], drawn: 0 }, async ({ homes, mine }) => {
    const startedAt = performance.now();
    await homes.exec("mine-nas", ["ping", "-c", "40", "-i", "0.01", "-W", "1", encoded[4]]);
    await eventually("all lapsed", async () => (await mine.counts()).counts.lapsed! >= 40);
    const seconds = Math.ceil((performance.now() - startedAt) / 1_000);
    const { counts } = await mine.counts();
    assert.ok(counts.asked! >= 1 && counts.asked! <= 1 + seconds, `${seconds} s ${JSON.stringify(counts)}`);
    assert.ok(counts.asked! < 40, JSON.stringify(counts));
    assert.is(counts.lapsed, 40, JSON.stringify(counts));
    await homes.must("mine-laptop", ["ping", "-c", "1", "-W", "20", encoded[4]]);
  });
});

test("a thread that dies is followed by another: same interface, same mappings, same connection", async () => {
  await between({}, async ({ homes, mine }) => {
    // One ping that lasts, as a connection does: only its packets of the moment may be lost.
    const { said, end } = pinging(homes, encoded[4]);
    const answers = () => said().split("bytes from").length - 1;
    await eventually("answers", () => answers() > 5);
    const before = await homes.must("mine", ["ip", "-o", "link", "show", "ipref0"]);
    await mine.die();
    await eventually("a restart", async () => (await mine.counts()).restarts === 1);
    const heard = answers();
    await eventually("answers again", () => answers() > heard + 20);
    end();
    assert.is(await homes.must("mine", ["ip", "-o", "link", "show", "ipref0"]), before);
    assert.is((await mine.counts()).restarts, 1);
    assert.match(mine.faults[0]!, /told to die/);
  });
});

test("a TUN that somebody removes is made again, with address and route", async () => {
  await between({}, async ({ homes, mine }) => {
    await homes.must("mine-laptop", ["ping", "-c", "1", "-W", "20", encoded[4]]);
    await homes.must("mine", ["ip", "link", "delete", "ipref0"]);
    await eventually("another TUN", async () => (await mine.counts()).restarts >= 1);
    await eventually("a ping", async () => {
      return (await homes.exec("mine-laptop", ["ping", "-c", "1", "-W", "10", encoded[4]])).status === 0;
    });
  });
});

/** `--forge MAC TO`: sends TCP packets whose headers contradict themselves and whose checksums are left to others. */
function forge(router: string, to: string): void {
  const netio = native();
  const handle = netio.open(AF.packet, SOCK.raw, 0);
  // SOL_PACKET, PACKET_VNET_HDR: as a virtual machine's network card hands packets over.
  if (netio.option(handle, 263, 15, 1) < 0) throw new Error("Cannot forge: no vnet headers");
  const ifindex = Number(readFileSync("/sys/class/net/eth0/ifindex", "utf8"));
  if (netio.bind(handle, packetAddress(ifindex, 0x0800)) < 0) throw new Error("Cannot forge: not bound");
  for (const words of [0, 1, 4, 6, 15]) {
    for (const kind of [0, 1]) {
      const frame = new Uint8Array(10 + 14 + 20 + 20 + 400);
      const view = new DataView(frame.buffer);
      // Needs a checksum; of TCP, in segments or not.
      frame[0] = 1;
      frame[1] = kind;
      view.setUint16(2, 54, true);
      view.setUint16(4, kind === 0 ? 0 : 100, true);
      view.setUint16(6, 34, true);
      view.setUint16(8, 16, true);
      frame.set(
        router.split(":").map((each) => Number.parseInt(each, 16)),
        10,
      );
      frame[16] = 2;
      view.setUint16(22, 0x0800);
      const at = 24;
      frame[at] = 0x45;
      // Either the whole, or less than the header says that it has.
      const length = words === 15 && kind === 0 ? 20 + 24 : 440;
      view.setUint16(at + 2, length);
      frame[at + 8] = 64;
      frame[at + 9] = 6;
      frame.set([192, 168, 1, 10, ...to.split(".").map(Number)], at + 12);
      put16(frame, at + 10, ~fold(sumOf(frame, at, 20)) & 0xffff);
      frame[at + 32] = words << 4;
      frame[at + 33] = 0x10;
      const row = Int32Array.of(0, at + Math.max(length, 40), 0, 0, 0, 0, 0, 0);
      for (let times = 0; times < 5; times++) netio.send(handle, frame, new Uint8Array(0), row, 1);
    }
  }
}

test("half-made packets of a guest's network card are no reason to die", async () => {
  await between({}, async ({ homes, mine, parents }) => {
    await homes.must("mine-laptop", ["ping", "-c", "1", "-W", "20", encoded[4]]);
    const mac = (await homes.must("mine", ["cat", "/sys/class/net/br-lan/address"])).trim();
    const before = (await mine.counts()).counts.outPackets!;
    await homes.must("mine-laptop", [process.execPath, process.argv[1]!, "--forge", mac, encoded[4]]);
    await homes.must("mine-laptop", ["ping", "-c", "3", "-i", "0.1", "-W", "20", encoded[4]]);
    const after = await mine.counts();
    assert.ok(after.counts.outPackets! > before + 3, `they came so far: ${JSON.stringify(after)}`);
    assert.is(after.restarts + (await parents.counts()).restarts, 0);
  });
});

const forging = process.argv.indexOf("--forge");
if (forging > 0) forge(process.argv[forging + 1]!, process.argv[forging + 2]!);
else if (!runGateway()) test.run();
