/**
 * A small network for neighbours: `lan` and `rogue` of this namespace and a host elsewhere are ports of one bridge in
 * a third namespace. Frames that no honest host sends go out by `rogue`, which has no address.
 */

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { type RouteWatch, watchRoute } from "../../src/kernel/kernel.ts";
import { type NeighbourSteering, openNeighbourSteering } from "../../src/kernel/neighbour.ts";
import type { Address, Mac } from "../../src/lib/address.ts";
import { bytesOf, encodeArpRequest } from "../../src/lib/arp.ts";
import {
  type Entry,
  type Event,
  Neighbours,
  type Outcome,
  openDevice,
} from "../../src/neighbours/neighbours.ts";
import { openLinux } from "../../src/system/linux.ts";
import { eventually } from "../lab/children.ts";

export const system = openLinux({ nativePath: join(process.cwd(), "dist/netio.node") });
export const ip = (words: string) =>
  execFileSync("ip", words.split(" "), { encoding: "utf8", stdio: "pipe" });
export const [host4, host6, dead] = ["192.0.2.2", "2001:db8::2", "192.0.2.66"] as [Address, Address, Address];
export const hostMac = "02:00:00:00:00:02" as Mac;
export const newMac = "02:00:00:00:00:03" as Mac;
export const rogueMac = "02:00:00:00:00:66" as Mac;

export interface Open {
  readonly neighbours: Neighbours;
  readonly steering: NeighbourSteering;
  readonly events: Event[];
  route: RouteWatch;
}
const opened: Open[] = [];

/** Joined as the agent joins it. */
export async function open(): Promise<Open> {
  const events: Event[] = [];
  const steering = openNeighbourSteering(system, { protocol: 71 });
  const neighbours = new Neighbours(system, {
    steer: steering,
    openLink: (device) => openDevice(system, device),
    onEvent: (event) => events.push(event),
  });
  const route = await watchRoute(system, {
    onLink: (change, link) =>
      change === "remove" ? neighbours.linkGone(link.ifindex) : neighbours.link(link),
    onAddress: (change, address) => neighbours.ownAddress(address, change !== "remove"),
    onNeighbour: (change, neighbour) => neighbours.entry(neighbour, change === "remove"),
  });
  const all = { neighbours, steering, events, route };
  opened.push(all);
  return all;
}

export const resolve = (
  { neighbours }: Open,
  address: Address,
  wish: { fresh?: boolean; byPacket?: boolean; timeoutMs?: number } = {},
) => neighbours.resolve({ device: "lan", address, timeoutMs: 60_000, ...wish });
export const macOf = (outcome: Outcome<Entry>) =>
  outcome.kind === "found" ? outcome.found.mac : `${outcome.kind}: ${outcome.reason}`;
export const kernelMac = (address: Address) => /lladdr (\S+)/.exec(ip(`neigh show ${address} dev lan`))?.[1];

/** Frames out of the rogue port. */
export async function forgeMany(packets: readonly Uint8Array[], from: Mac, to: Mac): Promise<void> {
  const ifindex = (JSON.parse(ip("-j link show rogue")) as { ifindex: number }[])[0]!.ifindex;
  const socket = system.packet(
    { ifindex, protocol: 0x0806 },
    { onMessage() {}, onOverrun() {}, onClose() {} },
  );
  const header = [...bytesOf(to), ...bytesOf(from), 0x08, 0x06];
  for (const [index, packet] of packets.entries()) {
    socket.send(Uint8Array.from([...header, ...packet]));
    // Whoever is to receive them is this thread.
    if (index % 100 === 99) await new Promise((done) => setImmediate(done));
  }
  socket.close();
}

export function forge(packet: Uint8Array, from: Mac, to = "ff:ff:ff:ff:ff:ff" as Mac): void {
  void forgeMany([packet], from, to);
}

export const announce = (mac: Mac, address: Address) =>
  forge(encodeArpRequest({ senderMac: mac, sender: address, target: address }), mac);

/** Builds it around the test, once. */
export async function build(): Promise<void> {
  for (const name of ["switch", "far"]) ip(`netns add ${name}`);
  ip("-n switch link add bridge type bridge");
  ip("link add lan address 02:00:00:00:00:01 type veth peer name p1 netns switch");
  ip(`link add rogue address ${rogueMac} type veth peer name p2 netns switch`);
  ip(`-n far link add eth0 address ${hostMac} type veth peer name p3 netns switch`);
  for (const port of ["p1", "p2", "p3"]) ip(`-n switch link set ${port} master bridge up`);
  ip("-n switch link set bridge up");
  ip("addr add 192.0.2.1/24 dev lan");
  ip("-6 addr add 2001:db8::1/64 dev lan nodad");
  ip("-n far addr add 192.0.2.2/24 dev eth0");
  ip("-n far addr add 198.51.100.2/24 dev eth0");
  ip("-n far -6 addr add 2001:db8::2/64 dev eth0 nodad");
  for (const words of ["link set lan up", "link set rogue up", "-n far link set eth0 up"]) ip(words);
  // Ports begin to forward, and the kernel to ask over IPv6, some time after they were raised.
  await eventually("our own address", () => !ip("-6 addr show dev lan").includes("tentative"));
  for (const address of [host4, host6])
    execFileSync("ping", ["-qn", "-i", "0.2", "-c", "1", "-w", "60", address]);
  ip("neigh flush dev lan nud all");
  // Hosts here answer at once, so the kernel need not give them a second each.
  const patience = ["ipv4", "ipv6"].map((family) => `net.${family}.neigh.lan.retrans_time_ms=250`);
  execFileSync("sysctl", ["-qw", ...patience]);
  // The rogue port is not to answer for the addresses of lan.
  execFileSync("sysctl", ["-qw", "net.ipv4.conf.rogue.arp_ignore=8", "net.ipv6.conf.rogue.disable_ipv6=1"]);
}

/** Ends what was opened, and empties the kernel's table. */
export function clean(): void {
  for (const { neighbours, steering, route } of opened.splice(0)) {
    neighbours.close();
    steering.close();
    route.close();
  }
  ip("neigh flush dev lan nud all");
}
