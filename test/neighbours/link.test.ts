/** The link on an Ethernet device: the frames it makes, those it lets by, and how long it listens. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Mac } from "../../src/lib/address.ts";
import { encodeArpReply, encodeArpRequest, encodeSolicitation } from "../../src/lib/arp.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openDevice } from "../../src/neighbours/neighbours.ts";
import { Machine } from "../fake/machine.ts";
import { host6, hostA, hostB, macA, ownMac } from "./wire.ts";

const hex = (bytes: Uint8Array | undefined) => bytes && Buffer.from(bytes).toString("hex");
const device = (machine: Machine, family: 4 | 6) =>
  openDevice(machine, { ifindex: 3, address: ownMac, family });
const question = encodeArpRequest({ senderMac: ownMac, sender: hostB, target: hostA });
const answer = encodeArpReply({ senderMac: macA, sender: hostA, target: hostB });
const frame = (from: string, packet: Uint8Array) =>
  Uint8Array.from([...Buffer.from(`020000000001${from.replaceAll(":", "")}0806`, "hex"), ...packet]);

test("a packet to all goes to everybody in ARP, to the group meant in IPv6; one to an owner goes to it alone", () => {
  const machine = new Machine();
  const arp = device(machine, 4);
  arp.onReceive(() => undefined);
  arp.broadcast(question);
  arp.transmit(question, macA);
  const nd = device(machine, 6);
  nd.onReceive(() => undefined);
  const solicitation = encodeSolicitation({ source: host6, sourceMac: ownMac, target: host6 });
  nd.broadcast(solicitation);
  const [first, second] = machine.sockets;
  assert.equal(first!.sent.map(hex), [
    `ffffffffffff020000000001${"0806"}${hex(question)}`,
    `02000000000a020000000001${"0806"}${hex(question)}`,
  ]);
  assert.equal(second!.sent.map(hex), [`3333ff000010020000000001${"86dd"}${hex(solicitation)}`]);
});

test("it listens while somebody does, on one socket, and anew afterwards", () => {
  const machine = new Machine();
  const link = device(machine, 4);
  assert.is(machine.sockets.length, 0);
  const heard: string[] = [];
  const hear = (_: Uint8Array, from: Mac) => heard.push(from);
  const [one, other] = [link.onReceive(hear), link.onReceive(hear)];
  assert.is(machine.sockets.length, 1);
  machine.sockets[0]!.deliver(frame(macA, answer));
  assert.equal(heard, [macA, macA]);
  one();
  one();
  assert.is(machine.sockets[0]!.closed, false);
  other();
  assert.is(machine.sockets[0]!.closed, true);
  link.onReceive(hear);
  assert.is(machine.sockets.length, 2);
});

test("our own frames, frames without content and other IPv6 are let by", () => {
  const machine = new Machine();
  const heard: Uint8Array[] = [];
  device(machine, 4).onReceive((packet) => heard.push(packet.slice()));
  machine.sockets[0]!.deliver(frame(ownMac, answer));
  for (let end = 0; end <= 14; end++) machine.sockets[0]!.deliver(frame(macA, answer).slice(0, end));
  assert.equal(heard, []);
  machine.sockets[0]!.deliver(frame(macA, answer));
  assert.equal(heard.map(hex), [hex(answer)]);
  device(machine, 6).onReceive((packet) => heard.push(packet.slice()));
  const tcp = Uint8Array.from([0x60, 0, 0, 0, 0, 20, 6, 64, ...new Uint8Array(52)]);
  machine.sockets[1]!.deliver(frame(macA, tcp));
  assert.is(heard.length, 1);
});

test("a socket that dies is opened again with the next packet", async () => {
  const machine = new Machine();
  const link = device(machine, 4);
  const heard: Mac[] = [];
  link.onReceive((_, from) => heard.push(from));
  machine.sockets[0]!.close(new Fault("kernel", "Cannot receive: it broke"));
  await machine.settle();
  link.broadcast(question);
  assert.is(machine.sockets.length, 2);
  machine.sockets[1]!.deliver(frame(macA, answer));
  assert.equal(heard, [macA]);
});

test.run();
