/**
 * The native addon netio (native/netio.c) as TypeScript sees it: raw sockets, TUN and batches.
 *
 * Keeps nothing but the loaded addon of this thread, by its path. Descriptors are handles: small positive
 * numbers that only the thread that opened them may use. Each function answers a number, -errno if the kernel
 * refused, and throws TypeError or RangeError for a wrong argument. Socket addresses are the kernel's sockaddr
 * bytes, made and read by the functions below; they live in native byte order where the kernel's do.
 */

import { endianness } from "node:os";
import { getSystemErrorMap } from "node:util";
import { type Address, decodeAddress, encodeAddress, familyOf } from "../lib/address.ts";
import { Fault, type FaultCode } from "../lib/fault.ts";
import { vnetLength } from "./packets.ts";

/** socket(2) families and types; errno numbers that callers tell apart; the same on all of Linux' CPUs but type. */
export const AF = { unix: 1, inet: 2, inet6: 10, netlink: 16, packet: 17 } as const;
/** MIPS swaps the first two. */
export const SOCK = {
  stream: process.arch.startsWith("mips") ? 2 : 1,
  datagram: process.arch.startsWith("mips") ? 1 : 2,
  raw: 3,
  seqpacket: 5,
} as const;

export {
  batchLength,
  ErrorRow,
  nameLength,
  Ready,
  Row,
  rowLength,
  Segment,
  segmentLength,
  vnetLength,
} from "./packets.ts";

/** linux/if_tun.h: flags of `tun` and offloads that a reader of super-packets accepts. */
export const Tun = { multiQueue: 0x100, vnetHeader: 0x4000 } as const;
export const Offload = { checksum: 1, tso4: 2, tso6: 4, ecn: 8, uso4: 0x20, uso6: 0x40 } as const;

export interface Netio {
  /** → handle of a new socket, non-blocking. */
  open(domain: number, type: number, protocol: number): number;
  /** → handle of a TUN queue. `name` has 16 bytes, NUL padded, and receives the kernel's choice for "%d". */
  tun(name: Uint8Array, flags: number, offloads: number): number;
  bind(handle: number, address: Uint8Array): number;
  connect(handle: number, address: Uint8Array): number;
  listen(handle: number, backlog: number): number;
  /** → handle of the connection. */
  accept(handle: number): number;
  /** setsockopt(2) with an int. */
  option(handle: number, level: number, name: number, value: number): number;
  /** SO_ATTACH_FILTER: a program of classic BPF, 8 bytes per instruction in native order, 64 at most. */
  filter(handle: number, program: Uint8Array): number;
  /** MCAST_JOIN_GROUP: joins a multicast group on an interface until the socket is closed. */
  group(handle: number, ifindex: number, address: Uint8Array): number;
  /** Microseconds of a clock of clock_gettime(2). */
  clock(id: number): number;
  /** The socket's own address → its length. `into` has 128 bytes. */
  address(handle: number, into: Uint8Array): number;
  /** SO_PEERCRED: pid, uid, gid. */
  peer(handle: number, into: Int32Array): number;
  /** The same for a descriptor of Node's. */
  peerOf(fd: number, into: Int32Array): number;
  close(handle: number): number;
  /** → count: message n is at n × stride of the arena, its sender at n × 128 of names, described by row n. */
  receive(handle: number, arena: Uint8Array, stride: number, names: Uint8Array, rows: Int32Array): number;
  /** → how many of the `count` rows were sent; a receiver is at n × 128 of names. */
  send(handle: number, arena: Uint8Array, names: Uint8Array, rows: Int32Array, count: number): number;
  /**
   * What the network said of messages sent, where the socket asks for it (IP_RECVERR) → count: message n, as far as
   * it was quoted, is at n × stride of the arena, whom it was meant for at n × 128 of names; see `ErrorRow`.
   */
  errors(handle: number, arena: Uint8Array, stride: number, names: Uint8Array, rows: Int32Array): number;
  /** → handle of an eventfd(2): a `send` of eight bytes makes it readable until they are received. */
  event(): number;
  /** → the number under which another thread can `adopt` it, as long as it is open here. */
  descriptor(handle: number): number;
  /** → handle of what another thread of this process has open: shared, and closed when both have closed it. */
  adopt(fd: number): number;
  /** Who is called when a watched descriptor is ready: once per thread. */
  onReady(callback: (handle: number) => void): number;
  /** Calls back once when ready for the events; from the first watch to its close the process stays alive. */
  watch(handle: number, events: number): number;
  /** Blocks until one of the rows [handle, events, → events that came] is ready → how many are. */
  wait(rows: Int32Array, timeoutMs: number): number;
  /** RFC 1071 checksum. `seed` is added before. */
  checksum(bytes: Uint8Array, offset: number, length: number, seed: number): number;
  /** Splits a super-packet into segments behind copies of `frame` → bytes written to `target`. */
  split(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number;
  /** Joins leading segments into one packet behind `frame` → bytes written, 0 if the first cannot be. */
  join(source: Uint8Array, target: Uint8Array, frame: Uint8Array, numbers: Int32Array): number;
}

const loaded = new Map<string, Netio>();

/**
 * Loads the addon, once per thread.
 *
 * @throws Fault "not-found" or "unsupported" if it cannot be loaded.
 */
export function loadNetio(path: string): Netio {
  let netio = loaded.get(path);
  if (netio === undefined) {
    const module = { exports: {} };
    try {
      process.dlopen(module, path);
    } catch (cause) {
      throw new Fault("unsupported", `Cannot load ${path}: ${(cause as Error).message}`, { cause });
    }
    netio = module.exports as Netio;
    loaded.set(path, netio);
  }
  return netio;
}

const codes: Readonly<Record<string, FaultCode>> = {
  ENOENT: "not-found",
  ENODEV: "not-found",
  ENXIO: "not-found",
  ESRCH: "not-found",
  ENOTDIR: "not-found",
  EEXIST: "conflict",
  EADDRINUSE: "conflict",
  EBUSY: "conflict",
  EPERM: "denied",
  EACCES: "denied",
  EAGAIN: "limit",
  EMFILE: "limit",
  ENFILE: "limit",
  ENOMEM: "limit",
  ENOBUFS: "limit",
  EMSGSIZE: "limit",
  E2BIG: "limit",
  ETIMEDOUT: "timeout",
  ECONNREFUSED: "closed",
  ECONNRESET: "closed",
  ECONNABORTED: "closed",
  ENOTCONN: "closed",
  EPIPE: "closed",
  ENOSYS: "unsupported",
  EAFNOSUPPORT: "unsupported",
  EPROTONOSUPPORT: "unsupported",
  ESOCKTNOSUPPORT: "unsupported",
  EOPNOTSUPP: "unsupported",
  ENOPROTOOPT: "unsupported",
  EROFS: "storage",
  ENOSPC: "storage",
  EDQUOT: "storage",
  EIO: "storage",
};

/** Name and text of an errno, e.g. ["EPERM", "operation not permitted"]. */
function describe(errno: number): [string, string] {
  return getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, "unknown"];
}

/** The errno of a name. */
export function errnoOf(name: string): number {
  for (const [number, [known]] of getSystemErrorMap()) if (known === name) return -number;
  throw new RangeError(`Cannot find errno: ${name}`);
}

/** The Fault for a negative answer of netio. @param verb what failed, e.g. "open netlink socket". */
export function kernelFault(answer: number, verb: string): Fault {
  const [name, text] = describe(-answer);
  return new Fault(codes[name] ?? "kernel", `Cannot ${verb}: ${text} (${name})`);
}

/** The Fault for an error that Node threw, by its `code`. */
export function nodeFault(cause: unknown, verb: string, otherwise: FaultCode = "kernel"): Fault {
  if (cause instanceof Fault) return cause;
  const { code, errno, message } = cause as NodeJS.ErrnoException;
  const state = typeof errno === "number" && code ? `${describe(-errno)[1]} (${code})` : message;
  return new Fault((code && codes[code]) || otherwise, `Cannot ${verb}: ${state}`, { cause });
}

const little = endianness() === "LE";

function sockaddr(length: number, family: number): DataView<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(length));
  view.setUint16(0, family, little);
  return view;
}

const bytesOf = (view: DataView<ArrayBuffer>) => new Uint8Array(view.buffer);

/** sockaddr_nl of a port id, 0 is the kernel. */
export function netlinkAddress(port: number): Uint8Array {
  const view = sockaddr(12, AF.netlink);
  view.setUint32(4, port, little);
  return bytesOf(view);
}

/** The port id in a sockaddr_nl. */
export function netlinkPort(name: Uint8Array): number {
  return new DataView(name.buffer, name.byteOffset).getUint32(4, little);
}

/** sockaddr_ll of an interface and an Ethernet protocol in host order. */
export function packetAddress(ifindex: number, protocol: number): Uint8Array {
  const view = sockaddr(20, AF.packet);
  view.setUint16(2, protocol, false);
  view.setInt32(4, ifindex, little);
  return bytesOf(view);
}

/** The interface index in a sockaddr_ll; negative once the interface is gone. */
export function packetInterface(name: Uint8Array): number {
  return new DataView(name.buffer, name.byteOffset).getInt32(4, little);
}

/** sockaddr_in or sockaddr_in6 of an address and a port. */
export function inetAddress(address: Address, port: number): Uint8Array {
  const four = familyOf(address) === 4;
  const view = sockaddr(four ? 16 : 28, four ? AF.inet : AF.inet6);
  view.setUint16(2, port, false);
  const bytes = bytesOf(view);
  bytes.set(encodeAddress(address), four ? 4 : 8);
  return bytes;
}

/** Address and port of a sockaddr_in or sockaddr_in6, undefined for any other. */
export function decodeInet(name: Uint8Array): { address: Address; port: number } | undefined {
  if (name.length < 16) return undefined;
  const view = new DataView(name.buffer, name.byteOffset, name.length);
  const family = view.getUint16(0, little);
  const port = view.getUint16(2, false);
  if (family === AF.inet) return { address: decodeAddress(name, 4, 4), port };
  if (family === AF.inet6 && name.length >= 24) return { address: decodeAddress(name, 8, 6), port };
  return undefined;
}

/**
 * sockaddr_un of a path, of an abstract name ("@name", as long as given), or of "" (the kernel picks one).
 *
 * @throws Fault "invalid" if it is longer than 107 bytes, or a path with a NUL.
 */
export function unixAddress(name: string): Uint8Array {
  const text = encodeName(name);
  const abstract = name.startsWith("@");
  if (text.length > (abstract ? 108 : 107) || (!abstract && text.includes(0))) {
    throw new Fault("invalid", `Cannot use socket name: ${JSON.stringify(name.slice(0, 120))}`);
  }
  if (abstract) text[0] = 0;
  // A path ends in a NUL; an abstract name is all of its bytes; no name is the family alone.
  const view = sockaddr(2 + text.length + (abstract || text.length === 0 ? 0 : 1), AF.unix);
  const bytes = bytesOf(view);
  bytes.set(text, 2);
  return bytes;
}

/** The name in a sockaddr_un, undefined if it has none. `unixAddress` gives the same bytes back. */
export function unixName(address: Uint8Array): string | undefined {
  if (address.length <= 2) return undefined;
  if (address[2] === 0) return `@${decodeName(address.subarray(3))}`;
  const end = address.indexOf(0, 2);
  return decodeName(address.subarray(2, end < 0 ? address.length : end));
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** UTF-8; bytes that are none become U+DC80…U+DCFF, each its own, so that every name has a text and back. */
function decodeName(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return Array.from(bytes, (byte) => String.fromCharCode(byte < 0x80 ? byte : 0xdc00 + byte)).join("");
  }
}

function encodeName(name: string): Uint8Array {
  // With the flag u only surrogates that stand alone match.
  if (!/[\udc80-\udcff]/u.test(name)) return new TextEncoder().encode(name);
  const bytes: number[] = [];
  for (const character of name) {
    const code = character.codePointAt(0)!;
    if (code >= 0xdc80 && code <= 0xdcff) bytes.push(code - 0xdc00);
    else bytes.push(...new TextEncoder().encode(character));
  }
  return Uint8Array.from(bytes);
}

/** virtio_net_hdr (linux/virtio_net.h), ten bytes before each packet of a TUN with `Tun.vnetHeader`. */
export interface VnetHeader {
  /** 1: the transport checksum is still to be done. */
  readonly flags: number;
  /** 0 one packet, 1 TCPv4, 4 TCPv6, 5 UDP; 0x80 is added for ECN. */
  readonly kind: number;
  readonly headerBytes: number;
  /** Payload bytes per segment. */
  readonly segmentBytes: number;
  readonly checksumStart: number;
  readonly checksumOffset: number;
}

/** @throws RangeError if there are not ten bytes at `offset`. */
export function decodeVnet(bytes: Uint8Array, offset: number): VnetHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset + offset, vnetLength);
  return {
    flags: view.getUint8(0),
    kind: view.getUint8(1),
    headerBytes: view.getUint16(2, little),
    segmentBytes: view.getUint16(4, little),
    checksumStart: view.getUint16(6, little),
    checksumOffset: view.getUint16(8, little),
  };
}
