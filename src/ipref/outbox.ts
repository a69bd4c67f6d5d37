/**
 * What goes out of one queue next: up to 64 messages of one arena, sent in as few calls as the kernel allows.
 *
 * Packets of one length to one gateway that follow each other are moved together and become one message with a
 * segment size (UDP_SEGMENT): the kernel then takes one way through its network for all of them. Where a device or an
 * old kernel refuses such a message it is sent apart, and none is made for ten seconds. What the kernel does not take
 * is never waited for: who owns the outbox is told of each message that is lost, and the rest goes on.
 */

import { batchLength, nameLength, type PacketMachine, Row, rowLength, Trouble } from "../system/packets.ts";

/** More would not be taken: UDP_MAX_SEGMENTS, and 65,535 bytes with the headers of IP and UDP. */
export const mostSegments = 64;
export const mostBytes = 65_400;
const apartMs = 10_000;

export interface OutboxOptions {
  readonly queue: number;
  /** A message, or a segment of one, was not taken: where it lies in the arena. */
  onLost(
    trouble: number,
    arena: Uint8Array,
    span: { readonly offset: number; readonly length: number },
  ): void;
}

export class Outbox {
  /** Of the next message: 128 bytes at `nameAt` are the receiver's. */
  readonly names = new Uint8Array(batchLength * nameLength);
  count = 0;
  /** Of the present turn. */
  now = 0;
  /** What the messages lie in. */
  #arena: Uint8Array = new Uint8Array(0);
  readonly #machine: PacketMachine;
  readonly #options: OutboxOptions;
  readonly #rows = new Int32Array(batchLength * rowLength);
  readonly #one = new Int32Array(rowLength);
  /** Whether more may be added to the last message. */
  #open = false;
  #segments = 0;
  #apartUntil = 0;

  constructor(machine: PacketMachine, options: OutboxOptions) {
    this.#machine = machine;
    this.#options = options;
  }

  /** Messages to come lie in this arena; those that lie in another go first, and so does a full box. */
  select(arena: Uint8Array): void {
    if (this.count > 0 && (arena !== this.#arena || this.count === batchLength)) this.flush();
    this.#arena = arena;
  }

  /** Whether messages with a segment size are made now. */
  get joins(): boolean {
    return this.now >= this.#apartUntil;
  }

  /** How many bytes of segments of one length a message may have now. */
  most(segment: number): number {
    if (!this.joins) return segment;
    return Math.max(1, Math.min(mostSegments, Math.floor(mostBytes / segment))) * segment;
  }

  /** Where the name of the next message goes. */
  get nameAt(): number {
    return this.count * nameLength;
  }

  /** Repeats the name of the message before. */
  repeatName(length: number): void {
    const at = this.nameAt;
    this.names.copyWithin(at, at - nameLength, at - nameLength + length);
  }

  /** Adds a message; its name is there. @param nameBytes 0: none. */
  add(offset: number, length: number, nameBytes: number): void {
    const at = this.count * rowLength;
    const rows = this.#rows;
    rows[at + Row.offset] = offset;
    rows[at + Row.length] = length;
    rows[at + Row.segment] = 0;
    rows[at + Row.name] = nameBytes;
    this.count++;
    this.#open = true;
    this.#segments = 1;
  }

  /** Adds a message that is to be cut every `segment` bytes. */
  addSegments(offset: number, length: number, how: { segment: number; nameBytes: number }): void {
    this.add(offset, length, how.nameBytes);
    if (length > how.segment) this.#rows[(this.count - 1) * rowLength + Row.segment] = how.segment;
    this.#open = false;
  }

  /**
   * Adds segments that lie right behind the last message to it, as many as it may have: they have its receiver.
   *
   * @returns how many bytes were added; 0 if the last message has segments of another length, or a short one at its end.
   */
  extend(offset: number, length: number, segment: number): number {
    const at = (this.count - 1) * rowLength;
    const rows = this.#rows;
    const total = rows[at + Row.length]!;
    if ((rows[at + Row.segment] || total) !== segment || total % segment !== 0) return 0;
    if (rows[at + Row.offset]! + total !== offset) return 0;
    const taken = Math.min(length, this.most(segment) - total);
    if (taken <= 0) return 0;
    rows[at + Row.length] = total + taken;
    rows[at + Row.segment] = segment;
    this.#open = false;
    return taken;
  }

  /**
   * Adds a packet for the receiver of the last message to that message, if it can be cut off again: moves it there.
   *
   * @returns false if it has to be a message of its own.
   */
  append(offset: number, length: number): boolean {
    if (!this.#open || !this.joins || this.#segments === mostSegments) return false;
    const at = (this.count - 1) * rowLength;
    const rows = this.#rows;
    const total = rows[at + Row.length]!;
    const segment = rows[at + Row.segment] || total;
    if (length > segment || total + length > mostBytes) return false;
    const end = rows[at + Row.offset]! + total;
    // Packets lie in the arena in the order of their coming, each with more room than it takes.
    if (end > offset) return false;
    if (end < offset) this.#arena.copyWithin(end, offset, offset + length);
    rows[at + Row.length] = total + length;
    rows[at + Row.segment] = segment;
    this.#segments++;
    this.#open = length === segment;
    return true;
  }

  /** Sends everything, and is empty then. */
  flush(): void {
    const { count } = this;
    const arena = this.#arena;
    this.count = 0;
    this.#open = false;
    let repeated = false;
    for (let done = 0; done < count; ) {
      const rows = done === 0 ? this.#rows : this.#rows.subarray(done * rowLength);
      const names = done === 0 ? this.names : this.names.subarray(done * nameLength);
      const answer = this.#machine.send(this.#options.queue, arena, names, rows, count - done);
      if (answer > 0) {
        done += answer;
        repeated = false;
      } else if (answer !== Trouble.again && !repeated) {
        // An error of an earlier packet is told to whoever sends next, whose packet has not been looked at.
        repeated = true;
      } else {
        repeated = false;
        this.#lose(done, answer);
        done++;
      }
    }
  }

  #lose(index: number, trouble: number): void {
    const arena = this.#arena;
    const at = index * rowLength;
    const rows = this.#rows;
    const segment = rows[at + Row.segment]!;
    const offset = rows[at + Row.offset]!;
    const length = rows[at + Row.length]!;
    const one = this.#one;
    if (segment === 0) {
      this.#options.onLost(trouble, arena, { offset, length });
      return;
    }
    let taken = 0;
    const names = this.names.subarray(index * nameLength);
    for (let from = 0; from < length; from += segment) {
      one[Row.offset] = offset + from;
      one[Row.length] = Math.min(segment, length - from);
      one[Row.name] = rows[at + Row.name]!;
      const answer =
        trouble === Trouble.again ? trouble : this.#machine.send(this.#options.queue, arena, names, one, 1);
      if (answer > 0) taken++;
      else this.#options.onLost(answer, arena, { offset: one[Row.offset]!, length: one[Row.length]! });
    }
    // It was not the way, it was the form.
    if (taken > 0) this.#apartUntil = this.now + apartMs;
  }
}
