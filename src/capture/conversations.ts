/**
 * What a capture file tells: who spoke with whom, who is at which MAC, and the packets of DNS.
 *
 * Kept: conversations by protocol, both ends and ports (ICMP: type), both directions in one, each with what
 * passed since it was last told; those longest silent make room. Who opened it is who was seen first, or whom
 * TCP's handshake names. Sizes are those of whole IP packets with their headers, as connection tracking counts
 * them, also of packets that the capture has cut. Kept as well: the MAC of each address on the link.
 *
 * Told are: a MAC before anything else of the same packet; then the packet if it is of port 53; conversations
 * after each second of the capture's time, and when `flush` is called at its end.
 */

import { type Address, isDeviceMac, type Mac, scopeOf } from "../lib/address.ts";
import {
  decodeAdvertisement,
  decodeArp,
  decodeFrame,
  EtherType,
  type Frame,
  senderOf,
} from "../lib/frame.ts";
import { ICMP, ICMPV6, type Packet, parsePacket, TCP, UDP } from "../lib/packet.ts";
import type { CapturedPacket } from "../lib/pcap.ts";

/** What passed since the last time it was told. */
export interface Conversation {
  /** Who opened it. */
  readonly source: Address;
  readonly destination: Address;
  readonly protocol: number;
  /** 0 where the protocol has none. */
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** Of the packet that opened it; 0 for other protocols. */
  readonly icmpType: number;
  readonly bytesOut: number;
  readonly packetsOut: number;
  readonly bytesIn: number;
  readonly packetsIn: number;
}

export interface ConversationHandlers {
  neighbour(neighbour: { readonly address: Address; readonly mac: Mac }): void;
  /** An IP packet of port 53; valid until the call returns. */
  dns(packet: Uint8Array): void;
  conversation(conversation: Conversation): void;
  /** Whether an address is one of the network that was captured, so that it has a MAC of its own. */
  isLocal(address: Address): boolean;
}

/** Why a packet is in no conversation. */
export type Unspoken =
  /** A link that is not known, or not even its header. */
  | "link"
  /** Neither IPv4 nor IPv6; ARP is among them. */
  | "other"
  /** No IP packet that makes sense. */
  | "packet"
  /** From or to nobody: multicast, broadcast, loopback, unspecified. */
  | "nobody";

type Open = { -readonly [Name in keyof Conversation]: Conversation[Name] };

const maxConversations = 16_384;
const maxAddresses = 65_536;
/** First fragments whose others may follow. */
const maxFragments = 256;
const flushMs = 1_000;
const dnsPort = 53;
const [synFlag, ackFlag] = [2, 16];
/** What senders begin with: a packet that still has it came from the sender itself, not through a router. */
const firstHops: ReadonlySet<number> = new Set([64, 128, 255]);
/** Answers and what they answer are one conversation. */
const echoRequest: ReadonlyMap<number, number> = new Map([
  [0, 8],
  [129, 128],
]);

export class Conversations {
  readonly #handlers: ConversationHandlers;
  readonly #open = new Map<string, Open>();
  /** Those to be told. */
  readonly #active = new Set<Open>();
  readonly #macs = new Map<Address, Mac>();
  readonly #local = new Map<Address, boolean>();
  readonly #fragments = new Map<string, NonNullable<Packet["ports"]>>();
  readonly #unspoken: Record<Unspoken, number> = { link: 0, other: 0, packet: 0, nobody: 0 };
  #packets = 0;
  #flushedDate = Number.NEGATIVE_INFINITY;

  constructor(handlers: ConversationHandlers) {
    this.#handlers = handlers;
  }

  /** Packets taken, and why some are in no conversation. */
  get counters(): { readonly packets: number; readonly unspoken: Readonly<Record<Unspoken, number>> } {
    return { packets: this.#packets, unspoken: { ...this.#unspoken } };
  }

  /** Never throws for what is in a packet. */
  take({ linkType, date, originalBytes, bytes }: CapturedPacket): void {
    this.#packets++;
    // Clocks that are set while a capture runs jump in either direction.
    if (date !== undefined && Math.abs(date - this.#flushedDate) >= flushMs) {
      this.flush();
      this.#flushedDate = date;
    }
    const frame = decodeFrame(linkType, bytes);
    if (!frame) {
      this.#unspoken.link++;
    } else if (frame.protocol === EtherType.ipv4 || frame.protocol === EtherType.ipv6) {
      this.#takePacket(bytes, frame, originalBytes - frame.offset);
    } else {
      this.#unspoken.other++;
      const arp = frame.protocol === EtherType.arp ? decodeArp(bytes, frame.offset) : undefined;
      if (arp) this.#place(arp.sender, arp.senderMac);
    }
  }

  /** Tells what has not been told yet. */
  flush(): void {
    for (const each of this.#active) {
      this.#handlers.conversation({ ...each });
      Object.assign(each, noTraffic);
    }
    this.#active.clear();
  }

  #takePacket(whole: Uint8Array, frame: Frame, originalBytes: number): void {
    const bytes = whole.subarray(frame.offset);
    const outcome = parsePacket(bytes);
    if (outcome.kind === "malformed") {
      this.#unspoken.packet++;
      return;
    }
    const { packet } = outcome;
    this.#placeSender({ bytes, packet, mac: senderOf(whole, frame) });
    const ports = this.#portsOf(packet);
    const { protocol } = packet;
    if (
      (protocol === UDP || protocol === TCP) &&
      (ports.source === dnsPort || ports.destination === dnsPort)
    ) {
      this.#handlers.dns(bytes);
    }
    if (frame.isGroup || !isSomebody(packet.source) || !isSomebody(packet.destination)) {
      this.#unspoken.nobody++;
      return;
    }
    this.#count({ bytes, packet, ports }, wholeBytes(bytes, packet, originalBytes));
  }

  #count(
    { bytes, packet, ports }: { bytes: Uint8Array; packet: Packet; ports: NonNullable<Packet["ports"]> },
    length: number,
  ): void {
    const { source, destination, protocol } = packet;
    const icmpType = icmpTypeOf(bytes, packet);
    const [near, far] = [`${source} ${ports.source}`, `${destination} ${ports.destination}`];
    const kind = `${protocol} ${icmpType}`;
    const key = near < far ? `${kind} ${near} ${far}` : `${kind} ${far} ${near}`;
    let open = this.#open.get(key);
    const opener = openerOf(bytes, packet);
    // The same ports the other way round: a new connection after the old one.
    if (open && opener === "source" && open.source !== source) open = undefined;
    if (!open) {
      open =
        opener === "destination"
          ? newConversation({
              source: destination,
              destination: source,
              protocol,
              icmpType,
              ports: swap(ports),
            })
          : newConversation({ source, destination, protocol, icmpType, ports });
    }
    const isOut = open.source === source && open.sourcePort === ports.source;
    open[isOut ? "bytesOut" : "bytesIn"] += length;
    open[isOut ? "packetsOut" : "packetsIn"]++;
    // Deleted and set again, it stands last. One that makes room has been told of, or is about to be.
    this.#open.delete(key);
    this.#open.set(key, open);
    this.#active.add(open);
    limit(this.#open, maxConversations);
    if (this.#active.size > maxConversations) this.flush();
  }

  /** Later fragments have no ports: they have those of the first. */
  #portsOf({ source, destination, protocol, fragment, ports }: Packet): NonNullable<Packet["ports"]> {
    if (!fragment) return ports ?? noPorts;
    const key = `${source} ${destination} ${protocol} ${fragment.id}`;
    if (ports) {
      this.#fragments.set(key, ports);
      limit(this.#fragments, maxFragments);
    }
    return this.#fragments.get(key) ?? noPorts;
  }

  #placeSender({ bytes, packet, mac }: { bytes: Uint8Array; packet: Packet; mac: Mac | undefined }): void {
    const advertised = decodeAdvertisement(bytes, packet);
    const told = advertised?.mac ?? mac;
    if (advertised && told) this.#place(advertised.address, told);
    const hops = bytes[packet.family === 4 ? 8 : 7]!;
    if (mac && firstHops.has(hops) && this.#isLocal(packet.source)) this.#place(packet.source, mac);
  }

  #place(address: Address, mac: Mac): void {
    if (this.#macs.get(address) === mac || !isSomebody(address) || !isDeviceMac(mac)) return;
    this.#macs.set(address, mac);
    limit(this.#macs, maxAddresses);
    this.#handlers.neighbour({ address, mac });
  }

  #isLocal(address: Address): boolean {
    let isLocal = this.#local.get(address);
    if (isLocal === undefined) {
      isLocal = this.#handlers.isLocal(address);
      this.#local.set(address, isLocal);
      limit(this.#local, maxAddresses);
    }
    return isLocal;
  }
}

const noPorts = { source: 0, destination: 0 };
const noTraffic = { bytesOut: 0, packetsOut: 0, bytesIn: 0, packetsIn: 0 };

function newConversation(
  about: Pick<Conversation, "source" | "destination" | "protocol" | "icmpType"> & {
    ports: NonNullable<Packet["ports"]>;
  },
): Open {
  const { ports, ...ends } = about;
  return { ...ends, sourcePort: ports.source, destinationPort: ports.destination, ...noTraffic };
}

function swap({ source, destination }: NonNullable<Packet["ports"]>): NonNullable<Packet["ports"]> {
  return { source: destination, destination: source };
}

function isSomebody(address: Address): boolean {
  const scope = scopeOf(address);
  return scope === "global" || scope === "private" || scope === "link";
}

/** Whom a packet of TCP's handshake names as the opener of the connection. */
function openerOf(bytes: Uint8Array, packet: Packet): "source" | "destination" | undefined {
  if (packet.protocol !== TCP || (packet.fragment?.offset ?? 0) > 0 || packet.payloadBytes < 14)
    return undefined;
  const flags = bytes[packet.payloadOffset + 13]!;
  if ((flags & synFlag) === 0) return undefined;
  return (flags & ackFlag) === 0 ? "source" : "destination";
}

function icmpTypeOf(bytes: Uint8Array, packet: Packet): number {
  const isIcmp = packet.protocol === (packet.family === 4 ? ICMP : ICMPV6);
  if (!isIcmp || packet.payloadBytes < 1 || (packet.fragment?.offset ?? 0) > 0) return 0;
  const type = bytes[packet.payloadOffset]!;
  return echoRequest.get(type) ?? type;
}

/** The length of the packet before the capture cut it. Offloaded ones say 0, then it is what the link carried. */
function wholeBytes(bytes: Uint8Array, packet: Packet, originalBytes: number): number {
  const at = packet.family === 4 ? 2 : 4;
  const said = (bytes[at]! << 8) | bytes[at + 1]!;
  if (said === 0) return originalBytes;
  return packet.family === 4 ? said : 40 + said;
}

/** Forgets what was set first. */
function limit<Key>(map: Map<Key, unknown>, size: number): void {
  if (map.size > size) map.delete(map.keys().next().value!);
}
