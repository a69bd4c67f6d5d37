/**
 * Copies of packets that rules send to a log group (nfnetlink_log): how we come to see DNS answers.
 *
 *     +--------+--------+----------------+
 *     | family | 0      | group          |  then attributes, their numbers in network order:
 *     +--------+--------+----------------+
 *     PACKET_HDR { ethertype 16, hook 8 }, IFINDEX_INDEV, IFINDEX_OUTDEV, HWADDR { length 16, 0 16, address },
 *     PAYLOAD from the network header on, PREFIX, SEQ
 *
 * A group has one listener in its network namespace; ours is bound to the socket and ends with it. The kernel
 * sends each packet at once: the answer to a name must be known before the first packet to its address is.
 * It numbers the messages, so those that it dropped because we were slow are counted.
 *
 * The old binding of whole protocol families (PF_BIND) is not made: kernels since 3.17 pass packets of a group
 * without it, and it would take the machine's other log messages from whoever gets them.
 *
 * Source: linux/netfilter/nfnetlink_log.h.
 */

import { decodeMac, type Family, type Mac } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import type { Clock, Disk, Sockets } from "../system/system.ts";
import { type AttributeList, Attributes, concat, encodeAttributes, network } from "./attribute.ts";
import { type Message, Netlink, type NetlinkCounters, netfilterProtocol, newCounters } from "./netlink.ts";

/** A packet as a rule logged it. All of it is what a stranger sent: not checked beyond its outer lengths. */
export interface LoggedPacket {
  /** From the IP header on, up to `copyBytes`; valid until the call returns. */
  readonly payload: Uint8Array;
  readonly family: Family;
  /** Ethertype. */
  readonly protocol: number;
  /** Interfaces; undefined on the hooks that have none. */
  readonly inIfindex: number | undefined;
  readonly outIfindex: number | undefined;
  /** NF_INET_…: 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting. */
  readonly hook: number;
  /** What the rule calls it. */
  readonly prefix: string | undefined;
  /** Ethernet address that it came from; undefined for packets of our own. */
  readonly mac: Mac | undefined;
}

export interface NflogOptions {
  /** Group number, 0…65535. */
  readonly group: number;
  /** Bytes of each packet that are copied; default 65,535: all. */
  readonly copyBytes?: number;
  /** Packets that the kernel may gather, for at most 10 ms, before it sends them; default 1: none waits. */
  readonly threshold?: number;
  readonly receiveBytes?: number;
  onPacket(packet: LoggedPacket): void;
  /** Packets were lost. */
  onOverrun?(): void;
  /** The socket broke; it is bound again by itself. */
  onFault?(fault: Fault): void;
}

export interface NflogCounters extends NetlinkCounters {
  packets: number;
  /** Packets that the kernel could not deliver, by their numbers. */
  lost: number;
}

const reopenMs = 1_000;
/** Messages: subsystem 4. Attributes of a configuration (NFULA_CFG_…), and their values. */
const message = { packet: 0x400, config: 0x401 } as const;
const configAttribute = { command: 1, mode: 2, timeout: 4, threshold: 5, flags: 6 } as const;
const [bindCommand, copyPacket, sequenceFlag] = [1, 2, 1];
/** In hundredths of a second. */
const timeout = 1;

/**
 * Listens to a group.
 *
 * @throws Fault "conflict" if somebody else does, "denied" without the right, "kernel", "timeout".
 */
export async function openNflog(
  system: Sockets & Clock & Pick<Disk, "read">,
  options: NflogOptions,
): Promise<Nflog> {
  const nflog = new Nflog(system, options);
  await nflog.bind();
  return nflog;
}

export class Nflog {
  readonly counters: NflogCounters = { ...newCounters(), packets: 0, lost: 0 };
  readonly #system: Sockets & Clock & Pick<Disk, "read">;
  readonly #options: NflogOptions;
  #netlink: Netlink | undefined;
  /** Number that the next message has if none is lost. */
  #nextSequence: number | undefined;
  #closed = false;

  /** Use `openNflog`. */
  constructor(system: Sockets & Clock & Pick<Disk, "read">, options: NflogOptions) {
    this.#system = system;
    this.#options = options;
  }

  async bind(): Promise<void> {
    const { group, copyBytes = 0xffff, threshold = 1, receiveBytes } = this.#options;
    if (!Number.isInteger(group) || group < 0 || group > 0xffff)
      throw new RangeError(`Cannot listen: group ${group}`);
    const netlink = new Netlink(
      this.#system,
      {
        ...{ protocol: netfilterProtocol, counters: this.counters },
        ...(receiveBytes === undefined ? {} : { receiveBytes }),
      },
      {
        onEvent: (event) => this.#take(event),
        onOverrun: () => this.#options.onOverrun?.(),
        onClose: (fault) => this.#bindLater(fault),
      },
    );
    this.#netlink = netlink;
    this.#nextSequence = undefined;
    const configure = (list: AttributeList) =>
      netlink.request({
        type: message.config,
        payload: concat([Uint8Array.of(0, 0), network.bytes16(group), encodeAttributes(list)]),
        verb: `listen to log group ${group}`,
      });
    try {
      await configure([[configAttribute.command, Uint8Array.of(bindCommand)]]);
      await configure([
        [configAttribute.mode, concat([network.bytes32(copyBytes), Uint8Array.of(copyPacket, 0)])],
        [configAttribute.timeout, network.bytes32(timeout)],
        [configAttribute.threshold, network.bytes32(threshold)],
        [configAttribute.flags, network.bytes16(sequenceFlag)],
      ]);
    } catch (thrown) {
      netlink.close();
      throw (await this.#isTaken()) ? this.#taken(thrown) : thrown;
    }
  }

  close(): void {
    this.#closed = true;
    this.#netlink?.close();
  }

  /** The kernel says EPERM both to those without the right and to those who come second. */
  async #isTaken(): Promise<boolean> {
    const listeners = await this.#system.read("/proc/net/netfilter/nfnetlink_log").catch(() => undefined);
    const lines = listeners ? new TextDecoder().decode(listeners).split("\n") : [];
    return lines.some((line) => Number.parseInt(line, 10) === this.#options.group);
  }

  #taken(cause: unknown): Fault {
    const message = `Cannot listen to log group ${this.#options.group}: somebody else does`;
    return new Fault("conflict", message, { cause });
  }

  #bindLater(fault: unknown): void {
    if (this.#closed) return;
    const state =
      fault instanceof Fault ? fault : new Fault("kernel", "Cannot listen to log group", { cause: fault });
    this.#options.onFault?.(state);
    this.#options.onOverrun?.();
    this.#system.after(reopenMs, () => {
      if (!this.#closed) this.bind().catch((thrown) => this.#bindLater(thrown));
    });
  }

  #take(event: Message): void {
    if (this.#closed || event.type !== message.packet) return;
    const packet = decodePacket(event);
    if (!packet) {
      this.counters.malformed++;
      return;
    }
    const sequence = attributes.number32(attribute.sequence, network);
    if (sequence !== undefined) {
      if (this.#nextSequence !== undefined) this.counters.lost += (sequence - this.#nextSequence) >>> 0;
      this.#nextSequence = (sequence + 1) >>> 0;
    }
    this.counters.packets++;
    this.#options.onPacket(packet);
  }
}

/** NFULA_… */
const attribute = {
  ...{ header: 1, inIfindex: 4, outIfindex: 5, mac: 8, payload: 9, prefix: 10, sequence: 12 },
} as const;
const attributes = new Attributes(12);
const headerBytes = 4;
const macBytes = 6;
const families = new Map<number | undefined, Family>([
  [0x0800, 4],
  [0x86dd, 6],
]);

/** @returns undefined if the message is malformed or the packet is not IP. */
export function decodePacket({ bytes, start, end }: Message): LoggedPacket | undefined {
  const from = start + headerBytes;
  if (from > end || !attributes.read(bytes, from, end)) return undefined;
  const protocol = attributes.number16(attribute.header, network);
  const hook = attributes.bytes(attribute.header)?.[2];
  const payload = attributes.bytes(attribute.payload);
  const family = families.get(protocol);
  if (protocol === undefined || hook === undefined || !payload || !family) return undefined;
  const mac = attributes.bytes(attribute.mac);
  return {
    ...{ payload, family, protocol, hook },
    inIfindex: attributes.number32(attribute.inIfindex, network),
    outIfindex: attributes.number32(attribute.outIfindex, network),
    prefix: attributes.text(attribute.prefix),
    mac:
      mac && mac.length >= 4 + macBytes && attributes.number16(attribute.mac, network) === macBytes
        ? decodeMac(mac, 4)
        : undefined,
  };
}
