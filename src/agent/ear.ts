/**
 * What the hosts behind a device say to all, in one family, and the way to tell one of them something.
 *
 * Heard are UDP datagrams to the groups of multicast DNS and SSDP and to broadcast addresses, and multicast DNS that
 * answers us alone. They are read where frames come in, before the kernel's rules and beside its sockets: whatever
 * else serves multicast DNS on this router is not disturbed, and what we send ourselves is not heard. A socket that
 * is bound to nothing is a member of the groups, so that switches and bridges bring them. Frames are told to whoever
 * opened the ear; nothing is kept but the sockets.
 *
 * A checksum is not looked at: that of a host on this machine is not made yet where it is heard.
 */

import { type Address, type Family, familyOf } from "../lib/address.ts";
import { decodeFrame, EtherType } from "../lib/frame.ts";
import { parsePacket, UDP, udpPayload } from "../lib/packet.ts";
import { LinkType } from "../lib/pcap.ts";
import type { DatagramSocket, Sockets } from "../system/system.ts";

export const mdnsPort = 5353;
const ssdpPort = 1900;
export const mdnsGroups: Readonly<Record<Family, Address>> = {
  4: "224.0.0.251" as Address,
  6: "ff02::fb" as Address,
};
const ssdpGroups: ReadonlySet<Address> = new Set(["239.255.255.250", "ff02::c", "ff05::c"] as Address[]);
const everybody = "255.255.255.255" as Address;
const anywhere: Readonly<Record<Family, Address>> = { 4: "0.0.0.0" as Address, 6: "::" as Address };
/** DNS, DHCP and multicast DNS are the router's business, and nobody else's. */
const keptPorts: ReadonlySet<number> = new Set([0, 53, 67, 68, mdnsPort]);

const ethernetBytes = 14;
const etherTypes: Readonly<Record<Family, number>> = { 4: EtherType.ipv4, 6: EtherType.ipv6 };
/** Where the protocol is in a frame, and where the port, if no option is before it. */
const protocolAt: Readonly<Record<Family, number>> = { 4: ethernetBytes + 9, 6: ethernetBytes + 6 };
const portAt: Readonly<Record<Family, number>> = { 4: ethernetBytes + 22, 6: ethernetBytes + 42 };
/** The first byte of a frame to many: to a group or everybody. */
const groupBytes: Readonly<Record<Family, readonly number[]>> = { 4: [0x01, 0xff], 6: [0x33] };

export interface EarHandlers {
  /** A frame from others, valid until the call returns: in all likelihood what `readFrame` reads. */
  onFrame(frame: Uint8Array): void;
  onOverrun(): void;
  /** It hears nothing any more; the last call. Not called after `close`. */
  onLost(): void;
}

export class Ear {
  readonly #sockets: { close(): void }[] = [];
  readonly #speaker: DatagramSocket;
  #isOpen = true;

  /** @throws Fault if the kernel refuses a socket. */
  constructor(
    system: Pick<Sockets, "packet" | "udp">,
    place: { readonly ifindex: number; readonly family: Family },
    handlers: EarHandlers,
  ) {
    const { ifindex, family } = place;
    const onOverrun = () => handlers.onOverrun();
    const onClose = () => {
      if (!this.#isOpen) return;
      this.close();
      handlers.onLost();
    };
    const listen = (isWanted: (first: number) => boolean, only: readonly Only[]): DatagramSocket => {
      const onMessage = (frame: Uint8Array) => {
        if (this.#isOpen && frame.length > 0 && isWanted(frame[0]!)) handlers.onFrame(frame);
      };
      const socket = system.packet(
        {
          ifindex,
          protocol: etherTypes[family],
          only: [{ offset: protocolAt[family], values: [UDP] }, ...only],
        },
        { onMessage, onOverrun, onClose },
      );
      this.#sockets.push(socket);
      return socket;
    };
    try {
      // A frame passes by both: each takes its own.
      this.#speaker = listen(isToMany, [{ offset: 0, values: groupBytes[family] }]);
      listen(
        (first) => !isToMany(first),
        [
          { offset: portAt[family], values: [mdnsPort >> 8] },
          { offset: portAt[family] + 1, values: [mdnsPort & 255] },
        ],
      );
      const groups = [mdnsGroups[family], ...[...ssdpGroups].filter((each) => familyOf(each) === family)];
      const member = { address: anywhere[family], port: 0, ifindex, groups };
      this.#sockets.push(system.udp(member, { onMessage() {}, onOverrun() {}, onClose }));
    } catch (thrown) {
      this.close();
      throw thrown;
    }
  }

  /** Sends a whole frame. @throws Fault if the kernel does not take it. */
  send(frame: Uint8Array): void {
    this.#speaker.send(frame);
  }

  close(): void {
    this.#isOpen = false;
    for (const socket of this.#sockets.splice(0)) socket.close();
  }
}

type Only = { readonly offset: number; readonly values: readonly number[] };

const isToMany = (first: number) => (first & 1) === 1;

/** A datagram that may be meant for somebody elsewhere. */
export interface Overheard {
  readonly kind: "mdns" | "broadcast";
  readonly source: Address;
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Which group it went to, if it was one of SSDP. */
  readonly group?: Address;
  /** Shares memory with the frame. */
  readonly data: Uint8Array;
}

export type Unheard =
  /** Part of a datagram. */
  | "fragment"
  /** No frame, packet or datagram that makes sense. */
  | "unreadable"
  /** Multicast DNS of somebody who cannot be answered, or whose answer does not count (RFC 6762 §6 and §6.7). */
  | "foreign"
  /** To be passed on to nobody. */
  | "other";

/** What a device has for its own. */
export interface Own {
  readonly addresses: ReadonlySet<Address>;
  /** Broadcast addresses of its prefixes. */
  readonly broadcasts: ReadonlySet<Address>;
}

/** Reads a frame that came in by a device. Never throws. */
export function readFrame(bytes: Uint8Array, own: Own): Overheard | Unheard {
  const frame = decodeFrame(LinkType.ethernet, bytes);
  if (!frame) return "unreadable";
  // What has a tag is on another link.
  if (frame.offset !== ethernetBytes) return "other";
  const packetBytes = bytes.subarray(ethernetBytes);
  const outcome = parsePacket(packetBytes);
  if (outcome.kind === "malformed") return "unreadable";
  const { packet } = outcome;
  if (packet.fragment) return "fragment";
  const data = udpPayload(packetBytes, packet);
  if (!data || !packet.ports) return packet.protocol === UDP ? "unreadable" : "other";
  const { source, destination } = packet;
  const { source: sourcePort, destination: destinationPort } = packet.ports;
  const said = { source, sourcePort, destinationPort, data };
  if (destinationPort === mdnsPort) {
    const isOurs = destination === mdnsGroups[packet.family] || own.addresses.has(destination);
    if (!isOurs) return "other";
    return sourcePort === mdnsPort ? { kind: "mdns", ...said } : "foreign";
  }
  if (sourcePort === 0 || keptPorts.has(destinationPort)) return "other";
  if (ssdpGroups.has(destination))
    return destinationPort === ssdpPort ? { kind: "broadcast", ...said, group: destination } : "other";
  const isToAll = destination === everybody || own.broadcasts.has(destination);
  return isToAll && frame.isGroup ? { kind: "broadcast", ...said } : "other";
}

/** A frame that one host alone gets, whomever the packet in it addresses. */
export function frameOf(
  packet: Uint8Array,
  ends: { readonly from: Uint8Array; readonly to: Uint8Array },
): Uint8Array {
  const frame = new Uint8Array(ethernetBytes + packet.length);
  const type = packet[0]! >> 4 === 4 ? EtherType.ipv4 : EtherType.ipv6;
  frame.set(ends.to);
  frame.set(ends.from, 6);
  frame.set([type >> 8, type & 255], 12);
  frame.set(packet, ethernetBytes);
  return frame;
}
