/**
 * A UDP datagram as the IP packet that carries it. Pure; nothing is kept.
 *
 * ```
 * IPv4  45 0 length(16) 0(16) 4000 hops 17 checksum(16) source(32) destination(32)
 * IPv6  60 00 00 00 length(16) 17 hops source(128) destination(128)
 * UDP   source(16) destination(16) length(16) checksum(16) data
 * ```
 *
 * Source: RFC 768, RFC 791, RFC 8200 §8.1, RFC 1071.
 */

import { type Address, encodeAddress, familyOf } from "./address.ts";
import { fold, sumOf } from "./checksum.ts";
import { UDP } from "./packet.ts";

export interface UdpFields {
  /** Both of one family. */
  readonly source: Address;
  readonly destination: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Time to live or hop limit, 1 to 255. */
  readonly hops: number;
  readonly data: Uint8Array;
}

const headerBytes = 8;
const maxBytes = 0xffff;

/**
 * The whole packet, which no router shall fragment.
 *
 * @throws RangeError for data that no datagram holds, TypeError for addresses of two families.
 */
export function encodeUdp({ source, destination, data, hops, ...ports }: UdpFields): Uint8Array {
  const family = familyOf(source);
  if (familyOf(destination) !== family)
    throw new TypeError(`Cannot send from ${source} to ${destination}: they are of two families`);
  const at = family === 4 ? 20 : 40;
  const bytes = headerBytes + data.length;
  if (bytes + (family === 4 ? at : 0) > maxBytes)
    throw new RangeError(`Cannot send ${data.length} bytes: no datagram is so long`);
  const packet = new Uint8Array(at + bytes);
  const view = new DataView(packet.buffer);
  const addresses = family === 4 ? 12 : 8;
  packet.set(encodeAddress(source), addresses);
  packet.set(encodeAddress(destination), addresses + (family === 4 ? 4 : 16));
  if (family === 4) {
    packet.set([0x45, 0]);
    view.setUint16(2, packet.length);
    packet.set([0x40, 0, hops, UDP], 6);
    view.setUint16(10, ~fold(sumOf(packet, 0, at)) & 0xffff);
  } else {
    packet.set([0x60]);
    view.setUint16(4, bytes);
    packet.set([UDP, hops], 6);
  }
  view.setUint16(at, ports.sourcePort);
  view.setUint16(at + 2, ports.destinationPort);
  view.setUint16(at + 4, bytes);
  packet.set(data, at + headerBytes);
  // The pseudo header is both addresses, the length and the protocol; 0 would say that there is no checksum.
  const covered = sumOf(packet, addresses, packet.length - addresses) + bytes + UDP;
  view.setUint16(at + 6, ~fold(covered) & 0xffff || 0xffff);
  return packet;
}
