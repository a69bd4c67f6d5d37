/**
 * Remote gateways as the forwarding thread knows them: by context address, the UDP port that each was last heard
 * from, and whether it may make mappings by sending to us.
 *
 * Those that we have sent to or heard from are kept in sets of eight by a keyed hash of the address; in a full set
 * the one unused for longest gives way, so that a flood of addresses costs neither memory nor time. One that gave way
 * is taken for new: it is sent to at the usual port until it is heard again. Whoever is listed by the owner is kept
 * in a table of its own. Two gateways behind one address share an entry, as they do in the protocol. With each go
 * its packets, counted as long as it is kept. All but the list is in memory that outlives the thread: the next one
 * reaches peers behind NAT at the ports that they were last heard from.
 *
 *     clock (32) 0 (32) | of each entry: passed (4 × 64) … | used (32) … | port (16) … | flags (8) … | address …
 */

import { hostIsLittle } from "../lib/endian.ts";
import type { Peers } from "./settings.ts";

const ways = 8;
const defaultSets = 512;
const inet = 2;
const inet6 = 10;
/** Bytes of a socket address: family, port, then the address, for IPv6 behind four bytes of flow label. */
const nameBytes = { 4: 16, 6: 28 } as const;
const Flag = { sentTo: 1, heard: 2 } as const;

/** What is kept of gateways, for one thread at a time. */
export interface GatewaysMemory {
  readonly buffer: SharedArrayBuffer;
  /** Of the hash; nobody else knows it. */
  readonly seed: number;
}

export interface GatewaysOptions {
  readonly family: 4 | 6;
  /** Where a peer is sent to before it was heard. */
  readonly port: number;
  /** Made for the same family. */
  readonly memory: GatewaysMemory;
}

/** Memory in which no gateway is known yet. @param sets of eight. */
export function gatewaysMemory(family: 4 | 6, seed: number, sets = defaultSets): GatewaysMemory {
  return { buffer: new SharedArrayBuffer(headBytes + sets * ways * entryBytes(family)), seed };
}

function entryBytes(family: 4 | 6): number {
  return passedLength * 8 + 4 + 2 + 1 + (family === 4 ? 4 : 16);
}

/** What passed from and to a gateway since it is known, and the port that it is sent to. */
export interface GatewayCounts {
  readonly context: Uint8Array;
  readonly port: number;
  readonly packetsIn: number;
  readonly bytesIn: number;
  readonly packetsOut: number;
  readonly bytesOut: number;
}

/** Of each gateway, by place. */
const Passed = { packetsIn: 0, bytesIn: 1, packetsOut: 2, bytesOut: 3 } as const;
const passedLength = 4;
const headBytes = 8;

export class Gateways implements Peers {
  /** Bytes of each socket address, and where in it the address begins. */
  readonly nameBytes: number;
  readonly addressAt: number;
  /** Counts up whenever a port changes. */
  version = 0;
  readonly #family: 4 | 6;
  readonly #addressBytes: number;
  readonly #port: number;
  readonly #seed: number;
  readonly #sets: number;
  readonly #addresses: Uint8Array;
  readonly #ports: Uint16Array;
  readonly #flags: Uint8Array;
  /** Calls so far, and when each was last used, in calls. */
  readonly #clock: Uint32Array;
  readonly #used: Uint32Array;
  readonly #passed: Float64Array;
  /** The entries last heard from, and last sent to. */
  #heardFrom = 0;
  #sentTo = 0;
  #listed = new Set<string>();
  #open = false;

  constructor(options: GatewaysOptions) {
    const { family, port, memory } = options;
    const { buffer, seed } = memory;
    this.#family = family;
    this.#addressBytes = family === 4 ? 4 : 16;
    this.nameBytes = nameBytes[family];
    this.addressAt = family === 4 ? 4 : 8;
    this.#port = port;
    this.#seed = seed | 0;
    const entries = (buffer.byteLength - headBytes) / entryBytes(family);
    this.#sets = entries / ways;
    if (!Number.isInteger(this.#sets)) {
      throw new RangeError("Cannot keep gateways: the memory has another size");
    }
    this.#clock = new Uint32Array(buffer, 0, 1);
    this.#passed = new Float64Array(buffer, headBytes, entries * passedLength);
    this.#used = new Uint32Array(buffer, headBytes + this.#passed.byteLength, entries);
    this.#ports = new Uint16Array(buffer, this.#used.byteOffset + this.#used.byteLength, entries);
    this.#flags = new Uint8Array(buffer, this.#ports.byteOffset + this.#ports.byteLength, entries);
    this.#addresses = new Uint8Array(buffer, this.#flags.byteOffset + entries, entries * this.#addressBytes);
  }

  /** Who may make mappings besides those that we have sent to; "all": everybody. */
  list(contexts: readonly Uint8Array[] | "all"): void {
    this.#open = contexts === "all";
    this.#listed = new Set(
      contexts === "all" ? [] : contexts.map((bytes) => keyOf(bytes, 0, this.#addressBytes)),
    );
  }

  allows(bytes: Uint8Array, offset: number): boolean {
    if (this.#open) return true;
    const entry = this.#find(bytes, offset);
    if (entry >= 0 && (this.#flags[entry]! & Flag.sentTo) !== 0) return true;
    return this.#isListed(bytes, offset);
  }

  knows(bytes: Uint8Array, offset: number): boolean {
    return this.#find(bytes, offset) >= 0 || this.#isListed(bytes, offset);
  }

  /** Writes where to send to a context address as a socket address; from now on it is one that we have sent to. */
  writeName(names: Uint8Array, at: number, bytes: Uint8Array, offset: number): void {
    const entry = this.#take(bytes, offset);
    this.#sentTo = entry;
    this.#flags[entry]! |= Flag.sentTo;
    this.#write(names, at, { bytes, offset, port: this.#ports[entry]! });
  }

  /** A packet that makes sense came from the socket address at `at`. @returns whether its port is another now. */
  heard(names: Uint8Array, at: number): boolean {
    const port = (names[at + 2]! << 8) | names[at + 3]!;
    const entry = this.#take(names, at + this.addressAt);
    this.#heardFrom = entry;
    this.#flags[entry]! |= Flag.heard;
    if (port === 0 || this.#ports[entry] === port) return false;
    this.#ports[entry] = port;
    this.version++;
    return true;
  }

  /** Packets came from the gateway last heard. */
  countIn(packets: number, bytes: number): void {
    const at = this.#heardFrom * passedLength;
    this.#passed[at + Passed.packetsIn]! += packets;
    this.#passed[at + Passed.bytesIn]! += bytes;
  }

  /** Packets go to the gateway whose name was written last. */
  countOut(packets: number, bytes: number): void {
    const at = this.#sentTo * passedLength;
    this.#passed[at + Passed.packetsOut]! += packets;
    this.#passed[at + Passed.bytesOut]! += bytes;
  }

  /** All that are kept. */
  counts(): GatewayCounts[] {
    const found: GatewayCounts[] = [];
    for (let entry = 0; entry < this.#flags.length; entry++) {
      if (this.#flags[entry] === 0) continue;
      const from = entry * this.#addressBytes;
      const at = entry * passedLength;
      found.push({
        context: this.#addresses.slice(from, from + this.#addressBytes),
        port: this.#ports[entry]!,
        packetsIn: this.#passed[at + Passed.packetsIn]!,
        bytesIn: this.#passed[at + Passed.bytesIn]!,
        packetsOut: this.#passed[at + Passed.packetsOut]!,
        bytesOut: this.#passed[at + Passed.bytesOut]!,
      });
    }
    return found;
  }

  /** The port of a context address. */
  portOf(bytes: Uint8Array, offset: number): number {
    const entry = this.#find(bytes, offset);
    return entry < 0 ? this.#port : this.#ports[entry]!;
  }

  #isListed(bytes: Uint8Array, offset: number): boolean {
    return this.#listed.size > 0 && this.#listed.has(keyOf(bytes, offset, this.#addressBytes));
  }

  #write(names: Uint8Array, at: number, to: { bytes: Uint8Array; offset: number; port: number }): void {
    const family = this.#family === 4 ? inet : inet6;
    names.fill(0, at, at + this.nameBytes);
    names[at + (hostIsLittle ? 0 : 1)] = family;
    names[at + 2] = to.port >> 8;
    names[at + 3] = to.port;
    for (let index = 0; index < this.#addressBytes; index++) {
      names[at + this.addressAt + index] = to.bytes[to.offset + index]!;
    }
  }

  #setOf(bytes: Uint8Array, offset: number): number {
    let hash = this.#seed;
    for (let index = 0; index < this.#addressBytes; index++) {
      hash = Math.imul(hash ^ bytes[offset + index]!, 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return ((hash >>> 0) % this.#sets) * ways;
  }

  #find(bytes: Uint8Array, offset: number): number {
    const set = this.#setOf(bytes, offset);
    for (let entry = set; entry < set + ways; entry++) {
      if (this.#flags[entry] !== 0 && this.#is(entry, bytes, offset)) return entry;
    }
    return -1;
  }

  #is(entry: number, bytes: Uint8Array, offset: number): boolean {
    const at = entry * this.#addressBytes;
    for (let index = 0; index < this.#addressBytes; index++) {
      if (this.#addresses[at + index] !== bytes[offset + index]) return false;
    }
    return true;
  }

  /** The entry of an address, used now; a new one in the place of the oldest of its set. */
  #take(bytes: Uint8Array, offset: number): number {
    // Counts on where it turned over.
    const now = ++this.#clock[0]! >>> 0;
    const set = this.#setOf(bytes, offset);
    let oldest = set;
    for (let entry = set; entry < set + ways; entry++) {
      if (this.#flags[entry] === 0) {
        oldest = entry;
        break;
      }
      if (this.#is(entry, bytes, offset)) {
        this.#used[entry] = now;
        return entry;
      }
      // Ages, not instants: the clock turns over.
      if ((now - this.#used[entry]!) >>> 0 > (now - this.#used[oldest]!) >>> 0) oldest = entry;
    }
    // A thread may be ended at any time: half a new entry is none.
    this.#flags[oldest] = 0;
    const at = oldest * this.#addressBytes;
    for (let index = 0; index < this.#addressBytes; index++)
      this.#addresses[at + index] = bytes[offset + index]!;
    this.#passed.fill(0, oldest * passedLength, (oldest + 1) * passedLength);
    this.#ports[oldest] = this.#port;
    this.#used[oldest] = now;
    this.version++;
    return oldest;
  }
}

function keyOf(bytes: Uint8Array, offset: number, length: number): string {
  let text = "";
  for (let index = 0; index < length; index++) text += String.fromCharCode(bytes[offset + index]!);
  return text;
}
