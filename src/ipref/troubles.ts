/**
 * What the network says about tunnel packets, told to the hosts of the LAN that sent what was in them.
 *
 * A peer that cannot be reached is answered with "host unreachable", a path that is narrower than was believed is
 * learned and answered with "fragmentation needed". Either is written as a tunnel packet of our own, about the packet
 * that was lost, and goes the way of packets from the tunnel, which translates what it quotes and finds the host.
 * Errors of the network quote what they like: a quote that has no whole header is learned from and not answered.
 */

import { fold, put16, sumOf } from "../lib/checksum.ts";
import { ICMP } from "../lib/packet.ts";
import { ErrorRow, nameLength, rowLength } from "../system/packets.ts";
import { Count } from "./counts.ts";
import { decodeHeader, encodeHeader, Header, outerBytes } from "./header.ts";
import type { Paths } from "./paths.ts";
import type { ForwardSettings } from "./settings.ts";
import { type Shared, Wire } from "./shared.ts";

const errorSlots = 16;
const errorBytes = 1_280;
const mostQuoted = 520;
const longestHeader = 76;
const icmpHeaderBytes = 8;
const [host, tooLong] = [1, 4];
/** SO_EE_ORIGIN_LOCAL, _ICMP, _ICMP6. */
const Origin = { local: 1, icmp: 2, icmp6: 3 } as const;
const ratePerSecond = 100;
const burst = 100;

export interface TroublesOptions {
  readonly settings: ForwardSettings;
  readonly paths: Paths;
  /** Forwards a packet that seems to come from the address in `names`. */
  tell(names: Uint8Array, packet: Uint8Array): void;
}

export class Troubles {
  readonly #shared: Shared;
  readonly #options: TroublesOptions;
  readonly #arena = new Uint8Array(errorSlots * errorBytes);
  readonly #names = new Uint8Array(errorSlots * nameLength);
  readonly #rows = new Int32Array(errorSlots * rowLength);
  readonly #quoted = new Header();
  readonly #header = new Header();
  readonly #packet = new Uint8Array(longestHeader + icmpHeaderBytes + mostQuoted);
  readonly #from = new Uint8Array(nameLength);
  #tokens = burst;
  #tokensAt = 0;

  constructor(shared: Shared, options: TroublesOptions) {
    this.#shared = shared;
    this.#options = options;
  }

  /** Reads what the socket was told. */
  turn(): void {
    for (let round = 0; round < 4; round++) {
      const count = this.#shared.machine.errors(Wire, this.#arena, errorBytes, this.#names, this.#rows);
      for (let index = 0; index < count; index++) this.#one(index);
      if (count < errorSlots) return;
    }
  }

  /** The kernel knows no way for a packet of ours. */
  unreachable(arena: Uint8Array, offset: number, length: number): void {
    this.#tell({ arena, offset, length }, { code: host, mtuBytes: 0 });
  }

  #one(index: number): void {
    const { counts, gateways } = this.#shared;
    const row = this.#rows.subarray(index * rowLength, (index + 1) * rowLength);
    const [origin, type, code] = [row[ErrorRow.origin]!, row[ErrorRow.icmpType]!, row[ErrorRow.icmpCode]!];
    const mtuBytes = row[ErrorRow.mtu]!;
    const isBig =
      origin === Origin.local
        ? mtuBytes > 0
        : origin === Origin.icmp
          ? type === 3 && code === 4
          : origin === Origin.icmp6 && type === 2;
    const quote = { arena: this.#arena, offset: row[ErrorRow.offset]!, length: row[ErrorRow.length]! };
    if (isBig) {
      counts.add(Count.tooLong, 1);
      if (row[ErrorRow.name] === gateways.nameBytes) {
        this.#options.paths.learn(this.#names, index * nameLength + gateways.addressAt, mtuBytes);
      }
      const room = mtuBytes - outerBytes[this.#options.settings.tunnelFamily];
      if (room > 0) this.#tell(quote, { code: tooLong, mtuBytes: room });
      return;
    }
    const isGone = (origin === Origin.icmp && type === 3) || (origin === Origin.icmp6 && type === 1);
    if (!isGone) return;
    counts.add(Count.gone, 1);
    this.#tell(quote, { code: host, mtuBytes: 0 });
  }

  #tell(
    lost: { readonly arena: Uint8Array; readonly offset: number; readonly length: number },
    what: { readonly code: number; readonly mtuBytes: number },
  ): void {
    const { settings } = this.#options;
    const quoted = this.#quoted;
    const wrong = decodeHeader(quoted, lost.arena, { at: lost.offset, length: lost.length, cut: true });
    if (wrong >= 0 || quoted.family !== settings.tunnelFamily || quoted.fragmentOffset > 0) return;
    const transport = lost.arena[lost.offset + quoted.length];
    if (quoted.protocol === ICMP && transport !== 0 && transport !== 8) return;
    if (!this.#mayTell()) return;
    const header = this.#header;
    const isKnown = settings.ownContext.some((byte) => byte !== 0);
    header.family = quoted.family;
    header.ttl = 64;
    header.protocol = ICMP;
    header.dontFragment = false;
    header.fragmented = false;
    // By the gateway itself; while it doesn't know its own address, by the remote host.
    header.source = isKnown ? settings.ownContext : quoted.destination;
    header.sourceAt = isKnown ? 0 : quoted.destinationAt;
    header.sourceReference = isKnown ? settings.ownReference : quoted.destinationReference;
    header.destination = quoted.source;
    header.destinationAt = quoted.sourceAt;
    header.destinationReference = quoted.sourceReference;
    const packet = this.#packet;
    const at = encodeHeader(header, packet);
    const length = Math.min(mostQuoted, lost.length);
    packet.fill(0, at, at + icmpHeaderBytes);
    packet[at] = 3;
    packet[at + 1] = what.code;
    put16(packet, at + 6, what.mtuBytes);
    packet.set(lost.arena.subarray(lost.offset, lost.offset + length), at + icmpHeaderBytes);
    put16(packet, at + 2, ~fold(sumOf(packet, at, icmpHeaderBytes + length)) & 0xffff);
    const { addressAt } = this.#shared.gateways;
    const addressBytes = quoted.family === 4 ? 4 : 16;
    for (let index = 0; index < addressBytes; index++) {
      this.#from[addressAt + index] = header.source[header.sourceAt + index]!;
    }
    this.#options.tell(this.#from, packet.subarray(0, at + icmpHeaderBytes + length));
  }

  #mayTell(): boolean {
    const { now } = this.#shared;
    this.#tokens = Math.min(burst, this.#tokens + ((now - this.#tokensAt) / 1_000) * ratePerSecond);
    this.#tokensAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}
