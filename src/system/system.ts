/**
 * The machine as the rest of gatehouse sees it: the one interface between the core and everything outside.
 *
 * `linux.ts` is the real one. Time, randomness, files, processes and sockets come from here and from nowhere
 * else, so that the core runs in any JavaScript engine for which somebody writes this interface again.
 *
 * Conventions: times in milliseconds; paths absolute; bytes handed to a callback belong to the callee until it
 * returns, unless a verb says that they are a copy; failures are Faults.
 */

import type { Address } from "../lib/address.ts";
import type { Fault } from "../lib/fault.ts";

/** Ends what was started. Calling it again does nothing. */
export type Cancel = () => void;

export type Level = "error" | "warning" | "info" | "debug";

export interface System extends Clock, Disk, Sockets, Threads {
  /** Cryptographically strong random bytes. */
  random(length: number): Uint8Array;
  /** How far local time is ahead of UTC at a date, in milliseconds. */
  zoneOffsetMs(date: number): number;
  /** CLOCK_MONOTONIC_RAW in milliseconds, which no time server corrects: other programs count by it. */
  rawNow(): number;
  /** One line to the log; control characters are made visible. Of a flood of lines only some pass, counted. */
  log(level: Level, line: string): void;
  /**
   * Runs a program without a shell and waits for its end.
   * @throws Fault "not-found" if there is no such program, "timeout" after `timeoutMs` (default 30 s; the
   *   program is killed), "limit" past `maxOutputBytes` (default 64 MiB). An exit code is not a fault.
   */
  run(argv: readonly string[], options?: RunOptions): Promise<RunResult>;
  /** Opens an MQTT session that keeps itself connected until closed. */
  mqtt(options: MqttOptions, handlers: MqttHandlers): Mqtt;
  /** This process: its id, its user, the memory it holds. */
  readonly self: { readonly pid: number; readonly uid: number; residentBytes(): number };
}

export interface RunOptions {
  readonly input?: string;
  readonly timeoutMs?: number;
  readonly maxOutputBytes?: number;
}

export interface RunResult {
  /** Exit status; 128 + signal number if a signal ended it. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Its process id, to tell its netlink messages from those of others. */
  readonly pid: number;
}

export interface Clock {
  /** Monotonic milliseconds since some fixed instant of this boot. */
  now(): number;
  /** Wall clock in milliseconds since 1970; may jump, and is wrong on a router that has just booted. */
  date(): number;
  /** Calls once, after at least `delayMs`. */
  after(delayMs: number, call: () => void): Cancel;
  /** Calls again and again; a call that comes late is not made up for. */
  every(periodMs: number, call: () => void): Cancel;
}

export interface Disk {
  /** A whole file, or undefined if it is not there. At most `maxBytes` (default 64 MiB), else Fault "limit". */
  read(path: string, maxBytes?: number): Promise<Uint8Array | undefined>;
  /**
   * Replaces a file durably: when the promise resolves, the new content survives a power cut, and at every
   * moment before that either the old or the new content is there, whole. With `keep`, the content replaced
   * stays under that path. Content in pieces is asked for one by one as they are written; each is valid until the next.
   * @throws Fault "storage" with the file as it was.
   */
  replace(path: string, content: Content, options?: { mode?: number; keep?: string }): Promise<void>;
  /**
   * Makes a new file that grows piece by piece. It is durable when the kernel thinks fit.
   * @throws Fault "conflict" if anything has that name already, be it a link that leads nowhere; "storage".
   */
  create(path: string, mode?: number): Promise<Writer>;
  /**
   * A file piece by piece, whatever its length; a piece is valid until the next is asked for.
   * @throws Fault "not-found", "storage", when the first piece is asked for.
   */
  readPieces(path: string): AsyncIterable<Uint8Array>;
  /** Writes a kernel setting (a file of /proc/sys or /sys) in one write. */
  set(path: string, value: string): Promise<void>;
  /** Moves a file, replacing the target. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file; one that is not there is no fault. */
  remove(path: string): Promise<void>;
  /** Names in a directory, sorted; empty if it is not there. */
  list(path: string): Promise<string[]>;
  /** Owner, permission bits, size in bytes and modification date of a file, or undefined. */
  stat(path: string): Promise<FileStatus | undefined>;
  /** Makes a directory with its parents; one that exists is no fault. */
  makeDirectory(path: string, mode?: number): Promise<void>;
  /** Calls when a file may have changed, come or gone. At most ten calls a second. */
  watch(path: string, changed: () => void): Cancel;
}

/** What a file is to hold, at once or in pieces. */
export type Content = Uint8Array | Iterable<Uint8Array>;

/** A file being written. */
export interface Writer {
  /** Appends; the next piece waits for the promise. @throws Fault "storage": then the file ends anywhere. */
  write(piece: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface FileStatus {
  readonly uid: number;
  readonly gid: number;
  readonly mode: number;
  readonly sizeBytes: number;
  readonly modifiedAt: number;
  readonly isDirectory: boolean;
}

/** Who is at the other end of a unix socket, as the kernel tells (SO_PEERCRED, unix(7)). */
export interface Credentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface Sockets {
  /** Connects to a unix stream socket; "@name" is an abstract one. Failure arrives as `onClose`. */
  connect(path: string, handlers: StreamHandlers): Stream;
  /** Serves a unix stream socket. A stale socket file is replaced, a live one is Fault "conflict". */
  listen(path: string, options: ListenOptions): Promise<Listener>;
  /** Opens a netlink socket (netlink(7)). @throws Fault "kernel" or "denied". */
  netlink(options: NetlinkOptions, handlers: DatagramHandlers): DatagramSocket;
  /** Opens a unix datagram or seqpacket socket; "@name" is abstract, its name as long as given. */
  unix(options: UnixOptions, handlers: UnixHandlers): UnixSocket;
  /** Opens a packet socket on an interface (packet(7)). */
  packet(options: PacketOptions, handlers: DatagramHandlers): DatagramSocket;
  /**
   * Opens a UDP socket on one address; answers leave from there.
   * @throws Fault "conflict" if the port is taken, or as the kernel says.
   */
  udp(options: UdpOptions, handlers: UdpHandlers): UdpSocket;
  /** Serves TCP on one address. @throws Fault "conflict" if the port is taken, or as the kernel says. */
  tcpListen(options: TcpListenOptions): Promise<TcpListener>;
  /** Connects over TCP. Failure arrives as `onClose`; how long to wait for it is the caller's to say. */
  tcpConnect(to: Endpoint, handlers: StreamHandlers): Stream;
  /**
   * Serves HTTP on one address, over TLS if a certificate is given.
   * @throws Fault "invalid" for a certificate that cannot be used, "conflict" if the port is taken.
   */
  serve(options: WebOptions, handler: WebHandler): Promise<WebServer>;
}

/** One end of a conversation over UDP or TCP. */
export interface Endpoint {
  readonly address: Address;
  readonly port: number;
  /** The interface that a link-local IPv6 address is on; for other addresses it is left out. */
  readonly zone?: number;
}

export interface UdpOptions {
  /** Of our own; "0.0.0.0" is every IPv4, "::" every IPv6 address (then the kernel picks whom an answer is from). */
  readonly address: Address;
  /** 0: the kernel picks a random one. */
  readonly port: number;
  /** Only what comes in and goes out by this interface; of one that is gone nothing comes. */
  readonly ifindex?: number;
  /** Multicast groups to be a member of on that interface: routers and switches learn it (IGMP, MLD). */
  readonly groups?: readonly Address[];
  /** The only one to talk to: what others send does not arrive, and its refusal (ICMP) closes the socket. */
  readonly peer?: Endpoint;
}

export interface UdpHandlers extends Omit<DatagramHandlers, "onMessage"> {
  /** One datagram; the bytes are valid until the call returns. */
  onMessage(bytes: Uint8Array, from: Endpoint): void;
}

export interface UdpSocket {
  /** Where it is bound. */
  readonly local: Endpoint;
  /** Sends one datagram, to the peer if there is one. @throws Fault if the kernel does not take it now. */
  send(bytes: Uint8Array, to?: Endpoint): void;
  close(): void;
}

export interface TcpListenOptions {
  /** Of our own; "0.0.0.0" is every IPv4, "::" every IPv6 address. */
  readonly address: Address;
  /** 0: the kernel picks one. */
  readonly port: number;
  /** The interface that a link-local address is on. */
  readonly ifindex?: number;
  /** Returns the handlers of a new connection, or undefined to refuse it. */
  accept(stream: Stream, from: Endpoint): StreamHandlers | undefined;
}

export interface TcpListener extends Listener {
  readonly port: number;
}

export interface Threads {
  /**
   * Opens a queue of packets that a worker shall move. It stays open here, so it outlives the worker, with what waits
   * in it.
   * @throws Fault "conflict" if the name or the port is taken, or as the kernel says.
   */
  queue(options: TunOptions | GatewaySocketOptions): PacketQueue;
  /**
   * Starts a program of ours in a thread of its own, which may block on its queues.
   * @throws Fault "unsupported" where there are no threads.
   */
  worker(options: WorkerOptions, handlers: WorkerHandlers): WorkerThread;
}

/** A TUN: one interface whose packets, each behind a virtio_net_hdr, and super-packets, are ours to move. */
export interface TunOptions {
  readonly kind: "tun";
  /** Of the interface, up to 15 bytes; "%d" becomes a free number. */
  readonly name: string;
  /** Whether we take super-packets of TCP, and of UDP where the kernel has them. Default true. */
  readonly offload?: boolean;
}

/** A UDP socket for many peers: don't-fragment set, errors of the network told, many packets per message. */
export interface GatewaySocketOptions {
  readonly kind: "gateway";
  /** Of our own; "0.0.0.0" is every IPv4, "::" every IPv6 address. */
  readonly address: Address;
  /** 0: the kernel picks one. */
  readonly port: number;
  /** Of the buffers, forced past the limit where allowed. Default 4 MiB. */
  readonly bufferBytes?: number;
}

export interface PacketQueue {
  /** The interface of a TUN; "" otherwise. */
  readonly name: string;
  /** The port of a socket; 0 otherwise. */
  readonly port: number;
  /** Whether it is a TUN that takes super-packets of UDP. */
  readonly joinsUdp: boolean;
  /** Its number in this process. */
  readonly descriptor: number;
  /** A TUN's interface goes with its last queue. */
  close(): void;
}

export interface WorkerOptions {
  /** Which of our programs. */
  readonly program: string;
  /** Handed over once; what is in a SharedArrayBuffer is shared. */
  readonly data: unknown;
  readonly queues: readonly PacketQueue[];
}

export interface WorkerHandlers {
  onMessage(message: unknown): void;
  /** Called exactly once, the last call. Without fault it ended because we closed it. */
  onEnd(fault?: Fault): void;
}

export interface WorkerThread {
  /** Queues a message and wakes the worker. Nothing bounds the queue: wait for what it says. */
  post(message: unknown): void;
  /** Asks it to end, insists after a second; resolves when it has ended. */
  close(): Promise<void>;
}

export interface StreamHandlers {
  onConnect?(): void;
  onBytes(bytes: Uint8Array): void;
  /** All that was queued has been handed to the kernel, after `write` had returned false. */
  onDrain?(): void;
  /** The peer sends no more but may still read. Without this handler our side ends, too. */
  onEnd?(): void;
  /** Called exactly once, the last call. Without fault the peer or we closed in order. */
  onClose(fault?: Fault): void;
}

export interface Stream {
  /** The peer, where the kernel tells; undefined before the connection stands. */
  readonly peer: Credentials | undefined;
  /** Bytes accepted by write and not yet taken by the kernel. */
  readonly queuedBytes: number;
  /** Queues bytes, which the stream then owns. False: the kernel takes no more now, wait for `onDrain`. */
  write(bytes: Uint8Array): boolean;
  /** Stops or resumes reading, to slow a peer down. */
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes. */
  end(): void;
  /** Closes at once. */
  close(): void;
}

export interface ListenOptions {
  /** Permission bits of the socket file. */
  readonly mode: number;
  /** Returns the handlers of a new connection, or undefined to refuse it. */
  accept(stream: Stream): StreamHandlers | undefined;
}

export interface Listener {
  /** Stops listening, closes nothing that was accepted, and removes the socket file, if it has one. */
  close(): Promise<void>;
}

export interface NetlinkOptions {
  /** NETLINK_ROUTE 0, NETLINK_NETFILTER 12, … (linux/netlink.h). */
  readonly protocol: number;
  /** Multicast group numbers to join. */
  readonly groups?: readonly number[];
  /** Receive buffer, forced past the limit where allowed. Default 4 MiB. */
  readonly receiveBytes?: number;
}

export interface PacketOptions {
  readonly ifindex: number;
  /** Ethernet protocol number in host order, e.g. 0x0806; 3 is all. */
  readonly protocol: number;
  /** Frames that arrive: in each of these places one of these bytes, counted from the Ethernet header. Default: all. */
  readonly only?: readonly { readonly offset: number; readonly values: readonly number[] }[];
}

export interface DatagramHandlers {
  /** One datagram; the bytes are valid until the call returns. */
  onMessage(bytes: Uint8Array): void;
  /** The kernel dropped messages because we read too slowly (ENOBUFS). */
  onOverrun(): void;
  onClose(fault?: Fault): void;
}

export interface DatagramSocket {
  /** The netlink port id that the kernel gave us; 0 for other sockets. */
  readonly port: number;
  /** Sends one datagram. @throws Fault "kernel" if the kernel refuses it. */
  send(bytes: Uint8Array): void;
  close(): void;
}

export interface UnixOptions {
  readonly type: "datagram" | "seqpacket";
  /** Where others find us; for a datagram client undefined or "" (the kernel picks an abstract name). */
  readonly bind?: string;
  /** The peer of a client. */
  readonly connect?: string;
  readonly mode?: number;
}

export interface UnixHandlers extends Omit<DatagramHandlers, "onMessage"> {
  /** One message with its sender: the bound name (undefined if it has none) and the credentials. */
  onMessage(bytes: Uint8Array, from: { name: string | undefined; peer: Credentials | undefined }): void;
  /** A seqpacket server only: a new connection; returns its handlers. */
  onAccept?(socket: UnixSocket): UnixHandlers;
}

export interface UnixSocket {
  readonly peer: Credentials | undefined;
  send(bytes: Uint8Array, to?: string): void;
  close(): void;
}

export interface WebOptions {
  /** Of our own; "0.0.0.0" is every IPv4, "::" every address. */
  readonly address: Address;
  /** 0: the kernel picks one. */
  readonly port: number;
  /** PEM. Without it HTTP is plain; with it, nothing is. */
  readonly tls?: { readonly certificate: string; readonly key: string };
  /** A longer body is refused with 413. Default 64 KiB. */
  readonly maxBodyBytes?: number;
  /** At a time, half of them for one peer. Default 64. */
  readonly maxConnections?: number;
  /** Who takes longer to send a request is cut off, a quarter of it later at most. Default 4 s. */
  readonly requestMs?: number;
}

/** A whole request. */
export interface WebRequest {
  readonly method: string;
  /** Path and query, as sent. */
  readonly path: string;
  /** By name in lower case; what may stand in a request several times is joined with ", ". */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Uint8Array;
  readonly from: Address;
}

export interface WebReply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: Uint8Array | string;
}

/** Answers a request. What it throws becomes 500 without a word. */
export type WebHandler = (request: WebRequest) => WebReply | Promise<WebReply>;

export interface WebServer {
  readonly port: number;
  /** Stops listening; replies under way get two seconds. */
  close(): Promise<void>;
}

export interface MqttOptions {
  readonly host: string;
  readonly port: number;
  readonly clientId: string;
  readonly username?: string;
  /** Default "3.1.1". */
  readonly version?: "3.1.1" | "5";
  /**
   * Asked before each try, so that a renewed password or certificate counts from the next one on. A rejection is
   * why the try fails: a session is never weaker than was asked for.
   */
  secrets?(): Promise<MqttSecrets>;
  readonly keepaliveSeconds: number;
  /** Published by the broker, retained, when we vanish. */
  readonly will: { readonly topic: string; readonly payload: string };
  /** Bytes that may wait for a slow broker; past it `publish` answers false. */
  readonly maxQueuedBytes: number;
}

export interface MqttSecrets {
  readonly password?: string;
  /** TLS 1.2 or later, with the broker's name checked; without it, plain TCP. */
  readonly tls?: {
    /** Who may vouch for the broker, PEM; without it, whoever the system trusts. */
    readonly authorities?: string;
    /** Who we are, PEM; both or neither. */
    readonly certificate?: string;
    readonly key?: string;
  };
}

export interface MqttHandlers {
  /** A session stands (again): everything retained is to be sent again. */
  onConnect(): void;
  /** The session is lost; the next try follows by itself (1 s doubling to 60 s). */
  onDisconnect(reason: string): void;
  /**
   * Somebody published, with `retained` some time ago. Of a payload of more than 256 KiB only the beginning comes,
   * or, with MQTT 5, nothing.
   */
  onMessage(topic: string, payload: Uint8Array, retained: boolean): void;
  /** The broker lets us not hear of a topic. */
  onRefusal?(topic: string, reason: string): void;
}

export interface Mqtt {
  readonly connected: boolean;
  readonly queuedBytes: number;
  /** The longest message, topic and payload in bytes, that this session ever takes. */
  readonly maxMessageBytes: number;
  /** QoS 0. False: not connected, or too much waits, or it is too long; the message is dropped. */
  publish(topic: string, payload: string, options?: { retain?: boolean }): boolean;
  /** Asks for messages in this session; to be asked again in `onConnect`. Without a session, nothing happens. */
  subscribe(topic: string): void;
  unsubscribe(topic: string): void;
  /** Publishes the farewell if connected, then closes. */
  close(farewell?: { topic: string; payload: string }): Promise<void>;
}
