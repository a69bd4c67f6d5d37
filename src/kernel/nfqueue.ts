/**
 * Packets that wait in the kernel for our verdict (nfnetlink_queue): how an answer of DNS stays behind until the
 * rules follow what it says.
 *
 *     +--------+--------+----------------+
 *     | family | 0      | queue          |  then attributes, their numbers in network order:
 *     +--------+--------+----------------+
 *     PACKET_HDR { id 32, ethertype 16, hook 8 }, IFINDEX_INDEV, IFINDEX_OUTDEV, HWADDR, PAYLOAD
 *     VERDICT_HDR { verdict 32, id 32 } back to the kernel; in a batch it is for this id and all before it
 *
 * Keeps the ids of packets that wait, in their order, with the instant until which they may: at the latest then they
 * pass, whatever became of who was asked. The only verdict is "accept": nothing is blocked here. When we are slow
 * or gone the kernel lets packets pass by itself: past the queue's length and past a full socket by the flag
 * FAIL_OPEN, without a listener by the rule's `bypass`. Only what waits at the moment when the process is killed is
 * lost, and asked for again by its client.
 *
 * Verdicts go without acknowledgement: one that the kernel does not know (any more) has come to its end otherwise.
 *
 * Source: linux/netfilter/nfnetlink_queue.h.
 */

import { decodeMac, type Family } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Cancel, Clock, DatagramSocket, Disk, Sockets } from "../system/system.ts";
import { type AttributeList, Attributes, concat, encodeAttributes, network } from "./attribute.ts";
import {
  encodeMessage,
  type Message,
  Netlink,
  type NetlinkCounters,
  netfilterProtocol,
  newCounters,
} from "./netlink.ts";
import type { LoggedPacket } from "./nflog.ts";

/** A packet that waits; what a log group shows of one, always whole and without prefix. */
export type HeldPacket = LoggedPacket;

export interface NfqueueOptions {
  /** Queue number, 0…65535. */
  readonly queue: number;
  /** Packets that wait at most; more pass at once. 1…1024, default 256. */
  readonly maxHeld?: number;
  /** How long a packet waits at most. Default 250. */
  readonly holdMs?: number;
  readonly receiveBytes?: number;
  /** Calling `verdict` lets the packet pass; it may be called later, and more than once. */
  onPacket(packet: HeldPacket, verdict: () => void): void;
  /** The socket broke; it is bound again by itself. */
  onFault?(fault: Fault): void;
}

export interface NfqueueCounters extends NetlinkCounters {
  packets: number;
  /** Packets that passed because nobody had said so in time. */
  late: number;
}

type NfqueueSystem = Sockets & Clock & Pick<Disk, "read">;

const [defaultMaxHeld, mostHeld, defaultHoldMs] = [256, 1024, 250];
const [reopenMs, retryMs] = [1_000, 10];
/** Messages: subsystem 3. Attributes of a configuration (NFQA_CFG_…), and their values. */
const message = { packet: 0x300, verdict: 0x301, config: 0x302, verdicts: 0x303 } as const;
const configAttribute = { command: 1, parameters: 2, maxLength: 3, mask: 4, flags: 5 } as const;
const [bindCommand, copyPacket, failOpenFlag] = [1, 2, 1];
const copyBytes = 0xffff;
const requestFlag = 1;
const verdictAttribute = 2;
const accept = 1;
/** Ids are compared in a circle, so this must stay well below half of it. */
const allBefore = 0x100000;

/**
 * Listens to a queue.
 *
 * @throws Fault "conflict" if somebody else does, "denied" without the right, "kernel", "timeout".
 */
export async function openNfqueue(system: NfqueueSystem, options: NfqueueOptions): Promise<Nfqueue> {
  const queue = new Nfqueue(system, options);
  await queue.bind();
  return queue;
}

export class Nfqueue {
  readonly counters: NfqueueCounters = { ...newCounters(), packets: 0, late: 0 };
  readonly #system: NfqueueSystem;
  readonly #options: NfqueueOptions;
  readonly #maxHeld: number;
  readonly #holdMs: number;
  /** Id → until when; in the order of ids, which is that of instants too. */
  readonly #held = new Map<number, number>();
  #netlink: Netlink | undefined;
  /** The socket of `#netlink`, for what needs no answer: the kernel takes verdicts from who bound the queue. */
  #socket: DatagramSocket | undefined;
  #latestId = 0;
  #cancel: Cancel | undefined;
  #closed = false;

  /** Use `openNfqueue`. @throws RangeError for numbers that cannot be. */
  constructor(system: NfqueueSystem, options: NfqueueOptions) {
    const { queue, maxHeld = defaultMaxHeld, holdMs = defaultHoldMs } = options;
    if (!Number.isInteger(queue) || queue < 0 || queue > 0xffff)
      throw new RangeError(`Cannot listen: queue ${queue}`);
    if (!Number.isInteger(maxHeld) || maxHeld < 1 || maxHeld > mostHeld)
      throw new RangeError(`Cannot hold ${maxHeld} packets`);
    if (!(holdMs > 0 && holdMs <= 10_000)) throw new RangeError(`Cannot hold packets for ${holdMs} ms`);
    this.#system = system;
    this.#options = options;
    this.#maxHeld = maxHeld;
    this.#holdMs = holdMs;
  }

  /** Packets that wait. */
  get held(): number {
    return this.#held.size;
  }

  async bind(): Promise<void> {
    const { queue, receiveBytes } = this.#options;
    const watched = {
      after: (delayMs: number, call: () => void) => this.#system.after(delayMs, call),
      netlink: (...[options, handlers]: Parameters<Sockets["netlink"]>) => {
        this.#socket = this.#system.netlink(options, handlers);
        return this.#socket;
      },
    };
    const netlink = new Netlink(
      watched,
      {
        ...{ protocol: netfilterProtocol, counters: this.counters },
        ...(receiveBytes === undefined ? {} : { receiveBytes }),
      },
      {
        onEvent: (event) => this.#take(event),
        onClose: (fault) => this.#bindLater(fault),
      },
    );
    this.#netlink = netlink;
    this.#latestId = 0;
    try {
      const flags = network.bytes32(failOpenFlag);
      // In one message: a queue without a mode of copying drops what comes to it.
      await this.#configure(netlink, [
        [configAttribute.command, Uint8Array.of(bindCommand, 0, 0, 0)],
        [configAttribute.parameters, concat([network.bytes32(copyBytes), Uint8Array.of(copyPacket)])],
        [configAttribute.maxLength, network.bytes32(this.#maxHeld)],
        [configAttribute.mask, flags],
        [configAttribute.flags, flags],
      ]);
    } catch (thrown) {
      netlink.close();
      if (!(await this.#isTaken())) throw thrown;
      throw new Fault("conflict", `Cannot listen to queue ${queue}: somebody else does`, { cause: thrown });
    }
    // Closed while it was bound.
    if (this.#closed) netlink.close();
  }

  /** Lets everything pass, what waits and what comes, and then gives the queue back. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancel?.();
    const netlink = this.#netlink;
    if (!netlink) return;
    try {
      // The kernel drops what still waits in a queue that ends; one without room takes nothing more.
      await this.#configure(netlink, [[configAttribute.maxLength, network.bytes32(0)]]);
      this.#held.clear();
      // Those that we have not read yet as well: there are never so many.
      this.#send(message.verdicts, (this.#latestId + allBefore) >>> 0);
    } catch {
      // The socket is gone, and the queue with it.
    }
    netlink.close();
  }

  #configure(netlink: Netlink, list: AttributeList): Promise<void> {
    const { queue } = this.#options;
    return netlink.request({
      type: message.config,
      payload: concat([Uint8Array.of(0, 0), network.bytes16(queue), encodeAttributes(list)]),
      verb: `listen to queue ${queue}`,
    });
  }

  /** The kernel says EPERM both to those without the right and to those who come second. */
  async #isTaken(): Promise<boolean> {
    const queues = await this.#system.read("/proc/net/netfilter/nfnetlink_queue").catch(() => undefined);
    const lines = queues ? new TextDecoder().decode(queues).split("\n") : [];
    return lines.some((line) => Number.parseInt(line, 10) === this.#options.queue);
  }

  #bindLater(thrown: unknown): void {
    if (this.#closed) return;
    this.#held.clear();
    this.#cancel?.();
    this.#cancel = undefined;
    this.#options.onFault?.(
      thrown instanceof Fault ? thrown : new Fault("kernel", `Cannot listen to queue: ${messageOf(thrown)}`),
    );
    this.#system.after(reopenMs, () => {
      if (!this.#closed) this.bind().catch((again) => this.#bindLater(again));
    });
  }

  #take(event: Message): void {
    if (event.type !== message.packet) return;
    const decoded = decodeHeld(event);
    // Of one that cannot be read we know only that it is the next; it passes when its time is over.
    const id = decoded?.id ?? (this.#latestId + 1) >>> 0;
    this.#latestId = id;
    if (this.#closed) return;
    this.#held.set(id, this.#system.now() + this.#holdMs);
    this.#watch(this.#holdMs);
    if (!decoded?.packet) {
      this.counters.malformed++;
      if (decoded) this.#release(id);
      return;
    }
    this.counters.packets++;
    const socket = this.#socket;
    this.#options.onPacket(decoded.packet, () => {
      // Ids begin anew with each binding.
      if (socket === this.#socket) this.#release(id);
    });
  }

  #release(id: number): void {
    if (!this.#held.has(id)) return;
    if (this.#send(message.verdict, id)) this.#held.delete(id);
    // The kernel has no room for it: next time it goes with those whose time is over.
    else this.#held.set(id, this.#system.now());
  }

  #watch(delayMs: number): void {
    this.#cancel ??= this.#system.after(delayMs, () => {
      this.#cancel = undefined;
      this.#sweep();
    });
  }

  /** Lets pass all whose time is over, which are the first of those that wait. */
  #sweep(): void {
    const now = this.#system.now();
    const over: number[] = [];
    let nextMs: number | undefined;
    for (const [id, until] of this.#held) {
      if (until > now) {
        nextMs = until - now;
        break;
      }
      over.push(id);
    }
    if (over.length > 0) {
      if (this.#send(message.verdicts, over.at(-1)!)) {
        for (const id of over) this.#held.delete(id);
        this.counters.late += over.length;
      } else {
        nextMs = retryMs;
      }
    }
    if (nextMs !== undefined && !this.#closed) this.#watch(nextMs);
  }

  /** @returns false if the kernel has no room for the message now. */
  #send(type: number, id: number): boolean {
    const header = concat([network.bytes32(accept), network.bytes32(id)]);
    const payload = concat([
      Uint8Array.of(0, 0),
      network.bytes16(this.#options.queue),
      encodeAttributes([[verdictAttribute, header]]),
    ]);
    try {
      this.#socket!.send(encodeMessage({ type, flags: requestFlag, sequence: 0, payload }));
      return true;
    } catch {
      return false;
    }
  }
}

/** NFQA_… */
const attribute = { header: 1, inIfindex: 5, outIfindex: 6, mac: 9, payload: 10 } as const;
const attributes = new Attributes(10);
const [headerBytes, macBytes] = [4, 6];
const families = new Map<number, Family>([
  [0x0800, 4],
  [0x86dd, 6],
]);

/**
 * Reads a message with a packet that waits. All of the packet is what a stranger sent, not checked further.
 *
 * @returns undefined without id; no packet if the message is malformed otherwise or the packet is not IP.
 */
export function decodeHeld({
  bytes,
  start,
  end,
}: Message): { readonly id: number; readonly packet: HeldPacket | undefined } | undefined {
  const from = start + headerBytes;
  if (from > end || !attributes.read(bytes, from, end)) return undefined;
  const header = attributes.bytes(attribute.header);
  if (!header || header.length < 4) return undefined;
  const id = network.read32(header, 0);
  const payload = attributes.bytes(attribute.payload);
  if (header.length < 7 || !payload) return { id, packet: undefined };
  const protocol = network.read16(header, 4);
  const family = families.get(protocol);
  if (!family) return { id, packet: undefined };
  const mac = attributes.bytes(attribute.mac);
  const hasMac =
    mac !== undefined &&
    mac.length >= 4 + macBytes &&
    attributes.number16(attribute.mac, network) === macBytes;
  return {
    id,
    packet: {
      ...{ payload, family, protocol, hook: header[6]!, prefix: undefined },
      inIfindex: attributes.number32(attribute.inIfindex, network),
      outIfindex: attributes.number32(attribute.outIfindex, network),
      mac: hasMac ? decodeMac(mac, 4) : undefined,
    },
  };
}
