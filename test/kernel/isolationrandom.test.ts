/** Plans of isolation at random, one after the other, on the real kernel: every ordered pair is tried after each. */

import fc from "fast-check";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { emptyIsolation, type IsolationPlan, type Ports } from "../../src/kernel/kernel.ts";
import { closed, internet, Quarter, routes, type Service, services, standinOf, tryAll } from "./quarter.ts";
import { boot, clean, open, shown, stateOf } from "./rig.ts";
import { sh } from "./street.ts";

const pairs = services.flatMap((from) =>
  services.flatMap((to) => (from === to ? [] : [[from, to] as const])),
);
const anyPorts: fc.Arbitrary<readonly Ports[] | undefined> = fc.option(
  fc.constantFrom<readonly Ports[]>(
    [{ protocol: "udp", first: 80, last: 80 }],
    [
      { protocol: "udp", first: 1, last: 300 },
      { protocol: "tcp", first: 80, last: 443 },
    ],
    [{ protocol: "udp", first: 443, last: 443 }, { protocol: "icmp" }],
    [],
  ),
  { nil: undefined },
);

/** Some ordered pairs, with ports or without, and an exit. */
const anyPlan: fc.Arbitrary<IsolationPlan> = fc
  .record({
    open: fc.subarray(pairs),
    ports: fc.array(anyPorts, { minLength: 1, maxLength: 4 }),
    exits: fc.subarray([...services], { maxLength: 2 }),
  })
  .map(({ open: chosen, ports, exits }) => ({
    ...closed,
    routes: chosen.flatMap(([from, to], at) => routes(from, to, ports[at % ports.length])),
    outside: exits.flatMap((from: Service) =>
      ([4, 6] as const).map((family) => ({
        device: from.device,
        source: from[family],
        standin: standinOf(from, internet, family),
        target: internet[family],
      })),
    ),
  }));

let built: Quarter | undefined;

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);
  it("passes what the plan says after any row of plans, and holds what loading the last one afresh gives", async () => {
    built ??= await Quarter.build();
    await clean();
    const kernel = await open(backend);
    const seed = Number(process.env.SEED ?? Date.now());
    for (const [at, plan] of fc.sample(anyPlan, { numRuns: 4, seed }).entries()) {
      await kernel.apply("isolation", plan);
      assert.equal(await kernel.verify(), [], `seed ${seed}, plan ${at}`);
      await tryAll(built, plan, { quick: true });
    }
    kernel.close();
    const grown = await shown[backend]();
    await sh("nft flush ruleset");
    if (backend === "ipset") await sh("ipset destroy");
    await sh(`sh ${boot} ${stateOf(backend)}`);
    assert.is(bare(await shown[backend]()), bare(grown), `seed ${seed}`);
    const next = await open(backend);
    await next.apply("isolation", emptyIsolation);
    assert.not(/gatehouse|gh-/.test(await shown[backend]()), "nothing is left");
  });
  it.run();
}

/** Without order and sizes: elements come in the order of their hashes. */
function bare(text: string): string {
  return text
    .replace(/ hashsize \d+/g, "")
    .split(/\n|,|[{}]/)
    .map((line) => line.trim())
    .filter(Boolean)
    .sort()
    .join("\n");
}

const last = suite("the end");
last("all is taken down", async () => {
  await clean();
  await built?.close();
});
last.run();
