/**
 * What a forwarder says about a packet, as numbers: one is made per packet, none is kept.
 */

export const Verdict = {
  /** Goes to the other side. After `decide`: as soon as `place` or the splitting add-on has written it. */
  send: 0,
  /** Goes to the other side in the parts that `pieces` lists. */
  pieces: 1,
  /** Nothing to do: the forwarder keeps a copy of it (a first fragment) until its last fragment comes. */
  hold: 2,
  /** A mapping is missing: the caller keeps the packet, which is unchanged, and forwards it again once there is one. */
  ask: 3,
  /** It is not forwarded; the error in `answer` goes back to where it came from. */
  answer: 4,
  /** It is not forwarded; `reason` says why, and is counted. */
  drop: 5,
} as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

/**
 * Room that must be writable before each packet in the arena. The longest tunnel header (76 bytes) replaces an IP
 * header of 20, and an error's quoted packet grows as much again.
 */
export const headroomBytes = 128;

/** Longest header of a tunnel packet: IPv6 contexts, long references, fragment information. */
export const longestHeaderBytes = 76;
