/**
 * The engine of the data plane: one thread that moves packets between a TUN and a UDP socket, both ways.
 *
 * It blocks until a queue has something, moves a batch in each direction, and blocks again; it waits for nothing else.
 * Its owner's messages come between batches. It keeps no state of flows: besides what the mappings say there are the
 * ports of gateways (gateways.ts), what narrow paths were learned, the few packets that wait for a mapping (held.ts)
 * and the questions that are open (asking.ts), all of them bounded. Nothing that the network does ends it; a TUN that
 * is gone does, since nothing can be done without it.
 */

import { type PacketMachine, Ready, Trouble, vnetLength } from "../system/packets.ts";
import { Asking, type ToOwner, type ToThread } from "./asking.ts";
import { Count, type Counts } from "./counts.ts";
import { Inward, Outward, Paths } from "./forward.ts";
import { Gateways, type GatewaysMemory } from "./gateways.ts";
import { Held } from "./held.ts";
import { Incoming } from "./incoming.ts";
import type { Lookup } from "./lookup.ts";
import { Outbox } from "./outbox.ts";
import { Outgoing } from "./outgoing.ts";
import type { ForwardSettings } from "./settings.ts";
import { type Shared, Tun, Wire } from "./shared.ts";
import { Troubles } from "./troubles.ts";

/** Errors per second that hosts of the LAN, and peers, are told; half as many in a row. */
const answersPerSecond = 200;
const mostAnswers = 100;
const ageMs = 30_000;
const pathMs = 600_000;
/** How often what waits is looked through while something does. */
const lapseMs = 250;
/** While batches come one after the other: turns from one look at what the network complains of to the next. */
const lookEvery = 32;
/** How long nothing may happen before we look up. */
const idleMs = 10_000;
/** Longest packet to the LAN that is written apart. */
const tellBytes = 65_535 + vnetLength;

export interface EngineOptions {
  readonly machine: PacketMachine;
  readonly settings: ForwardSettings;
  /** Of the mappings; `enter` and `leave` are called around each batch, between which its offsets hold. */
  readonly lookup: Lookup & { enter?(): void; leave?(): void };
  readonly counts: Counts;
  /** What former threads have learned of gateways. */
  readonly gateways: GatewaysMemory;
  /** Of gateways that were not heard yet. */
  readonly port: number;
  /** Who may make mappings by sending to us. */
  readonly contexts: readonly Uint8Array[] | "all";
  /** Whether the TUN takes super-packets of UDP. */
  readonly joinsUdp: boolean;
  post(message: ToOwner): void;
}

export class Engine {
  readonly gateways: Gateways;
  readonly #options: EngineOptions;
  readonly #machine: PacketMachine;
  readonly #shared: Shared;
  readonly #paths: Paths;
  readonly #hosts: Paths;
  readonly #outward: Outward;
  readonly #inward: Inward;
  readonly #outgoing: Outgoing;
  readonly #incoming: Incoming;
  readonly #troubles: Troubles;
  readonly #wire: Outbox;
  readonly #tun: Outbox;
  /** For `wait`: TUN, socket, owner. */
  readonly #ready = Int32Array.of(0, Ready.in, 0, 0, Ready.in, 0, 0, Ready.in, 0);
  /** Packets may have been left in a queue. */
  #more = false;
  /** Turns without a wait. */
  #busy = 0;
  #agedAt = 0;
  #clearedAt = 0;
  #lapsedAt = 0;
  #refilledAt = 0;

  constructor(options: EngineOptions) {
    const { machine, settings, lookup, counts } = options;
    this.#options = options;
    this.#machine = machine;
    this.gateways = new Gateways({
      family: settings.tunnelFamily,
      port: options.port,
      memory: options.gateways,
    });
    this.gateways.list(options.contexts);
    this.#paths = new Paths(settings.tunnelFamily, settings.tunnelMtuBytes);
    this.#hosts = new Paths(settings.lanFamily, settings.lanMtuBytes);
    const paths = { lookup, settings, paths: this.#paths, hosts: this.#hosts };
    this.#outward = new Outward({ ...paths, counts: counts.dropsOut });
    this.#inward = new Inward({ ...paths, peers: this.gateways, counts: counts.dropsIn });
    const own = new Uint8Array(tellBytes);
    const shared: Shared = {
      machine,
      lookup,
      counts,
      gateways: this.gateways,
      asking: new Asking((message) => options.post(message)),
      held: new Held(),
      lanBytes: settings.lanFamily === 4 ? 4 : 16,
      tunnelBytes: settings.tunnelFamily === 4 ? 4 : 16,
      now: machine.now(),
      tellLan: (packet, length) => {
        own.set(packet.subarray(0, length), vnetLength);
        this.#tun.select(own);
        this.#tun.add(0, vnetLength + length, 0);
        this.#tun.flush();
      },
    };
    this.#shared = shared;
    this.#wire = new Outbox(machine, {
      queue: Wire,
      onLost: (trouble, arena, { offset, length }) => {
        if (trouble === Trouble.unreachable || trouble === Trouble.denied) {
          counts.add(Count.unreachable, 1);
          this.#troubles.unreachable(arena, offset, length);
        } else counts.add(trouble === Trouble.again ? Count.full : Count.failed, 1);
      },
    });
    this.#tun = new Outbox(machine, { queue: Tun, onLost: () => counts.add(Count.tunFailed, 1) });
    this.#outgoing = new Outgoing(shared, this.#outward, this.#wire);
    const out = { tun: this.#tun, wire: this.#wire };
    this.#incoming = new Incoming(shared, this.#inward, out, { joinsUdp: options.joinsUdp });
    this.#troubles = new Troubles(shared, {
      settings,
      paths: this.#paths,
      tell: (names, packet) => this.#incoming.tell(names, packet),
    });
    const { now } = shared;
    this.#agedAt = now;
    this.#clearedAt = now;
    this.#lapsedAt = now;
    this.#refilledAt = now;
    this.#outward.tokens = mostAnswers;
    this.#inward.tokens = mostAnswers;
  }

  /**
   * Waits, at most `longestMs`, and moves what is there, at most a batch in each direction.
   *
   * @returns whether there was anything.
   * @throws Error if the TUN is gone.
   */
  turn(longestMs = idleMs): boolean {
    const { lookup } = this.#options;
    const ready = this.#ready;
    let out = true;
    let into = true;
    if (!this.#more) {
      lookup.leave?.();
      const timeoutMs = this.#shared.held.size > 0 ? Math.min(longestMs, lapseMs) : longestMs;
      const count = this.#machine.wait(ready, timeoutMs);
      out = count > 0 && ready[2] !== 0;
      into = count > 0 && ready[5] !== 0;
      if (out && (ready[2]! & (Ready.error | Ready.hangup)) !== 0) {
        this.#options.post({ kind: "gone" });
        throw new Error("Cannot move packets: the TUN is gone");
      }
    }
    lookup.enter?.();
    this.#tick(this.#machine.now());
    // Without a wait nobody says whether the network has complained: look now and then.
    const isTold = this.#more ? ++this.#busy % lookEvery === 0 : into && (ready[5]! & Ready.error) !== 0;
    if (isTold) this.#troubles.turn();
    const moreOut = out && this.#outgoing.turn();
    const moreIn = into && this.#incoming.turn();
    this.#more = moreOut || moreIn;
    return out || into;
  }

  /** The owner says something. */
  take(message: ToThread): void {
    this.#options.lookup.enter?.();
    if (message.kind === "list") this.gateways.list(message.contexts);
    else if (message.kind === "answer") this.#answer(message.key, message.found);
    else if (message.kind === "count")
      this.#options.post({ kind: "passed", gateways: this.gateways.counts() });
  }

  #answer(key: string, found: boolean): void {
    const { asking, held, counts, now } = this.#shared;
    if (!asking.answered(key, found, now)) return;
    const packets = held.take(key);
    if (!found) {
      counts.add(Count.lapsed, packets.length);
      return;
    }
    for (const packet of packets) {
      if (key.startsWith("o")) this.#outgoing.again(packet);
      else this.#incoming.again(packet);
    }
  }

  #tick(now: number): void {
    const shared = this.#shared;
    shared.now = now;
    this.#wire.now = now;
    const refill = ((now - this.#refilledAt) / 1_000) * answersPerSecond;
    if (refill >= 1) {
      this.#refilledAt = now;
      this.#outward.tokens = Math.min(mostAnswers, this.#outward.tokens + refill);
      this.#inward.tokens = Math.min(mostAnswers, this.#inward.tokens + refill);
    }
    if (now - this.#lapsedAt >= lapseMs) {
      this.#lapsedAt = now;
      shared.counts.add(Count.lapsed, shared.held.lapse(now));
    }
    if (now - this.#agedAt >= ageMs) {
      this.#agedAt = now;
      this.#outward.age();
      this.#inward.age();
    }
    if (now - this.#clearedAt >= pathMs) {
      this.#clearedAt = now;
      this.#paths.clear();
      this.#hosts.clear();
    }
  }
}
