/**
 * What passed through a device today, and in the last 24 hours by quarter hours.
 *
 * Today begins at local midnight, which the wall clock tells; the quarter hours are counted by the monotonic
 * clock. A wall clock that jumps by more than an hour was wrong before or is wrong now: such a jump begins no new
 * day, what was counted goes on counting as today's, and the next midnight that passes ends it. So nothing is
 * lost and nothing counts twice. Steps up to an hour (daylight saving, small corrections) can pass midnight; one
 * that passes it again after a step back doesn't count.
 *
 * What an earlier life counted comes back for the rest of the day that it was counted on. While the clock is
 * plainly unset, that day is taken to last.
 */

import type { Moment, Traffic } from "./node.ts";

/** Bytes and packets of one day, exact; each stays at 2^53-1 instead of overflowing. */
export interface Totals {
  readonly bytesIn: number;
  readonly packetsIn: number;
  readonly bytesOut: number;
  readonly packetsOut: number;
}

/** One bucket of a series. */
export const BUCKET_MS = 15 * 60_000;
/** 24 hours of them; the last is the present one, which is not full yet. */
export const BUCKETS = 96;

/** No bucket yet; far enough back, and a small integer. */
const NEVER = -(2 ** 30);
const DAY_MS = 86_400_000;
const JUMP_MS = 60 * 60_000;
/** Local days before 2020 are told by a clock that nobody set. */
const PLAUSIBLE_DAY = 18_262;

/** Which day it is. */
export class Calendar {
  /** Grows at each midnight. */
  turn = 0;
  /** Local days since 1970; NaN before the first moment. */
  day = Number.NaN;
  #earlierDay: number | undefined;
  /** Local time minus monotonic clock. */
  #shiftMs = Number.NaN;

  /** The clocks as they are now. */
  note({ now, date, offsetMs = 0 }: Moment): void {
    const shiftMs = date - now + offsetMs;
    const jumped = Math.abs(shiftMs - this.#shiftMs) > JUMP_MS;
    // A midnight may have passed before the jump.
    if (dayOf(now, jumped ? this.#shiftMs : shiftMs) > this.day) {
      this.turn++;
      this.#earlierDay = undefined;
    }
    const day = dayOf(now, shiftMs);
    // A step back to before midnight is still today.
    if (jumped || !(day <= this.day)) this.day = day;
    this.#shiftMs = shiftMs;
  }

  /** Totals of an earlier life are of this day. */
  resume(day: number): void {
    this.#earlierDay = day;
  }

  /** Whether those still count. */
  get isResumed(): boolean {
    return this.#earlierDay !== undefined && (this.#earlierDay === this.day || this.day < PLAUSIBLE_DAY);
  }

  /** What totals of today are to be stored under. */
  get label(): number {
    return this.isResumed ? this.#earlierDay! : this.day;
  }
}

export class Usage {
  // A device has one of these: fields, not objects, and the array only once there is something to put in.
  /** The calendar's turn that these were counted in. */
  #turn = -1;
  #bytesIn = 0;
  #packetsIn = 0;
  #bytesOut = 0;
  #packetsOut = 0;
  #earlier: Totals | undefined;
  /** Number of the present bucket since the monotonic clock's zero. */
  #bucket = NEVER;
  /** Bytes of the present bucket, exact. */
  #in = 0;
  #out = 0;
  /** Past buckets, each at its number modulo BUCKETS: bytes in, then bytes out, packed. */
  #past: Uint16Array | undefined;

  /** Counts. `isDevice`: also by quarter hours. */
  add(traffic: Traffic, calendar: Calendar, options: { now: number; isDevice: boolean }): void {
    if (this.#turn !== calendar.turn) this.#restart(calendar);
    const bytesIn = positive(traffic.bytesIn);
    const bytesOut = positive(traffic.bytesOut);
    this.#bytesIn = bounded(this.#bytesIn + bytesIn);
    this.#packetsIn = bounded(this.#packetsIn + positive(traffic.packetsIn));
    this.#bytesOut = bounded(this.#bytesOut + bytesOut);
    this.#packetsOut = bounded(this.#packetsOut + positive(traffic.packetsOut));
    if (!options.isDevice) return;
    this.#advance(options.now);
    this.#in = bounded(this.#in + bytesIn);
    this.#out = bounded(this.#out + bytesOut);
  }

  /** What passed since midnight. */
  today(calendar: Calendar): Totals {
    const totals = this.#turn === calendar.turn ? this.#counted() : noTotals();
    return this.#earlier && calendar.isResumed ? sumOf(totals, this.#earlier) : totals;
  }

  /** Takes what an earlier life counted on the day that the calendar resumes. */
  resume(totals: Totals): void {
    this.#earlier = { ...totals };
  }

  /** Bytes by bucket, the oldest first; the last one is that of `now`. */
  series(now: number): { in: number[]; out: number[] } {
    const last = Math.floor(now / BUCKET_MS);
    const [bytesIn, bytesOut]: [number[], number[]] = [[], []];
    for (let bucket = last - BUCKETS + 1; bucket <= last; bucket++) {
      bytesIn.push(this.#at(bucket, 0));
      bytesOut.push(this.#at(bucket, 1));
    }
    return { in: bytesIn, out: bytesOut };
  }

  /** Takes over what another counted. */
  absorb(other: Usage, calendar: Calendar, now: number): void {
    if (this.#turn !== calendar.turn) this.#restart(calendar);
    if (other.#turn === calendar.turn) this.#count(sumOf(this.#counted(), other.#counted()));
    if (other.#earlier) this.#earlier = sumOf(this.#earlier ?? noTotals(), other.#earlier);
    if (other.#bucket === NEVER) return;
    this.#advance(now);
    const last = this.#bucket;
    this.#in = bounded(this.#in + other.#at(last, 0));
    this.#out = bounded(this.#out + other.#at(last, 1));
    for (let bucket = last - BUCKETS + 1; bucket < last; bucket++) {
      this.#keep(
        bucket,
        this.#at(bucket, 0) + other.#at(bucket, 0),
        this.#at(bucket, 1) + other.#at(bucket, 1),
      );
    }
  }

  #counted(): Totals {
    return {
      bytesIn: this.#bytesIn,
      packetsIn: this.#packetsIn,
      bytesOut: this.#bytesOut,
      packetsOut: this.#packetsOut,
    };
  }

  #count(totals: Totals): void {
    this.#bytesIn = totals.bytesIn;
    this.#packetsIn = totals.packetsIn;
    this.#bytesOut = totals.bytesOut;
    this.#packetsOut = totals.packetsOut;
  }

  #restart(calendar: Calendar): void {
    this.#turn = calendar.turn;
    this.#count(noTotals());
    if (!calendar.isResumed) this.#earlier = undefined;
  }

  /** Closes buckets up to the present one. */
  #advance(now: number): void {
    const bucket = Math.floor(now / BUCKET_MS);
    if (bucket <= this.#bucket) return;
    if (bucket - this.#bucket >= BUCKETS) this.#past = undefined;
    else {
      this.#keep(this.#bucket, this.#in, this.#out);
      for (let empty = this.#bucket + 1; empty < bucket; empty++) this.#keep(empty, 0, 0);
    }
    this.#bucket = bucket;
    this.#in = 0;
    this.#out = 0;
  }

  #keep(bucket: number, bytesIn: number, bytesOut: number): void {
    if (!this.#past && bytesIn + bytesOut === 0) return;
    this.#past ??= new Uint16Array(BUCKETS * 2);
    this.#past[slotOf(bucket)] = packed(bytesIn);
    this.#past[slotOf(bucket) + 1] = packed(bytesOut);
  }

  #at(bucket: number, side: 0 | 1): number {
    if (bucket === this.#bucket) return side === 0 ? this.#in : this.#out;
    const isKept = bucket < this.#bucket && bucket > this.#bucket - BUCKETS;
    return isKept && this.#past ? unpacked(this.#past[slotOf(bucket) + side]!) : 0;
  }
}

/** The number of a local day. */
function dayOf(now: number, shiftMs: number): number {
  return Math.floor((now + shiftMs) / DAY_MS);
}

function slotOf(bucket: number): number {
  return (((bucket % BUCKETS) + BUCKETS) % BUCKETS) * 2;
}

function noTotals(): Totals {
  return { bytesIn: 0, packetsIn: 0, bytesOut: 0, packetsOut: 0 };
}

function sumOf(left: Totals, right: Totals): Totals {
  return {
    bytesIn: bounded(left.bytesIn + right.bytesIn),
    packetsIn: bounded(left.packetsIn + right.packetsIn),
    bytesOut: bounded(left.bytesOut + right.bytesOut),
    packetsOut: bounded(left.packetsOut + right.packetsOut),
  };
}

/**
 * A count in 16 bits: eleven binary digits behind a power of two, so to a part in 4096; up to 2^12 exact.
 *
 * ```
 * 15 … 11      10 … 0
 * exponent     fraction     exponent 0: the fraction itself, else (2048 + fraction) · 2^(exponent − 1)
 * ```
 */
export function packed(count: number): number {
  if (count < 2048) return Math.round(count);
  let exponent = Math.floor(Math.log2(count)) - 10;
  let fraction = Math.round(count / 2 ** (exponent - 1));
  if (fraction >= 4096) {
    exponent++;
    fraction = Math.round(count / 2 ** (exponent - 1));
  }
  return exponent > 31 ? 0xffff : (exponent << 11) | (fraction - 2048);
}

export function unpacked(bits: number): number {
  const exponent = bits >> 11;
  return exponent === 0 ? bits : (2048 + (bits & 2047)) * 2 ** (exponent - 1);
}

function positive(count: bigint): number {
  return count > 0n ? Number(count) : 0;
}

/** Past this a number would no longer be exact. */
function bounded(count: number): number {
  return Math.min(Number.MAX_SAFE_INTEGER, count);
}
