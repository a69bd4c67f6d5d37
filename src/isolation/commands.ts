/**
 * Commands: what callers may change, each made at once and unmade if it cannot be enforced.
 *
 * Keeps which pairs are the configuration's. Everything is checked before anything is changed, so that a command that
 * is refused has done nothing.
 */

import type { Address } from "../lib/address.ts";
import { Fault, messageOf } from "../lib/fault.ts";
import type { Asking } from "./asking.ts";
import type { Direction, Gift } from "./connects.ts";
import { isPattern, shown } from "./name.ts";
import type { Naming } from "./naming.ts";
import { type Permission, parsePorts } from "./permission.ts";
import { isAddress } from "./privileged.ts";
import type { ReachParts } from "./reach.ts";
import type { IsolationState } from "./saved.ts";
import { isUnicast } from "./segments.ts";
import type { StandIns } from "./standins.ts";
import type { Applied } from "./turns.ts";

export interface ConnectWish {
  readonly name: unknown;
  readonly peers: readonly unknown[];
  readonly ports?: readonly unknown[] | undefined;
  readonly direction?: Direction | undefined;
}

/** What became of one peer of a connect. */
export interface Connected {
  readonly peer: string;
  /** "pending": not everybody is there yet; it takes effect when they are. */
  readonly state: "active" | "pending";
}

export interface RestartWish {
  readonly name: unknown;
  readonly old: Address | undefined;
  readonly new: Address;
}

export interface CommandParts extends ReachParts {
  readonly naming: Naming;
  readonly asking: Asking;
  readonly standIns: StandIns;
  now(): number;
  /** Stand-ins may be missing, or be nobody's any more. */
  unsettle(): void;
  /** Everybody has the stand-ins that are due. */
  settle(): void;
  report(line: string): void;
}

const maxPeers = 16_384;

export class Commands {
  readonly #parts: CommandParts;
  readonly #configured = new Set<string>();

  constructor(parts: CommandParts) {
    this.#parts = parts;
  }

  /** Whether the configuration says a pair. */
  isConfigured(one: string, other: string): boolean {
    return this.#configured.has(`${one} ${other}`);
  }

  /** @throws Fault "invalid", "limit" */
  connect(wish: ConnectWish): Applied<readonly Connected[]> {
    const { connects } = this.#parts;
    const gifts = this.#gifts(wish);
    this.#parts.settle();
    const undos: (() => void)[] = [];
    const undo = () => this.#undo(undos);
    try {
      for (const gift of gifts) {
        undos.push(connects.connect(gift));
        this.#follow(gift);
        this.#equip(gift);
      }
    } catch (thrown) {
      undo();
      throw thrown;
    }
    return { result: gifts.map(({ name, peer }) => ({ peer, state: this.stateOf(name, peer) })), undo };
  }

  /** @throws Fault "invalid" */
  disconnect(wish: { readonly name: unknown; readonly peer?: unknown }): Applied<readonly string[]> {
    const { connects, privileged, services, asking, naming } = this.#parts;
    const name = naming.canonical(wish.name, "Cannot disconnect");
    const peer = wish.peer === undefined ? undefined : naming.canonical(wish.peer, "Cannot disconnect");
    const { ended, undo } = connects.disconnect(name, peer, (one, other) => this.isConfigured(one, other));
    const undos = [undo];
    const restored = peer === undefined ? privileged.remove(name) : undefined;
    if (restored) undos.push(restored);
    for (const each of new Set([name, ...ended.flatMap(({ one, other }) => [one, other])])) {
      if (connects.has(each) || privileged.isClient(each)) continue;
      for (const place of asking.drop(each)) services.forget(place.device, place.address, "resolver");
      undos.push(services.release(each), () => this.#ask(each));
    }
    this.#parts.unsettle();
    return {
      result: ended.map(({ one, other }) => (one === name ? other : one)),
      undo: () => this.#undo(undos),
    };
  }

  /** @throws Fault "invalid" */
  restart(wish: RestartWish): Applied<string | undefined> {
    const { naming, services, connects, privileged, asking, standIns } = this.#parts;
    const name = naming.canonical(wish.name, "Cannot follow restart");
    if (!isUnicast(wish.new) || standIns.isOurs(wish.new) || naming.isOutside(name)) {
      throw new Fault("invalid", `Cannot follow restart of ${name}: it cannot be at ${wish.new}`);
    }
    const undos: (() => void)[] = [];
    const isKnown = services.isDeclared(name) || services.get(name) !== undefined || connects.has(name);
    const known = isKnown || privileged.isClient(name) ? name : this.#nameAt(wish.old);
    if (known !== undefined) undos.push(services.tell(known, wish.new));
    const removed = wish.old === undefined ? undefined : privileged.remove(wish.old);
    // Who has a name keeps its privilege by it; who has none, by the new address.
    if (removed) undos.push(removed, privileged.add(known ?? wish.new));
    asking.hurry(known ?? name, this.#parts.now());
    this.#parts.unsettle();
    return { result: known ?? (removed ? wish.new : undefined), undo: () => this.#undo(undos) };
  }

  /** @throws Fault "invalid", "limit" */
  privilege(who: string): Applied<string> {
    const { privileged } = this.#parts;
    const party = this.#identify(who);
    if (!privileged.isClient(party) && privileged.isFull()) {
      throw new Fault("limit", `Cannot make ${party} privileged: there are too many`);
    }
    const undos = [privileged.add(party), privileged.identify()];
    this.#ask(party);
    this.#parts.unsettle();
    return { result: party, undo: () => this.#undo(undos) };
  }

  /** @throws Fault "invalid" */
  unprivilege(who: string): Applied<boolean> {
    const { privileged } = this.#parts;
    const undo = privileged.remove(who) ?? privileged.remove(this.#identify(who));
    this.#parts.unsettle();
    return { result: undo !== undefined, undo: () => this.#undo(undo ? [undo] : []) };
  }

  /** Whether a connect of these two would be taken. */
  accepts(name: unknown, peer: unknown): boolean {
    try {
      return this.#gifts({ name, peers: [peer] }).length > 0;
    } catch {
      return false;
    }
  }

  /** Takes in what was on disk, and what the configuration says now. */
  load(
    saved: IsolationState | undefined,
    services: readonly { readonly name: string; readonly peers?: readonly string[] }[],
  ): void {
    const { connects, standIns, outside } = this.#parts;
    const now = this.#parts.now();
    for (const [name, segment] of saved?.homes ?? []) this.#parts.services.restoreHome(name, segment);
    for (const [one, other] of saved?.cut ?? []) connects.restoreCut(one, other);
    for (const { one, other, ...asked } of saved?.pairs ?? []) {
      connects.restore({ one, other, ...asked, asked });
      this.#followSafely({ name: one, peer: other });
    }
    for (const { name, peers = [] } of services) for (const peer of peers) this.#configure(name, peer);
    for (const [key, standIn] of saved?.standIns ?? []) {
      const [name, address] = key.split(" ") as [string, Address | undefined];
      if (address !== undefined && !outside.restore(name, address, now)) continue;
      standIns.restore(key, standIn);
    }
    standIns.restoreRests(saved?.resting ?? [], now);
  }

  stateOf(name: string, peer: string): "active" | "pending" {
    const { naming, outside, services } = this.#parts;
    const now = this.#parts.now();
    const isThere = (each: string) => {
      if (isPattern(each)) return true;
      return naming.isOutside(each) ? outside.valid(each, now).length > 0 : services.get(each) !== undefined;
    };
    return isThere(name) && isThere(peer) ? "active" : "pending";
  }

  #undo(undos: readonly (() => void)[]): void {
    for (const each of [...undos].reverse()) each();
    this.#parts.unsettle();
  }

  #configure(name: string, peer: string): void {
    const { connects } = this.#parts;
    try {
      const [gift] = this.#gifts({ name, peers: [peer] });
      const [one, other] = [gift!.name, gift!.peer].sort() as [string, string];
      this.#configured.add(`${one} ${other}`);
      connects.configure(gift!);
      if (connects.get(one, other)) this.#follow(gift!);
    } catch (thrown) {
      this.#parts.report(messageOf(thrown));
    }
  }

  #gifts({ name: text, peers, ports, direction = "both" }: ConnectWish): Gift[] {
    const { naming } = this.#parts;
    const name = naming.canonical(text, "Cannot connect");
    const permission: Permission = parsePorts(ports);
    if (peers.length > maxPeers)
      throw new Fault("limit", `Cannot connect ${name}: more than ${maxPeers} peers`);
    return peers.map((each) => {
      const peer = naming.canonical(each, `Cannot connect ${name}`);
      if (peer === name) throw new Fault("invalid", `Cannot connect ${name}: it is its own peer`);
      const [isOut, isPeerOut] = [naming.isOutside(name), naming.isOutside(peer)];
      if (!isOut && !isPeerOut) return { name, peer, direction, permission };
      // Nobody outside begins to talk to a service.
      const isBackwards = (isOut && direction === "out") || (isPeerOut && direction === "in");
      if ((isOut && isPeerOut) || isBackwards) {
        throw new Fault(
          "invalid",
          `Cannot connect ${name} to ${peer}: whoever is outside begins nothing here`,
        );
      }
      const [local, outside] = isOut ? [peer, name] : [name, peer];
      return { name: local, peer: outside, direction: "out", permission };
    });
  }

  /** Local names of a pair have their stand-ins from now on. @throws Fault "limit" */
  #equip({ name, peer }: { readonly name: string; readonly peer: string }): void {
    const { naming, standIns } = this.#parts;
    for (const each of [name, peer]) if (!naming.isOutside(each)) standIns.take(each, this.#parts.now());
  }

  /** Names of a pair are looked for from now on. @throws Fault "limit" */
  #follow({ name, peer }: { readonly name: string; readonly peer: string }): void {
    const { naming, outside } = this.#parts;
    const now = this.#parts.now();
    for (const each of [name, peer]) {
      if (isPattern(each) || !naming.isOutside(each) || outside.want(each, now)) continue;
      throw new Fault("limit", "Cannot connect: too many names outside");
    }
    this.#ask(name, peer);
  }

  #followSafely(pair: { readonly name: string; readonly peer: string }): void {
    try {
      this.#follow(pair);
    } catch (thrown) {
      this.#parts.report(messageOf(thrown));
    }
  }

  /** Names that nobody declares are asked for. */
  #ask(...names: readonly string[]): void {
    const { naming, services, asking } = this.#parts;
    for (const name of names) {
      if (isAddress(name) || naming.isOutside(name) || services.isDeclared(name) || naming.own.has(name))
        continue;
      asking.add(name, this.#parts.now());
    }
  }

  #nameAt(address: Address | undefined): string | undefined {
    const device = address === undefined ? undefined : this.#parts.segments.deviceOf(address);
    return device === undefined ? undefined : this.#parts.services.at(device, address!)?.name;
  }

  /** The name of a service, or an address that is no service's. @throws Fault "invalid" */
  #identify(who: string): string {
    const { naming, standIns } = this.#parts;
    if (!isAddress(who)) {
      const name = naming.canonical(who, "Cannot make privileged");
      if (!naming.isOutside(name)) return name;
    } else if (isUnicast(who) && !standIns.isOurs(who)) {
      return this.#nameAt(who) ?? who;
    }
    throw new Fault("invalid", `Cannot make privileged: ${shown(who)} can be no service`);
  }
}
