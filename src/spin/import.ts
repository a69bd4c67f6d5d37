/**
 * Takes over what SPIN had decided.
 *
 * Nothing of SPIN is changed and nothing is remembered here, so a run that was cut short at any step is simply run
 * again: each step asks for a state, not for a change, and the end is the same. What is listed comes first, so
 * that whoever was blocked by address is so before anything else is found out, and names come last.
 *
 * SPIN's lists hold addresses, and so they are taken. A node is put on a list as a node, too, so that it stays
 * there whatever address it takes next, if SPIN says that the user listed the node and at least one of its
 * addresses is still on the list, or if it is a device all of whose addresses are on it: that SPIN forgets which
 * nodes were listed when it restarts must not let them out. The second does not go for the allow list, which would
 * open the door further than was asked for, nor for nodes without a MAC, whose addresses are those of others too.
 */

import type { Mac } from "../lib/address.ts";
import { Fault } from "../lib/fault.ts";
import { singlePrefix } from "../lib/nets.ts";
import { type ListName, listNames } from "../lib/spin.ts";
import type { Decision, SpinDoor } from "./door.ts";
import type { SpinNode, SpinState } from "./files.ts";

export interface ImportDoor
  extends Pick<SpinDoor, "node" | "rename" | "setListNet" | "setListNode" | "setBlock"> {
  /**
   * Finds the node that this is, or makes it; asked again, also by another run, it finds the same. A device is
   * found by its MAC and nothing else. The node stays until something is decided about it or this run is over.
   *
   * @returns its id. @throws Fault "limit" if there is no room for another node.
   */
  adopt(node: SpinNode): Promise<number>;
}

export interface SpinImport {
  /** SPIN's number of a node → ours. */
  readonly ids: ReadonlyMap<number, number>;
  readonly pairs: number;
  readonly names: number;
  /** Addresses, and nodes, that are on a list now. */
  readonly listed: number;
  /** What could not be taken over, with the reason. */
  readonly skipped: readonly string[];
}

/** Faults that lie in what was asked for: another run would meet them again. */
const lasting: readonly string[] = ["invalid", "limit", "not-found", "conflict"];

/** @throws Fault as the door throws it; the run may be repeated at any time. */
export async function importSpin(state: SpinState, door: ImportDoor): Promise<SpinImport> {
  const run = new Run(state, door);
  await run.listNets();
  await run.adoptNodes();
  await run.listNodes();
  await run.blockPairs();
  await run.giveNames();
  return run.result();
}

class Run {
  readonly #state: SpinState;
  readonly #door: ImportDoor;
  readonly #ids = new Map<number, number>();
  readonly #skipped: string[] = [];
  #listed = 0;
  #pairs = 0;
  #names = 0;

  constructor(state: SpinState, door: ImportDoor) {
    this.#state = state;
    this.#door = door;
  }

  result(): SpinImport {
    return {
      ids: this.#ids,
      pairs: this.#pairs,
      names: this.#names,
      listed: this.#listed,
      skipped: this.#skipped,
    };
  }

  async listNets(): Promise<void> {
    for (const list of listNames) {
      this.#listed += await this.#decideAll(this.#state.lists[list], {
        what: (net) => `${net} on list ${list}`,
        decide: (net) => this.#door.setListNet(list, net, true),
      });
    }
  }

  async adoptNodes(): Promise<void> {
    for (const node of this.#state.nodes) await this.#adopt(node);
  }

  async listNodes(): Promise<void> {
    for (const list of listNames) {
      const nets = new Set(this.#state.lists[list]);
      const nodes = this.#state.nodes.filter((node) => {
        const listed = node.ips.filter((ip) => nets.has(singlePrefix(ip))).length;
        return (
          listed > 0 && (isFlagged(node, list) || (listed === node.ips.length && isFollowed(node, list)))
        );
      });
      this.#listed += await this.#decideAll(this.#adopted(nodes), {
        what: ([, id]) => `node ${id} on list ${list}`,
        decide: ([, id]) => this.#door.setListNode(list, id, true),
      });
    }
  }

  async blockPairs(): Promise<void> {
    const pairs = this.#state.pairs.flatMap(([one, other]) => {
      const ids = [this.#ids.get(one), this.#ids.get(other)] as const;
      if (ids[0] !== undefined && ids[1] !== undefined) return [ids as readonly [number, number]];
      this.#skipped.push(`pair ${one} ${other}: one of them was not taken over`);
      return [];
    });
    this.#pairs += await this.#decideAll(pairs, {
      what: ([one, other]) => `block of ${one} and ${other}`,
      decide: ([one, other]) => this.#door.setBlock(one, other, true),
    });
  }

  async giveNames(): Promise<void> {
    const named = new Map<number, string>();
    const byKey = new Map<string, string>();
    for (const { key, name } of this.#state.names) byKey.set("mac" in key ? key.mac : key.address, name);
    const used = new Set<string>();
    for (const [node, id] of this.#adopted(this.#state.nodes)) {
      const keys = [node.mac, ...node.ips].filter((key) => key !== undefined && byKey.has(key)) as string[];
      for (const key of keys) used.add(key);
      const name = keys.length > 0 ? byKey.get(keys[0]!) : undefined;
      if (name !== undefined) named.set(id, name);
      // Perhaps DHCP's: a name that we have learned ourselves is as good.
      else if (node.name !== undefined && this.#door.node(id)?.name === undefined) named.set(id, node.name);
    }
    for (const { key, name } of this.#state.names) {
      const text = "mac" in key ? key.mac : key.address;
      if (used.has(text)) continue;
      const ips = "mac" in key ? [] : [key.address];
      const id = await this.#adopt({ ...strangerOf("mac" in key ? key.mac : undefined), ips, name });
      // A node that is already named was found by another of its addresses.
      if (id !== undefined && !named.has(id)) named.set(id, name);
    }
    this.#names += await this.#decideAll([...named], {
      what: ([id, name]) => `name ${JSON.stringify(name)} of node ${id}`,
      decide: ([id, name]) => this.#door.rename(id, name),
    });
  }

  /** Nodes with the ids that they have now; those that were not taken over are left out. */
  #adopted(nodes: readonly SpinNode[]): (readonly [SpinNode, number])[] {
    return nodes.flatMap((node) => {
      const id = this.#ids.get(node.oldId!);
      return id === undefined ? [] : [[node, id] as const];
    });
  }

  async #adopt(node: SpinNode): Promise<number | undefined> {
    try {
      const id = await this.#door.adopt(node);
      if (node.oldId !== undefined) this.#ids.set(node.oldId, id);
      return id;
    } catch (thrown) {
      this.#skip(`node ${node.oldId ?? node.mac ?? node.ips[0]}`, thrown);
      return undefined;
    }
  }

  /** Decides all at once, so that they cost as little as one. @returns how many are as asked now. */
  async #decideAll<Item>(
    items: readonly Item[],
    how: { what(item: Item): string; decide(item: Item): Promise<Decision> },
  ): Promise<number> {
    const results = await Promise.allSettled(items.map((item) => how.decide(item)));
    let done = 0;
    for (const [index, result] of results.entries()) {
      const what = how.what(items[index]!);
      if (result.status === "rejected") this.#skip(what, result.reason);
      else if (result.value.kind === "done") done++;
      else this.#skipped.push(`${what}: ${result.value.kind}`);
    }
    return done;
  }

  /** @throws what was thrown, if another run may do better. */
  #skip(what: string, thrown: unknown): void {
    if (!(thrown instanceof Fault && lasting.includes(thrown.code))) throw thrown;
    this.#skipped.push(`${what}: ${thrown.message}`);
  }
}

/** SPIN says that the user listed it as a node. */
function isFlagged(node: SpinNode, list: ListName): boolean {
  return (list === "block" && node.isBlocked) || (list === "allow" && node.isExcepted);
}

/** A node whose new addresses may follow the old ones onto a list. */
function isFollowed(node: SpinNode, list: ListName): boolean {
  return node.mac !== undefined && list !== "allow";
}

/** A node that only a name tells of. */
function strangerOf(mac: Mac | undefined): SpinNode {
  return {
    oldId: undefined,
    ...(mac !== undefined && { mac }),
    ips: [],
    domains: [],
    isBlocked: false,
    isExcepted: false,
  };
}
