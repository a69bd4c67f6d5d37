/**
 * Sockets in memory: streams and unix messages by name, and sockets to a kernel that the test plays.
 *
 * Keeps the listeners and bound sockets by name. What is sent arrives in a later microtask, as a copy, in order.
 */

import { Fault } from "../../src/lib/fault.ts";
import type {
  Credentials,
  DatagramHandlers,
  DatagramSocket,
  Listener,
  ListenOptions,
  Stream,
  StreamHandlers,
  UnixHandlers,
  UnixOptions,
  UnixSocket,
} from "../../src/system/system.ts";

/** Bytes that a paused reader lets its writer queue before `write` answers false. */
const highWaterBytes = 16 * 1024;

/** One end of a stream. */
class End implements Stream {
  peer: Credentials | undefined;
  handlers: StreamHandlers | undefined;
  other: End | undefined;
  readonly #incoming: Uint8Array[] = [];
  #incomingBytes = 0;
  #paused = false;
  #ended = false;
  #over = false;
  #starved = false;
  #hungUp = false;

  get queuedBytes(): number {
    return this.other?.waiting ?? 0;
  }

  get waiting(): number {
    return this.#incomingBytes;
  }

  write(bytes: Uint8Array): boolean {
    if (this.#over || this.#ended) return false;
    this.other!.take(bytes.slice());
    if (this.queuedBytes < highWaterBytes) return true;
    this.#starved = true;
    return false;
  }

  take(bytes: Uint8Array): void {
    this.#incoming.push(bytes);
    this.#incomingBytes += bytes.length;
    queueMicrotask(() => this.#deliver());
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    queueMicrotask(() => this.#deliver());
  }

  end(): void {
    if (this.#ended || this.#over) return;
    this.#ended = true;
    queueMicrotask(() => this.other?.hangUp());
  }

  close(): void {
    this.finish(undefined);
  }

  /** The other end says that no more comes: once all is read, this one ends too. */
  hangUp(): void {
    this.#hungUp = true;
    this.#deliver();
  }

  finish(fault: Fault | undefined): void {
    if (this.#over) return;
    this.#over = true;
    this.#incoming.length = 0;
    this.#incomingBytes = 0;
    queueMicrotask(() => {
      this.handlers?.onClose(fault);
      this.other?.hangUp();
    });
  }

  drained(): void {
    if (!this.#starved || this.#over) return;
    this.#starved = false;
    this.handlers?.onDrain?.();
  }

  #deliver(): void {
    while (!this.#paused && !this.#over && this.handlers !== undefined) {
      const bytes = this.#incoming.shift();
      if (bytes === undefined) break;
      this.#incomingBytes -= bytes.length;
      this.handlers.onBytes(bytes);
      if (this.#incomingBytes < highWaterBytes) this.other?.drained();
    }
    if (this.#hungUp && this.#incoming.length === 0) this.finish(undefined);
  }
}

/** Who listens where. */
export class FakeSwitchboard {
  readonly #listeners = new Map<string, ListenOptions>();
  readonly #bound = new Map<string, FakeUnix>();
  readonly #credentials: () => Credentials;
  #serial = 0;

  constructor(credentials: () => Credentials) {
    this.#credentials = credentials;
  }

  connect(path: string, handlers: StreamHandlers): Stream {
    const [near, far] = [new End(), new End()];
    near.handlers = handlers;
    // What is written before the connection stands waits at the far end.
    [near.other, far.other] = [far, near];
    queueMicrotask(() => {
      const listener = this.#listeners.get(path);
      if (listener === undefined) {
        near.finish(new Fault("not-found", `Cannot connect to ${path}: no such file or directory (ENOENT)`));
        return;
      }
      near.peer = this.#credentials();
      far.peer = this.#credentials();
      far.handlers = listener.accept(far);
      if (far.handlers === undefined) {
        near.finish(undefined);
        return;
      }
      handlers.onConnect?.();
    });
    return near;
  }

  listen(path: string, options: ListenOptions): Listener {
    if (this.#listeners.has(path)) {
      throw new Fault("conflict", `Cannot listen on ${path}: address already in use (EADDRINUSE)`);
    }
    this.#listeners.set(path, options);
    return {
      close: async () => {
        this.#listeners.delete(path);
      },
    };
  }

  unix(options: UnixOptions, handlers: UnixHandlers): UnixSocket {
    const name =
      options.bind ||
      (options.type === "datagram" ? `@${(++this.#serial).toString(16).padStart(5, "0")}` : undefined);
    if (name !== undefined && this.#bound.has(name)) {
      throw new Fault("conflict", `Cannot bind unix socket ${name}: address already in use (EADDRINUSE)`);
    }
    const find = (to: string) => this.#bound.get(to);
    const socket = new FakeUnix(
      { name, peer: this.#credentials(), find, release: () => name && this.#bound.delete(name) },
      handlers,
    );
    if (options.connect !== undefined) socket.connect(options.connect, options.type);
    if (name !== undefined) this.#bound.set(name, socket);
    return socket;
  }
}

interface Surroundings {
  readonly name: string | undefined;
  readonly peer: Credentials;
  find(name: string): FakeUnix | undefined;
  release(): void;
}

/** A unix datagram or seqpacket socket. */
class FakeUnix implements UnixSocket {
  readonly peer: Credentials;
  handlers: UnixHandlers;
  readonly #around: Surroundings;
  #to: (() => FakeUnix | undefined) | undefined;
  #pair = false;
  #closed = false;

  constructor(around: Surroundings, handlers: UnixHandlers) {
    this.#around = around;
    this.peer = around.peer;
    this.handlers = handlers;
  }

  connect(name: string, type: UnixOptions["type"]): void {
    const target = this.#around.find(name);
    if (target === undefined) {
      throw new Fault("closed", `Cannot open unix socket ${name}: connection refused (ECONNREFUSED)`);
    }
    if (type === "datagram") {
      this.#to = () => this.#around.find(name);
      return;
    }
    const far = new FakeUnix({ ...target.#around, release() {} }, target.handlers);
    [this.#pair, far.#pair] = [true, true];
    this.#to = () => far;
    far.#to = () => this;
    const own = target.handlers.onAccept?.(far);
    if (own === undefined)
      throw new Fault("closed", `Cannot open unix socket ${name}: connection reset (ECONNRESET)`);
    far.handlers = own;
  }

  send(bytes: Uint8Array, to?: string): void {
    if (this.#closed) throw new Fault("closed", "Cannot send to unix socket: the socket is closed");
    const target = to === undefined ? this.#to?.() : this.#around.find(to);
    if (target === undefined || target.#closed) {
      throw new Fault("closed", `Cannot send to unix socket ${to ?? ""}: connection refused (ECONNREFUSED)`);
    }
    const copy = bytes.slice();
    const from = { name: this.#around.name, peer: this.#around.peer };
    queueMicrotask(() => target.#closed || target.handlers.onMessage(copy, from));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#around.release();
    queueMicrotask(() => this.handlers.onClose());
    if (this.#pair) queueMicrotask(() => this.#to?.()?.close());
  }
}

/** A netlink or packet socket, whose other side the test plays. */
export class FakeSocket implements DatagramSocket {
  /** "netlink 0", "packet 3". */
  readonly name: string;
  readonly port: number;
  /** What was sent, each a copy. */
  readonly sent: Uint8Array[] = [];
  /** Answers a message, as the kernel would: what it returns is delivered. */
  answer: ((bytes: Uint8Array) => readonly Uint8Array[]) | undefined;
  closed = false;
  readonly #handlers: DatagramHandlers;
  readonly #note: (text: string) => void;

  constructor(
    about: { readonly name: string; readonly port: number; readonly note: (text: string) => void },
    handlers: DatagramHandlers,
  ) {
    this.name = about.name;
    this.port = about.port;
    this.#note = about.note;
    this.#handlers = handlers;
  }

  send(bytes: Uint8Array): void {
    if (this.closed) throw new Fault("closed", `Cannot send to ${this.name}: the socket is closed`);
    const copy = bytes.slice();
    this.sent.push(copy);
    this.#note(`send ${this.name} ${Buffer.from(copy).toString("hex")}`);
    queueMicrotask(() => {
      for (const each of this.answer?.(copy) ?? []) this.deliver(each);
    });
  }

  /** The kernel sends. */
  deliver(bytes: Uint8Array): void {
    if (!this.closed) this.#handlers.onMessage(bytes.slice());
  }

  /** The kernel had more than it could keep. */
  overrun(): void {
    if (!this.closed) this.#handlers.onOverrun();
  }

  close(fault?: Fault): void {
    if (this.closed) return;
    this.closed = true;
    this.#note(`close ${this.name}`);
    queueMicrotask(() => this.#handlers.onClose(fault));
  }
}
