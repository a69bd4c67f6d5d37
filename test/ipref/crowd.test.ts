/** Many gateways at once, known and unknown, at the data plane on the real kernel. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { fold, put16, sumOf } from "../../src/ipref/checksum.ts";
import { encodeHeader, Header } from "../../src/ipref/header.ts";
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

/** Sends to a gateway from many addresses of the internet at once, and says how many were answered. */
const crowd = `
  const { to, packets, rounds } = JSON.parse(process.argv[1]);
  let answers = 0; const heard = new Set(); let open = 0;
  const sockets = packets.map(([from, hex]) => {
    const socket = require("node:dgram").createSocket("udp4");
    socket.on("message", () => { answers++; heard.add(from); });
    socket.bind(1045, from, () => { if (++open === packets.length) go(0); });
    return [socket, Buffer.from(hex, "hex")];
  });
  function go(round) {
    if (round === rounds) return void setTimeout(() => { console.log(JSON.stringify({ answers, heard: heard.size })); process.exit(0); }, 500);
    for (const [socket, bytes] of sockets) socket.send(bytes, 1045, to);
    setTimeout(() => go(round + 1), 5);
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
    const [told, ...pings] = await Promise.all([
      homes.must("internet", node(crowd, JSON.stringify({ to: public4, packets, rounds: 30 })), {
        limitMs: 60_000,
      }),
      homes.exec("mine-laptop", ["ping", "-c", "60", "-i", "0.02", "-W", "2", encoded[4]]),
      homes.exec("parents-laptop", ["ping", "-c", "60", "-i", "0.02", "-W", "2", encoded[4]]),
    ]);
    const { answers, heard } = JSON.parse(told) as { answers: number; heard: number };
    assert.is(heard, 300);
    assert.ok(answers > 300 * 25, `${answers} answers`);
    for (const { stdout } of pings) assert.match(stdout, / 0% packet loss/);
    assert.is((await mine.counts()).restarts + (await parents.counts()).restarts, 0);
  });
});

test("a flood from gateways that may not make mappings gets no answer and takes no memory", async () => {
  await between({ peers: [] }, async ({ homes, mine }) => {
    await homes.must("mine-laptop", ["ping", "-c", "1", "-W", "5", encoded[4]]);
    const addresses = await addCrowd(homes, 256);
    const { public4 } = homes.mine;
    const packetsOf = (from: number) =>
      addresses.map((each, index) => [each, knock(each, public4, from + index).toString("hex")]);
    const flood = (from: number, rounds: number) => {
      const what = JSON.stringify({ to: public4, packets: packetsOf(from), rounds });
      return homes.must("internet", node(crowd, what), { limitMs: 60_000 });
    };
    await flood(0x1000, 20);
    const before = await mine.residentBytes();
    for (let round = 0; round < 3; round++) {
      assert.equal(JSON.parse(await flood(0x2000 + round * 0x100, 40)), { answers: 0, heard: 0 });
    }
    const grown = (await mine.residentBytes()) - before;
    assert.ok(grown < 12 * 1024 * 1024, `${grown} bytes more`);
    const { counts, dropsIn } = await mine.counts();
    assert.ok(dropsIn.refused! > 20_000, JSON.stringify(dropsIn));
    assert.is(counts.asked, 0);
    await homes.must("mine-laptop", ["ping", "-c", "3", "-i", "0.1", "-W", "5", encoded[4]]);
  });
});

if (!runGateway()) test.run();
