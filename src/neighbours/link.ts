/**
 * A link that questions for addresses go out on: a device of this machine, or anything else that carries frames.
 *
 * A packet on a link is what a frame carries: ARP, or an IPv6 packet. The Linux device keeps one packet socket
 * while somebody listens, and no longer, and hears ARP, and of IPv6 neighbour discovery: for the rest of the device's
 * traffic the kernel does not wake us.
 */

import { decodeMac, type Family, type Mac } from "../lib/address.ts";
import { bytesOf } from "../lib/arp.ts";
import { EtherType } from "../lib/frame.ts";
import { ICMPV6 } from "../lib/packet.ts";
import type { Cancel, DatagramSocket, Sockets } from "../system/system.ts";

export interface Link {
  /** Our own link-layer address there. */
  readonly address: Mac;
  /** Sends to all who may be meant: in IPv6 the group that the packet is addressed to. @throws Fault */
  broadcast(packet: Uint8Array): void;
  /** Sends to one. @throws Fault */
  transmit(packet: Uint8Array, to: Mac): void;
  /**
   * Hears every packet from others, with the link-layer address of its sender, until cancelled. The bytes are valid
   * until the call returns. A link may call while `broadcast` or `transmit` still runs.
   *
   * @throws Fault if it cannot be listened to.
   */
  onReceive(receive: (packet: Uint8Array, from: Mac) => void): Cancel;
}

export interface DeviceOptions {
  readonly ifindex: number;
  readonly address: Mac;
  /** 4: ARP, 6: IPv6. */
  readonly family: Family;
}

const headerBytes = 14;
/** Solicitations and advertisements right behind the IPv6 header. */
const discovery = [
  { offset: headerBytes + 6, values: [ICMPV6] },
  { offset: headerBytes + 40, values: [135, 136] },
];
const everybody = Uint8Array.of(255, 255, 255, 255, 255, 255);

/** The link of one family on an Ethernet device. Opens nothing before somebody listens. */
export function openDevice(system: Pick<Sockets, "packet">, options: DeviceOptions): Link {
  return new Device(system, options);
}

class Device implements Link {
  readonly address: Mac;
  readonly #system: Pick<Sockets, "packet">;
  readonly #ifindex: number;
  readonly #family: Family;
  readonly #own: Uint8Array;
  readonly #receivers = new Set<(packet: Uint8Array, from: Mac) => void>();
  #socket: DatagramSocket | undefined;

  constructor(system: Pick<Sockets, "packet">, { ifindex, address, family }: DeviceOptions) {
    this.address = address;
    this.#system = system;
    this.#ifindex = ifindex;
    this.#family = family;
    this.#own = bytesOf(address);
  }

  broadcast(packet: Uint8Array): void {
    this.#send(packet, this.#family === 4 ? everybody : groupOf(packet));
  }

  transmit(packet: Uint8Array, to: Mac): void {
    this.#send(packet, bytesOf(to));
  }

  onReceive(receive: (packet: Uint8Array, from: Mac) => void): Cancel {
    const receiver = (packet: Uint8Array, from: Mac) => receive(packet, from);
    this.#open();
    this.#receivers.add(receiver);
    return () => {
      if (!this.#receivers.delete(receiver) || this.#receivers.size > 0) return;
      this.#socket?.close();
      this.#socket = undefined;
    };
  }

  #open(): DatagramSocket {
    if (this.#socket) return this.#socket;
    const protocol = this.#family === 4 ? EtherType.arp : EtherType.ipv6;
    const socket = this.#system.packet(
      { ifindex: this.#ifindex, protocol, ...(this.#family === 6 && { only: discovery }) },
      {
        onMessage: (frame) => {
          if (this.#socket === socket) this.#receive(frame);
        },
        // Whoever asked asks again.
        onOverrun() {},
        onClose: () => {
          if (this.#socket === socket) this.#socket = undefined;
        },
      },
    );
    this.#socket = socket;
    return socket;
  }

  #send(packet: Uint8Array, to: Uint8Array): void {
    const frame = new Uint8Array(headerBytes + packet.length);
    const type = this.#family === 4 ? EtherType.arp : EtherType.ipv6;
    frame.set(to);
    frame.set(this.#own, 6);
    frame.set([type >> 8, type & 255], 12);
    frame.set(packet, headerBytes);
    this.#open().send(frame);
  }

  #receive(frame: Uint8Array): void {
    if (frame.length <= headerBytes) return;
    // On a machine that does not filter all of the device's IPv6 traffic comes by.
    if (this.#family === 6 && frame[headerBytes + 6] !== ICMPV6) return;
    const from = decodeMac(frame, 6);
    if (from === this.address) return;
    const packet = frame.subarray(headerBytes);
    for (const receive of [...this.#receivers]) receive(packet, from);
  }
}

/** The Ethernet address of the group that an IPv6 packet goes to (RFC 2464 §7). */
function groupOf(packet: Uint8Array): Uint8Array {
  return Uint8Array.of(0x33, 0x33, packet[36]!, packet[37]!, packet[38]!, packet[39]!);
}
