/**
 * The program in each namespace that discovery is tried on: says what it is told to, and tells what it hears.
 *
 * It listens as hosts do: multicast DNS and SSDP in their groups, and port 9999 of every address. A line in is a
 * `Say`, a line out is a `Hearing`; the first one says that it listens.
 */

import { createSocket, type Socket } from "node:dgram";
import { LineReader } from "../lab/children.ts";

export interface Say {
  readonly family: 4 | 6;
  /** Of its own, one that it listens on; 0: any. */
  readonly from: number;
  readonly to: string;
  readonly port: number;
  readonly hex: string;
}

export interface Hearing {
  /** Of its own. */
  readonly port: number;
  readonly from: string;
  readonly fromPort: number;
  readonly hex: string;
}

const groups: Readonly<Record<number, Readonly<Record<4 | 6, readonly string[]>>>> = {
  5353: { 4: ["224.0.0.251"], 6: ["ff02::fb"] },
  1900: { 4: ["239.255.255.250"], 6: ["ff02::c"] },
  9999: { 4: [], 6: [] },
};
const device = "eth0";

function bind(family: 4 | 6, port: number): Promise<Socket> {
  const socket = createSocket({
    type: family === 4 ? "udp4" : "udp6",
    ipv6Only: family === 6,
    reuseAddr: true,
  });
  socket.on("message", (message, from) => {
    const heard: Hearing = {
      port: socket.address().port,
      from: from.address.replace(/%.*/, ""),
      fromPort: from.port,
      hex: message.toString("hex"),
    };
    process.stdout.write(`${JSON.stringify(heard)}\n`);
  });
  return new Promise((resolve) => {
    socket.bind(port, family === 4 ? "0.0.0.0" : "::", () => {
      if (family === 4) socket.setBroadcast(true);
      socket.setMulticastInterface(family === 4 ? process.argv[3]! : `::%${device}`);
      socket.setMulticastLoopback(false);
      for (const group of groups[port]?.[family] ?? [])
        socket.addMembership(group, family === 4 ? process.argv[3] : `::%${device}`);
      resolve(socket);
    });
  });
}

async function main(): Promise<void> {
  const sockets = new Map<string, Socket>();
  for (const family of [4, 6] as const) {
    for (const port of [0, ...Object.keys(groups).map(Number)])
      sockets.set(`${family} ${port}`, await bind(family, port));
  }
  const lines = new LineReader((line) => {
    const { family, from, to, port, hex } = JSON.parse(line) as Say;
    sockets.get(`${family} ${from}`)!.send(Buffer.from(hex, "hex"), port, to);
  });
  process.stdin.setEncoding("utf8").on("data", (chunk: string) => lines.push(chunk));
  process.stdin.on("end", () => process.exit());
  process.stdout.write('"listening"\n');
}

if (process.argv[2] === "talk") void main();
