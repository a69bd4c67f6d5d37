/**
 * Who may call himself as he likes: devices that ask dnsmasq in the router for a lease, and a name server on the
 * internet whose zones hold any bytes. Real exchanges between hosts of a lab, in messages that no honest program sends.
 *
 * Each is a program on its host: whoever uses them is a bundle that calls `runStranger` first of all, which is started
 * anew there as `--stranger NAME` and reads what it has to say from standard input.
 */

import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { CLASS_IN, type DnsFlags, encodeMessage, foldName, formatName, TYPE_A } from "../../src/lib/dns.ts";
import type { Lab } from "../lab/network.ts";
import { provider } from "../lab/topology.ts";

const encoder = new TextEncoder();
const longestLabel = 63;
/** What is not answered is said again. */
const againMs = 1_000;
const ports = { dns: 53, dhcpServer: 67, dhcpClient: 68 };

/**
 * A name of the zone `example` whose first labels are a text's bytes.
 *
 * @returns as it is written down, in lower case and with a dot at its end
 */
export function domainOf(text: string): string {
  const bytes = encoder.encode(text);
  const labels: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += longestLabel) labels.push(bytes.subarray(at, at + longestLabel));
  return foldName(formatName([...labels, encoder.encode("example")]));
}

/** Has the laptop ask the name server for names; the first has the address 192.0.2.`first`, and so on. */
export async function askFor(lab: Lab, names: readonly string[], first: number): Promise<void> {
  const server = lab.spawn("internet", argvOf("names"), { stdio: ["ignore", "pipe", "inherit"] });
  await once(server.stdout!, "data");
  await lab.must("laptop", argvOf("asker"), { input: JSON.stringify({ names, first }) });
  server.kill();
}

/** Devices of these names get an address of dnsmasq in the router each. @returns their MACs, in this order */
export async function leaseAs(lab: Lab, names: readonly string[]): Promise<string[]> {
  const devices = names.map((name, at) => ({ name, mac: [2, 0x99, 0, 2, 0, at] }));
  await lab.must("laptop", argvOf("devices"), { input: JSON.stringify(devices) });
  return devices.map(({ mac }) => mac.map((byte) => byte.toString(16).padStart(2, "0")).join(":"));
}

const argvOf = (stranger: keyof typeof strangers) => [
  ...[process.execPath, process.argv[1]!, "--stranger", stranger],
];

/** @returns true if this process is one of them: then the caller has nothing to do. */
export function runStranger(): boolean {
  const at = process.argv.indexOf("--stranger");
  if (at < 0) return false;
  strangers[process.argv[at + 1] as keyof typeof strangers]();
  return true;
}

const strangers = { names: serveNames, asker: askNames, devices: askLeases };
const input = () => JSON.parse(readFileSync(0, "utf8"));

/** Says something now and again until the next is said. @returns what stops it */
function repeat(say: () => void): () => void {
  say();
  const timer = setInterval(say, againMs);
  return () => clearInterval(timer);
}

// DNS: who is asked with the number n answers with 192.0.2.n, whatever the name.

function serveNames(): void {
  const socket = createSocket("udp4");
  socket.on("message", (question, from) => {
    const number = question.readUInt16BE(0);
    const answer = Buffer.from(question);
    answer.writeUInt16BE(0x8180, 2); // An answer, and the server may be asked for all.
    answer.writeUInt16BE(1, 6);
    // The name that stands at 12, A, IN, an hour, four bytes.
    const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, number];
    socket.send(Buffer.concat([answer, Buffer.from(record)]), from.port, from.address);
  });
  socket.bind(ports.dns, provider.address4, () => console.log("serving"));
}

const flags: DnsFlags = {
  ...{ response: false, opcode: 0, authoritative: false, truncated: false, rcode: 0 },
  ...{ recursionDesired: true, recursionAvailable: false, authenticData: false, checkingDisabled: false },
};

function askNames(): void {
  const { names, first } = input() as { names: string[]; first: number };
  const waiting = new Map(
    names.map((name, at) => {
      const question = { name, type: TYPE_A, class: CLASS_IN };
      return [first + at, encodeMessage({ id: first + at, flags, questions: [question], answers: [] })];
    }),
  );
  const socket = createSocket("udp4");
  const stop = repeat(() => {
    for (const question of waiting.values()) socket.send(question, ports.dns, provider.address4);
  });
  socket.on("message", (answer) => {
    waiting.delete(answer.readUInt16BE(0));
    if (waiting.size > 0) return;
    stop();
    socket.close();
  });
}

// DHCP (RFC 2131): discover, offer, request, acknowledgement, one device after the other.

const option = { hostName: 12, address: 50, kind: 53, server: 54, end: 255 };
const kinds = { discover: 1, offer: 2, request: 3, acknowledgement: 5 };
const cookie = [0x63, 0x82, 0x53, 0x63];
const optionsAt = 240;

interface Device {
  readonly name: string;
  readonly mac: readonly number[];
}

async function askLeases(): Promise<void> {
  const devices = input() as Device[];
  const socket = createSocket({ type: "udp4", reuseAddr: true });
  socket.bind(ports.dhcpClient);
  await once(socket, "listening");
  socket.setBroadcast(true);
  for (const [at, device] of devices.entries()) {
    const offer = await exchange(socket, { device, id: at, kind: kinds.discover, wanted: kinds.offer });
    const server = optionsOf(offer).get(option.server)!;
    const terms = [
      ...[option.server, server.length, ...server],
      ...[option.address, 4, ...offer.subarray(16, 20)],
    ];
    const request = { device, id: at, kind: kinds.request, wanted: kinds.acknowledgement };
    await exchange(socket, { ...request, terms });
  }
  socket.close();
}

interface Exchange {
  readonly device: Device;
  /** Of the transaction. */
  readonly id: number;
  readonly kind: number;
  readonly wanted: number;
  /** More options. */
  readonly terms?: readonly number[];
}

/** Sends a message of a device to everybody until the answer wanted is there. */
function exchange(socket: Socket, { device, id, kind, wanted, terms = [] }: Exchange): Promise<Buffer> {
  const head = Buffer.alloc(optionsAt);
  head.set([1, 1, 6]); // A question, from Ethernet, with addresses of six bytes.
  head.writeUInt32BE(id, 4);
  head.writeUInt16BE(0x8000, 10); // To be answered by broadcast.
  head.set(device.mac, 28);
  head.set(cookie, 236);
  const name = encoder.encode(device.name);
  const options = [option.kind, 1, kind, ...terms, option.hostName, name.length, ...name, option.end];
  const message = Buffer.concat([head, Buffer.from(options)]);
  return new Promise((resolve) => {
    const stop = repeat(() => socket.send(message, ports.dhcpServer, "255.255.255.255"));
    const hear = (answer: Buffer) => {
      const isOurs = answer[0] === 2 && answer.readUInt32BE(4) === id;
      if (!isOurs || optionsOf(answer).get(option.kind)?.[0] !== wanted) return;
      socket.off("message", hear);
      stop();
      resolve(answer);
    };
    socket.on("message", hear);
  });
}

function optionsOf(message: Buffer): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = optionsAt; at < message.length && message[at] !== option.end; ) {
    const length = message[at + 1]!;
    options.set(message[at]!, message.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return options;
}
