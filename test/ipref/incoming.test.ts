/** What comes in by the batch: messages of one sender are moved together only if they are packets of one length. */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { Asking } from "../../src/ipref/asking.ts";
import { Counts } from "../../src/ipref/counts.ts";
import { Gateways, gatewaysMemory } from "../../src/ipref/gateways.ts";
import { Held } from "../../src/ipref/held.ts";
import { Incoming } from "../../src/ipref/incoming.ts";
import { Outbox } from "../../src/ipref/outbox.ts";
import { Tun, Wire } from "../../src/ipref/shared.ts";
import {
  nameLength,
  type PacketMachine,
  Row,
  rowLength,
  Trouble,
  Vnet,
  vnetLength,
} from "../../src/system/packets.ts";
import { native } from "../system/until.ts";
import {
  address,
  filler,
  type Gateway,
  gateway,
  ip,
  passed,
  readIp,
  sides,
  TCP,
  transport,
  withChecksum,
} from "./crossing.ts";

/** A message of the socket: packets of one length, joined by the kernel if they are several. */
interface Message {
  readonly packets: readonly Uint8Array[];
}

/** A machine whose socket gives these messages in one batch; what goes to the TUN is kept. */
class Batch implements PacketMachine {
  readonly written: Uint8Array[] = [];
  readonly checksum = native().checksum;
  readonly split = native().split;
  readonly join = native().join;
  #messages: readonly Message[];
  readonly #name: Uint8Array;

  constructor(messages: readonly Message[], name: Uint8Array) {
    this.#messages = messages;
    this.#name = name;
  }

  now(): number {
    return 1;
  }

  wait(): number {
    return 0;
  }

  errors(): number {
    return Trouble.again;
  }

  receive(queue: number, arena: Uint8Array, stride: number, names: Uint8Array, rows: Int32Array): number {
    if (queue !== Wire || this.#messages.length === 0) return Trouble.again;
    const count = this.#messages.length;
    for (const [index, { packets }] of this.#messages.entries()) {
      const bytes = Buffer.concat(packets);
      arena.set(bytes, index * stride);
      names.set(this.#name, index * nameLength);
      rows.fill(0, index * rowLength, (index + 1) * rowLength);
      rows[index * rowLength + Row.offset] = index * stride;
      rows[index * rowLength + Row.length] = bytes.length;
      rows[index * rowLength + Row.segment] = packets.length > 1 ? packets[0]!.length : 0;
      rows[index * rowLength + Row.name] = this.#name.length;
    }
    this.#messages = [];
    return count;
  }

  send(queue: number, arena: Uint8Array, _: Uint8Array, rows: Int32Array, count: number): number {
    assert.is(queue, Tun);
    for (let row = 0; row < count * rowLength; row += rowLength) {
      const from = rows[row + Row.offset]!;
      this.written.push(arena.slice(from, from + rows[row + Row.length]!));
    }
    return count;
  }
}

/** Takes messages in, in one batch. @returns the host's packets, super-packets as what they stand for, and the counts */
function take(to: Gateway, from: string, messages: readonly Message[]) {
  const gateways = new Gateways({ family: 4, port: 1045, memory: gatewaysMemory(4, 7) });
  const name = new Uint8Array(nameLength);
  gateways.writeName(name, 0, address(from), 0);
  const machine = new Batch(messages, name.slice(0, gateways.nameBytes));
  const counts = new Counts(Counts.memory());
  const outbox = (queue: number) => new Outbox(machine, { queue, onLost: () => assert.unreachable() });
  const shared = {
    ...{ machine, counts, gateways, lookup: to.records },
    ...{ asking: new Asking(() => {}), held: new Held(), lanBytes: 4, tunnelBytes: 4, now: 1 },
    tellLan: () => assert.unreachable(),
  };
  const out = { tun: outbox(Tun), wire: outbox(Wire) };
  const incoming = new Incoming(shared, to.inward, out, { joinsUdp: true });
  while (incoming.turn());
  const payloads = machine.written.flatMap((bytes) => {
    const { payload } = readIp(bytes.subarray(vnetLength));
    const header = payload[12]! >> 4 === 5 ? 20 : payload.length;
    const data = payload.subarray(header);
    const low = bytes[Vnet.segmentBytes]!;
    const segment = bytes[Vnet.kind] === 0 ? 0 : low | (bytes[Vnet.segmentBytes + 1]! << 8);
    if (segment === 0) return [[...data]];
    const parts: number[][] = [];
    for (let at = 0; at < data.length; at += segment) parts.push([...data.subarray(at, at + segment)]);
    return parts;
  });
  return { payloads, counts: counts.all() };
}

/** Segments of a TCP connection, as the other gateway sends them. */
function segments(from: Gateway, datas: readonly Uint8Array[], port = 40_000): Uint8Array[] {
  let sequence = 1;
  return datas.map((data) => {
    const about = { source: from.side.host, destination: from.side.theirHost, protocol: TCP };
    const segment = transport(about, data);
    const view = new DataView(segment.buffer);
    view.setUint16(0, port);
    view.setUint32(4, sequence);
    // Acknowledges, and pushes nothing.
    segment[13] = 0x10;
    withChecksum(segment, TCP, [address(about.source), address(about.destination)]);
    sequence += data.length;
    return passed(from.outward, ip(about, segment));
  });
}

test("smaller packets that the kernel joined are not taken for the end of larger ones before them", () => {
  const both = sides(4, 4, 4);
  const from = gateway(both.b, both.a);
  const bulk = segments(from, [filler(1_340), filler(1_340, 2), filler(1_340, 3)]);
  const acks = segments(from, [filler(0), filler(0), filler(0)], 40_001);
  const small = segments(from, [filler(5), filler(5, 6), filler(5, 7)], 40_002);
  for (const [title, first] of [
    ["joined", [{ packets: bulk }]],
    ["one by one", bulk.map((each) => ({ packets: [each] }))],
  ] as const) {
    for (const [what, then] of [
      ["ACKs", acks],
      ["data", small],
    ] as const) {
      const to = gateway(both.a, both.b);
      const { payloads, counts } = take(to, both.b.context, [...first, { packets: then }]);
      const sizes = payloads.map((each) => each.length);
      const size = what === "ACKs" ? 0 : 5;
      assert.equal(sizes, [1_340, 1_340, 1_340, size, size, size], `${title}, ${what}`);
      assert.is(counts.counts.inPackets, 6);
      assert.equal(counts.dropsIn, {});
    }
  }
});

test("a shorter packet alone ends those before it, and messages of one length go on", () => {
  const both = sides(4, 4, 4);
  const from = gateway(both.b, both.a);
  const datas = [filler(900), filler(900, 2), filler(900, 3), filler(900, 4), filler(17, 5)];
  const bulk = segments(from, datas);
  for (const messages of [
    [{ packets: bulk.slice(0, 2) }, { packets: bulk.slice(2, 4) }, { packets: bulk.slice(4) }],
    bulk.map((each) => ({ packets: [each] })),
    [{ packets: bulk.slice(0, 2) }, { packets: bulk.slice(2) }],
  ]) {
    const { payloads, counts } = take(gateway(both.a, both.b), both.b.context, messages);
    assert.equal(
      payloads,
      datas.map((each) => [...each]),
    );
    assert.equal([counts.counts.inPackets, counts.counts.joined], [5, 1]);
  }
});

test.run();
