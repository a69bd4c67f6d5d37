/**
 * A door that keeps what it is told, in memory: nodes, lists and pairs as the agent keeps them.
 *
 * Decisions take effect in the order of the calls and are answered a little later, as the agent's are. `step` is
 * called before and after each effect; what it throws ends the call there.
 */

import { type Address, type Mac, type Prefix, parsePrefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import { formatNet, Nets } from "../../src/lib/nets.ts";
import { type ListName, listNames, type NodeInfo } from "../../src/lib/spin.ts";
import type { Decision, DeviceFlow, ImportDoor, SpinDoor, SpinNode } from "../../src/spin/spin.ts";

export interface ModelNode {
  id: number;
  name?: string;
  mac?: string;
  lastseen: number;
  ips: string[];
  domains: string[];
}

export class Model implements SpinDoor, ImportDoor {
  readonly nodes = new Map<number, ModelNode>();
  readonly aliases = new Map<number, number>();
  readonly flows = new Map<number, DeviceFlow[]>();
  readonly listNodes = new Map(listNames.map((list) => [list, new Set<number>()]));
  readonly listNets = new Map(listNames.map((list) => [list, new Set<Prefix>()]));
  readonly blocked = new Map<string, readonly [number, number]>();
  /** The addresses of the machine. */
  own: Prefix[] = [];
  maxBlocks = 1_000;
  nextId = 1;
  /** Every verb, as it was called. */
  readonly journal: string[] = [];
  step: () => void = () => {};

  add(node: Partial<ModelNode> & { id?: number }): number {
    const id = node.id ?? this.nextId;
    this.nextId = Math.max(this.nextId, id + 1);
    this.nodes.set(id, { lastseen: 0, ips: [], domains: [], ...node, id });
    return id;
  }

  /** Everything that lasts, as text. */
  toString(): string {
    const nodes = [...this.nodes.values()].map(({ lastseen, ...node }) => node);
    const lists = listNames.map((list) => [
      list,
      [...this.listNodes.get(list)!].sort(),
      [...this.listNets.get(list)!].sort(),
    ]);
    return JSON.stringify({ nodes, lists, pairs: [...this.blocked.keys()].sort() }, undefined, 1);
  }

  resolve(id: number): number | undefined {
    const living = this.aliases.get(id) ?? id;
    return this.nodes.has(living) ? living : undefined;
  }

  devices(): NodeInfo[] {
    return [...this.nodes.values()].filter((each) => each.mac !== undefined).map((each) => this.#info(each));
  }

  node(id: number): NodeInfo | undefined {
    const node = this.nodes.get(this.resolve(id) ?? 0);
    return node && this.#info(node);
  }

  deviceByMac(mac: Mac): number | undefined {
    return [...this.nodes.values()].find((each) => each.mac === mac)?.id;
  }

  deviceFlows(id: number): DeviceFlow[] {
    return this.flows.get(id) ?? [];
  }

  pairs() {
    return [...this.blocked.values()];
  }

  /** What is on a list, for tests to look at. */
  listing(list: ListName) {
    return { nodes: [...this.listNodes.get(list)!], nets: [...this.listNets.get(list)!] };
  }

  listEntries(list: ListName): string[] {
    const shown = new Nets<true>();
    for (const each of this.listNets.get(list)!) shown.set(each, true);
    for (const id of this.listNodes.get(list)!) {
      for (const ip of this.nodes.get(id)?.ips ?? []) shown.set(net(ip), true);
    }
    return shown.entries().map(([each]) => formatNet(each));
  }

  rename(id: number, name: string): Promise<Decision> {
    return this.#decide(`rename ${id} ${JSON.stringify(name)}`, () => {
      const node = this.nodes.get(this.resolve(id) ?? 0);
      if (!node) return { kind: "unknown", id };
      if (name.length > 128) throw new Fault("invalid", `Cannot rename node ${id}: the name is too long`);
      if (/[\n\r]/.test(name))
        throw new Fault("invalid", `Cannot rename node ${id}: it has control characters`);
      if (name === "") delete node.name;
      else node.name = name;
      return { kind: "done" };
    });
  }

  addNode(address: Address) {
    return this.#decide<Decision | { kind: "made"; id: number }>(`addNode ${address}`, () => {
      const holder = this.#holder(address);
      return holder ? { kind: "taken", id: holder.id } : { kind: "made", id: this.add({ ips: [address] }) };
    });
  }

  addAddress(id: number, address: Address): Promise<Decision> {
    return this.#decide(`addAddress ${id} ${address}`, () => {
      const [node, holder] = [this.nodes.get(this.resolve(id) ?? 0), this.#holder(address)];
      if (!node) return { kind: "unknown", id };
      if (holder) return { kind: "taken", id: holder.id };
      node.ips.unshift(address);
      return { kind: "done" };
    });
  }

  setListNode(list: ListName, id: number, listed: boolean): Promise<Decision> {
    return this.#decide(`setListNode ${list} ${id} ${listed}`, () => {
      const living = this.resolve(id);
      if (living === undefined) return { kind: "unknown", id };
      this.#put(this.listNodes.get(list)!, living, listed);
      if (!listed) for (const ip of this.nodes.get(living)!.ips) this.listNets.get(list)!.delete(net(ip));
      return { kind: "done" };
    });
  }

  setListNet(list: ListName, prefix: Prefix, listed: boolean): Promise<Decision> {
    return this.#decide(`setListNet ${list} ${prefix} ${listed}`, () => {
      const [nodes, nets] = [this.listNodes.get(list)!, this.listNets.get(list)!];
      for (const id of listed ? [] : [...nodes]) {
        const own = this.nodes.get(id)!.ips.map(net);
        if (!own.includes(prefix)) continue;
        nodes.delete(id);
        for (const each of own) nets.add(each);
      }
      this.#put(nets, prefix, listed);
      return { kind: "done" };
    });
  }

  resetIgnore(): Promise<Decision> {
    return this.#decide("resetIgnore", () => {
      this.listNodes.get("ignore")!.clear();
      this.listNets.set("ignore", new Set(this.own));
      return { kind: "done" };
    });
  }

  setBlock(one: number, other: number, blocked: boolean): Promise<Decision> {
    return this.#decide(`setBlock ${one} ${other} ${blocked}`, () => {
      const ids = [one, other].map((id) => this.resolve(id));
      const unknown = ids.indexOf(undefined);
      if (unknown >= 0) return { kind: "unknown", id: [one, other][unknown]! };
      const [low, high] = (ids as number[]).sort((left, right) => left - right) as [number, number];
      if (low === high) return { kind: "same", id: low };
      const key = `${low} ${high}`;
      if (blocked && !this.blocked.has(key) && this.blocked.size >= this.maxBlocks) {
        return { kind: "full", limit: this.maxBlocks };
      }
      if (blocked) this.blocked.set(key, [low, high]);
      else this.blocked.delete(key);
      return { kind: "done" };
    });
  }

  adopt(node: SpinNode): Promise<number> {
    return this.#decide(`adopt ${node.oldId ?? node.mac ?? node.ips[0]}`, () => {
      const found = [...this.nodes.values()].find((each) =>
        node.mac === undefined
          ? each.mac === undefined && each.ips.join() === node.ips.join()
          : each.mac === node.mac,
      );
      if (found) return found.id;
      const { mac, ips, domains } = node;
      return this.add({ ...(mac !== undefined && { mac }), ips: [...ips], domains: [...domains] });
    });
  }

  async #decide<Outcome>(what: string, decide: () => Outcome): Promise<Outcome> {
    this.journal.push(what);
    this.step();
    const outcome = decide();
    this.step();
    await new Promise((resolve) => setImmediate(resolve));
    return outcome;
  }

  #put<Item>(set: Set<Item>, item: Item, isIn: boolean): void {
    if (isIn) set.add(item);
    else set.delete(item);
  }

  #holder(address: string): ModelNode | undefined {
    return [...this.nodes.values()].find((each) => each.ips.includes(address));
  }

  #info(node: ModelNode): NodeInfo {
    return {
      ...node,
      ...(this.listNodes.get("block")!.has(node.id) && { is_blocked: true }),
      ...(this.listNodes.get("allow")!.has(node.id) && { is_excepted: true }),
    };
  }
}

/** The prefix of one address. */
export function net(text: string): Prefix {
  return parsePrefix(text)!;
}
