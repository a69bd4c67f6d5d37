/**
 * Isolation as a whole, with the agent in a router, on both back ends: whatever is connected, disconnected, restarted
 * and made privileged, exactly that passes and resolves which was given, in every direction, protocol and family.
 *
 * SEED=… repeats a run, STEPS=… makes it longer.
 */

import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Town } from "../lab/services.ts";
import { type Direction, Model, names } from "./model.ts";
import { randomOf, seed } from "./trial.ts";

const steps = Number(process.env.STEPS ?? 3);
const portLists = [undefined, undefined, ["tcp/80"], ["udp/80", "icmp"], ["tcp/443", "udp/80"]];
const directions: readonly Direction[] = ["both", "both", "out", "in"];

for (const backend of ["nft", "ipset"] as const) {
  const it = suite(backend);

  it("passes and resolves what was given, after any sequence of commands", async () => {
    const town = await Town.up({ backend });
    const random = randomOf(seed);
    const model = new Model(town);
    const pick = <T>(list: readonly T[]) => list[Math.floor(random() * list.length)]!;
    const two = (): [string, string] => {
      const one = pick(names);
      return [one, pick(names.filter((name) => name !== one))];
    };
    const done: string[] = [];
    const act = async (): Promise<void> => {
      const [one, other] = two();
      const dice = random();
      if (dice < 0.45) {
        const [ports, direction] = [pick(portLists), pick(directions)];
        done.push(`connect ${one} ${other} ${direction} ${ports ?? "all"}`);
        await town.connect(one, [other], { direction, ...(ports && { ports }) });
        model.connect(one, other, { ports, direction });
      } else if (dice < 0.65) {
        const peer = random() < 0.6 ? other : undefined;
        done.push(`disconnect ${one} ${peer ?? ""}`);
        await town.disconnect(one, peer);
        model.disconnect(one, peer);
      } else if (dice < 0.75) {
        done.push("restart app");
        await town.restart("app");
      } else if (dice < 0.95) {
        const isOn = random() < 0.6;
        done.push(`${isOn ? "privileged" : "no longer privileged"} ${one}`);
        await town.call("privileged", isOn ? { name: one } : { name: one, remove: true });
        model.privilege(one, isOn);
      } else {
        done.push("kill and start the agent");
        const before = await model.now();
        await town.lab.agent.kill();
        await model.packets(`${done.join(", ")}; seed ${seed}, no agent`, before);
        await town.lab.agent.start();
        assert.equal(await model.now(), before, "stand-ins stay");
      }
    };
    try {
      await model.check("nothing is given at first");
      for (let step = 0; step < steps; step++) {
        for (let left = 1 + Math.floor(random() * 4); left > 0; left--) await act();
        await model.check(`${done.join(", ")}; seed ${seed}`);
      }
      assert.equal(await town.damaged(), []);
    } catch (thrown) {
      console.log(town.lab.agent.log.slice(-2_000));
      throw thrown;
    } finally {
      await town.close();
    }
  });

  it.run();
}
