/**
 * Unix stream sockets, over Node's net.
 *
 * Keeps per connection its handlers, whether it has ended, and the error that ended it; per listener its
 * socket file. Names that begin with "@" are abstract. What the kernel says about a peer comes through netio.
 */

import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import type { Server, Socket } from "node:net";
import { Fault } from "../lib/fault.ts";
import { credentials } from "./datagram.ts";
import { type Netio, nodeFault } from "./native.ts";
import type { Credentials, Listener, ListenOptions, Stream, StreamHandlers } from "./system.ts";

/** Loaded with the first socket: it costs start-up time. */
const net = () => require("node:net") as typeof import("node:net");

/** Node writes an abstract name with a leading NUL. */
const nameOf = (path: string) => (path.startsWith("@") ? `\0${path.slice(1)}` : path);

/** A connection of Node's as a stream of ours; of a TCP connection nobody's credentials are known. */
export class SocketStream implements Stream {
  readonly #socket: Socket;
  readonly #netio: () => Netio;
  #peer: Credentials | undefined;
  #closed = false;

  constructor(socket: Socket, netio: () => Netio) {
    this.#socket = socket;
    this.#netio = netio;
    if (!socket.connecting) this.learnPeer();
  }

  get peer(): Credentials | undefined {
    return this.#peer;
  }

  get queuedBytes(): number {
    return this.#socket.writableLength;
  }

  learnPeer(): void {
    // Node keeps the descriptor in the handle, which is gone once the socket is closed.
    const fd = (this.#socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd;
    const into = new Int32Array(3);
    if (fd !== undefined && fd >= 0 && this.#netio().peerOf(fd, into) === 0) {
      this.#peer = credentials(into[0]!, into[1]!, into[2]!);
    }
  }

  /** Tells the handlers what happens; nothing after `close` but the end. */
  tell(handlers: StreamHandlers, verb: string): void {
    let cause: Error | undefined;
    this.#socket
      .on("data", (chunk: Buffer) => {
        // A plain view: Buffer's own slice and toString mean something else.
        if (!this.#closed) handlers.onBytes(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
      })
      .on("drain", () => {
        if (!this.#closed) handlers.onDrain?.();
      })
      .on("end", () => {
        if (this.#closed) return;
        if (handlers.onEnd) handlers.onEnd();
        else this.#socket.end();
      })
      .on("error", (error) => {
        cause ??= error;
      })
      .on("close", () => {
        const ours = this.#closed;
        this.#closed = true;
        handlers.onClose(cause === undefined || ours ? undefined : nodeFault(cause, verb, "closed"));
      });
  }

  write(bytes: Uint8Array): boolean {
    return this.#socket.writable ? this.#socket.write(bytes) : false;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): void {
    this.#socket.end();
  }

  close(): void {
    this.#closed = true;
    this.#socket.destroy();
  }
}

/** Connects to a unix stream socket. @param netio tells who the peer is. */
export function connectStream(path: string, handlers: StreamHandlers, netio: () => Netio): Stream {
  const socket = net().connect({ path: nameOf(path), allowHalfOpen: true });
  const stream = new SocketStream(socket, netio);
  stream.tell(handlers, `connect to ${path}`);
  socket.on("connect", () => {
    stream.learnPeer();
    handlers.onConnect?.();
  });
  return stream;
}

/** Serves a unix stream socket. @throws Fault "conflict" if somebody else does. */
export async function listenStream(
  path: string,
  options: ListenOptions,
  netio: () => Netio,
): Promise<Listener> {
  const abstract = path.startsWith("@");
  const accept = (socket: Socket): void => {
    const stream = new SocketStream(socket, netio);
    const handlers = options.accept(stream);
    if (handlers === undefined) {
      socket.on("error", () => {});
      socket.destroy();
    } else {
      stream.tell(handlers, `serve a client of ${path}`);
    }
  };
  let server = net().createServer({ allowHalfOpen: true }, accept);
  let error = await listening(server, path);
  if (error?.code === "EADDRINUSE" && !abstract && (await isStale(path))) {
    unlinkSync(path);
    server = net().createServer({ allowHalfOpen: true }, accept);
    error = await listening(server, path);
  }
  if (error !== undefined) throw nodeFault(error, `listen on ${path}`);
  // A connection that cannot be accepted stays in the queue; there is nobody to tell.
  server.on("error", () => {});
  try {
    if (!abstract) chmodSync(path, options.mode);
  } catch (cause) {
    server.close();
    throw nodeFault(cause, `listen on ${path}`);
  }
  return {
    async close() {
      // This also removes the socket file. Its callback would wait for the connections to end.
      server.close();
    },
  };
}

function listening(server: Server, path: string): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    server.once("error", resolve);
    server.listen({ path: nameOf(path), backlog: 128 }, () => {
      server.off("error", resolve);
      resolve(undefined);
    });
  });
}

/** Whether a socket file is there that nobody listens on. @throws Fault "conflict" for any other file. */
function isStale(path: string): Promise<boolean> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
    throw new Fault("conflict", `Cannot listen on ${path}: a file is there that is no socket`);
  }
  return new Promise((resolve) => {
    const probe = net().connect({ path });
    probe.on("connect", () => {
      probe.destroy();
      resolve(false);
    });
    probe.on("error", (error: NodeJS.ErrnoException) => resolve(error.code === "ECONNREFUSED"));
  });
}
