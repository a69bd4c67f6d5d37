/**
 * A machine in memory, for tests of decisions: what would be written, run, sent and said, and when.
 *
 * Keeps a clock that only `advance` moves, files by path, scripted programs, sockets by name, and a journal of
 * every effect in its order. `String(machine)` is the journal and the files, to be compared with a golden
 * text. Everything happens in order and repeatably; randomness comes from a seed.
 */

import { Fault } from "../../src/lib/fault.ts";
import type {
  Cancel,
  Content,
  DatagramHandlers,
  DatagramSocket,
  Endpoint,
  FileStatus,
  GatewaySocketOptions,
  Level,
  Listener,
  ListenOptions,
  Mqtt,
  MqttHandlers,
  MqttOptions,
  NetlinkOptions,
  PacketOptions,
  PacketQueue,
  RunOptions,
  RunResult,
  Stream,
  StreamHandlers,
  System,
  TcpListener,
  TcpListenOptions,
  TunOptions,
  UdpHandlers,
  UdpOptions,
  UdpSocket,
  UnixHandlers,
  UnixOptions,
  UnixSocket,
  WebHandler,
  WebOptions,
  WebReply,
  WebRequest,
  WebServer,
  WorkerHandlers,
  WorkerOptions,
  Writer,
} from "../../src/system/system.ts";
import { FakeInet } from "./inet.ts";
import { FakeWorker } from "./thread.ts";
import { FakeSocket, FakeSwitchboard } from "./wire.ts";

/** How the disk behaves: "full" and "read-only" refuse writes, "broken" reads too. */
export type DiskState = "fine" | "full" | "read-only" | "broken";

/** What a scripted program answers; left out: exit status 0 and no output. */
export type Answer = Partial<RunResult> | Fault;

interface Timer {
  atMs: number;
  readonly order: number;
  readonly periodMs: number | undefined;
  readonly call: () => void;
}

interface File {
  bytes: Uint8Array;
  mode: number;
  modifiedAt: number;
}

interface Script {
  readonly start: readonly string[];
  readonly answer: (argv: readonly string[], input: string) => Answer | Promise<Answer>;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class Machine implements System {
  disk: DiskState = "fine";
  /** Every effect in its order, as text. */
  readonly journal: string[] = [];
  /** Every command that was run. */
  readonly commands: { readonly argv: readonly string[]; readonly input: string }[] = [];
  /** Netlink and packet sockets in the order of their opening, closed ones too. */
  readonly sockets: FakeSocket[] = [];
  /** MQTT sessions in the order of their opening. */
  readonly sessions: FakeMqtt[] = [];
  /** Threads in the order of their start. */
  readonly workers: FakeWorker[] = [];
  readonly self = { pid: 4242, uid: 0, residentBytes: () => 32 * 1024 * 1024 };

  #nowMs = 1_000;
  #dateMs = Date.parse("2026-01-01T00:00:00Z");
  #order = 0;
  #random: number;
  readonly #timers = new Set<Timer>();
  readonly #files = new Map<string, File>();
  readonly #directories = new Set<string>(["/"]);
  readonly #watches = new Set<{ readonly path: string; readonly changed: () => void }>();
  readonly #scripts: Script[] = [];
  readonly #switchboard = new FakeSwitchboard(() => ({ pid: this.self.pid, uid: this.self.uid, gid: 0 }));
  readonly #inet = new FakeInet(this.#switchboard);
  readonly #webs = new Map<string, WebHandler>();

  constructor(options: { readonly seed?: number } = {}) {
    this.#random = (options.seed ?? 1) | 0 || 1;
  }

  // What a test does to the machine.

  /** Moves the clock, running every timer on the way at its instant, and lets promises settle in between. */
  async advance(ms: number): Promise<void> {
    await this.settle();
    const untilMs = this.#nowMs + ms;
    for (;;) {
      const next = this.#nextTimer(untilMs);
      if (next === undefined) break;
      this.#moveTo(Math.max(next.atMs, this.#nowMs));
      if (next.periodMs === undefined) this.#timers.delete(next);
      else next.atMs = this.#nowMs + next.periodMs;
      next.call();
      await this.settle();
    }
    this.#moveTo(untilMs);
    await this.settle();
  }

  /** Lets everything that waits for nothing but promises happen. */
  async settle(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Sets the wall clock, as NTP does. */
  setDate(date: number): void {
    this.#dateMs = date;
  }

  /** Puts a file on the disk, as another program would. */
  put(path: string, content: string | Uint8Array, mode = 0o644): void {
    this.#store(path, typeof content === "string" ? encoder.encode(content) : content.slice(), mode);
  }

  /** The text of a file, or undefined. */
  text(path: string): string | undefined {
    const file = this.#files.get(path);
    return file && decoder.decode(file.bytes);
  }

  /**
   * Says what a program answers: every command that begins with these words. The latest script that fits is
   * taken; a command without one is answered with status 0.
   */
  script(start: readonly string[], answer: Answer | Script["answer"]): void {
    this.#scripts.unshift({ start, answer: typeof answer === "function" ? answer : () => answer });
  }

  /** Connects as a client from outside. */
  dial(path: string, handlers: StreamHandlers): Stream {
    return this.#switchboard.connect(path, handlers);
  }

  /** The journal, then every file with its content. */
  toString(): string {
    const files = [...this.#files].sort(([left], [right]) => (left < right ? -1 : 1));
    return [
      ...this.journal,
      ...files.flatMap(([path, file]) => [
        `file ${path} ${file.mode.toString(8).padStart(4, "0")}`,
        ...indented(decoder.decode(file.bytes)),
      ]),
      "",
    ].join("\n");
  }

  // Clock.

  now(): number {
    return this.#nowMs;
  }

  date(): number {
    return this.#dateMs;
  }

  after(delayMs: number, call: () => void): Cancel {
    return this.#schedule({ atMs: this.#nowMs + Math.max(0, delayMs), periodMs: undefined, call });
  }

  every(periodMs: number, call: () => void): Cancel {
    if (!(periodMs >= 1)) throw new RangeError(`Cannot repeat: a period of ${periodMs} ms`);
    return this.#schedule({ atMs: this.#nowMs + periodMs, periodMs, call });
  }

  /** How many timers wait. */
  get timers(): number {
    return this.#timers.size;
  }

  // Disk.

  async read(path: string, maxBytes = 64 * 1024 * 1024): Promise<Uint8Array | undefined> {
    if (this.disk === "broken") throw new Fault("storage", `Cannot read ${path}: i/o error (EIO)`);
    const file = this.#files.get(path);
    if (file !== undefined && file.bytes.length > maxBytes) {
      throw new Fault("limit", `Cannot read ${path}: longer than ${maxBytes} bytes`);
    }
    return file?.bytes.slice();
  }

  async replace(
    path: string,
    content: Content,
    options: { mode?: number; keep?: string } = {},
  ): Promise<void> {
    const bytes = content instanceof Uint8Array ? content.slice() : await this.#gather(content);
    this.#mayWrite(`replace ${path}`);
    const old = this.#files.get(path);
    if (options.keep !== undefined && old !== undefined) this.#files.set(options.keep, { ...old });
    this.#note(`replace ${path} (${bytes.length} bytes)${options.keep ? ` keep ${options.keep}` : ""}`);
    this.#store(path, bytes, options.mode ?? 0o600);
  }

  async create(path: string, mode = 0o600): Promise<Writer> {
    this.#mayWrite(`create ${path}`);
    if ((await this.stat(path)) !== undefined) {
      throw new Fault("conflict", `Cannot create ${path}: file already exists (EEXIST)`);
    }
    this.#note(`create ${path}`);
    this.#store(path, new Uint8Array(0), mode);
    return {
      write: async (piece) => {
        const bytes = piece.slice();
        this.#mayWrite(`write ${path}`);
        const file = this.#files.get(path);
        // Whoever has it open may write to a file that was removed.
        if (file !== undefined) this.#store(path, Uint8Array.from([...file.bytes, ...bytes]), file.mode);
      },
      close: async () => this.#note(`close ${path}`),
    };
  }

  async *readPieces(path: string): AsyncGenerator<Uint8Array, void> {
    const bytes = await this.read(path);
    if (bytes === undefined) throw new Fault("not-found", `Cannot read ${path}: no such file (ENOENT)`);
    const pieceBytes = 64 * 1024;
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
  }

  async set(path: string, value: string): Promise<void> {
    this.#note(`set ${path} ${JSON.stringify(value)}`);
    this.#store(path, encoder.encode(value), 0o644);
  }

  async rename(from: string, to: string): Promise<void> {
    this.#mayWrite(`rename ${from} to ${to}`);
    const file = this.#files.get(from);
    if (file === undefined) throw new Fault("not-found", `Cannot rename ${from} to ${to}: no such file`);
    this.#note(`rename ${from} ${to}`);
    this.#files.delete(from);
    this.#files.set(to, file);
    this.#changed(from);
    this.#changed(to);
  }

  async remove(path: string): Promise<void> {
    this.#mayWrite(`remove ${path}`);
    if (!this.#files.delete(path)) return;
    this.#note(`remove ${path}`);
    this.#changed(path);
  }

  async list(path: string): Promise<string[]> {
    const start = path === "/" ? "/" : `${path}/`;
    const below = [...this.#files.keys(), ...this.#directories].filter((each) => each.startsWith(start));
    const names = below.map((each) => each.slice(start.length).split("/")[0]!);
    return [...new Set(names)].filter((name) => name !== "").sort();
  }

  async stat(path: string): Promise<FileStatus | undefined> {
    const file = this.#files.get(path);
    const isDirectory =
      file === undefined && (this.#directories.has(path) || (await this.list(path)).length > 0);
    if (file === undefined && !isDirectory) return undefined;
    return {
      uid: 0,
      gid: 0,
      mode: file?.mode ?? 0o755,
      sizeBytes: file?.bytes.length ?? 0,
      modifiedAt: file?.modifiedAt ?? 0,
      isDirectory,
    };
  }

  async makeDirectory(path: string): Promise<void> {
    if (this.#directories.has(path)) return;
    this.#mayWrite(`make directory ${path}`);
    this.#note(`mkdir ${path}`);
    this.#directories.add(path);
  }

  watch(path: string, changed: () => void): Cancel {
    const watch = { path, changed };
    this.#watches.add(watch);
    return () => this.#watches.delete(watch);
  }

  // Programs, log, randomness.

  async run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    const input = options.input ?? "";
    this.commands.push({ argv: [...argv], input });
    this.#note(`run ${argv.join(" ")}`, ...indented(input));
    const script = this.#scripts.find(({ start }) => start.every((word, index) => argv[index] === word));
    const answer = (await script?.answer(argv, input)) ?? {};
    if (answer instanceof Fault) throw answer;
    return { status: 0, stdout: "", stderr: "", pid: 10_000 + this.commands.length, ...answer };
  }

  log(level: Level, line: string): void {
    this.#note(`log ${level} ${line}`);
  }

  rawNow(): number {
    return this.now();
  }

  zoneOffsetMs(): number {
    return 0;
  }

  random(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => {
      this.#random ^= this.#random << 13;
      this.#random ^= this.#random >>> 17;
      this.#random ^= this.#random << 5;
      return this.#random & 255;
    });
  }

  // Sockets.

  connect(path: string, handlers: StreamHandlers): Stream {
    this.#note(`connect ${path}`);
    return this.#switchboard.connect(path, handlers);
  }

  async listen(path: string, options: ListenOptions): Promise<Listener> {
    const listener = this.#switchboard.listen(path, options);
    this.#note(`listen ${path} ${options.mode.toString(8).padStart(4, "0")}`);
    return listener;
  }

  netlink(options: NetlinkOptions, handlers: DatagramHandlers): DatagramSocket {
    return this.#open(`netlink ${options.protocol}`, options.groups ?? [], handlers);
  }

  packet(options: PacketOptions, handlers: DatagramHandlers): DatagramSocket {
    return this.#open(`packet ${options.ifindex}`, [options.protocol], handlers);
  }

  unix(options: UnixOptions, handlers: UnixHandlers): UnixSocket {
    const socket = this.#switchboard.unix(options, handlers);
    this.#note(
      `unix ${options.type} ${options.bind ?? ""}${options.connect ? ` to ${options.connect}` : ""}`,
    );
    return socket;
  }

  udp(options: UdpOptions, handlers: UdpHandlers): UdpSocket {
    this.#note(`udp ${options.address} ${options.port}`);
    return this.#inet.udp(options, handlers);
  }

  tcpListen(options: TcpListenOptions): Promise<TcpListener> {
    this.#note(`tcp listen ${options.address} ${options.port}`);
    return this.#inet.tcpListen(options);
  }

  tcpConnect(to: Endpoint, handlers: StreamHandlers): Stream {
    this.#note(`tcp connect ${to.address} ${to.port}`);
    return this.#inet.tcpConnect(to, handlers);
  }

  async serve(options: WebOptions, handler: WebHandler): Promise<WebServer> {
    const name = `${options.address} ${options.port}`;
    if (this.#webs.has(name))
      throw new Fault("conflict", `Cannot serve HTTP on ${name}: address already in use`);
    this.#webs.set(name, handler);
    return { port: options.port, close: async () => void this.#webs.delete(name) };
  }

  /** What whoever serves HTTP there replies. */
  async request(
    to: { readonly address: string; readonly port: number },
    request: WebRequest,
  ): Promise<WebReply> {
    const handler = this.#webs.get(`${to.address} ${to.port}`);
    if (!handler) throw new Fault("closed", "Cannot request: nobody listens there");
    return handler(request);
  }

  queue(options: TunOptions | GatewaySocketOptions): PacketQueue {
    const tun = options.kind === "tun";
    const what = tun ? `tun ${options.name}` : `gateway socket ${options.address} ${options.port}`;
    this.#note(`open ${what}`);
    return {
      name: tun ? options.name.replace("%d", "0") : "",
      port: tun ? 0 : options.port,
      joinsUdp: tun,
      descriptor: 100 + this.#order++,
      close: () => this.#note(`close ${what}`),
    };
  }

  worker(options: WorkerOptions, handlers: WorkerHandlers): FakeWorker {
    const worker = new FakeWorker(options, handlers, (text) => this.#note(text));
    this.workers.push(worker);
    return worker;
  }

  mqtt(options: MqttOptions, handlers: MqttHandlers): Mqtt {
    const session = new FakeMqtt(options, handlers, (text) => this.#note(text));
    this.sessions.push(session);
    return session;
  }

  // Inside.

  /** Other things go on between the pieces, as they do with a real disk. */
  async #gather(pieces: Iterable<Uint8Array>): Promise<Uint8Array> {
    const bytes: number[] = [];
    for (const piece of pieces) {
      for (const byte of piece) bytes.push(byte);
      await Promise.resolve();
    }
    return Uint8Array.from(bytes);
  }

  #open(name: string, numbers: readonly number[], handlers: DatagramHandlers): FakeSocket {
    this.#note(`open ${[name, ...numbers].join(" ")}`);
    const port = name.startsWith("netlink") ? this.self.pid + this.sockets.length : 0;
    const socket = new FakeSocket({ name, port, note: (text) => this.#note(text) }, handlers);
    this.sockets.push(socket);
    return socket;
  }

  #note(text: string, ...more: string[]): void {
    this.journal.push(`${this.#nowMs} ${text}`, ...more);
  }

  #moveTo(ms: number): void {
    this.#dateMs += ms - this.#nowMs;
    this.#nowMs = ms;
  }

  #schedule(timer: Omit<Timer, "order">): Cancel {
    const entry: Timer = { ...timer, order: this.#order++ };
    this.#timers.add(entry);
    return () => this.#timers.delete(entry);
  }

  #nextTimer(untilMs: number): Timer | undefined {
    let next: Timer | undefined;
    for (const timer of this.#timers) {
      if (timer.atMs > untilMs) continue;
      if (
        next === undefined ||
        timer.atMs < next.atMs ||
        (timer.atMs === next.atMs && timer.order < next.order)
      ) {
        next = timer;
      }
    }
    return next;
  }

  #mayWrite(verb: string): void {
    if (this.disk === "fine") return;
    const reasons = {
      full: "no space left on device (ENOSPC)",
      "read-only": "read-only file system (EROFS)",
      broken: "i/o error (EIO)",
    };
    throw new Fault("storage", `Cannot ${verb}: ${reasons[this.disk]}`);
  }

  #store(path: string, bytes: Uint8Array, mode: number): void {
    this.#files.set(path, { bytes, mode, modifiedAt: this.#dateMs });
    this.#changed(path);
  }

  #changed(path: string): void {
    for (const watch of this.#watches) {
      if (path !== watch.path && !path.startsWith(`${watch.path}/`)) continue;
      queueMicrotask(() => this.#watches.has(watch) && watch.changed());
    }
  }
}

/** A broker session; the test says when it stands. */
export class FakeMqtt implements Mqtt {
  readonly options: MqttOptions;
  /** What is subscribed now. */
  readonly subscriptions: string[] = [];
  /** Retained messages by topic, as a broker would hold them. */
  readonly retained = new Map<string, string>();
  /** All that was published while connected. */
  readonly published: { readonly topic: string; readonly payload: string; readonly retain: boolean }[] = [];
  queuedBytes = 0;
  maxMessageBytes: number;
  closed = false;
  #connected = false;
  readonly #handlers: MqttHandlers;
  readonly #note: (text: string) => void;

  constructor(options: MqttOptions, handlers: MqttHandlers, note: (text: string) => void) {
    this.options = options;
    this.maxMessageBytes = options.maxQueuedBytes;
    this.#handlers = handlers;
    this.#note = note;
    note(`mqtt open ${options.host}:${options.port} ${options.clientId}`);
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** The broker accepts. */
  accept(): void {
    this.#connected = true;
    this.#handlers.onConnect();
  }

  /** The broker goes away. */
  lose(reason: string): void {
    this.#connected = false;
    this.subscriptions.length = 0;
    this.#handlers.onDisconnect(reason);
  }

  /** The broker delivers. */
  deliver(topic: string, payload: string, retained = false): void {
    this.#handlers.onMessage(topic, encoder.encode(payload), retained);
  }

  publish(topic: string, payload: string, options: { retain?: boolean } = {}): boolean {
    if (!this.#connected || this.queuedBytes + payload.length > this.options.maxQueuedBytes) return false;
    const retain = options.retain ?? false;
    this.published.push({ topic, payload, retain });
    if (retain && payload === "") this.retained.delete(topic);
    else if (retain) this.retained.set(topic, payload);
    this.#note(`mqtt publish ${topic}${retain ? " retained" : ""} ${payload}`);
    return true;
  }

  subscribe(topic: string): void {
    if (!this.#connected) return;
    this.subscriptions.push(topic);
    this.#note(`mqtt subscribe ${topic}`);
  }

  unsubscribe(topic: string): void {
    const at = this.subscriptions.indexOf(topic);
    if (at < 0) return;
    this.subscriptions.splice(at, 1);
    this.#note(`mqtt unsubscribe ${topic}`);
  }

  async close(farewell?: { topic: string; payload: string }): Promise<void> {
    if (this.closed) return;
    if (farewell !== undefined) this.publish(farewell.topic, farewell.payload, { retain: true });
    this.closed = true;
    this.#connected = false;
    this.#note("mqtt close");
  }
}

function indented(text: string): string[] {
  if (text === "") return [];
  return text
    .replace(/\n$/, "")
    .split("\n")
    .map((line) => `    ${line}`);
}
