/** Many gateways at once, known and unknown, at the data plane on the real kernel. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { encodeHeader, Header } from "../../src/ipref/header.ts";
import { fold, put16, sumOf } from "../../src/lib/checksum.ts";
import { runGateway } from "../lab/gateway.ts";
import type { Homes } from "../lab/homes.ts";
import { between, encoded, node } from "./site.ts";

/** An echo request of a tunnel, from one gateway's reference to the laptop's. */
function knock(from: string, to: string, reference: number): Buffer {
  const header = new Header();
  const bytesOf = (address: string) => Uint8Array.from(address.split("."), Number);
  header.protocol = 1;
  header.ttl = 64;
  header.source = bytesOf(from);
  header.destination = bytesOf(to);
  header.sourceReference = new Uint8Array(16);
  header.sourceReference[14] = reference >> 8;
  header.sourceReference[15] = reference;
  header.destinationReference = new Uint8Array(16);
  header.destinationReference[14] = 0x0b;
  header.destinationReference[15] = 0x07;
  const packet = new Uint8Array(128);
  const at = encodeHeader(header, packet);
  packet.set([8, 0, 0, 0, 0, 1, 0, 1, ...Array.from({ length: 24 }, (_, index) => index)], at);
  put16(packet, at + 2, ~fold(sumOf(packet, at, 32)) & 0xffff);
  return Buffer.from(packet.subarray(0, at + 32));
}

/**
 * Sends to a gateway from many addresses of the internet at once, round after round, and says who was answered, how
 * often, and in how many rounds all of them were. With `whole` a round lasts until all were answered, or two seconds,
 * and so many of these are wanted; without, `rounds` of 5 ms.
 */
const crowd = `
  const { to, packets, whole, rounds } = JSON.parse(process.argv[1]);
  const heard = new Set(); const now = new Set(); const endAt = Date.now() + 50_000;
  let answers = 0; let open = 0; let complete = 0; let round = 0; let timer;
  const sockets = packets.map(([from, hex]) => {
    const socket = require("node:dgram").createSocket("udp4");
    socket.on("message", () => {
      answers++; heard.add(from); now.add(from);
      if (whole && now.size === packets.length) { complete++; go(); }
    });
    socket.bind(1045, from, () => { if (++open === packets.length) go(); });
    return [socket, Buffer.from(hex, "hex")];
  });
  function go() {
    clearTimeout(timer); now.clear();
    if (whole ? complete === whole || Date.now() > endAt : round++ === rounds) {
      return void setTimeout(() => { console.log(JSON.stringify({ answers, heard: heard.size, complete })); process.exit(0); }, 500);
    }
    for (const [socket, bytes] of sockets) socket.send(bytes, 1045, to);
    timer = setTimeout(go, whole ? 2_000 : 5);
  }`;

async function addCrowd(homes: Homes, count: number): Promise<string[]> {
  const addresses = Array.from(
    { length: count },
    (_, index) => `203.0.${1 + (index >> 7)}.${1 + (index & 127)}`,
  );
  const lines = addresses.map((each) => `address add ${each}/32 dev lo`).join("\n");
  await homes.must("internet", ["ip", "-batch", "-"], { input: `${lines}\n` });
  return addresses;
}

test("three hundred gateways at once are all answered, each at its port, while two others talk both ways", async () => {
  await between({}, async ({ homes, mine, parents }) => {
    const addresses = await addCrowd(homes, 300);
    const { public4 } = homes.mine;
    const packets = addresses.map((each, index) => [
      each,
      knock(each, public4, 0x1000 + index).toString("hex"),
    ]);
    const ping = ["ping", "-c", "60", "-i", "0.02", "-W", "20", encoded[4]];
    const [told, ...pings] = await Promise.all([
      homes.must("internet", node(crowd, JSON.stringify({ to: public4, packets, whole: 25 }))),
      homes.exec("mine-laptop", ping),
      homes.exec("parents-laptop", ping),
    ]);
    const { heard, complete } = JSON.parse(told) as { heard: number; complete: number };
    assert.equal([heard, complete], [300, 25], told);
    for (const { stdout } of pings) assert.match(stdout, / 0% packet loss/);
    assert.is((await mine.counts()).restarts + (await parents.counts()).restarts, 0);
  });
});

test("a flood from gateways that may not make mappings gets no answer and takes no memory", async () => {
  await between({ peers: [] }, async ({ homes, mine }) => {
    await homes.must("mine-laptop", ["ping", "-c", "1", "-W", "20", encoded[4]]);
    const addresses = await addCrowd(homes, 256);
    const { public4 } = homes.mine;
    const packetsOf = (from: number) =>
      addresses.map((each, index) => [each, knock(each, public4, from + index).toString("hex")]);
    const flood = (from: number, rounds: number) => {
      const what = JSON.stringify({ to: public4, packets: packetsOf(from), rounds });
      return homes.must("internet", node(crowd, what));
    };
    await flood(0x1000, 20);
    const before = await mine.residentBytes();
    const refused = async () => (await mine.counts()).dropsIn.refused ?? 0;
    const endAt = performance.now() + 60_000;
    // A slow machine loses some of a flood before the gateway sees it.
    for (let round = 0; round < 3 || ((await refused()) < 20_000 && performance.now() < endAt); round++) {
      const told = await flood(0x2000 + (round % 3) * 0x100, 40);
      assert.equal(JSON.parse(told), { answers: 0, heard: 0, complete: 0 });
    }
    const grown = (await mine.residentBytes()) - before;
    assert.ok(grown < 12 * 1024 * 1024, `${grown} bytes more`);
    const { counts, dropsIn } = await mine.counts();
    assert.ok(dropsIn.refused! >= 20_000, JSON.stringify(dropsIn));
    assert.is(counts.asked, 0);
    await homes.must("mine-laptop", ["ping", "-c", "3", "-i", "0.1", "-W", "20", encoded[4]]);
  });
});

if (!runGateway()) test.run();
