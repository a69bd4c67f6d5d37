/**
 * What the forwarders know of transport headers: how long they are, and the one option that they change.
 */

import { adjusted, get16, put16 } from "../lib/checksum.ts";
import { TCP, UDP } from "../lib/packet.ts";

/** The shortest header of a protocol; 0 where nothing is known. */
export function transportHeaderBytes(protocol: number): number {
  if (protocol === TCP) return 20;
  return protocol === UDP ? 8 : 0;
}

/** The length of a TCP or UDP header that is whole; 0: it isn't, or of another protocol. */
export function transportBytesOf(
  bytes: Uint8Array,
  span: { readonly protocol: number; readonly at: number; readonly length: number },
): number {
  const least = transportHeaderBytes(span.protocol);
  if (least === 0 || span.length < least) return 0;
  if (span.protocol === UDP) return least;
  const stated = (bytes[span.at + 12]! >> 4) * 4;
  return stated >= least && stated <= span.length ? stated : 0;
}

/** Where a SYN is, and what to lower it to. */
export interface Clamp {
  readonly at: number;
  readonly length: number;
  /** Largest MSS that fits. */
  readonly most: number;
  /** The checksum is only begun, and covers no options yet. */
  readonly begun: boolean;
}

/** Lowers the MSS option of a TCP SYN, and adjusts its checksum. Doing so again changes nothing. */
export function clampMss(bytes: Uint8Array, clamp: Clamp): void {
  const end = clamp.at + Math.min(clamp.length, (bytes[clamp.at + 12]! >> 4) * 4);
  for (let at = clamp.at + 20; at < end; ) {
    const kind = bytes[at]!;
    if (kind === 0) return;
    if (kind === 1) {
      at++;
      continue;
    }
    const length = at + 1 < end ? bytes[at + 1]! : 0;
    if (length < 2 || at + length > end) return;
    if (kind === 2 && length === 4) {
      lower(bytes, at + 2, clamp);
      return;
    }
    at += length;
  }
}

function lower(bytes: Uint8Array, at: number, clamp: Clamp): void {
  const was = get16(bytes, at);
  const most = Math.max(clamp.most, 88);
  if (was <= most) return;
  put16(bytes, at, most);
  if (clamp.begun) return;
  const field = clamp.at + 16;
  // An option at an odd place has its bytes in two words, each in the other half.
  const odd = ((at - clamp.at) & 1) === 1;
  const sum = adjusted(get16(bytes, field), odd ? swap(was) : was, odd ? swap(most) : most);
  put16(bytes, field, sum);
}

function swap(word: number): number {
  return ((word & 255) << 8) | (word >> 8);
}
