/**
 * What a forwarder asks of the mappings while a packet waits: four questions, each answered with the offset of a
 * record, without making anything.
 *
 * A record lies in `bytes`: the address that the LAN sees (a remote host's encoded address, or a local host's own),
 * the context address and the reference that the tunnel sees, each left-aligned in 16 bytes (an IPv4 address takes
 * the first four; a reference all sixteen, big endian). The bytes are shared with the thread that keeps the mappings:
 * a record that ends is no longer found, and its place is used again only after every reader has passed a packet
 * boundary.
 */

/** Offsets in a record. */
export const Field = { address: 0, context: 16, reference: 32 } as const;

export const addressBytes = 16;

export interface Lookup {
  readonly bytes: Uint8Array;
  /** The remote host that stands behind an encoded address found at `offset` of `packet`; -1: none. */
  theirByAddress(packet: Uint8Array, offset: number): number;
  /** The remote host with a context address and a reference (16 bytes, big endian); -1: none. */
  theirByReference(context: Uint8Array, contextOffset: number, reference: Uint8Array): number;
  /** The local host with an address; -1: it has no reference yet. */
  oursByAddress(packet: Uint8Array, offset: number): number;
  /** The local host behind a reference (16 bytes, big endian) under our own context address; -1: none. */
  oursByReference(reference: Uint8Array): number;
  /** A packet used the record: it lives on. Cheap; called for each packet. */
  touch(record: number): void;
}
