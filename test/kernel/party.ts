/**
 * The program in each namespace of the quarter: serves, and tries what it is told to, a JSON object a line.
 *
 * TCP and UDP 80, 443, 853: answer with the address that they see, and how much came. TCP 81: bytes without end.
 */

import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { connect, createServer, isIPv6 } from "node:net";
import { CLASS_IN, decodeMessage, encodeMessage, TYPE_A, TYPE_AAAA, TYPE_PTR } from "../../src/lib/dns.ts";
import { LineReader } from "../lab/children.ts";

export interface Try {
  readonly id: number;
  /**
   * `load` begins a download and answers after the first byte; `loaded` tells how many bytes came by it; `heard`
   * how many datagrams have come that begin with `to`; `dns` asks a server `to` for the name `word`.
   */
  readonly kind: "tcp" | "udp" | "icmp" | "load" | "loaded" | "heard" | "dns";
  readonly to: string;
  readonly port?: number;
  /** One of its own addresses. */
  readonly from?: string;
  /** What a datagram begins with. */
  readonly word?: string;
  /** What is sent; the answer says whether it came back whole. Default 1. */
  readonly sizeBytes?: number;
  /** Of a query: A, AAAA, PTR or a number. Default A. */
  readonly type?: string;
  /** Of a query. Default udp. */
  readonly over?: "udp" | "tcp";
  /** How long an answer is waited for: long where one is wanted, however slow the machine. */
  readonly waitMs?: number;
}

export interface Outcome {
  readonly id: number;
  readonly passed: boolean;
  /** Whom the other end saw. */
  readonly seen?: string;
  readonly bytes?: number;
  /** To a query: what it says, or in capitals why it says nothing. */
  readonly answers?: readonly string[];
  readonly ttlSeconds?: number;
}

/** Long enough for whoever is there, mostly; who has to be sure tries again. */
const briefMs = 300;
/** For answers that only a slow machine lets wait: bytes of a connection, names. */
const patientMs = 20_000;
const ports = [80, 443, 853];
const loads = new Map<string, number>();
const heard: string[] = [];

const plain = (address: string | undefined) => (address ?? "").replace(/^::ffff:/, "");

function serve(): void {
  for (const port of ports) {
    createServer((socket) => {
      socket.on("error", () => undefined);
      let bytes = 0;
      socket.on("data", (chunk) => {
        bytes += chunk.length;
        if (chunk.at(-1) === 10) socket.end(`${plain(socket.remoteAddress)} ${bytes}\n`);
      });
    }).listen(port, "::");
    for (const type of ["udp4", "udp6"] as const) {
      const socket = createSocket({ type, ipv6Only: type === "udp6" });
      socket.on("message", (message, { address, port: from }) => {
        heard.push(message.toString("latin1", 0, 32));
        socket.send(`${plain(address)} ${message.length}`, from, address);
      });
      socket.on("error", () => undefined);
      socket.bind(port);
    }
  }
  createServer((socket) => {
    const chunk = Buffer.alloc(16 * 1024);
    const push = () => {
      while (socket.write(chunk));
    };
    socket.on("drain", push);
    socket.on("error", () => undefined);
    push();
  }).listen(81, "::");
}

const types: Readonly<Record<string, number>> = { A: TYPE_A, AAAA: TYPE_AAAA, PTR: TYPE_PTR };

function queryOf(name: string, type: string): Uint8Array {
  const plain = { response: false, opcode: 0, authoritative: false, truncated: false, rcode: 0 } as const;
  return encodeMessage({
    id: Math.floor(Math.random() * 65_536),
    flags: {
      ...plain,
      recursionDesired: true,
      recursionAvailable: false,
      authenticData: false,
      checkingDisabled: false,
    },
    questions: [{ name, type: types[type] ?? Number(type), class: CLASS_IN }],
    answers: [],
  });
}

/** The name that the first answer of a message, which it ends with, points to. */
function pointerIn(bytes: Uint8Array): string {
  const labels: string[] = [];
  const read = (at: number): number => {
    for (let here = at; ; ) {
      const length = bytes[here]!;
      if (length >= 0xc0) {
        read(((length & 0x3f) << 8) | bytes[here + 1]!);
        return here + 2;
      }
      if (length === 0) return here + 1;
      labels.push(String.fromCharCode(...bytes.subarray(here + 1, here + 1 + length)));
      here += length + 1;
    }
  };
  // Header, question, and of the answer its name and ten bytes.
  const answer = read(12) + 4;
  const data = read(answer) + 10;
  labels.length = 0;
  read(data);
  return `${labels.join(".")}.`;
}

/** What an answer to a query says. One that denies has to say for how long. */
function saidBy(bytes: Uint8Array): Omit<Outcome, "id"> {
  const { flags, answers, authorities = [] } = decodeMessage(bytes);
  const found = answers.map(({ address, target, type }) => {
    return address ?? target ?? (type === TYPE_PTR ? pointerIn(bytes) : `TYPE${type}`);
  });
  const [ttlSeconds] = [...answers, ...authorities].map((record) => record.ttlSeconds);
  const timed = ttlSeconds === undefined ? {} : { ttlSeconds };
  if (found.length > 0) return { passed: true, answers: found, ...timed };
  const word = flags.rcode === 3 ? "NXDOMAIN" : flags.rcode === 0 ? "NODATA" : `RCODE${flags.rcode}`;
  const isTimed = authorities.length > 0 || (flags.rcode !== 0 && flags.rcode !== 3);
  return { passed: false, answers: [isTimed ? word : `${word} WITHOUT SOA`], ...timed };
}

/** Asks a server; whatever comes is from it, for the socket takes nobody else's word. */
function ask({
  to,
  port = 53,
  word = "",
  type = "A",
  over = "udp",
  waitMs = patientMs,
}: Try): Promise<Omit<Outcome, "id">> {
  const query = queryOf(word, type);
  return new Promise((resolve) => {
    const end = (bytes?: Uint8Array) => {
      clearTimeout(timer);
      close();
      resolve(bytes ? saidBy(bytes) : { passed: false });
    };
    const timer = setTimeout(end, waitMs);
    let close: () => void;
    if (over === "udp") {
      const socket = createSocket(isIPv6(to) ? "udp6" : "udp4");
      close = () => socket.close();
      socket.on("error", () => end());
      socket.on("message", (message) => end(message));
      socket.connect(port, to, () => socket.send(query));
      return;
    }
    const socket = connect({ host: to, port });
    close = () => socket.destroy();
    let bytes = Buffer.alloc(0);
    socket.on("connect", () =>
      socket.write(Buffer.concat([Uint8Array.of(query.length >> 8, query.length & 255), query])),
    );
    socket.on("data", (chunk) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (bytes.length >= 2 && bytes.length >= 2 + bytes.readUInt16BE(0)) end(bytes.subarray(2));
    });
    socket.on("error", () => end());
  });
}

function attempt(given: Try): Promise<Omit<Outcome, "id">> {
  const { kind, to, port = 80, from, word = "x", sizeBytes = word.length } = given;
  if (kind === "heard")
    return Promise.resolve({ passed: true, bytes: heard.filter((text) => text.startsWith(to)).length });
  if (kind === "dns") return ask(given);
  const isLong = kind === "load" || (kind === "tcp" && sizeBytes > 1);
  const { waitMs = isLong ? patientMs : briefMs } = given;
  if (kind === "loaded") return Promise.resolve({ passed: true, bytes: loads.get(to) ?? 0 });
  return new Promise((resolve) => {
    const none = () => resolve({ passed: false });
    const answer = (text: string) => {
      const [seen, bytes] = text.trim().split(" ");
      resolve({ passed: Number(bytes) === sizeBytes, seen: seen! });
    };
    if (kind === "icmp") {
      const source = from === undefined ? [] : ["-I", from];
      const child = spawn("ping", ["-n", "-q", "-c", "1", "-W", String(waitMs / 1000), ...source, to], {
        stdio: "ignore",
      });
      child.on("error", none);
      child.on("exit", (status) => resolve({ passed: status === 0 }));
      return;
    }
    if (kind === "udp") {
      const socket = createSocket(isIPv6(to) ? "udp6" : "udp4");
      const end = (call: () => void) => {
        clearTimeout(timer);
        socket.close();
        call();
      };
      const timer = setTimeout(() => end(none), waitMs);
      socket.once("message", (message) => end(() => answer(message.toString())));
      socket.once("error", () => end(none));
      const send = () =>
        socket.send(
          Buffer.alloc(sizeBytes, word.padEnd(sizeBytes, "x")),
          port,
          to,
          (error) => error && end(none),
        );
      if (from === undefined) send();
      else socket.bind(0, from, send);
      return;
    }
    const socket = connect({ host: to, port, ...(from === undefined ? {} : { localAddress: from }) });
    let text = "";
    const timer = setTimeout(() => socket.destroy(), waitMs);
    socket.on("connect", () => kind === "tcp" && socket.write(`${"x".repeat(sizeBytes - 1)}\n`));
    socket.on("data", (chunk) => {
      if (kind === "tcp") text += chunk.toString();
      else {
        clearTimeout(timer);
        loads.set(to, (loads.get(to) ?? 0) + chunk.length);
        resolve({ passed: true });
      }
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      clearTimeout(timer);
      if (text === "") none();
      else answer(text);
    });
  });
}

function main(): void {
  serve();
  const lines = new LineReader((line) => {
    const given = JSON.parse(line) as Try;
    void attempt(given).then((outcome) =>
      process.stdout.write(`${JSON.stringify({ id: given.id, ...outcome } satisfies Outcome)}\n`),
    );
  });
  process.stdin.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
  process.stdin.on("end", () => process.exit());
  process.stdout.write('{"id":0,"passed":true}\n');
}

if (process.argv[2] === "party") main();
