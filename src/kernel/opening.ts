/**
 * Connections made before a packet of them has passed: for a datagram that somebody else carried, so that its answer
 * is led back as if the rules had led the datagram.
 *
 *     source ──(to its stand-in for the target)──► target        what the connection remembers: the answer from
 *     source ◄──(from that stand-in)────────────── target        `target` to `sourceStandin`, port by port
 *
 * The answer passes as that of any other connection: while the isolation in force has a route for it, and no longer.
 * The kernel forgets a connection that nobody used in time. Keeps one socket, opened when first needed and again after
 * a failure.
 *
 * Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
 */

import { type Address, encodeAddress, type Family, familyOf } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { UDP } from "../lib/packet.ts";
import { type AttributeList, concat, encodeAttributes, network } from "./attribute.ts";
import { connectionMessage } from "./connection.ts";
import { Netlink, type NetlinkSystem, netfilterProtocol } from "./netlink.ts";

/** A datagram of UDP on its way, as a route or its translation has it; all addresses of one family. */
export interface Opening {
  readonly source: Address;
  /** Whom the source writes to. */
  readonly standin: Address;
  readonly target: Address;
  /** Whom the target sees, and answers. */
  readonly sourceStandin: Address;
  readonly sourcePort: number;
  readonly targetPort: number;
  /** How long the answer may take. */
  readonly seconds: number;
}

/** CTA_…, CTA_TUPLE_…, CTA_IP_…, CTA_PROTO_…, CTA_NAT_…: numbers of the kernel. */
const attribute = { original: 1, reply: 2, sourceNat: 6, timeout: 7, destinationNat: 13 } as const;
const tupleAttribute = { ip: 1, protocol: 2 } as const;
const ipAttribute = { 4: { source: 1, destination: 2 }, 6: { source: 3, destination: 4 } } as const;
const protocolAttribute = { number: 1, sourcePort: 2, destinationPort: 3 } as const;
const natAttribute = { 4: 1, 6: 4 } as const;
const families = { 4: 2, 6: 10 } as const;
/** NLM_F_CREATE and NLM_F_EXCL. */
const [create, exclusive] = [0x400, 0x200];

/** Opens nothing yet. */
export class Openings {
  readonly #system: NetlinkSystem;
  #netlink: Netlink | undefined;
  #closed = false;

  constructor(system: NetlinkSystem) {
    this.#system = system;
  }

  /**
   * Resolves when the connection is there; one that was there before is no fault.
   *
   * @throws TypeError for addresses of two families; Fault "kernel", "denied", "closed", "limit", "unsupported" (no
   *   translation in this kernel).
   */
  async open(opening: Opening): Promise<void> {
    const payload = encodeOpening(opening);
    try {
      await this.#socket().request({
        ...{ type: connectionMessage.new, flags: create | exclusive, payload },
        verb: "open connection",
      });
    } catch (thrown) {
      if (!(thrown instanceof Fault && thrown.code === "conflict")) throw thrown;
    }
  }

  close(): void {
    this.#closed = true;
    this.#netlink?.close();
  }

  #socket(): Netlink {
    if (this.#netlink) return this.#netlink;
    const netlink = new Netlink(
      this.#system,
      { protocol: netfilterProtocol },
      {
        onClose: () => {
          if (!this.#closed) this.#netlink = undefined;
        },
      },
    );
    this.#netlink = netlink;
    if (this.#closed) netlink.close();
    return netlink;
  }
}

function encodeOpening(opening: Opening): Uint8Array {
  const { source, standin, target, sourceStandin, sourcePort, targetPort, seconds } = opening;
  const family = familyOf(source);
  for (const each of [standin, target, sourceStandin])
    if (familyOf(each) !== family)
      throw new TypeError(`Cannot open connection: ${source} and ${each} are of two families`);
  const [here, there] = [
    { address: source, port: sourcePort },
    { address: standin, port: targetPort },
  ];
  return concat([
    Uint8Array.of(families[family], 0, 0, 0),
    encodeAttributes([
      [attribute.original, tuple(family, here, there)],
      [attribute.reply, tuple(family, there, here)],
      [attribute.timeout, network.bytes32(seconds)],
      // The kernel makes the answer's tuple out of these.
      [attribute.destinationNat, [[natAttribute[family], encodeAddress(target)]]],
      [attribute.sourceNat, [[natAttribute[family], encodeAddress(sourceStandin)]]],
    ]),
  ]);
}

interface End {
  readonly address: Address;
  readonly port: number;
}

function tuple(family: Family, from: End, to: End): AttributeList {
  const ip = ipAttribute[family];
  return [
    [
      tupleAttribute.ip,
      [
        [ip.source, encodeAddress(from.address)],
        [ip.destination, encodeAddress(to.address)],
      ],
    ],
    [
      tupleAttribute.protocol,
      [
        [protocolAttribute.number, Uint8Array.of(UDP)],
        [protocolAttribute.sourcePort, network.bytes16(from.port)],
        [protocolAttribute.destinationPort, network.bytes16(to.port)],
      ],
    ],
  ];
}
