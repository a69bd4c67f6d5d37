/**
 * The packets of one device as a capture file, taken as they pass.
 *
 * A capture listens on interfaces of ours, both ways, and keeps what matches until it has been written, at most
 * so much. It ends by itself, after a time, a size or a number of packets, whichever comes first. Once a second
 * it asks for the device's MACs and addresses again, so that it follows them. Whoever started it waits for
 * `done`. Packets are stamped with the wall clock when they arrive here.
 *
 * Not seen are frames that a bridge passes on between its own ports, and what hardware forwards by itself.
 */

import { watchRoute } from "../kernel/kernel.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { protocolOf } from "../lib/frame.ts";
import { encodePcapHeader, encodePcapRecord, pcapBytes } from "../lib/pcap.ts";
import type { Cancel, Clock, DatagramSocket, Sockets } from "../system/system.ts";
import { Filter, type Target } from "./filter.ts";

/** An interface to listen on. */
export interface CaptureInterface {
  readonly name: string;
  readonly ifindex: number;
  /** Its frames begin with MACs; else they are IP packets. */
  readonly hasMacs: boolean;
}

/** When to stop, whichever comes first. */
export interface CaptureLimits {
  readonly seconds: number;
  /** Of the whole file: it is never longer. */
  readonly bytes: number;
  readonly packets?: number;
  /** Bytes kept of each frame. */
  readonly snapBytes: number;
}

export interface CaptureOptions {
  readonly interfaces: readonly CaptureInterface[];
  readonly limits: CaptureLimits;
  /** Whom to listen to; undefined if that is not known any more, then it stays as it was. */
  target(): Target | undefined;
  /** Takes the file piece by piece: the next when the promise resolves. A Fault ends the capture. */
  write(piece: Uint8Array): Promise<void>;
  /** What may wait for `write`; packets beyond are dropped and counted. Default 1 MiB. */
  readonly maxQueuedBytes?: number;
}

/** Why a capture ended. */
export type CaptureEnd = "time" | "bytes" | "packets" | "told" | "interfaces" | "failed";

export interface CaptureCounters {
  /** In the file, or on their way into it. */
  readonly packets: number;
  /** The file's length, as far as it is known. */
  readonly bytes: number;
  /** Packets of the device that are missing, for want of room. */
  readonly dropped: number;
}

export interface CaptureResult extends CaptureCounters {
  readonly end: CaptureEnd;
  /** What failed. */
  readonly fault?: Fault;
}

/** ETH_P_ALL: every protocol, in and out. */
const allProtocols = 3;
const followMs = 1_000;
const defaultQueuedBytes = 1024 * 1024;

/**
 * The interfaces of these names that are there now.
 *
 * @throws Fault "not-found" if there is none of them; "kernel".
 */
export async function findInterfaces(
  system: Sockets & Clock,
  names: readonly string[],
): Promise<CaptureInterface[]> {
  const watch = await watchRoute(system, {});
  try {
    const found = [...watch.links()].filter((link) => names.includes(link.name));
    if (found.length > 0) {
      return found.map(({ name, ifindex, mac }) => ({ name, ifindex, hasMacs: mac !== undefined }));
    }
  } finally {
    watch.close();
  }
  throw new Fault("not-found", `Cannot capture: there is no interface ${names.join(", ") || "at all"}`);
}

export class Capture {
  /** Resolves when all is written and closed; rejects never. */
  readonly done: Promise<CaptureResult>;
  readonly #system: Sockets & Clock;
  readonly #options: CaptureOptions;
  readonly #sockets = new Set<DatagramSocket>();
  readonly #cancels: Cancel[] = [];
  readonly #maxQueuedBytes: number;
  #filter: Filter;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #writing: Promise<void> | undefined;
  /** What cannot be written is given up. */
  #isBroken = false;
  #packets = 0;
  #bytes = 0;
  #dropped = 0;
  #end: CaptureEnd | undefined;
  #fault: Fault | undefined;
  #finish!: (result: CaptureResult) => void;

  /** Starts it. @throws Fault "not-found" without target; "kernel", "denied" if an interface cannot be opened. */
  constructor(system: Sockets & Clock, options: CaptureOptions) {
    const target = options.target();
    if (!target) throw new Fault("not-found", "Cannot capture: there is no such device");
    this.#system = system;
    this.#options = options;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? defaultQueuedBytes;
    this.#filter = new Filter(target);
    this.done = new Promise((resolve) => {
      this.#finish = resolve;
    });
    try {
      for (const each of options.interfaces) this.#open(each);
    } catch (thrown) {
      for (const socket of this.#sockets) socket.close();
      throw thrown;
    }
    // Without a packet it is a capture file, too.
    this.#write(encodePcapHeader(options.limits.snapBytes));
    this.#cancels.push(
      system.after(options.limits.seconds * 1_000, () => this.#stop("time")),
      system.every(followMs, () => this.#follow()),
    );
  }

  get counters(): CaptureCounters {
    return { packets: this.#packets, bytes: this.#bytes, dropped: this.#dropped };
  }

  /** Ends it now; `done` resolves when what was captured is written. */
  stop(): void {
    this.#stop("told");
  }

  #open({ ifindex, hasMacs }: CaptureInterface): void {
    const socket = this.#system.packet(
      { ifindex, protocol: allProtocols },
      {
        onMessage: (bytes) => this.#take(bytes, hasMacs),
        onOverrun: () => {
          this.#dropped++;
        },
        onClose: (fault) => {
          this.#sockets.delete(socket);
          if (fault && this.#sockets.size === 0) this.#stop("interfaces", fault);
        },
      },
    );
    this.#sockets.add(socket);
  }

  #follow(): void {
    const target = this.#options.target();
    if (target) this.#filter = new Filter(target);
  }

  #take(bytes: Uint8Array, hasMacs: boolean): void {
    if (this.#end !== undefined) return;
    const frame = hasMacs ? bytes : framed(bytes);
    if (!frame || !this.#filter.matches(frame, hasMacs)) return;
    const { limits } = this.#options;
    const length = pcapBytes.record + Math.min(frame.length, limits.snapBytes);
    if (this.#bytes + length > limits.bytes) {
      this.#stop("bytes");
    } else if (this.#queuedBytes + length > this.#maxQueuedBytes) {
      this.#dropped++;
    } else {
      this.#write(encodePcapRecord(frame, { date: this.#system.date(), snapBytes: limits.snapBytes }));
      this.#packets++;
      if (this.#packets >= (limits.packets ?? Number.POSITIVE_INFINITY)) this.#stop("packets");
    }
  }

  #write(piece: Uint8Array): void {
    this.#queue.push(piece);
    this.#queuedBytes += piece.length;
    this.#bytes += piece.length;
    this.#writing ??= this.#drain();
  }

  async #drain(): Promise<void> {
    // What arrives in one breath is written together.
    await undefined;
    while (this.#queue.length > 0 && !this.#isBroken) {
      const piece = joined(this.#queue);
      this.#queue = [];
      try {
        await this.#options.write(piece);
      } catch (thrown) {
        this.#isBroken = true;
        this.#stop("failed", thrown instanceof Fault ? thrown : new Fault("storage", messageOf(thrown)));
      }
      this.#queuedBytes -= piece.length;
    }
    this.#writing = undefined;
  }

  #stop(end: CaptureEnd, fault?: Fault): void {
    if (fault) this.#fault ??= fault;
    if (this.#end !== undefined) return;
    this.#end = end;
    for (const cancel of this.#cancels.splice(0)) cancel();
    for (const socket of this.#sockets) socket.close();
    void this.#close(end);
  }

  async #close(end: CaptureEnd): Promise<void> {
    await this.#writing;
    this.#finish({ ...this.counters, end, ...(this.#fault && { fault: this.#fault }) });
  }
}

/** An IP packet behind an Ethernet header without MACs, so that one file can hold frames of all interfaces. */
function framed(packet: Uint8Array): Uint8Array | undefined {
  const protocol = protocolOf(packet);
  if (protocol === undefined) return undefined;
  const frame = new Uint8Array(14 + packet.length);
  frame[12] = protocol >> 8;
  frame[13] = protocol & 255;
  frame.set(packet, 14);
  return frame;
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
