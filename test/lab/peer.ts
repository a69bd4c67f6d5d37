/**
 * The program at both ends of the lab's traffic.
 *
 *     peer serve ADDRESS…                             every service below on every address
 *     peer tcp HOST ID [BYTES_PER_SECOND|max]         an endless download, a trickle upwards
 *     peer udp HOST ID [PACKETS_PER_SECOND]           numbered datagrams both ways
 *     peer traffic KIND:FAMILY:NAME…                  a little of everything for ever: dns, tcp, udp, ping
 *
 * HOST is an address (for tcp also a name). ID is a word of the caller's by which both ends count the same stream. Clients
 * print a report ten times a second, one JSON object a line (`Report`), the server what it heard of each
 * stream that it heard anything of (`Heard`) and then that it has told everything (`Told`). A stream that is cut stays
 * open and reports silence: it never gives up by itself.
 *
 * Services: TCP 80 speaks enough HTTP for curl: `/stream?rate=N&id=WORD` never ends, anything else answers a
 * short page. UDP 7 and 123 echo. UDP 5004 streams. Wire of the datagram stream, in text:
 *
 *     client → server   up ID RATE NUMBER SENT
 *     server → client   down ID NUMBER SENT
 *
 * SENT is when it was sent, by the clock that all hosts share: who asks whether a datagram passed while it must not have
 * does not depend on when it was read or told.
 *
 * The server goes on sending for ten minutes after it last heard the client, so that each direction can be seen
 * to be cut on its own. It keeps at most 1,000 streams, by ID.
 */

import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { resolve4, resolve6 } from "node:dns";
import { connect, createServer, isIPv6, type Socket } from "node:net";
import { clockMs, reportMs } from "./time.ts";

/** When a datagram was sent, and when the other end read it. */
export type Arrival = readonly [sentAt: number, readAt: number];

/** What of the numbered datagrams of one direction did not come. */
export interface Gaps {
  /** Numbers missed below the highest one seen; late ones are taken off again. */
  readonly lost: number;
  /** The longest run of numbers missed, one after the other, once the first had come. */
  readonly longestRun: number;
}

/** What a client has received since it began. */
export interface Report extends Gaps {
  /** When this was written. */
  readonly at: number;
  /** TCP: bytes. UDP: datagrams. */
  readonly received: number;
  /** UDP: those read since the last report. */
  readonly arrivals: readonly Arrival[];
  /** Set in the last report of a stream that the network or the peer ended. */
  readonly ended?: string;
}

/** What the server has received of a stream; TCP in bytes, UDP in datagrams. */
export interface Heard extends Gaps {
  readonly id: string;
  readonly heard: number;
  /** UDP: those read since it was last told. */
  readonly arrivals: readonly Arrival[];
}

/** The server has told everything that it had read by then. */
export interface Told {
  readonly at: number;
}

const webPort = 80;
const echoPorts = [7, 123];
const streamPort = 5004;
const paceMs = 20;
const keepMs = 600_000;
const maxStreams = 1000;
const chunk = Buffer.alloc(16 * 1024, "gatehouse lab ");

const say = (value: Report | Heard | Told) => process.stdout.write(`${JSON.stringify(value)}\n`);

/** How many units are due now, of so many a second; never more than a quarter of a second's at once. */
function pacer(perSecond: number): () => number {
  let last = performance.now();
  let owed = 0;
  return () => {
    const now = performance.now();
    owed = Math.min(owed + ((now - last) * perSecond) / 1000, Math.max(1, perSecond / 4));
    last = now;
    const due = Math.floor(owed);
    owed -= due;
    return due;
  };
}

/** Books the numbered datagrams of one direction. */
class Numbers {
  lost = 0;
  longestRun = 0;
  #highest = -1;
  #arrivals: Arrival[] = [];

  take(number: number, sentAt: number): void {
    this.#arrivals.push([sentAt, clockMs()]);
    if (number <= this.#highest) {
      this.lost -= 1;
      return;
    }
    const missed = number - this.#highest - 1;
    this.lost += missed;
    if (this.#highest >= 0) this.longestRun = Math.max(this.longestRun, missed);
    this.#highest = number;
  }

  /** What there is to tell; arrivals are told once. */
  tell(): Gaps & { arrivals: readonly Arrival[] } {
    const { lost, longestRun } = this;
    return { lost, longestRun, arrivals: this.#arrivals.splice(0) };
  }
}

// ── server ──────────────────────────────────────────────────────────────────────────────────────────────

interface Stream {
  heard: number;
  told: number;
  heardAt: number;
  readonly numbers: Numbers;
  /** UDP only: sends what is due. */
  push?: () => void;
}

const streams = new Map<string, Stream>();

function streamOf(id: string): Stream | undefined {
  let stream = streams.get(id);
  if (stream === undefined) {
    if (streams.size >= maxStreams) return undefined;
    stream = { heard: 0, told: 0, heardAt: 0, numbers: new Numbers() };
    streams.set(id, stream);
  }
  stream.heardAt = performance.now();
  return stream;
}

function sendEndlessly(socket: Socket, rate: number): void {
  const due = pacer(rate);
  const timer = setInterval(() => {
    // A peer that does not take it is not owed more than a moment's worth.
    if (socket.writableLength > 4 * chunk.length) return;
    for (let left = due(); left > 0; left -= chunk.length) socket.write(chunk.subarray(0, left));
  }, paceMs);
  socket.on("close", () => clearInterval(timer));
}

function sendAllItTakes(socket: Socket): void {
  const fill = () => {
    while (socket.write(chunk));
  };
  socket.on("drain", fill);
  fill();
}

function serveWeb(address: string): Promise<void> {
  const server = createServer((socket) => {
    let head = "";
    let stream: Stream | undefined;
    socket.on("error", () => {});
    socket.setTimeout(keepMs, () => socket.destroy());
    socket.on("data", (bytes) => {
      if (stream !== undefined) {
        stream.heard += bytes.length;
        stream.heardAt = performance.now();
        return;
      }
      head += bytes.toString("latin1");
      if (head.length > 4096) return void socket.destroy();
      if (!head.includes("\r\n\r\n")) return;
      const target = /^GET (\S+) /.exec(head)?.[1] ?? "/";
      const query = new URLSearchParams(target.split("?")[1] ?? "");
      if (!target.startsWith("/stream")) {
        const body = "A page of the gatehouse lab.\n";
        socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`);
        return;
      }
      stream = streamOf(query.get("id") ?? "anonymous");
      if (stream === undefined) return void socket.destroy();
      socket.write("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n");
      const rate = Number(query.get("rate") ?? 100_000);
      if (Number.isFinite(rate) && rate > 0) sendEndlessly(socket, rate);
      else sendAllItTakes(socket);
    });
  });
  return new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen({ port: webPort, host: address, ipv6Only: isIPv6(address) }, resolve);
  });
}

function serveDatagrams(address: string, port: number): Promise<void> {
  // One socket per address: an answer must come from where the question went.
  const socket = createSocket({ type: isIPv6(address) ? "udp6" : "udp4", ipv6Only: isIPv6(address) });
  socket.on("message", (message, from) => {
    if (echoPorts.includes(port)) return socket.send(message, from.port, from.address);
    const [word, id = "", rate = "", number, sent] = message.toString("latin1", 0, 100).split(" ");
    if (word !== "up" || sent === undefined) return;
    const stream = streamOf(id);
    if (stream === undefined) return;
    stream.heard += 1;
    stream.numbers.take(Number(number), Number(sent));
    if (stream.push !== undefined) return;
    const due = pacer(Math.min(Math.max(Number(rate) || 1, 1), 5000));
    let next = 0;
    stream.push = () => {
      for (let left = due(); left > 0; left--) {
        socket.send(`down ${id} ${next++} ${clockMs()}`, from.port, from.address, () => {});
      }
    };
  });
  return new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.bind(port, address, resolve);
  });
}

async function serve(addresses: readonly string[]): Promise<void> {
  await Promise.all(
    addresses.flatMap((address) => [
      serveWeb(address),
      ...[...echoPorts, streamPort].map((port) => serveDatagrams(address, port)),
    ]),
  );
  setInterval(() => {
    for (const stream of streams.values()) stream.push?.();
  }, paceMs);
  setInterval(() => {
    const now = performance.now();
    for (const [id, stream] of streams) {
      if (stream.heard !== stream.told) say({ id, heard: stream.heard, ...stream.numbers.tell() });
      stream.told = stream.heard;
      if (now - stream.heardAt > keepMs) streams.delete(id);
    }
    if (streams.size > 0) say({ at: clockMs() });
  }, reportMs);
  process.stdout.write("serving\n");
}

// ── clients ─────────────────────────────────────────────────────────────────────────────────────────────

/** Counts receptions and reports them. */
class Reporter {
  readonly numbers = new Numbers();
  #received = 0;
  #ended: string | undefined;

  constructor() {
    const timer = setInterval(() => {
      const ended = this.#ended === undefined ? {} : { ended: this.#ended };
      say({ at: clockMs(), received: this.#received, ...this.numbers.tell(), ...ended });
      if (this.#ended !== undefined) clearInterval(timer);
    }, reportMs);
  }

  receive(amount: number): void {
    this.#received += amount;
  }

  end(why: string): void {
    this.#ended ??= why;
  }
}

function streamTcp(host: string, id: string, rate = "100000"): void {
  const socket = connect({ host, port: webPort });
  const reporter = new Reporter();
  const trickle = setInterval(() => socket.write("more\n"), reportMs);
  const end = (why: string) => {
    clearInterval(trickle);
    reporter.end(why);
  };
  socket.setNoDelay(true);
  socket.on("connect", () => socket.write(`GET /stream?rate=${rate}&id=${id} HTTP/1.1\r\nHost: lab\r\n\r\n`));
  socket.on("data", (bytes) => reporter.receive(bytes.length));
  socket.on("error", (error) => end(error.message));
  socket.on("close", () => end("closed"));
}

function streamUdp(host: string, id: string, rate = "50"): void {
  const reporter = new Reporter();
  const socket = createSocket(isIPv6(host) ? "udp6" : "udp4");
  const due = pacer(Number(rate));
  let next = 0;
  socket.on("error", (error) => reporter.end(error.message));
  socket.on("message", (message) => {
    const [, , number, sent] = message.toString("latin1").split(" ");
    reporter.numbers.take(Number(number), Number(sent));
    reporter.receive(1);
  });
  setInterval(() => {
    for (let left = due(); left > 0; left--) {
      // Refused sends (no route, filtered) are what a cut looks like from here: the next one tries again.
      socket.send(`up ${id} ${rate} ${next++} ${clockMs()}`, streamPort, host, () => {});
    }
  }, paceMs);
}

/** Asks the host's own name server, every time anew. */
function lookUp(name: string, family: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    (family === "6" ? resolve6 : resolve4)(name, (error, found) => resolve(error ? undefined : found[0]));
  });
}

const steps: Record<string, (address: string) => void> = {
  dns: () => {},
  tcp: (address) => {
    const socket = connect({ host: address, port: webPort, timeout: 3000 });
    socket.on("connect", () => socket.write("GET / HTTP/1.1\r\nHost: lab\r\n\r\n"));
    socket.on("timeout", () => socket.destroy());
    socket.on("error", () => {});
    socket.resume();
  },
  udp: (address) => {
    const socket = createSocket(isIPv6(address) ? "udp6" : "udp4");
    const timer = setTimeout(() => socket.close(), 3000);
    socket.on("error", () => {});
    socket.on("message", () => {
      clearTimeout(timer);
      socket.close();
    });
    socket.send("what time is it", 123, address, () => {});
  },
  ping: (address) => {
    const child = spawn("ping", ["-n", "-q", "-c", "1", "-W", "2", address], { stdio: "ignore" });
    child.on("error", () => {});
  },
};

async function makeTraffic(plan: readonly string[]): Promise<void> {
  for (;;) {
    for (const step of plan) {
      const [kind = "", family = "", name = ""] = step.split(":");
      const address = await lookUp(name, family);
      if (address !== undefined) steps[kind]?.(address);
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  }
}

function main(): void {
  const [mode, ...args] = process.argv.slice(2);
  const [host = "", id = "", rate] = args;
  process.stdout.on("error", () => process.exit(0)); // Nobody listens any more.
  if (mode === "serve" && args.length > 0) void serve(args);
  else if (mode === "tcp" && id) streamTcp(host, id, rate);
  else if (mode === "udp" && id) streamUdp(host, id, rate);
  else if (mode === "traffic" && args.length > 0) void makeTraffic(args);
  else {
    process.stderr.write(
      "usage: peer serve ADDRESS… | tcp HOST ID [RATE] | udp HOST ID [RATE] | traffic STEP…\n",
    );
    process.exitCode = 2;
  }
}

main();
