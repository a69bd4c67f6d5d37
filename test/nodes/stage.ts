/** A room of nodes on a virtual clock, with the evidence of a small network in short words. */

import { parseAddress, parseMac, parsePrefix } from "../../src/lib/address.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json } from "../../src/lib/json.ts";
import {
  type Limits,
  type Neighbour,
  type NeighbourState,
  Nodes,
  nodesFormat,
} from "../../src/nodes/nodes.ts";

export const address = (text: string) => parseAddress(text) ?? fail(text);
export const mac = (text: string) => parseMac(text) ?? fail(text);
export const prefix = (text: string) => parsePrefix(text) ?? fail(text);

export const laptop = mac("02:77:00:00:00:11");
export const camera = mac("02:77:00:00:00:12");
export const phone = mac("02:77:00:00:00:13");
export const server = address("10.77.0.1");

/** 2026-01-01, a date that the tests' clock starts at. */
export const start = Date.UTC(2026, 0, 1);

export class Stage {
  readonly nodes: Nodes;
  /** What the listeners were told, in order: "merge 3 1", "split 3 1", "ends 1,2". */
  readonly told: string[] = [];
  now: number;
  date: number;
  #port = 1024;

  constructor(options: { limits?: Partial<Limits>; now?: number; date?: number } = {}) {
    this.now = options.now ?? 1_000_000;
    this.date = options.date ?? start;
    this.nodes = new Nodes({
      ...(options.limits && { limits: options.limits }),
      onMerge: (old, into) => this.told.push(`merge ${old} ${into}`),
      onSplit: (old, from) => this.told.push(`split ${old} ${from}`),
      onEnds: (ids) => this.told.push(`ends ${ids.join()}`),
    });
  }

  /** The router of the recorded network: 10.77.0.1/24 and fd77::1/64 inside, 192.0.2.1 outside. */
  router(): this {
    this.nodes.prefix({ prefix: prefix("10.77.0.0/24"), side: "lan", present: true }, this.at);
    this.nodes.prefix({ prefix: prefix("fd77::/64"), side: "lan", present: true }, this.at);
    for (const each of ["10.77.0.1", "fd77::1", "fe80::77:ff:fe00:1"]) this.own(each);
    this.nodes.ownAddress({ address: address("192.0.2.1"), interface: "wan", present: true }, this.at);
    this.nodes.nextHops([address("192.0.2.254")], this.at);
    return this;
  }

  own(text: string, present = true): void {
    this.nodes.ownAddress({ address: address(text), interface: "br-lan", present }, this.at);
  }

  get at() {
    return { now: this.now, date: this.date };
  }

  /** The state through the store's JSON into a new life. */
  restart(options: { now?: number; date?: number; limits?: Partial<Limits> } = {}): Stage {
    const text = JSON.stringify(this.nodes.save(this.at), (_, value) =>
      typeof value === "bigint" ? String(value) : value,
    );
    this.nodes.saved();
    const next = new Stage({ now: 5000, date: this.date, ...options });
    next.nodes.load(nodesFormat.parse(JSON.parse(text)), next.at);
    return next;
  }

  detail(id: number | undefined): Record<string, Json> {
    return (this.nodes.detail(id ?? 0) ?? {}) as Record<string, Json>;
  }

  /** The code of the fault that a call throws; "done" if it doesn't. */
  code(call: () => unknown): string {
    try {
      call();
    } catch (thrown) {
      if (thrown instanceof Fault) return thrown.code;
      throw thrown;
    }
    return "done";
  }

  /** Time passes, on both clocks, with ticks as the agent gives them. */
  pass(ms: number, { ticks = 1 } = {}): void {
    for (let left = ticks; left > 0; left--) {
      this.now += ms / ticks;
      this.date += ms / ticks;
      this.nodes.tick(this.at);
    }
  }

  neighbour(
    text: string,
    who: string | undefined,
    state: NeighbourState = "reachable",
    more: Partial<Neighbour> = {},
  ) {
    this.nodes.neighbour(
      { address: address(text), side: "lan", state, ...(who !== undefined && { mac: mac(who) }), ...more },
      this.at,
    );
    return this.id(text);
  }

  lease(
    text: string,
    who: string | undefined,
    more: { name?: string; clientId?: string; expiresAt?: number } = {},
  ) {
    this.nodes.lease(
      {
        address: address(text),
        expiresAt: this.date + 43_200_000,
        ...(who !== undefined && { mac: mac(who) }),
        ...more,
      },
      this.at,
    );
    return this.id(text);
  }

  /** A client asks for a name … */
  ask(client: string, name: string, type = 1) {
    const query = {
      client: address(client),
      clientPort: this.#port++,
      server,
      id: this.#port * 7,
      name,
      type,
    };
    return { query, ids: this.nodes.dnsQuery(query, this.at) };
  }

  /** … and is answered. @returns the id of the name's node. */
  resolve(client: string, name: string, addresses: readonly string[], ttlSeconds = 60): number | undefined {
    const { query, ids } = this.ask(client, name);
    const answers = addresses.map((each) => ({ address: address(each), ttlSeconds }));
    this.nodes.dnsAnswer({ ...query, answers }, this.at);
    return ids && this.nodes.resolve(ids.queried);
  }

  /** Traffic with an address. @returns the id that it is booked on. */
  traffic(text: string, asker?: string): number | undefined {
    return this.nodes.nodeFor(address(text), {
      at: this.at,
      ...(asker !== undefined && { asker: address(asker) }),
    });
  }

  /** The node that an address is shown under. */
  id(text: string): number | undefined {
    return this.nodes.find(address(text));
  }

  ips(id: number | undefined): readonly string[] {
    return this.nodes.info(id ?? 0)?.ips ?? [];
  }

  kind(id: number | undefined): unknown {
    return this.nodes.detail(id ?? 0)?.kind;
  }
}

function fail(text: string): never {
  throw new Error(`${text} is none`);
}
