/**
 * One direction of a TCP connection that carries DNS: copies of its segments become messages again.
 *
 *     sequence numbers ──────────────────────────────────────────▶
 *     ┌────────┬─────────────────┬────────┬─────── ─ ─    next        pieces
 *     │ length │ message         │ length │ messa …         ▼  hole   ┌──────┐      ┌────┐
 *     └────────┴─────────────────┴────────┴─────── ─ ─                └──────┘      └────┘
 *
 * Copies come lost, twice, overlapping and out of order. Of bytes that come twice the first count. What came
 * ahead of its place waits in pieces; when the receiver acknowledges bytes that we never saw, or too much
 * waits, the place in the stream is lost, and with it all that follows until a new connection begins. Segments
 * far from the place are a stranger's: they change nothing. A connection that was there before us is followed
 * from its first data on, if that looks like the beginning of a message.
 *
 * Held here: the message that is not whole yet, at most as much memory as came (a length alone takes none),
 * and the pieces.
 */

import { HEADER_BYTES, isResponse } from "../lib/dns.ts";
import type { TcpSegment } from "../lib/packet.ts";

export type StreamLoss =
  /** Bytes are missing, or nothing says where messages begin: this direction is given up. */
  | "gap"
  /** A segment far from where the stream is; it changed nothing. */
  | "stray"
  /** A message too short for a DNS header; the next one counts. */
  | "message"
  /** A stream was given up for lack of room. */
  | "limit";

/** Further from its place than this, a segment is not of this connection. */
const WINDOW_BYTES = 128 * 1024;
/** What may wait for bytes before it. */
const AHEAD_BYTES = 64 * 1024;
const PIECES = 64;
/** What a piece takes beside its bytes, roughly. */
const PIECE_BYTES = 128;
const LENGTH_BYTES = 2;
const FIRST_BYTES = 64;

interface Piece {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

const nothing = new Uint8Array(0);

export class Direction {
  /** Whether answers pass here, or questions. */
  readonly #answers: boolean;
  /** Sequence number of the next byte in order; undefined before anything came. */
  #next: number | undefined;
  /** Where a connection begins that may have taken the place of this one. */
  #renewal: number | undefined;
  #state: "open" | "ended" | "lost" = "open";
  /** It is known where messages begin. */
  #framed = false;
  #endsAt: number | undefined;
  #pieces: Piece[] = [];
  #ahead = 0;
  /** The message that is not whole, from its length on; `#held` bytes of it are there. */
  #message = nothing;
  #held = 0;

  constructor(answers: boolean) {
    this.#answers = answers;
  }

  /** Memory held for what is not whole. */
  get bytes(): number {
    return this.#message.length + this.#ahead;
  }

  /** All of it has come. */
  get ended(): boolean {
    return this.#state === "ended";
  }

  /** Whether a segment that begins here can be of this connection. False before anything came. */
  isNear(sequence: number): boolean {
    if (this.#next === undefined || this.#state === "lost") return false;
    return Math.abs(distance(this.#next, sequence)) <= WINDOW_BYTES;
  }

  /** Whether this is the byte that comes next. */
  isNext(sequence: number | undefined): boolean {
    return sequence !== undefined && sequence === this.#next;
  }

  /**
   * Takes a segment.
   *
   * @param messages Messages that became whole are added here; they may share memory with the segment.
   */
  take({ sequence, syn, fin, data }: TcpSegment, messages: Uint8Array[]): StreamLoss | undefined {
    const first = syn ? (sequence + 1) >>> 0 : sequence;
    if (syn) this.#greet(first);
    else if (this.#next === undefined && data.length > 0) this.#restart(first, { framed: false });
    if (this.#next === undefined) return undefined;
    if (!this.isNear(first) || (this.#state === "ended" && data.length > 0)) {
      const renewed = this.#renewal !== undefined && Math.abs(distance(this.#renewal, first)) <= WINDOW_BYTES;
      if (!renewed || data.length === 0) {
        return this.#state === "open" && data.length > 0 ? "stray" : undefined;
      }
      this.#restart(this.#renewal!, { framed: true });
    }
    if (fin) this.#endsAt ??= (first + data.length) >>> 0;
    const loss = this.#state === "open" && data.length > 0 ? this.#place(first, data, messages) : undefined;
    if (this.#state === "open" && this.#endsAt === this.#next) {
      this.#next = (this.#next + 1) >>> 0;
      this.#stop("ended");
    }
    return loss;
  }

  /** The receiver has everything before this. */
  acknowledge(sequence: number): StreamLoss | undefined {
    if (this.#next === undefined || this.#state !== "open") return undefined;
    return distance(this.#next, sequence) > 0 ? this.#lose() : undefined;
  }

  /** A SYN: the first, the first again, or one that may belong to another connection of the same ports. */
  #greet(first: number): void {
    if (this.#next === undefined) this.#restart(first, { framed: true });
    else if (first !== this.#next) this.#renewal = first;
  }

  #restart(first: number, { framed }: { framed: boolean }): void {
    this.#stop("open");
    this.#next = first;
    this.#renewal = undefined;
    this.#endsAt = undefined;
    this.#framed = framed;
  }

  #stop(state: "open" | "ended" | "lost"): void {
    this.#state = state;
    this.#pieces = [];
    this.#ahead = 0;
    this.#message = nothing;
    this.#held = 0;
  }

  #lose(): StreamLoss {
    this.#stop("lost");
    return "gap";
  }

  /** Puts data in its place, and takes what is in order now. */
  #place(first: number, data: Uint8Array, messages: Uint8Array[]): StreamLoss | undefined {
    const offset = distance(this.#next!, first);
    const fresh = offset < 0 ? data.subarray(-offset) : data;
    if (fresh.length === 0) return undefined;
    if (offset <= 0 && this.#pieces.length === 0) return this.#read(fresh, messages);
    this.#wait(Math.max(0, offset), fresh);
    let loss: StreamLoss | undefined;
    while (this.#pieces[0]?.sequence === this.#next) {
      const { bytes } = this.#pieces.shift()!;
      this.#ahead -= bytes.length + PIECE_BYTES;
      loss = this.#read(bytes, messages) ?? loss;
    }
    return this.#pieces.length > PIECES || this.#ahead > AHEAD_BYTES ? this.#lose() : loss;
  }

  /** Fills holes between pieces, `offset` bytes from the place; what is there already stays. */
  #wait(offset: number, data: Uint8Array): void {
    const end = offset + data.length;
    for (let at = offset, index = 0; at < end; index++) {
      const piece = this.#pieces[index];
      const begin = piece ? distance(this.#next!, piece.sequence) : end;
      const stop = Math.min(begin, end);
      if (at < stop) {
        // A copy, which `slice` of some engines' buffers isn't.
        const bytes = new Uint8Array(data.subarray(at - offset, stop - offset));
        this.#pieces.splice(index++, 0, { sequence: (this.#next! + at) >>> 0, bytes });
        this.#ahead += bytes.length + PIECE_BYTES;
      }
      at = Math.max(at, piece ? begin + piece.bytes.length : end);
    }
  }

  /** Takes bytes in order. */
  #read(data: Uint8Array, messages: Uint8Array[]): StreamLoss | undefined {
    this.#next = (this.#next! + data.length) >>> 0;
    let loss: StreamLoss | undefined;
    for (let at = 0; at < data.length && this.#state === "open"; ) {
      const rest = data.length - at;
      const whole = this.#held === 0 && rest >= LENGTH_BYTES ? wholeBytes(data, at) : rest + 1;
      let message: Uint8Array | undefined;
      if (whole <= rest) {
        message = data.subarray(at + LENGTH_BYTES, at + whole);
        at += whole;
      } else {
        const wanted = this.#held < LENGTH_BYTES ? LENGTH_BYTES : wholeBytes(this.#message, 0);
        const part = data.subarray(at, at + wanted - this.#held);
        this.#gather(part, wanted);
        at += part.length;
        message = this.#gathered();
      }
      if (message) loss = this.#pass(message, messages) ?? loss;
    }
    return loss;
  }

  /** Adds to the message that is not whole. */
  #gather(part: Uint8Array, wanted: number): void {
    const needed = this.#held + part.length;
    if (needed > this.#message.length) {
      const larger = Math.max(needed, Math.min(2 * this.#message.length, wanted), FIRST_BYTES);
      const grown = new Uint8Array(larger);
      grown.set(this.#message.subarray(0, this.#held));
      this.#message = grown;
    }
    this.#message.set(part, this.#held);
    this.#held = needed;
  }

  /** Hands out the gathered message if it is whole. */
  #gathered(): Uint8Array | undefined {
    if (this.#held < LENGTH_BYTES || this.#held < wholeBytes(this.#message, 0)) return undefined;
    const message = this.#message.subarray(LENGTH_BYTES, this.#held);
    this.#message = nothing;
    this.#held = 0;
    return message;
  }

  #pass(message: Uint8Array, messages: Uint8Array[]): StreamLoss | undefined {
    const short = message.length < HEADER_BYTES;
    if (!this.#framed && (short || isResponse(message) !== this.#answers)) return this.#lose();
    if (short) return "message";
    this.#framed = true;
    messages.push(message);
    return undefined;
  }
}

/** How far it is from one sequence number to another; they wrap at 2³². */
function distance(from: number, to: number): number {
  return (to - from) | 0;
}

/** What a message takes with its length before it. */
function wholeBytes(bytes: Uint8Array, at: number): number {
  return LENGTH_BYTES + ((bytes[at]! << 8) | bytes[at + 1]!);
}
