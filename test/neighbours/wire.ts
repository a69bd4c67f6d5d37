/**
 * A link in memory with hosts on it, for tests of the neighbours: what is sent is kept, and answered as each host
 * would, at once unless told otherwise. The clock is the fake machine's.
 */

import type { Link as KernelLink, Neighbour } from "../../src/kernel/kernel.ts";
import type { Address, Mac } from "../../src/lib/address.ts";
import {
  decodeSpoken,
  encodeAdvertisement,
  encodeArpReply,
  linkLocalOf,
  type Spoken,
} from "../../src/lib/arp.ts";
import { Fault } from "../../src/lib/fault.ts";
import {
  type Event,
  type Evidence,
  type Link,
  Neighbours,
  type NeighboursOptions,
  type Reading,
  type Steer,
} from "../../src/neighbours/neighbours.ts";
import { Machine } from "../fake/machine.ts";

export const ownMac = "02:00:00:00:00:01" as Mac;
export const [macA, macB, macC] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"] as [
  Mac,
  Mac,
  Mac,
];
export const [hostA, hostB, hostC] = ["192.0.2.10", "192.0.2.11", "192.0.2.12"] as [
  Address,
  Address,
  Address,
];
export const host6 = "2001:db8::10" as Address;

/** A question as it went out. */
export interface Sent extends Spoken {
  /** To whom, or to all. */
  readonly to: Mac | "all";
  readonly at: number;
}

export class Wire implements Link {
  readonly address = ownMac;
  readonly sent: Sent[] = [];
  /** Takes no packets any more. */
  broken = false;
  /** Which host answers for which address. Several may. */
  readonly hosts: { readonly mac: Mac; readonly addresses: readonly Address[]; readonly delayMs?: number }[] =
    [];
  readonly #machine: Machine;
  readonly #receivers = new Set<(packet: Uint8Array, from: Mac) => void>();

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** Who listens. */
  get listeners(): number {
    return this.#receivers.size;
  }

  /** Questions for an address. */
  asked(address: Address): Sent[] {
    return this.sent.filter(({ about }) => about === address);
  }

  broadcast(packet: Uint8Array): void {
    this.#take(packet, "all");
  }

  transmit(packet: Uint8Array, to: Mac): void {
    this.#take(packet, to);
  }

  onReceive(receive: (packet: Uint8Array, from: Mac) => void): () => void {
    const receiver = (packet: Uint8Array, from: Mac) => receive(packet, from);
    this.#receivers.add(receiver);
    return () => void this.#receivers.delete(receiver);
  }

  /** A packet comes in, whoever sends it. */
  deliver(packet: Uint8Array, from: Mac): void {
    for (const receive of [...this.#receivers]) receive(packet, from);
  }

  #take(packet: Uint8Array, to: Mac | "all"): void {
    if (this.broken) throw new Fault("kernel", "Cannot send on interface 3: network is down (ENETDOWN)");
    const spoken = decodeSpoken(packet);
    if (typeof spoken === "string") throw new Error(`sent what nobody understands: ${spoken}`);
    this.sent.push({ ...spoken, to, at: this.#machine.now() });
    for (const { mac, addresses, delayMs = 0 } of [...this.hosts]) {
      if (!addresses.includes(spoken.about) || (to !== "all" && to !== mac)) continue;
      const answer = () => this.deliver(answerTo(spoken, mac), mac);
      if (delayMs === 0) answer();
      else this.#machine.after(delayMs, answer);
    }
  }
}

/** What an honest host answers. */
export function answerTo({ about, sender, mac: asker }: Spoken, mac: Mac): Uint8Array {
  return about.includes(":")
    ? encodeAdvertisement({
        ...{ source: about, destination: sender, target: about, mac },
        ...{ solicited: true, override: true },
      })
    : encodeArpReply({ senderMac: mac, sender: about, target: sender, ...(asker && { targetMac: asker }) });
}

/** A kernel whose table the test writes, and which keeps what it was told. */
export class FakeKernel implements Steer {
  readonly orders: string[] = [];
  readonly readings = new Map<Address, Reading>();
  refuse: Error | undefined;

  use = (ifindex: number, address: Address) => this.#note(`use ${ifindex} ${address}`);
  probe = (ifindex: number, address: Address) => this.#note(`probe ${ifindex} ${address}`);
  manage = (ifindex: number, address: Address) => this.#note(`manage ${ifindex} ${address}`);
  pin = (ifindex: number, address: Address, mac: Mac) => this.#note(`pin ${ifindex} ${address} ${mac}`);
  remove = (ifindex: number, address: Address) => this.#note(`remove ${ifindex} ${address}`);
  read = async (ifindex: number, address: Address) => {
    this.orders.push(`read ${ifindex} ${address}`);
    return this.readings.get(address);
  };
  pinned = async () => [...this.readings.values()].filter(({ state }) => state === "permanent");

  async #note(order: string): Promise<void> {
    this.orders.push(order);
    if (this.refuse) throw this.refuse;
  }
}

export interface Stage {
  readonly machine: Machine;
  readonly wire: Wire;
  readonly kernel: FakeKernel;
  readonly neighbours: Neighbours;
  readonly events: Event[];
  readonly evidence: Evidence[];
  /** The kernel's table has this now. */
  tell(address: Address, state: Neighbour["state"], mac?: Mac): void;
}

export const lan: KernelLink = { ifindex: 3, name: "lan", mac: ownMac, up: true, running: true };

/** One device `lan` (3) with 192.0.2.1/24 and its link-local address; without a kernel to steer unless told. */
export function stage(options: Partial<NeighboursOptions> & { readonly steered?: boolean } = {}): Stage {
  const machine = new Machine();
  const wire = new Wire(machine);
  const kernel = new FakeKernel();
  const events: Event[] = [];
  const evidence: Evidence[] = [];
  const { steered = false, ...rest } = options;
  const neighbours = new Neighbours(machine, {
    openLink: () => wire,
    onEvent: (event) => events.push(event),
    onEvidence: (each) => evidence.push(each),
    ...(steered ? { steer: kernel } : {}),
    ...rest,
  });
  neighbours.link(lan);
  for (const [address, prefixLength] of [
    ["192.0.2.1" as Address, 24],
    [linkLocalOf(ownMac), 64],
    ["2001:db8::1" as Address, 64],
  ] as const) {
    neighbours.ownAddress({ ifindex: 3, address, prefixLength, flags: 0x80 }, true);
  }
  const tell = (address: Address, state: Neighbour["state"], mac?: Mac) =>
    neighbours.entry({ ifindex: 3, address, state, router: false, ...(mac && { mac }) }, false);
  return { machine, wire, kernel, neighbours, events, evidence, tell };
}
