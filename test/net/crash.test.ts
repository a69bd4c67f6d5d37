/**
 * Crashes: whatever happens to agent, router and disk, what was acknowledged holds.
 *
 * After each crash the agent must agree with the model of trial.ts, every device must have the id that it had,
 * and no datagram ever gets past a block, also while a router boots that forwards before the agent is there.
 * CRASHES says how many there are (200 by default).
 */

import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { eventually, must, run } from "../lab/children.ts";
import { paths, servers } from "../lab/topology.ts";
import { begin, idOf, Trial } from "./trial.ts";

const crashes = Number(process.env.CRASHES ?? 200);
test(`kill -9 at ${crashes} random moments, with reboots: every acknowledged block holds and every id stays`, async () => {
  const { trial, pairs } = await begin("nft");
  try {
    for (let round = 1; round <= crashes; round++) {
      await trial.decideAndDie(pairs);
      // The new router forwards as soon as its cables are in, long before the agent is there.
      if (round % 25 === 0) await trial.reboot();
      else await trial.start();
      await trial.agree(`round ${round}`);
    }
    await trial.proveSilence();
  } finally {
    await trial.end();
  }
});

test("ipset: kill -9 and reboot: every acknowledged block holds and every id stays", async () => {
  const { trial, pairs } = await begin("ipset");
  try {
    for (let round = 1; round <= 16; round++) {
      await trial.decideAndDie(pairs);
      if (round % 4 === 0) await trial.reboot();
      else await trial.start();
      await trial.agree(`round ${round}`);
    }
    await trial.proveSilence();
  } finally {
    await trial.end();
  }
});

test("a damaged state file is reported and costs no acknowledged block and no id", async () => {
  const { trial, pairs } = await begin("nft");
  try {
    for (const pair of pairs.slice(0, 3)) await trial.block(pair);
    await trial.agree("before");
    const damages: ((path: string) => void)[] = [
      (path) => truncateSync(path, Math.floor(trial.random() * readFileSync(path).length)),
      (path) =>
        writeFileSync(path, Buffer.from(Array.from({ length: 500 }, () => Math.floor(trial.random() * 256)))),
      (path) => writeFileSync(path, '{"version": 99, "state": {"__proto__": []}}'),
    ];
    for (const damage of damages) {
      for (const name of ["flows.json", "nodes.json"]) {
        await trial.kill();
        damage(join(paths.state, name));
        trial.log = "";
        await trial.start();
        assert.match(trial.log, name);
        const status = (await trial.ubus.call("gatehouse", "status")) as { damaged: string[] };
        assert.ok(status.damaged.some((line) => line.includes(name)));
        await trial.agree(`damaged ${name}`);
      }
    }
    for (const damage of damages) {
      damage(join(paths.state, "flows.nft"));
      await trial.reboot();
      await trial.agree("damaged boot text");
    }
    await trial.proveSilence();
  } finally {
    await trial.end();
  }
});

test("a full disk refuses the decision, keeps what is acknowledged, and is told", async () => {
  const disk = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", paths.state];
  const trial = await Trial.begin({}, () => {
    mkdirSync(paths.state, { recursive: true });
    return must(disk);
  });
  const { lab } = trial;
  try {
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const [node1, node2] = [await idOf(lab, "10.77.0.10"), await idOf(lab, servers.web.address4)];
    assert.is((await trial.ubus.call("spin", "blockflow", { node1, node2, block: 1 })).return, 0);
    await stream.isCut();
    await lab.exec("router", ["sh", "-c", `head -c 500000 /dev/zero > ${paths.state}/ballast`]);
    const other = await lab.stream({ from: "camera", to: servers.web.address4, kind: "udp" });
    const camera = await idOf(lab, "10.77.0.11");
    const refused = await trial.ubus.call("spin", "blockflow", { node1: camera, node2, block: 1 }).then(
      () => undefined,
      (fault) => fault,
    );
    assert.ok(refused, "a decision that is not durable was acknowledged");
    assert.ok(((await trial.ubus.call("gatehouse", "status")) as { storage: string[] }).storage.length > 0);
    await trial.kill();
    await trial.start();
    const { result } = (await trial.ubus.call("spin", "get_blockflow")) as unknown as {
      result: { node1: number; node2: number }[];
    };
    assert.ok(
      result.some((pair) => pair.node1 === Math.min(node1, node2) && pair.node2 === Math.max(node1, node2)),
    );
    await stream.isCut();
    await lab.must("router", ["rm", `${paths.state}/ballast`]);
    await eventually(
      "the state on disk again",
      async () =>
        ((await trial.ubus.call("gatehouse", "status")) as { storage: string[] }).storage.length === 0,
      90_000,
    );
    await other.end();
  } finally {
    await trial.kill();
    await run(["umount", "--lazy", paths.state]);
    await trial.end();
  }
});

test("a read-only disk does not keep the agent from running, and refuses decisions that would not last", async () => {
  const disk = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", paths.state];
  const trial = await Trial.begin({}, () => {
    mkdirSync(paths.state, { recursive: true });
    return must(disk);
  });
  const { lab } = trial;
  try {
    const stream = await lab.stream({ from: "laptop", to: servers.web.address4, kind: "udp" });
    const [node1, node2] = [await idOf(lab, "10.77.0.10"), await idOf(lab, servers.web.address4)];
    const refused = await trial.ubus
      .call("spin", "blockflow", { node1, node2, block: 1 })
      .catch((thrown: Error) => thrown);
    assert.instance(refused, Error);
    // What could be done is done: it is blocked until the next start.
    await stream.isCut();
    const { storage } = (await trial.ubus.call("gatehouse", "status")) as { storage: string[] };
    assert.ok(storage.length > 0);
  } finally {
    await trial.kill();
    await run(["umount", "--lazy", paths.state]);
    await trial.end();
  }
});

test.run();
