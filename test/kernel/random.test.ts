/** Plans at random, one after the other, on the real kernel: every pair of addresses is tried after each. */

import { createSocket, type Socket } from "node:dgram";
import fc from "fast-check";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { type Backend, blockedBy } from "../../src/kernel/kernel.ts";
import type { Address } from "../../src/lib/address.ts";
import { eventually } from "../lab/children.ts";
import { anyPlan, pool, show } from "./plans.ts";
import { boot, close, open, shown, stateOf, wipe } from "./rig.ts";
import { sh } from "./street.ts";

const port = 7000;
const everywhere = [...pool[4], ...pool[6]];

/** A socket on every address of the pool; all of them are this machine's own, so packets pass OUTPUT and INPUT. */
async function socketsOf(family: 4 | 6): Promise<Map<Address, Socket>> {
  const sockets = new Map<Address, Socket>();
  for (const address of pool[family]) {
    // An address that was given a moment ago may not be bound yet.
    sockets.set(address, await eventually(`a socket on ${address}`, () => socketOn(family, address)));
  }
  return sockets;
}

function socketOn(family: 4 | 6, address: Address): Promise<Socket | undefined> {
  const socket = createSocket(`udp${family}`);
  return new Promise((resolve) => {
    socket.once("error", () => resolve(undefined));
    socket.bind(port, address, () => resolve(socket));
  });
}

/** A sender is told at once if its own machine's rules drop a packet. */
function isDropped(socket: Socket, to: Address): Promise<boolean> {
  return new Promise((resolve, reject) =>
    socket.send("x", port, to, (error) => {
      if (!error) resolve(false);
      else if ((error as NodeJS.ErrnoException).code === "EPERM") resolve(true);
      else reject(error);
    }),
  );
}

async function tryPlans(backend: Backend, sockets: readonly Map<Address, Socket>[]): Promise<void> {
  const kernel = await open(backend);
  const plans = fc.sample(anyPlan(), { numRuns: 30, seed: Number(process.env.SEED ?? Date.now()) });
  for (const [at, plan] of plans.entries()) {
    await kernel.apply("flows", plan);
    const blocked = blockedBy(plan);
    for (const each of sockets) {
      for (const [source, socket] of each) {
        for (const destination of each.keys()) {
          const dropped = await isDropped(socket, destination);
          const told = kernel.explain("flows", { source, destination });
          assert.is(told.verdict === "drop", dropped, `explained: ${source} ${destination}\n${show(plan)}`);
          assert.ok(told.reasons.every(({ kind, places }) => kind === "exempt" || places.length > 0));
          assert.is(
            dropped,
            blocked(source, destination),
            `plan ${at}: ${source} ${destination}\n${show(plan)}`,
          );
        }
      }
    }
    if (at % 10 === 9) assert.equal(await kernel.verify(), [], show(plan));
  }
  kernel.close();
  const grown = await shown[backend]();
  await sh("nft flush ruleset");
  if (backend === "ipset") await sh("ipset destroy");
  await sh(`sh ${boot} ${stateOf(backend)}`);
  assert.is(bare(await shown[backend]()), bare(grown));
}

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);

  it("drops what the plan says after any row of plans, and holds what loading the last one afresh gives", async () => {
    await wipe();
    await sh(
      "ip -batch -",
      everywhere.map((each) => `addr replace ${each} dev lo${each.includes(":") ? " nodad" : ""}`),
    );
    const sockets = [await socketsOf(4), await socketsOf(6)];
    try {
      await tryPlans(backend, sockets);
    } finally {
      for (const each of sockets) for (const socket of each.values()) socket.close();
    }
  });

  it.run();
}

/** Without the order of lines, and the sizes that hash tables have grown to. */
function bare(text: string): string {
  const words = text.replace(/[ \t]+/g, " ").replace(/ hashsize \d+/g, "");
  // Elements of a set come in the order of their hashes, several to a line.
  const elements = words.replace(
    /elements = \{([^}]*)\}/g,
    (_, list: string) =>
      `elements ${list
        .split(/,\s*/)
        .map((each) => each.trim())
        .sort()
        .join(", ")}`,
  );
  return elements.split("\n").sort().join("\n");
}

const last = suite("the end");
last("all is taken down", close);
last.run();
