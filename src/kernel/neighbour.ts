/**
 * The kernel's neighbour table, steered: it is told to resolve, to ask again, to keep, to pin and to forget an
 * address on an interface, and asked what it knows of one.
 *
 *     +--------+--------+----------------+----------------+----------------+--------+--------+
 *     | family | 0      | 0              | ifindex (32)   | state (16)     | flags  | type   |  NDA_…
 *     +--------+--------+----------------+----------------+----------------+--------+--------+
 *
 * Every verb resolves when the kernel has acknowledged. That it took the order says nothing of the neighbour: what
 * comes of it is told by the watch on the table (`RouteWatch`). Entries pinned here carry our protocol number, so
 * that a later life finds them again. Keeps one socket, opened when first needed and again after a failure.
 *
 * Source: rtnetlink(7), linux/neighbour.h, net/core/neighbour.c.
 */

import { type Address, decodeMac, encodeAddress, familyOf, type Mac } from "../lib/address.ts";
import { bytesOf } from "../lib/arp.ts";
import type { Fault } from "../lib/fault.ts";
import { type AttributeList, Attributes, concat, encodeAttributes, host } from "./attribute.ts";
import {
  errnoOf,
  type Message,
  Netlink,
  type NetlinkCounters,
  type NetlinkSystem,
  newCounters,
  routeProtocol,
} from "./netlink.ts";
import { decodeNeighbour, type NeighbourState } from "./rtnetlink.ts";

/** What the kernel knows at the moment of asking. */
export interface NeighbourReading {
  readonly ifindex: number;
  readonly address: Address;
  readonly mac?: Mac;
  readonly state: NeighbourState;
  /** Since an answer, or traffic that cannot be without one, last confirmed it. */
  readonly confirmedAgoMs: number;
  /** The kernel asks again by itself (NTF_EXT_MANAGED). */
  readonly managed: boolean;
  /** Who made the entry: a routing protocol number, 0 if nobody said. */
  readonly protocol: number;
}

export interface NeighbourSteeringOptions {
  /** NDA_PROTOCOL of what is pinned here. */
  readonly protocol: number;
}

const message = { put: 28, remove: 29, get: 30 } as const;
/** NLM_F_REPLACE and NLM_F_CREATE. */
const [replace, create] = [0x100, 0x400];
const attribute = { address: 1, mac: 2, cache: 3, protocol: 12, moreFlags: 15 } as const;
/** NUD_… */
const state = { none: 0, probe: 0x10, permanent: 0x80 } as const;
/** NTF_USE and NTF_EXT_MANAGED. */
const [use, managed] = [0x01, 0x01];
const noEntry = 2;
/** The kernel tells times in hundredths of a second (USER_HZ), whatever its own clock's rate. */
const tickMs = 10;
const read = new Attributes(attribute.moreFlags);

/** Opens nothing yet. */
export function openNeighbourSteering(
  system: NetlinkSystem,
  options: NeighbourSteeringOptions,
): NeighbourSteering {
  return new NeighbourSteering(system, options);
}

export class NeighbourSteering {
  readonly counters: NetlinkCounters = newCounters();
  readonly #system: NetlinkSystem;
  readonly #protocol: number;
  #netlink: Netlink | undefined;
  #closed = false;

  /** Use `openNeighbourSteering`. */
  constructor(system: NetlinkSystem, options: NeighbourSteeringOptions) {
    this.#system = system;
    this.#protocol = options.protocol;
  }

  /**
   * Has the kernel resolve an address as if a packet were to be sent there: nothing if it is being resolved or
   * reachable; one that is stale is asked in five seconds unless something confirms it before.
   *
   * @throws Fault "not-found" (no such interface), "kernel" (the table is full), "denied", "closed", "limit".
   */
  use(ifindex: number, address: Address): Promise<void> {
    return this.#put("resolve neighbour", { ifindex, address, flags: use });
  }

  /**
   * Has the kernel ask the owner that it knows, now. @throws Fault as `use`, and "kernel" (EINVAL) if it knows none.
   */
  probe(ifindex: number, address: Address): Promise<void> {
    return this.#put("probe neighbour", { ifindex, address, state: state.probe, existing: true });
  }

  /** Has the kernel keep an address resolved by itself. A kernel before 5.16 only makes the entry. */
  manage(ifindex: number, address: Address): Promise<void> {
    const list: AttributeList = [[attribute.moreFlags, host.bytes32(managed)]];
    return this.#put("keep neighbour", { ifindex, address, list });
  }

  /** Writes an entry that neither time nor any message on the link changes. */
  pin(ifindex: number, address: Address, mac: Mac): Promise<void> {
    const list: AttributeList = [
      [attribute.mac, bytesOf(mac)],
      [attribute.protocol, Uint8Array.of(this.#protocol)],
    ];
    return this.#put("pin neighbour", { ifindex, address, state: state.permanent, list });
  }

  /** Removes an entry of any kind; one that is not there is no fault. */
  async remove(ifindex: number, address: Address): Promise<void> {
    const payload = payloadOf({ ifindex, address });
    try {
      await this.#open().request({ type: message.remove, payload, verb: "remove neighbour" });
    } catch (thrown) {
      if (errnoOf(thrown) !== noEntry) throw thrown;
    }
  }

  /** What the kernel knows of an address now; undefined if nothing. @throws Fault as `use`. */
  async read(ifindex: number, address: Address): Promise<NeighbourReading | undefined> {
    let found: NeighbourReading | undefined;
    const question = { type: message.get, payload: payloadOf({ ifindex, address }), verb: "read neighbour" };
    try {
      await this.#open().request(question, (answer) => {
        found = decodeReading(answer) ?? found;
      });
    } catch (thrown) {
      if (errnoOf(thrown) !== noEntry) throw thrown;
    }
    return found;
  }

  /** What is pinned with our protocol number, by this life or an earlier one. @throws Fault as `Netlink.dump`. */
  async pinned(): Promise<NeighbourReading[]> {
    let found: NeighbourReading[] = [];
    const question = { type: message.get, payload: new Uint8Array(12), verb: "read neighbours" };
    await this.#open().dump(question, {
      onMessage: (answer) => {
        const reading = decodeReading(answer);
        if (reading?.protocol === this.#protocol && reading.state === "permanent") found.push(reading);
      },
      onRestart: () => {
        found = [];
      },
    });
    return found;
  }

  /** Questions under way end with Fault "closed". Entries stay. */
  close(): void {
    this.#closed = true;
    this.#netlink?.close();
  }

  async #put(verb: string, entry: EntryFields): Promise<void> {
    const flags = entry.existing ? replace : create | replace;
    await this.#open().request({ type: message.put, flags, payload: payloadOf(entry), verb });
  }

  #open(): Netlink {
    if (this.#netlink) return this.#netlink;
    const netlink = new Netlink(
      this.#system,
      { protocol: routeProtocol, counters: this.counters },
      {
        onClose: (_: Fault) => {
          if (!this.#closed) this.#netlink = undefined;
        },
      },
    );
    this.#netlink = netlink;
    if (this.#closed) netlink.close();
    return netlink;
  }
}

interface EntryFields {
  readonly ifindex: number;
  readonly address: Address;
  readonly state?: number;
  readonly flags?: number;
  readonly list?: AttributeList;
  /** Only if there is one. */
  readonly existing?: boolean;
}

function payloadOf({
  ifindex,
  address,
  state: is = state.none,
  flags = 0,
  list = [],
}: EntryFields): Uint8Array {
  return concat([
    Uint8Array.of(familyOf(address) === 4 ? 2 : 10, 0, 0, 0),
    host.bytes32(ifindex),
    host.bytes16(is),
    Uint8Array.of(flags, 0),
    encodeAttributes([[attribute.address, encodeAddress(address)], ...list]),
  ]);
}

/** @returns undefined for what is no entry of IPv4 or IPv6. */
export function decodeReading(answer: Message): NeighbourReading | undefined {
  const entry = decodeNeighbour(answer);
  if (typeof entry === "string") return undefined;
  if (!read.read(answer.bytes, answer.start + 12, answer.end)) return undefined;
  const { ifindex, address, state: is } = entry;
  const mac = read.bytes(attribute.mac);
  const flags = read.number32(attribute.moreFlags, host) ?? 0;
  return {
    ...{ ifindex, address, state: is },
    ...(mac?.length === 6 ? { mac: decodeMac(mac) } : {}),
    confirmedAgoMs: (read.number32(attribute.cache, host) ?? 0) * tickMs,
    managed: (flags & managed) !== 0,
    protocol: read.byte(attribute.protocol) ?? 0,
  };
}
