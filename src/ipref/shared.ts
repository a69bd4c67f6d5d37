/**
 * What both directions of the forwarding thread share: the machine, the mappings, the gateways, and who waits.
 *
 * One of these per thread; the engine makes it and moves its clock.
 */

import type { PacketMachine } from "../system/packets.ts";
import type { Asking } from "./asking.ts";
import type { Counts } from "./counts.ts";
import type { Gateways } from "./gateways.ts";
import type { Held } from "./held.ts";
import type { Lookup } from "./lookup.ts";

/** The queues that a thread is given, by their place. */
export const Tun = 0;
export const Wire = 1;

/** Packets per batch. */
export const slots = 64;
/** From one packet to the next: a super-packet with its headers and the room in front of it, and an odd number of
 * cache lines, so that the headers of a batch don't all fall into the same place of the cache. */
export const strideBytes = 65_728;
/** The same for messages of the socket: room to move the rest of a super-packet, in the next message, behind it. */
export const wireStrideBytes = strideBytes + 16_384;

export interface Shared {
  readonly machine: PacketMachine;
  readonly lookup: Lookup;
  readonly gateways: Gateways;
  readonly asking: Asking;
  readonly held: Held;
  readonly counts: Counts;
  /** Bytes of an address of the LAN's family. */
  readonly lanBytes: number;
  /** And of the tunnel's. */
  readonly tunnelBytes: number;
  /** Milliseconds, of the present turn. */
  now: number;
  /** Hands an IP packet to the kernel, as if it came from the tunnel. */
  tellLan(packet: Uint8Array, length: number): void;
}
