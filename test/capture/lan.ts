/** A small LAN around the namespace that a test runs in: a bridge with two hosts on it, each pinging the router. */

import { execFileSync } from "node:child_process";
import type { Address, Mac } from "../../src/lib/address.ts";
import { PcapReader } from "../../src/lib/pcap.ts";
import { openLinux } from "../../src/system/linux.ts";
import { nativePath } from "../system/until.ts";

export const system = openLinux({ nativePath, log: () => {} });

export interface Host {
  readonly name: string;
  readonly mac: Mac;
  readonly address4: Address;
  readonly address6: Address;
}

const host = (name: string, number: number): Host => ({
  name,
  mac: `02:77:00:00:00:${number}` as Mac,
  address4: `10.77.0.${number}` as Address,
  address6: `fd77::${number}` as Address,
});

export const camera = host("camera", 11);
export const laptop = host("laptop", 12);
export const router = { address4: "10.77.0.1", address6: "fd77::1" } as const;

export const ip = (words: string) => execFileSync("ip", words.split(" "), { stdio: "pipe" });

/** Makes the bridge br-lan and the hosts. */
export function makeLan(): void {
  const quiet = "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0".split(" ");
  execFileSync(quiet[0]!, quiet.slice(1));
  ip("link add br-lan type bridge");
  ip("link set br-lan address 02:77:00:00:00:01 up");
  ip(`addr add ${router.address4}/24 dev br-lan`);
  ip(`addr add ${router.address6}/64 dev br-lan nodad`);
  for (const { name, mac, address4, address6 } of [camera, laptop]) {
    ip(`netns add ${name}`);
    execFileSync("ip", ["netns", "exec", name, ...quiet]);
    ip(`link add ${name} type veth peer name eth0 netns ${name}`);
    ip(`link set ${name} master br-lan up`);
    ip(`-n ${name} link set eth0 address ${mac} up`);
    ip(`-n ${name} addr add ${address4}/24 dev eth0`);
    ip(`-n ${name} addr add ${address6}/64 dev eth0 nodad`);
  }
}

/** Sends pings from a host and waits for the answers. @param size of their data. */
export function ping(from: Host, to: string, { count = 3, size = 56 } = {}): void {
  const words = [
    "netns",
    "exec",
    from.name,
    "ping",
    "-q",
    "-n",
    "-c",
    `${count}`,
    "-i",
    "0.02",
    "-s",
    `${size}`,
  ];
  execFileSync("ip", [...words, "-W", "20", to], { stdio: "pipe" });
}

export interface Frame {
  readonly date: number;
  readonly originalBytes: number;
  readonly bytes: Uint8Array;
  readonly from: string;
  readonly to: string;
}

/** The frames of a capture file. @throws SyntaxError if it is damaged. */
export function framesOf(file: Uint8Array): Frame[] {
  const reader = new PcapReader();
  const macAt = (bytes: Uint8Array, at: number) =>
    [...bytes.subarray(at, at + 6)].map((byte) => byte.toString(16).padStart(2, "0")).join(":");
  const frames = [...reader.read(file)].map(({ date, originalBytes, bytes }) => ({
    ...{ date: date!, originalBytes, bytes: bytes.slice() },
    ...{ to: macAt(bytes, 0), from: macAt(bytes, 6) },
  }));
  reader.end();
  return frames;
}
