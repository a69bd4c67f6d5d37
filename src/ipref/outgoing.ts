/**
 * From the LAN into the tunnel: takes batches from the TUN and sends what the forwarder makes of them.
 *
 * Plain packets are rewritten where they lie and go out together. Of a super-packet only the headers are looked at;
 * the add-on splits it into a buffer of ours behind copies of the tunnel header, and it goes out as one message with
 * a segment size. While super-packets come, batches are small, so that what was read is still in the processor's
 * cache when it is sent.
 *
 *     arena:  | headroom | vnet | packet …      | headroom | vnet | packet …
 *             0          128    138             stride
 */

import { hostIsLittle } from "../lib/endian.ts";
import {
  batchLength,
  type PacketMachine,
  Row,
  rowLength,
  Segment,
  segmentLength,
  Vnet,
  vnetLength,
  vnetNeedsChecksum,
} from "../system/packets.ts";
import { keyOf } from "./asking.ts";
import { Count } from "./counts.ts";
import { headroomBytes, type Outward, Verdict } from "./forward.ts";
import type { Outbox } from "./outbox.ts";
import { type Shared, slots, strideBytes, Tun } from "./shared.ts";

/** Room for a super-packet in segments; one with segments so small that they need more is not sent. */
const splitBytes = 256 * 1024;
/** A tunnel header and a TCP header, at most. */
const mostHeaderBytes = 76 + 60;
/** Longer packets get their checksum from the add-on: it adds faster, but costs a call. */
const sumBytes = 256;
/** Slots read at a time while super-packets come. */
const fewSlots = 3;

/** Numbers of a vnet header are in the machine's own byte order. */
function hostGet16(bytes: Uint8Array, at: number): number {
  const [low, high] = hostIsLittle ? [at, at + 1] : [at + 1, at];
  return bytes[low]! | (bytes[high]! << 8);
}

export class Outgoing {
  readonly #shared: Shared;
  readonly #machine: PacketMachine;
  readonly #forward: Outward;
  readonly #outbox: Outbox;
  readonly #arena = new Uint8Array(slots * strideBytes + headroomBytes);
  readonly #many: Uint8Array;
  readonly #few: Uint8Array;
  readonly #noNames = new Uint8Array(0);
  readonly #rows = new Int32Array(batchLength * rowLength);
  readonly #wire = new Uint8Array(splitBytes);
  readonly #numbers = new Int32Array(segmentLength);
  readonly #again = new Uint8Array(strideBytes + headroomBytes);
  /** Where the next segments are written. */
  #wireAt = 0;
  #supers = false;
  /** The gateway of the last message, as an offset of the table, and the table of ports it was read from. */
  #peer = -1;
  #ports = -1;

  constructor(shared: Shared, forward: Outward, outbox: Outbox) {
    this.#shared = shared;
    this.#machine = shared.machine;
    this.#forward = forward;
    this.#outbox = outbox;
    this.#many = this.#arena.subarray(headroomBytes);
    this.#few = this.#many.subarray(0, fewSlots * strideBytes);
  }

  /** Moves a batch. @returns whether there may be more. */
  turn(): boolean {
    const arena = this.#supers ? this.#few : this.#many;
    const count = this.#machine.receive(Tun, arena, strideBytes, this.#noNames, this.#rows);
    if (count <= 0) return false;
    const full = count === (this.#supers ? fewSlots : slots);
    this.#supers = false;
    // Offsets of the table mean something else than in the last turn.
    this.#peer = -1;
    for (let index = 0; index < count; index++) {
      const at = headroomBytes + this.#rows[index * rowLength + Row.offset]!;
      this.#one(this.#arena, at, this.#rows[index * rowLength + Row.length]!);
    }
    this.#outbox.flush();
    return full;
  }

  /** Forwards a packet that had waited: with its vnet header, as it came. */
  again(packet: Uint8Array): void {
    if (packet.length > strideBytes - headroomBytes) return;
    this.#again.set(packet, headroomBytes);
    this.#peer = -1;
    this.#one(this.#again, headroomBytes, packet.length);
    this.#outbox.flush();
  }

  #one(arena: Uint8Array, at: number, length: number): void {
    const { counts } = this.#shared;
    const forward = this.#forward;
    if (length <= vnetLength) {
      counts.add(Count.odd, 1);
      return;
    }
    const offset = at + vnetLength;
    const size = length - vnetLength;
    const partial = (arena[at + Vnet.flags]! & vnetNeedsChecksum) !== 0;
    const isSuper = arena[at + Vnet.kind] !== 0;
    forward.partial = partial;
    let verdict: number;
    if (isSuper || (partial && size > sumBytes)) {
      if (isSuper) {
        this.#supers = true;
        forward.gsoBytes = hostGet16(arena, at + Vnet.segmentBytes);
      }
      verdict = forward.decide(arena, offset, size);
      if (verdict === Verdict.send) {
        if (forward.templated) {
          this.#split(arena);
          return;
        }
        verdict = forward.place(arena);
      }
    } else verdict = forward.forward(arena, offset, size);
    if (verdict === Verdict.send) {
      counts.add(Count.outPackets, 1);
      counts.add(Count.outBytes, forward.resultLength);
      this.#send(arena, forward.resultOffset, forward.resultLength);
      this.#shared.gateways.countOut(1, forward.resultLength);
    } else this.#otherwise(verdict, arena, { at, length });
  }

  #send(arena: Uint8Array, offset: number, length: number): void {
    const outbox = this.#outbox;
    const { gateways } = this.#shared;
    const isSame = this.#address(arena);
    if (isSame && outbox.append(offset, length)) return;
    if (isSame) outbox.repeatName(gateways.nameBytes);
    outbox.add(offset, length, gateways.nameBytes);
  }

  /**
   * Makes room for a message to the forwarder's peer, and writes its name.
   *
   * @returns true if it is the peer of the last message; then the name is not written.
   */
  #address(arena: Uint8Array): boolean {
    const outbox = this.#outbox;
    const { gateways, lookup } = this.#shared;
    const { peer } = this.#forward;
    outbox.select(arena);
    if (outbox.count > 0 && peer === this.#peer && gateways.version === this.#ports) return true;
    gateways.writeName(outbox.names, outbox.nameAt, lookup.bytes, peer);
    this.#peer = peer;
    this.#ports = gateways.version;
    return false;
  }

  /** A packet whose checksums are to be made, perhaps a super-packet: the add-on writes it, behind what was written. */
  #split(arena: Uint8Array): void {
    const { counts, gateways } = this.#shared;
    const forward = this.#forward;
    const outbox = this.#outbox;
    const { segmentBytes, transportLength } = forward;
    const most = Math.ceil(transportLength / segmentBytes) * mostHeaderBytes + transportLength;
    if (most > splitBytes) {
      counts.add(Count.failed, 1);
      return;
    }
    if (this.#wireAt + most > splitBytes || outbox.count === 0) {
      outbox.flush();
      this.#wireAt = 0;
    }
    const frame = forward.frame();
    const numbers = this.#numbers;
    numbers[Segment.offset] = forward.transportOffset;
    numbers[Segment.length] = transportLength;
    numbers[Segment.protocol] = forward.protocol;
    numbers[Segment.size] = segmentBytes;
    numbers[Segment.ip] = -1;
    numbers[Segment.seedOut] = forward.seedOut;
    numbers[Segment.target] = this.#wireAt;
    let written: number;
    try {
      written = this.#machine.split(arena, this.#wire, frame, numbers);
    } catch {
      // A transport header that says more than there is; a guest of this machine may send such.
      counts.add(Count.failed, 1);
      return;
    }
    const count = numbers[Segment.count]!;
    const at = this.#wireAt;
    this.#wireAt += written;
    counts.add(Count.outPackets, count);
    counts.add(Count.outBytes, written);
    if (count === 1) {
      this.#send(this.#wire, at, written);
      gateways.countOut(1, written);
      return;
    }
    counts.add(Count.split, 1);
    // What all segments have more than the packet: a frame each, and a transport header each but for one.
    const header = (written - transportLength - count * frame.length) / (count - 1);
    const segment = frame.length + header + segmentBytes;
    const share = outbox.most(segment);
    // Super-packets of one stream lie behind each other: as many segments as possible share a message.
    let from = this.#address(this.#wire) ? outbox.extend(at, written, segment) : 0;
    for (; from < written; from += share) {
      if (this.#address(this.#wire)) outbox.repeatName(gateways.nameBytes);
      outbox.addSegments(at + from, Math.min(share, written - from), {
        segment,
        nameBytes: gateways.nameBytes,
      });
    }
    gateways.countOut(count, written);
  }

  #otherwise(
    verdict: number,
    arena: Uint8Array,
    span: { readonly at: number; readonly length: number },
  ): void {
    const { counts, asking, held, gateways } = this.#shared;
    const forward = this.#forward;
    const outbox = this.#outbox;
    if (verdict === Verdict.answer) {
      counts.add(Count.outAnswers, 1);
      this.#shared.tellLan(forward.answer, forward.answerLength);
    } else if (verdict === Verdict.pieces) {
      const { pieces } = forward;
      counts.add(Count.outPackets, pieces.count);
      // The pieces' bytes are used again by the next packet.
      for (let index = 0; index < pieces.count; index++) {
        if (this.#address(pieces.bytes)) outbox.repeatName(gateways.nameBytes);
        outbox.add(pieces.offsets[index]!, pieces.lengths[index]!, gateways.nameBytes);
        counts.add(Count.outBytes, pieces.lengths[index]!);
        gateways.countOut(1, pieces.lengths[index]!);
      }
      outbox.flush();
    } else if (verdict === Verdict.ask) {
      const { asked } = forward;
      const bytes = this.#shared.lanBytes;
      const wanted = { kind: "ours", address: arena.slice(asked, asked + bytes) } as const;
      const key = keyOf(wanted);
      const answer = asking.ask(key, wanted, this.#shared.now);
      if (answer === "asked") counts.add(Count.asked, 1);
      const mayCome = answer === "asked" || answer === "open";
      const packet = arena.subarray(span.at, span.at + span.length);
      if (mayCome && held.keep(key, packet, this.#shared.now)) counts.add(Count.held, 1);
      else counts.add(Count.lapsed, 1);
    }
  }
}
