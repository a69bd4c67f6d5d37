/**
 * Threads that move packets: how the agent starts one, speaks with it and ends it; and what runs in it.
 *
 * Queues (a TUN, a UDP socket) are opened by the owner, whose descriptors stay, and adopted by the thread: one that
 * dies takes neither interface nor port with it, and the next one finds the packets that came meanwhile. A thread
 * blocks in `wait` on its queues and on an eventfd that the owner writes to: messages go through Node's ports, which
 * need no event loop on the thread's side, and the eventfd only says that there are some. Kept per thread: its event,
 * and two numbers that both sides see.
 */

import { parentPort, receiveMessageOnPort, Worker, workerData } from "node:worker_threads";
import { familyOf } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import {
  AF,
  decodeInet,
  errnoOf,
  inetAddress,
  kernelFault,
  loadNetio,
  type Netio,
  nameLength,
  Offload,
  SOCK,
  Tun,
} from "./native.ts";
import { Ready, Trouble, type WorkerMachine } from "./packets.ts";
import type {
  GatewaySocketOptions,
  PacketQueue,
  TunOptions,
  WorkerHandlers,
  WorkerOptions,
  WorkerThread,
} from "./system.ts";

/** A program of a thread: runs until the machine says `ending`. */
export type WorkerProgram = (machine: WorkerMachine) => void;

/** What a thread is started with. */
interface Start {
  readonly program: string;
  readonly data: unknown;
  readonly nativePath: string;
  readonly descriptors: readonly number[];
  /** Of the eventfd. */
  readonly wake: number;
  readonly shared: SharedArrayBuffer;
}

/** Places in the shared numbers. */
const Shared = { messages: 0, ending: 1, count: 2 } as const;

const mips = process.arch.startsWith("mips");
const solSocket = mips ? 0xffff : 1;
/** setsockopt(2): level, name; SO_…BUFFORCE and SO_…BUF, IP_MTU_DISCOVER, IP_RECVERR, UDP_GRO. */
const option = {
  receiveBufferForce: [solSocket, 33],
  sendBufferForce: [solSocket, 32],
  receiveBuffer: [solSocket, mips ? 0x1002 : 8],
  sendBuffer: [solSocket, mips ? 0x1001 : 7],
  discover4: [0, 10],
  discover6: [41, 23],
  errors4: [0, 11],
  errors6: [41, 25],
  only6: [41, 26],
  join: [17, 104],
} as const;
/** IP_PMTUDISC_PROBE: don't fragment, and don't believe in what the kernel has heard of the path. */
const probe = 3;
const defaultBufferBytes = 4 * 1024 * 1024;

/** Small, because a thread makes no garbage; past it, it dies and is started again. */
const resourceLimits = { maxOldGenerationSizeMb: 48, maxYoungGenerationSizeMb: 2 } as const;
const closeMs = 1_000;
/** A thread looks up at least so often, in case nobody could wake it. */
const longestWaitMs = 10_000;

/** @throws Fault "conflict", "denied", "unsupported" or "kernel". */
export function openQueue(netio: Netio, options: TunOptions | GatewaySocketOptions): PacketQueue {
  return options.kind === "tun" ? openTun(netio, options) : openGatewaySocket(netio, options);
}

function openTun(netio: Netio, { name, offload = true }: TunOptions): PacketQueue {
  const bytes = new TextEncoder().encode(name);
  if (bytes.length === 0 || bytes.length > 15) {
    throw new Fault("invalid", `Cannot open TUN ${name}: the name takes 1 to 15 bytes`);
  }
  const basic = Offload.checksum | Offload.tso4 | Offload.tso6 | Offload.ecn;
  // Kernels before 6.2 don't know the last two.
  const wanted = offload ? [basic | Offload.uso4 | Offload.uso6, basic, 0] : [0];
  let answer = 0;
  for (const offloads of wanted) {
    const given = new Uint8Array(16);
    given.set(bytes);
    answer = netio.tun(given, Tun.vnetHeader, offloads);
    if (answer >= 0) {
      const joinsUdp = (offloads & Offload.uso4) !== 0;
      return queueOf(netio, answer, { name: textOf(given), port: 0, joinsUdp });
    }
    if (answer !== -errnoOf("EINVAL")) break;
  }
  throw kernelFault(answer, `open TUN ${name}`);
}

function openGatewaySocket(netio: Netio, options: GatewaySocketOptions): PacketQueue {
  const { address, port, bufferBytes = defaultBufferBytes } = options;
  const six = familyOf(address) === 6;
  const verb = `open UDP socket on ${address} port ${port}`;
  const handle = must(netio.open(six ? AF.inet6 : AF.inet, SOCK.datagram, 0), verb);
  const set = ([level, name]: readonly [number, number], value: number) =>
    netio.option(handle, level, name, value);
  try {
    if (six) must(set(option.only6, 1), verb);
    must(set(six ? option.discover6 : option.discover4, probe), verb);
    must(set(six ? option.errors6 : option.errors4, 1), verb);
    // Joined messages come from Linux 5.0 on; without, each packet is a message.
    set(option.join, 1);
    if (set(option.receiveBufferForce, bufferBytes) < 0) set(option.receiveBuffer, bufferBytes);
    if (set(option.sendBufferForce, bufferBytes) < 0) set(option.sendBuffer, bufferBytes);
    must(netio.bind(handle, inetAddress(address, port)), verb);
    const own = new Uint8Array(nameLength);
    const bound = decodeInet(own.subarray(0, must(netio.address(handle, own), verb)));
    return queueOf(netio, handle, { name: "", port: bound?.port ?? port, joinsUdp: false });
  } catch (thrown) {
    netio.close(handle);
    throw thrown;
  }
}

function must(answer: number, verb: string): number {
  if (answer < 0) throw kernelFault(answer, verb);
  return answer;
}

function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

function queueOf(
  netio: Netio,
  handle: number,
  about: Pick<PacketQueue, "name" | "port" | "joinsUdp">,
): PacketQueue {
  let open = true;
  return {
    ...about,
    get descriptor() {
      if (!open) throw new TypeError("Cannot use queue: it is closed");
      return netio.descriptor(handle);
    },
    close() {
      if (open) netio.close(handle);
      open = false;
    },
  };
}

/** @param file the bundle that calls `runWorker` when it finds itself in a thread. */
export function startWorker(
  at: { readonly netio: Netio; readonly nativePath: string; readonly file: string },
  options: WorkerOptions,
  handlers: WorkerHandlers,
): WorkerThread {
  const { netio } = at;
  const verb = `run ${options.program} in a thread`;
  const event = must(netio.event(), verb);
  const shared = new SharedArrayBuffer(Shared.count * 4);
  const numbers = new Int32Array(shared);
  const start: Start = {
    program: options.program,
    data: options.data,
    nativePath: at.nativePath,
    descriptors: options.queues.map((each) => each.descriptor),
    wake: netio.descriptor(event),
    shared,
  };
  let closing = false;
  let worker: Worker;
  try {
    worker = new Worker(at.file, { workerData: start, resourceLimits, argv: [], execArgv: [] });
  } catch (cause) {
    netio.close(event);
    throw new Fault("unsupported", `Cannot ${verb}: ${messageOf(cause)}`, { cause });
  }
  const one = new BigUint64Array([1n]);
  const row = Int32Array.of(0, 8, 0, 0, 0, 0, 0, 0);
  // A counter that is full is a wake that nobody has taken yet.
  const wake = () => void netio.send(event, new Uint8Array(one.buffer), new Uint8Array(0), row, 1);
  const endIt = () => {
    Atomics.store(numbers, Shared.ending, 1);
    wake();
  };
  // A process that exits waits for its threads: one that blocks must hear of it.
  process.on("exit", endIt);
  let fault: Fault | undefined;
  const ended = new Promise<void>((resolve) => {
    worker.on("message", (message) => {
      if (!closing) handlers.onMessage(message);
    });
    worker.on("error", (cause) => {
      fault ??= new Fault("closed", `Cannot ${verb}: ${messageOf(cause)}`, { cause });
    });
    worker.on("exit", () => {
      process.off("exit", endIt);
      netio.close(event);
      handlers.onEnd(
        closing ? undefined : (fault ?? new Fault("closed", `Cannot ${verb}: it ended by itself`)),
      );
      resolve();
    });
  });
  let isOver = false;
  void ended.then(() => {
    isOver = true;
  });
  return {
    post(message) {
      if (closing || isOver) return;
      worker.postMessage(message);
      if (Atomics.exchange(numbers, Shared.messages, 1) === 0) wake();
    },
    async close() {
      if (isOver) return;
      closing = true;
      endIt();
      const timer = setTimeout(() => void worker.terminate(), closeMs);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** In a thread: runs the program it was started for. */
export function runWorker(programs: Readonly<Record<string, WorkerProgram>>): void {
  const start = workerData as Start;
  const program = Object.hasOwn(programs, start.program) ? programs[start.program] : undefined;
  if (program === undefined) throw new TypeError(`Cannot run ${start.program}: no such program`);
  program(machineOf(start));
}

const troubles = new Map<number, number>(
  (
    [
      [Trouble.again, ["EAGAIN", "ENOBUFS", "ENOMEM", "EINTR"]],
      [
        Trouble.unreachable,
        ["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENOPROTOOPT", "EPROTO"],
      ],
      [Trouble.tooLong, ["EMSGSIZE"]],
      [Trouble.denied, ["EPERM", "EACCES"]],
      [Trouble.down, ["EBADFD", "ENETDOWN", "ENODEV", "ENXIO", "EIO"]],
    ] as const
  ).flatMap(([trouble, names]) =>
    names.flatMap((name) => numberOf(name).map((each) => [each, trouble] as const)),
  ),
);

function numberOf(name: string): number[] {
  // Node's list lacks some; the numbers are those of all CPUs but MIPS.
  const others: Readonly<Record<string, number>> = mips ? { EBADFD: 81 } : { EBADFD: 77 };
  try {
    return [errnoOf(name)];
  } catch {
    return name in others ? [others[name]!] : [];
  }
}

const kindOf = (answer: number): number => (answer >= 0 ? answer : (troubles.get(-answer) ?? Trouble.other));

function machineOf(start: Start): WorkerMachine {
  const netio = loadNetio(start.nativePath);
  const adopt = (fd: number) => must(netio.adopt(fd), "take over a queue");
  const queues = start.descriptors.map(adopt);
  const wake = adopt(start.wake);
  const numbers = new Int32Array(start.shared);
  const counter = new Uint8Array(8);
  const counterRow = new Int32Array(8);
  const none = new Uint8Array(0);
  return {
    queues: queues.length,
    data: start.data,
    now: () => threadStartMs + performance.now(),
    receive: (queue, arena, stride, names, rows) =>
      kindOf(netio.receive(queues[queue]!, arena, stride, names, rows)),
    send: (queue, arena, names, rows, count) => kindOf(netio.send(queues[queue]!, arena, names, rows, count)),
    errors: (queue, arena, stride, names, rows) =>
      kindOf(netio.errors(queues[queue]!, arena, stride, names, rows)),
    wait(rows, timeoutMs) {
      for (let index = 0; index < queues.length; index++) rows[index * 3] = queues[index]!;
      const last = queues.length * 3;
      rows[last] = wake;
      rows[last + 1] = Ready.in;
      const answer = netio.wait(rows, timeoutMs < 0 ? longestWaitMs : Math.min(timeoutMs, longestWaitMs));
      if (answer > 0 && rows[last + 2] !== 0) netio.receive(wake, counter, 8, none, counterRow);
      return kindOf(answer);
    },
    checksum: (bytes, offset, length, seed) => netio.checksum(bytes, offset, length, seed),
    split: (source, target, frame, row) => netio.split(source, target, frame, row),
    join: (source, target, frame, row) => netio.join(source, target, frame, row),
    post: (message) => parentPort!.postMessage(message),
    take() {
      if (Atomics.load(numbers, Shared.messages) === 0) return undefined;
      const got = receiveMessageOnPort(parentPort!);
      if (got !== undefined) return got.message as unknown;
      // What is posted after this is announced again; what was posted before is looked for once more.
      Atomics.store(numbers, Shared.messages, 0);
      return receiveMessageOnPort(parentPort!)?.message as unknown;
    },
    get ending() {
      return Atomics.load(numbers, Shared.ending) !== 0;
    },
  };
}

/** performance.now() counts from the start of the thread, the owner's clock from that of the machine. */
const threadStartMs = (() => {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6 - performance.now();
})();
