/**
 * From the tunnel to the LAN: takes batches from the UDP socket and writes what the forwarder makes of them to the
 * TUN.
 *
 * A message may hold many packets of one length, joined by the kernel (UDP_GRO); packets of one length and sender
 * that came as messages of their own are moved together likewise, if the first of them begins something that can be
 * joined. The forwarder looks at the first, and the add-on joins as many as continue its stream into one super-packet
 * behind the header that the forwarder made, so that the kernel takes one way for all of them. Everything else is
 * rewritten where it lies.
 */

import { UDP } from "../lib/packet.ts";
import {
  batchLength,
  nameLength,
  type PacketMachine,
  Row,
  rowLength,
  Segment,
  segmentLength,
  vnetLength,
} from "../system/packets.ts";
import { keyOf } from "./asking.ts";
import { Count } from "./counts.ts";
import { headroomBytes, type Inward, Verdict } from "./forward.ts";
import { mostSegments, type Outbox } from "./outbox.ts";
import { type Shared, slots, strideBytes, Wire, wireStrideBytes } from "./shared.ts";

const truncated = 0x20;
/** A joined packet, as long as one can be, behind the headers that it gets. */
const joinedBytes = 65_535 + 128;
/** Slots read at a time while joined messages come, which fill the processor's cache. */
const fewSlots = 4;
/** More packets than a message ever has; of UDP, the kernel takes no more apart than it lets others put together. */
const anyCount = 0xffff;
/** So many joined packets wait to be written together. */
const joinedSlots = 4;

export interface IncomingOptions {
  /** Whether the TUN takes super-packets of UDP. */
  readonly joinsUdp: boolean;
}

export class Incoming {
  readonly #shared: Shared;
  readonly #machine: PacketMachine;
  readonly #forward: Inward;
  /** To the TUN, and to peers. */
  readonly #out: { readonly tun: Outbox; readonly wire: Outbox };
  readonly #joinsUdp: boolean;
  readonly #arena = new Uint8Array(slots * wireStrideBytes + headroomBytes);
  readonly #many: Uint8Array;
  readonly #few: Uint8Array;
  readonly #names = new Uint8Array(batchLength * nameLength);
  readonly #rows = new Int32Array(batchLength * rowLength);
  readonly #joined = new Uint8Array(joinedSlots * joinedBytes);
  #joinedAt = 0;
  #gathered = 0;
  readonly #numbers = new Int32Array(segmentLength);
  readonly #again = new Uint8Array(strideBytes + headroomBytes);
  readonly #againName = new Uint8Array(nameLength);
  #supers = false;

  constructor(
    shared: Shared,
    forward: Inward,
    out: { readonly tun: Outbox; readonly wire: Outbox },
    options: IncomingOptions,
  ) {
    this.#shared = shared;
    this.#machine = shared.machine;
    this.#forward = forward;
    this.#out = out;
    this.#joinsUdp = options.joinsUdp;
    this.#many = this.#arena.subarray(headroomBytes);
    this.#few = this.#many.subarray(0, fewSlots * wireStrideBytes);
  }

  /** Moves a batch. @returns whether there may be more. */
  turn(): boolean {
    const arena = this.#supers ? this.#few : this.#many;
    const count = this.#machine.receive(Wire, arena, wireStrideBytes, this.#names, this.#rows);
    if (count <= 0) return false;
    const full = count === (this.#supers ? fewSlots : slots);
    this.#supers = false;
    for (let index = 0; index < count; ) index += this.#message(index, count);
    this.#out.tun.flush();
    this.#out.wire.flush();
    return full;
  }

  /** Forwards a packet that had waited: behind the socket address that it came from. */
  again(packet: Uint8Array): void {
    const { nameBytes } = this.#shared.gateways;
    const length = packet.length - nameBytes;
    if (length <= 0 || length > strideBytes) return;
    this.#againName.set(packet.subarray(0, nameBytes));
    this.#again.set(packet.subarray(nameBytes), headroomBytes);
    this.#from(this.#againName, 0);
    this.#one(this.#again, headroomBytes, length);
    this.#out.tun.flush();
    this.#out.wire.flush();
  }

  /** Forwards a packet of our own making as if it came from an address: errors that the network told us. */
  tell(names: Uint8Array, packet: Uint8Array): void {
    this.#again.set(packet, headroomBytes);
    this.#from(names, 0);
    const forward = this.#forward;
    if (forward.forward(this.#again, headroomBytes, packet.length) !== Verdict.send) return;
    this.#write(this.#again, forward.resultOffset, forward.resultLength);
    this.#out.tun.flush();
  }

  /** @param at where in `names` the sender's socket address begins. */
  #from(names: Uint8Array, at: number): void {
    this.#forward.from(names, at + this.#shared.gateways.addressAt);
    this.#sender = names;
    this.#senderAt = at;
  }
  #sender: Uint8Array = this.#names;
  #senderAt = 0;

  /** @returns how many messages were taken. */
  #message(index: number, count: number): number {
    const rows = this.#rows;
    const row = index * rowLength;
    const length = rows[row + Row.length]!;
    const { counts, gateways } = this.#shared;
    if (
      (rows[row + Row.flags]! & truncated) !== 0 ||
      rows[row + Row.name] !== gateways.nameBytes ||
      length === 0
    ) {
      counts.add(Count.odd, 1);
      return 1;
    }
    this.#from(this.#names, index * nameLength);
    const at = headroomBytes + rows[row + Row.offset]!;
    const segment = rows[row + Row.segment]!;
    if (segment > 0 && segment < length) {
      this.#supers = true;
      // A super-packet of the sender takes more than one message, since each segment has headers of its own now.
      const taken = this.#gather(index, count, segment);
      this.#several(at, this.#gathered, segment);
      return taken;
    }
    // Worth a look only if the next packet may belong to it.
    if (index + 1 >= count || !this.#continues(index, index + 1, length)) {
      this.#one(this.#arena, at, length);
      return 1;
    }
    const forward = this.#forward;
    const verdict = forward.decide(this.#arena, at, length);
    if (verdict !== Verdict.send || !this.#joins()) {
      this.#settle(verdict === Verdict.send ? forward.place(this.#arena) : verdict, this.#arena, {
        at,
        length,
      });
      return 1;
    }
    const taken = this.#gather(index, count, length);
    this.#several(at, this.#gathered, length);
    return taken;
  }

  /** Whether a message has packets of the length `segment`, the last one perhaps shorter, of the same sender. */
  #continues(index: number, next: number, segment: number): boolean {
    const rows = this.#rows;
    const [row, other] = [index * rowLength, next * rowLength];
    const length = rows[other + Row.length]!;
    const own = rows[other + Row.segment]! || length;
    // Packets of another length may only be the end: one alone, and a shorter one.
    if (length === 0 || (own !== segment && (length > segment || own < length))) return false;
    if (rows[other + Row.name] !== rows[row + Row.name] || (rows[other + Row.flags]! & truncated) !== 0)
      return false;
    const names = this.#names;
    const [one, two] = [index * nameLength, next * nameLength];
    for (let byte = 0; byte < rows[row + Row.name]!; byte++) {
      if (names[one + byte] !== names[two + byte]) return false;
    }
    return true;
  }

  /**
   * Moves messages that continue the one at `index` behind it, `gathered` bytes in all.
   *
   * @returns how many they are, itself included.
   */
  #gather(index: number, count: number, segment: number): number {
    const rows = this.#rows;
    const row = index * rowLength;
    const at = headroomBytes + rows[row + Row.offset]!;
    let total = rows[row + Row.length]!;
    let next = index + 1;
    while (next < count && total % segment === 0 && this.#continues(index, next, segment)) {
      const size = rows[next * rowLength + Row.length]!;
      if (total + size > wireStrideBytes - headroomBytes) break;
      const from = headroomBytes + rows[next * rowLength + Row.offset]!;
      this.#arena.copyWithin(at + total, from, from + size);
      total += size;
      next++;
    }
    this.#gathered = total;
    return next - index;
  }

  /** Whether the packet that was just decided on can be the first of a joined one. */
  #joins(): boolean {
    const forward = this.#forward;
    return forward.templated && (this.#joinsUdp || forward.protocol !== UDP);
  }

  /** Packets of one length, back to back, the last one perhaps shorter. */
  #several(at: number, length: number, segment: number): void {
    const forward = this.#forward;
    const arena = this.#arena;
    const end = at + length;
    let alone = false;
    for (let from = at; from < end; ) {
      const size = Math.min(segment, end - from);
      const verdict = forward.decide(arena, from, size);
      if (verdict === Verdict.send && !alone && from + size < end && this.#joins()) {
        const count = this.#join(from, end - from, segment);
        // One that nothing continues: its neighbours are most likely like it.
        alone = count === 1;
        if (count > 0) {
          from += count * segment;
          continue;
        }
      }
      alone = false;
      this.#settle(verdict === Verdict.send ? forward.place(arena) : verdict, arena, {
        at: from,
        length: size,
      });
      // The next one's headers are written over the end of this one.
      this.#out.tun.flush();
      from += size;
    }
  }

  /** @returns how many packets were joined and written; 0: the first cannot be. */
  #join(from: number, length: number, segment: number): number {
    const { counts } = this.#shared;
    const forward = this.#forward;
    const numbers = this.#numbers;
    const { tun } = this.#out;
    tun.select(this.#joined);
    if (tun.count === 0 || this.#joinedAt === joinedSlots) {
      tun.flush();
      this.#joinedAt = 0;
    }
    numbers[Segment.offset] = from;
    numbers[Segment.length] = length;
    numbers[Segment.protocol] = forward.protocol;
    numbers[Segment.size] = segment;
    numbers[Segment.strip] = forward.stripBytes;
    numbers[Segment.ip] = vnetLength;
    numbers[Segment.vnet] = 1;
    numbers[Segment.seedIn] = forward.seedIn;
    numbers[Segment.seedOut] = forward.seedOut;
    numbers[Segment.target] = this.#joinedAt * joinedBytes;
    numbers[Segment.most] = forward.protocol === UDP ? mostSegments : anyCount;
    const written = this.#machine.join(this.#arena, this.#joined, forward.frameBehindVnet(), numbers);
    if (written === 0) return 0;
    const count = numbers[Segment.count]!;
    tun.add(this.#joinedAt * joinedBytes, written, 0);
    this.#joinedAt++;
    counts.add(Count.joined, count > 1 ? 1 : 0);
    this.#heard(count, Math.min(length, count * segment));
    return count;
  }

  #one(arena: Uint8Array, at: number, length: number): void {
    this.#settle(this.#forward.forward(arena, at, length), arena, { at, length });
  }

  #settle(verdict: number, arena: Uint8Array, span: { readonly at: number; readonly length: number }): void {
    const { counts, asking, held, gateways } = this.#shared;
    const forward = this.#forward;
    if (verdict === Verdict.send) {
      this.#heard(1, span.length);
      this.#write(arena, forward.resultOffset, forward.resultLength);
    } else if (verdict === Verdict.pieces) {
      const { pieces } = forward;
      this.#heard(1, span.length);
      for (let index = 0; index < pieces.count; index++) {
        this.#shared.tellLan(pieces.bytes.subarray(pieces.offsets[index]!), pieces.lengths[index]!);
      }
    } else if (verdict === Verdict.answer) {
      counts.add(Count.inAnswers, 1);
      const { wire } = this.#out;
      wire.flush();
      wire.select(forward.answer);
      for (let index = 0; index < gateways.nameBytes; index++) {
        wire.names[index] = this.#sender[this.#senderAt + index]!;
      }
      wire.add(0, forward.answerLength, gateways.nameBytes);
      // The next answer is made in the same place.
      wire.flush();
    } else if (verdict === Verdict.ask) {
      const wanted = {
        kind: "theirs",
        context: forward.askedContext.slice(0, this.#shared.tunnelBytes),
        reference: forward.askedReference.slice(),
      } as const;
      const key = keyOf(wanted);
      const answer = asking.ask(key, wanted, this.#shared.now);
      if (answer === "asked") counts.add(Count.asked, 1);
      const copy = new Uint8Array(gateways.nameBytes + span.length);
      copy.set(this.#sender.subarray(this.#senderAt, this.#senderAt + gateways.nameBytes));
      copy.set(arena.subarray(span.at, span.at + span.length), gateways.nameBytes);
      const mayCome = answer === "asked" || answer === "open";
      counts.add(mayCome && held.keep(key, copy, this.#shared.now) ? Count.held : Count.lapsed, 1);
    }
  }

  /** Packets make sense and have a destination here: they count, and so does their sender's port. */
  #heard(packets: number, bytes: number): void {
    const { gateways, counts } = this.#shared;
    if (gateways.heard(this.#sender, this.#senderAt)) counts.add(Count.ports, 1);
    gateways.countIn(packets, bytes);
    counts.add(Count.inPackets, packets);
    counts.add(Count.inBytes, bytes);
  }

  /** A packet without anything for the kernel to do, in place. */
  #write(arena: Uint8Array, offset: number, length: number): void {
    const { tun } = this.#out;
    tun.select(arena);
    const at = offset - vnetLength;
    for (let byte = at; byte < offset; byte++) arena[byte] = 0;
    tun.add(at, length + vnetLength, 0);
  }
}
