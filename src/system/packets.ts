/**
 * Packets by the batch, as a worker moves them: what it asks of the machine, in numbers and typed arrays only.
 *
 * A machine of packets serves one worker. It has the queues that the worker was given (a TUN, a UDP socket), by
 * their place in the list, and one more thing to wait for: the owner's wake. Nothing here throws for what the
 * network or the kernel does; those are the negative answers below. Layouts are those of the addon netio
 * (native.ts, native/segment.h), which the constants name.
 */

/** Numbers per message in a table of rows; see `receive` and `send`. */
export const rowLength = 8;
/** Bytes per socket address in a table of names. */
export const nameLength = 128;
/** Messages per call at most. */
export const batchLength = 64;

/** Where a row keeps what. */
export const Row = {
  offset: 0,
  length: 1,
  /** UDP_SEGMENT or UDP_GRO segment size, 0 if there is one packet only. */
  segment: 2,
  /** recvmsg(2) flags; 0x20 is MSG_TRUNC. */
  flags: 3,
  /** Length of the socket address in the table of names. */
  name: 4,
  /** SCM_CREDENTIALS; uid and gid -1 if there were none. */
  pid: 5,
  uid: 6,
  gid: 7,
} as const;

/** The same for a row of `errors`: why a message was not delivered. */
export const ErrorRow = {
  offset: 0,
  length: 1,
  /** errno that the kernel makes of it. */
  reason: 2,
  /** linux/errqueue.h: 1 this machine, 2 ICMP, 3 ICMPv6. */
  origin: 3,
  name: 4,
  icmpType: 5,
  icmpCode: 6,
  /** The path's MTU, if that is what it says. */
  mtu: 7,
} as const;

/** Where the numbers of `split` and `join` are; meanings in native/segment.h. */
export const Segment = {
  offset: 0,
  length: 1,
  protocol: 2,
  size: 3,
  strip: 4,
  ip: 5,
  vnet: 6,
  seedIn: 7,
  seedOut: 8,
  target: 9,
  most: 10,
  /** Answer: segments written or taken. */
  count: 11,
} as const;
export const segmentLength = 12;

/** Readiness, as epoll and poll number it. */
export const Ready = { in: 1, out: 4, error: 8, hangup: 16 } as const;

/** virtio_net_hdr (linux/virtio_net.h), ten bytes before each packet of a TUN. */
export const vnetLength = 10;
export const Vnet = {
  flags: 0,
  /** 0 one packet, 1 TCPv4, 4 TCPv6, 5 UDP; 0x80 is added for ECN. */
  kind: 1,
  headerBytes: 2,
  /** Payload bytes per segment. */
  segmentBytes: 4,
  checksumStart: 6,
  checksumOffset: 8,
} as const;
/** Value of `Vnet.flags`: the transport checksum holds the sum of the pseudo header only. */
export const vnetNeedsChecksum = 1;

/** Answers below zero. */
export const Trouble = {
  /** Nothing there, or no room: come again. */
  again: -1,
  /** The network leads nowhere: no route, no host, port closed. */
  unreachable: -2,
  /** Longer than the link or the socket takes. */
  tooLong: -3,
  /** Forbidden on this machine, e.g. by its firewall. */
  denied: -4,
  /** The device is down or gone. */
  down: -5,
  /** Anything else. */
  other: -6,
} as const;

export interface PacketMachine {
  /** Monotonic milliseconds, on the clock of the owner. */
  now(): number;
  /**
   * Message n is at n × stride of the arena, its sender's address at n × 128 of names, described by row n.
   * @returns how many came, or a Trouble.
   */
  receive(queue: number, arena: Uint8Array, stride: number, names: Uint8Array, rows: Int32Array): number;
  /** Sends the first `count` rows; a receiver is at n × 128 of names. @returns how many went out, or a Trouble. */
  send(queue: number, arena: Uint8Array, names: Uint8Array, rows: Int32Array, count: number): number;
  /** What the network said of messages sent; see `ErrorRow`. @returns how many came, or a Trouble. */
  errors(queue: number, arena: Uint8Array, stride: number, names: Uint8Array, rows: Int32Array): number;
  /**
   * Blocks until a queue has something, the owner wakes us, or time is over.
   * @param rows one triple [unused, wanted events, → events that came] for each queue, and one for the wake.
   */
  wait(rows: Int32Array, timeoutMs: number): number;
  /** RFC 1071 checksum. `seed` is added before. */
  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number;
  /** Splits a super-packet into segments behind copies of `frame` → bytes written to `target`. */
  split(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number;
  /** Joins leading segments into one packet behind `frame` → bytes written, 0 if the first cannot be. */
  join(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number;
}

/** What a program in a worker has besides its packets. */
export interface WorkerMachine extends PacketMachine {
  /** How many queues it was given. */
  readonly queues: number;
  /** What its owner gave it. */
  readonly data: unknown;
  /** Tells the owner. Never blocks, never fails; who sends without end fills the owner's memory. */
  post(message: unknown): void;
  /** The owner's next message, undefined if there is none; to be asked after each wake. */
  take(): unknown;
  /** The owner wants an end. */
  readonly ending: boolean;
}
