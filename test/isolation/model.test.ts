/**
 * Whatever is connected, disconnected, moved, privileged, lost, refused or restarted in whatever order: between every
 * two services the plan has exactly the routes, and DNS exactly the answers, that a model says which knows nothing of
 * how it is done.
 */

import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { isolatedOf } from "../../src/kernel/isolate.ts";
import { Fault } from "../../src/lib/fault.ts";
import type { Json } from "../../src/lib/json.ts";
import { address, type House, macOf, openHouse, resolve, upLink } from "./house.ts";

/** Name → device. "a" and "b" are declared by address, "c" by MAC, "d" by host name; nobody declares the others. */
const places = {
  a: "br-apps",
  b: "br-data",
  c: "br-data",
  d: "br-apps",
  e: "br-data",
  f: "br-system",
  host: "br-system",
} as const;
type Name = keyof typeof places;
const names = Object.keys(places) as Name[];
const movable = ["d", "e", "f", "host"] as const;
const nets = { "br-apps": "10.1.0", "br-data": "10.2.0", "br-system": "10.9.0" } as const;
type Device = keyof typeof nets;

const services = [
  { name: "a", segment: "apps", addresses: [address("10.1.0.2")], peers: ["b"] },
  { name: "b", segment: "data", addresses: [address("10.2.0.2")] },
  { name: "c", segment: "data", mac: macOf("c") },
  { name: "d", segment: "apps", hostname: "d-host" },
];
const options = { services, privileged: { hosts: ["host"] } };
const hostnameOf = (name: string) => (name === "d" ? "d-host" : name);

interface Claim {
  readonly name: Name;
  readonly device: Device;
  readonly order: number;
  readonly mac: string;
}

/** What should be, said as plainly as possible. */
class Model {
  /** "from>to" */
  readonly given = new Set<string>(["a>b", "b>a"]);
  readonly privileged = new Set<Name>();
  readonly up = new Set<Device>(["br-apps", "br-data", "br-system"]);
  /** Address → who claimed it last. */
  readonly claims = new Map<string, Claim>();
  readonly told = new Map<Name, { at: string; order: number }>();
  order = 0;
  next = 10;

  fresh(name: Name): string {
    return `${nets[places[name]]}.${this.next++}`;
  }

  at(name: Name): string | undefined {
    if (!this.up.has(places[name])) return undefined;
    const told = this.told.get(name);
    if (name === "a" || name === "b") return told?.at ?? (name === "a" ? "10.1.0.2" : "10.2.0.2");
    const mine = [...this.claims]
      .filter(([, claim]) => claim.name === name)
      .sort(([, one], [, other]) => other.order - one.order);
    const newest = mine[0];
    if (told && (!newest || told.order > newest[1].order)) return told.at;
    // Whoever is seen elsewhere later is there.
    this.told.delete(name);
    return newest?.[0];
  }

  may(from: Name, to: Name): boolean {
    if (from === to || this.at(from) === undefined || this.at(to) === undefined) return false;
    return to === "host" || this.privileged.has(from) || this.given.has(`${from}>${to}`);
  }

  disconnect(name: Name, peer?: Name): void {
    const isOf = (pair: string) => {
      const [one, other] = pair.split(">");
      return peer === undefined
        ? one === name || other === name
        : (one === name && other === peer) || (one === peer && other === name);
    };
    const ended = [...this.given].filter(isOf);
    for (const pair of ended) this.given.delete(pair);
    if (peer === undefined) this.privileged.delete(name);
    const touched = new Set([name, ...ended.flatMap((pair) => pair.split(">") as Name[])]);
    for (const each of touched) {
      const isFree =
        ![...this.given].some((pair) => pair.split(">").includes(each)) && !this.privileged.has(each);
      if (isFree && !"abcd".includes(each)) this.told.delete(each);
    }
  }
}

type Step = readonly [verb: string, one: number, other: number];
const verbs = [
  ...[
    "connect",
    "connect",
    "connect out",
    "connect in",
    "connect",
    "disconnect",
    "part",
    "move",
    "move",
    "restart",
  ],
  ...[
    "gone",
    "usurp",
    "down",
    "up",
    "privilege",
    "unprivilege",
    "reboot",
    "refuse connect",
    "refuse disconnect",
  ],
  ...["refuse restart", "refuse privilege", "same again"],
];
const steps = fc.array(
  fc.tuple(fc.constantFrom(...verbs), fc.nat(names.length - 1), fc.nat(names.length - 1)),
  { maxLength: 30, size: "max" },
) as fc.Arbitrary<Step[]>;

class Run {
  readonly model = new Model();
  house: House = openHouse(options);

  async take([verb, at, otherAt]: Step): Promise<void> {
    const [one, other] = [names[at]!, names[otherAt]!];
    const { model } = this;
    const { isolation } = this.house;
    if (verb.startsWith("refuse")) return this.refuse(verb.slice(7), one, other);
    if (verb.startsWith("connect") && one !== other) {
      const direction = verb === "connect out" ? "out" : verb === "connect in" ? "in" : "both";
      await isolation.connect({ name: one, peers: [other], direction });
      if (direction !== "in") model.given.add(`${one}>${other}`);
      if (direction !== "out") model.given.add(`${other}>${one}`);
    } else if (verb === "disconnect") {
      await isolation.disconnect({ name: one });
      model.disconnect(one);
    } else if (verb === "part") {
      await isolation.disconnect({ name: one, peer: other });
      model.disconnect(one, other);
    } else if (verb === "move") {
      this.move(one, model.fresh(one));
    } else if (verb === "usurp") {
      const [taker, victim] = [movable[at % movable.length]!, movable[otherAt % movable.length]!];
      const target = model.at(victim);
      const isHeld = [...model.told.values()].some((told) => told.at === target);
      if (target !== undefined && places[taker] === places[victim] && !isHeld) this.move(taker, target);
    } else if (verb === "restart") {
      const target = model.fresh(one);
      await isolation.restart({ name: one, old: undefined, new: address(target) });
      const isKnown = "abcd".includes(one) || this.isConnected(one) || model.at(one) !== undefined;
      if (isKnown || model.privileged.has(one)) model.told.set(one, { at: target, order: ++model.order });
    } else if (verb === "gone") {
      const target = model.at(one);
      const claim = target === undefined ? undefined : model.claims.get(target);
      if (claim?.name === one) this.forget(target!);
    } else if (verb === "down") {
      const device = places[one];
      isolation.linkDown(device);
      model.up.delete(device);
    } else if (verb === "up") {
      upLink(isolation, places[one]);
      model.up.add(places[one]);
    } else if (verb === "privilege") {
      await isolation.privilege(one);
      model.privileged.add(one);
    } else if (verb === "unprivilege") {
      await isolation.unprivilege(one);
      model.privileged.delete(one);
    } else if (verb === "reboot") {
      await this.reboot();
    } else if (verb === "same again") {
      for (const [target, claim] of model.claims) this.see(this.house, target, claim);
    }
  }

  isConnected(name: Name): boolean {
    return [...this.model.given].some((pair) => pair.split(">").includes(name));
  }

  /** What the kernel refuses has not happened. */
  async refuse(verb: string, one: Name, other: Name): Promise<void> {
    const { isolation, refusals } = this.house;
    refusals.push(new Fault("kernel", "Cannot enforce: no"));
    const calls: Record<string, () => Promise<unknown>> = {
      connect: () => isolation.connect({ name: one, peers: [one === other ? "z" : other] }),
      disconnect: () => isolation.disconnect({ name: one }),
      restart: () => isolation.restart({ name: one, old: undefined, new: address(this.model.fresh(one)) }),
      privilege: () => isolation.privilege(one),
    };
    let isRefused = false;
    await calls[verb]!().catch(() => {
      isRefused = true;
    });
    assert.ok(isRefused, verb);
  }

  move(name: Name, target: string): void {
    if (name === "a" || name === "b") return;
    const { model } = this;
    // Who is known by its MAC has all addresses that the MAC has: the old one goes.
    if (name === "c") for (const [old, claim] of [...model.claims]) if (claim.name === "c") this.forget(old);
    const order = ++model.order;
    const claim = {
      name,
      device: places[name],
      order,
      mac: name === "c" ? macOf("c") : macOf(`${name}${order}`),
    };
    model.claims.set(target, claim);
    this.see(this.house, target, claim);
  }

  see({ isolation }: House, target: string, { name, device, mac }: Claim): void {
    const hostname = name === "c" ? {} : { hostname: hostnameOf(name) };
    isolation.seen({ device, address: address(target), source: "dhcp", mac: mac as never, ...hostname });
  }

  forget(target: string): void {
    const claim = this.model.claims.get(target)!;
    this.model.claims.delete(target);
    this.house.isolation.gone({ device: claim.device, address: address(target) });
  }

  /** Another agent with what is on disk, told the same evidence. Who was told of is known no more. */
  async reboot(): Promise<void> {
    await this.house.isolation.settled();
    const before = this.answers();
    const moved = new Set(this.model.told.keys());
    this.model.told.clear();
    const saved = this.house.committed.state as Json;
    this.house = openHouse({ ...options, saved, seed: this.model.order + 2, isDown: true });
    for (const device of this.model.up) upLink(this.house.isolation, device);
    const claims = [...this.model.claims].sort(([, one], [, other]) => one.order - other.order);
    for (const [target, claim] of claims) this.see(this.house, target, claim);
    const after = this.answers();
    for (const [pair, standIn] of before) {
      const [from, to] = pair.split(">") as [Name, Name];
      if (!moved.has(from) && !moved.has(to)) assert.is(after.get(pair), standIn, `${pair} after a reboot`);
    }
  }

  /** "from>to" → stand-in, for every two that may. */
  answers(): Map<string, string> {
    const answers = new Map<string, string>();
    for (const from of names) {
      for (const to of names) {
        if (this.model.may(from, to))
          answers.set(`${from}>${to}`, resolve(this.house, this.model.at(from)!, to));
      }
    }
    return answers;
  }

  check(): void {
    const { model, house } = this;
    const plan = house.isolation.plan();
    // The kernel takes it.
    isolatedOf(plan);
    const expected: string[] = [];
    for (const from of names) {
      for (const to of names) {
        const [source, target] = [model.at(from), model.at(to)];
        if (model.may(from, to)) expected.push(`${places[from]} ${source} > ${places[to]} ${target}`);
        if (source === undefined) continue;
        const answer = resolve(house, source, hostnameOf(to) === to ? to : "d");
        assert.is(/^198\.1[89]\./.test(answer), model.may(from, to), `${from} resolves ${to}: ${answer}`);
        if (!model.may(from, to)) continue;
        const route = plan.routes.find((each) => each.source === source && each.target === target)!;
        assert.is(route?.standin, answer, `${from} > ${to}`);
      }
    }
    const routes = plan.routes.map(
      (each) => `${each.device} ${each.source} > ${each.targetDevice} ${each.target}`,
    );
    assert.equal(routes.sort(), expected.sort());
    const keys = plan.routes.map(({ device, source, standin }) => `${device} ${source} ${standin}`);
    assert.is(new Set(keys).size, keys.length, "no two routes have one key");
    // A stand-in is one party's.
    const targets = new Map<string, string>();
    for (const { standin, target } of plan.routes) assert.is(targets.get(standin) ?? target, target);
  }
}

test("plan and names are what a naive model says, after every step", async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const run = new Run();
      run.check();
      for (const step of all) {
        await run.take(step);
        run.check();
      }
    }),
    { numRuns: 80, endOnFailure: false },
  );
});

test("commands that come at once end as if they had come one after the other", async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const commands = all.filter(([verb]) => /^(connect|disconnect|part|privilege|unprivilege)/.test(verb));
      const run = new Run();
      for (const name of ["c", ...movable] as const) run.move(name, run.model.fresh(name));
      await Promise.all(commands.map((step) => run.take(step)));
      const inTurn = new Run();
      for (const name of ["c", ...movable] as const) inTurn.move(name, inTurn.model.fresh(name));
      for (const step of commands) await inTurn.take(step);
      inTurn.check();
      const routes = (each: Run) =>
        each.house.isolation.plan().routes.map(({ source, target }) => `${source} ${target}`);
      assert.equal(routes(run).sort(), routes(inTurn).sort());
      assert.ok(run.house.committed.count <= 1 + commands.length);
    }),
    { numRuns: 25 },
  );
});

test.run();
