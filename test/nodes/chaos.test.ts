/** Random evidence in random order: what must hold after every step. */

import * as fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { Json } from "../../src/lib/json.ts";
import { nodesFormat } from "../../src/nodes/nodes.ts";
import { address, mac, Stage } from "./stage.ts";

const limits = {
  nodes: 16,
  addressesPerNode: 4,
  aliases: 4,
  leases: 6,
  macsPerNode: 2,
  questions: 6,
  answers: 6,
};
const macs = [1, 2, 3, 4].map((last) => mac(`02:77:00:00:00:0${last}`));
const near = ["10.77.0.11", "10.77.0.12", "10.77.0.13", "fd77::11", "fd77::12", "fe80::11"];
const far = ["198.51.100.1", "198.51.100.2", "203.0.113.1", "2001:db8::1", "192.0.2.254"];
const names = ["a.example.", "b.example.", "c.example."];
const clientIds = [undefined, "ff:00", "ff:01", `01:${macs[0]}`, `01:${macs[1]}`];

const verbs = [
  ...["neighbour", "neighbour", "neighbour", "gone", "wan", "lease", "lease", "leases", "own", "hops"],
  ...["ask", "answer", "forge", "resolve", "resolve", "traffic", "traffic", "local"],
  ...["rename", "pin", "pin", "unpin", "merge", "merge", "split", "split", "tick", "tick", "restart", "take"],
  ...["tie", "adopt", "observe", "forget"],
] as const;

const step = fc.record({
  verb: fc.constantFrom(...verbs),
  who: fc.constantFrom(...macs),
  near: fc.constantFrom(...near),
  other: fc.constantFrom(...near),
  far: fc.constantFrom(...far),
  far2: fc.constantFrom(...far),
  name: fc.constantFrom(...names),
  clientId: fc.constantFrom(...clientIds),
  state: fc.constantFrom("reachable", "stale", "probe", "failed"),
  pick: fc.nat(30),
  ms: fc.constantFrom(0, 1000, 70_000, 2_000_000, 100_000_000),
});
type Step = typeof step extends fc.Arbitrary<infer Each> ? Each : never;

/** The near side of things: what no answer of a name server may change. */
function devices(stage: Stage): string {
  const nodes = stage.nodes.ids().map((id) => stage.nodes.detail(id)!);
  return nodes
    .filter(({ kind }) => kind !== "name" && kind !== "address" && kind !== "gateway")
    .map(({ id, kind, ips, macs: held, dhcp_identities, name }) =>
      JSON.stringify({ id, kind, ips, held, dhcp_identities, name }),
    )
    .join("\n");
}

class Check {
  stage = new Stage({ limits }).router();
  /** Every id that was ever shown. */
  readonly #given = new Set<number>();
  readonly #ends = new Map<number, string>();
  readonly #gone = new Set<number>();
  readonly #pinned = new Set<number>();
  readonly #apart: [number, number][] = [];

  run(each: Step): void {
    const { stage } = this;
    const before = devices(stage);
    const { evicted } = stage.nodes.status;
    const clients = near.filter((text) => stage.id(text) !== undefined);
    stage.now += 10;
    this.#play(each);
    const dns =
      each.verb === "ask" || each.verb === "answer" || each.verb === "forge" || each.verb === "resolve";
    // A client nobody knew yet may become a node by asking, and a name may take the place of an address that nobody
    // vouches for; else DNS changes nothing on the near side.
    if (dns && clients.includes(each.near) && stage.nodes.status.evicted === evicted)
      assert.is(devices(stage), before);
    this.#holds();
  }

  #play(each: Step): void {
    const { stage } = this;
    const { nodes } = stage;
    const ids = nodes.ids();
    const id = ids[each.pick % Math.max(1, ids.length)] ?? 0;
    if (each.verb === "neighbour") stage.neighbour(each.near, each.who, each.state as "reachable");
    if (each.verb === "gone") stage.neighbour(each.near, undefined, "gone");
    if (each.verb === "wan") {
      stage.neighbour(each.far, each.who, "reachable", { side: "wan", router: each.pick % 2 === 0 });
    }
    if (each.verb === "lease") {
      const v6 = each.near.includes(":");
      stage.lease(each.near, v6 ? undefined : each.who, {
        expiresAt: each.pick,
        ...(each.clientId !== undefined && { clientId: each.clientId }),
        name: `n${each.pick}`,
      });
    }
    if (each.verb === "leases")
      nodes.leases([{ address: address(each.near), mac: each.who, expiresAt: 0 }], stage.at);
    if (each.verb === "own") stage.own(each.pick % 2 ? each.near : each.far, each.pick % 3 > 0);
    if (each.verb === "hops") nodes.nextHops([address(each.far)], stage.at);
    if (each.verb === "ask") stage.ask(each.near, each.name);
    if (each.verb === "answer" || each.verb === "forge") {
      const { query } = stage.ask(each.near, each.name);
      const answers = [each.far, each.near, each.other].map((text) => ({
        address: address(text),
        ttlSeconds: 60,
      }));
      const forged = each.verb === "forge" ? { id: query.id ^ 1 } : {};
      const outcome = nodes.dnsAnswer({ ...query, ...forged, answers }, stage.at);
      if (each.verb === "forge") assert.is(outcome, "unasked");
    }
    if (each.verb === "resolve") stage.resolve(each.near, each.name, [each.far, each.far2], each.pick * 10);
    if (each.verb === "traffic") stage.traffic(each.far, each.near);
    if (each.verb === "local") stage.traffic(each.near, each.far);
    if (each.verb === "rename" && id) nodes.rename(id, each.pick % 3 ? `u${each.pick}` : "");
    if (each.verb === "pin" && id) this.#pin(id);
    if (each.verb === "unpin" && id) this.#unpin(id);
    if (each.verb === "merge" && id) this.#merge(id, ids[(each.pick * 7) % ids.length]!);
    if (each.verb === "split") this.#split(each.pick);
    if (each.verb === "tie") {
      const target = each.pick % 4 === 0 ? 0 : id;
      const code = stage.code(() => nodes.addAddress(target, address(each.near), stage.at));
      assert.ok(["done", "conflict", "invalid", "limit", "not-found"].includes(code), code);
    }
    if (each.verb === "adopt") {
      const adoption = {
        addresses: [address(each.near), address(each.far)],
        names: each.pick % 2 ? [each.name] : [],
        ...(each.pick % 3 > 0 && { mac: each.who }),
      };
      const code = stage.code(() => {
        const adopted = nodes.adopt(adoption, stage.at);
        assert.is(nodes.adopt(adoption, stage.at), adopted, "adopted once");
      });
      assert.ok(["done", "limit"].includes(code), code);
    }
    if (each.verb === "observe") {
      const answers = [each.far, each.near].map((text) => ({
        address: address(text),
        ttlSeconds: each.pick,
      }));
      nodes.nameObserved(each.name, answers, stage.at);
    }
    if (each.verb === "forget" && id) {
      const code = stage.code(() => nodes.forget(id, stage.at));
      assert.ok(code === "done" || code === "invalid", code);
      if (code === "done") assert.is(nodes.resolve(id), undefined);
    }
    if (each.verb === "tick") stage.pass(each.ms);
    if (each.verb === "restart") this.#restart();
    if (each.verb === "take") nodes.takeChanged();
  }

  #pin(id: number): void {
    // At most half of the room, so that something can still happen.
    if (this.#pinned.size >= limits.nodes / 2) return;
    this.stage.nodes.pin(id, "block");
    this.#pinned.add(id);
    this.#ends.set(id, JSON.stringify(this.stage.nodes.end(id)));
  }

  #unpin(id: number): void {
    this.stage.nodes.unpin(id, "block");
    this.#pinned.delete(id);
    this.#ends.delete(id);
  }

  #merge(id: number, into: number): void {
    const { nodes, at } = this.stage;
    const pair = [nodes.resolve(id), nodes.resolve(into)];
    const code = this.stage.code(() => nodes.merge(id, into, at));
    assert.ok(code === "done" || code === "invalid", code);
    if (code !== "done") return;
    // The user's later word. What had been parted from either of the two is parted from both now.
    const rest = this.#apart.filter((each) => new Set([...each.map((one) => nodes.resolve(one))]).size > 1);
    assert.ok(pair[0] !== pair[1]);
    this.#apart.splice(0, this.#apart.length, ...rest);
  }

  /** What was parted holds nothing in common, and is merged by nothing but the user. */
  #split(pick: number): void {
    const { nodes, at } = this.stage;
    const aliases = [...nodes.aliases()];
    const [old, into] = aliases[pick % Math.max(1, aliases.length)] ?? [0, 0];
    const before = (this.stage.detail(into).ips ?? []) as string[];
    const code = this.stage.code(() => assert.is(nodes.split(old, at), into));
    assert.ok(["done", "invalid", "not-found", "limit"].includes(code), code);
    if (code !== "done") return;
    assert.is(nodes.resolve(old), old);
    const [one, other] = [this.stage.detail(old), this.stage.detail(into)];
    assert.equal([...(one.ips as string[]), ...(other.ips as string[])].sort(), [...before].sort());
    assert.ok((one.apart as number[]).includes(into) && (other.apart as number[]).includes(old));
    this.#apart.push([old, into]);
  }

  #restart(): void {
    const { stage } = this;
    const text = JSON.stringify(stage.nodes.save(stage.at), (_, value) =>
      typeof value === "bigint" ? String(value) : value,
    );
    const next = new Stage({ limits, now: 7, date: stage.date });
    next.nodes.load(nodesFormat.parse(JSON.parse(text)), next.at);
    const kept = (each: Stage) =>
      each.nodes
        .ids()
        .map((id) => each.nodes.detail(id)!)
        .filter(({ kind }) => kind === "device" || kind === "router")
        .map(({ id, kind, ips, macs: held, name, lastseen, aliases, apart }) => [
          id,
          kind,
          ips,
          held,
          name,
          lastseen,
          aliases,
          // What is nothing but an id is not kept, nor that it is apart.
          ((apart ?? []) as number[]).filter((other) => next.nodes.resolve(other) === other),
        ]);
    assert.equal(kept(next), kept(stage));
    for (const id of stage.nodes.ids()) if (next.nodes.resolve(id) === undefined) this.#gone.add(id);
    for (const id of this.#pinned) {
      next.nodes.pin(id, "block");
      this.#ends.set(id, JSON.stringify(next.nodes.end(id)));
    }
    this.stage = next.router();
    this.#told(next.told.splice(0));
  }

  #told(lines: readonly string[]): void {
    const { nodes } = this.stage;
    for (const line of lines) {
      const [what, first, second] = line.split(" ") as [string, string, string];
      if (what === "merge") {
        assert.is(
          nodes.resolve(Number(first)) ?? nodes.resolve(Number(second)),
          nodes.resolve(Number(second)),
        );
        if (this.#pinned.delete(Number(first))) {
          this.#pinned.add(Number(second));
          this.#ends.set(Number(second), "to be told");
        }
        this.#ends.delete(Number(first));
      } else if (what === "split") {
        assert.is(nodes.resolve(Number(first)), Number(first));
      } else {
        for (const id of first.split(",").map(Number)) this.#ends.set(id, JSON.stringify(nodes.end(id)));
      }
    }
  }

  #holds(): void {
    const { nodes, told } = this.stage;
    this.#told(told.splice(0));
    const ids = nodes.ids();
    assert.ok(ids.length <= limits.nodes, "the cap holds");
    assert.is(new Set(ids).size, ids.length);
    const highest = Math.max(0, ...this.#given);
    const owners = new Map<string, number>();
    for (const id of ids) {
      assert.not.ok(this.#gone.has(id), `${id} had gone`);
      if (!this.#given.has(id)) assert.ok(id > highest, `${id} is new`);
      const detail = nodes.detail(id)! as Record<string, Json>;
      assert.is(detail.id, id);
      const held = detail.addresses as { address: string; shared_with?: number[] }[];
      assert.ok(held.length <= limits.addressesPerNode);
      assert.ok(((detail.aliases as number[]) ?? []).length <= limits.aliases);
      for (const each of held) {
        const home = nodes.find(address(each.address))!;
        assert.ok((nodes.info(home)!.ips as string[]).includes(each.address), "a home holds its address");
        if (detail.kind === "name") continue;
        assert.is(home, id, "only names hold an address beside its home");
        assert.not.ok(owners.has(each.address), `${each.address} has two owners`);
        owners.set(each.address, id);
        const others = each.shared_with ?? [];
        if (detail.kind !== "address")
          assert.equal(others, [], `${each.address} is a ${detail.kind}'s alone`);
      }
    }
    for (const id of this.#given) if (nodes.resolve(id) === undefined) this.#gone.add(id);
    for (const id of ids) this.#given.add(id);
    for (const id of this.#pinned)
      assert.equal(nodes.detail(id)?.pinned_by, ["block"], "what is pinned stays");
    for (const [one, other] of this.#apart) {
      const [left, right] = [nodes.resolve(one), nodes.resolve(other)];
      if (left !== undefined && right !== undefined)
        assert.is.not(left, right, `${one} and ${other} are parted`);
    }
    for (const [id, end] of this.#ends) {
      assert.is(JSON.stringify(nodes.end(id)), end, `onEnds() told of every change of ${id}`);
    }
    const { byKind, nodes: count } = nodes.status;
    assert.is(
      Object.values(byKind).reduce((sum, each) => sum + each),
      count,
    );
    assert.ok(byKind.router <= 1);
  }
}

/** The suite takes the same walk each time; who looks for more gives SEED and RUNS. */
const seed = Number(process.env.SEED ?? 20_261_121);

test("random evidence: ids are unique and stable, addresses have one owner, caps hold, DNS ties nothing", () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 60, size: "max" }), (steps) => {
      const check = new Check();
      for (const each of steps) check.run(each);
    }),
    { numRuns: Number(process.env.RUNS ?? 150), seed },
  );
});

test.run();
