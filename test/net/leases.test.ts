/**
 * Leases over the whole agent, killed at will: after random requests, releases, addresses that come and go and kill -9,
 * the router's own rules and routes in both families are what was answered, by what `ip` shows.
 *
 * SEED chooses the sequence, STEPS its length (40). A call that a kill cuts off leaves its key open to either outcome
 * until the agent says which. The seed is printed with a failure.
 */

import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually } from "../lab/children.ts";
import { joinBus, Lab } from "../lab/network.ts";
import { randomOf, seed } from "../lab/random.ts";
import { sleep } from "../lab/time.ts";
import { paths } from "../lab/topology.ts";
import { addUplink, uplinks } from "../lab/uplinks.ts";

const steps = Number(process.env.STEPS ?? 25);

interface Key {
  readonly family: "inet" | "inet6";
  readonly interface: string;
  readonly address: string;
}

interface Known {
  readonly table: number;
  readonly rules: boolean;
  readonly routes: boolean;
  readonly follow: boolean;
}

interface Shown extends Key, Known {}

const keys: readonly Key[] = uplinks.flatMap(({ device, address4, address6 }) => [
  { family: "inet", interface: device, address: address4 },
  { family: "inet", interface: device, address: address4.replace(/2$/, "77") },
  { family: "inet6", interface: device, address: address6 },
  { family: "inet6", interface: device, address: address6.replace(/2$/, "77") },
]);

/** Our rules and routes as one line each, from what `ip` says. */
async function shown(lab: Lab): Promise<string[]> {
  const lines: string[] = [];
  for (const family of ["4", "6"]) {
    const rules = await lab.must("router", ["ip", `-${family}`, "-N", "rule", "show"]);
    for (const [, priority, what, table] of rules.matchAll(/^(\d+):\s+from (.+) lookup (\d+) proto 71/gm)) {
      lines.push(`${family} rule ${priority} from ${what} lookup ${table}`);
    }
    const routes = await lab.must("router", `ip -${family} -N route show table all proto 71`.split(" "));
    for (const [, to, via = "", device, table] of routes.matchAll(
      /^(\S+) (via \S+ )?(dev \S+) table (\d+)/gm,
    )) {
      lines.push(`${family} route ${to} ${via}${device} table ${table}`);
    }
  }
  return lines.sort();
}

/** What `shown` has to be. */
function expected(known: ReadonlyMap<Key, Known>, present: ReadonlySet<string>): string[] {
  return [...known]
    .flatMap(([key, { table, rules, routes }]) => {
      if (!rules) return [];
      const [family, length] = key.family === "inet" ? ["4", 24] : ["6", 64];
      const uplink = uplinks.find(({ device }) => device === key.interface)!;
      const gateway = family === "4" ? uplink.gateway4 : uplink.gateway6;
      const net = `${gateway.replace(family === "4" ? /1$/ : /1$/, family === "4" ? "0" : "")}/${length}`;
      const isThere = present.has(key.address);
      return [
        `${family} rule 10000 from ${key.address} lookup ${table}`,
        `${family} rule 20000 from all to ${net} lookup ${table}`,
        `${family} rule 91000 from all iif lo lookup ${table}`,
        ...(routes && isThere
          ? [
              `${family} route ${net} dev ${key.interface} table ${table}`,
              `${family} route default via ${gateway} dev ${key.interface} table ${table}`,
            ]
          : []),
      ];
    })
    .sort();
}

test(`${steps} random steps with kill -9 of the agent leave rules and routes as they were answered`, async () => {
  const lab = await Lab.up({
    configuration: "config tables 'tables'\n\toption rest '0'\n\toption count '64'\n",
  });
  const random = randomOf(seed);
  const next = (below: number) => Math.floor(random() * below);
  const pick = <Each>(list: readonly Each[]): Each => list[next(list.length)]!;
  const ubus = joinBus(paths.bus);
  try {
    await addUplink(lab);
    const known = new Map<Key, Known>();
    const present = new Set<string>(uplinks.flatMap(({ address4, address6 }) => [address4, address6]));
    const call = (method: string, args: object) =>
      ubus.call("gatehouse.tables", method, args as Record<string, string>);
    /** The agent's own word for what is out. */
    const learn = async (open: ReadonlySet<Key>) => {
      const { leases } = (await call("list", {})) as unknown as { leases: readonly Shown[] };
      for (const key of keys) {
        const lease = leases.find((each) => each.address === key.address && each.family === key.family);
        const before = known.get(key);
        if (!open.has(key)) {
          assert.is(lease?.table, before?.table, `${key.address}, seed ${seed}`);
          continue;
        }
        // Whatever came of a call that was cut off: a table that was answered once stays the key's.
        if (before && lease) assert.is(lease.table, before.table, `${key.address}, seed ${seed}`);
        if (lease) {
          const { table, rules, routes = false, follow = false } = lease;
          known.set(key, { table, rules, routes, follow });
        } else known.delete(key);
      }
    };
    const isOut = async (key: Key) => {
      const { leases } = (await call("list", {})) as unknown as { leases: readonly Shown[] };
      return leases.every((each) => each.address !== key.address);
    };
    const wishOf = (key: Key) => {
      const rules = next(4) > 0;
      const wish = { rules, routes: rules && next(2) === 0, follow: next(2) === 0 };
      return { ...wish, args: { ...key, ...wish, netmask: key.family === "inet" ? "24" : "64" } };
    };
    const note = (key: Key, table: number, { rules, routes, follow }: Omit<Known, "table">) => {
      const before = known.get(key);
      if (before) assert.is(table, before.table, `${key.address}, seed ${seed}`);
      known.set(key, { table, rules, routes, follow });
    };
    const request = async (key: Key) => {
      const wish = wishOf(key);
      const { table } = await call("request", wish.args);
      note(key, table as number, wish);
    };
    const release = async (key: Key) => {
      await call("release", key).catch(() => {});
      known.delete(key);
    };
    for (let step = 0; step < steps; step++) {
      const verb = pick(["request", "request", "request", "release", "address", "kill", "meddle"]);
      const key = pick(keys);
      if (verb === "request") await request(key);
      else if (verb === "release") await release(key);
      else if (verb === "address" && key.address.endsWith("77")) {
        const isThere = present.has(key.address);
        const length = key.family === "inet" ? 24 : 64;
        const flags = key.family === "inet" ? [] : ["nodad"];
        const words = [isThere ? "delete" : "add", `${key.address}/${length}`, "dev", key.interface];
        await lab.must("router", ["ip", "address", ...words, ...(isThere ? [] : flags)]);
        if (isThere) present.delete(key.address);
        else present.add(key.address);
        if (isThere && known.get(key)?.follow) {
          known.delete(key);
          await eventually(`the end of ${key.address}, seed ${seed}`, () => isOut(key));
        }
      } else if (verb === "kill") {
        /** Cut off, as far as we know: either outcome is right. */
        const touched = new Set([pick(keys), pick(keys)]);
        let isOver = false;
        const calls = [...touched].map(async (each): Promise<void> => {
          const [wish, isRequest] = [wishOf(each), next(2) === 0];
          const answer = await call(isRequest ? "request" : "release", isRequest ? wish.args : each);
          // What was answered before the kill holds after it.
          if (isOver) return;
          touched.delete(each);
          if (isRequest) note(each, answer.table as number, wish);
          else known.delete(each);
        });
        const ended = Promise.allSettled(calls);
        await sleep(next(30));
        await lab.agent.kill();
        await Promise.race([ended, sleep(100)]);
        isOver = true;
        await lab.agent.start();
        await eventually("tables on the bus", () => call("list", {}).catch(() => undefined));
        // What follows an address that is not there has missed its going, as far as a new life can tell. Whether a
        // call that was cut off has made a lease follow, the agent alone knows.
        await eventually(`the end of what has nothing to follow, seed ${seed}`, async () => {
          const { leases } = (await call("list", {})) as unknown as { leases: readonly Shown[] };
          return leases.every(({ address, follow }) => !follow || present.has(address));
        });
        for (const [of, { follow }] of [...known]) {
          if (follow && !present.has(of.address) && !touched.has(of)) known.delete(of);
        }
        await learn(touched);
      } else if (verb === "meddle") {
        await lab.exec("router", [
          "ip",
          pick(["-4", "-6"]),
          "rule",
          "delete",
          "priority",
          pick(["10000", "91000"]),
        ]);
      }
      if (step % 5 !== 4) continue;
      let last = "";
      await eventually(`the rules and routes of step ${step}, seed ${seed}`, async () => {
        const [is, shall] = [await shown(lab), expected(known, present)];
        last = `is:\n${is.join("\n")}\nshall be:\n${shall.join("\n")}`;
        return is.join() === shall.join();
      }).catch((thrown: Error) => {
        throw new Error(`${thrown.message}\n${last}\n${lab.agent.log}`);
      });
      await learn(new Set());
    }
    console.log(`${steps} steps, seed ${seed}: ${known.size} leases in the end`);
  } finally {
    ubus.close();
    await lab.close();
  }
});

test.run();
