/**
 * Sockets that carry messages: netlink, packet, unix datagram and seqpacket, over the native addon.
 *
 * Keeps per thread the open sockets by handle, and one arena that all of them receive into, one after the
 * other. A socket is told of its messages when the kernel says that there are some; after a number of rounds
 * the others get their turn. Its owner is told of each message, of losses, and once of its end.
 */

import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import { Fault } from "../lib/fault.ts";
import { encodeFilter } from "./filter.ts";
import {
  AF,
  errnoOf,
  kernelFault,
  type Netio,
  nameLength,
  netlinkAddress,
  netlinkPort,
  packetAddress,
  packetInterface,
  Ready,
  Row,
  rowLength,
  SOCK,
  unixAddress,
  unixName,
} from "./native.ts";
import type {
  Credentials,
  DatagramHandlers,
  DatagramSocket,
  NetlinkOptions,
  PacketOptions,
  UnixHandlers,
  UnixOptions,
  UnixSocket,
} from "./system.ts";

const slots = 4;
/** The longest message that arrives whole: above a netlink dump's pieces and a unix socket's default buffer. */
const strideBytes = 256 * 1024;
const roundsPerTurn = 256;
/** Past it others get their turn: a table of the kernel comes in hundreds of large messages. */
const turnMs = 2;
const truncated = 0x20;
const acceptPauseMs = 100;

/** SOL_SOCKET and its options differ on MIPS (asm/socket.h). */
const mips = process.arch.startsWith("mips");
const solSocket = mips ? 0xffff : 1;
const option = {
  receiveBuffer: mips ? 0x1002 : 8,
  receiveBufferForce: 33,
  passCredentials: mips ? 17 : 16,
  netlink: 270,
  addMembership: 1,
  extendedAck: 11,
} as const;

const errno = {
  again: errnoOf("EAGAIN"),
  interrupted: errnoOf("EINTR"),
  noBuffers: errnoOf("ENOBUFS"),
  reset: errnoOf("ECONNRESET"),
  refused: errnoOf("ECONNREFUSED"),
  netDown: errnoOf("ENETDOWN"),
  inUse: errnoOf("EADDRINUSE"),
  tooManyFiles: errnoOf("EMFILE"),
  tooManyFilesInAll: errnoOf("ENFILE"),
  noMemory: errnoOf("ENOMEM"),
};

export interface Message {
  readonly bytes: Uint8Array;
  readonly name: Uint8Array;
  readonly flags: number;
  /** From SCM_CREDENTIALS. */
  readonly peer: Credentials | undefined;
}

/** An open socket. */
interface Entry {
  onReady(): void;
  onClose(fault: Fault | undefined): void;
  /** Its socket file, to be removed with it. */
  readonly file: string | undefined;
}

/** What a kind of socket does with what its descriptor has. */
export interface Reader {
  /** A message. False: it was the end of the connection. */
  onMessage(message: Message): boolean;
  onOverrun(): void;
  /** Whether a failed receive leaves the socket usable. */
  survives(answer: number): boolean;
  onClose(fault: Fault | undefined): void;
  readonly file?: string | undefined;
}

/** A descriptor that was taken over. */
export interface AdoptedSocket {
  /** @param to a socket address; without it, the peer's. @throws Fault as the kernel says. */
  send(bytes: Uint8Array, to?: Uint8Array): void;
  close(): void;
}

const opened = new WeakMap<Netio, Datagrams>();

/** The message sockets of this thread. */
export function datagramsOf(netio: Netio): Datagrams {
  let datagrams = opened.get(netio);
  if (datagrams === undefined) {
    datagrams = new Datagrams(netio);
    opened.set(netio, datagrams);
  }
  return datagrams;
}

/** Opens and drains the message sockets of one thread. */
export class Datagrams {
  readonly #netio: Netio;
  readonly #open = new Map<number, Entry>();
  #arena: Uint8Array | undefined;
  readonly #names = new Uint8Array(slots * nameLength);
  readonly #rows = new Int32Array(slots * rowLength);
  readonly #sendNames = new Uint8Array(nameLength);
  readonly #sendRow = new Int32Array(rowLength);

  constructor(netio: Netio) {
    this.#netio = netio;
    netio.onReady((handle) => this.#open.get(handle)?.onReady());
  }

  /** @throws Fault as the kernel says. */
  netlink(options: NetlinkOptions, handlers: DatagramHandlers): DatagramSocket {
    const verb = "open netlink socket";
    const handle = this.#must(this.#netio.open(AF.netlink, SOCK.raw, options.protocol), verb);
    return this.#guard(handle, () => {
      this.#receiveBuffer(handle, options.receiveBytes ?? 4 * 1024 * 1024);
      // Reasons as text, where the kernel has them.
      this.#netio.option(handle, option.netlink, option.extendedAck, 1);
      this.#must(this.#netio.bind(handle, netlinkAddress(0)), verb);
      for (const group of options.groups ?? []) {
        this.#must(
          this.#netio.option(handle, option.netlink, option.addMembership, group),
          `join netlink group ${group}`,
        );
      }
      const port = netlinkPort(this.#address(handle));
      this.#read(handle, {
        onMessage: (message) => {
          // Any process may write to our port id; the kernel's is 0.
          if (netlinkPort(message.name) !== 0) return true;
          if (message.flags & truncated) handlers.onOverrun();
          else handlers.onMessage(message.bytes);
          return true;
        },
        onOverrun: () => handlers.onOverrun(),
        survives: () => false,
        onClose: (fault) => handlers.onClose(fault),
      });
      return this.#socket(handle, port, "send to netlink");
    });
  }

  /** @throws Fault as the kernel says. */
  packet(options: PacketOptions, handlers: DatagramHandlers): DatagramSocket {
    const verb = `open packet socket on interface ${options.ifindex}`;
    // With protocol 0 nothing arrives before the bind says from where.
    const handle = this.#must(this.#netio.open(AF.packet, SOCK.raw, 0), verb);
    return this.#guard(handle, () => {
      if (options.only) this.#must(this.#netio.filter(handle, encodeFilter(options.only)), verb);
      this.#must(this.#netio.bind(handle, packetAddress(options.ifindex, options.protocol)), verb);
      this.#read(handle, {
        onMessage: (message) => {
          if (message.flags & truncated) handlers.onOverrun();
          else handlers.onMessage(message.bytes);
          return true;
        },
        onOverrun: () => handlers.onOverrun(),
        // An interface that went down may come up again; one that is gone leaves no index.
        survives: (answer) => answer === -errno.netDown && packetInterface(this.#address(handle)) > 0,
        onClose: (fault) => handlers.onClose(fault),
      });
      return this.#socket(handle, 0, `send on interface ${options.ifindex}`);
    });
  }

  /** @throws Fault "conflict" if somebody holds the name, or as the kernel says. */
  unix(options: UnixOptions, handlers: UnixHandlers): UnixSocket {
    const { bind, connect, type } = options;
    const verb = `open unix socket ${bind || connect || ""}`.trimEnd();
    const server = type === "seqpacket" && connect === undefined;
    const handle = this.#must(this.#netio.open(AF.unix, SOCK[type], 0), verb);
    return this.#guard(handle, () => {
      const file = bind !== undefined && bind !== "" && !bind.startsWith("@") ? bind : undefined;
      this.#netio.option(handle, solSocket, option.passCredentials, 1);
      if (bind !== undefined || type === "datagram") this.#bind(handle, bind ?? "", type);
      try {
        if (file !== undefined && options.mode !== undefined) chmodSync(file, options.mode);
        if (connect !== undefined) this.#must(this.#netio.connect(handle, unixAddress(connect)), verb);
        if (server) this.#must(this.#netio.listen(handle, 64), verb);
      } catch (error) {
        if (file !== undefined) remove(file);
        throw error;
      }
      if (server) return this.#serve(handle, handlers, file);
      return this.#unix(handle, type, { handlers: () => handlers, file });
    });
  }

  /**
   * Takes a descriptor over that another file has opened: `prepare` makes it ready and gives its reader.
   *
   * @returns a send to a socket address (none: to the peer) and the way to close it.
   * @throws what `prepare` throws; then the descriptor is closed.
   */
  adopt(handle: number, verb: string, prepare: () => Reader): AdoptedSocket {
    return this.#guard(handle, () => {
      this.#read(handle, prepare());
      return {
        send: (bytes, to) => this.#send(handle, bytes, { to, verb }),
        close: () => this.#close(handle, undefined),
      };
    });
  }

  /** A connected seqpacket socket, or a datagram socket. */
  #unix(
    handle: number,
    type: UnixOptions["type"],
    about: { handlers: () => UnixHandlers; file: string | undefined },
  ): UnixSocket {
    const connected = type === "seqpacket";
    const peer = this.#peer(handle);
    this.#read(handle, {
      onMessage: (message) => {
        // The end of a connection looks like an empty message, but nobody sent it.
        if (connected && message.bytes.length === 0 && message.peer === undefined) return false;
        if (message.flags & truncated) about.handlers().onOverrun();
        else {
          const from = { name: unixName(message.name), peer: connected ? peer : message.peer };
          about.handlers().onMessage(message.bytes, from);
        }
        return true;
      },
      onOverrun: () => about.handlers().onOverrun(),
      // One peer of a datagram socket that is gone says nothing of the others.
      survives: (answer) => !connected && (answer === -errno.reset || answer === -errno.refused),
      onClose: (fault) => about.handlers().onClose(fault),
      file: about.file,
    });
    return {
      peer,
      send: (bytes, to) =>
        this.#send(handle, bytes, {
          to: to === undefined ? undefined : unixAddress(to),
          verb: `send to unix socket ${to ?? ""}`.trimEnd(),
        }),
      close: () => this.#close(handle, undefined),
    };
  }

  /** A listening seqpacket socket. */
  #serve(handle: number, handlers: UnixHandlers, file: string | undefined): UnixSocket {
    const accept = (): void => {
      for (let round = 0; round < roundsPerTurn; round++) {
        const answer = this.#netio.accept(handle);
        if (answer === -errno.again) break;
        if ([errno.tooManyFiles, errno.tooManyFilesInAll, errno.noMemory].includes(-answer)) {
          // The connection stays in the queue: try again when others may have closed.
          setTimeout(() => this.#open.has(handle) && this.#netio.watch(handle, Ready.in), acceptPauseMs);
          return;
        }
        if (answer >= 0) this.#welcome(answer, handlers);
        if (!this.#open.has(handle)) return;
      }
      this.#netio.watch(handle, Ready.in);
    };
    this.#open.set(handle, { onReady: accept, onClose: (fault) => handlers.onClose(fault), file });
    this.#must(this.#netio.watch(handle, Ready.in), "watch unix socket");
    return {
      peer: undefined,
      send: () => {
        throw new TypeError("Cannot send: a listening socket has no peer");
      },
      close: () => this.#close(handle, undefined),
    };
  }

  #welcome(handle: number, handlers: UnixHandlers): void {
    if (handlers.onAccept === undefined) {
      this.#netio.close(handle);
      return;
    }
    this.#netio.option(handle, solSocket, option.passCredentials, 1);
    let own: UnixHandlers | undefined;
    const deaf: UnixHandlers = { onMessage() {}, onOverrun() {}, onClose() {} };
    const socket = this.#unix(handle, "seqpacket", { handlers: () => own ?? deaf, file: undefined });
    own = handlers.onAccept(socket);
  }

  /** Binds; a socket file that nobody serves any more is replaced. */
  #bind(handle: number, name: string, type: UnixOptions["type"]): void {
    const address = unixAddress(name);
    let answer = this.#netio.bind(handle, address);
    if (answer === -errno.inUse && !name.startsWith("@") && this.#isStale(name, type)) {
      remove(name);
      answer = this.#netio.bind(handle, address);
    }
    this.#must(answer, `bind unix socket ${name}`);
  }

  #isStale(path: string, type: UnixOptions["type"]): boolean {
    if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) return false;
    const probe = this.#must(this.#netio.open(AF.unix, SOCK[type], 0), `look at ${path}`);
    const answer = this.#netio.connect(probe, unixAddress(path));
    this.#netio.close(probe);
    return answer === -errno.refused;
  }

  /** Starts to deliver what arrives. */
  #read(handle: number, reader: Reader): void {
    this.#open.set(handle, {
      onReady: () => this.#drain(handle, reader),
      onClose: (fault) => reader.onClose(fault),
      file: reader.file,
    });
    this.#must(this.#netio.watch(handle, Ready.in), "watch socket");
  }

  #drain(handle: number, reader: Reader): void {
    this.#arena ??= new Uint8Array(slots * strideBytes);
    const endAt = performance.now() + turnMs;
    try {
      for (let round = 0; round < roundsPerTurn && this.#open.has(handle); round++) {
        if (round > 0 && performance.now() > endAt) return;
        const count = this.#netio.receive(handle, this.#arena, strideBytes, this.#names, this.#rows);
        if (count === -errno.again) return;
        if (count === -errno.interrupted) continue;
        if (count === -errno.noBuffers) reader.onOverrun();
        else if (count < 0 && !reader.survives(count)) {
          this.#close(handle, kernelFault(count, "receive"));
        }
        for (let index = 0; index < count && this.#open.has(handle); index++) {
          if (!reader.onMessage(this.#message(index))) this.#close(handle, undefined);
        }
        if (count >= 0 && count < slots) return;
      }
    } finally {
      if (this.#open.has(handle)) this.#netio.watch(handle, Ready.in);
    }
  }

  #message(index: number): Message {
    const row = this.#rows.subarray(index * rowLength, (index + 1) * rowLength);
    const at = row[Row.offset]!;
    return {
      bytes: this.#arena!.subarray(at, at + row[Row.length]!),
      name: this.#names.subarray(index * nameLength, index * nameLength + row[Row.name]!),
      flags: row[Row.flags]!,
      peer: credentials(row[Row.pid]!, row[Row.uid]!, row[Row.gid]!),
    };
  }

  #socket(handle: number, port: number, verb: string): DatagramSocket {
    return {
      port,
      send: (bytes) => this.#send(handle, bytes, { to: undefined, verb }),
      close: () => this.#close(handle, undefined),
    };
  }

  #send(handle: number, bytes: Uint8Array, about: { to: Uint8Array | undefined; verb: string }): void {
    if (!this.#open.has(handle)) throw new Fault("closed", `Cannot ${about.verb}: the socket is closed`);
    let length = 0;
    if (about.to !== undefined) {
      this.#sendNames.set(about.to);
      length = about.to.length;
    }
    this.#sendRow[Row.length] = bytes.length;
    this.#sendRow[Row.name] = length;
    let answer: number;
    do answer = this.#netio.send(handle, bytes, this.#sendNames, this.#sendRow, 1);
    while (answer === -errno.interrupted);
    this.#must(answer, about.verb);
  }

  #close(handle: number, fault: Fault | undefined): void {
    const entry = this.#open.get(handle);
    if (entry === undefined) return;
    this.#open.delete(handle);
    this.#netio.close(handle);
    if (entry.file !== undefined) remove(entry.file);
    // Later, so that nobody hears of the end within his own call.
    queueMicrotask(() => entry.onClose(fault));
  }

  #peer(handle: number): Credentials | undefined {
    const into = new Int32Array(3);
    return this.#netio.peer(handle, into) < 0 ? undefined : credentials(into[0]!, into[1]!, into[2]!);
  }

  #address(handle: number): Uint8Array {
    const into = new Uint8Array(nameLength);
    return into.subarray(0, this.#must(this.#netio.address(handle, into), "read socket address"));
  }

  /** Forced past the limit where we may, else as much as the limit allows. */
  #receiveBuffer(handle: number, bytes: number): void {
    if (this.#netio.option(handle, solSocket, option.receiveBufferForce, bytes) < 0) {
      this.#netio.option(handle, solSocket, option.receiveBuffer, bytes);
    }
  }

  /** Closes the descriptor if what prepares it throws. */
  #guard<Socket>(handle: number, prepare: () => Socket): Socket {
    try {
      return prepare();
    } catch (error) {
      this.#open.delete(handle);
      this.#netio.close(handle);
      throw error;
    }
  }

  #must(answer: number, verb: string): number {
    if (answer < 0) throw kernelFault(answer, verb);
    return answer;
  }
}

/** The kernel says uid -1 if it knows nobody. */
export function credentials(pid: number, uid: number, gid: number): Credentials | undefined {
  return uid === -1 ? undefined : { pid, uid: uid >>> 0, gid: gid >>> 0 };
}

function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody else has removed it.
  }
}
