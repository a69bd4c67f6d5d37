/**
 * Why packets are not forwarded: small numbers to count by, and their names for people.
 *
 * A reason's number is its place in the list. Counters are one number per reason, shared with whoever shows them.
 */

/** Names as they are shown, in the order of their numbers. */
export const dropNames = [
  /** Shorter than its headers say, or than any header is. */
  "short",
  /** A field of a header contradicts another, or has a reserved value. */
  "malformed",
  /** An IP version that this side doesn't have. */
  "version",
  /** A fragment that cannot be one: empty, not a multiple of 8 bytes, beyond 64 kB, two fragment headers. */
  "fragment",
  /** Source address that no host has: multicast, loopback, link-local, an encoded address on the LAN. */
  "source",
  /** Multicast, broadcast or another destination that is no host. */
  "destination",
  /** No mapping for the destination. */
  "unmapped",
  /** The source context is not the address that the packet came from. */
  "spoofed",
  /** For another gateway. */
  "stranger",
  /** From a peer that may not make mappings. */
  "refused",
  /** For the router itself, or another host that isn't reachable from outside. */
  "forbidden",
  /** Lived too long. */
  "expired",
  /** Longer than the path, and not to be fragmented. */
  "big",
  /** Source route or routing header that asks for another way. */
  "routed",
  /** ICMP that has no counterpart on the other side. */
  "icmp",
  /** ICMP error about a packet that cannot be translated. */
  "quote",
  /** A wrong checksum where a right one is needed, or none. */
  "checksum",
  /** An error that would have been answered, but too many were. */
  "rate",
  /** An error that would have been answered, but nobody has heard of its receiver, who may be made up. */
  "unknown",
] as const;

export type DropName = (typeof dropNames)[number];

/** Name → number. */
export const Drop = Object.fromEntries(dropNames.map((name, index) => [name, index])) as {
  readonly [Name in DropName]: number;
};
