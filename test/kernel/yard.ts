/**
 * Small networks around the namespace that a test runs in, and ways to wait for what happens on them.
 *
 * The test's own namespace is the router; `hosts` are others, each at the end of a veth pair.
 */

import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type AttributeList, concat, encodeAttributes, host, network } from "../../src/kernel/attribute.ts";
import { eachMessage, encodeMessage, type Message } from "../../src/kernel/netlink.ts";
import { Fault } from "../../src/lib/fault.ts";
import { openLinux } from "../../src/system/linux.ts";
import type { DatagramHandlers, DatagramSocket, NetlinkOptions, System } from "../../src/system/system.ts";

/** The real machine. */
export function openSystem(): System {
  return openLinux({ nativePath: join(process.cwd(), "dist/netio.node") });
}

/** Runs a command line (words split at spaces) and waits for it; its standard output. */
export function sh(line: string, input?: string): string {
  const [program, ...words] = line.split(" ");
  return execFileSync(program!, words, {
    encoding: "utf8",
    stdio: ["pipe", "pipe", "pipe"],
    ...(input === undefined ? {} : { input }),
  });
}

/** Runs a shell script on a host. */
export function script(name: string, lines: string): void {
  execFileSync("ip", ["netns", "exec", name, "bash", "-c", lines], { stdio: ["ignore", "ignore", "pipe"] });
}

export function nft(rules: string): void {
  sh("nft -f -", rules);
}

export interface Background {
  readonly ended: Promise<void>;
  write(text: string): void;
  /** Ends its input. */
  end(): void;
  kill(): void;
}

const running = new Set<Background>();

/** Starts a command that goes on beside the test. */
export function start(line: string): Background {
  const [program, ...words] = line.split(" ");
  const child = spawn(program!, words, { stdio: ["pipe", "ignore", "ignore"] });
  child.stdin.on("error", () => undefined);
  const background: Background = {
    ended: new Promise((resolve) => {
      child.on("error", () => resolve());
      child.on("exit", () => {
        running.delete(background);
        resolve();
      });
    }),
    write: (text) => void child.stdin.write(text),
    end: () => void child.stdin.end(),
    kill: () => void child.kill("SIGKILL"),
  };
  running.add(background);
  return background;
}

/** Ends all that `start` started. */
export async function stopAll(): Promise<void> {
  const all = [...running];
  for (const each of all) each.kill();
  await Promise.all(all.map((each) => each.ended));
}

/** Waits until `probe` answers something true, and returns that. */
export async function until<Value>(
  what: string,
  probe: () => Value,
  deadlineMs = 60_000,
): Promise<Exclude<Value, false | 0 | "" | null | undefined>> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = probe();
    if (value) return value as Exclude<Value, false | 0 | "" | null | undefined>;
    if (performance.now() > end) throw new Error(`Waited in vain: ${what}`);
    await pause(10);
  }
}

/** Lets the event loop run for a moment. */
export function pause(delayMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}

export interface HostOptions {
  readonly name: string;
  /** Name of the router's end of the pair. */
  readonly device: string;
  /** The third number of 10.9.N.0/24 and the last group of fd09:N::/64; the router is 1, the host 2. */
  readonly net: number;
}

/** Makes a namespace at the end of a veth pair, with IPv4 and IPv6 and the router as gateway. */
export function addHost({ name, device, net }: HostOptions): void {
  sh(`ip netns add ${name}`);
  sh(`ip link add ${device} type veth peer name eth0 netns ${name}`);
  sh(
    "ip -batch -",
    `addr add 10.9.${net}.1/24 dev ${device}\naddr add fd09:${net}::1/64 dev ${device} nodad\nlink set ${device} up\n`,
  );
  sh(
    `ip -n ${name} -batch -`,
    [
      "link set lo up",
      `addr add 10.9.${net}.2/24 dev eth0`,
      `addr add fd09:${net}::2/64 dev eth0 nodad`,
      "link set eth0 up",
      `route add default via 10.9.${net}.1`,
      `route add ::/0 via fd09:${net}::1`,
    ].join("\n"),
  );
}

/** Lets the router forward. */
export function forward(): void {
  sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

/** Payloads as a little-endian machine's kernel sent them, and what they say. */
export interface Recorded {
  readonly kind: string;
  readonly type: number;
  readonly hex: string;
  readonly expected: unknown;
  readonly counted?: boolean;
  readonly counters?: readonly number[];
}

/** The recordings mean nothing to a machine of the other byte order. */
export const recordedElsewhere = host.read16(Uint8Array.of(1, 0), 0) !== 1;

export function recorded(): readonly Recorded[] {
  if (recordedElsewhere) return [];
  return JSON.parse(
    readFileSync(join(process.cwd(), "test/kernel/fixtures/recorded.json"), "utf8"),
  ) as Recorded[];
}

/** A message as `Netlink` hands it out, around a payload. */
export function messageOf(type: number, payload: Uint8Array) {
  const around = { type, flags: 0, sequence: 0, port: 0 };
  return { ...around, bytes: payload, start: 0, end: payload.length };
}

export interface MadeUpMachine {
  readonly sent: Message[];
  readonly sockets: number[];
  /** To the socket opened last. */
  answer(messages: readonly Uint8Array[]): void;
  /** To the socket in multicast groups that was opened last; the next two too, or else to the last of all. */
  event(messages: readonly Uint8Array[]): void;
  overrun(): void;
  fail(fault: Fault): void;
  advance(ms: number): void;
}

const port = 77;

/** A kernel that says what the test wants, with a clock that the test moves. */
export function madeUpMachine() {
  let now = 0;
  let handlers: DatagramHandlers | undefined;
  let subscribed: DatagramHandlers | undefined;
  const timers = new Set<{ at: number; call: () => void }>();
  const fake: MadeUpMachine = {
    sent: [],
    sockets: [],
    answer: (messages) => handlers!.onMessage(Buffer.concat(messages)),
    event: (messages) => subscribed!.onMessage(Buffer.concat(messages)),
    overrun: () => (subscribed ?? handlers)!.onOverrun(),
    fail: (fault) => (subscribed ?? handlers)!.onClose(fault),
    advance(ms) {
      now += ms;
      for (const timer of [...timers].sort((a, b) => a.at - b.at)) {
        if (timer.at <= now && timers.delete(timer)) timer.call();
      }
    },
  };
  const system = {
    now: () => now,
    after(delayMs: number, call: () => void) {
      const timer = { at: now + delayMs, call };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    netlink(options: NetlinkOptions, given: DatagramHandlers): DatagramSocket {
      handlers = given;
      if (options.groups?.length) subscribed = given;
      fake.sockets.push(fake.sockets.length);
      return {
        port,
        send: (bytes) => void eachMessage(bytes, (message) => fake.sent.push({ ...message })),
        close: () => undefined,
      };
    },
  };
  return { fake, system };
}

/** A message to us: the header's port is set, which encodeMessage leaves 0. */
export function toUs(
  type: number,
  sequence: number,
  options: { payload?: Uint8Array; flags?: number; to?: number } = {},
) {
  const { payload = new Uint8Array(0), flags = 0, to = port } = options;
  const bytes = encodeMessage({ type, flags, sequence, payload });
  bytes.set(host.bytes32(to), 12);
  return bytes;
}

/** The Fault that a promise fails with. */
export async function faultOf(promise: Promise<unknown>): Promise<Fault> {
  try {
    await promise;
  } catch (thrown) {
    if (thrown instanceof Fault) return thrown;
    throw thrown;
  }
  throw new Error("nothing was thrown");
}

const bytes = (...values: number[]) => Uint8Array.from(values);
const long = (value: bigint) =>
  concat([network.bytes32(Number(value >> 32n)), network.bytes32(Number(value & 0xffffffffn))]);

export interface MadeUpConnection {
  id?: number;
  sourcePort?: number;
  /** IPS_… bits. */
  status?: number;
  counters?: readonly [packetsOut: bigint, bytesOut: bigint, packetsIn: bigint, bytesIn: bigint];
}

/** A UDP connection 10.0.0.1:port → 10.0.0.2:53. */
export function connectionPayload(connection: MadeUpConnection): Uint8Array {
  const { id = 7, sourcePort = 1_000, status = 0x18a, counters } = connection;
  const tuple = (from: number, to: number, ports: [number, number]): AttributeList => [
    [
      1,
      [
        [1, bytes(10, 0, 0, from)],
        [2, bytes(10, 0, 0, to)],
      ],
    ],
    [
      2,
      [
        [1, bytes(17)],
        [2, network.bytes16(ports[0])],
        [3, network.bytes16(ports[1])],
      ],
    ],
  ];
  const list: AttributeList = [
    [1, tuple(1, 2, [sourcePort, 53])],
    [2, tuple(2, 1, [53, sourcePort])],
    [3, network.bytes32(status)],
    ...(counters
      ? ([
          [
            9,
            [
              [1, long(counters[0])],
              [2, long(counters[1])],
            ],
          ],
          [
            10,
            [
              [1, long(counters[2])],
              [2, long(counters[3])],
            ],
          ],
        ] as AttributeList)
      : []),
    [12, network.bytes32(id)],
  ];
  return concat([bytes(2, 0, 0, 0), encodeAttributes(list)]);
}
