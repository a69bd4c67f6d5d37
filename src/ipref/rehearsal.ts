/**
 * Packets that nobody sent, so that the engine's code is compiled before it is needed.
 *
 * A JavaScript engine compiles a function well only after some thousand calls; until then a packet takes many times as
 * long, and a network at rest never gets there. So a thread that begins lets a second engine, of the same classes,
 * move made-up packets from a machine of its own, a turn whenever the real one has nothing to do. Of the real machine
 * it uses the clock and what only computes. Keeps its mappings, counts and packets to itself; all of it goes when it
 * is over.
 *
 *     TUN:  UDP, TCP, echoes, super-packets ──▶ engine ──▶ wire: each packet comes back as its peer's answer would,
 *     what comes out is thrown away         ◀──        ◀──       both ends swapped, whose checksums don't cover them
 */

import { put16 } from "../lib/checksum.ts";
import { hostIsLittle } from "../lib/endian.ts";
import { ICMP, ICMPV6, TCP, UDP } from "../lib/packet.ts";
import {
  batchLength,
  nameLength,
  type PacketMachine,
  Ready,
  Row,
  rowLength,
  Trouble,
  Vnet,
  vnetLength,
  vnetNeedsChecksum,
} from "../system/packets.ts";
import { Counts } from "./counts.ts";
import { Envelope, writeEnvelope } from "./datagram.ts";
import { Engine } from "./engine.ts";
import { gatewaysMemory } from "./gateways.ts";
import type { ForwardSettings } from "./settings.ts";
import { Tun } from "./shared.ts";
import { State, TableReader, TableWriter } from "./table.ts";

/** As many as the compiler wants to see before it compiles the longest function for good, and no longer than this. */
const turns = 3_000;
const longestMs = 60_000;
const port = 1_045;
const segmentBytes = 1_000;

/** What the TUN gives, turn by turn: u UDP, t TCP, e echo, s super-packet. */
const program = ["u", "e", "t", "uu", "s", "tt", "sss", "t", "s", "st", "uuuuuutt", "e"] as const;

export interface RehearsalOptions {
  readonly machine: PacketMachine;
  readonly settings: ForwardSettings;
  readonly joinsUdp: boolean;
}

export class Rehearsal {
  readonly counts = new Counts(Counts.memory());
  readonly #engine: Engine;
  readonly #table: TableWriter;
  readonly #now: () => number;
  readonly #endAt: number;
  #left = turns;

  constructor(options: RehearsalOptions) {
    const { machine, settings, joinsUdp } = options;
    this.#now = () => machine.now();
    this.#endAt = machine.now() + longestMs;
    this.#table = tableOf(settings);
    this.#engine = new Engine({
      ...{ settings, joinsUdp, port },
      gateways: gatewaysMemory(settings.tunnelFamily, settings.firstId, 1),
      machine: new Stage(machine, settings),
      lookup: new TableReader(this.#table.open()),
      counts: this.counts,
      contexts: "all",
      post() {},
    });
  }

  /** A turn of the engine. @returns false when enough was rehearsed. */
  turn(): boolean {
    this.#engine.turn(0);
    // Now and then a mapping is used for the first time.
    this.#table.takeUsed(1 + (this.#left % 2));
    return --this.#left > 0 && this.#now() < this.#endAt;
  }
}

/** The two hosts of the play. */
function hostsOf({ lanFamily, encodeNet }: ForwardSettings): { ours: Uint8Array; theirs: Uint8Array } {
  const ours = new Uint8Array(16);
  const theirs = new Uint8Array(16);
  theirs.set(encodeNet.bytes);
  const last = lanFamily === 4 ? 3 : 15;
  theirs[last] = 9;
  ours[last] = 9;
  const [first, other] = lanFamily === 4 ? [11, 12] : [0x20, 0x26];
  ours[0] = theirs[0] === first ? other! : first!;
  return { ours, theirs };
}

function tableOf(settings: ForwardSettings): TableWriter {
  const { lanFamily: lan, tunnelFamily: tunnel } = settings;
  const table = new TableWriter({ capacity: 4, lan, tunnel, random: (length) => new Uint8Array(length) });
  const { ours, theirs } = hostsOf(settings);
  const context = new Uint8Array(16);
  context.set(settings.ownContext);
  const reference = new Uint8Array(16);
  reference[15] = 9;
  const peer = new Uint8Array(16);
  peer.set(tunnel === 4 ? [203, 0, 113, 9] : [0x20, 1, 0x0d, 0xb8, 9]);
  const both = State.byAddress | State.byReference;
  table.show(table.add({ address: ours, context, reference }, State.ours), both);
  table.show(table.add({ address: theirs, context: peer, reference }, 0), both);
  return table;
}

/** The machine of the play. */
class Stage implements PacketMachine {
  readonly #machine: PacketMachine;
  readonly #tunnelBytes: number;
  readonly #packets: Readonly<Record<string, Uint8Array>>;
  /** What was sent to the peer, and comes back with the next turn. */
  #messages: { bytes: Uint8Array; name: Uint8Array; segment: number }[] = [];
  #turn = 0;

  constructor(machine: PacketMachine, settings: ForwardSettings) {
    this.#machine = machine;
    this.#tunnelBytes = settings.tunnelFamily === 4 ? 4 : 16;
    const make = (protocol: number, payload: number, isSuper = false) =>
      packetOf(settings, { protocol, payload, isSuper });
    this.#packets = {
      u: make(UDP, 64),
      t: make(TCP, 12),
      e: make(settings.lanFamily === 4 ? ICMP : ICMPV6, 56),
      s: make(TCP, 2.5 * segmentBytes, true),
    };
  }

  now(): number {
    return this.#machine.now();
  }

  wait(rows: Int32Array): number {
    rows[2] = Ready.in;
    rows[5] = this.#messages.length > 0 ? Ready.in : 0;
    return 2;
  }

  receive(queue: number, arena: Uint8Array, stride: number, names: Uint8Array, rows: Int32Array): number {
    const most = Math.min(batchLength, Math.floor(arena.length / stride));
    // An engine that left something in a queue comes back without a wait.
    if (queue === Tun) this.#turn++;
    const kinds = program[this.#turn % program.length]!;
    const messages = queue === Tun ? [] : this.#messages.splice(0, most);
    const count = queue === Tun ? Math.min(most, kinds.length) : messages.length;
    for (let index = 0; index < count; index++) {
      const bytes = queue === Tun ? this.#packets[kinds[index]!]! : messages[index]!.bytes;
      arena.set(bytes, index * stride);
      const row = index * rowLength;
      rows[row + Row.offset] = index * stride;
      rows[row + Row.length] = bytes.length;
      rows[row + Row.segment] = 0;
      rows[row + Row.flags] = 0;
      rows[row + Row.name] = 0;
      if (queue === Tun) continue;
      const { name, segment } = messages[index]!;
      names.set(name, index * nameLength);
      rows[row + Row.segment] = segment;
      rows[row + Row.name] = name.length;
    }
    return count > 0 ? count : Trouble.again;
  }

  send(queue: number, arena: Uint8Array, names: Uint8Array, rows: Int32Array, count: number): number {
    if (queue === Tun) return count;
    for (let index = 0; index < count; index++) {
      const row = index * rowLength;
      const at = rows[row + Row.offset]!;
      const bytes = arena.slice(at, at + rows[row + Row.length]!);
      const segment = rows[row + Row.segment]!;
      const step = segment || bytes.length;
      for (let from = 0; from < bytes.length; from += step) this.#swap(bytes, from);
      const name = names.slice(index * nameLength, index * nameLength + rows[row + Row.name]!);
      // Some networks join what belongs together, others don't.
      if (segment > 0 && this.#turn % 2 === 0) this.#messages.push({ bytes, name, segment });
      else {
        for (let from = 0; from < bytes.length; from += step)
          this.#messages.push({ bytes: bytes.subarray(from, from + step), name, segment: 0 });
      }
    }
    return count;
  }

  errors(): number {
    return Trouble.again;
  }

  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number {
    return this.#machine.checksum(bytes, offset, length, seed);
  }

  split(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number {
    return this.#machine.split(source, target, frame, numbers);
  }

  join(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number {
    return this.#machine.join(source, target, frame, numbers);
  }

  /** Makes a tunnel packet its own answer: both contexts change places; the references are the same. */
  #swap(bytes: Uint8Array, at: number): void {
    const length = this.#tunnelBytes;
    const source = bytes.slice(at + 4, at + 4 + length);
    bytes.copyWithin(at + 4, at + 4 + length, at + 4 + 2 * length);
    bytes.set(source, at + 4 + length);
  }
}

/** A packet from our host to theirs as the TUN gives it, its checksum to be made. */
function packetOf(
  settings: ForwardSettings,
  what: { readonly protocol: number; readonly payload: number; readonly isSuper: boolean },
): Uint8Array {
  const { protocol, payload, isSuper } = what;
  const hosts = hostsOf(settings);
  const transport = new Uint8Array((protocol === TCP ? 20 : 8) + payload);
  const envelope = new Envelope();
  envelope.family = settings.lanFamily;
  envelope.protocol = protocol;
  envelope.dontFragment = true;
  envelope.source = hosts.ours;
  envelope.destination = hosts.theirs;
  envelope.transportBytes = transport.length;
  const packet = new Uint8Array(vnetLength + 40 + transport.length);
  const header = writeEnvelope(envelope, packet, vnetLength);
  if (protocol === TCP) transport.set([0x50, 0x10], 12);
  else if (protocol === UDP) put16(transport, 4, transport.length);
  else transport[0] = protocol === ICMP ? 8 : 128;
  packet.set(transport, vnetLength + header);
  packet[Vnet.flags] = protocol === TCP || protocol === UDP ? vnetNeedsChecksum : 0;
  if (isSuper) {
    packet[Vnet.kind] = settings.lanFamily === 4 ? 1 : 4;
    // In the machine's own byte order, as the kernel has it.
    packet[Vnet.segmentBytes + (hostIsLittle ? 0 : 1)] = segmentBytes & 0xff;
    packet[Vnet.segmentBytes + (hostIsLittle ? 1 : 0)] = segmentBytes >> 8;
  }
  return packet.subarray(0, vnetLength + header + transport.length);
}
