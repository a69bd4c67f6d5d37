/**
 * Discovery between connected services, joined to the machine: what hosts of the managed segments say to all is
 * heard, and told to whom isolation says.
 *
 *     multicast DNS  host ──► 224.0.0.251, ff02::fb ──► Relay ──► the same group, but in a frame to one MAC
 *                             or back to us alone                  from the router's own address, port 5353
 *     SSDP           host ──► 239.255.255.250 … ──────► Relay ──► the same group, in a frame to one MAC ┐ from the
 *     broadcasts     host ──► the subnet's, or all ───► Relay ──► the hearer's own address              ┘ sender's
 *                                                                                     stand-in and its port
 *
 * Each hearer gets a frame of its own, so that nobody else on its segment hears it; the group stays, because an
 * answer of multicast DNS that nobody asked for by unicast must be ignored (RFC 6762 §6), and because who listens to
 * a group may be bound to it. These frames pass no rule and no connection tracking here, so the answer to a stand-in
 * is a beginning of its own. Where the hearer may not begin, the kernel is told of a connection first, to which the
 * answer belongs if it comes from the port that was asked.
 *
 * Kept by interface: its addresses, and an ear for each family that it has some of. Changed by `place` and `remove`.
 * Kept by its ends: each connection that was opened for an answer, for as long as that may take.
 */

import { type Isolation, Relay, type RelayCounters, type Relayed } from "../isolation/isolation.ts";
import {
  type InterfaceAddress,
  type Link,
  type Opening,
  Openings,
  openNeighbourSteering,
} from "../kernel/kernel.ts";
import { type Address, broadcastOf, type Family, familyOf, scopeOf } from "../lib/address.ts";
import { bytesOf } from "../lib/arp.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import { encodeUdp, type UdpFields } from "../lib/udp.ts";
import type { Cancel, Clock, Sockets, System } from "../system/system.ts";
import { Delivery, type DeliveryCounters } from "./delivery.ts";
import { Ear, frameOf, mdnsGroups, mdnsPort, type Overheard, type Own, readFrame } from "./ear.ts";
import { ourProtocol } from "./protocol.ts";

export interface DiscoveryCounters extends RelayCounters, DeliveryCounters {
  /** Parts of datagrams, which are not put together. */
  fragments: number;
  /** No packet that makes sense. */
  unreadable: number;
  /** Multicast DNS from another port than its own: nobody could be told the answer. */
  foreign: number;
  /** Times that the kernel dropped some because we were slow. */
  overruns: number;
  /** Answers that the kernel was not told of: they do not pass. */
  unopened: number;
}

interface Place extends Own {
  readonly ifindex: number;
  readonly device: string;
  readonly mac: Uint8Array;
  readonly ears: Map<Family, Ear>;
}

/** How far what is relayed may go: multicast DNS says that it has passed no router, the rest passes none. */
const hops = { mdns: 255, broadcast: 1 } as const;
/** After a refusal of the kernel, the next try. */
const retryMs = 5_000;
/** How long a hearer may take to answer; of those that may not begin by themselves so many are waited for. */
const answerSeconds = 30;
const maxOpened = 1_024;
const families = [4, 6] as const;

export type DiscoverySystem = Pick<Sockets, "packet" | "udp" | "netlink"> & Clock & Pick<System, "log">;

export class Discovery {
  readonly #system: DiscoverySystem;
  readonly #isolation: Isolation;
  readonly #relay: Relay;
  readonly #delivery: Delivery;
  readonly #places = new Map<number, Place>();
  readonly #byDevice = new Map<string, Place>();
  readonly #openings: Openings;
  /** Connections opened for an answer → until when they are waited for; the oldest first. */
  readonly #opened = new Map<string, number>();
  readonly #heard = { fragments: 0, unreadable: 0, foreign: 0, overruns: 0, unopened: 0 };
  #cancelRetry: Cancel | undefined;
  #closed = false;

  /** Opens nothing yet. */
  constructor(system: DiscoverySystem, isolation: Isolation) {
    this.#system = system;
    this.#isolation = isolation;
    this.#relay = new Relay({ isolation });
    this.#openings = new Openings(system);
    this.#delivery = new Delivery(system, openNeighbourSteering(system, { protocol: ourProtocol }));
  }

  get counters(): DiscoveryCounters {
    return { ...this.#relay.counters, ...this.#delivery.counters, ...this.#heard };
  }

  /**
   * A device is there, with all its addresses; to be said again when they change. One that is down, of no segment or
   * of one without discovery, or that has no Ethernet, is not heard. Never throws: what cannot be opened is logged,
   * and tried again.
   */
  place(link: Link, addresses: readonly InterfaceAddress[]): void {
    const { ifindex, name: device, mac, up } = link;
    if (this.#closed) return;
    if (!up || mac === undefined || !this.#isolation.parts.segments.of(device)?.mdns) {
      this.remove(ifindex);
      return;
    }
    const before = this.#places.get(ifindex);
    // A device under another name is another device.
    if (before && before.device !== device) this.remove(ifindex);
    const ears = this.#places.get(ifindex)?.ears ?? new Map<Family, Ear>();
    const broadcasts = addresses.map(({ address, prefixLength }) => broadcastOf(address, prefixLength));
    const place: Place = {
      ...{ ifindex, device, mac: bytesOf(mac), ears },
      addresses: new Set(addresses.map(({ address }) => address)),
      broadcasts: new Set(broadcasts.filter((each) => each !== undefined)),
    };
    this.#places.set(ifindex, place);
    this.#byDevice.set(device, place);
    this.#tune(place);
  }

  /** Has the kernel find out whether an address is there, and where. */
  meet(ifindex: number, address: Address): void {
    this.#delivery.meet({ ifindex, address });
  }

  /** The same for an address that the kernel has dropped. */
  meetAgain(ifindex: number, address: Address): void {
    this.#delivery.meetAgain({ ifindex, address });
  }

  /** A device is gone, or down. */
  remove(ifindex: number): void {
    const place = this.#places.get(ifindex);
    if (!place) return;
    this.#places.delete(ifindex);
    if (this.#byDevice.get(place.device) === place) this.#byDevice.delete(place.device);
    for (const ear of place.ears.values()) ear.close();
    this.#delivery.forget(ifindex);
  }

  close(): void {
    this.#closed = true;
    this.#cancelRetry?.();
    for (const ifindex of [...this.#places.keys()]) this.remove(ifindex);
    this.#delivery.close();
    this.#openings.close();
  }

  /** Has an ear for each family that a device has addresses of, and for no other. */
  #tune({ ifindex, device, addresses, ears }: Place): void {
    const wanted = new Set([...addresses].map(familyOf));
    for (const family of families) {
      const ear = ears.get(family);
      if (ear && !wanted.has(family)) {
        ear.close();
        ears.delete(family);
      }
      if (ear || !wanted.has(family)) continue;
      try {
        ears.set(family, this.#listen(ifindex, family));
      } catch (thrown) {
        this.#system.log("warning", `Cannot relay discovery on ${device}: ${messageOf(thrown)}`);
        this.#retry();
      }
    }
  }

  #listen(ifindex: number, family: Family): Ear {
    const ear: Ear = new Ear(
      this.#system,
      { ifindex, family },
      {
        onFrame: (frame) => this.#hear(ifindex, frame),
        onOverrun: () => void this.#heard.overruns++,
        onLost: () => {
          const ears = this.#places.get(ifindex)?.ears;
          if (ears?.get(family) !== ear) return;
          ears.delete(family);
          this.#retry();
        },
      },
    );
    return ear;
  }

  #retry(): void {
    this.#cancelRetry ??= this.#system.after(retryMs, () => {
      this.#cancelRetry = undefined;
      for (const place of this.#places.values()) this.#tune(place);
    });
  }

  #hear(ifindex: number, frame: Uint8Array): void {
    const place = this.#places.get(ifindex);
    if (!place) return;
    const said = readFrame(frame, place);
    if (said === "other") return;
    if (said === "fragment") this.#heard.fragments++;
    else if (said === "unreadable") this.#heard.unreadable++;
    else if (said === "foreign") this.#heard.foreign++;
    else {
      this.#meet(place, said.source);
      this.#pass(place.device, said);
    }
  }

  /** Who speaks from a link-local address is known by its MAC, as the kernel's neighbours tell it. */
  #meet({ ifindex, device }: Place, source: Address): void {
    if (scopeOf(source) !== "link") return;
    const known = this.#isolation.parts.reach.at(device, source, this.#system.now());
    if (!known) this.#delivery.meet({ ifindex, address: source });
  }

  #pass(device: string, { kind, source, sourcePort, destinationPort, group, data }: Overheard): void {
    const now = this.#system.now();
    if (kind === "mdns") {
      for (const relayed of this.#relay.mdns({ device, source, bytes: data }, now)) {
        const destination = mdnsGroups[familyOf(relayed.to)];
        this.#tell(relayed, {
          destination,
          sourcePort: mdnsPort,
          destinationPort: mdnsPort,
          hops: hops.mdns,
        });
      }
      return;
    }
    const heard = {
      device,
      source,
      ports: { source: sourcePort, destination: destinationPort },
      bytes: data,
    };
    for (const relayed of this.#relay.broadcast(heard, now)) {
      const destination = group ?? relayed.to;
      this.#tell(relayed, { destination, sourcePort, destinationPort, hops: hops.broadcast });
    }
  }

  #tell(relayed: Relayed, way: Omit<UdpFields, "source" | "data">): void {
    const { device, to, from, answered } = relayed;
    const place = this.#byDevice.get(device);
    if (!place) {
      // Its segment has no discovery, or it went this moment.
      this.#delivery.counters.unreached++;
      return;
    }
    const packet = encodeUdp({ source: from, data: relayed.bytes, ...way });
    const { ifindex } = place;
    const deliver = () =>
      this.#delivery.deliver({ ifindex, address: to }, (mac) => {
        // Meanwhile the device may have another MAC, or none.
        const sender = this.#places.get(ifindex);
        const ear = sender?.ears.get(familyOf(to));
        if (!sender || !ear) throw new Fault("closed", `Cannot tell ${to}: ${device} is gone`);
        ear.send(frameOf(packet, { from: sender.mac, to: mac }));
      });
    if (!answered) {
      deliver();
      return;
    }
    const { sourcePort, destinationPort: targetPort } = way;
    const ends = { source: answered.source, standin: answered.standIn, target: to, sourceStandin: from };
    void this.#open({ ...ends, sourcePort, targetPort, seconds: answerSeconds }).then(deliver);
  }

  /** Has the kernel let an answer through, or takes note that it does not. Never rejects. */
  async #open(opening: Opening): Promise<void> {
    const now = this.#system.now();
    const key = Object.values(opening).join(" ");
    for (const [old, until] of this.#opened) {
      if (until > now) break;
      this.#opened.delete(old);
    }
    if (this.#opened.has(key)) return;
    if (this.#opened.size >= maxOpened) {
      this.#heard.unopened++;
      return;
    }
    this.#opened.set(key, now + answerSeconds * 1_000);
    try {
      await this.#openings.open(opening);
    } catch {
      this.#opened.delete(key);
      this.#heard.unopened++;
    }
  }
}
